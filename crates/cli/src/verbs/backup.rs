//! `bowline backup`.

use super::relock::relock;
use crate::args::{BackupArgs, ChecksumMode, Common};
use crate::config::ChecksumsKey;
use crate::fault::Fault;
use crate::show::{Printer, bytes, duration, rate};
use crate::wiring::{Wiring, cores};
use capture::{BackupOptions, Checksums, Meanwhile};
use repo::{BackupDocument, Writer};
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terms::{Clock, Event, Events, SystemClock};

pub async fn run(common: &Common, asked: &BackupArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    let made = make(&wiring, asked, Meanwhile::Refuse, printer).await;
    printer.finish();
    // Older backups, and the log, must outlive their locks, above all when no new backup comes about.
    let relocked = relock(&wiring).await;
    let made = made?;
    let took = Duration::from_secs_f64(made.took_seconds);
    printer.say(format!(
        "backup {}: {} files, {} stored as {} ({:.2}×), {} ({})",
        made.id,
        made.files,
        bytes(made.bytes),
        bytes(made.bytes_stored),
        made.bytes as f64 / made.bytes_stored.max(1) as f64,
        duration(took),
        rate(made.bytes, took),
    ));
    if made.pages_damaged > 0 {
        printer.say(format!("warning: {} damaged page(s) are in this backup; see above", made.pages_damaged));
    }
    // What fails there is as loud as a backup that failed.
    if let Some((found, days)) = relocked?.filter(|(found, _)| found.extended > 0) {
        printer.say(format!("locks of {} objects were extended to {days} days from now", found.extended));
    }
    printer.result(json!(made));
    Ok(ExitCode::SUCCESS)
}

/// Makes a full backup as configured and asked.
pub async fn make(wiring: &Wiring, asked: &BackupArgs, meanwhile: Meanwhile, printer: &Arc<Printer>) -> Result<BackupDocument, Fault> {
    let config = &wiring.config;
    let checksums = match (asked.checksums, config.backup.checksums) {
        (Some(ChecksumMode::Fail), _) | (None, Some(ChecksumsKey::Fail) | None) => Checksums::Fail,
        (Some(ChecksumMode::Warn), _) | (None, Some(ChecksumsKey::Warn)) => Checksums::Warn,
        (Some(ChecksumMode::Off), _) | (None, Some(ChecksumsKey::Off)) => Checksums::Off,
    };
    let options = BackupOptions {
        compression: asked.compression.or(config.backup.compression).unwrap_or_default(),
        jobs: asked.jobs.or(config.backup.jobs).map_or_else(cores, usize::from),
        max_rate: asked.max_rate.or(config.backup.max_rate).map(|rate| rate.as_u64()),
        checksums,
        fast_checkpoint: !(asked.spread_checkpoint || config.backup.spread_checkpoint),
        slot: Some(config.wal.slot.clone()),
        wal_timeout: config.backup.wal_timeout.unwrap_or(Duration::from_secs(600)),
        holder: super::host(),
        meanwhile,
    };
    let data_dir = config.postgres.data_dir.as_deref().filter(|_| !asked.stream);
    let info = wiring.conninfo()?;
    let writer = wiring.writer().await?;
    let keeper = writer.clone();
    let made = capture::backup(&info, data_dir, writer, options, &SystemClock, printer.clone()).await?;
    if let Err(fault) = keep_configuration(wiring, &keeper).await {
        printer.tell(Event::Noticed { what: format!("the configuration is not kept in the repository: {}. {}", fault.0.summary, fault.0.detail) });
    }
    if let Err(fault) = super::runbook::keep(wiring, &keeper, made.major).await {
        printer.tell(Event::Noticed { what: format!("the runbook is not kept in the repository: {}. {}", fault.0.summary, fault.0.hint) });
    }
    Ok(made)
}

/// A bare machine begins with the configuration that the repository keeps.
async fn keep_configuration(wiring: &Wiring, writer: &Writer) -> Result<(), Fault> {
    let Some(path) = &wiring.config.path else { return Ok(()) };
    let conninfo = wiring.config.postgres.conninfo.as_deref().unwrap_or_default();
    if pg::ConnInfo::parse(conninfo, &|_| None).is_ok_and(|info| info.has_password()) {
        let hint = "Let conninfo name a passfile instead.";
        return Err(Fault::misuse("secret-in-configuration", "[postgres] conninfo holds a password, which no repository may hold", "", hint));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|e| Fault::misuse("config-unreadable", format!("cannot read {}", path.display()), e.to_string(), ""))?;
    writer.keep_configuration(SystemClock.now(), &text).await?;
    Ok(())
}
