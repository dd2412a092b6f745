//! The place to restore to: what lies there is moved aside, never deleted; what belongs to the restore lies beside it.

use crate::RestoreError;
use nix::libc::{O_DIRECTORY, O_NOFOLLOW};
use nix::unistd::{Gid, Uid, User, geteuid, setfsgid, setfsuid};
use pg::{Owner, owner_of, server_running_in};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown, fchown};
use std::path::{Path, PathBuf};
use std::thread;
use terms::Timestamp;

/// The file that marks a data directory as made by a restore that is not done.
pub const UNFINISHED: &str = "bowline-restore";

/// A directory that can be restored into.
#[derive(Debug, Clone)]
pub struct Target {
    /// The data directory to be.
    pub data_dir: PathBuf,
    /// As whom PostgreSQL will run, hence whose the files will be.
    pub owner: Owner,
    /// Where reports, logs, fetched WAL and outside configuration lie: `{data_dir}.bowline`.
    pub side_dir: PathBuf,
    /// Where directories of sockets are made: a short path, since a socket's must fit into 107 bytes.
    pub sockets: PathBuf,
    /// Something is there and has to be moved.
    occupied: bool,
}

impl Target {
    /// Looks at the directory without touching anything.
    pub fn inspect(data_dir: &Path) -> Result<Self, RestoreError> {
        let unusable = |why: String, hint: &str| RestoreError::Target { path: data_dir.to_owned(), why, hint: hint.to_owned() };
        if !data_dir.is_absolute() || data_dir.file_name().is_none() {
            return Err(unusable("It is not an absolute path of a directory.".into(), "Give the whole path, such as /var/lib/postgresql/18/main."));
        }
        let mut side_dir = data_dir.as_os_str().to_owned();
        side_dir.push(".bowline");
        let side_dir = PathBuf::from(side_dir);
        let occupied = match fs::symlink_metadata(data_dir) {
            Ok(meta) if !meta.is_dir() => return Err(unusable("It is not a directory.".into(), "Move it away, or restore elsewhere with --target.")),
            Ok(_) => {
                let mut listing = fs::read_dir(data_dir).map_err(RestoreError::file("read", data_dir))?;
                let something = listing.any(|entry| entry.is_ok_and(|entry| !stays(&entry.file_name())));
                // A restore of ours that was interrupted early may have made none of these; its own directory beside it tells.
                let is_known = side_dir.is_dir() || ["PG_VERSION", "global", UNFINISHED].iter().any(|name| data_dir.join(name).exists());
                if something && !is_known {
                    return Err(unusable(
                        "It holds something that is no PostgreSQL data directory.".into(),
                        "Move it away yourself if it is not needed, or restore elsewhere with --target.",
                    ));
                }
                something
            }
            Err(e) if e.kind() == ErrorKind::NotFound => false,
            Err(e) => return Err(RestoreError::file("look at", data_dir)(e)),
        };
        let owner =
            if geteuid().is_root() { future_owner(data_dir)? } else { Owner { uid: geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() } };
        Ok(Self { data_dir: data_dir.to_owned(), owner, side_dir, sockets: "/tmp".into(), occupied })
    }

    /// With its sockets elsewhere than in /tmp.
    pub fn with_sockets(self, sockets: &Path) -> Self {
        Self { sockets: sockets.to_owned(), ..self }
    }

    /// Whether something will be moved aside.
    pub fn is_occupied(&self) -> bool {
        self.occupied
    }

    /// The server that runs there, if one does.
    pub fn running(&self) -> Option<u32> {
        server_running_in(&self.data_dir)
    }

    /// A directory that a server is using is not touched.
    pub fn refuse_running(&self) -> Result<(), RestoreError> {
        match self.running() {
            None => Ok(()),
            Some(pid) => Err(RestoreError::Target {
                path: self.data_dir.clone(),
                why: format!("A PostgreSQL server (pid {pid}) is running there."),
                hint: "Stop it first, or restore elsewhere with --target.".into(),
            }),
        }
    }

    /// Where what is there will go; `None` when nothing is.
    pub fn place_aside(&self, now: Timestamp) -> Option<PathBuf> {
        if !self.occupied {
            return None;
        }
        // A mount point cannot be renamed: what is in it stays in it.
        let inside = self.data_dir.join(format!("{}{}", pg::rules::BEFORE, now.compact()));
        Some(if is_mount_point(&self.data_dir) { not_taken(inside) } else { not_taken(before(&self.data_dir, now)) })
    }

