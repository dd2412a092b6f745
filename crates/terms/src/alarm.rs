//! What somebody should be told: a rule that is broken now, how urgent that is, and what to do about it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How soon somebody must act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Urgency {
    /// It works, and will hurt one day.
    Warning,
    /// Protection is lost, or about to be: people are woken for it.
    Critical,
}

impl Urgency {
    /// Its name in JSON and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// One rule that is broken now. It goes on for as long as each judgement names it; rule and subject together say which one it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// A stable word, such as `wal-lag`.
    pub rule: String,
    /// What it is about, such as a job's or a slot's name; empty where there is but one.
    pub subject: String,
    /// By the rule itself; whether it stays so is up to whoever tells people.
    pub urgency: Urgency,
    /// What is so, in one sentence without its point.
    pub summary: String,
    /// Why, or what follows from it; may be empty.
    pub detail: String,
    /// What to do, with the commands; may be empty.
    pub hint: String,
}

/// What all rules said at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judgement {
    /// The broken ones.
    pub alarms: Vec<Alarm>,
    /// Rules that could not be judged, because what they look at could not be looked at: what was broken there is neither so nor not.
    pub unknown: BTreeSet<String>,
}
