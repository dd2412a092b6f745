//! Leases: which of several processes acts, decided by compare-and-swap on one small document.
//!
//! One document is enough on every store: [`store::Put::replace`] is compare-and-swap on S3 (`If-Match`), in memory, and on folders
//! (the check and the rename happen under an exclusive `flock`, and a version never repeats). Nobody's clock is compared with another's:
//! a lease has expired for an observer that saw it unchanged for its TTL, on the observer's own monotonic clock. No store checks a
//! generation on other puts, so a lease makes two actors unlikely, never impossible: what must not happen twice is also a put
//! that must not replace, or asks [`Lease::still_mine`] first.

mod desk;
mod keeper;

pub use keeper::{KeptLease, Loss, Standing};

use crate::{Reader, RepoError, Writer, document, layout};
use desk::{Desk, LeaseDocument, Swap, read, still_mine};
use std::time::Duration;
use store::Version;
use terms::{Clock, Timestamp};
use tokio::time::{Instant, sleep};

/// The lease of whoever receives WAL into this repository.
pub const RECEIVER_LEASE: &str = "wal-receive";

/// How often an operation begins again because somebody changed the document meanwhile.
const TRIES: usize = 10;

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBy {
    /// The lease's, such as `wal-receive`.
    pub name: String,
    /// As it calls itself.
    pub holder: String,
    /// From 1; one more with each holder.
    pub generation: u64,
    /// When it began to hold, by its own clock.
    pub since: Timestamp,
    /// When it last renewed, by the store's clock.
    pub renewed: Timestamp,
    /// Unchanged for so long, and a tenth more, it is free.
    pub ttl: Duration,
    /// How much longer it must stay unchanged before this contender may take over.
    pub wait: Duration,
}

impl HeldBy {
    /// For callers that do not wait.
    pub fn into_error(self) -> RepoError {
        RepoError::LeaseHeld { name: self.name, holder: self.holder, since: self.since, renewed: self.renewed }
    }
}

/// A lease as it is stored, for people and for those who only look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseView {
    /// As it calls itself, for people; not unique.
    pub holder: String,
    /// From 1; one more with each holder.
    pub generation: u64,
    /// When this generation began, by its holder's clock.
    pub since: Timestamp,
    /// When it was last written, by the store's clock.
    pub renewed: Timestamp,
    /// Unchanged for so long, and a tenth more, it is free.
    pub ttl: Duration,
    /// Given up by its holder. One that is not may have expired all the same: only waiting shows that.
    pub released: bool,
}

impl Reader {
    /// The lease of this name; `None` when nobody ever held it.
    pub async fn lease(&self, name: &str) -> Result<Option<LeaseView>, RepoError> {
        let path = layout::lease(name).ok_or_else(|| RepoError::Bug(format!("{name:?} is no name for a lease")))?;
        let found = read(&*self.store, &path).await?;
        Ok(found.map(|(d, _, renewed)| LeaseView {
            ttl: d.ttl(),
            holder: d.holder,
            generation: d.generation,
            since: d.since,
            renewed,
            released: d.released,
        }))
    }
}

/// What an attempt came to.
#[derive(Debug)]
pub enum Claim {
    /// It is this contender's from now on.
    Acquired(Lease),
    /// It is another's still.
    HeldBy(HeldBy),
}

/// One that wants a lease, for as long as it wants it: what it saw and what it wrote is remembered between attempts.
/// It has at most one [`Lease`] at a time: acquiring again ends the earlier one.
pub struct Contender {
    desk: Desk,
    name: String,
    holder: String,
    token: String,
    ttl: Duration,
    succeeds: bool,
    beat: u64,
    /// The holder's document and since when it is known unchanged.
    seen: Option<(LeaseDocument, Instant)>,
}

impl Contender {
    /// `name` is a plain word that becomes part of an object's name; `holder` tells people who it is (host and process);
    /// a holder that is not heard of for `ttl` has lost the lease.
    pub fn new(writer: &Writer, name: &str, holder: &str, ttl: Duration) -> Result<Self, RepoError> {
        let path = layout::lease(name).ok_or_else(|| RepoError::Bug(format!("{name:?} is no name for a lease")))?;
        let token: [u8; 16] = seal::random_bytes();
        Ok(Self {
            desk: Desk { store: writer.store.clone(), path },
            name: name.to_owned(),
            holder: holder.to_owned(),
            token: token.iter().map(|b| format!("{b:02x}")).collect(),
            ttl: ttl.max(Duration::from_millis(1)),
            succeeds: false,
            beat: 0,
            seen: None,
        })
    }

    /// A holder of the same name need not be waited for: something else sees to it that only one of that name can act, so it
    /// is gone, or about to find out that it has been succeeded.
    pub fn succeeding_its_namesake(self) -> Self {
        Self { succeeds: true, ..self }
    }

