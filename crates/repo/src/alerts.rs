//! What is kept of alerts: their state, which every run reads and replaces, and the silences that people ask for. No key is needed.

use crate::{RepoError, document, layout};
use futures::TryStreamExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use store::{Put, StoreError, Version};
use terms::Timestamp;

/// So many silences may begin in one second.
const TRIES: u32 = 100;

/// The authority over the alerts of one repository. It needs no key, because telling that the keys are out of reach is one of its uses.
#[derive(Clone)]
pub struct AlertShelf {
    store: Arc<dyn Put>,
}

/// `alerts/silences/{id}.json`: until then nobody is told of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// 1 so far; a document with a larger number is refused.
    pub format: u32,
    /// Its name, by which it is ended.
    pub id: String,
    /// Which rules; `*` stands for any letters.
    pub rule: String,
    /// Which of their subjects; all of them when it is left out.
    pub subject: Option<String>,
    /// The reason that was given, for people.
    pub why: String,
    /// Who asked for it, for whoever wonders.
    pub who: String,
    /// When it was asked for, by that host's clock; its name is made of it.
    pub since: Timestamp,
    /// This instant is excluded.
    pub until: Timestamp,
    /// When somebody ended it before its time.
    pub ended: Option<Timestamp>,
}

impl Silence {
    /// No silence lasts longer: what is forgotten must not be silent for ever.
    pub const LONGEST: Duration = Duration::from_secs(30 * 86_400);

    /// Whether it holds then.
    pub fn holds_at(&self, now: Timestamp) -> bool {
        self.ended.is_none() && now < self.until
    }
    /// Whether it is about this alarm.
    pub fn is_about(&self, rule: &str, subject: &str) -> bool {
        matches(&self.rule, rule) && self.subject.as_ref().is_none_or(|pattern| matches(pattern, subject))
    }
}

/// Whether the text is what the pattern says; `*` stands for any letters, none included.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((begin, rest)) => {
            text.strip_prefix(begin).is_some_and(|text| (0..=text.len()).any(|at| text.is_char_boundary(at) && matches(rest, &text[at..])))
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Kept<T> {
    format: u32,
    #[serde(flatten)]
    state: T,
}

impl AlertShelf {
    /// The alerts of the repository at the root of `store`.
    pub fn new(store: Arc<dyn Put>) -> Self {
        Self { store }
    }

    /// Where the repository is, for messages.
    pub fn address(&self) -> String {
        self.store.address()
    }

    /// The state as the last run left it, with its version, unless `known` still is that. `Ok(None)` when it is, or nothing is kept yet.
    pub async fn state<T: DeserializeOwned>(&self, known: Option<&Version>) -> Result<Option<(T, Version)>, RepoError> {
        let path = layout::alerts();
        // The version first: what is read then is that or newer, and a newer one makes the write fail.
        let Some(info) = self.store.info(&path).await? else {
            // A folder that is no repository, or an empty disk where one was mounted, is not written to.
            return match self.store.info(&layout::repository()).await? {
                Some(_) => Ok(None),
                None => Err(RepoError::NoRepository { address: self.store.address() }),
            };
        };
        if known == Some(&info.version) {
            return Ok(None);
        }
        let kept: Kept<T> = document::read(&path, &self.store.get(&path).await?)?;
        Ok(Some((kept.state, info.version)))
    }

    /// The version of what is kept, whether or not it can be read.
    pub async fn version(&self) -> Result<Option<Version>, RepoError> {
        Ok(self.store.info(&layout::alerts()).await?.map(|info| info.version))
    }

    /// Leaves this to the next run, unless another run was faster: then `None`, and nothing was written.
    pub async fn save<T: Serialize>(&self, state: &T, expected: Option<&Version>) -> Result<Option<Version>, RepoError> {
        let body = document::write(&Kept { format: document::FORMAT, state })?;
        Ok(self.store.replace(&layout::alerts(), body, expected).await?)
    }

    /// All silences that may hold at this time or after it, the earliest first, those that are over included.
    pub async fn silences(&self, now: Timestamp) -> Result<Vec<Silence>, RepoError> {
        let mut found: Vec<Silence> = Vec::new();
        // None lasts longer than the limit: what began before that is not even read.
        let longest = i64::try_from(Silence::LONGEST.as_micros()).unwrap_or(i64::MAX);
        let begin = layout::silence(&layout::silence_name(now.plus_micros(-longest), 1))?;
        let mut objects = self.store.list(layout::SILENCES, Some(&begin));
        while let Some(object) = objects.try_next().await? {
            found.push(document::read(&object.path, &self.store.get(&object.path).await?)?);
        }
        // The second of its second has a longer name.
        found.sort_by_key(|silence| (silence.since, silence.id.len(), silence.id.clone()));
        Ok(found)
    }

