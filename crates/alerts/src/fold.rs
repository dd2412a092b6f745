//! The pure heart: from what was known and what is judged now to what is known then and whom must be told what.

use crate::state::{Alert, Key, State, Told};
use repo::Silence;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use terms::{Alarm, Judgement, Timestamp, Urgency};

/// How patient alerts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// A critical alert that goes on is told again after this.
    pub repeat_critical: Duration,
    /// The same of a warning.
    pub repeat_warning: Duration,
    /// A warning that stays so long is critical from then on.
    pub escalate_after: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let hours = |count: u64| Duration::from_secs(count * 3600);
        Self { repeat_critical: hours(4), repeat_warning: hours(24), escalate_after: hours(24) }
    }
}

impl Patience {
    /// After how long an alert of this urgency is told again.
    pub fn repeat(&self, urgency: Urgency) -> Duration {
        match urgency {
            Urgency::Critical => self.repeat_critical,
            Urgency::Warning => self.repeat_warning,
        }
    }
}

/// What was looked at: a rule, of all its subjects or of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// As alarms name it, such as `job-failed`.
    pub rule: String,
    /// `None`: all subjects of the rule. An empty one is the subject of a rule that has but one.
    pub subject: Option<String>,
}

impl Judged {
    /// Every subject of this rule.
    pub fn rule(rule: &str) -> Self {
        Self { rule: rule.to_owned(), subject: None }
    }
    /// One subject of it.
    pub fn one(rule: &str, subject: &str) -> Self {
        Self { rule: rule.to_owned(), subject: Some(subject.to_owned()) }
    }
}

/// What there is to see at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// What is not named there is over, where it was looked at.
    pub judgement: &'a Judgement,
    /// What was looked at, where that is not everything: all else is as unknown.
    pub only: Option<&'a [Judged]>,
    /// Those of the repository, whether they hold now or not.
    pub silences: &'a [Silence],
}

impl Sight<'_> {
    /// Whether that the judgement does not name it means that it is over.
    fn has_judged(&self, alert: &Alert) -> bool {
        let is_looked_at = |judged: &Judged| judged.rule == alert.rule && judged.subject.as_ref().is_none_or(|one| *one == alert.subject);
        !self.judgement.unknown.contains(&alert.rule) && self.only.is_none_or(|only| only.iter().any(is_looked_at))
    }

    fn silence_of(&self, alert: &Alert, now: Timestamp) -> Option<String> {
        self.silences.iter().find(|silence| silence.holds_at(now) && silence.is_about(&alert.rule, &alert.subject)).map(|silence| silence.id.clone())
    }
}

/// Why people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It is new, or its silence is over.
    Firing,
    /// It goes on.
    Repeated,
    /// It is critical now and was none when it was told last.
    Escalated,
    /// It is over.
    Resolved,
    /// Nothing is wrong: somebody tries whether they are told.
    Test,
}

impl Kind {
    /// Its name in JSON and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Repeated => "repeated",
            Self::Escalated => "escalated",
            Self::Resolved => "resolved",
            Self::Test => "test",
        }
    }
}

/// What people are told of one alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Why this is told now.
    pub kind: Kind,
    /// As it was judged last; of one that is over, the last judgement that named it.
    pub alarm: Alarm,
    /// The most urgent that was ever told of it: who was told must hear of its end.
    pub peak: Urgency,
    /// When a judgement first named it.
    pub since: Timestamp,
    /// When it was decided that people are told.
    pub at: Timestamp,
}

impl Notice {
    pub(crate) fn of(alert: &Alert, kind: Kind, at: Timestamp) -> Self {
        let Alert { rule, subject, urgency, summary, detail, hint, .. } = alert.clone();
        let alarm = Alarm { rule, subject, urgency, summary, detail, hint };
        Self { kind, alarm, peak: alert.peak.unwrap_or(urgency), since: alert.since, at }
    }
}

