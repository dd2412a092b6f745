//! Segments and pieces on their way to the store, and up to where everything is stored.

use crate::CaptureError;
use crate::appender::{Added, Appender};
use crate::filling::Full;
use bytes::Bytes;
use pg::Reporter;
use repo::reach::SEGMENTS_ON_THEIR_WAY;
use repo::{Form, Kept, Piece, PieceLog, RepoError, Writer};
use seal::{Compression, Digest, Digester, Protection};
use std::sync::Arc;
use std::time::Duration;
use terms::{Event, Events, Explain, Lsn, SegmentName, SegmentSize, SystemId, WalName};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Segments of 16 MiB on their way at most. Each is held plain and sealed, and a third time while it is compared with one that is
/// stored already: with the one that is filling they bound the receiver's memory (128 MiB in all).
const SEGMENTS: u64 = 2;
/// Plain bytes of pieces beside which a segment may fill: they, too, are held plain and sealed, and when the store goes away they
/// stay for as long as the segments do.
const PIECE_BYTES_BESIDE: u64 = SegmentSize::DEFAULT.bytes() / 4;
/// Pieces on their way at most.
const PIECES: usize = 2;

/// What stores WAL, and how.
#[derive(Clone)]
pub(crate) struct Carrier {
    pub(crate) writer: Writer,
    pub(crate) system_id: SystemId,
    pub(crate) protection: Protection,
    pub(crate) compression: Compression,
    pub(crate) digester: Digester,
    pub(crate) events: Arc<dyn Events>,
    /// Whether the server is kept waiting by what is not stored.
    pub(crate) commits_wait: bool,
    /// Longest pause between two tries.
    pub(crate) backoff_max: Duration,
}

/// One upload that is stored.
struct Landed {
    start: Lsn,
    end: Lsn,
    /// `None` for pieces.
    segment: Option<StoredSegment>,
    pieces: usize,
    piece_bytes: u64,
}

/// A whole segment that is stored: the digest of its plain bytes, and the bytes that it takes.
pub(crate) struct StoredSegment {
    pub(crate) name: SegmentName,
    pub(crate) digest: Digest,
    pub(crate) bytes_stored: u64,
}

/// Uploads under way. They run whether or not anybody waits, and try for as long as the store is away; dropped, they end:
/// nothing was confirmed for them, and whoever connects again sends the same bytes.
pub(crate) struct Uploads {
    carrier: Carrier,
    running: JoinSet<Result<Landed, CaptureError>>,
    /// Where objects can grow: what takes the pieces.
    appender: Option<Appender>,
    /// Tells the server of an addition at once.
    reporter: Option<Reporter>,
    segments: usize,
    segments_max: u64,
    size: SegmentSize,
    pieces: usize,
    /// Plain bytes of the pieces on their way.
    piece_bytes: u64,
    /// Stretches that are stored beyond `stored`.
    ahead: Vec<(Lsn, Lsn)>,
    stored: Lsn,
}

impl Uploads {
    /// Everything before `from` counts as stored. A `reporter` tells the server of what is added to logs before anybody here hears of it.
    pub(crate) fn start(carrier: Carrier, from: Lsn, size: SegmentSize, reporter: Option<Reporter>) -> Self {
        let segments_max = (SEGMENTS * SegmentSize::DEFAULT.bytes() / size.bytes()).clamp(1, SEGMENTS_ON_THEIR_WAY);
        let (running, appender, ahead) = (JoinSet::new(), None, Vec::new());
        Self { carrier, size, running, appender, reporter, segments: 0, segments_max, pieces: 0, piece_bytes: 0, ahead, stored: from }
    }

    /// How pieces are stored here.
    pub(crate) fn form(&self) -> Form {
        if self.carrier.writer.can_grow() { Form::Log } else { Form::Object }
    }

    /// Everything received before here is stored.
    pub(crate) fn stored(&self) -> Lsn {
        self.appender.as_ref().map_or(self.stored, |appender| self.stored.max(appender.stored()))
    }
    /// Whether another segment may be taken in while the one that begins at `filling` fills: none runs further ahead of what is
    /// stored than a restore must know (`repo::reach::stretch`), even when the oldest upload is the one that does not end. Large
    /// pieces take room, too.
    pub(crate) fn has_room(&self, filling: Lsn) -> bool {
        self.segments < self.segments_max as usize
            && filling.bytes_since(self.stored()) < self.segments_max * self.size.bytes()
            && self.piece_bytes <= PIECE_BYTES_BESIDE
    }
    /// Whether another piece may be sent. To a log those go together that came while one was added.
    pub(crate) fn has_room_for_a_piece(&self) -> bool {
        self.pieces < PIECES || self.form() == Form::Log
    }
    pub(crate) fn is_busy(&self) -> bool {
        !self.running.is_empty() || self.pieces > 0
    }

