//! A drill counts every table and holds the counts against the last drill and against production: what is missing is found, and what was
//! taken away in order is not.

use std::fs;
use std::path::PathBuf;
use testkit::drill::Drilled;
use testkit::{Bowline, Cluster, RepositoryKind, newest_major, outer_majors};

const DAMAGED: i32 = 6;

/// Where the table's rows are.
fn file_of(cluster: &Cluster, table: &str) -> PathBuf {
    cluster.data_dir().join(cluster.psql(&format!("SELECT pg_relation_filepath('{table}')")))
}

/// A cluster that writes nothing by itself.
fn quiet(major: u32) -> Cluster {
    Cluster::builder(major).setting("autovacuum", "off").setting("max_prepared_transactions", 5).start()
}

/// How many tables the drill compared with the last one, and how many of them to the row.
fn compared(drilled: &Drilled) -> (u64, u64) {
    let with = &drilled.report["comparisons"][0];
    (with["tables"].as_u64().unwrap_or_default(), with["exactly"].as_u64().unwrap_or_default())
}

#[test]
fn rows_that_vanished_behind_the_logs_back_are_found_by_the_next_drill() {
    for major in outer_majors() {
        let cluster = quiet(major);
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        cluster.psql("CREATE TABLE t AS SELECT i AS a FROM generate_series(1, 1000) i; CREATE TABLE still AS SELECT 1 AS a; CHECKPOINT");
        let file = file_of(&cluster, "t");
        // The first reader of new rows marks them as known, which moves their pages' positions as a write does.
        cluster.psql("SELECT count(*) FROM t; CHECKPOINT");
        cluster.pg_ctl_stop(true);
        let older = fs::read(&file).expect("read the table");
        cluster.start_server();
        cluster.psql("INSERT INTO t SELECT generate_series(1001, 2000)");
        bowline.ok(&["backup"]);
        let first = Drilled::hold(&cluster, &bowline, &[]);
        assert_eq!((first.code, first.outcome()), (0, "passed"), "PostgreSQL {major}: {}", first.said());
        assert_eq!(compared(&first), (0, 0), "there was none before it");
        let again = Drilled::hold(&cluster, &bowline, &[]);
        assert_eq!((again.code, compared(&again)), (0, (2, 2)), "PostgreSQL {major}: {}\n{:#}", again.said(), again.report["comparisons"]);

        cluster.pg_ctl_stop(true);
        fs::write(&file, older).expect("put the older file in its place");
        cluster.start_server();
        assert_eq!(cluster.psql("SELECT count(*) FROM t"), "1000", "the server notices nothing");
        bowline.ok(&["backup"]);
        let drilled = Drilled::hold(&cluster, &bowline, &[]);
        assert_eq!((drilled.code, drilled.outcome()), (DAMAGED, "failed"), "PostgreSQL {major}: {}", drilled.said());
        let faults = drilled.faults();
        assert!(faults.contains("rows of public.t") && faults.contains("1000 rows") && faults.contains("2000 at the drill"), "{faults}");
        assert!(!faults.contains("still"), "{faults}");
    }
}

