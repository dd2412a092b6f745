//! Every store operation of a backup goes wrong once: afterwards a backup that is listed restores, and the next run succeeds.

#[path = "bad_input/ground.rs"]
mod ground;

use bytes::Bytes;
use capture::{BackupOptions, Checksums, Meanwhile};
use futures::stream::BoxStream;
use ground::{Chance, FILL, SUM, program};
use keys::KeyFile;
use pg::ConnInfo;
use repo::{BackupDocument, Encryption, Reader, Writer};
use restore::{RestoreOptions, Target, Wish};
use seal::Recipient;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use store::{Created, Disk, Fault, FaultPlan, Faults, Fetch, ObjectInfo, ObjectPath, ObjectSink, Put, StoreError, Version};
use terms::{BackupId, Clock, Explain, RecoveryTarget, Silent, SystemClock, Timestamp};
use testkit::Cluster;

/// How many operations are walked unless all are asked for.
const SAMPLE: usize = 24;

/// Backups are named by the second: each run gets a later one, however fast they follow each other.
struct LaterEachRun(AtomicI64);

impl LaterEachRun {
    fn step(&self) {
        self.0.fetch_add(2_000_000, Ordering::Relaxed);
    }
}

impl Clock for LaterEachRun {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus_micros(self.0.load(Ordering::Relaxed))
    }
}

struct Walk {
    cluster: Cluster,
    clock: LaterEachRun,
    truth: String,
    source: Option<PathBuf>,
}

impl Walk {
    fn new(local: bool) -> Self {
        // Files are compared with the server's own: an autovacuum between a backup and the comparison would change them.
        let cluster = Cluster::builder(testkit::newest_major()).wal_segment_mib(1).setting("autovacuum", "off").start();
        cluster.psql(FILL);
        let truth = cluster.psql(SUM);
        let source = local.then(|| cluster.data_dir().to_owned());
        Self { cluster, clock: LaterEachRun(AtomicI64::new(0)), truth, source }
    }

    fn key(&self, root: &Path) -> Vec<Arc<dyn Recipient>> {
        vec![Arc::new(KeyFile::load(&root.with_extension("key")).expect("the key"))]
    }

    /// A new, empty repository.
    async fn repository(&self, name: &str) -> PathBuf {
        let root = self.cluster.home().join(name);
        let key: Arc<dyn Recipient> = Arc::new(KeyFile::create(&root.with_extension("key")).expect("a key"));
        let disk = Disk::new(root.clone());
        disk.create_root().await.expect("a folder");
        let (mode, probed) = (Encryption::Aes256Gcm, serde_json::json!({}));
        Writer::create(Arc::new(disk), vec![key], "acme", mode, probed, self.clock.now()).await.expect("a repository");
        root
    }

    /// One backup through a store that goes wrong as planned, until it ends by itself.
    async fn attempt(&self, root: &Path, plan: &Arc<FaultPlan>) -> Result<BackupDocument, String> {
        self.attempt_in(root, Arc::new(Faults::new(Arc::new(Disk::new(root.to_owned())), plan.clone()))).await
    }

    async fn attempt_in(&self, root: &Path, store: Arc<dyn Put>) -> Result<BackupDocument, String> {
        self.clock.step();
        let writer = Writer::open(store, self.key(root)).await.map_err(|e| e.advice().to_string())?;
        let options = BackupOptions {
            compression: seal::Compression::default(),
            jobs: 2,
            max_rate: None,
            checksums: Checksums::Fail,
            fast_checkpoint: true,
            slot: None,
            wal_timeout: Duration::from_secs(10),
            holder: "here".into(),
            meanwhile: Meanwhile::Refuse,
        };
        let info = ConnInfo::from_environment(&self.cluster.conninfo()).map_err(|e| e.advice().to_string())?;
        let made = capture::backup(&info, self.source.as_deref(), writer, options, &self.clock, Arc::new(Silent)).await;
        made.map_err(|e| e.advice().to_string())
    }

    /// An attempt that a dying store ends, as the death of the process would: whoever is killed does not wait.
    async fn backup(&self, root: &Path, plan: &Arc<FaultPlan>) -> Result<BackupDocument, String> {
        let killed = async {
            while !plan.is_dead() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        };
        tokio::select! {
            made = self.attempt(root, plan) => made,
            () = killed => Err("killed".into()),
            () = tokio::time::sleep(Duration::from_secs(60)) => Err("hangs".into()),
        }
    }

    async fn reader(&self, root: &Path) -> Reader {
        Reader::open(Arc::new(Disk::new(root.to_owned())), self.key(root)).await.expect("open the repository")
    }

    /// The checker: every listed backup restores. `server` also starts it and compares the rows.
    async fn listed_restores(&self, root: &Path, server: bool) -> Result<usize, String> {
        let reader = self.reader(root).await;
        let listed = reader.backups().await.map_err(|e| e.advice().to_string())?;
        for (number, backup) in listed.iter().enumerate() {
            let place = self.cluster.home().join(format!("t{}", number + 1));
            let restored = self.restores(&reader, backup.id, &place, server).await;
            let _ = fs::remove_dir_all(&place);
            let _ = fs::remove_dir_all(place.with_extension("bowline"));
            restored.map_err(|e| format!("{} is listed and does not restore: {e}", backup.id))?;
        }
        Ok(listed.len())
    }

