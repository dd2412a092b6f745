//! A drill proves what is restored: what is sound passes, each kind of damage turns it red with its evidence, and nothing stays behind.

use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use testkit::bowline::{flip_a_bit, wait};
use testkit::{Bowline, Cluster, RepositoryKind, majors, newest_major, outer_majors};

const DAMAGED: i32 = 6;
const REFUSED: i32 = 4;

/// A drill of this repository in a directory of its own, which must be empty afterwards: its exit code and report.
fn drill(cluster: &Cluster, bowline: &Bowline, words: &[&str]) -> (i32, Value) {
    let place = cluster.home().join("s").join("drills");
    let mut all = vec!["verify", "--dir", place.to_str().expect("a plain path")];
    all.extend_from_slice(words);
    let outcome = bowline.run(&all);
    let result = outcome.lines.iter().rev().find_map(|line| line.get("result"));
    let report = result.unwrap_or_else(|| panic!("the drill told nothing: {outcome:#?}"))["report"].clone();
    assert_eq!(fs::read_dir(&place).map_or(0, Iterator::count), 0, "something was left behind");
    (outcome.code, report)
}

/// Every fault with what it is about, as one text.
fn faults(report: &Value) -> String {
    let fault = |f: &Value| format!("{} {} {}: {}", f["outcome"], f["database"], f["object"], f["what"]);
    report["proof"]["faults"].as_array().expect("faults").iter().map(fault).collect::<Vec<_>>().join("\n")
}

fn ask(bowline: &Bowline, cluster: &Cluster, checks: &str) {
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &format!("[drill]\nchecks = [{checks}]\n"));
}

#[test]
fn what_is_sound_passes_in_every_database_and_the_report_is_kept() {
    for major in majors() {
        let cluster = Cluster::builder(major).setting("max_prepared_transactions", 5).start();
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        cluster.psql("CREATE DATABASE \"with a 'quote\"");
        let elsewhere = |sql: &str| cluster.try_psql_in("with a 'quote", sql).expect("psql");
        elsewhere(
            "CREATE TABLE \"Odd name\" (a int PRIMARY KEY, b text); INSERT INTO \"Odd name\" SELECT i, repeat(md5(i::text), 300) FROM generate_series(1, 500) i",
        );
        elsewhere("DROP SCHEMA IF EXISTS nothing; CREATE SCHEMA far; ALTER TABLE \"Odd name\" SET SCHEMA far; DROP SCHEMA public");
        cluster.psql(
            "CREATE TABLE kept (a int PRIMARY KEY); INSERT INTO kept SELECT generate_series(1, 1000); CREATE INDEX ON kept USING gin ((ARRAY[a]))",
        );
        cluster.psql(
            "CREATE UNLOGGED TABLE fleeting AS SELECT 1 AS a; CREATE TABLE p (a int) PARTITION BY RANGE (a); CREATE TABLE p1 PARTITION OF p DEFAULT",
        );
        cluster.psql("CREATE TABLE twice AS SELECT 1 AS a FROM generate_series(1, 2)");
        assert!(cluster.try_psql("CREATE UNIQUE INDEX CONCURRENTLY ON twice (a)").is_err(), "it stays behind, invalid");
        cluster.psql("CREATE FUNCTION loud() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no DDL here'; END $$");
        cluster.psql("CREATE EVENT TRIGGER loud ON ddl_command_start EXECUTE FUNCTION loud()");
        ask(
            &bowline,
            &cluster,
            "{ sql = 'SELECT count(*) FROM kept', expect = '>= 1001' }, { sql = \"SELECT 'v12'\", expect = 'matches ^v[0-9]+$' }",
        );
        let receiver = bowline.receive();
        bowline.ok(&["backup"]);
        cluster.psql("INSERT INTO kept VALUES (0); INSERT INTO p VALUES (7)");
        bowline.archive_now();
        let (code, report) = drill(&cluster, &bowline, &[]);
        assert_eq!((code, report["outcome"].as_str()), (0, Some("passed")), "PostgreSQL {major}: {}", faults(&report));
        let databases = report["proof"]["databases"].as_array().expect("databases");
        let names: Vec<_> = databases.iter().filter_map(|d| d["name"].as_str()).collect();
        assert_eq!(names, ["postgres", "template1", "with a 'quote"]);
        assert!(databases.iter().all(|d| d["indexes_passed"].as_u64() > Some(80) && d["tables_passed"].as_u64() > Some(60)), "{databases:#?}");
        let rows = |d: &Value| {
            d["rows"]
                .as_array()
                .expect("rows")
                .iter()
                .map(|t| format!("{} {}", t["name"].as_str().unwrap_or_default(), t["rows"]))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            rows(&databases[0]),
            ["public.kept 1001", "public.p1 1", "public.twice 2"],
            "the WAL after the backup is in it, the unlogged table is not"
        );
        assert_eq!(rows(&databases[2]), ["far.\"Odd name\" 500"]);
        assert_eq!(
            databases[0]["without_check"].as_array().map(Vec::len),
            Some(2),
            "indexes that have no check are named: {}",
            databases[0]["without_check"]
        );
        let answers: Vec<_> = report["proof"]["answers"].as_array().expect("answers").iter().map(|a| a["got"].as_str().unwrap_or_default()).collect();
        assert_eq!(answers, ["1001", "v12"]);
        let kept = fs::read_to_string(bowline.object("report.json")).expect("the report in the repository");
        assert!(kept.contains("\"passed\"") && kept.contains("Odd name"), "{kept}");
        let page = fs::read_to_string(bowline.object("report.html")).expect("the page beside it");
        assert!(page.contains("class=\"verdict passed\"") && page.contains("far.&quot;Odd name&quot;"), "{page}");
        assert_eq!(receiver.stop(), Some(0));
    }
}

