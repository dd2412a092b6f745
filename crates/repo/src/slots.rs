//! The slots of data keys, changed without touching what the keys seal: whom each opens for, and the key that comes next.

use crate::keyring::{KeyDocument, KeyPurpose, Slot};
use crate::{Encryption, Epoch, Reader, RepoError, Writer, document, layout};
use futures::TryStreamExt;
use seal::{DataKey, KeyId, Protection, Recipient};
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use store::{ObjectPath, StoreError, Version};
use terms::Timestamp;

/// A data key as everybody who reads the repository can see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyView {
    /// The same as in its path, `keys/{key-id}.json`.
    pub id: KeyId,
    /// Which objects or digests it is for.
    pub purpose: KeyPurpose,
    /// By the clock of the host that made it.
    pub created: Timestamp,
    /// Any one of them opens it.
    pub slots: Vec<SlotView>,
}

/// Whom it opens for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlotView {
    /// Its name, such as `file:9f86d081884c7d65`; several slots may have the same.
    pub recipient: String,
    /// When it was wrapped for it; where the slot does not say, when the key was made.
    pub created: Timestamp,
}

/// What a recipient did with a key made up to try it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// Its name in slots.
    pub recipient: String,
    /// Whether it unwrapped what it wrapped; a recovery recipient can only wrap.
    pub is_proven: bool,
}

/// What is to become of a data key's slots.
#[derive(Default)]
pub struct Change {
    /// For whom it is wrapped, anew where it was before.
    pub wraps: Vec<Arc<dyn Recipient>>,
    /// Whose slots go, where nothing was wrapped anew under that name. Slots of other names stay, whoever made them meanwhile.
    pub drops: BTreeSet<String>,
}

const TRIES_MAX: usize = 20;

impl Reader {
    /// Every data key, oldest first. Opens none.
    pub async fn keys(&self) -> Result<Vec<KeyView>, RepoError> {
        let paths: Vec<ObjectPath> = self.store.list(layout::KEYS, None).map_ok(|info| info.path).try_collect().await?;
        let mut keys = Vec::with_capacity(paths.len());
        for path in paths {
            let KeyDocument { id, purpose, created, slots, .. } = document::read(&path, &self.store.get(&path).await?)?;
            let slots = slots.into_iter().map(|slot| SlotView { created: slot.created.unwrap_or(created), recipient: slot.recipient }).collect();
            keys.push(KeyView { id, purpose, created, slots });
        }
        keys.sort_by_key(|key| (key.created, key.id));
        Ok(keys)
    }

    /// The data key itself, opened by whoever can: for an export.
    pub async fn data_key(&self, id: KeyId) -> Result<DataKey, RepoError> {
        self.keyring.open(&*self.store, id).await
    }

    /// Lets a recipient wrap and, where it can, unwrap a key made up for this. Nothing is stored.
    pub async fn prove(&self, recipient: &dyn Recipient) -> Result<Proof, RepoError> {
        let (slot, is_proven) = self.keyring.slot(recipient, &DataKey::random(), self.document.created).await?;
        Ok(Proof { recipient: slot.recipient, is_proven })
    }

    /// Which of the paths that write on their own would store something unsealed: none, unless repository.json says so.
    pub fn writes_plain(&self) -> Vec<&'static str> {
        match (self.document.encryption, self.document.digest_key, self.document.epochs.last()) {
            (Encryption::Off, ..) => vec!["backup", "wal receive", "wal push"],
            (_, None, _) => vec!["backup"],
            (_, _, Some(Epoch { wal_key: None, .. })) => vec!["wal receive", "wal push"],
            _ => Vec::new(),
        }
    }
}

impl Writer {
    /// Nothing is listed whose key is gone: expiry takes the key of an attempt for one that failed, after a week without a sign of it.
    pub(crate) async fn key_is_there(&self, key: Option<KeyId>) -> Result<(), RepoError> {
        let Some(path) = key.map(layout::key) else { return Ok(()) };
        match self.store.info(&path).await? {
            Some(_) => Ok(()),
            None => Err(StoreError::Missing { store: self.reader.address(), path: path.to_string() }.into()),
        }
    }

