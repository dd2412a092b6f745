//! Reads what went wrong out of object_store's errors, and leaves out what must not be repeated.

use super::container::NoCredentials;
use crate::StoreError;
use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

/// The operation's name for a HEAD, the one request whose 404 has no body to prove what is missing.
pub(super) const LOOK_UP: &str = "look up";

/// The operation's name for a listing: its 404 can only mean the bucket.
pub(super) const LIST: &str = "list";

/// Stands where S3's word would, when a certificate is not trusted.
const UNTRUSTED: &str = "Untrusted";

/// nginx's word for a client that closed the connection before it was answered; gateways say so as well of connections that they lost themselves.
const HUNG_UP: u16 = 499;

/// The body did not arrive, or not in time: a 400, and yet what others say with 408 (Amazon S3 API Reference, Error responses).
const CUT_OFF: [&str; 2] = ["RequestTimeout", "IncompleteBody"];

/// Whoever is to vouch for a web identity did not answer the service that gives keys: a 400 as well (AWS STS API Reference).
const NO_VOUCHER: &str = "IDPCommunicationError";

/// A server that works and has too much to do.
const BUSY: [&str; 5] = ["SlowDown", "SlowDownRead", "SlowDownWrite", "ServerBusy", "RequestLimitExceeded"];

/// One failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// The answer's HTTP status, when there was an answer.
    status: Option<u16>,
    /// S3's own word for it, such as `NoSuchBucket`; empty when the answer had no such body (every HEAD).
    code: String,
    /// How the connection failed, when there was no answer.
    transport: Option<Transport>,
    /// For people.
    why: String,
}

/// How far a request without an answer may have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    /// It never left this host.
    NotSent,
    /// Nobody knows.
    Unknown,
}

