//! Wraps data keys so that only those who may can open a repository: key files, AWS KMS, Vault or OpenBao transit, recovery keys (age).

mod aws;
#[cfg(test)]
mod aws_tests;
mod aws_trouble;
mod bound;
mod error;
mod export;
mod keyfile;
mod recovery;
mod spec;
mod vault;
mod vault_login;

pub use error::KeyError;
pub use export::{seal_for, suits};
pub use keyfile::KeyFile;
pub use recovery::{RecoveryIdentity, RecoveryKey};
pub use spec::{Spec, named, opened_by};
