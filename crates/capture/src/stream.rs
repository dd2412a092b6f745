//! One connection of a receiver: copies bytes, answers the server, and reports as flushed only what is stored.

use crate::CaptureError;
use crate::filling::Filling;
use crate::indexer::{Indexer, Survey};
use crate::ingest::reason;
use crate::lookout::{Lookout, Sight, Standing};
use crate::marks::{Mark, Marks};
use crate::receive::{Flush, Progress, ReceiveOptions, Slot, Until};
use crate::standbys::Successors;
use crate::uploads::{Carrier, Uploads, session_number};
use crate::waiting::Waiting;
use pg::wal::WalSource;
use pg::{ConnInfo, StreamEvent, WalStream};
use repo::{Coverage, Epoch, Writer};
use std::sync::Arc;
use std::time::Duration;
use terms::{Event, Events, Explain, Lsn, SegmentName, SegmentSize, Timeline};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

/// A server that is shutting down asks for a reply again and again until everything is confirmed as flushed
/// (WalSndDone, src/backend/replication/walsender.c); otherwise it asks once in half its timeout. So many within
/// a second mean a shutdown.
const PINGS_OF_A_SHUTDOWN: usize = 4;
/// While it shuts down it is answered this often: it would ask again at once.
const ANSWERS_AT_SHUTDOWN: Duration = Duration::from_millis(200);
/// A server that was asked for a sign of life again and again and gives none for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A busy server wakes its WAL sender at every commit. Where no commit waits for us the socket is left alone for a moment, unless what
/// came last was this much: fewer and larger messages leave more of the processor to the database.
const REST: Duration = Duration::from_millis(50);
const WORTH_A_WAKING: usize = 32 << 10;

/// The word for a slot that the server has invalidated. One that was idle for too long keeps its position, so nothing but this tells of it.
pub(crate) const SLOT_INVALIDATED: &str = "pg-slot-invalidated";

/// How soon a mark is tried again that could not be written at once.
const MARK_PAUSE: Duration = Duration::from_millis(100);

/// Why a connection ended without an error.
pub(crate) enum Ended {
    Stopped,
    Switched,
    ServerShutsDown,
}

/// A receiver between its connections.
pub(crate) struct Session<'a> {
    pub(crate) info: &'a ConnInfo,
    pub(crate) writer: &'a Writer,
    pub(crate) epoch: &'a Epoch,
    pub(crate) options: &'a ReceiveOptions,
    pub(crate) carrier: Carrier,
    indexer: Indexer,
    /// Where the log made no sense when it was read last: it is read once more before that is believed.
    pub(crate) suspect: Option<Lsn>,
    /// Where it made no sense twice, and that was told.
    told: Option<Lsn>,
    pub(crate) events: Arc<dyn Events>,
    progress: &'a watch::Sender<Option<Progress>>,
    /// The servers that were seen to have taken over.
    pub(crate) successors: watch::Receiver<Successors>,
    /// A newer timeline that is not followed because a person said so, and that was told.
    overlooked: Option<Timeline>,
    /// Where to go on: everything before is stored. Unknown before the first connection.
    pub(crate) position: Option<(Timeline, Lsn)>,
    has_streamed: bool,
    /// The server streams but cannot be asked anything, and that was told.
    is_blind: bool,
    /// Whether the present connection came as far as to stream.
    pub(crate) streams: bool,
    /// Whether the present connection has moved on what is stored.
    pub(crate) has_stored: bool,
    /// What was lost, until it is known where the log goes on; and that something was.
    pub(crate) gap: Option<(Timeline, Lsn, String)>,
    pub(crate) is_past_a_gap: bool,
    /// The server refused to stream by the slot because it had invalidated it.
    pub(crate) slot_is_refused: bool,
    /// The server ranks us as a synchronous standby although we are none: then nothing is reported as flushed, or it
    /// would let commits go that it means to be elsewhere.
    muted: bool,
}

