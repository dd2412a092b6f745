//! The application's bucket: its replication, how far the copy is behind, snapshots of it, and how it was at an instant.

mod agree;
mod around;
mod behind;
mod canary;
mod compare;
mod enable;
mod error;
mod feed;
mod follow;
mod lines;
mod observe;
mod pairs;
mod restore;
mod sealing;
mod snapshot;
mod source;
mod tally;
mod versions;

pub use agree::{Agreement, Reference, agree};
pub use canary::{Canary, CanaryFacts, Writes};
pub use enable::{Enabling, Side, Task};
pub use error::PackagesError;
pub use follow::{Followed, Follower};
pub use observe::{Observed, PackagesFacts, Requeued, SideFacts, look, observe};
pub use restore::{RestoreReport, RestoreWish, as_restored, plan, restore};
pub use snapshot::{SnapshotReport, age_seconds, snapshot};
pub use source::{Snapshots, Source, Wanted};

use store::StoreOptions;

/// A bucket or folder, and how it is reached.
#[derive(Debug, Clone)]
pub struct Place {
    /// `s3://bucket/prefix`, perhaps with options after a `?`, or `file:///folder`.
    pub url: String,
    /// Region, endpoint and credentials, where the url does not say them.
    pub options: StoreOptions,
}

/// The application's bucket and where its second copy is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the application itself reads and writes.
    pub primary: Place,
    /// The bucket that the store itself copies it to.
    pub replica: Option<Place>,
    /// As whom the store copies, an ARN; `None`: nobody, which AWS refuses.
    pub replication_role: Option<String>,
    /// What the rule names as its destination; `None`: the replica's own ARN.
    pub replication_target: Option<String>,
    /// With which the copies are encrypted, an ARN; `None`: whatever the replica's bucket does by itself.
    pub replica_kms_key: Option<String>,
}