    /// Takes the lease if it is free, released, one's own from an attempt whose answer was lost, or seen unchanged for its TTL over
    /// this and earlier attempts. Never waits.
    pub async fn attempt(&mut self, now: Timestamp) -> Result<Claim, RepoError> {
        for _ in 0..TRIES {
            let asked = Instant::now();
            let found = self.desk.read().await?;
            if let Some((document, _, renewed)) = &found
                && let Some(wait) = self.wait_for(document, asked)
            {
                return Ok(Claim::HeldBy(HeldBy {
                    name: self.name.clone(),
                    holder: document.holder.clone(),
                    generation: document.generation,
                    since: document.since,
                    renewed: *renewed,
                    ttl: document.ttl(),
                    wait,
                }));
            }
            self.beat += 1;
            let document = LeaseDocument {
                format: document::FORMAT,
                name: self.name.clone(),
                generation: found.as_ref().map_or(0, |(d, ..)| d.generation) + 1,
                beat: self.beat,
                holder: self.holder.clone(),
                token: self.token.clone(),
                ttl_milliseconds: self.ttl.as_millis() as u64,
                since: now,
                released: false,
            };
            let began = Instant::now();
            if let Swap::Done(version) = self.desk.swap(&document, found.as_ref().map(|(_, version, _)| version)).await? {
                self.seen = None;
                return Ok(Claim::Acquired(Lease { desk: self.desk.clone(), document, version, beat: self.beat, proven: began }));
            }
        }
        Err(RepoError::Contended { path: self.desk.path.to_string() })
    }

    /// Waits until the lease is this contender's. Asks three times in a holder's TTL, so a released lease is found soon.
    pub async fn acquire(&mut self, clock: &dyn Clock) -> Result<Lease, RepoError> {
        loop {
            match self.attempt(clock.now()).await? {
                Claim::Acquired(lease) => return Ok(lease),
                Claim::HeldBy(held) => sleep(held.wait.min(held.ttl / 3).max(Duration::from_millis(1))).await,
            }
        }
    }

    /// How much longer this document stands in the way; `asked` is before it was read.
    fn wait_for(&mut self, document: &LeaseDocument, asked: Instant) -> Option<Duration> {
        if document.released || document.token == self.token || (self.succeeds && document.holder == self.holder) {
            return None;
        }
        let since = match &self.seen {
            Some((seen, since)) if seen == document => *since,
            _ => {
                // Not before the answer: until then it may have been renewed.
                let since = Instant::now();
                self.seen = Some((document.clone(), since));
                since
            }
        };
        let wait = document.patience().saturating_sub(asked.saturating_duration_since(since));
        (!wait.is_zero()).then_some(wait)
    }
}

/// A lease that this process holds. Dropped without [`Lease::release`], it stands in others' way for its TTL.
pub struct Lease {
    desk: Desk,
    document: LeaseDocument,
    version: Version,
    /// The number of the newest write that was begun.
    beat: u64,
    /// Before the newest write that is known to have arrived was begun.
    proven: Instant,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({}, generation {}, {})", self.document.name, self.document.generation, self.document.holder)
    }
}

impl Lease {
    /// Grows with each holder.
    pub fn generation(&self) -> u64 {
        self.document.generation
    }
    /// What it was asked for with.
    pub fn ttl(&self) -> Duration {
        self.document.ttl()
    }
    /// Until when nobody else can take it over: its TTL from the start of the last renewal that succeeded.
    /// Whoever acts on the lease stops then.
    pub fn proven_until(&self) -> Instant {
        self.proven + self.ttl()
    }

    /// Tells others that its holder lives. [`RepoError::LeaseLost`] when another has it, for good; any other error says nothing
    /// about who has it. Late is not lost: while nobody else took it, it is still this holder's.
    pub async fn renew(&mut self) -> Result<(), RepoError> {
        let began = self.write(false).await?;
        match began {
            Some(began) => {
                self.proven = began;
                Ok(())
            }
            None => Err(self.lost().await),
        }
    }

    /// Gives it up, so that the next one need not wait. Whether it still was this holder's: another's is left alone.
    pub async fn release(mut self) -> Result<bool, RepoError> {
        Ok(self.write(true).await?.is_some())
    }

    /// Reads the lease again: for what must not be done by one that was paused and does not know it.
    pub async fn still_mine(&self) -> Result<bool, RepoError> {
        still_mine(&self.desk, &self.document).await
    }

    /// Lets a task renew it at a third of its TTL.
    pub fn keep(self) -> KeptLease {
        KeptLease::start(self)
    }

    /// Writes the next document; when that was begun, or `None` if the lease is another's.
    async fn write(&mut self, released: bool) -> Result<Option<Instant>, RepoError> {
        for _ in 0..TRIES {
            self.beat += 1;
            let next = LeaseDocument { beat: self.beat, released, ..self.document.clone() };
            let began = Instant::now();
            match self.desk.swap(&next, Some(&self.version)).await? {
                Swap::Done(version) => {
                    (self.document, self.version) = (next, version);
                    return Ok(Some(began));
                }
                // An earlier write of one's own, whose answer was lost, arrived after all.
                Swap::Other(Some((found, version, _))) if found.is_of(&self.document.token, self.document.generation) => self.version = version,
                Swap::Other(_) => return Ok(None),
            }
        }
        Err(RepoError::Contended { path: self.desk.path.to_string() })
    }

    async fn lost(&self) -> RepoError {
        let holder = match self.desk.read().await {
            Ok(Some((found, ..))) if !found.released => found.holder,
            _ => String::new(),
        };
        RepoError::LeaseLost { name: self.document.name.clone(), holder }
    }
}
