//! What becomes of snapshots: they expire with the backups that needed them, are read again, and what is left serves every instant that
//! is promised.

use crate::ground::{Folder, Objects, now};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use terms::Timestamp;
use testkit::bowline::{Outcome, files_below, with_digest};
use testkit::tamper::Flipped;
use testkit::{Bowline, Cluster, RepositoryKind, newest_major};

const POLICY: &str = "[wal]\nstatus_interval = \"300ms\"\nflush_interval = \"300ms\"\n\
                      [retention]\ndaily = 1\nmonthly = 1\nminimum = 1\ngrace = \"2s\"\n";

/// A database that refers to objects, and both as they were at some instants.
struct Ground<'a> {
    cluster: &'a Cluster,
    bowline: &'a Bowline<'a>,
    folder: Folder,
    past: BTreeMap<&'static str, Past>,
}

/// How it was at an instant.
struct Past {
    at: Timestamp,
    objects: Vec<(String, Vec<u8>)>,
    /// How many there were.
    rows: String,
}

impl<'a> Ground<'a> {
    fn new(cluster: &'a Cluster, bowline: &'a Bowline<'a>, snapshots: &str) -> Self {
        let folder = Folder::make(cluster, "packages");
        let more = format!("{POLICY}[packages]\nprimary = \"{}\"\nsnapshots = \"{snapshots}\"\n", folder.url());
        bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &more);
        cluster.psql("CREATE TABLE packages (key text)");
        Self { cluster, bowline, folder, past: BTreeMap::new() }
    }

    fn put(&self, key: &str) {
        self.folder.put(key, format!("the body of {key}, and of no other object").repeat(300).as_bytes());
        self.cluster.psql(&format!("INSERT INTO packages VALUES ('{key}')"));
    }

    /// A name has the second in it, and both kinds of names are to differ.
    fn wait(&self) {
        std::thread::sleep(Duration::from_millis(1100));
    }

    fn snapshot(&self) -> String {
        self.wait();
        self.bowline.ok(&["packages", "snapshot"])["snapshot"]["id"].as_str().expect("an id").to_owned()
    }

    fn backup(&self) -> (String, Timestamp) {
        self.wait();
        let made = self.bowline.ok(&["backup"]);
        self.bowline.archive_now();
        (made["id"].as_str().expect("an id").to_owned(), made["stop"]["time"].as_str().and_then(|time| time.parse().ok()).expect("a time"))
    }

    fn remember(&mut self, name: &'static str, at: Timestamp) {
        let rows = self.cluster.psql("SELECT count(*) FROM packages");
        self.past.insert(name, Past { at, objects: self.folder.all(), rows });
        std::thread::sleep(Duration::from_millis(50));
    }

    /// The objects as of then come back elsewhere byte for byte, and the database has as many rows as then.
    fn comes_back(&self, name: &'static str, target: &[&str]) {
        let Past { at, objects, rows } = &self.past[name];
        let elsewhere = Folder::make(self.cluster, name);
        self.bowline.ok(&["packages", "restore", "--to", &at.to_string(), "--into", &elsewhere.url(), "--yes"]);
        assert_eq!(&elsewhere.all(), objects, "{name}");
        let to = at.to_string();
        let at_time = ["--to", to.as_str()];
        let restored = self.bowline.restore(if target.is_empty() { &at_time } else { target });
        assert_eq!(&restored.psql("SELECT count(*) FROM packages"), rows, "{name}");
    }
}

/// Why each snapshot stays, by its name; empty: it goes.
fn reasons(plan: &Value) -> BTreeMap<String, String> {
    let verdicts = plan["verdicts"].as_array().unwrap_or_else(|| panic!("{plan:#}"));
    verdicts
        .iter()
        .map(|verdict| {
            let kept: Vec<&str> = verdict["kept"].as_array().expect("reasons").iter().filter_map(Value::as_str).collect();
            (verdict["snapshot"].as_str().expect("an id").to_owned(), kept.join("; "))
        })
        .collect()
}

/// What a scrub says that is damaged.
fn damage_of(outcome: &Outcome) -> Value {
    let told = outcome.lines.iter().find_map(|line| line.get("result").or_else(|| line.get("error")?.get("result")));
    told.unwrap_or_else(|| panic!("{outcome:#?}"))["damage"].clone()
}

fn age(path: &Path, days: u64) {
    let file = fs::File::options().write(true).open(path).expect("it is there");
    file.set_modified(SystemTime::now() - Duration::from_secs(days * 86_400)).expect("a time can be set");
}

