//! Turns an address and options into object_store clients with every time limit and repetition chosen by us.

use super::at_rest::{Sse, Wanted};
use super::container::{Container, NoCredentials};
use super::credentials::{self, Lookup, Renewed};
use super::locking::Locking;
use super::tap::{Tap, Tapped};
use super::trouble::unmade;
use super::{Cloud, Control};
use crate::address::BucketAddress;
use crate::{StoreError, StoreOptions};
use async_trait::async_trait;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, Checksum, S3ConditionalPut};
use object_store::{BackoffConfig, Certificate, ClientOptions, CredentialProvider, RetryConfig};
use std::sync::Arc;
use std::time::Duration;

/// See the fields of [`super::Inner`].
pub(super) struct Connection {
    pub(super) steady: Arc<dyn Cloud>,
    pub(super) once: Arc<dyn Cloud>,
    /// Whether the server promises to list in the order of whole keys' bytes.
    pub(super) lists_by_bytes: bool,
    pub(super) tap: Arc<Tap>,
    pub(super) wanted: Wanted,
    /// What asks the bucket itself; only S3's.
    pub(super) control: Option<Control>,
}

/// A connection that is not made within this long is not made.
const CONNECT_SECONDS_MAX: u64 = 5;
/// A read that stands still for so long is over. Another attempt does no harm, and servers that work answer in a second.
pub(super) const STALL_SECONDS_MAX: u64 = 20;
/// For uploads the limit runs from the first byte sent to the first byte answered, so it must cover a whole part on a slow
/// line; the calls set closer limits by size.
pub(super) const UPLOAD_SECONDS_MAX: u64 = 900;

/// Settings of the address count where the options leave them open.
pub(super) struct Settings {
    pub(super) region: String,
    pub(super) endpoint: Option<String>,
    is_aws: bool,
    pub(super) is_path_style: bool,
    checksum: Option<Checksum>,
    sends_md5: bool,
    certificates: Vec<Certificate>,
}

/// Makes the clients; nothing is sent yet.
pub(super) fn connect(shown: &str, address: &BucketAddress, options: &StoreOptions) -> Result<Connection, StoreError> {
    let bad = |why: String| StoreError::BadAddress { url: shown.to_owned(), why };
    let variable: Lookup = &credentials::environment;
    let options = merged(address, options).map_err(bad)?;
    let found = credentials::find(&options, variable).map_err(bad)?;
    let settings = settings(address, &options, found.region, variable).map_err(bad)?;

    let is_http = settings.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&address.bucket)
        .with_region(&settings.region)
        .with_virtual_hosted_style_request(!settings.is_path_style)
        .with_allow_http(is_http)
        // TLS already protects the body; without TLS the signature over it is what a damaged or changed body fails at.
        .with_unsigned_payload(!is_http)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // DeleteObjects is missing or different on some servers; DELETE is the same everywhere.
        .with_disable_bulk_delete(true);
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(match (settings.is_path_style, endpoint.split_once("://")) {
            // object_store wants the bucket's name in the endpoint then.
            (false, Some((scheme, host))) => format!("{scheme}://{}.{host}", address.bucket),
            _ => endpoint.clone(),
        });
    }
    if let Some(checksum) = settings.checksum {
        builder = builder.with_checksum_algorithm(checksum);
    }
    let wanted = Wanted { mode: options.sse, key: options.sse_kms_key_id.clone() };
    if let Some(key) = wanted.key.as_ref().filter(|_| wanted.mode != Sse::Off) {
        // One request to the KMS for many objects: a bucket key.
        builder = builder.with_sse_kms_encryption(key).with_bucket_key(true);
    }
    let tap = Tap::new(Some(("if-none-match", "*")), settings.sends_md5);
    builder = builder.with_http_connector(Tapped(Arc::clone(&tap)));
    builder = match found.keys {
        Some(keys) => builder.with_credentials(Arc::new(Renewed::new(options.clone(), &keys))),
        None => machine_role(builder, &settings.certificates, variable).map_err(bad)?,
    };

    let failed = |error: object_store::Error| bad(unmade(&error));
    let (patient, impatient) = retries();
    let client = |seconds| client(seconds, is_http, &settings.certificates);
    let steady = builder.clone().with_retry(patient).with_client_options(client(STALL_SECONDS_MAX)).build().map_err(failed)?;
    let clients = [client(STALL_SECONDS_MAX), client(UPLOAD_SECONDS_MAX)];
    let control = Control::new(shown, address, &settings, steady.credentials().clone(), clients, Arc::clone(&tap)).map_err(bad)?;
    if let Some(host) = control.host() {
        drop(tap.host.set(host));
    }
    if let Some(lock) = options.lock {
        let prefix = if address.prefix.is_empty() { String::new() } else { format!("{}/", address.prefix) };
        let (root, region) = (format!("{}/{prefix}", control.place()), settings.region.clone());
        // Set once, and here alone.
        drop(tap.locking.set(Locking { lock, region, signs_payload: is_http, root, credentials: steady.credentials().clone() }));
    }
    // The same provider for both, so that temporary credentials are fetched once.
    let once = builder
        .with_credentials(steady.credentials().clone())
        .with_retry(impatient)
        .with_client_options(client(UPLOAD_SECONDS_MAX))
        .build()
        .map_err(failed)?;
    Ok(Connection { steady: Arc::new(steady), once: Arc::new(once), lists_by_bytes: settings.is_aws, tap, wanted, control: Some(control) })
}

