//! The objects of a bucket with any keys, asked for by signed requests of our own: object_store refuses some keys and hides some headers.

use super::{Item, ItemFacts, Site};
use crate::StoreError;
use crate::bucket::encoded;
use crate::s3::{Call, Control, Patience, Reply, Trouble};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// A prefix in a bucket.
pub(super) struct BucketSite {
    pub(super) control: Arc<Control>,
    prefix: String,
}

impl BucketSite {
    pub(super) fn new(control: Arc<Control>, prefix: String) -> Self {
        let prefix = if prefix.is_empty() { prefix } else { format!("{prefix}/") };
        Self { control, prefix }
    }

    pub(super) fn address(&self) -> String {
        format!("s3://{}/{}", self.control.bucket, self.prefix).trim_end_matches('/').to_owned()
    }

    /// What every key in the bucket begins with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Amazon promises the order of its listings.
    pub(super) fn is_aws(&self) -> bool {
        self.control.endpoint.as_deref().is_none_or(|endpoint| endpoint.contains(".amazonaws.com"))
    }

    pub(super) fn fail(&self, operation: &'static str, key: &str, trouble: &Trouble) -> StoreError {
        trouble.of_store(&self.address(), operation, key)
    }

    pub(super) fn failed(&self, operation: &'static str, key: &str, why: &str) -> StoreError {
        StoreError::Failed { store: self.address(), operation, path: key.to_owned(), why: why.to_owned() }
    }

    pub(super) async fn keeps_versions(&self) -> Result<bool, StoreError> {
        let call = Call { method: "GET", query: "versioning=", ..Call::default() };
        match self.control.exchange(&call).await? {
            Ok(reply) => Ok(String::from_utf8_lossy(&reply.body).contains("<Status>Enabled</Status>")),
            Err(trouble) => Err(self.fail("read", "", &trouble)),
        }
    }

    /// A request for an object. A key with a part that an address cannot carry is refused, not mistaken for another.
    async fn ask(&self, operation: &'static str, key: &str, call: Call<'_>) -> Result<Result<Reply, Trouble>, StoreError> {
        let whole = format!("{}{key}", self.prefix);
        if whole.split('/').any(|part| part == "." || part == "..") {
            return Err(self.failed(operation, key, "its key has a part that no address can carry"));
        }
        self.control.exchange(&Call { path: &whole, ..call }).await
    }

    async fn done(&self, operation: &'static str, key: &str, call: Call<'_>) -> Result<Reply, StoreError> {
        self.ask(operation, key, call).await?.map_err(|trouble| self.fail(operation, key, &trouble))
    }

    /// A version by its id; what is there now only while it is what was listed.
    fn select(item: &Item) -> (String, Vec<(String, String)>) {
        match &item.id {
            Some(id) => (format!("versionId={}", encoded(id)), Vec::new()),
            None => (String::new(), vec![("if-match".to_owned(), format!("\"{}\"", item.etag))]),
        }
    }

    pub(super) async fn read(&self, item: &Item, range: Range<u64>) -> Result<Option<(Bytes, ItemFacts)>, StoreError> {
        let (query, mut headers) = Self::select(item);
        let wanted = range.end.saturating_sub(range.start);
        // An empty object has no range that could be asked for.
        if wanted > 0 {
            headers.push(("range".to_owned(), format!("bytes={}-{}", range.start, range.end - 1)));
        } else if item.bytes > 0 {
            return Ok(self.facts(item).await?.map(|facts| (Bytes::new(), facts)));
        }
        match self.ask("read", &item.key, Call { method: "GET", query: &query, headers, ..Call::default() }).await? {
            Ok(reply) if reply.body.len() as u64 == wanted => Ok(Some((reply.body, ItemFacts::of_headers(&reply.headers)))),
            Ok(reply) => {
                let (path, found) = (item.key.clone(), range.start + reply.body.len() as u64);
                Err(StoreError::Truncated { store: self.address(), path, wanted: range.end, found })
            }
            // 405: the version is a delete marker. 416: the object is shorter now.
            Err(trouble) if trouble.code() != "NoSuchBucket" && matches!(trouble.status(), Some(404 | 412 | 405 | 416)) => Ok(None),
            Err(trouble) => Err(self.fail("read", &item.key, &trouble)),
        }
    }

