//! PagerDuty, by its Events API v2: an incident for each alert, opened and closed under one stable key.

use super::{Channel, Scrub, address, client, post};
use crate::error::{AlertError, Undelivered};
use crate::fold::Kind;
use crate::message::{Message, cut};
use async_trait::async_trait;
use reqwest::{Client, Url};
use serde_json::{Value, json};
use terms::{Secret, Urgency};

const ENDPOINT: &str = "https://events.pagerduty.com/v2/enqueue";
/// The longest summary that is taken (Events API v2, payload.summary).
const SUMMARY_LETTERS: usize = 1024;

/// An integration of a service.
pub struct PagerDuty {
    client: Client,
    endpoint: Url,
    routing_key: Secret,
    scrub: Scrub,
}

impl PagerDuty {
    /// Sends with this integration's key; elsewhere than to PagerDuty itself where an endpoint is given.
    pub fn new(name: &str, routing_key: Secret, endpoint: Option<&str>, ca_file: Option<&std::path::Path>) -> Result<Self, AlertError> {
        let scrub = Scrub::new([&routing_key]);
        Ok(Self { client: client(name, ca_file)?, endpoint: address(name, endpoint.unwrap_or(ENDPOINT))?, routing_key, scrub })
    }

    async fn send(&self, message: &Message, action: &str) -> Result<(), Undelivered> {
        post(self.client.post(self.endpoint.clone()).json(&event(message, action, self.routing_key.reveal())), &self.scrub).await
    }
}

#[async_trait]
impl Channel for PagerDuty {
    fn kind(&self) -> &'static str {
        "pagerduty"
    }
    async fn deliver(&self, message: &Message) -> Result<(), Undelivered> {
        self.send(message, if message.is_over() { "resolve" } else { "trigger" }).await?;
        // Nobody should have to close a test.
        if message.kind == Kind::Test { self.send(message, "resolve").await } else { Ok(()) }
    }
}

fn event(message: &Message, action: &str, routing_key: &str) -> Value {
    let severity = match (message.kind, message.urgency) {
        (Kind::Test, _) => "info",
        (_, Urgency::Critical) => "critical",
        (_, Urgency::Warning) => "warning",
    };
    json!({
        "routing_key": routing_key,
        "event_action": action,
        "dedup_key": message.key,
        "client": "bowline",
        "payload": {
            "summary": cut(&message.title(), SUMMARY_LETTERS),
            "source": message.host,
            "severity": severity,
            "timestamp": message.since,
            "component": message.subject,
            "group": message.org,
            "class": message.rule,
            "custom_details": { "detail": message.detail, "hint": message.hint, "repository": message.repository, "kind": message.kind },
        },
    })
}
