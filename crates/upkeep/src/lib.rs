//! Keeps a repository in bounds: what retention no longer wants goes, late and piece by piece. The only room that removes anything.

mod error;
mod expire;
mod known;
mod sweep;

pub use error::UpkeepError;
pub use expire::{ExpireOptions, Expired, expire, plan};
pub use sweep::Swept;
