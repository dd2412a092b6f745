//! `bowline init --new-epoch`: the repository goes on with the cluster that pg_upgrade or a new initdb made.

use crate::args::{Common, InitArgs};
use crate::fault::Fault;
use crate::show::Printer;
use crate::verbs::confirm::confirm;
use crate::wiring::Wiring;
use pg::{Sql, find_bin_dir};
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use terms::{Clock, Explain, SystemClock};

pub async fn run(common: &Common, asked: &InitArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    let mut writer = wiring.writer().await?;
    let facts = Sql::connect(&wiring.conninfo()?).await?.server_facts().await?;
    // Refused before anybody is asked.
    let former = writer.reader().epoch_before(facts.system_id)?.clone();
    let backups = writer.reader().backups_and_damage().await?.0.iter().filter(|b| b.system_id == former.system_id).count();
    printer.say(format!("repository   {}", writer.reader().address()));
    printer.say(format!("up to now    cluster {} of PostgreSQL {}, since {}, {backups} backups", former.system_id, former.major, former.since));
    printer.say(format!("from now on  cluster {} of PostgreSQL {}, the server that conninfo names", facts.system_id, facts.major));
    printer.say("             with the same key and the same repository; what is stored of the former cluster stays and can be restored");
    printer.say("             the former cluster is refused from then on, and this cannot be taken back");
    // A restore to before the upgrade needs what the upgrade may have removed.
    if let Err(e) = find_bin_dir(former.major, wiring.config.postgres.bin_dir.as_deref()) {
        printer.say(format!("note         {e}: restores of the former cluster need them. {}", e.hint()));
    }
    confirm("the new epoch", asked.yes, printer)?;
    let epoch = writer.begin_epoch(former.system_id, facts.system_id, facts.major, SystemClock.now()).await?;
    printer.say(format!("the new epoch began at {}", epoch.since));
    printer.say("NOT PROTECTED YET: nothing of the new cluster can be restored until a full backup of it is listed");
    printer.say("next: bowline backup, at once; and start bowline wal receive again");
    let brief = |epoch: &repo::Epoch| json!({ "system_id": epoch.system_id, "major": epoch.major, "since": epoch.since });
    printer.result(json!({
        "repository": writer.reader().document().id, "address": writer.reader().address(),
        "former": brief(&former), "epoch": brief(&epoch), "next": "bowline backup",
    }));
    Ok(ExitCode::SUCCESS)
}
