//! An SQL session: PostgreSQL's answers as typed calls, for a role that is no superuser.

use crate::base_backup::check_label;
use crate::conninfo::{Address, ConnInfo};
use crate::dial::{Encryption, Tries, dial, within_limit};
use crate::frames::lost;
use crate::session::{admit, major_of};
use crate::tls::client_config;
use crate::{Peer, PgError, ServerError};
use std::error::Error as _;
use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use terms::{Lsn, Timestamp};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_postgres::tls::{MakeTlsConnect, TlsStream};
use tokio_postgres::types::{FromSqlOwned, PgLsn, ToSql};
use tokio_postgres::{Client, Connection, NoTls, Row, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

/// The session. A task of its own drives the connection; it ends when this is dropped.
/// pg_backup_start and pg_backup_stop must come from one session, so this value is what a backup holds on to.
#[derive(Debug)]
pub struct Sql {
    client: Client,
    peer: Arc<Peer>,
    version: String,
    /// Why the connection ended, once it has.
    ended: watch::Receiver<Option<String>>,
}

/// How many sessions of this process have not ended.
static OPEN: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(0));

/// One of them.
struct Open;

impl Open {
    fn new() -> Self {
        OPEN.send_modify(|open| *open += 1);
        Self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        OPEN.send_modify(|open| *open -= 1);
    }
}

/// Returns when every session that was dropped has taken leave of its server, at the latest after `limit`. A process that ends before is
/// told of in the server's log as `FATAL: connection to client lost`, as if something had gone wrong.
pub async fn all_closed(limit: Duration) {
    let mut open = OPEN.subscribe();
    let none = tokio::time::timeout(limit, open.wait_for(|open| *open == 0));
    // One that does not end in time is the server's affair.
    drop(none.await);
}

/// What pg_backup_stop gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStopped {
    /// WAL up to here makes the backup consistent.
    pub lsn: Lsn,
    /// The content of `backup_label`.
    pub label: String,
    /// The content of `tablespace_map`; empty when there is nothing to write.
    pub tablespace_map: String,
    /// The server's clock after the stop.
    pub now: Timestamp,
}

impl Sql {
    /// Connects to the first host that will do, and sees to it that no timeout of the server's ends the session.
    pub async fn connect(info: &ConnInfo) -> Result<Self, PgError> {
        let mut tries = Tries::new(info);
        while let Some((address, encryption)) = tries.next() {
            match within_limit(info, address, open(info, address, encryption)).await {
                Ok(session) => return Ok(session),
                Err(error) => tries.failed(address, error)?,
            }
        }
        Err(tries.into_error())
    }

    /// The server's version in full, e.g. `15.19 (Debian 15.19-1)`.
    pub fn version(&self) -> &str {
        &self.version
    }
    /// The server's major version.
    pub fn major(&self) -> u32 {
        major_of(&self.version)
    }
    /// With whom we speak.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
    /// Whether the connection has ended.
    pub fn has_ended(&self) -> bool {
        self.client.is_closed()
    }
    /// Waits until the connection ends, by whichever side, and says why.
    pub async fn ended(&self) -> PgError {
        let mut ended = self.ended.clone();
        let why = ended.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        self.lost("keep the session", why)
    }

    /// Begins a base backup (pg_backup_start); WAL from the position on belongs to it. A spread checkpoint takes minutes.
    pub async fn backup_start(&self, label: &str, fast: bool) -> Result<Lsn, PgError> {
        check_label(label)?;
        let row = self.row("begin the backup", "SELECT pg_backup_start($1, $2)", &[&label, &fast]).await?;
        self.lsn(&row, 0, "begin the backup")
    }

    /// Ends the base backup that this session began (pg_backup_stop). Without `wait_for_archive` it returns at once.
    pub async fn backup_stop(&self, wait_for_archive: bool) -> Result<BackupStopped, PgError> {
        let doing = "end the backup";
        let text = "SELECT lsn, labelfile, spcmapfile, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FROM pg_backup_stop($1)";
        let row = self.row(doing, text, &[&wait_for_archive]).await?;
        Ok(BackupStopped {
            lsn: self.lsn(&row, 0, doing)?,
            label: self.get(&row, 1, doing)?,
            tablespace_map: self.get::<Option<String>>(&row, 2, doing)?.unwrap_or_default(),
            now: Timestamp::from_unix_micros(self.get(&row, 3, doing)?),
        })
    }