    /// Moves what is there to `aside`, unless it is there already, and makes the empty directories.
    pub fn prepare(&self, aside: Option<&Path>) -> Result<(), RestoreError> {
        self.refuse_running()?;
        // First of all: it tells what the other is, should this end early.
        self.make_side_dir()?;
        match aside {
            Some(aside) if aside.starts_with(&self.data_dir) => self.move_within(aside)?,
            Some(aside) if self.data_dir.exists() && !aside.exists() => rename(&self.data_dir, aside)?,
            _ => {}
        }
        if !self.data_dir.exists() {
            self.make_dir(&self.data_dir)?;
        } else {
            chown(&self.data_dir, Some(self.owner.uid), Some(self.owner.gid)).map_err(RestoreError::file("own", &self.data_dir))?;
            fs::set_permissions(&self.data_dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
                .map_err(RestoreError::file("set the mode of", &self.data_dir))?;
        }
        Ok(())
    }

    /// Makes the directory beside the target, if it is not there. One that somebody else laid there is refused: root would write where it leads.
    pub fn make_side_dir(&self) -> Result<(), RestoreError> {
        self.make_dir(&self.side_dir)
    }

    /// Does this with the rights on files of the owner, in whose folders it works: what he put in the way leads no further than he gets himself.
    pub fn as_owner<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let Owner { uid, gid } = self.owner;
        if !geteuid().is_root() || uid == 0 {
            return work();
        }
        // These are each thread's own (setfsuid(2), and setgroups(2) as the system call that it is), and end with it.
        let lowered = || -> io::Result<T> {
            rustix::thread::set_thread_groups(&[])?;
            setfsgid(Gid::from_raw(gid));
            setfsuid(Uid::from_raw(uid));
            // It says what was, not whether it did anything.
            if setfsuid(Uid::from_raw(uid)) != Uid::from_raw(uid) {
                return Err(io::Error::new(ErrorKind::PermissionDenied, format!("user {uid} cannot be acted for: setfsuid does nothing here")));
            }
            work()
        };
        match thread::scope(|scope| scope.spawn(lowered).join()) {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Moves all that is in the data directory into a directory in it, but what earlier restores kept there; may have been begun before.
    fn move_within(&self, aside: &Path) -> Result<(), RestoreError> {
        self.make_dir(aside)?;
        for entry in fs::read_dir(&self.data_dir).map_err(RestoreError::file("read", &self.data_dir))? {
            let entry = entry.map_err(RestoreError::file("read", &self.data_dir))?;
            if !stays(&entry.file_name()) {
                rename(&entry.path(), &aside.join(entry.file_name()))?;
            }
        }
        Ok(())
    }

    /// Whether anything lies in the data directory now.
    pub fn is_empty(&self) -> bool {
        fs::read_dir(&self.data_dir).map_or(true, |mut listing| listing.all(|entry| entry.is_ok_and(|entry| stays(&entry.file_name()))))
    }

    /// Makes a directory that only the owner can enter, and its parents. One that is there is the owner's already, or root's and is given to
    /// him; a link is no directory, wherever it leads.
    pub fn make_dir(&self, path: &Path) -> Result<(), RestoreError> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(RestoreError::file("create", parent))?;
        }
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(RestoreError::file("create", path)(e)),
            _ => {}
        }
        let unusable = |why: String| RestoreError::Target {
            path: path.to_owned(),
            why,
            hint: "See who put it there, and move it away; then run the restore again.".into(),
        };
        // By what is opened and not by its name, which may be another's a moment later.
        let opened = match OpenOptions::new().read(true).custom_flags(O_DIRECTORY | O_NOFOLLOW).open(path) {
            Err(_) if fs::symlink_metadata(path).is_ok_and(|there| !there.is_dir()) => {
                return Err(unusable("It is a link or a file, and must be a directory of this restore's own.".into()));
            }
            opened => opened.map_err(RestoreError::file("open", path))?,
        };
        let there = opened.metadata().map_err(RestoreError::file("look at", path))?;
        match there.uid() {
            uid if uid == self.owner.uid => Ok(()),
            0 => fchown(&opened, Some(self.owner.uid), Some(self.owner.gid)).map_err(RestoreError::file("own", path)),
            uid => Err(unusable(format!("It belongs to user {uid}, and the cluster to user {}.", self.owner.uid))),
        }
    }
}

/// Makes a file that is certainly new: what bears its name goes first, and a link is not followed.
pub fn create_anew(path: &Path, mode: u32) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

/// Renames `path` to a name that says when it was put aside.
fn move_aside(path: &Path, now: Timestamp) -> Result<PathBuf, RestoreError> {
    let to = not_taken(before(path, now));
    rename(path, &to)?;
    Ok(to)
}

/// Moves out of a tablespace's place what a PostgreSQL of this cluster put there and `keeps` does not want to stay; from and to. Whatever
/// else lies there is in nobody's way.
pub(crate) fn clear_tablespace(place: &Path, now: Timestamp, keeps: impl Fn(&OsStr) -> bool) -> Result<Vec<(PathBuf, PathBuf)>, RestoreError> {
    let mut moved = Vec::new();
    for item in fs::read_dir(place).map_err(RestoreError::file("read", place))?.flatten() {
        let name = item.file_name();
        let is_in_the_way = name.to_string_lossy().starts_with("PG_") && !name.to_string_lossy().contains(".before-");
        if is_in_the_way && !keeps(&name) {
            let to = move_aside(&item.path(), now)?;
            moved.push((item.path(), to));
        }
    }
    Ok(moved)
}

