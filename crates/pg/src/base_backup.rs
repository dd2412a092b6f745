//! BASE_BACKUP: the whole cluster as files in order, read over the network.

use crate::frames::{Frame, c_string, columns};
use crate::tar::{TarEntry, TarItem, TarKind, TarReader};
use crate::wire::Row;
use crate::{PgError, Replication};
use bytes::{Buf, Bytes};
use postgres_protocol::message::frontend;
use std::path::PathBuf;
use terms::{Lsn, Timeline};

/// What to ask of the server (manual chapter 54.4, BASE_BACKUP). It sends no manifest and does not wait for archiving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackupOptions {
    /// Written into backup_label and shown in the server's log; at most 1000 bytes without control characters.
    pub label: String,
    /// Checkpoint at once instead of spreading it.
    pub fast: bool,
    /// At most this many KiB a second (32 to 1048576); `None`: as fast as it goes.
    pub max_rate_kib: Option<u32>,
    /// Let the server verify page checksums; what it finds becomes warnings and an error at the end.
    pub verify_checksums: bool,
    /// Let the server count first how much there is: [`BaseBackup::tablespaces`] then has sizes.
    pub progress: bool,
}

/// A base backup under way.
pub struct BaseBackup {
    connection: Replication,
    start: Lsn,
    timeline: Timeline,
    tablespaces: Vec<TablespaceToSend>,
    archive: Option<Archive>,
    tar: TarReader,
    bytes_received: u64,
    is_over: bool,
}

/// One tablespace of the list at the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceToSend {
    /// `None`: the data directory itself.
    pub oid: Option<u32>,
    /// Empty for the data directory.
    pub location: PathBuf,
    /// About this many KiB, when progress was asked for.
    pub size_kib: Option<u64>,
}

/// What comes next in a base backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A file, folder or link begins.
    Entry(Entry),
    /// The next piece of the present file; the pieces together have exactly its size.
    Data(Bytes),
}

/// A file, folder or link of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `None`: below the data directory; else below the tablespace of this oid.
    pub tablespace: Option<u32>,
    /// Relative to that; empty for that folder itself.
    pub path: String,
    /// What it is; of a file also its size, of a link its target.
    pub kind: TarKind,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since the Unix epoch.
    pub mtime: i64,
}

/// How a base backup ended.
pub struct BaseBackupEnd {
    /// WAL up to here makes the backup consistent.
    pub stop: Lsn,
    /// The one on which it stopped.
    pub timeline: Timeline,
    /// What the server warned of, e.g. pages whose checksum is wrong.
    pub warnings: Vec<String>,
    /// How many pages have a wrong checksum, of those that the server was asked to verify.
    pub pages_damaged: u64,
    /// Ready for the next command.
    pub connection: Replication,
}

#[derive(Debug, Clone, Copy)]
struct Archive {
    tablespace: Option<u32>,
}

/// SQLSTATE data_corrupted (PostgreSQL's manual, appendix A).
const DATA_CORRUPTED: &str = "XX001";
const DOING: &str = "take a base backup";

impl Replication {
    /// Begins a base backup and returns when the server has its checkpoint and begins to send.
    pub async fn base_backup(mut self, options: &BaseBackupOptions) -> Result<BaseBackup, PgError> {
        let command = command(options)?;
        self.frames.queue(|out| frontend::query(&command, out))?;
        // Two result sets (the start, the tablespaces), then the copy begins.
        let mut results: Vec<Vec<Row>> = Vec::new();
        loop {
            let Frame { tag, body } = self.frames.next(DOING).await?;
            match (tag, results.last_mut()) {
                (b'T', _) => results.push(Vec::new()),
                (b'D', Some(rows)) => rows.push(columns(body).ok_or_else(|| self.frames.protocol("A row is cut short"))?),
                (b'C', _) => {}
                (b'H', _) => break,
                (b'E', _) => return Err(self.refused(body, DOING).await),
                (other, _) => return Err(self.frames.unexpected(other, DOING)),
            }
        }
        let [start, tablespaces] = &results[..] else { return Err(self.frames.protocol("A base backup begins with two result sets")) };
        let start_row = start.first().ok_or_else(|| self.frames.protocol("A base backup begins without a position"))?;
        let tablespaces: Result<Vec<_>, PgError> = tablespaces.iter().map(|row| self.tablespace(row)).collect();
        Ok(BaseBackup {
            start: self.value(start_row, 0, DOING)?,
            timeline: self.value(start_row, 1, DOING)?,
            tablespaces: tablespaces?,
            connection: self,
            archive: None,
            tar: TarReader::default(),
            bytes_received: 0,
            is_over: false,
        })
    }

