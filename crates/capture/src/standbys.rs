//! Slots that nobody reads from: they move along behind what is stored, or WAL would pile up on their servers. Slots do not
//! follow a failover, so every standby that can be reached gets one of the same name, and whoever is promoted still has the WAL
//! that the repository lacks; and while another receiver acts our own slot waits as we do. Who comes by also sees whether one of
//! them has taken over, while the server that is streamed from lives on and says nothing of it.

use crate::receive::{BACKUP, Progress};
use pg::{ConnInfo, PgError, Replication, Sql, TimelineHistory};
use repo::Reader;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use terms::{Class, Event, Events, Explain, SystemId, Timeline};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How long one visit may take.
const VISIT_LIMIT: Duration = Duration::from_secs(5);

/// The servers that took writes when they were seen last, on a timeline that came out of the one that was streamed then: by their addresses.
pub(crate) type Successors = BTreeMap<String, Timeline>;

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
    /// Who has taken over.
    pub(crate) successors: watch::Sender<Successors>,
}

impl Standbys {
    /// The servers of `info` are visited every `pause`.
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
                    tended.note(place, visited.as_ref().ok().and_then(|visited| visited.as_ref().ok()));
                    let (trouble, word) = match visited {
                        Ok(Ok(Visit::Made)) => (None, keeps("from now on")),
                        Ok(Ok(Visit::Fine)) => (None, keeps("again")),
                        Ok(Ok(Visit::Primary(_))) if is_waiting => (None, format!("slot {slot} can move along on {place} again")),
                        Ok(Ok(Visit::Primary(Rank::Own | Rank::Successor(_)))) => (None, String::new()),
                        Ok(Ok(Visit::Primary(Rank::LeftBehind(timeline)))) => (
                            Some(Class::Refused),
                            format!(
                                "server {place} still takes writes on timeline {timeline}, which was left: nobody receives its commits. Stop it, \
                                 or make it a standby; its slot {slot} keeps its WAL meanwhile"
                            ),
                        ),
                        Ok(Ok(Visit::Primary(Rank::Closed(timeline)))) => (
                            Some(Class::Refused),
                            format!(
                                "server {place} takes writes on the newer timeline {timeline} and does not let this role replicate: nobody receives its \
                                 commits. Let it (pg_hba.conf, REPLICATION), or stop the server"
                            ),
                        ),
                        Ok(Ok(Visit::Primary(Rank::Stranger(timeline)))) => (
                            Some(Class::Refused),
                            format!("server {place} takes writes on timeline {timeline}, which never was on the one that is received"),
                        ),
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visit {
    Made,
    Fine,
    Primary(Rank),
}

/// What a server that takes writes is to the one that is streamed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rank {
    /// Itself, as far as can be told.
    Own,
    /// It has taken over: its timeline is newer, and came out of the streamed one.
    Successor(Timeline),
    /// Its timeline is newer, and it does not let us stream.
    Closed(Timeline),
    /// Its timeline is newer, and never was on the streamed one.
    Stranger(Timeline),
    /// Its timeline is older.
    LeftBehind(Timeline),
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
            return Ok(Visit::Primary(self.rank(&session, info).await?));
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
            (false, _) => Visit::Primary(Rank::Own),
            (true, true) => Visit::Made,
            (true, false) => Visit::Fine,
        })
    }

    /// What a server that takes writes is to the one that we stream from.
    async fn rank(&self, session: &Sql, info: &ConnInfo) -> Result<Rank, PgError> {
        let Some(streamed) = self.progress.borrow().map(|own| own.timeline) else { return Ok(Rank::Own) };
        let found = session.timeline().await?;
        if found == streamed || session.system_id().await? != self.system_id {
            return Ok(Rank::Own);
        }
        if found < streamed {
            return Ok(Rank::LeftBehind(found));
        }
        match history_of(info, found).await {
            Ok(history) => Ok(rank(found, streamed, history.as_ref())),
            // It may say so at the next visit.
            Err(e) if e.class() == Class::Transient => Err(e),
            // To leave a server that streams for one that does not would leave nobody who receives.
            Err(_) => Ok(Rank::Closed(found)),
        }
    }

    /// One that does not answer has not taken over from anybody: as soon as its WAL is stored the coverage mark speaks for it.
    fn note(&self, place: &str, visit: Option<&Visit>) {
        self.successors.send_if_modified(|known| match visit {
            Some(Visit::Primary(Rank::Successor(timeline))) => known.insert(place.to_owned(), *timeline) != Some(*timeline),
            _ => known.remove(place).is_some(),
        });
    }
}

async fn history_of(info: &ConnInfo, timeline: Timeline) -> Result<Option<TimelineHistory>, PgError> {
    Replication::connect(&info.clone().with_application_name(BACKUP)).await?.history(timeline).await
}

/// What a server on a newer timeline is that went this way through history.
fn rank(found: Timeline, streamed: Timeline, history: Option<&TimelineHistory>) -> Rank {
    match history.and_then(|history| history.begin_of(streamed)) {
        Some(_) => Rank::Successor(found),
        None => Rank::Stranger(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_timeline_has_taken_over_only_where_it_came_out_of_the_streamed_one() {
        let timeline = |id: u32| Timeline::new(id).unwrap();
        let history = |text: &str| TimelineHistory::parse(timeline(4), text).unwrap();
        let asked = |streamed: u32, text: &str| rank(timeline(4), timeline(streamed), Some(&history(text)));
        let way = "1\t0/3000000\tno recovery target specified\n3\t0/5000000\tno recovery target specified\n";
        assert_eq!((asked(1, way), asked(3, way)), (Rank::Successor(timeline(4)), Rank::Successor(timeline(4))));
        assert_eq!(asked(2, way), Rank::Stranger(timeline(4)), "another one of timeline 1's children");
        assert_eq!(rank(timeline(4), timeline(3), None), Rank::Stranger(timeline(4)), "it does not know its own way");
    }
}
