//! Answers that get lost, come late or lie: what a put reports must be true all the same.

use crate::fake::{Fake, Mishap};
use crate::path;
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Created, Fault, FaultPlan, Faults, Memory, Put, Store, StoreError};
use terms::Explain;

const OURS: Bytes = Bytes::from_static(b"ours");

async fn fake() -> (Fake, Arc<dyn Store>) {
    let fake = Fake::start().await;
    let store = store::open("s3://b/p", &fake.options()).unwrap();
    (fake, store)
}

#[tokio::test]
async fn a_put_whose_answer_is_lost_is_new_when_its_bytes_are_stored() {
    for mishap in [Mishap::StoredThenClosed, Mishap::StoredThen(499), Mishap::StoredThen(500), Mishap::StoredThen(503)] {
        let (fake, store) = fake().await;
        fake.mishaps([mishap]);
        assert_eq!(store.put_new(&path("a"), OURS).await.unwrap(), Created::New, "{mishap:?}");
        assert_eq!((fake.puts(), fake.object("p/a")), (1, Some(OURS.to_vec())), "{mishap:?}");
    }
}

#[tokio::test]
async fn a_put_that_never_arrived_is_made_again() {
    let (fake, store) = fake().await;
    // 409 is S3's answer while another put to the same name is under way; object_store calls it AlreadyExists.
    fake.mishaps([Mishap::Closed, Mishap::Refused(503), Mishap::Refused(409), Mishap::Refused(499), Mishap::StoredThenClosed]);
    assert_eq!(store.put_new(&path("a"), OURS).await.unwrap(), Created::New);
    assert_eq!((fake.puts(), fake.object("p/a")), (5, Some(OURS.to_vec())));
}

#[tokio::test]
async fn a_put_overtaken_by_another_is_not_new() {
    let (fake, store) = fake().await;
    fake.mishaps([Mishap::Overtaken]);
    assert_eq!(store.put_new(&path("a"), OURS).await.unwrap(), Created::AlreadyThere);
    assert_eq!(fake.object("p/a").unwrap(), b"another's");
    // Without a lost answer the same bytes under a taken name are somebody else's.
    store.put_new(&path("b"), OURS).await.unwrap();
    assert_eq!(store.put_new(&path("b"), OURS).await.unwrap(), Created::AlreadyThere);
}

#[tokio::test]
async fn a_replacement_whose_answer_is_lost_is_told_by_what_is_stored() {
    let (fake, store) = fake().await;
    let first = store.replace(&path("d"), Bytes::from_static(b"1"), None).await.unwrap().unwrap();
    fake.mishaps([Mishap::Closed, Mishap::StoredThenClosed]);
    let second = store.replace(&path("d"), Bytes::from_static(b"2"), Some(&first)).await.unwrap().unwrap();
    assert_eq!(store.info(&path("d")).await.unwrap().unwrap().version, second);
    fake.mishaps([Mishap::Overtaken]);
    assert_eq!(store.replace(&path("d"), Bytes::from_static(b"3"), Some(&second)).await.unwrap(), None);
    assert_eq!(fake.object("p/d").unwrap(), b"another's");
}

#[tokio::test]
async fn a_store_that_stays_broken_is_an_error_and_not_an_endless_wait() {
    let (fake, store) = fake().await;
    fake.mishaps([Mishap::Refused(400)]);
    assert!(matches!(store.put_new(&path("a"), OURS).await, Err(StoreError::Failed { .. })));
    fake.mishaps([Mishap::Refused(507)]);
    assert!(matches!(store.put_new(&path("a"), OURS).await, Err(StoreError::Full { .. })));
    fake.mishaps([Mishap::Refused(403)]);
    let denied = store.put_new(&path("a"), OURS).await.unwrap_err();
    assert!(matches!(denied, StoreError::Denied { .. }) && !denied.advice().to_string().contains("hunter2"));
}

#[tokio::test]
async fn the_404_of_something_that_is_no_s3_proves_no_absence() {
    let (fake, store) = fake().await;
    assert!(matches!(store.info(&path("a")).await, Ok(None)));
    fake.be_a_web_server();
    for error in [store.get(&path("a")).await.unwrap_err(), store.info(&path("a")).await.unwrap_err()] {
        assert!(matches!(error, StoreError::Failed { .. }), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_careless_store_is_found_out() {
    let (fake, store) = fake().await;
    let careful = store::probe(&*store, None, "").await.unwrap();
    assert!(careful.conditional_put && careful.conditional_replace && careful.list_after_write, "{careful:?}");
    assert!(!careful.ranges && careful.reasons.len() == 2, "this server knows no ranges: {careful:?}");
    assert_eq!(careful.nature.conditional_complete, Some(false), "nor uploads in parts");
    fake.be_careless();
    let careless = store::probe(&*store, None, "").await.unwrap();
    assert!(!careless.conditional_put && !careless.conditional_replace, "{careless:?}");
    assert!(careless.reasons[0].contains("If-None-Match"), "{careless:?}");
}

#[tokio::test]
async fn nobody_listening_is_told_within_seconds() {
    let fake = Fake::start().await;
    let mut options = fake.options();
    options.endpoint = Some("http://127.0.0.1:1".to_owned());
    let store = store::open("s3://b/p", &options).unwrap();
    let begun = Instant::now();
    for error in [store.put_new(&path("a"), OURS).await.unwrap_err(), store.get(&path("a")).await.unwrap_err()] {
        assert!(matches!(&error, StoreError::Unreachable { why, .. } if why.contains("refused")), "{error:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(45), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_planned_error_after_the_effect_leaves_the_effect() {
    let memory = Memory::new();
    let store = Faults::new(Arc::new(memory.clone()) as Arc<dyn Put>, FaultPlan::at(1, Fault::After));
    assert!(store.put_new(&path("a"), OURS).await.is_err());
    assert_eq!(memory.len(), 1);
}
