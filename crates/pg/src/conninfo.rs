//! What libpq calls connection info: where the servers are, as whom to log in and how far to trust the network.

use crate::PgError;
use crate::conninfo_kinds::{Keepalive, RootCert, SslMode, TargetSession, TlsSettings};
use crate::conninfo_text::pairs;
use crate::passfile::{Lookup, look_up};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use terms::Secret;

/// A parsed connection string with its defaults filled in. Its `Debug` shows no password.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    pub(crate) addresses: Vec<Address>,
    pub(crate) user: String,
    pub(crate) dbname: String,
    pub(crate) password: Option<Secret>,
    pub(crate) passfile: Option<PathBuf>,
    pub(crate) application_name: String,
    pub(crate) options: Option<String>,
    /// For the whole way to a session, one host; zero is no limit.
    pub(crate) connect_timeout: Duration,
    pub(crate) target: TargetSession,
    pub(crate) tls: TlsSettings,
    /// `None`: the socket asks nothing of its peer when it is silent.
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) tcp_user_timeout: Duration,
}

/// Where one server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Over the network.
    Tcp {
        /// What the certificate is compared with: the host's name, or the address as text where only that is given.
        name: String,
        /// `hostaddr`, which saves the look-up; `None`: the name is looked up.
        ip: Option<IpAddr>,
        /// 1 to 65535; 5432 where none is given.
        port: u16,
    },
    /// The socket `.s.PGSQL.PORT` in this directory.
    Unix {
        /// A `host` that begins with a slash, or one of the places where servers usually listen.
        directory: PathBuf,
        /// The number at the end of the socket's name.
        port: u16,
    },
}

impl ConnInfo {
    /// Reads a connection string; what it leaves open comes from the PG* variables that `env` knows and from libpq's defaults.
    /// A key or value that is not understood is an error that names it.
    pub fn parse(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, PgError> {
        let mut given = BTreeMap::new();
        for (key, value) in pairs(text)? {
            if !KEYS.iter().any(|(known, _)| *known == key) && !IGNORED_KEYS.contains(&key.as_str()) {
                return Err(PgError::UnknownKey { key });
            }
            given.insert(key, value);
        }
        if env("PGSERVICE").is_some() {
            return Err(wrong("PGSERVICE is set, but Bowline reads no service files"));
        }
        for (key, variable) in KEYS {
            if let (false, Some(value)) = (given.contains_key(*key), env(variable)) {
                given.insert((*key).to_owned(), value);
            }
        }
        // An empty value is the same as none (fe-connect.c, `conninfo_add_defaults`).
        given.retain(|_, value| !value.is_empty());
        Self::assemble(&given, env("HOME").map(PathBuf::from))
    }

    /// [`ConnInfo::parse`] with this process's environment.
    pub fn from_environment(text: &str) -> Result<Self, PgError> {
        Self::parse(text, &|name| std::env::var(name).ok())
    }

    /// The same servers, another database.
    pub fn with_dbname(mut self, dbname: &str) -> Self {
        self.dbname = dbname.to_owned();
        self
    }
    /// The same with another `application_name`.
    pub fn with_application_name(mut self, name: &str) -> Self {
        self.application_name = name.to_owned();
        self
    }
    /// Only the one of these servers that this address describes ([`crate::Replication::describe`]); all of them when none does.
    pub fn only(mut self, described: &str) -> Self {
        if self.addresses.iter().any(|a| a.describe() == described) {
            self.addresses.retain(|a| a.describe() == described);
        }
        self
    }
    /// Only those of these servers that are tried after the one that this address describes; `None` when there are none.
    pub fn beyond(mut self, described: &str) -> Option<Self> {
        let at = self.addresses.iter().position(|a| a.describe() == described)?;
        self.addresses.drain(..=at);
        (!self.addresses.is_empty()).then_some(self)
    }
    /// Any server will do.
    pub fn anywhere(mut self) -> Self {
        self.target = TargetSession::Any;
        self
    }
    /// Only a primary will do, unless the connection string says what will.
    pub fn at_a_primary(mut self) -> Self {
        if self.target == TargetSession::Any {
            self.target = TargetSession::Primary;
        }
        self
    }
    /// The addresses in the order in which they are tried.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }
    /// The role.
    pub fn user(&self) -> &str {
        &self.user
    }
    /// The database.
    pub fn dbname(&self) -> &str {
        &self.dbname
    }
    /// What the server's `pg_stat_activity` shows.
    pub fn application_name(&self) -> &str {
        &self.application_name
    }
    /// How the connection is encrypted.
    pub fn tls(&self) -> &TlsSettings {
        &self.tls
    }
    /// Who is asked, without secrets: `bowline@db1:5432,db2:5432/postgres`.
    pub fn describe(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(Address::describe).collect();
        format!("{}@{}/{}", self.user, addresses.join(","), self.dbname)
    }

    /// Whether the string itself, or the environment it was read with, holds a password; a password file does not count.
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// The password for `database` at `address`, and why a password file was not used.
    /// A line for database `replication` is what pg_basebackup wants; one for the database itself will do as well.
    pub(crate) fn password_for(&self, address: &Address, database: &str) -> (Option<Secret>, Option<String>) {
        if let Some(password) = &self.password {
            return (Some(password.clone()), None);
        }
        let Some(file) = &self.passfile else { return (None, None) };
        for host in address.passfile_names() {
            for database in [database, &self.dbname] {
                match look_up(file, &host, address.port(), database, &self.user) {
                    Lookup::Found(password) => return (Some(password), None),
                    Lookup::Ignored(why) => return (None, Some(why)),
                    Lookup::None => {}
                }
            }
        }
        (None, None)
    }

    /// The settings for tokio-postgres; the socket and its encryption are ours ([`crate::Sql::connect`]).
    pub fn config(&self, address: &Address) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.user(&self.user).dbname(&self.dbname).application_name(&self.application_name);
        if let Some(options) = &self.options {
            config.options(options);
        }
        if let (Some(password), _) = self.password_for(address, &self.dbname) {
            config.password(password.reveal());
        }
        config
    }

