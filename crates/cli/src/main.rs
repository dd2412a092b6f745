//! The front door: reads what is asked for, wires the rooms together, prints what came of it, and exits with a code that says it.

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
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` (mimalloc.h, the sixteenth option in versions 2 and 3).
const PURGE_DELAY: i32 = 15;

fn main() -> ExitCode {
    // Buffers of megabytes come and go: what is freed goes back at once, so that memory in use is memory needed.
    // SAFETY: sets a number in the allocator's table of options; allowed at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
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
