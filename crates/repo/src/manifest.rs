//! A backup's manifest: one JSON line for every file, sealed and streamed, complete by itself.

use crate::{BackupDocument, Encryption, Reader, RepoError, WalPosition, Writer, document, layout};
use bytes::Bytes;
use seal::{Compression, Digest, HEADER_BYTES, KeyId, ObjectKind, OpenObject, Protection, RepositoryId, StreamOpener, StreamSealer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use store::{ObjectPath, ObjectSink};
use terms::{BackupId, BackupKind, SegmentSize, SystemId, Timeline};

/// How much of a manifest is fetched at once: 4 MiB.
const SPAN_BYTES: u64 = 4 << 20;
/// And at first, 1 MiB: whoever asks for no more than the header has it then.
const FIRST_SPAN_BYTES: u64 = 1 << 20;
/// How much of that is opened at once: lines that are alike take thirty times as much in memory, and more as objects.
const PART_BYTES: usize = 64 << 10;

/// The first line: what was backed up and from what kind of host. Repeats, sealed, what backup.json says readably.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestHeader {
    /// 1 so far; a manifest with a larger number is refused.
    pub format: u32,
    /// The one that it was written into.
    pub repository: RepositoryId,
    /// The same as in its path.
    pub backup: BackupId,
    /// [`BackupKind::Full`]: the list of a snapshot has a header of its own.
    pub kind: BackupKind,
    /// The cluster's, as initdb made it.
    pub system_id: SystemId,
    /// PostgreSQL's major version.
    pub major: u32,
    /// PostgreSQL's version as it says itself.
    pub server_version: String,
    /// The one on which it was made.
    pub timeline: Timeline,
    /// Where replay begins (the start checkpoint's redo position).
    pub start: WalPosition,
    /// Plain bytes of every chunk but a file's last: 1 MiB.
    pub chunk_bytes: u32,
    /// `wal_segment_size`.
    pub segment_bytes: SegmentSize,
    /// Whether the cluster has them; not whether they were looked at.
    pub page_checksums: bool,
    /// Whether packs and manifest are sealed.
    pub encryption: Encryption,
    /// The data key of every pack of this manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pack_key: Option<KeyId>,
    /// The data directory as it was named on its host, when that was known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<String>,
    /// What the restored server needs of its host: preload libraries, extensions, locales, owner; printed by plans.
    pub host: serde_json::Value,
}

/// Where one chunk lies: `[pack, offset, stored bytes, digest of the plain bytes]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRef(pub u32, pub u64, pub u32, pub Digest);

/// A file. Chunk *i* holds the bytes from *i* × `chunk_bytes`; all chunks but the last are full. An empty file has no chunk, or an empty one.
/// Chunks lie in packs of non-decreasing numbers, in the order of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileBody {
    /// Relative to the data directory, `/` between parts; `%XX` stands for `%` and for bytes that are not UTF-8.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since the Unix epoch.
    pub mtime: i64,
    /// Bytes.
    pub size: u64,
    /// In the order of the file.
    pub chunks: Vec<ChunkRef>,
}

/// One line of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    /// The first line, and only it.
    Header(Box<ManifestHeader>),
    /// A directory, relative to the data directory; listed before what it holds.
    Dir {
        /// Spelled as that of a file.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// A file, in the data directory or below `pg_tblspc/{oid}`.
    File(FileBody),
    /// A configuration file outside the data directory, by its absolute path.
    Config(FileBody),
    /// A tablespace: `pg_tblspc/{oid}` pointed here. Its files are listed below that path.
    Tablespace {
        /// `pg_tablespace.oid`.
        oid: u32,
        /// Absolute, spelled as the path of a file.
        location: String,
    },
    /// The last line, and only it.
    End(ManifestEnd),
}

/// The last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEnd {
    /// Where the backup is consistent; the same as in its `backup.json`.
    pub stop: WalPosition,
    /// How many lines there are of files and of configuration.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
    /// How many there are, numbered from 1.
    pub packs: u32,
}

/// Writes a manifest line by line in bounded memory. Blocking: not for the runtime's threads.
pub struct ManifestWriter {
    lines: Lines,
}

/// A sealed object of JSON lines, being written.
pub(crate) struct Lines {
    stream: StreamSealer,
    sink: Arc<dyn ObjectSink>,
    line: Vec<u8>,
    bytes_stored: u64,
}

impl ManifestWriter {
    /// Begins the manifest of a backup.
    pub fn begin(writer: &Writer, protection: &Protection, header: ManifestHeader) -> Result<Self, RepoError> {
        let lines = Lines::begin(writer, protection, &layout::manifest(header.kind, header.backup))?;
        let mut begun = Self { lines };
        begun.write(&Entry::Header(Box::new(header)))?;
        Ok(begun)
    }

    /// Adds a line.
    pub fn write(&mut self, entry: &Entry) -> Result<(), RepoError> {
        self.lines.write(entry)
    }

