//! What a restore came to, printed: what is restored, lost, running and protected, and how long it took.

use crate::args::RestoreArgs;
use crate::show::{Printer, bytes, duration, rate};
use crate::verbs::{damage, outside};
use crate::wiring::Wiring;
use rescue::{RescueReport, Started};
use restore::{Detour, PlanSummary, RestorePlan, RestoreReport, Target};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

pub fn show(printer: &Printer, wiring: &Wiring, plan: Option<PlanSummary>, target: &Target, report: &RescueReport, asked: &RestoreArgs) {
    let journal = &report.journal;
    // By the journal: a run that goes on behind the recovery planned nothing.
    let taken = journal.detour.as_ref();
    let took = |name: &str| journal.steps.iter().filter(|(step, _)| step == name).map(|(_, seconds)| seconds).sum::<f64>();
    let copy = Duration::from_secs_f64(took(terms::Step::CopyFiles.name()));
    printer.say("");
    let (size, speed) = (bytes(journal.bytes), rate(journal.bytes, copy));
    printer.say(format!("restored     {} files, {size} in {} ({speed})", journal.files, duration(copy)));
    if journal.bytes_kept > 0 {
        let fetched = journal.bytes.saturating_sub(journal.bytes_kept);
        let (kept, fetched, written) = (bytes(journal.bytes_kept), bytes(fetched), bytes(journal.bytes_written));
        printer.say(format!("kept         {kept} that was right already, fetched {fetched}, wrote {written}"));
    }
    if let Some(recovered) = &journal.recovered {
        printer.say(format!("recovered    to {}, now timeline {}", recovered.lsn, recovered.timeline));
        if let Some(at) = &recovered.last_transaction {
            printer.say(format!("last change  {at}"));
        }
    }
    if !journal.validated {
        printer.say("validated    NO: it was not asked, or did not answer as it should");
    }
    for (database, stale) in &journal.stale_collations {
        let number = stale.indexes.len();
        printer.say(format!("reindex      database {database}: {}; {number} indexes by it may miss rows:", stale.words()));
        printer.say(format!("             {}", stale.remedy(database)));
    }
    if let Some(packages) = &journal.packages {
        let number = |name: &str| packages[name].as_u64().unwrap_or_default();
        let (back, size) = (number("absent") + number("different"), bytes(number("bytes_written")));
        let at = packages["at"].as_str().unwrap_or_default();
        let why = if taken.is_some_and(restore::Detour::leads_elsewhere) { ", where the database ended" } else { "" };
        printer.say(format!("packages     {} as of {at}{why}: {back} brought back ({size}), {} were right", number("keys"), number("same")));
        if let Ok(report) = serde_json::from_value::<packages::RestoreReport>(packages.clone()) {
            crate::verbs::packages::doubts(&report, printer);
        }
        if let Ok(found) = serde_json::from_value(packages["agreement"].clone()) {
            printer.say(format!("agreement    {}", crate::verbs::packages::words(&found)));
        }
        if let Some(why) = packages["agreement_unknown"].as_str() {
            printer.say(format!("agreement    NOT COMPARED: {why}"));
        }
    }
    let objectives = &wiring.config.objectives;
    let (rpo, rto) = (objectives.rpo(), objectives.rto());
    match taken {
        Some(taken) => damage::show_loss(printer, taken),
        None => printer.say(format!("lost         {}{}", report.loss.why, verdict("RPO", report.loss.seconds_max, rpo))),
    }
    let lost = taken.is_none().then(|| json!({"seconds_max": report.loss.seconds_max, "why": report.loss.why, "rpo_seconds": rpo.as_secs_f64()}));
    if let Some(aside) = &journal.aside {
        printer.say(format!("old data     {}: remove it once nothing of it is missed", aside.display()));
        if let Some(wal) = restore::linked_wal(aside) {
            let (pg_wal, wal) = (target.data_dir.join("pg_wal"), target.data_dir.join(wal));
            printer.say(format!("pg_wal       was a link to {} and is a directory now; for the log to lie there again", wal.display()));
            printer.say(format!("             stop PostgreSQL, mv {0} {1}.new && ln -s {1}.new {0}", pg_wal.display(), wal.display()));
        }
    }
    if !matches!(report.started, Started::Privately { .. }) {
        outside::show(printer, target, journal);
    }
    let socket_dir: Option<&Path> = match &report.started {
        Started::No => None,
        Started::Normally => {
            printer.say(format!("server       running on {}", target.data_dir.display()));
            None
        }
        Started::Privately { socket_dir } => {
            printer.say(format!("server       running privately: psql -h {}", socket_dir.display()));
            Some(socket_dir)
        }
    };
    let is_in_place = report.started == Started::Normally;
    if is_in_place {
        match report.seconds_to_serve() {
            Some(seconds) => printer.say(format!("serving      since {}{}", at(journal.serving_since), verdict("RTO", Some(seconds), rto))),
            None => printer.say("serving      NO: see below"),
        }
    }
    let in_all = Duration::from_secs_f64(report.ended.seconds_since(journal.began).max(0.0));
    printer.say(format!("took         {}", duration(in_all)));
    let is_protected = journal.flowing_since.is_some() && journal.full.is_some();
    if journal.epoch_ended.is_some() && journal.recovered.is_some() {
        printer.say("next         to go on with this cluster of an earlier epoch, give it a repository of its own: another url or org,");
        printer.say("             bowline init, bowline backup; this repository takes nothing more of it");
    } else if is_in_place {
        match &journal.full {
            Some((backup, since)) if is_protected => {
                printer.say(format!("protected    again at {since}, by backup {backup} and WAL on the new timeline"))
            }
            _ if asked.no_protect => printer.say("protected    NO: start bowline wal receive, then make a full backup (bowline backup)"),
            _ => printer.say("protected    NO: see below; the same command goes on where this one ended"),
        }
    }
    for advice in &report.open {
        printer.say(format!("OPEN         {}: {}", advice.summary, advice.detail));
    }
    let steps: Vec<Value> = journal.steps.iter().map(|(step, seconds)| json!({"step": step, "seconds": seconds})).collect();
    let recovered = journal
        .recovered
        .as_ref()
        .map(|r| json!({"lsn": r.lsn, "timeline": r.timeline, "last_transaction": r.last_transaction, "waited_seconds": r.waited_seconds}));
    printer.result(json!({
        "plan": plan, "target": target.data_dir, "moved_aside": journal.aside, "files": journal.files, "bytes": journal.bytes,
        "bytes_kept": journal.bytes_kept, "bytes_written": journal.bytes_written,
        "recovered": recovered, "validated": journal.validated, "steps": steps, "seconds": in_all.as_secs_f64(), "running": report.started != Started::No,
        "socket_dir": socket_dir, "salvaged": journal.salvaged.map(|(from, to)| json!({"from": from, "to": to})),
        "packages": journal.packages, "config": outside::json(journal),
        "stale_collations": journal.stale_collations.iter().map(|(database, stale)| json!({"database": database, "collation": stale.collation,
            "recorded": stale.recorded, "here": stale.here, "indexes": stale.indexes, "remedy": stale.remedy(database)})).collect::<Vec<_>>(),
        "lost": lost, "loss": taken.map(damage::loss_json),
        "serving_seconds": report.seconds_to_serve(), "rto_seconds": rto.as_secs_f64(), "protected": is_protected,
        "backup": journal.full.as_ref().map(|(backup, _)| backup), "protected_at": journal.full.as_ref().map(|(_, at)| at).filter(|_| is_protected),
        "open": report.open.iter().map(|advice| json!({"slug": advice.slug, "summary": advice.summary})).collect::<Vec<_>>(),
    }));
}

