//! What scrubbing remembers between its runs: what was proven well when, what it saw, and which damage stands.

use crate::{Reader, RepoError, Writer, document, layout};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use store::{StoreError, Version};
use terms::Timestamp;

/// `scrub/state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScrubState {
    /// 1 so far; a document with a larger number is refused.
    pub format: u32,
    /// `None` before the first one has ended.
    pub last_run: Option<ScrubRun>,
    /// What stands until it is proven well again, or until somebody says that it is not expected any more.
    pub damage: Vec<ScrubDamage>,
    /// By name: a backup's folder, 4 GiB of the log of a timeline, the index of a timeline, a month of the ledger.
    pub units: BTreeMap<String, ScrubUnit>,
    /// Small objects that nothing ever removes: their absence is seen. Of those that prove nothing themselves (pages, runbooks) the
    /// first 32 digits of the SHA-256 of what was read first; of the others nothing.
    pub witnesses: BTreeMap<String, String>,
}

/// One run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScrubRun {
    /// By the clock of the host that it ran on.
    pub began: Timestamp,
    /// By the same clock.
    pub ended: Timestamp,
    /// How many were read; small ones that are damaged are left out.
    pub objects: u64,
    /// Bytes of them that were read, as they are stored.
    pub bytes: u64,
    /// Whether it came around: every unit was proven in this run.
    pub is_all: bool,
}

/// What is proven as one, from its beginning to its end, in one run or in several.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScrubUnit {
    /// When the last proof of all of it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Timestamp>,
    /// When the proof that is under way began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Timestamp>,
    /// The object that was proven last of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The most objects that were ever seen of it, where none is ever removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<u64>,
}

/// An object that is damaged or missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScrubDamage {
    /// Of the object; where batches of an index are missing its folder, of another repository with the address before it.
    pub path: String,
    /// A stable word, such as `object-missing`.
    pub slug: String,
    /// What is wrong with it.
    pub why: String,
    /// What cannot be restored because of it.
    pub unreachable: String,
    /// The next step.
    pub next: String,
    /// When the run began that saw it first.
    pub since: Timestamp,
}

impl Default for ScrubState {
    fn default() -> Self {
        Self { format: document::FORMAT, last_run: None, damage: Vec::new(), units: BTreeMap::new(), witnesses: BTreeMap::new() }
    }
}

impl ScrubState {
    /// The unit whose last whole proof is the oldest, and when that began; `None` where one was never proven, or there is none.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.units.values().map(|unit| unit.verified).min().flatten()
    }
    /// How many units were never proven.
    pub fn unproven(&self) -> usize {
        self.units.values().filter(|unit| unit.verified.is_none()).count()
    }
}

impl Reader {
    /// What the last run of scrubbing left, with its version.
    pub async fn scrub_state(&self) -> Result<Option<(ScrubState, Version)>, RepoError> {
        let Some(version) = self.scrub_version().await? else { return Ok(None) };
        match self.store.get(&layout::scrub()).await {
            Ok(bytes) => Ok(Some((document::read(&layout::scrub(), &bytes)?, version))),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The version alone: for replacing one that cannot be read.
    pub async fn scrub_version(&self) -> Result<Option<Version>, RepoError> {
        Ok(self.store.info(&layout::scrub()).await?.map(|info| info.version))
    }
}

impl Writer {
    /// Leaves this to the next run of scrubbing, unless another run was faster.
    pub async fn save_scrub(&self, state: &ScrubState, expected: Option<&Version>) -> Result<Version, RepoError> {
        let path = layout::scrub();
        let saved = self.store.replace(&path, document::write(state)?, expected).await?;
        saved.ok_or_else(|| RepoError::Contended { path: path.to_string() })
    }
}
