//! Lists a bucket in the order of whole keys' bytes, whatever order the server has.
//!
//! AWS promises that order. Servers that keep folders (SeaweedFS) answer in the order of a walk through them: what is in `a/`
//! before `a-b`, although `-` comes before `/`. There each level is listed by itself and a folder waits for its turn.
//!
//! Pages of S3 are read here: object_store fails at a page that holds a key with an empty part, a dot or a control character, and whoever
//! may write one such key could keep everybody from listing the folder.

use super::page::{ENCODED, Entry as Listed, Page as Answer, plain};
use super::trouble::LIST;
use super::{Ask, CloudKind, Inner, Patience, versions};
use crate::address::folder_prefix;
use crate::{ObjectInfo, ObjectPath, StoreError};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::list::PaginatedListOptions;
use std::collections::{BTreeSet, VecDeque};
use std::fmt::Display;
use terms::Timestamp;

/// A page of what is below a folder: only what Bowline wrote, or could have.
struct Found {
    objects: Vec<ObjectInfo>,
    /// The names of the folders directly in it.
    folders: Vec<String>,
    /// How to ask for the next page.
    next: Option<String>,
}

/// The folders directly in one, sorted.
pub(super) async fn folders(inner: &Inner, folder: &str) -> Result<Vec<String>, StoreError> {
    let (prefix, mut names, mut token) = (folder_prefix(folder), BTreeSet::new(), None::<String>);
    loop {
        let found = inner.page(&prefix, true, None, token.as_deref()).await?;
        names.extend(found.folders);
        token = found.next;
        if token.is_none() {
            return Ok(names.into_iter().collect());
        }
    }
}

/// Everything below `folder` after `after`, as a server lists it that promises the order of bytes.
pub(super) fn flat<'a>(inner: &'a Inner, folder: &'a str, after: Option<&'a ObjectPath>) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
    let pages = stream::try_unfold(Some(None), move |state: Option<Option<String>>| async move {
        let Some(token) = state else { return Ok::<_, StoreError>(None) };
        let found = inner.page(&folder_prefix(folder), false, after.map(ObjectPath::as_str), token.as_deref()).await?;
        // Not every server begins where it was asked to.
        let objects = found.objects.into_iter().filter(move |object| after.is_none_or(|after| object.path > *after));
        Ok(Some((stream::iter(objects.map(Ok)), found.next.map(Some))))
    });
    pages.try_flatten().boxed()
}

/// Everything below `folder` after `after`, level by level: a request for each folder, in whatever order the server answers.
pub(super) fn by_level<'a>(inner: &'a Inner, folder: &'a str, after: Option<&'a ObjectPath>) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
    let top = Level::new(folder_prefix(folder), after.map(ObjectPath::as_str));
    let walk = Walk { inner, after: after.map(ObjectPath::as_str), levels: top.into_iter().collect() };
    stream::unfold(walk, |mut walk| async move {
        match walk.next().await {
            Ok(Some(object)) => Some((Ok(object), walk)),
            Ok(None) => None,
            Err(error) => {
                walk.levels.clear();
                Some((Err(error), walk))
            }
        }
    })
    .boxed()
}

struct Walk<'a> {
    inner: &'a Inner,
    after: Option<&'a str>,
    levels: Vec<Level>,
}

/// One folder being listed.
struct Level {
    /// Empty or ending in `/`, below the store's root.
    prefix: String,
    /// The server is asked for what comes after this path.
    start: Option<String>,
    /// How to ask for the next page; `None` when there is none.
    next: Option<Page>,
    /// What was answered and is not yet given, sorted.
    ready: VecDeque<Entry>,
    /// Folders that wait until all that comes before them has been given, by their path with `/`.
    waiting: BTreeSet<String>,
    /// The folder entered last, so that none is entered twice.
    entered: String,
}

enum Page {
    First,
    Token(String),
}

enum Entry {
    Object(ObjectInfo),
    Folder(String),
}

impl Entry {
    fn key(&self) -> &str {
        match self {
            Self::Object(object) => object.path.as_str(),
            Self::Folder(path) => path,
        }
    }
}

