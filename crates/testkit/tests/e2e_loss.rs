//! What the destruction of the host costs: nothing that was acknowledged in synchronous mode, the last seconds otherwise; and a
//! server that stops while the store is away is let go.

#[path = "bad_input/ground.rs"]
mod ground;

use ground::Chance;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use terms::{Clock, SystemClock};
use testkit::bowline::{Receiver, wait};
use testkit::workload::{Pace, missing};
use testkit::{Bowline, Cluster, RepositoryKind, Workload, majors, newest_major};

/// The repository's folder, gone for as long as this lives.
struct Away {
    here: PathBuf,
    there: PathBuf,
}

impl Away {
    fn put(bowline: &Bowline) -> Self {
        let away = Self { here: bowline.dir().join("repository"), there: bowline.dir().join("away") };
        std::fs::rename(&away.here, &away.there).expect("put the repository away");
        away
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        std::fs::rename(&self.there, &self.here).expect("bring the repository back");
    }
}

/// Kills the server and the receiver within moments of each other, in either order: the host is gone.
fn destroy(cluster: &Cluster, receiver: Receiver, chance: &mut Chance) {
    if chance.next(2) == 0 {
        cluster.kill9();
        receiver.kill9();
    } else {
        receiver.kill9();
        std::thread::sleep(Duration::from_millis(chance.next(30)));
        cluster.kill9();
    }
}

fn slot_is_free(cluster: &Cluster) {
    let held = || cluster.psql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'bowline' AND active");
    wait("the slot to be free", Duration::from_secs(60), || held() == "0");
}

fn acknowledged_is_stored(kind: RepositoryKind, rounds: usize, name: &str) {
    let mut chance = Chance(testkit::seed(name));
    let cluster = Cluster::builder(newest_major()).wal_segment_mib(1).setting("max_wal_size", "64MB").start();
    let bowline = Bowline::new(&cluster, kind);
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), "[wal]\nsynchronous = true\nstatus_interval = \"1s\"\n");
    bowline.ok(&["backup"]);
    cluster.configure(&[("synchronous_standby_names", "bowline"), ("wal_sender_timeout", "10s")]);
    cluster.psql("SELECT pg_reload_conf()");
    let mut ledger = Vec::new();
    for round in 0..rounds {
        let receiver = bowline.receive();
        let pace = Pace { clients: 1 + chance.next(6) as usize, payload_bytes: 100 + chance.next(6000) as usize, ..Pace::default() };
        let workload = Workload::start_at(&cluster.conninfo(), pace);
        std::thread::sleep(Duration::from_millis(50 + chance.next(1200)));
        destroy(&cluster, receiver, &mut chance);
        ledger.extend(workload.stop());
        let restored = bowline.restore(&["--to", "latest"]);
        let missing = missing(&ledger, &restored.psql("SELECT id FROM ledger"));
        assert!(missing.is_empty(), "{kind:?}, round {round}: {} of {} acknowledged commits are gone: {missing:?}", missing.len(), ledger.len());
        restored.stop();
        std::fs::remove_dir_all(&restored.data).expect("remove the restored cluster");
        cluster.start_server();
        slot_is_free(&cluster);
    }
    assert!(ledger.len() > rounds, "hardly anything was committed: {}", ledger.len());
}

#[test]
fn what_is_acknowledged_in_synchronous_mode_is_in_the_folder() {
    acknowledged_is_stored(RepositoryKind::Folder, if testkit::full() { 50 } else { 5 }, "acknowledged-folder");
}

#[test]
fn what_is_acknowledged_in_synchronous_mode_is_in_the_bucket() {
    acknowledged_is_stored(RepositoryKind::S3, if testkit::full() { 50 } else { 3 }, "acknowledged-bucket");
}

