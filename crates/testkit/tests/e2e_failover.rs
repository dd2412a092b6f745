//! Another server takes over: no gap, nothing of the new timeline lost, and what the old server had alone is kept apart.

use std::time::Duration;
use testkit::bowline::{Receiver, wait};
use testkit::workload::{Pace, missing};
use testkit::{Bowline, Cluster, RepositoryKind, Workload, newest_major, outer_majors};

const QUICK: &str = "[wal]\nstatus_interval = \"300ms\"\nflush_interval = \"300ms\"\n";

/// A connection string that names both servers.
fn either(one: &Cluster, other: &Cluster) -> String {
    let (one_dir, other_dir) = (one.socket_dir(), other.socket_dir());
    format!("host={},{} port={},{} user=postgres dbname=postgres", one_dir.display(), other_dir.display(), one.port(), other.port())
}

fn streams_on(receiver: &Receiver, timeline: u32) {
    let word = format!("\"slot\":\"bowline\",\"timeline\":{timeline}");
    wait(&format!("the receiver to stream timeline {timeline}"), Duration::from_secs(60), || receiver.log().contains(&word));
}

#[test]
fn a_promoted_standby_is_followed_without_a_gap() {
    for major in outer_majors() {
        let primary = Cluster::builder(major).wal_segment_mib(1).start();
        let standby = primary.standby();
        let bowline = Bowline::new(&primary, RepositoryKind::Folder);
        bowline.configure(&either(&primary, &standby), Some(primary.data_dir()), QUICK);
        let receiver = bowline.receive();
        let slot_of = |server: &Cluster| server.psql("SELECT restart_lsn IS NOT NULL FROM pg_replication_slots WHERE slot_name = 'bowline'");
        wait("a slot on the standby", Duration::from_secs(20), || slot_of(&standby) == "t");
        bowline.ok(&["backup"]);
        let pace = || Pace { clients: 2, payload_bytes: 3000, ..Pace::default() };
        let workload = Workload::start_at(&primary.conninfo(), pace());
        workload.wait_for(1500);
        let replicated = workload.stop();
        standby.catch_up(&primary);
        wait("the standby's slot to move along", Duration::from_secs(20), || {
            standby.psql("SELECT restart_lsn > '0/100000' FROM pg_replication_slots WHERE slot_name = 'bowline'") == "t"
        });
        // From here on the two part: what the primary still writes never reaches the standby, but does reach the repository.
        standby.psql("ALTER SYSTEM SET primary_conninfo = ''");
        standby.psql("SELECT pg_reload_conf()");
        wait("replication to end", Duration::from_secs(20), || {
            primary.psql("SELECT count(*) FROM pg_stat_replication WHERE application_name <> 'bowline'") == "0"
        });
        let workload = Workload::start_at(&primary.conninfo(), pace());
        workload.wait_for(800);
        let alone = workload.stop();
        let written = primary.psql("SELECT pg_current_wal_flush_lsn()");
        wait("all of the old primary's WAL to be stored", Duration::from_secs(20), || {
            primary.psql(&format!("SELECT flush_lsn >= '{written}' FROM pg_stat_replication WHERE application_name = 'bowline'")) == "t"
        });
        primary.kill9();
        standby.promote();
        streams_on(&receiver, 2);
        receiver.wait_for(1, "divergent-tail");
        assert!(receiver.log().contains("\"first_commit\":\"2"), "{}", receiver.log());

        let workload = Workload::start_at(&standby.conninfo(), pace());
        workload.wait_for(1500);
        let after = workload.stop();
        let written = standby.psql("SELECT pg_current_wal_flush_lsn()");
        wait("all of the new primary's WAL to be stored", Duration::from_secs(20), || {
            standby.psql(&format!("SELECT flush_lsn >= '{written}' FROM pg_stat_replication WHERE application_name = 'bowline'")) == "t"
        });

        // The backup is of timeline 1, so this goes across the switch.
        let restored = bowline.restore(&["--to", "latest"]);
        let ids = restored.psql("SELECT id FROM ledger");
        assert_eq!(missing(&replicated, &ids), [], "PostgreSQL {major}");
        assert_eq!(missing(&after, &ids), [], "PostgreSQL {major}");
        assert_eq!(ids.lines().count(), replicated.len() + after.len(), "PostgreSQL {major}: nothing else is there");
        let restored = bowline.restore(&["--to", "latest", "--timeline", "1"]);
        let ids = restored.psql("SELECT id FROM ledger");
        assert_eq!(missing(&replicated, &ids), [], "PostgreSQL {major}");
        assert_eq!(missing(&alone, &ids), [], "PostgreSQL {major}: what the old primary had alone");
        assert_eq!(ids.lines().count(), replicated.len() + alone.len(), "PostgreSQL {major}");

        // A standby that joins comes first in the list: what is asked of the server, and the backup, are the primary's all the same.
        let joined = standby.standby();
        bowline.configure(&either(&joined, &standby), Some(joined.data_dir()), QUICK);
        let status = bowline.run(&["status"]);
        let status = status.lines.iter().find_map(|line| line.get("result")).expect("a result");
        assert_eq!(status["facts"]["server"]["seen"]["in_recovery"], false, "PostgreSQL {major}: {status}");
        assert!(!status["alarms"].to_string().contains("no WAL receiver is running"), "PostgreSQL {major}: {status}");
        assert_eq!(bowline.ok(&["backup"])["source"], "stream", "PostgreSQL {major}: the directory is the standby's");
        drop(joined);

        // The old primary comes back as if nothing had happened: it is refused, and the receiver keeps to the new one.
        let stored = bowline.wal_files();
        primary.start_server();
        bowline.configure(&primary.conninfo(), Some(primary.data_dir()), QUICK);
        bowline.fails(&["wal", "receive"], 4, "server-demoted");
        assert!(bowline.wal_files().len() >= stored.len());
        assert_eq!(receiver.stop(), Some(0));
    }
}

