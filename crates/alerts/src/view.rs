//! How alerts and channels stand, for metrics, pages and lists.

use crate::state::{Alert, Delivery, State};
use serde::Serialize;
use terms::{Timestamp, Urgency};

/// Everything there is to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct View {
    /// What fires first, the most urgent and the oldest first; then what is over, the newest first.
    pub alerts: Vec<AlertView>,
    /// Of a running teller those that are configured, else those that the state remembers.
    pub channels: Vec<ChannelView>,
    /// The newest first.
    pub deliveries: Vec<Delivery>,
    /// `None` where none is configured, or where only the state is shown.
    pub heartbeat: Option<HeartbeatView>,
}

/// One alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AlertView {
    /// A stable word, such as `wal-lag`.
    pub rule: String,
    /// What it is about; empty where the rule has but one subject.
    pub subject: String,
    /// `firing`, `silenced` or `resolved`.
    pub state: &'static str,
    /// As it was judged last, or critical since it was escalated.
    pub urgency: Urgency,
    /// It stayed a warning for too long.
    pub escalated: bool,
    /// What is so, in one sentence without its point.
    pub summary: String,
    /// Why, or what follows from it; may be empty.
    pub detail: String,
    /// What to do, with the commands; may be empty.
    pub hint: String,
    /// When a judgement first named it.
    pub since: Timestamp,
    /// When a judgement no longer named it; `None` while it goes on.
    pub resolved: Option<Timestamp>,
    /// The silence that keeps it from people.
    pub silenced_by: Option<String>,
    /// When people were told last.
    pub told: Option<Timestamp>,
    /// Whether any channel took that.
    pub delivered: bool,
}

/// One channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChannelView {
    /// By the name that the configuration gives it.
    pub name: String,
    /// Its type, where this process has it.
    pub kind: Option<&'static str>,
    /// Since when nothing has got through; `None`: the last message did, or there was none.
    pub failing_since: Option<Timestamp>,
    /// When it last took a message; `None` before the first.
    pub last_delivered: Option<Timestamp>,
    /// When it last failed to; before `last_delivered` where it works again.
    pub last_failed: Option<Timestamp>,
    /// Why it failed last; `None` once a message got through again.
    pub why: Option<String>,
    /// How many messages wait for it in this process.
    pub waiting: usize,
}

/// The dead man's switch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct HeartbeatView {
    /// Since when no ping of this process got through; `None`: the last one did, or there was none.
    pub failing_since: Option<Timestamp>,
    /// When one last got through; `None` before the first of this process.
    pub last_ok: Option<Timestamp>,
    /// When one last did not; before `last_ok` where it works again.
    pub last_failed: Option<Timestamp>,
    /// Why it failed last; `None` once one got through again.
    pub why: Option<String>,
}

impl HeartbeatView {
    pub(crate) fn failed(&mut self, now: Timestamp, why: String) {
        self.failing_since = self.failing_since.or(Some(now));
        (self.last_failed, self.why) = (Some(now), Some(why));
    }
}

impl View {
    /// What a state says.
    pub fn of(state: &State) -> Self {
        let mut alerts: Vec<AlertView> = state.alerts.iter().map(AlertView::of).collect();
        alerts.sort_by_key(|alert| match alert.resolved {
            None => (0, std::cmp::Reverse(Some(alert.urgency)), alert.since.unix_micros()),
            Some(end) => (1, std::cmp::Reverse(None), -end.unix_micros()),
        });
        let channels = state.channels.iter().map(|(name, health)| ChannelView {
            name: name.clone(),
            kind: None,
            failing_since: health.failing_since,
            last_delivered: health.last_delivered,
            last_failed: health.last_failed,
            why: health.why.clone(),
            waiting: 0,
        });
        Self { alerts, channels: channels.collect(), deliveries: state.deliveries.iter().rev().cloned().collect(), heartbeat: None }
    }

    /// Only the channels that are configured, all of them, each with its type and how much waits for it.
    pub fn name_channels(&mut self, known: &[(&str, &'static str, usize)]) {
        let found = known.iter().map(|(name, kind, waiting)| {
            let of_state = self.channels.iter().find(|channel| channel.name == *name).cloned();
            let new = || ChannelView {
                name: (*name).to_owned(),
                kind: None,
                failing_since: None,
                last_delivered: None,
                last_failed: None,
                why: None,
                waiting: 0,
            };
            ChannelView { kind: Some(kind), waiting: *waiting, ..of_state.unwrap_or_else(new) }
        });
        self.channels = found.collect();
    }
}

impl AlertView {
    fn of(alert: &Alert) -> Self {
        let told = alert.resolved_told.or(alert.told);
        Self {
            rule: alert.rule.clone(),
            subject: alert.subject.clone(),
            state: match (alert.fires(), &alert.silenced_by) {
                (false, _) => "resolved",
                (true, Some(_)) => "silenced",
                (true, None) => "firing",
            },
            urgency: alert.urgency,
            escalated: alert.escalated,
            summary: alert.summary.clone(),
            detail: alert.detail.clone(),
            hint: alert.hint.clone(),
            since: alert.since,
            resolved: alert.resolved,
            silenced_by: alert.silenced_by.clone(),
            told: told.map(|told| told.at),
            delivered: told.is_some_and(|told| told.delivered),
        }
    }
}
