//! What the daemon knows at the moment, for all who show it: the last observation, what runs, how the lag went.

use crate::child::{Handle, Said};
use crate::turn::Role;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use terms::{Judgement, Timestamp};
use tokio::sync::watch as channel;
use tokio::time::Instant;
use watch::facts::{JobFacts, RunFacts, RunningFacts, Sample};
use watch::{Facts, Trouble};

/// Samples of the lag: two days at one a minute, thinned when they come faster.
const SAMPLES: usize = 2880;
/// Samples closer together than this replace each other unless the lag grew.
const SAMPLE_SECONDS: f64 = 60.0;

/// A look that is later than this hangs for good, or nobody looks any more.
pub(crate) const LOOK_LIMIT: Duration = Duration::from_secs(600);

/// One observation and what the rules say of it.
#[derive(Debug, Clone)]
pub struct Observed {
    /// When the look began, by a clock that does not jump.
    pub at: Instant,
    /// As they were gathered, with what only the daemon knows.
    pub facts: Facts,
    /// Of these facts, by all rules.
    pub judgement: Judgement,
}

/// A job that runs.
#[derive(Clone)]
pub(crate) struct Underway {
    pub began: Timestamp,
    pub handle: Handle,
    /// It was told to end, because it took too long.
    pub told_to_end: Option<Instant>,
}

/// Shared by everything in the daemon, and by the page.
pub struct Office {
    observed: channel::Sender<Option<Arc<Observed>>>,
    role: channel::Sender<Role>,
    underway: Mutex<BTreeMap<&'static str, Underway>>,
    /// Ends of jobs that no ledger knows, because the repository was away.
    unwritten: Mutex<BTreeMap<&'static str, RunFacts>>,
    lag: Mutex<VecDeque<Sample>>,
    configuration: Mutex<Option<Trouble>>,
    /// By then the next look has ended, unless whoever looks is gone or hangs.
    look_by: Mutex<Instant>,
}

impl Default for Office {
    fn default() -> Self {
        Self {
            observed: channel::Sender::new(None),
            role: channel::Sender::new(Role::Unknown),
            underway: Mutex::default(),
            unwritten: Mutex::default(),
            lag: Mutex::default(),
            configuration: Mutex::default(),
            look_by: Mutex::new(Instant::now() + LOOK_LIMIT),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Office {
    /// The last observation; `None` until the first.
    pub fn observed(&self) -> Option<Arc<Observed>> {
        self.observed.borrow().clone()
    }

    /// Whether somebody still looks: without that nobody is told of anything, however long the process lives.
    pub fn looks_on(&self) -> bool {
        Instant::now() < *lock(&self.look_by)
    }

    pub(crate) fn look_within(&self, limit: Duration) {
        *lock(&self.look_by) = Instant::now() + limit;
    }

    /// What this daemon is at the moment, as it was said last.
    pub fn role(&self) -> Role {
        self.role.borrow().clone()
    }

    /// What a running job of this run's name, or job's name, has said so far.
    pub fn live(&self, run: &str) -> Option<Said> {
        let underway = lock(&self.underway);
        underway
            .iter()
            .map(|(job, one)| (job, one.handle.said()))
            .find(|(job, said)| **job == run || said.run.as_deref() == Some(run))
            .map(|(_, said)| said)
    }

    pub(crate) fn role_sender(&self) -> channel::Sender<Role> {
        self.role.clone()
    }

    pub(crate) fn publish(&self, observed: Observed) {
        self.observed.send_replace(Some(Arc::new(observed)));
    }

    pub(crate) fn set_configuration(&self, trouble: Option<Trouble>) {
        *lock(&self.configuration) = trouble;
    }

    pub(crate) fn begins(&self, job: &'static str, underway: Underway) {
        lock(&self.underway).insert(job, underway);
    }

    pub(crate) fn ends(&self, job: &'static str) {
        lock(&self.underway).remove(job);
    }

    pub(crate) fn underway(&self) -> BTreeMap<&'static str, Underway> {
        lock(&self.underway).clone()
    }

    pub(crate) fn told_to_end(&self, job: &'static str) {
        if let Some(one) = lock(&self.underway).get_mut(job) {
            one.told_to_end = Some(Instant::now());
        }
    }

    pub(crate) fn keep_unwritten(&self, job: &'static str, run: Option<RunFacts>) {
        match run {
            Some(run) => drop(lock(&self.unwritten).insert(job, run)),
            None => drop(lock(&self.unwritten).remove(job)),
        }
    }

    /// Adds to an observation what only the daemon knows.
    pub(crate) fn add_to(&self, facts: &mut Facts) {
        facts.configuration.clone_from(&lock(&self.configuration));
        let (underway, unwritten) = (self.underway(), lock(&self.unwritten).clone());
        for job in &mut facts.jobs {
            job.running = underway.get(job.name.as_str()).map(|one| running(one, job, facts.at));
            if let Some(run) = unwritten.get(job.name.as_str())
                && job.last.as_ref().is_none_or(|last| last.began < run.began)
            {
                job.last = Some(run.clone());
            }
        }
        // What a drill has taken is part of what it needs.
        if underway.contains_key("drill") {
            facts.disks.iter_mut().filter(|disk| disk.name == "drill").for_each(|disk| disk.needed_bytes = None);
        }
        let mut lag = lock(&self.lag);
        if let Some(seconds) = watch::rpo_seconds(facts) {
            let is_news = lag.back().is_none_or(|last: &Sample| facts.at.seconds_since(last.at).abs() >= SAMPLE_SECONDS);
            match lag.back_mut() {
                Some(last) if !is_news => last.value = last.value.max(seconds),
                _ => lag.push_back(Sample { at: facts.at, value: seconds }),
            }
            while lag.len() > SAMPLES {
                lag.pop_front();
            }
        }
        if let Some(receiver) = &mut facts.receiver {
            receiver.lag = lag.iter().copied().collect();
        }
    }
}

fn running(one: &Underway, job: &JobFacts, now: Timestamp) -> RunningFacts {
    let said = one.handle.said();
    let number = |name: &str| said.progress.as_ref().and_then(|progress| progress[name].as_u64());
    let (done, total) = (number("bytes_done"), number("bytes_total"));
    let so_far = now.seconds_since(one.began).max(0.0);
    let expected_seconds = expected(so_far, done, total);
    let run = said.run.unwrap_or_else(|| job.name.clone());
    RunningFacts { run, began: one.began, bytes_done: done, bytes_total: total, expected_seconds }
}

/// How long it will take in all, by its own rate once it has shown one.
fn expected(so_far: f64, done: Option<u64>, total: Option<u64>) -> Option<f64> {
    done.zip(total).filter(|(done, total)| *done > 0 && total > done && so_far > 10.0).map(|(done, total)| so_far * total as f64 / done as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_lives_as_long_as_somebody_looks() {
        let office = Office::default();
        assert!(office.looks_on(), "the first look has its time");
        office.look_within(Duration::ZERO);
        assert!(!office.looks_on(), "it never came");
        office.look_within(LOOK_LIMIT);
        assert!(office.looks_on());
    }

    #[test]
    fn how_long_a_backup_will_take_is_forecast_by_the_rate_that_it_has_shown() {
        assert_eq!(expected(600.0, Some(100), Some(1000)), Some(6000.0), "a tenth in ten minutes");
        for (so_far, done, total) in
            [(600.0, Some(0), Some(1000)), (600.0, None, Some(1000)), (5.0, Some(100), Some(1000)), (600.0, Some(1000), Some(1000))]
        {
            assert_eq!(expected(so_far, done, total), None, "{so_far} {done:?} {total:?}");
        }
    }
}
