//! A repository in memory, with backups that hold no files and logs made here.

use super::log::{Log, SYSTEM, second, size, timeline};
use bytes::Bytes;
use capture::entry_of;
use pg::wal::{Surveyor, WalSource};
use repo::{BackupDocument, Encryption, ManifestEnd, ManifestHeader, ManifestWriter, WalPosition, Writer};
use restore::{Alternative, RestoreError, RestorePlan, Spoiled, Wish};
use seal::{Compression, Protection};
use std::sync::Arc;
use store::Memory;
use terms::{BackupId, BackupKind, Lsn, SegmentName, Timeline, WalName};

pub struct Ground {
    memory: Memory,
    writer: Writer,
    protection: Protection,
}

impl Ground {
    pub fn new() -> Self {
        wait(async {
            let memory = Memory::new();
            let created = Writer::create(Arc::new(memory.clone()), Vec::new(), "acme", Encryption::Off, serde_json::json!({}), second(0)).await;
            let mut writer = created.expect("a repository");
            let epoch = writer.admit(SYSTEM, 18, second(0)).await.expect("an epoch");
            let protection = writer.wal_protection(&epoch).await.expect("a key");
            Self { memory, writer, protection }
        })
    }

    /// A backup that was consistent at this second.
    pub fn backup(&self, of: u32, start: Lsn, stop: Lsn, at: i64) -> BackupId {
        wait(async {
            let (format, written_by) = BackupDocument::stamp();
            let reader = self.writer.reader();
            let position = |lsn, at| WalPosition { lsn, time: second(at) };
            let document = BackupDocument {
                format,
                id: BackupId::begun(second(at - 1)),
                kind: BackupKind::Full,
                repository: reader.document().id,
                system_id: SYSTEM,
                major: 18,
                server_version: "18.6".into(),
                timeline: timeline(of),
                start: position(start, at - 1),
                stop: position(stop, at),
                segment_bytes: size(),
                source: "local".into(),
                compression: "none".into(),
                encryption: Encryption::Off,
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
            };
            let header = ManifestHeader {
                format,
                repository: document.repository,
                backup: document.id,
                kind: document.kind,
                system_id: SYSTEM,
                major: 18,
                server_version: document.server_version.clone(),
                timeline: document.timeline,
                start: document.start,
                chunk_bytes: seal::CHUNK_BYTES as u32,
                segment_bytes: size(),
                page_checksums: true,
                encryption: Encryption::Off,
                pack_key: None,
                data_dir: None,
                host: serde_json::json!({}),
            };
            let manifest = ManifestWriter::begin(&self.writer, &self.protection, header).expect("a manifest");
            manifest.finish(ManifestEnd { stop: document.stop, files: 0, bytes: 0, packs: 0 }).expect("its end");
            self.writer.publish(&document).await.expect("publish");
            document.id
        })
    }

    /// Stores the whole segments of this log from the one that holds `from` on.
    pub fn store(&self, log: &Log, from: Lsn) {
        for (name, bytes) in log.segments(from) {
            self.keep(&WalName::Segment(name), bytes);
        }
    }

    /// Stores a history file: (timeline, where it was left).
    pub fn history(&self, of: u32, ancestors: &[(u32, Lsn)]) {
        let text: String = ancestors.iter().map(|(id, left)| format!("{id}\t{left}\tno recovery target specified\n")).collect();
        self.keep(&WalName::History(timeline(of)), text.as_bytes());
    }

    fn keep(&self, name: &WalName, bytes: &[u8]) {
        let bytes = Bytes::copy_from_slice(bytes);
        wait(self.writer.keep_wal(SYSTEM, name, bytes, &self.protection, Compression::None)).expect("stored");
    }

    /// Indexes the whole segments of this log from the one that holds `from` on, as a receiver would.
    pub fn index(&self, log: &Log, from: Lsn) {
        let segments = log.segments(from);
        let Some((first, _)) = segments.first() else { return };
        let source = WalSource { major: 18, system_id: SYSTEM, timeline: first.timeline(), segment_size: size() };
        let mut surveyor = Surveyor::new(source, first.start(size()));
        let mut surveys = Vec::new();
        for (_, bytes) in &segments {
            surveyor.feed(bytes, |survey| surveys.push(survey));
        }
        surveyor.finish(|survey| surveys.push(survey));
        let mut digester = wait(self.writer.reader().digester()).expect("a digester");
        let (_, sizes) = wait(self.writer.reader().wal_sizes(SYSTEM, size())).expect("a listing");
        let bytes_of = |wanted: SegmentName| segments.iter().find(|(name, _)| *name == wanted).map_or(&[][..], |(_, bytes)| bytes);
        let mut entry = |survey: pg::wal::SegmentSurvey| {
            let (digest, stored) = (digester.digest(bytes_of(survey.segment)), sizes.get(&survey.segment).copied().unwrap_or(1));
            entry_of(survey, digest, stored)
        };
        let entries: Vec<_> = surveys.into_iter().map(&mut entry).collect();
        wait(self.writer.put_index(SYSTEM, &entries, &self.protection, second(9))).expect("a batch");
    }

    /// Makes a segment unreadable.
    pub fn spoil(&self, of: u32, lsn: Lsn) {
        let name = SegmentName::containing(lsn, timeline(of), size());
        let path = repo::wal_object(SYSTEM, &WalName::Segment(name));
        self.memory.tamper(&path, |bytes| *bytes.last_mut().expect("bytes") ^= 1);
    }

    /// The plan for a target, on the newest timeline unless one is named.
    pub fn plan(&self, target: &str, timeline: Option<u32>, backup: Option<BackupId>) -> Result<RestorePlan, RestoreError> {
        let timeline = timeline.map(|id| Timeline::new(id).expect("a timeline"));
        let wish = Wish { target: target.parse().expect("a target"), timeline, backup };
        wait(restore::plan(self.writer.reader(), &wish))
    }

    /// What can be restored instead where this error is in the way.
    pub fn alternatives(&self, target: &str, error: &RestoreError) -> Vec<Alternative> {
        let wish = Wish { target: target.parse().expect("a target"), timeline: None, backup: None };
        let mut spoiled = Spoiled::default();
        assert!(spoiled.learn(error), "{error:?}");
        wait(restore::alternatives(self.writer.reader(), &wish, &mut spoiled, error)).expect("alternatives")
    }
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
}