impl<'a> Session<'a> {
    pub(crate) async fn begin(
        info: &'a ConnInfo,
        writer: &'a Writer,
        epoch: &'a Epoch,
        options: &'a ReceiveOptions,
        events: Arc<dyn Events>,
        progress: &'a watch::Sender<Option<Progress>>,
        successors: watch::Receiver<Successors>,
    ) -> Result<Self, CaptureError> {
        let protection = writer.wal_protection(epoch).await?;
        let indexer = Indexer::new(writer, epoch.system_id, &protection, writer.reader().digester().await?, events.clone());
        let carrier = Carrier {
            writer: writer.clone(),
            system_id: epoch.system_id,
            protection,
            compression: options.compression,
            digester: indexer.digester(),
            events: events.clone(),
            commits_wait: options.flush == Flush::Synchronous,
            backoff_max: Duration::from_secs(if options.flush == Flush::Synchronous { 1 } else { 10 }),
        };
        Ok(Self {
            info,
            writer,
            epoch,
            options,
            carrier,
            indexer,
            suspect: None,
            told: None,
            events,
            progress,
            successors,
            overlooked: None,
            position: None,
            has_streamed: false,
            is_blind: false,
            streams: false,
            has_stored: false,
            gap: None,
            is_past_a_gap: false,
            slot_is_refused: false,
            muted: false,
        })
    }

    pub(crate) fn has_streamed(&self) -> bool {
        self.has_streamed
    }

    /// One connection, from connecting to its end.
    pub(crate) async fn run(&mut self, until: &mut watch::Receiver<Until>) -> Result<Ended, CaptureError> {
        let (mut connection, identity) = self.connect().await?;
        let size = segment_size(&connection.show("wal_segment_size").await?)?;
        let history = self.keep_histories(&mut connection, identity.timeline).await?;
        let slot = self.options.slot.name();
        let held = self.take_slot(&mut connection).await?;
        let (timeline, from) = self.follow(self.begin_at(held, identity, &history, size).await?, &history, size).await?;
        // Beyond the point where the server's history leaves a timeline there is nothing to stream of it.
        let limit = history.end_of(timeline).map_or(identity.flushed, |fork| fork.min(identity.flushed));
        let from = self.skip_stored(from.segment_start(size), timeline, limit, size).await?;
        if let Some((timeline, lost, why)) = self.gap.take() {
            self.events.tell(Event::WalGap { timeline, from: lost, to: from, why });
        }
        self.position = Some((timeline, from));
        let server = self.info.clone().only(connection.describe());
        let started = connection.start_physical(Some(slot), from, timeline).await;
        self.slot_is_refused = started.as_ref().is_err_and(|e| e.slug() == SLOT_INVALIDATED);
        let mut stream = started?;
        (self.has_streamed, self.streams) = (true, true);
        self.events.tell(Event::WalStreaming { from, timeline, slot: slot.to_owned() });
        self.progress.send_replace(Some(Progress { timeline, stored: from }));
        self.indexer.begin_again();
        let source = WalSource { major: self.epoch.major, system_id: self.epoch.system_id, timeline, segment_size: size };
        // While it catches up the server's word lies far ahead: the last mark's is good until then.
        let known = self.coverage().await?.filter(|c| c.timeline == timeline && c.lsn <= from).map(|c| (c.lsn, c.time));
        let lookout = Lookout::post(server, slot.to_owned(), self.options.status_interval * 2);
        // Only where commits wait for it: elsewhere what may be reported is not the appender's to say.
        let reporter = (self.options.flush == Flush::Synchronous).then(|| stream.reporter()).flatten();
        let uploads = Uploads::start(self.carrier.clone(), from, size, reporter);
        let filling = Filling::new(timeline, from, size, session_number(), uploads.form());
        let mut flow = Flow {
            server_timeline: identity.timeline,
            survey: Survey::begin(source, from),
            filling: filling.beginning_at(history.begin_of(timeline)),
            uploads,
            waiting: Waiting::new(self.options.flush, self.events.clone()),
            lookout,
            stream,
            flushed_at: Instant::now(),
            rest_until: None,
            came: 0,
            heard_at: Instant::now(),
            pings: Vec::new(),
            leaving: None,
            next: None,
            marks: Marks::new(size, self.options, known),
            covering: None,
        };
        let ended = self.stream(&mut flow, until).await;
        // What is read again because it made no sense begins further back.
        if !matches!(ended, Err(CaptureError::Nonsense { .. }) | Ok(Ended::Switched)) {
            self.stored_to(&flow);
        }
        match ended {
            Err(CaptureError::Pg(e)) if e.slug() == "pg-wal-removed" => {
                let why = e.detail().trim_end_matches('.').to_owned();
                if matches!(self.options.slot, Slot::Permanent(_)) {
                    let (timeline, lost) = self.position.unwrap_or((timeline, from));
                    self.pass_gap(timeline, lost, why.clone());
                }
                Err(CaptureError::WalGone { from, timeline: timeline.id(), why })
            }
            ended => ended,
        }
    }

