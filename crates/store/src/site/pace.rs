//! Lets a listing go on some pages at a time, however long it takes in all: each page of a large bucket costs money.

use crate::StoreError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// After a page that nobody answered.
const PAUSE: Duration = Duration::from_secs(5);

/// How many pages may be asked for yet, and how many were.
#[derive(Debug)]
pub struct Pace {
    permits: Semaphore,
    pages: AtomicU64,
    trouble: Mutex<Option<StoreError>>,
}

impl Pace {
    /// None may be asked for yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { permits: Semaphore::new(0), pages: AtomicU64::new(0), trouble: Mutex::default() })
    }

    /// So many from now on; what is left of the former ones is forfeit.
    pub fn allow(&self, pages: usize) {
        self.permits.forget_permits(usize::MAX);
        self.permits.add_permits(pages);
    }

    /// Pages that came, since the beginning.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// Why the last page did not come, where it did not. Told once.
    pub fn trouble(&self) -> Option<StoreError> {
        self.lock().take()
    }

    /// No page is wanted any more: whoever waits for one ends.
    pub fn close(&self) {
        self.permits.close();
    }

    /// Waits until a page may be asked for; false when none is wanted any more.
    pub(super) async fn turn(&self) -> bool {
        self.permits.acquire().await.map(|permit| permit.forget()).is_ok()
    }

    pub(super) fn went(&self) {
        self.pages.fetch_add(1, Ordering::Relaxed);
        *self.lock() = None;
    }

    pub(super) async fn failed(&self, error: StoreError) {
        *self.lock() = Some(error);
        tokio::time::sleep(PAUSE).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<StoreError>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
