//! `bowline alert` as people use it, with real receivers and a real repository; no PostgreSQL is needed for it.

use alerts::{Named, Setup, Slack, Source, Teller};
use repo::AlertShelf;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::StoreOptions;
use terms::{Alarm, Clock, Judgement, Secret, SystemClock, Urgency};
use testkit::bowline::{files_below, program};
use testkit::{Alertmanager, Hook, MailServer, Manner};

const SOON: Duration = Duration::from_secs(5);
const SECRETS: [(&str, &str); 4] = [
    ("PAGER", "hunter2-routing-key-hunter2-routing"),
    ("MAIL", testkit::mail::PASSWORD),
    ("TOKEN", "Bearer hunter2-header-token"),
    ("BEAT", "http://127.0.0.1:1/ping/hunter2-beat"),
];

/// A repository in a folder with its configuration.
struct Ground {
    folder: tempfile::TempDir,
    slack: String,
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn json(&self, member: &str) -> Value {
        let lines = self.out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter_map(|line| line.get(member).cloned()).next_back().unwrap_or_else(|| panic!("no {member}: {} {}", self.out, self.err))
    }
}

impl Ground {
    fn new(slack: String, channels: &str) -> Self {
        let ground = Self { folder: tempfile::tempdir().expect("a folder"), slack };
        let at = ground.folder.path().display().to_string();
        let text =
            format!("org = \"acme\"\n[repository]\nurl = \"file://{at}/repository\"\n[encryption]\nrecipients = [\"file:{at}/key\"]\n{channels}");
        std::fs::write(ground.config(), text).expect("write the configuration");
        assert_eq!(ground.run(&["init"]).code, 0);
        ground
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("bowline.toml")
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("repository/acme")
    }

    /// Runs it, and looks through everything that it says for secrets.
    fn run(&self, words: &[&str]) -> Said {
        let mut command = Command::new(program());
        command.env_clear().env("HOME", self.folder.path()).env("SLACK", &self.slack).envs(SECRETS).stdin(Stdio::null());
        let output = command.arg("--config").arg(self.config()).args(words).output().expect("run bowline");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = Said { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) };
        assert!(!said.out.contains("hunter2") && !said.err.contains("hunter2"), "a secret is told: {}{}", said.out, said.err);
        said
    }

    /// The repository holds no secret either.
    fn has_no_secret(&self) {
        for file in files_below(&self.root()) {
            let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).into_owned();
            assert!(!text.contains("hunter2"), "{} holds a secret: {text}", file.display());
        }
    }
}

/// All channels, over real receivers and mocks.
fn channels(mail: &MailServer, manager: &Alertmanager, pager: &Hook) -> String {
    format!(
        "[alerts]\nheartbeat = \"env:BEAT\"\n\
         [[alerts.channel]]\ntype = \"slack\"\nurl = \"env:SLACK\"\n\
         [[alerts.channel]]\ntype = \"pagerduty\"\nrouting_key = \"env:PAGER\"\nendpoint = \"{}\"\n\
         [[alerts.channel]]\ntype = \"webhook\"\nname = \"chat\"\nurl = \"env:SLACK\"\nmethod = \"put\"\nheaders = {{ Authorization = \"env:TOKEN\" }}\n\
         body = '{{\"note\": {{{{ summary | tojson }}}}}}'\n\
         [[alerts.channel]]\ntype = \"smtp\"\nname = \"mail\"\nhost = \"127.0.0.1\"\nport = {}\nuser = \"{}\"\npassword = \"env:MAIL\"\nca_file = \"{}\"\n\
         from = \"bowline@example.org\"\nto = [\"dba@example.org\"]\n\
         [[alerts.channel]]\ntype = \"alertmanager\"\nurls = [\"{}\"]\n",
        pager.url("v2/enqueue"),
        mail.port(),
        testkit::mail::USER,
        mail.ca_file().display(),
        manager.url(),
    )
}

