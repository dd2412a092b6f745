//! A real bucket behind a connection that is slow, cut, silent or down: what the store says of it, and that it recovers.

use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Created, ObjectPath, Put, StoreError, StoreOptions};
use testkit::s3::S3Server;
use testkit::toxiproxy::{self, Direction};
use testkit::{Bowline, Cluster, Proxy, RepositoryKind, Toxic, newest_major};

fn path(text: &str) -> ObjectPath {
    ObjectPath::new(text).unwrap()
}

/// A store in a bucket of its own, reached through a proxy of its own.
async fn behind_proxy(bucket: &'static str) -> (Proxy, Arc<dyn Put>) {
    let proxy = tokio::task::spawn_blocking(move || {
        S3Server::shared().create_bucket(bucket);
        toxiproxy::s3()
    });
    let proxy = proxy.await.unwrap();
    let options = StoreOptions { endpoint: Some(proxy.endpoint()), ..S3Server::shared().options() };
    let store = store::open(&format!("s3://{bucket}/x"), &options).unwrap();
    (proxy, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_takes_at_least_its_delay_and_loses_nothing() {
    let (proxy, store) = behind_proxy("slow").await;
    assert_eq!(store.put_new(&path("a"), Bytes::from_static(b"before")).await.unwrap(), Created::New);
    let delay = Duration::from_millis(300);
    proxy.add(Toxic::Latency(delay), Direction::Downstream);
    for (name, body) in [("b", &b"one"[..]), ("c", b"two")] {
        let begun = Instant::now();
        assert_eq!(store.put_new(&path(name), Bytes::from_static(body)).await.unwrap(), Created::New);
        assert!(begun.elapsed() >= delay, "the answer cannot have come through the slow link");
        assert_eq!(store.get(&path(name)).await.unwrap(), body);
    }
    assert_eq!(store.put_new(&path("a"), Bytes::from_static(b"after")).await.unwrap(), Created::AlreadyThere);
    proxy.heal();
    assert_eq!(store.get(&path("a")).await.unwrap(), &b"before"[..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_unreachable_until_it_is_up_again() {
    let (proxy, store) = behind_proxy("down").await;
    store.put_new(&path("a"), Bytes::from_static(b"x")).await.unwrap();
    proxy.down();
    let error = store.put_new(&path("b"), Bytes::from_static(b"y")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    proxy.up();
    assert_eq!(store.get(&path("a")).await.unwrap(), &b"x"[..]);
    assert!(store.info(&path("b")).await.unwrap().is_none(), "a put that failed for want of a connection stored nothing");
    assert_eq!(store.put_new(&path("b"), Bytes::from_static(b"y")).await.unwrap(), Created::New);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_cut_off_on_the_way_is_settled_by_what_is_stored() {
    let (proxy, store) = behind_proxy("cut").await;
    for (name, toxic) in [("closed", Toxic::LimitData(20)), ("reset", Toxic::ResetPeer(Duration::ZERO))] {
        // The first answers do not arrive whole; the link heals while the store is trying again.
        proxy.add(toxic, Direction::Downstream);
        let writing = tokio::spawn({
            let (store, path) = (Arc::clone(&store), path(name));
            async move { store.put_new(&path, Bytes::from_static(b"once")).await }
        });
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(!writing.is_finished(), "{name}: no answer can have arrived");
        proxy.heal();
        assert_eq!(writing.await.unwrap().unwrap(), Created::New, "{name}");
        assert_eq!(store.get(&path(name)).await.unwrap(), &b"once"[..]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_link_carries_a_large_object_whole() {
    let (proxy, store) = behind_proxy("narrow").await;
    let body: Vec<u8> = (0..1_500_000u32).map(|i| (i % 251) as u8).collect();
    proxy.add(Toxic::Bandwidth(2000), Direction::Upstream);
    let begun = Instant::now();
    store.put_new(&path("a"), Bytes::from(body.clone())).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(500), "1.5 MB cannot have come through 2 MB/s in {:?}", begun.elapsed());
    assert_eq!(store.get(&path("a")).await.unwrap(), body);
}

#[test]
fn the_program_reaches_its_repository_through_a_proxy_and_says_so_when_it_cannot() {
    let cluster = Cluster::start(newest_major());
    let proxy = toxiproxy::s3();
    let bowline = Bowline::new(&cluster, RepositoryKind::S3Through(&proxy));
    bowline.ok(&["backup"]);
    proxy.down();
    let text = bowline.fails(&["backup"], 5, "store-unreachable");
    assert!(text.contains("s3://"), "{text}");
    proxy.up();
    bowline.ok(&["backup"]);
    assert_eq!(bowline.ok(&["list"])["backups"].as_array().map(Vec::len), Some(2));
}
