//! The place to restore to: what lies there is moved aside, never deleted; what belongs to the restore lies beside it.

use crate::RestoreError;
use crate::mounts::{is_mount_point, mounts_below};
use crate::paths::{followed, plain, real};
use nix::libc::{O_DIRECTORY, O_NOFOLLOW};
use nix::unistd::{Gid, Uid, User, geteuid, setfsgid, setfsuid};
use pg::{Owner, owner_of, server_running_in, survivors_in};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
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
    /// Looks at the directory without touching anything. Where a link leads to it, the link stays, and what it leads to is the target.
    pub fn inspect(asked: &Path) -> Result<Self, RestoreError> {
        let unusable = |why: String, hint: &str| RestoreError::Target { path: asked.to_owned(), why, hint: hint.to_owned() };
        let Some(data_dir) = plain(asked) else {
            let why = "It is not an absolute path of a directory, or goes up by \"..\".";
            return Err(unusable(why.into(), "Give the whole path, such as /var/lib/postgresql/18/main."));
        };
        let data_dir = &followed(&data_dir).map_err(|e| {
            unusable(format!("It is a link that leads nowhere: {e}."), "Mount or make what it leads to, or restore elsewhere with --target.")
        })?;
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
        let owner = if geteuid().is_root() {
            future_owner(data_dir, &side_dir)?
        } else {
            Owner { uid: geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
        };
        Ok(Self { data_dir: data_dir.to_owned(), owner, side_dir, sockets: "/tmp".into(), occupied })
    }

    /// With its sockets elsewhere than in /tmp.
    pub fn with_sockets(self, sockets: &Path) -> Self {
        Self { sockets: sockets.to_owned(), ..self }
    }

    /// Whether this is the directory that is named so, by whatever way.
    pub fn is_at(&self, place: &Path) -> bool {
        let identity = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
        real(&self.data_dir) == real(place) || identity(&self.data_dir).is_some_and(|here| identity(place) == Some(here))
    }

    /// Whether something will be moved aside.
    pub fn is_occupied(&self) -> bool {
        self.occupied
    }

    /// The server that runs there, if one does.
    pub fn running(&self) -> Option<u32> {
        server_running_in(&self.data_dir)
    }

    /// A directory that a server is using is not touched, be it only by processes that outlived its postmaster or its postmaster.pid.
    pub fn refuse_running(&self) -> Result<(), RestoreError> {
        let (why, hint) = match self.running() {
            Some(1) => (
                "A PostgreSQL server is running there as the first process of this container.".to_owned(),
                "With it the container ends, and this command, too: stop the container, and restore into its volume from another one; \
                 or restore elsewhere with --target.",
            ),
            Some(pid) => (format!("A PostgreSQL server (pid {pid}) is running there."), "Stop it first, or restore elsewhere with --target."),
            None => match survivors_in(&self.data_dir).first() {
                Some(pid) => (format!("A process of PostgreSQL (pid {pid}) still works there."), "End it first, or restore elsewhere with --target."),
                None => return Ok(()),
            },
        };
        Err(RestoreError::Target { path: self.data_dir.clone(), why, hint: hint.into() })
    }

    /// What is moved aside takes file systems that are mounted in it along, and the next boot would mount them into the new cluster.
    pub fn refuse_mounts_within(&self) -> Result<(), RestoreError> {
        let within = mounts_below(&self.data_dir);
        let Some(first) = within.first() else { return Ok(()) };
        let hint = match within.as_slice() {
            [wal] if *wal == self.data_dir.join("pg_wal") => {
                "Overwrite what is there with --delta, which leaves it where it is; or stop PostgreSQL, unmount it and restore, then stop again, move \
                 pg_wal to that file system and link it."
            }
            _ => "Unmount it first, and mind what mounts it at the next boot; or restore elsewhere with --target.",
        };
        let why = format!("{} is a mount point in it: what is mounted there would go along with the old data.", first.display());
        Err(RestoreError::Target { path: self.data_dir.clone(), why, hint: hint.into() })
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
        if aside.is_some_and(|aside| !aside.exists()) {
            self.refuse_mounts_within()?;
        }
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
            let opened = self.own_dir(&self.data_dir, false)?;
            opened.set_permissions(fs::Permissions::from_mode(0o700)).map_err(RestoreError::file("set the mode of", &self.data_dir))?;
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
            match rustix::thread::set_thread_groups(&[]) {
                // Root without this right, as in a container, has no other groups to lose either.
                Ok(()) | Err(rustix::io::Errno::PERM) => {}
                Err(why) => return Err(why.into()),
            }
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
        make_parents(path)?;
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(RestoreError::file("create", path)(e)),
            _ => {}
        }
        self.own_dir(path, false).map(drop)
    }

    /// Opens a directory that is the owner's or becomes it, for what else is to be done to it: by what is opened and not by its name, which may
    /// be another's a moment later. One that is neither his nor root's is refused. Where a link is followed, it must be his already: his link
    /// would have root give away whatever it leads to. One that only root can have laid is root's word.
    pub(crate) fn own_dir(&self, path: &Path, follows: bool) -> Result<File, RestoreError> {
        let unusable = |why: String| RestoreError::Target {
            path: path.to_owned(),
            why,
            hint: "See who put it there: move it away, or give it to the cluster's user by chown; then run the restore again.".into(),
        };
        let is_roots_alone = |path: &Path| fs::metadata(path).is_ok_and(|folder| folder.uid() == 0 && folder.mode() & 0o022 == 0);
        let open = |flags| OpenOptions::new().read(true).custom_flags(O_DIRECTORY | flags).open(path);
        let is_there = fs::symlink_metadata(path);
        let (opened, is_link) = match open(O_NOFOLLOW) {
            Err(_) if follows && is_there.as_ref().is_ok_and(fs::Metadata::is_symlink) => (open(0), true),
            Err(_) if is_there.as_ref().is_ok_and(|there| !there.is_dir()) => {
                return Err(unusable("It is a link or a file, and must be a directory of this restore's own.".into()));
            }
            opened => (opened, false),
        };
        let opened = opened.map_err(RestoreError::file("open", path))?;
        let there = opened.metadata().map_err(RestoreError::file("look at", path))?;
        let Owner { uid, gid } = self.owner;
        match there.uid() {
            found if found == uid && there.gid() == gid => Ok(opened),
            found if found == uid || (found == 0 && (!is_link || path.parent().is_some_and(is_roots_alone))) => {
                fchown(&opened, Some(uid), Some(gid)).map_err(RestoreError::file("own", path))?;
                Ok(opened)
            }
            found => Err(unusable(format!("It belongs to user {found}, and the cluster to user {uid}."))),
        }
    }
}