    /// Copies bytes and answers the server; everything slow happens behind it.
    async fn stream(&mut self, flow: &mut Flow, until: &mut watch::Receiver<Until>) -> Result<Ended, CaptureError> {
        let mut status = interval(self.options.status_interval);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stored = flow.uploads.stored();
            let until_now = *until.borrow_and_update();
            let is_stopping = until_now == Until::Now;
            // What is on its way may land: the index tells of it then, and the next receiver need not send it again.
            if until_now.is_reached(stored) && !(is_stopping && flow.uploads.is_busy()) {
                self.tell_server(flow).await?;
                return Ok(Ended::Stopped);
            }
            self.heed_successor(flow.server_timeline)?;
            let is_all_stored = stored >= flow.filling.received() || self.options.flush == Flush::Whole;
            if let Some((next, at)) = flow.next.filter(|_| is_all_stored && !flow.uploads.is_busy()) {
                // The new timeline's copy of this segment begins with the old one's bytes.
                self.position = Some((next, at.segment_start(flow.filling.size())));
                self.events.tell(Event::TimelineSwitched { to: next, at });
                return Ok(Ended::Switched);
            }
            let flush_at = flow.flush_at(self.options.flush).filter(|_| !is_stopping);
            // At once means now: a timer that is made anew each time round would never fire while the stream is busy.
            if flush_at.is_some_and(|at| at <= Instant::now()) {
                flow.flush()?;
                continue;
            }
            let held_up = flow.waiting.look(stored, flow.filling.received());
            flow.lookout.hurry(!flow.uploads.has_room(flow.filling.start()) || held_up);
            let is_resting = flow.rest_until.is_some_and(|until| Instant::now() < until);
            let is_reading = !is_stopping && flow.next.is_none() && flow.uploads.has_room(flow.filling.start());
            if !is_reading {
                flow.heard_at = Instant::now();
            }
            tokio::select! {
                biased;
                _ = status.tick() => {
                    if flow.heard_at.elapsed() > SILENCE_MAX {
                        return Err(CaptureError::Silence { seconds: SILENCE_MAX.as_secs() });
                    }
                    self.tell_server(flow).await?;
                    self.cover(flow);
                }
                () = sleep_until(flow.leaving.map_or_else(far_away, |l| l.answer_at)), if flow.leaving.is_some() => {
                    self.tell_server(flow).await?;
                    if let Some(leaving) = flow.leaving.as_mut() {
                        leaving.answer_at = Instant::now() + ANSWERS_AT_SHUTDOWN;
                        if Instant::now() >= leaving.deadline {
                            return Ok(Ended::ServerShutsDown);
                        }
                    }
                }
                changed = until.changed() => {
                    if changed.is_err() {
                        return Ok(Ended::Stopped);
                    }
                }
                landed = flow.uploads.next(), if flow.uploads.is_busy() => {
                    if let Some(segment) = landed? {
                        self.indexer.stored(segment.name, segment.digest, segment.bytes_stored);
                    }
                    if let Some(now) = self.stored_to(flow) {
                        self.progress.send_replace(Some(Progress { timeline: flow.filling.timeline(), stored: now }));
                        if flow.stream.reported() < now {
                            self.tell_server(flow).await?;
                        }
                        self.cover(flow);
                    }
                }
                () = sleep_until(flush_at.unwrap_or_else(far_away)), if flush_at.is_some() => flow.flush()?,
                () = sleep_until(flow.waiting.look_again_at()) => {}
                () = sleep(MARK_PAUSE), if flow.marks.lags(stored) => self.cover(flow),
                sight = flow.lookout.next() => self.heed(sight, flow)?,
                () = sleep_until(flow.rest_until.unwrap_or_else(far_away)), if is_resting => {}
                // While the store is behind, nothing more is read: the server keeps it for us.
                event = flow.stream.next(), if is_reading && !is_resting => match flow.heard(event?) {
                    StreamEvent::Data { start, bytes, .. } => {
                        self.survey(flow, &bytes)?;
                        let uploads = &mut flow.uploads;
                        flow.filling.take(start, &bytes, stored, |full| uploads.push(full))?;
                        if self.options.flush != Flush::Synchronous {
                            flow.rest_after(bytes.len());
                        }
                    }
                    StreamEvent::Keepalive { end, reply_requested, .. } => {
                        if reply_requested && flow.leaving.is_none() {
                            let reported = self.tell_server(flow).await?;
                            flow.pinged(end, reported, self.options.shutdown_grace);
                        }
                    }
                    StreamEvent::TimelineEnded { next, at } => {
                        flow.next = Some((next, at));
                        flow.flush()?;
                    }
                },
            }
        }
    }

    /// Where to go on should this connection end now; `None` when that is no further than was known.
    fn stored_to(&mut self, flow: &Flow) -> Option<Lsn> {
        let (timeline, now) = (flow.filling.timeline(), flow.uploads.stored());
        if self.position.is_some_and(|(on, known)| on == timeline && known >= now) {
            return None;
        }
        (self.has_stored, self.is_past_a_gap) = (true, false);
        self.position = Some((timeline, now));
        Some(now)
    }

    /// Reports what is stored, and asks for a sign of life; what was reported.
    async fn tell_server(&self, flow: &mut Flow) -> Result<Lsn, CaptureError> {
        let stored = if self.muted { Lsn::from_bytes(0) } else { flow.uploads.stored() };
        flow.stream.send_status(stored, stored, None, flow.leaving.is_none()).await?;
        Ok(stored)
    }

    /// Looks at bytes before they are stored. What makes no sense is read again first; then it is stored as it is, since
    /// refusing it would keep the server from ever letting go of it.
    fn survey(&mut self, flow: &mut Flow, bytes: &[u8]) -> Result<(), CaptureError> {
        let indexer = &mut self.indexer;
        let Some(damage) = flow.survey.feed(bytes, |survey| indexer.surveyed(survey)) else {
            return Ok(());
        };
        let (timeline, size) = (flow.filling.timeline(), flow.filling.size());
        if self.suspect != Some(damage.at) {
            self.suspect = Some(damage.at);
            // What is on its way ends with this connection: nothing may be taken for stored that is not.
            self.position = Some((timeline, damage.at.segment_start(size).min(flow.uploads.stored())));
            return Err(CaptureError::Nonsense { at: damage.at, timeline });
        }
        if self.told != Some(damage.at) {
            self.told = Some(damage.at);
            let segment = SegmentName::containing(damage.at, timeline, size);
            self.events.tell(Event::WalDamaged { segment, at: damage.at, reason: reason(damage.reason) });
        }
        Ok(())
    }

    /// Before the receiver ends.
    pub(crate) async fn finish(&mut self) {
        self.indexer.finish().await;
    }

    /// That the server cannot be asked is told once, and once more when it can.
    fn tell_of_blindness(&mut self, sight: &Sight) {
        let what = match sight {
            Sight::Blind { why } if !self.is_blind => {
                format!("the server cannot be asked how far it is ({why}): until it can, no coverage mark moves, and a shutdown is noticed late")
            }
            Sight::At { .. } if self.is_blind => "the server can be asked how far it is again".to_owned(),
            _ => return,
        };
        self.is_blind = !self.is_blind;
        self.events.tell(Event::Noticed { what });
    }

    /// Acts on what the lookout saw.
    fn heed(&mut self, sight: Sight, flow: &mut Flow) -> Result<(), CaptureError> {
        self.tell_of_blindness(&sight);
        match sight {
            Sight::Blind { .. } => {}
            Sight::ShuttingDown => flow.leave(self.options.shutdown_grace),
            Sight::At { time, lsn, standing } => {
                flow.marks.promised(lsn, time);
                self.cover(flow);
                if self.options.flush != Flush::Synchronous {
                    self.mute(standing)?;
                }
            }
        }
        Ok(())
    }

    /// A server that was left behind streams on as if nothing had happened, and what it commits is on no other server. Whoever has taken
    /// over is found by the next connection, which refuses this one.
    fn heed_successor(&mut self, own: Timeline) -> Result<(), CaptureError> {
        let Some((by, newer)) = self.successor_of(own) else { return Ok(()) };
        if !self.options.accept_older_timeline {
            self.events.tell(Event::ServerOvertaken { timeline: own, by: by.clone(), newer });
            return Err(CaptureError::Overtaken { found: own, by, newer });
        }
        if self.overlooked.replace(newer) != Some(newer) {
            let what = format!("{by} takes writes on timeline {newer}: it is taken for a trial, as --accept-older-timeline says, and not received");
            self.events.tell(Event::Noticed { what });
        }
        Ok(())
    }

    /// Says nothing of a flush position while the server would let commits go by it, and says it again once it would not. A position that
    /// was told stays in force until the connection ends, hence the error.
    fn mute(&mut self, Standing { ranked, is_named }: Standing) -> Result<(), CaptureError> {
        match (self.muted, ranked) {
            (false, Some(sync_state)) => {
                self.muted = true;
                self.events.tell(Event::RankedSynchronous { sync_state: sync_state.clone() });
                Err(CaptureError::Ranked { sync_state: Some(sync_state) })
            }
            // While nothing is reported the server ranks nobody: only the setting tells.
            (true, _) if !is_named => {
                self.muted = false;
                Err(CaptureError::Ranked { sync_state: None })
            }
            _ => Ok(()),
        }
    }

    /// Writes down how far the log is complete, when that is due. Beside the stream: a slow store must not keep a keepalive waiting.
    fn cover(&self, flow: &mut Flow) {
        // A backup's own receiver begins when the backup does: of what lies before it can say nothing.
        if matches!(self.options.slot, Slot::Temporary(_)) {
            return;
        }
        // On a slow store several at once would only be in each other's way.
        if flow.covering.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        let Some(Mark { lsn, time, stored }) = flow.marks.due(flow.uploads.stored(), flow.uploads.is_busy()) else { return };
        let (writer, events) = (self.writer.clone(), self.events.clone());
        let coverage = Coverage { stored, ..Coverage::new(self.epoch.system_id, flow.filling.timeline(), lsn, time) };
        flow.covering = Some(tokio::spawn(async move {
            match writer.cover(&coverage).await {
                Ok(()) => events.tell(Event::WalCovered { timeline: coverage.timeline, lsn, time }),
                Err(e) => events.tell(Event::Noticed { what: format!("could not write down that WAL is complete to {lsn}: {e}") }),
            }
        }));
    }
}

