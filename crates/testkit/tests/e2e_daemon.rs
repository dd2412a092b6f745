//! The daemon by itself: it protects a cluster, survives what happens to it, and ends cleanly; the ledger tells of it.

use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::time::Duration;
use testkit::bowline::{flip_a_bit, wait};
use testkit::{Bowline, Cluster, RepositoryKind, child_of, newest_major};

/// Every second a look, so that the test need not wait; jobs by the minute.
const QUICK: &str = "[daemon]\nwatch_interval = \"1s\"\nlease_ttl = \"3s\"\ncheck = \"* * * * *\"\n[wal]\nflush_interval = \"300ms\"\n";

fn runs(bowline: &Bowline<'_>, job: &str) -> Vec<Value> {
    let result = bowline.ok(&["runs", "--job", job]);
    result["runs"].as_array().expect("a list").clone()
}

fn has_run(bowline: &Bowline<'_>, job: &str, outcome: &str) -> bool {
    runs(bowline, job).iter().any(|run| run["outcome"] == outcome)
}

fn configure(bowline: &Bowline<'_>, cluster: &Cluster, more: &str) {
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &format!("{QUICK}{more}"));
}

#[test]
fn a_daemon_alone_protects_a_cluster_and_another_takes_over_when_it_dies() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    configure(&bowline, &cluster, "");
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    let first = bowline.start_daemon();
    wait("the first backup", Duration::from_secs(60), || has_run(&bowline, "backup", "ok"));
    wait("expiry after it", Duration::from_secs(30), || has_run(&bowline, "expire", "ok"));
    wait("the receiver", Duration::from_secs(30), || bowline.run(&["status"]).code == 0);
    let facts = bowline.ok(&["status"])["facts"].clone();
    assert!(facts["acting"].as_str().is_some_and(|holder| holder.contains(&format!("process {}", first.pid()))), "{facts:#}");
    assert!(
        facts["jobs"].as_array().is_some_and(|jobs| jobs.iter().any(|job| job["name"] == "backup" && job["last"]["outcome"] == "ok")),
        "{facts:#}"
    );

    // Another one stands by, and takes over when the first dies without a word; neither the receiver nor a job of it lives on.
    let second = bowline.start_daemon();
    wait("the second to stand by", Duration::from_secs(20), || second.log().contains("stands by"));
    assert_eq!(runs(&bowline, "backup").len(), 1, "one backup, by one daemon");
    first.kill9();
    wait("the second to act", Duration::from_secs(30), || second.log().contains("this daemon acts"));
    cluster.psql("INSERT INTO t VALUES (-1)");
    let lsn = cluster.psql("SELECT pg_current_wal_insert_lsn()");
    wait("WAL to flow again", Duration::from_secs(30), || {
        let status = bowline.run(&["status"]);
        let at =
            status.lines.iter().find_map(|line| line.get("result")).map(|result| result["wal_stored_to"].as_str().unwrap_or_default().to_owned());
        at.is_some_and(|at| cluster.psql(&format!("SELECT '{at}'::pg_lsn >= '{lsn}'::pg_lsn")) == "t")
    });
    assert_eq!(runs(&bowline, "backup").len(), 1, "no second backup");
    assert_eq!(second.stop(), Some(0));
    let lease = fs::read_to_string(bowline.repository().join("leases/daemon.json")).expect("the lease");
    assert!(lease.contains("\"released\": true"), "{lease}");
}

#[test]
fn what_fails_is_written_down_with_its_reason_and_turns_status_red_until_it_succeeds() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    assert_eq!(bowline.run(&["status"]).code, 0);
    // A backup that cannot read what it is to back up.
    let hidden = cluster.data_dir().with_file_name("hidden");
    fs::rename(cluster.data_dir().join("global"), &hidden).expect("hide a part of the data");
    let failed = bowline.run(&["backup"]);
    assert_ne!(failed.code, 0);
    fs::rename(&hidden, cluster.data_dir().join("global")).expect("put it back");
    let (slug, _) = failed.error();
    let list = runs(&bowline, "backup");
    let last = list.last().expect("a run");
    assert_eq!((last["outcome"].as_str(), last["slug"].as_str()), (Some("failed"), Some(slug)), "{last:#}");
    let one = bowline.ok(&["runs", last["run"].as_str().expect("a name")]);
    assert!(one["ended"]["summary"].as_str().is_some_and(|words| !words.is_empty()), "{one:#}");
    let status = bowline.run(&["status"]);
    assert_eq!(status.code, 1);
    let doctor = bowline.run(&["doctor"]);
    let alarms = &doctor.lines.last().expect("a result")["result"]["alarms"];
    let alarm = alarms.as_array().and_then(|alarms| alarms.iter().find(|alarm| alarm["rule"] == "job-failed")).expect("the alarm");
    assert!(alarm["hint"].as_str().is_some_and(|hint| hint.contains("bowline runs ")), "{alarm:#}");
    bowline.ok(&["backup"]);
    assert_eq!(bowline.run(&["status"]).code, 0);
    assert_eq!(bowline.run(&["doctor"]).code, 0);
    drop(receiver);
}

