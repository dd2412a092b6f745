//! `capacity.json`: how many bytes the repository took, a measurement a day.

use crate::{Reader, RepoError, Writer, document, layout};
use serde::{Deserialize, Serialize};
use store::StoreError;
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
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct CapacitySample {
    at: Timestamp,
    bytes: u64,
}

impl Reader {
    /// What was measured, oldest first.
    pub async fn capacity(&self) -> Result<Vec<(Timestamp, u64)>, RepoError> {
        let path = layout::capacity();
        match self.store.get(&path).await {
            Ok(bytes) => {
                let document: CapacityDocument = document::read(&path, &bytes)?;
                Ok(document.samples.into_iter().map(|sample| (sample.at, sample.bytes)).collect())
            }
            Err(StoreError::Missing { .. }) => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        }
    }
}

impl Writer {
    /// Keeps a measurement.
    pub async fn keep_capacity(&self, at: Timestamp, bytes: u64) -> Result<(), RepoError> {
        let path = layout::capacity();
        for _ in 0..TRIES {
            let version = self.store.info(&path).await?.map(|info| info.version);
            let before = match &version {
                // A damaged one is begun anew: nothing else depends on it.
                Some(_) => self.reader().capacity().await.or_else(|e| if matches!(e, RepoError::Store(_)) { Err(e) } else { Ok(Vec::new()) })?,
                None => Vec::new(),
            };
            let mut samples: Vec<CapacitySample> = before.into_iter().map(|(at, bytes)| CapacitySample { at, bytes }).collect();
            if let [.., earlier, _] = samples[..]
                && at.seconds_since(earlier.at) < APART_SECONDS
            {
                samples.pop();
            }
            samples.push(CapacitySample { at, bytes });
            let skipped = samples.len().saturating_sub(KEPT);
            samples.drain(..skipped);
            let body = document::write(&CapacityDocument { format: document::FORMAT, samples })?;
            if self.store.replace(&path, body, version.as_ref()).await?.is_some() {
                return Ok(());
            }
        }
        Err(RepoError::Contended { path: path.to_string() })
    }
}
