//! Receives WAL for as long as it is told to: one connection after the other, each as far as it goes.

use crate::CaptureError;
use crate::pause::Backoff;
use crate::standbys::{Standbys, Successors, Tended};
use crate::stream::{Ended, SLOT_INVALIDATED, Session};
use crate::turn::Turn;
use pg::{ConnInfo, ServerFacts, SyncNames};
use repo::{Epoch, RepoError, Writer};
use seal::Compression;
use std::sync::Arc;
use std::time::Duration;
use terms::{Class, Event, Events, Explain, Lsn, Timeline};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// The slot that holds WAL on the server until it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// Outlives the connection; made when it is missing.
    Permanent(String),
    /// Vanishes with the connection.
    Temporary(String),
}

impl Slot {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Permanent(name) | Self::Temporary(name) => name,
        }
    }
}

/// When bytes of a segment that is not full yet go to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Never: whole segments only.
    Whole,
    /// This long after the last ones went.
    Every(Duration),
    /// At once: commits wait for them.
    Synchronous,
}

/// How to receive.
#[derive(Debug, Clone)]
pub struct ReceiveOptions {
    /// Its name, and whether it outlives the connection.
    pub slot: Slot,
    /// Of segments and of their pieces.
    pub compression: Compression,
    /// When the beginning of a segment goes, before the segment is full.
    pub flush: Flush,
    /// How often the server hears from us, whatever else goes on; at most a third of `wal_sender_timeout`.
    pub status_interval: Duration,
    /// How often it is written down how far the log is complete, also when nothing is written.
    pub coverage_interval: Duration,
    /// How long a server that shuts down is kept waiting for what is not stored yet.
    pub shutdown_grace: Duration,
    /// Who we are to other receivers of the repository: the host and what only one process there can have. Without, no lease is
    /// taken: what a backup's own receiver stores is right whoever else stores it.
    pub holder: Option<String>,
    /// After so long without a sign of life another receiver may take over; a third of it is how often one is given.
    pub lease_ttl: Duration,
    /// Follow a server whose timeline is older than what is stored already, or that never was on the stored one: a person has said
    /// that what is stored beyond its own history was a trial.
    pub accept_older_timeline: bool,
}

impl ReceiveOptions {
    /// The usual settings with this slot.
    pub fn with_slot(slot: Slot) -> Self {
        Self {
            slot,
            compression: Compression::default(),
            flush: Flush::Every(Duration::from_secs(5)),
            status_interval: Duration::from_secs(5),
            coverage_interval: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(10),
            holder: None,
            lease_ttl: Duration::from_secs(180),
            accept_older_timeline: false,
        }
    }
}

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Forever,
    /// When everything up to here is stored.
    Stored(Lsn),
    /// Now.
    Now,
}

impl Until {
    pub(crate) fn is_reached(self, stored: Lsn) -> bool {
        match self {
            Self::Forever => false,
            Self::Stored(lsn) => stored >= lsn,
            Self::Now => true,
        }
    }
}

/// How far the receiver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The one that `stored` is a position of.
    pub timeline: Timeline,
    /// Everything received before here is stored.
    pub stored: Lsn,
}

/// How long what is under way may take to end once it is told to stop: a store or a server may be asked for minutes.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// Receives WAL until told to stop. Connections that break are made again for ever, once the first one worked.
pub async fn receive(
    info: &ConnInfo,
    writer: &Writer,
    epoch: &Epoch,
    options: &ReceiveOptions,
    events: Arc<dyn Events>,
    mut until: watch::Receiver<Until>,
    progress: &watch::Sender<Option<Progress>>,
) -> Result<(), CaptureError> {
    let mut turn = Turn::new(writer, options, events.clone())?;
    let (found, successors) = watch::channel(Successors::new());
    let _standbys = match &options.slot {
        Slot::Permanent(slot) => {
            let (reader, is_waiting) = (writer.reader().clone(), turn.is_waiting());
            let (slot, system_id, progress) = (slot.clone(), epoch.system_id, progress.subscribe());
            let tended = Tended { slot, system_id, reader, progress, is_waiting, successors: found };
            Some(Standbys::tend(info, tended, options.status_interval * 2, events.clone()))
        }
        Slot::Temporary(_) => None,
    };
    let info = info.clone().at_a_primary();
    let mut session = tokio::select! {
        begun = Session::begin(&info, writer, epoch, options, events.clone(), progress, successors) => begun?,
        () = overdue(until.clone()) => return Ok(()),
    };
    let ended = in_turns(&mut session, &mut turn, &mut until).await;
    session.finish().await;
    // However it ended: the next one need not wait.
    turn.end().await;
    ended
}

