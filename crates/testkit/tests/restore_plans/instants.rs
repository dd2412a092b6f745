//! Times and positions: the record that decides may reach across segments.

use super::ground::Ground;
use super::log::{Log, SEGMENT, second};
use restore::{RestoreError, Stop};
use terms::Lsn;

/// A backup that was consistent at second 100, in the first segment of a log.
fn begin() -> (Ground, Log) {
    let (ground, mut log) = (Ground::new(), Log::new());
    let (start, _) = log.ordinary(50);
    let (_, stop) = log.commit(90, 0);
    ground.backup(1, start, stop, 100);
    (ground, log)
}

#[test]
fn a_commit_that_reaches_out_of_the_backups_segment_proves_what_lies_before_it() {
    for indexed in [false, true] {
        let (ground, mut log) = begin();
        log.commit(150, 0);
        log.fill(5000);
        let (commit, end) = log.commit(200, 20_000);
        assert!(commit.bytes() / SEGMENT < end.bytes() / SEGMENT);
        for _ in 0..3 {
            log.finish_segment();
        }
        ground.store(&log, commit);
        if indexed {
            ground.index(&log, commit);
        }
        let at = second(160);
        let plan = ground.plan(&at.to_string(), None, None).unwrap_or_else(|e| panic!("indexed {indexed}: {e:?}"));
        assert_eq!(plan.stop, Stop::Time(at), "indexed {indexed}");
        let beyond = ground.plan(&second(200).to_string(), None, None);
        assert!(matches!(beyond, Err(RestoreError::Unreachable { .. })), "indexed {indexed}: {beyond:?}");
    }
}

#[test]
fn every_record_that_ends_at_or_before_a_position_is_replayed_and_no_other() {
    let (ground, mut log) = begin();
    let first = log.position();
    for (at, more) in [(110, 0), (120, 3 << 20), (130, 40), (140, SEGMENT as usize), (150, 0)] {
        log.commit(at, more);
        log.finish_segment();
    }
    log.ordinary(5 << 20);
    log.commit(160, 0);
    log.finish_segment();
    ground.store(&log, first);
    let whole = Lsn::from_bytes(log.position().bytes() / SEGMENT * SEGMENT);
    let ends = log.records.iter().map(|(_, end)| *end).filter(|end| *end >= first && *end < whole);
    let around = ends.step_by(61).flat_map(|end| [Lsn::from_bytes(end.bytes() - 1), end, end.plus(1)]);
    let inside = (first.bytes()..whole.bytes()).step_by(170_003).map(Lsn::from_bytes);
    let valid_to = log.records.iter().map(|(_, end)| *end).filter(|end| *end <= whole).max().expect("a record");
    for lsn in around.chain(inside).filter(|lsn| *lsn >= first && *lsn < valid_to) {
        let plan = ground.plan(&lsn.to_string(), None, None).unwrap_or_else(|e| panic!("to {lsn}: {e:?}"));
        let (before, _) = log.records.iter().find(|(_, end)| *end > lsn).expect("a later record");
        assert_eq!(plan.stop, Stop::Before(*before), "to {lsn}");
    }
    let plan = ground.plan(&valid_to.to_string(), None, None).expect("a plan");
    assert_eq!(plan.stop, Stop::EndOfWal { at: valid_to });
}

#[test]
fn a_page_that_is_begun_and_holds_nothing_is_the_end_and_no_damage() {
    let (ground, mut log) = begin();
    let first = log.position();
    log.commit(110, 0);
    log.finish_segment();
    log.commit(120, 0);
    log.switch_and_begin();
    ground.store(&log, first);
    let behind = ground.plan(&second(130).to_string(), None, None);
    assert!(matches!(behind, Err(RestoreError::Unreachable { .. })), "{behind:?}");
    let Stop::EndOfWal { at } = ground.plan("latest", None, None).expect("a plan").stop else { panic!("there is nothing to stop before") };
    let plan = ground.plan(&at.to_string(), None, None).expect("a plan");
    assert_eq!(plan.stop, Stop::EndOfWal { at }, "just behind the header of a page");
}

#[test]
fn damage_that_ends_the_log_before_the_target_is_told_before_anything_is_touched() {
    for indexed in [false, true] {
        let (ground, mut log) = begin();
        for at in 0..5 {
            log.commit(110 + at * 10, 0);
            log.finish_segment();
        }
        let first = log.records[0].0;
        let (broken, _) = *log.records.iter().find(|(start, _)| start.bytes() / SEGMENT == 5).expect("a record");
        let at = (broken.bytes() - first.bytes() / SEGMENT * SEGMENT) as usize;
        log.bytes[at + 30] ^= 1;
        ground.store(&log, first);
        if indexed {
            ground.index(&log, first);
        }
        let is_cut = |target: String| match ground.plan(&target, None, None) {
            Err(RestoreError::Cut { at, .. }) => assert_eq!(at, broken, "indexed {indexed}, to {target}"),
            other => panic!("indexed {indexed}, to {target}: {other:?}"),
        };
        is_cut(second(155).to_string());
        // What is not indexed is not all read for a plan that has no need to.
        if indexed {
            is_cut("latest".into());
            is_cut(second(135).to_string());
            is_cut(log.records[log.records.len() - 500].0.to_string());
        }
        // In front of the damage all is well.
        assert_eq!(ground.plan(&second(115).to_string(), None, None).expect("a plan").stop, Stop::Time(second(115)));
        if indexed {
            assert_eq!(ground.plan(&broken.to_string(), None, None).expect("a plan").stop, Stop::EndOfWal { at: broken });
        }
    }
}
