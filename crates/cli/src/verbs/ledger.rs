//! Writes down in the repository that a job began and how it ended, whoever ran it.

use crate::args::{Common, PackagesVerb, Verb, WalVerb};
use crate::fault::Fault;
use crate::show::Printer;
use crate::telling::{self, Ending};
use crate::wiring::Wiring;
use repo::{RunBegun, RunEnded, RunName, RunOutcome, Writer};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terms::{Class, Clock, SystemClock};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// How long the ledger may keep a job from beginning or ending.
const LIMIT: Duration = Duration::from_secs(20);
/// A result larger than this is shortened: that the run came to one decides how it is judged.
const RESULT_BYTES_MAX: usize = 64 << 10;
/// Set by the daemon for the commands that it starts.
pub const BY_DAEMON: &str = "BOWLINE_DAEMON";

/// Set by the units of timers, for those who run no daemon.
const BY_TIMER: &str = "BOWLINE_SCHEDULED";

/// Under which job a command is written down; `None` for what is none.
pub fn job(verb: &Verb) -> Option<&'static str> {
    // Looked at by hand these say something about the moment, and nothing about the schedule.
    let is_on_schedule = std::env::var_os(BY_DAEMON).is_some() || std::env::var_os(BY_TIMER).is_some();
    match verb {
        Verb::Backup(_) => Some("backup"),
        Verb::Verify(asked) if !asked.no_record => Some("drill"),
        Verb::Expire(asked) if !asked.dry_run => Some("expire"),
        Verb::Scrub(_) => Some("scrub"),
        Verb::Restore(asked) if asked.plan.is_none() && asked.target.is_none() && !asked.files_only => Some("restore"),
        Verb::Packages { verb: PackagesVerb::Snapshot } => Some("packages"),
        Verb::Check if is_on_schedule => Some("check"),
        Verb::Wal { verb: WalVerb::Audit(_) } if is_on_schedule => Some("audit"),
        _ => None,
    }
}

/// Does the work and writes it down. A repository that cannot be written to keeps no job from being done: that is told beside.
pub async fn recorded(
    common: &Common,
    job: &'static str,
    printer: &Arc<Printer>,
    work: impl Future<Output = Result<ExitCode, Fault>>,
) -> Result<ExitCode, Fault> {
    let by = match std::env::var_os(BY_DAEMON) {
        Some(_) => format!("{} {}", watch::DAEMON_ON, super::host()),
        None => format!("a command on {}, process {}", super::host(), std::process::id()),
    };
    let begun = RunBegun::new(job, SystemClock.now(), by);
    let page = match timeout(LIMIT, open(common, &begun)).await {
        Ok(Ok(page)) => Some(page),
        // The work opens the same repository, and says what is wrong with it; where nothing is, that is said at the end.
        Ok(Err(_)) | Err(_) => None,
    };
    if let Some((_, name)) = &page {
        printer.begins_run(&name.to_string());
    }
    let signals = |kind| signal(kind).map_err(|e| Fault::of("no-signals", Class::Bug, "cannot listen for signals", format!("{e}."), ""));
    // A person at a prompt ends the command as any other: the question is waited for where no signal is heard.
    let is_asked = std::io::IsTerminal::is_terminal(&std::io::stdin());
    let mut term = signals(SignalKind::terminate())?;
    let mut int = if is_asked { None } else { Some(signals(SignalKind::interrupt())?) };
    let interrupted_by_key = async {
        match &mut int {
            Some(int) => int.recv().await,
            None => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        _ = term.recv() => Err(interrupted(job)),
        _ = interrupted_by_key => Err(interrupted(job)),
    };
    if std::env::var_os(BY_DAEMON).is_none()
        && let Ok(wiring) = Wiring::new(common)
    {
        let name = page.as_ref().map(|(_, name)| name.to_string());
        let ending = match &outcome {
            Ok(code) if *code == ExitCode::SUCCESS => Some(Ending::Well),
            Ok(_) => Some(Ending::Badly),
            // Another run is under way, or somebody typed it wrongly, said no, or gave up: nothing of that says anything of the job.
            Err(fault) if matches!(fault.0.class, Class::Held | Class::Misuse) || ["interrupted", "not-confirmed"].contains(&fault.0.slug) => None,
            Err(fault) => Some(Ending::Failed(fault)),
        };
        if let Some(ending) = ending {
            for channel in telling::tell_of(&wiring, job, name.as_deref(), ending).await {
                printer.remark(format!("warning: {channel} was not told how this ended: see bowline alert list"));
            }
        }
    }
    if page.is_none() && outcome.is_ok() {
        printer.remark("warning: this run is not in the ledger: the repository could not be written to when it began");
    }
    if let Some((writer, name)) = page {
        let ended = describe(begun, &outcome, printer);
        match timeout(LIMIT, writer.end_run(&name, &ended)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => printer.remark(format!("warning: how this run ended is not in the ledger: {e}")),
            Err(_) => printer.remark("warning: how this run ended is not in the ledger: the repository does not answer"),
        }
    }
    outcome
}

async fn open(common: &Common, begun: &RunBegun) -> Result<(Writer, RunName), Fault> {
    let writer = Wiring::new(common)?.writer().await?;
    let name = writer.begin_run(begun).await?;
    Ok((writer, name))
}

fn interrupted(job: &str) -> Fault {
    let hint = "Nothing is lost: run it again, it does what is left to do.";
    Fault::of("interrupted", Class::Transient, format!("the {job} was told to stop"), "", hint)
}

fn describe(begun: RunBegun, outcome: &Result<ExitCode, Fault>, printer: &Printer) -> RunEnded {
    let (how, code) = match outcome {
        Ok(code) if *code == ExitCode::SUCCESS => (RunOutcome::Ok, Some(0)),
        // Which one it is, nobody can ask it.
        Ok(code) => (RunOutcome::Failed, (1..=u8::MAX).find(|number| ExitCode::from(*number) == *code)),
        Err(fault) if fault.0.slug == "interrupted" => (RunOutcome::BrokenOff, Some(fault.exit_code())),
        Err(fault) if fault.0.class == Class::Held => (RunOutcome::Refused, Some(fault.exit_code())),
        Err(fault) => (RunOutcome::Failed, Some(fault.exit_code())),
    };
    let mut ended = begun.end(SystemClock.now(), how, code);
    if let Err(fault) = outcome {
        let advice = &fault.0;
        ended.slug = Some(advice.slug.to_owned());
        ended.summary = Some(advice.summary.clone());
        ended.detail = Some(advice.detail.clone()).filter(|text| !text.is_empty());
        ended.hint = Some(advice.hint.clone()).filter(|text| !text.is_empty());
    }
    let (log, result) = printer.kept();
    ended.bytes = result.as_ref().and_then(|result| result["bytes"].as_u64());
    ended.result = result.map(|result| repo::shortened(result, RESULT_BYTES_MAX));
    ended.log = log;
    ended
}
