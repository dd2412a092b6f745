//! What was measured last, in words.

use crate::fault::Fault;
use crate::show::{bytes, counted, duration};
use repo::Reader;
use std::time::Duration;

/// A line for each thing that was measured; none before the first drill.
pub async fn lines(reader: &Reader) -> Result<Vec<String>, Fault> {
    let Some(measured) = restore::measured(reader).await? else { return Ok(Vec::new()) };
    let time = |seconds: f64| duration(Duration::from_secs_f64(seconds.max(0.0)));
    Ok(vec![format!(
        "the drill of {} ({}) restored {} in {} and replayed {} in {}",
        measured.at,
        measured.outcome,
        bytes(measured.database_bytes),
        time(measured.files_seconds),
        counted(measured.segments, "segment"),
        time(measured.replay_seconds)
    )])
}
