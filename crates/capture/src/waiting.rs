//! Notices that the store keeps WAL waiting, and tells so once, and once more when it flows again.

use crate::receive::Flush;
use std::sync::Arc;
use std::time::Duration;
use terms::{Event, Events, Lsn};
use tokio::time::Instant;

/// Commits wait: that must be told within five seconds.
const SYNCHRONOUS_LIMIT: Duration = Duration::from_secs(3);
/// Beyond the flush interval; the server keeps what waits, so this is not urgent yet.
const ASYNCHRONOUS_LIMIT: Duration = Duration::from_secs(30);

/// Since when what has come waits to be stored.
pub(crate) struct Waiting {
    events: Arc<dyn Events>,
    is_synchronous: bool,
    limit: Duration,
    stored: Option<Lsn>,
    since: Option<Instant>,
    is_told: bool,
}

impl Waiting {
    pub(crate) fn new(flush: Flush, events: Arc<dyn Events>) -> Self {
        let limit = match flush {
            Flush::Synchronous => SYNCHRONOUS_LIMIT,
            Flush::Every(pause) => pause + ASYNCHRONOUS_LIMIT,
            // A segment may take as long as it likes to fill.
            Flush::Whole => Duration::from_secs(86_400),
        };
        Self { events, is_synchronous: flush == Flush::Synchronous, limit, stored: None, since: None, is_told: false }
    }

    /// Takes a look; whether the store holds things up.
    pub(crate) fn look(&mut self, stored: Lsn, received: Lsn) -> bool {
        let has_moved = self.stored != Some(stored);
        self.stored = Some(stored);
        if has_moved || received <= stored {
            if self.is_told {
                let waited = self.since.map_or(Duration::ZERO, |since| since.elapsed());
                self.events.tell(Event::WalFlowsAgain { stored, waited });
            }
            self.is_told = false;
            self.since = (received > stored).then(Instant::now);
        } else if self.since.is_none() {
            self.since = Some(Instant::now());
        }
        let Some(since) = self.since else { return false };
        let waited = since.elapsed();
        if waited >= self.limit && !self.is_told {
            self.is_told = true;
            self.events.tell(Event::WalHeldUp { stored, received, waited, commits_wait: self.is_synchronous });
        }
        // A put that takes a second is nothing yet, but a server that shuts down now must not find us asleep.
        waited >= Duration::from_secs(1)
    }

    /// When to look again although nothing happened.
    pub(crate) fn look_again_at(&self) -> Instant {
        let now = Instant::now();
        match self.since {
            Some(since) if !self.is_told => (now + Duration::from_secs(1)).min(since + self.limit).max(now + Duration::from_millis(50)),
            _ => now + Duration::from_secs(3600),
        }
    }
}
