//! Whether commits wait until Bowline has stored them: how the server ranks it, and where `synchronous_commit` is weakened.

use crate::finding::{quoted_name, quoted_text};
use crate::sync_names::Method;
use crate::{Finding, PgError, Rank, Severity, Sql, SyncNames};
use std::collections::BTreeSet;

/// What a commit waits for (manual chapter 19.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitLevel {
    /// Until the synchronous standbys have replayed it.
    RemoteApply,
    /// Until it is durable here, and on the synchronous standbys where there are any.
    On,
    /// Until the synchronous standbys have written it, durable or not.
    RemoteWrite,
    /// Until it is durable here.
    Local,
    /// For nothing: the last moments before a crash may be lost.
    Off,
}

impl CommitLevel {
    /// Every spelling that the server takes (`synchronous_commit_options`, `src/backend/utils/misc/guc_tables.c`).
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "remote_apply" => Self::RemoteApply,
            "on" | "true" | "yes" | "1" => Self::On,
            "remote_write" => Self::RemoteWrite,
            "local" => Self::Local,
            "off" | "false" | "no" | "0" => Self::Off,
            _ => return None,
        })
    }
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RemoteApply => "remote_apply",
            Self::On => "on",
            Self::RemoteWrite => "remote_write",
            Self::Local => "local",
            Self::Off => "off",
        }
    }
}

/// One row of pg_db_role_setting that sets `synchronous_commit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LevelOverride {
    /// `None`: every role.
    pub role: Option<String>,
    /// `None`: every database.
    pub database: Option<String>,
    /// What commits of that role in that database wait for.
    pub level: CommitLevel,
}

impl LevelOverride {
    fn of(&self) -> String {
        match (&self.role, &self.database) {
            (Some(role), Some(database)) => format!("role {role} in database {database}"),
            (Some(role), None) => format!("role {role}"),
            (None, Some(database)) => format!("database {database}"),
            (None, None) => "all roles (ALTER ROLE ALL)".to_owned(),
        }
    }
    /// The command that takes it back.
    pub fn reset(&self) -> String {
        let role = self.role.as_ref().map_or_else(|| "ALL".to_owned(), |role| quoted_name(role));
        match (&self.role, &self.database) {
            (None, Some(database)) => format!("ALTER DATABASE {} RESET synchronous_commit;", quoted_name(database)),
            (_, Some(database)) => format!("ALTER ROLE {role} IN DATABASE {} RESET synchronous_commit;", quoted_name(database)),
            (_, None) => format!("ALTER ROLE {role} RESET synchronous_commit;"),
        }
    }
}

/// A WAL sender that is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncStandby {
    /// As the client called itself; empty when the role may not see it.
    pub application_name: String,
    /// `startup`, `catchup`, `streaming`, `backup` or `stopping`; `None` when the role may not see it.
    pub state: Option<String>,
    /// `async`, `potential`, `sync` or `quorum`; `None` when the role may not see it.
    pub sync_state: Option<String>,
}

/// Everything that decides whether a commit waits for a standby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncFacts {
    /// `synchronous_standby_names` as SHOW prints it.
    pub names: String,
    /// The server's own `synchronous_commit`; `None` when this session's is another one and the role may not read the files.
    pub level: Option<CommitLevel>,
    /// Where roles and databases have another one.
    pub overrides: Vec<LevelOverride>,
    /// Every WAL sender, in order of its pid; base backups among them.
    pub standbys: Vec<SyncStandby>,
}

const DOING: &str = "read the settings of synchronous commit";

impl Sql {
    /// Looks at all levels that can be seen from outside of a session. What an application sets for itself (`SET`, a function's own
    /// setting) cannot.
    pub async fn sync_facts(&self) -> Result<SyncFacts, PgError> {
        let text = "SELECT (SELECT setting FROM pg_settings WHERE name = 'synchronous_standby_names'), setting, \
            source IN ('default', 'environment variable', 'configuration file', 'command line', 'override'), \
            has_table_privilege('pg_file_settings', 'SELECT') AND has_function_privilege('pg_show_all_file_settings()', 'EXECUTE') \
            FROM pg_settings WHERE name = 'synchronous_commit'";
        let row = self.row(DOING, text, &[]).await?;
        let level = match (self.get::<bool>(&row, 2, DOING)?, self.get::<bool>(&row, 3, DOING)?) {
            (true, _) => CommitLevel::parse(&self.get::<String>(&row, 1, DOING)?),
            // This role or database has one of its own, which hides the server's.
            (false, true) => {
                let text = "SELECT setting FROM pg_file_settings WHERE name = 'synchronous_commit' AND applied ORDER BY seqno DESC LIMIT 1";
                match self.rows(DOING, text, &[]).await?.first() {
                    Some(row) => self.get::<Option<String>>(row, 0, DOING)?.as_deref().and_then(CommitLevel::parse),
                    None => Some(CommitLevel::On),
                }
            }
            (false, false) => None,
        };
        let text = "SELECT r.rolname::text, d.datname::text, split_part(c, '=', 2) FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) c \
            LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase \
            WHERE split_part(c, '=', 1) = 'synchronous_commit' ORDER BY 1, 2";
        let mut overrides = Vec::new();
        for row in self.rows(DOING, text, &[]).await? {
            let level: String = self.get(&row, 2, DOING)?;
            let level =
                CommitLevel::parse(&level).ok_or_else(|| self.protocol(format!("synchronous_commit = {level:?} is no level that is known")))?;
            overrides.push(LevelOverride { role: self.get(&row, 0, DOING)?, database: self.get(&row, 1, DOING)?, level });
        }
        let mut standbys = Vec::new();
        for row in self.rows(DOING, "SELECT application_name, state, sync_state FROM pg_stat_replication ORDER BY pid", &[]).await? {
            let application_name = self.get::<Option<String>>(&row, 0, DOING)?.unwrap_or_default();
            standbys.push(SyncStandby { application_name, state: self.get(&row, 1, DOING)?, sync_state: self.get(&row, 2, DOING)? });
        }
        Ok(SyncFacts { names: self.get(&row, 0, DOING)?, level, overrides, standbys })
    }

