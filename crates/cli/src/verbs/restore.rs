//! `bowline restore`: plan, ask, do, report.

use crate::args::{Common, RestoreArgs};
use crate::fault::Fault;
use crate::show::{Printer, bytes, duration, rate};
use crate::verbs::confirm::confirm;
use crate::verbs::damage::{self, Course};
use crate::verbs::handover::{Started, start};
use crate::wiring::{Wiring, cores, program};
use restore::{RestoreOptions, RestorePlan, RestoreReport, TablespaceMap, Target};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use terms::{Event, Events};

pub async fn run(common: &Common, asked: &RestoreArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let began = Instant::now();
    let wiring = Wiring::new(common)?;
    let data_dir = target_dir(&wiring, asked)?;
    let is_side = wiring.config.postgres.data_dir.as_deref() != Some(&data_dir);
    let reader = wiring.reader().await?;
    let mut course = damage::plan(&reader, asked, printer).await?;
    let plan = course.plan.clone();
    let target = Target::inspect(&data_dir)?;
    let options = RestoreOptions {
        tablespaces: tablespaces(asked, &target, is_side),
        jobs: asked.jobs.map_or_else(cores, usize::from),
        bin_dir: wiring.config.postgres.bin_dir.clone(),
        program: program()?,
    };
    if !asked.files_only {
        // Before anything is moved: without PostgreSQL's programs nothing could be recovered.
        pg::find_bin_dir(plan.backup.major, options.bin_dir.as_deref())?;
    }
    show_plan(printer, &plan, &target, &options, asked, is_side);
    if asked.plan {
        printer
            .result(json!({ "plan": plan.summary(), "loss": course.taken.as_ref().map(damage::loss_json), "target": data_dir, "moves_aside": target.is_occupied(), "server_running": target.running() }));
        return Ok(ExitCode::SUCCESS);
    }
    target.refuse_running()?;
    confirm("the restore", asked.yes, printer)?;
    printer.tell(Event::RestorePlanned {
        backup: plan.backup.id,
        timeline: plan.timeline,
        target: plan.target.clone(),
        segments: plan.segments.len() as u64,
    });
    let report = damage::restore(&reader, &mut course, asked, &target, &options, printer).await?;
    let plan = course.plan.clone();
    if let (true, Some(config)) = (asked.files_only, &wiring.config.path) {
        restore::write_recovery_settings(&plan, &target, &restore::restore_command(&options.program, config))?;
    }
    let started = if asked.files_only || asked.no_start { Started::No } else { start(&wiring, &plan, &target, &report, is_side).await? };
    printer.finish();
    show_report(printer, &course, &target, &report, &started, began.elapsed());
    Ok(ExitCode::SUCCESS)
}

fn target_dir(wiring: &Wiring, asked: &RestoreArgs) -> Result<PathBuf, Fault> {
    let given = asked.target.as_ref().or(wiring.config.postgres.data_dir.as_ref());
    given
        .cloned()
        .ok_or_else(|| Fault::misuse("target-missing", "there is no directory to restore into", "", "Give --target DIR, or set [postgres] data_dir."))
}

/// In place, tablespaces go where they were. Elsewhere that could be the running production's: there they go beside the target.
fn tablespaces(asked: &RestoreArgs, target: &Target, is_side: bool) -> TablespaceMap {
    TablespaceMap { places: asked.tablespaces.iter().cloned().collect(), elsewhere: is_side.then(|| target.side_dir.join("tablespaces")) }
}

