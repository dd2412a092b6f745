//! Pieces of segments: WAL that is stored before its segment is full, and how pieces make up the beginning of a segment.

use crate::wal::beside;
use crate::{Reader, RepoError, Writer, layout};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use seal::{CHUNK_BYTES, Compression, GrowingSealer, Grown, HEADER_BYTES, ObjectKind, Protection};
use std::fmt;
use store::{Created, Growing, ObjectPath, StoreError};
use terms::{Class, Explain, Lsn, SegmentName, SegmentSize, SystemId, WalName};

/// The bytes from `start` to `end` of one segment, as one session of a receiver stored them.
///
/// A receiver begins a piece only where everything before is stored: a piece that is there proves that whatever comes
/// before it on its timeline was stored once, as far back as that receiver began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Piece {
    /// Which one it is a part of; `start` and `end` lie in it.
    pub segment: SegmentName,
    /// The position of its first byte.
    pub start: Lsn,
    /// Behind its last byte; of a log as far as it was read.
    pub end: Lsn,
    /// Tells sessions apart: no two ever write one object.
    pub session: u32,
    /// Tells also whether `end` is known to be all of it.
    pub form: Form,
}

/// How the bytes of a piece are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// As an object of their own, whose name tells where it ends.
    Object,
    /// As what an object holds that grows, where objects can: how far it goes is known by reading it.
    Log,
    /// As a log that is damaged behind `end`: nobody knows how far it went.
    DamagedLog,
}

/// What follows the name of a log.
const LOG: &str = ".log";

impl Piece {
    /// Its name within the segment's folder: `{start}-{end}-{session}` in hexadecimal, 16, 16 and 8 digits; `{start}-{session}.log` for a log.
    fn name(&self) -> String {
        match self.form {
            Form::Object => format!("{:016X}-{:016X}-{:08x}", self.start.bytes(), self.end.bytes(), self.session),
            Form::Log | Form::DamagedLog => format!("{:016X}-{:08x}{LOG}", self.start.bytes(), self.session),
        }
    }

    /// The inverse of the object's name: `….pieces/{name}`; `None` for anything that is no piece. A log ends where it begins, until
    /// it was read.
    pub(crate) fn parse(folder: &str, name: &str) -> Option<Self> {
        let segment = folder.strip_suffix(layout::PIECES)?.parse().ok()?;
        let (numbers, form) = name.strip_suffix(LOG).map_or((name, Form::Object), |numbers| (numbers, Form::Log));
        let mut parts = numbers.split('-');
        let mut hex = |digits| parts.next().filter(|p| p.len() == digits).and_then(|p| u64::from_str_radix(p, 16).ok());
        let start = hex(16)?;
        let end = if form == Form::Log { start } else { hex(16)? };
        let session = u32::try_from(hex(8)?).ok()?;
        let piece = Self { segment, start: Lsn::from_bytes(start), end: Lsn::from_bytes(end), session, form };
        (parts.next().is_none() && (start < end || form == Form::Log) && piece.name().eq_ignore_ascii_case(name)).then_some(piece)
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}/{}", self.segment, layout::PIECES, self.name())
    }
}

/// The pieces that together reach furthest from `from` without a gap, in order; each begins in or at the end of the one before.
/// None of them is known to be damaged.
pub fn chain(pieces: &[Piece], from: Lsn) -> Vec<Piece> {
    let mut chosen = Vec::new();
    let mut at = from;
    // The furthest of those that begin by now: few steps, and a merged piece makes all before it unneeded.
    let is_sound = |p: &&Piece| p.form != Form::DamagedLog;
    while let Some(next) = pieces.iter().filter(is_sound).filter(|p| p.start <= at && p.end > at).max_by_key(|p| (p.end, p.session)) {
        at = next.end;
        chosen.push(*next);
    }
    chosen
}

