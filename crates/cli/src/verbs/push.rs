//! `bowline wal push`: a server's archive_command. Exit code 0 means that this file is durable in the repository. Every
//! failure is a code from 1 to 125: after a higher one the archiver dies unseen (manual chapter 26.3.1, PostgreSQL 18).

use super::beside::{self, Place};
use super::{finish, refuse_huge_pages, with_runtime};
use crate::args::{Common, PushArgs};
use crate::fault::Fault;
use crate::show::Printer;
use crate::wiring::Wiring;
use capture::{LookAhead, Notes};
use pg::{Sql, waiting_for_archive, waits_for_archive};
use repo::{Epoch, Kept, Writer};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use terms::{Clock, SystemClock, WalName};

/// How long the process that looks ahead may take for the file that the server wants now.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Stores one file; prints only what failed or was passed over, and with `--json` what was done.
pub fn run(common: &Common, asked: &PushArgs) -> ExitCode {
    let printer = Printer::new(common);
    let outcome = push(common, asked, &printer).map(|stored| {
        printer.result(json!({ "stored": stored, "path": asked.path }));
        ExitCode::SUCCESS
    });
    finish(outcome, &printer)
}

/// Whether this very call stored it; else it was there.
fn push(common: &Common, asked: &PushArgs, printer: &Printer) -> Result<bool, Fault> {
    let wiring = Wiring::new(common)?;
    let around = Around::of(&wiring, &asked.path);
    if asked.ahead {
        return around.map_or(Ok(()), |around| ahead(&wiring, &around)).map(|()| false);
    }
    if let Some(around) = &around {
        if around.is_stored() {
            return Ok(false);
        }
        around.begin_ahead(common, &asked.path);
    }
    refuse_huge_pages();
    let kept = with_runtime(async {
        let mut writer = wiring.writer().await?;
        let epoch = admit(&wiring, &mut writer, &asked.path).await?;
        Ok(capture::push(&writer, &epoch, &asked.path, wiring.config.wal.compression.unwrap_or_default()).await?)
    })?;
    if kept.is_none() {
        printer.remark(format!(
            "{} is passed over: another server's has its name, and no restore needs either (the new timeline's first segment begins with it)",
            asked.path.display()
        ));
    }
    Ok(matches!(kept, Some(Kept::Stored { .. })))
}

/// The file as one of a server's pg_wal, where more may wait.
struct Around {
    name: WalName,
    path: PathBuf,
    wal_dir: PathBuf,
    place: Place,
    notes: Notes,
    jobs: usize,
}

impl Around {
    /// `None` where looking ahead is off or impossible: then each file is stored when it is asked for.
    fn of(wiring: &Wiring, path: &Path) -> Option<Self> {
        let jobs = usize::from(wiring.config.wal.push_jobs);
        let name = path.file_name()?.to_str()?.parse().ok()?;
        let wal_dir = path.parent()?;
        let data_dir = wal_dir.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
        if jobs == 0 || wal_dir.file_name()? != "pg_wal" {
            return None;
        }
        let place = Place::of(wiring, data_dir)?;
        let notes = Notes::at(place.folder.join("pushed")).ok()?;
        Some(Self { name, path: path.to_owned(), wal_dir: wal_dir.to_owned(), place, notes, jobs })
    }

    /// Whether the file is durable already; waits for it while another process is at it.
    fn is_stored(&self) -> bool {
        let begun = Instant::now();
        loop {
            // Asked before the note: whoever leads leaves its note before it goes.
            let is_led = self.notes.is_led_to(&self.name);
            if self.notes.take(&self.name, &self.path, SystemClock.now()) {
                return true;
            }
            // What is not marked was not handed over by an archiver, and nobody brings it.
            if !is_led || begun.elapsed() > PATIENCE || !waits_for_archive(&self.wal_dir, &self.name) {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn begin_ahead(&self, common: &Common, path: &Path) {
        let more = waiting_for_archive(&self.wal_dir).is_ok_and(|waiting| waiting.iter().any(|name| *name != self.name));
        if more && !self.notes.is_led() {
            beside::start(common, &["wal".as_ref(), "push".as_ref(), "--ahead".as_ref(), path.as_os_str()]);
        }
    }
}

/// Which cluster the file belongs to, as the repository knows it.
async fn admit(wiring: &Wiring, writer: &mut Writer, path: &Path) -> Result<Epoch, Fault> {
    let header = pg::wal::SegmentHeader::read(&beginning(path), "").ok().map(|h| (h.system_id, h.major));
    // A history file or a label does not say whose it is; the data directory around it does.
    let around = || {
        let data_dir = path.parent().filter(|dir| dir.file_name().is_some_and(|name| name == "pg_wal"))?.parent()?;
        let data_dir = if data_dir == Path::new("") { Path::new(".") } else { data_dir };
        let control = pg::ControlFile::parse(&std::fs::read(data_dir.join(pg::CONTROL_FILE)).ok()?).ok()?;
        Some((control.system_id, control.major))
    };
    Ok(match (header.or_else(around), writer.reader().epoch().cloned()) {
        (Some((system_id, major)), _) => writer.admit(system_id, major, SystemClock.now()).await?,
        // With a second cluster in the repository a guess might be wrong, and what is stored stays.
        (None, Some(_)) if writer.reader().document().epochs.len() > 1 => {
            return Err(Fault::misuse(
                "cluster-unknown",
                format!("cannot tell which cluster {} is of", path.display()),
                "The repository holds several, and no data directory is around the file.",
                "Push it from pg_wal of its own data directory.",
            ));
        }
        (None, Some(epoch)) => epoch,
        // A history file or a label of a cluster that nothing is known of yet: the server tells which one it is.
        (None, None) => {
            let facts = Sql::connect(&wiring.conninfo()?).await?.server_facts().await?;
            writer.admit(facts.system_id, facts.major, SystemClock.now()).await?
        }
    })
}

fn beginning(path: &Path) -> Vec<u8> {
    use std::io::Read;
    let mut bytes = Vec::new();
    drop(std::fs::File::open(path).map(|file| file.take(8192).read_to_end(&mut bytes)));
    bytes
}

/// Stores what waits behind the asked file, beside the process that stores that one.
fn ahead(wiring: &Wiring, around: &Around) -> Result<(), Fault> {
    let Ok(Some(_lead)) = around.notes.lead(&around.name) else { return Ok(()) };
    refuse_huge_pages();
    with_runtime(async {
        let mut writer = wiring.writer().await?;
        let control = &around.place.control;
        let epoch = writer.admit(control.system_id, control.major, SystemClock.now()).await?;
        let ahead = LookAhead {
            wal_dir: &around.wal_dir,
            but: &around.name,
            notes: &around.notes,
            jobs: around.jobs,
            compression: wiring.config.wal.compression.unwrap_or_default(),
        };
        Ok(capture::push_ahead(&writer, &epoch, &ahead, &SystemClock).await?)
    })
}
