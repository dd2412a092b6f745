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
    /// Each of these folders would keep others from staying.
    #[error("nothing expires while what is listed is not proven to be of this repository")]
    Unproven { listed: Vec<(String, String)> },
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
                format!("{} Others would go in its place: none did.", each.join(" "))
            }
        }
    }
    fn hint(&self) -> String {
        match self {
            Self::Repo(e) => e.hint(),
            Self::Store(e) => e.hint(),
            Self::Clock { .. } => "Set the clock right (see timedatectl), then expire again.".into(),
            Self::Unproven { .. } => "Where a clock is wrong, set it right. A manifest that is damaged or gone comes back from a copy of the store. What nobody here backed up was listed by somebody who has a credential that writes: change that credential, remove the backup.json in that folder, then expire again.".into(),
        }
    }
}
