//! What can go wrong with packages, and what to do next.

use repo::RepoError;
use store::StoreError;
use terms::{Class, Explain, Timestamp};

/// Why something about packages was not done.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum PackagesError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// The store cannot replicate this.
    #[error("{address} cannot be replicated by its store")]
    NotReplicable { address: String, why: String },
    /// A replica is asked for, and none is configured.
    #[error("no replica of the packages is configured")]
    NoReplica,
    /// Neither replica nor snapshots.
    #[error("nothing says from where packages could be restored")]
    NoSource,
    /// The replica keeps no versions.
    #[error("{address} keeps no versions")]
    NoVersions { address: String },
    /// No snapshot is old enough.
    #[error("there is no snapshot of the packages as of {at}")]
    NoSnapshot { at: Timestamp, oldest: Option<String> },
    /// A snapshot's objects are not what they must be.
    #[error("the snapshot {snapshot} of the packages is damaged")]
    Damaged { snapshot: String, why: String },
    /// It belongs to another bucket.
    #[error("the snapshots in {repository} are of another bucket")]
    OtherBucket { repository: String, theirs: String, ours: String },
    /// The target would lose what is there.
    #[error("{address} keeps no versions, and what is there would be overwritten")]
    WouldDestroy { address: String },
    /// Some objects were not brought back.
    #[error("{failed} packages were not restored")]
    Incomplete { failed: u64, first: String },
    /// It is never the same from one moment to the next.
    #[error("{key} changes while it is read, again and again")]
    Unsteady { key: String },
    /// A mistake in Bowline.
    #[error("{0}")]
    Bug(String),
}

impl Explain for PackagesError {
    fn slug(&self) -> &'static str {
        match self {
            Self::Store(error) => error.slug(),
            Self::Repo(error) => error.slug(),
            Self::NotReplicable { .. } => "packages-not-replicable",
            Self::NoReplica => "packages-no-replica",
            Self::NoSource => "packages-no-source",
            Self::NoVersions { .. } => "packages-no-versions",
            Self::NoSnapshot { .. } => "packages-no-snapshot",
            Self::Damaged { .. } => "packages-damaged",
            Self::OtherBucket { .. } => "packages-other-bucket",
            Self::WouldDestroy { .. } => "packages-would-destroy",
            Self::Incomplete { .. } => "packages-incomplete",
            Self::Unsteady { .. } => "packages-unsteady",
            Self::Bug(_) => "bug",
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::Store(error) => error.class(),
            Self::Repo(error) => error.class(),
            Self::NotReplicable { .. } | Self::NoReplica | Self::NoSource => Class::Misuse,
            Self::NoVersions { .. } | Self::OtherBucket { .. } | Self::WouldDestroy { .. } => Class::Refused,
            Self::NoSnapshot { .. } | Self::Incomplete { .. } => Class::Missing,
            Self::Damaged { .. } => Class::Damaged,
            Self::Unsteady { .. } => Class::Transient,
            Self::Bug(_) => Class::Bug,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Store(error) => error.detail(),
            Self::Repo(error) => error.detail(),
            Self::NotReplicable { why, .. } | Self::Damaged { why, .. } => why.clone(),
            Self::NoSnapshot { oldest: Some(oldest), .. } => format!("The oldest one is {oldest}."),
            Self::NoSnapshot { oldest: None, .. } => "There is none at all.".to_owned(),
            Self::OtherBucket { theirs, ours, .. } => format!("They are of {theirs}; the configuration says {ours}."),
            Self::Incomplete { first, .. } => format!("The first one: {first}."),
            _ => String::new(),
        }
    }

    fn hint(&self) -> String {
        let hint = match self {
            Self::Store(error) => return error.hint(),
            Self::Repo(error) => return error.hint(),
            Self::NotReplicable { .. } => "Set [packages] snapshots and run bowline packages snapshot instead.",
            Self::NoReplica => "Set [packages] replica; or, for a store without replication, snapshots.",
            Self::NoSource => "Set [packages] replica or snapshots.",
            Self::NoVersions { .. } => "Run bowline packages enable: without versions nobody knows what was there at an instant.",
            Self::NoSnapshot { .. } => "Choose a later time, or restore the database without packages: --no-packages.",
            Self::Damaged { .. } => "Restore from another snapshot (an earlier --to), and make a new one.",
            Self::OtherBucket { .. } => "Let each bucket have its snapshots in a repository of its own, or give this one's former address.",
            Self::WouldDestroy { .. } => "Let it keep versions (bowline packages enable), or restore into an empty bucket with --into.",
            Self::Incomplete { .. } => "Run the same command again: it goes on with what is missing.",
            Self::Unsteady { .. } => "Run it again when nobody writes to it; a snapshot is never listed with half an object in it.",
            Self::Bug(_) => "",
        };
        hint.to_owned()
    }
}
