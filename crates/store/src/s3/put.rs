//! Conditional puts whose answer is certain even when the network loses it.

use super::trouble::Trouble;
use super::{BUSY_SECONDS_MAX, BYTES_PER_SECOND_MIN, CloudKind, Inner};
use crate::{Created, ObjectPath, StoreError, Version};
use futures::StreamExt;
use object_store::path::Path as Key;
use object_store::{GetOptions, ObjectStore, PutMode, PutOptions, PutPayload, PutResult, UpdateVersion};
use std::time::{Duration, Instant};

/// No new attempt begins after this long.
pub(super) const RETRY_SECONDS_MAX: u64 = 60;
/// A server that is gone is given up earlier: see [`super::tap::Tap::is_gone`].
pub(super) const CONNECT_ATTEMPTS: u32 = 4;
/// How long one attempt's answer is waited for, besides its bytes.
const ATTEMPT_SECONDS_MAX: u64 = 20;

/// What one attempt came to.
enum Attempt {
    Done(PutResult),
    Failed(Trouble),
    Silent(Duration),
}

/// What is stored where a put may have happened.
enum Stored {
    Nothing,
    Ours(Version),
    Other(Version),
}

impl Inner {
    /// See [`crate::Put::put_new`].
    pub(super) async fn put_new(&self, path: &ObjectPath, body: PutPayload) -> Result<Created, StoreError> {
        match self.put_if(path, body, None).await? {
            Some(_) => Ok(Created::New),
            None => Ok(Created::AlreadyThere),
        }
    }

    /// See [`crate::Put::replace`].
    pub(super) async fn replace(&self, path: &ObjectPath, body: PutPayload, expected: Option<&Version>) -> Result<Option<Version>, StoreError> {
        let Some(version) = self.put_if(path, body, expected).await? else { return Ok(None) };
        if !version.0.is_empty() {
            return Ok(Some(version));
        }
        // A server that does not say which version it made is asked for it.
        let found = self.info(path).await?;
        Ok(Some(self.version(found.and_then(|meta| meta.e_tag))))
    }

    /// Puts `body` if the object's version is `expected`; `None` when it is another. Tries again while that can help,
    /// and after every attempt that may have happened reads back whether it has.
    async fn put_if(&self, path: &ObjectPath, body: PutPayload, expected: Option<&Version>) -> Result<Option<Version>, StoreError> {
        let operation = if expected.is_some() { "replace" } else { "write" };
        let key = self.key(path.as_str())?;
        let generation = match (self.cloud, expected) {
            // Google replaces by generation, and lists without it: the object of this version is asked for its own.
            (CloudKind::Google, Some(expected)) => match self.info(path).await? {
                Some(found) if self.version(found.e_tag.clone()) == *expected => found.version,
                _ => return Ok(None),
            },
            _ => None,
        };
        self.prove_at_rest().await?;
        let begun = Instant::now();
        // Whether an earlier attempt of ours may be what is stored now.
        let mut is_unsure = false;
        let mut tries = 0;
        loop {
            tries += 1;
            let attempt = self.attempt(&key, body.clone(), expected, &generation).await;
            let (error, may_pass) = match &attempt {
                Attempt::Done(result) => {
                    self.check_at_rest(&result.extensions)?;
                    return Ok(Some(self.version(result.e_tag.clone())));
                }
                Attempt::Failed(trouble) if trouble.is_refused_condition() && !is_unsure => return Ok(None),
                // S3 answers so when the object to be replaced is not there.
                Attempt::Failed(trouble) if trouble.is_missing() && expected.is_some() && !is_unsure => return Ok(None),
                Attempt::Failed(trouble) => {
                    is_unsure |= trouble.may_have_happened();
                    let gives_up = trouble.never_left() && tries >= CONNECT_ATTEMPTS && self.tap.is_gone(RETRY_SECONDS_MAX);
                    let again = trouble.may_pass() || trouble.is_refused_condition();
                    (self.fail(operation, path.as_str(), trouble), again && !gives_up)
                }
                Attempt::Silent(patience) => {
                    is_unsure = true;
                    (self.silent(operation, path.as_str(), *patience), true)
                }
            };
            let is_conflict = matches!(&attempt, Attempt::Failed(trouble) if trouble.is_conflict());
            if is_unsure || is_conflict {
                match self.stored(path, &key, &body).await {
                    Ok(Stored::Ours(version)) if is_unsure => return Ok(Some(version)),
                    // What was to be replaced is gone, so nothing can have replaced it.
                    Ok(Stored::Nothing) if expected.is_some() => return Ok(None),
                    Ok(Stored::Nothing) => {}
                    // Still what was to be replaced: nothing of ours has arrived yet.
                    Ok(Stored::Ours(version) | Stored::Other(version)) if Some(&version) == expected => {}
                    Ok(_) => return Ok(None),
                    // The answer that is wanted is not to be had now; the next attempt asks again.
                    Err(StoreError::Unreachable { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            let is_busy = matches!(&attempt, Attempt::Failed(trouble) if trouble.is_busy());
            let budget = if is_busy { BUSY_SECONDS_MAX } else { RETRY_SECONDS_MAX };
            if !may_pass || begun.elapsed().as_secs() >= budget {
                return Err(error);
            }
            tokio::time::sleep(pause(tries)).await;
        }
    }

    async fn attempt(&self, key: &Key, body: PutPayload, expected: Option<&Version>, generation: &Option<String>) -> Attempt {
        let patience = Duration::from_secs(ATTEMPT_SECONDS_MAX + body.content_length() as u64 / BYTES_PER_SECOND_MIN);
        let mode = match expected {
            None => PutMode::Create,
            Some(version) => PutMode::Update(UpdateVersion { e_tag: Some(version.0.clone()), version: generation.clone() }),
        };
        let put = self.once.put_opts(key, body, PutOptions { mode, ..PutOptions::default() });
        match tokio::time::timeout(patience, put).await {
            Ok(Ok(result)) => Attempt::Done(result),
            Ok(Err(error)) => Attempt::Failed(Trouble::read(&error)),
            Err(_) => Attempt::Silent(patience),
        }
    }

    /// Compares what is stored with `body`, piece by piece as it arrives.
    async fn stored(&self, path: &ObjectPath, key: &Key, body: &PutPayload) -> Result<Stored, StoreError> {
        let answer = match self.bounded("read", path.as_str(), 0, || self.steady.get_opts(key, GetOptions::default())).await {
            Ok(answer) => answer,
            Err(StoreError::Missing { .. }) => return Ok(Stored::Nothing),
            Err(error) => return Err(error),
        };
        let length = body.content_length() as u64;
        let version = self.version(answer.meta.e_tag.clone());
        if answer.meta.size != length {
            return Ok(Stored::Other(version));
        }
        let compare = async {
            let mut ours = body.iter().flat_map(|piece| piece.iter());
            let mut theirs = answer.into_stream();
            while let Some(piece) = theirs.next().await {
                if !piece?.iter().all(|byte| ours.next() == Some(byte)) {
                    return Ok(false);
                }
            }
            Ok(ours.next().is_none())
        };
        Ok(match self.body("read", path.as_str(), length, compare).await? {
            true => Stored::Ours(version),
            false => Stored::Other(version),
        })
    }
}

/// The wait before the next attempt: it doubles from 0.2 s up to 6.4 s, less up to half of it by chance, so that many who were
/// refused together do not come back together.
pub(super) fn pause(tries: u32) -> Duration {
    let whole = 100u64 << tries.min(6);
    Duration::from_millis(whole - crate::token::below(whole / 2))
}
