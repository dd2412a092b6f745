//! Epochs: the clusters that a repository was for, one after the other, and the one that it is for now.

use crate::keyring::KeyPurpose;
use crate::{Encryption, Reader, RepoError, RepositoryDocument, Writer, document, layout};
use seal::KeyId;
use serde::{Deserialize, Serialize};
use terms::{SystemId, Timestamp};

/// A cluster's time in the repository; pg_upgrade or a new initdb begins another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// The cluster's, as initdb made it: no two epochs have the same.
    pub system_id: SystemId,
    /// PostgreSQL's major version.
    pub major: u32,
    /// By the clock of the host that began it.
    pub since: Timestamp,
    /// The data key of this epoch's WAL; absent where encryption is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wal_key: Option<KeyId>,
}

impl RepositoryDocument {
    /// The epoch of a cluster, and when the one after it began; `None` for a cluster that was never admitted.
    pub fn epoch_of(&self, system_id: SystemId) -> Option<(&Epoch, Option<Timestamp>)> {
        let at = self.rank(system_id)?;
        Some((&self.epochs[at], self.epochs.get(at + 1).map(|next| next.since)))
    }

    /// Where a cluster's epoch is in the list: a later one has the greater number.
    pub(crate) fn rank(&self, system_id: SystemId) -> Option<usize> {
        self.epochs.iter().position(|epoch| epoch.system_id == system_id)
    }

    /// Whether this cluster is the present one; `None` when there is no cluster yet. A cluster is told by its system identifier,
    /// which initdb makes: pg_upgrade, too, fills a cluster that initdb made, so an upgraded one never has the old identifier.
    fn admits(&self, system_id: SystemId, major: u32) -> Option<Result<&Epoch, RepoError>> {
        let present = self.epochs.last()?;
        Some(match self.epoch_of(system_id) {
            Some((epoch, None)) if epoch.major == major => Ok(epoch),
            Some((epoch, None)) => Err(RepoError::MajorDiffers { system_id, ours: epoch.major, found: major }),
            Some((_, Some(ended))) => Err(RepoError::EpochEnded { ours: present.system_id, found: system_id, ended }),
            None => Err(RepoError::ForeignCluster { ours: present.system_id, found: system_id }),
        })
    }

    /// The present epoch, if a new one of this cluster may follow it.
    fn precedes(&self, system_id: SystemId) -> Result<&Epoch, RepoError> {
        let Some(present) = self.epochs.last() else { return Err(RepoError::NoCluster) };
        match self.epoch_of(system_id) {
            None => Ok(present),
            Some((_, None)) => Err(RepoError::EpochPresent { system_id, since: present.since }),
            Some((_, Some(ended))) => Err(RepoError::EpochEnded { ours: present.system_id, found: system_id, ended }),
        }
    }
}

impl Reader {
    /// The present cluster, if one was backed up already.
    pub fn epoch(&self) -> Option<&Epoch> {
        self.document.epochs.last()
    }

    /// The present epoch, which one of the cluster `system_id` may follow. Refused: a cluster that has an epoch, present or past,
    /// and any cluster while the repository is empty.
    pub fn epoch_before(&self, system_id: SystemId) -> Result<&Epoch, RepoError> {
        self.document.precedes(system_id)
    }
}

impl Writer {
    /// Admits a cluster: the first one becomes the repository's; of all others only that of the present epoch is admitted.
    pub async fn admit(&mut self, system_id: SystemId, major: u32, now: Timestamp) -> Result<Epoch, RepoError> {
        for _ in 0..10 {
            let (mut document, version) = self.repository_now().await?;
            if let Some(admitted) = document.admits(system_id, major).map(|admitted| admitted.cloned()) {
                self.reader.document = document;
                return admitted;
            }
            let epoch = self.new_epoch(&document, system_id, major, now).await?;
            document.epochs.push(epoch);
            // Somebody else may have admitted a cluster meanwhile: then look again, and never overwrite.
            self.replace_repository(document, &version).await?;
        }
        match self.reader.document.admits(system_id, major) {
            Some(admitted) => admitted.cloned(),
            None => Err(RepoError::Contended { path: layout::repository().to_string() }),
        }
    }

    /// Goes on with another cluster: after the one named `after`, which must still be the present one, so that of two who begin
    /// different epochs at once exactly one does. Refused for any cluster that has or had an epoch.
    pub async fn begin_epoch(&mut self, after: SystemId, system_id: SystemId, major: u32, now: Timestamp) -> Result<Epoch, RepoError> {
        let mut begun: Option<Epoch> = None;
        for _ in 0..10 {
            let (mut document, version) = self.repository_now().await?;
            // The answer to our own replacement may have been lost.
            if let Some(epoch) = begun.as_ref().filter(|epoch| document.epochs.last() == Some(epoch)) {
                self.reader.document = document;
                return Ok(epoch.clone());
            }
            let present = document.precedes(system_id)?;
            if present.system_id != after {
                return Err(RepoError::EpochOvertaken { after, ours: present.system_id, found: system_id });
            }
            let since = now.max(present.since);
            let epoch = match begun.take() {
                Some(epoch) => epoch,
                None => self.new_epoch(&document, system_id, major, since).await?,
            };
            document.epochs.push(epoch.clone());
            begun = Some(epoch);
            self.replace_repository(document, &version).await?;
        }
        Err(RepoError::Contended { path: layout::repository().to_string() })
    }

    /// repository.json as it is at this moment, and its version. It is not sealed, and by it is decided how everything is stored: what
    /// never changes is what it was when the repository was opened, or somebody replaced it meanwhile.
    pub(crate) async fn repository_now(&self) -> Result<(RepositoryDocument, store::Version), RepoError> {
        let path = layout::repository();
        let info = self.store.info(&path).await?.ok_or_else(|| RepoError::NoRepository { address: self.store.address() })?;
        let (opened, found) = (&self.reader.document, document::read::<RepositoryDocument>(&path, &self.store.get(&path).await?)?);
        if found.encryption == Encryption::Off && opened.encryption != Encryption::Off {
            return Err(RepoError::NotEncrypted { address: self.store.address() });
        }
        if (found.id, found.encryption, found.digest_key) != (opened.id, opened.encryption, opened.digest_key) {
            let why = "it is not that of the repository that was opened, or says otherwise how that is encrypted";
            return Err(RepoError::Document { path: path.to_string(), why: why.into() });
        }
        Ok((found, info.version))
    }

    async fn new_epoch(&self, document: &RepositoryDocument, system_id: SystemId, major: u32, since: Timestamp) -> Result<Epoch, RepoError> {
        let wal_key = match document.encryption {
            Encryption::Aes256Gcm => Some(self.reader.keyring.create(&*self.store, KeyPurpose::Wal, since).await?.id()),
            Encryption::Off => None,
        };
        Ok(Epoch { system_id, major, since, wal_key })
    }

    /// Replaces repository.json if it is still of this version.
    pub(crate) async fn replace_repository(&mut self, document: RepositoryDocument, version: &store::Version) -> Result<(), RepoError> {
        if self.store.replace(&layout::repository(), document::write(&document)?, Some(version)).await?.is_some() {
            self.reader.document = document;
        }
        Ok(())
    }
}
