//! Which backup, which timelines and which segments lead to a target. Pure: listings in, a route or the reason why not out.

use crate::{BackupDocument, WalView};
use terms::{Lsn, RecoveryTarget, SegmentName, SegmentSize, Timeline};

/// One timeline's part of a path through history: it applies from this position until the next branch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Branch {
    pub timeline: Timeline,
    pub from: Lsn,
}

/// A way through history from the first timeline to the one wanted, oldest branch first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(Vec<Branch>);

impl Path {
    /// From the ancestors of `timeline` as its history file lists them: (timeline, where it was left), oldest first.
    pub fn new(ancestors: &[(Timeline, Lsn)], timeline: Timeline) -> Self {
        let mut from = Lsn::from_bytes(0);
        let mut branches = Vec::new();
        for (ancestor, left_at) in ancestors {
            branches.push(Branch { timeline: *ancestor, from });
            from = *left_at;
        }
        branches.push(Branch { timeline, from });
        Self(branches)
    }

    /// Its branches, oldest first.
    pub fn branches(&self) -> &[Branch] {
        &self.0
    }

    /// The timeline that it leads to.
    pub fn timeline(&self) -> Timeline {
        self.0.last().map_or(Timeline::FIRST, |b| b.timeline)
    }

    /// Which timeline's file recovery reads for the segment with this number: of those that have begun by its end, the newest.
    pub fn segment(&self, number: u64, size: SegmentSize) -> SegmentName {
        let begun = |b: &&Branch| b.from.segment_start(size).bytes() <= number * size.bytes();
        let timeline = self.0.iter().rev().find(begun).map_or(Timeline::FIRST, |b| b.timeline);
        SegmentName::numbered(number, timeline, size)
    }

    /// Whether a backup that ended at `stop` on `timeline` lies on this path.
    pub fn holds(&self, timeline: Timeline, stop: Lsn) -> bool {
        let Some(at) = self.0.iter().position(|b| b.timeline == timeline) else { return false };
        stop >= self.0[at].from && self.0.get(at + 1).is_none_or(|next| stop <= next.from)
    }
}

/// A stretch of the log that is stored without a hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// In order; empty when not even the first is stored.
    pub segments: Vec<SegmentName>,
    /// Where it ends.
    pub end: Lsn,
    /// The segment missing after it, when later ones of the path are stored: then what follows cannot be reached.
    pub hole: Option<SegmentName>,
}

/// Follows the path from the segment that holds `start` as far as segments are stored.
pub fn stretch(path: &Path, view: &WalView, start: Lsn) -> Stretch {
    let size = view.segment_bytes;
    let first = start.bytes() / size.bytes();
    let mut segments = Vec::new();
    let mut number = first;
    while view.has(path.segment(number, size)) {
        segments.push(path.segment(number, size));
        number += 1;
    }
    let missing = path.segment(number, size);
    // Only what the path itself would read counts: an abandoned branch may have grown further.
    let on_path = |segment: u64, timeline: Timeline| segment > number && path.segment(segment, size).timeline() == timeline;
    let later = view.timelines.iter().any(|t| t.runs.iter().any(|run| on_path(run.last, t.timeline)));
    Stretch { segments, end: Lsn::from_bytes(number * size.bytes()), hole: later.then_some(missing) }
}

/// The backups on this path from which the target may be reached, newest first.
/// A time needs a backup that was consistent by then, a position one that ended before it.
pub fn candidates<'a>(backups: &'a [BackupDocument], path: &Path, target: &RecoveryTarget) -> Vec<&'a BackupDocument> {
    let early_enough = |b: &&BackupDocument| match target {
        RecoveryTarget::Time(at) => b.stop.time <= *at,
        RecoveryTarget::Lsn(lsn) => b.stop.lsn <= *lsn,
        RecoveryTarget::Latest | RecoveryTarget::Immediate | RecoveryTarget::Name(_) => true,
    };
    let mut found: Vec<_> = backups.iter().filter(|b| path.holds(b.timeline, b.stop.lsn)).filter(early_enough).collect();
    found.sort_by_key(|b| std::cmp::Reverse((b.stop.lsn, b.id)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SegmentRun, TimelineView};
    use terms::SystemId;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }
    fn timeline(id: u32) -> Timeline {
        Timeline::new(id).unwrap()
    }
    fn view(timelines: &[(u32, &[(u64, u64)])]) -> WalView {
        let timelines = timelines
            .iter()
            .map(|(id, runs)| TimelineView {
                timeline: timeline(*id),
                has_history: *id > 1,
                runs: runs.iter().map(|(first, last)| SegmentRun { first: *first, last: *last }).collect(),
            })
            .collect();
        WalView { system_id: SystemId::new(1), segment_bytes: SIZE, timelines }
    }

    #[test]
    fn the_segment_in_which_history_forks_is_read_from_the_newer_timeline() {
        let path = Path::new(&[(timeline(1), lsn("0/3500000"))], timeline(2));
        assert_eq!(path.segment(2, SIZE).timeline(), timeline(1));
        assert_eq!(path.segment(3, SIZE).timeline(), timeline(2));
        let stretch = stretch(&path, &view(&[(1, &[(1, 3)]), (2, &[(3, 5)])]), lsn("0/1000028"));
        assert_eq!(stretch.segments.len(), 5);
        assert_eq!(stretch.end, lsn("0/6000000"));
        assert_eq!(stretch.hole, None);
    }

    #[test]
    fn a_hole_ends_the_stretch_and_is_named() {
        let path = Path::new(&[], timeline(1));
        let found = stretch(&path, &view(&[(1, &[(1, 3), (5, 9)])]), lsn("0/1000028"));
        assert_eq!(found.end, lsn("0/4000000"));
        assert_eq!(found.hole.unwrap().to_string(), "000000010000000000000004");
        let whole = stretch(&path, &view(&[(1, &[(1, 3)])]), lsn("0/1000028"));
        assert_eq!(whole.hole, None, "the end of what is stored is not a hole");
        let nothing = stretch(&path, &view(&[(1, &[(7, 9)])]), lsn("0/1000028"));
        assert!(nothing.segments.is_empty());
        assert!(nothing.hole.is_some());
    }

    #[test]
    fn segments_of_a_branch_that_was_left_are_no_part_of_the_path() {
        let path = Path::new(&[(timeline(1), lsn("0/3500000"))], timeline(2));
        let found = stretch(&path, &view(&[(1, &[(1, 9)])]), lsn("0/1000028"));
        assert_eq!(found.end, lsn("0/3000000"));
        assert_eq!(found.hole, None, "timeline 2 has nothing stored; timeline 1 past the fork is another history");
    }

    #[test]
    fn a_backup_past_the_fork_is_not_on_the_path() {
        let path = Path::new(&[(timeline(1), lsn("0/3500000"))], timeline(2));
        assert!(path.holds(timeline(1), lsn("0/3500000")));
        assert!(!path.holds(timeline(1), lsn("0/3600000")));
        assert!(path.holds(timeline(2), lsn("0/3600000")));
        assert!(!path.holds(timeline(3), lsn("0/3600000")));
    }
}
