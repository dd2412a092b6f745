//! Which backup, which timelines and which segments lead to a target. Pure: listings in, a route or the reason why not out.

use crate::{BackupDocument, Coverage, WalView};
use terms::{Lsn, RecoveryTarget, SegmentName, SegmentSize, Timeline};

/// One timeline's part of a path through history: it applies from this position until the next branch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Branch {
    /// The one that the log is of there.
    pub timeline: Timeline,
    /// Included; 0 for the oldest one.
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

    /// The timeline that the log at this position is of.
    pub fn timeline_at(&self, lsn: Lsn) -> Timeline {
        self.0.iter().rev().find(|branch| branch.from <= lsn).map_or(Timeline::FIRST, |branch| branch.timeline)
    }

    /// Where this path and another part: all before is the same log. `None` when neither ever leaves the other.
    pub fn parts_from(&self, other: &Self) -> Option<Lsn> {
        let mut turns: Vec<Lsn> = self.0.iter().chain(&other.0).map(|branch| branch.from).collect();
        turns.sort_unstable();
        turns.into_iter().find(|at| self.timeline_at(*at) != other.timeline_at(*at))
    }

    /// Where this timeline is left, `Some(None)` for the last one; `None` when it is not on the path.
    fn until(&self, timeline: Timeline) -> Option<Option<Lsn>> {
        let at = self.0.iter().position(|b| b.timeline == timeline)?;
        Some(self.0.get(at + 1).map(|next| next.from))
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
    /// In order; empty when not even the first is stored. Of the last one perhaps only the beginning is, in pieces.
    pub segments: Vec<SegmentName>,
    /// Where it ends.
    pub end: Lsn,
    /// What is not stored, or not to its end, although more of the path once was stored: what follows cannot be reached.
    pub hole: Option<SegmentName>,
    /// A later segment that is stored although this stretch never was known to go on: segments are sent side by side, and
    /// this one arrived before the one that was still on its way when the receiver ended. None of it was ever confirmed.
    pub adrift: Option<SegmentName>,
}

/// So many whole segments at most are on their way to the store at once, small ones; the oldest may be the one that does not arrive.
pub const SEGMENTS_ON_THEIR_WAY: u64 = 8;

/// What is known of how the log came to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// Up to here everything was stored once.
    pub stored: Lsn,
    /// A receiver was at work, which sends segments side by side.
    pub may_overtake: bool,
}

/// Follows the path from the segment that holds `start` as far as segments are stored.
pub fn stretch(path: &Path, view: &WalView, start: Lsn, proof: Proof) -> Stretch {
    let size = view.segment_bytes;
    let mut number = start.bytes() / size.bytes();
    let mut segments = Vec::new();
    let mut end = Lsn::from_bytes(number * size.bytes());
    loop {
        let segment = path.segment(number, size);
        let reach = view.reach(segment);
        if reach > end {
            segments.push(segment);
            end = reach;
        }
        if reach < segment.end(size) {
            break;
        }
        number += 1;
    }
    let missing = path.segment(number, size);
    // Only what the path itself would read counts: an abandoned branch may have grown further.
    let on_path = |segment: u64, timeline: Timeline| segment > number && path.segment(segment, size).timeline() == timeline;
    let later = view.timelines.iter().flat_map(|t| {
        let of_pieces = t.pieces.last().map(|p| p.segment.number(size));
        t.runs.last().map(|r| r.last).into_iter().chain(of_pieces).map(|last| (last, t.timeline))
    });
    let later = later.filter(|(last, timeline)| on_path(*last, *timeline)).max().map(|(last, timeline)| SegmentName::numbered(last, timeline, size));
    // No receiver runs further ahead of what is stored: such a segment proves all that is so far before it.
    let far_ahead = later.is_some_and(|later| later.number(size) - number > SEGMENTS_ON_THEIR_WAY);
    // Segments that an archive_command stored were confirmed one by one: they do not overtake each other.
    let in_order = later.is_some() && !proof.may_overtake;
    Stretch { segments, end, hole: (end < proof.stored || far_ahead || in_order).then_some(missing), adrift: later }
}

