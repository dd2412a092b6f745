//! A bucket as a whole: what it says of itself, and how it is set up as a place for backups.

mod old;
mod replication;
mod rules;
mod state;
mod steps;
mod xml;

pub use old::OldVersions;
pub use replication::{Replication, ReplicationWish};
pub use rules::Harm;
pub(crate) use state::encoded;
pub use state::{BucketState, DefaultEncryption, Fact, Unfinished};
pub use steps::{BucketWish, Outcome, Step};

use crate::address::Address;
use crate::s3::{Answered, Ask, Control, Patience, S3};
use crate::{Remove, StoreError, StoreOptions};
use std::sync::Arc;
use terms::Timestamp;

/// An upload that got anything later than this may still be under way: that of a manifest is begun with its backup and ends after it, and a
/// large backup takes days. A lifecycle rule counts from its beginning.
const ABANDONED_AFTER_DAYS: u32 = 7;

/// Ends the uploads below the store's root that got nothing for a week and were never completed; returns those that it ended.
/// `now` is the earlier of the clocks that are to be believed.
pub async fn end_abandoned_uploads(remover: &dyn Remove, now: Timestamp) -> Result<Vec<Unfinished>, StoreError> {
    let found = match remover.unfinished().await? {
        Fact::Known(found) => found,
        // Where they cannot be seen they cannot be ended; check says so.
        Fact::Denied(_) | Fact::Unsupported(_) | Fact::Unclear(_) => Vec::new(),
    };
    let mut ended = Vec::new();
    for upload in found.into_iter().filter(|upload| upload.is_abandoned(now)) {
        remover.abandon(&upload).await?;
        ended.push(upload);
    }
    Ok(ended)
}

impl Unfinished {
    /// Whether it got nothing for so long that nobody is at it any more.
    pub fn is_abandoned(&self, now: Timestamp) -> bool {
        now.seconds_since(self.touched) > f64::from(ABANDONED_AFTER_DAYS) * 86_400.0
    }
}

/// The authority to look at a bucket and to set it up. It reads and writes no object.
pub struct Bucket {
    control: Arc<Control>,
    prefix: String,
}

impl Bucket {
    /// The bucket of an `s3:` address; `None` for every other store. Must be called on a tokio runtime.
    pub fn open(url: &str, options: &StoreOptions) -> Result<Option<Self>, StoreError> {
        let Address::Bucket(address) = Address::parse(url)? else { return Ok(None) };
        // Only S3 has these settings; the others' are set with their own tools.
        let prefix = address.prefix.clone();
        Ok(S3::open(&address, options)?.control().map(|control| Self { control, prefix }))
    }

    pub(crate) fn of(control: Arc<Control>, prefix: String) -> Self {
        Self { control, prefix }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.control.bucket
    }
    /// The folder of the store in it, without slashes at its ends.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
    /// Its region.
    pub fn region(&self) -> &str {
        &self.control.region
    }
    /// For messages.
    pub fn address(&self) -> String {
        format!("s3://{}", self.control.bucket)
    }
    /// Whether the server is Amazon's own.
    pub fn is_aws(&self) -> bool {
        self.control.endpoint.as_deref().is_none_or(|endpoint| endpoint.contains(".amazonaws.com"))
    }

    async fn ask(&self, method: &'static str, query: &str, body: &str) -> Result<Answered, StoreError> {
        self.control.send(&Ask { method, query, body: body.to_owned(), patience: Patience::Brief, ..Ask::default() }).await
    }
}
