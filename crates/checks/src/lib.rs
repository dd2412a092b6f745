//! What a restored server is asked, and what it proved: amcheck in every database, every row read, the user's own questions.

mod expectation;
mod questions;

pub use expectation::{Expectation, ExpectationError, Operator};
pub use questions::{Question, References, Referred, ask};

use pg::{CheckKind, ConnInfo, MissingLibrary, PgError, Readable, ServerError, Sql, StaleCollation};
use serde::{Deserialize, Serialize};
use terms::{Class, Event, Events, Explain, Lsn};

/// What became of a check. Only [`Outcome::Passed`] is good: what could not be checked proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was looked at, and nothing is wrong with it.
    Passed,
    /// It could not be looked at, or not to its end.
    NotVerified,
    /// Something is damaged, or an answer is not the expected one.
    Failed,
}

/// Something that is wrong, or could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Never [`Outcome::Passed`].
    pub outcome: Outcome,
    /// Empty where it is about none of them.
    pub database: String,
    /// The relation, or what was done.
    pub object: String,
    /// In the words of the server, where it said something.
    pub what: String,
}

/// A table that was read in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableRows {
    /// With its schema, quoted where that is needed.
    pub name: String,
    /// As they were counted when all of them were read.
    pub rows: u64,
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its first file, relative to the data directory.
    pub file: String,
    /// How many pages its last VACUUM or ANALYZE noted.
    pub pages_noted: u32,
    /// What its pages told before any server of the drill's opened them; `None` when nobody read them.
    pub trail: Option<Trail>,
}

/// Where the log had brought a table: the position of the last change of each of its pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    /// How many were read, of all files of its main fork.
    pub pages: u64,
    /// The newest of the positions.
    pub newest: Lsn,
    /// A digest of all of them, in order of the pages.
    pub digest: String,
}

/// What was looked at in one database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DatabaseProof {
    /// `pg_database.datname`.
    pub name: String,
    /// Zero when it could not be asked.
    pub oid: u32,
    /// Indexes and tables that amcheck found nothing wrong with, the system's among them.
    pub indexes_passed: u64,
    /// Tables, materialized views and TOAST tables.
    pub tables_passed: u64,
    /// The user's tables, each read in full.
    pub rows: Vec<TableRows>,
    /// Those that could not be read; a fault says why.
    pub unread: Vec<String>,
    /// Indexes for which PostgreSQL has no check, with their access method: they prove nothing either way.
    pub without_check: Vec<String>,
    /// Libraries that functions of the database are in and that this host lacks.
    pub missing_libraries: Vec<String>,
    /// Collations of which this host has another version: whether the indexes by them are sound here is for amcheck, and else for nobody, to say.
    pub stale_collations: Vec<StaleCollation>,
}

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Failed also when there was no row; not verified when there was an error instead of an answer.
    pub outcome: Outcome,
    /// Where it was asked.
    pub database: String,
    /// As it was configured.
    pub sql: String,
    /// The expectation, as it is written: `>= 1`.
    pub expect: String,
    /// `null` when there was no row, or no answer at all; then a fault says why.
    pub got: Option<String>,
}

/// What a server proved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// By name. Where only questions are asked, without those that did not open.
    pub databases: Vec<DatabaseProof>,
    /// Those that nobody can connect to (`ALLOW_CONNECTIONS false`): nothing in them was looked at.
    pub closed_databases: Vec<String>,
    /// In the order of the questions.
    pub answers: Vec<Answer>,
    /// In the order in which they were met; an answer that is merely unexpected is none.
    pub faults: Vec<Fault>,
}

impl Proof {
    /// The worst of all outcomes. A server that was asked nothing proved nothing.
    pub fn outcome(&self) -> Outcome {
        let of_all = self.faults.iter().map(|fault| fault.outcome).chain(self.answers.iter().map(|answer| answer.outcome)).max();
        match of_all.unwrap_or(Outcome::Passed) {
            Outcome::Passed if self.databases.is_empty() => Outcome::NotVerified,
            outcome => outcome,
        }
    }
}

/// Looks, as the superuser of the server behind `info`, at everything in it; what its users wrote is not run by that, or as them (the
/// expressions of an index, by amcheck). An error means that it could not even be asked which databases it has.
pub async fn prove(info: &ConnInfo, events: &dyn Events) -> Result<Proof, PgError> {
    let (names, mut proof) = databases(info).await?;
    for name in names {
        events.tell(Event::Noticed { what: format!("checking database {name}") });
        let mut database = DatabaseProof { name: name.clone(), ..DatabaseProof::default() };
        if let Err(error) = prove_database(&info.clone().with_dbname(&name), &mut database, &mut proof.faults).await {
            proof.faults.push(fault(&name, "the database", &error));
        }
        proof.databases.push(database);
    }
    Ok(proof)
}

/// Only opens every database, so that little time passes; an error as of [`prove`].
pub async fn open_all(info: &ConnInfo) -> Result<Proof, PgError> {
    let (names, mut proof) = databases(info).await?;
    for name in names {
        let opened = async { Sql::connect(&info.clone().with_dbname(&name)).await?.stale_collations().await };
        match opened.await {
            Ok(stale_collations) => proof.databases.push(DatabaseProof { name, stale_collations, ..DatabaseProof::default() }),
            Err(error) => proof.faults.push(fault(&name, "the database", &error)),
        }
    }
    Ok(proof)
}

