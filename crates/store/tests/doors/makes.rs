//! Every make of store keeps the same promises, and what each does differently is told.

use crate::conformance::conform;
use crate::path;
use crate::s3::S3Server;
use crate::stand_in::{Likeness, StandIn};
use crate::stores::{MINIO_KEY, Make, ObjectServer};
use bytes::Bytes;
use futures::TryStreamExt;
use std::sync::Arc;
use store::{Created, Item, ItemFacts, Site, Sse, Store, StoreError, StoreOptions};
use terms::{Clock, SystemClock};

async fn start(make: Make) -> ObjectServer {
    tokio::task::spawn_blocking(move || ObjectServer::start(make)).await.unwrap()
}

async fn keeps_every_promise(url: &str, options: &StoreOptions) {
    conform(store::open(url, options).unwrap(), store::open_remover(url, options).unwrap()).await;
}

/// Stores 45 MiB in parts, and sees that they are there.
async fn write_large(store: &Arc<dyn Store>) {
    let writing = tokio::task::spawn_blocking({
        let store = Arc::clone(store);
        move || {
            let sink = store.begin(&path("large")).unwrap();
            for piece in 0..45u8 {
                sink.append(&vec![piece; 1 << 20]).unwrap();
            }
            sink.finish().unwrap();
        }
    });
    writing.await.unwrap();
    store.settle().await.unwrap();
    assert_eq!(store.info(&path("large")).await.unwrap().unwrap().bytes, 45 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn versitygw_conforms() {
    let server = start(Make::Versitygw).await;
    server.create_bucket("conform").await;
    keeps_every_promise(&server.url("conform", "org/kb"), &server.options()).await;
}

/// A mock: this shows that Bowline and the mock agree, not that AWS does as the mock.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_mock_of_aws_conforms() {
    let server = start(Make::Moto).await;
    server.create_bucket("conform").await;
    keeps_every_promise(&server.url("conform", "org/kb"), &server.options()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "MinIO takes minutes to compile: ./test --full installs it and runs this"]
async fn minio_conforms_and_encrypts_with_its_kms() {
    let server = start(Make::Minio).await;
    server.create_bucket("conform").await;
    let options = StoreOptions { sse: Sse::Required, sse_kms_key_id: Some(MINIO_KEY.to_owned()), ..server.options() };
    keeps_every_promise(&server.url("conform", "org/kb"), &options).await;
    let no_such_key = StoreOptions { sse_kms_key_id: Some("no-such-key".to_owned()), ..options };
    let store = store::open(&server.url("conform", "x"), &no_such_key).unwrap();
    let error = store.put_new(&path("a"), Bytes::from_static(b"x")).await.unwrap_err();
    assert!(matches!(error, StoreError::NotEncrypted { .. } | StoreError::Failed { .. }), "{error:?}");
}

/// Microsoft's emulator.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn azure_conforms_by_its_emulator() {
    let server = start(Make::Azurite).await;
    server.create_bucket("conform").await;
    keeps_every_promise(&server.url("conform", "org/kb"), &server.options()).await;
}

/// A stand-in: Google's conditions in front of a mock of S3, which lists in the order of bytes, as Google does, and asks nobody for a key.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn google_conforms_by_a_stand_in() {
    let server = start(Make::Moto).await;
    server.create_bucket("conform").await;
    let google = StandIn::start(Likeness::Google, server.port());
    let options = StoreOptions { endpoint: Some(google.endpoint()), ..StoreOptions::default() };
    keeps_every_promise("gs://conform/org/kb", &options).await;
}

/// A stand-in: the limits of older Ceph gateways in front of a real S3 server.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_old_ceph_conforms_by_a_stand_in() {
    let server = tokio::task::spawn_blocking(S3Server::shared).await.unwrap();
    server.create_bucket("ceph");
    let ceph = StandIn::start(Likeness::OldCeph, server.port());
    let options = StoreOptions { endpoint: Some(ceph.endpoint()), checksum: Some("md5".to_owned()), ..server.options() };
    keeps_every_promise("s3://ceph/org/kb", &options).await;
    assert_eq!(ceph.refused(), 0, "nothing that such a store refuses was ever asked of it");
    // The stand-in does refuse: what it demands is not sent by default.
    let store = store::open("s3://ceph/x", &StoreOptions { checksum: None, ..options }).unwrap();
    assert!(store.put_new(&path("a"), Bytes::from_static(b"x")).await.is_err());
    assert!(ceph.refused() > 0);
}

