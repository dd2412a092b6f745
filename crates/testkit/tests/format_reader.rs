//! Nobody is locked in: docs/format/read.py, which shares no code with Bowline, brings a real backup back to a running server.

use bytes::Bytes;
use capture::{BackupOptions, Checksums, Meanwhile, backup, push};
use futures::TryStreamExt;
use keys::KeyFile;
use pg::ConnInfo;
use repo::{BackupDocument, Encryption, Writer};
use seal::{Compression, Recipient, WrapContext, Wrapped};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use terms::{Silent, SystemClock};
use testkit::bowline::{files_below, flip_a_bit, wait};
use testkit::s3::S3Server;
use testkit::{Bowline, Cluster, RepositoryKind, newest_major};

fn format_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/format").canonicalize().expect("docs/format")
}

/// Runs the reader; its words, or its error.
fn try_read(arguments: &[&str]) -> Result<String, String> {
    let python = std::env::var("BOWLINE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = Command::new(&python);
    command.arg("-B").arg(format_folder().join("read.py")).args(arguments);
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {python} ({e}): run ./test, which brings it, or set BOWLINE_PYTHON"));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    match output.status.code() {
        Some(0) => Ok(said(&output.stdout)),
        code => Err(format!("{} [exit {code:?}]", said(&output.stderr))),
    }
}

fn read(arguments: &[&str]) -> String {
    try_read(arguments).unwrap_or_else(|e| panic!("read.py {}: {e}\nrun ./test, which makes a Python with cryptography", arguments.join(" ")))
}

/// One way to make a backup and to bring it back.
struct Way {
    name: &'static str,
    encryption: Encryption,
    compression: Compression,
    /// Whether the data directory is read, or the replication protocol spoken.
    local: bool,
    /// Whether the reader is told where tablespaces go.
    told: bool,
}

/// A repository with one backup and, behind it, one more segment of the log.
struct Stored {
    folder: PathBuf,
    key: PathBuf,
    backup: BackupDocument,
    last: String,
}

impl Stored {
    fn make(cluster: &Cluster, way: &Way) -> Self {
        let home = tempfile::tempdir().expect("a folder").keep();
        let (folder, key) = (home.join("acme"), home.join("key"));
        std::fs::create_dir(&folder).expect("make the repository's folder");
        let recipient: Arc<dyn Recipient> = Arc::new(KeyFile::create(&key).expect("a key file"));
        let recipients = if way.encryption == Encryption::Off { Vec::new() } else { vec![recipient] };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let (backup, last) = runtime.block_on(async {
            let store = store::open(&format!("file://{}", folder.display()), &store::StoreOptions::default()).expect("a store");
            let mut writer = Writer::create(store, recipients, "acme", way.encryption, serde_json::json!({}), terms::Clock::now(&SystemClock))
                .await
                .expect("create");
            let info = ConnInfo::parse(&cluster.conninfo(), &|_| None).expect("conninfo");
            let options = BackupOptions {
                compression: way.compression,
                jobs: 2,
                max_rate: None,
                checksums: Checksums::Fail,
                fast_checkpoint: true,
                slot: None,
                wal_timeout: Duration::from_secs(60),
                holder: "here".into(),
                meanwhile: Meanwhile::Refuse,
            };
            let data = way.local.then(|| cluster.data_dir());
            let made =
                backup(&info, data, writer.clone(), options, &SystemClock, Arc::new(Silent)).await.unwrap_or_else(|e| panic!("{}: {e:?}", way.name));
            // What is committed after the backup is in the log alone.
            let last = cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
            cluster.psql("INSERT INTO kept SELECT i, 'after the backup' FROM generate_series(1, 1000) i; SELECT pg_switch_wal()");
            let epoch = writer.admit(made.system_id, made.major, terms::Clock::now(&SystemClock)).await.expect("the same cluster");
            push(&writer, &epoch, &cluster.data_dir().join("pg_wal").join(&last), way.compression).await.expect("the segment is stored");
            (made, last)
        });
        Self { folder, key, backup, last }
    }

