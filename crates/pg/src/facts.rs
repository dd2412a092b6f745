//! What a server says of itself: everything a backup, a check or a receiver wants to know before it begins.

use crate::{PgError, Sql};
use std::collections::BTreeMap;
use std::path::PathBuf;
use terms::{Lsn, SegmentSize, SystemId, Timeline, Timestamp};

/// One look at a server. What the role may not see is `None` or empty, never an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// From `pg_control_system()`.
    pub system_id: SystemId,
    /// 15 to 18.
    pub major: u32,
    /// In full, e.g. `15.19 (Debian 15.19-1)`.
    pub version: String,
    /// `pg_is_in_recovery()`: a standby, or a restore.
    pub in_recovery: bool,
    /// That which it writes; in recovery the newest that it follows.
    pub timeline: Timeline,
    /// These four need pg_read_all_settings.
    pub data_directory: Option<PathBuf>,
    /// `postgresql.conf`, wherever it lies.
    pub config_file: Option<PathBuf>,
    /// `pg_hba.conf`, wherever it lies.
    pub hba_file: Option<PathBuf>,
    /// `pg_ident.conf`, wherever it lies.
    pub ident_file: Option<PathBuf>,
    /// Every file from which a setting or rule comes, those above and whatever they include, as far as the role may see;
    /// sorted. Without being superuser: only files that give a setting its present value.
    pub config_files: Vec<PathBuf>,
    /// `wal_segment_size`, in bytes.
    pub segment_size: SegmentSize,
    /// The size of a data page in bytes.
    pub page_size: u32,
    /// Whether data pages carry checksums.
    pub data_checksums: bool,
    /// `minimal`, `replica` or `logical`.
    pub wal_level: String,
    /// `off`, `on` or `always`.
    pub archive_mode: String,
    /// Whether an archive_command or archive_library is set and in use.
    pub archives: bool,
    /// How many may be connected at once, receivers and base backups together.
    pub max_wal_senders: u32,
    /// How many there may be, whoever made them.
    pub max_replication_slots: u32,
    /// `None` before PostgreSQL 17.
    pub summarize_wal: Option<bool>,
    /// A list with commas, empty when none is loaded; `None` when the role may not see it.
    pub shared_preload_libraries: Option<String>,
    /// As SHOW prints it; empty when there is no synchronous standby.
    pub synchronous_standby_names: String,
    /// All of them, templates too, in order of their oid.
    pub databases: Vec<Database>,
    /// Those that users made, in order of their oid.
    pub tablespaces: Vec<Tablespace>,
    /// Of the connected database: name and version.
    pub extensions: Vec<(String, String)>,
    /// The role that asked.
    pub current_user: String,
    /// Of that role, `pg_roles.rolsuper`.
    pub is_superuser: bool,
    /// Of that role, `pg_roles.rolreplication`; a superuser may stream without it.
    pub has_replication: bool,
    /// The server's clock.
    pub now: Timestamp,
}

/// One row of pg_database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// `datname`.
    pub name: String,
    /// Names its folder in each tablespace.
    pub oid: u32,
    /// By name, such as `UTF8`.
    pub encoding: String,
    /// datcollate.
    pub locale: String,
    /// Whether one can connect to it; not so for template0.
    pub allows_connections: bool,
    /// In bytes; `None` when the role may not know (pg_read_all_stats).
    pub size: Option<u64>,
}

/// A tablespace that a user made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Names the link in `pg_tblspc`.
    pub oid: u32,
    /// `spcname`.
    pub name: String,
    /// Where it is; relative (`pg_tblspc/OID`) when it lies in place.
    pub location: PathBuf,
}

/// One row of pg_replication_slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotFacts {
    /// Whether somebody streams from it.
    pub active: bool,
    /// The process that serves it; `None` while nobody streams.
    pub active_pid: Option<i32>,
    /// The oldest WAL it holds.
    pub restart_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// How many bytes may still be written before WAL it needs may be removed; `None`: no limit, or it is lost.
    pub safe_wal_bytes: Option<i64>,
    /// Why the server gave it up (`wal_removed`, `idle_timeout`, …); always `None` before PostgreSQL 17.
    pub invalidation_reason: Option<String>,
    /// Since when nobody uses it; `None` while somebody does, and before PostgreSQL 17.
    pub inactive_since: Option<Timestamp>,
    /// Whether it vanishes with its session.
    pub temporary: bool,
    /// `physical` or `logical`.
    pub slot_type: String,
}

