//! The one-command restore in place: hooks, the old log saved, a journal that a second run goes on with, protection again.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;
use terms::{Clock, SystemClock};
use testkit::bowline::{FINGERPRINT, files_below, wait};
use testkit::{Bowline, Cluster, RepositoryKind, majors, newest_major, outer_majors};

/// New WAL is stored soon, so that tests need not wait for it.
const QUICK: &str = "[wal]\nflush_interval = \"300ms\"\n";

/// A service that is nothing but its hooks: each writes a line, and it is well when the database answers.
struct Service {
    log: PathBuf,
}

impl Service {
    fn of(cluster: &Cluster, bowline: &Bowline<'_>, more: &str) -> Self {
        let log = bowline.dir().join("service.log");
        let psql = cluster.bin_dir().join("psql");
        let ask = format!("{} -XAt '{}' -c 'SELECT count(*) FROM t'", psql.display(), cluster.conninfo());
        let lines = format!(
            "[service]\nstop = \"echo stop >> {0}\"\nstart = \"echo start >> {0}\"\nhealth = \"{ask} && echo well >> {0}\"\n{QUICK}{more}",
            log.display()
        );
        bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &lines);
        Self { log }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default().replace('\n', " ").trim().to_owned()
    }
}

fn steps(result: &Value) -> Vec<&str> {
    result["steps"].as_array().expect("steps").iter().map(|step| step["step"].as_str().expect("a name")).collect()
}

fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn one_command_stops_restores_starts_and_protects_again() {
    for major in majors() {
        let cluster = Cluster::start(major);
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        // Who asks is no superuser, gets in where not everybody may, and is gone afterwards, as is what a killed run left.
        let asking = "{ sql = \"SELECT current_user || ' ' || current_setting('is_superuser')\", expect = 'matches ^bowline_questions_2 off$' }";
        let service = Service::of(&cluster, &bowline, &format!("[drill]\nchecks = [{asking}]\n"));
        cluster.psql("CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 1000)");
        cluster.psql("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; CREATE ROLE bowline_questions; CREATE ROLE bowline_questions_2 LOGIN");
        cluster.psql("COMMENT ON ROLE bowline_questions_2 IS 'asks a restored server; made by Bowline, and dropped when it has asked'");
        cluster.psql("CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.made (); ALTER TABLE elsewhere.made OWNER TO bowline_questions_2");
        let rights = || cluster.psql("SELECT datacl FROM pg_database WHERE datname = 'postgres'");
        let given = rights();
        let receiver = bowline.receive();
        let first = bowline.ok(&["backup"]);
        cluster.psql("INSERT INTO t VALUES (0)");
        let (wanted, good) = (cluster.psql(FINGERPRINT), SystemClock.now());
        pause();
        cluster.psql("UPDATE t SET a = 7");
        bowline.archive_now();

        let plan = bowline.command(&["restore", "--plan", "--to", &good.to_string()]).output().expect("a plan");
        let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
        for line in ["the service is stopped: echo stop", "a fast shutdown", "is renamed to", "a full backup is made"] {
            assert!(plan.contains(line), "{line} in:\n{plan}");
        }
        assert_eq!((service.said().as_str(), cluster.psql("SELECT min(a) FROM t").as_str()), ("", "7"), "a plan touches nothing");

        let result = bowline.ok(&["restore", "--yes", "--to", &good.to_string()]);
        assert_eq!(service.said(), "stop start well", "PostgreSQL {major}");
        assert_eq!(cluster.psql(FINGERPRINT), wanted, "PostgreSQL {major}");
        let expected = [
            "stop the service",
            "stop PostgreSQL",
            "move the old data aside",
            "restore files",
            "replay WAL",
            "validate",
            "start PostgreSQL",
            "stream WAL again",
            "start the service",
            "back up",
        ];
        assert_eq!(steps(&result), expected);
        let left = "SELECT string_agg(rolname, ' '), to_regclass('elsewhere.made') FROM pg_roles WHERE rolname LIKE 'bowline_questions%'";
        assert_eq!((cluster.psql(left).as_str(), rights()), ("bowline_questions|", given), "PostgreSQL {major}");
        assert_eq!(result["protected"], true, "{result}");
        assert!(result["serving_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{result}");
        assert!(Path::new(result["moved_aside"].as_str().expect("the old data")).join("global/pg_control").exists());
        // The receiver that was there all along came back by itself, and the new timeline is protected.
        let slot = cluster.psql("SELECT active, active_pid IS NOT NULL FROM pg_replication_slots WHERE slot_name = 'bowline'");
        assert_eq!(slot, "t|t");
        assert_ne!(result["backup"], first["id"]);
        bowline.ok(&["status"]);
        cluster.psql("INSERT INTO t VALUES (-1)");
        bowline.archive_now();
        let wanted = cluster.psql(FINGERPRINT);
        let again = bowline.restore(&[]);
        assert_eq!((again.psql(FINGERPRINT), &again.result["plan"]["backup"]), (wanted, &result["backup"]), "PostgreSQL {major}");
        drop(again);
        assert_eq!(receiver.stop(), Some(0));
        cluster.stop_adopted();
    }
}

#[test]
fn what_only_the_old_pg_wal_holds_is_saved_and_a_receiver_is_started_where_none_comes_back() {
    for (major, kind) in outer_majors().into_iter().zip([RepositoryKind::Folder, RepositoryKind::S3].into_iter().cycle()) {
        let cluster = Cluster::start(major);
        let bowline = Bowline::new(&cluster, kind);
        cluster.psql("CREATE TABLE t (a int)");
        let receiver = bowline.receive();
        bowline.ok(&["backup"]);
        cluster.psql("INSERT INTO t VALUES (1)");
        // From here on nothing is sent: two segments and a beginning are on the old disk alone.
        assert_eq!(receiver.stop(), Some(0));
        for number in 2..4 {
            cluster.psql(&format!("INSERT INTO t VALUES ({number}); SELECT pg_switch_wal()"));
        }
        cluster.psql("INSERT INTO t VALUES (4)");
        cluster.kill9();
        let result = bowline.ok(&["restore", "--yes"]);
        assert!(result["salvaged"]["from"].is_string(), "{result}");
        assert_eq!((&result["lost"]["seconds_max"], &result["protected"]), (&Value::from(0.0), &Value::from(true)), "{result}");
        assert_eq!(cluster.psql("SELECT string_agg(a::text, ',' ORDER BY a) FROM t"), "1,2,3,4", "PostgreSQL {major}");
        wait("the receiver that was started", Duration::from_secs(10), || {
            cluster.psql("SELECT active FROM pg_replication_slots WHERE slot_name = 'bowline'") == "t"
        });
        // What was saved is in the repository: it can be restored without the old disk.
        let at = result["salvaged"]["to"].as_str().expect("a position").to_owned();
        let elsewhere = bowline.restore(&["--to", &at, "--timeline", "1"]);
        assert_eq!(elsewhere.psql("SELECT count(*) FROM t"), "4", "PostgreSQL {major}");
        drop(elsewhere);
        bowline.ok(&["wal", "audit"]);
        drop(bowline);
        cluster.stop_adopted();
    }
}

/// The first one went back too far: what it left is followed once more, to a later time.
#[test]
fn a_second_restore_along_the_timeline_that_the_first_one_left_ends_protected() {
    // With the receiver that was there all along, and with one that the restore starts.
    for stays in [true, false] {
        let cluster = Cluster::start(newest_major());
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &format!("{QUICK}status_interval = \"500ms\"\n"));
        cluster.psql("CREATE TABLE t (a int)");
        let receiver = bowline.receive();
        bowline.ok(&["backup"]);
        let insert = |a: u32| {
            cluster.psql(&format!("INSERT INTO t VALUES ({a})"));
            let after = SystemClock.now();
            pause();
            after.to_string()
        };
        let (too_early, good) = (insert(1), insert(2));
        cluster.psql("DELETE FROM t");
        bowline.archive_now();
        let first = bowline.ok(&["restore", "--yes", "--to", &too_early]);
        assert_eq!((&first["protected"], cluster.psql("SELECT count(*) FROM t").as_str()), (&Value::from(true), "1"), "{first}");
        insert(3);
        bowline.archive_now();
        let is_mark = |line: &str| line.contains("\"wal-covered\"") && line.contains("\"timeline\":2");
        wait("a coverage mark of timeline 2", Duration::from_secs(60), || receiver.log().lines().any(is_mark));
        let receiver = match stays {
            true => Some(receiver),
            false => {
                assert_eq!(receiver.stop(), Some(0));
                None
            }
        };

        let second = bowline.ok(&["restore", "--yes", "--to", &good, "--timeline", "1"]);
        assert_eq!(second["protected"], true, "{second}");
        assert_eq!(cluster.psql("SELECT string_agg(a::text, ',' ORDER BY a) FROM t"), "1,2");
        assert_eq!(cluster.psql("SELECT timeline_id FROM pg_control_checkpoint()"), "3");
        wait("somebody to receive", Duration::from_secs(60), || {
            cluster.psql("SELECT active FROM pg_replication_slots WHERE slot_name = 'bowline'") == "t"
        });
        insert(4);
        bowline.archive_now();
        let wanted = cluster.psql(FINGERPRINT);
        let restored = bowline.restore(&[]);
        assert_eq!((restored.psql(FINGERPRINT), &restored.result["plan"]["backup"]), (wanted, &second["backup"]));
        drop(restored);
        bowline.ok(&["status"]);
        // What was left is there still.
        let restored = bowline.restore(&["--to", "latest", "--timeline", "2"]);
        assert_eq!(restored.psql("SELECT string_agg(a::text, ',' ORDER BY a) FROM t"), "1,3");
        drop(restored);
        drop(receiver);
        cluster.stop_adopted();
    }
}

