//! What was configured to be asked of a restored server: the user's questions, and to which objects the database refers.

use crate::{Answer, Expectation, Fault, Outcome, Proof, fault};
use pg::{ConnInfo, PgError, Sql, make_asker};
use serde::Deserialize;

/// A question of the user's, and what its answer should be.
#[derive(Debug, Clone)]
pub struct Question {
    /// A query; the first column of its first row is the answer.
    pub sql: String,
    /// What that answer must meet.
    pub expect: Expectation,
    /// Where it is asked.
    pub database: String,
}

/// Which objects outside the database it refers to: a query of `key`, and of `size` in bytes where the database knows it.
#[derive(Debug, Clone)]
pub struct References {
    /// It may end in a semicolon.
    pub sql: String,
    /// Where it is asked.
    pub database: String,
}

/// The keys that the database refers to, each with its size where that is told; or why they are not known.
pub type Referred = Result<Vec<(String, Option<u64>)>, Fault>;

#[derive(Deserialize)]
struct ReferenceRow {
    key: String,
    #[serde(default)]
    size: Option<u64>,
}

/// Asks the user's questions, whose answers go into the proof, and to which objects the databases refer. Queries run what is in the
/// database, so a role asks that is no superuser ([`make_asker`]); a server that is kept is to be rid of it afterwards ([`pg::drop_askers`]).
pub async fn ask(info: &ConnInfo, questions: &[Question], references: Option<&References>, proof: &mut Proof) -> Option<Referred> {
    if questions.is_empty() && references.is_none() {
        return None;
    }
    let asker = make_asker(info).await;
    for question in questions {
        let answered = match &asker {
            Ok(asker) => answer(asker, question).await.map_err(|error| unanswered(&question.database, &question.sql, &error)),
            Err(error) => Err(unanswered(&question.database, &question.sql, error)),
        };
        let (outcome, got) = match answered {
            Ok((true, got)) => (Outcome::Passed, got),
            Ok((false, got)) => (Outcome::Failed, got),
            Err(unanswered) => {
                proof.faults.push(unanswered);
                (Outcome::NotVerified, None)
            }
        };
        let (database, sql, expect) = (question.database.clone(), question.sql.clone(), question.expect.to_string());
        proof.answers.push(Answer { outcome, database, sql, expect, got });
    }
    let references = references?;
    Some(match &asker {
        Ok(asker) => referred(asker, references).await,
        Err(error) => Err(unanswered(&references.database, &references.sql, error)),
    })
}

/// All keys come in one answer and lie in memory.
async fn referred(asker: &ConnInfo, references: &References) -> Referred {
    let of_query = |error: &PgError| unanswered(&references.database, &references.sql, error);
    let sql = Sql::connect(&asker.clone().with_dbname(&references.database)).await.map_err(|error| of_query(&error))?;
    let query = references.sql.trim().trim_end_matches(';');
    let answer = sql.answer(&format!("SELECT coalesce(json_agg(row_to_json(referred)), '[]') FROM ({query}) AS referred")).await;
    let text = answer.map_err(|error| of_query(&error))?.unwrap_or_default();
    let rows: Vec<ReferenceRow> = serde_json::from_str(&text).map_err(|error| Fault {
        outcome: Outcome::NotVerified,
        database: references.database.clone(),
        object: references.sql.clone(),
        what: format!("it must give key (text) and may give size (bytes): {error}"),
    })?;
    Ok(rows.into_iter().map(|row| (row.key, row.size)).collect())
}

/// A query that gave an error instead of an answer.
fn unanswered(database: &str, query: &str, error: &PgError) -> Fault {
    let mut unanswered = Fault { outcome: Outcome::NotVerified, ..fault(database, query, error) };
    if matches!(error, PgError::Server(said) if said.code == "42501") {
        let next = "; who asks reads everything and is no superuser: where the query is right to do that, GRANT what it needs TO pg_read_all_data";
        unanswered.what.push_str(next);
    }
    unanswered
}

/// Whether the answer is as expected, and the answer.
async fn answer(asker: &ConnInfo, question: &Question) -> Result<(bool, Option<String>), PgError> {
    let sql = Sql::connect(&asker.clone().with_dbname(&question.database)).await?;
    let Some(got) = sql.answer(&question.sql).await? else { return Ok((false, None)) };
    let is_met = match (&question.expect, question.expect.is_met(&got)) {
        (_, Some(is_met)) => is_met,
        (Expectation::Matches(pattern), None) => sql.matches(&got, pattern).await?,
        (_, None) => false,
    };
    Ok((is_met, Some(got)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg::{Peer, ServerError};
    use std::sync::Arc;

    #[test]
    fn a_query_that_may_not_says_what_to_grant() {
        let said = |code: &str, message: &str| {
            let peer = Arc::new(Peer { address: "a".into(), user: "b".into(), database: "kb".into() });
            let (doing, nothing) = ("ask".into(), String::new());
            let (server_detail, server_hint) = (nothing.clone(), nothing);
            PgError::Server(Box::new(ServerError { peer, doing, code: code.into(), message: message.into(), server_detail, server_hint }))
        };
        let found = unanswered("kb", "SELECT f()", &said("42501", "permission denied for function f"));
        assert_eq!((found.outcome, found.object.as_str()), (Outcome::NotVerified, "SELECT f()"));
        assert!(
            found.what.starts_with("permission denied for function f (SQLSTATE 42501)") && found.what.contains("pg_read_all_data"),
            "{}",
            found.what
        );
        let found = unanswered("kb", "SELECT 1/0", &said("22012", "division by zero"));
        assert_eq!(found.what, "division by zero (SQLSTATE 22012)");
    }
}
