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
    pub url: String,
    pub options: StoreOptions,
}

/// The application's bucket and where its second copy is.
#[derive(Debug, Clone)]
pub struct Settings {
    pub primary: Place,
    /// The bucket that the store itself copies it to.
    pub replica: Option<Place>,
    pub replication_role: Option<String>,
    pub replication_target: Option<String>,
    pub replica_kms_key: Option<String>,
}
