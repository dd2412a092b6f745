//! Asks the bucket itself, not its objects: signed with object_store's own signer, since object_store has no calls for this.

use super::connect::{STALL_SECONDS_MAX, Settings};
use super::put::{RETRY_SECONDS_MAX, pause};
use super::tap::{Tap, md5_of_bytes};
use super::trouble::Trouble;
use super::{BUSY_SECONDS_MAX, BYTES_PER_SECOND_MIN, CALL_SECONDS_MAX};
use crate::StoreError;
use crate::address::BucketAddress;
use bytes::Bytes;
use http::HeaderName;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use object_store::{ClientOptions, HeaderMap, HeaderValue};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So many attempts a request has at least.
const ATTEMPTS: u32 = 4;
/// One attempt, answer and all.
const ATTEMPT_SECONDS_MAX: u64 = 30;
/// A body above this takes time.
const LARGE_BYTES: usize = 1 << 20;

/// Where a bucket's own settings are asked for.
pub(crate) struct Control {
    client: HttpClient,
    /// More patient: for bodies, and for what the server itself has to copy.
    uploads: HttpClient,
    tap: Arc<Tap>,
    credentials: AwsCredentialProvider,
    pub(crate) region: String,
    /// The server's address when it is not AWS.
    pub(crate) endpoint: Option<String>,
    pub(crate) bucket: String,
    base: String,
    address: String,
}

/// A request about the bucket.
#[derive(Debug, Default)]
pub(crate) struct Ask<'a> {
    pub(crate) method: &'static str,
    /// An object's whole key; empty for the bucket.
    pub(crate) path: &'a str,
    /// Such as `versioning`, or `uploads` with its parameters; plain or percent-encoded.
    pub(crate) query: &'a str,
    pub(crate) headers: &'a [(&'static str, &'a str)],
    pub(crate) body: String,
    pub(crate) patience: Patience,
}

/// How long a server that fails is asked again, besides one that only asks to slow down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Hours of work may depend on the answer.
    #[default]
    Whole,
    /// As long as object_store repeats a read: a listing that is looked at again and again should say soon that the store is away.
    Reading,
    /// A few times: a server that fails at this one question does so for good, or whoever asks asks again by itself.
    Brief,
}

impl Patience {
    /// For one attempt, besides its known bytes: nobody knows beforehand how long a page of a listing is.
    fn attempt_seconds(self) -> u64 {
        match self {
            Self::Reading => CALL_SECONDS_MAX,
            Self::Whole | Self::Brief => ATTEMPT_SECONDS_MAX,
        }
    }

    fn seconds(self) -> u64 {
        match self {
            Self::Whole => RETRY_SECONDS_MAX,
            Self::Reading => 10,
            Self::Brief => 0,
        }
    }
}

/// How a request was answered that came through.
#[derive(Debug)]
pub(crate) enum Answered {
    /// Done; the body.
    Yes(String),
    /// Refused, and with which of S3's words.
    No(Trouble),
}

impl Control {
    /// The error is a reason for people.
    pub(super) fn new(
        shown: &str,
        address: &BucketAddress,
        settings: &Settings,
        credentials: AwsCredentialProvider,
        options: [ClientOptions; 2],
        tap: Arc<Tap>,
    ) -> Result<Self, String> {
        let [client, uploads] = options.map(|options| ReqwestConnector::default().connect(&options).map_err(|error| error.to_string()));
        let (client, uploads) = (client?, uploads?);
        let (bucket, region) = (&address.bucket, &settings.region);
        let base = match (&settings.endpoint, settings.is_path_style) {
            (Some(endpoint), true) => format!("{endpoint}/{bucket}"),
            (Some(endpoint), false) => match endpoint.split_once("://") {
                Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
                None => format!("{endpoint}/{bucket}"),
            },
            (None, true) => format!("https://s3.{region}.amazonaws.com/{bucket}"),
            (None, false) => format!("https://{bucket}.s3.{region}.amazonaws.com"),
        };
        Ok(Self {
            client,
            uploads,
            tap,
            credentials,
            region: region.clone(),
            endpoint: settings.endpoint.clone(),
            bucket: bucket.clone(),
            base,
            address: shown.to_owned(),
        })
    }

