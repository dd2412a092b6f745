//! Damage in the way: where the log ends before it, to the record, and what that loses.

use super::ground::Ground;
use super::log::{Log, SEGMENT, second, size, timeline};
use restore::{OnDamage, RestoreError, Stop, Way, choose};
use std::time::Duration;
use terms::{BackupId, Class, Explain, Lsn, SegmentName};

/// A backup that was consistent at second 100, then a commit in each of five segments, every 10 seconds from 110 on, of which records
/// reach from one into the next; a second backup after the last of them, at second 200, and one more commit at 210.
fn begin() -> (Ground, Log, [BackupId; 2]) {
    let (ground, mut log) = (Ground::new(), Log::new());
    let (start, _) = log.ordinary(50);
    let (_, stop) = log.commit(90, 0);
    let one = ground.backup(1, start, stop, 100);
    for at in 0..5 {
        log.commit(110 + at * 10, 0);
        log.finish_segment();
    }
    let (start, _) = log.ordinary(50);
    let (_, stop) = log.commit(190, 0);
    let two = ground.backup(1, start, stop, 200);
    log.commit(210, 0);
    for _ in 0..2 {
        log.finish_segment();
    }
    (ground, log, [one, two])
}

/// Where the last record ends that ends before this segment, counted from the first of the log.
fn end_before(log: &Log, number: u64) -> Lsn {
    let first = log.records[0].0.bytes() / SEGMENT;
    log.records.iter().map(|(_, end)| *end).filter(|end| end.bytes() <= (first + number) * SEGMENT).max().expect("a record")
}

fn segment(log: &Log, number: u64) -> SegmentName {
    SegmentName::numbered(log.records[0].0.bytes() / SEGMENT + number, timeline(1), size())
}

#[test]
fn a_segment_that_failed_during_replay_is_stopped_before_to_the_record() {
    let (ground, log, [one, two]) = begin();
    ground.store(&log, log.records[0].0);
    ground.index(&log, log.records[0].0);
    let at = log.records[0].0.plus(3 * SEGMENT);
    ground.spoil(1, at);
    let target = second(135).to_string();
    // The second backup came later than what is asked for: the first one must lead there, through the damage.
    // Planning reads the log around the place where it must stop, and meets it there.
    let met = ground.plan(&target, None, None).expect_err("the damage is where recovery must stop");
    assert_eq!(met.class(), Class::Damaged, "{met}");
    let broken = segment(&log, 3);
    let failed = || RestoreError::Broken { target: target.clone(), segment: broken, why: "It does not open.".into(), class: Class::Damaged };
    // Before second 135 only the commit at 130 is in front of the damage; the one at 140 would have been in it.
    let found = ground.alternatives(&target, &failed());
    let ways: Vec<_> = found.iter().map(|other| (other.way, other.plan.backup.id, other.loss.lost)).collect();
    let seconds = |s| Some(Duration::from_secs(s));
    assert_eq!(ways, [(Way::StopBefore, one, seconds(5)), (Way::NearestBackup, one, seconds(35)), (Way::LaterBackup, two, seconds(0))]);
    let stop = end_before(&log, 3);
    assert_eq!(found[0].plan.stop, Stop::EndOfWal { at: stop });
    assert_eq!(found[0].plan.last_record, log.records.iter().find(|(_, end)| *end == stop).map(|(start, _)| *start));
    assert!(found[0].plan.segments.iter().all(|name| *name < broken), "what is damaged is not even offered to the server");
    assert_eq!((found[0].loss.last_kept, found[0].loss.asked), (Some(second(130)), Some(second(135))));
    assert!(found[2].loss.after_target);
    assert!(choose(&found, OnDamage::LaterBackup, false).is_none() && choose(&found, OnDamage::LaterBackup, true).is_some());
    assert!(choose(&found, OnDamage::Refuse, true).is_none());
}

#[test]
fn damage_behind_the_asked_instant_or_before_a_later_backup_loses_nothing() {
    let (ground, log, [one, two]) = begin();
    ground.store(&log, log.records[0].0);
    let failed = |number| RestoreError::Broken { target: "x".into(), segment: segment(&log, number), why: String::new(), class: Class::Missing };
    for (target, number, backup) in [(second(115).to_string(), 2, one), ("latest".to_owned(), 2, two)] {
        let found = ground.alternatives(&target, &failed(number));
        let best = &found[0];
        assert_eq!((best.way, best.plan.backup.id, best.loss.lost), (Way::AnotherBackup, backup, Some(Duration::ZERO)), "to {target}");
    }
}

#[test]
fn a_segment_of_another_cluster_is_named_and_stopped_before() {
    for indexed in [false, true] {
        let (ground, mut log, [one, two]) = begin();
        let first = log.records[0].0;
        // The identifier in the long header of its first page (XLogLongPageHeaderData, src/include/access/xlog_internal.h).
        let last = log.bytes.len() as u64 / SEGMENT - 1;
        log.bytes[(last * SEGMENT) as usize + 24] ^= 1;
        ground.store(&log, first);
        if indexed {
            ground.index(&log, first);
        }
        let error = ground.plan("latest", None, None).expect_err("a strange segment");
        let RestoreError::Foreign { segment: named, .. } = &error else { panic!("indexed {indexed}: {error:?}") };
        assert_eq!(*named, segment(&log, last), "indexed {indexed}");
        let found = ground.alternatives("latest", &error);
        assert_eq!((found[0].way, found[0].plan.backup.id), (Way::StopBefore, two), "indexed {indexed}");
        assert_eq!(found[0].plan.stop, Stop::EndOfWal { at: end_before(&log, last) }, "indexed {indexed}");
        assert!(found.iter().all(|other| other.plan.backup.id != one), "indexed {indexed}");
    }
}
