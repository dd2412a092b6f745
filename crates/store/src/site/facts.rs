//! What is written beside an object and must come back with it.

use object_store::HeaderMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Headers that belong to the object itself.
const KEPT: [&str; 7] =
    ["content-type", "content-encoding", "content-language", "content-disposition", "cache-control", "expires", "x-amz-website-redirect-location"];
/// What begins so is the application's own.
const OWN: &str = "x-amz-meta-";
/// Beside an object that was brought back: of which one it is a copy.
const COPY_OF: &str = "x-amz-meta-bowline-copy-of";
/// How the replication of an object stands.
const REPLICATION: &str = "x-amz-replication-status";

/// Headers of a bucket's object, by name; of a file its permission bits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ItemFacts {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mode: Option<u32>,
    /// `PENDING`, `COMPLETED`, `FAILED`, or `REPLICA` at the other end.
    #[serde(skip)]
    pub replication: Option<String>,
}

impl ItemFacts {
    pub(super) fn of_headers(all: &HeaderMap) -> Self {
        let mut facts = Self::default();
        for (name, value) in all {
            let (name, Ok(value)) = (name.as_str(), value.to_str()) else { continue };
            if KEPT.contains(&name) || name.starts_with(OWN) {
                facts.headers.insert(name.to_owned(), value.to_owned());
            }
            if name == REPLICATION {
                facts.replication = Some(value.to_ascii_uppercase());
            }
        }
        facts
    }

    pub(super) fn headers(&self) -> Vec<(String, String)> {
        self.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// The same, with a note of which object it is a copy of.
    pub fn copy_of(mut self, what: &str) -> Self {
        self.headers.insert(COPY_OF.to_owned(), what.to_owned());
        self
    }

    /// Of which object it is a copy, where Bowline brought it back.
    pub fn is_copy_of(&self) -> Option<&str> {
        self.headers.get(COPY_OF).map(String::as_str)
    }
}
