//! The configuration file: its keys, their defaults, and what is wrong with one.

mod access;
mod alerts;
mod complaint;
mod kept;
mod packages;

pub use access::options_with;
pub use alerts::Alerts;

use crate::args::Common;
use crate::fault::Fault;
use bytesize::ByteSize;
use checks::Expectation;
use seal::Compression;
use serde::{Deserialize, Deserializer};
use std::path::{Path, PathBuf};
use std::time::Duration;
use store::LockMode;
use terms::{Schedule, Secret, Zone};

pub use packages::{Packages, Site};

/// Where the configuration is looked for when nobody says.
pub const DEFAULT_PLACE: &str = "/etc/bowline/bowline.toml";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The organization, a folder of the repository.
    pub org: String,
    #[serde(default)]
    pub postgres: Postgres,
    pub repository: Repository,
    #[serde(default)]
    pub encryption: Encryption,
    #[serde(default)]
    pub backup: Backup,
    #[serde(default)]
    pub wal: Wal,
    #[serde(default)]
    pub retention: Retention,
    #[serde(default)]
    pub drill: Drill,
    #[serde(default)]
    pub scrub: Scrub,
    #[serde(default)]
    pub service: Service,
    #[serde(default)]
    pub objectives: Objectives,
    #[serde(default)]
    pub runbook: Runbook,
    pub packages: Option<Packages>,
    #[serde(default)]
    pub alerts: Alerts,
    #[serde(default)]
    pub daemon: Daemon,
    #[serde(default)]
    pub page: Page,
    /// Where it was read from.
    #[serde(skip)]
    pub path: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Postgres {
    /// libpq's connection string or URI; `PG…` variables, `passfile` and `~/.pgpass` count.
    ///
    /// Default: none; needed except to restore.
    pub conninfo: Option<String>,
    /// Where the cluster is; left out, backups go over the replication protocol.
    ///
    /// Default: none.
    #[serde(deserialize_with = "directory")]
    pub data_dir: Option<PathBuf>,
    /// Where PostgreSQL's programs are.
    ///
    /// Default: found.
    pub bin_dir: Option<PathBuf>,
    /// How whoever supervises the server stops it; without, a restore asks systemd where it runs the server, else does it itself.
    ///
    /// Default: none.
    pub stop: Option<String>,
    /// How it is started again.
    ///
    /// Default: none.
    pub start: Option<String>,
}

/// What uses the database, as a restore stops and starts it: commands for a shell.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    /// A shell command that stops what uses the database, before a restore in place.
    ///
    /// Default: none.
    pub stop: Option<String>,
    /// One that starts it again.
    ///
    /// Default: none.
    pub start: Option<String>,
    /// One that ends with 0 when the service is well.
    ///
    /// Default: none.
    pub health: Option<String>,
    /// How long each of these may take, and how long the service may take to be well.
    ///
    /// Default: `5m`.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
}

/// What reports are held against.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Objectives {
    /// How many of the last seconds may be lost; reports and `status` are held against it.
    ///
    /// Default: `1h`.
    #[serde(deserialize_with = "duration")]
    pub rpo: Option<Duration>,
    /// How long the service may be away; `status` is red when a restore would take longer.
    ///
    /// Default: `4h`.
    #[serde(deserialize_with = "duration")]
    pub rto: Option<Duration>,
    /// How long a backup may take before somebody is told.
    ///
    /// Default: `1h`.
    #[serde(deserialize_with = "duration")]
    pub backup_window: Option<Duration>,
}

impl Objectives {
    pub fn rpo(&self) -> Duration {
        self.rpo.unwrap_or(Duration::from_secs(3600))
    }
    pub fn rto(&self) -> Duration {
        self.rto.unwrap_or(Duration::from_secs(4 * 3600))
    }
    pub fn backup_window(&self) -> Duration {
        self.backup_window.unwrap_or(Duration::from_secs(3600))
    }
}

/// The daemon's page, its metrics and its health.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Page {
    /// An address and a port for the page and the metrics; `off` for none. Beyond this host it needs the rest.
    ///
    /// Default: `127.0.0.1:9187`.
    pub listen: Option<String>,
    /// What a visitor must know.
    ///
    /// Default: none.
    pub token: Option<SecretRef>,
    /// A PEM file: the certificate with its chain.
    ///
    /// Default: none.
    pub tls_cert: Option<PathBuf>,
    /// A PEM file: its key.
    ///
    /// Default: none.
    pub tls_key: Option<PathBuf>,
}

