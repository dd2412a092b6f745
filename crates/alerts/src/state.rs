//! What is known of each alert between two judgements, and how what two processes know becomes one.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use terms::{Alarm, Timestamp, Urgency};

/// So many alerts that are over are remembered.
const RESOLVED_KEPT: usize = 50;
/// So many deliveries are remembered.
const DELIVERIES_KEPT: usize = 100;

/// Which alarm: its rule and its subject.
pub type Key = (String, String);

/// `alerts/state.json`: what one run leaves to the next.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    /// By rule and subject, each once.
    pub alerts: Vec<Alert>,
    /// How each channel fares.
    #[serde(default)]
    pub channels: BTreeMap<String, Health>,
    /// The newest last.
    #[serde(default)]
    pub deliveries: Vec<Delivery>,
}

/// One alarm over time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// A stable word, such as `wal-lag`.
    pub rule: String,
    /// What it is about; empty where the rule has but one subject.
    pub subject: String,
    /// As it was judged last, or critical since it was escalated.
    pub urgency: Urgency,
    /// It stayed a warning for too long.
    #[serde(default)]
    pub escalated: bool,
    /// As it was judged last, in one sentence without its point.
    pub summary: String,
    /// Why, or what follows from it; may be empty.
    pub detail: String,
    /// What to do, with the commands; may be empty.
    pub hint: String,
    /// When a judgement first named it.
    pub since: Timestamp,
    /// The silence under which nobody is told.
    pub silenced_by: Option<String>,
    /// When people were told last that it fires.
    pub told: Option<Told>,
    /// The most urgent that was ever told of it.
    pub peak: Option<Urgency>,
    /// When a judgement no longer named it; until then it fires.
    pub resolved: Option<Timestamp>,
    /// When people were told that it is over.
    pub resolved_told: Option<Told>,
}

/// People were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// When it was decided, before any channel took it.
    pub at: Timestamp,
    /// Of the alert when they were told.
    pub urgency: Urgency,
    /// Whether any channel took it.
    pub delivered: bool,
    /// Who was to deliver it has ended without a word about it.
    #[serde(skip)]
    pub is_lost: bool,
}

/// How a channel fares.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Health {
    /// Since when nothing has got through.
    pub failing_since: Option<Timestamp>,
    /// When the channel last took a message; `None` before the first.
    pub last_delivered: Option<Timestamp>,
    /// When it last failed to; before `last_delivered` where it works again.
    pub last_failed: Option<Timestamp>,
    /// Why it failed last.
    pub why: Option<String>,
}

/// How one notice fared on one channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// By the name that the configuration gives it.
    pub channel: String,
    /// When the try ended.
    pub at: Timestamp,
    /// Of the alert that it was about; `test` of a trial.
    pub rule: String,
    /// Of the same; empty where the rule has but one.
    pub subject: String,
    /// `firing`, `repeated`, `escalated`, `resolved`, `test` or `refreshed`.
    pub kind: String,
    /// Whether the channel took it.
    pub ok: bool,
    /// Why not.
    pub why: Option<String>,
    /// How often it was tried so far.
    pub attempts: u32,
}

impl Alert {
    /// A new one, of which nobody was told.
    pub(crate) fn new(alarm: &Alarm, now: Timestamp) -> Self {
        let Alarm { rule, subject, urgency, summary, detail, hint } = alarm.clone();
        let (silenced_by, told, peak, resolved, resolved_told) = (None, None, None, None, None);
        Self { rule, subject, urgency, escalated: false, summary, detail, hint, since: now, silenced_by, told, peak, resolved, resolved_told }
    }

    /// Its rule and its subject.
    pub fn key(&self) -> Key {
        (self.rule.clone(), self.subject.clone())
    }

    /// Whether it still goes on.
    pub fn fires(&self) -> bool {
        self.resolved.is_none()
    }

    /// When anything last happened to it.
    fn last_change(&self) -> Timestamp {
        let told = [self.told, self.resolved_told].into_iter().flatten().map(|told| told.at);
        told.chain([self.since]).chain(self.resolved).max().unwrap_or(self.since)
    }

    /// The same alert as two processes know it: whatever happened later counts.
    fn merged(self, other: Self) -> Self {
        // Of two at the same instant the one that fires counts: it is not lost, and the next judgement may end it.
        let rank = |alert: &Self| (alert.last_change(), alert.fires());
        let (older, mut newer) = if rank(&self) <= rank(&other) { (self, other) } else { (other, self) };
        // Another one of the same name that came after the end of this one begins anew.
        let is_one = older.fires() || older.resolved.is_some_and(|end| newer.since <= end);
        if is_one {
            newer.since = newer.since.min(older.since);
            newer.told = newer.told.or(older.told);
            newer.peak = newer.peak.max(older.peak);
            newer.escalated |= older.escalated;
        }
        for (new, old) in [(&mut newer.told, older.told), (&mut newer.resolved_told, older.resolved_told)] {
            if let (Some(new), Some(old)) = (new, old)
                && new.at == old.at
            {
                new.delivered |= old.delivered;
            }
        }
        newer
    }
}

impl Health {
    /// As two processes know it: the later outcome counts, and a failure goes on since it began.
    fn merged(self, other: Self) -> Self {
        let last = |health: &Self| health.last_delivered.max(health.last_failed);
        let (older, mut newer) = if last(&self) <= last(&other) { (self, other) } else { (other, self) };
        if let (Some(new), Some(old)) = (newer.failing_since, older.failing_since)
            && newer.last_delivered.is_none_or(|delivered| delivered < old)
        {
            newer.failing_since = Some(new.min(old));
        }
        newer.last_delivered = newer.last_delivered.max(older.last_delivered);
        newer.last_failed = newer.last_failed.max(older.last_failed);
        newer
    }
}

