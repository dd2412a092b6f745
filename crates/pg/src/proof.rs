//! What a restored server is asked to prove itself: amcheck over its indexes and tables, every row read, questions of the user's.

use crate::{PgError, Sql};

/// A relation that amcheck can look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkable {
    /// `pg_class.oid`.
    pub oid: u32,
    /// With its schema, quoted where that is needed.
    pub name: String,
    /// Which of amcheck's functions looks at it.
    pub kind: CheckKind,
}

/// What amcheck does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckKind {
    /// A B-tree: its structure, from parents to children, and that it holds every row of its table; from PostgreSQL 17 on also that
    /// what must be unique is (`bt_index_parent_check`, manual appendix F, amcheck).
    Btree,
    /// A table, materialized view or TOAST table: its pages, rows and out-of-line values (`verify_heapam`).
    Heap,
}

/// A user's table or materialized view: something with rows to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readable {
    /// `pg_class.oid`.
    pub oid: u32,
    /// With its schema, quoted where that is needed.
    pub name: String,
    /// Its first file, relative to the data directory, as `base/5/16384` (`pg_relation_filepath`); a rewrite and TRUNCATE give it another.
    pub file: String,
    /// How many pages it had at its last VACUUM or ANALYZE (`pg_class.relpages`).
    pub pages_noted: u32,
}

/// A library that functions of a database need and this host does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingLibrary {
    /// As the functions name it, `$libdir/vector` mostly.
    pub name: String,
    /// The extensions that need it; none when the functions belong to no extension.
    pub extensions: Vec<String>,
}

/// What of one database can be proved, and what cannot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provable {
    /// The database's own oid.
    pub database: u32,
    /// The system's among them, those with the most pages first.
    pub relations: Vec<Checkable>,
    /// The user's, those with the most pages first.
    pub tables: Vec<Readable>,
    /// Indexes for which there is no check, with their access method; the invalid ones among them, which no query uses.
    pub unchecked: Vec<(String, String)>,
}

/// Where amcheck's functions are, and what they can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amcheck {
    /// Quoted where that is needed.
    schema: String,
    checks_unique: bool,
}

/// So many of one relation's faults are told.
const FAULTS_MAX: i64 = 20;

impl Sql {
    /// The name of the superuser that initdb made, whatever it is called now (BOOTSTRAP_SUPERUSERID, src/include/catalog/pg_authid.dat).
    pub async fn bootstrap_superuser(&self) -> Result<String, PgError> {
        let doing = "find the bootstrap superuser";
        let row = self.row(doing, "SELECT rolname::text FROM pg_roles WHERE oid = 10", &[]).await?;
        self.get(&row, 0, doing)
    }

    /// The databases that one can connect to.
    pub async fn connectable_databases(&self) -> Result<Vec<String>, PgError> {
        let doing = "list the databases";
        let rows = self.rows(doing, "SELECT datname::text FROM pg_database WHERE datallowconn ORDER BY 1", &[]).await?;
        rows.iter().map(|row| self.get(row, 0, doing)).collect()
    }

    /// The databases that nobody can connect to, but for the one that never can (`template0`).
    pub async fn closed_databases(&self) -> Result<Vec<String>, PgError> {
        let doing = "list the databases";
        let text = "SELECT datname::text FROM pg_database WHERE NOT datallowconn AND datname <> 'template0' ORDER BY 1";
        self.rows(doing, text, &[]).await?.iter().map(|row| self.get(row, 0, doing)).collect()
    }

    /// Makes amcheck available in this database, at the version that this server ships.
    pub async fn make_amcheck(&self) -> Result<Amcheck, PgError> {
        let doing = "install amcheck";
        // A prepared transaction of the server that was backed up still holds its locks, and nobody will end it.
        self.rows(doing, "SET lock_timeout = '30s'", &[]).await?;
        // Functions only, so they may lie there; every other schema may be missing.
        self.rows(doing, "CREATE EXTENSION IF NOT EXISTS amcheck SCHEMA pg_catalog", &[]).await?;
        // What the database had may be older than the functions that are called.
        self.rows(doing, "ALTER EXTENSION amcheck UPDATE", &[]).await?;
        let text = "SELECT quote_ident(nspname), EXISTS (SELECT FROM pg_proc WHERE pronamespace = n.oid AND proname = 'bt_index_parent_check' AND pronargs = 4) \
            FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'amcheck'";
        let row = self.row(doing, text, &[]).await?;
        Ok(Amcheck { schema: self.get(&row, 0, doing)?, checks_unique: self.get(&row, 1, doing)? })
    }