/// The name beside `path` that says when it was put aside.
pub(crate) fn before(path: &Path, now: Timestamp) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".before-{}", now.compact()));
    name.into()
}

/// This name, or with the lowest number behind it that makes it one that nothing has.
pub(crate) fn not_taken(name: PathBuf) -> PathBuf {
    let numbered = (2..).map(|number| {
        let mut numbered = name.as_os_str().to_owned();
        numbered.push(format!("-{number}"));
        PathBuf::from(numbered)
    });
    std::iter::once(name.clone()).chain(numbered).find(|place| fs::symlink_metadata(place).is_err()).unwrap_or(name)
}

fn rename(path: &Path, to: &Path) -> Result<(), RestoreError> {
    fs::rename(path, to).map_err(|e| match e.raw_os_error() {
        Some(code) if code == nix::errno::Errno::EBUSY as i32 => RestoreError::Target {
            path: path.to_owned(),
            why: "It is a mount point, so it cannot be moved aside by renaming it.".into(),
            hint: "Unmount it, or restore into another directory with --target.".into(),
        },
        _ => RestoreError::file("move aside", path)(e),
    })
}

/// What may lie in a data directory that is empty otherwise: a file system's own folder, the mark, and what earlier restores kept.
pub(crate) fn stays(name: &std::ffi::OsStr) -> bool {
    name == "lost+found" || name == UNFINISHED || name.to_string_lossy().starts_with(pg::rules::BEFORE)
}

/// Whether a file system is mounted here: a name in the fifth column of /proc/self/mountinfo (proc(5)), with octal escapes.
fn is_mount_point(path: &Path) -> bool {
    let Ok(path) = fs::canonicalize(path) else { return false };
    let escaped: String = path
        .to_string_lossy()
        .chars()
        .map(|c| match c {
            ' ' | '\t' | '\n' | '\\' => format!("\\{:03o}", c as u32),
            c => c.to_string(),
        })
        .collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&escaped))
}

/// As root: the owner of what is there or of the folder around it, unless that is root; else the user postgres.
fn future_owner(data_dir: &Path) -> Result<Owner, RestoreError> {
    for place in [Some(data_dir), data_dir.parent()].into_iter().flatten() {
        if fs::metadata(place).is_ok_and(|m| m.uid() != 0) {
            return Ok(owner_of(place)?);
        }
    }
    match User::from_name("postgres") {
        Ok(Some(user)) => Ok(Owner { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
        _ => Err(RestoreError::Target {
            path: data_dir.to_owned(),
            why: "PostgreSQL does not run as root, and there is no user postgres on this host.".into(),
            hint: "useradd --system postgres, or run as the user who shall own the cluster.".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Of a cluster that belongs to whoever runs this.
    fn target(dir: &Path) -> Target {
        let owner = Owner { uid: geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
        let side_dir = dir.join("data.bowline");
        Target { data_dir: dir.join("data"), owner, side_dir, sockets: "/tmp".into(), occupied: false }
    }

    #[test]
    fn a_link_in_the_place_of_a_directory_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let (target, elsewhere) = (target(dir.path()), dir.path().join("elsewhere"));
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, &target.side_dir).unwrap();
        let refused = target.make_side_dir().unwrap_err();
        assert!(matches!(&refused, RestoreError::Target { path, .. } if *path == target.side_dir), "{refused}");
        fs::remove_file(&target.side_dir).unwrap();
        target.make_side_dir().unwrap();
        target.make_side_dir().unwrap();
        let wal = target.side_dir.join("wal");
        symlink(&elsewhere, &wal).unwrap();
        target.make_dir(&wal).unwrap_err();
        fs::remove_file(&wal).unwrap();
        fs::write(&wal, "").unwrap();
        target.make_dir(&wal).unwrap_err();
    }

    #[test]
    fn a_file_that_is_made_anew_leaves_alone_where_a_link_of_its_name_leads() {
        let dir = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (dir.path().join("new"), dir.path().join("elsewhere"));
        fs::write(&elsewhere, "precious").unwrap();
        symlink(&elsewhere, &path).unwrap();
        create_anew(&path, 0o600).unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn what_is_done_as_the_owner_makes_files_of_the_owner() {
        // Only root can act for somebody else; whoever else runs this is the owner.
        let owner = if geteuid().is_root() { Owner { uid: 65_534, gid: 65_534 } } else { target(Path::new("/")).owner };
        let dir = tempfile::tempdir().unwrap();
        let target = Target { owner, ..target(dir.path()) };
        chown(dir.path(), Some(owner.uid), Some(owner.gid)).unwrap();
        let path = dir.path().join("file");
        target.as_owner(|| fs::write(&path, "")).unwrap();
        let made = fs::metadata(&path).unwrap();
        assert_eq!((made.uid(), made.gid()), (owner.uid, owner.gid));
        if geteuid().is_root() {
            let secret = dir.path().join("secret");
            drop(create_anew(&secret, 0o600).unwrap());
            target.as_owner(|| fs::read(&secret)).unwrap_err();
        }
    }
}
