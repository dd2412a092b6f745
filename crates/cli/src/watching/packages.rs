//! The packages as watching sees them: a replica followed at bounded cost, snapshots compared beside everything else, since that takes
//! minutes where the bucket is large.

use crate::fault::Fault;
use crate::verbs::packages as verb;
use crate::wiring::Wiring;
use packages::{Followed, Follower, Writes};
use std::sync::Arc;
use std::time::{Duration, Instant};
use terms::{Clock, SystemClock};
use tokio::task::JoinHandle;
use watch::Trouble;
use watch::facts::PackagesFacts;

/// A small bucket answers within this; a larger one is told of the next time.
const WAIT: Duration = Duration::from_secs(2);
/// A listing costs money: it is not begun more often.
const EVERY: Duration = Duration::from_secs(300);
/// A listing that takes longer is none.
const LIMIT: Duration = Duration::from_secs(1800);

type Seen = Result<PackagesFacts, Trouble>;

/// One listing after the other.
#[derive(Default)]
pub struct PackagesLook {
    last: Option<(Instant, Seen)>,
    running: Option<(Instant, JoinHandle<Seen>)>,
    follower: Option<Follower>,
}

impl PackagesLook {
    /// What was seen last; `None` where nothing is configured.
    pub async fn look(&mut self, wiring: &Arc<Wiring>, is_acting: bool) -> Option<Seen> {
        let packages = wiring.config.packages.as_ref().filter(|_| verb::is_configured(wiring))?;
        if packages.replica.is_none() {
            return Some(self.compare(wiring).await);
        }
        // One who only looks writes nothing.
        let writes = if is_acting { Writes::Here } else { Writes::Elsewhere };
        let canary = packages.canary.unwrap_or(true).then_some(writes);
        Some(self.follow(wiring, canary).await.map_err(|fault| Trouble::from(fault.0)))
    }

    async fn follow(&mut self, wiring: &Wiring, canary: Option<Writes>) -> Result<PackagesFacts, Fault> {
        let follower = match &mut self.follower {
            Some(follower) => follower,
            none => none.insert(Follower::new(&verb::settings(wiring)?)?),
        };
        Ok(told(follower.look(canary, &SystemClock).await?))
    }

    async fn compare(&mut self, wiring: &Arc<Wiring>) -> Seen {
        if self.running.is_none() && self.last.as_ref().is_none_or(|(at, _)| at.elapsed() >= EVERY) {
            let wiring = Arc::clone(wiring);
            self.running = Some((Instant::now(), tokio::spawn(async move { observe(&wiring).await.map_err(|fault| Trouble::from(fault.0)) })));
        }
        if let Some((begun, running)) = &mut self.running {
            match tokio::time::timeout(WAIT, &mut *running).await {
                Ok(Ok(seen)) => (self.last, self.running) = (Some((Instant::now(), seen)), None),
                Ok(Err(_)) => self.running = None,
                Err(_) if begun.elapsed() > LIMIT => {
                    running.abort();
                    let trouble = Trouble {
                        slug: "look-timeout".into(),
                        summary: format!("the packages could not be listed within {} s", LIMIT.as_secs()),
                        detail: String::new(),
                        hint: "Run bowline packages status by hand.".into(),
                        is_damage: false,
                    };
                    (self.last, self.running) = (Some((Instant::now(), Err(trouble))), None);
                }
                Err(_) => {}
            }
        }
        self.last.as_ref().map_or_else(
            || {
                let summary = "the packages are being listed for the first time".to_owned();
                let hint = "Wait; a large bucket takes minutes.".to_owned();
                Err(Trouble { slug: Trouble::NOT_YET.to_owned(), summary, detail: String::new(), hint, is_damage: false })
            },
            |(_, seen)| seen.clone(),
        )
    }
}

async fn observe(wiring: &Wiring) -> Result<PackagesFacts, Fault> {
    let settings = verb::settings(wiring)?;
    let reader = verb::snapshots(wiring).await?;
    let seen = packages::observe(&settings, reader.as_ref(), &SystemClock).await?;
    let usual_seconds = seen.usual_seconds(verb::every(wiring));
    Ok(PackagesFacts { lag_seconds: Some(seen.lag_seconds), listed: seen.at, usual_seconds, ..listed(&seen) })
}

fn listed(seen: &packages::PackagesFacts) -> PackagesFacts {
    PackagesFacts {
        mode: seen.mode.clone(),
        oldest_behind: seen.oldest_behind,
        behind: seen.behind,
        failed: seen.failed,
        objects: seen.primary.objects,
        bytes: seen.primary.bytes,
        ..PackagesFacts::default()
    }
}

fn told(followed: Followed) -> PackagesFacts {
    let Followed { facts, listed: at, canary } = followed;
    let by_canary = canary.as_ref().and_then(|canary| canary.lag_seconds(SystemClock.now()));
    // Something that is behind says how far, even where not everything was listed.
    let by_listing = Some(facts.lag_seconds).filter(|_| at.is_some() || facts.oldest_behind.is_some());
    PackagesFacts {
        lag_seconds: by_listing.into_iter().chain(by_canary).reduce(f64::max),
        listed: at,
        canary_awaited: canary.as_ref().and_then(|canary| canary.awaited),
        canary_arrived: canary.as_ref().and_then(|canary| canary.arrived),
        canary_trouble: canary.and_then(|canary| canary.trouble).map(Trouble::from),
        ..listed(&facts)
    }
}
