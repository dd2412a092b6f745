//! `bowline status`: one screen; the exit code is the verdict.

use crate::args::Common;
use crate::fault::Fault;
use crate::show::{Printer, bytes, counted, duration};
use crate::watching::{self, WiredDoors};
use alerts::{Alert, CHANNEL_DEAD, State};
use serde_json::json;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terms::{Alarm, Clock, Judgement, SystemClock, Urgency};
use tokio::time::timeout;
use watch::facts::{BackupFacts, EpochFacts, RepositoryFacts, ServerFacts};
use watch::{Ages, Facts, Look, Watcher};

/// Whoever waits for longer is told for what. A server whose commits hang is watched for 3 s of it.
const REMARK_AFTER: Duration = Duration::from_secs(5);
/// How long what the daemon wrote down may keep what was seen from being shown.
const ALERTS_LIMIT: Duration = Duration::from_secs(5);

/// Rules that are broken by what only the daemon hears: its receiver, its reload.
pub const OF_THE_DAEMON: [&str; 2] = ["wal-held-up", "configuration"];

pub async fn run(common: &Common, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let (facts, judgement) = look(common, printer).await?;
    match &facts.repository {
        Look::Seen(repository) => show_repository(repository, &facts, printer),
        Look::Unseen(trouble) => printer.say(format!("repository   cannot be looked at: {}", trouble.summary)),
    }
    match &facts.second_copy {
        Some(Look::Seen(copy)) => {
            let behind = copy.lag_seconds.map_or_else(|| "how far its WAL is behind is not known".into(), |lag| format!("{} behind", time(lag)));
            let there = copy.backups - copy.backups_missing;
            printer.say(format!("second copy  {}: {behind}, {there} of {} backups are listed there", copy.address, copy.backups));
        }
        Some(Look::Unseen(trouble)) => printer.say(format!("second copy  cannot be looked at: {}", trouble.summary)),
        None => {}
    }
    show_estimate(&facts, printer);
    match &facts.server {
        Look::Seen(server) => show_server(server, &facts, printer),
        Look::Unseen(trouble) => printer.say(format!("server       cannot be reached: {}", trouble.summary)),
    }
    show_rest(&facts, printer);
    for alarm in &judgement.alarms {
        let detail = if alarm.detail.is_empty() { String::new() } else { format!(": {}", alarm.detail) };
        let word = if alarm.urgency == Urgency::Critical { "CRITICAL" } else { "WARN" };
        printer.say(format!("{word:<12} {}{detail}", alarm.summary));
        if !alarm.hint.is_empty() {
            printer.say(format!("{:12} → {}", "", alarm.hint));
        }
    }
    if !judgement.unknown.is_empty() {
        let rules: Vec<&str> = judgement.unknown.iter().map(String::as_str).collect();
        printer.say(format!("not judged   {}", rules.join(", ")));
    }
    let red: Vec<&str> = judgement.alarms.iter().filter(|alarm| alarm.urgency == Urgency::Critical).map(|alarm| alarm.summary.as_str()).collect();
    printer.say(if red.is_empty() { "verdict      protected".to_owned() } else { format!("verdict      NOT PROTECTED: {}", red.join("; ")) });
    printer.result(result(&facts, &judgement, &red));
    Ok(if red.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One observation, judged.
pub async fn look(common: &Common, printer: &Printer) -> Result<(Facts, Judgement), Fault> {
    let doors = Arc::new(WiredDoors::new(common)?);
    let settings = watching::settings(&doors.wiring().config)?;
    let mut watcher = Watcher::new(settings, doors.clone(), Ages::ALWAYS);
    let mut looking = pin!(watcher.look(SystemClock.now(), None, false));
    let facts = match timeout(REMARK_AFTER, looking.as_mut()).await {
        Ok(facts) => facts,
        Err(_) => {
            printer.remark("still looking: a large repository takes minutes to be listed; after one minute the rest is shown without it");
            looking.await
        }
    };
    let mut judgement = watch::judge(&facts);
    if facts.acting.is_some() {
        let kept = async {
            let kept = doors.wiring().alert_shelf().ok()?.state::<State>(None).await.ok()?;
            Some(kept.map(|(state, _)| state).unwrap_or_default())
        };
        take_over(&mut judgement, timeout(ALERTS_LIMIT, kept).await.ok().flatten());
    }
    Ok((facts, judgement))
}

/// Adds what only the daemon hears, by the alerts that it wrote down; `None` where they cannot be read, or not in time.
fn take_over(judgement: &mut Judgement, kept: Option<State>) {
    let Some(state) = kept else {
        return judgement.unknown.extend(OF_THE_DAEMON.into_iter().chain(["wal-gap", CHANNEL_DEAD]).map(str::to_owned));
    };
    // What was seen from here, too, is said once.
    let is_seen = |alarm: &Alarm| judgement.alarms.iter().any(|seen| (&seen.rule, &seen.subject) == (&alarm.rule, &alarm.subject));
    let heard: Vec<Alarm> = of_the_daemon(state).filter(|alarm| !is_seen(alarm)).collect();
    judgement.alarms.extend(heard);
}

/// What fires by the daemon's own judgement and cannot be seen from here.
fn of_the_daemon(state: State) -> impl Iterator<Item = Alarm> {
    let is_its_own = |alert: &Alert| match alert.rule.as_str() {
        "wal-gap" => alert.subject == "received",
        rule => rule == CHANNEL_DEAD || OF_THE_DAEMON.contains(&rule),
    };
    state.alerts.into_iter().filter(move |alert| alert.fires() && is_its_own(alert)).map(|alert| {
        // One that was escalated stayed a warning for long: nothing is less protected by that.
        let urgency = if alert.escalated { Urgency::Warning } else { alert.urgency };
        let Alert { rule, subject, summary, detail, hint, .. } = alert;
        Alarm { rule, subject, urgency, summary, detail, hint }
    })
}

fn time(seconds: f64) -> String {
    duration(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)))
}

