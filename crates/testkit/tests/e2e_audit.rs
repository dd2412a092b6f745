//! `wal audit` proves that the stored WAL is whole or names what is not, and what it found is kept for the next time and for restores.

use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use testkit::bowline::{files_below, flip_a_bit};
use testkit::{Bowline, Cluster, RepositoryKind, full, newest_major, outer_majors};

/// A cluster with small segments, a backup of it, and some WAL after the backup.
fn cluster(major: u32) -> Cluster {
    Cluster::builder(major).wal_segment_mib(1).setting("wal_keep_size", "1GB").setting("autovacuum", "off").start()
}

fn fill(cluster: &Cluster, segments: usize) {
    for _ in 0..segments {
        cluster.psql("CREATE TABLE IF NOT EXISTS t (a int); INSERT INTO t SELECT generate_series(1, 1000); SELECT pg_switch_wal()");
    }
}

fn segment_files(bowline: &Bowline) -> Vec<PathBuf> {
    let in_wal = files_below(&bowline.repository().join("wal"));
    in_wal.into_iter().filter(|path| path.file_name().is_some_and(|name| name.len() == 24)).collect()
}

fn batches(bowline: &Bowline) -> usize {
    files_below(&bowline.repository().join("wal")).iter().filter(|path| path.parent().is_some_and(|parent| parent.ends_with("index"))).count()
}

fn name(path: &std::path::Path) -> String {
    path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned()
}

