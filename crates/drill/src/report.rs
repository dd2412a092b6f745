//! What a drill found out, as it is kept: the verdict with its evidence, and how long each phase took.

use crate::pages::PagesProof;
use checks::{Fault, Outcome, Proof, Referred};
use restore::{RestorePlan, RestoreReport};
use serde::Serialize;
use std::time::Duration;
use terms::{BackupId, Lsn, RecoveryTarget, Step, SystemId, Timeline, Timestamp};

/// One part of a drill.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phase {
    /// A step of the restore by its name, or `ask production`, `read pages`, `start`, `check`, `stop`, `remove`.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// What was moved or looked at meanwhile: bytes of the database, or of WAL and then also how many segments. `None` where time does not
    /// grow with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// As many as recovery replays; `None` but for the replay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segments: Option<u64>,
}

/// Something to know that is no fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// Empty when it is about the whole drill.
    pub database: String,
    /// What it is about: a table, a library, the plan.
    pub object: String,
    /// What is so, in words.
    pub what: String,
}

/// What the counts of rows were held against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// `the drill of …` with its time, or `production's estimates`.
    pub with: String,
    /// Tables that were compared.
    pub tables: u64,
    /// Those of them that had to agree to the row, because none of their pages was written since.
    pub exactly: u64,
    /// Why not all could be, or none.
    pub not_compared: Option<String>,
}

/// A library that the cluster's configuration loads into its server, and the drill's server was started without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// As the setting names it: a name or a path.
    pub library: String,
    /// Whether this host has it; `None` when that could not be asked.
    pub is_here: Option<bool>,
}

