//! Collations whose order may have changed under the indexes that were built by it.

use crate::{PgError, Sql};
use serde::{Deserialize, Serialize};

/// A collation that this server's host has in another version than the one its database recorded: an index over texts is in the order of
/// the version that it was built with, and misses rows where the other one orders them otherwise (manual chapter 24.2.2.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaleCollation {
    /// With its schema, quoted where that is needed; `None` for the database's own.
    pub collation: Option<String>,
    /// The recorded version, and this host's.
    pub recorded: String,
    /// As above.
    pub here: String,
    /// The indexes that use it, each with its schema, quoted where that is needed. None: nothing needs to be done but to record the version.
    pub indexes: Vec<String>,
}

impl StaleCollation {
    /// What it is about, for people: `its collation was of version 2.36, this host has 2.41`.
    pub fn words(&self) -> String {
        let which = self.collation.as_ref().map_or_else(|| "its collation".to_owned(), |collation| format!("collation {collation}"));
        format!("{which} was of version {}, this host has {}", self.recorded, self.here)
    }

    /// The statements that put it right, run in `database`.
    pub fn remedy(&self, database: &str) -> String {
        let name = format!("\"{}\"", database.replace('"', "\"\""));
        match &self.collation {
            None if self.indexes.is_empty() => format!("ALTER DATABASE {name} REFRESH COLLATION VERSION"),
            None => format!("REINDEX DATABASE {name}; ALTER DATABASE {name} REFRESH COLLATION VERSION"),
            Some(collation) => {
                let reindex: String = self.indexes.iter().map(|index| format!("REINDEX INDEX {index}; ")).collect();
                format!("{reindex}ALTER COLLATION {collation} REFRESH VERSION")
            }
        }
    }
}

impl Sql {
    /// Those of this database. Of its named collations only those count that an index uses.
    pub async fn stale_collations(&self) -> Result<Vec<StaleCollation>, PgError> {
        let doing = "compare the versions of collations";
        // 100 is the database's own (DEFAULT_COLLATION_OID, src/include/catalog/pg_collation.dat).
        let text = "WITH known AS ( \
                SELECT 100::oid AS oid, NULL::text AS name, datcollversion AS recorded, pg_database_collation_actual_version(oid) AS here \
                FROM pg_database WHERE datname = current_database() \
                UNION ALL SELECT c.oid, format('%I.%I', nspname, collname), collversion, pg_collation_actual_version(c.oid) \
                FROM pg_collation c JOIN pg_namespace n ON n.oid = collnamespace \
                WHERE collversion IS NOT NULL AND EXISTS (SELECT FROM pg_index WHERE c.oid = ANY (indcollation))) \
            SELECT name, recorded, here, ARRAY(SELECT format('%I.%I', nspname, relname) FROM pg_index i JOIN pg_class c ON c.oid = indexrelid \
                JOIN pg_namespace n ON n.oid = relnamespace WHERE known.oid = ANY (indcollation) AND relpersistence <> 't' ORDER BY 1) \
            FROM known WHERE recorded <> here ORDER BY name NULLS FIRST";
        let rows = self.rows(doing, text, &[]).await?;
        let stale = |row| {
            Ok(StaleCollation {
                collation: self.get(row, 0, doing)?,
                recorded: self.get(row, 1, doing)?,
                here: self.get(row, 2, doing)?,
                indexes: self.get(row, 3, doing)?,
            })
        };
        rows.iter().map(stale).collect()
    }
}
