//! Any receiver of HTTP: a method, headers and a body after a template.

use super::{Channel, Scrub, address, client, post};
use crate::error::{AlertError, Undelivered};
use crate::fold::{Kind, Notice};
use crate::message::{Message, Source};
use async_trait::async_trait;
use minijinja::{Environment, UndefinedBehavior};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Url};
use std::time::Duration;
use terms::{Alarm, Secret, Timestamp, Urgency};

const TEMPLATE: &str = "body";
/// A template that takes more steps is stopped.
const FUEL: u64 = 100_000;

/// A request for each message.
pub struct Webhook {
    client: Client,
    url: Url,
    method: Method,
    headers: HeaderMap,
    template: Option<Environment<'static>>,
    scrub: Scrub,
}

impl Webhook {
    /// Sends to the address in `url`. Without a template the body is the message as JSON. A template that does not work is refused now, by a
    /// message with the letters that break things.
    pub fn new(
        name: &str,
        url: &Secret,
        method: Option<&str>,
        headers: &[(String, Secret)],
        template: Option<&str>,
        ca_file: Option<&std::path::Path>,
    ) -> Result<Self, AlertError> {
        let wrong = |why: String, hint| AlertError::Channel { channel: name.to_owned(), why, hint };
        let method = method.unwrap_or("POST");
        let method = match method.to_ascii_uppercase().as_str() {
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "PATCH" => Method::PATCH,
            _ => return Err(wrong(format!("{method:?} is no method that carries a body"), "Set method to \"POST\", \"PUT\" or \"PATCH\".")),
        };
        let mut map = HeaderMap::new();
        map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (header, value) in headers {
            let hint = "Write headers as { \"X-Name\" = \"value\" }.";
            let found = HeaderName::from_bytes(header.as_bytes()).map_err(|_| wrong(format!("{header:?} is no name of a header"), hint))?;
            let mut value = HeaderValue::from_str(value.reveal()).map_err(|_| wrong(format!("the value of {header} is none of a header"), hint))?;
            value.set_sensitive(true);
            map.insert(found, value);
        }
        let is_json = map.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        let scrub = Scrub::new(headers.iter().map(|(_, value)| value).filter(|value| value.reveal().len() >= 6).chain([url]));
        let template = template.map(compiled).transpose().map_err(|why| wrong(why, HINT))?;
        let made = Self { client: client(name, ca_file)?, url: address(name, url.reveal())?, method, headers: map, template, scrub };
        for sample in samples() {
            let body = made.body(&sample).map_err(|why| wrong(why, HINT))?;
            if is_json && let Err(e) = serde_json::from_str::<serde_json::Value>(&body) {
                return Err(wrong(format!("its body does not make JSON of every alert: {e}"), HINT));
            }
        }
        Ok(made)
    }

    fn body(&self, message: &Message) -> Result<String, String> {
        match &self.template {
            Some(environment) => {
                environment.get_template(TEMPLATE).and_then(|template| template.render(minijinja::value::Serde(message))).map_err(|e| told(&e))
            }
            None => serde_json::to_string(message).map_err(|e| e.to_string()),
        }
    }
}

/// What a template may name: the members of a message.
const NAMES: [&str; 14] =
    ["kind", "state", "key", "rule", "subject", "urgency", "summary", "detail", "hint", "since", "at", "org", "repository", "host"];
const HINT: &str = "Names are kind, state, key, rule, subject, urgency, summary, detail, hint, since, at, org, repository and host; in JSON write {{ summary | tojson }}, without quotes around it.";

fn compiled(text: &str) -> Result<Environment<'static>, String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.add_template_owned(TEMPLATE, text.to_owned()).map_err(|e| told(&e))?;
    // A filter takes what is undefined for nothing, and a branch may never be tried: names are looked at before.
    let named = environment.get_template(TEMPLATE).map_err(|e| told(&e))?.undeclared_variables(false);
    let unknown: std::collections::BTreeSet<_> = named.into_iter().filter(|name| !NAMES.contains(&name.as_str()) && name != "range").collect();
    match unknown.first() {
        Some(name) => Err(format!("its body names {name}, which is undefined")),
        None => Ok(environment),
    }
}

/// What is wrong and where; the template itself is not repeated.
fn told(e: &minijinja::Error) -> String {
    let what = e.detail().map_or_else(|| e.kind().to_string(), |detail| format!("{}: {detail}", e.kind()));
    e.line().map_or_else(|| format!("its body is no template: {what}"), |line| format!("its body, line {line}: {what}"))
}

/// One that fires and one that is over, with what breaks quoting.
fn samples() -> Vec<Message> {
    let tricky = "it \"broke\" at C:\\x\nand <so> on".to_owned();
    let alarm = Alarm {
        rule: "sample".into(),
        subject: tricky.clone(),
        urgency: Urgency::Critical,
        summary: tricky.clone(),
        detail: tricky.clone(),
        hint: tricky,
    };
    let at = Timestamp::from_unix_micros(0);
    let source = Source { org: "o".into(), repository: "r".into(), host: "h".into() };
    let notice = |kind| Notice { kind, alarm: alarm.clone(), peak: Urgency::Critical, since: at, at };
    [Kind::Firing, Kind::Resolved].into_iter().map(|kind| Message::new(&notice(kind), &source, Duration::ZERO)).collect()
}

#[async_trait]
impl Channel for Webhook {
    fn kind(&self) -> &'static str {
        "webhook"
    }
    async fn deliver(&self, message: &Message) -> Result<(), Undelivered> {
        let body = self.body(message).map_err(|why| Undelivered::new(self.scrub.clean(&why), HINT))?;
        let request = self.client.request(self.method.clone(), self.url.clone()).headers(self.headers.clone()).body(body);
        post(request, &self.scrub).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use terms::Explain;

    fn webhook(template: Option<&str>, headers: &[(String, Secret)]) -> Result<Webhook, AlertError> {
        Webhook::new("hook", &Secret::new("http://127.0.0.1:1/x".into()), None, headers, template, None)
    }

    #[test]
    fn a_template_that_would_lose_an_alert_is_refused_before_there_is_one() {
        for (template, word) in [
            ("{\"text\": \"{{ summary }}\"}", "JSON"),
            ("{\"text\": {{ sumary | tojson }}}", "undefined"),
            ("{\"text\": {{ summary | tojson }", "line 1"),
            ("{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}", "fuel"),
        ] {
            let error = webhook(Some(template), &[]).err().map(|e| e.detail()).unwrap_or_default();
            assert!(error.contains(word), "{template}: {error}");
        }
        let plain = [("Content-Type".to_owned(), Secret::new("text/plain".into()))];
        let made = webhook(Some("{{ urgency }}: {{ summary }}{% if state == 'resolved' %} (over){% endif %}"), &plain).unwrap();
        assert_eq!(made.body(&samples()[1]).unwrap(), "critical: it \"broke\" at C:\\x\nand <so> on (over)");
        assert!(webhook(Some("{\"text\": {{ summary | tojson }}}"), &[]).is_ok());
    }

    #[test]
    fn without_a_template_all_of_it_is_json() {
        let body: serde_json::Value = serde_json::from_str(&webhook(None, &[]).unwrap().body(&samples()[0]).unwrap()).unwrap();
        assert_eq!(
            (body["kind"].as_str(), body["urgency"].as_str(), body["since"].as_str()),
            (Some("firing"), Some("critical"), Some("1970-01-01T00:00:00Z"))
        );
    }
}
