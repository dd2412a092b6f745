//! Backup, tamper, restore, verify: each disaster that a runbook names, done to a real cluster under a receiver, and undone.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;
use testkit::bowline::{FINGERPRINT, Receiver, wait};
use testkit::{Acknowledged, BareMachine, Bowline, Cluster, RepositoryKind, Workload, full, majors, newest_major};

/// What a restore is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// The instant before somebody's mistake, which the log holds too.
    BeforeTheMistake,
    /// All that was acknowledged: what went wrong is not in the log.
    Everything,
}

/// One disaster to a host that lives on.
struct Case {
    /// What goes wrong.
    disaster: fn(&Cluster, &Bowline<'_>),
    /// What shows it, before anybody restores.
    symptom: fn(&Cluster, &Bowline<'_>),
    goal: Goal,
}

/// A cluster that an application uses, with commit times kept, so that what belongs to an instant is known exactly.
fn shop(major: u32) -> Cluster {
    let cluster = Cluster::builder(major).setting("track_commit_timestamp", "on").setting("autovacuum", "off").start();
    cluster.psql(
        "CREATE TABLE orders AS SELECT i AS id, i % 100 AS amount, md5(i::text) AS note FROM generate_series(1, 20000) i;
         CREATE INDEX ON orders (id); CREATE TABLE accounts AS SELECT i AS id, 100 AS balance FROM generate_series(1, 1000) i",
    );
    cluster.psql("CREATE DATABASE stock");
    cluster.try_psql_in("stock", "CREATE TABLE items AS SELECT i AS id FROM generate_series(1, 500) i").expect("psql");
    cluster
}

/// An application at work: in each database, and so many acknowledged commits in the ledger.
fn go_on(cluster: &Cluster, commits: usize) -> Vec<Acknowledged> {
    let workload = Workload::start(&cluster.conninfo());
    cluster.psql("UPDATE accounts SET balance = balance + id WHERE id % 7 = 0; INSERT INTO orders SELECT i, 1, 'late' FROM generate_series(1, 50) i");
    cluster.try_psql_in("stock", "INSERT INTO items SELECT generate_series(501, 600)").expect("psql");
    workload.wait_for(commits);
    workload.stop()
}

/// The same while something is broken that nobody has noticed.
fn go_on_unaware(cluster: &Cluster) -> Vec<Acknowledged> {
    let workload = Workload::start(&cluster.conninfo());
    workload.wait_for(20);
    workload.stop()
}

/// All that an application sees in each database of the server that answers, except the ledger, which is judged row by row.
fn contents(ask: impl Fn(&str) -> String) -> String {
    let tables = FINGERPRINT.replace(" ORDER BY relname", " AND relname <> 'ledger' ORDER BY relname");
    assert_ne!(tables, FINGERPRINT, "the ledger would count");
    let databases = ask("SELECT datname FROM pg_database WHERE datname NOT LIKE 'template%' ORDER BY 1");
    databases.lines().map(|name| format!("{name}:\n{}\n", ask(&format!("\\connect {name}\n{tables}")))).collect()
}

/// The server's clock, read from the server.
fn instant(cluster: &Cluster) -> String {
    cluster.psql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || ' UTC'")
}

fn ids(ledger: &[Acknowledged]) -> BTreeSet<i64> {
    ledger.iter().map(|commit| commit.id).collect()
}

/// The ledger of the server that answers.
fn ledger_of(ask: impl Fn(&str) -> String) -> BTreeSet<i64> {
    ask("SELECT id FROM ledger").lines().map(|id| id.parse().expect("an id")).collect()
}

/// Everything that was acknowledged is stored: the receiver is in step.
fn in_step(cluster: &Cluster) {
    let end = cluster.psql("SELECT pg_current_wal_insert_lsn()");
    let stored = || cluster.psql(&format!("SELECT count(*) FROM pg_stat_replication WHERE application_name = 'bowline' AND flush_lsn >= '{end}'"));
    wait("the receiver to be in step", Duration::from_secs(60), || stored() == "1");
}

fn protect(cluster: &Cluster, bowline: &Bowline<'_>) -> Receiver {
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), "[wal]\nflush_interval = \"300ms\"\nstatus_interval = \"200ms\"\n");
    bowline.receive()
}

