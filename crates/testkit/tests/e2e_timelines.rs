//! Timelines as failovers leave them: ids that skip, switches within one segment, ancestors' histories, strangers, and slots
//! on all that may take over.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use terms::Lsn;
use testkit::bowline::{Receiver, wait};
use testkit::damage::never_promoted;
use testkit::workload::{Pace, missing};
use testkit::{Acknowledged, Bowline, Cluster, RepositoryKind, Workload, full, majors, newest_major};

const QUICK: &str = "[wal]\nstatus_interval = \"300ms\"\nflush_interval = \"300ms\"\n";

/// A connection string that names all of these, and further sockets' folders.
fn any_of(servers: &[&Cluster], nowhere: &[&str]) -> String {
    let hosts: Vec<String> = servers.iter().map(|s| s.socket_dir().display().to_string()).chain(nowhere.iter().map(|s| (*s).to_owned())).collect();
    format!("host={} port={} user=postgres dbname=postgres", hosts.join(","), servers[0].port())
}

fn streams_on(receiver: &Receiver, timeline: u32) {
    let word = format!("\"slot\":\"bowline\",\"timeline\":{timeline}");
    wait(&format!("the receiver to stream timeline {timeline}"), Duration::from_secs(60), || receiver.log().contains(&word));
}

fn all_is_stored(server: &Cluster) {
    let written = server.psql("SELECT pg_current_wal_flush_lsn()");
    wait(&format!("WAL to {written} to be stored"), Duration::from_secs(30), || {
        server.psql(&format!("SELECT flush_lsn >= '{written}' FROM pg_stat_replication WHERE application_name = 'bowline'")) == "t"
    });
}

fn commit(server: &Cluster, rows: usize) -> Vec<Acknowledged> {
    let workload = Workload::start_at(&server.conninfo(), Pace { payload_bytes: 3000, ..Pace::default() });
    workload.wait_for(rows);
    workload.stop()
}

fn histories(bowline: &Bowline) -> Vec<String> {
    bowline.wal_files().into_iter().filter(|name| name.ends_with(".history")).collect()
}

fn slot_is_past(server: &Cluster, lsn: &str) -> bool {
    server.psql(&format!("SELECT restart_lsn > '{lsn}' FROM pg_replication_slots WHERE slot_name = 'bowline'")) == "t"
}

