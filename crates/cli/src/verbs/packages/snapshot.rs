//! `bowline packages snapshot`: all objects as they are now, into a repository.

use crate::fault::Fault;
use crate::show::{Printer, bytes, duration};
use crate::wiring::Wiring;
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terms::SystemClock;

pub async fn run(wiring: &Wiring, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let settings = super::settings(wiring)?;
    let writer = super::snapshots_writer(wiring).await?;
    let report = packages::snapshot(&settings, &writer, &SystemClock, printer.clone()).await?;
    printer.finish();
    let made = &report.snapshot;
    printer.say(format!("snapshot     {} of {}", made.id, made.source));
    printer.say(format!("holds        {} objects, {}", made.objects, bytes(made.bytes)));
    printer.say(format!("stored       {} new objects, {}, as {}", made.objects_new, bytes(made.bytes_new), bytes(made.bytes_stored)));
    if report.vanished > 0 {
        printer.say(format!("vanished     {} objects were removed while it was made", report.vanished));
    }
    printer.say(format!("took         {}", duration(Duration::from_secs_f64(report.took_seconds))));
    printer.result(json!(report));
    Ok(ExitCode::SUCCESS)
}
