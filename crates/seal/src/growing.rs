//! Objects that grow: frames are added one at a time, each durable before the next, and no frame is the last.
//!
//! Only what was added last can be torn. So where such an object ends is known exactly, and damage is told from an end: a frame
//! that does not open is an end when it is cut short or parts of it never reached the disk, and damage otherwise.

use crate::SealError;
use crate::frame::{FRAME_HEADER_BYTES, Opener, SealedChunk, Sealer, frame_bytes};
use crate::object::{HEADER_BYTES, OpenObject, SealedObject};
use crate::stream::after;
use crate::{CHUNK_BYTES, Compression};

/// A stretch of zeros of this length is no ciphertext: blocks that a power loss kept from the disk read as zeros.
const NEVER_WRITTEN: usize = 16;

/// So many zero bytes a whole frame may end in: four of them, in a tag, come once in four thousand million.
const ZEROS_AT_ITS_END: usize = 3;

/// Fewer bytes are stored as they are: a commit's worth gains less than compressing it takes.
const COMPRESSED_FROM_BYTES: usize = 1024;

/// Seals what is added to a growing object.
pub struct GrowingSealer {
    object: SealedObject,
    sealer: Sealer,
    small: Sealer,
    number: u32,
}

impl GrowingSealer {
    /// Begins; the object's header must be written before the first frame.
    pub fn begin(object: SealedObject, compression: Compression) -> Result<Self, SealError> {
        Ok(Self { object, sealer: Sealer::new(compression)?, small: Sealer::new(Compression::None)?, number: 0 })
    }

    /// The object's header.
    pub fn header(&self) -> &[u8; HEADER_BYTES] {
        self.object.header()
    }

    /// Seals the next frame: 1 byte to [`CHUNK_BYTES`]. It must be added to the object, or the object given up: its number is spent.
    pub fn seal(&mut self, plain: &[u8]) -> Result<SealedChunk<'_>, SealError> {
        let number = self.number;
        if plain.is_empty() || plain.len() > CHUNK_BYTES {
            return Err(SealError::Malformed { number, what: "a growing object's frame of no bytes or of more than a chunk" });
        }
        self.number = after(number)?;
        let sealer = if plain.len() < COMPRESSED_FROM_BYTES { &mut self.small } else { &mut self.sealer };
        sealer.seal(&self.object, number, false, plain)
    }
}

/// What a growing object holds.
#[derive(Debug)]
pub struct Grown {
    /// The plain bytes of all frames that opened, in order.
    pub plain: Vec<u8>,
    /// Why no more did, when that is not where the object ends.
    pub damage: Option<SealError>,
}

/// Opens a growing object; `sealed` begins with the header that `object` was made from. What was being added when the writer
/// ended is left out.
pub fn open_growing(object: &OpenObject, sealed: &[u8]) -> Result<Grown, SealError> {
    let mut opener = Opener::new()?;
    let (mut plain, mut chunk, mut number, mut at) = (Vec::new(), Vec::new(), 0, HEADER_BYTES);
    while at < sealed.len() {
        match open(&mut opener, object, &sealed[at..], number, &mut chunk) {
            Ok(bytes) => at += bytes,
            Err(_) if is_torn(&mut opener, object, &sealed[at..], number) && !goes_on(&mut opener, object, &sealed[at..], number) => {
                break;
            }
            Err(why @ SealError::Library { .. }) => return Err(why),
            Err(why) => return Ok(Grown { plain, damage: Some(why) }),
        }
        plain.extend_from_slice(&chunk);
        number = after(number)?;
    }
    Ok(Grown { plain, damage: None })
}

/// Opens the frame that `sealed` begins with, which must bear this number and not be a last one; how many bytes it takes.
fn open(opener: &mut Opener, object: &OpenObject, sealed: &[u8], number: u32, plain: &mut Vec<u8>) -> Result<usize, SealError> {
    let bytes = frame_bytes(sealed)?;
    let mut frame = sealed.get(..bytes).ok_or(SealError::Short { number })?.to_vec();
    let info = opener.open(object, &mut frame, plain)?;
    match (info.number == number, info.last) {
        (true, false) => Ok(bytes),
        (false, _) => Err(SealError::OutOfOrder { number }),
        (true, true) => Err(SealError::Malformed { number, what: "a last frame in an object that has none" }),
    }
}

/// Whether a frame that does not open was never written in full: it is cut short, or lacks blocks.
fn is_torn(opener: &mut Opener, object: &OpenObject, rest: &[u8], number: u32) -> bool {
    let Ok(bytes) = frame_bytes(rest) else {
        // A header that is no header: cut short, or not written.
        return rest.len() < FRAME_HEADER_BYTES || rest[..FRAME_HEADER_BYTES].iter().all(|byte| *byte == 0);
    };
    match rest.get(FRAME_HEADER_BYTES..bytes) {
        Some(body) if !body.chunk_by(|a, b| a == b).any(|run| run[0] == 0 && run.len() >= NEVER_WRITTEN) => false,
        _ => !ends_here(opener, object, rest, number),
    }
}

/// Whether the frame is whole after all and only its length is damaged, so that it looks cut short or followed by zeros that it
/// would take in.
fn ends_here(opener: &mut Opener, object: &OpenObject, rest: &[u8], number: u32) -> bool {
    let written = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    // It may end in zeros itself, but hardly ever in more than this.
    (written..=rest.len().min(written + ZEROS_AT_ITS_END)).filter(|end| *end > FRAME_HEADER_BYTES).any(|end| {
        let mut frame = rest[..end].to_vec();
        let length = u32::try_from(end - FRAME_HEADER_BYTES).unwrap_or(0);
        frame[..4].copy_from_slice(&length.to_le_bytes());
        open(opener, object, &frame, number, &mut Vec::new()).is_ok()
    })
}

