//! Judges exact counts of rows: against the last drill, to the row where nothing was written since, and against production's estimates.

use crate::past::{Past, PastDatabase, PastTable};
use crate::production::Production;
use crate::report::{Comparison, Notice};
use checks::{DatabaseProof, Fault, Outcome, TableRows, Trail};
use pg::Estimate;
use std::collections::HashSet;
use terms::{Lsn, Timeline};

/// No row takes fewer bytes of the log than this when it is inserted, so that many rows may be in what the drill did not replay
/// (`SizeOfMultiInsertTuple` and a value, src/include/access/heapam_xlog.h).
const LOG_BYTES_OF_A_ROW: u64 = 8;

/// What the counts are held against.
pub(crate) struct Against<'a> {
    /// Where the drill's own recovery ended, and on which timeline its log lies.
    pub(crate) ended: Lsn,
    pub(crate) timeline: Timeline,
    /// The last drill, or why there is none to compare with.
    pub(crate) past: Result<&'a Past, String>,
    /// No transaction that hung open at the last drill's end can have committed since.
    pub(crate) nothing_hung: bool,
    pub(crate) production: Result<&'a Production, String>,
    /// How much of a table may be missing, from 0 to 1.
    pub(crate) tolerance: f64,
}

/// What came out.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) faults: Vec<Fault>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) comparisons: Vec<Comparison>,
}

/// Judges every table that was counted, and every one that was there before and is not now.
pub(crate) fn judge(databases: &[DatabaseProof], against: &Against<'_>) -> Judged {
    let mut judge = Judge { against, judged: Judged::default(), exactly: 0, with_past: 0, with_production: 0 };
    for database in databases {
        for table in &database.rows {
            judge.table(database, table);
        }
    }
    if let Ok(past) = against.past {
        for before in &past.proof.databases {
            judge.vanished(databases, before);
        }
    }
    judge.finish()
}

struct Judge<'a> {
    against: &'a Against<'a>,
    judged: Judged,
    exactly: u64,
    with_past: u64,
    with_production: u64,
}

impl<'a> Judge<'a> {
    fn table(&mut self, database: &DatabaseProof, table: &TableRows) {
        let estimate = self.estimate(database.oid, table);
        let is_short = estimate.is_some_and(|rows| self.is_short_of(table.rows, rows));
        if let Some(rows) = estimate {
            self.with_production += 1;
            if is_short {
                let what = format!("{} rows were restored, and production has at least about {rows}", table.rows);
                self.fault(&database.name, &table.name, what);
            }
        }
        let Some((past, before)) = self.before(database.oid, table) else { return };
        self.with_past += 1;
        match change(past, before, table, self.against) {
            Change::None => {
                self.exactly += 1;
                if before.rows != table.rows {
                    let what = format!(
                        "{} rows were restored, {} at the drill of {}, although none of its {} pages was written since",
                        table.rows,
                        before.rows,
                        past.began,
                        table.trail.as_ref().map_or(0, |trail| trail.pages)
                    );
                    self.fault(&database.name, &table.name, what);
                }
            }
            Change::Backwards(how) => {
                let what = format!(
                    "{how}: {} rows were restored, {} at the drill of {}, and the log holds nothing since that would take them away",
                    table.rows, before.rows, past.began
                );
                self.fault(&database.name, &table.name, what);
            }
            // Where production was asked it has agreed or a fault says so.
            Change::Some if estimate.is_none() && is_below(table.rows, before.rows, self.against.tolerance) => {
                let why = match &self.against.production {
                    _ if before.file != table.file => "TRUNCATE or a rewrite gave it another file",
                    Ok(_) => "production has no estimate of it",
                    Err(_) => "production was not there to say whether it should have",
                };
                let what = format!("fell from {} to {} rows since the drill of {}; {why}", before.rows, table.rows, past.began);
                self.notice(&database.name, &table.name, what);
            }
            Change::Some => {}
        }
    }

    /// The tables of an earlier drill's database that are not there now.
    fn vanished(&mut self, databases: &[DatabaseProof], before: &PastDatabase) {
        let Ok(past) = self.against.past else { return };
        let now = databases.iter().find(|database| database.oid == before.oid);
        // A database that could not be asked is a fault already.
        if before.oid == 0 || databases.iter().any(|database| database.oid == 0 && database.name == before.name) {
            return;
        }
        let here: HashSet<u32> = now.into_iter().flat_map(|database| &database.rows).map(|table| table.oid).collect();
        let unread = |name: &str| now.is_some_and(|database| database.unread.iter().any(|unread| unread == name));
        let mut dropped = Vec::new();
        for table in before.rows.iter().filter(|table| !here.contains(&table.oid) && !unread(&table.name)) {
            match self.against.production.as_ref().map(|production| production.databases.get(&before.oid)) {
                // It was there then and is there now, so it was there at every instant between.
                Ok(Some(tables)) if tables.contains_key(&table.oid) => {
                    let what = format!("is missing: it had {} rows at the drill of {}, and production has it still", table.rows, past.began);
                    self.fault(&before.name, &table.name, what);
                }
                Ok(_) => {}
                Err(_) => dropped.push(format!("{} ({} rows)", table.name, table.rows)),
            }
        }
        if !dropped.is_empty() {
            let what =
                format!("gone since the drill of {}: {}; whether they were dropped, production was not there to say", past.began, dropped.join(", "));
            self.notice(&before.name, "tables", what);
        }
    }