/// What people read.
fn shown(bowline: &Bowline, words: &[&str]) -> String {
    let out = bowline.command(words).output().expect("it starts");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn unread(result: &Value) -> usize {
    result["audit"]["unindexed"].as_array().expect("a list").len()
}

#[test]
fn an_archive_is_proven_once_and_then_by_listings_alone() {
    for kind in if full() { vec![RepositoryKind::Folder, RepositoryKind::S3] } else { vec![RepositoryKind::Folder] } {
        for major in outer_majors() {
            let cluster = cluster(major);
            let bowline = Bowline::new(&cluster, kind);
            assert!(bowline.fails(&["wal", "audit"], 3, "backup-missing").contains("bowline backup"));
            bowline.ok(&["backup"]);
            fill(&cluster, 12);
            bowline.push_finished(&cluster);
            let skipped = bowline.run(&["wal", "audit", "--no-read"]);
            assert_eq!(skipped.code, 1, "what was skipped is never called passed: {skipped:#?}");
            let result = skipped.lines.iter().rev().find_map(|line| line.get("result")).expect("a result");
            assert!(result["whole"] == true && result["proven"] == false && unread(result) >= 11, "{result}");

            let first = bowline.ok(&["wal", "audit"]);
            assert!(first["proven"] == true && first["read"].as_u64() >= Some(11), "{first}");
            let again = bowline.ok(&["wal", "audit", "--no-read"]);
            assert!(again["proven"] == true || unread(&again) <= 1, "{again}");
            let again = bowline.ok(&["wal", "audit"]);
            assert!(again["read"].as_u64() <= Some(1), "only the end of the log may have left a record open: {again}");
            assert_eq!(again["audit"], first["audit"]);
            let rebuilt = bowline.ok(&["wal", "audit", "--rebuild"]);
            assert_eq!(rebuilt["audit"], first["audit"]);
            assert!(rebuilt["read"].as_u64() >= first["read"].as_u64(), "all of it is read: {rebuilt}");
        }
    }
}

#[test]
fn a_gap_is_named_with_what_it_makes_unreachable() {
    let cluster = cluster(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let first = bowline.ok(&["backup"])["id"].as_str().expect("an id").to_owned();
    fill(&cluster, 6);
    bowline.push_finished(&cluster);
    bowline.ok(&["wal", "audit"]);
    let lost = segment_files(&bowline)[4].clone();
    let kept = fs::read(&lost).expect("a segment");
    fill(&cluster, 3);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let second = bowline.ok(&["backup"])["id"].as_str().expect("an id").to_owned();
    fill(&cluster, 3);
    bowline.push_finished(&cluster);
    fs::remove_file(&lost).expect("remove");
    let outcome = bowline.run(&["wal", "audit"]);
    assert_eq!((outcome.code, outcome.error().0), (3, "wal-gap"));
    assert!(outcome.error().1.contains(&name(&lost)), "{outcome:#?}");
    let result = outcome.lines.iter().find_map(|line| line.get("result")).expect("a result");
    let gaps = result["audit"]["gaps"].as_array().expect("gaps");
    assert_eq!(gaps.len(), 1, "{result}");
    let unreachable = &gaps[0]["unreachable"];
    assert_eq!((&unreachable["before"], &unreachable["after"]), (&first.clone().into(), &second.clone().into()), "{result}");
    // A restore to the first unreachable instant is refused, one to the last reachable one is planned.
    let from: terms::Timestamp = unreachable["from"].as_str().and_then(|text| text.parse().ok()).expect("a time");
    let until: terms::Timestamp = unreachable["until"].as_str().and_then(|text| text.parse().ok()).expect("a time");
    let to = |at: terms::Timestamp| bowline.run(&["restore", "--plan", "--to", &at.to_string()]).code;
    assert_eq!((to(from.plus_micros(-1)), to(from), to(until.plus_micros(-1)), to(until)), (0, 3, 3, 0), "{result}");
    // People read the same.
    let said = shown(&bowline, &["wal", "audit"]);
    for wanted in [name(&lost).as_str(), "cannot be restored: from", first.as_str(), second.as_str(), "wal push", "next:"] {
        assert!(said.contains(wanted), "no {wanted} in\n{said}");
    }
    fs::write(&lost, kept).expect("put back");
    assert_eq!(bowline.ok(&["wal", "audit"])["proven"], true);
}

#[test]
fn damage_is_found_and_named_whether_or_not_it_was_indexed() {
    let cluster = cluster(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.ok(&["backup"]);
    fill(&cluster, 8);
    bowline.push_finished(&cluster);
    let files = segment_files(&bowline);
    flip_a_bit(&files[5]);
    let text = bowline.fails(&["wal", "audit"], 6, "wal-damaged");
    assert!(text.contains(&name(&files[5])), "{text}");
    let text = bowline.fails(&["wal", "audit"], 6, "wal-damaged");
    assert!(text.contains(&name(&files[5])), "an object that does not open is looked at again: {text}");
    flip_a_bit(&files[5]);
    assert_eq!(bowline.ok(&["wal", "audit"])["proven"], true);
    // Cut off after it was indexed: the listing alone shows it.
    let whole = fs::read(&files[6]).expect("a segment");
    fs::write(&files[6], &whole[..whole.len() / 2]).expect("write");
    assert!(bowline.fails(&["wal", "audit", "--no-read"], 6, "wal-damaged").contains(&name(&files[6])));
    assert!(bowline.fails(&["wal", "audit"], 6, "wal-damaged").contains(&name(&files[6])));
    fs::write(&files[6], whole).expect("write");
    // Damaged batches of the index are found out about and made anew.
    for batch in files_below(&bowline.repository().join("wal")).iter().filter(|path| path.parent().is_some_and(|p| p.ends_with("index"))) {
        flip_a_bit(batch);
    }
    let count = batches(&bowline);
    let result = bowline.ok(&["wal", "audit"]);
    assert!(result["proven"] == true && result["unreadable"].as_array().map(Vec::len) == Some(count), "{result}");
    assert!(batches(&bowline) > count);
    assert!(bowline.ok(&["wal", "audit"])["read"].as_u64() <= Some(1));
}

/// A page whose record is damaged although the object opens: what the server itself wrote wrong.
#[test]
fn a_record_that_was_wrong_before_it_was_stored_is_found() {
    let cluster = cluster(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.ok(&["backup"]);
    fill(&cluster, 6);
    let stored = segment_files(&bowline).len();
    let mut files: Vec<PathBuf> = fs::read_dir(cluster.data_dir().join("pg_wal")).expect("pg_wal").map(|e| e.expect("entry").path()).collect();
    files.retain(|path| path.file_name().is_some_and(|name| name.len() == 24));
    files.sort();
    let wrong = &files[stored + 2];
    let sound = fs::read(wrong).expect("a segment");
    let mut bytes = sound.clone();
    bytes[20_000] ^= 1;
    fs::write(wrong, &bytes).expect("write");
    bowline.push_finished(&cluster);
    fs::write(wrong, &sound).expect("write");
    for _ in 0..2 {
        let outcome = bowline.run(&["wal", "audit"]);
        assert_eq!((outcome.code, outcome.error().0), (6, "wal-damaged"), "{outcome:#?}");
        let result = outcome.lines.iter().find_map(|line| line.get("result")).expect("a result");
        assert_eq!(result["audit"]["damaged"][0]["first"], name(wrong).as_str(), "{result}");
    }
}

/// A record that was still open where an audit ended, and says nothing that the index would keep: its rest is checked once it is there.
#[test]
fn damage_in_the_rest_of_a_record_that_left_an_earlier_audit_is_found() {
    let cluster = cluster(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.ok(&["backup"]);
    fill(&cluster, 2);
    let begins_in = cluster.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    cluster.psql("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1500000))");
    fill(&cluster, 3);
    let pg_wal = cluster.data_dir().join("pg_wal");
    let mut files: Vec<PathBuf> = fs::read_dir(&pg_wal).expect("pg_wal").map(|e| e.expect("entry").path()).collect();
    files.retain(|path| path.file_name().is_some_and(|name| name.len() == 24));
    files.sort();
    for file in files.iter().filter(|file| name(file) <= begins_in) {
        bowline.ok(&["wal", "push", file.to_str().expect("a plain path")]);
    }
    let audit = bowline.ok(&["wal", "audit"]);
    assert_eq!(audit["proven"], true, "what is there is whole: {audit}");
    let wrong = files.iter().find(|file| name(file) > begins_in).expect("a later segment");
    let sound = fs::read(wrong).expect("a segment");
    let mut bytes = sound.clone();
    bytes[200_000] ^= 1;
    fs::write(wrong, &bytes).expect("write");
    bowline.push_finished(&cluster);
    fs::write(wrong, &sound).expect("write");
    let plan = || bowline.run(&["restore", "--plan", "--to", "latest"]);
    assert_eq!((plan().code, plan().error().0), (6, "wal-damaged"), "a plan looks where nobody has looked: {:#?}", plan());
    for _ in 0..2 {
        let outcome = bowline.run(&["wal", "audit"]);
        assert_eq!((outcome.code, outcome.error().0), (6, "wal-damaged"), "{outcome:#?}");
        let result = outcome.lines.iter().find_map(|line| line.get("result")).expect("a result");
        assert_eq!(result["audit"]["damaged"][0]["first"], begins_in.as_str(), "{result}");
        assert_eq!((plan().code, plan().error().0), (6, "wal-damaged"), "{:#?}", plan());
    }
    let at = plan().error().1.split("--to ").nth(1).and_then(|rest| rest.split([',', '.']).next()).expect("a position").to_owned();
    assert_eq!(bowline.run(&["restore", "--plan", "--to", &at]).code, 0, "what lies before can be restored: {at}");
}

#[test]
fn a_timeline_switch_is_followed() {
    for major in if full() { outer_majors() } else { vec![newest_major()] } {
        let cluster = cluster(major);
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        bowline.ok(&["backup"]);
        fill(&cluster, 3);
        let standby = cluster.standby();
        standby.catch_up(&cluster);
        bowline.push_finished(&cluster);
        standby.promote();
        fill(&standby, 4);
        bowline.push_finished(&standby);
        // The old primary went on, and what it wrote was archived as well.
        fill(&cluster, 2);
        bowline.push_finished(&cluster);
        let result = bowline.ok(&["wal", "audit"]);
        assert!(result["proven"] == true && result["audit"]["to"]["timeline"] == 2, "{result}");
        let history = bowline.object("00000002.history");
        let kept = fs::read(&history).expect("the history");
        fs::remove_file(&history).expect("remove");
        assert!(bowline.fails(&["wal", "audit"], 3, "wal-gap").contains("00000002.history"));
        fs::write(&history, kept).expect("put back");
        assert_eq!(bowline.ok(&["wal", "audit"])["proven"], true);
    }
}

/// With the index a plan for an instant reads no segment but the last ones: the others may even be unreadable then.
#[test]
fn a_restore_is_planned_from_the_index() {
    let cluster = cluster(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.ok(&["backup"]);
    fill(&cluster, 3);
    cluster.psql("SELECT pg_create_restore_point('here')");
    fill(&cluster, 9);
    bowline.push_finished(&cluster);
    let end = cluster.psql("SELECT now() + interval '1 hour'");
    let plan = |to: &str| bowline.run(&["restore", "--plan", "--to", to]).code;
    assert_eq!((plan("name:here"), plan("name:there"), plan(&end)), (0, 3, 3));
    bowline.ok(&["wal", "audit"]);
    let files = segment_files(&bowline);
    let in_the_middle = &files[files.len() / 2];
    flip_a_bit(in_the_middle);
    assert_eq!((plan("name:here"), plan("name:there"), plan(&end)), (0, 3, 3), "no segment in the middle is read");
    flip_a_bit(in_the_middle);
    for batch in files_below(&bowline.repository().join("wal")).iter().filter(|path| path.parent().is_some_and(|p| p.ends_with("index"))) {
        fs::remove_file(batch).expect("remove");
    }
    flip_a_bit(in_the_middle);
    assert_eq!(plan(&end), 6, "without the index every segment is read");
}

#[test]
fn a_receivers_first_start_goes_on_where_the_last_backup_left_the_log() {
    let cluster = cluster(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.ok(&["backup"]);
    // Nobody receives, and the server keeps it all the same.
    fill(&cluster, 3);
    let receiver = bowline.receive();
    fill(&cluster, 2);
    bowline.archive_now();
    assert_eq!(receiver.stop(), Some(0));
    let found = bowline.ok(&["wal", "audit"]);
    assert_eq!(found["whole"], true, "{found}");
    assert!(!shown(&bowline, &["status"]).contains("which is missing"));
    assert_eq!(bowline.restore(&[]).psql("SELECT count(*) FROM t"), "5000");
}

#[test]
fn what_was_gone_before_a_receivers_first_start_is_told_and_the_rest_received() {
    let cluster = Cluster::builder(newest_major()).wal_segment_mib(1).setting("wal_keep_size", "0").setting("autovacuum", "off").start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.ok(&["backup"]);
    fill(&cluster, 3);
    cluster.psql("CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT");
    fill(&cluster, 3);
    cluster.psql("CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT");
    let receiver = bowline.receive();
    fill(&cluster, 2);
    bowline.archive_now();
    receiver.wait_for(1, "wal-gap");
    assert_eq!(receiver.stop(), Some(0));
    let text = bowline.fails(&["wal", "audit"], 3, "wal-gap");
    let missing = text.split("Not stored: ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a segment");
    let shown = shown(&bowline, &["status"]);
    assert!(shown.contains(&format!("but nothing that needs segment {missing}, which is missing")), "{missing}: {shown}");
    bowline.ok(&["backup"]);
    assert_eq!(bowline.restore(&[]).psql("SELECT count(*) FROM t"), "8000");
}
