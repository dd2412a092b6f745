//! The words of the command line.

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use restore::Wish;
use std::path::PathBuf;
use terms::{BackupId, Clock, ParseError, RecoveryTarget, SystemClock, Timeline, Timestamp};

/// Backs up a PostgreSQL cluster to a bucket or folder, encrypted, and brings it back to any instant.
#[derive(Debug, Parser)]
#[command(name = "bowline", version, propagate_version = true, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 done, 1 unclassified (and the verdict of status and doctor: something is critical), 2 usage, 3 something is missing, 4 refused, 5 transient (try again), 6 damaged, 7 held by another, 70 a bug of Bowline's."
)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Clone, ClapArgs)]
pub struct Common {
    /// The configuration file
    #[arg(long, global = true, env = "BOWLINE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The repository, instead of the configuration's: file:///folder, s3://bucket/prefix, gs:// or az://
    #[arg(long, global = true, value_name = "URL")]
    pub repository: Option<String>,
    /// The organization, instead of the configuration's
    #[arg(long, global = true, value_name = "NAME")]
    pub org: Option<String>,
    /// Look at a bucket that keeps versions as it was at this time, such as before an attack: list, restore, verify,
    /// status, wal audit --no-read
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_time)]
    pub repository_as_of: Option<Timestamp>,
    /// What opens the repository instead of the configured recipients: a key file, an age identity file (a recovery key), or a recipient such
    /// as aws-kms:KEY
    #[arg(long, global = true, value_name = "FILE|RECIPIENT")]
    pub key: Option<PathBuf>,
    /// Print JSON, one object a line: events while it runs, the result last
    #[arg(long, global = true)]
    pub json: bool,
    /// Print results and errors only
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a new repository and its key, after probing what the store can do
    Init(InitArgs),
    /// Look at every prerequisite and say how to fix what is wrong
    Check,
    /// Make a full backup
    Backup(BackupArgs),
    /// Restore a cluster to an instant
    ///
    /// Without --target, in place: stops the service and PostgreSQL, saves what the old pg_wal holds beyond the repository (for latest), keeps
    /// the old data aside, restores, replays, promotes, validates, starts PostgreSQL and the service, streams WAL again and makes a full
    /// backup. The plan is shown first. Whatever breaks off on the way goes on when the same command is run again.
    ///
    /// With --target elsewhere, beside production: the server is cut off from it and listens on a private socket only.
    Restore(RestoreArgs),
    /// Hold a drill: restore into a place of its own, check everything, remove it again
    ///
    /// Restores the newest backup and all its WAL into a directory of its own, starts PostgreSQL there where nobody else reaches it, looks at
    /// every index and table of every database with amcheck, reads every row, asks the configured questions, and removes it all.
    ///
    /// The verdict is "passed" only when everything was looked at and found good; exit code 6 says that something is wrong, 4 that something
    /// could not be checked.
    Verify(VerifyArgs),
    /// List the backups
    List,
    /// Extend the locks of what is still needed before they end
    ///
    /// Where [repository] object_lock is set, each object is locked in the bucket for object_lock_days. What a listed backup needs must stay
    /// locked longer: whatever is locked for less than half of that time is locked for all of it from now on. Every backup does this when it is
    /// done.
    Relock,
    /// Unlist the backups and snapshots of packages that retention lets go, and remove what was unlisted long enough ago
    ///
    /// Kept are: of each of the 30 most recent days that have a backup the newest, of each of the 12 most recent months the first, the 7 newest, the
    /// newest that passed a drill, and whatever is held; all WAL from the oldest daily on, and of older backups their own; and the snapshots of
    /// packages that a restore to any of these instants needs. Each one's reasons are shown first. Objects go a day after their backup was unlisted.
    Expire(ExpireArgs),
    /// Read again what was stored, oldest proof first, and name each object that is damaged or missing
    ///
    /// Every object is opened with its key and held against its digests: packs of backups and of snapshots against the manifest that names their
    /// chunks, WAL against its index. A run reads as much as --budget allows and the next one goes on from there. What it finds stands in the repository's record,
    /// scrub/state.json, until it is proven well again; exit code 6 says that something stands.
    Scrub(ScrubArgs),
    /// Keep a backup, or a snapshot of packages, whatever retention says
    Hold(HoldArgs),
    /// Let a held backup or snapshot go
    Unhold {
        /// Its name, as list or expire --dry-run shows it
        backup: BackupId,
    },
    /// One screen: what is protected, and up to when
    Status,
    /// Explain whatever status shows red, and how it is mended
    Doctor,
    /// The ledger: what ran when, and how it ended
    Runs(RunsArgs),
    /// Run everything in time: the schedule, the WAL receiver, the watch
    ///
    /// Makes the daily backup, expires, holds the weekly drill, audits, receives WAL, looks at everything, and tells people. Several daemons may
    /// run for one repository: one acts, the others stand by. SIGHUP reads the configuration again; SIGTERM ends it cleanly.
    Daemon,
    /// The write-ahead log: receive, push, fetch, audit
    Wal {
        #[command(subcommand)]
        verb: WalVerb,
    },
    /// The application's bucket: its replication, snapshots, and how it was at an instant
    Packages {
        #[command(subcommand)]
        verb: PackagesVerb,
    },
    /// Whom the repository's data keys open for: list, add, remove, rotate, rewrap, export
    Keys {
        #[command(subcommand)]
        verb: KeysVerb,
    },
    /// Who is told when something is wrong: test, list, silence, unsilence
    Alert {
        #[command(subcommand)]
        verb: AlertVerb,
    },
    /// Print the disaster recovery runbook of this installation
    ///
    /// Decisions by disaster, the exact commands with this installation's names, what they print, and what was measured last. A test runs every
    /// command of it.
    Runbook(RunbookArgs),
    /// Print a completion script for your shell
    Completions { shell: clap_complete::Shell },
    /// Write the manual pages, one a command, into this folder: for whoever makes a package
    #[command(hide = true)]
    Manual { dir: PathBuf },
}

