//! Which snapshots of the application's objects are kept, and why: those that an instant may need to which the database can be restored. Pure.

use super::{Candidate, Reason, RetentionPlan, RetentionPolicy, Verdict};
use crate::SnapshotDocument;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use terms::{BackupId, Day, Month, Timestamp};

/// A listed snapshot, and why somebody wants it kept, if somebody does.
#[derive(Debug, Clone)]
pub struct SnapshotCandidate {
    /// As it is listed.
    pub snapshot: SnapshotDocument,
    /// The reason that was given; `None`: nobody does.
    pub held: Option<String>,
    /// Why it is not believed to be a snapshot of this repository, made when it says; it is kept, and takes nobody's place.
    pub aside: Option<String>,
}

/// The instants to which a database can be restored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reachable {
    /// From here on every one.
    pub from: Option<Timestamp>,
    /// And those at which the other backups end that are kept.
    pub ends: Vec<End>,
}

/// The end of a backup. Whoever restores to it asks for the objects as of its last change, and that is anywhere between these two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct End {
    /// The one that ends there.
    pub backup: BackupId,
    /// No later than its start, by the server's clock.
    pub start: Timestamp,
    /// No earlier than its stop, by the server's clock.
    pub stop: Timestamp,
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotVerdict {
    /// The one that is judged.
    pub snapshot: BackupId,
    /// Whose objects it holds, by their address.
    pub source: String,
    /// When it was begun, by the clock of the host that made it.
    pub at: Timestamp,
    /// Why it is kept; empty: it may go.
    pub kept: Vec<Reason>,
    /// The newest snapshot that is kept and refers to objects in this one's packs: as long as there is one, the packs stay.
    pub needed_by: Option<BackupId>,
}

/// Which snapshots are kept, which may go, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SnapshotPlan {
    /// Oldest first.
    pub verdicts: Vec<SnapshotVerdict>,
}

impl RetentionPlan {
    /// The instants to which those of these backups can be restored that stay; `None` where there is no backup: then nobody knows any.
    pub fn reachable(&self, candidates: &[Candidate], stays: impl Fn(&Verdict) -> bool) -> Option<Reachable> {
        let mut found = Reachable::default();
        for verdict in self.verdicts.iter().filter(|verdict| stays(verdict)) {
            let Some(backup) = candidates.iter().map(|candidate| &candidate.backup).find(|backup| backup.id == verdict.backup) else { continue };
            let end = End { backup: backup.id, start: backup.start.time, stop: backup.stop.time };
            let is_window = self.wal.iter().any(|kept| kept.system_id == backup.system_id && kept.reaches_on_from(backup));
            match is_window {
                true => found.from = Some(found.from.map_or(end.start, |from| from.min(end.start))),
                false => found.ends.push(end),
            }
        }
        (!self.verdicts.is_empty()).then_some(found)
    }
}

