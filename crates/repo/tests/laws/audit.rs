//! Laws of the audit: what it calls unreachable is exactly what no backup and no stretch of the log reaches.

use super::index::entry;
use super::*;
use proptest::collection::btree_map;
use repo::audit::{Audit, Evidence, audit};
use repo::reach::{self, Path};
use repo::{BackupDocument, Coverage, IndexedDamage, SegmentRun, TimelineView, WalIndex, WalView};
use std::collections::BTreeMap;
use terms::{RecoveryTarget, SegmentName};

const SIZE: SegmentSize = SegmentSize::DEFAULT;
/// In segment n the transactions end from n × 100 to n × 100 + 60 seconds, at equal distances.
const SPAN: u64 = 100;

fn timeline(id: u32) -> Timeline {
    Timeline::new(id).unwrap()
}
fn seconds(at: u64) -> Timestamp {
    NOW.plus_micros(at as i64 * 1_000_000)
}
/// The position within segment `at / SPAN` that is written at second `at`.
fn lsn_at(at: u64) -> Lsn {
    Lsn::from_bytes(at * SIZE.bytes() / SPAN / 8 * 8)
}

fn backup(writer: &Writer, timeline: Timeline, start: u64, stop: u64) -> BackupDocument {
    let position = |at| WalPosition { lsn: lsn_at(at), time: seconds(at) };
    let document = super::archive::backup(writer, BackupId::begun(seconds(start)));
    BackupDocument { timeline, start: position(start), stop: position(stop), ..document }
}

/// A cluster's archive: which segments of which timeline are there, and the way to each timeline.
struct Archive {
    backups: Vec<BackupDocument>,
    stored: BTreeMap<SegmentName, u64>,
    paths: Vec<Path>,
    index: WalIndex,
}

impl Archive {
    fn new(backups: Vec<BackupDocument>, segments: &[(u32, u64)], paths: Vec<Path>) -> Self {
        let names = segments.iter().map(|(id, number)| SegmentName::numbered(*number, timeline(*id), SIZE));
        let mut archive = Self { backups, stored: names.map(|name| (name, 1000)).collect(), paths, index: WalIndex::default() };
        for name in archive.stored.keys() {
            let begin = (name.number(SIZE) * SPAN) as i64;
            archive.index.add(entry(*name, Some((begin, begin + 60))), NOW);
        }
        archive
    }
    fn lose(&mut self, id: u32, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            self.stored.remove(&SegmentName::numbered(number, timeline(id), SIZE));
        }
    }
    fn evidence(&self) -> Evidence<'_> {
        let Self { backups, stored, paths, index } = self;
        Evidence { backups, segment_bytes: SIZE, stored, paths, index, coverage: None, expiry: None }
    }
    fn audit(&self) -> Audit {
        audit(&self.evidence())
    }
    fn view(&self) -> WalView {
        let mut timelines: Vec<TimelineView> = Vec::new();
        for name in self.stored.keys() {
            if timelines.last().is_none_or(|t| t.timeline != name.timeline()) {
                timelines.push(TimelineView { has_history: true, ..TimelineView::empty(name.timeline()) });
            }
            let (runs, number) = (&mut timelines.last_mut().unwrap().runs, name.number(SIZE));
            runs.push(SegmentRun { first: number, last: number });
        }
        WalView { system_id: SYSTEM, segment_bytes: SIZE, timelines }
    }
    /// How far the log behind this backup can be replayed, and the segments on the way.
    fn replays(&self, path: &Path, backup: &BackupDocument) -> (Lsn, Vec<SegmentName>) {
        let mut stretch = reach::stretch(path, &self.view(), backup.start.lsn, reach::Proof { stored: Lsn::from_bytes(0), may_overtake: true });
        match stretch.segments.iter().position(|s| self.index.entry(*s).is_some_and(|e| e.damaged.is_some())) {
            Some(at) => {
                stretch.segments.truncate(at + 1);
                (self.index.entry(stretch.segments[at]).unwrap().damaged.as_ref().unwrap().at, stretch.segments)
            }
            None => (stretch.end, stretch.segments),
        }
    }
    /// Whether a restore to this second finds a backup and, behind it, a transaction that ended later, the log being whole between them.
    fn reaches(&self, path: &Path, at: u64) -> bool {
        reach::candidates(&self.backups, path, &RecoveryTarget::Time(seconds(at))).into_iter().any(|backup| {
            let (end, whole) = self.replays(path, backup);
            end >= backup.stop.lsn && whole.iter().any(|s| self.index.entry(*s).unwrap().max_end > Some(seconds(at)))
        })
    }
}