#[derive(Debug, ClapArgs)]
pub struct ExpireArgs {
    /// Show what would be kept and what would go, and why; change nothing
    #[arg(long, visible_alias = "plan")]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Debug, ClapArgs)]
pub struct ScrubArgs {
    /// Bytes of backups and WAL read at most, such as 50GB; [scrub] daily_budget unless given, 20GB unless that is set
    #[arg(long, value_name = "SIZE")]
    pub budget: Option<bytesize::ByteSize>,
    /// An object that was removed or changed on purpose: it is not expected any more
    #[arg(long, value_name = "OBJECT")]
    pub forget: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub struct HoldArgs {
    /// Its name, as list or expire --dry-run shows it; where a backup and a snapshot have one name, both are kept
    pub backup: BackupId,
    /// Why it is kept, for whoever wonders later
    #[arg(long, value_name = "TEXT")]
    pub why: String,
}

#[derive(Debug, ClapArgs)]
pub struct InitArgs {
    /// Print the SQL, pg_hba.conf line and settings that PostgreSQL needs, and do nothing else
    #[arg(long)]
    pub print_sql: bool,
    /// The role in --print-sql
    #[arg(long, default_value = "bowline", requires = "print_sql", value_name = "NAME")]
    pub role: String,
    /// Go on in the same repository after pg_upgrade or a new initdb
    ///
    /// The server that [postgres] conninfo names becomes the repository's present cluster. What is stored of the former one stays and can
    /// be restored; that cluster itself is refused from then on. Make a full backup at once: until it is done the new cluster is not
    /// protected.
    #[arg(long, conflicts_with = "print_sql")]
    pub new_epoch: bool,
    /// Set the bucket up for backups, and do nothing else: run it once, with credentials that may
    ///
    /// Makes the bucket when it is missing; default encryption with [repository] sse_kms_key_id and bucket keys; versions; no public access;
    /// abandoned uploads end after a week and old versions after --noncurrent-days. Says first what it will do, asks, does what it may, and
    /// prints for the rest the command with which somebody who may can do it.
    #[arg(long, conflicts_with_all = ["print_sql", "new_epoch"])]
    pub bucket: bool,
    /// With --bucket: make the bucket so that objects can be locked; no retention is set on the bucket
    #[arg(long, requires = "bucket")]
    pub object_lock: bool,
    /// With --bucket: keep versions so many days after they were overwritten or removed
    #[arg(long, requires = "bucket", default_value_t = 30, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub noncurrent_days: u32,
    /// Print the IAM policy of a credential that needs no more, and do nothing else
    #[arg(long, value_enum, value_name = "WHOSE", conflicts_with_all = ["print_sql", "new_epoch", "bucket"])]
    pub print_policy: Option<PolicyOf>,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Whose policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PolicyOf {
    /// Backs up and stores WAL: removes nothing, and overwrites nothing that is kept
    Writer,
    /// Restores and holds drills: reads
    Restorer,
    /// Removes what has expired
    Expirer,
}

/// What to do about damaged pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ChecksumMode {
    Fail,
    Warn,
    Off,
}

/// What a recovered cluster is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ValidationMode {
    /// Nothing
    None,
    /// Whether every database opens, and the questions of [drill] checks
    Questions,
    /// All that a drill asks: every index, table and row; it may take long
    Full,
}

#[derive(Debug, Default, ClapArgs)]
pub struct BackupArgs {
    /// zstd, zstd:LEVEL, lz4 or none
    #[arg(long, value_name = "HOW")]
    pub compression: Option<seal::Compression>,
    /// Threads that compress and seal; all cores unless said otherwise
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub jobs: Option<u16>,
    /// Read at most so much of the database a second, such as 50MB
    #[arg(long, value_name = "SIZE")]
    pub max_rate: Option<bytesize::ByteSize>,
    /// What a page with a wrong checksum does: fail the backup, warn, or do not look
    #[arg(long, value_enum)]
    pub checksums: Option<ChecksumMode>,
    /// Wait for a spread checkpoint instead of asking for one at once
    #[arg(long)]
    pub spread_checkpoint: bool,
    /// Use the replication protocol even where the data directory can be read
    #[arg(long)]
    pub stream: bool,
}

/// What to restore.
#[derive(Debug, ClapArgs)]
pub struct Goal {
    /// latest, immediate, a time with its zone ("2026-11-22 14:05:00 UTC") or "10 minutes ago", an LSN (16/B374D848), xid:NUMBER or name:RESTORE_POINT
    ///
    /// xid:NUMBER is up to the end of that transaction, as pg_current_xact_id() named it; the log knows its low 32 bits only. All of the log
    /// behind a backup may have to be read to find it.
    ///
    /// "before xid:NUMBER" leaves that transaction out, "before TIME" what ended at that very microsecond. An LSN is a position between
    /// records: whatever ends by it is in.
    ///
    /// After bowline init --new-epoch a time before the upgrade brings back the cluster of that time, with its PostgreSQL's programs;
    /// latest and immediate are the present cluster's.
    #[arg(long, default_value = "latest", value_name = "TARGET", value_parser = target)]
    pub to: RecoveryTarget,
    /// Follow this timeline instead of the newest, in the epoch that the target or --backup chooses
    #[arg(long, value_name = "N")]
    pub timeline: Option<Timeline>,
    /// Begin from this backup instead of the best one
    #[arg(long, value_name = "ID")]
    pub backup: Option<BackupId>,
}

/// How much a plan reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlanDepth {
    /// The listing against the index; the manifest, histories, first, last and pieces in full
    Quick,
    /// Every chunk and every record
    Deep,
}

