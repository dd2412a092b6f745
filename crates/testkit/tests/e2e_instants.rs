//! Restored to T means: everything before the first commit or abort stamped later than T, and nothing else; or an error, and nothing touched.

use std::collections::BTreeSet;
use std::time::Duration;
use terms::{Clock, Lsn, SystemClock, Timestamp};
use testkit::bowline::wait;
use testkit::workload::Pace;
use testkit::{Acknowledged, Bowline, Cluster, RepositoryKind, Restored, Workload, full, newest_major, outer_majors, seed};

/// One client and nobody else that commits: then commit times are in the order of the log, and the expected rows are known exactly.
fn quiet_cluster(major: u32) -> Cluster {
    Cluster::builder(major).setting("track_commit_timestamp", "on").setting("autovacuum", "off").start()
}

fn rows(restored: &Restored) -> BTreeSet<i64> {
    restored.psql("SELECT id FROM ledger").lines().map(|id| id.parse().expect("an id")).collect()
}

fn ids<'c>(commits: impl Iterator<Item = &'c Acknowledged>) -> BTreeSet<i64> {
    commits.map(|commit| commit.id).collect()
}

/// When the coverage mark in the repository says that everything until then is stored.
fn covered(bowline: &Bowline) -> Option<Timestamp> {
    let bytes = std::fs::read(bowline.repository().join("coverage.json")).ok()?;
    let mark: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    mark["time"].as_str()?.parse().ok()
}

/// A step of a walk that BOWLINE_SEED repeats (SplitMix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 27)
}

#[test]
fn each_instant_brings_back_exactly_the_commits_before_it() {
    let mut state = seed("each_instant");
    for major in outer_majors() {
        let cluster = quiet_cluster(major);
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        let receiver = bowline.receive();
        let workload = Workload::start_at(&cluster.conninfo(), Pace { payload_bytes: 2000, ..Pace::default() });
        let backup = bowline.ok(&["backup"]);
        let consistent: Timestamp = backup["stop"]["time"].as_str().and_then(|t| t.parse().ok()).expect("a time");
        workload.wait_for(200);
        let point = cluster.psql("SELECT pg_create_restore_point('before-migration')");
        cluster.psql("SELECT pg_switch_wal()");
        workload.wait_for(200);
        let ledger = workload.stop();
        bowline.archive_now();
        let stamp = |commit: &Acknowledged| commit.committed_at.expect("track_commit_timestamp is on");
        let reachable: Vec<_> = ledger.iter().filter(|commit| stamp(commit) > consistent).collect();
        assert!(reachable.len() > 300, "{} commits after the backup", reachable.len());

        for turn in 0..if full() { 20 } else { 3 } {
            let chosen = stamp(reachable[(next(&mut state) % (reachable.len() as u64 - 1)) as usize]);
            // The very instant of a commit, which includes it, and the microseconds around it.
            let at = chosen.plus_micros([0, -1, 1][turn % 3]).max(consistent);
            let restored = bowline.restore(&["--to", &at.to_string()]);
            assert_eq!(rows(&restored), ids(ledger.iter().filter(|commit| stamp(commit) <= at)), "PostgreSQL {major} to {at}");
            let later = restored.psql(&format!("SELECT count(*) FROM ledger WHERE pg_xact_commit_timestamp(xmin) > '{at}'"));
            assert_eq!(later, "0", "PostgreSQL {major} to {at}");
        }

        let middle = reachable.len() / 2;
        let position = reachable[middle].inserted_to.expect("asked");
        let restored = bowline.restore(&["--to", &position.to_string()]);
        assert_eq!(rows(&restored), ids(ledger.iter().filter(|commit| commit.id <= reachable[middle].id)), "PostgreSQL {major} to {position}");
        drop(restored);

        let restored = bowline.restore(&["--to", "name:before-migration"]);
        let expected = ledger.iter().filter(|commit| commit.inserted_to.is_some_and(|lsn| lsn <= point.parse().expect("an LSN")));
        let found = rows(&restored);
        // A commit may end before the restore point although its acknowledgement was noted after it.
        let missing: Vec<_> = ids(expected).difference(&found).copied().collect();
        assert!(missing.is_empty() && found.len() < ledger.len() - 100, "PostgreSQL {major}: {missing:?} of {}", found.len());
        assert_eq!(found.iter().max().copied(), Some(found.len() as i64), "a prefix has no gap");
        drop(restored);

        let immediate = rows(&bowline.restore(&["--to", "immediate"]));
        assert_eq!(immediate, ids(ledger.iter().take(immediate.len())), "a prefix");
        assert!(immediate.len() < ledger.len() - reachable.len() / 2);
        assert_eq!(rows(&bowline.restore(&["--to", "latest"])), ids(ledger.iter()), "PostgreSQL {major}, latest");
        assert_eq!(receiver.stop(), Some(0));
    }
}