/// Up to where all of the path was stored once, as its own objects tell: a coverage mark lies there, a backup was published
/// that needs it, or a piece begins there.
pub fn proven(path: &Path, view: &WalView, coverage: Option<&Coverage>, backups: &[BackupDocument]) -> Lsn {
    let marks = coverage.iter().map(|c| (c.timeline, c.lsn.max(c.stored)));
    let stops = backups.iter().map(|b| (b.timeline, b.stop.lsn));
    let pieces = view.timelines.iter().filter_map(|t| Some((t.timeline, t.pieces.iter().map(|p| p.start).max()?)));
    let on_path = |(timeline, lsn)| path.until(timeline).map(|left_at| left_at.map_or(lsn, |left_at: Lsn| left_at.min(lsn)));
    marks.chain(stops).chain(pieces).filter_map(on_path).max().unwrap_or(Lsn::from_bytes(0))
}

/// The backups on this path from which the target may be reached, newest first.
/// A time needs a backup that was consistent by then, a position one that ended before it.
pub fn candidates<'a>(backups: &'a [BackupDocument], path: &Path, target: &RecoveryTarget) -> Vec<&'a BackupDocument> {
    let early_enough = |b: &&BackupDocument| match target {
        RecoveryTarget::Time(at) => b.stop.time <= *at,
        RecoveryTarget::Lsn(lsn) => b.stop.lsn <= *lsn,
        RecoveryTarget::Latest | RecoveryTarget::Immediate | RecoveryTarget::Name(_) | RecoveryTarget::Xid(_) | RecoveryTarget::BeforeXid(_) => true,
    };
    let mut found: Vec<_> = backups.iter().filter(|b| path.holds(b.timeline, b.stop.lsn)).filter(early_enough).collect();
    found.sort_by_key(|b| std::cmp::Reverse((b.stop.lsn, b.id)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Form, Piece, SegmentRun, TimelineView};
    use terms::SystemId;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }
    fn proof(text: &str) -> Proof {
        Proof { stored: lsn(text), may_overtake: true }
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
                pieces: Vec::new(),
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
        let stretch = stretch(&path, &view(&[(1, &[(1, 3)]), (2, &[(3, 5)])]), lsn("0/1000028"), proof("0/6000000"));
        assert_eq!(stretch.segments.len(), 5);
        assert_eq!(stretch.end, lsn("0/6000000"));
        assert_eq!(stretch.hole, None);
    }

    #[test]
    fn a_hole_ends_the_stretch_and_is_named() {
        let path = Path::new(&[], timeline(1));
        let found = stretch(&path, &view(&[(1, &[(1, 3), (5, 9)])]), lsn("0/1000028"), proof("0/7000000"));
        assert_eq!(found.end, lsn("0/4000000"));
        assert_eq!(found.hole.unwrap().to_string(), "000000010000000000000004");
        let whole = stretch(&path, &view(&[(1, &[(1, 3)])]), lsn("0/1000028"), proof("0/4000000"));
        assert_eq!((whole.hole, whole.adrift), (None, None), "the end of what is stored is not a hole");
        let lost = stretch(&path, &view(&[(1, &[(1, 3)])]), lsn("0/1000028"), proof("0/4000001"));
        assert!(lost.hole.is_some(), "what was stored once and is gone is a hole, also at the end");
        let nothing = stretch(&path, &view(&[(1, &[(7, 9)])]), lsn("0/1000028"), proof("0/2000000"));
        assert!(nothing.segments.is_empty());
        assert!(nothing.hole.is_some());
    }

    #[test]
    fn a_segment_that_overtook_another_is_adrift_and_no_hole() {
        let found = stretch(&Path::new(&[], timeline(1)), &view(&[(1, &[(1, 3), (5, 6)])]), lsn("0/1000028"), proof("0/4000000"));
        assert_eq!(found.hole, None);
        assert_eq!(found.adrift.unwrap().to_string(), "000000010000000000000006");
        let far = stretch(&Path::new(&[], timeline(1)), &view(&[(1, &[(1, 3), (13, 13)])]), lsn("0/1000028"), proof("0/4000000"));
        assert_eq!(far.hole.unwrap().to_string(), "000000010000000000000004", "no receiver runs that far ahead");
        let archived = Proof { may_overtake: false, ..proof("0/4000000") };
        let found = stretch(&Path::new(&[], timeline(1)), &view(&[(1, &[(1, 3), (5, 6)])]), lsn("0/1000028"), archived);
        assert!(found.hole.is_some(), "an archive_command stores one after the other");
    }

    #[test]
    fn pieces_lengthen_the_stretch_and_prove_what_lies_before_them() {
        let piece = |start, end| {
            let (start, end) = (lsn(start), lsn(end));
            Piece { segment: SegmentName::containing(start, timeline(1), SIZE), start, end, session: 1, form: Form::Object }
        };
        let path = Path::new(&[], timeline(1));
        let mut log = view(&[(1, &[(1, 3)])]);
        log.timelines[0].pieces = vec![piece("0/4000000", "0/4000100"), piece("0/4000100", "0/4000300")];
        let found = stretch(&path, &log, lsn("0/1000028"), Proof { stored: proven(&path, &log, None, &[]), may_overtake: true });
        assert_eq!((found.end, found.segments.len(), found.hole), (lsn("0/4000300"), 4, None));
        log.timelines[0].pieces.remove(0);
        let found = stretch(&path, &log, lsn("0/1000028"), Proof { stored: proven(&path, &log, None, &[]), may_overtake: true });
        assert_eq!((found.end, found.segments.len()), (lsn("0/4000000"), 3));
        assert_eq!(found.hole.unwrap().to_string(), "000000010000000000000004", "the piece that is left says that there was more before it");
    }

    #[test]
    fn segments_of_a_branch_that_was_left_are_no_part_of_the_path() {
        let path = Path::new(&[(timeline(1), lsn("0/3500000"))], timeline(2));
        let found = stretch(&path, &view(&[(1, &[(1, 9)])]), lsn("0/1000028"), proof("0/3000000"));
        assert_eq!(found.end, lsn("0/3000000"));
        assert_eq!(found.hole, None, "timeline 2 has nothing stored; timeline 1 past the fork is another history");
    }

    #[test]
    fn two_paths_part_where_their_logs_are_of_different_timelines() {
        let path = |ancestors: &[(u32, &str)], id| {
            let ancestors: Vec<_> = ancestors.iter().map(|(id, left)| (timeline(*id), lsn(left))).collect();
            Path::new(&ancestors, timeline(id))
        };
        let one = path(&[], 1);
        let two = path(&[(1, "0/3500000")], 2);
        let three = path(&[(1, "0/5000000")], 3);
        let four = path(&[(1, "0/3500000"), (2, "0/4000000")], 4);
        // Followed timeline 4 to a place before 4 began, and so never was on it.
        let five = path(&[(1, "0/3500000"), (2, "0/3800000"), (4, "0/3800000")], 5);
        for (left, right, at) in [
            (&one, &two, "0/3500000"),
            (&two, &three, "0/3500000"),
            (&one, &three, "0/5000000"),
            (&three, &four, "0/3500000"),
            (&two, &four, "0/4000000"),
            (&one, &four, "0/3500000"),
            (&four, &five, "0/3800000"),
            (&two, &five, "0/3800000"),
        ] {
            assert_eq!((left.parts_from(right), right.parts_from(left)), (Some(lsn(at)), Some(lsn(at))), "{left:?} {right:?}");
        }
        assert_eq!(four.parts_from(&four), None);
        assert_eq!(four.timeline_at(lsn("0/3500000")), timeline(2));
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
