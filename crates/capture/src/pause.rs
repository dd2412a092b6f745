//! The pause between two connections of a receiver.

use std::time::Duration;

/// Shortest and longest pause between two tries to connect.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The pause before the next connection.
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(BACKOFF_MIN)
    }

    /// Twice as long as the last one, but short again after a connection that stored something or lasted.
    pub(crate) fn after(&mut self, lasted: Duration, has_stored: bool) -> Duration {
        if has_stored || lasted > BACKOFF_MAX {
            self.0 = BACKOFF_MIN;
        }
        let pause = self.0;
        self.0 = (pause * 2).min(BACKOFF_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_while_connections_do_no_good_and_is_short_after_one_that_did() {
        let mut backoff = Backoff::new();
        let short = Duration::from_secs(1);
        let pauses: Vec<_> = (0..8).map(|_| backoff.after(short, false).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(backoff.after(short, true), BACKOFF_MIN, "it stored something");
        assert_eq!(backoff.after(short, false), BACKOFF_MIN * 2);
        assert_eq!(backoff.after(BACKOFF_MAX * 2, false), BACKOFF_MIN, "it lasted");
    }
}