#[derive(Debug, ClapArgs)]
pub struct RestoreArgs {
    #[command(flatten)]
    pub goal: Goal,
    /// Restore here instead of the configured data_dir; the server then listens on a private socket only
    #[arg(long, value_name = "DIR")]
    pub target: Option<PathBuf>,
    /// Where a tablespace goes: OID=DIR (may be given several times)
    #[arg(long = "tablespace", value_name = "OID=DIR", value_parser = tablespace)]
    pub tablespaces: Vec<(u32, PathBuf)>,
    /// Restore the files and write the recovery settings, but start no server
    #[arg(long)]
    pub files_only: bool,
    /// Recover and promote, then leave the server stopped
    #[arg(long, conflicts_with = "files_only")]
    pub no_start: bool,
    /// When WAL or a backup on the way is damaged or missing: ask, stop-before, later-backup, nearest-backup or refuse
    ///
    /// Unless said otherwise a person is asked, and with nobody there the restore is refused. A way that loses nothing, such as an older
    /// backup and more WAL, is taken with each of the three that go on.
    #[arg(long, value_name = "WHAT")]
    pub on_damage: Option<restore::OnDamage>,
    /// Let a backup do that was complete only after the target
    #[arg(long)]
    pub allow_after: bool,
    /// Leave the service alone: run none of the commands of [service]
    #[arg(long)]
    pub no_service: bool,
    /// Leave the restored server without a WAL receiver and without a new backup: it is not protected then
    #[arg(long)]
    pub no_protect: bool,
    /// Leave the packages as they are; else they come back as of the same instant, where [packages] names a replica or snapshots
    #[arg(long)]
    pub no_packages: bool,
    /// Give up what the old pg_wal alone holds
    #[arg(long)]
    pub no_salvage: bool,
    /// What the recovered cluster is asked before anybody may use it
    #[arg(long, value_enum, default_value_t = ValidationMode::Questions, value_name = "HOW")]
    pub validate: ValidationMode,
    /// Go on with the restore of this target that broke off, whatever it was to restore to
    #[arg(long = "continue", conflicts_with_all = ["anew", "to", "timeline", "backup"])]
    pub go_on: bool,
    /// Give up the restore of this target that broke off, and begin anew; what is there is kept aside
    #[arg(long)]
    pub anew: bool,
    /// Overwrite what is there where it differs from the backup, instead of moving it aside: quicker, but it destroys the old copy
    ///
    /// The target must be this same cluster's, with its server stopped. Every chunk that is there is held against its digest; only those that
    /// differ are fetched. Interrupted, it leaves a directory that no server starts on; run again, it goes on where it ended.
    #[arg(long)]
    pub delta: bool,
    /// Print what would be done and touch nothing; deep reads and opens every byte of it first
    #[arg(long, value_enum, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "quick")]
    pub plan: Option<PlanDepth>,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Threads that open and write; all cores unless said otherwise
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub jobs: Option<u16>,
}