    /// Adds the last line and ends the object; returns its size in bytes.
    pub fn finish(mut self, end: ManifestEnd) -> Result<u64, RepoError> {
        self.write(&Entry::End(end))?;
        self.lines.finish()
    }
}

impl Lines {
    pub(crate) fn begin(writer: &Writer, protection: &Protection, path: &ObjectPath) -> Result<Self, RepoError> {
        let object = writer.seal_object(protection, ObjectKind::Manifest, path);
        let sink = writer.store.begin(path)?;
        let stream = StreamSealer::begin(object, Compression::Zstd(1))?;
        sink.append(stream.header())?;
        Ok(Self { stream, sink, line: Vec::new(), bytes_stored: HEADER_BYTES as u64 })
    }

    pub(crate) fn write(&mut self, entry: &impl Serialize) -> Result<(), RepoError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, entry).map_err(|e| RepoError::Bug(e.to_string()))?;
        self.line.push(b'\n');
        let Self { stream, sink, line, bytes_stored } = self;
        stream.push(line, |chunk| -> Result<(), RepoError> {
            *bytes_stored += chunk.bytes().len() as u64;
            sink.append(chunk.bytes())?;
            Ok(())
        })
    }

    /// Ends the object; returns its size in bytes.
    pub(crate) fn finish(self) -> Result<u64, RepoError> {
        let Self { stream, sink, mut bytes_stored, .. } = self;
        stream.finish(|chunk| -> Result<(), RepoError> {
            bytes_stored += chunk.bytes().len() as u64;
            sink.append(chunk.bytes())?;
            Ok(())
        })?;
        sink.finish()?;
        Ok(bytes_stored)
    }
}

/// Reads a manifest line by line in bounded memory, and insists that it is whole.
pub struct ManifestReader {
    source: Source,
    ready: VecDeque<Entry>,
    header: ManifestHeader,
    counted: (u64, u64),
    ended: bool,
    /// What the last line must say.
    wanted: Option<ManifestEnd>,
}

impl ManifestReader {
    /// Opens the manifest of a listed backup, and holds what `backup.json` says in the open against what is sealed here:
    /// whoever can only write to the store cannot make one backup pass for another.
    pub async fn open_for(reader: &Reader, backup: &BackupDocument) -> Result<Self, RepoError> {
        let mut opened = Self::open(reader, backup.kind, backup.id).await?;
        let sealed = &opened.header;
        let agrees = (sealed.system_id, sealed.major, sealed.timeline, sealed.start)
            == (backup.system_id, backup.major, backup.timeline, backup.start)
            && (sealed.segment_bytes, sealed.encryption, sealed.pack_key) == (backup.segment_bytes, backup.encryption, backup.key);
        if !agrees {
            return Err(opened.damaged("its backup.json says something else"));
        }
        opened.wanted = Some(ManifestEnd { stop: backup.stop, files: backup.files, bytes: backup.bytes, packs: backup.packs });
        Ok(opened)
    }

    /// Opens the manifest of a backup and reads its header.
    pub async fn open(reader: &Reader, kind: BackupKind, backup: BackupId) -> Result<Self, RepoError> {
        let mut source = Source::open(reader, kind, backup).await?;
        let mut ready = VecDeque::new();
        while ready.is_empty() {
            if !source.fill(&mut ready).await? {
                return Err(source.damaged("it is empty"));
            }
        }
        let Some(Entry::Header(header)) = ready.pop_front() else { return Err(source.damaged("it does not begin with its header")) };
        source.refuse_newer(header.format)?;
        if header.backup != backup || header.repository != reader.document().id {
            return Err(source.damaged("it belongs to another backup or repository"));
        }
        source.refuse_other_key(header.pack_key)?;
        Ok(Self { source, ready, header: *header, counted: (0, 0), ended: false, wanted: None })
    }

    /// The first line.
    pub fn header(&self) -> &ManifestHeader {
        &self.header
    }

    /// The next line, or `None` after the last. The last line is checked against what was read.
    pub async fn next(&mut self) -> Result<Option<Entry>, RepoError> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                self.check(&entry)?;
                return Ok(Some(entry));
            }
            if !self.source.fill(&mut self.ready).await? {
                return if self.ended { Ok(None) } else { Err(self.damaged("it has no end")) };
            }
        }
    }

    fn check(&mut self, entry: &Entry) -> Result<(), RepoError> {
        if self.ended {
            return Err(self.damaged("something follows its end"));
        }
        match entry {
            Entry::Header(_) => Err(self.damaged("it has two headers")),
            Entry::File(body) | Entry::Config(body) => {
                let chunk = u64::from(self.header.chunk_bytes);
                // A file that shrank to nothing while it was read has one chunk without bytes.
                let emptied = body.size == 0 && body.chunks.len() == 1;
                if chunk == 0 || (body.chunks.len() as u64 != body.size.div_ceil(chunk) && !emptied) {
                    return Err(self.damaged(&format!("{} has not as many chunks as its size needs", body.path)));
                }
                self.counted.0 += 1;
                self.counted.1 += body.size;
                Ok(())
            }
            Entry::End(end) => {
                self.ended = true;
                if (end.files, end.bytes) != self.counted {
                    return Err(self.damaged("its totals do not match its lines"));
                }
                if self.wanted.is_some_and(|wanted| wanted != *end) {
                    return Err(self.damaged("its backup.json says something else"));
                }
                Ok(())
            }
            Entry::Dir { .. } | Entry::Tablespace { .. } => Ok(()),
        }
    }

    fn damaged(&self, why: &str) -> RepoError {
        self.source.damaged(why)
    }
}

