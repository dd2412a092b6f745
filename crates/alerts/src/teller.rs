//! Takes judgements, remembers them in the repository, and sees to it that people are told, whatever is away.

use crate::channel::{Named, Scrub, address, client};
use crate::error::AlertError;
use crate::fold::{Judged, Kind, Notice, Patience, Sight, fold};
use crate::lane::{CHANNEL_DEAD, Lane, Report, goes_on, name_of, within_limit};
use crate::memory::Memory;
use crate::message::{Message, Source};
use crate::state::{Delivery, State};
use crate::view::{HeartbeatView, View};
use repo::AlertShelf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use terms::{Alarm, Clock, Explain, Judgement, Secret, Timestamp, Urgency};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// What nobody has delivered for so long, by a process that is not this one, is told again.
const LOST_AFTER: Duration = Duration::from_secs(60);
/// Between judgements of a process that lives on an alert is said to last so long.
const LASTS: Duration = Duration::from_secs(300);

/// What the dead man's switch is called where channels have their names.
const HEARTBEAT: &str = "heartbeat";

/// How a teller is set up.
pub struct Setup {
    /// When alerts that go on are told again, and when warnings become critical.
    pub patience: Patience,
    /// A channel that has delivered nothing for so long although it was tried is an alarm itself.
    pub dead_after: Duration,
    /// Pauses before each further try of a delivery.
    pub retries: Vec<Duration>,
    /// For so long the repository is not asked again after it did not answer.
    pub away_for: Duration,
    /// Whether this process lives on and will tell of each end, or is one command.
    pub lives_on: bool,
    /// The address of a dead man's switch, or why it is not known.
    pub heartbeat: Option<Result<Secret, String>>,
    /// The switch is not pinged more often.
    pub heartbeat_interval: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            patience: Patience::default(),
            dead_after: Duration::from_secs(120),
            // About a quarter of an hour in all.
            retries: [5, 15, 45, 120, 240, 480].map(Duration::from_secs).to_vec(),
            away_for: Duration::from_secs(15),
            lives_on: true,
            heartbeat: None,
            heartbeat_interval: Duration::from_secs(60),
        }
    }
}

/// Tells people what judgements say. Dropped, it tells nothing more: [`Teller::finish`] first.
pub struct Teller {
    setup: Setup,
    source: Source,
    clock: Arc<dyn Clock>,
    lanes: Vec<Arc<Lane>>,
    memory: tokio::sync::Mutex<Memory>,
    shared: Arc<Shared>,
    heart: Option<Heart>,
    tasks: Vec<JoinHandle<()>>,
}

/// What pings the dead man's switch.
struct Heart {
    client: reqwest::Client,
    url: reqwest::Url,
    scrub: Scrub,
}

impl Heart {
    fn new(url: &Secret) -> Result<Self, AlertError> {
        Ok(Self { client: client(HEARTBEAT, None)?, url: address(HEARTBEAT, url.reveal())?, scrub: Scrub::new([url]) })
    }
}

/// What the workers of all channels reach.
#[derive(Default)]
struct Shared {
    /// Deliveries that are not in the state yet.
    outcomes: Mutex<Vec<Delivery>>,
    /// The state as it was last.
    shown: Mutex<State>,
    heartbeat: Mutex<HeartbeatView>,
    last_beat: Mutex<Option<Instant>>,
    moved: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How the trial of one channel ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// By the name that the configuration gives it.
    pub channel: String,
    /// Its type, such as `slack`; see [`Channel::kind`](crate::Channel::kind).
    pub kind: &'static str,
    /// Why it failed, and what to do.
    pub trouble: Option<crate::Undelivered>,
}

impl Teller {
    /// Begins to work; within a runtime. Without a shelf nothing is remembered.
    pub fn start(setup: Setup, channels: Vec<Named>, shelf: Option<AlertShelf>, source: Source, clock: Arc<dyn Clock>) -> Self {
        let shared = Arc::new(Shared::default());
        // One that cannot be pinged is told of like a channel over which nothing gets through: it is no reason to tell nothing.
        let heart = setup.heartbeat.as_ref().and_then(|url| {
            let made = url.as_ref().map_err(String::clone).and_then(|url| Heart::new(url).map_err(|e| e.in_a_line()));
            made.map_err(|why| lock(&shared.heartbeat).failed(clock.now(), why)).ok()
        });
        let lanes: Vec<_> = channels.into_iter().map(|named| Lane::new(named, setup.retries.clone())).collect();
        let reached = Arc::clone(&shared);
        let report: Arc<Report> = Arc::new(move |delivery| {
            lock(&reached.outcomes).push(delivery);
            reached.moved.notify_waiters();
        });
        let tasks = lanes.iter().map(|lane| tokio::spawn(Arc::clone(lane).work(Arc::clone(&clock), Arc::clone(&report)))).collect();
        let memory = tokio::sync::Mutex::new(Memory::new(shelf, setup.away_for));
        Self { setup, source, clock, lanes, memory, shared, heart, tasks }
    }