fn show_plan(printer: &Printer, plan: &RestorePlan, target: &Target, options: &RestoreOptions, asked: &RestoreArgs, is_side: bool) {
    let summary = plan.summary();
    let b = &plan.backup;
    printer.say(format!("restore to   {}", plan.target));
    printer.say(format!("stops        {}", summary.stop));
    printer.say(format!("backup       {} of PostgreSQL {}, consistent at {} ({})", b.id, b.server_version, b.stop.time, b.stop.lsn));
    printer.say(match (summary.first_segment, summary.last_segment) {
        (Some(first), Some(last)) => format!("WAL          {} segments, {first} to {last}, on timeline {}", summary.segments, plan.timeline),
        _ => "WAL          none".into(),
    });
    printer.say(format!("moves        {} from {} in the repository", bytes(b.bytes), bytes(b.bytes_stored)));
    let aside = if target.is_occupied() { "; what is there is renamed, not deleted" } else { "" };
    printer.say(format!("into         {}{aside}", target.data_dir.display()));
    for (oid, place) in &options.tablespaces.places {
        printer.say(format!("tablespace   {oid} into {}", place.display()));
    }
    if let Some(folder) = &options.tablespaces.elsewhere {
        printer.say(format!("tablespaces  any others go below {}", folder.display()));
    }
    printer.say(match (asked.files_only, asked.no_start, is_side) {
        (true, ..) => "then         nothing is started",
        (_, true, _) => "then         recovered, promoted and left stopped",
        (_, _, true) => "then         recovered, promoted and started on a private socket",
        _ => "then         recovered, promoted and started",
    });
    if let Some(pid) = target.running() {
        printer.say(format!("note         a server (pid {pid}) is running there: it must be stopped first"));
    }
    plan.notes.iter().for_each(|note| printer.say(format!("note         {note}")));
}

fn show_report(printer: &Printer, course: &Course, target: &Target, report: &RestoreReport, started: &Started, took: Duration) {
    let plan = &course.plan;
    let copy = report.steps.iter().find(|(step, _)| *step == terms::Step::CopyFiles).map_or(Duration::ZERO, |(_, took)| *took);
    printer.say("");
    printer.say(format!(
        "restored     {} files, {} in {} ({})",
        report.restored.files,
        bytes(report.restored.bytes),
        duration(copy),
        rate(report.restored.bytes, copy)
    ));
    if let Some(recovered) = &report.recovered {
        printer.say(format!("recovered    to {}, now timeline {}", recovered.at, recovered.timeline));
        if let Some(at) = &recovered.last_transaction {
            printer.say(format!("last change  {at}"));
        }
    }
    if let Some(taken) = &course.taken {
        damage::show_loss(printer, taken);
    }
    if let Some(aside) = &report.moved_aside {
        printer.say(format!("old data     {}", aside.display()));
    }
    match started {
        Started::No => {}
        Started::Normally => printer.say(format!("server       running on {}", target.data_dir.display())),
        Started::Privately { socket_dir } => printer.say(format!("server       running privately: psql -h {}", socket_dir.display())),
    }
    printer.say(format!("took         {}", duration(took)));
    if plan.epoch_ended.is_some() && report.recovered.is_some() {
        printer.say("next         to go on with this cluster of an earlier epoch, give it a repository of its own: another url or org,");
        printer.say("             bowline init, bowline backup; this repository takes nothing more of it");
    } else if report.recovered.is_some() {
        printer.say("next         make a full backup: this cluster is on a new timeline now");
    }
    let steps: Vec<_> = report.steps.iter().map(|(step, took)| json!({"step": step.name(), "seconds": took.as_secs_f64()})).collect();
    let recovered = report
        .recovered
        .as_ref()
        .map(|r| json!({"lsn": r.at, "timeline": r.timeline, "last_transaction": r.last_transaction, "waited_seconds": r.waited.as_secs_f64()}));
    let socket_dir: Option<&Path> = match started {
        Started::Privately { socket_dir } => Some(socket_dir),
        _ => None,
    };
    printer.result(json!({
        "plan": plan.summary(), "loss": course.taken.as_ref().map(damage::loss_json), "target": target.data_dir, "moved_aside": report.moved_aside, "files": report.restored.files,
        "bytes": report.restored.bytes, "recovered": recovered, "steps": steps, "seconds": took.as_secs_f64(),
        "running": *started != Started::No, "socket_dir": socket_dir,
    }));
}
