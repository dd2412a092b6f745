//! The fixture itself, on every major: a test ground that lies would make every other test worthless.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use testkit::workload::{Pace, lost};
use testkit::{Cluster, Workload, majors, newest_major};

#[test]
fn a_cluster_of_each_major_starts_answers_and_leaves_nothing_behind() {
    for major in majors() {
        let begun = Instant::now();
        let cluster = Cluster::start(major);
        eprintln!("PostgreSQL {major} answered after {:.2} s", begun.elapsed().as_secs_f64());
        assert!(cluster.psql("SHOW server_version").starts_with(&format!("{major}.")));
        assert_eq!(cluster.psql("SHOW data_checksums"), "on");
        assert_eq!(cluster.psql("SELECT 1; SELECT 2, 3"), "1\n2|3");
        let said = cluster.try_psql("SELECT nonsense").expect_err("must fail");
        assert!(said.contains("nonsense"), "{said}");
        let (home, pid) = (cluster.home().to_owned(), cluster.pid().expect("running"));
        drop(cluster);
        assert!(!home.exists() && !std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}

#[test]
fn the_wishes_of_the_builder_are_granted_on_each_major() {
    for major in majors() {
        let cluster = Cluster::builder(major)
            .checksums(false)
            .wal_segment_mib(1)
            .setting("wal_level", "logical")
            .setting("cluster_name", "it's mine")
            .tablespace("fast")
            .tcp(true)
            .start();
        assert_eq!(cluster.psql("SHOW data_checksums"), "off");
        assert_eq!(cluster.psql("SHOW wal_segment_size"), "1MB");
        assert_eq!(cluster.psql("SHOW wal_level"), "logical");
        assert_eq!(cluster.psql("SHOW cluster_name"), "it's mine");
        cluster.psql("CREATE TABLE t (a int) TABLESPACE fast; CREATE ROLE visitor LOGIN PASSWORD 'sesame'");
        assert!(cluster.tablespace_dir("fast").read_dir().expect("the tablespace's directory").next().is_some());
        let visit = |password: &str| {
            let mut psql = cluster.bin("psql");
            psql.args(["-XAtqc", "SELECT current_user", &cluster.conninfo_as("visitor", password)]).output().expect("run psql")
        };
        assert_eq!(visit("sesame").stdout, b"visitor\n");
        assert!(!visit("wrong").status.success(), "a wrong password must be refused");
    }
}

#[test]
fn acknowledged_commits_survive_a_kill_of_every_server_process() {
    for major in majors() {
        let cluster = Cluster::builder(major).setting("track_commit_timestamp", "on").start();
        let workload = Workload::start_at(&cluster.conninfo(), Pace { clients: 2, ..Pace::default() });
        workload.wait_for(100);
        cluster.kill9();
        assert!(!cluster.is_running());
        let acknowledged = workload.stop();
        assert!(acknowledged.len() >= 100);
        cluster.restart();
        assert_eq!(lost(&acknowledged, &cluster), [], "PostgreSQL {major}");
        for commit in acknowledged.iter().filter(|commit| commit.inserted_to.is_some()) {
            assert!(commit.committed_at.is_some_and(|at| at <= commit.seen_at), "{commit:?}");
        }
        // The sabotage twin: a row that was lost must be told.
        cluster.psql(&format!("DELETE FROM ledger WHERE id = {}", acknowledged[7].id));
        assert_eq!(lost(&acknowledged, &cluster), [acknowledged[7]]);
    }
}

#[test]
fn a_standby_of_each_major_follows_and_is_promoted() {
    for major in majors() {
        let primary = Cluster::builder(major).tablespace("far").start();
        primary.psql("CREATE TABLE t TABLESPACE far AS SELECT generate_series(1, 1000) AS a");
        let standby = primary.standby();
        primary.psql("INSERT INTO t VALUES (0)");
        standby.catch_up(&primary);
        assert_eq!(standby.psql("SELECT count(*), pg_is_in_recovery() FROM t"), "1001|t");
        standby.promote();
        standby.psql("INSERT INTO t VALUES (-1)");
        assert!(standby.psql("SELECT pg_walfile_name(pg_current_wal_lsn())").starts_with("00000002"));
        assert_eq!(primary.psql("SELECT count(*) FROM t"), "1001");
    }
}

#[test]
fn a_data_directory_made_elsewhere_is_opened_beside_the_one_it_was_copied_from() {
    let cluster = Cluster::start(newest_major());
    cluster.psql("CREATE TABLE t AS SELECT 42 AS a");
    let copy = cluster.home().join("copy");
    let status = cluster.bin("pg_basebackup").arg("-D").arg(&copy).args(["-c", "fast"]).status().expect("run pg_basebackup");
    assert!(status.success());
    let opened = Cluster::open(cluster.major(), &copy);
    assert_eq!(opened.psql("SELECT a FROM t"), "42");
    drop(opened);
    assert!(copy.exists());
    std::fs::write(copy.join("global/pg_control"), "").expect("damage the control file");
    let refused = Cluster::try_open(cluster.major(), &copy).expect_err("must not start");
    assert!(refused.contains("pg_control") || refused.contains("control file"), "{refused}");
}

/// Not a test of its own: the process that the next one kills.
#[test]
#[ignore = "run by the_server_dies_with_a_test_that_is_killed"]
fn start_a_server_and_wait() {
    let cluster = Cluster::start(newest_major());
    println!("\nhome {} {}", cluster.pid().expect("running"), cluster.home().display());
    std::thread::sleep(Duration::from_secs(300));
}

#[test]
fn the_server_dies_with_a_test_that_is_killed() {
    use std::io::{BufRead, BufReader};
    let own = std::env::current_exe().expect("this test's program");
    let mut command = Command::new(own);
    command.args(["--ignored", "--exact", "start_a_server_and_wait", "--nocapture"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("run this test's program");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = lines.map_while(Result::ok).find(|line| line.starts_with("home ")).expect("the server started");
    let mut words = line.split(' ').skip(1);
    let process = format!("/proc/{}", words.next().expect("a process id"));
    let home = std::path::PathBuf::from(words.next().expect("a directory"));
    assert!(std::path::Path::new(&process).exists() && home.exists());
    child.kill().expect("kill -9");
    child.wait().expect("reap");
    let begun = Instant::now();
    while (std::path::Path::new(&process).exists() || home.exists()) && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!std::path::Path::new(&process).exists(), "the server outlived its test");
    assert!(!home.exists(), "the directory outlived its test");
}
