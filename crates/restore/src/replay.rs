//! Lets PostgreSQL replay the log in private, and believes only what its own files then say.

use crate::log::Log;
use crate::plan::{RestorePlan, Stop};
use crate::spoiled::is_spoiled;
use crate::supply::Supply;
use crate::tablespaces::Lookout;
use crate::target::Target;
use crate::{RestoreError, RestoreOptions};
use pg::{
    CONTROL_FILE, ClusterState, ControlFile, InstanceError, PrivateOptions, PrivateServer, ServerState, StopMode, TimelineHistory, WalLevel,
    find_bin_dir, min_wal_size,
};
use repo::Reader;
use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use terms::{Class, Events, Explain, Lsn, Timeline, Timestamp, WalName};

/// Replay takes as long as it takes; progress is told, and a server that ends is seen at once.
const NO_LIMIT: Duration = Duration::from_secs(365 * 86_400);
/// How long the recovered server may take to write everything out and stop.
const STOP_LIMIT: Duration = Duration::from_secs(3600);

/// How much replayed WAL makes the server write a restartpoint; about so much may lie in pg_wal.
const MAX_WAL_SIZE: &str = "4GB";

/// Where recovery ended.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The new timeline.
    pub timeline: Timeline,
    /// The end of the last record that was replayed.
    pub at: Lsn,
    /// When the last transaction replayed was committed, as the server's log says it; the stored log where that knows of a later one.
    pub last_transaction: Option<String>,
    /// How long replay waited for segments that were still on their way from the store.
    pub waited: Duration,
    /// What lay where the log created a tablespace, moved from and to.
    pub moved: Vec<(PathBuf, PathBuf)>,
}

/// Recovers the cluster in `target` as planned, promotes it and stops it again.
pub(crate) async fn replay(
    reader: &Reader,
    plan: &RestorePlan,
    target: &Target,
    options: &RestoreOptions,
    events: Arc<dyn Events>,
) -> Result<Recovered, RestoreError> {
    let bin_dir = find_bin_dir(plan.backup.major, options.bin_dir.as_deref())?;
    let log = target.side_dir.join("recovery.log");
    let spool = spool_of(target)?;
    target.make_dir(&spool)?;
    // Sockets have short names only (107 bytes), data directories need not.
    let private = tempfile::Builder::new().prefix("bowline-").tempdir_in(&target.sockets);
    let private = private.map_err(RestoreError::file("create a folder in", &target.sockets))?;
    let socket = private.path().join("wal.sock");
    let control = read_control(&target.data_dir)?;
    if control.timeline <= plan.timeline {
        // The server takes the mark away before its new timeline is in pg_control: one that was killed in between would recover by itself,
        // to no target. New timelines are always behind the plan's.
        write_signal(target)?;
    }
    let (size, is_side) = (control.segment_size, options.tablespaces.elsewhere.is_some());
    let lookout = Lookout::new(target, is_side, plan, size, events.clone());
    let supply = Supply::start(reader, plan, size, socket.clone(), spool.clone(), target.data_dir.join("pg_wal"), target.owner, lookout, events)?;
    // Not before the socket is dressed: whoever owns the folder can put something else in its place.
    std::os::unix::fs::lchown(private.path(), Some(target.owner.uid), Some(target.owner.gid)).map_err(RestoreError::file("own", private.path()))?;
    let mut settings = recovery_settings(plan, plan.last_record);
    settings.push(("restore_command".into(), format!("{} wal fetch --supply {} %f %p", shell_word(&options.program), shell_word(&socket))));
    settings.extend(minima(&control));
    let (data_dir, sockets) = (target.data_dir.clone(), target.sockets.clone());
    // No session runs in it, and restore_command may need the network.
    let private_options = PrivateOptions { bin_dir, data_dir, owner: target.owner, settings, log: log.clone(), cut_off: false, sockets };
    let mut server = PrivateServer::start(&private_options)?;
    if let Err(ended) = server.wait_until(|state| state == ServerState::Ready, NO_LIMIT).await {
        return Err(why_it_ended(reader, plan, supply.failure(), ended).await);
    }
    server.stop(StopMode::Fast, STOP_LIMIT).await?;
    supply.settle()?;
    let (waited, moved) = (supply.waited(), supply.moved());
    drop(supply);
    drop(fs::remove_dir_all(&spool));
    let mut recovered = Recovered { waited, moved, ..what_happened(target, &log)? };
    // A server that stops at a position does not count the transaction that ends there (access/transam/xlogrecovery.c, recoveryStopsAfter).
    let told = recovered.last_transaction.as_ref().and_then(|told| told.parse::<Timestamp>().ok());
    if let Some(last) = plan.last_replayed.filter(|last| told.is_none_or(|told| told < *last)) {
        recovered.last_transaction = Some(last.to_string());
    }
    judge(plan, &recovered)?;
    Ok(recovered)
}

