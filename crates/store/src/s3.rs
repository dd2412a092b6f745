//! A prefix in an S3 bucket as a store, over object_store with the defaults that lose data or hang turned off.

mod at_rest;
mod clouds;
mod connect;
mod container;
mod control;
mod credentials;
mod list;
mod locking;
mod nature;
pub(crate) mod page;
mod put;
mod sink;
mod tap;
mod trouble;
mod versions;

use crate::address::Cloud as CloudKind;
use crate::bucket::{Fact, Unfinished};
use crate::pending::Pending;
use crate::probe::Nature;
use crate::{Created, Fetch, ObjectInfo, ObjectPath, ObjectSink, Put, Remove, StoreError, Version};
use async_trait::async_trait;
pub use at_rest::Sse;
use bytes::Bytes;
pub(crate) use control::{Answered, Ask, Call, Control, Patience, Reply};
use futures::stream::{BoxStream, StreamExt};
use object_store::list::PaginatedListStore;
use object_store::multipart::MultipartStore;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
pub(crate) use tap::http_date;
use terms::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, Semaphore};
pub(crate) use trouble::Trouble;
use trouble::{LIST, LOOK_UP};

/// A call without a body is over after this long, with all its repetitions.
const CALL_SECONDS_MAX: u64 = 120;
/// A server that asks to slow down is asked again for so long: it works, and only has too much to do.
const BUSY_SECONDS_MAX: u64 = 600;
/// The slowest transfer that is waited for; below it a link is as good as down.
const BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// A store in a bucket.
pub struct S3 {
    inner: Arc<Inner>,
}

/// All that is asked of a cloud's client.
trait Cloud: ObjectStore + MultipartStore + PaginatedListStore {}

impl<T: ObjectStore + MultipartStore + PaginatedListStore> Cloud for T {}

/// What the store and its sinks share.
struct Inner {
    /// Repeats by itself what is safe to repeat: reading, listing, removing.
    steady: Arc<dyn Cloud>,
    /// Never repeats: with hidden repetitions a refusal could not be told from one's own first attempt having succeeded.
    once: Arc<dyn Cloud>,
    cloud: CloudKind,
    /// Whether the server promises to list in the order of whole keys' bytes.
    lists_by_bytes: bool,
    tap: Arc<tap::Tap>,
    /// How the store is to encrypt, and whether it was seen to.
    wanted: at_rest::Wanted,
    proved: OnceCell<Result<(), String>>,
    control: Option<Arc<Control>>,
    prefix: String,
    address: String,
    runtime: Handle,
    pending: Arc<Pending>,
    /// Room for finished bytes that are not yet stored, in KiB.
    room: Arc<Semaphore>,
    room_kib: u32,
}

impl S3 {
    /// How many bytes of finished objects may be on their way before [`ObjectSink::finish`] waits: 64 MiB.
    pub const IN_FLIGHT_BYTES: u64 = 64 << 20;

    /// The store at `address` (see [`crate::open`]). Must be called on a tokio runtime, which later does the uploading.
    pub(crate) fn open(address: &crate::address::BucketAddress, options: &crate::StoreOptions) -> Result<Self, StoreError> {
        let shown = match address.prefix.as_str() {
            "" => format!("{}://{}", address.cloud.scheme(), address.bucket),
            prefix => format!("{}://{}/{prefix}", address.cloud.scheme(), address.bucket),
        };
        let runtime = Handle::try_current().map_err(|_| StoreError::Failed {
            store: shown.clone(),
            operation: "open",
            path: String::new(),
            why: "it was opened outside the runtime; this is a mistake in Bowline".to_owned(),
        })?;
        let connection = match address.cloud {
            CloudKind::S3 => connect::connect(&shown, address, options)?,
            CloudKind::Google => clouds::google(&shown, address, options)?,
            CloudKind::Microsoft => clouds::microsoft(&shown, address, options)?,
        };
        let room_kib = (options.in_flight_bytes.unwrap_or(Self::IN_FLIGHT_BYTES) / 1024).clamp(1, u64::from(u32::MAX >> 3)) as u32;
        Ok(Self {
            inner: Arc::new(Inner {
                steady: connection.steady,
                once: connection.once,
                cloud: address.cloud,
                lists_by_bytes: connection.lists_by_bytes,
                tap: connection.tap,
                wanted: connection.wanted,
                proved: OnceCell::new(),
                control: connection.control.map(Arc::new),
                prefix: address.prefix.clone(),
                address: shown,
                runtime,
                pending: Pending::new(),
                room: Arc::new(Semaphore::new(room_kib as usize)),
                room_kib,
            }),
        })
    }
}

