//! `bowline expire`: what retention keeps of backups and of snapshots of packages, and what it lets go.

mod apart;

pub use apart::Apart;

use crate::args::{Common, ExpireArgs};
use crate::fault::Fault;
use crate::show::{Printer, bytes};
use crate::verbs::confirm::confirm;
use crate::watching::old_versions;
use crate::wiring::Wiring;
use repo::retention::{Reason, SnapshotVerdict};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use store::OldVersions;
use terms::{BackupId, Clock, SystemClock};
use upkeep::{Confirmed, ExpireOptions, Expired, Plans, Swept, UpkeepError};

/// How long what was unlisted stays unless told.
const GRACE: Duration = Duration::from_secs(24 * 3600);
/// How long a run may be silent before another one may take its place.
const LEASE_TTL: Duration = Duration::from_secs(60);

pub async fn run(common: &Common, asked: &ExpireArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    let policy = crate::watching::policy(&wiring.config);
    let plans = upkeep::plans(&wiring.reader().await?, &policy, None, SystemClock.now()).await?;
    show(&plans, printer);
    if plans.is_believed {
        printer.remark(
            "note: no key opens this repository here, so that its list of backups was believed; a run that removes something proves it first",
        );
    }
    // Whatever is wrong with the repository of the snapshots, the backups expire.
    let apart = Apart::of(&wiring);
    let of_apart = match &apart {
        Ok(Some(apart)) => Some(apart.plans(&policy, plans.reachable.clone()).await),
        Ok(None) => None,
        Err(_) => None,
    };
    if let (Ok(Some(apart)), Some(Ok(plans))) = (&apart, &of_apart) {
        printer.say(format!("in {}", apart.address()));
        show(plans, printer);
    }
    if asked.dry_run {
        let (mut result, mut proven) = (json!(plans), plans.proven());
        apart?;
        if let Some(of_apart) = of_apart {
            let of_apart = of_apart?;
            result["apart"] = json!(of_apart);
            proven = proven.and(of_apart.proven());
        }
        return end(proven, result, printer);
    }
    let confirmed = plans.expired();
    let confirmed_apart = match &of_apart {
        Some(Ok(plans)) => plans.expired(),
        _ => Confirmed::default(),
    };
    if [&confirmed, &confirmed_apart].iter().any(|confirmed| !confirmed.backups.is_empty() || !confirmed.snapshots.is_empty()) {
        confirm("the expiry of what goes", asked.yes, printer)?;
    }
    let grace = wiring.config.retention.grace.unwrap_or(GRACE);
    let options = ExpireOptions {
        policy,
        grace,
        attempts_grace: grace.max(GRACE),
        confirmed: Some(confirmed),
        elsewhere: None,
        holder: format!("{}, process {}", crate::verbs::host(), std::process::id()),
        lease_ttl: LEASE_TTL,
    };
    let remover = store::open_remover(&wiring.address(), &wiring.store_options()?)?;
    let done = upkeep::expire(&wiring.writer().await?, &*remover, &options, &SystemClock).await?;
    let kept = old_versions(&wiring.address(), &wiring.store_options()?).await;
    tell(&done, wiring.object_lock().is_some(), kept.as_ref(), printer);
    // A measurement a day makes the forecast; a run without one has expired what it should all the same.
    if let Err(fault) = measure(&wiring, kept.as_ref()).await {
        printer.remark(format!("warning: how full the repository is could not be measured: {}", fault.0.summary));
    }
    let mut result = json!(done);
    result["old_versions"] = json!(kept);
    let mut proven = done.plans.proven();
    let told = |fault: Fault, result: Value| fault.with("result", result);
    match (apart, of_apart) {
        (Err(fault), _) | (_, Some(Err(fault))) => return Err(told(fault, result)),
        (Ok(Some(apart)), Some(Ok(_))) => {
            let options = ExpireOptions { confirmed: Some(confirmed_apart), ..options };
            match apart.expire(options, done.plans.reachable.clone()).await {
                Err(fault) => return Err(told(fault, result)),
                Ok(done) => {
                    printer.say(format!("in {}", apart.address()));
                    let kept = apart.old_versions().await?;
                    tell(&done, false, kept.as_ref(), printer);
                    result["apart"] = json!(done);
                    result["apart"]["old_versions"] = json!(kept);
                    proven = proven.and(done.plans.proven());
                }
            }
        }
        (Ok(_), _) => {}
    }
    end(proven, result, printer)
}

