//! Brings packages back as they were at an instant: what is right is left alone, what is newer stays as a version or aside, and
//! a second run goes on where the first one ended.

use crate::source::{Source, Wanted};
use crate::{PackagesError, Place};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use serde::Serialize;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use store::{Item, Site};
use terms::{Event, Events, SnapshotOfProgress, Timestamp};

/// How to bring them back.
#[derive(Debug, Clone)]
pub struct RestoreWish {
    pub at: Timestamp,
    /// Where to.
    pub into: Place,
    /// What came after the instant is hidden: by a delete marker, or moved aside in a folder.
    pub hides_newer: bool,
    /// Objects at once.
    pub jobs: usize,
}

/// What is to be done, or was.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RestoreReport {
    pub source: String,
    pub target: String,
    pub at: Option<Timestamp>,
    /// Objects that were there at the instant, and their bytes.
    pub keys: u64,
    pub bytes: u64,
    /// Of these, what is right already.
    pub same: u64,
    /// What was not there, and what was another one.
    pub absent: u64,
    pub different: u64,
    pub bytes_written: u64,
    /// What came after the instant: left as it is, or hidden.
    pub newer: u64,
    pub newer_hidden: u64,
    /// Objects that were overwritten or removed around the instant, nobody knows when exactly; they are brought back.
    pub uncertain: u64,
    /// Objects that could not be brought back.
    pub failed: u64,
    pub first_failure: Option<String>,
    /// Seconds before the instant of which the snapshots know nothing; absent with a replica.
    pub unknown_seconds: Option<f64>,
    /// Where a folder's files went that were in the way.
    pub aside: Option<PathBuf>,
    pub took_seconds: f64,
}

/// What there is to do for a key.
enum Job {
    Same(Wanted),
    Write(Wanted, bool),
    Newer(String),
}