/// Runs a restore until it says this, then kills it.
fn kill_at(bowline: &Bowline<'_>, words: &[&str], is_then: impl Fn(&Value) -> bool) -> bool {
    let mut child: Child = bowline.command(words).arg("--json").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("run bowline");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let reached = lines.map_while(Result::ok).filter_map(|line| serde_json::from_str::<Value>(&line).ok()).any(|line| is_then(&line));
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    child.wait().expect("its end");
    reached
}

#[test]
fn a_restore_that_is_killed_at_any_step_goes_on_and_the_old_data_stay_whole() {
    let steps = [
        "stop the service",
        "stop PostgreSQL",
        "save the old pg_wal",
        "move the old data aside",
        "restore files",
        "replay WAL",
        "validate",
        "start PostgreSQL",
        "stream WAL again",
        "start the service",
        "back up",
    ];
    let cluster = Cluster::builder(newest_major()).tablespace("fast").start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let service = Service::of(&cluster, &bowline, "");
    cluster.psql("CREATE TABLE t TABLESPACE fast AS SELECT generate_series(1, 50000) AS a");
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    let mut kept: Vec<PathBuf> = Vec::new();
    let seed = testkit::seed("killed restores");
    // All of them take a while: each run takes some, chosen by its seed.
    let is_chosen = |number: usize| testkit::full() || seed.wrapping_add(number as u64).is_multiple_of(6);
    // When the last step ends the restore ends, too: whether the kill comes in between is luck, and nothing may be left to continue.
    let is_the_end = |number: usize, ending: &str| number + 1 == steps.len() && ending == "step-ended";
    let mut points = 0;
    for (number, step) in steps.iter().enumerate() {
        for (at, ending) in ["step-begun", "step-ended"].into_iter().enumerate() {
            if !is_chosen(2 * number + at) || is_the_end(number, ending) {
                continue;
            }
            points += 1;
            cluster.psql(&format!("INSERT INTO t VALUES (-{number})"));
            let wanted = cluster.psql(FINGERPRINT);
            let marker = cluster.data_dir().join("marker");
            fs::write(&marker, format!("{number}{ending}")).expect("a marker");
            let is_then = |line: &Value| line["event"] == ending && line["step"] == *step;
            assert!(kill_at(&bowline, &["restore", "--yes"], is_then), "{step} {ending} was not reached");
            let result = bowline.ok(&["restore", "--yes", "--continue"]);
            assert_eq!(cluster.psql(FINGERPRINT), wanted, "killed at {step} {ending}");
            assert_eq!(result["protected"], true, "{result}");
            let aside = PathBuf::from(result["moved_aside"].as_str().expect("the old data"));
            assert_eq!(fs::read_to_string(aside.join("marker")).expect("the marker"), format!("{number}{ending}"));
            assert!(aside.join("global/pg_control").exists(), "killed at {step} {ending}");
            kept.push(aside);
        }
    }
    kept.dedup();
    assert_eq!(kept.len(), points, "each restore kept what was there before it, once");
    assert!(service.said().ends_with("well"));
    bowline.fails(&["restore", "--yes", "--continue"], 2, "nothing-to-continue");
    drop(receiver);
    cluster.stop_adopted();
}

