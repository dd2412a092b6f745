//! AWS KMS: a symmetric key wraps the data key, with an encryption context that names repository and key.

use crate::KeyError;
use crate::aws_trouble::{Told, explain};
use crate::spec::SettingsOf;
use async_trait::async_trait;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_kms::Client;
use aws_sdk_kms::primitives::Blob;
use seal::{DataKey, Recipient, SealError, WrapContext, Wrapped};
use std::time::Duration;
use terms::Class;
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

/// What may follow the key's name.
pub(crate) const SETTINGS: [&str; 3] = ["region", "endpoint", "profile"];
const PREFIX: &str = "aws-kms:";
const CONNECT_SECONDS_MAX: u64 = 4;
const ATTEMPT_SECONDS_MAX: u64 = 6;
const ATTEMPTS_MAX: u32 = 3;
/// All attempts, with the pauses between them.
const CALL_SECONDS_MAX: u64 = 15;
/// The call, and finding credentials before it.
const WHOLE_SECONDS_MAX: u64 = 25;

/// A key of AWS KMS, reached with the machine's usual AWS credentials.
pub(crate) struct AwsKms {
    /// As it was configured: an id, an ARN, `alias/NAME` or an alias' ARN.
    key: String,
    region: Option<String>,
    endpoint: Option<String>,
    profile: Option<String>,
    client: OnceCell<Client>,
}

impl AwsKms {
    pub(crate) fn new(key: &str, settings: &mut SettingsOf<'_>) -> Result<Self, KeyError> {
        let arn = Arn::parse(key);
        if key.starts_with("arn:") && arn.is_none() {
            return Err(settings.wrong("it begins as an ARN and is none of a KMS key (arn:aws:kms:REGION:ACCOUNT:key/ID or …:alias/NAME)"));
        }
        let endpoint = settings.get("endpoint");
        if endpoint.as_ref().is_some_and(|endpoint| !endpoint.starts_with("https://") && !endpoint.starts_with("http://")) {
            return Err(settings.wrong("its endpoint must begin with https:// or http://"));
        }
        // A key is asked where it is; the usual region of this machine may be another one.
        let region = settings.get("region").or_else(|| arn.map(|arn| arn.region.to_owned()));
        Ok(Self { key: key.to_owned(), region, endpoint, profile: settings.get("profile"), client: OnceCell::new() })
    }

    #[cfg(test)]
    pub(crate) fn with_client(key: &str, endpoint: &str, client: Client) -> Self {
        let client = OnceCell::new_with(Some(client));
        Self { key: key.to_owned(), region: None, endpoint: Some(endpoint.to_owned()), profile: None, client }
    }

    async fn client(&self) -> &Client {
        self.client
            .get_or_init(|| async {
                let timeouts = TimeoutConfig::builder()
                    .connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
                    .operation_attempt_timeout(Duration::from_secs(ATTEMPT_SECONDS_MAX))
                    .operation_timeout(Duration::from_secs(CALL_SECONDS_MAX))
                    .build();
                let mut loader = aws_config::defaults(BehaviorVersion::latest())
                    .timeout_config(timeouts)
                    .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX));
                if let Some(region) = &self.region {
                    loader = loader.region(Region::new(region.clone()));
                }
                if let Some(profile) = &self.profile {
                    loader = loader.profile_name(profile);
                }
                let shared = loader.load().await;
                let mut config = aws_sdk_kms::config::Builder::from(&shared);
                if let Some(endpoint) = &self.endpoint {
                    config = config.endpoint_url(endpoint);
                }
                Client::from_conf(config.build())
            })
            .await
    }

    /// Where it is asked, for messages.
    fn place(&self) -> String {
        let endpoint = self.endpoint.clone().or_else(|| crate::spec::environment("AWS_ENDPOINT_URL_KMS"));
        match (endpoint, &self.region) {
            (Some(endpoint), _) => endpoint,
            (None, Some(region)) => format!("AWS KMS in {region}"),
            (None, None) => "AWS KMS in this machine's usual region".into(),
        }
    }

    /// The key that is asked to unwrap: that of the slot, unless it is a copy of it in another region that is configured.
    fn unwrapping(&self, wrapped_for: &str) -> String {
        let slot = wrapped_for.trim_start_matches(PREFIX);
        match (Arn::parse(&self.key), Arn::parse(slot)) {
            (Some(ours), Some(theirs)) if ours.is_copy_of(&theirs) => self.key.clone(),
            _ => slot.to_owned(),
        }
    }

    fn trouble(&self, operation: &'static str, told: Told) -> SealError {
        let Told { class, cause, hint } = told;
        SealError::Recipient { recipient: self.name(), operation, why: format!("{}: {cause}", self.place()), class, hint }
    }

    /// Bounded in time, whatever the credentials come from.
    async fn bounded<T>(&self, operation: &'static str, call: impl Future<Output = Result<T, SealError>>) -> Result<T, SealError> {
        match tokio::time::timeout(Duration::from_secs(WHOLE_SECONDS_MAX), call).await {
            Ok(answer) => answer,
            Err(_) => {
                let cause = format!("no answer within {WHOLE_SECONDS_MAX} seconds.");
                Err(self.trouble(operation, Told { class: Class::Transient, cause, hint: crate::aws_trouble::WAIT.into() }))
            }
        }
    }

    fn context(context: &WrapContext) -> [(&'static str, String); 2] {
        [("bowline:repository", context.repository.to_string()), ("bowline:key", context.key.to_string())]
    }
}

