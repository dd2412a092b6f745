//! The log on its way to the repository and back by PostgreSQL's own commands: confirmed means stored, absent means proven.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use testkit::bowline::{Receiver, wait};
use testkit::workload::{Pace, lost};
use testkit::{Bowline, Cluster, RepositoryKind, Workload, majors, newest_major, outer_majors};

fn code(mut command: Command) -> i32 {
    let output = command.output().expect("run bowline");
    output.status.code().unwrap_or_else(|| panic!("ended by a signal: {output:?}"))
}

/// The repository's folder, gone for as long as this lives.
struct Away<'a>(&'a Bowline<'a>);

impl<'a> Away<'a> {
    fn put(bowline: &'a Bowline) -> Self {
        std::fs::rename(bowline.dir().join("repository"), bowline.dir().join("away")).expect("put the repository away");
        Self(bowline)
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        std::fs::rename(self.0.dir().join("away"), self.0.dir().join("repository")).expect("bring the repository back");
    }
}

#[test]
fn the_archiver_succeeds_fails_and_recovers_with_the_store() {
    for major in outer_majors() {
        let cluster = Cluster::builder(major).setting("archive_mode", "on").setting("archive_command", "false").start();
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        cluster.configure(&[("archive_command", &bowline.shell("wal push %p"))]);
        cluster.psql("SELECT pg_reload_conf(); SELECT pg_stat_reset_shared('archiver'); CREATE TABLE t (a int)");
        bowline.archive_now();
        let archived = || cluster.psql("SELECT last_archived_wal FROM pg_stat_archiver");
        wait("the server to count it", Duration::from_secs(10), || bowline.wal_files().last() == Some(&archived()));

        let failed = || cluster.psql("SELECT failed_count FROM pg_stat_archiver").parse::<u32>().expect("a count");
        let before = failed();
        let away = Away::put(&bowline);
        let waiting = cluster.psql("INSERT INTO t VALUES (1); SELECT pg_walfile_name(pg_switch_wal())");
        wait("a failure that the server counts", Duration::from_secs(30), || failed() > before);
        assert!(!away.0.dir().join("repository").exists(), "a push must not make a repository");
        assert_ne!(archived(), waiting);
        drop(away);
        // Another segment wakes the archiver, which else sleeps a minute after three failures.
        bowline.archive_now();
        wait("the segment that had to wait", Duration::from_secs(70), || bowline.wal_files().contains(&waiting));

        // Bytes that are not this cluster's next segment.
        let foreign = Cluster::start(major);
        let name = foreign.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
        let path = foreign.data_dir().join("pg_wal").join(&name);
        bowline.fails(&["wal", "push", path.to_str().expect("a plain path")], 4, "system-id-foreign");
        let first = bowline.wal_files()[0].clone();
        let forged = bowline.dir().join(&first);
        let later = cluster.data_dir().join("pg_wal").join(cluster.psql("INSERT INTO t VALUES (2); SELECT pg_walfile_name(pg_current_wal_lsn())"));
        std::fs::copy(&later, &forged).expect("copy a segment under another's name");
        std::fs::set_permissions(&forged, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("let it be read");
        bowline.fails(&["wal", "push", forged.to_str().expect("a plain path")], 6, "wal-bad");
        std::fs::write(&forged, b"half a segment").expect("write");
        bowline.fails(&["wal", "push", forged.to_str().expect("a plain path")], 6, "wal-bad");
    }
}

#[test]
fn a_fetch_says_absent_only_when_it_is_proven() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.ok(&["backup"]);
    let stored = bowline.wal_files().last().expect("a segment").clone();
    let to = bowline.dir().join("fetched");
    let to = to.to_str().expect("a plain path");
    let fetch = |name: &str| bowline.command(&["wal", "fetch", name, to]);
    assert_eq!(code(fetch(&stored)), 0);
    assert_eq!(std::fs::read(to).expect("fetched"), std::fs::read(cluster.data_dir().join("pg_wal").join(&stored)).expect("read"));
    for absent in ["0000000100000000000000F0", "00000002.history", "00000009.history"] {
        assert_eq!(code(fetch(absent)), 1, "{absent}");
    }
    // A later timeline is stored, and the one before it is not: whoever looks for the newest must not stop there.
    let history = bowline.dir().join("00000003.history");
    std::fs::write(&history, "1\t0/1000000\tno recovery target specified\n").expect("write a history");
    bowline.ok(&["wal", "push", history.to_str().expect("a plain path")]);
    let fetch_in = |folder: &str, name: &str| {
        let mut command = fetch(name);
        command.current_dir(bowline.dir().join(folder));
        command
    };
    for (folder, file, text) in [
        ("newest", "postgresql.auto.conf", "recovery_target_timeline = '1'\nrecovery_target_timeline = 'latest'\n"),
        ("told", "postgresql.auto.conf", "recovery_target_timeline = '1'\n"),
        ("standby", "standby.signal", ""),
    ] {
        let folder = bowline.dir().join(folder);
        std::fs::create_dir(&folder).and_then(|()| std::fs::write(folder.join(file), text)).expect("write");
    }
    for (folder, expected) in [(".", 200), ("newest", 200), ("told", 1), ("standby", 1)] {
        assert_eq!(code(fetch_in(folder, "00000002.history")), expected, "{folder}");
        assert_eq!(code(fetch_in(folder, "00000003.history")), 0, "{folder}");
        assert_eq!(code(fetch_in(folder, "00000004.history")), 1, "{folder}");
        assert_eq!(code(fetch_in(folder, "00000001.history")), 1, "{folder}: the first timeline has none");
    }
    let said = fetch("00000002.history").output().expect("run bowline").stderr;
    let said = String::from_utf8_lossy(&said).into_owned();
    for wanted in ["00000002.history", "timeline 3 is", "recovery_target_timeline = '3'", "bowline restore", "[timeline-skipped]"] {
        assert!(said.contains(wanted), "no {wanted} in {said}");
    }
    let standby = bowline.dir().join("standby");
    let name = stored.as_str();
    for words in [&["wal", "fetch", "--no-such-option", name, to][..], &["wal", "--quiet", "fetch", "--no-such-option", name, to]] {
        let mut wrong_words = bowline.command(words);
        wrong_words.stderr(Stdio::null());
        assert!(code(wrong_words) > 125, "{words:?}");
    }
    // Nothing can be printed, which is a panic: the disk with the server's log is full.
    for words in [&["wal", "fetch", "--supply", "/nowhere", name, to][..], &["wal", "--quiet", "fetch", "--supply", "/nowhere", name, to]] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("open /dev/full");
        let status = bowline.command(words).stderr(full).status().expect("run bowline");
        assert_eq!(status.code(), Some(200), "{words:?}");
    }
    let _away = Away::put(&bowline);
    for name in [&stored, "0000000100000000000000F0", "00000002.history"] {
        assert!(code(fetch(name)) > 125, "{name}: a store that cannot be reached proves nothing");
        let mut by_a_standby = fetch(name);
        assert_eq!(
            code({
                by_a_standby.current_dir(&standby);
                by_a_standby
            }),
            1,
            "{name}: a standby asks again"
        );
    }
}

