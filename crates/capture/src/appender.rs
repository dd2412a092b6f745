//! What comes of a segment goes to a log, one addition after the other, on a thread of its own: a disk that hangs must not keep a
//! keepalive waiting, and a commit that waits must not wait for a pool of threads.

use crate::CaptureError;
use crate::uploads::Carrier;
use bytes::Bytes;
use pg::Reporter;
use repo::{Piece, PieceLog, RepoError};
use seal::CHUNK_BYTES;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use terms::{Event, Explain, Lsn, SegmentSize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// How soon it is noticed, between two tries, that nobody waits any more.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Commits may come a thousand times a second; nobody reads as fast.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Who waits for commits is told by the reporter; the receiver itself has time, and waking it takes from them.
const REST: Duration = Duration::from_millis(20);
/// What is added at once at most: what came while the last addition was synced goes together.
const TOGETHER_BYTES: usize = CHUNK_BYTES;

/// What was added: from one position to another, in so many pieces of so many bytes in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Added {
    pub(crate) start: Lsn,
    pub(crate) end: Lsn,
    pub(crate) pieces: usize,
    pub(crate) bytes: u64,
}

impl Added {
    /// With what was added next.
    fn and(self, next: Self) -> Self {
        Self { start: self.start, end: next.end, pieces: self.pieces + next.pieces, bytes: self.bytes + next.bytes }
    }
}

/// Adds to logs, in order, until dropped.
pub(crate) struct Appender {
    queue: mpsc::Sender<(Piece, Bytes)>,
    added: UnboundedReceiver<Result<Added, CaptureError>>,
    stored: Arc<AtomicU64>,
}

impl Appender {
    pub(crate) fn start(carrier: Carrier, size: SegmentSize, reporter: Option<Reporter>) -> Result<Self, CaptureError> {
        let (queue, asked) = mpsc::channel();
        let (done, added) = unbounded_channel();
        let stored = Arc::new(AtomicU64::new(0));
        let work = Work { carrier, size, log: None, told_at: None, untold: None };
        let queued = Queue { asked, next: None };
        let mut desk = Desk { queued, work, reporter, stored: Arc::clone(&stored), done, unsaid: None };
        match std::thread::Builder::new().name("wal-log".into()).spawn(move || desk.run()) {
            Ok(_) => Ok(Self { queue, added, stored }),
            Err(e) => Err(CaptureError::Bug(format!("cannot start a thread: {e}"))),
        }
    }

    /// Adds this piece after those before it.
    pub(crate) fn push(&self, piece: Piece, bytes: Bytes) {
        // A thread that is gone is told of by `next`.
        drop(self.queue.send((piece, bytes)));
    }

    /// Everything before here is stored, whether or not `next` has told of it: all before a piece was stored when it was queued, or was
    /// queued before it.
    pub(crate) fn stored(&self) -> Lsn {
        Lsn::from_bytes(self.stored.load(Ordering::Acquire))
    }

    /// The next pieces that are stored.
    pub(crate) async fn next(&mut self) -> Result<Added, CaptureError> {
        self.added.recv().await.unwrap_or_else(|| Err(CaptureError::Bug("the thread that adds to logs is gone".into())))
    }
}

/// Where pieces come in, and where it is said what became of them.
struct Desk {
    queued: Queue,
    work: Work,
    reporter: Option<Reporter>,
    stored: Arc<AtomicU64>,
    done: UnboundedSender<Result<Added, CaptureError>>,
    /// What was added and reported, and since when the receiver has not been told.
    unsaid: Option<(Added, Instant)>,
}

impl Desk {
    fn run(&mut self) {
        loop {
            let left = self.unsaid.map(|(_, since)| REST.saturating_sub(since.elapsed()));
            let (piece, bytes, pieces) = match self.queued.take(left) {
                Ok(taken) => taken,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    self.say();
                    continue;
                }
            };
            if let Err(e) = self.work.until_added(&piece, &bytes, &self.done) {
                // What follows one that is not stored must neither be added nor reported: it would vouch for the gap.
                self.say();
                let _ = self.done.send(Err(e));
                return;
            }
            self.stored.store(piece.end.bytes(), Ordering::Release);
            let is_reported = self.reporter.as_ref().is_some_and(|reporter| reporter.report(piece.end));
            let added = Added { start: piece.start, end: piece.end, pieces, bytes: bytes.len() as u64 };
            let (unsaid, since) = self.unsaid.map_or_else(|| (added, Instant::now()), |(before, since)| (before.and(added), since));
            self.unsaid = Some((unsaid, since));
            // The next segment's pieces begin once this one is known to be stored.
            let is_full = piece.end == piece.segment.end(self.work.size);
            if (!is_reported || is_full || since.elapsed() >= REST) && !self.say() {
                return;
            }
        }
    }

    /// Tells the receiver of what it was not told; false when it is gone.
    fn say(&mut self) -> bool {
        self.unsaid.take().is_none_or(|(added, _)| self.done.send(Ok(added)).is_ok())
    }
}

/// Pieces that came in, in order.
struct Queue {
    asked: mpsc::Receiver<(Piece, Bytes)>,
    /// Taken out, and not to be added with those before it.
    next: Option<(Piece, Bytes)>,
}

