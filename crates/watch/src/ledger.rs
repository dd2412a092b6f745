//! The ledger of runs as one who looks again and again remembers it: what was listed once is not listed each time.

use crate::settings::JobPlan;
use repo::{Reader, RepoError, Run, RunName, RunOutcome};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use terms::Timestamp;

const DAY_MICROS: i64 = 86_400_000_000;
/// So far back names are listed at first: most jobs succeed once a week.
const FIRST_MICROS: i64 = 8 * DAY_MICROS;
/// And so far again: a name is of the second at which its run began, by the clock of its own host.
const AGAIN_MICROS: i64 = DAY_MICROS;
/// Everything is listed anew so often: clocks and what is remembered go wrong for no longer.
const ANEW: Duration = Duration::from_secs(6 * 3600);
/// Where a job did not succeed lately so many names are listed at least, in whole months: some weeks of the busiest schedule.
const NAMES: usize = 5000;
/// Of these so many of each job are read.
const RUNS_OF_A_JOB: usize = 12;

/// What is remembered of it.
#[derive(Default)]
pub(crate) struct Ledger {
    names: BTreeSet<RunName>,
    /// The time of the last listing, and when it was last begun anew.
    listed: Option<(Timestamp, Instant)>,
    /// Further back than the first look goes, too.
    is_deep: bool,
    /// Runs that were read; those that ended do not change.
    runs: BTreeMap<RunName, Run>,
    /// Runs that a clock stamped which was ahead.
    pub(crate) ahead: Vec<RunName>,
}

impl Ledger {
    /// The newest runs of each job: of one that is seldom run, too.
    pub(crate) async fn look(&mut self, reader: &Reader, jobs: &[JobPlan], now: Timestamp) -> Result<BTreeMap<RunName, Run>, RepoError> {
        let young = self.listed.filter(|(_, begun)| begun.elapsed() < ANEW);
        let from = young.map_or(now.plus_micros(-FIRST_MICROS), |(listed, _)| listed.min(now).plus_micros(-AGAIN_MICROS));
        let found = reader.run_names_from(from).await?;
        if young.is_none() {
            self.names.clear();
            self.is_deep = false;
        }
        self.names.extend(found);
        self.listed = Some((now, young.map_or_else(Instant::now, |(_, begun)| begun)));
        self.read(reader, jobs, now).await?;
        // What a job left undone is judged by its last success, however long ago that was.
        if !self.is_deep && !jobs.iter().all(|plan| self.has_succeeded(plan)) {
            self.names.extend(reader.run_names(NAMES).await?);
            self.is_deep = true;
            self.read(reader, jobs, now).await?;
        }
        Ok(self.runs.clone())
    }

    async fn read(&mut self, reader: &Reader, jobs: &[JobPlan], now: Timestamp) -> Result<(), RepoError> {
        // A clock that was wrong once must not hide all that ran since.
        let (ahead, names): (Vec<&RunName>, Vec<&RunName>) = self.names.iter().rev().partition(|name| name.began().is_ahead_of(now));
        let newest = |plan: &JobPlan| -> Vec<RunName> {
            let own = names.iter().copied().filter(|name| name.job() == plan.name);
            own.take(RUNS_OF_A_JOB).cloned().collect()
        };
        let wanted: Vec<RunName> = jobs.iter().flat_map(newest).collect();
        self.ahead = ahead.into_iter().cloned().collect();
        self.runs = reader.runs(&wanted, &self.runs).await?;
        Ok(())
    }

    fn has_succeeded(&self, plan: &JobPlan) -> bool {
        let is_ok = |run: &Run| run.ended().is_some_and(|run| run.outcome == RunOutcome::Ok);
        self.runs.iter().any(|(name, run)| name.job() == plan.name && is_ok(run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use repo::{Encryption, RunBegun, Writer};
    use serde_json::json;
    use std::sync::Arc;
    use store::{FaultPlan, Faults, Memory};
    use terms::{Schedule, Zone};

    fn jobs(names: &[&'static str]) -> Vec<JobPlan> {
        let schedule = Schedule::parse("0 2 * * *", Zone::default()).expect("a schedule");
        names.iter().map(|&name| JobPlan { name, schedule: schedule.clone(), slack: Duration::ZERO, is_optional: false }).collect()
    }

    async fn ran(writer: &Writer, job: &str, began: Timestamp) -> RunName {
        let begun = RunBegun::new(job, began, "a test".into());
        let name = writer.begin_run(&begun).await.expect("it is written down");
        writer.end_run(&name, &begun.end(began, RunOutcome::Ok, Some(0))).await.expect("its end, too");
        name
    }

    #[tokio::test]
    async fn what_was_listed_once_is_not_listed_each_time() {
        let now = Timestamp::from_compact("20261126T120000Z").expect("a time");
        let ago = |days: i64| now.plus_micros(-days * DAY_MICROS);
        let (memory, plan) = (Memory::new(), FaultPlan::none());
        let writer = Writer::create(Arc::new(memory.clone()), Vec::new(), "acme", Encryption::Off, json!({}), now).await.expect("a repository");
        let reader = Reader::open(Arc::new(Faults::new(Arc::new(memory), plan.clone())), Vec::new()).await.expect("the repository");
        for day in 0..100 {
            ran(&writer, "check", ago(day)).await;
        }
        let listed = || plan.names().into_iter().filter(|name| name.starts_with("list runs/")).collect::<Vec<_>>();

        let (mut ledger, checks) = (Ledger::default(), jobs(&["check"]));
        assert_eq!(ledger.look(&reader, &checks, now).await.expect("a look").len(), 9);
        assert_eq!(listed(), ["list runs/2026/11"], "each job succeeded this week");
        let next = ran(&writer, "check", now.plus_micros(60_000_000)).await;
        let runs = ledger.look(&reader, &checks, now.plus_micros(80_000_000)).await.expect("a look");
        assert_eq!((runs.len(), runs.contains_key(&next)), (10, true));
        assert_eq!(listed().len(), 2);
        assert_eq!(reader.run_names_from(ago(1)).await.expect("names").len(), 3, "behind what is known, and a day before it");
        assert_eq!(reader.run_names_from(ago(27)).await.expect("names").len(), 29, "over the end of a month");

        // One that succeeded long ago is looked for, once.
        let drill = ran(&writer, "drill", ago(90)).await;
        let (mut ledger, both) = (Ledger::default(), jobs(&["check", "drill"]));
        let runs = ledger.look(&reader, &both, now).await.expect("a look");
        assert_eq!((runs.len(), runs.contains_key(&drill)), (13, true));
        let before = listed().len();
        assert_eq!(ledger.look(&reader, &both, now).await.expect("a look"), runs);
        assert_eq!(listed().len(), before + 1);
    }

    #[tokio::test]
    async fn runs_of_a_clock_that_was_ahead_hide_none() {
        let now = Timestamp::from_compact("20261126T120000Z").expect("a time");
        let writer = Writer::create(Arc::new(Memory::new()), Vec::new(), "acme", Encryption::Off, json!({}), now).await.expect("a repository");
        let right = ran(&writer, "check", now).await;
        for number in 0..20 {
            ran(&writer, "check", now.plus_micros((1000 + number) * DAY_MICROS)).await;
        }
        let mut ledger = Ledger::default();
        let runs = ledger.look(writer.reader(), &jobs(&["check"]), now).await.expect("a look");
        assert_eq!(runs.into_keys().collect::<Vec<_>>(), [right]);
        assert_eq!(ledger.ahead.len(), 20);
    }
}
