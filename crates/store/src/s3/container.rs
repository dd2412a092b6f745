//! Credentials from the container's own endpoint (ECS, EKS Pod Identity and what speaks like them), kept until they are about to expire.
//!
//! object_store knows two of the ways and silently asks the instance instead for the others, so that a container would act with the
//! machine's role: <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>.

use super::credentials::Lookup;
use super::trouble::unmade;
use async_trait::async_trait;
use object_store::aws::AwsCredential;
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use object_store::{Certificate, ClientOptions, CredentialProvider, HeaderValue};
use std::sync::Arc;
use std::time::Duration;
use terms::{Clock, Secret, SystemClock, Timestamp};
use tokio::sync::Mutex;

/// The address at which ECS answers relative URIs.
const ECS: &str = "http://169.254.170.2";
/// Hosts that may be asked without TLS: nobody else can listen there.
const PLAIN_HOSTS: [&str; 6] = ["localhost", "127.0.0.1", "[::1]", "169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];
const ATTEMPTS: u32 = 4;
/// Credentials are asked for anew this long before they expire.
const SPARE_SECONDS: f64 = 300.0;
/// How long credentials are kept that name no end.
const UNNAMED_SECONDS: i64 = 900;

/// The endpoint and what it gave last.
pub(super) struct Container {
    url: String,
    token: Token,
    client: HttpClient,
    kept: Mutex<Option<(Arc<AwsCredential>, Timestamp)>>,
}

/// What the endpoint wants to see.
enum Token {
    Nothing,
    Given(Secret),
    /// Read anew each time, because it is renewed there.
    File(String),
}

/// Why there are no credentials, as [`super::trouble::Trouble`] finds it in object_store's errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoCredentials(pub(super) String);

impl Container {
    /// The endpoint that the environment names, if it names one. The error is a reason for people.
    pub(super) fn find(variable: Lookup, certificates: &[Certificate]) -> Result<Option<Self>, String> {
        let Some(url) = address(variable)? else { return Ok(None) };
        let token = match (variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"), variable("AWS_CONTAINER_AUTHORIZATION_TOKEN")) {
            (Some(file), _) => Token::File(file),
            (None, Some(given)) => Token::Given(Secret::new(given)),
            (None, None) => Token::Nothing,
        };
        let options = ClientOptions::new().with_allow_http(true).with_connect_timeout(Duration::from_secs(2)).with_timeout(Duration::from_secs(5));
        let options = certificates.iter().cloned().fold(options, ClientOptions::with_root_certificate);
        let client = ReqwestConnector::default().connect(&options).map_err(|error| unmade(&error))?;
        Ok(Some(Self { url, token, client, kept: Mutex::new(None) }))
    }

    async fn ask(&self) -> Result<(AwsCredential, Timestamp), String> {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = self.url.parse().map_err(|_| "it is no address".to_owned())?;
        let token = match &self.token {
            Token::Nothing => None,
            Token::Given(token) => Some(token.reveal().to_owned()),
            Token::File(file) => Some(tokio::fs::read_to_string(file).await.map_err(|error| format!("cannot read its token in {file}: {error}"))?),
        };
        if let Some(token) = token {
            let mut value =
                HeaderValue::from_str(token.trim()).map_err(|_| "its token holds a line break or another control character".to_owned())?;
            value.set_sensitive(true);
            request.headers_mut().insert("authorization", value);
        }
        let answer = self.client.execute(request).await.map_err(|error| innermost(&error))?;
        let status = answer.status();
        let body = answer.into_body().bytes().await.map_err(|error| innermost(&error))?;
        if !status.is_success() {
            return Err(format!("it answered {status}"));
        }
        // The answer is not repeated in any error: it holds the keys.
        let fields: serde_json::Value = serde_json::from_slice(&body).map_err(|_| "its answer is not JSON".to_owned())?;
        let field = |name: &str| fields[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let must = |name: &str| field(name).ok_or_else(|| format!("its answer has no {name}"));
        let expires = match field("Expiration") {
            Some(text) => text.parse().map_err(|_| format!("it says {text:?} for Expiration"))?,
            None => Timestamp::from_unix_micros(SystemClock.now().unix_micros() + UNNAMED_SECONDS * 1_000_000),
        };
        Ok((AwsCredential { key_id: must("AccessKeyId")?, secret_key: must("SecretAccessKey")?, token: field("Token") }, expires))
    }
}

#[async_trait]
impl CredentialProvider for Container {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        // Held while asking, so that many requests at once ask once.
        let mut kept = self.kept.lock().await;
        let left = |until: Timestamp| until.seconds_since(SystemClock.now());
        if let Some((credential, _)) = kept.as_ref().filter(|(_, until)| left(*until) > SPARE_SECONDS) {
            return Ok(Arc::clone(credential));
        }
        let mut tries = 0;
        let why = loop {
            tries += 1;
            match self.ask().await {
                Ok((credential, until)) => {
                    let credential = Arc::new(credential);
                    *kept = Some((Arc::clone(&credential), until));
                    return Ok(credential);
                }
                Err(why) if tries >= ATTEMPTS => break why,
                Err(_) => tokio::time::sleep(super::put::pause(tries)).await,
            }
        };
        match kept.as_ref().filter(|(_, until)| left(*until) > 0.0) {
            Some((credential, _)) => Ok(Arc::clone(credential)),
            None => {
                let why = format!("there are no credentials: the container's endpoint {} gives none: {why}", self.url);
                Err(object_store::Error::Generic { store: "S3", source: Box::new(NoCredentials(why)) })
            }
        }
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container").field("url", &self.url).finish_non_exhaustive()
    }
}

/// The endpoint's whole address; over plain HTTP only where nobody else can listen.
fn address(variable: Lookup) -> Result<Option<String>, String> {
    if let Some(path) = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        return match path.starts_with('/') {
            true => Ok(Some(format!("{ECS}{path}"))),
            false => Err(format!("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is {path:?}; it must begin with /")),
        };
    }
    let Some(url) = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI") else { return Ok(None) };
    let plain = url.strip_prefix("http://").map(|rest| rest.split(['/', '?']).next().unwrap_or_default());
    let is_safe = match plain {
        Some(host) => PLAIN_HOSTS.iter().any(|known| host == *known || host.strip_prefix(known).is_some_and(|port| port.starts_with(':'))),
        None => url.starts_with("https://"),
    };
    match is_safe {
        true => Ok(Some(url)),
        false => {
            Err(format!("AWS_CONTAINER_CREDENTIALS_FULL_URI is {url:?}; without https:// only this host and the addresses of ECS and EKS are asked"))
        }
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    current.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_relative_to_ecs_or_a_place_nobody_else_can_listen_at() {
        let named = |name: &'static str, value: &str| {
            let value = value.to_owned();
            address(&move |asked: &str| (asked == name).then(|| value.clone()))
        };
        let (relative, full) = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI");
        assert_eq!(address(&|_| None), Ok(None));
        assert_eq!(named(relative, "/v2/credentials/x"), Ok(Some("http://169.254.170.2/v2/credentials/x".to_owned())));
        for good in
            ["http://127.0.0.1:8080/c", "http://[::1]/c", "http://169.254.170.23/v1/credentials", "http://[fd00:ec2::23]/v1", "https://c.example/x"]
        {
            assert_eq!(named(full, good), Ok(Some(good.to_owned())));
        }
        assert!(named(relative, "@elsewhere/").is_err());
        for bad in ["http://c.example/x", "http://127.0.0.1.c.example/", "http://127.0.0.1@c.example/", "ftp://127.0.0.1/", "/c"] {
            assert!(named(full, bad).is_err(), "{bad}");
        }
    }
}
