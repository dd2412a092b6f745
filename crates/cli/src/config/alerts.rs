//! `[alerts]`: who is told, over what, and how patiently.

use super::{SecretRef, duration};
use crate::fault::Fault;
use alerts::{Access, AlertError, Alertmanager, Channel, MailTls, Named, PagerDuty, Patience, Setup, Slack, Smtp, Webhook};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;
use terms::{Explain, Secret, Urgency};

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alerts {
    /// A critical alert that goes on is told again after this, a warning after a day or this, whichever is longer.
    ///
    /// Default: `4h`.
    #[serde(deserialize_with = "duration")]
    pub repeat: Option<Duration>,
    /// A warning that stays so long is critical from then on.
    ///
    /// Default: `24h`.
    #[serde(deserialize_with = "duration")]
    pub escalate_after: Option<Duration>,
    /// An address that is asked for while no critical alert fires: whoever waits there is alarmed when it stops.
    ///
    /// Default: none.
    pub heartbeat: Option<SecretRef>,
    /// How often.
    ///
    /// Default: `60s`.
    #[serde(deserialize_with = "duration")]
    pub heartbeat_interval: Option<Duration>,
    /// The log may be so far behind the server.
    ///
    /// Default: `15m`.
    #[serde(deserialize_with = "duration")]
    wal_lag: Option<Duration>,
    /// A second copy may be so far behind the first.
    ///
    /// Default: `1h`.
    #[serde(deserialize_with = "duration")]
    replication_lag: Option<Duration>,
    /// Over what people are told: one `[[alerts.channel]]` each.
    ///
    /// Default: none: nobody is told.
    pub channel: Vec<ChannelConfig>,
}

/// `[[alerts.channel]]`: which keys belong to which type is checked when it is read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelConfig {
    /// What it is; each type has its own keys of those below.
    #[serde(rename = "type")]
    kind: Kind,
    /// What it is called.
    ///
    /// Default: its type.
    name: Option<String>,
    /// What is less urgent is not told there.
    ///
    /// Default: `warning`.
    min: Option<Urgency>,
    /// Certificates to trust besides the host's.
    ///
    /// Default: none.
    ca_file: Option<PathBuf>,
    /// Of slack and webhook; a secret, because whoever has it can write there.
    ///
    /// Default: none; needed there.
    url: Option<SecretRef>,
    /// Of pagerduty.
    ///
    /// Default: none; needed there.
    routing_key: Option<SecretRef>,
    /// Of pagerduty: another address than its own.
    ///
    /// Default: PagerDuty's.
    endpoint: Option<String>,
    /// Of webhook.
    ///
    /// Default: `POST`.
    method: Option<String>,
    /// Of webhook; a value may be a secret, and one that authorizes must be.
    ///
    /// Default: none.
    headers: Option<BTreeMap<String, Text>>,
    /// Of webhook: a template of what is sent.
    ///
    /// Default: all of it as JSON.
    body: Option<String>,
    /// Of smtp.
    ///
    /// Default: none; needed there.
    host: Option<String>,
    /// Of smtp.
    ///
    /// Default: as `tls` needs it.
    port: Option<u16>,
    /// Of smtp.
    ///
    /// Default: `starttls`.
    tls: Option<Protection>,
    /// Of smtp: the sender.
    ///
    /// Default: none; needed there.
    from: Option<String>,
    /// Of smtp: who gets it.
    ///
    /// Default: none; needed there.
    to: Option<Vec<String>>,
    /// Of smtp and alertmanager, with `password`.
    ///
    /// Default: none.
    user: Option<String>,
    /// Of smtp and alertmanager.
    ///
    /// Default: none.
    password: Option<SecretRef>,
    /// Of alertmanager: each of its members.
    ///
    /// Default: none; needed there.
    urls: Option<Vec<String>>,
    /// Of alertmanager: a token instead of user and password.
    ///
    /// Default: none.
    bearer: Option<SecretRef>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Slack,
    PagerDuty,
    Webhook,
    Smtp,
    Alertmanager,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Slack => "slack",
            Self::PagerDuty => "pagerduty",
            Self::Webhook => "webhook",
            Self::Smtp => "smtp",
            Self::Alertmanager => "alertmanager",
        }
    }

    /// The keys that it cannot do without, and those that it may have.
    const fn keys(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Slack => (&["url"], &["ca_file"]),
            Self::PagerDuty => (&["routing_key"], &["endpoint", "ca_file"]),
            Self::Webhook => (&["url"], &["method", "headers", "body", "ca_file"]),
            Self::Smtp => (&["host", "from", "to"], &["port", "tls", "user", "password", "ca_file"]),
            Self::Alertmanager => (&["urls"], &["user", "password", "bearer", "ca_file"]),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protection {
    StartTls,
    Tls,
    Off,
}

/// What may be a secret and need not be: `env:NAME` and `file:PATH` are looked up, all else means itself.
#[derive(Deserialize)]
#[serde(from = "String")]
enum Text {
    Plain(String),
    Secret(SecretRef),
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        match SecretRef::try_from(text.clone()) {
            Ok(secret) => Self::Secret(secret),
            Err(_) => Self::Plain(text),
        }
    }
}

