//! `keys add`, `remove`, `rewrap` and `rotate`: what is done to slots is shown first, proven, and done key by key.

use crate::args::{KeysAddArgs, KeysRemoveArgs, KeysRewrapArgs, KeysSureArgs};
use crate::fault::Fault;
use crate::show::Printer;
use crate::verbs::confirm::confirm;
use crate::wiring::Wiring;
use keys::{KeyFile, Spec};
use repo::{Change, KeyView, Proof, Writer};
use seal::{KeyId, Recipient};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use terms::{Class, Clock, SystemClock};

pub async fn add(wiring: &Wiring, asked: &KeysAddArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let spec = &asked.recipient;
    let writer = wiring.key_keeper(Vec::new()).await?;
    refuse_plain(&writer)?;
    let keys = writer.reader().keys().await?;
    if asked.plan {
        printer.say(format!("would wrap {} data keys for {spec} as well; nothing was changed", keys.len()));
        printer.result(json!({ "plan": true, "recipient": spec.to_string(), "keys": keys.len() }));
        return Ok(ExitCode::SUCCESS);
    }
    let recipient: Arc<dyn Recipient> = match (asked.new, spec.file()) {
        (true, Some(path)) => Arc::new(KeyFile::create(path)?),
        (true, None) => return Err(Fault::misuse("no-key-file", format!("{spec} is no key file that could be made"), "", "Leave out --new.")),
        (false, _) => spec.open()?,
    };
    let proof = writer.reader().prove(&*recipient).await?;
    let change = Change { wraps: vec![recipient], ..Change::default() };
    let changed = change_all(&writer, &change, printer).await?;
    printer.say(format!("{} data keys open for {} as well", changed.len(), proof.recipient));
    if !proof.is_proven {
        printer.say("NOT PROVEN: that its private half opens them can only be shown where it is: bowline check --key FILE");
    }
    if !wiring.specs()?.contains(spec) {
        printer.say(format!("next: add {:?} to [encryption] recipients, or the keys of later backups are not wrapped for it", spec.to_string()));
    }
    printer.result(told(&changed, &[proof]));
    Ok(ExitCode::SUCCESS)
}

pub async fn remove(wiring: &Wiring, asked: &KeysRemoveArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let name = slot_name(&asked.recipient)?;
    let writer = wiring.key_keeper(Vec::new()).await?;
    let keys = writer.reader().keys().await?;
    let with: Vec<&KeyView> = keys.iter().filter(|key| has(key, &name)).collect();
    if with.is_empty() {
        return Err(Fault::of(
            "recipient-absent",
            Class::Missing,
            format!("no data key is wrapped for {name}"),
            "",
            "bowline keys list shows the names; of a KMS key it is the ARN.",
        ));
    }
    for key in &with {
        let left: Vec<&str> = key.slots.iter().map(|slot| slot.recipient.as_str()).filter(|slot| *slot != name).collect();
        printer.say(format!("{}  would open for {}", key.id, if left.is_empty() { "NOBODY".to_owned() } else { left.join(", ") }));
        if left.is_empty() {
            return Err(repo::RepoError::LastRecipient { key: key.id.to_string(), left: Vec::new(), attempts: Vec::new() }.into());
        }
    }
    if asked.sure.plan {
        printer.say("nothing was changed");
        printer.result(json!({ "plan": true, "recipient": name, "keys": with.len() }));
        return Ok(ExitCode::SUCCESS);
    }
    confirm("the removal", asked.sure.yes, printer)?;
    let change = Change { drops: BTreeSet::from([name.clone()]), ..Change::default() };
    let changed = change_all(&writer, &change, printer).await?;
    printer.say(format!("{name} opens nothing here any more; whoever kept a data key that it opened still has that"));
    let is_configured = wiring.specs()?.iter().any(|spec| spec.to_string() == asked.recipient || spec.open().is_ok_and(|r| r.name() == name));
    if is_configured {
        printer.say("next: take it out of [encryption] recipients, or the keys of later backups are wrapped for it again");
    }
    printer.result(told(&changed, &[]));
    Ok(ExitCode::SUCCESS)
}

