//! What a clock stamped that was wrong once.

use terms::Timestamp;

/// By so much the clocks of host, server and store may differ.
const AHEAD_SECONDS: f64 = 300.0;

/// Whether this time is still to come: a clock that was wrong wrote it, and it says nothing of what was done since.
pub fn is_ahead(stamp: Timestamp, now: Timestamp) -> bool {
    stamp.seconds_since(now) > AHEAD_SECONDS
}
