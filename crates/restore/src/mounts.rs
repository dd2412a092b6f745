//! Where file systems are mounted: such a directory cannot be renamed, and goes along with one above it that is.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Whether a file system is mounted here.
pub(crate) fn is_mount_point(path: &Path) -> bool {
    fs::canonicalize(path).is_ok_and(|path| mounts().contains(&path))
}

/// What is mounted anywhere in this directory, but not on itself.
pub(crate) fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let Ok(path) = fs::canonicalize(path) else { return Vec::new() };
    below(mounts(), &path)
}

fn below(mounts: Vec<PathBuf>, path: &Path) -> Vec<PathBuf> {
    mounts.into_iter().filter(|mount| mount != path && mount.starts_with(path)).collect()
}

fn mounts() -> Vec<PathBuf> {
    listed_in(&fs::read("/proc/self/mountinfo").unwrap_or_default())
}

/// The fifth column of /proc/self/mountinfo (proc(5)), in which blanks and backslashes are octal.
fn listed_in(mountinfo: &[u8]) -> Vec<PathBuf> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescaped).collect()
}

fn unescaped(mut text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    while let [first, rest @ ..] = text {
        let code = rest.get(..3).filter(|_| *first == b'\\').and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        text = if code.is_some() { &rest[3..] } else { rest };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_of_its_own_below_a_directory_is_found_and_one_beside_it_is_not() {
        let text = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            40 22 8:17 / /srv/pg\\040data rw,relatime shared:1 - ext4 /dev/sdb1 rw\n\
            41 40 8:33 / /srv/pg\\040data/main/pg_wal rw - xfs /dev/sdc1 rw\n\
            42 40 8:49 / /srv/pg\\040data/main.before-x rw - xfs /dev/sdd1 rw\n";
        let found = listed_in(text);
        assert_eq!((found.len(), &found[1]), (4, &PathBuf::from("/srv/pg data")));
        let of = |path: &str| below(found.clone(), Path::new(path));
        assert_eq!(of("/srv/pg data/main"), [PathBuf::from("/srv/pg data/main/pg_wal")]);
        assert_eq!(of("/srv/pg data").len(), 2);
        assert!(of("/srv/pg data/main/pg_wal").is_empty());
    }
}
