//! An application's own objects, in buckets of real servers and in a folder: any key, what is written beside it, versions, large ones.

use crate::s3::S3Server;
use crate::stand_in::{Likeness, StandIn};
use crate::stores::{Make, ObjectServer};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use store::{Bucket, Item, ItemFacts, Outcome, Site, Step, StoreOptions};
use terms::{Clock, SystemClock};

/// More than a page of a listing holds.
const MANY: usize = 1010;

async fn put(site: &Site, key: &str, body: &[u8], facts: &ItemFacts) {
    let piece = Site::piece_bytes(body.len() as u64) as usize;
    let mut upload = site.begin(key, body.len() as u64, facts, SystemClock.now(), None).await.unwrap();
    for part in body.chunks(piece).chain(body.is_empty().then_some(&b""[..])) {
        upload.piece(Bytes::copy_from_slice(part)).await.unwrap();
    }
    upload.finish().await.unwrap();
}

async fn keys(site: &Site) -> Vec<Item> {
    site.current().try_collect().await.unwrap()
}

fn odd_keys() -> Vec<String> {
    ["a-b", "a/b", "a b/c+d/ü%41&=?#'\"<>.bin", "a.b/c", " lead", "x//y", "tab\there"].map(str::to_owned).to_vec()
}

async fn holds(url: &str, options: &StoreOptions, odd: &[String]) {
    let bucket = Bucket::open(url, options).unwrap().unwrap();
    assert_eq!(bucket.carry_out(&Step::Version).await.unwrap(), Outcome::Done);
    let site = Site::open(url, options).unwrap();
    assert!(site.keeps_versions().await.unwrap());
    let facts: ItemFacts = serde_json::from_str(r#"{"headers": {"content-type": "application/zip", "x-amz-meta-owner": "kb"}}"#).unwrap();
    for key in odd {
        put(&site, key, key.as_bytes(), &facts).await;
    }
    let mut wanted = odd.to_vec();
    wanted.sort();
    let found = keys(&site).await;
    assert_eq!(found.iter().map(|item| item.key.clone()).collect::<Vec<_>>(), wanted);
    for item in &found {
        let (body, beside) = site.read(item, 0..item.bytes).await.unwrap().unwrap();
        assert_eq!((body.as_ref(), &beside), (item.key.as_bytes(), &facts), "{}", item.key);
        assert_eq!(site.look(&item.key).await.unwrap().map(|found| (found.bytes, found.etag)), Some((item.bytes, item.etag.clone())));
    }
    // In parts, and read in parts.
    let large: Vec<u8> = (0..20_000_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    put(&site, "large", &large, &facts).await;
    let item = site.look("large").await.unwrap().unwrap();
    let (middle, beside) = site.read(&item, 8_388_600..8_388_700).await.unwrap().unwrap();
    assert_eq!((middle.as_ref(), item.bytes, &beside), (&large[8_388_600..8_388_700], 20_000_000, &facts));
    // What was overwritten or hidden is a version still, and what was listed is never taken for another.
    put(&site, "a-b", b"second", &ItemFacts::default()).await;
    let first = found.iter().find(|item| item.key == "a-b").unwrap();
    assert!(site.read(first, 0..first.bytes).await.unwrap().is_none(), "it was overwritten");
    site.hide("a-b", None).await.unwrap();
    assert!(site.look("a-b").await.unwrap().is_none());
    let versions: Vec<Item> = site.versions().try_filter(|item| std::future::ready(item.key == "a-b")).try_collect().await.unwrap();
    assert_eq!(versions.iter().map(|item| (item.is_removal, item.is_latest)).collect::<Vec<_>>(), [(true, true), (false, false), (false, false)]);
    let oldest = versions.last().unwrap();
    assert_eq!(site.read(oldest, 0..oldest.bytes).await.unwrap().unwrap().0.as_ref(), b"a-b");
}

/// A listing of several pages, with folders at its top, is whole and in order.
async fn lists_many(url: &str, options: &StoreOptions) {
    let site = Site::open(url, options).unwrap();
    let names: Vec<String> = (0..MANY).map(|number| format!("deep/{number}/x")).chain((0..50).map(|number| number.to_string())).collect();
    let plain = ItemFacts::default();
    stream::iter(&names).for_each_concurrent(32, |name| put(&site, name, b"x", &plain)).await;
    let mut wanted = names.clone();
    wanted.sort();
    assert_eq!(keys(&site).await.into_iter().map(|item| item.key).collect::<Vec<_>>(), wanted);
    let versions: Vec<Item> = site.versions().try_collect().await.unwrap();
    assert_eq!(versions.into_iter().map(|item| item.key).collect::<Vec<_>>(), wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bucket_gives_an_applications_objects_as_they_are() {
    let server = tokio::task::spawn_blocking(S3Server::shared).await.unwrap();
    server.create_bucket("sites");
    // SeaweedFS keeps folders: it has no part without a name, and trims none.
    let odd: Vec<String> = odd_keys().into_iter().filter(|key| !["x//y", "tab\there"].contains(&key.as_str())).collect();
    holds(&server.url("sites", "app"), &server.options(), &odd).await;
    lists_many(&server.url("sites", "many"), &server.options()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "MinIO takes minutes to compile: ./test --full installs it and runs this"]
async fn minio_gives_an_applications_objects_as_they_are() {
    let server = ObjectServer::start(Make::Minio);
    server.create_bucket("sites").await;
    let odd: Vec<String> = odd_keys().into_iter().filter(|key| key != "x//y").collect();
    holds(&server.url("sites", "app"), &server.options(), &odd).await;
    lists_many(&server.url("sites", "many"), &server.options()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_answer_is_lost_or_fails_late_is_known_by_its_note() {
    let server = tokio::task::spawn_blocking(S3Server::shared).await.unwrap();
    server.create_bucket("doubtful");
    for likeness in [Likeness::Forgetful, Likeness::FailingLate] {
        let unkind = StandIn::start(likeness, server.port());
        let options = StoreOptions { endpoint: Some(unkind.endpoint()), ..server.options() };
        let site = Site::open(&server.url("doubtful", &format!("{likeness:?}")), &options).unwrap();
        for (key, bytes) in [("small", 5), ("large", 20_000_000)] {
            let facts = ItemFacts::default().copy_of(&format!("etag:{bytes}"));
            let mut upload = site.begin(key, bytes as u64, &facts, SystemClock.now(), None).await.unwrap().replaces_nothing();
            for part in vec![7u8; bytes].chunks(Site::piece_bytes(bytes as u64) as usize) {
                upload.piece(Bytes::copy_from_slice(part)).await.unwrap();
            }
            upload.finish().await.unwrap_or_else(|error| panic!("{likeness:?}, {key}: {error:?}"));
            assert_eq!(site.look(key).await.unwrap().map(|item| item.bytes), Some(bytes as u64), "{likeness:?}");
        }
        assert_eq!(unkind.lost(), 2, "{likeness:?}: each answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_no_address_can_carry_is_refused_and_not_mistaken_for_another() {
    let server = tokio::task::spawn_blocking(S3Server::shared).await.unwrap();
    server.create_bucket("dots");
    let site = Site::open(&server.url("dots", ""), &server.options()).unwrap();
    put(&site, "secret", b"x", &ItemFacts::default()).await;
    let error = site.look("folder/../secret").await.unwrap_err();
    assert!(terms::Explain::in_a_line(&error).contains("no address can carry"), "{error:?}");
    // Nor is one hidden where that would be the end of it.
    assert!(site.hide("secret", None).await.is_err() && site.look("secret").await.unwrap().is_some());
}
