//! What comes of a segment goes to a log, one addition after the other, on a thread of its own: a disk that hangs must not keep a
//! keepalive waiting, and a commit that waits must not wait for a pool of threads.

use crate::CaptureError;
use crate::uploads::Carrier;
use bytes::Bytes;
use pg::Reporter;
use repo::{Piece, PieceLog, RepoError};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use terms::{Event, Explain, Lsn, SegmentSize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// How soon it is noticed, between two tries, that nobody waits any more.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Commits may come a thousand times a second; nobody reads as fast.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// From one position to another.
pub(crate) type Stretch = (Lsn, Lsn);

/// Adds to logs, in order, until dropped.
pub(crate) struct Appender {
    queue: mpsc::Sender<(Piece, Bytes)>,
    landed: UnboundedReceiver<Result<Stretch, CaptureError>>,
}

impl Appender {
    pub(crate) fn start(carrier: Carrier, size: SegmentSize, reporter: Option<Reporter>) -> Result<Self, CaptureError> {
        let (queue, asked) = mpsc::channel::<(Piece, Bytes)>();
        let (done, landed) = unbounded_channel();
        let mut work = Work { carrier, size, log: None, told_at: None, untold: None };
        let run = move || {
            while let Ok((piece, bytes)) = asked.recv() {
                let outcome = work.until_added(&piece, &bytes, &done).map(|()| (piece.start, piece.end));
                // All before it was stored when it was queued, or was queued before it.
                if let (Ok((_, end)), Some(reporter)) = (&outcome, &reporter) {
                    reporter.report(*end);
                }
                // What follows one that is not stored must neither be added nor reported: it would vouch for the gap.
                let is_over = outcome.is_err();
                if done.send(outcome).is_err() || is_over {
                    return;
                }
            }
        };
        match std::thread::Builder::new().name("wal-log".into()).spawn(run) {
            Ok(_) => Ok(Self { queue, landed }),
            Err(e) => Err(CaptureError::Bug(format!("cannot start a thread: {e}"))),
        }
    }

    /// Adds this piece after those before it.
    pub(crate) fn push(&self, piece: Piece, bytes: Bytes) {
        // A thread that is gone is told of by `next`.
        drop(self.queue.send((piece, bytes)));
    }

    /// The next piece that is stored.
    pub(crate) async fn next(&mut self) -> Result<Stretch, CaptureError> {
        self.landed.recv().await.unwrap_or_else(|| Err(CaptureError::Bug("the thread that adds to logs is gone".into())))
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
    fn until_added(&mut self, piece: &Piece, bytes: &[u8], waits: &UnboundedSender<Result<Stretch, CaptureError>>) -> Result<(), CaptureError> {
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
                    let why = [e.to_string(), e.detail()].join(": ");
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
