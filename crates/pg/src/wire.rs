//! A physical replication connection: the questions a walsender answers besides streaming.

use crate::conninfo::ConnInfo;
use crate::dial::{Tries, within_limit};
use crate::frames::{Frames, columns};
use crate::login::log_in;
use crate::session::{admit, major_of};
use crate::{PgError, TimelineHistory};
use bytes::Bytes;
use postgres_protocol::message::frontend;
use std::str::FromStr;
use terms::{Lsn, SystemId, Timeline};

/// The connection. One command at a time; it owns no task, so nothing happens unless somebody awaits.
pub struct Replication {
    pub(crate) frames: Frames,
    version: String,
}

/// What IDENTIFY_SYSTEM says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's, as initdb made it.
    pub system_id: SystemId,
    /// The one that it writes, or follows as a standby.
    pub timeline: Timeline,
    /// Up to where the server's WAL is durable.
    pub flushed: Lsn,
}

/// How a CREATE_REPLICATION_SLOT ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotCreated {
    /// It was not there; it holds WAL from now on.
    New,
    /// There is one of this name, of whatever kind; it was left as it is.
    AlreadyThere,
}

/// Where a slot holds WAL; nothing when it never held any or was invalidated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotPosition {
    /// `restart_lsn`: the oldest WAL that it holds.
    pub restart: Option<Lsn>,
    /// The timeline that this position is of; nothing when there is no position.
    pub timeline: Option<Timeline>,
}

pub(crate) type Row = Vec<Option<Bytes>>;

impl Replication {
    /// Connects to the first host that will do. The role needs REPLICATION and a `replication` line in pg_hba.conf.
    pub async fn connect(info: &ConnInfo) -> Result<Self, PgError> {
        let mut tries = Tries::new(info);
        while let Some((address, encryption)) = tries.next() {
            let session = async {
                let frames = log_in(info, address, encryption).await?;
                let version = admit(info, address, |name| frames.parameters.get(name).map(String::as_str))?;
                Ok(Self { frames, version })
            };
            match within_limit(info, address, session).await {
                Ok(session) => return Ok(session),
                Err(error) => tries.failed(address, error)?,
            }
        }
        Err(tries.into_error())
    }