#[test]
fn a_recovery_whose_store_vanishes_ends_and_never_promotes() {
    for major in outer_majors() {
        let cluster = Cluster::builder(major).wal_segment_mib(1).start();
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        cluster.psql("CREATE TABLE t (a int)");
        let _receiver = bowline.receive();
        bowline.ok(&["backup"]);
        let mut segments = Vec::new();
        for i in 0..30 {
            segments.push(cluster.psql(&format!("INSERT INTO t VALUES ({i}); SELECT pg_walfile_name(pg_switch_wal())")));
        }
        bowline.archive_now();
        let data = bowline.new_target();
        let text = data.to_str().expect("a plain path");
        bowline.ok(&["restore", "--yes", "--files-only", "--target", text]);
        // The store goes away as soon as the fifth segment is asked for; up to eight more are spooled.
        let auto = data.join("postgresql.auto.conf");
        let written = std::fs::read_to_string(&auto).expect("read");
        let vanish = format!(
            "if [ %f = {} ]; then mv {dir}/repository {dir}/away; fi; {}",
            segments[5],
            bowline.shell("wal fetch %f %p"),
            dir = bowline.dir().display()
        );
        std::fs::write(&auto, format!("{written}restore_command = '{vanish}'\n")).expect("write");
        let said = Cluster::try_open(major, &data).expect_err("recovery must not end as if it had succeeded");
        assert!(said.contains("FATAL"), "{said}");
        assert!(bowline.dir().join("away").exists() && !data.join("pg_wal/00000002.history").exists(), "PostgreSQL {major}: {said}");
        std::fs::rename(bowline.dir().join("away"), bowline.dir().join("repository")).expect("bring the repository back");
        std::fs::write(&auto, written).expect("write");
        let recovered = Cluster::open(major, &data);
        wait("recovery's end", Duration::from_secs(60), || recovered.try_psql("SELECT pg_is_in_recovery()") == Ok("f".into()));
        assert_eq!(recovered.psql("SELECT count(*) FROM t"), "30", "PostgreSQL {major}");
    }
}