/// An objective and whether it was met; nothing where nobody can tell.
fn verdict(name: &str, seconds: Option<f64>, objective: Duration) -> String {
    let Some(seconds) = seconds else { return format!(" ({name} unknown, objective {})", duration(objective)) };
    let is_met = if seconds <= objective.as_secs_f64() { "met" } else { "MISSED" };
    format!(" ({name} {}, objective {}: {is_met})", duration(Duration::from_secs_f64(seconds)), duration(objective))
}

fn at(time: Option<terms::Timestamp>) -> String {
    time.map_or_else(String::new, |time| time.to_string())
}

/// What restoring the files alone came to.
pub fn show_files(printer: &Printer, plan: &RestorePlan, target: &Target, report: &RestoreReport, taken: Option<&Detour>) {
    printer.say("");
    let (size, speed) = (bytes(report.restored.bytes), rate(report.restored.bytes, report.took));
    printer.say(format!("restored     {} files, {size} in {} ({speed})", report.restored.files, duration(report.took)));
    if let Some(taken) = taken {
        damage::show_loss(printer, taken);
    }
    if let Some(aside) = &report.moved_aside {
        printer.say(format!("old data     {}", aside.display()));
    }
    printer.say("next         start the server: it recovers by itself, with the settings in postgresql.auto.conf");
    let steps: Vec<Value> = report.steps.iter().map(|(step, took)| json!({"step": step.name(), "seconds": took.as_secs_f64()})).collect();
    printer.result(json!({
        "plan": plan.summary(), "target": target.data_dir, "moved_aside": report.moved_aside, "files": report.restored.files,
        "bytes": report.restored.bytes, "bytes_kept": report.restored.bytes_kept, "bytes_written": report.restored.bytes_written, "recovered": null, "steps": steps, "seconds": report.took.as_secs_f64(), "running": false, "socket_dir": null, "loss": taken.map(damage::loss_json),
    }));
}
