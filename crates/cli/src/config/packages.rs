//! `[packages]`: the application's bucket, its replica, its snapshots.

use super::{SecretRef, duration};
use crate::fault::Fault;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::path::PathBuf;
use std::time::Duration;
use store::StoreOptions;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packages {
    /// The application's bucket or folder.
    pub primary: Site,
    /// The bucket that the store itself copies it to.
    pub replica: Option<Site>,
    /// As whom the store copies, by its ARN; AWS wants one.
    pub replication_role: Option<String>,
    /// Where the copy goes, where that is not the replica's own ARN: MinIO's remote target.
    pub replication_target: Option<String>,
    /// The KMS key with which the copy is encrypted.
    pub replica_kms_key_id: Option<String>,
    /// Where Bowline keeps snapshots of it: `repository` for the one of the backups, or another repository's url.
    pub snapshots: Option<String>,
    /// Whether the daemon writes a small object into the primary each minute, to see when it is replicated; true unless said otherwise.
    pub canary: Option<bool>,
    /// What lists the objects that the database refers to.
    pub agreement: Option<AgreementKey>,
    /// How often a snapshot is wanted; 1 hour unless said otherwise.
    #[serde(deserialize_with = "duration", default)]
    pub every: Option<Duration>,
}

/// A query of `key`, and of `size` in bytes where the database knows it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgreementKey {
    pub sql: String,
    /// The database to ask; that of [postgres] conninfo unless said otherwise.
    pub database: Option<String>,
}

/// A bucket or folder: its url alone, or with how it is reached.
#[derive(Debug, Clone)]
pub struct Site(SiteTable);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct SiteTable {
    url: String,
    region: Option<String>,
    endpoint: Option<String>,
    path_style: Option<bool>,
    ca_file: Option<PathBuf>,
    access_key_id: Option<SecretRef>,
    secret_access_key: Option<SecretRef>,
    session_token: Option<SecretRef>,
    profile: Option<String>,
}

impl<'de> Deserialize<'de> for Site {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = SiteTable;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a url, or a table with url, region, endpoint and credentials")
            }
            fn visit_str<E>(self, url: &str) -> Result<SiteTable, E> {
                Ok(SiteTable {
                    url: url.to_owned(),
                    region: None,
                    endpoint: None,
                    path_style: None,
                    ca_file: None,
                    access_key_id: None,
                    secret_access_key: None,
                    session_token: None,
                    profile: None,
                })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SiteTable, A::Error> {
                SiteTable::deserialize(MapAccessDeserializer::new(map))
            }
        }
        from.deserialize_any(Either).map(Self)
    }
}

impl Site {
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// How it is reached; `key` names it in messages.
    pub fn options(&self, key: &str) -> Result<StoreOptions, Fault> {
        let site = &self.0;
        let resolve =
            |given: &Option<SecretRef>, what: &str| given.as_ref().map(|secret| secret.resolve(&format!("packages.{key}.{what}"))).transpose();
        Ok(StoreOptions {
            region: site.region.clone(),
            endpoint: site.endpoint.clone(),
            path_style: site.path_style,
            ca_file: site.ca_file.clone(),
            access_key_id: resolve(&site.access_key_id, "access_key_id")?,
            secret_access_key: resolve(&site.secret_access_key, "secret_access_key")?,
            session_token: resolve(&site.session_token, "session_token")?,
            profile: site.profile.clone(),
            ..StoreOptions::default()
        })
    }
}
