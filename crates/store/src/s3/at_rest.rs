//! Whether the store encrypts what it keeps, with the key it was told: judged by its answers, since some servers ignore the request.

use super::{Inner, Trouble};
use crate::{ObjectPath, StoreError};
use object_store::{GetOptions, ObjectStore, PutMode, PutOptions, PutPayload};
use std::time::Duration;

/// How much the store's own encryption matters. What Bowline seals is sealed in any case; this is the second lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sse {
    /// Nothing is asked for.
    #[default]
    Off,
    /// It is asked for, and a store that ignores it is named by check.
    Preferred,
    /// It is asked for, and nothing is written to a store that ignores it.
    Required,
}

/// What an answer says about the object's encryption in the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct AtRest {
    /// `aws:kms`, `AES256` or nothing.
    pub(super) algorithm: Option<String>,
    /// The KMS key, as the store spells it.
    pub(super) key: Option<String>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    pub(super) mode: Sse,
    pub(super) key: Option<String>,
}

/// The object on which it is tried; it stays, and says at the next start how the store treated it.
const PROBE: &str = "probe/at-rest";

impl Wanted {
    /// Whether an answer fits, or what is wrong with it, for people.
    pub(super) fn judge(&self, found: &AtRest) -> Result<(), String> {
        let Some(key) = &self.key else {
            return match &found.algorithm {
                Some(_) => Ok(()),
                None => Err("the store does not say that it encrypts what it is given".to_owned()),
            };
        };
        match (found.algorithm.as_deref(), &found.key) {
            (Some("aws:kms" | "aws:kms:dsse"), Some(used)) if is_same_key(key, used) => Ok(()),
            (Some("aws:kms" | "aws:kms:dsse"), Some(used)) => Err(format!("the store encrypts with the KMS key {used}, not with {key}")),
            (Some("aws:kms" | "aws:kms:dsse"), None) => Err(format!("the store does not say that it encrypts with the KMS key {key}")),
            (Some(other), _) => Err(format!("the store encrypts with {other}, not with the KMS key {key}")),
            (None, _) => Err(format!("the store ignores the request to encrypt with the KMS key {key}")),
        }
    }
}

/// A key may be given by its id and answered by its ARN. What an alias stands for only the KMS knows: any key's answer fits.
fn is_same_key(wanted: &str, used: &str) -> bool {
    let last = |text: &str| text.rsplit(['/', ':']).next().unwrap_or_default().to_owned();
    wanted.contains("alias/") || wanted == used || last(wanted) == last(used)
}

impl Inner {
    /// Before the first write where encryption by the store is required: whether this store does it. Asked once.
    pub(super) async fn prove_at_rest(&self) -> Result<(), StoreError> {
        if self.wanted.mode != Sse::Required {
            return Ok(());
        }
        let verdict = self.proved.get_or_try_init(|| async { self.at_rest().await }).await?;
        verdict.clone().map_err(|why| self.not_encrypted(why))
    }

