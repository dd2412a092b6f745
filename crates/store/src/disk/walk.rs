//! Walks a tree of files in the order of their paths' bytes, holding one folder's names at a time on each level.

use super::files::{LOCK, TEMPORARY, Tree, info};
use crate::address::folder_prefix;
use crate::{ObjectInfo, ObjectPath, StoreError};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Gives every object below `folder` after `after` to `give`, until that answers false.
pub(super) fn objects(
    tree: &Tree,
    folder: &str,
    after: Option<&ObjectPath>,
    give: &mut dyn FnMut(Result<ObjectInfo, StoreError>) -> bool,
) -> Result<(), StoreError> {
    let prefix = folder_prefix(folder);
    let mut walk = Walk { tree, after: after.map(ObjectPath::as_str), give };
    walk.folder(&prefix, true).map(|_| ())
}

/// The names of the folders directly below `folder` that hold an object, sorted.
pub(super) fn folders(tree: &Tree, folder: &str) -> Result<Vec<String>, StoreError> {
    let prefix = folder_prefix(folder);
    let mut names = Vec::new();
    for entry in entries(tree, &prefix, true)? {
        let below = entry.sort_key;
        // A folder that a crash left empty is none: a bucket would not show it either.
        if entry.is_folder && holds_object(tree, &format!("{prefix}{below}"))? {
            names.push(below.trim_end_matches('/').to_owned());
        }
    }
    names.sort();
    Ok(names)
}

struct Walk<'a> {
    tree: &'a Tree,
    after: Option<&'a str>,
    give: &'a mut dyn FnMut(Result<ObjectInfo, StoreError>) -> bool,
}

impl Walk<'_> {
    /// Whether to go on.
    fn folder(&mut self, prefix: &str, is_top: bool) -> Result<bool, StoreError> {
        for entry in entries(self.tree, prefix, is_top)? {
            let path = format!("{prefix}{}", entry.sort_key);
            if let Some(after) = self.after {
                let may_hold_later = entry.is_folder && after.starts_with(&path);
                if path.as_str() <= after && !may_hold_later {
                    continue;
                }
            }
            let go_on = match entry.is_folder {
                true => self.folder(&path, false)?,
                false => self.file(path)?,
            };
            if !go_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn file(&mut self, path: String) -> Result<bool, StoreError> {
        let place = self.tree.root().join(&path);
        let Ok(object) = ObjectPath::new(path.as_str()) else { return Ok(true) };
        match fs::symlink_metadata(place) {
            Ok(found) => Ok((self.give)(Ok(info(object, &found)))),
            // Removed since its folder was read.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(self.tree.fail("list", path, &error)),
        }
    }
}

struct Entry {
    /// The name, with a `/` behind a folder's: `a-b` comes before what is in `a/`, as in the order of whole paths.
    sort_key: String,
    is_folder: bool,
}

/// What is in a folder, sorted; nothing when the folder is not there but the store is.
fn entries(tree: &Tree, prefix: &str, is_top: bool) -> Result<Vec<Entry>, StoreError> {
    let place = tree.root().join(prefix);
    let shown = if prefix.is_empty() { "the folder itself" } else { prefix };
    let result = read_entries(&place);
    let mut found = match result {
        Ok(found) => found,
        Err(error) => match tree.fail("list", shown, &error) {
            // A folder that is not there holds nothing; one removed during the walk no longer does.
            StoreError::Missing { .. } => Vec::new(),
            other => return Err(other),
        },
    };
    if is_top && prefix.is_empty() {
        found.retain(|entry| entry.sort_key != "lost+found/");
    }
    found.sort_by(|a, b| a.sort_key.cmp(&b.sort_key));
    Ok(found)
}

fn read_entries(place: &Path) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        let name = entry.file_name();
        // What cannot be an object's name was not written by Bowline.
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(TEMPORARY) || name.starts_with(LOCK) || ObjectPath::new(name).is_err() {
            continue;
        }
        let kind = match entry.file_type() {
            Ok(kind) => kind,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        match (kind.is_dir(), kind.is_file()) {
            (true, _) => found.push(Entry { sort_key: format!("{name}/"), is_folder: true }),
            (_, true) => found.push(Entry { sort_key: name.to_owned(), is_folder: false }),
            _ => {}
        }
    }
    Ok(found)
}

fn holds_object(tree: &Tree, prefix: &str) -> Result<bool, StoreError> {
    let found = entries(tree, prefix, false)?;
    if found.iter().any(|entry| !entry.is_folder) {
        return Ok(true);
    }
    for entry in found {
        if holds_object(tree, &format!("{prefix}{}", entry.sort_key))? {
            return Ok(true);
        }
    }
    Ok(false)
}
