//! What a restore will do, decided before anything is touched.

use crate::RestoreError;
use crate::at_once::Way;
use crate::contents::{self, Contents};
use crate::known::Known;
use crate::log::{Found, Log, PAGE_HEADER_MAX};
use crate::loss::Loss;
use crate::names::Places;
use crate::proof::replayed;
use crate::spoiled::is_spoiled;
use pg::TimelineHistory;
use repo::reach::{self, Path as History, Stretch};
use repo::{BackupDocument, Coverage, Epoch, Reader, WalIndex};
use serde::Serialize;
use terms::{BackupId, Class, Explain, Lsn, RecoveryTarget, SegmentName, SystemId, Timeline, Timestamp};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Where recovery is to end.
    pub target: RecoveryTarget,
    /// Only this timeline will do; else the newest.
    pub timeline: Option<Timeline>,
    /// Only this backup will do; else the newest from which the target can be reached.
    pub backup: Option<BackupId>,
}

/// How recovery is told where to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// No target: everything stored is replayed, to exactly this position.
    EndOfWal {
        /// Behind the last record: the stored log ends or breaks off there.
        at: Lsn,
    },
    /// Before the first commit or abort stamped later.
    Time(Timestamp),
    /// Before the record that begins here.
    Before(Lsn),
    /// At the restore point.
    Name(String),
    /// As soon as the backup is consistent.
    Consistent,
}

/// A restore that can be done.
#[derive(Debug, Clone)]
pub struct RestorePlan {
    /// The one that is restored.
    pub backup: BackupDocument,
    /// As it was asked for; `stop` says how recovery is told.
    pub target: RecoveryTarget,
    /// Where recovery ends, in terms that PostgreSQL understands.
    pub stop: Stop,
    /// The timeline that recovery follows.
    pub timeline: Timeline,
    /// Every segment that recovery may ask for, in order.
    pub segments: Vec<SegmentName>,
    /// How many of them recovery reads until it stops, at most.
    pub replayed: usize,
    /// The sizes of how many of those were held against the index, which knows no others.
    pub indexed: usize,
    /// What the backup holds and needs of its host.
    pub contents: Contents,
    /// What of the stored log will not be in it.
    pub loss: Loss,
    /// Where the last record begins that is to be replayed, when that is the end of what is stored: a log that breaks off before it
    /// then ends recovery, instead of being taken for a shorter one.
    pub last_record: Option<Lsn>,
    /// Every history file that is stored: recovery picks a new timeline id beyond all of them.
    pub histories: Vec<Timeline>,
    /// Timelines whose history is damaged or missing: beyond these too.
    pub without_history: Vec<Timeline>,
    /// The latest end of a transaction found at the end of the stored WAL.
    pub last_transaction: Option<Timestamp>,
    /// The same, where all that is stored is replayed.
    pub last_replayed: Option<Timestamp>,
    /// When another cluster followed this one in the repository, which then takes nothing more of this one.
    pub epoch_ended: Option<Timestamp>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

/// The plan as `--plan --json` prints it.
#[derive(Debug, Serialize)]
pub struct PlanSummary {
    /// The one that is restored.
    pub backup: BackupId,
    /// The cluster's, as initdb made it.
    pub system_id: SystemId,
    /// PostgreSQL's major version.
    pub major: u32,
    /// Of the backup's epoch; absent when it is the present one.
    pub epoch_ended: Option<Timestamp>,
    /// As it was asked for, in the words of the command line.
    pub target: String,
    /// Where recovery ends, in words.
    pub stop: String,
    /// The one that recovery follows.
    pub timeline: Timeline,
    /// How many recovery may ask for.
    pub segments: usize,
    /// Of those, how many recovery reads until it stops, at most.
    pub replayed: usize,
    /// The sizes of how many of those were held against the index.
    pub indexed: usize,
    /// `None` when none is needed.
    pub first_segment: Option<SegmentName>,
    /// `None` when none is needed.
    pub last_segment: Option<SegmentName>,
    /// Plain bytes of the backup.
    pub database_bytes: u64,
    /// Bytes of the backup as it is stored, manifest included.
    pub repository_bytes: u64,
    /// What of the stored log will not be in it.
    pub loss: Loss,
    /// The same in words.
    pub lost: String,
    /// What the reader should know.
    pub notes: Vec<String>,
}

impl RestorePlan {
    /// Adds what the programs that will run the cluster have to do with it: a data directory opens under any minor release of its
    /// major, but an earlier one lacks repairs that this cluster has lived with.
    pub fn note_programs(&mut self, bin_dir: &std::path::Path) {
        let version = &self.backup.server_version;
        if let Some(own) = pg::older_minor_in(bin_dir, version) {
            self.notes.push(format!(
                "The backup is of PostgreSQL {version}, and the programs in {} are {own}: it restores, but {own} lacks what was repaired since. \
                 Bring this host to {version} before the service goes on.",
                bin_dir.display()
            ));
        }
    }

