//! Finds PostgreSQL's programs of a major version and runs them with a clean environment as the right user.

use crate::instance_error::InstanceError;
use nix::errno::Errno;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist, setgid, setgroups, setuid};
use std::ffi::CString;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The user and group that a data directory belongs to, and as whom its server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
}

/// Where the programs of PostgreSQL `major` are: the configured directory, then those of `$PATH`, then where packages
/// put them. A directory counts when its `postgres --version` says that major.
pub fn find_bin_dir(major: u32, configured: Option<&Path>) -> Result<PathBuf, InstanceError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = configured.map(Path::to_owned).into_iter().chain(std::env::split_paths(&path)).collect();
    for packaged in [
        format!("/usr/lib/postgresql/{major}/bin"), // Debian, Ubuntu
        format!("/usr/pgsql-{major}/bin"),          // the project's RPMs
        format!("/usr/lib/postgresql{major}/bin"),  // SUSE, Alpine's older packages
        format!("/usr/libexec/postgresql{major}"),  // Alpine
        format!("/usr/local/pgsql-{major}/bin"),
        "/usr/local/pgsql/bin".to_owned(),
        format!("/opt/postgresql/{major}/bin"),
        format!("/opt/PostgreSQL/{major}/bin"), // EDB's installer
        format!("/opt/pgsql-{major}/bin"),
    ] {
        places.push(packaged.into());
    }
    let mut looked = Vec::new();
    for place in places {
        // An empty entry of $PATH means the current directory, from which nobody should run a server.
        if !place.is_absolute() || looked.iter().any(|(seen, _)| *seen == place) {
            continue;
        }
        match major_in(&place) {
            Ok(found) if found == major => return Ok(place),
            Ok(found) => looked.push((place, format!(" (PostgreSQL {found})"))),
            Err(why) => looked.push((place, why)),
        }
    }
    let looked = looked.into_iter().map(|(place, note)| format!("{}{note}", place.display())).collect();
    Err(InstanceError::ProgramsMissing { major, looked })
}

/// The release of the `postgres` in this directory, such as `18.4`, when it is an earlier minor release than that of a server which
/// told `version` of itself (`server_version`, such as `18.6 (Debian 18.6-1)`); `None` too when either cannot be told.
pub fn older_minor_in(bin_dir: &Path, version: &str) -> Option<String> {
    older_minor(&said_by(bin_dir).ok()?, version)
}

/// The owner of a data directory.
pub fn owner_of(data_dir: &Path) -> Result<Owner, InstanceError> {
    match std::fs::metadata(data_dir) {
        Ok(meta) => Ok(Owner { uid: meta.uid(), gid: meta.gid() }),
        Err(why) => Err(InstanceError::Io { doing: "look at", path: data_dir.to_owned(), why }),
    }
}

/// Opens a file to append to that lies in a folder of the owner's, and makes it his, so that he can go on with what root began. Through a link
/// of his, or another name of the same file, root would write elsewhere: that is refused, and so is a pipe, which would be waited for.
pub fn append_as_owners(path: &Path, owner: Owner) -> std::io::Result<File> {
    let file = File::options().create(true).append(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path)?;
    let there = file.metadata()?;
    if !there.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    if geteuid().is_root() && there.uid() != owner.uid {
        if there.nlink() != 1 {
            return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, "it is somebody else's file under a second name"));
        }
        fchown(&file, Some(owner.uid), Some(owner.gid))?;
    }
    Ok(file)
}

/// Refuses a program that the server is to call and that its user cannot run, such as one below a folder of root's alone: it would only show when
/// the server first needs it.
pub fn refuse_unreachable(program: &Path, owner: Owner) -> Result<(), InstanceError> {
    let unreachable = |why: String| InstanceError::Unreachable { program: program.to_owned(), uid: owner.uid, why };
    let mut asked = command(program, owner, Path::new("/"))?;
    match asked.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(unreachable(format!("It ended with {status}"))),
        Err(why) => Err(unreachable(why.to_string())),
    }
}

