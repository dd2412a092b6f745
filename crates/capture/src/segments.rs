//! Between the stream and the store: bytes become whole segments, and segments are stored in order, a few at a time.

use crate::CaptureError;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use repo::{Kept, RepoError, Writer};
use seal::{Compression, Protection};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use terms::{Event, Events, Explain, Lsn, SegmentName, SegmentSize, SystemId, Timeline, WalName};
use tokio::time::sleep;

/// How many segments may be on their way to the store; with the one that is filling they bound the receiver's memory.
const ON_THEIR_WAY: usize = 3;
/// Longest pause between two tries to store a segment.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The segment that is filling.
pub(crate) struct Segments {
    timeline: Timeline,
    size: SegmentSize,
    begin: Lsn,
    start: Lsn,
    filling: Vec<u8>,
}

impl Segments {
    /// Begins at `from`, which must be where a segment begins.
    pub(crate) fn new(timeline: Timeline, from: Lsn, size: SegmentSize) -> Self {
        Self { timeline, size, begin: from, start: from, filling: Vec::new() }
    }
    pub(crate) fn begin(&self) -> Lsn {
        self.begin
    }
    pub(crate) fn timeline(&self) -> Timeline {
        self.timeline
    }
    pub(crate) fn size(&self) -> SegmentSize {
        self.size
    }
    /// How far bytes have come.
    pub(crate) fn received(&self) -> Lsn {
        self.start.plus(self.filling.len() as u64)
    }

    /// Takes what arrived at `at` and hands every segment that is full to `full`.
    pub(crate) fn take(&mut self, at: Lsn, mut bytes: &[u8], mut full: impl FnMut(SegmentName, Bytes)) -> Result<(), CaptureError> {
        if at != self.received() {
            return Err(CaptureError::Bug(format!("the server sent WAL from {at} where {} was expected", self.received())));
        }
        let whole = self.size.bytes() as usize;
        while !bytes.is_empty() {
            if self.filling.capacity() == 0 {
                self.filling.reserve_exact(whole);
            }
            let (now, later) = bytes.split_at(bytes.len().min(whole - self.filling.len()));
            self.filling.extend_from_slice(now);
            bytes = later;
            if self.filling.len() == whole {
                full(SegmentName::containing(self.start, self.timeline, self.size), Bytes::from(std::mem::take(&mut self.filling)));
                self.start = self.start.plus(self.size.bytes());
            }
        }
        Ok(())
    }
}

type Upload = Pin<Box<dyn Future<Output = Result<Lsn, CaptureError>> + Send>>;

/// Segments on their way to the store.
pub(crate) struct Uploads {
    writer: Writer,
    system_id: SystemId,
    protection: Protection,
    compression: Compression,
    events: Arc<dyn Events>,
    running: FuturesOrdered<Upload>,
}

impl Uploads {
    pub(crate) fn start(writer: Writer, system_id: SystemId, protection: Protection, compression: Compression, events: Arc<dyn Events>) -> Self {
        Self { writer, system_id, protection, compression, events, running: FuturesOrdered::new() }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.running.len() < ON_THEIR_WAY
    }
    pub(crate) fn is_busy(&self) -> bool {
        !self.running.is_empty()
    }

    /// Begins to store a segment; it runs on its own whether or not anybody waits.
    pub(crate) fn push(&mut self, name: SegmentName, whole: Bytes) {
        let (writer, system_id) = (self.writer.clone(), self.system_id);
        let (protection, compression, events) = (self.protection.clone(), self.compression, self.events.clone());
        let task = tokio::spawn(async move {
            let end = name.start(SegmentSize::from_bytes(whole.len() as u64).map_err(|e| CaptureError::Bug(e.to_string()))?);
            let end = end.plus(whole.len() as u64);
            let name = WalName::Segment(name);
            store(&writer, system_id, &name, whole, &protection, compression, &*events).await?;
            Ok(end)
        });
        self.running.push_back(Box::pin(async move { task.await.map_err(|e| CaptureError::Bug(e.to_string())).and_then(|outcome| outcome) }));
    }

    /// The position up to which everything is stored, once the oldest upload ends.
    pub(crate) async fn next(&mut self) -> Result<Lsn, CaptureError> {
        match self.running.next().await {
            Some(outcome) => outcome,
            None => std::future::pending().await,
        }
    }
}

/// Stores a WAL file, however long the store is away. Only what can never succeed is an error.
async fn store(
    writer: &Writer,
    system_id: SystemId,
    name: &WalName,
    whole: Bytes,
    protection: &Protection,
    compression: Compression,
    events: &dyn Events,
) -> Result<(), CaptureError> {
    let mut backoff = Duration::from_millis(200);
    loop {
        match writer.keep_wal(system_id, name, whole.clone(), protection, compression).await {
            Ok(Kept::Stored { bytes_stored }) => {
                events.tell(Event::WalStored { name: name.to_string(), bytes_stored });
                return Ok(());
            }
            Ok(Kept::Already) => {
                events.tell(Event::WalAlreadyStored { name: name.to_string() });
                return Ok(());
            }
            Err(e @ (RepoError::Conflict { .. } | RepoError::Bug(_))) => return Err(e.into()),
            Err(e) => {
                let why = [e.to_string(), e.detail()].join(": ");
                events.tell(Event::StoreRetry { object: name.to_string(), why, again_in: backoff });
                sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        // The tasks that still run finish or fail by themselves: what they store is right, and nothing was confirmed for them.
        self.running.clear();
    }
}
