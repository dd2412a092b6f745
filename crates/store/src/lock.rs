//! Object lock: until when a stored version may not be removed or replaced by anybody, whatever credential is stolen.

use crate::past::by_object;
use crate::{ObjectPath, Sight, StoreError, Versions};
use futures::stream::TryStreamExt;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use terms::Timestamp;

/// Who may shorten a lock (Amazon S3 User Guide, "Locking objects with Object Lock").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Whoever holds `s3:BypassGovernanceRetention`.
    Governance,
    /// Nobody, the account's owner included.
    Compliance,
}

impl fmt::Display for LockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Governance => "governance",
            Self::Compliance => "compliance",
        })
    }
}

impl FromStr for LockMode {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "governance" => Ok(Self::Governance),
            "compliance" => Ok(Self::Compliance),
            other => Err(format!("{other:?} is no mode of object lock; it is governance or compliance")),
        }
    }
}

impl LockMode {
    /// As the protocol writes it.
    pub(crate) fn wire(self) -> &'static str {
        match self {
            Self::Governance => "GOVERNANCE",
            Self::Compliance => "COMPLIANCE",
        }
    }
}

/// The lock that each new object gets, but for those that `is_free` lets out: what is replaced all the time need not outlive an attack,
/// and its old versions would pile up.
#[derive(Debug, Clone, Copy)]
pub struct ObjectLock {
    /// Who may shorten it.
    pub mode: LockMode,
    /// How long, from the put on.
    pub keep: Duration,
    /// Whether the object at this path, below the store's root, gets none.
    pub is_free: fn(&str) -> bool,
}

impl ObjectLock {
    /// Until when an object that is stored now is locked, in whole seconds.
    pub fn until(&self, now: Timestamp) -> Timestamp {
        let seconds = now.unix_micros().div_euclid(1_000_000) + self.keep.as_secs() as i64;
        Timestamp::from_unix_micros(seconds * 1_000_000)
    }

    pub(crate) fn covers(&self, path: &str) -> bool {
        ObjectPath::new(path).is_ok() && !(self.is_free)(path)
    }
}

/// Requests under way at once.
const AT_ONCE: usize = 16;

/// What a look at the locks below a prefix found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extended {
    /// Objects with a version that must stay, whether its lock was extended or not.
    pub objects: u64,
    /// Those whose lock was to end within half its time, was weaker than it is to be, or was none.
    pub extended: u64,
    /// Objects that somebody removed: their old versions are there, and nobody asked for them to be kept.
    pub removed: u64,
}

/// Extends each lock below `prefix` that ends within half of the lock's time, to all of it from now on. Each object is asked, however young:
/// it may have been stored under a shorter lock, or none. Of what is written once the version is locked that `sight` sees; of what is
/// replaced every version, since the newest may be an intruder's.
pub async fn extend_locks(door: &dyn Versions, prefix: &str, sight: Sight, lock: &ObjectLock, now: Timestamp) -> Result<Extended, StoreError> {
    let half = lock.keep.as_secs_f64() / 2.0;
    let (until, found) = (lock.until(now), std::sync::Mutex::new(Extended::default()));
    let note = |change: fn(&mut Extended)| change(&mut found.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    by_object(door.versions(prefix.to_owned()))
        .try_for_each_concurrent(AT_ONCE, |(path, versions)| async move {
            if !lock.covers(path.as_str()) {
                return Ok(());
            }
            let must_stay = sight.must_stay(&versions);
            note(if must_stay.is_empty() { |found| found.removed += 1 } else { |found| found.objects += 1 });
            let mut is_extended = false;
            for version in must_stay {
                let found = door.locked_until(&path, &version.id).await?;
                let is_weaker = |mode| lock.mode == LockMode::Compliance && mode == LockMode::Governance;
                if !found.is_some_and(|(mode, end)| end.seconds_since(now) >= half && !is_weaker(mode)) {
                    door.lock_version(&path, &version.id, lock.mode, until).await?;
                    is_extended = true;
                }
            }
            if is_extended {
                note(|found| found.extended += 1);
            }
            Ok(())
        })
        .await?;
    Ok(found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}
