//! What is so at this moment, gathered once, and the rules that say what of it somebody must be told.

mod capacity;
mod copy;
mod disk;
pub mod facts;
mod gather;
mod jobs;
mod keys;
mod ledger;
mod repository;
mod rules;
mod server;
mod settings;
mod words;

pub use copy::compare as compare_copies;
pub use facts::{Facts, Look, Trouble};
pub use gather::{Ages, Watcher};
pub use jobs::{DAEMON_ON, FINDERS, run_facts};
pub use rules::{RULES, judge, rpo_seconds};
pub use server::is_archived_here;
pub use settings::{Doors, JobPlan, Settings};

/// The lease of the daemon that acts.
pub const DAEMON_LEASE: &str = "daemon";