    /// Host, and bucket where it is in the path: what stands before an object's key.
    pub(super) fn place(&self) -> &str {
        self.base.split_once("://").map_or(&self.base, |(_, place)| place)
    }

    /// Who answers for the bucket.
    pub(super) fn host(&self) -> Option<String> {
        self.base.parse::<http::Uri>().ok()?.host().map(str::to_owned)
    }

    /// Sends, again while that may help. The error means that nobody answered; a refusal is an answer.
    pub(crate) async fn send(&self, ask: &Ask<'_>) -> Result<Answered, StoreError> {
        let headers = ask.headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let body = Bytes::from(ask.body.clone());
        let call = Call { method: ask.method, path: ask.path, query: ask.query, headers, body, patience: ask.patience, ..Call::default() };
        Ok(match self.exchange(&call).await? {
            Ok(reply) => Answered::Yes(String::from_utf8_lossy(&reply.body).into_owned()),
            Err(trouble) => Answered::No(trouble),
        })
    }

    /// The same with any bytes, and with the answer's headers.
    pub(crate) async fn exchange(&self, call: &Call<'_>) -> Result<Result<Reply, Trouble>, StoreError> {
        let limit = call.patience.attempt_seconds() + (call.body.len() as u64 + call.expected_bytes() + call.copied_bytes) / BYTES_PER_SECOND_MIN;
        let begun = Instant::now();
        for tries in 1.. {
            let trouble = match tokio::time::timeout(Duration::from_secs(limit), self.attempt(call)).await {
                Ok(Ok(reply)) => return Ok(Ok(reply)),
                Ok(Err(trouble)) => trouble,
                Err(_) => Trouble::silent(limit),
            };
            if !trouble.may_pass() || is_spent(&self.tap, call, &trouble, tries, begun.elapsed()) {
                // A server that fails each time at this one question may do so for good: that, too, is an answer.
                let asked = if call.path.is_empty() { call.query } else { call.path };
                return if trouble.is_answer() { Ok(Err(trouble)) } else { Err(trouble.of_store(&self.address, "ask", asked)) };
            }
            tokio::time::sleep(pause(tries)).await;
        }
        unreachable!("the loop ends by itself")
    }

    async fn attempt(&self, call: &Call<'_>) -> Result<Reply, Trouble> {
        let mut request = HttpRequest::new(HttpRequestBody::from(call.body.clone()));
        *request.method_mut() = call.method.parse().map_err(|_| Trouble::ours("no method"))?;
        let mut url = self.base.clone();
        if !call.path.is_empty() {
            url = format!("{url}/{}", encoded_path(call.path));
        }
        if !call.query.is_empty() {
            url = format!("{url}?{}", call.query);
        }
        *request.uri_mut() = url.parse().map_err(|_| Trouble::ours("the bucket's address is none"))?;
        let mut headers: Vec<(&str, &str)> = call.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let md5 = md5_of_bytes(&call.body);
        if !call.body.is_empty() {
            // Servers demand it of some of these requests, and differ in which.
            headers.push(("content-md5", &md5));
        }
        set(request.headers_mut(), &headers)?;
        let credential = self.credentials.get_credential().await.map_err(|error| Trouble::read(&error))?;
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .try_authorize(&mut request, None)
            .map_err(|_| Trouble::ours("the request could not be signed"))?;
        let is_large = call.body.len() > LARGE_BYTES || call.copied_bytes > LARGE_BYTES as u64;
        let client = if is_large { &self.uploads } else { &self.client };
        let outcome = client.execute(request).await;
        self.tap.note(&outcome);
        let answer = outcome.map_err(Trouble::transport)?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.into_body().bytes().await.map_err(Trouble::transport)?;
        // Errors in the body of a 200 are S3's way of failing late; an object may hold anything.
        let fails_late = call.method != "GET" || call.path.is_empty();
        let is_error = fails_late && body.len() < LARGE_BYTES && String::from_utf8_lossy(&body).contains("<Error>");
        match (200..300).contains(&status) {
            true if is_error => Err(Trouble::late(&String::from_utf8_lossy(&body))),
            true => Ok(Reply { headers, body }),
            false => Err(Trouble::answered(status, &String::from_utf8_lossy(&body))),
        }
    }
}

