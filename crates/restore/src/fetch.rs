//! `restore_command` by hand: one WAL file from the repository, or a proof that it is not there.

use crate::RestoreError;
use repo::Reader;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use terms::{Explain, SystemId, WalName};

/// How a fetch ended; how that becomes an exit code is the front door's matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// The file is where it was wanted.
    Delivered,
    /// Proven absent: the repository answered that it has neither this file nor a later one of its timeline.
    Absent,
}

/// Fetches `name` to `to`. A hole (a later segment is there), a store that fails, and bytes that do not open are errors.
pub async fn fetch(reader: &Reader, system_id: SystemId, name: &WalName, to: &Path) -> Result<Fetched, RestoreError> {
    // PostgreSQL's own `.partial` is stored for people to look at; a server is never given one.
    if matches!(name, WalName::Partial(_)) {
        return Ok(Fetched::Absent);
    }
    match reader.fetch_wal(system_id, name).await? {
        Some(bytes) => {
            write_whole(to, &bytes).map_err(RestoreError::file("write", to))?;
            Ok(Fetched::Delivered)
        }
        None => match reader.wal_after(system_id, name).await? {
            None => Ok(Fetched::Absent),
            Some(later) => Err(RestoreError::Fetch {
                name: name.to_string(),
                why: format!("It is not in the repository, but {later} is: this is a hole, not the end of the log."),
            }),
        },
    }
}

/// Written under another name first: the server must never see half a segment.
fn write_whole(to: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = to.as_os_str().to_owned();
    name.push(".bowline");
    let half = PathBuf::from(name);
    fs::write(&half, bytes)?;
    fs::rename(&half, to)
}

/// Moves a file, also to another filesystem.
pub(crate) fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
            let mut name = to.as_os_str().to_owned();
            name.push(".bowline");
            fs::copy(from, &name)?;
            fs::rename(&name, to)?;
            fs::remove_file(from)
        }
        other => other,
    }
}

/// A folder of segments fetched before they were asked for, beside the data directory and never inside it:
/// pg_rewind and base backups look into pg_wal.
pub struct Spool(PathBuf);

impl Spool {
    /// The spool in this folder, which need not exist yet.
    pub fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Where a segment lies once it is whole.
    fn place(&self, name: &WalName) -> PathBuf {
        self.0.join(name.to_string())
    }

    /// Hands over a segment that is there; false when it is not.
    pub fn take(&self, name: &WalName, to: &Path) -> io::Result<bool> {
        match move_file(&self.place(name), to) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Fetches segments into the spool, until one is not there. One process at a time; a second one leaves at once.
    pub async fn fill(&self, reader: &Reader, system_id: SystemId, names: &[WalName]) -> Result<(), RestoreError> {
        fs::create_dir_all(&self.0).map_err(RestoreError::file("create", &self.0))?;
        let lock = self.0.join("lock");
        let held = File::create(&lock).map_err(RestoreError::file("create", &lock))?;
        if rustix::fs::flock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        self.forget_others(names);
        for name in names {
            let place = self.place(name);
            if place.exists() {
                continue;
            }
            match reader.fetch_wal(system_id, name).await {
                Ok(Some(bytes)) => write_whole(&place, &bytes).map_err(RestoreError::file("write", &place))?,
                Ok(None) => return Ok(()),
                // Whoever asks for it in earnest gets the error.
                Err(e) => return Err(RestoreError::Fetch { name: name.to_string(), why: e.detail() }),
            }
        }
        Ok(())
    }

    /// Segments that were passed by would lie here for ever.
    fn forget_others(&self, names: &[WalName]) {
        for item in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let Ok(name) = item.file_name().to_string_lossy().parse::<WalName>() else { continue };
            if !names.contains(&name) {
                drop(fs::remove_file(item.path()));
            }
        }
    }
}
