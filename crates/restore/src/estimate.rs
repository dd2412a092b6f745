//! How long a restore will take, by what the newest drill measured. Pure but for the reading of reports.

use crate::RestoreError;
use repo::Reader;
use serde::{Deserialize, Serialize};
use terms::{Step, Timestamp};

/// As much of a drill's report as tells how fast it was. Further members, and those of later Bowlines, are passed over.
#[derive(Debug, Clone, Deserialize)]
pub struct DrillRecord {
    /// By the clock of the host that held it.
    pub began: Timestamp,
    /// `passed`, `failed` or `not-verified`; `None`: the report does not say.
    #[serde(default)]
    pub outcome: Option<String>,
    /// Plain bytes of the backup; `None` when the drill did not come so far.
    #[serde(default)]
    pub database_bytes: Option<u64>,
    /// How many recovery might have asked for; `None` when the drill did not come so far.
    #[serde(default)]
    pub segments: Option<u64>,
    /// In the order in which they ended.
    #[serde(default)]
    pub phases: Vec<Phase>,
}

/// One part of a drill.
#[derive(Debug, Clone, Deserialize)]
pub struct Phase {
    /// A step's name, such as `restore files` or `replay WAL`, or a word of the drill's own.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
}

/// What a drill measured of a restore's steps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// When that drill began.
    pub at: Timestamp,
    /// Its verdict: `passed`, `failed` or `not-verified`. How fast a restore is does not hang on it.
    pub outcome: String,
    /// Plain bytes of the backup; never 0.
    pub database_bytes: u64,
    /// How many recovery might have asked for: perhaps more than it read.
    pub segments: u64,
    /// Of putting the files in place.
    pub files_seconds: f64,
    /// Of recovery, from the server's start to its clean stop.
    pub replay_seconds: f64,
    /// Of starting the recovered server; 0 when the report does not say.
    pub start_seconds: f64,
}

/// How long each step is expected to take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// Of putting the files in place, in proportion to their bytes.
    pub files_seconds: f64,
    /// Of recovery, in proportion to its segments; never less than the drill's.
    pub replay_seconds: f64,
    /// As the drill's.
    pub start_seconds: f64,
    /// The sum of the three.
    pub total_seconds: f64,
    /// The drill that it is by.
    pub by: Measured,
}

impl DrillRecord {
    /// What it measured; `None` when it did not come so far.
    pub fn measured(&self) -> Option<Measured> {
        let seconds =
            |name: &str| self.phases.iter().find(|phase| phase.name == name).map(|phase| phase.seconds).filter(|s| s.is_finite() && *s >= 0.0);
        Some(Measured {
            at: self.began,
            outcome: self.outcome.clone().unwrap_or_else(|| "unknown".into()),
            database_bytes: self.database_bytes.filter(|bytes| *bytes > 0)?,
            segments: self.segments?,
            files_seconds: seconds(Step::CopyFiles.name())?,
            replay_seconds: seconds(Step::Replay.name())?,
            start_seconds: seconds("start").unwrap_or(0.0),
        })
    }
}

impl Measured {
    /// For a restore of so many bytes that replays so many segments, at the same rates. Replay is never expected to be faster than it
    /// was: starting a server and ending recovery take their time however little there is to replay.
    pub fn estimate(&self, bytes: u64, segments: u64) -> Estimate {
        let files_seconds = self.files_seconds * bytes as f64 / self.database_bytes as f64;
        let replay_seconds = self.replay_seconds * (segments as f64 / self.segments.max(1) as f64).max(1.0);
        let total_seconds = files_seconds + replay_seconds + self.start_seconds;
        Estimate { files_seconds, replay_seconds, start_seconds: self.start_seconds, total_seconds, by: self.clone() }
    }
}

/// What the newest drill of this repository measured that restored everything it was to; `None` when none was held yet.
pub async fn measured(reader: &Reader) -> Result<Option<Measured>, RestoreError> {
    let newest = reader.newest_drills(1, |record: &DrillRecord| record.measured().is_some()).await?;
    Ok(newest.first().and_then(DrillRecord::measured))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(phases: &[(&str, f64)]) -> DrillRecord {
        let phases: Vec<_> = phases.iter().map(|(name, seconds)| serde_json::json!({"name": name, "seconds": seconds, "later": 1})).collect();
        let report = serde_json::json!({
            "format": 1, "outcome": "passed", "began": "2026-11-22 14:05:00 UTC", "database_bytes": 1000, "segments": 10, "phases": phases, "new": {},
        });
        serde_json::from_value(report).unwrap()
    }

    #[test]
    fn files_and_log_scale_with_what_a_drill_moved_and_the_start_does_not() {
        let measured = record(&[("plan", 1.0), ("restore files", 20.0), ("replay WAL", 30.0), ("start", 2.0), ("check", 500.0)]).measured().unwrap();
        let estimate = measured.estimate(3000, 40);
        assert_eq!((estimate.files_seconds, estimate.replay_seconds, estimate.start_seconds), (60.0, 120.0, 2.0));
        assert_eq!(estimate.total_seconds, 182.0);
        assert_eq!(measured.estimate(1000, 1).replay_seconds, 30.0, "a server does not start faster for less log");
    }

    #[test]
    fn a_drill_that_did_not_come_so_far_measures_nothing() {
        assert_eq!(record(&[("plan", 1.0), ("restore files", 20.0)]).measured(), None);
        assert_eq!(record(&[]).measured(), None);
    }
}
