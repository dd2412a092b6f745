//! What a base backup copies of a data directory, by path, as PostgreSQL's own base backup decides it.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What becomes of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Copy it; of a directory, go on to what is in it.
    Copy,
    /// Make the directory anew, with its owner and mode, and copy nothing of what is in it. It may be a symbolic link
    /// on the server (`pg_wal` often is): it becomes a plain directory. The server makes the directories inside `pg_wal`
    /// when it starts (`ValidateXLOGDirectoryStructure`, src/backend/access/transam/xlog.c).
    CopyEmptyDir,
    /// Leave it out with all that is in it.
    Skip,
}

/// What the name of a directory begins with in which a restore keeps the cluster before it, where that cannot lie beside the data directory.
pub const BEFORE: &str = "bowline-before-";

/// The part of a relation that a file holds (`ForkNumber`, src/include/common/relpath.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fork {
    /// The rows.
    Main,
    /// The free space map.
    Fsm,
    /// The visibility map.
    Vm,
    /// The empty form of an unlogged relation, from which recovery makes the others.
    Init,
}

/// A file of a relation, from its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationFile {
    /// The tablespace: `None` for `base` and `global`.
    pub tablespace: Option<u32>,
    /// The database: `None` for the shared relations in `global`.
    pub database: Option<u32>,
    /// The relation's file number.
    pub number: u32,
    /// Which part of it.
    pub fork: Fork,
    /// Which file of a part that is larger than 1 GiB, from 0; the first page's block number is this times the
    /// blocks in a segment (`ControlFile::relation_segment_blocks`).
    pub segment: u32,
    /// A temporary relation of one session.
    pub is_temp: bool,
}

/// Judges a path relative to the data directory. The path leads through `pg_tblspc/{oid}` into tablespaces, of which
/// only `version_dir` (`ControlFile::tablespace_dir`) belongs to this cluster.
///
/// The rules are those of `sendDir`, `excludeDirContents` and `excludeFiles` (src/backend/backup/basebackup.c, the same
/// in 15 to 18), with one difference: PostgreSQL compares bare names at every depth, here only the places count where
/// it makes such files, so that a directory of the user's own that happens to bear such a name is copied. Files that
/// start a recovery are left out as well: they belong to the server's past, and a restore writes its own. Unlogged
/// relations need a look at their neighbour: see [`init_fork_of`].
pub fn judge(path: &Path, version_dir: &str) -> Verdict {
    let parts: Vec<&[u8]> = path.iter().map(OsStrExt::as_bytes).collect();
    // Temporary files and macOS's are known by their names wherever they are.
    if parts.iter().any(|name| name.starts_with(b"pgsql_tmp") || *name == b".DS_Store") {
        return Verdict::Skip;
    }
    match parts.as_slice() {
        [dir] if is_one_of(dir, EMPTY_DIRS) => Verdict::CopyEmptyDir,
        [dir, ..] if is_one_of(dir, EMPTY_DIRS) => Verdict::Skip,
        [b"pg_wal"] | [b"pg_wal", b"archive_status" | b"summaries"] => Verdict::CopyEmptyDir,
        [b"pg_wal", ..] => Verdict::Skip,
        // What a restore kept of the cluster before it, inside a mount point.
        [dir, ..] if dir.starts_with(BEFORE.as_bytes()) => Verdict::Skip,
        [file] if is_one_of(file, SKIPPED_FILES) || file.starts_with(b"pg_internal.init") => Verdict::Skip,
        [b"pg_tblspc", _, dir, ..] if *dir != version_dir.as_bytes() => Verdict::Skip,
        // The relation cache is made again on start; its names have a number added while they are written.
        [.., file] if in_relation_dir(&parts) && file.starts_with(b"pg_internal.init") => Verdict::Skip,
        _ if relation_file(path).is_some_and(|file| file.is_temp) => Verdict::Skip,
        _ => Verdict::Copy,
    }
}

