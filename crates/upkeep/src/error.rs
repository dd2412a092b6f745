//! Why nothing was removed.

use repo::RepoError;
use store::StoreError;
use terms::{Class, Explain, Timestamp};

/// Why a run of upkeep failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum UpkeepError {
    #[error(transparent)]
    Repo(#[from] RepoError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Two clocks that ought to agree do not: whichever is wrong, what is old cannot be told.
    #[error("nothing expires while the clock cannot be believed")]
    Clock { ours: Timestamp, other: Timestamp, whose: &'static str },
}

impl Explain for UpkeepError {
    fn slug(&self) -> &'static str {
        match self {
            Self::Repo(e) => e.slug(),
            Self::Store(e) => e.slug(),
            Self::Clock { .. } => "clock-jumped",
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::Repo(e) => e.class(),
            Self::Store(e) => e.class(),
            Self::Clock { .. } => Class::Refused,
        }
    }
    fn detail(&self) -> String {
        match self {
            Self::Repo(e) => e.detail(),
            Self::Store(e) => e.detail(),
            Self::Clock { ours, other, whose } => format!("This host's clock says {ours}, {whose} {other}: more than a day apart."),
        }
    }
    fn hint(&self) -> String {
        match self {
            Self::Repo(e) => e.hint(),
            Self::Store(e) => e.hint(),
            Self::Clock { .. } => "Set the clock right (see timedatectl), then expire again.".into(),
        }
    }
}