    fn tablespace(&self, row: &Row) -> Result<TablespaceToSend, PgError> {
        let location: Option<String> = self.optional(row, 1, DOING)?;
        Ok(TablespaceToSend {
            oid: self.optional(row, 0, DOING)?,
            location: location.unwrap_or_default().into(),
            size_kib: self.optional(row, 2, DOING)?,
        })
    }
}

impl BaseBackup {
    /// Where recovery from this backup begins.
    pub fn start(&self) -> Lsn {
        self.start
    }
    /// The timeline on which it begins.
    pub fn timeline(&self) -> Timeline {
        self.timeline
    }
    /// What will be sent, in this order; the data directory last.
    pub fn tablespaces(&self) -> &[TablespaceToSend] {
        &self.tablespaces
    }
    /// Bytes of tar stream received so far.
    pub fn bytes_received(&self) -> u64 {
        self.bytes_received
    }

    /// The next item, `None` after the last one. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Item>, PgError> {
        loop {
            if let (Some(archive), Some(item)) = (self.archive, self.tar.next_item()?) {
                match item {
                    TarItem::Data(bytes) => return Ok(Some(Item::Data(bytes))),
                    TarItem::End => continue,
                    TarItem::Entry(TarEntry { path, kind, mode, mtime }) => {
                        return Ok(Some(Item::Entry(Entry { tablespace: archive.tablespace, path, kind, mode, mtime })));
                    }
                }
            }
            if self.is_over {
                return Ok(None);
            }
            let Frame { tag, body } = self.connection.frames.next(DOING).await?;
            match tag {
                b'd' => self.message(body)?,
                b'c' => {
                    self.end_archive()?;
                    self.is_over = true;
                }
                b'E' => return Err(self.connection.refused(body, DOING).await),
                other => return Err(self.connection.frames.unexpected(other, DOING)),
            }
        }
    }

    /// Waits for the server to end the backup; whatever was not read is read and thrown away.
    pub async fn finish(mut self) -> Result<BaseBackupEnd, PgError> {
        while self.next().await?.is_some() {}
        let mut last: Option<Row> = None;
        let mut is_damaged = false;
        loop {
            let Frame { tag, body } = self.connection.frames.next(DOING).await?;
            match tag {
                b'D' => last = columns(body),
                b'T' | b'C' => {}
                b'Z' => break,
                // Pages that are damaged are told behind the position, when every byte was sent (backup/basebackup.c, perform_base_backup).
                b'E' => match self.connection.refused(body, DOING).await {
                    PgError::Server(said) if said.code == DATA_CORRUPTED && last.is_some() => {
                        is_damaged = true;
                        break;
                    }
                    error => return Err(error),
                },
                other => return Err(self.connection.frames.unexpected(other, DOING)),
            }
        }
        let row = last.ok_or_else(|| self.connection.frames.protocol("A base backup ends without a position"))?;
        let warnings = self.connection.take_warnings();
        Ok(BaseBackupEnd {
            stop: self.connection.value(&row, 0, DOING)?,
            timeline: self.connection.value(&row, 1, DOING)?,
            pages_damaged: if is_damaged { total_of(&warnings) } else { 0 },
            warnings,
            connection: self.connection,
        })
    }

    /// One message of the copy (src/backend/backup/basebackup_copy.c, top comment).
    fn message(&mut self, mut body: Bytes) -> Result<(), PgError> {
        // Empty messages occur and mean nothing.
        let Ok(kind) = body.try_get_u8() else { return Ok(()) };
        match kind {
            b'd' if self.archive.is_some() => {
                self.bytes_received += body.len() as u64;
                self.tar.push(body);
                Ok(())
            }
            b'n' => {
                self.end_archive()?;
                let name = c_string(&mut body).unwrap_or_default();
                let tablespace = match name.strip_suffix(".tar") {
                    Some("base") => None,
                    Some(oid) => Some(oid.parse().map_err(|_| self.unknown_archive(&name))?),
                    None => return Err(self.unknown_archive(&name)),
                };
                self.archive = Some(Archive { tablespace });
                self.tar = TarReader::default();
                Ok(())
            }
            b'p' => Ok(()),
            other => Err(self.connection.frames.protocol(format!("The base backup holds a message {:?}", char::from(other)))),
        }
    }

    fn unknown_archive(&self, name: &str) -> PgError {
        self.connection.frames.protocol(format!("The base backup holds an archive {name:?}"))
    }

    /// An archive may only end after its zero blocks.
    fn end_archive(&mut self) -> Result<(), PgError> {
        match self.archive.take() {
            Some(_) if !self.tar.has_ended() => Err(PgError::Tar { what: "An archive is cut short".into() }),
            _ => Ok(()),
        }
    }
}