/// What relation a file belongs to, if its path is one of a relation (`parse_filename_for_nontemp_relation`,
/// src/backend/storage/file/reinit.c; `looks_like_temp_rel_name`, src/backend/storage/file/fd.c).
/// These files, and no others, are made of pages with checksums.
pub fn relation_file(path: &Path) -> Option<RelationFile> {
    let parts: Vec<&[u8]> = path.iter().map(OsStrExt::as_bytes).collect();
    let (tablespace, database) = match parts.as_slice() {
        [b"global", _] => (None, None),
        [b"base", database, _] => (None, Some(number(database)?)),
        [b"pg_tblspc", oid, dir, database, _] if is_version_dir(dir) => (Some(number(oid)?), Some(number(database)?)),
        _ => return None,
    };
    let name = std::str::from_utf8(parts.last()?).ok()?;
    // Shared relations are never temporary.
    let temp = name.strip_prefix('t').filter(|_| database.is_some());
    let name = match temp {
        Some(rest) => rest.split_once('_').filter(|(backend, _)| is_digits(backend))?.1,
        None => name,
    };
    let (name, segment) = match name.split_once('.') {
        Some((name, segment)) => (name, number(segment.as_bytes()).filter(|&s| s != 0)?),
        None => (name, 0),
    };
    let (digits, fork) = match name.split_once('_') {
        None => (name, Fork::Main),
        Some((digits, "fsm")) => (digits, Fork::Fsm),
        Some((digits, "vm")) => (digits, Fork::Vm),
        Some((digits, "init")) => (digits, Fork::Init),
        Some(_) => return None,
    };
    let number = number(digits.as_bytes()).filter(|&n| n != 0)?;
    Some(RelationFile { tablespace, database, number, fork, segment, is_temp: temp.is_some() })
}

/// The init fork beside a relation's file: when it exists the relation is unlogged, and only the init fork is copied
/// (`sendDir`). `None` for what is no relation's file or already the init fork.
pub fn init_fork_of(path: &Path) -> Option<PathBuf> {
    let file = relation_file(path).filter(|file| file.fork != Fork::Init && !file.is_temp)?;
    Some(path.with_file_name(format!("{}_init", file.number)))
}

/// Emptied or made anew on every start (`excludeDirContents`).
const EMPTY_DIRS: &[&str] = &["pg_stat_tmp", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans"];

/// `excludeFiles`, then the files that start a recovery or are left of one.
const SKIPPED_FILES: &[&str] = &[
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_label",
    "tablespace_map",
    "backup_manifest",
    "postmaster.pid",
    "postmaster.opts",
    "backup_manifest.tmp",
    "backup_label.old",
    "tablespace_map.old",
    "recovery.signal",
    "standby.signal",
];

fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|n| n.as_bytes() == name)
}

fn in_relation_dir(parts: &[&[u8]]) -> bool {
    match parts {
        [b"global", _] => true,
        [b"base", database, _] => number(database).is_some(),
        [b"pg_tblspc", _, dir, database, _] => is_version_dir(dir) && number(database).is_some(),
        _ => false,
    }
}

