//! Which package brings a library or an extension of PostgreSQL, where that is known.

/// `$libdir/postgis-3.so` is of postgis.
pub(crate) fn plain(name: &str) -> &str {
    let name = name.rsplit('/').next().unwrap_or(name);
    let name = name.strip_suffix(".so").unwrap_or(name);
    name.rsplit_once('-').filter(|(_, version)| version.starts_with(|c: char| c.is_ascii_digit())).map_or(name, |(name, _)| name)
}

/// What the server's own package brings (contrib, which Debian ships with it, and PL/pgSQL).
const BROUGHT_ALONG: &[&str] = &[
    "adminpack",
    "amcheck",
    "auth_delay",
    "auto_explain",
    "autoinc",
    "basebackup_to_shell",
    "basic_archive",
    "bloom",
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "dblink",
    "dict_int",
    "dict_snowball",
    "dict_xsyn",
    "earthdistance",
    "file_fdw",
    "fuzzystrmatch",
    "hstore",
    "_int",
    "insert_username",
    "intagg",
    "intarray",
    "isn",
    "lo",
    "ltree",
    "moddatetime",
    "pageinspect",
    "passwordcheck",
    "pg_buffercache",
    "pg_freespacemap",
    "pg_logicalinspect",
    "pg_overexplain",
    "pg_prewarm",
    "pg_stat_statements",
    "pg_surgery",
    "pg_trgm",
    "pg_visibility",
    "pg_walinspect",
    "pgcrypto",
    "pgoutput",
    "pgrowlocks",
    "pgstattuple",
    "pgxml",
    "plpgsql",
    "postgres_fdw",
    "refint",
    "seg",
    "sepgsql",
    "sslinfo",
    "tablefunc",
    "tcn",
    "test_decoding",
    "tsm_system_rows",
    "tsm_system_time",
    "unaccent",
    "uuid-ossp",
    "xml2",
];

/// What Debian's packages after `postgresql-{major}-` are called, where that is not the extension's own name (apt.postgresql.org).
const PACKAGES: &[(&str, &str)] = &[
    ("address_standardizer", "postgis-3"),
    ("age", "age"),
    ("decoderbufs", "decoderbufs"),
    ("h3", "h3"),
    ("hll", "hll"),
    ("http", "http"),
    ("hypopg", "hypopg"),
    ("ip4r", "ip4r"),
    ("mysql_fdw", "mysql-fdw"),
    ("ogr_fdw", "ogr-fdw"),
    ("orafce", "orafce"),
    ("oracle_fdw", "oracle-fdw"),
    ("pg_cron", "cron"),
    ("pg_hint_plan", "pg-hint-plan"),
    ("pg_ivm", "pg-ivm"),
    ("pg_partman", "partman"),
    ("pg_partman_bgw", "partman"),
    ("pg_qualstats", "pg-qualstats"),
    ("pg_rational", "rational"),
    ("pg_repack", "repack"),
    ("pg_squeeze", "squeeze"),
    ("pg_stat_kcache", "pg-stat-kcache"),
    ("pg_track_settings", "pg-track-settings"),
    ("pg_wait_sampling", "pg-wait-sampling"),
    ("pgaudit", "pgaudit"),
    ("pgl_ddl_deploy", "pgl-ddl-deploy"),
    ("pglogical", "pglogical"),
    ("pglogical_output", "pglogical"),
    ("pgrouting", "pgrouting"),
    ("pgtap", "pgtap"),
    ("plperl", "plperl"),
    ("plperlu", "plperl"),
    ("plpython3", "plpython3"),
    ("plpython3u", "plpython3"),
    ("pltcl", "pltcl"),
    ("pltclu", "pltcl"),
    ("postgis", "postgis-3"),
    ("postgis_raster", "postgis-3"),
    ("postgis_sfcgal", "postgis-3"),
    ("postgis_tiger_geocoder", "postgis-3"),
    ("postgis_topology", "postgis-3"),
    ("powa", "powa"),
    ("prefix", "prefix"),
    ("rtpostgis", "postgis-3"),
    ("rum", "rum"),
    ("semver", "semver"),
    ("set_user", "set-user"),
    ("tds_fdw", "tds-fdw"),
    ("unit", "unit"),
    ("vector", "pgvector"),
    ("wal2json", "wal2json"),
];

pub(crate) fn is_brought_along(name: &str) -> bool {
    BROUGHT_ALONG.contains(&plain(name)) || BROUGHT_ALONG.contains(&name)
}

/// How to install what has this name, and the package when it is known.
pub(crate) fn install(name: &str, major: u32) -> (String, Option<String>) {
    let name = name.rsplit('/').next().unwrap_or(name);
    let package = match PACKAGES.iter().find(|(known, _)| *known == plain(name)) {
        Some((_, package)) => Some(format!("postgresql-{major}-{package}")),
        // From the maker's own repository.
        None if plain(name) == "timescaledb" => Some(format!("timescaledb-2-postgresql-{major}")),
        None if is_brought_along(name) => Some(format!("postgresql-{major}")),
        None => None,
    };
    let contrib = if is_brought_along(name) { format!("; elsewhere postgresql{major}-contrib") } else { String::new() };
    let hint = match &package {
        Some(package) => format!("apt-get install {package} (Debian, Ubuntu with apt.postgresql.org{contrib})"),
        None => format!("Install what brings {} for PostgreSQL {major}, as on the old host (apt-cache search postgresql-{major}).", plain(name)),
    };
    (hint, package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_its_package_and_an_unknown_one_to_a_search() {
        assert_eq!(install("$libdir/postgis-3", 17).1.as_deref(), Some("postgresql-17-postgis-3"));
        assert_eq!(install("timescaledb-2.14.2", 15).1.as_deref(), Some("timescaledb-2-postgresql-15"));
        assert_eq!(install("uuid-ossp", 18).1.as_deref(), Some("postgresql-18"), "a word behind a dash is no version");
        let (hint, package) = install("own", 18);
        assert!(package.is_none() && hint.contains("apt-cache search postgresql-18"), "{hint}");
    }
}
