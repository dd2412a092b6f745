//! What the repository says about one epoch: its backups, its log and the ways through its history.

use crate::RestoreError;
use crate::log::Log;
use crate::spoiled::{Spoiled, is_damage};
use pg::TimelineHistory;
use repo::reach::{self, Path as History, Proof};
use repo::{BackupDocument, Coverage, Epoch, RECEIVER_LEASE, Reader, RepoError, WalView};
use std::collections::BTreeMap;
use terms::{Class, Explain, Lsn, RecoveryTarget, SegmentName, SegmentSize, Timeline, Timestamp, WalName};

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
    /// Timelines whose history is stored and does not open, and why. Whoever needs one is told.
    damaged_histories: Vec<(Timeline, String)>,
    pub(crate) spoiled: Spoiled,
    /// What is stored of the timelines without a usable history that were to be followed begins with these segments.
    parted: Vec<SegmentName>,
    pub(crate) coverage: Option<Coverage>,
    /// A receiver was at work once: it left its lease.
    has_receiver: bool,
}

impl Known {
    /// Lists what is stored of an epoch, without what is known to be spoiled. `backups` are its own.
    pub(crate) async fn gather(
        reader: &Reader,
        epoch: &Epoch,
        ended: Option<Timestamp>,
        backups: Vec<BackupDocument>,
        spoiled: &Spoiled,
    ) -> Result<Self, RestoreError> {
        let system_id = epoch.system_id;
        let size = backups.last().map_or(SegmentSize::DEFAULT, |newest| newest.segment_bytes);
        // The mark before the listing: a receiver at work moves it on, and what it then speaks of would be missing from the list.
        let coverage = reader.coverage(system_id).await?;
        let (mut view, sizes) = reader.wal_sizes(system_id, size).await?;
        let parted = spoiled.histories().filter_map(|timeline| view.first_of(timeline)).collect();
        spoiled.leave_out(&mut view);
        let (mut histories, mut damaged_histories) = (Vec::new(), Vec::new());
        for timeline in view.timelines.iter().filter(|t| t.has_history).map(|t| t.timeline) {
            let name = WalName::History(timeline);
            let damaged = match reader.fetch_wal(system_id, &name).await {
                Ok(Some(bytes)) => match TimelineHistory::parse(timeline, &String::from_utf8_lossy(&bytes)) {
                    Ok(history) => {
                        histories.push(history);
                        continue;
                    }
                    Err(e) => e.in_a_line(),
                },
                Ok(None) => return Err(RestoreError::Fetch { name: name.to_string(), why: "It was listed and is gone.".into() }),
                Err(RepoError::Object { source, .. }) if is_damage(&source) => source.to_string(),
                Err(e) => return Err(e.into()),
            };
            damaged_histories.push((timeline, format!("{}: {damaged}.", repo::wal_object(system_id, &name))));
        }
        let has_receiver = reader.lease(RECEIVER_LEASE).await?.is_some();
        Ok(Self {
            epoch: epoch.clone(),
            ended,
            backups,
            view,
            sizes,
            histories,
            damaged_histories,
            spoiled: spoiled.clone(),
            parted,
            coverage,
            has_receiver,
        })
    }

    /// The newest timeline that anything is stored of.
    pub(crate) fn newest_timeline(&self) -> Timeline {
        let can_be_found = |timeline: &Timeline| !self.spoiled.is_history(*timeline);
        let of_backups = self.backups.iter().map(|b| b.timeline);
        let of_wal = self.view.timelines.iter().filter(|view| !view.is_empty()).map(|view| view.timeline);
        of_backups.chain(of_wal).filter(can_be_found).max().unwrap_or(Timeline::FIRST)
    }

    /// What is known to be missing with this number of an older timeline's log: it, or what came instead of it and leads nowhere.
    pub(crate) fn missing(&self, segment: SegmentName) -> Option<SegmentName> {
        let size = self.view.segment_bytes;
        let parted = self.parted.iter().find(|first| first.timeline() > segment.timeline() && first.number(size) == segment.number(size));
        if self.spoiled.is_segment(segment) { Some(segment) } else { parted.copied() }
    }

    /// Timelines that were there and whose history cannot be had: a recovered server must not take their numbers.
    pub(crate) fn without_history(&self) -> Vec<Timeline> {
        let is_known = |timeline: Timeline| timeline == Timeline::FIRST || self.histories.iter().any(|h| h.timeline() == timeline);
        self.view.timelines.iter().map(|view| view.timeline).filter(|timeline| !is_known(*timeline)).collect()
    }

    /// What a plan tells of histories that it can do without.
    pub(crate) fn notes(&self) -> impl Iterator<Item = String> {
        self.damaged_histories.iter().map(|(_, why)| format!("A history that this restore does not need is damaged: {why}"))
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
            None if self.view.timeline(timeline).is_some_and(|view| !view.is_empty() || view.has_history) => {
                let damaged = self.damaged_histories.iter().find(|(of, _)| *of == timeline);
                let (why, class) = match damaged {
                    Some((_, why)) => (why.clone(), Class::Damaged),
                    None => {
                        let path = repo::wal_object(self.epoch.system_id, &WalName::History(timeline));
                        (format!("WAL of this timeline is stored, but {path} is not."), Class::Missing)
                    }
                };
                Err(RestoreError::History { timeline, why, class })
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
    /// The newest one that anything is stored of.
    pub timeline: Timeline,
    /// Everything before is stored.
    pub lsn: Lsn,
    /// When the last transaction in it ended; `None` when none is near its end.
    pub last_transaction: Option<Timestamp>,
    /// What is missing there although more was stored once.
    pub hole: Option<SegmentName>,
    /// Whole segments that are stored, of all timelines of the epoch.
    pub segments: u64,
}

/// Looks where an epoch's stored log ends, by listing it and reading its last segment; `None` without one of these backups on
/// the newest timeline's way.
pub async fn stored_end(reader: &Reader, epoch: &Epoch, backups: &[BackupDocument]) -> Result<Option<StoredEnd>, RestoreError> {
    let own: Vec<_> = backups.iter().filter(|b| b.system_id == epoch.system_id).cloned().collect();
    let known = Known::gather(reader, epoch, None, own, &Spoiled::default()).await?;
    let timeline = known.newest_timeline();
    let history = known.path_to(timeline)?;
    let Some(backup) = reach::candidates(&known.backups, &history, &RecoveryTarget::Latest).first().copied() else { return Ok(None) };
    let stretch = reach::stretch(&history, &known.view, backup.start.lsn, known.proof(&history));
    let Some(last) = stretch.segments.last() else { return Ok(None) };
    let log = Log { reader, system_id: epoch.system_id, major: epoch.major, size: known.view.segment_bytes, timeline };
    let (_, last_transaction) = log.end(&[*last]).await?;
    Ok(Some(StoredEnd { timeline, lsn: stretch.end, last_transaction, hole: stretch.hole, segments: known.view.segments() }))
}
