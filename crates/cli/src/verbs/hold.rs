//! `bowline hold` and `unhold`: what stays whatever retention says.

use crate::args::{Common, HoldArgs};
use crate::fault::Fault;
use crate::show::Printer;
use crate::verbs::expire::Apart;
use crate::wiring::Wiring;
use repo::RepoError;
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use terms::{BackupId, Clock, SystemClock};

pub async fn run(common: &Common, asked: &HoldArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    let HoldArgs { backup, why } = asked;
    match wiring.writer().await?.hold(*backup, why, SystemClock.now()).await {
        // Perhaps it names a snapshot in a repository of its own.
        Err(e @ RepoError::NoBackup { .. }) => match Apart::of(&wiring)? {
            None => return Err(e.into()),
            Some(apart) => apart.writer().await?.hold(*backup, why, SystemClock.now()).await?,
        },
        held => held?,
    }
    printer.say(format!("{backup} is held: {why}"));
    printer.result(json!({ "backup": backup, "held": why }));
    Ok(ExitCode::SUCCESS)
}

pub async fn release(common: &Common, backup: BackupId, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    let mut was_held = wiring.writer().await?.unhold(backup, SystemClock.now()).await?;
    if !was_held && let Some(apart) = Apart::of(&wiring)? {
        was_held = apart.writer().await?.unhold(backup, SystemClock.now()).await?;
    }
    printer.say(if was_held { format!("{backup} is held no more") } else { format!("{backup} was not held") });
    printer.result(json!({ "backup": backup, "was_held": was_held }));
    Ok(ExitCode::SUCCESS)
}
