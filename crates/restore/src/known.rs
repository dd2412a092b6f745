//! What the repository says about one epoch: its backups, its log and the ways through its history.

use crate::RestoreError;
use crate::log::Log;
use pg::TimelineHistory;
use repo::reach::{self, Path as History, Proof};
use repo::{BackupDocument, Coverage, Epoch, RECEIVER_LEASE, Reader, WalView};
use std::collections::BTreeMap;
use terms::{Lsn, RecoveryTarget, SegmentName, SegmentSize, Timeline, Timestamp, WalName};

/// Everything that the repository says about what can be reached in one epoch.
pub(crate) struct Known {
    pub(crate) epoch: Epoch,
    /// When the next epoch began.
    pub(crate) ended: Option<Timestamp>,
    /// Oldest first.
    pub(crate) backups: Vec<BackupDocument>,
    pub(crate) view: WalView,
    /// The bytes of each stored segment's object, none for one that is there in pieces.
    pub(crate) sizes: BTreeMap<SegmentName, u64>,
    pub(crate) histories: Vec<TimelineHistory>,
    pub(crate) coverage: Option<Coverage>,
    /// A receiver was at work once: it left its lease.
    has_receiver: bool,
}

impl Known {
    /// Lists what is stored of an epoch. `backups` are its own.
    pub(crate) async fn gather(reader: &Reader, epoch: &Epoch, ended: Option<Timestamp>, backups: Vec<BackupDocument>) -> Result<Self, RestoreError> {
        let system_id = epoch.system_id;
        let size = backups.last().map_or(SegmentSize::DEFAULT, |newest| newest.segment_bytes);
        // The mark before the listing: a receiver at work moves it on, and what it then speaks of would be missing from the list.
        let coverage = reader.coverage(system_id).await?;
        let (view, sizes) = reader.wal_sizes(system_id, size).await?;
        let mut histories = Vec::new();
        for timeline in view.timelines.iter().filter(|t| t.has_history).map(|t| t.timeline) {
            let name = WalName::History(timeline);
            let bytes = reader.fetch_wal(system_id, &name).await?;
            let bytes = bytes.ok_or_else(|| RestoreError::Fetch { name: name.to_string(), why: "It was listed and is gone.".into() })?;
            histories.push(TimelineHistory::parse(timeline, &String::from_utf8_lossy(&bytes))?);
        }
        let has_receiver = reader.lease(RECEIVER_LEASE).await?.is_some();
        Ok(Self { epoch: epoch.clone(), ended, backups, view, sizes, histories, coverage, has_receiver })
    }

    /// The newest timeline that anything is stored of.
    pub(crate) fn newest_timeline(&self) -> Timeline {
        let of_backups = self.backups.iter().map(|b| b.timeline).max();
        let of_wal = self.view.newest().map(|(timeline, _)| timeline);
        of_backups.max(of_wal).unwrap_or(Timeline::FIRST)
    }

    /// What is known of how the log came to be stored, along this history.
    pub(crate) fn proof(&self, history: &History) -> Proof {
        Proof { stored: reach::proven(history, &self.view, self.coverage.as_ref(), &self.backups), may_overtake: self.has_receiver }
    }

    pub(crate) fn path_to(&self, timeline: Timeline) -> Result<History, RestoreError> {
        if timeline == Timeline::FIRST {
            return Ok(History::new(&[], timeline));
        }
        match self.histories.iter().find(|h| h.timeline() == timeline) {
            Some(history) => {
                let ancestors: Vec<_> = history.branches().iter().map(|b| (b.timeline, b.end)).collect();
                Ok(History::new(&ancestors, timeline))
            }
            None => Err(RestoreError::Unreachable {
                target: format!("timeline {timeline}"),
                why: format!("The history file {} is not in the repository.", WalName::History(timeline)),
                window: String::new(),
            }),
        }
    }
}

/// Where the stored log ends from which the newest timeline can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredEnd {
    pub timeline: Timeline,
    /// Everything before is stored.
    pub lsn: Lsn,
    /// When the last transaction in it ended; `None` when none is near its end.
    pub last_transaction: Option<Timestamp>,
    /// What is missing there although more was stored once.
    pub hole: Option<SegmentName>,
}

/// Looks where an epoch's stored log ends, by listing it and reading its last segment; `None` without a backup on the newest
/// timeline's way.
pub async fn stored_end(reader: &Reader, epoch: &Epoch) -> Result<Option<StoredEnd>, RestoreError> {
    let backups: Vec<_> = reader.backups().await?.into_iter().filter(|b| b.system_id == epoch.system_id).collect();
    let known = Known::gather(reader, epoch, None, backups).await?;
    let timeline = known.newest_timeline();
    let history = known.path_to(timeline)?;
    let Some(backup) = reach::candidates(&known.backups, &history, &RecoveryTarget::Latest).first().copied() else { return Ok(None) };
    let stretch = reach::stretch(&history, &known.view, backup.start.lsn, known.proof(&history));
    let Some(last) = stretch.segments.last() else { return Ok(None) };
    let log = Log { reader, system_id: epoch.system_id, major: epoch.major, size: known.view.segment_bytes, timeline };
    let (_, last_transaction) = log.end(&[*last]).await?;
    Ok(Some(StoredEnd { timeline, lsn: stretch.end, last_transaction, hole: stretch.hole }))
}
