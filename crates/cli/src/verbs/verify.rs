//! `bowline verify`: holds a drill, prints what it found, and keeps the report.

use crate::args::{Common, VerifyArgs};
use crate::config::DrillCheck;
use crate::fault::Fault;
use crate::show::{Printer, bytes, counted, duration, rate};
use crate::verbs::packages;
use crate::wiring::{Wiring, cores, program};
use checks::{Outcome, Question};
use drill::{DrillOptions, Report};
use pg::ConnInfo;
use repo::Reader;
use restore::Wish;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terms::{Class, SystemClock};

/// On a disk, and not cleared while a drill is held.
const DEFAULT_PLACE: &str = "/var/tmp";

/// How much of a table may be missing unless the configuration says otherwise.
const DEFAULT_TOLERANCE: f64 = 0.1;

pub async fn run(common: &Common, asked: &VerifyArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    let reader = wiring.reader().await?;
    // A bare host names no server; one that is named wrongly must not lead to another database.
    let server = wiring.config.postgres.conninfo.as_ref().map(|_| wiring.conninfo()).transpose()?;
    let drill = &wiring.config.drill;
    let options = DrillOptions {
        parent: asked.dir.clone().or_else(|| drill.dir.clone()).unwrap_or_else(|| PathBuf::from(DEFAULT_PLACE)),
        jobs: asked.jobs.map_or_else(cores, usize::from),
        bin_dir: wiring.config.postgres.bin_dir.clone(),
        program: program()?,
        roles: roles(server.as_ref()),
        questions: questions(&drill.checks, server.as_ref()),
        user: drill.user.clone(),
        data_dir: wiring.config.postgres.data_dir.clone(),
        production: server,
        tolerance: drill.tolerance.unwrap_or(DEFAULT_TOLERANCE),
        references: packages::references(&wiring),
    };
    let one = asked.goal.wish();
    let wishes = match asked.all {
        false => vec![one],
        true => reader.backups().await?.into_iter().map(|backup| Wish { backup: Some(backup.id), ..one.clone() }).collect(),
    };
    if wishes.is_empty() {
        let hint = "Take one with bowline backup.";
        return Err(Fault::of("backup-missing", Class::Missing, "there is no backup to hold a drill of", "The repository lists none.", hint));
    }
    let (mut held, mut stopped) = (Vec::new(), None);
    for wish in &wishes {
        match Held::hold(&wiring, &reader, wish, &options, asked.no_record, printer).await {
            Ok(drill) => held.push(drill),
            // This host holds no drill at all, or none any more: what was found out before is told all the same.
            Err(fault) if held.is_empty() => return Err(fault),
            Err(fault) => {
                stopped = Some(fault);
                break;
            }
        }
    }
    let worst = held.iter().map(|drill| drill.report.outcome).max().unwrap_or(Outcome::NotVerified);
    if held.len() > 1 {
        printer.say(format!("all          {} drills: {}", held.len(), said(worst)));
    }
    // What was found out is told even when it could not be kept.
    let mut results: Vec<_> = held.iter().map(|drill| json!({ "report": drill.report, "kept": drill.kept })).collect();
    printer.result(match asked.all {
        true => json!({ "outcome": worst, "drills": results }),
        false => results.swap_remove(0),
    });
    if let Some(fault) = stopped.or_else(|| held.into_iter().find_map(|drill| drill.unkept)) {
        return Err(fault);
    }
    Ok(ExitCode::from(match worst {
        Outcome::Passed => 0,
        Outcome::Failed => Class::Damaged.exit_code(),
        Outcome::NotVerified => Class::Refused.exit_code(),
    }))
}

/// A drill that was held.
struct Held {
    report: Report,
    /// Where its report lies.
    kept: Option<String>,
    /// Why it lies nowhere.
    unkept: Option<Fault>,
}

impl Held {
    /// Holds one, prints what it found and keeps the report.
    async fn hold(
        wiring: &Wiring,
        reader: &Reader,
        wish: &Wish,
        options: &DrillOptions,
        no_record: bool,
        printer: &Arc<Printer>,
    ) -> Result<Self, Fault> {
        let mut report = drill::drill(reader, wish, options, &SystemClock, printer.clone()).await?;
        packages::judge(wiring, &mut report).await;
        printer.finish();
        show(printer, &report);
        let (kept, unkept) = match no_record {
            true => (None, None),
            false => keep(wiring, &report).await.map_or_else(|fault| (None, Some(fault)), |path| (Some(path), None)),
        };
        if let Some(path) = &kept {
            printer.say(format!("report       {path} in {}, and report.html beside it", reader.address()));
        }
        if unkept.is_some() {
            printer.say("report       NOT KEPT in the repository; the error below says why");
        }
        printer.say(format!("verdict      {}", said(report.outcome)));
        Ok(Self { report, kept, unkept })
    }
}

/// Where the report lies now.
async fn keep(wiring: &Wiring, report: &Report) -> Result<String, Fault> {
    Ok(wiring.writer().await?.keep_drill(report.began, report, drill::page(report)).await?.to_string())
}

fn said(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "FAILED",
        Outcome::NotVerified => "NOT VERIFIED: something could not be checked, which proves nothing",
    }
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
    if let Some(pages) = &report.pages {
        let seen = if pages.has_checksums { format!("{} with a wrong checksum", pages.bad) } else { "the cluster has no checksums".to_owned() };
        printer.say(format!("pages        {} in {}: {seen}", pages.pages, counted(pages.files, "file")));
    }
    for comparison in &report.comparisons {
        let exactly = if comparison.exactly > 0 { format!(", {} of them to the row", comparison.exactly) } else { String::new() };
        let compared = format!("{}{exactly}", counted(comparison.tables, "table"));
        let compared = match &comparison.not_compared {
            None => compared,
            Some(why) if comparison.tables == 0 => format!("NOT COMPARED: {why}"),
            Some(why) => format!("{compared}; NOT COMPARED: {why}"),
        };
        printer.say(format!("rows against {}: {compared}", comparison.with));
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
    if let Some(found) = report.agreement.as_ref().and_then(|found| serde_json::from_value(found.clone()).ok()) {
        printer.say(format!("agreement    {}", packages::words(&found)));
    }
    for notice in &report.notices {
        let place = if notice.database.is_empty() { notice.object.clone() } else { format!("{} in {}", notice.object, notice.database) };
        printer.say(format!("note         {place}: {}", notice.what));
    }
    if let Some(user) = &report.ran_as {
        let whose = match report.is_productions_user {
            Some(true) => ", whose production's files are too ([drill] user names another)",
            Some(false) => ", not production's user",
            None => "",
        };
        printer.say(format!("ran as       {user}{whose}"));
    }
    if !report.proof.databases.is_empty() && !report.is_cut_off {
        printer.say("note         the server had this host's network (a namespace of its own takes root), but no TCP socket and no subscriptions");
    }
    for phase in &report.phases {
        let took = Duration::from_secs_f64(phase.seconds);
        let pace = phase.bytes.filter(|_| phase.seconds > 0.0).map_or_else(String::new, |moved| format!(" ({})", rate(moved, took)));
        printer.say(format!("took         {:<26} {}{pace}", phase.name, duration(took)));
    }
    printer.say(format!("in all       {}", duration(Duration::from_secs_f64(report.seconds))));
}
