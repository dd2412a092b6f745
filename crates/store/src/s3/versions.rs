//! The versions that a bucket keeps of its objects (`ListObjectVersions`, Amazon S3 API Reference).

use super::page::{ENCODED, Entry, Folder, Listed, Page, plain};
use super::trouble::LIST;
use super::{Answered, Ask, Inner, S3};
use crate::{LockMode, ObjectPath, ObjectVersion, StoreError, Versions};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::{GetOptions, GetRange, ObjectStore};
use serde::Deserialize;
use std::ops::Range;
use terms::Timestamp;

#[derive(Debug, Deserialize)]
struct Retention {
    #[serde(rename = "Mode", default)]
    mode: Option<String>,
    #[serde(rename = "RetainUntilDate", default)]
    until: Option<String>,
}

/// The answers for an object, or a bucket, that has no lock.
const UNLOCKED: [&str; 3] = ["NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError", "InvalidRequest"];

/// A query of these parameters, in which everything is percent-encoded but what RFC 3986 calls unreserved.
pub(super) fn query(parameters: &[(&str, &str)]) -> String {
    let encoded = |text: &str| -> String {
        let letter = |byte: u8| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        };
        text.bytes().map(letter).collect()
    };
    parameters.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect::<Vec<_>>().join("&")
}

impl Inner {
    /// Asks what only S3 answers, and takes no refusal.
    pub(super) async fn ask(&self, operation: &'static str, path: &str, ask: &Ask<'_>) -> Result<String, StoreError> {
        match self.answer(operation, path, ask).await? {
            Answered::Yes(body) => Ok(body),
            Answered::No(trouble) => Err(self.fail(operation, path, &trouble)),
        }
    }

    async fn answer(&self, operation: &'static str, path: &str, ask: &Ask<'_>) -> Result<Answered, StoreError> {
        let Some(control) = &self.control else {
            let why = "Bowline reads versions and locks of S3 buckets only".to_owned();
            return Err(StoreError::Failed { store: self.address.clone(), operation, path: path.to_owned(), why });
        };
        // In the words of whoever asks.
        control.send(ask).await.map_err(|error| match error {
            StoreError::Unreachable { store, why, .. } => StoreError::Unreachable { store, operation, path: path.to_owned(), why },
            StoreError::Untrusted { store, why, .. } => StoreError::Untrusted { store, operation, path: path.to_owned(), why },
            other => other,
        })
    }

    /// The path below this store; `None` for what Bowline did not write.
    pub(super) fn below(&self, key: &str) -> Option<ObjectPath> {
        let below = match self.prefix.as_str() {
            "" => key,
            prefix => key.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        ObjectPath::new(below).ok()
    }
}

/// Where the next page begins.
type Next = Option<(String, String)>;

impl S3 {
    /// One page of what the bucket keeps below a prefix, as the server orders it: by key, the newest first; folders by their full prefix.
    /// What has no key that can be read is nobody's here, and left out.
    async fn page(&self, raw_prefix: &str, by_level: bool, from: &Next) -> Result<(Vec<Entry>, Next), StoreError> {
        let inner = &*self.inner;
        let mut query = vec![("versions", ""), ("prefix", raw_prefix), ENCODED];
        if by_level {
            query.push(("delimiter", "/"));
        }
        if let Some((key, version)) = from {
            query.push(("key-marker", key));
            if !version.is_empty() {
                query.push(("version-id-marker", version));
            }
        }
        let query = self::query(&query);
        let text = inner.ask(LIST, raw_prefix, &Ask { method: "GET", query: &query, ..Ask::default() }).await?;
        let wrong = |e: &dyn std::fmt::Display| StoreError::Failed {
            store: inner.address.clone(),
            operation: LIST,
            path: raw_prefix.to_owned(),
            why: format!("the answer makes no sense: {e}"),
        };
        let page = Page::read(&text).map_err(|why| wrong(&why))?;
        let (goes_on, is_encoded) = (page.goes_on(), page.is_encoded());
        let next = match (goes_on, page.next_key.and_then(|key| plain(&key, is_encoded))) {
            (true, Some(key)) => Some((key, page.next_version.unwrap_or_default())),
            (true, None) => return Err(wrong(&"it is cut off and names no place to go on")),
            (false, _) => None,
        };
        if next.is_some() && next == *from {
            // Asked for ever, or taken for whole: neither.
            return Err(wrong(&"it says that there is more, and goes on where it began"));
        }
        let listed = |listed: Listed| plain(&listed.key, is_encoded).map(|key| Listed { key, ..listed });
        let entry = |entry: Entry| match entry {
            Entry::Version(version) => listed(version).map(Entry::Version),
            Entry::DeleteMarker(removal) => listed(removal).map(Entry::DeleteMarker),
            Entry::CommonPrefixes(folder) => plain(&folder.prefix, is_encoded).map(|prefix| Entry::CommonPrefixes(Folder { prefix })),
            Entry::Contents(_) | Entry::Other => None,
        };
        Ok((page.entries.into_iter().filter_map(entry).collect(), next))
    }

