//! Holds reading down to a rate, across threads.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// At most so many bytes a second, averaged over a quarter of a second.
pub(crate) struct Throttle {
    bytes_per_second: Option<u64>,
    /// The instant until which what was taken so far has been paid for.
    paid_until: Mutex<Instant>,
}

impl Throttle {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, paid_until: Mutex::new(Instant::now()) }
    }

    /// Takes `bytes`, sleeping as long as the rate demands.
    pub(crate) fn take(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let cost = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let now = Instant::now();
        let wake = {
            let mut paid_until = self.paid_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // Time in which nobody read is not saved up, but for a short burst.
            *paid_until = (*paid_until).max(now.checked_sub(Duration::from_millis(250)).unwrap_or(now)) + cost;
            *paid_until
        };
        if wake > now {
            std::thread::sleep(wake - now);
        }
    }
}
