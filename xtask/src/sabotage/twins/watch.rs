//! Twins of rules, alerts, jobs and the page.

use super::{Twin, twin};

pub const TWINS: &[Twin] = &[
    twin(
        "what is not looked at is over",
        "crates/alerts/src/fold.rs",
        "        !self.judgement.unknown.contains(&alert.rule) && self.only.is_none_or(|only| only.iter().any(is_looked_at))",
        "        let _ = is_looked_at; true",
        ("alerts", "two_processes_lose_nothing"),
    ),
    twin(
        "alerts wait for the repository",
        "crates/alerts/src/memory.rs",
        "const LIMIT: Duration = Duration::from_secs(4);",
        "const LIMIT: Duration = Duration::from_secs(400);",
        ("alerts", "alerts_leave_while_the_repository_is_away"),
    ),
    twin(
        "what another process wrote is written over",
        "crates/alerts/src/memory.rs",
        "self.state = if self.is_ahead { kept.merged(std::mem::take(&mut self.state)) } else { kept };",
        "drop(kept);",
        ("alerts", "two_processes_lose_nothing"),
    ),
    twin(
        "a dead channel is nobody's business",
        "crates/alerts/src/teller.rs",
        "judgement.alarms.extend(self.dead_channels(&state, now));",
        "drop(self.dead_channels(&state, now));",
        ("alerts", "a_critical_alarm_is_with_everybody"),
    ),
    twin(
        "a message that was refused is not tried again",
        "crates/alerts/src/lane.rs",
        "let pause = self.retries.get(attempts).or(self.retries.last().filter(|_| is_probe));",
        "let pause = self.retries.get(attempts).filter(|_| is_probe && false);",
        ("alerts", "a_critical_alarm_is_with_everybody"),
    ),
    twin(
        "the address with its token is told",
        "crates/alerts/src/channel/mod.rs",
        "    let said = scrub.clean(&cut(&beginning(&mut response).await, ANSWER_LETTERS));",
        "    let said = Scrub::default().clean(&cut(&beginning(&mut response).await, ANSWER_LETTERS));",
        ("e2e_alerts", "a_test_goes_over_every_channel"),
    ),
    twin(
        "a silence is noted and nobody is spared",
        "crates/alerts/src/fold.rs",
        "    if silence.is_some() {",
        "    if silence.is_some() && false {",
        ("e2e_alerts", "what_fires_is_listed"),
    ),
    twin(
        "the heartbeat goes on whatever fires",
        "crates/alerts/src/teller.rs",
        "if !healthy || lock(&self.shared.shown).alerts.iter().any(is_critical) {",
        "if !healthy || lock(&self.shared.shown).alerts.iter().any(is_critical) && false {",
        ("alerts", "the_dead_mans_switch"),
    ),
    twin(
        "mail is sent to whoever says to be the server",
        "crates/alerts/src/channel/smtp.rs",
        "            let mut builder = TlsParameters::builder(host.to_owned());",
        "            let mut builder = TlsParameters::builder(host.to_owned()).dangerous_accept_invalid_certs(true);",
        ("alerts", "mail_goes_over_tls_only"),
    ),
    twin(
        "the page is open beyond this host",
        "crates/page/src/door.rs",
        "lacks.filter(|_| !listen.ip().is_loopback())",
        "lacks.filter(|_| !listen.ip().is_loopback() && false)",
        ("showing", "beyond_this_host"),
    ),
    twin(
        "whoever has no token sees the page's facts",
        "crates/page/src/routes.rs",
        "if access.is_open() || cookie(request.headers())",
        "if true || access.is_open() || cookie(request.headers())",
        ("showing", "with_a_token_nobody"),
    ),
    twin(
        "whoever guesses the page's token need not wait",
        "crates/page/src/access.rs",
        "const FAILURES_MAX: u32 = 8;",
        "const FAILURES_MAX: u32 = 800;",
        ("showing", "with_a_token_nobody"),
    ),
    twin(
        "a page of another site may ask under a name of its own",
        "crates/page/src/routes.rs",
        "state.0.access.is_open() && !is_local(request.headers())",
        "state.0.access.is_open() && !is_local(request.headers()) && false",
        ("showing", "on_this_host"),
    ),
    twin(
        "what could not be looked at counts as well",
        "crates/page/src/metrics.rs",
        "None if judgement.unknown.contains(rule) => None,",
        "None if judgement.unknown.contains(rule) => Some(0.0),",
        ("showing", "what_could_not_be_looked_at"),
    ),
];
