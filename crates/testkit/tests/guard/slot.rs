//! Real servers brought into each state of a slot; the remedies that are named are carried out.

use crate::{as_superuser, find, has, ok, run};
use pg::{Finding, Severity, SlotExpectation, SlotGuard, Sql};
use serde_json::Value;
use std::time::Duration;
use testkit::bowline::wait;
use testkit::{Bowline, Cluster, RepositoryKind, outer_majors};

fn expected() -> SlotExpectation {
    SlotExpectation { was_used: true, archived_otherwise: false, status_interval: Duration::from_secs(5) }
}

fn look(cluster: &Cluster) -> (SlotGuard, Vec<Finding>) {
    run(async {
        let sql = ok(Sql::connect(&as_superuser(cluster)).await);
        let guard = ok(sql.slot_guard("bowline", Some(cluster.data_dir())).await);
        let found = guard.judge(&expected());
        (guard, found)
    })
}

/// Writes so many MiB of WAL.
fn write_wal(cluster: &Cluster, mib: u32) {
    cluster.psql(&format!("SELECT max(pg_logical_emit_message(true, 'guard', repeat('x', 1048576))) FROM generate_series(1, {mib})"));
}

#[test]
fn a_slot_goes_from_missing_over_inactive_and_behind_to_lost_and_back() {
    for major in outer_majors() {
        let cluster = Cluster::builder(major).wal_segment_mib(1).setting("max_slot_wal_keep_size", "32MB").setting("max_wal_size", "1GB").start();
        let (guard, found) = look(&cluster);
        assert_eq!((guard.major, guard.slot, guard.held_bytes), (major, None, None));
        assert_eq!((guard.slot_limit_bytes, guard.max_wal_bytes, guard.wal_sender_timeout), (Some(32 << 20), 1 << 30, Some(Duration::from_secs(60))));
        assert_eq!((guard.wal_level.as_str(), guard.idle_timeout), ("replica", None));
        assert!(guard.disk.is_some_and(|disk| disk.free <= disk.total && disk.total > 1 << 20) && guard.wal_dir_bytes.is_some_and(|b| b >= 1 << 20));
        find(&found, "slot-gone", Severity::Critical);
        find(&found, "slot-limit-short", Severity::Warn);

        cluster.psql("SELECT pg_create_physical_replication_slot('bowline', false)");
        find(&look(&cluster).1, "slot-holds-nothing", Severity::Warn);
        cluster.psql("SELECT pg_drop_replication_slot('bowline'); SELECT pg_create_physical_replication_slot('bowline', true)");
        let (guard, found) = look(&cluster);
        let inactive = find(&found, "slot-inactive", Severity::Warn);
        assert_eq!(inactive.what.contains("since"), major >= 17, "{}", inactive.what);
        assert!(guard.held_bytes.is_some_and(|held| held < 4 << 20) && !has(&found, "slot-behind"));

        write_wal(&cluster, 20);
        let (guard, found) = look(&cluster);
        find(&found, "slot-behind", Severity::Warn);
        assert!(guard.held_bytes.is_some_and(|held| held >= 20 << 20), "{guard:?}");
        write_wal(&cluster, 9);
        find(&look(&cluster).1, "slot-behind", Severity::Critical);
        write_wal(&cluster, 12);
        find(&look(&cluster).1, "slot-unreserved", Severity::Critical);

        cluster.psql("CHECKPOINT");
        let (guard, found) = look(&cluster);
        let lost = find(&found, "slot-lost", Severity::Critical);
        assert!(lost.cause.contains("max_slot_wal_keep_size (32 MB)") && lost.what.contains("wal_removed"), "{lost:?}");
        assert_eq!(guard.slot.as_ref().and_then(|s| s.invalidation_reason.as_deref()), (major >= 17).then_some("wal_removed"));
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        assert_eq!(verdict(&bowline.run(&["check"]).lines, "slot-lost"), "fail");
        let status = bowline.run(&["status"]);
        assert_eq!((status.code, status.lines.last().unwrap()["result"]["slot"]["wal_status"].as_str()), (1, Some("lost")), "{status:?}");

        let drop = lost.remedy.split("SELECT ").nth(1).and_then(|rest| rest.split(';').next()).expect("the command");
        cluster.psql(&format!("SELECT {drop}"));
        let receiver = bowline.receive();
        let found = look(&cluster).1;
        find(&found, "slot-active", Severity::Ok);
        assert!(found.iter().all(|f| f.severity < Severity::Critical), "{found:#?}");
        assert_eq!(receiver.stop(), Some(0));
    }
}