#[test]
fn what_was_taken_away_in_order_is_no_fault() {
    for major in outer_majors() {
        let cluster = quiet(major);
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        for table in ["queue", "drained", "halved", "dropped", "rewritten", "hung", "still"] {
            cluster.psql(&format!("CREATE TABLE {table} AS SELECT i AS a FROM generate_series(1, 5000) i"));
        }
        cluster.psql("VACUUM ANALYZE");
        // It touches the table before the drill's end, and is committed after it.
        cluster.psql("BEGIN; DELETE FROM hung; PREPARE TRANSACTION 'hung'");
        bowline.ok(&["backup"]);
        let first = Drilled::hold(&cluster, &bowline, &[]);
        assert_eq!((first.code, first.outcome()), (0, "passed"), "PostgreSQL {major}: {}", first.said());
        let counted = first.report["comparisons"][1]["tables"].as_u64();
        assert!(counted >= Some(6), "production's estimates: {:#}", first.report["comparisons"]);
        cluster.psql("COMMIT PREPARED 'hung'; TRUNCATE queue; DELETE FROM drained; DELETE FROM halved WHERE a > 2500; DROP TABLE dropped");
        cluster.psql("DELETE FROM rewritten WHERE a > 10; VACUUM FULL rewritten; VACUUM drained; VACUUM halved");
        bowline.ok(&["backup"]);
        let drilled = Drilled::hold(&cluster, &bowline, &[]);
        assert_eq!((drilled.code, drilled.outcome()), (0, "passed"), "PostgreSQL {major}: {}", drilled.said());
        assert!(compared(&drilled).0 >= 6, "{:#}", drilled.report["comparisons"]);
        // Without production nobody says that it was meant, which is said; no verdict hangs on it.
        bowline.configure("host=/nowhere user=postgres dbname=postgres", Some(cluster.data_dir()), "");
        let alone = Drilled::hold(&cluster, &bowline, &["--no-record"]);
        assert_eq!((alone.code, alone.outcome()), (0, "passed"), "PostgreSQL {major}: {}", alone.said());
        let why = alone.report["comparisons"][1]["not_compared"].to_string();
        assert!(why.contains("/nowhere"), "{why}");
    }
}

#[test]
fn fewer_rows_than_production_has_are_a_fault_beyond_the_tolerance() {
    let cluster = quiet(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t AS SELECT i AS a FROM generate_series(1, 20000) i; ANALYZE t; CHECKPOINT");
    bowline.ok(&["backup"]);
    let file = file_of(&cluster, "t");
    cluster.psql("DELETE FROM t WHERE a <= 10000; VACUUM t");
    let drill = |words: &[&str]| Drilled::hold(&cluster, &bowline, words);
    assert_eq!(drill(&["--no-record"]).outcome(), "passed", "production has fewer than was restored");
    // Half the file is lost before the next backup; production's own count is of before.
    cluster.psql("INSERT INTO t SELECT generate_series(1, 10000); ANALYZE t; CHECKPOINT");
    let pages: u64 = cluster.psql("SELECT pg_relation_size('t') / 8192").parse().expect("a number");
    cluster.pg_ctl_stop(true);
    fs::OpenOptions::new().write(true).open(&file).and_then(|file| file.set_len(pages / 2 * 8192)).expect("cut the file");
    cluster.start_server();
    bowline.ok(&["backup"]);
    let drilled = drill(&["--no-record"]);
    assert_eq!((drilled.code, drilled.outcome()), (DAMAGED, "failed"), "{}", drilled.said());
    let faults = drilled.faults();
    assert!(faults.contains("rows of public.t") && faults.contains("production has at least about 20000"), "{faults}");
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), "[drill]\ntolerance = \"60%\"\n");
    assert_eq!(drill(&["--no-record"]).outcome(), "passed", "as little is accepted here");
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), "[drill]\ntolerance = \"1.5\"\n");
    bowline.fails(&["verify"], 2, "config-wrong");
    // What another cluster believes says nothing of this one.
    let other = Cluster::start(newest_major());
    bowline.configure(&other.conninfo(), Some(cluster.data_dir()), "");
    let drilled = drill(&["--no-record"]);
    let why = drilled.report["comparisons"][1]["not_compared"].to_string();
    assert!(drilled.code == 0 && why.contains("another cluster"), "{why}\n{}", drilled.said());
}

#[test]
fn a_report_that_is_damaged_is_passed_over_and_named() {
    let cluster = quiet(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t AS SELECT 1 AS a");
    bowline.ok(&["backup"]);
    assert_eq!(Drilled::hold(&cluster, &bowline, &[]).outcome(), "passed");
    let _flipped = testkit::tamper::Flipped::at(&bowline.object("report.json"), 0.5);
    let drilled = Drilled::hold(&cluster, &bowline, &["--no-record"]);
    assert_eq!((drilled.code, compared(&drilled)), (0, (0, 0)), "{}", drilled.said());
    assert!(drilled.notices().contains("report.json"), "{}", drilled.notices());
}
