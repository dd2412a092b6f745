//! How far the second copy of the repository is behind.

use crate::Trouble;
use crate::facts::CopyFacts;
use repo::Reader;
use std::collections::BTreeSet;
use terms::{BackupId, Timestamp};

/// What a backup has to be on its way for before its absence is a fault: a large one takes time to be copied.
const WAY_SECONDS_MAX: f64 = 3600.0;

/// Compares the copy with the repository.
pub async fn compare(reader: &Reader, copy: &Reader, lag_max: f64, now: Timestamp) -> Result<CopyFacts, Trouble> {
    let trouble = |e: repo::RepoError| Trouble::of(&e);
    if copy.document().id != reader.document().id {
        return Err(Trouble {
            slug: "replica-foreign".into(),
            summary: format!("{} is no copy of {}", copy.address(), reader.address()),
            detail: "it is another repository.".into(),
            hint: "Let [repository] replica name the bucket that this repository is replicated to.".into(),
            is_damage: false,
        });
    }
    // One whose document is damaged here is told elsewhere; one whose document is damaged there is missing there.
    let (ours, _) = reader.backups_and_damage().await.map_err(trouble)?;
    let (theirs, _) = copy.backups_and_damage().await.map_err(trouble)?;
    let theirs: BTreeSet<BackupId> = theirs.iter().map(|backup| backup.id).collect();
    let missing: Vec<_> = ours.iter().filter(|backup| !theirs.contains(&backup.id)).collect();
    let (mut lag_seconds, mut has_no_mark) = (None, false);
    if let Some(epoch) = reader.epoch() {
        let (here, there) = (reader.coverage(epoch.system_id).await.map_err(trouble)?, copy.coverage(epoch.system_id).await.map_err(trouble)?);
        has_no_mark = here.is_some() && there.is_none();
        lag_seconds = here.zip(there).map(|(here, there)| here.time.seconds_since(there.time).max(0.0));
    }
    let is_late = is_late(missing.iter().map(|backup| backup.stop.time), lag_seconds, lag_max, now) || has_no_mark;
    Ok(CopyFacts { address: copy.address(), lag_seconds, backups: ours.len() as u64, backups_missing: missing.len() as u64, is_late })
}

/// `missing` tells when each backup ended that the copy lacks.
fn is_late(mut missing: impl Iterator<Item = Timestamp>, lag: Option<f64>, lag_max: f64, now: Timestamp) -> bool {
    missing.any(|at| now.seconds_since(at) > WAY_SECONDS_MAX) || lag.is_some_and(|lag| lag > lag_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_late_when_its_log_or_a_backup_is_an_hour_behind() {
        let now = Timestamp::from_unix_micros(1_800_000_000_000_000);
        let ago = |minutes: i64| now.plus_micros(-minutes * 60_000_000);
        let minutes = |minutes: f64| Some(minutes * 60.0);
        for (missing, lag, late) in
            [(vec![], minutes(59.0), false), (vec![], minutes(61.0), true), (vec![ago(59)], None, false), (vec![ago(5), ago(61)], minutes(0.0), true)]
        {
            assert_eq!(is_late(missing.iter().copied(), lag, 3600.0, now), late, "{missing:?} {lag:?}");
        }
    }
}