/// The report of a drill. `format` grows when a reader of older ones would misunderstand a newer one.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// 1 until now.
    pub format: u32,
    /// The worst of all that was found; `not-verified` where not everything could be looked at.
    pub outcome: Outcome,
    /// By the clock of the host that held it.
    pub began: Timestamp,
    /// What was asked for, as the command takes it: `latest`, a time, an LSN.
    pub target: String,
    /// The one that was restored; `None` when none could be planned with.
    pub backup: Option<BackupId>,
    /// When the backup was consistent, by the server's clock.
    pub backup_time: Option<Timestamp>,
    /// Of the cluster that the backup is of.
    pub system_id: Option<SystemId>,
    /// Of the server that was backed up, in full.
    pub server_version: Option<String>,
    /// The one that began when the restored cluster was promoted; `None` when it did not come so far.
    pub timeline: Option<Timeline>,
    /// The timeline that recovery followed.
    pub source_timeline: Option<Timeline>,
    /// The end of the last record that was replayed; `None` when recovery did not come to its end.
    pub recovered_to: Option<Lsn>,
    /// The last transaction's time as the server's log says it; `None` when it names none.
    pub last_transaction: Option<String>,
    /// Bytes of the database in the backup.
    pub database_bytes: Option<u64>,
    /// How many segments recovery replays to its end.
    pub segments: Option<u64>,
    /// Whether the server was in a network of its own while it was checked.
    pub is_cut_off: bool,
    /// As whom PostgreSQL ran: the user's name; `None` when it did not come so far.
    pub ran_as: Option<String>,
    /// Whether production's files are that user's too; `None` when they are not on this host.
    pub is_productions_user: Option<bool>,
    /// Transactions that hung open where recovery ended; `None` when there were too many to name, or nobody looked.
    pub open_ended: Option<Vec<u64>>,
    /// `None` when it did not come so far.
    pub pages: Option<PagesProof>,
    /// Each once, by name.
    pub left_out: Vec<LeftOut>,
    /// With the last drill and with production's estimates; none where no server answered.
    pub comparisons: Vec<Comparison>,
    /// All of them, in the order in which they were come by.
    pub notices: Vec<Notice>,
    /// In the order in which they ran; a restore that failed leaves none of its own steps.
    pub phases: Vec<Phase>,
    /// What the restored server proved, with all faults, those of the repository included.
    pub proof: Proof,
    /// All phases together.
    pub seconds: f64,
    /// How the database agrees with the objects that it refers to; whoever knows the objects adds this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<serde_json::Value>,
    /// What it refers to, for that.
    #[serde(skip)]
    pub referred: Option<Referred>,
    #[serde(skip)]
    segment_bytes: u64,
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
            source_timeline: None,
            recovered_to: None,
            last_transaction: None,
            database_bytes: None,
            segments: None,
            is_cut_off: false,
            ran_as: None,
            is_productions_user: None,
            open_ended: None,
            pages: None,
            left_out: Vec::new(),
            comparisons: Vec::new(),
            notices: Vec::new(),
            phases: Vec::new(),
            proof: Proof::default(),
            seconds: 0.0,
            agreement: None,
            referred: None,
            segment_bytes: 0,
        }
    }

    /// Adds what was found out beside the drill; the worst counts.
    pub fn add(&mut self, fault: Fault) {
        self.outcome = self.outcome.max(fault.outcome);
        self.proof.faults.push(fault);
    }

    pub(crate) fn planned(&mut self, plan: &RestorePlan) {
        let backup = &plan.backup;
        (self.backup, self.backup_time) = (Some(backup.id), Some(backup.stop.time));
        (self.system_id, self.server_version) = (Some(backup.system_id), Some(backup.server_version.clone()));
        (self.database_bytes, self.segments) = (Some(backup.bytes), Some(plan.replayed as u64));
        self.source_timeline = Some(plan.timeline);
        self.segment_bytes = backup.segment_bytes.bytes();
        for note in &plan.notes {
            self.notice("", "the plan", note.clone());
        }
        if backup.pages_damaged > 0 {
            let pages =
                if backup.pages_damaged == 1 { "1 damaged page was".to_owned() } else { format!("{} damaged pages were", backup.pages_damaged) };
            self.notice("", "the backup", format!("{pages} seen when it was made"));
        }
    }

    /// What no fault is about, and a person should know.
    pub(crate) fn tell_what_was_not_looked_at(&mut self) {
        let closed = "nobody can connect to it (ALLOW_CONNECTIONS false): nothing in it was looked at";
        let closed = self.proof.closed_databases.iter().map(|name| (name.clone(), "the database".to_owned(), closed.to_owned()));
        let stale = self.proof.databases.iter().flat_map(|database| database.stale_collations.iter().map(|stale| (&database.name, stale)));
        let stale = stale.map(|(name, stale)| {
            let what = format!("{}; where it is restored here: {}", stale.words(), stale.remedy(name));
            (name.clone(), "collations".to_owned(), what)
        });
        for (database, object, what) in closed.chain(stale).collect::<Vec<_>>() {
            self.notice(&database, &object, what);
        }
    }

    pub(crate) fn notice(&mut self, database: &str, object: &str, what: String) {
        self.notices.push(Notice { database: database.to_owned(), object: object.to_owned(), what });
    }

    pub(crate) fn restored(&mut self, restored: &RestoreReport) {
        // Nothing was in the way.
        for (step, took) in restored.steps.iter().filter(|(step, _)| *step != Step::MoveAside) {
            let (bytes, segments) = match step {
                Step::CopyFiles => (Some(restored.restored.bytes), None),
                Step::Replay => (self.segments.map(|segments| segments * self.segment_bytes), self.segments),
                _ => (None, None),
            };
            self.phases.push(Phase { name: step.name().to_owned(), seconds: took.as_secs_f64(), bytes, segments });
        }
        if let Some(recovered) = &restored.recovered {
            (self.timeline, self.recovered_to) = (Some(recovered.timeline), Some(recovered.at));
            self.last_transaction.clone_from(&recovered.last_transaction);
        }
    }

    pub(crate) fn phase(&mut self, name: &str, took: Duration) {
        self.phases.push(Phase { name: name.to_owned(), seconds: took.as_secs_f64(), bytes: None, segments: None });
    }

    pub(crate) fn phase_over(&mut self, name: &str, took: Duration, bytes: u64) {
        self.phases.push(Phase { name: name.to_owned(), seconds: took.as_secs_f64(), bytes: Some(bytes), segments: None });
    }

    /// The verdict, once everything is known.
    pub(crate) fn judged(mut self) -> Self {
        self.outcome = self.proof.outcome();
        self.seconds = self.phases.iter().map(|phase| phase.seconds).sum();
        self
    }
}
