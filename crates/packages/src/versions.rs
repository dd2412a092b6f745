//! Which versions a snapshot keeps: what is there, and what came and went since the last one.

use crate::PackagesError;
use repo::{SnapshotEntry, SnapshotObject, SnapshotRemoval};
use store::{Item, Site};
use terms::{Class, Explain, Timestamp};

/// The store's clock may be so far from this host's: of that time versions are kept that the last snapshot does not have, too.
const MARGIN_MICROS: i64 = 15 * 60 * 1_000_000;

/// Whether versions are kept, and may be listed: else there is only what is there now.
pub(crate) async fn are_kept(site: &Site) -> Result<bool, PackagesError> {
    let is_refusal = |error: &store::StoreError| error.class() == Class::Refused;
    match site.keeps_versions().await {
        Ok(true) => {}
        Ok(false) => return Ok(false),
        Err(error) if is_refusal(&error) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    match site.may_list_versions().await {
        Ok(()) => Ok(true),
        Err(error) if is_refusal(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What there is to do for an item of the listing.
#[derive(Debug, PartialEq)]
pub(crate) enum Due {
    /// Nothing is to be read.
    Entry(SnapshotEntry),
    /// It must be read; whether it is a former version.
    Read(Item, bool),
}

/// Goes through a listing: by key, of each the newest first.
pub(crate) struct Choice {
    /// Versions from after this are kept, where they are listed.
    since: Option<Timestamp>,
    key: Option<String>,
    /// What was there at that time has been seen.
    has_base: bool,
}

impl Choice {
    /// Since the last snapshot began; `None` where nothing but what is there now is wanted.
    pub(crate) fn since(began: Option<Timestamp>) -> Self {
        Self { since: began.map(|began| began.plus_micros(-MARGIN_MICROS)), key: None, has_base: false }
    }

    /// `known` is what the last snapshot says of this key.
    pub(crate) fn choose(&mut self, mut item: Item, known: &[SnapshotEntry]) -> Option<Due> {
        let is_first = self.key.as_ref() != Some(&item.key);
        if is_first {
            self.key = Some(item.key.clone());
            self.has_base = false;
        }
        // What it had before it kept versions, or while it did not, a bucket calls so. As what is there now it is read without a name: it
        // may be overwritten meanwhile. A former one has no other.
        item.id = item.id.filter(|id| !is_first || id != "null");
        let is_needed = !self.has_base;
        self.has_base |= self.since.is_none_or(|since| item.modified <= since);
        let held = known.iter().find(|entry| is_same(entry, &item));
        let is_present = is_first && !item.is_removal;
        let since = self.since.filter(|_| is_needed);
        match (held, since) {
            (_, None) if !is_present => None,
            // Before that it was not there: so it is said of no key.
            (_, Some(since)) if item.is_removal && item.modified <= since => None,
            _ if item.is_removal => Some(Due::Entry(SnapshotEntry::Removed(SnapshotRemoval { key: item.key, modified: item.modified }))),
            // Told again, in its place among the others, and not stored again.
            (Some(SnapshotEntry::Object(object)), _) => {
                Some(Due::Entry(SnapshotEntry::Object(SnapshotObject { former: !is_present, ..object.clone() })))
            }
            _ => Some(Due::Read(item, !is_present)),
        }
    }
}

fn is_same(entry: &SnapshotEntry, item: &Item) -> bool {
    match entry {
        SnapshotEntry::Object(object) => !item.is_removal && (&object.etag, object.size, object.modified) == (&item.etag, item.bytes, item.modified),
        SnapshotEntry::Removed(removal) => item.is_removal && removal.modified == item.modified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(minute: i64) -> Timestamp {
        Timestamp::from_unix_micros(minute * 60_000_000)
    }

    /// A version of each minute, negative for a removal; what is chosen, with `f` for former ones.
    fn chosen(since: Option<i64>, versions: &[i64], known: &[SnapshotEntry]) -> Vec<String> {
        let mut choice = Choice::since(since.map(time));
        let item = |minute: &i64| {
            let (modified, is_removal) = (time(minute.abs()), *minute < 0);
            Item { key: "k".into(), id: None, bytes: 1, modified, etag: "e".into(), is_latest: false, is_removal }
        };
        let minute = |at: Timestamp| at.unix_micros() / 60_000_000;
        let told = |due: Due| match due {
            Due::Entry(SnapshotEntry::Object(object)) => format!("kept {}", minute(object.modified)),
            Due::Entry(SnapshotEntry::Removed(removal)) => format!("removed {}", minute(removal.modified)),
            Due::Read(item, is_former) => format!("{}{}", minute(item.modified), if is_former { "f" } else { "" }),
        };
        versions.iter().filter_map(|minute| choice.choose(item(minute), known)).map(told).collect()
    }

    fn known(minutes: &[i64]) -> Vec<SnapshotEntry> {
        let entry = |(place, minute): (usize, &i64)| match minute {
            ..0 => SnapshotEntry::Removed(SnapshotRemoval { key: "k".into(), modified: time(-minute) }),
            _ => SnapshotEntry::Object(SnapshotObject {
                key: "k".into(),
                size: 1,
                modified: time(*minute),
                etag: "e".into(),
                facts: store::ItemFacts::default(),
                stored_in: None,
                former: place > 0,
                chunks: Vec::new(),
            }),
        };
        minutes.iter().enumerate().map(entry).collect()
    }

    #[test]
    fn each_version_since_the_last_snapshot_is_kept_and_stored_once_and_no_older_one() {
        assert_eq!(chosen(None, &[9, -8, 7, 6], &[]), ["9"], "the first one: only what is there");
        // The last one began at 100; with the margin at 85.
        assert_eq!(chosen(Some(100), &[130, -120, 110, 50, 40], &known(&[50])), ["130", "removed 120", "110f", "kept 50"]);
        assert_eq!(chosen(Some(100), &[50, 40], &known(&[50])), ["kept 50"]);
        assert_eq!(chosen(Some(100), &[-120, 50], &known(&[50])), ["removed 120", "kept 50"]);
        assert_eq!(chosen(Some(100), &[-60, 50], &[]), [""; 0], "it was gone long before");
        // Within the margin, what the last one lacks is kept, too.
        assert_eq!(chosen(Some(100), &[130, 95, 90, 20], &known(&[95])), ["130", "kept 95", "90f", "20f"]);
        // Overwritten while the last one was made: it has the later version, and what it was before comes with this one.
        assert_eq!(chosen(Some(100), &[102, 50, 40], &known(&[102])), ["kept 102", "50f"]);
        // A former one is what is there again.
        assert_eq!(chosen(Some(100), &[50], &known(&[90, 50])), ["kept 50"]);
    }
}
