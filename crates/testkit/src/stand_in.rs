//! Stand-ins for stores that cannot be had here: a proxy in front of a real S3 server that behaves as such a store does.
//!
//! What passes here shows that Bowline's side is right, not that the store is.

use crate::loopback::free_ports;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// As which store the proxy behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// An older Ceph gateway: it knows no checksum but Content-MD5, which it demands, and no removal of several objects at once.
    OldCeph,
    /// Google Cloud Storage's XML API: conditions by generation in place of ETags.
    Google,
    /// Forgetful: each write is carried out, and the first answer about each object is lost on the way.
    Forgetful,
    /// Busy: of the requests for one object the first so many are answered with 503 SlowDown.
    Busy(u32),
    /// Only for reading: whoever asks may write nothing.
    ReadOnly,
    /// A gateway that fails: every so many reads and listings one is refused, in turn with 499 and 503, and every so many of the objects that
    /// are read one is cut in the middle of its body.
    Failing(u32),
    /// Leaving: after so many requests nobody listens for so many seconds, once.
    Leaving(u32, u64),
    /// It answers each write, when it is done, as S3 does that fails late: with 200 and an error in its body; once for each object.
    FailingLate,
}

/// A running proxy; it ends with the test's process.
#[derive(Debug)]
pub struct StandIn {
    port: u16,
    seen: Arc<Mutex<Seen>>,
}

/// What the proxy has to remember.
#[derive(Debug, Default)]
struct Seen {
    /// The ETag of each generation that was given out.
    generations: BTreeMap<u64, String>,
    requests: u32,
    /// The writes whose answer was lost.
    forgotten: BTreeSet<String>,
    /// The objects that were read, and how many of them were cut.
    bodies: u32,
    cut: u32,
    /// How many requests broke the rules of this store.
    refused: u32,
}

struct Message {
    first: String,
    headers: Vec<(String, String)>,
}

impl StandIn {
    /// Starts it in front of the server at this loopback port.
    pub fn start(likeness: Likeness, backend: u16) -> Self {
        let port = free_ports(1)[0];
        let bind = move || TcpListener::bind(("127.0.0.1", port)).expect("a free port can be bound");
        let listener = bind();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            let take = |client| {
                let seen = Arc::clone(&shared);
                std::thread::spawn(move || {
                    let _ = serve(client, likeness, backend, &seen);
                });
            };
            if let Likeness::Leaving(requests, seconds) = likeness {
                listener.incoming().flatten().take(requests as usize).for_each(take);
                drop(listener);
                std::thread::sleep(std::time::Duration::from_secs(seconds));
                bind().incoming().flatten().for_each(take);
            } else {
                listener.incoming().flatten().for_each(take);
            }
        });
        Self { port, seen }
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
    /// How many answers were lost.
    pub fn lost(&self) -> usize {
        self.seen.lock().expect("no holder panics").forgotten.len()
    }
    /// How many objects were cut in the middle.
    pub fn cut(&self) -> u32 {
        self.seen.lock().expect("no holder panics").cut
    }
    /// How many requests broke the rules of this store, or were refused for no fault of theirs.
    pub fn refused(&self) -> u32 {
        self.seen.lock().expect("no holder panics").refused
    }
}

/// One request for each connection: the answer says so.
fn serve(client: TcpStream, likeness: Likeness, backend: u16, seen: &Mutex<Seen>) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut from_client = BufReader::new(client.try_clone()?);
    let mut to_client = client;
    let mut request = read_head(&mut from_client)?;
    let length: u64 = header(&request, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    if header(&request, "expect").is_some() {
        to_client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if let Some((status, code)) = fault(&request, likeness, &mut seen.lock().expect("no holder panics")) {
        std::io::copy(&mut from_client.take(length), &mut std::io::sink())?;
        let body = format!("<Error><Code>{code}</Code><Message>by the stand-in</Message></Error>");
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        to_client.write_all(answer.as_bytes())?;
        return to_client.shutdown(Shutdown::Both);
    }
    if likeness == Likeness::Google {
        to_s3(&mut request, &seen.lock().expect("no holder panics"));
    }
    let is_unkind = matches!(likeness, Likeness::Forgetful | Likeness::FailingLate);
    let loses_answer = is_unkind && is_write(&request) && seen.lock().expect("no holder panics").forgotten.insert(request.first.clone());
    set(&mut request, "connection", "close");
    let server = TcpStream::connect(("127.0.0.1", backend))?;
    server.set_nodelay(true)?;
    let mut to_server = server.try_clone()?;
    to_server.write_all(&written(&request))?;
    std::io::copy(&mut from_client.take(length), &mut to_server)?;
    let mut from_server = BufReader::new(server);
    let mut answer = read_head(&mut from_server)?;
    if loses_answer {
        // All of it is read, so that the server has done it.
        std::io::copy(&mut from_server, &mut std::io::sink())?;
        if likeness == Likeness::FailingLate {
            let body = "<?xml version=\"1.0\"?>\n<Error><Code>InternalError</Code><Message>by the stand-in</Message></Error>";
            to_client.write_all(format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).as_bytes())?;
        }
        return to_client.shutdown(Shutdown::Both);
    }
    if likeness == Likeness::Google {
        from_s3(&mut answer, &mut seen.lock().expect("no holder panics"));
    }
    set(&mut answer, "connection", "close");
    to_client.write_all(&written(&answer))?;
    let rest = cut_after(&request, &answer, likeness, &mut seen.lock().expect("no holder panics")).unwrap_or(u64::MAX);
    std::io::copy(&mut from_server.take(rest), &mut to_client)?;
    to_client.shutdown(Shutdown::Both)
}

