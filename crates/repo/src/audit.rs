//! Whether the stored log is whole from the oldest kept backup on, and what each gap makes unreachable. Pure: listings and the
//! index in, a verdict out.

use crate::reach::Path;
use crate::{BackupDocument, Coverage, ExpiryState, WalIndex};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use terms::{BackupId, Lsn, SegmentName, SegmentSize, Timeline, Timestamp};

/// Everything an audit judges by; all of one cluster.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// All that are listed, in any order.
    pub backups: &'a [BackupDocument],
    /// Of this cluster.
    pub segment_bytes: SegmentSize,
    /// Every whole segment that a listing shows, and the bytes it is stored in.
    pub stored: &'a BTreeMap<SegmentName, u64>,
    /// The way to each timeline of which anything is stored.
    pub paths: &'a [Path],
    /// What is known of the segments that were surveyed.
    pub index: &'a WalIndex,
    /// The cluster's mark; absent when no receiver ever left one.
    pub coverage: Option<&'a Coverage>,
    /// What retention let go; absent when it never ran.
    pub expiry: Option<&'a ExpiryState>,
}

impl Evidence<'_> {
    fn is_let_go(&self, segment: SegmentName) -> bool {
        let system_id = self.backups.first().map(|backup| backup.system_id);
        self.expiry.zip(system_id).is_some_and(|(state, system_id)| state.lets_go(system_id, segment, self.segment_bytes))
    }
}

/// What an audit found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Audit {
    /// The oldest backup from which every instant is wanted: continuity is asked for from its start on. Absent when there is no backup.
    /// Of older ones that retention keeps only what they need themselves is asked for.
    pub from: Option<From>,
    /// How far the newest timeline is stored.
    pub to: Option<To>,
    /// How many segments recovery may ask for.
    pub segments: u64,
    /// Stretches of the log that are not stored.
    pub gaps: Vec<Gap>,
    /// Stored, and not the bytes that the index was made from.
    pub size_mismatches: Vec<SizeMismatch>,
    /// Stored, and PostgreSQL cannot replay them.
    pub damaged: Vec<DamagedStretch>,
    /// Stored, and not all of what they hold is known: nothing but their presence is proven.
    pub unindexed: Vec<SegmentName>,
    /// Timelines of which WAL is stored that no backup leads to.
    pub without_backup: Vec<Timeline>,
}

/// Where continuity is asked for from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct From {
    /// The oldest one that reaches on.
    pub backup: BackupId,
    /// The one on which it was made.
    pub timeline: Timeline,
    /// Its start: the redo position of its checkpoint.
    pub lsn: Lsn,
    /// No earlier instant can be restored.
    pub time: Timestamp,
}

/// Where the stored log ends.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct To {
    /// The newest one that a backup leads to.
    pub timeline: Timeline,
    /// The end of the last segment that is stored whole.
    pub lsn: Lsn,
    /// The coverage mark's time, or the latest end of a transaction that is indexed.
    pub time: Option<Timestamp>,
}

/// Consecutive segments of one timeline that are needed and are not stored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gap {
    /// Of both segments and all between.
    pub timeline: Timeline,
    /// The first one that is needed and not stored.
    pub first_missing: SegmentName,
    /// The last one; included.
    pub last_missing: SegmentName,
    /// Which instants it takes away, and who serves the others.
    pub unreachable: Unreachable,
}

/// Segments that are stored and cannot be replayed from a position on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DamagedStretch {
    /// The one in which the damage begins.
    pub first: SegmentName,
    /// The last one that the same broken record reaches into; included.
    pub last: SegmentName,
    /// Replay reaches this position and no further.
    pub at: Lsn,
    /// In the words of docs/format.md, or of the error by which it did not open.
    pub reason: String,
    /// Which instants it takes away, and who serves the others.
    pub unreachable: Unreachable,
}

/// The instants that cannot be restored because of one break in the log, and who still serves the others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Unreachable {
    /// From here on, this instant included; from the beginning when no backup serves what lies before.
    pub from: Option<Timestamp>,
    /// Up to here, this instant excluded; without end when no backup serves what follows.
    pub until: Option<Timestamp>,
    /// The backup that serves up to `from`.
    pub before: Option<BackupId>,
    /// The backup that serves from `until` on.
    pub after: Option<BackupId>,
    /// Backups that cannot be restored at all, since the break lies between their start and stop.
    pub broken: Vec<BackupId>,
    /// The break lies on the way to the newest instants, and no backup serves what follows: until one does, nothing later can be restored,
    /// whatever is stored. On a timeline that was left this is never so: no backup mends what follows there.
    pub is_last: bool,
}

/// A stored object of another size than the one that was indexed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SizeMismatch {
    /// Stored whole.
    pub segment: SegmentName,
    /// As the listing shows it now.
    pub bytes_stored: u64,
    /// As it was when the index was made.
    pub bytes_indexed: u64,
}

