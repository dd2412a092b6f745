//! `restore_command` by hand: one WAL file from the repository, or a proof that it is not there.

use crate::RestoreError;
use repo::Reader;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use terms::{SystemId, WalName};

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
    let half = half_of(to);
    fs::write(&half, bytes)?;
    fs::rename(&half, to)
}

/// [`write_whole`], on disk before it gets its name. The server makes a fetched segment durable before it replays it
/// (`KeepFileRestoredFromArchive`, src/backend/access/transam/xlogarchive.c): it then has nothing to wait for.
pub(crate) fn write_durably(to: &Path, bytes: &[u8]) -> io::Result<()> {
    let half = half_of(to);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&half, to)
}

fn half_of(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".bowline");
    name.into()
}

/// Moves a file, also to another filesystem.
pub(crate) fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
            let half = half_of(to);
            fs::copy(from, &half)?;
            fs::rename(&half, to)?;
            fs::remove_file(from)
        }
        other => other,
    }
}