impl Level {
    /// The level of `prefix`, or `None` when all below it comes before `after`.
    fn new(prefix: String, after: Option<&str>) -> Option<Self> {
        let mut level =
            Self { start: None, next: Some(Page::First), ready: VecDeque::new(), waiting: BTreeSet::new(), entered: String::new(), prefix };
        let Some(after) = after else { return Some(level) };
        let Some(below) = after.strip_prefix(level.prefix.as_str()) else {
            return (level.prefix.as_str() > after).then_some(level);
        };
        let part = below.split('/').next().unwrap_or_default();
        let path = |part: &str| format!("{}{part}", level.prefix);
        // A server that walks folders has passed these when it stands at `part`, and yet what is in them comes later:
        // the folder of that name, and for a-b also a, because `-`, like `+` and `.`, comes before `/`.
        level.waiting.insert(path(&format!("{part}/")));
        let earlier = part.char_indices().filter(|(at, letter)| *at > 0 && *letter < '/');
        level.waiting.extend(earlier.map(|(at, _)| path(&format!("{}/", &part[..at]))));
        level.start = Some(path(part));
        Some(level)
    }
}

impl Walk<'_> {
    async fn next(&mut self) -> Result<Option<ObjectInfo>, StoreError> {
        while let Some(level) = self.levels.last_mut() {
            let is_turn = match (level.waiting.first(), level.ready.front()) {
                (Some(folder), Some(entry)) => folder.as_str() < entry.key(),
                (Some(_), None) => level.next.is_none(),
                (None, _) => false,
            };
            if is_turn {
                let folder = level.waiting.pop_first().expect("it is its turn");
                // A server may name a folder that was entered because of `after` once more.
                if level.entered != folder {
                    level.entered.clone_from(&folder);
                    self.levels.extend(Level::new(folder, self.after));
                }
                continue;
            }
            match level.ready.pop_front() {
                // The server's own idea of what comes after `after` may include more.
                Some(Entry::Object(object)) if self.after.is_some_and(|after| object.path.as_str() <= after) => {}
                Some(Entry::Object(object)) => return Ok(Some(object)),
                Some(Entry::Folder(path)) if path == level.entered => {}
                Some(Entry::Folder(path)) => {
                    level.waiting.insert(path);
                }
                None => match level.next.take() {
                    Some(page) => self.fetch(page).await?,
                    None => {
                        self.levels.pop();
                    }
                },
            }
        }
        Ok(None)
    }

    /// Asks for one page of the innermost level.
    async fn fetch(&mut self, page: Page) -> Result<(), StoreError> {
        let level = self.levels.last_mut().expect("a level asks");
        let token = match &page {
            Page::First => None,
            Page::Token(token) => Some(token.as_str()),
        };
        let found = self.inner.page(&level.prefix, true, level.start.as_deref(), token).await?;
        level.next = found.next.map(Page::Token);
        // The marker that some tools write for a folder is named like the folder and so is not below it.
        let below = |object: &ObjectInfo| object.path.as_str().starts_with(&level.prefix);
        let objects = found.objects.into_iter().filter(below).map(Entry::Object);
        let folders = found.folders.iter().map(|name| Entry::Folder(format!("{}{name}/", level.prefix)));
        let mut entries: Vec<Entry> = objects.chain(folders).collect();
        entries.sort_by(|a, b| a.key().cmp(b.key()));
        level.ready.extend(entries);
        Ok(())
    }
}

impl Inner {
    /// One page of what is below `folder` (empty, or ending in `/`) after `start`, with all that lies deeper or one level alone.
    async fn page(&self, folder: &str, by_level: bool, start: Option<&str>, token: Option<&str>) -> Result<Found, StoreError> {
        let (prefix, start) = (self.raw_key(folder), start.map(|start| self.raw_key(start)));
        let found = match self.control {
            Some(_) => self.page_of_s3(folder, &prefix, by_level, start.as_deref(), token).await?,
            None => self.page_of_others(folder, &prefix, by_level, start, token).await?,
        };
        if found.next.is_some() && found.next.as_deref() == token {
            // Asked for ever, or taken for whole: neither.
            return Err(self.no_sense(folder, &"it says that there is more, and goes on where it began"));
        }
        Ok(found)
    }

