//! One flipped bit in any kind of object, and any object that is gone, is found by scrubbing and named; and a run goes on where the
//! last one ended.

use std::path::{Path, PathBuf};
use std::time::Duration;
use testkit::bowline::{Outcome, files_below, wait};
use testkit::damage::{Broken, Kind as Damage};
use testkit::tamper::{Flipped, Kind, objects};
use testkit::{Bowline, Cluster, RepositoryKind, full, newest_major};

/// The one that the backup of the first test begins in is the one before.
const SEGMENT: &str = "00000001000000000000000B";
const QUICK: &str = "[wal]\nstatus_interval = \"300ms\"\nflush_interval = \"300ms\"\n";

/// A repository with an object of every kind: a backup, a failover, a drill's report, a runbook, an index.
fn with_repository(prove: impl FnOnce(&Bowline<'_>)) {
    let one = Cluster::builder(newest_major()).wal_segment_mib(1).setting("wal_keep_size", "256MB").start();
    let two = one.standby();
    let bowline = Bowline::new(&one, RepositoryKind::Folder);
    let hosts = format!("host={},{} port={} user=postgres dbname=postgres", one.socket_dir().display(), two.socket_dir().display(), one.port());
    bowline.configure(&hosts, Some(one.data_dir()), QUICK);
    let receiver = bowline.receive();
    one.psql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 2000) i");
    bowline.ok(&["backup"]);
    one.psql("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 20000) i");
    bowline.archive_now();
    two.catch_up(&one);
    one.kill9();
    two.promote();
    wait("the receiver to follow", Duration::from_secs(60), || receiver.log().contains("\"slot\":\"bowline\",\"timeline\":2"));
    two.psql("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 100) i");
    let written = two.psql("SELECT pg_current_wal_flush_lsn()");
    wait("WAL to be stored", Duration::from_secs(30), || {
        two.psql(&format!("SELECT flush_lsn >= '{written}' FROM pg_stat_replication WHERE application_name = 'bowline'")) == "t"
    });
    assert_eq!(receiver.stop(), Some(0));
    bowline.ok(&["wal", "audit"]);
    bowline.ok(&["runbook", "--keep"]);
    let place = one.home().join("s").join("drills");
    bowline.ok(&["verify", "--dir", place.to_str().expect("a plain path")]);
    prove(&bowline);
}

fn scrub(bowline: &Bowline<'_>) -> Outcome {
    bowline.run(&["scrub"])
}

/// It ended by the class of damage, and named the object.
fn names(outcome: &Outcome, object: &str, what: &str) {
    assert_eq!(outcome.code, 6, "{what} of {object} was not found: {outcome:#?}");
    let said = format!("{:?}", outcome.lines);
    assert!(said.contains(object), "{what}: {object} is not named: {said}");
}

#[test]
fn one_flipped_bit_in_any_object_and_any_missing_object_is_found_and_named() {
    with_repository(|bowline| {
        let first = scrub(bowline);
        assert_eq!(first.result()["unproven"], 0, "{first:#?}");
        assert_eq!(first.result()["run"]["is_all"], true, "{first:#?}");
        let root = bowline.repository();
        let all = objects(&root);
        let kinds: Vec<Kind> = all.keys().copied().collect();
        for kind in [Kind::Key, Kind::Pack, Kind::Segment, Kind::Piece, Kind::History, Kind::Index, Kind::Report, Kind::Runbook, Kind::ScrubRecord] {
            assert!(kinds.contains(&kind), "there is no {kind:?}: {kinds:?}");
        }
        // A header tells what its object is: its bits are damaged in other ways than the rest.
        let is_sealed = |kind| matches!(kind, Kind::Pack | Kind::Manifest | Kind::Segment | Kind::Piece | Kind::History | Kind::Index);
        let parts = |kind| -> &[f64] {
            match (full(), is_sealed(kind)) {
                (true, _) => &[0.0, 0.13, 0.5, 0.9, 1.0],
                (false, true) => &[0.0, 1.0],
                (false, false) => &[0.7],
            }
        };
        for (kind, paths) in &all {
            // What lies before the backup nobody needs.
            let is_needed = |path: &&PathBuf| *kind != Kind::Segment || path.ends_with(SEGMENT);
            for path in paths.iter().filter(is_needed).take(if full() { usize::MAX } else { 1 }) {
                let object = name_of(&root, path);
                for part in parts(*kind) {
                    let _flipped = Flipped::at(path, *part);
                    names(&scrub(bowline), &object, &format!("a flipped bit at {part}"));
                }
                // Of the record nothing tells once it is gone, nor of a run; and a piece whose segment is whole may go.
                if !(matches!(kind, Kind::ScrubRecord | Kind::Repository | Kind::Run) || *kind == Kind::Piece && is_covered(path)) {
                    let broken = Broken::new(path, Damage::Deleted, path);
                    // A segment that its pieces make up is no gap.
                    let (pieces, aside) = (path.with_extension("pieces"), root.with_extension("aside"));
                    let is_in_pieces = *kind == Kind::Segment && std::fs::rename(&pieces, &aside).is_ok();
                    let outcome = scrub(bowline);
                    // Of an index that lost a batch the folder is named; of a lease that was written anew nothing is missing.
                    let named = if *kind == Kind::Index { object.rsplit_once('/').expect("a folder").0.to_owned() } else { object.clone() };
                    if *kind == Kind::Lease && object.ends_with("scrub.json") {
                        assert_eq!(outcome.code, 0, "{outcome:#?}");
                    } else if *kind == Kind::Key && outcome.code == 3 {
                        // Without the key of all digests the repository is not opened at all.
                        assert!(outcome.error().1.contains(&named), "{outcome:#?}");
                    } else {
                        names(&outcome, &named, "the absence");
                    }
                    drop(broken);
                    if is_in_pieces {
                        std::fs::rename(&aside, &pieces).expect("put the pieces back");
                    }
                    assert_eq!(scrub(bowline).code, 0, "{object} is there again");
                }
            }
        }
        assert_eq!(scrub(bowline).code, 0, "all was put right");
    });
}

