//! A key file: 256 random bits as one line of text, readable by its owner only.

use crate::KeyError;
use async_trait::async_trait;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use seal::{DataKey, Recipient, SealError, WrapContext, Wrapped, random_bytes};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use terms::Class;
use zeroize::Zeroizing;

const MARK: &str = "bowline-key-1:";
const NONCE_BYTES: usize = 12;

/// A recipient whose key lies in a file.
pub struct KeyFile {
    path: PathBuf,
    key: Zeroizing<[u8; 32]>,
}

impl KeyFile {
    /// Makes a new key and writes it to `path`, which must not exist; mode 0600, durable.
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        let io = |operation| move |source| KeyError::Io { operation, path: path.to_owned(), source };
        let key = Zeroizing::new(random_bytes::<32>());
        let made = Self { path: path.to_owned(), key };
        let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(KeyError::Exists { path: path.to_owned() }),
            Err(e) => return Err(io("create")(e)),
        };
        let line = Zeroizing::new(format!("{MARK}{}:{}\n", URL_SAFE_NO_PAD.encode(&made.key[..]), made.check()));
        let note = "# Bowline key file. Without it the backups cannot be read by anyone; with it they can be read by everyone.\n\
                    # Keep a copy away from the backups and from the database's host.\n";
        file.write_all(note.as_bytes()).and_then(|()| file.write_all(line.as_bytes())).and_then(|()| file.sync_all()).map_err(io("write"))?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|f| f.sync_all()).map_err(io("write"))?;
        Ok(made)
    }

    /// Reads a key. Refused when users other than the owner and its group can read it.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let io = |operation| move |source| KeyError::Io { operation, path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(KeyError::Missing { path: path.to_owned() }),
            Err(e) => return Err(io("open")(e)),
        };
        let mode = file.metadata().map_err(io("open"))?.permissions().mode() & 0o7777;
        if mode & 0o007 != 0 {
            return Err(KeyError::TooOpen { path: path.to_owned(), mode });
        }
        let mut text = Zeroizing::new(String::new());
        let not_a_key = |why| KeyError::NotAKey { path: path.to_owned(), why };
        file.take(4096).read_to_string(&mut text).map_err(|_| not_a_key("it is not text"))?;
        let line = text.lines().find(|l| !l.starts_with('#') && !l.trim().is_empty()).ok_or_else(|| not_a_key("it is empty"))?;
        let (key, check) = line
            .trim()
            .strip_prefix(MARK)
            .and_then(|rest| rest.split_once(':'))
            .ok_or_else(|| not_a_key("its line does not begin with bowline-key-1:"))?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(key).map_err(|_| not_a_key("the key is not base64"))?);
        let key = Zeroizing::new(<[u8; 32]>::try_from(&bytes[..]).map_err(|_| not_a_key("the key has not 256 bits"))?);
        let loaded = Self { path: path.to_owned(), key };
        if loaded.check() == check { Ok(loaded) } else { Err(not_a_key("its check digits do not match: it was damaged")) }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names the key without telling anything of it; also finds typing and copying mistakes.
    fn check(&self) -> String {
        let mut input = Zeroizing::new(b"bowline key file 1".to_vec());
        input.extend_from_slice(&self.key[..]);
        digest(&SHA256, &input).as_ref()[..8].iter().map(|b| format!("{b:02x}")).collect()
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &self.key[..]).expect("AES-256 takes 32 bytes"))
    }
}

/// Bound into every wrapped key: it opens only as this key of this repository.
fn associated(context: &WrapContext) -> Vec<u8> {
    [&b"bowline wrap 1"[..], context.repository.bytes(), context.key.bytes()].concat()
}

#[async_trait]
impl Recipient for KeyFile {
    fn name(&self) -> String {
        format!("file:{}", self.check())
    }

    /// Nonce 12, wrapped key 32, tag 16.
    async fn wrap(&self, key: &DataKey, context: &WrapContext) -> Result<Wrapped, SealError> {
        let nonce: [u8; NONCE_BYTES] = random_bytes();
        let mut wrapped = Zeroizing::new(key.reveal().to_vec());
        let tag = self
            .cipher()
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated(context)), &mut wrapped)
            .map_err(|_| SealError::Library { what: "AES-256-GCM" })?;
        Ok(Wrapped { recipient: self.name(), bytes: [&nonce[..], &wrapped, tag.as_ref()].concat() })
    }

    async fn unwrap(&self, wrapped: &Wrapped, context: &WrapContext) -> Result<Zeroizing<[u8; 32]>, SealError> {
        let refused = || SealError::Recipient {
            recipient: self.name(),
            operation: "unwrap",
            why: "It is not the key that wrapped it, or the wrapped key was altered.".into(),
            class: Class::Refused,
            hint: String::new(),
        };
        let (nonce, sealed) = wrapped.bytes.split_at_checked(NONCE_BYTES).ok_or_else(refused)?;
        let nonce = <[u8; NONCE_BYTES]>::try_from(nonce).map_err(|_| refused())?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let plain =
            self.cipher().open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(associated(context)), &mut sealed).map_err(|_| refused())?;
        <[u8; 32]>::try_from(&*plain).map(Zeroizing::new).map_err(|_| refused())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seal::{KeyId, RepositoryId};

    fn ready<T>(future: impl Future<Output = T>) -> T {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut context) {
            std::task::Poll::Ready(value) => value,
            std::task::Poll::Pending => panic!("a key file never waits"),
        }
    }

    #[test]
    fn a_key_file_opens_only_what_it_wrapped_for_this_context() {
        let folder = tempfile::tempdir().unwrap();
        let made = KeyFile::create(&folder.path().join("key")).unwrap();
        let loaded = KeyFile::load(made.path()).unwrap();
        assert_eq!(made.name(), loaded.name());
        let key = DataKey::random();
        let context = WrapContext { repository: RepositoryId::random(), key: key.id() };
        let mut wrapped = ready(made.wrap(&key, &context)).unwrap();
        assert_eq!(*ready(loaded.unwrap(&wrapped, &context)).unwrap(), *key.reveal());
        let elsewhere = WrapContext { key: KeyId::random(), ..context };
        assert!(ready(loaded.unwrap(&wrapped, &elsewhere)).is_err());
        let other = KeyFile::create(&folder.path().join("other")).unwrap();
        assert!(ready(other.unwrap(&wrapped, &context)).is_err());
        wrapped.bytes[20] ^= 1;
        assert!(ready(loaded.unwrap(&wrapped, &context)).is_err());
        wrapped.bytes.truncate(5);
        assert!(ready(loaded.unwrap(&wrapped, &context)).is_err());
    }

    #[test]
    fn a_key_file_is_private_never_overwritten_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        KeyFile::create(&path).unwrap();
        assert!(matches!(KeyFile::create(&path), Err(KeyError::Exists { .. })));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let typo: String = text.replacen(MARK, "bowline-key-1:A", 1);
        std::fs::write(&path, typo).unwrap();
        assert!(matches!(KeyFile::load(&path), Err(KeyError::NotAKey { .. })));
        std::fs::write(&path, &text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(KeyFile::load(&path), Err(KeyError::TooOpen { .. })));
        assert!(matches!(KeyFile::load(&folder.path().join("none")), Err(KeyError::Missing { .. })));
    }
}
