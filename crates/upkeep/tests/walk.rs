//! Every store operation of an expiry goes wrong once: afterwards whatever is listed is whole, and the next runs end where one without faults does.

use bytes::Bytes;
use futures::TryStreamExt;
use repo::retention::RetentionPolicy;
use repo::{BackupDocument, Encryption, SnapshotDocument, WalPosition, Writer, backup_folder, pack_path};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use store::{Fault, FaultPlan, Faults, Fetch, Memory, ObjectPath, Put, Remove};
use terms::{BackupId, BackupKind, Clock, Lsn, SegmentName, SegmentSize, SystemClock, SystemId, Timeline, Timestamp};
use upkeep::{ExpireOptions, UpkeepError, expire};

const SYSTEM: SystemId = SystemId::new(7_412_345_678_901_234_567);
const SEGMENT: u64 = 16 << 20;
const KIND: BackupKind = BackupKind::Full;

fn path(text: &str) -> ObjectPath {
    ObjectPath::new(text).unwrap()
}

fn segment(number: u64) -> ObjectPath {
    path(&format!("wal/{SYSTEM}/00000001/{}", SegmentName::numbered(number, Timeline::FIRST, SegmentSize::DEFAULT)))
}

/// The `index`-th backup needs the segments 10 × `index` and the one after.
fn backup(writer: &Writer, index: u64, at: Timestamp) -> BackupDocument {
    let (format, written_by) = BackupDocument::stamp();
    let position = |segment: u64| WalPosition { lsn: Lsn::from_bytes(segment * SEGMENT + 40), time: at };
    BackupDocument {
        format,
        id: BackupId::begun(at),
        kind: KIND,
        repository: writer.reader().document().id,
        system_id: SYSTEM,
        major: 18,
        server_version: "18.6".into(),
        timeline: Timeline::FIRST,
        start: position(10 * index),
        stop: position(10 * index + 1),
        segment_bytes: SegmentSize::DEFAULT,
        source: "local".into(),
        compression: "zstd:1".into(),
        encryption: Encryption::Off,
        key: None,
        files: 1,
        bytes: 1,
        bytes_stored: 1,
        packs: 1,
        manifest_bytes: 1,
        page_checksums: true,
        pages_damaged: 0,
        took_seconds: 1.5,
        written_by,
    }
}

/// Six days with a backup each, an attempt that failed, and the log from before the first.
async fn filled() -> Memory {
    let memory = Memory::new();
    let now = SystemClock.now();
    let store = Arc::new(memory.clone());
    let mut writer = Writer::create(store, Vec::new(), "acme", Encryption::Off, serde_json::json!({}), now).await.unwrap();
    writer.admit(SYSTEM, 18, now).await.unwrap();
    for number in 15..=72 {
        memory.put_new(&segment(number), Bytes::from_static(b"log")).await.unwrap();
    }
    memory.put_new(&path(&format!("wal/{SYSTEM}/00000002.history")), Bytes::from_static(b"1\t0/1\tx\n")).await.unwrap();
    for index in 2..=7 {
        let document = backup(&writer, index, now.plus_micros((index as i64 - 8) * 86_400_000_000));
        for name in ["manifest", "data/000001"] {
            memory.put_new(&path(&format!("{}/{name}", backup_folder(KIND, document.id))), Bytes::from_static(b"x")).await.unwrap();
        }
        writer.publish(&document).await.unwrap();
    }
    memory.put_new(&pack_path(KIND, BackupId::begun(now), 1), Bytes::from_static(b"an attempt")).await.unwrap();
    // Its listing was removed by somebody else: it was a backup, perhaps.
    let orphan = backup_folder(KIND, BackupId::begun(now.plus_micros(-90 * 86_400_000_000)));
    for name in ["manifest", "data/000001"] {
        memory.put_new(&path(&format!("{orphan}/{name}")), Bytes::from_static(b"x")).await.unwrap();
    }
    memory
}

async fn run(memory: &Memory, plan: Arc<FaultPlan>) -> Result<(), UpkeepError> {
    let faulty = Arc::new(Faults::new(Arc::new(memory.clone()), plan));
    let writer = Writer::open(faulty.clone(), Vec::new()).await?;
    // Two days, one month at the most, and no grace: all of it happens in one run.
    let policy = RetentionPolicy { daily: 2, monthly: 1, minimum: 1, ..RetentionPolicy::default() };
    let options = ExpireOptions {
        policy,
        grace: Duration::ZERO,
        attempts_grace: Duration::ZERO,
        confirmed: None,
        holder: "a test".into(),
        lease_ttl: Duration::from_millis(1),
    };
    expire(&writer, &*faulty as &dyn Remove, &options, &SystemClock).await.map(drop)
}

async fn objects(memory: &Memory) -> BTreeSet<String> {
    let all: Vec<_> = memory.list("", None).try_collect().await.unwrap();
    all.into_iter().map(|object| object.path.to_string()).collect()
}

