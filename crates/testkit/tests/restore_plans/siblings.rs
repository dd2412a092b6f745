//! An instant that was lived through on several timelines, whichever way they part.

use super::ground::Ground;
use super::log::{Log, second, timeline};
use restore::{RestoreError, Stop};
use terms::{Explain, Lsn};

fn live(log: &mut Log, seconds: impl IntoIterator<Item = i64>) {
    for at in seconds {
        log.commit(at, 0);
        log.finish_segment();
    }
}

/// Timeline 1 with a backup that was consistent at second 100.
fn begin() -> (Ground, Log, Lsn) {
    let (ground, mut log) = (Ground::new(), Log::new());
    let (start, _) = log.ordinary(50);
    let (_, stop) = log.commit(90, 0);
    ground.backup(1, start, stop, 100);
    (ground, log, start)
}

/// The plan to this second asks back, and names these timelines with until when each went on.
fn asks_back(ground: &Ground, at: i64, named: &[(u32, i64)]) {
    let error = ground.plan(&second(at).to_string(), None, None).expect_err("several timelines");
    assert!(matches!(error, RestoreError::Ambiguous { .. }), "{at}: {error:?}");
    let (detail, hint) = (error.detail(), error.hint());
    for (id, until) in named {
        assert!(detail.to_lowercase().contains(&format!("timeline {id}")) && detail.contains(&second(*until).to_string()), "{at}, {id}: {detail}");
        assert!(hint.contains(&format!("--timeline {id}")), "{at}, {id}: {hint}");
        let plan = ground.plan(&second(at).to_string(), Some(*id), None).unwrap_or_else(|e| panic!("{at} on {id}: {e:?}"));
        assert_eq!((plan.stop, plan.timeline), (Stop::Time(second(at)), timeline(*id)));
    }
    assert_eq!(hint.matches("--timeline").count(), named.len(), "{hint}");
}

fn answers(ground: &Ground, at: i64, on: u32) {
    let plan = ground.plan(&second(at).to_string(), None, None).unwrap_or_else(|e| panic!("{at}: {e:?}"));
    assert_eq!((plan.stop, plan.timeline), (Stop::Time(second(at)), timeline(on)));
}

#[test]
fn a_copy_that_was_promoted_and_archived_is_told_of() {
    for indexed in [false, true] {
        let (ground, mut one, start) = begin();
        live(&mut one, [200, 300]);
        let first_fork = one.position();
        let mut two = one.promote(2, 310);
        live(&mut two, [320, 330, 340, 400]);
        live(&mut one, [315, 350, 360]);
        let second_fork = one.position();
        let mut three = one.promote(3, 370);
        live(&mut three, [380, 450, 500]);
        ground.store(&one, start);
        ground.store(&two, first_fork);
        ground.store(&three, second_fork);
        ground.history(2, &[(1, first_fork)]);
        ground.history(3, &[(1, second_fork)]);
        if indexed {
            ground.index(&one, start);
            ground.index(&two, first_fork);
            ground.index(&three, second_fork);
            // Only where they part a segment is read.
            ground.spoil(2, two.records.iter().rfind(|(at, _)| at.bytes() < two.position().bytes() - (2 << 20)).expect("a record").0);
        }
        for at in [250, 305, 315] {
            answers(&ground, at, 3);
        }
        if indexed {
            let error = ground.plan(&second(330).to_string(), None, None).expect_err("several timelines");
            assert!(error.detail().contains(&second(400).to_string()), "{error:?}");
            continue;
        }
        for at in [320, 330, 355, 375, 399] {
            asks_back(&ground, at, &[(2, 400), (3, 500)]);
        }
        // Timeline 1 begins with neither: it holds no transaction of its own behind the fork.
        let error = ground.plan(&second(330).to_string(), None, None).expect_err("several timelines");
        assert!(!error.hint().contains("--timeline 1"), "{error:?}");
    }
}

#[test]
fn two_standbys_that_were_promoted_at_one_place_are_told_apart_by_when_each_lived() {
    let (ground, mut one, start) = begin();
    live(&mut one, [200, 300]);
    let fork = one.position();
    let mut two = one.promote(2, 310);
    live(&mut two, [320, 330, 340]);
    let mut three = one.promote(3, 400);
    live(&mut three, [410, 420, 500]);
    ground.store(&one, start);
    ground.store(&two, fork);
    ground.store(&three, fork);
    ground.history(2, &[(1, fork)]);
    ground.history(3, &[(1, fork)]);
    answers(&ground, 310, 3);
    for at in [320, 335] {
        asks_back(&ground, at, &[(2, 340), (3, 500)]);
    }
    for at in [400, 415] {
        answers(&ground, at, 3);
    }
}

#[test]
fn every_timeline_that_lived_then_is_named() {
    let (ground, mut one, start) = begin();
    live(&mut one, [200, 300]);
    let fork = one.position();
    let mut two = one.promote(2, 310);
    live(&mut two, [320, 330]);
    let later_fork = two.position();
    let mut four = two.promote(4, 335);
    live(&mut four, [340, 350, 460]);
    live(&mut two, [345, 355, 470]);
    live(&mut one, [325, 365, 480]);
    let mut five = two.promote(5, 475);
    five.commit(476, 0);
    let fifth_fork = two.position();
    live(&mut five, [490, 500]);
    ground.store(&one, start);
    ground.store(&two, fork);
    ground.store(&four, later_fork);
    ground.store(&five, fifth_fork);
    ground.history(2, &[(1, fork)]);
    ground.history(4, &[(1, fork), (2, later_fork)]);
    ground.history(5, &[(1, fork), (2, fifth_fork)]);
    answers(&ground, 310, 5);
    asks_back(&ground, 342, &[(1, 480), (4, 460), (5, 500)]);
}

#[test]
fn a_timeline_that_no_backup_leads_to_cannot_be_meant() {
    for is_first_kept in [true, false] {
        let (ground, mut one, start) = if is_first_kept { begin() } else { (Ground::new(), Log::new(), Log::new().ordinary(50).0) };
        live(&mut one, [200, 300]);
        let fork = one.position();
        let mut two = one.promote(2, 310);
        live(&mut one, [320, 330, 500]);
        live(&mut two, [320]);
        let (begun, _) = two.ordinary(10);
        let (_, stop) = two.commit(340, 0);
        let own = ground.backup(2, begun, stop, 345);
        live(&mut two, [350, 400]);
        ground.store(&one, start);
        ground.store(&two, fork);
        ground.history(2, &[(1, fork)]);
        match is_first_kept {
            true => asks_back(&ground, 360, &[(1, 500), (2, 400)]),
            false => answers(&ground, 360, 2),
        }
        // So does a backup that is named and lies behind the fork.
        let plan = ground.plan(&second(360).to_string(), None, Some(own)).expect("a plan");
        assert_eq!((plan.timeline, plan.backup.id), (timeline(2), own));
    }
}
