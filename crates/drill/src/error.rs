//! Why a drill could not be held. What a drill finds out is no error: it is in its report.

use pg::InstanceError;
use restore::RestoreError;
use std::path::PathBuf;
use terms::{Class, Explain};

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum DrillError {
    /// Where it was to happen.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// PostgreSQL's programs.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// A file or directory of the drill's.
    #[error("cannot {operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    /// There is no room for the restored cluster.
    #[error("there is no room for a drill in {}", dir.display())]
    NoRoom { dir: PathBuf, needed: u64, free: u64 },
    /// It was to be held as a user that it cannot be held as.
    #[error("a drill cannot run as user {name:?}")]
    User { name: String, why: String },
    /// A mistake in Bowline.
    #[error("internal error: {0}")]
    Bug(String),
}

impl DrillError {
    pub(crate) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }
}

impl Explain for DrillError {
    fn slug(&self) -> &'static str {
        match self {
            Self::Restore(e) => e.slug(),
            Self::Instance(e) => e.slug(),
            Self::File { .. } => "drill-place",
            Self::NoRoom { .. } => "disk-full",
            Self::User { .. } => "drill-user",
            Self::Bug(_) => "bug",
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::Restore(e) => e.class(),
            Self::Instance(e) => e.class(),
            Self::File { .. } | Self::NoRoom { .. } | Self::User { .. } => Class::Refused,
            Self::Bug(_) => Class::Bug,
        }
    }
    fn detail(&self) -> String {
        match self {
            Self::Restore(e) => e.detail(),
            Self::Instance(e) => e.detail(),
            Self::File { source, .. } => format!("{source}."),
            Self::NoRoom { needed, free, .. } => {
                format!("It takes about {needed} bytes, and {free} are free. Nothing was restored, hence nothing verified.")
            }
            Self::User { why, .. } => why.clone(),
            Self::Bug(_) => String::new(),
        }
    }
    fn hint(&self) -> String {
        match self {
            Self::Restore(e) => e.hint(),
            Self::Instance(e) => e.hint(),
            Self::File { .. } => "Name a directory that can be written to: --dir DIR, or [drill] dir.".into(),
            Self::NoRoom { .. } => "Free some space, or name a directory on a larger disk: --dir DIR, or [drill] dir.".into(),
            Self::User { name, .. } => {
                format!(
                    "Make it (useradd --system {name}) and run bowline verify as root, or leave [drill] user out: then it is the user whose PostgreSQL it is."
                )
            }
            Self::Bug(_) => String::new(),
        }
    }
}
