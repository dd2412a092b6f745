//! Object lock and versions on a real server: what is locked stays, what was overwritten is read as it was, and an instant is seen as it was.

use crate::path;
use crate::s3::S3Server;
use crate::stores::{Make, ObjectServer};
use bytes::Bytes;
use futures::TryStreamExt;
use std::sync::Arc;
use std::time::Duration;
use store::{Created, Extended, Fetch, LockMode, ObjectLock, ObjectVersion, Sight, Store, StoreError, StoreOptions, Versions};
use terms::{Clock, SystemClock, Timestamp};

fn is_free(path: &str) -> bool {
    path.starts_with("free/")
}

const LOCK: ObjectLock = ObjectLock { mode: LockMode::Compliance, keep: Duration::from_secs(3 * 86_400), is_free };

/// A bucket that locks: its url, and its options with and without a lock.
struct Place {
    url: String,
    locking: StoreOptions,
    plain: StoreOptions,
}

/// A bucket of its own on the shared server.
async fn bucket(name: &'static str) -> Place {
    let server = tokio::task::spawn_blocking(S3Server::shared).await.unwrap();
    tokio::task::spawn_blocking(move || server.create_locked_bucket(name)).await.unwrap();
    Place { url: server.url(name, "org/kb"), locking: StoreOptions { lock: Some(LOCK), ..server.options() }, plain: server.options() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "MinIO takes minutes to compile: ./test --full installs it and runs this"]
async fn minio_locks_and_keeps_versions() {
    let server = locks_and_keeps_versions(Make::Minio).await;
    an_instant_is_seen(place_on(&server, "instants").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn versitygw_locks_and_keeps_versions() {
    // An instant of the past is not seen there: docs/stores.md says so.
    locks_and_keeps_versions(Make::Versitygw).await;
}

async fn place_on(server: &ObjectServer, name: &str) -> Place {
    let bucket = store::Bucket::open(&server.url(name, ""), &server.options()).unwrap().unwrap();
    for step in [store::Step::Create { object_lock: true }, store::Step::Version] {
        assert_eq!(bucket.carry_out(&step).await.unwrap(), store::Outcome::Done, "{step:?}");
    }
    Place { url: server.url(name, "org/kb"), locking: StoreOptions { lock: Some(LOCK), ..server.options() }, plain: server.options() }
}

async fn locks_and_keeps_versions(make: Make) -> ObjectServer {
    let server = tokio::task::spawn_blocking(move || ObjectServer::start(make)).await.unwrap();
    whole_objects_and_those_of_parts_are_locked(place_on(&server, "locks").await).await;
    a_lock_never_shrinks(place_on(&server, "grows").await).await;
    locks_are_extended(place_on(&server, "extends").await).await;
    the_oldest_is_read(place_on(&server, "overwritten").await).await;
    server
}

async fn versions(door: &dyn Versions, prefix: &str) -> Vec<ObjectVersion> {
    door.versions(prefix.to_owned()).try_collect().await.unwrap()
}

async fn listed(store: &dyn Fetch, folder: &str) -> Vec<(String, u64)> {
    store.list(folder, None).map_ok(|object| (object.path.to_string(), object.bytes)).try_collect().await.unwrap()
}

/// The server's clock has whole seconds.
async fn a_second_later() -> Timestamp {
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let now = SystemClock.now();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    now
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_locked_whole_objects_and_those_of_parts_and_only_what_shall_be() {
    whole_objects_and_those_of_parts_are_locked(bucket("locks").await).await;
}

async fn whole_objects_and_those_of_parts_are_locked(place: Place) {
    let Place { url, locking, plain } = place;
    let (store, door) = (store::open(&url, &locking).unwrap(), store::open_versions(&url, &plain).unwrap());
    let before = SystemClock.now();
    assert_eq!(store.put_new(&path("full/a=b+c"), Bytes::from_static(b"x")).await.unwrap(), Created::New);
    store.put_new(&path("free/a"), Bytes::from_static(b"x")).await.unwrap();
    let replaced = store.replace(&path("full/replaced"), Bytes::from_static(b"1"), None).await.unwrap().unwrap();
    store.replace(&path("full/replaced"), Bytes::from_static(b"2"), Some(&replaced)).await.unwrap().unwrap();
    let sink = store.begin(&path("full/large")).unwrap();
    tokio::task::spawn_blocking(move || {
        sink.append(&vec![7; 45 << 20]).unwrap();
        sink.finish().unwrap();
    })
    .await
    .unwrap();
    store.settle().await.unwrap();
    let mut seen = 0;
    for version in versions(&*door, "").await {
        let lock = door.locked_until(&version.path, &version.id).await.unwrap();
        if is_free(version.path.as_str()) {
            assert_eq!(lock, None, "{version:?}");
            continue;
        }
        seen += 1;
        let (mode, until) = lock.unwrap_or_else(|| panic!("{version:?} is not locked"));
        assert_eq!(mode, LockMode::Compliance);
        let seconds = until.seconds_since(before);
        assert!((3.0 * 86_400.0 - 2.0..3.0 * 86_400.0 + 60.0).contains(&seconds), "{version:?} is locked for {seconds} s");
    }
    assert_eq!(seen, 4, "two objects, and two versions of one");
    // Whoever may remove may remove what is not locked.
    let remover = store::open_remover(&url, &plain).unwrap();
    for version in versions(&*door, "").await {
        let removed = remover.remove_version(&version.path, &version.id).await;
        assert_eq!(removed.is_ok(), is_free(version.path.as_str()), "{version:?}: {removed:?}");
    }
    assert_eq!(versions(&*door, "").await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_grows_and_never_shrinks() {
    a_lock_never_shrinks(bucket("grows").await).await;
}

async fn a_lock_never_shrinks(place: Place) {
    let Place { url, locking, plain } = place;
    let (store, door) = (store::open(&url, &locking).unwrap(), store::open_versions(&url, &plain).unwrap());
    store.put_new(&path("full/a"), Bytes::from_static(b"x")).await.unwrap();
    let [version] = &versions(&*door, "full/").await[..] else { panic!("one version") };
    let until = door.locked_until(&version.path, &version.id).await.unwrap().unwrap().1;
    let later = until.plus_micros(5 * 86_400_000_000);
    door.lock_version(&version.path, &version.id, LockMode::Compliance, later).await.unwrap();
    assert_eq!(door.locked_until(&version.path, &version.id).await.unwrap(), Some((LockMode::Compliance, later)));
    let shorter = door.lock_version(&version.path, &version.id, LockMode::Compliance, until).await;
    assert!(shorter.is_err(), "{shorter:?}");
    assert_eq!(door.locked_until(&version.path, &version.id).await.unwrap(), Some((LockMode::Compliance, later)));
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_that_end_soon_are_extended_of_the_versions_that_must_stay() {
    locks_are_extended(bucket("extends").await).await;
}

async fn locks_are_extended(place: Place) {
    let Place { url, locking, plain } = place;
    let (store, door) = (store::open(&url, &locking).unwrap(), store::open_versions(&url, &plain).unwrap());
    let sight = Sight::Oldest { is_replaced: is_free };
    for name in ["full/a", "full/b", "free/c"] {
        store.put_new(&path(name), Bytes::from_static(b"x")).await.unwrap();
    }
    // Put over the first: it is not what must stay.
    let first = store.info(&path("full/b")).await.unwrap().unwrap().version;
    store.replace(&path("full/b"), Bytes::from_static(b"garbage"), Some(&first)).await.unwrap().unwrap();
    let extend = |at: Timestamp| store::extend_locks(&*door, "", sight, &LOCK, at);
    let now = SystemClock.now();
    assert_eq!(extend(now).await.unwrap(), Extended { objects: 2, ..Extended::default() }, "they are young");
    let later = now.plus_micros(2 * 86_400_000_000);
    assert_eq!(extend(later).await.unwrap(), Extended { objects: 2, extended: 2, removed: 0 });
    assert_eq!(extend(later).await.unwrap(), Extended { objects: 2, ..Extended::default() }, "they are long again");
    // What was stored under no lock, or by somebody who has none, is locked however young it is; and what was removed is counted.
    let unlocking = store::open(&url, &plain).unwrap();
    unlocking.put_new(&path("full/c"), Bytes::from_static(b"x")).await.unwrap();
    unlocking.put_new(&path("full/d"), Bytes::from_static(b"x")).await.unwrap();
    store::open_remover(&url, &plain).unwrap().remove(&path("full/d")).await.unwrap();
    assert_eq!(extend(later).await.unwrap(), Extended { objects: 3, extended: 1, removed: 1 });
    for version in versions(&*door, "full/").await.into_iter().filter(|version| version.path != path("full/d")) {
        let until = door.locked_until(&version.path, &version.id).await.unwrap();
        let is_garbage = version.path == path("full/b") && version.is_latest;
        let until = until.map_or(Timestamp::from_unix_micros(0), |(_, until)| until);
        assert_eq!(until == LOCK.until(later), !is_garbage, "{version:?}: {until}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_without_lock_refuses_what_is_to_be_locked() {
    let server = tokio::task::spawn_blocking(S3Server::shared).await.unwrap();
    server.create_bucket("unlocked");
    let store = store::open(&server.url("unlocked", "x"), &StoreOptions { lock: Some(LOCK), ..server.options() }).unwrap();
    let refused = store.put_new(&path("full/a"), Bytes::from_static(b"x")).await;
    assert!(refused.is_err(), "an object that was to be locked is stored unlocked");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_overwritten_is_read_as_it_was_first_but_what_is_replaced_as_it_is() {
    the_oldest_is_read(bucket("overwritten").await).await;
}

async fn the_oldest_is_read(place: Place) {
    let Place { url, locking: _, plain } = place;
    let store = store::open(&url, &plain).unwrap();
    let sight = Sight::Oldest { is_replaced: is_free };
    let seen = || store::open_past(&url, &plain, sight).unwrap();
    for name in ["free/a", "full/a", "full/a-b", "full/a.c/b", "full/gone"] {
        let first = store.replace(&path(name), Bytes::from_static(b"first"), None).await.unwrap().unwrap();
        store.replace(&path(name), Bytes::from_static(b"overwritten"), Some(&first)).await.unwrap().unwrap();
    }
    let remover = store::open_remover(&url, &plain).unwrap();
    remover.remove(&path("full/gone")).await.unwrap();
    for known in [true, false] {
        let past = seen();
        if known {
            let wanted = [("free/a", 11), ("full/a", 5), ("full/a-b", 5), ("full/a.c/b", 5)].map(|(name, bytes)| (name.to_owned(), bytes));
            assert_eq!(listed(&*past, "").await, wanted);
        }
        for name in ["full/a", "full/a-b", "full/a.c/b"] {
            assert_eq!(past.get(&path(name)).await.unwrap(), "first", "{name}");
            assert_eq!(past.get_range(&path(name), 1..3).await.unwrap(), "ir", "{name}");
            assert!(matches!(past.get_range(&path(name), 3..9).await, Err(StoreError::Truncated { .. })), "{name}");
        }
        assert_eq!(past.get(&path("free/a")).await.unwrap(), "overwritten");
        assert!(matches!(past.get(&path("full/gone")).await, Err(StoreError::Missing { .. })));
        assert_eq!(past.info(&path("full/gone")).await.unwrap(), None);
    }
    // What is replaced is replaced still.
    let past = seen();
    let version = past.info(&path("free/a")).await.unwrap().unwrap().version;
    past.replace(&path("free/a"), Bytes::from_static(b"third"), Some(&version)).await.unwrap().expect("nobody was faster");
    assert_eq!(past.get(&path("free/a")).await.unwrap(), "third");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_is_seen_as_it_was_and_nothing_can_be_written_in_it() {
    an_instant_is_seen(bucket("instants").await).await;
}

async fn an_instant_is_seen(place: Place) {
    let Place { url, locking: _, plain } = place;
    let store: Arc<dyn Store> = store::open(&url, &plain).unwrap();
    let remover = store::open_remover(&url, &plain).unwrap();
    let names = ["full/kept", "full/overwritten", "full/removed"];
    let mut first = Vec::new();
    for name in names {
        first.push(store.replace(&path(name), Bytes::from_static(b"good"), None).await.unwrap().unwrap());
    }
    let before = a_second_later().await;
    store.replace(&path(names[1]), Bytes::from_static(b"garbage"), Some(&first[1])).await.unwrap().unwrap();
    remover.remove(&path(names[2])).await.unwrap();
    store.put_new(&path("late/a"), Bytes::from_static(b"x")).await.unwrap();
    let after = a_second_later().await;

    let past = store::open_past(&url, &plain, Sight::AsOf(before)).unwrap();
    assert_eq!(listed(&*past, "").await, names.map(|name| (name.to_owned(), 4)));
    for name in names {
        assert_eq!(past.get(&path(name)).await.unwrap(), "good", "{name}");
    }
    assert!(past.folders("").await.unwrap().contains(&"full".to_owned()));
    assert!(matches!(past.get(&path("late/a")).await, Err(StoreError::Missing { .. })));
    assert!(matches!(past.put_new(&path("new"), Bytes::new()).await, Err(StoreError::Denied { .. })));
    let now = store::open_past(&url, &plain, Sight::AsOf(after)).unwrap();
    assert_eq!(listed(&*now, "full").await, [("full/kept".to_owned(), 4), ("full/overwritten".to_owned(), 7)]);
    assert!(store::open_past("file:///srv/backups", &plain, Sight::AsOf(after)).is_err());
}
