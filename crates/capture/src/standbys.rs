//! Slots do not follow a failover: every standby that can be reached gets one of the same name, moved along behind what is
//! stored, so that whoever is promoted still has the WAL that the repository lacks.

use crate::receive::Progress;
use pg::{ConnInfo, PgError, Sql};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use terms::{Event, Events};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How long one visit may take.
const VISIT_LIMIT: Duration = Duration::from_secs(5);

/// Tends the slots until dropped.
pub(crate) struct Standbys(JoinHandle<()>);

impl Standbys {
    /// Of the servers of `info` those in recovery are visited every `pause`.
    pub(crate) fn tend(info: &ConnInfo, slot: &str, progress: watch::Receiver<Option<Progress>>, pause: Duration, events: Arc<dyn Events>) -> Self {
        let places: Vec<String> = info.addresses().iter().map(|a| a.describe()).collect();
        let (info, slot) = (info.clone().anywhere(), slot.to_owned());
        Self(tokio::spawn(async move {
            // A single server has no standby that we could know of.
            if places.len() < 2 {
                return;
            }
            let mut said: HashMap<String, String> = HashMap::new();
            loop {
                for place in &places {
                    let stored = *progress.borrow();
                    let outcome = timeout(VISIT_LIMIT, visit(&info.clone().only(place), &slot, stored)).await;
                    let word = match outcome {
                        Ok(Ok(Visit::Made)) => format!("standby {place} keeps WAL for slot {slot} from now on"),
                        Ok(Ok(Visit::Fine)) => String::new(),
                        Ok(Err(e)) => format!("standby {place} cannot keep WAL for slot {slot}: {e}"),
                        Err(_) => format!("standby {place} cannot keep WAL for slot {slot}: no answer in {} s", VISIT_LIMIT.as_secs()),
                    };
                    // The same trouble is told once, not at every visit.
                    if said.get(place) != Some(&word) && !word.is_empty() {
                        events.tell(Event::Noticed { what: word.clone() });
                    }
                    said.insert(place.clone(), word);
                }
                sleep(pause).await;
            }
        }))
    }
}

impl Drop for Standbys {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Visit {
    Made,
    Fine,
}

async fn visit(info: &ConnInfo, slot: &str, stored: Option<Progress>) -> Result<Visit, PgError> {
    let session = Sql::connect(info).await?;
    if !session.in_recovery().await? {
        return Ok(Visit::Fine);
    }
    let made = session.slot(slot).await?.is_none();
    if made {
        session.create_physical_slot(slot).await?;
    }
    if let Some(Progress { stored, .. }) = stored {
        session.advance_slot(slot, stored).await?;
    }
    Ok(if made { Visit::Made } else { Visit::Fine })
}
