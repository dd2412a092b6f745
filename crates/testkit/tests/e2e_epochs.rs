//! After pg_upgrade or a new initdb the same repository goes on: each epoch is restored by its own backups, log and programs.

use serde_json::Value;
use std::time::Duration;
use terms::{Clock, SystemClock, Timestamp};
use testkit::bowline::wait;
use testkit::{Bowline, Cluster, RepositoryKind, newest_major};

const COVERAGE: &str = "[wal]\ncoverage_interval = \"1s\"\n";

fn system_id(cluster: &Cluster) -> String {
    cluster.psql("SELECT system_identifier FROM pg_control_system()")
}

fn insert(cluster: &Cluster, rows: u32) {
    cluster.psql(&format!("CREATE TABLE IF NOT EXISTS t (a int); INSERT INTO t SELECT generate_series(1, {rows})"));
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// Waits until the present coverage mark is this cluster's and later than now.
fn covered(bowline: &Bowline, cluster: &Cluster) {
    let now = SystemClock.now();
    let mark = || serde_json::from_slice::<Value>(&std::fs::read(bowline.repository().join("coverage.json")).ok()?).ok();
    let is_later =
        |mark: Value| mark["system_id"] == system_id(cluster).as_str() && mark["time"].as_str().and_then(|t| t.parse::<Timestamp>().ok()) > Some(now);
    wait("the coverage mark", Duration::from_secs(60), || mark().is_some_and(is_later));
}

/// Finishes the current segment and waits until it is stored; returns its name.
fn archive(bowline: &Bowline, cluster: &Cluster) -> String {
    let switched = cluster.psql("SELECT pg_logical_emit_message(false, 'e2e', 'switch'); SELECT pg_walfile_name(pg_switch_wal())");
    let name = switched.lines().last().expect("a segment's name").to_owned();
    // Another epoch may hold a segment of this name.
    let stored = bowline.repository().join("wal").join(system_id(cluster)).join(&name[..8]).join(&name);
    wait(&format!("segment {name}"), Duration::from_secs(60), || stored.is_file());
    name
}

/// `pg_upgrade` of a stopped cluster into a fresh one, which is running again when this returns.
fn upgrade(old: &Cluster, major: u32) -> Cluster {
    let new = Cluster::builder(major).start();
    new.pg_ctl_stop(true);
    let mut command = new.bin("pg_upgrade");
    command.current_dir(new.home()).args(["--no-sync", "-U", "postgres"]);
    for (flag, place) in
        [("-b", old.bin_dir()), ("-B", new.bin_dir()), ("-d", old.data_dir().to_owned()), ("-D", new.data_dir().to_owned()), ("-s", new.socket_dir())]
    {
        command.arg(flag).arg(place);
    }
    for name in ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGDATA"] {
        command.env_remove(name);
    }
    let output = command.output().expect("pg_upgrade runs");
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    new.start_server();
    new
}

