//! Wraps data keys so that only those who may can open a repository. Today: key files; KMS and Vault follow behind the same trait.

mod error;
mod keyfile;

pub use error::KeyError;
pub use keyfile::KeyFile;