#[async_trait]
impl Recipient for AwsKms {
    fn name(&self) -> String {
        format!("{PREFIX}{}", self.key)
    }

    /// An alias may stand for any key, now or when the slot was made.
    fn owns(&self, wrapped_for: &str) -> bool {
        let Some(slot) = wrapped_for.strip_prefix(PREFIX) else { return false };
        let Some(theirs) = Arn::parse(slot) else { return slot == self.key };
        match Arn::parse(&self.key) {
            Some(ours) if ours.resource.starts_with("alias/") => ours.account == theirs.account && ours.region == theirs.region,
            Some(ours) => ours == theirs || ours.is_copy_of(&theirs),
            None if self.key.starts_with("alias/") => true,
            None => theirs.resource.strip_prefix("key/") == Some(&self.key),
        }
    }

    async fn wrap(&self, key: &DataKey, context: &WrapContext) -> Result<Wrapped, SealError> {
        const OPERATION: &str = "wrap";
        self.bounded(OPERATION, async {
            let mut call = self.client().await.encrypt().key_id(&self.key).plaintext(Blob::new(key.reveal().to_vec()));
            for (name, value) in Self::context(context) {
                call = call.encryption_context(name, value);
            }
            let answer = call.send().await.map_err(|e| self.trouble(OPERATION, explain(e, &self.key, "kms:Encrypt")))?;
            match (answer.key_id, answer.ciphertext_blob) {
                (Some(arn), Some(blob)) => Ok(Wrapped { recipient: format!("{PREFIX}{arn}"), bytes: blob.into_inner() }),
                _ => Err(self.trouble(OPERATION, Told::malformed())),
            }
        })
        .await
    }

    async fn unwrap(&self, wrapped: &Wrapped, context: &WrapContext) -> Result<Zeroizing<[u8; 32]>, SealError> {
        const OPERATION: &str = "unwrap";
        let key = self.unwrapping(&wrapped.recipient);
        self.bounded(OPERATION, async {
            let mut call = self.client().await.decrypt().key_id(&key).ciphertext_blob(Blob::new(wrapped.bytes.clone()));
            for (name, value) in Self::context(context) {
                call = call.encryption_context(name, value);
            }
            let answer = call.send().await.map_err(|e| self.trouble(OPERATION, explain(e, &key, "kms:Decrypt")))?;
            let plain = answer.plaintext.map(|blob| Zeroizing::new(blob.into_inner())).unwrap_or_default();
            <[u8; 32]>::try_from(&plain[..]).map(Zeroizing::new).map_err(|_| self.trouble(OPERATION, Told::malformed()))
        })
        .await
    }
}

/// `arn:PARTITION:kms:REGION:ACCOUNT:RESOURCE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Arn<'t> {
    partition: &'t str,
    region: &'t str,
    account: &'t str,
    /// `key/ID` or `alias/NAME`.
    resource: &'t str,
}

impl<'t> Arn<'t> {
    fn parse(text: &'t str) -> Option<Self> {
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        match parts[..] {
            ["arn", partition, "kms", region, account, resource] if resource.starts_with("key/") || resource.starts_with("alias/") => {
                Some(Self { partition, region, account, resource })
            }
            _ => None,
        }
    }

    /// Whether both are one multi-Region key, in two regions (AWS KMS Developer Guide, "Multi-Region keys").
    fn is_copy_of(&self, other: &Self) -> bool {
        self.resource.starts_with("key/mrk-") && (self.partition, self.account, self.resource) == (other.partition, other.account, other.resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Spec;

    const SLOT: &str = "aws-kms:arn:aws:kms:eu-west-1:111122223333:key/1234";

    fn owns(configured: &str, slot: &str) -> bool {
        configured.parse::<Spec>().unwrap().open().unwrap().owns(slot)
    }

    #[test]
    fn a_slot_is_found_by_id_by_arn_and_by_alias() {
        assert!(owns(SLOT, SLOT));
        assert!(owns("aws-kms:1234", SLOT));
        assert!(owns("aws-kms:alias/kb", SLOT));
        assert!(owns("aws-kms:arn:aws:kms:eu-west-1:111122223333:alias/kb", SLOT));
        for other in ["aws-kms:12345", "aws-kms:arn:aws:kms:eu-west-1:111122223333:key/9", "aws-kms:arn:aws:kms:us-east-1:111122223333:alias/kb"] {
            assert!(!owns(other, SLOT), "{other}");
        }
        assert!(!owns("aws-kms:alias/kb", "file:9f86d081884c7d65"));
    }

    #[test]
    fn a_multi_region_key_opens_what_its_copy_in_another_region_wrapped() {
        let here = "aws-kms:arn:aws:kms:eu-west-1:111122223333:key/mrk-1";
        let there = "aws-kms:arn:aws:kms:eu-central-1:111122223333:key/mrk-1";
        assert!(owns(there, here) && owns("aws-kms:mrk-1?region=eu-central-1", here));
        assert!(!owns("aws-kms:arn:aws:kms:eu-central-1:111122223333:key/1234", SLOT), "another region's key of the same id is another key");
        let key = AwsKms { key: there.trim_start_matches(PREFIX).into(), region: None, endpoint: None, profile: None, client: OnceCell::new() };
        assert_eq!(key.unwrapping(here), key.key);
        assert_eq!(key.unwrapping(SLOT), SLOT.trim_start_matches(PREFIX));
    }
}