    /// What production believes at least, if it is about the same table in the same file.
    fn estimate(&self, database: u32, table: &TableRows) -> Option<u64> {
        let production = self.against.production.as_ref().ok()?;
        let found: &Estimate = production.databases.get(&database)?.get(&table.oid)?;
        found.rows.filter(|_| found.file == table.file)
    }

    fn before(&self, database: u32, table: &TableRows) -> Option<(&'a Past, &'a PastTable)> {
        let past = *self.against.past.as_ref().ok()?;
        let before = past.proof.databases.iter().find(|before| before.oid == database && database != 0)?;
        before.rows.iter().find(|before| before.oid == table.oid).map(|before| (past, before))
    }

    /// Whether so few rows cannot be explained by what production wrote after the instant that was restored.
    fn is_short_of(&self, rows: u64, estimate: u64) -> bool {
        let Ok(production) = &self.against.production else { return false };
        let since = production.at.bytes().saturating_sub(self.against.ended.bytes()) / LOG_BYTES_OF_A_ROW;
        is_below(rows.saturating_add(since), estimate, self.against.tolerance)
    }

    fn fault(&mut self, database: &str, object: &str, what: String) {
        self.judged.faults.push(Fault { outcome: Outcome::Failed, database: database.to_owned(), object: format!("rows of {object}"), what });
    }

    fn notice(&mut self, database: &str, object: &str, what: String) {
        self.judged.notices.push(Notice { database: database.to_owned(), object: object.to_owned(), what });
    }

    fn finish(mut self) -> Judged {
        let with = match &self.against.past {
            Ok(past) => {
                Comparison { with: format!("the drill of {}", past.began), tables: self.with_past, exactly: self.exactly, not_compared: None }
            }
            Err(why) => Comparison { with: "the last drill".into(), tables: 0, exactly: 0, not_compared: Some(why.clone()) },
        };
        let (tables, not_compared) = match &self.against.production {
            Ok(production) if production.untold.is_empty() => (self.with_production, None),
            Ok(production) => {
                let untold: Vec<_> = production.untold.iter().map(|(name, why)| format!("database {name}: {why}")).collect();
                (self.with_production, Some(untold.join("; ")))
            }
            Err(why) => (0, Some(why.clone())),
        };
        self.judged.comparisons = vec![with, Comparison { with: "production's estimates".into(), tables, exactly: 0, not_compared }];
        self.judged
    }
}

/// What became of a table's pages between two drills.
enum Change {
    /// Each page bears the position that it bore.
    None,
    /// They bear older ones, and nothing that the log could hold explains it.
    Backwards(&'static str),
    /// Something was written, or nobody knows.
    Some,
}

fn change(past: &Past, before: &PastTable, table: &TableRows, against: &Against<'_>) -> Change {
    let (Some(ended), Some(then), Some(now)) = (past.recovered_to, &before.trail, &table.trail) else { return Change::Some };
    // On another timeline the past may have been another.
    if past.source_timeline != Some(against.timeline) || before.file != table.file || before.file.is_empty() {
        return Change::Some;
    }
    // Nothing can have been written into an empty file that would show in it.
    if then == now && now.pages > 0 {
        return if against.nothing_hung { Change::None } else { Change::Some };
    }
    if then.newest > ended || now.newest >= then.newest {
        return Change::Some;
    }
    if now.pages >= then.pages {
        return Change::Backwards("its pages are older than they were");
    }
    // VACUUM cuts off empty pages at a table's end, and then notes how many are left.
    if is_cut_without_vacuum(before, now, table) {
        return Change::Backwards("its file is shorter and older than it was, and no VACUUM cut it");
    }
    Change::Some
}

fn is_cut_without_vacuum(before: &PastTable, now: &Trail, table: &TableRows) -> bool {
    u64::from(table.pages_noted) != now.pages && table.pages_noted == before.pages_noted
}

fn is_below(rows: u64, expected: u64, tolerance: f64) -> bool {
    (rows as f64) < expected as f64 * (1.0 - tolerance)
}

#[cfg(test)]
#[path = "counts_tests.rs"]
mod tests;