#[test]
fn snapshots_go_with_the_backups_that_needed_them_and_what_is_promised_comes_back() {
    let cluster = Cluster::builder(newest_major()).wal_segment_mib(1).start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let mut ground = Ground::new(&cluster, &bowline, "repository");
    let receiver = bowline.receive();
    let packages = |id: &str| bowline.repository().join("packages").join(id);
    ["a", "b", "old"].iter().for_each(|key| ground.put(key));
    let first = ground.snapshot();
    let (monthly, stop) = ground.backup();
    ground.remember("monthly", stop);
    ground.folder.remove("old");
    ground.put("c");
    let second = ground.snapshot();
    ground.put("lives on");
    let third = ground.snapshot();
    ground.put("short");
    let fourth = ground.snapshot();
    ground.folder.remove("short");
    let (going, _) = ground.backup();
    ground.put("d");
    let fifth = ground.snapshot();
    ground.wait();
    let (newest, _) = ground.backup();
    ground.put("e");
    let sixth = ground.snapshot();
    ground.remember("window", now());
    ground.put("later");
    ground.folder.remove("a");
    let seventh = ground.snapshot();
    bowline.archive_now();

    bowline.ok(&["hold", &fourth, "--why", "an audit"]);
    let planned = bowline.ok(&["expire", "--dry-run"]);
    let why = reasons(&planned["snapshot_plan"]);
    assert!(why[&first].contains(&format!("the end of backup {monthly}")) && why[&second].contains(&monthly), "{why:#?}");
    assert_eq!((why[&third].as_str(), why[&fourth].as_str()), ("", "held: an audit"), "{why:#?}");
    assert!([&fifth, &sixth, &seventh].iter().all(|id| why[*id].contains("every instant since")), "{why:#?}");
    assert!(why[&seventh].contains("the newest"), "{why:#?}");
    bowline.ok(&["unhold", &fourth]);

    // What is only listed, and was never made, takes nobody's place.
    let (forged, listing) = ("20991231T235959Z", packages(&seventh).join("backup.json"));
    let listing = fs::read_to_string(listing).expect("a listing").replace(&seventh, forged);
    fs::create_dir(packages(forged)).expect("a folder");
    fs::write(packages(forged).join("backup.json"), with_digest(&listing)).expect("forge");
    let text = bowline.fails(&["expire", "--dry-run"], 6, "backup-unproven");
    assert!(text.contains(&format!("packages/{forged}:")), "{text}");
    fs::remove_dir_all(packages(forged)).expect("remove");

    // Unlisted at once, removed after the grace: all of the fourth, and of the third nothing but that it is listed.
    let keys = || files_below(&bowline.repository().join("keys")).len();
    let keys_before = keys();
    let done = bowline.ok(&["expire", "--yes"]);
    assert_eq!((&done["unlisted"], &done["unlisted_snapshots"]), (&serde_json::json!([going]), &serde_json::json!([third, fourth])), "{done:#}");
    assert!(packages(&fourth).join("manifest").exists(), "its objects stay for the grace");
    std::thread::sleep(Duration::from_millis(2500));
    let done = bowline.ok(&["expire", "--yes"]);
    assert_eq!(done["snapshots"]["objects"], 3, "a pack, its list and its key: {done:#}");
    assert!(files_below(&packages(&fourth)).is_empty());
    assert!(!packages(&third).join("backup.json").exists() && packages(&third).join("data/000001").exists());
    assert_eq!(keys(), keys_before - 2, "the keys of the fourth snapshot and of the second backup go, and no other");
    assert_eq!(bowline.ok(&["expire", "--yes"])["unlisted_snapshots"], serde_json::json!([]));

    // Everything promised is there, and proven: also what an unlisted snapshot holds for listed ones.
    let scrubbed = bowline.ok(&["scrub"]);
    assert!(scrubbed["run"]["is_all"] == true && scrubbed["damage"] == serde_json::json!([]), "{scrubbed:#}");
    ground.comes_back("monthly", &["--to", "immediate", "--backup", &monthly]);
    ground.comes_back("window", &[]);
    let next = ground.snapshot();
    assert!(files_below(&packages(&next)).len() >= 2);
    assert_eq!(bowline.ok(&["scrub"])["damage"], serde_json::json!([]));
    assert!(planned.to_string().contains(&newest), "{planned:#}");

    // When nothing refers to the third any more, its packs go as well.
    for key in ["lives on", "a", "b", "c", "d"] {
        if ground.folder.get(key).is_some() {
            ground.folder.remove(key);
        }
    }
    ground.snapshot();
    ground.backup();
    ground.snapshot();
    bowline.ok(&["expire", "--yes"]);
    std::thread::sleep(Duration::from_millis(2500));
    bowline.ok(&["expire", "--yes"]);
    assert!(files_below(&packages(&third)).is_empty(), "{:?}", files_below(&packages(&third)));
    assert!(packages(&first).join("backup.json").exists(), "the monthly's stays");
    let again = Folder::make(&cluster, "again");
    let Past { at, objects, .. } = &ground.past["monthly"];
    bowline.ok(&["packages", "restore", "--to", &at.to_string(), "--into", &again.url(), "--yes"]);
    assert_eq!(&again.all(), objects);
    assert_eq!(receiver.stop(), Some(0));
}

