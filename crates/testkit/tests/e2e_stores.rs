//! The program itself against every make of store: a backup and its restore, what `check` says, and what is refused.

use serde_json::Value;
use testkit::bowline::FINGERPRINT;
use testkit::loopback::http_with;
use testkit::s3::{ACCESS_KEY_ID, S3Server, SECRET_ACCESS_KEY};
use testkit::stand_in::{Likeness, StandIn};
use testkit::stores::{MINIO_KEY, Make, ObjectServer};
use testkit::{Bowline, Cluster, newest_major};

const TABLES: &str = "CREATE TABLE kept AS SELECT i, repeat(md5(i::text), 8) AS p FROM generate_series(1, 20000) i; CREATE INDEX ON kept (i);";

fn cluster() -> Cluster {
    let cluster = Cluster::builder(newest_major()).start();
    cluster.psql(TABLES);
    cluster
}

/// The lines of `[repository]` that reach this endpoint.
fn lines(endpoint: &str, more: &str) -> String {
    format!("endpoint = \"{endpoint}\"\nregion = \"us-east-1\"\naccess_key_id = \"env:E2E_ID\"\nsecret_access_key = \"env:E2E_SECRET\"\n{more}")
}

fn at<'a>(cluster: &'a Cluster, server: &ObjectServer, bucket: &str, more: &str) -> Bowline<'a> {
    let (id, secret) = server.credentials();
    Bowline::at(cluster, &server.url(bucket, "backups"), &lines(&server.endpoint(), more), &[("E2E_ID", id), ("E2E_SECRET", secret)])
}

/// A repository is made, a backup made and restored, and the restored rows are the same.
fn round_trip(cluster: &Cluster, bowline: &Bowline, what: &str) {
    bowline.ok(&["init"]);
    bowline.ok(&["backup"]);
    let wanted = cluster.psql(FINGERPRINT);
    let restored = bowline.restore(&["--to", "immediate"]);
    assert_eq!(restored.psql(FINGERPRINT), wanted, "{what}");
    restored.stop();
}

/// What `check` found of this.
fn found(bowline: &Bowline, what: &str) -> (String, String) {
    let outcome = bowline.run(&["check"]);
    let findings =
        outcome.lines.iter().rev().find_map(|line| line["result"]["findings"].as_array().cloned()).unwrap_or_else(|| panic!("{outcome:#?}"));
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let finding = findings.iter().find(|finding| finding["what"] == what).unwrap_or_else(|| panic!("check says nothing of {what}: {findings:#?}"));
    (text(finding, "verdict"), text(finding, "found"))
}

#[test]
fn a_backup_in_versitygw_restores_and_check_says_what_it_lacks() {
    let (cluster, server) = (cluster(), ObjectServer::start(Make::Versitygw));
    server.create_bucket_now("backups");
    let bowline = at(&cluster, &server, "backups", "sse = \"preferred\"\nsse_kms_key_id = \"my-key\"\n");
    round_trip(&cluster, &bowline, "versitygw");
    let (verdict, told) = found(&bowline, "encryption by the store");
    assert!(verdict == "warn" && told.contains("ignores") && told.contains("my-key"), "{verdict}: {told}");
    assert_eq!(found(&bowline, "store since then").0, "ok");
    assert_eq!(found(&bowline, "clock").0, "ok");
    assert_eq!(found(&bowline, "versions"), ("warn".to_owned(), "off".to_owned()));
}

