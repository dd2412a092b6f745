//! `wal audit` over very many segments: right at any count, and measured at the count of a month.

use bytes::Bytes;
use repo::{BackupDocument, Encryption, Epoch, IndexEntry, WalPosition, Writer};
use seal::Recipient;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use terms::{BackupId, BackupKind, Lsn, SegmentName, SegmentSize, SystemId, Timeline, Timestamp, WalName};

const SIZE: SegmentSize = SegmentSize::DEFAULT;
const SYSTEM: SystemId = SystemId::new(7_412_345_678_901_234_567);
const NOW: Timestamp = Timestamp::from_unix_micros(1_795_000_000_000_000);
const FIRST: u64 = 2;

/// A repository with so many segments of a few bytes, all indexed, and a backup before them; nothing in it could be restored.
struct Archive {
    home: tempfile::TempDir,
    config: PathBuf,
}

impl Archive {
    fn new(segments: u64) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let (key, config, root) = (home.path().join("key"), home.path().join("bowline.toml"), home.path().join("repository/acme"));
        fs::create_dir_all(&root).expect("a folder");
        let url = format!("file://{}", home.path().join("repository").display());
        let text = format!("org = \"acme\"\n[repository]\nurl = {url:?}\n[encryption]\nrecipients = [\"file:{}\"]\n", key.display());
        fs::write(&config, text).expect("write");
        let archive = Self { home, config };
        archive.run(&["init"], 0);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        runtime.block_on(archive.fill(&format!("{url}/acme"), &key, segments));
        archive
    }

    async fn fill(&self, url: &str, key: &Path, segments: u64) {
        let recipients: Vec<Arc<dyn Recipient>> = vec![Arc::new(keys::KeyFile::load(key).expect("the key"))];
        let store = store::open(url, &store::StoreOptions::default()).expect("the store");
        let mut writer = Writer::open(store, recipients).await.expect("the repository");
        let epoch: Epoch = writer.admit(SYSTEM, 18, NOW).await.expect("admit");
        writer.publish(&backup(&writer)).await.expect("publish");
        let protection = writer.wal_protection(&epoch).await.expect("a key");
        let mut digester = writer.reader().digester().await.expect("a key");
        let last = FIRST + segments - 1;
        // What the objects hold is never read, only how large they are; so they are not written one by one through the store. Only the
        // last one before a gap and the last of all are looked into, for the end of the log.
        fs::create_dir_all(self.object(FIRST).parent().expect("a folder")).expect("a folder");
        let mut opened = BTreeMap::new();
        for number in [gap(segments) - 1, last] {
            let (name, zeros) = (WalName::Segment(segment(number)), Bytes::from(vec![0; SIZE.bytes() as usize]));
            let kept = writer.keep_wal(SYSTEM, &name, zeros, &protection, seal::Compression::default()).await.expect("a segment");
            let repo::Kept::Stored { bytes_stored } = kept else { panic!("it was there: {kept:?}") };
            opened.insert(number, bytes_stored);
        }
        let mut batch = capture::IndexBatch::new(SYSTEM, protection);
        for numbers in (FIRST..=last).collect::<Vec<_>>().chunks(64) {
            for number in numbers {
                assert!(!batch.due(), "{} wait", batch.waiting());
                batch.push({
                    let body = format!("not a segment {number}");
                    let stored = opened.get(number).copied();
                    if stored.is_none() {
                        fs::write(self.object(*number), &body).expect("write");
                    }
                    let at = |micros: i64| Some(NOW.plus_micros(*number as i64 * 26_000_000 + micros));
                    IndexEntry {
                        segment: segment(*number),
                        bytes_stored: stored.unwrap_or(body.len() as u64),
                        digest: digester.digest(&Bytes::from(body)),
                        first_record: Some(segment(*number).start(SIZE).plus(40)),
                        end: segment(*number).end(SIZE),
                        min_end: at(0),
                        max_end: at(25_000_000),
                        restore_points: Vec::new(),
                        open: None,
                        damaged: None,
                    }
                });
            }
            assert_eq!(batch.due(), numbers.len() == 64);
            batch.write(&writer, NOW).await.expect("a batch");
            assert_eq!(batch.waiting(), 0);
        }
    }

    fn object(&self, number: u64) -> PathBuf {
        let path = repo::wal_object(SYSTEM, &WalName::Segment(segment(number)));
        self.home.path().join("repository/acme").join(path.as_str())
    }

    fn run(&self, words: &[&str], code: i32) -> String {
        let mut command = Command::new(testkit::bowline::program());
        let output = command.arg("--config").arg(&self.config).args(words).arg("--json").output().expect("bowline");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{said}");
        said
    }
}

/// Where five segments are taken away.
fn gap(segments: u64) -> u64 {
    FIRST + segments / 3
}

fn segment(number: u64) -> SegmentName {
    SegmentName::numbered(number, Timeline::FIRST, SIZE)
}

fn backup(writer: &Writer) -> BackupDocument {
    let (format, written_by) = BackupDocument::stamp();
    let position = |offset| WalPosition { lsn: Lsn::from_bytes(FIRST * SIZE.bytes() + offset), time: NOW };
    BackupDocument {
        format,
        id: BackupId::begun(NOW),
        kind: BackupKind::Full,
        repository: writer.reader().document().id,
        system_id: SYSTEM,
        major: 18,
        server_version: "18.6".into(),
        timeline: Timeline::FIRST,
        start: position(40),
        stop: position(800),
        segment_bytes: SIZE,
        source: "local".into(),
        compression: "zstd:1".into(),
        encryption: Encryption::Aes256Gcm,
        key: None,
        files: 0,
        bytes: 0,
        bytes_stored: 0,
        packs: 0,
        manifest_bytes: 0,
        page_checksums: true,
        pages_damaged: 0,
        took_seconds: 1.0,
        written_by,
    }
}

/// The audit of so many segments, whole and with a gap; returns the seconds that each took, the whole process.
fn audit(segments: u64) -> [f64; 2] {
    let archive = Archive::new(segments);
    let timed = |code: i32, wanted: &str| {
        let begun = std::time::Instant::now();
        let said = archive.run(&["wal", "audit", "--no-read"], code);
        let took = begun.elapsed().as_secs_f64();
        assert!(said.contains(wanted), "{said}");
        took
    };
    let whole = timed(0, &format!("\"segments\":{segments}"));
    let gap = gap(segments);
    for number in gap..gap + 5 {
        fs::remove_file(archive.object(number)).expect("remove");
    }
    let holed = timed(3, &format!("\"first_missing\":\"{}\",\"last_missing\":\"{}\"", segment(gap), segment(gap + 4)));
    [whole, holed]
}

#[test]
fn thousands_of_segments_are_proven_by_listings_and_the_index() {
    audit(3000);
}

/// `BOWLINE_BIN=… cargo test --release -p testkit --test wal_audit_scale -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn a_hundred_thousand_segments() {
    let [whole, holed] = audit(100_000);
    println!("wal audit of 100000 segments in a folder, whole process: {whole:.2} s; with a gap: {holed:.2} s");
}
