//! What every store must do, asserted against the store itself: the same promises from memory, folders and buckets.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;
use store::{Created, Fetch, Growing, ObjectInfo, ObjectPath, ObjectSink, Put, Remove, StoreError};

/// Asserts every promise of the traits, in a folder of its own that is emptied again. `remover` opens the same store.
/// Must run on a multi-threaded runtime.
pub async fn conform(store: Arc<dyn Put>, remover: Arc<dyn Remove>) {
    an_empty_store_says_so(&*store).await;
    what_is_put_is_read_back(&*store).await;
    ranges_are_exact_or_truncated(&*store).await;
    nothing_is_overwritten_by_put_new(&*store).await;
    of_racing_puts_one_is_new(&store).await;
    replacing_needs_the_current_version(&store).await;
    lists_are_sorted_complete_and_bounded(&*store).await;
    large_objects_are_appended_to_by_threads(&store).await;
    an_object_that_exists_is_not_begun_again(&store).await;
    a_sink_dropped_unfinished_leaves_nothing(&store).await;
    what_grows_is_read_back_after_each_addition(&store).await;
    an_object_that_exists_is_not_grown_anew(&store).await;
    what_never_grew_leaves_nothing(&store).await;
    what_was_removed_grows_no_more(&store, &*remover).await;
    removing_removes(&*store, &*remover).await;
}

fn path(text: &str) -> ObjectPath {
    ObjectPath::new(text).expect("the suite's paths are plain")
}

/// Bytes that differ everywhere, so that a wrong offset shows.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

async fn listed(store: &dyn Fetch, folder: &str, after: Option<&ObjectPath>) -> Vec<String> {
    let found: Vec<ObjectInfo> = store.list(folder, after).try_collect().await.expect("listing works");
    found.into_iter().map(|object| object.path.to_string()).collect()
}

async fn an_empty_store_says_so(store: &dyn Put) {
    let nothing = path("conform/nothing/here");
    assert!(matches!(store.get(&nothing).await, Err(StoreError::Missing { .. })));
    assert!(matches!(store.get_range(&nothing, 0..1).await, Err(StoreError::Missing { .. })));
    assert!(matches!(store.get_range(&nothing, 0..0).await, Err(StoreError::Missing { .. })));
    assert_eq!(store.info(&nothing).await.expect("info answers"), None);
    assert!(listed(store, "conform/nothing", None).await.is_empty());
    assert!(store.folders("conform/nothing").await.expect("folders answers").is_empty());
    store.settle().await.expect("nothing to settle");
    assert!(!store.address().is_empty());
}

async fn what_is_put_is_read_back(store: &dyn Put) {
    for (name, body) in [
        ("conform/put/empty", Vec::new()),
        ("conform/put/small", b"x".to_vec()),
        ("conform/put/a+b=c_d-e.f", pattern(70_000, 1)),
        ("conform/put/deep/er/and/deeper/still", pattern(5 << 20, 2)),
    ] {
        let (path, body) = (path(name), Bytes::from(body));
        assert_eq!(store.put_new(&path, body.clone()).await.expect("put_new works"), Created::New, "{name}");
        store.harden(&path).await.expect("what is there can be made durable");
        assert_eq!(store.get(&path).await.expect("get works"), body, "{name}");
        let info = store.info(&path).await.expect("info works").expect("the object is there");
        assert_eq!((&info.path, info.bytes), (&path, body.len() as u64), "{name}");
        assert!(info.modified.unix_micros() > 1_700_000_000_000_000, "{name}: {}", info.modified);
        let again: Vec<ObjectInfo> = store.list("conform/put", None).try_collect().await.expect("listing works");
        let again = again.into_iter().find(|other| other.path == path).expect("what was written is listed");
        assert_eq!((again.bytes, &again.version), (info.bytes, &info.version), "{name}: a listing says the same");
    }
}