/// Whether the segment of this piece is stored whole.
fn is_covered(piece: &Path) -> bool {
    let folder = piece.parent().expect("a folder");
    folder.with_extension("").exists()
}

fn name_of(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned()
}

#[test]
fn a_run_goes_on_where_the_last_one_ended_and_damage_stands_until_it_is_well() {
    let cluster = Cluster::builder(newest_major()).wal_segment_mib(1).start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), QUICK);
    let receiver = bowline.receive();
    // What does not compress, so that there are several packs.
    cluster.psql("CREATE TABLE t AS SELECT sha512((i::text)::bytea) || sha512((i + 1)::text::bytea) AS a FROM generate_series(1, 500000) i");
    let id = bowline.ok(&["backup"])["id"].as_str().expect("an id").to_owned();
    bowline.archive_now();
    assert_eq!(receiver.stop(), Some(0));

    // Each run reads an object at least, and in the end everything was read.
    let packs = files_below(&bowline.repository().join("full").join(&id).join("data"));
    assert!(packs.len() >= 3, "{packs:?}");
    let (mut runs, mut bytes) = (0, 0);
    loop {
        let done = bowline.ok(&["scrub", "--budget", "30MB"]);
        runs += 1;
        bytes += done["run"]["bytes"].as_u64().expect("bytes");
        if done["unproven"] == 0 {
            break;
        }
        assert!(runs < 40, "it never comes round: {done:#}");
    }
    assert!(runs > 2, "{runs} runs");
    let stored: u64 = files_below(&bowline.repository()).iter().map(|path| path.metadata().expect("metadata").len()).sum();
    assert!(bytes >= stored / 10 * 9, "{bytes} of {stored} bytes were read");

    // A budget that does not come so far does not make damage well: what is known is looked at first, and stands.
    let last = packs.iter().max().expect("a pack");
    let flipped = Flipped::at(last, 0.5);
    let found = scrub(&bowline);
    names(&found, &name_of(&bowline.repository(), last), "a flipped bit");
    let said = found.error().1;
    assert!(said.contains("bowline backup"), "the next step is said: {said}");
    let standing = &found.lines.iter().rev().find_map(|line| line.get("error")).expect("an error")["result"]["damage"][0];
    assert!(standing["unreachable"].as_str().is_some_and(|text| text.contains(&id) && text.contains("base/")), "{standing:#}");
    let since = standing["since"].clone();
    let again = bowline.run(&["scrub", "--budget", "1MB"]);
    names(&again, &name_of(&bowline.repository(), last), "standing damage");
    assert!(format!("{:?}", again.lines).contains(since.as_str().expect("a time")), "it is known since it was found: {again:#?}");
    drop(flipped);
    let healed = bowline.ok(&["scrub", "--budget", "1MB"]);
    assert_eq!(healed["healed"].as_array().map(Vec::len), Some(1), "{healed:#}");
}
