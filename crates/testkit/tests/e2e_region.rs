//! A lost region: the first bucket and the key are gone, and a bare machine restores from a replica that was behind, or is told what it lacks.

#[path = "bad_input/ground.rs"]
mod ground;

use futures::TryStreamExt;
use ground::Chance;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use store::{ObjectPath, Put, StoreOptions, Version};
use terms::Lsn;
use testkit::bowline::{FINGERPRINT, files_below, wait};
use testkit::s3::{ACCESS_KEY_ID, S3Server, SECRET_ACCESS_KEY};
use testkit::workload::Pace;
use testkit::{Acknowledged, BareMachine, Bowline, Cluster, RepositoryKind, Workload, full, newest_major, seed};

/// Where copied objects go.
#[derive(Debug, Clone)]
enum Replica {
    /// Another server's bucket, as a provider's replication fills it.
    Bucket(String, Box<StoreOptions>),
    /// A folder, as a download of the bucket fills it: each object becomes the file of its name.
    Folder(PathBuf),
}

impl Replica {
    async fn keep(&self, path: &ObjectPath, body: bytes::Bytes) {
        match self {
            Self::Bucket(url, options) => {
                let to = store::open(url, options).expect("open the replica");
                let there = to.info(path).await.expect("look").map(|info| info.version);
                assert!(to.replace(path, body, there.as_ref()).await.expect("write").is_some(), "nobody else writes {path}");
            }
            Self::Folder(root) => {
                let file = root.join(path.as_str());
                fs::create_dir_all(file.parent().expect("a folder")).expect("make a folder");
                fs::write(&file, body).expect("write a file");
            }
        }
    }
}

/// A replication at work: object by object, in no order, each late by chance; the listing it goes by is old by the time it copies.
struct Replication {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Replication {
    fn start(from: (String, StoreOptions), to: Replica, mut chance: Chance) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let from = store::open(&from.0, &from.1).expect("open the first bucket");
                let mut done: BTreeMap<String, Version> = BTreeMap::new();
                while !asked.load(Ordering::Relaxed) {
                    pass(&*from, &to, &mut done, &mut chance, &asked).await;
                }
            });
        });
        Self { stop, thread }
    }

    /// Stops it between two objects.
    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the replication did not fail");
    }
}

/// Copies what is new, most of it, until asked to stop.
async fn pass(from: &(impl Put + ?Sized), to: &Replica, done: &mut BTreeMap<String, Version>, chance: &mut Chance, asked: &AtomicBool) {
    let listed: Vec<_> = from.list("", None).try_collect().await.expect("list the first bucket");
    let mut new: Vec<_> = listed.into_iter().filter(|object| done.get(object.path.as_str()) != Some(&object.version)).collect();
    for last in (1..new.len()).rev() {
        new.swap(last, chance.next(last as u64 + 1) as usize);
    }
    new.retain(|_| chance.next(4) > 0);
    for object in new {
        if asked.load(Ordering::Relaxed) {
            return;
        }
        // What was removed or replaced since is the next listing's matter.
        let Ok(body) = from.get(&object.path).await else { continue };
        to.keep(&object.path, body).await;
        done.insert(object.path.to_string(), object.version);
    }
    tokio::time::sleep(Duration::from_millis(chance.next(50))).await;
}

/// Up to where the replica's own mark says that all is stored.
fn covered(place: &Replica) -> Option<Lsn> {
    let body = match place {
        Replica::Folder(root) => fs::read(root.join("coverage.json")).ok()?,
        Replica::Bucket(url, options) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
            let read = async { store::open(url, options).ok()?.get(&ObjectPath::new("coverage.json").ok()?).await.ok() };
            runtime.block_on(read)?.to_vec()
        }
    };
    let mark: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    Some(mark["lsn"].as_str().and_then(|lsn| lsn.parse().ok()).expect("an LSN"))
}

/// Makes a tree the servers' user's own.
fn give(root: &Path, cluster: &Cluster) {
    let Some((uid, gid)) = cluster.user() else { return };
    let own = |path: &Path| std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("chown");
    own(root);
    for file in files_below(root) {
        file.ancestors().take_while(|path| *path != root).for_each(own);
    }
}

