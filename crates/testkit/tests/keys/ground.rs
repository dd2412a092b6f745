//! Keepers of keys beside a cluster: OpenBao, the mock of the AWS KMS, a recovery key whose private half lies elsewhere.

use age::secrecy::ExposeSecret;
use std::path::PathBuf;
use testkit::moto::REGION;
use testkit::openbao::ROOT_TOKEN;
use testkit::{Bowline, Cluster, Moto, OpenBao, newest_major};

pub fn cluster() -> Cluster {
    let cluster = Cluster::builder(newest_major()).setting("wal_level", "replica").start();
    cluster.psql("CREATE TABLE kept AS SELECT i, md5(i::text) AS what FROM generate_series(1, 2000) i");
    cluster
}

/// What AWS's own programs read.
pub fn aws_environment() -> Vec<(&'static str, &'static str)> {
    vec![("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "planted-aws-secret-0001"), ("AWS_REGION", REGION)]
}

pub fn environment() -> Vec<(&'static str, &'static str)> {
    let mut all = aws_environment();
    all.push(("VAULT_TOKEN", ROOT_TOKEN));
    all
}

#[allow(dead_code, reason = "the tests with proxies name their own")]
pub fn aws(moto: &Moto, key: &str) -> String {
    format!("aws-kms:{key}?region={REGION}&endpoint={}", moto.endpoint())
}

#[allow(dead_code, reason = "the tests with proxies name their own")]
pub fn vault(bao: &OpenBao, key: &str) -> String {
    format!("vault-transit:{key}?address={}", bao.address())
}

/// A recovery key: its public half as a recipient, and its private half as a file's text.
#[allow(dead_code, reason = "not every test binary recovers")]
pub fn recovery() -> (String, String) {
    let identity = age::x25519::Identity::generate();
    (format!("age:{}", identity.to_public()), format!("# recovery\n{}\n", identity.to_string().expose_secret()))
}

/// A file in this Bowline's own folder that only the server's user reads.
#[allow(dead_code, reason = "not every test binary writes one")]
pub fn private_file(bowline: &Bowline<'_>, name: &str, text: &str) -> PathBuf {
    let path = bowline.dir().join(name);
    testkit::write_private(&path, text);
    path
}

/// Waits until the receiver has told the server that all of now is stored.
#[allow(dead_code, reason = "not every test binary streams")]
pub fn stored(cluster: &Cluster) {
    let now = cluster.psql("SELECT pg_current_wal_flush_lsn()");
    let is_stored = format!("SELECT bool_and(restart_lsn >= '{now}') FROM pg_replication_slots");
    testkit::bowline::wait("all of it to be stored", std::time::Duration::from_secs(60), || cluster.psql(&is_stored) == "t");
}

/// What every restore must bring back.
pub const KEPT: &str = "SELECT count(*), sum(hashtext(what)) FROM kept";
