//! What goes wrong is told within its time, and its end is told, too: the store away, the KMS away, the server away, the receiver stuck, a
//! job killed, a clock that jumps, a disk that fills. One daemon, real servers, and a mock of whoever is told.

use nix::sys::signal::Signal;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};
use testkit::bowline::wait;
use testkit::toxiproxy;
use testkit::{Bowline, Cluster, Hook, Manner, MovedClock, OpenBao, RepositoryKind, Toxiproxy, child_of, newest_major};

/// Looks each second, so that what is measured is the watch and not the test's patience.
const QUICK: &str = "[daemon]\nwatch_interval = \"1s\"\nlease_ttl = \"5s\"\n[wal]\nflush_interval = \"300ms\"\n";

struct Watched<'a> {
    cluster: &'a Cluster,
    bowline: &'a Bowline<'a>,
    hook: &'a Hook,
}

impl Watched<'_> {
    fn configure(&self, alerts: &str, more: &str) {
        let channel = format!("[alerts]\n{alerts}[[alerts.channel]]\ntype = \"webhook\"\nurl = \"env:HOOK\"\n");
        self.bowline.configure(&self.cluster.conninfo(), Some(self.cluster.data_dir()), &format!("{QUICK}{more}{channel}"));
    }

    /// What was told of this rule, or `rule:subject`, so far: `firing` or `resolved`, each with its time.
    fn told(&self, rule: &str) -> Vec<(String, Instant)> {
        let (rule, subject) = rule.split_once(':').unwrap_or((rule, ""));
        let of = |asked: &testkit::hook::Asked| {
            let body = asked.json();
            let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
            (text("rule") == rule && text("subject").starts_with(subject)).then(|| (text("state"), asked.at))
        };
        self.hook.asked().iter().filter_map(of).collect()
    }

    /// Breaks something, sees it told within its time, mends it, and sees that told.
    fn sees(&self, rule: &str, seconds: u64, breaks: impl FnOnce(), mends: impl FnOnce()) {
        // What went before may have stirred it, too.
        let is_quiet = || self.told(rule).last().is_none_or(|(state, _)| state == "resolved");
        wait(&format!("{rule} to be quiet"), Duration::from_secs(60), is_quiet);
        let before = self.told(rule).len();
        let begun = Instant::now();
        breaks();
        wait(&format!("{rule} to be told"), Duration::from_secs(seconds), || self.told(rule)[before..].iter().any(|(state, _)| state == "firing"));
        eprintln!("{rule} was told after {:.1} s", begun.elapsed().as_secs_f64());
        mends();
        wait(&format!("the end of {rule} to be told"), Duration::from_secs(90), || {
            self.told(rule).last().is_some_and(|(state, _)| state == "resolved")
        });
    }
}