fn unreachables(audit: &Audit) -> Vec<&repo::audit::Unreachable> {
    audit.gaps.iter().map(|gap| &gap.unreachable).chain(audit.damaged.iter().map(|stretch| &stretch.unreachable)).collect()
}

fn writer() -> Writer {
    wait(create(&Memory::new(), Encryption::Off))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_instant_is_called_unreachable_exactly_when_no_restore_reaches_it(
        starts in btree_map(5u64..35, 10u64..250, 1..5),
        lost in vec(5u64..40, 0..6),
        damaged in vec(5u64..40, 0..3),
    ) {
        let writer = writer();
        let backups: Vec<_> = starts.iter().map(|(segment, took)| backup(&writer, Timeline::FIRST, segment * SPAN + 30, segment * SPAN + 30 + took)).collect();
        let all: Vec<(u32, u64)> = (5..40).map(|number| (1, number)).collect();
        let path = Path::new(&[], Timeline::FIRST);
        let mut archive = Archive::new(backups, &all, vec![path.clone()]);
        archive.lose(1, lost.iter().copied());
        for number in &damaged {
            let name = SegmentName::numbered(*number, Timeline::FIRST, SIZE);
            let begin = (number * SPAN) as i64;
            // The transactions before the damage are known.
            let found = IndexedDamage { at: name.start(SIZE).plus(SIZE.bytes() / 8), reason: "BadCrc".into() };
            archive.index.add(repo::IndexEntry { damaged: Some(found), ..entry(name, Some((begin, begin + 10))) }, NOW.plus_micros(1));
        }
        let found = archive.audit();
        let oldest = archive.backups.iter().map(|b| b.stop.time).min().unwrap();
        let end = archive.stored.keys().rfind(|s| archive.index.entry(**s).unwrap().damaged.is_none()).map_or(0, |s| s.number(SIZE) * SPAN + 60);
        for at in (0..end).filter(|at| seconds(*at) >= oldest) {
            let told = unreachables(&found).iter().any(|u| u.from.is_none_or(|from| from <= seconds(at)) && u.until.is_none_or(|until| seconds(at) < until));
            let reached = archive.reaches(&path, at);
            // Between two segments there is a while without a transaction: the last one before a break is what counts.
            prop_assert_eq!(reached, !told, "second {}: {:#?}", at, found);
        }
        for backup in &archive.backups {
            let told = unreachables(&found).iter().any(|u| u.broken.contains(&backup.id));
            prop_assert_eq!(told, archive.replays(&path, backup).0 < backup.stop.lsn, "{:?}: {:#?}", backup, found);
        }
        let missing: Vec<SegmentName> = found.gaps.iter().flat_map(|gap| {
            (gap.first_missing.number(SIZE)..=gap.last_missing.number(SIZE)).map(|n| SegmentName::numbered(n, gap.timeline, SIZE))
        }).collect();
        let first = archive.backups.iter().map(|b| b.start.lsn.bytes() / SIZE.bytes()).min().unwrap();
        let last = archive.stored.keys().next_back().map_or(0, |s| s.number(SIZE)).max(archive.backups.iter().map(|b| b.stop.lsn.bytes() / SIZE.bytes()).max().unwrap());
        let wanted: Vec<SegmentName> = (first..=last).map(|n| SegmentName::numbered(n, Timeline::FIRST, SIZE)).filter(|s| !archive.stored.contains_key(s)).collect();
        prop_assert_eq!(missing, wanted);
        prop_assert_eq!(found.is_proven(), found.gaps.is_empty() && found.damaged.is_empty());
    }
}

#[test]
fn an_archive_without_a_gap_is_proven_and_says_from_where_to_where() {
    let writer = writer();
    let mut archive = Archive::new(vec![backup(&writer, timeline(1), 530, 640)], &[], vec![Path::new(&[], timeline(1))]);
    assert!(archive.audit().gaps.len() == 1, "not even the backup's own log is there");
    let stored: Vec<(u32, u64)> = (3..9).map(|n| (1, n)).collect();
    archive = Archive::new(archive.backups, &stored, archive.paths);
    let found = archive.audit();
    assert!(found.is_proven(), "{found:#?}");
    assert_eq!((found.segments, found.from.unwrap().lsn), (4, lsn_at(530)), "what lies before the oldest backup does not matter");
    let to = found.to.unwrap();
    assert_eq!((to.lsn, to.time), (lsn_at(900), Some(seconds(860))));
    let no_backup = Archive::new(Vec::new(), &stored, vec![Path::new(&[], timeline(1))]).audit();
    assert!(!no_backup.is_whole() && no_backup.without_backup == [timeline(1)]);
}

