//! Whatever goes wrong with the log while a server recovers: it ends and never promotes; a standby asks again.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use testkit::bowline::{flip_a_bit, program, wait};
use testkit::damage::never_promoted;
use testkit::{Bowline, Cluster, RepositoryKind, full, newest_major, outer_majors};

const SEGMENTS: usize = 30;
/// More than what is fetched ahead lies behind the first of these.
const EARLY: usize = 4;
const LATE: usize = 24;

/// The oldest and the newest major; all of them in the long form.
fn chosen() -> Vec<u32> {
    let all = outer_majors();
    if full() {
        all
    } else {
        Vec::from_iter([all[0], all[all.len() - 1]]).into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }
}

/// One way in which the log cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Hole,
    Away,
    Damaged,
    WrongKey,
    KilledHelper,
    AwayAtHistory,
}

const ALL: [Failure; 6] = [Failure::Hole, Failure::Away, Failure::Damaged, Failure::WrongKey, Failure::KilledHelper, Failure::AwayAtHistory];

/// A cluster with a backup and one row in each of the segments after it, and its restored files.
struct Scene<'a> {
    bowline: &'a Bowline<'a>,
    other_key: PathBuf,
    segments: Vec<String>,
    files: PathBuf,
}

impl<'a> Scene<'a> {
    fn new(cluster: &Cluster, bowline: &'a Bowline<'a>, other: &Bowline) -> Self {
        cluster.psql("CREATE TABLE t (a int)");
        let _receiver = bowline.receive();
        bowline.ok(&["backup"]);
        let one = |i| cluster.psql(&format!("INSERT INTO t VALUES ({i}); SELECT pg_walfile_name(pg_switch_wal())"));
        let segments = (0..SEGMENTS).map(one).collect();
        bowline.archive_now();
        let files = bowline.new_target();
        bowline.ok(&["restore", "--yes", "--files-only", "--target", files.to_str().expect("a plain path")]);
        Self { bowline, other_key: other.dir().join("key"), segments, files }
    }

    /// A copy of the restored files whose restore_command meets the failure, with these further settings.
    fn copy(&self, failure: Failure, is_standby: bool, more: &str) -> PathBuf {
        let data = self.bowline.new_target();
        let copied = Command::new("cp").arg("-a").arg(&self.files).arg(&data).status().expect("run cp");
        assert!(copied.success());
        let dir = self.bowline.dir().display();
        let fetch = self.bowline.shell("wal fetch %f %p");
        let early = &self.segments[EARLY];
        drop(fs::remove_file(self.bowline.dir().join("once")));
        // Once only, and for a standby only until it has asked forty times: it must get on when the store is back.
        let away = format!("if [ ! -e {dir}/once ]; then mv {dir}/repository {dir}/away; : > {dir}/once; fi");
        let back = format!(
            "if [ -e {dir}/away ]; then echo >> {dir}/once; if [ $(wc -l < {dir}/once) -gt 40 ]; then mv {dir}/away {dir}/repository; fi; fi"
        );
        let back = if is_standby { back } else { ":".to_owned() };
        let command = match failure {
            Failure::Hole | Failure::Damaged => fetch,
            Failure::Away => format!("{back}; if [ %f = {early} ]; then {away}; fi; {fetch}"),
            Failure::AwayAtHistory => format!("{back}; case %f in *.history) {away};; esac; {fetch}"),
            Failure::WrongKey => format!("{fetch} --key {}", self.other_key.display()),
            Failure::KilledHelper => format!("if [ %f = {early} ]; then kill -9 $$; fi; {fetch}"),
        };
        if is_standby {
            fs::rename(data.join("recovery.signal"), data.join("standby.signal")).expect("make it a standby");
        }
        let auto = data.join("postgresql.auto.conf");
        let mut text = fs::read_to_string(&auto).expect("read");
        text.push_str(&format!(
            "restore_command = '{command}'\nrecovery_target_timeline = 'latest'\nwal_retrieve_retry_interval = 200ms\nhot_standby = on\n{more}"
        ));
        fs::write(auto, text).expect("write");
        data
    }

