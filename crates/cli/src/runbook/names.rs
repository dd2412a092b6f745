//! The names that an installation's commands need, none of them a secret.

use crate::config::{Config, Repository};
use crate::fault::Fault;
use crate::wiring::Wiring;
use nix::unistd::Group;
use pg::find_bin_dir;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a runbook is filled with.
#[derive(Debug, Clone)]
pub struct Names {
    pub org: String,
    pub repository: String,
    /// The same as a word for a shell, with all that a machine without a configuration has to be told.
    pub address: String,
    /// Where the configuration's folder is root's: its group, which reads it.
    pub root: Option<String>,
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
            address: whole_address(&config.repository),
            root: roots(&place),
            names_config: place != Path::new(crate::config::DEFAULT_PLACE),
            config: place,
            data_dir: data_dir.ok_or_else(|| missing("where the data directory is", "Set [postgres] data_dir: a restore in place needs it."))?,
            side_dir: config.drill.dir.clone().unwrap_or_else(|| "/var/tmp".into()).join("bowline-side"),
            key: match (wiring.key(), wiring.specs()?.iter().find_map(keys::Spec::file), wiring.specs()?.first()) {
                (Some(key), ..) | (None, Some(key), _) => key.to_owned(),
                (None, None, Some(spec)) => spec.to_string().into(),
                (None, None, None) => "/etc/bowline/keys/key".into(),
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
            address: "'s3://acme-backups?region=eu-west-1'".into(),
            root: Some("postgres".into()),
            config: crate::config::DEFAULT_PLACE.into(),
            names_config: false,
            data_dir: "/var/lib/postgresql/18/main".into(),
            side_dir: "/var/tmp/bowline-side".into(),
            key: "/etc/bowline/keys/key".into(),
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

    /// What a command needs before it that changes what is root's.
    pub fn sudo(&self) -> &'static str {
        if self.root.is_some() { "sudo " } else { "" }
    }

    /// Puts a file in the configuration's place.
    pub fn install_config(&self, from: &str) -> String {
        let config = self.config.display();
        match &self.root {
            Some(group) => format!("sudo install -m 640 -o root -g {group} {from} {config}"),
            None => format!("cp {from} {config}"),
        }
    }

    /// The program with what every command of this installation says.
    pub fn bowline(&self) -> String {
        if self.names_config { format!("bowline --config {}", self.config.display()) } else { "bowline".into() }
    }
}

fn whole_address(repository: &Repository) -> String {
    let settings = [
        ("region", repository.region.clone()),
        ("endpoint", repository.endpoint.clone()),
        ("path_style", repository.path_style.map(|is| is.to_string())),
        ("ca_file", repository.ca_file.as_ref().map(|file| file.display().to_string())),
        ("checksum", repository.checksum.clone()),
    ];
    let mut address = repository.url.clone();
    for (key, value) in settings.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        // What the address says itself wins.
        if !address.contains(&format!("{key}=")) {
            let joint = if address.contains('?') { '&' } else { '?' };
            let value: String = value.chars().map(|c| if "%&#' ".contains(c) { format!("%{:02X}", c as u32) } else { c.into() }).collect();
            address.push_str(&format!("{joint}{key}={value}"));
        }
    }
    if address.contains(['?', '&', '\'', ' ']) { format!("'{}'", address.replace('\'', "%27")) } else { address }
}

fn roots(config: &Path) -> Option<String> {
    let folder = std::fs::metadata(config.parent()?).ok().filter(|folder| folder.uid() == 0)?;
    let group = Group::from_gid(folder.gid().into()).ok().flatten();
    Some(group.map_or_else(|| folder.gid().to_string(), |group| group.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_machine_is_told_the_whole_address_and_nothing_secret() {
        let address = |lines: &str| {
            let text = format!("org = \"acme\"\n[repository]\nurl = \"s3://b/p\"\n{lines}");
            whole_address(&Config::parse(&text, Path::new("t")).unwrap().repository)
        };
        assert_eq!(address(""), "s3://b/p");
        let lines =
            "endpoint = \"https://minio.example:9000\"\nregion = \"us-east-1\"\nca_file = \"/etc/a & b.pem\"\nsecret_access_key = \"env:SECRET\"\n";
        assert_eq!(address(lines), "'s3://b/p?region=us-east-1&endpoint=https://minio.example:9000&ca_file=/etc/a%20%26%20b.pem'");
        let said = whole_address(
            &Config::parse("org = \"acme\"\n[repository]\nurl = \"s3://b?region=x\"\nregion = \"y\"\n", Path::new("t")).unwrap().repository,
        );
        assert_eq!(said, "'s3://b?region=x'");
    }
}
