//! One run of scrubbing: reads again what was proven the longest ago, within a budget, and names what is damaged or missing.

mod backup;
mod damage;
mod listed;
mod packs;
mod reading;
mod snapshot;
mod units;

use crate::UpkeepError;
pub use damage::Found;
use damage::Surroundings;
use futures::TryStreamExt;
use packs::Told;
use repo::{Contender, Listed, Proved, Reader, RepoError, ScrubDamage, ScrubRun, ScrubState, ScrubUnit, WalIndex, Writer};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use store::{ObjectInfo, ObjectPath, StoreError, Version};
use terms::{Clock, Event, Events, Explain, SnapshotOfProgress, Timestamp};
use units::{Unit, What};

/// The lease of whoever scrubs.
const LEASE: &str = "scrub";
/// What was done is written down after so many bytes: at most that is read again after an interruption.
const SAVE_EVERY_BYTES: u64 = 2 << 30;
/// Folders of small objects, each proven in every run.
const SMALL: [&str; 8] = ["keys", "config", "drills", "runbook", "leases", "holds", "expired", "alerts"];

/// How to scrub.
pub struct ScrubOptions {
    /// Bytes of packs and log read at most; at least one object is.
    pub budget: u64,
    /// Gaps in the log that an audit found: they stand with the damage.
    pub gaps: Vec<Found>,
    /// Damage that stands in the repository of the snapshots, where they have one of their own; `None` where it could not be looked at: what
    /// stood stands.
    pub apart: Option<Vec<Found>>,
    /// Objects that are not expected any more.
    pub forget: Vec<String>,
    /// Who this is, for people.
    pub holder: String,
    /// Another may scrub when this one was not heard of for so long.
    pub lease_ttl: Duration,
    /// Who hears of progress, and of damage as it is found.
    pub events: Arc<dyn Events>,
}

/// What a run found.
#[derive(Debug, Clone, Serialize)]
pub struct Scrubbed {
    /// As it is written down, too.
    pub run: ScrubRun,
    /// All that stands.
    pub damage: Vec<ScrubDamage>,
    /// Objects that were damaged or missing before, and are well.
    pub healed: Vec<String>,
    /// When the oldest proof began, where everything was proven once.
    pub oldest: Option<Timestamp>,
    /// Units that were never proven.
    pub unproven: usize,
    /// How many there are, proven or not.
    pub units: usize,
}

/// Proves what it can. Damage is no error: it is in the answer. One run at a time, by lease.
pub async fn scrub(writer: &Writer, options: &ScrubOptions, clock: &dyn Clock) -> Result<Scrubbed, UpkeepError> {
    let lease = Contender::new(writer, LEASE, &options.holder, options.lease_ttl)?.acquire(clock).await?.keep();
    let done = Run::begin(writer, options, clock).await;
    let done = match done {
        Ok(mut run) => {
            let outcome = run.all().await;
            // What was proven, and what was found, counts however it ended.
            let saved = run.finish().await;
            outcome.and(saved)
        }
        Err(e) => Err(e),
    };
    lease.release().await?;
    Ok(done?)
}

struct Run<'r> {
    writer: &'r Writer,
    reader: &'r Reader,
    options: &'r ScrubOptions,
    clock: &'r dyn Clock,
    began: Timestamp,
    state: ScrubState,
    version: Option<Version>,
    /// Damage that stood before, by path: since when.
    stood: BTreeMap<String, Timestamp>,
    around: Surroundings,
    objects: u64,
    bytes: u64,
    /// Of `bytes`, what counts against the budget.
    spent: u64,
    saved_at: u64,
}