    pub(super) async fn facts(&self, item: &Item) -> Result<Option<ItemFacts>, StoreError> {
        let (query, headers) = Self::select(item);
        match self.ask("look up", &item.key, Call { method: "HEAD", query: &query, headers, ..Call::default() }).await? {
            Ok(reply) => Ok(Some(ItemFacts::of_headers(&reply.headers))),
            Err(trouble) if matches!(trouble.status(), Some(404 | 412 | 405)) => Ok(None),
            Err(trouble) => Err(self.fail("look up", &item.key, &trouble)),
        }
    }

    /// What is written beside what is there now.
    pub(super) async fn now(&self, key: &str) -> Result<Option<ItemFacts>, StoreError> {
        match self.ask("look up", key, Call { method: "HEAD", ..Call::default() }).await? {
            Ok(reply) => Ok(Some(ItemFacts::of_headers(&reply.headers))),
            Err(trouble) if matches!(trouble.status(), Some(404 | 405)) => Ok(None),
            Err(trouble) => Err(self.fail("look up", key, &trouble)),
        }
    }

    pub(super) async fn look(&self, key: &str) -> Result<Option<Item>, StoreError> {
        let reply = match self.ask("look up", key, Call { method: "HEAD", ..Call::default() }).await? {
            Ok(reply) => reply,
            Err(trouble) if matches!(trouble.status(), Some(404 | 405)) => return Ok(None),
            Err(trouble) => return Err(self.fail("look up", key, &trouble)),
        };
        let text = |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let modified = crate::s3::http_date(text("last-modified")).ok_or_else(|| self.failed("look up", key, "the server tells no time"))?;
        let bytes = text("content-length").parse().map_err(|_| self.failed("look up", key, "the server tells no length"))?;
        let etag = text("etag").trim_matches('"').to_owned();
        Ok(Some(Item { key: key.to_owned(), id: None, bytes, modified, etag, is_latest: true, is_removal: false }))
    }

    pub(super) async fn hide(&self, key: &str) -> Result<(), StoreError> {
        self.done("hide", key, Call { method: "DELETE", ..Call::default() }).await.map(drop)
    }

    /// Whether it did: only while this version is what is there now.
    pub(super) async fn write_again(&self, item: &Item) -> Result<bool, StoreError> {
        // Asked just before, of what is there now: a listing is old, and an old body must not come over a newer one.
        let reply = match self.ask("look up", &item.key, Call { method: "HEAD", ..Call::default() }).await? {
            Ok(reply) => reply,
            Err(trouble) if matches!(trouble.status(), Some(404 | 405)) => return Ok(false),
            Err(trouble) => return Err(self.fail("look up", &item.key, &trouble)),
        };
        let text = |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok());
        let (id, etag) = (text("x-amz-version-id").unwrap_or("null"), text("etag").unwrap_or_default().trim_matches('"'));
        if id != item.id.as_deref().unwrap_or("null") || etag != item.etag {
            return Ok(false);
        }
        let facts = ItemFacts::of_headers(&reply.headers);
        let version = item.id.as_deref().map(|id| format!("?versionId={}", encoded(id))).unwrap_or_default();
        let whole: Vec<String> = format!("{}{}", self.prefix, item.key).split('/').map(encoded).collect();
        let note = format!("{} of {}", item.id.as_deref().unwrap_or(&item.etag), item.modified);
        let mut headers = facts.copy_of(&note).headers();
        headers.push(("x-amz-copy-source".to_owned(), format!("/{}/{}{version}", self.control.bucket, whole.join("/"))));
        headers.push(("x-amz-metadata-directive".to_owned(), "REPLACE".to_owned()));
        match self.done("replicate", &item.key, Call { method: "PUT", headers, copied_bytes: item.bytes, ..Call::default() }).await {
            Err(error) if !self.has(&item.key, item.bytes, Some(&note)).await => Err(error),
            _ => Ok(true),
        }
    }

    /// Whether a write came about whose answer was lost, late or a refusal of its own repetition: what is there now has this size, and the
    /// note of which object it is a copy of. Without a note nobody can tell.
    async fn has(&self, key: &str, bytes: u64, note: Option<&str>) -> bool {
        let Some(note) = note else { return false };
        let Ok(Ok(reply)) = self.ask("look up", key, Call { method: "HEAD", ..Call::default() }).await else { return false };
        let length = reply.headers.get("content-length").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        length == Some(bytes) && ItemFacts::of_headers(&reply.headers).is_copy_of() == Some(note)
    }

    /// Frees what the parts of an upload occupy. An error says nothing new: the upload has failed already.
    async fn drop_parts(&self, key: &str, upload_id: &str) {
        let query = format!("uploadId={}", encoded(upload_id));
        let _ = self.ask("write", key, Call { method: "DELETE", query: &query, patience: Patience::Brief, ..Call::default() }).await;
    }

    pub(super) async fn begin(site: &Arc<Self>, key: &str, bytes: u64, facts: &ItemFacts) -> Result<Upload, StoreError> {
        let mut upload = Upload {
            site: Arc::clone(site),
            key: key.to_owned(),
            bytes,
            headers: facts.headers(),
            note: facts.is_copy_of().map(str::to_owned),
            id: None,
            parts: Vec::new(),
            whole: None,
            is_first: false,
        };
        if bytes > Site::piece_bytes(bytes) {
            let call = Call { method: "POST", query: "uploads=", headers: upload.headers.clone(), ..Call::default() };
            let reply = site.done("write", key, call).await?;
            let answer = String::from_utf8_lossy(&reply.body).into_owned();
            let id = answer.split_once("<UploadId>").and_then(|(_, rest)| rest.split_once("</UploadId>")).map(|(id, _)| id.to_owned());
            upload.id = Some(id.ok_or_else(|| site.failed("write", key, "the server begins an upload without a name"))?);
        }
        Ok(upload)
    }
}

