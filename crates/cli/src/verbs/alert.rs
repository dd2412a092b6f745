//! `bowline alert`: whether people are told, what they are told of, and what they want to be spared for a while.

use crate::args::{AlertVerb, Common, SilenceArgs};
use crate::fault::Fault;
use crate::show::Printer;
use crate::wiring::Wiring;
use alerts::{AlertView, State, Tried, View};
use repo::Silence;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terms::{Class, Clock, SystemClock, Timestamp};

/// How long the outcome of a test may take to be written down.
const KEEP_LIMIT: Duration = Duration::from_secs(5);
/// So many deliveries are shown.
const DELIVERIES_SHOWN: usize = 20;

pub async fn run(common: &Common, verb: &AlertVerb, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    match verb {
        AlertVerb::Test { channel } => test(&wiring, channel.as_deref(), printer).await,
        AlertVerb::List { all } => list(&wiring, *all, printer).await,
        AlertVerb::Silence(asked) => silence(&wiring, asked, printer).await,
        AlertVerb::Unsilence { id } => unsilence(&wiring, id, printer).await,
    }
}

async fn test(wiring: &Wiring, channel: Option<&str>, printer: &Printer) -> Result<ExitCode, Fault> {
    if wiring.config.alerts.known().is_empty() {
        let hint = "Add at least one to the configuration, such as [[alerts.channel]] with type = \"slack\" and url = \"env:SLACK_WEBHOOK\"; see docs/alerts.md.";
        return Err(Fault::misuse("alert-channel-unknown", "there is no alert channel: nobody is told of anything", "", hint));
    }
    let teller = wiring.teller(false)?;
    let tried = teller.test(channel).await?;
    // Only whoever looks at the repository misses it when it cannot be written down.
    teller.finish(KEEP_LIMIT).await;
    for Tried { channel, kind, trouble } in &tried {
        printer.say(match trouble {
            None => format!("{channel:<16} {kind:<13} delivered"),
            Some(trouble) => format!("{channel:<16} {kind:<13} FAILED: {}", trouble.why),
        });
        for hint in trouble.iter().map(|trouble| trouble.hint).filter(|hint| !hint.is_empty()) {
            printer.say(format!("{:<31}{hint}", ""));
        }
    }
    let one = |tried: &Tried| {
        let trouble = tried.trouble.as_ref();
        json!({ "channel": tried.channel, "type": tried.kind, "ok": trouble.is_none(), "why": trouble.map(|t| &t.why), "hint": trouble.map(|t| t.hint) })
    };
    let outcomes: Vec<Value> = tried.iter().map(one).collect();
    let failed: Vec<(&Tried, &alerts::Undelivered)> = tried.iter().filter_map(|tried| Some((tried, tried.trouble.as_ref()?))).collect();
    let Some((_, first)) = failed.first() else {
        printer.result(json!({ "channels": outcomes }));
        return Ok(ExitCode::SUCCESS);
    };
    let names: Vec<&str> = failed.iter().map(|(tried, _)| tried.channel.as_str()).collect();
    let whys: Vec<String> = failed.iter().map(|(tried, trouble)| format!("{}: {}.", tried.channel, trouble.why.trim_end_matches('.'))).collect();
    let summary = format!("{} of {} alert channels did not take the test: {}", failed.len(), tried.len(), names.join(", "));
    Err(Fault::of("alert-undelivered", Class::Transient, summary, whys.join(" "), first.hint).with("channels", json!(outcomes)))
}