/// Why the server ended before it had recovered: the first file that could not be had, or the place where the log breaks off that
/// looked whole from outside; else what it says itself.
async fn why_it_ended(reader: &Reader, plan: &RestorePlan, failure: Option<(WalName, RestoreError)>, ended: InstanceError) -> RestoreError {
    let target = plan.target.to_string();
    match failure {
        // What the store or a key has to do with may pass, or be put right: nothing is known to be damaged.
        Some((WalName::Segment(segment), e @ (RestoreError::Repo(_) | RestoreError::Fetch { .. }))) => {
            let class = if matches!(e, RestoreError::Fetch { .. }) { Class::Missing } else { Class::Damaged };
            return match is_spoiled(&e) {
                true => RestoreError::Broken { target, segment, why: format!("{}.", e.in_a_line().trim_end_matches('.')), class },
                false => e,
            };
        }
        Some((_, e)) => return e,
        None => {}
    }
    // PerformWalRecovery and FinishWalRecovery, src/backend/access/transam/xlogrecovery.c and xlog.c.
    let is_short = ["recovery ended before configured recovery target was reached", "WAL ends before"].iter().any(|said| says(&ended, said));
    let (Some(first), true) = (plan.segments.first(), is_short) else { return ended.into() };
    let size = plan.backup.segment_bytes;
    let log = Log { reader, system_id: plan.backup.system_id, major: plan.backup.major, size, timeline: plan.timeline };
    let last = plan.segments.last().unwrap_or(first);
    match log.end_by_reading(&plan.segments, plan.backup.start.lsn).await {
        Ok(at) if at < last.start(size) => {
            let number = at.bytes() / size.bytes();
            let segment = plan.segments.iter().find(|segment| segment.number(size) == number).unwrap_or(last);
            RestoreError::Cut { target, at, segment: *segment, promised: last.start(size) }
        }
        Err(e) if is_spoiled(&e) => e,
        _ => ended.into(),
    }
}

fn says(ended: &InstanceError, words: &str) -> bool {
    matches!(ended, InstanceError::Ended { log, .. } if log.contains(words))
}

/// Where fetched segments lie until the server asks for them: on the filesystem of pg_wal, so that giving one is a rename. A data
/// directory or a pg_wal that is a mount of its own has no place beside it there; then inside pg_wal, where only this restore's
/// own server looks, which passes by what is no segment's name.
fn spool_of(target: &Target) -> Result<PathBuf, RestoreError> {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).map_err(RestoreError::file("look at", path));
    let pg_wal = target.data_dir.join("pg_wal");
    let is_same = device(&pg_wal)? == device(&target.side_dir)?;
    Ok(if is_same { target.side_dir.join("wal") } else { pg_wal.join("bowline-restore") })
}

/// `recovery.signal` tells the server to recover from the archive; it removes it when its new timeline begins (`StartupXLOG`,
/// src/backend/access/transam/xlog.c). Durable: recovery without it ends somewhere.
pub(crate) fn write_signal(target: &Target) -> Result<(), RestoreError> {
    let path = target.data_dir.join("recovery.signal");
    // Not for a moment without it, and through no link of the owner's.
    let opened = fs::OpenOptions::new().write(true).create(true).truncate(true).custom_flags(nix::libc::O_NOFOLLOW).open(&path);
    let file = opened.map_err(RestoreError::file("write", &path))?;
    std::os::unix::fs::fchown(&file, Some(target.owner.uid), Some(target.owner.gid)).map_err(RestoreError::file("own", &path))?;
    let folder = fs::File::open(&target.data_dir).map_err(RestoreError::file("open", &target.data_dir))?;
    file.sync_all().and_then(|()| folder.sync_all()).map_err(RestoreError::file("make durable", &path))
}

/// The target as PostgreSQL's settings (manual chapter 20.5.6). All are named, since postgresql.auto.conf may have some left over.
///
/// With `last_record`, the beginning of the last record that there is, a log that breaks off before it is an error to the server
/// (`recovery ended before configured recovery target was reached`), and not the log's end.
pub(crate) fn recovery_settings(plan: &RestorePlan, last_record: Option<Lsn>) -> Vec<(String, String)> {
    let (chosen, value) = match &plan.stop {
        Stop::EndOfWal { .. } => last_record.map_or(("", String::new()), |lsn| ("recovery_target_lsn", lsn.to_string())),
        Stop::Time(at) => ("recovery_target_time", at.to_string().replace(" UTC", "+00")),
        Stop::Before(lsn) => ("recovery_target_lsn", lsn.to_string()),
        Stop::Name(name) => ("recovery_target_name", name.clone()),
        Stop::Consistent => ("recovery_target", "immediate".into()),
    };
    let inclusive = if matches!(plan.stop, Stop::Before(_)) { "off" } else { "on" };
    let all = ["recovery_target", "recovery_target_time", "recovery_target_lsn", "recovery_target_name", "recovery_target_xid"];
    let mut settings: Vec<(String, String)> = all.into_iter().filter(|name| *name != chosen).map(|name| (name.to_owned(), String::new())).collect();
    let mut set = |name: &str, value: String| settings.push((name.to_owned(), value));
    // After the empty ones: emptying one target while another is set is an error to the server.
    if !chosen.is_empty() {
        set(chosen, value);
    }
    set("recovery_target_inclusive", inclusive.into());
    set("recovery_target_timeline", plan.timeline.to_string());
    set("recovery_target_action", "promote".into());
    // A standby that was kept behind and then promoted has it still, and whoever recovers from an archive heeds it, too.
    set("recovery_min_apply_delay", "0".into());
    settings
}

