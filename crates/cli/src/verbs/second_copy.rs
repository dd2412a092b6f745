//! Whether a second copy of the repository is there, and how far it is behind.

use crate::fault::Fault;
use crate::show::duration;
use crate::wiring::Wiring;
use repo::Reader;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use terms::{BackupId, Class, Clock, SystemClock, Timestamp};

/// A copy that is further behind is as good as none for an objective of an hour.
const LAG_MAX: Duration = Duration::from_secs(3600);
/// What a backup has to be on its way for before its absence is a fault: a large one takes time to be copied.
const WAY_MAX: Duration = Duration::from_secs(3600);

/// How the second copy stands.
pub struct SecondCopy {
    pub address: String,
    /// Of the backups, those that it has.
    backups: (usize, usize),
    missing: Vec<BackupId>,
    /// How much later the repository's mark of completeness is than the copy's; `None` when one of them has none.
    lag: Option<Duration>,
    is_late: bool,
}

impl SecondCopy {
    /// Compares the configured copy with the repository; `None` when none is configured.
    pub async fn look(wiring: &Wiring, reader: &Reader) -> Option<Result<Self, Fault>> {
        Some(match wiring.replica().await? {
            Ok(copy) => Self::compare(reader, &copy).await,
            Err(fault) => Err(fault),
        })
    }

    async fn compare(reader: &Reader, copy: &Reader) -> Result<Self, Fault> {
        if copy.document().id != reader.document().id {
            let hint = "Let [repository] replica name the bucket that this repository is replicated to.";
            let what = format!("{} is no copy of {}", copy.address(), reader.address());
            return Err(Fault::of("replica-foreign", Class::Refused, what, "it is another repository.", hint));
        }
        let (ours, theirs) = (reader.backups().await?, copy.backups().await?);
        let theirs: BTreeSet<BackupId> = theirs.iter().map(|backup| backup.id).collect();
        let missing: Vec<_> = ours.iter().filter(|backup| !theirs.contains(&backup.id)).collect();
        let (mut lag, mut has_no_mark) = (None, false);
        if let Some(epoch) = reader.epoch() {
            let (here, there) = (reader.coverage(epoch.system_id).await?, copy.coverage(epoch.system_id).await?);
            has_no_mark = here.is_some() && there.is_none();
            lag = here.zip(there).map(|(here, there)| Duration::from_secs_f64(here.time.seconds_since(there.time).max(0.0)));
        }
        let is_late = is_late(missing.iter().map(|backup| backup.stop.time), lag, SystemClock.now()) || has_no_mark;
        let backups = (ours.len() - missing.len(), ours.len());
        Ok(Self { address: copy.address(), backups, missing: missing.iter().map(|backup| backup.id).collect(), lag, is_late })
    }

    /// Whether it is further behind than it should be.
    pub fn is_late(&self) -> bool {
        self.is_late
    }

    /// One line.
    pub fn words(&self) -> String {
        let behind = self.lag.map_or_else(|| "how far its WAL is behind is not known".into(), |lag| format!("{} behind", duration(lag)));
        format!("{}: {behind}, {} of {} backups are listed there", self.address, self.backups.0, self.backups.1)
    }

    pub fn json(&self) -> Value {
        json!({ "address": self.address, "lag_seconds": self.lag.map(|lag| lag.as_secs_f64()), "missing": self.missing, "late": self.is_late })
    }
}

/// `missing` tells when each backup ended that the copy lacks.
fn is_late(mut missing: impl Iterator<Item = Timestamp>, lag: Option<Duration>, now: Timestamp) -> bool {
    missing.any(|at| now.seconds_since(at) > WAY_MAX.as_secs_f64()) || lag.is_some_and(|lag| lag > LAG_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_late_when_its_log_or_a_backup_is_an_hour_behind() {
        let now = SystemClock.now();
        let ago = |minutes: i64| now.plus_micros(-minutes * 60_000_000);
        let minutes = |minutes: u64| Some(Duration::from_secs(minutes * 60));
        for (missing, lag, late) in
            [(vec![], minutes(59), false), (vec![], minutes(61), true), (vec![ago(59)], None, false), (vec![ago(5), ago(61)], minutes(0), true)]
        {
            assert_eq!(is_late(missing.iter().copied(), lag, now), late, "{missing:?} {lag:?}");
        }
    }
}