#[test]
fn where_encryption_by_the_store_is_required_a_store_that_ignores_it_gets_nothing() {
    let (cluster, server) = (cluster(), ObjectServer::start(Make::Versitygw));
    server.create_bucket_now("strict");
    let strict = at(&cluster, &server, "strict", "sse = \"required\"\nsse_kms_key_id = \"my-key\"\n");
    let text = strict.fails(&["init"], 4, "store-not-encrypted");
    assert!(text.contains("my-key") && text.contains("s3://strict/backups/acme"), "{text}");
    // A repository that was made without: no backup, no receiver, and check fails.
    let lax = at(&cluster, &server, "strict", "");
    lax.ok(&["init"]);
    std::fs::copy(lax.dir().join("key"), strict.dir().join("key")).expect("copy the key");
    nix::unistd::chown(&strict.dir().join("key"), owner(&lax), None).expect("chown");
    for words in [&["backup"][..], &["wal", "receive"]] {
        strict.fails(words, 4, "store-not-encrypted");
    }
    let (verdict, told) = found(&strict, "encryption by the store");
    assert!(verdict == "fail" && told.contains("ignores"), "{verdict}: {told}");
    assert_eq!(lax.ok(&["list"])["backups"].as_array().map(Vec::len), Some(0));
    // A key that is named without a word on how much it matters matters.
    server.create_bucket_now("named");
    let named = at(&cluster, &server, "named", "sse_kms_key_id = \"my-key\"\n");
    assert_eq!(named.run(&["init"]).error().0, "store-not-encrypted");
}

fn owner(bowline: &Bowline) -> Option<nix::unistd::Uid> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(bowline.dir()).ok().map(|metadata| nix::unistd::Uid::from_raw(metadata.uid()))
}

/// A mock: it shows what Bowline asks of AWS, not what AWS does.
#[test]
fn a_backup_in_the_mock_of_aws_restores_and_is_encrypted_as_asked() {
    let (cluster, server) = (cluster(), ObjectServer::start(Make::Moto));
    server.create_bucket_now("backups");
    let bowline = at(&cluster, &server, "backups", "sse = \"required\"\nsse_kms_key_id = \"my-key\"\n");
    round_trip(&cluster, &bowline, "moto");
    assert_eq!(found(&bowline, "encryption by the store"), ("ok".to_owned(), "yes".to_owned()));

    // A rule that archives is named before it does, and what it has moved is found, one object after the other.
    assert_eq!(found(&bowline, "lifecycle rules").0, "ok");
    let rule = "<LifecycleConfiguration><Rule><ID>cheap</ID><Filter><Prefix>backups/</Prefix></Filter><Status>Enabled</Status>\
        <Transition><Days>30</Days><StorageClass>DEEP_ARCHIVE</StorageClass></Transition></Rule></LifecycleConfiguration>";
    granted(&server, "PUT /backups?lifecycle", "", rule);
    let (verdict, told) = found(&bowline, "lifecycle rules");
    assert!(verdict == "fail" && told.contains("\"cheap\" moves objects to DEEP_ARCHIVE after 30 days"), "{verdict}: {told}");
    let listed = granted(&server, "GET /backups?list-type=2&prefix=backups/acme/full/", "", "");
    let keys = listed.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>").map(|(key, _)| key));
    let moved: Vec<&str> = keys.filter(|key| key.contains("/data/")).collect();
    assert!(!moved.is_empty(), "{listed}");
    for key in &moved {
        // It checks no signature, but wants to see one before an object is replaced.
        let who = "AWS4-HMAC-SHA256 Credential=test/20261127/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        let headers = format!("authorization: {who}\r\nx-amz-copy-source: /backups/{key}\r\nx-amz-storage-class: GLACIER\r\n");
        granted(&server, &format!("PUT /backups/{key}"), &headers, "");
    }
    let scrubbed = bowline.run(&["scrub"]);
    let (slug, _) = scrubbed.error();
    let said = format!("{:?}", scrubbed.lines);
    assert!(slug == "scrub-damage" && said.contains("store-archived") && said.contains("aws s3api restore-object"), "{scrubbed:#?}");
    for key in &moved {
        assert!(said.contains(key.trim_start_matches("backups/acme/")), "{key} is not named: {said}");
    }
    let result = scrubbed.lines.iter().find_map(|line| line["error"].get("result")).unwrap_or_else(|| panic!("{scrubbed:#?}"));
    assert_eq!((&result["run"]["is_all"], &result["unproven"]), (&Value::from(true), &Value::from(0)), "it went on behind them: {result:#}");
}

/// Asks the mock, which checks no signature.
fn granted(server: &ObjectServer, request: &str, headers: &str, body: &str) -> String {
    let answer = http_with(server.port(), request, headers, body.as_bytes()).unwrap_or_else(|| panic!("{request}: no answer"));
    assert!(answer.split(' ').nth(1) == Some("200"), "{request}: {answer}");
    answer
}

