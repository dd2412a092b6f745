//! Somebody else's objects: an application's bucket or folder, with whatever keys it uses. What Bowline itself stores lies behind
//! the other doors.
//!
//! Nothing here removes: on a bucket with versions an object can be hidden, and in a folder what is in the way is moved aside.

mod bucket;
mod canary;
mod facts;
mod folder;
mod listing;
mod pace;
mod part;
mod sort;

pub use canary::CANARY;
pub use facts::ItemFacts;
pub use pace::Pace;

use crate::address::Address;
use crate::s3::S3;
use crate::{StoreError, StoreOptions};
use bucket::BucketSite;
use bytes::Bytes;
use folder::FolderSite;
use futures::stream::BoxStream;
use listing::{Listing, What};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use terms::Timestamp;

/// An object, or one version of it, as a listing tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Below the site's prefix or folder.
    pub key: String,
    /// The version's id; `None` where the listing is of what is there now.
    pub id: Option<String>,
    /// Of this version; 0 of a removal.
    pub bytes: u64,
    /// When it was written, by the store's clock; some servers tell whole seconds.
    pub modified: Timestamp,
    /// Without quotes; of a folder's files made of inode, size and time.
    pub etag: String,
    /// Nothing came after it: a removal that is the latest hides the object.
    pub is_latest: bool,
    /// From then on the object was not there.
    pub is_removal: bool,
}

/// A bucket of S3 or a folder in which somebody else keeps objects.
#[derive(Clone)]
pub struct Site {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Bucket(Arc<BucketSite>),
    Folder(Arc<FolderSite>),
}

/// An object being written in pieces; it is there, whole, once it is finished.
pub struct SiteUpload {
    kind: UploadKind,
}

enum UploadKind {
    Bucket(bucket::Upload),
    Folder(folder::Upload),
}

impl Site {
    /// A piece of an upload, but for the last one, has so many bytes: 8 MiB, more for objects above 78 GiB.
    pub fn piece_bytes(object_bytes: u64) -> u64 {
        // S3 takes 10000 pieces.
        (8 << 20).max(object_bytes.div_ceil(9_900).next_multiple_of(1 << 20))
    }

    /// Opens what `url` names. Nothing is asked of it yet. Must be called on a tokio runtime.
    pub fn open(url: &str, options: &StoreOptions) -> Result<Self, StoreError> {
        let kind = match Address::parse(url)? {
            Address::Folder(root) => Kind::Folder(Arc::new(FolderSite::new(root))),
            Address::Bucket(address) => {
                let store = S3::open(&address, options)?;
                let Some(control) = store.control() else {
                    let why = "packages are kept in buckets of S3 or in folders".to_owned();
                    return Err(StoreError::BadAddress { url: crate::address::without_secrets(url), why });
                };
                Kind::Bucket(Arc::new(BucketSite::new(control, address.prefix)))
            }
        };
        Ok(Self { kind })
    }

    /// For messages: `s3://bucket/prefix`, `file:///folder`.
    pub fn address(&self) -> String {
        match &self.kind {
            Kind::Bucket(bucket) => bucket.address(),
            Kind::Folder(folder) => folder.address(),
        }
    }

    /// Whether it is a folder of a file system.
    pub fn is_folder(&self) -> bool {
        matches!(self.kind, Kind::Folder(_))
    }

    /// Whether what is overwritten or removed stays as a version.
    pub async fn keeps_versions(&self) -> Result<bool, StoreError> {
        match &self.kind {
            Kind::Bucket(bucket) => bucket.keeps_versions().await,
            Kind::Folder(_) => Ok(false),
        }
    }

