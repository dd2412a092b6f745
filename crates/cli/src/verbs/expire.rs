//! `bowline expire`, `hold` and `unhold`: what retention keeps, and what it lets go.

use crate::args::{Common, ExpireArgs, HoldArgs};
use crate::fault::Fault;
use crate::show::{Printer, bytes};
use crate::verbs::confirm::confirm;
use crate::wiring::Wiring;
use repo::retention::RetentionPlan;
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terms::{BackupId, Clock, SystemClock};
use upkeep::{ExpireOptions, Expired, Swept};

/// How long what was unlisted stays unless told.
const GRACE: Duration = Duration::from_secs(24 * 3600);
/// How long a run may be silent before another one may take its place.
const LEASE_TTL: Duration = Duration::from_secs(60);

pub async fn run(common: &Common, asked: &ExpireArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    let configured = &wiring.config.retention;
    let policy = crate::watching::policy(&wiring.config);
    let plan = upkeep::plan(&wiring.reader().await?, &policy, SystemClock.now()).await?;
    show(&plan, printer);
    if asked.dry_run {
        printer.result(json!({ "plan": plan }));
        return Ok(ExitCode::SUCCESS);
    }
    if plan.expired().next().is_some() {
        confirm("the expiry of these backups", asked.yes, printer)?;
    }
    let holder = format!("{}, process {}", crate::verbs::host(), std::process::id());
    let grace = configured.grace.unwrap_or(GRACE);
    let confirmed = Some(plan.expired().collect());
    let options = ExpireOptions { policy, grace, attempts_grace: grace.max(GRACE), confirmed, holder, lease_ttl: LEASE_TTL };
    let remover = store::open_remover(&wiring.address(), &wiring.store_options()?)?;
    let done = upkeep::expire(&wiring.writer().await?, &*remover, &options, &SystemClock).await?;
    let Expired { unlisted, backups, attempts, wal, pieces, .. } = &done;
    printer.say(match unlisted.len() {
        0 => "no backup was unlisted".to_owned(),
        count => format!("{count} unlisted: {}; their objects go in a later run", list(unlisted)),
    });
    for (what, Swept { objects, bytes: size }) in [
        ("backups that were unlisted earlier", backups),
        ("attempts that never became a backup", attempts),
        ("WAL", wal),
        ("pieces whose segment is stored whole", pieces),
    ] {
        if *objects > 0 {
            let word = if wiring.object_lock().is_some() { "hid (until their locks end)" } else { "removed" };
            printer.say(format!("{word} {objects} objects ({}) of {what}", bytes(*size)));
        }
    }
    if done.uploads > 0 {
        printer.say(format!("ended {} uploads that nobody completed for a day", done.uploads));
    }
    // A measurement a day makes the forecast; a run without one has expired what it should all the same.
    if let Err(fault) = measure(&wiring).await {
        printer.remark(format!("warning: how full the repository is could not be measured: {}", fault.0.summary));
    }
    printer.result(json!(done));
    Ok(ExitCode::SUCCESS)
}

async fn measure(wiring: &Wiring) -> Result<(), Fault> {
    let used = crate::watching::used_bytes(wiring).await?;
    wiring.writer().await?.keep_capacity(SystemClock.now(), used).await?;
    Ok(())
}

fn list(backups: &[BackupId]) -> String {
    backups.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn show(plan: &RetentionPlan, printer: &Printer) {
    for verdict in &plan.verdicts {
        let reasons: Vec<String> = verdict.kept.iter().map(ToString::to_string).collect();
        let (word, why) = if reasons.is_empty() { ("goes", "nothing asks for it any more".to_owned()) } else { ("stays", reasons.join("; ")) };
        printer.say(format!("{:<18} {word:<6} {why}", verdict.backup.to_string()));
    }
    for kept in &plan.wal {
        let end = kept.to.map_or_else(|| "on".to_owned(), |to| format!("to {to}"));
        printer.say(format!("WAL                stays  from {} {end}: {}", kept.from, kept.why));
    }
}

pub async fn hold(common: &Common, asked: &HoldArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    Wiring::new(common)?.writer().await?.hold(asked.backup, &asked.why, SystemClock.now()).await?;
    printer.say(format!("backup {} is held: {}", asked.backup, asked.why));
    printer.result(json!({ "backup": asked.backup, "held": asked.why }));
    Ok(ExitCode::SUCCESS)
}

pub async fn unhold(common: &Common, backup: BackupId, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let was_held = Wiring::new(common)?.writer().await?.unhold(backup, SystemClock.now()).await?;
    printer.say(if was_held { format!("backup {backup} is held no more") } else { format!("backup {backup} was not held") });
    printer.result(json!({ "backup": backup, "was_held": was_held }));
    Ok(ExitCode::SUCCESS)
}
