//! Slack, and what understands the same: an incoming webhook, whose address is the secret.

use super::{Channel, Scrub, address, client, post};
use crate::error::{AlertError, Undelivered};
use crate::message::{Message, cut};
use async_trait::async_trait;
use reqwest::{Client, Url};
use serde_json::{Value, json};
use terms::{Secret, Urgency};

/// The most letters that a section takes are 3000 (Slack's Block Kit reference).
const LETTERS: usize = 2900;

/// An incoming webhook.
pub struct Slack {
    client: Client,
    url: Url,
    scrub: Scrub,
}

impl Slack {
    /// Posts to the address in `url`.
    pub fn new(name: &str, url: &Secret, ca_file: Option<&std::path::Path>) -> Result<Self, AlertError> {
        Ok(Self { client: client(name, ca_file)?, url: address(name, url.reveal())?, scrub: Scrub::new([url]) })
    }
}

#[async_trait]
impl Channel for Slack {
    fn kind(&self) -> &'static str {
        "slack"
    }
    async fn deliver(&self, message: &Message) -> Result<(), Undelivered> {
        post(self.client.post(self.url.clone()).json(&body(message)), &self.scrub).await
    }
}

fn body(message: &Message) -> Value {
    let mark = match (message.is_over(), message.urgency) {
        (true, _) => ":white_check_mark:",
        (false, Urgency::Critical) => ":red_circle:",
        (false, Urgency::Warning) => ":large_yellow_circle:",
    };
    let (title, text) = (escaped(&message.title()), escaped(&message.text()));
    json!({
        "text": cut(&title, LETTERS),
        "blocks": [
            { "type": "section", "text": { "type": "mrkdwn", "text": cut(&format!("{mark} *{title}*"), LETTERS) } },
            { "type": "section", "text": { "type": "mrkdwn", "text": cut(&text, LETTERS) } },
        ],
    })
}

/// Three letters mean something to Slack: a summary must not call a whole channel.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_in_an_alert_calls_everybody() {
        assert_eq!(super::escaped("<!channel> & co"), "&lt;!channel&gt; &amp; co");
    }
}
