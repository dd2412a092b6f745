//! The place a drill happens in: a directory of its own that is gone afterwards, also when the drill is killed.

use crate::DrillError;
use nix::fcntl::{Flock, FlockArg};
use pg::Owner;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What the names of drills' directories begin with.
const PREFIX: &str = "bowline-drill-";

/// Removes what is named by its first word once its input ends, which it does when the drill does, however that ends. A server that is
/// still on its way out may be writing there, so it tries until nothing is left, for two minutes at most: what cannot be removed at all is
/// told by who waits for it.
const UNDERTAKER: &str =
    r#"cat > /dev/null; n=0; while [ -e "$1" ] && [ $n -lt 600 ]; do rm -rf -- "$1" 2> /dev/null || sleep 0.2; n=$((n + 1)); done"#;

/// A drill's directory. Dropping it removes it.
pub struct Room {
    dir: PathBuf,
    _lock: Flock<File>,
    undertaker: Child,
}

impl Room {
    /// Makes one inside `parent`, after removing what earlier drills may have left there: those that are locked are still at work.
    pub fn make(parent: &Path, owner: Owner) -> Result<Self, DrillError> {
        fs::create_dir_all(parent).map_err(DrillError::file("create", parent))?;
        sweep(parent)?;
        let dir = parent.join(format!("{PREFIX}{}", std::process::id()));
        // Others may pass through, as the server does when it runs as another user, but not look.
        fs::DirBuilder::new().mode(0o711).create(&dir).map_err(DrillError::file("create", &dir))?;
        let lock = lock(&dir).map_err(DrillError::file("lock", &dir))?.ok_or_else(|| DrillError::Bug(format!("{} is locked", dir.display())))?;
        if nix::unistd::geteuid().is_root() {
            chown(&dir, Some(owner.uid), Some(owner.gid)).map_err(DrillError::file("own", &dir))?;
        }
        let mut command = Command::new("/bin/sh");
        command.args(["-c", UNDERTAKER, "sh"]).arg(&dir).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        // Ctrl-C is for the drill.
        let undertaker = command.process_group(0).spawn().map_err(DrillError::file("run", "/bin/sh"))?;
        Ok(Self { dir, _lock: lock, undertaker })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Removes it; an error names what could not be removed.
    pub fn remove(self) -> Result<(), DrillError> {
        let dir = self.dir.clone();
        drop(self);
        if dir.exists() { Err(DrillError::file("remove", &dir)(io::Error::other("something is left of it"))) } else { Ok(()) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        drop(self.undertaker.stdin.take());
        let _ = self.undertaker.wait();
    }
}

/// The lock of a drill's directory; `None` when another process has it.
fn lock(dir: &Path) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(File::open(dir)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Removes what drills left whose undertaker was killed with them.
fn sweep(parent: &Path) -> Result<(), DrillError> {
    for entry in fs::read_dir(parent).map_err(DrillError::file("read", parent))?.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.strip_prefix(PREFIX).is_some_and(|pid| pid.parse::<u32>().is_ok()));
        if is_ours && matches!(lock(&entry.path()), Ok(Some(_))) {
            fs::remove_dir_all(entry.path()).map_err(DrillError::file("remove", entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Owner {
        Owner { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
    }

    #[test]
    fn it_is_gone_afterwards_and_what_others_left_too() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join("bowline-drill-1");
        let foreign = parent.path().join("bowline-drill-of-mine");
        fs::create_dir_all(left.join("data")).unwrap();
        fs::create_dir_all(&foreign).unwrap();
        let room = Room::make(parent.path(), me()).unwrap();
        assert!(!left.exists(), "nobody works there any more");
        assert!(foreign.exists(), "that is no drill's");
        fs::create_dir_all(room.path().join("data/base")).unwrap();
        let path = room.path().to_owned();
        sweep(parent.path()).unwrap();
        assert!(path.exists(), "a drill is at work there");
        room.remove().unwrap();
        assert!(!path.exists());
    }
}
