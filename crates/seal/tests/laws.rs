//! Laws of sealing: what was sealed opens to the same bytes, and nothing else opens at all, or panics.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use seal::{
    CHUNK_BYTES, Compression, DataKey, Digester, FRAME_HEADER_BYTES, HEADER_BYTES, KeyId, ObjectKind, OpenObject, Opener, Protection, RepositoryId,
    SealError, SealedObject, Sealer, StreamOpener, StreamSealer, frame_bytes, open_whole, seal_whole,
};

const PATH: &str = "wal/7412345678901234567/00000001/000000010000000A000000C3";
const ELSEWHERE: &str = "wal/7412345678901234567/00000001/000000010000000A000000C4";
const KIND: ObjectKind = ObjectKind::WalSegment;
const CODECS: [Compression; 4] = [Compression::None, Compression::Lz4, Compression::Zstd(1), Compression::Zstd(-5)];

/// One repository, one key, one way of protecting.
#[derive(Debug, Clone)]
struct Ground {
    repository: RepositoryId,
    protection: Protection,
}

impl Ground {
    fn sealed() -> Self {
        Self { repository: RepositoryId::random(), protection: Protection::Sealed(DataKey::random()) }
    }
    fn plain() -> Self {
        Self { protection: Protection::Plain, ..Self::sealed() }
    }
    fn begin(&self, path: &str) -> SealedObject {
        SealedObject::begin(&self.protection, KIND, &self.repository, path)
    }
    fn seal(&self, compression: Compression, plain: &[u8]) -> Vec<u8> {
        seal_whole(self.begin(PATH), compression, plain).expect("sealing succeeds")
    }
    fn object_as(&self, kind: ObjectKind, repository: &RepositoryId, path: &str, header: &[u8]) -> Result<OpenObject, SealError> {
        OpenObject::open(header, kind, repository, path, false, |id| self.key(id))
    }
    fn object(&self, header: &[u8]) -> Result<OpenObject, SealError> {
        self.object_as(KIND, &self.repository, PATH, header)
    }
    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        open_whole(self.object(sealed)?, sealed)
    }
    fn key(&self, wanted: KeyId) -> Option<DataKey> {
        match &self.protection {
            Protection::Sealed(key) if key.id() == wanted => Some(key.clone()),
            _ => None,
        }
    }
}

/// Bytes that compress somewhat, like pages: runs of a few values between noise.
fn content(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut step = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::with_capacity(length + 64);
    while bytes.len() < length {
        let word = step();
        match word % 3 {
            0 => bytes.extend_from_slice(&word.to_le_bytes()),
            _ => bytes.extend(std::iter::repeat_n((word >> 32) as u8 % 4, (word >> 8) as usize % 48)),
        }
    }
    bytes.truncate(length);
    bytes
}

fn compression() -> impl Strategy<Value = Compression> {
    proptest::sample::select(CODECS.to_vec())
}

fn ground() -> impl Strategy<Value = Ground> {
    any::<bool>().prop_map(|sealed| if sealed { Ground::sealed() } else { Ground::plain() })
}

/// Lengths around the chunk's, where mistakes live, and any others up to 3 MiB.
fn length() -> impl Strategy<Value = usize> {
    let edges = vec![0, 1, 15, 16, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES];
    prop_oneof![proptest::sample::select(edges), 0..3 * CHUNK_BYTES]
}

/// Where each frame of a whole object lies.
fn frames(sealed: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut at, mut found) = (HEADER_BYTES, Vec::new());
    while at < sealed.len() {
        let end = at + frame_bytes(&sealed[at..]).expect("a whole frame");
        found.push(at..end);
        at = end;
    }
    found
}

