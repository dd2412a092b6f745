//! Judges what came back: every table against what it was, every acknowledged commit against what must and must not be there.

use crate::dataset::TableSum;
use std::collections::{BTreeMap, HashSet};
use testkit::Acknowledged;

/// Rows and checksum of every table.
pub type Sums = BTreeMap<String, TableSum>;

/// One table, then and now.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    pub name: String,
    pub rows: u64,
    pub same: bool,
}

/// Compares every table that was there with what is there; the second list says what is wrong.
pub fn tables(then: &Sums, now: &Sums) -> (Vec<Line>, Vec<String>) {
    let mut faults = Vec::new();
    if then.is_empty() {
        faults.push("there was no table to compare".to_owned());
    }
    let mut lines = Vec::new();
    for (name, was) in then {
        let is = now.get(name);
        match is {
            None => faults.push(format!("table {name} is missing; it had {} rows", was.rows)),
            Some(is) if is.rows != was.rows => faults.push(format!("table {name} has {} rows; it had {}", is.rows, was.rows)),
            Some(is) if is.sum != was.sum => faults.push(format!("table {name} has its {} rows, but not with what was in them", was.rows)),
            Some(_) => {}
        }
        lines.push(Line { name: name.clone(), rows: was.rows, same: is == Some(was) });
    }
    faults.extend(now.keys().filter(|name| !then.contains_key(*name)).map(|name| format!("table {name} is there; it did not exist then")));
    (lines, faults)
}

/// What is wrong with the ledger of a cluster that was restored to an instant: all of `before` must be there, and nothing else.
pub fn ledger_at_instant(before: &[Acknowledged], after: &[Acknowledged], there: &HashSet<i64>) -> Vec<String> {
    let mut faults = Vec::new();
    if before.is_empty() || after.is_empty() {
        faults.push("the ledger has no commits on one side of the instant: nothing was proved".to_owned());
    }
    let ids = |commits: &[Acknowledged]| commits.iter().map(|commit| commit.id).collect::<HashSet<_>>();
    let (before, after) = (ids(before), ids(after));
    let mut count = |number: usize, what: &str| {
        if number > 0 {
            faults.push(format!("{number} {what}"));
        }
    };
    count(before.difference(there).count(), "commits acknowledged before the instant are missing");
    count(after.intersection(there).count(), "commits acknowledged after the instant are there");
    count(there.iter().filter(|id| !before.contains(id) && !after.contains(id)).count(), "rows of the ledger were never acknowledged");
    faults
}

/// What the end of a host cost.
#[derive(Debug, PartialEq)]
pub struct Loss {
    pub commits_kept: usize,
    pub commits_lost: usize,
    /// Commits that are missing although later ones are there.
    pub holes: usize,
    /// From the last commit that was kept to the death.
    pub seconds: f64,
}

/// What is lost of `acknowledged` when only `there` is left of a host that died at `died_at` (microseconds since 1970). Commits that are
/// missing although their end is at or before `recovered_to` are holes, and a fault.
pub fn loss(acknowledged: &[Acknowledged], there: &HashSet<i64>, recovered_to: &str, died_at: i64) -> (Loss, Vec<String>) {
    let mut faults = Vec::new();
    let (kept, lost): (Vec<_>, Vec<_>) = acknowledged.iter().partition(|commit| there.contains(&commit.id));
    let mut holes = 0;
    match position(recovered_to) {
        None => faults.push(format!("the restore does not say how far it came: {recovered_to:?}")),
        Some(end) => {
            let is_hole = |commit: &&&Acknowledged| commit.inserted_to.is_some_and(|lsn| position(&lsn.to_string()).is_none_or(|at| at <= end));
            holes = lost.iter().filter(is_hole).count();
            if holes > 0 {
                faults.push(format!("{holes} commits before the recovered end {recovered_to} are missing: the history has holes"));
            }
        }
    }
    // A commit has the server's own time; one whose server died before it could be asked has the time of its acknowledgement.
    let last = kept.iter().map(|commit| commit.committed_at.unwrap_or(commit.seen_at).unix_micros()).max();
    if last.is_none() {
        faults.push("no acknowledged commit was kept: the loss cannot be measured".to_owned());
    }
    let seconds = last.map_or(f64::INFINITY, |last| (died_at - last).max(0) as f64 / 1e6);
    (Loss { commits_kept: kept.len(), commits_lost: lost.len(), holes, seconds }, faults)
}

