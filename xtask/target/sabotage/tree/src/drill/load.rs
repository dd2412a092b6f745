//! Clients that write: a ledger of what was acknowledged to them, and pgbench's updates beside it.

use super::Outcome;
use super::scene::{Running, Scene};
use std::process::Stdio;
use std::time::Duration;
use testkit::workload::Pace;
use testkit::{Acknowledged, Workload};

/// Clients of the ledger. They rest a little, so that a machine of two cores has something left for the backup.
const CLIENTS: usize = 4;
/// Large enough to fill a segment within seconds.
const PAYLOAD_BYTES: usize = 6000;
const REST: Duration = Duration::from_millis(5);
/// pgbench's transactions a second.
const PGBENCH_RATE: &str = "50";

/// Writers at work.
pub struct Load {
    workload: Workload,
    pgbench: Running,
}

impl Load {
    /// Returns once every client of the ledger has committed.
    pub fn start(scene: &Scene) -> Outcome<Self> {
        let mut pgbench = scene.cluster.bin("pgbench");
        pgbench.args(["-n", "-c", "2", "-T", "3600", "--rate", PGBENCH_RATE]).stdout(Stdio::null()).stderr(Stdio::null());
        let pgbench = Running::spawn(&mut pgbench)?;
        let pace = Pace { clients: CLIENTS, payload_bytes: PAYLOAD_BYTES, rest: REST };
        Ok(Self { workload: Workload::start_at(&scene.cluster.conninfo(), pace), pgbench })
    }

    /// Ends the clients; every commit that was acknowledged to those of the ledger.
    pub fn stop(mut self) -> Vec<Acknowledged> {
        self.pgbench.kill();
        self.workload.stop()
    }
}
