//! Requests that object_store has no words for, sent and signed by its own means.

use super::trouble::Trouble;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpRequest, HttpRequestBody};
use std::time::Duration;

/// How often a request is sent that may pass.
const ATTEMPTS: u32 = 5;
/// How long an answer is waited for.
const SECONDS_MAX: u64 = 60;

/// Sends requests to one bucket.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) client: HttpClient,
    pub(super) credentials: AwsCredentialProvider,
    pub(super) region: String,
    /// `https://host/bucket`, or `https://bucket.host`.
    pub(super) bucket_url: String,
}

impl Control {
    /// Sends a request and reads the answer whole. `key` is empty for the bucket itself. Repeated while that may help: it must be safe
    /// to repeat.
    pub(super) async fn send(&self, method: &str, key: &str, query: &[(&str, &str)], body: &str) -> Result<Vec<u8>, Trouble> {
        let mut tries = 0;
        loop {
            tries += 1;
            let patience = Duration::from_secs(SECONDS_MAX);
            let answer = tokio::time::timeout(patience, self.once(method, key, query, body)).await;
            match answer.unwrap_or_else(|_| Err(Trouble::silent(patience))) {
                Err(trouble) if trouble.may_pass() && tries < ATTEMPTS => tokio::time::sleep(super::put::pause(tries)).await,
                answer => return answer,
            }
        }
    }

    async fn once(&self, method: &str, key: &str, query: &[(&str, &str)], body: &str) -> Result<Vec<u8>, Trouble> {
        let query: Vec<String> = query.iter().map(|(name, value)| format!("{}={}", encoded(name, false), encoded(value, false))).collect();
        let url = format!("{}/{}?{}", self.bucket_url, encoded(key, true), query.join("&"));
        let bug = |e: &dyn std::fmt::Display| Trouble::of_ours(format!("the request could not be made: {e}"));
        let built = http::Request::builder().method(method).uri(url).body(HttpRequestBody::from(body.to_owned()));
        let mut request: HttpRequest = built.map_err(|e| bug(&e))?;
        let credential = self.credentials.get_credential().await.map_err(|e| Trouble::read(&e))?;
        AwsAuthorizer::new(&credential, "s3", &self.region).try_authorize(&mut request, None).map_err(|e| bug(&e))?;
        let answer = self.client.execute(request).await.map_err(|e| Trouble::unanswered(&e))?;
        let (status, body) = (answer.status().as_u16(), answer.into_body());
        let body = body.bytes().await.map_err(|e| Trouble::unanswered(&e))?;
        if (200..300).contains(&status) { Ok(body.to_vec()) } else { Err(Trouble::answered(status, &String::from_utf8_lossy(&body))) }
    }
}

/// Percent-encoded but for what RFC 3986 calls unreserved; `/` stays in a path.
fn encoded(text: &str, is_path: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            b'/' if is_path => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