impl SnapshotPlan {
    /// Plans for these snapshots, in any order. Where it is not known to which instants the database can be restored, the calendar decides
    /// as it does for backups. `only`: snapshots of other buckets are not ours to judge.
    pub fn new(policy: &RetentionPolicy, candidates: &[SnapshotCandidate], reachable: Option<&Reachable>, only: Option<&str>) -> Self {
        let mut sources: BTreeMap<&str, Vec<&SnapshotDocument>> = BTreeMap::new();
        let mut kept: BTreeMap<BackupId, Vec<Reason>> = BTreeMap::new();
        for SnapshotCandidate { snapshot, held, aside } in candidates {
            if aside.is_none() {
                sources.entry(&snapshot.source).or_default().push(snapshot);
            }
            let unproven = aside.iter().cloned().map(Reason::Unproven);
            kept.insert(snapshot.id, unproven.chain(held.iter().cloned().map(Reason::Held)).collect());
        }
        let mut keep = |id: BackupId, reason: Reason| kept.entry(id).or_default().push(reason);
        for (source, mut own) in sources {
            // A name is never younger than one that was made before it, whatever the clock said.
            own.sort_by_key(|snapshot| snapshot.id);
            if only.is_some_and(|only| only != source) {
                own.iter().for_each(|snapshot| keep(snapshot.id, Reason::OtherSource));
                continue;
            }
            own.last().iter().for_each(|newest| keep(newest.id, Reason::Newest));
            match reachable {
                Some(reachable) => needed(reachable, &own).into_iter().for_each(|(id, reason)| keep(id, reason)),
                None => by_calendar(policy, &own).into_iter().for_each(|(id, reason)| keep(id, reason)),
            }
        }
        // Its needs are all of a snapshot's: where an object was stored first is carried from one to the next. So nothing follows from
        // the needs of one that is needed.
        let mut needed_by: BTreeMap<BackupId, BackupId> = BTreeMap::new();
        let stays = |candidate: &&SnapshotCandidate| kept.get(&candidate.snapshot.id).is_some_and(|reasons| !reasons.is_empty());
        for SnapshotCandidate { snapshot, .. } in candidates.iter().filter(stays) {
            for need in &snapshot.needs {
                let newest = needed_by.entry(*need).or_insert(snapshot.id);
                *newest = snapshot.id.max(*newest);
            }
        }
        let mut verdict = |candidate: &SnapshotCandidate| {
            let SnapshotDocument { id, source, began, .. } = &candidate.snapshot;
            let (kept, needed_by) = (kept.remove(id).unwrap_or_default(), needed_by.get(id).copied());
            SnapshotVerdict { snapshot: *id, source: source.clone(), at: *began, kept, needed_by }
        };
        let mut verdicts: Vec<SnapshotVerdict> = candidates.iter().map(&mut verdict).collect();
        verdicts.sort_by_key(|verdict| verdict.snapshot);
        Self { verdicts }
    }

    /// The snapshots that may go, oldest first.
    pub fn expired(&self) -> impl Iterator<Item = BackupId> {
        self.verdicts.iter().filter(|verdict| verdict.kept.is_empty()).map(|verdict| verdict.snapshot)
    }
}

/// What a restore to one of these instants asks for: the newest snapshot that began no later, and the oldest one that began after it.
fn needed(reachable: &Reachable, own: &[&SnapshotDocument]) -> Vec<(BackupId, Reason)> {
    let before = |at: Timestamp| own.iter().rev().find(|snapshot| snapshot.began <= at).map(|snapshot| snapshot.id);
    let mut found = Vec::new();
    if let Some(from) = reachable.from {
        let later = own.iter().filter(|snapshot| snapshot.began > from).map(|snapshot| snapshot.id);
        found.extend(before(from).into_iter().chain(later).map(|id| (id, Reason::Window(from))));
    }
    for End { backup, start, stop } in &reachable.ends {
        let between = own.iter().filter(|snapshot| snapshot.began > *start && snapshot.began <= *stop).map(|snapshot| snapshot.id);
        let after = own.iter().find(|snapshot| snapshot.began > *stop).map(|snapshot| snapshot.id);
        found.extend(before(*start).into_iter().chain(between).chain(after).map(|id| (id, Reason::EndOf(*backup))));
    }
    found
}

/// All of the most recent days that have one, the first of each of the most recent months, and the newest few.
fn by_calendar(policy: &RetentionPolicy, own: &[&SnapshotDocument]) -> Vec<(BackupId, Reason)> {
    let day = |snapshot: &SnapshotDocument| policy.zone.day(snapshot.began);
    let days: BTreeSet<Day> = own.iter().map(|snapshot| day(snapshot)).collect();
    let recent: BTreeSet<Day> = days.into_iter().rev().take(policy.daily).collect();
    let mut months: BTreeMap<Month, BackupId> = BTreeMap::new();
    for snapshot in own {
        months.entry(day(snapshot).month()).or_insert(snapshot.id);
    }
    let of_day = own.iter().filter(|snapshot| recent.contains(&day(snapshot))).map(|snapshot| (snapshot.id, Reason::RecentDay(day(snapshot))));
    let of_month = months.into_iter().rev().take(policy.monthly).map(|(month, id)| (id, Reason::Monthly(month)));
    let minimum = policy.minimum.max(1);
    let few = own.iter().rev().take(minimum).map(|snapshot| (snapshot.id, Reason::Minimum(minimum)));
    of_day.chain(of_month).chain(few).collect()
}
