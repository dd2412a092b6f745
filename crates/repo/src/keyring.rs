//! Data keys of a repository: made, wrapped for every recipient, and found again.

use crate::{RepoError, document, layout};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use seal::{DataKey, KeyId, Recipient, RepositoryId, WrapContext, Wrapped};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::{Created, Fetch, Put};
use terms::{Class, Explain, Timestamp};

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
    /// One snapshot's packs and list of the application's objects.
    Packages,
}

/// `keys/{key-id}.json`: a data key, wrapped once for each recipient.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeyDocument {
    pub(crate) format: u32,
    pub(crate) id: KeyId,
    pub(crate) purpose: KeyPurpose,
    pub(crate) created: Timestamp,
    pub(crate) slots: Vec<Slot>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Slot {
    pub(crate) recipient: String,
    /// When the recipient wrapped it; absent in slots of the first versions, which are as old as the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<Timestamp>,
    /// Base64 of what the recipient made of the key.
    wrapped: String,
}

/// One recipient that was asked to open a data key, and why it did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// By its own name for itself: `file:9f86d081884c7d65`. Never a secret.
    pub recipient: String,
    /// In the words of its error.
    pub why: String,
    /// Of that error; of several attempts one that may pass by itself decides.
    pub class: Class,
    /// The next step; empty when there is none.
    pub hint: String,
}

/// The keys that this process has opened, and who opens more.
pub(crate) struct Keyring {
    repository: RepositoryId,
    /// For whom new data keys are wrapped; they open, too.
    recipients: Vec<Arc<dyn Recipient>>,
    /// Who opens besides.
    openers: Vec<Arc<dyn Recipient>>,
    opened: Mutex<HashMap<KeyId, DataKey>>,
    /// Names of those that did not answer: the next time they are asked last.
    silent: Mutex<HashSet<String>>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keyring {
    pub(crate) fn new(repository: RepositoryId, recipients: Vec<Arc<dyn Recipient>>, openers: Vec<Arc<dyn Recipient>>) -> Self {
        Self { repository, recipients, openers, opened: Mutex::default(), silent: Mutex::default() }
    }

    /// Whether nobody was named who could open anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.recipients.is_empty() && self.openers.is_empty()
    }

    /// A key opened earlier in this process.
    pub(crate) fn opened(&self, id: KeyId) -> Option<DataKey> {
        held(&self.opened).get(&id).cloned()
    }

    pub(crate) fn context(&self, key: KeyId) -> WrapContext {
        WrapContext { repository: self.repository, key }
    }

    /// Everybody who may open, in the order in which they are asked.
    fn everybody(&self) -> Vec<&Arc<dyn Recipient>> {
        let silent = held(&self.silent);
        let mut all: Vec<_> = self.recipients.iter().chain(&self.openers).collect();
        all.sort_by_key(|recipient| silent.contains(&recipient.name()));
        all
    }

    /// The key with this id, from memory or from the repository.
    pub(crate) async fn open(&self, store: &dyn Fetch, id: KeyId) -> Result<DataKey, RepoError> {
        if let Some(key) = self.opened(id) {
            return Ok(key);
        }
        let path = layout::key(id);
        let found: KeyDocument = document::read(&path, &store.get(&path).await?)?;
        let key = self.open_slots(id, &found.slots).await?;
        held(&self.opened).insert(id, key.clone());
        Ok(key)
    }

    /// The key that lies in these slots: any one that opens will do.
    pub(crate) async fn open_slots(&self, id: KeyId, slots: &[Slot]) -> Result<DataKey, RepoError> {
        let context = self.context(id);
        let mut attempts = Vec::new();
        for recipient in self.everybody() {
            for slot in slots.iter().filter(|slot| recipient.owns(&slot.recipient)) {
                let bytes = STANDARD
                    .decode(&slot.wrapped)
                    .map_err(|_| RepoError::Document { path: layout::key(id).to_string(), why: "a wrapped key is not base64".into() })?;
                let wrapped = Wrapped { recipient: slot.recipient.clone(), bytes };
                match recipient.unwrap(&wrapped, &context).await {
                    Ok(bytes) => return Ok(DataKey::from_bytes(id, bytes)),
                    Err(e) => {
                        if e.class() == Class::Transient {
                            held(&self.silent).insert(recipient.name());
                        }
                        attempts.push(Attempt { recipient: recipient.name(), why: e.detail(), class: e.class(), hint: e.hint() });
                    }
                }
            }
        }
        let wrapped_for = slots.iter().map(|slot| slot.recipient.clone()).collect();
        let asked = self.everybody().iter().map(|recipient| recipient.name()).collect();
        Err(RepoError::NoRecipient { key: id.to_string(), wrapped_for, asked, attempts })
    }

    /// A slot of this recipient, and whether it was proven to open again: not where the recipient can only wrap.
    pub(crate) async fn slot(&self, recipient: &dyn Recipient, key: &DataKey, now: Timestamp) -> Result<(Slot, bool), RepoError> {
        let context = self.context(key.id());
        let wrapped = recipient.wrap(key, &context).await?;
        let is_proven = recipient.can_unwrap();
        if is_proven && *recipient.unwrap(&wrapped, &context).await? != *key.reveal() {
            return Err(RepoError::Bug(format!("{} does not unwrap what it wrapped", recipient.name())));
        }
        Ok((Slot { recipient: wrapped.recipient, created: Some(now), wrapped: STANDARD.encode(wrapped.bytes) }, is_proven))
    }

    /// A new data key, stored wrapped for every recipient, and proven to open again before anything is sealed with it: by all of
    /// them that can unwrap, and so by at least one.
    pub(crate) async fn create(&self, store: &dyn Put, purpose: KeyPurpose, now: Timestamp) -> Result<DataKey, RepoError> {
        if self.recipients.is_empty() {
            return Err(RepoError::NobodyToWrapFor);
        }
        let key = DataKey::random();
        let (mut slots, mut is_proven) = (Vec::new(), false);
        for recipient in &self.recipients {
            let (slot, proven) = self.slot(&**recipient, &key, now).await?;
            slots.push(slot);
            is_proven |= proven;
        }
        if !is_proven {
            return Err(RepoError::NobodyToProve);
        }
        let written = KeyDocument { format: document::FORMAT, id: key.id(), purpose, created: now, slots };
        match store.put_new(&layout::key(key.id()), document::write(&written)?).await? {
            Created::New => {}
            Created::AlreadyThere => return Err(RepoError::Bug("a random key id was taken".into())),
        }
        held(&self.opened).insert(key.id(), key.clone());
        Ok(key)
    }
}