    /// The plan in a few words and numbers.
    pub fn summary(&self) -> PlanSummary {
        PlanSummary {
            backup: self.backup.id,
            system_id: self.backup.system_id,
            major: self.backup.major,
            epoch_ended: self.epoch_ended,
            target: self.target.to_string(),
            stop: match &self.stop {
                Stop::EndOfWal { at } => format!("the end of the stored WAL, {at}"),
                Stop::Time(at) => format!("before the first commit or abort later than {at}"),
                Stop::Before(lsn) => format!("before the record at {lsn}"),
                Stop::Name(name) => format!("the restore point {name}"),
                Stop::Consistent => "as soon as the backup is consistent".into(),
            },
            timeline: self.timeline,
            segments: self.segments.len(),
            replayed: self.replayed,
            indexed: self.indexed,
            first_segment: self.segments.first().copied(),
            last_segment: self.segments.last().copied(),
            database_bytes: self.backup.bytes,
            repository_bytes: self.backup.bytes_stored,
            lost: self.loss.words(&self.stop),
            loss: self.loss.clone(),
            notes: self.notes.clone(),
        }
    }
}

/// Plans within one epoch.
pub(crate) struct Planner<'a> {
    pub(crate) known: &'a Known,
    pub(crate) wish: &'a Wish,
    pub(crate) history: History,
    pub(crate) log: Log<'a>,
    /// Where the target lies behind damage, everything before the damage is restored instead.
    pub(crate) to_the_break: bool,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(reader: &'a Reader, known: &'a Known, wish: &'a Wish) -> Result<Self, RestoreError> {
        let timeline = wish.timeline.unwrap_or_else(|| known.newest_timeline());
        let Epoch { system_id, major, .. } = known.epoch;
        let log = Log { reader, system_id, major, size: known.view.segment_bytes, timeline };
        Ok(Self { known, wish, history: known.path_to(timeline)?, log, to_the_break: false })
    }

