//! Why somebody could not be told, or a channel could not be made; no word of it holds a secret.

use terms::{Class, Explain};

/// Why a channel cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum AlertError {
    /// Something in its configuration makes no sense.
    #[error("alert channel {channel} cannot be used")]
    Channel { channel: String, why: String, hint: &'static str },
    /// No channel of this name is configured.
    #[error("there is no alert channel {channel}")]
    NoChannel { channel: String, known: Vec<String> },
}

impl Explain for AlertError {
    fn slug(&self) -> &'static str {
        match self {
            Self::Channel { .. } => "alert-channel",
            Self::NoChannel { .. } => "alert-channel-unknown",
        }
    }
    fn class(&self) -> Class {
        Class::Misuse
    }
    fn detail(&self) -> String {
        match self {
            Self::Channel { why, .. } => format!("{why}."),
            Self::NoChannel { known, .. } if known.is_empty() => "None is configured.".to_owned(),
            Self::NoChannel { known, .. } => format!("Configured are {}.", known.join(", ")),
        }
    }
    fn hint(&self) -> String {
        match self {
            Self::Channel { hint, .. } => (*hint).to_owned(),
            Self::NoChannel { .. } => "Give one of these names, or add it to the configuration as [[alerts.channel]].".to_owned(),
        }
    }
}

/// Why one delivery failed. Its text was searched for the channel's secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undelivered {
    /// The cause, in a line.
    pub why: String,
    /// What to do about it; may be empty.
    pub hint: &'static str,
    /// The receiver wants to be left alone for so long.
    pub retry_after: Option<std::time::Duration>,
}

impl Undelivered {
    pub(crate) fn new(why: impl Into<String>, hint: &'static str) -> Self {
        Self { why: why.into(), hint, retry_after: None }
    }
    /// No answer came within the time that one delivery has.
    pub(crate) fn too_late(limit: std::time::Duration) -> Self {
        let hint = "Look whether the receiver answers at all, and at proxies and firewalls on the way.";
        Self::new(format!("no answer within {} s", limit.as_secs_f64()), hint)
    }
}
