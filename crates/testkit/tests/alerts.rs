//! Whoever is to be told is told: a real Alertmanager, a real mail server, mocks of Slack, PagerDuty and a webhook, of which some hang, refuse and come back.

use alerts::{Access, Channel, Judged, Kind, MailTls, Named, PagerDuty, Setup, Slack, Smtp, Source, State, Teller, Webhook};
use bytes::Bytes;
use repo::{AlertShelf, Silence};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};
use store::{FaultPlan, Faults, Memory, ObjectPath, Put};
use terms::{Alarm, Clock, Judgement, Secret, SystemClock, Timestamp, Urgency};
use testkit::{Alertmanager, Hook, MailServer, Manner};

const TOKEN: &str = "T0000000-hunter2-slack-token";
const ROUTING_KEY: &str = "hunter2-routing-key-hunter2-routing";
const HEADER: &str = "hunter2-header-token";
/// Within seconds of its detection.
const SOON: Duration = Duration::from_secs(5);

fn secret(text: impl Into<String>) -> Secret {
    Secret::new(text.into())
}

fn one_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| rustls::crypto::aws_lc_rs::default_provider().install_default().expect("the only one"));
}

fn named(name: &str, channel: impl Channel + 'static) -> Named {
    Named { name: name.to_owned(), min: Urgency::Warning, channel: Box::new(channel) }
}

fn slack(name: &str, hook: &Hook) -> Named {
    named(name, Slack::new(name, &secret(hook.url(&format!("services/{TOKEN}"))), None).expect("a channel"))
}

fn pagerduty(hook: &Hook) -> Named {
    named("pagerduty", PagerDuty::new("pagerduty", secret(ROUTING_KEY), Some(&hook.url("v2/enqueue")), None).expect("a channel"))
}

fn webhook(hook: &Hook, template: Option<&str>) -> Named {
    let headers = [("X-Token".to_owned(), secret(HEADER))];
    named("webhook", Webhook::new("webhook", &secret(hook.url("in")), None, &headers, template, None).expect("a channel"))
}

fn mail(server: &MailServer, tls: MailTls, password: &str, ca_file: Option<&Path>) -> Named {
    let login = Some((testkit::mail::USER.to_owned(), secret(password)));
    let to = ["dba@example.org".to_owned(), "On Call <on-call@example.org>".to_owned()];
    named("mail", Smtp::new("mail", "127.0.0.1", Some(server.port()), tls, login, "Bowline <bowline@example.org>", &to, ca_file).expect("a channel"))
}

fn alarm(rule: &str, urgency: Urgency) -> Alarm {
    Alarm {
        rule: rule.to_owned(),
        subject: "main".to_owned(),
        urgency,
        summary: format!("{rule} is <broken> & \"bent\""),
        detail: "The disk is full.".to_owned(),
        hint: "Free some space.".to_owned(),
    }
}

fn judged(alarms: &[Alarm]) -> Judgement {
    Judgement { alarms: alarms.to_vec(), unknown: BTreeSet::new() }
}

fn source() -> Source {
    Source { org: "acme".into(), repository: "memory:".into(), host: "db1".into() }
}

/// A repository in memory.
async fn store() -> Arc<Memory> {
    let store = Arc::new(Memory::new());
    let path = ObjectPath::new("repository.json".to_owned()).expect("a path");
    store.put_new(&path, Bytes::from_static(b"{}")).await.expect("a repository");
    store
}

fn quick() -> Setup {
    Setup {
        dead_after: Duration::from_secs(1),
        away_for: Duration::from_secs(1),
        retries: [1, 1, 2, 4].map(Duration::from_secs).to_vec(),
        ..Setup::default()
    }
}

fn teller(setup: Setup, channels: Vec<Named>, store: Arc<dyn Put>) -> Teller {
    one_provider();
    Teller::start(setup, channels, Some(AlertShelf::new(store)), source(), Arc::new(SystemClock))
}

fn now() -> Timestamp {
    SystemClock.now()
}

async fn state(store: &Arc<Memory>) -> State {
    let shelf = AlertShelf::new(store.clone());
    shelf.state::<State>(None).await.expect("the state reads").expect("a state").0
}