    /// Takes what all rules say now; returns whom it told what. The notices are on their way then.
    pub async fn judge(&self, judgement: &Judgement, now: Timestamp) -> Vec<Notice> {
        self.take(judgement, None, now).await
    }

    /// Takes what was found out about these alone: everything else stays as it is. For a command that does one job.
    pub async fn tell_partial(&self, judged: &[Judged], judgement: &Judgement, now: Timestamp) -> Vec<Notice> {
        self.take(judgement, Some(judged), now).await
    }

    async fn take(&self, judgement: &Judgement, only: Option<&[Judged]>, now: Timestamp) -> Vec<Notice> {
        let mut memory = self.memory.lock().await;
        for delivery in lock(&self.shared.outcomes).drain(..) {
            memory.record(delivery);
        }
        // What it knows itself besides: its channels.
        let own = self.lanes.iter().map(|lane| Judged::one(CHANNEL_DEAD, &lane.named.name));
        let only = only.map(|only| only.iter().cloned().chain(own).collect::<Vec<_>>());
        let alarmed_at = (!judgement.alarms.is_empty() || memory.state().alerts.iter().any(crate::Alert::fires)).then_some(now);
        let notices = memory.fold_in(alarmed_at, |state, silences| self.fold(state, silences, judgement, only.as_deref(), now)).await;
        lock(&self.shared.shown).clone_from(memory.state());
        for notice in &notices {
            let message = self.message(notice);
            for lane in self.lanes.iter().filter(|lane| lane.takes_notice(notice)) {
                if let Some((dropped, attempts)) = lane.push(message.clone()) {
                    let trouble = crate::Undelivered::new("too much waits for this channel", "");
                    let delivery = lane.delivery(&dropped, attempts, &Err(trouble), &*self.clock);
                    lock(&self.shared.outcomes).push(delivery);
                }
            }
        }
        for lane in &self.lanes {
            let alerts = memory.state().alerts.iter().filter_map(goes_on).filter(|notice| lane.takes_notice(notice));
            lane.fires(|| alerts.map(|notice| self.message(&notice)).collect());
        }
        notices
    }

    fn fold(
        &self,
        mut state: State,
        silences: &[repo::Silence],
        judgement: &Judgement,
        only: Option<&[Judged]>,
        now: Timestamp,
    ) -> (State, Vec<Notice>) {
        let mut judgement = judgement.clone();
        state.fails_since_no_future(now);
        judgement.alarms.extend(self.dead_channels(&state, now));
        let is_old = |told: Timestamp| now.seconds_since(told) >= LOST_AFTER.as_secs_f64() || told > now;
        state.forget_what_was_lost(
            |alert| {
                let name = name_of(&self.source, &alert.key());
                // What no channel takes waits nowhere, and is not lost.
                let mut takers = self.lanes.iter().filter(|lane| lane.takes(alert.peak.unwrap_or(alert.urgency))).peekable();
                takers.peek().is_none() || takers.any(|lane| lane.has(&name))
            },
            is_old,
        );
        fold(state, &Sight { judgement: &judgement, only, silences }, now, &self.setup.patience)
    }

