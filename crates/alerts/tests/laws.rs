//! What holds for every history of judgements, silences and clocks.

use alerts::{Judged, Kind, Notice, Patience, Sight, State, fold};
use proptest::prelude::*;
use repo::Silence;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use terms::{Alarm, Judgement, Timestamp, Urgency};

type Key = (String, String);

const RULES: [&str; 3] = ["wal-lag", "job-failed", "capacity"];
const SUBJECTS: [&str; 2] = ["", "backup"];

/// One moment of a history.
#[derive(Debug, Clone)]
struct Moment {
    /// Seconds since the one before; a clock that jumps back has negative ones.
    passed: i64,
    alarms: Vec<Alarm>,
    unknown: BTreeSet<String>,
    /// What is silenced.
    silent: Vec<Key>,
    only: Option<Vec<Judged>>,
}

fn key() -> impl Strategy<Value = Key> {
    (0..RULES.len(), 0..SUBJECTS.len()).prop_map(|(rule, subject)| (RULES[rule].to_owned(), SUBJECTS[subject].to_owned()))
}

fn alarm() -> impl Strategy<Value = Alarm> {
    (key(), any::<bool>()).prop_map(|((rule, subject), critical)| Alarm {
        summary: format!("{rule} is broken"),
        rule,
        subject,
        urgency: if critical { Urgency::Critical } else { Urgency::Warning },
        detail: String::new(),
        hint: String::new(),
    })
}

fn moment(jumps: bool) -> impl Strategy<Value = Moment> {
    let passed = if jumps {
        prop_oneof![4 => 0..7200i64, 1 => 0..200_000i64, 1 => -500_000..0i64].boxed()
    } else {
        prop_oneof![4 => 0..7200i64, 1 => 0..200_000i64].boxed()
    };
    let only = prop::option::weighted(0.2, prop::collection::vec(key().prop_map(|(rule, subject)| Judged::one(&rule, &subject)), 0..3));
    let unknown = prop::collection::btree_set((0..RULES.len()).prop_map(|rule| RULES[rule].to_owned()), 0..2);
    (passed, prop::collection::vec(alarm(), 0..4), unknown, prop::collection::vec(key(), 0..2), only)
        .prop_map(|(passed, alarms, unknown, silent, only)| Moment { passed, alarms, unknown, silent, only })
}

/// One step as the law sees it.
struct Step {
    now: Timestamp,
    moment: Moment,
    before: State,
    after: State,
    notices: Vec<Notice>,
}

impl Step {
    fn urgency_judged(&self, key: &Key) -> Option<Urgency> {
        let same = |alarm: &&Alarm| (&alarm.rule, &alarm.subject) == (&key.0, &key.1);
        self.moment.alarms.iter().filter(same).map(|alarm| alarm.urgency).max()
    }
    fn fired_before(&self, key: &Key) -> bool {
        self.before.find(key).is_some_and(alerts::Alert::fires)
    }
    fn fires_after(&self, key: &Key) -> bool {
        self.after.find(key).is_some_and(alerts::Alert::fires)
    }
    fn notices_of(&self, key: &Key) -> Vec<&Notice> {
        self.notices.iter().filter(|notice| (&notice.alarm.rule, &notice.alarm.subject) == (&key.0, &key.1)).collect()
    }
    fn is_silent(&self, key: &Key) -> bool {
        self.moment.silent.contains(key)
    }
    fn is_judged(&self, key: &Key) -> bool {
        !self.moment.unknown.contains(&key.0) && self.moment.only.as_ref().is_none_or(|only| only.contains(&Judged::one(&key.0, &key.1)))
    }
}