#[derive(Debug, ClapArgs)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub goal: Goal,
    /// Restore below this directory instead of the configured one ([drill] dir) or /var/tmp
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Hold a drill of each backup, oldest first, each with a report; the worst verdict counts
    ///
    /// Each is brought to --to: with "immediate" a backup is proved by itself, with "latest" so is all WAL since, each time again.
    #[arg(long, conflicts_with = "backup")]
    pub all: bool,
    /// Do not keep the report in the repository
    #[arg(long)]
    pub no_record: bool,
    /// Threads that open and write; all cores unless said otherwise
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub jobs: Option<u16>,
}

/// How a runbook is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RunbookForm {
    Markdown,
    Html,
}

#[derive(Debug, ClapArgs)]
pub struct RunbookArgs {
    /// How it is printed
    #[arg(long, value_enum, default_value_t = RunbookForm::Markdown)]
    pub form: RunbookForm,
    /// Write runbook.md and runbook.html into this folder instead of printing
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Keep both forms in the repository, too
    #[arg(long)]
    pub keep: bool,
    /// The form of the documentation, with made-up names
    #[arg(long, conflicts_with = "keep")]
    pub generic: bool,
}

#[derive(Debug, Subcommand)]
pub enum WalVerb {
    /// Stream WAL into the repository until stopped
    Receive(ReceiveArgs),
    /// Store one WAL file: archive_command = 'bowline wal push %p'
    ///
    /// Ends with 0 when this file is durable in the repository, or was there with the same bytes; with 1 to 125 otherwise, so that the
    /// server counts the failure and asks again. Meanwhile what else waits in pg_wal/archive_status is stored by a process beside it.
    Push(PushArgs),
    /// Fetch one WAL file: restore_command = 'bowline wal fetch %f %p'
    ///
    /// Ends with 0 when the file was delivered; with 1 when it is proven absent, which ends recovery; with 200 when anything failed, which
    /// stops a server that recovers. On a standby (standby.signal) failures are 1, too: it asks again, and streams meanwhile.
    Fetch(FetchArgs),
    /// Prove that the stored WAL is whole from the oldest backup on, and say what each gap makes unreachable
    Audit(AuditArgs),
}

/// What to do with data keys. Nothing of this reads or writes again what they seal.
#[derive(Debug, Subcommand)]
pub enum KeysVerb {
    /// Show every data key and whom it opens for; needs no key
    List,
    /// Wrap every data key for one more recipient
    ///
    /// Name it in [encryption] recipients as well, or the data keys of later backups are not wrapped for it.
    Add(KeysAddArgs),
    /// Take every data key away from one recipient
    ///
    /// Refused when nobody who is left can prove that the keys open. Who has read a data key knows it for ever: what was sealed with it stays
    /// readable to whoever kept a copy of both.
    Remove(KeysRemoveArgs),
    /// Begin a new data key for the WAL from here on
    ///
    /// What is stored stays under the former key, which is kept. Each backup has a key of its own anyway, and the key of the digests stays,
    /// because chunks are compared by it. A receiver that runs goes on with the former key until it is started again.
    Rotate(KeysSureArgs),
    /// Wrap every data key anew, for just the recipients of the configuration: after the KMS key was rotated or replaced
    ///
    /// Every new slot is opened as a proof before an old one goes. No data is stored again.
    Rewrap(KeysRewrapArgs),
    /// Hand out data keys, sealed for somebody's age key
    ///
    /// Whoever has a data key reads what it seals, without any recipient: docs/format/read.py takes them with --data-keys.
    Export(KeysExportArgs),
}

