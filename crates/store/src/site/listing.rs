//! Lists a bucket in the order of keys' bytes: the folders at its top at once, each in a task of its own, with bounded memory.

use super::Item;
use super::bucket::BucketSite;
use crate::StoreError;
use crate::address::decode;
use crate::bucket::encoded;
use crate::s3::Call;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use serde::Deserialize;
use std::cmp::{Ordering, Reverse};
use std::sync::Arc;
use terms::Timestamp;
use tokio::sync::mpsc;

/// So many folders are listed at once.
const FOLDERS_AT_ONCE: usize = 8;
/// So many pages of a folder wait for their turn.
const PAGES_AHEAD: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Current,
    Versions,
}

#[derive(Debug, Deserialize)]
struct Page {
    #[serde(rename = "NextContinuationToken", default)]
    token: Option<String>,
    #[serde(rename = "NextKeyMarker", default)]
    next_key: Option<String>,
    #[serde(rename = "NextVersionIdMarker", default)]
    next_version: Option<String>,
    #[serde(rename = "IsTruncated", default)]
    is_truncated: bool,
    #[serde(rename = "EncodingType", default)]
    encoding: Option<String>,
    #[serde(rename = "$value", default)]
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
enum Entry {
    Contents(Listed),
    Version(Listed),
    DeleteMarker(Listed),
    CommonPrefixes(Folder),
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
struct Folder {
    #[serde(rename = "Prefix")]
    prefix: String,
}

#[derive(Debug, Deserialize)]
struct Listed {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "VersionId", default)]
    id: Option<String>,
    #[serde(rename = "IsLatest", default)]
    is_latest: bool,
    #[serde(rename = "LastModified")]
    modified: String,
    #[serde(rename = "ETag", default)]
    etag: String,
    #[serde(rename = "Size", default)]
    bytes: u64,
}

/// One page: what is in it, and how to ask for the next.
type Answer = (Vec<Part>, Option<String>);

/// What a page holds, in the order of keys.
enum Part {
    Item(Item),
    /// A folder: below the site, as keys are, and by its whole prefix; both with the slash at its end.
    Folder {
        below: String,
        whole: String,
    },
}

impl Part {
    fn key(&self) -> &str {
        match self {
            Self::Item(item) => &item.key,
            Self::Folder { below, .. } => below,
        }
    }

    /// By key, and of a key the newest first, for servers that list removals apart from versions (SeaweedFS does). What neither
    /// tells apart stays as the server has it.
    fn newest_first(&self, other: &Self) -> Ordering {
        let age = |part: &Self| match part {
            Self::Item(item) => (!item.is_latest, Reverse(item.modified)),
            Self::Folder { .. } => (false, Reverse(Timestamp::from_unix_micros(0))),
        };
        self.key().cmp(other.key()).then_with(|| age(self).cmp(&age(other)))
    }
}

/// Everything, in order; the listing ends with an error when the server does not keep to it.
pub(super) fn list(site: &Arc<BucketSite>, what: What) -> BoxStream<'static, Result<Item, StoreError>> {
    let site = Arc::clone(site);
    let inner = Arc::clone(&site);
    let parts = pages(Arc::clone(&site), what, site.prefix().to_owned(), true);
    let opened = parts
        .map(move |part| {
            let site = Arc::clone(&inner);
            async move {
                match part {
                    Ok(Part::Item(item)) => stream::iter([Ok(item)]).boxed(),
                    Err(error) => stream::iter([Err(error)]).boxed(),
                    Ok(Part::Folder { whole, .. }) => ahead(site, what, whole),
                }
            }
        })
        .buffered(FOLDERS_AT_ONCE)
        .flatten();
    let mut last: Option<String> = None;
    opened
        .map(move |item| {
            let item: Item = item?;
            let is_next = last.as_ref().is_none_or(|last| *last < item.key || (what == What::Versions && *last == item.key));
            if !is_next {
                return Err(site.failed("list", &item.key, "the server lists it out of order"));
            }
            last = Some(item.key.clone());
            Ok(item)
        })
        .boxed()
}

/// Lists a folder in a task of its own, a few pages ahead of whoever reads.
fn ahead(site: Arc<BucketSite>, what: What, prefix: String) -> BoxStream<'static, Result<Item, StoreError>> {
    let (give, mut take) = mpsc::channel(PAGES_AHEAD);
    tokio::spawn(async move {
        let mut pages = pages(site, what, prefix, false).ready_chunks(1000);
        while let Some(page) = pages.next().await {
            if give.send(page).await.is_err() {
                return;
            }
        }
    });
    stream::poll_fn(move |context| take.poll_recv(context))
        .map(stream::iter)
        .flatten()
        .filter_map(|part| async move {
            match part {
                Ok(Part::Item(item)) => Some(Ok(item)),
                Ok(Part::Folder { .. }) => None,
                Err(error) => Some(Err(error)),
            }
        })
        .boxed()
}

