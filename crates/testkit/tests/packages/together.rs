//! Database and packages are both destroyed under load, and come back to one instant: whatever a row refers to is there.

use crate::ground::{InBucket, Objects, now};
use crate::{folder_in_snapshots, in_snapshots};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use terms::Timestamp;
use testkit::bowline::wait;
use testkit::damage::{Broken, Kind};
use testkit::s3::{ACCESS_KEY_ID, S3Server, SECRET_ACCESS_KEY};
use testkit::{Bowline, Cluster, RepositoryKind, newest_major};

/// First the object, then the row that refers to it, as long as `goes_on`.
fn load(cluster: &Cluster, objects: &dyn Objects, goes_on: &AtomicBool, done: &AtomicU64) {
    for number in 0.. {
        if !goes_on.load(Ordering::Relaxed) {
            return;
        }
        let (key, body) = (format!("org/{}/package {number}+ü.bin", number % 5), format!("the body of {number}").repeat(1 + number as usize % 50));
        objects.put(&key, body.as_bytes());
        cluster.psql(&format!("INSERT INTO packages VALUES ('{key}', {})", body.len()));
        done.store(number + 1, Ordering::Relaxed);
    }
}

/// Runs the load, and something else meanwhile, which may wait for more of it.
fn under_load(cluster: &Cluster, objects: &dyn Objects, meanwhile: impl Fn(&dyn Fn(u64))) {
    let (goes_on, done) = (AtomicBool::new(true), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| load(cluster, objects, &goes_on, &done));
        let more = |rows: u64| {
            let begun = done.load(Ordering::Relaxed);
            wait("more packages", Duration::from_secs(60), || done.load(Ordering::Relaxed) >= begun + rows);
        };
        meanwhile(&more);
        goes_on.store(false, Ordering::Relaxed);
    });
}

/// Every row's object is there, of the row's size.
fn every_reference_resolves(cluster: &Cluster, objects: &dyn Objects) -> usize {
    let rows = cluster.psql("SELECT size || ' ' || key FROM packages");
    for row in rows.lines() {
        let (size, key) = row.split_once(' ').expect("two words");
        let found = objects.get(key).unwrap_or_else(|| panic!("{key} is referred to, and gone"));
        assert_eq!(found.len().to_string(), size, "{key}");
    }
    rows.lines().count()
}

/// Where the second copy of the packages is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    InSnapshots,
    InReplica,
}

pub fn both_come_back(cluster: &Cluster, bowline: &Bowline<'_>, objects: &dyn Objects, kept: Kept) {
    cluster.psql("CREATE TABLE packages (key text PRIMARY KEY, size bigint)");
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    let instant = std::sync::Mutex::new(None::<Timestamp>);
    under_load(cluster, objects, |more| {
        more(10);
        if kept == Kept::InSnapshots {
            bowline.ok(&["packages", "snapshot"]);
        }
        more(10);
        *instant.lock().unwrap() = Some(now());
        std::thread::sleep(Duration::from_millis(1200));
        if kept == Kept::InSnapshots {
            bowline.ok(&["packages", "snapshot"]);
        }
        more(5);
    });
    let at = instant.into_inner().unwrap().expect("an instant");
    let in_all: usize = cluster.psql("SELECT count(*) FROM packages").parse().unwrap();
    bowline.archive_now();
    if kept == Kept::InReplica {
        wait("the copy", Duration::from_secs(120), || bowline.ok(&["packages", "status"])["behind"] == 0);
    }
    // The end of everything.
    assert_eq!(receiver.stop(), Some(0));
    cluster.kill9();
    fs::remove_dir_all(cluster.data_dir()).expect("the data directory can be lost");
    objects.destroy();
    assert_eq!(objects.keys(), [] as [String; 0]);

    let result = bowline.ok(&["restore", "--yes", "--no-protect", "--to", &at.to_string()]);
    let rows = every_reference_resolves(cluster, objects);
    assert!((20..in_all).contains(&rows), "{rows} of {in_all} rows");
    let packages = &result["packages"];
    let keys = packages["keys"].as_u64().expect("a number") as usize;
    // Packages may have been put whose rows were not yet committed: a server that tells whole seconds counts all of the instant's second.
    // The kernel stamps a file with its last tick, some milliseconds before: one more.
    let more = if objects.tells_fractions() { rows + 3 } else { in_all + 3 };
    assert!((rows..more).contains(&keys) && packages["failed"] == 0, "{keys} keys, {rows} rows: {packages}");
    assert!(result["steps"].to_string().contains("restore packages"), "{result}");
    if kept == Kept::InSnapshots {
        let agreement = &packages["agreement"];
        assert_eq!((&agreement["referred"], &agreement["missing"], &agreement["changed"]), (&rows.into(), &0.into(), &0.into()), "{packages}");
    }
    // Converged: nothing is left to do.
    let again = bowline.ok(&["packages", "restore", "--to", &at.to_string(), "--yes"]);
    assert_eq!((&again["same"], &again["bytes_written"]), (&packages["keys"], &0.into()), "{again}");
    cluster.stop_adopted();
}

