//! Reports of drills: readable documents, each written once, and a page for people beside each; and the runbooks beside them.

use crate::{Reader, RepoError, Writer, document, layout};
use futures::TryStreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Created, ObjectPath, StoreError};
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
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The reports of the newest drills, the newest first: as many as `wanted` of those that `is_wanted` says yes to, of the last hundred at
    /// most. One that is damaged, or of a newer format, tells nothing and is passed over; only the store's own errors are errors.
    pub async fn newest_drills<T: DeserializeOwned>(&self, wanted: usize, is_wanted: impl Fn(&T) -> bool) -> Result<Vec<T>, RepoError> {
        let mut found = Vec::new();
        for path in self.drills().await?.iter().take(100) {
            if found.len() >= wanted {
                break;
            }
            match self.drill::<T>(path).await {
                Ok(Some(report)) if is_wanted(&report) => found.push(report),
                Err(e @ RepoError::Store(_)) => return Err(e),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(found)
    }

    /// The text of the newest runbook that is kept; what is no UTF-8 of it is replaced.
    pub async fn runbook(&self) -> Result<Option<String>, RepoError> {
        let listed: Vec<_> = self.store.list(layout::RUNBOOKS, None).try_collect().await?;
        let newest = listed.into_iter().map(|object| object.path).filter(|path| path.name() == "runbook.md").max();
        match newest {
            Some(path) => Ok(Some(String::from_utf8_lossy(&self.store.get(&path).await?).into_owned())),
            None => Ok(None),
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

    /// Keeps a runbook in both its forms; where the readable one lies.
    pub async fn keep_runbook(&self, now: Timestamp, text: String, page: String) -> Result<ObjectPath, RepoError> {
        let path = layout::runbook(now, "md");
        // The text last: where it is, the page is, too.
        self.store.put_new(&layout::runbook(now, "html"), page.into()).await?;
        self.store.put_new(&path, text.into()).await?;
        Ok(path)
    }
}
