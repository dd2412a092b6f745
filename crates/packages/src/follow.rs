//! Follows a replica for as long as a process lives, at bounded cost: so many pages a look of a listing that goes on where it stopped, what
//! was found behind asked for again, and the canary.

use crate::behind::Behind;
use crate::canary::{Canary, CanaryFacts, Writes};
use crate::compare::{beside, both_keep_versions, lacking};
use crate::observe::ASKED_MAX;
use crate::{PackagesError, PackagesFacts, Settings};
use futures::TryStreamExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::{Item, Pace, Site};
use terms::{Clock, Timestamp};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// So many pages at a time, of both sides together: 400 000 versions.
const PAGES: usize = 400;
/// How often, once everything was listed: 0.6 USD a day at what AWS asks for a listing. Until then with each look.
const EVERY: Duration = Duration::from_secs(300);
/// A small bucket is listed within this; of a larger one the next look tells.
const WAIT: Duration = Duration::from_secs(2);
/// Asking for what is behind takes no longer at once.
const ASKING: Duration = Duration::from_secs(3);
/// A listing of which no page came for so long, although pages were wanted, is an error.
const STALLED: Duration = Duration::from_secs(600);

/// See the module.
pub struct Follower {
    primary: Site,
    copy: Site,
    behind: Arc<Mutex<Behind>>,
    pass: Option<Pass>,
    /// By the newest listing that came to its end.
    newest: Option<PackagesFacts>,
    allowed: Option<Instant>,
    canary: Canary,
}

/// One listing of both sides.
struct Pass {
    pace: Arc<Pace>,
    task: JoinHandle<Result<PackagesFacts, PackagesError>>,
    /// Pages that had come, and when the last one was seen to have.
    moved: (u64, Instant),
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.task.abort();
        // What lists for it waits for its turn by itself.
        self.pace.close();
    }
}

/// What is known.
pub struct Followed {
    /// Of the newest complete listing, and what was found to be behind since. Both sides are as they were then.
    pub facts: PackagesFacts,
    /// When that listing began; absent before there is one.
    pub listed: Option<Timestamp>,
    /// Absent where there is none.
    pub canary: Option<CanaryFacts>,
}

impl Follower {
    /// Opens both places and asks neither; an error where no replica is configured.
    pub fn new(settings: &Settings) -> Result<Self, PackagesError> {
        let replica = settings.replica.as_ref().ok_or(PackagesError::NoReplica)?;
        let primary = Site::open(&settings.primary.url, &settings.primary.options)?;
        let copy = Site::open(&replica.url, &replica.options)?;
        Ok(Self { primary, copy, behind: Arc::default(), pass: None, newest: None, allowed: None, canary: Canary::default() })
    }

    /// Looks a little further. It may be dropped while it looks. `canary` is `None` where there is to be none.
    pub async fn look(&mut self, canary: Option<Writes>, clock: &dyn Clock) -> Result<Followed, PackagesError> {
        let canary = match canary {
            Some(writes) => Some(self.canary.look(&self.primary, &self.copy, writes, clock.now()).await),
            None => None,
        };
        self.list(clock).await?;
        // Nobody waits for more than that.
        let _ = timeout(ASKING, self.ask_again()).await;
        let now = clock.now();
        let mut facts = self.newest.clone().unwrap_or_default();
        let listed = facts.at;
        facts.mode = "native".to_owned();
        (facts.primary.address, facts.copy.address) = (self.primary.address(), self.copy.address());
        let behind = lock(&self.behind);
        (facts.behind, facts.behind_bytes) = behind.count();
        facts.failed = behind.failed().count() as u64;
        facts.failed_keys = behind.failed().take(10).map(|item| item.key.clone()).collect();
        facts.oldest_behind = behind.oldest().map(|item| item.modified);
        facts.lag_seconds = facts.oldest_behind.map_or(0.0, |oldest| now.seconds_since(oldest).max(0.0));
        Ok(Followed { facts, listed, canary })
    }

