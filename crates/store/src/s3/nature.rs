//! What the store as a whole is like, beyond what every object tells: asked of the bucket, or tried.

use super::trouble::Trouble;
use super::{Inner, Sse};
use crate::bucket::{Bucket, Fact, Unfinished};
use crate::probe::Nature;
use crate::{ObjectPath, StoreError};
use object_store::PutPayload;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

/// How many abandoned uploads are told of.
const UNFINISHED_MAX: usize = 1000;

impl Inner {
    /// See [`crate::Put::nature`]. `path` is a name that is free; what it leaves there the caller removes.
    pub(super) async fn nature(&self, path: &ObjectPath) -> Result<Nature, StoreError> {
        let mut nature = Nature::default();
        nature.conditional_complete = match self.completing_is_conditional(path).await? {
            None => None,
            Some(Ok(())) => Some(true),
            Some(Err(why)) => {
                nature.reasons.push(why);
                Some(false)
            }
        };
        if self.wanted.mode != Sse::Off {
            nature.encrypted_as_asked = Some(match self.at_rest().await? {
                Ok(()) => "yes".to_owned(),
                Err(why) => format!("no: {why}"),
            });
        }
        if let Some(control) = &self.control {
            let state = Bucket::of(Arc::clone(control), self.prefix.clone()).state().await?;
            nature.versioning = Some(told(&state.versioning, |status| status.to_lowercase()));
            nature.default_encryption = Some(told(&state.encryption, |found| match (&found.algorithm, &found.key) {
                (Some(algorithm), Some(key)) => format!("{algorithm} with {key}{}", if found.has_bucket_key { " and bucket keys" } else { "" }),
                (Some(algorithm), None) => algorithm.clone(),
                (None, _) => "off".to_owned(),
            }));
            nature.public_access_blocked = Some(told(&state.blocks_public_access, |blocked| yes_or_no(*blocked)));
            nature.object_lock = Some(told(&state.object_lock, |enabled| yes_or_no(*enabled)));
        }
        nature.clock_skew_seconds = self.tap.skew_seconds();
        Ok(nature)
    }

    /// Completes a small upload over an object that is there already: that must be refused. `None` where it is not even tried.
    async fn completing_is_conditional(&self, path: &ObjectPath) -> Result<Option<Result<(), String>>, StoreError> {
        if !self.tap.completes_conditionally() {
            return Ok(None);
        }
        let key = self.key(path.as_str())?;
        let id = match self.bounded("write", path.as_str(), 0, || self.steady.create_multipart(&key)).await {
            Ok(id) => id,
            Err(StoreError::Failed { why, .. }) => return Ok(Some(Err(format!("an upload in parts cannot be begun: {why}")))),
            Err(error) => return Err(error),
        };
        let tried = self.complete_over(path, &key, &id).await;
        // Best effort: an upload that was refused is still there, one that was not is gone.
        let _ = self.bounded("write", path.as_str(), 0, || self.steady.abort_multipart(&key, &id)).await;
        tried.map(Some)
    }

    async fn complete_over(&self, path: &ObjectPath, key: &object_store::path::Path, id: &String) -> Result<Result<(), String>, StoreError> {
        let body = |text: &'static str| PutPayload::from_static(text.as_bytes());
        let part = self.bounded("write", path.as_str(), 0, || self.steady.put_part(key, id, 0, body("bowline probe, late"))).await?;
        self.put_new(path, body("bowline probe, first")).await?;
        let complete = self.once.complete_multipart(key, id, vec![part]);
        let trouble = match tokio::time::timeout(Duration::from_secs(60), complete).await {
            Ok(Ok(_)) => {
                return Ok(Err("completing an upload in parts overwrote an object (the store ignores If-None-Match: * there)".to_owned()));
            }
            Ok(Err(error)) => Trouble::read(&error),
            Err(_) => return Err(self.silent("write", path.as_str(), Duration::from_secs(60))),
        };
        if trouble.is_refused_condition() {
            return Ok(Ok(()));
        }
        if trouble.is_unknown_header() {
            self.tap.complete_unconditionally();
            return Ok(Err(format!("the store cannot complete an upload in parts under a condition: {}", trouble.why())));
        }
        Err(self.fail("write", path.as_str(), &trouble))
    }

    /// See [`crate::Fetch::unfinished`].
    pub(super) async fn unfinished(&self) -> Result<Fact<Vec<Unfinished>>, StoreError> {
        match &self.control {
            Some(control) => Bucket::of(Arc::clone(control), self.prefix.clone()).unfinished(UNFINISHED_MAX).await,
            None => Ok(Fact::Unsupported("this kind of store ends abandoned uploads by itself".to_owned())),
        }
    }

    /// See [`crate::Remove::abandon`].
    pub(super) async fn abandon(&self, upload: &Unfinished) -> Result<(), StoreError> {
        let key = object_store::path::Path::parse(upload.key()).map_err(|error| StoreError::Failed {
            store: self.address.clone(),
            operation: "remove",
            path: upload.key().to_owned(),
            why: error.to_string(),
        })?;
        match self.bounded("remove", upload.key(), 0, || self.steady.abort_multipart(&key, &upload.upload)).await {
            Err(StoreError::Missing { .. }) => Ok(()),
            // NoSuchUpload: its writer, or somebody else, ended it meanwhile.
            Err(StoreError::Failed { why, .. }) if why.contains("NoSuchUpload") => Ok(()),
            result => result,
        }
    }
}

fn told<T>(fact: &Fact<T>, known: impl FnOnce(&T) -> String) -> String {
    let unknown = |word: &dyn Display, why: &str| format!("{word}: {why}");
    match fact {
        Fact::Known(value) => known(value),
        Fact::Denied(why) => unknown(&"unknown, not allowed to ask", why),
        Fact::Unsupported(_) => "not supported".to_owned(),
        Fact::Unclear(why) => unknown(&"unknown", why),
    }
}

fn yes_or_no(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}
