//! The place to restore to: what lies there is moved aside, never deleted; what belongs to the restore lies beside it.

use crate::RestoreError;
use nix::unistd::{User, geteuid};
use pg::{Owner, owner_of, server_running_in};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use terms::Timestamp;

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
        let occupied = match fs::symlink_metadata(data_dir) {
            Ok(meta) if !meta.is_dir() => return Err(unusable("It is not a directory.".into(), "Move it away, or restore elsewhere with --target.")),
            Ok(_) => {
                let mut listing = fs::read_dir(data_dir).map_err(RestoreError::file("read", data_dir))?;
                let something = listing.next().is_some();
                if something && !data_dir.join("PG_VERSION").is_file() && !data_dir.join("global").is_dir() {
                    return Err(unusable(
                        "It holds something that is no PostgreSQL data directory.".into(),
                        "Move it away yourself if it is not needed, or restore elsewhere with --target.",
                    ));
                }
                something
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
            Err(e) => return Err(RestoreError::file("look at", data_dir)(e)),
        };
        let owner =
            if geteuid().is_root() { future_owner(data_dir)? } else { Owner { uid: geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() } };
        let mut side = data_dir.as_os_str().to_owned();
        side.push(".bowline");
        Ok(Self { data_dir: data_dir.to_owned(), owner, side_dir: side.into(), sockets: "/tmp".into(), occupied })
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

    /// Moves what is there aside and makes the empty directories; returns where the old data went.
    pub(crate) fn prepare(&self, now: Timestamp) -> Result<Option<PathBuf>, RestoreError> {
        self.refuse_running()?;
        let moved = if self.occupied { Some(move_aside(&self.data_dir, now)?) } else { None };
        if moved.is_some() || !self.data_dir.exists() {
            self.make_dir(&self.data_dir)?;
        } else {
            chown(&self.data_dir, Some(self.owner.uid), Some(self.owner.gid)).map_err(RestoreError::file("own", &self.data_dir))?;
            fs::set_permissions(&self.data_dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
                .map_err(RestoreError::file("set the mode of", &self.data_dir))?;
        }
        if !self.side_dir.exists() {
            self.make_dir(&self.side_dir)?;
        }
        Ok(moved)
    }

    /// Removes what this process put there and left half done, tablespaces included, so that it can begin again: whatever was there
    /// before it was moved aside then. Returns the place as it is now.
    pub fn clear_half_done(&self) -> Result<Self, RestoreError> {
        self.refuse_running()?;
        let links = self.data_dir.join("pg_tblspc");
        for link in fs::read_dir(&links).into_iter().flatten().flatten().map(|entry| entry.path()) {
            for item in fs::read_dir(&link).into_iter().flatten().flatten() {
                let name = item.file_name().to_string_lossy().into_owned();
                if name.starts_with("PG_") && !name.contains(".before-") {
                    fs::remove_dir_all(item.path()).map_err(RestoreError::file("remove", item.path()))?;
                }
            }
        }
        for item in fs::read_dir(&self.data_dir).into_iter().flatten().flatten() {
            let path = item.path();
            let removed = if item.file_type().is_ok_and(|t| t.is_dir()) { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(RestoreError::file("remove", &path))?;
        }
        Ok(Self { occupied: false, ..self.clone() })
    }

    /// Makes a directory that only the owner can enter, and its parents.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<(), RestoreError> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(RestoreError::file("create", parent))?;
        }
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(RestoreError::file("create", path)(e)),
            _ => {}
        }
        chown(path, Some(self.owner.uid), Some(self.owner.gid)).map_err(RestoreError::file("own", path))
    }
}

/// Renames `path` to a name that says when it was put aside.
pub(crate) fn move_aside(path: &Path, now: Timestamp) -> Result<PathBuf, RestoreError> {
    let mut base = path.as_os_str().to_owned();
    base.push(format!(".before-{}", now.compact()));
    let mut to = PathBuf::from(base.clone());
    let mut again = 1;
    while to.exists() {
        again += 1;
        let mut numbered = base.clone();
        numbered.push(format!("-{again}"));
        to = numbered.into();
    }
    fs::rename(path, &to).map_err(|e| match e.raw_os_error() {
        // A mount point cannot be renamed.
        Some(code) if code == nix::errno::Errno::EBUSY as i32 => RestoreError::Target {
            path: path.to_owned(),
            why: "It is a mount point, so what is in it cannot be moved aside by renaming it.".into(),
            hint: "Move its content aside yourself, or restore into a directory below it with --target.".into(),
        },
        _ => RestoreError::file("move aside", path)(e),
    })?;
    Ok(to)
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
