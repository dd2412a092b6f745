//! Laws of retention, over years of nights that go well, fail, or lie about the time.

use crate::archive::document;
use proptest::collection::vec;
use proptest::prelude::*;
use repo::retention::{Candidate, Reason, RetentionPlan, RetentionPolicy};
use repo::{BackupDocument, WalPosition};
use seal::RepositoryId;
use std::collections::{BTreeMap, BTreeSet};
use terms::{BackupId, Lsn, Month, SystemId, Timeline, Timestamp};

const DAY: i64 = 86_400_000_000;
const BEGIN: Timestamp = Timestamp::from_unix_micros(1_795_000_000_000_000);

fn backup(at: Timestamp, lsn: u64, system: u64) -> BackupDocument {
    let position = |plus: u64| WalPosition { lsn: Lsn::from_bytes(lsn + plus), time: at };
    let (start, stop) = (position(0), position(0x1000));
    BackupDocument { system_id: SystemId::new(system), start, stop, ..document(RepositoryId::random(), BackupId::begun(at)) }
}

/// What happens in one night.
#[derive(Debug, Clone)]
struct Night {
    /// Backups made, and when in the day each is.
    hours: Vec<i64>,
    /// A drill of the newest backup passes or fails.
    drill: Option<bool>,
    /// Somebody holds the newest backup, and lets go of all.
    holds: bool,
    lets_go: bool,
    /// A drill or a restore is under way while retention is planned.
    is_read: bool,
    /// The cluster is upgraded.
    upgrade: bool,
    /// The server's clock is wrong by so many days.
    off: i64,
}

fn night() -> impl Strategy<Value = Night> {
    let hours = prop_oneof![1 => Just(vec![]), 6 => vec(0i64..24, 1..2), 1 => vec(0i64..24, 2..4)];
    let drill = prop_oneof![8 => Just(None), 1 => Just(Some(true)), 1 => Just(Some(false))];
    let off = prop_oneof![40 => Just(0i64), 1 => -400i64..400];
    let rarely = prop::bool::weighted;
    (hours, drill, rarely(0.03), rarely(0.03), rarely(0.1), rarely(0.005), off)
        .prop_map(|(hours, drill, holds, lets_go, is_read, upgrade, off)| Night { hours, drill, holds, lets_go, is_read, upgrade, off })
}

/// A repository whose nights pass, one retention after each.
struct Years {
    policy: RetentionPolicy,
    present: Vec<Candidate>,
    chosen: BTreeMap<Month, BackupId>,
    lsn: u64,
    system: u64,
}

impl Years {
    fn pass(&mut self, number: i64, night: &Night) -> RetentionPlan {
        self.system += u64::from(night.upgrade);
        for hour in &night.hours {
            let at = BEGIN.plus_micros((number + night.off) * DAY + hour * DAY / 24);
            self.lsn += 0x1_0000;
            if self.present.iter().all(|known| known.backup.id != BackupId::begun(at)) {
                self.present.push(Candidate { backup: backup(at, self.lsn, self.system), drilled: None, held: None, in_use: None, aside: None });
            }
        }
        if let Some(newest) = self.present.iter_mut().max_by_key(|candidate| candidate.backup.stop.time) {
            newest.drilled = night.drill.map(|passed| (BEGIN.plus_micros(number * DAY), passed)).or(newest.drilled);
            newest.held = night.holds.then(|| "an audit".to_owned()).or(newest.held.take());
        }
        if night.lets_go {
            self.present.iter_mut().for_each(|candidate| candidate.held = None);
        }
        self.present.iter_mut().for_each(|candidate| candidate.in_use = night.is_read.then(|| "a drill".to_owned()));
        RetentionPlan::new(&self.policy, &self.present, Some(SystemId::new(self.system)), &self.chosen)
    }

    fn carry_out(&mut self, plan: &RetentionPlan) {
        let expired: BTreeSet<BackupId> = plan.expired().collect();
        self.present.retain(|candidate| !expired.contains(&candidate.backup.id));
        self.chosen.clone_from(&plan.monthlies);
    }

    fn days(&self) -> BTreeSet<terms::Day> {
        self.present.iter().map(|candidate| self.policy.zone.day(candidate.backup.stop.time)).collect()
    }
}