#[test]
fn a_test_goes_over_every_channel_and_fails_with_the_name_and_the_cause_of_each_that_did_not_take_it() {
    let notified = Hook::start(Manner::Takes);
    let (mail, manager) = (MailServer::start("starttls"), Alertmanager::start(&notified.url("notified")));
    let (chat, pager) = (Hook::start(Manner::Takes), Hook::start(Manner::Takes));
    let ground = Ground::new(chat.url("services/T000/hunter2-slack-token"), &channels(&mail, &manager, &pager));
    let said = ground.run(&["check"]);
    assert!(said.out.contains("alert channels           slack, pagerduty, chat, mail, alertmanager;"), "{}", said.out);
    let said = ground.run(&["alert", "test"]);
    assert_eq!((said.code, said.out.matches("delivered").count()), (0, 5), "{} {}", said.out, said.err);
    for asked in chat.asked() {
        assert!(asked.line.ends_with("/services/T000/hunter2-slack-token") && asked.body.contains("this is a test, nothing is wrong"), "{asked:?}");
    }
    let put = chat.wait_for("the webhook", SOON, |asked| asked.line.starts_with("PUT "));
    assert_eq!((put.header("authorization"), put.json()["note"].is_string()), (Some("Bearer hunter2-header-token"), true));
    // The incident is closed again.
    let actions: Vec<String> = pager.asked().iter().map(|asked| asked.json()["event_action"].to_string()).collect();
    assert_eq!(actions, ["\"trigger\"", "\"resolve\""]);
    mail.wait_for("Subject: TEST (acme)", SOON);
    notified.wait_for("Alertmanager's notification", SOON, |asked| asked.body.contains("this is a test"));

    chat.set(Manner::Answers(410, "no_service: hunter2-slack-token".into()));
    pager.set(Manner::Hangs);
    let begun = Instant::now();
    let said = ground.run(&["--json", "alert", "test"]);
    assert!(begun.elapsed() < Duration::from_secs(14), "a hanging receiver holds nobody up for long: {:?}", begun.elapsed());
    let error = said.json("error");
    assert_eq!((said.code, error["slug"].as_str()), (5, Some("alert-undelivered")), "{}", said.out);
    let (summary, detail) = (error["summary"].as_str().unwrap_or_default(), error["detail"].as_str().unwrap_or_default());
    assert!(summary.contains("3 of 5") && summary.contains("slack, pagerduty, chat"), "{summary}");
    assert!(detail.contains("410") && detail.contains("no answer within 10 s"), "{detail}");
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("webhook may have been removed")), "{error}");
    let oks = error["channels"].as_array().expect("channels").iter().filter(|channel| channel["ok"] == true).count();
    assert_eq!(oks, 2);
    assert_eq!(ground.run(&["alert", "test", "--channel", "mail"]).code, 0);
    assert_eq!(ground.run(&["alert", "test", "--channel", "pigeon"]).code, 2);

    let listed = ground.run(&["--json", "alert", "list", "--all"]).json("result");
    let channel = |name: &str| listed["channels"].as_array().expect("channels").iter().find(|channel| channel["name"] == name).cloned().expect(name);
    assert!(channel("slack")["failing_since"].is_string() && channel("slack")["why"].as_str().is_some_and(|why| why.contains("410")));
    assert!(channel("mail")["failing_since"].is_null() && channel("mail")["last_delivered"].is_string());
    ground.has_no_secret();

    // Where the repository is away, a test is one all the same.
    std::fs::rename(ground.root(), ground.folder.path().join("elsewhere")).expect("move the repository");
    let said = ground.run(&["alert", "test", "--channel", "alertmanager"]);
    assert_eq!(said.code, 0, "{} {}", said.out, said.err);
    assert!(!ground.root().exists(), "nothing is written where no repository is");
    assert_eq!(ground.run(&["alert", "list"]).code, 3);
}