/// Where a reader stands in the object.
pub(crate) struct Source {
    reader: Reader,
    path: ObjectPath,
    backup: BackupId,
    /// The data key with which it is sealed.
    key: Option<KeyId>,
    bytes: u64,
    at: u64,
    stream: Option<StreamOpener>,
    /// What was fetched and is not opened yet.
    span: Bytes,
    /// The beginning of a line whose end is in the next frame.
    pending: Vec<u8>,
}

impl Source {
    pub(crate) async fn open(reader: &Reader, kind: BackupKind, backup: BackupId) -> Result<Self, RepoError> {
        let path = layout::manifest(kind, backup);
        let missing = || RepoError::Manifest { backup: backup.to_string(), why: "the object is missing".into() };
        let bytes = reader.store.info(&path).await?.ok_or_else(missing)?.bytes;
        let at = bytes.min(HEADER_BYTES as u64);
        let header = reader.store.get_range(&path, 0..at).await?;
        let object = reader.open_object(&path, ObjectKind::Manifest, &header).await?;
        let stream = Some(StreamOpener::begin(object).map_err(RepoError::object(&path))?);
        let key = OpenObject::key_named(&header);
        Ok(Self { reader: reader.clone(), path, backup, key, bytes, at, stream, span: Bytes::new(), pending: Vec::new() })
    }

    /// Opens a little more, and fetches it first where need be; false when the object has ended, and ended properly.
    pub(crate) async fn fill<T: DeserializeOwned>(&mut self, ready: &mut VecDeque<T>) -> Result<bool, RepoError> {
        if self.span.is_empty() && self.at >= self.bytes {
            if let Some(stream) = self.stream.take() {
                stream.finish().map_err(RepoError::object(&self.path))?;
                if !self.pending.is_empty() {
                    return Err(self.damaged("its last line does not end"));
                }
            }
            return Ok(false);
        }
        if self.span.is_empty() {
            let span = if self.at == HEADER_BYTES as u64 { FIRST_SPAN_BYTES } else { SPAN_BYTES };
            let end = self.bytes.min(self.at + span);
            self.span = self.reader.store.get_range(&self.path, self.at..end).await?;
            self.at = end;
        }
        let part = self.span.split_to(self.span.len().min(PART_BYTES));
        let Some(stream) = self.stream.as_mut() else { return Err(self.damaged("it was read past its end")) };
        let pending = &mut self.pending;
        let outcome = stream.push(&part, |plain| -> Result<(), OpenOrParse> {
            pending.extend_from_slice(plain);
            let mut from = 0;
            while let Some(length) = pending[from..].iter().position(|b| *b == b'\n') {
                ready.push_back(serde_json::from_slice(&pending[from..from + length]).map_err(OpenOrParse::Parse)?);
                from += length + 1;
            }
            pending.drain(..from);
            Ok(())
        });
        match outcome {
            Ok(()) => Ok(true),
            Err(OpenOrParse::Open(source)) => Err(RepoError::object(&self.path)(source)),
            Err(OpenOrParse::Parse(e)) => Err(self.damaged(&format!("a line does not parse: {e}"))),
        }
    }

    /// Whoever got to know another data key of this repository can seal a whole object with it, but not one for this key.
    pub(crate) fn refuse_other_key(&self, wanted: Option<KeyId>) -> Result<(), RepoError> {
        match self.key {
            Some(key) if wanted != Some(key) => Err(self.damaged(&format!("it is sealed with data key {key}, which is another one's"))),
            _ => Ok(()),
        }
    }

    pub(crate) fn refuse_newer(&self, format: u32) -> Result<(), RepoError> {
        document::refuse_newer(&self.path, format)
    }

    pub(crate) fn damaged(&self, why: &str) -> RepoError {
        RepoError::Manifest { backup: self.backup.to_string(), why: why.to_owned() }
    }
}

enum OpenOrParse {
    Open(seal::SealError),
    Parse(serde_json::Error),
}

impl From<seal::SealError> for OpenOrParse {
    fn from(e: seal::SealError) -> Self {
        Self::Open(e)
    }
}
