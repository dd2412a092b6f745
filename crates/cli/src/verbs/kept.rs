//! The configuration that a repository keeps, for a machine that has none. Its commands are run here: whose they are is told, and what is
//! forged is refused.

use crate::fault::Fault;
use crate::show::Printer;
use repo::{Authenticity, KeptConfiguration, Reader};
use terms::{Class, Clock, Event, Events, SystemClock};

/// That one, if any is kept.
pub async fn configuration(reader: &Reader, printer: &Printer) -> Result<Option<KeptConfiguration>, Fault> {
    let Some(kept) = reader.configuration(SystemClock.now()).await? else { return Ok(None) };
    let object = &kept.object;
    let notice = |what: String| printer.tell(Event::Noticed { what });
    for other in &kept.passed_over {
        notice(format!("{other} is newer and passed over: no host that opens this repository wrote it. Find out who has the credential that did"));
    }
    match kept.authenticity {
        Authenticity::Authentic => {}
        Authenticity::Unsigned => notice(format!(
            "nothing in {object} proves who wrote it: an older Bowline, one that does not encrypt, or somebody else. Read every command in it before you say yes"
        )),
        Authenticity::Forged => {
            return Err(Fault::of(
                "configuration-forged",
                Class::Damaged,
                format!("no host that opens this repository wrote the configuration {object}"),
                "What vouches for it was made without the repository's key, or for another place. None of its commands was run.",
                "Write a configuration by hand and name it with --config. Find out whose credential wrote this one, and remove the object.",
            ));
        }
    }
    printer.say(format!("this machine has no configuration: the one that the repository keeps is used, {object}"));
    Ok(Some(kept))
}
