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
use std::ffi::OsString;
use std::io::Write;
use std::panic::PanicHookInfo;
use std::path::Path;
use std::process::ExitCode;

/// The whole program, on the words of its command line.
pub fn run() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    // A server that recovers takes any code up to 125 from its restore_command for "there is no such file", ends
    // recovery and opens for business. Whatever goes wrong in a fetch, from here on, must not look like that.
    let is_fetch = asks_for_a_fetch(&words);
    if is_fetch {
        std::panic::set_hook(Box::new(end_the_fetch));
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

/// Whether these words ask for a fetch, wherever options stand and whatever else is wrong with them: an option's value that is missing, as where
/// a shell's variable is empty, takes the next word. In doubt they do: another verb would only end with another code for its failure.
fn asks_for_a_fetch(words: &[OsString]) -> bool {
    words.iter().skip(1).skip_while(|word| *word != "wal").skip(1).any(|word| word == "fetch")
}

/// Ends the process when anything in a fetch panics: with Rust's own code, 101, the file would count as absent.
fn end_the_fetch(info: &PanicHookInfo<'_>) {
    // The panic may be that nothing can be printed any more: the disk with the server's log is full.
    drop(writeln!(std::io::stderr(), "bowline wal fetch: internal error: {info}"));
    std::process::exit(verbs::fetch::FAILED.into());
}

/// Whether this is the text of a configuration file that a command would go on with; what is wrong with it otherwise.
pub fn is_configuration(text: &str, place: &Path) -> Result<(), String> {
    config::Config::parse(text, place).and_then(|config| config.check()).map_err(|fault| fault.0.to_string())
}

#[cfg(test)]
mod tests {
    use super::args::{Verb, WalVerb};
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_fetch_is_known_wherever_options_stand() {
        for line in [
            "bowline wal fetch a b",
            "bowline --config F wal fetch a b",
            "bowline wal --config F fetch a b",
            "bowline wal --config=F fetch a b",
            "bowline wal --key wal --json -q fetch a b",
            "bowline wal --config push fetch a b",
            "bowline --org wal wal --org=x fetch --supply S a b",
        ] {
            assert!(asks_for_a_fetch(&words(line)), "{line}");
            let parsed = args::Args::try_parse_from(words(line)).map(|args| args.verb);
            assert!(matches!(parsed, Ok(Verb::Wal { verb: WalVerb::Fetch(_) })), "{line}: {parsed:?}");
        }
    }

    #[test]
    fn a_fetch_whose_words_are_wrong_is_known_as_well_and_nothing_else_is_taken_for_one() {
        for line in [
            "bowline wal --config F fetch --no-such-flag a b",
            "bowline wal --no-such-flag x fetch a b",
            "bowline --config wal fetch a b",
            "bowline wal --config fetch a b",
        ] {
            assert!(asks_for_a_fetch(&words(line)), "{line}");
            assert!(args::Args::try_parse_from(words(line)).is_err(), "{line}");
        }
        for line in ["bowline", "bowline wal", "bowline wal push pg_wal/fetch", "bowline wal receive", "bowline fetch", "bowline restore --to latest"]
        {
            assert!(!asks_for_a_fetch(&words(line)), "{line}");
        }
    }
}
