//! Leases between real processes: over a folder and a bucket, with one that is stopped and goes on.

use bytes::Bytes;
use repo::{Claim, Contender, Encryption, Loss, Writer};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use store::{ObjectPath, Put, StoreOptions};
use terms::{Clock, Secret, SystemClock};
use testkit::s3::{ACCESS_KEY_ID, S3Server, SECRET_ACCESS_KEY};

const TTL: Duration = Duration::from_millis(1500);
const PLACE: &str = "GUARD_LEASE_URL";
const ENDPOINT: &str = "GUARD_LEASE_ENDPOINT";
const ROLE: &str = "GUARD_LEASE_ROLE";

fn open(url: &str, endpoint: Option<&str>) -> Arc<dyn Put> {
    let options = match endpoint {
        None => StoreOptions::default(),
        Some(endpoint) => StoreOptions {
            endpoint: Some(endpoint.to_owned()),
            region: Some("us-east-1".to_owned()),
            access_key_id: Some(Secret::new(ACCESS_KEY_ID.to_owned())),
            secret_access_key: Some(Secret::new(SECRET_ACCESS_KEY.to_owned())),
            ..StoreOptions::default()
        },
    };
    store::open(url, &options).expect("the store opens")
}

/// A folder and a bucket, each with a repository that is not encrypted.
async fn places(bucket: &str) -> Vec<(String, Option<String>, Option<tempfile::TempDir>)> {
    let folder = tempfile::tempdir().expect("a folder");
    let server = tokio::task::spawn_blocking(S3Server::shared).await.expect("no panic");
    server.create_bucket(bucket);
    let url = format!("file://{}/repository", folder.path().display());
    store::create_root(&url).await.expect("the folder is made");
    let places = vec![(url, None, Some(folder)), (server.url(bucket, "acme"), Some(server.endpoint().to_owned()), None)];
    for (url, endpoint, _) in &places {
        let store = open(url, endpoint.as_deref());
        Writer::create(store, Vec::new(), "acme", Encryption::Off, serde_json::json!({}), SystemClock.now()).await.expect("a new repository");
    }
    places
}

async fn contender(url: &str, endpoint: Option<&str>, holder: &str) -> Contender {
    let writer = Writer::open(open(url, endpoint), Vec::new()).await.expect("the repository opens");
    Contender::new(&writer, repo::RECEIVER_LEASE, holder, TTL).expect("a plain name")
}

/// Another process: this test program again, running only [`the_other_process`].
struct Other {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Other {
    fn start(role: &str, url: &str, endpoint: Option<&str>) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "--ignored", "--nocapture", "leases::the_other_process"]).env(ROLE, role).env(PLACE, url);
        if let Some(endpoint) = endpoint {
            command.env(ENDPOINT, endpoint);
        }
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }
    /// The rest of its next line that begins so.
    fn says(&mut self, word: &str) -> String {
        loop {
            let line = self.lines.next().unwrap_or_else(|| panic!("it ended without saying {word}")).expect("text");
            if let Some(rest) = line.strip_prefix("GUARD ").and_then(|line| line.strip_prefix(word)) {
                return rest.trim().to_owned();
            }
        }
    }
    fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).expect("it is there");
    }
    fn go_on(&mut self) {
        self.child.stdin.as_mut().expect("piped").write_all(b"\n").expect("it listens");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(text: impl std::fmt::Display) {
    // A line of its own, whatever the harness has printed before.
    println!("\nGUARD {text}");
    std::io::stdout().flush().expect("somebody listens");
}

#[test]
#[ignore = "run by the other tests as a process of its own"]
fn the_other_process() {
    let (url, endpoint) = (std::env::var(PLACE).expect("a place"), std::env::var(ENDPOINT).ok());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        match std::env::var(ROLE).expect("a role").as_str() {
            "hold" => {
                let mut one = contender(&url, endpoint.as_deref(), "other").await;
                let kept = one.acquire(&SystemClock).await.expect("it is free").keep();
                say("held");
                let loss = kept.lost().await;
                let (held, mine) = (kept.is_held(), kept.still_mine().await.expect("the store answers"));
                let released = kept.release().await.expect("the store answers");
                say(format!("lost {held} {mine} {released} {loss:?}"));
            }
            "count" => {
                say("ready");
                std::io::stdin().read_line(&mut String::new()).expect("told to begin");
                count(&url, endpoint.as_deref(), 10).await;
                say("counted");
            }
            other => panic!("{other}"),
        }
    });
}

