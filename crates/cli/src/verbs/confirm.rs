//! Asks before something is done that is not easily undone.

use crate::fault::Fault;
use crate::show::Printer;
use std::io::{BufRead, IsTerminal};

/// Returns when a person typed yes. `what` is done: "the restore".
pub fn confirm(what: &str, yes: bool, printer: &Printer) -> Result<(), Fault> {
    confirm_by("yes", what, yes, printer)
}

/// Returns when a person typed this word: for what destroys something, one that nobody types by habit.
pub fn confirm_by(word: &str, what: &str, yes: bool, printer: &Printer) -> Result<(), Fault> {
    if yes {
        return Ok(());
    }
    let refused = |summary: String| Fault::misuse("not-confirmed", summary, "Nothing was touched.", format!("Say --yes, or answer {word}."));
    if !std::io::stdin().is_terminal() || printer.is_json() {
        return Err(refused(format!("nobody is there to confirm {what}")));
    }
    printer.say(format!("Type {word} to go on:"));
    let mut answer = String::new();
    drop(std::io::stdin().lock().read_line(&mut answer));
    if answer.trim() == word { Ok(()) } else { Err(refused(format!("{what} was not confirmed"))) }
}