#[test]
fn a_flipped_bit_of_a_snapshot_is_named_and_raises_the_alarm_and_a_failed_attempt_leaves_nothing() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let ground = Ground::new(&cluster, &bowline, "repository");
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    ["a", "b"].iter().for_each(|key| ground.put(key));
    let first = ground.snapshot();
    ground.put("c");
    let second = ground.snapshot();
    bowline.archive_now();
    let root = bowline.repository();
    assert_eq!(bowline.ok(&["scrub"])["damage"], serde_json::json!([]));
    let is_alarmed = || {
        let told = bowline.run(&["doctor"]);
        let result = told.lines.iter().find_map(|line| line.get("result")).unwrap_or_else(|| panic!("{told:#?}"));
        result["alarms"].as_array().expect("alarms").iter().any(|alarm| alarm["rule"] == "scrub-damage")
    };
    assert!(!is_alarmed());
    for (id, object) in [(&first, "data/000001"), (&first, "manifest"), (&second, "data/000001"), (&second, "manifest"), (&second, "backup.json")] {
        let name = format!("packages/{id}/{object}");
        // A document's last bytes say nothing.
        let parts: &[f64] = if object == "backup.json" { &[0.7] } else { &[0.0, 0.5, 1.0] };
        for part in parts.iter().copied() {
            let flipped = Flipped::at(&root.join(&name), part);
            let found = bowline.run(&["scrub"]);
            assert_eq!(found.code, 6, "{name} at {part}: {found:#?}");
            let damage = damage_of(&found);
            let named = damage.as_array().expect("damage").iter().find(|one| one["path"] == name.as_str());
            let unreachable = named.unwrap_or_else(|| panic!("{name} at {part}: {damage:#}"))["unreachable"].to_string();
            assert!(unreachable.contains(&format!("Snapshot {id} of packages")), "{unreachable}");
            if object.starts_with("data/") {
                let holds = if *id == first { "a, b" } else { "c" };
                assert!(unreachable.contains(&format!("parts of {holds}")), "{unreachable}");
            }
            if *id == first && object.starts_with("data/") {
                assert!(unreachable.contains(&format!("Snapshot {second} may refer to it")), "{unreachable}");
            }
            assert!(part > 0.0 || is_alarmed(), "{name}: nobody is alarmed");
            drop(flipped);
        }
        let well = bowline.ok(&["scrub"]);
        assert_eq!(well["damage"], serde_json::json!([]), "{name}: {well:#}");
    }
    assert!(!is_alarmed());
    // A pack that is gone, and a listing that no expiry removed.
    for object in ["data/000001", "backup.json"] {
        let (place, aside) = (root.join(format!("packages/{first}/{object}")), cluster.home().join("aside"));
        fs::rename(&place, &aside).expect("it can be moved away");
        let found = bowline.run(&["scrub"]);
        assert!(found.code == 6 && damage_of(&found).to_string().contains(&format!("packages/{first}/{object}")), "{found:#?}");
        fs::rename(&aside, &place).expect("and back");
        bowline.ok(&["scrub"]);
    }

    // An attempt that failed: its key goes, and what of packs an attempt leaves, when they are old enough.
    let keys = || files_below(&root.join("keys"));
    let before = keys();
    let attempt = root.join("packages/20200101T000000Z/data");
    let pack = attempt.join("000001");
    fs::create_dir_all(&attempt).expect("a folder can be made");
    fs::copy(root.join(format!("packages/{first}/data/000001")), &pack).expect("a pack can be copied");
    for place in [attempt.parent().expect("a parent"), &attempt, &pack] {
        fs::set_permissions(place, fs::Permissions::from_mode(0o777)).expect("and opened");
    }
    ground.put("d");
    let link = PathBuf::from(ground.folder.url().trim_start_matches("file://")).join("z-link");
    std::os::unix::fs::symlink("/nowhere", &link).expect("a link can be made");
    let failed = bowline.run(&["packages", "snapshot"]);
    assert_ne!(failed.code, 0, "{failed:#?}");
    let left: Vec<PathBuf> = files_below(&root.join("packages"))
        .into_iter()
        .filter(|path| [&first, &second].iter().all(|id| !path.to_string_lossy().contains(id.as_str())))
        .collect();
    assert!(!left.is_empty());
    let key = keys().into_iter().find(|key| !before.contains(key)).expect("the attempt's key");
    bowline.ok(&["expire", "--yes"]);
    assert!(key.exists() && left.iter().all(|path| path.exists()), "nothing goes before its time");
    left.iter().for_each(|path| age(path, 2));
    age(&key, 2);
    let done = bowline.ok(&["expire", "--yes"]);
    assert_eq!(done["attempts"]["objects"], left.len(), "{done:#}");
    assert!(key.exists(), "an attempt that nothing is seen of has a week");
    before.iter().chain([&key]).for_each(|key| age(key, 8));
    assert_eq!(bowline.ok(&["expire", "--yes"])["keys"]["objects"], 1);
    assert_eq!(keys(), before, "and every other key is there");
    fs::remove_file(link).expect("it can be removed");
    ground.snapshot();
    assert_eq!(bowline.ok(&["scrub"])["damage"], serde_json::json!([]));
    assert_eq!(receiver.stop(), Some(0));
}

