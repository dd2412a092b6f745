//! What can go wrong between Bowline and PostgreSQL, one enum for the room.

use crate::disk_error::DiskError;
use crate::instance_error::InstanceError;
use crate::server_error::ServerError;
use std::io;
use std::path::PathBuf;
use terms::{Class, Explain};

/// Trouble with a server, its protocol or its files.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum PgError {
    // ---- connection strings
    /// A connection string or one of its values does not parse.
    #[error("cannot read the connection string")]
    ConnInfo { what: String },
    /// A key that libpq or Bowline does not know.
    #[error("cannot read the connection string")]
    UnknownKey { key: String },
    /// A file that the connection string names (a certificate, a key) cannot be used.
    #[error("cannot use {} {path:?}", what)]
    ConnFile { what: &'static str, path: PathBuf, why: String },

    // ---- reaching a server
    /// Nobody answered at the address: refused, unreachable, unresolvable.
    #[error("cannot connect to PostgreSQL at {address}")]
    Unreachable { address: String, why: io::Error },
    /// No answer within the limit.
    #[error("cannot connect to PostgreSQL at {address}")]
    ConnectTimeout { address: String, seconds: u64 },
    /// The TLS handshake failed; `why` says whether it was the certificate.
    #[error("cannot open an encrypted connection to PostgreSQL at {address}")]
    Tls { address: String, why: String },
    /// The server offers no TLS although it is required.
    #[error("cannot open an encrypted connection to PostgreSQL at {address}")]
    TlsNotOffered { address: String },
    /// The server asks for a password and none is known. `note` says why a password file was not used.
    #[error("cannot log in to PostgreSQL at {address}")]
    PasswordNeeded { address: String, user: String, note: Option<String> },
    /// The server asks for a way to log in that Bowline does not speak.
    #[error("cannot log in to PostgreSQL at {address}")]
    AuthUnsupported { address: String, method: String },
    /// The server is reachable but not of the asked kind (`target_session_attrs`).
    #[error("cannot use PostgreSQL at {address}")]
    WrongSessionKind { address: String, wanted: &'static str },
    /// None of several hosts would do; one reason each, in the order tried.
    #[error("cannot connect to any of the PostgreSQL hosts named")]
    NoHost { tried: Vec<PgError> },
    /// A major version that Bowline does not support.
    #[error("cannot work with PostgreSQL {found} at {address}")]
    ServerTooOld { address: String, found: String },

    // ---- talking to a server
    /// The server said no; its SQLSTATE decides on the class and the next step.
    #[error("cannot {}", .0.doing)]
    Server(Box<ServerError>),
    /// The connection ended in the middle of something.
    #[error("lost the connection to PostgreSQL at {address}")]
    ConnectionLost { address: String, doing: String, why: String },
    /// An answer that PostgreSQL does not give.
    #[error("cannot understand PostgreSQL at {address}")]
    Protocol { address: String, what: String },
    /// A name or value that cannot be sent to the server.
    #[error("cannot use {what} {value:?}")]
    BadValue { what: &'static str, value: String, rule: &'static str },
    /// A tar stream that is not the plain ustar that PostgreSQL sends.
    #[error("cannot read the base backup's tar stream")]
    Tar { what: String },
    // ---- bytes on disk (pages, pg_control, WAL, history files, labels)
    /// A file of PostgreSQL's is not as it must be.
    #[error(transparent)]
    Disk(#[from] DiskError),
    // ---- PostgreSQL's programs
    /// PostgreSQL could not be found, started or stopped.
    #[error(transparent)]
    Instance(#[from] InstanceError),
}

impl Explain for PgError {
    fn slug(&self) -> &'static str {
        match self {
            Self::ConnInfo { .. } => "pg-conninfo",
            Self::UnknownKey { .. } => "pg-conninfo-key",
            Self::ConnFile { .. } => "pg-conninfo-file",
            Self::Unreachable { .. } => "pg-unreachable",
            Self::ConnectTimeout { .. } => "pg-connect-timeout",
            Self::Tls { .. } => "pg-tls",
            Self::TlsNotOffered { .. } => "pg-tls-not-offered",
            Self::PasswordNeeded { .. } => "pg-password-needed",
            Self::AuthUnsupported { .. } => "pg-auth-unsupported",
            Self::WrongSessionKind { .. } => "pg-wrong-session-kind",
            Self::NoHost { .. } => "pg-no-host",
            Self::ServerTooOld { .. } => "pg-too-old",
            Self::Server(error) => error.slug(),
            Self::Disk(error) => error.slug(),
            Self::Instance(error) => error.slug(),
            Self::ConnectionLost { .. } => "pg-connection-lost",
            Self::Protocol { .. } => "pg-protocol",
            Self::BadValue { .. } => "pg-bad-value",
            Self::Tar { .. } => "pg-tar-damaged",
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::ConnInfo { .. } | Self::UnknownKey { .. } | Self::ConnFile { .. } | Self::BadValue { .. } => Class::Misuse,
            Self::Unreachable { .. } | Self::ConnectTimeout { .. } | Self::ConnectionLost { .. } => Class::Transient,
            // A failover may be under way: the next try may find the right server.
            Self::WrongSessionKind { .. } => Class::Transient,
            Self::Tls { .. } | Self::TlsNotOffered { .. } | Self::PasswordNeeded { .. } | Self::AuthUnsupported { .. } => Class::Refused,
            Self::ServerTooOld { .. } => Class::Refused,
            Self::NoHost { tried } => match tried.iter().find(|e| e.class() == Class::Transient) {
                Some(_) => Class::Transient,
                None => tried.first().map_or(Class::Misuse, Explain::class),
            },
            Self::Server(error) => error.class(),
            Self::Disk(error) => error.class(),
            Self::Instance(error) => error.class(),
            Self::Protocol { .. } | Self::Tar { .. } => Class::Damaged,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::ConnInfo { what } | Self::Tar { what } => format!("{what}."),
            Self::UnknownKey { key } => format!("{key:?} is not a connection key that Bowline knows."),
            Self::ConnFile { why, .. } => format!("{why}."),
            Self::Unreachable { why, .. } => format!("{why}."),
            Self::ConnectTimeout { seconds, .. } => format!("There was no answer within {seconds} s."),
            Self::Tls { why, .. } => format!("{why}."),
            Self::TlsNotOffered { .. } => "The server does not offer TLS, but sslmode requires it.".into(),
            Self::PasswordNeeded { user, note, .. } => {
                let note = note.as_ref().map(|n| format!(" {n}.")).unwrap_or_default();
                format!("The server asks for the password of {user:?} and none is given.{note}")
            }
            Self::AuthUnsupported { method, .. } => format!("The server asks for {method}, which Bowline does not speak."),
            Self::WrongSessionKind { wanted, .. } => format!("The connection string asks for a {wanted} server and this one is not."),
            Self::NoHost { tried } => {
                let each: Vec<String> = tried.iter().map(|e| format!("{e}: {}", e.detail())).collect();
                each.join(" ")
            }
            Self::ServerTooOld { .. } => "Bowline works with PostgreSQL 15 and later.".into(),
            Self::Server(error) => error.detail(),
            Self::Disk(error) => error.detail(),
            Self::Instance(error) => error.detail(),
            Self::ConnectionLost { doing, why, .. } => format!("It ended while trying to {doing}: {why}."),
            Self::Protocol { what, .. } => format!("{what}."),
            Self::BadValue { rule, .. } => format!("It must be {rule}."),
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::UnknownKey { .. } | Self::ConnInfo { .. } => {
                "Write it as for psql: \"host=db1 port=5432 user=bowline dbname=postgres\" or postgresql://bowline@db1:5432/postgres.".into()
            }
            Self::Unreachable { why, .. } => match why.kind() {
                io::ErrorKind::NotFound => "Is the server running, and is its socket in this directory (unix_socket_directories)?".into(),
                io::ErrorKind::PermissionDenied => "This user may not reach the socket: check its directory's permissions.".into(),
                _ => "Is the server running, and does it listen there (listen_addresses, port, firewall)?".into(),
            },
            Self::ConnectTimeout { .. } => "Check the address, the firewall and the server's load, or raise connect_timeout.".into(),
            Self::Tls { .. } => {
                "Check sslrootcert and the host name in the server's certificate; sslmode=verify-ca does not compare the name.".into()
            }
            Self::TlsNotOffered { .. } => "Turn ssl on at the server, or use sslmode=prefer if the network is trusted.".into(),
            Self::PasswordNeeded { .. } => "Put it into ~/.pgpass (mode 0600) or PGPASSWORD.".into(),
            Self::AuthUnsupported { .. } => "Let the role log in by scram-sha-256, a certificate or peer in pg_hba.conf.".into(),
            Self::NoHost { tried } => tried.first().map(Explain::hint).unwrap_or_default(),
            Self::Server(error) => error.next_step(),
            Self::Disk(error) => error.hint(),
            Self::Instance(error) => error.hint(),
            _ => String::new(),
        }
    }
}