#[test]
fn without_synchronous_mode_only_the_last_moments_are_lost() {
    for kind in [RepositoryKind::Folder, RepositoryKind::S3] {
        let mut chance = Chance(testkit::seed("last-moments"));
        let cluster = Cluster::start(newest_major());
        let bowline = Bowline::new(&cluster, kind);
        bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), "[wal]\nflush_interval = \"300ms\"\n");
        let receiver = bowline.receive();
        bowline.ok(&["backup"]);
        let workload = Workload::start(&cluster.conninfo());
        // Slow enough for all of it to lie in one segment: without pieces, everything since the backup would be lost.
        workload.wait_for(300);
        receiver.wait_for(3, "piece-stored");
        std::thread::sleep(Duration::from_millis(chance.next(900)));
        let gone_at = SystemClock.now();
        destroy(&cluster, receiver, &mut chance);
        let ledger = workload.stop();
        let restored = bowline.restore(&["--to", "latest"]);
        let missing = missing(&ledger, &restored.psql("SELECT id FROM ledger"));
        assert!(missing.len() < ledger.len() / 2, "{kind:?}: {} of {} commits are gone", missing.len(), ledger.len());
        // The interval, a put, and much room for a machine that does other things too.
        let span = missing
            .first()
            .map_or(Duration::ZERO, |first| Duration::from_micros((gone_at.unix_micros() - first.seen_at.unix_micros()).max(0) as u64));
        assert!(span < Duration::from_secs(5), "{kind:?}: commits of the last {span:?} are gone");
        eprintln!("{kind:?}: {} of {} commits are gone, the last {span:?}", missing.len(), ledger.len());
    }
}

#[test]
fn a_server_that_stops_while_the_store_is_away_is_let_go() {
    for major in majors() {
        let cluster = Cluster::builder(major).wal_segment_mib(1).start();
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        // As it comes it is ten seconds, which make a long test.
        let (grace, limit) = if testkit::full() { ("10s", 15) } else { ("3s", 8) };
        bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &format!("[wal]\nshutdown_grace = \"{grace}\"\n"));
        let receiver = bowline.receive();
        bowline.ok(&["backup"]);
        cluster.psql("CREATE TABLE t (a text)");
        // Once with little WAL that waits, once with more than the receiver takes in: then it reads nothing any more.
        for rows in [10, 20_000] {
            let stopped = {
                let _away = Away::put(&bowline);
                cluster.psql(&format!("INSERT INTO t SELECT md5(i::text) || repeat(md5((-i)::text), 8) FROM generate_series(1, {rows}) AS i"));
                receiver.wait_for(1, "store-retry");
                let begun = Instant::now();
                cluster.pg_ctl_stop(true);
                begun.elapsed()
            };
            eprintln!("PostgreSQL {major}: stopped in {stopped:?} with {rows} rows waiting");
            assert!(stopped < Duration::from_secs(limit), "PostgreSQL {major}: the receiver kept the shutdown for {stopped:?}");
            cluster.start_server();
            wait("the slot to be held again", Duration::from_secs(40), || {
                cluster.psql("SELECT active FROM pg_replication_slots WHERE slot_name = 'bowline'") == "t"
            });
        }
        // The slot kept it all.
        bowline.archive_now();
        let restored = bowline.restore(&["--to", "latest"]);
        assert_eq!(restored.psql("SELECT count(*) FROM t"), "20010", "PostgreSQL {major}");
        assert_eq!(receiver.stop(), Some(0));
    }
}

#[test]
fn a_smart_shutdown_is_not_kept_waiting() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), "[wal]\nstatus_interval = \"200ms\"\n");
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    receiver.wait_for(1, "wal-covered");
    // SIGTERM to the postmaster is a smart shutdown: it waits for sessions, of which a receiver must keep none.
    let pid = nix::unistd::Pid::from_raw(cluster.pid().expect("a postmaster") as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("send SIGTERM");
    wait("the smart shutdown to end", Duration::from_secs(30), || !Path::new(&cluster.data_dir().join("postmaster.pid")).exists());
}

