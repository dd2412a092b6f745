//! Data keys of a repository: made, wrapped for every recipient, and found again.

use crate::{RepoError, document, layout};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use seal::{DataKey, KeyId, Recipient, RepositoryId, WrapContext};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use store::{Created, Fetch, Put};
use terms::Timestamp;

/// What a data key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyPurpose {
    /// The digests of chunks, the same for the whole repository.
    Digest,
    /// One backup's packs and manifest.
    Backup,
    /// The WAL of one cluster.
    Wal,
}

/// `keys/{key-id}.json`: a data key, wrapped once for each recipient.
#[derive(Debug, Serialize, Deserialize)]
struct KeyDocument {
    format: u32,
    id: KeyId,
    purpose: KeyPurpose,
    created: Timestamp,
    slots: Vec<Slot>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Slot {
    recipient: String,
    /// Base64 of what the recipient made of the key.
    wrapped: String,
}

/// The keys that this process has opened.
pub(crate) struct Keyring {
    repository: RepositoryId,
    recipients: Vec<Arc<dyn Recipient>>,
    opened: Mutex<HashMap<KeyId, DataKey>>,
}

impl Keyring {
    pub(crate) fn new(repository: RepositoryId, recipients: Vec<Arc<dyn Recipient>>) -> Self {
        Self { repository, recipients, opened: Mutex::default() }
    }

    /// Whether nobody was named who could open anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.recipients.is_empty()
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<KeyId, DataKey>> {
        self.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A key opened earlier in this process.
    pub(crate) fn opened(&self, id: KeyId) -> Option<DataKey> {
        self.remembered().get(&id).cloned()
    }

    /// The key with this id, from memory or from the repository.
    pub(crate) async fn open(&self, store: &dyn Fetch, id: KeyId) -> Result<DataKey, RepoError> {
        if let Some(key) = self.opened(id) {
            return Ok(key);
        }
        let path = layout::key(id);
        let found: KeyDocument = document::read(&path, &store.get(&path).await?)?;
        let context = WrapContext { repository: self.repository, key: id };
        let mut refusal = None;
        for slot in &found.slots {
            for recipient in self.recipients.iter().filter(|r| r.name() == slot.recipient) {
                let wrapped = STANDARD
                    .decode(&slot.wrapped)
                    .map_err(|_| RepoError::Document { path: path.to_string(), why: "a wrapped key is not base64".into() })?;
                match recipient.unwrap(&wrapped, &context).await {
                    Ok(bytes) => {
                        let key = DataKey::from_bytes(id, bytes);
                        self.remembered().insert(id, key.clone());
                        return Ok(key);
                    }
                    Err(e) => refusal = Some(e),
                }
            }
        }
        match refusal {
            Some(e) => Err(RepoError::Object { path: path.to_string(), source: e }),
            None => {
                let names = |list: Vec<String>| if list.is_empty() { "nothing".to_owned() } else { list.join(", ") };
                Err(RepoError::NoRecipient {
                    key: id.to_string(),
                    wrapped_for: names(found.slots.into_iter().map(|s| s.recipient).collect()),
                    tried: names(self.recipients.iter().map(|r| r.name()).collect()),
                })
            }
        }
    }

    /// A new data key, stored wrapped for every recipient, and proven to open again before anything is sealed with it.
    pub(crate) async fn create(&self, store: &dyn Put, purpose: KeyPurpose, now: Timestamp) -> Result<DataKey, RepoError> {
        if self.recipients.is_empty() {
            return Err(RepoError::NobodyToWrapFor);
        }
        let key = DataKey::random();
        let context = WrapContext { repository: self.repository, key: key.id() };
        let mut slots = Vec::new();
        for recipient in &self.recipients {
            let wrapped = recipient.wrap(&key, &context).await?;
            if *recipient.unwrap(&wrapped, &context).await? != *key.reveal() {
                return Err(RepoError::Bug(format!("{} does not unwrap what it wrapped", recipient.name())));
            }
            slots.push(Slot { recipient: recipient.name(), wrapped: STANDARD.encode(wrapped) });
        }
        let written = KeyDocument { format: document::FORMAT, id: key.id(), purpose, created: now, slots };
        match store.put_new(&layout::key(key.id()), document::write(&written)?).await? {
            Created::New => {}
            Created::AlreadyThere => return Err(RepoError::Bug("a random key id was taken".into())),
        }
        self.remembered().insert(key.id(), key.clone());
        Ok(key)
    }
}