    pub(crate) async fn run(&self) -> Result<RestorePlan, RestoreError> {
        let target = &self.wish.target;
        let mut candidates = reach::candidates(&self.known.backups, &self.history, target);
        candidates.retain(|b| self.wish.backup.is_none_or(|id| b.id == id));
        if candidates.is_empty() {
            return Err(self.unreachable(format!("No {}backup was complete by then.", self.asked_backup())).await?);
        }
        let mut ended = None;
        // A name must be one place only, whichever backup is restored.
        let places = match target {
            RecoveryTarget::Name(name) => self.places_of(name, &candidates).await?,
            RecoveryTarget::Xid(xid) | RecoveryTarget::BeforeXid(xid) => {
                let end = self.end_of_xid(*xid as u32, &candidates).await?;
                candidates.retain(|backup| backup.stop.lsn <= end.start);
                if candidates.is_empty() {
                    return Err(self
                        .unreachable(format!("It ended at {}, and no {}backup was consistent by then.", end.start, self.asked_backup()))
                        .await?);
                }
                ended = Some(end);
                Places::only(if matches!(target, RecoveryTarget::BeforeXid(_)) { end.start } else { end.end })
            }
            _ => Places::default(),
        };
        let mut holed = None;
        for backup in candidates {
            let stretch = self.stretch(backup.start.lsn);
            if stretch.end < backup.stop.lsn {
                // Its own WAL is gone: not even this backup alone can be restored.
                holed = holed.or(stretch.hole.map(|missing| (missing, stretch.end)));
                continue;
            }
            if let Some((mut plan, index)) = self.try_backup(backup, &stretch, &places).await? {
                plan.notes.extend(ended.map(|end| end.note(target)));
                plan.contents = contents::read(self.log.reader, backup).await?;
                self.check_unambiguous(&plan).await?;
                self.prove(&plan, &index).await?;
                return Ok(plan);
            }
            // A restore point may lie before the newest backup; what lies after the stored WAL lies after it for all.
            if !matches!(target, RecoveryTarget::Name(_)) && !self.to_the_break {
                if let Some(missing) = stretch.hole {
                    return Err(self.hole(missing, stretch.end).await);
                }
                break;
            }
        }
        match (holed, target) {
            (Some((missing, reachable)), _) => Err(self.hole(missing, reachable).await),
            (None, RecoveryTarget::Name(name)) => Err(self.unreachable(format!("No restore point named {name} is in the stored WAL.")).await?),
            (None, _) => Err(self.unreachable("It lies beyond what is known to be stored.".into()).await?),
        }
    }

    /// What is stored from here on without a hole, and without what is known to be spoiled.
    pub(crate) fn stretch(&self, start: Lsn) -> Stretch {
        let (known, size) = (self.known, self.log.size);
        let mut stretch = reach::stretch(&self.history, &known.view, start, known.proof(&self.history));
        if let Some(at) = stretch.segments.iter().position(|segment| known.spoiled.breaks(*segment)) {
            stretch.segments.truncate(at + 1);
            stretch.end = stretch.end.min(stretch.segments[at].end(size));
            stretch.hole = Some(self.history.segment(stretch.segments[at].number(size) + 1, size));
        }
        let next = stretch.segments.last().map_or(start.bytes() / size.bytes(), |last| last.number(size) + 1);
        let next = self.history.segment(next, size);
        stretch.hole = known.missing(next).or(stretch.hole);
        stretch
    }

    /// The error that says that the log goes no further: something of it may be there and not open, which then is to blame.
    async fn hole(&self, missing: SegmentName, reachable: Lsn) -> RestoreError {
        let target = self.wish.target.to_string();
        match self.log.reader.fetch_segment(self.log.system_id, missing, self.log.size).await {
            Err(e) if e.class() == Class::Damaged && !self.known.spoiled.is_segment(missing) => e.into(),
            _ => {
                let promised = self.known.proof(&self.history).stored;
                let is_begun = reachable > missing.start(self.log.size) && reachable < promised && !self.known.spoiled.is_segment(missing);
                RestoreError::Hole { target, missing, reachable, promised: is_begun.then_some(promised) }
            }
        }
    }

    fn asked_backup(&self) -> String {
        self.wish.backup.map_or_else(String::new, |id| format!("{id} is not such a backup; no "))
    }