    /// The commits that wait for a synchronous standby at this moment, each by its process and the microsecond (Unix) at which its statement
    /// began; those of other roles only where this one may see them (pg_monitor). A commit waits for an event, of type IPC; the lock of the
    /// same name guards the queue (`src/backend/utils/activity/wait_event_names.txt`).
    pub async fn waiting_commits(&self) -> Result<BTreeSet<(i32, i64)>, PgError> {
        let doing = "look for commits that wait";
        let text = "SELECT pid, (extract(epoch FROM query_start) * 1000000)::bigint FROM pg_stat_activity \
            WHERE wait_event_type = 'IPC' AND wait_event = 'SyncRep' AND query_start IS NOT NULL";
        let rows = self.rows(doing, text, &[]).await?;
        rows.iter().map(|row| Ok::<(i32, i64), PgError>((self.get(row, 0, doing)?, self.get(row, 1, doing)?))).collect()
    }
}

impl SyncFacts {
    /// Judges for a receiver of this `application_name` that is (`wanted`) or is not to be a synchronous standby.
    pub fn judge(&self, application_name: &str, wanted: bool) -> Vec<Finding> {
        let names = match SyncNames::parse(&self.names) {
            Ok(names) => names,
            Err(e) => {
                let remedy = "Please report it, with the setting.";
                return vec![Finding::new(
                    "sync-names-unread",
                    Severity::Unknown,
                    e.to_string(),
                    "whether commits wait for Bowline is not known",
                    remedy,
                )];
            }
        };
        let rank = names.rank(application_name);
        match (wanted, rank) {
            (false, None) if names.is_empty() => Vec::new(),
            (false, None) => {
                vec![Finding::ok("sync-names", format!("synchronous_standby_names = {} does not name {application_name}", quoted_text(&self.names)))]
            }
            (false, Some(rank)) => vec![self.by_accident(application_name, &names, rank)],
            (true, None) => vec![self.not_named(application_name, &names)],
            (true, Some(rank)) => {
                let mut found = vec![self.ranked(application_name, rank)];
                found.extend(self.present(application_name, rank));
                found.extend(self.levels(rank));
                found
            }
        }
    }

    fn by_accident(&self, name: &str, names: &SyncNames, rank: Rank) -> Finding {
        let mut others: Vec<String> = self.standbys.iter().map(|s| s.application_name.clone()).filter(|other| !other.is_empty()).collect();
        // What only copies or receives is no standby to wait for.
        others.retain(|other| !["pg_basebackup", "pg_receivewal"].contains(&other.as_str()));
        let how = match rank {
            Rank::Required | Rank::Replaceable => "commits would wait until Bowline has stored them",
            Rank::Potential => "as soon as another standby is away, commits would wait until Bowline has stored them",
        };
        Finding::new(
            "synchronous-by-accident",
            Severity::Critical,
            format!("synchronous_standby_names = {} matches {name}, and [wal] synchronous is not set", quoted_text(&self.names)),
            format!("{how}, so it refuses to stream"),
            format!(
                "Name the standbys without it: {} Or set [wal] synchronous = true to have commits wait for the repository.",
                set_names(&names.without(name, &others).to_string())
            ),
        )
    }

    fn not_named(&self, name: &str, names: &SyncNames) -> Finding {
        let mut all = names.clone();
        all.names.insert(0, name.to_owned());
        all.wanted += 1;
        // Only where it leaves nobody to take Bowline's place.
        let write = if all.rank(name) == Some(Rank::Required) { all } else { alone(name) };
        Finding::new(
            "sync-not-named",
            Severity::Critical,
            format!("[wal] synchronous is set, and synchronous_standby_names = {} does not name {name}", quoted_text(&self.names)),
            "commits are acknowledged before they are in the repository",
            set_names(&write.to_string()),
        )
    }