fn command(options: &BaseBackupOptions) -> Result<String, PgError> {
    let BaseBackupOptions { label, fast, max_rate_kib, verify_checksums, progress } = options;
    check_label(label)?;
    if max_rate_kib.is_some_and(|rate| !(32..=1 << 20).contains(&rate)) {
        return Err(PgError::BadValue { what: "rate", value: format!("{max_rate_kib:?}"), rule: "32 to 1048576 KiB/s" });
    }
    let rate = max_rate_kib.map(|rate| format!(", MAX_RATE {rate}")).unwrap_or_default();
    Ok(format!(
        "BASE_BACKUP (LABEL '{}', CHECKPOINT '{}', PROGRESS {progress}, WAIT false, WAL false, MANIFEST 'no', TABLESPACE_MAP true, VERIFY_CHECKSUMS {verify_checksums}{rate})",
        label.replace('\'', "''"),
        if *fast { "fast" } else { "spread" },
    ))
}

/// A label is one line of backup_label (src/backend/access/transam/xlog.c, `do_pg_backup_start`: at most MAXPGPATH).
pub(crate) fn check_label(label: &str) -> Result<(), PgError> {
    match label.len() <= 1000 && !label.chars().any(char::is_control) {
        true => Ok(()),
        false => Err(PgError::BadValue { what: "backup label", value: label.chars().take(60).collect(), rule: "one line of at most 1000 bytes" }),
    }
}

/// The server tells the sum last when there are several; of one page it warns once. What came behind the first hundred warnings is not known.
fn total_of(warnings: &[String]) -> u64 {
    let told = warnings.last().and_then(|last| last.split(' ').next()?.parse().ok());
    told.unwrap_or(warnings.len().max(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_damaged_pages_is_told_last_or_was_one() {
        let of = |warnings: &[&str]| total_of(&warnings.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let one = "checksum verification failed in file \"base/5/16384\", block 3: calculated 1F2 but expected 1F3";
        assert_eq!(of(&[one]), 1);
        assert_eq!(
            of(&[one, one, "file \"base/5/16384\" has a total of 2 checksum verification failures", "2 total checksum verification failures"]),
            2
        );
        assert_eq!(of(&[]), 1);
    }

    #[test]
    fn a_command_quotes_its_label_and_refuses_what_the_server_would() {
        let mut options = BaseBackupOptions { label: "it's".into(), fast: true, max_rate_kib: Some(1024), verify_checksums: false, progress: false };
        let text = command(&options).unwrap();
        assert!(text.contains("LABEL 'it''s', CHECKPOINT 'fast'") && text.ends_with("MAX_RATE 1024)"), "{text}");
        options.max_rate_kib = Some(1);
        assert!(command(&options).is_err());
        options = BaseBackupOptions { label: "two\nlines".into(), max_rate_kib: None, ..options };
        assert!(command(&options).is_err());
    }
}