#[test]
fn what_is_not_indexed_or_left_open_is_not_proven_and_a_changed_size_is_told() {
    let writer = writer();
    let stored: Vec<(u32, u64)> = (5..12).map(|n| (1, n)).collect();
    let mut archive = Archive::new(vec![backup(&writer, timeline(1), 530, 640)], &stored, vec![Path::new(&[], timeline(1))]);
    let name = |n| SegmentName::numbered(n, timeline(1), SIZE);
    let mut index = WalIndex::default();
    for n in [5, 6, 8, 9, 10, 11] {
        let open = [9, 11].contains(&n).then_some(name(n).end(SIZE));
        index.add(repo::IndexEntry { open, ..entry(name(n), None) }, NOW);
    }
    archive.index = index;
    archive.stored.insert(name(8), 999);
    let found = archive.audit();
    assert_eq!(found.unindexed, [name(7), name(9)], "the log's end may be open");
    assert_eq!(found.size_mismatches.iter().map(|m| (m.segment, m.bytes_stored, m.bytes_indexed)).collect::<Vec<_>>(), [(name(8), 999, 1000)]);
    assert!(!found.is_whole());
    archive.stored.insert(name(8), 1000);
    assert!(archive.audit().is_whole() && !archive.audit().is_proven());
}

#[test]
fn each_timeline_is_followed_and_a_gap_is_told_once() {
    let writer = writer();
    let fork = lsn_at(850);
    let paths = vec![Path::new(&[], timeline(1)), Path::new(&[(timeline(1), fork)], timeline(2))];
    // The first timeline's server went on for a while after the standby was promoted.
    let stored: Vec<(u32, u64)> = (5..12).map(|n| (1, n)).chain((8..14).map(|n| (2, n))).collect();
    let mut archive = Archive::new(vec![backup(&writer, timeline(1), 530, 640)], &stored, paths);
    assert!(archive.audit().is_proven());
    assert_eq!(archive.audit().segments, 13);
    assert_eq!(archive.audit().to.unwrap().timeline, timeline(2));
    archive.lose(1, [7, 10]);
    archive.lose(2, [12]);
    let found = archive.audit();
    let gaps: Vec<(u32, u64, u64)> =
        found.gaps.iter().map(|g| (g.timeline.id(), g.first_missing.number(SIZE), g.last_missing.number(SIZE))).collect();
    assert_eq!(gaps, [(1, 7, 7), (1, 10, 10), (2, 12, 12)]);
    assert_eq!(found.gaps[0].unreachable.from, Some(seconds(660)));
    assert_eq!((found.gaps[0].unreachable.until, found.gaps[0].unreachable.after), (None, None));
    let are_last: Vec<bool> = found.gaps.iter().map(|gap| gap.unreachable.is_last).collect();
    assert_eq!(are_last, [true, false, true], "what follows on the timeline that was left no backup mends");
    archive.backups.push(backup(&writer, timeline(2), 1320, 1340));
    assert!(archive.audit().gaps.iter().all(|gap| !gap.unreachable.is_last), "a backup begins behind all of them");
    archive.backups.pop();
    // The log up to the fork is asked for although nothing of the new timeline is there yet.
    archive.lose(1, 6..12);
    archive.lose(2, 8..14);
    let found = archive.audit();
    assert_eq!(found.gaps.iter().map(|g| (g.first_missing.number(SIZE), g.last_missing.number(SIZE))).collect::<Vec<_>>(), [(6, 7)]);
}

#[test]
fn what_coverage_promises_must_be_there() {
    let writer = writer();
    let stored: Vec<(u32, u64)> = (5..12).map(|n| (1, n)).collect();
    let archive = Archive::new(vec![backup(&writer, timeline(1), 530, 640)], &stored, vec![Path::new(&[], timeline(1))]);
    for (at, missing) in [(1150, 0), (1200, 0), (1250, 0), (1300, 1), (1450, 2)] {
        let coverage = Coverage::new(SYSTEM, timeline(1), lsn_at(at), seconds(at));
        let found = audit(&Evidence { coverage: Some(&coverage), ..archive.evidence() });
        let count: u64 = found.gaps.iter().map(|g| g.last_missing.number(SIZE) - g.first_missing.number(SIZE) + 1).sum();
        assert_eq!(count, missing, "covered to {at}");
        assert_eq!(found.to.unwrap().time, Some(seconds(at.max(1160))));
    }
}
