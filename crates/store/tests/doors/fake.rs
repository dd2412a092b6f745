//! A small S3 server whose answers can be lost, delayed or wrong: real servers do not do so on demand.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::StoreOptions;
use terms::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What happens to the next PUT.
#[derive(Debug, Clone, Copy)]
pub enum Mishap {
    /// It is stored and the connection closed without an answer.
    StoredThenClosed,
    /// It is stored and answered with this status.
    StoredThen(u16),
    /// It is not stored and answered with this status.
    Refused(u16),
    /// The connection is closed before anything is stored.
    Closed,
    /// Another writer's bytes are stored first, then the connection is closed.
    Overtaken,
}

/// The server; it ends with the runtime.
pub struct Fake {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    mishaps: VecDeque<Mishap>,
    puts: usize,
    is_careless: bool,
    is_never_found: bool,
}

impl Fake {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state: Arc<Mutex<State>> = Arc::default();
        tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                loop {
                    let (connection, _) = listener.accept().await.unwrap();
                    tokio::spawn(serve(connection, Arc::clone(&state)));
                }
            }
        });
        Self { port, state }
    }

    pub fn options(&self) -> StoreOptions {
        StoreOptions {
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            access_key_id: Some(Secret::new("key".to_owned())),
            secret_access_key: Some(Secret::new("hunter2".to_owned())),
            ..StoreOptions::default()
        }
    }
    pub fn mishaps(&self, mishaps: impl IntoIterator<Item = Mishap>) {
        self.state.lock().unwrap().mishaps.extend(mishaps);
    }
    /// From now on conditions are ignored, as by some servers.
    pub fn be_careless(&self) {
        self.state.lock().unwrap().is_careless = true;
    }
    /// From now on every answer is a 404 as a web server that is no S3 gives.
    pub fn be_a_web_server(&self) {
        self.state.lock().unwrap().is_never_found = true;
    }
    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.state.lock().unwrap().objects.get(&format!("/b/{key}")).cloned()
    }
    pub fn puts(&self) -> usize {
        self.state.lock().unwrap().puts
    }
}

struct Request {
    method: String,
    target: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

async fn serve(connection: TcpStream, state: Arc<Mutex<State>>) {
    let mut connection = BufReader::new(connection);
    while let Some(request) = read(&mut connection).await {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let Some((status, etag, body)) = answer(&request, &mut state.lock().unwrap()) else { return };
        let sent = if request.method == "HEAD" { &[][..] } else { &body[..] };
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nETag: \"{etag}\"\r\nLast-Modified: Sun, 22 Nov 2026 14:05:00 GMT\r\n\r\n",
            body.len()
        );
        if connection.write_all(&[head.as_bytes(), sent].concat()).await.is_err() {
            return;
        }
    }
}

async fn read(connection: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: BTreeMap<String, String> =
        lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
    let mut body = vec![0; headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0)];
    connection.read_exact(&mut body).await.ok()?;
    Some(Request { method, target, headers, body })
}

/// Status, ETag and body, or nothing when the connection is to be closed.
fn answer(request: &Request, state: &mut State) -> Option<(u16, u32, Vec<u8>)> {
    let fault = |status: u16, code: &str| Some((status, 0, format!("<Error><Code>{code}</Code><Message>m</Message></Error>").into_bytes()));
    if state.is_never_found {
        return Some((404, 0, b"<html>not found</html>".to_vec()));
    }
    let (place, _) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let etag = |body: &[u8]| body.iter().fold(body.len() as u32, |sum, byte| sum.rotate_left(5) ^ u32::from(*byte));
    let found = state.objects.get(place).cloned();
    match request.method.as_str() {
        "PUT" => {
            state.puts += 1;
            let mishap = state.mishaps.pop_front();
            match mishap {
                Some(Mishap::Closed) => return None,
                Some(Mishap::Refused(status)) => return fault(status, "Planned"),
                Some(Mishap::Overtaken) => {
                    state.objects.insert(place.to_owned(), b"another's".to_vec());
                    return None;
                }
                _ => {}
            }
            let forbids = request.headers.contains_key("if-none-match") && found.is_some();
            let expects = request.headers.get("if-match");
            let differs = expects.is_some() && expects != found.as_deref().map(|body| format!("\"{}\"", etag(body))).as_ref();
            if (forbids || differs) && !state.is_careless {
                return fault(412, "PreconditionFailed");
            }
            state.objects.insert(place.to_owned(), request.body.clone());
            match mishap {
                Some(Mishap::StoredThenClosed) => None,
                Some(Mishap::StoredThen(status)) => fault(status, "InternalError"),
                _ => Some((200, etag(&request.body), Vec::new())),
            }
        }
        "GET" if place.trim_end_matches('/') == "/b" => {
            let prefix = "/b/";
            let items: String = state
                .objects
                .iter()
                .filter_map(|(key, body)| key.strip_prefix(prefix).map(|key| (key, body)))
                .map(|(key, body)| {
                    format!(
                        "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>2026-11-22T14:05:00.000Z</LastModified><ETag>x</ETag></Contents>",
                        body.len()
                    )
                })
                .collect();
            Some((200, 0, format!("<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>").into_bytes()))
        }
        "GET" | "HEAD" => match found {
            Some(body) => Some((200, etag(&body), body)),
            None => fault(404, "NoSuchKey"),
        },
        _ => fault(501, "NotImplemented"),
    }
}
