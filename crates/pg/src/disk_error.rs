//! What can be wrong with PostgreSQL's files: pg_control, WAL, history files and labels.

use std::path::PathBuf;
use terms::{Class, Explain, SystemId};

/// Trouble with a file of PostgreSQL.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum DiskError {
    /// pg_control is too short, its checksum does not match, or a value in it is impossible.
    #[error("cannot read pg_control")]
    Control { what: String },
    /// pg_control was written by a PostgreSQL that Bowline does not support.
    #[error("cannot work with this data directory")]
    ControlVersion { control_version: u32, catalog_version: u32 },
    /// A WAL segment's first page is not what its name says.
    #[error("cannot accept WAL segment {segment}")]
    Segment { segment: String, what: String },
    /// A WAL segment of another cluster.
    #[error("cannot accept WAL segment {segment}")]
    ForeignSegment { segment: String, wanted: SystemId, found: SystemId },
    /// A timeline history file that PostgreSQL would refuse.
    #[error("cannot read a timeline history file")]
    History { what: String },
    /// A backup_label or tablespace_map that PostgreSQL would refuse.
    #[error("cannot read {file}")]
    Label { file: &'static str, what: String },
    /// A file or directory could not be used at all.
    #[error("cannot {doing} {path:?}")]
    Io { doing: &'static str, path: PathBuf, why: std::io::Error },
}

impl Explain for DiskError {
    fn slug(&self) -> &'static str {
        match self {
            Self::Control { .. } => "pg-control-damaged",
            Self::ControlVersion { .. } => "pg-too-old",
            Self::Segment { .. } => "wal-damaged",
            Self::ForeignSegment { .. } => "wal-foreign",
            Self::History { .. } => "history-damaged",
            Self::Label { .. } => "label-damaged",
            Self::Io { .. } => "pg-file",
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::Control { .. } | Self::Segment { .. } | Self::History { .. } | Self::Label { .. } => Class::Damaged,
            Self::ControlVersion { .. } | Self::ForeignSegment { .. } => Class::Refused,
            Self::Io { why, .. } => match why.kind() {
                std::io::ErrorKind::NotFound => Class::Missing,
                _ => Class::Refused,
            },
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Control { what } | Self::Segment { what, .. } | Self::History { what } | Self::Label { what, .. } => format!("{what}."),
            Self::ControlVersion { control_version, catalog_version } => {
                format!("Its pg_control has version {control_version} and catalog version {catalog_version}; Bowline knows PostgreSQL 15 to 18.")
            }
            Self::ForeignSegment { wanted, found, .. } => {
                format!("It belongs to the cluster with system identifier {found}, not to {wanted}.")
            }
            Self::Io { why, .. } => format!("{why}."),
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::ForeignSegment { .. } => "Each cluster needs its own repository: compare with pg_controldata.".into(),
            _ => String::new(),
        }
    }
}
