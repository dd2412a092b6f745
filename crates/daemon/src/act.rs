//! The daemon's own loop: begins what is due, minds what runs, ends cleanly.

use crate::child::Ended;
use crate::due::{Backups, Past, Situation, Why, due, expiry_due};
use crate::look::{Asked, go_on_looking};
use crate::office::{Office, Underway};
use crate::receiver::{Heed, Receiver};
use crate::turn::{Role, stand_in_line};
use crate::{Loaded, Premises};
use nix::sys::signal::Signal;
use repo::{RunBegun, RunName, RunOutcome};
use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use terms::{Clock, Event, Events, SystemClock, Timestamp, Urgency};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch as channel;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout, timeout_at};
use watch::facts::{Facts, PastRun, RepositoryFacts, RunFacts};
use watch::{FINDERS, JobPlan, Look, Trouble};

/// How often the clock is looked at. It may jump, so nothing sleeps until a time.
const TICK: Duration = Duration::from_millis(500);
/// How long jobs have to end when the daemon is told to.
const END_LIMIT: Duration = Duration::from_secs(20);
/// How long one that was told to end may take before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(60);
/// How long one that was killed may take to be gone.
const KILLED_LIMIT: Duration = Duration::from_secs(5);
/// How long the ledger may keep us from going on.
const LEDGER_LIMIT: Duration = Duration::from_secs(20);
/// A hole in what is stored, or damage, is led past by a backup no more often than this.
const HOLE_AGAIN_SECONDS: f64 = 3600.0;
/// A drill that somebody else began, and that has no end, is left alone for so long.
const DRILL_UNENDED: Duration = Duration::from_secs(6 * 3600);
/// A job that found another one at it waits so long.
const HELD_PAUSE: Duration = Duration::from_secs(600);
/// A backup that leads past a break is begun no more often than this.
const BREAK_AGAIN_SECONDS: f64 = 600.0;
/// What a backup says that was refused for a damaged page.
const PAGE_DAMAGED: &str = "page-damaged";

struct Daemon {
    premises: Arc<dyn Premises>,
    loaded: channel::Sender<Arc<Loaded>>,
    office: Arc<Office>,
    asked: Arc<Asked>,
    events: Arc<dyn Events>,
    receiver: Receiver,
    receiver_facts: channel::Sender<Option<watch::facts::ReceiverFacts>>,
    jobs: JoinSet<(&'static str, Timestamp, Ended)>,
    /// What is still to be written down of jobs that ended.
    after: JoinSet<()>,
    /// Jobs that found another at it: not before then.
    not_before: BTreeMap<&'static str, Instant>,
    /// What this daemon ran itself, newest first, each with its name in the ledger where it has one: the last look may not know of it yet,
    /// or know it as one that still runs.
    own: BTreeMap<&'static str, Vec<(Option<String>, Past)>>,
}

/// Runs until SIGTERM or SIGINT. An error is only what keeps it from beginning.
pub async fn run(premises: Arc<dyn Premises>, office: Arc<Office>, events: Arc<dyn Events>) -> Result<(), Trouble> {
    let first = Arc::new(premises.load()?);
    let signals = |kind| {
        signal(kind).map_err(|e| Trouble {
            slug: "no-signals".into(),
            summary: "cannot listen for signals".into(),
            detail: format!("{e}."),
            hint: String::new(),
            is_damage: false,
        })
    };
    let (mut term, mut int, mut hup) = (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?, signals(SignalKind::hangup())?);
    let (end, ends) = channel::channel(false);
    let ttl = first.lease_ttl;
    let mut daemon = Daemon {
        premises: Arc::clone(&premises),
        loaded: channel::Sender::new(first),
        office: Arc::clone(&office),
        asked: Arc::default(),
        events: Arc::clone(&events),
        receiver: Receiver::default(),
        receiver_facts: channel::Sender::new(None),
        jobs: JoinSet::new(),
        after: JoinSet::new(),
        not_before: BTreeMap::new(),
        own: BTreeMap::new(),
    };
    let line = tokio::spawn(stand_in_line(premises, ttl, office.role_sender(), Arc::clone(&events), ends.clone()));
    let looking = tokio::spawn(go_on_looking(
        daemon.loaded.subscribe(),
        daemon.receiver_facts.subscribe(),
        Arc::clone(&office),
        Arc::clone(&daemon.asked),
        ends,
    ));
    let watchdog = sd_notify::watchdog_enabled();
    notify(&[NotifyState::Ready]);
    let mut ticks = interval(TICK);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                if watchdog.is_some() && daemon.office.looks_on() {
                    notify(&[NotifyState::Watchdog]);
                }
                daemon.tick().await;
            }
            heed = daemon.receiver.next() => daemon.heed(heed),
            Some(done) = daemon.jobs.join_next() => if let Ok((job, began, ended)) = done {
                daemon.job_ended(job, began, ended);
            },
            Some(_) = daemon.after.join_next() => {}
            _ = hup.recv() => daemon.reload().await,
            _ = term.recv() => break,
            _ = int.recv() => break,
        }
    }
    notify(&[NotifyState::Stopping]);
    events.tell(Event::Noticed { what: "told to stop".into() });
    // A second word ends it at once.
    tokio::select! {
        () = daemon.end() => {}
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    end.send_replace(true);
    drop(timeout(END_LIMIT, async { drop((line.await, looking.await)) }).await);
    Ok(())
}

