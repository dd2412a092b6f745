//! Looks at everything, each part in its own time: a part that hangs is a part that was not seen.

use crate::facts::{CapacityFacts, CopyFacts, DiskFacts, Facts, Look, PackagesFacts, ReceiverFacts, RecipientFacts, RepositoryFacts, Trouble};
use crate::settings::{Doors, Settings};
use crate::{capacity, copy, jobs, keys, repository, server};
use repo::{Reader, Run, RunName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use terms::Timestamp;
use tokio::time::{Instant, timeout};

/// How long one part may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Runs of the ledger that are looked at.
const RUNS: usize = 150;

/// How old what is not looked at each time may become.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    pub repository: Duration,
    pub keys: Duration,
    pub second_copy: Duration,
    pub packages: Duration,
}

impl Default for Ages {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { repository: seconds(15), keys: seconds(60), second_copy: seconds(120), packages: seconds(60) }
    }
}

impl Ages {
    /// Everything, each time.
    pub const ALWAYS: Self = Self { repository: Duration::ZERO, keys: Duration::ZERO, second_copy: Duration::ZERO, packages: Duration::ZERO };
}

/// Something that was looked at a while ago.
struct Aged<T> {
    at: Instant,
    value: T,
}

impl<T: Clone> Aged<T> {
    fn fresh(kept: &Option<Self>, age: Duration) -> Option<T> {
        kept.as_ref().filter(|kept| !age.is_zero() && kept.at.elapsed() < age).map(|kept| kept.value.clone())
    }
    fn keep(value: &T) -> Option<Self> {
        Some(Self { at: Instant::now(), value: value.clone() })
    }
}

/// One that looks again and again.
pub struct Watcher {
    settings: Settings,
    doors: Arc<dyn Doors>,
    ages: Ages,
    repository: Option<Aged<Look<RepositoryFacts>>>,
    keys: Option<Aged<Option<Look<Vec<RecipientFacts>>>>>,
    second_copy: Option<Aged<Option<Look<CopyFacts>>>>,
    packages: Option<Aged<Option<Look<PackagesFacts>>>>,
    runs: BTreeMap<RunName, Run>,
    memory: repository::Memory,
}

