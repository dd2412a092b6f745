//! What each key was at an instant, by the snapshots around it.

use crate::PackagesError;
use crate::lines::{AllLines, KeyLines};
use crate::pairs::pairs;
use crate::source::{Known, Wanted};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use repo::SnapshotEntry;
use terms::Timestamp;

/// What is known of the time between the snapshot before an instant and the one after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Between {
    /// There is none after it.
    Open,
    /// What was there at its end.
    Ends,
    /// Every version and removal that the source kept.
    Whole { is_ordered: bool },
}

/// When a key became what it was.
pub(crate) struct Moment {
    pub modified: Timestamp,
    pub is_removal: bool,
    /// The store says that nothing came after it.
    pub is_latest: bool,
}

/// Of a key's moments, the newest first, the one of an object that was there at the instant, and whether that is uncertain.
pub(crate) fn at_instant(all: &[Moment], at: Timestamp, is_ordered: bool) -> Option<(usize, bool)> {
    let first = all.iter().position(|moment| moment.modified <= at)?;
    // Removed and written in one second, by a server that lists them apart: which of it came last nobody knows.
    let is_other = |moment: &Moment| moment.is_removal != all[first].is_removal && moment.modified == all[first].modified;
    let other = all.iter().position(is_other).filter(|_| !is_ordered && !all[first].is_latest);
    let chosen = if all[first].is_removal { other? } else { first };
    Some((chosen, other.is_some()))
}

/// Both snapshots beside each other.
pub(crate) fn meet<'a>(earlier: AllLines, later: AllLines, at: Timestamp, between: Between) -> BoxStream<'a, Result<Known, PackagesError>> {
    pairs(earlier, later, |lines| &lines.key, |lines| &lines.key)
        .try_filter_map(move |(earlier, later)| async move { Ok(settle(earlier, later, at, between)) })
        .boxed()
}

/// What a key was, by what the two say of it.
fn settle(earlier: Option<KeyLines>, later: Option<KeyLines>, at: Timestamp, between: Between) -> Option<Known> {
    let key = earlier.as_ref().or(later.as_ref())?.key.clone();
    let (earlier, mut later) = (earlier.map_or_else(Vec::new, |lines| lines.entries), later.map_or_else(Vec::new, |lines| lines.entries));
    if between == Between::Ends {
        // Without the whole of what lies between, former versions prove nothing. What is there still, from before the instant, does.
        later.retain(|entry| matches!(entry, SnapshotEntry::Object(object) if !object.former));
        if later.first().is_some_and(|entry| entry.modified() <= at) {
            return later.pop().and_then(|entry| was(entry, false));
        }
    }
    let has_later = !later.is_empty();
    // The later one brings what was there when the earlier one was made. Where it does not, that version was removed for good meanwhile.
    let reaches_back = later.iter().any(|entry| entry.modified() <= at);
    let is_lost = !reaches_back && !earlier.is_empty();
    let (all, is_ordered) = match between {
        // In the order in which the store lists them.
        Between::Whole { is_ordered } if has_later && !is_lost => (later, is_ordered),
        _ => (earlier, true),
    };
    let moment = |(place, entry): (usize, &SnapshotEntry)| Moment {
        modified: entry.modified(),
        is_removal: matches!(entry, SnapshotEntry::Removed(_)),
        is_latest: place == 0,
    };
    let moments: Vec<Moment> = all.iter().enumerate().map(moment).collect();
    match at_instant(&moments, at, is_ordered) {
        Some((place, is_tied)) => {
            let is_uncertain = match between {
                Between::Open => false,
                Between::Ends => true,
                // Gone without a trace: removed for good, nobody knows when.
                Between::Whole { .. } => !has_later || is_lost,
            };
            was(all.into_iter().nth(place)?, is_uncertain || is_tied)
        }
        None if between == Between::Ends && has_later => Some(Known::Untold(key)),
        None => None,
    }
}

