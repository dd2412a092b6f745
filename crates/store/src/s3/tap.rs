//! Stands between object_store and the wire: adds the headers that object_store does not send, and keeps those that it does not tell.

use super::at_rest::AtRest;
use super::locking::Locking;
use async_trait::async_trait;
use base64::Engine;
use md5::{Digest, Md5};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::{ClientOptions, HeaderValue};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;
use terms::{Clock, SystemClock, Timestamp};

/// What no clock can be off by: nothing was seen yet.
const UNSEEN: i64 = i64::MIN;

/// What is added to requests, and what was seen in answers; shared by the clients of one store.
#[derive(Debug)]
pub(super) struct Tap {
    /// The condition under which an upload in parts may be completed: a header's name and value.
    condition: Option<(&'static str, &'static str)>,
    /// Whether the completion is sent without its condition, because the server said that it does not know it.
    is_unconditional: AtomicBool,
    /// Whether bodies carry their MD5.
    sends_md5: bool,
    /// The server's clock less ours, in seconds.
    skew: AtomicI64,
    /// What locks new objects, where they are to be locked; known when the credentials are.
    pub(super) locking: OnceLock<Locking>,
    /// The bucket's host. What others answer, such as whoever gives keys, says nothing of the store; unset: whoever answers is the store.
    pub(super) host: OnceLock<String>,
    contact: Mutex<Contact>,
}

/// Whether the server can be reached, as the last requests of this store found it.
#[derive(Debug, Default)]
struct Contact {
    /// Somebody answered once: what cannot be reached now is no mistake in the address.
    was_made: bool,
    /// Since when no connection came about.
    lost: Option<Instant>,
}

impl Tap {
    pub(super) fn new(condition: Option<(&'static str, &'static str)>, sends_md5: bool) -> Arc<Self> {
        Arc::new(Self {
            condition,
            is_unconditional: AtomicBool::new(false),
            sends_md5,
            skew: AtomicI64::new(UNSEEN),
            locking: OnceLock::new(),
            host: OnceLock::new(),
            contact: Mutex::default(),
        })
    }

    /// The server's clock less ours, in seconds, by its last answer.
    pub(super) fn skew_seconds(&self) -> Option<i64> {
        Some(self.skew.load(Ordering::Relaxed)).filter(|skew| *skew != UNSEEN)
    }

    /// Notes how a request of this store's clients ended.
    pub(super) fn note(&self, outcome: &Result<HttpResponse, HttpError>) {
        let mut contact = self.contact.lock().expect("no holder panics");
        match outcome {
            Ok(_) => *contact = Contact { was_made: true, lost: None },
            Err(error) if error.kind() == HttpErrorKind::Connect => contact.lost = contact.lost.or_else(|| Some(Instant::now())),
            // A connection that broke says nothing of the next one.
            Err(_) => {}
        }
    }

    /// Whether a server that cannot be connected to is not waited for: nobody ever answered there, or not for so long.
    pub(super) fn is_gone(&self, seconds: u64) -> bool {
        let contact = self.contact.lock().expect("no holder panics");
        !contact.was_made || contact.lost.is_some_and(|lost| lost.elapsed().as_secs() >= seconds)
    }

    /// From now on uploads are completed without a condition; `false` when they were already.
    pub(super) fn complete_unconditionally(&self) -> bool {
        self.condition.is_some() && !self.is_unconditional.swap(true, Ordering::Relaxed)
    }

    /// Whether the completion of an upload refuses to overwrite, as far as this side is concerned.
    pub(super) fn completes_conditionally(&self) -> bool {
        self.condition.is_some() && !self.is_unconditional.load(Ordering::Relaxed)
    }

    fn is_for_store(&self, request: &HttpRequest) -> bool {
        self.host.get().is_none_or(|host| request.uri().host().is_some_and(|asked| asked.eq_ignore_ascii_case(host)))
    }

    fn prepare(&self, request: &mut HttpRequest) {
        let query = request.uri().query().unwrap_or_default();
        let is_put = request.method().as_str() == "PUT";
        // Headers that are not x-amz-… need not be signed, and object_store itself adds this one after signing.
        let completes = request.method().as_str() == "POST" && query.contains("uploadId=") && self.completes_conditionally();
        if let Some((name, value)) = self.condition.filter(|_| completes) {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        if is_put && self.sends_md5 {
            let sum = md5_of(request.body());
            if let Ok(value) = HeaderValue::from_str(&sum) {
                request.headers_mut().insert("content-md5", value);
            }
        }
    }

    fn keep(&self, answer: &mut HttpResponse) {
        let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        if let Some(theirs) = text("date").as_deref().and_then(http_date) {
            self.skew.store(theirs.seconds_since(SystemClock.now()).round() as i64, Ordering::Relaxed);
        }
        let at_rest = AtRest { algorithm: text("x-amz-server-side-encryption"), key: text("x-amz-server-side-encryption-aws-kms-key-id") };
        answer.extensions_mut().insert(at_rest);
    }
}

/// The MD5 of some bytes, as the header Content-MD5 has it.
pub(super) fn md5_of_bytes(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(Md5::digest(bytes))
}

fn md5_of(body: &HttpRequestBody) -> String {
    use http_body::Body;
    let mut sum = Md5::new();
    let mut body = std::pin::pin!(body.clone());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    // The body lies in memory whole: it is ready at once.
    while let std::task::Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut context) {
        if let Ok(piece) = frame.into_data() {
            sum.update(&piece);
        }
    }
    base64::engine::general_purpose::STANDARD.encode(sum.finalize())
}

