//! What every channel is, and what those have in common that speak HTTP.

mod alertmanager;
mod pagerduty;
mod slack;
mod smtp;
mod webhook;

pub use alertmanager::{Access, Alertmanager};
pub use pagerduty::PagerDuty;
pub use slack::Slack;
pub use smtp::{MailTls, Smtp};
pub use webhook::Webhook;

use crate::error::{AlertError, Undelivered};
use crate::message::{Message, cut, in_a_line};
use async_trait::async_trait;
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, Url, redirect};
use std::error::Error;
use std::path::Path;
use std::time::Duration;
use terms::{Secret, Urgency};

/// How long one delivery may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
/// So much of an answer is read: enough for its reason.
const ANSWER_LETTERS: usize = 200;

/// A way to people.
#[async_trait]
pub trait Channel: Send + Sync {
    /// `slack`, `pagerduty`, `webhook`, `smtp` or `alertmanager`.
    fn kind(&self) -> &'static str;
    /// Delivers one message. What is wrong is said without any secret.
    async fn deliver(&self, message: &Message) -> Result<(), Undelivered>;
    /// How often the receiver must hear that alerts still fire, lest it takes them for over.
    fn refresh(&self) -> Option<Duration> {
        None
    }
    /// Says so of all of them.
    async fn refresh_all(&self, _messages: &[Message]) -> Result<(), Undelivered> {
        Ok(())
    }
}

/// A channel with the name that people know it by.
pub struct Named {
    /// By the configuration: no two of them are the same.
    pub name: String,
    /// What is less urgent is not told here.
    pub min: Urgency,
    /// What delivers.
    pub channel: Box<dyn Channel>,
}

impl Named {
    /// One that cannot be made, and fails whenever it is used: so it is missed.
    pub fn broken(name: String, min: Urgency, kind: &'static str, why: String) -> Self {
        Self { name, min, channel: Box::new(Broken { kind, why }) }
    }
}

struct Broken {
    kind: &'static str,
    why: String,
}

#[async_trait]
impl Channel for Broken {
    fn kind(&self) -> &'static str {
        self.kind
    }
    async fn deliver(&self, _message: &Message) -> Result<(), Undelivered> {
        Err(Undelivered::new(self.why.clone(), "Mend the channel's settings; a running daemon takes them when it is started again or reloaded."))
    }
}

/// Searches words for secrets before anybody sees them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scrub(Vec<Secret>);

impl Scrub {
    /// Whatever authorizes; of an address also the parts that do.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut all = Vec::new();
        for secret in secrets {
            all.push(secret.clone());
            if let Ok(url) = Url::parse(secret.reveal()) {
                let parts = url.path_segments().into_iter().flatten().chain(url.query()).chain(url.password()).chain([url.path()]);
                all.extend(parts.filter(|part| part.len() >= 6).map(|part| Secret::new(part.to_owned())));
            }
        }
        // The longest first: of a whole nothing is left when a part was taken out of it.
        all.retain(|secret| !secret.reveal().is_empty());
        all.sort_by_key(|secret| std::cmp::Reverse(secret.reveal().len()));
        Self(all)
    }

    /// The text in a line, without them.
    pub fn clean(&self, text: &str) -> String {
        let clean = self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.reveal(), "(secret)"));
        cut(in_a_line(&clean).trim(), 400)
    }
}

/// An address to post to. It may hold a token, so errors never repeat it.
pub(crate) fn address(channel: &str, url: &str) -> Result<Url, AlertError> {
    let wrong = |why: &str| AlertError::Channel {
        channel: channel.to_owned(),
        why: why.to_owned(),
        hint: "Write it whole, such as https://alerts.example.org/hook; what authorizes stands in settings of its own.",
    };
    let url = Url::parse(url.trim()).map_err(|e| wrong(&format!("its address is none: {e}")))?;
    if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
        return Err(wrong("its address does not begin with https:// or http://"));
    }
    Ok(url)
}