/// A program with an environment that says nothing of other servers, run as `owner`. Only root can become another user.
pub(crate) fn command(program: &Path, owner: Owner, data_dir: &Path) -> Result<Command, InstanceError> {
    if owner.uid == 0 {
        return Err(InstanceError::OwnedByRoot { data_dir: data_dir.to_owned() });
    }
    let mut command = Command::new(program);
    command.env_clear();
    for key in ["PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(key) {
            command.env(key, value);
        }
    }
    if geteuid().is_root() {
        become_owner(&mut command, owner);
    }
    command.stdin(Stdio::null()).current_dir(data_dir);
    Ok(command)
}

/// As std does it by `uid` and `gid`, but with the groups that a login of this user has: one of them may be what opens the TLS key
/// (Debian's root:ssl-cert, mode 0640), and std leaves the process none.
fn become_owner(command: &mut Command, owner: Owner) {
    let (uid, gid, groups) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid), groups_of(owner));
    let change = move || -> std::io::Result<()> {
        match setgroups(&groups) {
            // Root without this right, as in a container, has no other groups to lose either.
            Ok(()) | Err(Errno::EPERM) => {}
            Err(why) => return Err(why.into()),
        }
        setgid(gid)?;
        setuid(uid)?;
        Ok(())
    };
    // SAFETY: between fork and exec only three system calls are made; the list of groups was made before, and nothing is allocated.
    unsafe { command.pre_exec(change) };
}

/// The groups of a user by this host's records; the given one alone where the user has no name.
fn groups_of(owner: Owner) -> Vec<Gid> {
    let gid = Gid::from_raw(owner.gid);
    let named = User::from_uid(Uid::from_raw(owner.uid)).ok().flatten().and_then(|user| Some((CString::new(user.name).ok()?, user.gid)));
    let Some((name, own)) = named else { return vec![gid] };
    let mut groups = getgrouplist(&name, gid).unwrap_or_else(|_| vec![gid]);
    if !groups.contains(&own) {
        groups.push(own);
    }
    groups
}

/// The major version of the `postgres` in a directory; an error says in parentheses why there is none.
fn major_in(dir: &Path) -> Result<u32, String> {
    let said = said_by(dir)?;
    parse_version(&said).ok_or_else(|| format!(" (postgres --version says {:?})", said.trim()))
}

