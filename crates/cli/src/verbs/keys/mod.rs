//! `bowline keys`: whom the repository's data keys open for.

mod change;
mod export;

use crate::args::{Common, KeysVerb};
use crate::fault::Fault;
use crate::show::Printer;
use crate::wiring::Wiring;
use comfy_table::{Table, presets};
use repo::{KeyPurpose, KeyView, Reader};
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;

pub async fn run(common: &Common, verb: &KeysVerb, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    match verb {
        KeysVerb::List => list(&wiring, printer).await,
        KeysVerb::Add(asked) => change::add(&wiring, asked, printer).await,
        KeysVerb::Remove(asked) => change::remove(&wiring, asked, printer).await,
        KeysVerb::Rewrap(asked) => change::rewrap(&wiring, asked, printer).await,
        KeysVerb::Rotate(asked) => change::rotate(&wiring, asked, printer).await,
        KeysVerb::Export(asked) => export::run(&wiring, asked, printer).await,
    }
}

async fn list(wiring: &Wiring, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let reader = wiring.onlooker().await?;
    let keys = reader.keys().await?;
    if keys.is_empty() {
        printer.say(format!("no data keys in {}: it is not encrypted", reader.address()));
    } else {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["KEY", "FOR", "CREATED", "OPENS FOR", "SINCE"]);
        for key in &keys {
            for (at, slot) in key.slots.iter().enumerate() {
                // Of one key its own facts once.
                let own = if at == 0 { [key.id.to_string(), purpose(&reader, key), key.created.to_string()] } else { Default::default() };
                table.add_row(own.into_iter().chain([slot.recipient.clone(), slot.created.to_string()]));
            }
        }
        for line in table.to_string().lines() {
            printer.say(line.trim_end());
        }
    }
    printer.result(json!({ "repository": reader.address(), "keys": keys, "wal_key": present_wal_key(&reader) }));
    Ok(ExitCode::SUCCESS)
}

fn present_wal_key(reader: &Reader) -> Option<seal::KeyId> {
    reader.epoch().and_then(|epoch| epoch.wal_key)
}

fn purpose(reader: &Reader, key: &KeyView) -> String {
    let is_present = present_wal_key(reader) == Some(key.id) || reader.document().digest_key == Some(key.id);
    match key.purpose {
        KeyPurpose::Backup => "a backup",
        KeyPurpose::Packages => "a snapshot of packages",
        KeyPurpose::Digest if is_present => "digests",
        KeyPurpose::Digest => "digests, unused",
        KeyPurpose::Wal if is_present => "WAL, now",
        KeyPurpose::Wal => "WAL, earlier",
    }
    .to_owned()
}
