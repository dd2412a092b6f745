//! Connections that break on request: Shopify's toxiproxy between the program under test and a server, gone with the test process.

use crate::loopback::{free_ports, http, spawn_for_life};
use crate::s3::S3Server;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const READY_LIMIT: Duration = Duration::from_secs(30);

/// A running toxiproxy, in which any number of proxies live.
#[derive(Debug)]
pub struct Toxiproxy {
    port: u16,
    child: Child,
}

/// One address of 127.0.0.1 that leads to a server. Dropping it closes it and every connection through it.
#[derive(Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Of toxiproxy's own HTTP interface.
    api: u16,
    name: String,
    /// `127.0.0.1:port`, the same for as long as the proxy lives.
    address: String,
}

/// What goes wrong with the bytes of one direction (toxiproxy's README, "Toxics").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toxic {
    /// Everything arrives so much later; whole milliseconds.
    Latency(Duration),
    /// Nothing arrives any more, and the connection is closed after so long; zero leaves it open and silent.
    Timeout(Duration),
    /// No more than so many KiB a second.
    Bandwidth(u64),
    /// The connection is reset (RST) so long after it began.
    ResetPeer(Duration),
    /// The connection is closed after so many bytes.
    LimitData(u64),
}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the program under test to the server.
    Upstream,
    /// From the server to the program under test.
    Downstream,
}

impl Toxiproxy {
    /// The one that all tests of this process share; started by the first that asks. Proxies do not disturb one another.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Toxiproxy> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts one and waits until it answers. Panics with the reason when that does not work: a test that lacks it fails.
    pub fn start() -> Self {
        let program = find();
        for _ in 0..3 {
            let port = free_ports(1)[0];
            let mut command = Command::new(&program);
            command.args(["-host", "127.0.0.1", "-port", &port.to_string()]).env("LOG_LEVEL", "error").stdin(Stdio::null());
            let mut started = Self { port, child: spawn_for_life(command) };
            let begun = Instant::now();
            while begun.elapsed() < READY_LIMIT && started.child.try_wait().is_ok_and(|ended| ended.is_none()) {
                if http(port, "GET /version", b"").is_some_and(|answer| answer.contains(" 200 ")) {
                    return started;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("toxiproxy ({}) did not start in three attempts", program.display());
    }

    /// A new way to the server at `upstream` (`127.0.0.1:port`), without any fault so far.
    pub fn proxy(&self, upstream: &str) -> Proxy {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("p{}", MADE.fetch_add(1, Ordering::Relaxed));
        let wanted = serde_json::json!({ "name": name, "listen": "127.0.0.1:0", "upstream": upstream, "enabled": true });
        let answer = ask(self.port, "POST /proxies", &wanted);
        let address = answer["listen"].as_str().expect("toxiproxy says where it listens").to_owned();
        Proxy { api: self.port, name, address }
    }
}

impl Drop for Toxiproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A proxy in front of the shared S3 server, for [`crate::RepositoryKind::S3Through`] or, with [`Proxy::endpoint`], for a store's options.
pub fn s3() -> Proxy {
    let upstream = S3Server::shared().endpoint().trim_start_matches("http://");
    Toxiproxy::shared().proxy(upstream)
}

impl Proxy {
    /// Where it listens: `127.0.0.1:port`.
    pub fn address(&self) -> &str {
        &self.address
    }
    /// The port of [`Proxy::address`].
    pub fn port(&self) -> u16 {
        self.address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("an address ends in its port")
    }
    /// Its address as that of an HTTP server: `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts every connection and refuses new ones, as a server that is down.
    pub fn down(&self) {
        self.enable(false);
    }
    /// Lets connections in again.
    pub fn up(&self) {
        self.enable(true);
    }

    /// Adds a fault, for open connections too. One of each kind and direction at a time.
    pub fn add(&self, toxic: Toxic, direction: Direction) {
        self.add_to(1.0, toxic, direction);
    }

    /// Adds a fault to this share of all connections, from 0 to 1, chosen by chance.
    pub fn add_to(&self, share: f64, toxic: Toxic, direction: Direction) {
        let milliseconds = |given: Duration| u64::try_from(given.as_millis()).expect("a short time");
        let attributes = match toxic {
            Toxic::Latency(time) => serde_json::json!({ "latency": milliseconds(time) }),
            Toxic::Timeout(time) | Toxic::ResetPeer(time) => serde_json::json!({ "timeout": milliseconds(time) }),
            Toxic::Bandwidth(rate) => serde_json::json!({ "rate": rate }),
            Toxic::LimitData(bytes) => serde_json::json!({ "bytes": bytes }),
        };
        let wanted = serde_json::json!({ "type": toxic.kind(), "stream": direction.word(), "toxicity": share, "attributes": attributes });
        ask(self.api, &format!("POST /proxies/{}/toxics", self.name), &wanted);
    }

    /// Takes away every fault; a proxy that is down comes up.
    pub fn heal(&self) {
        for kind in KINDS {
            for direction in [Direction::Upstream, Direction::Downstream] {
                let request = format!("DELETE /proxies/{}/toxics/{kind}_{}", self.name, direction.word());
                let answer = http(self.api, &request, b"").unwrap_or_default();
                assert!(answer.contains(" 204 ") || answer.contains(" 404 "), "{request}: {answer:?}");
            }
        }
        self.up();
    }

    fn enable(&self, is_enabled: bool) {
        let answer = ask(self.api, &format!("POST /proxies/{}", self.name), &serde_json::json!({ "enabled": is_enabled }));
        assert_eq!((answer["enabled"].as_bool(), answer["listen"].as_str()), (Some(is_enabled), Some(&*self.address)), "{answer}");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = http(self.api, &format!("DELETE /proxies/{}", self.name), b"");
    }
}

/// Toxiproxy's words for the kinds of [`Toxic`]; a fault's name is its kind and direction.
const KINDS: [&str; 5] = ["latency", "timeout", "bandwidth", "reset_peer", "limit_data"];

impl Toxic {
    fn kind(self) -> &'static str {
        let [latency, timeout, bandwidth, reset_peer, limit_data] = KINDS;
        match self {
            Self::Latency(_) => latency,
            Self::Timeout(_) => timeout,
            Self::Bandwidth(_) => bandwidth,
            Self::ResetPeer(_) => reset_peer,
            Self::LimitData(_) => limit_data,
        }
    }
}

impl Direction {
    fn word(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Downstream => "downstream",
        }
    }
}

/// Asks toxiproxy's interface for something that it must grant, and returns its answer.
fn ask(api: u16, request: &str, body: &serde_json::Value) -> serde_json::Value {
    let answer = http(api, request, body.to_string().as_bytes()).unwrap_or_else(|| panic!("{request}: toxiproxy does not answer"));
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    assert!(status.starts_with('2'), "{request} {body}: toxiproxy answered {answer:?}");
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{request}: {e} in {answer:?}"))
}

/// The program: `BOWLINE_TOXIPROXY`, or `toxiproxy-server` on the PATH.
fn find() -> PathBuf {
    if let Some(given) = std::env::var_os("BOWLINE_TOXIPROXY") {
        let given = PathBuf::from(given);
        assert!(given.is_file(), "BOWLINE_TOXIPROXY is {}, which is no file", given.display());
        return given;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("toxiproxy-server")).find(|program| program.is_file());
    found.expect("this test needs toxiproxy: run ./test, or eval \"$(scripts/prepare toxiproxy)\", which sets BOWLINE_TOXIPROXY")
}
