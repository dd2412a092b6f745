//! A folder as a store: an object is a file that becomes visible whole, and is durable before anybody is told.
//!
//! What a crash may leave are `.tmp-…` files and, from [`Put::begin`], an object cut short at its own name:
//! whoever begins one refers to it only after [`Put::settle`].

mod files;
mod growing;
mod sink;
mod walk;

use crate::{Created, Fetch, Growing, ObjectInfo, ObjectPath, ObjectSink, Put, Remove, StoreError, Version};
use async_trait::async_trait;
use bytes::Bytes;
use files::Tree;
use futures::stream::{self, BoxStream, StreamExt};
use growing::DiskGrowing;
use sink::Syncer;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// How many listed objects travel from the walking thread at once.
const BATCH: usize = 256;

/// A store in a folder of a local or network file system.
pub struct Disk {
    tree: Arc<Tree>,
    syncer: Syncer,
}

impl Disk {
    /// The store below `root`, an absolute path. Nothing is touched: a missing root is told by the first operation.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let tree = Arc::new(Tree::new(root.into()));
        Self { syncer: Syncer::new(Arc::clone(&tree)), tree }
    }

    /// Makes the root, with mode 0700, in a parent that must exist; no error if it is there already.
    pub async fn create_root(&self) -> Result<(), StoreError> {
        self.blocking("create", |tree| tree.create_root()).await
    }

    /// Runs `work` where blocking is allowed. A panic there is a bug and goes on here.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Tree) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let tree = Arc::clone(&self.tree);
        match tokio::task::spawn_blocking(move || work(&tree)).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(StoreError::Unreachable {
                store: self.tree.address().to_owned(),
                operation,
                path: String::new(),
                why: "the program is ending".to_owned(),
            }),
        }
    }
}

#[async_trait]
impl Fetch for Disk {
    async fn get(&self, path: &ObjectPath) -> Result<Bytes, StoreError> {
        let path = path.clone();
        self.blocking("read", move |tree| tree.read(&path)).await
    }

    /// Reads where it is called: the callers are worker threads, and a hop to another thread costs more than the read.
    async fn get_range(&self, path: &ObjectPath, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.tree.read_range(path, range)
    }

    /// A folder of a server that hangs must not hang whoever answers a database's keepalives.
    async fn info(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, StoreError> {
        let path = path.clone();
        self.blocking("read", move |tree| tree.info(&path)).await
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a ObjectPath>) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        let (tree, folder, after) = (Arc::clone(&self.tree), folder.to_owned(), after.cloned());
        // The walk starts with the first poll, which is where a runtime is certain to be.
        let start = move || {
            let (sender, receiver) = tokio::sync::mpsc::channel(2);
            tokio::task::spawn_blocking(move || {
                let mut batch = Vec::with_capacity(BATCH);
                let mut give = |item: Result<ObjectInfo, StoreError>| {
                    batch.push(item);
                    batch.len() < BATCH || sender.blocking_send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH))).is_ok()
                };
                let all = walk::objects(&tree, &folder, after.as_ref(), &mut give);
                if let Err(error) = all {
                    batch.push(Err(error));
                }
                // Nobody listens any more when this fails.
                let _ = sender.blocking_send(batch);
            });
            receiver
        };
        stream::unfold((None, Some(start)), |(receiver, mut start)| async move {
            let mut receiver = receiver.or_else(|| start.take().map(|start| start()))?;
            let batch: Vec<_> = receiver.recv().await?;
            Some((stream::iter(batch), (Some(receiver), start)))
        })
        .flatten()
        .boxed()
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let folder = folder.to_owned();
        self.blocking("list", move |tree| walk::folders(tree, &folder)).await
    }

    fn address(&self) -> String {
        self.tree.address().to_owned()
    }

    fn is_remote(&self) -> bool {
        false
    }
}

#[async_trait]
impl Put for Disk {
    async fn put_new(&self, path: &ObjectPath, body: Bytes) -> Result<Created, StoreError> {
        let path = path.clone();
        self.blocking("write", move |tree| tree.put_new(&path, &body)).await
    }

    async fn harden(&self, path: &ObjectPath) -> Result<(), StoreError> {
        let path = path.clone();
        self.blocking("make durable", move |tree| tree.harden(&path)).await
    }

    async fn replace(&self, path: &ObjectPath, body: Bytes, expected: Option<&Version>) -> Result<Option<Version>, StoreError> {
        let (path, expected) = (path.clone(), expected.cloned());
        self.blocking("replace", move |tree| tree.replace(&path, &body, expected.as_ref())).await
    }

    fn begin(&self, path: &ObjectPath) -> Result<Arc<dyn ObjectSink>, StoreError> {
        self.syncer.begin(path)
    }

    fn can_grow(&self) -> bool {
        true
    }

    fn grow(&self, path: &ObjectPath) -> Result<Box<dyn Growing>, StoreError> {
        Ok(Box::new(DiskGrowing::begin(Arc::clone(&self.tree), path)?))
    }

    async fn settle(&self) -> Result<(), StoreError> {
        self.syncer.settle().await
    }
}

#[async_trait]
impl Remove for Disk {
    async fn remove(&self, path: &ObjectPath) -> Result<(), StoreError> {
        let path = path.clone();
        self.blocking("remove", move |tree| tree.remove(&path)).await
    }
}