    /// What there is to be proved in this database: permanent relations, the system's among them, largest first.
    pub async fn provable(&self) -> Result<Provable, PgError> {
        let doing = "list what can be checked";
        let text = "SELECT c.oid, format('%I.%I', nspname, relname), CASE WHEN NOT (indisvalid AND indisready) THEN 'invalid ' ELSE '' END || amname, relkind = 'i', \
                relkind IN ('r', 'm') AND relispopulated AND nspname <> 'information_schema' AND nspname !~ '^pg_', \
                pg_relation_filepath(c.oid), relpages \
            FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace LEFT JOIN pg_am a ON a.oid = relam LEFT JOIN pg_index i ON indexrelid = c.oid \
            WHERE relpersistence = 'p' AND relkind IN ('r', 'm', 't', 'i') \
            ORDER BY relpages DESC, c.oid";
        let own = self.row(doing, "SELECT oid FROM pg_database WHERE datname = current_database()", &[]).await?;
        let mut found = Provable { database: self.get(&own, 0, doing)?, ..Provable::default() };
        for row in self.rows(doing, text, &[]).await? {
            let (oid, name): (u32, String) = (self.get(&row, 0, doing)?, self.get(&row, 1, doing)?);
            let method: Option<String> = self.get(&row, 2, doing)?;
            let (is_index, is_readable): (bool, bool) = (self.get(&row, 3, doing)?, self.get(&row, 4, doing)?);
            if is_readable {
                let file = self.get::<Option<String>>(&row, 5, doing)?.unwrap_or_default();
                found.tables.push(Readable { oid, name: name.clone(), file, pages_noted: self.get::<i32>(&row, 6, doing)? as u32 });
            }
            match (method.as_deref(), is_index) {
                (Some("btree"), true) => found.relations.push(Checkable { oid, name, kind: CheckKind::Btree }),
                (Some("heap"), false) => found.relations.push(Checkable { oid, name, kind: CheckKind::Heap }),
                (method, _) => found.unchecked.push((name, method.unwrap_or("none").to_owned())),
            }
        }
        Ok(found)
    }

    /// The libraries that functions of this database are in and that are not on the server's host: what needs one of them fails there, be it
    /// a type, an operator class or an index's access method.
    pub async fn missing_libraries(&self) -> Result<Vec<MissingLibrary>, PgError> {
        let doing = "look for the libraries of functions";
        // `$libdir` and a bare name stand for the package's directory, and the ending may be left out (manual chapter 38.10.1).
        let text = "SELECT probin, array_remove(array_agg(DISTINCT extname::text), NULL) \
            FROM pg_proc p LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND deptype = 'e' \
                LEFT JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid, \
                (SELECT setting AS here FROM pg_config() WHERE name = 'PKGLIBDIR') AS package, \
                LATERAL (SELECT CASE WHEN probin LIKE '%/%' THEN replace(probin, '$libdir', here) ELSE here || '/' || probin END AS path) AS place \
            WHERE prolang = (SELECT oid FROM pg_language WHERE lanname = 'c') AND probin IS NOT NULL \
            GROUP BY probin, path \
            HAVING pg_stat_file(path, true) IS NULL AND pg_stat_file(path || '.so', true) IS NULL ORDER BY 1";
        let rows = self.rows(doing, text, &[]).await?;
        rows.iter().map(|row| Ok(MissingLibrary { name: self.get(row, 0, doing)?, extensions: self.get(row, 1, doing)? })).collect()
    }