    /// Lets the listing go on, and takes what it found when it is over.
    async fn list(&mut self, clock: &dyn Clock) -> Result<(), PackagesError> {
        let is_due = self.newest.is_none() || self.allowed.is_none_or(|at| at.elapsed() >= EVERY);
        if is_due {
            if self.pass.is_none() {
                both_keep_versions(&self.primary, &self.copy).await?;
                self.begin(clock.now());
            }
            self.pass.iter().for_each(|pass| pass.pace.allow(PAGES));
            self.allowed = Some(Instant::now());
        }
        let Some(pass) = &mut self.pass else { return Ok(()) };
        if let Ok(ended) = timeout(WAIT, &mut pass.task).await {
            self.pass = None;
            match ended.unwrap_or_else(|error| Err(PackagesError::Bug(error.to_string()))) {
                Ok(facts) => {
                    lock(&self.behind).listing_ended();
                    self.newest = Some(facts);
                }
                Err(error) => {
                    lock(&self.behind).listing_broke_off();
                    // What an earlier one saw is no answer any more: until one ends well, nobody says that all is well.
                    self.newest = None;
                    return Err(error);
                }
            }
            return Ok(());
        }
        let pages = pass.pace.pages();
        if pages != pass.moved.0 {
            pass.moved = (pages, Instant::now());
        }
        // It is told once: not asked before it counts.
        let is_stalled = pass.moved.1.elapsed() >= STALLED;
        match is_stalled.then(|| pass.pace.trouble()).flatten() {
            Some(trouble) => Err(trouble.into()),
            None => Ok(()),
        }
    }

    fn begin(&mut self, now: Timestamp) {
        let pace = Pace::new();
        let (primary, copy, behind) = (self.primary.clone(), self.copy.clone(), Arc::clone(&self.behind));
        let task = tokio::spawn(pass(primary, copy, Arc::clone(&pace), now, behind));
        self.pass = Some(Pass { pace, task, moved: (0, Instant::now()) });
    }

    /// Asks for what was behind, from the oldest on, until one is still behind: that one says how far.
    async fn ask_again(&self) -> Result<(), PackagesError> {
        loop {
            let Some(item) = lock(&self.behind).oldest().cloned() else { return Ok(()) };
            let (here, there) = tokio::try_join!(self.primary.versions_of(&item.key), self.copy.versions_of(&item.key))?;
            if lacking(&here, &there).iter().any(|lacks| (&lacks.id, lacks.modified) == (&item.id, item.modified)) {
                return Ok(());
            }
            lock(&self.behind).arrived(&item);
        }
    }
}

/// Lists both sides once, as many pages at a time as are allowed.
async fn pass(primary: Site, copy: Site, pace: Arc<Pace>, began: Timestamp, behind: Arc<Mutex<Behind>>) -> Result<PackagesFacts, PackagesError> {
    let mut facts = PackagesFacts { at: Some(began), ..PackagesFacts::default() };
    let mut all = beside(primary.versions_at(&pace), copy.versions_at(&pace));
    let mut asked = 0;
    while let Some((here, there)) = all.try_next().await? {
        facts.count(&here, &there);
        // What came since it began is the next one's: the one side may have been listed long before the other.
        for item in lacking(&here, &there).into_iter().filter(|item| item.modified <= began) {
            asked += 1;
            let has_failed = asked <= ASKED_MAX && has_failed(&primary, item).await;
            lock(&behind).found(item.clone(), has_failed);
        }
    }
    Ok(facts)
}

/// Whether the store says that it gave this up; no when it does not answer.
async fn has_failed(primary: &Site, item: &Item) -> bool {
    let facts = primary.facts(item).await.ok().flatten();
    facts.and_then(|facts| facts.replication).as_deref() == Some("FAILED")
}

fn lock(behind: &Mutex<Behind>) -> MutexGuard<'_, Behind> {
    behind.lock().unwrap_or_else(PoisonError::into_inner)
}
