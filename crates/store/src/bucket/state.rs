//! What a bucket says of itself, each fact by itself: one that is denied or unknown to the server hides no other.

use super::{Bucket, Replication, xml};
use crate::StoreError;
use crate::s3::{Answered, Ask, Patience};
use serde::{Deserialize, Serialize};
use terms::Timestamp;

/// One thing that was asked of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact<T> {
    /// It is so.
    Known(T),
    /// These credentials may not ask.
    Denied(String),
    /// The server knows no such thing.
    Unsupported(String),
    /// It answered something else.
    Unclear(String),
}

impl<T> Fact<T> {
    /// What is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            _ => None,
        }
    }
    /// Why nothing is known.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Known(_) => None,
            Self::Denied(why) | Self::Unsupported(why) | Self::Unclear(why) => Some(why),
        }
    }
    fn map<U>(self, read: impl FnOnce(T) -> U) -> Fact<U> {
        match self {
            Self::Known(value) => Fact::Known(read(value)),
            Self::Denied(why) => Fact::Denied(why),
            Self::Unsupported(why) => Fact::Unsupported(why),
            Self::Unclear(why) => Fact::Unclear(why),
        }
    }
}

/// How a bucket encrypts what comes without a wish.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DefaultEncryption {
    /// `aws:kms`, `AES256`, or nothing.
    pub algorithm: Option<String>,
    /// The KMS key.
    pub key: Option<String>,
    /// Whether one request to the KMS serves many objects.
    pub has_bucket_key: bool,
}

/// What a bucket says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketState {
    /// `Enabled`, `Suspended`, or `Off`.
    pub versioning: Fact<String>,
    /// Known, and without an algorithm, where none is set.
    pub encryption: Fact<DefaultEncryption>,
    /// Whether all four blocks of public access are on.
    pub blocks_public_access: Fact<bool>,
    /// Whether objects can be locked; this can only be chosen when a bucket is made.
    pub object_lock: Fact<bool>,
    /// The rules, each as the server wrote it.
    pub lifecycle: Fact<Vec<String>>,
    /// To where it is copied.
    pub replication: Fact<Replication>,
}

/// An upload in parts that nobody completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// The whole key in the bucket.
    pub(crate) key: String,
    pub(crate) upload: String,
    /// When it was begun, by the store's clock.
    pub begun: Timestamp,
    /// When it was begun or its newest part came, whichever is later.
    pub touched: Timestamp,
    /// What its parts occupy, where that could be asked.
    pub bytes: Option<u64>,
}

impl Unfinished {
    /// Which object it was to become.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl Bucket {
    /// Whether the bucket is there: `None` when that may not be asked.
    pub async fn exists(&self) -> Result<Option<bool>, StoreError> {
        match self.ask("HEAD", "", "").await? {
            Answered::Yes(_) => Ok(Some(true)),
            // The 404 of a HEAD has no body, and versitygw gives it to strangers too: only a GET says what is missing.
            Answered::No(trouble) if trouble.status() == Some(404) => match self.ask("GET", "versioning=", "").await? {
                Answered::Yes(_) => Ok(Some(true)),
                Answered::No(trouble) if trouble.code() == "NoSuchBucket" => Ok(Some(false)),
                Answered::No(_) => Ok(None),
            },
            Answered::No(trouble) if trouble.status() == Some(403) => Ok(None),
            // A bucket of another region points there.
            Answered::No(trouble) => Err(trouble.of_store(&self.address(), "look up", &self.control.bucket)),
        }
    }

    /// Everything that can be asked.
    pub async fn state(&self) -> Result<BucketState, StoreError> {
        let versioning = self.fact("versioning=", &[]).await?;
        let encryption = self.fact("encryption=", &["ServerSideEncryptionConfigurationNotFoundError", "NoSuchEncryptionConfiguration"]).await?;
        let public = self.fact("publicAccessBlock=", &["NoSuchPublicAccessBlockConfiguration"]).await?;
        let lock = self.fact("object-lock=", &["ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration"]).await?;
        let lifecycle = self.fact("lifecycle=", &["NoSuchLifecycleConfiguration"]).await?;
        let replication = self.fact("replication=", &["ReplicationConfigurationNotFoundError", "NoSuchReplicationConfiguration"]).await?;
        Ok(BucketState {
            versioning: versioning.map(|body| xml::text(&body, "Status").unwrap_or_else(|| "Off".to_owned())),
            encryption: encryption.map(|body| DefaultEncryption {
                algorithm: xml::text(&body, "SSEAlgorithm"),
                key: xml::text(&body, "KMSMasterKeyID").filter(|key| !key.is_empty()),
                has_bucket_key: xml::text(&body, "BucketKeyEnabled").as_deref() == Some("true"),
            }),
            blocks_public_access: public.map(|body| {
                ["BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"]
                    .iter()
                    .all(|name| xml::text(&body, name).is_some_and(|value| value.eq_ignore_ascii_case("true")))
            }),
            object_lock: lock.map(|body| xml::text(&body, "ObjectLockEnabled").as_deref() == Some("Enabled")),
            lifecycle: lifecycle.map(|body| xml::all(&body, "Rule").into_iter().map(str::to_owned).collect()),
            replication: replication.map(|body| Replication {
                role: xml::text(&body, "Role").unwrap_or_default(),
                rules: xml::all(&body, "Rule").into_iter().map(str::to_owned).collect(),
            }),
        })
    }

