//! What a receiver learns of the log as it passes: whether it makes sense, and what the index is told of each segment.

use crate::ingest::{IndexBatch, entry_of};
use pg::wal::{Damage, SegmentSurvey, Surveyor, WalSource, page_magic};
use repo::Writer;
use seal::{Digest, Digester, Protection};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use terms::{Clock, Event, Events, Lsn, SegmentName, SystemClock, SystemId};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a receiver that stops waits for the index. Nothing depends on it: an audit reads what is not indexed.
const LAST_BATCH_LIMIT: Duration = Duration::from_secs(5);

/// Surveys the bytes of one connection. `None` for a server whose WAL we cannot read.
pub(crate) struct Survey(Option<Surveyor>);

impl Survey {
    pub(crate) fn begin(source: WalSource, from: Lsn) -> Self {
        Self(page_magic(source.major).map(|_| Surveyor::new(source, from)))
    }

    /// Takes the bytes that come next; the damage in the segment under way, or in one that they finish.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(SegmentSurvey)) -> Option<Damage> {
        let surveyor = self.0.as_mut()?;
        let mut damage = None;
        surveyor.feed(bytes, |survey| {
            damage = damage.or(survey.damage);
            each(survey);
        });
        damage.or(surveyor.current().damage)
    }
}

/// Puts together what the survey says of a segment and how it was stored, and writes the index in batches.
pub(crate) struct Indexer {
    writer: Writer,
    system_id: SystemId,
    protection: Protection,
    digester: Digester,
    events: Arc<dyn Events>,
    surveyed: BTreeMap<SegmentName, SegmentSurvey>,
    stored: BTreeMap<SegmentName, (Digest, u64)>,
    batch: IndexBatch,
    writing: JoinSet<()>,
}

impl Indexer {
    pub(crate) fn new(writer: &Writer, system_id: SystemId, protection: &Protection, digester: Digester, events: Arc<dyn Events>) -> Self {
        Self {
            writer: writer.clone(),
            system_id,
            protection: protection.clone(),
            digester,
            events,
            surveyed: BTreeMap::new(),
            stored: BTreeMap::new(),
            batch: IndexBatch::new(system_id, protection.clone()),
            writing: JoinSet::new(),
        }
    }

    /// What digests a segment's plain bytes.
    pub(crate) fn digester(&self) -> Digester {
        self.digester.clone()
    }

    /// A segment was surveyed to its end.
    pub(crate) fn surveyed(&mut self, survey: SegmentSurvey) {
        self.surveyed.insert(survey.segment, survey);
        self.join();
    }

    /// A whole segment is stored, in so many bytes.
    pub(crate) fn stored(&mut self, segment: SegmentName, digest: Digest, bytes_stored: u64) {
        self.stored.insert(segment, (digest, bytes_stored));
        self.join();
    }

    /// A new connection begins: what waits for the rest of a survey waits in vain.
    pub(crate) fn begin_again(&mut self) {
        self.surveyed.clear();
        self.stored.clear();
    }

    fn join(&mut self) {
        while let Some(segment) = self.surveyed.keys().find(|s| self.stored.contains_key(s)).copied() {
            if let (Some(survey), Some((digest, bytes_stored))) = (self.surveyed.remove(&segment), self.stored.remove(&segment)) {
                self.batch.push(entry_of(survey, digest, bytes_stored));
            }
        }
        if self.batch.due() {
            self.write();
        }
    }

    fn write(&mut self) {
        let mut batch = std::mem::replace(&mut self.batch, IndexBatch::new(self.system_id, self.protection.clone()));
        let (writer, events) = (self.writer.clone(), self.events.clone());
        self.writing.spawn(async move {
            if let Err(e) = batch.write(&writer, SystemClock.now()).await {
                events.tell(Event::Noticed { what: format!("could not write the index of WAL: {e}; bowline wal audit makes it anew") });
            }
        });
        // The tasks that have ended are of no further interest.
        while self.writing.try_join_next().is_some() {}
    }

    /// Writes what waits, before the receiver ends.
    pub(crate) async fn finish(&mut self) {
        if self.batch.waiting() > 0 {
            self.write();
        }
        let writing = async { while self.writing.join_next().await.is_some() {} };
        // In vain when the store is away.
        drop(timeout(LAST_BATCH_LIMIT, writing).await);
    }
}
