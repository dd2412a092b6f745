//! The offline recovery recipient: an age key pair (age-encryption.org/v1, X25519) of which only the public half is here.

use crate::KeyError;
use crate::bound::{bind, unbind};
use async_trait::async_trait;
use seal::{DataKey, Recipient, SealError, WrapContext, Wrapped};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;
use terms::Class;
use zeroize::Zeroizing;

const SECRET_MARK: &str = "AGE-SECRET-KEY-1";

/// The public half: wraps, and cannot unwrap.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryKey {
    text: String,
    key: age::x25519::Recipient,
}

impl RecoveryKey {
    /// `age1…`.
    pub fn public(&self) -> &str {
        &self.text
    }

    /// Any bytes, sealed for whoever has the private half; as text.
    pub(crate) fn seal(&self, plain: &[u8]) -> Result<String, SealError> {
        age::encrypt_and_armor(&self.key, plain).map_err(|_| SealError::Library { what: "age" })
    }
}

impl std::fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for RecoveryKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let key = text.parse().map_err(|why| format!("{text:?} is no public key of age (age1…, as age-keygen prints): {why}"))?;
        Ok(Self { text: text.to_owned(), key })
    }
}

fn wrapped_with(key: &age::x25519::Recipient, name: String, data: &DataKey, context: &WrapContext) -> Result<Wrapped, SealError> {
    let bytes = age::encrypt(key, &bind(data, context)).map_err(|_| SealError::Library { what: "age" })?;
    Ok(Wrapped { recipient: name, bytes })
}

#[async_trait]
impl Recipient for RecoveryKey {
    fn name(&self) -> String {
        format!("age:{}", self.text)
    }
    fn can_unwrap(&self) -> bool {
        false
    }
    async fn wrap(&self, key: &DataKey, context: &WrapContext) -> Result<Wrapped, SealError> {
        wrapped_with(&self.key, self.name(), key, context)
    }
    async fn unwrap(&self, _: &Wrapped, _: &WrapContext) -> Result<Zeroizing<[u8; 32]>, SealError> {
        Err(SealError::Recipient {
            recipient: self.name(),
            operation: "unwrap",
            why: "Only its public half is here.".into(),
            class: Class::Missing,
            hint: "Fetch its private half from where it is kept, and give it with --key FILE.".into(),
        })
    }
}

/// The private half, read from an age identity file for as long as a restore needs it.
pub struct RecoveryIdentity {
    identity: age::x25519::Identity,
    public: age::x25519::Recipient,
}

/// Whether a file holds identities of age rather than a key of Bowline's own. What cannot be read is neither.
pub(crate) fn is_identity_file(path: &Path) -> bool {
    let mut text = Zeroizing::new(String::new());
    let read = File::open(path).and_then(|file| file.take(65536).read_to_string(&mut text));
    read.is_ok() && (text.contains(SECRET_MARK) || text.starts_with("age-encryption.org/") || text.starts_with("-----BEGIN AGE"))
}

impl RecoveryIdentity {
    /// Every identity in a file as age-keygen writes it. Refused when users other than the owner and its group can read it.
    pub fn load(path: &Path) -> Result<Vec<Self>, KeyError> {
        let io = |operation| move |source| KeyError::Io { operation, path: path.to_owned(), source };
        let not_a_key = |why| KeyError::NotAKey { path: path.to_owned(), why };
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
        file.take(65536).read_to_string(&mut text).map_err(|_| not_a_key("it is not text"))?;
        if !text.contains(SECRET_MARK) {
            return Err(not_a_key("it is locked with a passphrase: open it first with age --decrypt, into memory (/dev/shm)"));
        }
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|line| {
                let identity: age::x25519::Identity = line.parse().map_err(|_| not_a_key("a line of it is no identity of age: it was damaged"))?;
                let public = identity.to_public();
                Ok(Self { identity, public })
            })
            .collect()
    }
}

#[async_trait]
impl Recipient for RecoveryIdentity {
    fn name(&self) -> String {
        format!("age:{}", self.public)
    }
    async fn wrap(&self, key: &DataKey, context: &WrapContext) -> Result<Wrapped, SealError> {
        wrapped_with(&self.public, self.name(), key, context)
    }
    async fn unwrap(&self, wrapped: &Wrapped, context: &WrapContext) -> Result<Zeroizing<[u8; 32]>, SealError> {
        let refused = |why: &str| SealError::Recipient {
            recipient: self.name(),
            operation: "unwrap",
            why: why.to_owned(),
            class: Class::Refused,
            hint: String::new(),
        };
        let plain = age::decrypt(&self.identity, &wrapped.bytes)
            .map(Zeroizing::new)
            .map_err(|_| refused("It is not the key that wrapped it, or the wrapped key was altered."))?;
        unbind(&plain, context)
            .ok_or_else(|| refused("What it wrapped is another data key, or one of another repository: it was put there by somebody."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use age::secrecy::ExposeSecret;
    use seal::{KeyId, RepositoryId};
    use std::os::unix::fs::OpenOptionsExt;

    fn ready<T>(future: impl Future<Output = T>) -> T {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut context) {
            std::task::Poll::Ready(value) => value,
            std::task::Poll::Pending => panic!("a recovery key never waits"),
        }
    }

    fn written(path: &Path, text: &str, mode: u32) {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path).unwrap();
        file.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn the_public_half_wraps_and_only_the_private_half_opens_it_for_this_context() {
        let identity = age::x25519::Identity::generate();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recovery");
        written(&path, &format!("# created: now\n# public key: {}\n{}\n", identity.to_public(), identity.to_string().expose_secret()), 0o600);
        let public: RecoveryKey = identity.to_public().to_string().parse().unwrap();
        let private = RecoveryIdentity::load(&path).unwrap().remove(0);
        assert_eq!(public.name(), private.name());
        let key = DataKey::random();
        let context = WrapContext { repository: RepositoryId::random(), key: key.id() };
        let wrapped = ready(public.wrap(&key, &context)).unwrap();
        assert!(!public.can_unwrap() && ready(public.unwrap(&wrapped, &context)).is_err());
        assert_eq!(*ready(private.unwrap(&wrapped, &context)).unwrap(), *key.reveal());
        assert!(ready(private.unwrap(&wrapped, &WrapContext { key: KeyId::random(), ..context })).is_err());
        assert!(ready(private.unwrap(&wrapped, &WrapContext { repository: RepositoryId::random(), ..context })).is_err());
        let mut altered = wrapped.clone();
        *altered.bytes.last_mut().unwrap() ^= 1;
        assert!(ready(private.unwrap(&altered, &context)).is_err());
    }

    #[test]
    fn an_identity_file_is_private_and_told_apart_from_a_key_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recovery");
        let secret = age::x25519::Identity::generate().to_string();
        written(&path, secret.expose_secret(), 0o644);
        assert!(is_identity_file(&path));
        assert!(matches!(RecoveryIdentity::load(&path), Err(KeyError::TooOpen { .. })));
        written(&path, "age-encryption.org/v1\n-> scrypt x 18\n", 0o600);
        assert!(matches!(RecoveryIdentity::load(&path), Err(KeyError::NotAKey { .. })));
        written(&path, &format!("{SECRET_MARK}NONSENSE\n"), 0o600);
        assert!(matches!(RecoveryIdentity::load(&path), Err(KeyError::NotAKey { .. })));
        crate::KeyFile::create(&folder.path().join("key")).unwrap();
        assert!(!is_identity_file(&folder.path().join("key")));
    }
}