/// Judges this again and again until it is so.
async fn judge_until(teller: &Teller, judgement: &Judgement, what: &str, limit: Duration, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < limit, "{what} was not so within {limit:?}: {:#?}", teller.view());
        teller.judge(judgement, now()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn refuse_secrets(words: &str) {
    for word in ["hunter2", TOKEN, ROUTING_KEY, HEADER, testkit::mail::PASSWORD] {
        assert!(!words.contains(word), "{word} is told: {words}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_critical_alarm_is_with_everybody_in_seconds_although_one_channel_hangs_and_one_refuses_and_so_is_its_end() {
    let notified = Hook::start(Manner::Takes);
    let (manager, server) = (Alertmanager::start(&notified.url("notified")), MailServer::start("starttls"));
    let (chat, pager, hook, deaf) = (Hook::start(Manner::Takes), Hook::start(Manner::Takes), Hook::start(Manner::Takes), Hook::start(Manner::Hangs));
    let sour = Hook::start(Manner::Answers(403, format!("invalid_token services/{TOKEN}")));
    let nobody = "http://127.0.0.1:1".to_owned();
    let of_prometheus = alerts::Alertmanager::new("alertmanager", &[nobody, manager.url()], Access::Open, None).expect("a channel");
    let channels = vec![
        slack("deaf", &deaf),
        slack("sour", &sour),
        slack("slack", &chat),
        pagerduty(&pager),
        webhook(&hook, Some("{\"text\": {{ summary | tojson }}, \"state\": \"{{ state }}\"}")),
        mail(&server, MailTls::StartTls, testkit::mail::PASSWORD, Some(&server.ca_file())),
        named("alertmanager", of_prometheus),
    ];
    let store = store().await;
    let teller = teller(quick(), channels, store.clone());
    let begun = Instant::now();
    let told = teller.judge(&judged(&[alarm("wal-lag", Urgency::Critical)]), now()).await;
    assert_eq!(told.iter().map(|notice| notice.kind).collect::<Vec<_>>(), [Kind::Firing]);

    let text = chat.wait_for("Slack's message", SOON, |asked| asked.body.contains("CRITICAL"));
    assert_eq!(text.line, format!("POST /services/{TOKEN}"));
    assert!(text.json()["text"].as_str().is_some_and(|text| text.contains("wal-lag is &lt;broken&gt; &amp;")), "{}", text.body);
    let trigger = pager.wait_for("PagerDuty's event", SOON, |asked| asked.json()["event_action"] == "trigger").json();
    assert_eq!((&trigger["routing_key"], &trigger["payload"]["severity"]), (&ROUTING_KEY.into(), &"critical".into()));
    let post = hook.wait_for("the webhook's request", SOON, |asked| asked.json()["state"] == "firing");
    assert_eq!((post.header("x-token"), post.json()["text"].as_str()), (Some(HEADER), Some("wal-lag is <broken> & \"bent\"")));
    let letter = server.wait_for("Subject: CRITICAL (acme): wal-lag", SOON);
    assert!(letter.contains("X-Envelope-To: dba@example.org,on-call@example.org") && letter.contains("Free some space."), "{letter}");
    let alert = notified.wait_for("Alertmanager's notification", SOON, |asked| asked.json()["status"] == "firing").json();
    assert_eq!((&alert["alerts"][0]["labels"]["severity"], &alert["alerts"][0]["labels"]["rule"]), (&"critical".into(), &"wal-lag".into()));
    eprintln!("all five had it after {:?}", begun.elapsed());
    assert!(begun.elapsed() < SOON && manager.firing().len() == 1);

    // Those that nothing gets through to are alarms themselves, told over the others.
    let fires = judged(&[alarm("wal-lag", Urgency::Critical)]);
    for name in ["sour", "deaf"] {
        let is_told = || chat.asked().iter().any(|asked| asked.body.contains(&format!("alerts do not get through over {name}")));
        judge_until(&teller, &fires, "a dead channel's alarm", Duration::from_secs(20), is_told).await;
    }
    assert!(sour.asked().len() >= 2, "a refused message is tried again");
    let view = teller.view();
    let channel = |name: &str| view.channels.iter().find(|channel| channel.name == name).cloned().expect("a channel");
    let why = channel("sour").why.unwrap_or_default();
    assert!(why.contains("403") && why.contains("(secret)"), "{why}");
    assert!(channel("deaf").why.is_some_and(|why| why.contains("no answer within 10 s")) && channel("slack").failing_since.is_none());
    // They work again: that is the end of those alarms, and what they missed comes.
    deaf.set(Manner::Takes);
    sour.set(Manner::Takes);
    let is_over = |name: &str| {
        let view = teller.view();
        view.alerts.iter().any(|alert| alert.rule == "channel-dead" && alert.subject == name && alert.state == "resolved")
    };
    judge_until(&teller, &fires, "the end of dead channels", Duration::from_secs(20), || is_over("deaf") && is_over("sour")).await;
    sour.wait_for("what was refused", SOON, |asked| asked.body.contains("CRITICAL (acme): wal-lag"));

    let begun = Instant::now();
    let told = teller.judge(&judged(&[]), now()).await;
    assert!(told.iter().any(|notice| notice.kind == Kind::Resolved && notice.alarm.rule == "wal-lag"), "{told:?}");
    chat.wait_for("Slack's end", SOON, |asked| asked.body.contains("RESOLVED (acme): wal-lag"));
    let end = pager
        .wait_for("PagerDuty's end", SOON, |asked| asked.json()["event_action"] == "resolve" && asked.json()["dedup_key"] == trigger["dedup_key"]);
    assert_eq!(end.line, "POST /v2/enqueue");
    hook.wait_for("the webhook's end", SOON, |asked| asked.json()["state"] == "resolved");
    server.wait_for("Subject: RESOLVED (acme): wal-lag", SOON);
    let is_end = |asked: &testkit::hook::Asked| asked.json()["status"] == "resolved" && asked.body.contains("\"rule\":\"wal-lag\"");
    notified.wait_for("Alertmanager's end", SOON, is_end);
    eprintln!("all five had its end after {:?}", begun.elapsed());
    assert!(!manager.firing().iter().any(|alert| alert["labels"]["rule"] == "wal-lag"));

    assert_eq!(teller.finish(SOON).await, Vec::<String>::new());
    let kept = state(&store).await;
    assert!(kept.deliveries.iter().any(|delivery| delivery.channel == "sour" && !delivery.ok && delivery.attempts >= 2), "{kept:#?}");
    assert!(
        kept.find(&("wal-lag".into(), "main".into())).is_some_and(|alert| !alert.fires() && alert.resolved_told.is_some_and(|told| told.delivered))
    );
    refuse_secrets(&serde_json::to_string(&kept).expect("JSON"));
    refuse_secrets(&serde_json::to_string(&teller.view()).expect("JSON"));
    refuse_secrets(&format!("{kept:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_goes_over_tls_only_and_what_is_wrong_with_it_is_said_without_the_password() {
    let server = MailServer::start("tls");
    let store = store().await;
    let of = |channel: Named| teller(quick(), vec![channel], store.clone());
    let tried = of(mail(&server, MailTls::Tls, testkit::mail::PASSWORD, Some(&server.ca_file()))).test(None).await.expect("a trial");
    assert!(tried[0].trouble.is_none(), "{tried:?}");
    let letter = server.wait_for("Subject: TEST (acme): this is a test", SOON);
    assert!(letter.contains("X-Login: bowline"), "{letter}");
    for (channel, word) in [
        (mail(&server, MailTls::Tls, "hunter2-and-wrong", Some(&server.ca_file())), "535"),
        (mail(&server, MailTls::Tls, testkit::mail::PASSWORD, None), "certificate"),
    ] {
        let tried = of(channel).test(None).await.expect("a trial");
        let trouble = tried[0].trouble.clone().expect("it fails");
        assert!(trouble.why.to_lowercase().contains(word) && !trouble.hint.is_empty(), "{trouble:?}");
        refuse_secrets(&format!("{trouble:?}"));
    }
    let plain = Smtp::new("m", "127.0.0.1", None, MailTls::Off, Some(("u".into(), secret("p"))), "a@b.c", &["a@b.c".into()], None);
    assert!(plain.is_err(), "nobody logs in without TLS");
    assert_eq!(server.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_leave_while_the_repository_is_away_and_are_written_down_when_it_is_back() {
    let (chat, inner) = (Hook::start(Manner::Takes), store().await);
    for (fault, limit) in [(store::Fault::Before, Duration::from_secs(2)), (store::Fault::Stall(Duration::from_secs(60)), Duration::from_secs(6))] {
        let plan = FaultPlan::at(1, fault);
        let teller = teller(quick(), vec![slack("slack", &chat)], Arc::new(Faults::new(inner.clone(), plan)));
        let rule = format!("rule-{}", limit.as_secs());
        let begun = Instant::now();
        let told = teller.judge(&judged(&[alarm(&rule, Urgency::Critical)]), now()).await;
        chat.wait_for("the message", limit, |asked| asked.body.contains(&rule));
        assert!(begun.elapsed() < limit && told.len() == 1, "{:?} {told:?}", begun.elapsed());
        let known = AlertShelf::new(inner.clone()).state::<State>(None).await.expect("the store");
        assert!(known.is_none_or(|(state, _)| state.find(&(rule.clone(), "main".into())).is_none()), "nothing could be written");
        // Nothing is told twice meanwhile.
        assert!(teller.judge(&judged(&[alarm(&rule, Urgency::Critical)]), now()).await.is_empty());
        if fault == store::Fault::Before {
            // The repository is asked again after a while.
            tokio::time::sleep(Duration::from_millis(1100)).await;
            assert!(teller.judge(&judged(&[alarm(&rule, Urgency::Critical)]), now()).await.is_empty());
            let kept = state(&inner).await;
            let alert = kept.find(&(rule, "main".into())).cloned().expect("it is written down");
            assert!(alert.fires() && alert.told.is_some_and(|told| told.delivered), "{alert:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_lose_nothing_of_each_other_and_one_job_ends_no_alert_of_another() {
    let (chat, store) = (Hook::start(Manner::Takes), store().await);
    let one = || teller(quick(), vec![slack("slack", &chat)], store.clone());
    let (daemon, command) = (one(), one());
    // Both at once, again and again: each write is on top of the other's.
    for round in 0..5 {
        let (ours, theirs) = (format!("ours-{round}"), format!("theirs-{round}"));
        let daemons: Vec<Alarm> = (0..=round).map(|n| alarm(&format!("ours-{n}"), Urgency::Critical)).collect();
        let judged_by_daemon = Judgement { unknown: (0..=round).map(|n| format!("theirs-{n}")).collect(), ..judged(&daemons) };
        let failed = judged(&[alarm(&theirs, Urgency::Critical)]);
        let looked_at = [Judged::one(&theirs, "main")];
        let told = tokio::join!(daemon.judge(&judged_by_daemon, now()), command.tell_partial(&looked_at, &failed, now()));
        assert_eq!((told.0.len(), told.1.len()), (1, 1), "{told:?}");
        let kept = state(&store).await;
        for rule in [ours, theirs] {
            assert!(kept.find(&(rule.clone(), "main".into())).is_some_and(alerts::Alert::fires), "{rule} is lost: {kept:#?}");
        }
    }
    // The job works again: that ends its own alert and nobody else's.
    let told = command.tell_partial(&[Judged::one("theirs-0", "main")], &judged(&[]), now()).await;
    assert_eq!(told.iter().map(|notice| (notice.kind, notice.alarm.rule.as_str())).collect::<Vec<_>>(), [(Kind::Resolved, "theirs-0")]);
    command.finish(SOON).await;
    let kept = state(&store).await;
    assert_eq!(kept.alerts.iter().filter(|alert| alert.fires()).count(), 9);
    // A command that ended before anybody was told: the next process tells.
    drop((daemon, command));
    let deaf = Hook::start(Manner::Hangs);
    let ended = teller(quick(), vec![slack("slack", &deaf)], store.clone());
    assert_eq!(ended.tell_partial(&[Judged::one("job", "main")], &judged(&[alarm("job", Urgency::Critical)]), now()).await.len(), 1);
    drop(ended);
    let later = now().plus_micros(61_000_000);
    let next = one();
    let told = next.tell_partial(&[Judged::one("job", "main")], &judged(&[alarm("job", Urgency::Critical)]), later).await;
    assert_eq!(told.iter().map(|notice| notice.alarm.rule.as_str()).collect::<Vec<_>>(), ["job"], "who was to tell it has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_silenced_is_kept_and_told_when_its_silence_ends() {
    let (chat, store) = (Hook::start(Manner::Takes), store().await);
    let shelf = AlertShelf::new(store.clone());
    let wish = Silence {
        format: 0,
        id: String::new(),
        rule: "wal-*".into(),
        subject: None,
        why: "an upgrade".into(),
        who: "anna".into(),
        since: now(),
        until: now().plus_micros(3_600_000_000),
        ended: None,
    };
    let silence = shelf.silence(wish).await.expect("a silence");
    let teller = teller(quick(), vec![slack("slack", &chat)], store.clone());
    let fires = judged(&[alarm("wal-lag", Urgency::Critical), alarm("capacity", Urgency::Warning)]);
    teller.judge(&fires, now()).await;
    chat.wait_for("what is not silenced", SOON, |asked| asked.body.contains("capacity"));
    let view = teller.view();
    assert_eq!(
        view.alerts.iter().map(|alert| (alert.rule.as_str(), alert.state)).collect::<Vec<_>>(),
        [("wal-lag", "silenced"), ("capacity", "firing")]
    );
    // As long as critical alerts fire the dead man's switch is not pinged, silenced or not.
    assert!(!teller.heartbeat(true));
    shelf.unsilence(&silence.id, now()).await.expect("the store").expect("a silence");
    let is_told = || chat.asked().iter().any(|asked| asked.body.contains("wal-lag"));
    judge_until(&teller, &fires, "what was silenced", Duration::from_secs(15), is_told).await;
    assert_eq!(chat.asked().len(), 2, "each was told once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dead_mans_switch_is_pinged_only_while_all_is_well_and_no_message_goes_where_it_is_not_wanted() {
    let (beat, chat) = (Hook::start(Manner::Takes), Hook::start(Manner::Takes));
    let heartbeat = Some(Ok(secret(beat.url("ping/hunter2-beat"))));
    let setup = Setup { heartbeat, heartbeat_interval: Duration::from_millis(200), ..quick() };
    let only_critical = Named { min: Urgency::Critical, ..slack("slack", &chat) };
    let teller = teller(setup, vec![only_critical], store().await);
    assert!(teller.heartbeat(true) && !teller.heartbeat(true), "once in an interval");
    beat.wait_for("the ping", SOON, |asked| asked.line == "GET /ping/hunter2-beat");
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert!(!teller.heartbeat(false), "not healthy");
    teller.judge(&judged(&[alarm("capacity", Urgency::Warning)]), now()).await;
    assert!(teller.heartbeat(true), "a warning is no reason");
    teller.judge(&judged(&[alarm("capacity", Urgency::Critical)]), now()).await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert!(!teller.heartbeat(true), "a critical alert is");
    chat.wait_for("the critical one", SOON, |asked| asked.body.contains("CRITICAL"));
    teller.judge(&judged(&[]), now()).await;
    chat.wait_for("its end", SOON, |asked| asked.body.contains("RESOLVED"));
    assert_eq!(chat.asked().len(), 2, "the warning was not told there");
    assert!(teller.heartbeat(true));
    beat.set(Manner::Answers(404, "no check /ping/hunter2-beat".into()));
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert!(teller.heartbeat(true));
    let begun = Instant::now();
    while teller.view().heartbeat.and_then(|beat| beat.why).is_none() {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    refuse_secrets(&format!("{:?}", teller.view()));
    // That nobody hears it is told, and ends by itself.
    tokio::time::sleep(Duration::from_millis(1000)).await;
    teller.judge(&judged(&[]), now()).await;
    chat.wait_for("that the heartbeat fails", SOON, |asked| asked.body.contains("the heartbeat does not get through"));
    beat.set(Manner::Takes);
    assert!(teller.heartbeat(true), "it is tried all the same");
    let is_over = || chat.asked().iter().any(|asked| asked.body.contains("RESOLVED") && asked.body.contains("heartbeat"));
    judge_until(&teller, &judged(&[]), "that the heartbeat works again", SOON, is_over).await;
}
