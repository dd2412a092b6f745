//! WAL that lies in pieces only serves whoever asks: a standby, a recovery by hand, and a restore to an instant or position within.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;
use testkit::bowline::wait;
use testkit::workload::missing;
use testkit::{Bowline, Cluster, RepositoryKind, Workload, full, majors, newest_major};

const QUICK: &str = "[wal]\nstatus_interval = \"300ms\"\nflush_interval = \"300ms\"\n";

fn all_is_stored(server: &Cluster) {
    let written = server.psql("SELECT pg_current_wal_flush_lsn()");
    wait(&format!("WAL to {written} to be stored"), Duration::from_secs(30), || {
        server.psql(&format!("SELECT flush_lsn >= '{written}' FROM pg_stat_replication WHERE application_name = 'bowline'")) == "t"
    });
}

fn current_segment(server: &Cluster) -> String {
    server.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
}

/// A copy of the server's data directory without any WAL, made by PostgreSQL's own means.
fn copy_without_wal(cluster: &Cluster, to: &Path) {
    let mut command = cluster.bin("pg_basebackup");
    let output = command.arg("-D").arg(to).args(["-X", "none", "-c", "fast", "--no-sync"]).output().expect("run pg_basebackup");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn append(file: &Path, text: &str) {
    let old = fs::read_to_string(file).unwrap_or_default();
    fs::write(file, old + text).unwrap_or_else(|e| panic!("cannot write {}: {e}", file.display()));
}

#[test]
fn a_standby_that_only_fetches_follows_the_pieces() {
    for major in if full() { majors() } else { vec![newest_major()] } {
        let primary = Cluster::start(major);
        let bowline = Bowline::new(&primary, RepositoryKind::Folder);
        bowline.configure(&primary.conninfo(), Some(primary.data_dir()), QUICK);
        let receiver = bowline.receive();
        bowline.ok(&["backup"]);
        primary.psql("CREATE TABLE t (id int)");
        let standby = primary.standby();
        standby.psql("ALTER SYSTEM SET primary_conninfo = ''");
        standby.configure(&[("restore_command", &bowline.shell("wal fetch %f %p")), ("wal_retrieve_retry_interval", "200ms")]);
        standby.restart();
        let said_before = standby.log().len();
        let count = || standby.psql("SELECT count(*) FROM t");
        for round in 1..=3 {
            primary.psql(&format!("INSERT INTO t VALUES ({round})"));
            wait("the standby to follow in pieces", Duration::from_secs(30), || count() == round.to_string());
            let current = current_segment(&primary);
            assert!(!bowline.wal_files().contains(&current), "PostgreSQL {major}: {current} is stored whole, so that this proves nothing");
        }
        // What was read in pieces is read again when there is more of it, and what follows is found.
        primary.psql("INSERT INTO t SELECT generate_series(4, 600000)");
        primary.psql("INSERT INTO t VALUES (600001)");
        wait("the standby to follow over whole segments", Duration::from_secs(60), || count() == "600001");
        primary.psql("SELECT pg_switch_wal()");
        primary.psql("INSERT INTO t VALUES (600002)");
        wait("the standby to follow past a switch", Duration::from_secs(30), || count() == "600002");
        assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "t", "PostgreSQL {major}");
        let said = standby.log().split_off(said_before);
        assert!(!said.contains("PANIC") && !said.contains("FATAL"), "PostgreSQL {major}: {said}");

        primary.psql("INSERT INTO t VALUES (600003)");
        all_is_stored(&primary);
        primary.kill9();
        receiver.kill9();
        wait("the last piece to be replayed", Duration::from_secs(30), || count() == "600003");
        standby.promote();
        assert_eq!(
            standby.psql("INSERT INTO t VALUES (0); SELECT count(*), pg_walfile_name(pg_current_wal_lsn()) LIKE '00000002%' FROM t"),
            "600004|t"
        );
    }
}

#[test]
fn a_recovery_by_hand_ends_where_the_pieces_end_and_restores_reach_into_them() {
    for major in if full() { majors() } else { vec![newest_major()] } {
        let primary = Cluster::builder(major).setting("track_commit_timestamp", "on").setting("autovacuum", "off").start();
        let bowline = Bowline::new(&primary, RepositoryKind::Folder);
        bowline.configure(&primary.conninfo(), Some(primary.data_dir()), QUICK);
        let receiver = bowline.receive();
        bowline.ok(&["backup"]);
        let by_hand = primary.home().join("by-hand");
        copy_without_wal(&primary, &by_hand);
        primary.psql("SELECT pg_switch_wal()");
        let workload = Workload::start(&primary.conninfo());
        workload.wait_for(400);
        let ledger = workload.stop();
        all_is_stored(&primary);
        let current = current_segment(&primary);
        primary.kill9();
        receiver.kill9();
        assert!(!bowline.wal_files().contains(&current), "PostgreSQL {major}: {current} is stored whole, so that this proves nothing");

        append(&by_hand.join("postgresql.auto.conf"), &format!("restore_command = '{}'\n", bowline.shell("wal fetch %f %p")));
        append(&by_hand.join("recovery.signal"), "");
        let recovered = Cluster::open(major, &by_hand);
        wait("the end of recovery", Duration::from_secs(60), || recovered.psql("SELECT pg_is_in_recovery()") == "f");
        let ids = recovered.psql("SELECT id FROM ledger");
        assert_eq!(missing(&ledger, &ids), [], "PostgreSQL {major}");
        assert_eq!(ids.lines().count(), ledger.len(), "PostgreSQL {major}");
        assert_eq!(recovered.psql("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"), "00000002");
        drop(recovered);

        let chosen = &ledger[ledger.len() / 2];
        let position = chosen.inserted_to.expect("asked");
        let at = chosen.committed_at.expect("track_commit_timestamp is on");
        let expected: BTreeSet<String> = ledger.iter().filter(|commit| commit.id <= chosen.id).map(|commit| commit.id.to_string()).collect();
        for to in [position.to_string(), at.to_string()] {
            let restored = bowline.restore(&["--to", &to]);
            let found: BTreeSet<String> = restored.psql("SELECT id FROM ledger").lines().map(str::to_owned).collect();
            assert_eq!(found, expected, "PostgreSQL {major} to {to}");
        }
        let (text, target) = bowline.restore_fails(&["--to", "0/7F000000"], 3, "target-unreachable");
        assert!(text.contains("What can be restored: ") && !target.exists(), "{text}");
    }
}