fn show_repository(repository: &RepositoryFacts, facts: &Facts, printer: &Printer) {
    printer.say(format!("repository   {}", repository.address));
    match newest(repository) {
        Some(backup) => printer.say(format!("last backup  {} ({} ago), {}", backup.id, time(facts.at.seconds_since(backup.at)), bytes(backup.bytes))),
        None => {
            printer.say("last backup  none");
            if let Some(epoch) = repository.epochs.iter().find(|epoch| epoch.is_present).filter(|_| !repository.backups.is_empty()) {
                printer.say(format!("{:12} → of the present cluster {} (PostgreSQL {}); next: bowline backup", "", epoch.system_id, epoch.major));
            }
        }
    }
    if let Some(stored) = &repository.stored {
        printer.say(format!("WAL stored   {} segments, to {} on timeline {}", stored.segments, stored.lsn, stored.timeline));
    }
    repository.epochs.iter().for_each(|epoch| show_epoch(epoch, repository, printer));
}

fn newest(repository: &RepositoryFacts) -> Option<&BackupFacts> {
    repository.newest()
}

fn show_epoch(epoch: &EpochFacts, repository: &RepositoryFacts, printer: &Printer) {
    let (Some(from), Some(lsn)) = (epoch.restorable_from, epoch.restorable_from_lsn) else { return };
    let whose = if epoch.is_present { String::new() } else { format!(", PostgreSQL {} (cluster {})", epoch.major, epoch.system_id) };
    let until = epoch.covered_until_lsn.zip(epoch.covered_until).map_or_else(String::new, |(lsn, time)| format!("; complete at {lsn} ({time})"));
    let hole = repository.stored.as_ref().and_then(|stored| stored.hole.as_ref()).filter(|_| epoch.is_present);
    let but = hole.map_or_else(String::new, |segment| format!(", but nothing that needs segment {segment}, which is missing"));
    printer.say(format!("restorable   from {from} ({lsn}){until}{but}{whose}"));
    if epoch.backups_alone > 0 {
        printer.say(format!("{:12} and {}, each to its own end", "", counted(epoch.backups_alone, "older backup")));
    }
}

