//! Whether what the database refers to is there: its keys, and sizes where it tells them, beside the objects as of the same instant.

use crate::PackagesError;
use futures::stream::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use std::pin::pin;

/// Of so many keys of each kind the names are told.
const TOLD_MAX: usize = 20;

/// What the database says of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Of the object, below the prefix or folder of the application.
    pub key: String,
    /// In bytes, where it tells that.
    pub size: Option<u64>,
}

/// How database and objects agree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// Keys that the database refers to, each once.
    pub referred: u64,
    /// Of these, what is not there, and what is there with another size.
    pub missing: u64,
    /// Those that are there with another size.
    pub changed: u64,
    /// Objects that nothing refers to: no fault, since an application writes the object first.
    pub orphaned: u64,
    /// Of what is missing the first twenty, by the bytes of keys.
    pub missing_keys: Vec<String>,
    /// Of what has another size the first twenty.
    pub changed_keys: Vec<String>,
    /// Of what nothing refers to the first twenty.
    pub orphaned_keys: Vec<String>,
}

impl Agreement {
    /// Whether every reference resolves.
    pub fn holds(&self) -> bool {
        self.missing == 0 && self.changed == 0
    }
}

/// Compares; `there` are keys and sizes by the bytes of keys. The references lie in memory, the objects do not.
pub async fn agree(
    mut references: Vec<Reference>,
    there: impl Stream<Item = Result<(String, u64), PackagesError>>,
) -> Result<Agreement, PackagesError> {
    references.sort();
    references.dedup();
    let mut found = Agreement::default();
    let tell = |to: &mut Vec<String>, key: &str| {
        if to.len() < TOLD_MAX {
            to.push(key.to_owned());
        }
    };
    let mut references = references.into_iter().peekable();
    let mut there = pin!(there);
    let count = |found: &mut Agreement, reference: Reference, size: Option<u64>| {
        found.referred += 1;
        match size {
            None => {
                found.missing += 1;
                tell(&mut found.missing_keys, &reference.key);
            }
            Some(size) if reference.size.is_some_and(|wanted| wanted != size) => {
                found.changed += 1;
                tell(&mut found.changed_keys, &reference.key);
            }
            Some(_) => {}
        }
    };
    while let Some(object) = there.next().await {
        let (key, size) = object?;
        while let Some(reference) = references.next_if(|reference| reference.key < key) {
            count(&mut found, reference, None);
        }
        let mut is_referred = false;
        while let Some(reference) = references.next_if(|reference| reference.key == key) {
            is_referred = true;
            count(&mut found, reference, Some(size));
        }
        if !is_referred {
            found.orphaned += 1;
            tell(&mut found.orphaned_keys, &key);
        }
    }
    references.for_each(|reference| count(&mut found, reference, None));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    #[tokio::test]
    async fn what_is_missing_changed_or_orphaned_is_told_apart() {
        let reference = |key: &str, size| Reference { key: key.to_owned(), size };
        let references = vec![reference("d", None), reference("a", Some(1)), reference("b", Some(2)), reference("z", None), reference("a", Some(1))];
        let there = stream::iter([("a", 1), ("b", 3), ("c", 4), ("d", 9)].map(|(key, size)| Ok((key.to_owned(), size))));
        let found = agree(references, there).await.unwrap();
        assert_eq!((found.referred, found.missing, found.changed, found.orphaned), (4, 1, 1, 1), "{found:?}");
        assert_eq!((found.missing_keys, found.changed_keys, found.orphaned_keys), (vec!["z".into()], vec!["b".into()], vec!["c".into()]));
    }
}
