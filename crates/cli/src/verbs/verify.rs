//! `bowline verify`: holds a drill, prints what it found, and keeps the report.

use crate::args::{Common, VerifyArgs};
use crate::config::DrillCheck;
use crate::fault::Fault;
use crate::show::{Printer, bytes, duration};
use crate::wiring::{Wiring, cores, program};
use checks::{Outcome, Question};
use drill::{DrillOptions, Report};
use pg::ConnInfo;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terms::{Class, SystemClock};

/// On a disk, and not cleared while a drill is held.
const DEFAULT_PLACE: &str = "/var/tmp";

pub async fn run(common: &Common, asked: &VerifyArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    let reader = wiring.reader().await?;
    // A bare host names no server; one that is named wrongly must not lead to another database.
    let server = wiring.config.postgres.conninfo.as_ref().map(|_| wiring.conninfo()).transpose()?;
    let options = DrillOptions {
        parent: asked.dir.clone().or_else(|| wiring.config.drill.dir.clone()).unwrap_or_else(|| PathBuf::from(DEFAULT_PLACE)),
        jobs: asked.jobs.map_or_else(cores, usize::from),
        bin_dir: wiring.config.postgres.bin_dir.clone(),
        program: program()?,
        roles: roles(server.as_ref()),
        questions: questions(&wiring.config.drill.checks, server.as_ref()),
    };
    let report = drill::drill(&reader, &asked.goal.wish(), &options, &SystemClock, printer.clone()).await?;
    printer.finish();
    show(printer, &report);
    let kept = if asked.no_record { None } else { Some(wiring.writer().await?.keep_drill(report.began, &report, drill::page(&report)).await?) };
    if let Some(path) = &kept {
        printer.say(format!("report       {path} in {}, and report.html beside it", reader.address()));
    }
    printer.say(match report.outcome {
        Outcome::Passed => "verdict      passed",
        Outcome::Failed => "verdict      FAILED",
        Outcome::NotVerified => "verdict      NOT VERIFIED: something could not be checked, which proves nothing",
    });
    printer.result(json!({ "report": report, "kept": kept.map(|path| path.to_string()) }));
    Ok(ExitCode::from(match report.outcome {
        Outcome::Passed => 0,
        Outcome::Failed => Class::Damaged.exit_code(),
        Outcome::NotVerified => Class::Refused.exit_code(),
    }))
}

/// Who may be known to the restored server: its superuser is mostly called like the user it runs as.
pub fn roles(server: Option<&ConnInfo>) -> Vec<String> {
    let ours = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name);
    ["postgres".to_owned()].into_iter().chain(ours).chain(server.map(|info| info.user().to_owned())).collect()
}

pub fn questions(checks: &[DrillCheck], server: Option<&ConnInfo>) -> Vec<Question> {
    let usual = server.map_or("postgres", ConnInfo::dbname);
    let question = |check: &DrillCheck| Question {
        sql: check.sql.clone(),
        expect: check.expect.clone(),
        database: check.database.clone().unwrap_or_else(|| usual.to_owned()),
    };
    checks.iter().map(question).collect()
}

fn show(printer: &Printer, report: &Report) {
    if let (Some(backup), Some(version), Some(time)) = (report.backup, &report.server_version, report.backup_time) {
        printer.say(format!("drill        of backup {backup}, PostgreSQL {version}, consistent at {time}"));
    }
    printer.say(format!("restored to  {}", report.target));
    if let Some(lsn) = report.recovered_to {
        let last = report.last_transaction.as_ref().map_or_else(String::new, |at| format!(", last transaction {at}"));
        printer.say(format!("reached      {lsn}{last}"));
    }
    if let (Some(size), Some(segments)) = (report.database_bytes, report.segments) {
        printer.say(format!("moved        {} and {} of WAL", bytes(size), counted(segments, "segment")));
    }
    for database in &report.proof.databases {
        let rows: u64 = database.rows.iter().map(|table| table.rows).sum();
        printer.say(format!(
            "checked      {}: {} indexes and {} tables with amcheck; {} read in full, {}",
            database.name,
            database.indexes_passed,
            database.tables_passed,
            counted(database.rows.len() as u64, "table"),
            counted(rows, "row"),
        ));
        if !database.without_check.is_empty() {
            printer.say(format!("no check for {}", database.without_check.join(", ")));
        }
    }
    for answer in &report.proof.answers {
        let got = answer.got.as_deref().unwrap_or("no answer");
        let verdict = match answer.outcome {
            Outcome::Passed => "as expected",
            Outcome::Failed => "NOT AS EXPECTED",
            Outcome::NotVerified => "NOT ANSWERED",
        };
        printer.say(format!("asked        {}: {got}, expected {}: {verdict}", answer.sql, answer.expect));
    }
    for fault in &report.proof.faults {
        let word = if fault.outcome == Outcome::Failed { "WRONG       " } else { "NOT CHECKED " };
        let place = if fault.database.is_empty() { fault.object.clone() } else { format!("{} in {}", fault.object, fault.database) };
        printer.say(format!("{word} {place}: {}", fault.what));
    }
    if !report.proof.databases.is_empty() && !report.is_cut_off {
        printer.say("note         the server had this host's network (a namespace of its own takes root), but no TCP socket and no subscriptions");
    }
    for phase in &report.phases {
        printer.say(format!("took         {:<26} {}", phase.name, duration(Duration::from_secs_f64(phase.seconds))));
    }
    printer.say(format!("in all       {}", duration(Duration::from_secs_f64(report.seconds))));
}

fn counted(number: u64, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}