    async fn restores(&self, reader: &Reader, backup: BackupId, place: &Path, server: bool) -> Result<(), String> {
        // The end of the backup: what every listed backup must reach by itself.
        let wish = Wish { target: RecoveryTarget::Immediate, timeline: None, backup: Some(backup) };
        let plan = restore::plan(reader, &wish).await.map_err(|e| e.advice().to_string())?;
        let target = Target::inspect(place).map_err(|e| e.advice().to_string())?;
        let options = RestoreOptions {
            occupied: Default::default(),
            tablespaces: Default::default(),
            jobs: 2,
            bin_dir: Some(self.cluster.bin_dir()),
            program: program(),
        };
        if !server {
            let restored = restore::restore_only_files(reader, &plan, &target, &options, &SystemClock, Arc::new(Silent)).await;
            restored.map_err(|e| e.advice().to_string())?;
            let relation = self.cluster.psql("SELECT pg_relation_filepath('probe')");
            let bytes = |data: &Path| fs::read(data.join(&relation)).map_err(|e| format!("{relation}: {e}"));
            return if bytes(place)? == bytes(self.cluster.data_dir())? { Ok(()) } else { Err(format!("{relation} differs")) };
        }
        let restored = restore::restore(reader, &plan, &target, &options, &SystemClock, Arc::new(Silent)).await;
        restored.map_err(|e| e.advice().to_string())?;
        let says = Cluster::try_open(self.cluster.major(), place)?.psql(SUM);
        if says == self.truth { Ok(()) } else { Err(format!("the rows differ: {says}")) }
    }

    /// One fault at operation `k`, and everything that must hold afterwards. Returns whether the attempt was listed.
    async fn trial(&self, k: u64, fault: Fault) -> bool {
        let at = format!("{fault:?} at operation {k}");
        let root = self.repository(&format!("r{k}{fault:?}")).await;
        let plan = FaultPlan::at(k, fault);
        let outcome = self.backup(&root, &plan).await;
        let name = plan.names().get(k as usize - 1).cloned().unwrap_or_default();
        assert_ne!(outcome.as_ref().err().map(String::as_str), Some("hangs"), "{at} ({name})");
        let listed = self.listed_restores(&root, true).await.unwrap_or_else(|e| panic!("{at} ({name}): {e}"));
        assert!(outcome.is_err() || listed == 1, "{at} ({name}): a backup was reported and is not listed");
        let again = self.backup(&root, &FaultPlan::none()).await;
        let again = again.unwrap_or_else(|e| panic!("after {at} ({name}) the next backup fails: {e}"));
        let reader = self.reader(&root).await;
        let now = reader.backups().await.expect("a list");
        assert_eq!(now.len(), listed + 1, "{at} ({name}): something of the earlier attempt is listed");
        assert_eq!(now.last().map(|b| b.id), Some(again.id));
        // One in four in full: the files' bytes are what the next run's own tests look at.
        if k.is_multiple_of(4) {
            self.listed_restores(&root, false).await.unwrap_or_else(|e| panic!("after {at} ({name}): {e}"));
        }
        let left = self.cluster.psql("SELECT count(*) FROM pg_replication_slots");
        assert!(left == "0" || wait_for_slots(&self.cluster), "{at} ({name}) leaves a slot behind");
        let _ = fs::remove_dir_all(&root);
        listed == 1
    }
}

fn wait_for_slots(cluster: &Cluster) -> bool {
    (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        cluster.psql("SELECT count(*) FROM pg_replication_slots") == "0"
    })
}

/// Which operations to walk: all, or a sample in which the rare kinds (everything but appends to packs) come first.
fn chosen(names: &[String], chance: &mut Chance) -> Vec<u64> {
    let all: Vec<u64> = (1..=names.len() as u64).collect();
    if testkit::full() {
        return all;
    }
    let (mut rare, mut usual): (Vec<u64>, Vec<u64>) = all.iter().partition(|k| !names[**k as usize - 1].starts_with("append"));
    let mut picked = Vec::new();
    while picked.len() < SAMPLE && !(rare.is_empty() && usual.is_empty()) {
        let from = if !rare.is_empty() && (picked.len() % 4 != 3 || usual.is_empty()) { &mut rare } else { &mut usual };
        picked.push(from.swap_remove(chance.next(from.len() as u64) as usize));
    }
    // The commit point itself is always among them.
    let commit = names.iter().position(|name| name.starts_with("put_new") && name.ends_with("backup.json")).expect("a commit point") as u64 + 1;
    picked.push(commit);
    picked.sort_unstable();
    picked.dedup();
    picked
}