fn show_estimate(facts: &Facts, printer: &Printer) {
    let Some(repository) = facts.repository.seen().filter(|repository| newest(repository).is_some() && repository.stored.is_some()) else { return };
    let objective = time(facts.objectives.rto_seconds);
    printer.say(match &repository.restore {
        Some(estimate) => format!(
            "restore      about {}: {} for the files, {} for WAL, by the drill of {}; objective {objective}",
            time(estimate.seconds),
            time(estimate.files_seconds),
            time(estimate.replay_seconds),
            estimate.by
        ),
        None => format!("restore      {}", super::outlook::NOT_MEASURED),
    });
    if let Some(drill) = repository.drills.first() {
        printer.say(format!(
            "last drill   {} ({} ago): {}, {} tables, {} rows",
            drill.at,
            time(facts.at.seconds_since(drill.at)),
            drill.outcome,
            drill.tables,
            drill.rows
        ));
    }
}

fn show_server(server: &ServerFacts, facts: &Facts, printer: &Printer) {
    let not_stored = server.wal_lag_bytes.map_or_else(|| "unknown".to_owned(), bytes);
    let waits = server.wal_lag_bytes.is_some_and(|bytes| bytes > 0);
    let commits = server.wal_lag_seconds.filter(|_| waits).map_or_else(String::new, |lag| format!(", commits of the last {}", time(lag)));
    let promised = time(facts.objectives.rpo_seconds);
    printer.say(format!("exposure     {not_stored} of WAL not stored yet{commits}; objective {promised}; server at {}", server.lsn));
    let slot = &server.slot;
    printer.say(match (slot.active, server.is_archived) {
        (true, _) => "receiver     streaming",
        (false, Some(true)) => "receiver     none: the server's archive_command stores WAL here",
        (false, None) if !slot.exists => "receiver     none: whether the server's archive_command stores WAL here is not known yet",
        (false, _) => "receiver     NOT RUNNING on the configured slot",
    });
    let held = slot.held_bytes.map_or_else(|| "nothing".to_owned(), bytes);
    let state = if slot.exists { slot.wal_status.as_deref().unwrap_or("unused") } else { "missing" };
    printer.say(format!("slot         {} ({state}), holds {held} of WAL on the server", slot.name));
}

fn show_rest(facts: &Facts, printer: &Printer) {
    match &facts.capacity {
        Some(Look::Seen(capacity)) => {
            let share = capacity.used_bytes as f64 / capacity.limit_bytes.max(1) as f64 * 100.0;
            let forecast = capacity.days_to_full.map_or_else(String::new, |days| format!(", full in {days:.0} days"));
            let measured =
                capacity.history.last().filter(|_| capacity.kind == "quota").map_or_else(String::new, |last| format!(", measured {}", last.at));
            printer.say(format!("room         {share:.0} % of {} used ({}{measured}){forecast}", bytes(capacity.limit_bytes), capacity.kind));
        }
        Some(Look::Unseen(trouble)) => printer.say(format!("room         not known: {}", trouble.summary)),
        None => {}
    }
    for job in facts.jobs.iter().filter(|job| job.last.is_some()) {
        let Some(last) = &job.last else { continue };
        let next = job.next.filter(|_| facts.acting.is_some()).map_or_else(String::new, |next| format!("; next {next}"));
        printer.say(format!("{:<12} {} {}{next}", format!("job {}", job.name), last.began, last.outcome));
    }
    if let Some(acting) = &facts.acting {
        printer.say(format!("daemon       {acting}"));
    }
}

