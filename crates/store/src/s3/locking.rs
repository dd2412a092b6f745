//! Adds object lock to the puts of objects, which object_store has no words for, and signs them anew.

use crate::ObjectLock;
use crate::address::decode;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpError, HttpErrorKind, HttpRequest};
use terms::{Clock, SystemClock};

/// What the requests of one store are given.
#[derive(Debug)]
pub(super) struct Locking {
    pub(super) lock: ObjectLock,
    pub(super) region: String,
    pub(super) signs_payload: bool,
    /// What stands before an object's path in a url: host, bucket where it is in the path, prefix.
    pub(super) root: String,
    pub(super) credentials: AwsCredentialProvider,
}

impl Locking {
    /// Adds the lock to a request that makes an object to be locked.
    pub(super) async fn dress(&self, request: &mut HttpRequest) -> Result<(), HttpError> {
        if !self.makes_an_object(request) {
            return Ok(());
        }
        let until = self.lock.until(SystemClock.now()).rfc3339();
        let unfit = |e: object_store::Error| HttpError::new(HttpErrorKind::Request, e);
        let headers = request.headers_mut();
        for (name, value) in [("x-amz-object-lock-mode", self.lock.mode.wire()), ("x-amz-object-lock-retain-until-date", until.as_str())] {
            headers.insert(name, value.parse().map_err(|e| HttpError::new(HttpErrorKind::Request, e))?);
        }
        // Every x-amz- header must be signed.
        headers.remove("authorization");
        let digest = headers.get("x-amz-content-sha256").and_then(|value| digest_of(value.to_str().ok()?));
        let credential = self.credentials.get_credential().await.map_err(unfit)?;
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
        (is_put || is_begin) && path.is_some_and(|path| self.lock.covers(path))
    }
}

fn digest_of(hex: &str) -> Option<Vec<u8>> {
    (hex.len() == 64).then(|| (0..32).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()).collect()).flatten()
}