    async fn page_of_s3(&self, folder: &str, prefix: &str, by_level: bool, start: Option<&str>, token: Option<&str>) -> Result<Found, StoreError> {
        let parameters = [
            ("continuation-token", token),
            ("delimiter", by_level.then_some("/")),
            (ENCODED.0, Some(ENCODED.1)),
            ("list-type", Some("2")),
            ("prefix", Some(prefix).filter(|prefix| !prefix.is_empty())),
            ("start-after", start),
        ];
        let given: Vec<(&str, &str)> = parameters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let query = versions::query(&given);
        let text = self.ask(LIST, folder, &Ask { method: "GET", query: &query, patience: Patience::Reading, ..Ask::default() }).await?;
        let page = Answer::read(&text).map_err(|why| self.no_sense(folder, &why))?;
        let (goes_on, is_encoded) = (page.goes_on(), page.is_encoded());
        let next = match (goes_on, page.token) {
            (true, None) => return Err(self.no_sense(folder, &"it is cut off and names no place to go on")),
            (true, token) => token,
            (false, _) => None,
        };
        let mut found = Found { objects: Vec::new(), folders: Vec::new(), next };
        for entry in page.entries {
            match entry {
                // What SeaweedFS leaves of a folder whose last object was removed.
                Listed::Contents(listed) if listed.bytes == 0 && listed.etag.trim_matches('"').is_empty() => {}
                Listed::Contents(listed) => {
                    let Some(path) = plain(&listed.key, is_encoded).and_then(|key| self.below(&key)) else { continue };
                    let time = listed.modified.parse::<Timestamp>();
                    let modified = time.map_err(|_| self.no_sense(folder, &format!("the time of {path} is {:?}", listed.modified)))?;
                    found.objects.push(ObjectInfo { path, bytes: listed.bytes, modified, version: self.version(Some(listed.etag)) });
                }
                Listed::CommonPrefixes(folder) => {
                    let whole = plain(&folder.prefix, is_encoded);
                    found.folders.extend(whole.and_then(|whole| folder_name(prefix, &whole)));
                }
                Listed::Version(_) | Listed::DeleteMarker(_) | Listed::Other => {}
            }
        }
        Ok(found)
    }

    async fn page_of_others(
        &self,
        folder: &str,
        prefix: &str,
        by_level: bool,
        start: Option<String>,
        token: Option<&str>,
    ) -> Result<Found, StoreError> {
        let options = PaginatedListOptions {
            // Not every version of Azure's API knows where to start.
            offset: start.filter(|_| self.cloud != CloudKind::Microsoft),
            delimiter: by_level.then_some("/".into()),
            page_token: token.map(str::to_owned),
            ..PaginatedListOptions::default()
        };
        let asked = (!prefix.is_empty()).then_some(prefix);
        let answer = self.bounded(LIST, folder, 0, || self.steady.list_paginated(asked, options.clone())).await?;
        let objects = answer.result.objects.iter().filter_map(|meta| self.object(meta)).collect();
        let folders = answer.result.common_prefixes.iter().filter_map(|key| folder_name(prefix, key.as_ref())).collect();
        Ok(Found { objects, folders, next: answer.page_token })
    }

    fn no_sense(&self, folder: &str, why: &dyn Display) -> StoreError {
        let why = format!("the answer makes no sense: {why}");
        StoreError::Failed { store: self.address.clone(), operation: LIST, path: folder.to_owned(), why }
    }
}

/// The name of a folder directly below `prefix`; `None` where it is none that Bowline made.
fn folder_name(prefix: &str, whole: &str) -> Option<String> {
    let name = whole.strip_prefix(prefix)?.trim_end_matches('/');
    ObjectPath::new(name).is_ok().then(|| name.to_owned())
}
