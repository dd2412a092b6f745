//! `bowline restore`: plan, ask, do, report.

use crate::args::{Common, RestoreArgs, ValidationMode};
use crate::config::Config;
use crate::fault::Fault;
use crate::show::Printer;
use crate::verbs::confirm::{confirm, confirm_by};
use crate::verbs::damage::Course;
use crate::verbs::outlook::{Outlook, destroys};
use crate::verbs::protect::Protector;
use crate::verbs::{kept, outside, packages, rescue_report, verbatim, verify};
use crate::wiring::{Wiring, cores, program};
use repo::Reader;
use rescue::{Commands, Journal, Lock, RescueError, RescueOptions, Stage, Validation, Way};
use restore::{Detour, Occupied, RestoreOptions, RestorePlan, TablespaceMap, Target};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terms::{Class, Clock, Event, Events, RecoveryTarget, SystemClock};

/// How long a command of [service] or [postgres] may take.
const HOOK_LIMIT: Duration = Duration::from_secs(300);

pub async fn run(common: &Common, asked: &RestoreArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let mut wiring = Wiring::new(common)?;
    let reader = wiring.reader().await?;
    let kept = if wiring.config.path.is_none() { kept::configuration(&reader, printer).await? } else { None };
    if let Some(kept) = &kept {
        wiring.config = Config::kept(&kept.text, Path::new(kept.object.as_str()), wiring.config)?;
    }
    let target = Target::inspect(&target_dir(&wiring, asked)?)?;
    let is_side = wiring.config.postgres.data_dir.as_ref().is_none_or(|production| !target.is_at(production));
    let mut journal = journal(asked, &target, printer)?;
    // Once the new cluster is there, no plan would be the one that made it.
    let course = Course::new(&reader, journal.wish()?, asked, wiring.config.postgres.bin_dir.as_deref(), printer);
    let mut plan = if journal.stage < Stage::Recovered { Some(course.plan().await?) } else { None };
    let options = options(&wiring, asked, &target, is_side)?;
    if let Some(plan) = plan.as_ref().filter(|_| journal.stage == Stage::Begun) {
        restore::recognise(&target, options.restoring.occupied, plan.backup.system_id)?;
    }
    let destroys = destroys(&target, &journal);
    if journal.stage > Stage::Begun {
        printer.say(format!("goes on      with the restore to {} begun at {}, after {}", journal.target, journal.began, journal.stage.name()));
    }
    let outlook = match &plan {
        Some(plan) => Some(
            Outlook::of(
                &reader,
                plan,
                &target,
                &options,
                asked,
                &journal,
                steps(plan, course.taken().as_ref(), &target, &options, asked, &journal, &wiring.config),
                printer,
            )
            .await?,
        ),
        None => None,
    };
    outlook.iter().for_each(|outlook| outlook.show(printer));
    if asked.plan.is_some() {
        let nothing = || json!({ "plan": null, "target": target.data_dir, "stage": journal.stage });
        printer.result(outlook.map_or_else(nothing, |outlook| outlook.json(course.loss())));
        return Ok(ExitCode::SUCCESS);
    }
    outlook.as_ref().map_or(Ok(()), Outlook::refuse)?;
    if is_side || asked.files_only {
        target.refuse_running()?;
    }
    match destroys {
        true => confirm_by("destroy", "the restore that destroys the old copy", asked.yes, printer)?,
        false => confirm("the restore", asked.yes, printer)?,
    }
    let lock = Lock::take(&target)?;
    if let Some(plan) = &plan {
        let (backup, timeline, segments) = (plan.backup.id, plan.timeline, plan.segments.len() as u64);
        printer.tell(Event::RestorePlanned { backup, timeline, target: plan.target.clone(), segments });
        if asked.files_only {
            return files_only(&wiring, &reader, plan.clone(), &target, &options.restoring, &course, printer).await;
        }
    }
    let common = &with_kept(common, kept.as_ref().map(|kept| kept.text.as_str()), &target)?;
    let lent = Protector { common, wiring: &wiring, printer, course: &course, data_dir: target.data_dir.clone(), side_dir: target.side_dir.clone() };
    let report = loop {
        match rescue::rescue(&reader, plan.clone(), &target, &options, journal.clone(), &lock, &lent, &SystemClock, printer.clone()).await {
            Ok(report) => break report,
            // What was found on the way may leave another way, which goes on with what is there.
            Err(RescueError::Restore(error)) => {
                let around = course.around(error, &target.data_dir).await?;
                journal = Journal::unfinished(&target)?.ok_or_else(|| Fault::of("bug", Class::Bug, "the journal is gone", "", ""))?;
                if plan.as_ref().is_none_or(|before| before.backup.id != around.backup.id) {
                    journal = journal.from_the_files();
                }
                plan = Some(around);
            }
            Err(error) => return Err(error.into()),
        }
    };
    printer.finish();
    let summary = course.last_plan().map(|plan| plan.summary());
    rescue_report::show(printer, &wiring, summary, &target, &report, asked);
    match report.open.into_iter().next() {
        None => packages::disagreement(report.journal.packages.as_ref()).map_or(Ok(ExitCode::SUCCESS), Err),
        Some(advice) => Err(Fault(advice, None)),
    }
}