fn holds_after(years: &Years, plan: &RetentionPlan) {
    let kept: BTreeMap<BackupId, &Vec<Reason>> =
        plan.verdicts.iter().filter(|verdict| !verdict.kept.is_empty()).map(|verdict| (verdict.backup, &verdict.kept)).collect();
    let all = &years.present;
    let newest = all.iter().max_by_key(|candidate| (candidate.backup.stop.time, candidate.backup.id));
    let own = all.iter().filter(|candidate| candidate.backup.system_id == SystemId::new(years.system));
    for newest in newest.into_iter().chain(own.max_by_key(|candidate| candidate.backup.start.lsn)) {
        assert!(kept.contains_key(&newest.backup.id), "the newest goes");
    }
    assert!(kept.len() >= all.len().min(years.policy.minimum), "fewer than the minimum stay");
    let proven =
        all.iter().filter(|candidate| candidate.drilled.is_some_and(|(_, passed)| passed)).max_by_key(|candidate| candidate.backup.stop.time);
    assert!(proven.is_none_or(|proven| kept.contains_key(&proven.backup.id)), "the newest that was proven goes");
    for candidate in all.iter().filter(|candidate| candidate.held.is_some() || candidate.in_use.is_some()) {
        assert!(kept.contains_key(&candidate.backup.id), "one that is held, or read, goes");
    }
    // Each of the most recent days, and months, that have a backup keeps one.
    for day in years.days().iter().rev().take(years.policy.daily) {
        assert!(kept.values().any(|reasons| reasons.contains(&Reason::Daily(*day))), "{day} keeps none");
    }
    let months: BTreeSet<Month> = years.days().iter().map(|day| day.month()).collect();
    for month in months.iter().rev().take(years.policy.monthly) {
        assert!(plan.monthlies.get(month).is_some_and(|id| kept.contains_key(id)), "{month} keeps none");
    }
    // What was chosen stays chosen while its month counts.
    for (month, id) in years.chosen.iter().filter(|(_, id)| all.iter().any(|candidate| candidate.backup.id == **id)) {
        assert!(plan.monthlies.get(month).is_none_or(|now| now == id), "{month} changed its choice");
    }
    // Whatever stays has its own log, and all log stays from the oldest daily of its cluster on.
    for candidate in all.iter().filter(|candidate| kept.contains_key(&candidate.backup.id)) {
        let BackupDocument { system_id, timeline, start, stop, .. } = candidate.backup;
        for (from, to) in [(start.lsn, start.lsn.plus(1)), (stop.lsn, stop.lsn.plus(1))] {
            assert!(plan.keeps_wal(system_id, timeline, from, to), "{} loses its log", candidate.backup.id);
        }
        let is_daily = kept[&candidate.backup.id].iter().any(|reason| matches!(reason, Reason::Daily(_)));
        let later = stop.lsn.plus(1 << 40);
        let on_another = Timeline::new(7).expect("a timeline");
        assert!(!is_daily || plan.keeps_wal(system_id, on_another, later, later.plus(1)), "what follows a daily goes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_history_loses_what_must_stay(nights in vec(night(), 1..500), daily in 1usize..40, monthly in 0usize..14, minimum in 0usize..9, zone in 0usize..3) {
        let zone = ["UTC", "Europe/Berlin", "Pacific/Auckland"][zone].parse().unwrap();
        let policy = RetentionPolicy { daily, monthly, minimum, zone };
        let mut years = Years { policy, present: Vec::new(), chosen: BTreeMap::new(), lsn: 0x100_0000, system: 1 };
        for (number, night) in (0i64..).zip(&nights) {
            let plan = years.pass(number, night);
            holds_after(&years, &plan);
            years.carry_out(&plan);
            let again = RetentionPlan::new(&years.policy, &years.present, Some(SystemId::new(years.system)), &years.chosen);
            prop_assert_eq!(again.expired().count(), 0, "what stays after one retention stays after two");
        }
    }
}

#[test]
fn a_year_and_a_half_of_good_nights_keeps_thirty_dailies_and_twelve_monthlies() {
    let mut years = Years { policy: RetentionPolicy::default(), present: Vec::new(), chosen: BTreeMap::new(), lsn: 0x100_0000, system: 1 };
    let night = Night { hours: vec![2], drill: None, holds: false, lets_go: false, is_read: false, upgrade: false, off: 0 };
    for number in 0..550 {
        let plan = years.pass(number, &night);
        years.carry_out(&plan);
    }
    let plan = RetentionPlan::new(&years.policy, &years.present, Some(SystemId::new(years.system)), &years.chosen);
    let count = |is: fn(&Reason) -> bool| plan.verdicts.iter().filter(|verdict| verdict.kept.iter().any(is)).count();
    assert_eq!(count(|reason| matches!(reason, Reason::Daily(_))), 30);
    assert_eq!(count(|reason| matches!(reason, Reason::Monthly(_))), 12);
    assert!(years.present.len() <= 42, "{} stay", years.present.len());
    // Each monthly is the first of its month.
    let firsts = plan.monthlies.iter().filter(|(month, id)| id.to_string().starts_with(&format!("{}01T", month.to_string().replace('-', ""))));
    assert_eq!(firsts.count(), 12, "{:?}", plan.monthlies);
    // Whoever writes to the store writes choices for a year to come: they are nobody's months.
    let newest = years.present.iter().map(|candidate| candidate.backup.id).max().unwrap();
    let forged: BTreeMap<Month, BackupId> = (1..=12).map(|month| (format!("2099-{month:02}").parse().unwrap(), newest)).collect();
    let plan = RetentionPlan::new(&years.policy, &years.present, Some(SystemId::new(years.system)), &forged);
    assert_eq!((plan.expired().count(), &plan.monthlies), (0, &years.chosen));
}

#[test]
fn what_is_not_believed_stays_and_takes_nobodys_place_whatever_it_says() {
    let mut years = Years { policy: RetentionPolicy::default(), present: Vec::new(), chosen: BTreeMap::new(), lsn: 0x100_0000, system: 1 };
    let night = Night { hours: vec![2], drill: None, holds: false, lets_go: false, is_read: false, upgrade: false, off: 0 };
    (0..100).for_each(|number| drop(years.pass(number, &night)));
    let plan_of = |candidates: &[Candidate]| RetentionPlan::new(&years.policy, candidates, Some(SystemId::new(1)), &years.chosen);
    let without = plan_of(&years.present);
    // Forty that are to come, and one that was there before all others.
    let forged = |at: i64, lsn: u64| Candidate {
        backup: backup(BEGIN.plus_micros(at * DAY), lsn, 1),
        drilled: Some((BEGIN, true)),
        held: None,
        in_use: None,
        aside: Some("its manifest is damaged".to_owned()),
    };
    let aside: Vec<Candidate> = (0..40).map(|number| forged(1000 + number, 0x900_0000)).chain([forged(-1000, 0x10_0000)]).collect();
    let all: Vec<Candidate> = years.present.iter().chain(&aside).cloned().collect();
    let plan = plan_of(&all);
    assert!(without.expired().count() > 0 && plan.expired().eq(without.expired()), "{:?}", plan.verdicts);
    assert_eq!(plan.monthlies, without.monthlies);
    let unproven = [Reason::Unproven("its manifest is damaged".to_owned())];
    let is_aside = |id: BackupId| aside.iter().any(|candidate| candidate.backup.id == id);
    assert!(plan.verdicts.iter().filter(|verdict| is_aside(verdict.backup)).all(|verdict| verdict.kept == unproven), "{:?}", plan.verdicts);
    // The window begins where it began; the old one keeps its own log, and none after it.
    assert!(without.wal.iter().all(|kept| plan.wal.contains(kept)), "{:#?}", plan.wal);
    let keeps =
        |plan: &RetentionPlan, lsn: u64| plan.keeps_wal(SystemId::new(1), Timeline::FIRST, Lsn::from_bytes(lsn), Lsn::from_bytes(lsn + 0x100));
    assert!(keeps(&plan, 0x10_0000) && !keeps(&without, 0x10_0000) && !keeps(&plan, 0x20_0000));
    // While there are fewer days than are asked for, it may be one of them.
    let few: Vec<Candidate> = years.present.iter().rev().take(20).chain(&aside).cloned().collect();
    assert!(keeps(&plan_of(&few), 0x20_0000), "{:#?}", plan_of(&few).wal);
    // Where nothing else is left of a cluster its log waits for what may yet be mended.
    let alone = plan_of(&aside);
    assert!(alone.expired().next().is_none() && keeps(&alone, 0x10_0000) && keeps(&alone, 0x5000_0000), "{:#?}", alone.wal);
}

#[test]
fn no_log_goes_by_which_what_is_not_believed_now_could_be_gone_on_from() {
    let night = |number: i64, lsn: u64, system: u64| Candidate {
        // The other cluster's an hour earlier.
        backup: backup(BEGIN.plus_micros(number * DAY + if system == 1 { 3_600_000_000 } else { 0 }), lsn, system),
        drilled: None,
        held: None,
        in_use: None,
        aside: None,
    };
    let aside = |candidates: &[Candidate], which: usize| {
        let mut all = candidates.to_vec();
        all[which].aside = Some("its key does not open now".to_owned());
        all
    };
    let kept = |policy: &RetentionPolicy, all: &[Candidate], system: u64, lsn: u64| {
        let plan = RetentionPlan::new(policy, all, Some(SystemId::new(1)), &BTreeMap::new());
        plan.keeps_wal(SystemId::new(system), Timeline::FIRST, Lsn::from_bytes(lsn), Lsn::from_bytes(lsn + 0x100))
    };
    // The minimum reaches further back than the days.
    let policy = RetentionPolicy { daily: 3, minimum: 7, ..RetentionPolicy::default() };
    let nights: Vec<Candidate> = (0..7).map(|number| night(number, 0x100_0000 * (number as u64 + 1), 1)).collect();
    assert!(kept(&policy, &nights, 1, 0x180_0000) && kept(&policy, &aside(&nights, 0), 1, 0x180_0000), "behind the oldest");
    // Its cluster has others, and its day is another cluster's as well.
    let policy = RetentionPolicy { daily: 3, minimum: 1, ..RetentionPolicy::default() };
    let upgraded = [night(0, 0x900_0000, 2), night(0, 0x100_0000, 1), night(1, 0x200_0000, 1), night(2, 0x300_0000, 1)];
    assert!(kept(&policy, &upgraded, 1, 0x180_0000) && kept(&policy, &aside(&upgraded, 1), 1, 0x180_0000), "behind the first of its cluster");
}

#[test]
fn an_empty_repository_lets_no_log_go() {
    let plan = RetentionPlan::new(&RetentionPolicy::default(), &[], None, &BTreeMap::new());
    assert!(plan.keeps_wal(SystemId::new(1), Timeline::FIRST, Lsn::from_bytes(0), Lsn::from_bytes(1 << 24)));
}
