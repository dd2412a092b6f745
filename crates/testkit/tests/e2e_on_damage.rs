//! Damage in the way of a restore: it is named, nothing is promoted by mistake, and each policy restores exactly the rows that it promises
//! and says what is lost.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use terms::Timestamp;
use testkit::bowline::{Receiver, wait};
use testkit::damage::{Broken, Kind, left_alone};
use testkit::{Bowline, Cluster, RepositoryKind, Restored, full, newest_major};

const QUICK: &str = "[wal]\nstatus_interval = \"300ms\"\nflush_interval = \"300ms\"\n";
/// Rows are committed one in a segment; the second backup is made after this one, and the last one lies in a piece.
const SECOND_BACKUP_AFTER: usize = 3;
const ROWS: usize = 6;

/// A row: when it was committed, and in which segment.
#[derive(Debug, Clone)]
struct Row {
    committed: Timestamp,
    segment: String,
}

/// Two backups and rows behind each of them.
struct Scene<'a> {
    bowline: &'a Bowline<'a>,
    rows: Vec<Row>,
    /// Oldest first.
    backups: [String; 2],
    /// The segment in which the second backup begins.
    first: String,
    /// A segment of another cluster and repository.
    foreign: PathBuf,
}

fn cluster() -> Cluster {
    Cluster::builder(newest_major()).wal_segment_mib(1).setting("autovacuum", "off").setting("track_commit_timestamp", "on").start()
}

fn time(text: &str) -> Timestamp {
    format!("{text} UTC").parse().unwrap_or_else(|e| panic!("{text:?}: {e}"))
}

/// Commits one row behind much that says nothing, so that damage in a segment's middle lies before the row.
fn commit(server: &Cluster, row: usize) -> Row {
    server.psql("SELECT pg_logical_emit_message(false, 'ballast', string_agg(md5(i::text), '')) FROM generate_series(1, 20000) i");
    let inserted = server.psql(&format!("INSERT INTO t VALUES ({row}) RETURNING xmin"));
    let xid = inserted.lines().next().expect("a transaction");
    let said = server.psql(&format!(
        "SET timezone = 'UTC'; SELECT pg_walfile_name(pg_current_wal_insert_lsn()) || ' ' || to_char(pg_xact_commit_timestamp('{xid}'), 'YYYY-MM-DD HH24:MI:SS.US')"
    ));
    let (segment, committed) = said.lines().last().and_then(|line| line.split_once(' ')).expect("a segment and a time");
    Row { committed: time(committed), segment: segment.to_owned() }
}

fn is_stored(server: &Cluster) {
    let written = server.psql("SELECT pg_current_wal_flush_lsn()");
    let asked = format!("SELECT flush_lsn >= '{written}' FROM pg_stat_replication WHERE application_name = 'bowline'");
    wait(&format!("WAL to {written} to be stored"), Duration::from_secs(30), || server.psql(&asked) == "t");
}

fn is_marked(bowline: &Bowline, server: &Cluster) {
    let end = server.psql("SELECT pg_current_wal_flush_lsn()");
    let marked = || fs::read_to_string(bowline.repository().join("coverage.json")).unwrap_or_default();
    wait("the mark to follow", Duration::from_secs(30), || {
        let mark: Value = serde_json::from_str(&marked()).unwrap_or_default();
        mark["stored"].as_str().is_some_and(|stored| server.psql(&format!("SELECT '{stored}'::pg_lsn >= '{end}'")) == "t")
    });
}

fn backup(bowline: &Bowline) -> String {
    bowline.ok(&["backup"])["id"].as_str().expect("a backup").to_owned()
}

