//! What is kept and what may go, and why. Pure: what is known of the backups in, a plan with a reason for each out.

mod snapshots;

pub use snapshots::{End, Reachable, SnapshotCandidate, SnapshotPlan, SnapshotVerdict};

use crate::BackupDocument;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use terms::{BackupId, Day, Lsn, Month, SystemId, Timeline, Timestamp, Zone};

/// No two time zones are further apart: 26 hours.
const ZONES_APART_MICROS: i64 = 26 * 3_600_000_000;

/// How much is kept.
#[derive(Debug, Clone)]
pub struct RetentionPolicy {
    /// So many of the most recent calendar days that have a backup keep one.
    pub daily: usize,
    /// So many of the most recent months that have a backup keep one.
    pub monthly: usize,
    /// So many of the newest backups are kept whatever the calendar says; at least one.
    pub minimum: usize,
    /// Whose days and months count.
    pub zone: Zone,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self { daily: 30, monthly: 12, minimum: 7, zone: Zone::default() }
    }
}

/// A listed backup and what is known of it beside its document.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// As it is listed.
    pub backup: BackupDocument,
    /// Its newest drill, and whether that passed; `None` when it was never drilled.
    pub drilled: Option<(Timestamp, bool)>,
    /// Why somebody wants it kept, if somebody does.
    pub held: Option<String>,
    /// A run that works with it now, such as a restore or a drill.
    pub in_use: Option<String>,
    /// Why it is not believed to be a backup of this repository, made when it says; it is kept, and takes nobody's place.
    pub aside: Option<String>,
}

impl Candidate {
    /// The instant by which the calendar counts it: when it was complete, by the server's clock.
    fn at(&self) -> Timestamp {
        self.backup.stop.time
    }
    /// Not known to be bad.
    fn is_good(&self) -> bool {
        self.drilled.is_none_or(|(_, passed)| passed) && self.backup.pages_damaged == 0
    }
}

/// Why a backup, or a snapshot of packages, is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// By the clock or by the present cluster's log; of snapshots the newest of its source.
    Newest,
    /// The one that this day keeps.
    Daily(Day),
    /// The one that this month keeps.
    Monthly(Month),
    /// One of so many newest.
    Minimum(usize),
    /// The newest that passed a drill.
    NewestProven,
    /// Somebody wants it kept, and said why.
    Held(String),
    /// A run may read it now; which one, in words.
    InUse(String),
    /// It is not believed to be of this repository, and why.
    Unproven(String),
    /// Of snapshots: an instant since then may need it.
    Window(Timestamp),
    /// The end of this backup may need it.
    EndOf(BackupId),
    /// It is of one of the most recent days.
    RecentDay(Day),
    /// It is of another bucket, for whose database somebody else speaks.
    OtherSource,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("the newest"),
            Self::Daily(day) => write!(f, "daily of {day}"),
            Self::Monthly(month) => write!(f, "monthly of {month}"),
            Self::Minimum(count) => write!(f, "one of the {count} newest"),
            Self::NewestProven => f.write_str("the newest that passed a drill"),
            Self::Held(why) => write!(f, "held: {why}"),
            Self::InUse(by) => write!(f, "in use by {by}"),
            Self::Unproven(why) => write!(f, "takes no place, not proven: {why}"),
            Self::Window(from) => write!(f, "for every instant since {from}"),
            Self::EndOf(backup) => write!(f, "for the end of backup {backup}"),
            Self::RecentDay(day) => write!(f, "of {day}, a recent day"),
            Self::OtherSource => f.write_str("of another bucket"),
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// What becomes of one backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The one that is judged.
    pub backup: BackupId,
    /// When it was complete, by the database server's clock.
    pub at: Timestamp,
    /// Why it is kept; empty: it may go.
    pub kept: Vec<Reason>,
}

/// A stretch of the log that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalKept {
    /// The cluster whose log it is.
    pub system_id: SystemId,
    /// `None`: on every timeline.
    pub timeline: Option<Timeline>,
    /// Included.
    pub from: Lsn,
    /// Not included; `None`: without an end.
    pub to: Option<Lsn>,
    /// For people.
    pub why: String,
}

/// What is kept, what may go, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetentionPlan {
    /// Oldest first.
    pub verdicts: Vec<Verdict>,
    /// They may overlap; log that none of them covers may go.
    pub wal: Vec<WalKept>,
    /// The choices of monthlies to be recorded: those that were made earlier, and those that are made now.
    pub monthlies: BTreeMap<Month, BackupId>,
}

