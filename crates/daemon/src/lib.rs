//! Acts on time: the schedule, the WAL receiver and the watch, each job a process of its own, one daemon at a time.

mod act;
mod child;
mod due;
mod look;
mod office;
mod receiver;
mod turn;

pub use act::run;
pub use child::{Program, Said};
pub use office::{Observed, Office};
pub use turn::Role;

use async_trait::async_trait;
use repo::Writer;
use std::sync::Arc;
use std::time::Duration;
use terms::Judgement;
use watch::{Doors, Facts, Settings, Trouble};

/// Where the daemon works: the configuration, and what it opens.
#[async_trait]
pub trait Premises: Send + Sync {
    /// How this daemon calls itself: host and process.
    fn name(&self) -> String;
    /// Reads the configuration.
    fn load(&self) -> Result<Loaded, Trouble>;
    /// Opens the repository for writing: the lease and the ledger.
    async fn writer(&self) -> Result<Writer, Trouble>;
}

/// Who tells people.
#[async_trait]
pub trait Tell: Send + Sync {
    /// Takes what the rules say now. Quick: what is sent is sent beside.
    async fn judge(&self, judgement: &Judgement, facts: &Facts);
    /// Waits for what is on its way, for so long at most.
    async fn finish(&self, limit: Duration);
}

/// The configuration in force.
pub struct Loaded {
    /// What is watched, with the schedule of all jobs.
    pub settings: Settings,
    /// By which the watch looks; opened by this configuration.
    pub doors: Arc<dyn Doors>,
    /// `None`: nobody is told of anything.
    pub tell: Option<Arc<dyn Tell>>,
    /// How the commands are called.
    pub program: Program,
    /// Whether it runs the WAL receiver; false where another process does.
    pub receives: bool,
    /// Whether it begins drills, or only watches that somebody holds them.
    pub holds_drills: bool,
    /// Whether it expires, or only watches that somebody does.
    pub expires: bool,
    /// The pause between two looks at everything.
    pub watch_interval: Duration,
    /// Of the daemon's lease: unrenewed for so long it is free to others. Only that of the first load counts.
    pub lease_ttl: Duration,
    /// How long a job may take before it is ended.
    pub job_limit: Duration,
}

/// Waits until the daemon is told to end.
async fn told(end: &mut tokio::sync::watch::Receiver<bool>) {
    drop(end.wait_for(|end| *end).await);
}
