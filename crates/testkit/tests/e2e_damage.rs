//! What is missing or damaged in the repository is named, and nothing half restored is ever opened.

use std::path::Path;
use std::time::Duration;
use testkit::bowline::{FINGERPRINT, flip_a_bit, wait, with_digest};
use testkit::damage::left_alone;
use testkit::{Bowline, Cluster, RepositoryKind, newest_major};

/// A backup, then three finished segments with one row each; returns the position after each row's commit.
fn three_segments(cluster: &Cluster, bowline: &Bowline) -> Vec<String> {
    cluster.psql("CREATE TABLE t (a int); CREATE TABLE ballast AS SELECT md5(i::text) FROM generate_series(1, 50000) i");
    bowline.ok(&["backup"]);
    let step = |i: u32| {
        let at = cluster.psql(&format!("INSERT INTO t VALUES ({i}); SELECT pg_current_wal_insert_lsn()"));
        bowline.archive_now();
        at
    };
    (1..=3).map(step).collect()
}

/// The segment that holds the position.
fn segment_of(cluster: &Cluster, lsn: &str) -> String {
    cluster.psql(&format!("SELECT pg_walfile_name('{lsn}')"))
}

#[test]
fn a_hole_in_the_log_is_refused_and_what_lies_before_it_restores() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let receiver = bowline.receive();
    let at = three_segments(&cluster, &bowline);
    let missing = segment_of(&cluster, &at[1]);
    // What was lost within moments of being stored cannot be told from what never arrived: the mark follows a segment at once, but after it.
    let marked = || std::fs::read_to_string(bowline.repository().join("coverage.json")).unwrap_or_default();
    wait("the mark to follow", Duration::from_secs(20), || {
        let mark: serde_json::Value = serde_json::from_str(&marked()).unwrap_or_default();
        mark["stored"].as_str().is_some_and(|stored| cluster.psql(&format!("SELECT '{stored}'::pg_lsn > '{}'", at[2])) == "t")
    });
    std::fs::remove_file(bowline.object(&missing)).expect("remove the segment");
    for target in ["latest", &at[1], &at[2]] {
        let (text, data) = bowline.restore_fails(&["--to", target], 3, "wal-missing");
        assert!(text.contains(&missing), "{text}");
        assert!(!data.exists(), "nothing may be touched");
    }
    let restored = bowline.restore(&["--to", &at[0]]);
    assert_eq!(restored.psql("SELECT string_agg(a::text, ',' ORDER BY a) FROM t"), "1");
    // A server that recovers by itself is told of a failure, never of the log's end.
    let fetched = bowline.command(&["wal", "fetch", &missing, "fetched"]).output().expect("run bowline");
    assert!(fetched.status.code() > Some(125), "{fetched:?}");
    drop(receiver);
}

#[test]
fn a_flipped_bit_in_the_log_ends_the_restore_and_leaves_no_server() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let _receiver = bowline.receive();
    let at = three_segments(&cluster, &bowline);
    let damaged = segment_of(&cluster, &at[1]);
    let object = bowline.object(&damaged);
    let good = std::fs::read(&object).expect("read");
    flip_a_bit(&object);
    let (code, text, data) = restore_that_fails(&bowline, &["--to", "latest"]);
    assert!(code != 0 && text.contains(&damaged), "exit {code}: {text}");
    left_alone(&data, 1, "damaged");
    std::fs::write(&object, good).expect("write");
    let restored = bowline.restore(&["--to", "latest"]);
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "3");
}

#[test]
fn a_flipped_bit_in_a_pack_or_manifest_ends_the_restore_and_is_named() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 50000) i");
    bowline.ok(&["backup"]);
    for (ending, code, slug, named) in [
        ("data/000001", 6, "backup-damaged", "data/000001"),
        ("/manifest", 6, "", "manifest"),
        ("/backup.json", 6, "repository-damaged", "backup.json"),
        ("/repository.json", 6, "repository-damaged", "repository.json"),
    ] {
        let object = bowline.object(ending);
        let good = std::fs::read(&object).expect("read");
        flip_a_bit(&object);
        let data = bowline.new_target();
        let outcome = bowline.run(&["restore", "--yes", "--target", data.to_str().expect("a plain path")]);
        let (found, text) = outcome.error();
        assert!(outcome.code == code && (slug.is_empty() || found == slug) && text.contains(named), "{ending}: {outcome:#?}");
        left_alone(&data, 1, "damaged");
        std::fs::write(&object, good).expect("write");
    }
    let wanted = cluster.psql(FINGERPRINT);
    assert_eq!(bowline.restore(&[]).psql(FINGERPRINT), wanted, "all is whole again");
}

