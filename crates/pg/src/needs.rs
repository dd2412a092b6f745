//! What a server needs of the host it runs on: libraries, extensions, locales; recorded with each backup, compared before a restore.

use crate::{ConnInfo, PgError, ServerFacts, Sql};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a cluster needs of its host. Read from a manifest it may be of an older Bowline, which recorded less: what was not recorded
/// is absent, never empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostNeeds {
    /// As the settings say, each a list with commas. Without one of these no server starts, without one of the next no session does.
    pub shared_preload_libraries: Option<String>,
    /// As above; absent when the role could not see it, or an older Bowline did not ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_preload_libraries: Option<String>,
    /// As above; a bare name may stand for a file in `$libdir/plugins`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_preload_libraries: Option<String>,
    /// As above; empty when none is set. Without it nothing is archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive_library: Option<String>,
    /// Of the database that the backup was connected to: name, version.
    pub extensions: Vec<(String, String)>,
    /// All of them, templates too, in order of their oid.
    pub databases: Vec<DatabaseNeeds>,
    /// In order of their oid; the two of initdb are not among them.
    pub tablespaces: Vec<TablespacePlace>,
    /// As whom the server ran, when its data directory was at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Where `postgresql.conf` was on the old host; absent when the role could not see it.
    pub config_file: Option<PathBuf>,
    /// Where `pg_hba.conf` was, as above.
    pub hba_file: Option<PathBuf>,
    /// Where `pg_ident.conf` was, as above.
    pub ident_file: Option<PathBuf>,
}

/// A tablespace that a user made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TablespacePlace {
    /// Names the link in `pg_tblspc`.
    pub oid: u32,
    /// `spcname`.
    pub name: String,
    /// Where it was on the old host; relative when it lay in place.
    pub location: PathBuf,
}

/// What one database needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatabaseNeeds {
    /// `datname`.
    pub name: String,
    /// By name, such as `UTF8`.
    pub encoding: String,
    /// datcollate.
    pub locale: String,
    /// datctype; absent in what an older Bowline recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ctype: Option<String>,
    /// `libc`, `icu` or `builtin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The version of the collation that its indexes were built with, as the provider named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collation_version: Option<String>,
    /// Name and version; `None` when nobody could look into it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extensions: Option<Vec<(String, String)>>,
    /// Where functions in C are: `$libdir/postgis-3`. Those of the server itself are not among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub libraries: Option<Vec<String>>,
    /// Collations of libc that its columns and indexes may use beside its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub collations: Vec<String>,
}

const DOING: &str = "list what the server needs of its host";

impl Sql {
    /// What this cluster needs of its host. Every database that one can connect to is looked into, one after the other; what cannot
    /// be seen is absent, since a backup must not fail for it.
    pub async fn host_needs(&self, info: &ConnInfo, facts: &ServerFacts) -> Result<HostNeeds, PgError> {
        let mut databases = self.database_needs().await?;
        for database in databases.iter_mut().filter(|database| facts.databases.iter().any(|d| d.name == database.name && d.allows_connections)) {
            // Seen in part would read as seen: then it counts as not looked into.
            let seen = async {
                let session = Self::connect(&info.clone().with_dbname(&database.name)).await?;
                Ok::<_, PgError>((session.extensions().await?, session.libraries().await?, session.collations().await?))
            };
            if let Ok((extensions, libraries, collations)) = seen.await {
                (database.extensions, database.libraries, database.collations) = (Some(extensions), Some(libraries), collations);
            }
        }
        let owner = facts.data_directory.as_ref().and_then(|path| crate::owner_of(path).ok());
        let owner = owner.and_then(|owner| nix::unistd::User::from_uid(owner.uid.into()).ok().flatten()).map(|user| user.name);
        let place = |t: &crate::Tablespace| TablespacePlace { oid: t.oid, name: t.name.clone(), location: t.location.clone() };
        Ok(HostNeeds {
            shared_preload_libraries: facts.shared_preload_libraries.clone(),
            session_preload_libraries: self.setting("session_preload_libraries").await?,
            local_preload_libraries: self.setting("local_preload_libraries").await?,
            archive_library: self.setting("archive_library").await?,
            extensions: facts.extensions.clone(),
            databases,
            tablespaces: facts.tablespaces.iter().map(place).collect(),
            owner,
            config_file: facts.config_file.clone(),
            hba_file: facts.hba_file.clone(),
            ident_file: facts.ident_file.clone(),
        })
    }

    async fn database_needs(&self) -> Result<Vec<DatabaseNeeds>, PgError> {
        // "b" is the builtin provider, from 17 on.
        let text = "SELECT datname::text, pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text, \
            CASE datlocprovider WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' END, datcollversion::text \
            FROM pg_database ORDER BY oid";
        let need = |row: &tokio_postgres::Row| {
            Ok(DatabaseNeeds {
                name: self.get(row, 0, DOING)?,
                encoding: self.get(row, 1, DOING)?,
                locale: self.get(row, 2, DOING)?,
                ctype: self.get(row, 3, DOING)?,
                provider: self.get(row, 4, DOING)?,
                collation_version: self.get(row, 5, DOING)?,
                ..DatabaseNeeds::default()
            })
        };
        self.rows(DOING, text, &[]).await?.iter().map(need).collect()
    }

    /// Libraries of this database's functions that the server does not bring along by itself: functions of initdb have lower numbers
    /// (`FirstNormalObjectId`, src/include/access/transam.h).
    async fn libraries(&self) -> Result<Vec<String>, PgError> {
        let text = "SELECT DISTINCT probin FROM pg_proc WHERE prolang = 13 AND probin IS NOT NULL AND oid >= 16384 ORDER BY 1";
        self.rows(DOING, text, &[]).await?.iter().map(|row| self.get(row, 0, DOING)).collect()
    }

    /// Collations of libc that a column or an index of a user's uses.
    async fn collations(&self) -> Result<Vec<String>, PgError> {
        let text = "SELECT DISTINCT c.collcollate::text FROM pg_collation AS c \
            WHERE c.collprovider = 'c' AND c.collcollate IS NOT NULL AND c.oid IN ( \
                SELECT attcollation FROM pg_attribute WHERE attrelid >= 16384 AND attcollation NOT IN (0, 100) \
                UNION SELECT typcollation FROM pg_type WHERE oid >= 16384 AND typcollation NOT IN (0, 100)) ORDER BY 1";
        self.rows(DOING, text, &[]).await?.iter().map(|row| self.get(row, 0, DOING)).collect()
    }
}
