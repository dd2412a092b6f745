//! Under Patroni the receiver follows a switchover and the leader's death by itself: no gap, nothing acknowledged is missing, and
//! a restore across the switches is exact.

use std::collections::BTreeSet;
use std::time::Duration;
use testkit::bowline::{FINGERPRINT, Receiver, Restored, wait};
use testkit::workload::{Pace, missing};
use testkit::{Acknowledged, Bowline, PatroniCluster, RepositoryKind, Workload, full, majors, newest_major};

const QUICK: &str = "[wal]\nstatus_interval = \"300ms\"\nflush_interval = \"300ms\"\n";

fn rows(restored: &Restored) -> BTreeSet<i64> {
    ids(&restored.psql("SELECT id FROM ledger"))
}

fn ids(lines: &str) -> BTreeSet<i64> {
    lines.lines().map(|id| id.parse().expect("an id")).collect()
}

/// One client, so that commit times are in the order of the log and each instant's rows are known exactly.
fn load(cluster: &PatroniCluster) -> Workload {
    Workload::start_at(&cluster.conninfo(), Pace { payload_bytes: 3000, ..Pace::default() })
}

fn streams_on(receiver: &Receiver, timeline: u32) {
    let word = format!("\"slot\":\"bowline\",\"timeline\":{timeline}");
    wait(&format!("the receiver to stream timeline {timeline}"), Duration::from_secs(60), || receiver.log().contains(&word));
}

/// Waits until all that the leader has written is stored.
fn all_is_stored(cluster: &PatroniCluster) {
    let written = cluster.psql("SELECT pg_current_wal_flush_lsn()");
    wait(&format!("WAL to {written} to be stored"), Duration::from_secs(60), || {
        cluster.psql(&format!("SELECT flush_lsn >= '{written}' FROM pg_stat_replication WHERE application_name = 'bowline'")) == "t"
    });
}

#[test]
fn a_switchover_and_the_leaders_death_leave_no_gap() {
    for major in if full() { majors() } else { vec![newest_major()] } {
        let cluster = PatroniCluster::builder(major).synchronous().slot("bowline").start();
        let bowline = Bowline::of_patroni(&cluster, RepositoryKind::Folder);
        bowline.configure(&cluster.conninfo(), None, QUICK);
        let receiver = bowline.receive();
        bowline.ok(&["backup"]);

        let under = load(&cluster);
        under.wait_for(300);
        let second = cluster.switchover();
        let first_ledger = under.stop();
        streams_on(&receiver, 2);

        cluster.wait_for_replicas();
        let under = load(&cluster);
        under.wait_for(300);
        assert_eq!(cluster.kill_leader(), second);
        let second_ledger = under.stop();
        cluster.wait_for_leader();
        streams_on(&receiver, 3);

        let under = load(&cluster);
        under.wait_for(300);
        let ledger: Vec<Acknowledged> = [first_ledger.clone(), second_ledger.clone(), under.stop()].concat();
        all_is_stored(&cluster);

        // What the killed leader had alone was acknowledged to nobody and is no gap.
        assert_eq!(receiver.log().matches("\"event\":\"wal-gap\"").count(), 0, "PostgreSQL {major}: {}", receiver.log());
        let audit = bowline.ok(&["wal", "audit"]);
        assert!(audit["whole"] == true && audit["proven"] == true, "PostgreSQL {major}: {audit}");
        let histories: Vec<String> = bowline.wal_files().into_iter().filter(|name| name.ends_with(".history")).collect();
        assert_eq!(histories, ["00000002.history", "00000003.history"], "PostgreSQL {major}");

        // The backup is of timeline 1: this goes across both switches.
        let restored = bowline.restore(&["--to", "latest"]);
        let lost = missing(&ledger, &restored.psql("SELECT id FROM ledger"));
        let lost_of_leader = missing(&ledger, &cluster.psql("SELECT id FROM ledger"));
        assert_eq!((lost.len(), lost_of_leader.len()), (0, 0), "PostgreSQL {major}: {:?} of {}: {}", lost.first(), ledger.len(), restored.result);
        assert_eq!(restored.psql(FINGERPRINT), cluster.psql(FINGERPRINT), "PostgreSQL {major}: neither less nor more than the leader has");
        drop(restored);
        let before: Vec<i64> = first_ledger.iter().map(|commit| commit.id).collect();
        for (of, earlier) in [(&first_ledger, vec![]), (&second_ledger, before)] {
            let stamped: Vec<_> = of.iter().filter(|commit| commit.committed_at.is_some()).collect();
            let chosen = stamped[stamped.len() / 2].committed_at.expect("chosen for it");
            let restored = bowline.restore(&["--to", &chosen.to_string()]);
            let mut expected: BTreeSet<i64> = stamped.iter().filter(|commit| commit.committed_at <= Some(chosen)).map(|commit| commit.id).collect();
            expected.extend(earlier);
            let mut found = rows(&restored);
            assert!(found.is_subset(&ids(&cluster.psql("SELECT id FROM ledger"))), "PostgreSQL {major} to {chosen}: rows that the leader never had");
            // A commit whose acknowledgement or whose time died with the connection may be there or not: nobody knows when it was.
            let timed: BTreeSet<i64> = ledger.iter().filter(|commit| commit.committed_at.is_some()).map(|commit| commit.id).collect();
            found.retain(|id| timed.contains(id) || expected.contains(id));
            assert_eq!(found, expected, "PostgreSQL {major} to {chosen}");
        }
        assert_eq!(receiver.stop(), Some(0));
    }
}