    /// The reader's arguments for this repository.
    fn arguments<'a>(&'a self, rest: &[&'a str]) -> Vec<&'a str> {
        let mut all = Vec::new();
        if self.backup.encryption != Encryption::Off {
            all.extend(["--key", self.key.to_str().expect("a plain path")]);
        }
        all.push(self.folder.to_str().expect("a plain path"));
        all.extend(rest);
        all
    }

    /// The segments from the backup's first to the last one stored.
    fn segments(&self) -> Vec<String> {
        let mut names = vec![terms::SegmentName::containing(self.backup.start.lsn, self.backup.timeline, self.backup.segment_bytes)];
        while names[names.len() - 1].to_string() != self.last {
            names.push(names[names.len() - 1].next(self.backup.segment_bytes));
        }
        names.iter().map(ToString::to_string).collect()
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.folder.parent().expect("a folder around it"));
    }
}

const SUMS: &str = "SELECT count(*), md5(string_agg(a || b, ',' ORDER BY b, a)) FROM kept; SELECT count(*), sum(a) FROM elsewhere";

#[test]
fn the_independent_reader_brings_a_backup_back_to_a_running_server() {
    let major = newest_major();
    let cluster = Cluster::builder(major).setting("max_wal_senders", 4).tablespace("fast").start();
    cluster.psql(
        "CREATE TABLE kept AS SELECT i AS a, md5(i::text) AS b FROM generate_series(1, 200000) i;
         CREATE TABLE elsewhere TABLESPACE fast AS SELECT i AS a FROM generate_series(1, 50000) i;
         CREATE UNLOGGED TABLE forgotten AS SELECT 1 AS a",
    );
    let ways = [
        Way { name: "sealed, zstd, local", encryption: Encryption::Aes256Gcm, compression: Compression::Zstd(1), local: true, told: false },
        Way { name: "plain, lz4, streamed", encryption: Encryption::Off, compression: Compression::Lz4, local: false, told: true },
    ];
    for way in ways {
        let stored = Stored::make(&cluster, &way);
        let id = stored.backup.id.to_string();
        assert!(stored.backup.packs >= 2, "the order of packs must matter");
        assert!(read(&stored.arguments(&["list"])).contains(&id));
        assert!(read(&stored.arguments(&["verify", &id])).contains("are what was written"));

        let target = cluster.home().join(if way.local { "local" } else { "streamed" });
        let spaces = if way.told { cluster.home().join("spaces") } else { target.with_extension("tablespaces") };
        let mut extract = vec!["extract", &id, target.to_str().expect("a plain path")];
        if way.told {
            extract.extend(["--tablespaces", spaces.to_str().expect("a plain path")]);
        }
        read(&stored.arguments(&extract));
        let log = target.join("pg_wal");
        for name in stored.segments() {
            read(&stored.arguments(&["wal", &stored.backup.system_id.to_string(), &name, log.to_str().expect("a plain path")]));
        }
        if let Some((uid, gid)) = cluster.user() {
            let done = Command::new("chown").args(["-R", "-h", &format!("{uid}:{gid}")]).args([&target, &spaces]).status();
            assert!(done.expect("run chown").success());
        }
        let restored = Cluster::open(major, &target);
        assert_eq!(restored.psql(SUMS), cluster.psql(SUMS), "{}", way.name);
        assert_eq!(restored.psql("SELECT count(*) FROM forgotten; SELECT count(*) FROM pg_tablespace WHERE spcname = 'fast'"), "0\n1");
        assert!(spaces.read_dir().expect("the tablespaces' folder").next().is_some());
        refusals(&stored, &way);
    }
}

