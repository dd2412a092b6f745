//! The configuration in force, kept beside what it protects: a bare machine begins with it. It names secrets and holds none.

use crate::{Reader, document::sha256};
use crate::{RepoError, Writer, layout};
use bytes::Bytes;
use futures::TryStreamExt;
use store::ObjectPath;
use terms::Timestamp;

/// What the last line begins with: a comment of TOML with the SHA-256 (hexadecimal) of every byte before it.
const DIGEST: &str = "# sha256: ";

impl Writer {
    /// Keeps this text unless it is the newest one that is kept; whether it was new.
    pub async fn keep_configuration(&self, now: Timestamp, text: &str) -> Result<bool, RepoError> {
        let text = if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
        if self.reader().configuration().await?.is_some_and(|(_, kept)| kept == text) {
            return Ok(false);
        }
        let digest = sha256(text.as_bytes());
        self.store.put_new(&layout::configuration(now), Bytes::from(format!("{text}{DIGEST}{digest}\n"))).await?;
        Ok(true)
    }
}

impl Reader {
    /// The newest configuration that is kept, and its object.
    pub async fn configuration(&self) -> Result<Option<(ObjectPath, String)>, RepoError> {
        let listed: Vec<_> = self.store.list(layout::CONFIGURATIONS, None).try_collect().await?;
        let Some(path) = listed.into_iter().map(|object| object.path).filter(|path| path.as_str().ends_with(".toml")).max() else { return Ok(None) };
        let text = text_of(&path, &self.store.get(&path).await?)?;
        Ok(Some((path, text)))
    }
}

/// What a user wrote, when it is what was kept.
pub(crate) fn text_of(path: &ObjectPath, bytes: &[u8]) -> Result<String, RepoError> {
    let damaged = |why: &str| RepoError::Document { path: path.to_string(), why: why.to_owned() };
    let whole = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let (text, digest) = whole.rsplit_once(DIGEST).ok_or_else(|| damaged("it has no digest"))?;
    if digest.strip_suffix('\n') != Some(&sha256(text.as_bytes())) {
        return Err(damaged("it does not match its own digest"));
    }
    Ok(text.to_owned())
}