async fn list(wiring: &Wiring, all: bool, printer: &Printer) -> Result<ExitCode, Fault> {
    let (shelf, now) = (wiring.alert_shelf()?, SystemClock.now());
    let state = shelf.state::<State>(None).await?.map(|(state, _)| state).unwrap_or_default();
    let mut view = View::of(&state);
    let known: Vec<(&str, &'static str, usize)> = wiring.config.alerts.known().into_iter().map(|(name, kind)| (name, kind, 0)).collect();
    view.name_channels(&known);
    let mut silences = shelf.silences(now).await?;
    if !all {
        view.alerts.retain(|alert| alert.state != "resolved");
        view.deliveries.clear();
        silences.retain(|silence| silence.holds_at(now));
    }
    view.deliveries.truncate(DELIVERIES_SHOWN);
    if !view.alerts.iter().any(|alert| alert.state != "resolved") {
        printer.say("no alert fires");
    }
    for alert in &view.alerts {
        show_alert(alert, printer);
    }
    for silence in &silences {
        let subject = silence.subject.as_ref().map(|subject| format!(":{subject}")).unwrap_or_default();
        let end = match silence.ended {
            Some(at) => format!("ended at {at}"),
            None => format!("until {}", silence.until),
        };
        printer.say(format!("silence {}  {}{subject} {end}, by {}: {}", silence.id, silence.rule, silence.who, silence.why));
    }
    if known.is_empty() {
        printer.say("no channel is configured: nobody is told of anything");
    }
    for channel in &view.channels {
        let fares = match (channel.failing_since, channel.last_delivered) {
            (Some(since), _) => format!("FAILS since {since}: {}", channel.why.as_deref().unwrap_or("no reason is known")),
            (None, Some(at)) => format!("delivered last at {at}"),
            (None, None) => "never used yet; bowline alert test tries it".to_owned(),
        };
        printer.say(format!("channel {:<14} {:<13} {fares}", channel.name, channel.kind.unwrap_or_default()));
    }
    for delivery in &view.deliveries {
        let how = match &delivery.why {
            None => "delivered".to_owned(),
            Some(why) => format!("failed {} times, last: {why}", delivery.attempts),
        };
        printer.say(format!("{}  {:<14} {} {} {how}", delivery.at, delivery.channel, delivery.kind, name_of(&delivery.rule, &delivery.subject)));
    }
    printer.result(json!({
        "repository": shelf.address(), "alerts": view.alerts, "channels": view.channels, "silences": silences, "deliveries": view.deliveries,
    }));
    Ok(ExitCode::SUCCESS)
}

fn show_alert(alert: &AlertView, printer: &Printer) {
    let end = alert.resolved.map(|at| format!(" until {at}")).unwrap_or_default();
    let word = if alert.state == "firing" { alert.urgency.name() } else { alert.state };
    printer.say(format!("{word:<8} {} since {}{end}: {}", name_of(&alert.rule, &alert.subject), alert.since, alert.summary));
    for line in [&alert.detail, &alert.hint].into_iter().filter(|line| !line.is_empty()) {
        printer.say(format!("         {line}"));
    }
    let told = match (alert.told, alert.delivered) {
        (None, _) => "nobody was told".to_owned(),
        (Some(at), true) => format!("told at {at}"),
        (Some(at), false) => format!("sent at {at}, and no channel took it yet"),
    };
    printer.say(format!("         {told}"));
}

fn name_of(rule: &str, subject: &str) -> String {
    if subject.is_empty() { rule.to_owned() } else { format!("{rule}:{subject}") }
}

async fn silence(wiring: &Wiring, asked: &SilenceArgs, printer: &Printer) -> Result<ExitCode, Fault> {
    let (shelf, now) = (wiring.alert_shelf()?, SystemClock.now());
    // Whether this is a repository at all; and what fires, so that a misspelled rule is noticed.
    let state = shelf.state::<State>(None).await?.map(|(state, _)| state).unwrap_or_default();
    let wish = Silence {
        format: 0,
        id: String::new(),
        rule: asked.what.rule.clone(),
        subject: asked.what.subject.clone(),
        why: asked.why.clone(),
        who: who(),
        since: now,
        until: after(now, asked.time),
        ended: None,
    };
    let silence = shelf.silence(wish).await?;
    printer.say(format!("silence {} holds until {}", silence.id, silence.until));
    let about: Vec<String> = state
        .alerts
        .iter()
        .filter(|alert| alert.fires() && silence.is_about(&alert.rule, &alert.subject))
        .map(|alert| name_of(&alert.rule, &alert.subject))
        .collect();
    match about.is_empty() {
        true => printer.say("nothing that fires now is silenced by it"),
        false => printer.say(format!("it is about {}, which fires now", about.join(", "))),
    }
    printer.result(json!({ "silence": silence, "silenced_now": about }));
    Ok(ExitCode::SUCCESS)
}

async fn unsilence(wiring: &Wiring, id: &str, printer: &Printer) -> Result<ExitCode, Fault> {
    let Some(silence) = wiring.alert_shelf()?.unsilence(id, SystemClock.now()).await? else {
        return Err(Fault::of("silence-missing", Class::Missing, format!("there is no silence {id}"), "", "See bowline alert list."));
    };
    printer.say(format!("silence {id} is over"));
    printer.result(json!({ "silence": silence }));
    Ok(ExitCode::SUCCESS)
}

/// Who asks: the user of this host.
fn who() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    format!("{}@{}", user.map_or_else(|| nix::unistd::geteuid().to_string(), |user| user.name), crate::verbs::host())
}

fn after(now: Timestamp, time: Duration) -> Timestamp {
    now.plus_micros(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
}
