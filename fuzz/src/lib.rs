//! What is read of strangers, given to each reader as it comes: whatever the bytes, a reader ends with a value or an error, and never with a
//! panic, an endless loop or more memory than a few times its input.
//!
//! Each target is a plain function. `cargo xtask fuzz` runs it under libFuzzer; the tests play the corpus through it.

mod mended;

use bytes::Bytes;
use pg::wal::{Surveyor, WalSource};
use pg::{BackupLabel, ConnInfo, SyncNames, TarItem, TarReader, TimelineHistory};
use repo::{Encryption, ManifestReader, Writer};
use seal::{Compression, ObjectKind, OpenObject, Protection, RepositoryId, SealError, SealedObject, open_growing, open_whole, seal_whole};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use store::{Memory, Put};
use terms::{BackupId, BackupKind, Clock, Lsn, SegmentSize, SystemClock, SystemId, Timeline};

/// A target: its name, which is that of its corpus too, and what takes the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 6] =
    [("frame", frame), ("manifest", manifest), ("wal", wal), ("tar", tar), ("conninfo", conninfo), ("configuration", configuration)];

const PATH: &str = "wal/1/00000001/0000000100000000/000000010000000000000001";

/// Objects as a store gives them back, whole and as a log that grows. No fuzzer forges what is sealed, so they are plain ones.
pub fn frame(bytes: &[u8]) {
    let repository = repository();
    // As it is, and behind a header that is right: else nothing beyond the first comparison would ever be seen.
    let header = *SealedObject::begin(&Protection::Plain, ObjectKind::WalLog, &repository, PATH).header();
    let headed = [&header[..], bytes].concat();
    // And with the checksums that belong to it: else no codec would ever be asked.
    let (mut mended, mut headed_mended) = (bytes.to_vec(), headed.clone());
    mended::frames(&mut mended, &repository, PATH);
    mended::frames(&mut headed_mended, &repository, PATH);
    for bytes in [bytes, &headed, &mended, &headed_mended] {
        frames(bytes);
    }
    let _ = seal::frame_bytes(bytes);
}

/// What its frames hold; none where it has no header.
fn frames(bytes: &[u8]) -> Option<Result<Vec<u8>, SealError>> {
    let open = OpenObject::open(bytes, ObjectKind::WalLog, &repository(), PATH, false, |_| None);
    let object = open.ok()?;
    let _ = open_growing(&object, bytes);
    Some(open_whole(object, bytes))
}

fn repository() -> RepositoryId {
    RepositoryId::from_bytes([7; 16])
}

/// The lines of a backup's manifest, sealed as they come.
pub fn manifest(bytes: &[u8]) {
    lines(bytes);
}

/// How many of them are read.
fn lines(bytes: &[u8]) -> usize {
    runtime().block_on(async {
        let memory = Memory::new();
        let (store, now) = (Arc::new(memory.clone()), SystemClock.now());
        let Ok(writer) = Writer::create(store, Vec::new(), "acme", Encryption::Off, serde_json::json!({}), now).await else {
            panic!("memory takes a repository");
        };
        let (kind, id) = (BackupKind::Full, BackupId::begun(terms::Timestamp::from_unix_micros(1_800_000_000_000_000)));
        let path = repo::manifest_path(kind, id);
        let repository = writer.reader().document().id;
        // A line that names this repository lets the reader go on to the next ones.
        let lines = String::from_utf8_lossy(bytes).replace("REPOSITORY", &repository.to_string());
        let object = SealedObject::begin(&Protection::Plain, ObjectKind::Manifest, &repository, path.as_str());
        let Ok(sealed) = seal_whole(object, Compression::None, lines.as_bytes()) else { return 0 };
        if memory.put_new(&path, Bytes::from(sealed)).await.is_err() {
            panic!("memory takes an object");
        }
        let Ok(mut reader) = ManifestReader::open(writer.reader(), kind, id).await else { return 0 };
        let mut read = 1;
        while let Ok(Some(_)) = reader.next().await {
            read += 1;
        }
        read
    })
}

/// Pages of WAL, as a server sends them or a store gives them back; of each major.
pub fn wal(bytes: &[u8]) {
    valid(bytes);
}

/// The first byte says more than the major: whether checksums and addresses are made right, and whether the pages lie in a
/// second segment.
const MENDED: u8 = 0x80;
const BEHIND: u8 = 0x40;
const SEGMENT: usize = 1 << 20;

/// How many bytes of it are log that is valid.
fn valid(bytes: &[u8]) -> u64 {
    let Some((&first, pages)) = bytes.split_first() else { return 0 };
    let mut pages = pages.to_vec();
    if first & BEHIND != 0 {
        pages = mended::behind(&pages, SEGMENT);
    }
    if first & MENDED != 0 {
        mended::wal(&mut pages, SEGMENT);
    }
    // As the first page says of itself (src/include/access/xlog_internal.h, XLogLongPageHeaderData): else the survey ends there.
    let Some(address) = pages.get(8..16).and_then(|part| part.try_into().ok()).map(u64::from_le_bytes) else { return 0 };
    let Some(system_id) = pages.get(24..32).and_then(|part| part.try_into().ok()).map(u64::from_le_bytes) else { return 0 };
    let segment_size = SegmentSize::from_bytes(SEGMENT as u64).unwrap_or(SegmentSize::DEFAULT);
    let source = WalSource { major: 15 + u32::from(first % 4), system_id: SystemId::new(system_id), timeline: Timeline::FIRST, segment_size };
    // A server ends long before its log does.
    let begin = Lsn::from_bytes(address & (u64::MAX >> 1));
    let mut surveyor = Surveyor::new(source, begin);
    let mut read = 0;
    // In pieces of any size, as they come from a connection.
    for piece in pages.chunks(1 + usize::from(first & 0x3F) * 133) {
        surveyor.feed(piece, drop);
        read = read.max(surveyor.current().end.bytes_since(begin));
    }
    surveyor.finish(drop);
    read
}