/// Nobody stops the old primary: it comes first in the connection string, and streams on as if nothing had happened.
#[test]
fn a_standby_that_is_promoted_beside_a_primary_that_lives_is_followed() {
    for major in outer_majors() {
        let old = Cluster::builder(major).wal_segment_mib(1).start();
        let new = old.standby();
        let bowline = Bowline::new(&old, RepositoryKind::Folder);
        bowline.configure(&either(&old, &new), Some(old.data_dir()), QUICK);
        let receiver = bowline.receive();
        wait("a slot on the standby", Duration::from_secs(20), || {
            new.psql("SELECT restart_lsn IS NOT NULL FROM pg_replication_slots WHERE slot_name = 'bowline'") == "t"
        });
        bowline.ok(&["backup"]);
        let pace = || Pace { clients: 2, payload_bytes: 3000, ..Pace::default() };
        let workload = Workload::start_at(&old.conninfo(), pace());
        workload.wait_for(500);
        let before = workload.stop();
        new.catch_up(&old);
        new.promote();
        old.psql("INSERT INTO ledger (payload) SELECT 'left behind' FROM generate_series(1, 100)");
        let workload = Workload::start_at(&new.conninfo(), pace());
        workload.wait_for(500);

        streams_on(&receiver, 2);
        receiver.wait_for(1, "server-overtaken");
        let after = workload.stop();
        let written = new.psql("SELECT pg_current_wal_flush_lsn()");
        wait("all of the new primary's WAL to be stored", Duration::from_secs(30), || {
            new.psql(&format!("SELECT flush_lsn >= '{written}' FROM pg_stat_replication WHERE application_name = 'bowline'")) == "t"
        });
        let left = format!("server {}/.s.PGSQL.{} still takes writes on timeline 1", old.socket_dir().display(), old.port());
        wait("the old primary to be told of", Duration::from_secs(20), || receiver.log().contains(&left));
        let restored = bowline.restore(&["--to", "latest"]);
        let ids = restored.psql("SELECT id FROM ledger");
        assert_eq!((missing(&before, &ids), missing(&after, &ids)), (vec![], vec![]), "PostgreSQL {major}");
        assert_eq!(ids.lines().count(), before.len() + after.len(), "PostgreSQL {major}: nothing that the old one committed alone");
        drop(restored);

        // One that knows nothing but the repository passes the old one by, too, which lives still.
        assert_eq!(receiver.stop(), Some(0));
        assert_eq!(old.psql("SELECT count(*) FROM ledger WHERE payload = 'left behind'"), "100");
        let receiver = bowline.start_receiver(&[]);
        streams_on(&receiver, 2);
        assert_eq!(receiver.stop(), Some(0));
    }
}

#[test]
fn wal_that_the_server_no_longer_has_is_told_as_a_gap_and_reception_goes_on() {
    let cluster = Cluster::builder(newest_major()).wal_segment_mib(1).setting("max_slot_wal_keep_size", "2MB").setting("min_wal_size", "2MB").start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), QUICK);
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    receiver.wait_for(1, "wal-covered");
    receiver.kill9();
    cluster.psql("CREATE TABLE t AS SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 20000) AS i");
    wait("the slot to be lost", Duration::from_secs(40), || {
        cluster.psql("CHECKPOINT; SELECT pg_switch_wal()");
        cluster.psql("SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'bowline'") == "lost"
    });
    let receiver = bowline.receive();
    receiver.wait_for(1, "wal-gap");
    bowline.archive_now();
    bowline.restore_fails(&["--to", "latest"], 3, "wal-missing");
    bowline.ok(&["backup"]);
    cluster.psql("INSERT INTO t VALUES (0, 'after the gap')");
    bowline.archive_now();
    let restored = bowline.restore(&["--to", "latest"]);
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "20001");
    assert_eq!(receiver.stop(), Some(0));
}

/// PostgreSQL 18 invalidates a slot that nobody used for a while, and lets it keep its position.
#[test]
fn a_slot_that_idled_out_is_made_anew() {
    let cluster = Cluster::builder(newest_major()).wal_segment_mib(1).setting("wal_keep_size", "64MB").start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), QUICK);
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    receiver.wait_for(1, "wal-covered");
    assert_eq!(receiver.stop(), Some(0));
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    cluster.configure(&[("idle_replication_slot_timeout", "1s")]);
    cluster.psql("SELECT pg_reload_conf()");
    let slot = |what: &str| cluster.psql(&format!("SELECT {what} FROM pg_replication_slots WHERE slot_name = 'bowline'"));
    wait("the slot to idle out", Duration::from_secs(40), || {
        cluster.psql("CHECKPOINT");
        slot("invalidation_reason") == "idle_timeout"
    });
    assert_eq!(slot("restart_lsn IS NOT NULL"), "t");
    cluster.configure(&[("idle_replication_slot_timeout", "0")]);
    cluster.psql("SELECT pg_reload_conf()");
    let receiver = bowline.receive();
    assert_eq!(slot("active, invalidation_reason IS NULL"), "t|t");
    bowline.archive_now();
    let restored = bowline.restore(&["--to", "latest"]);
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "1000", "nothing of it was lost: the server had kept the WAL");
    assert_eq!(receiver.stop(), Some(0));
}
