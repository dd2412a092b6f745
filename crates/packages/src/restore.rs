//! Brings packages back as they were at an instant: what is right is left alone, what is newer stays as a version or aside, and
//! a second run goes on where the first one ended.

use crate::pairs::pairs;
use crate::source::{Known, Source, Wanted};
use crate::tally::{Tally, Ticker};
use crate::{PackagesError, Place};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use store::{Item, Site, SiteUpload};
use terms::{Events, Timestamp};
use tokio::sync::Semaphore;

/// The bodies of all objects that are on their way together.
const IN_MEMORY_MAX_MIB: u32 = 96;

/// How to bring them back.
#[derive(Debug, Clone)]
pub struct RestoreWish {
    /// The instant as of which they come back.
    pub at: Timestamp,
    /// Where to.
    pub into: Place,
    /// What came after the instant is hidden: by a delete marker, or moved aside in a folder.
    pub hides_newer: bool,
    /// The target is what the source is a copy of: what was written there no later than the instant, and is there still, was there
    /// at the instant, whatever the copy says. True of a bucket, whose store sets the time.
    pub is_primary: bool,
    /// Objects at once.
    pub jobs: usize,
}

/// What is to be done, or was.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RestoreReport {
    /// For people: the replica, or the snapshots around the instant and where they lie.
    pub source: String,
    /// `s3://bucket/prefix` or `file:///folder`.
    pub target: String,
    /// The instant that was asked for; every report that was begun has one.
    pub at: Option<Timestamp>,
    /// Objects that were there at the instant, and their bytes.
    pub keys: u64,
    /// Of those objects; those that could not be brought back are among them.
    pub bytes: u64,
    /// Of these, what is right already.
    pub same: u64,
    /// Of these, what the primary has from before the instant, and the copy lacks: right, and kept.
    pub kept: u64,
    /// What was not there, and what was another one.
    pub absent: u64,
    /// What was there under the key and was another object.
    pub different: u64,
    /// Of the objects that were brought back; 0 in a plan.
    pub bytes_written: u64,
    /// What came after the instant: left as it is, or hidden.
    pub newer: u64,
    /// How many of these were hidden; 0 in a plan.
    pub newer_hidden: u64,
    /// Objects that were overwritten or removed around the instant, nobody knows when exactly; they are brought back.
    pub uncertain: u64,
    /// Keys that were written after the instant, and of which nobody knows whether they were there before in another version.
    pub untold: u64,
    /// Files of a folder that are in the way, or count as newer, and whose own time is before the instant: a file's time proves nothing.
    pub doubtful: u64,
    /// Objects that could not be brought back.
    pub failed: u64,
    /// Key and why; `None` when none failed.
    pub first_failure: Option<String>,
    /// Up to here the copy is complete; no later than the instant. Absent for a replica that could not be held against the primary.
    pub complete_until: Option<Timestamp>,
    /// Seconds before the instant of which the copy does not know everything; absent as the former is.
    pub unknown_seconds: Option<f64>,
    /// Where a folder's files went that were in the way.
    pub aside: Option<PathBuf>,
    /// Of comparing and, unless it is a plan, of bringing back.
    pub took_seconds: f64,
}

/// What there is to do for a key.
enum Job {
    Same(Wanted),
    Kept(Item),
    /// And what is in its way.
    Write(Wanted, Option<Item>),
    /// Whether there may have been another one before it.
    Newer(Item, bool),
    Untold,
    Failed(Wanted, PackagesError),
}