/// Whether a later frame follows somewhere: then the one with this number was whole once.
fn goes_on(opener: &mut Opener, object: &OpenObject, rest: &[u8], number: u32) -> bool {
    let (mut at, mut chunk) = (1, Vec::new());
    while let Some(header) = rest.get(at..at + FRAME_HEADER_BYTES) {
        let found = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        // The number first: it alone rules out nearly every place.
        if found > number && found - number <= 4096 && open(opener, object, &rest[at..], found, &mut chunk).is_ok() {
            return true;
        }
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataKey, KeyId, ObjectKind, Protection, RepositoryId, random_bytes};

    const PATH: &str = "wal/1/00000001/000000010000000000000001.pieces/0000000001000000-00000007.log";

    struct Ground {
        key: DataKey,
        repository: RepositoryId,
        sealed: Vec<u8>,
        /// Where each frame begins, and where the last one ends.
        frames: Vec<usize>,
    }

    fn ground(protection: impl Fn(&DataKey) -> Protection, parts: &[&[u8]]) -> Ground {
        let key = DataKey::from_bytes(KeyId::from_bytes([1; 16]), zeroize::Zeroizing::new(random_bytes()));
        let repository = RepositoryId::from_bytes([2; 16]);
        let object = SealedObject::begin(&protection(&key), ObjectKind::WalLog, &repository, PATH);
        let mut sealer = GrowingSealer::begin(object, Compression::default()).unwrap();
        let mut sealed = sealer.header().to_vec();
        let mut frames = vec![sealed.len()];
        for part in parts {
            sealed.extend_from_slice(sealer.seal(part).unwrap().bytes());
            frames.push(sealed.len());
        }
        Ground { key, repository, sealed, frames }
    }

    fn sealed_ground(parts: &[&[u8]]) -> Ground {
        ground(|key| Protection::Sealed(key.clone()), parts)
    }

    fn opened(ground: &Ground, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let object = OpenObject::open(sealed, ObjectKind::WalLog, &ground.repository, PATH, false, |_| Some(ground.key.clone()))?;
        let Grown { plain, damage } = open_growing(&object, sealed)?;
        damage.map_or(Ok(plain), Err)
    }

    #[test]
    fn what_was_added_comes_back_up_to_wherever_it_is_cut() {
        for protection in [(|key: &DataKey| Protection::Sealed(key.clone())) as fn(&DataKey) -> Protection, |_| Protection::Plain] {
            let ground = ground(protection, &[b"one", &[7; 5000], b"three"]);
            let whole = [&b"one"[..], &[7; 5000], b"three"].concat();
            assert_eq!(opened(&ground, &ground.sealed).unwrap(), whole);
            let lengths = [0, 3, 5003, 5008];
            for end in HEADER_BYTES..ground.sealed.len() {
                let frames = ground.frames.iter().filter(|at| **at <= end).count() - 1;
                assert_eq!(opened(&ground, &ground.sealed[..end]).unwrap(), whole[..lengths[frames]], "cut at {end}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_damage_and_never_an_end() {
        let ground = sealed_ground(&[b"one", b"two and a half", b"three"]);
        for at in 0..ground.sealed.len() {
            for bit in 0..8 {
                let mut sealed = ground.sealed.clone();
                sealed[at] ^= 1 << bit;
                assert!(opened(&ground, &sealed).is_err(), "bit {bit} of byte {at} went unnoticed");
            }
        }
    }

    #[test]
    fn zeros_written_ahead_are_no_frames_and_hide_no_damage() {
        let ground = sealed_ground(&[b"one", b"two and a half", b"three"]);
        let ahead = [&ground.sealed[..], &[0; 5000]].concat();
        assert_eq!(opened(&ground, &ahead).unwrap(), b"onetwo and a halfthree");
        for at in 0..ground.sealed.len() {
            for bit in 0..8 {
                let mut sealed = ahead.clone();
                sealed[at] ^= 1 << bit;
                assert!(opened(&ground, &sealed).is_err(), "bit {bit} of byte {at} went unnoticed");
            }
        }
        let mut torn = ahead.clone();
        torn[ground.frames[2] + 10..].fill(0);
        assert_eq!(opened(&ground, &torn).unwrap(), b"onetwo and a half");
    }

    #[test]
    fn blocks_that_never_reached_the_disk_are_an_end_in_the_last_frame_alone() {
        let ground = sealed_ground(&[b"one", &random_bytes::<32>(), &[random_bytes::<32>(), random_bytes()].concat()]);
        let mut torn = ground.sealed.clone();
        let from = ground.frames[2] + 40;
        torn[from..].fill(0);
        assert_eq!(opened(&ground, &torn).unwrap().len(), 35);
        torn[ground.frames[2]..].fill(0);
        assert_eq!(opened(&ground, &torn).unwrap().len(), 35);
        let mut holed = ground.sealed.clone();
        holed[ground.frames[1] + 20..ground.frames[2]].fill(0);
        assert!(opened(&ground, &holed).is_err(), "a later frame was added once this one was whole");
    }

    #[test]
    fn frames_of_another_object_do_not_pass() {
        let (one, other) = (sealed_ground(&[b"one", b"two"]), sealed_ground(&[b"one", b"two"]));
        let mixed = [&one.sealed[..one.frames[1]], &other.sealed[other.frames[1]..]].concat();
        assert!(opened(&one, &mixed).is_err());
        let doubled = [&one.sealed[..one.frames[1]], &one.sealed[one.frames[0]..one.frames[1]]].concat();
        assert!(opened(&one, &doubled).is_err());
    }
}
