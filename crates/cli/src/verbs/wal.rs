//! `bowline wal receive`.

use crate::args::{Common, ReceiveArgs};
use crate::fault::Fault;
use crate::show::Printer;
use crate::wiring::Wiring;
use capture::{Flush, Progress, ReceiveOptions, Slot, Until};
use pg::Sql;
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use terms::{Clock, SystemClock};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Streams until SIGTERM or SIGINT.
pub async fn receive(common: &Common, asked: ReceiveArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    let info = wiring.conninfo()?.with_application_name(capture::RECEIVER).at_a_primary();
    let mut writer = wiring.writer().await?;
    let facts = Sql::connect(&info).await?.server_facts().await?;
    let wal = &wiring.config.wal;
    if !wal.synchronous {
        capture::refuse_synchronous(&facts, capture::RECEIVER)?;
    }
    let epoch = writer.admit(facts.system_id, facts.major, SystemClock.now()).await?;
    let slot = asked.slot.unwrap_or_else(|| wal.slot.clone());
    let holder = Some(format!("slot {slot} on {}", super::host()));
    let usual = ReceiveOptions::with_slot(Slot::Permanent(slot));
    let options = ReceiveOptions {
        compression: wal.compression.unwrap_or_default(),
        flush: match (wal.synchronous, wal.flush_interval) {
            (true, _) => Flush::Synchronous,
            (false, Some(pause)) => Flush::Every(pause),
            (false, None) => usual.flush,
        },
        status_interval: wal.status_interval.unwrap_or(usual.status_interval),
        coverage_interval: wal.coverage_interval.unwrap_or(usual.coverage_interval),
        shutdown_grace: wal.shutdown_grace.unwrap_or(usual.shutdown_grace),
        holder,
        lease_ttl: wal.lease_ttl.unwrap_or(usual.lease_ttl),
        accept_older_timeline: asked.accept_older_timeline,
        ..usual
    };
    let (until, told) = watch::channel(Until::Forever);
    let (progress, _) = watch::channel(None::<Progress>);
    let signals = |kind| signal(kind).map_err(|e| Fault::of("no-signals", terms::Class::Bug, "cannot listen for signals", format!("{e}."), ""));
    let (mut term, mut int) = (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        until.send_replace(Until::Now);
        // Kept until the process ends: a sender that is gone would look like a reason to stop, too.
        std::future::pending::<()>().await;
    });
    capture::receive(&info, &writer, &epoch, &options, printer.clone(), told, &progress).await?;
    printer.remark("stopped");
    printer.result(json!({ "stopped": true, "stored": progress.borrow().map(|p| p.stored) }));
    Ok(ExitCode::SUCCESS)
}
