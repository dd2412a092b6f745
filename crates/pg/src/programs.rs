//! Finds PostgreSQL's programs of a major version and runs them with a clean environment as the right user.

use crate::instance_error::InstanceError;
use std::os::unix::fs::MetadataExt;
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

/// A program with an environment that says nothing of other servers, run as `owner`. Only root can become another
/// user; std then drops root's supplementary groups.
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
    if nix::unistd::geteuid().is_root() {
        command.uid(owner.uid).gid(owner.gid);
    }
    command.stdin(Stdio::null()).current_dir(data_dir);
    Ok(command)
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

    #[test]
    fn nothing_runs_as_root() {
        let root = Owner { uid: 0, gid: 0 };
        assert!(matches!(command(Path::new("/bin/true"), root, Path::new("/")), Err(InstanceError::OwnedByRoot { .. })));
    }
}