async fn ranges_are_exact_or_truncated(store: &dyn Put) {
    let (path, body) = (path("conform/ranges"), Bytes::from(pattern(1000, 3)));
    store.put_new(&path, body.clone()).await.expect("put_new works");
    for (from, to) in [(0, 1), (0, 1000), (999, 1000), (17, 901), (5, 5), (1000, 1000)] {
        let part = store.get_range(&path, from as u64..to as u64).await.expect("the range is inside");
        assert_eq!(part, body.slice(from..to));
    }
    for (from, to) in [(0, 1001), (999, 1001), (1000, 1001), (5000, 6000), (1001, 1001)] {
        match store.get_range(&path, from..to).await {
            Err(StoreError::Truncated { wanted, found, .. }) => assert_eq!((wanted, found), (to, 1000)),
            other => panic!("{from}..{to} of 1000 bytes gave {other:?}"),
        }
    }
}

async fn nothing_is_overwritten_by_put_new(store: &dyn Put) {
    let path = path("conform/once");
    assert_eq!(store.put_new(&path, Bytes::from_static(b"first")).await.unwrap(), Created::New);
    for body in ["other", "longer than the first", "", "first"] {
        assert_eq!(store.put_new(&path, Bytes::from_static(body.as_bytes())).await.unwrap(), Created::AlreadyThere);
        assert_eq!(store.get(&path).await.unwrap().as_ref(), b"first");
    }
    assert_eq!(store.replace(&path, Bytes::from_static(b"other"), None).await.unwrap(), None);
    assert_eq!(store.get(&path).await.unwrap().as_ref(), b"first");
}

async fn of_racing_puts_one_is_new(store: &Arc<dyn Put>) {
    for round in 0..6 {
        let path = path(&format!("conform/race/{round}/object"));
        let racers: Vec<_> = (0..16u64)
            .map(|racer| {
                let (store, path) = (Arc::clone(store), path.clone());
                tokio::spawn(async move { store.put_new(&path, Bytes::from(pattern(2000, racer))).await })
            })
            .collect();
        let mut winners = Vec::new();
        for (racer, answer) in racers.into_iter().enumerate() {
            if answer.await.expect("no racer panics").expect("no racer fails") == Created::New {
                winners.push(racer as u64);
            }
        }
        assert_eq!(winners.len(), 1, "exactly one of racing puts is new, not {winners:?}");
        assert_eq!(store.get(&path).await.unwrap(), pattern(2000, winners[0]), "the winner's bytes are the object");
    }
}

async fn replacing_needs_the_current_version(store: &Arc<dyn Put>) {
    let document = path("conform/document");
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    let first = store.replace(&document, text("1"), None).await.unwrap().expect("it did not exist");
    assert_eq!(store.info(&document).await.unwrap().unwrap().version, first, "info names the version replace returned");
    assert_eq!(store.replace(&document, text("1 again"), None).await.unwrap(), None);
    let second = store.replace(&document, text("2"), Some(&first)).await.unwrap().expect("the version is current");
    assert_ne!(first, second);
    assert_eq!(store.replace(&document, text("stale"), Some(&first)).await.unwrap(), None);
    assert_eq!(store.get(&document).await.unwrap().as_ref(), b"2");
    assert_eq!(store.replace(&path("conform/no-document"), text("x"), Some(&first)).await.unwrap(), None);
    assert_eq!(store.info(&path("conform/no-document")).await.unwrap(), None);

    // Fast successions of equal lengths: every version is another, and of racers from one version one wins.
    let mut seen = vec![first, second];
    for round in 0..8u8 {
        let current = seen.last().expect("not empty").clone();
        let racers: Vec<_> = (0..6u8)
            .map(|racer| {
                let (store, document, current) = (Arc::clone(store), document.clone(), current.clone());
                tokio::spawn(async move { store.replace(&document, Bytes::from(vec![round, racer]), Some(&current)).await })
            })
            .collect();
        let mut won = Vec::new();
        for (racer, answer) in racers.into_iter().enumerate() {
            won.extend(answer.await.expect("no racer panics").expect("no racer fails").map(|version| (racer as u8, version)));
        }
        assert_eq!(won.len(), 1, "exactly one of racing replacements wins, not {won:?}");
        let (racer, version) = won.remove(0);
        assert_eq!(store.get(&document).await.unwrap().as_ref(), [round, racer]);
        assert!(!seen.contains(&version), "versions do not repeat");
        seen.push(version);
    }
}

