//! One backup at a time: two would read the same disk twice, and neither end sooner.

use crate::CaptureError;
use pg::{ConnInfo, Sql};
use repo::{Claim, Contender, HeldBy, KeptLease, RepoError, Writer};
use std::time::Duration;
use terms::{Clock, Event, Events};
use tokio::time::{sleep, timeout};

/// The lease of whoever makes a backup.
const LEASE: &str = "backup";
/// One that is not heard of for so long has lost it.
const TTL: Duration = Duration::from_secs(60);
/// The longest pause between two looks at a lease that another holds.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// How long a store that does not answer may keep us from ending: nothing depends on the answer.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// What to do while somebody else makes a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    /// Give up, once it is seen that the other one lives.
    Refuse,
    /// Wait until it has ended.
    Wait,
}

/// That this process makes the backup.
pub(crate) struct Sole {
    sql: Sql,
    lease: KeptLease,
}

impl Sole {
    /// Waits for one that is silent, and is refused by one that lives ([`RepoError::LeaseHeld`]) unless told to wait for that, too.
    pub(crate) async fn claim(
        info: &ConnInfo,
        writer: &Writer,
        holder: &str,
        meanwhile: Meanwhile,
        clock: &dyn Clock,
        events: &dyn Events,
    ) -> Result<Self, CaptureError> {
        let sql = Sql::connect(info).await?;
        let mut contender = Contender::new(writer, LEASE, holder, TTL)?;
        let mut first: Option<HeldBy> = None;
        loop {
            // Whoever was killed on this host left its lease behind, but not this lock of its session: it need not be waited for.
            if sql.try_lock(LOCK).await? {
                contender = contender.succeeding_its_namesake();
            }
            let held = match contender.attempt(clock.now()).await? {
                Claim::Acquired(lease) => return Ok(Self { sql, lease: lease.keep() }),
                Claim::HeldBy(held) => held,
            };
            let lives = first.as_ref().is_some_and(|first| (first.generation, first.renewed) != (held.generation, held.renewed));
            if lives && meanwhile == Meanwhile::Refuse {
                return Err(held.into_error().into());
            }
            if first.is_none() {
                let what = format!("{} makes a backup since {}; waiting to see whether it still does", held.holder, held.since);
                events.tell(Event::Noticed { what });
            }
            let pause = held.wait.clamp(Duration::from_millis(20), LOOK_MAX);
            first.get_or_insert(held);
            sleep(pause).await;
        }
    }

    /// A session beside the backup's own.
    pub(crate) fn sql(&self) -> &Sql {
        &self.sql
    }

    /// Asked before the backup is listed: one that was stopped for a while may have been succeeded, and does not know.
    pub(crate) async fn prove(&self) -> Result<(), CaptureError> {
        match self.lease.still_mine().await? {
            true => Ok(()),
            false => Err(RepoError::LeaseLost { name: LEASE.to_owned(), holder: String::new() }.into()),
        }
    }

    pub(crate) async fn release(self) {
        // One that cannot be given up is free after its time.
        drop(timeout(RELEASE_LIMIT, self.lease.release()).await);
    }
}

/// The lock's number in the server: `bowline` in letters.
const LOCK: i64 = 0x0062_6f77_6c69_6e65;
