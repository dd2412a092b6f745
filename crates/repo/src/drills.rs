//! Reports of drills: readable documents, each written once, and a page for people beside each.

use crate::{Reader, RepoError, Writer, document, layout};
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Created, ObjectPath, StoreError};
use terms::{Class, Explain, Timestamp};

/// So many drills may begin in one second.
const TRIES: u32 = 100;

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
        self.store.put_new(&path, text.into()).await?;
        self.store.put_new(&layout::runbook(now, "html"), page.into()).await?;
        Ok(path)
    }
}

impl Reader {
    /// The reports of the newest drills, the newest first: as many as `wanted` says yes to, of the last hundred at most. One that is
    /// damaged, or of a newer format, tells nothing and is passed over; only the store's own errors are errors.
    pub async fn drills<T: DeserializeOwned>(&self, wanted: usize, is_wanted: impl Fn(&T) -> bool) -> Result<Vec<T>, RepoError> {
        let mut folders = self.store.folders(layout::DRILLS).await?;
        // A name begins with the time, so that order of names is that of time.
        folders.sort_unstable_by(|one, other| other.cmp(one));
        let mut found = Vec::new();
        for path in folders.iter().take(100).filter_map(|folder| layout::drill_report_in(folder)) {
            if found.len() >= wanted {
                break;
            }
            let read = match self.store.get(&path).await {
                Ok(bytes) => document::read::<T>(&path, &bytes),
                Err(StoreError::Missing { .. }) => continue,
                Err(e) => return Err(e.into()),
            };
            match read {
                Ok(report) if is_wanted(&report) => found.push(report),
                Err(e) if e.class() == Class::Transient => return Err(e),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(found)
    }
}
