//! A store that is slow, away, silent or failing every so often: the server is answered all the while, nothing is confirmed early,
//! memory stays bounded, and the receiver catches up by itself.

#[path = "slow_store/ground.rs"]
mod ground;

use ground::{Repository, caught_up, restored_has, watched, write_wal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use testkit::bowline::{Receiver, wait};
use testkit::toxiproxy::{self, Direction};
use testkit::workload::Pace;
use testkit::{Bowline, Cluster, Proxy, RepositoryKind, Toxic, Workload, full, newest_major};

const QUICK: &str = "[wal]\nstatus_interval = \"1s\"\nflush_interval = \"300ms\"\n";
const PEAK_KIB_MAX: u64 = 128 << 10;
const TIMED_OUT: &str = "terminating walsender process due to replication timeout";

fn seconds(ordinary: u64, long: u64) -> Duration {
    Duration::from_secs(if full() { long } else { ordinary })
}

fn impatient() -> Cluster {
    Cluster::builder(newest_major()).setting("wal_sender_timeout", "4s").setting("max_wal_size", "4GB").start()
}

/// Some commits all the time.
fn steady(cluster: &Cluster) -> Workload {
    Workload::start_at(&cluster.conninfo(), Pace { clients: 2, payload_bytes: 500, rest: Duration::from_millis(20) })
}

/// Writes this much evenly over this time.
fn write_for(cluster: &Cluster, mib: u64, time: Duration) {
    let begun = Instant::now();
    let steps = time.as_secs().max(1);
    for step in 1..=steps {
        write_wal(cluster, mib * step / steps - mib * (step - 1) / steps);
        std::thread::sleep(Duration::from_secs(step).saturating_sub(begun.elapsed()));
    }
}

fn peak_is_bounded(receiver: &Receiver) {
    let peak = receiver.peak_kib();
    eprintln!("the receiver's peak: {} MiB", peak >> 10);
    assert!(peak < PEAK_KIB_MAX, "the receiver held {} MiB at once", peak >> 10);
}

fn never_timed_out(cluster: &Cluster) {
    assert!(!cluster.log().contains(TIMED_OUT), "the server ended the connection for want of answers");
}

fn told(receiver: &Receiver, event: &str) -> usize {
    receiver.log().matches(&format!("\"event\":\"{event}\"")).count()
}

/// A receiver under load, whose store misbehaves as `trouble` says; afterwards it must catch up, and nothing may be lost.
fn through(more: &str, trouble: impl FnOnce(&Cluster, &Proxy, &Receiver)) {
    let cluster = impatient();
    let proxy = toxiproxy::s3();
    let bowline = Bowline::new(&cluster, RepositoryKind::S3Through(&proxy));
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &format!("{QUICK}{more}"));
    bowline.ok(&["backup"]);
    let receiver = bowline.receive();
    let workload = steady(&cluster);
    caught_up(&cluster, Duration::from_secs(60));
    let repository = Repository::of(&bowline, &cluster);
    let looks = watched(&cluster, &repository, || {
        trouble(&cluster, &proxy, &receiver);
        proxy.heal();
        caught_up(&cluster, Duration::from_secs(120));
    });
    assert!(looks > 3, "only {looks} looks were taken");
    workload.wait_for(10);
    assert!(workload.endings().is_empty(), "{:?}", workload.endings());
    let ledger = workload.stop();
    caught_up(&cluster, Duration::from_secs(60));
    never_timed_out(&cluster);
    peak_is_bounded(&receiver);
    assert_eq!(receiver.stop(), Some(0));
    restored_has(&bowline, &ledger);
    let audit = bowline.ok(&["wal", "audit"]);
    assert_eq!(audit["whole"], true, "{audit}");
}

#[test]
fn a_receiver_that_is_told_to_stop_lets_land_what_is_on_its_way() {
    let cluster = Cluster::builder(newest_major()).wal_segment_mib(1).start();
    let proxy = toxiproxy::s3();
    let bowline = Bowline::new(&cluster, RepositoryKind::S3Through(&proxy));
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), QUICK);
    bowline.ok(&["backup"]);
    let receiver = bowline.receive();
    caught_up(&cluster, Duration::from_secs(60));
    proxy.add(Toxic::Latency(Duration::from_millis(500)), Direction::Downstream);
    cluster.psql("SELECT pg_logical_emit_message(false, 'e2e', 'switch')");
    let segment = cluster.psql("SELECT pg_walfile_name(pg_switch_wal())");
    let sent = || cluster.psql("SELECT sent_lsn >= pg_current_wal_lsn() FROM pg_stat_replication WHERE application_name = 'bowline'") == "t";
    wait("the segment to be sent", Duration::from_secs(20), sent);
    assert_eq!(receiver.stop(), Some(0));
    proxy.heal();
    let audit = &bowline.ok(&["wal", "audit", "--no-read"])["audit"];
    let end = cluster.psql(&format!("SELECT ('0/0'::pg_lsn + (('x' || substr('{segment}', 17))::bit(32)::int + 1)::numeric * 1048576)::text"));
    assert_eq!(audit["to"]["lsn"], end, "{audit:#}");
}

