//! What comes in is looked at: the receiver indexes it as it passes, and WAL that makes no sense is stored, marked and told.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;
use testkit::bowline::wait;
use testkit::{Bowline, Cluster, RepositoryKind, newest_major, outer_majors};

const QUICK: &str = "[wal]\nstatus_interval = \"300ms\"\nflush_interval = \"300ms\"\n";

#[test]
fn a_receiver_indexes_what_it_stores() {
    for major in outer_majors() {
        let cluster = Cluster::builder(major).wal_segment_mib(1).start();
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), QUICK);
        let receiver = bowline.receive();
        bowline.ok(&["backup"]);
        cluster.psql("CREATE TABLE t AS SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 8000) AS i");
        cluster.psql("SELECT pg_create_restore_point('here')");
        bowline.archive_now();
        assert_eq!(receiver.stop(), Some(0));
        // Nothing is left to read: every record of every segment was looked at when it came.
        let audit = &bowline.ok(&["wal", "audit", "--no-read"])["audit"];
        assert_eq!(audit["unindexed"].as_array().map(Vec::len), Some(0), "PostgreSQL {major}: {audit:#}");
        assert!(audit["segments"].as_u64().is_some_and(|n| n > 4), "PostgreSQL {major}: {audit:#}");
        let restored = bowline.restore(&["--to", "name:here"]);
        assert_eq!(restored.psql("SELECT count(*) FROM t"), "8000", "PostgreSQL {major}");
    }
}

#[test]
fn wal_that_is_damaged_on_the_server_is_stored_marked_and_told() {
    let cluster = Cluster::builder(newest_major()).wal_segment_mib(1).start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), QUICK);
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    assert_eq!(receiver.stop(), Some(0));
    cluster.psql("CREATE TABLE t AS SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 8000) AS i");
    let damaged = cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    cluster.psql("INSERT INTO t SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 4000) AS i; SELECT pg_switch_wal()");
    // The disk under pg_wal lies: one byte of a segment that is complete. Up to its restart a server sends from memory.
    cluster.pg_ctl_stop(true);
    let path = cluster.data_dir().join("pg_wal").join(&damaged);
    let mut file = std::fs::File::options().read(true).write(true).open(&path).expect("open a segment");
    let at = SeekFrom::Start(file.metadata().expect("look at a segment").size() - 100_000);
    let mut byte = [0];
    file.seek(at).and_then(|_| file.read_exact(&mut byte)).expect("read");
    file.seek(at).and_then(|_| file.write_all(&[byte[0] ^ 1])).expect("write");
    drop(file);
    cluster.start_server();

    let receiver = bowline.receive();
    receiver.wait_for(1, "wal-damaged");
    assert!(receiver.log().contains("wal-nonsense") || receiver.log().contains("makes no sense"), "it is read twice: {}", receiver.log());
    assert_eq!(receiver.log().matches("\"event\":\"wal-damaged\"").count(), 1, "{}", receiver.log());
    // Production goes on, and so does the archive.
    bowline.archive_now();
    assert_eq!(receiver.stop(), Some(0));
    let outcome = bowline.run(&["wal", "audit", "--no-read"]);
    assert_eq!(outcome.code, 6, "{outcome:#?}");
    assert!(format!("{outcome:?}").contains(&damaged), "{outcome:#?}");
    let target = bowline.new_target();
    let outcome = bowline.run(&["restore", "--yes", "--to", "latest", "--target", target.to_str().expect("a plain path")]);
    assert_ne!(outcome.code, 0, "nothing may be called restored that lies behind the damage: {outcome:#?}");

    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    cluster.psql("INSERT INTO t VALUES (0, 'after')");
    bowline.archive_now();
    let restored = bowline.restore(&["--to", "latest"]);
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "12001");
    assert_eq!(receiver.stop(), Some(0));
}

#[test]
fn status_tells_what_is_exposed_in_bytes_and_seconds() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), QUICK);
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    cluster.psql("CREATE TABLE t (a int)");
    let status = || bowline.run(&["status"]).lines.iter().find_map(|line| line.get("result").cloned()).expect("a result");
    wait("nothing to be exposed", Duration::from_secs(20), || status()["wal_lag_bytes"] == 0 && status()["wal_lag_seconds"] == 0.0);
    receiver.kill9();
    cluster.psql("INSERT INTO t SELECT generate_series(1, 1000)");
    let exposed = status();
    assert!(exposed["wal_lag_bytes"].as_u64().is_some_and(|bytes| bytes > 10_000), "{exposed:#}");
    assert!(exposed["wal_lag_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{exposed:#}");
    assert_eq!(exposed["protected"], false, "{exposed:#}");
}
