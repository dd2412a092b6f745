//! Laws of the retention of snapshots, over histories of a bucket and of the backups of its database.

use crate::archive::document;
use proptest::collection::vec;
use proptest::prelude::*;
use repo::retention::{Candidate, RetentionPlan, RetentionPolicy, SnapshotCandidate, SnapshotPlan};
use repo::{BackupDocument, Encryption, SnapshotDocument, WalPosition};
use seal::RepositoryId;
use std::collections::{BTreeMap, BTreeSet};
use terms::{BackupId, BackupKind, Lsn, Month, SystemId, Timestamp};

const MINUTE: i64 = 60_000_000;
const BEGIN: Timestamp = Timestamp::from_unix_micros(1_795_000_000_000_000);
const SOURCES: [&str; 2] = ["s3://app", "file:///srv/app"];

/// What happens next.
#[derive(Debug, Clone)]
struct Step {
    /// After so many minutes.
    minutes: i64,
    /// A backup, which takes so many minutes.
    backup: Option<i64>,
    /// A snapshot of this source; so many objects came since the last one, and these went.
    snapshot: Option<(usize, usize, Vec<usize>)>,
    /// Somebody holds the newest backup or snapshot, or lets go of everything.
    holds_backup: bool,
    holds_snapshot: bool,
    lets_go: bool,
    upgrade: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let snapshot = (prop_oneof![9 => Just(0usize), 1 => Just(1usize)], 0usize..4, vec(any::<usize>(), 0..4));
    (1i64..1500, prop::option::weighted(0.4, 1i64..600), prop::option::weighted(0.8, snapshot), any::<[u8; 4]>()).prop_map(
        |(minutes, backup, snapshot, [a, b, c, d])| Step {
            minutes,
            backup,
            snapshot,
            holds_backup: a < 8,
            holds_snapshot: b < 8,
            lets_go: c < 12,
            upgrade: d < 3,
        },
    )
}

/// A repository and the bucket that it keeps snapshots of.
struct World {
    policy: RetentionPolicy,
    now: Timestamp,
    backups: Vec<Candidate>,
    chosen: BTreeMap<Month, BackupId>,
    lsn: u64,
    system: u64,
    /// Each object of each source, by the snapshot that stored it; `None` until one did.
    objects: BTreeMap<&'static str, Vec<Option<BackupId>>>,
    listed: Vec<SnapshotCandidate>,
    /// Every snapshot that there ever was.
    ever: Vec<SnapshotDocument>,
    /// Those whose packs are there.
    packs: BTreeSet<BackupId>,
}

impl World {
    fn new(policy: RetentionPolicy) -> Self {
        let objects = SOURCES.map(|source| (source, Vec::new())).into();
        Self {
            policy,
            now: BEGIN,
            backups: Vec::new(),
            chosen: BTreeMap::new(),
            lsn: 0x100_0000,
            system: 1,
            objects,
            listed: Vec::new(),
            ever: Vec::new(),
            packs: BTreeSet::new(),
        }
    }

    fn pass(&mut self, step: &Step) {
        self.now = self.now.plus_micros(step.minutes * MINUTE);
        self.system += u64::from(step.upgrade);
        let began = self.now;
        if step.backup.is_some() {
            // Then the snapshot begins while the backup is made.
            self.now = self.now.plus_micros(MINUTE);
        }
        if let Some((source, came, went)) = &step.snapshot {
            self.snapshot(SOURCES[*source], *came, went);
        }
        if let Some(minutes) = step.backup {
            self.lsn += 0x1_0000;
            let position = |plus: u64, at| WalPosition { lsn: Lsn::from_bytes(self.lsn + plus), time: at };
            let (start, stop) = (position(0, began), position(0x1000, self.now.plus_micros(minutes * MINUTE)));
            let (system_id, id) = (SystemId::new(self.system), BackupId::begun(began));
            let backup = BackupDocument { system_id, start, stop, ..document(RepositoryId::random(), id) };
            self.backups.push(Candidate { backup, drilled: None, held: None, in_use: None, aside: None });
            self.now = stop.time;
        }
        if let Some(newest) = self.backups.last_mut().filter(|_| step.holds_backup) {
            newest.held = Some("an audit".into());
        }
        if let Some(newest) = self.listed.last_mut().filter(|_| step.holds_snapshot) {
            newest.held = Some("an audit".into());
        }
        if step.lets_go {
            self.backups.iter_mut().for_each(|candidate| candidate.held = None);
            self.listed.iter_mut().for_each(|candidate| candidate.held = None);
        }
    }

