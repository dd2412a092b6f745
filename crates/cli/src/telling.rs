//! Tells people what the rules say: of everything inside the daemon, of its own job after a plain command.

use crate::fault::Fault;
use crate::wiring::Wiring;
use alerts::{Judged, Teller};
use async_trait::async_trait;
use daemon::Tell;
use std::time::Duration;
use terms::{Alarm, Clock, Judgement, SystemClock, Urgency};
use watch::{FINDERS, Facts};

/// How long a plain command waits for what it tells.
const LIMIT: Duration = Duration::from_secs(20);

/// The daemon's teller.
pub struct Telling(Teller);

impl Telling {
    pub fn start(wiring: &Wiring) -> Result<Self, Fault> {
        Ok(Self(wiring.teller(true)?))
    }
}

#[async_trait]
impl Tell for Telling {
    async fn judge(&self, judgement: &Judgement, facts: &Facts) {
        self.0.judge(judgement, facts.at).await;
        // What could not be looked at is no reason to say that all is well.
        let is_well = judgement.unknown.is_empty() && judgement.alarms.iter().all(|alarm| alarm.urgency != Urgency::Critical);
        self.0.heartbeat(is_well);
    }

    async fn finish(&self, limit: Duration) {
        self.0.finish(limit).await;
    }
}

/// After a job that no daemon began: whether it failed, and that it does no more. The daemon's own jobs are the daemon's to tell of. What
/// could not be told; nothing where nobody is to be told.
pub async fn tell_of(wiring: &Wiring, job: &str, run: Option<&str>, outcome: Result<(), &Fault>) -> Vec<String> {
    if wiring.config.alerts.known().is_empty() || FINDERS.contains(&job) && outcome.is_ok() {
        return Vec::new();
    }
    let teller = match wiring.teller(false) {
        Ok(teller) => teller,
        Err(fault) => return vec![fault.0.summary],
    };
    let alarms = outcome.err().map(|fault| {
        let advice = &fault.0;
        let log = run.map_or_else(String::new, |run| format!(" Its log: bowline runs {run}."));
        Alarm {
            rule: "job-failed".into(),
            subject: job.to_owned(),
            urgency: Urgency::Critical,
            summary: format!("the last {job} failed"),
            detail: format!("{}: {}", advice.summary, advice.detail),
            hint: format!("{}{log}", advice.hint),
        }
    });
    let judgement = Judgement { alarms: alarms.into_iter().collect(), ..Judgement::default() };
    teller.tell_partial(&[Judged::one("job-failed", job)], &judgement, SystemClock.now()).await;
    teller.finish(LIMIT).await
}
