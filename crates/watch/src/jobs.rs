//! How each job of the schedule stands, by the ledger and by what it left: pure.

use crate::facts::{JobFacts, PastRun, RepositoryFacts, RunFacts};
use crate::settings::{JobPlan, Settings};
use repo::{Run, RunEnded, RunName, RunOutcome};
use std::collections::BTreeMap;
use std::time::Duration;
use terms::Timestamp;

/// A result larger than this is shown in short.
const RESULT_BYTES_MAX: usize = 16 << 10;

/// Jobs that find something, rather than do something: a verdict is their success.
pub const FINDERS: [&str; 4] = ["drill", "scrub", "audit", "check"];
/// How a daemon, and each job that one began, calls itself; the host follows.
pub const DAEMON_ON: &str = "the daemon on";
/// Runs of a job that decide when it begins again.
const PAST: usize = 12;

pub(crate) fn look(
    settings: &Settings,
    runs: &BTreeMap<RunName, Run>,
    repository: Option<&RepositoryFacts>,
    is_watched: bool,
    now: Timestamp,
) -> Vec<JobFacts> {
    settings.jobs.iter().map(|plan| job(plan, settings.lost_after, runs, repository, is_watched, now)).collect()
}

fn job(
    plan: &JobPlan,
    lost_after: Duration,
    runs: &BTreeMap<RunName, Run>,
    repository: Option<&RepositoryFacts>,
    is_watched: bool,
    now: Timestamp,
) -> JobFacts {
    // One that found another under way says nothing of the job; nor does one that a clock wrote which was wrong.
    let is_refused = |run: &Run| run.ended().is_some_and(|run| run.outcome == RunOutcome::Refused);
    let own = || runs.iter().rev().filter(|(name, run)| name.job() == plan.name && !is_refused(run) && !run.began().is_ahead_of(now));
    // The newest that is over: while it runs again the one before is what is known. One that broke off without a word is over once the same, or
    // another daemon, began another: no daemon does a job twice at a time, and of several one acts; a pod that replaces one has another name.
    // Else when nothing runs so long: what somebody else began may wait for this one.
    let is_daemons = |run: &Run| run.by().starts_with(DAEMON_ON);
    let is_followed =
        |number: usize, run: &Run| own().take(number).any(|(_, later)| later.by() == run.by() || (is_daemons(later) && is_daemons(run)));
    let is_old = |run: &Run| now.seconds_since(run.began()) > lost_after.as_secs_f64();
    let is_lost = |number: usize, run: &Run| run.ended().is_none() && (is_followed(number, run) || is_old(run));
    let last = own().enumerate().find(|(number, (_, run))| run.ended().is_some() || is_lost(*number, run)).map(|(_, (name, run))| {
        let facts = run_facts(name, run);
        match run.ended() {
            Some(_) => facts,
            None => RunFacts { outcome: "broken-off".into(), ..facts },
        }
    });
    let last_success = own().find(|(_, run)| run.ended().is_some_and(|run| run.outcome == RunOutcome::Ok)).map(|(name, run)| run_facts(name, run));
    let has_found = |run: &Run| FINDERS.contains(&plan.name) && run.ended().is_some_and(|run| run.result.is_some());
    let last_verdict = own().find(|(_, run)| has_found(run)).map(|(name, run)| run_facts(name, run));
    // What a job left counts, whoever ran it.
    let left = repository.and_then(|repository| match plan.name {
        "backup" => repository.backups.iter().rev().find(|backup| backup.is_present && !backup.is_ahead).map(|backup| backup.began),
        "drill" => repository.drills.iter().find(|drill| drill.outcome == "passed").map(|drill| drill.at),
        _ => None,
    });
    let done = last_success.as_ref().map(|run| run.began).max(left);
    let is_wanted = !plan.is_optional || is_watched || last.is_some();
    let overdue_since = repository.filter(|_| is_wanted).and_then(|repository| overdue(plan, done, repository.created, now));
    JobFacts {
        name: plan.name.to_owned(),
        schedule: plan.schedule.text().to_owned(),
        zone: plan.schedule.zone().to_string(),
        next: plan.schedule.next_after(now),
        overdue_since,
        running: None,
        past: own().take(PAST).map(|(name, run)| past(name, run)).collect(),
        last,
        last_success,
        last_verdict,
    }
}