/// What to do with the application's bucket.
#[derive(Debug, Subcommand)]
pub enum PackagesVerb {
    /// Set native replication up: versions on both buckets, and the rule that copies the primary to the replica
    ///
    /// Says first what it will do, and asks. Whatever rule somebody else made is shown and left alone.
    Enable(PackagesSureArgs),
    /// How far the replica, or the newest snapshot, is behind the primary
    ///
    /// Lists both sides once. Exit code 4 says that the copy is further behind than [alerts] replication_lag, an hour unless said otherwise.
    Status(PackagesStatusArgs),
    /// Keep all objects as they are now in a repository; what did not change since the last snapshot costs nothing
    Snapshot,
    /// Bring the objects back as they were at a time, from the replica or from snapshots
    ///
    /// Shows first what is to be done. What is right already is left alone, what is in the way stays as a version (in a folder it is moved
    /// aside), and a second run goes on where one broke off.
    Restore(PackagesRestoreArgs),
}

#[derive(Debug, ClapArgs)]
pub struct PackagesStatusArgs {
    /// Write the objects again whose replication the store gave up
    #[arg(long)]
    pub requeue: bool,
}

#[derive(Debug, ClapArgs)]
pub struct PackagesRestoreArgs {
    /// A time with its zone ("2026-11-22 14:05:00 UTC") or "10 minutes ago"
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub to: Timestamp,
    /// Restore into this bucket or folder instead of the primary; reached with the primary's credentials
    #[arg(long, value_name = "URL")]
    pub into: Option<String>,
    /// Hide what came after that time: by delete markers, in a folder by moving it aside
    #[arg(long)]
    pub hide_newer: bool,
    /// Objects at once; 16 unless said otherwise
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub jobs: Option<u16>,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub plan: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Debug, ClapArgs)]
pub struct PackagesSureArgs {
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub plan: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// What to do about alerts.
#[derive(Debug, Subcommand)]
pub enum AlertVerb {
    /// Send a marked test over every channel, and say which of them took it
    ///
    /// Fails when one of them did not. An incident that it opens (PagerDuty) it closes again.
    Test {
        /// Over this channel only
        #[arg(long, value_name = "NAME")]
        channel: Option<String>,
    },
    /// Show what fires, what is silenced and how each channel fares
    List {
        /// What is over, silences that are over, and the latest deliveries, too
        #[arg(long)]
        all: bool,
    },
    /// Tell nobody of an alert for a while; what still fires then is told then
    Silence(SilenceArgs),
    /// End a silence before its time
    Unsilence {
        /// The silence's name, as `alert list` shows it
        id: String,
    },
}

#[derive(Debug, ClapArgs)]
pub struct SilenceArgs {
    /// The rule, such as wal-lag, alone or with one of its subjects; * stands for any letters
    #[arg(value_name = "RULE[:SUBJECT]", value_parser = silenced)]
    pub what: Silenced,
    /// For how long, such as 30m, 2h or 1d; 30 days at most
    #[arg(long = "for", value_name = "TIME", value_parser = while_silent)]
    pub time: std::time::Duration,
    /// Why, for whoever wonders
    #[arg(long, value_name = "TEXT")]
    pub why: String,
}

/// Which alerts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silenced {
    pub rule: String,
    pub subject: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct KeysSureArgs {
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub plan: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Debug, ClapArgs)]
pub struct KeysAddArgs {
    /// file:/PATH, aws-kms:KEY, vault-transit:KEY or age:age1…
    pub recipient: keys::Spec,
    /// Make the key file first
    #[arg(long)]
    pub new: bool,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub plan: bool,
}

#[derive(Debug, ClapArgs)]
pub struct KeysRemoveArgs {
    /// The name that `keys list` shows, or the key file as file:/PATH
    pub recipient: String,
    #[command(flatten)]
    pub sure: KeysSureArgs,
}

