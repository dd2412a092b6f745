//! What the repository holds, seen past every proxy, and whether the server was ever told more than that.
#![allow(dead_code, reason = "each test binary uses its own part")]

use futures::TryStreamExt;
use keys::KeyFile;
use repo::{Reader, WalView};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::{Fetch, StoreOptions};
use terms::{Lsn, SegmentName, SegmentSize, SystemId, Timeline};
use testkit::bowline::wait;
use testkit::s3::S3Server;
use testkit::workload::missing;
use testkit::{Acknowledged, Bowline, Cluster};

/// The repository, read directly.
pub struct Repository {
    runtime: tokio::runtime::Runtime,
    store: Arc<dyn Fetch>,
    reader: Reader,
    system_id: SystemId,
    segment_bytes: SegmentSize,
}

impl Repository {
    pub fn of(bowline: &Bowline, cluster: &Cluster) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let options = if bowline.url().starts_with("s3:") { S3Server::shared().options() } else { StoreOptions::default() };
        let key = KeyFile::load(&bowline.dir().join("key")).expect("the repository's key");
        let (store, reader) = runtime.block_on(async {
            let store = store::open(&format!("{}/acme", bowline.url()), &options).expect("the repository's store");
            let reader = Reader::open(store.clone(), vec![Arc::new(key)]).await.expect("the repository");
            (store, reader)
        });
        let asked =
            cluster.psql("SELECT system_identifier FROM pg_control_system(); SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'");
        let (system_id, segment_bytes) = asked.split_once('\n').expect("two answers");
        let segment_bytes = SegmentSize::from_bytes(segment_bytes.parse().expect("a number")).expect("a segment's size");
        Self { runtime, store, reader, system_id: system_id.parse().expect("an id"), segment_bytes }
    }

    /// Up to where the log of the first timeline is stored without a gap, from the segment of `from` on.
    pub fn reach(&self, from: Lsn) -> Lsn {
        let view = self.runtime.block_on(self.reader.wal_view(self.system_id, self.segment_bytes)).expect("a listing");
        reach(&view, from)
    }

    /// How far the log is known complete.
    pub fn coverage(&self) -> Option<(Timeline, Lsn, terms::Timestamp)> {
        self.runtime
            .block_on(self.reader.coverage(self.reader.epoch().expect("an epoch").system_id))
            .expect("the coverage mark")
            .map(|c| (c.timeline, c.lsn, c.time))
    }

    /// Every object but those that are replaced in the course of things, with its content.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.runtime.block_on(async {
            let listed: Vec<_> = self.store.list("", None).try_collect().await.expect("a listing");
            let mut objects = BTreeMap::new();
            for object in listed {
                let name = object.path.to_string();
                if name != "coverage.json" && !name.starts_with("leases/") {
                    objects.insert(name, self.store.get(&object.path).await.expect("a listed object").to_vec());
                }
            }
            objects
        })
    }
}

fn reach(view: &WalView, from: Lsn) -> Lsn {
    let size = view.segment_bytes;
    let mut segment = SegmentName::containing(from, Timeline::FIRST, size);
    while view.has(segment) {
        segment = segment.next(size);
    }
    view.reach(segment)
}

/// The furthest position that the server was told to be stored.
fn reported(cluster: &Cluster) -> Option<Lsn> {
    let sql = "SELECT greatest((SELECT max(restart_lsn) FROM pg_replication_slots), \
               (SELECT max(flush_lsn) FROM pg_stat_replication WHERE application_name = 'bowline'))";
    cluster.try_psql(sql).ok()?.parse().ok()
}

/// Runs `work` while asking again and again whether the server was told of more than is stored; returns how often that was asked.
pub fn watched(cluster: &Cluster, repository: &Repository, work: impl FnOnce()) -> usize {
    let begun = reported(cluster).expect("a receiver that has reported");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut looks = 0;
            while !is_over.load(Ordering::Relaxed) {
                // In this order: what is stored only grows.
                if let Some(told) = reported(cluster) {
                    let stored = repository.reach(begun);
                    assert!(told <= stored.max(begun), "the server was told that all before {told} is stored, which is so only before {stored}");
                    looks += 1;
                }
                std::thread::sleep(Duration::from_millis(250));
            }
            looks
        });
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        is_over.store(true, Ordering::Relaxed);
        let looks = watcher.join();
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
        looks.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Writes so many MiB of WAL that nothing compresses.
pub fn write_wal(cluster: &Cluster, mib: u64) {
    let sql = "SELECT count(pg_logical_emit_message(false, 'bulk', pg_read_binary_file('/dev/urandom', 0, 1048576 + i * 0))) FROM generate_series";
    cluster.psql(&format!("{sql}(1, {mib}) AS i"));
}

/// Waits until the server was told that everything written so far is stored.
pub fn caught_up(cluster: &Cluster, limit: Duration) {
    let written = cluster.psql("SELECT pg_current_wal_flush_lsn()");
    wait("the receiver to catch up", limit, || {
        cluster.psql(&format!("SELECT flush_lsn >= '{written}' FROM pg_stat_replication WHERE application_name = 'bowline'")) == "t"
    });
}

/// A restore to the end of the stored log must have every row of `ledger`.
pub fn restored_has(bowline: &Bowline, ledger: &[Acknowledged]) {
    let restored = bowline.restore(&["--to", "latest"]);
    let missing = missing(ledger, &restored.psql("SELECT id FROM ledger"));
    assert!(missing.is_empty(), "{} of {} acknowledged commits are gone: {missing:?}", missing.len(), ledger.len());
}
