//! PostgreSQL's write-ahead log: page headers, records, and a walker over them.

mod at_once;
mod header;
mod hop;
mod record;
mod survey;
#[cfg(test)]
mod survey_tests;
mod walker;
#[cfg(test)]
mod walker_tests;

pub(crate) use header::{LONG_HEADER, SHORT_HEADER};
pub use header::{PageHeader, SegmentHeader, WAL_PAGE_SIZE, page_magic};
pub use hop::may_create_tablespace;
pub use record::{Ended, Record, RecordKind};
pub use survey::{Damage, SegmentSurvey, Surveyor};
pub use walker::{End, EndReason, RecordWalker, WalSource};