pub async fn rewrap(wiring: &Wiring, asked: &KeysRewrapArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let others = asked.open_with.iter().map(Spec::open).collect::<Result<Vec<_>, _>>()?;
    let writer = wiring.key_keeper(others).await?;
    refuse_plain(&writer)?;
    // All of them, and each must work: half a rewrap is not what was asked for.
    let recipients = wiring.specs()?.iter().map(Spec::open).collect::<Result<Vec<_>, _>>()?;
    let mut proofs: Vec<Proof> = Vec::new();
    for recipient in &recipients {
        proofs.push(writer.reader().prove(&**recipient).await?);
    }
    let keys = writer.reader().keys().await?;
    let drops: BTreeSet<String> = keys.iter().flat_map(|key| &key.slots).map(|slot| slot.recipient.clone()).collect();
    printer.say(format!("{} data keys, each wrapped anew for:", keys.len()));
    for proof in &proofs {
        printer.say(format!(
            "  {}{}",
            proof.recipient,
            if proof.is_proven { "" } else { "  (only its private half, kept elsewhere, can prove that it opens)" }
        ));
    }
    for gone in drops.iter().filter(|name| !proofs.iter().any(|proof| proof.recipient == **name)) {
        printer.say(format!("and no longer for:\n  {gone}"));
    }
    if asked.sure.plan {
        printer.say("nothing was changed");
        printer.result(json!({ "plan": true, "keys": keys.len(), "recipients": proofs }));
        return Ok(ExitCode::SUCCESS);
    }
    confirm("the rewrap", asked.sure.yes, printer)?;
    let changed = change_all(&writer, &Change { wraps: recipients, drops }, printer).await?;
    printer.say(format!("{} data keys were wrapped anew; no data was stored again", changed.len()));
    printer.result(told(&changed, &proofs));
    Ok(ExitCode::SUCCESS)
}

pub async fn rotate(wiring: &Wiring, asked: &KeysSureArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let mut writer = wiring.key_keeper(Vec::new()).await?;
    refuse_plain(&writer)?;
    let Some(former) = writer.reader().epoch().cloned() else { return Err(repo::RepoError::NoCluster.into()) };
    if asked.plan {
        printer.say("would begin a new data key for the WAL from here on; nothing was changed");
        printer.result(json!({ "plan": true, "former": former.wal_key }));
        return Ok(ExitCode::SUCCESS);
    }
    confirm("the rotation", asked.yes, printer)?;
    let epoch = writer.rotate_wal_key(SystemClock.now()).await?;
    printer.say(format!("the WAL's data key from here on: {}", epoch.wal_key.map_or_else(String::new, |id| id.to_string())));
    printer.say("next: start bowline wal receive again; one that runs goes on with the former key");
    printer.result(json!({ "former": former.wal_key, "wal_key": epoch.wal_key }));
    Ok(ExitCode::SUCCESS)
}

/// Changes every data key, those that others made meanwhile too.
async fn change_all(writer: &Writer, change: &Change, printer: &Arc<Printer>) -> Result<Vec<(KeyId, Vec<String>)>, Fault> {
    let mut changed: Vec<(KeyId, Vec<String>)> = Vec::new();
    loop {
        let keys = writer.reader().keys().await?;
        let next: Vec<&KeyView> = keys.iter().filter(|key| !changed.iter().any(|(id, _)| *id == key.id)).collect();
        if next.is_empty() {
            return Ok(changed);
        }
        for key in next {
            let slots = writer.change_slots(key.id, change, SystemClock.now()).await.map_err(|e| {
                let mut fault = Fault::from(e);
                if !changed.is_empty() {
                    fault.0.detail =
                        format!("{} {} data keys were changed before; every key still opens. Run it again.", fault.0.detail, changed.len());
                }
                fault
            })?;
            printer.remark(format!("{}  {}", key.id, slots.join(", ")));
            changed.push((key.id, slots));
        }
    }
}

fn told(changed: &[(KeyId, Vec<String>)], proofs: &[Proof]) -> Value {
    let keys: Vec<Value> = changed.iter().map(|(id, slots)| json!({ "id": id, "slots": slots })).collect();
    json!({ "keys": keys, "recipients": proofs })
}

fn has(key: &KeyView, name: &str) -> bool {
    key.slots.iter().any(|slot| slot.recipient == name)
}

/// The name that a recipient has in slots, where that is certain.
fn slot_name(text: &str) -> Result<String, Fault> {
    // As `keys list` shows a key file: by its check digits.
    let is_file = |text: &str| text.strip_prefix("file:/").is_some();
    if !is_file(text) {
        return Ok(text.to_owned());
    }
    Ok(text.parse::<Spec>()?.open()?.name())
}

fn refuse_plain(writer: &Writer) -> Result<(), Fault> {
    match writer.reader().sealed_only() {
        true => Ok(()),
        false => Err(Fault::of("not-encrypted", Class::Refused, "this repository is not encrypted: it has no keys", "", "A new repository can be.")),
    }
}