/// What the daemon does, and when.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Daemon {
    /// Whose wall clock all schedules mean.
    ///
    /// Default: `UTC`.
    #[serde(deserialize_with = "zone")]
    pub timezone: Option<Zone>,
    /// Whether the daemon receives WAL.
    ///
    /// Default: `true`.
    pub receive: Option<bool>,
    /// Whether the daemon holds drills. If not, a timer or a CronJob must, at `drill.schedule`, which says when one is missed; room for them is not watched then.
    ///
    /// Default: `true`.
    pub drill: Option<bool>,
    /// Whether the daemon expires. If not, another host must, with a credential that may remove, at least each day.
    ///
    /// Default: `true`.
    pub expire: Option<bool>,
    /// How often everything is looked at.
    ///
    /// Default: `10s`.
    #[serde(deserialize_with = "duration")]
    pub watch_interval: Option<Duration>,
    /// How long a daemon may be silent before another one acts.
    ///
    /// Default: `20s`.
    #[serde(deserialize_with = "duration")]
    pub lease_ttl: Option<Duration>,
    /// When the stored WAL is audited.
    ///
    /// Default: `17 * * * *`.
    pub audit: Option<String>,
    /// When every prerequisite is looked at.
    ///
    /// Default: `*/15 * * * *`.
    pub check: Option<String>,
    /// How long a job may take before it is ended.
    ///
    /// Default: `24h`.
    #[serde(deserialize_with = "duration")]
    pub job_limit: Option<Duration>,
}