/// Adds one to a number, so many times, each under the lease; without it, two would read the same number.
async fn count(url: &str, endpoint: Option<&str>, times: u32) {
    let (store, path) = (open(url, endpoint), ObjectPath::new("probe/count").expect("a plain path"));
    for _ in 0..times {
        let mut one = contender(url, endpoint, &format!("{}", std::process::id())).await;
        let lease = loop {
            match one.attempt(SystemClock.now()).await {
                Ok(Claim::Acquired(lease)) => break lease,
                Ok(Claim::HeldBy(_)) | Err(repo::RepoError::Contended { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(e) => panic!("{e}"),
            }
        };
        // Not compare-and-swap on what was read: the version is asked for after the number is known.
        let number: u32 = match store.get(&path).await {
            Ok(body) => std::str::from_utf8(&body).expect("text").parse().expect("a number"),
            Err(store::StoreError::Missing { .. }) => 0,
            Err(e) => panic!("{e}"),
        };
        tokio::time::sleep(Duration::from_millis(3)).await;
        let version = store.info(&path).await.expect("it answers").map(|info| info.version);
        store.replace(&path, Bytes::from((number + 1).to_string()), version.as_ref()).await.expect("it answers").expect("nobody else writes");
        assert!(lease.release().await.expect("it answers"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_take_turns_over_a_folder_and_a_bucket() {
    for (url, endpoint, _kept) in places("lease-turns").await {
        let mut others: Vec<_> = (0..3).map(|_| Other::start("count", &url, endpoint.as_deref())).collect();
        others.iter_mut().for_each(|other| drop(other.says("ready")));
        others.iter_mut().for_each(Other::go_on);
        others.iter_mut().for_each(|other| drop(other.says("counted")));
        let count = open(&url, endpoint.as_deref()).get(&ObjectPath::new("probe/count").expect("plain")).await.expect("it is there");
        assert_eq!(count.as_ref(), b"30", "{url}: two held the lease at once");
    }
}

/// Returns when the other has just renewed. One that is stopped in the middle of a write may hold a folder's lock, or its half
/// of a request, and nobody takes over before the store's own patience with it ends: another matter than what is tested here.
async fn between_renewals(one: &mut Contender) {
    let mut newest = None;
    loop {
        let Ok(Claim::HeldBy(by)) = one.attempt(SystemClock.now()).await else { panic!("it renews") };
        assert_eq!(by.holder, "other");
        if newest.replace(by.renewed).is_some_and(|earlier| earlier != by.renewed) {
            return tokio::time::sleep(TTL / 15).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_stopped_loses_its_lease_and_learns_it_when_it_goes_on() {
    for (url, endpoint, _kept) in places("lease-stopped").await {
        let mut other = Other::start("hold", &url, endpoint.as_deref());
        other.says("held");
        let mut one = contender(&url, endpoint.as_deref(), "one").await;
        tokio::time::sleep(TTL * 2).await;
        between_renewals(&mut one).await;
        other.signal(nix::sys::signal::Signal::SIGSTOP);
        let kept = tokio::time::timeout(TTL * 20, one.acquire(&SystemClock)).await.expect("it is taken over").expect("the store answers").keep();
        other.signal(nix::sys::signal::Signal::SIGCONT);
        let said = other.says("lost");
        // Taken, or unproven when the clock was looked at first; never held, never released.
        assert!(said.starts_with("false false false ") && (said.contains("Taken { holder: \"one\" }") || said.contains("Unproven")), "{said}");
        assert!(kept.is_held() && kept.still_mine().await.expect("the store answers"), "what it did changed nothing");
        assert!(kept.release().await.expect("the store answers"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_dies_with_its_store_in_time() {
    let server = tokio::task::spawn_blocking(S3Server::start).await.expect("no panic");
    server.create_bucket("leases");
    let (url, endpoint) = (server.url("leases", "acme"), server.endpoint().to_owned());
    let store = open(&url, Some(&endpoint));
    Writer::create(store, Vec::new(), "acme", Encryption::Off, serde_json::json!({}), SystemClock.now()).await.expect("a new repository");
    let mut one = contender(&url, Some(&endpoint), "one").await;
    let kept = one.acquire(&SystemClock).await.expect("it is free").keep();
    server.kill();
    // The client tries for minutes to reach a server that is gone; the lease does not wait for it.
    let loss = tokio::time::timeout(TTL * 10, kept.lost()).await.expect("it is told in time");
    assert!(matches!(loss, Loss::Unproven { .. }) && !kept.is_held(), "{loss:?}");
}