#[test]
fn a_database_and_a_folder_of_packages_come_back_to_one_instant() {
    let cluster = Cluster::start(newest_major());
    let (bowline, folder) = folder_in_snapshots(&cluster);
    both_come_back(&cluster, &bowline, &folder, Kept::InSnapshots);
}

#[test]
fn a_database_and_a_bucket_of_packages_come_back_to_one_instant() {
    let server = S3Server::shared();
    server.create_bucket("app-packages");
    let bucket = InBucket::open(&server.url("app-packages", "kb"), &server.options(), true);
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder)
        .with_environment("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
        .with_environment("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
    in_snapshots(&bowline, &cluster, &format!("s3://app-packages/kb?endpoint={}&region=us-east-1", server.endpoint()));
    both_come_back(&cluster, &bowline, &bucket, Kept::InSnapshots);
    // What was hidden is a version still.
    assert!(bucket.versions().iter().any(|version| version.is_removal));
}

#[test]
fn what_the_database_refers_to_and_is_not_there_is_told_by_drill_and_restore() {
    let cluster = Cluster::start(newest_major());
    let (bowline, folder) = folder_in_snapshots(&cluster);
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    folder.put("there", b"right");
    folder.put("other", b"another size");
    folder.put("orphan", b"nobody's");
    cluster.psql("CREATE TABLE packages (key text, size bigint); INSERT INTO packages VALUES ('there', 5), ('other', 5), ('gone', NULL)");
    bowline.ok(&["packages", "snapshot"]);
    std::thread::sleep(Duration::from_millis(30));
    let to = now().to_string();
    cluster.psql("DELETE FROM packages WHERE key <> 'there'");
    bowline.archive_now();
    let drilled = bowline.run(&["verify", "--to", &to]);
    let result = drilled.lines.iter().find_map(|line| line.get("result")).unwrap_or_else(|| panic!("{drilled:#?}"));
    let found = &result["report"]["agreement"];
    assert_eq!((drilled.code, &found["referred"], &found["orphaned_keys"]), (6, &3.into(), &serde_json::json!(["orphan"])), "{drilled:#?}");
    assert_eq!((&found["missing_keys"], &found["changed_keys"]), (&serde_json::json!(["gone"]), &serde_json::json!(["other"])));
    assert_eq!(bowline.ok(&["verify"])["report"]["agreement"]["missing"], 0);

    assert_eq!(receiver.stop(), Some(0));
    cluster.pg_ctl_stop(true);
    let text = bowline.fails(&["restore", "--yes", "--no-protect", "--to", &to], 3, "packages-disagree");
    assert!(text.contains("gone") && text.contains("other"), "{text}");
    assert_eq!(cluster.psql("SELECT count(*) FROM packages"), "3", "the database runs all the same");
    cluster.stop_adopted();
}

#[test]
fn a_second_run_compares_the_packages_with_what_the_database_said_to_the_first() {
    let cluster = Cluster::start(newest_major());
    let (bowline, folder) = folder_in_snapshots(&cluster);
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    folder.put("there", b"right");
    cluster.psql("CREATE TABLE packages (key text, size bigint); INSERT INTO packages VALUES ('there', 5)");
    bowline.ok(&["packages", "snapshot"]);
    std::thread::sleep(Duration::from_millis(30));
    let to = now().to_string();
    cluster.psql("INSERT INTO packages VALUES ('later', 5)");
    bowline.archive_now();
    assert_eq!(receiver.stop(), Some(0));
    cluster.pg_ctl_stop(true);
    // No folder can be made where a file is.
    fs::remove_dir_all(folder.path()).expect("it can be lost");
    fs::write(folder.path(), b"in the way").expect("a file can be written");
    let words = ["restore", "--yes", "--no-protect", "--to", &to];
    let first = bowline.run(&words);
    assert_ne!(first.code, 0, "{first:#?}");
    assert_eq!(cluster.psql("SELECT count(*) FROM packages"), "1", "the database runs all the same");
    // It serves: what it refers to now is not what it referred to then.
    cluster.psql("INSERT INTO packages VALUES ('of now', 1)");
    fs::remove_file(folder.path()).expect("it can be removed");
    let result = bowline.ok(&words);
    let agreement = &result["packages"]["agreement"];
    assert_eq!((&agreement["referred"], &agreement["missing"], &agreement["changed"]), (&1.into(), &0.into(), &0.into()), "{result}");
    assert_eq!(fs::read(folder.path().join("there")).expect("it is back"), b"right");
    cluster.stop_adopted();
}

#[test]
fn before_damage_the_packages_are_those_of_the_database_and_not_of_the_asked_instant() {
    let cluster = Cluster::start(newest_major());
    let (bowline, folder) = folder_in_snapshots(&cluster);
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    folder.put("a", b"first");
    cluster.psql("CREATE TABLE packages (key text, size bigint); INSERT INTO packages VALUES ('a', 5)");
    bowline.ok(&["packages", "snapshot"]);
    std::thread::sleep(Duration::from_millis(30));
    // The last change before the damage.
    cluster.psql("CREATE TABLE last_before AS SELECT 1 AS a");
    bowline.archive_now();
    let before = now();
    std::thread::sleep(Duration::from_millis(30));
    folder.put("a", b"another one");
    let said = cluster.psql("UPDATE packages SET size = 11; SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    let damaged = said.lines().last().expect("a segment").to_owned();
    bowline.ok(&["packages", "snapshot"]);
    bowline.archive_now();
    let to = now().to_string();
    cluster.psql("CREATE TABLE behind_it AS SELECT 1 AS a");
    bowline.archive_now();
    assert_eq!(receiver.stop(), Some(0));
    cluster.kill9();
    fs::remove_dir_all(cluster.data_dir()).expect("the data directory can be lost");
    folder.destroy();
    let _broken = Broken::new(&bowline.object(&format!("/{damaged}")), Kind::Flipped, Path::new(""));

    let result = bowline.ok(&["restore", "--yes", "--no-protect", "--to", &to, "--on-damage", "stop-before"]);
    assert_eq!((&result["loss"]["way"], cluster.psql("SELECT size FROM packages").as_str()), (&"stop-before".into(), "5"), "{result}");
    let packages = &result["packages"];
    let at: Timestamp = packages["at"].as_str().expect("an instant").parse().expect("a time");
    assert!(at < before, "{packages}");
    assert_eq!(folder.get("a").as_deref(), Some(&b"first"[..]), "{packages}");
    let agreement = &packages["agreement"];
    assert_eq!((&agreement["referred"], &agreement["missing"], &agreement["changed"]), (&1.into(), &0.into(), &0.into()), "{packages}");
    cluster.stop_adopted();
}
