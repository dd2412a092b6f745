//! The configuration file: its keys, their defaults, and what is wrong with one.

mod alerts;
mod packages;

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
    pub conninfo: Option<String>,
    pub data_dir: Option<PathBuf>,
    pub bin_dir: Option<PathBuf>,
    /// How whoever supervises the server stops and starts it; without, a restore asks systemd where it runs the server, else does it itself.
    pub stop: Option<String>,
    pub start: Option<String>,
}

/// What uses the database, as a restore stops and starts it: commands for a shell.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    pub stop: Option<String>,
    pub start: Option<String>,
    /// Ends with 0 when the service is well.
    pub health: Option<String>,
    /// How long each of these may take, and how long the service may take to be well; 5 minutes unless said otherwise.
    #[serde(deserialize_with = "duration")]
    pub timeout: Option<Duration>,
}

/// What reports are held against.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Objectives {
    /// How many of the last seconds may be lost; 1 hour unless said otherwise.
    #[serde(deserialize_with = "duration")]
    pub rpo: Option<Duration>,
    /// How long the service may be away; 4 hours unless said otherwise.
    #[serde(deserialize_with = "duration")]
    pub rto: Option<Duration>,
    /// How long a backup may take; 1 hour unless said otherwise.
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
    /// An address and a port, 127.0.0.1:9187 unless said otherwise; `off` for none. Beyond this host it needs the rest.
    pub listen: Option<String>,
    pub token: Option<SecretRef>,
    /// PEM files: the certificate with its chain, and its key.
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
}

