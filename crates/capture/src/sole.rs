//! One backup at a time: two would read the same disk twice, and neither end sooner.

use crate::CaptureError;
use pg::{ConnInfo, Sql};
use repo::{Claim, Contender, HeldBy, KeptLease, RepoError, Writer};
use std::time::Duration;
use terms::{Clock, Event, Events};
use tokio::time::{sleep, timeout};

/// The lease of whoever makes a backup.
const LEASE: &str = "full-backup";
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
    writer: Writer,
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
        let id = *writer.reader().document().id.bytes();
        let lock = i64::from_le_bytes([id[0], id[1], id[2], id[3], id[4], id[5], id[6], id[7]]);
        // Whoever was killed on this host left its lease behind, but not this lock of its session: it need not be waited for. Who has no
        // lock takes no name that another could succeed to.
        let contend = |is_locked: bool| match is_locked {
            true => Ok::<_, CaptureError>(Contender::new(writer, LEASE, holder, TTL)?.succeeding_its_namesake()),
            false => Ok(Contender::new(writer, LEASE, &format!("{holder}, process {}", std::process::id()), TTL)?),
        };
        let mut is_locked = sql.try_lock(lock).await?;
        let (mut contender, mut first) = (contend(is_locked)?, None::<HeldBy>);
        loop {
            let held = match contender.attempt(clock.now()).await? {
                Claim::Acquired(lease) => return Ok(Self { sql, writer: writer.clone(), lease: lease.keep() }),
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
            if !is_locked && sql.try_lock(lock).await? {
                (is_locked, contender) = (true, contend(true)?);
            }
        }
    }

    /// A session beside the backup's own.
    pub(crate) fn sql(&self) -> &Sql {
        &self.sql
    }

    /// Asked before the backup is listed: one that was stopped for a while may have been succeeded, and does not know.
    pub(crate) async fn prove(&self) -> Result<(), CaptureError> {
        if self.lease.still_mine().await? {
            return Ok(());
        }
        let found = self.writer.reader().lease(LEASE).await?.filter(|lease| !lease.released);
        Err(RepoError::LeaseLost { name: LEASE.to_owned(), holder: found.map(|lease| lease.holder).unwrap_or_default() }.into())
    }

    pub(crate) async fn release(self) {
        // One that cannot be given up is free after its time.
        drop(timeout(RELEASE_LIMIT, self.lease.release()).await);
    }
}
