//! `bowline packages restore`, and the same as a step of restoring everything.

use crate::args::PackagesRestoreArgs;
use crate::fault::Fault;
use crate::show::{Printer, bytes, duration, rate};
use crate::verbs::confirm::confirm;
use crate::wiring::Wiring;
use checks::Referred;
use packages::{PackagesError, Place, RestoreReport, RestoreWish, Source};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use store::{Site, StoreOptions};
use terms::{Advice, Explain, Timestamp};

/// Objects that are brought back at once.
const JOBS: usize = 16;

pub async fn run(wiring: &Wiring, asked: &PackagesRestoreArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let settings = super::settings(wiring)?;
    let reader = super::snapshots(wiring).await?;
    let mut source = Source::choose(&settings, reader.as_ref(), asked.to).await?;
    source.measure(&settings, asked.to).await;
    let into = match &asked.into {
        None => settings.primary.clone(),
        // Another region, another endpoint: its url says which.
        Some(url) => Place { url: url.clone(), options: StoreOptions { region: None, endpoint: None, ..settings.primary.options.clone() } },
    };
    let is_primary = asked.into.is_none();
    let wish = RestoreWish { at: asked.to, into, hides_newer: asked.hide_newer, is_primary, jobs: asked.jobs.map_or(JOBS, usize::from) };
    let planned = packages::plan(&source, &wish).await?;
    show(&planned, false, printer);
    if asked.plan {
        printer.result(json!({ "plan": planned }));
        return Ok(ExitCode::SUCCESS);
    }
    confirm("the restore of the packages", asked.yes, printer)?;
    let report = packages::restore(&source, &wish, printer.clone()).await?;
    printer.finish();
    printer.say("");
    show(&report, true, printer);
    if let Err(error) = report.complete() {
        return Err(Fault::from(error).with("packages", json!(report)));
    }
    printer.result(json!(report));
    Ok(ExitCode::SUCCESS)
}

/// Whether packages come back with the database.
pub fn is_configured(wiring: &Wiring) -> bool {
    wiring.config.packages.as_ref().is_some_and(|packages| packages.replica.is_some() || packages.snapshots.is_some())
}

/// Brings the packages back to the primary as of the instant to which the database was recovered.
pub async fn restore_beside(wiring: &Wiring, at: Timestamp, referred: Option<Referred>, printer: &Arc<Printer>) -> Result<Value, Advice> {
    let told = |fault: Fault| fault.0;
    let settings = super::settings(wiring).map_err(told)?;
    let reader = super::snapshots(wiring).await.map_err(told)?;
    let advice = |error: PackagesError| error.advice();
    let mut source = Source::choose(&settings, reader.as_ref(), at).await.map_err(advice)?;
    source.measure(&settings, at).await;
    let wish = RestoreWish { at, into: settings.primary, hides_newer: false, is_primary: true, jobs: JOBS };
    let report = packages::restore(&source, &wish, printer.clone()).await.map_err(advice)?;
    report.complete().map_err(advice)?;
    let mut told = json!(report);
    match referred {
        Some(Ok(rows)) => {
            // Against what is there now as of then: the primary may have kept what the copy lacks.
            let target = Site::open(&wish.into.url, &wish.into.options).map_err(|error| error.advice())?;
            let there = packages::as_restored(&source, &target, &wish).await.map_err(advice)?;
            told["agreement"] = json!(super::agreement::compare(there, rows).await?);
        }
        Some(Err(why)) => told["agreement_unknown"] = json!(why.what),
        None => {}
    }
    Ok(told)
}

fn show(report: &RestoreReport, is_done: bool, printer: &Printer) {
    let at = report.at.map_or_else(String::new, |at| at.to_string());
    printer.say(format!("packages     {} as of {at}, from {}", report.target, report.source));
    printer.say(format!("were there   {} objects, {}", report.keys, bytes(report.bytes)));
    printer.say(format!("right        {} already", report.same));
    if report.kept > 0 {
        printer
            .say(format!("kept         {} that the primary has from before that, and the copy lacks: newer than the copy, and right", report.kept));
    }
    let (verb, other) = if is_done { ("brought back", "replaced") } else { ("to bring back", "to replace") };
    printer.say(format!("{verb:<12} {} that are gone; {other} {} that are different now", report.absent, report.different));
    if report.newer > 0 {
        let what = if report.newer_hidden > 0 { "hidden" } else { "left as they are (--hide-newer hides them)" };
        printer.say(format!("newer        {} objects came after that: {what}", report.newer));
    }
    doubts(report, printer);
    if let Some(aside) = &report.aside {
        printer.say(format!("aside        {}: what was in the way", aside.display()));
    }
    if report.failed > 0 {
        printer.say(format!("FAILED       {} objects, the first one: {}", report.failed, report.first_failure.as_deref().unwrap_or_default()));
    }
    if is_done {
        let took = Duration::from_secs_f64(report.took_seconds);
        printer.say(format!("took         {}, {}", duration(took), rate(report.bytes_written, took)));
    }
}

/// What the copy cannot say for certain.
pub fn doubts(report: &RestoreReport, printer: &Printer) {
    if report.uncertain > 0 {
        printer.say(format!(
            "uncertain    {} were overwritten or removed between two snapshots, nobody knows when; they count as there",
            report.uncertain
        ));
    }
    if report.untold > 0 {
        printer.say(format!("untold       {} were written after that; whether there was another version before nobody knows", report.untold));
    }
    if report.doubtful > 0 {
        printer.say(format!(
            "doubtful     {} files that are in the way or newer have a time before that: a file's time proves nothing",
            report.doubtful
        ));
    }
    if let Some((until, seconds)) = report.complete_until.zip(report.unknown_seconds.filter(|seconds| *seconds > 0.0)) {
        let span = duration(Duration::from_secs_f64(seconds));
        printer.say(format!("unknown      the copy is complete up to {until}: what was written in the last {span} before may be missing in it"));
    }
    if report.complete_until.is_none() {
        printer.say("unknown      how far the copy is complete: the primary cannot be listed, or has nothing from before that to compare it with");
    }
}
