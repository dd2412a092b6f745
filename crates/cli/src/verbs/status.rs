//! `bowline status`: one screen; the exit code is the verdict.

use crate::args::Common;
use crate::fault::Fault;
use crate::show::{Printer, bytes, duration};
use crate::verbs::guard::{self, Guarded};
use crate::wiring::Wiring;
use pg::{Severity, Sql};
use repo::{BackupDocument, Reader};
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terms::{Clock, Lsn, SystemClock, Timeline};

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
        stored = view.newest();
        if let Some((timeline, end)) = stored {
            printer.say(format!("WAL stored   {} segments, to {end} on timeline {timeline}", view.segments()));
        }
        let covered = reader.coverage().await?;
        let until = covered.as_ref().map_or_else(String::new, |c| format!("; complete at {} ({})", c.lsn, c.time));
        printer.say(format!("restorable   from {} ({}){until}", oldest.stop.time, oldest.stop.lsn));
    }
    let mut guarded = None;
    let lag = match server(&wiring, &reader).await {
        Ok((lsn, seen)) => {
            let receiver = seen.slot.slot.as_ref().is_some_and(|slot| slot.active);
            let lag = stored.map(|(_, end): (Timeline, Lsn)| lsn.bytes_since(end));
            let not_stored = lag.map_or_else(|| "unknown".to_owned(), bytes);
            printer.say(format!("exposure     {not_stored} of WAL not stored yet, server at {lsn}"));
            printer.say(format!("receiver     {}", if receiver { "streaming" } else { "NOT RUNNING on the configured slot" }));
            if !receiver {
                red.push("no WAL receiver is running".into());
            }
            let held = seen.slot.held_bytes.map_or_else(|| "nothing".to_owned(), bytes);
            let wal_status = seen.slot.slot.as_ref().map_or("missing", |slot| slot.wal_status.as_deref().unwrap_or("unused"));
            printer.say(format!("slot         {} ({wal_status}), holds {held} of WAL on the server", seen.slot.name));
            for finding in seen.findings.iter().filter(|f| f.severity != Severity::Ok) {
                let cause = if finding.cause.is_empty() { String::new() } else { format!(": {}", finding.cause) };
                printer.say(format!("{:<12} {}{cause}", finding.severity.name().to_uppercase(), finding.what));
                printer.say(format!("{:12} → {}", "", finding.remedy));
            }
            // What could not be looked at is not fine.
            red.extend(seen.findings.iter().filter(|f| matches!(f.severity, Severity::Critical | Severity::Unknown)).map(|f| f.what.clone()));
            guarded = Some(seen);
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
        "wal_lag_bytes": lag,
        "slot": guarded.as_ref().map(|g| guard::slot(&g.slot)), "findings": guarded.as_ref().map(|g| guard::findings(&g.findings)), "protected": red.is_empty(), "reasons": red,
    }));
    Ok(if red.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn age(backup: &BackupDocument) -> Duration {
    Duration::from_secs_f64(SystemClock.now().seconds_since(backup.stop.time).max(0.0))
}

/// Where the server is, and how its slot stands.
async fn server(wiring: &Wiring, reader: &Reader) -> Result<(Lsn, Guarded), Fault> {
    let sql = Sql::connect(&wiring.conninfo()?).await?;
    let guarded = guard::look(wiring, &sql, Some(reader)).await?;
    Ok((sql.current_lsn().await?, guarded))
}