impl<'r> Run<'r> {
    async fn begin(writer: &'r Writer, options: &'r ScrubOptions, clock: &'r dyn Clock) -> Result<Self, RepoError> {
        let reader = writer.reader();
        let began = clock.now();
        let (mut state, version, lost) = match reader.scrub_state().await {
            Ok(Some((state, version))) => (state, Some(version), None),
            Ok(None) => (ScrubState::default(), None, None),
            // It is made anew: what was proven when is forgotten, and said.
            Err(e) => {
                let found = Found::of("scrub/state.json".to_owned(), e)?;
                (ScrubState::default(), reader.scrub_version().await?, Some(found))
            }
        };
        for path in &options.forget {
            state.witnesses.remove(path);
            state.units.remove(path.strip_suffix("/backup.json").unwrap_or_default());
            state.damage.retain(|damage| damage.path != *path);
            if let Some(unit) = state.units.get_mut(path) {
                unit.objects = None;
            }
        }
        let stood = state.damage.iter().map(|damage| (damage.path.clone(), damage.since)).collect();
        // Gaps are looked for anew each time; so is a record that could not be read.
        state.damage.retain(|damage| damage.slug != damage::GAP && damage.path != "scrub/state.json");
        state.damage.retain(|damage| options.apart.is_none() || damage.slug != damage::APART);
        let around = Surroundings::default();
        let mut run = Self { writer, reader, options, clock, began, state, version, stood, around, objects: 0, bytes: 0, spent: 0, saved_at: 0 };
        if let Some(found) = lost {
            run.bad(found).await;
        }
        Ok(run)
    }

    async fn all(&mut self) -> Result<(), RepoError> {
        let mut small = self.list_small().await?;
        let listed = self.listed().await?;
        let logs = units::of_log(self.reader, &mut small).await?;
        for told in self.options.gaps.iter().chain(self.options.apart.iter().flatten()) {
            self.bad(told.clone()).await;
        }
        self.prove_small(&small).await?;
        self.prove_keys(&listed).await?;
        let mut all: Vec<Unit> = units::of_listed(&listed).chain(logs).collect();
        self.count_units(&all).await;
        self.prove_again(&listed).await?;
        all.sort_by_key(|unit| unit.rank(&self.state.units));
        for unit in &all {
            if self.is_spent() {
                break;
            }
            self.prove_unit(unit).await?;
        }
        Ok(())
    }

    async fn list_small(&self) -> Result<Vec<ObjectInfo>, RepoError> {
        let mut small = Vec::new();
        for folder in SMALL {
            small.extend(self.reader.store().list(folder, None).try_collect::<Vec<_>>().await?);
        }
        for name in ["repository.json", "retention.json", "coverage.json", "capacity.json"] {
            let path = ObjectPath::new(name).map_err(|e| RepoError::Bug(e.to_string()))?;
            small.extend(self.reader.store().info(&path).await?);
        }
        Ok(small)
    }

    async fn prove_small(&mut self, small: &[ObjectInfo]) -> Result<(), RepoError> {
        let mut there = BTreeSet::new();
        for info in small {
            let path = info.path.to_string();
            there.insert(path.clone());
            match self.reader.prove_object(info, None, &WalIndex::default()).await {
                Ok(Proved::Foreign) => {}
                Ok(proved) => {
                    let digest = if let Proved::Text(digest) = proved { digest } else { String::new() };
                    match self.state.witnesses.get(&path) {
                        Some(first) if *first != digest && !digest.is_empty() => self.bad(Found::changed(path)).await,
                        _ => {
                            if is_witness(&path) {
                                self.state.witnesses.insert(path.clone(), digest);
                            }
                            self.well(&path, info.bytes);
                        }
                    }
                }
                // Replaced or removed in the course of things since it was listed.
                Err(RepoError::Store(StoreError::Missing { path: missing, .. })) if missing == path => {}
                Err(e) => self.bad(Found::of(path, e)?).await,
            }
        }
        let gone: Vec<String> = self.state.witnesses.keys().filter(|path| !there.contains(*path)).cloned().collect();
        for path in gone {
            self.bad(Found::missing(path)).await;
        }
        Ok(())
    }

    /// The keys that something names must be there: those that are were proven with the small objects.
    async fn prove_keys(&mut self, listed: &[Listed]) -> Result<(), RepoError> {
        let document = self.reader.document();
        let epochs = document.epochs.iter().filter_map(|epoch| epoch.wal_key);
        let named: BTreeSet<_> = document.digest_key.into_iter().chain(epochs).chain(listed.iter().filter_map(Listed::key)).collect();
        for id in named {
            let path = repo::key_path(id);
            if self.reader.store().info(&path).await?.is_none() {
                self.bad(Found::missing(path.to_string())).await;
            }
        }
        Ok(())
    }