impl Trouble {
    /// Reads an error of object_store.
    ///
    /// Its `RetryError`, which holds status and body, is public but cannot be named outside the crate (0.14.2), so they are
    /// taken from the text it prints: `Server returned non-2xx status code: 403 Forbidden: <body>`.
    pub(super) fn read(error: &Error) -> Self {
        let text = error.to_string();
        if let Some(why) = no_credentials(error, &text) {
            return Self { status: Some(401), code: "NoCredentials".to_owned(), transport: None, why };
        }
        if let Error::InvalidPath { source } = error {
            let why = format!("{source}; Bowline made no such object, and it keeps the others from being listed: rename or remove it");
            return Self { status: None, code: String::new(), transport: None, why };
        }
        let after = |mark: &str| text.split_once(mark).map(|(_, rest)| rest);
        let printed = after("status code: ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = printed.or(match error {
            Error::NotFound { .. } => Some(404),
            Error::PermissionDenied { .. } => Some(403),
            Error::Unauthenticated { .. } => Some(401),
            Error::Precondition { .. } => Some(412),
            Error::NotModified { .. } => Some(304),
            Error::AlreadyExists { .. } => Some(409),
            // Errors in the body of a 200 are S3's way of failing late.
            _ if text.contains("Server returned error response: ") => Some(500),
            _ => None,
        });
        let code = element(&text, "Code").unwrap_or_default();
        if let Some(status) = status {
            let message = element(&text, "Message").unwrap_or_default();
            let why = said(status, &code, &message);
            return Self { status: Some(status), code, transport: None, why };
        }
        let (kind, why) = deepest(error);
        // What rustls calls every certificate it does not accept: no attempt will change that.
        if let Some((_, fault)) = why.split_once("invalid peer certificate: ") {
            return Self { status: None, code: UNTRUSTED.to_owned(), transport: None, why: fault.to_owned() };
        }
        let transport = kind.map(|kind| match kind {
            HttpErrorKind::Connect => Transport::NotSent,
            _ => Transport::Unknown,
        });
        Self { status: None, code, transport, why }
    }

    /// A refusal, read from an answer of which the whole is known.
    pub(super) fn answered(status: u16, body: &str) -> Self {
        let code = element(body, "Code").unwrap_or_default();
        Self { why: said(status, &code, &element(body, "Message").unwrap_or_default()), status: Some(status), code, transport: None }
    }
    /// A failure in the body of an answer that had begun well: S3's way of failing late.
    pub(super) fn late(body: &str) -> Self {
        Self::answered(500, body)
    }
    /// A request that found nobody, or whose answer was lost.
    pub(super) fn transport(error: HttpError) -> Self {
        Self::read(&Error::Generic { store: "S3", source: Box::new(error) })
    }
    /// No answer for so long.
    pub(super) fn silent(seconds: u64) -> Self {
        Self { status: None, code: String::new(), transport: Some(Transport::Unknown), why: format!("no answer within {seconds} s") }
    }
    /// A request that could not be made.
    pub(super) fn ours(why: &str) -> Self {
        Self { status: None, code: String::new(), transport: None, why: why.to_owned() }
    }
    /// Whether somebody answered.
    pub(super) fn is_answer(&self) -> bool {
        self.status.is_some()
    }
    /// These credentials may not, or are nobody's.
    pub(crate) fn is_denied(&self) -> bool {
        let denials = [
            "ExpiredToken",
            "InvalidToken",
            "TokenRefreshRequired",
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "AccessDenied",
            "InvalidIdentityToken",
            "ExpiredTokenException",
        ];
        matches!(self.status, Some(401 | 403)) || denials.iter().any(|denial| self.code.eq_ignore_ascii_case(denial))
    }
    /// The answer's status.
    pub(crate) fn status(&self) -> Option<u16> {
        self.status
    }
    /// S3's own word.
    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    /// A condition of the request did not hold: somebody else's object is there.
    pub(super) fn is_refused_condition(&self) -> bool {
        matches!(self.status, Some(412 | 304))
    }
    /// Another conditional request to the same name is under way; this one had no effect.
    pub(super) fn is_conflict(&self) -> bool {
        self.status == Some(409)
    }
    /// A successful answer that there is no such object (not: no bucket, no S3).
    pub(super) fn is_missing(&self) -> bool {
        self.status == Some(404) && ["NoSuchKey", "BlobNotFound"].contains(&self.code.as_str())
    }
    /// Whether the request may have taken effect all the same.
    pub(super) fn may_have_happened(&self) -> bool {
        match self.status {
            // 501 says that the server knows no such thing: nothing happened, nor will.
            Some(status) => (status >= 500 && status != 501) || status == 408 || status == HUNG_UP || self.is_cut_off(),
            None => self.transport == Some(Transport::Unknown),
        }
    }
    /// Whether trying again may help.
    pub(super) fn may_pass(&self) -> bool {
        let is_passing = self.status == Some(429) || self.code == NO_VOUCHER || (self.may_have_happened() && !self.is_full());
        self.transport.is_some() || self.is_conflict() || is_passing
    }
    /// The server works and asks for fewer requests.
    pub(super) fn is_busy(&self) -> bool {
        // 500 stands for what fails late.
        self.status == Some(429) || (matches!(self.status, Some(500 | 503)) && BUSY.contains(&self.code.as_str()))
    }
    /// A gateway lost the request on its way, or it was cut off: what may pass and object_store (0.14.2, client/retry.rs) does not repeat.
    pub(super) fn is_left_to_us(&self) -> bool {
        self.status == Some(HUNG_UP) || self.is_cut_off() || self.code == NO_VOUCHER
    }
    fn is_cut_off(&self) -> bool {
        CUT_OFF.contains(&self.code.as_str())
    }
    /// The server does not know the header that carries a condition.
    pub(super) fn is_unknown_header(&self) -> bool {
        self.status == Some(501) || self.code == "NotImplemented"
    }
    /// For people.
    pub(crate) fn why(&self) -> &str {
        &self.why
    }
    /// Whether no connection came about at all.
    pub(super) fn never_left(&self) -> bool {
        self.transport == Some(Transport::NotSent)
    }

    fn is_full(&self) -> bool {
        let codes = ["QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "InsufficientCapacity"];
        self.status == Some(507) || codes.contains(&self.code.as_str())
    }

    /// The error for the caller.
    pub(crate) fn of_store(&self, store: &str, operation: &'static str, path: &str) -> StoreError {
        let (store, path, why) = (store.to_owned(), path.to_owned(), self.why.clone());
        if self.is_full() {
            return StoreError::Full { store, operation, path, why };
        }
        match self.status {
            None if self.code == UNTRUSTED => StoreError::Untrusted { store, operation, path, why },
            Some(404) if ["NoSuchBucket", "ContainerNotFound"].contains(&self.code.as_str()) => StoreError::NoStore { store, why },
            Some(404) if self.is_missing() || (self.code.is_empty() && operation == LOOK_UP) => StoreError::Missing { store, path },
            // Its status is that of a denial, and no permission would help.
            _ if self.code == "InvalidObjectState" => StoreError::Archived { store, path },
            _ if self.is_cut_off() || self.code == NO_VOUCHER => StoreError::Unreachable { store, operation, path, why },
            _ if self.is_denied() => StoreError::Denied { store, operation, path, why },
            Some(408 | 429 | HUNG_UP | 500 | 502..=599) => StoreError::Unreachable { store, operation, path, why },
            None if self.transport.is_some() => StoreError::Unreachable { store, operation, path, why },
            _ => StoreError::Failed { store, operation, path, why },
        }
    }
}

