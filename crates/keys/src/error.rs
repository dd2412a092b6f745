//! What can be wrong with a key.

use std::path::PathBuf;
use terms::{Class, Explain};

/// Why a key could not be made or read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum KeyError {
    /// There is no file.
    #[error("key file {} does not exist", path.display())]
    Missing { path: PathBuf },
    /// The file is there already.
    #[error("key file {} exists already", path.display())]
    Exists { path: PathBuf },
    /// The operating system said no.
    #[error("cannot {operation} key file {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    /// Others can read it.
    #[error("key file {} can be read by others", path.display())]
    TooOpen { path: PathBuf, mode: u32 },
    /// Not a key, or a damaged one.
    #[error("{} is not a Bowline key file", path.display())]
    NotAKey { path: PathBuf, why: &'static str },
    /// Nobody of this kind can be a recipient, or not with these settings.
    #[error("{text:?} is not a recipient")]
    NotARecipient { text: String, why: String },
    /// What a recipient needs before anybody is asked could not be had.
    #[error("recipient {recipient} cannot be used")]
    Unusable { recipient: String, why: String, hint: String, class: Class },
}

impl Explain for KeyError {
    fn slug(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "key-missing",
            Self::Exists { .. } => "key-exists",
            Self::Io { .. } => "key-unreadable",
            Self::TooOpen { .. } => "key-too-open",
            Self::NotAKey { .. } => "key-damaged",
            Self::NotARecipient { .. } => "recipient-unknown",
            Self::Unusable { .. } => "recipient-unusable",
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::Missing { .. } => Class::Missing,
            Self::Exists { .. } | Self::Io { .. } | Self::TooOpen { .. } => Class::Refused,
            Self::NotAKey { .. } => Class::Damaged,
            Self::NotARecipient { .. } => Class::Misuse,
            Self::Unusable { class, .. } => *class,
        }
    }
    fn detail(&self) -> String {
        match self {
            Self::Io { source, .. } => source.to_string(),
            Self::TooOpen { mode, .. } => format!("Its mode is {mode:04o}."),
            Self::NotAKey { why, .. } => format!("{why}."),
            Self::NotARecipient { why, .. } | Self::Unusable { why, .. } => format!("{why}."),
            _ => String::new(),
        }
    }
    fn hint(&self) -> String {
        match self {
            Self::Missing { .. } => {
                "Copy the key that this repository was initialised with to this place, or name another with [encryption] recipients or --key; for a new repository bowline init makes it.".into()
            }
            Self::Exists { .. } => "Keep it if a repository uses it; otherwise move it away first, or name another file.".into(),
            Self::Io { .. } => "Run as the user that owns it, or give that user's group read access.".into(),
            Self::TooOpen { path, .. } => format!("chmod 0600 {}", path.display()),
            Self::NotAKey { .. } => "Use the copy that you kept elsewhere.".into(),
            Self::NotARecipient { .. } => {
                "Use file:/absolute/path, aws-kms:KEY (an id, ARN or alias), vault-transit:KEY or age:age1…; docs/security.md describes each.".into()
            }
            Self::Unusable { hint, .. } => hint.clone(),
        }
    }
}
