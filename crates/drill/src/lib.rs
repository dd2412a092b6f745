//! A restore that is held to prove that one would succeed: into a place of its own, checked, and gone again.

mod bad_pages;
mod counts;
mod error;
mod libraries;
mod page;
mod pages;
mod past;
mod production;
mod report;
mod room;
mod whom;

pub use error::DrillError;
pub use page::page;
pub use pages::PagesProof;
pub use report::{Comparison, LeftOut, Notice, Phase, Report};
pub use room::Room;

use checks::{Fault, Outcome, Proof, Question, References};
use counts::Against;
use pages::Pages;
use past::Past;
use pg::{
    CONTROL_FILE, CommitLog, ConnInfo, ControlFile, PAGE_SIZE, PrivateOptions, PrivateServer, ServerState, StopMode, find_bin_dir,
    refuse_unreachable, settings_of_a_copy, silenced,
};
use production::Production;
use repo::Reader;
use restore::{RestoreError, RestoreOptions, RestorePlan, TablespaceMap, Target, Wish};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use terms::{Class, Clock, Events, Explain};

/// How long the recovered server may take to start, and to stop.
const SERVER_LIMIT: Duration = Duration::from_secs(600);
/// What a restored cluster needs beyond its files: logs, the log of its own shutdown, what amcheck sorts.
const MARGIN_BYTES: u64 = 256 << 20;
/// So many transactions that hung open are named in a report: those of a normal day, and what crashes cut short.
const OPEN_ENDED_MAX: usize = 1000;

/// How a drill is held.
pub struct DrillOptions {
    /// The directory in which the drill's own one is made.
    pub parent: PathBuf,
    /// Threads that restore files (of a bucket six more), and then those that read pages; 0 counts as 1.
    pub jobs: usize,
    /// Where PostgreSQL's programs are; `None`: looked for in `$PATH` and where packages put them.
    pub bin_dir: Option<PathBuf>,
    /// The `bowline` program, which the server calls to get its WAL.
    pub program: PathBuf,
    /// Roles to try to log in as; any will do to learn the superuser's name.
    pub roles: Vec<String>,
    /// What the restored server is asked, beside all that is always looked at.
    pub questions: Vec<Question>,
    /// The user to be, which takes root; the owner of `parent`, or postgres, when nobody says.
    pub user: Option<String>,
    /// Production's data directory, when it is on this host.
    pub data_dir: Option<PathBuf>,
    /// Production's server, whose estimates the counts are held against.
    pub production: Option<ConnInfo>,
    /// How much of a table may be missing, from 0 to 1, before that is a fault.
    pub tolerance: f64,
    /// What tells to which objects the database refers.
    pub references: Option<References>,
}

/// Restores, checks and removes. What goes wrong with the repository or the database is in the report; an error means that this host could
/// not hold a drill.
pub async fn drill(reader: &Reader, wish: &Wish, options: &DrillOptions, clock: &dyn Clock, events: Arc<dyn Events>) -> Result<Report, DrillError> {
    let began = clock.now();
    let mut report = Report::begin(began, &wish.target);
    let asking = Instant::now();
    // First of all: what the log then holds beyond its answer counts in the drill's favour.
    let production = production::ask(options.production.as_ref()).await;
    report.phase("ask production", asking.elapsed());
    let clocked = Instant::now();
    let plan = match restore::plan(reader, wish).await {
        Ok(plan) => plan,
        Err(error) => return blame(report, "plan the restore", error),
    };
    report.planned(&plan);
    report.phase("plan", clocked.elapsed());
    let owner = whom::owner(options)?;
    (report.ran_as, report.is_productions_user) = whom::told(owner, options.data_dir.as_deref());
    refuse_cramped(&options.parent, &plan)?;
    find_bin_dir(plan.backup.major, options.bin_dir.as_deref())?;
    refuse_unreachable(&options.program, owner)?;
    let room = Room::make(&options.parent, owner)?;
    for (path, why) in room.left() {
        report.notice("", "an earlier drill", format!("what it left in {} could not be removed ({why}): remove it yourself", path.display()));
    }
    let held = hold(reader, &plan, &room, options, clock, events, &mut report).await;
    let removing = Instant::now();
    room.remove()?;
    report.phase("remove", removing.elapsed());
    match held {
        Ok((found, held)) => {
            compare(&mut report, found, held, production, &plan, options).await;
            Ok(report.judged())
        }
        Err(error) => blame(report, "restore", error),
    }
}

