//! Laws of a repository: what was written is read back, damage and strangers are refused, and nothing is ever replaced by something else.

#[path = "laws/archive.rs"]
mod archive;
#[path = "laws/audit.rs"]
mod audit;
#[path = "laws/configuration.rs"]
mod configuration;
#[path = "laws/epochs.rs"]
mod epochs;
#[path = "laws/index.rs"]
mod index;
#[path = "laws/leases.rs"]
mod leases;
#[path = "laws/retention.rs"]
mod retention;
#[path = "laws/slots.rs"]
mod slots;
#[path = "laws/snapshots.rs"]
mod snapshots;

use async_trait::async_trait;
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use repo::{
    ChunkRef, Encryption, Entry, FileBody, ManifestEnd, ManifestHeader, ManifestReader, ManifestWriter, Reader, RepoError, WalPosition, Writer,
};
use seal::{Compression, DataKey, Digester, Protection, Recipient, SealError, WrapContext, Wrapped};
use std::sync::Arc;
use store::{Fetch, Memory, ObjectPath, Put};
use terms::{BackupId, BackupKind, Class, Explain, Lsn, SegmentSize, SystemId, Timeline, Timestamp, WalName};
use zeroize::Zeroizing;

const NOW: Timestamp = Timestamp::from_unix_micros(1_795_000_000_000_000);
const SYSTEM: SystemId = SystemId::new(7_412_345_678_901_234_567);
const OTHER: SystemId = SystemId::new(7_412_345_678_901_234_568);
const SEGMENT: &str = "000000010000000A000000C3";