async fn lists_are_sorted_complete_and_bounded(store: &dyn Put) {
    let names = ["l/a+b/1", "l/a-b", "l/a.b/1", "l/a/1", "l/a/2/x", "l/a/20", "l/a/3", "l/a0", "l/ab/1", "l/b=/+", "l/z"];
    for name in names.iter().rev() {
        store.put_new(&path(&format!("conform/{name}")), Bytes::from_static(b"x")).await.expect("put_new works");
    }
    let all: Vec<String> = names.iter().map(|name| format!("conform/{name}")).collect();
    assert!(all.is_sorted());
    assert_eq!(listed(store, "conform/l", None).await, all, "everything below a folder, by path bytes");
    assert_eq!(listed(store, "conform/l/a", None).await, all[3..7], "a folder's name ends where it ends");
    for (at, after) in all.iter().enumerate() {
        assert_eq!(listed(store, "conform/l", Some(&path(after))).await, all[at + 1..], "after {after}");
    }
    assert_eq!(listed(store, "conform/l", Some(&path("conform/l/a/2"))).await, all[4..], "after a name that is not there");
    assert_eq!(listed(store, "conform/l", Some(&path("conform/k"))).await, all, "after a name before the folder");
    assert!(listed(store, "conform/l", Some(&path("conform/m"))).await.is_empty(), "after a name behind the folder");
    assert_eq!(store.folders("conform/l").await.unwrap(), ["a", "a+b", "a.b", "ab", "b="]);
    assert_eq!(store.folders("conform/l/a").await.unwrap(), ["2"]);
    assert!(store.folders("").await.unwrap().contains(&"conform".to_owned()));
    let everything = listed(store, "", None).await;
    assert!(everything.is_sorted() && all.iter().all(|name| everything.contains(name)), "the root lists everything");

    for number in 0..1100 {
        store.put_new(&path(&format!("conform/many/{number:05}")), Bytes::new()).await.expect("put_new works");
    }
    let many = listed(store, "conform/many", None).await;
    assert!(many.len() == 1100 && many.is_sorted(), "more objects than one page holds");
    assert_eq!(listed(store, "conform/many", Some(&path("conform/many/00998"))).await.len(), 101);
    let few: Vec<_> = store.list("conform/many", None).take(3).collect().await;
    assert_eq!(few.len(), 3, "a listing may be left early");
}