/// Looks at what would be done; touches nothing.
pub async fn plan(source: &Source, wish: &RestoreWish) -> Result<RestoreReport, PackagesError> {
    let target = Site::open(&wish.into.url, &wish.into.options)?;
    let mut report = begun(source, &target, wish);
    let mut jobs = jobs(source, &target, wish).await?;
    let began = Instant::now();
    while let Some(job) = jobs.try_next().await? {
        report.count(&job, &target, wish.at);
        if let Job::Failed(wanted, error) = &job {
            report.failed += 1;
            report.first_failure.get_or_insert_with(|| why(&wanted.key, error));
        }
    }
    report.took_seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

fn begun(source: &Source, target: &Site, wish: &RestoreWish) -> RestoreReport {
    RestoreReport {
        source: source.describe(),
        target: target.address(),
        at: Some(wish.at),
        complete_until: source.complete_until(wish.at),
        unknown_seconds: source.unknown_seconds(wish.at),
        ..RestoreReport::default()
    }
}

impl RestoreReport {
    fn count(&mut self, job: &Job, target: &Site, at: Timestamp) {
        let is_doubtful = |found: &Item| u64::from(target.is_folder() && found.modified <= at);
        let counter = match job {
            Job::Same(_) => &mut self.same,
            Job::Kept(_) => &mut self.kept,
            Job::Write(_, Some(_)) => &mut self.different,
            Job::Write(_, None) => &mut self.absent,
            Job::Newer(..) => &mut self.newer,
            Job::Untold => &mut self.untold,
            Job::Failed(..) => &mut 0,
        };
        *counter += 1;
        match job {
            Job::Same(wanted) | Job::Write(wanted, _) | Job::Failed(wanted, _) => {
                self.keys += 1;
                self.bytes += wanted.bytes;
                self.uncertain += u64::from(wanted.is_uncertain);
            }
            Job::Kept(found) => (self.keys, self.bytes) = (self.keys + 1, self.bytes + found.bytes),
            Job::Newer(_, is_untold) => self.untold += u64::from(*is_untold),
            Job::Untold => {}
        }
        if let Job::Newer(found, _) | Job::Write(_, Some(found)) = job {
            self.doubtful += is_doubtful(found);
        }
    }
}

/// Does it. What fails for one object keeps no other from coming back; the report tells, and the end is an error then.
pub async fn restore(source: &Source, wish: &RestoreWish, events: Arc<dyn Events>) -> Result<RestoreReport, PackagesError> {
    let target = Site::open(&wish.into.url, &wish.into.options)?;
    let keeps_versions = target.keeps_versions().await?;
    let mut report = begun(source, &target, wish);
    let may_replace = target.is_folder() || keeps_versions;
    if !may_replace {
        // Without versions nothing may be overwritten: known before anything is written.
        let planned = plan(source, wish).await?;
        if planned.different > 0 || (wish.hides_newer && planned.newer > 0) {
            return Err(PackagesError::WouldDestroy { address: target.address() });
        }
    }
    let aside = target.aside(&wish.at.compact());
    let (began, done) = (Instant::now(), Done::default());
    let ticker = Ticker::start(events, Arc::clone(&done.tally), source.total());
    let mut planned = RestoreReport::default();
    let jobs = jobs(source, &target, wish).await?;
    let mut running = jobs
        .map(|job| {
            let (target, aside, done) = (&target, aside.clone(), &done);
            async move {
                let job = job?;
                match &job {
                    Job::Failed(wanted, error) => done.fail(&wanted.key, error),
                    Job::Newer(found, _) if wish.hides_newer => {
                        let hidden = target.hide(&found.key, aside).await;
                        done.note(&found.key, hidden.map(|()| done.add(&done.hidden, 1)).map_err(PackagesError::from));
                    }
                    Job::Same(_) | Job::Kept(_) | Job::Newer(..) | Job::Untold => {}
                    // It came after the plan.
                    Job::Write(wanted, Some(_)) if !may_replace => {
                        done.fail(&wanted.key, &PackagesError::WouldDestroy { address: target.address() });
                    }
                    Job::Write(wanted, _) => {
                        let copied = copy(source, target, wanted, aside, may_replace, done).await;
                        done.note(&wanted.key, copied.map(|()| done.add(&done.bytes, wanted.bytes)));
                    }
                }
                Ok::<_, PackagesError>(job)
            }
        })
        .buffer_unordered(wish.jobs.max(1));
    while let Some(job) = running.try_next().await? {
        planned.count(&job, &target, wish.at);
        match &job {
            Job::Same(wanted) | Job::Failed(wanted, _) => done.tally.add(1, wanted.bytes),
            Job::Kept(found) => done.tally.add(1, found.bytes),
            Job::Write(..) => done.tally.add(1, 0),
            Job::Newer(..) | Job::Untold => {}
        }
    }
    drop(running);
    drop(ticker);
    report = RestoreReport { source: report.source, target: report.target, at: report.at, ..planned };
    (report.complete_until, report.unknown_seconds) = (source.complete_until(wish.at), source.unknown_seconds(wish.at));
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

struct Done {
    /// How many bytes may be in memory yet.
    room: Semaphore,
    tally: Arc<Tally>,
    bytes: AtomicU64,
    hidden: AtomicU64,
    failed: AtomicU64,
    first: Mutex<Option<String>>,
}

impl Default for Done {
    fn default() -> Self {
        let room = Semaphore::new(IN_MEMORY_MAX_MIB as usize);
        Self { room, tally: Arc::default(), bytes: AtomicU64::new(0), hidden: AtomicU64::new(0), failed: AtomicU64::new(0), first: Mutex::default() }
    }
}

impl Done {
    fn add(&self, to: &AtomicU64, number: u64) {
        to.fetch_add(number, Ordering::Relaxed);
    }

    fn note(&self, key: &str, outcome: Result<(), PackagesError>) {
        if let Err(error) = outcome {
            self.fail(key, &error);
        }
    }

    fn fail(&self, key: &str, error: &PackagesError) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why(key, error));
    }
}

