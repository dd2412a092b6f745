//! Slots that nobody reads from: they move along behind what is stored, or WAL would pile up on their servers. Slots do not
//! follow a failover, so every standby that can be reached gets one of the same name, and whoever is promoted still has the WAL
//! that the repository lacks; and while another receiver acts our own slot waits as we do.

use crate::receive::Progress;
use pg::{ConnInfo, PgError, Sql};
use repo::Reader;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use terms::{Class, Event, Events, Explain, SystemId};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How long one visit may take.
const VISIT_LIMIT: Duration = Duration::from_secs(5);

/// Tends the slots until dropped.
pub(crate) struct Standbys(JoinHandle<()>);

/// Whose slots, and what is known of how far they may move.
pub(crate) struct Tended {
    pub(crate) slot: String,
    pub(crate) system_id: SystemId,
    /// Where whoever acts leaves its mark.
    pub(crate) reader: Reader,
    /// What we stored ourselves.
    pub(crate) progress: watch::Receiver<Option<Progress>>,
    /// Whether another receiver acts, and we wait for our turn.
    pub(crate) is_waiting: watch::Receiver<bool>,
}

impl Standbys {
    /// Of the servers of `info` those in recovery are visited every `pause`, and while we wait for our turn the primary too.
    pub(crate) fn tend(info: &ConnInfo, tended: Tended, pause: Duration, events: Arc<dyn Events>) -> Self {
        let places: Vec<String> = info.addresses().iter().map(|a| a.describe()).collect();
        let info = info.clone().anywhere();
        Self(tokio::spawn(async move {
            let slot = &tended.slot;
            let mut troubles: HashMap<&String, Class> = HashMap::new();
            loop {
                let is_waiting = *tended.is_waiting.borrow();
                // Of a single server no standby is known.
                if places.len() < 2 && !is_waiting {
                    sleep(pause).await;
                    continue;
                }
                let stored = tended.stored(is_waiting).await;
                for place in &places {
                    let cannot = |why: String| match places.len() {
                        1 => format!("slot {slot} cannot move along on {place} while this receiver waits for its turn: {why}"),
                        _ => format!("standby {place} cannot keep WAL for slot {slot}: {why}"),
                    };
                    let keeps = |since: &str| format!("standby {place} keeps WAL for slot {slot} {since}");
                    let visited = timeout(VISIT_LIMIT, tended.visit(&info.clone().only(place), is_waiting, stored)).await;
                    let is_made = matches!(visited, Ok(Ok(Visit::Made)));
                    let (trouble, word) = match visited {
                        Ok(Ok(Visit::Made)) => (None, keeps("from now on")),
                        Ok(Ok(Visit::Fine)) => (None, keeps("again")),
                        Ok(Ok(Visit::Primary)) if is_waiting => (None, format!("slot {slot} can move along on {place} again")),
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

impl Tended {
    /// Up to where everything is stored, by whomever.
    async fn stored(&self, is_waiting: bool) -> Option<Progress> {
        let own = *self.progress.borrow();
        if !is_waiting {
            return own;
        }
        // A store that does not answer is told of by whoever acts.
        let mark = timeout(VISIT_LIMIT, self.reader.coverage(self.system_id)).await;
        let others = mark.ok().and_then(Result::ok).flatten().map(|c| Progress { timeline: c.timeline, stored: c.stored.max(c.lsn) });
        own.into_iter().chain(others).max_by_key(|p| (p.timeline, p.stored))
    }

    async fn visit(&self, info: &ConnInfo, is_waiting: bool, stored: Option<Progress>) -> Result<Visit, PgError> {
        let (session, slot) = (Sql::connect(info).await?, &self.slot);
        let is_standby = session.in_recovery().await?;
        let mut made = false;
        if is_standby {
            let found = session.slot(slot).await?;
            // One that was invalidated keeps nothing, and never will again.
            let is_lost = found.as_ref().is_some_and(|s| !s.active && (s.restart_lsn.is_none() || s.wal_status.as_deref() == Some("lost")));
            if is_lost {
                session.drop_slot(slot).await?;
            }
            made = found.is_none() || is_lost;
            if made {
                session.create_physical_slot(slot).await?;
            }
        } else if !is_waiting {
            return Ok(Visit::Primary);
        }
        // A position of another timeline, or of another cluster, says nothing of this server's WAL.
        if let Some(Progress { timeline, stored }) = stored
            && session.timeline().await? == timeline
            && session.system_id().await? == self.system_id
        {
            match session.advance_slot(slot, stored).await {
                // Another receiver has begun to read from it: then it moves along by itself.
                Err(e) if e.class() == Class::Held => {}
                advanced => advanced?,
            }
        }
        Ok(match (is_standby, made) {
            (false, _) => Visit::Primary,
            (true, true) => Visit::Made,
            (true, false) => Visit::Fine,
        })
    }
}
