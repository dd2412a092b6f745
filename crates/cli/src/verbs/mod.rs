//! One file a verb; this one chooses.

mod alert;
mod audit;
mod backup;
mod beside;
mod bucket;
mod check;
mod check_keys;
mod confirm;
mod daemon;
mod damage;
mod doctor;
mod epoch;
mod expire;
pub mod fetch;
mod guard;
mod hold;
mod init;
mod kept;
mod keys;
mod ledger;
mod list;
mod manual;
mod measured;
mod outlook;
mod outside;
pub mod packages;
mod protect;
mod push;
mod relock;
mod rescue_report;
mod restore;
mod runbook;
mod runs;
mod scrub;
mod status;
mod store_findings;
mod verbatim;
mod verify;
mod wal;

use crate::args::{Args, Verb, WalVerb};
use crate::fault::Fault;
use crate::show::Printer;
use clap::CommandFactory;
use std::process::ExitCode;
use std::sync::Arc;

/// Carries out what was asked for and returns its exit code.
pub fn run(args: Args) -> ExitCode {
    let Args { common, verb } = args;
    // Recovery calls this once a segment: no runtime, no configuration, before they are known to be needed.
    if let Verb::Wal { verb: WalVerb::Fetch(asked) } = verb {
        return fetch::run(&common, &asked);
    }
    // The archiver calls this once a segment, and most of them are stored already when it does.
    if let Verb::Wal { verb: WalVerb::Push(asked) } = verb {
        return push::run(&common, &asked);
    }
    if let Verb::Completions { shell } = verb {
        clap_complete::generate(shell, &mut Args::command(), "bowline", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    if let Verb::Manual { dir } = &verb {
        return manual::run(dir, &Printer::new(&common));
    }
    if matches!(verb, Verb::Backup(_) | Verb::Wal { .. }) {
        refuse_huge_pages();
    }
    let printer = Printer::new(&common);
    if common.repository_as_of.is_some() && !looks_only(&verb) {
        let hint = "list, restore (but not --files-only), verify, status and wal audit --no-read take it; what writes to the repository writes to it as it is now.";
        return finish(Err(Fault::misuse("usage", "this command does not take --repository-as-of", "", hint)), &printer);
    }
    // A receiver mostly waits, and a commit may wait for it: the thread that hears the server is the one that acts.
    let threads = match verb {
        Verb::Wal { verb: WalVerb::Receive(_) } => Threads::One,
        _ => Threads::Few,
    };
    let job = ledger::job(&verb);
    let outcome = with_threads(threads, async {
        let work = async {
            match verb {
                Verb::Init(asked) => init::run(&common, &asked, &printer).await,
                Verb::Check => check::run(&common, &printer).await,
                Verb::Backup(asked) => backup::run(&common, &asked, &printer).await,
                Verb::Restore(asked) => restore::run(&common, &asked, &printer).await,
                Verb::Verify(asked) => verify::run(&common, &asked, &printer).await,
                Verb::Packages { verb } => packages::run(&common, &verb, &printer).await,
                Verb::Keys { verb } => keys::run(&common, &verb, &printer).await,
                Verb::Alert { verb } => alert::run(&common, &verb, &printer).await,
                Verb::Runbook(asked) => runbook::run(&common, &asked, &printer).await,
                Verb::List => list::run(&common, &printer).await,
                Verb::Expire(asked) => expire::run(&common, &asked, &printer).await,
                Verb::Scrub(asked) => scrub::run(&common, &asked, &printer).await,
                Verb::Hold(asked) => hold::run(&common, &asked, &printer).await,
                Verb::Unhold { backup } => hold::release(&common, backup, &printer).await,
                Verb::Relock => relock::run(&common, &printer).await,
                Verb::Status => status::run(&common, &printer).await,
                Verb::Doctor => doctor::run(&common, &printer).await,
                Verb::Runs(asked) => runs::run(&common, &asked, &printer).await,
                Verb::Daemon => daemon::run(&common, &printer).await,
                Verb::Wal { verb: WalVerb::Receive(asked) } => wal::receive(&common, asked, &printer).await,
                Verb::Wal { verb: WalVerb::Audit(asked) } => audit::run(&common, &asked, &printer).await,
                Verb::Wal { verb: WalVerb::Push(_) | WalVerb::Fetch(_) } | Verb::Completions { .. } | Verb::Manual { .. } => Ok(ExitCode::SUCCESS),
            }
        };
        match job {
            Some(job) => ledger::recorded(&common, job, &printer, work).await,
            None => work.await,
        }
    });
    finish(outcome, &printer)
}

/// Whether a verb can do with a repository that nothing can be written to.
fn looks_only(verb: &Verb) -> bool {
    match verb {
        Verb::List | Verb::Status | Verb::Verify(_) => true,
        // What it reads it would index.
        Verb::Wal { verb: WalVerb::Audit(asked) } => asked.no_read,
        // Files alone would have to be recovered by a command that looks at the repository as it is now.
        Verb::Restore(asked) => !asked.files_only,
        _ => false,
    }
}

/// This host's name, for people.
pub fn host() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "a host without a name".into())
}

/// Buffers of a megabyte on pages of two megabytes double the memory in use and cost time to clear. Only for verbs
/// that start no server: it would inherit this.
fn refuse_huge_pages() {
    // SAFETY: sets a flag of this process; a kernel that does not know it changes nothing, and neither matters more than speed.
    unsafe { nix::libc::prctl(nix::libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

fn finish(outcome: Result<ExitCode, Fault>, printer: &Arc<Printer>) -> ExitCode {
    printer.finish();
    match outcome {
        Ok(code) => code,
        Err(fault) => {
            printer.fault(&fault);
            ExitCode::from(fault.exit_code())
        }
    }
}

/// On how many threads asynchronous work runs; what blocks or computes for long has others.
enum Threads {
    /// Whatever the system tells wakes the work itself, not a thread that then wakes it.
    One,
    Few,
}

/// How long the servers' answers to the sessions' farewells are waited for.
const LEAVE_LIMIT: std::time::Duration = std::time::Duration::from_secs(1);

/// Runs asynchronous work on a runtime made for it. Few threads: the heavy lifting has threads of its own.
pub fn with_runtime<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    with_threads(Threads::Few, work)
}

fn with_threads<T>(threads: Threads, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    // The one cryptography provider, before anybody shakes hands.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return Err(Fault::of("bug", terms::Class::Bug, "a TLS provider was installed twice", "", ""));
    }
    let runtime = match threads {
        Threads::One => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        Threads::Few => tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build(),
    };
    let runtime = runtime
        .map_err(|e| Fault::of("no-runtime", terms::Class::Refused, "cannot start threads", format!("{e}."), "Look at ulimit -u and ulimit -n."))?;
    let outcome = runtime.block_on(async {
        let outcome = work.await;
        pg::all_closed(LEAVE_LIMIT).await;
        outcome
    });
    // Work that hangs in a system call must not keep the command from ending.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    outcome
}