impl Writer {
    /// Stores a piece and returns the bytes that it takes in the repository. Equal bytes under its name are fine; other bytes are
    /// a [`RepoError::Conflict`] and stay untouched.
    pub async fn keep_piece(
        &self,
        system: SystemId,
        piece: &Piece,
        plain: Bytes,
        protection: &Protection,
        compression: Compression,
    ) -> Result<u64, RepoError> {
        let path = layout::piece(system, piece);
        let object = self.seal_object(protection, ObjectKind::WalPiece, &path);
        let bytes = plain.clone();
        let sealed = match plain.len() {
            // A commit's worth: quicker done than handed over.
            ..=65_536 => seal::seal_whole(object, compression, &bytes)?,
            _ => beside(move || seal::seal_whole(object, compression, &bytes)).await??,
        };
        let bytes_stored = sealed.len() as u64;
        match self.store.put_new(&path, Bytes::from(sealed)).await? {
            Created::New => Ok(bytes_stored),
            // The session's number is chosen by chance among four thousand million: this is an earlier attempt of its own, whose
            // answer was lost for so long that it was given up.
            Created::AlreadyThere if self.reader().piece_bytes(system, *piece).await?[..] == plain[..] => Ok(bytes_stored),
            Created::AlreadyThere => Err(RepoError::Conflict { name: piece.to_string() }),
        }
    }
}

/// A log that takes the bytes of one segment as they come.
pub struct PieceLog {
    growing: Box<dyn Growing>,
    sealer: GrowingSealer,
    piece: Piece,
}

impl Writer {
    /// Whether pieces can be added to logs here.
    pub fn can_grow(&self) -> bool {
        self.store.can_grow()
    }

    /// Begins a log of a segment at `start`. Blocks.
    pub fn begin_log(
        &self,
        system: SystemId,
        segment: SegmentName,
        start: Lsn,
        session: u32,
        protection: &Protection,
        compression: Compression,
    ) -> Result<PieceLog, RepoError> {
        let piece = Piece { segment, start, end: start, session, form: Form::Log };
        let path = layout::piece(system, &piece);
        let sealer = GrowingSealer::begin(self.seal_object(protection, ObjectKind::WalLog, &path), compression)?;
        Ok(PieceLog { growing: self.store.grow(&path)?, sealer, piece })
    }
}

impl PieceLog {
    /// What it holds.
    pub fn piece(&self) -> &Piece {
        &self.piece
    }

    /// Adds the bytes that come next, durably, and returns how many that takes in the repository. Blocks. After an error the log must be
    /// given up.
    pub fn add(&mut self, plain: &[u8]) -> Result<u64, RepoError> {
        let mut bytes_stored = 0;
        for chunk in plain.chunks(CHUNK_BYTES) {
            let header = (self.piece.start == self.piece.end).then(|| *self.sealer.header());
            let frame = self.sealer.seal(chunk)?;
            match header {
                Some(header) => self.growing.add(&[&header[..], frame.bytes()].concat())?,
                None => self.growing.add(frame.bytes())?,
            }
            bytes_stored += header.map_or(0, |header| header.len() as u64) + frame.bytes().len() as u64;
            self.piece.end = self.piece.end.plus(chunk.len() as u64);
        }
        Ok(bytes_stored)
    }
}

/// How much of a segment is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// All of it.
    Whole(Vec<u8>),
    /// Its beginning, from pieces; at least one byte, and less than a segment.
    Prefix(Vec<u8>),
    /// Nothing.
    Nothing,
}

impl Stored {
    /// As a server reads it: zeros after what is stored, where its log then ends.
    pub fn padded(self, size: SegmentSize) -> Option<Vec<u8>> {
        match self {
            Self::Whole(bytes) => Some(bytes),
            Self::Prefix(mut bytes) => {
                bytes.resize(size.bytes() as usize, 0);
                Some(bytes)
            }
            Self::Nothing => None,
        }
    }
}

impl Reader {
    /// The pieces of a segment, in order of their names.
    pub async fn pieces(&self, system: SystemId, segment: SegmentName) -> Result<Vec<Piece>, RepoError> {
        let folder = layout::pieces_folder(system, segment);
        let listed: Vec<_> = self.store.list(&folder, None).try_collect().await?;
        let named: Vec<Piece> = listed.iter().filter_map(|object| layout::parse_piece(&object.path)).collect();
        let mut pieces = Vec::with_capacity(named.len());
        for piece in named {
            pieces.extend(self.measured(system, piece).await?);
        }
        Ok(pieces)
    }

