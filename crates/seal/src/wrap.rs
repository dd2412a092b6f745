//! Who can open a data key: the trait behind which key files, KMS and Vault stand.

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

/// Wraps data keys, and unwraps those that it wrapped.
#[async_trait]
pub trait Recipient: Send + Sync {
    /// A stable name, kept beside what it wrapped: `file:9f86d081884c7d65`. Never a secret.
    fn name(&self) -> String;
    /// Wraps the key.
    async fn wrap(&self, key: &DataKey, context: &WrapContext) -> Result<Vec<u8>, SealError>;
    /// Unwraps what [`Recipient::wrap`] returned; refuses what was wrapped for another context.
    async fn unwrap(&self, wrapped: &[u8], context: &WrapContext) -> Result<Zeroizing<[u8; 32]>, SealError>;
}
