//! Streams WAL into the repository: copies bytes, hands whole segments to be sealed and stored behind it, and reports
//! as flushed only what is stored.

use crate::CaptureError;
use crate::segments::{Segments, Uploads};
use pg::{ConnInfo, Replication, ServerFacts, StreamEvent, TimelineHistory, WalStream};
use repo::{Coverage, Epoch, RepoError, Writer};
use seal::{Compression, Protection};
use std::sync::Arc;
use std::time::Duration;
use terms::{Class, Event, Events, Explain, Lsn, SegmentName, SegmentSize, Timeline, Timestamp, WalName};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// The slot that holds WAL on the server until it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// Outlives the connection; made when it is missing.
    Permanent(String),
    /// Vanishes with the connection.
    Temporary(String),
}

/// How to receive.
#[derive(Debug, Clone)]
pub struct ReceiveOptions {
    pub slot: Slot,
    pub compression: Compression,
    /// How often the server hears from us, whatever else goes on; at most a third of `wal_sender_timeout`.
    pub status_interval: Duration,
    /// How often an idle server's coverage is written down.
    pub coverage_interval: Duration,
}

impl ReceiveOptions {
    /// The usual settings with this slot.
    pub fn with_slot(slot: Slot) -> Self {
        Self { slot, compression: Compression::default(), status_interval: Duration::from_secs(5), coverage_interval: Duration::from_secs(60) }
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

/// How far the receiver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub timeline: Timeline,
    /// Everything received before here is stored.
    pub stored: Lsn,
}

/// Longest pause between two tries to connect.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A server that is shutting down asks for a reply again and again until everything is confirmed as flushed
/// (WalSndDone, src/backend/replication/walsender.c); otherwise it asks once in half its timeout. So many within
/// a second mean a shutdown.
const PINGS_OF_A_SHUTDOWN: usize = 4;

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
    let protection = writer.wal_protection(epoch).await?;
    let mut session = Session { info, writer, epoch, options, protection, events: events.clone(), progress, position: None, connected: false };
    let mut backoff = Duration::from_millis(200);
    loop {
        let began = Instant::now();
        let ended = session.run(&mut until).await;
        let why = match ended {
            Ok(Ended::Stopped) => return Ok(()),
            Ok(Ended::Switched) => continue,
            Ok(Ended::ServerShutsDown) => "the server is shutting down; its slot keeps what is not stored yet".to_owned(),
            Err(e) if !session.worth_retrying(&e) => return Err(e),
            Err(e) => [e.to_string(), e.detail()].join(": "),
        };
        if began.elapsed() > BACKOFF_MAX {
            backoff = Duration::from_millis(200);
        }
        events.tell(Event::Disconnected { why, again_in: backoff });
        tokio::select! {
            () = sleep(backoff) => {}
            _ = until.wait_for(|u| *u == Until::Now) => return Ok(()),
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Refuses a server whose `synchronous_standby_names` has a `*`: it matches any name, so that commits would wait until
/// the segment they are in is stored (`SyncRepGetStandbyPriority`, src/backend/replication/syncrep.c).
pub fn refuse_synchronous(facts: &ServerFacts) -> Result<(), CaptureError> {
    let names = &facts.synchronous_standby_names;
    if names.contains('*') { Err(CaptureError::WouldBeSynchronous { names: names.clone() }) } else { Ok(()) }
}

enum Ended {
    Stopped,
    Switched,
    ServerShutsDown,
}

struct Session<'a> {
    info: &'a ConnInfo,
    writer: &'a Writer,
    epoch: &'a Epoch,
    options: &'a ReceiveOptions,
    protection: Protection,
    events: Arc<dyn Events>,
    progress: &'a watch::Sender<Option<Progress>>,
    /// Where to go on: everything before is stored. Unknown before the first connection.
    position: Option<(Timeline, Lsn)>,
    connected: bool,
}

impl Session<'_> {
    /// What would only fail again is not tried again; nor is a first connection that is refused outright.
    fn worth_retrying(&self, error: &CaptureError) -> bool {
        match error {
            CaptureError::Repo(RepoError::ForeignCluster { .. } | RepoError::Conflict { .. }) | CaptureError::WalGone { .. } => false,
            CaptureError::Bug(_) => false,
            e => e.class() == Class::Transient || self.connected,
        }
    }

    /// One connection, from connecting to its end.
    async fn run(&mut self, until: &mut watch::Receiver<Until>) -> Result<Ended, CaptureError> {
        let mut connection = Replication::connect(self.info).await?;
        let identity = connection.identify_system().await?;
        if identity.system_id != self.epoch.system_id {
            return Err(RepoError::ForeignCluster { ours: self.epoch.system_id, found: identity.system_id }.into());
        }
        let size = segment_size(&connection.show("wal_segment_size").await?)?;
        self.keep_histories(&mut connection, identity.timeline).await?;
        let slot = match &self.options.slot {
            Slot::Permanent(name) => {
                connection.create_slot(name, false).await?;
                name
            }
            Slot::Temporary(name) => {
                connection.create_slot(name, true).await?;
                name
            }
        };
        let held = connection.read_slot(slot).await?.unwrap_or(pg::SlotPosition { restart: None, timeline: None });
        let (timeline, from) = self.position.unwrap_or_else(|| match (&self.options.slot, held.restart, held.timeline) {
            // Everything since the slot was made is owed.
            (Slot::Permanent(_), Some(restart), Some(timeline)) => (timeline, restart.segment_start(size)),
            // A new slot reserves WAL from the last checkpoint on; whoever made it needs what is written from now on.
            _ => (identity.timeline, identity.flushed.segment_start(size)),
        });
        let from = self.skip_stored(from, timeline, identity.flushed, size).await?;
        self.position = Some((timeline, from));
        let stream = connection.start_physical(Some(slot), from, timeline).await?;
        self.connected = true;
        self.events.tell(Event::WalStreaming { from, timeline, slot: slot.clone() });
        self.progress.send_replace(Some(Progress { timeline, stored: from }));
        match self.stream(stream, Segments::new(timeline, from, size), until).await {
            Err(CaptureError::Pg(e)) if e.slug() == "pg-wal-removed" => {
                let why = e.detail().trim_end_matches('.').to_owned();
                Err(CaptureError::WalGone { from, timeline: timeline.id(), why })
            }
            ended => ended,
        }
    }

    /// Segments that are stored already, by another receiver or by `wal push`, need not travel again.
    async fn skip_stored(&self, mut from: Lsn, timeline: Timeline, flushed: Lsn, size: SegmentSize) -> Result<Lsn, CaptureError> {
        while from.plus(size.bytes()) <= flushed {
            let name = WalName::Segment(SegmentName::containing(from, timeline, size));
            if !self.writer.reader().has_wal(self.epoch.system_id, &name).await? {
                break;
            }
            from = from.plus(size.bytes());
        }
        Ok(from)
    }

    /// Every ancestor's history, on every connection: a restore needs them all, and the server may forget them.
    async fn keep_histories(&self, connection: &mut Replication, timeline: Timeline) -> Result<(), CaptureError> {
        let mut wanted = vec![timeline];
        while let Some(timeline) = wanted.pop().filter(|t| *t != Timeline::FIRST) {
            let Some((_, content)) = connection.timeline_history(timeline).await? else { continue };
            if let Ok(history) = TimelineHistory::parse(timeline, &String::from_utf8_lossy(&content)) {
                wanted.extend(history.parent().map(|b| b.timeline));
            }
            let name = WalName::History(timeline);
            self.writer.keep_wal(self.epoch.system_id, &name, content, &self.protection, self.options.compression).await?;
        }
        Ok(())
    }

    /// Copies bytes and answers the server; everything slow happens in `uploads`.
    async fn stream(&mut self, mut stream: WalStream, mut segments: Segments, until: &mut watch::Receiver<Until>) -> Result<Ended, CaptureError> {
        let mut uploads =
            Uploads::start(self.writer.clone(), self.epoch.system_id, self.protection.clone(), self.options.compression, self.events.clone());
        let mut status = interval(self.options.status_interval);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stored = segments.begin();
        let mut pings: Vec<Instant> = Vec::new();
        let mut covered: Option<(Lsn, Instant)> = None;
        loop {
            if done(*until.borrow_and_update(), stored) {
                stream.send_status(stored, stored, None, false).await?;
                return Ok(Ended::Stopped);
            }
            let room = uploads.has_room();
            tokio::select! {
                biased;
                _ = status.tick() => stream.send_status(stored, stored, None, true).await?,
                changed = until.changed() => {
                    if changed.is_err() {
                        return Ok(Ended::Stopped);
                    }
                }
                finished = uploads.next(), if uploads.is_busy() => {
                    stored = finished?;
                    self.position = Some((segments.timeline(), stored));
                    self.progress.send_replace(Some(Progress { timeline: segments.timeline(), stored }));
                    stream.send_status(stored, stored, None, false).await?;
                }
                // While the store is behind, nothing more is read: the server keeps it for us.
                event = stream.next(), if room => match event? {
                    StreamEvent::Data { start, bytes, .. } => {
                        segments.take(start, &bytes, |name, whole| uploads.push(name, whole))?;
                    }
                    StreamEvent::Keepalive { end, reply_requested, sent_at } => {
                        if reply_requested {
                            stream.send_status(stored, stored, None, false).await?;
                            let now = Instant::now();
                            pings.retain(|at| now.duration_since(*at) < Duration::from_secs(1));
                            pings.push(now);
                            if pings.len() >= PINGS_OF_A_SHUTDOWN && end == segments.received() && stored < end {
                                return Ok(Ended::ServerShutsDown);
                            }
                        }
                        let due = covered.is_none_or(|(lsn, at)| lsn != end || at.elapsed() >= self.options.coverage_interval);
                        if end == stored && due {
                            covered = Some((end, Instant::now()));
                            self.cover(segments.timeline(), end, sent_at);
                        }
                    }
                    StreamEvent::TimelineEnded { next, at } => {
                        while uploads.is_busy() {
                            stored = uploads.next().await?;
                        }
                        // The new timeline's copy of this segment begins with the old one's bytes.
                        self.position = Some((next, at.segment_start(segments.size()).min(stored)));
                        self.events.tell(Event::TimelineSwitched { to: next, at });
                        return Ok(Ended::Switched);
                    }
                },
            }
        }
    }

    /// Writes the mark beside the stream: a slow store must not keep a keepalive waiting.
    fn cover(&self, timeline: Timeline, lsn: Lsn, at: Timestamp) {
        let (writer, events) = (self.writer.clone(), self.events.clone());
        let coverage = Coverage::new(self.epoch.system_id, timeline, lsn, at);
        tokio::spawn(async move {
            if let Err(e) = writer.cover(&coverage).await {
                events.tell(Event::Noticed { what: format!("could not write down that WAL is complete to {lsn}: {e}") });
            }
        });
    }
}

fn done(until: Until, stored: Lsn) -> bool {
    match until {
        Until::Forever => false,
        Until::Stored(lsn) => stored >= lsn,
        Until::Now => true,
    }
}

/// `SHOW wal_segment_size` prints `16MB`, `1GB`.
fn segment_size(text: &str) -> Result<SegmentSize, CaptureError> {
    let wrong = || CaptureError::Bug(format!("wal_segment_size of {text:?}"));
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: u64 = match &text[digits.len()..] {
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "kB" => 1 << 10,
        "B" | "" => 1,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    SegmentSize::from_bytes(number * unit).map_err(|_| wrong())
}