    fn snapshot(&mut self, source: &'static str, came: usize, went: &[usize]) {
        let objects = self.objects.get_mut(source).expect("a source");
        for index in went {
            if !objects.is_empty() {
                objects.swap_remove(index % objects.len());
            }
        }
        objects.extend(vec![None; came]);
        let id = BackupId::begun(self.now);
        let needs = objects.iter().flatten().copied().collect();
        objects.iter_mut().for_each(|object| *object = object.or(Some(id)));
        let (format, written_by) = SnapshotDocument::stamp();
        let snapshot = SnapshotDocument {
            format,
            id,
            kind: BackupKind::Packages,
            repository: RepositoryId::random(),
            source: source.to_owned(),
            began: self.now,
            ended: self.now.plus_micros(MINUTE / 2),
            objects: objects.len() as u64,
            bytes: 0,
            objects_new: came as u64,
            bytes_new: 0,
            bytes_stored: 0,
            packs: 1,
            encryption: Encryption::Off,
            key: None,
            needs,
            kept_versions: true,
            versions: None,
            written_by,
        };
        self.ever.push(snapshot.clone());
        self.packs.insert(id);
        self.listed.push(SnapshotCandidate { snapshot, held: None, aside: None });
    }

    fn plans(&self) -> (RetentionPlan, SnapshotPlan) {
        let backups = RetentionPlan::new(&self.policy, &self.backups, Some(SystemId::new(self.system)), &self.chosen);
        let reachable = backups.reachable(&self.backups, |verdict| !verdict.kept.is_empty());
        let snapshots = SnapshotPlan::new(&self.policy, &self.listed, reachable.as_ref(), None);
        (backups, snapshots)
    }

    /// Unlists, and removes at once what nothing that is listed refers to.
    fn carry_out(&mut self, backups: &RetentionPlan, snapshots: &SnapshotPlan) {
        let (gone, unlisted): (BTreeSet<_>, BTreeSet<_>) = (backups.expired().collect(), snapshots.expired().collect());
        self.backups.retain(|candidate| !gone.contains(&candidate.backup.id));
        self.chosen.clone_from(&backups.monthlies);
        self.listed.retain(|candidate| !unlisted.contains(&candidate.snapshot.id));
        let stays: BTreeSet<BackupId> =
            self.listed.iter().flat_map(|candidate| candidate.snapshot.needs.iter().copied().chain([candidate.snapshot.id])).collect();
        self.packs.retain(|id| stays.contains(id));
    }

    /// Asked for an instant a restore chooses among what is listed as it would among all that there ever were.
    fn serves(&self, at: Timestamp) {
        for source in SOURCES {
            let ever: Vec<&SnapshotDocument> = self.ever.iter().filter(|snapshot| snapshot.source == source).collect();
            let listed: Vec<&SnapshotDocument> =
                self.listed.iter().map(|candidate| &candidate.snapshot).filter(|snapshot| snapshot.source == source).collect();
            let choose = |all: &[&SnapshotDocument]| {
                let newest = all.iter().rev().find(|snapshot| snapshot.began <= at).map(|snapshot| snapshot.id);
                (newest, all.iter().find(|snapshot| snapshot.began > at).map(|snapshot| snapshot.id))
            };
            assert_eq!(choose(&listed), choose(&ever), "as of {at}, of {source}");
        }
    }

    fn holds_after(&self) {
        for SnapshotCandidate { snapshot, .. } in &self.listed {
            assert!(self.packs.contains(&snapshot.id), "{} is listed without its packs", snapshot.id);
            for need in &snapshot.needs {
                assert!(self.packs.contains(need), "{} lost what it needs of {need}", snapshot.id);
            }
        }
        for source in SOURCES {
            let newest = self.ever.iter().rfind(|snapshot| snapshot.source == source);
            assert!(newest.is_none_or(|newest| self.listed.iter().any(|candidate| candidate.snapshot.id == newest.id)), "the newest goes");
        }
    }
}