/// After how many bytes of its body this answer breaks off; `None` when it comes whole.
fn cut_after(request: &Message, answer: &Message, likeness: Likeness, seen: &mut Seen) -> Option<u64> {
    let Likeness::Failing(every) = likeness else { return None };
    let is_object = request.first.starts_with("GET ") && !is_about_the_bucket(request) && answer.first.contains(" 20");
    let length: u64 = header(answer, "content-length").filter(|_| is_object)?.parse().ok()?;
    if length < 2 {
        return None;
    }
    seen.bodies += 1;
    let is_cut = seen.bodies.is_multiple_of(every);
    seen.cut += u32::from(is_cut);
    is_cut.then_some(length / 2)
}

/// Whether it makes or replaces an object: not one part of it, nor the beginning.
fn is_write(request: &Message) -> bool {
    let completes = request.first.starts_with("POST ") && request.first.contains("uploadId=");
    completes || (request.first.starts_with("PUT ") && !request.first.contains('?') && !is_about_the_bucket(request))
}

/// What this store would not take.
fn fault(request: &Message, likeness: Likeness, seen: &mut Seen) -> Option<(u16, &'static str)> {
    let has = |name: &str| header(request, name).is_some();
    let is_put = request.first.starts_with("PUT ");
    let found = match likeness {
        Likeness::OldCeph if request.headers.iter().any(|(name, _)| name.starts_with("x-amz-checksum") || name == "x-amz-trailer") => {
            Some((400, "InvalidRequest"))
        }
        Likeness::OldCeph if request.first.starts_with("POST ") && request.first.contains("?delete") => Some((501, "NotImplemented")),
        Likeness::OldCeph if is_put && !has("content-md5") && !is_about_the_bucket(request) => Some((400, "InvalidDigest")),
        Likeness::ReadOnly if is_put => Some((403, "AccessDenied")),
        Likeness::Busy(times) => {
            seen.requests += 1;
            (seen.requests <= times).then_some((503, "SlowDown"))
        }
        Likeness::Failing(every) if request.first.starts_with("GET ") => {
            seen.requests += 1;
            match (seen.requests % every, seen.requests / every % 2) {
                (0, 1) => Some((499, "ClientClosedRequest")),
                (0, _) => Some((503, "ServiceUnavailable")),
                _ => None,
            }
        }
        _ => None,
    };
    seen.refused += u32::from(found.is_some());
    found
}

fn is_about_the_bucket(request: &Message) -> bool {
    let path = request.first.split(' ').nth(1).unwrap_or_default();
    path.split('?').next().unwrap_or_default().trim_matches('/').split('/').count() < 2
}

/// A request of Google's as S3 has it.
fn to_s3(request: &mut Message, seen: &Seen) {
    let wanted = header(request, "x-goog-if-generation-match").map(str::to_owned);
    request.headers.retain(|(name, _)| !name.starts_with("x-goog-") && name != "authorization");
    // The mock behind it checks no signature, but wants to see one.
    set(request, "authorization", "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0");
    match wanted.as_deref() {
        Some("0") => set(request, "if-none-match", "*"),
        Some(number) => {
            let tag = number.parse().ok().and_then(|number: u64| seen.generations.get(&number).cloned());
            set(request, "if-match", &tag.unwrap_or_else(|| "\"no such generation\"".to_owned()));
        }
        None => {}
    }
}

/// An answer of S3's as Google has it: each ETag stands for a generation.
fn from_s3(answer: &mut Message, seen: &mut Seen) {
    let Some(tag) = header(answer, "etag").map(str::to_owned) else { return };
    // FNV-1a: one ETag has one number, without a place to keep it.
    let number = tag.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)) >> 1;
    seen.generations.insert(number, tag);
    set(answer, "x-goog-generation", &number.to_string());
}

fn read_head(from: &mut impl BufRead) -> std::io::Result<Message> {
    let mut line = || -> std::io::Result<String> {
        let mut text = String::new();
        match from.by_ref().take(64 << 10).read_line(&mut text)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(text.trim_end().to_owned()),
        }
    };
    let first = line()?;
    let mut headers = Vec::new();
    loop {
        let text = line()?;
        if text.is_empty() {
            return Ok(Message { first, headers });
        }
        if let Some((name, value)) = text.split_once(':') {
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
    }
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
}

fn set(message: &mut Message, name: &str, value: &str) {
    message.headers.retain(|(found, _)| found != name);
    message.headers.push((name.to_owned(), value.to_owned()));
}

fn written(message: &Message) -> Vec<u8> {
    let mut text = format!("{}\r\n", message.first);
    for (name, value) in &message.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}