fn pages(site: Arc<BucketSite>, what: What, prefix: String, by_level: bool) -> BoxStream<'static, Result<Part, StoreError>> {
    // Servers that walk folders (SeaweedFS) answer `a/` before `a-b`: what was asked for is sorted here, at the price of holding it.
    let is_sorted = site.is_aws();
    let pages = stream::try_unfold(Some(None::<String>), move |from| {
        let (site, prefix) = (Arc::clone(&site), prefix.clone());
        async move {
            let Some(from) = from else { return Ok::<_, StoreError>(None) };
            let (mut parts, next) = page(&site, what, &prefix, by_level, from.as_deref()).await?;
            parts.sort_by(|a, b| a.key().cmp(b.key()));
            if next.is_some() && next == from {
                // Asked for ever, or taken for whole: neither.
                return Err(site.failed("list", &prefix, "the server says that there is more, and goes on where it began"));
            }
            Ok(Some((stream::iter(parts.into_iter().map(Ok)), next.map(Some))))
        }
    })
    .try_flatten();
    if is_sorted {
        return pages.boxed();
    }
    let sorted = async move {
        let mut parts: Vec<Part> = pages.try_collect().await?;
        parts.sort_by(Part::newest_first);
        Ok(stream::iter(parts.into_iter().map(Ok)))
    };
    stream::once(sorted).try_flatten().boxed()
}

async fn page(site: &BucketSite, what: What, prefix: &str, by_level: bool, from: Option<&str>) -> Result<Answer, StoreError> {
    let mut query = vec![format!("prefix={}", encoded(prefix)), "encoding-type=url".to_owned()];
    match what {
        What::Current => query.push("list-type=2".to_owned()),
        What::Versions => query.push("versions=".to_owned()),
    }
    query.extend(by_level.then(|| "delimiter=%2F".to_owned()));
    query.extend(from.map(str::to_owned).iter().flat_map(|from| from.split('&').map(str::to_owned).collect::<Vec<_>>()));
    query.sort_unstable();
    let reply = site.control.exchange(&Call { method: "GET", query: &query.join("&"), ..Call::default() }).await?;
    let reply = reply.map_err(|trouble| site.fail("list", prefix, &trouble))?;
    let wrong = |why: &dyn std::fmt::Display| site.failed("list", prefix, &format!("the answer makes no sense: {why}"));
    let page: Page = quick_xml::de::from_str(&String::from_utf8_lossy(&reply.body)).map_err(|e| wrong(&e))?;
    let is_encoded = page.encoding.as_deref() == Some("url");
    let plain = |text: &str| match is_encoded {
        true => decode(&text.replace('+', " ")).ok_or_else(|| wrong(&"a key holds a broken %-code")),
        false => Ok(text.to_owned()),
    };
    let next = match (page.is_truncated, what) {
        (false, _) => None,
        (true, What::Current) => {
            Some(format!("continuation-token={}", encoded(page.token.as_deref().ok_or_else(|| wrong(&"it names no place to go on"))?)))
        }
        (true, What::Versions) => {
            let key = plain(page.next_key.as_deref().ok_or_else(|| wrong(&"it names no place to go on"))?)?;
            let version = page.next_version.filter(|version| !version.is_empty()).map(|version| format!("&version-id-marker={}", encoded(&version)));
            Some(format!("key-marker={}{}", encoded(&key), version.unwrap_or_default()))
        }
    };
    let mut parts = Vec::with_capacity(page.entries.len());
    for entry in page.entries {
        let (listed, is_removal) = match entry {
            Entry::Contents(listed) | Entry::Version(listed) => (listed, false),
            Entry::DeleteMarker(listed) => (listed, true),
            Entry::CommonPrefixes(folder) => {
                let whole = plain(&folder.prefix)?;
                if let Some(below) = whole.strip_prefix(site.prefix()).map(str::to_owned) {
                    parts.push(Part::Folder { below, whole });
                }
                continue;
            }
            Entry::Other => continue,
        };
        let whole = plain(&listed.key)?;
        let etag = listed.etag.trim_matches('"').to_owned();
        let Some(key) = whole.strip_prefix(site.prefix()).filter(|key| !key.is_empty()) else { continue };
        // SeaweedFS lists a folder that its last object left behind, without an ETag.
        if !is_removal && listed.bytes == 0 && etag.is_empty() {
            continue;
        }
        let modified: Timestamp = listed.modified.parse().map_err(|_| wrong(&format!("the time of {key} is {:?}", listed.modified)))?;
        let (id, is_latest) = match what {
            What::Current => (None, true),
            What::Versions => (listed.id, listed.is_latest),
        };
        parts.push(Part::Item(Item { key: key.to_owned(), id, bytes: listed.bytes, modified, etag, is_latest, is_removal }));
    }
    Ok((parts, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_that_are_listed_apart_come_between_the_versions_that_they_are_between() {
        let part = |second: i64, is_removal, is_latest| {
            let modified = Timestamp::from_unix_micros(second * 1_000_000);
            Part::Item(Item { key: "a".into(), id: None, bytes: 1, modified, etag: String::new(), is_latest, is_removal })
        };
        // As SeaweedFS answers: versions, then removals; the newest one is of the same second as the one before.
        let mut parts = [part(30, false, false), part(10, false, false), part(30, true, true), part(20, true, false)];
        parts.sort_by(Part::newest_first);
        let order: Vec<_> = parts
            .iter()
            .map(|part| match part {
                Part::Item(item) => (item.modified.unix_micros() / 1_000_000, item.is_removal),
                Part::Folder { .. } => (0, false),
            })
            .collect();
        assert_eq!(order, [(30, true), (30, false), (20, true), (10, false)]);
    }
}
