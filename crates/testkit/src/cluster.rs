//! A real PostgreSQL cluster of one's own: made, started, broken and removed by a test.

use crate::launch::{self, Postmaster, Watchdog};
use crate::place::{append_settings, free_port, new_home, placement, write_private};
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// The superuser's name and its password over TCP; the Unix socket asks for none.
pub const SUPERUSER: &str = "postgres";
/// See [`SUPERUSER`].
pub const PASSWORD: &str = "bowline-tests";

const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How a cluster is to be; [`Builder::start`] makes it.
#[derive(Debug, Clone)]
pub struct Builder {
    major: u32,
    checksums: bool,
    wal_segment_mib: u32,
    settings: Vec<(String, String)>,
    tablespaces: Vec<String>,
    tcp: bool,
    tls: Option<(String, String)>,
    environment: Vec<(String, String)>,
}

impl Builder {
    /// Page checksums, on unless said otherwise.
    pub fn checksums(mut self, on: bool) -> Self {
        self.checksums = on;
        self
    }
    /// The size of a WAL segment in MiB: a power of two from 1 to 1024 (default 16).
    pub fn wal_segment_mib(mut self, mib: u32) -> Self {
        self.wal_segment_mib = mib;
        self
    }
    /// A line of postgresql.conf; the last one given for a name counts. `fsync` is off for speed unless set here.
    pub fn setting(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }
    /// A tablespace of this name, in a directory of its own outside the data directory.
    pub fn tablespace(mut self, name: &str) -> Self {
        self.tablespaces.push(name.to_owned());
        self
    }
    /// Environment variables of the server, as those of a [`crate::MovedClock`].
    pub fn environment(mut self, variables: Vec<(String, String)>) -> Self {
        self.environment = variables;
        self
    }
    /// Listens on a free port of 127.0.0.1 too, where SCRAM passwords are asked for.
    pub fn tcp(mut self, on: bool) -> Self {
        self.tcp = on;
        self
    }
    /// Speaks TLS over TCP with this certificate and key (PEM texts). Implies [`Builder::tcp`].
    pub fn tls(mut self, certificate: &str, key: &str) -> Self {
        self.tls = Some((certificate.to_owned(), key.to_owned()));
        self.tcp(true)
    }

    /// Makes the cluster and starts it. Panics with the server's own words when it does not start.
    pub fn start(self) -> Cluster {
        launch::bin_dir(self.major);
        let home = new_home();
        let data = home.join("data");
        let port = if self.tcp { free_port() } else { 5432 };
        // First of all, so that whatever fails from here on leaves nothing behind.
        let mut cluster = Cluster::assemble(self.major, home.clone(), data.clone(), port, self.tcp, Vec::new());
        cluster.environment = self.environment;
        let password = home.join("password");
        fs::write(&password, PASSWORD).expect("write the password file");
        let mut initdb = launch::program(self.major, "initdb", &home);
        initdb.arg("-D").arg(&data).args(["-N", "-U", SUPERUSER, "-E", "UTF8", "--auth-local=trust", "--auth-host=scram-sha-256"]);
        initdb.arg("--pwfile").arg(&password).arg(format!("--wal-segsize={}", self.wal_segment_mib));
        match (self.checksums, self.major) {
            (true, _) => drop(initdb.arg("--data-checksums")),
            (false, 18..) => drop(initdb.arg("--no-data-checksums")),
            (false, _) => {}
        }
        launch::run(initdb).unwrap_or_else(|e| panic!("{e}"));

        // Written into postgresql.conf, as an administrator would: whoever starts a copy of this cluster elsewhere meets the
        // same clash of sockets and ports as in production and must handle it.
        let mut settings = placement(&home, port, self.tcp);
        for (name, value) in [
            ("fsync", "off"),
            ("shared_buffers", "64MB"),
            ("max_connections", "50"),
            ("log_line_prefix", "%m [%p] %q%a "),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
        ] {
            settings.push((name.to_owned(), value.to_owned()));
        }
        if let Some((certificate, key)) = &self.tls {
            settings.push(("ssl".to_owned(), "on".to_owned()));
            write_private(&data.join("server.crt"), certificate);
            write_private(&data.join("server.key"), key);
        }
        settings.extend(self.settings);
        append_settings(&data, &settings);

        cluster.start_server();
        for name in &self.tablespaces {
            let dir = cluster.tablespace_dir(name);
            launch::make_dir(&dir, 0o700);
            cluster.psql(&format!("CREATE TABLESPACE {name} LOCATION '{}'", dir.display()));
        }
        cluster
    }
}

/// A running PostgreSQL cluster. Dropping it stops the server at once and removes everything it made.
#[derive(Debug)]
pub struct Cluster {
    major: u32,
    /// Short, because a socket's path may hold 107 bytes; 0711 and owned by the server's user.
    home: PathBuf,
    data: PathBuf,
    port: u16,
    tcp: bool,
    /// Given to each start of the server on its command line.
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    postmaster: Mutex<Option<Postmaster>>,
    /// Last, so that it is dropped after the server is gone.
    _watchdog: Watchdog,
}

