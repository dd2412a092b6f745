//! `bowline wal fetch`: a server's restore_command. Its exit codes are PostgreSQL's: 0 delivered; 1 proven absent, which
//! ends recovery; anything that failed is more than 125, which stops the server instead of opening half a database.

use crate::args::{Common, FetchArgs};
use crate::fault::Fault;
use crate::show::Printer;
use crate::verbs::beside::{self, Place};
use crate::verbs::with_runtime;
use crate::wiring::Wiring;
use repo::RepoError;
use restore::{Fetched, Follows, Spool, Supplied, ask_supply, fetch};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use terms::{SegmentName, SegmentSize, WalName};

/// What a failure exits with while a server recovers.
pub const FAILED: u8 = 200;
const ABSENT: u8 = 1;
/// How long a segment that is on its way to the spool is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Runs a fetch; prints only what failed.
pub fn run(common: &Common, asked: &FetchArgs) -> ExitCode {
    if let Some(socket) = &asked.supply {
        return match ask_supply(socket, &asked.name, &asked.path) {
            Supplied::Delivered => ExitCode::SUCCESS,
            Supplied::Placed | Supplied::Absent => ExitCode::from(ABSENT),
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
            ExitCode::from(if is_standby() { ABSENT } else { FAILED })
        }
    }
}

/// A server runs its restore_command in its data directory.
fn is_standby() -> bool {
    Path::new("standby.signal").exists()
}

/// Which timeline the server follows that runs this. What it asks at the beginning of recovery, looking for the newest, it asks once more
/// at the end, looking for a number that is free; one that looks for the newest has found it by then, and nothing later is stored.
fn follows() -> Follows {
    if is_standby() || pg::is_told_its_timeline(Path::new(".")) { Follows::Told } else { Follows::Newest }
}

fn by_hand(common: &Common, asked: &FetchArgs) -> Result<Fetched, Fault> {
    let name: WalName = asked
        .name
        .parse()
        .map_err(|e: terms::ParseError| Fault::misuse("wal-name", e.to_string(), "", "Use restore_command = 'bowline wal fetch %f %p'."))?;
    let wiring = Wiring::new(common)?;
    // A server runs its restore_command in its data directory.
    let place = Place::of(&wiring, Path::new("."));
    if asked.ahead {
        return place.map_or(Ok(()), |place| fill(&wiring, &name, &place)).map(|()| Fetched::Absent);
    }
    // Only a server that recovers asks for this path; pg_rewind and people do not want more than they ask for.
    let recovers = asked.path.file_name().is_some_and(|n| n == "RECOVERYXLOG");
    let spool = match (&place, &name) {
        (Some(place), WalName::Segment(segment)) if recovers && wiring.config.wal.fetch_jobs > 0 => {
            Some((spool_in(place), *segment, place.control.segment_size))
        }
        _ => None,
    };
    if let Some((spool, segment, size)) = &spool {
        match take(spool, &name, &asked.path) {
            Ok(true) => {
                follow(common, spool, *segment, *size);
                return Ok(Fetched::Delivered);
            }
            Ok(false) => {}
            // A spool that cannot be read costs time, not truth.
            Err(e) => eprintln!("bowline wal fetch: cannot use what was fetched ahead: {e}"),
        }
    }
    let fetched = with_runtime(async {
        let reader = wiring.reader().await?;
        let system_id = place.as_ref().map(|place| place.control.system_id).or(reader.epoch().map(|e| e.system_id));
        let Some(system_id) = system_id else {
            return Err(Fault::of(
                "repository-empty",
                terms::Class::Missing,
                "the repository holds no cluster yet",
                "",
                "Check [repository] url and org.",
            ));
        };
        // "Not there" would end the recovery of a server whose WAL is somewhere else.
        let epochs = &reader.document().epochs;
        if let Some(last) = epochs.last().filter(|_| epochs.iter().all(|e| e.system_id != system_id)) {
            return Err(RepoError::ForeignCluster { ours: last.system_id, found: system_id }.into());
        }
        Ok(fetch(&reader, system_id, &name, &asked.path, follows()).await?)
    })?;
    if let (Fetched::Delivered, Some((spool, segment, size))) = (fetched, &spool) {
        follow(common, spool, *segment, *size);
    }
    Ok(fetched)
}

fn spool_in(place: &Place) -> Spool {
    Spool::at(place.folder.join("fetched"))
}

/// Takes the segment from the spool; waits for it while it is on its way there.
fn take(spool: &Spool, name: &WalName, to: &Path) -> std::io::Result<bool> {
    let begun = Instant::now();
    loop {
        // Asked before the segment: what was on its way is there when it is no more.
        let is_coming = spool.is_coming(name);
        if spool.take(name, to)? {
            return Ok(true);
        }
        if !is_coming || begun.elapsed() > PATIENCE {
            return Ok(false);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whoever fills the spool goes on from here; somebody will, when nobody does.
fn follow(common: &Common, spool: &Spool, got: SegmentName, size: SegmentSize) {
    drop(spool.tell(got));
    if !spool.is_filled() && spool.is_low(got, size) {
        beside::start(common, &["wal".as_ref(), "fetch".as_ref(), "--ahead".as_ref(), got.to_string().as_ref(), "-".as_ref()]);
    }
}

fn fill(wiring: &Wiring, name: &WalName, place: &Place) -> Result<(), Fault> {
    let WalName::Segment(from) = name else { return Ok(()) };
    let jobs = usize::from(wiring.config.wal.fetch_jobs);
    with_runtime(async {
        let reader = wiring.reader().await?;
        Ok(spool_in(place).fill(&reader, place.control.system_id, *from, place.control.segment_size, jobs).await?)
    })
}