#[test]
fn pg_upgrade_begins_an_epoch_and_instants_of_both_are_restored() {
    let old = Cluster::start(15);
    let bowline = Bowline::new(&old, RepositoryKind::Folder);
    bowline.configure(&old.conninfo(), Some(old.data_dir()), COVERAGE);
    let receiver = bowline.receive();
    let first = text(&bowline.ok(&["backup"])["id"]);
    assert_eq!(bowline.fails(&["init", "--new-epoch", "--yes"], 4, "epoch-present").matches(&system_id(&old)).count(), 1);
    insert(&old, 100);
    old.psql("SELECT pg_create_restore_point('release')");
    let in_old = SystemClock.now();
    insert(&old, 50);
    let old_segment = archive(&bowline, &old);
    covered(&bowline, &old);
    let old_id = system_id(&old);
    old.pg_ctl_stop(true);
    assert_eq!(receiver.stop(), Some(0));
    let down = SystemClock.now();

    let new = upgrade(&old, 18);
    let new_id = system_id(&new);
    assert_ne!(old_id, new_id, "pg_upgrade keeps the identifier that initdb made");
    let path = format!("{}:{}:/usr/bin:/bin", old.bin_dir().display(), new.bin_dir().display());
    let bowline = bowline.with_environment("PATH", &path);
    bowline.configure(&new.conninfo(), Some(new.data_dir()), COVERAGE);
    // Nothing of the new cluster gets in by accident, and everything that refuses it says what to do.
    for words in [&["backup"][..], &["wal", "receive"]] {
        let refused = bowline.fails(words, 4, "system-id-foreign");
        assert!([&old_id, &new_id, "bowline init --new-epoch"].iter().all(|word| refused.contains(*word)), "{refused}");
    }
    let status = bowline.run(&["status"]);
    assert!(status.code == 1 && format!("{status:?}").contains("belongs to another cluster"), "{status:#?}");
    bowline.fails(&["init", "--new-epoch"], 2, "not-confirmed");
    bowline.fails(&["backup"], 4, "system-id-foreign");
    let begun = bowline.ok(&["init", "--new-epoch", "--yes"]);
    assert_eq!((&begun["former"]["system_id"], &begun["former"]["major"]), (&old_id.clone().into(), &15.into()), "{begun}");
    assert_eq!((&begun["epoch"]["system_id"], &begun["epoch"]["major"]), (&new_id.clone().into(), &18.into()), "{begun}");
    bowline.fails(&["init", "--new-epoch", "--yes"], 4, "epoch-present");

    // Until a full of the new epoch is listed nothing calls it protected.
    let status = bowline.run(&["status"]);
    assert!(status.code == 1 && format!("{status:?}").contains("there is no backup of the present cluster"), "{status:#?}");
    assert!(bowline.fails(&["wal", "audit"], 3, "backup-missing").contains(&new_id));
    let (latest, _) = bowline.restore_fails(&["--to", "latest"], 3, "target-unreachable");
    assert!(latest.contains("has no backup yet") && latest.contains("nothing yet") && latest.contains(&old_id), "{latest}");
    let receiver = bowline.receive();
    insert(&new, 7);
    let between = SystemClock.now();
    let second = text(&bowline.ok(&["backup"])["id"]);
    insert(&new, 20);
    let in_new = SystemClock.now();
    insert(&new, 30);
    archive(&bowline, &new);
    covered(&bowline, &new);
    let status = bowline.ok(&["status"]);
    assert_eq!((status["epochs"].as_array().map(Vec::len), &status["newest"]["id"]), (Some(2), &second.clone().into()), "{status}");
    let listed = bowline.ok(&["list"])["backups"].clone();
    assert_eq!((&listed[0]["major"], &listed[1]["major"]), (&15.into(), &18.into()), "{listed}");
    let audit = bowline.ok(&["wal", "audit"]);
    assert!(audit["proven"] == true && audit["earlier"][0]["system_id"] == old_id.as_str(), "{audit}");

    let at = |time: Timestamp| time.to_string();
    for (words, major, rows) in [
        (vec!["--to", &at(in_old)], 15, 100),
        (vec!["--to", &at(in_new)], 18, 177),
        (vec![], 18, 207),
        (vec!["--backup", &first], 15, 150),
        (vec!["--to", "name:release"], 15, 100),
    ] {
        let restored = bowline.restore(&words);
        assert_eq!(restored.psql("SELECT count(*) FROM t"), rows.to_string(), "{words:?}");
        assert_eq!(restored.psql("SELECT current_setting('server_version_num')::int / 10000"), major.to_string(), "{words:?}");
        let plan = &restored.result["plan"];
        assert_eq!((&plan["major"], plan["epoch_ended"].is_string()), (&major.into(), major == 15), "{plan}");
    }
    for instant in [between, down] {
        let (refused, target) = bowline.restore_fails(&["--to", &at(instant)], 3, "target-unreachable");
        for word in ["of PostgreSQL 15", &old_id, "of PostgreSQL 18", &new_id, "on timeline 1"] {
            assert!(refused.contains(word), "no {word} in {refused}");
        }
        assert!(!target.exists());
    }
    // The programs of the epoch that is restored, not those of the present one.
    let target = bowline.new_target();
    let mut without = bowline.command(&["restore", "--yes", "--json", "--target", target.to_str().expect("plain")]);
    let said = without.env("PATH", "/usr/bin:/bin").output().expect("bowline");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("pg-programs-missing") && said.contains("postgresql-18") && !target.exists(), "{said}");

    // A server that recovers gets its own epoch's log: for the new one the segment lies before all that is stored.
    for (cluster, code) in [(&old, 0), (&new, 200)] {
        let mut fetch = bowline.command(&["wal", "fetch", &old_segment, bowline.dir().join("fetched").to_str().expect("plain")]);
        assert_eq!(fetch.current_dir(cluster.data_dir()).status().expect("bowline").code(), Some(code), "PostgreSQL {}", cluster.major());
    }

    // The old cluster wakes up.
    old.start_server();
    bowline.configure(&old.conninfo(), Some(old.data_dir()), "");
    let segment = old.data_dir().join("pg_wal").join(&old_segment);
    let history = old.data_dir().join("pg_wal").join("00000002.history");
    std::fs::write(&history, "1\t0/3000000\tno recovery target specified\n").expect("a history file");
    let _ = std::os::unix::fs::chown(&history, old.user().map(|u| u.0), old.user().map(|u| u.1));
    for words in [
        &["backup"][..],
        &["wal", "receive"],
        &["init", "--new-epoch", "--yes"],
        &["wal", "push", segment.to_str().expect("plain")],
        &["wal", "push", history.to_str().expect("plain")],
    ] {
        let refused = bowline.fails(words, 4, "epoch-ended");
        assert!(refused.contains(&old_id) && refused.contains(&new_id) && refused.contains("another url or org"), "{words:?}: {refused}");
    }
    assert_eq!(receiver.stop(), Some(0));
}