impl RetentionPlan {
    /// Plans for these backups, in any order; `present` is the cluster that is protected now. `chosen` are the monthlies that were chosen earlier: a month keeps the one that it has,
    /// whatever comes or goes beside it.
    pub fn new(policy: &RetentionPolicy, candidates: &[Candidate], present: Option<SystemId>, chosen: &BTreeMap<Month, BackupId>) -> Self {
        let mut listed: Vec<&Candidate> = candidates.iter().collect();
        listed.sort_by_key(|candidate| (candidate.at(), candidate.backup.id));
        // What stands aside stays, and the others are planned for as if it were not there: whoever forges a backup gains nothing.
        let all: Vec<&Candidate> = listed.iter().copied().filter(|candidate| candidate.aside.is_none()).collect();
        let mut kept: BTreeMap<BackupId, Vec<Reason>> = BTreeMap::new();
        let mut keep = |candidate: &Candidate, reason: Reason| kept.entry(candidate.backup.id).or_default().push(reason);
        // By the clock, and by the log: a clock that was set back makes the newest backup look old.
        let own = all.iter().filter(|candidate| Some(candidate.backup.system_id) == present);
        let by_log = own.max_by_key(|candidate| candidate.backup.start.lsn).copied();
        let newest: BTreeMap<BackupId, &Candidate> =
            [all.last().copied(), by_log].into_iter().flatten().map(|newest| (newest.backup.id, newest)).collect();
        newest.into_values().for_each(|newest| keep(newest, Reason::Newest));
        let dailies = dailies(policy, &all);
        let is_short = dailies.len() < policy.daily || all.len() < policy.minimum.max(1);
        for daily in dailies {
            keep(daily, Reason::Daily(policy.zone.day(daily.at())));
        }
        let monthlies = monthlies(policy, &all, chosen);
        for (month, id) in &monthlies {
            if let Some(monthly) = all.iter().find(|candidate| candidate.backup.id == *id) {
                keep(monthly, Reason::Monthly(*month));
            }
        }
        let minimum = policy.minimum.max(1);
        all.iter().rev().take(minimum).for_each(|candidate| keep(candidate, Reason::Minimum(minimum)));
        let proven = all.iter().rev().find(|candidate| candidate.drilled.is_some_and(|(_, passed)| passed));
        if let Some(proven) = proven {
            keep(proven, Reason::NewestProven);
        }
        for candidate in &listed {
            candidate.aside.iter().for_each(|why| keep(candidate, Reason::Unproven(why.clone())));
            candidate.held.iter().for_each(|why| keep(candidate, Reason::Held(why.clone())));
            candidate.in_use.iter().for_each(|by| keep(candidate, Reason::InUse(by.clone())));
        }
        let verdict = |candidate: &&Candidate| {
            let id = candidate.backup.id;
            Verdict { backup: id, at: candidate.at(), kept: kept.get(&id).cloned().unwrap_or_default() }
        };
        let verdicts: Vec<Verdict> = listed.iter().map(verdict).collect();
        let wal = wal(&listed, &verdicts, is_short);
        Self { verdicts, wal, monthlies }
    }

    /// The backups that may go, oldest first.
    pub fn expired(&self) -> impl Iterator<Item = BackupId> {
        self.verdicts.iter().filter(|verdict| verdict.kept.is_empty()).map(|verdict| verdict.backup)
    }

    /// Whether the log of this timeline from `from` to `to`, as a segment or a piece holds it, is kept. Where no backup is, nothing may go:
    /// a repository that looks empty is no reason to remove anything.
    pub fn keeps_wal(&self, system_id: SystemId, timeline: Timeline, from: Lsn, to: Lsn) -> bool {
        self.verdicts.is_empty() || self.wal.iter().any(|kept| kept.covers(system_id, timeline, from, to))
    }
}

impl WalKept {
    /// Whether some of this stretch is kept.
    pub fn covers(&self, system_id: SystemId, timeline: Timeline, from: Lsn, to: Lsn) -> bool {
        self.system_id == system_id && self.timeline.is_none_or(|own| own == timeline) && to > self.from && self.to.is_none_or(|end| from < end)
    }

    /// Whether every instant after this backup of the same cluster is kept, rather than its own end alone.
    pub(crate) fn reaches_on_from(&self, backup: &BackupDocument) -> bool {
        self.timeline.is_none() && self.from <= backup.start.lsn
    }
}

/// Of each of the most recent days that have a backup the newest good one, or the newest one when none is good.
fn dailies<'a>(policy: &RetentionPolicy, all: &[&'a Candidate]) -> Vec<&'a Candidate> {
    let mut days: BTreeMap<Day, &Candidate> = BTreeMap::new();
    for candidate in all {
        let chosen = days.entry(policy.zone.day(candidate.at())).or_insert(candidate);
        if candidate.is_good() || !chosen.is_good() {
            *chosen = candidate;
        }
    }
    days.into_values().rev().take(policy.daily).collect()
}

