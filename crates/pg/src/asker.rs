//! Who asks a restored server what was configured to be asked: a role that reads everything and is no superuser. A view or a function of
//! the database runs as whoever asks, and an application's own role may have put one where a table was.

use crate::{ConnInfo, PgError, Sql};
use tokio_postgres::types::ToSql;

/// What its name is, or begins with where others bear that.
const NAME: &str = "bowline_questions";
/// The comment by which it is known as ours. Who bears the name without it is somebody else.
const MARK: &str = "asks a restored server; made by Bowline, and dropped when it has asked";

/// Makes the role on a server that only this process reaches, and says how it logs in. A session that was the superuser's could become
/// that again (RESET ROLE), so it has sessions of its own. `superuser` is a login as [`crate::PrivateServer::superuser`] gives it.
pub async fn make_asker(superuser: &ConnInfo) -> Result<ConnInfo, PgError> {
    let doing = "make the role that asks";
    let sql = changing(superuser).await?;
    drop_marked(&sql, superuser).await?;
    let taken: Vec<String> = strings(&sql, doing, "SELECT rolname::text FROM pg_roles", &[]).await?;
    let name = (1..).map(|number| if number == 1 { NAME.to_owned() } else { format!("{NAME}_{number}") }).find(|name| !taken.contains(name));
    let name = name.unwrap_or_default();
    // A library that a database loads into each session may be missing here, and who is no superuser cannot do without it by its login. Taken
    // from this session, where they are empty: written down, an empty list would be quoted, and a library without a name looked for.
    let text = format!(
        "CREATE ROLE {name} LOGIN BYPASSRLS IN ROLE pg_read_all_data, pg_monitor; COMMENT ON ROLE {name} IS '{MARK}'; \
         ALTER ROLE {name} SET session_preload_libraries FROM CURRENT; ALTER ROLE {name} SET local_preload_libraries FROM CURRENT; \
         ALTER ROLE {name} SET session_replication_role FROM CURRENT"
    );
    sql.first_value(doing, &text).await?;
    let closed = "SELECT quote_ident(datname) FROM pg_database WHERE datallowconn AND NOT has_database_privilege($1::text::name, oid, 'CONNECT')";
    for database in strings(&sql, doing, closed, &[&name]).await? {
        sql.execute(doing, &format!("GRANT CONNECT ON DATABASE {database} TO {name}")).await?;
    }
    Ok(ConnInfo { user: name, options: None, ..superuser.clone() })
}

/// Drops the role that asked, and any that an earlier run left behind, with all that it was granted and all that was made in its name.
pub async fn drop_askers(superuser: &ConnInfo) -> Result<(), PgError> {
    drop_marked(&changing(superuser).await?, superuser).await
}

async fn drop_marked(sql: &Sql, superuser: &ConnInfo) -> Result<(), PgError> {
    let doing = "drop the role that asked";
    let ours = format!("SELECT rolname::text FROM pg_roles WHERE rolname ~ '^{NAME}(_[0-9]+)?$' AND shobj_description(oid, 'pg_authid') = $1::text");
    for name in strings(sql, doing, &ours, &[&MARK]).await? {
        // A session that ends still owns its temporary tables.
        let end = "SELECT pg_terminate_backend(pid, 10000)::text FROM pg_stat_activity WHERE usename = $1::text::name";
        strings(sql, doing, end, &[&name]).await?;
        let places = "SELECT DISTINCT datname::text FROM pg_shdepend JOIN pg_database d ON d.oid = dbid \
            WHERE refclassid = 'pg_authid'::regclass AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1::text::name)";
        // Code of the database's may have made something while it was asked, and something else of that.
        let owned = format!("DROP OWNED BY {name} CASCADE");
        for database in strings(sql, doing, places, &[&name]).await? {
            changing(&superuser.clone().with_dbname(&database)).await?.execute(doing, &owned).await?;
        }
        sql.first_value(doing, &format!("{owned}; DROP ROLE {name}")).await?;
    }
    Ok(())
}

/// A superuser's session that may write on a server where sessions do not unless they ask to, wakes no triggers of the cluster's, and does
/// not wait for ever: a prepared transaction of the server that was backed up still holds its locks.
async fn changing(superuser: &ConnInfo) -> Result<Sql, PgError> {
    let sql = Sql::connect(superuser).await?;
    let text = "SET default_transaction_read_only = off; SET session_replication_role = replica; SET lock_timeout = '30s'";
    sql.first_value("prepare the session", text).await?;
    Ok(sql)
}

async fn strings(sql: &Sql, doing: &str, text: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<String>, PgError> {
    sql.rows(doing, text, values).await?.iter().map(|row| sql.get(row, 0, doing)).collect()
}
