//! Two receivers on one repository: one acts, the other waits for its turn; one that was paused changes nothing when it wakes up.

#[path = "slow_store/ground.rs"]
mod ground;

use ground::{Repository, caught_up, restored_has, write_wal};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use testkit::bowline::{Receiver, wait};
use testkit::cluster::{PASSWORD, SUPERUSER};
use testkit::toxiproxy::{self, Direction};
use testkit::workload::Pace;
use testkit::{Bowline, Cluster, RepositoryKind, Toxic, Toxiproxy, Workload, full, newest_major};

const LEASE: &str = "[wal]\nstatus_interval = \"500ms\"\nflush_interval = \"300ms\"\nlease_ttl = \"3s\"\n";

fn steady(cluster: &Cluster) -> Workload {
    Workload::start_at(&cluster.conninfo(), Pace { clients: 2, payload_bytes: 2000, rest: Duration::from_millis(10) })
}

fn streams(cluster: &Cluster, slot: &str) -> bool {
    cluster.psql(&format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'")) == "t"
}

fn told(receiver: &Receiver, event: &str) -> usize {
    receiver.log().matches(&format!("\"event\":\"{event}\"")).count()
}

#[test]
fn the_next_one_begins_when_the_first_stops_or_falls_silent_and_a_namesake_at_once() {
    for kind in if full() { vec![RepositoryKind::Folder, RepositoryKind::S3] } else { vec![RepositoryKind::S3] } {
        let cluster = Cluster::start(newest_major());
        let bowline = Bowline::new(&cluster, kind);
        let with_ttl = |ttl: &str| bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &LEASE.replace("3s", ttl));
        with_ttl("60s");
        bowline.ok(&["backup"]);
        let one = bowline.receive();
        let workload = steady(&cluster);
        let two = bowline.start_receiver(&["--slot", "two"]);
        two.wait_for(1, "waiting-for-turn");
        assert!(two.log().contains("slot bowline on "), "{}", two.log());
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!((told(&two, "wal-streaming"), told(&one, "disconnected")), (0, 0), "only one acts");

        let begun = Instant::now();
        assert_eq!(one.stop(), Some(0));
        two.wait_for(1, "wal-streaming");
        assert!(begun.elapsed() < Duration::from_secs(30), "a lease that was given up was waited for: {:?}", begun.elapsed());

        // A namesake succeeds one that was killed without waiting for its minute to pass.
        two.kill9();
        with_ttl("3s");
        let begun = Instant::now();
        let two = bowline.start_receiver(&["--slot", "two"]);
        two.wait_for(1, "wal-streaming");
        assert!(begun.elapsed() < Duration::from_secs(30), "the namesake waited {:?}", begun.elapsed());
        assert_eq!(told(&two, "waiting-for-turn"), 0, "{}", two.log());

        // Another one waits until the killed one has been silent for its time.
        let one = bowline.start_receiver(&[]);
        one.wait_for(1, "waiting-for-turn");
        let begun = Instant::now();
        two.kill9();
        one.wait_for(1, "wal-streaming");
        assert!(begun.elapsed() > Duration::from_millis(1800), "the lease was taken from its holder after {:?}", begun.elapsed());

        workload.wait_for(20);
        let ledger = workload.stop();
        caught_up(&cluster, Duration::from_secs(60));
        assert_eq!(one.stop(), Some(0));
        restored_has(&bowline, &ledger);
        assert_eq!(bowline.ok(&["wal", "audit"])["whole"], true);
    }
}

