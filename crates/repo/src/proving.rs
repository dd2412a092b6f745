//! Proves a single object: reads all of it, opens it with its key, or holds it against its own digest. Packs are proven with the
//! manifest that names their chunks ([`crate::ManifestReader`]).

use crate::keyring::KeyDocument;
use crate::pieces::Form;
use crate::wal::beside;
use crate::{Reader, RepoError, WalIndex, configuration, document, layout};
use seal::KeyId;
use serde_json::Value;
use store::{ObjectInfo, ObjectPath};
use terms::{SegmentSize, SystemId, WalName};

/// How an object was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proved {
    /// By its key, its tags and its digests, or by its own digest.
    ByItself,
    /// It proves nothing itself: the first 32 digits of the SHA-256 of what it holds.
    Text(String),
    /// It is no object of a repository's.
    Foreign,
}

impl Reader {
    /// Reads and proves the object that was listed there; `size` is that of segments of its cluster, where it is WAL, and `index` what is
    /// known of segments. An object that is gone meanwhile is [`store::StoreError::Missing`].
    pub async fn prove_object(&self, info: &ObjectInfo, size: Option<SegmentSize>, index: &WalIndex) -> Result<Proved, RepoError> {
        let path = &info.path;
        let parts: Vec<&str> = path.as_str().split('/').collect();
        match parts.as_slice() {
            ["wal", system, rest @ ..] if *rest != ["coverage.json"] => {
                let Ok(system) = system.parse::<SystemId>() else { return Ok(Proved::Foreign) };
                self.prove_wal(system, path, size, index).await
            }
            ["keys", name] => self.prove_key(path, name).await,
            ["config", _] => configuration::text_of(path, &self.store.get(path).await?).map(|_| Proved::ByItself),
            ["probe", ..] => Ok(Proved::Foreign),
            _ if path.as_str().ends_with(".json") => self.prove_document(path).await,
            ["drills" | "runbook" | "runs", ..] => Ok(Proved::Text(document::sha256(&self.store.get(path).await?)[..32].to_owned())),
            _ => Ok(Proved::Foreign),
        }
    }

    async fn prove_document(&self, path: &ObjectPath) -> Result<Proved, RepoError> {
        document::read::<Value>(path, &self.store.get(path).await?).map(|_| Proved::ByItself)
    }

    /// The document, and that somebody here opens the key.
    async fn prove_key(&self, path: &ObjectPath, name: &str) -> Result<Proved, RepoError> {
        let found: KeyDocument = document::read(path, &self.store.get(path).await?)?;
        if layout::key(found.id).name() != name {
            return Err(RepoError::Document { path: path.to_string(), why: "it is another key's".into() });
        }
        self.keyring.open_slots(found.id, &found.slots).await?;
        Ok(Proved::ByItself)
    }

    /// The object of the data key with this id, as [`Reader::prove_object`] proves it.
    pub async fn prove_key_of(&self, id: KeyId) -> Result<(), RepoError> {
        let path = layout::key(id);
        self.prove_key(&path, path.name()).await.map(drop)
    }

    async fn prove_wal(&self, system: SystemId, path: &ObjectPath, size: Option<SegmentSize>, index: &WalIndex) -> Result<Proved, RepoError> {
        let wrong = |why: String| RepoError::Document { path: path.to_string(), why };
        if layout::wal_index_span(path).is_some() {
            return self.batch(system, path).await.map(|_| Proved::ByItself);
        }
        if let Some(piece) = layout::parse_piece(path) {
            if piece.form == Form::Object {
                return self.piece_bytes(system, piece).await.map(|_| Proved::ByItself);
            }
            // A log that is gone was let go with its segment.
            return match self.grown(path).await? {
                Some((_, Some(damage))) => Err(damage),
                _ => Ok(Proved::ByItself),
            };
        }
        let named = path.name().parse::<WalName>().ok().filter(|name| layout::wal_object(system, name) == *path);
        let Some(name) = named else { return Ok(Proved::Foreign) };
        let Some(plain) = self.fetch_wal(system, &name).await? else {
            return Err(store::StoreError::Missing { store: self.address(), path: path.to_string() }.into());
        };
        let WalName::Segment(segment) = name else { return Ok(Proved::ByItself) };
        if let Some(size) = size.filter(|size| size.bytes() != plain.len() as u64) {
            return Err(wrong(format!("it holds {} bytes, a segment has {}", plain.len(), size.bytes())));
        }
        let Some(known) = index.entry(segment).map(|entry| entry.digest) else { return Ok(Proved::ByItself) };
        let mut digester = self.digester().await?;
        match beside(move || digester.digest(&plain)).await? == known {
            true => Ok(Proved::ByItself),
            false => Err(wrong("it opens, and holds other bytes than those that were indexed".into())),
        }
    }
}