    /// The server's version in full, e.g. `15.19 (Debian 15.19-1)`.
    pub fn version(&self) -> &str {
        &self.version
    }
    /// The server's major version.
    pub fn major(&self) -> u32 {
        major_of(&self.version)
    }
    /// The address of the server we are connected to, without secrets.
    pub fn describe(&self) -> &str {
        &self.frames.peer.address
    }
    /// Whether the session is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.frames.is_encrypted()
    }
    /// The server's warnings so far, the first hundred; they are handed over once.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.frames.warnings)
    }

    /// Who the server is and how far it has come.
    pub async fn identify_system(&mut self) -> Result<Identity, PgError> {
        let doing = "identify the server";
        let row = self.one_row("IDENTIFY_SYSTEM", doing).await?;
        Ok(Identity { system_id: self.value(&row, 0, doing)?, timeline: self.value(&row, 1, doing)?, flushed: self.value(&row, 2, doing)? })
    }

    /// Creates a physical slot that holds WAL from now on (RESERVE_WAL). A temporary one ends with this connection.
    pub async fn create_slot(&mut self, name: &str, temporary: bool) -> Result<SlotCreated, PgError> {
        let doing = format!("create replication slot {name:?}");
        let kind = if temporary { "TEMPORARY PHYSICAL" } else { "PHYSICAL" };
        let command = format!("CREATE_REPLICATION_SLOT {} {kind} (RESERVE_WAL)", slot_ident(name)?);
        match self.query(&command, &doing).await {
            Ok(_) => Ok(SlotCreated::New),
            Err(PgError::Server(said)) if said.code == "42710" => Ok(SlotCreated::AlreadyThere),
            Err(error) => Err(error),
        }
    }

    /// Where a slot stands (READ_REPLICATION_SLOT); `None` when there is no such slot.
    pub async fn read_slot(&mut self, name: &str) -> Result<Option<SlotPosition>, PgError> {
        let doing = format!("read replication slot {name:?}");
        let row = self.one_row(&format!("READ_REPLICATION_SLOT {}", slot_ident(name)?), &doing).await?;
        // A slot that is not there is a row of nulls (src/backend/replication/walsender.c, `ReadReplicationSlot`).
        if row.first().is_none_or(Option::is_none) {
            return Ok(None);
        }
        Ok(Some(SlotPosition { restart: self.optional(&row, 1, &doing)?, timeline: self.optional(&row, 2, &doing)? }))
    }

    /// Drops a slot; refused (class Held) while it is in use.
    pub async fn drop_slot(&mut self, name: &str) -> Result<(), PgError> {
        let command = format!("DROP_REPLICATION_SLOT {}", slot_ident(name)?);
        self.query(&command, &format!("drop replication slot {name:?}")).await.map(drop)
    }

    /// The history file of a timeline: its name and its bytes. `None` when the server has none, as for timeline 1.
    pub async fn timeline_history(&mut self, timeline: Timeline) -> Result<Option<(String, Bytes)>, PgError> {
        let doing = format!("fetch the history of timeline {timeline}");
        match self.one_row(&format!("TIMELINE_HISTORY {timeline}"), &doing).await {
            Ok(row) => {
                let content = row.get(1).cloned().flatten().ok_or_else(|| self.frames.protocol("A history file has no content"))?;
                Ok(Some((self.value(&row, 0, &doing)?, content)))
            }
            // ERRCODE_UNDEFINED_FILE
            Err(PgError::Server(said)) if said.code == "58P01" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The server's way through history to this timeline; `None` when it has none that can be read.
    pub async fn history(&mut self, timeline: Timeline) -> Result<Option<TimelineHistory>, PgError> {
        let found = self.timeline_history(timeline).await?;
        Ok(found.and_then(|(_, content)| TimelineHistory::parse(timeline, &String::from_utf8_lossy(&content)).ok()))
    }

    /// The value of a setting, as SHOW prints it.
    pub async fn show(&mut self, setting: &str) -> Result<String, PgError> {
        if setting.is_empty() || !setting.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b)) {
            return Err(PgError::BadValue { what: "setting", value: setting.into(), rule: "letters, digits, _ and ." });
        }
        let doing = format!("show {setting}");
        let row = self.one_row(&format!("SHOW {setting}"), &doing).await?;
        self.value(&row, 0, &doing)
    }

    /// Sends a command and gathers its rows; whatever the server says, the session is ready for the next one afterwards.
    pub(crate) async fn query(&mut self, command: &str, doing: &str) -> Result<Vec<Row>, PgError> {
        self.frames.queue(|out| frontend::query(command, out))?;
        let mut rows = Vec::new();
        loop {
            let frame = self.frames.next(doing).await?;
            match frame.tag {
                b'D' => rows.push(columns(frame.body).ok_or_else(|| self.frames.protocol("A row is cut short"))?),
                b'T' | b'C' | b'I' => {}
                b'Z' => return Ok(rows),
                b'E' => return Err(self.refused(frame.body, doing).await),
                other => return Err(self.frames.unexpected(other, doing)),
            }
        }
    }

    /// The error in `body`, after everything up to ReadyForQuery is read; after a FATAL one there is nothing to read.
    pub(crate) async fn refused(&mut self, body: Bytes, doing: &str) -> PgError {
        let error = self.frames.said_no(body, doing);
        while let Ok(frame) = self.frames.next(doing).await {
            if frame.tag == b'Z' {
                break;
            }
        }
        error
    }

    async fn one_row(&mut self, command: &str, doing: &str) -> Result<Row, PgError> {
        let rows = self.query(command, doing).await?;
        rows.into_iter().next().ok_or_else(|| self.frames.protocol(format!("There was no row to {doing}")))
    }

    /// Column `at` as a value that must be there.
    pub(crate) fn value<T: FromStr>(&self, row: &Row, at: usize, doing: &str) -> Result<T, PgError> {
        self.optional(row, at, doing)?.ok_or_else(|| self.frames.protocol(format!("Column {} is missing while trying to {doing}", at + 1)))
    }

    /// Column `at` as a value, or `None` for a null.
    pub(crate) fn optional<T: FromStr>(&self, row: &Row, at: usize, doing: &str) -> Result<Option<T>, PgError> {
        let Some(Some(bytes)) = row.get(at) else { return Ok(None) };
        let value = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
        value.map(Some).ok_or_else(|| self.frames.protocol(format!("Column {} does not parse while trying to {doing}", at + 1)))
    }
}

/// A slot's name as a command wants it; the rule is `ReplicationSlotValidateName` (src/backend/replication/slot.c).
pub(crate) fn slot_ident(name: &str) -> Result<String, PgError> {
    let is_valid = (1..64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if is_valid {
        Ok(format!("\"{name}\""))
    } else {
        Err(PgError::BadValue { what: "slot name", value: name.into(), rule: "1 to 63 of a–z, 0–9 and _" })
    }
}