/// Looks at what would be done; touches nothing.
pub async fn plan(source: &Source, wish: &RestoreWish) -> Result<RestoreReport, PackagesError> {
    let target = Site::open(&wish.into.url, &wish.into.options)?;
    let mut report = begun(source, &target, wish);
    let mut jobs = jobs(source, &target, wish).await?;
    let began = Instant::now();
    while let Some(job) = jobs.try_next().await? {
        report.count(&job);
    }
    report.took_seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

fn begun(source: &Source, target: &Site, wish: &RestoreWish) -> RestoreReport {
    RestoreReport {
        source: source.describe(),
        target: target.address(),
        at: Some(wish.at),
        unknown_seconds: source.unknown_seconds(wish.at),
        ..RestoreReport::default()
    }
}

impl RestoreReport {
    fn count(&mut self, job: &Job) {
        match job {
            Job::Newer(_) => self.newer += 1,
            Job::Same(wanted) | Job::Write(wanted, _) => {
                self.keys += 1;
                self.bytes += wanted.bytes;
                self.uncertain += u64::from(wanted.is_uncertain);
            }
        }
        match job {
            Job::Same(_) => self.same += 1,
            Job::Write(_, true) => self.different += 1,
            Job::Write(_, false) => self.absent += 1,
            Job::Newer(_) => {}
        }
    }
}

/// Does it. What fails for one object keeps no other from coming back; the report tells, and the end is an error then.
pub async fn restore(source: &Source, wish: &RestoreWish, events: Arc<dyn Events>) -> Result<RestoreReport, PackagesError> {
    let target = Site::open(&wish.into.url, &wish.into.options)?;
    let keeps_versions = target.keeps_versions().await?;
    let mut report = begun(source, &target, wish);
    if !target.is_folder() && !keeps_versions {
        // Without versions nothing may be overwritten: known before anything is written.
        let planned = plan(source, wish).await?;
        if planned.different > 0 || (wish.hides_newer && planned.newer > 0) {
            return Err(PackagesError::WouldDestroy { address: target.address() });
        }
    }
    let aside = target.is_folder().then(|| aside_of(&target, wish.at));
    let (began, done) = (Instant::now(), Done::default());
    let mut planned = RestoreReport::default();
    let jobs = jobs(source, &target, wish).await?;
    let mut running = jobs
        .map(|job| {
            let (target, aside, done) = (&target, aside.clone(), &done);
            async move {
                let job = job?;
                match &job {
                    Job::Same(_) => {}
                    Job::Newer(key) if wish.hides_newer => {
                        let hidden = target.hide(key, aside).await;
                        done.note(key, hidden.map(|()| done.add(&done.hidden, 1)).map_err(PackagesError::from));
                    }
                    Job::Newer(_) => {}
                    Job::Write(wanted, _) => {
                        let copied = copy(source, target, wanted, aside).await;
                        done.note(&wanted.key, copied.map(|()| done.add(&done.bytes, wanted.bytes)));
                    }
                }
                Ok::<_, PackagesError>(job)
            }
        })
        .buffer_unordered(wish.jobs.max(1));
    while let Some(job) = running.try_next().await? {
        planned.count(&job);
        if planned.keys % 64 == 0 {
            let bytes_done = done.bytes.load(Ordering::Relaxed);
            let (bytes_total, files_done) = (planned.bytes, planned.keys);
            events.tell(Event::Progress(SnapshotOfProgress { bytes_done, bytes_total, files_done, bytes_stored: bytes_done }));
        }
    }
    drop(running);
    report = RestoreReport { source: report.source, target: report.target, at: report.at, unknown_seconds: report.unknown_seconds, ..planned };
    report.bytes_written = done.bytes.into_inner();
    report.newer_hidden = done.hidden.into_inner();
    report.failed = done.failed.into_inner();
    report.first_failure = done.first.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.aside = aside.filter(|aside| aside.exists());
    report.took_seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

impl RestoreReport {
    /// Whether all of it is there.
    pub fn complete(&self) -> Result<(), PackagesError> {
        match self.failed {
            0 => Ok(()),
            failed => Err(PackagesError::Incomplete { failed, first: self.first_failure.clone().unwrap_or_default() }),
        }
    }
}

#[derive(Default)]
struct Done {
    bytes: AtomicU64,
    hidden: AtomicU64,
    failed: AtomicU64,
    first: Mutex<Option<String>>,
}

impl Done {
    fn add(&self, to: &AtomicU64, number: u64) {
        to.fetch_add(number, Ordering::Relaxed);
    }

    fn note(&self, key: &str, outcome: Result<(), PackagesError>) {
        if let Err(error) = outcome {
            self.failed.fetch_add(1, Ordering::Relaxed);
            let why = format!("{key}: {}", terms::Explain::in_a_line(&error));
            self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        }
    }
}

/// Where a folder's files go that are in the way: beside it, the same for every run to the same instant.
fn aside_of(target: &Site, at: Timestamp) -> PathBuf {
    let root = target.address().trim_start_matches("file://").to_owned();
    PathBuf::from(format!("{root}.aside-{}", at.compact()))
}

/// How an object that was brought back is known again.
fn note_of(wanted: &Wanted) -> String {
    format!("{}:{}", wanted.etag, wanted.bytes)
}

async fn copy(source: &Source, target: &Site, wanted: &Wanted, aside: Option<PathBuf>) -> Result<(), PackagesError> {
    let piece = Site::piece_bytes(wanted.bytes);
    let (mut body, facts) = source.read(wanted, 0, wanted.bytes.min(piece)).await?;
    let mut upload = target.begin(&wanted.key, wanted.bytes, &facts.copy_of(&note_of(wanted)), wanted.modified, aside).await?;
    let mut at = 0;
    loop {
        at += body.len() as u64;
        upload.piece(body).await?;
        if at >= wanted.bytes {
            break;
        }
        body = source.read(wanted, at, piece.min(wanted.bytes - at)).await?.0;
    }
    Ok(upload.finish().await?)
}

/// Both lists beside each other, in the order of keys.
async fn jobs<'a>(source: &'a Source, target: &'a Site, wish: &RestoreWish) -> Result<BoxStream<'a, Result<Job, PackagesError>>, PackagesError> {
    let wanted = source.wanted(wish.at).await?.peekable();
    // A folder that is gone altogether is an empty one.
    let there = match target.exists().await? {
        true => target.current().map_err(PackagesError::from).boxed(),
        false => stream::empty().boxed(),
    };
    let pairs = stream::try_unfold((wanted, there.peekable()), |(mut wanted, mut there)| async move {
        let key_of_wanted = match Pin::new(&mut wanted).peek().await {
            Some(Ok(next)) => Some(next.key.clone()),
            Some(Err(_)) => return Err(wanted.try_next().await.err().unwrap_or_else(|| PackagesError::Bug("an error went away".into()))),
            None => None,
        };
        let key_there = match Pin::new(&mut there).peek().await {
            Some(Ok(next)) => Some(next.key.clone()),
            Some(Err(_)) => return Err(there.try_next().await.err().unwrap_or_else(|| PackagesError::Bug("an error went away".into()))),
            None => None,
        };
        let (takes_wanted, takes_there) = match (&key_of_wanted, &key_there) {
            (None, None) => return Ok(None),
            (Some(a), Some(b)) => (a <= b, b <= a),
            (a, b) => (a.is_some(), b.is_some()),
        };
        let next = if takes_wanted { wanted.try_next().await? } else { None };
        let found = if takes_there { there.try_next().await? } else { None };
        Ok::<_, PackagesError>(Some(((next, found), (wanted, there))))
    });
    let jobs = pairs.map_ok(move |(wanted, found)| async move {
        Ok(match (wanted, found) {
            (Some(wanted), Some(found)) if is_same(target, &wanted, &found).await? => Some(Job::Same(wanted)),
            (Some(wanted), found) => Some(Job::Write(wanted, found.is_some())),
            (None, Some(found)) => Some(Job::Newer(found.key)),
            (None, None) => None,
        })
    });
    Ok(jobs.try_buffered(16).try_filter_map(|job| async move { Ok(job) }).boxed())
}

/// Whether what is there is what is wanted: by its etag, or because an earlier run brought it back.
async fn is_same(target: &Site, wanted: &Wanted, found: &Item) -> Result<bool, PackagesError> {
    if wanted.bytes != found.bytes {
        return Ok(false);
    }
    if wanted.etag == found.etag || (target.is_folder() && wanted.modified == found.modified) {
        return Ok(true);
    }
    if target.is_folder() {
        return Ok(false);
    }
    let facts = target.facts(found).await?;
    Ok(facts.is_some_and(|facts| facts.is_copy_of() == Some(note_of(wanted).as_str())))
}
