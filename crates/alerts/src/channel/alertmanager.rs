//! Prometheus' Alertmanager, by its API v2: it takes an alert for over when nobody says for a while that it fires.

use super::{Channel, LIMIT, Scrub, address, client, post};
use crate::error::{AlertError, Undelivered};
use crate::fold::Kind;
use crate::message::Message;
use async_trait::async_trait;
use futures::future::join_all;
use reqwest::{Client, Url};
use serde_json::{Value, json};
use std::time::Duration;
use terms::{Secret, Timestamp, Urgency};

/// How often it hears of what fires.
const REFRESH: Duration = Duration::from_secs(60);

/// One Alertmanager, or the members of a cluster of them.
pub struct Alertmanager {
    client: Client,
    urls: Vec<Url>,
    access: Access,
    scrub: Scrub,
}

/// What lets one in.
pub enum Access {
    /// Anybody may tell it.
    Open,
    /// HTTP's own login.
    Basic {
        /// As Alertmanager's web configuration or the proxy before it knows it.
        user: String,
        /// Never in an error, whatever the receiver answers.
        password: Secret,
    },
    /// A token, sent as `Authorization: Bearer`.
    Bearer(Secret),
}

impl Alertmanager {
    /// Tells each of these, whose addresses are those of their pages: `http://alertmanager:9093`.
    pub fn new(name: &str, urls: &[String], access: Access, ca_file: Option<&std::path::Path>) -> Result<Self, AlertError> {
        let wrong = |why: &str| AlertError::Channel {
            channel: name.to_owned(),
            why: why.to_owned(),
            hint: "Set urls = [\"http://alertmanager:9093\"], every member of a cluster; passwords stand in password or bearer.",
        };
        let mut found = Vec::new();
        for url in urls {
            let mut url = address(name, url)?;
            if !url.username().is_empty() || url.password().is_some() {
                return Err(wrong("one of its addresses holds a user or a password"));
            }
            let path = format!("{}/api/v2/alerts", url.path().trim_end_matches('/'));
            url.set_path(&path);
            found.push(url);
        }
        if found.is_empty() {
            return Err(wrong("it has no address"));
        }
        let scrub = match &access {
            Access::Open => Scrub::default(),
            Access::Basic { password: secret, .. } | Access::Bearer(secret) => Scrub::new([secret]),
        };
        Ok(Self { client: client(name, ca_file)?, urls: found, access, scrub })
    }

    /// To every member at once, because they need not reach each other; one that takes it is enough.
    async fn send(&self, alerts: &[Value]) -> Result<(), Undelivered> {
        let tell = |url: &Url| {
            let request = self.client.post(url.clone()).timeout(LIMIT - Duration::from_millis(500)).json(alerts);
            let request = match &self.access {
                Access::Open => request,
                Access::Basic { user, password } => request.basic_auth(user, Some(password.reveal())),
                Access::Bearer(token) => request.bearer_auth(token.reveal()),
            };
            let place = url.host_str().unwrap_or_default().to_owned();
            async move { (place, post(request, &self.scrub).await) }
        };
        let told = join_all(self.urls.iter().map(tell)).await;
        if told.iter().any(|(_, outcome)| outcome.is_ok()) {
            return Ok(());
        }
        let failed = told.into_iter().filter_map(|(place, outcome)| Some((place, outcome.err()?)));
        let (whys, hints): (Vec<String>, Vec<&str>) = failed.map(|(place, e)| (format!("{place}: {}", e.why), e.hint)).unzip();
        Err(Undelivered::new(whys.join("; "), hints.first().copied().unwrap_or_default()))
    }
}

#[async_trait]
impl Channel for Alertmanager {
    fn kind(&self) -> &'static str {
        "alertmanager"
    }
    async fn deliver(&self, message: &Message) -> Result<(), Undelivered> {
        let mut alerts = vec![alert(message, message.urgency, message.is_over())];
        // The urgency is a label, by which alerts are routed: the same alert at the other urgency is over.
        if matches!(message.kind, Kind::Escalated | Kind::Resolved) {
            let other = if message.urgency == Urgency::Critical { Urgency::Warning } else { Urgency::Critical };
            alerts.push(alert(message, other, true));
        }
        self.send(&alerts).await
    }
    fn refresh(&self) -> Option<Duration> {
        Some(REFRESH)
    }
    async fn refresh_all(&self, messages: &[Message]) -> Result<(), Undelivered> {
        let alerts: Vec<Value> = messages.iter().map(|message| alert(message, message.urgency, false)).collect();
        self.send(&alerts).await
    }
}

fn alert(message: &Message, urgency: Urgency, is_over: bool) -> Value {
    let lasts = i64::try_from(message.lasts.as_micros()).unwrap_or(i64::MAX);
    let end: Timestamp = if is_over { message.sent } else { message.sent.plus_micros(lasts) };
    // A moment before its end, as it must be, also when it began just now.
    let begin = message.since.min(end.plus_micros(-1000));
    json!({
        "labels": {
            "alertname": "Bowline", "rule": message.rule, "subject": message.subject, "severity": urgency.name(), "org": message.org,
            "repository": message.repository,
        },
        "annotations": { "summary": message.title(), "description": message.text() },
        "startsAt": begin, "endsAt": end,
    })
}