fn joined(sealed: &[u8], order: &[std::ops::Range<usize>]) -> Vec<u8> {
    order.iter().fold(sealed[..HEADER_BYTES].to_vec(), |mut all, frame| {
        all.extend_from_slice(&sealed[frame.clone()]);
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_sealed_opens_to_the_same_bytes(ground in ground(), how in compression(), length in length(), seed: u64) {
        let plain = content(length, seed);
        let sealed = ground.seal(how, &plain);
        prop_assert_eq!(frames(&sealed).len(), length.div_ceil(CHUNK_BYTES).max(1));
        prop_assert!(sealed.len() <= HEADER_BYTES + length + 32 * frames(&sealed).len());
        prop_assert!(ground.open(&sealed).unwrap() == plain);
    }

    #[test]
    fn an_object_may_arrive_and_be_written_in_any_pieces(ground in ground(), how in compression(), length in 0..3 * CHUNK_BYTES, seed: u64, cuts in vec(any::<Index>(), 0..40)) {
        let plain = content(length, seed);
        let cut = |whole: &[u8]| {
            let mut at: Vec<usize> = cuts.iter().map(|i| i.index(whole.len() + 1)).chain([0, whole.len()]).collect();
            at.sort_unstable();
            at.windows(2).map(|w| whole[w[0]..w[1]].to_vec()).collect::<Vec<_>>()
        };
        let object = ground.begin(PATH);
        let mut sealed = object.header().to_vec();
        let mut append = |chunk: seal::SealedChunk<'_>| -> Result<(), SealError> {
            sealed.extend_from_slice(chunk.bytes());
            Ok(())
        };
        let mut sealer = StreamSealer::begin(object, how).unwrap();
        for piece in cut(&plain) {
            sealer.push(&piece, &mut append).unwrap();
        }
        sealer.finish(&mut append).unwrap();
        let mut opener = StreamOpener::begin(ground.object(&sealed).unwrap()).unwrap();
        let mut found = Vec::new();
        for piece in cut(&sealed[HEADER_BYTES..]) {
            opener.push(&piece, |bytes| -> Result<(), SealError> {
                found.extend_from_slice(bytes);
                Ok(())
            }).unwrap();
        }
        opener.finish().unwrap();
        prop_assert!(found == plain);
    }

    #[test]
    fn an_object_cut_short_or_with_something_behind_it_is_refused(ground in ground(), length in length(), seed: u64, at: Index, more in vec(any::<u8>(), 1..80)) {
        let sealed = ground.seal(Compression::Zstd(1), &content(length, seed));
        prop_assert!(ground.open(&sealed[..at.index(sealed.len())]).is_err());
        prop_assert!(ground.open(&[&sealed[..], &more].concat()).is_err());
    }

    #[test]
    fn frames_that_are_missing_doubled_or_in_another_order_are_refused(ground in ground(), seed: u64, first: Index, second: Index) {
        let sealed = ground.seal(Compression::Lz4, &content(3 * CHUNK_BYTES + 7, seed));
        let whole = frames(&sealed);
        prop_assert_eq!(whole.len(), 4);
        let (first, second) = (first.index(4), second.index(4));
        let mut swapped = whole.clone();
        swapped.swap(first, second);
        prop_assert_eq!(ground.open(&joined(&sealed, &swapped)).is_ok(), first == second);
        let mut missing = whole.clone();
        missing.remove(first);
        prop_assert!(ground.open(&joined(&sealed, &missing)).is_err());
        let mut doubled = whole.clone();
        doubled.insert(second, whole[first].clone());
        prop_assert!(ground.open(&joined(&sealed, &doubled)).is_err());
    }

    #[test]
    fn a_frame_of_another_attempt_at_the_same_object_is_refused(ground in ground(), seed: u64, which: Index) {
        let plain = content(2 * CHUNK_BYTES, seed);
        let (one, other) = (ground.seal(Compression::None, &plain), ground.seal(Compression::None, &plain));
        let frame = frames(&one)[which.index(2)].clone();
        let mut mixed = one.clone();
        mixed[frame.clone()].copy_from_slice(&other[frame]);
        prop_assert!(ground.open(&mixed).is_err());
    }

    #[test]
    fn garbage_never_panics(ground in ground(), bytes in vec(any::<u8>(), 0..300), behind_a_header: bool) {
        let object = ground.begin(PATH);
        let bytes = if behind_a_header { [&object.header()[..], &bytes].concat() } else { bytes };
        prop_assert!(ground.open(&bytes).is_err());
        let _ = frame_bytes(&bytes);
        let _ = OpenObject::key_named(&bytes);
        let mut copy = bytes.clone();
        let opened = ground.object(object.header()).unwrap();
        prop_assert!(Opener::new().unwrap().open(&opened, &mut copy, &mut Vec::new()).is_err());
    }
}

#[test]
fn any_flipped_bit_is_found_wherever_it_is() {
    for ground in [Ground::sealed(), Ground::plain()] {
        for how in CODECS {
            let sealed = ground.seal(how, &content(150, 7));
            for bit in 0..sealed.len() * 8 {
                let mut flipped = sealed.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(ground.open(&flipped).is_err(), "{how}, bit {bit}, {:?}", ground.protection);
            }
        }
    }
}

#[test]
fn an_object_opens_only_as_itself_where_it_was_written() {
    for ground in [Ground::sealed(), Ground::plain()] {
        let sealed = ground.seal(Compression::Zstd(1), b"the log");
        let open = |kind, repository: &RepositoryId, path| open_whole(ground.object_as(kind, repository, path, &sealed)?, &sealed);
        assert_eq!(open(KIND, &ground.repository, PATH).unwrap(), b"the log");
        assert!(open(KIND, &ground.repository, ELSEWHERE).is_err(), "another path");
        assert!(open(KIND, &RepositoryId::random(), PATH).is_err(), "another repository");
        assert!(matches!(open(ObjectKind::Manifest, &ground.repository, PATH), Err(SealError::WrongKind { .. })), "another kind");
        let mut renamed = sealed.clone();
        renamed[8] = ObjectKind::Manifest as u8;
        let posing = ground.object_as(ObjectKind::Manifest, &ground.repository, PATH, &renamed).and_then(|o| open_whole(o, &renamed));
        assert!(posing.is_err(), "a kind that was written over");
    }
}

#[test]
fn a_plain_object_is_refused_where_everything_is_sealed() {
    let (sealed, plain) = (Ground::sealed(), Ground::plain());
    let object = plain.seal(Compression::None, b"as if it were sealed");
    let opened = OpenObject::open(&object, KIND, &plain.repository, PATH, true, |id| sealed.key(id));
    assert!(matches!(opened, Err(SealError::Unsealed)));
    let mut stripped = sealed.seal(Compression::None, b"once sealed");
    stripped[9] = 0;
    assert!(matches!(OpenObject::open(&stripped, KIND, &sealed.repository, PATH, true, |id| sealed.key(id)), Err(SealError::Unsealed)));
    assert!(sealed.open(&stripped).is_err(), "nor does it open where plain objects are welcome");
}

#[test]
fn a_newer_format_and_a_missing_key_are_told_apart_from_damage() {
    let ground = Ground::sealed();
    let mut newer = ground.seal(Compression::None, b"x");
    newer[7] = 2;
    assert!(matches!(ground.open(&newer), Err(SealError::NewerFormat { found: 2, known: 1 })));
    let other = Ground { protection: Protection::Sealed(DataKey::random()), ..ground.clone() };
    assert!(matches!(other.open(&ground.seal(Compression::None, b"x")), Err(SealError::NoKey { .. })));
}

#[test]
fn a_frame_is_believed_neither_its_size_nor_its_flags_before_they_are_proven() {
    let head = |stored: u32, plain: u32, codec: u8, flags: u8| {
        let mut head = [0u8; FRAME_HEADER_BYTES];
        head[..4].copy_from_slice(&stored.to_le_bytes());
        head[4..8].copy_from_slice(&plain.to_le_bytes());
        head[12..14].copy_from_slice(&[codec, flags]);
        head
    };
    assert_eq!(frame_bytes(&head(16 + (16 << 20), 16 << 20, 0, 1)).unwrap(), 32 + (16 << 20));
    for wrong in [head(15, 0, 0, 0), head(17, 0, 0, 0), head(u32::MAX, u32::MAX, 0, 0), head(16, (16 << 20) + 1, 1, 0), head(16, 16, 1, 2)] {
        assert!(matches!(frame_bytes(&wrong), Err(SealError::Malformed { .. })), "{wrong:?}");
    }
    assert!(Sealer::new(Compression::None).unwrap().seal(&Ground::plain().begin(PATH), 0, true, &vec![0; (16 << 20) + 1]).is_err());
}

#[test]
fn digests_need_the_same_key_to_agree() {
    let (key, other) = ([1u8; 32], [2u8; 32]);
    let of = |mut digester: Digester| digester.digest(b"a page");
    assert_eq!(of(Digester::keyed(&key)), of(Digester::keyed(&key)));
    assert_ne!(of(Digester::keyed(&key)), of(Digester::keyed(&other)));
    assert_ne!(of(Digester::keyed(&key)), of(Digester::plain()));
    let digest = of(Digester::plain());
    assert_eq!(digest.to_string().parse::<seal::Digest>().unwrap(), digest);
}