impl Watcher {
    pub fn new(settings: Settings, doors: Arc<dyn Doors>, ages: Ages) -> Self {
        Self {
            settings,
            doors,
            ages,
            repository: None,
            keys: None,
            second_copy: None,
            packages: None,
            runs: BTreeMap::new(),
            memory: repository::Memory::default(),
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What the ledger says, as far as it was looked at, newest last.
    pub fn runs(&self) -> &BTreeMap<RunName, Run> {
        &self.runs
    }

    /// Looks at the repository again the next time, whatever its age: something was done to it.
    pub fn forget_repository(&mut self) {
        self.repository = None;
    }

    /// One observation. `receiver` is what the one who supervises it knows.
    pub async fn look(&mut self, now: Timestamp, receiver: Option<ReceiverFacts>, is_acting: bool) -> Facts {
        let doors = Arc::clone(&self.doors);
        let reader = bounded("the repository", doors.reader()).await;
        let repository = self.look_at_repository(&reader, now).await;
        let seen = reader.as_ref().ok();
        let known_id = seen.and_then(Reader::epoch).map(|epoch| epoch.system_id);
        let (server, keys, second_copy, packages) = tokio::join!(
            bounded("PostgreSQL", server::look(&*doors, &self.settings, seen, repository.seen(), known_id, now)),
            self.look_at_keys(seen),
            self.look_at_copy(seen, now),
            self.look_at_packages(),
        );
        self.keys = Aged::fresh(&self.keys, self.ages.keys).map_or_else(|| Aged::keep(&keys), |_| self.keys.take());
        self.second_copy =
            Aged::fresh(&self.second_copy, self.ages.second_copy).map_or_else(|| Aged::keep(&second_copy), |_| self.second_copy.take());
        self.packages = Aged::fresh(&self.packages, self.ages.packages).map_or_else(|| Aged::keep(&packages), |_| self.packages.take());
        let scrub = match seen {
            Some(reader) => bounded("the scrub", repository::scrub(reader)).await.ok().flatten(),
            None => None,
        };
        let capacity = self.look_at_capacity(seen, now).await;
        let acting = match seen {
            Some(reader) => reader.lease(crate::DAEMON_LEASE).await.ok().flatten().filter(|lease| !lease.released).map(|lease| lease.holder),
            None => None,
        };
        let is_watched = is_acting || acting.is_some();
        let jobs = jobs::look(&self.settings, &self.runs, repository.seen(), is_watched, now);
        let disks = self.disks(repository.seen());
        Facts {
            at: now,
            org: self.settings.org.clone(),
            objectives: self.settings.objectives,
            repository,
            server: look_of(server),
            keys,
            second_copy,
            capacity,
            disks,
            jobs,
            receiver,
            scrub,
            packages,
            acting,
            configuration: None,
        }
    }

    async fn look_at_repository(&mut self, reader: &Result<Reader, Trouble>, now: Timestamp) -> Look<RepositoryFacts> {
        let reader = match reader {
            Ok(reader) => reader,
            Err(trouble) => return Look::Unseen(trouble.clone()),
        };
        if let Some(fresh) = Aged::fresh(&self.repository, self.ages.repository) {
            return fresh;
        }
        let known = std::mem::take(&mut self.runs);
        let looked = bounded("the repository", async {
            let names = reader.run_names(RUNS).await.map_err(|e| Trouble::of(&e))?;
            let runs = reader.runs(&names[..names.len().min(RUNS)], &known).await.map_err(|e| Trouble::of(&e))?;
            let facts = repository::look(reader, &self.settings, &mut self.memory, &runs, now).await?;
            Ok((facts, runs))
        });
        let found = match looked.await {
            Ok((facts, runs)) => {
                self.runs = runs;
                Look::Seen(facts)
            }
            Err(trouble) => {
                self.runs = known;
                return Look::Unseen(trouble);
            }
        };
        self.repository = Aged::keep(&found);
        found
    }

    async fn look_at_keys(&self, reader: Option<&Reader>) -> Option<Look<Vec<RecipientFacts>>> {
        if let Some(fresh) = Aged::fresh(&self.keys, self.ages.keys) {
            return fresh;
        }
        let reader = reader?;
        match bounded("the data keys", keys::look(reader, &*self.doors)).await {
            Ok(found) => found.map(Look::Seen),
            Err(trouble) => Some(Look::Unseen(trouble)),
        }
    }

    async fn look_at_copy(&self, reader: Option<&Reader>, now: Timestamp) -> Option<Look<CopyFacts>> {
        if let Some(fresh) = Aged::fresh(&self.second_copy, self.ages.second_copy) {
            return fresh;
        }
        let reader = reader?;
        let limit = self.settings.objectives.replication_lag_seconds;
        Some(match bounded("the second copy", async { self.doors.replica().await.transpose() }).await {
            Ok(None) => return None,
            Ok(Some(replica)) => look_of(bounded("the second copy", copy::compare(reader, &replica, limit, now)).await),
            Err(trouble) => Look::Unseen(trouble),
        })
    }

    async fn look_at_packages(&self) -> Option<Look<PackagesFacts>> {
        if let Some(fresh) = Aged::fresh(&self.packages, self.ages.packages) {
            return fresh;
        }
        match bounded("the packages", async { self.doors.packages().await.transpose() }).await {
            Ok(found) => found.map(Look::Seen),
            Err(trouble) => Some(Look::Unseen(trouble)),
        }
    }

    async fn look_at_capacity(&self, reader: Option<&Reader>, now: Timestamp) -> Option<Look<CapacityFacts>> {
        let reader = reader?;
        bounded("the capacity", capacity::look(reader, &self.settings, now))
            .await
            .map_or_else(|trouble| Some(Look::Unseen(trouble)), |found| found.map(Look::Seen))
    }

    fn disks(&self, repository: Option<&RepositoryFacts>) -> Vec<DiskFacts> {
        let mut disks = Vec::new();
        if let Some(dir) = &self.settings.data_dir {
            disks.extend(capacity::disk("pg_wal", &dir.join("pg_wal"), None));
        }
        let newest = repository.and_then(|repository| repository.backups.last()).map(|backup| backup.bytes);
        disks.extend(capacity::disk("drill", &self.settings.drill_dir, newest));
        disks
    }
}

/// A look that takes too long is none.
async fn bounded<T>(what: &str, look: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    timeout(LIMIT, look).await.unwrap_or_else(|_| {
        Err(Trouble {
            slug: "look-timeout".into(),
            summary: format!("{what} did not answer within {} s", LIMIT.as_secs()),
            detail: String::new(),
            hint: "It may hang: try bowline check by hand.".into(),
        })
    })
}

fn look_of<T>(found: Result<T, Trouble>) -> Look<T> {
    found.map_or_else(Look::Unseen, Look::Seen)
}
