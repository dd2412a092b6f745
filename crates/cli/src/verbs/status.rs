//! `bowline status`: one screen; the exit code is the verdict.

use crate::args::Common;
use crate::fault::Fault;
use crate::show::{Printer, bytes, duration};
use crate::verbs::guard::{self, Guarded};
use crate::verbs::outlook;
use crate::verbs::second_copy::SecondCopy;
use crate::wiring::Wiring;
use pg::{Severity, Sql};
use repo::{BackupDocument, Epoch, Reader, RepoError};
use restore::StoredEnd;
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terms::{Clock, Explain, Lsn, SystemClock, SystemId};

/// A backup older than this makes the verdict red: the daily one is late.
const BACKUP_AGE_MAX: Duration = Duration::from_secs(26 * 3600);

pub async fn run(common: &Common, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    let reader = wiring.reader().await?;
    let backups = reader.backups().await?;
    let mut red: Vec<String> = Vec::new();
    printer.say(format!("repository   {}", reader.address()));
    let epochs = &reader.document().epochs;
    let of = |epoch: &Epoch| backups.iter().filter(|b| b.system_id == epoch.system_id).collect::<Vec<_>>();
    let own = reader.epoch().map(of).unwrap_or_default();
    let newest = own.last().copied();
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
            red.push(match (reader.epoch(), backups.is_empty()) {
                (Some(epoch), false) => {
                    printer.say(format!("{:12} → of the present cluster {} (PostgreSQL {}); next: bowline backup", "", epoch.system_id, epoch.major));
                    "there is no backup of the present cluster".into()
                }
                _ => "there is no backup".into(),
            });
        }
    }
    let expiry = reader.expiry().await?.map(|(state, _)| state);
    // Of older ones that retention keeps there is their own end alone.
    let reaches_on = |b: &&&BackupDocument| expiry.as_ref().is_none_or(|state| state.reaches_on_from(b));
    let mut stored = None;
    let mut spans = Vec::new();
    for epoch in epochs {
        let own = of(epoch);
        let is_present = reader.epoch() == Some(epoch);
        let whose = if is_present { String::new() } else { format!(", PostgreSQL {} (cluster {})", epoch.major, epoch.system_id) };
        let covered = reader.coverage(epoch.system_id).await?;
        if let Some(oldest) = own.iter().find(reaches_on) {
            if is_present {
                let view = reader.wal_view(oldest.system_id, oldest.segment_bytes).await?;
                stored = restore::stored_end(&reader, epoch).await?;
                match stored {
                    Some(StoredEnd { hole: Some(missing), .. }) => red.push(format!("WAL segment {missing} is missing from the repository")),
                    None => red.push("no backup leads to the newest timeline".into()),
                    Some(_) => {}
                }
                if let Some(end) = stored {
                    printer.say(format!("WAL stored   {} segments, to {} on timeline {}", view.segments(), end.lsn, end.timeline));
                }
            }
            let until = covered.as_ref().map_or_else(String::new, |c| format!("; complete at {} ({})", c.lsn, c.time));
            printer.say(format!("restorable   from {} ({}){until}{whose}", oldest.stop.time, oldest.stop.lsn));
            let alone = own.iter().filter(|b| !reaches_on(b)).count();
            if alone > 0 {
                printer.say(format!("{:12} and {alone} older backups, each to its own end", ""));
            }
        }
        spans.push(json!({
            "system_id": epoch.system_id, "major": epoch.major, "since": epoch.since, "present": is_present, "backups": own.len(),
            "restorable_from": own.iter().find(reaches_on).map(|b| b.stop.time), "covered_until": covered.map(|c| c.time),
        }));
    }
    let copy = SecondCopy::look(&wiring, &reader).await;
    match &copy {
        Some(Ok(copy)) => {
            printer.say(format!("second copy  {}", copy.words()));
            if copy.is_late() {
                red.push("the second copy is behind".into());
            }
        }
        Some(Err(fault)) => {
            printer.say(format!("second copy  cannot be looked at: {}", fault.0.summary));
            red.push("the second copy cannot be looked at".into());
        }
        None => {}
    }
    let mut restore_seconds = None;
    if let (Some(backup), Some(end)) = (newest, stored) {
        let (words, seconds) = outlook::expected(&reader, backup, end.lsn).await?;
        let objective = wiring.config.objectives.rto;
        let promised = objective.map_or_else(String::new, |rto| format!("; objective {}", duration(rto)));
        printer.say(format!("restore      {words}{promised}"));
        if let Some(late) = seconds.zip(objective).filter(|(seconds, rto)| *seconds > rto.as_secs_f64()).map(|(seconds, _)| seconds) {
            red.push(format!("a restore would take about {}, longer than the objective", duration(Duration::from_secs_f64(late.min(1e9)))));
        }
        restore_seconds = seconds;
    }
    let mut guarded = None;
    let mut lag_seconds = None;
    let lag = match server(&wiring, &reader).await {
        Ok((found, lsn, seen)) => {
            if let Some(epoch) = reader.epoch().filter(|epoch| epoch.system_id != found) {
                let error = reader.epoch_before(found).err().unwrap_or(RepoError::ForeignCluster { ours: epoch.system_id, found });
                printer.say(format!("CRITICAL     {error}: {}", error.detail()));
                printer.say(format!("{:12} → {}", "", error.hint()));
                red.push(error.to_string());
                stored = None;
            }
            let receiver = seen.slot.slot.as_ref().is_some_and(|slot| slot.active);
            let lag = stored.map(|end: StoredEnd| lsn.bytes_since(end.lsn));
            // Without WAL that waits nothing is exposed, however long ago the last commit was.
            let since = stored.and_then(|end| end.last_transaction).filter(|_| lag.is_some_and(|bytes| bytes > 0));
            lag_seconds = match (lag, since) {
                (Some(0), _) => Some(0.0),
                (_, Some(since)) => Some(SystemClock.now().seconds_since(since).max(0.0)),
                _ => None,
            };
            let not_stored = lag.map_or_else(|| "unknown".to_owned(), bytes);
            let commits = since.map_or_else(String::new, |at| {
                format!(", commits of the last {} (since {at})", duration(Duration::from_secs_f64(lag_seconds.unwrap_or_default())))
            });
            printer.say(format!("exposure     {not_stored} of WAL not stored yet{commits}; server at {lsn}"));
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
        "repository": reader.address(), "backups": backups.len(), "epochs": spans, "newest": newest, "wal_stored_to": stored.map(|end| end.lsn),
        "second_copy": copy.and_then(Result::ok).map(|copy| copy.json()), "wal_lag_bytes": lag, "restore_seconds": restore_seconds, "wal_lag_seconds": lag_seconds,
        "slot": guarded.as_ref().map(|g| guard::slot(&g.slot)), "findings": guarded.as_ref().map(|g| guard::findings(&g.findings)), "protected": red.is_empty(), "reasons": red,
    }));
    Ok(if red.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn age(backup: &BackupDocument) -> Duration {
    Duration::from_secs_f64(SystemClock.now().seconds_since(backup.stop.time).max(0.0))
}

/// Which cluster the server is, where it is, and how its slot stands.
async fn server(wiring: &Wiring, reader: &Reader) -> Result<(SystemId, Lsn, Guarded), Fault> {
    let sql = Sql::connect(&wiring.conninfo()?).await?;
    let guarded = guard::look(wiring, &sql, Some(reader)).await?;
    Ok((sql.server_facts().await?.system_id, sql.current_lsn().await?, guarded))
}
