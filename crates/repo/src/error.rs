//! What can be wrong with a repository.

use crate::Attempt;
use seal::SealError;
use store::StoreError;
use terms::{Class, Explain, SystemId, Timestamp};

/// Why something could not be done with the repository.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum RepoError {
    /// The store behind it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object did not open.
    #[error("cannot open {path}")]
    Object { path: String, source: SealError },
    /// Sealing failed before anything was written.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// There is no repository here.
    #[error("there is no repository in {address}")]
    NoRepository { address: String },
    /// There is one already.
    #[error("{address} holds a repository already")]
    Exists { address: String },
    /// A readable document is damaged.
    #[error("{path} is damaged")]
    Document { path: String, why: String },
    /// Written by a later Bowline.
    #[error("{path} has format {found}")]
    Newer { path: String, found: u32, known: u32 },
    /// A data key is wrapped for others only.
    #[error("no configured key opens data key {key}")]
    NoRecipient { key: String, wrapped_for: Vec<String>, asked: Vec<String>, attempts: Vec<Attempt> },
    /// Encryption is on, and nobody was named who could open the backups again.
    #[error("encryption needs at least one recipient")]
    NobodyToWrapFor,
    /// Nobody here could open it again.
    #[error("no recipient can prove here that it opens what it wraps")]
    NobodyToProve,
    /// What would be left of a data key's slots opens for nobody who is here.
    #[error("data key {key} would open for nobody who can prove it")]
    LastRecipient { key: String, left: Vec<String>, attempts: Vec<Attempt> },
    /// Keys are configured, and the repository says that it is not encrypted.
    #[error("the repository in {address} is not encrypted although keys are configured for it")]
    NotEncrypted { address: String },
    /// The repository belongs to another cluster.
    #[error("this repository belongs to another cluster")]
    ForeignCluster { ours: SystemId, found: SystemId },
    /// The repository went on to another cluster.
    #[error("cluster {found} belongs to an earlier epoch of this repository")]
    EpochEnded { ours: SystemId, found: SystemId, ended: Timestamp },
    /// A new epoch was asked for with the cluster of the present one.
    #[error("cluster {system_id} is the present epoch of this repository already")]
    EpochPresent { system_id: SystemId, since: Timestamp },
    /// Somebody else began another epoch meanwhile.
    #[error("this repository went on to another cluster meanwhile")]
    EpochOvertaken { after: SystemId, ours: SystemId, found: SystemId },
    /// No epoch can follow where there is none.
    #[error("this repository holds no cluster yet")]
    NoCluster,
    /// One system identifier, two majors.
    #[error("cluster {system_id} is of PostgreSQL {ours} in this repository, and of PostgreSQL {found} here")]
    MajorDiffers { system_id: SystemId, ours: u32, found: u32 },
    /// Other bytes lie under this name.
    #[error("WAL file {name} is in the repository with other bytes")]
    Conflict { name: String },
    /// The manifest does not say what it must.
    #[error("the manifest of backup {backup} is damaged")]
    Manifest { backup: String, why: String },
    /// No backup of this name is listed.
    #[error("no backup {backup} is listed")]
    NoBackup { backup: String },
    /// The backup's name is taken.
    #[error("backup {backup} exists already")]
    BackupExists { backup: String },
    /// An attempt was held up for so long that expiry took it for given up.
    #[error("{pack}, which was stored for backup {backup}, is gone")]
    Swept { backup: String, pack: String },
    /// Another run listed a snapshot while this one was made.
    #[error("snapshot {snapshot} was overtaken by another one")]
    SnapshotOvertaken { snapshot: String, source_address: String },
    /// Someone keeps replacing the document between our reading and writing it.
    #[error("{path} is being changed by others without end")]
    Contended { path: String },
    /// Another process acts.
    #[error("{holder} holds the lease {name}")]
    LeaseHeld { name: String, holder: String, since: Timestamp, renewed: Timestamp },
    /// It was this process's.
    #[error("the lease {name} is lost")]
    LeaseLost { name: String, holder: String },
    /// A mistake in Bowline.
    #[error("internal error: {0}")]
    Bug(String),
}

impl RepoError {
    pub(crate) fn object(path: impl ToString) -> impl FnOnce(SealError) -> Self {
        move |source| Self::Object { path: path.to_string(), source }
    }

    /// Whether a document says nothing to this program: damaged, of another repository, or of a newer format. The others do all the same.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.class() == Class::Damaged || matches!(self, Self::Newer { .. })
    }
}

