//! The repository into a data directory, and a server brought to the instant that was asked for.

mod ahead;
mod at_once;
mod buffers;
mod config;
mod contents;
mod deep;
mod delta;
mod doubt;
mod epochs;
mod error;
mod estimate;
mod fallback;
mod feed;
mod fetch;
mod files;
mod host;
mod known;
mod log;
mod loss;
mod mounts;
mod names;
mod pacing;
mod packages;
mod paths;
mod place;
mod plan;
mod proof;
mod replay;
mod space;
mod spoiled;
mod spool;
mod supply;
mod tablespaces;
mod tail;
mod target;
mod xids;

pub use config::{ConfigPlaces, Fate, Placed, gives_way, is_anothers, put_config_back};
pub use contents::{Contents, TablespaceContents};
pub use deep::{Proven, prove_deep};
pub use delta::{Occupied, recognise};
pub use epochs::plan;
pub use error::RestoreError;
pub use estimate::{DrillRecord, Estimate, Measured, Phase, measured};
pub use fallback::{Alternative, Detour, LossWindow, OnDamage, Way, alternatives, choose};
pub use fetch::{Fetched, Follows, fetch};
pub use files::{Restored, TablespaceMap};
pub use host::{Host, Lack, Weight, install_command, lacks};
pub use known::{StoredEnd, stored_end};
pub use loss::Loss;
pub use plan::{PlanSummary, RestorePlan, Stop, Wish};
pub use replay::Recovered;
pub use space::{Disk, Filesystem, Held, Need, disk_of, group, needs, refuse_cramped};
pub use spoiled::Spoiled;
pub use spool::Spool;
pub use supply::{Supplied, ask_supply};
pub use target::{Target, UNFINISHED, create_anew, linked_wal};

use repo::Reader;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use terms::{Clock, Event, Events, RecoveryTarget, Step, Timestamp};
use tokio::runtime::Handle;

/// How to carry a plan out.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// What becomes of what lies in the target.
    pub occupied: Occupied,
    /// Where each goes that is not to lie where it was.
    pub tablespaces: TablespaceMap,
    /// Threads that fetch, open and write; six more where the store is remote.
    pub jobs: usize,
    /// Where PostgreSQL's programs are looked for first; `None`: in `$PATH`, then where packages put them.
    pub bin_dir: Option<PathBuf>,
    /// The `bowline` program, which the server calls to get its WAL.
    pub program: PathBuf,
}

/// What was done, step by step.
#[derive(Debug, Clone)]
pub struct RestoreReport {
    /// Those that ended well, in order, with how long each took.
    pub steps: Vec<(Step, Duration)>,
    /// What became of the files.
    pub restored: Restored,
    /// Where the old data went.
    pub moved_aside: Option<PathBuf>,
    /// `None` when only files were asked for.
    pub recovered: Option<Recovered>,
    /// From the first look at the target; of recovery only its own step is added.
    pub took: Duration,
}

impl RestoreReport {
    fn new() -> Self {
        Self { steps: Vec::new(), restored: Restored::default(), moved_aside: None, recovered: None, took: Duration::ZERO }
    }
}

/// Restores the files and recovers the cluster; at the end it is promoted, cleanly stopped and durable.
pub async fn restore(
    reader: &Reader,
    plan: &RestorePlan,
    target: &Target,
    options: &RestoreOptions,
    clock: &dyn Clock,
    events: Arc<dyn Events>,
) -> Result<RestoreReport, RestoreError> {
    let mut report = restore_only_files(reader, plan, target, options, clock, events.clone()).await?;
    let mut steps = Steps { events: &*events, report: &mut report };
    mark_for_recovery(target)?;
    let recovered = steps.run_async(Step::Replay, recover(reader, plan, target, options, events.clone())).await?;
    report.recovered = Some(recovered);
    Ok(report)
}

/// Recovers the restored files as planned; at the end the cluster is promoted, cleanly stopped and durable. What was begun and broke off
/// goes on: where a new timeline is in pg_control recovery is over, and the server has only to come up once. After damage in the
/// log it can be called again with a plan that ends before it.
pub async fn recover(
    reader: &Reader,
    plan: &RestorePlan,
    target: &Target,
    options: &RestoreOptions,
    events: Arc<dyn Events>,
) -> Result<Recovered, RestoreError> {
    replay::replay(reader, plan, target, options, events).await
}

/// Leaves the mark by which the server knows that it is to recover from the archive; it takes it away when its new timeline begins.
pub fn mark_for_recovery(target: &Target) -> Result<(), RestoreError> {
    replay::write_signal(target)
}

