//! Tells people what the rules say: of everything inside the daemon, of its own job after a plain command.

use crate::fault::Fault;
use crate::wiring::Wiring;
use alerts::{Judged, Teller};
use async_trait::async_trait;
use daemon::Tell;
use std::time::Duration;
use terms::{Alarm, Clock, Judgement, SystemClock, Urgency};
use watch::Facts;

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

/// How a job ended, for those who are told.
pub enum Ending<'a> {
    Well,
    /// It came to a verdict, and that is a bad one.
    Badly,
    Failed(&'a Fault),
}

/// After a job that no daemon began: whether it failed, and that it does no more. The daemon's own jobs are the daemon's to tell of. The
/// channels over which nobody could be told; none where nobody is to be told.
pub async fn tell_of(wiring: &Wiring, job: &str, run: Option<&str>, ending: Ending<'_>) -> Vec<String> {
    if wiring.config.alerts.known().is_empty() {
        return Vec::new();
    }
    let teller = match wiring.teller(false) {
        Ok(teller) => teller,
        Err(fault) => return vec![fault.0.summary],
    };
    let log = run.map_or_else(String::new, |run| format!("Its log: bowline runs {run}."));
    let alarm = |rule: &str, subject: &str, summary: String, detail: String, hint: String| Alarm {
        rule: rule.into(),
        subject: subject.into(),
        urgency: Urgency::Critical,
        summary,
        detail,
        hint,
    };
    let mut judged = vec![Judged::one("job-failed", job)];
    let mut alarms = Vec::new();
    match ending {
        Ending::Failed(Fault(advice, _)) => {
            let detail = format!("{}: {}", advice.summary, advice.detail);
            alarms.push(alarm("job-failed", job, format!("the last {job} failed"), detail, format!("{} {log}", advice.hint).trim().to_owned()));
        }
        Ending::Well | Ending::Badly if job == "drill" => {
            judged.push(Judged::rule("drill-failed"));
            if matches!(ending, Ending::Badly) {
                alarms.push(alarm("drill-failed", "", "the drill did not pass".into(), String::new(), log));
            }
        }
        // What a check or an audit found is judged by those who look at everything.
        Ending::Well | Ending::Badly => {}
    }
    teller.tell_partial(&judged, &Judgement { alarms, ..Judgement::default() }, SystemClock.now()).await;
    teller.finish(LIMIT).await
}