    /// Breaks what lies in the repository; what undoes it is done when the result is called.
    fn breaking(&self, failure: Failure) -> Box<dyn Fn() + '_> {
        let late = &self.segments[LATE];
        let dir = self.bowline.dir();
        let object = match failure {
            Failure::Hole | Failure::Damaged => Some(self.bowline.object(late)),
            _ => None,
        };
        let good = object.as_ref().map(|path| fs::read(path).expect("read"));
        match (failure, &object) {
            (Failure::Hole, Some(path)) => fs::remove_file(path).expect("remove the segment"),
            (Failure::Damaged, Some(path)) => flip_a_bit(path),
            _ => {}
        }
        Box::new(move || {
            if let (Some(path), Some(good)) = (&object, &good) {
                fs::write(path, good).expect("repair the segment");
                std::os::unix::fs::chown(path, fs::metadata(dir).ok().map(|m| std::os::unix::fs::MetadataExt::uid(&m)), None).expect("chown");
            }
            if dir.join("away").exists() {
                fs::rename(dir.join("away"), dir.join("repository")).expect("bring the repository back");
            }
        })
    }
}

#[test]
fn a_recovering_server_ends_at_every_failure_and_never_promotes() {
    for major in chosen() {
        let cluster = Cluster::builder(major).wal_segment_mib(1).start();
        let (bowline, other) = (Bowline::new(&cluster, RepositoryKind::Folder), Bowline::new(&cluster, RepositoryKind::Folder));
        let scene = Scene::new(&cluster, &bowline, &other);
        for failure in ALL {
            let what = format!("PostgreSQL {major}, {failure:?}");
            let data = scene.copy(failure, false, "");
            let repair = scene.breaking(failure);
            let said = Cluster::try_open(major, &data).map(|_| ()).expect_err(&what);
            assert!(said.contains("FATAL"), "{what}: {said}");
            never_promoted(&data, 1, &what);
            repair();
            if matches!(failure, Failure::WrongKey | Failure::KilledHelper) {
                continue;
            }
            let recovered = Cluster::open(major, &data);
            wait("recovery's end", Duration::from_secs(60), || recovered.try_psql("SELECT pg_is_in_recovery()") == Ok("f".into()));
            assert_eq!(recovered.psql("SELECT count(*) FROM t"), SEGMENTS.to_string(), "{what}");
        }
    }
}

#[test]
fn a_standby_lives_through_every_failure_and_goes_on_when_it_is_over() {
    for major in chosen() {
        let cluster = Cluster::builder(major).wal_segment_mib(1).start();
        let (bowline, other) = (Bowline::new(&cluster, RepositoryKind::Folder), Bowline::new(&cluster, RepositoryKind::Folder));
        let scene = Scene::new(&cluster, &bowline, &other);
        for failure in ALL {
            let what = format!("PostgreSQL {major}, {failure:?}");
            let data = scene.copy(failure, true, "");
            let repair = scene.breaking(failure);
            if matches!(failure, Failure::WrongKey | Failure::KilledHelper) {
                // PostgreSQL itself ends at a helper that a signal ended (RestoreArchivedFile, xlogarchive.c), a standby too; and with
                // the wrong key nothing at all is ever replayed, so this one never lets anybody in.
                if failure == Failure::KilledHelper {
                    let said = Cluster::try_open(major, &data).map(|standby| {
                        wait("the standby's end", Duration::from_secs(30), || !standby.is_running());
                        standby.log()
                    });
                    assert!(said.as_ref().unwrap_or_else(|said| said).contains("FATAL"), "{what}: {said:?}");
                } else {
                    let mut asked = bowline.command(&["wal", "fetch", &scene.segments[0], "pg_wal/RECOVERYXLOG", "--key"]);
                    asked.arg(&scene.other_key).current_dir(&data).stderr(Stdio::null());
                    assert_eq!(asked.status().expect("run bowline").code(), Some(1), "{what}");
                }
                never_promoted(&data, 1, &what);
                repair();
                continue;
            }
            let standby = Cluster::open(major, &data);
            let count = || standby.psql("SELECT count(*) FROM t").parse::<usize>().expect("a count");
            if matches!(failure, Failure::Hole | Failure::Damaged) {
                wait(&format!("{what}: what lies before it"), Duration::from_secs(60), || count() == LATE);
                // Several more times it asks in vain.
                std::thread::sleep(Duration::from_millis(700));
                assert!(standby.is_running() && count() == LATE, "{what}: {}", standby.log());
                assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "t", "{what}");
                repair();
            }
            wait(&format!("{what}: all that is stored"), Duration::from_secs(60), || count() == SEGMENTS);
            assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "t", "{what}");
            never_promoted(&data, 1, &what);
            let said = standby.log();
            let word = match failure {
                Failure::Hole => "[wal-fetch]",
                Failure::Damaged => "cannot open wal/",
                _ => "[store-absent]",
            };
            assert!(said.contains(word), "{what}: nothing failed: {said}");
        }
    }
}

