//! Reports of drills: readable documents, each written once, and a page for people beside each.

use crate::{RepoError, Writer, document, layout};
use serde::Serialize;
use store::{Created, ObjectPath};
use terms::Timestamp;

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
