//! What a bucket with versions was at each instant between two snapshots of it.

use crate::ground::{Folder, InBucket, Objects, now};
use crate::in_snapshots;
use std::collections::BTreeMap;
use std::time::Duration;
use terms::Timestamp;
use testkit::s3::{ACCESS_KEY_ID, S3Server, SECRET_ACCESS_KEY};
use testkit::{Bowline, Cluster, RepositoryKind, newest_major};

type Content = BTreeMap<String, Vec<u8>>;

/// What was there at an instant; the server tells whole seconds.
fn remember(known: &mut Vec<(Timestamp, Content)>, bucket: &InBucket) {
    std::thread::sleep(Duration::from_millis(1100));
    let content = bucket.keys().into_iter().map(|key| (key.clone(), bucket.get(&key).expect("it is there")));
    known.push((now(), content.collect()));
    std::thread::sleep(Duration::from_millis(1100));
}

#[test]
fn each_instant_between_two_snapshots_of_a_bucket_with_versions_comes_back_exactly() {
    let server = S3Server::shared();
    server.create_bucket("history");
    let bucket = InBucket::open(&server.url("history", ""), &server.options(), true);
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder)
        .with_environment("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
        .with_environment("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
    in_snapshots(&bowline, &cluster, &format!("s3://history?endpoint={}&region=us-east-1", server.endpoint()));
    let snapshot = || bowline.ok(&["packages", "snapshot"])["snapshot"].clone();
    let mut known = Vec::new();

    let steady: Vec<u8> = (0..300_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for number in 0..10 {
        bucket.put(&format!("steady/{number}"), &steady);
    }
    bucket.put("k", b"before everything");
    bucket.put("k", b"v1");
    bucket.put("gone", b"until it is removed");
    let first = snapshot();
    assert_eq!((&first["objects_new"], &first["versions"]), (&12.into(), &serde_json::Value::Null), "{first}");
    remember(&mut known, &bucket);
    bucket.put("k", b"v2");
    bucket.put("brief", b"came and went");
    remember(&mut known, &bucket);
    bucket.put("k", b"v3");
    bucket.wait(bucket.site.hide("gone", None)).expect("it can be hidden");
    remember(&mut known, &bucket);
    bucket.wait(bucket.site.hide("k", None)).expect("it can be hidden");
    bucket.wait(bucket.site.hide("brief", None)).expect("it can be hidden");
    remember(&mut known, &bucket);
    bucket.put("k", b"v4");
    bucket.put("came", b"and stayed");
    remember(&mut known, &bucket);
    let second = snapshot();
    let versions = &second["versions"];
    assert_eq!((&second["objects"], &second["objects_new"]), (&12.into(), &2.into()), "{second}");
    // Four of k, of which the first snapshot has one, as it has that of gone; clocks are not trusted to say which came before it.
    assert_eq!((&versions["objects"], &versions["removals"], &versions["since"]), (&6.into(), &3.into(), &first["id"]), "{second}");
    assert!(second["bytes_stored"].as_u64().is_some_and(|stored| stored < 20_000), "what did not change costs nothing: {second}");
    bucket.put("after", b"the second one");
    std::thread::sleep(Duration::from_millis(1100));
    let third = snapshot();
    // So young that clocks are not trusted with it: told again, and not stored.
    assert_eq!((&third["objects_new"], &third["versions"]["objects"], &third["versions"]["removals"]), (&1.into(), &6.into(), &3.into()), "{third}");
    assert!(third["bytes_stored"].as_u64().is_some_and(|stored| stored < 5_000), "{third}");

    for (number, (at, content)) in known.iter().enumerate() {
        let elsewhere = Folder::make(&cluster, &format!("elsewhere-{number}"));
        let done = bowline.ok(&["packages", "restore", "--to", &at.to_string(), "--into", &elsewhere.url(), "--yes"]);
        let exact = (&done["uncertain"], &done["untold"], &done["unknown_seconds"]);
        assert_eq!(exact, (&0.into(), &0.into(), &0.0.into()), "{done}");
        assert_eq!(&elsewhere.all().into_iter().collect::<Content>(), content, "{number}: {at}");
    }
    assert_eq!(known.iter().map(|(_, content)| content.len()).collect::<Vec<_>>(), [12, 13, 12, 10, 12]);
}