    /// A segment's plain bytes: the whole object, or else what its pieces make up without a gap. A piece that is needed and
    /// damaged is an error, never a shorter segment.
    pub async fn fetch_segment(&self, system: SystemId, segment: SegmentName, size: SegmentSize) -> Result<Stored, RepoError> {
        if let Some(whole) = self.fetch_wal(system, &WalName::Segment(segment)).await? {
            return Ok(Stored::Whole(whole));
        }
        let start = segment.start(size);
        let mut pieces = self.pieces(system, segment).await?;
        let reach = |pieces: &[Piece]| chain(pieces, start).last().map_or(start, |p| p.end);
        let furthest = reach(&pieces);
        // How far it went nobody knows: what it alone may hold is not left out without a word.
        let is_in_doubt = |p: &&Piece| p.form == Form::DamagedLog && p.start <= furthest && furthest < segment.end(size);
        if let Some(damaged) = pieces.iter().find(is_in_doubt) {
            return match self.fetch_wal(system, &WalName::Segment(segment)).await? {
                Some(whole) => Ok(Stored::Whole(whole)),
                None => Err(self.damage_of(system, *damaged).await),
            };
        }
        if furthest == start {
            // Stored whole and its pieces removed meanwhile?
            return Ok(self.fetch_wal(system, &WalName::Segment(segment)).await?.map_or(Stored::Nothing, Stored::Whole));
        }
        loop {
            let chosen = chain(&pieces, start);
            let opening: Vec<_> = chosen.into_iter().map(|piece| self.open_piece(system, piece)).collect();
            let opened: Vec<_> = futures::stream::iter(opening).buffered(16).collect().await;
            let mut bytes = Vec::with_capacity(furthest.bytes().saturating_sub(start.bytes()) as usize);
            let mut damaged = None;
            for (piece, plain) in opened {
                match plain {
                    Ok(plain) => {
                        let have = (start.bytes() + bytes.len() as u64).saturating_sub(piece.start.bytes()) as usize;
                        bytes.extend_from_slice(&plain[have..]);
                    }
                    Err(e) => {
                        damaged = Some((piece, e));
                        break;
                    }
                }
            }
            let Some((piece, error)) = damaged else {
                return Ok(if bytes.len() as u64 == size.bytes() { Stored::Whole(bytes) } else { Stored::Prefix(bytes) });
            };
            // Another piece may hold the same bytes.
            pieces.retain(|p| *p != piece);
            if reach(&pieces) < furthest {
                return match self.fetch_wal(system, &WalName::Segment(segment)).await? {
                    Some(whole) => Ok(Stored::Whole(whole)),
                    None => Err(error),
                };
            }
        }
    }

    async fn open_piece(&self, system: SystemId, piece: Piece) -> (Piece, Result<Vec<u8>, RepoError>) {
        (piece, self.piece_bytes(system, piece).await)
    }

    pub(crate) async fn piece_bytes(&self, system: SystemId, piece: Piece) -> Result<Vec<u8>, RepoError> {
        let path = layout::piece(system, &piece);
        let length = (piece.end.bytes() - piece.start.bytes()) as usize;
        let mut plain = match piece.form {
            Form::Object => {
                let sealed = self.store.get(&path).await?;
                let object = self.open_object(&path, ObjectKind::WalPiece, &sealed).await?;
                beside(move || seal::open_whole(object, &sealed)).await?.map_err(RepoError::object(&path))?
            }
            Form::Log | Form::DamagedLog => match self.grown(&path).await? {
                Some((plain, None)) => plain,
                Some((_, Some(damage))) => return Err(damage),
                None => return Err(StoreError::Missing { store: self.address(), path: path.to_string() }.into()),
            },
        };
        // A log may have grown since it was measured.
        if plain.len() < length || (plain.len() > length && piece.form == Form::Object) {
            let why = format!("it holds {} bytes, not those from {} to {}", plain.len(), piece.start, piece.end);
            return Err(RepoError::Document { path: path.to_string(), why });
        }
        plain.truncate(length);
        Ok(plain)
    }

