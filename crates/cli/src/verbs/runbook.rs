//! `bowline runbook`: what to do in a disaster, with this installation's own names.

use crate::args::{Common, RunbookArgs, RunbookForm};
use crate::fault::Fault;
use crate::runbook::{Names, book, html, markdown};
use crate::show::Printer;
use crate::wiring::Wiring;
use pg::Sql;
use repo::Writer;
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use terms::{Class, Clock, SystemClock};

pub async fn run(common: &Common, asked: &RunbookArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let names = if asked.generic { Names::generic() } else { own_names(common).await? };
    let parts = book(&names);
    let (text, page) = (markdown(&parts), html(&parts));
    if let Some(folder) = &asked.output {
        std::fs::create_dir_all(folder).map_err(cannot(folder))?;
        for (name, text) in [("runbook.md", &text), ("runbook.html", &page)] {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(cannot(&path))?;
            printer.say(path.display().to_string());
        }
    } else {
        printer.say(match asked.form {
            RunbookForm::Markdown => text.trim_end(),
            RunbookForm::Html => page.trim_end(),
        });
    }
    let kept = match asked.keep {
        true => Some(Wiring::new(common)?.writer().await?.keep_runbook(SystemClock.now(), text.clone(), page.clone()).await?.to_string()),
        false => None,
    };
    printer.result(json!({ "markdown": text, "html": page, "kept": kept }));
    Ok(ExitCode::SUCCESS)
}

/// Keeps the runbook in the repository, unless the newest one there says the same: whoever has lost the site has it still. `major` is that
/// of the newest backup.
pub async fn keep(wiring: &Wiring, writer: &Writer, major: u32) -> Result<(), Fault> {
    let reader = writer.reader();
    let parts = book(&Names::of(wiring, major, super::measured::lines(reader).await?)?);
    let text = markdown(&parts);
    if reader.runbook().await?.as_ref() != Some(&text) {
        writer.keep_runbook(SystemClock.now(), text, html(&parts)).await?;
    }
    Ok(())
}

async fn own_names(common: &Common) -> Result<Names, Fault> {
    let wiring = Wiring::new(common)?;
    let reader = wiring.reader().await?;
    let newest = reader.backups_and_damage().await?.0.pop();
    let major = match &newest {
        Some(backup) => backup.major,
        None => Sql::connect(&wiring.conninfo()?).await?.major(),
    };
    Names::of(&wiring, major, super::measured::lines(&reader).await?)
}

fn cannot(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Fault {
    let path = path.display().to_string();
    move |e| Fault::of("file-unwritable", Class::Refused, format!("cannot write {path}"), format!("{e}."), "Name another folder with --output.")
}