/// Those that are looked at, and the proof to be, which names the others.
async fn databases(info: &ConnInfo) -> Result<(Vec<String>, Proof), PgError> {
    let sql = Sql::connect(info).await?;
    let closed_databases = sql.closed_databases().await?;
    Ok((sql.connectable_databases().await?, Proof { closed_databases, ..Proof::default() }))
}

async fn prove_database(info: &ConnInfo, found: &mut DatabaseProof, faults: &mut Vec<Fault>) -> Result<(), PgError> {
    let sql = Sql::connect(info).await?;
    let provable = sql.provable().await?;
    found.oid = provable.database;
    found.stale_collations = sql.stale_collations().await?;
    for missing in sql.missing_libraries().await? {
        faults.push(lacking(&found.name, &missing));
        found.missing_libraries.push(missing.name);
    }
    found.without_check = provable.unchecked.iter().map(|(name, method)| format!("{name} ({method})")).collect();
    let amcheck = sql.make_amcheck().await?;
    for relation in &provable.relations {
        match sql.check_relation(&amcheck, relation).await {
            Ok(wrong) if wrong.is_empty() => match relation.kind {
                CheckKind::Btree => found.indexes_passed += 1,
                CheckKind::Heap => found.tables_passed += 1,
            },
            Ok(wrong) => {
                let told = |what| Fault { outcome: Outcome::Failed, database: found.name.clone(), object: relation.name.clone(), what };
                faults.extend(wrong.into_iter().map(told));
            }
            Err(error) => keep_going(&sql, &found.name, &relation.name, error, faults)?,
        }
    }
    for table in &provable.tables {
        match sql.read_in_full(table).await {
            Ok(rows) => found.rows.push(counted(table, rows)),
            Err(error) => {
                found.unread.push(table.name.clone());
                keep_going(&sql, &found.name, &read_of(table), error, faults)?;
            }
        }
    }
    found.rows.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(())
}

fn counted(table: &Readable, rows: u64) -> TableRows {
    let Readable { oid, name, file, pages_noted } = table.clone();
    TableRows { name, rows, oid, file, pages_noted, trail: None }
}

/// Whatever needs such a library fails here, and shows nothing of how it would do on a host that has it.
fn lacking(database: &str, missing: &MissingLibrary) -> Fault {
    let name = &missing.name;
    let (object, who) = match missing.extensions.join(", ") {
        names if names.is_empty() => (format!("library {name}"), "functions".to_owned()),
        names => (format!("extension {names}"), format!("the extension's functions, types and indexes ({names})")),
    };
    let what =
        format!("the library {name} is not on this host, so {who} could not be used: install the package that brings it where drills are held");
    Fault { outcome: Outcome::NotVerified, database: database.to_owned(), object, what }
}

fn read_of(table: &Readable) -> String {
    format!("rows of {}", table.name)
}

/// One relation's trouble is a finding; a session that ended is the end of this database's checks.
fn keep_going(sql: &Sql, database: &str, object: &str, error: PgError, faults: &mut Vec<Fault>) -> Result<(), PgError> {
    if sql.has_ended() {
        return Err(error);
    }
    faults.push(fault(database, object, &error));
    Ok(())
}

/// Damage is a failure; whatever else kept a check from its end leaves open what it would have found.
fn fault(database: &str, object: &str, error: &PgError) -> Fault {
    let is_damage = error.class() == Class::Damaged || matches!(error, PgError::Server(said) if misses_a_file(said));
    let outcome = if is_damage { Outcome::Failed } else { Outcome::NotVerified };
    let what = match error {
        // Which server, and as whom it was asked, is of no interest: it is gone when this is read.
        PgError::Server(said) => format!("{} (SQLSTATE {})", said.message, said.code),
        other => other.in_a_line(),
    };
    Fault { outcome, database: database.to_owned(), object: object.to_owned(), what }
}

/// A file of the cluster's own that is not there: a relation's (src/backend/storage/smgr/md.c) or one of the commit log's (slru.c). What a
/// library is called that this host lacks is "could not access file" (dfmgr.c), and no damage.
fn misses_a_file(said: &ServerError) -> bool {
    let words = [
        "could not open file \"base/",
        "could not open file \"global/",
        "could not open file \"pg_tblspc/",
        "could not access status of transaction",
    ];
    said.code == "58P01" && words.iter().any(|word| said.message.starts_with(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(outcome: Outcome) -> Fault {
        Fault { outcome, database: "kb".into(), object: "t".into(), what: "x".into() }
    }

    #[test]
    fn what_could_not_be_checked_is_never_passed() {
        let mut proof = Proof::default();
        assert_eq!(proof.outcome(), Outcome::NotVerified, "nothing was asked");
        proof.databases.push(DatabaseProof::default());
        assert_eq!(proof.outcome(), Outcome::Passed);
        proof.faults.push(fault(Outcome::NotVerified));
        assert_eq!(proof.outcome(), Outcome::NotVerified);
        proof.faults.push(fault(Outcome::Failed));
        assert_eq!(proof.outcome(), Outcome::Failed, "the worst of all");
    }
}