#[test]
fn what_fails_says_where_things_stand_and_only_the_rest_is_done_again() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t AS SELECT 1 AS a");
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    let configure = |lines: &str| bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), lines);
    // A service that does not stop: nothing is touched.
    configure("[service]\nstop = \"echo it hangs; exit 3\"\n");
    let text = bowline.fails(&["restore", "--yes"], 4, "hook-failed");
    assert!(text.contains("it hangs") && text.contains("exit 3"), "{text}");
    assert_eq!(cluster.psql("SELECT count(*) FROM t"), "1", "the server was left alone");
    // Another wish than that of the restore that broke off.
    let text = bowline.fails(&["restore", "--yes", "--to", "immediate"], 4, "restore-unfinished");
    assert!(text.contains("--continue") && text.contains("--anew") && text.contains("latest"), "{text}");
    // What is recovered does not pass: it serves nobody, and the service stays down.
    let log = bowline.dir().join("log");
    configure(&format!(
        "[service]\nstart = \"echo start >> {}\"\n[drill]\nchecks = [{{ sql = \"SELECT count(*) FROM t\", expect = \">= 2\" }}]\n",
        log.display()
    ));
    let text = bowline.fails(&["restore", "--yes"], 6, "restore-unproven");
    assert!(text.contains("SELECT count(*) FROM t: 1, expected >= 2"), "{text}");
    assert!(cluster.try_psql("SELECT 1").is_err() && !log.exists(), "nobody is let in");
    // It is taken as it is; then the service does not start.
    configure("[service]\nstart = \"exit 9\"\n");
    let outcome = bowline.run(&["restore", "--yes", "--validate", "none"]);
    assert_eq!((outcome.code, outcome.error().0), (4, "hook-failed"), "{outcome:#?}");
    let result = outcome.lines.iter().find_map(|line| line.get("result")).expect("a report all the same").clone();
    assert_eq!((&result["protected"], &result["serving_seconds"]), (&Value::from(true), &Value::Null), "{result}");
    assert_eq!(cluster.psql("SELECT count(*) FROM t"), "1", "PostgreSQL serves");
    let pid = fs::read_to_string(cluster.data_dir().join("postmaster.pid")).expect("a server");
    // Only that is done again.
    configure(&format!("[service]\nstart = \"echo start >> {}\"\n", log.display()));
    let again = bowline.ok(&["restore", "--yes"]);
    assert_eq!(fs::read_to_string(&log).expect("the service's log"), "start\n");
    assert_eq!(fs::read_to_string(cluster.data_dir().join("postmaster.pid")).expect("a server"), pid, "the server was not touched again");
    assert_eq!((&again["backup"], &again["moved_aside"]), (&result["backup"], &result["moved_aside"]), "{again}");
    drop(receiver);
    // Patroni would undo it: refused before anything is touched.
    let patronis = cluster.data_dir().join("patroni.dynamic.json");
    fs::write(&patronis, "{}").expect("a file");
    let text = bowline.fails(&["restore", "--yes", "--no-protect"], 4, "under-patroni");
    assert!(text.contains("patronictl pause") && cluster.psql("SELECT count(*) FROM t") == "1", "{text}");
    fs::remove_file(&patronis).expect("as it was");
    // Commands for the server that end well and do nothing, or return before it is done.
    let supervised = |stop: &str, start: &str, timeout: &str| {
        configure(&format!("[service]\ntimeout = \"{timeout}\"\n"));
        let text = fs::read_to_string(bowline.config()).expect("the configuration");
        let lines = format!("[postgres]\nstop = \"{stop}\"\nstart = \"{start}\"\n");
        fs::write(bowline.config(), text.replacen("[postgres]\n", &lines, 1)).expect("write");
    };
    supervised("true", "true", "1s");
    let text = bowline.fails(&["restore", "--yes", "--no-protect"], 4, "hook-unheeded");
    assert!(text.contains("\"true\"") && text.contains("still runs") && cluster.psql("SELECT count(*) FROM t") == "1", "{text}");
    let stop = format!("kill -INT $(head -n 1 {}/postmaster.pid)", cluster.data_dir().display());
    supervised(&stop, "true", "10s");
    let text = bowline.fails(&["restore", "--yes", "--no-protect"], 4, "hook-unheeded");
    assert!(text.contains("\"true\"") && text.contains("No server runs there"), "{text}");
    configure("");
    let result = bowline.ok(&["restore", "--yes", "--no-protect"]);
    assert!(result["serving_seconds"].is_number() && cluster.psql("SELECT count(*) FROM t") == "1", "{result}");
    cluster.stop_adopted();
}

