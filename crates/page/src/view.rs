//! What the page is told: the observation, what the rules say of it, and the verdict.

use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use terms::{Alarm, Urgency};
use watch::Facts;

/// In one word, the same as status: red as soon as one alarm is critical.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Protected,
    /// Protected, and something will hurt one day.
    Warned,
    Unprotected,
}

impl Verdict {
    pub(crate) fn of(alarms: &[Alarm]) -> Self {
        match alarms.iter().map(|alarm| alarm.urgency).max() {
            None => Self::Protected,
            Some(Urgency::Warning) => Self::Warned,
            Some(Urgency::Critical) => Self::Unprotected,
        }
    }
}

/// All of it as JSON.
pub(crate) fn now(facts: &Facts, alerts: &Value, age_seconds: f64, has_login: bool) -> Value {
    let judged = watch::judge(facts);
    let mut alarms = judged.alarms;
    alarms.sort_by_key(|alarm| std::cmp::Reverse(alarm.urgency));
    let unknown: &BTreeSet<String> = &judged.unknown;
    json!({
        "version": env!("CARGO_PKG_VERSION"), "age_seconds": age_seconds, "verdict": Verdict::of(&alarms), "rpo_seconds": watch::rpo_seconds(facts),
        "alarms": alarms, "unknown": unknown, "alerts": alerts, "facts": facts, "has_login": has_login,
    })
}
