//! Keeps a lease: renews it in the background, and tells in time when it is lost or can no longer be proven.

use super::Lease;
use super::desk::{Desk, LeaseDocument, still_mine};
use crate::RepoError;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// How a kept lease stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nobody else can have it before `until`.
    Held {
        /// On this host's monotonic clock.
        until: Instant,
    },
    /// It is not this holder's any more, or not provably so. Final: a new attempt is needed.
    Lost(Loss),
}

/// Why a lease is not held any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// Another holds it; empty when it is free or gone.
    Taken {
        /// As it calls itself.
        holder: String,
    },
    /// It could not be renewed for its TTL: others may take it over from now on.
    Unproven {
        /// The last error of a renewal, or that there was no answer.
        why: String,
    },
}

/// A lease that a task renews. Dropped, the task ends and the lease expires by itself.
#[derive(Debug)]
pub struct KeptLease {
    generation: u64,
    asking: Asking,
    standing: watch::Receiver<Standing>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Lease>,
}

struct Asking(Desk, LeaseDocument);

impl std::fmt::Debug for Asking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.path.as_str())
    }
}

impl KeptLease {
    pub(super) fn start(lease: Lease) -> Self {
        let (tell, standing) = watch::channel(Standing::Held { until: lease.proven_until() });
        let (stop, stopped) = oneshot::channel();
        let (generation, asking) = (lease.generation(), Asking(lease.desk.clone(), lease.document.clone()));
        Self { generation, asking, standing, stop, task: tokio::spawn(keep(lease, tell, stopped)) }
    }

    /// Grows with each holder.
    pub fn generation(&self) -> u64 {
        self.generation
    }
    /// How it stands, and whenever that changes. A process that was stopped may be scheduled before its keeper is, so the
    /// time in [`Standing::Held`] counts too: [`KeptLease::is_held`] looks at both.
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }
    /// Whether acting on it is right at this moment.
    pub fn is_held(&self) -> bool {
        matches!(*self.standing.borrow(), Standing::Held { until } if Instant::now() < until)
    }
    /// Returns when it is lost, at the latest when others may take it over.
    pub async fn lost(&self) -> Loss {
        let mut standing = self.standing.clone();
        let lost = standing.wait_for(|s| matches!(s, Standing::Lost(_))).await.map(|s| s.clone());
        match lost {
            Ok(Standing::Lost(loss)) => loss,
            _ => Loss::Unproven { why: "its keeper ended".to_owned() },
        }
    }
    /// Reads the lease again: before what must not be done by one that was paused and does not know it.
    pub async fn still_mine(&self) -> Result<bool, RepoError> {
        still_mine(&self.asking.0, &self.asking.1).await
    }
    /// Stops renewing and gives it up. Whether it still was this holder's: another's is left alone.
    pub async fn release(self) -> Result<bool, RepoError> {
        drop(self.stop);
        self.task.await.map_err(|e| RepoError::Bug(e.to_string()))?.release().await
    }
}

/// Renews until told to stop or lost; gives the lease back.
async fn keep(mut lease: Lease, tell: watch::Sender<Standing>, mut stopped: oneshot::Receiver<()>) -> Lease {
    loop {
        let (ttl, deadline) = (lease.ttl(), lease.proven_until());
        let mut why = "the store did not answer".to_owned();
        let renewed = async {
            sleep_until(lease.proven + ttl / 3).await;
            loop {
                match lease.renew().await {
                    Ok(()) => return None,
                    Err(RepoError::LeaseLost { holder, .. }) => return Some(Loss::Taken { holder }),
                    Err(e) => why = e.to_string(),
                }
                sleep(ttl / 12).await;
            }
        };
        let ended = tokio::select! {
            biased;
            _ = &mut stopped => return lease,
            ended = timeout_at(deadline, renewed) => ended,
        };
        match ended {
            Ok(None) => tell.send_replace(Standing::Held { until: lease.proven_until() }),
            Ok(Some(loss)) => {
                tell.send_replace(Standing::Lost(loss));
                return lease;
            }
            Err(_) => {
                tell.send_replace(Standing::Lost(Loss::Unproven { why }));
                return lease;
            }
        };
    }
}