/// `PG_{major}_{catalog version}`.
fn is_version_dir(name: &[u8]) -> bool {
    let text = std::str::from_utf8(name).ok().and_then(|n| n.strip_prefix("PG_")).and_then(|n| n.split_once('_'));
    text.is_some_and(|(major, catalog)| is_digits(major) && is_digits(catalog))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// An oid or another number as PostgreSQL prints it: digits without leading zeros.
fn number(text: &[u8]) -> Option<u32> {
    match text {
        [b'0'] => Some(0),
        [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIR: &str = "PG_17_202406281";

    fn verdicts(paths: &[&str], want: Verdict) {
        for path in paths {
            assert_eq!(judge(Path::new(path), DIR), want, "{path}");
        }
    }

    #[test]
    fn what_the_server_makes_anew_is_left_out() {
        verdicts(
            &[
                "postmaster.pid",
                "backup_label",
                "tablespace_map",
                "postgresql.auto.conf.tmp",
                "standby.signal",
                "recovery.signal",
                "backup_manifest",
                "pg_internal.init",
                "global/pg_internal.init",
                "base/5/pg_internal.init.4711",
                "pg_tblspc/16384/PG_17_202406281/5/pg_internal.init",
                "base/pgsql_tmp",
                "base/pgsql_tmp/pgsql_tmp12.0",
                "pg_tblspc/16384/PG_17_202406281/pgsql_tmp/x",
                "pg_replslot/a/state",
                "pg_wal/000000010000000000000001",
                "pg_wal/archive_status/x.ready",
                "pg_wal/summaries/x.summary",
                "base/5/t3_16500",
                "base/5/t3_16500_fsm.1",
                "pg_tblspc/16384/PG_16_202307071/5/16500",
                "pg_stat_tmp/global.stat",
                "base/.DS_Store",
            ],
            Verdict::Skip,
        );
        verdicts(
            &["pg_wal", "pg_wal/archive_status", "pg_wal/summaries", "pg_replslot", "pg_subtrans", "pg_stat_tmp", "pg_dynshmem"],
            Verdict::CopyEmptyDir,
        );
    }

    #[test]
    fn everything_else_is_copied_whatever_its_name() {
        verdicts(
            &[
                "",
                "PG_VERSION",
                "global",
                "global/pg_control",
                "global/1262",
                "base/5/16500",
                "base/5/16500_vm",
                "base/5/16500.1",
                "log",
                "log/postgresql.log",
                "pg_log",
                "postgresql.conf",
                "postgresql.auto.conf",
                "current_logfiles",
                "pg_xact/0000",
                "mine/pg_wal/x",
                "mine/postmaster.pid",
                "mine/backup_label",
                "mine/pg_replslot/x",
                "global/t3_16500",
                "t3_16500",
                "pg_tblspc",
                "pg_tblspc/16384",
                "pg_tblspc/16384/PG_17_202406281",
                "pg_tblspc/16384/PG_17_202406281/5/16500",
                "base/5/t3_16500_other",
                "base/mine/t3_16500",
                "pg_stat/pgstat.stat",
                "pg_twophase/00000001",
                "base/5/t3_16500.x",
            ],
            Verdict::Copy,
        );
    }

    #[test]
    fn a_relations_file_tells_its_place() {
        let file = |path: &str| relation_file(Path::new(path));
        let found = file("pg_tblspc/16384/PG_17_202406281/5/16500_fsm.12").unwrap();
        assert_eq!((found.tablespace, found.database, found.number), (Some(16384), Some(5), 16500));
        assert_eq!((found.fork, found.segment, found.is_temp), (Fork::Fsm, 12, false));
        assert_eq!(file("global/1262").unwrap().database, None);
        assert!(file("base/5/t12_16500_vm").unwrap().is_temp);
        for other in [
            "global/pg_control",
            "global/pg_filenode.map",
            "base/5/PG_VERSION",
            "base/5/0",
            "base/5/016500",
            "base/5/16500.0",
            "base/5/16500.",
            "base/5/16500_",
            "base/5/16500_main",
            "base/5/99999999999",
            "base/x/16500",
            "base/16500",
            "pg_tblspc/16384/other/5/16500",
            "pg_xact/0000",
            "base/5/16500.1.1",
            "base/5/t_16500",
            "base/5/t1_",
        ] {
            assert_eq!(file(other), None, "{other}");
        }
    }

    #[test]
    fn an_unlogged_relation_is_known_by_its_init_fork() {
        let init = |path: &str| init_fork_of(Path::new(path)).map(|p| p.display().to_string());
        assert_eq!(init("base/5/16500_fsm.3"), Some("base/5/16500_init".into()));
        assert_eq!(init("base/5/16500"), Some("base/5/16500_init".into()));
        assert_eq!(init("base/5/16500_init"), None);
        assert_eq!(init("base/5/PG_VERSION"), None);
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "(base|global|pg_tblspc|pg_wal)?(/[tPG_0-9.a-z]{0,8}){0,5}") {
            let path = Path::new(&path);
            let _ = (judge(path, DIR), relation_file(path), init_fork_of(path));
        }
    }
}