/// What a listed backup needs is there: its objects, its own log, and all log from the oldest daily on.
async fn listed_is_whole(memory: &Memory, at: &str) {
    let reader = repo::Reader::open(Arc::new(memory.clone()), Vec::new()).await.unwrap();
    let listed = reader.backups().await.unwrap_or_else(|e| panic!("{at}: {e}"));
    let there = objects(memory).await;
    assert!(listed.len() >= 2, "{at}: {} are listed", listed.len());
    for document in &listed {
        for name in ["manifest", "data/000001"] {
            let needed = format!("{}/{name}", backup_folder(KIND, document.id));
            assert!(there.contains(&needed), "{at}: {needed} is gone");
        }
        let first = document.start.lsn.bytes() / SEGMENT;
        for number in first..=first + 1 {
            assert!(there.contains(segment(number).as_str()), "{at}: {} is gone", segment(number));
        }
    }
    for number in 60..=72 {
        assert!(there.contains(segment(number).as_str()), "{at}: {} of the window is gone", segment(number));
    }
    assert!(there.contains(&format!("wal/{SYSTEM}/00000002.history")), "{at}: a history is gone");
}

async fn settled(memory: &Memory) -> BTreeSet<String> {
    for _ in 0..3 {
        run(memory, FaultPlan::none()).await.unwrap();
    }
    objects(memory).await.into_iter().filter(|name| !name.starts_with("leases/")).collect()
}

#[tokio::test]
async fn after_any_fault_what_is_listed_is_whole_and_the_next_runs_end_the_same() {
    let memory = filled().await;
    let plan = FaultPlan::none();
    run(&memory, plan.clone()).await.unwrap();
    let operations = plan.count();
    listed_is_whole(&memory, "without faults").await;
    // Backups' names hold the time: what is compared is how much of each kind is left.
    let kinds = |left: &BTreeSet<String>| -> Vec<String> {
        left.iter().map(|name| name.split('/').take(2).map(|part| part.chars().take(9).collect::<String>()).collect::<Vec<_>>().join("/")).collect()
    };
    let wanted = settled(&memory).await;
    assert!(!wanted.iter().any(|name| name.starts_with("expired/") || name.ends_with("000000010000000000000028")), "{wanted:#?}");
    assert_eq!(wanted.iter().filter(|name| name.ends_with("/manifest")).count(), 3 + usize::from(monthly_is_apart()), "{wanted:#?}");
    let listed = wanted.iter().filter(|name| name.ends_with("backup.json")).count();
    assert_eq!(listed, 2 + usize::from(monthly_is_apart()), "{wanted:#?}");
    assert!(operations > 50, "only {operations} operations");
    for k in 1..=operations {
        for fault in [Fault::Die, Fault::Before, Fault::After] {
            let memory = filled().await;
            let plan = FaultPlan::at(k, fault);
            let _ = run(&memory, plan.clone()).await;
            let at = format!("{fault:?} at {k} ({})", plan.names().get(k as usize - 1).cloned().unwrap_or_default());
            listed_is_whole(&memory, &at).await;
            assert_eq!(kinds(&settled(&memory).await), kinds(&wanted), "{at}");
        }
    }
}

/// Whether the month's first backup is none of the two dailies: not when the days before today lie in another month.
fn monthly_is_apart() -> bool {
    let zone = terms::Zone::default();
    let day = |back: i64| zone.day(SystemClock.now().plus_micros(-back * 86_400_000_000)).month();
    day(1) == day(3)
}

#[tokio::test]
async fn no_tombstone_buries_a_snapshot_of_packages_and_only_what_none_needs_is_swept() {
    let memory = filled().await;
    let now = SystemClock.now();
    let writer = Writer::open(Arc::new(memory.clone()), Vec::new()).await.unwrap();
    let id = |days: i64| BackupId::begun(now.plus_micros(-days * 86_400_000_000));
    let (attempt, needed, snapshot) = (id(12), id(11), id(10));
    let pack = |id: BackupId| pack_path(BackupKind::Packages, id, 1).to_string();
    for id in [attempt, needed, snapshot] {
        memory.put_new(&path(&pack(id)), Bytes::from_static(b"x")).await.unwrap();
    }
    let (format, written_by) = SnapshotDocument::stamp();
    let document = SnapshotDocument {
        format,
        id: snapshot,
        kind: BackupKind::Packages,
        repository: writer.reader().document().id,
        source: "file:///srv/packages".into(),
        began: now,
        ended: now,
        objects: 1,
        bytes: 1,
        objects_new: 1,
        bytes_new: 1,
        bytes_stored: 1,
        packs: 1,
        encryption: Encryption::Off,
        key: None,
        needs: BTreeSet::from([needed]),
        versions: None,
        written_by,
    };
    writer.publish_snapshot(&document).await.unwrap();
    // Whoever can only put can write this.
    for id in [needed, snapshot] {
        let forged = BackupDocument { id, kind: BackupKind::Packages, ..backup(&writer, 2, now) };
        writer.bury(&forged, now).await.unwrap();
    }
    let left = settled(&memory).await;
    assert!(!left.contains(&pack(attempt)), "{left:#?}");
    assert!(left.contains(&pack(needed)) && left.contains(&pack(snapshot)), "{left:#?}");
}
