//! Doors to object storage behind small traits, each authority its own: [`Fetch`], [`Put`], [`Remove`].
//!
//! An object is written once under a name that did not exist before; only the few mutable documents
//! (coverage, leases) are replaced, by compare-and-swap. Nothing here needs rename or delete to be correct.

mod address;
mod bucket;
mod disk;
mod error;
mod fault;
mod lock;
mod memory;
mod open;
mod past;
mod path;
mod pending;
mod probe;
mod s3;
mod site;
mod token;

pub use bucket::{
    Bucket, BucketState, BucketWish, DefaultEncryption, Fact, Harm, OldVersions, Outcome, Replication, ReplicationWish, Step, Unfinished,
    end_abandoned_uploads,
};
pub use disk::Disk;
pub use fault::{Fault, FaultPlan, Faults};
pub use lock::{Extended, LockMode, ObjectLock, extend_locks};
pub use memory::Memory;
pub use open::{Renew, Store, StoreOptions, create_root, open, open_past, open_remover, open_versions};
pub use past::{Past, Sight};
pub use path::ObjectPath;
pub use probe::{Capabilities, Nature, probe};
pub use s3::{S3, Sse};
pub use site::{CANARY, Item, ItemFacts, Pace, Site, SiteUpload};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::ops::Range;
use std::sync::Arc;
use terms::Timestamp;

/// What a store knows of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Where it is.
    pub path: ObjectPath,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
    /// What changes whenever its bytes do (an ETag); compared, never parsed.
    pub version: Version,
}

/// An object's version as the store names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(pub(crate) String);

/// How a conditional put ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// These bytes are now the object: this caller's put was the one.
    New,
    /// Another object was there first and stays as it is.
    AlreadyThere,
}

/// The door for reading.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// The whole object. [`StoreError::Missing`] when there is none.
    async fn get(&self, path: &ObjectPath) -> Result<Bytes, StoreError>;
    /// Exactly the bytes of `range`; [`StoreError::Truncated`] when the object ends before it.
    async fn get_range(&self, path: &ObjectPath, range: Range<u64>) -> Result<Bytes, StoreError>;
    /// What is known of the object, or `None` when a successful answer says that there is none.
    async fn info(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, StoreError>;
    /// Every object below `folder` (recursively), after `after` when given, ordered by path bytes.
    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a ObjectPath>) -> BoxStream<'a, Result<ObjectInfo, StoreError>>;
    /// The names of the folders directly below `folder`, sorted. Some S3 servers (SeaweedFS) go on naming a folder for a while
    /// after its last object was removed: a name is no proof that something is in it.
    async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError>;
    /// The uploads below this store's root that were begun and never completed: they cost room and are seen by no listing.
    async fn unfinished(&self) -> Result<Fact<Vec<Unfinished>>, StoreError> {
        Ok(Fact::Known(Vec::new()))
    }
    /// The store's address for messages, without secrets: `file:///srv/backups`, `s3://bucket/prefix`.
    fn address(&self) -> String;
    /// Whether many requests should be under way at once because each has a long way to go (S3: yes; a folder: no).
    fn is_remote(&self) -> bool;
}

/// One version of an object, or its removal, as a bucket keeps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion {
    /// Below the store's root, without the bucket's prefix.
    pub path: ObjectPath,
    /// As the store names it; `null` for what is older than versioning.
    pub id: String,
    /// Of this version; 0 of a removal.
    pub bytes: u64,
    /// When it was written or removed, by the store's clock, in whole seconds on some servers.
    pub modified: Timestamp,
    /// Nothing came after it: a removal that is the latest hides the object.
    pub is_latest: bool,
    /// From then on the object was not there (a delete marker).
    pub is_removal: bool,
}