    /// What is there now, by the bytes of keys.
    pub fn current(&self) -> BoxStream<'static, Result<Item, StoreError>> {
        match &self.kind {
            Kind::Bucket(bucket) => listing(bucket, What::Current, None).all(),
            Kind::Folder(folder) => folder.list(),
        }
    }

    /// Every version and removal: by the bytes of keys, of each key the newest first. Of a folder, what is there now.
    pub fn versions(&self) -> BoxStream<'static, Result<Item, StoreError>> {
        match &self.kind {
            Kind::Bucket(bucket) => listing(bucket, What::Versions, None).all(),
            Kind::Folder(folder) => folder.list(),
        }
    }

    /// The same, as many pages at a time as are allowed; what fails meanwhile is asked again. Of a folder all at once.
    pub fn versions_at(&self, pace: &Arc<Pace>) -> BoxStream<'static, Result<Item, StoreError>> {
        match &self.kind {
            Kind::Bucket(bucket) => listing(bucket, What::Versions, Some(Arc::clone(pace))).all(),
            Kind::Folder(folder) => folder.list(),
        }
    }

    /// Whether versions may be listed; the error says why not.
    pub async fn may_list_versions(&self) -> Result<(), StoreError> {
        match &self.kind {
            Kind::Bucket(bucket) => listing(bucket, What::Versions, None).answers().await,
            Kind::Folder(_) => Ok(()),
        }
    }

    /// The versions and removals of one key, the newest first.
    pub async fn versions_of(&self, key: &str) -> Result<Vec<Item>, StoreError> {
        match &self.kind {
            Kind::Bucket(bucket) => listing(bucket, What::Versions, None).of_key(key).await,
            Kind::Folder(folder) => folder.look(key).await.map(|found| found.into_iter().collect()),
        }
    }

    /// Exactly these bytes of this version, and what is written beside it. `None` when it is not that any more: overwritten, or gone.
    pub async fn read(&self, item: &Item, range: Range<u64>) -> Result<Option<(Bytes, ItemFacts)>, StoreError> {
        match &self.kind {
            Kind::Bucket(bucket) => bucket.read(item, range).await,
            Kind::Folder(folder) => folder.read(item, range).await,
        }
    }

    /// What is written beside this version; `None` when it is gone.
    pub async fn facts(&self, item: &Item) -> Result<Option<ItemFacts>, StoreError> {
        match &self.kind {
            Kind::Bucket(bucket) => bucket.facts(item).await,
            Kind::Folder(folder) => folder.read(item, 0..0).await.map(|found| found.map(|(_, facts)| facts)),
        }
    }

    /// Begins to write an object of so many bytes, over whatever is there. In a folder what is there goes to `aside` first.
    pub async fn begin(
        &self,
        key: &str,
        bytes: u64,
        facts: &ItemFacts,
        modified: Timestamp,
        aside: Option<PathBuf>,
    ) -> Result<SiteUpload, StoreError> {
        let kind = match &self.kind {
            Kind::Bucket(bucket) => UploadKind::Bucket(BucketSite::begin(bucket, key, bytes, facts).await?),
            Kind::Folder(folder) => UploadKind::Folder(FolderSite::begin(folder, key, facts, modified, aside).await?),
        };
        Ok(SiteUpload { kind })
    }

    /// Where a folder's files go that are in the way, by this name; `None` of a bucket.
    pub fn aside(&self, name: &str) -> Option<PathBuf> {
        match &self.kind {
            Kind::Bucket(_) => None,
            Kind::Folder(folder) => Some(folder.aside(name)),
        }
    }

    /// Whether the bucket or folder is there at all; a bucket that is not is an error of every other question.
    pub async fn exists(&self) -> Result<bool, StoreError> {
        match &self.kind {
            Kind::Bucket(_) => Ok(true),
            Kind::Folder(folder) => Ok(folder.exists()),
        }
    }

    /// What is there now under this key.
    pub async fn look(&self, key: &str) -> Result<Option<Item>, StoreError> {
        match &self.kind {
            Kind::Bucket(bucket) => bucket.look(key).await,
            Kind::Folder(folder) => folder.look(key).await,
        }
    }

    /// Hides what is there now: in a bucket behind a delete marker, which only one that keeps versions may be asked for; of a folder
    /// it goes to `aside`.
    pub async fn hide(&self, key: &str, aside: Option<PathBuf>) -> Result<(), StoreError> {
        match (&self.kind, aside) {
            (Kind::Bucket(bucket), _) if bucket.keeps_versions().await? => bucket.hide(key).await,
            (Kind::Bucket(bucket), _) => Err(bucket.failed("hide", key, "it keeps no versions")),
            (Kind::Folder(folder), Some(aside)) => folder.set_aside(key, aside).await,
            (Kind::Folder(folder), None) => Err(folder.failed("hide", key, "a folder keeps no versions")),
        }
    }

    /// Whether of versions and removals of the same time the order can be believed, too.
    pub fn orders_versions(&self) -> bool {
        match &self.kind {
            Kind::Bucket(bucket) => bucket.is_aws(),
            Kind::Folder(_) => true,
        }
    }

    /// Writes the newest version again as it is, so that the store replicates it anew; what it was is noted beside it. Whether it did:
    /// what was overwritten or removed since it was listed is left alone.
    pub async fn write_again(&self, item: &Item) -> Result<bool, StoreError> {
        match &self.kind {
            Kind::Bucket(bucket) => bucket.write_again(item).await,
            Kind::Folder(folder) => Err(folder.failed("replicate", &item.key, "a folder replicates nothing")),
        }
    }
}

fn listing(site: &Arc<BucketSite>, what: What, pace: Option<Arc<Pace>>) -> Listing {
    Listing { site: Arc::clone(site), what, pace }
}

impl SiteUpload {
    /// Nothing that is there under this key is replaced, whatever came meanwhile: finishing fails then. A folder never replaces.
    pub fn replaces_nothing(mut self) -> Self {
        if let UploadKind::Bucket(upload) = &mut self.kind {
            upload.is_first = true;
        }
        self
    }

    /// The next piece: of [`Site::piece_bytes`], but for the last one.
    pub async fn piece(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        match &mut self.kind {
            UploadKind::Bucket(upload) => upload.piece(bytes).await,
            UploadKind::Folder(upload) => upload.piece(bytes).await,
        }
    }

    /// Nothing becomes of it; what was stored of it goes, as far as the store lets it. What only a killed process leaves, a lifecycle rule
    /// for incomplete uploads takes.
    pub async fn give_up(self) {
        if let UploadKind::Bucket(upload) = self.kind {
            upload.give_up().await;
        }
    }

    /// Makes the object be there, durably.
    pub async fn finish(self) -> Result<(), StoreError> {
        match self.kind {
            UploadKind::Bucket(upload) => upload.finish().await,
            UploadKind::Folder(upload) => upload.finish().await,
        }
    }
}
