//! What the copy was found to lack: remembered between two listings, and asked for again, the oldest first.

use std::collections::BTreeMap;
use store::Item;
use terms::Timestamp;

/// So many are remembered, the oldest ones; of the others the number.
const KEPT_MAX: usize = 10_000;

type Name = (Timestamp, String, Option<String>);

#[derive(Debug, Default)]
pub(crate) struct Behind {
    kept: BTreeMap<Name, Kept>,
    /// Found by this listing and by the last one, and not remembered.
    beyond: (u64, u64),
    listing: u64,
}

#[derive(Debug)]
struct Kept {
    item: Item,
    has_failed: bool,
    /// By which listing it was found last.
    found_by: u64,
}

impl Behind {
    /// The present listing found this.
    pub(crate) fn found(&mut self, item: Item, has_failed: bool) {
        let name = name(&item);
        self.kept.insert(name, Kept { item, has_failed, found_by: self.listing });
        if self.kept.len() > KEPT_MAX {
            self.kept.pop_last();
            self.beyond.0 += 1;
        }
    }

    /// The present listing is over. What it did not find any more has arrived, or is gone.
    pub(crate) fn listing_ended(&mut self) {
        self.kept.retain(|_, kept| kept.found_by == self.listing);
        self.beyond = (0, self.beyond.0);
        self.listing += 1;
    }

    /// The present listing broke off.
    pub(crate) fn listing_broke_off(&mut self) {
        self.beyond.0 = 0;
    }

    /// This is not lacking any more.
    pub(crate) fn arrived(&mut self, item: &Item) {
        self.kept.remove(&name(item));
    }

    /// What has waited longest.
    pub(crate) fn oldest(&self) -> Option<&Item> {
        self.kept.first_key_value().map(|(_, kept)| &kept.item)
    }

    /// How many there are, and their bytes as far as they are remembered.
    pub(crate) fn count(&self) -> (u64, u64) {
        let bytes = self.kept.values().map(|kept| kept.item.bytes).sum();
        (self.kept.len() as u64 + self.beyond.0.max(self.beyond.1), bytes)
    }

    /// Those of which the store said that it gave them up.
    pub(crate) fn failed(&self) -> impl Iterator<Item = &Item> {
        self.kept.values().filter(|kept| kept.has_failed).map(|kept| &kept.item)
    }
}

fn name(item: &Item) -> Name {
    (item.modified, item.key.clone(), item.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(second: i64) -> Item {
        let modified = Timestamp::from_unix_micros(second * 1_000_000);
        Item { key: format!("k{second}"), id: None, bytes: 1, modified, etag: String::new(), is_latest: true, is_removal: false }
    }

    #[test]
    fn the_oldest_ones_are_remembered_until_a_listing_misses_them() {
        let mut behind = Behind::default();
        let most = KEPT_MAX as i64;
        (1..=most + 5).rev().for_each(|second| behind.found(item(second), second == 2));
        assert_eq!((behind.count(), behind.oldest()), ((most as u64 + 5, most as u64), Some(&item(1))));
        behind.listing_ended();
        behind.arrived(&item(1));
        assert_eq!((behind.count().0, behind.oldest()), (most as u64 + 4, Some(&item(2))));
        assert_eq!(behind.failed().collect::<Vec<_>>(), [&item(2)]);
        // The next one finds two, one of them anew: until it ends, what the last one found counts.
        behind.found(item(3), false);
        behind.found(item(most + 9), false);
        assert!(behind.count().0 > most as u64);
        behind.listing_ended();
        behind.listing_ended();
        assert_eq!((behind.count(), behind.oldest()), ((0, 0), None));
    }
}
