//! The names that an installation's commands need, none of them a secret.

use crate::config::Config;
use crate::fault::Fault;
use crate::wiring::Wiring;
use pg::find_bin_dir;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a runbook is filled with.
#[derive(Debug, Clone)]
pub struct Names {
    pub org: String,
    pub repository: String,
    /// The configuration file.
    pub config: PathBuf,
    /// Whether commands must name it.
    pub names_config: bool,
    pub data_dir: PathBuf,
    /// Where a copy beside production is restored to.
    pub side_dir: PathBuf,
    /// A key file; where there is none, the first recipient.
    pub key: PathBuf,
    /// PostgreSQL's major version, and where its programs are.
    pub major: u32,
    pub bin_dir: PathBuf,
    /// How psql reaches the server: `-h … -p … -d …`.
    pub server: String,
    pub dbname: String,
    pub slot: String,
    pub service: [Option<String>; 3],
    pub receiver: Option<String>,
    pub rpo: Duration,
    pub rto: Duration,
    pub contacts: Vec<String>,
    /// What was measured last, a line each.
    pub measured: Vec<String>,
}

impl Names {
    /// Those of a configuration. `major` is that of the newest backup.
    pub fn of(wiring: &Wiring, major: u32, measured: Vec<String>) -> Result<Self, Fault> {
        let config: &Config = &wiring.config;
        let info = wiring.conninfo()?;
        let place = config.path.clone().unwrap_or_else(|| crate::config::DEFAULT_PLACE.into());
        let missing = |what: &str, hint: &str| Fault::misuse("config-wrong", format!("the configuration does not say {what}"), "", hint);
        let data_dir = config.postgres.data_dir.clone();
        let address = info.addresses().first().map(|address| address.libpq_words()).unwrap_or_default();
        let bin_dir =
            find_bin_dir(major, config.postgres.bin_dir.as_deref()).unwrap_or_else(|_| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
        Ok(Self {
            org: config.org.clone(),
            repository: config.repository.url.clone(),
            names_config: place != Path::new(crate::config::DEFAULT_PLACE),
            config: place,
            data_dir: data_dir.ok_or_else(|| missing("where the data directory is", "Set [postgres] data_dir: a restore in place needs it."))?,
            side_dir: config.drill.dir.clone().unwrap_or_else(|| "/var/tmp".into()).join("bowline-side"),
            key: match (wiring.key(), wiring.specs()?.iter().find_map(keys::Spec::file), wiring.specs()?.first()) {
                (Some(key), ..) | (None, Some(key), _) => key.to_owned(),
                (None, None, Some(spec)) => spec.to_string().into(),
                (None, None, None) => "/etc/bowline/key".into(),
            },
            major,
            bin_dir,
            server: format!("{address} -d {}", info.dbname()),
            dbname: info.dbname().to_owned(),
            slot: config.wal.slot.clone(),
            service: [config.service.stop.clone(), config.service.start.clone(), config.service.health.clone()],
            receiver: config.wal.start.clone(),
            rpo: config.objectives.rpo(),
            rto: config.objectives.rto(),
            contacts: config.runbook.contacts.clone(),
            measured,
        })
    }

    /// Those of the generic form in the documentation.
    pub fn generic() -> Self {
        Self {
            org: "acme".into(),
            repository: "s3://acme-backups".into(),
            config: crate::config::DEFAULT_PLACE.into(),
            names_config: false,
            data_dir: "/var/lib/postgresql/18/main".into(),
            side_dir: "/var/tmp/bowline-side".into(),
            key: "/etc/bowline/key".into(),
            major: 18,
            bin_dir: "/usr/lib/postgresql/18/bin".into(),
            server: "-h /var/run/postgresql -p 5432 -d postgres".into(),
            dbname: "postgres".into(),
            slot: "bowline".into(),
            service: [Some("systemctl stop kb"), Some("systemctl start kb"), Some("curl -fsS http://127.0.0.1:8080/health")]
                .map(|word| word.map(str::to_owned)),
            // The unit of deploy/systemd: the daemon, which receives.
            receiver: Some("systemctl start bowline".into()),
            rpo: Duration::from_secs(3600),
            rto: Duration::from_secs(4 * 3600),
            contacts: vec!["Name who is called first, and who decides: [runbook] contacts".into()],
            measured: vec!["bowline verify measures; its last report is named here".into()],
        }
    }

    /// Whether the key is a file, which can be copied.
    pub fn has_key_file(&self) -> bool {
        keys::named(&self.key).is_none()
    }

    /// The program with what every command of this installation says.
    pub fn bowline(&self) -> String {
        if self.names_config { format!("bowline --config {}", self.config.display()) } else { "bowline".into() }
    }
}
