//! Opening and creating a repository; the authorities to read it and to add to it.

use crate::keyring::{KeyPurpose, Keyring};
use crate::{Epoch, RepoError, document, layout};
use seal::{DataKey, Digester, KeyId, ObjectKind, OpenObject, Protection, Recipient, RepositoryId, SealedObject};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use store::{Created, Fetch, ObjectPath, Put};
use terms::Timestamp;

/// Whether new objects are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encryption {
    /// The default.
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// Switched off by name.
    #[serde(rename = "off")]
    Off,
}

/// `repository.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryDocument {
    /// 1 so far; a document with a larger number is refused.
    pub format: u32,
    /// 16 random bytes, chosen once; copies of the repository keep it.
    pub id: RepositoryId,
    /// The organization under which it was made.
    pub org: String,
    /// By the clock of the host that made it.
    pub created: Timestamp,
    /// The Bowline that made it.
    pub created_by: String,
    /// Holds for everything that is written here.
    pub encryption: Encryption,
    /// The data key that all chunks are digested with; absent where encryption is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest_key: Option<KeyId>,
    /// What the store was probed to support when the repository was made.
    pub store: serde_json::Value,
    /// The clusters, oldest first; the last one is the present one.
    pub epochs: Vec<Epoch>,
}

/// The authority to read a repository.
#[derive(Clone)]
pub struct Reader {
    pub(crate) store: Arc<dyn Fetch>,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) document: RepositoryDocument,
}

impl Reader {
    /// Opens the repository at the root of `store`.
    pub async fn open(store: Arc<dyn Fetch>, recipients: Vec<Arc<dyn Recipient>>) -> Result<Self, RepoError> {
        Self::open_also(store, recipients, Vec::new()).await
    }

    async fn open_also(store: Arc<dyn Fetch>, recipients: Vec<Arc<dyn Recipient>>, openers: Vec<Arc<dyn Recipient>>) -> Result<Self, RepoError> {
        let document = match store.get(&layout::repository()).await {
            Ok(bytes) => document::read::<RepositoryDocument>(&layout::repository(), &bytes)?,
            Err(store::StoreError::Missing { .. }) => return Err(RepoError::NoRepository { address: store.address() }),
            Err(e) => return Err(e.into()),
        };
        // repository.json is not sealed: whoever can write to the store can make it say "off". Who names keys wants encryption.
        if document.encryption == Encryption::Off && !(recipients.is_empty() && openers.is_empty()) {
            return Err(RepoError::NotEncrypted { address: store.address() });
        }
        let keyring = Arc::new(Keyring::new(document.id, recipients, openers));
        Ok(Self { store, keyring, document })
    }

    /// What repository.json says.
    pub fn document(&self) -> &RepositoryDocument {
        &self.document
    }
    /// Where the repository is, for messages.
    pub fn address(&self) -> String {
        self.store.address()
    }
    /// The door to the store, for reading packs.
    pub fn store(&self) -> &Arc<dyn Fetch> {
        &self.store
    }
    /// Whether plain objects are refused.
    pub fn sealed_only(&self) -> bool {
        self.document.encryption == Encryption::Aes256Gcm
    }

    /// What digests chunks of this repository.
    pub async fn digester(&self) -> Result<Digester, RepoError> {
        Ok(self.digest_key().await?.map_or_else(Digester::plain, |key| Digester::keyed(key.reveal())))
    }

    /// The key of digests; `None` where encryption is off.
    pub(crate) async fn digest_key(&self) -> Result<Option<DataKey>, RepoError> {
        match self.document.digest_key {
            Some(id) => Ok(Some(self.keyring.open(&*self.store, id).await?)),
            None if self.sealed_only() => {
                Err(RepoError::Document { path: layout::repository().to_string(), why: "it is encrypted and names no key for digests".into() })
            }
            None => Ok(None),
        }
    }

    /// Reads an object's header and finds its key.
    pub async fn open_object(&self, path: &ObjectPath, kind: ObjectKind, header: &[u8]) -> Result<OpenObject, RepoError> {
        if let Some(id) = OpenObject::key_named(header) {
            match self.keyring.open(&*self.store, id).await {
                // What is to blame is this object, or nobody could tell which one it is.
                Err(RepoError::Store(store::StoreError::Missing { .. })) => {
                    return Err(RepoError::object(path)(seal::SealError::UnknownKey { key: id }));
                }
                opened => opened?,
            };
        }
        OpenObject::open(header, kind, &self.document.id, path.as_str(), self.sealed_only(), |id| self.keyring.opened(id))
            .map_err(RepoError::object(path))
    }

    /// [`Reader::open_object`] of a pack, which is sealed with the key of its own backup or snapshot: whoever got to know another data key of
    /// this repository makes no part of it.
    pub async fn open_pack(&self, path: &ObjectPath, key: Option<KeyId>, header: &[u8]) -> Result<OpenObject, RepoError> {
        if let Some(found) = OpenObject::key_named(header).filter(|found| Some(*found) != key) {
            return Err(RepoError::object(path)(seal::SealError::OtherKey { key: found }));
        }
        self.open_object(path, ObjectKind::Pack, header).await
    }