/// Where the stored log ends that has no gap before it, by the names of 1 MiB segments; panics at a gap.
fn stored_end(bowline: &Bowline) -> u64 {
    let part = |name: &str, at| u64::from_str_radix(&name[at..at + 8], 16).expect("hexadecimal");
    let numbers: Vec<u64> = bowline.wal_files().iter().filter(|name| name.len() == 24).map(|name| part(name, 8) * 4096 + part(name, 16)).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a gap: {:?}", bowline.wal_files());
    numbers.last().map_or(0, |last| (last + 1) << 20)
}

fn slot_is_never_ahead(cluster: &Cluster, bowline: &Bowline) {
    // Asked first: what is stored may only grow meanwhile.
    let held = cluster.psql("SELECT restart_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = 'bowline'");
    let held: u64 = held.parse().expect("a position");
    // Uploads run side by side, so a later one may land first; what counts is the stretch without a gap.
    let end = std::panic::catch_unwind(|| stored_end(bowline));
    if let Ok(end) = end {
        assert!(end == 0 || held <= end, "the slot lets go at {held}, stored is {end}");
    }
}

fn streams_again(cluster: &Cluster, receiver: &Receiver) {
    let active = || cluster.psql("SELECT active FROM pg_replication_slots WHERE slot_name = 'bowline'") == "t";
    wait(&format!("the receiver to stream again: {}", receiver.log()), Duration::from_secs(40), active);
}

#[test]
fn a_receiver_survives_shutdowns_and_kills_without_a_gap() {
    for major in outer_majors() {
        let cluster = Cluster::builder(major).wal_segment_mib(1).start();
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        let pace = || Pace { clients: 2, payload_bytes: 4000, ..Pace::default() };
        let receiver = bowline.receive();
        bowline.ok(&["backup"]);
        let workload = Workload::start_at(&cluster.conninfo(), pace());
        for _ in 0..10 {
            workload.wait_for(50);
            slot_is_never_ahead(&cluster, &bowline);
        }
        let mut ledger = workload.stop();
        let begun = Instant::now();
        cluster.pg_ctl_stop(true);
        assert!(begun.elapsed() < Duration::from_secs(30), "PostgreSQL {major}: the receiver kept the shutdown for {:?}", begun.elapsed());
        cluster.start_server();
        streams_again(&cluster, &receiver);

        let workload = Workload::start_at(&cluster.conninfo(), pace());
        workload.wait_for(500);
        receiver.kill9();
        workload.wait_for(500);
        slot_is_never_ahead(&cluster, &bowline);
        wait("the server to see the receiver gone", Duration::from_secs(30), || {
            cluster.psql("SELECT active FROM pg_replication_slots WHERE slot_name = 'bowline'") == "f"
        });
        let receiver = bowline.receive();
        workload.wait_for(200);
        ledger.extend(workload.stop());
        bowline.archive_now();
        assert!(stored_end(&bowline) > 0);
        let restored = bowline.restore(&["--to", "latest"]);
        let there = restored.psql("SELECT count(*) FROM ledger");
        assert_eq!(there, ledger.len().to_string(), "PostgreSQL {major}");
        assert_eq!(lost(&ledger, &cluster), []);
        assert_eq!(receiver.stop(), Some(0));
        assert!(Path::new(&restored.data).exists());
    }
}

/// PostgreSQL's own message advises to remove backup_label; who does must not get a server that lacks what was written while it was copied.
#[test]
fn restored_files_start_nowhere_without_their_label() {
    for major in majors() {
        let cluster = Cluster::start(major);
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
        bowline.ok(&["backup"]);
        let data = bowline.new_target();
        bowline.ok(&["restore", "--yes", "--files-only", "--target", data.to_str().expect("a plain path")]);
        let (label, kept) = (data.join("backup_label"), bowline.dir().join("label"));
        std::fs::rename(&label, &kept).expect("move it");
        let said = Cluster::try_open(major, &data).expect_err("it must not start");
        assert!(said.contains("could not locate a valid checkpoint record") || said.contains("could not locate required checkpoint"), "{said}");
        std::fs::rename(&kept, &label).expect("move it back");
        let recovered = Cluster::open(major, &data);
        wait("recovery's end", Duration::from_secs(60), || recovered.try_psql("SELECT pg_is_in_recovery()") == Ok("f".into()));
        assert_eq!(recovered.psql("SELECT count(*) FROM t"), "1000", "PostgreSQL {major}");
    }
}
