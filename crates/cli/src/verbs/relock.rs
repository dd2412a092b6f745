//! `bowline relock`: extends the locks of what is still needed before they end. `bowline backup` does the same each time.

use crate::args::Common;
use crate::fault::{Fault, beside};
use crate::show::Printer;
use crate::wiring::Wiring;
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use store::Extended;
use terms::{Class, Clock, SystemClock};

pub async fn run(common: &Common, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    let Some((found, days)) = relock(&wiring).await? else {
        let hint = "Set [repository] object_lock and object_lock_days, in a bucket that was made with object lock (see docs/security.md).";
        return Err(Fault::misuse("no-object-lock", "this repository's objects are not locked", "", hint));
    };
    printer.say(format!("locks        {} objects, {} of them extended to {days} days from now", found.objects, found.extended));
    printer.result(json!({ "objects": found.objects, "extended": found.extended, "days": days }));
    Ok(ExitCode::SUCCESS)
}

/// Extends what has to be; what was found, and for how many days an object is locked. `None` where nothing is locked.
pub async fn relock(wiring: &Wiring) -> Result<Option<(Extended, u64)>, Fault> {
    let Some(lock) = wiring.object_lock() else { return Ok(None) };
    let door = store::open_versions(&wiring.address(), &wiring.store_options()?)?;
    let (found, unread) = wiring.reader().await?.extend_locks(&*door, &lock, SystemClock.now()).await?;
    if found.removed > 0 {
        return Err(Fault::of(
            "objects-removed",
            Class::Damaged,
            format!("{} objects of listed backups were removed from {}", found.removed, wiring.address()),
            "Their old versions are in the bucket until their locks end.",
            "Find out who did it, and restore with --repository-as-of a time before (see docs/immutability.md).",
        ));
    }
    // The locks of all that can be read are extended by now.
    beside(unread)?;
    Ok(Some((found, lock.keep.as_secs() / 86_400)))
}