impl Explain for RepoError {
    fn slug(&self) -> &'static str {
        match self {
            Self::Store(e) => e.slug(),
            Self::Object { source: e, .. } | Self::Seal(e) => e.slug(),
            Self::NoRepository { .. } => "repository-missing",
            Self::Exists { .. } => "repository-exists",
            Self::Document { .. } | Self::Manifest { .. } => "repository-damaged",
            Self::Newer { .. } => "format-newer",
            Self::NoRecipient { attempts, .. } => match foremost(attempts).map(|attempt| attempt.class) {
                None => "key-wrong",
                Some(Class::Transient) => "key-unreachable",
                Some(Class::Missing) => "key-missing",
                Some(_) => "key-refused",
            },
            Self::NobodyToWrapFor => "key-missing",
            Self::NobodyToProve => "key-unproven",
            Self::LastRecipient { .. } => "key-last",
            Self::NotEncrypted { .. } => "not-encrypted",
            Self::ForeignCluster { .. } => "system-id-foreign",
            Self::EpochEnded { .. } => "epoch-ended",
            Self::EpochPresent { .. } => "epoch-present",
            Self::EpochOvertaken { .. } => "epoch-overtaken",
            Self::NoCluster => "repository-empty",
            Self::MajorDiffers { .. } => "major-differs",
            Self::Conflict { .. } => "wal-conflict",
            Self::BackupExists { .. } => "backup-exists",
            Self::NoBackup { .. } => "backup-missing",
            Self::SnapshotOvertaken { .. } => "snapshot-overtaken",
            Self::Swept { .. } => "backup-swept",
            Self::Contended { .. } => "repository-contended",
            Self::LeaseHeld { .. } => "lease-held",
            Self::LeaseLost { .. } => "lease-lost",
            Self::Bug(_) => "bug",
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::Store(e) => e.class(),
            Self::Object { source: e, .. } | Self::Seal(e) => e.class(),
            Self::NoRepository { .. } | Self::NoCluster => Class::Missing,
            Self::NoRecipient { attempts, .. } => foremost(attempts).map_or(Class::Refused, |attempt| attempt.class),
            Self::LastRecipient { attempts, .. } if attempts.iter().any(|attempt| attempt.class == Class::Transient) => Class::Transient,
            Self::Exists { .. } | Self::Newer { .. } | Self::LastRecipient { .. } => Class::Refused,
            Self::EpochEnded { .. } | Self::EpochPresent { .. } | Self::EpochOvertaken { .. } | Self::MajorDiffers { .. } => Class::Refused,
            Self::ForeignCluster { .. } | Self::Conflict { .. } | Self::NotEncrypted { .. } => Class::Refused,
            Self::Document { .. } | Self::Manifest { .. } => Class::Damaged,
            Self::NobodyToWrapFor | Self::NobodyToProve => Class::Misuse,
            Self::BackupExists { .. } | Self::LeaseHeld { .. } | Self::LeaseLost { .. } => Class::Held,
            Self::NoBackup { .. } => Class::Missing,
            Self::Contended { .. } | Self::SnapshotOvertaken { .. } | Self::Swept { .. } => Class::Transient,
            Self::Bug(_) => Class::Bug,
        }
    }
    fn detail(&self) -> String {
        match self {
            Self::Store(e) => e.detail(),
            Self::Seal(e) => e.detail(),
            Self::Object { source, .. } => [source.to_string(), source.detail()].join(". ").trim_end_matches(". ").to_owned() + ".",
            Self::Document { why, .. } | Self::Manifest { why, .. } => format!("{why}."),
            Self::Newer { known, .. } => format!("This Bowline reads formats up to {known}."),
            Self::NoRecipient { wrapped_for, asked, attempts, .. } if attempts.is_empty() => {
                format!("Any one of these opens it: {}; tried: {}, which is none of them.", listed(wrapped_for), listed(asked))
            }
            Self::NoRecipient { wrapped_for, attempts, .. } => format!("Any one of these opens it: {}. {}", listed(wrapped_for), told(attempts)),
            Self::LastRecipient { left, attempts, .. } if attempts.is_empty() => format!("Left would be: {}. Nothing was changed.", listed(left)),
            Self::LastRecipient { left, attempts, .. } => format!("Left would be: {}. {} Nothing was changed.", listed(left), told(attempts)),
            Self::NobodyToProve => "All that are named can only wrap: their private halves are kept elsewhere.".into(),
            Self::ForeignCluster { ours, found } => {
                format!("The repository holds the cluster with system identifier {ours}; this one is {found}.")
            }
            Self::EpochEnded { ours, found, ended } => {
                format!("At {ended} the repository went on from {found} to the cluster with system identifier {ours}; it never goes back.")
            }
            Self::EpochPresent { since, .. } => format!("It is so since {since}; nothing was changed."),
            Self::EpochOvertaken { after, ours, found } => {
                format!("The epoch of {found} was to follow that of {after}, but the present one is that of {ours}. Nothing was changed.")
            }
            Self::NoCluster => "A new epoch follows another one.".into(),
            Self::MajorDiffers { .. } => "initdb gives each cluster an identifier of its own, and pg_upgrade keeps that of the new one: an upgraded cluster never has the old identifier.".into(),
            Self::Conflict { name } => {
                format!(
                    "Two different histories of the cluster wrote {name}: a second primary, or a server restored without a new timeline. Nothing was overwritten."
                )
            }
            Self::SnapshotOvertaken { source_address, .. } => {
                format!("A newer one of {source_address} was listed meanwhile and does not need all that this one refers to. This one is not listed.")
            }
            Self::Swept { .. } => "It was held up for longer than bowline expire waits before it sweeps what was given up. It is not listed.".into(),
            Self::LeaseHeld { since, renewed, .. } => format!("It holds it since {since} and last renewed it at {renewed}."),
            Self::LeaseLost { holder, .. } if holder.is_empty() => "It is free, or its object is gone.".into(),
            Self::LeaseLost { holder, .. } => format!("{holder} holds it now: this process was not heard of for the lease's time."),
            _ => String::new(),
        }
    }
    fn hint(&self) -> String {
        match self {
            Self::Store(e) => e.hint(),
            Self::Object { source: e, .. } | Self::Seal(e) => e.hint(),
            Self::NoRepository { .. } => "Check [repository] url and org; bowline init makes a new repository.".into(),
            Self::Exists { .. } => "Use it as it is, or choose another url or org. Bowline never overwrites a repository.".into(),
            Self::Newer { .. } => "Use a Bowline at least as new as the one that wrote this repository.".into(),
            Self::NoRecipient { wrapped_for, attempts, .. } => next_step(wrapped_for, attempts),
            Self::NobodyToProve => "Name a recipient beside them that this host can use: a key file, aws-kms: or vault-transit:.".into(),
            Self::LastRecipient { .. } => "Add another recipient first (bowline keys add), or prove one that is left with --key FILE.".into(),
            Self::NobodyToWrapFor => "Name one with [encryption] recipients = [\"file:/etc/bowline/keys/key\"], or switch encryption off by name with [encryption] mode = \"off\".".into(),
            Self::ForeignCluster { .. } => "Point [postgres] conninfo at the right server, or give this cluster a repository of its own (another url or org). After pg_upgrade or a new initdb, bowline init --new-epoch goes on in this one.".into(),
            Self::EpochEnded { .. } => "If this server was started by mistake, stop it and its archiver. To go on with it, as after a restore to before the upgrade, give it a repository of its own: another url or org, bowline init, bowline backup.".into(),
            Self::EpochPresent { .. } => "Nothing needs to be begun: bowline backup, bowline wal receive. After pg_upgrade, point [postgres] conninfo at the new server.".into(),
            Self::EpochOvertaken { .. } => "Find out who began it (bowline list, bowline status) before anything is done again.".into(),
            Self::NoCluster => "bowline backup or bowline wal receive admits the first cluster.".into(),
            Self::MajorDiffers { .. } => "Look at [postgres] conninfo; give this cluster a repository of its own (another url or org).".into(),
            Self::NotEncrypted { .. } => "If encryption was switched off on purpose, leave out [encryption] recipients. Else somebody replaced repository.json: restore it from a copy of the bucket.".into(),
            Self::Conflict { .. } => "Find out which server is the real primary and stop the other one from archiving here.".into(),
            Self::NoBackup { .. } => "See bowline list, and bowline expire --dry-run for snapshots of packages.".into(),
            Self::SnapshotOvertaken { .. } => "Run it again, one at a time.".into(),
            Self::Swept { .. } => "Run it again.".into(),
            Self::LeaseHeld { .. } => "Let it act, or stop it: a lease that is not renewed is free after its time.".into(),
            Self::LeaseLost { .. } => "Nothing needs to be done if the other one is meant to act; otherwise stop it and start this one again.".into(),
            Self::Document { path, .. } if path.starts_with("leases/") => format!("Stop every Bowline that uses this repository, remove {path}, and start them again."),
            Self::Document { .. } | Self::Manifest { .. } => "Restore the object from a copy of the bucket, or use another backup.".into(),
            _ => String::new(),
        }
    }
}