#[test]
fn a_store_that_answers_after_two_seconds_is_kept_up_with() {
    through("", |cluster, proxy, receiver| {
        proxy.add(Toxic::Latency(Duration::from_secs(2)), Direction::Downstream);
        write_for(cluster, if full() { 400 } else { 40 }, seconds(8, 100));
        // The link is still slow.
        caught_up(cluster, Duration::from_secs(60));
        assert_eq!(told(receiver, "disconnected"), 0, "{}", receiver.log());
    });
}

#[test]
fn while_the_store_is_away_the_server_is_answered_and_memory_stays_bounded() {
    through("", |cluster, proxy, receiver| {
        proxy.down();
        write_for(cluster, 220, seconds(12, 150));
        assert_eq!(told(receiver, "disconnected"), 0, "{}", receiver.log());
        let shown = cluster.psql("SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), flush_lsn) > 200 << 20 FROM pg_stat_replication");
        assert_eq!(shown, "t", "what is not stored was confirmed");
    });
}

#[test]
fn a_store_that_is_away_for_longer_than_the_lease_lasts_ends_the_turn_and_begins_another() {
    through("lease_ttl = \"6s\"\n", |cluster, proxy, receiver| {
        proxy.down();
        write_for(cluster, 40, seconds(9, 60));
        let log = receiver.log();
        assert!(log.contains("\"event\":\"disconnected\"") && log.contains("lease"), "{log}");
        let held = cluster.psql("SELECT active FROM pg_replication_slots WHERE slot_name = 'bowline'");
        assert_eq!(held, "f", "one that cannot prove its turn streams no more");
        assert_eq!(told(receiver, "wal-streaming"), 1, "{log}");
        proxy.up();
        receiver.wait_for(2, "wal-streaming");
    });
}

#[test]
fn a_store_that_fails_every_so_often_is_tried_until_it_works() {
    through("", |cluster, proxy, receiver| {
        // Of the connections one in five is cut before an answer comes, and all of them when the store is down, a fifth of the time.
        proxy.add_to(0.2, Toxic::ResetPeer(Duration::from_millis(100)), Direction::Downstream);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    proxy.down();
                    std::thread::sleep(Duration::from_millis(200));
                    proxy.up();
                    std::thread::sleep(Duration::from_millis(800));
                }
            });
            write_for(cluster, if full() { 500 } else { 60 }, seconds(8, 100));
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(told(receiver, "disconnected"), 0, "{}", receiver.log());
    });
}

#[test]
fn a_piece_whose_put_happened_without_an_answer_is_found_done() {
    through("", |_, proxy, receiver| {
        // Requests arrive, answers do not; then nothing does.
        proxy.add(Toxic::ResetPeer(Duration::from_millis(300)), Direction::Downstream);
        std::thread::sleep(Duration::from_secs(2));
        proxy.down();
        std::thread::sleep(Duration::from_secs(2));
        if !full() {
            // The store's own repetitions find it. That they may have ended by then is shown in crates/repo/tests.
            return;
        }
        let given_up = || receiver.log().lines().any(|line| line.contains("\"event\":\"store-retry\"") && line.contains(".pieces/"));
        wait("the piece to be given up", Duration::from_secs(150), given_up);
    });
}

#[test]
fn a_store_that_says_nothing_keeps_neither_server_nor_receiver_from_stopping() {
    let cluster = impatient();
    let proxy = toxiproxy::s3();
    let bowline = Bowline::new(&cluster, RepositoryKind::S3Through(&proxy));
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), QUICK);
    bowline.ok(&["backup"]);
    let receiver = bowline.receive();
    let workload = steady(&cluster);
    caught_up(&cluster, Duration::from_secs(60));
    proxy.add(Toxic::Timeout(Duration::ZERO), Direction::Downstream);
    write_wal(&cluster, 80);
    std::thread::sleep(Duration::from_secs(6));
    never_timed_out(&cluster);
    let ledger = workload.stop();
    let begun = Instant::now();
    cluster.pg_ctl_stop(true);
    // Whether it waits beyond the grace, not how fast it is.
    assert!(begun.elapsed() < Duration::from_secs(25), "the server was kept for {:?}", begun.elapsed());
    // It connects again, and waits for a store that does not answer before it could stream.
    cluster.start_server();
    std::thread::sleep(Duration::from_secs(2));
    let begun = Instant::now();
    assert_eq!(receiver.stop(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(20), "the receiver took {:?} to stop", begun.elapsed());
    proxy.heal();
    let receiver = bowline.receive();
    caught_up(&cluster, Duration::from_secs(60));
    peak_is_bounded(&receiver);
    assert_eq!(receiver.stop(), Some(0));
    restored_has(&bowline, &ledger);
}