impl Audit {
    /// Whether the log was found whole, as far as it was looked at.
    pub fn is_whole(&self) -> bool {
        self.from.is_some() && self.gaps.is_empty() && self.damaged.is_empty() && self.size_mismatches.is_empty()
    }
    /// Whether it was found whole, and all of it was looked at.
    pub fn is_proven(&self) -> bool {
        self.is_whole() && self.unindexed.is_empty()
    }
}

/// Follows each path from the oldest backup on it to the end of what is stored, or must be.
pub fn audit(evidence: &Evidence<'_>) -> Audit {
    let reaches_on = |b: &&BackupDocument| evidence.expiry.is_none_or(|state| state.reaches_on_from(b));
    let oldest = evidence.backups.iter().filter(reaches_on).min_by_key(|b| (b.stop.time, b.id));
    let from = oldest.map(|b| From { backup: b.id, timeline: b.timeline, lsn: b.start.lsn, time: b.stop.time });
    let mut audit = Audit { from, ..Audit::default() };
    let mut paths: Vec<&Path> = evidence.paths.iter().collect();
    // What lies on several paths is told from the newest: that is the one that people restore along.
    paths.sort_by_key(|path| std::cmp::Reverse(path.timeline()));
    let mut seen = BTreeSet::new();
    for path in paths {
        let Some(walk) = Walk::along(path, evidence) else {
            audit.without_backup.push(path.timeline());
            continue;
        };
        let leads_on = audit.to.is_none();
        if leads_on {
            audit.to = Some(walk.to());
        }
        walk.judge(leads_on, &mut audit, &mut seen);
    }
    audit.gaps.sort_by_key(|gap| gap.first_missing);
    audit.damaged.sort_by_key(|stretch| stretch.first);
    audit.size_mismatches.sort_by_key(|mismatch| mismatch.segment);
    audit.unindexed.sort();
    audit.without_backup.sort();
    audit
}

/// One path, from the oldest backup on it.
struct Walk<'a> {
    evidence: &'a Evidence<'a>,
    path: &'a Path,
    backups: Vec<&'a BackupDocument>,
    /// By number, both ends included.
    first: u64,
    last: u64,
}

/// A place that no replay passes.
struct Break {
    first: SegmentName,
    last: SegmentName,
    /// Replay reaches this position and no further.
    cut: Lsn,
    /// A backup that begins here or later does not need what is broken.
    passed: Lsn,
    reason: Option<String>,
}

impl<'a> Walk<'a> {
    fn along(path: &'a Path, evidence: &'a Evidence<'a>) -> Option<Self> {
        let size = evidence.segment_bytes;
        let backups: Vec<&BackupDocument> = evidence.backups.iter().filter(|b| path.holds(b.timeline, b.stop.lsn)).collect();
        let first = backups.iter().map(|b| b.start.lsn.bytes() / size.bytes()).min()?;
        let of_backups = backups.iter().map(|b| SegmentName::ending_at(b.stop.lsn, b.timeline, size).number(size));
        // A whole segment lies below a position when it ends at or before it.
        let below = |lsn: Lsn| (lsn.bytes() / size.bytes()).checked_sub(1);
        let forked = path.branches().last().and_then(|branch| below(branch.from));
        let covered = evidence.coverage.filter(|c| c.timeline == path.timeline()).and_then(|c| below(c.lsn));
        let last = of_backups.chain(forked).chain(covered).chain(last_stored(path, evidence)).max()?;
        Some(Self { evidence, path, backups, first, last })
    }

    fn to(&self) -> To {
        let size = self.evidence.segment_bytes;
        let stored = last_stored(self.path, self.evidence).map_or(0, |number| number + 1);
        let covered = self.evidence.coverage.filter(|c| c.timeline == self.path.timeline()).map(|c| c.time);
        let lsn = Lsn::from_bytes(stored * size.bytes());
        To { timeline: self.path.timeline(), lsn, time: covered.max(self.latest_end(self.first, stored)) }
    }

