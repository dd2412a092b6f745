//! One base backup as a chain of states. Ended has no publish: a backup whose WAL is not stored cannot be listed.

use crate::cover::Cover;
use crate::local::{DataDirectory, copy_config, feed_bytes};
use crate::pages::PageVerifier;
use crate::pipeline::{Pipeline, Settings, Tally};
use crate::receive::{BACKUP, refuse_synchronous};
use crate::sole::Sole;
use crate::streamed::copy_stream;
use crate::throttle::Throttle;
use crate::{BackupOptions, CaptureError, Checksums};
use pg::{BaseBackup, BaseBackupEnd, BaseBackupOptions, ClusterState, ConnInfo, Replication, ServerFacts, Sql};
use repo::{BackupDocument, Encryption, Epoch, ManifestEnd, ManifestHeader, ManifestWriter, RepoError, WalPosition, Writer};
use seal::{CHUNK_BYTES, Protection};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use terms::{BackupId, BackupKind, Clock, Event, Events, Lsn, SnapshotOfProgress, Timeline, Timestamp};
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, spawn_blocking};

/// What all states know.
struct Common {
    writer: Writer,
    epoch: Epoch,
    options: BackupOptions,
    events: Arc<dyn Events>,
    id: BackupId,
    protection: Protection,
    facts: ServerFacts,
    /// What a host needs to run this cluster ([`pg::HostNeeds`]).
    host: serde_json::Value,
    start: WalPosition,
    timeline: Timeline,
    source: &'static str,
    began: Instant,
    cover: Cover,
}

/// The server is in backup mode.
pub(crate) struct Begun {
    common: Common,
    source: Source,
}

enum Source {
    Local(Box<(Sql, DataDirectory)>),
    Stream(Box<BaseBackup>),
}

/// All files are in packs; the server may still be in backup mode.
pub(crate) struct Copied {
    common: Common,
    pipeline: Pipeline,
    ending: Ending,
    pages: Option<Arc<PageVerifier>>,
    progress: Ticker,
}

enum Ending {
    Local(Sql),
    Stream(Box<BaseBackupEnd>),
}

/// Packs and manifest are durable; the WAL that makes them a backup may not be.
pub(crate) struct Ended {
    common: Common,
    document: BackupDocument,
}

/// Everything that a restore needs is stored.
pub(crate) struct Covered {
    common: Common,
    document: BackupDocument,
}

impl Begun {
    /// Begins a backup: locally when `data_dir` is given, else over the replication protocol.
    pub(crate) async fn begin(
        info: &ConnInfo,
        data_dir: Option<&Path>,
        mut writer: Writer,
        options: BackupOptions,
        clock: &dyn Clock,
        events: Arc<dyn Events>,
    ) -> Result<Self, CaptureError> {
        let began = Instant::now();
        let sql = Sql::connect(info).await?;
        let facts = sql.server_facts().await?;
        if facts.in_recovery {
            return Err(CaptureError::Standby);
        }
        refuse_synchronous(&facts, BACKUP)?;
        let now = clock.now();
        let epoch = writer.admit(facts.system_id, facts.major, now).await?;
        let host = serde_json::to_value(sql.host_needs(info, &facts).await?).map_err(|e| CaptureError::Bug(e.to_string()))?;
        let directory = match data_dir {
            Some(path) => open_directory(path, &facts, &*events).await?,
            None => None,
        };
        let id = free_id(&writer, now).await?;
        let protection = writer.backup_protection(now).await?;
        // WAL must be on its way before the backup's first record is written.
        let cover = Cover::begin(info, &sql, &writer, &epoch, &options, events.clone()).await?;
        let label = format!("bowline {id}");
        let (source, start, timeline, name) = match directory {
            Some(directory) => {
                let start = sql.backup_start(&label, options.fast_checkpoint).await?;
                is_of_the_server(&directory.path, start).await?;
                let timeline = sql.timeline().await?;
                (Source::Local(Box::new((sql, directory))), start, timeline, "local")
            }
            None => {
                let asked = BaseBackupOptions {
                    label,
                    fast: options.fast_checkpoint,
                    max_rate_kib: options.max_rate.map(|rate| (rate >> 10).clamp(32, 1 << 20) as u32),
                    verify_checksums: options.checksums != Checksums::Off,
                    progress: true,
                };
                let backup = Replication::connect(info).await?.base_backup(&asked).await?;
                let (start, timeline) = (backup.start(), backup.timeline());
                (Source::Stream(Box::new(backup)), start, timeline, "stream")
            }
        };
        events.tell(Event::BackupBegun { backup: id, start, timeline, source: name });
        let start = WalPosition { lsn: start, time: facts.now };
        let common = Common { writer, epoch, options, events, id, protection, facts, host, start, timeline, source: name, began, cover };
        Ok(Self { common, source })
    }

