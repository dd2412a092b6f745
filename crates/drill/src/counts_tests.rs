//! What the counts are taken to say, case by case.

use super::*;
use crate::past::PastProof;
use std::collections::HashMap;
use terms::{SystemId, Timestamp};

const DATABASE: u32 = 5;
const TABLE: u32 = 16384;
const FILE: &str = "base/5/16384";
/// Where the last drill ended, and where this one did.
const THEN: u64 = 1000;
const NOW: u64 = 9000;

fn lsn(bytes: u64) -> Lsn {
    Lsn::from_bytes(bytes)
}

fn trail(pages: u64, newest: u64) -> Trail {
    Trail { pages, newest: lsn(newest), digest: format!("{pages}-{newest}") }
}

fn past(rows: u64, trail: Trail, pages_noted: u32) -> Past {
    let table = PastTable { name: "public.t".into(), rows, oid: TABLE, file: FILE.into(), pages_noted, trail: Some(trail) };
    Past {
        outcome: Outcome::Passed,
        began: Timestamp::from_unix_micros(0),
        system_id: Some(SystemId::new(1)),
        recovered_to: Some(lsn(THEN)),
        source_timeline: Some(Timeline::new(1).unwrap()),
        open_ended: Some(Vec::new()),
        proof: PastProof { databases: vec![PastDatabase { name: "kb".into(), oid: DATABASE, rows: vec![table] }] },
    }
}

fn now(rows: u64, trail: Trail, pages_noted: u32) -> Vec<DatabaseProof> {
    let table = TableRows { name: "public.t".into(), rows, oid: TABLE, file: FILE.into(), pages_noted, trail: Some(trail) };
    vec![DatabaseProof { name: "kb".into(), oid: DATABASE, rows: vec![table], ..DatabaseProof::default() }]
}

fn production(at: u64, rows: Option<u64>) -> Production {
    let estimate = Estimate { oid: TABLE, name: "public.t".into(), file: FILE.into(), rows };
    let databases = HashMap::from([(DATABASE, HashMap::from([(TABLE, estimate)]))]);
    Production { system_id: SystemId::new(1), at: lsn(at), databases, untold: Vec::new() }
}

fn against<'a>(past: Option<&'a Past>, production: Option<&'a Production>) -> Against<'a> {
    Against {
        ended: lsn(NOW),
        timeline: Timeline::new(1).unwrap(),
        past: past.ok_or_else(|| "none".to_owned()),
        nothing_hung: true,
        production: production.ok_or_else(|| "away".to_owned()),
        tolerance: 0.1,
    }
}

fn faults(judged: &Judged) -> Vec<&str> {
    judged.faults.iter().map(|fault| fault.what.as_str()).collect()
}

#[test]
fn where_nothing_was_written_the_count_must_be_the_same_to_the_row() {
    let then = past(1000, trail(5, 900), 5);
    let judged = judge(&now(1000, trail(5, 900), 5), &against(Some(&then), None));
    assert!(judged.faults.is_empty() && judged.comparisons[0].exactly == 1, "{judged:?}");
    for rows in [999, 1001] {
        let judged = judge(&now(rows, trail(5, 900), 5), &against(Some(&then), None));
        assert!(matches!(&faults(&judged)[..], [what] if what.contains("none of its 5 pages was written")), "{judged:?}");
    }
    // A deletion that hung open then may have been committed since, and touches no page again.
    let hung = Against { nothing_hung: false, ..against(Some(&then), None) };
    assert!(judge(&now(999, trail(5, 900), 5), &hung).faults.is_empty());
    // After a restore of production to an earlier instant the same pages may be of another past.
    let elsewhere = Against { timeline: Timeline::new(2).unwrap(), ..against(Some(&then), None) };
    assert!(judge(&now(999, trail(5, 900), 5), &elsewhere).faults.is_empty());
}