fn was(entry: SnapshotEntry, is_uncertain: bool) -> Option<Known> {
    match entry {
        SnapshotEntry::Object(object) => Some(Known::Was(Wanted::of_snapshot(object, is_uncertain))),
        SnapshotEntry::Removed(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use repo::{SnapshotObject, SnapshotRemoval};
    use store::ItemFacts;

    fn second(number: i64) -> Timestamp {
        Timestamp::from_unix_micros(number * 1_000_000)
    }

    /// Negative: removed.
    fn lines(key: &str, times: &[i64]) -> Option<KeyLines> {
        let entry = |(place, time): (usize, &i64)| match time {
            ..0 => SnapshotEntry::Removed(SnapshotRemoval { key: key.into(), modified: second(-time) }),
            _ => SnapshotEntry::Object(SnapshotObject {
                key: key.into(),
                size: 1,
                modified: second(*time),
                etag: String::new(),
                facts: ItemFacts::default(),
                stored_in: None,
                former: place > 0,
                chunks: Vec::new(),
            }),
        };
        (!times.is_empty()).then(|| KeyLines { key: key.into(), entries: times.iter().enumerate().map(entry).collect() })
    }

    fn told(known: Option<Known>) -> String {
        match known {
            Some(Known::Was(wanted)) => format!("{}{}", wanted.modified.unix_micros() / 1_000_000, if wanted.is_uncertain { "?" } else { "" }),
            Some(Known::Untold(_)) => "untold".into(),
            None => "nothing".into(),
        }
    }

    #[tokio::test]
    async fn what_came_and_was_overwritten_between_two_snapshots_is_told_as_unknown() {
        let all = |of: &[(&str, i64)]| stream::iter(of.iter().map(|(key, time)| Ok(lines(key, &[*time]).unwrap())).collect::<Vec<_>>()).boxed();
        let earlier = all(&[("gone", 5), ("overwritten", 6), ("same", 7)]);
        let later = all(&[("before", 15), ("came or was overwritten", 40), ("overwritten", 41), ("same", 7), ("z", 42)]);
        let known: Vec<Known> = meet(earlier, later, second(20), Between::Ends).try_collect().await.unwrap();
        let told: Vec<String> = known.into_iter().map(|known| told(Some(known))).collect();
        assert_eq!(told, ["15", "untold", "5?", "6?", "7", "untold"]);
    }

    #[test]
    fn with_every_version_between_them_two_snapshots_know_each_instant() {
        // v1 at 5 in the first one, made at 10; then v2, v3, removed, v4.
        let whole = Between::Whole { is_ordered: true };
        let at = |at: i64| told(settle(lines("k", &[5]), lines("k", &[50, -40, 30, 20, 5]), second(at), whole));
        assert_eq!([10, 20, 29, 39, 40, 49, 50].map(at), ["5", "20", "20", "30", "nothing", "nothing", "50"]);
        // It came after the first one; it was removed after it; nothing says where it went.
        let known = |earlier: &[i64], later: &[i64], at| told(settle(lines("k", earlier), lines("k", later), second(at), whole));
        assert_eq!([known(&[], &[30], 20), known(&[], &[30], 30)], ["nothing", "30"]);
        assert_eq!([known(&[5], &[-30, 5], 20), known(&[5], &[-30, 5], 30)], ["5", "nothing"]);
        assert_eq!(known(&[5], &[], 20), "5?");
        // Overwritten or removed at 30, and then removed for good: by a rule for former versions, or by hand.
        assert_eq!([known(&[5], &[30], 20), known(&[5], &[-30], 20), known(&[5], &[30], 30)], ["5?", "5?", "30"]);
        // Overwritten while the first one was made, which has the later version only: the second one brings the former.
        assert_eq!([known(&[12], &[12, 5], 11), known(&[12], &[12, 5], 12)], ["5", "12"]);
        assert_eq!(told(settle(lines("k", &[5]), lines("k", &[50, -40, 30, 20, 5]), second(25), Between::Ends)), "5?", "it may not be all");
    }

    #[test]
    fn a_removal_and_a_version_of_one_second_are_told_as_uncertain_where_they_are_listed_apart() {
        let at = |is_ordered| told(settle(None, lines("k", &[30, -20, 20]), second(25), Between::Whole { is_ordered }));
        assert_eq!((at(false), at(true)), ("20?".into(), "nothing".into()));
    }
}
