//! Every store operation of an expiry goes wrong once: afterwards whatever is listed is whole, and the next runs end where one without faults does.

use bytes::Bytes;
use futures::TryStreamExt;
use repo::retention::RetentionPolicy;
use repo::{BackupDocument, Encryption, Listed, ScrubState, ScrubUnit, SnapshotDocument, WalPosition, Writer, backup_folder, pack_path};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use store::{Fault, FaultPlan, Faults, Fetch, Memory, ObjectPath, Put, Remove};
use terms::{BackupId, BackupKind, Clock, Lsn, SegmentName, SegmentSize, Silent, SystemClock, SystemId, Timeline, Timestamp};
use upkeep::{ExpireOptions, Expired, ScrubOptions, Scrubbed, UpkeepError, expire, scrub};

const SYSTEM: SystemId = SystemId::new(7_412_345_678_901_234_567);
const SEGMENT: u64 = 16 << 20;
const KIND: BackupKind = BackupKind::Full;
const DAY: i64 = 86_400_000_000;

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

/// A snapshot of packages an hour before the `index`-th backup: it refers to the one before and to the first.
fn snapshot(writer: &Writer, index: u64, at: Timestamp) -> SnapshotDocument {
    let (format, written_by) = SnapshotDocument::stamp();
    let id = |back: u64| BackupId::begun(at.plus_micros(-(back as i64) * DAY));
    SnapshotDocument {
        format,
        id: BackupId::begun(at),
        kind: BackupKind::Packages,
        repository: writer.reader().document().id,
        source: "file:///srv/packages".into(),
        began: at,
        ended: at,
        objects: 1,
        bytes: 1,
        objects_new: 1,
        bytes_new: 1,
        bytes_stored: 1,
        packs: 1,
        encryption: Encryption::Off,
        key: None,
        needs: if index == 2 { BTreeSet::new() } else { BTreeSet::from([id(1), id(index - 2)]) },
        kept_versions: true,
        versions: None,
        written_by,
    }
}

/// Six days with a backup and a snapshot each, an attempt that failed, and the log from before the first.
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
        let document = backup(&writer, index, now.plus_micros((index as i64 - 8) * DAY));
        for name in ["manifest", "data/000001"] {
            memory.put_new(&path(&format!("{}/{name}", backup_folder(KIND, document.id))), Bytes::from_static(b"x")).await.unwrap();
        }
        writer.publish(&document).await.unwrap();
    }
    for index in 2..=7 {
        let at = now.plus_micros((index as i64 - 8) * DAY - DAY / 24);
        let document = snapshot(&writer, index, at);
        for name in ["manifest", "data/000001"] {
            memory.put_new(&path(&format!("{}/{name}", backup_folder(BackupKind::Packages, document.id))), Bytes::from_static(b"x")).await.unwrap();
        }
        writer.publish_snapshot(&document).await.unwrap();
    }
    memory.put_new(&pack_path(KIND, BackupId::begun(now), 1), Bytes::from_static(b"an attempt")).await.unwrap();
    memory.put_new(&pack_path(BackupKind::Packages, BackupId::begun(now), 1), Bytes::from_static(b"an attempt")).await.unwrap();
    // Its listing was removed by somebody else: it was a backup, perhaps. Without any grace nothing waits for that to be mended.
    let orphan = backup_folder(KIND, BackupId::begun(now.plus_micros(-90 * DAY)));
    for name in ["manifest", "data/000001"] {
        memory.put_new(&path(&format!("{orphan}/{name}")), Bytes::from_static(b"x")).await.unwrap();
    }
    memory
}

