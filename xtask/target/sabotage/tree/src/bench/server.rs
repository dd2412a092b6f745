//! The PostgreSQL server the bench backs up, and the short-lived ones that prove a restored directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Outcome;
use super::measure::{self, Script};

/// A running server; stopped (fast) when dropped.
pub struct Server {
    child: Child,
    bin_dir: PathBuf,
    pub data_dir: PathBuf,
    pub socket_dir: PathBuf,
    log: PathBuf,
}

/// Settings of every server of the bench: what PostgreSQL ships with, and what a backup tool needs.
const SETTINGS: &str = "
listen_addresses = ''
shared_buffers = 128MB
wal_level = replica
archive_mode = on
archive_command = '/bin/true'
max_wal_senders = 10
max_wal_size = 4GB
checkpoint_timeout = 1h
autovacuum = off
fsync = on
log_checkpoints = off
";

/// Makes an empty cluster with page checksums.
pub fn init(bin_dir: &Path, data_dir: &Path, log: &Path) -> Outcome<()> {
    measure::fresh_dir(data_dir)?;
    let initdb = bin_dir.join("initdb");
    let text = format!("'{}' -k -U postgres -A trust --no-sync -D '{}'", initdb.display(), data_dir.display());
    measure::run(&Script::new(text), log)?;
    let conf = data_dir.join("postgresql.conf");
    let mut text = fs::read_to_string(&conf)?;
    text.push_str(SETTINGS);
    fs::write(conf, text)?;
    Ok(())
}

impl Server {
    /// Starts a server on `data_dir` and waits until it takes connections.
    pub fn start(bin_dir: &Path, data_dir: &Path, socket_dir: &Path, more: &[&str], log: &Path) -> Outcome<Self> {
        measure::fresh_dir(socket_dir)?;
        let mut command = measure::as_postgres(bin_dir.join("postgres"), log)?;
        command.arg("-D").arg(data_dir).arg("-k").arg(socket_dir);
        for setting in more {
            command.arg("-c").arg(setting);
        }
        let child = command.spawn()?;
        let mut server =
            Self { child, bin_dir: bin_dir.to_owned(), data_dir: data_dir.to_owned(), socket_dir: socket_dir.to_owned(), log: log.to_owned() };
        let started = Instant::now();
        while server.sql("postgres", "SELECT 1").is_err() {
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("the server ended: {status}; see {}", log.display()).into());
            }
            if started.elapsed() > Duration::from_secs(300) {
                return Err(format!("the server does not answer; see {}", log.display()).into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs SQL through psql; rows come back one a line, columns separated by `|`.
    pub fn sql(&self, database: &str, text: &str) -> Outcome<String> {
        let mut command = measure::as_postgres(self.bin_dir.join("psql"), &self.log)?;
        command.args(["-XAtqv", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]).arg(&self.socket_dir);
        command.args(["-d", database, "-c", text]).stdout(std::process::Stdio::piped());
        let output = command.output()?;
        if !output.status.success() {
            return Err(format!("SQL failed: {text}; see {}", self.log.display()).into());
        }
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// Sets a parameter and waits until the archiver, too, must have seen it.
    pub fn set(&self, name: &str, value: &str) -> Outcome<()> {
        self.sql("postgres", &format!("ALTER SYSTEM SET {name} = '{}'", value.replace('\'', "''")))?;
        self.sql("postgres", "SELECT pg_reload_conf()")?;
        std::thread::sleep(Duration::from_millis(200));
        Ok(())
    }

    /// Returns when every finished segment has been taken by the archive command: PostgreSQL keeps a `.ready` file for
    /// each that has not.
    pub fn wait_archived(&self) -> Outcome<()> {
        let status_dir = self.data_dir.join("pg_wal/archive_status");
        let started = Instant::now();
        loop {
            let waiting = fs::read_dir(&status_dir)?.flatten().any(|entry| entry.path().extension().is_some_and(|ending| ending == "ready"));
            if !waiting {
                return Ok(());
            }
            if started.elapsed() > Duration::from_secs(120) {
                return Err(format!("WAL is not archived; see {}", self.log.display()).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Row counts of every ordinary table of every connectable database: `database.table=rows`, sorted.
    pub fn row_counts(&self) -> Outcome<Vec<String>> {
        let mut counts = Vec::new();
        let databases = self.sql("postgres", "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate")?;
        for database in databases.lines() {
            let tables = self.sql(
                database,
                "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
                 WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1 LIMIT 200",
            )?;
            for table in tables.lines() {
                counts.push(format!("{database}.{table}={}", self.sql(database, &format!("SELECT count(*) FROM {table}"))?));
            }
        }
        counts.sort();
        Ok(counts)
    }

    /// Stops the server in order; a shutdown checkpoint leaves nothing to recover.
    pub fn stop(mut self) -> Outcome<()> {
        self.end()
    }

    fn end(&mut self) -> Outcome<()> {
        if self.child.try_wait()?.is_none() {
            kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT)?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Proves a restored directory: it starts, leaves recovery, holds `expected` rows, and every page has its checksum.
pub fn prove(bin_dir: &Path, data_dir: &Path, socket_dir: &Path, expected: &[String], log: &Path) -> Outcome<()> {
    let quiet = ["archive_mode=off", "hot_standby=on", "recovery_target_action=promote"];
    let server = Server::start(bin_dir, data_dir, socket_dir, &quiet, log)?;
    let started = Instant::now();
    while server.sql("postgres", "SELECT pg_is_in_recovery()")? != "f" {
        if started.elapsed() > Duration::from_secs(120) {
            return Err("the restored server does not leave recovery".into());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let counts = server.row_counts()?;
    server.stop()?;
    if counts != expected {
        return Err(format!("the restored server has other rows: {counts:?}").into());
    }
    let text = format!("'{}' --check -D '{}'", bin_dir.join("pg_checksums").display(), data_dir.display());
    measure::run(&Script::new(text), log)
}
