//! What a drill found out, as it is kept: the verdict with its evidence, and how long each phase took.

use checks::{Outcome, Proof};
use restore::{RestorePlan, RestoreReport};
use serde::Serialize;
use std::time::Duration;
use terms::{BackupId, Lsn, RecoveryTarget, Step, SystemId, Timeline, Timestamp};

/// One part of a drill.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phase {
    pub name: String,
    pub seconds: f64,
}

/// The report of a drill. `format` grows when a reader of older ones would misunderstand a newer one.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub format: u32,
    pub outcome: Outcome,
    pub began: Timestamp,
    pub target: String,
    pub backup: Option<BackupId>,
    /// When the backup was consistent, by the server's clock.
    pub backup_time: Option<Timestamp>,
    pub system_id: Option<SystemId>,
    pub server_version: Option<String>,
    pub timeline: Option<Timeline>,
    /// Where recovery ended, and the last transaction's time as the server's log says it.
    pub recovered_to: Option<Lsn>,
    pub last_transaction: Option<String>,
    /// Bytes of the database, and how many segments recovery might ask for.
    pub database_bytes: Option<u64>,
    pub segments: Option<u64>,
    /// Whether the server was in a network of its own while it was checked.
    pub is_cut_off: bool,
    pub phases: Vec<Phase>,
    pub proof: Proof,
    pub seconds: f64,
}

impl Report {
    pub(crate) fn begin(began: Timestamp, target: &RecoveryTarget) -> Self {
        Self {
            format: 1,
            outcome: Outcome::NotVerified,
            began,
            target: target.to_string(),
            backup: None,
            backup_time: None,
            system_id: None,
            server_version: None,
            timeline: None,
            recovered_to: None,
            last_transaction: None,
            database_bytes: None,
            segments: None,
            is_cut_off: false,
            phases: Vec::new(),
            proof: Proof::default(),
            seconds: 0.0,
        }
    }

    pub(crate) fn planned(&mut self, plan: &RestorePlan) {
        let backup = &plan.backup;
        (self.backup, self.backup_time) = (Some(backup.id), Some(backup.stop.time));
        (self.system_id, self.server_version) = (Some(backup.system_id), Some(backup.server_version.clone()));
        (self.database_bytes, self.segments) = (Some(backup.bytes), Some(plan.segments.len() as u64));
    }

    pub(crate) fn restored(&mut self, restored: &RestoreReport) {
        // Nothing was in the way.
        for (step, took) in restored.steps.iter().filter(|(step, _)| *step != Step::MoveAside) {
            self.phase(step.name(), *took);
        }
        if let Some(recovered) = &restored.recovered {
            (self.timeline, self.recovered_to) = (Some(recovered.timeline), Some(recovered.at));
            self.last_transaction.clone_from(&recovered.last_transaction);
        }
    }

    pub(crate) fn phase(&mut self, name: &str, took: Duration) {
        self.phases.push(Phase { name: name.to_owned(), seconds: took.as_secs_f64() });
    }

    /// The verdict, once everything is known.
    pub(crate) fn judged(mut self) -> Self {
        self.outcome = self.proof.outcome();
        self.seconds = self.phases.iter().map(|phase| phase.seconds).sum();
        self
    }
}