/// Restores the files, durably, and starts nothing.
pub async fn restore_only_files(
    reader: &Reader,
    plan: &RestorePlan,
    target: &Target,
    options: &RestoreOptions,
    clock: &dyn Clock,
    events: Arc<dyn Events>,
) -> Result<RestoreReport, RestoreError> {
    let began = Instant::now();
    let now = clock.now();
    let mut report = RestoreReport::new();
    let mut steps = Steps { events: &*events, report: &mut report };
    delta::recognise(target, options.occupied, plan.backup.system_id)?;
    let moved = if options.occupied == Occupied::MoveAside { target.place_aside(now) } else { None };
    steps.run(Step::MoveAside, || target.prepare(moved.as_deref()))?;
    if let Some(to) = &moved {
        events.tell(Event::MovedAside { from: target.data_dir.clone(), to: to.clone() });
    }
    let restored = steps.run_async(Step::CopyFiles, copy_files(reader, plan, target, options, now, events.clone())).await?;
    for (from, to) in &restored.moved {
        events.tell(Event::MovedAside { from: from.clone(), to: to.clone() });
    }
    report.restored = restored;
    report.moved_aside = moved;
    report.took = began.elapsed();
    Ok(report)
}

/// Puts the backup's files into the directories that [`Target::prepare`] made, durably; what is right there already is kept, unless
/// nothing is to be there.
pub async fn copy_files(
    reader: &Reader,
    plan: &RestorePlan,
    target: &Target,
    options: &RestoreOptions,
    now: Timestamp,
    events: Arc<dyn Events>,
) -> Result<Restored, RestoreError> {
    let (reader, target, options) = (reader.clone(), target.clone(), options.clone());
    let (backup, runtime) = (plan.backup.clone(), Handle::current());
    let work = move || files::restore_files(&reader, &backup, &target, &options, now, &runtime, &*events);
    tokio::task::spawn_blocking(work).await.map_err(|e| RestoreError::Bug(e.to_string()))?
}

/// Writes into the restored cluster what it needs to recover by itself when somebody starts it: the target and a
/// `restore_command`, appended to postgresql.auto.conf, and `recovery.signal`.
pub fn write_recovery_settings(plan: &RestorePlan, target: &Target, restore_command: &str) -> Result<(), RestoreError> {
    let path = target.data_dir.join("postgresql.auto.conf");
    let mut lines = String::from("# Written by bowline restore --files-only\n");
    // Whoever starts it later to get the latest state wants what is stored by then.
    let last_record = plan.last_record.filter(|_| plan.target != RecoveryTarget::Latest);
    let mut settings = replay::recovery_settings(plan, last_record);
    settings.push(("restore_command".into(), restore_command.to_owned()));
    for (name, value) in settings {
        lines.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
    }
    let mut how = fs::OpenOptions::new();
    how.append(true).create(true).custom_flags(nix::libc::O_NOFOLLOW);
    let mut file = how.open(&path).map_err(RestoreError::file("open", &path))?;
    file.write_all(lines.as_bytes()).and_then(|()| file.sync_all()).map_err(RestoreError::file("write", &path))?;
    std::os::unix::fs::fchown(&file, Some(target.owner.uid), Some(target.owner.gid)).map_err(RestoreError::file("own", &path))?;
    replay::write_signal(target)
}

/// A `restore_command` that calls this program with this configuration.
pub fn restore_command(program: &Path, config: &Path) -> String {
    format!("{} --config {} wal fetch %f %p", replay::shell_word(program), replay::shell_word(config))
}

/// Runs steps, tells of them and times them.
struct Steps<'a> {
    events: &'a dyn Events,
    report: &'a mut RestoreReport,
}

impl Steps<'_> {
    fn run<T>(&mut self, step: Step, work: impl FnOnce() -> Result<T, RestoreError>) -> Result<T, RestoreError> {
        self.events.tell(Event::StepBegun { step });
        let began = Instant::now();
        let outcome = work();
        self.ended(step, began.elapsed(), outcome)
    }

    async fn run_async<T>(&mut self, step: Step, work: impl Future<Output = Result<T, RestoreError>>) -> Result<T, RestoreError> {
        self.events.tell(Event::StepBegun { step });
        let began = Instant::now();
        let outcome = work.await;
        self.ended(step, began.elapsed(), outcome)
    }

    fn ended<T>(&mut self, step: Step, took: Duration, outcome: Result<T, RestoreError>) -> Result<T, RestoreError> {
        if outcome.is_ok() {
            self.events.tell(Event::StepEnded { step, took });
            self.report.steps.push((step, took));
            self.report.took += took;
        }
        outcome
    }
}