    /// The plan with this backup, or `None` when the target is not in its stretch of WAL.
    async fn try_backup(&self, backup: &BackupDocument, stretch: &Stretch, places: &Places) -> Result<Option<(RestorePlan, WalIndex)>, RestoreError> {
        let has_place = matches!(self.wish.target, RecoveryTarget::Name(_) | RecoveryTarget::Xid(_) | RecoveryTarget::BeforeXid(_));
        if has_place && places.meant.is_none_or(|lsn| lsn < backup.stop.lsn || lsn > stretch.end) {
            return Ok(None);
        }
        let mut notes = Vec::new();
        if let Some(ended) = self.known.ended {
            notes.push(format!(
                "This is PostgreSQL {} of an earlier epoch (cluster {}), which ended at {ended}: this repository takes nothing more of it. \
                 To go on with it, give it a repository of its own (another url or org).",
                self.known.epoch.major, self.known.epoch.system_id
            ));
        }
        if let Some(adrift) = stretch.adrift.filter(|_| stretch.hole.is_none()) {
            notes.push(format!(
                "{adrift} is stored too, but what comes before it was still on its way when the receiver ended: \
                 none of that was ever confirmed to the server, and it cannot be reached. In a copy of the repository (a replica, a download) \
                 it is the copy that was behind, and what it lacks may have been confirmed."
            ));
        }
        let index = self.log.index(&stretch.segments).await?;
        let (stored_to, last_transaction) = self.log.end(&stretch.segments).await?;
        let broken = self.log.break_before(&stretch.segments, &index, backup.start.lsn, stored_to).await?;
        let end = broken.unwrap_or(stored_to);
        let segments = &stretch.segments[..stretch.segments.partition_point(|segment| segment.start(self.log.size) < end).max(1)];
        let to_the_end = Stop::EndOfWal { at: end };
        // Bytes may be there and make no sense: then the log ends where it was not meant to.
        let promised = self.promised().filter(|promised| stretch.hole.is_none() && *promised > stored_to.plus(PAGE_HEADER_MAX));
        let is_cut = broken.is_some() || promised.is_some();
        let cut_at = |at: Lsn| {
            let segment = self.history.segment(at.bytes() / self.log.size.bytes(), self.log.size);
            RestoreError::Cut { target: self.wish.target.to_string(), at, segment, promised: promised.unwrap_or(stored_to) }
        };
        let ends_early = || cut_at(end);
        if end < backup.stop.lsn && is_cut {
            return if self.to_the_break { Ok(None) } else { Err(ends_early()) };
        }
        let breaks = self.to_the_break && end >= backup.stop.lsn;
        let stop = match &self.wish.target {
            RecoveryTarget::Immediate => Stop::Consistent,
            RecoveryTarget::Latest if breaks => to_the_end,
            RecoveryTarget::Latest if is_cut => return Err(ends_early()),
            RecoveryTarget::Latest if stretch.hole.is_some() => return Ok(None),
            RecoveryTarget::Latest => to_the_end,
            RecoveryTarget::Lsn(lsn) if *lsn > end && breaks => to_the_end,
            RecoveryTarget::Lsn(lsn) if *lsn > end && is_cut => return Err(ends_early()),
            RecoveryTarget::Lsn(lsn) if *lsn > end => return Ok(None),
            RecoveryTarget::Lsn(lsn) => match self.stop_after(segments, backup, *lsn, to_the_end, cut_at).await {
                Err(RestoreError::Cut { at, .. }) if breaks && at >= backup.stop.lsn => Stop::EndOfWal { at },
                stop => stop?,
            },
            RecoveryTarget::Time(at) => match self.log.ends_after(segments, &index, backup.start.lsn, *at).await? {
                Found::Yes(()) => {
                    let way = Way { segments, index: &index, from: backup.start.lsn, consistent: backup.stop.lsn };
                    let quiet_end = self.log.stop_before_what_acts_at_once(&way, *at).await?;
                    notes.extend(quiet_end.map(|quiet| acts_at_once(&format!("the last transaction that ended by {at} and the next one"), quiet)));
                    quiet_end.map_or(Stop::Time(*at), Stop::Before)
                }
                Found::NotBefore(at) if breaks && at >= backup.stop.lsn => Stop::EndOfWal { at },
                Found::NotBefore(valid_to) if valid_to.plus(PAGE_HEADER_MAX) < end => return Err(cut_at(valid_to)),
                _ if breaks => to_the_end,
                _ if is_cut => return Err(ends_early()),
                _ if stretch.hole.is_none() && self.covered(*at, stretch.end) => {
                    notes.push(format!("No transaction ended after {at}: the whole stored WAL is replayed, and coverage past that time is proven."));
                    to_the_end
                }
                _ => return Ok(None),
            },
            RecoveryTarget::Xid(_) | RecoveryTarget::BeforeXid(_) => match places.meant {
                None => return Ok(None),
                Some(lsn) if lsn > end && breaks => to_the_end,
                Some(lsn) if lsn > end => return Err(ends_early()),
                Some(lsn) if matches!(self.wish.target, RecoveryTarget::BeforeXid(_)) => {
                    // What the transaction itself did at once lies before its end, too.
                    let way = Way { segments, index: &index, from: backup.start.lsn, consistent: backup.stop.lsn };
                    let quiet_end = self.log.stop_before_what_acts_at_once_by(&way, lsn).await?;
                    notes.extend(quiet_end.map(|quiet| acts_at_once("the last transaction that ended before it and its own end", quiet)));
                    Stop::Before(quiet_end.unwrap_or(lsn))
                }
                Some(lsn) => self.stop_after(segments, backup, lsn, to_the_end, cut_at).await?,
            },
            RecoveryTarget::Name(name) => match places.meant {
                None => return Ok(None),
                Some(lsn) if lsn > end && breaks => to_the_end,
                Some(lsn) if lsn > end => return Err(ends_early()),
                Some(lsn) if places.is_first_from(backup.start.lsn, lsn) => Stop::Name(name.clone()),
                // PostgreSQL would stop at the first of that name, although the backup is not consistent there.
                Some(lsn) => self.stop_after(segments, backup, lsn, to_the_end, cut_at).await?,
            },
        };
        let last_record = match stop {
            Stop::EndOfWal { at } => self.log.tail(segments, &index, backup.start.lsn, at, false).await?.last_record,
            _ => None,
        };
        let last_replayed = last_transaction.filter(|_| matches!(stop, Stop::EndOfWal { at } if at == stored_to));
        notes.extend(self.known.notes());
        let loss = self.loss(segments, backup, &stop, end, last_transaction).await?;
        let segments = self.needed(&stretch.segments, backup);
        let replayed = replayed(&stop, &segments, &index, backup.start.lsn, self.log.size);
        let plan = RestorePlan {
            backup: backup.clone(),
            target: self.wish.target.clone(),
            timeline: self.history.timeline(),
            replayed,
            indexed: segments[..replayed].iter().filter(|name| index.entry(**name).is_some()).count(),
            contents: Contents::default(),
            loss,
            stop,
            segments,
            last_record,
            without_history: self.known.without_history(),
            histories: self.known.histories.iter().map(TimelineHistory::timeline).collect(),
            last_transaction,
            last_replayed,
            epoch_ended: self.known.ended,
            notes,
        };
        Ok(Some((plan, index)))
    }

