//! What a plan says will be asked and reached, word for word: the configuration may have come out of the repository.

use crate::config::Packages;
use rescue::{RescueOptions, Validation};

/// The queries that the restored server is asked.
pub fn queries(options: &RescueOptions) -> Vec<String> {
    if options.validation == Validation::None {
        return Vec::new();
    }
    let question = |asked: &checks::Question| format!("asked in {}: {} (expected {})", asked.database, asked.sql, asked.expect);
    let mut queries: Vec<String> = options.questions.iter().map(question).collect();
    queries.extend(options.references.as_ref().map(|asked| format!("asked in {} for its packages: {}", asked.database, asked.sql)));
    queries
}

/// Where packages come from, and where they go.
pub fn places(packages: &Packages) -> String {
    let replica = packages.replica.as_ref().map(|replica| format!("its replica {}", replica.url()));
    let snapshots = packages.snapshots.as_ref().map(|snapshots| format!("snapshots in {snapshots}"));
    let sources: Vec<String> = replica.into_iter().chain(snapshots).collect();
    format!("packages go into {}, out of {}", packages.primary.url(), sources.join(" and "))
}