/// The reader refuses what Bowline refuses.
fn refusals(stored: &Stored, way: &Way) {
    let id = stored.backup.id.to_string();
    let flipped = |path: &Path, at: usize, verb: &[&str], what: &str| {
        let good = std::fs::read(path).expect("an object");
        let mut bad = good.clone();
        let at = if at == usize::MAX { good.len() / 2 } else { at };
        bad[at] ^= 1;
        std::fs::write(path, bad).expect("damage it");
        let error = try_read(&stored.arguments(verb)).expect_err(what);
        assert!(error.starts_with("error: ") && error.ends_with("[exit Some(200)]"), "{what}: {error}");
        std::fs::write(path, good).expect("mend it");
    };
    let backup = stored.folder.join("full").join(&id);
    for object in ["data/000001", "manifest"] {
        // The object's header: format, kind, zeros, key id, salt. The first frame's: length, number, flags. Then a payload.
        for at in [7, 8, 12, 20, 40, 64, 72, 77, usize::MAX] {
            flipped(&backup.join(object), at, &["verify", &id], &format!("{}: {object} with byte {at} changed", way.name));
        }
    }
    flipped(&backup.join("backup.json"), 30, &["verify", &id], "backup.json with a byte changed");
    let first = stored.segments()[0].clone();
    let system = stored.backup.system_id.to_string();
    let segment = stored.folder.join("wal").join(&system).join(&first[..8]).join(&first);
    flipped(&segment, usize::MAX, &["wal", &system, &first, "/dev/null/nowhere"], "a segment with a byte changed");

    // Only what is proven absent may look like the end of the log to a server.
    let last: terms::SegmentName = stored.last.parse().expect("a segment");
    let wal = |name: &str| try_read(&stored.arguments(&["wal", &system, name, "/dev/null/nowhere"])).expect_err("absent");
    assert!(wal(&last.next(stored.backup.segment_bytes).to_string()).ends_with("it is not in the repository [exit Some(1)]"));
    assert!(wal("00000002.history").ends_with("[exit Some(1)]"));
    std::fs::rename(&segment, segment.with_extension("aside")).expect("make a hole");
    assert!(wal(&first).ends_with("a hole, not the end of the log [exit Some(200)]"));
    std::fs::rename(segment.with_extension("aside"), &segment).expect("fill it");
    assert!(try_read(&stored.arguments(&["wall"])).expect_err("no verb").ends_with("[exit Some(200)]"));

    let (folder, key) = (stored.folder.to_str().expect("a plain path"), stored.key.to_str().expect("a plain path"));
    let without = |arguments: &[&str]| try_read(arguments).expect_err("the wrong keys");
    match way.encryption {
        Encryption::Aes256Gcm => {
            assert!(without(&[folder, "list"]).contains("--key"));
            let stranger = stored.folder.with_file_name("stranger");
            KeyFile::create(&stranger).expect("another key");
            assert!(without(&["--key", stranger.to_str().expect("a plain path"), folder, "verify", &id]).contains("is wrapped for file:"));
        }
        Encryption::Off => assert!(without(&["--key", key, folder, "verify", &id]).contains("may have replaced it")),
    }
}

#[test]
fn the_independent_reader_reads_every_test_vector() {
    let vectors = format_folder().join("vectors.json");
    assert!(read(&["vectors", vectors.to_str().expect("a plain path")]).contains("as the format says"));
}