/// A recipient for tests: xor with its secret, behind the context that it is bound to. It gives way before it answers, as a KMS would.
struct Friend(&'static str, u8);

#[async_trait]
impl Recipient for Friend {
    fn name(&self) -> String {
        self.0.to_owned()
    }
    async fn wrap(&self, key: &DataKey, context: &WrapContext) -> Result<Wrapped, SealError> {
        tokio::task::yield_now().await;
        let sealed = key.reveal().iter().map(|b| b ^ self.1);
        let bytes = context.repository.bytes().iter().chain(context.key.bytes()).copied().chain(sealed).chain([self.1]).collect();
        Ok(Wrapped { recipient: self.name(), bytes })
    }
    async fn unwrap(&self, wrapped: &Wrapped, context: &WrapContext) -> Result<Zeroizing<[u8; 32]>, SealError> {
        tokio::task::yield_now().await;
        let (head, rest) = wrapped.bytes.split_at(32);
        if head != [&context.repository.bytes()[..], context.key.bytes()].concat() || rest[32] != self.1 {
            let (recipient, operation) = (self.name(), "unwrap");
            return Err(SealError::Recipient { recipient, operation, why: "not mine".into(), class: Class::Refused, hint: String::new() });
        }
        Ok(Zeroizing::new(std::array::from_fn(|at| rest[at] ^ self.1)))
    }
}

fn friends(secret: u8) -> Vec<Arc<dyn Recipient>> {
    vec![Arc::new(Friend("friend", secret))]
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(work)
}

async fn create(memory: &Memory, encryption: Encryption) -> Writer {
    let recipients = if encryption == Encryption::Off { Vec::new() } else { friends(7) };
    Writer::create(Arc::new(memory.clone()), recipients, "acme", encryption, serde_json::json!({}), NOW).await.expect("a new repository")
}

async fn reopen(memory: &Memory) -> Writer {
    Writer::open(Arc::new(memory.clone()), friends(7)).await.expect("the repository opens")
}

fn id(second: i64) -> BackupId {
    BackupId::begun(NOW.plus_micros(second * 1_000_000))
}

fn position(lsn: u64) -> WalPosition {
    WalPosition { lsn: Lsn::from_bytes(lsn), time: NOW }
}

fn path(text: &str) -> ObjectPath {
    ObjectPath::new(text).expect("a plain path")
}

fn header(writer: &Writer, protection: &Protection, format: u32) -> ManifestHeader {
    let document = writer.reader().document();
    ManifestHeader {
        format,
        repository: document.id,
        backup: id(0),
        kind: BackupKind::Full,
        system_id: SYSTEM,
        major: 18,
        server_version: "18.6".into(),
        timeline: Timeline::FIRST,
        start: position(0x200_0028),
        chunk_bytes: seal::CHUNK_BYTES as u32,
        segment_bytes: SegmentSize::DEFAULT,
        page_checksums: true,
        encryption: document.encryption,
        pack_key: matches!(protection, Protection::Sealed(_)).then(|| protection.key_id()),
        data_dir: None,
        host: serde_json::json!({ "extensions": {} }),
    }
}

/// Writes a manifest of these lines; the totals are right.
async fn write(writer: &Writer, entries: &[Entry], format: u32) {
    let protection = writer.backup_protection(NOW).await.expect("a data key");
    let mut manifest = ManifestWriter::begin(writer, &protection, header(writer, &protection, format)).expect("begin");
    let (mut files, mut bytes) = (0, 0);
    for entry in entries {
        if let Entry::File(body) | Entry::Config(body) = entry {
            files += 1;
            bytes += body.size;
        }
        manifest.write(entry).expect("a line");
    }
    manifest.finish(ManifestEnd { stop: position(0x200_0100), files, bytes, packs: 1 }).expect("the end");
}

async fn read(reader: &Reader) -> Result<Vec<Entry>, RepoError> {
    let mut manifest = ManifestReader::open(reader, BackupKind::Full, id(0)).await?;
    let mut entries = Vec::new();
    while let Some(entry) = manifest.next().await? {
        entries.push(entry);
    }
    Ok(entries)
}

/// What whoever can write to the store can do to a document: change it, and give it a digest that matches again.
fn forge(memory: &Memory, path: &ObjectPath, change: impl FnOnce(&mut serde_json::Value)) {
    memory.tamper(path, |bytes| {
        let mut document: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        document.as_object_mut().unwrap().remove("digest");
        change(&mut document);
        let mut text = serde_json::to_string_pretty(&document).unwrap();
        text.truncate(text.len() - "\n}".len());
        *bytes = format!("{text},\n  \"digest\": \"{}\"\n}}\n", sha256(text.as_bytes())).into_bytes();
    });
}

fn sha256(bytes: &[u8]) -> String {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

fn manifest_path() -> ObjectPath {
    path(&format!("full/{}/manifest", id(0)))
}

/// Names as file systems allow them, spelled as a manifest spells them: quotes, spaces, line ends, escapes, other scripts.
fn odd_path() -> impl Strategy<Value = String> {
    prop_oneof!["base/[0-9]{1,5}/[0-9]{1,6}(_fsm|_vm|_init)?", "(\\PC|[\"\\\\/ \n\t]|%[0-9A-F]{2}){1,40}", "(ä|日本|🐘|%FF|\\.){1,20}"]
}

fn body() -> impl Strategy<Value = FileBody> {
    (odd_path(), 0u32..0o7777, any::<i64>(), prop_oneof![Just(0u64), 0..9_000_000u64], any::<u64>()).prop_map(|(path, mode, mtime, size, seed)| {
        let mut digester = Digester::plain();
        let count = size.div_ceil(seal::CHUNK_BYTES as u64);
        let chunks =
            (0..count).map(|i| ChunkRef(1 + (seed % 9) as u32, seed.wrapping_add(i), (seed >> 32) as u32, digester.digest(&i.to_le_bytes())));
        FileBody { path, mode, mtime, size, chunks: chunks.collect() }
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        6 => body().prop_map(Entry::File),
        1 => body().prop_map(Entry::Config),
        1 => (odd_path(), 0u32..0o7777).prop_map(|(path, mode)| Entry::Dir { path, mode }),
        1 => (any::<u32>(), odd_path()).prop_map(|(oid, location)| Entry::Tablespace { oid, location }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_manifest_reads_back_line_by_line(entries in vec(entry(), 0..200), encrypted: bool) {
        wait(async {
            let memory = Memory::new();
            let writer = create(&memory, if encrypted { Encryption::Aes256Gcm } else { Encryption::Off }).await;
            write(&writer, &entries, 1).await;
            let mut found = read(writer.reader()).await.unwrap();
            assert!(matches!(found.pop(), Some(Entry::End(_))));
            assert_eq!(found, entries);
        });
    }
}

fn some_file(size: u64, chunks: usize) -> Entry {
    let chunk = ChunkRef(1, 64, 32, Digester::plain().digest(b""));
    Entry::File(FileBody { path: "base/5/1259".into(), mode: 0o600, mtime: 0, size, chunks: vec![chunk; chunks] })
}

#[test]
fn a_manifest_with_a_flipped_bit_anywhere_or_cut_anywhere_is_refused() {
    for encryption in [Encryption::Aes256Gcm, Encryption::Off] {
        wait(async {
            let memory = Memory::new();
            let writer = create(&memory, encryption).await;
            write(&writer, &[some_file(0, 0), some_file(5, 1)], 1).await;
            let whole = memory.get(&manifest_path()).await.unwrap();
            for bit in 0..whole.len() * 8 {
                memory.tamper(&manifest_path(), |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
                assert!(read(writer.reader()).await.is_err(), "{encryption:?}: bit {bit} of {}", whole.len() * 8);
                memory.tamper(&manifest_path(), |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            }
            for length in 0..whole.len() {
                memory.tamper(&manifest_path(), |bytes| bytes.truncate(length));
                assert!(read(writer.reader()).await.is_err(), "{encryption:?}: cut at {length}");
                memory.tamper(&manifest_path(), |bytes| *bytes = whole.to_vec());
            }
            assert_eq!(read(writer.reader()).await.unwrap().len(), 3);
        });
    }
}

#[test]
fn a_file_has_as_many_chunks_as_its_size_needs_and_one_that_shrank_to_nothing_may_have_an_empty_one() {
    for (size, chunks, good) in
        [(0, 0, true), (0, 1, true), (0, 2, false), (1, 1, true), (1, 0, false), (1 << 20, 1, true), ((1 << 20) + 1, 1, false)]
    {
        wait(async {
            let memory = Memory::new();
            let writer = create(&memory, Encryption::Aes256Gcm).await;
            write(&writer, &[some_file(size, chunks)], 1).await;
            assert_eq!(read(writer.reader()).await.is_ok(), good, "{size} bytes in {chunks} chunks");
        });
    }
}

#[test]
fn a_manifest_of_a_newer_format_is_told_apart_from_damage() {
    wait(async {
        let memory = Memory::new();
        let writer = create(&memory, Encryption::Aes256Gcm).await;
        write(&writer, &[], 2).await;
        assert!(matches!(read(writer.reader()).await, Err(RepoError::Newer { found: 2, known: 1, .. })));
    });
}

#[test]
fn only_those_for_whom_a_key_was_wrapped_open_anything() {
    wait(async {
        let memory = Memory::new();
        let writer = create(&memory, Encryption::Aes256Gcm).await;
        write(&writer, &[], 1).await;
        let with = async |recipients| {
            let reader = Reader::open(Arc::new(memory.clone()), recipients).await.unwrap();
            read(&reader).await
        };
        assert!(with(friends(7)).await.is_ok());
        let stranger: Vec<Arc<dyn Recipient>> = vec![Arc::new(Friend("stranger", 7))];
        assert!(matches!(with(stranger).await, Err(RepoError::NoRecipient { attempts, .. }) if attempts.is_empty()), "another name");
        let wrong = with(friends(8)).await.unwrap_err();
        assert!(matches!(&wrong, RepoError::NoRecipient { attempts, .. } if attempts.len() == 1), "another secret: {wrong:?}");
        assert_eq!((wrong.slug(), wrong.class()), ("key-refused", Class::Refused));
        assert!(matches!(with(Vec::new()).await, Err(RepoError::NoRecipient { .. })), "nobody");
        assert!(matches!(Writer::open(Arc::new(memory.clone()), Vec::new()).await, Err(RepoError::NobodyToWrapFor)));
    });
}

#[test]
fn a_repository_that_suddenly_says_it_is_not_encrypted_is_refused_by_whoever_has_keys() {
    wait(async {
        let memory = Memory::new();
        create(&memory, Encryption::Off).await;
        assert!(Reader::open(Arc::new(memory.clone()), Vec::new()).await.is_ok());
        assert!(matches!(Reader::open(Arc::new(memory.clone()), friends(7)).await, Err(RepoError::NotEncrypted { .. })));
        assert!(matches!(Writer::open(Arc::new(memory.clone()), friends(7)).await, Err(RepoError::NotEncrypted { .. })));
    });
    // Or it says so, or something else that never changes, only after the repository was opened.
    type Swap = (fn(&mut serde_json::Value), &'static str);
    let swaps: [Swap; 3] = [
        (
            |document| {
                document["encryption"] = "off".into();
                document.as_object_mut().unwrap().remove("digest_key");
                document["epochs"].as_array_mut().unwrap().iter_mut().for_each(|epoch| drop(epoch.as_object_mut().unwrap().remove("wal_key")));
            },
            "not-encrypted",
        ),
        (|document| drop(document.as_object_mut().unwrap().remove("digest_key")), "repository-damaged"),
        (|document| document["id"] = serde_json::to_value(seal::RepositoryId::random()).unwrap(), "repository-damaged"),
    ];
    for (swap, slug) in swaps {
        wait(async {
            let memory = Memory::new();
            create(&memory, Encryption::Aes256Gcm).await.admit(SYSTEM, 18, NOW).await.unwrap();
            let mut open = reopen(&memory).await;
            forge(&memory, &path("repository.json"), swap);
            assert_eq!(open.admit(SYSTEM, 18, NOW).await.unwrap_err().slug(), slug);
            assert_eq!(open.begin_epoch(SYSTEM, OTHER, 18, NOW).await.unwrap_err().slug(), slug);
            assert_eq!(open.rotate_wal_key(NOW).await.unwrap_err().slug(), slug);
            let epoch = open.reader().epoch().cloned().unwrap();
            assert!(matches!(open.wal_protection(&epoch).await, Ok(Protection::Sealed(_))), "{slug}");
            assert!(matches!(open.backup_protection(NOW).await, Ok(Protection::Sealed(_))), "{slug}");
        });
    }
}

#[test]
fn a_plain_object_in_an_encrypted_repository_is_refused() {
    wait(async {
        let memory = Memory::new();
        let mut writer = create(&memory, Encryption::Aes256Gcm).await;
        writer.admit(SYSTEM, 18, NOW).await.unwrap();
        let name: WalName = SEGMENT.parse().unwrap();
        writer.keep_wal(SYSTEM, &name, Bytes::from_static(b"forged"), &Protection::Plain, Compression::None).await.unwrap();
        let refused = writer.reader().fetch_wal(SYSTEM, &name).await.unwrap_err();
        assert!(matches!(refused, RepoError::Object { source: SealError::Unsealed, .. }), "{refused:?}");
        assert_eq!(refused.slug(), "not-encrypted");
    });
}

#[test]
fn what_belongs_to_a_backup_opens_with_no_other_key_of_its_repository() {
    wait(async {
        let memory = Memory::new();
        let writer = create(&memory, Encryption::Aes256Gcm).await;
        let (own, other) = (writer.backup_protection(NOW).await.unwrap(), writer.backup_protection(NOW).await.unwrap());
        // Whoever knows the other key, of an export perhaps, can seal anything with it.
        let forged = ManifestWriter::begin(&writer, &other, header(&writer, &own, 1)).unwrap();
        forged.finish(ManifestEnd { stop: position(0x200_0100), files: 0, bytes: 0, packs: 0 }).unwrap();
        let refused = read(writer.reader()).await.unwrap_err();
        assert!(matches!(&refused, RepoError::Manifest { why, .. } if why.contains(&other.key_id().to_string())), "{refused:?}");

        let pack = repo::pack_path(BackupKind::Full, id(0), 1);
        repo::Pack::release(repo::Pack::begin(&writer, &other, BackupKind::Full, id(0), 1).unwrap()).unwrap();
        let bytes = memory.get(&pack).await.unwrap();
        let open = async |key| writer.reader().open_pack(&pack, key, &bytes).await;
        assert!(open(Some(other.key_id())).await.is_ok());
        for key in [Some(own.key_id()), None] {
            assert!(matches!(open(key).await, Err(RepoError::Object { source: SealError::OtherKey { .. }, .. })), "{key:?}");
        }
    });
}

#[test]
fn a_second_repository_never_replaces_the_first() {
    wait(async {
        let memory = Memory::new();
        let first = create(&memory, Encryption::Aes256Gcm).await;
        let second = Writer::create(Arc::new(memory.clone()), friends(9), "other", Encryption::Aes256Gcm, serde_json::json!({}), NOW).await;
        assert!(matches!(second, Err(RepoError::Exists { .. })));
        assert_eq!(reopen(&memory).await.reader().document(), first.reader().document());
    });
}

#[test]
fn the_first_cluster_owns_the_repository_and_any_other_is_refused() {
    wait(async {
        let memory = Memory::new();
        let mut writer = create(&memory, Encryption::Aes256Gcm).await;
        let epoch = writer.admit(SYSTEM, 18, NOW).await.unwrap();
        assert_eq!(reopen(&memory).await.admit(SYSTEM, 18, NOW.plus_micros(5)).await.unwrap(), epoch);
        let foreign = reopen(&memory).await.admit(OTHER, 18, NOW).await.unwrap_err();
        assert!(matches!(foreign, RepoError::ForeignCluster { ours: SYSTEM, found: OTHER }));
        assert_eq!(reopen(&memory).await.reader().epoch(), Some(&epoch));
    });
}

#[test]
fn of_clusters_that_come_at_once_exactly_one_is_admitted() {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap().block_on(async {
        for _ in 0..50 {
            let memory = Memory::new();
            create(&memory, Encryption::Aes256Gcm).await;
            let come = |system| {
                let memory = memory.clone();
                tokio::spawn(async move { reopen(&memory).await.admit(system, 18, NOW).await })
            };
            let (one, other) = (come(SYSTEM), come(OTHER));
            let (one, other) = (one.await.unwrap(), other.await.unwrap());
            assert!(one.is_ok() != other.is_ok(), "{one:?} and {other:?}");
            let winner = one.or(other).unwrap();
            let writer = reopen(&memory).await;
            assert_eq!(writer.reader().document().epochs, std::slice::from_ref(&winner));
            assert!(matches!(writer.wal_protection(&winner).await.unwrap(), Protection::Sealed(_)));
        }
    });
}