impl Queue {
    /// The next piece, and whatever follows it that is here already, as one; and how many they were. Waits this long, or for ever.
    fn take(&mut self, limit: Option<Duration>) -> Result<(Piece, Bytes, usize), RecvTimeoutError> {
        let (mut piece, first) = match (self.next.take(), limit) {
            (Some(next), _) => next,
            (None, None) => self.asked.recv().map_err(|_| RecvTimeoutError::Disconnected)?,
            (None, Some(limit)) => self.asked.recv_timeout(limit)?,
        };
        let (mut bytes, mut pieces) = (vec![first], 1);
        while let Ok((more, its)) = self.asked.try_recv() {
            let follows = more.segment == piece.segment && more.start == piece.end;
            if !follows || more.end.bytes_since(piece.start) > TOGETHER_BYTES as u64 {
                self.next = Some((more, its));
                break;
            }
            piece.end = more.end;
            bytes.push(its);
            pieces += 1;
        }
        let bytes = if bytes.len() == 1 { bytes.swap_remove(0) } else { bytes.concat().into() };
        Ok((piece, bytes, pieces))
    }
}

struct Work {
    carrier: Carrier,
    size: SegmentSize,
    log: Option<PieceLog>,
    told_at: Option<Instant>,
    /// Where what was not told of begins, and the bytes that it takes.
    untold: Option<(Lsn, u64)>,
}

impl Work {
    /// Tries however long the store is away, as long as somebody waits.
    fn until_added(&mut self, piece: &Piece, bytes: &[u8], waits: &UnboundedSender<Result<Added, CaptureError>>) -> Result<(), CaptureError> {
        let mut backoff = Duration::from_millis(200);
        loop {
            match self.add(piece, bytes) {
                Ok(bytes_stored) => {
                    self.tell(piece, bytes_stored);
                    return Ok(());
                }
                Err(e @ RepoError::Bug(_)) => return Err(e.into()),
                Err(e) => {
                    // Part of it may be there: the next try begins another log.
                    self.log = None;
                    let why = e.in_a_line();
                    self.carrier.events.tell(Event::StoreRetry { object: piece.to_string(), why, again_in: backoff });
                    let until = Instant::now() + backoff;
                    while Instant::now() < until {
                        std::thread::sleep(LOOK_EVERY.min(until.saturating_duration_since(Instant::now())));
                        if waits.is_closed() {
                            return Err(CaptureError::Interrupted);
                        }
                    }
                    backoff = (backoff * 2).min(self.carrier.backoff_max);
                }
            }
        }
    }

    fn add(&mut self, piece: &Piece, bytes: &[u8]) -> Result<u64, RepoError> {
        let follows = |log: &PieceLog| log.piece().segment == piece.segment && log.piece().end == piece.start;
        let mut log = match self.log.take().filter(follows) {
            Some(log) => log,
            None => self.carrier.begin_log(piece)?,
        };
        let bytes_stored = log.add(bytes)?;
        self.log = Some(log);
        Ok(bytes_stored)
    }

    fn tell(&mut self, piece: &Piece, bytes_stored: u64) {
        let (start, before) = self.untold.unwrap_or((piece.start, 0));
        let bytes_stored = before + bytes_stored;
        if self.carrier.commits_wait && self.told_at.is_some_and(|at| at.elapsed() < TELL_EVERY) {
            self.untold = Some((start, bytes_stored));
            return;
        }
        (self.told_at, self.untold) = (Some(Instant::now()), None);
        let start = start.max(piece.segment.start(self.size));
        self.carrier.events.tell(Event::PieceStored { segment: piece.segment, start, end: piece.end, bytes_stored });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use repo::Form;

    fn piece(segment: &str, start: u64, bytes: u64) -> (Piece, Bytes) {
        let (start, end) = (Lsn::from_bytes(start), Lsn::from_bytes(start + bytes));
        let piece = Piece { segment: segment.parse().unwrap(), start, end, session: 7, form: Form::Log };
        (piece, vec![start.bytes() as u8; bytes as usize].into())
    }

    #[test]
    fn pieces_that_follow_one_another_are_taken_together() {
        let (queue, asked) = mpsc::channel();
        let mut queued = Queue { asked, next: None };
        let (one, two) = ("000000010000000000000001", "000000010000000000000002");
        let many = TOGETHER_BYTES as u64;
        for each in [piece(one, 1, 2), piece(one, 3, 4), piece(one, 9, 1), piece(two, 10, 5), piece(two, 15, many), piece(two, 15 + many, 1)] {
            queue.send(each).unwrap();
        }
        let mut taken = Vec::new();
        while let Ok((piece, bytes, pieces)) = queued.take(Some(Duration::ZERO)) {
            assert_eq!(bytes.len() as u64, piece.end.bytes_since(piece.start));
            taken.push((piece.start.bytes(), pieces));
        }
        // A gap, another segment and too much at once each begin another addition.
        assert_eq!(taken, [(1, 2), (9, 1), (10, 1), (15, 1), (15 + many, 1)]);
        drop(queue);
        assert_eq!(queued.take(None).unwrap_err(), RecvTimeoutError::Disconnected);
    }
}
