//! `keys export`: data keys for whoever must read without any recipient, sealed for that person's age key.

use crate::args::KeysExportArgs;
use crate::fault::Fault;
use crate::show::Printer;
use crate::wiring::Wiring;
use serde_json::json;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use terms::Class;
use zeroize::Zeroizing;

pub async fn run(wiring: &Wiring, asked: &KeysExportArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let whom = asked.to.as_deref().map(keys::suits).transpose()?;
    let writer = wiring.key_keeper(Vec::new()).await?;
    let reader = writer.reader();
    let known = reader.keys().await?;
    let ids: Vec<_> = known.iter().filter(|key| asked.data_key.is_none_or(|wanted| wanted == key.id)).map(|key| key.id).collect();
    if ids.is_empty() {
        let what = asked.data_key.map_or_else(|| "no data key".to_owned(), |id| format!("no data key {id}"));
        return Err(Fault::of("key-missing", Class::Missing, format!("there is {what} in {}", reader.address()), "", "bowline keys list"));
    }
    let plain = document(wiring, reader, &known, &ids).await?;
    let text = match &whom {
        Some(whom) => Zeroizing::new(keys::seal_for(whom, plain.as_bytes())?),
        None => plain,
    };
    let sealed_for = whom.as_ref().map(|whom| whom.public().to_owned());
    match &asked.output {
        Some(path) => {
            write_new(path, text.as_bytes())?;
            printer.say(format!("{} data key(s) in {}{}", ids.len(), path.display(), if whom.is_some() { ", sealed" } else { ", NOT SEALED" }));
            printer.result(json!({ "keys": ids, "output": path, "sealed_for": sealed_for }));
        }
        None => {
            printer.say(text.trim_end());
            printer.result(json!({ "keys": ids, "sealed_for": sealed_for, "export": *text }));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What docs/format/read.py takes with --data-keys. Written by hand, so that no copies of the keys are left behind by a serializer.
async fn document(wiring: &Wiring, reader: &repo::Reader, known: &[repo::KeyView], ids: &[seal::KeyId]) -> Result<Zeroizing<String>, Fault> {
    let head = format!("{{\n  \"repository\": \"{}\",\n  \"org\": {},\n  \"data_keys\": [\n", reader.document().id, json!(wiring.config.org));
    let mut text = Zeroizing::new(String::with_capacity(head.len() + ids.len() * 200 + 16));
    text.push_str(&head);
    for (at, id) in ids.iter().enumerate() {
        let key = reader.data_key(*id).await?;
        let purpose = known.iter().find(|view| view.id == *id).map(|view| json!(view.purpose).to_string()).unwrap_or_default();
        text.push_str(&format!("    {{ \"id\": \"{id}\", \"purpose\": {purpose}, \"key\": \""));
        for byte in key.reveal() {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        text.push_str(if at + 1 == ids.len() { "\" }\n" } else { "\" },\n" });
    }
    text.push_str("  ]\n}\n");
    Ok(text)
}

/// Mode 0600, durable, never over what is there.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    let wrong = |e: std::io::Error| {
        Fault::of(
            "export-unwritable",
            Class::Refused,
            format!("cannot write {}", path.display()),
            format!("{e}."),
            "Name a new file in a folder that you may write to.",
        )
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(wrong)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(wrong)
}
