//! Where a restore point's name was given: whoever restores to it must mean one place.

use crate::RestoreError;
use crate::plan::Planner;
use repo::BackupDocument;
use repo::reach::Stretch;
use std::collections::BTreeMap;
use terms::{Lsn, SegmentName};

/// Every place of one name.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// In order; also those at which no backup is consistent yet.
    all: Vec<Lsn>,
    /// The one that a backup leads to.
    pub(crate) meant: Option<Lsn>,
}

impl Places {
    /// A place that is known already.
    pub(crate) fn only(place: Lsn) -> Self {
        Self { all: vec![place], meant: Some(place) }
    }

    /// Whether a replay from `start` on meets this place before any other.
    pub(crate) fn is_first_from(&self, start: Lsn, place: Lsn) -> bool {
        self.all.iter().find(|lsn| **lsn > start) == Some(&place)
    }
}

impl Planner<'_> {
    /// Looks for a name in everything that these backups reach, not only behind the newest: a name that was given again is asked
    /// back, wherever the backups happen to lie. A single backup that was asked for decides by what is reached from it.
    pub(crate) async fn places_of(&self, name: &str, backups: &[&BackupDocument]) -> Result<Places, RestoreError> {
        let mut backups = backups.to_vec();
        backups.sort_by_key(|b| b.start.lsn);
        let mut segments: BTreeMap<u64, SegmentName> = BTreeMap::new();
        // From where a backup is consistent to where the log behind it ends.
        let mut reached: Vec<(Lsn, Lsn)> = Vec::new();
        let mut stretch: Option<Stretch> = None;
        for backup in backups {
            // What begins within a stretch goes on to the same end.
            let within = stretch.take().filter(|before| backup.start.lsn < before.end);
            let behind = within.unwrap_or_else(|| self.stretch(backup.start.lsn));
            segments.extend(behind.segments.iter().map(|segment| (segment.number(self.log.size), *segment)));
            reached.push((backup.stop.lsn, behind.end));
            stretch = Some(behind);
        }
        let segments: Vec<SegmentName> = segments.into_values().collect();
        let index = self.log.index(&segments).await?;
        let found = self.log.restore_points(&segments, &index, name).await?;
        let is_reached = |lsn: Lsn| reached.iter().any(|(stop, end)| (*stop..=*end).contains(&lsn));
        let meant: Vec<_> = found.iter().filter(|(lsn, _)| is_reached(*lsn)).collect();
        if meant.len() > 1 {
            let places = meant.iter().map(|(lsn, at)| format!("{lsn} at {at}")).collect();
            return Err(RestoreError::SeveralPoints { name: name.to_owned(), places });
        }
        Ok(Places { all: found.iter().map(|(lsn, _)| *lsn).collect(), meant: meant.first().map(|(lsn, _)| *lsn) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_first_only_when_no_other_lies_between_it_and_the_start() {
        let [early, place, late] = [100, 200, 300].map(Lsn::from_bytes);
        let places = Places { all: vec![early, place, late], meant: Some(place) };
        assert!(places.is_first_from(early, place) && places.is_first_from(Lsn::from_bytes(150), place));
        assert!(!places.is_first_from(Lsn::from_bytes(50), place) && !places.is_first_from(place, place));
    }
}
