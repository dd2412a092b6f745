//! `backup_label` and `tablespace_map`: what a base backup says of itself.

use crate::disk_error::DiskError;
use std::collections::HashMap;
use terms::{Lsn, SegmentName, Timeline};

const LABEL: &str = "backup_label";
const MAP: &str = "tablespace_map";

/// What `backup_label` says (`build_backup_content`, src/backend/access/transam/xlogbackup.c; before 16 in xlog.c).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where replay must begin: the redo position of the backup's checkpoint.
    pub start: Lsn,
    /// The segment that holds it.
    pub start_segment: SegmentName,
    /// Where the record of that checkpoint is.
    pub checkpoint: Lsn,
    /// The timeline on which the backup began.
    pub timeline: Timeline,
    /// Whether the server was a standby.
    pub from_standby: bool,
    /// When the backup began, in the server's log time zone, whose short name does not always tell which it is.
    pub start_time: String,
    /// The label that was given to the backup.
    pub label: String,
    /// Set by an incremental backup (17 and later): the start of the one before it. Such a directory cannot be started.
    pub incremental_from: Option<Lsn>,
}

impl BackupLabel {
    /// Parses the file. Replay depends on what `read_backup_label` (src/backend/access/transam/xlogrecovery.c) takes
    /// from it, so those lines must be there: the start, the checkpoint, and a streamed backup's method.
    pub fn parse(text: &str) -> Result<Self, DiskError> {
        let damaged = |what: String| DiskError::Label { file: LABEL, what };
        let mut lines = HashMap::new();
        for line in text.lines() {
            let (key, value) = line.split_once(": ").unwrap_or((line.trim_end_matches(':'), ""));
            // A label may hold anything but a newline, and it comes after the lines that matter: the first one counts.
            lines.entry(key).or_insert(value);
        }
        let line = |key: &str| lines.get(key).copied().ok_or_else(|| damaged(format!("It has no line {key:?}")));
        let lsn = |key: &str, text: &str| text.parse::<Lsn>().map_err(|e| damaged(format!("{key}: {e}")));

        const START: &str = "START WAL LOCATION";
        let (start, file) = line(START)?.split_once(" (file ").ok_or_else(|| damaged(format!("{START} names no file")))?;
        let start_segment: SegmentName = file.trim_end_matches(')').parse().map_err(|e| damaged(format!("{START}: {e}")))?;
        if line("BACKUP METHOD")? != "streamed" {
            return Err(damaged(format!("Its method is {:?}, not streamed", line("BACKUP METHOD")?)));
        }
        let timeline = match lines.get("START TIMELINE") {
            Some(id) => id.parse().map_err(|e| damaged(format!("START TIMELINE: {e}")))?,
            None => start_segment.timeline(),
        };
        if timeline != start_segment.timeline() {
            return Err(damaged(format!("Its timeline is {timeline}, but its first segment {start_segment} is of another")));
        }
        Ok(Self {
            start: lsn(START, start)?,
            start_segment,
            checkpoint: lsn("CHECKPOINT LOCATION", line("CHECKPOINT LOCATION")?)?,
            timeline,
            from_standby: line("BACKUP FROM")? == "standby",
            start_time: line("START TIME")?.to_owned(),
            label: line("LABEL")?.to_owned(),
            incremental_from: lines.get("INCREMENTAL FROM LSN").map(|text| lsn("INCREMENTAL FROM LSN", text)).transpose()?,
        })
    }
}

/// A line of `tablespace_map`: the directory that `pg_tblspc/{oid}` is a link to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceLink {
    /// The tablespace.
    pub oid: u32,
    /// Its directory, in the bytes that the server's file system uses.
    pub path: Vec<u8>,
}