#[test]
fn a_position_that_two_clusters_passed_is_asked_back_about() {
    let (old, new) = (Cluster::start(newest_major()), Cluster::start(newest_major()));
    let bowline = Bowline::new(&old, RepositoryKind::Folder);
    let mut backups = Vec::new();
    for (cluster, rows) in [(&old, 10), (&new, 20)] {
        bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), "");
        if !backups.is_empty() {
            bowline.ok(&["init", "--new-epoch", "--yes"]);
        }
        let receiver = bowline.receive();
        backups.push(text(&bowline.ok(&["backup"])["id"]));
        insert(cluster, rows);
        // Both logs hold this position: initdb makes them alike, and a switch brings both past it.
        for _ in 0..3 {
            archive(&bowline, cluster);
        }
        cluster.psql("SELECT pg_create_restore_point('release')");
        archive(&bowline, cluster);
        assert_eq!(receiver.stop(), Some(0));
        std::thread::sleep(Duration::from_millis(1100));
    }
    let past_both = new.psql("SELECT '0/0'::pg_lsn + (pg_current_wal_lsn() - '0/0') - 2 * 16777216");
    for target in [past_both.as_str(), "name:release"] {
        let (refused, _) = bowline.restore_fails(&["--to", target], 4, "epoch-ambiguous");
        assert!(refused.contains(&system_id(&old)) && refused.contains(&system_id(&new)) && refused.contains("--backup ID"), "{refused}");
        for (backup, rows) in backups.iter().zip(["10", "20"]) {
            let restored = bowline.restore(&["--to", target, "--backup", backup]);
            assert_eq!(restored.psql("SELECT count(*) FROM t"), rows, "{target} of {backup}");
        }
    }
    let latest = bowline.restore(&[]);
    assert_eq!(latest.psql("SELECT count(*) FROM t"), "20");
}
