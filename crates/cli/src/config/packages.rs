//! `[packages]`: the application's bucket, its replica, its snapshots.

use super::{SecretRef, duration, options_with};
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
    /// The application's bucket or folder: a url, or a table with credentials of its own.
    pub primary: Site,
    /// The bucket that the store itself copies it to.
    ///
    /// Default: none.
    pub replica: Option<Site>,
    /// As whom the store copies, by its ARN; AWS wants one.
    ///
    /// Default: none.
    pub replication_role: Option<String>,
    /// Where the copy goes, where that is not the replica's own ARN: MinIO's remote target.
    ///
    /// Default: none.
    pub replication_target: Option<String>,
    /// The KMS key with which the copy is encrypted.
    ///
    /// Default: none.
    pub replica_kms_key_id: Option<String>,
    /// Where Bowline keeps snapshots of it: `repository` for the one of the backups, or another repository's url.
    ///
    /// Default: none.
    pub snapshots: Option<String>,
    /// Whether the daemon writes a small object into the primary each minute, to see when it is replicated.
    ///
    /// Default: `true`.
    pub canary: Option<bool>,
    /// What lists the objects that the database refers to; drills and restores hold it against the objects.
    ///
    /// Default: none.
    pub agreement: Option<AgreementKey>,
    /// How often a snapshot is wanted.
    ///
    /// Default: `1h`.
    #[serde(deserialize_with = "duration", default)]
    pub every: Option<Duration>,
}

/// A query of `key`, and of `size` in bytes where the database knows it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgreementKey {
    /// A query of `key`, and of `size` in bytes where the database knows it.
    pub sql: String,
    /// The database to ask.
    ///
    /// Default: that of `postgres.conninfo`.
    pub database: Option<String>,
}

/// A bucket or folder: its url alone, or with how it is reached.
#[derive(Debug, Clone)]
pub struct Site(SiteTable);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct SiteTable {
    /// As that of the repository.
    url: String,
    /// As that of the repository.
    ///
    /// Default: as there.
    region: Option<String>,
    /// As that of the repository.
    ///
    /// Default: as there.
    endpoint: Option<String>,
    /// As that of the repository.
    ///
    /// Default: as there.
    path_style: Option<bool>,
    /// As that of the repository.
    ///
    /// Default: as there.
    ca_file: Option<PathBuf>,
    /// As that of the repository.
    ///
    /// Default: the environment's.
    access_key_id: Option<SecretRef>,
    /// As that of the repository.
    ///
    /// Default: the environment's.
    secret_access_key: Option<SecretRef>,
    /// As that of the repository.
    ///
    /// Default: the environment's.
    session_token: Option<SecretRef>,
    /// As that of the repository.
    ///
    /// Default: none.
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
        let access = [site.access_key_id.as_ref(), site.secret_access_key.as_ref(), site.session_token.as_ref()];
        Ok(StoreOptions {
            region: site.region.clone(),
            endpoint: site.endpoint.clone(),
            path_style: site.path_style,
            ca_file: site.ca_file.clone(),
            profile: site.profile.clone(),
            ..options_with(access, &format!("packages.{key}"))?
        })
    }
}
