//! The ledger: a small readable document when a job begins, another when it ended; what has only the first broke off.

use crate::{Reader, RepoError, Writer, document, layout};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use store::{Created, ObjectPath, StoreError};
use terms::Timestamp;

/// So many runs of one job may begin in one second.
const TRIES: u32 = 100;
/// Documents read at once.
const AT_ONCE: usize = 16;

/// The name of a run: when it began and of which job it is, such as `20261122T020000Z-backup`; a further one of the same second has a
/// number from 2 on. Names sort by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunName {
    began: String,
    job: String,
}

impl RunName {
    /// The job, without the number of a further run.
    pub fn job(&self) -> &str {
        self.job.split('.').next().unwrap_or(&self.job)
    }

    /// When it began, to the second.
    pub fn began(&self) -> Timestamp {
        Timestamp::from_compact(&self.began).unwrap_or(Timestamp::from_unix_micros(0))
    }

    /// Reads what Display wrote; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let (began, job) = text.split_once('-')?;
        Timestamp::from_compact(began)?;
        let plain = !job.is_empty() && job.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
        plain.then(|| Self { began: began.to_owned(), job: job.to_owned() })
    }

    pub(crate) fn month(&self) -> (&str, &str) {
        (&self.began[..4], &self.began[4..6])
    }
}

impl fmt::Display for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.began, self.job)
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunOutcome {
    /// It did what it was to do.
    Ok,
    /// It ended by itself, with an error or having found something wrong.
    Failed,
    /// Another one was under way: nothing was begun.
    Refused,
    /// It was killed, or its host died.
    BrokenOff,
}

/// `runs/{YYYY}/{MM}/{name}.begun.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunBegun {
    /// 1 so far; a document with a larger number is refused.
    pub format: u32,
    /// The job's name, such as `backup`, without the number of a further run.
    pub job: String,
    /// By the clock of the host that it runs on.
    pub began: Timestamp,
    /// Whose process it is: host and process, for people.
    pub by: String,
}

/// `runs/{YYYY}/{MM}/{name}.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEnded {
    /// 1 so far; a document with a larger number is refused.
    pub format: u32,
    /// The job's name, such as `backup`, without the number of a further run.
    pub job: String,
    /// By the clock of the host that it ran on.
    pub began: Timestamp,
    /// By the clock of the host that it ran on; of one that was killed, of whoever noticed.
    pub ended: Timestamp,
    /// Whose process it was: host and process, for people; of one that was killed, of whoever noticed.
    pub by: String,
    /// In one word.
    pub outcome: RunOutcome,
    /// Of the process; `None` when it was killed, and when it found something wrong without an error.
    pub exit_code: Option<u8>,
    /// What failed, in the words of its explanation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    /// What happened, in one sentence without its point; absent when all went well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Why; absent when the summary says it all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The next step; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What was moved, where bytes say something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The result that the command printed as JSON, shortened where it is too large; `None` where it came to none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
    /// The last lines it printed.
    pub log: Vec<String>,
}

/// A run as the ledger knows it.
#[derive(Debug, Clone, PartialEq)]
pub enum Run {
    /// It is under way, or broke off without a word.
    Begun(RunBegun),
    /// It ended, and somebody wrote down how.
    Ended(Box<RunEnded>),
}

impl Run {
    /// The job's name, such as `backup`, without the number of a further run.
    pub fn job(&self) -> &str {
        match self {
            Self::Begun(run) => &run.job,
            Self::Ended(run) => &run.job,
        }
    }
    /// By the clock of the host that it runs on.
    pub fn began(&self) -> Timestamp {
        match self {
            Self::Begun(run) => run.began,
            Self::Ended(run) => run.began,
        }
    }
    /// Whose process it is, or was: host and process, for people.
    pub fn by(&self) -> &str {
        match self {
            Self::Begun(run) => &run.by,
            Self::Ended(run) => &run.by,
        }
    }
    /// How it ended; `None` while it is under way, and when it broke off without a word.
    pub fn ended(&self) -> Option<&RunEnded> {
        match self {
            Self::Begun(_) => None,
            Self::Ended(run) => Some(run),
        }
    }
}

impl RunBegun {
    /// A run that begins at `began`; `by` is its host and process, for people.
    pub fn new(job: &str, began: Timestamp, by: String) -> Self {
        Self { format: document::FORMAT, job: job.to_owned(), began, by }
    }

    /// How it ended, so far without words.
    pub fn end(self, ended: Timestamp, outcome: RunOutcome, exit_code: Option<u8>) -> RunEnded {
        let Self { format, job, began, by } = self;
        RunEnded {
            format,
            job,
            began,
            ended,
            by,
            outcome,
            exit_code,
            slug: None,
            summary: None,
            detail: None,
            hint: None,
            bytes: None,
            result: None,
            log: Vec::new(),
        }
    }
}

