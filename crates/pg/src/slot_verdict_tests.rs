//! Tests of the judgement on a slot; live tests bring real servers into these states.

use crate::*;
use std::time::Duration;
use terms::{Lsn, Timestamp};

const GB: u64 = 1 << 30;
const NOW: Timestamp = Timestamp::from_unix_micros(1_795_000_000_000_000);

fn good() -> SlotGuard {
    let slot = SlotFacts {
        active: true,
        active_pid: Some(1),
        restart_lsn: Some(Lsn::from_bytes(GB)),
        wal_status: Some("reserved".into()),
        safe_wal_bytes: Some(99 * GB as i64),
        invalidation_reason: None,
        inactive_since: None,
        temporary: false,
        slot_type: "physical".into(),
    };
    SlotGuard {
        name: "bowline".into(),
        major: 18,
        slot: Some(slot),
        now: NOW,
        end: Lsn::from_bytes(2 * GB),
        held_bytes: Some(GB),
        slot_limit_bytes: Some(100 * GB),
        wal_keep_bytes: 0,
        max_wal_bytes: GB,
        idle_timeout: None,
        wal_sender_timeout: Some(Duration::from_secs(60)),
        wal_level: "replica".into(),
        wal_written: Some(WalWritten { bytes: 86_400 * (1 << 20), over: Duration::from_secs(86_400) }),
        wal_dir_bytes: Some(2 * GB),
        disk: Some(DiskSpace { free: 200 * GB, total: 400 * GB }),
    }
}

fn expected() -> SlotExpectation {
    SlotExpectation { was_used: true, archived_otherwise: false, status_interval: Duration::from_secs(5) }
}

/// Changes the good state and gives what is then not fine.
fn after(change: impl FnOnce(&mut SlotGuard)) -> Vec<Finding> {
    let mut guard = good();
    change(&mut guard);
    guard.judge(&expected()).into_iter().filter(|f| f.severity != Severity::Ok).collect()
}

fn slot(guard: &mut SlotGuard) -> &mut SlotFacts {
    guard.slot.as_mut().unwrap()
}

fn only(found: Vec<Finding>, slug: &str, severity: Severity) -> Finding {
    assert_eq!(found.iter().map(|f| (f.slug, f.severity)).collect::<Vec<_>>(), [(slug, severity)], "{found:#?}");
    assert!(!found[0].remedy.is_empty() && !found[0].cause.is_empty(), "{found:#?}");
    found.into_iter().next().unwrap()
}

#[test]
fn a_streaming_slot_with_room_is_fine() {
    let found = good().judge(&expected());
    assert_eq!(found.iter().map(|f| f.slug).collect::<Vec<_>>(), ["slot-active", "slot-limit"]);
    assert!(found[1].what.contains("100 GB, which lasts 28 h"), "{}", found[1].what);
}

#[test]
fn a_missing_slot_is_a_beginning_a_hole_or_nothing_depending_on_what_was() {
    let mut guard = good();
    (guard.slot, guard.held_bytes) = (None, None);
    let judge = |was_used, archived_otherwise| guard.judge(&SlotExpectation { was_used, archived_otherwise, ..expected() })[0].clone();
    assert_eq!((judge(false, false).slug, judge(false, false).severity), ("slot-missing", Severity::Warn));
    assert_eq!((judge(true, false).slug, judge(true, false).severity), ("slot-gone", Severity::Critical));
    assert_eq!(judge(false, true).severity, Severity::Ok);
}

#[test]
fn a_lost_slot_is_named_with_its_reason() {
    let lost = |reason: Option<&str>| {
        only(
            after(|g| {
                slot(g).wal_status = Some("lost".into());
                slot(g).invalidation_reason = reason.map(Into::into);
                (slot(g).restart_lsn, g.held_bytes, slot(g).safe_wal_bytes) = (None, None, None);
            }),
            if reason.is_none_or(|r| r == "wal_removed") { "slot-lost" } else { "slot-invalidated" },
            Severity::Critical,
        )
    };
    for reason in [None, Some("wal_removed")] {
        assert!(
            lost(reason).cause.contains("max_slot_wal_keep_size (100 GB)") && lost(reason).remedy.contains("pg_drop_replication_slot('bowline')")
        );
    }
    assert!(lost(Some("idle_timeout")).remedy.contains("idle_replication_slot_timeout = 0"));
    assert!(lost(Some("wal_level_insufficient")).what.contains("wal_level_insufficient"));
}