#[test]
fn an_unlimited_slot_is_judged_by_room_and_its_remedy_is_taken() {
    for major in outer_majors() {
        let cluster = Cluster::builder(major).setting("wal_sender_timeout", "0").start();
        let found = look(&cluster).1;
        find(&found, "wal-sender-timeout", Severity::Warn);
        let unlimited = find(&found, "slot-unlimited", Severity::Warn);
        assert!(unlimited.cause.contains("free in pg_wal"), "{unlimited:?}");
        cluster.psql(&unlimited.remedy);
        wait("the server to reload", Duration::from_secs(10), || !has(&look(&cluster).1, "slot-unlimited"));
        let (guard, found) = look(&cluster);
        assert!(guard.slot_limit_bytes > Some(0) && !has(&found, "slot-limit-beyond-disk"), "{guard:?} {found:#?}");
        // From another host nobody sees the disk.
        let blind = run(async { ok(ok(Sql::connect(&as_superuser(&cluster)).await).slot_guard("bowline", None).await) });
        assert_eq!(blind.disk, None);
    }
}

#[test]
fn a_slot_that_idles_out_is_announced_and_then_named_with_its_reason() {
    for major in outer_majors().into_iter().filter(|major| *major >= 18) {
        let cluster = Cluster::builder(major).setting("idle_replication_slot_timeout", "1h").start();
        cluster.psql("SELECT pg_create_physical_replication_slot('bowline', true)");
        let (guard, found) = look(&cluster);
        assert_eq!(guard.idle_timeout, Some(Duration::from_secs(3600)));
        assert!(find(&found, "slot-inactive", Severity::Critical).cause.contains("invalidates it in 60 min"), "{found:#?}");
        let announced = find(&found, "slot-idle-timeout", Severity::Warn).clone();

        cluster.psql("ALTER SYSTEM SET idle_replication_slot_timeout = '1s'; SELECT pg_reload_conf()");
        wait("the slot to be given up", Duration::from_secs(30), || {
            cluster.psql("CHECKPOINT");
            has(&look(&cluster).1, "slot-invalidated")
        });
        let found = look(&cluster).1;
        let lost = find(&found, "slot-invalidated", Severity::Critical);
        assert!(lost.what.contains("idle_timeout") && lost.remedy.contains("idle_replication_slot_timeout = 0"), "{lost:?}");
        cluster.psql(&announced.remedy);
        wait("the server to reload", Duration::from_secs(10), || !has(&look(&cluster).1, "slot-idle-timeout"));
    }
}

/// How `check` found what goes under this word.
fn verdict(lines: &[Value], what: &str) -> String {
    let findings = lines.iter().rev().find_map(|line| line["result"]["findings"].as_array()).expect("check's result");
    let found = findings.iter().find(|f| f["what"] == what).unwrap_or_else(|| panic!("no {what} in {findings:#?}"));
    assert!(found["verdict"] == "ok" || !found["fix"].as_str().unwrap_or_default().is_empty(), "{found}");
    found["verdict"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn check_says_who_makes_the_slot_and_what_is_wrong_with_synchronous_names() {
    for major in outer_majors() {
        let cluster = Cluster::start(major);
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        let check = || bowline.run(&["check"]);
        let first = check();
        assert_eq!((first.code, verdict(&first.lines, "slot-missing").as_str()), (0, "warn"), "{first:?}");
        let receiver = bowline.receive();
        assert_eq!(verdict(&check().lines, "slot-active"), "ok");
        assert_eq!(receiver.stop(), Some(0));
        assert_eq!(verdict(&check().lines, "slot-inactive"), "warn");

        // No commit is made from here on: it would wait for a standby that is not there.
        let name = |names: &str| {
            cluster.psql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'; SELECT pg_reload_conf()"));
            wait("the server to reload", Duration::from_secs(10), || cluster.psql("SHOW synchronous_standby_names") == names);
            check()
        };
        for names in ["*", "Bowline", "ANY 1 (other, bowline)"] {
            let found = name(names);
            assert_eq!((found.code, verdict(&found.lines, "synchronous-by-accident").as_str()), (4, "fail"), "{names}");
        }
        assert_eq!(verdict(&name("bowline2, \"bow*\"").lines, "sync-names"), "ok");
        bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), "[wal]\nsynchronous = true\n");
        let found = name("other");
        assert_eq!((found.code, verdict(&found.lines, "sync-not-named").as_str()), (4, "fail"));
        let found = name("bowline");
        assert_eq!((verdict(&found.lines, "sync-required"), verdict(&found.lines, "sync-absent")), ("ok".into(), "fail".into()));
        assert_eq!(verdict(&found.lines, "sync-level"), "ok");
        let status = bowline.run(&["status"]);
        let result = &status.lines.last().expect("a result")["result"];
        assert!(
            result["findings"].as_array().is_some_and(|f| f.iter().any(|f| f["slug"] == "sync-absent" && f["severity"] == "critical")),
            "{result}"
        );
        // Now one is made, and hangs: whoever asks is told, though no daemon is there to hear of it.
        let mut commit = cluster.bin("psql").args(["-X", "-c", "CREATE TABLE waits ()"]).spawn().expect("psql");
        wait("the commit that hangs to be told of", Duration::from_secs(30), || {
            let told = bowline.run(&["status"]);
            told.code == 1
                && told.lines.iter().find_map(|line| line.get("result")).expect("a result")["reasons"].to_string().contains("commits wait:")
        });
        name("");
        assert!(commit.wait().expect("psql ends").success());
    }
}
