//! The WAL receiver as a supervised command: begun again for ever, and what it says folded into facts.

use crate::child::{Ended, Program, Running};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::time::Duration;
use terms::{Clock, SystemClock, Timestamp};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use watch::facts::{ReceiverFacts, RepositoryFacts};

/// How long after its end it is begun again; doubled while it does not come to stream.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long it may take to end: it lets uploads land first.
const END_LIMIT: Duration = Duration::from_secs(15);

/// A break in the log that the receiver found.
#[derive(Debug, Clone)]
pub struct Break {
    pub at: Timestamp,
    pub what: String,
}

/// The receiver and what is known of it.
pub struct Receiver {
    running: Option<Running>,
    events: Option<mpsc::UnboundedReceiver<Value>>,
    pause: Duration,
    begin_at: Instant,
    state: &'static str,
    since: Option<Timestamp>,
    why: Option<String>,
    held_up: Option<(Timestamp, f64)>,
    commits_wait: bool,
    breaks: Vec<Break>,
}

/// What somebody should do about what the receiver said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heed {
    Nothing,
    /// People want to know at once.
    Tell,
    /// The log is broken: a full backup is needed at once.
    Backup,
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            running: None,
            events: None,
            pause: PAUSE_FIRST,
            begin_at: Instant::now(),
            state: "down",
            since: None,
            why: None,
            held_up: None,
            commits_wait: false,
            breaks: Vec::new(),
        }
    }
}

impl Receiver {
    /// Begins it where it is not running and its pause is over.
    pub fn begin(&mut self, program: &Program) {
        if self.running.is_some() || Instant::now() < self.begin_at {
            return;
        }
        let (sender, events) = mpsc::unbounded_channel();
        match program.start(&["wal", "receive"], Some(sender)) {
            Ok(running) => (self.running, self.events) = (Some(running), Some(events)),
            Err(e) => self.is_down(format!("it cannot be started: {e}")),
        }
        self.since.get_or_insert_with(|| SystemClock.now());
    }