/// A drill of the repository must pass.
fn verify_passes(cluster: &Cluster, bowline: &Bowline<'_>) {
    let place = cluster.home().join("s").join("drills");
    let report = bowline.ok(&["verify", "--dir", place.to_str().expect("a plain path")]);
    assert_eq!(report["report"]["outcome"], "passed", "{report:#}");
}

/// Backup, commits, the disaster, what shows it, the restore in place; then exactly what was there is there, the cluster is
/// protected again and a drill passes.
fn prove(case: &Case) {
    for major in if full() { majors() } else { vec![newest_major()] } {
        let cluster = shop(major);
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        let receiver = protect(&cluster, &bowline);
        bowline.ok(&["backup"]);
        let mut ledger = go_on(&cluster, 100);
        let at = instant(&cluster);
        let expected = contents(|sql| cluster.psql(sql));
        in_step(&cluster);

        (case.disaster)(&cluster, &bowline);
        (case.symptom)(&cluster, &bowline);
        if cluster.is_running() {
            let later = go_on_unaware(&cluster);
            if case.goal == Goal::Everything {
                ledger.extend(later);
            }
            cluster.pg_ctl_stop(true);
        }
        assert_eq!(receiver.stop(), Some(0));

        let words: &[&str] = if case.goal == Goal::Everything { &["restore", "--yes"] } else { &["restore", "--yes", "--to", &at] };
        let result = bowline.ok(words);
        assert_eq!(contents(|sql| cluster.psql(sql)), expected, "PostgreSQL {major}: {result:#}");
        assert_eq!(ledger_of(|sql| cluster.psql(sql)), ids(&ledger), "PostgreSQL {major}: exactly the acknowledged commits");

        // The one command has made a backup of the new timeline, and has a receiver at work.
        assert_eq!(result["protected"], true, "{result:#}");
        go_on(&cluster, 10);
        in_step(&cluster);
        verify_passes(&cluster, &bowline);
        drop(bowline);
        cluster.stop_adopted();
    }
}

/// The server's refusal of a question.
fn refuses(cluster: &Cluster, sql: &str) -> String {
    cluster.try_psql(sql).expect_err(sql)
}

/// The server does not come up; returns its last words.
fn does_not_start(cluster: &Cluster) -> String {
    Cluster::try_open(cluster.major(), cluster.data_dir()).expect_err("the server starts")
}

#[test]
fn a_dropped_table_comes_back() {
    prove(&Case {
        disaster: |cluster, _| drop(cluster.psql("DROP TABLE orders")),
        symptom: |cluster, _| assert!(refuses(cluster, "TABLE orders").contains("relation \"orders\" does not exist")),
        goal: Goal::BeforeTheMistake,
    });
}

#[test]
fn a_truncated_table_comes_back() {
    prove(&Case {
        disaster: |cluster, _| drop(cluster.psql("TRUNCATE orders")),
        symptom: |cluster, _| assert_eq!(cluster.psql("SELECT count(*) FROM orders"), "0"),
        goal: Goal::BeforeTheMistake,
    });
}

#[test]
fn rows_updated_without_a_where_come_back() {
    prove(&Case {
        disaster: |cluster, _| drop(cluster.psql("UPDATE accounts SET balance = 0; VACUUM accounts; CHECKPOINT")),
        symptom: |cluster, _| assert_eq!(cluster.psql("SELECT count(DISTINCT balance) FROM accounts"), "1"),
        goal: Goal::BeforeTheMistake,
    });
}

#[test]
fn a_dropped_database_comes_back() {
    prove(&Case {
        disaster: |cluster, _| drop(cluster.psql("DROP DATABASE stock")),
        symptom: |cluster, _| {
            let said = cluster.try_psql_in("stock", "SELECT 1").expect_err("it is gone");
            assert!(said.contains("database \"stock\" does not exist"), "{said}");
        },
        goal: Goal::BeforeTheMistake,
    });
}

