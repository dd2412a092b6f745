//! Keeps a repository in bounds and proves it: what retention no longer wants goes, late and piece by piece; what stays is read
//! again. The only room that removes anything.

mod error;
mod expire;
mod known;
mod places;
mod scrub;
mod sweep;

pub use error::UpkeepError;
pub use expire::{Confirmed, Elsewhere, ExpireOptions, Expired, Plans, expire, plan, plans};
pub use scrub::{Found, ScrubOptions, Scrubbed, scrub};
pub use sweep::Swept;