fn result(facts: &Facts, judgement: &Judgement, red: &[&str]) -> serde_json::Value {
    let repository = facts.repository.seen();
    let server = facts.server.seen();
    let findings: Vec<_> = server.map(|server| json!(server.findings)).into_iter().collect();
    json!({
        "repository": repository.map(|repository| &repository.address), "backups": repository.map_or(0, |repository| repository.backups.len()),
        "epochs": repository.map(|repository| repository.epochs.iter().map(epoch_json).collect::<Vec<_>>()), "newest": repository.and_then(newest),
        "wal_stored_to": repository.and_then(|repository| repository.stored.as_ref()).map(|stored| stored.lsn),
        "second_copy": facts.second_copy.as_ref().and_then(Look::seen).map(|copy| json!({
            "address": copy.address, "lag_seconds": copy.lag_seconds, "missing": copy.backups_missing, "late": copy.is_late,
        })),
        "wal_lag_bytes": server.and_then(|server| server.wal_lag_bytes), "wal_lag_seconds": server.and_then(|server| server.wal_lag_seconds),
        "restore_seconds": repository.and_then(|repository| repository.restore.as_ref()).map(|estimate| estimate.seconds),
        "slot": server.map(|server| &server.slot), "findings": findings.first(), "rpo_seconds": watch::rpo_seconds(facts),
        "alarms": judgement.alarms, "unknown": judgement.unknown, "protected": red.is_empty(), "reasons": red, "facts": facts,
    })
}

fn epoch_json(epoch: &EpochFacts) -> serde_json::Value {
    json!({
        "system_id": epoch.system_id, "major": epoch.major, "since": epoch.since, "present": epoch.is_present, "backups": epoch.backups,
        "restorable_from": epoch.restorable_from, "covered_until": epoch.covered_until,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_daemon_what_fires_and_cannot_be_seen_from_here_is_taken_over() {
        let alert = |rule: &str, subject: &str, resolved: Option<&str>| {
            json!({ "rule": rule, "subject": subject, "urgency": "critical", "escalated": rule == "configuration", "summary": "s", "detail": "", "hint": "",
                "since": "2026-11-26T12:00:00Z", "silenced_by": null, "told": null, "peak": null, "resolved": resolved, "resolved_told": null })
        };
        let state: State = serde_json::from_value(json!({ "alerts": [
            alert("wal-held-up", "", None), alert("wal-gap", "received", None), alert("wal-gap", "audit", None), alert("configuration", "", None),
            alert("channel-dead", "slack", None), alert("channel-dead", "mail", Some("2026-11-26T13:00:00Z")), alert("receiver", "", None),
        ] }))
        .expect("a state");
        let found: Vec<(String, Urgency)> = of_the_daemon(state).map(|alarm| (alarm.rule, alarm.urgency)).collect();
        let rules: Vec<&str> = found.iter().map(|(rule, _)| rule.as_str()).collect();
        assert_eq!(rules, ["wal-held-up", "wal-gap", "configuration", "channel-dead"]);
        assert_eq!(found.iter().filter(|(_, urgency)| *urgency == Urgency::Critical).count(), 3, "it stayed a warning for long, no more");
    }
    #[test]
    fn what_the_daemon_wrote_down_and_cannot_be_read_is_not_judged_and_hides_nothing_that_was_seen() {
        let alarm = |rule: &str| {
            let text = String::new;
            Alarm { rule: rule.to_owned(), subject: text(), urgency: Urgency::Critical, summary: text(), detail: text(), hint: text() }
        };
        let mut judgement = Judgement { alarms: vec![alarm("server")], ..Judgement::default() };
        take_over(&mut judgement, None);
        assert_eq!(judgement.alarms, [alarm("server")]);
        let unknown: Vec<&str> = judgement.unknown.iter().map(String::as_str).collect();
        assert_eq!(unknown, ["channel-dead", "configuration", "wal-gap", "wal-held-up"]);
    }
}