fn past(name: &RunName, run: &Run) -> PastRun {
    let ended = run.ended();
    let is_settled = ended.is_some_and(|run| run.outcome == RunOutcome::Ok || (FINDERS.contains(&name.job()) && run.result.is_some()));
    PastRun { run: name.to_string(), began: run.began(), ended: ended.map(|run| run.ended), is_settled }
}

/// Since when the job should have succeeded again. Before the repository was made nothing was due.
fn overdue(plan: &JobPlan, done: Option<Timestamp>, created: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let slack = i64::try_from(plan.slack.as_micros()).unwrap_or(i64::MAX / 2);
    let required = plan.schedule.last_at(now.plus_micros(-slack))?;
    let is_done = done.is_some_and(|done| done >= required.plus_micros(-1_000_000));
    (required > created && !is_done).then(|| required.plus_micros(slack))
}

/// A run as it is shown.
pub fn run_facts(name: &RunName, run: &Run) -> RunFacts {
    let word = |ended: Option<&RunEnded>| match ended.map(|run| run.outcome) {
        None => "running",
        Some(RunOutcome::Ok) => "ok",
        Some(RunOutcome::Failed) => "failed",
        Some(RunOutcome::Refused) => "refused",
        Some(RunOutcome::BrokenOff) => "broken-off",
    };
    let ended = run.ended();
    RunFacts {
        run: name.to_string(),
        job: name.job().to_owned(),
        began: run.began(),
        ended: ended.map(|run| run.ended),
        outcome: word(ended).to_owned(),
        slug: ended.and_then(|run| run.slug.clone()),
        summary: ended.and_then(|run| run.summary.clone()),
        hint: ended.and_then(|run| run.hint.clone()),
        bytes: ended.and_then(|run| run.bytes),
        by: run.by().to_owned(),
        result: ended.and_then(|run| run.result.clone()).map(|result| repo::shortened(result, RESULT_BYTES_MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use repo::RunBegun;
    use serde_json::{Value, json};
    use terms::{Schedule, Zone};

    const LOST_AFTER: Duration = Duration::from_secs(86_400);

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_at(text, Timestamp::from_unix_micros(0)).expect(text)
    }

    #[test]
    fn a_job_is_overdue_when_it_did_not_succeed_after_its_time_and_slack() {
        let schedule = Schedule::parse("0 2 * * *", Zone::default()).expect("a schedule");
        let plan = JobPlan { name: "backup", schedule, slack: Duration::from_secs(7200), is_optional: false };
        let created = at("2026-11-01 12:00:00 UTC");
        for (now, done, wanted) in [
            ("2026-11-02 03:59:00 UTC", None, None),
            ("2026-11-02 04:01:00 UTC", None, Some("2026-11-02 04:00:00 UTC")),
            ("2026-11-02 04:01:00 UTC", Some("2026-11-02 02:00:01 UTC"), None),
            // One by hand the day before is no reason to miss tonight's.
            ("2026-11-02 04:01:00 UTC", Some("2026-11-01 14:00:00 UTC"), Some("2026-11-02 04:00:00 UTC")),
            ("2026-11-05 01:00:00 UTC", Some("2026-11-02 02:00:00 UTC"), Some("2026-11-04 04:00:00 UTC")),
            // Made on the same night, after the time.
            ("2026-11-01 15:00:00 UTC", None, None),
        ] {
            assert_eq!(overdue(&plan, done.map(at), created, at(now)), wanted.map(at), "{now} {done:?}");
        }
    }

    fn plan(name: &'static str) -> JobPlan {
        let schedule = Schedule::parse("0 2 * * *", Zone::default()).expect("a schedule");
        JobPlan { name, schedule, slack: Duration::from_secs(7200), is_optional: false }
    }

    fn sample() -> RepositoryFacts {
        let mut sample: Value = serde_json::from_str(include_str!("../../page/sample/sample.json")).expect("the sample");
        serde_json::from_value(sample["facts"]["repository"]["seen"].take()).expect("facts")
    }

    fn begun(run: &str, by: &str) -> (RunName, Run) {
        let name = RunName::parse(run).expect(run);
        let begun = RunBegun::new(name.job(), name.began(), by.to_owned());
        (name, Run::Begun(begun))
    }

    #[test]
    fn a_run_broke_off_when_the_same_began_another_and_not_when_somebody_waits_for_it() {
        let told = |later_by: &str, now: &str| {
            let runs = BTreeMap::from([begun("20261126T050000Z-scrub", "the daemon on db1"), begun("20261126T051000Z-scrub", later_by)]);
            job(&plan("scrub"), LOST_AFTER, &runs, None, true, at(now)).last.map(|run| (run.run, run.outcome))
        };
        let lost = |run: &str| Some((run.to_owned(), "broken-off".to_owned()));
        assert_eq!(told("a command on db1, process 7", "2026-11-26 05:20:00 UTC"), None, "it waits for the other's lease");
        assert_eq!(told("the daemon on db1", "2026-11-26 05:20:00 UTC"), lost("20261126T050000Z-scrub"), "it was started again");
        assert_eq!(told("the daemon on bowline-7c9d-x2x4q", "2026-11-26 05:20:00 UTC"), lost("20261126T050000Z-scrub"), "another pod took over");
        assert_eq!(told("a command on db1, process 7", "2026-11-27 05:05:00 UTC"), lost("20261126T050000Z-scrub"), "nothing runs so long");
    }

    #[test]
    fn a_verdict_stays_one_however_long_it_is_and_until_there_is_another() {
        let ended = |run: &str, outcome: RunOutcome, result: Option<Value>| {
            let name = RunName::parse(run).expect(run);
            let mut ended = RunBegun::new(name.job(), name.began(), "a test".into()).end(name.began(), outcome, None);
            ended.result = result;
            (name, Run::Ended(Box::new(ended)))
        };
        let tables: Vec<Value> = (0..400).map(|number| json!({ "name": format!("a_table_with_the_number_{number}"), "rows": number })).collect();
        let failed = ended("20261126T040000Z-drill", RunOutcome::Failed, Some(json!({ "report": { "tables": tables } })));
        let facts = job(&plan("drill"), LOST_AFTER, &BTreeMap::from([failed]), None, true, at("2026-11-26 12:00:00 UTC"));
        let result = facts.last.expect("it ended").result.expect("it came to a verdict");
        assert_eq!((&result["shortened"], &result["report"]["tables_count"]), (&json!(true), &json!(400)));
        assert!(facts.past[0].is_settled);

        let found = ended("20261126T040000Z-check", RunOutcome::Failed, Some(json!({ "findings": [] })));
        let broken = ended("20261126T041500Z-check", RunOutcome::BrokenOff, None);
        let facts = job(&plan("check"), LOST_AFTER, &BTreeMap::from([found, broken]), None, true, at("2026-11-26 12:00:00 UTC"));
        let name = |run: Option<RunFacts>| run.map(|run| run.run);
        assert_eq!(name(facts.last).as_deref(), Some("20261126T041500Z-check"));
        assert_eq!(name(facts.last_verdict).as_deref(), Some("20261126T040000Z-check"));
    }

    #[test]
    fn a_backup_of_a_clock_that_was_ahead_is_not_tonights() {
        let mut repository = sample();
        let mut ahead = repository.newest().expect("a backup").clone();
        (ahead.began, ahead.at, ahead.is_ahead) = (at("2030-01-01 02:00:00 UTC"), at("2030-01-01 02:10:00 UTC"), true);
        let before = repository.newest().expect("a backup").id;
        repository.backups.push(ahead);
        assert_eq!(repository.newest().map(|backup| backup.id), Some(before));
        let overdue = |now: &str| job(&plan("backup"), LOST_AFTER, &BTreeMap::new(), Some(&repository), true, at(now)).overdue_since;
        assert_eq!(overdue("2026-11-26 12:00:00 UTC"), None);
        assert_eq!(overdue("2026-11-27 12:00:00 UTC"), Some(at("2026-11-27 04:00:00 UTC")));
        repository.backups.retain(|backup| backup.is_ahead);
        assert!(repository.newest().is_some_and(|newest| newest.is_ahead), "it can be restored all the same");
    }
}