    /// Changes the slots of one data key, in one replacement of its document. Refused when nobody who is here can prove that what
    /// is left opens it; each new slot is proven before, where its recipient can. Returns whose slots it has then.
    pub async fn change_slots(&self, id: KeyId, change: &Change, now: Timestamp) -> Result<Vec<String>, RepoError> {
        let path = layout::key(id);
        let keyring = &self.reader.keyring;
        let mut made: Option<(Vec<Slot>, bool)> = None;
        for _ in 0..TRIES_MAX {
            let (mut found, version) = self.key_now(&path).await?;
            let (new, is_new_proven) = match &made {
                Some(made) => made,
                None => {
                    // From these slots rather than from memory: what is wrapped anew is what they hold.
                    let key = match change.wraps.is_empty() {
                        true => None,
                        false => Some(keyring.open_slots(id, &found.slots).await?),
                    };
                    let (mut slots, mut any_proven) = (Vec::new(), false);
                    for recipient in &change.wraps {
                        let Some(key) = &key else { break };
                        let (slot, is_proven) = keyring.slot(&**recipient, key, now).await?;
                        slots.push(slot);
                        any_proven |= is_proven;
                    }
                    made.insert((slots, any_proven))
                }
            };
            let stays = |slot: &Slot| !change.drops.contains(&slot.recipient) && !new.iter().any(|new| new.recipient == slot.recipient);
            let left: Vec<Slot> = found.slots.iter().filter(|slot| stays(slot)).chain(new).cloned().collect();
            let names: Vec<String> = left.iter().map(|slot| slot.recipient.clone()).collect();
            // Nothing to do, or the answer to our own replacement was lost.
            if left == found.slots {
                return Ok(names);
            }
            if !is_new_proven {
                keyring.open_slots(id, &left).await.map_err(|e| match e {
                    RepoError::NoRecipient { key, wrapped_for, attempts, .. } => RepoError::LastRecipient { key, left: wrapped_for, attempts },
                    other => other,
                })?;
            }
            found.slots = left;
            if self.store.replace(&path, document::write(&found)?, Some(&version)).await?.is_some() {
                return Ok(names);
            }
        }
        Err(RepoError::Contended { path: path.to_string() })
    }

    /// A key's document as it is at this moment, and its version.
    async fn key_now(&self, path: &ObjectPath) -> Result<(KeyDocument, Version), RepoError> {
        let Some(info) = self.store.info(path).await? else {
            return Err(store::StoreError::Missing { store: self.store.address(), path: path.to_string() }.into());
        };
        Ok((document::read(path, &self.store.get(path).await?)?, info.version))
    }

    /// Gives the present epoch a new data key for its WAL. What is stored stays under the former one, which stays, too. Each backup
    /// has a key of its own anyway, and the digests' key must not change: chunks are compared by it.
    pub async fn rotate_wal_key(&mut self, now: Timestamp) -> Result<Epoch, RepoError> {
        let mut made: Option<KeyId> = None;
        for _ in 0..TRIES_MAX {
            let (mut document, version) = self.repository_now().await?;
            let Some(present) = document.epochs.last_mut() else { return Err(RepoError::NoCluster) };
            // The answer to our own replacement may have been lost.
            if made.is_some() && present.wal_key == made {
                let epoch = present.clone();
                self.reader.document = document;
                return Ok(epoch);
            }
            if let Protection::Plain = self.wal_protection(present).await? {
                return Err(RepoError::NobodyToWrapFor);
            }
            let id = match made {
                Some(id) => id,
                None => *made.insert(self.reader.keyring.create(&*self.store, KeyPurpose::Wal, now).await?.id()),
            };
            present.wal_key = Some(id);
            let epoch = present.clone();
            self.replace_repository(document, &version).await?;
            if self.reader.document.epochs.last() == Some(&epoch) {
                return Ok(epoch);
            }
        }
        Err(RepoError::Contended { path: layout::repository().to_string() })
    }
}