/// The conninfo leads to a standby that was promoted meanwhile: same cluster, and a timeline of the same number.
#[test]
fn a_server_that_was_not_restored_is_not_taken_for_the_one_that_was() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t AS SELECT 1 AS a");
    bowline.ok(&["backup"]);
    let standby = cluster.standby();
    standby.promote();
    bowline.configure(&standby.conninfo(), Some(cluster.data_dir()), "");
    let outcome = bowline.run(&["restore", "--yes", "--to", "immediate"]);
    let (slug, text) = outcome.error();
    assert_eq!((outcome.code, slug), (4, "foreign-cluster"), "{outcome:#?}");
    assert!(text.contains("timeline 2"), "{text}");
    let result = outcome.lines.iter().find_map(|line| line.get("result")).expect("a report all the same");
    assert_eq!((&result["protected"], &result["backup"]), (&Value::from(false), &Value::Null), "{result}");
    assert_eq!(standby.psql("SELECT count(*) FROM pg_replication_slots"), "0", "the other one is left alone");
    cluster.stop_adopted();
}

#[test]
fn a_target_that_changed_hands_is_not_touched() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 50000) AS a");
    bowline.ok(&["backup"]);
    cluster.pg_ctl_stop(true);
    assert!(kill_at(&bowline, &["restore", "--yes", "--no-protect"], |line| line.to_string().contains("replay WAL")));
    // Somebody puts the old data back, which the interrupted restore must not take for its own.
    let aside =
        fs::read_dir(cluster.home()).expect("list").flatten().find(|e| e.file_name().to_string_lossy().contains(".before-")).expect("old data");
    let half = cluster.home().join("half");
    fs::rename(cluster.data_dir(), &half).expect("away");
    fs::rename(aside.path(), cluster.data_dir()).expect("back");
    fs::write(cluster.data_dir().join("marker"), "mine").expect("a marker");
    bowline.fails(&["restore", "--yes", "--no-protect"], 4, "target-changed");
    assert_eq!(fs::read_to_string(cluster.data_dir().join("marker")).expect("untouched"), "mine");
    let result = bowline.ok(&["restore", "--yes", "--no-protect", "--anew"]);
    let aside = PathBuf::from(result["moved_aside"].as_str().expect("kept"));
    assert_eq!(fs::read_to_string(aside.join("marker")).expect("kept"), "mine");
    assert_eq!(cluster.psql("SELECT count(*) FROM t"), "50000");
    cluster.stop_adopted();
}