impl<'a> Scene<'a> {
    fn new(cluster: &Cluster, bowline: &'a Bowline<'a>) -> Self {
        bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), QUICK);
        cluster.psql("CREATE TABLE t (a int)");
        let receiver: Receiver = bowline.receive();
        let mut backups = [backup(bowline), String::new()];
        let mut rows = Vec::new();
        for row in 1..=ROWS {
            rows.push(commit(cluster, row));
            if row < ROWS {
                bowline.archive_now();
            }
            if row == SECOND_BACKUP_AFTER {
                std::thread::sleep(Duration::from_millis(1100));
                backups[1] = backup(bowline);
            }
        }
        is_stored(cluster);
        is_marked(bowline, cluster);
        assert_eq!(receiver.stop(), Some(0));
        let first =
            bowline.ok(&["restore", "--plan", "--target", "/nowhere/at/all"])["plan"]["first_segment"].as_str().expect("a segment").to_owned();
        Self { bowline, rows, backups, first, foreign: PathBuf::new() }
    }

    /// The object that holds this row.
    fn object(&self, row: usize) -> PathBuf {
        let segment = &self.rows[row - 1].segment;
        let whole = self.bowline.repository().join("wal");
        let found: Vec<PathBuf> = testkit::bowline::files_below(&whole)
            .into_iter()
            .filter(|path| path.to_string_lossy().contains(&format!("/{segment}")) && fs::metadata(path).is_ok_and(|meta| meta.len() > 0))
            .collect();
        found.iter().find(|path| path.ends_with(segment)).or(found.last()).unwrap_or_else(|| panic!("no object of row {row}")).clone()
    }

    /// Restores with these words; the rows that came back.
    fn restore(&self, words: &[&str]) -> (String, Restored<'_>) {
        let restored = self.bowline.restore(words);
        (restored.psql("SELECT string_agg(a::text, ',' ORDER BY a) FROM t"), restored)
    }

    /// Fails with this code, names the object, promotes nothing, and offers ways.
    fn refused(&self, words: &[&str], code: i32, named: &str) -> Vec<Value> {
        let data = self.bowline.new_target();
        let all = [&["restore", "--yes", "--target", data.to_str().expect("a plain path")], words].concat();
        let outcome = self.bowline.run(&all);
        let (slug, text) = outcome.error();
        assert_eq!(outcome.code, code, "{words:?}: {outcome:#?}");
        assert!(text.contains(named), "{words:?} [{slug}]: no {named} in\n{text}");
        left_alone(&data, 1, &format!("{words:?}"));
        let error = outcome.lines.iter().rev().find_map(|line| line.get("error")).expect("an error");
        let ways = error["alternatives"].as_array().cloned().unwrap_or_default();
        if let Some(first) = ways.first() {
            let words = first["words"].as_str().expect("words");
            assert!(text.contains(words), "the hint must name {words}: {text}");
        }
        ways
    }
}

fn numbers(to: usize) -> String {
    (1..=to).map(|row| row.to_string()).collect::<Vec<_>>().join(",")
}

fn ways(found: &[Value]) -> Vec<&str> {
    found.iter().filter_map(|way| way["way"].as_str()).collect()
}