/// What `postgres --version` says in a directory.
fn said_by(dir: &Path) -> Result<String, String> {
    let program = dir.join("postgres");
    if !program.exists() {
        return Err(String::new());
    }
    let said = Command::new(&program).arg("--version").stdin(Stdio::null()).output().map_err(|e| format!(" ({e})"))?;
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// `postgres (PostgreSQL) 17.6 (Debian 17.6-1)`, or `18beta1` before a release.
fn parse_version(said: &str) -> Option<u32> {
    let number = said.split_once("(PostgreSQL) ")?.1;
    let digits = number.find(|c: char| !c.is_ascii_digit()).map_or(number, |end| &number[..end]);
    digits.parse().ok()
}

/// See [`older_minor_in`]; `said` is what `postgres --version` says.
fn older_minor(said: &str, version: &str) -> Option<String> {
    let (major, minor) = parse_release(said.split_once("(PostgreSQL) ")?.1)?;
    let of_server = parse_release(version)?;
    (major == of_server.0 && minor < of_server.1).then(|| format!("{major}.{minor}"))
}

/// Major and minor of `17.6 (Debian 17.6-1)`; `None` for what is no release, such as `18beta1`.
fn parse_release(version: &str) -> Option<(u32, u32)> {
    let number = version.split_whitespace().next()?;
    let (major, minor) = number.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use terms::Explain;

    #[test]
    fn a_major_is_read_from_what_postgres_says() {
        for (said, major) in [("postgres (PostgreSQL) 17.6 (Debian 17.6-1)\n", 17), ("postgres (PostgreSQL) 18beta1", 18)] {
            assert_eq!(parse_version(said), Some(major));
        }
        assert_eq!(parse_version("bash: no"), None);
    }

    #[test]
    fn an_earlier_minor_release_is_told_by_number() {
        let said = "postgres (PostgreSQL) 17.9 (Debian 17.9-1)\n";
        assert_eq!(older_minor(said, "17.10 (Debian 17.10-1)").as_deref(), Some("17.9"));
        for same_or_unknown in ["17.9", "17.8 (Ubuntu)", "18.10", "18beta1", ""] {
            assert_eq!(older_minor(said, same_or_unknown), None, "{same_or_unknown}");
        }
    }

    #[test]
    fn a_missing_major_is_answered_with_the_places_and_the_package() {
        let error = find_bin_dir(3, Some(Path::new("/nowhere/bin"))).unwrap_err();
        assert!(error.detail().contains("/nowhere/bin") && error.detail().contains("/usr/lib/postgresql/3/bin"));
        assert!(error.hint().contains("apt-get install postgresql-3"));
    }

    /// A user of this host who is in more groups than one, where there is one.
    fn member() -> Option<User> {
        let groups = std::fs::read_to_string("/etc/group").ok()?;
        let names = groups.lines().filter_map(|line| line.rsplit_once(':')).flat_map(|(_, members)| members.split(','));
        names.filter_map(|name| User::from_name(name).ok().flatten()).find(|user| !user.uid.is_root())
    }

    #[test]
    fn a_program_has_all_the_groups_of_the_servers_user() {
        // Only root becomes somebody else; a host on which nobody is in a second group shows nothing.
        let Some(user) = member().filter(|_| geteuid().is_root()) else { return };
        let groups = |output: std::process::Output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.split_whitespace().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
        };
        let wanted = groups(Command::new("id").args(["-G", &user.name]).output().unwrap());
        let owner = Owner { uid: user.uid.as_raw(), gid: user.gid.as_raw() };
        let mut asked = command(Path::new("/usr/bin/id"), owner, Path::new("/")).unwrap();
        assert_eq!(groups(asked.arg("-G").output().unwrap()), wanted, "{}", user.name);
        let mut asked = command(Path::new("/usr/bin/id"), owner, Path::new("/")).unwrap();
        assert_eq!(String::from_utf8_lossy(&asked.arg("-u").output().unwrap().stdout).trim(), user.uid.to_string());
    }

    #[test]
    fn what_root_appends_to_is_the_owners_who_goes_on_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("recovery.log"), dir.path().join("link"));
        // Only root can give a file to somebody else.
        let owner = if geteuid().is_root() { Owner { uid: 65_534, gid: 65_534 } } else { owner_of(dir.path()).unwrap() };
        for _ in 0..2 {
            append_as_owners(&path, owner).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().uid(), owner.uid);
        }
        std::os::unix::fs::symlink(&path, &link).unwrap();
        append_as_owners(&link, owner).unwrap_err();
        if geteuid().is_root() {
            let (other, second) = (dir.path().join("other"), dir.path().join("second"));
            std::fs::write(&other, "").unwrap();
            std::fs::hard_link(&other, &second).unwrap();
            append_as_owners(&second, owner).unwrap_err();
            assert_eq!(std::fs::metadata(&other).unwrap().uid(), 0, "somebody else's file under another name");
        }
    }

    #[test]
    fn a_program_that_the_servers_user_cannot_run_is_refused_by_name() {
        let nobody = Owner { uid: 65534, gid: 65534 };
        if !geteuid().is_root() {
            return;
        }
        refuse_unreachable(Path::new("/bin/true"), nobody).unwrap();
        let home = tempfile::tempdir().unwrap();
        std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let hidden = home.path().join("bowline");
        std::fs::copy("/bin/true", &hidden).unwrap();
        let error = refuse_unreachable(&hidden, nobody).unwrap_err();
        assert!(error.to_string().contains("bowline") && error.hint().contains("/usr/local/bin"), "{error}");
        assert!(refuse_unreachable(Path::new("/bin/false"), nobody).is_err());
    }

    #[test]
    fn nothing_runs_as_root() {
        let root = Owner { uid: 0, gid: 0 };
        assert!(matches!(command(Path::new("/bin/true"), root, Path::new("/")), Err(InstanceError::OwnedByRoot { .. })));
    }
}
