//! Finds out by trying whether a store keeps the promises that Bowline's safety rests on.

use crate::token::token;
use crate::{Created, Fetch, ObjectPath, Put, Remove, StoreError};
use bytes::Bytes;
use futures::future::join_all;
use futures::stream::TryStreamExt;
use serde::{Deserialize, Serialize};

/// How many puts race for one name.
const RACERS: usize = 8;

/// What a store was seen to support. For every `false` there is a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Of racing puts to a new name exactly one succeeds, and later ones are refused.
    pub conditional_put: bool,
    /// An object is replaced only while its version is the expected one.
    pub conditional_replace: bool,
    /// What was written is listed at once.
    pub list_after_write: bool,
    /// A part of an object can be read.
    pub ranges: bool,
    /// Why each capability that is false is so, for people.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// What is known of the store as a whole; older repositories do not say.
    #[serde(default, flatten)]
    pub nature: Nature,
}

/// What a store is like beyond its objects. Where nothing is said it was not asked: a folder has none of this.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Nature {
    /// The completion of an upload in parts overwrites nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditional_complete: Option<bool>,
    /// `enabled`, `suspended`, `off`, or why it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub versioning: Option<String>,
    /// How what comes without a wish is encrypted: an algorithm and key, `off`, or why it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_encryption: Option<String>,
    /// Whether the store encrypts as the configuration asks: `yes`, or why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted_as_asked: Option<String>,
    /// `yes`, `no`, or why it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_access_blocked: Option<String>,
    /// Whether objects can be locked: `yes`, `no`, or why it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_lock: Option<String>,
    /// The store's clock less this host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_skew_seconds: Option<i64>,
    /// Why what is false here is so; moved to the capabilities' own.
    #[serde(skip)]
    pub(crate) reasons: Vec<String>,
}

impl Capabilities {
    /// What is otherwise now than it was, as `versioning: was enabled, is suspended`; what was not asked then has not changed.
    pub fn changes_since(&self, before: &Self) -> Vec<String> {
        let (now, then) = (&self.nature, &before.nature);
        let flag = |is_so: bool| if is_so { "yes" } else { "no" }.to_owned();
        let facts = [
            ("conditional put", Some(flag(before.conditional_put)), Some(flag(self.conditional_put))),
            ("conditional replace", Some(flag(before.conditional_replace)), Some(flag(self.conditional_replace))),
            ("list after write", Some(flag(before.list_after_write)), Some(flag(self.list_after_write))),
            ("ranges", Some(flag(before.ranges)), Some(flag(self.ranges))),
            ("conditional complete", then.conditional_complete.map(flag), now.conditional_complete.map(flag)),
            ("versioning", then.versioning.clone(), now.versioning.clone()),
            ("default encryption", then.default_encryption.clone(), now.default_encryption.clone()),
            ("encrypted as asked", then.encrypted_as_asked.clone(), now.encrypted_as_asked.clone()),
            ("public access blocked", then.public_access_blocked.clone(), now.public_access_blocked.clone()),
            ("object lock", then.object_lock.clone(), now.object_lock.clone()),
        ];
        let changed = facts.into_iter().filter_map(|(what, then, now)| match (then, now) {
            (Some(then), Some(now)) if then != now => Some(format!("{what}: was {then}, is {now}")),
            _ => None,
        });
        changed.collect()
    }

    /// Whether nothing is lacking.
    pub fn all(&self) -> bool {
        self.conditional_put && self.conditional_replace && self.list_after_write && self.ranges
    }
}

/// Tries every promise on objects below `{folder}/probe/` with random names, and removes them again if it can.
/// An error means that the store could not be asked; a broken promise is an answer, not an error.
pub async fn probe(store: &dyn Put, remover: Option<&dyn Remove>, folder: &str) -> Result<Capabilities, StoreError> {
    let home = match folder.trim_matches('/') {
        "" => "probe".to_owned(),
        plain => format!("{plain}/probe"),
    };
    let word = token();
    let name = |part: &str| {
        let text = format!("{home}/{word}-{part}");
        ObjectPath::new(text.as_str()).map_err(|error| StoreError::BadAddress { url: text, why: error.to_string() })
    };
    let (raced, replaced, completed) = (name("raced")?, name("replaced")?, name("completed")?);
    let found = ask(store, &home, [&raced, &replaced, &completed]).await;
    if let Some(remover) = remover {
        for path in [&raced, &replaced, &completed] {
            // What stays behind is a few bytes; whether removing works is upkeep's question.
            let _ = remover.remove(path).await;
        }
    }
    found
}

async fn ask(store: &dyn Put, home: &str, [raced, replaced, completed]: [&ObjectPath; 3]) -> Result<Capabilities, StoreError> {
    let mut reasons = Vec::new();
    let mut judge = |verdict: Result<(), String>| {
        let holds = verdict.is_ok();
        reasons.extend(verdict.err());
        holds
    };
    let conditional_put = judge(put_is_conditional(store, raced).await?);
    let conditional_replace = judge(replace_is_conditional(store, replaced).await?);
    let list_after_write = judge(is_listed(store, home, raced).await?);
    let ranges = judge(has_ranges(store, raced).await?);
    // A store that cannot even do the first puts right is not asked further.
    let mut nature = if conditional_put { store.nature(completed).await? } else { Nature::default() };
    reasons.append(&mut nature.reasons);
    Ok(Capabilities { conditional_put, conditional_replace, list_after_write, ranges, reasons, nature })
}