#[test]
fn snapshots_in_a_repository_of_their_own_expire_and_are_scrubbed_beside_the_backups() {
    let cluster = Cluster::builder(newest_major()).wal_segment_mib(1).start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let place = Folder::make(&cluster, "apart");
    let apart = place.url();
    let ground = Ground::new(&cluster, &bowline, &apart);
    bowline.ok(&["--repository", &apart, "init"]);
    let root = PathBuf::from(apart.trim_start_matches("file://")).join("acme");
    let receiver = bowline.receive();
    ground.put("a");
    let first = ground.snapshot();
    ground.put("b");
    let second = ground.snapshot();
    ground.backup();
    let third = ground.snapshot();
    let unlisted = bowline.ok(&["expire", "--dry-run"]);
    assert_eq!(reasons(&unlisted["apart"]["snapshot_plan"])[&first], "", "{unlisted:#}");
    // Held there, it stays.
    bowline.ok(&["hold", &first, "--why", "an audit"]);
    assert_eq!(bowline.ok(&["expire", "--yes"])["apart"]["unlisted_snapshots"], serde_json::json!([]));
    assert_eq!(bowline.ok(&["unhold", &first])["was_held"], true);
    let done = bowline.ok(&["expire", "--yes"]);
    assert_eq!(done["apart"]["unlisted_snapshots"], serde_json::json!([first]), "{done:#}");
    assert!(done["apart"].get("plan").is_none(), "nothing is said of backups there: {done:#}");
    std::thread::sleep(Duration::from_millis(2500));
    bowline.ok(&["expire", "--yes"]);
    assert!(root.join(format!("packages/{first}/data/000001")).exists(), "{second} refers to it");

    assert_eq!(bowline.ok(&["scrub"])["damage"], serde_json::json!([]));
    let name = format!("packages/{first}/data/000001");
    let flipped = Flipped::at(&root.join(&name), 0.6);
    let found = bowline.run(&["scrub"]);
    let damage = damage_of(&found).to_string();
    assert!(found.code == 6 && damage.contains(&format!("apart/acme/{name}")), "{found:#?}");
    drop(flipped);
    assert_eq!(bowline.ok(&["scrub"])["damage"], serde_json::json!([]));
    let elsewhere = Folder::make(&cluster, "elsewhere");
    bowline.ok(&["packages", "restore", "--to", &now().to_string(), "--into", &elsewhere.url(), "--yes"]);
    assert_eq!(elsewhere.all(), ground.folder.all(), "{third}");

    // That it cannot be opened keeps no backup from expiring, and is told.
    let away = root.with_extension("away");
    fs::rename(&root, &away).expect("it can be moved");
    bowline.fails(&["expire", "--yes"], 3, "store-absent");
    fs::rename(&away, &root).expect("and back");
    assert_eq!(receiver.stop(), Some(0));
}
