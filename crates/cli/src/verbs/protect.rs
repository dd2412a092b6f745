//! What a restore is lent to be protected again with: the old log stored, the slot made, a receiver at work, a full backup.

use crate::args::{BackupArgs, Common};
use crate::fault::Fault;
use crate::show::Printer;
use crate::verbs::damage::Course;
use crate::verbs::{backup, beside, packages};
use crate::wiring::Wiring;
use capture::{Meanwhile, Salvaged};
use checks::Referred;
use pg::{CONTROL_FILE, ControlFile, Replication, Sql, TimelineHistory};
use repo::{Coverage, Reader};
use rescue::{Lent, Salvage};
use restore::{Detour, RestorePlan};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};
use terms::{Advice, BackupId, Class, Event, Events, SegmentSize, Timeline, Timestamp};

/// A server that was just started may not let anybody in yet.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);
/// A receiver that waited for the server comes back within the longest pause between two of its tries.
const RETURN_LIMIT: Duration = Duration::from_secs(12);
/// How long the first WAL may take to arrive, beside what a receiver may have to wait for its turn.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(120);
/// A receiver's lease, unless configured (`capture::ReceiveOptions`).
const LEASE_TTL: Duration = Duration::from_secs(180);
/// How long the command may take that starts the supervised receiver.
const START_LIMIT: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(250);

pub struct Protector<'a> {
    pub common: &'a Common,
    pub wiring: &'a Wiring,
    pub printer: &'a Arc<Printer>,
    pub course: &'a Course<'a>,
    /// The restored cluster's.
    pub data_dir: PathBuf,
    /// Where a receiver that is started here logs.
    pub side_dir: PathBuf,
}

impl Lent for Protector<'_> {
    async fn salvage(&self, data_dir: &Path) -> Result<Salvage, Advice> {
        self.store_old_log(data_dir).await.map_err(|fault| fault.0)
    }

    async fn plan(&self) -> Result<RestorePlan, Advice> {
        self.course.plan().await.map_err(|fault| fault.0)
    }

    fn detour(&self) -> Option<Detour> {
        self.course.taken()
    }

    async fn receive(&self, timeline: Timeline) -> Result<(), Advice> {
        self.let_wal_flow(timeline).await.map_err(|fault| fault.0)
    }

    async fn restore_packages(&self, at: Timestamp, referred: Option<Referred>) -> Result<serde_json::Value, Advice> {
        packages::restore_beside(self.wiring, at, referred, self.printer).await
    }

    async fn back_up(&self) -> Result<BackupId, Advice> {
        self.make_full().await.map_err(|fault| fault.0)
    }
}

/// The way of the cluster there to its timeline; `None` where there is no history, or none that can be read.
fn history_in(data_dir: &Path) -> Option<TimelineHistory> {
    let timeline = ControlFile::parse(&fs::read(data_dir.join(CONTROL_FILE)).ok()?).ok()?.timeline;
    let text = fs::read_to_string(data_dir.join("pg_wal").join(format!("{}.history", timeline.hex()))).ok()?;
    TimelineHistory::parse(timeline, &text).ok()
}

