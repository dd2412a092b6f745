//! Of several receivers of one repository one acts: whose turn it is, by the repository's lease.

use crate::CaptureError;
use crate::receive::{ReceiveOptions, Until};
use repo::{Claim, Contender, KeptLease, Loss, RECEIVER_LEASE, Writer};
use std::sync::Arc;
use std::time::Duration;
use terms::{Clock, Event, Events, SystemClock};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// The longest pause between two looks at a lease that another holds.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How long a store that does not answer may keep us from ending: nothing depends on the answer.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);
/// How long one that gave its turn up keeps out of the line: whoever waits looks at least once meanwhile.
const OUT_OF_LINE: Duration = LOOK_MAX.saturating_mul(2);

/// A receiver's place in the line.
pub(crate) struct Turn {
    /// `None` for a receiver that stands in no line.
    contender: Option<Contender>,
    lease: Option<KeptLease>,
    is_waiting: watch::Sender<bool>,
    /// A holder that has not streamed for so long lets another try.
    idle_max: Duration,
    /// Since when nothing was streamed in this turn.
    idle_since: Instant,
    /// That it passed its turn on was told, and it has not streamed since.
    is_told: bool,
    events: Arc<dyn Events>,
}

impl Turn {
    pub(crate) fn new(writer: &Writer, options: &ReceiveOptions, events: Arc<dyn Events>) -> Result<Self, CaptureError> {
        let contender = match &options.holder {
            // A slot has one reader at a time: a namesake that still holds the lease cannot go on.
            Some(holder) => Some(Contender::new(writer, RECEIVER_LEASE, holder, options.lease_ttl)?.succeeding_its_namesake()),
            None => None,
        };
        let (is_waiting, _) = watch::channel(false);
        Ok(Self { contender, lease: None, is_waiting, idle_max: options.lease_ttl, idle_since: Instant::now(), is_told: false, events })
    }

    /// Whether another one acts, and this one waits for it.
    pub(crate) fn is_waiting(&self) -> watch::Receiver<bool> {
        self.is_waiting.subscribe()
    }

    /// Waits for our turn; an error of class Transient when told to stop meanwhile.
    pub(crate) async fn wait(&mut self, until: &mut watch::Receiver<Until>) -> Result<(), CaptureError> {
        let Some(contender) = &mut self.contender else { return Ok(()) };
        if self.lease.as_ref().is_some_and(KeptLease::is_held) {
            return Ok(());
        }
        self.lease = None;
        let mut told = None;
        loop {
            let claim = tokio::select! {
                claim = contender.attempt(SystemClock.now()) => claim?,
                // A store that does not answer is asked for minutes.
                _ = until.wait_for(|u| *u == Until::Now) => return Err(CaptureError::Interrupted),
            };
            match claim {
                Claim::Acquired(lease) => {
                    self.lease = Some(lease.keep());
                    self.idle_since = Instant::now();
                    self.is_waiting.send_replace(false);
                    return Ok(());
                }
                Claim::HeldBy(held) => {
                    self.is_waiting.send_replace(true);
                    if told.as_ref() != Some(&held.holder) {
                        self.events.tell(Event::WaitingForTurn { holder: held.holder.clone() });
                        told = Some(held.holder.clone());
                    }
                    tokio::select! {
                        () = sleep(held.wait.min(LOOK_MAX).max(Duration::from_millis(20))) => {}
                        _ = until.wait_for(|u| *u == Until::Now) => return Err(CaptureError::Interrupted),
                    }
                }
            }
        }
    }

    /// A connection ended, which had streamed or not. A holder that cannot reach its server for as long as others wait for one that
    /// is silent is of no more use than that one: it lets the next begin, and keeps out of the line until that had the time to.
    pub(crate) async fn pass_on(&mut self, has_streamed: bool, until: &mut watch::Receiver<Until>) {
        if has_streamed {
            (self.idle_since, self.is_told) = (Instant::now(), false);
        }
        let idle = self.idle_since.elapsed();
        let Some(lease) = self.lease.take_if(|_| idle >= self.idle_max) else { return };
        drop(timeout(RELEASE_LIMIT, lease.release()).await);
        // It may go on so for days.
        if !std::mem::replace(&mut self.is_told, true) {
            self.events.tell(Event::TurnPassedOn { idle, again_in: OUT_OF_LINE });
        }
        tokio::select! {
            () = sleep(OUT_OF_LINE) => {}
            _ = until.wait_for(|u| *u == Until::Now) => {}
        }
    }

    /// Returns when the lease that we hold is ours no longer.
    pub(crate) async fn lost(&self) -> CaptureError {
        match &self.lease {
            Some(lease) => match lease.lost().await {
                Loss::Taken { holder } => CaptureError::TurnLost { why: format!("{holder} receives now") },
                Loss::Unproven { why } => CaptureError::TurnLost { why },
            },
            None => std::future::pending().await,
        }
    }

    /// Lets the next one begin at once.
    pub(crate) async fn end(self) {
        if let Some(lease) = self.lease {
            // Nothing depends on it but how long the next one waits.
            drop(timeout(RELEASE_LIMIT, lease.release()).await);
        }
    }
}