/// How object_store repeats: for the steady client, and not at all for the other.
pub(super) fn retries() -> (RetryConfig, RetryConfig) {
    let patient = RetryConfig {
        backoff: BackoffConfig { init_backoff: Duration::from_millis(200), max_backoff: Duration::from_secs(8), base: 3.0 },
        max_retries: 6,
        retry_timeout: Duration::from_secs(60),
    };
    let impatient = RetryConfig { max_retries: 0, ..patient.clone() };
    (patient, impatient)
}

/// A client that gives up a transfer which stands still for so long.
pub(super) fn client(read_timeout_seconds: u64, is_http: bool, certificates: &[Certificate]) -> ClientOptions {
    let base = ClientOptions::new()
        // The default of 30 s covers the body and so cuts off every large transfer.
        .with_timeout_disabled()
        .with_connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
        .with_read_timeout(Duration::from_secs(read_timeout_seconds))
        .with_allow_http(is_http);
    certificates.iter().cloned().fold(base, ClientOptions::with_root_certificate)
}

/// The options, with what the address carries in their place: it is the more particular one, such as a replica's on the command line.
pub(super) fn merged(address: &BucketAddress, options: &StoreOptions) -> Result<StoreOptions, String> {
    let mut options = options.clone();
    for (key, value) in &address.settings {
        match key.as_str() {
            "region" => options.region = Some(value.clone()),
            "endpoint" => options.endpoint = Some(value.clone()),
            "profile" => {
                // Keys that are given come before any profile: what is configured beside it is meant for other addresses.
                let StoreOptions { access_key_id, secret_access_key, session_token, renew, .. } = &mut options;
                (*access_key_id, *secret_access_key, *session_token, *renew) = (None, None, None, None);
                options.profile = Some(value.clone());
            }
            "checksum" => options.checksum = Some(value.clone()),
            "ca_file" => options.ca_file = Some(value.into()),
            "path_style" => {
                let given = value.parse().map_err(|_| format!("path_style is {value:?}; it must be true or false"))?;
                options.path_style = Some(given);
            }
            other => return Err(format!("it carries an unknown setting {other:?}")),
        }
    }
    Ok(options)
}

fn settings(address: &BucketAddress, options: &StoreOptions, region: Option<String>, variable: Lookup) -> Result<Settings, String> {
    let endpoint = options.endpoint.clone().or_else(|| variable("AWS_ENDPOINT_URL_S3")).or_else(|| variable("AWS_ENDPOINT_URL"));
    let endpoint = match endpoint {
        Some(text) if text.starts_with("http://") || text.starts_with("https://") => Some(text.trim_end_matches('/').to_owned()),
        Some(text) => return Err(format!("the endpoint {text:?} must begin with https:// or http://")),
        None => None,
    };
    let is_aws = endpoint.as_deref().is_none_or(|endpoint| endpoint.contains(".amazonaws.com"));
    let checksum = match options.checksum.as_deref() {
        // Content-MD5 is not one of the checksums that S3 keeps; every server knows it.
        Some("none" | "md5") => None,
        Some("sha256") => Some(Checksum::SHA256),
        Some("crc64nvme") => Some(Checksum::CRC64NVME),
        Some(other) => return Err(format!("checksum is {other:?}; it must be crc64nvme, sha256, md5 or none")),
        // Other servers reject checksum headers they do not know.
        None => is_aws.then_some(Checksum::CRC64NVME),
    };
    let certificates = certificates(options)?;
    Ok(Settings {
        region: options.region.clone().or(region).unwrap_or_else(|| "us-east-1".to_owned()),
        // A bucket with dots in its name has no valid certificate as a host name.
        is_path_style: options.path_style.unwrap_or(endpoint.is_some() || address.bucket.contains('.')),
        endpoint,
        is_aws,
        checksum,
        sends_md5: options.checksum.as_deref() == Some("md5"),
        certificates,
    })
}

/// The certificates to trust besides the system's.
pub(super) fn certificates(options: &StoreOptions) -> Result<Vec<Certificate>, String> {
    let Some(file) = &options.ca_file else { return Ok(Vec::new()) };
    let pem = std::fs::read(file).map_err(|error| format!("cannot read ca_file {}: {error}", file.display()))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|error| format!("ca_file {}: {error}", file.display()))?;
    match found.is_empty() {
        true => Err(format!("ca_file {} holds no certificate in PEM form", file.display())),
        false => Ok(found),
    }
}