#[test]
fn a_quiet_night_is_covered_and_what_is_not_covered_is_refused() {
    for major in outer_majors() {
        let cluster = quiet_cluster(major);
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        cluster.psql("CREATE TABLE ledger (id int)");
        let before = SystemClock.now();
        let receiver = bowline.receive();
        bowline.ok(&["backup"]);
        cluster.psql("INSERT INTO ledger SELECT generate_series(1, 10)");
        let quiet = SystemClock.now();
        bowline.archive_now();
        wait("the coverage mark to pass the last commit", Duration::from_secs(90), || covered(&bowline) > Some(quiet));
        let restored = bowline.restore(&["--to", &quiet.to_string()]);
        assert_eq!(restored.psql("SELECT count(*) FROM ledger"), "10", "PostgreSQL {major}");
        let notes = restored.result["plan"]["notes"].to_string();
        assert!(notes.contains("coverage past that time is proven"), "{}", restored.result);
        drop(restored);

        // Each refusal names the window and makes nothing.
        for (at, backup_needed) in [(quiet.plus_micros(3_600_000_000), false), (before, true)] {
            let (text, target) = bowline.restore_fails(&["--to", &at.to_string()], 3, "target-unreachable");
            assert!(text.contains("What can be restored: ") && text.contains(" UTC") && text.contains("on timeline 1"), "{text}");
            assert_eq!(text.contains("No backup was complete by then"), backup_needed, "{text}");
            assert!(!target.exists() && !target.with_extension("bowline").exists(), "{} was made", target.display());
        }
        for impossible in ["name:never-set", "FF/0"] {
            let (_, target) = bowline.restore_fails(&["--to", impossible], 3, "target-unreachable");
            assert!(!target.exists());
        }
        assert_eq!(receiver.stop(), Some(0));
    }
}

/// Whether a record is replayed depends on where it ends alone, however many segments it goes through.
#[test]
fn a_position_inside_a_record_of_many_segments_brings_back_what_ended_before_it() {
    let cluster = Cluster::builder(newest_major()).wal_segment_mib(1).setting("autovacuum", "off").setting("wal_keep_size", "1GB").start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t (a int)");
    bowline.ok(&["backup"]);
    let position = || -> Lsn { cluster.psql("SELECT pg_current_wal_insert_lsn()").parse().expect("an LSN") };
    cluster.psql("INSERT INTO t VALUES (0)");
    // The record of a commit names each of its subtransactions: four bytes each.
    cluster.psql(
        "DO $$ BEGIN FOR i IN 1..600000 LOOP
             BEGIN INSERT INTO t VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END;
         END LOOP; END $$",
    );
    let committed = position();
    let begun = position();
    cluster.psql("SELECT pg_logical_emit_message(false, 'x', repeat('x', 40000000))");
    let sent = position();
    cluster.psql("INSERT INTO t VALUES (-1); SELECT pg_switch_wal()");
    bowline.push_finished(&cluster);
    for indexed in [false, true] {
        if indexed {
            bowline.ok(&["wal", "audit"]);
        }
        let rows_at = |lsn: Lsn| {
            let restored = bowline.restore(&["--to", &lsn.to_string()]);
            let at: Lsn = restored.result["recovered"]["lsn"].as_str().and_then(|text| text.parse().ok()).expect("an LSN");
            assert!(at <= lsn, "to {lsn} came to {at}");
            restored.psql("SELECT count(*) FROM t")
        };
        assert_eq!(rows_at(Lsn::from_bytes(committed.bytes() - 20_000)), "1", "the commit ends later");
        assert_eq!(rows_at(begun.plus(30_000_000)), "600001", "it ended, and the message ends later");
        assert_eq!(rows_at(sent), "600001");
    }
}

#[test]
fn a_name_that_was_given_again_behind_a_newer_backup_is_asked_back() {
    let cluster = quiet_cluster(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t (a int)");
    let receiver = bowline.receive();
    let mut backups = Vec::new();
    let mut places = Vec::new();
    for turn in 0..2 {
        backups.push(bowline.ok(&["backup"])["id"].as_str().expect("an id").to_owned());
        places.push(cluster.psql("SELECT pg_create_restore_point('before-release')"));
        cluster.psql(&format!("INSERT INTO t VALUES ({turn})"));
        bowline.archive_now();
        std::thread::sleep(Duration::from_millis(1100));
    }
    assert_eq!(receiver.stop(), Some(0));
    for audited in [false, true] {
        if audited {
            bowline.ok(&["wal", "audit"]);
        }
        let (text, target) = bowline.restore_fails(&["--to", "name:before-release"], 4, "timeline-ambiguous");
        assert!(places.iter().all(|place| text.contains(place)) && text.contains("2 times") && !target.exists(), "{places:?}: {text}");
    }
    let rows = |words: &[&str]| bowline.restore(words).psql("SELECT count(*) FROM t");
    assert_eq!(rows(&["--to", &places[0]]), "0");
    assert_eq!(rows(&["--to", "name:before-release", "--backup", &backups[1]]), "1", "from the newer backup only one is reached");
}

#[test]
fn two_clusters_never_share_a_repository_by_accident() {
    let (cluster, other) = (quiet_cluster(newest_major()), quiet_cluster(newest_major()));
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.ok(&["backup"]);
    bowline.configure(&other.conninfo(), Some(other.data_dir()), "");
    let text = bowline.fails(&["backup"], 4, "system-id-foreign");
    assert!(text.contains(&other.psql("SELECT system_identifier FROM pg_control_system()")), "{text}");
    assert_eq!(bowline.ok(&["list"])["backups"].as_array().map(Vec::len), Some(1));
}

#[test]
fn the_last_transaction_that_is_told_is_the_last_that_was_replayed() {
    let cluster = quiet_cluster(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    cluster.psql("CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    std::thread::sleep(Duration::from_millis(300));
    // Its commit is the last record that is stored: the server is told to stop there, and does not count it.
    cluster.psql("INSERT INTO t VALUES (2)");
    let committed: Timestamp = cluster.psql("SELECT pg_xact_commit_timestamp(xmin) FROM t WHERE a = 2").parse().expect("a time");
    wait("it to be stored", Duration::from_secs(60), || covered(&bowline) >= Some(committed));
    assert_eq!(receiver.stop(), Some(0));
    let restored = bowline.restore(&[]);
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "2");
    let told = restored.result["recovered"]["last_transaction"].as_str().and_then(|told| told.parse::<Timestamp>().ok());
    assert_eq!(told, Some(committed));
}