/// Whether no further attempt begins.
fn is_spent(tap: &Tap, call: &Call<'_>, trouble: &Trouble, tries: u32, waited: Duration) -> bool {
    let seconds = match trouble.is_busy() {
        true => BUSY_SECONDS_MAX,
        // A conflict is the answer of a server that works, and lasts where it is no race.
        false if trouble.is_conflict() || (trouble.never_left() && tap.is_gone(RETRY_SECONDS_MAX)) => 0,
        false => call.patience.seconds(),
    };
    // Each attempt at what is copied may last as long as the copying: there time alone counts, and so it does where two reads stood still.
    let has_stood = call.patience == Patience::Reading && waited.as_secs() >= 2 * STALL_SECONDS_MAX;
    let has_tried = tries >= ATTEMPTS || has_stood || (call.copied_bytes > 0 && seconds > 0);
    has_tried && waited.as_secs() >= seconds
}

/// A request with a body of any bytes.
#[derive(Debug, Default)]
pub(crate) struct Call<'a> {
    pub(crate) method: &'static str,
    /// An object's whole key; empty for the bucket.
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    /// What the server puts together or copies before it answers.
    pub(crate) copied_bytes: u64,
    pub(crate) patience: Patience,
}

impl Call<'_> {
    /// What the answer may carry, as far as the range tells.
    fn expected_bytes(&self) -> u64 {
        let range = self.headers.iter().find(|(name, _)| name == "range").and_then(|(_, value)| value.strip_prefix("bytes="));
        let ends = range.and_then(|range| range.split_once('-')).and_then(|(from, to)| Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?)));
        ends.map_or(0, |(from, to)| to.saturating_sub(from))
    }
}

/// An answer that is no refusal.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A key as an address has it; its slashes stay.
fn encoded_path(key: &str) -> String {
    key.split('/').map(crate::bucket::encoded).collect::<Vec<_>>().join("/")
}

fn set(to: &mut HeaderMap, headers: &[(&str, &str)]) -> Result<(), Trouble> {
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Trouble::ours("a header has no name"))?;
        to.insert(name, HeaderValue::from_str(value).map_err(|_| Trouble::ours("a header holds what no header can"))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_of_a_store_that_stands_still_ends_after_two_reads_and_waits_for_a_busy_one() {
        let tap = Tap::new(None, false);
        let spent = |patience, trouble: &Trouble, tries, seconds| {
            is_spent(&tap, &Call { patience, ..Call::default() }, trouble, tries, Duration::from_secs(seconds))
        };
        let silent = Trouble::silent(STALL_SECONDS_MAX);
        assert!(!spent(Patience::Reading, &silent, 1, STALL_SECONDS_MAX));
        assert!(spent(Patience::Reading, &silent, 2, 2 * STALL_SECONDS_MAX));
        assert!(spent(Patience::Reading, &silent, 1, CALL_SECONDS_MAX));
        assert!(!spent(Patience::Whole, &silent, 2, 2 * STALL_SECONDS_MAX));
        let busy = Trouble::answered(503, "<Error><Code>SlowDown</Code></Error>");
        assert!(!spent(Patience::Reading, &busy, 9, CALL_SECONDS_MAX));
    }
}