    fn assemble(given: &BTreeMap<String, String>, home: Option<PathBuf>) -> Result<Self, PgError> {
        let get = |key: &str| given.get(key).map(String::as_str);
        let in_home = |name: &str| home.as_ref().map(|home| home.join(name));
        let user = match get("user") {
            Some(user) => user.to_owned(),
            None => os_user()?,
        };
        let root = match get("sslrootcert") {
            Some("system") => Some(RootCert::System),
            Some(path) => Some(RootCert::File(path.into())),
            None => in_home(".postgresql/root.crt").filter(|path| path.exists()).map(RootCert::File),
        };
        let mode = match get("sslmode") {
            Some(word) => SslMode::parse(word)?,
            None if root == Some(RootCert::System) => SslMode::VerifyFull,
            None => SslMode::Prefer,
        };
        if root == Some(RootCert::System) && mode != SslMode::VerifyFull {
            // Anyone can get a certificate from a public authority: the name must be compared.
            return Err(wrong("sslrootcert=system needs sslmode=verify-full"));
        }
        let certificate = get("sslcert").map(PathBuf::from).or_else(|| in_home(".postgresql/postgresql.crt").filter(|path| path.exists()));
        let key = get("sslkey").map(PathBuf::from).or_else(|| in_home(".postgresql/postgresql.key"));
        let seconds = |key: &str, default| number(given, key, default).map(Duration::from_secs);
        let keepalive = Keepalive {
            idle: seconds("keepalives_idle", 30)?,
            interval: seconds("keepalives_interval", 10)?,
            count: number(given, "keepalives_count", 3)?,
        };
        Ok(Self {
            addresses: addresses(get("host"), get("hostaddr"), get("port"))?,
            dbname: get("dbname").unwrap_or(&user).to_owned(),
            user,
            password: get("password").map(|text| Secret::new(text.to_owned())),
            passfile: get("passfile").map(PathBuf::from).or_else(|| in_home(".pgpass")),
            application_name: get("application_name").or(get("fallback_application_name")).unwrap_or("bowline").to_owned(),
            options: get("options").map(str::to_owned),
            // libpq waits for ever; an unattended backup must not.
            connect_timeout: seconds("connect_timeout", 30)?,
            target: TargetSession::parse(get("target_session_attrs").unwrap_or("any"))?,
            tls: TlsSettings { mode, root, identity: certificate.zip(key) },
            keepalive: (number(given, "keepalives", 1u8)? != 0).then_some(keepalive),
            tcp_user_timeout: Duration::from_millis(number(given, "tcp_user_timeout", 60_000)?),
        })
    }
}