#[test]
fn two_failovers_that_the_receiver_did_not_see_are_followed() {
    for major in if full() { majors() } else { vec![newest_major()] } {
        // Once over many segments, once with three timelines in one.
        for mib in [16, 1] {
            let what = format!("PostgreSQL {major}, segments of {mib} MiB");
            let one = Cluster::builder(major).wal_segment_mib(mib).setting("wal_keep_size", "256MB").start();
            let two = one.standby();
            let four = two.standby();
            let bowline = Bowline::new(&one, RepositoryKind::Folder);
            // The second primary is never seen.
            bowline.configure(&any_of(&[&one, &four], &[]), Some(one.data_dir()), QUICK);
            let receiver = bowline.receive();
            bowline.ok(&["backup"]);
            let mut ledger = commit(&one, 400);
            all_is_stored(&one);
            assert_eq!(receiver.stop(), Some(0));

            ledger.extend(commit(&one, 50));
            two.catch_up(&one);
            one.kill9();
            two.promote();
            ledger.extend(commit(&two, 400));
            let in_the_middle = ledger.last().and_then(|commit| commit.inserted_to).expect("asked");
            let until_then = ledger.clone();
            ledger.extend(commit(&two, 50));
            wait("the second standby to follow", Duration::from_secs(60), || {
                let end = two.psql("SELECT pg_current_wal_flush_lsn()");
                four.psql(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")) == "t"
            });
            two.kill9();
            // Somebody tried timeline 3 elsewhere once: its history is known here, so the server takes the number after.
            let fork = format!("1\t{}\tno recovery target specified\n", "0/1000000");
            fs::write(four.data_dir().join("pg_wal/00000003.history"), fork).expect("write a history");
            four.promote();
            ledger.extend(commit(&four, 10));

            let receiver = bowline.receive();
            streams_on(&receiver, 4);
            ledger.extend(commit(&four, 400));
            all_is_stored(&four);
            assert_eq!(histories(&bowline), ["00000002.history", "00000004.history"], "{what}");
            let audit = bowline.ok(&["wal", "audit"]);
            assert!(audit["whole"] == true && audit["proven"] == true, "{what}: {audit}");
            let restored = bowline.restore(&["--to", "latest"]);
            let ids = restored.psql("SELECT id FROM ledger");
            assert_eq!(missing(&ledger, &ids), [], "{what}: {}", restored.result);
            assert_eq!(ids.lines().count(), ledger.len(), "{what}");
            drop(restored);
            let restored = bowline.restore(&["--to", &in_the_middle.to_string()]);
            let ids = restored.psql("SELECT id FROM ledger");
            assert_eq!(missing(&until_then, &ids), [], "{what} to {in_the_middle}");
            assert_eq!(ids.lines().count(), until_then.len(), "{what} to {in_the_middle}");

            // Each connection stores whatever history is missing, also an ancestor's.
            receiver.kill9();
            fs::remove_file(bowline.object("/00000002.history")).expect("remove a history");
            let receiver = bowline.receive();
            assert_eq!(histories(&bowline), ["00000002.history", "00000004.history"], "{what}");
            assert_eq!(receiver.stop(), Some(0));
        }
    }
}

/// Somebody promoted a copy, which archived into the same repository; then the primary failed over.
#[test]
fn a_time_that_a_copy_lived_through_as_well_is_asked_back() {
    let primary = Cluster::builder(newest_major()).wal_segment_mib(1).setting("wal_keep_size", "256MB").setting("autovacuum", "off").start();
    let (copy, next) = (primary.standby(), primary.standby());
    let bowline = Bowline::new(&primary, RepositoryKind::Folder);
    primary.psql("CREATE TABLE t (a int)");
    bowline.ok(&["backup"]);
    let step = |server: &Cluster, a: u32| {
        let at = server.psql(&format!("INSERT INTO t VALUES ({a}); SELECT clock_timestamp()"));
        server.psql("SELECT pg_logical_emit_message(true, 'e2e', 'end of the segment'), pg_switch_wal()");
        std::thread::sleep(Duration::from_millis(20));
        at
    };
    step(&primary, 1);
    copy.catch_up(&primary);
    copy.promote();
    let before = step(&primary, 2);
    step(&copy, 102);
    let both = step(&primary, 3);
    step(&copy, 103);
    next.catch_up(&primary);
    bowline.push_finished(&primary);
    primary.pg_ctl_stop(true);
    // It asks the archive which number comes next.
    let history = fs::read(copy.data_dir().join("pg_wal/00000002.history")).expect("the copy's history");
    fs::write(next.data_dir().join("pg_wal/00000002.history"), history).expect("write a history");
    next.promote();
    assert_eq!(next.psql("CHECKPOINT; SELECT timeline_id FROM pg_control_checkpoint()"), "3");
    let after = step(&next, 4);
    step(&next, 5);
    for server in [&copy, &next] {
        bowline.push_finished(server);
    }
    for indexed in [false, true] {
        if indexed {
            bowline.ok(&["wal", "audit"]);
        }
        for at in [&both, &after] {
            let (text, data) = bowline.restore_fails(&["--to", at], 4, "timeline-ambiguous");
            for wanted in ["Timeline 2 ", "Timeline 3", "until", "--timeline 2", "--timeline 3"] {
                assert!(text.contains(wanted), "no {wanted} in\n{text}");
            }
            assert!(!text.contains("--timeline 1") && !data.exists(), "{text}");
        }
        let plan = bowline.ok(&["restore", "--plan", "--to", &before]);
        assert_eq!(plan["plan"]["timeline"].to_string().trim_matches('"'), "3", "the copy had no transaction of its own then: {plan}");
    }
    let rows = |timeline: &str| {
        let restored = bowline.restore(&["--to", &both, "--timeline", timeline]);
        restored.psql("SELECT string_agg(a::text, ',' ORDER BY a) FROM t")
    };
    assert_eq!((rows("3").as_str(), rows("2").as_str()), ("1,2,3", "1,102"));
}

#[test]
fn a_live_primary_goes_on_after_a_promoted_copy_was_tried_out() {
    let primary = Cluster::builder(newest_major()).wal_segment_mib(1).setting("wal_keep_size", "256MB").start();
    let (copy, next) = (primary.standby(), primary.standby());
    let bowline = Bowline::new(&primary, RepositoryKind::Folder);
    let lead_to = |server: &Cluster| bowline.configure(&server.conninfo(), Some(primary.data_dir()), QUICK);
    let has_exactly = |words: &[&str], ledger: &[Acknowledged]| {
        let restored = bowline.restore(words);
        let ids = restored.psql("SELECT id FROM ledger");
        assert_eq!(missing(ledger, &ids), [], "{words:?}: {}", restored.result);
        assert_eq!(ids.lines().count(), ledger.len(), "{words:?}");
    };
    lead_to(&primary);
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    let before = commit(&primary, 100);
    all_is_stored(&primary);
    assert_eq!(receiver.stop(), Some(0));
    copy.catch_up(&primary);
    copy.promote();
    lead_to(&copy);
    let receiver = bowline.receive();
    let tried = [before.clone(), commit(&copy, 800)].concat();
    all_is_stored(&copy);
    let marks = |line: &str| line.contains("\"wal-covered\"") && line.contains("\"timeline\":2");
    wait("a coverage mark of the trial", Duration::from_secs(30), || receiver.log().lines().any(marks));
    assert_eq!(receiver.stop(), Some(0));

    // The primary has only an older timeline, and its slot is gone: the WAL of these commits is held by nothing.
    lead_to(&primary);
    let text = bowline.fails(&["wal", "receive"], 4, "server-demoted");
    assert!(text.contains("--accept-older-timeline"), "{text}");
    primary.psql("SELECT pg_drop_replication_slot('bowline')");
    let mut ledger = [before, commit(&primary, 800)].concat();
    let receiver = bowline.start_receiver(&["--accept-older-timeline"]);
    streams_on(&receiver, 1);
    ledger.extend(commit(&primary, 100));
    all_is_stored(&primary);
    has_exactly(&["--to", "latest", "--timeline", "1"], &ledger);
    has_exactly(&["--to", "latest", "--timeline", "2"], &tried);
    assert_eq!(receiver.stop(), Some(0));

    // Its successor is on a newer timeline than the trial's, which it never was on: somewhere it has heard of that number.
    next.catch_up(&primary);
    primary.kill9();
    fs::write(next.data_dir().join("pg_wal/00000002.history"), "1\t0/100000\tno recovery target specified\n").expect("write a history");
    next.promote();
    ledger.extend(commit(&next, 800));
    lead_to(&next);
    let text = bowline.fails(&["wal", "receive"], 4, "timeline-foreign");
    assert!(text.contains("--accept-older-timeline"), "{text}");
    let receiver = bowline.start_receiver(&["--accept-older-timeline"]);
    streams_on(&receiver, 3);
    all_is_stored(&next);
    receiver.wait_for(1, "wal-covered");
    let gaps = receiver.log().matches("\"wal-gap\"").count();
    assert_eq!(gaps, 0, "{}", receiver.log());
    has_exactly(&["--to", "latest"], &ledger);
    has_exactly(&["--to", "latest", "--timeline", "2"], &tried);
    // Now that its own timeline is the newest, nobody need say so again.
    assert_eq!(receiver.stop(), Some(0));
    let receiver = bowline.receive();
    streams_on(&receiver, 3);
    assert_eq!(receiver.stop(), Some(0));
}

/// A server that somebody recovers by hand, told to follow the newest timeline, asks for the history of one number after the other; told which
/// one, it asks once more at the end, for a number that is free.
#[test]
fn a_server_that_looks_for_the_newest_timeline_is_stopped_where_a_number_is_missing_and_one_that_is_told_is_not() {
    let major = newest_major();
    let primary = Cluster::builder(major).wal_segment_mib(1).setting("wal_keep_size", "256MB").setting("autovacuum", "off").start();
    let next = primary.standby();
    let bowline = Bowline::new(&primary, RepositoryKind::Folder);
    let row = |server: &Cluster, a: u32| {
        server.psql(&format!("INSERT INTO t VALUES ({a})"));
        server.psql("SELECT pg_logical_emit_message(true, 'e2e', 'end of the segment'), pg_switch_wal()");
    };
    primary.psql("CREATE TABLE t (a int)");
    bowline.ok(&["backup"]);
    row(&primary, 1);
    next.catch_up(&primary);
    bowline.push_finished(&primary);
    primary.pg_ctl_stop(true);
    // Somewhere it has heard of timeline 2, so it takes the number after; here nobody knows of it.
    let heard_of = next.data_dir().join("pg_wal/00000002.history");
    fs::write(&heard_of, "1\t0/100000\tno recovery target specified\n").expect("write a history");
    next.promote();
    fs::remove_file(&heard_of).expect("forget it");
    row(&next, 3);
    bowline.push_finished(&next);
    assert_eq!(histories(&bowline), ["00000003.history"]);

    let files = |more: &str| {
        let data = bowline.new_target();
        bowline.ok(&["restore", "--yes", "--files-only", "--timeline", "1", "--target", data.to_str().expect("a plain path")]);
        let auto = data.join("postgresql.auto.conf");
        let written = fs::read_to_string(&auto).expect("read");
        fs::write(auto, written + more).expect("write");
        data
    };
    let recovered = |data: &Path| {
        let server = Cluster::open(major, data);
        wait("recovery's end", Duration::from_secs(60), || server.try_psql("SELECT pg_is_in_recovery()") == Ok("f".into()));
        let rows = server.psql("SELECT string_agg(a::text, ',' ORDER BY a) FROM t");
        (rows, server.psql("CHECKPOINT; SELECT timeline_id FROM pg_control_checkpoint()"))
    };
    let data = files("recovery_target_timeline = 'latest'\n");
    let said = Cluster::try_open(major, &data).map(|_| ()).expect_err("it must not be promoted without row 3");
    for wanted in ["FATAL", "00000002.history", "timeline 3 is", "recovery_target_timeline = '3'"] {
        assert!(said.contains(wanted), "no {wanted} in {said}");
    }
    never_promoted(&data, 1, "recovered to the newest timeline");
    // What the hint says.
    let auto = data.join("postgresql.auto.conf");
    let written = fs::read_to_string(&auto).expect("read");
    fs::write(auto, written + "recovery_target_timeline = '3'\n").expect("write");
    assert_eq!(recovered(&data), ("1,3".to_owned(), "4".to_owned()));
    // As Bowline wrote it: along timeline 1, and the number that is free becomes the new one.
    assert_eq!(recovered(&files("")), ("1".to_owned(), "2".to_owned()));
    let restored = bowline.restore(&["--to", "latest", "--timeline", "1"]);
    assert_eq!(restored.psql("SELECT string_agg(a::text, ',' ORDER BY a) FROM t"), "1");
}

#[test]
fn a_stranger_is_refused_at_every_door() {
    let (own, stranger) = (Cluster::start(newest_major()), Cluster::start(newest_major()));
    let bowline = Bowline::new(&own, RepositoryKind::Folder);
    bowline.ok(&["backup"]);
    let stored = bowline.wal_files();
    let segment = stranger.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    stranger.psql("CREATE TABLE t AS SELECT 1; SELECT pg_switch_wal()");
    let segment = stranger.data_dir().join("pg_wal").join(segment);
    bowline.fails(&["wal", "push", segment.to_str().expect("a plain path")], 4, "system-id-foreign");
    bowline.configure(&stranger.conninfo(), Some(stranger.data_dir()), QUICK);
    bowline.fails(&["wal", "receive"], 4, "system-id-foreign");
    // A server asks in its own data directory; it must not take "not there" for the end of the log.
    let fetched = bowline.command(&["wal", "fetch", "000000010000000000000001", "pg_wal/RECOVERYXLOG"]).current_dir(stranger.data_dir()).output();
    let fetched = fetched.expect("run wal fetch");
    assert_eq!(fetched.status.code(), Some(200), "{}", String::from_utf8_lossy(&fetched.stderr));
    assert!(String::from_utf8_lossy(&fetched.stderr).contains("system"), "{fetched:?}");
    assert_eq!(bowline.wal_files(), stored, "nothing of it was stored");
}

#[test]
fn every_standby_that_can_be_reached_keeps_a_slot() {
    let primary = Cluster::builder(newest_major()).wal_segment_mib(1).start();
    let (left, right) = (primary.standby(), primary.standby());
    let bowline = Bowline::new(&primary, RepositoryKind::Folder);
    bowline.configure(&any_of(&[&primary, &left, &right], &["/nowhere/at/all"]), Some(primary.data_dir()), QUICK);
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    let slots = |server: &Cluster| server.psql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'bowline' AND restart_lsn IS NOT NULL");
    for standby in [&left, &right] {
        wait("a slot on each standby", Duration::from_secs(20), || slots(standby) == "1");
    }
    let written = commit(&primary, 800);
    let stored_to = primary.psql("SELECT pg_current_wal_flush_lsn()");
    all_is_stored(&primary);
    for standby in [&left, &right] {
        let behind: Lsn = stored_to.parse().expect("an LSN");
        let behind = Lsn::from_bytes(behind.bytes() - (1 << 20));
        wait("each standby's slot to move along", Duration::from_secs(20), || slot_is_past(standby, &behind.to_string()));
    }
    // One goes and is told of once, as is the one that never was; then it comes back and is tended again.
    right.pg_ctl_stop(true);
    let told = |place: &str| receiver.log().matches(&format!("standby {place}")).count();
    let nowhere = "/nowhere/at/all";
    wait("the loss of a standby to be told", Duration::from_secs(20), || cannot(&receiver, &right.socket_dir()) == 1);
    let after = commit(&primary, 800);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((cannot(&receiver, &right.socket_dir()), cannot(&receiver, &PathBuf::from(nowhere))), (1, 1), "{}", receiver.log());
    assert_eq!(told(&left.socket_dir().display().to_string()), 1, "that its slot was made, and nothing else: {}", receiver.log());
    right.start_server();
    let again = format!("standby {}/.s.PGSQL.5432 keeps WAL for slot bowline again", right.socket_dir().display());
    wait("the standby's return to be told", Duration::from_secs(20), || receiver.log().contains(&again));
    all_is_stored(&primary);
    let stored_to = slots_target(&primary);
    for standby in [&left, &right] {
        wait("each standby's slot to move along", Duration::from_secs(20), || slot_is_past(standby, &stored_to));
    }
    // Whichever takes over has what the repository lacks.
    left.catch_up(&primary);
    let ledger = [written, after].concat();
    primary.kill9();
    left.promote();
    streams_on(&receiver, 2);
    let ledger = [ledger, commit(&left, 100)].concat();
    all_is_stored(&left);
    assert_eq!(bowline.ok(&["wal", "audit"])["proven"], true);
    let restored = bowline.restore(&["--to", "latest"]);
    assert_eq!(missing(&ledger, &restored.psql("SELECT id FROM ledger")), []);
    assert_eq!(receiver.stop(), Some(0));
}

/// One MiB before where the server is.
fn slots_target(server: &Cluster) -> String {
    let now: Lsn = server.psql("SELECT pg_current_wal_flush_lsn()").parse().expect("an LSN");
    Lsn::from_bytes(now.bytes() - (1 << 20)).to_string()
}

/// How often it was told that this standby cannot keep WAL.
fn cannot(receiver: &Receiver, place: &Path) -> usize {
    let place = place.display().to_string();
    receiver.log().lines().filter(|line| line.contains(&place) && line.contains("cannot keep WAL")).count()
}
