//! Why a rescue stopped, and where things then stand.

use pg::{InstanceError, PgError};
use restore::RestoreError;
use std::path::PathBuf;
use terms::{Advice, Class, Explain, Timestamp};

/// Why a rescue was not begun or stopped on its way. The old data are whole in every case.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum RescueError {
    /// Planning, restoring, recovering.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// PostgreSQL's programs.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The restored server's answers.
    #[error(transparent)]
    Pg(#[from] PgError),
    /// What the rescue was lent to store and receive with.
    #[error("{}", .0.summary)]
    Lent(Advice),
    /// A file of the rescue's own.
    #[error("cannot {operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    /// A command of the configuration.
    #[error("cannot {what}")]
    Hook { what: &'static str, command: String, status: String, said: String },
    /// The journal makes no sense.
    #[error("cannot read the journal of an earlier restore, {}", path.display())]
    Journal { path: PathBuf, why: String },
    /// The journal is another user's, who may have written there what he likes.
    #[error("the earlier restore into {} was begun by another user", data_dir.display())]
    Foreign { data_dir: PathBuf, uid: u32, me: u32 },
    /// Another restore of this target is at work.
    #[error("another restore into {} is at work", data_dir.display())]
    Locked { data_dir: PathBuf },
    /// An earlier restore of this target asked for something else and is not done.
    #[error("an earlier restore into {} is not done", data_dir.display())]
    Unfinished { data_dir: PathBuf, target: String, began: Timestamp, stage: &'static str },
    /// What lies in the data directory is not what the journal says.
    #[error("{} is not what the interrupted restore left there", data_dir.display())]
    NotOurs { data_dir: PathBuf, aside: Option<PathBuf> },
    /// Processes of a server whose postmaster is gone.
    #[error("processes of a server still use {}", data_dir.display())]
    Survivors { data_dir: PathBuf, pids: Vec<u32> },
    /// The server runs again although it was stopped.
    #[error("PostgreSQL in {} was stopped and runs again", data_dir.display())]
    Restarted { data_dir: PathBuf, pid: u32 },
    /// A command ended well and did not do what it is there for.
    #[error("the command that is to {what} PostgreSQL in {} did not", data_dir.display())]
    Unheeded { what: &'static str, command: String, data_dir: PathBuf, found: String },
    /// A server came up, and did not stay.
    #[error("PostgreSQL in {} was started and ended again", data_dir.display())]
    Ended { command: String, data_dir: PathBuf, log: String },
    /// This user cannot have systemd stop or start the server.
    #[error("PostgreSQL runs in the systemd unit {unit}, which user {user} may not stop and start")]
    Powerless { unit: String, user: String, is_begun: bool },
    /// Patroni decides who of its members is the primary.
    #[error("PostgreSQL in {} is under Patroni", data_dir.display())]
    UnderPatroni { data_dir: PathBuf },
    /// The restored cluster did not pass.
    #[error("the restored cluster did not pass its checks")]
    Unproven { faults: Vec<String> },
    /// The restored cluster has no configuration.
    #[error("the cluster is recovered, but was not started: it has no postgresql.conf")]
    NoConfig { data_dir: PathBuf, kept: PathBuf },
    /// A mistake in Bowline.
    #[error("internal error: {0}")]
    Bug(String),
}

impl RescueError {
    pub(crate) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }
}

impl Explain for RescueError {
    fn slug(&self) -> &'static str {
        match self {
            Self::Restore(e) => e.slug(),
            Self::Instance(e) => e.slug(),
            Self::Pg(e) => e.slug(),
            Self::Lent(advice) => advice.slug,
            Self::File { .. } => "target-unwritable",
            Self::Hook { .. } => "hook-failed",
            Self::Journal { .. } => "journal-damaged",
            Self::Foreign { .. } => "restore-of-another-user",
            Self::Locked { .. } => "restore-running",
            Self::Unfinished { .. } => "restore-unfinished",
            Self::NotOurs { .. } => "target-changed",
            Self::Survivors { .. } => "server-survivors",
            Self::Restarted { .. } => "server-restarted",
            Self::Unheeded { .. } => "hook-unheeded",
            Self::Ended { .. } => "server-ended",
            Self::Powerless { .. } => "unit-not-allowed",
            Self::UnderPatroni { .. } => "under-patroni",
            Self::Unproven { .. } => "restore-unproven",
            Self::NoConfig { .. } => "config-missing",
            Self::Bug(_) => "bug",
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::Restore(e) => e.class(),
            Self::Instance(e) => e.class(),
            Self::Pg(e) => e.class(),
            Self::Lent(advice) => advice.class,
            Self::Journal { .. } | Self::Unproven { .. } => Class::Damaged,
            Self::Locked { .. } | Self::Survivors { .. } => Class::Held,
            Self::NoConfig { .. } => Class::Missing,
            Self::File { .. } | Self::Hook { .. } | Self::Unfinished { .. } | Self::NotOurs { .. } | Self::Restarted { .. } => Class::Refused,
            Self::Unheeded { .. } | Self::Ended { .. } | Self::Powerless { .. } | Self::UnderPatroni { .. } | Self::Foreign { .. } => Class::Refused,
            Self::Bug(_) => Class::Bug,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Restore(e) => e.detail(),
            Self::Instance(e) => e.detail(),
            Self::Pg(e) => e.detail(),
            Self::Lent(advice) => advice.detail.clone(),
            Self::File { source, .. } => format!("{source}."),
            Self::Hook { command, status, said, .. } if said.is_empty() => format!("{command:?} ended with {status}."),
            Self::Hook { command, status, said, .. } => format!("{command:?} ended with {status}. It said:\n{said}"),
            Self::Journal { why, .. } => format!("{why}."),
            Self::Foreign { uid, me, .. } => format!("It was user {uid}, and user {me} goes on only with what is his own or root's."),
            Self::Unfinished { target, began, stage, .. } => {
                format!("It was to restore to {target}, began at {began}, and broke off after {stage}.")
            }
            Self::NotOurs { aside, .. } => match aside {
                Some(aside) => format!("Somebody changed it meanwhile. The data of before the restore went to {}.", aside.display()),
                None => "Somebody changed it meanwhile.".into(),
            },
            Self::Survivors { pids, .. } => {
                format!("Its postmaster is gone, but these are left: {}.", pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", "))
            }
            Self::Restarted { pid, .. } => format!("Its process is {pid} now: whoever supervises it started it again."),
            Self::Unheeded { command, found, .. } => format!("{command:?} ended well. {found}."),
            Self::Ended { command, .. } => format!("{command:?} ended well and a server came up, but it is gone again."),
            Self::Powerless { .. } => "Whoever is not root needs a word of root's for that. Nothing was touched.".into(),
            Self::UnderPatroni { .. } => {
                "Patroni would promote another member as soon as this one stops, and then make this one a copy of that again: what was restored would be lost."
                    .into()
            }
            Self::Unproven { faults } => faults.join("\n"),
            Self::NoConfig { data_dir, kept } => {
                format!(
                    "Neither {} holds one nor the place where the cluster had it; what the backup holds lies in {}.",
                    data_dir.display(),
                    kept.display()
                )
            }
            Self::Locked { .. } | Self::Bug(_) => String::new(),
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::Restore(e) => e.hint(),
            Self::Instance(e) => e.hint(),
            Self::Pg(e) => e.hint(),
            Self::Lent(advice) => advice.hint.clone(),
            Self::File { .. } => "Run as root or as the owner of the target.".into(),
            Self::Hook { what: "stop PostgreSQL" | "start PostgreSQL", .. } => {
                "Look at what it says. Do that part by hand, or let [postgres] stop and start name commands that this user may run (such as \
                 \"sudo systemctl stop postgresql@18-main\"); then run the same restore again, as the user who began it."
                    .into()
            }
            Self::Hook { .. } => {
                "Look at what it says, or do that part by hand and leave it out with --no-service; then run the same restore again.".into()
            }
            Self::Journal { path, .. } => format!("Look at what is there, then remove {} to begin anew.", path.display()),
            Self::Foreign { .. } => "Go on as that user; or give that restore up and begin anew as this one by --anew.".into(),
            Self::Locked { .. } => "Wait for its end: two restores of one target would destroy each other's work.".into(),
            Self::Unfinished { .. } => "Go on with it by --continue, or give it up and restore as you say now by --anew.".into(),
            Self::NotOurs { .. } => "Restore with --anew: what is there is then kept aside.".into(),
            Self::Survivors { .. } => "End them (kill), then run the same restore again; the data are untouched.".into(),
            Self::Restarted { .. } => {
                "Let [postgres] stop and start name the commands of its supervisor, such as \"systemctl stop postgresql@18-main\".".into()
            }
            Self::Unheeded { what, .. } => format!(
                "Let [postgres] {what} name the command that does it (on Debian the unit of the cluster, such as postgresql@18-main, not postgresql), or \
                 {what} it by hand; then run the same restore again."
            ),
            Self::Ended { log, .. } => format!("Its log says why: {log}. Put that right, then run the same restore again."),
            Self::Powerless { unit, user, is_begun } => {
                let by_whom = if *is_begun { "Go on as the user who began it, where that is another" } else { "Run the restore as root" };
                format!(
                    "{by_whom}; or allow it by this line in /etc/sudoers.d/bowline: {user} ALL=(root) NOPASSWD: /usr/bin/systemctl stop {unit}, \
                     /usr/bin/systemctl start {unit}; or let [postgres] stop and start name commands that {user} may run: where a rule of polkit lets \
                     {user} do it, \"systemctl stop {unit}\" and \"systemctl start {unit}\", which are run as they are."
                )
            }
            Self::UnderPatroni { data_dir } => format!(
                "Pause it (patronictl pause), stop PostgreSQL on the other members, let [postgres] stop and start name pg_ctl's commands for this one, restore, \
                 then patronictl resume and reinit the others: docs/restore.md, \"Under Patroni, or with standbys\". Where Patroni manages this cluster no \
                 more, remove patroni.dynamic.json from {}.",
                data_dir.display()
            ),
            Self::Unproven { .. } => {
                "The old data and the service are as they were set aside; nothing serves what did not pass. Restore to another instant with --anew, \
                 or go on as it is with --validate none."
                    .into()
            }
            Self::NoConfig { .. } => "Write one and run the same restore again; the data are complete.".into(),
            Self::Bug(_) => String::new(),
        }
    }
}
