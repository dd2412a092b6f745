//! The real program is killed with SIGKILL at random moments: what is listed restores, what is not leaves no trace, nothing is lost.

#[path = "bad_input/ground.rs"]
mod ground;

use ground::{Chance, FILL, Ground, SUM};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use testkit::s3::S3Server;
use testkit::workload::{Pace, lost};
use testkit::{Cluster, Workload};

fn rounds() -> u64 {
    if testkit::full() { 60 } else { 8 }
}

fn cluster() -> Cluster {
    let cluster = Cluster::builder(testkit::newest_major()).wal_segment_mib(1).start();
    cluster.psql(FILL);
    cluster
}

/// Kills the command and whatever it started, at once.
fn kill9(mut child: Child) {
    let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    let _ = child.wait();
}

/// Starts the command, lets it live for so long, and kills it. Whether it had ended by itself by then.
fn live_for(ground: &Ground, words: &[&str], time: Duration) -> bool {
    let mut command = ground.command(words);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start bowline");
    std::thread::sleep(time);
    let ended = child.try_wait().expect("wait").is_some();
    kill9(child);
    ended
}

fn backups_killed(test: &str, ground: &Ground) {
    let mut chance = Chance(testkit::seed(test));
    let truth = ground.cluster.psql(SUM);
    let begun = Instant::now();
    ground.bowline(&["--json", "backup"]).ok();
    let whole = begun.elapsed();
    let mut listed = ground.listed();
    let (mut early, mut published) = (0, 0);
    for round in 0..rounds() {
        // A little beyond the whole, so that some die just after the commit point.
        let time = whole.mul_f64(chance.next(1100) as f64 / 1000.0);
        // Both sources take turns.
        let words: &[&str] = if round % 2 == 0 { &["backup"] } else { &["backup", "--stream"] };
        live_for(ground, words, time);
        ground.out_of_backup_mode();
        let now = ground.listed();
        assert!(now.starts_with(&listed), "round {round} ({time:?}): a listed backup is gone: {listed:?}, {now:?}");
        for new in &now[listed.len()..] {
            published += 1;
            assert_eq!(ground.restored_says(new, &format!("k{round}"), SUM), truth, "round {round}: {new} is listed after {time:?}");
        }
        early += u32::from(now.len() == listed.len());
        let again = ground.bowline(&["--json", "backup"]).ok();
        listed = ground.listed();
        assert_eq!(listed.len(), now.len() + 1, "round {round} ({time:?}): something of the earlier attempt is listed");
        if round + 1 == rounds() {
            let id = again["id"].as_str().or(again["backup"]["id"].as_str()).unwrap_or_else(|| listed.last().expect("one")).to_owned();
            assert_eq!(ground.restored_says(&id, "last", SUM), truth);
        }
    }
    eprintln!("{test}: of {} killed backups {early} were not listed, {published} were, and restored", rounds());
    assert!(early > 0, "no backup was killed before its end");
}

#[test]
fn a_killed_backup_on_a_folder_is_whole_or_not_listed() {
    backups_killed("kill9_backup_folder", &Ground::folder(cluster()));
}

#[test]
fn a_killed_backup_in_a_bucket_is_whole_or_not_listed() {
    let server = S3Server::shared();
    let bucket = format!("kill9-{}", std::process::id());
    backups_killed("kill9_backup_s3", &Ground::bucket(cluster(), server, &bucket));
}

/// The names beside `path` that begin with its name.
fn beside(path: &Path, mark: &str) -> Vec<std::path::PathBuf> {
    let name = format!("{}{mark}", path.file_name().expect("a name").to_string_lossy());
    let entries = fs::read_dir(path.parent().expect("a folder")).expect("list").flatten();
    entries.map(|e| e.path()).filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&name))).collect()
}

/// Also what was about to run: a server that was begun just before the kill has no postmaster.pid yet.
fn stop_whatever_runs_in(target: &Path) {
    let name = target.to_str().expect("a readable path");
    let is_ours = |pid: i32| {
        let works_there = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == target);
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        works_there || words.split(|byte| *byte == 0).any(|word| word == name.as_bytes())
    };
    let ours = || -> Vec<i32> {
        let all = fs::read_dir("/proc").expect("/proc");
        all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(|pid| is_ours(*pid)).collect()
    };
    loop {
        let running = ours();
        if running.is_empty() {
            return;
        }
        for pid in running {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGQUIT);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The server takes `recovery.signal` away before it writes its new timeline into pg_control (`StartupXLOG`, src/backend/access/transam/xlog.c):
/// killed between the two, it would recover by itself, to no target, on the old timeline.
#[test]
fn a_restore_that_is_killed_while_its_server_changes_timelines_can_be_run_again() {
    let ground = Ground::folder(cluster());
    let truth = ground.cluster.psql(SUM);
    ground.bowline(&["--json", "backup"]).ok();
    let target = ground.cluster.home().join("between");
    let place = target.display().to_string();
    let restore = ["--json", "restore", "--target", &place, "--yes", "--no-start"];
    let signal = target.join("recovery.signal");
    let mut command = ground.command(&restore);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start bowline");
    let begun = Instant::now();
    while !target.join("postmaster.pid").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "recovery never began");
        std::thread::sleep(Duration::from_millis(1));
    }
    kill9(child);
    stop_whatever_runs_in(&target);
    fs::remove_file(&signal).expect("killed while it recovers");
    ground.bowline(&restore).ok();
    assert_eq!(Cluster::open(ground.cluster.major(), &target).psql(SUM), truth);
}

