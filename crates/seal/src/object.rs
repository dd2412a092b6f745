//! A sealed object's header and the key that belongs to it alone.

use crate::SealError;
use crate::key::{DataKey, KeyId, RepositoryId, random_bytes};
use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

/// Bytes of an object's header: mark 8, kind 1, cipher 1, zeros 6, key id 16, salt 32.
pub const HEADER_BYTES: usize = 64;

const MARK: &[u8; 7] = b"BOWLINE";
const FORMAT: u8 = 1;
pub(crate) const CIPHER_NONE: u8 = 0;
pub(crate) const CIPHER_AES_256_GCM: u8 = 1;

/// What a sealed object is; part of what its key is derived from, so that one kind never passes for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ObjectKind {
    /// Chunks of a backup's files.
    Pack = 1,
    /// A backup's manifest.
    Manifest = 2,
    /// A whole WAL segment.
    WalSegment = 3,
    /// A timeline's history file, or a backup's label.
    WalFile = 4,
    /// A batch of the index over WAL segments.
    WalIndex = 5,
    /// The bytes between two positions of a WAL segment.
    WalPiece = 6,
    /// The beginning of a WAL segment that grows as its bytes come.
    WalLog = 7,
}

/// How the objects of a backup or of a WAL epoch are protected.
#[derive(Debug, Clone)]
pub enum Protection {
    /// Encrypted under a data key.
    Sealed(DataKey),
    /// Switched off by name. Frames still carry a checksum against damage, not against forgery.
    Plain,
}

impl Protection {
    /// The key's id; all zeros for plain objects.
    pub fn key_id(&self) -> KeyId {
        match self {
            Self::Sealed(key) => key.id(),
            Self::Plain => KeyId::from_bytes([0; 16]),
        }
    }
}

/// An object being written: its header and its own key. A new attempt at an object is a new `SealedObject`,
/// hence a new salt, hence a new key: no (key, nonce) ever seals two plaintexts.
pub struct SealedObject {
    header: [u8; HEADER_BYTES],
    pub(crate) cipher: ObjectCipher,
}

impl SealedObject {
    /// Begins the object at `path` (relative to the repository's root).
    pub fn begin(protection: &Protection, kind: ObjectKind, repository: &RepositoryId, path: &str) -> Self {
        Self::with_salt(protection, kind, repository, path, random_bytes())
    }

    /// For test vectors only: the salt must never be used twice with one key.
    pub(crate) fn with_salt(protection: &Protection, kind: ObjectKind, repository: &RepositoryId, path: &str, salt: [u8; 32]) -> Self {
        let mut header = [0u8; HEADER_BYTES];
        header[..7].copy_from_slice(MARK);
        header[7] = FORMAT;
        header[8] = kind as u8;
        header[9] = match protection {
            Protection::Sealed(_) => CIPHER_AES_256_GCM,
            Protection::Plain => CIPHER_NONE,
        };
        header[16..32].copy_from_slice(protection.key_id().bytes());
        header[32..].copy_from_slice(&salt);
        let cipher = match protection {
            Protection::Sealed(key) => ObjectCipher::Gcm(derive(key, &header, repository, path)),
            Protection::Plain => ObjectCipher::Plain(plain_context(&header, repository, path)),
        };
        Self { header, cipher }
    }

    /// The bytes that the object begins with.
    pub fn header(&self) -> &[u8; HEADER_BYTES] {
        &self.header
    }
}

/// An object being read.
pub struct OpenObject {
    pub(crate) cipher: ObjectCipher,
}

impl OpenObject {
    /// Reads an object's header. `key_of` finds the data key by its id; `sealed_only` refuses plain objects.
    pub fn open(
        header: &[u8],
        kind: ObjectKind,
        repository: &RepositoryId,
        path: &str,
        sealed_only: bool,
        key_of: impl FnOnce(KeyId) -> Option<DataKey>,
    ) -> Result<Self, SealError> {
        let header: &[u8; HEADER_BYTES] = header.get(..HEADER_BYTES).and_then(|h| h.try_into().ok()).ok_or(SealError::NotBowline)?;
        if &header[..7] != MARK {
            return Err(SealError::NotBowline);
        }
        if header[7] != FORMAT {
            return Err(SealError::NewerFormat { found: header[7], known: FORMAT });
        }
        if header[8] != kind as u8 {
            return Err(SealError::WrongKind { found: header[8], wanted: kind as u8 });
        }
        match header[9] {
            CIPHER_NONE if sealed_only => Err(SealError::Unsealed),
            CIPHER_NONE => Ok(Self { cipher: ObjectCipher::Plain(plain_context(header, repository, path)) }),
            CIPHER_AES_256_GCM => {
                let mut id = [0u8; 16];
                id.copy_from_slice(&header[16..32]);
                let id = KeyId::from_bytes(id);
                let key = key_of(id).ok_or(SealError::NoKey { key: id })?;
                Ok(Self { cipher: ObjectCipher::Gcm(derive(&key, header, repository, path)) })
            }
            _ => Err(SealError::Malformed { number: 0, what: "an unknown cipher" }),
        }
    }

    /// The data key that an object's header names, or `None` for a plain object or no object of Bowline's.
    pub fn key_named(header: &[u8]) -> Option<KeyId> {
        let header: &[u8; HEADER_BYTES] = header.get(..HEADER_BYTES)?.try_into().ok()?;
        if &header[..7] != MARK || header[9] != CIPHER_AES_256_GCM {
            return None;
        }
        header[16..32].try_into().ok().map(KeyId::from_bytes)
    }
}

pub(crate) enum ObjectCipher {
    /// What every checksum of the object begins with.
    Plain([u8; 32]),
    Gcm(LessSafeKey),
}

struct ThirtyTwoBytes;
impl KeyType for ThirtyTwoBytes {
    fn len(&self) -> usize {
        32
    }
}

/// SHA-256 over the object's header, the repository id's 16 bytes, then the path: a plain object in another place, or with
/// another header, is found as surely as a sealed one, as long as nobody means harm.
fn plain_context(header: &[u8; HEADER_BYTES], repository: &RepositoryId, path: &str) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in [&header[..], repository.bytes(), path.as_bytes()] {
        context.update(part);
    }
    let mut bytes = [0u8; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

/// HKDF-SHA-256 (RFC 5869): secret = data key, salt = the header's last 32 bytes,
/// info = the header's first 32 bytes, the repository id's 16 bytes, then the path.
fn derive(key: &DataKey, header: &[u8; HEADER_BYTES], repository: &RepositoryId, path: &str) -> LessSafeKey {
    let object_key = object_key(key, header, repository, path);
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &object_key[..]).expect("AES-256 takes 32 bytes"))
}

pub(crate) fn object_key(key: &DataKey, header: &[u8; HEADER_BYTES], repository: &RepositoryId, path: &str) -> Zeroizing<[u8; 32]> {
    let info = [&header[..32], repository.bytes(), path.as_bytes()];
    let mut object_key = Zeroizing::new([0u8; 32]);
    let extracted = Salt::new(HKDF_SHA256, &header[32..]).extract(key.reveal());
    // Both calls fail only on lengths, which are constants here.
    extracted.expand(&info, ThirtyTwoBytes).and_then(|okm| okm.fill(&mut object_key[..])).expect("HKDF gives 32 bytes");
    object_key
}
