//! What a real server does with versions, removals and conditions, where its packages hang on it.

use crate::ground::{InBucket, Objects, beside, now};
use bytes::Bytes;
use futures::TryStreamExt;
use packages::{RestoreWish, Source};
use std::sync::Arc;
use std::time::Duration;
use store::{Item, ItemFacts};
use testkit::loopback::http;
use testkit::s3::S3Server;
use testkit::stores::{Make, ObjectServer};

/// The server tells whole seconds.
fn a_second_later() {
    std::thread::sleep(Duration::from_millis(1100));
}

#[test]
fn a_key_removed_before_the_instant_stays_so_and_what_the_primary_proves_is_kept() {
    let (primary, copy, settings) = beside("proven", "");
    for bucket in [&primary, &copy] {
        bucket.put("removed", b"long gone");
        bucket.put("changed", b"first");
        bucket.put("lost", b"by accident");
    }
    a_second_later();
    for bucket in [&primary, &copy] {
        bucket.wait(bucket.site.hide("removed", None)).expect("it can be hidden");
    }
    a_second_later();
    // From here on the copy falls behind.
    primary.put("changed", b"second, which nobody copied");
    primary.put("new", b"as well");
    a_second_later();
    let at = now();
    a_second_later();
    // Removed for good at the primary and written anew, after the instant; the copy has that again.
    for bucket in [&primary, &copy] {
        bucket.put("removed", b"again");
        bucket.wait(bucket.site.hide("lost", None)).expect("it can be hidden");
    }
    primary.put("later", b"after the instant");
    let order: Vec<Item> = copy.versions().into_iter().filter(|item| item.key == "removed").collect();
    assert_eq!(order.iter().map(|item| item.is_removal).collect::<Vec<_>>(), [false, true, false], "{order:?}");

    let report = primary.wait(async {
        let mut source = Source::choose(&settings, None, at).await.expect("a replica");
        source.measure(&settings, at).await;
        let wish = RestoreWish { at, into: settings.primary.clone(), hides_newer: true, is_primary: true, jobs: 4 };
        let planned = packages::plan(&source, &wish).await.expect("a plan");
        let done = packages::restore(&source, &wish, Arc::new(terms::Silent)).await.expect("a restore");
        assert_eq!((planned.kept, planned.absent, planned.newer), (done.kept, done.absent, done.newer));
        done
    });
    assert_eq!((report.kept, report.absent, report.different, report.newer_hidden, report.failed), (2, 1, 0, 2, 0), "{report:#?}");
    assert!(report.unknown_seconds.is_some_and(|seconds| seconds > 1.0), "{report:#?}");
    assert_eq!(primary.get("changed").as_deref(), Some(&b"second, which nobody copied"[..]));
    assert_eq!(primary.get("new").as_deref(), Some(&b"as well"[..]));
    assert_eq!(primary.get("lost").as_deref(), Some(&b"by accident"[..]));
    assert_eq!((primary.get("removed"), primary.get("later")), (None, None), "it was gone at the instant; it came after it");
}

#[test]
fn beside_a_primary_that_was_emptied_nobody_knows_how_far_the_copy_is_complete() {
    let (primary, copy, settings) = beside("emptied", "");
    copy.put("one", b"kept there");
    a_second_later();
    let at = now();
    let complete = || {
        primary.wait(async {
            let mut source = Source::choose(&settings, None, at).await.expect("a replica");
            source.measure(&settings, at).await;
            source.complete_until(at)
        })
    };
    assert_eq!(complete(), None, "made anew after it was lost");
    // What came after the instant says nothing of the time before.
    a_second_later();
    primary.put("two", b"of now");
    assert_eq!(complete(), None);
    copy.put("two", b"of now");
    assert_eq!(complete(), None);
    let report = primary.wait(async {
        let source = Source::choose(&settings, None, at).await.expect("a replica");
        let wish = RestoreWish { at, into: settings.primary.clone(), hides_newer: false, is_primary: true, jobs: 1 };
        packages::restore(&source, &wish, Arc::new(terms::Silent)).await.expect("a restore")
    });
    assert_eq!((report.keys, report.failed, report.unknown_seconds), (1, 0, None), "{report:#?}");
    assert_eq!(primary.get("one").as_deref(), Some(&b"kept there"[..]));
}

