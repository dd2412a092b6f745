//! Paths as a manifest spells them, and proof that they stay where they are put; the target as somebody names it.

use crate::RestoreError;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// A path of the manifest as bytes: `%XX` decoded.
pub(crate) fn decode(text: &str) -> Result<PathBuf, RestoreError> {
    let wrong = || RestoreError::Path { path: text.to_owned() };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = tail.get(..2).and_then(|d| std::str::from_utf8(d).ok()).ok_or_else(wrong)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
        rest = &tail[2..];
    }
    if bytes.contains(&0) { Err(wrong()) } else { Ok(std::ffi::OsString::from_vec(bytes).into()) }
}

/// A path that stays below where it is put.
pub(crate) fn inside(text: &str) -> Result<PathBuf, RestoreError> {
    let path = decode(text)?;
    if stays_inside(&path) { Ok(path) } else { Err(RestoreError::Path { path: text.to_owned() }) }
}

pub(crate) fn stays_inside(path: &Path) -> bool {
    // `components` passes over "." and "//": what it makes of the path must be the path.
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    plain && !path.as_os_str().is_empty() && path.components().collect::<PathBuf>().as_os_str() == path.as_os_str()
}

/// A directory as somebody names it, so that a name beside it is made by adding to it: no slash at its end and none twice. `None` for what
/// is not absolute, names nothing, or goes up, which behind a link leads elsewhere than it reads.
pub(crate) fn plain(path: &Path) -> Option<PathBuf> {
    let is_plain = path.is_absolute() && path.file_name().is_some() && path.components().all(|part| part != Component::ParentDir);
    is_plain.then(|| path.components().collect())
}

/// Where a directory lies by its own name. Links at its end are followed even where nothing is at the end of them, as in the middle of a
/// restore that has moved the old data aside.
pub(crate) fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    // As many as the kernel follows (path_resolution(7)).
    for _ in 0..40 {
        let Ok(to) = fs::read_link(&path) else { return Ok(path) };
        let to = path.parent().unwrap_or(Path::new("/")).join(to);
        path = match (to.parent(), to.file_name()) {
            (Some(parent), Some(name)) => fs::canonicalize(parent)?.join(name),
            _ => fs::canonicalize(&to)?,
        };
    }
    Err(nix::errno::Errno::ELOOP.into())
}

/// The one name of a directory that may be named in several ways, whether or not it is there.
pub(crate) fn real(path: &Path) -> PathBuf {
    let path = plain(path).and_then(|plain| followed(&plain).ok()).unwrap_or_else(|| path.to_owned());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return path };
    fs::canonicalize(parent).map_or_else(|_| path.clone(), |parent| parent.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_no_slash_at_its_end_and_goes_nowhere_but_down() {
        for written in ["/srv/pg/main", "/srv/pg/main/", "/srv//pg/./main/.", "//srv/pg/main//"] {
            assert_eq!(plain(Path::new(written)).unwrap().as_os_str(), "/srv/pg/main", "{written}");
        }
        for bad in ["", "/", "main", "./main", "/srv/pg/..", "/srv/../pg"] {
            assert_eq!(plain(Path::new(bad)), None, "{bad}");
        }
    }

    #[test]
    fn a_link_is_followed_to_what_it_leads_to_even_while_that_is_away() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        fs::create_dir(home.join("disk")).unwrap();
        std::os::unix::fs::symlink("disk/pg", home.join("one")).unwrap();
        std::os::unix::fs::symlink(home.join("one"), home.join("two")).unwrap();
        std::os::unix::fs::symlink("round", home.join("round")).unwrap();
        for link in ["one", "two"] {
            assert_eq!(followed(&home.join(link)).unwrap(), home.join("disk/pg"), "{link}");
        }
        assert_eq!(followed(&home.join("new")).unwrap(), home.join("new"));
        assert!(followed(&home.join("round")).is_err());
        assert_eq!(real(&home.join("two/")), real(&home.join("disk/./pg")));
    }

    #[test]
    fn a_path_that_leads_out_of_the_data_directory_is_refused() {
        for bad in ["", "/etc/passwd", "../x", "base/../../x", "./x", "%2e%2e/x", "%2Fetc/passwd", "a%00b", "a%", "a%4", "a%zz"] {
            assert!(inside(bad).is_err(), "{bad:?}");
        }
        assert_eq!(inside("base/5/1259").unwrap(), Path::new("base/5/1259"));
        assert_eq!(inside("100%25").unwrap(), Path::new("100%"));
    }
}
