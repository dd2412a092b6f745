//! What a page of a listing holds, and how it is sorted.

use super::Item;
use super::sort::Record;
use std::cmp::{Ordering, Reverse};
use terms::Timestamp;

const ITEM: u8 = 1;
const HAS_ID: u8 = 2;
const IS_LATEST: u8 = 4;
const IS_REMOVAL: u8 = 8;

/// An object, or a folder where a listing is of one level.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Item(Item),
    /// Below the site, as keys are, and by its whole prefix; both with the slash at its end.
    Folder {
        below: String,
        whole: String,
    },
}

impl Part {
    pub(super) fn key(&self) -> &str {
        match self {
            Self::Item(item) => &item.key,
            Self::Folder { below, .. } => below,
        }
    }

    /// By key, and of a key the newest first, for servers that list removals apart from versions (SeaweedFS does). What neither
    /// tells apart stays as the server has it.
    pub(super) fn newest_first(&self, other: &Self) -> Ordering {
        let age = |part: &Self| match part {
            Self::Item(item) => (!item.is_latest, Reverse(item.modified)),
            Self::Folder { .. } => (false, Reverse(Timestamp::from_unix_micros(0))),
        };
        self.key().cmp(other.key()).then_with(|| age(self).cmp(&age(other)))
    }
}

impl Record for Part {
    fn order(&self, other: &Self) -> Ordering {
        self.newest_first(other)
    }

    fn text_bytes(&self) -> usize {
        match self {
            Self::Item(item) => item.key.len() + item.etag.len() + item.id.as_ref().map_or(0, String::len),
            Self::Folder { below, whole } => below.len() + whole.len(),
        }
    }

    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::Item(item) => {
                let flag = |is_so, flag| if is_so { flag } else { 0 };
                to.push(ITEM | flag(item.id.is_some(), HAS_ID) | flag(item.is_latest, IS_LATEST) | flag(item.is_removal, IS_REMOVAL));
                to.extend_from_slice(&item.bytes.to_le_bytes());
                to.extend_from_slice(&item.modified.unix_micros().to_le_bytes());
                [Some(&item.key), Some(&item.etag), item.id.as_ref()].into_iter().flatten().for_each(|text| write_text(text, to));
            }
            Self::Folder { below, whole } => {
                to.push(0);
                write_text(below, to);
                write_text(whole, to);
            }
        }
    }

    fn read(from: &[u8]) -> Option<Self> {
        let (&flags, mut rest) = from.split_first()?;
        if flags & ITEM == 0 {
            return Some(Self::Folder { below: read_text(&mut rest)?, whole: read_text(&mut rest)? });
        }
        let bytes = u64::from_le_bytes(*rest.split_off(..8)?.first_chunk()?);
        let modified = Timestamp::from_unix_micros(i64::from_le_bytes(*rest.split_off(..8)?.first_chunk()?));
        let (key, etag) = (read_text(&mut rest)?, read_text(&mut rest)?);
        let id = if flags & HAS_ID == 0 { None } else { Some(read_text(&mut rest)?) };
        let (is_latest, is_removal) = (flags & IS_LATEST != 0, flags & IS_REMOVAL != 0);
        Some(Self::Item(Item { key, id, bytes, modified, etag, is_latest, is_removal }))
    }
}

fn write_text(text: &str, to: &mut Vec<u8>) {
    to.extend_from_slice(&(text.len() as u32).to_le_bytes());
    to.extend_from_slice(text.as_bytes());
}

fn read_text(from: &mut &[u8]) -> Option<String> {
    let length = u32::from_le_bytes(*from.split_off(..4)?.first_chunk()?);
    String::from_utf8(from.split_off(..length as usize)?.to_vec()).ok()
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

    #[test]
    fn what_is_written_reads_back() {
        let item = |id: Option<&str>, is_latest| Item {
            key: "a/ü".into(),
            id: id.map(str::to_owned),
            bytes: u64::MAX,
            modified: Timestamp::from_unix_micros(-1),
            etag: String::new(),
            is_latest,
            is_removal: !is_latest,
        };
        let folder = Part::Folder { below: "b/".into(), whole: "a/b/".into() };
        for part in [Part::Item(item(None, true)), Part::Item(item(Some(""), false)), Part::Item(item(Some("v"), true)), folder] {
            let mut bytes = Vec::new();
            part.write(&mut bytes);
            assert_eq!(Part::read(&bytes).as_ref(), Some(&part));
            assert_eq!(Part::read(&bytes[..bytes.len() - 1]), None);
        }
    }
}
