//! Lists a bucket in the order of whole keys' bytes, whatever order the server has.
//!
//! AWS promises that order. Servers that keep folders (SeaweedFS) answer in the order of a walk through them: what is in `a/`
//! before `a-b`, although `-` comes before `/`. There each level is listed by itself and a folder waits for its turn.

use super::trouble::{LIST, Trouble};
use super::{CloudKind, Inner};
use crate::address::folder_prefix;
use crate::{ObjectInfo, ObjectPath, StoreError};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::list::PaginatedListOptions;
use std::collections::{BTreeSet, VecDeque};

/// Everything below `folder` after `after`, as a server lists it that promises the order of bytes.
pub(super) fn flat<'a>(inner: &'a Inner, folder: &'a str, after: Option<&ObjectPath>) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
    let keys = inner.key(folder).and_then(|prefix| Ok((prefix, after.map(|path| inner.key(path.as_str())).transpose()?)));
    let (prefix, after) = match keys {
        Ok(keys) => keys,
        Err(error) => return stream::iter([Err(error)]).boxed(),
    };
    let found = match &after {
        // Not every version of Azure's API knows where to start.
        Some(after) if inner.cloud == CloudKind::Microsoft => {
            let after = after.clone();
            inner.steady.list(Some(&prefix)).try_filter(move |meta| std::future::ready(meta.location > after)).boxed()
        }
        Some(after) => inner.steady.list_with_offset(Some(&prefix), after),
        None => inner.steady.list(Some(&prefix)),
    };
    found
        .filter_map(move |item| async move {
            match item {
                Ok(meta) => inner.object(&meta).map(Ok),
                Err(error) => Some(Err(inner.fail(LIST, folder, &Trouble::read(&error)))),
            }
        })
        .boxed()
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
        let prefix = self.inner.raw_key(&level.prefix);
        let options = PaginatedListOptions {
            offset: level.start.as_deref().map(|start| self.inner.raw_key(start)),
            delimiter: Some("/".into()),
            page_token: match page {
                Page::First => None,
                Page::Token(token) => Some(token),
            },
            ..PaginatedListOptions::default()
        };
        let asked = (!prefix.is_empty()).then_some(prefix.as_str());
        let answer = self.inner.bounded(LIST, &level.prefix, 0, || self.inner.steady.list_paginated(asked, options.clone())).await?;
        level.next = answer.page_token.map(Page::Token);
        // The marker that some tools write for a folder is named like the folder and so is not below it.
        let below = |object: &ObjectInfo| object.path.as_str().starts_with(&level.prefix);
        let objects = answer.result.objects.iter().filter_map(|meta| self.inner.object(meta)).filter(below).map(Entry::Object);
        let folders = answer.result.common_prefixes.iter().filter_map(|key| {
            let name = key.filename().filter(|name| ObjectPath::new(*name).is_ok())?;
            Some(Entry::Folder(format!("{}{name}/", level.prefix)))
        });
        let mut entries: Vec<Entry> = objects.chain(folders).collect();
        entries.sort_by(|a, b| a.key().cmp(b.key()));
        level.ready.extend(entries);
        Ok(())
    }
}
