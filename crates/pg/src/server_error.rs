//! A server's refusal in its own words, with what its SQLSTATE means for us and the next step.

use std::sync::Arc;
use terms::Class;

/// With whom we speak, for messages; holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `db1:5432` or `/run/postgresql/.s.PGSQL.5432`.
    pub address: String,
    /// The role.
    pub user: String,
    /// The database, or `replication` for a replication connection.
    pub database: String,
}

/// An ErrorResponse (manual chapter 54.8, "Error and Notice Message Fields").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// Who said it.
    pub peer: Arc<Peer>,
    /// What we wanted, to follow "cannot".
    pub doing: String,
    /// The SQLSTATE, five characters.
    pub code: String,
    /// The primary message.
    pub message: String,
    /// The server's detail, or empty.
    pub server_detail: String,
    /// The server's hint, or empty.
    pub server_hint: String,
}

impl ServerError {
    /// A word to search for.
    pub fn slug(&self) -> &'static str {
        match self.code.as_str() {
            "28P01" => "pg-wrong-password",
            "28000" if self.is_hba() => "pg-no-hba-entry",
            "28000" => "pg-login-refused",
            "42501" => "pg-permission",
            "53300" => "pg-too-many-connections",
            "53400" => "pg-limit-reached",
            "57P03" => "pg-not-ready",
            "57P01" | "57P02" => "pg-shut-down",
            "55006" => "pg-in-use",
            "58P01" if self.is_removed_wal() => "pg-wal-removed",
            "3D000" => "pg-no-database",
            "42704" => "pg-no-such-object",
            "55000" if self.is_invalidated_slot() => "pg-slot-invalidated",
            "55000" => "pg-wrong-state",
            "XX001" | "XX002" => "pg-data-damaged",
            _ => "pg-server-error",
        }
    }

    /// What the SQLSTATE means (manual appendix A): its first two characters are its class.
    pub fn class(&self) -> Class {
        match self.code.as_str() {
            "55006" => Class::Held,
            "57P04" | "3D000" | "42704" | "42883" | "58P01" => Class::Missing,
            "42501" => Class::Refused,
            "XX001" | "XX002" => Class::Damaged,
            code => match code.get(..2).unwrap_or_default() {
                "08" | "40" | "53" | "57" | "58" => Class::Transient,
                "42" | "22" => Class::Bug,
                _ => Class::Refused,
            },
        }
    }

    /// Who, as whom, what the server said.
    pub fn detail(&self) -> String {
        let Peer { address, user, database } = &*self.peer;
        let more = if self.server_detail.is_empty() { String::new() } else { format!(": {}", self.server_detail.trim_end_matches('.')) };
        format!("{address}, user {user}, database {database}: {}{more} (SQLSTATE {}).", self.message, self.code)
    }

    /// What to do about it.
    pub fn next_step(&self) -> String {
        let Peer { user, database, .. } = &*self.peer;
        match self.code.as_str() {
            "28P01" => format!("Check the password of {user:?} in the connection string, PGPASSWORD or ~/.pgpass."),
            "28000" if self.is_hba() => format!("Add this line to the server's pg_hba.conf and reload it: {}", self.hba_line()),
            // Debian lets local users in by their names alone, in a line for all.
            "28000" if self.message.contains("authentication failed") => {
                format!("Put this line above all others in the server's pg_hba.conf and reload it: {}", self.hba_line())
            }
            "28000" if self.message.contains("does not exist") || self.message.contains("not permitted to log in") => {
                format!("Create the role: CREATE ROLE {} LOGIN REPLICATION;", ident(user))
            }
            "42501" => self.grant(),
            "53300" if database == "replication" => {
                "Raise max_wal_senders, or end a WAL sender that is no longer needed (pg_stat_replication).".into()
            }
            "53300" => "Raise max_connections, or give the role one of the reserved ones (pg_use_reserved_connections, 16 and later).".into(),
            "53400" => "Raise max_replication_slots, or drop a slot that is no longer needed (pg_replication_slots).".into(),
            "57P03" => "The server is starting, stopping or recovering; try again when it accepts connections.".into(),
            "55006" => "Another connection uses it; see pg_replication_slots.active_pid and pg_stat_replication.".into(),
            "58P01" if self.is_removed_wal() => {
                "The server no longer has this WAL: take a new base backup, and stream through a slot so that it cannot happen again.".into()
            }
            "55000" if self.is_invalidated_slot() => "Drop the slot with pg_drop_replication_slot; a receiver makes its own anew.".into(),
            "3D000" => "Name an existing database (dbname=postgres).".into(),
            _ => self.server_hint.clone(),
        }
    }

    /// Whether pg_hba.conf said no (src/backend/libpq/auth.c, `ClientAuthentication`).
    fn is_hba(&self) -> bool {
        self.message.contains("pg_hba.conf")
    }

    /// src/backend/replication/walsender.c: "requested WAL segment %s has already been removed".
    fn is_removed_wal(&self) -> bool {
        self.message.contains("has already been removed")
    }

    /// src/backend/replication/slot.c, `ReplicationSlotAcquire`, from PostgreSQL 18 on.
    fn is_invalidated_slot(&self) -> bool {
        self.message.contains("can no longer access replication slot")
    }

    /// The line that would let this connection in, from the address that the server saw.
    fn hba_line(&self) -> String {
        let database = if self.message.contains("replication connection") { "replication" } else { &self.peer.database };
        let user = ident(&self.peer.user);
        let from = self.message.split_once("host \"").and_then(|(_, rest)| rest.split_once('"')).map(|(host, _)| host);
        match from {
            None | Some("[local]") => format!("local {database} {user} scram-sha-256"),
            Some(host) => {
                let bits = if host.contains(':') { 128 } else { 32 };
                let kind = if self.message.contains("no encryption") || self.message.contains("SSL off") { "host" } else { "hostssl" };
                format!("{kind} {database} {user} {host}/{bits} scram-sha-256")
            }
        }
    }

    /// The statement that gives the role what it lacks.
    fn grant(&self) -> String {
        let user = ident(&self.peer.user);
        let text = &self.message;
        // PostgreSQL 15 names the role attribute in the message, 16 and later in the detail.
        if text.contains("WAL sender") || text.contains("walsender") || text.contains("replication slots") {
            return format!("As a superuser: ALTER ROLE {user} REPLICATION;");
        }
        if let Some(name) = text.strip_prefix("permission denied for function ") {
            let arguments = match name {
                "pg_backup_start" => "(text, boolean)",
                "pg_backup_stop" => "(boolean)",
                "pg_switch_wal" => "()",
                "pg_create_restore_point" => "(text)",
                _ => "",
            };
            return format!("As a superuser, in database {}: GRANT EXECUTE ON FUNCTION pg_catalog.{name}{arguments} TO {user};", self.peer.database);
        }
        format!("As a superuser: GRANT pg_monitor TO {user};")
    }
}