/// What one connection has under way.
struct Flow {
    /// That which the server was on when it was connected to; it may stream an older one first.
    server_timeline: Timeline,
    stream: WalStream,
    survey: Survey,
    filling: Filling,
    uploads: Uploads,
    waiting: Waiting,
    lookout: Lookout,
    flushed_at: Instant,
    /// When to listen again, and what came since it was listened to.
    rest_until: Option<Instant>,
    came: usize,
    /// When the server last said anything, or was not listened to.
    heard_at: Instant,
    pings: Vec<Instant>,
    leaving: Option<Leaving>,
    /// The timeline ended: where to go on.
    next: Option<(Timeline, Lsn)>,
    marks: Marks,
    /// The mark that is being written.
    covering: Option<JoinHandle<()>>,
}

/// The server shuts down: it waits for us, but not longer than this.
#[derive(Clone, Copy)]
struct Leaving {
    deadline: Instant,
    answer_at: Instant,
}

impl Flow {
    /// When the next piece is due, if there is anything for it.
    fn flush_at(&self, flush: Flush) -> Option<Instant> {
        let stored = self.uploads.stored();
        if !self.filling.has_more(stored) || !self.uploads.has_room_for_a_piece() {
            return None;
        }
        let urgent = self.leaving.is_some() || self.next.is_some();
        match flush {
            // A piece proves that all before it is stored; this receiver knows nothing of what came before it began.
            Flush::Whole => None,
            Flush::Synchronous => Some(Instant::now()),
            _ if urgent => Some(Instant::now()),
            // One at a time: the next one takes along what came meanwhile.
            Flush::Every(_) if self.uploads.is_busy() => None,
            Flush::Every(pause) => Some(self.flushed_at + pause),
        }
    }