#[test]
fn nearness_to_the_limit_or_to_a_full_disk_counts_whichever_is_nearer() {
    let behind = |held: u64, safe: Option<u64>, free: u64| {
        after(|g| {
            (g.held_bytes, g.slot_limit_bytes) = (Some(held), safe.map(|safe| held + safe));
            slot(g).safe_wal_bytes = safe.map(|bytes| bytes as i64);
            g.disk = Some(DiskSpace { free, total: 400 * GB });
        })
    };
    assert!(only(behind(60 * GB, Some(40 * GB), 300 * GB), "slot-behind", Severity::Warn).what.contains("60 % of what max_slot_wal_keep_size"));
    assert!(only(behind(90 * GB, Some(10 * GB), 300 * GB), "slot-behind", Severity::Critical).cause.contains("10 GB are left, which last 3 h"));
    let unlimited = behind(90 * GB, None, 10 * GB);
    assert_eq!(unlimited.iter().map(|f| f.slug).collect::<Vec<_>>(), ["slot-behind", "slot-unlimited"]);
    assert!(unlimited[0].what.contains("free space") && unlimited[0].cause.contains("the server stops"), "{unlimited:#?}");
    only(
        after(|g| {
            slot(g).wal_status = Some("unreserved".into());
            slot(g).safe_wal_bytes = Some(-5);
        }),
        "slot-unreserved",
        Severity::Critical,
    );
}

#[test]
fn the_limit_is_held_against_room_and_time() {
    let unlimited = only(after(|g| g.slot_limit_bytes = None), "slot-unlimited", Severity::Warn);
    assert!(unlimited.cause.contains("200 GB are free") && unlimited.remedy.contains(&format!("'{}MB'", (201 * GB / 5 * 4) >> 20)), "{unlimited:?}");
    let blind = only(after(|g| (g.slot_limit_bytes, g.disk) = (None, None)), "slot-unlimited", Severity::Warn);
    assert!(blind.cause.contains("cannot be seen"));
    only(after(|g| g.slot_limit_bytes = Some(300 * GB)), "slot-limit-beyond-disk", Severity::Warn);
    only(after(|g| g.slot_limit_bytes = Some(2 * GB)), "slot-limit-short", Severity::Warn);
    assert!(after(|g| (g.slot_limit_bytes, g.wal_keep_bytes) = (Some(2 * GB), 50 * GB)).is_empty(), "wal_keep_size is kept as well");
    only(after(|g| (g.slot_limit_bytes, g.wal_written) = (Some(GB / 2), None)), "slot-limit-short", Severity::Warn);
}

#[test]
fn timeouts_and_kinds_are_judged() {
    let idle = |g: &mut SlotGuard| g.idle_timeout = Some(Duration::from_secs(3600));
    only(after(idle), "slot-idle-timeout", Severity::Warn);
    let unused = |g: &mut SlotGuard| {
        (slot(g).active, slot(g).active_pid) = (false, None);
        slot(g).inactive_since = Some(Timestamp::from_unix_micros(NOW.unix_micros() - 600_000_000));
    };
    assert!(only(after(unused), "slot-inactive", Severity::Warn).what.contains("since"));
    let both = after(|g| {
        idle(g);
        unused(g);
    });
    assert_eq!((both[0].slug, both[0].severity), ("slot-inactive", Severity::Critical));
    assert!(both[0].cause.contains("invalidates it in 50 min"), "{both:#?}");
    only(after(|g| g.wal_sender_timeout = None), "wal-sender-timeout", Severity::Warn);
    only(after(|g| g.wal_sender_timeout = Some(Duration::from_secs(10))), "wal-sender-timeout", Severity::Warn);
    only(after(|g| slot(g).slot_type = "logical".into()), "slot-logical", Severity::Critical);
    only(after(|g| slot(g).temporary = true), "slot-temporary", Severity::Critical);
    only(
        after(|g| {
            unused(g);
            (slot(g).restart_lsn, g.held_bytes) = (None, None);
        }),
        "slot-holds-nothing",
        Severity::Warn,
    );
}