#[test]
fn an_older_file_in_a_tables_place_is_found_and_a_vacuumed_one_is_none() {
    let then = past(2000, trail(10, 900), 10);
    let judge = |rows, trail, noted| judge(&now(rows, trail, noted), &against(Some(&then), None));
    assert_eq!(faults(&judge(2000, trail(10, 400), 10)).len(), 1, "as long, and older: a write was lost");
    assert_eq!(faults(&judge(1000, trail(5, 400), 10)).len(), 1, "shorter, older, and no VACUUM noted that");
    assert_eq!(faults(&judge(0, trail(0, 0), 10)).len(), 1, "emptied behind the server's back");
    assert_eq!(faults(&judge(1000, trail(5, 400), 5)).len(), 0, "its end was deleted and VACUUM cut it off");
    assert_eq!(faults(&judge(0, trail(0, 0), 0)).len(), 0, "a queue that was emptied, and vacuumed");
    assert_eq!(faults(&judge(2500, trail(12, 5000), 10)).len(), 0, "it was written to");
}

#[test]
fn what_was_written_since_may_shrink_when_production_says_so_and_is_noticed_when_nobody_does() {
    let then = past(2000, trail(10, 900), 10);
    let databases = now(1000, trail(10, 5000), 10);
    let judged = judge(&databases, &against(Some(&then), None));
    assert!(judged.faults.is_empty() && judged.notices[0].what.contains("from 2000 to 1000"), "{judged:?}");
    let agrees = production(NOW, Some(1000));
    let judged = judge(&databases, &against(Some(&then), Some(&agrees)));
    assert!(judged.faults.is_empty() && judged.notices.is_empty(), "{judged:?}");
}

#[test]
fn fewer_rows_than_production_has_are_a_fault_unless_they_came_later() {
    let judge = |rows, production: &Production| faults(&judge(&now(rows, trail(10, 900), 10), &against(None, Some(production)))).len();
    assert_eq!(judge(1000, &production(NOW, Some(2000))), 1);
    assert_eq!(judge(1801, &production(NOW, Some(2000))), 0, "within the tolerance");
    assert_eq!(judge(9999, &production(NOW, Some(2000))), 0, "more is never too many");
    assert_eq!(judge(0, &production(NOW, None)), 0, "after TRUNCATE production does not know");
    assert_eq!(judge(1000, &production(NOW + 800 * 8, Some(2000))), 0, "as many rows may be in what was not replayed");
    let mut rewritten = production(NOW, Some(2000));
    for table in rewritten.databases.values_mut().flat_map(HashMap::values_mut) {
        table.file = "base/5/99999".into();
    }
    assert_eq!(judge(1000, &rewritten), 0, "another file: rewritten or truncated since");
}

#[test]
fn a_table_that_is_gone_is_a_fault_where_production_has_it_and_noticed_where_nobody_knows() {
    let then = past(2000, trail(10, 900), 10);
    let mut databases = now(0, trail(0, 0), 0);
    databases[0].rows.clear();
    let has_it = production(NOW, Some(2000));
    assert!(faults(&judge(&databases, &against(Some(&then), Some(&has_it))))[0].contains("production has it still"));
    let mut dropped = production(NOW, None);
    dropped.databases.values_mut().for_each(HashMap::clear);
    assert!(faults(&judge(&databases, &against(Some(&then), Some(&dropped)))).is_empty());
    let judged = judge(&databases, &against(Some(&then), None));
    assert!(judged.faults.is_empty() && judged.notices[0].what.contains("public.t (2000 rows)"), "{judged:?}");
    databases[0].unread.push("public.t".into());
    assert!(judge(&databases, &against(Some(&then), None)).notices.is_empty(), "it is there and could not be read: a fault of its own");
}

#[test]
fn what_was_not_compared_is_said() {
    let judged = judge(&now(1, trail(1, 1), 1), &against(None, None));
    let why: Vec<_> = judged.comparisons.iter().filter_map(|comparison| comparison.not_compared.as_deref()).collect();
    assert_eq!(why, ["none", "away"]);
    assert!(judged.faults.is_empty(), "by itself that is no fault");
}
