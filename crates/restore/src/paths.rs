//! Paths as a manifest spells them, and proof that they stay where they are put.

use crate::RestoreError;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leads_out_of_the_data_directory_is_refused() {
        for bad in ["", "/etc/passwd", "../x", "base/../../x", "./x", "%2e%2e/x", "%2Fetc/passwd", "a%00b", "a%", "a%4", "a%zz"] {
            assert!(inside(bad).is_err(), "{bad:?}");
        }
        assert_eq!(inside("base/5/1259").unwrap(), Path::new("base/5/1259"));
        assert_eq!(inside("100%25").unwrap(), Path::new("100%"));
    }
}
