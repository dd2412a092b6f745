//! How each job of the schedule stands, by the ledger and by what it left: pure.

use crate::facts::{JobFacts, PastRun, RepositoryFacts, RunFacts};
use crate::is_ahead;
use crate::settings::{JobPlan, Settings};
use repo::{Run, RunEnded, RunName, RunOutcome};
use serde_json::Value;
use std::collections::BTreeMap;
use terms::Timestamp;

/// A result larger than this is not shown with the run.
const RESULT_BYTES_MAX: usize = 16 << 10;

/// Jobs that find something, rather than do something: a verdict is their success.
pub const FINDERS: [&str; 4] = ["drill", "scrub", "audit", "check"];
/// No run takes longer: one that has not ended by then broke off.
const LOST_SECONDS: f64 = 86_400.0;
/// Runs of a job that decide when it begins again.
const PAST: usize = 12;

pub(crate) fn look(
    settings: &Settings,
    runs: &BTreeMap<RunName, Run>,
    repository: Option<&RepositoryFacts>,
    is_watched: bool,
    now: Timestamp,
) -> Vec<JobFacts> {
    settings.jobs.iter().map(|plan| job(plan, runs, repository, is_watched, now)).collect()
}

fn job(plan: &JobPlan, runs: &BTreeMap<RunName, Run>, repository: Option<&RepositoryFacts>, is_watched: bool, now: Timestamp) -> JobFacts {
    // One that found another under way says nothing of the job; nor does one that a clock wrote which was wrong.
    let is_refused = |run: &Run| run.ended().is_some_and(|run| run.outcome == RunOutcome::Refused);
    let own = || runs.iter().rev().filter(|(name, run)| name.job() == plan.name && !is_refused(run) && !is_ahead(run.began(), now));
    // The newest that is over: while it runs again the one before is what is known. One that broke off without a word is over once another
    // began after it, or when nothing runs so long.
    let is_lost = |number: usize, run: &Run| run.ended().is_none() && (number > 0 || now.seconds_since(run.began()) > LOST_SECONDS);
    let last = own().enumerate().find(|(number, (_, run))| run.ended().is_some() || is_lost(*number, run)).map(|(_, (name, run))| {
        let facts = run_facts(name, run);
        match run.ended() {
            Some(_) => facts,
            None => RunFacts { outcome: "broken-off".into(), ..facts },
        }
    });
    let last_success = own().find(|(_, run)| run.ended().is_some_and(|run| run.outcome == RunOutcome::Ok)).map(|(name, run)| run_facts(name, run));
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
    let small = |value: &&Value| value.to_string().len() <= RESULT_BYTES_MAX;
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
        by: match run {
            Run::Begun(run) => run.by.clone(),
            Run::Ended(run) => run.by.clone(),
        },
        result: ended.and_then(|run| run.result.as_ref()).filter(small).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use terms::{Schedule, Zone};

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

    #[test]
    fn a_backup_of_a_clock_that_was_ahead_is_not_tonights() {
        let mut repository = sample();
        let mut ahead = repository.newest().expect("a backup").clone();
        (ahead.began, ahead.at, ahead.is_ahead) = (at("2030-01-01 02:00:00 UTC"), at("2030-01-01 02:10:00 UTC"), true);
        let before = repository.newest().expect("a backup").id;
        repository.backups.push(ahead);
        assert_eq!(repository.newest().map(|backup| backup.id), Some(before));
        let overdue = |now: &str| job(&plan("backup"), &BTreeMap::new(), Some(&repository), true, at(now)).overdue_since;
        assert_eq!(overdue("2026-11-26 12:00:00 UTC"), None);
        assert_eq!(overdue("2026-11-27 12:00:00 UTC"), Some(at("2026-11-27 04:00:00 UTC")));
        repository.backups.retain(|backup| backup.is_ahead);
        assert!(repository.newest().is_some_and(|newest| newest.is_ahead), "it can be restored all the same");
    }
}