    /// Copies every file.
    pub(crate) async fn copy(self) -> Result<Copied, CaptureError> {
        let Self { common, source } = self;
        let tally = Arc::new(Tally::default());
        let total = Arc::new(AtomicU64::new(0));
        let verify = common.facts.data_checksums && common.options.checksums != Checksums::Off;
        let pages = match &source {
            Source::Local(..) if verify => Some(Arc::new(PageVerifier::new(common.start.lsn))),
            _ => None,
        };
        let settings = Settings {
            writer: common.writer.clone(),
            protection: common.protection.clone(),
            backup: common.id,
            compression: common.options.compression,
            digester: common.writer.reader().digester().await?,
            jobs: common.options.jobs,
            throttle: Throttle::new(common.options.max_rate),
            pages: pages.clone(),
        };
        let progress = Ticker::start(common.events.clone(), tally.clone(), total.clone());
        let header = common.manifest_header();
        let config = common.config_files();
        let (events, runtime) = (common.events.clone(), Handle::current());
        let (pipeline, ending) = blocking(move || {
            let manifest = ManifestWriter::begin(&settings.writer, &settings.protection, header)?;
            let mut pipeline = Pipeline::start(settings, manifest, tally);
            let ending = match source {
                Source::Local(local) => {
                    let (sql, directory) = *local;
                    let directory = Arc::new(directory);
                    let measured = directory.clone();
                    std::thread::spawn(move || measured.measure(&total));
                    copy_config(&mut pipeline, &directory.path, &config, &*events)?;
                    directory.copy(&mut pipeline, &*events)?;
                    Ending::Local(sql)
                }
                Source::Stream(backup) => {
                    let kib: u64 = backup.tablespaces().iter().filter_map(|t| t.size_kib).sum();
                    total.store(kib << 10, Ordering::Relaxed);
                    Ending::Stream(Box::new(copy_stream(&mut pipeline, *backup, &runtime)?))
                }
            };
            Ok((pipeline, ending))
        })
        .await?;
        Ok(Copied { common, pipeline, ending, pages, progress })
    }
}

/// A backup is named by the second it begins in. An attempt that was killed in this very second has left its names behind.
async fn free_id(writer: &Writer, mut at: Timestamp) -> Result<BackupId, CaptureError> {
    let taken = writer.reader().store().folders(&BackupKind::Full.to_string()).await.map_err(RepoError::from)?;
    while taken.contains(&BackupId::begun(at).to_string()) {
        at = at.plus_micros(1_000_000);
    }
    Ok(BackupId::begun(at))
}