impl Daemon {
    pub fn receives(&self) -> bool {
        self.receive.unwrap_or(true)
    }
    pub fn holds_drills(&self) -> bool {
        self.drill.unwrap_or(true)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runbook {
    /// Who is called, and how; a line each.
    ///
    /// Default: none.
    pub contacts: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// `file:///folder`, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.
    pub url: String,
    /// The bucket's region.
    ///
    /// Default: the usual one of AWS.
    pub region: Option<String>,
    /// The address of another S3 server than AWS.
    ///
    /// Default: AWS.
    pub endpoint: Option<String>,
    /// Whether the bucket is a part of the path rather than of the host's name.
    ///
    /// Default: as the endpoint needs it.
    pub path_style: Option<bool>,
    /// A PEM file of the authority that signed the server's certificate.
    ///
    /// Default: the system's.
    pub ca_file: Option<PathBuf>,
    /// The key's id.
    ///
    /// Default: the environment's.
    pub access_key_id: Option<SecretRef>,
    /// The key.
    ///
    /// Default: the environment's.
    pub secret_access_key: Option<SecretRef>,
    /// The token of a key that ends.
    ///
    /// Default: the environment's.
    pub session_token: Option<SecretRef>,
    /// A profile of the AWS configuration files.
    ///
    /// Default: none.
    pub profile: Option<String>,
    /// What is sent with each upload: `crc64nvme`, `sha256`, `md5` or `none`.
    ///
    /// Default: `crc64nvme` for AWS, `none` for others.
    pub checksum: Option<String>,
    /// Locks each new object in the bucket for `object_lock_days`.
    ///
    /// Default: none.
    #[serde(deserialize_with = "lock_mode")]
    #[serde(default)]
    pub object_lock: Option<LockMode>,
    /// For how many days.
    ///
    /// Default: none; needed with `object_lock`.
    pub object_lock_days: Option<u32>,
    /// A second copy of this repository, elsewhere, which a replication of the bucket keeps.
    ///
    /// Default: none.
    pub replica: Option<String>,
    /// As whom AWS copies to it, by its ARN; for `init --bucket`.
    ///
    /// Default: none.
    pub replication_role: Option<String>,
    /// With which KMS key the store encrypts there.
    ///
    /// Default: none.
    pub replica_kms_key_id: Option<String>,
    /// Where the copy goes, where that is not the bucket's own ARN: MinIO's remote target.
    ///
    /// Default: none.
    pub replication_target: Option<String>,
    /// Whether the store itself must encrypt: `required` writes nothing to a store that does not, `preferred` only warns.
    ///
    /// Default: `required` with `sse_kms_key_id`, else `off`.
    pub sse: Option<SseKey>,
    /// The KMS key with which the store itself is to encrypt.
    ///
    /// Default: none.
    pub sse_kms_key_id: Option<String>,
    /// How many bytes it may take, all versions included.
    ///
    /// Default: a folder's disk.
    pub capacity: Option<ByteSize>,
    /// The share of it at which somebody is told.
    ///
    /// Default: `80%`.
    #[serde(deserialize_with = "share")]
    #[serde(default)]
    pub capacity_warning: Option<f64>,
    /// The share of it at which that is critical.
    ///
    /// Default: `88%`.
    #[serde(deserialize_with = "share")]
    #[serde(default)]
    pub capacity_critical: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SseKey {
    Required,
    Preferred,
    Off,
}

impl Repository {
    /// How the store is to encrypt.
    pub fn sse(&self) -> store::Sse {
        match (self.sse, &self.sse_kms_key_id) {
            (Some(SseKey::Required), _) | (None, Some(_)) => store::Sse::Required,
            (Some(SseKey::Preferred), _) => store::Sse::Preferred,
            (Some(SseKey::Off), _) | (None, None) => store::Sse::Off,
        }
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EncryptionMode {
    #[default]
    On,
    Off,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Encryption {
    /// Whether a new repository is encrypted.
    ///
    /// Default: `on`.
    pub mode: EncryptionMode,
    /// Any one of them opens the repository: `file:/absolute/path`, `aws-kms:KEY`, `vault-transit:KEY`, `age:age1…`.
    ///
    /// Default: none; one is needed.
    pub recipients: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Backup {
    /// When the daemon makes a full backup.
    ///
    /// Default: `0 2 * * *`.
    pub schedule: Option<String>,
    /// How chunks are compressed; levels from -7 to 19.
    ///
    /// Default: `zstd:1`.
    #[serde(deserialize_with = "compression")]
    pub compression: Option<Compression>,
    /// Threads that compress and seal.
    ///
    /// Default: all cores.
    pub jobs: Option<u16>,
    /// Bytes of the database read a second, at most.
    ///
    /// Default: none.
    pub max_rate: Option<ByteSize>,
    /// What a damaged page does to a backup; `off` does not look.
    ///
    /// Default: `fail`.
    pub checksums: Option<ChecksumsKey>,
    /// Whether to wait for a spread checkpoint instead of asking for one at once.
    ///
    /// Default: `false`.
    pub spread_checkpoint: bool,
    /// How long a backup waits for its WAL.
    ///
    /// Default: `10m`.
    #[serde(deserialize_with = "duration")]
    pub wal_timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChecksumsKey {
    Fail,
    Warn,
    Off,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wal {
    /// The replication slot.
    ///
    /// Default: `bowline`.
    pub slot: String,
    /// As that of backups.
    ///
    /// Default: `zstd:1`.
    #[serde(deserialize_with = "compression")]
    pub compression: Option<Compression>,
    /// How often the receiver tells the server how far it is.
    ///
    /// Default: `5s`.
    #[serde(deserialize_with = "duration")]
    pub status_interval: Option<Duration>,
    /// How long new bytes of a segment that is not full may wait before they are stored, from `200ms` on: what is lost with the host.
    ///
    /// Default: `5s`.
    #[serde(deserialize_with = "duration")]
    pub flush_interval: Option<Duration>,
    /// Bowline is a synchronous standby: a commit that is acknowledged is in the repository. The server must name it in `synchronous_standby_names`.
    ///
    /// Default: `false`.
    pub synchronous: bool,
    /// How often it is written down up to when everything is stored.
    ///
    /// Default: `60s`.
    #[serde(deserialize_with = "duration")]
    pub coverage_interval: Option<Duration>,
    /// How long a server that shuts down is kept waiting for the store.
    ///
    /// Default: `10s`.
    #[serde(deserialize_with = "duration")]
    pub shutdown_grace: Option<Duration>,
    /// How long a receiver may be silent before another one takes over.
    ///
    /// Default: `3m`.
    #[serde(deserialize_with = "duration")]
    pub lease_ttl: Option<Duration>,
    /// How the supervised receiver is started after a restore, such as `systemctl start bowline`; without, a restore starts one itself.
    ///
    /// Default: none.
    pub start: Option<String>,
    /// Where `wal fetch` puts segments that it fetches ahead, and `wal push` its notes.
    ///
    /// Default: beside the data directory.
    pub spool: Option<PathBuf>,
    /// Segments that `wal push` stores ahead at once; 0 switches looking ahead off.
    ///
    /// Default: `4`.
    pub push_jobs: u16,
    /// Segments that `wal fetch` fetches ahead at once; 0 switches fetching ahead off.
    ///
    /// Default: `4`.
    pub fetch_jobs: u16,
}

impl Default for Wal {
    fn default() -> Self {
        Self {
            slot: "bowline".into(),
            compression: None,
            status_interval: None,
            flush_interval: None,
            synchronous: false,
            coverage_interval: None,
            shutdown_grace: None,
            lease_ttl: None,
            start: None,
            spool: None,
            push_jobs: 4,
            fetch_jobs: 4,
        }
    }
}

/// What is kept (see docs/retention.md); 30 dailies, 12 monthlies and the 7 newest unless said otherwise.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Of how many of the most recent days that have a backup the newest stays.
    ///
    /// Default: `30`.
    pub daily: Option<usize>,
    /// Of how many of the most recent months the first stays.
    ///
    /// Default: `12`.
    pub monthly: Option<usize>,
    /// How many of the newest stay in any case.
    ///
    /// Default: `7`.
    pub minimum: Option<usize>,
    /// Whose days and months count.
    ///
    /// Default: `UTC`.
    #[serde(deserialize_with = "zone")]
    pub timezone: Option<Zone>,
    /// How long the objects of what was unlisted stay.
    ///
    /// Default: `24h`.
    #[serde(deserialize_with = "duration")]
    pub grace: Option<Duration>,
}

/// How stored objects are read again.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scrub {
    /// Bytes of backups and WAL that one run reads at most.
    ///
    /// Default: `20GB`.
    pub daily_budget: Option<ByteSize>,
    /// When the daemon scrubs.
    ///
    /// Default: `0 5 * * *`.
    pub schedule: Option<String>,
}

impl Scrub {
    pub fn budget(&self) -> u64 {
        self.daily_budget.map_or(20_000_000_000, |size| size.as_u64())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drill {
    /// When the daemon holds a drill.
    ///
    /// Default: `0 4 * * 0`.
    pub schedule: Option<String>,
    /// Below this directory `bowline verify` restores.
    ///
    /// Default: `/var/tmp`.
    pub dir: Option<PathBuf>,
    /// As whom the restored server runs, when root holds the drill: a user to whom production's files are closed.
    ///
    /// Default: the data directory's owner.
    pub user: Option<String>,
    /// By how much a table may have shrunk against the last drill and production's estimate.
    ///
    /// Default: `10%`.
    #[serde(deserialize_with = "share")]
    pub tolerance: Option<f64>,
    /// Questions to a restored server and what the answers must be.
    ///
    /// Default: none.
    pub checks: Vec<DrillCheck>,
}

/// A question that a restored server is asked: one value, and what it must be.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillCheck {
    /// A query of one value.
    pub sql: String,
    /// What it must be, such as `>= 1000`, `= ok` or `matches ^v[0-9]+$`.
    #[serde(deserialize_with = "expectation")]
    pub expect: Expectation,
    /// The database to ask.
    ///
    /// Default: that of `postgres.conninfo`.
    pub database: Option<String>,
}

/// A secret is never written into the file itself: `env:NAME` or `file:PATH`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub enum SecretRef {
    Env(String),
    File(PathBuf),
}

impl TryFrom<String> for SecretRef {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            // The text may be the secret: it must not be repeated.
            _ => Err("a secret is given as env:NAME or file:PATH, never as itself".into()),
        }
    }
}

impl SecretRef {
    /// Looks the secret up.
    pub fn resolve(&self, key: &str) -> Result<Secret, Fault> {
        let missing = |place: String, why: String| {
            Fault::misuse("secret-missing", format!("cannot read {key} from {place}"), why, "Set it, or let the configuration name another place.")
        };
        match self {
            Self::Env(name) => std::env::var(name).map(Secret::new).map_err(|e| missing(format!("the environment variable {name}"), format!("{e}."))),
            Self::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(Secret::new(text.trim_end_matches(['\n', '\r']).to_owned())),
                Err(e) => Err(missing(path.display().to_string(), format!("{e}."))),
            },
        }
    }
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let span: Option<jiff::SignedDuration> = Option::deserialize(from)?;
    span.map(Duration::try_from).transpose().map_err(|_| serde::de::Error::custom("a duration is positive, such as 30s, 5m or 1h"))
}

/// Without a slash at its end: names beside it are made by adding to it.
fn directory<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    Ok(Option::<PathBuf>::deserialize(from)?.map(|path| path.components().collect()))
}

fn expectation<'de, D: Deserializer<'de>>(from: D) -> Result<Expectation, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

/// `10%` as 0.1.
fn share<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
    let percent = text.strip_suffix('%').and_then(|number| number.trim().parse().ok()).filter(|percent: &f64| (0.0..=100.0).contains(percent));
    percent.map(|percent| Some(percent / 100.0)).ok_or_else(|| serde::de::Error::custom("a share is written as \"10%\", from 0% to 100%"))
}

fn zone<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Zone>, D::Error> {
    Option::<String>::deserialize(from)?.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

fn lock_mode<'de, D: Deserializer<'de>>(from: D) -> Result<Option<LockMode>, D::Error> {
    Option::<String>::deserialize(from)?.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

fn compression<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Compression>, D::Error> {
    Option::<String>::deserialize(from)?.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

impl Config {
    /// Reads the file that `--config`, `$BOWLINE_CONFIG` or the usual place names. With `--repository` and `--org` a bare
    /// machine needs none.
    pub fn load(common: &Common) -> Result<Self, Fault> {
        let place = common.config.clone().unwrap_or_else(|| DEFAULT_PLACE.into());
        let mut config = match std::fs::read_to_string(&place) {
            Ok(text) => Self::parse(&text, &place)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && common.config.is_none() => Self::bare(common)?,
            Err(e) => {
                return Err(Fault::misuse(
                    "config-unreadable",
                    format!("cannot read the configuration {}", place.display()),
                    format!("{e}."),
                    "Name it with --config or $BOWLINE_CONFIG.",
                ));
            }
        };
        if let Some(url) = &common.repository {
            config.repository.url.clone_from(url);
        }
        if let Some(org) = &common.org {
            config.org.clone_from(org);
        }
        config.check()?;
        Ok(config)
    }

    fn bare(common: &Common) -> Result<Self, Fault> {
        let (Some(url), Some(org)) = (&common.repository, &common.org) else {
            return Err(Fault::misuse(
                "config-missing",
                format!("there is no configuration {DEFAULT_PLACE}"),
                "",
                "Write one (see the README), name one with --config or $BOWLINE_CONFIG, or give --repository URL --org NAME --key FILE.",
            ));
        };
        let text = format!("org = {}\n[repository]\nurl = {}\n", toml::Value::String(org.clone()), toml::Value::String(url.clone()));
        Self::parse(&text, Path::new("the command line"))
    }

    /// What the text says; [`Config::check`] is still to come.
    pub fn parse(text: &str, place: &Path) -> Result<Self, Fault> {
        let mut config: Self = toml::from_str(text).map_err(|e| {
            let (detail, hint) = complaint::of(text, &e);
            Fault::misuse("config-wrong", format!("the configuration {} is wrong", place.display()), detail, hint)
        })?;
        config.path = place.is_absolute().then(|| place.to_owned()).or_else(|| std::fs::canonicalize(place).ok());
        Ok(config)
    }

    /// Each schedule: its key, what is configured, and what else it is.
    fn schedules(&self) -> [(&'static str, Option<&str>, &'static str); 5] {
        [
            ("backup.schedule", self.backup.schedule.as_deref(), "0 2 * * *"),
            ("drill.schedule", self.drill.schedule.as_deref(), "0 4 * * 0"),
            ("scrub.schedule", self.scrub.schedule.as_deref(), "0 5 * * *"),
            ("daemon.audit", self.daemon.audit.as_deref(), "17 * * * *"),
            ("daemon.check", self.daemon.check.as_deref(), "*/15 * * * *"),
        ]
    }

    /// The schedule of this key.
    pub fn schedule(&self, key: &str) -> Result<Schedule, Fault> {
        let found = self.schedules().into_iter().find(|(name, ..)| *name == key);
        let (_, text, usual) = found.ok_or_else(|| Fault::of("bug", terms::Class::Bug, format!("there is no schedule {key}"), "", ""))?;
        let zone = self.daemon.timezone.clone().unwrap_or_default();
        Schedule::parse(text.unwrap_or(usual), zone).map_err(|e| Fault::misuse("config-wrong", format!("{key} is no schedule"), format!("{e}."), ""))
    }

    /// What no single key shows.
    pub fn check(&self) -> Result<(), Fault> {
        let plain = |text: &str| !text.is_empty() && !text.starts_with('.') && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !plain(&self.org) {
            let hint = "Use letters, digits, dots, dashes and underscores: it becomes a folder of the repository.";
            return Err(Fault::misuse("config-wrong", format!("{:?} is not a name for an organization", self.org), "", hint));
        }
        if self.wal.flush_interval.is_some_and(|pause| pause < Duration::from_millis(200)) {
            let hint = "For no loss at all set wal.synchronous = true.";
            return Err(Fault::misuse("config-wrong", "wal.flush_interval is below 200ms", "", hint));
        }
        self.alerts.check()?;
        for (key, text, usual) in self.schedules() {
            if let Err(e) = Schedule::parse(text.unwrap_or(usual), self.daemon.timezone.clone().unwrap_or_default()) {
                return Err(Fault::misuse(
                    "config-wrong",
                    format!("{key} is no schedule"),
                    format!("{e}."),
                    "Five fields: minute, hour, day of month, month, day of week.",
                ));
            }
        }
        let repository = &self.repository;
        if repository.capacity_warning.unwrap_or(0.8) > repository.capacity_critical.unwrap_or(0.88) {
            return Err(Fault::misuse(
                "config-wrong",
                "repository.capacity_warning is above capacity_critical",
                "",
                "Warn before it is critical, such as at \"80%\" and \"88%\".",
            ));
        }
        let Repository { url, object_lock, object_lock_days, .. } = &self.repository;
        let wrong = match (object_lock, object_lock_days) {
            (None, None) => None,
            (Some(_), Some(1..)) if url.starts_with("s3:") => None,
            (Some(_), Some(1..)) => Some("repository.object_lock is set, and the repository is no S3 bucket"),
            _ => Some("repository.object_lock and object_lock_days belong together, and a day is the least"),
        };
        match wrong {
            Some(wrong) => {
                Err(Fault::misuse("config-wrong", wrong, "", "Set object_lock = \"governance\" or \"compliance\", and object_lock_days = 35."))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Fault> {
        Config::parse(text, Path::new("/t.toml"))
    }

    #[test]
    fn a_small_configuration_has_sound_defaults() {
        let config = parse("org = \"acme\"\n[repository]\nurl = \"file:///srv/backups\"\n").unwrap();
        assert_eq!((config.wal.slot.as_str(), config.wal.synchronous), ("bowline", false));
        assert_eq!(config.encryption.mode, EncryptionMode::On);
    }

    #[test]
    fn a_data_directory_ends_without_a_slash() {
        let config = parse("org = \"a\"\n[repository]\nurl = \"file:///x\"\n[postgres]\ndata_dir = \"/srv//pg/main/\"\n").unwrap();
        assert_eq!(config.postgres.data_dir.unwrap().as_os_str(), "/srv/pg/main");
    }

    #[test]
    fn a_key_that_does_not_exist_is_refused_by_name_and_line() {
        let fault = parse("org = \"a\"\n[repository]\nurl = \"file:///x\"\n[backup]\nshedule = \"0 2 * * *\"\n").unwrap_err();
        assert!(fault.0.detail.contains("shedule") && fault.0.detail.contains("line 5"), "{}", fault.0.detail);
    }

    #[test]
    fn a_secret_in_the_file_is_refused_and_not_repeated() {
        let fault = parse("org = \"a\"\n[repository]\nurl = \"s3://b\"\nsecret_access_key = \"hunter2hunter2\"\n").unwrap_err();
        assert!(fault.0.detail.contains("never as itself"), "{}", fault.0.detail);
        assert!(!fault.0.detail.contains("hunter2"), "{}", fault.0.detail);
    }
}
