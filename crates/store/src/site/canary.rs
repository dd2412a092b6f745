//! A small object by which somebody sees how far the replica is behind, without listing anything.

use super::{ItemFacts, Kind, Site};
use crate::StoreError;
use terms::Timestamp;

/// Its key below the site's prefix. No listing shows it: it is not the application's.
pub const CANARY: &str = ".bowline-canary";
/// When it was written, by the clock of who did: the replica's own times are those of another clock, and an ETag is another one where
/// the copy is encrypted.
const WRITTEN: &str = "x-amz-meta-bowline-written";

impl Site {
    /// Writes the canary anew.
    pub async fn write_canary(&self, at: Timestamp) -> Result<(), StoreError> {
        let mut facts = ItemFacts::default();
        facts.headers.insert(WRITTEN.to_owned(), at.rfc3339());
        facts.headers.insert("content-type".to_owned(), "text/plain".to_owned());
        let body = format!("Bowline writes this each minute to see whether it is replicated. {}\n", at.rfc3339());
        let mut upload = self.begin(CANARY, body.len() as u64, &facts, at, None).await?;
        upload.piece(body.into()).await?;
        upload.finish().await
    }

    /// When the canary that is here was written; `None` when there is none.
    pub async fn canary(&self) -> Result<Option<Timestamp>, StoreError> {
        let Kind::Bucket(bucket) = &self.kind else { return Ok(None) };
        let Some(facts) = bucket.now(CANARY).await? else { return Ok(None) };
        let written = facts.headers.get(WRITTEN).and_then(|text| text.parse().ok());
        written.map(Some).ok_or_else(|| bucket.failed("look up", CANARY, "it does not say when it was written: somebody else wrote it"))
    }
}
