//! About how many rows each table of a running server holds, without reading any.

use crate::{PgError, Sql};

/// What the server believes of one of its tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimate {
    /// `pg_class.oid`.
    pub oid: u32,
    /// With its schema, quoted where that is needed.
    pub name: String,
    /// Its first file, relative to the data directory.
    pub file: String,
    /// At least about so many rows; `None` when the server does not know, as after TRUNCATE.
    pub rows: Option<u64>,
}

/// Below so many changed rows and this share of a table autovacuum does not count anew (`autovacuum_vacuum_threshold` and
/// `autovacuum_vacuum_scale_factor`, as they are by default).
const UNCOUNTED_ROWS: f64 = 50.0;
const UNCOUNTED_SHARE: f64 = 0.2;

impl Sql {
    /// This database's oid, and an estimate of each permanent table and materialized view of the user's in it.
    pub async fn estimates(&self) -> Result<(u32, Vec<Estimate>), PgError> {
        let doing = "estimate the rows of tables";
        let own = self.row(doing, "SELECT oid FROM pg_database WHERE datname = current_database()", &[]).await?;
        let text = "SELECT c.oid, format('%I.%I', nspname, relname), coalesce(pg_relation_filepath(c.oid), ''), reltuples::float8, \
                pg_stat_get_live_tuples(c.oid), pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid) \
            FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
            WHERE relpersistence = 'p' AND relkind IN ('r', 'm') AND relispopulated AND nspname <> 'information_schema' AND nspname !~ '^pg_'";
        let estimate = |row: &tokio_postgres::Row| {
            let (counted, live, changes): (f64, i64, i64) = (self.get(row, 3, doing)?, self.get(row, 4, doing)?, self.get(row, 5, doing)?);
            let rows = least_rows(counted, live, changes);
            Ok(Estimate { oid: self.get(row, 0, doing)?, name: self.get(row, 1, doing)?, file: self.get(row, 2, doing)?, rows })
        };
        Ok((self.get(&own, 0, doing)?, self.rows(doing, text, &[]).await?.iter().map(estimate).collect::<Result<_, PgError>>()?))
    }
}

/// The smaller of what VACUUM or ANALYZE last counted and what the statistics say: the count does not follow what was deleted since, and the
/// statistics begin at zero after a crash. Without any statistics as many rows may be gone as autovacuum leaves uncounted.
fn least_rows(counted: f64, live: i64, changes: i64) -> Option<u64> {
    let has_statistics = live > 0 || changes > 0;
    match (counted, has_statistics) {
        (counted, _) if counted < 0.0 => None,
        (counted, true) => Some(counted.min(live as f64) as u64),
        (counted, false) => Some((counted * (1.0 - UNCOUNTED_SHARE) - UNCOUNTED_ROWS).max(0.0) as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_never_above_what_one_of_both_counts_says() {
        assert_eq!(least_rows(1_000_000.0, 0, 1_000_000), Some(0), "a queue that was emptied and not vacuumed yet");
        assert_eq!(least_rows(1000.0, 2000, 2000), Some(1000), "it grew since it was counted");
        assert_eq!(least_rows(-1.0, 5, 5), None, "TRUNCATE, and nothing counted since");
        assert_eq!(least_rows(1000.0, 0, 0), Some(750), "after a crash nobody knows what was deleted before it");
        assert_eq!(least_rows(40.0, 0, 0), Some(0));
    }
}