/// Anybody may add one who may write.
#[test]
fn a_listing_that_cannot_be_read_hides_none_of_the_others() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 100) i");
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    assert_eq!(receiver.stop(), Some(0));
    let good = std::fs::read_to_string(bowline.object("/backup.json")).expect("read");
    let newer = with_digest(&good.replacen("\"format\": 1", "\"format\": 99", 1));
    assert_ne!(newer, good);
    for (body, code, slug) in [("no document", 6, "repository-damaged"), (newer.as_str(), 4, "format-newer")] {
        let folder = bowline.repository().join("full/20260101T020000Z");
        std::fs::create_dir_all(&folder).expect("make it");
        std::fs::write(folder.join("backup.json"), body).expect("write it");
        let listed = bowline.run(&["list"]);
        assert_eq!((listed.code, listed.error().0), (code, slug), "{listed:#?}");
        let told = listed.lines.iter().find_map(|line| line.get("result")).expect("what can be read");
        let count = |name: &str| told[name].as_array().map(Vec::len);
        assert_eq!((count("backups"), count("unreadable")), (Some(1), Some(1)), "{told:#}");
        let audited = bowline.run(&["wal", "audit"]);
        assert_eq!((audited.code, audited.error().0), (code, slug), "{audited:#?}");
        let told = audited.lines.iter().find_map(|line| line.get("result")).expect("what was done beside it");
        assert_eq!(told["whole"], true, "{told:#}");
        bowline.ok(&["runbook"]);
        bowline.restore_fails(&["--to", "latest"], code, slug);
        assert_eq!(bowline.restore(&["--to", "latest", "--on-damage", "nearest-backup"]).psql("SELECT count(*) FROM t"), "100");
        std::fs::remove_dir_all(&folder).expect("remove it");
    }
}

#[test]
fn numbers_in_the_open_that_are_not_those_of_the_sealed_manifest_are_no_backups() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.ok(&["backup"]);
    let object = bowline.object("/backup.json");
    let good = std::fs::read_to_string(&object).expect("read");
    let document: serde_json::Value = serde_json::from_str(&good).expect("a document");
    for key in ["files", "bytes", "packs"] {
        let number = document[key].as_u64().expect("a number");
        let other = good.replacen(&format!("\"{key}\": {number},"), &format!("\"{key}\": {},", number + 1), 1);
        assert_ne!(other, good, "{key}");
        std::fs::write(&object, with_digest(&other)).expect("write");
        let (code, text, _) = restore_that_fails(&bowline, &[]);
        assert!(code == 6 && text.contains("manifest"), "{key}: {code} {text}");
    }
    std::fs::write(&object, good).expect("write");
    bowline.restore(&[]);
}

#[test]
fn another_key_opens_nothing() {
    let cluster = Cluster::start(newest_major());
    let (bowline, other) = (Bowline::new(&cluster, RepositoryKind::Folder), Bowline::new(&cluster, RepositoryKind::Folder));
    bowline.ok(&["backup"]);
    let key = other.dir().join("key");
    let text = bowline.fails(&["restore", "--yes", "--target", "/nowhere/at/all", "--key", key.to_str().expect("a plain path")], 4, "key-wrong");
    assert!(text.contains("--key"), "{text}");
    assert!(!Path::new("/nowhere").exists());
}

fn restore_that_fails(bowline: &Bowline, words: &[&str]) -> (i32, String, std::path::PathBuf) {
    let data = bowline.new_target();
    let mut all = vec!["restore", "--yes", "--target", data.to_str().expect("a plain path")];
    all.extend_from_slice(words);
    let outcome = bowline.run(&all);
    let (_, text) = outcome.error();
    (outcome.code, text, data)
}
