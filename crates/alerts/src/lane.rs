//! The queue of one channel and who works it off: a channel that hangs or fails delays no other one.

use crate::channel::{LIMIT, Named};
use crate::error::Undelivered;
use crate::fold::{Kind, Notice};
use crate::message::Message;
use crate::state::{Alert, Delivery, Key};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use terms::{Clock, Urgency};
use tokio::sync::Notify;
use tokio::time::Instant;

/// More than this waits for no channel.
const WAITING_MAX: usize = 200;

/// The rule that a channel itself breaks.
pub(crate) const CHANNEL_DEAD: &str = "channel-dead";

/// One channel with what waits for it.
pub(crate) struct Lane {
    pub named: Named,
    /// Pauses before each further try; after the last one a message is given up.
    retries: Vec<Duration>,
    queue: Mutex<Queue>,
    bell: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// What the receiver must hear of again and again.
    firing: Vec<Message>,
    refreshed: Option<Instant>,
    refresh_fails: bool,
    numbers: u64,
    is_busy: bool,
}

#[derive(Clone)]
struct Waiting {
    /// A message that replaces another one has a number of its own.
    number: u64,
    message: Message,
    attempts: u32,
    due: Instant,
}

enum Work {
    Deliver(Waiting),
    Refresh(Vec<Message>),
    Nothing(Option<Instant>),
}

/// Where outcomes go: kept until the next judgement writes them down.
pub(crate) type Report = dyn Fn(Delivery) + Send + Sync;