#[test]
fn the_slot_of_one_that_waits_moves_along_behind_what_is_stored() {
    let cluster = Cluster::builder(newest_major()).wal_segment_mib(1).start();
    // A slot of the same name on another cluster: what is stored here says nothing of its WAL.
    let other = Cluster::builder(newest_major()).wal_segment_mib(1).start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let lines = format!("{}coverage_interval = \"1s\"\n", LEASE.replace("3s", "60s"));
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &lines);
    bowline.ok(&["backup"]);
    let one = bowline.receive();
    for server in [&cluster, &other] {
        server.psql("SELECT pg_create_physical_replication_slot('two', true)");
    }
    let (socket, foreign) = (cluster.socket_dir(), other.socket_dir());
    let both = format!("host={},{} port=5432 user=postgres dbname=postgres", socket.display(), foreign.display());
    bowline.configure(&both, Some(cluster.data_dir()), &lines);
    let two = bowline.start_receiver(&["--slot", "two"]);
    two.wait_for(1, "waiting-for-turn");
    let held = |server: &Cluster| -> terms::Lsn {
        server.psql("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'two'").parse().expect("a position")
    };
    let (begun, others) = (held(&cluster), held(&other));
    for server in [&cluster, &other] {
        write_wal(server, 10);
    }
    wait("the slot of the one that waits to move along", Duration::from_secs(30), || held(&cluster) >= begun.plus(9 << 20));
    assert_eq!(held(&other), others, "another cluster's slot was moved");

    // Never beyond what is stored: while the one that acts is stopped, nothing is.
    caught_up(&cluster, Duration::from_secs(30));
    let repository = Repository::of(&bowline, &cluster);
    one.signal(Signal::SIGSTOP);
    let stored = repository.reach(begun);
    write_wal(&cluster, 5);
    std::thread::sleep(Duration::from_millis(1500));
    assert!(held(&cluster) <= stored, "{} is not stored, only {stored} is", held(&cluster));
    one.signal(Signal::SIGCONT);

    // When its turn comes nothing is missing.
    assert_eq!(one.stop(), Some(0));
    two.wait_for(1, "wal-streaming");
    caught_up(&cluster, Duration::from_secs(60));
    assert_eq!(two.stop(), Some(0));
    assert_eq!(bowline.ok(&["wal", "audit"])["whole"], true);
}

#[test]
fn a_holder_that_cannot_reach_its_server_lets_another_try() {
    let cluster = Cluster::builder(newest_major()).tcp(true).start();
    let proxy = Toxiproxy::shared().proxy(&format!("127.0.0.1:{}", cluster.port()));
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.ok(&["backup"]);
    let through = format!("host=127.0.0.1 port={} user={SUPERUSER} password={PASSWORD} dbname=postgres", proxy.port());
    bowline.configure(&through, Some(cluster.data_dir()), LEASE);
    let one = bowline.receive();
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), LEASE);
    let two = bowline.start_receiver(&["--slot", "two"]);
    two.wait_for(1, "waiting-for-turn");
    let workload = steady(&cluster);
    workload.wait_for(20);

    proxy.down();
    one.wait_for(1, "turn-passed-on");
    two.wait_for(1, "wal-streaming");
    // The first one is back in line, and not heard of until its turn comes.
    one.wait_for(1, "waiting-for-turn");
    proxy.up();
    workload.wait_for(20);
    caught_up(&cluster, Duration::from_secs(60));
    assert_eq!(told(&two, "disconnected"), 0, "{}", two.log());
    assert_eq!(two.stop(), Some(0));
    one.wait_for(2, "wal-streaming");

    // Nobody else is there to act: it says so once, however often it stands in line again.
    proxy.down();
    one.wait_for(2, "turn-passed-on");
    let tries = told(&one, "disconnected");
    std::thread::sleep(Duration::from_secs(20));
    assert!(told(&one, "disconnected") > tries, "it does not try any more: {}", one.log());
    assert_eq!(told(&one, "turn-passed-on"), 2, "{}", one.log());
    proxy.up();
    one.wait_for(3, "wal-streaming");
    let ledger = workload.stop();
    caught_up(&cluster, Duration::from_secs(60));
    assert_eq!(one.stop(), Some(0));
    restored_has(&bowline, &ledger);
    assert_eq!(bowline.ok(&["wal", "audit"])["whole"], true);
}