impl Address {
    /// `db1:5432` or the socket's path.
    pub fn describe(&self) -> String {
        match self {
            Self::Tcp { name, port, .. } if name.contains(':') => format!("[{name}]:{port}"),
            Self::Tcp { name, port, .. } => format!("{name}:{port}"),
            Self::Unix { .. } => self.socket().display().to_string(),
        }
    }
    /// As PostgreSQL's own programs take it: `-h db1 -p 5432`.
    pub fn libpq_words(&self) -> String {
        let host = match self {
            Self::Tcp { name, .. } => name.clone(),
            Self::Unix { directory, .. } => directory.display().to_string(),
        };
        format!("-h {host} -p {}", self.port())
    }
    /// The port, which is part of a socket's name too.
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp { port, .. } | Self::Unix { port, .. } => *port,
        }
    }
    /// The socket's path (src/include/libpq/pqcomm.h, `UNIXSOCK_PATH`); empty for TCP.
    pub(crate) fn socket(&self) -> PathBuf {
        match self {
            Self::Tcp { .. } => PathBuf::new(),
            Self::Unix { directory, port } => directory.join(format!(".s.PGSQL.{port}")),
        }
    }
    /// How a password file may name this host: a socket is `localhost` or its directory.
    fn passfile_names(&self) -> Vec<String> {
        match self {
            Self::Tcp { name, .. } => vec![name.clone()],
            Self::Unix { directory, .. } => vec![directory.display().to_string(), "localhost".to_owned()],
        }
    }
}

/// The keys and their variables (manual chapter 32.15).
const KEYS: &[(&str, &str)] = &[
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("application_name", "PGAPPNAME"),
    ("fallback_application_name", ""),
    ("options", "PGOPTIONS"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("keepalives", ""),
    ("keepalives_idle", ""),
    ("keepalives_interval", ""),
    ("keepalives_count", ""),
    ("tcp_user_timeout", ""),
];

/// Keys of libpq that change nothing here: text is UTF-8, GSS encryption and TLS compression are not spoken, the name is always sent.
const IGNORED_KEYS: &[&str] = &["client_encoding", "gssencmode", "sslcompression", "sslsni"];

fn wrong(what: impl Into<String>) -> PgError {
    PgError::ConnInfo { what: what.into() }
}

fn number<N: std::str::FromStr>(given: &BTreeMap<String, String>, key: &str, default: N) -> Result<N, PgError> {
    match given.get(key) {
        None => Ok(default),
        Some(text) => text.trim().parse().map_err(|_| wrong(format!("{key} is {text:?}; it must be a number, zero or more"))),
    }
}

fn os_user() -> Result<String, PgError> {
    match nix::unistd::User::from_uid(nix::unistd::geteuid()) {
        Ok(Some(user)) => Ok(user.name),
        _ => Err(wrong("No user is given and this process's user has no name")),
    }
}

/// Pairs hosts, addresses and ports as libpq does: lists of equal length, or one port for all.
fn addresses(host: Option<&str>, hostaddr: Option<&str>, port: Option<&str>) -> Result<Vec<Address>, PgError> {
    let list = |text: Option<&str>| text.map(|t| t.split(',').map(|each| each.trim().to_owned()).collect::<Vec<_>>()).unwrap_or_default();
    let (hosts, ips, ports) = (list(host), list(hostaddr), list(port));
    let count = hosts.len().max(ips.len()).max(1);
    if (!hosts.is_empty() && hosts.len() != count) || (!ips.is_empty() && ips.len() != count) {
        return Err(wrong(format!("There are {} hosts and {} addresses (hostaddr)", hosts.len(), ips.len())));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(wrong(format!("There are {} ports for {count} hosts", ports.len())));
    }
    let nth = |list: &[String], n: usize| list.get(n).filter(|text| !text.is_empty()).cloned();
    (0..count)
        .map(|n| {
            let port = match nth(&ports, if ports.len() == 1 { 0 } else { n }) {
                None => 5432,
                Some(text) => text.parse().ok().filter(|port| *port > 0).ok_or_else(|| wrong(format!("port is {text:?}; it must be 1 to 65535")))?,
            };
            let ip = match nth(&ips, n) {
                None => None,
                Some(text) => Some(text.parse::<IpAddr>().map_err(|_| wrong(format!("hostaddr {text:?} is not an IP address")))?),
            };
            Ok(match (nth(&hosts, n), ip) {
                (Some(name), None) if name.starts_with('/') => Address::Unix { directory: name.into(), port },
                (Some(name), None) if name.starts_with('@') => return Err(wrong("Abstract sockets (host=@…) are not supported")),
                (Some(name), ip) => Address::Tcp { name, ip, port },
                (None, Some(ip)) => Address::Tcp { name: ip.to_string(), ip: Some(ip), port },
                (None, None) => default_socket(port),
            })
        })
        .collect()
}

/// Where a server listens unless told otherwise: Debian's place, or the one PostgreSQL is built with.
fn default_socket(port: u16) -> Address {
    let at = |directory: &str| Address::Unix { directory: Path::new(directory).to_owned(), port };
    let places = ["/run/postgresql", "/var/run/postgresql", "/tmp"];
    places.into_iter().map(at).find(|address| address.socket().exists()).unwrap_or_else(|| at(places[0]))
}

#[cfg(test)]
#[path = "conninfo_tests.rs"]
mod tests;