    fn flush(&mut self) -> Result<(), CaptureError> {
        self.flushed_at = Instant::now();
        match self.filling.cut(self.uploads.stored()) {
            Some((piece, bytes)) => self.uploads.push_piece(piece, bytes),
            None => Ok(()),
        }
    }

    /// Rests when all that came was taken and was little.
    fn rest_after(&mut self, bytes: usize) {
        self.came += bytes;
        if !self.stream.has_next() {
            let is_little = self.came < WORTH_A_WAKING && self.leaving.is_none();
            self.rest_until = is_little.then(|| Instant::now() + REST);
            self.came = 0;
        }
    }

    fn heard(&mut self, event: StreamEvent) -> StreamEvent {
        self.heard_at = Instant::now();
        event
    }

    /// Counts the requests for a reply.
    fn pinged(&mut self, end: Lsn, reported: Lsn, grace: Duration) {
        let now = Instant::now();
        self.pings.retain(|at| now.duration_since(*at) < Duration::from_secs(1));
        self.pings.push(now);
        if self.pings.len() >= PINGS_OF_A_SHUTDOWN && end == self.filling.received() && reported < end {
            self.leave(grace);
        }
    }

    fn leave(&mut self, grace: Duration) {
        let now = Instant::now();
        self.leaving.get_or_insert(Leaving { deadline: now + grace, answer_at: now });
    }
}

/// For a branch that is switched off: never reached.
fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
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