#[test]
fn what_goes_wrong_is_told_within_its_time_and_so_is_its_end() {
    let bao = OpenBao::start();
    bao.make_key("kb", "aes256-gcm96");
    let (keeper, store) = (Toxiproxy::shared().proxy(&bao.upstream()), toxiproxy::s3());
    let cluster = Cluster::builder(newest_major()).setting("wal_sender_timeout", "5s").start();
    let hook = Hook::start(Manner::Takes);
    let key = format!("vault-transit:kb?address={}", keeper.endpoint());
    let bowline = Bowline::sealed_for(
        &cluster,
        RepositoryKind::S3Through(&store),
        &[&key],
        &[("VAULT_TOKEN", testkit::openbao::ROOT_TOKEN), ("HOOK", &hook.url("told"))],
    );
    let watched = Watched { cluster: &cluster, bowline: &bowline, hook: &hook };
    watched.configure("wal_lag = \"4s\"\n", "");
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    let daemon = bowline.start_daemon();
    wait("protection", Duration::from_secs(90), || bowline.run(&["status"]).code == 0);
    // One that the outage ends would be tried again in minutes, and be told until then.
    wait("what follows the first backup", Duration::from_secs(60), || daemon.log().contains("expire ended well"));

    watched.sees("repository", 60, || store.down(), || store.up());
    watched.sees("kms", 90, || keeper.down(), || keeper.up());
    watched.sees("server", 30, || cluster.pg_ctl_stop(true), || cluster.start_server());
    wait("the receiver to stream again", Duration::from_secs(60), || bowline.run(&["status"]).code == 0);

    // The receiver hangs: its slot is held, and nothing is stored.
    let receiver = child_of(daemon.pid(), "receive").expect("a receiver");
    let signal = |signal: Signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(receiver as i32), signal).expect("it lives");
    watched.sees(
        "wal-lag",
        30,
        || {
            signal(Signal::SIGSTOP);
            cluster.psql("INSERT INTO t VALUES (-1)");
        },
        || signal(Signal::SIGCONT),
    );

    // A backup that is killed, and the next one.
    watched.sees(
        "job-failed:backup",
        60,
        || {
            let mut slow = bowline.start("backup", bowline.command(&["--json", "backup", "--max-rate", "1MB"]));
            wait("it to run", Duration::from_secs(30), || slow.log().contains("backup-begun"));
            slow.signal(Signal::SIGTERM);
            wait("it to end", Duration::from_secs(30), || slow.has_ended());
        },
        || drop(bowline.ok(&["backup"])),
    );

    // Room: a quota that is too small already.
    watched.sees(
        "capacity:repository",
        60,
        || {
            bowline.ok(&["expire", "--yes"]);
            watched.configure("", "");
            let text = fs::read_to_string(bowline.config()).expect("the configuration");
            fs::write(bowline.config(), text.replace("[encryption]", "capacity = \"1MB\"\n[encryption]")).expect("write it");
            daemon.signal(Signal::SIGHUP);
        },
        || {
            watched.configure("", "");
            daemon.signal(Signal::SIGHUP);
        },
    );
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_clock_that_jumps_stops_expiry_loudly_and_nothing_once_it_is_right_again() {
    let cluster = Cluster::start(newest_major());
    let hook = Hook::start(Manner::Takes);
    let folder = tempfile::tempdir().expect("a folder");
    testkit::let_everybody_in(folder.path());
    let now = || terms::Clock::now(&terms::SystemClock);
    let clock = MovedClock::at(&folder.path().join("clock"), &now().to_string());
    let mut bowline = Bowline::new(&cluster, RepositoryKind::Folder).with_environment("HOOK", &hook.url("told"));
    // Only Bowline's own clock is wrong: the server's and the store's are not.
    for (name, value) in clock.environment() {
        bowline = bowline.with_environment(&name, &value);
    }
    let watched = Watched { cluster: &cluster, bowline: &bowline, hook: &hook };
    watched.configure("", "");
    let daemon = bowline.start_daemon();
    wait("protection", Duration::from_secs(60), || bowline.run(&["status"]).code == 0);
    let backups = || bowline.ok(&["list"])["backups"].as_array().map(Vec::len);
    let before = backups();
    watched.sees(
        "job-failed:expire",
        60,
        || {
            clock.set(&now().plus_micros(3 * 86_400_000_000).to_string());
        },
        || clock.set(&now().to_string()),
    );
    assert!(backups() >= before, "nothing expired by a wrong clock");
    let runs = bowline.ok(&["runs", "--job", "expire"]);
    assert!(runs["runs"].as_array().is_some_and(|runs| runs.iter().any(|run| run["slug"] == "clock-jumped")), "{runs:#}");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_disk_that_fills_is_told_of_before_it_is_full_and_what_runs_into_it_says_so() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    assert_eq!(receiver.stop(), Some(0));
    // The repository moves to a small disk of its own.
    let place = bowline.dir().join("repository");
    let kept = bowline.dir().join("kept");
    let run = |words: &[&str]| {
        assert!(Command::new(words[0]).args(&words[1..]).status().expect(words[0]).success(), "{words:?}: this test mounts a tmpfs as root")
    };
    // By the disk itself, not by a quota.
    let text = fs::read_to_string(bowline.config()).expect("the configuration");
    fs::write(bowline.config(), text.replace("capacity = \"1TiB\"\n", "")).expect("write it");
    let (from, to) = (place.to_str().expect("a plain path"), kept.to_str().expect("a plain path"));
    run(&["mv", from, to]);
    run(&["mkdir", from]);
    run(&["mount", "-t", "tmpfs", "-o", "size=40m,mode=0711", "tmpfs", from]);
    run(&["cp", "-a", &format!("{to}/."), from]);
    let found = |rule: &str| {
        let doctor = bowline.run(&["doctor"]);
        let result = doctor.lines.iter().find_map(|line| line.get("result")).expect("a result").clone();
        let alarms = result["alarms"].as_array().expect("a list").clone();
        alarms.into_iter().find(|alarm| alarm["rule"] == rule && alarm["subject"] == "repository")
    };
    let fill = |megabytes: &str| {
        run(&["dd", "if=/dev/zero", &format!("of={from}/ballast"), "bs=1M", &format!("count={megabytes}"), "status=none"]);
    };
    assert_eq!(found("capacity"), None);
    fill("29");
    let warned = found("capacity").expect("a warning");
    assert_eq!(warned["urgency"], "warning", "{warned:#}");
    fill("33");
    let critical = found("capacity").expect("an alarm");
    assert_eq!(critical["urgency"], "critical", "{critical:#}");
    assert!(critical["hint"].as_str().is_some_and(|hint| hint.contains("Nothing is expired")), "{critical:#}");
    // Full: the backup says so, and what is there stays whole.
    let receiver = bowline.receive();
    let all = Command::new("dd").args(["if=/dev/zero", &format!("of={from}/ballast"), "bs=64k", "status=none"]).status();
    assert!(all.is_ok_and(|status| !status.success()), "a disk of 40 MB has an end");
    let failed = bowline.run(&["backup"]);
    let (slug, text) = failed.error();
    assert!(text.contains("No space left") || text.contains("full"), "{slug}: {text}");
    run(&["rm", &format!("{from}/ballast")]);
    bowline.ok(&["backup"]);
    assert_eq!(found("capacity"), None);
    drop(receiver);
    run(&["umount", "-l", from]);
}