#[test]
fn a_deleted_data_directory_comes_back_with_every_acknowledged_commit() {
    prove(&Case {
        disaster: |cluster, _| {
            cluster.kill9();
            fs::remove_dir_all(cluster.data_dir()).expect("delete the data directory");
        },
        symptom: |cluster, bowline| {
            assert!(!cluster.data_dir().exists());
            let (code, said) = code_and_error(bowline, &["backup"]);
            assert!(code != 0 && said.contains("connect"), "exit {code}: {said}");
        },
        goal: Goal::Everything,
    });
}

#[test]
fn a_flipped_byte_in_a_table_is_named_and_undone_with_every_acknowledged_commit() {
    prove(&Case {
        disaster: |cluster, _| {
            cluster.psql("CHECKPOINT");
            let file = cluster.data_dir().join(cluster.psql("SELECT pg_relation_filepath('orders')"));
            // While the server is down, so that no sound copy of the page is in its memory.
            cluster.pg_ctl_stop(true);
            let file = File::options().read(true).write(true).open(&file).expect("open the table's file");
            let (place, mut byte) = (3 * 8192 + 5000, [0]);
            file.read_exact_at(&mut byte, place).expect("read");
            file.write_all_at(&[byte[0] ^ 0x10], place).expect("write");
            cluster.start_server();
        },
        symptom: |cluster, bowline| {
            let file = cluster.psql("SELECT pg_relation_filepath('orders')");
            let said = refuses(cluster, "SELECT sum(amount) FROM orders");
            assert!(said.contains("invalid page in block 3") && said.contains(&file), "{said}");
            assert!(cluster.log().contains("page verification failed"), "{}", cluster.log());
            let said = bowline.fails(&["backup"], 6, "page-damaged");
            assert!(said.contains(&file) && said.contains("block 3"), "{said}");
        },
        goal: Goal::Everything,
    });
}

#[test]
fn a_lost_pg_wal_costs_no_acknowledged_commit() {
    prove(&Case {
        disaster: |cluster, _| {
            cluster.kill9();
            for entry in fs::read_dir(cluster.data_dir().join("pg_wal")).expect("pg_wal").flatten() {
                let path = entry.path();
                if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("lose pg_wal");
            }
        },
        symptom: |cluster, _| {
            let said = does_not_start(cluster);
            assert!(said.contains("could not locate a valid checkpoint record"), "{said}");
        },
        goal: Goal::Everything,
    });
}

/// The exit code of a command that must fail, and all that its error says.
fn code_and_error(bowline: &Bowline<'_>, words: &[&str]) -> (i32, String) {
    let outcome = bowline.run(words);
    let text = outcome.error().1;
    (outcome.code, text)
}

#[test]
fn a_host_that_is_gone_comes_back_on_a_bare_machine() {
    for major in if full() { majors() } else { vec![newest_major()] } {
        let cluster = shop(major);
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        let receiver = protect(&cluster, &bowline);
        let spare_key = fs::read_to_string(bowline.dir().join("key")).expect("the key");
        bowline.ok(&["backup"]);
        let before = go_on(&cluster, 50);
        let (at, then) = (instant(&cluster), contents(|sql| cluster.psql(sql)));
        let after = go_on(&cluster, 50);
        in_step(&cluster);
        let expected = contents(|sql| cluster.psql(sql));
        receiver.kill9();
        cluster.kill9();
        for gone in [cluster.data_dir(), bowline.dir().join("key").as_path(), bowline.config()] {
            if gone.is_dir() { fs::remove_dir_all(gone) } else { fs::remove_file(gone) }.expect("the host is gone");
        }

        let machine = BareMachine::new(major, bowline.url(), &spare_key);
        let restored = machine.restore(&[]);
        assert_eq!(contents(|sql| restored.psql(sql)), expected, "PostgreSQL {major}");
        assert_eq!(ledger_of(|sql| restored.psql(sql)), ids(&[before.clone(), after].concat()), "PostgreSQL {major}");
        drop(restored);
        let restored = machine.restore(&["--to", &at]);
        assert_eq!((contents(|sql| restored.psql(sql)), ledger_of(|sql| restored.psql(sql))), (then, ids(&before)), "PostgreSQL {major}, to {at}");
        drop(restored);
        let drills = machine.home().join("s").join("drills");
        let report = machine.ok(&["verify", "--dir", drills.to_str().expect("a plain path")]);
        assert_eq!(report["report"]["outcome"], "passed", "{report:#}");
    }
}

