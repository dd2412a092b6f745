//! What retention lets go goes late, in order, and leaves what stays whole: with real backups and their log.

use nix::sys::signal::Signal;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use testkit::bowline::{files_below, wait, with_digest};
use testkit::{Bowline, Cluster, RepositoryKind, newest_major};

const POLICY: &str = "[wal]\nstatus_interval = \"300ms\"\nflush_interval = \"300ms\"\n\
                      [retention]\ndaily = 1\nmonthly = 1\nminimum = 1\ngrace = \"2s\"\n";

fn is_begun_drill(path: &Path) -> bool {
    path.to_string_lossy().ends_with("-drill.begun.json")
}

/// A backup, a second after the last one, and what was in the table when it ended.
fn backup(bowline: &Bowline, cluster: &Cluster, rows: u32) -> String {
    std::thread::sleep(Duration::from_millis(1100));
    cluster.psql(&format!("INSERT INTO t SELECT generate_series(1, {rows})"));
    let id = bowline.ok(&["backup"])["id"].as_str().expect("an id").to_owned();
    bowline.archive_now();
    id
}

#[test]
fn what_expires_goes_after_its_grace_and_what_stays_restores() {
    let cluster = Cluster::builder(newest_major()).wal_segment_mib(1).start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), POLICY);
    cluster.psql("CREATE TABLE t (a int)");
    let receiver = bowline.receive();
    let ids: Vec<String> = (0..5).map(|_| backup(&bowline, &cluster, 1000)).collect();
    bowline.ok(&["hold", &ids[2], "--why", "an audit"]);
    let folder = |id: &str| bowline.repository().join("full").join(id);

    // Looking changes nothing.
    let plan = bowline.ok(&["expire", "--dry-run"])["plan"].clone();
    let verdict =
        |id: &str| plan["verdicts"].as_array().expect("verdicts").iter().find(|v| v["backup"] == id).expect("a verdict")["kept"].to_string();
    assert!(verdict(&ids[0]).contains("monthly of"), "{plan:#}");
    assert_eq!((verdict(&ids[1]).as_str(), verdict(&ids[3]).as_str()), ("[]", "[]"), "{plan:#}");
    assert!(verdict(&ids[2]).contains("held: an audit"), "{plan:#}");
    assert!(verdict(&ids[4]).contains("the newest") && verdict(&ids[4]).contains("daily of"), "{plan:#}");
    bowline.fails(&["expire"], 2, "not-confirmed");
    let listed = || -> Vec<String> {
        let listed = bowline.ok(&["list"])["backups"].clone();
        listed.as_array().expect("backups").iter().map(|b| b["id"].as_str().expect("an id").to_owned()).collect()
    };
    assert_eq!(listed(), ids);

    // Somebody who can only add objects lists a backup that never was, newer than all, without a manifest and with that of another one.
    let forged = "20991231T235959Z";
    let listing = std::fs::read_to_string(folder(&ids[4]).join("backup.json")).expect("a listing");
    let forge = |has_manifest: bool| {
        std::fs::create_dir(folder(forged)).expect("a folder");
        std::fs::write(folder(forged).join("backup.json"), with_digest(&listing.replace(&ids[4], forged))).expect("write");
        if has_manifest {
            std::fs::copy(folder(&ids[4]).join("manifest"), folder(forged).join("manifest")).expect("copy");
        }
        // As the repository's own user has written it.
        let owner = std::fs::metadata(folder(&ids[4])).expect("a folder");
        for path in files_below(&folder(forged)).into_iter().chain([folder(forged)]) {
            std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).expect("own");
        }
    };
    for has_manifest in [false, true] {
        forge(has_manifest);
        let text = bowline.fails(&["expire", "--dry-run"], 6, "backup-unproven");
        assert!(text.contains(forged) && !text.contains(&format!("{}:", ids[4])), "{text}");
        std::fs::remove_dir_all(folder(forged)).expect("remove");
    }

    // While a drill is under way it may read any of them.
    let mut words = bowline.command(&["--json", "verify", "--backup", &ids[4], "--dir"]);
    words.arg(bowline.dir());
    let mut drill = bowline.start("verify", words);
    wait("the drill to begin", Duration::from_secs(20), || files_below(&bowline.repository().join("runs")).iter().any(|path| is_begun_drill(path)));
    drill.signal(Signal::SIGSTOP);
    let done = bowline.ok(&["expire", "--yes"]);
    assert_eq!(done["unlisted"].as_array().map(Vec::len), Some(0), "{done:#}");
    assert!(done["plan"]["verdicts"][1]["kept"].to_string().contains("in use by the drill that began at"), "{done:#}");
    drill.signal(Signal::SIGCONT);
    wait("the drill to end", Duration::from_secs(60), || drill.has_ended());
    assert_eq!(drill.stop(), Some(0));

    // Unlisted at once, removed after the grace.
    let keys = || files_below(&bowline.repository().join("keys")).len();
    let keys_before = keys();
    let wal_before = bowline.wal_files().len();
    let pieces = || files_below(&bowline.repository().join("wal")).iter().filter(|path| path.to_string_lossy().contains(".pieces/")).count();
    assert!(pieces() > 0, "no piece was stored");
    // The forged one takes no place and keeps nothing from going; the run does its work, and ends with the error that names it.
    forge(true);
    let outcome = bowline.run(&["expire", "--yes"]);
    assert_eq!((outcome.code, outcome.error().0), (6, "backup-unproven"), "{outcome:#?}");
    let done = outcome.lines.iter().find_map(|line| line.get("error")?.get("result")).unwrap_or_else(|| panic!("{outcome:#?}"));
    assert!(done["unproven"][format!("full/{forged}")].is_string() && folder(forged).join("backup.json").exists(), "{done:#}");
    std::fs::remove_dir_all(folder(forged)).expect("remove");
    assert_eq!(done["unlisted"].as_array().map(Vec::len), Some(2), "{done:#}");
    assert_eq!(listed(), [ids[0].clone(), ids[2].clone(), ids[4].clone()]);
    assert!(!files_below(&folder(&ids[1])).is_empty(), "its objects stay for the grace");
    assert_eq!(bowline.wal_files().len(), wal_before, "and so does the log");
    // A receiver that ends writes what it knows of the last segments to the index.
    assert_eq!(receiver.stop(), Some(0));
    std::thread::sleep(Duration::from_millis(2500));
    let done = bowline.ok(&["expire", "--yes"]);
    assert!(done["backups"]["objects"].as_u64().is_some_and(|n| n >= 6) && done["wal"]["objects"].as_u64().is_some_and(|n| n >= 2), "{done:#}");
    assert!(done["pieces"]["objects"].as_u64().is_some_and(|n| n > 0), "{done:#}");
    assert!(pieces() <= 1, "{} pieces of segments that are stored whole are left", pieces());
    assert_eq!(keys(), keys_before - 2, "each backup's own key goes with it, and no other");
    for id in [&ids[1], &ids[3]] {
        assert!(files_below(&folder(id)).is_empty(), "{id} is still there");
    }
    assert!(bowline.wal_files().len() < wal_before);

    let receiver = bowline.receive();
    // Whatever is listed restores, and the log is whole where it is to be.
    for (index, id) in [(0, &ids[0]), (2, &ids[2]), (4, &ids[4])] {
        let restored = bowline.restore(&["--to", "immediate", "--backup", id]);
        assert_eq!(restored.psql("SELECT count(*) FROM t"), format!("{}", (index + 1) * 1000), "{id}");
    }
    cluster.psql("INSERT INTO t VALUES (0)");
    bowline.archive_now();
    let restored = bowline.restore(&["--to", "latest"]);
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "5001");
    drop(restored);
    let audit = bowline.run(&["wal", "audit"]);
    assert_eq!(audit.code, 0, "{audit:#?}");
    let status = || bowline.run(&["status"]);
    wait("status to be green", Duration::from_secs(20), || status().code == 0);

    // Held no more, it goes as well.
    bowline.ok(&["unhold", &ids[2]]);
    let done = bowline.ok(&["expire", "--yes"]);
    assert_eq!(done["unlisted"].as_array().map(Vec::len), Some(1), "{done:#}");
    assert_eq!(receiver.stop(), Some(0));
}