/// Makes the missing folders above `path`, open to all whatever this process's umask says: the server's user has to pass.
pub(crate) fn make_parents(path: &Path) -> Result<(), RestoreError> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) else { return Ok(()) };
    make_parents(parent)?;
    fs::create_dir(parent).map_err(RestoreError::file("create", parent))?;
    fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).map_err(RestoreError::file("set the mode of", parent))
}

/// Where `pg_wal` of this data directory leads when it is a link: a restore that moves it aside makes it a directory again.
pub fn linked_wal(data_dir: &Path) -> Option<PathBuf> {
    fs::read_link(data_dir.join("pg_wal")).ok()
}

/// Makes a file that is certainly new: what bears its name goes first, and a link is not followed.
pub fn create_anew(path: &Path, mode: u32) -> io::Result<File> {
    let make = || OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    match make() {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            make()
        }
        made => made,
    }
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

/// As root: the owner of what is there, of the directory beside it or of the folder around it, unless that is root; else the user postgres. What
/// a restore leaves that is killed after the old data went aside is beside it, and nowhere else.
fn future_owner(data_dir: &Path, side_dir: &Path) -> Result<Owner, RestoreError> {
    for place in [Some(data_dir), Some(side_dir), data_dir.parent()].into_iter().flatten() {
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
    use std::os::unix::fs::{chown, symlink};
    use std::process::{Command, Stdio};

    #[test]
    fn a_directory_that_a_process_of_postgresql_works_in_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, program) = (dir.path().join("data"), dir.path().join("postgres"));
        fs::create_dir(&data_dir).unwrap();
        std::os::unix::fs::symlink("/bin/sh", &program).unwrap();
        let owner = Owner { uid: geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
        let target = Target { data_dir: data_dir.clone(), owner, side_dir: dir.path().join("side"), sockets: "/tmp".into(), occupied: true };
        assert!(target.refuse_running().is_ok());
        // It reads until its input ends; nothing names it in a postmaster.pid.
        let mut process = Command::new(&program).args(["-c", "read line"]).current_dir(&data_dir).stdin(Stdio::piped()).spawn().unwrap();
        let refused = target.prepare(Some(&dir.path().join("aside"))).unwrap_err();
        assert!(matches!(&refused, RestoreError::Target { why, .. } if why.contains(&process.id().to_string())), "{refused:?}");
        assert!(data_dir.exists(), "nothing was moved");
        drop(process.stdin.take());
        process.wait().unwrap();
        assert!(target.refuse_running().is_ok());
    }

    #[test]
    fn what_lies_beside_a_directory_lies_beside_it_however_it_is_written() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let main = home.join("main");
        fs::create_dir_all(main.join("global")).unwrap();
        fs::write(main.join("PG_VERSION"), "18").unwrap();
        std::os::unix::fs::symlink("main", home.join("link")).unwrap();
        for written in ["main", "main/", ".//main/./", "link", "link/"] {
            let target = Target::inspect(Path::new(&format!("{}/{written}", home.display()))).unwrap();
            assert_eq!((target.data_dir.as_os_str(), &target.side_dir), (main.as_os_str(), &home.join("main.bowline")), "{written}");
            let aside = target.place_aside("2026-11-22 14:05:00 UTC".parse().unwrap()).unwrap();
            assert_eq!(aside.parent(), Some(home.as_path()), "{written}");
            for name in ["main", "main/", "link", "link//"] {
                assert!(target.is_at(&home.join(name)), "{written} is {name}");
            }
            assert!(!target.is_at(&home.join("other")));
        }
        assert!(Target::inspect(&home.join("main/../main")).is_err());
    }

    #[test]
    fn a_link_stays_when_what_it_leads_to_is_moved_aside() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        fs::create_dir_all(home.join("disk/pg/global")).unwrap();
        std::os::unix::fs::symlink("disk/pg", home.join("data")).unwrap();
        let target = Target::inspect(&home.join("data")).unwrap();
        let aside = target.place_aside("2026-11-22 14:05:00 UTC".parse().unwrap()).unwrap();
        fs::rename(home.join("disk/pg"), &aside).unwrap();
        // A second run in the middle of it finds the same places, whoever is away.
        let again = Target::inspect(&home.join("data")).unwrap();
        assert_eq!((&again.data_dir, &again.side_dir), (&target.data_dir, &target.side_dir));
        assert!(!again.is_occupied() && again.is_at(&home.join("data")) && aside.starts_with(home.join("disk")));
    }

    #[test]
    fn folders_on_the_way_are_open_to_the_servers_user_and_others_stay_as_they_are() {
        let home = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        fs::create_dir(home.path().join("old")).unwrap();
        fs::set_permissions(home.path().join("old"), fs::Permissions::from_mode(0o750)).unwrap();
        make_parents(&home.path().join("old/a/b/main")).unwrap();
        assert!(!home.path().join("old/a/b/main").exists());
        assert_eq!(["old", "old/a", "old/a/b"].map(|name| mode(&home.path().join(name))), [0o750, 0o755, 0o755]);
    }

    /// Of a cluster that belongs to whoever runs this.
    fn target(dir: &Path) -> Target {
        let owner = Owner { uid: geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
        let side_dir = dir.join("data.bowline");
        Target { data_dir: dir.join("data"), owner, side_dir, sockets: "/tmp".into(), occupied: false }
    }

    #[test]
    fn whose_a_cluster_is_outlives_a_kill_between_its_going_aside_and_the_new_directory() {
        // Only root restores for somebody else.
        if !geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, side_dir) = (dir.path().join("data"), dir.path().join("data.bowline"));
        fs::create_dir(&side_dir).unwrap();
        chown(&side_dir, Some(65_534), Some(65_534)).unwrap();
        assert_eq!(Target::inspect(&data_dir).unwrap().owner.uid, 65_534, "nothing is there");
        fs::create_dir(&data_dir).unwrap();
        assert_eq!(Target::inspect(&data_dir).unwrap().owner.uid, 65_534, "it is root's still");
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
    fn a_directory_is_the_owners_by_what_it_is_and_not_by_what_a_link_of_his_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let (target, place, elsewhere) = (target(dir.path()), dir.path().join("place"), dir.path().join("elsewhere"));
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, &place).unwrap();
        let refused = target.own_dir(&place, false).unwrap_err();
        assert!(matches!(&refused, RestoreError::Target { path, .. } if *path == place), "{refused}");
        target.own_dir(&place, true).unwrap();
        symlink(&elsewhere, &target.data_dir).unwrap();
        target.prepare(None).unwrap_err();
        if geteuid().is_root() {
            // Of nobody's: what is root's behind his link is not given to him, and what is somebody else's not in any case.
            let nobodys = Target { owner: Owner { uid: 65_534, gid: 65_534 }, ..target };
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
            nobodys.own_dir(&place, true).unwrap_err();
            assert_eq!(fs::metadata(&elsewhere).unwrap().uid(), 0);
            // Where only root lays links, it is his word that this is the place.
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
            nobodys.own_dir(&place, true).unwrap();
            chown(&elsewhere, Some(0), None).unwrap();
            nobodys.own_dir(&elsewhere, false).unwrap();
            assert_eq!(fs::metadata(&elsewhere).unwrap().uid(), 65_534);
            nobodys.own_dir(&place, true).unwrap();
            chown(&elsewhere, Some(65_533), None).unwrap();
            nobodys.own_dir(&elsewhere, false).unwrap_err();
        }
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
