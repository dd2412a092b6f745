//! The program `bowline`: all of it is in the library beside it.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` (mimalloc.h, the sixteenth option in versions 2 and 3).
const PURGE_DELAY: i32 = 15;

fn main() -> ExitCode {
    // Buffers of megabytes come and go: what is freed goes back at once, so that memory in use is memory needed.
    // SAFETY: sets a number in the allocator's table of options; allowed at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
    cli::run()
}