#[test]
fn a_changed_configuration_is_taken_up_and_a_wrong_one_is_told_and_changes_nothing() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    configure(&bowline, &cluster, "");
    let daemon = bowline.start_daemon();
    wait("the first backup", Duration::from_secs(60), || has_run(&bowline, "backup", "ok"));
    configure(&bowline, &cluster, "[backup]\nschedule = \"half past two\"\n");
    daemon.signal(Signal::SIGHUP);
    wait("the refusal", Duration::from_secs(10), || daemon.log().contains("the former one stays in force"));
    assert!(daemon.log().contains("backup.schedule"), "{}", daemon.log());
    assert!(child_of(daemon.pid(), "receive").is_some());
    // The file is right again and the daemon has not heard of it: what only the daemon knows, status and doctor say.
    configure(&bowline, &cluster, "");
    for verb in ["status", "doctor"] {
        wait(&format!("{verb} to tell of the refusal"), Duration::from_secs(20), || {
            let told = bowline.run(&[verb]);
            let alarms = told.lines.iter().find_map(|line| line.get("result")).expect("a result")["alarms"].clone();
            alarms.as_array().is_some_and(|alarms| alarms.iter().any(|alarm| alarm["rule"] == "configuration"))
        });
    }
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &QUICK.replace("[daemon]", "[daemon]\nreceive = false"));
    daemon.signal(Signal::SIGHUP);
    wait("the receiver to be given up", Duration::from_secs(20), || child_of(daemon.pid(), "receive").is_none());
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_job_that_is_killed_is_written_down_as_broken_off_and_takes_nothing_with_it() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    // So slow that it can be caught.
    configure(&bowline, &cluster, "[backup]\nmax_rate = \"2MB\"\n");
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    let daemon = bowline.start_daemon();
    let mut found = None;
    wait("a backup to run", Duration::from_secs(60), || {
        found = child_of(daemon.pid(), "backup");
        found.is_some() && has_run(&bowline, "backup", "running")
    });
    std::process::Command::new("kill").args(["-9", &found.expect("its process").to_string()]).status().expect("kill");
    wait("its end to be written down", Duration::from_secs(30), || has_run(&bowline, "backup", "broken-off"));
    wait("the alarm", Duration::from_secs(30), || {
        let doctor = bowline.run(&["doctor"]);
        doctor.lines.last().is_some_and(|line| line["result"]["alarms"].to_string().contains("job-failed"))
    });
    // The receiver never noticed.
    assert!(child_of(daemon.pid(), "receive").is_some());
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn systemd_is_told_when_it_is_ready_reloads_lives_and_stops() {
    use std::os::unix::net::UnixDatagram;
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let path = cluster.home().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    testkit::let_everybody_write(&path);
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let bowline = bowline.with_environment("NOTIFY_SOCKET", path.to_str().expect("a plain path")).with_environment("WATCHDOG_USEC", "4000000");
    configure(&bowline, &cluster, "");
    let heard = |wanted: &str| {
        let mut buffer = [0; 512];
        loop {
            let length = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{wanted} was not heard: {e}"));
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.contains(wanted) {
                return text;
            }
        }
    };
    let daemon = bowline.start_daemon();
    heard("READY=1");
    heard("WATCHDOG=1");
    daemon.signal(Signal::SIGHUP);
    assert!(heard("RELOADING=1").contains("MONOTONIC_USEC="));
    heard("READY=1");
    daemon.signal(Signal::SIGTERM);
    heard("STOPPING=1");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn drills_and_expiry_that_are_left_to_somebody_else_are_not_begun_and_are_judged_all_the_same() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    // Checks and drills are due in the same minute, so that a check that ran says that a drill would have begun.
    let others = QUICK.replace("[daemon]", "[drill]\nschedule = \"* * * * *\"\n[daemon]\nexpire = false\ndrill = false");
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &others);
    let daemon = bowline.start_daemon();
    wait("the first backup", Duration::from_secs(60), || has_run(&bowline, "backup", "ok"));
    wait("a minute to come", Duration::from_secs(90), || daemon.log().contains("check begins: scheduled"));
    assert!(!daemon.log().contains("drill begins") && !daemon.log().contains("expire begins"), "{}", daemon.log());
    // What somebody else holds is known as any other; the room for it is not this host's.
    bowline.ok(&["verify", "--dir", cluster.home().to_str().expect("a plain path")]);
    wait("the look", Duration::from_secs(20), || bowline.run(&["status"]).code == 0);
    let facts = bowline.ok(&["status"])["facts"].clone();
    let jobs = facts["jobs"].as_array().expect("the jobs");
    let drill = jobs.iter().find(|job| job["name"] == "drill").expect("it is still one of them");
    assert_eq!((drill["schedule"].as_str(), drill["last"]["outcome"].as_str()), (Some("* * * * *"), Some("ok")), "{drill:#}");
    assert!(!facts["disks"].to_string().contains("\"drill\""), "{}", facts["disks"]);
    // Its own again, it does begin them: the damage of small documents is told, and keeps nothing from being begun.
    let own = others.replace("expire = false", "expire = true");
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &own);
    daemon.signal(Signal::SIGHUP);
    wait("an expiry of its own", Duration::from_secs(30), || has_run(&bowline, "expire", "ok"));
    for name in ["capacity.json", "retention.json"] {
        flip_a_bit(&bowline.repository().join(name));
    }
    let doctor = bowline.run(&["doctor"]);
    assert!(doctor.lines.last().is_some_and(|line| line.to_string().contains("retention.json is damaged")), "{doctor:#?}");
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &own.replace("drill = false", "drill = true"));
    daemon.signal(Signal::SIGHUP);
    wait("a drill of its own", Duration::from_secs(90), || daemon.log().contains("drill begins: scheduled"));
    assert_eq!(daemon.stop(), Some(0));
}
