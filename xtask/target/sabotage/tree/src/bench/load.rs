//! A server that pgbench writes to, and pgbench itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::measure::{self, Script};
use super::server::{self, Server};
use super::{Outcome, Place, data};

/// Makes the tables of pgbench at this scale, or finds those that were kept, and starts a server on them. Nothing is archived;
/// what an earlier run may have left behind (slots, settings) is gone.
pub fn server(place: &Place, scale: u32) -> Outcome<Server> {
    let (dir, bin_dir) = (place.dir(), place.bin_dir()?);
    data::open_to_postgres(&dir)?;
    let home = dir.join(format!("load-{}-scale-{scale}", data::major_of(&bin_dir)?));
    let (pgdata, made, log) = (home.join("pgdata"), home.join("made"), dir.join("log/load"));
    data::open_to_postgres(&home)?;
    if !made.exists() {
        eprintln!("making the tables of pgbench at scale {scale} …");
        server::init(&bin_dir, &pgdata, &log)?;
        let fast = ["fsync=off", "full_page_writes=off", "archive_mode=off", "synchronous_commit=off"];
        let loading = Server::start(&bin_dir, &pgdata, &dir.join("sock"), &fast, &log)?;
        let pgbench = bin_dir.join("pgbench");
        let text = format!("'{}' -i -q -s {scale} -h '{}' -U postgres postgres", pgbench.display(), loading.socket_dir.display());
        measure::run(&Script::new(text), &log)?;
        loading.stop()?;
        measure::sync_all();
        fs::write(&made, "")?;
    }
    // A setting that waits for a receiver that is not there would stop everything; ALTER SYSTEM itself waits for nobody.
    let _ = fs::remove_file(pgdata.join("postgresql.auto.conf"));
    let server = Server::start(&bin_dir, &pgdata, &dir.join("sock"), &["archive_mode=off"], &log)?;
    server.sql("postgres", "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")?;
    Ok(server)
}

/// One run of pgbench.
pub struct Load {
    pub clients: u32,
    pub seconds: u32,
    /// A script of its own instead of the built-in one.
    pub script: Option<PathBuf>,
}

impl Load {
    /// Runs to its end; transactions a second, the time it takes to connect left out.
    pub fn run(&self, bin_dir: &Path, server: &Server, log: &Path) -> Outcome<f64> {
        let mut command = measure::as_postgres(bin_dir.join("pgbench"), log)?;
        command.arg("-h").arg(&server.socket_dir).args(["-U", "postgres"]);
        let threads = self.clients.min(2);
        command.args([format!("-c{}", self.clients), format!("-j{threads}"), format!("-T{}", self.seconds)]);
        if let Some(script) = &self.script {
            command.arg("-n").arg("-f").arg(script);
        }
        let output = command.arg("postgres").stdout(Stdio::piped()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        match tps(&text) {
            Some(tps) if output.status.success() => Ok(tps),
            _ => Err(format!("pgbench: {}; see {}", output.status, log.display()).into()),
        }
    }
}

/// Of `tps = 1234.5 (without initial connection time)`.
fn tps(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_throughput_is_read_from_what_pgbench_prints() {
        let printed = "number of failed transactions: 0 (0.000%)\nlatency average = 4.1 ms\ntps = 1946.25 (without initial connection time)\n";
        assert_eq!(tps(printed), Some(1946.25));
        assert_eq!(tps("pgbench (15.14)\n"), None);
    }
}
