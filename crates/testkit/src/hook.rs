//! A mock of whoever takes alerts over HTTP (Slack, PagerDuty, any webhook, a dead man's switch): it remembers what it is sent, and refuses or hangs on request.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the mock does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    /// Takes it.
    Takes,
    /// Answers with this status and these words.
    Answers(u16, String),
    /// Accepts the connection and never answers.
    Hangs,
}

/// One request that came in.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `POST /path`.
    pub line: String,
    /// In lower case, each with its value.
    pub headers: Vec<(String, String)>,
    /// As it came, any bytes that are not UTF-8 replaced.
    pub body: String,
    /// When it was read whole.
    pub at: Instant,
}

impl Asked {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }
    /// The value of the first of this name, to be given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// A running mock; it ends with the test's process.
#[derive(Debug)]
pub struct Hook {
    port: u16,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    manner: Manner,
    asked: Vec<Asked>,
    /// Connections that are kept waiting.
    hanging: Vec<TcpStream>,
}

impl Hook {
    /// Listens on a free port of this host, for as long as the process lives.
    pub fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let port = listener.local_addr().expect("a bound port has a number").port();
        let shared = Arc::new(Mutex::new(Shared { manner, asked: Vec::new(), hanging: Vec::new() }));
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let served = Arc::clone(&served);
                std::thread::spawn(move || drop(serve(client, &served)));
            }
        });
        Self { port, shared }
    }

    /// `http://127.0.0.1:port/path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// Behaves so from now on; who was kept waiting is hung up on.
    pub fn set(&self, manner: Manner) {
        let mut shared = self.shared.lock().expect("no holder panics");
        shared.manner = manner;
        shared.hanging.clear();
    }

    /// Every request so far, refused ones and those that were never answered included.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.lock().expect("no holder panics").asked.clone()
    }

    /// Waits until a request is as wanted.
    #[track_caller]
    pub fn wait_for(&self, what: &str, limit: Duration, is_wanted: impl Fn(&Asked) -> bool) -> Asked {
        let begun = Instant::now();
        loop {
            if let Some(found) = self.asked().into_iter().find(|asked| is_wanted(asked)) {
                return found;
            }
            assert!(begun.elapsed() < limit, "{what} did not come within {limit:?}: {:#?}", self.asked());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Reads one request of this connection.
pub fn read_request(client: &TcpStream) -> std::io::Result<Asked> {
    let mut from = BufReader::new(client);
    let mut line = || -> std::io::Result<String> {
        let mut text = String::new();
        from.by_ref().take(64 << 10).read_line(&mut text)?;
        Ok(text.trim_end().to_owned())
    };
    let first = line()?;
    let mut headers = Vec::new();
    loop {
        let text = line()?;
        let Some((name, value)) = text.split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    let line = first.split(' ').take(2).collect::<Vec<_>>().join(" ");
    Ok(Asked { line, headers, body: String::from_utf8_lossy(&body).into_owned(), at: Instant::now() })
}

/// Answers it, and with that the connection ends.
pub fn answer(mut client: &TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    client.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).as_bytes())
}

fn serve(client: TcpStream, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let asked = read_request(&client)?;
    let manner = {
        let mut shared = shared.lock().expect("no holder panics");
        shared.asked.push(asked);
        if shared.manner == Manner::Hangs {
            shared.hanging.push(client.try_clone()?);
        }
        shared.manner.clone()
    };
    let (status, words) = match manner {
        Manner::Takes => (200, "ok".to_owned()),
        Manner::Answers(status, words) => (status, words),
        Manner::Hangs => return Ok(()),
    };
    answer(&client, status, &words)
}
