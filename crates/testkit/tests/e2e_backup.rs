//! A backup made while everything moves, from the data directory and over the wire, restores to exactly what was there.

use nix::sys::signal::Signal;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use testkit::bowline::{FINGERPRINT, files_below, wait, with_digest};
use testkit::{Bowline, Cluster, RepositoryKind, Restored, full, majors, newest_major};

const TABLES: &str = "
    CREATE EXTENSION amcheck;
    CREATE TABLE apart (id int PRIMARY KEY, payload text) TABLESPACE fast;
    INSERT INTO apart SELECT i, md5(i::text) FROM generate_series(1, 20000) i;
    CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY, payload text);
    INSERT INTO fleeting SELECT i, 'gone' FROM generate_series(1, 1000) i;
    CREATE TABLE compact (a int, b text); INSERT INTO compact SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i;
    CREATE INDEX ON compact (b, a);
    CREATE TABLE emptied (a int); INSERT INTO emptied SELECT generate_series(1, 20000);";

/// Files that come, go, shrink and are rewritten while the backup reads.
const CHURN: &str = "
    DROP TABLE IF EXISTS here_and_gone; CREATE TABLE here_and_gone AS SELECT i, repeat('y', 200) AS p FROM generate_series(1, 5000) i;
    CREATE INDEX ON here_and_gone (i); TRUNCATE emptied; INSERT INTO emptied SELECT generate_series(1, 3000);
    DELETE FROM compact WHERE a % 7 = 0; VACUUM FULL compact; VACUUM apart; UPDATE apart SET payload = payload || 'z' WHERE id % 100 = 0;
    CREATE TABLE in_the_other TABLESPACE fast AS SELECT i FROM generate_series(1, 1000) i; DROP TABLE in_the_other;";

fn busy_cluster(major: u32) -> Cluster {
    let cluster = Cluster::builder(major).checksums(true).tablespace("fast").setting("max_wal_size", "4GB").setting("wal_level", "replica").start();
    cluster.psql(TABLES);
    if full() {
        // More than one file of 1 GiB.
        cluster.psql("CREATE TABLE big AS SELECT i, repeat(md5(i::text), 30) AS p FROM generate_series(1, 1200000) i");
    }
    run(cluster.bin("pgbench").args(["-i", "-q", "-s", if full() { "20" } else { "2" }]));
    cluster
}

