//! Grounds for tests: real PostgreSQL clusters, alone and under Patroni, the real `bowline` program, a ledger of acknowledged commits, real S3 servers, OpenBao and a mock of the AWS KMS, a real Alertmanager and mail server with mocks of others who take alerts, connections that break on request and the store's conformance suite.
//!
//! Nothing here skips: a server that is missing fails the test that needs it, and says which command brings it.

pub mod alertmanager;
mod asking;
mod bare;
pub mod bowline;
pub mod certificates;
mod clock;
pub mod cluster;
pub mod conformance;
pub mod damage;
pub mod drill;
pub mod hook;
mod in_bucket;
mod launch;
pub mod loopback;
pub mod mail;
pub mod minio;
pub mod moto;
pub mod openbao;
pub mod patroni;
mod place;
mod planted;
mod receiver;
pub mod s3;
pub mod stand_in;
pub mod stores;
pub mod tamper;
pub mod toxiproxy;
pub mod workload;

pub use alertmanager::Alertmanager;
pub use bare::BareMachine;
pub use bowline::{Bowline, RepositoryKind, Restored};
pub use clock::MovedClock;
pub use cluster::{Builder, Cluster};
pub use hook::{Hook, Manner};
pub use in_bucket::InBucket;
pub use launch::{child_of, processes_that};
pub use mail::MailServer;
pub use moto::Moto;
pub use openbao::OpenBao;
pub use patroni::PatroniCluster;
pub use place::write_private;
pub use toxiproxy::{Proxy, Toxic, Toxiproxy};
pub use workload::{Acknowledged, Workload};

/// The PostgreSQL majors under test, oldest first: `BOWLINE_MAJORS` ("15 18" or "15,18"), or every supported one.
pub fn majors() -> Vec<u32> {
    let wanted = std::env::var("BOWLINE_MAJORS").unwrap_or_default();
    let mut majors: Vec<u32> = wanted
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().unwrap_or_else(|_| panic!("BOWLINE_MAJORS must hold majors such as \"15 18\", not {word:?}")))
        .collect();
    if majors.is_empty() {
        majors = vec![15, 16, 17, 18];
    }
    majors.sort_unstable();
    majors
}

/// The oldest and the newest major under test, all of them in the long form: for tests that take long and differ little between majors.
pub fn outer_majors() -> Vec<u32> {
    let all = majors();
    match all[..] {
        [oldest, .., newest] if !full() => vec![oldest, newest],
        _ => all,
    }
}

/// The newest major under test: for what does not differ between majors.
pub fn newest_major() -> u32 {
    *majors().last().expect("at least one major")
}

/// Whether the long form of each test was asked for (`./test --full`).
pub fn full() -> bool {
    std::env::var("BOWLINE_FULL").is_ok_and(|value| value == "1")
}

/// The seed of one randomised test, printed so that a failure can be repeated: derived from `BOWLINE_SEED`
/// (random when unset) and the test's name, so that each test walks its own path.
pub fn seed(name: &str) -> u64 {
    static RUN: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let run = *RUN.get_or_init(|| match std::env::var("BOWLINE_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("BOWLINE_SEED must be a whole number, not {text:?}")),
        // The random keys of a hash map are the one source of chance that needs no crate.
        Err(_) => std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 0) >> 1,
    });
    // FNV-1a, because it must give the same number on every machine and release.
    let own = name.bytes().fold(run ^ 0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    eprintln!("{name}: BOWLINE_SEED={run} (seed {own})");
    own
}

/// Lets every user write to a socket of a test's own.
pub fn let_everybody_write(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).expect("chmod");
}

/// Lets every user pass through a folder: a test's own is closed to all but who made it.
pub fn let_everybody_in(folder: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).expect("chmod");
}
