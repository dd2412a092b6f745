//! What SQL tells a receiver that the stream does not: how far the server is at what time, whether it counts us as a
//! synchronous standby, and that it is shutting down.

use crate::receive::{RECEIVER, may_rank};
use pg::{ConnInfo, PgError, Sql};
use std::time::Duration;
use terms::{Class, Explain, Lsn, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

/// How long one look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// The pause between two looks while the store holds us up: a shutdown must then be noticed soon.
const HURRIED: Duration = Duration::from_secs(1);
/// So many looks in a row that come to nothing are no accident while the stream goes on.
const REFUSALS_MAX: u32 = 3;

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sight {
    /// At this time by its clock the server had promised nobody anything beyond `lsn`.
    At { time: Timestamp, lsn: Lsn, standing: Standing },
    /// New sessions are refused with 57P03, `cannot_connect_now`.
    ShuttingDown,
    /// The server streams, but it does not let us ask, or does not answer.
    Blind { why: String },
}

/// How the server counts us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// `sync`, `quorum` or `potential`; `None` when it does not count us as a synchronous standby, as long as we report no flush
    /// position (`pg_stat_get_wal_senders`, src/backend/replication/walsender.c: an invalid one makes any standby `async`).
    pub(crate) ranked: Option<String>,
    /// Whether `synchronous_standby_names` names us, whatever we report.
    pub(crate) is_named: bool,
}

/// Looks from time to time, until dropped. Every look is a session of its own: one that stayed would keep a smart shutdown waiting for ever.
pub(crate) struct Lookout {
    task: JoinHandle<()>,
    hurry: watch::Sender<bool>,
    sights: mpsc::Receiver<Sight>,
}

impl Lookout {
    /// `info` leads to the server that streams, and nowhere else.
    pub(crate) fn post(info: ConnInfo, slot: String, pause: Duration) -> Self {
        let (hurry, mut hurried) = watch::channel(false);
        let (seen, sights) = mpsc::channel(4);
        let task = tokio::spawn(async move {
            let mut refusals = Refusals::default();
            loop {
                let begun = Instant::now();
                let sight = match timeout(LOOK_LIMIT, look(&info, &slot)).await {
                    Ok(Ok(sight)) => Some(sight),
                    Ok(Err(e)) if is_shutting_down(&e) => Some(Sight::ShuttingDown),
                    // The stream itself tells when the server is gone; a session more or less proves nothing.
                    Ok(Err(e)) => refusals.add(e.class(), || e.in_a_line()),
                    Err(_) => refusals.add(Class::Transient, || format!("no answer in {} s", LOOK_LIMIT.as_secs())),
                };
                if matches!(sight, Some(Sight::At { .. })) {
                    refusals = Refusals::default();
                }
                if let Some(sight) = sight
                    && seen.send(sight).await.is_err()
                {
                    return;
                }
                let next = |hurried: bool| begun + if hurried { HURRIED.min(pause) } else { pause };
                loop {
                    let until = next(*hurried.borrow_and_update());
                    tokio::select! {
                        () = sleep_until(until) => break,
                        changed = hurried.changed() => if changed.is_err() { return },
                    }
                }
            }
        });
        Self { task, hurry, sights }
    }

    /// Look more often, or not.
    pub(crate) fn hurry(&self, on: bool) {
        self.hurry.send_if_modified(|now| std::mem::replace(now, on) != on);
    }

    /// The next sight.
    pub(crate) async fn next(&mut self) -> Sight {
        match self.sights.recv().await {
            Some(sight) => sight,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn look(info: &ConnInfo, slot: &str) -> Result<Sight, PgError> {
    let session = Sql::connect(info).await?;
    let (time, lsn) = session.promised().await?;
    let ranked = session.sync_state_of_slot(slot).await?.filter(|state| state != "async");
    // Names that cannot be seen may be ours.
    let is_named = session.setting("synchronous_standby_names").await?.is_none_or(|names| may_rank(&names, RECEIVER));
    Ok(Sight::At { time, lsn, standing: Standing { ranked, is_named } })
}

/// `ERRCODE_CANNOT_CONNECT_NOW` (src/backend/postmaster/postmaster.c, `ProcessStartupPacket`): the server starts, shuts down or recovers.
fn is_shutting_down(error: &PgError) -> bool {
    matches!(error, PgError::Server(said) if said.code == "57P03" || said.code == "57P01")
}

/// How many looks in a row came to nothing.
#[derive(Default)]
struct Refusals(u32);

impl Refusals {
    /// What one more of this class means: what may pass by itself means nothing before it has come three times in a row.
    fn add(&mut self, class: Class, why: impl FnOnce() -> String) -> Option<Sight> {
        self.0 += 1;
        (class != Class::Transient || self.0 >= REFUSALS_MAX).then(|| Sight::Blind { why: why() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_for_good_counts_at_once_and_what_may_pass_when_it_does_not() {
        let mut refusals = Refusals::default();
        let add = |refusals: &mut Refusals, class| refusals.add(class, || "why".to_owned()).is_some();
        assert!(add(&mut refusals, Class::Refused), "a role that may not ask");
        refusals = Refusals::default();
        assert_eq!([(); 4].map(|()| add(&mut refusals, Class::Transient)), [false, false, true, true]);
    }
}