impl Copied {
    /// Leaves backup mode and makes packs and manifest durable.
    pub(crate) async fn end(self, sole: &Sole) -> Result<Ended, CaptureError> {
        let Self { common, mut pipeline, ending, pages, progress } = self;
        let (stop, label, told) = match ending {
            Ending::Local(sql) => {
                let stopped = sql.backup_stop(false).await?;
                (WalPosition { lsn: stopped.lsn, time: stopped.now }, Some(stopped.label), None)
            }
            Ending::Stream(end) => {
                for warning in &end.warnings {
                    common.events.tell(Event::Noticed { what: format!("the server warns: {warning}") });
                }
                // The walsender has no clock to ask; a later reading only makes the backup's first instant later.
                let now = sole.sql().now().await?;
                let first = end.warnings.first().cloned().unwrap_or_default();
                (WalPosition { lsn: end.stop, time: now }, None, Some((end.pages_damaged, first)))
            }
        };
        common.cover.backup_stopped(stop.lsn);
        let tally = pipeline.tally().clone();
        let outcome = blocking(move || {
            if let Some(label) = label {
                feed_bytes(&mut pipeline, label.into_bytes(), "backup_label".into(), 0o600, stop.time.unix_micros() / 1_000_000)?;
            }
            pipeline.finish()
        })
        .await?;
        // Only now has every page been looked at: what was read last waited in the pipeline until it was finished. The manifest has not
        // its last line yet: what is refused here must not look like a whole backup that lost its listing.
        let (count, first) = told.unwrap_or_else(|| common.pages_read(pages.as_deref(), stop.lsn));
        let damaged = common.judge_pages(count, first)?;
        let packs = outcome.packs;
        let (files, bytes) = (tally.files.load(Ordering::Relaxed), tally.bytes.load(Ordering::Relaxed));
        let manifest_bytes = blocking(move || outcome.finish(ManifestEnd { stop, files, bytes, packs })).await?;
        common.writer.settle().await?;
        drop(progress);
        let document = common.document(stop, packs, manifest_bytes, &tally, damaged);
        common.events.tell(Event::BackupCopied {
            backup: common.id,
            stop: stop.lsn,
            files: document.files,
            bytes: document.bytes,
            bytes_stored: document.bytes_stored,
            took: common.began.elapsed(),
        });
        Ok(Ended { common, document })
    }
}

impl Ended {
    /// Waits until the WAL from start to stop is stored.
    pub(crate) async fn cover(self) -> Result<Covered, CaptureError> {
        let Self { mut common, document } = self;
        common.cover.wait(common.id, common.start.lsn, document.stop.lsn, common.timeline, common.facts.segment_size).await?;
        Ok(Covered { common, document })
    }
}

impl Covered {
    /// Lists the backup: one conditional put, by whoever is still the one that makes it.
    pub(crate) async fn publish(self, sole: &Sole) -> Result<BackupDocument, CaptureError> {
        let Self { common, mut document } = self;
        document.took_seconds = common.began.elapsed().as_secs_f64();
        sole.prove().await?;
        common.writer.publish(&document).await?;
        common.events.tell(Event::BackupPublished { backup: common.id, took: common.began.elapsed() });
        Ok(document)
    }
}

impl Common {
    fn manifest_header(&self) -> ManifestHeader {
        let document = self.writer.reader().document();
        ManifestHeader {
            format: document.format,
            repository: document.id,
            backup: self.id,
            kind: BackupKind::Full,
            system_id: self.epoch.system_id,
            major: self.facts.major,
            server_version: self.facts.version.clone(),
            timeline: self.timeline,
            start: self.start,
            chunk_bytes: CHUNK_BYTES as u32,
            segment_bytes: self.facts.segment_size,
            page_checksums: self.facts.data_checksums,
            encryption: document.encryption,
            pack_key: self.key(),
            data_dir: self.facts.data_directory.as_ref().map(|p| p.display().to_string()),
            host: self.host.clone(),
        }
    }

    /// The main configuration file first: its folder is looked through as well.
    fn config_files(&self) -> Vec<PathBuf> {
        let facts = &self.facts;
        let named = [&facts.config_file, &facts.hba_file, &facts.ident_file];
        named.into_iter().flatten().chain(&facts.config_files).cloned().collect()
    }

    fn key(&self) -> Option<seal::KeyId> {
        match &self.protection {
            Protection::Sealed(key) => Some(key.id()),
            Protection::Plain => None,
        }
    }

    /// How many of the pages that we read ourselves are damaged, and the first of them; each that is kept is told.
    fn pages_read(&self, pages: Option<&PageVerifier>, stop: Lsn) -> (u64, String) {
        let Some(pages) = pages else { return (0, String::new()) };
        let (count, damaged) = pages.damaged(stop);
        for page in &damaged {
            self.events.tell(Event::PageDamaged { file: page.file.clone(), block: page.block, lsn: page.lsn });
        }
        (count, damaged.first().map_or_else(|| "not kept".into(), |page| format!("block {} of {}", page.block, page.file)))
    }

