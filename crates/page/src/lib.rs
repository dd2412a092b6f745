//! Shows what is so: the page for people, the metrics for Prometheus. Read-only; what it shows it is given.

mod access;
mod connection;
mod door;
mod error;
mod guests;
mod kept;
mod metrics;
mod routes;
mod view;

pub use door::{Page, PageSettings, TlsFiles};
pub use error::PageError;
pub use kept::Kept;
pub use metrics::{METRICS, Metric, metrics};

use async_trait::async_trait;
use serde_json::Value;
use std::sync::Arc;
use watch::facts::RunFacts;
use watch::{Facts, Trouble};

/// Where the page has it from.
#[async_trait]
pub trait Source: Send + Sync {
    /// The newest observation; `None` before the first.
    fn facts(&self) -> Option<Arc<Facts>>;
    /// Whether it goes on observing: one that does not is begun anew by whoever asks `/healthz`.
    fn looks_on(&self) -> bool {
        true
    }
    /// What was told to whom, and how channels stand: `alerts::View` as JSON; null where nobody is told, or where that cannot be read.
    async fn alerts(&self) -> Value {
        Value::Null
    }
    /// The newest runs, newest first.
    async fn runs(&self) -> Result<Vec<RunFacts>, Trouble>;
    /// The last lines of a run, of one that is under way those so far; `None` where there is no such run.
    async fn log(&self, run: &str) -> Result<Option<Vec<String>>, Trouble>;
    /// What `bowline restore --plan --json --to TARGET` says: its result, or its error in words.
    async fn plan(&self, target: &str) -> Result<Value, Trouble>;
}