/// Whether it is the machine that refused us its role rather than the store that refused a request, and why.
fn no_credentials(error: &Error, text: &str) -> Option<String> {
    let mut current: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = current {
        if let Some(NoCredentials(why)) = cause.downcast_ref() {
            return Some(why.clone());
        }
        current = cause.source();
    }
    // What object_store asks of the instance: a token first, then its role.
    ["169.254.169.254", "/latest/api/token", "/latest/meta-data/iam/"].iter().any(|sign| text.contains(sign)).then(|| {
        let answer = text.split_once("status code: ").and_then(|(_, rest)| rest.get(..3));
        let metadata = match answer {
            Some(status) => format!("the instance's metadata answers {status}: has it a role?"),
            None => "no instance metadata answers".to_owned(),
        };
        format!("there are no credentials: none in the configuration, the environment or the profile, and {metadata}")
    })
}

/// The transport's kind of failure, and the innermost cause, which is the only one that says something.
fn deepest(error: &Error) -> (Option<HttpErrorKind>, String) {
    let mut kind = None;
    let mut current: &dyn std::error::Error = error;
    while let Some(source) = current.source() {
        if let Some(http) = source.downcast_ref::<HttpError>() {
            kind = Some(http.kind());
        }
        current = source;
    }
    let mut why = current.to_string();
    if kind == Some(HttpErrorKind::Timeout) {
        why = format!("no answer in time ({why})");
    }
    why.truncate(why.floor_char_boundary(300));
    (kind, why)
}

/// Why no client could be made, down to what caused it.
pub(super) fn unmade(error: &Error) -> String {
    let (told, (_, cause)) = (error.to_string(), deepest(error));
    if told.contains(&cause) { told } else { format!("{told}: {cause}") }
}

/// The text of the first `<name>…</name>`, shortened; S3's error bodies have no attributes and no nesting there.
fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = rest.split_once(&format!("</{name}>"))?;
    let plain: String = inner.chars().filter(|c| !c.is_control()).take(200).collect();
    Some(plain.replace("&#39;", "'").replace("&quot;", "\"").replace("&amp;", "&"))
}