#[test]
fn a_key_file_opens_the_wrapped_key_of_the_test_vectors() {
    let text = std::fs::read(format_folder().join("vectors.json")).expect("the vectors");
    let said: serde_json::Value = serde_json::from_slice(&Bytes::from(text)).expect("JSON");
    let word = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let bytes =
        |text: &str| (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal")).collect::<Vec<u8>>();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    std::fs::write(&path, word(&said["wrapped"]["key_file"]) + "\n").expect("write");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
    let file = KeyFile::load(&path).expect("the key file of the vectors");
    assert_eq!(file.name(), word(&said["wrapped"]["recipient"]));
    let id = |name: &str| word(&said[name]);
    let context = WrapContext { repository: id("repository_id").parse().expect("an id"), key: id("key_id").parse().expect("an id") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let wrapped = Wrapped { recipient: file.name(), bytes: bytes(&word(&said["wrapped"]["wrapped"])) };
    let key = runtime.block_on(file.unwrap(&wrapped, &context)).expect("it opens");
    assert_eq!(key.to_vec(), bytes(&id("data_key")));
}

/// A segment of which only the beginning is stored, in pieces, in a folder.
struct Beginning {
    /// The reader's arguments; the last one is where it writes to.
    words: Vec<String>,
    pieces: Vec<PathBuf>,
    /// What the server has of it, and up to where that is stored at least.
    there: Vec<u8>,
    stored: usize,
}

impl Beginning {
    /// Of the segment that the server writes to; the receiver has stopped, and told the server at last that it had stored this much.
    fn new(cluster: &Cluster, bowline: &Bowline, folder: &Path, stored: usize) -> Self {
        let name = cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
        let there = std::fs::read(cluster.data_dir().join("pg_wal").join(&name)).expect("the server's own segment");
        let word = |path: &Path| path.to_str().expect("a plain path").to_owned();
        let system_id = cluster.psql("SELECT system_identifier FROM pg_control_system()");
        let (key, to) = (word(&bowline.dir().join("key")), word(&bowline.dir().join("segment")));
        let words = ["--key".to_owned(), key, word(folder), "wal".to_owned(), system_id, name.clone(), to].to_vec();
        let mut pieces = files_below(&folder.join("wal"));
        pieces.retain(|path| path.to_string_lossy().contains(&format!("{name}.pieces")));
        let stored = stored % there.len();
        assert!(stored > 100_000, "there is too little to tell: {stored}");
        Self { words, pieces, there, stored }
    }

    fn read(&self) -> Result<Vec<u8>, String> {
        let to = Path::new(&self.words[self.words.len() - 1]);
        let _ = std::fs::remove_file(to);
        try_read(&self.words.iter().map(String::as_str).collect::<Vec<_>>())?;
        let got = std::fs::read(to).expect("what the reader wrote");
        assert_eq!(got.len(), self.there.len());
        Ok(got)
    }

    /// How far the reader finds it stored: as the server has it, and zeros from there on.
    fn reach(&self) -> Result<usize, String> {
        let got = self.read()?;
        let reach = got.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        assert!(got[..reach] == self.there[..reach], "it reads as something else");
        Ok(reach)
    }

    /// The end of the log may lie a little behind what was looked at, and bytes that are zero cannot be told from none.
    fn is_all_found(&self) -> bool {
        let reach = self.reach().unwrap_or_else(|e| panic!("{e}"));
        reach <= self.stored + 8192 && self.there[reach..self.stored.max(reach)].iter().all(|byte| *byte == 0)
    }

    /// Damage is not the end of the log.
    fn refuses_damage(&self, piece: &Path) {
        let good = std::fs::read(piece).expect("a piece");
        flip_a_bit(piece);
        let refused = self.read().expect_err("a damaged piece");
        assert!(refused.starts_with("error: wal/") && refused.ends_with("[exit Some(200)]"), "{refused}");
        std::fs::write(piece, good).expect("mend it");
    }
}

/// Adds to the log as often as asked, at least one piece each time, and waits until it is stored; gives how many bytes there are of it.
fn write_and_store(cluster: &Cluster, times: u32) -> usize {
    for _ in 0..times {
        let table = cluster.psql("SELECT 't' || count(*) FROM pg_class WHERE relname LIKE 't_' OR relname LIKE 't__'");
        cluster.psql(&format!("CREATE TABLE {table} AS SELECT i, md5(i::text) FROM generate_series(1, 2000) AS i"));
        let all_is_stored = "SELECT flush_lsn >= pg_current_wal_flush_lsn() FROM pg_stat_replication WHERE application_name = 'bowline'";
        wait("all of it to be stored", Duration::from_secs(30), || cluster.psql(all_is_stored) == "t");
    }
    cluster.psql("SELECT flush_lsn - '0/0' FROM pg_stat_replication WHERE application_name = 'bowline'").parse().expect("a position")
}

const QUICK: &str = "[wal]\nflush_interval = \"200ms\"\nstatus_interval = \"300ms\"\n";

#[test]
fn the_independent_reader_puts_logs_together() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), QUICK);
    let receiver = bowline.receive();
    cluster.psql("SELECT pg_switch_wal()");
    let before = write_and_store(&cluster, 4);
    receiver.kill9();
    let first = Beginning::new(&cluster, &bowline, &bowline.repository(), before);
    let [log] = &first.pieces[..] else { panic!("one connection, one log: {:?}", first.pieces) };
    assert!(log.to_string_lossy().ends_with(".log") && first.is_all_found());
    first.refuses_damage(log);

    let receiver = bowline.receive();
    let after = write_and_store(&cluster, 3);
    assert_eq!(receiver.stop(), Some(0));
    let both = Beginning::new(&cluster, &bowline, &bowline.repository(), after);
    let [second] = &both.pieces.iter().filter(|path| *path != log).collect::<Vec<_>>()[..] else { panic!("a second log: {:?}", both.pieces) };
    assert!(both.stored > first.stored && both.is_all_found());
    both.refuses_damage(second);

    // Torn in what was added last it ends before that; torn at its birth it is none, and the first one leads as far as it does.
    let (whole, reach) = (std::fs::read(second).expect("the log"), both.reach().expect("it reads"));
    std::fs::write(second, &whole[..whole.len() - 3]).expect("tear it");
    let torn = both.reach().expect("a torn log is a shorter one");
    assert!((first.stored..reach).contains(&torn), "{torn} of {reach}, and {} before", first.stored);
    for length in [0, 63, 64, 90] {
        std::fs::write(second, &whole[..length]).expect("tear it");
        assert!(first.is_all_found(), "{length} bytes of the second log are left");
    }
    std::fs::write(second, [0; 5000]).expect("tear it");
    assert!(first.is_all_found(), "not one block of the second log is left");
    std::fs::write(second, &whole).expect("mend it");
    assert_eq!(both.reach(), Ok(reach));
}

