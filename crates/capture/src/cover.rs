//! Sees to it that the WAL of a backup reaches the repository: by the receiver that runs already, or by one of its own.

use crate::receive::{Flush, Progress, ReceiveOptions, Slot, Until, receive};
use crate::uploads::session_number;
use crate::{BackupOptions, CaptureError};
use pg::{ConnInfo, Sql};
use repo::{Epoch, Writer};
use std::sync::Arc;
use std::time::{Duration, Instant};
use terms::{BackupId, Event, Events, Lsn, SegmentName, SegmentSize, SystemId, Timeline, WalName};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How often the repository is asked whether a segment that another process brings has come.
const POLL: Duration = Duration::from_millis(250);
/// How long our own receiver may take to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// Who brings the WAL.
pub(crate) struct Cover {
    writer: Writer,
    system_id: SystemId,
    events: Arc<dyn Events>,
    wal_timeout: Duration,
    own: Option<OwnReceiver>,
}

struct OwnReceiver {
    task: JoinHandle<Result<(), CaptureError>>,
    until: watch::Sender<Until>,
}

impl Cover {
    /// When somebody holds the configured slot, it is a receiver and will do. Otherwise a receiver of our own starts, on
    /// a temporary slot: it vanishes with this process, so that a backup never leaves a slot behind that fills pg_wal.
    pub(crate) async fn begin(
        info: &ConnInfo,
        sql: &Sql,
        writer: &Writer,
        epoch: &Epoch,
        options: &BackupOptions,
        events: Arc<dyn Events>,
    ) -> Result<Self, CaptureError> {
        let received = match &options.slot {
            Some(name) => sql.slot(name).await?.is_some_and(|slot| slot.active),
            None => false,
        };
        let own = if received { None } else { Some(OwnReceiver::start(info, writer, epoch, options, events.clone()).await?) };
        Ok(Self { writer: writer.clone(), system_id: epoch.system_id, events, wal_timeout: options.wal_timeout, own })
    }

    /// From now on the receiver knows when it has brought enough.
    pub(crate) fn backup_stopped(&self, stop: Lsn) {
        if let Some(own) = &self.own {
            own.until.send_replace(Until::Stored(stop));
        }
    }

    /// Waits until every segment from `start` to `stop` is in the repository.
    pub(crate) async fn wait(&mut self, backup: BackupId, start: Lsn, stop: Lsn, timeline: Timeline, size: SegmentSize) -> Result<(), CaptureError> {
        let by = if self.own.is_some() { "this process" } else { "the receiver on the configured slot" };
        self.events.tell(Event::AwaitingWal { backup, stop, by });
        let began = Instant::now();
        if let Some(own) = self.own.take() {
            // The receiver tries for ever to store what it has; a backup does not wait for ever for a store that is away.
            if let Ok(finished) = timeout(self.wal_timeout, own.finish()).await {
                finished?;
            }
        }
        let mut segment = SegmentName::containing(start, timeline, size);
        let last = SegmentName::ending_at(stop, timeline, size);
        while segment <= last {
            if self.writer.reader().has_wal(self.system_id, &WalName::Segment(segment)).await? {
                segment = segment.next(size);
            } else if began.elapsed() > self.wal_timeout {
                return Err(CaptureError::WalDoesNotArrive {
                    wanted: segment.to_string(),
                    stop,
                    waited_seconds: self.wal_timeout.as_secs(),
                    why: format!("It was to be brought by {by}."),
                });
            } else {
                sleep(POLL).await;
            }
        }
        Ok(())
    }
}

impl OwnReceiver {
    async fn start(info: &ConnInfo, writer: &Writer, epoch: &Epoch, options: &BackupOptions, events: Arc<dyn Events>) -> Result<Self, CaptureError> {
        let (until, told) = watch::channel(Until::Forever);
        let (progress, mut streaming) = watch::channel(None::<Progress>);
        // Not by the process's number alone: in a container each run has the same, and the slot of one that was killed may linger.
        let slot = Slot::Temporary(format!("bowline_backup_{:08x}", session_number()));
        let receive_options = ReceiveOptions { compression: options.compression, flush: Flush::Whole, ..ReceiveOptions::with_slot(slot) };
        let (info, writer, epoch) = (info.clone(), writer.clone(), epoch.clone());
        let mut task = tokio::spawn(async move { receive(&info, &writer, &epoch, &receive_options, events, told, &progress).await });
        tokio::select! {
            outcome = timeout(CONNECT_LIMIT, streaming.wait_for(Option::is_some)) => match outcome {
                Ok(Ok(_)) => Ok(Self { task, until }),
                Ok(Err(_)) => Err(Self::outcome(task.await).err().unwrap_or(CaptureError::Interrupted)),
                Err(_) => {
                    task.abort();
                    Err(CaptureError::Bug("the backup's WAL receiver did not connect in 30 s".into()))
                }
            },
            ended = &mut task => Err(Self::outcome(ended).err().unwrap_or(CaptureError::Interrupted)),
        }
    }

    fn outcome(joined: Result<Result<(), CaptureError>, tokio::task::JoinError>) -> Result<(), CaptureError> {
        joined.map_err(|e| CaptureError::Bug(e.to_string()))?
    }

    async fn finish(self) -> Result<(), CaptureError> {
        Self::outcome(self.task.await)
    }
}
