//! `capacity.json`: how many bytes the repository took, a measurement a day, and what becomes of what is removed.

use crate::{Reader, RepoError, Writer, document, layout};
use serde::{Deserialize, Serialize};
use store::{OldVersions, StoreError};
use terms::Timestamp;

/// So many measurements are kept: more than a year of days.
const KEPT: usize = 400;
/// A measurement within so many seconds of the one before the last takes the last one's place: one a day stays.
const APART_SECONDS: f64 = 20.0 * 3600.0;
const TRIES: u32 = 10;

#[derive(Debug, Default, Serialize, Deserialize)]
struct CapacityDocument {
    format: u32,
    samples: Vec<CapacitySample>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    old_versions: Option<OldVersions>,
}

/// What was measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measured {
    /// When, and how many bytes there were; oldest first.
    pub samples: Vec<(Timestamp, u64)>,
    /// What a removal leaves in the bucket, when it was last asked; `None` where it frees at once, or where nobody could ask.
    pub old_versions: Option<OldVersions>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct CapacitySample {
    at: Timestamp,
    bytes: u64,
}

impl Reader {
    /// What was measured; nothing before the first time.
    pub async fn capacity(&self) -> Result<Measured, RepoError> {
        let path = layout::capacity();
        match self.store.get(&path).await {
            Ok(bytes) => {
                let document: CapacityDocument = document::read(&path, &bytes)?;
                let samples = document.samples.into_iter().map(|sample| (sample.at, sample.bytes)).collect();
                Ok(Measured { samples, old_versions: document.old_versions })
            }
            Err(StoreError::Missing { .. }) => Ok(Measured::default()),
            Err(e) => Err(e.into()),
        }
    }
}

impl Writer {
    /// Keeps a measurement, and what a removal leaves in the bucket.
    pub async fn keep_capacity(&self, at: Timestamp, bytes: u64, old_versions: Option<&OldVersions>) -> Result<(), RepoError> {
        let path = layout::capacity();
        for _ in 0..TRIES {
            let version = self.store.info(&path).await?.map(|info| info.version);
            let before = match &version {
                // A damaged one is begun anew: nothing else depends on it.
                Some(_) => {
                    self.reader().capacity().await.or_else(|e| if matches!(e, RepoError::Store(_)) { Err(e) } else { Ok(Measured::default()) })?
                }
                None => Measured::default(),
            };
            let mut samples: Vec<CapacitySample> = before.samples.into_iter().map(|(at, bytes)| CapacitySample { at, bytes }).collect();
            if let [.., earlier, _] = samples[..]
                && at.seconds_since(earlier.at) < APART_SECONDS
            {
                samples.pop();
            }
            samples.push(CapacitySample { at, bytes });
            let skipped = samples.len().saturating_sub(KEPT);
            samples.drain(..skipped);
            let body = document::write(&CapacityDocument { format: document::FORMAT, samples, old_versions: old_versions.cloned() })?;
            if self.store.replace(&path, body, version.as_ref()).await?.is_some() {
                return Ok(());
            }
        }
        Err(RepoError::Contended { path: path.to_string() })
    }
}
