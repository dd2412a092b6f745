//! What an attempt found unusable in the repository: the next plan goes as if it were not there.

use crate::RestoreError;
use repo::{RepoError, WalView};
use seal::SealError;
use std::collections::BTreeSet;
use terms::{BackupId, Class, Explain, SegmentName, Timeline, WalName};

/// Everything that is known to be damaged or missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spoiled {
    /// None of their bytes can be had.
    segments: BTreeSet<SegmentName>,
    /// They can be read, and the log in them breaks off.
    broken: BTreeSet<SegmentName>,
    histories: BTreeSet<Timeline>,
    backups: BTreeSet<BackupId>,
}

/// One thing that is damaged or missing, as an error tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thing {
    Segment(SegmentName),
    Break(SegmentName),
    History(Timeline),
    Backup(BackupId),
}

impl Spoiled {
    /// Notes what this error is about. False when it is no damage that a plan could go around, or none that was not known.
    pub fn learn(&mut self, error: &RestoreError) -> bool {
        match thing(error) {
            Some(Thing::Segment(segment)) => self.segments.insert(segment),
            Some(Thing::Break(segment)) => self.broken.insert(segment),
            Some(Thing::History(timeline)) => self.histories.insert(timeline),
            Some(Thing::Backup(backup)) => self.backups.insert(backup),
            None => false,
        }
    }

    /// Backups that cannot be read.
    pub fn backups(&self) -> &BTreeSet<BackupId> {
        &self.backups
    }

    pub(crate) fn is_segment(&self, segment: SegmentName) -> bool {
        self.segments.contains(&segment)
    }

    pub(crate) fn breaks(&self, segment: SegmentName) -> bool {
        self.broken.contains(&segment)
    }

    pub(crate) fn is_history(&self, timeline: Timeline) -> bool {
        self.histories.contains(&timeline)
    }

    pub(crate) fn histories(&self) -> impl Iterator<Item = Timeline> + '_ {
        self.histories.iter().copied()
    }

    /// Takes out of the view what cannot be used. Where a timeline without its history parted from the others is not known to the
    /// byte: it was in the first segment that is stored of it, and what an older timeline holds from there on may be a life of its own.
    pub(crate) fn leave_out(&self, view: &mut WalView) {
        let size = view.segment_bytes;
        let parted: Vec<_> = self.histories.iter().filter_map(|t| Some((*t, view.first_of(*t)?.number(size)))).collect();
        let is_past = |segment: SegmentName| parted.iter().any(|(t, number)| segment.timeline() < *t && segment.number(size) >= *number);
        if !self.segments.is_empty() || !parted.is_empty() {
            view.leave_out(|segment| self.segments.contains(&segment) || is_past(segment));
        }
    }
}

fn thing(error: &RestoreError) -> Option<Thing> {
    match error {
        RestoreError::Hole { missing, promised: None, .. } => Some(Thing::Segment(*missing)),
        RestoreError::Cut { segment, .. } | RestoreError::Hole { missing: segment, .. } => Some(Thing::Break(*segment)),
        RestoreError::Broken { segment, .. } | RestoreError::Foreign { segment, .. } => Some(Thing::Segment(*segment)),
        RestoreError::History { timeline, .. } => Some(Thing::History(*timeline)),
        RestoreError::Altered { segment, .. } => Some(Thing::Segment(*segment)),
        RestoreError::Pack { backup, .. } | RestoreError::Chunk { backup, .. } | RestoreError::Backup { backup, .. } => Some(Thing::Backup(*backup)),
        RestoreError::HalfRewritten { source, .. } => thing(source),
        RestoreError::Repo(RepoError::Manifest { backup, .. }) => backup.parse().ok().map(Thing::Backup),
        RestoreError::Repo(RepoError::Document { path, .. } | RepoError::Newer { path, .. }) => at(path),
        RestoreError::Repo(RepoError::Object { path, source }) if is_damage(source) => at(path),
        _ => None,
    }
}

/// Whether this error says that an object is damaged or gone for good.
pub(crate) fn is_spoiled(error: &RestoreError) -> bool {
    matches!(error, RestoreError::Fetch { .. }) || thing(error).is_some()
}

/// Whether sealed bytes are not what was stored; a key that is missing here says nothing of them.
pub(crate) fn is_damage(error: &SealError) -> bool {
    error.class() == Class::Damaged || matches!(error, SealError::Unsealed)
}

/// What lies at a path of the repository (docs/format.md, names).
fn at(path: &str) -> Option<Thing> {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["full", backup, ..] => backup.parse().ok().map(Thing::Backup),
        ["wal", _, name] => match name.parse() {
            Ok(WalName::History(timeline)) => Some(Thing::History(timeline)),
            _ => None,
        },
        ["wal", _, _, name] => name.parse().ok().map(Thing::Segment),
        ["wal", _, _, pieces, _] => pieces.strip_suffix(".pieces")?.parse().ok().map(Thing::Segment),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(path: &str) -> RestoreError {
        RestoreError::Repo(RepoError::Object { path: path.into(), source: SealError::Forged { number: 0 } })
    }

    #[test]
    fn an_object_is_known_by_its_path_and_learnt_once() {
        let mut spoiled = Spoiled::default();
        for (path, is_known) in [
            ("wal/7412345678901234567/00000001/000000010000000000000003", true),
            ("wal/7412345678901234567/00000001/000000010000000000000003", false),
            ("wal/7412345678901234567/00000001/000000010000000000000004.pieces/0000000004000000-0000000004000123-00000007", true),
            ("wal/7412345678901234567/00000002.history", true),
            ("wal/7412345678901234567/00000001/index/000000010000000000000003-000000010000000000000004", false),
            ("full/20261122T020000Z/manifest", true),
            ("full/20261122T020000Z/data/000001", false),
            ("repository.json", false),
            ("coverage.json", false),
        ] {
            assert_eq!(spoiled.learn(&object(path)), is_known, "{path}");
        }
        assert_eq!((spoiled.segments.len(), spoiled.histories.len(), spoiled.backups.len()), (2, 1, 1));
    }

    #[test]
    fn a_key_that_is_not_there_is_no_damage() {
        let key = SealError::NewerFormat { found: 9, known: 1 };
        let error = RestoreError::Repo(RepoError::Object { path: "full/20261122T020000Z/manifest".into(), source: key });
        assert!(!Spoiled::default().learn(&error));
    }
}