/// PostgreSQL's minor releases of one major share their data directories: a backup of one restores under another, either way.
#[test]
fn another_minor_release_restores_what_the_first_one_backed_up() {
    let cluster = shop(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let with_programs_of = |bin_dir: &std::path::Path| {
        let config = fs::read_to_string(bowline.config()).expect("the configuration");
        let other = |line: &str| if line.starts_with("bin_dir") { format!("bin_dir = {bin_dir:?}\n") } else { format!("{line}\n") };
        fs::write(bowline.config(), config.lines().map(other).collect::<String>()).expect("write the configuration");
    };
    let receiver = protect(&cluster, &bowline);
    bowline.ok(&["backup"]);
    let before = go_on(&cluster, 50);
    let (at, then, newer) = (instant(&cluster), contents(|sql| cluster.psql(sql)), cluster.psql("SHOW server_version"));
    go_on(&cluster, 50);
    in_step(&cluster);

    // Backed up by the newer release, restored by the older one, which the plan tells.
    with_programs_of(&cluster.older_bin_dir());
    let restored = bowline.restore(&["--to", &at]);
    let older = restored.psql("SHOW server_version");
    assert_ne!(older, newer);
    let notes = |result: &serde_json::Value| result["plan"]["notes"].to_string();
    let told = notes(&restored.result);
    assert!(told.contains(&format!("is of PostgreSQL {newer}")) && told.contains(&format!("{older} lacks")), "{told}");
    assert_eq!(contents(|sql| restored.psql(sql)), then);
    assert_eq!(ledger_of(|sql| restored.psql(sql)), ids(&before));
    drop(restored);
    verify_passes(&cluster, &bowline);

    // The other way, in place: the service ran on the older release, and its host was given the newer one.
    cluster.pg_ctl_stop(true);
    let log = cluster.home().join("log-older");
    let started = cluster.older_bin("pg_ctl").args(["start", "-w", "-l"]).arg(&log).stdout(std::process::Stdio::null()).status().expect("run pg_ctl");
    assert!(started.success(), "{}", fs::read_to_string(&log).unwrap_or_default());
    assert_eq!(cluster.psql("SHOW server_version"), older);
    let backup = bowline.ok(&["backup"]);
    let stamp = cluster.psql("SELECT max(id) FROM ledger");
    let later = go_on(&cluster, 50);
    let (at, then) = (instant(&cluster), contents(|sql| cluster.psql(sql)));
    cluster.psql("DROP TABLE orders");
    in_step(&cluster);
    cluster.stop_adopted();
    assert_eq!(receiver.stop(), Some(0));
    with_programs_of(&cluster.bin_dir());
    let result = bowline.ok(&["restore", "--yes", "--to", &at]);
    assert_eq!((&result["plan"]["backup"], notes(&result).contains("lacks")), (&backup["id"], false), "{result:#}");
    assert_eq!(cluster.psql("SHOW server_version"), newer);
    assert_eq!(contents(|sql| cluster.psql(sql)), then);
    let found = ledger_of(|sql| cluster.psql(sql));
    let stamp: i64 = stamp.parse().expect("an id");
    assert_eq!(found.range(stamp + 1..).copied().collect::<BTreeSet<_>>(), ids(&later));
    verify_passes(&cluster, &bowline);
    drop(bowline);
    cluster.stop_adopted();
}