/// An object on its way.
pub(super) struct Upload {
    site: Arc<BucketSite>,
    key: String,
    bytes: u64,
    headers: Vec<(String, String)>,
    /// Of which object it is a copy.
    note: Option<String>,
    /// Of the upload in parts.
    id: Option<String>,
    parts: Vec<String>,
    /// What goes up in one request.
    whole: Option<Bytes>,
    /// The server is asked to refuse it when there is something under this key.
    pub(super) is_first: bool,
}

impl Upload {
    pub(super) async fn piece(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let Some(id) = &self.id else {
            self.whole = Some(bytes);
            return Ok(());
        };
        let query = format!("partNumber={}&uploadId={}", self.parts.len() + 1, encoded(id));
        let reply = self.site.done("write", &self.key, Call { method: "PUT", query: &query, body: bytes, ..Call::default() }).await?;
        let etag = reply.headers.get("etag").and_then(|etag| etag.to_str().ok()).unwrap_or_default().to_owned();
        self.parts.push(etag);
        Ok(())
    }

    pub(super) async fn finish(self) -> Result<(), StoreError> {
        let Self { site, key, bytes, mut headers, note, id, parts, whole, is_first } = self;
        let condition: Vec<_> = is_first.then(|| ("if-none-match".to_owned(), "*".to_owned())).into_iter().collect();
        let Some(id) = id else {
            headers.extend(condition);
            let call = Call { method: "PUT", headers, body: whole.unwrap_or_default(), ..Call::default() };
            return match site.done("write", &key, call).await {
                Err(error) if !site.has(&key, bytes, note.as_deref()).await => Err(error),
                _ => Ok(()),
            };
        };
        let part = |(number, etag): (usize, &String)| format!("<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>", number + 1);
        let parts: String = parts.iter().enumerate().map(part).collect();
        let body = format!("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{parts}</CompleteMultipartUpload>");
        let query = format!("uploadId={}", encoded(&id));
        let call = Call { method: "POST", query: &query, headers: condition, body: Bytes::from(body), copied_bytes: bytes, ..Call::default() };
        match site.done("write", &key, call).await {
            Ok(_) => Ok(()),
            Err(_) if site.has(&key, bytes, note.as_deref()).await => Ok(()),
            Err(error) => {
                // No harm where it was completed after all: then there is no such upload any more.
                site.drop_parts(&key, &id).await;
                Err(error)
            }
        }
    }

    pub(super) async fn give_up(self) {
        if let Some(id) = &self.id {
            self.site.drop_parts(&self.key, id).await;
        }
    }
}
