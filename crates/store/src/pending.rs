//! Counts the objects that are finished but not yet durable, and keeps the first failure of any of them.

use crate::StoreError;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;

/// The objects under way of one store.
#[derive(Debug)]
pub(crate) struct Pending {
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: BTreeSet<u64>,
    failed: Option<StoreError>,
}

/// One object under way; dropped without an answer it counts as failed, so that a lost task is never taken for a stored object.
#[derive(Debug)]
pub(crate) struct Ticket {
    pending: Arc<Pending>,
    number: u64,
    given_up: Option<StoreError>,
}

impl Pending {
    /// Nothing is under way yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: watch::Sender::new(State::default()) })
    }

    /// One more object is under way; `given_up` is its error if nobody ever answers for it.
    pub(crate) fn start(self: &Arc<Self>, given_up: StoreError) -> Ticket {
        let mut number = 0;
        self.state.send_modify(|state| {
            number = state.next;
            state.next += 1;
            state.open.insert(number);
        });
        Ticket { pending: Arc::clone(self), number, given_up: Some(given_up) }
    }

    /// Waits for every object started before this call; returns the first failure since the beginning.
    pub(crate) async fn settle(&self) -> Result<(), StoreError> {
        let mut watching = self.state.subscribe();
        let before = watching.borrow().next;
        // Later objects are not waited for: a steady stream of them would otherwise never let anybody go.
        match watching.wait_for(|state| state.open.range(..before).next().is_none()).await {
            Ok(state) => state.failed.clone().map_or(Ok(()), Err),
            Err(_) => unreachable!("the sender lives as long as self"),
        }
    }
}

impl Ticket {
    /// The object is durable, or why it is not.
    pub(crate) fn end(mut self, result: Result<(), StoreError>) {
        self.given_up = None;
        self.close(result.err());
    }

    fn close(&self, error: Option<StoreError>) {
        self.pending.state.send_modify(|state| {
            state.open.remove(&self.number);
            if state.failed.is_none() {
                state.failed = error;
            }
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(error) = self.given_up.take() {
            self.close(Some(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(path: &str) -> StoreError {
        StoreError::Exists { store: "memory:".into(), path: path.into() }
    }

    #[tokio::test]
    async fn settling_waits_for_earlier_objects_only_and_the_first_failure_stays() {
        let pending = Pending::new();
        let first = pending.start(error("lost"));
        let settled = tokio::spawn({
            let pending = Arc::clone(&pending);
            async move { pending.settle().await }
        });
        tokio::task::yield_now().await;
        let second = pending.start(error("lost"));
        assert!(!settled.is_finished());
        first.end(Ok(()));
        assert!(settled.await.unwrap().is_ok());
        second.end(Err(error("a")));
        pending.start(error("lost")).end(Err(error("b")));
        for _ in 0..2 {
            assert!(matches!(pending.settle().await, Err(StoreError::Exists { path, .. }) if path == "a"));
        }
    }

    #[tokio::test]
    async fn a_ticket_dropped_without_an_answer_is_a_failure() {
        let pending = Pending::new();
        drop(pending.start(error("lost")));
        assert!(matches!(pending.settle().await, Err(StoreError::Exists { path, .. }) if path == "lost"));
    }
}