    /// Keeps a new silence, and gives it its name.
    pub async fn silence(&self, mut silence: Silence) -> Result<Silence, RepoError> {
        silence.format = document::FORMAT;
        for number in 1..=TRIES {
            silence.id = layout::silence_name(silence.since, number);
            if self.store.replace(&layout::silence(&silence.id)?, document::write(&silence)?, None).await?.is_some() {
                return Ok(silence);
            }
        }
        Err(RepoError::Contended { path: layout::silence(&silence.id)?.to_string() })
    }

    /// Ends a silence before its time; `None` when there is none of this name.
    pub async fn unsilence(&self, id: &str, now: Timestamp) -> Result<Option<Silence>, RepoError> {
        let Ok(path) = layout::silence(id) else { return Ok(None) };
        for _ in 0..TRIES {
            let Some(info) = self.store.info(&path).await? else { return Ok(None) };
            let mut silence: Silence = match self.store.get(&path).await {
                Ok(bytes) => document::read(&path, &bytes)?,
                Err(StoreError::Missing { .. }) => return Ok(None),
                Err(e) => return Err(e.into()),
            };
            if silence.ended.is_some() {
                return Ok(Some(silence));
            }
            silence.ended = Some(now);
            if self.store.replace(&path, document::write(&silence)?, Some(&info.version)).await?.is_some() {
                return Ok(Some(silence));
            }
        }
        Err(RepoError::Contended { path: path.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_itself_but_for_its_stars() {
        for (pattern, text, means) in [
            ("wal-lag", "wal-lag", true),
            ("wal-lag", "wal-lag-2", false),
            ("wal-*", "wal-lag", true),
            ("wal-*", "wal-", true),
            ("*", "", true),
            ("*lag", "wal-lag-lag", true),
            ("w*l*g", "wal-lag", true),
            ("w*x*g", "wal-lag", false),
            ("é*", "é→", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, text), means, "{pattern} and {text}");
        }
    }

    #[tokio::test]
    async fn a_silence_has_a_name_of_its_own_and_ends_once() {
        let shelf = AlertShelf::new(Arc::new(store::Memory::new()));
        let now = Timestamp::from_unix_micros(1_795_000_000_000_000);
        let wish = Silence {
            format: 0,
            id: String::new(),
            rule: "wal-lag".into(),
            subject: None,
            why: "an upgrade".into(),
            who: "anna@db1".into(),
            since: now,
            until: now.plus_micros(1),
            ended: None,
        };
        let (first, second) = (shelf.silence(wish.clone()).await.unwrap(), shelf.silence(wish).await.unwrap());
        assert_ne!(first.id, second.id);
        assert!(first.holds_at(now) && !first.holds_at(now.plus_micros(1)));
        assert_eq!(shelf.silences(now).await.unwrap(), [first.clone(), second.clone()]);
        assert!(shelf.silences(now.plus_micros(31 * 86_400_000_000)).await.unwrap().is_empty(), "what is long over is not read");
        let ended = shelf.unsilence(&first.id, now).await.unwrap().unwrap();
        assert!(!ended.holds_at(now));
        assert_eq!(shelf.unsilence(&first.id, now.plus_micros(5)).await.unwrap(), Some(ended), "the first end counts");
        for nothing in ["20010101T000000Z", "../repository", "", "a b"] {
            assert_eq!(shelf.unsilence(nothing, now).await.unwrap(), None, "{nothing}");
        }
    }

    #[tokio::test]
    async fn a_state_is_replaced_only_by_who_has_read_it_and_never_where_no_repository_is() {
        let store = Arc::new(store::Memory::new());
        let shelf = AlertShelf::new(store.clone());
        let read = shelf.state::<serde_json::Value>(None).await;
        assert!(matches!(read, Err(RepoError::NoRepository { .. })), "{read:?}");
        store.put_new(&layout::repository(), bytes::Bytes::from_static(b"{}")).await.unwrap();
        assert!(shelf.state::<serde_json::Value>(None).await.unwrap().is_none());
        let first = shelf.save(&serde_json::json!({ "n": 1 }), None).await.unwrap().unwrap();
        assert_eq!(shelf.save(&serde_json::json!({ "n": 2 }), None).await.unwrap(), None, "somebody was faster");
        let second = shelf.save(&serde_json::json!({ "n": 3 }), Some(&first)).await.unwrap().unwrap();
        let (state, version) = shelf.state::<serde_json::Value>(Some(&first)).await.unwrap().unwrap();
        assert_eq!((&state["n"], &version), (&serde_json::json!(3), &second));
        assert!(shelf.state::<serde_json::Value>(Some(&second)).await.unwrap().is_none(), "nothing is new");
    }
}