#[derive(Debug, ClapArgs)]
pub struct KeysRewrapArgs {
    /// A recipient that opens what is there and is not in the configuration any more (may be given several times)
    #[arg(long, value_name = "RECIPIENT")]
    pub open_with: Vec<keys::Spec>,
    #[command(flatten)]
    pub sure: KeysSureArgs,
}

#[derive(Debug, ClapArgs)]
pub struct KeysExportArgs {
    /// The data key's id, as `keys list` shows it
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "KEY")]
    pub data_key: Option<seal::KeyId>,
    /// Every data key
    #[arg(long)]
    pub all: bool,
    /// Seal it for this public key of age (age1…)
    #[arg(long, value_name = "AGE", required_unless_present = "dangerously_plain", conflicts_with = "dangerously_plain")]
    pub to: Option<String>,
    /// Print the keys as they are: whoever sees them reads the backups
    #[arg(long)]
    pub dangerously_plain: bool,
    /// Write it to this new file instead of printing it
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct RunsArgs {
    /// Show this run with its log
    pub run: Option<String>,
    /// Of this job only
    #[arg(long, value_name = "JOB", conflicts_with = "run")]
    pub job: Option<String>,
    /// So many at most
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub last: usize,
}

#[derive(Debug, ClapArgs)]
pub struct AuditArgs {
    /// Read every segment and index it anew
    #[arg(long, conflicts_with = "no_read")]
    pub rebuild: bool,
    /// Do not read segments that are not indexed; what they hold is then not proven, and the exit code is 1
    #[arg(long)]
    pub no_read: bool,
}

#[derive(Debug, ClapArgs)]
pub struct ReceiveArgs {
    /// The replication slot, instead of the configured one
    #[arg(long, value_name = "NAME")]
    pub slot: Option<String>,
    /// Follow this server although WAL is stored of a newer timeline, or of one that it never was on: after a promoted copy was only tried out
    #[arg(long)]
    pub accept_older_timeline: bool,
}

#[derive(Debug, ClapArgs)]
pub struct PushArgs {
    /// The file, under its name in pg_wal (%p)
    pub path: PathBuf,
    /// Store what waits behind PATH
    #[arg(long, hide = true)]
    pub ahead: bool,
}

#[derive(Debug, ClapArgs)]
pub struct FetchArgs {
    /// The file's name (%f)
    pub name: String,
    /// Where to put it (%p)
    pub path: PathBuf,
    /// Ask the restore that runs behind this socket
    #[arg(long, hide = true)]
    pub supply: Option<PathBuf>,
    /// Fill the spool with what follows NAME
    #[arg(long, hide = true)]
    pub ahead: bool,
}

impl Goal {
    /// As the planner takes it.
    pub fn wish(&self) -> Wish {
        Wish { target: self.to.clone(), timeline: self.timeline, backup: self.backup }
    }
}

/// A time, or a distance before now.
fn parse_time(text: &str) -> Result<Timestamp, ParseError> {
    Timestamp::parse_at(text, SystemClock.now())
}

fn silenced(text: &str) -> Result<Silenced, String> {
    let (rule, subject) = text.split_once(':').map_or((text, None), |(rule, subject)| (rule, Some(subject.to_owned())));
    match rule.is_empty() || rule.chars().any(char::is_whitespace) {
        true => Err("it is written RULE or RULE:SUBJECT, such as wal-lag or job-failed:backup".into()),
        false => Ok(Silenced { rule: rule.to_owned(), subject }),
    }
}

/// A span that ends: what is forgotten must not be silent for ever.
fn while_silent(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || "it is a time such as 30m, 2h or 1d, 30 days at most".to_owned();
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    if span.get_years() != 0 || span.get_months() != 0 {
        return Err(wrong());
    }
    let time = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    std::time::Duration::try_from(time).ok().filter(|time| !time.is_zero() && *time <= repo::Silence::LONGEST).ok_or_else(wrong)
}

fn target(text: &str) -> Result<RecoveryTarget, ParseError> {
    RecoveryTarget::parse_at(text, SystemClock.now())
}

fn tablespace(text: &str) -> Result<(u32, PathBuf), String> {
    let wrong = || format!("{text:?} is not OID=DIR, such as 16400=/srv/fast");
    let (oid, place) = text.split_once('=').ok_or_else(wrong)?;
    let place = PathBuf::from(place);
    match oid.parse() {
        Ok(oid) if place.is_absolute() => Ok((oid, place)),
        _ => Err(wrong()),
    }
}
