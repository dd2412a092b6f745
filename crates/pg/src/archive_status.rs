//! What the server's archiver has still to hand over: the `.ready` files of `pg_wal/archive_status`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use terms::WalName;

fn ready(wal_dir: &Path, name: &str) -> PathBuf {
    wal_dir.join("archive_status").join(format!("{name}.ready"))
}

/// The WAL files that wait for `archive_command`, in the order in which the archiver takes them: histories first, the
/// others by name (`ready_file_comparator`, src/backend/postmaster/pgarch.c). A file that was marked is complete: the
/// server neither writes nor recycles it until it is marked `.done`.
pub fn waiting_for_archive(wal_dir: &Path) -> io::Result<Vec<WalName>> {
    let mut names = Vec::new();
    for item in fs::read_dir(wal_dir.join("archive_status"))? {
        let file = item?.file_name();
        let Some(name) = file.to_str().and_then(|f| f.strip_suffix(".ready")) else { continue };
        if let Ok(name) = name.parse::<WalName>() {
            names.push(name);
        }
    }
    names.sort_by_cached_key(|name| (!matches!(name, WalName::History(_)), name.to_string()));
    Ok(names)
}

/// Whether this file still waits.
pub fn waits_for_archive(wal_dir: &Path, name: &WalName) -> bool {
    ready(wal_dir, &name.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_come_first_and_what_is_done_or_no_wal_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let status = dir.path().join("archive_status");
        fs::create_dir(&status).unwrap();
        let marks = ["000000010000000000000002.ready", "000000010000000000000001.ready", "000000010000000000000000.done", "00000002.history.ready"];
        for name in marks.into_iter().chain(["junk.ready", "000000010000000000000001.00000028.backup.ready"]) {
            fs::write(status.join(name), "").unwrap();
        }
        let names: Vec<String> = waiting_for_archive(dir.path()).unwrap().iter().map(WalName::to_string).collect();
        let wanted = ["00000002.history", "000000010000000000000001", "000000010000000000000001.00000028.backup", "000000010000000000000002"];
        assert_eq!(names, wanted);
        assert!(waits_for_archive(dir.path(), &"00000002.history".parse().unwrap()));
        assert!(!waits_for_archive(dir.path(), &"000000010000000000000000".parse().unwrap()));
    }
}
