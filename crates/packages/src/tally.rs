//! How far the work is, told four times a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use terms::{Event, Events, SnapshotOfProgress};
use tokio::task::AbortHandle;

const EVERY: Duration = Duration::from_millis(250);

/// What is done so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    objects: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    pub(crate) fn add(&self, objects: u64, bytes: u64) {
        self.objects.fetch_add(objects, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn now(&self, total: Option<(u64, u64)>) -> SnapshotOfProgress {
        let (files_done, bytes_done) = (self.objects.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        let (files_total, bytes_total) = total.unwrap_or_default();
        SnapshotOfProgress { bytes_done, bytes_total, files_done, files_total, bytes_stored: 0 }
    }
}

/// Tells until it is dropped, and once more then.
pub(crate) struct Ticker {
    task: AbortHandle,
    events: Arc<dyn Events>,
    tally: Arc<Tally>,
    total: Option<(u64, u64)>,
}

impl Ticker {
    /// `total` is objects and bytes, where they are known.
    pub(crate) fn start(events: Arc<dyn Events>, tally: Arc<Tally>, total: Option<(u64, u64)>) -> Self {
        let (to, of) = (Arc::clone(&events), Arc::clone(&tally));
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(EVERY).await;
                to.tell(Event::Progress(of.now(total)));
            }
        });
        Self { task: task.abort_handle(), events, tally, total }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.task.abort();
        self.events.tell(Event::Progress(self.tally.now(self.total)));
    }
}
