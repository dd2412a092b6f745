//! Two sites of MinIO, one replicated to the other by MinIO itself; the replica is cut off for a while by a proxy.

use crate::ground::{InBucket, Objects, now};
use crate::together::{Kept, both_come_back};
use std::time::Duration;
use store::{Bucket, Outcome, ReplicationWish, Step};
use testkit::bowline::wait;
use testkit::minio::replicate;
use testkit::s3::{ACCESS_KEY_ID, SECRET_ACCESS_KEY};
use testkit::stores::{Make, ObjectServer};
use testkit::{Bowline, Cluster, Proxy, RepositoryKind, Toxiproxy, newest_major};

struct Sites {
    primary: ObjectServer,
    replica: ObjectServer,
    between: Proxy,
    target: String,
}

impl Sites {
    fn start() -> Self {
        let (primary, replica) = (ObjectServer::start(Make::Minio), ObjectServer::start(Make::Minio));
        let between = Toxiproxy::shared().proxy(&format!("127.0.0.1:{}", replica.port()));
        for (server, bucket) in [(&primary, "packages"), (&replica, "copy")] {
            server.create_bucket_now(bucket);
            InBucket::open(&server.url(bucket, ""), &server.options(), true);
        }
        let target = replicate(&primary, "packages", &between.endpoint(), "copy");
        Self { primary, replica, between, target }
    }

    fn lines(&self) -> String {
        let site = |server: &ObjectServer, bucket: &str| {
            let keys = "access_key_id = \"env:SITE_ID\", secret_access_key = \"env:SITE_SECRET\"";
            format!("{{ url = \"s3://{bucket}\", endpoint = \"{}\", region = \"us-east-1\", {keys} }}", server.endpoint())
        };
        let (primary, replica) = (site(&self.primary, "packages"), site(&self.replica, "copy"));
        format!("[packages]\nprimary = {primary}\nreplica = {replica}\nreplication_target = \"{}\"\n", self.target)
    }
}

#[test]
#[ignore = "MinIO takes minutes to compile: ./test --full installs it and runs this"]
fn minio_replicates_is_watched_and_brings_both_back_to_one_instant() {
    let sites = Sites::start();
    let cluster = Cluster::start(newest_major());
    let bowline =
        Bowline::new(&cluster, RepositoryKind::Folder).with_environment("SITE_ID", ACCESS_KEY_ID).with_environment("SITE_SECRET", SECRET_ACCESS_KEY);
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &sites.lines());
    // The rule that MinIO's own client made does it: nothing is to be done. Ours is taken in its place.
    assert_eq!(bowline.ok(&["packages", "enable", "--yes"])["steps"], serde_json::json!([]));
    let primary = InBucket::open(&sites.primary.url("packages", ""), &sites.primary.options(), false);
    primary.wait(async {
        let bucket = Bucket::open("s3://packages", &sites.primary.options()).expect("an address").expect("a bucket");
        let destination = sites.target.clone();
        let wish = ReplicationWish { role: None, destination, prefix: String::new(), kms_key: None, existing_objects: true };
        assert_eq!(bucket.carry_out(&Step::Replicate(wish)).await.expect("an answer"), Outcome::Done);
    });
    assert_eq!(bowline.ok(&["packages", "enable", "--yes"])["steps"], serde_json::json!([]), "ours does it, too");

    primary.put("a/b c+ü%41.bin", b"first");
    let status = || bowline.ok(&["packages", "status"]);
    wait("the copy", Duration::from_secs(60), || status()["behind"] == 0);
    assert_eq!(status()["copy"]["versions"], 1, "{:#}", status());
    // Cut off, the copy falls behind, and it catches up again.
    sites.between.down();
    let cut = now();
    primary.put("cut/off.bin", b"second");
    std::thread::sleep(Duration::from_millis(2000));
    let behind = status();
    assert!(behind["behind"] == 1 && behind["lag_seconds"].as_f64().is_some_and(|lag| lag > 1.0), "{behind:#}");
    let until = behind["complete_until"].as_str().expect("a time").parse::<terms::Timestamp>().expect("a time");
    assert!(until.seconds_since(cut).abs() < 2.0, "{behind:#}");
    sites.between.up();
    // MinIO tries again by itself, or is told to.
    wait("the copy to catch up", Duration::from_secs(180), || {
        let found = bowline.ok(&["packages", "status", "--requeue"]);
        found["behind"] == 0
    });
    assert_eq!(status()["lag_seconds"], 0.0);

    both_come_back(&cluster, &bowline, &primary, Kept::InReplica);
}