impl S3 {
    /// What asks the bucket itself.
    pub(crate) fn control(&self) -> Option<Arc<Control>> {
        self.inner.control.clone()
    }
}

impl Inner {
    fn key(&self, path: &str) -> Result<Key, StoreError> {
        let whole = match (self.prefix.as_str(), path) {
            ("", path) => path.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, path) => format!("{prefix}/{path}"),
        };
        Key::parse(&whole).map_err(|error| StoreError::Failed {
            store: self.address.clone(),
            operation: "name",
            path: path.to_owned(),
            why: error.to_string(),
        })
    }

    /// A prefix or path as the server knows it, slash at the end and all.
    fn raw_key(&self, path: &str) -> String {
        match self.prefix.as_str() {
            "" => path.to_owned(),
            prefix => format!("{prefix}/{path}"),
        }
    }

    /// Azure's listings leave the quotes out that its other answers have.
    fn version(&self, e_tag: Option<String>) -> Version {
        let tag = e_tag.unwrap_or_default();
        let is_bare = self.cloud == CloudKind::Microsoft && !tag.is_empty() && !tag.starts_with('"');
        Version(if is_bare { format!("\"{tag}\"") } else { tag })
    }

    /// The object's path below this store, or `None` for something in the bucket that Bowline did not write.
    fn object(&self, meta: &ObjectMeta) -> Option<ObjectInfo> {
        // SeaweedFS lists the folder left behind by its last object as `name/`, without an ETag; object_store drops the slash.
        if meta.size == 0 && meta.e_tag.as_deref().is_none_or(|tag| tag.trim_matches('"').is_empty()) {
            return None;
        }
        Some(ObjectInfo {
            path: self.below(meta.location.as_ref())?,
            bytes: meta.size,
            modified: Timestamp::from_unix_micros(meta.last_modified.timestamp_micros()),
            version: self.version(meta.e_tag.clone()),
        })
    }

    /// Waits for an answer, but not for ever: `bytes` is what goes over the wire besides the headers. Only for what may be asked
    /// twice: a server that asks to slow down is asked again, and so is one whose gateway lost the request.
    async fn bounded<T, F>(&self, operation: &'static str, path: &str, bytes: u64, call: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, object_store::Error>>,
    {
        let patience = Duration::from_secs(CALL_SECONDS_MAX + bytes / BYTES_PER_SECOND_MIN);
        let begun = Instant::now();
        for tries in 1.. {
            let trouble = match tokio::time::timeout(patience, call()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => Trouble::read(&error),
                Err(_) => return Err(self.silent(operation, path, patience)),
            };
            // Whatever else may pass object_store has repeated by itself.
            let budget = match (trouble.is_busy(), trouble.is_left_to_us()) {
                (true, _) => BUSY_SECONDS_MAX,
                (_, true) => put::RETRY_SECONDS_MAX,
                _ => 0,
            };
            if begun.elapsed().as_secs() >= budget {
                return Err(self.fail(operation, path, &trouble));
            }
            tokio::time::sleep(put::pause(tries)).await;
        }
        unreachable!("the loop ends by itself")
    }

    /// The rest of an answer that has begun, which cannot be asked for again.
    async fn body<T>(
        &self,
        operation: &'static str,
        path: &str,
        bytes: u64,
        rest: impl Future<Output = Result<T, object_store::Error>>,
    ) -> Result<T, StoreError> {
        self.rest(operation, path, bytes, rest).await?.map_err(|trouble| self.fail(operation, path, &trouble))
    }

    /// The same, for who may ask anew: the inner error is what broke it off.
    async fn rest<T>(
        &self,
        operation: &'static str,
        path: &str,
        bytes: u64,
        rest: impl Future<Output = Result<T, object_store::Error>>,
    ) -> Result<Result<T, Trouble>, StoreError> {
        let patience = Duration::from_secs(CALL_SECONDS_MAX + bytes / BYTES_PER_SECOND_MIN);
        match tokio::time::timeout(patience, rest).await {
            Ok(answer) => Ok(answer.map_err(|error| Trouble::read(&error))),
            Err(_) => Err(self.silent(operation, path, patience)),
        }
    }

    fn fail(&self, operation: &'static str, path: &str, trouble: &Trouble) -> StoreError {
        trouble.of_store(&self.address, operation, path)
    }

    fn silent(&self, operation: &'static str, path: &str, patience: Duration) -> StoreError {
        StoreError::Unreachable {
            store: self.address.clone(),
            operation,
            path: path.to_owned(),
            why: format!("no answer within {} s", patience.as_secs()),
        }
    }

    /// Reads a part or all of an object, with what is known of it.
    async fn read(&self, path: &ObjectPath, range: Option<Range<u64>>) -> Result<(ObjectMeta, Bytes), StoreError> {
        let key = self.key(path.as_str())?;
        let options = GetOptions { range: range.clone().map(GetRange::Bounded), ..GetOptions::default() };
        let begun = Instant::now();
        for tries in 1.. {
            let answer = self.bounded("read", path.as_str(), 0, || self.steady.get_opts(&key, options.clone())).await?;
            let (meta, length) = (answer.meta.clone(), answer.range.end - answer.range.start);
            let body = match self.rest("read", path.as_str(), length, answer.bytes()).await? {
                Ok(body) => body,
                // object_store goes on where a body breaks off, as often as it repeats a request; but not when a gateway loses that request.
                Err(trouble) if trouble.is_left_to_us() && begun.elapsed().as_secs() < put::RETRY_SECONDS_MAX => {
                    tokio::time::sleep(put::pause(tries)).await;
                    continue;
                }
                Err(trouble) => return Err(self.fail("read", path.as_str(), &trouble)),
            };
            if body.len() as u64 != length {
                return Err(self.truncated(path, meta.size, body.len() as u64));
            }
            return Ok((meta, body));
        }
        unreachable!("the loop ends by itself")
    }

    fn truncated(&self, path: &ObjectPath, wanted: u64, found: u64) -> StoreError {
        StoreError::Truncated { store: self.address.clone(), path: path.to_string(), wanted, found }
    }

    async fn info(&self, path: &ObjectPath) -> Result<Option<ObjectMeta>, StoreError> {
        let key = self.key(path.as_str())?;
        for _ in 0..3 {
            match self.bounded(LOOK_UP, path.as_str(), 0, || self.steady.head(&key)).await {
                Ok(meta) => return Ok(Some(meta)),
                Err(StoreError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
            // The 404 of a HEAD has no body: a missing bucket, or a server that is no S3 at all, looks like a missing object.
            // Only the 404 of a GET says which.
            match self.bounded("read", path.as_str(), 0, || self.steady.get_opts(&key, GetOptions::default())).await {
                Err(StoreError::Missing { .. }) => return Ok(None),
                Err(error) => return Err(error),
                // It came into being between the two questions.
                Ok(_) => {}
            }
        }
        Err(StoreError::Failed {
            store: self.address.clone(),
            operation: "read",
            path: path.to_string(),
            why: "a HEAD says that the object is not there, a GET that it is".to_owned(),
        })
    }
}

#[async_trait]
impl Fetch for S3 {
    async fn get(&self, path: &ObjectPath) -> Result<Bytes, StoreError> {
        self.inner.read(path, None).await.map(|(_, body)| body)
    }

    async fn get_range(&self, path: &ObjectPath, range: Range<u64>) -> Result<Bytes, StoreError> {
        let wanted = range.end.saturating_sub(range.start);
        // S3 knows no empty ranges, and answers one past the end with an error of its own: then the length decides.
        let answer = match wanted {
            0 => None,
            _ => match self.inner.read(path, Some(range.clone())).await {
                Ok((_, body)) if body.len() as u64 == wanted => return Ok(body),
                Ok((meta, _)) => return Err(self.inner.truncated(path, range.end, meta.size)),
                Err(error @ StoreError::Failed { .. }) => Some(error),
                Err(error) => return Err(error),
            },
        };
        let Some(found) = self.inner.info(path).await? else {
            return Err(StoreError::Missing { store: self.address(), path: path.to_string() });
        };
        match answer {
            _ if found.size < range.end => Err(self.inner.truncated(path, range.end, found.size)),
            Some(error) => Err(error),
            None => Ok(Bytes::new()),
        }
    }

    async fn info(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, StoreError> {
        Ok(self.inner.info(path).await?.and_then(|meta| self.inner.object(&meta)))
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a ObjectPath>) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        let inner = &*self.inner;
        let folder = folder.trim_matches('/');
        let found = match inner.lists_by_bytes {
            true => list::flat(inner, folder, after),
            false => list::by_level(inner, folder, after),
        };
        // A server that answers out of order would make a reader that goes on from the last path skip objects.
        let mut last: Option<ObjectPath> = None;
        found
            .map(move |item| {
                let item = item?;
                if last.as_ref().is_some_and(|last| *last >= item.path) {
                    return Err(StoreError::Failed {
                        store: inner.address.clone(),
                        operation: LIST,
                        path: folder.to_owned(),
                        why: format!("the server lists {} out of order", item.path),
                    });
                }
                last = Some(item.path.clone());
                Ok(item)
            })
            .boxed()
    }

    async fn unfinished(&self) -> Result<Fact<Vec<Unfinished>>, StoreError> {
        self.inner.unfinished().await
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        list::folders(&self.inner, folder.trim_matches('/')).await
    }

    fn address(&self) -> String {
        self.inner.address.clone()
    }

    fn is_remote(&self) -> bool {
        true
    }
}

#[async_trait]
impl Put for S3 {
    async fn put_new(&self, path: &ObjectPath, body: Bytes) -> Result<Created, StoreError> {
        self.inner.put_new(path, PutPayload::from(body)).await
    }

    async fn harden(&self, _: &ObjectPath) -> Result<(), StoreError> {
        Ok(())
    }

    async fn replace(&self, path: &ObjectPath, body: Bytes, expected: Option<&Version>) -> Result<Option<Version>, StoreError> {
        self.inner.replace(path, PutPayload::from(body), expected).await
    }

    fn begin(&self, path: &ObjectPath) -> Result<Arc<dyn ObjectSink>, StoreError> {
        Ok(Arc::new(sink::S3Sink::new(Arc::clone(&self.inner), path.clone())))
    }

    async fn settle(&self) -> Result<(), StoreError> {
        self.inner.pending.settle().await
    }

    async fn nature(&self, path: &ObjectPath) -> Result<Nature, StoreError> {
        self.inner.nature(path).await
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.inner.prove_at_rest().await
    }
}

#[async_trait]
impl Remove for S3 {
    async fn remove(&self, path: &ObjectPath) -> Result<(), StoreError> {
        let key = self.inner.key(path.as_str())?;
        match self.inner.bounded("remove", path.as_str(), 0, || self.inner.steady.delete(&key)).await {
            Err(StoreError::Missing { .. }) => Ok(()),
            // Azure's answer inside an answer has no word for it: whether the container is there is asked anew.
            Err(StoreError::Failed { why, .. }) if self.inner.cloud == CloudKind::Microsoft && why.contains(" 404 ") => {
                self.inner.info(path).await.map(drop)
            }
            result => result,
        }
    }

    async fn abandon(&self, upload: &Unfinished) -> Result<(), StoreError> {
        self.inner.abandon(upload).await
    }

    async fn remove_version(&self, path: &ObjectPath, id: &str) -> Result<(), StoreError> {
        let (key, query) = (self.inner.raw_key(path.as_str()), versions::query(&[("versionId", id)]));
        self.inner.ask("remove", path.as_str(), &Ask { method: "DELETE", path: &key, query: &query, ..Ask::default() }).await.map(drop)
    }
}
