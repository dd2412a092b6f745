//! `bowline wal fetch`: a server's restore_command. Its exit codes are PostgreSQL's: 0 delivered; 1 proven absent, which
//! ends recovery; anything that failed is more than 125, which stops the server instead of opening half a database.

use crate::args::{Common, FetchArgs};
use crate::fault::Fault;
use crate::show::Printer;
use crate::verbs::with_runtime;
use crate::wiring::Wiring;
use pg::{CONTROL_FILE, ControlFile};
use restore::{Fetched, Spool, Supplied, ask_supply, fetch};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use terms::{SegmentName, SystemId, WalName};

/// What a failure exits with while a server recovers.
pub const FAILED: u8 = 200;
const ABSENT: u8 = 1;
/// How many segments are fetched ahead.
const AHEAD: u64 = 8;

/// Runs a fetch; prints only what failed.
pub fn run(common: &Common, asked: &FetchArgs) -> ExitCode {
    if let Some(socket) = &asked.supply {
        return match ask_supply(socket, &asked.name, &asked.path) {
            Supplied::Delivered => ExitCode::SUCCESS,
            Supplied::Absent => ExitCode::from(ABSENT),
            Supplied::Failed(why) => {
                eprintln!("bowline wal fetch: {}: {why}", asked.name);
                ExitCode::from(FAILED)
            }
        };
    }
    match by_hand(common, asked) {
        Ok(Fetched::Delivered) => ExitCode::SUCCESS,
        Ok(Fetched::Absent) => ExitCode::from(ABSENT),
        Err(fault) => {
            Printer::new(common).fault(&fault);
            // A standby asks again, and streams meanwhile; more than 125 would end it.
            ExitCode::from(if Path::new("standby.signal").exists() { ABSENT } else { FAILED })
        }
    }
}

fn by_hand(common: &Common, asked: &FetchArgs) -> Result<Fetched, Fault> {
    let name: WalName = asked
        .name
        .parse()
        .map_err(|e: terms::ParseError| Fault::misuse("wal-name", e.to_string(), "", "Use restore_command = 'bowline wal fetch %f %p'."))?;
    let wiring = Wiring::new(common)?;
    let spool = Place::find(&wiring)?;
    if asked.ahead {
        return fill(&wiring, &name, &spool).map(|()| Fetched::Absent);
    }
    // Only a server that recovers asks for this path; pg_rewind and people do not want more than they ask for.
    let recovers = asked.path.file_name().is_some_and(|n| n == "RECOVERYXLOG");
    if recovers && let Some(folder) = &spool.folder {
        match Spool::at(folder.clone()).take(&name, &asked.path) {
            Ok(true) => {
                fetch_ahead(common, &name, &spool);
                return Ok(Fetched::Delivered);
            }
            Ok(false) => {}
            // A spool that cannot be read costs time, not truth.
            Err(e) => eprintln!("bowline wal fetch: cannot use the spool {}: {e}", folder.display()),
        }
    }
    let fetched = with_runtime(async {
        let reader = wiring.reader().await?;
        let system_id = spool.system_id.or(reader.epoch().map(|e| e.system_id));
        let Some(system_id) = system_id else {
            return Err(Fault::of(
                "repository-empty",
                terms::Class::Missing,
                "the repository holds no cluster yet",
                "",
                "Check [repository] url and org.",
            ));
        };
        Ok(fetch(&reader, system_id, &name, &asked.path).await?)
    })?;
    if recovers && fetched == Fetched::Delivered {
        fetch_ahead(common, &name, &spool);
    }
    Ok(fetched)
}

/// Where segments are spooled, and for which cluster.
struct Place {
    folder: Option<PathBuf>,
    system_id: Option<SystemId>,
    segment_bytes: Option<terms::SegmentSize>,
}

impl Place {
    /// A server runs its restore_command in its data directory. The spool lies beside it, for this cluster and this
    /// repository alone: segments of another one bear the same names.
    fn find(wiring: &Wiring) -> Result<Self, Fault> {
        let control = std::fs::read(CONTROL_FILE).ok().and_then(|bytes| ControlFile::parse(&bytes).ok());
        let Some(control) = control else { return Ok(Self { folder: None, system_id: None, segment_bytes: None }) };
        let here = std::env::current_dir().ok();
        let beside = here.as_ref().and_then(|dir| Some(dir.with_file_name(format!("{}.bowline-wal", dir.file_name()?.to_string_lossy()))));
        let base = wiring.config.wal.spool.clone().or(beside);
        let folder = base.map(|base| base.join(format!("{}-{:016x}", control.system_id, fold(&wiring.address()))));
        Ok(Self { folder, system_id: Some(control.system_id), segment_bytes: Some(control.segment_size) })
    }
}

/// FNV-1a: tells addresses apart in a folder's name.
fn fold(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The segments after `name`.
fn following(name: &WalName, place: &Place) -> Vec<WalName> {
    let (WalName::Segment(segment), Some(size)) = (name, place.segment_bytes) else { return Vec::new() };
    let number = segment.number(size);
    (number + 1..=number + AHEAD).map(|n| WalName::Segment(SegmentName::numbered(n, segment.timeline(), size))).collect()
}

/// Starts a process that fetches ahead and outlives this one. It is a matter of speed only: failing to start it is not told.
fn fetch_ahead(common: &Common, name: &WalName, place: &Place) {
    let Some(folder) = &place.folder else { return };
    let ready = following(name, place).iter().filter(|n| folder.join(n.to_string()).exists()).count() as u64;
    if ready > AHEAD / 2 || following(name, place).is_empty() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut command = Command::new(program);
    for (flag, value) in [("--config", common.config.as_ref()), ("--key", common.key.as_ref())] {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    }
    for (flag, value) in [("--repository", &common.repository), ("--org", &common.org)] {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    }
    command.args(["wal", "fetch", "--ahead", &name.to_string(), "-"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    drop(command.spawn());
}

fn fill(wiring: &Wiring, name: &WalName, place: &Place) -> Result<(), Fault> {
    let (Some(folder), Some(system_id)) = (&place.folder, place.system_id) else { return Ok(()) };
    let names = following(name, place);
    with_runtime(async {
        let reader = wiring.reader().await?;
        Ok(Spool::at(folder.clone()).fill(&reader, system_id, &names).await?)
    })
}
