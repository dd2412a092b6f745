//! The words a connection string chooses from: how far to encrypt, which certificates to trust, which server will do.

use crate::PgError;
use std::path::PathBuf;
use std::time::Duration;

/// `sslmode` (manual chapter 32.19.3, table "SSL Mode Descriptions").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never encrypted.
    Disable,
    /// Encrypted only when the server refuses a plain connection; no certificate is checked.
    Allow,
    /// Encrypted when the server can; no certificate is checked. What counts when nothing is said.
    Prefer,
    /// Always encrypted; the certificate is checked where there are authorities to check it by, its name is not.
    Require,
    /// Always encrypted, and an authority that is trusted vouches for the certificate; its name is not compared.
    VerifyCa,
    /// As before, and the certificate names the host that is asked for.
    VerifyFull,
}

/// Which certificate authorities are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    /// Those in this PEM file.
    File(PathBuf),
    /// The machine's (`sslrootcert=system`).
    System,
}

/// All that concerns encryption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// `sslmode`; [`SslMode::VerifyFull`] when nothing is said and the machine's authorities are trusted.
    pub mode: SslMode,
    /// `None` when no file is named and `~/.postgresql/root.crt` does not exist.
    pub root: Option<RootCert>,
    /// The client's certificate and key, both in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// `target_session_attrs`: which of several hosts will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSession {
    /// The first of the list that answers.
    Any,
    /// One that is not in recovery and whose transactions may write (`default_transaction_read_only` is off).
    ReadWrite,
    /// One that is in recovery, or whose transactions may not write.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is in recovery.
    Standby,
}

/// When a silent TCP peer is asked for a sign of life, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// After so long without a byte it is asked (`keepalives_idle`).
    pub idle: Duration,
    /// So long after a question without an answer the next one follows (`keepalives_interval`).
    pub interval: Duration,
    /// After so many of them without an answer the connection is lost (`keepalives_count`).
    pub count: u32,
}

impl SslMode {
    pub(crate) fn parse(word: &str) -> Result<Self, PgError> {
        Ok(match word {
            "disable" => Self::Disable,
            "allow" => Self::Allow,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => return Err(wrong(format!("sslmode is {word:?}; it can be disable, allow, prefer, require, verify-ca or verify-full"))),
        })
    }
}

impl TargetSession {
    pub(crate) fn parse(word: &str) -> Result<Self, PgError> {
        Ok(match word {
            "any" => Self::Any,
            "read-write" => Self::ReadWrite,
            "read-only" => Self::ReadOnly,
            "primary" => Self::Primary,
            "standby" => Self::Standby,
            _ => return Err(wrong(format!("target_session_attrs is {word:?}; it can be any, read-write, read-only, primary or standby"))),
        })
    }
    /// The word of the connection string.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
            Self::Primary => "primary",
            Self::Standby => "standby",
        }
    }
    /// Whether a server will do that reported these parameters at the start of the session (both since PostgreSQL 14).
    pub(crate) fn accepts(self, in_hot_standby: bool, read_only_by_default: bool) -> bool {
        match self {
            Self::Any => true,
            Self::Primary => !in_hot_standby,
            Self::Standby => in_hot_standby,
            Self::ReadWrite => !in_hot_standby && !read_only_by_default,
            Self::ReadOnly => in_hot_standby || read_only_by_default,
        }
    }
}

fn wrong(what: impl Into<String>) -> PgError {
    PgError::ConnInfo { what: what.into() }
}
