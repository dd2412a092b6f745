//! A replica is followed page by page, with a canary; the test copies in the store's place.

use crate::ground::{InBucket, Objects, beside, now, place};
use futures::TryStreamExt;
use packages::{Follower, Settings, Writes};
use std::time::Duration;
use store::{Pace, StoreOptions};
use terms::SystemClock;
use testkit::bowline::wait;
use testkit::s3::{ACCESS_KEY_ID, S3Server, SECRET_ACCESS_KEY};
use testkit::stand_in::{Likeness, StandIn};
use testkit::{Bowline, Cluster, RepositoryKind, Toxiproxy, newest_major};

#[test]
fn what_is_behind_is_found_asked_for_again_and_told_by_the_worst_of_canary_and_listing() {
    let (primary, copy, settings) = beside("followed", "kb");
    for number in 0..30 {
        for bucket in [&primary, &copy] {
            bucket.put(&format!("f{}/{number}", number % 3), b"the same");
        }
    }
    primary.put("late", b"not copied yet");
    std::thread::sleep(Duration::from_millis(1100));
    primary.wait(async {
        let mut follower = Follower::new(&settings).expect("two buckets");
        let first = follower.look(Some(Writes::Here), &SystemClock).await.expect("a look");
        assert!(first.listed.is_some(), "a small bucket is listed at once");
        assert_eq!((first.facts.behind, first.facts.primary.objects, first.facts.copy.objects), (1, 31, 30), "{:?}", first.facts);
        assert!(first.facts.lag_seconds >= 1.0, "{:?}", first.facts);
        let canary = first.canary.expect("a canary is wanted");
        assert!(canary.arrived.is_none() && canary.awaited.is_some() && canary.trouble.is_none(), "{canary:?}");
        // The object comes, the canary does not.
        let mut upload = copy.site.begin("late", 14, &store::ItemFacts::default(), now(), None).await.expect("it begins");
        upload.piece(bytes::Bytes::from_static(b"not copied yet")).await.expect("it is written");
        upload.finish().await.expect("it is there");
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let second = follower.look(Some(Writes::Here), &SystemClock).await.expect("a look");
        assert_eq!((second.facts.behind, second.facts.lag_seconds), (0, 0.0), "{:?}", second.facts);
        let later = second.canary.expect("a canary is wanted");
        assert_eq!(later.awaited, canary.awaited, "the oldest one counts");
        assert!(later.lag_seconds(now()).is_some_and(|lag| lag >= 1.0));
        // The newest one arrives, and with it all before it.
        let written = primary.site.canary().await.expect("an answer").expect("it is there");
        copy.site.write_canary(written).await.expect("it can be written");
        let third = follower.look(Some(Writes::Elsewhere), &SystemClock).await.expect("a look").canary.expect("a canary is wanted");
        assert_eq!((third.arrived, third.awaited, third.lag_seconds(now())), (Some(written), None, Some(0.0)));
        // One who begins now and only looks sees the same.
        let other = Follower::new(&settings).expect("two buckets").look(Some(Writes::Elsewhere), &SystemClock).await.expect("a look");
        assert_eq!((other.facts.behind, other.canary.and_then(|canary| canary.arrived)), (0, Some(written)));
        // A canary that may not be written is told, and keeps nothing else from being looked at.
        let closed = StandIn::start(Likeness::ReadOnly, S3Server::shared().port());
        let endpoint = Some(closed.endpoint());
        let closed_off =
            Settings { primary: place(&settings.primary.url, &StoreOptions { endpoint, ..settings.primary.options.clone() }), ..settings.clone() };
        let refused = Follower::new(&closed_off).expect("two buckets").look(Some(Writes::Here), &SystemClock).await.expect("a look");
        let canary = refused.canary.expect("a canary is wanted");
        assert!(canary.trouble.is_some_and(|trouble| trouble.slug == "store-denied") && refused.listed.is_some() && refused.facts.behind == 0);
        assert!(closed.refused() > 0);
    });
    for bucket in [&primary, &copy] {
        assert!(bucket.keys().len() == 31 && bucket.versions().iter().all(|item| item.key != store::CANARY), "it is no object");
    }
}

#[test]
fn a_listing_goes_on_by_as_many_pages_as_are_allowed_and_outlives_a_server_that_is_away() {
    let server = S3Server::shared();
    server.create_bucket("paced");
    let between = Toxiproxy::shared().proxy(&format!("127.0.0.1:{}", server.port()));
    let options = StoreOptions { endpoint: Some(between.endpoint()), ..server.options() };
    let bucket = InBucket::open(&server.url("paced", ""), &options, true);
    (0..1200).for_each(|number| bucket.put(&format!("{number}"), b"x"));
    bucket.wait(async {
        let pace = Pace::new();
        let all = tokio::spawn(bucket.site.versions_at(&pace).try_collect::<Vec<_>>());
        let settled = async |pages: u64| {
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if pace.pages() >= pages {
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(pace.pages(), pages);
        };
        settled(0).await;
        pace.allow(1);
        settled(1).await;
        between.down();
        pace.allow(50);
        let begun = std::time::Instant::now();
        while pace.trouble().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(120), "nobody says that the server is away");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        between.up();
        assert_eq!(all.await.expect("it ends").expect("a listing").len(), 1200);
        assert_eq!(pace.pages(), 2);
    });
}

#[test]
fn the_daemon_writes_the_canary_and_status_only_looks() {
    let server = S3Server::shared();
    for bucket in ["watched", "watched-copy"] {
        server.create_bucket(bucket);
    }
    let [primary, copy] = ["watched", "watched-copy"].map(|bucket| InBucket::open(&server.url(bucket, ""), &server.options(), true));
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder)
        .with_environment("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
        .with_environment("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
    let at = |bucket: &str| format!("s3://{bucket}?endpoint={}&region=us-east-1", server.endpoint());
    let configure = |more: &str| {
        let lines = format!("[packages]\nprimary = \"{}\"\nreplica = \"{}\"\n{more}", at("watched"), at("watched-copy"));
        bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &lines);
    };
    let seen = || {
        let told = bowline.run(&["status"]);
        let result = told.lines.iter().find_map(|line| line.get("result")).unwrap_or_else(|| panic!("{told:#?}"));
        result["facts"]["packages"]["seen"].clone()
    };
    let written = || primary.wait(primary.site.canary()).expect("an answer");
    configure("canary = true\n[daemon]\nwatch_interval = \"1s\"\n");
    let before = seen();
    assert!(before["canary_arrived"].is_null() && before["lag_seconds"] == 0.0 && written().is_none(), "{before}");
    let daemon = bowline.start_daemon();
    wait("a canary", Duration::from_secs(150), || written().is_some());
    assert_eq!(daemon.stop(), Some(0));
    let behind = seen();
    assert!(!behind["canary_awaited"].is_null() && behind["lag_seconds"].as_f64().is_some_and(|lag| lag > 0.0), "{behind}");
    copy.wait(copy.site.write_canary(written().expect("it is there"))).expect("it can be written");
    let arrived = seen();
    assert!(arrived["canary_awaited"].is_null() && arrived["lag_seconds"] == 0.0 && !arrived["canary_arrived"].is_null(), "{arrived}");
    configure("canary = false\n");
    assert!(seen()["canary_arrived"].is_null());
}