fn walk(test: &str, local: bool) {
    let mut chance = Chance(testkit::seed(test));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let walk = Walk::new(local);
        let root = walk.repository("count").await;
        let plan = FaultPlan::none();
        walk.backup(&root, &plan).await.expect("a backup without faults");
        assert_eq!(walk.listed_restores(&root, true).await, Ok(1));
        let names = plan.names();
        let picked = chosen(&names, &mut chance);
        eprintln!("{test}: {} operations, walking {picked:?}", names.len());
        let mut listed = 0;
        for (turn, k) in picked.iter().enumerate() {
            let commit = names[*k as usize - 1].ends_with("backup.json");
            let both = testkit::full() || commit;
            for fault in [Fault::Die, Fault::Before, Fault::After] {
                let turned = [Fault::Die, Fault::Before, Fault::After][turn % 3];
                if both || fault == turned {
                    listed += usize::from(walk.trial(*k, fault).await);
                }
            }
        }
        eprintln!("{test}: in {listed} trials the attempt was listed, and restored");
    });
}

#[test]
fn after_any_fault_of_a_local_backup_what_is_listed_restores() {
    walk("fault_walk_local", true);
}

#[test]
fn after_any_fault_of_a_streamed_backup_what_is_listed_restores() {
    walk("fault_walk_stream", false);
}

/// The sabotage twin: were a backup published before its packs, its manifest or its WAL are there, the checker would say so.
#[tokio::test(flavor = "multi_thread")]
async fn publishing_too_early_turns_the_checker_red() {
    let walk = Walk::new(true);
    let root = walk.repository("early").await;
    let made = walk.backup(&root, &FaultPlan::none()).await.expect("a backup");
    assert_eq!(walk.listed_restores(&root, false).await, Ok(1));
    let folder = root.join(repo::backup_folder(made.kind, made.id));
    let wal = root.join("wal").join(made.system_id.to_string()).join(made.timeline.hex());
    for lacking in [folder.join("data"), folder.join("manifest"), wal] {
        let hidden = lacking.with_extension("hidden");
        fs::rename(&lacking, &hidden).expect("hide");
        let verdict = walk.listed_restores(&root, false).await;
        assert!(verdict.is_err(), "without {} the checker is content", lacking.display());
        fs::rename(&hidden, &lacking).expect("bring back");
    }
    // Published by hand, ahead of everything else: refused where its packs are missing, and seen where it claims to need none.
    let writer = Writer::open(Arc::new(Disk::new(root.clone())), walk.key(&root)).await.expect("open");
    walk.clock.step();
    let early = BackupDocument { id: BackupId::begun(walk.clock.now()), ..made };
    writer.publish(&early).await.expect_err("its packs are not there");
    let early = BackupDocument { packs: 0, ..early };
    writer.publish(&early).await.expect("publish");
    let verdict = walk.listed_restores(&root, false).await;
    assert!(verdict.as_ref().is_err_and(|e| e.contains(&early.id.to_string())), "{verdict:?}");
}

/// A folder that takes everything but WAL.
struct NoRoomForWal(Disk);

#[async_trait::async_trait]
impl Fetch for NoRoomForWal {
    async fn get(&self, path: &ObjectPath) -> Result<Bytes, StoreError> {
        self.0.get(path).await
    }
    async fn get_range(&self, path: &ObjectPath, range: std::ops::Range<u64>) -> Result<Bytes, StoreError> {
        self.0.get_range(path, range).await
    }
    async fn info(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, StoreError> {
        self.0.info(path).await
    }
    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a ObjectPath>) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        self.0.list(folder, after)
    }
    async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.0.folders(folder).await
    }
    fn address(&self) -> String {
        self.0.address()
    }
    fn is_remote(&self) -> bool {
        false
    }
}

#[async_trait::async_trait]
impl Put for NoRoomForWal {
    async fn put_new(&self, path: &ObjectPath, body: Bytes) -> Result<Created, StoreError> {
        if path.as_str().starts_with("wal/") {
            return Err(StoreError::Full { store: self.address(), operation: "write", path: path.to_string(), why: "planned".into() });
        }
        self.0.put_new(path, body).await
    }
    async fn harden(&self, path: &ObjectPath) -> Result<(), StoreError> {
        self.0.harden(path).await
    }
    async fn replace(&self, path: &ObjectPath, body: Bytes, expected: Option<&Version>) -> Result<Option<Version>, StoreError> {
        self.0.replace(path, body, expected).await
    }
    fn begin(&self, path: &ObjectPath) -> Result<Arc<dyn ObjectSink>, StoreError> {
        self.0.begin(path)
    }
    async fn settle(&self) -> Result<(), StoreError> {
        self.0.settle().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_wal_finds_no_room_ends_by_itself() {
    let walk = Walk::new(true);
    let root = walk.repository("away").await;
    let work = walk.attempt_in(&root, Arc::new(NoRoomForWal(Disk::new(root.clone()))));
    let ended = tokio::time::timeout(Duration::from_secs(60), work).await.expect("the backup waits for ever");
    let why = ended.expect_err("a backup without its WAL is reported");
    assert!(why.contains("[wal-missing]") && why.contains("was not published") && why.contains("hint:"), "{why}");
    assert_eq!(walk.listed_restores(&root, false).await, Ok(0));
}