/// Of each of the most recent months that have a backup the one that was chosen, or else the first good one, or the first.
fn monthlies(policy: &RetentionPolicy, all: &[&Candidate], chosen: &BTreeMap<Month, BackupId>) -> BTreeMap<Month, BackupId> {
    let mut months: BTreeMap<Month, Vec<&Candidate>> = BTreeMap::new();
    for candidate in all {
        months.entry(policy.zone.day(candidate.at()).month()).or_default().push(candidate);
    }
    // A choice holds for its month even when another time zone is configured now, and for no other month: choices are kept in the open, and
    // one for months to come would push out those that were.
    let listed: BTreeSet<BackupId> = all.iter().map(|candidate| candidate.backup.id).collect();
    let mut found: BTreeMap<Month, BackupId> = chosen.iter().filter(|(_, id)| listed.contains(id)).map(|(month, id)| (*month, *id)).collect();
    found.retain(|month, id| {
        let month_at = |at: Timestamp| policy.zone.day(at).month();
        let mut own = all.iter().filter(|candidate| candidate.backup.id == *id).map(|candidate| candidate.at());
        own.any(|at| (month_at(at.plus_micros(-ZONES_APART_MICROS))..=month_at(at.plus_micros(ZONES_APART_MICROS))).contains(month))
    });
    for (month, own) in months {
        let first = own.iter().find(|candidate| candidate.is_good()).or_else(|| own.first());
        if let Some(first) = first {
            found.entry(month).or_insert(first.backup.id);
        }
    }
    let most_recent: Vec<Month> = found.keys().rev().take(policy.monthly).copied().collect();
    found.retain(|month, _| most_recent.contains(month));
    found
}

/// All log from the start of each cluster's oldest daily on, so that every instant from its end on can be reached; and of each other backup
/// that is kept what it needs itself. What stands aside counts as a daily here while the others are fewer than are asked for (`is_short`),
/// or none of its cluster, and where it is younger than the oldest that counts, of whatever cluster: a manifest that is damaged may come back,
/// and then its log is wanted.
fn wal(all: &[&Candidate], verdicts: &[Verdict], is_short: bool) -> Vec<WalKept> {
    let of = |candidate: &Candidate| {
        verdicts.iter().find(|verdict| verdict.backup == candidate.backup.id).map(|verdict| &verdict.kept[..]).unwrap_or_default()
    };
    let is_calendar =
        |reason: &Reason| !matches!(reason, Reason::Monthly(_) | Reason::Held(_) | Reason::InUse(_) | Reason::NewestProven | Reason::Unproven(_));
    let believed: BTreeSet<SystemId> = all.iter().filter(|candidate| candidate.aside.is_none()).map(|candidate| candidate.backup.system_id).collect();
    let since = all.iter().filter(|candidate| of(candidate).iter().any(is_calendar)).map(|candidate| candidate.at()).min();
    let may_count = |candidate: &Candidate| {
        let is_within = is_short || !believed.contains(&candidate.backup.system_id) || since.is_some_and(|since| candidate.at() >= since);
        candidate.aside.is_some() && is_within
    };
    let counts = |candidate: &Candidate| of(candidate).iter().any(is_calendar) || may_count(candidate);
    let mut floors: BTreeMap<SystemId, &BackupDocument> = BTreeMap::new();
    for candidate in all.iter().filter(|candidate| counts(candidate)) {
        let floor = floors.entry(candidate.backup.system_id).or_insert(&candidate.backup);
        if candidate.backup.start.lsn < floor.start.lsn {
            *floor = &candidate.backup;
        }
    }
    let window = |(system_id, floor): (&SystemId, &&BackupDocument)| WalKept {
        system_id: *system_id,
        timeline: None,
        from: floor.start.lsn,
        to: None,
        why: format!("every instant from the end of {} on", floor.id),
    };
    let mut kept: Vec<WalKept> = floors.iter().map(window).collect();
    for candidate in all.iter().filter(|candidate| !of(candidate).is_empty()) {
        let backup = &candidate.backup;
        if floors.get(&backup.system_id).is_some_and(|floor| floor.start.lsn <= backup.start.lsn) {
            continue;
        }
        kept.push(WalKept {
            system_id: backup.system_id,
            timeline: Some(backup.timeline),
            from: backup.start.lsn,
            // The segment in which its last record ends is needed whole.
            to: Some(backup.stop.lsn.plus(1)),
            why: format!("start to stop of {}", backup.id),
        });
    }
    kept
}