    fn is_down(&mut self, why: String) {
        if self.state != "down" {
            self.since = Some(SystemClock.now());
        }
        (self.state, self.why) = ("down", Some(why));
        self.begin_at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// Waits for something that it says, or for its end. It may be dropped while it waits, and called again.
    pub async fn next(&mut self) -> Heed {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        if let Some(events) = &mut self.events {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => return self.hear(&event),
                    // Its pipe is closed: it ends.
                    None => self.events = None,
                },
                ended = running.ended() => return self.has_ended(&ended),
            }
        }
        let ended = running.ended().await;
        self.has_ended(&ended)
    }

    fn has_ended(&mut self, ended: &Ended) -> Heed {
        let error = ended.said.error.as_ref();
        let text = |name: &str| error.and_then(|error| error[name].as_str()).unwrap_or_default().to_owned();
        let why = if error.is_some() { format!("{}. {}", text("summary"), text("detail")) } else { "it ended".to_owned() };
        (self.running, self.events) = (None, None);
        self.nothing_is_held_up();
        self.is_down(why);
        Heed::Tell
    }

    /// Who said that WAL waits says nothing any more. Where it waits still, the next connection tells so again; whether it did.
    fn nothing_is_held_up(&mut self) -> bool {
        self.commits_wait = false;
        self.held_up.take().is_some()
    }

    /// Folds one event (see docs/events) into what is known.
    fn hear(&mut self, event: &Value) -> Heed {
        let now = SystemClock.now();
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let mut turns = |state, why| {
            if self.state != state {
                self.since = Some(now);
            }
            (self.state, self.why) = (state, why);
        };
        match event["event"].as_str().unwrap_or_default() {
            "wal-streaming" => {
                turns("streaming", None);
                self.pause = PAUSE_FIRST;
                // The connection that told of it ended before it flowed again, and will never say so.
                if self.nothing_is_held_up() { Heed::Tell } else { Heed::Nothing }
            }
            "waiting-for-turn" => {
                turns("waiting", Some(format!("{} receives", text("holder"))));
                if self.nothing_is_held_up() { Heed::Tell } else { Heed::Nothing }
            }
            // What waited waits on, on the server: that is not over before the next connection streams.
            "disconnected" => {
                turns("disconnected", Some(text("why")));
                Heed::Nothing
            }
            "store-retry" => {
                self.why = Some(format!("could not store {}: {}", text("object"), text("why")));
                Heed::Nothing
            }
            "wal-held-up" => {
                self.commits_wait = event["commits_wait"].as_bool().unwrap_or_default();
                let waited = event["waited_seconds"].as_f64().unwrap_or_default();
                let is_new = self.held_up.is_none();
                self.held_up = Some((now, waited));
                if is_new { Heed::Tell } else { Heed::Nothing }
            }
            "wal-flows-again" => {
                self.nothing_is_held_up();
                self.why = None;
                Heed::Tell
            }
            "wal-gap" => self.breaks_at(now, format!("WAL from {} to {} is lost: {}", text("from"), text("to"), text("why"))),
            "wal-damaged" => self.breaks_at(now, format!("WAL is damaged from {} on ({})", text("at_lsn"), text("reason"))),
            _ => Heed::Nothing,
        }
    }

    fn breaks_at(&mut self, at: Timestamp, what: String) -> Heed {
        if self.breaks.iter().any(|known| known.what == what) {
            return Heed::Nothing;
        }
        self.breaks.push(Break { at, what });
        Heed::Backup
    }

    /// A backup that began later leads past a break.
    pub fn mended_by(&mut self, backup_began: Timestamp) {
        self.breaks.retain(|found| found.at >= backup_began);
    }

    /// The same of the newest backup that is listed, whoever made it: begun later by its server's clock, and by that of the host in its name.
    /// One that a clock stamped which was ahead says nothing: it would lead past every break until its time comes.
    pub fn mended_by_newest(&mut self, repository: &RepositoryFacts) {
        if let Some(newest) = repository.newest().filter(|newest| !newest.is_ahead) {
            self.mended_by(newest.began.min(newest.id.time()));
        }
    }

    /// When the newest break was found that no backup leads past.
    pub fn broken_at(&self) -> Option<Timestamp> {
        self.breaks.iter().map(|found| found.at).max()
    }

    pub fn facts(&self) -> ReceiverFacts {
        let now = SystemClock.now();
        ReceiverFacts {
            state: self.state.to_owned(),
            since: self.since,
            why: self.why.clone(),
            held_up_seconds: self.held_up.map(|(at, waited)| waited + now.seconds_since(at).max(0.0)),
            commits_wait: self.commits_wait,
            breaks: self.breaks.iter().map(|found| found.what.clone()).collect(),
            lag: Vec::new(),
        }
    }

    /// Ends it: it lets what is on its way land.
    pub async fn end(&mut self) {
        self.nothing_is_held_up();
        let Some(mut running) = self.running.take() else { return };
        running.signal(Signal::SIGTERM);
        if timeout(END_LIMIT, running.ended()).await.is_err() {
            running.signal(Signal::SIGKILL);
            drop(timeout(Duration::from_secs(2), running.ended()).await);
        }
        self.events = None;
        (self.state, self.since) = ("down", Some(SystemClock.now()));
        (self.pause, self.begin_at) = (PAUSE_FIRST, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_receiver_says_becomes_facts() {
        let mut receiver = Receiver::default();
        assert_eq!(receiver.hear(&json!({"event": "wal-streaming", "from": "0/1000000"})), Heed::Nothing);
        assert_eq!(receiver.facts().state, "streaming");
        let held = json!({"event": "wal-held-up", "waited_seconds": 4.0, "commits_wait": true});
        assert_eq!((receiver.hear(&held), receiver.hear(&held)), (Heed::Tell, Heed::Nothing));
        let facts = receiver.facts();
        assert!(facts.commits_wait && facts.held_up_seconds.is_some_and(|seconds| seconds >= 4.0));
        assert_eq!(receiver.hear(&json!({"event": "wal-flows-again"})), Heed::Tell);
        assert_eq!(receiver.facts().held_up_seconds, None);
        let gap = json!({"event": "wal-gap", "from": "0/1", "to": "0/2", "why": "the slot was dropped"});
        assert_eq!((receiver.hear(&gap), receiver.hear(&gap)), (Heed::Backup, Heed::Nothing));
        receiver.mended_by(SystemClock.now().plus_micros(-60_000_000));
        assert!(receiver.broken_at().is_some(), "that backup began before the break");
        receiver.mended_by(SystemClock.now().plus_micros(1));
        assert_eq!(receiver.broken_at(), None);
    }

    #[test]
    fn a_backup_that_somebody_made_by_hand_leads_past_a_break_and_an_older_one_does_not() {
        let mut sample: Value = serde_json::from_str(include_str!("../../page/sample/sample.json")).unwrap();
        let mut repository: RepositoryFacts = serde_json::from_value(sample["facts"]["repository"]["seen"].take()).unwrap();
        let mut receiver = Receiver::default();
        receiver.hear(&json!({"event": "wal-gap", "from": "0/1", "to": "0/2", "why": "the slot was dropped"}));
        let (before, after) = (SystemClock.now().plus_micros(-60_000_000), SystemClock.now().plus_micros(60_000_000));
        for (began, named, is_broken) in [(before, before, true), (after, before, true), (before, after, true), (after, after, false)] {
            let newest = repository.backups.last_mut().unwrap();
            (newest.began, newest.id) = (began, terms::BackupId::begun(named));
            receiver.mended_by_newest(&repository);
            assert_eq!(receiver.broken_at().is_some(), is_broken, "{began} {named}");
        }
    }

    #[test]
    fn a_backup_of_a_clock_that_was_ahead_leads_past_no_break() {
        let mut sample: Value = serde_json::from_str(include_str!("../../page/sample/sample.json")).unwrap();
        let mut repository: RepositoryFacts = serde_json::from_value(sample["facts"]["repository"]["seen"].take()).unwrap();
        let (yesterday, in_years) = (SystemClock.now().plus_micros(-86_400_000_000), SystemClock.now().plus_micros(3 * 365 * 86_400_000_000));
        let mut ahead = repository.backups.pop().unwrap();
        repository.backups.truncate(1);
        (repository.backups[0].began, repository.backups[0].id) = (yesterday, terms::BackupId::begun(yesterday));
        (ahead.began, ahead.at, ahead.id, ahead.is_ahead) = (in_years, in_years, terms::BackupId::begun(in_years), true);
        repository.backups.push(ahead);
        let mut receiver = Receiver::default();
        receiver.hear(&json!({"event": "wal-gap", "from": "0/1", "to": "0/2", "why": "the slot was dropped"}));
        receiver.mended_by_newest(&repository);
        assert!(receiver.broken_at().is_some(), "the newest that counts began before the break");
        repository.backups.retain(|backup| backup.is_ahead);
        receiver.mended_by_newest(&repository);
        assert!(receiver.broken_at().is_some(), "nor where there is no other");
    }

    /// One whose last connection said that commits wait for the store.
    fn held_up() -> Receiver {
        let mut receiver = Receiver::default();
        receiver.hear(&json!({"event": "wal-streaming", "from": "0/1000000"}));
        receiver.hear(&json!({"event": "wal-held-up", "waited_seconds": 4.0, "commits_wait": true}));
        receiver
    }

    fn says_that_wal_waits(receiver: &Receiver) -> (bool, bool) {
        let facts = receiver.facts();
        (facts.held_up_seconds.is_some(), facts.commits_wait)
    }

    #[test]
    fn what_one_connection_found_held_up_is_over_when_the_next_one_streams_and_told_again_where_it_is_not() {
        let mut receiver = held_up();
        assert_eq!(receiver.hear(&json!({"event": "disconnected", "why": "the lease is lost"})), Heed::Nothing);
        assert_eq!(says_that_wal_waits(&receiver), (true, true), "it waits on the server meanwhile");
        assert_eq!(receiver.hear(&json!({"event": "wal-streaming", "from": "0/1000000"})), Heed::Tell);
        assert_eq!(says_that_wal_waits(&receiver), (false, false));
        let held = json!({"event": "wal-held-up", "waited_seconds": 35.0, "commits_wait": false});
        assert_eq!(receiver.hear(&held), Heed::Tell, "the store is still away");
        assert_eq!(says_that_wal_waits(&receiver), (true, false));
        assert_eq!(receiver.hear(&json!({"event": "waiting-for-turn", "holder": "another"})), Heed::Tell);
        assert_eq!(says_that_wal_waits(&receiver), (false, false), "it is the other one's to say");
    }

    #[test]
    fn a_receiver_that_ended_says_nothing_of_what_waits() {
        let mut receiver = held_up();
        let ended = Ended { status: None, said: crate::child::Said::default() };
        assert_eq!(receiver.has_ended(&ended), Heed::Tell);
        assert_eq!(says_that_wal_waits(&receiver), (false, false));
        let mut receiver = held_up();
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(receiver.end());
        assert_eq!(says_that_wal_waits(&receiver), (false, false));
    }
}
