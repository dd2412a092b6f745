//! A restore that is held to prove that one would succeed: into a place of its own, checked, and gone again.

mod error;
mod page;
mod report;
mod room;

pub use error::DrillError;
pub use page::page;
pub use report::{Phase, Report};
pub use room::Room;

use checks::{Outcome, Proof, Question};
use pg::{CONTROL_FILE, ConnInfo, ControlFile, Owner, PrivateOptions, PrivateServer, ServerState, Sql, StopMode, find_bin_dir, settings_of_a_copy};
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

/// How a drill is held.
pub struct DrillOptions {
    /// The directory in which the drill's own one is made.
    pub parent: PathBuf,
    pub jobs: usize,
    pub bin_dir: Option<PathBuf>,
    /// The `bowline` program, which the server calls to get its WAL.
    pub program: PathBuf,
    /// Roles to try to log in as; any will do to learn the superuser's name.
    pub roles: Vec<String>,
    pub questions: Vec<Question>,
}

/// Restores, checks and removes. What goes wrong with the repository or the database is in the report; an error means that this host could
/// not hold a drill.
pub async fn drill(reader: &Reader, wish: &Wish, options: &DrillOptions, clock: &dyn Clock, events: Arc<dyn Events>) -> Result<Report, DrillError> {
    let began = clock.now();
    let mut report = Report::begin(began, &wish.target);
    let clocked = Instant::now();
    let plan = match restore::plan(reader, wish).await {
        Ok(plan) => plan,
        Err(error) => return blame(report, "plan the restore", error),
    };
    report.planned(&plan);
    report.phase("plan", clocked.elapsed());
    let owner = owner_in(&options.parent)?;
    refuse_cramped(&options.parent, &plan)?;
    find_bin_dir(plan.backup.major, options.bin_dir.as_deref())?;
    let room = Room::make(&options.parent, owner)?;
    let held = hold(reader, &plan, &room, options, clock, events, &mut report).await;
    let removing = Instant::now();
    room.remove()?;
    report.phase("remove", removing.elapsed());
    match held {
        Ok(()) => Ok(report.judged()),
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
) -> Result<(), RestoreError> {
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
    let starting = Instant::now();
    let mut server = start(plan, &target, options)?;
    server.wait_until(|state| state == ServerState::Ready, SERVER_LIMIT).await?;
    report.is_cut_off = server.is_cut_off();
    report.phase("start", starting.elapsed());
    let checking = Instant::now();
    report.proof = match superuser(&server, options).await {
        Ok(info) => checks::prove(&info, &options.questions, &*events).await,
        Err(error) => Err(error),
    }
    .unwrap_or_else(|error| not_verified("the server", &error));
    report.phase("check", checking.elapsed());
    let stopping = Instant::now();
    server.stop(StopMode::Immediate, SERVER_LIMIT).await?;
    report.phase("stop", stopping.elapsed());
    Ok(())
}

/// The restored cluster, where nothing but this process reaches it and it reaches nothing.
fn start(plan: &RestorePlan, target: &Target, options: &DrillOptions) -> Result<PrivateServer, RestoreError> {
    let control = target.data_dir.join(CONTROL_FILE);
    let control = ControlFile::parse(&fs::read(&control).map_err(|source| RestoreError::File { operation: "read", path: control, source })?)?;
    let strict = [
        // What is looked at must not change meanwhile, and must not be passed over.
        ("autovacuum", "off"),
        ("ignore_checksum_failure", "off"),
        ("zero_damaged_pages", "off"),
        // The cluster's own event triggers stay silent.
        ("session_replication_role", "replica"),
        // Nobody will want what this server writes.
        ("fsync", "off"),
        ("log_timezone", "UTC"),
    ];
    let mut settings = settings_of_a_copy(&control);
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

/// How to log in as the superuser, whose name only the server knows.
async fn superuser(server: &PrivateServer, options: &DrillOptions) -> Result<ConnInfo, pg::PgError> {
    let word = |text: &str| format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"));
    let socket = word(&server.socket_dir().display().to_string());
    let login = |role: &str| ConnInfo::parse(&format!("host={socket} port={} user={} dbname=template1", server.port(), word(role)), &|_| None);
    let mut last = None;
    for role in &options.roles {
        match Sql::connect(&login(role)?).await {
            Ok(session) => return login(&session.bootstrap_superuser().await?),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| pg::PgError::ConnInfo { what: "No role to log in as was given".into() }))
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

fn fault_of(object: &str, error: &dyn Explain) -> checks::Fault {
    checks::Fault { outcome: Outcome::NotVerified, database: String::new(), object: object.to_owned(), what: error.in_a_line() }
}

/// As whom PostgreSQL will run there.
fn owner_in(parent: &Path) -> Result<Owner, DrillError> {
    Ok(Target::inspect(&parent.join("data"))?.owner)
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