/// What the log needs of the server that replays it, whatever the configuration says (`CheckRequiredParameterValues` and
/// prepared transactions, src/backend/access/transam/xlogrecovery.c and twophase.c).
fn minima(control: &ControlFile) -> Vec<(String, String)> {
    let level = match control.wal_level {
        WalLevel::Logical => "logical",
        _ => "replica",
    };
    [
        ("hot_standby", "off".to_owned()),
        ("wal_level", level.to_owned()),
        ("max_connections", control.max_connections.to_string()),
        ("max_worker_processes", control.max_worker_processes.to_string()),
        ("max_wal_senders", control.max_wal_senders.to_string()),
        ("max_prepared_transactions", control.max_prepared_xacts.to_string()),
        ("max_locks_per_transaction", control.max_locks_per_xact.to_string()),
        // A server that ends recovery without it deletes every commit time there is (CompleteCommitTsInitialization,
        // src/backend/access/transam/commit_ts.c); the restored server's own configuration decides at its next start.
        ("track_commit_timestamp", "on".to_owned()),
        ("shared_preload_libraries", String::new()),
        ("max_logical_replication_workers", "0".to_owned()),
        // Between its promotion and its stop nothing is written that the log did not hold.
        ("autovacuum", "off".to_owned()),
        ("shared_buffers", crate::buffers::for_replay()),
        // Restartpoints write and sync every dirty page, and only spare a replay that is interrupted its way from the last one. As many
        // replayed segments stay in pg_wal meanwhile: that is why there is a bound.
        ("max_wal_size", MAX_WAL_SIZE.to_owned()),
        ("min_wal_size", min_wal_size(control.segment_size)),
        ("checkpoint_timeout", "30min".to_owned()),
        ("log_timezone", "UTC".to_owned()),
        // The files are durable already; one call for the filesystem instead of one a file.
        ("recovery_init_sync_method", "syncfs".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn read_control(data_dir: &Path) -> Result<ControlFile, RestoreError> {
    let path = data_dir.join(CONTROL_FILE);
    let bytes = fs::read(&path).map_err(RestoreError::file("read", &path))?;
    Ok(ControlFile::parse(&bytes)?)
}

/// Reads from the cluster itself that it was promoted, and where: a new timeline's history names the end of the old one.
fn what_happened(target: &Target, log: &Path) -> Result<Recovered, RestoreError> {
    let control = read_control(&target.data_dir)?;
    if control.state != ClusterState::ShutDown {
        return Err(RestoreError::Bug(format!("the recovered server left its control file in state {:?}", control.state)));
    }
    let timeline = control.timeline;
    let path = target.data_dir.join("pg_wal").join(format!("{}.history", timeline.hex()));
    let text = fs::read_to_string(&path).map_err(RestoreError::file("read", &path))?;
    let history = TimelineHistory::parse(timeline, &text)?;
    let at = history.parent().map(|branch| branch.end).ok_or_else(|| RestoreError::Bug(format!("{} names no parent", path.display())))?;
    let said = fs::read_to_string(log).unwrap_or_default();
    let last_transaction =
        said.rsplit_once("last completed transaction was at log time ").and_then(|(_, rest)| rest.lines().next()).map(str::to_owned);
    Ok(Recovered { timeline, at, last_transaction, waited: Duration::ZERO, moved: Vec::new() })
}

/// Compares where recovery ended with what was promised.
fn judge(plan: &RestorePlan, recovered: &Recovered) -> Result<(), RestoreError> {
    let promised = match plan.stop {
        Stop::EndOfWal { at } => at,
        _ => plan.backup.stop.lsn,
    };
    if recovered.at < promised {
        return Err(RestoreError::Early { reached: recovered.at, promised });
    }
    Ok(())
}

/// A word for the shell that runs `restore_command`; a `%` would be taken as a placeholder.
pub(crate) fn shell_word(path: &Path) -> String {
    let text = path.display().to_string().replace('%', "%%");
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
    if plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