async fn hold(
    reader: &Reader,
    plan: &RestorePlan,
    room: &Room,
    options: &DrillOptions,
    clock: &dyn Clock,
    events: Arc<dyn Events>,
    report: &mut Report,
) -> Result<(Pages, Held), RestoreError> {
    let target = Target::inspect(&room.path().join("data"))?.with_sockets(room.path());
    let restoring = RestoreOptions {
        occupied: Default::default(),
        tablespaces: TablespaceMap { places: Default::default(), elsewhere: Some(room.path().join("tablespaces")) },
        jobs: options.jobs,
        bin_dir: options.bin_dir.clone(),
        program: options.program.clone(),
    };
    let restored = restore::restore(reader, plan, &target, &restoring, clock, events.clone()).await?;
    report.restored(&restored);
    let found = look_at_pages(&target, plan, options.jobs, report).await?;
    // Should no server start on them, they are told all the same; one that does start knows their names.
    bad_pages::tell_files(&found, report);
    let held = hold_against(reader, plan, &target, report).await?;
    let starting = Instant::now();
    let mut server = start(plan, &target, options)?;
    server.wait_until(|state| state == ServerState::Ready, SERVER_LIMIT).await?;
    report.is_cut_off = server.is_cut_off();
    report.phase("start", starting.elapsed());
    let checking = Instant::now();
    match server.superuser(&options.roles).await {
        Ok(info) => {
            report.proof = checks::prove(&info, &*events).await.unwrap_or_else(|error| not_verified("the server", &error));
            report.tell_what_was_not_looked_at();
            report.referred = checks::ask(&info, &options.questions, options.references.as_ref(), &mut report.proof).await;
            libraries::look(&info, reader, plan, &target, report).await;
            bad_pages::tell(&info, &found, report).await;
        }
        Err(error) => {
            report.proof = not_verified("the server", &error);
            bad_pages::tell_files(&found, report);
        }
    }
    report.phase_over("check", checking.elapsed(), plan.backup.bytes);
    let stopping = Instant::now();
    server.stop(StopMode::Immediate, SERVER_LIMIT).await?;
    report.phase("stop", stopping.elapsed());
    Ok((found, held))
}

fn control_of(target: &Target) -> Result<ControlFile, RestoreError> {
    let path = target.data_dir.join(CONTROL_FILE);
    Ok(ControlFile::parse(&fs::read(&path).map_err(|source| RestoreError::File { operation: "read", path, source })?)?)
}

/// Every page, before a server of the drill's own changes one: reading sets hint bits, which may move a page's position.
async fn look_at_pages(target: &Target, plan: &RestorePlan, jobs: usize, report: &mut Report) -> Result<Pages, RestoreError> {
    let reading = Instant::now();
    let (control, data_dir) = (control_of(target)?, target.data_dir.clone());
    let work = tokio::task::spawn_blocking(move || pages::read_pages(&data_dir, &control, jobs));
    let found = work.await.map_err(|e| RestoreError::Bug(e.to_string()))?;
    let found = found.map_err(|source| RestoreError::File { operation: "read the pages of", path: target.data_dir.clone(), source })?;
    report.pages = Some(found.proof);
    report.phase_over("read pages", reading.elapsed(), found.proof.pages * PAGE_SIZE as u64);
    if !found.proof.has_checksums {
        let what = format!(
            "the cluster of backup {} has no page checksums: damage that leaves a page readable shows only in what amcheck and a full read look at",
            plan.backup.id
        );
        report.notice("", "page checksums", what);
    }
    Ok(found)
}

/// The drill to compare with, and whether what hung open at its end is known not to have committed since.
type Held = (Result<Past, String>, bool);

async fn hold_against(reader: &Reader, plan: &RestorePlan, target: &Target, report: &mut Report) -> Result<Held, RestoreError> {
    let control = control_of(target)?;
    let mut log = CommitLog::of(&target.data_dir, &control);
    report.open_ended = log.open_ended(OPEN_ENDED_MAX).unwrap_or_else(|error| {
        // Whether that is damage the server will say that needs it.
        report.notice("", "pg_xact", format!("which transactions hung open could not be read: {error}"));
        None
    });
    let (past, passed_over) = past::last_passed(reader, plan.backup.system_id, report.recovered_to.unwrap_or(plan.backup.stop.lsn)).await;
    for what in passed_over {
        report.notice("", "an earlier report", what);
    }
    let hung = past.as_ref().ok().and_then(|past| past.open_ended.as_ref());
    let nothing_hung = hung.is_some_and(|hung| hung.iter().all(|xid| matches!(log.may_have_committed(*xid), Ok(false))));
    Ok((past, nothing_hung))
}