/// Where the machine had no configuration, it has one now, for the receiver and for whoever goes on from here.
fn with_kept(common: &Common, kept: Option<&str>, target: &Target) -> Result<Common, Fault> {
    let Some(text) = kept else { return Ok(common.clone()) };
    let path = target.side_dir.join("bowline.toml");
    let write = || {
        let mut file = restore::create_anew(&path, 0o600)?;
        file.write_all(text.as_bytes())
    };
    let cannot = |e: std::io::Error| Fault::of("target-unwritable", Class::Refused, format!("cannot write {}", path.display()), format!("{e}."), "");
    write().map_err(cannot)?;
    Ok(Common { config: Some(path), ..common.clone() })
}

/// What is to be done: what is asked for, or what broke off.
fn journal(asked: &RestoreArgs, target: &Target, printer: &Printer) -> Result<Journal, Fault> {
    let wish = asked.goal.wish();
    let new = Journal::new(target, &wish, SystemClock.now()).rewriting(asked.delta);
    let old = match Journal::unfinished(target) {
        Err(RescueError::Foreign { .. }) if asked.anew => {
            let what = "another user began the restore that is given up: nothing is taken from its journal, and the systemd unit that ran PostgreSQL, \
                        if it was stopped, is unknown; look whether [postgres] start names what starts it";
            printer.tell(Event::Noticed { what: what.into() });
            None
        }
        old => old?,
    };
    Ok(match old {
        None if asked.go_on => {
            let hint = "Say what to restore to; nothing was touched.";
            return Err(Fault::misuse("nothing-to-continue", format!("no restore of {} broke off", target.data_dir.display()), "", hint));
        }
        None => new,
        Some(old) if asked.anew => new.after(&old),
        Some(old) if asked.go_on || old.is_of(&wish) => old,
        Some(Journal { target: wanted, began, stage, .. }) => {
            let data_dir = target.data_dir.clone();
            return Err(RescueError::Unfinished { data_dir, target: wanted, began, stage: stage.name() }.into());
        }
    })
}

fn options(wiring: &Wiring, asked: &RestoreArgs, target: &Target, is_side: bool) -> Result<RescueOptions, Fault> {
    let config = &wiring.config;
    let service = |command: &Option<String>| command.clone().filter(|_| !asked.no_service);
    // A bare host names no server; one that is named wrongly must not lead to another database.
    let server = config.postgres.conninfo.as_ref().map(|_| wiring.conninfo()).transpose()?;
    Ok(RescueOptions {
        restoring: RestoreOptions {
            occupied: if asked.delta { Occupied::Rewrite } else { Occupied::MoveAside },
            tablespaces: tablespaces(asked, target, is_side),
            jobs: asked.jobs.map_or_else(cores, usize::from),
            bin_dir: config.postgres.bin_dir.clone(),
            program: program()?,
        },
        commands: Commands {
            stop_service: service(&config.service.stop),
            start_service: service(&config.service.start),
            health: service(&config.service.health),
            stop_server: config.postgres.stop.clone(),
            start_server: config.postgres.start.clone(),
            limit: config.service.timeout.unwrap_or(HOOK_LIMIT),
        },
        validation: match asked.validate {
            ValidationMode::None => Validation::None,
            ValidationMode::Questions => Validation::Questions,
            ValidationMode::Full => Validation::Full,
        },
        questions: verify::questions(&config.drill.checks, server.as_ref()),
        roles: verify::roles(server.as_ref()),
        is_side,
        starts: !asked.no_start,
        protects: !asked.no_protect,
        // What is saved goes to the repository as it is now, where a look at an earlier one does not see it.
        salvages: !asked.no_salvage && !wiring.looks_back(),
        packages: !asked.no_packages && packages::is_configured(wiring),
        references: packages::references(wiring).filter(|_| !asked.no_packages && !is_side),
    })
}

