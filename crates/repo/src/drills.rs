//! Reports of drills: readable documents, each written once, and a page for people beside each.

use crate::{Reader, RepoError, Writer, document, layout};
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Created, ObjectPath};
use terms::Timestamp;

/// So many drills may begin in one second.
const TRIES: u32 = 100;

impl Reader {
    /// Where the reports of all drills lie, newest first; a folder may turn out to hold none.
    pub async fn drills(&self) -> Result<Vec<ObjectPath>, RepoError> {
        let mut names = self.store.folders(layout::DRILLS).await?;
        // `20261122T020000Z-2` was the second of its second; the hundredth comes after the ninth.
        names.sort_by_key(|name| (name.split('-').next().unwrap_or_default().to_owned(), name.len(), name.clone()));
        Ok(names.iter().rev().filter_map(|name| layout::drill_report_in(name)).collect())
    }

    /// The report that lies there, whole and as it was written; `None` when none does.
    pub async fn drill<T: DeserializeOwned>(&self, path: &ObjectPath) -> Result<Option<T>, RepoError> {
        match self.store.get(path).await {
            Ok(bytes) => document::read(path, &bytes).map(Some),
            Err(store::StoreError::Missing { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl Writer {
    /// Keeps the report of a drill that began at this time, and its page beside it; where the report lies.
    pub async fn keep_drill<T: Serialize>(&self, began: Timestamp, report: &T, page: String) -> Result<ObjectPath, RepoError> {
        let body = document::write(report)?;
        for number in 1..=TRIES {
            let path = layout::drill_report(began, number, "json");
            if self.store.put_new(&path, body.clone()).await? == Created::New {
                self.store.put_new(&layout::drill_report(began, number, "html"), page.into()).await?;
                return Ok(path);
            }
        }
        Err(RepoError::Contended { path: layout::drill_report(began, 1, "json").to_string() })
    }
}