    /// Fetches and opens a small sealed object.
    pub async fn fetch_whole(&self, path: &ObjectPath, kind: ObjectKind) -> Result<Vec<u8>, RepoError> {
        let sealed = self.store.get(path).await?;
        let object = self.open_object(path, kind, &sealed).await?;
        seal::open_whole(object, &sealed).map_err(RepoError::object(path))
    }
}

/// The authority to add to a repository.
#[derive(Clone)]
pub struct Writer {
    pub(crate) reader: Reader,
    pub(crate) store: Arc<dyn Put>,
}

impl Writer {
    /// Makes a new repository; refuses to touch one that is there.
    pub async fn create(
        store: Arc<dyn Put>,
        recipients: Vec<Arc<dyn Recipient>>,
        org: &str,
        encryption: Encryption,
        probed: serde_json::Value,
        now: Timestamp,
    ) -> Result<Self, RepoError> {
        let exists = || RepoError::Exists { address: store.address() };
        if store.info(&layout::repository()).await?.is_some() {
            return Err(exists());
        }
        let id = RepositoryId::random();
        let keyring = Arc::new(Keyring::new(id, recipients, Vec::new()));
        let digest_key = match encryption {
            Encryption::Aes256Gcm => Some(keyring.create(&*store, KeyPurpose::Digest, now).await?.id()),
            Encryption::Off => None,
        };
        let document = RepositoryDocument {
            format: document::FORMAT,
            id,
            org: org.to_owned(),
            created: now,
            created_by: created_by(),
            encryption,
            digest_key,
            store: probed,
            epochs: Vec::new(),
        };
        match store.put_new(&layout::repository(), document::write(&document)?).await? {
            Created::New => {}
            Created::AlreadyThere => return Err(exists()),
        }
        Ok(Self { reader: Reader { store: store.clone(), keyring, document }, store })
    }

    /// Opens a repository for adding.
    pub async fn open(store: Arc<dyn Put>, recipients: Vec<Arc<dyn Recipient>>) -> Result<Self, RepoError> {
        Self::open_also(store, recipients, Vec::new()).await
    }

    /// The same; what is there may be opened by `openers`, too, for whom nothing new is wrapped.
    pub async fn open_also(store: Arc<dyn Put>, recipients: Vec<Arc<dyn Recipient>>, openers: Vec<Arc<dyn Recipient>>) -> Result<Self, RepoError> {
        let reader = Reader::open_also(store.clone(), recipients, openers).await?;
        if reader.sealed_only() && reader.keyring.is_empty() {
            return Err(RepoError::NobodyToWrapFor);
        }
        // A key that opens nothing here must not wrap anything here either: nobody could read it again.
        reader.digester().await?;
        Ok(Self { reader, store })
    }

    /// The authority to read.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// A new data key for a backup, or plain where encryption is off by name.
    pub async fn backup_protection(&self, now: Timestamp) -> Result<Protection, RepoError> {
        self.new_protection(KeyPurpose::Backup, now).await
    }

    pub(crate) async fn new_protection(&self, purpose: KeyPurpose, now: Timestamp) -> Result<Protection, RepoError> {
        match self.reader.document.encryption {
            Encryption::Aes256Gcm => Ok(Protection::Sealed(self.reader.keyring.create(&*self.store, purpose, now).await?)),
            Encryption::Off => self.plain(),
        }
    }

    /// The last gate before anything is stored readable: never by a host that has keys, whatever the document says.
    fn plain(&self) -> Result<Protection, RepoError> {
        match self.reader.keyring.is_empty() {
            true => Ok(Protection::Plain),
            false => Err(RepoError::NotEncrypted { address: self.reader.address() }),
        }
    }

    /// The data key of an epoch's WAL.
    pub async fn wal_protection(&self, epoch: &Epoch) -> Result<Protection, RepoError> {
        match (self.reader.document.encryption, epoch.wal_key) {
            (Encryption::Aes256Gcm, Some(id)) => Ok(Protection::Sealed(self.open_key(id).await?)),
            (Encryption::Off, None) => self.plain(),
            _ => {
                Err(RepoError::Document { path: layout::repository().to_string(), why: "its epochs and its encryption contradict each other".into() })
            }
        }
    }

    async fn open_key(&self, id: KeyId) -> Result<DataKey, RepoError> {
        self.reader.keyring.open(&*self.store, id).await
    }

    /// Begins the object at `path` with a key of its own.
    pub(crate) fn seal_object(&self, protection: &Protection, kind: ObjectKind, path: &ObjectPath) -> SealedObject {
        SealedObject::begin(protection, kind, &self.reader.document.id, path.as_str())
    }

    /// Returns when all packs and manifests finished so far are durable.
    pub async fn settle(&self) -> Result<(), RepoError> {
        Ok(self.store.settle().await?)
    }
}

/// Name and version for documents.
pub(crate) fn created_by() -> String {
    format!("bowline {}", env!("CARGO_PKG_VERSION"))
}