/// The door to what was there before: only buckets with versioning have it.
#[async_trait]
pub trait Versions: Send + Sync {
    /// Every version of every object whose path begins with `prefix`: by the bytes of paths, of each object the newest first.
    fn versions(&self, prefix: String) -> BoxStream<'_, Result<ObjectVersion, StoreError>>;
    /// The folders directly below `folder` in which there is or was something, sorted.
    async fn version_folders(&self, folder: &str) -> Result<Vec<String>, StoreError>;
    /// One version whole, or exactly these bytes of it.
    async fn get_version(&self, path: &ObjectPath, id: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError>;
    /// Locks one version until then; a lock only ever grows longer.
    async fn lock_version(&self, path: &ObjectPath, id: &str, mode: LockMode, until: Timestamp) -> Result<(), StoreError>;
    /// Until when this version is locked.
    async fn locked_until(&self, path: &ObjectPath, id: &str) -> Result<Option<(LockMode, Timestamp)>, StoreError>;
}

/// The door for adding. Whatever returns `Ok` is durable, except where [`Put::settle`] says otherwise.
#[async_trait]
pub trait Put: Fetch {
    /// Writes an object that must not exist yet. Of racing callers exactly one is told [`Created::New`].
    /// An answer lost on the way is settled by reading back: if the stored bytes equal `body`, the put is [`Created::New`].
    async fn put_new(&self, path: &ObjectPath, body: Bytes) -> Result<Created, StoreError>;
    /// Makes an object that another process may have written as durable as one's own, before it is counted on: on a folder its
    /// writer may not have come so far yet. Where it is missing, a folder says [`StoreError::Missing`]; a bucket's objects are
    /// durable as soon as they can be seen, and it is not asked.
    async fn harden(&self, path: &ObjectPath) -> Result<(), StoreError>;
    /// Replaces an object if its version still is `expected` (`None`: if it does not exist).
    /// `Ok(None)` when somebody else was faster and nothing was written.
    async fn replace(&self, path: &ObjectPath, body: Bytes, expected: Option<&Version>) -> Result<Option<Version>, StoreError>;
    /// Begins a large object that is appended to by several threads and must not exist yet.
    /// Must be called outside the runtime's own threads, like everything on [`ObjectSink`].
    fn begin(&self, path: &ObjectPath) -> Result<Arc<dyn ObjectSink>, StoreError>;
    /// Whether objects can grow here: then what is added a little at a time costs less than an object for each.
    fn can_grow(&self) -> bool {
        false
    }
    /// Begins an object that grows under its own name and must not exist yet; where [`Put::can_grow`] says so. Blocks.
    fn grow(&self, path: &ObjectPath) -> Result<Box<dyn Growing>, StoreError> {
        Err(StoreError::Failed { store: self.address(), operation: "write", path: path.to_string(), why: "objects cannot grow here".to_owned() })
    }
    /// Returns when every object finished so far is durable, with the first error of any of them.
    /// A failure stays: every later call tells it again, so that no run can take another run's answer. Open a store for each run.
    async fn settle(&self) -> Result<(), StoreError>;
    /// What the store is like beyond its objects; `path` is a free name to try something at. For the probe.
    async fn nature(&self, _path: &ObjectPath) -> Result<Nature, StoreError> {
        Ok(Nature::default())
    }
    /// Whether this store may be written to at all, before anything is: [`StoreError::NotEncrypted`] where it does not encrypt as it must.
    async fn ready(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// One large object being written.
pub trait ObjectSink: Send + Sync {
    /// Appends `bytes` in one piece and returns the offset at which they lie. Safe from several threads.
    fn append(&self, bytes: &[u8]) -> Result<u64, StoreError>;
    /// No more appends follow. The object may become durable only later: see [`Put::settle`].
    fn finish(&self) -> Result<(), StoreError>;
}

/// An object that grows. Others see it, empty, from its beginning on; from the first addition on it stays when this is dropped.
/// Zeros may follow what was added.
pub trait Growing: Send {
    /// Adds these bytes, durably. Blocks. After an error part of them may be there, and nothing more may be added.
    fn add(&mut self, bytes: &[u8]) -> Result<(), StoreError>;
}

/// The door for removing; only upkeep holds it.
#[async_trait]
pub trait Remove: Fetch {
    /// Removes the object; it is no error when there is none. Where versions are kept, they stay.
    async fn remove(&self, path: &ObjectPath) -> Result<(), StoreError>;
    /// Removes one version for good; a lock on it refuses that with [`StoreError::Denied`] or [`StoreError::Failed`].
    async fn remove_version(&self, path: &ObjectPath, id: &str) -> Result<(), StoreError> {
        let why = format!("this store keeps no versions such as {id}");
        Err(StoreError::Failed { store: self.address(), operation: "remove", path: path.to_string(), why })
    }
    /// Ends an upload that nobody completes; it is no error when it is gone.
    async fn abandon(&self, _upload: &Unfinished) -> Result<(), StoreError> {
        Ok(())
    }
}

/// What a store could not do, and with which object.
#[derive(Debug, Clone, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum StoreError {
    /// A successful answer says that there is no such object.
    #[error("{store} has no object {path}")]
    Missing { store: String, path: String },
    /// The object ends before the bytes asked for.
    #[error("object {path} in {store} is shorter than it must be")]
    Truncated { store: String, path: String, wanted: u64, found: u64 },
    /// The store refuses these credentials this operation.
    #[error("{store} denies {operation} on {path}")]
    Denied { store: String, operation: &'static str, path: String, why: String },
    /// It lies in an archive, from which it must be brought back before it can be read.
    #[error("object {path} in {store} is archived and cannot be read as it is")]
    Archived { store: String, path: String },
    /// No answer, or none in time.
    #[error("cannot reach {store} to {operation} {path}")]
    Unreachable { store: String, operation: &'static str, path: String, why: String },
    /// The server does not prove to be who it says: its certificate is not trusted, has expired or names another host.
    #[error("{store} is not trusted to {operation} {path}")]
    Untrusted { store: String, operation: &'static str, path: String, why: String },
    /// No space left, or a quota is used up.
    #[error("{store} is full: cannot {operation} {path}")]
    Full { store: String, operation: &'static str, path: String, why: String },
    /// The bucket or folder itself is not there.
    #[error("{store} does not exist")]
    NoStore { store: String, why: String },
    /// The address or the options make no sense.
    #[error("the repository cannot be opened as {url:?}: the address or a setting of it is wrong")]
    BadAddress { url: String, why: String },
    /// The store does not encrypt as it must.
    #[error("{store} does not encrypt what it keeps as it must")]
    NotEncrypted { store: String, why: String },
    /// Anything else the store answered.
    #[error("{store} failed to {operation} {path}")]
    Failed { store: String, operation: &'static str, path: String, why: String },
    /// An object that must be new is there already.
    #[error("object {path} in {store} exists already")]
    Exists { store: String, path: String },
}
