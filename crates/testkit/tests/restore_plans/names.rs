//! A restore point's name: it must be one place, wherever the backups lie.

use super::ground::Ground;
use super::log::{Log, timeline};
use restore::{RestoreError, Stop};
use terms::{BackupId, Lsn};

/// `before` and `after` lie around the second backup, `twice` on either side of it, `within` while it was made.
struct Named {
    ground: Ground,
    log: Log,
    first: Lsn,
    second_backup: BackupId,
    twice: [Lsn; 2],
}

fn named() -> Named {
    let (ground, mut log) = (Ground::new(), Log::new());
    log.point("too early", 50);
    let (first, _) = log.ordinary(50);
    let (_, stop) = log.commit(90, 0);
    ground.backup(1, first, stop, 100);
    log.finish_segment();
    let (_, one) = log.point("twice", 110);
    log.point("before", 115);
    for _ in 0..3 {
        log.finish_segment();
    }
    log.commit(120, 0);
    let (start, _) = log.ordinary(50);
    log.point("within", 125);
    let (_, stop) = log.commit(130, 0);
    let second_backup = ground.backup(1, start, stop, 140);
    log.finish_segment();
    log.point("after", 145);
    let (_, other) = log.point("twice", 150);
    log.finish_segment();
    log.finish_segment();
    log.commit(170, 0);
    log.finish_segment();
    ground.store(&log, first);
    Named { ground, log, first, second_backup, twice: [one, other] }
}

#[test]
fn a_name_that_was_given_on_either_side_of_the_newest_backup_is_asked_back() {
    for indexed in [false, true] {
        let Named { ground, log, first, second_backup, twice, .. } = named();
        if indexed {
            ground.index(&log, first);
        }
        let error = ground.plan("name:twice", None, None).expect_err("two places");
        let detail = terms::Explain::detail(&error);
        assert_eq!(terms::Explain::class(&error), terms::Class::Refused);
        assert!(twice.iter().all(|at| detail.contains(&at.to_string())) && detail.contains("2 times"), "{detail}");
        // A backup that is named decides: from it only one of them is reached.
        let plan = ground.plan("name:twice", None, Some(second_backup)).expect("a plan");
        assert_eq!((plan.stop, plan.backup.id), (Stop::Name("twice".into()), second_backup));
        for (name, backup) in [("before", None), ("after", Some(second_backup)), ("within", None)] {
            let plan = ground.plan(&format!("name:{name}"), None, None).unwrap_or_else(|e| panic!("{name}: {e:?}"));
            assert_eq!((plan.stop, plan.timeline), (Stop::Name(name.into()), timeline(1)));
            assert_eq!(plan.backup.id == second_backup, backup.is_some(), "{name} lies behind the right backup");
        }
        for nowhere in ["too early", "never given"] {
            assert!(matches!(ground.plan(&format!("name:{nowhere}"), None, None), Err(RestoreError::Unreachable { .. })), "{nowhere}");
        }
    }
}

#[test]
fn what_the_index_knows_is_not_read_and_what_cannot_be_read_is_not_reached() {
    let Named { ground, log, first, twice, .. } = named();
    ground.index(&log, first);
    ground.spoil(1, twice[0]);
    let error = ground.plan("name:twice", None, None).expect_err("two places");
    assert!(terms::Explain::detail(&error).contains(&twice[0].to_string()), "the index knows it: {error:?}");
    let Named { ground, twice, second_backup, .. } = named();
    ground.spoil(1, twice[0]);
    let plan = ground.plan("name:twice", None, None).expect("one of them is lost");
    assert_eq!((plan.stop, plan.backup.id), (Stop::Name("twice".into()), second_backup));
}

#[test]
fn a_name_that_was_also_given_while_the_backup_was_made_is_reached_by_its_position() {
    let (ground, mut log) = (Ground::new(), Log::new());
    let (start, _) = log.ordinary(50);
    log.point("here", 80);
    let (_, stop) = log.commit(90, 0);
    ground.backup(1, start, stop, 100);
    let (_, end) = log.point("here", 110);
    let (next, _) = log.commit(120, 0);
    log.finish_segment();
    log.finish_segment();
    ground.store(&log, start);
    let plan = ground.plan("name:here", None, None).expect("a plan");
    assert_eq!(plan.stop, Stop::Before(next), "PostgreSQL would stop at the first, {end} being the one that is meant");
}
