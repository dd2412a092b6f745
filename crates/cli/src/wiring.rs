//! Opens what the configuration names: the store, the repository with its keys, the server.

use crate::args::Common;
use crate::config::{Config, EncryptionMode, Repository, options_with};
use crate::fault::Fault;
use alerts::Teller;
use keys::Spec;
use pg::ConnInfo;
use repo::{AlertShelf, Reader, Writer};
use seal::Recipient;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::{ObjectLock, Put, Remove, Sight, StoreOptions};
use terms::{Class, SystemClock, Timestamp};

/// A configuration with what the command line adds to it.
pub struct Wiring {
    pub config: Config,
    key: Option<PathBuf>,
    as_of: Option<Timestamp>,
}

impl Wiring {
    /// Reads the configuration.
    pub fn new(common: &Common) -> Result<Self, Fault> {
        Ok(Self { config: Config::load(common)?, key: common.key.clone(), as_of: common.repository_as_of })
    }

    /// The repository's root: the organization's folder below the configured address.
    pub fn address(&self) -> String {
        self.root_of(&self.config.repository.url)
    }

    pub fn root_of(&self, url: &str) -> String {
        let (base, query) = url.split_once('?').map_or((url, None), |(b, q)| (b, Some(q)));
        // What has no bucket and no folder is refused as it was written.
        let base = if base.ends_with("://") { base } else { base.trim_end_matches('/') };
        let root = format!("{base}/{}", self.config.org);
        query.map_or(root.clone(), |q| format!("{root}?{q}"))
    }

    pub fn store_options(&self) -> Result<StoreOptions, Fault> {
        let repository = &self.config.repository;
        let access = [repository.access_key_id.as_ref(), repository.secret_access_key.as_ref(), repository.session_token.as_ref()];
        Ok(StoreOptions {
            region: repository.region.clone(),
            endpoint: repository.endpoint.clone(),
            path_style: repository.path_style,
            ca_file: repository.ca_file.clone(),
            profile: repository.profile.clone(),
            checksum: repository.checksum.clone(),
            lock: self.object_lock(),
            sse: repository.sse(),
            sse_kms_key_id: repository.sse_kms_key_id.clone(),
            ..options_with(access, "repository")?
        })
    }

    /// The lock that objects get in the bucket.
    pub fn object_lock(&self) -> Option<ObjectLock> {
        let Repository { object_lock, object_lock_days, .. } = &self.config.repository;
        let keep = Duration::from_secs(u64::from((*object_lock_days)?) * 86_400);
        Some(ObjectLock { mode: (*object_lock)?, keep, is_free: repo::is_unlocked })
    }

    /// The store at the repository's root. Where objects are locked, nothing that was put over one of them is believed.
    pub fn store(&self) -> Result<Arc<dyn Put>, Fault> {
        let (address, options) = (self.address(), self.store_options()?);
        Ok(match options.lock {
            Some(_) => store::open_past(&address, &options, Sight::Oldest { is_replaced: repo::is_replaced })?,
            None => store::open(&address, &options)?,
        })
    }

    /// Whether the repository is looked at as it was at an earlier time.
    pub fn looks_back(&self) -> bool {
        self.as_of.is_some()
    }

    /// The same as it was at the asked time.
    fn store_to_read(&self) -> Result<Arc<dyn Put>, Fault> {
        match self.as_of {
            Some(at) => Ok(store::open_past(&self.address(), &self.store_options()?, Sight::AsOf(at))?),
            None => self.store(),
        }
    }

    /// The recipients of the configuration; none where encryption is off.
    pub fn specs(&self) -> Result<Vec<Spec>, Fault> {
        if self.config.encryption.mode == EncryptionMode::Off {
            return Ok(Vec::new());
        }
        Ok(self.config.encryption.recipients.iter().map(|text| text.parse()).collect::<Result<_, keys::KeyError>>()?)
    }

    /// The key file or recipient that stands for all of the configuration's, where one was given.
    pub fn key(&self) -> Option<&Path> {
        self.key.as_deref()
    }

    /// Whoever opens the repository, and for whom new keys are wrapped: those of the configuration, or the key that was given instead.
    fn recipients(&self) -> Result<Vec<Arc<dyn Recipient>>, Fault> {
        match &self.key {
            Some(key) => Ok(keys::opened_by(key)?),
            None => self.configured(false),
        }
    }