    /// Whether a store that was asked to encrypt does; the outer error means that it could not be asked.
    pub(super) async fn at_rest(&self) -> Result<Result<(), String>, StoreError> {
        let path = ObjectPath::new(PROBE).map_err(|error| self.not_encrypted(error.to_string()))?;
        let key = self.key(PROBE)?;
        let options = || GetOptions { head: true, ..GetOptions::default() };
        let mode = match self.bounded("look up", PROBE, 0, || self.steady.get_opts(&key, options())).await {
            Ok(found) if self.wanted.judge(&of(&found.extensions)).is_ok() => return Ok(Ok(())),
            // It may be from a time when another key, or none, was configured.
            Ok(found) => PutMode::Update(object_store::UpdateVersion { e_tag: found.meta.e_tag, version: None }),
            Err(StoreError::Missing { .. }) => PutMode::Create,
            Err(error) => return Err(error),
        };
        let body = PutPayload::from_static(b"bowline probe: is this encrypted by the store?\n");
        for tries in 1.. {
            let put = self.once.put_opts(&key, body.clone(), PutOptions { mode: mode.clone(), ..PutOptions::default() });
            let trouble = match tokio::time::timeout(Duration::from_secs(20), put).await {
                Ok(Ok(done)) => return Ok(self.wanted.judge(&of(&done.extensions))),
                Ok(Err(error)) => Trouble::read(&error),
                Err(_) => return Err(self.silent("write", path.as_str(), Duration::from_secs(20))),
            };
            if trouble.is_refused_condition() || trouble.is_conflict() {
                // Another Bowline was faster; its object tells as much.
                let found = self.bounded("look up", PROBE, 0, || self.steady.get_opts(&key, options())).await?;
                return Ok(self.wanted.judge(&of(&found.extensions)));
            }
            if !trouble.may_pass() || tries == 3 {
                return match trouble.never_left() || !self.takes_plain(&path).await {
                    true => Err(self.fail("write", path.as_str(), &trouble)),
                    // SeaweedFS without a KMS answers so.
                    false => Ok(Err(format!("the store cannot encrypt as it is asked to: {}", trouble.why()))),
                };
            }
            tokio::time::sleep(super::put::pause(tries)).await;
        }
        unreachable!("the loop ends by itself")
    }

    /// Whether the store answers at all, so that it is the encryption which fails.
    async fn takes_plain(&self, path: &ObjectPath) -> bool {
        self.info(path).await.is_ok()
    }

    /// After a write that succeeded: whether the store did with it what is required.
    pub(super) fn check_at_rest(&self, extensions: &object_store::Extensions) -> Result<(), StoreError> {
        match self.wanted.mode {
            Sse::Required => self.wanted.judge(&of(extensions)).map_err(|why| self.not_encrypted(why)),
            Sse::Off | Sse::Preferred => Ok(()),
        }
    }

    /// The same for an object whose answers said nothing, such as one that was written in parts.
    pub(super) async fn look_at_rest(&self, path: &ObjectPath) -> Result<(), StoreError> {
        if self.wanted.mode != Sse::Required {
            return Ok(());
        }
        let key = self.key(path.as_str())?;
        let options = || GetOptions { head: true, ..GetOptions::default() };
        let found = self.bounded("look up", path.as_str(), 0, || self.steady.get_opts(&key, options())).await?;
        self.check_at_rest(&found.extensions)
    }

    fn not_encrypted(&self, why: String) -> StoreError {
        StoreError::NotEncrypted { store: self.address.clone(), why }
    }
}

fn of(extensions: &object_store::Extensions) -> AtRest {
    extensions.get::<AtRest>().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(algorithm: Option<&str>, key: Option<&str>) -> AtRest {
        AtRest { algorithm: algorithm.map(str::to_owned), key: key.map(str::to_owned) }
    }

    #[test]
    fn only_the_key_that_was_asked_for_will_do() {
        let arn = "arn:aws:kms:eu-west-1:111122223333:key/1234-ab";
        let wanted = |key: &str| Wanted { mode: Sse::Required, key: Some(key.to_owned()) };
        for (asked, used) in [(arn, arn), ("1234-ab", arn), ("my-key", "arn:aws:kms:my-key"), ("alias/prod", arn)] {
            assert_eq!(wanted(asked).judge(&answer(Some("aws:kms"), Some(used))), Ok(()), "{asked} {used}");
        }
        for (found, word) in [
            (answer(None, None), "ignores"),
            (answer(Some("AES256"), None), "AES256"),
            (answer(Some("aws:kms"), None), "does not say"),
            (answer(Some("aws:kms"), Some("arn:aws:kms:eu-west-1:111122223333:key/other")), "key/other"),
        ] {
            assert!(wanted(arn).judge(&found).unwrap_err().contains(word), "{found:?}");
        }
        let any = Wanted { mode: Sse::Required, key: None };
        assert!(any.judge(&answer(Some("AES256"), None)).is_ok() && any.judge(&answer(None, None)).is_err());
    }
}