    /// Whether a preload library of this name is on the server's host (`load_file`, src/backend/utils/fmgr/dfmgr.c).
    pub async fn has_library(&self, name: &str) -> Result<bool, PgError> {
        let doing = "look for a preload library";
        let text = "SELECT NOT (pg_stat_file(path, true) IS NULL AND pg_stat_file(path || '.so', true) IS NULL) \
            FROM (SELECT CASE WHEN $1::text LIKE '%/%' THEN replace($1::text, '$libdir', setting) ELSE setting || '/' || $1::text END AS path \
                FROM pg_config() WHERE name = 'PKGLIBDIR') AS place";
        let row = self.row(doing, text, &[&name]).await?;
        self.get(&row, 0, doing)
    }

    /// The preload libraries that were set for single roles and databases (`ALTER ROLE … SET`).
    pub async fn preloads_of_roles(&self) -> Result<Vec<String>, PgError> {
        let doing = "read the settings of roles";
        let text = "SELECT split_part(line, '=', 2) FROM pg_db_role_setting, unnest(setconfig) AS line \
            WHERE line LIKE 'session_preload_libraries=%' OR line LIKE 'local_preload_libraries=%'";
        self.rows(doing, text, &[]).await?.iter().map(|row| self.get(row, 0, doing)).collect()
    }

    /// The relations of this database that these files, named as in [`Readable::file`], hold.
    pub async fn relations_in(&self, files: &[String]) -> Result<Vec<(String, String)>, PgError> {
        let doing = "name the relations of files";
        let text = "SELECT path, format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace, \
            LATERAL (SELECT pg_relation_filepath(c.oid) AS path) AS place WHERE path = ANY ($1)";
        let rows = self.rows(doing, text, &[&files]).await?;
        rows.iter().map(|row| Ok((self.get(row, 0, doing)?, self.get(row, 1, doing)?))).collect()
    }

    /// What is wrong with this relation; empty when nothing is. An index's first fault ends its check, as an error of the server.
    pub async fn check_relation(&self, amcheck: &Amcheck, relation: &Checkable) -> Result<Vec<String>, PgError> {
        let doing = format!("check {}", relation.name);
        let schema = &amcheck.schema;
        match relation.kind {
            CheckKind::Btree => {
                // heapallindexed; then, where it is there, rootdescend, which hunts bugs of PostgreSQL's own and costs most, and checkunique.
                let how = if amcheck.checks_unique { "true, false, true" } else { "true" };
                let text = format!("SELECT {schema}.bt_index_parent_check($1::oid::regclass, {how})");
                self.rows(&doing, &text, &[&relation.oid]).await?;
                Ok(Vec::new())
            }
            CheckKind::Heap => {
                // With check_toast. Every argument is given in its own type, or a function of fewer that somebody put beside it would be meant.
                let how = "$1::oid::regclass, false, true, 'none'::text, NULL::bigint, NULL::bigint";
                let text = format!("SELECT blkno, msg FROM {schema}.verify_heapam({how}) LIMIT $2");
                let rows = self.rows(&doing, &text, &[&relation.oid, &FAULTS_MAX]).await?;
                let fault = |row| Ok(format!("block {}: {}", self.get::<i64>(row, 0, &doing)?, self.get::<String>(row, 1, &doing)?));
                rows.iter().map(fault).collect()
            }
        }
    }

    /// Reads every row of the table in full, out-of-line values and all, as text; how many there are.
    pub async fn read_in_full(&self, table: &Readable) -> Result<u64, PgError> {
        let doing = format!("read {}", table.name);
        // The server writes to its own /dev/null: the rows are formed and cross no socket.
        self.execute(&doing, &format!("COPY (SELECT * FROM ONLY {}) TO '/dev/null'", table.name)).await
    }

    /// The first column of the first row that this query gives, as text; `None` when there is no row or it is null.
    pub async fn answer(&self, query: &str) -> Result<Option<String>, PgError> {
        let doing = "ask the configured question";
        // Ours is narrow; the question was written for the database's.
        self.rows(doing, "RESET search_path", &[]).await?;
        self.first_value(doing, query).await
    }

    /// Whether a text matches a regular expression of PostgreSQL's (manual chapter 9.7.3).
    pub async fn matches(&self, text: &str, pattern: &str) -> Result<bool, PgError> {
        let doing = "compare with a pattern";
        let row = self.row(doing, "SELECT $1::text ~ $2::text", &[&text, &pattern]).await?;
        self.get(&row, 0, doing)
    }
}