/// It may have been meant to be secret.
impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(_) => f.write_str("Plain(…)"),
            Self::Secret(secret) => write!(f, "{secret:?}"),
        }
    }
}

impl Text {
    fn resolve(&self, key: &str) -> Result<Secret, Fault> {
        match self {
            Self::Plain(text) => Ok(Secret::new(text.clone())),
            Self::Secret(secret) => secret.resolve(key),
        }
    }
}

impl Alerts {
    /// How far the log may be behind.
    pub fn wal_lag(&self) -> Duration {
        self.wal_lag.unwrap_or(HOUR / 4)
    }
    /// How far a second copy may be behind.
    pub fn replication_lag(&self) -> Duration {
        self.replication_lag.unwrap_or(HOUR)
    }

    /// How patient alerts are.
    pub fn patience(&self) -> Patience {
        let usual = Patience::default();
        let repeat_critical = self.repeat.unwrap_or(usual.repeat_critical);
        Patience {
            repeat_critical,
            repeat_warning: usual.repeat_warning.max(repeat_critical),
            escalate_after: self.escalate_after.unwrap_or(usual.escalate_after),
        }
    }

    /// How a teller is set up; `lives_on` where it goes on judging.
    pub fn setup(&self, lives_on: bool) -> Setup {
        let usual = Setup::default();
        let in_a_line = |Fault(advice, _): Fault| format!("{}: {}", advice.summary, advice.detail.trim_end_matches('.'));
        let heartbeat = self.heartbeat.as_ref().map(|url| url.resolve("alerts.heartbeat").map_err(in_a_line));
        let heartbeat_interval = self.heartbeat_interval.unwrap_or(usual.heartbeat_interval);
        Setup { patience: self.patience(), lives_on, heartbeat, heartbeat_interval, ..usual }
    }

    /// Every channel that is configured. One that cannot be made fails whenever it is used, and so becomes an alert on the others.
    pub fn channels(&self) -> Vec<Named> {
        let made = |config: &ChannelConfig| {
            let (name, min) = (config.name().to_owned(), config.min.unwrap_or(Urgency::Warning));
            match config.made() {
                Ok(channel) => Named { name, min, channel },
                Err(Fault(advice, _)) => {
                    let why = format!("{}: {}", advice.summary, advice.detail.trim_end_matches('.'));
                    Named::broken(name, min, config.kind.name(), why)
                }
            }
        };
        self.channel.iter().map(made).collect()
    }

    /// The channels that cannot be made in this process, and why.
    pub fn broken(&self) -> Vec<(&str, Fault)> {
        self.channel.iter().filter_map(|config| Some((config.name(), config.made().err()?))).collect()
    }

    /// Name and type of each channel.
    pub fn known(&self) -> Vec<(&str, &'static str)> {
        self.channel.iter().map(|channel| (channel.name(), channel.kind.name())).collect()
    }

    pub(super) fn check(&self) -> Result<(), Fault> {
        let mut names = BTreeSet::new();
        for channel in &self.channel {
            channel.check()?;
            if !names.insert(channel.name()) {
                let hint = "Give each [[alerts.channel]] a name of its own; without one it is called by its type.";
                return Err(Fault::misuse("config-wrong", format!("two alert channels are called {:?}", channel.name()), "", hint));
            }
        }
        for (key, found) in [("repeat", self.repeat), ("escalate_after", self.escalate_after), ("heartbeat_interval", self.heartbeat_interval)] {
            if found.is_some_and(|found| found < Duration::from_secs(1)) {
                return Err(Fault::misuse("config-wrong", format!("alerts.{key} is below 1s"), "", "Write a duration such as 30s, 5m or 4h."));
            }
        }
        Ok(())
    }
}