    fn segments(&self) -> impl Iterator<Item = SegmentName> + '_ {
        let all = (self.first..=self.last).map(|number| self.path.segment(number, self.evidence.segment_bytes));
        // What is there is looked at, wanted or not.
        all.filter(|segment| self.evidence.stored.contains_key(segment) || !self.evidence.is_let_go(*segment))
    }

    /// `leads_on`: it is the way to the newest instants.
    fn judge(&self, leads_on: bool, audit: &mut Audit, seen: &mut BTreeSet<SegmentName>) {
        let evidence = self.evidence;
        for segment in self.segments().filter(|segment| !seen.contains(segment)) {
            audit.segments += 1;
            let Some(bytes_stored) = evidence.stored.get(&segment).copied() else { continue };
            let Some(entry) = evidence.index.entry(segment) else {
                audit.unindexed.push(segment);
                continue;
            };
            if entry.bytes_stored != bytes_stored {
                audit.size_mismatches.push(SizeMismatch { segment, bytes_stored, bytes_indexed: entry.bytes_stored });
            }
            // What the end of the log left open can be known once the log goes on.
            let next = self.path.segment(segment.number(evidence.segment_bytes) + 1, evidence.segment_bytes);
            if entry.open.is_some() && evidence.stored.contains_key(&next) {
                audit.unindexed.push(segment);
            }
        }
        let breaks = self.breaks();
        for here in &breaks {
            // The part of it that another path told of already.
            if seen.contains(&here.first) && seen.contains(&here.last) {
                continue;
            }
            let unreachable = self.unreachable(here, &breaks, leads_on);
            match &here.reason {
                None => {
                    let (timeline, first_missing, last_missing) = (here.first.timeline(), here.first, here.last);
                    audit.gaps.push(Gap { timeline, first_missing, last_missing, unreachable });
                }
                Some(reason) => {
                    let (first, last, at, reason) = (here.first, here.last, here.cut, reason.clone());
                    audit.damaged.push(DamagedStretch { first, last, at, reason, unreachable });
                }
            }
        }
        seen.extend(self.segments());
    }

    /// In the order of the log.
    fn breaks(&self) -> Vec<Break> {
        let size = self.evidence.segment_bytes;
        let mut breaks: Vec<Break> = Vec::new();
        for segment in self.segments() {
            let (cut, reason) = match self.evidence.stored.contains_key(&segment) {
                false => (segment.start(size), None),
                true => match self.evidence.index.entry(segment).and_then(|entry| entry.damaged.as_ref()) {
                    Some(damage) => (damage.at, Some(damage.reason.clone())),
                    None => continue,
                },
            };
            match breaks.last_mut() {
                // The next one missing, or the next one that the same record reaches into.
                Some(before)
                    if before.last.next(size) == segment
                        && before.reason.is_some() == reason.is_some()
                        && (reason.is_none() || before.cut == cut) =>
                {
                    before.last = segment;
                    before.passed = segment.end(size);
                }
                _ => breaks.push(Break { first: segment, last: segment, cut, passed: segment.end(size), reason }),
            }
        }
        breaks
    }

    fn unreachable(&self, here: &Break, breaks: &[Break], leads_on: bool) -> Unreachable {
        let size = self.evidence.segment_bytes;
        let is_hit = |b: &BackupDocument, by: &Break| b.start.lsn < by.passed && b.stop.lsn > by.cut;
        let intact = || self.backups.iter().filter(|b| !breaks.iter().any(|by| is_hit(b, by)));
        let before = intact().filter(|b| b.stop.lsn <= here.cut).max_by_key(|b| (b.stop.lsn, b.id));
        let after = intact().filter(|b| b.start.lsn >= here.passed).min_by_key(|b| (b.stop.lsn, b.id));
        let from = before.map(|b| {
            // An earlier break may be what ends that backup's reach, or what separates it from the backups before it.
            let reach = breaks.iter().map(|by| by.cut).filter(|cut| *cut >= b.stop.lsn).min().unwrap_or(here.cut);
            let clear_from = breaks.iter().map(|by| by.passed).filter(|passed| *passed <= b.start.lsn).max();
            let first = intact().map(|b| b.start.lsn).filter(|start| clear_from.is_none_or(|clear| *start >= clear)).min().unwrap_or(b.start.lsn);
            let end = reach.bytes().div_ceil(size.bytes());
            // A transaction that ended later must be there to stop before it.
            self.latest_end(first.bytes() / size.bytes(), end).unwrap_or(b.stop.time)
        });
        Unreachable {
            from,
            until: after.map(|b| b.stop.time),
            before: before.map(|b| b.id),
            after: after.map(|b| b.id),
            broken: self.backups.iter().filter(|b| is_hit(b, here)).map(|b| b.id).collect(),
            is_last: leads_on && after.is_none(),
        }
    }

    /// The latest end of a transaction indexed in the segments of the path from `first` up to `end`, which is excluded.
    fn latest_end(&self, first: u64, end: u64) -> Option<Timestamp> {
        let entry = |number| self.evidence.index.entry(self.path.segment(number, self.evidence.segment_bytes));
        (first..end).filter_map(|number| entry(number)?.max_end).max()
    }
}

/// The number of the last stored segment that recovery along this path would ask for.
fn last_stored(path: &Path, evidence: &Evidence<'_>) -> Option<u64> {
    let size = evidence.segment_bytes;
    let on_branch = |at: usize| {
        let branch = path.branches()[at];
        let first = branch.from.bytes() / size.bytes();
        // The segment in which the next branch begins is read from there.
        let end = path.branches().get(at + 1).map_or(u64::MAX / size.bytes(), |next| next.from.bytes() / size.bytes());
        let name = |number| SegmentName::numbered(number, branch.timeline, size);
        let span = (first < end).then(|| evidence.stored.range(name(first)..name(end)))?;
        span.map(|(segment, _)| segment.number(size)).next_back()
    };
    (0..path.branches().len()).filter_map(on_branch).max()
}