#[test]
fn what_the_copy_cannot_have_yet_is_there_and_what_it_should_have_is_not() {
    let (primary, copy, settings) = beside("young", "");
    primary.put("forgotten", b"never copied");
    primary.put("copied", b"1");
    copy.put("copied", b"1");
    std::thread::sleep(Duration::from_secs(4));
    primary.put("young", b"12345");
    a_second_later();
    let at = now();
    a_second_later();
    primary.put("later", b"after the instant");
    let there: Vec<(String, u64)> = primary.wait(async {
        let source = Source::choose(&settings, None, at).await.expect("a replica");
        let there = source.sizes_with(&primary.site, at, Duration::from_secs(3)).await.expect("two lists");
        there.try_collect().await.expect("keys")
    });
    assert_eq!(there, [("copied".to_owned(), 1), ("young".to_owned(), 5)]);
}

#[test]
fn nothing_is_replaced_without_versions_and_no_old_version_is_written_over_a_newer_one() {
    let server = S3Server::shared();
    for bucket in ["unversioned", "again"] {
        server.create_bucket(bucket);
    }
    let plain = InBucket::open(&server.url("unversioned", ""), &server.options(), false);
    // Small, and in parts.
    for (key, bytes) in [("small", 5), ("large", 9 << 20)] {
        let write = |fill: u8| {
            plain.wait(async {
                let upload = plain.site.begin(key, bytes as u64, &ItemFacts::default(), now(), None).await?;
                let mut upload = upload.replaces_nothing();
                for part in vec![fill; bytes].chunks(8 << 20) {
                    upload.piece(Bytes::copy_from_slice(part)).await?;
                }
                upload.finish().await
            })
        };
        write(b'a').expect("nothing is there");
        write(b'b').expect_err("something is there");
        assert_eq!(plain.get(key).expect("it is there")[0], b'a', "{key}");
    }

    let bucket = InBucket::open(&server.url("again", ""), &server.options(), true);
    for key in ["as it was", "overwritten", "removed"] {
        bucket.put(key, b"first");
    }
    let listed = bucket.versions();
    bucket.put("overwritten", b"second");
    bucket.wait(bucket.site.hide("removed", None)).expect("it can be hidden");
    let again: Vec<bool> = listed.iter().map(|item| bucket.wait(bucket.site.write_again(item)).expect("an answer")).collect();
    assert_eq!(again, [true, false, false], "{listed:?}");
    assert_eq!((bucket.get("overwritten").as_deref(), bucket.get("removed")), (Some(&b"second"[..]), None));
    assert_eq!(bucket.versions().iter().filter(|item| item.key == "as it was").count(), 2);
}

/// The mock of AWS, because it lists unfinished uploads to anybody who asks.
#[test]
fn an_upload_that_is_given_up_leaves_no_parts() {
    let server = ObjectServer::start(Make::Moto);
    server.create_bucket_now("parts");
    let bucket = InBucket::open(&server.url("parts", ""), &server.options(), false);
    let unfinished = || http(server.port(), "GET /parts?uploads", b"").expect("it answers").matches("<UploadId>").count();
    let begin = || bucket.wait(bucket.site.begin("large", 9 << 20, &ItemFacts::default(), now(), None)).expect("it begins");
    let mut upload = begin();
    bucket.wait(upload.piece(Bytes::from(vec![1; 8 << 20]))).expect("it is taken");
    assert_eq!(unfinished(), 1);
    bucket.wait(upload.give_up());
    assert_eq!(unfinished(), 0, "given up");
    // No part of it was stored, so the server refuses to complete it.
    bucket.wait(begin().finish()).expect_err("there is nothing to complete");
    assert_eq!(unfinished(), 0, "refused");
}

#[test]
fn what_is_written_beside_an_object_is_read_again() {
    let server = ObjectServer::start(Make::Moto);
    server.create_bucket_now("beside");
    let bucket = InBucket::open(&server.url("beside", ""), &server.options(), false);
    let headers = serde_json::json!({"headers": {
        "content-type": "text/plain", "content-encoding": "identity", "content-language": "de", "content-disposition": "attachment; filename=\"a\"",
        "cache-control": "max-age=60", "expires": "Wed, 21 Oct 2037 07:28:00 GMT", "x-amz-meta-own": "a word",
    }});
    let facts: ItemFacts = serde_json::from_value(headers).expect("facts");
    bucket.wait(async {
        let mut upload = bucket.site.begin("one", 1, &facts, now(), None).await.expect("it begins");
        upload.piece(Bytes::from_static(b"1")).await.expect("it is taken");
        upload.finish().await.expect("it is there");
        let item = bucket.site.look("one").await.expect("it answers").expect("it is there");
        assert_eq!(bucket.site.facts(&item).await.expect("it answers"), Some(facts.clone()));
    });
}