/// From what was known and what is seen now to what is known then, and what people are told.
pub fn fold(state: State, sight: &Sight<'_>, now: Timestamp, patience: &Patience) -> (State, Vec<Notice>) {
    let State { alerts, channels, deliveries } = state;
    let mut alerts: BTreeMap<Key, Alert> = alerts.into_iter().map(|alert| (alert.key(), alert)).collect();
    let named = most_urgent(&sight.judgement.alarms);
    let mut notices = Vec::new();
    for (key, alarm) in &named {
        match alerts.get_mut(key).filter(|alert| alert.fires()) {
            Some(alert) => {
                alert.urgency = alarm.urgency;
                (alert.summary, alert.detail, alert.hint) = (alarm.summary.clone(), alarm.detail.clone(), alarm.hint.clone());
            }
            None => drop(alerts.insert(key.clone(), Alert::new(alarm, now))),
        }
    }
    for (key, alert) in &mut alerts {
        believe_no_future(alert, now);
        if alert.fires() && !named.contains_key(key) && sight.has_judged(alert) {
            alert.resolved = Some(now);
        }
        let notice = match alert.resolved {
            Some(_) => after_the_end(alert, now),
            None if named.contains_key(key) => while_it_fires(alert, sight, now, patience),
            // Not looked at: as it was, so that neither its end nor its going on is claimed.
            None => None,
        };
        notices.extend(notice);
    }
    // Who reads the first of many should read what matters most.
    notices.sort_by_key(|notice| (std::cmp::Reverse(notice.alarm.urgency), notice.kind == Kind::Resolved));
    let mut state = State { alerts: alerts.into_values().collect(), channels, deliveries };
    state.trim();
    (state, notices)
}

/// Each alarm once. Of two about the same the more urgent one counts.
fn most_urgent(alarms: &[Alarm]) -> BTreeMap<Key, &Alarm> {
    let mut named: BTreeMap<Key, &Alarm> = BTreeMap::new();
    for alarm in alarms {
        let one = named.entry((alarm.rule.clone(), alarm.subject.clone())).or_insert(alarm);
        if alarm.urgency > one.urgency {
            *one = alarm;
        }
    }
    named
}

/// After a clock has jumped back what was noted lies in the future, and waiting until then would be silence.
fn believe_no_future(alert: &mut Alert, now: Timestamp) {
    alert.since = alert.since.min(now);
    for told in [&mut alert.told, &mut alert.resolved_told].into_iter().flatten() {
        told.at = told.at.min(now);
    }
    alert.resolved = alert.resolved.map(|end| end.min(now));
}

fn while_it_fires(alert: &mut Alert, sight: &Sight<'_>, now: Timestamp, patience: &Patience) -> Option<Notice> {
    alert.escalated |= alert.urgency == Urgency::Warning && has_passed(alert.since, now, patience.escalate_after);
    if alert.escalated {
        alert.urgency = Urgency::Critical;
    }
    let silence = sight.silence_of(alert, now);
    let was_silenced = alert.silenced_by.is_some();
    alert.silenced_by.clone_from(&silence);
    if silence.is_some() {
        return None;
    }
    let kind = match alert.told {
        // What happened under a silence is news.
        _ if was_silenced => Kind::Firing,
        None => Kind::Firing,
        // Within a repetition they were told that it is critical: that it was a warning for a while is no news.
        Some(told) if alert.urgency > told.urgency => Kind::Escalated,
        Some(told) if has_passed(told.at, now, patience.repeat(alert.urgency)) => Kind::Repeated,
        Some(told) if told.is_lost => Kind::Firing,
        Some(_) => return None,
    };
    alert.told = Some(Told { at: now, urgency: alert.urgency, delivered: false, is_lost: false });
    alert.peak = alert.peak.max(Some(alert.urgency));
    Some(Notice::of(alert, kind, now))
}

/// Who was told that it fires is told once that it is over, whatever is silenced by then.
fn after_the_end(alert: &mut Alert, now: Timestamp) -> Option<Notice> {
    let is_due = alert.told.is_some() && alert.resolved_told.is_none_or(|told| told.is_lost);
    if !is_due {
        return None;
    }
    alert.resolved_told = Some(Told { at: now, urgency: alert.urgency, delivered: false, is_lost: false });
    Some(Notice::of(alert, Kind::Resolved, now))
}

fn has_passed(since: Timestamp, now: Timestamp, wanted: Duration) -> bool {
    now.seconds_since(since) >= wanted.as_secs_f64()
}