fn notify(states: &[NotifyState<'_>]) {
    // Without systemd nobody listens.
    drop(sd_notify::notify(states));
}

impl Daemon {
    fn now(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.borrow())
    }

    async fn tick(&mut self) {
        let loaded = self.now();
        let role = self.office.role();
        if let Role::Standby { .. } = role {
            self.stand_down().await;
        } else if loaded.receives {
            self.receiver.begin(&loaded.program);
            self.receiver_facts.send_replace(Some(self.receiver.facts()));
        }
        self.mind_the_time(&loaded);
        if let Role::Acting { since } = role {
            self.begin_what_is_due(&loaded, since);
        }
    }

    /// Another one acts.
    async fn stand_down(&mut self) {
        self.receiver.end().await;
        self.receiver_facts.send_replace(None);
        for (job, one) in self.office.underway() {
            if one.told_to_end.is_none() {
                one.handle.signal(Signal::SIGTERM);
                self.office.told_to_end(job);
            }
        }
    }

    /// One that hangs is ended: nothing waits for it, but it would never be begun again.
    fn mind_the_time(&self, loaded: &Loaded) {
        let now = SystemClock.now();
        for (job, one) in self.office.underway() {
            match one.told_to_end {
                None if now.seconds_since(one.began) > loaded.job_limit.as_secs_f64() => {
                    self.say(format!("the {job} runs since {}, longer than daemon.job_limit: it is ended", one.began));
                    one.handle.signal(Signal::SIGTERM);
                    self.office.told_to_end(job);
                }
                Some(told) if told.elapsed() > KILL_AFTER => one.handle.signal(Signal::SIGKILL),
                _ => {}
            }
        }
    }

    fn begin_what_is_due(&mut self, loaded: &Loaded, acting_since: Instant) {
        let Some(observed) = self.office.observed() else { return };
        // What the last one who acted ran is known by a look that was made since.
        if observed.at < acting_since {
            return;
        }
        if let Some(repository) = observed.facts.repository.seen() {
            self.receiver.mended_by_newest(repository);
        }
        let is_full = observed
            .judgement
            .alarms
            .iter()
            .any(|alarm| alarm.rule == "capacity" && alarm.subject == "repository" && alarm.urgency == Urgency::Critical);
        let underway = self.office.underway();
        for plan in &loaded.settings.jobs {
            // What is left to somebody else is watched all the same: when it is missed, that is told.
            let is_ours = match plan.name {
                "drill" => loaded.holds_drills,
                "expire" => loaded.expires,
                _ => true,
            };
            if is_ours
                && !underway.contains_key(plan.name)
                && self.not_before.get(plan.name).is_none_or(|time| Instant::now() >= *time)
                && let Some(why) = self.is_due(plan, &observed.facts, is_full)
            {
                self.begin(plan.name, &why, loaded);
            }
        }
    }

    /// Why this job begins now, in words.
    fn is_due(&self, plan: &JobPlan, facts: &Facts, is_full: bool) -> Option<String> {
        let repository = match &facts.repository {
            Look::Seen(repository) => Some(repository),
            // The ledger was read all the same: what is due by it begins, above all the next backup.
            Look::Unseen(trouble) if trouble.is_damage => None,
            Look::Unseen(_) => return None,
        };
        let now = SystemClock.now();
        let job = facts.jobs.iter().find(|job| job.name == plan.name)?;
        let past = self.past(plan.name, &job.past);
        let newest = repository.and_then(RepositoryFacts::newest);
        let last = past.first();
        let since_last = last.map_or(f64::INFINITY, |last| now.seconds_since(last.began));
        if plan.name == "expire" && last.is_none_or(|last| last.is_settled) {
            let is_underway = self.office.underway().contains_key("backup");
            let newest = newest.filter(|newest| !newest.is_ahead).map(|newest| newest.at);
            let backups = Backups { newest, is_underway, since: repository?.created };
            return expiry_due(last, backups, is_full, now).map(str::to_owned);
        }
        if plan.name == "backup"
            && let Some(broken) = self.receiver.broken_at()
            && since_last >= BREAK_AGAIN_SECONDS
            && last.is_none_or(|last| last.began < broken)
        {
            return Some("the log is broken: nothing later can be restored without it".into());
        }
        // It took a whole copy to find the damaged page, and only somebody who repairs it makes the next copy end otherwise.
        let is_in_vain = plan.name == "backup" && job.last.as_ref().is_some_and(|last| last.slug.as_deref() == Some(PAGE_DAMAGED));
        // What is stored does not lead to now, whoever noticed it: once an hour, until it does.
        let is_holed = newest.is_some() && repository.is_some_and(|repository| repository.stored.as_ref().is_none_or(|stored| stored.hole.is_some()));
        if plan.name == "backup" && since_last >= HOLE_AGAIN_SECONDS && !is_in_vain {
            if is_holed {
                return Some("the stored log has a hole: nothing later can be restored without it".into());
            }
            // What is damaged is stored all the same: only an audit sees it.
            if repository.is_some_and(RepositoryFacts::is_cut_off) {
                return Some("the stored log is damaged behind the newest backup: nothing later can be restored without another one".into());
            }
        }
        // Nothing can be drilled, or audited, before there is a backup.
        let is_first_to_be_made = repository.is_some() && newest.is_none();
        if is_first_to_be_made && ["drill", "audit"].contains(&plan.name) {
            return None;
        }
        // Of another cluster, before an upgrade, nothing protects this one.
        let since = repository.map_or(now, |repository| repository.created);
        let epoch = repository.and_then(|repository| repository.epochs.iter().find(|epoch| epoch.is_present)).map_or(since, |epoch| epoch.since);
        let is_wanted_at_once = plan.name == "backup" && is_first_to_be_made;
        let of_this: Vec<Past> = past.iter().copied().filter(|run| !is_wanted_at_once || run.began >= epoch).collect();
        let situation = Situation {
            schedule: &plan.schedule,
            past: &of_this,
            since,
            is_wanted_at_once,
            // A backup has a lease that refuses a second one; two drills would share the disk.
            unended_pause: if plan.name == "drill" { DRILL_UNENDED } else { Duration::ZERO },
            is_in_vain,
            now,
        };
        match due(&situation)? {
            Why::Scheduled(_) if plan.name == "expire" => None,
            Why::Scheduled(at) => Some(format!("scheduled for {at}")),
            Why::Retry(failures) => Some(format!("try {}", failures + 1)),
            Why::First => Some("there is none yet".into()),
        }
    }

    /// What ran, by what is remembered here and by the ledger, newest first.
    fn past(&self, job: &str, ledger: &[PastRun]) -> Vec<Past> {
        let own = self.own.get(job).map_or(&[][..], Vec::as_slice);
        let is_own = |run: &&PastRun| own.iter().any(|(name, _)| name.as_ref() == Some(&run.run));
        let others = ledger.iter().filter(|run| !is_own(run)).map(|run| Past { began: run.began, ended: run.ended, is_settled: run.is_settled });
        let now = SystemClock.now();
        let mut past: Vec<Past> = own.iter().map(|(_, past)| *past).chain(others).collect();
        // A clock that was wrong wrote these.
        past.retain(|run| !run.began.is_ahead_of(now));
        past.sort_by_key(|run| std::cmp::Reverse(run.began));
        past
    }

    fn begin(&mut self, job: &'static str, why: &str, loaded: &Loaded) {
        let words: &[&str] = match job {
            "backup" => &["backup"],
            "drill" => &["verify"],
            "expire" => &["expire", "--yes"],
            "audit" => &["wal", "audit"],
            "check" => &["check"],
            "packages" => &["packages", "snapshot"],
            other => &[other],
        };
        let began = SystemClock.now();
        match loaded.program.start(words, None) {
            Ok(mut running) => {
                self.say(format!("{job} begins: {why}"));
                self.office.begins(job, Underway { began, handle: running.handle(), told_to_end: None });
                self.jobs.spawn(async move { (job, began, running.ended().await) });
            }
            Err(e) => {
                self.say(format!("{job} cannot be started: {e}"));
                self.remember(job, None, Past { began, ended: Some(began), is_settled: false });
            }
        }
    }

    fn remember(&mut self, job: &'static str, run: Option<String>, past: Past) {
        let own = self.own.entry(job).or_default();
        own.insert(0, (run, past));
        own.truncate(20);
    }

    fn job_ended(&mut self, job: &'static str, began: Timestamp, ended: Ended) {
        self.office.ends(job);
        let now = SystemClock.now();
        let has_found = FINDERS.contains(&job) && ended.said.result.is_some();
        let is_settled = ended.is_ok() || has_found;
        let text = |name: &str| ended.said.error.as_ref().and_then(|error| error[name].as_str()).map(str::to_owned);
        // Another one is at it: that is no failure of the job, and no success.
        let is_held = text("class").as_deref() == Some("held");
        match is_held {
            true => drop(self.not_before.insert(job, Instant::now() + HELD_PAUSE)),
            false => self.remember(job, ended.said.run.clone(), Past { began, ended: Some(now), is_settled }),
        }
        self.say(match (&ended.status, text("summary")) {
            _ if ended.is_ok() => format!("{job} ended well"),
            _ if has_found => format!("{job} found something: see bowline doctor"),
            (_, Some(summary)) => format!("{job} failed: {summary}"),
            (Some(status), None) => format!("{job} failed: {status}"),
            (None, None) => format!("{job} failed"),
        });
        if ended.is_ok() && job == "backup" {
            self.receiver.mended_by(began);
        }
        // What no ledger knows is known here.
        let unwritten = (!is_settled && ended.said.run.is_none() && !is_held).then(|| RunFacts {
            run: format!("{}-{job}", began.compact()),
            job: job.to_owned(),
            began,
            ended: Some(now),
            outcome: "failed".into(),
            slug: text("slug"),
            summary: text("summary").or_else(|| ended.status.map(|status| format!("it ended with {status}"))),
            hint: text("hint"),
            bytes: None,
            by: self.premises.name(),
            result: None,
        });
        self.office.keep_unwritten(job, unwritten);
        let was_killed = ended.status.is_some_and(|status| status.code().is_none());
        let (premises, asked) = (Arc::clone(&self.premises), Arc::clone(&self.asked));
        self.after.spawn(async move {
            if was_killed && let Some(name) = ended.said.run.as_deref().and_then(RunName::parse) {
                drop(timeout(LEDGER_LIMIT, write_down(&*premises, &name, began, &ended)).await);
            }
            asked.repository.notify_one();
        });
    }

    fn heed(&mut self, heed: Heed) {
        self.receiver_facts.send_replace(Some(self.receiver.facts()));
        if heed != Heed::Nothing {
            self.asked.quickly.notify_one();
        }
    }

    /// Reads the configuration again; a wrong one changes nothing, and is told.
    async fn reload(&mut self) {
        // systemd wants to know since when, to tell this reload from an earlier one.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(_) => notify(&[NotifyState::Reloading]),
        }
        match self.premises.load() {
            Ok(loaded) => {
                self.say("the configuration was read again".into());
                self.office.set_configuration(None);
                let former = self.loaded.send_replace(Arc::new(loaded));
                tokio::spawn(async move {
                    if let Some(tell) = &former.tell {
                        tell.finish(END_LIMIT).await;
                    }
                });
                // It reads its own configuration when it begins.
                self.receiver.end().await;
            }
            Err(trouble) => {
                self.say(format!("the configuration is wrong, the former one stays in force: {} {}", trouble.summary, trouble.detail));
                self.office.set_configuration(Some(trouble));
                self.asked.quickly.notify_one();
            }
        }
        notify(&[NotifyState::Ready]);
    }

    fn say(&self, what: String) {
        self.events.tell(Event::Noticed { what });
    }

    /// Ends what runs: the receiver lets uploads land, jobs are told and do the rest another time.
    async fn end(&mut self) {
        for one in self.office.underway().values() {
            one.handle.signal(Signal::SIGTERM);
        }
        self.receiver.end().await;
        self.collect(END_LIMIT).await;
        for one in self.office.underway().values() {
            one.handle.signal(Signal::SIGKILL);
        }
        self.collect(KILLED_LIMIT).await;
        drop(timeout(LEDGER_LIMIT, async { while self.after.join_next().await.is_some() {} }).await);
        if let Some(tell) = &self.now().tell {
            tell.finish(END_LIMIT).await;
        }
    }

    /// Takes the ends of jobs until none is under way, for so long at most.
    async fn collect(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while let Ok(Some(done)) = timeout_at(deadline, self.jobs.join_next()).await {
            if let Ok((job, began, ended)) = done {
                self.job_ended(job, began, ended);
            }
        }
    }
}

/// Writes down that a run was killed: it could not do so itself.
async fn write_down(premises: &dyn Premises, name: &RunName, began: Timestamp, ended: &Ended) -> Result<(), Trouble> {
    let writer = premises.writer().await?;
    let mut run = RunBegun::new(name.job(), began, premises.name()).end(SystemClock.now(), RunOutcome::BrokenOff, None);
    run.summary = Some(ended.status.map_or_else(|| "it was killed".to_owned(), |status| format!("it was killed ({status})")));
    run.log = ended.said.log.iter().cloned().collect();
    writer.end_run(name, &run).await.map_err(|e| Trouble::of(&e))
}
