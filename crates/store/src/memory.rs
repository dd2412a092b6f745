//! A store in memory, for tests: the plainest keeper of every promise.

use crate::{Created, Fetch, ObjectInfo, ObjectPath, ObjectSink, Put, Remove, StoreError, Version};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard};
use terms::{Clock, SystemClock, Timestamp};

/// A store that lives and dies with its value. Clones share their objects.
#[derive(Clone, Default)]
pub struct Memory {
    objects: Arc<Mutex<Objects>>,
}

#[derive(Default)]
struct Objects {
    by_path: BTreeMap<ObjectPath, Object>,
    versions: u64,
}

#[derive(Clone)]
struct Object {
    body: Bytes,
    modified: Timestamp,
    version: u64,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
    /// How many objects it holds.
    pub fn len(&self) -> usize {
        self.lock().by_path.len()
    }
    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Changes an object's bytes behind everybody's back, as a failing disk would; for tests.
    pub fn tamper(&self, path: &ObjectPath, change: impl FnOnce(&mut Vec<u8>)) {
        let mut objects = self.lock();
        let object = objects.by_path.get_mut(path).expect("the object to tamper with exists");
        let mut body = object.body.to_vec();
        change(&mut body);
        object.body = Bytes::from(body);
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().expect("no holder panics")
    }
    fn missing(&self, path: &ObjectPath) -> StoreError {
        StoreError::Missing { store: self.address(), path: path.to_string() }
    }
}

impl Objects {
    fn insert(&mut self, path: &ObjectPath, body: Bytes) -> Version {
        self.versions += 1;
        let object = Object { body, modified: SystemClock.now(), version: self.versions };
        self.by_path.insert(path.clone(), object);
        Version(self.versions.to_string())
    }
}

fn info(path: &ObjectPath, object: &Object) -> ObjectInfo {
    ObjectInfo { path: path.clone(), bytes: object.body.len() as u64, modified: object.modified, version: Version(object.version.to_string()) }
}

#[async_trait]
impl Fetch for Memory {
    async fn get(&self, path: &ObjectPath) -> Result<Bytes, StoreError> {
        self.lock().by_path.get(path).map(|object| object.body.clone()).ok_or_else(|| self.missing(path))
    }

    async fn get_range(&self, path: &ObjectPath, range: Range<u64>) -> Result<Bytes, StoreError> {
        let body = self.get(path).await?;
        let found = body.len() as u64;
        if range.end > found || range.start > range.end {
            return Err(StoreError::Truncated { store: self.address(), path: path.to_string(), wanted: range.end, found });
        }
        Ok(body.slice(range.start as usize..range.end as usize))
    }

    async fn info(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, StoreError> {
        Ok(self.lock().by_path.get(path).map(|object| info(path, object)))
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a ObjectPath>) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        let prefix = crate::address::folder_prefix(folder);
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let objects = self.lock();
        let found: Vec<_> = objects
            .by_path
            .range::<ObjectPath, _>((start, Bound::Unbounded))
            .filter(|(path, _)| path.as_str().starts_with(&prefix))
            .map(|(path, object)| Ok(info(path, object)))
            .collect();
        stream::iter(found).boxed()
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let prefix = crate::address::folder_prefix(folder);
        let objects = self.lock();
        let below = objects.by_path.keys().filter_map(|path| path.as_str().strip_prefix(prefix.as_str()));
        let mut names: Vec<String> = below.filter_map(|rest| rest.split_once('/')).map(|(name, _)| name.to_owned()).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn address(&self) -> String {
        "memory:".to_owned()
    }

    fn is_remote(&self) -> bool {
        false
    }
}

#[async_trait]
impl Put for Memory {
    async fn put_new(&self, path: &ObjectPath, body: Bytes) -> Result<Created, StoreError> {
        let mut objects = self.lock();
        if objects.by_path.contains_key(path) {
            return Ok(Created::AlreadyThere);
        }
        objects.insert(path, body);
        Ok(Created::New)
    }

    async fn harden(&self, _: &ObjectPath) -> Result<(), StoreError> {
        Ok(())
    }

    async fn replace(&self, path: &ObjectPath, body: Bytes, expected: Option<&Version>) -> Result<Option<Version>, StoreError> {
        let mut objects = self.lock();
        let found = objects.by_path.get(path).map(|object| Version(object.version.to_string()));
        if found.as_ref() != expected {
            return Ok(None);
        }
        Ok(Some(objects.insert(path, body)))
    }

    fn begin(&self, path: &ObjectPath) -> Result<Arc<dyn ObjectSink>, StoreError> {
        if self.lock().by_path.contains_key(path) {
            return Err(StoreError::Exists { store: self.address(), path: path.to_string() });
        }
        Ok(Arc::new(MemorySink { memory: self.clone(), path: path.clone(), body: Mutex::default() }))
    }

    async fn settle(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl Remove for Memory {
    async fn remove(&self, path: &ObjectPath) -> Result<(), StoreError> {
        self.lock().by_path.remove(path);
        Ok(())
    }
}

struct MemorySink {
    memory: Memory,
    path: ObjectPath,
    body: Mutex<Vec<u8>>,
}

impl ObjectSink for MemorySink {
    fn append(&self, bytes: &[u8]) -> Result<u64, StoreError> {
        let mut body = self.body.lock().expect("no holder panics");
        let offset = body.len() as u64;
        body.extend_from_slice(bytes);
        Ok(offset)
    }

    fn finish(&self) -> Result<(), StoreError> {
        let body = std::mem::take(&mut *self.body.lock().expect("no holder panics"));
        let mut objects = self.memory.lock();
        if objects.by_path.contains_key(&self.path) {
            return Err(StoreError::Exists { store: self.memory.address(), path: self.path.to_string() });
        }
        objects.insert(&self.path, Bytes::from(body));
        Ok(())
    }
}