fn policy() -> impl Strategy<Value = RetentionPolicy> {
    let zone = prop_oneof![Just("UTC"), Just("Pacific/Auckland")].prop_map(|zone| zone.parse().unwrap());
    (1usize..9, 0usize..5, 0usize..5, zone).prop_map(|(daily, monthly, minimum, zone)| RetentionPolicy { daily, monthly, minimum, zone })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_instant_to_which_the_database_can_be_restored_loses_its_objects(steps in vec(step(), 1..150), policy in policy()) {
        let mut world = World::new(policy);
        let mut held = BTreeSet::new();
        for step in &steps {
            // Before the first backup the calendar decides, and what it lets go no backup of later asks for.
            world.pass(step);
            held.extend(world.listed.iter().filter(|candidate| candidate.held.is_some()).map(|candidate| candidate.snapshot.id));
            if step.lets_go {
                held.clear();
            }
            let (backups, snapshots) = world.plans();
            let reachable = backups.reachable(&world.backups, |verdict| !verdict.kept.is_empty());
            world.carry_out(&backups, &snapshots);
            world.holds_after();
            prop_assert!(held.iter().all(|id| world.listed.iter().any(|candidate| candidate.snapshot.id == *id)), "a held one goes");
            if let Some(reachable) = reachable {
                let mut instants: Vec<Timestamp> = reachable.ends.iter().flat_map(|end| [end.start, end.start.plus_micros(MINUTE / 3), end.stop]).collect();
                if let Some(from) = reachable.from {
                    instants.extend(world.ever.iter().flat_map(|s| [s.began, s.began.plus_micros(1), s.began.plus_micros(-1)]).chain([from, world.now]).filter(|at| *at >= from));
                }
                let first = world.backups.first().map(|first| first.backup.start.time);
                instants.into_iter().filter(|at| first.is_some_and(|first| *at >= first)).for_each(|at| world.serves(at));
            }
            let (backups, snapshots) = world.plans();
            prop_assert_eq!((backups.expired().count(), snapshots.expired().count()), (0, 0), "what stays once stays twice");
        }
    }

    #[test]
    fn without_a_backup_the_calendar_keeps_every_instant_of_the_recent_days(steps in vec(step(), 1..150), policy in policy()) {
        let mut world = World::new(policy);
        for step in &steps {
            world.pass(&Step { backup: None, ..step.clone() });
            let (backups, snapshots) = world.plans();
            world.carry_out(&backups, &snapshots);
            world.holds_after();
            for source in SOURCES {
                let own: Vec<&SnapshotDocument> = world.ever.iter().filter(|snapshot| snapshot.source == source).collect();
                let day = |snapshot: &SnapshotDocument| world.policy.zone.day(snapshot.began);
                let days: BTreeSet<_> = own.iter().map(|snapshot| day(snapshot)).collect();
                let is_listed = |id: BackupId| world.listed.iter().any(|candidate| candidate.snapshot.id == id);
                let recent: BTreeSet<_> = days.iter().rev().take(world.policy.daily).collect();
                prop_assert!(own.iter().filter(|snapshot| recent.contains(&day(snapshot))).all(|snapshot| is_listed(snapshot.id)));
                let mut months: BTreeMap<Month, BackupId> = BTreeMap::new();
                for snapshot in &own {
                    months.entry(day(snapshot).month()).or_insert(snapshot.id);
                }
                prop_assert!(months.values().rev().take(world.policy.monthly).all(|id| is_listed(*id)), "a month loses its first");
            }
            prop_assert_eq!(world.plans().1.expired().count(), 0);
        }
    }

    #[test]
    fn the_plan_does_not_depend_on_the_order_and_leaves_other_buckets_alone(steps in vec(step(), 1..60), policy in policy(), turn in any::<prop::sample::Index>()) {
        let mut world = World::new(policy);
        steps.iter().for_each(|step| world.pass(step));
        let (backups, snapshots) = world.plans();
        let mut turned = world.listed.clone();
        if !turned.is_empty() {
            let by = turn.index(turned.len());
            turned.rotate_left(by);
            turned.reverse();
        }
        let reachable = backups.reachable(&world.backups, |verdict| !verdict.kept.is_empty());
        prop_assert_eq!(&SnapshotPlan::new(&world.policy, &turned, reachable.as_ref(), None), &snapshots);
        let only = SnapshotPlan::new(&world.policy, &turned, reachable.as_ref(), Some(SOURCES[0]));
        prop_assert!(only.verdicts.iter().filter(|verdict| verdict.source != SOURCES[0]).all(|verdict| !verdict.kept.is_empty()));
        let own = |plan: &SnapshotPlan| plan.expired().filter(|id| world.listed.iter().any(|one| one.snapshot.id == *id && one.snapshot.source == SOURCES[0])).collect::<Vec<_>>();
        prop_assert_eq!(own(&only), own(&snapshots));
    }
}

#[test]
fn an_hourly_snapshot_for_ninety_days_leaves_a_month_of_them() {
    let mut world = World::new(RetentionPolicy { monthly: 2, ..RetentionPolicy::default() });
    let mut unneeded = 0;
    for hour in 0..90 * 24 {
        let snapshot = Some((0, 1, if hour < 48 { Vec::new() } else { vec![0] }));
        let backup = (hour % 24 == 2).then_some(10);
        world.pass(&Step {
            minutes: if backup.is_some() { 50 } else { 60 },
            backup,
            snapshot,
            holds_backup: false,
            holds_snapshot: false,
            lets_go: false,
            upgrade: false,
        });
        let (backups, snapshots) = world.plans();
        unneeded += snapshots.verdicts.iter().filter(|verdict| verdict.kept.is_empty() && verdict.needed_by.is_none()).count();
        world.carry_out(&backups, &snapshots);
    }
    // Thirty days of them, and two around the end of each of two monthlies.
    assert!((29 * 24..=31 * 24 + 4).contains(&world.listed.len()), "{} are listed", world.listed.len());
    assert!(unneeded > 0 && world.packs.len() < 40 * 24, "{} of {} keep their packs", world.packs.len(), world.ever.len());
}