/// Keys that object_store cannot name, in the bucket of a repository.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_keys_keep_nothing_from_being_listed() {
    let server = start(Make::Moto).await;
    server.create_bucket("foreign").await;
    let url = server.url("foreign", "org/kb");
    let (store, site) = (store::open(&url, &server.options()).unwrap(), Site::open(&url, &server.options()).unwrap());
    for name in ["full/a", "full/b/c", "z"] {
        assert_eq!(store.put_new(&path(name), Bytes::from_static(b"x")).await.unwrap(), Created::New);
    }
    for key in ["full//x", "full/b/tab\there", "full/a b", "/lead", "tab\t/x"] {
        let mut upload = site.begin(key, 1, &ItemFacts::default(), SystemClock.now(), None).await.unwrap();
        upload.piece(Bytes::from_static(b"x")).await.unwrap();
        upload.finish().await.unwrap();
    }
    let first = path("full/a");
    for (folder, after, wanted) in
        [("", None, &["full/a", "full/b/c", "z"][..]), ("full", None, &["full/a", "full/b/c"][..]), ("", Some(&first), &["full/b/c", "z"][..])]
    {
        let found: Vec<_> = store.list(folder, after).map_ok(|object| object.path.to_string()).try_collect().await.unwrap();
        assert_eq!(found, wanted, "{folder:?} after {after:?}");
    }
    assert_eq!((store.folders("").await.unwrap(), store.folders("full").await.unwrap()), (vec!["full".to_owned()], vec!["b".to_owned()]));
    // Google's and Azure's listings are object_store's: there such a key is named, and what helps.
    let google = StandIn::start(Likeness::Google, server.port());
    let options = StoreOptions { endpoint: Some(google.endpoint()), ..StoreOptions::default() };
    let error = store::open("gs://foreign/org/kb", &options).unwrap().list("full", None).try_collect::<Vec<_>>().await.unwrap_err();
    assert!(matches!(&error, StoreError::Failed { why, .. } if why.contains("org/kb/full//x") && why.contains("remove it")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_store_is_waited_for_and_fails_nothing() {
    let server = tokio::task::spawn_blocking(S3Server::shared).await.unwrap();
    server.create_bucket("busy");
    // More refusals than object_store repeats, in a row, whatever is asked; of our own requests more than four.
    for (what, times) in [("put", 9), ("get", 9), ("list", 6), ("site", 6)] {
        let busy = StandIn::start(Likeness::Busy(times), server.port());
        let options = StoreOptions { endpoint: Some(busy.endpoint()), ..server.options() };
        let store = store::open("s3://busy/x", &options).unwrap();
        match what {
            "put" => assert_eq!(store.put_new(&path("a"), Bytes::from_static(b"x")).await.unwrap(), Created::New),
            "get" => assert_eq!(store.get(&path("a")).await.unwrap().as_ref(), b"x"),
            "site" => {
                let found: Vec<Item> = Site::open("s3://busy/x", &options).unwrap().current().try_collect().await.unwrap();
                assert_eq!(found.len(), 1);
            }
            _ => assert!(store.folders("").await.unwrap().is_empty()),
        }
        assert_eq!(busy.refused(), times, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_for_seconds_ends_neither_a_put_nor_a_large_object() {
    let server = tokio::task::spawn_blocking(S3Server::shared).await.unwrap();
    server.create_bucket("leaving");
    let leaving = |requests, seconds| {
        let options =
            StoreOptions { endpoint: Some(StandIn::start(Likeness::Leaving(requests, seconds), server.port()).endpoint()), ..server.options() };
        store::open("s3://leaving/x", &options).unwrap()
    };
    let store = leaving(1, 3);
    for name in ["first", "second"] {
        assert_eq!(store.put_new(&path(name), Bytes::from_static(b"x")).await.unwrap(), Created::New);
    }
    // Two looks whether it is there, and the beginning: nobody listens when its parts come.
    let store = leaving(3, 7);
    write_large(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_refuses_or_cuts_in_the_middle_is_read_whole_all_the_same() {
    let server = tokio::task::spawn_blocking(S3Server::shared).await.unwrap();
    server.create_bucket("gateway");
    let body: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let direct = store::open("s3://gateway/x", &server.options()).unwrap();
    direct.put_new(&path("f/a"), Bytes::from(body.clone())).await.unwrap();
    let gateway = StandIn::start(Likeness::Failing(2), server.port());
    let options = StoreOptions { endpoint: Some(gateway.endpoint()), ..server.options() };
    let store = store::open("s3://gateway/x", &options).unwrap();
    for _ in 0..4 {
        assert!(store.get(&path("f/a")).await.unwrap() == body);
        assert!(store.get_range(&path("f/a"), 1_000_000..2_000_000).await.unwrap().as_ref() == &body[1_000_000..2_000_000]);
        assert_eq!(store.folders("").await.unwrap(), ["f"]);
    }
    assert!(gateway.cut() > 1 && gateway.refused() > 7, "{gateway:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_lost_by_a_real_server_counts_as_done() {
    let server = tokio::task::spawn_blocking(S3Server::shared).await.unwrap();
    server.create_bucket("forgetful");
    let forgetful = StandIn::start(Likeness::Forgetful, server.port());
    let options = StoreOptions { endpoint: Some(forgetful.endpoint()), ..server.options() };
    let store = store::open("s3://forgetful/x", &options).unwrap();
    assert_eq!(store.put_new(&path("once"), Bytes::from_static(b"x")).await.unwrap(), Created::New);
    let first = store.replace(&path("document"), Bytes::from_static(b"1"), None).await.unwrap().unwrap();
    store.replace(&path("document"), Bytes::from_static(b"2"), Some(&first)).await.unwrap().unwrap();
    write_large(&store).await;
    assert_eq!(forgetful.lost(), 3, "once, document and large: each answer was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_the_wish_for_encryption_is_refused_before_anything_is_written() {
    let server = start(Make::Versitygw).await;
    server.create_bucket("ignores").await;
    let options = StoreOptions { sse: Sse::Required, sse_kms_key_id: Some("my-key".to_owned()), ..server.options() };
    let store = store::open(&server.url("ignores", "x"), &options).unwrap();
    for error in [
        store.ready().await.unwrap_err(),
        store.put_new(&path("a"), Bytes::from_static(b"x")).await.unwrap_err(),
        store.replace(&path("b"), Bytes::from_static(b"x"), None).await.unwrap_err(),
    ] {
        assert!(matches!(&error, StoreError::NotEncrypted { why, .. } if why.contains("ignores") && why.contains("my-key")), "{error:?}");
    }
    assert_eq!((store.info(&path("a")).await.unwrap(), store.info(&path("b")).await.unwrap()), (None, None));
    // Preferred, it is named but used.
    let options = StoreOptions { sse: Sse::Preferred, ..options };
    let (store, remover) =
        (store::open(&server.url("ignores", "y"), &options).unwrap(), store::open_remover(&server.url("ignores", "y"), &options).unwrap());
    store.put_new(&path("a"), Bytes::from_static(b"x")).await.unwrap();
    let found = store::probe(&*store, Some(&*remover), "").await.unwrap();
    assert!(found.nature.encrypted_as_asked.as_deref().is_some_and(|told| told.contains("ignores")), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_encrypts_as_asked_is_used_and_another_key_is_noticed() {
    let server = start(Make::Moto).await;
    server.create_bucket("honours").await;
    let with = |key: &str| StoreOptions { sse: Sse::Required, sse_kms_key_id: Some(key.to_owned()), ..server.options() };
    let url = server.url("honours", "x");
    let store = store::open(&url, &with("my-key")).unwrap();
    assert_eq!(store.put_new(&path("a"), Bytes::from_static(b"x")).await.unwrap(), Created::New);
    let large = {
        let store = Arc::clone(&store);
        tokio::task::spawn_blocking(move || {
            let sink = store.begin(&path("large")).unwrap();
            for _ in 0..45 {
                sink.append(&vec![7; 1 << 20]).unwrap();
            }
            sink.finish().unwrap();
        })
    };
    large.await.unwrap();
    store.settle().await.unwrap();
    // The next key is tried anew, although the probe's object is there from before.
    let other = store::open(&url, &with("other-key")).unwrap();
    assert_eq!(other.put_new(&path("b"), Bytes::from_static(b"x")).await.unwrap(), Created::New);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_kms_is_missing_says_so_soon() {
    let server = tokio::task::spawn_blocking(S3Server::shared).await.unwrap();
    server.create_bucket("no-kms");
    let options = StoreOptions { sse: Sse::Required, sse_kms_key_id: Some("my-key".to_owned()), ..server.options() };
    let begun = std::time::Instant::now();
    let error = store::open(&server.url("no-kms", "x"), &options).unwrap().ready().await.unwrap_err();
    assert!(matches!(&error, StoreError::NotEncrypted { why, .. } if why.contains("cannot encrypt")), "{error:?}");
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_uploads_are_seen_with_their_size_and_ended() {
    let (weed, gateway) = (tokio::task::spawn_blocking(S3Server::shared).await.unwrap(), start(Make::Versitygw).await);
    weed.create_bucket("uploads");
    gateway.create_bucket("uploads").await;
    for options in [weed.options(), gateway.options()] {
        let store = store::open("s3://uploads/org/kb", &options).unwrap();
        let remover = store::open_remover("s3://uploads/org/kb", &options).unwrap();
        let elsewhere = store::open_remover("s3://uploads/org/kb2", &options).unwrap();
        // A sink that is forgotten, as by a process that was killed: its parts stay.
        let writing = {
            let store = Arc::clone(&store);
            tokio::task::spawn_blocking(move || {
                let sink = store.begin(&path("data/1")).unwrap();
                for _ in 0..60 {
                    sink.append(&vec![7; 1 << 20]).unwrap();
                }
                std::mem::forget(sink);
            })
        };
        writing.await.unwrap();
        let begun = std::time::Instant::now();
        let found = loop {
            let found = store.unfinished().await.unwrap();
            let found = found.known().unwrap_or_else(|| panic!("{found:?}")).clone();
            if found.iter().any(|upload| upload.bytes.is_some_and(|bytes| bytes >= 32 << 20)) || begun.elapsed().as_secs() > 30 {
                break found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        };
        assert_eq!(found.iter().map(|upload| upload.key()).collect::<Vec<_>>(), ["org/kb/data/1"], "{found:?}");
        assert!(found[0].bytes.is_some_and(|bytes| bytes >= 32 << 20), "{found:?}");
        assert_eq!(elsewhere.unfinished().await.unwrap().known().map(Vec::len), Some(0), "others' uploads are none of ours");
        assert!(found[0].touched >= found[0].begun, "{found:?}");
        let in_days = |days: i64| SystemClock.now().plus_micros(days * 86_400 * 1_000_000);
        let later = in_days(8);
        assert_eq!(store::end_abandoned_uploads(&*remover, in_days(6)).await.unwrap(), [], "that of a long backup may be under way");
        assert_eq!(store::end_abandoned_uploads(&*elsewhere, later).await.unwrap(), []);
        let ended = store::end_abandoned_uploads(&*remover, later).await.unwrap();
        assert_eq!(ended.iter().map(|upload| upload.key()).collect::<Vec<_>>(), ["org/kb/data/1"]);
        remover.abandon(&found[0]).await.expect("what is gone is no error");
        assert_eq!(store.unfinished().await.unwrap().known().map(Vec::len), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_tells_what_each_make_is_like() {
    let gateway = start(Make::Versitygw).await;
    gateway.create_bucket("probe").await;
    let moto = start(Make::Moto).await;
    moto.create_bucket("probe").await;
    for (server, versioning, encryption) in [(&gateway, "off", "not supported"), (&moto, "off", "off")] {
        let url = server.url("probe", "x");
        let (store, remover) = (store::open(&url, &server.options()).unwrap(), store::open_remover(&url, &server.options()).unwrap());
        let found = store::probe(&*store, Some(&*remover), "").await.unwrap();
        assert!(found.all() && found.reasons.is_empty(), "{url}: {found:?}");
        assert_eq!(found.nature.conditional_complete, Some(true));
        assert_eq!(found.nature.versioning.as_deref(), Some(versioning));
        assert_eq!(found.nature.default_encryption.as_deref(), Some(encryption));
        assert!(found.nature.clock_skew_seconds.is_some_and(|skew| skew.abs() <= 5), "{found:?}");
        assert!(store.unfinished().await.unwrap().known().is_some_and(Vec::is_empty), "the probe leaves no upload");
    }
}
