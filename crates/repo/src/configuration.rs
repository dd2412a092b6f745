//! The configuration in force, kept beside what it protects: a bare machine begins with it. It names secrets and holds none. It also names
//! commands that a restore runs, so that it has to tell who wrote it.

use crate::document::sha256;
use crate::{Reader, RepoError, Writer, layout};
use aws_lc_rs::hmac;
use bytes::Bytes;
use futures::TryStreamExt;
use seal::DataKey;
use store::{Created, ObjectPath};
use terms::Timestamp;

/// What the last line begins with: a comment of TOML with the SHA-256 (hexadecimal) of every byte before it.
const DIGEST: &str = "# sha256: ";
/// And the line before that, where the repository is encrypted: the HMAC-SHA-256 (hexadecimal), under the key of digests, of the
/// repository's id, the object's path, a line feed and every byte before this line. Who has no key makes none, and moves none elsewhere.
const MAC: &str = "# bowline-mac: ";

/// What is known of who wrote a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authenticity {
    /// A host that opens this repository, and for just this place.
    Authentic,
    /// Nothing: encryption is off, or an older Bowline wrote it, or somebody else who can write to the store.
    Unsigned,
    /// Nobody who opens this repository, although it says so.
    Forged,
}

/// A configuration that a repository keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptConfiguration {
    /// Where it lies.
    pub object: ObjectPath,
    /// As a user wrote it.
    pub text: String,
    /// Who wrote it, as far as that is known.
    pub authenticity: Authenticity,
    /// Newer ones that are not authentic as this one is, newest first.
    pub passed_over: Vec<ObjectPath>,
}

impl Writer {
    /// Keeps this text unless it is the newest one that is kept; whether it was new.
    pub async fn keep_configuration(&self, now: Timestamp, text: &str) -> Result<bool, RepoError> {
        let text = if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
        let key = self.reader.digest_key().await?;
        let newest = match self.reader.configuration(now).await {
            Err(e @ RepoError::Store(_)) => return Err(e),
            // One that is damaged is kept anew.
            found => found.ok().flatten(),
        };
        if newest.is_some_and(|kept| kept.text == text && (key.is_none() || kept.authenticity == Authenticity::Authentic)) {
            return Ok(false);
        }
        let object = layout::configuration(now);
        let signed = match &key {
            Some(key) => format!("{text}{MAC}{}\n", self.reader.mac(&object, &text, key)),
            None => text,
        };
        let digest = sha256(signed.as_bytes());
        let created = self.store.put_new(&object, Bytes::from(format!("{signed}{DIGEST}{digest}\n"))).await?;
        Ok(matches!(created, Created::New))
    }
}

impl Reader {
    /// The configuration to begin with: the newest authentic one. Where none is, the newest one that is not from the future, and its
    /// authenticity says what it is worth.
    pub async fn configuration(&self, now: Timestamp) -> Result<Option<KeptConfiguration>, RepoError> {
        let key = self.digest_key().await?;
        let listed: Vec<ObjectPath> = self.store.list(layout::CONFIGURATIONS, None).map_ok(|object| object.path).try_collect().await?;
        let mut kept: Vec<(Timestamp, ObjectPath)> = listed.into_iter().filter_map(|path| Some((layout::configured_at(&path)?, path))).collect();
        kept.sort();
        let (mut passed_over, mut other) = (Vec::new(), None);
        for (at, object) in kept.into_iter().rev() {
            let is_future = at.is_ahead_of(now);
            if is_future && key.is_none() {
                continue;
            }
            match self.kept_at(&object, key.as_ref()).await {
                Err(e @ RepoError::Store(_)) => return Err(e),
                Ok(kept) if kept.authenticity == Authenticity::Authentic => return Ok(Some(KeptConfiguration { passed_over, ..kept })),
                found if key.is_none() => return found.map(Some),
                found => {
                    if other.is_none() && !is_future {
                        other = Some(found);
                    }
                    passed_over.push(object);
                }
            }
        }
        other.transpose()
    }

    async fn kept_at(&self, object: &ObjectPath, key: Option<&DataKey>) -> Result<KeptConfiguration, RepoError> {
        let whole = text_of(object, &self.store.get(object).await?)?;
        let (text, authenticity) = match key.and_then(|key| Some((key, whole.rsplit_once(MAC)?))) {
            Some((key, (text, mac))) if mac.strip_suffix('\n') == Some(&self.mac(object, text, key)) => (text.to_owned(), Authenticity::Authentic),
            Some(_) => (whole, Authenticity::Forged),
            None => (whole, Authenticity::Unsigned),
        };
        Ok(KeptConfiguration { object: object.clone(), text, authenticity, passed_over: Vec::new() })
    }

    /// What only somebody who opens this repository can say of this text at this place.
    fn mac(&self, object: &ObjectPath, text: &str, key: &DataKey) -> String {
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.reveal()));
        for part in [&self.document.id.bytes()[..], object.as_str().as_bytes(), b"\n", text.as_bytes()] {
            mac.update(part);
        }
        mac.sign().as_ref().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// What a user wrote, with the line that vouches for it, when it is what was kept.
pub(crate) fn text_of(path: &ObjectPath, bytes: &[u8]) -> Result<String, RepoError> {
    let damaged = |why: &str| RepoError::Document { path: path.to_string(), why: why.to_owned() };
    let whole = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let (text, digest) = whole.rsplit_once(DIGEST).ok_or_else(|| damaged("it has no digest"))?;
    if digest.strip_suffix('\n') != Some(&sha256(text.as_bytes())) {
        return Err(damaged("it does not match its own digest"));
    }
    Ok(text.to_owned())
}
