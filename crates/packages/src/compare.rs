//! The versions of primary and copy beside each other, and what of the one the other lacks.

use crate::PackagesError;
use crate::pairs::pairs;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use store::{Item, Site, StoreError};
use terms::Timestamp;

/// Without versions nobody knows what is lacking.
pub(crate) async fn both_keep_versions(primary: &Site, copy: &Site) -> Result<(), PackagesError> {
    for site in [primary, copy] {
        if !site.keeps_versions().await? {
            return Err(PackagesError::NoVersions { address: site.address() });
        }
    }
    Ok(())
}

/// Up to when the copy has everything that the primary keeps, no later than the instant. `None` where the primary has nothing of that
/// time: one that was emptied, or made anew after it was lost, says nothing of what the copy lacks.
pub(crate) async fn complete_until(primary: &Site, copy: &Site, at: Timestamp) -> Result<Option<Timestamp>, PackagesError> {
    both_keep_versions(primary, copy).await?;
    let mut all = beside(primary.versions(), copy.versions());
    let (mut oldest, mut has_any): (Option<Timestamp>, bool) = (None, false);
    while let Some((here, there)) = all.try_next().await? {
        has_any |= here.iter().any(|item| !item.is_removal && item.modified <= at);
        for item in lacking(&here, &there) {
            oldest = Some(oldest.map_or(item.modified, |oldest| oldest.min(item.modified)));
        }
    }
    Ok(has_any.then(|| oldest.map_or(at, |oldest| oldest.min(at))))
}

/// The versions of a key here and there.
type Both = (Vec<Item>, Vec<Item>);

/// Key by key, what the primary has of it and what the copy has: by the bytes of keys, of each the newest first.
pub(crate) fn beside(
    primary: BoxStream<'static, Result<Item, StoreError>>,
    copy: BoxStream<'static, Result<Item, StoreError>>,
) -> BoxStream<'static, Result<Both, PackagesError>> {
    let key: fn(&Vec<Item>) -> &str = |versions| versions.first().map_or("", |item| &item.key);
    let side = |items: BoxStream<'static, Result<Item, StoreError>>| groups(items.map_err(PackagesError::from).boxed());
    let both = pairs(side(primary), side(copy), key, key);
    both.map_ok(|(here, there)| (here.unwrap_or_default(), there.unwrap_or_default())).boxed()
}

/// All versions of each key, key by key.
pub(crate) fn groups<'a>(of: BoxStream<'a, Result<Item, PackagesError>>) -> BoxStream<'a, Result<Vec<Item>, PackagesError>> {
    stream::try_unfold((of, None), |(mut of, mut head): (_, Option<Item>)| async move {
        let mut found: Vec<Item> = head.take().into_iter().collect();
        while let Some(item) = of.try_next().await? {
            if found.first().is_some_and(|first| first.key != item.key) {
                head = Some(item);
                break;
            }
            found.push(item);
        }
        Ok((!found.is_empty()).then_some((found, (of, head))))
    })
    .boxed()
}

/// The versions of a key that the copy lacks. Stores keep a version's id; where none does, each version there stands for one of the same
/// bytes here, the oldest first.
pub(crate) fn lacking<'a>(here: &'a [Item], there: &[Item]) -> Vec<&'a Item> {
    // Every bucket calls what it had before it kept versions so: the name alone says nothing.
    let name = |item: &Item| item.id.clone().filter(|id| id != "null");
    let body = |item: &Item| (item.etag.clone(), item.bytes, item.is_removal);
    let by_id: BTreeMap<String, &Item> = there.iter().filter_map(|item| Some((name(item)?, item))).collect();
    let same_id = |item: &Item| name(item).and_then(|id| by_id.get(&id)).is_some_and(|of| (of.bytes, of.is_removal) == (item.bytes, item.is_removal));
    let keeps_ids = here.iter().any(same_id);
    let mut bodies: BTreeMap<(String, u64, bool), usize> = BTreeMap::new();
    // With ids, only what has none is left to its bytes.
    for item in there.iter().filter(|item| !keeps_ids || name(item).is_none()) {
        *bodies.entry(body(item)).or_default() += 1;
    }
    let mut lacking: Vec<&Item> = Vec::new();
    for item in here.iter().rev() {
        if same_id(item) {
            continue;
        }
        let may_match = !keeps_ids || name(item).is_none();
        match bodies.get_mut(&body(item)).filter(|left| may_match && **left > 0) {
            Some(left) => *left -= 1,
            None => lacking.push(item),
        }
    }
    lacking
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: &str, etag: &str, second: i64) -> Item {
        let modified = Timestamp::from_unix_micros(second * 1_000_000);
        let bytes = etag.len() as u64;
        Item { key: "k".into(), id: Some(id.into()), bytes, modified, etag: etag.into(), is_latest: false, is_removal: etag.is_empty() }
    }

    fn times(lacking: &[&Item]) -> Vec<i64> {
        lacking.iter().map(|item| item.modified.unix_micros() / 1_000_000).collect()
    }

    #[test]
    fn a_version_of_the_copy_stands_for_one_of_the_primarys_and_not_for_two() {
        // Put, removed, put, removed, and A-B-A: the copy has the first half, under ids of its own.
        let here = [item("4", "", 4), item("3", "a", 3), item("2", "", 2), item("1", "a", 1)];
        assert_eq!(times(&lacking(&here, &[item("y", "", 2), item("x", "a", 1)])), [3, 4]);
        let here = [item("3", "a", 3), item("2", "b", 2), item("1", "a", 1)];
        assert_eq!(times(&lacking(&here, &[item("y", "b", 2), item("x", "a", 1)])), [3]);
        // Where ids are kept the bytes prove nothing.
        assert_eq!(times(&lacking(&here, &[item("2", "b", 2), item("1", "a", 1)])), [3]);
        assert_eq!(times(&lacking(&here, &[item("2", "b", 2), item("9", "a", 3), item("1", "a", 1)])), [3]);
        assert_eq!(times(&lacking(&here, &here)), [0; 0]);
    }

    #[test]
    fn what_has_no_id_of_its_own_is_known_by_its_bytes_only() {
        assert_eq!(times(&lacking(&[item("null", "new", 2)], &[item("null", "old", 1)])), [2]);
        assert_eq!(times(&lacking(&[item("null", "same", 2)], &[item("null", "same", 1)])), [0; 0]);
        assert_eq!(times(&lacking(&[item("1", "longer", 2)], &[item("1", "short", 2)])), [2], "an id with another size is another version");
    }
}