    /// Begins to store a full segment, and its rest as a piece where that is sooner there.
    pub(crate) fn push(&mut self, full: Full) -> Result<(), CaptureError> {
        // Commits that wait should not wait for the whole; others do not know the difference, and it costs a second put.
        if let Some((piece, bytes)) = full.rest.filter(|_| self.carrier.commits_wait) {
            self.push_piece(piece, bytes)?;
        }
        let carrier = self.carrier.clone();
        self.segments += 1;
        self.running.spawn(async move {
            let end = full.start.plus(full.bytes.len() as u64);
            let name = WalName::Segment(full.name);
            let (bytes, mut digester) = (full.bytes.clone(), carrier.digester.clone());
            let digested = tokio::task::spawn_blocking(move || digester.digest(&bytes));
            let kept = carrier.until_done(&name.to_string(), || carrier.keep(&name, full.bytes.clone())).await?;
            let (event, bytes_stored) = match kept {
                Kept::Stored { bytes_stored } => (Event::WalStored { name: name.to_string(), bytes_stored }, bytes_stored),
                Kept::Already { bytes_stored } => (Event::WalAlreadyStored { name: name.to_string() }, bytes_stored),
            };
            carrier.events.tell(event);
            let digest = digested.await.map_err(|e| CaptureError::Bug(e.to_string()))?;
            Ok(Landed { start: full.start, end, segment: Some(StoredSegment { name: full.name, digest, bytes_stored }), pieces: 0, piece_bytes: 0 })
        });
        Ok(())
    }

    /// Begins to store a piece.
    pub(crate) fn push_piece(&mut self, piece: Piece, bytes: Bytes) -> Result<(), CaptureError> {
        self.pieces += 1;
        self.piece_bytes += bytes.len() as u64;
        let carrier = self.carrier.clone();
        if piece.form == Form::Log {
            let appender = match self.appender.take() {
                Some(appender) => appender,
                None => Appender::start(carrier, self.size, self.reporter.take())?,
            };
            self.appender.insert(appender).push(piece, bytes);
            return Ok(());
        }
        self.running.spawn(async move {
            let keep = || carrier.writer.keep_piece(carrier.system_id, &piece, bytes.clone(), &carrier.protection, carrier.compression);
            let bytes_stored = carrier.until_done(&piece.to_string(), keep).await?;
            carrier.events.tell(Event::PieceStored { segment: piece.segment, start: piece.start, end: piece.end, bytes_stored });
            Ok(Landed { start: piece.start, end: piece.end, segment: None, pieces: 1, piece_bytes: bytes.len() as u64 })
        });
        Ok(())
    }

    /// Waits for the next upload to end: the segment, unless it was a piece. [`Uploads::stored`] tells what that comes to.
    pub(crate) async fn next(&mut self) -> Result<Option<StoredSegment>, CaptureError> {
        let appended = async {
            match &mut self.appender {
                Some(appender) => appender.next().await,
                None => std::future::pending().await,
            }
        };
        let landed = tokio::select! {
            Some(joined) = self.running.join_next() => joined.map_err(|e| CaptureError::Bug(e.to_string()))??,
            added = appended => {
                let Added { start, end, pieces, bytes } = added?;
                Landed { start, end, segment: None, pieces, piece_bytes: bytes }
            }
        };
        match landed.segment {
            None => {
                self.pieces -= landed.pieces;
                self.piece_bytes -= landed.piece_bytes;
            }
            Some(_) => self.segments -= 1,
        }
        self.ahead.push((landed.start, landed.end));
        self.stored = advance(self.stored, &mut self.ahead);
        Ok(landed.segment)
    }
}

/// The end of what is stored without a gap from `stored` on; what it passes is forgotten.
fn advance(mut stored: Lsn, ahead: &mut Vec<(Lsn, Lsn)>) -> Lsn {
    while let Some(end) = ahead.iter().filter(|(start, end)| *start <= stored && *end > stored).map(|(_, end)| *end).max() {
        stored = end;
    }
    ahead.retain(|(_, end)| *end > stored);
    stored
}

impl Carrier {
    /// Begins the log that this piece goes to first. Blocks.
    pub(crate) fn begin_log(&self, piece: &Piece) -> Result<PieceLog, RepoError> {
        self.writer.begin_log(self.system_id, piece.segment, piece.start, session_number(), &self.protection, self.compression)
    }

    async fn keep(&self, name: &WalName, bytes: Bytes) -> Result<Kept, RepoError> {
        self.writer.keep_wal(self.system_id, name, bytes, &self.protection, self.compression).await
    }

    /// Tries however long the store is away. Only what can never succeed is an error.
    async fn until_done<T, F: Future<Output = Result<T, RepoError>>>(&self, object: &str, mut work: impl FnMut() -> F) -> Result<T, CaptureError> {
        let mut backoff = Duration::from_millis(200);
        loop {
            match work().await {
                Ok(done) => return Ok(done),
                Err(e @ (RepoError::Conflict { .. } | RepoError::Bug(_))) => return Err(e.into()),
                Err(e) => {
                    let why = e.in_a_line();
                    self.events.tell(Event::StoreRetry { object: object.to_owned(), why, again_in: backoff });
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(self.backoff_max);
                }
            }
        }
    }
}

/// Tells this connection's pieces, or a log, from every other's.
pub(crate) fn session_number() -> u32 {
    use std::hash::BuildHasher;
    // The random keys of a hash map are the standard library's one source of chance.
    std::hash::RandomState::new().hash_one(std::process::id()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_out_of_order_is_confirmed_in_order() {
        let lsn = Lsn::from_bytes;
        let mut ahead = vec![(lsn(20), lsn(30))];
        assert_eq!(advance(lsn(10), &mut ahead), lsn(10), "the bytes from 10 to 20 are still on their way");
        ahead.push((lsn(10), lsn(21)));
        assert_eq!(advance(lsn(10), &mut ahead), lsn(30));
        assert!(ahead.is_empty());
        ahead.push((lsn(0), lsn(25)));
        assert_eq!(advance(lsn(30), &mut ahead), lsn(30), "what is stored never becomes less");
        assert!(ahead.is_empty());
    }
}
