//! `bowline scrub`: reads again what is stored, and says what is damaged or missing.

use crate::args::{Common, ScrubArgs};
use crate::fault::Fault;
use crate::show::{Printer, bytes, duration};
use crate::verbs::audit;
use crate::verbs::expire::Apart;
use crate::wiring::Wiring;
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terms::{Class, Clock, SystemClock};
use upkeep::{Found, ScrubOptions, Scrubbed};

/// How long a run may be silent before another one may take its place.
const LEASE_TTL: Duration = Duration::from_secs(60);

pub async fn run(common: &Common, asked: &ScrubArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    let writer = wiring.writer().await?;
    // What keeps the log from being audited is damage that the run itself names.
    let (gaps, not_audited) = match audit::gaps(writer.reader()).await {
        Ok(gaps) => (gaps, None),
        Err(fault) if matches!(fault.0.class, Class::Damaged | Class::Missing | Class::Refused) => (Vec::new(), Some(fault.0.summary)),
        Err(fault) => return Err(fault),
    };
    let mut options = ScrubOptions {
        budget: asked.budget.map_or_else(|| wiring.config.scrub.budget(), |size| size.as_u64()),
        gaps: Vec::new(),
        apart: None,
        forget: asked.forget.clone(),
        holder: format!("{}, process {}", crate::verbs::host(), std::process::id()),
        lease_ttl: LEASE_TTL,
        events: printer.clone(),
    };
    // First, so that what is found there stands with the damage here, where everybody looks.
    let apart = scrub_apart(&wiring, &options, printer).await;
    options.gaps = gaps;
    options.apart = match &apart {
        Ok(found) => Some(found.clone()),
        Err(_) => None,
    };
    let done = upkeep::scrub(&writer, &options, &SystemClock).await?;
    if let Some(why) = &not_audited {
        printer.say(format!("not looked   for gaps in the log: {why}"));
    }
    report(&done, printer);
    let mut result = json!(done);
    result["not_audited"] = json!(not_audited);
    match done.damage.len() {
        0 if not_audited.is_none() => {
            apart?;
            printer.result(result);
            Ok(ExitCode::SUCCESS)
        }
        count => {
            let first = done.damage.first().map_or_else(String::new, |damage| format!("{}: {}", damage.path, damage.why));
            let summary = match count {
                0 => "the log could not be looked at for gaps".to_owned(),
                1 => "one object of the repository is damaged or missing".to_owned(),
                _ => format!("{count} objects of the repository are damaged or missing"),
            };
            let next = done.damage.first().map_or("Run bowline wal audit.", |damage| damage.next.as_str());
            Err(Fault::of("scrub-damage", Class::Damaged, summary, first, next).with("result", result))
        }
    }
}

/// The snapshots of packages in a repository of their own, within a budget of their own; the damage that stands there.
async fn scrub_apart(wiring: &Wiring, options: &ScrubOptions, printer: &Printer) -> Result<Vec<Found>, Fault> {
    let Some(apart) = Apart::of(wiring)? else { return Ok(Vec::new()) };
    let done = upkeep::scrub(&apart.writer().await?, options, &SystemClock).await?;
    printer.say(format!("in {}", apart.address()));
    report(&done, printer);
    Ok(done.damage.into_iter().map(|damage| Found::apart(&apart.address(), damage)).collect())
}

fn report(done: &Scrubbed, printer: &Printer) {
    let took = Duration::from_secs_f64(done.run.ended.seconds_since(done.run.began).max(0.0));
    printer.say(format!("read         {} objects, {} in {}", done.run.objects, bytes(done.run.bytes), duration(took)));
    let proven = match (done.unproven, done.oldest) {
        _ if done.run.is_all => "everything in this run".to_owned(),
        (0, Some(oldest)) => format!("everything since {oldest}, {} ago", duration(age(oldest))),
        (unproven, _) => format!("{} of {} parts; {unproven} were never read yet: the next run goes on", done.units - unproven, done.units),
    };
    printer.say(format!("proven       {proven}"));
    for path in &done.healed {
        printer.say(format!("well again   {path}"));
    }
    for damage in &done.damage {
        printer.say(format!("DAMAGED      {}", damage.path));
        printer.say(format!("             {} [{}], known since {}", damage.why.trim_end_matches('.'), damage.slug, damage.since));
        printer.say(format!("             cannot be restored: {}", damage.unreachable));
        printer.say(format!("             → {}", damage.next));
    }
}

fn age(at: terms::Timestamp) -> Duration {
    Duration::from_secs_f64(SystemClock.now().seconds_since(at).max(0.0))
}