/// What a daemon is, as far as alerts go: a teller over the same repository.
fn teller(root: &Path, chat: &Hook) -> Teller {
    let store = store::open(&format!("file://{}", root.display()), &StoreOptions::default()).expect("the store");
    let slack = Slack::new("slack", &Secret::new(chat.url("services/x")), None).expect("a channel");
    let channels = vec![Named { name: "slack".into(), min: Urgency::Warning, channel: Box::new(slack) }];
    let source = Source { org: "acme".into(), repository: "r".into(), host: "h".into() };
    Teller::start(Setup::default(), channels, Some(AlertShelf::new(store)), source, Arc::new(SystemClock))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fires_is_listed_and_who_silences_it_is_spared_until_the_silence_is_over() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let chat = Hook::start(Manner::Takes);
    let ground = Ground::new(chat.url("services/x"), "[[alerts.channel]]\ntype = \"slack\"\nurl = \"env:SLACK\"\n");
    let said = ground.run(&["alert", "silence", "wal-*:main", "--for", "2h", "--why", "an upgrade"]);
    assert!(said.code == 0 && said.out.contains("nothing that fires now is silenced by it"), "{} {}", said.out, said.err);
    let alarm = |rule: &str, urgency| Alarm {
        rule: rule.into(),
        subject: "main".into(),
        urgency,
        summary: format!("{rule} is broken"),
        detail: "The disk is full.".into(),
        hint: "Free some space.".into(),
    };
    let fires = Judgement { alarms: vec![alarm("wal-lag", Urgency::Critical), alarm("capacity", Urgency::Warning)], ..Judgement::default() };
    let daemon = teller(&ground.root(), &chat);
    daemon.judge(&fires, SystemClock.now()).await;
    assert!(daemon.finish(SOON).await.is_empty());
    assert!(chat.asked().len() == 1 && chat.asked()[0].body.contains("capacity"), "{:?}", chat.asked());

    let said = ground.run(&["alert", "list"]);
    for words in ["silenced wal-lag:main since", "nobody was told", "warning  capacity:main since", "Free some space.", "told at", "wal-*:main until"]
    {
        assert!(said.out.contains(words), "{words:?} is not in\n{}", said.out);
    }
    let listed = ground.run(&["--json", "alert", "list"]).json("result");
    let states: Vec<(&str, &str)> =
        listed["alerts"].as_array().expect("alerts").iter().map(|a| (a["rule"].as_str().unwrap(), a["state"].as_str().unwrap())).collect();
    assert_eq!(states, [("wal-lag", "silenced"), ("capacity", "firing")]);
    let silence = listed["silences"][0]["id"].as_str().expect("an id").to_owned();
    let said = ground.run(&["alert", "silence", "capacity", "--for", "1d", "--why", "a purchase is under way"]);
    assert!(said.out.contains("it is about capacity:main, which fires now"), "{}", said.out);

    let said = ground.run(&["alert", "unsilence", &silence]);
    assert!(said.code == 0 && said.out.contains("is over"), "{} {}", said.out, said.err);
    assert_eq!(ground.run(&["alert", "unsilence", "20010101T000000Z"]).code, 3);
    // Another process, such as the daemon after a restart: what it knows is in the repository.
    drop(daemon);
    let daemon = teller(&ground.root(), &chat);
    daemon.judge(&fires, SystemClock.now()).await;
    daemon.finish(SOON).await;
    let said: Vec<String> = chat.asked().into_iter().map(|asked| asked.body).collect();
    assert!(said.len() == 2 && said[1].contains("CRITICAL (acme): wal-lag"), "{said:#?}");
    daemon.judge(&Judgement::default(), SystemClock.now()).await;
    daemon.finish(SOON).await;
    let said = ground.run(&["alert", "list"]);
    assert!(said.out.contains("no alert fires") && said.out.contains("delivered last at"), "{}", said.out);
    let said = ground.run(&["alert", "list", "--all"]);
    assert!(said.out.contains("resolved wal-lag:main since") && said.out.contains("resolved wal-lag:main delivered"), "{}", said.out);
}

#[test]
fn without_a_channel_a_test_says_that_nobody_is_told() {
    let ground = Ground::new("http://127.0.0.1:1/x".into(), "");
    let said = ground.run(&["alert", "test"]);
    assert!(
        said.code == 2 && said.err.contains("nobody is told of anything") && said.err.contains("[[alerts.channel]]"),
        "{} {}",
        said.out,
        said.err
    );
    for words in [["wal lag", "2h"], [":x", "2h"], ["wal-lag", "31d"], ["wal-lag", "0s"], ["wal-lag", "1 month"], ["wal-lag", "-2h"]] {
        let said = ground.run(&["alert", "silence", words[0], &format!("--for={}", words[1]), "--why", "x"]);
        assert_eq!(said.code, 2, "{words:?}: {} {}", said.out, said.err);
    }
    assert!(!ground.root().join("alerts").exists());
}
