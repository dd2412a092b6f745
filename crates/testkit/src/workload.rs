//! Clients that commit without pause and remember what the server acknowledged: the judge of what a restore lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use terms::{Clock, Lsn, SystemClock, Timestamp};
use tokio_postgres::{Client, NoTls, types::PgLsn};

/// A commit that the server acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// The row's id in the table `ledger`.
    pub id: i64,
    /// The server's own commit time, when `track_commit_timestamp` is on and the server lived long enough to be asked.
    pub committed_at: Option<Timestamp>,
    /// The client's clock when the acknowledgement arrived: never before the commit.
    pub seen_at: Timestamp,
    /// `pg_current_wal_insert_lsn()` asked after the acknowledgement: the commit record ends at or before it.
    /// Absent when the server died between the two.
    pub inserted_to: Option<Lsn>,
}

impl Acknowledged {
    /// One that its client was told of just now, by whoever stands before the server: the commit's time in microseconds since 1970.
    pub fn now(id: i64, committed_at: Option<i64>, inserted_to: Option<&str>) -> Self {
        let inserted_to = inserted_to.and_then(|lsn| lsn.parse().ok());
        Self { id, committed_at: committed_at.map(Timestamp::from_unix_micros), seen_at: SystemClock.now(), inserted_to }
    }
}

/// Transactions in the background, each inserting one row into `ledger(id, stamp, payload)`.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    ledger: Mutex<Vec<Acknowledged>>,
    endings: Mutex<Vec<String>>,
}

/// How much a workload writes.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Connections that commit at the same time.
    pub clients: usize,
    /// Bytes of incompressible text in each row.
    pub payload_bytes: usize,
    /// Rest of each client between two transactions.
    pub rest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { clients: 1, payload_bytes: 100, rest: Duration::from_millis(1) }
    }
}

impl Workload {
    /// Makes the table if it is missing and starts one client.
    pub fn start(conninfo: &str) -> Self {
        Self::start_at(conninfo, Pace::default())
    }

    /// Makes the table if it is missing and starts clients at this pace. Returns once each has committed its first row; panics
    /// when one cannot.
    pub fn start_at(conninfo: &str, pace: Pace) -> Self {
        let shared = Arc::new(Shared::default());
        let (ready, first) = mpsc::channel();
        let mut workload = Self { shared: shared.clone(), clients: Vec::new() };
        for _ in 0..pace.clients.max(1) {
            let (conninfo, pace, shared, ready) = (conninfo.to_owned(), pace.clone(), shared.clone(), ready.clone());
            let client = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                if let Err(error) = runtime.block_on(commit_on(&conninfo, &pace, &shared, &ready)) {
                    lock(&shared.endings).push(error.as_db_error().map_or_else(|| format!("{error:?}"), ToString::to_string));
                    let _ = ready.send(false);
                }
            });
            workload.clients.push(client);
        }
        drop(ready);
        for _ in 0..workload.clients.len() {
            if first.recv_timeout(Duration::from_secs(60)) != Ok(true) {
                panic!("the workload did not commit its first rows: {:?}", workload.endings());
            }
        }
        workload
    }

    /// What was acknowledged so far, in the order in which the acknowledgements arrived.
    pub fn so_far(&self) -> Vec<Acknowledged> {
        lock(&self.shared.ledger).clone()
    }

    /// Why clients ended by themselves, as after the server's death; empty while all of them work.
    pub fn endings(&self) -> Vec<String> {
        lock(&self.shared.endings).clone()
    }

    /// Waits until at least `more` further rows are acknowledged; panics after a minute without them.
    pub fn wait_for(&self, more: usize) {
        let wanted = lock(&self.shared.ledger).len() + more;
        for _ in 0..12_000 {
            if lock(&self.shared.ledger).len() >= wanted {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the workload got no further: {:?}", self.endings());
    }

    /// Ends the clients, each after the transaction it is in, and returns every acknowledged commit. Works the same when the
    /// server has died meanwhile.
    pub fn stop(mut self) -> Vec<Acknowledged> {
        self.end();
        self.so_far()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.end();
    }
}

/// The acknowledged commits whose rows the server at hand does not have, oldest first: what was lost.
pub fn lost(acknowledged: &[Acknowledged], cluster: &crate::Cluster) -> Vec<Acknowledged> {
    missing(acknowledged, &cluster.psql("SELECT id FROM ledger"))
}

/// The acknowledged commits whose ids are not among `rows`, one a line.
pub fn missing(acknowledged: &[Acknowledged], rows: &str) -> Vec<Acknowledged> {
    let there: std::collections::HashSet<i64> = rows.lines().map(|id| id.parse().expect("an id")).collect();
    acknowledged.iter().filter(|commit| !there.contains(&commit.id)).copied().collect()
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS ledger (id bigserial PRIMARY KEY, stamp timestamptz DEFAULT clock_timestamp(), payload text)";

async fn commit_on(conninfo: &str, pace: &Pace, shared: &Shared, ready: &mpsc::Sender<bool>) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(conninfo, NoTls).await?;
    let driver = tokio::spawn(connection);
    // Several clients may come at once, and IF NOT EXISTS does not keep two of them from colliding in the catalogue.
    for statement in ["SELECT pg_advisory_lock(20261122)", TABLE, "SELECT pg_advisory_unlock(20261122)"] {
        client.batch_execute(statement).await?;
    }
    let done = commit_until_stopped(&client, pace, shared, ready).await;
    drop(client);
    let _ = driver.await;
    done
}

async fn commit_until_stopped(client: &Client, pace: &Pace, shared: &Shared, ready: &mpsc::Sender<bool>) -> Result<(), tokio_postgres::Error> {
    // Asked once: a prepared statement keeps each transaction one round trip.
    let insert = client
        .prepare(
            "INSERT INTO ledger (payload) SELECT left(string_agg(md5(random()::text), ''), $1) \
             FROM generate_series(1, $1 / 32 + 1) RETURNING id, xmin::text",
        )
        .await?;
    let ask = client
        .prepare(
            "SELECT pg_current_wal_insert_lsn(), CASE WHEN current_setting('track_commit_timestamp')::bool \
             THEN (extract(epoch FROM pg_xact_commit_timestamp($1::text::xid)) * 1000000)::bigint END",
        )
        .await?;
    let mut is_first = true;
    while !shared.stop.load(Ordering::Relaxed) {
        let row = client.query_one(&insert, &[&(pace.payload_bytes as i32)]).await?;
        // From here on the commit is acknowledged, whatever becomes of the server.
        let seen_at = SystemClock.now();
        let (id, transaction): (i64, String) = (row.get(0), row.get(1));
        let asked = client.query_one(&ask, &[&transaction]).await;
        let (inserted_to, committed_at) = match &asked {
            Ok(row) => (Some(Lsn::from_bytes(row.get::<_, PgLsn>(0).into())), row.get::<_, Option<i64>>(1).map(Timestamp::from_unix_micros)),
            Err(_) => (None, None),
        };
        lock(&shared.ledger).push(Acknowledged { id, committed_at, seen_at, inserted_to });
        if is_first {
            is_first = false;
            let _ = ready.send(true);
        }
        asked?;
        tokio::time::sleep(pace.rest).await;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
