//! The project's own chores, run as `cargo xtask …`; nothing here ships.

mod acceptance;
mod bench;
mod dataset;
mod drill;
mod fuzz;
mod package;
mod reference;
mod sabotage;
mod tests;
mod tidy;

use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

const USAGE: &str = "usage: cargo xtask COMMAND …
  tidy       checks the shape of the project
  dataset    loads data shaped like a knowledge service's into a running server
  bench      measures bowline against its peers and against the machine
  drill      backs up, destroys and restores a real cluster with bowline's own commands
  package    makes the Debian package of a built program
  tests      builds every test program and runs several at once
  fuzz       gives every reader of strangers' bytes what libFuzzer thinks of
  sabotage   makes one line wrong at a time and demands that the test which proves it fails
  acceptance holds the table of promises against what tests and drill printed
  reference  writes docs/reference out of the code";

/// The project.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where cargo builds it.
fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Fails unless this command did what it should.
fn ended(status: std::io::Result<ExitStatus>, otherwise: &str) -> Result<(), String> {
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{otherwise}: {status}")),
        Err(e) => Err(format!("{otherwise}: {e}")),
    }
}

/// What lies in a folder, in the order of names.
fn listed(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let wrong = |error: std::io::Error| format!("cannot list {}: {error}", folder.display());
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder).map_err(wrong)?.map(|entry| entry.map(|entry| entry.path()).map_err(wrong)).collect::<Result<_, _>>()?;
    found.sort();
    Ok(found)
}

/// The options of a chore; none when it was asked what they are, which is told.
fn options<T: Parser>(chore: &str, arguments: impl Iterator<Item = String>) -> Result<Option<T>, String> {
    match T::try_parse_from(std::iter::once(chore.to_owned()).chain(arguments)) {
        Ok(options) => Ok(Some(options)),
        Err(told) if !told.use_stderr() => {
            print!("{told}");
            Ok(None)
        }
        Err(wrong) => Err(wrong.to_string().trim_start_matches("error: ").trim_end().to_owned()),
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let done = match arguments.next().as_deref() {
        Some("tidy") => tidy::run().map_err(Into::into),
        Some("dataset") => dataset::run(arguments).map_err(Into::into),
        Some("drill") => drill::run(arguments).map_err(Into::into),
        // What the drill itself starts.
        Some("service") => drill::serve(arguments).map_err(Into::into),
        Some("tests") => tests::run(arguments).map_err(Into::into),
        Some("fuzz") => fuzz::run(arguments).map_err(Into::into),
        Some("sabotage") => sabotage::run(arguments),
        Some("package") => package::run(arguments).map_err(Into::into),
        Some("bench") => bench::run(arguments),
        Some("reference") => reference::run().map_err(Into::into),
        Some("acceptance") => acceptance::run(arguments),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
