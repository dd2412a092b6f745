//! Work that goes on beside a command that the server waits for: where its files lie, and how its process is started.

use crate::args::Common;
use crate::wiring::Wiring;
use pg::{CONTROL_FILE, ControlFile};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A cluster's own place for such work.
pub struct Place {
    /// For this data directory and this repository alone: files of another one bear the same names.
    pub folder: PathBuf,
    pub control: ControlFile,
}

impl Place {
    /// The place that belongs to this data directory: below `wal.spool`, or beside the directory and never inside it, where
    /// pg_rewind and base backups look. `None` where there is no data directory.
    pub fn of(wiring: &Wiring, data_dir: &Path) -> Option<Self> {
        let control = std::fs::read(data_dir.join(CONTROL_FILE)).ok()?;
        let control = ControlFile::parse(&control).ok()?;
        let data_dir = std::fs::canonicalize(data_dir).ok()?;
        let base = match &wiring.config.wal.spool {
            Some(spool) => spool.clone(),
            None => data_dir.with_file_name(format!("{}.bowline-wal", data_dir.file_name()?.to_string_lossy())),
        };
        let endpoint = wiring.config.repository.endpoint.as_deref().unwrap_or_default();
        let whose = fold(&[&wiring.address(), endpoint, &data_dir.to_string_lossy()]);
        Some(Self { folder: base.join(format!("{}-{whose:016x}", control.system_id)), control })
    }
}

/// FNV-1a: tells addresses apart in a folder's name.
fn fold(words: &[&str]) -> u64 {
    let bytes = words.iter().flat_map(|word| word.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Starts this program again with the same configuration, as a process that outlives this one. It is a matter of speed
/// only: failing to start it is not told. It says nothing: whoever holds the server's log open keeps its logger from ending.
pub fn start(common: &Common, words: &[&std::ffi::OsStr]) {
    let Ok(mut command) = again(common, words) else { return };
    command.stdout(Stdio::null()).stderr(Stdio::null());
    drop(command.spawn());
}

/// Starts a receiver that outlives this process.
pub fn receiver(common: &Common, log: std::fs::File) -> std::io::Result<Child> {
    let mut command = again(common, &["wal".as_ref(), "receive".as_ref()])?;
    command.stdout(log.try_clone()?).stderr(log).current_dir("/");
    command.spawn()
}

/// This program with the same configuration, in a process group of its own.
fn again(common: &Common, words: &[&std::ffi::OsStr]) -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    for (flag, value) in [("--config", common.config.as_ref()), ("--key", common.key.as_ref())] {
        if let Some(value) = value {
            // A recipient is no path.
            let value = if keys::named(value).is_some() { value.clone() } else { std::path::absolute(value)? };
            command.arg(flag).arg(value);
        }
    }
    for (flag, value) in [("--repository", &common.repository), ("--org", &common.org)] {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    }
    command.args(words).stdin(Stdio::null());
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    Ok(command)
}
