//! Why nothing is shown.

use std::net::SocketAddr;
use std::path::PathBuf;
use terms::{Class, Explain};

/// Why the page could not be opened.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum PageError {
    /// Beyond this host it lacks a token or TLS.
    #[error("the page would be open to others on {listen}")]
    Open { listen: SocketAddr, lacks: &'static str },
    /// It could be guessed.
    #[error("the page's token is too short")]
    ShortToken { least: usize },
    /// The certificate or its key cannot be read, or is none.
    #[error("cannot read {}", path.display())]
    Tls { path: PathBuf, why: String },
    /// The operating system said no: the port is taken, or not for this user.
    #[error("cannot listen on {listen}")]
    Listen { listen: SocketAddr, why: String },
}

impl Explain for PageError {
    fn slug(&self) -> &'static str {
        match self {
            Self::Open { .. } => "page-open",
            Self::ShortToken { .. } => "page-token-short",
            Self::Tls { .. } => "page-tls",
            Self::Listen { .. } => "page-listen",
        }
    }
    fn class(&self) -> Class {
        Class::Misuse
    }
    fn detail(&self) -> String {
        match self {
            Self::Open { lacks, .. } => format!("Beyond this host it needs a token and TLS; it has no {lacks}."),
            Self::ShortToken { least } => format!("It has fewer than {least} characters."),
            Self::Tls { why, .. } | Self::Listen { why, .. } => format!("{why}."),
        }
    }
    fn hint(&self) -> String {
        match self {
            Self::Open { .. } => "Set [page] token, tls_cert and tls_key, or listen on 127.0.0.1 and reach it by ssh -L 9187:127.0.0.1:9187.".into(),
            Self::ShortToken { .. } => "Make one with: openssl rand -hex 24".into(),
            Self::Tls { .. } => {
                "[page] tls_cert and tls_key name PEM files that the daemon may read: the certificate with its chain, and its key.".into()
            }
            Self::Listen { .. } => "Let [page] listen name a free port of this host.".into(),
        }
    }
}
