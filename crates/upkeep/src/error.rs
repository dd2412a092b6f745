//! Why nothing was removed, or not everything could be judged.

use repo::RepoError;
use std::collections::BTreeMap;
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
    /// Each of these folders would keep others from staying if it were believed. Where it ends a run, the run has done its work.
    #[error("what is listed is not proven to be of this repository, and takes no place")]
    Unproven { listed: BTreeMap<String, String> },
}

impl Explain for UpkeepError {
    fn slug(&self) -> &'static str {
        match self {
            Self::Repo(e) => e.slug(),
            Self::Store(e) => e.slug(),
            Self::Clock { .. } => "clock-jumped",
            Self::Unproven { .. } => "backup-unproven",
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::Repo(e) => e.class(),
            Self::Store(e) => e.class(),
            Self::Clock { .. } => Class::Refused,
            Self::Unproven { .. } => Class::Damaged,
        }
    }
    fn detail(&self) -> String {
        match self {
            Self::Repo(e) => e.detail(),
            Self::Store(e) => e.detail(),
            Self::Clock { ours, other, whose } => format!("This host's clock says {ours}, {whose} {other}: more than a day apart."),
            Self::Unproven { listed } => {
                let each: Vec<String> = listed.iter().map(|(folder, why)| format!("{folder}: {why}.")).collect();
                format!("{} It stays, and all else expires as if it were not there.", each.join(" "))
            }
        }
    }
    fn hint(&self) -> String {
        match self {
            Self::Repo(e) => e.hint(),
            Self::Store(e) => e.hint(),
            Self::Clock { .. } => "Set the clock right (see timedatectl), then expire again.".into(),
            Self::Unproven { .. } => "Where a clock is wrong, set it right; a backup whose time is still to come is proven when it has come. A manifest that is damaged or gone comes back from a copy of the store. What nobody here backed up was listed by somebody who has a credential that writes: change that credential, and remove the backup.json in that folder.".into(),
        }
    }
}