    /// Whether the server is a standby or recovers otherwise.
    pub async fn in_recovery(&self) -> Result<bool, PgError> {
        let doing = "ask whether the server is in recovery";
        let row = self.row(doing, "SELECT pg_is_in_recovery()", &[]).await?;
        self.get(&row, 0, doing)
    }
    /// Makes a physical slot that holds WAL from now on; also on a standby.
    pub async fn create_physical_slot(&self, name: &str) -> Result<(), PgError> {
        let doing = format!("create replication slot {name:?}");
        self.row(&doing, "SELECT pg_create_physical_replication_slot($1, true)", &[&name]).await.map(drop)
    }
    /// Drops a slot that nobody uses.
    pub async fn drop_slot(&self, name: &str) -> Result<(), PgError> {
        self.rows(&format!("drop replication slot {name:?}"), "SELECT pg_drop_replication_slot($1)", &[&name]).await.map(drop)
    }
    /// Lets a physical slot that nobody uses go of WAL before this position, or before what is replayed if that is less (`pg_replication_slot_advance`,
    /// src/backend/replication/slotfuncs.c); never moves it back.
    pub async fn advance_slot(&self, name: &str, to: Lsn) -> Result<(), PgError> {
        let doing = format!("advance replication slot {name:?}");
        let text = "SELECT pg_replication_slot_advance(slot_name, $2) FROM pg_replication_slots WHERE slot_name = $1 AND slot_type = 'physical' AND NOT active AND restart_lsn < $2";
        self.rows(&doing, text, &[&name, &PgLsn::from(to.bytes())]).await.map(drop)
    }
    /// How far WAL is written; on a standby, how far it is replayed.
    pub async fn current_lsn(&self) -> Result<Lsn, PgError> {
        self.position("SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END").await
    }
    /// How far WAL is durable; on a standby, how far it is received or, without a receiver, replayed.
    pub async fn flush_lsn(&self) -> Result<Lsn, PgError> {
        self.position("SELECT CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) ELSE pg_current_wal_flush_lsn() END")
            .await
    }
    /// The server's clock, and a position beyond which it had promised nobody anything by then: what was committed, in
    /// whatever mode, was inserted before. Read after the clock. Only a primary can say.
    pub async fn promised(&self) -> Result<(Timestamp, Lsn), PgError> {
        let doing = "read how far the server is";
        let text = "SELECT (extract(epoch FROM now) * 1000000)::bigint, pg_current_wal_insert_lsn(), \
            (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size') FROM (SELECT clock_timestamp() AS now OFFSET 0) AS clock";
        let row = self.row(doing, text, &[]).await?;
        let segment: i64 = self.get(&row, 2, doing)?;
        Ok((Timestamp::from_unix_micros(self.get(&row, 0, doing)?), begun_page(self.lsn(&row, 1, doing)?, segment as u64)))
    }
    /// Ends the present WAL segment and gives the position after its last record; nothing happens when it is still empty.
    pub async fn switch_wal(&self) -> Result<Lsn, PgError> {
        let doing = "switch to a new WAL segment";
        let row = self.row(doing, "SELECT pg_switch_wal()", &[]).await?;
        self.lsn(&row, 0, doing)
    }
    /// Writes a restore point into WAL, a name to recover to; gives the position after it.
    pub async fn create_restore_point(&self, name: &str) -> Result<Lsn, PgError> {
        // MAXFNAMELEN - 1 (src/backend/access/transam/xlogfuncs.c).
        if name.is_empty() || name.len() > 63 {
            return Err(PgError::BadValue { what: "restore point", value: name.into(), rule: "1 to 63 bytes" });
        }
        let doing = "create a restore point";
        let row = self.row(doing, "SELECT pg_create_restore_point($1)", &[&name]).await?;
        self.lsn(&row, 0, doing)
    }
    /// The server's clock.
    pub async fn now(&self) -> Result<Timestamp, PgError> {
        let doing = "read the server's clock";
        let row = self.row(doing, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint", &[]).await?;
        Ok(Timestamp::from_unix_micros(self.get(&row, 0, doing)?))
    }
    /// Whether this session has the advisory lock of this number now. It ends with the session; taken twice it is held still.
    pub async fn try_lock(&self, number: i64) -> Result<bool, PgError> {
        let doing = "ask for an advisory lock";
        let row = self.row(doing, "SELECT pg_try_advisory_lock($1)", &[&number]).await?;
        self.get(&row, 0, doing)
    }
    /// Whether the role may call a function, e.g. `pg_backup_start(text, boolean)`.
    pub async fn has_privilege(&self, signature: &str) -> Result<bool, PgError> {
        let doing = format!("ask for the privilege to call {signature}");
        let row = self.row(&doing, "SELECT has_function_privilege($1, 'EXECUTE')", &[&signature]).await?;
        self.get(&row, 0, &doing)
    }
    /// The value of a setting as SHOW prints it; `None` when there is none of this name or the role may not see it.
    pub async fn setting(&self, name: &str) -> Result<Option<String>, PgError> {
        let doing = format!("read the setting {name}");
        // pg_settings leaves out what the role may not see, where current_setting() would fail.
        let text = "SELECT current_setting(name) FROM pg_settings WHERE name = lower($1)";
        let rows = self.rows(&doing, text, &[&name]).await?;
        rows.first().map(|row| self.get(row, 0, &doing)).transpose()
    }

    async fn position(&self, text: &str) -> Result<Lsn, PgError> {
        let doing = "read the WAL position";
        let row = self.row(doing, text, &[]).await?;
        self.lsn(&row, 0, doing)
    }

    pub(crate) async fn rows(&self, doing: &str, text: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, PgError> {
        match self.client.query(text, values).await {
            Ok(rows) => Ok(rows),
            Err(error) => Err(self.failed(doing, error).await),
        }
    }

    /// How many rows a command touched.
    pub(crate) async fn execute(&self, doing: &str, text: &str) -> Result<u64, PgError> {
        match self.client.execute(text, &[]).await {
            Ok(rows) => Ok(rows),
            Err(error) => Err(self.failed(doing, error).await),
        }
    }

    /// The first column of the first row of whatever was asked, as text; `None` when there is no row or it is null.
    pub(crate) async fn first_value(&self, doing: &str, text: &str) -> Result<Option<String>, PgError> {
        let answers = match self.client.simple_query(text).await {
            Ok(answers) => answers,
            Err(error) => return Err(self.failed(doing, error).await),
        };
        let first = answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(first.and_then(|row| row.try_get(0).ok().flatten()).map(str::to_owned))
    }

    async fn failed(&self, doing: &str, error: tokio_postgres::Error) -> PgError {
        if !error.is_closed() {
            return explained(&self.peer, doing, error);
        }
        let mut ended = self.ended.clone();
        let why = ended.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        self.lost(doing, why)
    }

    pub(crate) async fn row(&self, doing: &str, text: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Row, PgError> {
        let rows = self.rows(doing, text, values).await?;
        rows.into_iter().next().ok_or_else(|| self.protocol(format!("There was no row to {doing}")))
    }

    pub(crate) fn get<T: FromSqlOwned>(&self, row: &Row, at: usize, doing: &str) -> Result<T, PgError> {
        row.try_get(at).map_err(|error| self.protocol(format!("Column {} does not parse while trying to {doing}: {error}", at + 1)))
    }

    pub(crate) fn lsn(&self, row: &Row, at: usize, doing: &str) -> Result<Lsn, PgError> {
        self.get::<PgLsn>(row, at, doing).map(|lsn| Lsn::from_bytes(lsn.into()))
    }

    pub(crate) fn optional_lsn(&self, row: &Row, at: usize, doing: &str) -> Result<Option<Lsn>, PgError> {
        Ok(self.get::<Option<PgLsn>>(row, at, doing)?.map(|lsn| Lsn::from_bytes(lsn.into())))
    }

    pub(crate) fn protocol(&self, what: impl Into<String>) -> PgError {
        PgError::Protocol { address: self.peer.address.clone(), what: what.into() }
    }

    fn lost(&self, doing: &str, why: Option<String>) -> PgError {
        let why = why.unwrap_or_else(|| "the connection was closed".into());
        PgError::ConnectionLost { address: self.peer.address.clone(), doing: doing.into(), why }
    }
}

/// The position where the next record would be inserted lies behind the header of a page of which nothing is written yet
/// (`XLogBytePosToRecPtr`, src/backend/access/transam/xlog.c): what was written ends where that page begins.
fn begun_page(lsn: Lsn, segment_bytes: u64) -> Lsn {
    use crate::wal::{LONG_HEADER, SHORT_HEADER, WAL_PAGE_SIZE};
    let in_page = (lsn.bytes() % WAL_PAGE_SIZE as u64) as usize;
    let header = if lsn.bytes() % segment_bytes.max(1) < WAL_PAGE_SIZE as u64 { LONG_HEADER } else { SHORT_HEADER };
    if in_page == header { Lsn::from_bytes(lsn.bytes() - in_page as u64) } else { lsn }
}

/// One try at one host.
async fn open(info: &ConnInfo, address: &Address, encryption: Encryption) -> Result<Sql, PgError> {
    use tokio_postgres::config::SslMode;
    let peer = Arc::new(Peer { address: address.describe(), user: info.user.clone(), database: info.dbname.clone() });
    let mut config = info.config(address);
    let socket = dial(info, address).await?;
    // tokio-postgres has no kinds to ask for: these three are known by their words.
    let failed = |error: tokio_postgres::Error| match said(&error) {
        text if text.contains("password missing") => {
            let note = info.password_for(address, &info.dbname).1;
            PgError::PasswordNeeded { address: peer.address.clone(), user: info.user.clone(), note }
        }
        text if text.contains("does not support TLS") => PgError::TlsNotOffered { address: peer.address.clone() },
        text if text.contains("unsupported authentication") => {
            PgError::AuthUnsupported { address: peer.address.clone(), method: "another way to log in".into() }
        }
        _ => explained(&peer, "connect to the database", error),
    };
    if encryption == Encryption::Never {
        config.ssl_mode(SslMode::Disable);
        let (client, connection) = config.connect_raw(socket, NoTls).await.map_err(failed)?;
        return begin(info, address, &peer, client, connection).await;
    }
    config.ssl_mode(if encryption == Encryption::Always { SslMode::Require } else { SslMode::Prefer });
    let mut tls = MakeRustlsConnect::new(client_config(&info.tls)?);
    let name = match address {
        Address::Tcp { name, .. } => name.as_str(),
        Address::Unix { .. } => "localhost",
    };
    let connector = MakeTlsConnect::<crate::dial::Socket>::make_tls_connect(&mut tls, name)
        .map_err(|error| PgError::Tls { address: address.describe(), why: error.to_string() })?;
    let (client, connection) = config.connect_raw(socket, connector).await.map_err(failed)?;
    begin(info, address, &peer, client, connection).await
}

/// Admits the server, lets a task drive the connection and turns off what could end the session behind our back.
async fn begin<S, T>(info: &ConnInfo, address: &Address, peer: &Arc<Peer>, client: Client, connection: Connection<S, T>) -> Result<Sql, PgError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: TlsStream + Unpin + Send + 'static,
{
    let version = admit(info, address, |name| connection.parameter(name))?;
    let (tell, ended) = watch::channel(None);
    let open = Open::new();
    tokio::spawn(async move {
        let _open = open;
        let why = match connection.await {
            Ok(()) => "the session was closed".to_owned(),
            Err(error) => said(&error),
        };
        tell.send_replace(Some(why));
    });
    let session = Sql { client, peer: peer.clone(), version, ended };
    // What a role or a database has set must neither end a backup that copies for hours nor redirect a name: the path first, and by a command
    // that looks up no function along the old one.
    let text = "SET search_path = pg_catalog; SELECT count(set_config(name, '0', false)) FROM pg_settings WHERE name IN \
        ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout')";
    session.first_value("prepare the session", text).await?;
    Ok(session)
}

/// A tokio-postgres error in our words.
fn explained(peer: &Arc<Peer>, doing: &str, error: tokio_postgres::Error) -> PgError {
    if let Some(said) = error.as_db_error() {
        return PgError::Server(Box::new(ServerError {
            peer: peer.clone(),
            doing: doing.to_owned(),
            code: said.code().code().to_owned(),
            message: said.message().to_owned(),
            server_detail: said.detail().unwrap_or_default().to_owned(),
            server_hint: said.hint().unwrap_or_default().to_owned(),
        }));
    }
    let text = said(&error);
    match error.into_source().map(|source| source.downcast::<io::Error>()) {
        Some(Ok(cause)) => lost(peer, doing, *cause),
        _ => PgError::Protocol { address: peer.address.clone(), what: text },
    }
}

/// The error with its cause, which tokio-postgres leaves out of its own text.
fn said(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(said), _) => format!("{} (SQLSTATE {})", said.message(), said.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}
