//! Whoever has stolen the credential that writes backups overwrites and removes everything: the recovery window stays.

use bytes::Bytes;
use futures::TryStreamExt;
use std::time::Duration;
use store::{ObjectVersion, StoreOptions};
use terms::{Clock, SystemClock};
use testkit::bowline::wait;
use testkit::s3::S3Server;
use testkit::{Bowline, Cluster, RepositoryKind, newest_major};

const QUICK: &str = "[wal]\nstatus_interval = \"300ms\"\nflush_interval = \"300ms\"\n";

/// The attacker, with all that the credential lets do.
struct Thief {
    runtime: tokio::runtime::Runtime,
    url: String,
    options: StoreOptions,
}

impl Thief {
    fn new(bowline: &Bowline) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        Self { runtime, url: format!("{}/acme", bowline.url()), options: S3Server::shared().options() }
    }

    fn versions(&self) -> Vec<ObjectVersion> {
        self.runtime.block_on(async {
            let door = store::open_versions(&self.url, &self.options).expect("open");
            door.versions(String::new()).try_collect().await.expect("list")
        })
    }

    fn puts(&self, path: &str, body: &str) {
        self.runtime.block_on(async {
            let store = store::open(&self.url, &self.options).expect("open");
            let path = store::ObjectPath::new(path).expect("a plain path");
            store.put_new(&path, Bytes::copy_from_slice(body.as_bytes())).await.expect("write");
        });
    }

    fn removes(&self, path: &str) {
        self.runtime.block_on(async {
            let remover = store::open_remover(&self.url, &self.options).expect("open");
            remover.remove(&store::ObjectPath::new(path).expect("a plain path")).await.expect("a removal marks it only");
        });
    }

    /// Puts garbage over each object that `whether` chooses; how many.
    fn overwrites(&self, whether: impl Fn(&str) -> bool) -> usize {
        self.runtime.block_on(async {
            let store = store::open(&self.url, &self.options).expect("open");
            let mut count = 0;
            for object in store.list("", None).try_collect::<Vec<_>>().await.expect("list") {
                if whether(object.path.as_str()) {
                    let garbage = Bytes::from(vec![0x5a; object.bytes as usize]);
                    store.replace(&object.path, garbage, Some(&object.version)).await.expect("write").expect("nobody is faster");
                    count += 1;
                }
            }
            count
        })
    }

    /// Removes every object, and tries to remove every version for good; how many versions are gone.
    fn removes_everything(&self) -> usize {
        let versions = self.versions();
        self.runtime.block_on(async {
            let remover = store::open_remover(&self.url, &self.options).expect("open");
            let mut gone = 0;
            for version in &versions {
                remover.remove(&version.path).await.expect("a removal marks it only");
                gone += usize::from(remover.remove_version(&version.path, &version.id).await.is_ok());
            }
            gone
        })
    }
}

#[test]
fn a_stolen_credential_cannot_destroy_the_recovery_window() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::S3Locked);
    let objects = cluster.home().join("objects");
    cluster.psql(&format!("\\! umask 0 && mkdir -m 777 {}", objects.display()));
    std::fs::write(objects.join("one"), b"an object").expect("a file can be written");
    let packages = format!("[packages]\nprimary = \"file://{}\"\nsnapshots = \"repository\"\n", objects.display());
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &format!("{QUICK}{packages}"));
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 5000) AS i");
    cluster.psql("SELECT pg_switch_wal()");
    cluster.psql("INSERT INTO t SELECT generate_series(1, 2500)");
    let status = || bowline.run(&["status"]).lines.iter().find_map(|line| line.get("result").cloned()).expect("a result");
    wait("everything to be stored", Duration::from_secs(20), || status()["wal_lag_bytes"] == 0);
    assert_eq!(receiver.stop(), Some(0));
    let relocked = || {
        let told = bowline.ok(&["relock"]);
        ["objects", "extended"].map(|name| told[name].as_u64().unwrap_or_else(|| panic!("{told:#}")))
    };
    let [count, extended] = relocked();
    assert!(count > 5 && extended == 0, "{count}, {extended}");
    // A snapshot is locked with its pack, its list, its listing and its key; under longer locks all of that is extended.
    bowline.ok(&["packages", "snapshot"]);
    assert_eq!(relocked(), [count + 4, 0]);
    let lock_for = |days: u32| {
        let config = std::fs::read_to_string(bowline.config()).expect("a configuration");
        let lines = config
            .lines()
            .map(|line| if line.starts_with("object_lock_days") { format!("object_lock_days = {days}\n") } else { format!("{line}\n") });
        std::fs::write(bowline.config(), lines.collect::<String>()).expect("it can be written");
    };
    lock_for(30);
    assert_eq!(relocked(), [count + 4, count + 4]);
    // A listing that says nothing does not let the locks of the others end: they are extended before it is told.
    let thief = Thief::new(&bowline);
    for (path, body) in [("full/20260101T020000Z/backup.json", "{}"), ("packages/20260101T020000Z/backup.json", "{\"format\": 99}")] {
        thief.puts(path, body);
    }
    lock_for(90);
    bowline.fails(&["relock"], 6, "repository-damaged");
    for path in ["full/20260101T020000Z/backup.json", "packages/20260101T020000Z/backup.json"] {
        thief.removes(path);
    }
    assert_eq!(relocked(), [count + 4, 0]);
    // The server's clock has whole seconds.
    std::thread::sleep(Duration::from_millis(1200));
    let before = SystemClock.now().to_string();
    std::thread::sleep(Duration::from_millis(1200));

    // What is written once and was overwritten is read as it was, without being asked to.
    let must_stay = |version: &ObjectVersion| !version.is_removal && !repo::is_unlocked(version.path.as_str());
    let ours: Vec<ObjectVersion> = thief.versions().into_iter().filter(must_stay).collect();
    let count = thief.overwrites(|path| path.starts_with("full/") || path.starts_with("wal/"));
    assert!(count > 5, "only {count} objects were there");
    let restored = bowline.restore(&["--to", "latest"]);
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "7500");
    drop(restored);
    bowline.ok(&["verify"]);

    // Then all of it goes, keys included.
    thief.overwrites(|path| path.starts_with("keys/") || path == "repository.json");
    assert!(thief.removes_everything() > 0, "what the thief put there is not locked");
    let left = thief.versions();
    for version in &ours {
        assert!(left.iter().any(|found| (&found.path, &found.id) == (&version.path, &version.id)), "{version:?} is gone");
    }
    bowline.fails(&["list"], 3, "repository-missing");
    let as_of = ["--repository-as-of", before.as_str()];
    // The thief took away that the garbage was removed, too: it is told, and hides nothing.
    let listed = bowline.run(&[&["list"], &as_of[..]].concat());
    assert_eq!((listed.code, listed.error().0), (6, "repository-damaged"), "{listed:#?}");
    let told = listed.lines.iter().find_map(|line| line.get("result")).expect("what can be read");
    assert_eq!(told["backups"].as_array().map(Vec::len), Some(1), "{told:#}");
    let restored = bowline.restore(&[&["--to", "latest", "--on-damage", "nearest-backup"], &as_of[..]].concat());
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "7500");
    drop(restored);
    bowline.fails(&[&["wal", "audit", "--no-read"], &as_of[..]].concat(), 6, "repository-damaged");
    let refused = bowline.run(&[&["backup"], &as_of[..]].concat());
    assert_eq!(refused.code, 2, "{refused:#?}");
}