impl ChannelConfig {
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.kind.name())
    }

    /// The keys that are set, but for those that every channel has.
    fn given(&self) -> Vec<&'static str> {
        let Self { ca_file, url, routing_key, endpoint, method, headers, body, host, port, tls, from, to, user, password, urls, bearer, .. } = self;
        let all = [
            ("ca_file", ca_file.is_some()),
            ("url", url.is_some()),
            ("routing_key", routing_key.is_some()),
            ("endpoint", endpoint.is_some()),
            ("method", method.is_some()),
            ("headers", headers.is_some()),
            ("body", body.is_some()),
            ("host", host.is_some()),
            ("port", port.is_some()),
            ("tls", tls.is_some()),
            ("from", from.is_some()),
            ("to", to.is_some()),
            ("user", user.is_some()),
            ("password", password.is_some()),
            ("urls", urls.is_some()),
            ("bearer", bearer.is_some()),
        ];
        all.into_iter().filter(|(_, is_given)| *is_given).map(|(key, _)| key).collect()
    }

    fn check(&self) -> Result<(), Fault> {
        let (name, kind) = (self.name(), self.kind.name());
        let wrong = |why: String, hint: String| Err(Fault::misuse("config-wrong", format!("the alert channel {name:?} is wrong"), why, hint));
        // The dead man's switch has its place among the channels' names.
        if name.is_empty() || name == "heartbeat" || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            let hint = "Use letters, digits, dots, dashes and underscores, and not \"heartbeat\".";
            return wrong("Its name is none.".into(), hint.into());
        }
        let (needed, allowed) = self.kind.keys();
        let given = self.given();
        let keys = || [&["type", "name", "min"], needed, allowed].concat().join(", ");
        if let Some(foreign) = given.iter().find(|key| !needed.contains(key) && !allowed.contains(key)) {
            return wrong(format!("A channel of type {kind} has no {foreign}."), format!("Its keys are {}.", keys()));
        }
        if let Some(missing) = needed.iter().find(|key| !given.contains(key)) {
            return wrong(format!("It has no {missing}, and a channel of type {kind} needs it."), format!("Its keys are {}.", keys()));
        }
        let secret_hint = || "A secret is given as env:NAME or file:PATH, never as itself.".to_owned();
        for (header, value) in self.headers.iter().flatten() {
            let lower = header.to_lowercase();
            if matches!(value, Text::Plain(_)) && ["auth", "token", "secret", "key", "cookie"].iter().any(|word| lower.contains(word)) {
                return wrong(format!("Its header {header} authorizes."), secret_hint());
            }
        }
        if self.urls.iter().flatten().any(|url| url.contains('@')) {
            return wrong(
                "One of its urls holds a user or a password.".into(),
                "Use user and password; the password as env:NAME or file:PATH.".into(),
            );
        }
        if self.user.is_some() != self.password.is_some() {
            return wrong("user and password belong together.".into(), secret_hint());
        }
        if self.user.is_some() && self.bearer.is_some() {
            return wrong("It has a password and a bearer.".into(), "Leave one of them out.".into());
        }
        Ok(())
    }

    /// Ready to be used. Secrets are looked up now.
    fn made(&self) -> Result<Box<dyn Channel>, Fault> {
        let (name, ca_file) = (self.name(), self.ca_file.as_deref());
        let key = |key: &str| format!("alerts.channel {name}, {key}");
        let secret = |secret: &Option<SecretRef>, which: &str| -> Result<Option<Secret>, Fault> {
            secret.as_ref().map(|secret| secret.resolve(&key(which))).transpose()
        };
        let password = secret(&self.password, "password")?;
        let login = self.user.clone().zip(password);
        let made: Result<Box<dyn Channel>, AlertError> = match self.kind {
            Kind::Slack => Slack::new(name, &secret(&self.url, "url")?.ok_or_else(lost)?, ca_file).map(boxed),
            Kind::PagerDuty => {
                let routing_key = secret(&self.routing_key, "routing_key")?.ok_or_else(lost)?;
                PagerDuty::new(name, routing_key, self.endpoint.as_deref(), ca_file).map(boxed)
            }
            Kind::Webhook => {
                let resolved = |(header, value): (&String, &Text)| Ok((header.clone(), value.resolve(&key(&format!("header {header}")))?));
                let headers: Vec<(String, Secret)> = self.headers.iter().flatten().map(resolved).collect::<Result<_, Fault>>()?;
                let url = secret(&self.url, "url")?.ok_or_else(lost)?;
                Webhook::new(name, &url, self.method.as_deref(), &headers, self.body.as_deref(), ca_file).map(boxed)
            }
            Kind::Smtp => {
                let tls = match self.tls.unwrap_or(Protection::StartTls) {
                    Protection::StartTls => MailTls::StartTls,
                    Protection::Tls => MailTls::Tls,
                    Protection::Off => MailTls::Off,
                };
                let (Some(host), Some(from), Some(to)) = (&self.host, &self.from, &self.to) else { return Err(lost()) };
                Smtp::new(name, host, self.port, tls, login, from, to, ca_file).map(boxed)
            }
            Kind::Alertmanager => {
                let access = match (login, secret(&self.bearer, "bearer")?) {
                    (Some((user, password)), _) => Access::Basic { user, password },
                    (None, Some(token)) => Access::Bearer(token),
                    (None, None) => Access::Open,
                };
                Alertmanager::new(name, self.urls.as_deref().unwrap_or_default(), access, ca_file).map(boxed)
            }
        };
        made.map_err(|e| Fault(e.advice(), None))
    }
}

