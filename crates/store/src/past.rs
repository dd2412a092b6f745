//! A bucket that keeps versions, as it was at an instant, or as if nothing in it had ever been overwritten.

use crate::{Created, Fact, Fetch, Nature, ObjectInfo, ObjectPath, ObjectSink, ObjectVersion, Put, StoreError, Unfinished, Version, Versions};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use terms::Timestamp;

/// How many objects' versions are remembered: what was listed is mostly read next.
const REMEMBERED_MAX: usize = 1 << 16;

/// Which version of an object is seen.
#[derive(Debug, Clone, Copy)]
pub enum Sight {
    /// The one that was there at this instant, by the store's clock. Nothing can be written.
    AsOf(Timestamp),
    /// The oldest one of what is written once, unless it was removed: what was put over it later is an attack or a mistake. Of
    /// everything else the present one.
    Oldest {
        /// Whether the object at this path, below the store's root, is replaced in the course of things.
        is_replaced: fn(&str) -> bool,
    },
}

impl Sight {
    /// Of one object's versions, the newest first, the one that is seen.
    pub(crate) fn choose(self, versions: &[ObjectVersion]) -> Option<&ObjectVersion> {
        let newest = versions.first()?;
        let chosen = match self {
            Self::AsOf(at) => versions.iter().find(|version| version.modified <= at)?,
            Self::Oldest { is_replaced } if is_replaced(newest.path.as_str()) => newest,
            Self::Oldest { .. } if newest.is_removal => return None,
            Self::Oldest { .. } => versions.iter().rfind(|version| !version.is_removal)?,
        };
        (!chosen.is_removal).then_some(chosen)
    }

    /// Of one object's versions those that must not go: the one that is seen, and of what is replaced every one.
    pub(crate) fn must_stay(self, versions: &[ObjectVersion]) -> Vec<&ObjectVersion> {
        match (self, versions.first()) {
            (Self::Oldest { is_replaced }, Some(newest)) if is_replaced(newest.path.as_str()) => {
                versions.iter().filter(|version| !version.is_removal).collect()
            }
            _ => self.choose(versions).into_iter().collect(),
        }
    }
}

/// See [`Sight`].
pub struct Past<S> {
    store: Arc<S>,
    sight: Sight,
    known: Mutex<HashMap<ObjectPath, Seen>>,
}

#[derive(Debug, Clone)]
struct Seen {
    id: String,
    bytes: u64,
    modified: Timestamp,
}

impl<S: Put + Versions> Past<S> {
    /// A view of `store`; nothing is asked of it yet.
    pub fn new(store: Arc<S>, sight: Sight) -> Self {
        Self { store, sight, known: Mutex::default() }
    }

    fn choose(&self, versions: &[ObjectVersion]) -> Option<Seen> {
        let chosen = self.sight.choose(versions)?;
        Some(Seen { id: chosen.id.clone(), bytes: chosen.bytes, modified: chosen.modified })
    }

    fn remember(&self, path: &ObjectPath, seen: &Seen) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(path.clone(), seen.clone());
    }

    async fn look(&self, path: &ObjectPath) -> Result<Option<Seen>, StoreError> {
        let is_steady = match self.sight {
            Sight::AsOf(_) => true,
            Sight::Oldest { is_replaced } => !is_replaced(path.as_str()),
        };
        if is_steady && let Some(seen) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(path) {
            return Ok(Some(seen.clone()));
        }
        // Other objects' names may begin with this one.
        let own = self.store.versions(path.to_string()).try_take_while(|version| {
            let is_own = version.path == *path;
            async move { Ok(is_own) }
        });
        let seen = self.choose(&own.try_collect::<Vec<_>>().await?);
        if let Some(seen) = seen.as_ref().filter(|_| is_steady) {
            self.remember(path, seen);
        }
        Ok(seen)
    }

    async fn seen(&self, path: &ObjectPath) -> Result<Seen, StoreError> {
        let missing = || StoreError::Missing { store: self.address(), path: path.to_string() };
        self.look(path).await?.ok_or_else(missing)
    }

    fn described(&self, path: ObjectPath, seen: Seen) -> ObjectInfo {
        ObjectInfo { path, bytes: seen.bytes, modified: seen.modified, version: Version(seen.id) }
    }

    fn writes(&self, path: &ObjectPath) -> Result<(), StoreError> {
        match self.sight {
            Sight::Oldest { .. } => Ok(()),
            Sight::AsOf(at) => Err(StoreError::Denied {
                store: self.address(),
                operation: "write",
                path: path.to_string(),
                why: format!("it is looked at as it was at {at}, which nothing can change"),
            }),
        }
    }
}