impl Protector<'_> {
    async fn store_old_log(&self, data_dir: &Path) -> Result<Salvage, Fault> {
        let control = match fs::read(data_dir.join(CONTROL_FILE)) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Salvage::Useless("its control file is gone".into())),
            control => control.ok().and_then(|bytes| ControlFile::parse(&bytes).ok()),
        };
        let Some(control) = control else { return Ok(Salvage::Useless("its control file cannot be read".into())) };
        if !data_dir.join("pg_wal").is_dir() {
            return Ok(Salvage::Useless("it is gone".into()));
        }
        let writer = self.wiring.writer().await?;
        let Some(epoch) = writer.reader().epoch().filter(|epoch| epoch.system_id == control.system_id).cloned() else {
            return Ok(Salvage::Useless(format!("it is of another cluster, {}", control.system_id)));
        };
        let compression = self.wiring.config.wal.compression.unwrap_or_default();
        Ok(match capture::salvage(&writer, &epoch, data_dir, compression).await? {
            Salvaged::Nothing { is_end } => Salvage::Nothing { is_end },
            Salvaged::Stored { from, to, is_end } => Salvage::Stored { from, to, is_end },
            Salvaged::Unconnected { timeline, begins } => {
                Salvage::Useless(format!("it begins at {begins} on timeline {timeline}, and what comes before that is not stored"))
            }
        })
    }

    async fn let_wal_flow(&self, timeline: Timeline) -> Result<(), Fault> {
        let sql = self.connect().await?;
        let reader = self.wiring.reader().await?;
        let (slot, wal) = (&self.wiring.config.wal.slot, &self.wiring.config.wal);
        let facts = sql.server_facts().await?;
        let Some(epoch) = reader.epoch().filter(|epoch| epoch.system_id == facts.system_id).cloned() else {
            return Err(Fault::of(
                "foreign-cluster",
                Class::Refused,
                "the server that [postgres] conninfo names is not the one that was restored",
                format!("It is of cluster {}.", facts.system_id),
                "Set [postgres] conninfo right, then run the same restore again: only protection is missing.",
            ));
        };
        self.refuse_another(&sql).await?;
        // What is written from here on must not be thrown away before it is stored. A receiver that came back makes it as well.
        if sql.slot(slot).await?.is_none()
            && let Err(error) = sql.create_physical_slot(slot).await
            && sql.slot(slot).await?.is_none()
        {
            return Err(error.into());
        }
        self.leave_the_former(&sql, &reader, facts.segment_size, timeline).await?;
        let wanted = sql.current_lsn().await?;
        if let Some(command) = &wal.start {
            rescue::run_command("start the WAL receiver", command, START_LIMIT).await?;
        }
        // A receiver that gave its lease back went for good.
        let is_expected = reader.lease(repo::RECEIVER_LEASE).await?.is_some_and(|lease| !lease.released);
        let patience = if is_expected { RETURN_LIMIT } else { Duration::ZERO };
        let size = reader.backups_and_damage().await?.0.last().map_or(SegmentSize::DEFAULT, |newest| newest.segment_bytes);
        let mut own = None;
        let begun = Instant::now();
        let limit = ARRIVAL_LIMIT + wal.lease_ttl.unwrap_or(LEASE_TTL);
        loop {
            let stored = reader.wal_view(epoch.system_id, size).await?.newest();
            if stored.is_some_and(|(newest, end)| newest == timeline && end >= wanted) {
                return Ok(());
            }
            let is_active = sql.slot(slot).await?.is_some_and(|slot| slot.active);
            if !is_active && own.is_none() && wal.start.is_none() && begun.elapsed() >= patience {
                own = Some(self.start_receiver()?);
            }
            let ended = own.as_mut().and_then(|child: &mut Child| child.try_wait().ok().flatten());
            if ended.is_some() || begun.elapsed() > limit {
                return Err(self.not_flowing(is_active, ended.is_some(), begun.elapsed()));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    async fn make_full(&self) -> Result<BackupId, Fault> {
        self.refuse_another(&self.connect().await?).await?;
        Ok(backup::make(self.wiring, &BackupArgs::default(), Meanwhile::Wait, self.printer).await?.id)
    }

    /// Whether this server answers on a socket of this host and works in the directory that was restored: then it needs no replication
    /// connection to be known by.
    async fn is_here(&self, sql: &Sql) -> bool {
        let data_dir = sql.setting("data_directory").await.ok().flatten().filter(|_| sql.peer().address.starts_with('/'));
        let real = |path: &Path| fs::canonicalize(path).ok();
        data_dir.and_then(|data_dir| real(Path::new(&data_dir))).is_some_and(|there| real(&self.data_dir) == Some(there))
    }

    /// A connection string of several hosts, or a name that went over to another one, leads to a server that was not restored: of the same
    /// cluster, on a timeline of the same number perhaps, but by another way there.
    async fn refuse_another(&self, sql: &Sql) -> Result<(), Fault> {
        if self.is_here(sql).await {
            return Ok(());
        }
        let Some(restored) = history_in(&self.data_dir) else { return Ok(()) };
        let timeline = restored.timeline();
        let mut connection = Replication::connect(&self.wiring.conninfo()?.only(&sql.peer().address)).await?;
        if connection.history(timeline).await?.is_some_and(|history| history == restored) {
            return Ok(());
        }
        Err(Fault::of(
            "foreign-cluster",
            Class::Refused,
            "the server that [postgres] conninfo leads to is not the one that was restored",
            format!("It is of the same cluster, but its timeline {timeline} is not the one that the restore has made."),
            "Stop the others or let them follow this one, set [postgres] conninfo right, then run the same restore again: only protection is missing.",
        ))
    }

    /// A second restore along the timeline that the first one left makes a cluster that never was on the one that is received until now: to
    /// every receiver it is a stranger. That this was meant is known here alone. So the mark goes over to the new timeline, and promises
    /// nothing by that: all before it was replayed out of the repository, and it keeps its time, when there was no such timeline.
    async fn leave_the_former(&self, sql: &Sql, reader: &Reader, size: SegmentSize, timeline: Timeline) -> Result<(), Fault> {
        let system_id = sql.system_id().await?;
        let Some(mark) = reader.coverage(system_id).await?.filter(|mark| mark.timeline < timeline) else { return Ok(()) };
        // Only the server that was restored is spoken for.
        if sql.timeline().await? != timeline {
            return Ok(());
        }
        let mut connection = Replication::connect(&self.wiring.conninfo()?.only(&sql.peer().address)).await?;
        let Some(history) = connection.history(timeline).await? else { return Ok(()) };
        let Some(begin) = history.begin_of(timeline).filter(|_| history.begin_of(mark.timeline).is_none()) else { return Ok(()) };
        self.wiring.writer().await?.cover(&Coverage::new(system_id, timeline, begin.segment_start(size), mark.time)).await?;
        let left = mark.timeline;
        self.printer.tell(Event::Noticed {
            what: format!("timeline {left} is left for timeline {timeline}, which never was on it; it stays stored (--timeline {left})"),
        });
        Ok(())
    }

    fn not_flowing(&self, is_active: bool, has_ended: bool, waited: Duration) -> Fault {
        let log = self.side_dir.join("receiver.log");
        let detail = match (has_ended, is_active) {
            (true, _) => format!("The receiver that was started ended; its log is {}.", log.display()),
            (_, true) => format!("A receiver is connected to the slot, but after {} s nothing has arrived in the repository.", waited.as_secs()),
            (_, false) => format!("Nobody was connected to the slot {:?} for {} s.", self.wiring.config.wal.slot, waited.as_secs()),
        };
        let hint =
            "Start bowline wal receive under its supervisor, look at what it says, and run the same restore again: only protection is missing.";
        Fault::of("not-flowing", Class::Transient, "WAL of the restored server does not arrive in the repository", detail, hint)
    }

    async fn connect(&self) -> Result<Sql, Fault> {
        let info = self.wiring.conninfo()?;
        let begun = Instant::now();
        loop {
            match Sql::connect(&info).await {
                Ok(sql) => return Ok(sql),
                Err(error) if begun.elapsed() > CONNECT_LIMIT => return Err(error.into()),
                Err(_) => tokio::time::sleep(ASK_EVERY).await,
            }
        }
    }

    /// A receiver that outlives this command, until somebody puts one under a supervisor.
    fn start_receiver(&self) -> Result<Child, Fault> {
        let path = self.side_dir.join("receiver.log");
        let cannot =
            |e: std::io::Error| Fault::of("no-receiver", Class::Refused, "cannot start a WAL receiver", format!("{}: {e}.", path.display()), "");
        let log = pg::append_as_owners(&path, pg::owner_of(&self.data_dir)?).map_err(cannot)?;
        let child = beside::receiver(self.common, log).map_err(cannot)?;
        self.printer.tell(Event::Noticed {
            what: format!(
                "no receiver came back: one was started (process {}, log {}). Put it under a supervisor, and let [wal] start name its command",
                child.id(),
                path.display()
            ),
        });
        Ok(child)
    }
}