/// A role's name as SQL wants it (`quote_ident`).
fn ident(name: &str) -> String {
    let plain = name.bytes().enumerate().all(|(i, b)| b.is_ascii_lowercase() || b == b'_' || (i > 0 && b.is_ascii_digit()));
    if plain && !name.is_empty() { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: &str, message: &str) -> ServerError {
        let peer = Peer { address: "db1:5432".into(), user: "bowline".into(), database: "postgres".into() };
        ServerError {
            peer: Arc::new(peer),
            doing: "connect".into(),
            code: code.into(),
            message: message.into(),
            server_detail: String::new(),
            server_hint: String::new(),
        }
    }

    #[test]
    fn a_missing_grant_is_answered_with_the_grant() {
        let error = said("42501", "permission denied for function pg_backup_start");
        assert_eq!(error.class(), Class::Refused);
        assert!(error.next_step().ends_with("GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text, boolean) TO bowline;"));
        let error = said("42501", "must be superuser or replication role to start walsender");
        assert!(error.next_step().ends_with("ALTER ROLE bowline REPLICATION;"));
    }

    #[test]
    fn a_missing_hba_entry_is_answered_with_the_line_for_the_address_the_server_saw() {
        let error = said("28000", "no pg_hba.conf entry for replication connection from host \"10.0.0.7\", user \"bowline\", no encryption");
        assert_eq!((error.slug(), error.class()), ("pg-no-hba-entry", Class::Refused));
        assert!(error.next_step().ends_with("host replication bowline 10.0.0.7/32 scram-sha-256"), "{}", error.next_step());
        let error = said("28000", "no pg_hba.conf entry for host \"[local]\", user \"bowline\", database \"postgres\", no encryption");
        assert!(error.next_step().ends_with("local postgres bowline scram-sha-256"));
        let error = said("28000", "Peer authentication failed for user \"bowline\"");
        assert_eq!((error.slug(), error.class()), ("pg-login-refused", Class::Refused));
        assert!(error.next_step().starts_with("Put this line above all others") && error.next_step().ends_with(" bowline scram-sha-256"));
    }

    #[test]
    fn what_may_pass_by_itself_is_transient_and_the_rest_is_not() {
        for code in ["57P03", "53300", "57P01", "08006"] {
            assert_eq!(said(code, "").class(), Class::Transient, "{code}");
        }
        assert_eq!(said("28P01", "").class(), Class::Refused);
        assert_eq!(said("55006", "").class(), Class::Held);
        assert_eq!(said("58P01", "requested WAL segment 000000010000000000000001 has already been removed").slug(), "pg-wal-removed");
        assert_eq!(said("55000", "can no longer access replication slot \"bowline\"").slug(), "pg-slot-invalidated");
        assert_eq!(said("55000", "cannot use a logical replication slot for physical replication").slug(), "pg-wrong-state");
    }

    #[test]
    fn a_role_with_odd_letters_is_quoted() {
        assert_eq!(ident("bow-line"), "\"bow-line\"");
        assert_eq!(ident("a\"b"), "\"a\"\"b\"");
        assert_eq!(ident("bowline_2"), "bowline_2");
    }
}
