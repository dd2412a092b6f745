//! Of several daemons of one repository one acts: whose turn it is, by the repository's lease.

use crate::Premises;
use repo::{Claim, Contender, Loss};
use std::sync::Arc;
use std::time::Duration;
use terms::{Clock, Event, Events, SystemClock};
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep, timeout};

/// How long a store that does not answer may keep a daemon from ending.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// What this daemon is at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Nobody could be asked yet: the repository is away.
    Unknown,
    /// Another one acts.
    Standby {
        /// Its name in the lease: host and process.
        holder: String,
    },
    /// This one acts, since then.
    Acting {
        /// When it got the lease, by a clock that does not jump.
        since: Instant,
    },
    /// It acted, and can no longer prove that it is the one: it begins nothing, and goes on with what another would be kept from anyway.
    Adrift,
}

impl Role {
    /// Whether it may begin jobs.
    pub fn acts(&self) -> bool {
        matches!(self, Self::Acting { .. })
    }
    /// Whether it receives WAL and tells people: until another one is known to.
    pub fn stands_in(&self) -> bool {
        !matches!(self, Self::Standby { .. })
    }
}

/// Stands in line until told to end, and says what came of it.
pub(crate) async fn stand_in_line(
    premises: Arc<dyn Premises>,
    ttl: Duration,
    role: channel::Sender<Role>,
    events: Arc<dyn Events>,
    mut end: channel::Receiver<bool>,
) {
    let mut contender: Option<Contender> = None;
    loop {
        if *end.borrow() {
            return;
        }
        let claim = tokio::select! {
            claim = attempt(&*premises, &mut contender, ttl) => claim,
            () = crate::told(&mut end) => return,
        };
        let pause = match claim {
            Ok(Claim::Acquired(lease)) => {
                let kept = lease.keep();
                tell(&role, Role::Acting { since: Instant::now() }, &*events);
                tokio::select! {
                    loss = kept.lost() => match loss {
                        Loss::Taken { holder } => tell(&role, Role::Standby { holder }, &*events),
                        Loss::Unproven { .. } => tell(&role, Role::Adrift, &*events),
                    },
                    () = crate::told(&mut end) => {
                        drop(timeout(RELEASE_LIMIT, kept.release()).await);
                        return;
                    }
                }
                Duration::ZERO
            }
            Ok(Claim::HeldBy(held)) => {
                tell(&role, Role::Standby { holder: held.holder }, &*events);
                held.wait.min(ttl / 3).max(Duration::from_millis(50))
            }
            // It says nothing about who acts. The same contender asks again: another one would take its own lease for somebody else's.
            Err(()) => ttl / 3,
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = crate::told(&mut end) => return,
        }
    }
}

async fn attempt(premises: &dyn Premises, contender: &mut Option<Contender>, ttl: Duration) -> Result<Claim, ()> {
    if contender.is_none() {
        let writer = premises.writer().await.map_err(drop)?;
        *contender = Contender::new(&writer, watch::DAEMON_LEASE, &premises.name(), ttl).ok();
    }
    let Some(contender) = contender else { return Err(()) };
    contender.attempt(SystemClock.now()).await.map_err(drop)
}

fn tell(role: &channel::Sender<Role>, now: Role, events: &dyn Events) {
    let what = match &now {
        Role::Acting { .. } => "this daemon acts".to_owned(),
        Role::Standby { holder } => format!("{holder} acts; this daemon stands by"),
        Role::Adrift => "this daemon cannot prove any more that it is the one that acts: it begins nothing until it can".to_owned(),
        Role::Unknown => return,
    };
    let has_changed = role.send_if_modified(|role| {
        let is_same = *role == now || matches!((&*role, &now), (Role::Acting { .. }, Role::Acting { .. }));
        if !is_same {
            *role = now;
        }
        !is_same
    });
    if has_changed {
        events.tell(Event::Noticed { what });
    }
}
