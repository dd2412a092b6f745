//! What guards the way of WAL, against real servers: the slot, synchronous commit, and the lease that lets one receiver act.

#[path = "guard/leases.rs"]
mod leases;
#[path = "guard/slot.rs"]
mod slot;
#[path = "guard/synchronous.rs"]
mod synchronous;

use pg::{ConnInfo, Finding, PgError, Severity};
use std::time::Duration;
use terms::Explain;
use testkit::Cluster;

fn info(text: &str) -> ConnInfo {
    ConnInfo::parse(text, &|_| None).unwrap_or_else(|error| panic!("{}", error.advice()))
}

fn as_superuser(cluster: &Cluster) -> ConnInfo {
    info(&cluster.conninfo())
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test takes too long") })
}

/// The happy result, or a panic with everything the error has to say.
fn ok<T>(result: Result<T, PgError>) -> T {
    result.unwrap_or_else(|error| panic!("{}", error.advice()))
}

/// The finding of this slug, which must be there with this severity.
fn find<'a>(found: &'a [Finding], slug: &str, severity: Severity) -> &'a Finding {
    found.iter().find(|f| f.slug == slug && f.severity == severity).unwrap_or_else(|| panic!("no {slug} ({severity:?}) in {found:#?}"))
}

fn has(found: &[Finding], slug: &str) -> bool {
    found.iter().any(|f| f.slug == slug)
}
