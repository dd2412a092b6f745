//! The last drill that passed, as its report in the repository tells it: what the present one is held against.

use checks::{Outcome, Trail};
use repo::{Reader, RepoError};
use serde::Deserialize;
use terms::{Explain, Lsn, SystemId, Timeline, Timestamp};

/// So many reports are read in search of one that will do.
const LOOKED_AT_MAX: usize = 100;

/// What of a report counts here.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Past {
    pub(crate) outcome: Outcome,
    pub(crate) began: Timestamp,
    pub(crate) system_id: Option<SystemId>,
    pub(crate) recovered_to: Option<Lsn>,
    /// The timeline that recovery followed; reports of older versions lack it and cannot be compared with.
    #[serde(default)]
    pub(crate) source_timeline: Option<Timeline>,
    #[serde(default)]
    pub(crate) open_ended: Option<Vec<u64>>,
    pub(crate) proof: PastProof,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PastProof {
    pub(crate) databases: Vec<PastDatabase>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PastDatabase {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) oid: u32,
    pub(crate) rows: Vec<PastTable>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PastTable {
    pub(crate) name: String,
    pub(crate) rows: u64,
    #[serde(default)]
    pub(crate) oid: u32,
    #[serde(default)]
    pub(crate) file: String,
    #[serde(default)]
    pub(crate) pages_noted: u32,
    #[serde(default)]
    pub(crate) trail: Option<Trail>,
}

/// The newest drill of this cluster that passed and whose end is not after `end`; else why there is none. The second words are of reports
/// that could not be read and were passed over.
pub(crate) async fn last_passed(reader: &Reader, system_id: SystemId, end: Lsn) -> (Result<Past, String>, Vec<String>) {
    let mut passed_over = Vec::new();
    let paths = match reader.drills().await {
        Ok(paths) => paths,
        Err(error) => return (Err(error.in_a_line()), passed_over),
    };
    for path in paths.into_iter().take(LOOKED_AT_MAX) {
        match reader.drill::<Past>(&path).await {
            Ok(Some(past)) if is_comparable(&past, system_id, end) => return (Ok(past), passed_over),
            Ok(_) => {}
            Err(error @ (RepoError::Document { .. } | RepoError::Newer { .. })) => passed_over.push(error.in_a_line()),
            Err(error) => return (Err(error.in_a_line()), passed_over),
        }
    }
    (Err("no drill of this cluster that passed and ended earlier is recorded".into()), passed_over)
}

fn is_comparable(past: &Past, system_id: SystemId, end: Lsn) -> bool {
    past.outcome == Outcome::Passed
        && past.system_id == Some(system_id)
        && past.source_timeline.is_some()
        && past.recovered_to.is_some_and(|ended| ended <= end)
}
