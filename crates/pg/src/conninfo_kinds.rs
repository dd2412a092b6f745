//! The words a connection string chooses from: how far to encrypt, which certificates to trust, which server will do.

use crate::PgError;
use std::path::PathBuf;
use std::time::Duration;

/// `sslmode` (manual chapter 32.19.3, table "SSL Mode Descriptions").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
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
    pub mode: SslMode,
    /// `None` when no file is named and `~/.postgresql/root.crt` does not exist.
    pub root: Option<RootCert>,
    /// The client's certificate and key, both in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// `target_session_attrs`: which of several hosts will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSession {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
}

/// When a silent TCP peer is asked for a sign of life, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    pub idle: Duration,
    pub interval: Duration,
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