/// What the daemon does, and when.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Daemon {
    /// Whose wall clock all schedules mean; UTC unless said otherwise.
    #[serde(deserialize_with = "zone")]
    pub timezone: Option<Zone>,
    /// Whether it receives WAL; yes unless said otherwise.
    pub receive: Option<bool>,
    /// How often everything is looked at; 10 seconds unless said otherwise.
    #[serde(deserialize_with = "duration")]
    pub watch_interval: Option<Duration>,
    /// How long a daemon may be silent before another one acts; 20 seconds unless said otherwise.
    #[serde(deserialize_with = "duration")]
    pub lease_ttl: Option<Duration>,
    /// When the stored WAL is audited; each hour unless said otherwise.
    pub audit: Option<String>,
    /// When every prerequisite is looked at; each quarter of an hour unless said otherwise.
    pub check: Option<String>,
    /// How long a job may take before it is ended; a day unless said otherwise.
    #[serde(deserialize_with = "duration")]
    pub job_limit: Option<Duration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runbook {
    /// Who is called, and how; a line each.
    pub contacts: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    pub url: String,
    pub region: Option<String>,
    pub endpoint: Option<String>,
    pub path_style: Option<bool>,
    pub ca_file: Option<PathBuf>,
    pub access_key_id: Option<SecretRef>,
    pub secret_access_key: Option<SecretRef>,
    pub session_token: Option<SecretRef>,
    pub profile: Option<String>,
    pub checksum: Option<String>,
    /// Locks each new object in the bucket, `governance` or `compliance`, for so many days.
    #[serde(deserialize_with = "lock_mode")]
    #[serde(default)]
    pub object_lock: Option<LockMode>,
    pub object_lock_days: Option<u32>,
    /// A second copy of this repository, elsewhere, which a replication of the bucket keeps.
    pub replica: Option<String>,
    /// As whom the store copies to it, by its ARN, and with which KMS key it encrypts there; for `init --bucket`.
    pub replication_role: Option<String>,
    pub replica_kms_key_id: Option<String>,
    /// Where the copy goes, where that is not the bucket's own ARN: MinIO's remote target.
    pub replication_target: Option<String>,
    /// Whether the store itself must encrypt; required where a key is named, unless said otherwise.
    pub sse: Option<SseKey>,
    pub sse_kms_key_id: Option<String>,
    /// How many bytes it may take, all versions included; of a folder the disk's size unless said otherwise.
    pub capacity: Option<ByteSize>,
    /// The share of it at which somebody is told, and at which that is critical; 80 % and 88 % unless said otherwise.
    #[serde(deserialize_with = "share")]
    #[serde(default)]
    pub capacity_warning: Option<f64>,
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
    pub mode: EncryptionMode,
    pub recipients: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Backup {
    /// When the daemon makes a full backup; 02:00 each day unless said otherwise.
    pub schedule: Option<String>,
    #[serde(deserialize_with = "compression")]
    pub compression: Option<Compression>,
    pub jobs: Option<u16>,
    pub max_rate: Option<ByteSize>,
    pub checksums: Option<ChecksumsKey>,
    pub spread_checkpoint: bool,
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
    pub slot: String,
    #[serde(deserialize_with = "compression")]
    pub compression: Option<Compression>,
    #[serde(deserialize_with = "duration")]
    pub status_interval: Option<Duration>,
    /// How long new bytes of a segment that is not full may wait before they are stored.
    #[serde(deserialize_with = "duration")]
    pub flush_interval: Option<Duration>,
    /// Bowline is a synchronous standby: a commit that is acknowledged is in the repository. The server must name it in
    /// `synchronous_standby_names`.
    pub synchronous: bool,
    #[serde(deserialize_with = "duration")]
    pub coverage_interval: Option<Duration>,
    /// How long a server that shuts down is kept waiting for the store.
    #[serde(deserialize_with = "duration")]
    pub shutdown_grace: Option<Duration>,
    /// How long a receiver may be silent before another one takes over.
    #[serde(deserialize_with = "duration")]
    pub lease_ttl: Option<Duration>,
    /// How the supervised receiver is started, such as `systemctl start bowline-receive`; without, a restore starts one itself.
    pub start: Option<String>,
    /// Where `wal fetch` puts segments that it fetches ahead, and `wal push` its notes; beside the data directory unless said otherwise.
    pub spool: Option<PathBuf>,
    /// Segments that `wal push` stores ahead at once; 0 switches looking ahead off.
    pub push_jobs: u16,
    /// Segments that `wal fetch` fetches ahead at once; 0 switches fetching ahead off.
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
    pub daily: Option<usize>,
    pub monthly: Option<usize>,
    pub minimum: Option<usize>,
    /// Whose days and months count; UTC unless said otherwise.
    #[serde(deserialize_with = "zone")]
    pub timezone: Option<Zone>,
    /// How long the objects of what was unlisted stay; 24 hours unless said otherwise.
    #[serde(deserialize_with = "duration")]
    pub grace: Option<Duration>,
}

/// How stored objects are read again.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scrub {
    /// Bytes that one run reads at most; 20 GB unless said otherwise.
    pub daily_budget: Option<ByteSize>,
    /// When the daemon scrubs, in cron's words; at 05:00 unless said otherwise.
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
    /// When the daemon holds a drill; 04:00 each Sunday unless said otherwise.
    pub schedule: Option<String>,
    /// Below this directory `bowline verify` restores.
    pub dir: Option<PathBuf>,
    /// As whom the restored server runs, when root holds the drill: a user to whom production's files are closed.
    pub user: Option<String>,
    /// How much of a table may be missing against production's estimate before that is a fault, from 0 to 1; a tenth unless said otherwise.
    #[serde(deserialize_with = "share")]
    pub tolerance: Option<f64>,
    pub checks: Vec<DrillCheck>,
}

/// A question that a restored server is asked: one value, and what it must be.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillCheck {
    pub sql: String,
    #[serde(deserialize_with = "expectation")]
    pub expect: Expectation,
    /// The database to ask; that of [postgres] conninfo unless said otherwise.
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

/// Which line is wrong and why. The line itself is not repeated: it may hold a secret that was written there by mistake.
fn complaint(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(0, |span| text.get(..span.start).unwrap_or(text).matches('\n').count() + 1);
    format!("line {line}: {}", error.message().trim_end())
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

    /// The configuration that a repository keeps, for a machine that has none. How the repository was opened is how it is opened still.
    pub fn kept(text: &str, place: &Path, opened: Self) -> Result<Self, Fault> {
        let kept = Self::parse(text, place)?;
        let config = Self { org: opened.org, repository: opened.repository, path: None, ..kept };
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

    fn parse(text: &str, place: &Path) -> Result<Self, Fault> {
        let mut config: Self = toml::from_str(text).map_err(|e| {
            Fault::misuse(
                "config-wrong",
                format!("the configuration {} is wrong", place.display()),
                complaint(text, &e),
                "Keys of features that this version does not have yet are refused too, so that nothing is believed to be on that is not.",
            )
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

    fn check(&self) -> Result<(), Fault> {
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