    /// Channels over which nothing gets through.
    fn dead_channels(&self, state: &State, now: Timestamp) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        let heartbeat = lock(&self.shared.heartbeat).clone();
        if let Some(since) = heartbeat.failing_since.filter(|since| self.is_dead(*since, now)) {
            alarms.push(Alarm {
                rule: CHANNEL_DEAD.to_owned(),
                subject: HEARTBEAT.to_owned(),
                urgency: Urgency::Critical,
                summary: format!("the heartbeat does not get through since {since}"),
                detail: heartbeat.why.as_ref().map(|why| format!("The last try failed: {why}.")).unwrap_or_default(),
                hint: "Look at [alerts] heartbeat and at whoever waits there: they take Bowline for dead.".to_owned(),
            });
        }
        for lane in &self.lanes {
            let name = &lane.named.name;
            let Some(health) = state.channels.get(name) else { continue };
            let Some(since) = health.failing_since else { continue };
            if self.is_dead(since, now) {
                alarms.push(Alarm {
                    rule: CHANNEL_DEAD.to_owned(),
                    subject: name.clone(),
                    urgency: Urgency::Critical,
                    summary: format!("alerts do not get through over {name} since {since}"),
                    detail: health.why.as_ref().map(|why| format!("The last try failed: {why}.")).unwrap_or_default(),
                    hint: format!("Mend the receiver or the channel's settings, then run bowline alert test --channel {name}."),
                });
            }
        }
        alarms
    }

    fn is_dead(&self, since: Timestamp, now: Timestamp) -> bool {
        now.seconds_since(since) >= self.setup.dead_after.as_secs_f64()
    }

    fn message(&self, notice: &Notice) -> Message {
        let lasts = if self.setup.lives_on { LASTS } else { self.setup.patience.repeat(notice.alarm.urgency) + LASTS };
        Message::new(notice, &self.source, lasts)
    }

    /// Sends a marked message over every channel, or over this one, once and past all that waits.
    pub async fn test(&self, channel: Option<&str>) -> Result<Vec<Tried>, AlertError> {
        let lanes: Vec<_> = self.lanes.iter().filter(|lane| channel.is_none_or(|name| lane.named.name == name)).collect();
        if let Some(name) = channel.filter(|_| lanes.is_empty()) {
            let known = self.lanes.iter().map(|lane| lane.named.name.clone()).collect();
            return Err(AlertError::NoChannel { channel: name.to_owned(), known });
        }
        let now = self.clock.now();
        let alarm = Alarm {
            rule: "test".to_owned(),
            subject: String::new(),
            urgency: Urgency::Critical,
            summary: "this is a test, nothing is wrong".to_owned(),
            detail: "Somebody ran bowline alert test.".to_owned(),
            hint: "Nothing needs to be done.".to_owned(),
        };
        let message =
            Message::new(&Notice { kind: Kind::Test, alarm, peak: Urgency::Critical, since: now, at: now }, &self.source, Duration::from_secs(60));
        let tries = lanes.into_iter().map(async |lane| {
            let outcome = within_limit(lane.named.channel.deliver(&message)).await;
            lock(&self.shared.outcomes).push(lane.delivery(&message, 1, &outcome, &*self.clock));
            Tried { channel: lane.named.name.clone(), kind: lane.named.channel.kind(), trouble: outcome.err() }
        });
        Ok(futures::future::join_all(tries).await)
    }

    /// Pings the dead man's switch when it is time, unless something is wrong: `healthy` says whether it is not, beside alerts. Does not wait
    /// for the answer; returns whether it pings.
    pub fn heartbeat(&self, healthy: bool) -> bool {
        let Some(heart) = &self.heart else { return false };
        // That it did not get through is found to be over only by trying.
        let is_own = |alert: &crate::Alert| (alert.rule.as_str(), alert.subject.as_str()) == (CHANNEL_DEAD, HEARTBEAT);
        // A warning that only stayed for long, and what somebody silenced, say nothing against the watch itself.
        let is_critical = |alert: &crate::Alert| {
            alert.fires() && alert.urgency == Urgency::Critical && !alert.escalated && alert.silenced_by.is_none() && !is_own(alert)
        };
        if !healthy || lock(&self.shared.shown).alerts.iter().any(is_critical) {
            return false;
        }
        let mut last = lock(&self.shared.last_beat);
        if last.is_some_and(|last| last.elapsed() < self.setup.heartbeat_interval) {
            return false;
        }
        *last = Some(Instant::now());
        let (request, scrub) = (heart.client.get(heart.url.clone()), heart.scrub.clone());
        let (clock, shared) = (Arc::clone(&self.clock), Arc::clone(&self.shared));
        tokio::spawn(async move {
            let outcome = crate::channel::post(request, &scrub).await;
            let mut view = lock(&shared.heartbeat);
            match outcome {
                Ok(()) => *view = HeartbeatView { last_ok: Some(clock.now()), failing_since: None, why: None, ..view.clone() },
                Err(trouble) => view.failed(clock.now(), trouble.why),
            }
        });
        true
    }

    /// How everything stands, without waiting for anything.
    pub fn view(&self) -> View {
        let mut state = lock(&self.shared.shown).clone();
        for delivery in lock(&self.shared.outcomes).iter() {
            state.record(delivery.clone());
        }
        let mut view = View::of(&state);
        let known: Vec<_> = self.lanes.iter().map(|lane| (lane.named.name.as_str(), lane.named.channel.kind(), lane.waits())).collect();
        view.name_channels(&known);
        view.heartbeat = self.setup.heartbeat.as_ref().map(|_| lock(&self.shared.heartbeat).clone());
        view
    }

    /// Waits until nothing is on its way, but no longer than this, and writes down how it went. Returns the channels for which something
    /// still waits.
    pub async fn finish(&self, limit: Duration) -> Vec<String> {
        let end = Instant::now() + limit;
        loop {
            let moved = self.shared.moved.notified();
            if self.lanes.iter().all(|lane| lane.waits() == 0) {
                break;
            }
            // A report comes a moment before its queue says so.
            let pause = (Instant::now() + Duration::from_millis(50)).min(end);
            if tokio::time::timeout_at(end, async {
                tokio::select! { () = moved => {}, () = tokio::time::sleep_until(pause) => {} }
            })
            .await
            .is_err()
                || Instant::now() >= end
            {
                break;
            }
        }
        let mut memory = self.memory.lock().await;
        for delivery in lock(&self.shared.outcomes).drain(..) {
            memory.record(delivery);
        }
        memory.fold_in(None, |state, _| (state, Vec::new())).await;
        lock(&self.shared.shown).clone_from(memory.state());
        self.lanes.iter().filter(|lane| lane.waits() > 0).map(|lane| lane.named.name.clone()).collect()
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