fn run(command: &mut Command) {
    let output = command.output().expect("run");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `work` while pgbench commits, tables churn and a session holds temporary tables.
fn under_load<T>(cluster: &Cluster, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                cluster.psql(CHURN);
            }
        });
        let mut holder = cluster.bin("psql");
        holder.args(["-Xqc", "CREATE TEMP TABLE held AS SELECT generate_series(1, 50000) AS a; CREATE INDEX ON held (a); SELECT pg_sleep(600)"]);
        let mut holder = holder.stdout(Stdio::null()).spawn().expect("run psql");
        let mut pgbench = cluster.bin("pgbench");
        pgbench.args(["-n", "-c", "2", "-T", "600"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut pgbench = pgbench.spawn().expect("run pgbench");
        wait("the temporary table", Duration::from_secs(30), || temporary_files(cluster.data_dir()) > 0);
        // A spill of a sort that was killed lies there until the next start.
        let spill = cluster.data_dir().join("base/pgsql_tmp");
        std::fs::create_dir_all(&spill).and_then(|()| std::fs::write(spill.join("pgsql_tmp1.0"), "spilled")).expect("write");
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        for child in [&mut pgbench, &mut holder] {
            child.kill().and_then(|()| child.wait()).expect("end a client");
        }
        cluster.psql("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name IN ('pgbench', 'psql') AND pid <> pg_backend_pid() AND query ~ 'pg_sleep|pgbench'");
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Files of temporary relations: `t3_16400`, with the backend's number in front.
fn temporary_files(data: &Path) -> usize {
    let is_temporary =
        |name: &str| name.strip_prefix('t').and_then(|rest| rest.split_once('_')).is_some_and(|(backend, _)| backend.parse::<u32>().is_ok());
    files_below(&data.join("base")).iter().filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(is_temporary)).count()
}

fn examine(cluster: &Cluster, restored: &Restored, wanted: &str, what: &str) {
    assert_eq!(restored.psql(FINGERPRINT), wanted, "{what}");
    assert_eq!(restored.psql("SELECT count(*) FROM fleeting"), "0", "{what}: an unlogged table comes back empty");
    restored.psql("INSERT INTO fleeting VALUES (1, 'works')");
    assert_eq!(restored.psql("SELECT spcname FROM pg_class c JOIN pg_tablespace s ON s.oid = reltablespace WHERE relname = 'apart'"), "fast");
    let location = restored.psql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'");
    assert!(!Path::new(&location).starts_with(cluster.tablespace_dir("fast")), "{what}: a side restore must not use production's tablespace");
    assert!(files_below(Path::new(&location)).len() > 1, "{what}: nothing in {location}");
    let checked = restored.psql(
        "SELECT count(*) FROM (SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = relam \
         WHERE amname = 'btree' AND relkind = 'i' AND relpersistence = 'p') checked",
    );
    assert!(checked.parse::<u32>().expect("a count") > 100, "{what}: {checked} indexes checked");
    assert_eq!(temporary_files(&restored.data), 0, "{what}: temporary relations must not be in a backup");
    assert!(!restored.data.join("base/pgsql_tmp/pgsql_tmp1.0").exists(), "{what}");
    for file in ["recovery.signal", "standby.signal", "backup_label", "tablespace_map"] {
        assert!(!restored.data.join(file).exists(), "{what}: {file} is left over");
    }
    restored.stop();
    run(cluster.bin("pg_checksums").arg("--check").arg("-D").arg(&restored.data));
}

fn round_trip(cluster: &Cluster, bowline: &Bowline, source: &str, receive: bool) {
    let what = format!("PostgreSQL {}, {source}, receiver {receive}", cluster.major());
    let receiver = receive.then(|| bowline.receive());
    let made = under_load(cluster, || bowline.ok(&["backup"]));
    assert_eq!(
        (made["source"].as_str(), made["pages_damaged"].as_u64(), made["page_checksums"].as_bool()),
        (Some(source), Some(0), Some(true)),
        "{made}"
    );
    if receive {
        cluster.psql("INSERT INTO apart SELECT i, 'after the backup' FROM generate_series(100001, 100100) i");
        bowline.archive_now();
    } else {
        // Without a receiver nothing beyond the backup's own stop is stored; push brings the rest.
        push_everything(cluster, bowline);
    }
    let wanted = cluster.psql(FINGERPRINT);
    let restored = bowline.restore(&["--to", "latest"]);
    examine(cluster, &restored, &wanted, &what);
    assert_eq!(bowline.ok(&["list"])["backups"].as_array().map(Vec::len), Some(1));
    if let Some(receiver) = receiver {
        assert_eq!(receiver.stop(), Some(0), "{what}");
    }
}

/// Pushes every finished segment by hand, as archive_command would.
fn push_everything(cluster: &Cluster, bowline: &Bowline) {
    let current = cluster.psql("SELECT pg_walfile_name(pg_switch_wal())");
    let current = current.trim().to_owned();
    let stored = bowline.wal_files();
    for path in files_below(&cluster.data_dir().join("pg_wal")) {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        let is_segment = name.len() == 24 && name <= current && stored.first().is_some_and(|first| name > *first);
        if is_segment {
            bowline.ok(&["wal", "push", path.to_str().expect("a plain path")]);
        }
    }
}

#[test]
fn a_backup_of_the_data_directory_under_load_restores_to_the_last_row() {
    for major in majors() {
        let cluster = busy_cluster(major);
        round_trip(&cluster, &Bowline::new(&cluster, RepositoryKind::Folder), "local", true);
    }
}

#[test]
fn a_backup_over_the_wire_under_load_restores_to_the_last_row() {
    for major in majors() {
        let cluster = busy_cluster(major);
        let receive = major % 2 == 1;
        round_trip(&cluster, &Bowline::new(&cluster, RepositoryKind::Folder).without_data_dir(), "stream", receive);
    }
}

#[test]
fn a_backup_in_a_bucket_restores() {
    let cluster = Cluster::builder(newest_major()).tablespace("fast").start();
    cluster.psql(TABLES);
    let bowline = Bowline::new(&cluster, RepositoryKind::S3);
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    cluster.psql("INSERT INTO apart SELECT i, 'after the backup' FROM generate_series(100001, 100100) i");
    let end = cluster.psql("SELECT pg_walfile_name(pg_switch_wal())");
    wait("the last segment in the bucket", Duration::from_secs(60), || receiver.log().contains(&format!("\"name\":\"{end}\"")));
    let wanted = cluster.psql(FINGERPRINT);
    examine(&cluster, &bowline.restore(&["--to", "latest"]), &wanted, "a bucket");
    assert_eq!(receiver.stop(), Some(0));
    bowline.ok(&["backup", "--stream"]);
    examine(&cluster, &bowline.restore(&["--to", "immediate"]), &wanted, "a bucket, over the wire");
}

#[test]
fn a_second_backup_is_refused_while_one_is_made_and_need_not_wait_for_one_that_was_killed() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let begin = || {
        let slow = bowline.start("backup", bowline.command(&["--json", "backup", "--max-rate", "256kB"]));
        wait("it to run", Duration::from_secs(30), || slow.log().contains("backup-begun"));
        slow
    };
    let slow = begin();
    let text = bowline.fails(&["backup"], 7, "lease-held");
    assert!(text.contains("backup"), "{text}");
    slow.signal(Signal::SIGKILL);
    drop(slow);
    bowline.ok(&["backup"]);

    // One that was held up, and succeeded by another meanwhile, lists nothing.
    let mut slow = bowline.start("succeeded", bowline.command(&["--json", "backup", "--max-rate", "8MB"]));
    wait("it to run", Duration::from_secs(30), || slow.log().contains("backup-begun"));
    let lease = bowline.repository().join("leases/full-backup.json");
    let text = std::fs::read_to_string(&lease).expect("the lease");
    let held: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let (generation, token) = (held["generation"].as_u64().expect("a number"), held["token"].as_str().expect("a word"));
    let next = format!("\"generation\": {}", generation + 1);
    let other = text.replace(&format!("\"generation\": {generation}"), &next).replace(token, &"0".repeat(token.len()));
    assert!(other.contains(&next) && !other.contains(token), "{other}");
    std::fs::write(&lease, with_digest(&other)).expect("write");
    wait("it to end", Duration::from_secs(120), || slow.has_ended());
    assert!(slow.log().contains("lease-lost"), "{}", slow.log());
    assert_eq!(bowline.ok(&["list"])["backups"].as_array().map(Vec::len), Some(1));
}

/// The server would log a failure for each command that ended before its sessions did, and for a receiver that makes the slot that is there.
#[test]
fn no_command_leaves_in_its_servers_log_what_looks_like_a_failure() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    assert_eq!(bowline.receive().stop(), Some(0));
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    // It is a race, which a busy host loses more often.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..15).for_each(|_| drop(bowline.run(&["status"]))));
        }
    });
    bowline.run(&["check"]);
    let log = cluster.log();
    drop(receiver);
    let failures: Vec<&str> = log.lines().filter(|line| ["ERROR:", "FATAL:", "Broken pipe"].iter().any(|word| line.contains(word))).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}