/// Ends with what was done or is planned; where something is not proven, with the error that names it, so that somebody hears of it.
fn end(proven: Result<(), UpkeepError>, result: Value, printer: &Printer) -> Result<ExitCode, Fault> {
    proven.map_err(|e| Fault::from(e).with("result", result.clone()))?;
    printer.result(result);
    Ok(ExitCode::SUCCESS)
}

async fn measure(wiring: &Wiring, kept: Option<&OldVersions>) -> Result<(), Fault> {
    let used = crate::watching::used_bytes(wiring).await?;
    wiring.writer().await?.keep_capacity(SystemClock.now(), used, kept).await?;
    Ok(())
}

fn list(ids: &[BackupId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What was done; `kept`: the bucket keeps versions, so that what is removed is hidden, and free only later.
fn tell(done: &Expired, is_locked: bool, kept: Option<&OldVersions>, printer: &Printer) {
    let is_kept = kept.is_some_and(OldVersions::are_kept);
    let later = if is_kept { "are hidden" } else { "go" };
    for (what, none, unlisted) in [
        ("backups", done.plans.backups.is_some(), &done.unlisted),
        ("snapshots of packages", !done.plans.snapshots.verdicts.is_empty(), &done.unlisted_snapshots),
    ] {
        match unlisted.len() {
            0 if none => printer.say(format!("none of the {what} was unlisted")),
            0 => {}
            count => printer.say(format!("{count} {what} unlisted: {}; their objects {later} in a later run", list(unlisted))),
        }
    }
    let mut is_hidden = false;
    for (what, Swept { objects, bytes: size }) in [
        ("backups that were unlisted earlier", &done.backups),
        ("snapshots that were unlisted earlier", &done.snapshots),
        ("attempts that never became a backup or snapshot", &done.attempts),
        ("keys of such attempts", &done.keys),
        ("WAL", &done.wal),
        ("pieces whose segment is stored whole", &done.pieces),
    ] {
        if *objects > 0 {
            let word = match (is_locked, is_kept) {
                (true, _) => "hid (until their locks end)",
                (false, true) => "hid",
                (false, false) => "removed",
            };
            is_hidden |= kept.is_some();
            printer.say(format!("{word} {objects} objects ({}) of {what}", bytes(*size)));
        }
    }
    if let Some(kept) = kept.filter(|_| is_hidden) {
        printer.say(kept.fate());
    }
    for (folder, at) in &done.unlisted_whole {
        let whose = "an attempt that broke off at its end, or a backup whose listing somebody removed";
        printer.say(format!(
            "{folder} has a manifest and no listing ({whose}): it goes after {at}, unless backup.json comes back from a copy of the store"
        ));
    }
    if done.uploads > 0 {
        printer.say(format!("ended {} uploads that got nothing for a week", done.uploads));
    }
}

fn show(plans: &Plans, printer: &Printer) {
    let say = |name: String, kept: &[Reason], goes: String| {
        let reasons: Vec<String> = kept.iter().map(ToString::to_string).collect();
        let (word, why) = if reasons.is_empty() { ("goes", goes) } else { ("stays", reasons.join("; ")) };
        printer.say(format!("{name:<18} {word:<6} {why}"));
    };
    let nothing = || "nothing asks for it any more".to_owned();
    if let Some(plan) = &plans.backups {
        plan.verdicts.iter().for_each(|verdict| say(verdict.backup.to_string(), &verdict.kept, nothing()));
        for kept in &plan.wal {
            let end = kept.to.map_or_else(|| "on".to_owned(), |to| format!("to {to}"));
            printer.say(format!("WAL                stays  from {} {end}: {}", kept.from, kept.why));
        }
    }
    if !plans.snapshots.verdicts.is_empty() {
        printer.say("snapshots of packages:");
    }
    for SnapshotVerdict { snapshot, kept, needed_by, .. } in &plans.snapshots.verdicts {
        let goes = needed_by
            .map_or_else(nothing, |by| format!("nothing asks for it any more; its packs stay as long as snapshots such as {by} refer to them"));
        say(snapshot.to_string(), kept, goes);
    }
}