#[test]
fn an_index_that_disagrees_with_its_table_is_found() {
    for major in outer_majors() {
        let cluster = Cluster::start(major);
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        cluster.psql("CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 1000); CREATE INDEX blind ON t (a)");
        cluster.psql("UPDATE pg_index SET indisready = false WHERE indexrelid = 'blind'::regclass");
        cluster.psql("INSERT INTO t VALUES (1001)");
        cluster.psql("UPDATE pg_index SET indisready = true WHERE indexrelid = 'blind'::regclass");
        // Whoever may make functions beside amcheck's has none called in their place, by a superuser.
        cluster.psql("CREATE EXTENSION amcheck");
        cluster.psql(
            "CREATE FUNCTION verify_heapam(relation regclass, check_toast boolean, OUT blkno bigint, OUT msg text) RETURNS SETOF record \
             LANGUAGE plpgsql AS $$ BEGIN RAISE 'called as %', current_user; END $$",
        );
        // Nor has who may set the database's search_path.
        cluster.psql(
            "CREATE SCHEMA ahead; CREATE FUNCTION ahead.set_config(text, text, boolean) RETURNS text \
             LANGUAGE plpgsql AS $$ BEGIN RAISE 'called as %', current_user; END $$",
        );
        cluster.psql("ALTER DATABASE postgres SET search_path = ahead, pg_catalog, public");
        bowline.ok(&["backup"]);
        let (code, report) = drill(&cluster, &bowline, &[]);
        assert!(!faults(&report).contains("called as"), "PostgreSQL {major}: {}", faults(&report));
        assert_eq!((code, report["outcome"].as_str()), (DAMAGED, Some("failed")), "PostgreSQL {major}: {}", faults(&report));
        assert!(faults(&report).contains("public.blind"), "{}", faults(&report));
    }
}

#[test]
fn a_page_that_is_damaged_is_found_by_its_table() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 5000) i; CHECKPOINT");
    let file = cluster.data_dir().join(cluster.psql("SELECT pg_relation_filepath('t')"));
    cluster.pg_ctl_stop(true);
    File::options().write(true).open(&file).and_then(|file| file.write_all_at(&[0xA5; 64], 3 * 8192 + 4000)).expect("write");
    cluster.start_server();
    bowline.ok(&["backup", "--checksums", "warn"]);
    let (code, report) = drill(&cluster, &bowline, &[]);
    assert_eq!((code, report["outcome"].as_str()), (DAMAGED, Some("failed")));
    let found = faults(&report);
    assert!(found.contains("public.t") && found.contains("block 3"), "{found}");
}

