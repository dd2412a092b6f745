//! Google's and Microsoft's object stores, through the same door as S3. Tested against stand-ins only: see docs/stores.md.

use super::Sse;
use super::connect::{self, Connection, STALL_SECONDS_MAX, UPLOAD_SECONDS_MAX};
use super::tap::{Tap, Tapped};
use super::trouble::unmade;
use crate::address::BucketAddress;
use crate::{StoreError, StoreOptions};
use object_store::StaticCredentialProvider;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use std::sync::Arc;

/// Google Cloud Storage over its XML API. Credentials come from where Google's own tools look: `GOOGLE_APPLICATION_CREDENTIALS`,
/// the user's application default credentials, or the machine's metadata.
pub(super) fn google(shown: &str, address: &BucketAddress, options: &StoreOptions) -> Result<Connection, StoreError> {
    let bad = |why: String| StoreError::BadAddress { url: shown.to_owned(), why };
    let options = fitting(address, options).map_err(bad)?;
    let certificates = connect::certificates(&options).map_err(bad)?;
    let is_http = options.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    // The condition of S3's If-None-Match, in Google's words. Nothing is signed over headers: the token is a bearer's.
    let tap = Tap::new(Some(("x-goog-if-generation-match", "0")), options.checksum.as_deref() == Some("md5"));
    let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(&address.bucket).with_http_connector(Tapped(Arc::clone(&tap)));
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
        // A token must not be sent without TLS: plain HTTP is for emulators, which want none.
        if is_http {
            let nobody = GcpCredential { bearer: String::new() };
            builder = builder.with_skip_signature(true).with_credentials(Arc::new(StaticCredentialProvider::new(nobody)));
        }
    }
    let (patient, impatient) = connect::retries();
    let failed = |error: object_store::Error| bad(unmade(&error));
    let client = |seconds| connect::client(seconds, is_http, &certificates);
    let steady = builder.clone().with_retry(patient).with_client_options(client(STALL_SECONDS_MAX)).build().map_err(failed)?;
    let once = builder
        .with_credentials(Arc::clone(steady.credentials()))
        .with_retry(impatient)
        .with_client_options(client(UPLOAD_SECONDS_MAX))
        .build()
        .map_err(failed)?;
    Ok(plain(Arc::new(steady), Arc::new(once), tap))
}

/// Azure Blob Storage. `access_key_id` is the storage account, `secret_access_key` its key; without a key the environment
/// (`AZURE_…`), the workload's or the machine's identity is asked.
pub(super) fn microsoft(shown: &str, address: &BucketAddress, options: &StoreOptions) -> Result<Connection, StoreError> {
    let bad = |why: String| StoreError::BadAddress { url: shown.to_owned(), why };
    let options = fitting(address, options).map_err(bad)?;
    let certificates = connect::certificates(&options).map_err(bad)?;
    let is_http = options.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    // Shared keys sign every condition, so none can be added on the way: large objects are looked for before they are completed.
    let tap = Tap::new(None, false);
    let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(&address.bucket).with_http_connector(Tapped(Arc::clone(&tap)));
    if let Some(account) = &options.access_key_id {
        builder = builder.with_account(account.reveal());
    }
    if let Some(key) = &options.secret_access_key {
        builder = builder.with_access_key(key.reveal());
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned()).with_allow_http(is_http);
    }
    let (patient, impatient) = connect::retries();
    let failed = |error: object_store::Error| bad(unmade(&error));
    let client = |seconds| connect::client(seconds, is_http, &certificates);
    let steady = builder.clone().with_retry(patient).with_client_options(client(STALL_SECONDS_MAX)).build().map_err(failed)?;
    let once = builder
        .with_credentials(Arc::clone(steady.credentials()))
        .with_retry(impatient)
        .with_client_options(client(UPLOAD_SECONDS_MAX))
        .build()
        .map_err(failed)?;
    Ok(plain(Arc::new(steady), Arc::new(once), tap))
}

fn plain(steady: Arc<dyn super::Cloud>, once: Arc<dyn super::Cloud>, tap: Arc<Tap>) -> Connection {
    Connection { steady, once, lists_by_bytes: true, tap, wanted: super::at_rest::Wanted::default(), control: None }
}

/// The options, where they make sense for a store that is no S3.
fn fitting(address: &BucketAddress, options: &StoreOptions) -> Result<StoreOptions, String> {
    let options = connect::merged(address, options)?;
    if options.sse != Sse::Off || options.sse_kms_key_id.is_some() {
        return Err("sse and sse_kms_key_id are S3's: give the bucket or container itself the key (its default encryption key)".to_owned());
    }
    if let Some(sum) = options.checksum.as_deref().filter(|sum| !["none", "md5"].contains(sum)) {
        return Err(format!("checksum {sum:?} is S3's: leave it out"));
    }
    Ok(options)
}
