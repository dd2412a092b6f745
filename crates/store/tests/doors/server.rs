//! A bucket of a real server that conforms, and the errors of one that is addressed wrongly.

use crate::{conformance::conform, path, s3::S3Server};
use bytes::Bytes;
use futures::TryStreamExt;
use std::sync::Arc;
use store::{StoreError, StoreOptions};
use terms::{Explain, Secret};

async fn server(bucket: &str) -> &'static S3Server {
    let server = tokio::task::spawn_blocking(S3Server::shared).await.unwrap();
    server.create_bucket(bucket);
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bucket_keeps_every_promise() {
    let server = server("conform").await;
    // The whole bucket; the testkit's own test holds a prefix to the same.
    let url = server.url("conform", "");
    conform(store::open(&url, &server.options()).unwrap(), store::open_remover(&url, &server.options()).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_passes_the_probe() {
    let server = server("probe").await;
    let url = server.url("probe", "x");
    let (store, remover) = (store::open(&url, &server.options()).unwrap(), store::open_remover(&url, &server.options()).unwrap());
    let found = store::probe(&*store, Some(&*remover), "").await.unwrap();
    assert!(found.all(), "{found:?}");
    assert_eq!(store.list("", None).try_collect::<Vec<_>>().await.unwrap(), [], "it leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_and_an_unknown_key_are_denied() {
    let server = server("denied").await;
    let secret = "not-the-secret-1234";
    let wrong_secret = StoreOptions { secret_access_key: Some(Secret::new(secret.to_owned())), ..server.options() };
    let unknown_key = StoreOptions { access_key_id: Some(Secret::new("nobody".to_owned())), ..server.options() };
    for options in [wrong_secret, unknown_key] {
        let store = store::open(&server.url("denied", "x"), &options).unwrap();
        for error in [
            store.put_new(&path("a"), Bytes::from_static(b"x")).await.unwrap_err(),
            store.get(&path("a")).await.unwrap_err(),
            store.info(&path("a")).await.unwrap_err(),
            store.list("", None).try_collect::<Vec<_>>().await.unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
            let text = error.advice().to_string();
            assert!(!text.contains(secret) && text.contains("hint: "), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_no_store_rather_than_an_empty_one() {
    let server = server("there").await;
    let store = store::open(&server.url("not-there", "x"), &server.options()).unwrap();
    for error in [
        store.get(&path("a")).await.unwrap_err(),
        store.info(&path("a")).await.unwrap_err(),
        store.list("", None).try_collect::<Vec<_>>().await.unwrap_err(),
        store.folders("").await.unwrap_err(),
        store.put_new(&path("a"), Bytes::from_static(b"x")).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::NoStore { .. }), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_are_accepted_with_conditions_and_in_parts() {
    let server = server("sums").await;
    for checksum in ["crc64nvme", "sha256", "none"] {
        let options = StoreOptions { checksum: Some(checksum.to_owned()), in_flight_bytes: Some(16 << 20), ..server.options() };
        let store = store::open(&server.url("sums", checksum), &options).unwrap();
        store.put_new(&path("small"), Bytes::from_static(b"x")).await.unwrap();
        let writing = tokio::task::spawn_blocking({
            let store = Arc::clone(&store);
            move || {
                let sink = store.begin(&path("large")).unwrap();
                for piece in 0..50u8 {
                    sink.append(&vec![piece; 1 << 20]).unwrap();
                }
                sink.finish().unwrap();
            }
        });
        writing.await.unwrap();
        store.settle().await.unwrap();
        let part = store.get_range(&path("large"), (33 << 20) - 1..(33 << 20) + 1).await.unwrap();
        assert_eq!(part.as_ref(), [32, 33], "{checksum}");
    }
}