#[test]
fn rows_that_are_missing_and_questions_that_fail_are_no_pass() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE organizations (a int)");
    // Where a table was, its owner may put a view, which runs as whoever asks.
    let sprung = std::env::temp_dir().join(format!("bowline-sprung-{}", std::process::id()));
    cluster.psql(&format!(
        "CREATE FUNCTION trap() RETURNS int LANGUAGE plpgsql AS $$ BEGIN COPY (SELECT 1) TO PROGRAM 'touch {}'; RETURN 1; END $$",
        sprung.display()
    ));
    cluster.psql("CREATE VIEW replaced AS SELECT trap() AS a");
    bowline.ok(&["backup"]);
    ask(&bowline, &cluster, "{ sql = 'SELECT count(*) FROM organizations', expect = '>= 1' }");
    let (code, report) = drill(&cluster, &bowline, &["--no-record"]);
    assert_eq!((code, report["outcome"].as_str()), (DAMAGED, Some("failed")));
    assert_eq!(report["proof"]["answers"][0]["got"], "0");
    ask(
        &bowline,
        &cluster,
        "{ sql = 'SELECT count(*) FROM nowhere', expect = '>= 1' }, { sql = 'SELECT a FROM replaced', expect = '= 1' }, \
         { sql = \"SELECT current_setting('is_superuser')\", expect = '= off' }",
    );
    let (code, report) = drill(&cluster, &bowline, &["--no-record"]);
    assert_eq!((code, report["outcome"].as_str()), (REFUSED, Some("not-verified")), "it was not answered: {}", faults(&report));
    let found = faults(&report);
    assert!(found.contains("nowhere") && found.contains("permission denied") && found.contains("pg_read_all_data"), "{found}");
    assert!(!sprung.exists(), "the database's code ran a program");
    assert_eq!(report["proof"]["answers"][2]["got"], "off", "{report:#}");
    let folder = bowline.repository().join("drills");
    assert!(!folder.exists(), "--no-record keeps nothing");
    ask(&bowline, &cluster, "{ sql = 'SELECT 1', expect = 'about 1' }");
    bowline.fails(&["verify"], 2, "config-wrong");
}

#[test]
fn damage_in_the_repository_turns_a_drill_red_and_is_named() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let (code, report) = drill(&cluster, &bowline, &["--no-record"]);
    assert_eq!((code, report["outcome"].as_str()), (DAMAGED, Some("failed")), "there is no backup at all");
    let receiver = bowline.receive();
    cluster.psql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 50000) i");
    bowline.ok(&["backup"]);
    cluster.psql("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 200000) i");
    bowline.archive_now();
    let segment = cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn() - 16777216)");
    for ending in ["data/000001", "/manifest", &segment] {
        let object = bowline.object(ending);
        let good = fs::read(&object).expect("read");
        flip_a_bit(&object);
        let (code, report) = drill(&cluster, &bowline, &["--no-record"]);
        assert!(code == DAMAGED && report["outcome"] == "failed", "{ending}: exit {code}, {}", faults(&report));
        assert!(faults(&report).contains(ending.trim_start_matches('/')), "{ending}: {}", faults(&report));
        fs::write(&object, good).expect("write");
    }
    let (code, report) = drill(&cluster, &bowline, &["--no-record"]);
    assert_eq!(code, 0, "all is whole again: {}", faults(&report));
    assert_eq!(receiver.stop(), Some(0));
}

#[test]
fn a_drill_that_is_killed_leaves_nothing_running_and_nothing_behind() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t AS SELECT i, repeat(md5(i::text), 20) AS b FROM generate_series(1, 100000) i; CREATE INDEX ON t (b)");
    bowline.ok(&["backup"]);
    let place = cluster.home().join("s").join("killed");
    let entries = |place: &Path| fs::read_dir(place).map_or(0, Iterator::count);
    // While files are restored, while WAL is replayed, while it is checked.
    for stage in ["data/PG_VERSION", "data.bowline/recovery.log", "data.bowline/server.log"] {
        let mut held = bowline.command(&["verify", "--no-record", "--dir", place.to_str().expect("a plain path")]);
        let mut held = held.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run bowline");
        let mine = place.join(format!("bowline-drill-{}", held.id()));
        wait("the drill to come so far", Duration::from_secs(60), || mine.join(stage).exists() || held.try_wait().expect("wait").is_some());
        assert!(mine.join(stage).exists(), "it ended before {stage} was there");
        held.kill().expect("kill");
        held.wait().expect("wait");
        wait("everything to be gone", Duration::from_secs(60), || entries(&place) == 0);
        wait("its server to be gone", Duration::from_secs(60), || !is_named_by_a_process(&mine));
    }
    assert!(cluster.is_running());
}

/// Whether the command line of any process names this path.
fn is_named_by_a_process(path: &Path) -> bool {
    let path = path.to_str().expect("a plain path");
    let lines = fs::read_dir("/proc").expect("proc").flatten().filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.into_iter().any(|line| String::from_utf8_lossy(&line).contains(path))
}