/// The first receiver is stopped while it uploads, the second goes on, the first wakes up.
fn paused(synchronous: bool) {
    let cluster = Cluster::builder(newest_major()).setting("wal_sender_timeout", "4s").start();
    let proxy = toxiproxy::s3();
    let bowline = Bowline::new(&cluster, RepositoryKind::S3Through(&proxy));
    let lines = if synchronous { format!("{LEASE}synchronous = true\n") } else { LEASE.to_owned() };
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &lines);
    bowline.ok(&["backup"]);
    let one = bowline.receive();
    if synchronous {
        cluster.configure(&[("synchronous_standby_names", "bowline")]);
        cluster.psql("SELECT pg_reload_conf()");
    }
    let workload = steady(&cluster);
    let two = bowline.start_receiver(&["--slot", "two"]);
    two.wait_for(1, "waiting-for-turn");
    let repository = Repository::of(&bowline, &cluster);
    caught_up(&cluster, Duration::from_secs(30));
    // So that an upload is under way whenever it stops.
    proxy.add(Toxic::Latency(Duration::from_millis(400)), Direction::Downstream);
    std::thread::scope(|scope| {
        // In synchronous mode this statement may have to wait for the second receiver.
        scope.spawn(|| write_wal(&cluster, 20));
        std::thread::sleep(Duration::from_millis(700));
        one.signal(Signal::SIGSTOP);
    });
    two.wait_for(1, "wal-streaming");
    workload.wait_for(20);
    proxy.heal();
    // For longer than its lease lasts, and than the server waits for an answer.
    wait("the server to give the paused one up", Duration::from_secs(30), || !streams(&cluster, "bowline"));
    std::thread::sleep(Duration::from_secs(if full() { 120 } else { 3 }));
    let ledger = workload.stop();
    caught_up(&cluster, Duration::from_secs(60));
    wait("the coverage mark of all that", Duration::from_secs(30), || {
        let written: terms::Lsn = cluster.psql("SELECT pg_current_wal_flush_lsn()").parse().expect("a position");
        repository.coverage().is_some_and(|(_, lsn, _)| lsn >= written)
    });
    let (objects, coverage) = (repository.objects(), repository.coverage());

    one.signal(Signal::SIGCONT);
    one.wait_for(1, "disconnected");
    one.wait_for(1, "waiting-for-turn");
    assert!(one.log().contains("slot two on "), "{}", one.log());
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((told(&two, "disconnected"), told(&one, "wal-streaming")), (0, 1), "the turn is the second one's");
    let now = repository.objects();
    for (name, content) in &objects {
        assert!(now.get(name) == Some(content), "{name} is not what it was");
    }
    let new: Vec<_> = now.keys().filter(|name| !objects.contains_key(*name)).collect();
    // What it had sent before it was stopped may arrive: pieces under its own name, of bytes that are there already.
    assert!(new.iter().all(|name| name.contains(".pieces/")), "{new:?}");
    assert!(repository.coverage() >= coverage, "the coverage mark went back");

    // Everything goes on with the second one, and what is restored is exact.
    let workload = steady(&cluster);
    workload.wait_for(20);
    let ledger: Vec<_> = ledger.into_iter().chain(workload.stop()).collect();
    caught_up(&cluster, Duration::from_secs(60));
    assert_eq!(two.stop(), Some(0));
    one.wait_for(2, "wal-streaming");
    caught_up(&cluster, Duration::from_secs(60));
    assert_eq!(one.stop(), Some(0));
    if synchronous {
        cluster.configure(&[("synchronous_standby_names", "")]);
        cluster.psql("SELECT pg_reload_conf()");
    }
    let rows = cluster.psql("SELECT id FROM ledger ORDER BY id");
    let restored = bowline.restore(&["--to", "latest"]);
    assert_eq!(restored.psql("SELECT id FROM ledger ORDER BY id"), rows, "the restore is not exact");
    assert!(testkit::workload::missing(&ledger, &rows).is_empty());
    assert_eq!(bowline.ok(&["wal", "audit"])["whole"], true);
}

#[test]
fn a_paused_receiver_that_wakes_up_changes_nothing() {
    paused(false);
}

#[test]
fn a_receiver_paused_in_the_middle_of_a_synchronous_upload_loses_no_acknowledged_commit() {
    paused(true);
}
