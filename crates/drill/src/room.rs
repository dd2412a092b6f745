//! The place a drill happens in: a directory of its own that is gone afterwards, also when the drill is killed.

use crate::DrillError;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::{O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK};
use pg::Owner;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
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
    /// What earlier drills left and this one may not remove, and why.
    left: Vec<(PathBuf, io::Error)>,
}

impl Room {
    /// Makes one inside `parent`, after removing what earlier drills of this user may have left there: those that are locked are still at work.
    pub fn make(parent: &Path, owner: Owner) -> Result<Self, DrillError> {
        fs::create_dir_all(parent).map_err(DrillError::file("create", parent))?;
        let left = sweep(parent)?;
        let dir = make_dir(parent)?;
        let lock = lock(&dir).map_err(DrillError::file("lock", &dir))?.ok_or_else(|| DrillError::Bug(format!("{} is locked", dir.display())))?;
        if nix::unistd::geteuid().is_root() {
            chown(&dir, Some(owner.uid), Some(owner.gid)).map_err(DrillError::file("own", &dir))?;
        }
        let mut command = Command::new("/bin/sh");
        command.args(["-c", UNDERTAKER, "sh"]).arg(&dir).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        // Ctrl-C is for the drill.
        let undertaker = command.process_group(0).spawn().map_err(DrillError::file("run", "/bin/sh"))?;
        Ok(Self { dir, _lock: lock, undertaker, left })
    }

    /// What earlier drills left there that could not be removed, and why.
    pub fn left(&self) -> &[(PathBuf, io::Error)] {
        &self.left
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

/// A directory that certainly nobody made before: what lies there by this process's number may be anybody's.
fn make_dir(parent: &Path) -> Result<PathBuf, DrillError> {
    let mut number = std::process::id();
    loop {
        let dir = parent.join(format!("{PREFIX}{number}"));
        // Others may pass through, as the server does when it runs as another user, but not look.
        match fs::DirBuilder::new().mode(0o711).create(&dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && number < u32::MAX => number += 1,
            made => return made.map(|()| dir.clone()).map_err(DrillError::file("create", &dir)),
        }
    }
}

/// The lock of a drill's directory; `None` when another process has it. Anybody can give anything such a name where all may write: a named
/// pipe would keep whoever opens it.
fn lock(dir: &Path) -> io::Result<Option<Flock<File>>> {
    let opened = OpenOptions::new().read(true).custom_flags(O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK).open(dir)?;
    match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Removes what drills left whose undertaker was killed with them, and returns what could not be removed.
fn sweep(parent: &Path) -> Result<Vec<(PathBuf, io::Error)>, DrillError> {
    let mut left = Vec::new();
    for entry in fs::read_dir(parent).map_err(DrillError::file("read", parent))?.flatten() {
        let is_named_so = entry.file_name().to_str().is_some_and(|name| name.strip_prefix(PREFIX).is_some_and(|pid| pid.parse::<u32>().is_ok()));
        if is_named_so
            && matches!(lock(&entry.path()), Ok(Some(held)) if is_ours(&held))
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            left.push((entry.path(), error));
        }
    }
    Ok(left)
}

/// Root may remove what it gave to the server's user; whoever else holds drills has only his own.
fn is_ours(dir: &File) -> bool {
    let me = nix::unistd::geteuid();
    me.is_root() || dir.metadata().is_ok_and(|meta| meta.uid() == me.as_raw())
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

    #[test]
    fn what_somebody_else_put_there_keeps_no_drill_from_being_held() {
        let parent = tempfile::tempdir().unwrap();
        let named = |number: u32| parent.path().join(format!("{PREFIX}{number}"));
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("precious"), "").unwrap();
        nix::unistd::mkfifo(&named(1), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), named(2)).unwrap();
        fs::write(named(std::process::id()), "").unwrap();
        // Only root could remove this one.
        let (stuck, inner) = (named(3), named(3).join("inner"));
        fs::create_dir_all(inner.join("deep")).unwrap();
        fs::set_permissions(&inner, std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
        let room = Room::make(parent.path(), me()).unwrap();
        if !nix::unistd::geteuid().is_root() {
            assert_eq!(room.left().iter().map(|(path, _)| path).collect::<Vec<_>>(), [&stuck]);
            fs::set_permissions(&inner, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        }
        assert_eq!(room.path(), named(std::process::id() + 1));
        room.remove().unwrap();
        assert!(elsewhere.path().join("precious").exists());
    }
}