impl State {
    /// The alert of this alarm.
    pub fn find(&self, key: &Key) -> Option<&Alert> {
        self.alerts.iter().find(|alert| alert.rule == key.0 && alert.subject == key.1)
    }

    /// What both know: no alert that either knows is lost.
    pub fn merged(self, other: Self) -> Self {
        let mut alerts: BTreeMap<Key, Alert> = self.alerts.into_iter().map(|alert| (alert.key(), alert)).collect();
        for theirs in other.alerts {
            let key = theirs.key();
            let one = match alerts.remove(&key) {
                Some(ours) => ours.merged(theirs),
                None => theirs,
            };
            alerts.insert(key, one);
        }
        let mut channels = self.channels;
        for (name, theirs) in other.channels {
            let one = match channels.remove(&name) {
                Some(ours) => ours.merged(theirs),
                None => theirs,
            };
            channels.insert(name, one);
        }
        let mut deliveries = self.deliveries;
        let more: Vec<Delivery> = other.deliveries.into_iter().filter(|one| !deliveries.contains(one)).collect();
        deliveries.extend(more);
        deliveries.sort_by_key(|delivery| delivery.at);
        let mut merged = Self { alerts: alerts.into_values().collect(), channels, deliveries };
        merged.trim();
        merged
    }

    /// After a clock has jumped back a channel that fails since a time to come would be well until then.
    pub(crate) fn fails_since_no_future(&mut self, now: Timestamp) {
        for health in self.channels.values_mut() {
            health.failing_since = health.failing_since.map(|since| since.min(now));
        }
    }

    /// Writes down how a delivery ended.
    pub fn record(&mut self, delivery: Delivery) {
        let health = self.channels.entry(delivery.channel.clone()).or_default();
        if delivery.ok {
            *health = Health { failing_since: None, last_delivered: Some(delivery.at), last_failed: health.last_failed, why: None };
        } else {
            health.failing_since = health.failing_since.or(Some(delivery.at));
            health.last_failed = Some(delivery.at);
            health.why.clone_from(&delivery.why);
        }
        let found = self.alerts.iter_mut().find(|alert| alert.rule == delivery.rule && alert.subject == delivery.subject);
        if let Some(alert) = found.filter(|_| delivery.ok) {
            let told = if delivery.kind == "resolved" { &mut alert.resolved_told } else { &mut alert.told };
            // What was told before a clock jumped back counts as well: a delivery never is of a later notice.
            if let Some(told) = told {
                (told.delivered, told.is_lost) = (true, false);
            }
        }
        // Of a notice that fails again and again only the last try is of interest.
        let is_same = |old: &Delivery| {
            !old.ok && (&old.channel, &old.rule, &old.subject, &old.kind) == (&delivery.channel, &delivery.rule, &delivery.subject, &delivery.kind)
        };
        if let Some(at) = self.deliveries.iter().rposition(is_same)
            && self.deliveries[at].attempts < delivery.attempts
        {
            self.deliveries.remove(at);
        }
        self.deliveries.push(delivery);
        self.trim();
    }

    /// What was told by somebody who has ended before any channel took it is to be told again.
    pub fn forget_what_was_lost(&mut self, is_under_way: impl Fn(&Alert) -> bool, is_old: impl Fn(Timestamp) -> bool) {
        for alert in &mut self.alerts {
            let can_be_lost = !is_under_way(alert);
            for told in [&mut alert.told, &mut alert.resolved_told].into_iter().flatten() {
                told.is_lost = can_be_lost && !told.delivered && is_old(told.at);
            }
        }
    }

    /// Keeps the memory of what is over short.
    pub(crate) fn trim(&mut self) {
        let mut ends: Vec<Timestamp> = self.alerts.iter().filter_map(|alert| alert.resolved).collect();
        if ends.len() > RESOLVED_KEPT {
            ends.sort_unstable();
            let oldest_kept = ends[ends.len() - RESOLVED_KEPT];
            self.alerts.retain(|alert| alert.resolved.is_none_or(|end| end >= oldest_kept));
        }
        let too_many = self.deliveries.len().saturating_sub(DELIVERIES_KEPT);
        self.deliveries.drain(..too_many);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_fails_since_its_first_failure_also_after_a_clock_jumped_back_and_in_two_processes() {
        let at = |second: i64| Timestamp::from_unix_micros(second * 1_000_000);
        let delivery = |second, ok| Delivery {
            channel: "c".into(),
            at: at(second),
            rule: "r".into(),
            subject: String::new(),
            kind: "firing".into(),
            ok,
            why: None,
            attempts: 1,
        };
        let (mut ours, mut theirs) = (State::default(), State::default());
        ours.record(delivery(10, false));
        ours.record(delivery(20, false));
        theirs.record(delivery(30, false));
        let mut merged = theirs.clone().merged(ours.clone());
        assert_eq!(merged.channels["c"].failing_since, Some(at(10)));
        merged.fails_since_no_future(at(5));
        assert_eq!(merged.channels["c"].failing_since, Some(at(5)));
        theirs.record(delivery(40, true));
        assert_eq!(theirs.merged(ours).channels["c"].failing_since, None, "it works again");
    }
}
