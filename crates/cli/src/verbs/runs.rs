//! `bowline runs`: the ledger, and one run's log.

use crate::args::{Common, RunsArgs};
use crate::fault::Fault;
use crate::show::{Printer, bytes, duration};
use crate::wiring::Wiring;
use repo::{Run, RunName, RunOutcome};
use serde_json::json;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terms::Class;

/// So many names at least are looked through for those of one job.
const JOB_AMONG: usize = 5000;

pub async fn run(common: &Common, asked: &RunsArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let reader = Wiring::new(common)?.reader().await?;
    if let Some(text) = &asked.run {
        let missing = || Fault::of("run-missing", Class::Missing, format!("the ledger knows no run {text}"), "", "bowline runs lists them.");
        let name = RunName::parse(text).ok_or_else(missing)?;
        let run = reader.run(&name).await?.ok_or_else(missing)?;
        printer.say(line(&name, &run));
        if let Some(ended) = run.ended() {
            ended.log.iter().for_each(|line| printer.say(format!("  {line}")));
            for (word, text) in [("error", &ended.summary), ("detail", &ended.detail), ("hint", &ended.hint)] {
                if let Some(text) = text {
                    printer.say(format!("{word}: {text}"));
                }
            }
        }
        printer.result(match &run {
            Run::Begun(begun) => json!({ "run": text, "begun": begun }),
            Run::Ended(ended) => json!({ "run": text, "ended": ended }),
        });
        return Ok(ExitCode::SUCCESS);
    }
    // Of one job there may be few among many.
    let names = reader.run_names(if asked.job.is_some() { JOB_AMONG } else { asked.last }).await?;
    let wanted: Vec<RunName> = names.into_iter().filter(|name| asked.job.as_deref().is_none_or(|job| name.job() == job)).take(asked.last).collect();
    let runs = reader.runs(&wanted, &BTreeMap::new()).await?;
    for (name, run) in &runs {
        printer.say(line(name, run));
    }
    if runs.is_empty() {
        printer.say("no run is written down yet");
    }
    let list: Vec<_> = runs.iter().map(|(name, run)| watch::run_facts(name, run)).collect();
    printer.result(json!({ "runs": list }));
    Ok(ExitCode::SUCCESS)
}

fn line(name: &RunName, run: &Run) -> String {
    let (how, took, size, why) = match run.ended() {
        None => ("running, or broke off without a word", String::new(), String::new(), ""),
        Some(ended) => (
            match ended.outcome {
                RunOutcome::Ok => "ok",
                RunOutcome::Failed => "FAILED",
                RunOutcome::Refused => "refused",
                RunOutcome::BrokenOff => "BROKE OFF",
            },
            format!(" in {}", duration(Duration::from_secs_f64(ended.ended.seconds_since(ended.began).max(0.0)))),
            ended.bytes.map_or_else(String::new, |size| format!(", {}", bytes(size))),
            ended.summary.as_deref().unwrap_or_default(),
        ),
    };
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    format!("{:<28} {how}{took}{size}{why}", name.to_string())
}