/// Adds to the report what the counts say beside the last drill's and production's.
async fn compare(
    report: &mut Report,
    found: Pages,
    (past, nothing_hung): Held,
    production: Result<Production, String>,
    plan: &RestorePlan,
    options: &DrillOptions,
) {
    for table in report.proof.databases.iter_mut().flat_map(|database| &mut database.rows) {
        table.trail = found.trails.get(&table.file).cloned();
    }
    // Without a server that answered there is nothing to compare.
    if report.proof.databases.is_empty() {
        return;
    }
    // Statistics follow what is written with a delay, and a drill takes long: what is short now and then is short.
    let production = match production {
        Ok(other) if other.system_id != plan.backup.system_id => {
            Err(format!("the server that [postgres] conninfo names is another cluster ({})", other.system_id))
        }
        Ok(first) => Ok(match production::ask(options.production.as_ref()).await {
            Ok(again) if again.system_id == first.system_id => first.lowered_by(&again),
            _ => first,
        }),
        Err(why) => Err(why),
    };
    let against = Against {
        ended: report.recovered_to.unwrap_or(plan.backup.stop.lsn),
        timeline: plan.timeline,
        past: past.as_ref().map_err(Clone::clone),
        nothing_hung,
        production: production.as_ref().map_err(Clone::clone),
        tolerance: options.tolerance,
    };
    let judged = counts::judge(&report.proof.databases, &against);
    report.proof.faults.extend(judged.faults);
    report.notices.extend(judged.notices);
    report.comparisons = judged.comparisons;
}

/// The restored cluster, where nothing but this process reaches it and it reaches nothing.
fn start(plan: &RestorePlan, target: &Target, options: &DrillOptions) -> Result<PrivateServer, RestoreError> {
    let control = control_of(target)?;
    let strict = [
        // What is looked at must not change meanwhile, and must not be passed over.
        ("autovacuum", "off"),
        ("ignore_checksum_failure", "off"),
        ("zero_damaged_pages", "off"),
        // Nobody will want what this server writes.
        ("fsync", "off"),
        ("log_timezone", "UTC"),
    ];
    let mut settings = settings_of_a_copy(&control);
    settings.extend(silenced(&control));
    settings.extend(strict.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let options = PrivateOptions {
        bin_dir: find_bin_dir(plan.backup.major, options.bin_dir.as_deref())?,
        data_dir: target.data_dir.clone(),
        owner: target.owner,
        settings,
        log: target.side_dir.join("server.log"),
        cut_off: true,
        sockets: target.sockets.clone(),
    };
    Ok(PrivateServer::start(&options)?)
}

/// Damage, and what is missing from the repository, is what a drill is held to find; whatever else stopped it leaves the question open.
fn blame(mut report: Report, object: &str, error: RestoreError) -> Result<Report, DrillError> {
    // This host's own troubles are no verdict on the backup.
    if matches!(error, RestoreError::Target { .. } | RestoreError::Bug(_)) {
        return Err(error.into());
    }
    let outcome = match error.class() {
        Class::Damaged | Class::Missing => Outcome::Failed,
        _ => Outcome::NotVerified,
    };
    let mut fault = fault_of(object, &error);
    fault.outcome = outcome;
    report.proof.faults.push(fault);
    Ok(report.judged())
}

fn not_verified(object: &str, error: &dyn Explain) -> Proof {
    Proof { faults: vec![fault_of(object, error)], ..Proof::default() }
}

fn fault_of(object: &str, error: &dyn Explain) -> Fault {
    Fault { outcome: Outcome::NotVerified, database: String::new(), object: object.to_owned(), what: error.in_a_line() }
}

fn refuse_cramped(parent: &Path, plan: &RestorePlan) -> Result<(), DrillError> {
    fs::create_dir_all(parent).map_err(DrillError::file("create", parent))?;
    let disk = rustix::fs::statvfs(parent).map_err(|e| DrillError::file("look at", parent)(e.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    // Segments are recycled while they are replayed: a few lie there at once.
    let wal = (plan.segments.len() as u64).min(64) * plan.backup.segment_bytes.bytes();
    let needed = plan.backup.bytes + plan.backup.bytes / 10 + wal + MARGIN_BYTES;
    if free < needed { Err(DrillError::NoRoom { dir: parent.to_owned(), needed, free }) } else { Ok(()) }
}