/// pg_stat_archiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiverFacts {
    /// WAL files, since the statistics were reset.
    pub archived_count: i64,
    /// The file's name; `None` when there was none yet.
    pub last_archived_wal: Option<String>,
    /// By the server's clock; `None` when there was none yet.
    pub last_archived_at: Option<Timestamp>,
    /// Attempts that failed, since the statistics were reset; one file may fail often.
    pub failed_count: i64,
    /// The file's name; `None` when none ever failed.
    pub last_failed_wal: Option<String>,
    /// By the server's clock; `None` when none ever failed.
    pub last_failed_at: Option<Timestamp>,
}

/// One row of pg_stat_replication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicationFacts {
    /// Of the server's process, not the client's.
    pub pid: i32,
    /// As the client called itself.
    pub application_name: String,
    /// `startup`, `catchup`, `streaming`, `backup` or `stopping`.
    pub state: Option<String>,
    /// `async`, `potential`, `sync` or `quorum`.
    pub sync_state: Option<String>,
    /// `sent_lsn`: up to here it was handed to the connection.
    pub sent: Option<Lsn>,
    /// `write_lsn`: up to here the client says that it has it; `None` until it says anything.
    pub written: Option<Lsn>,
    /// `flush_lsn`: up to here the client says that it is durable; `None` until it says anything.
    pub flushed: Option<Lsn>,
}

const DOING: &str = "read the server's settings";

impl Sql {
    /// Everything at once. Sizes make the server count its files: not a call for every second.
    pub async fn server_facts(&self) -> Result<ServerFacts, PgError> {
        let settings = self.settings().await?;
        let setting = |name: &str| settings.get(name).cloned();
        let needed = |name: &str| setting(name).ok_or_else(|| self.protocol(format!("The server has no setting {name}")));
        let number = |name: &str| needed(name)?.parse::<u32>().map_err(|_| self.protocol(format!("The setting {name} is not a number")));
        let files = ["config_file", "hba_file", "ident_file"].map(|name| setting(name).map(PathBuf::from));
        let mut config_files = self.config_files().await?;
        config_files.extend(files.iter().flatten().cloned());
        config_files.sort();
        config_files.dedup();
        let [config_file, hba_file, ident_file] = files;
        let text = "SELECT (SELECT system_identifier FROM pg_control_system()), pg_is_in_recovery(), current_user::text, \
            (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), (SELECT rolreplication FROM pg_roles WHERE rolname = current_user), \
            (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let row = self.row(DOING, text, &[]).await?;
        let in_use = |name: &str| setting(name).is_some_and(|value| !value.is_empty() && value != "(disabled)");
        let segment_bytes = u64::from(number("wal_segment_size")?);
        Ok(ServerFacts {
            // PostgreSQL shows the unsigned number as a signed one.
            system_id: SystemId::new(self.get::<i64>(&row, 0, DOING)? as u64),
            major: self.major(),
            version: self.version().to_owned(),
            in_recovery: self.get(&row, 1, DOING)?,
            timeline: self.timeline().await?,
            data_directory: setting("data_directory").map(PathBuf::from),
            config_file,
            hba_file,
            ident_file,
            config_files,
            segment_size: SegmentSize::from_bytes(segment_bytes).map_err(|error| self.protocol(error.to_string()))?,
            page_size: number("block_size")?,
            data_checksums: needed("data_checksums")? == "on",
            wal_level: needed("wal_level")?,
            archive_mode: needed("archive_mode")?,
            archives: needed("archive_mode")? != "off" && (in_use("archive_command") || in_use("archive_library")),
            max_wal_senders: number("max_wal_senders")?,
            max_replication_slots: number("max_replication_slots")?,
            summarize_wal: setting("summarize_wal").map(|value| value == "on"),
            shared_preload_libraries: setting("shared_preload_libraries"),
            synchronous_standby_names: needed("synchronous_standby_names")?,
            databases: self.databases().await?,
            tablespaces: self.tablespaces().await?,
            extensions: self.extensions().await?,
            current_user: self.get(&row, 2, DOING)?,
            is_superuser: self.get(&row, 3, DOING)?,
            has_replication: self.get(&row, 4, DOING)?,
            now: Timestamp::from_unix_micros(self.get(&row, 5, DOING)?),
        })
    }

    /// The timeline the server writes or, in recovery, the newest it follows. pg_control names it only at the next
    /// checkpoint after a promotion, so a primary is asked for the name of its WAL file.
    pub async fn timeline(&self) -> Result<Timeline, PgError> {
        let text = "SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END, \
            greatest((SELECT timeline_id FROM pg_control_checkpoint()), (SELECT min_recovery_end_timeline FROM pg_control_recovery()), \
            (SELECT received_tli FROM pg_stat_wal_receiver))";
        let row = self.row("read the timeline", text, &[]).await?;
        let id = match self.get::<Option<String>>(&row, 0, DOING)? {
            Some(hex) => Timeline::from_hex(&hex),
            None => Timeline::new(self.get::<i32>(&row, 1, DOING)? as u32),
        };
        id.map_err(|error| self.protocol(error.to_string()))
    }

