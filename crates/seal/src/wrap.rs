//! Who can open a data key: the trait behind which key files, KMS, Vault and recovery keys stand.

use crate::SealError;
use crate::key::{DataKey, KeyId, RepositoryId};
use async_trait::async_trait;
use zeroize::Zeroizing;

/// What a wrapped key is bound to: it unwraps only as this key of this repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrapContext {
    /// The repository.
    pub repository: RepositoryId,
    /// The data key's id.
    pub key: KeyId,
}

/// What a recipient made of a data key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// Who made it, under the name that it keeps for ever: an alias becomes the key that it stood for.
    pub recipient: String,
    /// The wrapped key.
    pub bytes: Vec<u8>,
}

/// Wraps data keys, and unwraps those that it wrapped.
#[async_trait]
pub trait Recipient: Send + Sync {
    /// Its name as far as it is known without asking anybody, for messages: `file:9f86d081884c7d65`. Never a secret.
    fn name(&self) -> String;
    /// Whether what was wrapped under this name may be its own. Asks nobody, so it may hold for more than can be unwrapped.
    fn owns(&self, wrapped_for: &str) -> bool {
        wrapped_for == self.name()
    }
    /// Whether it can unwrap here: of a recovery recipient only the public half is.
    fn can_unwrap(&self) -> bool {
        true
    }
    /// Wraps the key.
    async fn wrap(&self, key: &DataKey, context: &WrapContext) -> Result<Wrapped, SealError>;
    /// Unwraps what [`Recipient::wrap`] returned; refuses what was wrapped for another context.
    async fn unwrap(&self, wrapped: &Wrapped, context: &WrapContext) -> Result<Zeroizing<[u8; 32]>, SealError>;
}
