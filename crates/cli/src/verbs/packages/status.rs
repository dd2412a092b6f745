//! `bowline packages status`: how far the second copy is behind.

use crate::args::PackagesStatusArgs;
use crate::fault::Fault;
use crate::show::{Printer, bytes, duration};
use crate::wiring::Wiring;
use packages::SideFacts;
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terms::{Class, Clock, SystemClock, Timestamp};

pub async fn run(wiring: &Wiring, asked: &PackagesStatusArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let settings = super::settings(wiring)?;
    let reader = super::snapshots(wiring).await?;
    let observed = packages::look(&settings, reader.as_ref(), &SystemClock).await?;
    let facts = &observed.facts;
    let lag = Duration::from_secs_f64(facts.lag_seconds);
    let side = |name: &str, side: &SideFacts| {
        let newest = side.newest.map_or_else(String::new, |at| format!(", newest {at}"));
        printer.say(format!("{name:<12} {}: {} objects, {}, {} versions{newest}", side.address, side.objects, bytes(side.bytes), side.versions));
    };
    side("primary", &facts.primary);
    side(if facts.mode == "native" { "replica" } else { "snapshots" }, &facts.copy);
    match facts.oldest_behind {
        None => printer.say("lag          none: everything is there"),
        Some(oldest) => {
            printer.say(format!(
                "lag          {}: {} versions ({}) are missing, the oldest from {oldest}",
                duration(lag),
                facts.behind,
                bytes(facts.behind_bytes)
            ));
        }
    }
    if let Some(at) = facts.newest_snapshot {
        printer.say(format!("newest       snapshot begun at {at}"));
    }
    if facts.failed > 0 {
        printer.say(format!("failed       {} the store gave up, such as {}", facts.failed, facts.failed_keys.join(", ")));
        printer.say("             → bowline packages status --requeue writes them again; on AWS, S3 Batch Replication does so without new versions");
    }
    let every = super::every(wiring);
    let is_overdue = facts.mode == "managed" && facts.newest_snapshot.is_none_or(|at| SystemClock.now().seconds_since(at) > every.as_secs_f64());
    if is_overdue {
        printer.say(format!("overdue      a snapshot is wanted every {}: run bowline packages snapshot", duration(every)));
    }
    let database = database_until(wiring).await;
    let joint = facts.complete_until.zip(database).map(|(packages, database)| packages.min(database));
    match joint {
        Some(at) => printer.say(format!("joint        database and packages can both be brought back up to {at}")),
        None => printer.say("joint        unknown: nothing says until when the database's WAL is complete"),
    }
    let mut result = json!(facts);
    (result["joint_until"], result["snapshot_overdue"]) = (json!(joint), json!(is_overdue));
    if asked.requeue {
        let requeued = observed.requeue(&settings).await?;
        let overtaken = match requeued.overtaken {
            0 => String::new(),
            count => format!("; {count} were overwritten or removed meanwhile and are left alone"),
        };
        printer.say(format!("requeued     {} versions were written again{overtaken}", requeued.again));
        requeued.failed.iter().for_each(|failed| printer.say(format!("FAILED       {failed}")));
        result["requeued"] = json!(requeued.again);
        result["requeue"] = json!(requeued);
        if let Some(first) = requeued.failed.first() {
            let (what, detail) = (format!("{} versions could not be written again", requeued.failed.len()), format!("The first one: {first}."));
            let fault = Fault::of("packages-not-requeued", Class::Missing, &what, detail, "Run the same command again.");
            return Err(fault.with("packages", result));
        }
    }
    if lag > wiring.config.alerts.replication_lag().max(Duration::from_secs_f64(facts.usual_seconds(every))) {
        let detail = format!("{} versions are missing, the oldest for {}.", facts.behind, duration(lag));
        let hint = "Look at the store's replication, or run bowline packages snapshot.";
        return Err(Fault::of("packages-behind", Class::Refused, "the second copy of the packages is behind", detail, hint).with("packages", result));
    }
    printer.result(result);
    Ok(ExitCode::SUCCESS)
}

/// Up to when the database can be brought back; `None` where that is not known.
async fn database_until(wiring: &Wiring) -> Option<Timestamp> {
    let reader = wiring.onlooker().await.ok()?;
    let epoch = reader.epoch()?;
    reader.coverage(epoch.system_id).await.ok()?.map(|mark| mark.time)
}