/// What a machine gets back from this replica is a prefix of what was acknowledged, whole and exact, not shorter than the replica's own
/// mark, and a drill of it passes; or it is told loudly. Returns how many commits came back.
fn is_a_prefix_or_loud(machine: &BareMachine, mark: Option<Lsn>, ledger: &[Acknowledged], what: &str) -> Option<usize> {
    let audit = machine.run(&["wal", "audit"]);
    let drills = machine.home().join("s").join("drills");
    let verify = machine.run(&["verify", "--dir", drills.to_str().expect("a plain path")]);
    let restored = match machine.try_restore(&["--to", "latest"]) {
        Ok(restored) => restored,
        Err(outcome) => {
            let (slug, text) = outcome.error();
            eprintln!("{what}: refused, {slug}: {}", text.lines().next().unwrap_or_default());
            assert!(!slug.is_empty() && outcome.code > 1 && text.lines().all(|part| !part.is_empty()), "{what}: {outcome:#?}");
            assert!(verify.code != 0, "{what}: a drill passes of what cannot be restored: {verify:#?}");
            return None;
        }
    };
    let found: BTreeSet<i64> = restored.psql("SELECT id FROM ledger").lines().map(|id| id.parse().expect("an id")).collect();
    // One client: its ids are in the order of its commits, and the last may have been committed without its knowing.
    let expected: BTreeSet<i64> = (1..=found.len() as i64).collect();
    assert_eq!(found, expected, "{what}: a prefix has no gap");
    assert!(found.len() <= ledger.len() + 1, "{what}: {} of {}", found.len(), ledger.len());
    let promised = ledger.iter().filter(|commit| mark.is_some_and(|mark| commit.inserted_to.is_some_and(|to| to <= mark))).count();
    assert!(found.len() >= promised, "{what}: {} came back, {promised} are covered by the mark", found.len());
    assert_eq!(restored.psql("SELECT count(*), sum(a) FROM ballast"), "20000|200010000", "{what}");
    assert_eq!((verify.code, verify.result()["report"]["outcome"].as_str()), (0, Some("passed")), "{what}");
    eprintln!("{what}: {} of {} commits came back, {promised} promised; audit exit {}", found.len(), ledger.len(), audit.code);
    Some(found.len())
}

