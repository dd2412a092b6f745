//! `bowline status`: one screen; the exit code is the verdict.

use crate::args::Common;
use crate::fault::Fault;
use crate::show::{Printer, bytes, duration};
use crate::wiring::Wiring;
use pg::Sql;
use repo::BackupDocument;
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terms::{Clock, Lsn, SegmentName, SystemClock, Timeline};

/// A backup older than this makes the verdict red: the daily one is late.
const BACKUP_AGE_MAX: Duration = Duration::from_secs(26 * 3600);

pub async fn run(common: &Common, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    let reader = wiring.reader().await?;
    let backups = reader.backups().await?;
    let mut red: Vec<String> = Vec::new();
    printer.say(format!("repository   {}", reader.address()));
    let newest = backups.last();
    match newest {
        Some(b) => {
            let age = age(b);
            printer.say(format!("last backup  {} ({} ago), {}", b.id, duration(age), bytes(b.bytes)));
            if age > BACKUP_AGE_MAX {
                red.push(format!("the newest backup is {} old", duration(age)));
            }
        }
        None => {
            printer.say("last backup  none");
            red.push("there is no backup".into());
        }
    }
    let mut stored = None;
    if let (Some(b), Some(oldest)) = (newest, backups.iter().find(|o| newest.is_some_and(|n| n.system_id == o.system_id))) {
        let view = reader.wal_view(b.system_id, b.segment_bytes).await?;
        let end =
            view.timelines.iter().rev().find_map(|t| t.runs.last().map(|r| (t.timeline, SegmentName::numbered(r.last, t.timeline, b.segment_bytes))));
        if let Some((timeline, last)) = end {
            stored = Some((timeline, last.end(b.segment_bytes)));
            printer.say(format!("WAL stored   {} segments, to {} on timeline {timeline}", view.segments(), last.end(b.segment_bytes)));
        }
        let covered = reader.coverage().await?;
        let until = covered.as_ref().map_or_else(String::new, |c| format!("; complete at {} ({})", c.lsn, c.time));
        printer.say(format!("restorable   from {} ({}){until}", oldest.stop.time, oldest.stop.lsn));
    }
    let lag = match server(&wiring).await {
        Ok((lsn, receiver)) => {
            let lag = stored.map(|(_, end): (Timeline, Lsn)| lsn.bytes_since(end));
            let not_stored = lag.map_or_else(|| "unknown".to_owned(), bytes);
            printer.say(format!("exposure     {not_stored} of WAL not stored yet, server at {lsn}"));
            printer.say(format!("receiver     {}", if receiver { "streaming" } else { "NOT RUNNING on the configured slot" }));
            if !receiver {
                red.push("no WAL receiver is running".into());
            }
            lag
        }
        Err(fault) => {
            printer.say(format!("server       cannot be reached: {}", fault.0.summary));
            red.push("the server cannot be reached".into());
            None
        }
    };
    printer.say(if red.is_empty() { "verdict      protected".to_owned() } else { format!("verdict      NOT PROTECTED: {}", red.join("; ")) });
    printer.result(json!({
        "repository": reader.address(), "backups": backups.len(), "newest": newest, "wal_stored_to": stored.map(|(_, end)| end),
        "wal_lag_bytes": lag, "protected": red.is_empty(), "reasons": red,
    }));
    Ok(if red.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn age(backup: &BackupDocument) -> Duration {
    Duration::from_secs_f64(SystemClock.now().seconds_since(backup.stop.time).max(0.0))
}

/// Where the server is, and whether somebody streams from the slot.
async fn server(wiring: &Wiring) -> Result<(Lsn, bool), Fault> {
    let sql = Sql::connect(&wiring.conninfo()?).await?;
    let receiver = sql.slot(&wiring.config.wal.slot).await?.is_some_and(|slot| slot.active);
    Ok((sql.current_lsn().await?, receiver))
}