impl Cluster {
    /// A cluster of this major with checksums, reached over a Unix socket.
    pub fn start(major: u32) -> Self {
        Self::builder(major).start()
    }

    /// A cluster with wishes.
    pub fn builder(major: u32) -> Builder {
        Builder {
            major,
            checksums: true,
            wal_segment_mib: 16,
            settings: Vec::new(),
            tablespaces: Vec::new(),
            tcp: false,
            tls: None,
            environment: Vec::new(),
        }
    }

    /// Starts a server on a data directory that somebody else made (a restore, say), on a private socket, whatever its own
    /// settings say of sockets and ports. The directory must belong to the servers' user and stays when the cluster is dropped.
    pub fn try_open(major: u32, data: &Path) -> Result<Self, String> {
        let data = data.canonicalize().map_err(|e| format!("no data directory {}: {e}", data.display()))?;
        let home = new_home();
        let arguments = placement(&home, 5432, false).into_iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]);
        let arguments = arguments.collect();
        let cluster = Self::assemble(major, home, data, 5432, false, arguments);
        cluster.try_start_server()?;
        Ok(cluster)
    }

    /// Like [`Cluster::try_open`], but panics with the server's own words when it does not start.
    pub fn open(major: u32, data: &Path) -> Self {
        Self::try_open(major, data).unwrap_or_else(|e| panic!("{e}"))
    }

    fn assemble(major: u32, home: PathBuf, data: PathBuf, port: u16, tcp: bool, arguments: Vec<String>) -> Self {
        let watchdog = Watchdog::start(&data, &home);
        Self { major, home, data, port, tcp, arguments, environment: Vec::new(), postmaster: Mutex::new(None), _watchdog: watchdog }
    }

    fn running(&self) -> MutexGuard<'_, Option<Postmaster>> {
        self.postmaster.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The server's major version.
    pub fn major(&self) -> u32 {
        self.major
    }
    /// The data directory (PGDATA).
    pub fn data_dir(&self) -> &Path {
        &self.data
    }
    /// A directory of this cluster's own, removed with it, in which the server's user may write: for restores and such.
    pub fn home(&self) -> &Path {
        &self.home
    }
    /// Where the tablespace of this name has its files.
    pub fn tablespace_dir(&self, name: &str) -> PathBuf {
        self.home.join(format!("space-{name}"))
    }
    /// Creates a tablespace of this name there, in a server that runs already.
    pub fn create_tablespace(&self, name: &str) -> PathBuf {
        let place = self.tablespace_dir(name);
        self.psql(&format!("\\! mkdir {}", place.display()));
        self.psql(&format!("CREATE TABLESPACE {name} LOCATION '{}'", place.display()));
        place
    }
    /// The directory of the Unix socket.
    pub fn socket_dir(&self) -> PathBuf {
        self.home.join("s")
    }
    /// The port: of the socket's name always, of 127.0.0.1 when [`Builder::tcp`] was asked for.
    pub fn port(&self) -> u16 {
        self.port
    }
    /// Where the programs of this major are.
    pub fn bin_dir(&self) -> PathBuf {
        launch::bin_dir(self.major)
    }
    /// Where the programs of an earlier minor release of this major are (`scripts/prepare older MAJOR`).
    pub fn older_bin_dir(&self) -> PathBuf {
        launch::older_bin_dir(self.major)
    }
    /// The user and group that run the server, when it is not the test's own.
    pub fn user(&self) -> Option<(u32, u32)> {
        launch::server_user()
    }
    /// What the server has logged so far.
    pub fn log(&self) -> String {
        fs::read(self.log_file()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
    fn log_file(&self) -> PathBuf {
        self.home.join("log")
    }
    /// The postmaster's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running().as_ref().map(Postmaster::pid)
    }
    /// Whether the server is running.
    pub fn is_running(&self) -> bool {
        self.running().as_mut().is_some_and(Postmaster::is_running)
    }

    /// Connects as superuser over the Unix socket.
    pub fn conninfo(&self) -> String {
        format!("host={} port={} user={SUPERUSER} dbname=postgres", self.socket_dir().display(), self.port)
    }

    /// Connects as this role: over 127.0.0.1, where the password counts, when [`Builder::tcp`] was asked for; else over the socket.
    pub fn conninfo_as(&self, role: &str, password: &str) -> String {
        let socket = self.socket_dir();
        let host = if self.tcp { "127.0.0.1" } else { socket.to_str().expect("a plain path") };
        format!("host={host} port={} user={role} password={password} dbname=postgres", self.port)
    }

    /// A program of this major, as the server's user, whose environment leads it to this server as superuser.
    pub fn bin(&self, name: &str) -> Command {
        self.led_here(launch::program(self.major, name, &self.home))
    }

    /// The same of the earlier minor release.
    pub fn older_bin(&self, name: &str) -> Command {
        self.led_here(launch::program_in(self.older_bin_dir(), name, &self.home))
    }

    fn led_here(&self, mut command: Command) -> Command {
        command.env("PGHOST", self.socket_dir()).env("PGPORT", self.port.to_string());
        command.env("PGUSER", SUPERUSER).env("PGDATABASE", "postgres").env("PGDATA", &self.data);
        command
    }

    /// Runs SQL (psql's backslash commands too), statement by statement, and returns what it prints: rows as lines, columns
    /// separated by `|`. Panics with the server's own words when a statement fails.
    pub fn psql(&self, sql: &str) -> String {
        self.try_psql(sql).unwrap_or_else(|e| panic!("{sql}\n{e}"))
    }

    /// Like [`Cluster::psql`], but returns the failure.
    pub fn try_psql(&self, sql: &str) -> Result<String, String> {
        self.try_psql_in("postgres", sql)
    }

    /// Like [`Cluster::try_psql`], in this database.
    pub fn try_psql_in(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut command = self.bin("psql");
        command.env("PGDATABASE", database);
        launch::ask(command, sql)
    }

    fn try_start_server(&self) -> Result<(), String> {
        let mut running = self.running();
        assert!(running.is_none(), "the server is running already");
        *running = Some(Postmaster::start(self.major, &self.data, &self.home, &self.log_file(), &self.arguments, &self.environment)?);
        Ok(())
    }

    /// Starts the server after a stop or a kill.
    pub fn start_server(&self) {
        self.try_start_server().unwrap_or_else(|e| panic!("{e}"));
    }

    /// Stops the server as `pg_ctl stop` does: `-m fast` (with a shutdown checkpoint), or `-m immediate`. Panics when it does not
    /// end within a minute, as when a WAL receiver confirms nothing: the server waits for it.
    pub fn pg_ctl_stop(&self, fast: bool) {
        let Some(postmaster) = self.running().take() else { return };
        // What pg_ctl sends for each mode (src/bin/pg_ctl/pg_ctl.c).
        let ended = postmaster.stop(if fast { Signal::SIGINT } else { Signal::SIGQUIT }, STOP_LIMIT);
        assert!(ended, "the server did not stop within {STOP_LIMIT:?} and was killed\n{}", launch::tail(&self.log_file()));
    }

    /// Stops a server that a restore started, which is no child of this process.
    pub fn stop_adopted(&self) {
        let output = self.bin("pg_ctl").args(["stop", "-w", "-m", "fast"]).output().expect("run pg_ctl");
        assert!(output.status.success(), "{output:?}");
    }

    /// Kills every process of the server at once; the data directory stays as they left it.
    pub fn kill9(&self) {
        if let Some(postmaster) = self.running().take() {
            postmaster.kill();
        }
    }

    /// Stops the server, if it is running, and starts it again.
    pub fn restart(&self) {
        self.pg_ctl_stop(true);
        self.start_server();
    }

    /// Appends lines to postgresql.conf; [`Cluster::restart`] or `SELECT pg_reload_conf()` makes them count.
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let owned: Vec<_> = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        append_settings(&self.data, &owned);
    }

    /// A streaming standby of this cluster, made by `pg_basebackup -R` and caught up as far as hot standby.
    pub fn standby(&self) -> Self {
        let home = new_home();
        let data = home.join("data");
        let port = if self.tcp { free_port() } else { 5432 };
        let standby = Self::assemble(self.major, home.clone(), data.clone(), port, self.tcp, Vec::new());
        let mut command = self.bin("pg_basebackup");
        command.arg("-D").arg(&data).args(["-R", "-X", "stream", "-c", "fast", "--no-sync"]);
        let spaces = self.psql("SELECT spcname, pg_tablespace_location(oid) FROM pg_tablespace WHERE pg_tablespace_location(oid) <> ''");
        for (name, location) in spaces.lines().filter_map(|line| line.split_once('|')) {
            let own = home.join(format!("space-{name}"));
            launch::make_dir(&own, 0o700);
            command.arg(format!("--tablespace-mapping={location}={}", own.display()));
        }
        launch::run(command).unwrap_or_else(|e| panic!("{e}"));
        append_settings(&data, &placement(&home, port, self.tcp));
        standby.start_server();
        standby
    }

    /// Promotes a standby and waits until it takes writes.
    pub fn promote(&self) {
        assert_eq!(self.psql("SELECT pg_promote(true, 60)"), "t", "the standby was not promoted\n{}", launch::tail(&self.log_file()));
    }

    /// Waits until this standby has replayed everything that `primary` has written so far.
    pub fn catch_up(&self, primary: &Cluster) {
        let end = primary.psql("SELECT pg_current_wal_flush_lsn()");
        for _ in 0..6000 {
            if self.psql(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")) == "t" {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the standby did not reach {end} within 60 s\n{}", launch::tail(&self.log_file()));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the end of the log of PostgreSQL {} in {}:\n{}", self.major, self.data.display(), launch::tail(&self.log_file()));
        }
        if let Some(postmaster) = self.running().take() {
            postmaster.stop(Signal::SIGQUIT, Duration::from_secs(5));
        }
        // One that a restore started is no child of this process.
        if self.data.join("postmaster.pid").exists() {
            drop(self.bin("pg_ctl").args(["stop", "-w", "-m", "immediate"]).output());
        }
        // The watchdog, dropped next, removes the directory.
    }
}
