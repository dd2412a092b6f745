//! The document of a lease and the place where it lies: reading it, and replacing what was read.

use crate::{RepoError, document};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use store::{Fetch, ObjectPath, Put, StoreError, Version};
use terms::Timestamp;

/// `leases/{name}.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeaseDocument {
    pub(super) format: u32,
    pub(super) name: String,
    /// One more with each holder.
    pub(super) generation: u64,
    /// Another number in every write of one contender, so that what it finds tells which of its writes arrived.
    pub(super) beat: u64,
    pub(super) holder: String,
    /// Random, one for each contender: how it knows its own writes again.
    pub(super) token: String,
    pub(super) ttl_milliseconds: u64,
    /// When this generation began, by its holder's clock: for people.
    pub(super) since: Timestamp,
    pub(super) released: bool,
}

impl LeaseDocument {
    pub(super) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_milliseconds)
    }
    /// How long an observer waits: the TTL, and a tenth because two clocks never run alike.
    pub(super) fn patience(&self) -> Duration {
        self.ttl() + self.ttl() / 10
    }
    pub(super) fn is_of(&self, token: &str, generation: u64) -> bool {
        self.token == token && self.generation == generation && !self.released
    }
}

/// What is stored, with when (by the store's clock) and as which version.
pub(super) type Found = Option<(LeaseDocument, Version, Timestamp)>;

/// The place of the document.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) store: Arc<dyn Put>,
    pub(super) path: ObjectPath,
}

pub(super) async fn read(store: &(impl Fetch + ?Sized), path: &ObjectPath) -> Result<Found, RepoError> {
    // Asked for first: were it replaced in between, the version would be too old and the swap refused.
    let Some(info) = store.info(path).await? else { return Ok(None) };
    match store.get(path).await {
        Ok(bytes) => Ok(Some((document::read(path, &bytes)?, info.version, info.modified))),
        Err(StoreError::Missing { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

pub(super) enum Swap {
    /// This write is what was stored at a moment after it was begun.
    Done(Version),
    Other(Found),
}

impl Desk {
    pub(super) async fn read(&self) -> Result<Found, RepoError> {
        read(&*self.store, &self.path).await
    }

    /// Replaces what has this version. An answer that is an error may be wrong about the effect, so it is looked for.
    pub(super) async fn swap(&self, next: &LeaseDocument, expected: Option<&Version>) -> Result<Swap, RepoError> {
        let body = document::write(next)?;
        let failed = match self.store.replace(&self.path, body, expected).await {
            Ok(Some(version)) => return Ok(Swap::Done(version)),
            Ok(None) => None,
            Err(e) => Some(RepoError::from(e)),
        };
        match (self.read().await, failed) {
            (Ok(Some((found, version, _))), _) if found == *next => Ok(Swap::Done(version)),
            (Ok(found), None) => Ok(Swap::Other(found)),
            (_, Some(e)) | (Err(e), None) => Err(e),
        }
    }
}

pub(super) async fn still_mine(desk: &Desk, document: &LeaseDocument) -> Result<bool, RepoError> {
    Ok(desk.read().await?.is_some_and(|(found, ..)| found.is_of(&document.token, document.generation)))
}
