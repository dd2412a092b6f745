//! The small service of the whole story: packages over HTTP, each an object in a bucket and the row of a database that refers to it.
//!
//! `GET /packages/KEY` answers only what both agree on, `POST /packages/KEY` makes the object first and commits the row afterwards, and
//! `GET /health` asks the database.

use super::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use testkit::InBucket;
use testkit::hook::{answer, read_request};
use testkit::loopback::http;
use tokio_postgres::{Client, NoTls, Row};

/// Requests that are answered at once.
const WORKERS: usize = 6;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// The server's own time of a commit, and where its record ends at the latest.
const ASK: &str = "SELECT (extract(epoch FROM pg_xact_commit_timestamp($1::text::xid)) * 1000000)::bigint, pg_current_wal_insert_lsn()::text";

/// What it refers to.
pub const TABLE: &str = "CREATE TABLE packages (id bigserial PRIMARY KEY, key text NOT NULL UNIQUE, bytes bigint NOT NULL)";

/// What its configuration says; a file of JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    pub port: u16,
    pub conninfo: String,
    pub endpoint: String,
    pub bucket: String,
    pub access_key_id: String,
    pub secret_access_key: String,
}

/// `FILE` serves with this configuration, `--health PORT` asks the service at this port whether it is well.
pub fn run(arguments: &[String]) -> Outcome<()> {
    match arguments {
        [word, port] if word == "--health" => {
            let port = port.parse().map_err(|_| format!("not a port: {port}"))?;
            let said = http(port, "GET /health", b"").ok_or_else(|| format!("nobody answers at port {port}"))?;
            if said.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(said) }
        }
        [file] => serve(Path::new(file)),
        _ => Err("usage: cargo xtask service FILE | --health PORT".into()),
    }
}

fn serve(file: &Path) -> Outcome<()> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let settings: Settings = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let bucket = Arc::new(InBucket::at(&settings.endpoint, &settings.bucket, &settings.access_key_id, &settings.secret_access_key));
    let listener = TcpListener::bind(("127.0.0.1", settings.port)).map_err(|error| format!("port {}: {error}", settings.port))?;
    let listener = Arc::new(listener);
    let workers = (0..WORKERS).map(|_| {
        let (listener, bucket, conninfo) = (Arc::clone(&listener), Arc::clone(&bucket), settings.conninfo.clone());
        std::thread::spawn(move || {
            let mut worker = Worker { bucket, database: Database { conninfo, runtime: runtime()?, client: None } };
            for client in listener.incoming().flatten() {
                // A client that has gone is no trouble of the service.
                let _ = worker.handle(&client);
            }
            Outcome::Ok(())
        })
    });
    let workers: Vec<_> = workers.collect();
    workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a worker panicked")?)
}

fn runtime() -> Outcome<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())
}

struct Worker {
    bucket: Arc<InBucket>,
    database: Database,
}

impl Worker {
    fn handle(&mut self, client: &TcpStream) -> std::io::Result<()> {
        client.set_read_timeout(Some(PATIENCE))?;
        let asked = read_request(client)?;
        let (status, body) = match (asked.line.as_str(), asked.line.split_once(" /packages/")) {
            ("GET /health", _) => self.database.ask("SELECT 1", &[]).map_or_else(|why| (503, why), |_| (200, "well\n".into())),
            (_, Some(("GET", key))) => self.get(key).unwrap_or_else(|why| (503, why)),
            (_, Some(("POST", key))) => self.post(key, &asked.body).unwrap_or_else(|why| (503, why)),
            _ => (404, "there is /health and /packages/KEY\n".into()),
        };
        answer(client, status, &body)
    }

    fn get(&mut self, key: &str) -> Outcome<(u16, String)> {
        let rows = self.database.ask("SELECT bytes FROM packages WHERE key = $1", &[&key])?;
        let Some(row) = rows.first() else { return Ok((404, format!("no row for {key}\n"))) };
        let wanted: i64 = row.get(0);
        Ok(match self.bucket.try_get(key)? {
            None => (502, format!("{key} has a row, and its object is gone\n")),
            Some(body) if body.len() as i64 != wanted => (502, format!("{key} should have {wanted} bytes, and its object has {}\n", body.len())),
            Some(body) => (200, String::from_utf8_lossy(&body).into_owned()),
        })
    }

    /// From its answer on, both are promised.
    fn post(&mut self, key: &str, body: &str) -> Outcome<(u16, String)> {
        self.bucket.try_put(key, body.as_bytes())?;
        let insert = "INSERT INTO packages (key, bytes) VALUES ($1, $2) RETURNING id, xmin::text";
        let rows = self.database.ask(insert, &[&key, &(body.len() as i64)])?;
        let (id, transaction): (i64, String) = rows.first().map(|row| (row.get(0), row.get(1))).ok_or("the row has no id")?;
        // The commit is promised, also where the server dies before it can say more of it.
        let more = self.database.ask(ASK, &[&transaction]).ok();
        let more = more.as_ref().and_then(|rows| rows.first());
        let (at, to) = (more.and_then(|row| row.get::<_, Option<i64>>(0)), more.map(|row| row.get::<_, String>(1)));
        Ok((201, json!({"id": id, "committed_at": at, "inserted_to": to}).to_string()))
    }
}

/// One connection, made anew after it broke.
struct Database {
    conninfo: String,
    runtime: tokio::runtime::Runtime,
    client: Option<Client>,
}

impl Database {
    fn ask(&mut self, sql: &str, parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)]) -> Outcome<Vec<Row>> {
        let Self { conninfo, runtime, client } = self;
        let answer = runtime.block_on(async {
            if client.as_ref().is_none_or(Client::is_closed) {
                let (made, connection) = tokio_postgres::connect(conninfo, NoTls).await?;
                tokio::spawn(connection);
                *client = Some(made);
            }
            match client {
                Some(client) => client.query(sql, parameters).await,
                None => Ok(Vec::new()),
            }
        });
        answer.map_err(|error| {
            let words = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
            // Whatever state it is in: the next request begins with a new one.
            self.client = None;
            format!("the database: {words}\n")
        })
    }
}
