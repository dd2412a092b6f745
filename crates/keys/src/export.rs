//! Whom an exported data key is sealed for.

use crate::{KeyError, RecoveryKey};
use seal::SealError;

/// The public key that `--to` names: `age1…`, also written `age:age1…`.
pub fn suits(text: &str) -> Result<RecoveryKey, KeyError> {
    text.strip_prefix("age:").unwrap_or(text).parse().map_err(|why| KeyError::NotARecipient { text: text.to_owned(), why })
}

/// An age file, as text, that the private half of this key opens (`age --decrypt`).
pub fn seal_for(whom: &RecoveryKey, plain: &[u8]) -> Result<String, SealError> {
    whom.seal(plain)
}