#[test]
fn processes_that_outlived_their_postmaster_are_not_restored_under() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.ok(&["backup"]);
    // A backend that is stopped does not notice that its postmaster is gone, and would write when it wakes.
    let mut session = cluster.bin("psql").args(["-Xc", "SELECT pg_sleep(600)"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("psql");
    let asleep = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)'";
    wait("a backend", Duration::from_secs(10), || !cluster.psql(asleep).is_empty());
    let pid: i32 = cluster.psql(asleep).parse().expect("a process");
    kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("stop it");
    kill(Pid::from_raw(cluster.pid().expect("a server") as i32), Signal::SIGKILL).expect("kill the postmaster");
    wait("its end", Duration::from_secs(10), || !cluster.is_running());
    let text = bowline.fails(&["restore", "--yes", "--no-protect"], 7, "server-survivors");
    assert!(text.contains(&pid.to_string()), "{text}");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill it");
    drop(session.wait());
    wait("the others' end", Duration::from_secs(20), || bowline.run(&["restore", "--yes", "--no-protect"]).code == 0);
    cluster.stop_adopted();
}

#[test]
fn a_data_directory_that_is_a_mount_point_keeps_the_old_data_within() {
    assert!(nix::unistd::geteuid().is_root(), "only root can mount: run the tests as root");
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t AS SELECT 1 AS a");
    bowline.ok(&["backup"]);
    cluster.pg_ctl_stop(true);
    let (uid, gid) = cluster.user().expect("root runs servers as another user");
    let data = cluster.data_dir().to_owned();
    let elsewhere = cluster.home().join("was");
    fs::rename(&data, &elsewhere).expect("away");
    fs::create_dir(&data).expect("a mount point");
    let mount = |words: &[&str]| {
        let output = std::process::Command::new(words[0]).args(&words[1..]).output().expect("run");
        assert!(output.status.success(), "{words:?}: {output:?}");
    };
    let path = data.to_str().expect("a plain path");
    mount(&["mount", "-t", "tmpfs", "-o", &format!("size=600m,mode=0700,uid={uid},gid={gid}"), "tmpfs", path]);
    struct Mounted<'p>(&'p str);
    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            drop(std::process::Command::new("umount").args(["-l", self.0]).output());
        }
    }
    let mounted = Mounted(path);
    mount(&["cp", "-a", &format!("{}/.", elsewhere.display()), path]);
    fs::write(data.join("marker"), "old").expect("a marker");
    let first = bowline.ok(&["restore", "--yes", "--no-protect"]);
    let aside = PathBuf::from(first["moved_aside"].as_str().expect("kept"));
    assert!(aside.starts_with(&data) && aside.join("marker").exists() && !data.join("marker").exists(), "{first}");
    assert_eq!(cluster.psql("SELECT a FROM t"), "1");
    // A second one keeps what the first one made, and leaves alone what that kept; a backup has neither.
    let backup = bowline.ok(&["backup"]);
    cluster.stop_adopted();
    let second = bowline.ok(&["restore", "--yes", "--no-protect"]);
    assert_ne!(second["moved_aside"], first["moved_aside"]);
    assert!(aside.join("marker").exists());
    assert_eq!(second["plan"]["backup"], backup["id"]);
    let kept = fs::read_dir(&data).expect("list").flatten().filter(|e| e.file_name().to_string_lossy().starts_with("bowline-before-")).count();
    assert_eq!(kept, 2, "a backup does not carry what was kept");
    cluster.stop_adopted();
    drop(mounted);
}