impl Lane {
    pub fn new(named: Named, retries: Vec<Duration>) -> Arc<Self> {
        Arc::new(Self { named, retries, queue: Mutex::default(), bell: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this channel is told of what is so urgent.
    pub fn takes(&self, urgency: Urgency) -> bool {
        urgency >= self.named.min
    }

    /// Whether it is told of this. Who was told of something hears of its end.
    pub fn takes_notice(&self, notice: &Notice) -> bool {
        self.takes(if notice.kind == Kind::Resolved { notice.peak } else { notice.alarm.urgency })
    }

    /// Of each alert only the newest message waits. One that had to be let go for it is returned.
    pub fn push(&self, message: Message) -> Option<(Message, u32)> {
        let mut queue = self.lock();
        queue.numbers += 1;
        let number = queue.numbers;
        queue.waiting.retain(|waiting| waiting.message.key != message.key);
        let mut dropped = None;
        if queue.waiting.len() >= WAITING_MAX
            && let Some(at) = (0..queue.waiting.len()).min_by_key(|at| (queue.waiting[*at].message.urgency, queue.waiting[*at].number))
        {
            let least = queue.waiting.remove(at);
            dropped = Some((least.message, least.attempts));
        }
        queue.waiting.push(Waiting { number, message, attempts: 0, due: Instant::now() });
        drop(queue);
        self.bell.notify_one();
        dropped
    }

    /// What fires now, for a receiver that must hear of it again and again.
    pub fn fires(&self, messages: impl FnOnce() -> Vec<Message>) {
        if self.named.channel.refresh().is_some() {
            self.lock().firing = messages();
            self.bell.notify_one();
        }
    }

    /// Whether something about this alert waits.
    pub fn has(&self, key: &str) -> bool {
        self.lock().waiting.iter().any(|waiting| waiting.message.key == key)
    }

    /// How much waits, the delivery that is under way included.
    pub fn waits(&self) -> usize {
        let queue = self.lock();
        queue.waiting.len().max(usize::from(queue.is_busy))
    }

    /// Works for ever.
    pub async fn work(self: Arc<Self>, clock: Arc<dyn Clock>, report: Arc<Report>) {
        loop {
            match self.next() {
                Work::Deliver(waiting) => {
                    let outcome = within_limit(self.named.channel.deliver(&waiting.message)).await;
                    let delivery = self.delivery(&waiting.message, waiting.attempts + 1, &outcome, &*clock);
                    // Told before the queue says that nothing is left.
                    report(delivery);
                    self.done(&waiting, outcome);
                }
                Work::Refresh(mut messages) => {
                    for message in &mut messages {
                        message.at = clock.now();
                    }
                    let outcome = within_limit(self.named.channel.refresh_all(&messages)).await;
                    self.refreshed(outcome, &messages, &*clock, &*report);
                }
                Work::Nothing(Some(until)) => {
                    tokio::select! { () = tokio::time::sleep_until(until) => {}, () = self.bell.notified() => {} }
                }
                Work::Nothing(None) => self.bell.notified().await,
            }
        }
    }

    fn next(&self) -> Work {
        let mut queue = self.lock();
        let now = Instant::now();
        let due = queue.waiting.iter().filter(|waiting| waiting.due <= now);
        if let Some(first) = due.min_by_key(|waiting| (std::cmp::Reverse(waiting.message.urgency), waiting.number)).cloned() {
            queue.is_busy = true;
            return Work::Deliver(first);
        }
        let refresh = self.named.channel.refresh().filter(|_| !queue.firing.is_empty());
        let refresh_due = refresh.map(|pause| queue.refreshed.map_or(now, |last| last + pause));
        if refresh_due.is_some_and(|due| due <= now) {
            queue.refreshed = Some(now);
            return Work::Refresh(queue.firing.clone());
        }
        Work::Nothing(queue.waiting.iter().map(|waiting| waiting.due).chain(refresh_due).min())
    }

    fn done(&self, tried: &Waiting, outcome: Result<(), Undelivered>) {
        let mut queue = self.lock();
        queue.is_busy = false;
        // A newer message about the same may have taken its place meanwhile.
        let Some(at) = queue.waiting.iter().position(|waiting| waiting.number == tried.number) else { return };
        let Err(trouble) = outcome else {
            queue.waiting.remove(at);
            return;
        };
        let attempts = tried.attempts as usize;
        // That this very channel is dead is what it is tried with until it lives.
        let is_probe = tried.message.rule == CHANNEL_DEAD && tried.message.subject == self.named.name && !tried.message.is_over();
        let pause = self.retries.get(attempts).or(self.retries.last().filter(|_| is_probe));
        match pause {
            Some(pause) => {
                let asked = trouble.retry_after.unwrap_or_default().min(Duration::from_secs(300));
                queue.waiting[at].due = Instant::now() + (*pause).max(asked);
                queue.waiting[at].attempts += 1;
            }
            None => drop(queue.waiting.remove(at)),
        }
    }

    pub fn delivery(&self, message: &Message, attempts: u32, outcome: &Result<(), Undelivered>, clock: &dyn Clock) -> Delivery {
        Delivery {
            channel: self.named.name.clone(),
            at: clock.now(),
            rule: message.rule.clone(),
            subject: message.subject.clone(),
            kind: message.kind.name().to_owned(),
            ok: outcome.is_ok(),
            why: outcome.as_ref().err().map(|trouble| trouble.why.clone()),
            attempts,
        }
    }

    /// Every minute's success is no news; that it fails, and that it works again, is.
    fn refreshed(&self, outcome: Result<(), Undelivered>, messages: &[Message], clock: &dyn Clock, report: &Report) {
        let was_failing = std::mem::replace(&mut self.lock().refresh_fails, outcome.is_err());
        if let Some(first) = messages.first().filter(|_| was_failing || outcome.is_err()) {
            report(Delivery { kind: "refreshed".to_owned(), ..self.delivery(first, 1, &outcome, clock) });
        }
    }
}

/// The outcome of one delivery, which takes no longer than the limit.
pub(crate) async fn within_limit(work: impl Future<Output = Result<(), Undelivered>>) -> Result<(), Undelivered> {
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| Err(Undelivered::too_late(LIMIT)))
}

/// How an alert is named in a queue.
pub(crate) fn name_of(source: &crate::Source, key: &Key) -> String {
    crate::message::key(source, &key.0, &key.1)
}

/// What a receiver hears of this alert while it fires, if people were told of it.
pub(crate) fn goes_on(alert: &Alert) -> Option<Notice> {
    (alert.fires() && alert.told.is_some()).then(|| Notice::of(alert, Kind::Repeated, alert.since))
}