/// An LSN (`16/B374D848`) as a number.
fn position(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(of: &[(&str, u64, &str)]) -> Sums {
        of.iter().map(|(name, rows, sum)| ((*name).to_owned(), TableSum { rows: *rows, sum: (*sum).to_owned() })).collect()
    }

    fn commit(id: i64, lsn: &str, at: &str) -> Acknowledged {
        let at = at.parse().unwrap();
        Acknowledged { id, committed_at: Some(at), seen_at: at, inserted_to: Some(lsn.parse().unwrap()) }
    }

    #[test]
    fn equal_tables_pass_and_each_difference_is_a_fault() {
        let then = sums(&[("a", 1, "5"), ("b", 2, "6")]);
        assert_eq!(tables(&then, &then).1, Vec::<String>::new());
        let wrong: [&[(&str, u64, &str)]; 4] =
            [&[("a", 1, "5")], &[("a", 1, "5"), ("b", 3, "6")], &[("a", 1, "5"), ("b", 2, "7")], &[("a", 1, "5"), ("b", 2, "6"), ("c", 0, "0")]];
        for now in wrong {
            assert_eq!(tables(&then, &sums(now)).1.len(), 1, "{now:?}");
        }
        assert_eq!(tables(&sums(&[]), &sums(&[])).1.len(), 1, "nothing compared is not passed");
    }

    #[test]
    fn the_ledger_must_end_exactly_at_the_instant() {
        let before = [commit(1, "0/10", "2026-11-22 10:00:00 UTC"), commit(2, "0/20", "2026-11-22 10:00:01 UTC")];
        let after = [commit(3, "0/30", "2026-11-22 10:00:03 UTC")];
        let judged = |there: &[i64]| ledger_at_instant(&before, &after, &there.iter().copied().collect()).len();
        assert_eq!(judged(&[1, 2]), 0);
        assert_eq!(judged(&[1]), 1);
        assert_eq!(judged(&[1, 2, 3]), 1);
        assert_eq!(judged(&[1, 2, 9]), 1);
        assert_eq!(ledger_at_instant(&before, &[], &HashSet::from([1, 2])).len(), 1, "nothing compared is not passed");
    }

    #[test]
    fn the_loss_is_measured_from_the_last_commit_kept_and_a_hole_is_a_fault() {
        let all = [
            commit(1, "0/10", "2026-11-22 10:00:00 UTC"),
            commit(2, "0/20", "2026-11-22 10:00:01 UTC"),
            commit(3, "0/30", "2026-11-22 10:00:03 UTC"),
        ];
        let died_at = all[2].seen_at.unix_micros() + 500_000;
        let (lost, faults) = loss(&all, &HashSet::from([1, 2]), "0/28", died_at);
        assert_eq!((lost.commits_kept, lost.commits_lost, faults.len()), (2, 1, 0));
        assert!((lost.seconds - 2.5).abs() < 1e-3, "{lost:?}");
        assert_eq!(loss(&all, &HashSet::from([1, 3]), "0/30", died_at).1.len(), 1, "2 is missing in the middle");
        assert_eq!(loss(&all, &HashSet::new(), "0/1", died_at).1.len(), 1, "nothing kept");
        assert_eq!(loss(&all, &HashSet::from([1, 2, 3]), "", died_at).1.len(), 1, "an end that is not told");
    }
}