    /// What lies between the stop and `end`, the end of the stored log.
    async fn loss(
        &self,
        segments: &[SegmentName],
        backup: &BackupDocument,
        stop: &Stop,
        end: Lsn,
        last_stored: Option<Timestamp>,
    ) -> Result<Loss, RestoreError> {
        let (stops_at, around) = match stop {
            Stop::EndOfWal { at } => (Some(*at), (last_stored, None)),
            Stop::Time(_) | Stop::Name(_) => (None, (None, None)),
            // It is told for people to know; what does not open behind the place keeps nobody from restoring to it.
            Stop::Before(lsn) => match self.log.ends_around(segments, *lsn).await {
                Err(e) if is_spoiled(&e) => (Some(*lsn), (None, None)),
                around => (Some(*lsn), around?),
            },
            Stop::Consistent => (Some(backup.stop.lsn), (None, None)),
        };
        let covered = self.known.coverage.as_ref().filter(|c| c.timeline == self.history.timeline() && c.lsn <= end.plus(PAGE_HEADER_MAX));
        Ok(Loss {
            stops_at,
            stored_to: end,
            bytes: stops_at.map(|at| end.bytes().saturating_sub(at.bytes())),
            last_kept: around.0,
            first_lost: around.1,
            last_stored,
            covered_until: covered.map(|c| c.time),
        })
    }