#[test]
fn a_lost_region_comes_back_from_a_replica() {
    let mut chance = Chance(seed("region"));
    let second = std::thread::spawn(S3Server::start);
    let cluster = Cluster::builder(newest_major()).wal_segment_mib(1).start();
    let bowline = Bowline::new(&cluster, RepositoryKind::S3);
    let more = "[wal]\nflush_interval = \"300ms\"\nstatus_interval = \"200ms\"\ncoverage_interval = \"1s\"\n";
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), more);
    cluster.psql("CREATE TABLE ballast AS SELECT a, md5(a::text) FROM generate_series(1, 20000) a");
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    let spare_key = fs::read_to_string(bowline.dir().join("key")).expect("the key");

    let second = second.join().expect("a second server");
    let first = (format!("{}/acme", bowline.url()), S3Server::shared().options());
    second.create_bucket("replica");
    let bucket = Replica::Bucket(format!("{}/acme", second.url("replica", "backups")), Box::new(second.options()));
    let folders: Vec<PathBuf> = (0..if full() { 12 } else { 3 }).map(|i| cluster.home().join(format!("copy{i}"))).collect();
    let mut start = |to: Replica| Replication::start(first.clone(), to, Chance(chance.next(u64::MAX)));
    let in_step = start(bucket.clone());
    let mut behind: Vec<_> = folders.iter().map(|folder| start(Replica::Folder(folder.join("acme")))).collect();
    let workload = Workload::start_at(&cluster.conninfo(), Pace { payload_bytes: 3000, ..Pace::default() });
    workload.wait_for(300);
    bowline.ok(&["backup"]);
    // Each copy stops at a moment of its own, whatever it was doing.
    let mut at_stop = Vec::new();
    while let Some(copy) = behind.pop() {
        std::thread::sleep(Duration::from_millis(chance.next(1200)));
        copy.stop();
        at_stop.push(workload.so_far());
    }
    at_stop.reverse();
    let ledger = workload.stop();
    // Nothing is written any more, and the bucket's replication catches up.
    let end: Lsn = cluster.psql("SELECT pg_current_wal_insert_lsn()").parse().expect("an LSN");
    wait("the replica to be covered", Duration::from_secs(120), || covered(&bucket) >= Some(end));
    std::thread::sleep(Duration::from_secs(2));
    in_step.stop();
    let wanted = cluster.psql(FINGERPRINT);

    // The region is gone: server, receiver, bucket, configuration and key.
    receiver.kill9();
    cluster.kill9();
    S3Server::shared().kill();
    for gone in [bowline.config().to_owned(), bowline.dir().join("key")] {
        fs::remove_file(gone).expect("lose a file");
    }

    let url = format!("{}?endpoint={}&region=us-east-1&path_style=true", second.url("replica", "backups"), second.endpoint());
    let machine = BareMachine::new(cluster.major(), &url, &spare_key)
        .with_environment("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
        .with_environment("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
    assert_eq!(is_a_prefix_or_loud(&machine, covered(&bucket), &ledger, "the bucket in step"), Some(ledger.len()));
    assert_eq!(machine.restore(&[]).psql(FINGERPRINT), wanted);
    for (i, folder) in folders.iter().enumerate() {
        give(folder, &cluster);
        let machine = BareMachine::new(cluster.major(), &format!("file://{}", folder.display()), &spare_key);
        is_a_prefix_or_loud(&machine, covered(&Replica::Folder(folder.join("acme"))), &at_stop[i], &format!("folder {i}"));
    }
}

#[test]
fn what_a_replica_lacks_is_told() {
    let cluster = Cluster::builder(newest_major()).wal_segment_mib(1).setting("autovacuum", "off").start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE ledger (id int); CREATE TABLE ballast AS SELECT a, md5(a::text) FROM generate_series(1, 20000) a");
    let receiver = bowline.receive();
    let older = bowline.ok(&["backup"])["id"].as_str().expect("an id").to_owned();
    std::thread::sleep(Duration::from_millis(1100));
    let newer = bowline.ok(&["backup"])["id"].as_str().expect("an id").to_owned();
    let mark = fs::read(bowline.repository().join("coverage.json"));
    let mut names = Vec::new();
    for id in 1..=3 {
        names.push(cluster.psql(&format!("INSERT INTO ledger VALUES ({id}); SELECT pg_walfile_name(pg_current_wal_insert_lsn())")));
        bowline.archive_now();
    }
    assert_eq!(receiver.stop(), Some(0));
    let spare_key = fs::read_to_string(bowline.dir().join("key")).expect("the key");

    // A copy without the objects whose path holds one of these words.
    let copies = std::cell::Cell::new(0);
    let copy_without = |words: &[&str]| {
        copies.set(copies.get() + 1);
        let folder = cluster.home().join(format!("lacking{}", copies.get()));
        let mut left_out = 0;
        for file in files_below(&bowline.repository()) {
            let path = file.strip_prefix(bowline.repository()).expect("below").to_owned();
            if words.iter().any(|word| path.to_string_lossy().contains(word)) {
                left_out += 1;
                continue;
            }
            let to = folder.join("acme").join(path);
            fs::create_dir_all(to.parent().expect("a folder")).expect("make a folder");
            fs::copy(file, to).expect("copy");
        }
        assert!(left_out > 0, "{words:?} is in no name");
        give(&folder, &cluster);
        (folder.join("acme"), BareMachine::new(cluster.major(), &format!("file://{}", folder.display()), &spare_key))
    };
    let refused = |machine: &BareMachine, words: &[&str], named: &str| {
        let outcome = machine.try_restore(words).expect_err("it restores although something is missing");
        let (slug, text) = outcome.error();
        assert!(outcome.code > 1 && text.contains(named), "{slug}: {named} is not in {text}");
        assert_ne!(machine.run(&["verify", "--no-record", "--dir", machine.home().join("s").to_str().expect("a plain path")]).code, 0);
    };
    let rows = |machine: &BareMachine, words: &[&str]| machine.restore(words).psql("SELECT count(*) FROM ledger");

    let (_, machine) = copy_without(&[&names[1]]);
    refused(&machine, &[], &names[1]);
    let (_, machine) = copy_without(&[&format!("full/{newer}/data/")]);
    refused(&machine, &[], "data/");
    assert_eq!(rows(&machine, &["--backup", &older]), "3", "the older backup is whole");
    let (_, machine) = copy_without(&[&format!("full/{newer}/manifest")]);
    refused(&machine, &[], "manifest");
    let (_, machine) = copy_without(&["keys/"]);
    refused(&machine, &[], "key");
    let (_, machine) = copy_without(&["repository.json"]);
    refused(&machine, &[], "");
    let (_, machine) = copy_without(&[&format!("full/{newer}/backup.json")]);
    assert_eq!(rows(&machine, &[]), "3", "a backup that is not there yet is none, and the older one leads there too");

    // The segment in the middle and every word of what follows is late; its successor came early.
    let (root, machine) = copy_without(&[&names[1], &names[2], "coverage.json", "index/", ".pieces/"]);
    if let Ok(mark) = mark {
        fs::write(root.join("coverage.json"), mark).expect("an older mark");
    }
    let from = bowline.object(&format!("1/{}", names[2]));
    let to = root.join(from.strip_prefix(bowline.repository()).expect("below"));
    fs::copy(&from, &to).expect("copy");
    give(&root, &cluster);
    match machine.try_restore(&[]) {
        Err(outcome) => assert!(outcome.error().1.contains(&names[1]), "{outcome:#?}"),
        Ok(restored) => {
            assert_eq!(restored.psql("SELECT string_agg(id::text, ',') FROM ledger"), "1");
            let notes = restored.result["plan"]["notes"].to_string();
            assert!(notes.contains(&names[2]) && notes.contains("copy"), "what came early is not told of, or not as what it may be: {notes}");
        }
    }
}
