//! Adds object lock to the puts of objects, which object_store has no words for, and signs them anew.

use crate::ObjectLock;
use crate::address::decode;
use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector};
use std::sync::{Arc, OnceLock};
use terms::{Clock, SystemClock};

/// What the requests of one store are given.
#[derive(Debug)]
pub(super) struct Locking {
    pub(super) lock: Option<ObjectLock>,
    pub(super) region: String,
    pub(super) signs_payload: bool,
    /// What stands before an object's path in a url: host, bucket where it is in the path, prefix.
    pub(super) root: String,
    /// Known only when the client exists.
    pub(super) credentials: OnceLock<AwsCredentialProvider>,
}

/// Makes clients that lock.
#[derive(Debug, Clone)]
pub(super) struct Connector(pub(super) Arc<Locking>);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Client { client, locking: self.0.clone() }))
    }
}

#[derive(Debug)]
struct Client {
    client: HttpClient,
    locking: Arc<Locking>,
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.locking.dress(&mut request).await?;
        self.client.execute(request).await
    }
}

impl Locking {
    async fn dress(&self, request: &mut HttpRequest) -> Result<(), HttpError> {
        let (Some(lock), Some(credentials)) = (self.lock, self.credentials.get()) else { return Ok(()) };
        if !self.makes_an_object(request) {
            return Ok(());
        }
        let until = lock.until(SystemClock.now()).rfc3339();
        let unfit = |e: object_store::Error| HttpError::new(HttpErrorKind::Request, e);
        let headers = request.headers_mut();
        for (name, value) in [("x-amz-object-lock-mode", lock.mode.wire()), ("x-amz-object-lock-retain-until-date", until.as_str())] {
            headers.insert(name, value.parse().map_err(|e| HttpError::new(HttpErrorKind::Request, e))?);
        }
        // Every x-amz- header must be signed.
        headers.remove("authorization");
        let digest = headers.get("x-amz-content-sha256").and_then(|value| digest_of(value.to_str().ok()?));
        let credential = credentials.get_credential().await.map_err(unfit)?;
        let authorizer = AwsAuthorizer::new(&credential, "s3", &self.region).with_sign_payload(self.signs_payload);
        authorizer.try_authorize(request, digest.as_deref()).map_err(unfit)
    }

    /// PutObject, or CreateMultipartUpload, of an object that is to be locked. A part is locked with its whole.
    fn makes_an_object(&self, request: &HttpRequest) -> bool {
        let uri = request.uri();
        let is_put = request.method() == "PUT" && uri.query().is_none_or(str::is_empty);
        let is_begin = request.method() == "POST" && uri.query().is_some_and(|query| query == "uploads" || query == "uploads=");
        let place = format!("{}{}", uri.authority().map_or("", |host| host.as_str()), uri.path());
        let Some(place) = decode(&place) else { return false };
        let path = place.strip_prefix(self.root.as_str());
        (is_put || is_begin) && path.zip(self.lock).is_some_and(|(path, lock)| lock.covers(path))
    }
}

fn digest_of(hex: &str) -> Option<Vec<u8>> {
    (hex.len() == 64).then(|| (0..32).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()).collect()).flatten()
}
