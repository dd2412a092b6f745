//! Asks before something is done that is not easily undone.

use crate::fault::Fault;
use crate::show::Printer;
use std::io::{BufRead, IsTerminal};

/// Returns when a person typed yes. `what` is done: "the restore".
pub fn confirm(what: &str, yes: bool, printer: &Printer) -> Result<(), Fault> {
    if yes {
        return Ok(());
    }
    let refused = |summary: String| Fault::misuse("not-confirmed", summary, "Nothing was touched.", "Say --yes, or answer yes.");
    if !std::io::stdin().is_terminal() || printer.is_json() {
        return Err(refused(format!("nobody is there to confirm {what}")));
    }
    printer.say("Type yes to go on:");
    let mut answer = String::new();
    drop(std::io::stdin().lock().read_line(&mut answer));
    if answer.trim() == "yes" { Ok(()) } else { Err(refused(format!("{what} was not confirmed"))) }
}