#[test]
fn a_bare_machine_needs_the_repository_and_the_key_alone() {
    for major in outer_majors() {
        let cluster = Cluster::start(major);
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        let service = Service::of(&cluster, &bowline, "");
        cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
        let receiver = bowline.receive();
        bowline.ok(&["backup"]);
        cluster.psql("INSERT INTO t VALUES (0)");
        let wanted = cluster.psql(FINGERPRINT);
        bowline.archive_now();
        // The host burns: server, data, receiver, configuration.
        receiver.kill9();
        cluster.kill9();
        fs::remove_dir_all(cluster.data_dir()).expect("lose the data");
        let text = fs::read_to_string(bowline.config()).expect("the configuration");
        fs::remove_file(bowline.config()).expect("lose the configuration");
        // Whoever stole a credential that writes would have a command of his own run here.
        let folder = bowline.repository().join("config");
        let newer = format!("{}.toml", SystemClock.now().plus_micros(60_000_000).compact());
        for name in ["zzz.toml", &newer] {
            fs::write(folder.join(name), "org = \"acme\"\n[service]\nstop = \"false\"\n").expect("forge");
        }
        let outcome = bowline.run_bare(&["restore", "--yes", "--anew"]);
        let result = outcome.result();
        assert!(outcome.lines.iter().any(|line| line.to_string().contains(&format!("config/{newer} is newer and passed over"))), "{outcome:#?}");
        assert_eq!(cluster.psql(FINGERPRINT), wanted, "PostgreSQL {major}");
        assert_eq!((&result["protected"], &result["moved_aside"]), (&Value::from(true), &Value::Null), "{result}");
        assert!(result["lost"]["seconds_max"].as_f64().is_some_and(|seconds| seconds < 600.0), "{result}");
        assert!(service.said().ends_with("stop start well"), "{}", service.said());
        // The configuration is there again, without the digest that it was kept with.
        let kept = cluster.home().join("data.bowline/bowline.toml");
        assert_eq!(fs::read_to_string(&kept).expect("the configuration"), text);
        cluster.psql(&format!("\\! cp {} {}", kept.display(), bowline.config().display()));
        bowline.ok(&["status"]);
        let started = format!("--config\0{}\0", kept.display());
        for pid in testkit::processes_that(|words| words.contains(&started)) {
            kill(Pid::from_raw(pid), Signal::SIGTERM).expect("end the receiver");
        }
        cluster.stop_adopted();
    }
}

#[test]
fn a_password_in_the_configuration_is_not_kept() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.configure(&format!("{} password=hunter2hunter2", cluster.conninfo()), Some(cluster.data_dir()), "");
    let outcome = bowline.run(&["backup"]);
    assert_eq!(outcome.code, 0, "{outcome:#?}");
    assert!(outcome.lines.iter().any(|line| line.to_string().contains("not kept in the repository")), "{outcome:#?}");
    assert!(!bowline.repository().join("config").exists());
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), "");
    bowline.ok(&["backup"]);
    bowline.ok(&["backup"]);
    let kept = fs::read_dir(bowline.repository().join("config")).expect("kept").count();
    assert_eq!(kept, 1, "the same configuration is kept once");
}

/// What happened to the old pg_wal, and how: it is given the directory, and the names of the segments that only it holds.
type Spoil<'s> = (&'s str, &'s dyn Fn(&Path, &[String]));

/// A host that died with commits that only its pg_wal holds, and what became of that.
fn after_a_loss(spoil: impl Fn(&Path, &[String])) -> (Value, String) {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t (a int)");
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    assert_eq!(receiver.stop(), Some(0));
    let segments: Vec<String> = (1..=3)
        .map(|number| {
            cluster.psql(&format!("INSERT INTO t VALUES ({number}); SELECT pg_walfile_name(pg_switch_wal())")).lines().last().unwrap().to_owned()
        })
        .collect();
    cluster.psql("INSERT INTO t VALUES (4)");
    cluster.kill9();
    spoil(&cluster.data_dir().join("pg_wal"), &segments);
    let result = bowline.ok(&["restore", "--yes", "--no-protect"]);
    let rows = cluster.psql("SELECT count(*) FROM t");
    cluster.stop_adopted();
    (result, rows)
}