    /// A version or a removal, unless it is no object's that Bowline wrote.
    fn version(&self, entry: Entry) -> Option<Result<ObjectVersion, StoreError>> {
        let (listed, is_removal) = match entry {
            Entry::Version(listed) => (listed, false),
            Entry::DeleteMarker(listed) => (listed, true),
            Entry::Contents(_) | Entry::CommonPrefixes(_) | Entry::Other => return None,
        };
        let path = self.inner.below(&listed.key)?;
        let id = listed.id.unwrap_or_else(|| "null".to_owned());
        Some(match listed.modified.parse::<Timestamp>() {
            Ok(modified) => Ok(ObjectVersion { path, id, bytes: listed.bytes, modified, is_latest: listed.is_latest, is_removal }),
            Err(_) => Err(StoreError::Failed {
                store: self.inner.address.clone(),
                operation: LIST,
                path: path.to_string(),
                why: format!("its time is {:?}", listed.modified),
            }),
        })
    }
}

#[async_trait]
impl Versions for S3 {
    fn versions(&self, prefix: String) -> BoxStream<'_, Result<ObjectVersion, StoreError>> {
        let raw = self.inner.raw_key(&prefix);
        let pages: BoxStream<'_, Result<ObjectVersion, StoreError>> = stream::try_unfold(Some(None), move |state: Option<Next>| {
            let raw = raw.clone();
            async move {
                let Some(from) = state else { return Ok::<_, StoreError>(None) };
                let (entries, next) = self.page(&raw, false, &from).await?;
                let next = next.map(Some);
                let found: Vec<_> = entries.into_iter().filter_map(|entry| self.version(entry)).collect();
                Ok(Some((stream::iter(found), next)))
            }
        })
        .try_flatten()
        .boxed();
        if self.inner.lists_by_bytes {
            return pages;
        }
        // A server that walks folders is sorted here, at the price of holding what was asked for.
        let sorted = async move {
            let mut found: Vec<ObjectVersion> = pages.try_collect().await?;
            // Stable: the order of versions of one object stays the server's.
            found.sort_by(|a, b| a.path.cmp(&b.path));
            Ok(stream::iter(found.into_iter().map(Ok)))
        };
        stream::once(sorted).try_flatten().boxed()
    }

    async fn version_folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let raw = match folder {
            "" => self.inner.raw_key(""),
            folder => self.inner.raw_key(&format!("{folder}/")),
        };
        let (mut names, mut from) = (Vec::new(), None);
        loop {
            let (entries, next) = self.page(&raw, true, &from).await?;
            for entry in entries {
                if let Entry::CommonPrefixes(Folder { prefix }) = entry
                    && let Some(name) = prefix.strip_prefix(raw.as_str()).map(|rest| rest.trim_end_matches('/'))
                    && ObjectPath::new(name).is_ok()
                {
                    names.push(name.to_owned());
                }
            }
            match next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    async fn get_version(&self, path: &ObjectPath, id: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let inner = &*self.inner;
        let key = inner.key(path.as_str())?;
        let wanted = range.as_ref().map(|range| range.end.saturating_sub(range.start));
        if wanted == Some(0) {
            return Ok(Bytes::new());
        }
        let options = GetOptions { range: range.map(GetRange::Bounded), version: Some(id.to_owned()), ..GetOptions::default() };
        let answer = inner.bounded("read", path.as_str(), 0, || inner.steady.get_opts(&key, options.clone())).await?;
        let (whole, length) = (answer.meta.size, answer.range.end - answer.range.start);
        let body = inner.body("read", path.as_str(), length, answer.bytes()).await?;
        match wanted {
            Some(wanted) if body.len() as u64 != wanted => Err(inner.truncated(path, wanted, whole)),
            None if body.len() as u64 != length => Err(inner.truncated(path, whole, body.len() as u64)),
            _ => Ok(body),
        }
    }

    async fn lock_version(&self, path: &ObjectPath, id: &str, mode: LockMode, until: Timestamp) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{}</Mode><RetainUntilDate>{}</RetainUntilDate></Retention>",
            mode.wire(),
            until.rfc3339()
        );
        let (key, query) = (inner.raw_key(path.as_str()), query(&[("retention", ""), ("versionId", id)]));
        inner.ask("lock", path.as_str(), &Ask { method: "PUT", path: &key, query: &query, body, ..Ask::default() }).await.map(drop)
    }

    async fn locked_until(&self, path: &ObjectPath, id: &str) -> Result<Option<(LockMode, Timestamp)>, StoreError> {
        let inner = &*self.inner;
        let (key, query) = (inner.raw_key(path.as_str()), query(&[("retention", ""), ("versionId", id)]));
        let answer = match inner.answer("read", path.as_str(), &Ask { method: "GET", path: &key, query: &query, ..Ask::default() }).await? {
            Answered::Yes(answer) => answer,
            Answered::No(trouble) if UNLOCKED.contains(&trouble.code()) => return Ok(None),
            Answered::No(trouble) => return Err(inner.fail("read", path.as_str(), &trouble)),
        };
        let wrong = |why: String| StoreError::Failed { store: inner.address.clone(), operation: "read", path: path.to_string(), why };
        let found: Retention = quick_xml::de::from_str(&answer).map_err(|e| wrong(e.to_string()))?;
        let (Some(mode), Some(until)) = (found.mode, found.until) else { return Ok(None) };
        let mode = mode.to_ascii_lowercase().parse().map_err(wrong)?;
        Ok(Some((mode, until.parse().map_err(|_| wrong(format!("a lock ends at {until:?}")))?)))
    }
}