/// Parses `tablespace_map` (`read_tablespace_map`, src/backend/access/transam/xlogrecovery.c): each line is an oid, a
/// space and a path in which a backslash stands before each newline, carriage return and backslash.
pub fn parse_tablespace_map(bytes: &[u8]) -> Result<Vec<TablespaceLink>, DiskError> {
    let damaged = |what: &str| DiskError::Label { file: MAP, what: what.to_owned() };
    let mut links = Vec::new();
    let mut line = Vec::new();
    let mut escaped = false;
    for &byte in bytes {
        match byte {
            b'\\' if !escaped => {
                escaped = true;
                continue;
            }
            b'\n' | b'\r' if !escaped => {
                // A newline after a carriage return makes an empty line.
                if !line.is_empty() {
                    links.push(parse_link(&line)?);
                    line.clear();
                }
            }
            _ => line.push(byte),
        }
        escaped = false;
    }
    match line.is_empty() && !escaped {
        true => Ok(links),
        false => Err(damaged("Its last line does not end")),
    }
}

/// Prints `tablespace_map` (`do_pg_backup_start`, src/backend/access/transam/xlog.c).
pub fn print_tablespace_map(links: &[TablespaceLink]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for link in links {
        bytes.extend_from_slice(format!("{} ", link.oid).as_bytes());
        for &byte in &link.path {
            if matches!(byte, b'\n' | b'\r' | b'\\') {
                bytes.push(b'\\');
            }
            bytes.push(byte);
        }
        bytes.push(b'\n');
    }
    bytes
}

fn parse_link(line: &[u8]) -> Result<TablespaceLink, DiskError> {
    let damaged = || DiskError::Label { file: MAP, what: format!("{:?} is not an oid and a path", String::from_utf8_lossy(line)) };
    let space = line.iter().position(|&b| b == b' ').ok_or_else(damaged)?;
    let oid = std::str::from_utf8(&line[..space]).ok().and_then(|t| t.parse().ok()).filter(|&oid| oid != 0).ok_or_else(damaged)?;
    match &line[space + 1..] {
        [] => Err(damaged()),
        path => Ok(TablespaceLink { oid, path: path.to_vec() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000080\n\
        BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-22 14:05:00 UTC\nLABEL: kb: the first\nSTART TIMELINE: 1\n";

    #[test]
    fn a_label_says_where_the_backup_begins() {
        let label = BackupLabel::parse(TEXT).unwrap();
        assert_eq!((label.start.to_string(), label.checkpoint.to_string()), ("0/2000028".into(), "0/2000080".into()));
        assert_eq!((label.timeline, label.from_standby, label.label.as_str()), (Timeline::FIRST, false, "kb: the first"));
        assert!(BackupLabel::parse(&TEXT.replace("primary", "standby")).unwrap().from_standby);
        let incremental = format!("{TEXT}INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n");
        assert_eq!(BackupLabel::parse(&incremental).unwrap().incremental_from, Some("0/1000028".parse().unwrap()));
    }

    #[test]
    fn a_label_without_a_line_that_replay_needs_is_refused() {
        for missing in ["START WAL", "CHECKPOINT", "BACKUP METHOD", "BACKUP FROM"] {
            let text: String = TEXT.lines().filter(|l| !l.starts_with(missing)).map(|l| format!("{l}\n")).collect();
            assert!(BackupLabel::parse(&text).is_err(), "{missing}");
        }
        assert!(BackupLabel::parse(&TEXT.replace("TIMELINE: 1", "TIMELINE: 2")).is_err());
    }

    #[test]
    fn every_path_survives_the_map() {
        let links = [
            TablespaceLink { oid: 16385, path: b"/srv/fast disk".to_vec() },
            TablespaceLink { oid: 16386, path: b"/srv/back\\slash\nand newline\r".to_vec() },
        ];
        assert_eq!(parse_tablespace_map(&print_tablespace_map(&links)).unwrap(), links);
        assert_eq!(parse_tablespace_map(b"16385 /srv/x\r\n").unwrap()[0].path, b"/srv/x");
        for wrong in [&b"16385"[..], b"16385 \n", b" /srv\n", b"x /srv\n", b"0 /srv\n", b"1 /srv", b"1 /srv\n\\"] {
            assert!(parse_tablespace_map(wrong).is_err(), "{:?}", String::from_utf8_lossy(wrong));
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, text in "(?s).{0,200}") {
            let _ = parse_tablespace_map(&bytes);
            let _ = BackupLabel::parse(&text);
        }
    }
}