fn said(status: u16, code: &str, message: &str) -> String {
    match (code.is_empty(), message.is_empty()) {
        (true, _) => format!("the server answered {status} {}", reason(status)),
        (_, true) => format!("the server answered {status} {code}"),
        _ => format!("the server answered {status} {code}: {message}"),
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        301 | 302 | 307 | 308 => "and points elsewhere: is the region right?",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        412 => "Precondition Failed",
        416 => "Range Not Satisfiable",
        HUNG_UP => "Client Closed Request",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "without a reason",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> Trouble {
        Trouble::read(&Error::Generic { store: "S3", source: text.to_owned().into() })
    }

    #[test]
    fn an_answer_gives_its_status_code_and_message_and_nothing_else() {
        let trouble = generic(
            "Error performing PUT http://h/b/k in 3ms - Server returned non-2xx status code: 403 Forbidden: <?xml?><Error>\
             <Code>SignatureDoesNotMatch</Code><Message>check it</Message><StringToSign>AWS4 secret-ish</StringToSign></Error>",
        );
        let error = trouble.of_store("s3://b", "write", "k");
        assert!(matches!(&error, StoreError::Denied { why, .. } if why == "the server answered 403 SignatureDoesNotMatch: check it"));
    }

    #[test]
    fn a_missing_bucket_a_full_one_and_a_busy_one_are_told_apart() {
        let answer = |status: &str, code: &str| {
            generic(&format!("… non-2xx status code: {status}: <Error><Code>{code}</Code></Error>")).of_store("s3://b", "read", "k")
        };
        assert!(matches!(answer("404 Not Found", "NoSuchBucket"), StoreError::NoStore { .. }));
        assert!(matches!(answer("404 Not Found", "NoSuchKey"), StoreError::Missing { .. }));
        assert!(matches!(answer("404 Not Found", "Whatever"), StoreError::Failed { .. }));
        assert!(matches!(answer("507 Insufficient Storage", "XMinioStorageFull"), StoreError::Full { .. }));
        assert!(matches!(answer("403 Forbidden", "QuotaExceeded"), StoreError::Full { .. }));
        assert!(matches!(answer("503 Slow Down", "SlowDown"), StoreError::Unreachable { .. }));
        assert!(matches!(answer("400 Bad Request", "ExpiredToken"), StoreError::Denied { .. }));
        assert!(matches!(answer("403 Forbidden", "InvalidObjectState"), StoreError::Archived { .. }));
        assert!(matches!(answer("400 Bad Request", "InvalidArgument"), StoreError::Failed { .. }));
    }

    #[test]
    fn what_a_gateway_lost_on_its_way_may_pass_and_may_have_happened() {
        let lost = generic("Error performing GET http://h/b/k in 3ms - Server returned non-2xx status code: 499 <unknown status code>: <html>");
        assert!(lost.may_pass() && lost.may_have_happened() && lost.is_left_to_us() && !lost.is_busy());
        let error = lost.of_store("s3://b", "read", "k");
        assert!(matches!(&error, StoreError::Unreachable { why, .. } if why == "the server answered 499 Client Closed Request"), "{error:?}");
        for (status, passes) in [("408 Request Timeout", true), ("429 Too Many Requests", true), ("400 Bad Request", false), ("416 X", false)] {
            let other = generic(&format!("… non-2xx status code: {status}: "));
            assert!(other.may_pass() == passes && !other.is_left_to_us(), "{status}");
        }
    }

    #[test]
    fn a_body_that_stalled_and_a_voucher_that_is_away_pass_although_they_are_a_400() {
        let answer = |status: &str, code: &str| generic(&format!("… non-2xx status code: {status}: <Error><Code>{code}</Code></Error>"));
        for (code, may_have_happened) in [("RequestTimeout", true), ("IncompleteBody", true), ("IDPCommunicationError", false)] {
            let trouble = answer("400 Bad Request", code);
            assert!(trouble.may_pass() && trouble.is_left_to_us() && !trouble.is_busy(), "{code}");
            assert_eq!(trouble.may_have_happened(), may_have_happened, "{code}");
            assert!(matches!(trouble.of_store("s3://b", "write", "k"), StoreError::Unreachable { .. }), "{code}");
        }
        assert!(!answer("400 Bad Request", "EntityTooLarge").may_pass());
    }

    #[test]
    fn a_key_that_no_listing_can_hold_is_named_with_the_way_out() {
        for key in ["org/kb//x", "org/kb/./x", "org/kb/tab\there"] {
            let error = object_store::path::Path::parse(key).unwrap_err();
            let trouble = Trouble::read(&error.into());
            assert!(trouble.why().contains("rename or remove it") && trouble.why().contains("org/kb"), "{}", trouble.why());
            assert!(!trouble.may_pass());
        }
    }

    #[test]
    fn what_fails_late_may_pass_and_a_busy_server_is_known_there_too() {
        let late = |code: &str| Trouble::late(&format!("<?xml?>\n<Error><Code>{code}</Code><Message>m</Message></Error>"));
        assert!(late("InternalError").may_pass() && late("InternalError").may_have_happened() && !late("InternalError").is_busy());
        assert!(late("SlowDown").is_busy() && late("SlowDown").is_answer());
    }
}