/// What posts for one channel: bounded in time, follows nobody elsewhere, trusts this authority besides those of the host.
pub(crate) fn client(channel: &str, ca_file: Option<&Path>) -> Result<Client, AlertError> {
    let wrong = |why: String, hint| AlertError::Channel { channel: channel.to_owned(), why, hint };
    let mut builder = Client::builder()
        .timeout(LIMIT)
        .connect_timeout(LIMIT / 2)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("bowline/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = ca_file {
        let hint = "Set ca_file to a PEM file of the certificate authority that signed the receiver's certificate.";
        let pem = std::fs::read(path).map_err(|e| wrong(format!("cannot read {}: {e}", path.display()), hint))?;
        let found = Certificate::from_pem_bundle(&pem).map_err(|e| wrong(format!("{} holds no certificates: {e}", path.display()), hint))?;
        if found.is_empty() {
            return Err(wrong(format!("{} holds no certificates", path.display()), hint));
        }
        builder = found.into_iter().fold(builder, reqwest::ClientBuilder::add_root_certificate);
    }
    builder.build().map_err(|e| wrong(format!("cannot speak HTTPS: {}", causes(&e.without_url())), ""))
}

/// Sends a request that must be granted.
pub(crate) async fn post(request: RequestBuilder, scrub: &Scrub) -> Result<(), Undelivered> {
    let mut response = match request.send().await {
        Ok(response) => response,
        // What it was asked holds the token in its address.
        Err(e) => return Err(unreachable(&e.without_url(), scrub)),
    };
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
    let said = scrub.clean(&cut(&beginning(&mut response).await, ANSWER_LETTERS));
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    let hint = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "Look at the token, key or password that the channel names: the receiver does not accept it."
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            "Look at the channel's address: the receiver knows nothing there; a webhook may have been removed."
        }
        StatusCode::TOO_MANY_REQUESTS => "The receiver is told too much at once; it is tried again later.",
        status if status.is_redirection() => "Name the address that the receiver moved to: nobody is followed elsewhere with what an alert says.",
        status if status.is_client_error() => "The receiver does not understand what it is sent: look at the channel's type, address and body.",
        _ => "The receiver has trouble of its own; it is tried again.",
    };
    Err(Undelivered { why: format!("it answered {}{said}", status.as_u16()), hint, retry_after })
}

/// What an answer says, as far as it matters.
async fn beginning(response: &mut Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < 4 * ANSWER_LETTERS {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            _ => break,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn unreachable(e: &reqwest::Error, scrub: &Scrub) -> Undelivered {
    if e.is_timeout() {
        return Undelivered::too_late(LIMIT);
    }
    let why = causes(e).replace("error sending request: ", "").replace("client error (Connect): ", "");
    let why = scrub.clean(&why);
    let hint = match why.to_lowercase() {
        why if why.contains("certificate") => {
            "This host does not trust the receiver's certificate: set ca_file, or add the authority to those of the host."
        }
        why if why.contains("dns") || why.contains("resolve") => {
            "The receiver's name cannot be resolved from this host: look at the address and at name resolution."
        }
        _ => "Look at the channel's address, and at proxies and firewalls on the way.",
    };
    Undelivered::new(why, hint)
}

/// An error with what caused it.
pub(crate) fn causes(e: &dyn Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_secret_address_is_left_in_words() {
        let url = Secret::new("https://hooks.example.org/services/T0000000/B00000000/hunter2hunter2".into());
        let scrub = Scrub::new([&url, &Secret::new("pass word".into())]);
        for said in [
            "error for https://hooks.example.org/services/T0000000/B00000000/hunter2hunter2 (x)",
            "no hook /services/T0000000/B00000000/hunter2hunter2\n",
            "unknown token hunter2hunter2",
            "login pass word failed",
        ] {
            let clean = scrub.clean(said);
            assert!(!clean.contains("hunter2") && !clean.contains("pass word") && clean.contains("(secret)"), "{clean}");
        }
        assert_eq!(Scrub::default().clean(" plain\nwords "), "plain words");
    }
}