fn walk(moments: Vec<Moment>) -> Vec<Step> {
    let mut now = Timestamp::from_unix_micros(1_795_000_000_000_000);
    let mut state = State::default();
    let mut steps = Vec::new();
    for moment in moments {
        now = now.plus_micros(moment.passed * 1_000_000);
        let judgement = Judgement { alarms: moment.alarms.clone(), unknown: moment.unknown.clone() };
        let silence = |(rule, subject): &Key| Silence {
            format: 1,
            id: "s".into(),
            rule: rule.clone(),
            subject: Some(subject.clone()),
            why: String::new(),
            who: String::new(),
            since: now,
            until: now.plus_micros(1),
            ended: None,
        };
        let silences: Vec<Silence> = moment.silent.iter().map(silence).collect();
        let before = state.clone();
        let sight = Sight { judgement: &judgement, only: moment.only.as_deref(), silences: &silences };
        let (after, notices) = fold(state, &sight, now, &Patience::default());
        // What is kept reads back as it was.
        let kept: State = serde_json::from_str(&serde_json::to_string(&after).unwrap()).unwrap();
        assert_eq!(kept, after);
        state = kept;
        steps.push(Step { now, moment, before, after, notices });
    }
    steps
}

fn keys() -> Vec<Key> {
    RULES.iter().flat_map(|rule| SUBJECTS.iter().map(|subject| ((*rule).to_owned(), (*subject).to_owned()))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_critical_alarm_is_told_in_the_very_fold_in_which_it_appears(moments in prop::collection::vec(moment(true), 1..25)) {
        for step in walk(moments) {
            for key in keys() {
                if step.urgency_judged(&key) == Some(Urgency::Critical) && !step.fired_before(&key) && !step.is_silent(&key) {
                    let told = step.notices_of(&key);
                    prop_assert!(told.len() == 1 && told[0].kind == Kind::Firing && told[0].alarm.urgency == Urgency::Critical, "{key:?} {:?}", told);
                }
            }
        }
    }

    #[test]
    fn what_is_named_fires_and_what_is_not_looked_at_stays_as_it_was(moments in prop::collection::vec(moment(true), 1..25)) {
        for step in walk(moments) {
            for key in keys() {
                let is_named = step.urgency_judged(&key).is_some();
                prop_assert!(!is_named || step.fires_after(&key));
                if step.fired_before(&key) && !is_named {
                    prop_assert_eq!(step.fires_after(&key), !step.is_judged(&key), "{:?} is judged: {}", &key, step.is_judged(&key));
                }
                if !step.is_judged(&key) && !is_named && step.fired_before(&key) {
                    prop_assert!(step.notices_of(&key).is_empty());
                    let (before, after) = (step.before.find(&key).unwrap(), step.after.find(&key).unwrap());
                    prop_assert_eq!((&before.silenced_by, before.urgency, before.peak), (&after.silenced_by, after.urgency, after.peak));
                }
            }
        }
    }

    #[test]
    fn nothing_is_told_twice_within_its_repetition_while_nothing_changes(moments in prop::collection::vec(moment(false), 1..40)) {
        let patience = Patience::default();
        // When it was told last, and how urgent; forgotten at its end, and at the end of a silence.
        let mut told: BTreeMap<Key, (Timestamp, Urgency)> = BTreeMap::new();
        for step in walk(moments) {
            for key in keys() {
                let of = step.notices_of(&key);
                prop_assert!(of.len() <= 1, "{of:?}");
                if !step.fires_after(&key) || step.before.find(&key).is_some_and(|alert| alert.silenced_by.is_some()) {
                    told.remove(&key);
                }
                for notice in of.iter().filter(|notice| notice.kind != Kind::Resolved) {
                    if let Some((at, urgency)) = told.get(&key) {
                        let is_due = step.now.seconds_since(*at) >= patience.repeat(notice.alarm.urgency).as_secs_f64();
                        prop_assert!(is_due || notice.alarm.urgency > *urgency, "{key:?} {notice:?} after {at}");
                    }
                    prop_assert!(!step.is_silent(&key));
                    told.insert(key.clone(), (step.now, notice.alarm.urgency));
                }
            }
        }
    }

    #[test]
    fn the_end_of_what_was_told_is_told_exactly_once(moments in prop::collection::vec(moment(true), 1..40)) {
        let mut told: BTreeSet<Key> = BTreeSet::new();
        for step in walk(moments) {
            for key in keys() {
                let ends = step.notices_of(&key).iter().filter(|notice| notice.kind == Kind::Resolved).count();
                let is_over = step.fired_before(&key) && !step.fires_after(&key);
                prop_assert_eq!(ends == 1, is_over && told.contains(&key), "{:?}: {} ends", &key, ends);
                if is_over {
                    told.remove(&key);
                }
                if step.notices_of(&key).iter().any(|notice| notice.kind != Kind::Resolved) {
                    told.insert(key.clone());
                }
            }
        }
    }

    /// Whatever the clock did before: while it fires and the clock goes right, nobody waits longer than a repetition.
    #[test]
    fn a_clock_that_jumped_back_silences_nothing_for_longer_than_a_repetition(moments in prop::collection::vec(moment(true), 1..15)) {
        let mut now = Timestamp::from_unix_micros(1_795_000_000_000_000);
        let state = match walk(moments).pop() {
            Some(step) => { now = step.now; step.after }
            None => State::default(),
        };
        let (rule, subject) = (RULES[0].to_owned(), SUBJECTS[0].to_owned());
        let alarm = Alarm { rule: rule.clone(), subject: subject.clone(), urgency: Urgency::Critical, summary: "x".into(), detail: String::new(), hint: String::new() };
        let judgement = Judgement { alarms: vec![alarm], unknown: BTreeSet::new() };
        let sight = Sight { judgement: &judgement, only: None, silences: &[] };
        let patience = Patience::default();
        // The clock jumps back by a month, then goes on.
        now = now.plus_micros(-30 * 86_400_000_000);
        let (state, first) = fold(state, &sight, now, &patience);
        let later = now.plus_micros(patience.repeat_critical.as_micros() as i64);
        let (_, second) = fold(state, &sight, later, &patience);
        let is_told = |notices: &[Notice]| notices.iter().any(|notice| notice.alarm.rule == rule && notice.alarm.subject == subject);
        prop_assert!(is_told(&first) || is_told(&second));
    }

    #[test]
    fn of_two_processes_neither_loses_what_the_other_knows(ours in prop::collection::vec(moment(true), 1..12), theirs in prop::collection::vec(moment(true), 1..12)) {
        let end = |moments| walk(moments).pop().map(|step| step.after).unwrap_or_default();
        let (ours, theirs) = (end(ours), end(theirs));
        let merged = ours.clone().merged(theirs.clone());
        for key in keys() {
            let known: Vec<_> = [&ours, &theirs].into_iter().filter_map(|state| state.find(&key)).collect();
            prop_assert_eq!(merged.find(&key).is_some(), !known.is_empty());
            if !known.is_empty() && known.iter().all(|alert| alert.fires()) {
                prop_assert!(merged.find(&key).unwrap().fires());
            }
        }
        prop_assert_eq!(merged.clone().merged(merged.clone()), merged);
    }
}

fn judged(urgency: Option<Urgency>) -> Judgement {
    let alarm =
        |urgency| Alarm { rule: "wal-lag".into(), subject: String::new(), urgency, summary: "x".into(), detail: String::new(), hint: String::new() };
    Judgement { alarms: urgency.map(alarm).into_iter().collect(), unknown: BTreeSet::new() }
}

/// What is told at these hours.
fn told_at(history: &[(i64, Option<Urgency>)]) -> Vec<(i64, Kind, Urgency)> {
    let (mut state, mut told) = (State::default(), Vec::new());
    let begin = Timestamp::from_unix_micros(1_795_000_000_000_000);
    for (hour, urgency) in history {
        let judgement = judged(*urgency);
        let now = begin.plus_micros(hour * 3_600_000_000);
        let (next, notices) = fold(state, &Sight { judgement: &judgement, only: None, silences: &[] }, now, &Patience::default());
        state = next;
        told.extend(notices.into_iter().map(|notice| (*hour, notice.kind, notice.alarm.urgency)));
    }
    told
}

#[test]
fn a_warning_escalates_when_it_stays_and_when_it_becomes_critical() {
    use Urgency::{Critical, Warning};
    let stays: Vec<_> = (0..30).map(|hour| (hour, Some(Warning))).chain([(30, None)]).collect();
    assert_eq!(
        told_at(&stays),
        [(0, Kind::Firing, Warning), (24, Kind::Escalated, Critical), (28, Kind::Repeated, Critical), (30, Kind::Resolved, Critical)]
    );
    let rises = [(0, Some(Warning)), (1, Some(Critical)), (2, Some(Warning)), (3, Some(Critical)), (5, Some(Critical)), (6, None)];
    assert_eq!(
        told_at(&rises),
        [(0, Kind::Firing, Warning), (1, Kind::Escalated, Critical), (5, Kind::Repeated, Critical), (6, Kind::Resolved, Critical)]
    );
}

#[test]
fn what_was_silenced_is_told_when_its_silence_ends_and_not_before() {
    let begin = Timestamp::from_unix_micros(1_795_000_000_000_000);
    let silence = Silence {
        format: 1,
        id: "s".into(),
        rule: "wal-*".into(),
        subject: None,
        why: String::new(),
        who: String::new(),
        since: begin,
        until: begin.plus_micros(60_000_000),
        ended: None,
    };
    let judgement = judged(Some(Urgency::Critical));
    let sight = Sight { judgement: &judgement, only: None, silences: std::slice::from_ref(&silence) };
    let fold_at = |state, seconds: i64| fold(state, &sight, begin.plus_micros(seconds * 1_000_000), &Patience::default());
    let (state, told) = fold_at(State::default(), 0);
    assert!(told.is_empty() && state.alerts[0].silenced_by.as_deref() == Some("s") && state.alerts[0].fires());
    let (state, told) = fold_at(state, 59);
    assert!(told.is_empty());
    let (state, told) = fold_at(state, 60);
    assert_eq!(told.iter().map(|notice| notice.kind).collect::<Vec<_>>(), [Kind::Firing]);
    assert_eq!(told[0].since, begin);
    let (_, told) = fold_at(state, 61);
    assert!(told.is_empty());
    assert_eq!(Duration::from_secs(4 * 3600), Patience::default().repeat(Urgency::Critical));
}

#[test]
fn what_was_never_delivered_is_told_again_by_the_next_process() {
    let begin = Timestamp::from_unix_micros(1_795_000_000_000_000);
    let fires = judged(Some(Urgency::Critical));
    let over = judged(None);
    let fold_one = |mut state: State, judgement: &Judgement, seconds: i64| {
        state.forget_what_was_lost(|_| false, |_| true);
        fold(state, &Sight { judgement, only: None, silences: &[] }, begin.plus_micros(seconds * 1_000_000), &Patience::default())
    };
    let (state, told) = fold_one(State::default(), &fires, 0);
    assert_eq!(told.len(), 1);
    let (mut state, told) = fold_one(state, &fires, 1);
    assert_eq!(told.len(), 1, "nobody said that it was delivered");
    state.record(alerts::Delivery {
        channel: "a".into(),
        at: begin,
        rule: "wal-lag".into(),
        subject: String::new(),
        kind: "firing".into(),
        ok: true,
        why: None,
        attempts: 1,
    });
    let (state, told) = fold_one(state, &fires, 2);
    assert!(told.is_empty(), "{told:?}");
    let (state, told) = fold_one(state, &over, 3);
    assert_eq!(told.len(), 1);
    let (_, told) = fold_one(state, &over, 4);
    assert_eq!(told.iter().map(|notice| notice.kind).collect::<Vec<_>>(), [Kind::Resolved], "nor was its end");
}