#[test]
fn nothing_is_called_lost_only_when_the_old_log_was_read_to_its_end() {
    let (whole, rows) = after_a_loss(|_, _| {});
    assert_eq!((&whole["lost"]["seconds_max"], rows.as_str()), (&Value::from(0.0), "4"), "{whole}");
    let emptied = |pg_wal: &Path, _: &[String]| {
        let files = fs::read_dir(pg_wal).expect("list").flatten().filter(|entry| entry.path().is_file());
        files.for_each(|entry| fs::remove_file(entry.path()).expect("remove"));
    };
    let one_gone = |pg_wal: &Path, segments: &[String]| fs::remove_file(pg_wal.join(&segments[1])).expect("remove");
    // The record of the second commit, with two more segments behind it.
    let damaged = |pg_wal: &Path, segments: &[String]| {
        let path = pg_wal.join(&segments[1]);
        let mut bytes = fs::read(&path).expect("read");
        bytes[60] ^= 1;
        fs::write(&path, bytes).expect("write");
    };
    let spoilt: [Spoil<'_>; 3] = [("emptied", &emptied), ("one gone", &one_gone), ("damaged", &damaged)];
    for (what, spoil) in spoilt {
        let (result, rows) = after_a_loss(spoil);
        assert!(rows != "4" && result["lost"]["seconds_max"] != 0.0, "{what}: {rows} rows, {}", result["lost"]);
    }
}

#[test]
fn segments_older_than_all_that_is_stored_keep_nothing_from_being_saved() {
    // The server had run for a while before it was protected, and keeps its old log for others.
    let cluster = Cluster::builder(newest_major()).wal_segment_mib(1).setting("wal_keep_size", "1GB").start();
    cluster.psql("CREATE TABLE t (a int)");
    for _ in 0..3 {
        cluster.psql("SELECT pg_logical_emit_message(false, 'e2e', 'older'); SELECT pg_switch_wal()");
    }
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    assert_eq!(receiver.stop(), Some(0));
    for number in 1..=3 {
        cluster.psql(&format!("INSERT INTO t VALUES ({number}); SELECT pg_switch_wal()"));
    }
    cluster.psql("INSERT INTO t VALUES (4)");
    cluster.kill9();
    let names =
        fs::read_dir(cluster.data_dir().join("pg_wal")).expect("list").flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let oldest = names.filter(|name| name.len() == 24).min().expect("a segment");
    let stored = files_below(&bowline.repository().join("wal"));
    assert!(!stored.iter().any(|path| path.to_string_lossy().contains(&oldest)), "{oldest} is stored");
    let result = bowline.ok(&["restore", "--yes", "--no-protect"]);
    assert_eq!((&result["lost"]["seconds_max"], cluster.psql("SELECT count(*) FROM t").as_str()), (&Value::from(0.0), "4"), "{result}");
    cluster.stop_adopted();
}

#[test]
fn in_synchronous_mode_the_first_commit_of_the_service_is_acknowledged_and_stored() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    // A service that writes as soon as it starts: who inherits synchronous_standby_names waits for a receiver then.
    let psql = format!("{} -XAt '{}'", cluster.bin_dir().join("psql").display(), cluster.conninfo());
    let lines = format!("[service]\nstart = \"{psql} -c 'INSERT INTO t VALUES (2)'\"\n[wal]\nsynchronous = true\n");
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &lines);
    let receiver = bowline.receive();
    cluster.configure(&[("synchronous_standby_names", "bowline")]);
    cluster.psql("SELECT pg_reload_conf()");
    wait("the server to reload", Duration::from_secs(10), || cluster.psql("SHOW synchronous_standby_names") == "bowline");
    cluster.psql("CREATE TABLE t (a int)");
    let first = bowline.ok(&["backup"]);
    cluster.psql("INSERT INTO t VALUES (1)");
    // The host burns.
    receiver.kill9();
    cluster.kill9();
    fs::remove_dir_all(cluster.data_dir()).expect("lose the data");
    let result = bowline.ok(&["restore", "--yes"]);
    assert_eq!(result["protected"], true, "{result}");
    assert_eq!(cluster.psql("SHOW synchronous_standby_names"), "bowline", "it is inherited");
    assert_eq!(cluster.psql("SELECT sync_state FROM pg_stat_replication WHERE application_name = 'bowline'"), "sync");
    cluster.psql("INSERT INTO t VALUES (3)");
    // From the backup of before the loss: all that is newer comes out of the log.
    let elsewhere = bowline.restore(&["--backup", first["id"].as_str().expect("a backup")]);
    assert_eq!(elsewhere.psql("SELECT string_agg(a::text, ',' ORDER BY a) FROM t"), "1,2,3", "what is acknowledged is stored");
    drop(elsewhere);
    drop(bowline);
    cluster.stop_adopted();
}