/// `Sun, 22 Nov 2026 14:05:00 GMT`, the one form in which servers write dates (RFC 9110, 5.6.7).
pub(crate) fn http_date(text: &str) -> Option<Timestamp> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words[..] else { return None };
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| *name == month)? + 1;
    format!("{year}-{month:02}-{day:0>2} {time} UTC").parse().ok()
}

/// Connects like object_store does, and puts the tap in between.
#[derive(Debug)]
pub(super) struct Tapped(pub(super) Arc<Tap>);

impl HttpConnector for Tapped {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Service { inner, tap: Arc::clone(&self.0) }))
    }
}

#[derive(Debug)]
struct Service {
    inner: HttpClient,
    tap: Arc<Tap>,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.tap.prepare(&mut request);
        if let Some(locking) = self.tap.locking.get() {
            locking.dress(&mut request).await?;
        }
        let is_for_store = self.tap.is_for_store(&request);
        let mut outcome = self.inner.execute(request).await;
        if is_for_store {
            self.tap.note(&outcome);
            if let Ok(answer) = &mut outcome {
                self.tap.keep(answer);
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_of_an_answer_is_read_and_nonsense_is_none() {
        assert_eq!(http_date("Sun, 22 Nov 2026 14:05:09 GMT").unwrap().to_string(), "2026-11-22 14:05:09 UTC");
        assert_eq!(http_date("Sun, 2 Nov 2026 04:05:09 GMT").unwrap().to_string(), "2026-11-02 04:05:09 UTC");
        for wrong in ["", "Sun, 22 Nov 2026 14:05:09 CET", "Sunday, 22-Nov-26 14:05:09 GMT", "Sun, 22 Foo 2026 14:05:09 GMT"] {
            assert_eq!(http_date(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_sum_of_a_body_in_pieces_is_that_of_its_bytes() {
        let whole = md5_of_bytes(b"hello world");
        assert_eq!(whole, "XrY7u+Ae7tCTyyK7j1rNww==");
        let pieces: object_store::PutPayload = [bytes::Bytes::from_static(b"hello"), bytes::Bytes::from_static(b" world")].into_iter().collect();
        assert_eq!(md5_of(&HttpRequestBody::from(pieces)), whole);
        assert_eq!(md5_of(&HttpRequestBody::from(b"hello world".to_vec())), whole);
    }

    #[test]
    fn a_server_that_never_answered_is_gone_and_one_that_did_only_after_a_while() {
        let tap = Tap::new(None, false);
        let refused = || Err(HttpError::new(HttpErrorKind::Connect, std::io::Error::from(std::io::ErrorKind::ConnectionRefused)));
        tap.note(&refused());
        assert!(tap.is_gone(60), "it may be a mistake in the address");
        tap.note(&Ok(HttpResponse::new(bytes::Bytes::new().into())));
        tap.note(&refused());
        assert!(!tap.is_gone(60) && tap.is_gone(0));
    }

    #[derive(Debug)]
    struct Answers;

    #[async_trait]
    impl HttpService for Answers {
        async fn call(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
            Ok(HttpResponse::new(bytes::Bytes::new().into()))
        }
    }

    #[tokio::test]
    async fn whoever_gives_keys_is_not_the_store() {
        let tap = Tap::new(None, false);
        tap.host.set("b.s3.eu-central-1.amazonaws.com".to_owned()).unwrap();
        let service = Service { inner: HttpClient::new(Answers), tap: Arc::clone(&tap) };
        for (uri, is_gone) in [
            ("http://169.254.169.254/latest/api/token", true),
            ("https://sts.eu-central-1.amazonaws.com/", true),
            ("https://B.s3.eu-central-1.amazonaws.com/key", false),
        ] {
            let mut request = HttpRequest::new(HttpRequestBody::from(Vec::<u8>::new()));
            *request.uri_mut() = uri.parse().unwrap();
            service.call(request).await.unwrap();
            assert_eq!(tap.is_gone(60), is_gone, "{uri}");
        }
    }

    #[test]
    fn the_condition_is_dropped_once_for_good() {
        let tap = Tap::new(Some(("if-none-match", "*")), false);
        assert!(tap.completes_conditionally() && tap.complete_unconditionally());
        assert!(!tap.completes_conditionally() && !tap.complete_unconditionally());
        assert!(!Tap::new(None, false).complete_unconditionally());
    }
}