    /// Which cluster this is.
    pub async fn system_id(&self) -> Result<SystemId, PgError> {
        let row = self.row("read the system identifier", "SELECT system_identifier FROM pg_control_system()", &[]).await?;
        // PostgreSQL shows the unsigned number as a signed one.
        Ok(SystemId::new(self.get::<i64>(&row, 0, DOING)? as u64))
    }

    /// A replication slot; `None` when there is none of this name.
    pub async fn slot(&self, name: &str) -> Result<Option<SlotFacts>, PgError> {
        let doing = format!("look at replication slot {name:?}");
        let since_17 = match self.major() {
            17.. => "invalidation_reason, (extract(epoch FROM inactive_since) * 1000000)::bigint",
            _ => "NULL::text, NULL::bigint",
        };
        let text = format!(
            "SELECT active, active_pid, restart_lsn, wal_status, safe_wal_size, temporary, slot_type, {since_17} FROM pg_replication_slots WHERE slot_name = $1"
        );
        let rows = self.rows(&doing, &text, &[&name]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(SlotFacts {
            active: self.get(row, 0, &doing)?,
            active_pid: self.get(row, 1, &doing)?,
            restart_lsn: self.optional_lsn(row, 2, &doing)?,
            wal_status: self.get(row, 3, &doing)?,
            safe_wal_bytes: self.get(row, 4, &doing)?,
            temporary: self.get(row, 5, &doing)?,
            slot_type: self.get(row, 6, &doing)?,
            invalidation_reason: self.get(row, 7, &doing)?,
            inactive_since: self.get::<Option<i64>>(row, 8, &doing)?.map(Timestamp::from_unix_micros),
        }))
    }

    /// How the server ranks the WAL sender that holds this slot: `async`, `potential`, `sync` or `quorum`. `None` when none holds it
    /// or the role may not know.
    pub async fn sync_state_of_slot(&self, slot: &str) -> Result<Option<String>, PgError> {
        let doing = "ask how the server ranks its WAL sender";
        let text = "SELECT r.sync_state FROM pg_replication_slots AS s JOIN pg_stat_replication AS r ON r.pid = s.active_pid WHERE s.slot_name = $1";
        let rows = self.rows(doing, text, &[&slot]).await?;
        rows.first().map(|row| self.get::<Option<String>>(row, 0, doing)).transpose().map(Option::flatten)
    }

    /// How archiving goes. A command that ends by a signal or above 125 is not counted as failed (manual chapter 26.3.1).
    pub async fn archiver(&self) -> Result<ArchiverFacts, PgError> {
        let doing = "look at the archiver";
        let text = "SELECT archived_count, last_archived_wal, (extract(epoch FROM last_archived_time) * 1000000)::bigint, \
            failed_count, last_failed_wal, (extract(epoch FROM last_failed_time) * 1000000)::bigint FROM pg_stat_archiver";
        let row = self.row(doing, text, &[]).await?;
        let time = |at| Ok::<_, PgError>(self.get::<Option<i64>>(&row, at, doing)?.map(Timestamp::from_unix_micros));
        Ok(ArchiverFacts {
            archived_count: self.get(&row, 0, doing)?,
            last_archived_wal: self.get(&row, 1, doing)?,
            last_archived_at: time(2)?,
            failed_count: self.get(&row, 3, doing)?,
            last_failed_wal: self.get(&row, 4, doing)?,
            last_failed_at: time(5)?,
        })
    }

    /// The WAL senders that serve an application of this name, in order of their pid.
    pub async fn replication_state(&self, application_name: &str) -> Result<Vec<ReplicationFacts>, PgError> {
        let doing = "look at the WAL senders";
        let text = "SELECT pid, application_name, state, sync_state, sent_lsn, write_lsn, flush_lsn FROM pg_stat_replication WHERE application_name = $1 ORDER BY pid";
        let rows = self.rows(doing, text, &[&application_name]).await?;
        let fact = |row| {
            Ok(ReplicationFacts {
                pid: self.get(row, 0, doing)?,
                application_name: self.get(row, 1, doing)?,
                state: self.get(row, 2, doing)?,
                sync_state: self.get(row, 3, doing)?,
                sent: self.optional_lsn(row, 4, doing)?,
                written: self.optional_lsn(row, 5, doing)?,
                flushed: self.optional_lsn(row, 6, doing)?,
            })
        };
        rows.iter().map(fact).collect()
    }