    /// How many are damaged, unless that ends the backup.
    fn judge_pages(&self, count: u64, first: String) -> Result<u64, CaptureError> {
        match self.options.checksums {
            Checksums::Fail if count > 0 => Err(CaptureError::DamagedPages { count, first }),
            _ => Ok(count),
        }
    }

    fn document(&self, stop: WalPosition, packs: u32, manifest_bytes: u64, tally: &Tally, pages_damaged: u64) -> BackupDocument {
        let (format, written_by) = BackupDocument::stamp();
        let repository = self.writer.reader().document();
        BackupDocument {
            format,
            id: self.id,
            kind: BackupKind::Full,
            repository: repository.id,
            system_id: self.epoch.system_id,
            major: self.facts.major,
            server_version: self.facts.version.clone(),
            timeline: self.timeline,
            start: self.start,
            stop,
            segment_bytes: self.facts.segment_size,
            source: self.source.to_owned(),
            compression: self.options.compression.to_string(),
            encryption: match self.protection {
                Protection::Sealed(_) => Encryption::Aes256Gcm,
                Protection::Plain => Encryption::Off,
            },
            key: self.key(),
            files: tally.files.load(Ordering::Relaxed),
            bytes: tally.bytes.load(Ordering::Relaxed),
            bytes_stored: tally.bytes_stored.load(Ordering::Relaxed) + manifest_bytes,
            packs,
            manifest_bytes,
            page_checksums: self.facts.data_checksums,
            pages_damaged,
            took_seconds: 0.0,
            written_by,
        }
    }
}

/// The directory must be the server's own: another cluster's files with this cluster's label would restore to nonsense.
/// The directory, unless the primary runs elsewhere: after a failover this host's is a standby's, and its files are no part of this backup.
async fn open_directory(path: &Path, facts: &ServerFacts, events: &dyn Events) -> Result<Option<DataDirectory>, CaptureError> {
    let owned = path.to_owned();
    let directory = blocking(move || DataDirectory::open(&owned)).await?;
    if directory.control.system_id != facts.system_id {
        return Err(CaptureError::OtherCluster { path: path.to_owned(), server: facts.system_id, directory: directory.control.system_id });
    }
    if directory.control.state != ClusterState::InProduction {
        let what = format!("{} is not the primary's data directory: the backup goes over the replication protocol", path.display());
        events.tell(Event::Noticed { what });
        return Ok(None);
    }
    Ok(Some(directory))
}

/// A backup begins with a checkpoint, which the server's own control file shows at once; that of a former primary which was killed does not.
async fn is_of_the_server(path: &Path, start: Lsn) -> Result<(), CaptureError> {
    let owned = path.to_owned();
    let redo = blocking(move || DataDirectory::open(&owned)).await?.control.redo;
    if redo < start {
        return Err(CaptureError::OtherServer { path: path.to_owned(), redo, start });
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, CaptureError> + Send + 'static) -> Result<T, CaptureError> {
    spawn_blocking(work).await.map_err(|e| CaptureError::Bug(e.to_string()))?
}

/// Tells how far the copy is, four times a second, until it is dropped.
struct Ticker(AbortHandle);

impl Ticker {
    fn start(events: Arc<dyn Events>, tally: Arc<Tally>, total: Arc<AtomicU64>) -> Self {
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(250)).await;
                events.tell(Event::Progress(SnapshotOfProgress {
                    bytes_done: tally.bytes.load(Ordering::Relaxed),
                    bytes_total: total.load(Ordering::Relaxed),
                    files_done: tally.files.load(Ordering::Relaxed),
                    files_total: 0,
                    bytes_stored: tally.bytes_stored.load(Ordering::Relaxed),
                }));
            }
        });
        Self(task.abort_handle())
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.0.abort();
    }
}