#[test]
fn a_server_that_ranks_the_receiver_by_accident_is_told_nothing() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), "[wal]\nstatus_interval = \"200ms\"\nflush_interval = \"200ms\"\n");
    let receiver = bowline.receive();
    let reported = || cluster.psql("SELECT flush_lsn IS NOT NULL FROM pg_stat_replication WHERE application_name = 'bowline'");
    wait("a flush position", Duration::from_secs(20), || reported() == "t");
    cluster.configure(&[("synchronous_standby_names", "*")]);
    cluster.psql("SELECT pg_reload_conf()");
    receiver.wait_for(1, "ranked-synchronous");
    wait("no flush position", Duration::from_secs(20), || reported() == "f");
    // A receiver that reports nothing looks asynchronous to the server: it must not be fooled by its own silence.
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(100));
        assert_ne!(reported(), "t", "it reports again although it is still named");
    }
    assert_eq!(receiver.log().matches("\"disconnected\"").count(), 1, "one connection is enough");
    bowline.fails(&["backup"], 4, "synchronous-by-accident");
    cluster.configure(&[("synchronous_standby_names", "")]);
    cluster.psql("SELECT pg_reload_conf()");
    wait("a flush position again", Duration::from_secs(20), || reported() == "t");
    cluster.psql("CREATE TABLE t AS SELECT 1");
    assert_eq!(receiver.stop(), Some(0));
}

#[test]
fn a_server_that_streams_but_cannot_be_asked_is_told_of_once_and_once_more_when_it_can() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), "[wal]\nstatus_interval = \"200ms\"\ncoverage_interval = \"1s\"\n");
    let receiver = bowline.receive();
    receiver.wait_for(1, "wal-covered");
    let (hba, postmaster) = (cluster.data_dir().join("pg_hba.conf"), cluster.pid().expect("a postmaster"));
    let let_in = |lines: &str| {
        std::fs::write(&hba, lines).expect("write pg_hba.conf");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(postmaster as i32), nix::sys::signal::Signal::SIGHUP).expect("send SIGHUP");
    };
    let told = |word: &str| receiver.log().lines().filter(|line| line.contains("\"noticed\"") && line.contains(word)).count();
    let_in("local replication all trust\nlocal all all reject\n");
    wait("the refusal to be told", Duration::from_secs(20), || told("no coverage mark moves") == 1);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((told("no coverage mark moves"), told("asked how far it is again")), (1, 0), "{}", receiver.log());
    assert!(receiver.log().contains("pg_hba.conf"), "the cause is not told: {}", receiver.log());
    let_in("local all all trust\nlocal replication all trust\n");
    wait("the end of it to be told", Duration::from_secs(20), || told("asked how far it is again") == 1);
    assert_eq!(receiver.log().matches("\"disconnected\"").count(), 0, "{}", receiver.log());
    assert_eq!(receiver.stop(), Some(0));
}

#[test]
fn commits_that_wait_for_a_store_that_is_away_are_told_of() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), "[wal]\nsynchronous = true\n");
    let receiver = bowline.receive();
    cluster.configure(&[("synchronous_standby_names", "bowline")]);
    cluster.psql("SELECT pg_reload_conf(); CREATE TABLE t (a int)");
    let workload = Workload::start(&cluster.conninfo());
    workload.wait_for(5);
    let away = Away::put(&bowline);
    let begun = Instant::now();
    receiver.wait_for(1, "wal-held-up");
    assert!(begun.elapsed() < Duration::from_secs(5), "told after {:?}", begun.elapsed());
    let told = receiver.log();
    assert!(told.contains("\"commits_wait\":true") && told.contains("ALTER SYSTEM SET synchronous_standby_names"), "{told}");
    let before = workload.so_far().len();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(workload.so_far().len(), before, "a commit was acknowledged that is not stored");
    drop(away);
    receiver.wait_for(1, "wal-flows-again");
    workload.wait_for(5);
}