fn boxed<C: Channel + 'static>(channel: C) -> Box<dyn Channel> {
    Box::new(channel)
}

/// What the check of the configuration should have found.
fn lost() -> Fault {
    Fault::of("bug", terms::Class::Bug, "an alert channel lacks what it needs", "", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alerts(text: &str) -> Result<Alerts, String> {
        let alerts: Alerts = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        alerts.check().map_err(|fault| format!("{} {} {}", fault.0.summary, fault.0.detail, fault.0.hint))?;
        Ok(alerts)
    }

    #[test]
    fn every_type_of_channel_is_read() {
        let read = alerts(
            "repeat = '1h'\nheartbeat = 'env:BEAT'\n\
             [[channel]]\ntype = 'slack'\nurl = 'env:SLACK'\n\
             [[channel]]\ntype = 'pagerduty'\nrouting_key = 'file:/k'\nmin = 'critical'\n\
             [[channel]]\ntype = 'webhook'\nname = 'hook'\nurl = 'env:HOOK'\nheaders = { Authorization = 'env:TOKEN', X-Team = 'dba' }\n\
             [[channel]]\ntype = 'smtp'\nhost = 'mail'\nfrom = 'b@example.org'\nto = ['a@example.org']\nuser = 'u'\npassword = 'env:P'\n\
             [[channel]]\ntype = 'alertmanager'\nurls = ['http://a:9093', 'http://b:9093']\n",
        );
        let read = read.unwrap();
        assert_eq!(read.channel.iter().map(ChannelConfig::name).collect::<Vec<_>>(), ["slack", "pagerduty", "hook", "smtp", "alertmanager"]);
        assert_eq!((read.patience().repeat_critical, read.patience().repeat_warning), (HOUR, 24 * HOUR));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_is_repeated() {
        for (text, words) in [
            ("type = 'pigeon'", &["pigeon", "slack"][..]),
            ("type = 'slack'", &["no url"]),
            ("type = 'slack'\nurl = 'https://hooks.example.org/hunter2'", &["never as itself", "env:NAME"]),
            ("type = 'slack'\nurl = 'env:A'\nto = ['hunter2@example.org']", &["has no to", "Its keys are"]),
            ("type = 'slack'\nurl = 'env:A'\nurll = 'hunter2'", &["urll"]),
            ("type = 'pagerduty'\nrouting_key = 'hunter2'", &["never as itself"]),
            ("type = 'webhook'\nurl = 'env:A'\nheaders = { X-Api-Key = 'hunter2' }", &["X-Api-Key", "env:NAME"]),
            ("type = 'smtp'\nhost = 'm'\nfrom = 'a@b'\nto = ['a@b']\nuser = 'u'", &["belong together"]),
            ("type = 'alertmanager'\nurls = ['http://u:hunter2@a:9093']", &["user or a password"]),
            ("type = 'slack'\nurl = 'env:A'\nmin = 'info'", &["info", "warning"]),
            ("type = 'slack'\nurl = 'env:A'\nname = 'a b'", &["name"]),
            ("type = 'slack'\nurl = 'env:A'\n[[channel]]\ntype = 'slack'\nurl = 'env:B'", &["two alert channels"]),
        ] {
            let said = alerts(&format!("[[channel]]\n{text}\n")).expect_err(text);
            assert!(words.iter().all(|word| said.contains(word)) && !said.contains("hunter2"), "{text}: {said}");
        }
    }

    #[test]
    fn a_channel_that_cannot_be_made_is_there_and_broken() {
        let read = alerts("[[channel]]\ntype = 'slack'\nurl = 'env:BOWLINE_NO_SUCH_NAME'\n").unwrap();
        let channels = read.channels();
        assert_eq!((channels.len(), channels[0].name.as_str(), channels[0].channel.kind()), (1, "slack", "slack"));
    }
}