    /// The recipients of the configuration. A single one that cannot be used ends the command at once; of several, or beside
    /// another key, it says so only when nobody else opens what is needed.
    fn configured(&self, is_beside_another: bool) -> Result<Vec<Arc<dyn Recipient>>, Fault> {
        let specs = self.specs()?;
        if specs.len() > 1 || is_beside_another {
            return Ok(specs.iter().map(Spec::open_among_others).collect());
        }
        Ok(specs.iter().map(Spec::open).collect::<Result<_, _>>()?)
    }

    /// Each of those who open the repository, whatever is wrong with it.
    pub fn each_recipient(&self) -> Result<Vec<Arc<dyn Recipient>>, Fault> {
        match &self.key {
            Some(key) => Ok(keys::opened_by(key)?),
            None => self.configured(true),
        }
    }

    /// For changing whom data keys open for: new ones are wrapped for the configuration's recipients, and those that are there are
    /// opened by them, by the key that was given besides, and by `others`.
    pub async fn key_keeper(&self, mut others: Vec<Arc<dyn Recipient>>) -> Result<Writer, Fault> {
        if let Some(key) = &self.key {
            others.extend(keys::opened_by(key)?);
        }
        let configured = self.configured(!others.is_empty())?;
        Ok(Writer::open_also(self.store()?, configured, others).await?)
    }

    /// For looking at what anybody may see: nothing can be opened.
    pub async fn onlooker(&self) -> Result<Reader, Fault> {
        Ok(Reader::open(self.store()?, Vec::new()).await?)
    }

    pub async fn reader(&self) -> Result<Reader, Fault> {
        Ok(Reader::open(self.store_to_read()?, self.recipients()?).await?)
    }

    /// The configured second copy of the repository, kept by a replication; its address says what differs from the first one's settings.
    pub async fn replica(&self) -> Option<Result<Reader, Fault>> {
        let url = self.config.repository.replica.as_ref()?;
        let open = async {
            // Another region, another endpoint: only the credentials may be the same ones.
            let options = StoreOptions { region: None, endpoint: None, lock: None, ..self.store_options()? };
            Ok(Reader::open(store::open(&self.root_of(url), &options)?, self.recipients()?).await?)
        };
        Some(open.await)
    }

    /// Another repository of the same organization, opened by the same recipients; its url says what differs.
    pub async fn reader_at(&self, url: &str) -> Result<Reader, Fault> {
        Ok(Reader::open(self.store_at(url)?, self.recipients()?).await?)
    }

    /// The same for adding to it.
    pub async fn writer_at(&self, url: &str) -> Result<Writer, Fault> {
        let store = self.store_at(url)?;
        store.ready().await?;
        Ok(Writer::open(store, self.recipients()?).await?)
    }

    /// The same for removing what is not listed there any more.
    pub fn remover_at(&self, url: &str) -> Result<Arc<dyn Remove>, Fault> {
        Ok(store::open_remover(&self.root_of(url), &self.options_at()?)?)
    }

    fn store_at(&self, url: &str) -> Result<Arc<dyn Put>, Fault> {
        Ok(store::open(&self.root_of(url), &self.options_at()?)?)
    }

    /// The settings of another repository than the configured one: its url says what differs.
    pub fn options_at(&self) -> Result<StoreOptions, Fault> {
        Ok(StoreOptions { region: None, endpoint: None, lock: None, ..self.store_options()? })
    }

    pub async fn writer(&self) -> Result<Writer, Fault> {
        let store = self.store()?;
        // Before anything is written: a store that does not encrypt as it must gets nothing.
        store.ready().await?;
        Ok(Writer::open(store, self.recipients()?).await?)
    }

    /// What is kept of alerts; no key is needed for it.
    pub fn alert_shelf(&self) -> Result<AlertShelf, Fault> {
        Ok(AlertShelf::new(self.store()?))
    }

    /// Whose alerts they are.
    fn alert_source(&self) -> alerts::Source {
        let address = self.address();
        let repository = address.split('?').next().unwrap_or_default().to_owned();
        alerts::Source { org: self.config.org.clone(), repository, host: crate::verbs::host() }
    }

    /// Whoever tells people; `lives_on` where this process goes on judging. It begins to work at once, on this runtime.
    pub fn teller(&self, lives_on: bool) -> Result<Teller, Fault> {
        let configured = &self.config.alerts;
        Ok(Teller::start(configured.setup(lives_on), configured.channels(), Some(self.alert_shelf()?), self.alert_source(), Arc::new(SystemClock)))
    }

    /// How the server is reached; of several the primary, unless the connection string says which will do: after a failover the first in the
    /// list may be a standby, of which nothing here is asked. A single one is asked as it is, and told what it cannot do.
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
        Ok(if info.addresses().len() > 1 { info.at_a_primary() } else { info })
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