#[test]
fn a_standby_that_meets_a_hole_streams_past_it() {
    let major = newest_major();
    let cluster = Cluster::builder(major).wal_segment_mib(1).setting("wal_keep_size", "200MB").start();
    let (bowline, other) = (Bowline::new(&cluster, RepositoryKind::Folder), Bowline::new(&cluster, RepositoryKind::Folder));
    let scene = Scene::new(&cluster, &bowline, &other);
    let data = scene.copy(Failure::Hole, true, &format!("primary_conninfo = '{}'\n", cluster.conninfo()));
    let _repair = scene.breaking(Failure::Hole);
    let standby = Cluster::open(major, &data);
    wait("the standby to stream past the hole", Duration::from_secs(60), || standby.psql("SELECT count(*) FROM t") == SEGMENTS.to_string());
    wait("a walreceiver", Duration::from_secs(30), || standby.psql("SELECT status FROM pg_stat_wal_receiver") == "streaming");
}

/// The processes of `bowline wal fetch` that the server in `data` has started and that wait now.
fn helpers(data: &Path) -> Vec<i32> {
    let program = fs::canonicalize(program()).expect("the program");
    let link = |pid: i32, name: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let pids = fs::read_dir("/proc").expect("/proc").filter_map(|item| item.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| link(*pid, "exe") == program && link(*pid, "cwd") == data).collect()
}

/// Begins a restore, stops it in the middle of replay, does `meanwhile`, lets it go on; it must fail and leave no server.
fn interrupted(bowline: &Bowline, meanwhile: impl FnOnce(&Path)) -> String {
    let data = bowline.new_target();
    let mut command = bowline.command(&["--json", "restore", "--yes", "--target", data.to_str().expect("a plain path")]);
    let mut restore = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("start bowline restore");
    let pid = Pid::from_raw(restore.id() as i32);
    let mut lines = BufReader::new(restore.stdout.take().expect("piped")).lines();
    let mut said = String::new();
    let mut seen = 0;
    while seen < 3 {
        let line = lines.next().unwrap_or_else(|| panic!("it ended too soon: {said}")).expect("a line");
        seen += usize::from(line.contains("segment-fetched"));
        said.push_str(&line);
    }
    kill(pid, Signal::SIGSTOP).expect("stop the restore");
    meanwhile(&data);
    kill(pid, Signal::SIGCONT).expect("let it go on");
    lines.map_while(Result::ok).for_each(|line| said.push_str(&line));
    let status = restore.wait().expect("wait");
    assert!(!status.success(), "{said}");
    never_promoted(&data, 1, &said);
    assert!(!data.join("postmaster.pid").exists(), "a server is left on {}", data.display());
    let log = fs::read_to_string(format!("{}.bowline/recovery.log", data.display())).expect("the server's log");
    assert!(log.contains("FATAL:  could not restore file"), "{log}");
    said
}

#[test]
fn a_restore_whose_store_vanishes_or_whose_helper_is_killed_fails_and_leaves_no_server() {
    for major in chosen() {
        let cluster = Cluster::builder(major).wal_segment_mib(1).start();
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        cluster.psql("CREATE TABLE t (a int)");
        let _receiver = bowline.receive();
        bowline.ok(&["backup"]);
        // Far more than are fetched ahead.
        for i in 0..90 {
            cluster.psql(&format!("INSERT INTO t VALUES ({i}); SELECT pg_switch_wal()"));
        }
        bowline.archive_now();
        let (here, away) = (bowline.dir().join("repository"), bowline.dir().join("away"));
        let said = interrupted(&bowline, |_| fs::rename(&here, &away).expect("put the repository away"));
        assert!(said.contains("\"error\""), "PostgreSQL {major}: {said}");
        fs::rename(&away, &here).expect("bring the repository back");

        interrupted(&bowline, |data| {
            let mut found = Vec::new();
            wait("a helper that waits for an answer", Duration::from_secs(30), || {
                found = helpers(data);
                !found.is_empty()
            });
            kill(Pid::from_raw(found[0]), Signal::SIGKILL).expect("kill the helper");
        });
        let restored = bowline.restore(&["--to", "latest"]);
        assert_eq!(restored.psql("SELECT count(*) FROM t"), "90", "PostgreSQL {major}");
        assert!(restored.result["recovered"]["waited_seconds"].as_f64().is_some(), "{}", restored.result);
    }
}