/// The files alone, with the settings for whoever starts the server.
async fn files_only(
    wiring: &Wiring,
    reader: &Reader,
    mut plan: RestorePlan,
    target: &Target,
    options: &RestoreOptions,
    course: &Course<'_>,
    printer: &Arc<Printer>,
) -> Result<ExitCode, Fault> {
    let (mut target, mut options) = (target.clone(), options.clone());
    let report = loop {
        match restore::restore_only_files(reader, &plan, &target, &options, &SystemClock, printer.clone()).await {
            Ok(report) => break report,
            Err(error) => {
                plan = course.around(error, &target.data_dir).await?;
                (target, options.occupied) = (Target::inspect(&target.data_dir)?, Occupied::Resume);
            }
        }
    };
    if let Some(config) = &wiring.config.path {
        restore::write_recovery_settings(&plan, &target, &restore::restore_command(&options.program, config))?;
    }
    printer.finish();
    rescue_report::show_files(printer, &plan, &target, &report, course.taken().as_ref());
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

/// What will be done, a line each.
fn steps(
    plan: &RestorePlan,
    detour: Option<&Detour>,
    target: &Target,
    options: &RescueOptions,
    asked: &RestoreArgs,
    journal: &Journal,
    config: &Config,
) -> Vec<String> {
    let commands = &options.commands;
    let is_next = |stage| journal.stage < stage && !options.is_side && !asked.files_only;
    let mut steps = Vec::new();
    if let Some(command) = commands.stop_service.as_ref().filter(|_| is_next(Stage::ServiceStopped)) {
        steps.push(format!("the service is stopped: {command}"));
    }
    if let Some(what) = rescue::standing_of(target).filter(|_| is_next(Stage::SetAside)) {
        steps.push(format!("NOTE: {what}"));
    }
    if let Some(pid) = target.running().filter(|_| is_next(Stage::ServerStopped)) {
        let how = Way::to_stop(commands, pg::systemd_unit_of(pid).as_deref());
        steps.push(format!("PostgreSQL, which runs there (process {pid}), is stopped: {how}"));
    }
    if plan.target == RecoveryTarget::Latest && target.is_occupied() && options.salvages && is_next(Stage::Salvaged) {
        steps.push("what the old pg_wal holds beyond the repository is stored first".into());
    }
    if destroys(target, journal) {
        steps.push("what is there is overwritten where it differs: the old copy is destroyed".into());
    } else if journal.stage < Stage::SetAside
        && let Some(aside) = journal.aside.clone().or_else(|| target.place_aside(SystemClock.now()))
    {
        let how = if aside.starts_with(&target.data_dir) { "moves within its mount point to" } else { "is renamed to" };
        steps.push(format!("what is there {how} {}", aside.display()));
        if let Some(wal) = restore::linked_wal(&target.data_dir) {
            steps.push(format!("pg_wal, a link to {}, becomes a directory of the new cluster", wal.display()));
        }
    }
    if asked.files_only {
        steps.push("the files are restored, and nothing is started".into());
        return steps;
    }
    steps.push("restored, replayed and promoted".into());
    match asked.validate {
        ValidationMode::None => {}
        ValidationMode::Questions => steps.push(match options.questions.len() {
            0 => "validated: every database opens ([drill] checks asks nothing)".into(),
            1 => "validated: every database opens, the one question of [drill] checks is answered".into(),
            number => format!("validated: every database opens, the {number} questions of [drill] checks are answered"),
        }),
        ValidationMode::Full => steps.push("validated as by a drill: every index, table and row".into()),
    }
    steps.extend(verbatim::queries(options));
    if let Some(packages) = config.packages.as_ref().filter(|_| options.packages && !options.is_side) {
        steps.push(packages_step(detour));
        steps.push(verbatim::places(packages));
    }
    if asked.no_start {
        steps.push("left stopped".into());
    } else if options.is_side {
        steps.push("started on a private socket, cut off from production".into());
    } else {
        steps.extend(outside::steps(plan, target, journal));
        let unit = journal.unit.as_ref().map(|unit| format!("systemctl start {unit}"));
        let how = commands.start_server.clone().or(unit).map_or_else(String::new, |command| format!(": {command}"));
        steps.push(format!("PostgreSQL is started{how}"));
        match (options.protects, plan.epoch_ended) {
            (true, None) => {
                steps.push("the slot is made again, WAL must arrive in the repository".into());
                steps.extend(config.wal.start.as_ref().map(|command| format!("the receiver is started: {command}")));
            }
            (false, None) => steps.push("NOT protected: no receiver and no backup (--no-protect)".into()),
            _ => {}
        }
        if let Some(command) = &commands.start_service {
            steps.push(format!("the service is started: {command}"));
        }
        if let Some(command) = &commands.health {
            steps.push(format!("the service must be well: {command}"));
        }
        if options.protects && plan.epoch_ended.is_none() {
            steps.push("a full backup is made".into());
        }
    }
    steps
}

/// With the database: also where damage lets that not come as far as was asked.
fn packages_step(detour: Option<&Detour>) -> String {
    let instant = match detour.filter(|detour| detour.leads_elsewhere()) {
        Some(detour) => format!("where the database ends, about {}, not as of what was asked for", detour.loss.kept_until),
        None => "the same instant".to_owned(),
    };
    format!("the packages are brought back as of {instant}; what is in their way is kept (--no-packages leaves them alone)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use restore::{LossWindow, Way};
    use terms::Lsn;

    #[test]
    fn a_plan_says_as_of_when_the_packages_come_back() {
        let kept_until = "2026-11-22 14:02:41 UTC".parse().unwrap();
        let detour = |way| {
            let (kept_to, lost) = (Lsn::from_bytes(0x300_0000), Some(Duration::ZERO));
            let loss = LossWindow { last_kept: None, kept_to, kept_until, asked: None, lost, after_target: false, reason: String::new() };
            Detour { way, backup: "20261122T020000Z".parse().unwrap(), stop: String::new(), loss, words: String::new() }
        };
        assert!(packages_step(None).contains("as of the same instant"));
        assert!(packages_step(Some(&detour(Way::AnotherBackup))).contains("as of the same instant"));
        assert!(packages_step(Some(&detour(Way::StopBefore))).contains("as of where the database ends, about 2026-11-22 14:02:41 UTC"));
    }
}