async fn run(memory: &Memory, plan: Arc<FaultPlan>) -> Result<Expired, UpkeepError> {
    let faulty = Arc::new(Faults::new(Arc::new(memory.clone()), plan));
    let writer = Writer::open(faulty.clone(), Vec::new()).await?;
    // Two days, one month at the most, and no grace: all of it happens in one run.
    let policy = RetentionPolicy { daily: 2, monthly: 1, minimum: 1, ..RetentionPolicy::default() };
    let options = ExpireOptions {
        policy,
        grace: Duration::ZERO,
        attempts_grace: Duration::ZERO,
        confirmed: None,
        elsewhere: None,
        holder: "a test".into(),
        lease_ttl: Duration::from_millis(1),
    };
    expire(&writer, &*faulty as &dyn Remove, &options, &SystemClock).await
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
    // A snapshot is whole with the packs of others that it refers to; and those around the window are listed.
    let snapshots = reader.snapshots().await.unwrap_or_else(|e| panic!("{at}: {e}"));
    assert!(snapshots.len() >= 2, "{at}: {} snapshots are listed", snapshots.len());
    for document in &snapshots {
        for id in document.needs.iter().chain([&document.id]) {
            assert!(there.contains(pack_path(BackupKind::Packages, *id, 1).as_str()), "{at}: {} lost its objects in {id}", document.id);
        }
    }
    let from = listed[listed.len() - 2].start.time;
    assert!(snapshots.iter().any(|snapshot| snapshot.began <= from), "{at}: nothing serves the beginning of the window");
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
    let is_left = |name: &&String| name.starts_with("expired/2") || name.ends_with("000000010000000000000028");
    assert!(!wanted.iter().any(|name| is_left(&name)), "{wanted:#?}");
    let count = |folder: &str, name: &str| wanted.iter().filter(|path| path.starts_with(folder) && path.ends_with(name)).count();
    assert_eq!(count("full/", "/manifest"), 2 + usize::from(monthly_is_apart()), "{wanted:#?}");
    assert_eq!(count("full/", "backup.json"), 2 + usize::from(monthly_is_apart()), "{wanted:#?}");
    // Of six snapshots those of the window are listed, and those around the monthly; what they refer to of the others is there.
    let stays: BTreeSet<u64> = match first_of_the_month() {
        first if first < 6 => BTreeSet::from([first, first + 1, 6, 7]),
        _ => BTreeSet::from([6, 7]),
    };
    let with_packs: BTreeSet<u64> = stays.iter().flat_map(|index| [*index, 2, (*index - 1).max(2)]).collect();
    assert_eq!((count("packages/", "backup.json"), count("packages/", "/000001")), (stays.len(), with_packs.len()), "{wanted:#?}");
    assert_eq!(count("expired/packages-", ".json"), count("packages/", "/manifest") - count("packages/", "backup.json"), "{wanted:#?}");
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

/// The index of the backup that its month keeps.
fn first_of_the_month() -> u64 {
    let zone = terms::Zone::default();
    let month = |index: u64| zone.day(SystemClock.now().plus_micros((index as i64 - 8) * DAY)).month();
    (2..=7).find(|index| month(*index) == month(7)).unwrap()
}

#[tokio::test]
async fn no_tombstone_removes_what_is_listed_or_referred_to_and_nothing_is_listed_that_could_lose_it() {
    let memory = filled().await;
    let now = SystemClock.now();
    let writer = Writer::open(Arc::new(memory.clone()), Vec::new()).await.unwrap();
    let listed = writer.reader().snapshots().await.unwrap();
    let newest = listed.last().unwrap().clone();
    // Whoever can only put can write these: one speaks of a snapshot as if it were a backup.
    for snapshot in &listed {
        writer.bury(&Listed::Snapshot(snapshot.clone()), now).await.unwrap();
    }
    let forged = BackupDocument { id: newest.id, kind: BackupKind::Packages, ..backup(&writer, 2, now) };
    assert!(writer.bury(&Listed::Backup(forged), now).await.is_err());
    let left = settled(&memory).await;
    let pack = |id: BackupId| pack_path(BackupKind::Packages, id, 1).to_string();
    for id in newest.needs.iter().chain([&newest.id]) {
        assert!(left.contains(&pack(*id)), "{id}: {left:#?}");
    }
    // What another run listed meanwhile keeps less than this one refers to.
    let overtaken = SnapshotDocument { id: newest.id.next(), needs: BTreeSet::from([newest.id, newest.id.next()]), ..newest.clone() };
    let swept = writer.publish_snapshot(&overtaken).await;
    assert!(matches!(swept, Err(repo::RepoError::Swept { .. })), "{swept:?}");
    let overtaken = SnapshotDocument { packs: 0, ..overtaken };
    let refused = writer.publish_snapshot(&overtaken).await;
    assert!(matches!(refused, Err(repo::RepoError::SnapshotOvertaken { .. })), "{refused:?}");
    let unkeyed = SnapshotDocument { key: Some(seal::KeyId::random()), ..overtaken };
    assert!(writer.publish_snapshot(&unkeyed).await.is_err(), "its key is not there");
}

#[tokio::test]
async fn a_backup_whose_times_have_not_come_stands_aside_and_the_others_expire_as_if_it_were_not_there() {
    let memory = filled().await;
    let now = SystemClock.now();
    let writer = Writer::open(Arc::new(memory.clone()), Vec::new()).await.unwrap();
    // A server's clock may be a little ahead.
    let ahead = backup(&writer, 8, now.plus_micros(60_000_000));
    let forged = backup(&writer, 9, now.plus_micros(DAY));
    for document in [&ahead, &forged] {
        for name in ["manifest", "data/000001"] {
            memory.put_new(&path(&format!("{}/{name}", backup_folder(KIND, document.id))), Bytes::from_static(b"x")).await.unwrap();
        }
        writer.publish(document).await.unwrap();
    }
    let future = snapshot(&writer, 9, now.plus_micros(DAY));
    for name in ["manifest", "data/000001"] {
        memory.put_new(&path(&format!("{}/{name}", backup_folder(BackupKind::Packages, future.id))), Bytes::from_static(b"x")).await.unwrap();
    }
    let listing = path(&format!("{}/backup.json", backup_folder(BackupKind::Packages, future.id)));
    let unneeded = SnapshotDocument { needs: BTreeSet::new(), ..future };
    writer.publish_snapshot(&unneeded).await.unwrap();
    let done = run(&memory, FaultPlan::none()).await.unwrap();
    let aside: Vec<String> = done.plans.unproven.keys().cloned().collect();
    assert_eq!(aside, [backup_folder(KIND, forged.id), backup_folder(BackupKind::Packages, unneeded.id)], "{:#?}", done.plans);
    assert!(matches!(done.plans.proven(), Err(UpkeepError::Unproven { listed }) if listed == done.plans.unproven));
    // Six nights and the one that is a little ahead: two dailies stay, and the monthly; the same goes without the one that is to come.
    let listed: Vec<BackupId> = writer.reader().backups().await.unwrap().iter().map(|listed| listed.id).collect();
    assert!(listed.contains(&forged.id) && listed.contains(&ahead.id), "{listed:?}");
    assert!(listed.len() <= 4 && done.unlisted.len() + listed.len() == 8, "{listed:?}");
    // Nothing of it goes, nor what it needs.
    run(&memory, FaultPlan::none()).await.unwrap();
    let there = objects(&memory).await;
    assert!(there.contains(&format!("{}/manifest", backup_folder(KIND, forged.id))) && there.contains(listing.as_str()), "{there:#?}");
}

#[tokio::test]
async fn an_unlisted_snapshot_keeps_what_it_refers_to_until_its_own_grace_is_over() {
    let memory = filled().await;
    let writer = Writer::open(Arc::new(memory.clone()), Vec::new()).await.unwrap();
    let listed = writer.reader().snapshots().await.unwrap();
    let [.., earlier, newest] = listed.as_slice() else { panic!("{listed:?}") };
    assert!(newest.needs.contains(&earlier.id));
    let unlist = async |snapshot: &SnapshotDocument| {
        writer.bury(&Listed::Snapshot(snapshot.clone()), SystemClock.now()).await.unwrap();
        memory.remove(&repo::listing_of(BackupKind::Packages, snapshot.id)).await.unwrap();
    };
    unlist(earlier).await;
    let between = SystemClock.now();
    // A run takes milliseconds: between it and the newest one's grace lie seconds.
    tokio::time::sleep(Duration::from_secs(3)).await;
    unlist(newest).await;
    let expired = async |grace: Duration| {
        let (policy, holder, lease_ttl) = (RetentionPolicy::default(), "a test".into(), Duration::from_millis(1));
        let options = ExpireOptions { policy, grace, attempts_grace: grace, confirmed: None, elsewhere: None, holder, lease_ttl };
        expire(&writer, &memory as &dyn Remove, &options, &SystemClock).await.unwrap();
        objects(&memory).await
    };
    // The earlier one's grace is over, the newest one's is not: somebody restores from it, perhaps.
    let left = expired(Duration::from_secs_f64(SystemClock.now().seconds_since(between))).await;
    for id in [earlier.id, newest.id] {
        assert!(left.contains(pack_path(BackupKind::Packages, id, 1).as_str()), "{id}: {left:#?}");
    }
    expired(Duration::ZERO).await;
    let left = expired(Duration::ZERO).await;
    for id in [earlier.id, newest.id] {
        assert!(!left.contains(pack_path(BackupKind::Packages, id, 1).as_str()), "{id}: {left:#?}");
    }
}

/// A repository with an attempt that has everything but a listing; and the folder of that.
async fn with_an_attempt() -> (Memory, Writer, String) {
    let memory = Memory::new();
    let now = SystemClock.now();
    let writer = Writer::create(Arc::new(memory.clone()), Vec::new(), "acme", Encryption::Off, serde_json::json!({}), now).await.unwrap();
    let folder = backup_folder(KIND, BackupId::begun(now.plus_micros(-90 * DAY)));
    for name in ["manifest", "data/000001"] {
        memory.put_new(&path(&format!("{folder}/{name}")), Bytes::from_static(b"x")).await.unwrap();
    }
    (memory, writer, folder)
}

#[tokio::test]
async fn an_attempt_with_a_manifest_goes_a_week_after_it_was_seen_and_never_where_a_scrub_knew_it_listed() {
    let (memory, writer, folder) = with_an_attempt().await;
    let written = SystemClock.now();
    tokio::time::sleep(Duration::from_millis(2)).await;
    // As long as nothing was written there: an attempt without a manifest would go.
    let expired = async || {
        let attempts_grace = Duration::from_secs_f64(SystemClock.now().seconds_since(written));
        let (policy, grace, holder, lease_ttl) = (RetentionPolicy::default(), Duration::ZERO, "a test".into(), Duration::from_millis(1));
        let options = ExpireOptions { policy, grace, attempts_grace, confirmed: None, elsewhere: None, holder, lease_ttl };
        expire(&writer, &memory as &dyn Remove, &options, &SystemClock).await.unwrap();
        objects(&memory).await.iter().filter(|name| name.starts_with(&folder)).count()
    };
    // As if it had been seen two days ago: many times seven graces of this test.
    let seen_long_ago = async || {
        let (mut state, version) = writer.reader().expiry().await.unwrap().unwrap();
        let since = state.unlisted_since.get_mut(&folder).expect("it was seen");
        *since = since.plus_micros(-2 * DAY);
        writer.save_expiry(&state, Some(&version)).await.unwrap();
    };
    assert_eq!(expired().await, 2, "seen for the first time: perhaps a backup whose listing somebody removed just now");
    seen_long_ago().await;
    // What a scrub has proven as a backup was one.
    let known = ScrubState { units: [(folder.clone(), ScrubUnit::default())].into(), ..ScrubState::default() };
    let version = writer.save_scrub(&known, None).await.unwrap();
    assert_eq!(expired().await, 2, "its listing is missed, and somebody is told");
    writer.save_scrub(&ScrubState::default(), Some(&version)).await.unwrap();
    assert_eq!(expired().await, 0);
    assert!(writer.reader().expiry().await.unwrap().unwrap().0.unlisted_since.is_empty());
}

/// Two days later than it is.
struct Later;

impl Clock for Later {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus_micros(2 * DAY)
    }
}

#[tokio::test]
async fn an_attempt_with_a_manifest_is_told_of_by_scrub_until_it_is_gone() {
    let (memory, writer, folder) = with_an_attempt().await;
    let scrubbed = async || -> Scrubbed {
        let options = ScrubOptions {
            budget: 1 << 20,
            gaps: Vec::new(),
            apart: None,
            forget: Vec::new(),
            holder: "a test".into(),
            lease_ttl: Duration::from_millis(1),
            events: Arc::new(Silent),
        };
        scrub(&writer, &options, &Later).await.unwrap()
    };
    let listing = format!("{folder}/backup.json");
    let found = scrubbed().await;
    let told: Vec<(&str, &str)> = found.damage.iter().map(|damage| (damage.path.as_str(), damage.slug.as_str())).collect();
    assert_eq!(told, [(listing.as_str(), "backup-unlisted")]);
    assert!(found.damage[0].next.contains("bowline expire removes it a week after"), "{}", found.damage[0].next);
    for name in ["manifest", "data/000001"] {
        memory.remove(&path(&format!("{folder}/{name}"))).await.unwrap();
    }
    let found = scrubbed().await;
    assert!(found.damage.is_empty(), "{:?}", found.damage);
    assert_eq!(found.healed, [listing]);
}