    async fn damage_of(&self, system: SystemId, piece: Piece) -> RepoError {
        match self.piece_bytes(system, piece).await {
            Err(damage) => damage,
            Ok(_) => RepoError::Contended { path: layout::piece(system, &piece).to_string() },
        }
    }

    /// What a log holds, and why no more of it opens when that is not its end; `None` when there is none.
    pub(crate) async fn grown(&self, path: &ObjectPath) -> Result<Option<(Vec<u8>, Option<RepoError>)>, RepoError> {
        let sealed = match self.store.get(path).await {
            Ok(sealed) => sealed,
            Err(StoreError::Missing { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        // The header goes with the first addition, which may be the one that was torn.
        if sealed.len() < HEADER_BYTES || sealed.iter().all(|byte| *byte == 0) {
            return Ok(Some((Vec::new(), None)));
        }
        let object = match self.open_object(path, ObjectKind::WalLog, &sealed).await {
            Ok(object) => object,
            Err(e) if e.class() == Class::Transient => return Err(e),
            // Whoever needs it is told, and nobody else.
            Err(e) => return Ok(Some((Vec::new(), Some(e)))),
        };
        let Grown { plain, damage } = beside(move || seal::open_growing(&object, &sealed)).await?.map_err(RepoError::object(path))?;
        Ok(Some((plain, damage.map(RepoError::object(path)))))
    }

    /// The piece with its end, which a log's name does not tell. `None` for a log to which nothing was added, or which is gone: once
    /// its segment is stored whole it may be removed.
    pub(crate) async fn measured(&self, system: SystemId, piece: Piece) -> Result<Option<Piece>, RepoError> {
        if piece.form == Form::Object {
            return Ok(Some(piece));
        }
        let Some((plain, damage)) = self.grown(&layout::piece(system, &piece)).await? else { return Ok(None) };
        let form = if damage.is_some() { Form::DamagedLog } else { Form::Log };
        let end = piece.start.plus(plain.len() as u64);
        Ok((end > piece.start || form == Form::DamagedLog).then_some(Piece { end, form, ..piece }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(start: u64, end: u64, session: u32) -> Piece {
        let segment = "000000010000000000000003".parse().unwrap();
        Piece { segment, start: Lsn::from_bytes(start), end: Lsn::from_bytes(end), session, form: Form::Object }
    }

    #[test]
    fn a_piece_is_known_by_its_name_alone() {
        let piece = piece(0x300_0000, 0x300_0123, 7);
        let name = "0000000003000000-0000000003000123-00000007";
        assert_eq!(piece.name(), name);
        assert_eq!(Piece::parse("000000010000000000000003.pieces", name), Some(piece));
        for other in ["0000000003000000-0000000003000123", "0000000003000123-0000000003000000-00000007", "3000000-3000123-7", "index"] {
            assert_eq!(Piece::parse("000000010000000000000003.pieces", other), None, "{other}");
        }
        assert_eq!(Piece::parse("000000010000000000000003", name), None);
        let (log, name) = (Piece { end: piece.start, form: Form::Log, ..piece }, "0000000003000000-00000007.log");
        assert_eq!((log.name().as_str(), Piece::parse("000000010000000000000003.pieces", name)), (name, Some(log)));
        assert_eq!(Piece::parse("000000010000000000000003.pieces", "0000000003000000-0000000003000123-00000007.log"), None);
    }

    #[test]
    fn the_chain_is_the_longest_prefix_in_the_fewest_pieces() {
        let pieces = [piece(0, 10, 1), piece(10, 20, 1), piece(20, 30, 1), piece(0, 25, 2), piece(40, 50, 2)];
        assert_eq!(chain(&pieces, Lsn::from_bytes(0)), [piece(0, 25, 2), piece(20, 30, 1)]);
        assert_eq!(chain(&pieces[1..3], Lsn::from_bytes(0)), []);
        assert_eq!(chain(&pieces, Lsn::from_bytes(40)), [piece(40, 50, 2)]);
    }
}
