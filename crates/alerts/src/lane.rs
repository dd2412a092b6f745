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
pub const CHANNEL_DEAD: &str = "channel-dead";

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
    Deliver(Box<Waiting>),
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
                Work::Deliver(mut waiting) => {
                    waiting.message.sent = clock.now();
                    let outcome = within_limit(self.named.channel.deliver(&waiting.message)).await;
                    let delivery = self.delivery(&waiting.message, waiting.attempts + 1, &outcome, &*clock);
                    // Told before the queue says that nothing is left.
                    report(delivery);
                    self.done(&waiting, outcome);
                }
                Work::Refresh(mut messages) => {
                    for message in &mut messages {
                        message.sent = clock.now();
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
            return Work::Deliver(Box::new(first));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;
    use crate::channel::Channel;
    use async_trait::async_trait;
    use terms::{Alarm, SystemClock, Timestamp};

    /// Notes what it is given and when, and fails until told otherwise.
    #[derive(Clone, Default)]
    struct Noted(Arc<Mutex<Notes>>, Option<Instant>);

    #[derive(Default)]
    struct Notes {
        /// Each with its second.
        given: Vec<(u64, Message)>,
        takes: bool,
    }

    #[async_trait]
    impl Channel for Noted {
        fn kind(&self) -> &'static str {
            "noted"
        }
        async fn deliver(&self, message: &Message) -> Result<(), Undelivered> {
            let mut noted = self.0.lock().unwrap();
            noted.given.push((self.1.unwrap().elapsed().as_secs(), message.clone()));
            if noted.takes { Ok(()) } else { Err(Undelivered::new("no", "")) }
        }
    }

    struct Ground {
        noted: Noted,
        lane: Arc<Lane>,
        reported: Arc<Mutex<Vec<Delivery>>>,
    }

    fn ground() -> Ground {
        let noted = Noted(Arc::default(), Some(Instant::now()));
        let named = Named { name: "noted".into(), min: Urgency::Warning, channel: Box::new(noted.clone()) };
        let lane = Lane::new(named, [5, 15, 60].map(Duration::from_secs).to_vec());
        let reported: Arc<Mutex<Vec<Delivery>>> = Arc::default();
        let told = Arc::clone(&reported);
        tokio::spawn(Arc::clone(&lane).work(Arc::new(SystemClock), Arc::new(move |delivery| told.lock().unwrap().push(delivery))));
        Ground { noted, lane, reported }
    }

    fn message(rule: &str, subject: &str, urgency: Urgency, kind: Kind) -> Message {
        let alarm = Alarm { rule: rule.into(), subject: subject.into(), urgency, summary: "s".into(), detail: String::new(), hint: String::new() };
        let at = Timestamp::from_unix_micros(0);
        let source = Source { org: "o".into(), repository: "r".into(), host: "h".into() };
        Message::new(&Notice { kind, alarm, peak: urgency, since: at, at }, &source, Duration::ZERO)
    }

    impl Ground {
        fn tries(&self) -> Vec<(u64, String, &'static str)> {
            self.noted.0.lock().unwrap().given.iter().map(|(at, message)| (*at, message.rule.clone(), message.kind.name())).collect()
        }
        fn push(&self, rule: &str, kind: Kind) {
            self.lane.push(message(rule, "", Urgency::Critical, kind));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_again_at_growing_pauses_then_given_up_and_the_newest_message_takes_the_place_of_older_ones() {
        let ground = ground();
        ground.push("a", Kind::Firing);
        tokio::time::sleep(Duration::from_secs(1000)).await;
        assert_eq!(ground.tries().iter().map(|(at, ..)| *at).collect::<Vec<_>>(), [0, 5, 20, 80]);
        assert_eq!((ground.lane.waits(), ground.reported.lock().unwrap().last().map(|last| last.attempts)), (0, Some(4)));
        ground.push("a", Kind::Repeated);
        tokio::time::sleep(Duration::from_secs(1)).await;
        ground.noted.0.lock().unwrap().takes = true;
        ground.push("a", Kind::Resolved);
        tokio::time::sleep(Duration::from_secs(1000)).await;
        let kinds: Vec<_> = ground.tries()[4..].iter().map(|(.., kind)| *kind).collect();
        assert_eq!(kinds, ["repeated", "resolved"], "what is over is not told to fire");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_channel_is_tried_until_it_lives_and_holds_no_more_than_its_bound_the_critical_ones_first() {
        let ground = ground();
        ground.lane.push(message(CHANNEL_DEAD, "noted", Urgency::Critical, Kind::Firing));
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(ground.tries().len() > 50 && ground.lane.waits() == 1);
        ground.push("critical", Kind::Firing);
        let mut dropped = 0;
        for number in 0..300 {
            dropped += usize::from(
                ground.lane.push(message("w", &number.to_string(), Urgency::Warning, Kind::Firing)).is_some_and(|(message, _)| message.rule == "w"),
            );
        }
        assert_eq!((ground.lane.waits(), dropped), (WAITING_MAX, 102));
        ground.noted.0.lock().unwrap().takes = true;
        let before = ground.tries().len();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!((ground.lane.waits(), ground.tries()[before].1.as_str()), (0, "critical"));
    }
}
