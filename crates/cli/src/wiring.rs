//! Opens what the configuration names: the store, the repository with its keys, the server.

use crate::args::Common;
use crate::config::{Config, EncryptionMode};
use crate::fault::Fault;
use keys::KeyFile;
use pg::ConnInfo;
use repo::{Reader, Writer};
use seal::Recipient;
use std::path::PathBuf;
use std::sync::Arc;
use store::{Put, StoreOptions};
use terms::Class;

/// A configuration with what the command line adds to it.
pub struct Wiring {
    pub config: Config,
    key: Option<PathBuf>,
}

impl Wiring {
    /// Reads the configuration.
    pub fn new(common: &Common) -> Result<Self, Fault> {
        Ok(Self { config: Config::load(common)?, key: common.key.clone() })
    }

    /// The repository's root: the organization's folder below the configured address.
    pub fn address(&self) -> String {
        let url = &self.config.repository.url;
        let (base, query) = url.split_once('?').map_or((url.as_str(), None), |(b, q)| (b, Some(q)));
        let root = format!("{}/{}", base.trim_end_matches('/'), self.config.org);
        query.map_or(root.clone(), |q| format!("{root}?{q}"))
    }

    pub fn store_options(&self) -> Result<StoreOptions, Fault> {
        let repository = &self.config.repository;
        let resolve = |given: &Option<crate::config::SecretRef>, key| given.as_ref().map(|s| s.resolve(key)).transpose();
        Ok(StoreOptions {
            region: repository.region.clone(),
            endpoint: repository.endpoint.clone(),
            path_style: repository.path_style,
            ca_file: repository.ca_file.clone(),
            access_key_id: resolve(&repository.access_key_id, "repository.access_key_id")?,
            secret_access_key: resolve(&repository.secret_access_key, "repository.secret_access_key")?,
            session_token: resolve(&repository.session_token, "repository.session_token")?,
            profile: repository.profile.clone(),
            checksum: repository.checksum.clone(),
            sse: repository.sse(),
            sse_kms_key_id: repository.sse_kms_key_id.clone(),
            ..StoreOptions::default()
        })
    }

    /// The store at the repository's root.
    pub fn store(&self) -> Result<Arc<dyn Put>, Fault> {
        Ok(store::open(&self.address(), &self.store_options()?)?)
    }

    /// Where the key files are that the recipients name.
    pub fn key_files(&self) -> Result<Vec<PathBuf>, Fault> {
        if let Some(key) = &self.key {
            return Ok(vec![key.clone()]);
        }
        if self.config.encryption.mode == EncryptionMode::Off {
            return Ok(Vec::new());
        }
        let place = |recipient: &String| match recipient.split_once(':') {
            Some(("file", path)) if path.starts_with('/') => Ok(PathBuf::from(path)),
            _ => Err(Fault::misuse(
                "recipient-unknown",
                format!("{recipient:?} is not a recipient that this version knows"),
                "",
                "Use file:/absolute/path; KMS and Vault come with a later version.",
            )),
        };
        self.config.encryption.recipients.iter().map(place).collect()
    }

    fn recipients(&self) -> Result<Vec<Arc<dyn Recipient>>, Fault> {
        let load = |path: PathBuf| KeyFile::load(&path).map(|key| Arc::new(key) as Arc<dyn Recipient>).map_err(Fault::from);
        self.key_files()?.into_iter().map(load).collect()
    }

    pub async fn reader(&self) -> Result<Reader, Fault> {
        Ok(Reader::open(self.store()?, self.recipients()?).await?)
    }

    pub async fn writer(&self) -> Result<Writer, Fault> {
        let store = self.store()?;
        // Before anything is written: a store that does not encrypt as it must gets nothing.
        store.ready().await?;
        Ok(Writer::open(store, self.recipients()?).await?)
    }

    /// How the server is reached.
    pub fn conninfo(&self) -> Result<ConnInfo, Fault> {
        let Some(text) = &self.config.postgres.conninfo else {
            return Err(Fault::misuse(
                "config-wrong",
                "the configuration does not say how to reach PostgreSQL",
                "",
                "Set [postgres] conninfo, such as \"host=/var/run/postgresql user=bowline dbname=postgres\".",
            ));
        };
        let info = ConnInfo::from_environment(text)?;
        Ok(info)
    }
}

/// How many threads to use unless told.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// The path of this program, for restore_command.
pub fn program() -> Result<PathBuf, Fault> {
    std::env::current_exe().map_err(|e| Fault::of("no-program", Class::Bug, "cannot find my own program file", format!("{e}."), ""))
}