/// Whoever the machine says we are: web identity, the container (EKS pod identity too), at last the instance.
fn machine_role(mut builder: AmazonS3Builder, certificates: &[Certificate], variable: Lookup) -> Result<AmazonS3Builder, String> {
    if variable("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() && variable("AWS_ROLE_ARN").is_some() {
        for name in WEB_IDENTITY {
            let key = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>();
            if let (Ok(key), Some(value)) = (key, variable(name)) {
                builder = builder.with_config(key, value);
            }
        }
        return Ok(builder);
    }
    if let Some(container) = Container::find(variable, certificates)? {
        return Ok(builder.with_credentials(Arc::new(container)));
    }
    if variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        let why = "there are no credentials: none in the configuration, the environment or the profile, and AWS_EC2_METADATA_DISABLED forbids asking the instance";
        return Ok(builder.with_credentials(Arc::new(Nobody(why))));
    }
    // The names that AWS's own tools know; object_store has its own.
    let is_ipv6 = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE").is_some_and(|mode| mode.eq_ignore_ascii_case("ipv6"));
    let metadata = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").or_else(|| is_ipv6.then(|| "http://[fd00:ec2::254]".to_owned()));
    Ok(match metadata {
        Some(endpoint) => builder.with_metadata_endpoint(endpoint.trim_end_matches('/')),
        None => builder,
    })
}

/// What object_store must be told of a web identity.
const WEB_IDENTITY: [&str; 4] = ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME", "AWS_ENDPOINT_URL_STS"];

/// Answers for a machine that must not be asked, when a request is made: opening a store asks nothing yet.
#[derive(Debug)]
struct Nobody(&'static str);

#[async_trait]
impl CredentialProvider for Nobody {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        Err(object_store::Error::Generic { store: "S3", source: Box::new(NoCredentials(self.0.to_owned())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(url_settings: &[(&str, &str)], options: &StoreOptions) -> Result<Settings, String> {
        let address = BucketAddress {
            cloud: crate::address::Cloud::S3,
            bucket: "b".to_owned(),
            prefix: String::new(),
            settings: url_settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        };
        settings(&address, &merged(&address, options)?, None, &|_| None)
    }

    #[test]
    fn aws_gets_checksums_and_host_names_and_other_servers_neither() {
        let aws = resolved(&[], &StoreOptions::default()).unwrap();
        assert!(matches!(aws.checksum, Some(Checksum::CRC64NVME)) && !aws.is_path_style && aws.region == "us-east-1");
        let other = resolved(&[("endpoint", "http://127.0.0.1:9000/"), ("region", "x")], &StoreOptions::default()).unwrap();
        assert!(other.checksum.is_none() && other.is_path_style);
        assert_eq!((other.endpoint.as_deref(), other.region.as_str()), (Some("http://127.0.0.1:9000"), "x"));
    }

    #[test]
    fn the_address_wins_over_the_options_and_nonsense_is_named() {
        let options = StoreOptions { region: Some("eu-central-1".into()), ..StoreOptions::default() };
        assert_eq!(resolved(&[], &options).unwrap().region, "eu-central-1");
        assert_eq!(resolved(&[("region", "us-west-2")], &options).unwrap().region, "us-west-2");
        for (key, value, word) in [
            ("checksum", "md4", "crc64nvme"),
            ("path_style", "maybe", "true or false"),
            ("endpoint", "minio:9000", "https://"),
            ("ca_file", "/nowhere.pem", "/nowhere.pem"),
        ] {
            assert!(resolved(&[(key, value)], &StoreOptions::default()).err().unwrap().contains(word), "{key}");
        }
    }

    #[test]
    fn the_profile_of_an_address_wins_over_the_keys_of_the_options() {
        let secret = |text: &str| Some(terms::Secret::new(text.to_owned()));
        let options = StoreOptions {
            access_key_id: secret("A"),
            secret_access_key: secret("s"),
            session_token: secret("t"),
            renew: Some(crate::Renew::new(|| None)),
            profile: Some("mine".to_owned()),
            ..StoreOptions::default()
        };
        let of = |settings: &[(&str, &str)]| {
            let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            merged(&BucketAddress { settings, ..BucketAddress::default() }, &options).unwrap()
        };
        let other = of(&[("profile", "other")]);
        assert_eq!(other.profile.as_deref(), Some("other"));
        assert!(other.access_key_id.is_none() && other.secret_access_key.is_none() && other.session_token.is_none() && other.renew.is_none());
        let same = of(&[("region", "x")]);
        assert!(same.access_key_id.is_some() && same.secret_access_key.is_some() && same.session_token.is_some() && same.renew.is_some());
    }

    #[test]
    fn every_variable_of_a_web_identity_is_one_object_store_knows() {
        for name in WEB_IDENTITY {
            assert!(name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>().is_ok(), "{name}");
        }
    }
}