impl Reader {
    /// The names of runs, newest first, of the newest months that have any; at least `wanted` of them where there are so many.
    pub async fn run_names(&self, wanted: usize) -> Result<Vec<RunName>, RepoError> {
        let mut found = Vec::new();
        for year in self.newest_folders(layout::RUNS).await? {
            let folder = format!("{}/{year}", layout::RUNS);
            for month in self.newest_folders(&folder).await? {
                found.extend(self.run_names_in(&format!("{folder}/{month}"), None).await?);
                if found.len() >= wanted {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    /// The names of runs that began at this second or later, newest first.
    pub async fn run_names_from(&self, from: Timestamp) -> Result<Vec<RunName>, RepoError> {
        let (mut found, first) = (Vec::new(), layout::runs_from(from));
        for year in self.newest_folders(layout::RUNS).await? {
            let folder = format!("{}/{year}", layout::RUNS);
            // A folder whose name is a beginning of the first one's holds it.
            if folder.as_str() < first.as_str() && !first.as_str().starts_with(&folder) {
                break;
            }
            for month in self.newest_folders(&folder).await? {
                let folder = format!("{folder}/{month}");
                let holds_first = first.as_str().starts_with(&folder);
                if folder.as_str() < first.as_str() && !holds_first {
                    break;
                }
                found.extend(self.run_names_in(&folder, Some(&first).filter(|_| holds_first)).await?);
            }
        }
        Ok(found)
    }

    /// The folders directly below, the last name first.
    async fn newest_folders(&self, folder: &str) -> Result<Vec<String>, RepoError> {
        let mut names = self.store.folders(folder).await?;
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(names)
    }

    /// The names of runs in one month's folder, newest first.
    async fn run_names_in(&self, folder: &str, after: Option<&ObjectPath>) -> Result<Vec<RunName>, RepoError> {
        let mut objects = self.store.list(folder, after);
        let mut names = Vec::new();
        while let Some(object) = objects.try_next().await? {
            names.extend(object.path.name().strip_suffix(".begun.json").and_then(RunName::parse));
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(names)
    }

    /// What the ledger knows of this run; `None` when it does not know it.
    pub async fn run(&self, name: &RunName) -> Result<Option<Run>, RepoError> {
        let path = layout::run_ended(name);
        match self.store.get(&path).await {
            Ok(bytes) => return Ok(Some(Run::Ended(document::read(&path, &bytes)?))),
            Err(StoreError::Missing { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        let path = layout::run_begun(name);
        match self.store.get(&path).await {
            Ok(bytes) => Ok(Some(Run::Begun(document::read(&path, &bytes)?))),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// These runs; one that is damaged tells nothing and is left out. `known` are read already and have ended.
    pub async fn runs(&self, names: &[RunName], known: &BTreeMap<RunName, Run>) -> Result<BTreeMap<RunName, Run>, RepoError> {
        let found: Vec<_> = futures::stream::iter(names.iter().cloned())
            .map(|name| async move {
                if let Some(run @ Run::Ended(_)) = known.get(&name) {
                    return Ok(Some((name, run.clone())));
                }
                match self.run(&name).await {
                    Ok(run) => Ok(run.map(|run| (name, run))),
                    Err(e @ RepoError::Store(_)) => Err(e),
                    Err(_) => Ok(None),
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        Ok(found.into_iter().flatten().collect())
    }
}

impl Writer {
    /// Writes down that a run begins; its name.
    pub async fn begin_run(&self, begun: &RunBegun) -> Result<RunName, RepoError> {
        let body = document::write(begun)?;
        for number in 1..=TRIES {
            let job = if number > 1 { format!("{}.{number}", begun.job) } else { begun.job.clone() };
            let name = RunName { began: begun.began.compact(), job };
            if self.store.put_new(&layout::run_begun(&name), body.clone()).await? == Created::New {
                return Ok(name);
            }
        }
        Err(RepoError::Contended { path: layout::RUNS.to_owned() })
    }

    /// Writes down how it ended; what was written first stays.
    pub async fn end_run(&self, name: &RunName, ended: &RunEnded) -> Result<(), RepoError> {
        self.store.put_new(&layout::run_ended(name), document::write(ended)?).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_runs_read_back_and_sort_by_time() {
        let names: Vec<RunName> = ["20261122T020000Z-backup", "20261122T020000Z-backup.2", "20261123T020000Z-wal-audit"]
            .iter()
            .map(|text| RunName::parse(text).expect(text))
            .collect();
        assert!(names.is_sorted());
        assert_eq!(names.iter().map(RunName::job).collect::<Vec<_>>(), ["backup", "backup", "wal-audit"]);
        assert_eq!(names[2].to_string(), "20261123T020000Z-wal-audit");
        for wrong in ["", "backup", "20261122T020000Z-", "20261122T0200Z-backup", "20261122T020000Z-a/b", "20261122T020000Z-A"] {
            assert_eq!(RunName::parse(wrong), None, "{wrong}");
        }
    }
}