/// The stream of a base backup, and the small files in it.
pub fn tar(bytes: &[u8]) {
    let mut reader = TarReader::default();
    for piece in bytes.chunks(700) {
        reader.push(Bytes::copy_from_slice(piece));
        while let Ok(Some(item)) = reader.next_item() {
            if matches!(item, TarItem::End) {
                break;
            }
        }
    }
    let text = String::from_utf8_lossy(bytes);
    let _ = BackupLabel::parse(&text);
    let _ = pg::parse_tablespace_map(bytes);
    let _ = TimelineHistory::parse(Timeline::FIRST, &text);
    let _ = pg::ControlFile::parse(bytes);
}

/// libpq's connection strings and URIs, and the names of synchronous standbys.
pub fn conninfo(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = ConnInfo::parse(&text, &|_| None);
    let _ = SyncNames::parse(&text);
}

/// The configuration file.
pub fn configuration(bytes: &[u8]) {
    let _ = cli::is_configuration(&String::from_utf8_lossy(bytes), Path::new("/etc/bowline/bowline.toml"));
}

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_current_thread().build().expect("a runtime needs nothing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seeds that only the sealing itself can write: `BOWLINE_GOLDEN=1` writes them anew.
    #[test]
    fn sealed_seeds_are_there() {
        let (corpus, repository) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/frame"), repository());
        if std::env::var_os("BOWLINE_GOLDEN").is_some() {
            let plain = b"some plain bytes, ".repeat(40);
            for (name, compression) in [("whole", Compression::None), ("zstd", Compression::Zstd(1)), ("lz4", Compression::Lz4)] {
                let object = SealedObject::begin(&Protection::Plain, ObjectKind::WalLog, &repository, PATH);
                std::fs::write(corpus.join(name), seal_whole(object, compression, &plain).expect("it can be sealed")).expect("it can be written");
            }
        }
        assert!(corpus.join("lz4").exists(), "BOWLINE_GOLDEN=1 writes it");
    }

    /// What is kept of the fuzzers: what each target begins with, and whatever once broke one.
    #[test]
    fn each_target_takes_its_corpus() {
        for (name, target) in TARGETS {
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
            let files: Vec<_> = std::fs::read_dir(&corpus).expect("a corpus").map(|file| file.expect("a file").path()).collect();
            assert!(!files.is_empty(), "{} is empty", corpus.display());
            for file in files {
                let bytes = std::fs::read(&file).expect("a file");
                target(&bytes);
                // And what begins so, and breaks off.
                (0..bytes.len()).step_by(1 + bytes.len() / 64).for_each(|end| target(&bytes[..end]));
            }
        }
    }

    /// The seeds are no strangers: each reader takes what it is there for, so that the fuzzers begin inside.
    #[test]
    fn the_seeds_are_read_to_their_ends() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        let text = |name: &str| std::fs::read_to_string(corpus.join(name)).expect("a seed");
        for name in ["words", "uri", "quoted"] {
            assert!(ConnInfo::parse(&text(&format!("conninfo/{name}")), &|_| None).is_ok(), "{name}");
        }
        for name in ["example", "channels"] {
            let place = Path::new("/etc/bowline/bowline.toml");
            assert_eq!(cli::is_configuration(&text(&format!("configuration/{name}")), place), Ok(()), "{name}");
        }
        assert!(BackupLabel::parse(&text("tar/label")).is_ok());
        let archive = std::fs::read(corpus.join("tar/archive")).expect("a seed");
        let mut reader = TarReader::default();
        reader.push(Bytes::from(archive));
        let mut last = None;
        while let Some(item) = reader.next_item().expect("a good archive") {
            last = Some(item);
        }
        assert_eq!(last, Some(TarItem::End));
        for name in ["postgresql-15", "postgresql-18"] {
            let mut seed = std::fs::read(corpus.join("wal").join(name)).expect("a seed");
            assert!(valid(&seed) > 8192, "{name}");
            // A byte of a record: its checksum ends the log, unless it is made right; and so it is in a second segment.
            let within = seed.len() - 12_000;
            seed[within] ^= 1;
            let broken = valid(&seed);
            seed[0] |= MENDED;
            let mended = valid(&seed);
            assert!(mended > broken, "{name}: {mended} {broken}");
            seed[0] |= BEHIND;
            assert!(valid(&seed) > SEGMENT as u64, "{name}");
        }
        // One record of each kind that recovery looks at, without checksums; the last one takes the rest of the segment.
        let kinds = std::fs::read(corpus.join("wal/kinds")).expect("a seed");
        assert_eq!(valid(&kinds), SEGMENT as u64);
        assert!(lines(text("manifest/small").as_bytes()) > 3);
        let sealed = std::fs::read(corpus.join("frame/whole")).expect("a seed");
        assert!(matches!(frames(&sealed), Some(Ok(plain)) if plain.starts_with(b"some plain")));
        let mut other = sealed.clone();
        let last = other.len() - 40;
        other[last] ^= 1;
        assert!(matches!(frames(&other), Some(Err(_))));
        mended::frames(&mut other, &repository(), PATH);
        assert!(matches!(frames(&other), Some(Ok(plain)) if plain.starts_with(b"some plain")));
    }
}