fn why(key: &str, error: &PackagesError) -> String {
    format!("{key}: {}", terms::Explain::in_a_line(error))
}

/// How an object that was brought back is known again.
fn note_of(wanted: &Wanted) -> String {
    format!("{}:{}", wanted.etag, wanted.bytes)
}

async fn copy(source: &Source, target: &Site, wanted: &Wanted, aside: Option<PathBuf>, may_replace: bool, done: &Done) -> Result<(), PackagesError> {
    let piece = Site::piece_bytes(wanted.bytes);
    // However many at once: small ones share what large ones take. A piece lies there as it was stored, too.
    let mebibytes = 2 * (wanted.bytes.min(piece) >> 20) + 1;
    let _room = done.room.acquire_many(mebibytes.min(u64::from(IN_MEMORY_MAX_MIB)) as u32).await;
    let (first, facts) = source.read(wanted, 0, wanted.bytes.min(piece)).await?;
    let mut upload = target.begin(&wanted.key, wanted.bytes, &facts.copy_of(&note_of(wanted)), wanted.modified, aside).await?;
    if !may_replace {
        // Asked of the store itself: whatever came since it was listed stays.
        upload = upload.replaces_nothing();
    }
    match pour(source, wanted, first, &mut upload, done).await {
        Ok(()) => Ok(upload.finish().await?),
        Err(error) => {
            upload.give_up().await;
            Err(error)
        }
    }
}

/// All pieces of a body, of which the first is there.
async fn pour(source: &Source, wanted: &Wanted, first: Bytes, upload: &mut SiteUpload, done: &Done) -> Result<(), PackagesError> {
    let (piece, mut at, mut body) = (Site::piece_bytes(wanted.bytes), 0, first);
    loop {
        let bytes = body.len() as u64;
        at += bytes;
        upload.piece(body).await?;
        done.tally.add(0, bytes);
        if at >= wanted.bytes {
            return Ok(());
        }
        body = source.read(wanted, at, piece.min(wanted.bytes - at)).await?.0;
    }
}

type Pair = (Option<Known>, Option<Item>);

/// What was there and what is there, beside each other, in the order of keys.
async fn both<'a>(source: &'a Source, target: &'a Site, wish: &RestoreWish) -> Result<BoxStream<'a, Result<Pair, PackagesError>>, PackagesError> {
    // A folder that is gone altogether is an empty one.
    let there = match target.exists().await? {
        true => target.current().map_err(PackagesError::from).boxed(),
        false => stream::empty().boxed(),
    };
    Ok(pairs(source.known(wish.at).await?, there, Known::key, |item| &item.key))
}

async fn jobs<'a>(source: &'a Source, target: &'a Site, wish: &RestoreWish) -> Result<BoxStream<'a, Result<Job, PackagesError>>, PackagesError> {
    let (at, is_primary) = (wish.at, wish.is_primary && !target.is_folder());
    let jobs = both(source, target, wish).await?.map_ok(move |(known, found)| async move {
        match settle(known, found, is_primary, at) {
            Settled::Job(job) => Ok(Some(job)),
            Settled::Compare(wanted, found) => Ok(Some(match is_same(target, &wanted, &found).await {
                Ok(true) => Job::Same(wanted),
                Ok(false) => Job::Write(wanted, Some(found)),
                Err(error) => Job::Failed(wanted, error),
            })),
            Settled::Nothing => Ok(None),
        }
    });
    Ok(jobs.try_buffered(16).try_filter_map(|job| async move { Ok(job) }).boxed())
}