#[test]
fn a_killed_restore_leaves_the_old_data_intact_and_can_be_run_again() {
    let ground = Ground::folder(cluster());
    let mut chance = Chance(testkit::seed("kill9_restore"));
    let truth = ground.cluster.psql(SUM);
    ground.bowline(&["--json", "backup"]).ok();
    // What lies in the way: a cluster of the same data with one row more, so that it cannot be mistaken for the restored one.
    let target = ground.cluster.home().join("old");
    let place = target.display().to_string();
    let restore = ["--json", "restore", "--target", &place, "--yes", "--no-start"];
    ground.bowline(&restore).ok();
    let old_truth = {
        let old = Cluster::open(ground.cluster.major(), &target);
        old.psql("INSERT INTO probe VALUES (0, 'old')");
        let says = old.psql(SUM);
        old.pg_ctl_stop(true);
        says
    };
    assert_ne!(old_truth, truth);
    // How long one takes, into another place.
    let begun = Instant::now();
    let other = ground.cluster.home().join("timed").display().to_string();
    ground.bowline(&["--json", "restore", "--target", &other, "--yes", "--no-start"]).ok();
    let whole = begun.elapsed();
    let (mut half, mut whole_files) = (0, 0);
    for round in 0..rounds() {
        let time = whole.mul_f64(chance.next(1050) as f64 / 1000.0);
        let ended = live_for(&ground, &restore, time);
        let at = format!("round {round}, {time:?}");
        stop_whatever_runs_in(&target);
        // The old cluster is either still in its place, untouched, or aside, whole.
        let aside = beside(&target, ".before-");
        let kept = aside.iter().min_by_key(|p| p.as_os_str().len()).cloned();
        let (old, is_aside) = kept.map_or((target.clone(), false), |kept| (kept, true));
        assert!(old.join("global/pg_control").exists(), "{at}: the old data is not whole in {}", old.display());
        if is_aside && !ended {
            // Half a restore: without its control file no server starts on it by mistake. With it, the files are complete.
            if target.join("global/pg_control").exists() {
                whole_files += 1;
            } else {
                half += 1;
                let started = Cluster::try_open(ground.cluster.major(), &target);
                assert!(started.is_err(), "{at}: a server starts on half a restore");
            }
        }
        let again = ground.bowline(&restore);
        assert_eq!(again.code, Some(0), "{at}: the second run fails: {again:#?}");
        assert_eq!(Cluster::open(ground.cluster.major(), &target).psql(SUM), truth, "{at}");
        // Put the old one back for the next round, having looked at it.
        let aside = beside(&target, ".before-");
        let old = aside.iter().find(|p| {
            Cluster::try_open(ground.cluster.major(), p).is_ok_and(|c| {
                let says = c.psql(SUM);
                c.pg_ctl_stop(true);
                says == old_truth
            })
        });
        let old = old.unwrap_or_else(|| panic!("{at}: the old data is gone: {aside:?}")).clone();
        fs::remove_dir_all(&target).expect("remove the restored");
        fs::rename(&old, &target).expect("put the old back");
        for left in beside(&target, ".before-") {
            fs::remove_dir_all(left).expect("remove");
        }
    }
    eprintln!("kill9_restore: of {} killed restores {half} left half a target, {whole_files} all files", rounds());
}

#[test]
fn a_receiver_killed_under_load_leaves_no_gap() {
    let ground = Ground::folder(Cluster::builder(testkit::newest_major()).wal_segment_mib(1).start());
    let mut chance = Chance(testkit::seed("kill9_receive"));
    ground.cluster.psql(FILL);
    // The slot first: from then on the server keeps what is not stored.
    live_for(&ground, &["wal", "receive"], Duration::from_secs(3));
    assert_eq!(ground.cluster.psql("SELECT count(*) FROM pg_replication_slots WHERE NOT temporary"), "1");
    let load = Workload::start_at(&ground.cluster.conninfo(), Pace { clients: 2, payload_bytes: 20_000, rest: Duration::from_millis(2) });
    ground.bowline(&["--json", "backup"]).ok();
    for _ in 0..rounds() {
        live_for(&ground, &["wal", "receive"], Duration::from_millis(100 + chance.next(1500)));
    }
    let acknowledged = load.stop();
    assert!(acknowledged.len() > 100, "only {} commits", acknowledged.len());
    // The last receiver lives until all that was committed is stored.
    let end = ground.cluster.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn()); SELECT pg_switch_wal();");
    let last = end.lines().next().expect("a segment").to_owned();
    let receiver = ground.command(&["wal", "receive"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start");
    let begun = Instant::now();
    let confirmed = "SELECT count(*) FROM pg_replication_slots, pg_walfile_name(restart_lsn) f WHERE f > ";
    while ground.cluster.psql(&format!("{confirmed}'{last}'")) != "1" {
        assert!(begun.elapsed() < Duration::from_secs(60), "segment {last} is not confirmed");
        std::thread::sleep(Duration::from_millis(100));
    }
    kill9(receiver);
    // Confirmed means stored: the server and its WAL may go now.
    ground.cluster.kill9();
    let target = ground.cluster.home().join("r");
    ground.bowline(&["--json", "restore", "--target", &target.display().to_string(), "--yes", "--no-start"]).ok();
    let restored = Cluster::open(ground.cluster.major(), &target);
    assert_eq!(lost(&acknowledged, &restored), [], "commits whose WAL was confirmed are gone");
}