/// A copy of a repository in a bucket, as any tool that copies objects would make it.
fn copy_down(bowline: &Bowline) -> PathBuf {
    let to = bowline.dir().join("copy");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = store::open(&format!("{}/acme", bowline.url()), &S3Server::shared().options()).expect("a store");
        let listed: Vec<_> = store.list("", None).try_collect().await.expect("a listing");
        for object in listed {
            let place = to.join(object.path.as_str());
            std::fs::create_dir_all(place.parent().expect("a folder")).expect("make the folder");
            std::fs::write(place, store.get(&object.path).await.expect("an object")).expect("write");
        }
    });
    to
}

#[test]
fn the_independent_reader_puts_pieces_together() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::S3);
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), QUICK);
    let receiver = bowline.receive();
    cluster.psql("SELECT pg_switch_wal()");
    let stored = write_and_store(&cluster, 5);
    assert_eq!(receiver.stop(), Some(0));
    let beginning = Beginning::new(&cluster, &bowline, &copy_down(&bowline), stored);
    assert!(beginning.pieces.len() > 1, "several pieces make it up: {:?}", beginning.pieces);
    assert!(!beginning.pieces.iter().any(|path| path.to_string_lossy().ends_with(".log")), "nothing grows in a bucket: {:?}", beginning.pieces);
    assert!(beginning.is_all_found());
    beginning.refuses_damage(beginning.pieces.iter().max().expect("a piece"));
}