/// Key and size of what a restore leaves there as of the instant, for [`crate::agree`]: the copy's, and what the primary had kept.
pub async fn as_restored<'a>(
    source: &'a Source,
    target: &'a Site,
    wish: &RestoreWish,
) -> Result<BoxStream<'a, Result<(String, u64), PackagesError>>, PackagesError> {
    let (at, is_primary) = (wish.at, wish.is_primary && !target.is_folder());
    let there = both(source, target, wish).await?.try_filter_map(move |(known, found)| async move {
        Ok(match settle(known, found, is_primary, at) {
            Settled::Job(Job::Kept(found)) => Some((found.key, found.bytes)),
            Settled::Job(Job::Same(wanted) | Job::Write(wanted, _)) | Settled::Compare(wanted, _) => Some((wanted.key, wanted.bytes)),
            Settled::Job(Job::Newer(..) | Job::Untold | Job::Failed(..)) | Settled::Nothing => None,
        })
    });
    Ok(there.boxed())
}

enum Settled {
    Job(Job),
    Compare(Wanted, Item),
    Nothing,
}

/// What there is to do, without asking; what the primary proves is believed before the copy.
fn settle(known: Option<Known>, found: Option<Item>, is_primary: bool, at: Timestamp) -> Settled {
    let job = match (known, found) {
        (known, Some(found)) if is_primary && found.modified <= at => match known {
            Some(Known::Was(mut wanted)) if (&wanted.etag, wanted.bytes) == (&found.etag, found.bytes) => {
                wanted.is_uncertain = false;
                Job::Same(wanted)
            }
            _ => Job::Kept(found),
        },
        (Some(Known::Was(wanted)), Some(found)) => return Settled::Compare(wanted, found),
        (Some(Known::Was(wanted)), None) => Job::Write(wanted, None),
        (known, Some(found)) => Job::Newer(found, known.is_some()),
        (Some(Known::Untold(_)), None) => Job::Untold,
        (None, None) => return Settled::Nothing,
    };
    Settled::Job(job)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_primary_has_from_before_the_instant_is_believed_before_the_copy() {
        let second = |number: i64| Timestamp::from_unix_micros(number * 1_000_000);
        let item = |time, etag: &str| {
            let (key, etag) = ("k".to_owned(), etag.to_owned());
            Item { key, id: None, bytes: 1, modified: second(time), etag, is_latest: true, is_removal: false }
        };
        let was = || Some(Known::Was(Wanted::of_version(item(5, "v1"))));
        let told = |known, found, is_primary| match settle(known, found, is_primary, second(20)) {
            Settled::Job(Job::Same(_)) => "same",
            Settled::Job(Job::Kept(_)) => "kept",
            Settled::Job(Job::Write(..)) => "write",
            Settled::Job(Job::Newer(..)) => "newer",
            Settled::Job(Job::Untold | Job::Failed(..)) => "untold",
            Settled::Compare(..) => "compare",
            Settled::Nothing => "nothing",
        };
        assert_eq!(told(was(), Some(item(10, "v2")), true), "kept", "the copy has an older one");
        assert_eq!(told(None, Some(item(10, "v2")), true), "kept", "the copy has none");
        assert_eq!(told(Some(Known::Untold("k".into())), Some(item(10, "v2")), true), "kept");
        assert_eq!(told(was(), Some(item(5, "v1")), true), "same");
        // Elsewhere the time of an object says when it was put there.
        assert_eq!(told(was(), Some(item(10, "v2")), false), "compare");
        assert_eq!(told(None, Some(item(10, "v2")), false), "newer");
        assert_eq!(told(was(), Some(item(30, "v3")), true), "compare");
        assert_eq!(told(None, Some(item(30, "v3")), true), "newer");
        assert_eq!(told(was(), None, true), "write");
        assert_eq!(told(Some(Known::Untold("k".into())), None, true), "untold");
    }
}
