//! Object lock: until when a stored version may not be removed or replaced by anybody, whatever credential is stolen.

use crate::ObjectPath;
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
    pub mode: LockMode,
    /// How long, from the put on.
    pub keep: Duration,
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
