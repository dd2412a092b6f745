//! The application's objects: replicated by a rule, kept in snapshots, and brought back to the same instant as the database.

#[path = "packages/follow.rs"]
mod follow;
#[path = "packages/ground.rs"]
mod ground;
#[path = "packages/history.rs"]
mod history;
#[path = "packages/kept.rs"]
mod kept;
#[path = "packages/many.rs"]
mod many;
#[path = "packages/minio.rs"]
mod minio;
#[path = "packages/replication.rs"]
mod replication;
#[path = "packages/together.rs"]
mod together;
#[path = "packages/versions.rs"]
mod versions;

use ground::{Folder, Objects, now};
use std::fs;
use std::time::Duration;
use testkit::bowline::flip_a_bit;
use testkit::{Bowline, Cluster, RepositoryKind, newest_major};

fn in_snapshots(bowline: &Bowline<'_>, cluster: &Cluster, primary: &str) {
    let more = format!(
        "[packages]\nprimary = \"{primary}\"\nsnapshots = \"repository\"\nevery = \"15m\"\nagreement = {{ sql = \"SELECT key, size FROM packages\" }}\n"
    );
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &more);
}

/// A folder of packages, kept in the backups' repository.
fn folder_in_snapshots(cluster: &Cluster) -> (Bowline<'_>, Folder) {
    let bowline = Bowline::new(cluster, RepositoryKind::Folder);
    let folder = Folder::make(cluster, "packages");
    in_snapshots(&bowline, cluster, &folder.url());
    (bowline, folder)
}

#[test]
fn a_folder_comes_back_as_it_was_and_what_is_newer_is_kept() {
    let cluster = Cluster::start(newest_major());
    let (bowline, folder) = folder_in_snapshots(&cluster);
    bowline.fails(&["packages", "restore", "--to", &now().to_string(), "--yes"], 3, "packages-no-snapshot");
    let large: Vec<u8> = (0..9_000_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (key, body) in [("a-b", &b"first"[..]), ("a/b c+ü%41", b"second"), ("a/empty", b""), ("z/large", &large)] {
        folder.put(key, body);
    }
    let first = bowline.ok(&["packages", "snapshot"]);
    assert_eq!((&first["snapshot"]["objects"], &first["snapshot"]["objects_new"]), (&4.into(), &4.into()), "{first}");
    // What did not change is not stored again.
    folder.put("new", b"new");
    let lagging = bowline.ok(&["packages", "status"]);
    assert_eq!((&lagging["behind"], &lagging["mode"]), (&1.into(), &"managed".into()), "{lagging}");
    let second = bowline.ok(&["packages", "snapshot"]);
    let stored = second["snapshot"]["bytes_stored"].as_u64().expect("a number");
    assert!(second["snapshot"]["objects_new"] == 1 && second["snapshot"]["objects"] == 5 && stored < 10_000, "{second}");
    assert_eq!(bowline.ok(&["packages", "status"])["lag_seconds"], 0.0);
    let good = now();
    std::thread::sleep(Duration::from_millis(30));
    let wanted = folder.all();

    folder.put("later", b"not there then");
    folder.put("a-b", b"overwritten");
    folder.remove("z/large");
    folder.remove("a/b c+ü%41");
    let to = good.to_string();
    let planned = bowline.ok(&["packages", "restore", "--to", &to, "--plan"])["plan"].clone();
    assert_eq!(
        (&planned["absent"], &planned["different"], &planned["same"], &planned["newer"]),
        (&2.into(), &1.into(), &2.into(), &1.into()),
        "{planned}"
    );
    assert!(folder.get("z/large").is_none(), "a plan touches nothing");
    bowline.fails(&["packages", "restore", "--to", &to], 2, "not-confirmed");

    let done = bowline.ok(&["packages", "restore", "--to", &to, "--yes"]);
    let aside = std::path::PathBuf::from(done["aside"].as_str().expect("a folder for what was in the way"));
    assert_eq!(fs::read(aside.join("a-b")).expect("the overwriting one"), b"overwritten");
    assert_eq!(folder.get("later").as_deref(), Some(&b"not there then"[..]), "nobody asked to hide it");
    let again = bowline.ok(&["packages", "restore", "--to", &to, "--yes", "--hide-newer"]);
    assert_eq!((&again["same"], &again["bytes_written"], &again["newer_hidden"]), (&5.into(), &0.into(), &1.into()), "{again}");
    assert_eq!(folder.all(), wanted);
    // Elsewhere, and from the first snapshot, too.
    let elsewhere = Folder::make(&cluster, "elsewhere");
    let began = first["snapshot"]["ended"].as_str().expect("a time");
    bowline.ok(&["packages", "restore", "--to", began, "--into", &elsewhere.url(), "--yes"]);
    let before: Vec<_> = wanted.iter().filter(|(key, _)| key != "new").cloned().collect();
    assert_eq!(elsewhere.all(), before);

    // Damage is told, and what is whole comes back all the same.
    flip_a_bit(&bowline.repository().join(format!("packages/{}/data/000001", first["snapshot"]["id"].as_str().expect("an id"))));
    let third = Folder::make(&cluster, "third");
    bowline.fails(&["packages", "restore", "--to", &to, "--into", &third.url(), "--yes"], 3, "packages-incomplete");
    assert_eq!(third.get("new").as_deref(), Some(&b"new"[..]));
    assert!(third.keys().iter().all(|key| !key.contains("tmp")), "nothing half is left: {:?}", third.keys());

    // An object that has waited for two hours is an alarm until it is kept.
    let is_alarmed = || {
        let told = bowline.run(&["doctor"]);
        let result = told.lines.iter().find_map(|line| line.get("result")).unwrap_or_else(|| panic!("{told:#?}"));
        result["alarms"].as_array().expect("alarms").iter().any(|alarm| alarm["rule"] == "replication-lag" && alarm["subject"] == "packages")
    };
    folder.put("old", b"old");
    folder.age("old", Duration::from_secs(7200));
    bowline.fails(&["packages", "status"], 4, "packages-behind");
    assert!(is_alarmed());
    bowline.ok(&["packages", "snapshot"]);
    assert!(!is_alarmed());
}