#[test]
#[ignore = "MinIO takes minutes to compile: ./test --full installs it and runs this"]
fn a_backup_in_minio_is_encrypted_by_its_kms_and_restores() {
    let (cluster, server) = (cluster(), ObjectServer::start(Make::Minio));
    server.create_bucket_now("backups");
    let bowline = at(&cluster, &server, "backups", &format!("sse = \"required\"\nsse_kms_key_id = \"{MINIO_KEY}\"\n"));
    round_trip(&cluster, &bowline, "minio");
    assert_eq!(found(&bowline, "encryption by the store"), ("ok".to_owned(), "yes".to_owned()));
}

#[test]
fn backups_in_the_stand_ins_of_azure_google_and_an_old_ceph_restore() {
    let cluster = cluster();
    let azure = ObjectServer::start(Make::Azurite);
    azure.create_bucket_now("backups");
    let (id, secret) = azure.credentials();
    let azure_lines = lines(&azure.endpoint(), "").replace("region = \"us-east-1\"\n", "");
    let bowline = Bowline::at(&cluster, "az://backups/kb", &azure_lines, &[("E2E_ID", id), ("E2E_SECRET", secret)]);
    round_trip(&cluster, &bowline, "azure");
    assert_eq!(found(&bowline, "store").0, "ok");

    let mock = ObjectServer::start(Make::Moto);
    mock.create_bucket_now("backups");
    let google = StandIn::start(Likeness::Google, mock.port());
    let bowline = Bowline::at(&cluster, "gs://backups/kb", &format!("endpoint = \"{}\"\n", google.endpoint()), &[]);
    round_trip(&cluster, &bowline, "google");
    assert_eq!(found(&bowline, "store").0, "ok");

    let weed = S3Server::shared();
    weed.create_bucket("old-ceph");
    let ceph = StandIn::start(Likeness::OldCeph, weed.port());
    let keys = [("E2E_ID", ACCESS_KEY_ID), ("E2E_SECRET", SECRET_ACCESS_KEY)];
    let bowline = Bowline::at(&cluster, "s3://old-ceph/kb", &lines(&ceph.endpoint(), "checksum = \"md5\"\n"), &keys);
    round_trip(&cluster, &bowline, "an old ceph");
    assert_eq!(ceph.refused(), 0);
}

/// A stand-in: a gateway that fails, in front of a real S3 server.
#[test]
fn a_restore_through_a_gateway_that_refuses_reads_and_cuts_bodies_in_the_middle_ends_well() {
    let cluster = Cluster::builder(newest_major()).wal_segment_mib(1).setting("wal_keep_size", "256MB").start();
    cluster.psql(TABLES);
    let weed = S3Server::shared();
    weed.create_bucket("gateway");
    let keys = [("E2E_ID", ACCESS_KEY_ID), ("E2E_SECRET", SECRET_ACCESS_KEY)];
    let bowline = Bowline::at(&cluster, "s3://gateway/kb", &lines(weed.endpoint(), ""), &keys);
    bowline.ok(&["init"]);
    bowline.ok(&["backup"]);
    for part in 0..25 {
        cluster.psql(&format!("INSERT INTO kept SELECT {part}, repeat(md5(random()::text), 8) FROM generate_series(1, 500)"));
        cluster.psql("SELECT pg_switch_wal()");
    }
    bowline.push_finished(&cluster);
    let wanted = cluster.psql(FINGERPRINT);
    let gateway = StandIn::start(Likeness::Failing(4), weed.port());
    let config = std::fs::read_to_string(bowline.config()).expect("read the configuration");
    std::fs::write(bowline.config(), config.replace(weed.endpoint(), &gateway.endpoint())).expect("write the configuration");
    let restored = bowline.restore(&["--to", "latest"]);
    assert_eq!(restored.psql(FINGERPRINT), wanted);
    // One refusal of each kind at least, and packs as well as segments are among so many bodies.
    assert!(gateway.cut() > 4 && gateway.refused() > 4, "{gateway:?}");
    restored.stop();
}