    async fn settings(&self) -> Result<BTreeMap<String, String>, PgError> {
        // pg_settings leaves out what the role may not see; its numbers are in their base unit, here bytes.
        let text = "SELECT name, setting FROM pg_settings WHERE name = ANY ($1) AND setting IS NOT NULL";
        let rows = self.rows(DOING, text, &[&SETTINGS]).await?;
        rows.iter().map(|row| Ok((self.get(row, 0, DOING)?, self.get(row, 1, DOING)?))).collect()
    }

    /// The files that settings come from. Which view shows how much depends on the role, so each is asked for leave first.
    async fn config_files(&self) -> Result<Vec<PathBuf>, PgError> {
        let mut found = Vec::new();
        let mut add = |rows: Vec<tokio_postgres::Row>| -> Result<(), PgError> {
            for row in rows {
                found.extend(self.get::<Option<String>>(&row, 0, DOING)?.map(PathBuf::from));
            }
            Ok(())
        };
        add(self.rows(DOING, "SELECT DISTINCT sourcefile FROM pg_settings", &[]).await?)?;
        for (view, function, column, since) in CONFIG_VIEWS {
            if self.major() < *since {
                continue;
            }
            let may = "SELECT has_table_privilege($1, 'SELECT') AND has_function_privilege($2, 'EXECUTE')";
            let row = self.row(DOING, may, &[view, function]).await?;
            if self.get(&row, 0, DOING)? {
                add(self.rows(DOING, &format!("SELECT DISTINCT {column} FROM {view}"), &[]).await?)?;
            }
        }
        Ok(found)
    }

    async fn databases(&self) -> Result<Vec<Database>, PgError> {
        let doing = "list the databases";
        let text = "SELECT datname::text, oid, pg_encoding_to_char(encoding)::text, datcollate::text, datallowconn, \
            CASE WHEN has_database_privilege(oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE') THEN pg_database_size(oid) END \
            FROM pg_database ORDER BY oid";
        let row = |row: &tokio_postgres::Row| {
            Ok(Database {
                name: self.get(row, 0, doing)?,
                oid: self.get(row, 1, doing)?,
                encoding: self.get(row, 2, doing)?,
                locale: self.get(row, 3, doing)?,
                allows_connections: self.get(row, 4, doing)?,
                size: self.get::<Option<i64>>(row, 5, doing)?.map(|bytes| bytes as u64),
            })
        };
        self.rows(doing, text, &[]).await?.iter().map(row).collect()
    }

    async fn tablespaces(&self) -> Result<Vec<Tablespace>, PgError> {
        let doing = "list the tablespaces";
        // The two of initdb have no location (src/include/catalog/pg_tablespace.dat).
        let text = "SELECT oid, spcname::text, pg_tablespace_location(oid) FROM pg_tablespace WHERE oid NOT IN (1663, 1664) ORDER BY oid";
        let row = |row: &tokio_postgres::Row| {
            Ok(Tablespace { oid: self.get(row, 0, doing)?, name: self.get(row, 1, doing)?, location: self.get::<String>(row, 2, doing)?.into() })
        };
        self.rows(doing, text, &[]).await?.iter().map(row).collect()
    }

    pub(crate) async fn extensions(&self) -> Result<Vec<(String, String)>, PgError> {
        let doing = "list the extensions";
        let rows = self.rows(doing, "SELECT extname::text, extversion FROM pg_extension ORDER BY 1", &[]).await?;
        rows.iter().map(|row| Ok((self.get(row, 0, doing)?, self.get(row, 1, doing)?))).collect()
    }
}

const SETTINGS: &[&str] = &[
    "data_directory",
    "config_file",
    "hba_file",
    "ident_file",
    "wal_segment_size",
    "block_size",
    "data_checksums",
    "wal_level",
    "archive_mode",
    "archive_command",
    "archive_library",
    "max_wal_senders",
    "max_replication_slots",
    "summarize_wal",
    "shared_preload_libraries",
    "synchronous_standby_names",
];

/// View, the function behind it, the column that names a file, and the first major version that has that column.
const CONFIG_VIEWS: &[(&str, &str, &str, u32)] = &[
    ("pg_file_settings", "pg_show_all_file_settings()", "sourcefile", 15),
    ("pg_hba_file_rules", "pg_hba_file_rules()", "file_name", 16),
    ("pg_ident_file_mappings", "pg_ident_file_mappings()", "file_name", 16),
];
