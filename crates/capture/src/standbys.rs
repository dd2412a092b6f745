//! Slots do not follow a failover: every standby that can be reached gets one of the same name, moved along behind what is
//! stored, so that whoever is promoted still has the WAL that the repository lacks.

use crate::receive::Progress;
use pg::{ConnInfo, PgError, Sql};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use terms::{Class, Event, Events, Explain};
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
            let mut troubles: HashMap<&String, Class> = HashMap::new();
            loop {
                for place in &places {
                    let stored = *progress.borrow();
                    let cannot = |why: String| format!("standby {place} cannot keep WAL for slot {slot}: {why}");
                    let keeps = |since: &str| format!("standby {place} keeps WAL for slot {slot} {since}");
                    let visited = timeout(VISIT_LIMIT, visit(&info.clone().only(place), &slot, stored)).await;
                    let is_made = matches!(visited, Ok(Ok(Visit::Made)));
                    let (trouble, word) = match visited {
                        Ok(Ok(Visit::Made)) => (None, keeps("from now on")),
                        Ok(Ok(Visit::Fine)) => (None, keeps("again")),
                        Ok(Ok(Visit::Primary)) => (None, String::new()),
                        Ok(Err(e)) => (Some(e.class()), cannot(e.to_string())),
                        Err(_) => (Some(Class::Transient), cannot(format!("no answer in {} s", VISIT_LIMIT.as_secs()))),
                    };
                    // The same trouble is told once, not at every visit, and a server that goes has many words for it.
                    let before = match trouble {
                        Some(class) => troubles.insert(place, class),
                        None => troubles.remove(place),
                    };
                    if (is_made || trouble != before) && !word.is_empty() {
                        events.tell(Event::Noticed { what: word });
                    }
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
    Primary,
}

async fn visit(info: &ConnInfo, slot: &str, stored: Option<Progress>) -> Result<Visit, PgError> {
    let session = Sql::connect(info).await?;
    if !session.in_recovery().await? {
        return Ok(Visit::Primary);
    }
    let found = session.slot(slot).await?;
    // One that was invalidated keeps nothing, and never will again.
    let is_lost = found.as_ref().is_some_and(|s| !s.active && (s.restart_lsn.is_none() || s.wal_status.as_deref() == Some("lost")));
    if is_lost {
        session.drop_slot(slot).await?;
    }
    let made = found.is_none() || is_lost;
    if made {
        session.create_physical_slot(slot).await?;
    }
    // A position of another timeline says nothing of this standby's WAL.
    if let Some(Progress { timeline, stored }) = stored
        && session.timeline().await? == timeline
    {
        session.advance_slot(slot, stored).await?;
    }
    Ok(if made { Visit::Made } else { Visit::Fine })
}
