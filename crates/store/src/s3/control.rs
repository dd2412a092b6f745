//! Asks the bucket itself, not its objects: signed with object_store's own signer, since object_store has no calls for this.

use super::connect::Settings;
use super::put::pause;
use super::tap::md5_of_bytes;
use super::trouble::Trouble;
use crate::StoreError;
use crate::address::BucketAddress;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use object_store::{ClientOptions, HeaderMap, HeaderValue};
use std::time::Duration;

/// Attempts for one request.
const ATTEMPTS: u32 = 4;
/// One attempt, answer and all.
const ATTEMPT_SECONDS_MAX: u64 = 30;

/// Where a bucket's own settings are asked for.
pub(crate) struct Control {
    client: HttpClient,
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
        options: ClientOptions,
    ) -> Result<Self, String> {
        let client = ReqwestConnector::default().connect(&options).map_err(|error| error.to_string())?;
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

    /// Sends, again while that may help. The error means that nobody answered; a refusal is an answer.
    pub(crate) async fn send(&self, ask: &Ask<'_>) -> Result<Answered, StoreError> {
        for tries in 1.. {
            let attempt = self.attempt(ask);
            let trouble = match tokio::time::timeout(Duration::from_secs(ATTEMPT_SECONDS_MAX), attempt).await {
                Ok(Ok(body)) => return Ok(Answered::Yes(body)),
                Ok(Err(trouble)) => trouble,
                Err(_) => Trouble::silent(ATTEMPT_SECONDS_MAX),
            };
            if trouble.is_answer() && !trouble.may_pass() {
                return Ok(Answered::No(trouble));
            }
            if tries == ATTEMPTS || !trouble.may_pass() {
                // A server that fails each time at this one question does so for good: that, too, is an answer.
                return if trouble.is_answer() { Ok(Answered::No(trouble)) } else { Err(trouble.of_store(&self.address, "ask", ask.query)) };
            }
            tokio::time::sleep(pause(tries)).await;
        }
        unreachable!("the loop ends by itself")
    }

    async fn attempt(&self, ask: &Ask<'_>) -> Result<String, Trouble> {
        let mut request = HttpRequest::new(HttpRequestBody::from(ask.body.clone().into_bytes()));
        *request.method_mut() = ask.method.parse().map_err(|_| Trouble::ours("no method"))?;
        let mut url = self.base.clone();
        // Keys are plain letters, digits and a few signs that an address may carry as they are, but for these two.
        if !ask.path.is_empty() {
            url = format!("{url}/{}", ask.path.replace('+', "%2B").replace('=', "%3D"));
        }
        if !ask.query.is_empty() {
            url = format!("{url}?{}", ask.query);
        }
        *request.uri_mut() = url.parse().map_err(|_| Trouble::ours("the bucket's address is none"))?;
        let md5 = md5_of_bytes(ask.body.as_bytes());
        let mut headers: Vec<(&'static str, &str)> = ask.headers.to_vec();
        if !ask.body.is_empty() {
            // Servers demand it of some of these requests, and differ in which.
            headers.push(("content-md5", &md5));
        }
        set(request.headers_mut(), &headers)?;
        let credential = self.credentials.get_credential().await.map_err(|error| Trouble::read(&error))?;
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .try_authorize(&mut request, None)
            .map_err(|_| Trouble::ours("the request could not be signed"))?;
        let answer = self.client.execute(request).await.map_err(Trouble::transport)?;
        let status = answer.status().as_u16();
        let body = answer.into_body().bytes().await.map_err(Trouble::transport)?;
        let body = String::from_utf8_lossy(&body).into_owned();
        if (200..300).contains(&status) && !body.contains("<Error>") { Ok(body) } else { Err(Trouble::answered(status, &body)) }
    }
}

fn set(to: &mut HeaderMap, headers: &[(&'static str, &str)]) -> Result<(), Trouble> {
    for (name, value) in headers {
        to.insert(*name, HeaderValue::from_str(value).map_err(|_| Trouble::ours("a header holds what no header can"))?);
    }
    Ok(())
}