    fn ranked(&self, name: &str, rank: Rank) -> Finding {
        let setting = format!("synchronous_standby_names = {}", quoted_text(&self.names));
        let own = set_names(&alone(name).to_string());
        match rank {
            Rank::Required => Finding::ok("sync-required", format!("{setting}: each commit waits until it is in the repository")),
            Rank::Replaceable => Finding::new(
                "sync-replaceable",
                Severity::Warn,
                format!("{setting}: commits need not wait for {name}"),
                "others can confirm in its place: a commit is acknowledged by the repository or by them, so that it is lost only if they are lost too",
                format!("If that is meant, nothing. To have each commit in the repository: {own}"),
            ),
            Rank::Potential => Finding::new(
                "sync-potential",
                Severity::Critical,
                format!("{setting}: {name} is only a potential synchronous standby"),
                "while those before it in the list are there, commits are acknowledged before they are in the repository",
                own,
            ),
        }
    }

    /// Whether the receiver that is to be waited for is there, and ranks as the setting says.
    fn present(&self, name: &str, rank: Rank) -> Option<Finding> {
        let own: Vec<&SyncStandby> = self.standbys.iter().filter(|s| s.application_name.eq_ignore_ascii_case(name)).collect();
        if own.iter().any(|s| matches!(s.sync_state.as_deref(), Some("sync" | "quorum"))) {
            return None;
        }
        if self.standbys.iter().any(|s| s.sync_state.is_none()) {
            let what = "who is connected as a synchronous standby cannot be seen";
            return Some(Finding::new("sync-unseen", Severity::Unknown, what, "the role may not read pg_stat_replication", "Grant it pg_monitor."));
        }
        let (what, cause) = match (own.first(), rank) {
            (None, Rank::Required) => (format!("no receiver named {name} is connected"), "commits wait until one is"),
            (None, _) => (format!("no receiver named {name} is connected"), "commits are acknowledged before they are in the repository"),
            (Some(standby), _) => {
                let (state, sync) = (standby.state.as_deref().unwrap_or("connected"), standby.sync_state.as_deref().unwrap_or("unknown"));
                (format!("the receiver named {name} is {state} and ranks {sync}"), "commits do not wait for it")
            }
        };
        let remedy = match own.is_empty() {
            true => {
                "Start bowline wal receive. To release commits that wait: ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();"
            }
            false => "A receiver that catches up ranks when it has; otherwise SELECT pg_reload_conf(); so that the setting counts.",
        };
        Some(Finding::new("sync-absent", Severity::Critical, what, cause, remedy))
    }

    fn levels(&self, rank: Rank) -> Vec<Finding> {
        let mut found = Vec::new();
        match self.level {
            Some(level) => {
                let reset = "ALTER SYSTEM SET synchronous_commit = 'on'; SELECT pg_reload_conf();";
                found.extend(weakened("the server", level, reset, rank));
            }
            None => found.push(Finding::new(
                "sync-level-unseen",
                Severity::Unknown,
                "the server's synchronous_commit cannot be seen: this session has another one",
                "it was set for the role or the database with which Bowline connects",
                "ALTER ROLE … RESET synchronous_commit; for the role that conninfo names.",
            )),
        }
        found.extend(self.overrides.iter().filter_map(|o| weakened(&o.of(), o.level, &o.reset(), rank)));
        if found.is_empty() {
            found.push(Finding::ok("sync-level", "synchronous_commit = on, and no role or database has another"));
        }
        found
    }
}

/// The finding for one level, unless it is the right one.
fn weakened(whose: &str, level: CommitLevel, reset: &str, rank: Rank) -> Option<Finding> {
    let (slug, severity, cause) = match level {
        CommitLevel::On => return None,
        CommitLevel::RemoteApply => (
            "sync-level-apply",
            Severity::Critical,
            match rank {
                Rank::Required => "such commits never return: Bowline replays nothing and so never reports a position as applied",
                _ => {
                    "such commits return only when another standby has applied them: Bowline replays nothing and never reports a position as applied"
                }
            },
        ),
        CommitLevel::RemoteWrite => (
            "sync-level-write",
            Severity::Warn,
            "such commits wait for a position as written only; Bowline reports none before it is stored, other standbys do before it is durable",
        ),
        CommitLevel::Local | CommitLevel::Off => {
            ("sync-level-local", Severity::Critical, "such commits are acknowledged before they are in the repository, and are lost with the host")
        }
    };
    Some(Finding::new(slug, severity, format!("synchronous_commit = {} for {whose}", level.name()), cause, reset))
}

fn alone(name: &str) -> SyncNames {
    SyncNames { method: Method::Priority, wanted: 1, names: vec![name.to_owned()] }
}

fn set_names(names: &str) -> String {
    format!("ALTER SYSTEM SET synchronous_standby_names = {}; SELECT pg_reload_conf();", quoted_text(names))
}

#[cfg(test)]
#[path = "synchronous_tests.rs"]
mod tests;
