//! To which objects the recovered database refers, kept beside the journal until the packages are back: once the server serves, it would
//! answer for another instant.

use crate::RescueError;
use crate::journal::{Journal, read_own, remove, replace};
use restore::Target;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Each key, with its size in bytes where that is told.
pub(crate) type Rows = Vec<(String, Option<u64>)>;

#[derive(Serialize, Deserialize)]
struct Kept {
    /// Of the restore that asked.
    id: String,
    rows: Rows,
}

fn path(target: &Target) -> PathBuf {
    target.side_dir.join("references.json")
}

/// Written before the stage is reached behind which nobody asks again.
pub(crate) fn keep(target: &Target, journal: &Journal, rows: &Rows) -> Result<(), RescueError> {
    let kept = Kept { id: journal.id.clone(), rows: rows.clone() };
    replace(&path(target), &serde_json::to_vec(&kept).map_err(|e| RescueError::Bug(e.to_string()))?)
}

/// What an earlier run of this very restore was told; none where it was told nothing.
pub(crate) fn kept(target: &Target, journal: &Journal) -> Result<Option<Rows>, RescueError> {
    let path = path(target);
    let Some(bytes) = read_own(&path)? else { return Ok(None) };
    let kept: Kept = serde_json::from_slice(&bytes).map_err(|e| RescueError::Journal { path, why: e.to_string() })?;
    Ok((kept.id == journal.id).then_some(kept.rows))
}

/// Nobody asks for it any more.
pub(crate) fn forget(target: &Target) -> Result<(), RescueError> {
    remove(&path(target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use terms::{Clock, SystemClock};

    #[test]
    fn what_one_restore_was_told_is_nothing_to_another() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::inspect(&dir.path().join("data")).unwrap();
        target.make_side_dir().unwrap();
        let wish = restore::Wish { target: "latest".parse().unwrap(), timeline: None, backup: None };
        let mut journal = Journal::new(&target, &wish, SystemClock.now());
        assert_eq!(kept(&target, &journal).unwrap(), None);
        let rows = vec![("a/b".to_owned(), Some(5)), ("c".to_owned(), None)];
        keep(&target, &journal, &rows).unwrap();
        assert_eq!(kept(&target, &journal).unwrap(), Some(rows));
        journal.id.push('x');
        assert_eq!(kept(&target, &journal).unwrap(), None);
        forget(&target).unwrap();
        forget(&target).unwrap();
        assert!(!path(&target).exists());
    }
}