    /// Registers what there is, and forgets what is gone; the index of a timeline never shrinks.
    async fn count_units(&mut self, all: &[Unit]) {
        let names: BTreeSet<&str> = all.iter().map(|unit| unit.name.as_str()).collect();
        let lost: BTreeSet<String> =
            self.state.damage.iter().filter_map(|damage| damage.path.strip_suffix("/backup.json").map(str::to_owned)).collect();
        self.state.units.retain(|name, unit| names.contains(name.as_str()) || unit.objects.is_some() || lost.contains(name));
        for unit in all {
            self.state.units.entry(unit.name.clone()).or_default();
        }
        let counts: BTreeMap<&str, u64> = all.iter().filter_map(|unit| Some((unit.name.as_str(), unit.objects_of_index()?))).collect();
        let known: Vec<(String, Option<u64>)> = self.state.units.iter().map(|(name, unit)| (name.clone(), unit.objects)).collect();
        for (name, most) in known.into_iter().filter(|(name, _)| name.ends_with("/index")) {
            let now = counts.get(name.as_str()).copied().unwrap_or_default();
            match most {
                Some(most) if now < most => self.bad(Found::fewer(name, now, most)).await,
                _ => {
                    self.well(&name, 0);
                    self.state.units.entry(name).or_default().objects = Some(now);
                }
            }
        }
    }

    async fn take(&mut self, told: Told) {
        match told {
            Told::Well(path, bytes) => self.well(path.as_str(), bytes),
            Told::Bad(found, bytes) => {
                (self.objects, self.bytes) = (self.objects + 1, self.bytes + bytes);
                self.bad(found).await;
            }
        }
        self.tell_progress();
    }

    fn well(&mut self, path: &str, bytes: u64) {
        (self.objects, self.bytes) = (self.objects + u64::from(bytes > 0), self.bytes + bytes);
        self.state.damage.retain(|damage| damage.path != path);
    }

    async fn bad(&mut self, found: Found) {
        let since = self.stood.get(&found.path).copied().unwrap_or(self.began);
        let damage = self.around.damage(found, since);
        self.options.events.tell(Event::Noticed { what: format!("{} {}", damage.path, damage.why) });
        self.state.damage.retain(|known| known.path != damage.path);
        self.state.damage.push(damage);
    }

    fn tell_progress(&self) {
        let now = SnapshotOfProgress {
            bytes_done: self.bytes,
            bytes_total: self.options.budget,
            files_done: self.objects,
            files_total: 0,
            bytes_stored: self.bytes,
        };
        self.options.events.tell(Event::Progress(now));
    }

    fn is_spent(&self) -> bool {
        self.spent >= self.options.budget
    }

    async fn save(&mut self) -> Result<(), RepoError> {
        if self.bytes - self.saved_at >= SAVE_EVERY_BYTES {
            self.saved_at = self.bytes;
            self.version = Some(self.writer.save_scrub(&self.state, self.version.as_ref()).await?);
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Scrubbed, RepoError> {
        let is_all = self.state.units.values().all(|unit: &ScrubUnit| unit.verified.is_some_and(|at| at >= self.began));
        let run = ScrubRun { began: self.began, ended: self.clock.now(), objects: self.objects, bytes: self.bytes, is_all };
        self.state.last_run = Some(run);
        self.state.damage.sort_by(|one, other| one.path.cmp(&other.path));
        self.writer.save_scrub(&self.state, self.version.as_ref()).await?;
        Ok(Scrubbed {
            run,
            healed: self.stood.into_keys().filter(|path| self.state.damage.iter().all(|damage| damage.path != *path)).collect(),
            oldest: self.state.oldest(),
            unproven: self.state.unproven(),
            units: self.state.units.len(),
            damage: self.state.damage,
        })
    }
}

/// Whether nothing removes this object in the course of things.
fn is_witness(path: &str) -> bool {
    !["keys/", "expired/", "alerts/"].iter().any(|folder| path.starts_with(folder))
}

impl Unit {
    fn objects_of_index(&self) -> Option<u64> {
        match &self.what {
            What::Log { prefix, objects } if prefix.ends_with("/index") => Some(*objects),
            _ => None,
        }
    }
}

impl std::fmt::Debug for ScrubOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScrubOptions").field("budget", &self.budget).field("holder", &self.holder).finish_non_exhaustive()
    }
}

/// The words of an error, for a record.
fn words(error: &RepoError) -> String {
    let detail = error.detail();
    let text = error.to_string();
    if detail.is_empty() { format!("{text}.") } else { format!("{text}: {detail}") }
}