/// Appends from `threads` threads; checks every offset against what is stored.
async fn append_and_check(store: &Arc<dyn Put>, name: &str, threads: usize, pieces: usize, piece_bytes: usize) {
    let path = path(name);
    let sink = tokio::task::spawn_blocking({
        let (store, path) = (Arc::clone(store), path.clone());
        move || store.begin(&path).expect("begin works")
    });
    let sink = sink.await.unwrap();
    let writers: Vec<_> = (0..threads)
        .map(|thread| {
            let sink = Arc::clone(&sink);
            std::thread::spawn(move || {
                let append = |piece| {
                    let seed = (thread * 1_000_000 + piece) as u64;
                    let length = piece_bytes + thread + piece % 7;
                    (sink.append(&pattern(length, seed)).expect("append works"), length, seed)
                };
                (0..pieces).map(append).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut placed = Vec::new();
    for writer in writers {
        placed.extend(tokio::task::spawn_blocking(|| writer.join().expect("no writer panics")).await.unwrap());
    }
    tokio::task::spawn_blocking(move || sink.finish().expect("finish works")).await.unwrap();
    store.settle().await.expect("settle works");
    let total: u64 = placed.iter().map(|(_, length, _)| *length as u64).sum();
    assert_eq!(store.info(&path).await.unwrap().expect("settled objects are there").bytes, total, "{name}");
    let body = store.get(&path).await.expect("get works");
    assert_eq!(body.len() as u64, total, "{name}");
    for (offset, length, seed) in placed {
        assert_eq!(body.slice(offset as usize..offset as usize + length), pattern(length, seed), "{name}: the piece at {offset}");
    }
}

async fn large_objects_are_appended_to_by_threads(store: &Arc<dyn Put>) {
    append_and_check(store, "conform/large/small", 4, 5, 1000).await;
    append_and_check(store, "conform/large/of-one-put", 4, 9, 1 << 20).await;
    append_and_check(store, "conform/large/of-parts", 4, 15, 1 << 20).await;
    append_and_check(store, "conform/large/in-great-pieces", 1, 3, 24 << 20).await;
    append_and_check(store, "conform/large/empty", 0, 0, 0).await;
}

/// What begins, finishes or settles an object that exists says so, and leaves it as it is.
async fn an_object_that_exists_is_not_begun_again(store: &Arc<dyn Put>) {
    for (name, length) in [("conform/begun/small", 1000), ("conform/begun/large", 50 << 20)] {
        let path = path(name);
        store.put_new(&path, Bytes::from_static(b"first")).await.expect("put_new works");
        let writing = tokio::task::spawn_blocking({
            let (store, path) = (Arc::clone(store), path.clone());
            move || {
                let sink = store.begin(&path)?;
                for piece in pattern(length, 9).chunks(4 << 20) {
                    sink.append(piece)?;
                }
                sink.finish()
            }
        });
        let answer = match writing.await.unwrap() {
            Ok(()) => store.settle().await,
            Err(error) => Err(error),
        };
        assert!(matches!(answer, Err(StoreError::Exists { .. })), "{name}: {answer:?}");
        assert_eq!(store.get(&path).await.unwrap().as_ref(), b"first", "{name}");
    }
}

async fn a_sink_dropped_unfinished_leaves_nothing(store: &Arc<dyn Put>) {
    for (name, length) in [("conform/dropped/small", 1000), ("conform/dropped/large", 45 << 20)] {
        let path = path(name);
        let writing = tokio::task::spawn_blocking({
            let (store, path) = (Arc::clone(store), path.clone());
            move || {
                let sink: Arc<dyn ObjectSink> = store.begin(&path).expect("begin works");
                sink.append(&pattern(length, 5)).expect("append works");
            }
        });
        writing.await.unwrap();
        assert_eq!(store.info(&path).await.unwrap(), None, "{name}");
    }
}

/// Begins an object that grows; `None` where objects cannot, which must be said.
async fn grow(store: &Arc<dyn Put>, path: &ObjectPath) -> Option<Box<dyn Growing>> {
    let begun = blocking(store, path, |store, path| store.grow(path)).await;
    if store.can_grow() {
        return Some(begun.expect("grow works"));
    }
    assert!(matches!(begun.err(), Some(StoreError::Failed { .. })), "what cannot grow is refused");
    assert_eq!(store.info(path).await.unwrap(), None, "what was refused leaves nothing");
    None
}

async fn blocking<T: Send + 'static>(store: &Arc<dyn Put>, path: &ObjectPath, call: impl FnOnce(&dyn Put, &ObjectPath) -> T + Send + 'static) -> T {
    let (store, path) = (Arc::clone(store), path.clone());
    tokio::task::spawn_blocking(move || call(&*store, &path)).await.expect("no call panics")
}

/// Adds these bytes; gives back what grows, and how that ended.
async fn add(mut growing: Box<dyn Growing>, bytes: Vec<u8>) -> (Box<dyn Growing>, Result<(), StoreError>) {
    let adding = tokio::task::spawn_blocking(move || {
        let added = growing.add(&bytes);
        (growing, added)
    });
    adding.await.expect("add does not panic")
}

async fn what_grows_is_read_back_after_each_addition(store: &Arc<dyn Put>) {
    let path = path("conform/grown/object");
    let Some(mut growing) = grow(store, &path).await else { return };
    let mut whole = Vec::new();
    for (seed, length) in [1, 100, 5000, 3 << 20, 1, 70_000].into_iter().enumerate() {
        let bytes = pattern(length, 40 + seed as u64);
        whole.extend_from_slice(&bytes);
        let added;
        (growing, added) = add(growing, bytes).await;
        added.expect("add works");
        let read = store.get(&path).await.expect("get works");
        let (added, ahead) = read.split_at(whole.len());
        assert!(added == whole && ahead.iter().all(|byte| *byte == 0), "after addition {seed}");
        assert_eq!(store.info(&path).await.unwrap().expect("it is there").bytes, read.len() as u64);
    }
    let from = whole.len() - 10;
    assert_eq!(store.get_range(&path, from as u64..whole.len() as u64).await.unwrap(), whole[from..]);
    drop(growing);
    assert_eq!(store.get(&path).await.unwrap(), whole, "it stays when nobody adds to it any more");
    assert_eq!(listed(&**store, "conform/grown", None).await, [path.to_string()]);
}

async fn an_object_that_exists_is_not_grown_anew(store: &Arc<dyn Put>) {
    if !store.can_grow() {
        return;
    }
    let (put, grown) = (path("conform/grown/put"), path("conform/grown/twice"));
    store.put_new(&put, Bytes::from_static(b"first")).await.expect("put_new works");
    let growing = grow(store, &grown).await.expect("it can");
    let begun_again = blocking(store, &grown, |store, path| store.grow(path).err()).await;
    assert!(matches!(begun_again, Some(StoreError::Exists { .. })), "two never add to one object: {begun_again:?}");
    let (growing, added) = add(growing, b"first".to_vec()).await;
    added.expect("whoever was first goes on");
    drop(growing);
    for path in [put, grown] {
        let begun = blocking(store, &path, |store, path| store.grow(path).err()).await;
        assert!(matches!(begun, Some(StoreError::Exists { .. })), "{path}: {begun:?}");
        assert_eq!(store.get(&path).await.unwrap().as_ref(), b"first", "{path}");
        assert_eq!(store.put_new(&path, Bytes::from_static(b"other")).await.unwrap(), Created::AlreadyThere);
    }
}

async fn what_never_grew_leaves_nothing(store: &Arc<dyn Put>) {
    let path = path("conform/dropped/growing");
    drop(grow(store, &path).await);
    assert_eq!(store.info(&path).await.unwrap(), None);
    assert!(!listed(&**store, "conform", None).await.contains(&path.to_string()));
}

/// Nobody would find what is added to it: that must not be confirmed.
async fn what_was_removed_grows_no_more(store: &Arc<dyn Put>, remover: &dyn Remove) {
    for additions in [0, 2] {
        let path = path(&format!("conform/grown/removed-after-{additions}"));
        let Some(mut growing) = grow(store, &path).await else { return };
        for _ in 0..additions {
            let added;
            (growing, added) = add(growing, vec![7; 100]).await;
            added.expect("add works");
        }
        remover.remove(&path).await.expect("remove works");
        for again in ["it was removed", "an addition failed before"] {
            let added;
            (growing, added) = add(growing, vec![7; 100]).await;
            assert!(added.is_err(), "{additions} additions, then {again}");
        }
        drop(growing);
        assert_eq!(store.info(&path).await.unwrap(), None);
    }
}

async fn removing_removes(store: &dyn Put, remover: &dyn Remove) {
    remover.remove(&path("conform/never/was")).await.expect("removing nothing is no error");
    let once = path("conform/once");
    remover.remove(&once).await.expect("remove works");
    assert_eq!(store.info(&once).await.unwrap(), None);
    assert_eq!(store.put_new(&once, Bytes::from_static(b"anew")).await.unwrap(), Created::New, "the name is free again");
    let all: Vec<ObjectInfo> = store.list("conform", None).try_collect().await.expect("listing works");
    futures::stream::iter(&all).for_each_concurrent(16, async |object| remover.remove(&object.path).await.expect("remove works")).await;
    assert!(listed(store, "conform", None).await.is_empty());
    // Servers that keep folders tidy them up later.
    assert!(store.is_remote() || !store.folders("").await.unwrap().contains(&"conform".to_owned()), "an emptied folder is none");
}