/// The attempt that decides: trouble that may pass, else the first.
fn foremost(attempts: &[Attempt]) -> Option<&Attempt> {
    attempts.iter().find(|attempt| attempt.class == Class::Transient).or(attempts.first())
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// Who was asked, and what each said.
fn told(attempts: &[Attempt]) -> String {
    attempts.iter().map(|attempt| format!("{} was asked: {}.", attempt.recipient, attempt.why.trim_end_matches('.'))).collect::<Vec<_>>().join(" ")
}

/// What to do about a data key that stayed shut.
fn next_step(wrapped_for: &[String], attempts: &[Attempt]) -> String {
    let mut steps: Vec<String> = foremost(attempts).map(|attempt| attempt.hint.clone()).filter(|hint| !hint.is_empty()).into_iter().collect();
    if steps.is_empty() {
        steps.push("Put the key that the repository was initialised with where [encryption] recipients points, or pass it with --key.".into());
        // The names of these are what --key takes.
        if let Some(kept) = wrapped_for.iter().find(|name| name.starts_with("aws-kms:") || name.starts_with("vault-transit:")) {
            steps.push(format!("Where this host may use it: --key {kept}"));
        }
    }
    if let Some(recovery) = wrapped_for.iter().find(|name| name.starts_with("age:")) {
        steps.push(format!("Or fetch the private half of {recovery} from where it is kept, and give it with --key FILE."));
    }
    steps.join(" ")
}
