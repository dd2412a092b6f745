//! Opens the store an address names.

use crate::address::Address;
use crate::{Disk, ObjectLock, Past, Put, Remove, S3, Sight, Sse, StoreError, Versions};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use terms::Secret;

/// A door for reading and adding, as [`open`] gives it.
pub trait Store: Put {}

impl<T: Put + ?Sized> Store for T {}

/// What an address leaves open. Everything here only matters to buckets.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// The bucket's region, e.g. `eu-central-1`.
    pub region: Option<String>,
    /// The server's address when it is not AWS: `https://s3.example.org`; plain HTTP only when it says `http://`.
    pub endpoint: Option<String>,
    /// Whether the bucket goes into the path instead of the host name; by default only where an endpoint is given.
    pub path_style: Option<bool>,
    /// Certificates in PEM form to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// With `secret_access_key`; without both the environment, the profile and the machine's role are asked in turn.
    pub access_key_id: Option<Secret>,
    /// See `access_key_id`.
    pub secret_access_key: Option<Secret>,
    /// Belongs to temporary keys.
    pub session_token: Option<Secret>,
    /// Reads these three again where they are renewed in place; S3 asks now and then. Profiles are read again in any case.
    pub renew: Option<Renew>,
    /// A profile of `~/.aws/credentials` and `~/.aws/config`.
    pub profile: Option<String>,
    /// What each upload is checked by: `crc64nvme` (the default for AWS), `sha256`, `md5` (the old header, which old servers want),
    /// or `none` (the default for others).
    pub checksum: Option<String>,
    /// Whether the store itself encrypts.
    pub sse: Sse,
    /// The KMS key for that; without one the bucket's own default counts.
    pub sse_kms_key_id: Option<String>,
    /// How many bytes of finished objects may be on their way before writers wait; 64 MiB when not given.
    pub in_flight_bytes: Option<u64>,
    /// The object lock that new objects get; the bucket must have been made with it.
    pub lock: Option<ObjectLock>,
}

/// Its id, its secret and its session token.
type AccessKey = [Option<Secret>; 3];

/// Reads an access key (id, secret, session token) from where it is kept; `None` while that cannot be.
#[derive(Clone)]
pub struct Renew(Arc<dyn Fn() -> Option<AccessKey> + Send + Sync>);

impl Renew {
    /// Reads so. May block for as long as a small file takes.
    pub fn new(read: impl Fn() -> Option<AccessKey> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }
    /// What is kept there now.
    pub fn read(&self) -> Option<AccessKey> {
        self.0()
    }
}

impl fmt::Debug for Renew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Renew(…)")
    }
}

/// Opens the store at `file:///abs/path` or `s3://bucket/prefix?region=…&endpoint=…`. Nothing is asked of it yet: whether it
/// is there and lets us in is told by the first operation. For a bucket this must be called on a tokio runtime.
pub fn open(url: &str, options: &StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match Address::parse(url)? {
        Address::Folder(root) => Arc::new(Disk::new(root)),
        Address::Bucket(bucket) => Arc::new(S3::open(&bucket, options)?),
    })
}

/// Opens the store at `url`, a bucket with versioning, as [`Sight`] says.
pub fn open_past(url: &str, options: &StoreOptions, sight: Sight) -> Result<Arc<dyn Store>, StoreError> {
    match Address::parse(url)? {
        Address::Folder(_) => Err(no_versions(url)),
        Address::Bucket(bucket) => Ok(Arc::new(Past::new(Arc::new(S3::open(&bucket, options)?), sight))),
    }
}

/// Opens the versions of the objects in a bucket.
pub fn open_versions(url: &str, options: &StoreOptions) -> Result<Arc<dyn Versions>, StoreError> {
    match Address::parse(url)? {
        Address::Folder(_) => Err(no_versions(url)),
        Address::Bucket(bucket) => Ok(Arc::new(S3::open(&bucket, options)?)),
    }
}

fn no_versions(url: &str) -> StoreError {
    StoreError::BadAddress { url: url.to_owned(), why: "only a bucket keeps versions and locks; a folder keeps what was there last".into() }
}

/// Opens the same store with the right to remove. Only upkeep calls this.
pub fn open_remover(url: &str, options: &StoreOptions) -> Result<Arc<dyn Remove>, StoreError> {
    Ok(match Address::parse(url)? {
        Address::Folder(root) => Arc::new(Disk::new(root)),
        Address::Bucket(bucket) => Arc::new(S3::open(&bucket, options)?),
    })
}

/// Makes the folder of a `file:` address, with mode 0700, in a parent that exists. Buckets are not made: for them this does nothing.
pub async fn create_root(url: &str) -> Result<(), StoreError> {
    match Address::parse(url)? {
        Address::Folder(root) => Disk::new(root).create_root().await,
        Address::Bucket(_) => Ok(()),
    }
}