    /// One setting's document; what S3 calls its absence by one of the `absent` words is an empty one.
    async fn fact(&self, query: &'static str, absent: &[&str]) -> Result<Fact<String>, StoreError> {
        Ok(match self.ask("GET", query, "").await? {
            Answered::Yes(body) => Fact::Known(body),
            Answered::No(trouble) if absent.contains(&trouble.code()) => Fact::Known(String::new()),
            Answered::No(trouble) if trouble.code() == "NoSuchBucket" => {
                return Err(StoreError::NoStore { store: self.address(), why: trouble.why().to_owned() });
            }
            Answered::No(trouble) => match trouble.status() {
                _ if trouble.is_denied() => Fact::Denied(trouble.why().to_owned()),
                Some(501 | 405) => Fact::Unsupported(trouble.why().to_owned()),
                _ if trouble.code() == "NotImplemented" || trouble.code() == "MethodNotAllowed" => Fact::Unsupported(trouble.why().to_owned()),
                _ => Fact::Unclear(trouble.why().to_owned()),
            },
        })
    }

    /// The uploads below this store's prefix that were begun and not completed, with what they occupy; at most `limit` of them.
    pub async fn unfinished(&self, limit: usize) -> Result<Fact<Vec<Unfinished>>, StoreError> {
        let mut found: Vec<Unfinished> = Vec::new();
        let mut marker = String::new();
        let prefix = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        loop {
            let query = format!("uploads=&max-uploads=1000{marker}&prefix={}", encoded(&prefix));
            let body = match self.ask("GET", &sorted(&query), "").await? {
                Answered::Yes(body) => body,
                Answered::No(trouble) => {
                    return Ok(match trouble.status() {
                        _ if trouble.is_denied() => Fact::Denied(trouble.why().to_owned()),
                        Some(501 | 405) => Fact::Unsupported(trouble.why().to_owned()),
                        _ => Fact::Unclear(trouble.why().to_owned()),
                    });
                }
            };
            for upload in xml::all(&body, "Upload") {
                let (Some(key), Some(id)) = (xml::text(upload, "Key"), xml::text(upload, "UploadId")) else { continue };
                // Not every server heeds the prefix.
                if !key.starts_with(&prefix) || found.len() >= limit {
                    continue;
                }
                let begun = xml::text(upload, "Initiated").and_then(|text| text.parse().ok());
                let parts = self.parts(&key, &id).await?;
                // An upload of unknown age is taken for a new one: it stays.
                let begun = begun.unwrap_or_else(|| terms::Clock::now(&terms::SystemClock));
                let newest = parts.and_then(|(_, newest)| newest);
                let bytes = parts.map(|(bytes, _)| bytes);
                found.push(Unfinished { key, upload: id, begun, touched: newest.map_or(begun, |newest| newest.max(begun)), bytes });
            }
            let next = (xml::text(&body, "NextKeyMarker"), xml::text(&body, "NextUploadIdMarker"));
            match (xml::text(&body, "IsTruncated").as_deref(), next) {
                (Some("true"), (Some(key), Some(id))) if !key.is_empty() && found.len() < limit => {
                    marker = format!("&key-marker={}&upload-id-marker={}", encoded(&key), encoded(&id));
                }
                _ => return Ok(Fact::Known(found)),
            }
        }
    }

    /// What the first thousand parts of an upload occupy, and when the newest of them came.
    async fn parts(&self, key: &str, upload: &str) -> Result<Option<(u64, Option<Timestamp>)>, StoreError> {
        let query = format!("uploadId={}", encoded(upload));
        let ask = Ask { method: "GET", path: key, query: &query, patience: Patience::Brief, ..Ask::default() };
        Ok(match self.control.send(&ask).await? {
            Answered::Yes(body) => {
                let bytes: u64 = xml::all(&body, "Size").iter().filter_map(|size| size.parse::<u64>().ok()).sum();
                Some((bytes, xml::all(&body, "LastModified").iter().filter_map(|time| time.parse().ok()).max()))
            }
            Answered::No(_) => None,
        })
    }
}

/// The parameters in the order in which they are signed.
fn sorted(query: &str) -> String {
    let mut parts: Vec<&str> = query.split('&').collect();
    parts.sort_unstable();
    parts.join("&")
}

/// A parameter's value as an address has it.
pub(crate) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
