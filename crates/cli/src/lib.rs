//! The front door: reads what is asked for, wires the rooms together, prints what came of it, and exits with a code that says it.
//! A library beside the program, so that the fuzzers reach the configuration.

mod args;
mod config;
mod fault;
mod paging;
mod runbook;
mod show;
mod telling;
mod verbs;
mod watching;
mod wiring;

use clap::Parser;
use std::path::Path;
use std::process::ExitCode;

/// The whole program, on the words of its command line.
pub fn run() -> ExitCode {
    let words: Vec<std::ffi::OsString> = std::env::args_os().collect();
    // A server that recovers takes any code up to 125 from its restore_command for "there is no such file", ends
    // recovery and opens for business. Whatever goes wrong in a fetch, from here on, must not look like that.
    let is_fetch = words.windows(2).any(|pair| pair[0] == "wal" && pair[1] == "fetch");
    if is_fetch {
        std::panic::set_hook(Box::new(|info| {
            eprintln!("bowline wal fetch: internal error: {info}");
            std::process::exit(verbs::fetch::FAILED.into());
        }));
    }
    match args::Args::try_parse_from(&words) {
        Ok(args) => verbs::run(args),
        Err(e) => {
            let shown = e.print();
            match (e.use_stderr(), is_fetch) {
                (false, _) if shown.is_ok() => ExitCode::SUCCESS,
                (_, true) => ExitCode::from(verbs::fetch::FAILED),
                _ => ExitCode::from(2),
            }
        }
    }
}

/// Whether this is the text of a configuration file that a command would go on with; what is wrong with it otherwise.
pub fn is_configuration(text: &str, place: &Path) -> Result<(), String> {
    config::Config::parse(text, place).and_then(|config| config.check()).map_err(|fault| fault.0.to_string())
}