/// What a racer writes: each something else, so that none can take another's object for its own.
fn body(racer: usize) -> Bytes {
    Bytes::from(format!("bowline probe, racer {racer:04}"))
}

async fn put_is_conditional(store: &dyn Put, path: &ObjectPath) -> Result<Result<(), String>, StoreError> {
    let answers = join_all((0..RACERS).map(|racer| store.put_new(path, body(racer)))).await;
    let mut winners = Vec::new();
    for (racer, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(Created::New) => winners.push(racer),
            Ok(Created::AlreadyThere) => {}
            Err(error @ StoreError::Failed { .. }) => return Ok(Err(unsupported("a put that must not overwrite (If-None-Match: *)", &error))),
            Err(error) => return Err(error),
        }
    }
    if winners.len() != 1 {
        return Ok(Err(format!(
            "{} of {RACERS} racing puts to one new name were told that they succeeded; exactly one must be (the store ignores If-None-Match: *)",
            winners.len()
        )));
    }
    if store.get(path).await? != body(winners[0]) {
        return Ok(Err("the object stored by a race is not that of the put that was told it won".to_owned()));
    }
    // Some servers check only while requests overlap, others only when they do not.
    let late = store.put_new(path, body(RACERS)).await?;
    if late != Created::AlreadyThere || store.get(path).await? != body(winners[0]) {
        return Ok(Err("a put to a name that exists overwrote the object (the store ignores If-None-Match: *)".to_owned()));
    }
    Ok(Ok(()))
}

async fn replace_is_conditional(store: &dyn Put, path: &ObjectPath) -> Result<Result<(), String>, StoreError> {
    let replace = async |body: &'static str, expected| match store.replace(path, Bytes::from_static(body.as_bytes()), expected).await {
        Err(error @ StoreError::Failed { .. }) => Ok(Err(unsupported("a put that replaces one version (If-Match)", &error))),
        Err(error) => Err(error),
        Ok(answer) => Ok(Ok(answer)),
    };
    let first = match replace("bowline probe, first", None).await? {
        Ok(Some(version)) => version,
        Ok(None) => return Ok(Err("a document could not be created because the store says it exists".to_owned())),
        Err(why) => return Ok(Err(why)),
    };
    if replace("bowline probe, created twice", None).await? != Ok(None) {
        return Ok(Err("a document was created twice (the store ignores If-None-Match: *)".to_owned()));
    }
    match replace("bowline probe, second", Some(&first)).await? {
        Ok(Some(_)) => {}
        Ok(None) => return Ok(Err("a document could not be replaced although its version was the expected one".to_owned())),
        Err(why) => return Ok(Err(why)),
    }
    match replace("bowline probe, stale", Some(&first)).await? {
        Ok(None) => {}
        Ok(Some(_)) => return Ok(Err("a document was replaced although its version had changed (the store ignores If-Match)".to_owned())),
        Err(why) => return Ok(Err(why)),
    }
    match store.get(path).await?.as_ref() {
        b"bowline probe, second" => Ok(Ok(())),
        _ => Ok(Err("a refused replacement changed the document all the same".to_owned())),
    }
}

async fn is_listed(store: &dyn Fetch, home: &str, path: &ObjectPath) -> Result<Result<(), String>, StoreError> {
    let mut found = store.list(home, None);
    while let Some(object) = found.try_next().await? {
        if object.path == *path {
            return Ok(Ok(()));
        }
    }
    Ok(Err("an object that had been written was not listed".to_owned()))
}

async fn has_ranges(store: &dyn Fetch, path: &ObjectPath) -> Result<Result<(), String>, StoreError> {
    match store.get_range(path, 8..13).await {
        Ok(part) if part.as_ref() == b"probe" => Ok(Ok(())),
        Ok(_) => Ok(Err("a part of an object read by range was not that part".to_owned())),
        Err(error @ (StoreError::Failed { .. } | StoreError::Truncated { .. })) => Ok(Err(unsupported("reading a range", &error))),
        Err(error) => Err(error),
    }
}

fn unsupported(what: &str, error: &StoreError) -> String {
    let why = terms::Explain::detail(error);
    format!("{what} failed: {}", why.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memory;

    #[tokio::test]
    async fn a_store_that_keeps_every_promise_is_seen_to_and_left_clean() {
        let memory = Memory::new();
        let found = probe(&memory, Some(&memory), "").await.unwrap();
        assert!(found.all() && found.reasons.is_empty(), "{found:?}");
        assert!(memory.is_empty());
    }

    #[test]
    fn a_repository_made_by_an_older_bowline_is_read_and_changed_in_nothing_it_did_not_say() {
        let old: Capabilities =
            serde_json::from_str(r#"{"conditional_put":true,"conditional_replace":true,"list_after_write":true,"ranges":true}"#).unwrap();
        let nature = Nature { versioning: Some("enabled".to_owned()), conditional_complete: Some(true), ..Nature::default() };
        let now = Capabilities { nature, ..old.clone() };
        assert_eq!(now.changes_since(&old), Vec::<String>::new());
        let text = serde_json::to_string(&now).unwrap();
        assert!(text.contains(r#""versioning":"enabled""#) && !text.contains("object_lock"), "{text}");
        let later = Capabilities { nature: Nature { versioning: Some("suspended".to_owned()), ..now.nature.clone() }, ..now.clone() };
        assert_eq!(later.changes_since(&serde_json::from_str(&text).unwrap()), ["versioning: was enabled, is suspended"]);
    }
}