/// The loss window says when the last row that is kept was committed, and how long that was before what was asked for.
fn says_the_loss(restored: &Restored, way: &str, last_kept: Option<&Row>, what: &str) {
    let loss = &restored.result["loss"];
    assert_eq!(loss["way"], way, "{what}: {loss}");
    let at = |name: &str| loss[name].as_str().map(|text| text.parse::<Timestamp>().expect("a time"));
    let (asked, until) = (at("asked").expect("an instant"), at("kept_until").expect("an instant"));
    if let Some(row) = last_kept {
        assert_eq!(at("last_kept"), Some(row.committed), "{what}: {loss}");
        assert!(until >= row.committed, "{what}: {loss}");
    }
    let lost = loss["lost_seconds"].as_f64().expect("a duration");
    if loss["after_target"] == false {
        assert!((lost - asked.seconds_since(until).max(0.0)).abs() < 1e-3, "{what}: {loss}");
    }
    assert!(loss["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{what}: {loss}");
}

#[test]
fn damaged_missing_and_foreign_wal_is_refused_and_what_lies_before_it_restores() {
    let (cluster, stranger) = (cluster(), cluster());
    let (bowline, other) = (Bowline::new(&cluster, RepositoryKind::Folder), Bowline::new(&stranger, RepositoryKind::Folder));
    let strange = other.receive();
    other.archive_now();
    drop(strange);
    let mut scene = Scene::new(&cluster, &bowline);
    let foreign = other.wal_files().into_iter().find(|name| name.len() == 24).expect("a segment");
    scene.foreign = other.object(&foreign);
    // The segment in which the second backup begins, one behind it, the last whole one, and the piece behind that.
    let positions = [("first", 0, SECOND_BACKUP_AFTER), ("middle", 4, 3), ("last", 5, 4), ("piece", 6, 5)];
    for kind in [Kind::Flipped, Kind::Truncated, Kind::Deleted, Kind::Replaced] {
        for (place, row, kept) in positions {
            let in_short_form = [(Kind::Truncated, "middle"), (Kind::Truncated, "piece"), (Kind::Deleted, "last"), (Kind::Replaced, "middle")];
            if !full() && kind != Kind::Flipped && !in_short_form.contains(&(kind, place)) {
                continue;
            }
            let what = format!("{kind:?}, {place}");
            let (object, named) = match row {
                0 => (bowline.object(&format!("/{}", scene.first)), scene.first.clone()),
                row => (scene.object(row), scene.rows[row - 1].segment.clone()),
            };
            let _broken = Broken::new(&object, kind, &scene.foreign);
            // A log of pieces that was cut short says nothing of what followed, and is refused for want of it.
            let is_wanting = kind == Kind::Deleted || (kind, place) == (Kind::Truncated, "piece");
            let code = if is_wanting { 3 } else { 6 };
            let offered = scene.refused(&[], code, &named);
            let alone = if place == "first" { 0 } else { SECOND_BACKUP_AFTER };
            assert_eq!(ways(&offered), ["stop-before", "nearest-backup"], "{what}");
            let (rows, restored) = scene.restore(&["--on-damage", "stop-before"]);
            assert_eq!(rows, numbers(kept), "{what}");
            // In the middle no row is committed between the second backup and the damage.
            says_the_loss(&restored, "stop-before", Some(&scene.rows[kept - 1]).filter(|_| place != "middle"), &what);
            drop(restored);
            if kind == Kind::Flipped || full() {
                let (rows, restored) = scene.restore(&["--on-damage", "nearest-backup"]);
                assert_eq!(rows, numbers(alone), "{what}");
                says_the_loss(&restored, "nearest-backup", None, &what);
            }
        }
    }
    let (rows, restored) = scene.restore(&["--on-damage", "stop-before"]);
    assert_eq!((rows, &restored.result["loss"]), (numbers(ROWS), &Value::Null), "all is whole again");
}

#[test]
fn a_later_backup_will_do_only_when_it_was_complete_by_then_or_that_is_allowed() {
    let cluster = cluster();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let scene = Scene::new(&cluster, &bowline);
    let _broken = Broken::new(&scene.object(2), Kind::Flipped, Path::new(""));
    let named = scene.rows[1].segment.clone();
    // Between the second row and the third, before the second backup.
    let between = scene.rows[1].committed.plus_micros(1).to_string();
    let offered = scene.refused(&["--to", &between], 6, &named);
    assert_eq!(ways(&offered), ["stop-before", "nearest-backup", "later-backup"]);
    scene.refused(&["--to", &between, "--on-damage", "later-backup"], 6, &named);
    let (rows, restored) = scene.restore(&["--to", &between, "--on-damage", "later-backup", "--allow-after"]);
    assert_eq!(rows, numbers(SECOND_BACKUP_AFTER));
    says_the_loss(&restored, "later-backup", None, "later");
    assert_eq!(restored.result["loss"]["after_target"], true);
    drop(restored);
    let (rows, restored) = scene.restore(&["--to", &between, "--on-damage", "stop-before"]);
    assert_eq!(rows, numbers(1));
    says_the_loss(&restored, "stop-before", Some(&scene.rows[0]), "a time");
    drop(restored);
    // The backup that was asked for cannot lead there; the other one can, and nothing is lost.
    let offered = scene.refused(&["--backup", &scene.backups[0]], 6, &named);
    assert_eq!(offered[0]["way"], "another-backup");
    for policy in ["stop-before", "later-backup", "nearest-backup"] {
        if policy != "later-backup" && !full() {
            continue;
        }
        let (rows, restored) = scene.restore(&["--backup", &scene.backups[0], "--on-damage", policy]);
        assert_eq!(rows, numbers(ROWS), "{policy}");
        assert_eq!(restored.result["loss"]["lost_seconds"], 0.0, "{policy}");
    }
    let (rows, _restored) = scene.restore(&[]);
    assert_eq!(rows, numbers(ROWS), "what is not needed is in nobody's way");
}

#[test]
fn a_damaged_backup_is_named_to_the_block_and_an_older_one_with_more_wal_loses_nothing() {
    let cluster = cluster();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let scene = Scene::new(&cluster, &bowline);
    let newest = &scene.backups[1];
    for (object, kind, code, named) in [
        ("data/000001", Kind::Flipped, 6, "block"),
        ("data/000001", Kind::Truncated, 6, "data/000001"),
        ("data/000001", Kind::Deleted, 6, "data/000001"),
        ("manifest", Kind::Flipped, 6, "manifest"),
        ("manifest", Kind::Deleted, 6, "manifest"),
        ("backup.json", Kind::Flipped, 6, "backup.json"),
    ] {
        let what = format!("{kind:?} {object}");
        let _broken = Broken::new(&bowline.object(&format!("{newest}/{object}")), kind, Path::new(""));
        let offered = scene.refused(&[], code, named);
        assert_eq!(offered[0]["way"], "another-backup", "{what}");
        let (rows, restored) = scene.restore(&["--on-damage", "nearest-backup"]);
        assert_eq!(rows, numbers(ROWS), "{what}");
        let loss = &restored.result["loss"];
        assert_eq!((&loss["backup"], &loss["lost_seconds"]), (&Value::from(scene.backups[0].as_str()), &Value::from(0.0)), "{what}: {loss}");
    }
    // In place: what was there before stays aside, and the half restored attempt does not.
    cluster.pg_ctl_stop(true);
    let _broken = Broken::new(&bowline.object(&format!("{newest}/data/000001")), Kind::Flipped, Path::new(""));
    let report = bowline.ok(&["restore", "--yes", "--no-start", "--on-damage", "stop-before"]);
    let aside = PathBuf::from(report["moved_aside"].as_str().expect("the old data"));
    assert!(aside.join("global/pg_control").is_file(), "{}", aside.display());
    let beside = fs::read_dir(cluster.data_dir().parent().expect("a home")).expect("list").flatten();
    let kept = beside.filter(|item| item.file_name().to_string_lossy().contains(".before-")).count();
    assert_eq!(kept, 1, "only what was there before is kept");
}

#[test]
fn a_segment_whose_content_is_damaged_ends_recovery_and_promotes_nothing() {
    let cluster = Cluster::builder(newest_major())
        .wal_segment_mib(1)
        .setting("autovacuum", "off")
        .setting("track_commit_timestamp", "on")
        .setting("wal_keep_size", "64MB")
        .start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let scene = Scene::new(&cluster, &bowline);
    let row = 5;
    let segment = &scene.rows[row - 1].segment;
    // The archive opens well, what is in it is not what the server wrote, and no index tells of it: only replaying it shows.
    let mut bytes = fs::read(cluster.data_dir().join("pg_wal").join(segment)).expect("the server's own");
    bytes[300_000] ^= 1;
    let copy = bowline.dir().join(segment);
    fs::write(&copy, bytes).expect("write");
    let (object, index) = (scene.object(row), scene.object(row).with_file_name("index"));
    fs::remove_file(&object).expect("remove");
    bowline.ok(&["wal", "push", copy.to_str().expect("a plain path")]);
    fs::remove_dir_all(index).expect("remove the index");
    for target in ["latest", &scene.rows[row - 1].committed.to_string()] {
        let offered = scene.refused(&["--to", target], 6, segment);
        assert_eq!(ways(&offered), ["stop-before", "nearest-backup"], "to {target}");
        let (rows, restored) = scene.restore(&["--to", target, "--on-damage", "stop-before"]);
        assert_eq!(rows, numbers(row - 1), "to {target}");
        says_the_loss(&restored, "stop-before", Some(&scene.rows[row - 2]), target);
        let steps = restored.result["steps"].as_array().expect("steps");
        let copied = steps.iter().filter(|step| step["step"] == "restore files").count();
        assert_eq!(copied, 1, "to {target}: the server goes on where it had come to");
    }
}

#[test]
fn without_the_history_of_a_timeline_what_lies_before_it_restores() {
    let primary = cluster();
    let standby = primary.standby();
    let bowline = Bowline::new(&primary, RepositoryKind::Folder);
    bowline.configure(&primary.conninfo(), Some(primary.data_dir()), QUICK);
    primary.psql("CREATE TABLE t (a int)");
    let receiver = bowline.receive();
    backup(&bowline);
    let mut rows = Vec::new();
    for row in 1..=2 {
        rows.push(commit(&primary, row));
        bowline.archive_now();
    }
    is_stored(&primary);
    assert_eq!(receiver.stop(), Some(0));
    standby.catch_up(&primary);
    primary.kill9();
    standby.promote();
    bowline.configure(&standby.conninfo(), Some(standby.data_dir()), QUICK);
    let receiver = bowline.receive();
    for row in 3..=4 {
        rows.push(commit(&standby, row));
    }
    is_stored(&standby);
    is_marked(&bowline, &standby);
    assert_eq!(receiver.stop(), Some(0));
    let scene = Scene { bowline: &bowline, rows, backups: [String::new(), String::new()], first: String::new(), foreign: PathBuf::new() };
    let history = bowline.object("/00000002.history");
    for kind in [Kind::Flipped, Kind::Deleted] {
        let what = format!("{kind:?}");
        let _broken = Broken::new(&history, kind, Path::new(""));
        let code = if kind == Kind::Deleted { 3 } else { 6 };
        let offered = scene.refused(&[], code, "00000002.history");
        assert_eq!(ways(&offered), ["stop-before", "nearest-backup"], "{what}");
        let (rows, restored) = scene.restore(&["--on-damage", "stop-before"]);
        assert_eq!(rows, numbers(2), "{what}");
        says_the_loss(&restored, "stop-before", Some(&scene.rows[1]), &what);
        assert_eq!(restored.result["recovered"]["timeline"].to_string().trim_matches('"'), "3", "{what}: the number is taken");
        drop(restored);
        // What was before it is on no other timeline: nothing is lost.
        let before = scene.rows[0].committed.plus_micros(1).to_string();
        let (rows, restored) = scene.restore(&["--to", &before, "--on-damage", "stop-before"]);
        assert_eq!((rows, &restored.result["loss"]["lost_seconds"]), (numbers(1), &Value::from(0.0)), "{what}: {}", restored.result);
    }
}

#[test]
fn a_run_that_goes_on_tells_the_loss_that_the_first_one_took() {
    let cluster = cluster();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let scene = Scene::new(&cluster, &bowline);
    let _broken = Broken::new(&scene.object(4), Kind::Flipped, Path::new(""));
    cluster.pg_ctl_stop(true);
    let service = |start: &str| {
        bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &format!("[service]\nstart = \"{start}\"\n{QUICK}"));
    };
    // The cluster is recovered and runs, and something is left to do.
    service("exit 9");
    let words = ["restore", "--yes", "--no-protect", "--on-damage", "stop-before"];
    let outcome = bowline.run(&words);
    assert_eq!((outcome.code, outcome.error().0), (4, "hook-failed"), "{outcome:#?}");
    let first = outcome.lines.iter().find_map(|line| line.get("result")).expect("a report all the same");
    assert_eq!((&first["loss"]["way"], &first["lost"]), (&Value::from("stop-before"), &Value::Null), "{first}");
    assert_eq!(cluster.psql("SELECT string_agg(a::text, ',' ORDER BY a) FROM t"), numbers(3));
    // This one plans nothing: the new cluster is there.
    service("true");
    let second = bowline.ok(&words);
    assert_eq!((&second["loss"], &second["lost"]), (&first["loss"], &Value::Null), "{second}");
    cluster.stop_adopted();
}
