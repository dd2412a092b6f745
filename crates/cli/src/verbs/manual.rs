//! The hidden verb `manual`: writes the manual pages that a package ships, made from the words of the command line.

use crate::args::Args;
use crate::fault::Fault;
use crate::show::Printer;
use clap::CommandFactory;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// One page a command, `bowline.1`, `bowline-wal-push.1` and so on, into this folder.
pub fn run(dir: &Path, printer: &Arc<Printer>) -> ExitCode {
    let written = clap_mangen::generate_to(Args::command(), dir);
    let hint = "Name a folder that is there and can be written to.";
    super::finish(
        written
            .map(|()| ExitCode::SUCCESS)
            .map_err(|e| Fault::misuse("file-unwritable", format!("cannot write manual pages into {}", dir.display()), format!("{e}."), hint)),
        printer,
    )
}
