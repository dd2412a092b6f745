//! The packages as watching sees them: listed beside everything else, since a large bucket takes minutes.

use crate::fault::Fault;
use crate::verbs::packages as verb;
use crate::wiring::Wiring;
use packages::PackagesFacts;
use std::sync::Arc;
use std::time::{Duration, Instant};
use terms::SystemClock;
use tokio::task::JoinHandle;
use watch::Trouble;

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
}

impl PackagesLook {
    /// What was seen last; `None` where nothing is configured.
    pub async fn look(&mut self, wiring: &Arc<Wiring>) -> Option<Seen> {
        if !verb::is_configured(wiring) {
            return None;
        }
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
                    };
                    (self.last, self.running) = (Some((Instant::now(), Err(trouble))), None);
                }
                Err(_) => {}
            }
        }
        Some(self.last.as_ref().map_or_else(
            || {
                let summary = "the packages are being listed for the first time".to_owned();
                let hint = "Wait; a large bucket takes minutes.".to_owned();
                Err(Trouble { slug: Trouble::NOT_YET.to_owned(), summary, detail: String::new(), hint })
            },
            |(_, seen)| seen.clone(),
        ))
    }
}

async fn observe(wiring: &Wiring) -> Result<PackagesFacts, Fault> {
    let settings = verb::settings(wiring)?;
    let reader = verb::snapshots(wiring).await?;
    Ok(packages::observe(&settings, reader.as_ref(), &SystemClock).await?)
}
