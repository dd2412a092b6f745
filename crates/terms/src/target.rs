//! How far a recovery should go.

use crate::{Lsn, ParseError, Timestamp};
use std::{fmt, str::FromStr};

/// The instant to which a cluster is to be recovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// Everything that is stored.
    Latest,
    /// The end of the backup itself: the first consistent state.
    Immediate,
    /// Everything before the first commit or abort stamped later than this.
    Time(Timestamp),
    /// Every record that ends at or before this position.
    Lsn(Lsn),
    /// The restore point of this name (`pg_create_restore_point`).
    Name(String),
    /// Everything up to the end of this transaction, committed or rolled back, as `pg_current_xact_id()` names it. Only the low
    /// 32 bits are in the log.
    Xid(u64),
    /// Everything that ended before that transaction did.
    BeforeXid(u64),
}

/// The first transaction that a user can have (`FirstNormalTransactionId`, src/include/access/transam.h).
const FIRST_NORMAL_XID: u32 = 3;

impl fmt::Display for RecoveryTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Immediate => f.write_str("immediate"),
            Self::Time(at) => write!(f, "{at}"),
            Self::Lsn(lsn) => write!(f, "{lsn}"),
            Self::Name(name) => write!(f, "name:{name}"),
            Self::Xid(xid) => write!(f, "xid:{xid}"),
            Self::BeforeXid(xid) => write!(f, "before xid:{xid}"),
        }
    }
}

impl RecoveryTarget {
    /// Reads what [`FromStr`] does, and a distance before `now`, such as `10 minutes ago`; it becomes a time.
    pub fn parse_at(text: &str, now: Timestamp) -> Result<Self, ParseError> {
        if let Some(rest) = text.strip_prefix(BEFORE) {
            return Self::parse_at(rest, now)?.before().ok_or_else(|| wrong(text));
        }
        let is_distance = text.trim_end().ends_with(" ago") && !text.starts_with("name:");
        if is_distance { Timestamp::parse_at(text, now).map(Self::Time) } else { text.parse() }
    }

    /// The same without what ends at it; `None` where that makes no difference: a position is between two records, a name and the
    /// ends of the log are no transaction's. The log's stamps are whole microseconds.
    fn before(self) -> Option<Self> {
        match self {
            Self::Time(at) => Some(Self::Time(at.plus_micros(-1))),
            Self::Xid(xid) => Some(Self::BeforeXid(xid)),
            Self::Latest | Self::Immediate | Self::Lsn(_) | Self::Name(_) | Self::BeforeXid(_) => None,
        }
    }
}

/// Leaves out what ends at the target, as PostgreSQL's `recovery_target_inclusive = off` does.
const BEFORE: &str = "before ";

fn wrong(text: &str) -> ParseError {
    ParseError::new(
        "a recovery target: latest, immediate, a time with its zone (\"2026-11-22 14:05:00 UTC\") or \"10 minutes ago\", an LSN (16/B374D848), xid:NUMBER or name:RESTORE_POINT; \"before TIME\" or \"before xid:NUMBER\" leaves out what ended right then",
        text,
    )
}

impl FromStr for RecoveryTarget {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || wrong(text);
        match text {
            "latest" => return Ok(Self::Latest),
            "immediate" => return Ok(Self::Immediate),
            _ => {}
        }
        if let Some(rest) = text.strip_prefix(BEFORE) {
            return rest.parse::<Self>().ok().and_then(Self::before).ok_or_else(wrong);
        }
        if let Some(name) = text.strip_prefix("name:") {
            // PostgreSQL's limit: MAXFNAMELEN - 1 (src/backend/access/transam/xlogrecovery.c).
            return if name.is_empty() || name.len() > 63 { Err(wrong()) } else { Ok(Self::Name(name.to_owned())) };
        }
        if let Some(number) = text.strip_prefix("xid:") {
            let xid = number.parse::<u64>().ok().filter(|xid| number.bytes().all(|b| b.is_ascii_digit()) && *xid as u32 >= FIRST_NORMAL_XID);
            return xid.map(Self::Xid).ok_or_else(wrong);
        }
        if let Ok(lsn) = text.parse() {
            return Ok(Self::Lsn(lsn));
        }
        text.parse().map(Self::Time).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_reads_back_what_it_prints() {
        for text in
            ["latest", "immediate", "16/B374D848", "name:before-migration", "xid:742", "xid:4294968038", "before xid:742", "2026-11-22 14:05:00 UTC"]
        {
            assert_eq!(text.parse::<RecoveryTarget>().unwrap().to_string(), text);
        }
        let now = "2026-11-22 14:05:00 UTC".parse().unwrap();
        assert_eq!(RecoveryTarget::parse_at("5 minutes ago", now).unwrap().to_string(), "2026-11-22 14:00:00 UTC");
        assert_eq!(RecoveryTarget::parse_at("name:long ago", now).unwrap().to_string(), "name:long ago");
        assert_eq!(RecoveryTarget::parse_at("before 5 minutes ago", now).unwrap().to_string(), "2026-11-22 13:59:59.999999 UTC");
        assert_eq!("before 2026-11-22 14:05:00 UTC".parse::<RecoveryTarget>().unwrap().to_string(), "2026-11-22 14:04:59.999999 UTC");
        for indifferent in ["before latest", "before 16/B374D848", "before name:x", "before before xid:9", "before "] {
            assert!(indifferent.parse::<RecoveryTarget>().is_err() && RecoveryTarget::parse_at(indifferent, now).is_err(), "{indifferent:?}");
        }
        for wrong in ["", "name:", "2026-11-22 14:05", "lates", "xid:", "xid:+9", "xid:2", "xid:4294967296", "xid:x"] {
            assert!(wrong.parse::<RecoveryTarget>().is_err(), "{wrong:?}");
        }
    }
}
