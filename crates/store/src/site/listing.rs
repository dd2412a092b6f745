//! Lists a bucket in the order of keys' bytes: the folders at its top at once, each in a task of its own, with bounded memory.

use super::Item;
use super::bucket::BucketSite;
use super::canary::CANARY;
use super::pace::Pace;
use super::part::Part;
use super::sort::Sorter;
use crate::StoreError;
use crate::bucket::encoded;
use crate::s3::page::{self as answer, Entry, Page};
use crate::s3::{Call, Patience};
use futures::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use terms::{Class, Explain, Timestamp};
use tokio::sync::mpsc;

/// So many folders are listed at once.
const FOLDERS_AT_ONCE: usize = 8;
/// So many pages of a folder wait for their turn.
const PAGES_AHEAD: usize = 2;
/// So many sorted parts come back at once.
const BATCH: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Current,
    Versions,
}

/// One page: what is in it, and how to ask for the next.
type Answer = (Vec<Part>, Option<String>);

/// How a bucket is listed.
#[derive(Clone)]
pub(super) struct Listing {
    pub site: Arc<BucketSite>,
    pub what: What,
    /// Where it must not go on as fast as it can.
    pub pace: Option<Arc<Pace>>,
}

impl Listing {
    /// Everything, in order; the listing ends with an error when the server does not keep to it.
    pub(super) fn all(self) -> BoxStream<'static, Result<Item, StoreError>> {
        let (site, what) = (Arc::clone(&self.site), self.what);
        let parts = self.clone().parts(site.prefix().to_owned(), true);
        let opened = parts
            .map(move |part| {
                let listing = self.clone();
                async move {
                    match part {
                        Ok(Part::Item(item)) => stream::iter([Ok(item)]).boxed(),
                        Err(error) => stream::iter([Err(error)]).boxed(),
                        Ok(Part::Folder { whole, .. }) => listing.ahead(whole),
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

    /// Asks for one page, of a key that nobody has.
    pub(super) async fn answers(&self) -> Result<(), StoreError> {
        self.page(&format!("{}{CANARY}", self.site.prefix()), true, None).await.map(drop)
    }

    /// What there is of one key, the newest first. Whatever a server's order, its key comes before those that begin with it.
    pub(super) async fn of_key(&self, key: &str) -> Result<Vec<Item>, StoreError> {
        let prefix = format!("{}{key}", self.site.prefix());
        let (mut found, mut from) = (Vec::new(), None);
        loop {
            let (parts, next) = self.page(&prefix, true, from.as_deref()).await?;
            let is_over = next.is_none() || next == from || parts.iter().any(|part| part.key() != key);
            found.extend(parts.into_iter().filter(|part| part.key() == key));
            if is_over {
                break;
            }
            from = next;
        }
        found.sort_by(Part::newest_first);
        let item = |part| match part {
            Part::Item(item) => Some(item),
            Part::Folder { .. } => None,
        };
        Ok(found.into_iter().filter_map(item).collect())
    }

    /// Lists a folder in a task of its own, a few pages ahead of whoever reads.
    fn ahead(self, prefix: String) -> BoxStream<'static, Result<Item, StoreError>> {
        let (give, mut take) = mpsc::channel(PAGES_AHEAD);
        tokio::spawn(async move {
            let mut pages = self.parts(prefix, false).ready_chunks(1000);
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

    /// In the order of keys, of each the newest first.
    fn parts(self, prefix: String, by_level: bool) -> BoxStream<'static, Result<Part, StoreError>> {
        let is_sorted = self.site.is_aws();
        let site = Arc::clone(&self.site);
        let pages = stream::try_unfold(Some(None::<String>), move |from| {
            let (listing, prefix) = (self.clone(), prefix.clone());
            async move {
                let Some(from) = from else { return Ok::<_, StoreError>(None) };
                let (parts, next) = listing.page(&prefix, by_level, from.as_deref()).await?;
                if next.is_some() && next == from {
                    // Asked for ever, or taken for whole: neither.
                    return Err(listing.site.failed("list", &prefix, "the server says that there is more, and goes on where it began"));
                }
                Ok(Some((parts, next.map(Some))))
            }
        });
        if is_sorted {
            return pages.map_ok(|page| stream::iter(page.into_iter().map(Ok))).try_flatten().boxed();
        }
        // Servers that walk folders (SeaweedFS) answer `a/` before `a-b`, and nobody knows so before the end: what was asked for is
        // sorted here.
        stream::once(sorted(site, pages)).try_flatten().boxed()
    }

    async fn page(&self, prefix: &str, by_level: bool, from: Option<&str>) -> Result<Answer, StoreError> {
        let ask = |patience| page(&self.site, self.what, prefix, by_level, from, patience);
        let Some(pace) = &self.pace else { return ask(Patience::Whole).await };
        loop {
            if !pace.turn().await {
                return Err(self.site.failed("list", prefix, "nobody wants to know any more"));
            }
            match ask(Patience::Brief).await {
                // What was listed in hours is not thrown away for that: the next turn asks again.
                Err(error) if error.class() == Class::Transient => pace.failed(error).await,
                answer => {
                    pace.went();
                    return answer;
                }
            }
        }
    }
}

/// All pages, sorted, in bounded memory.
async fn sorted(
    site: Arc<BucketSite>,
    pages: impl Stream<Item = Result<Vec<Part>, StoreError>>,
) -> Result<impl Stream<Item = Result<Part, StoreError>>, StoreError> {
    let failed = {
        let site = Arc::clone(&site);
        move |error: io::Error| site.failed("sort the listing of", "", &format!("no room for temporary files: {error}"))
    };
    let mut sorter = Sorter::new();
    let mut pages = pin!(pages);
    while let Some(page) = pages.try_next().await? {
        sorter = blocking(&site, move || page.into_iter().try_for_each(|part| sorter.push(part)).map(|()| sorter)).await?.map_err(&failed)?;
    }
    let sorted = blocking(&site, move || sorter.finish()).await?.map_err(&failed)?;
    let batches = stream::try_unfold(Some(sorted), move |sorted| {
        let (site, failed) = (Arc::clone(&site), failed.clone());
        async move {
            let Some(mut sorted) = sorted else { return Ok::<_, StoreError>(None) };
            let (batch, sorted) = blocking(&site, move || {
                let batch: io::Result<Vec<Part>> = sorted.by_ref().take(BATCH).collect();
                (batch, sorted)
            })
            .await?;
            let batch = batch.map_err(failed)?;
            let goes_on = batch.len() == BATCH;
            Ok(Some((stream::iter(batch.into_iter().map(Ok)), goes_on.then_some(sorted))))
        }
    });
    Ok(batches.try_flatten())
}

async fn blocking<T: Send + 'static>(site: &BucketSite, work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(site.failed("list", "", "the program is ending")),
    }
}

async fn page(site: &BucketSite, what: What, prefix: &str, by_level: bool, from: Option<&str>, patience: Patience) -> Result<Answer, StoreError> {
    let mut query = vec![format!("prefix={}", encoded(prefix)), "encoding-type=url".to_owned()];
    match what {
        What::Current => query.push("list-type=2".to_owned()),
        What::Versions => query.push("versions=".to_owned()),
    }
    query.extend(by_level.then(|| "delimiter=%2F".to_owned()));
    query.extend(from.map(str::to_owned).iter().flat_map(|from| from.split('&').map(str::to_owned).collect::<Vec<_>>()));
    query.sort_unstable();
    let reply = site.control.exchange(&Call { method: "GET", query: &query.join("&"), patience, ..Call::default() }).await?;
    let reply = reply.map_err(|trouble| site.fail("list", prefix, &trouble))?;
    let wrong = |why: &dyn std::fmt::Display| site.failed("list", prefix, &format!("the answer makes no sense: {why}"));
    let page = Page::read(&String::from_utf8_lossy(&reply.body)).map_err(|why| wrong(&why))?;
    let is_encoded = page.is_encoded();
    let plain = |text: &str| answer::plain(text, is_encoded).ok_or_else(|| wrong(&"a key holds a broken %-code"));
    let next = match (page.goes_on(), what) {
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
        let Some(key) = whole.strip_prefix(site.prefix()).filter(|key| !key.is_empty() && *key != CANARY) else { continue };
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
    // Removals and folders stand among the others.
    parts.sort_by(|a, b| a.key().cmp(b.key()));
    Ok((parts, next))
}