    /// How recovery ends once everything up to `lsn` is replayed, and nothing else.
    async fn stop_after(
        &self,
        segments: &[SegmentName],
        backup: &BackupDocument,
        lsn: Lsn,
        to_the_end: Stop,
        cut_at: impl Fn(Lsn) -> RestoreError,
    ) -> Result<Stop, RestoreError> {
        match self.log.stop_before(segments, backup.start.lsn, lsn).await? {
            Found::Yes(before) => Ok(Stop::Before(before)),
            Found::No => Ok(to_the_end),
            Found::NotBefore(valid_to) => Err(cut_at(valid_to)),
        }
    }

    /// A restore to the end of a backup needs no WAL beyond it; all others may need all that is stored.
    fn needed(&self, segments: &[SegmentName], backup: &BackupDocument) -> Vec<SegmentName> {
        let last = match self.wish.target {
            RecoveryTarget::Immediate => SegmentName::ending_at(backup.stop.lsn, self.history.timeline(), self.log.size).number(self.log.size),
            _ => u64::MAX,
        };
        segments.iter().copied().filter(|s| s.number(self.log.size) <= last).collect()
    }

    /// Up to where the log was valid once, on this very timeline: the server had come so far when the mark was written.
    fn promised(&self) -> Option<Lsn> {
        self.known.coverage.as_ref().filter(|c| c.timeline == self.history.timeline()).map(|c| c.lsn)
    }

    /// Whether everything that the server had promised anybody until `at` is stored, `end` being the end of what is.
    fn covered(&self, at: Timestamp, end: Lsn) -> bool {
        let on_path = |c: &Coverage| c.timeline == self.history.timeline() && c.time >= at;
        self.known.coverage.as_ref().is_some_and(|c| on_path(c) && c.lsn <= end)
    }

    /// The error that says which instants can be reached.
    pub(crate) async fn unreachable(&self, why: String) -> Result<RestoreError, RestoreError> {
        let window = match self.window().await? {
            Some(window) => format!("What can be restored: {window}."),
            None => format!("No backup lies on timeline {}.", self.history.timeline()),
        };
        Ok(RestoreError::Unreachable { target: self.wish.target.to_string(), why, window })
    }

    /// From when to when this timeline can be restored; `None` when no backup lies on it.
    pub(crate) async fn window(&self) -> Result<Option<String>, RestoreError> {
        let mut on_path: Vec<_> = self.known.backups.iter().filter(|b| self.history.holds(b.timeline, b.stop.lsn)).collect();
        on_path.sort_by_key(|b| b.stop.lsn);
        let (Some(oldest), Some(newest)) = (on_path.first(), on_path.last()) else { return Ok(None) };
        let stretch = reach::stretch(&self.history, &self.known.view, newest.start.lsn, self.known.proof(&self.history));
        let latest = match stretch.segments.is_empty() {
            true => format!("{} ({})", newest.stop.time, newest.stop.lsn),
            false => {
                let (lsn, at) = self.log.end(&stretch.segments).await?;
                let on_timeline = |c: &&Coverage| c.timeline == self.history.timeline() && c.lsn <= stretch.end;
                let covered = self.known.coverage.as_ref().filter(on_timeline).map(|c| c.time);
                let until = covered.max(at).map_or_else(|| newest.stop.time.to_string(), |t| t.to_string());
                format!("{until} ({lsn})")
            }
        };
        Ok(Some(format!("{} ({}) to {latest}, on timeline {}", oldest.stop.time, oldest.stop.lsn, self.history.timeline())))
    }
}

fn acts_at_once(between: &str, quiet: Lsn) -> String {
    format!(
        "Between {between} the log holds what takes effect without a commit, as the files that DROP DATABASE removes: recovery stops at \
         {quiet}, right behind the former."
    )
}