/// Returns when it was told to stop a while ago.
async fn overdue(mut until: watch::Receiver<Until>) {
    if until.wait_for(|u| *u == Until::Now).await.is_err() {
        return std::future::pending().await;
    }
    sleep(STOP_LIMIT).await;
}

/// One connection after the other, each while it is our turn.
async fn in_turns(session: &mut Session<'_>, turn: &mut Turn, until: &mut watch::Receiver<Until>) -> Result<(), CaptureError> {
    let mut backoff = Backoff::new();
    loop {
        let told = until.clone();
        let waited = turn.wait(until).await;
        let began = Instant::now();
        (session.streams, session.has_stored) = (false, false);
        let ended = match waited {
            Ok(()) => tokio::select! {
                ended = session.run(until) => ended,
                // What is under way ends with it: whoever holds the lease now begins where the repository ends.
                lost = turn.lost() => Err(lost),
                () = overdue(told) => Ok(Ended::Stopped),
            },
            Err(CaptureError::Interrupted) => Ok(Ended::Stopped),
            Err(e) => Err(e),
        };
        let why = match ended {
            Ok(Ended::Stopped) => return Ok(()),
            Ok(Ended::Switched) => continue,
            Ok(Ended::ServerShutsDown) => "the server is shutting down; its slot keeps what is not stored yet".to_owned(),
            Err(e) if !worth_retrying(&e, session.has_streamed(), &session.options.slot) => return Err(e),
            Err(e) => e.in_a_line(),
        };
        let pause = backoff.after(began.elapsed(), session.has_stored);
        session.events.tell(Event::Disconnected { why, again_in: pause });
        tokio::select! {
            () = sleep(pause) => {}
            _ = until.wait_for(|u| *u == Until::Now) => return Ok(()),
        }
        turn.pass_on(session.streams, until).await;
    }
}

/// What would only fail again is not tried again; nor is a first connection that is refused outright.
fn worth_retrying(error: &CaptureError, has_streamed: bool, slot: &Slot) -> bool {
    match error {
        CaptureError::Repo(RepoError::ForeignCluster { .. } | RepoError::Conflict { .. }) | CaptureError::Bug(_) => false,
        // The next connection goes on where the server's log does.
        CaptureError::WalGone { .. } => matches!(slot, Slot::Permanent(_)),
        // The next connection makes it anew.
        CaptureError::Pg(e) if e.slug() == SLOT_INVALIDATED => matches!(slot, Slot::Permanent(_)),
        e => e.class() == Class::Transient || has_streamed,
    }
}

/// The `application_name` of a receiver that is to be a synchronous standby where the server says so.
pub const RECEIVER: &str = "bowline";
/// That of everything else that streams WAL for a while: no commit should ever wait for it.
pub const BACKUP: &str = "bowline_backup";

/// Refuses a server whose `synchronous_standby_names` matches what streams under this name: commits would wait until what
/// they wrote is stored, which here may take long (`SyncRepGetStandbyPriority`, src/backend/replication/syncrep.c).
pub fn refuse_synchronous(facts: &ServerFacts, application_name: &str) -> Result<(), CaptureError> {
    let names = &facts.synchronous_standby_names;
    match may_rank(names, application_name) {
        true => Err(CaptureError::WouldBeSynchronous { names: names.clone() }),
        false => Ok(()),
    }
}

/// Whether these names match, or cannot be read, which must be taken for the same.
pub(crate) fn may_rank(names: &str, application_name: &str) -> bool {
    SyncNames::parse(names).map_or(true, |parsed| parsed.rank(application_name).is_some())
}
