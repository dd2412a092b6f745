//! Puts a backup's files in place: one pass over the manifest and the packs, in parallel, durable at the end.

use crate::delta::{CONTROL_FILE_FORMER, Ground, Occupied, put_control_aside};
use crate::feed::Feeder;
use crate::place::{Shared, Span, work};
use crate::target::Target;
use crate::{RestoreError, RestoreOptions};
use crossbeam_channel::bounded;
use pg::{CONTROL_FILE, ControlFile};
use repo::{BackupDocument, ManifestReader, Reader};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use terms::{Events, Timestamp};
use tokio::runtime::Handle;

/// The control file's name until everything else is durable: a cluster without it cannot be started by mistake.
pub(crate) const CONTROL_FILE_LATER: &str = "global/pg_control.bowline";

/// Where tablespaces go.
#[derive(Debug, Clone, Default)]
pub struct TablespaceMap {
    /// By oid.
    pub places: BTreeMap<u32, PathBuf>,
    /// Below this folder, if they are not named; `None`: where they were. A restore beside production must have one,
    /// since where they were production's own may be.
    pub elsewhere: Option<PathBuf>,
}

impl TablespaceMap {
    /// Where this one goes; `None`: where it was.
    pub fn place(&self, oid: u32) -> Option<PathBuf> {
        self.places.get(&oid).cloned().or_else(|| self.elsewhere.as_ref().map(|folder| folder.join(oid.to_string())))
    }
}

/// What was restored.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// Configuration from outside the data directory included.
    pub files: u64,
    /// The sum of their sizes, whether written or there already.
    pub bytes: u64,
    /// Chunks that lay in the target already and were right, and their bytes: nothing of them was fetched or written.
    pub chunks_kept: u64,
    /// Of those chunks, before compression.
    pub bytes_kept: u64,
    /// Bytes that were written. Of a chunk that lay there and was wrong, only the pages that differ.
    pub bytes_written: u64,
    /// Configuration that lay outside the data directory: where it lies now, and where it was.
    pub config: Vec<(PathBuf, PathBuf)>,
    /// Old tablespace content that was moved aside.
    pub moved: Vec<(PathBuf, PathBuf)>,
}

/// Restores the files of `backup` into the target, which is empty or, where the options say so, holds data that is brought to the backup's
/// content. Blocking: call it outside the runtime's threads.
pub(crate) fn restore_files(
    reader: &Reader,
    backup: &BackupDocument,
    target: &Target,
    options: &RestoreOptions,
    now: Timestamp,
    runtime: &Handle,
    events: &dyn Events,
) -> Result<Restored, RestoreError> {
    let digester = runtime.block_on(reader.digester())?;
    let open = || runtime.block_on(ManifestReader::open_for(reader, backup)).map_err(RestoreError::of_backup(backup.id));
    let place = || Place { reader, backup, target, options, now, runtime, events };
    if options.occupied == Occupied::MoveAside || target.is_empty() {
        return place().fill(open()?, digester, Ground::default());
    }
    // The whole manifest is read, and proved, before anything of the old copy is destroyed.
    let ground = Ground::survey(open()?, target, &options.tablespaces, digester.clone(), runtime)?;
    put_control_aside(target)?;
    // From here on the old copy is not whole any more.
    let half = |source| RestoreError::HalfRewritten { path: target.data_dir.clone(), source: Box::new(source) };
    let ground = ground.clear(target).map_err(half)?;
    let manifest = open().map_err(half)?;
    place().fill(manifest, digester, ground).map_err(half)
}

struct Place<'a> {
    reader: &'a Reader,
    backup: &'a BackupDocument,
    target: &'a Target,
    options: &'a RestoreOptions,
    now: Timestamp,
    runtime: &'a Handle,
    events: &'a dyn Events,
}

impl Place<'_> {
    fn fill(self, manifest: ManifestReader, digester: seal::Digester, ground: Ground) -> Result<Restored, RestoreError> {
        let Self { reader, backup, target, options, now, runtime, events } = self;
        let jobs = options.jobs.max(1);
        // A request to a bucket spends most of its time on the way: more of them than there are cores.
        let threads = if reader.store().is_remote() { jobs + 6 } else { jobs };
        let shared = Arc::new(Shared::new(reader.clone(), runtime.clone(), backup, digester, target.clone()));
        let (spans, to_do) = bounded::<Span>(threads);
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let (shared, to_do) = (shared.clone(), to_do.clone());
                thread::spawn(move || {
                    if let Err(e) = work(&shared, &to_do) {
                        shared.fail(e);
                        to_do.iter().for_each(drop);
                    }
                })
            })
            .collect();
        drop(to_do);
        let mut feeder = Feeder::new(&shared, spans, &options.tablespaces, now, u64::from(manifest.header().chunk_bytes), ground);
        let fed = feeder.run(manifest, backup.bytes, events);
        let (mut restored, filesystems) = feeder.end();
        for worker in workers {
            worker.join().map_err(|_| RestoreError::Bug("a worker panicked".into()))?;
        }
        if let Some(e) = shared.trouble() {
            return Err(e);
        }
        fed?;
        make_durable(&target.data_dir, &filesystems)?;
        restored.chunks_kept = shared.chunks_kept.load(Ordering::Relaxed);
        restored.bytes_kept = shared.bytes_kept.load(Ordering::Relaxed);
        restored.bytes_written = shared.bytes_written.load(Ordering::Relaxed);
        Ok(restored)
    }
}

/// Everything but the control file first; then the control file, which makes it a cluster.
fn make_durable(data_dir: &Path, filesystems: &[PathBuf]) -> Result<(), RestoreError> {
    for place in filesystems {
        let folder = File::open(place).map_err(RestoreError::file("open", place))?;
        rustix::fs::syncfs(&folder).map_err(|e| RestoreError::file("sync", place)(e.into()))?;
    }
    let (later, control) = (data_dir.join(CONTROL_FILE_LATER), data_dir.join(CONTROL_FILE));
    let mut bytes = fs::read(&later).map_err(RestoreError::file("read", &later))?;
    ControlFile::need_label(&mut bytes)?;
    let file = File::options().write(true).open(&later).map_err(RestoreError::file("open", &later))?;
    file.write_all_at(&bytes, 0).and_then(|()| file.sync_all()).map_err(RestoreError::file("sync", &later))?;
    // The new one tells the cluster's identity by now.
    let former = data_dir.join(CONTROL_FILE_FORMER);
    match fs::remove_file(&former) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(RestoreError::file("remove", &former)(e)),
        _ => {}
    }
    fs::rename(&later, &control).map_err(RestoreError::file("rename", &later))?;
    for folder in [control.parent(), Some(data_dir), data_dir.parent()].into_iter().flatten() {
        File::open(folder).and_then(|f| f.sync_all()).map_err(RestoreError::file("sync", folder))?;
    }
    Ok(())
}
