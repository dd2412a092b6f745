//! What production believes of its own tables: asked before a drill and once more after it, since an estimate may lag behind.

use pg::{ConnInfo, Estimate, PgError, Sql};
use std::collections::HashMap;
use terms::{Explain, Lsn, SystemId};

/// Production's answer.
#[derive(Debug, Clone)]
pub(crate) struct Production {
    /// Which cluster answered.
    pub(crate) system_id: SystemId,
    /// How far its log was after it had answered: what is restored up to here lacks nothing that the estimates count.
    pub(crate) at: Lsn,
    /// The tables of each database, by their oids.
    pub(crate) databases: HashMap<u32, HashMap<u32, Estimate>>,
    /// Databases that could not be asked, and why.
    pub(crate) untold: Vec<(String, String)>,
}

/// Asks production; an error says why it could not be.
pub(crate) async fn ask(info: Option<&ConnInfo>) -> Result<Production, String> {
    let Some(info) = info else { return Err("[postgres] conninfo names no server".into()) };
    let told = |error: PgError| error.in_a_line();
    let session = Sql::connect(info).await.map_err(told)?;
    let system_id = session.system_id().await.map_err(told)?;
    let mut production = Production { system_id, at: Lsn::from_bytes(0), databases: HashMap::new(), untold: Vec::new() };
    for name in session.connectable_databases().await.map_err(told)? {
        match estimates(info, &name).await {
            Ok((oid, tables)) => drop(production.databases.insert(oid, tables.into_iter().map(|table| (table.oid, table)).collect())),
            Err(error) => production.untold.push((name, error.in_a_line())),
        }
    }
    production.at = session.current_lsn().await.map_err(told)?;
    Ok(production)
}

async fn estimates(info: &ConnInfo, database: &str) -> Result<(u32, Vec<Estimate>), PgError> {
    Sql::connect(&info.clone().with_dbname(database)).await?.estimates().await
}

impl Production {
    /// The lower of both answers for each table; a table or database that only one of them names is left out, for it came or went meanwhile.
    pub(crate) fn lowered_by(mut self, later: &Self) -> Self {
        self.databases.retain(|oid, _| later.databases.contains_key(oid));
        for (oid, tables) in &mut self.databases {
            let Some(later) = later.databases.get(oid) else { continue };
            tables.retain(|oid, table| later.get(oid).is_some_and(|again| again.file == table.file));
            for (oid, table) in tables {
                let again = later.get(oid).and_then(|again| again.rows);
                table.rows = table.rows.zip(again).map(|(one, other)| one.min(other));
            }
        }
        self
    }
}