/// The versions of one object after the other, each object's together.
pub(crate) fn by_object<'a>(
    versions: BoxStream<'a, Result<ObjectVersion, StoreError>>,
) -> BoxStream<'a, Result<(ObjectPath, Vec<ObjectVersion>), StoreError>> {
    stream::try_unfold((versions, None::<ObjectVersion>), |(mut versions, first)| async move {
        let mut group: Vec<ObjectVersion> = first.into_iter().collect();
        let mut next = None;
        while let Some(version) = versions.try_next().await? {
            if group.first().is_some_and(|head| head.path != version.path) {
                next = Some(version);
                break;
            }
            group.push(version);
        }
        let path = group.first().map(|head| head.path.clone());
        Ok(path.map(|path| ((path, group), (versions, next))))
    })
    .boxed()
}

#[async_trait]
impl<S: Put + Versions> Fetch for Past<S> {
    async fn get(&self, path: &ObjectPath) -> Result<Bytes, StoreError> {
        let seen = self.seen(path).await?;
        self.store.get_version(path, &seen.id, None).await
    }

    async fn get_range(&self, path: &ObjectPath, range: Range<u64>) -> Result<Bytes, StoreError> {
        let seen = self.seen(path).await?;
        if seen.bytes < range.end {
            return Err(StoreError::Truncated { store: self.address(), path: path.to_string(), wanted: range.end, found: seen.bytes });
        }
        self.store.get_version(path, &seen.id, Some(range)).await
    }

    async fn info(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, StoreError> {
        if let Sight::Oldest { is_replaced } = self.sight
            && is_replaced(path.as_str())
        {
            // Whoever replaces it needs the version as the store compares it.
            return self.store.info(path).await;
        }
        Ok(self.look(path).await?.map(|seen| self.described(path.clone(), seen)))
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a ObjectPath>) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        let groups = by_object(self.store.versions(crate::address::folder_prefix(folder)));
        groups
            .try_filter_map(move |(path, versions)| async move {
                let seen = self.choose(&versions).filter(|_| after.is_none_or(|after| path > *after));
                Ok(seen.map(|seen| {
                    self.remember(&path, &seen);
                    self.described(path, seen)
                }))
            })
            .boxed()
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.store.version_folders(folder.trim_matches('/')).await
    }

    async fn unfinished(&self) -> Result<Fact<Vec<Unfinished>>, StoreError> {
        self.store.unfinished().await
    }

    fn address(&self) -> String {
        self.store.address()
    }

    fn is_remote(&self) -> bool {
        self.store.is_remote()
    }
}

#[async_trait]
impl<S: Put + Versions> Put for Past<S> {
    async fn put_new(&self, path: &ObjectPath, body: Bytes) -> Result<Created, StoreError> {
        self.writes(path)?;
        self.store.put_new(path, body).await
    }

    async fn harden(&self, path: &ObjectPath) -> Result<(), StoreError> {
        self.store.harden(path).await
    }

    async fn replace(&self, path: &ObjectPath, body: Bytes, expected: Option<&Version>) -> Result<Option<Version>, StoreError> {
        self.writes(path)?;
        self.store.replace(path, body, expected).await
    }

    fn begin(&self, path: &ObjectPath) -> Result<Arc<dyn ObjectSink>, StoreError> {
        self.writes(path)?;
        self.store.begin(path)
    }

    async fn settle(&self) -> Result<(), StoreError> {
        self.store.settle().await
    }

    async fn nature(&self, path: &ObjectPath) -> Result<Nature, StoreError> {
        self.store.nature(path).await
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.store.ready().await
    }
}
