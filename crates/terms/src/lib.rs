//! Words that every room shares: positions, names, times, events and the shape of an explanation. No I/O.

mod advice;
mod alarm;
mod calendar;
mod event;
mod lsn;
mod names;
mod schedule;
mod secret;
mod target;
mod time;

pub use advice::{Advice, Class, Explain};
pub use alarm::{Alarm, Judgement, Urgency};
pub use calendar::{Day, Month, Zone};
pub use event::{Envelope, Event, Events, Silent, SnapshotOfProgress, Step};
pub use lsn::{Lsn, SegmentSize, SystemId, Timeline};
pub use names::{BackupId, BackupKind, SegmentName, WalName};
pub use schedule::Schedule;
pub use secret::Secret;
pub use target::RecoveryTarget;
pub use time::{Clock, SystemClock, Timestamp};

/// A word that did not parse: what was expected and what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {expected}")]
pub struct ParseError {
    /// What the text should have been, e.g. "an LSN such as 16/B374D848".
    pub expected: &'static str,
    /// The text found.
    pub found: String,
}

impl ParseError {
    pub(crate) fn new(expected: &'static str, found: &str) -> Self {
        Self { expected, found: found.chars().take(120).collect() }
    }
}
