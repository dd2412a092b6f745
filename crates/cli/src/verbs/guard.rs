//! What `check` finds about the slot that holds WAL and about commits that wait for the repository.

use crate::fault::Fault;
use crate::wiring::Wiring;
use capture::RECEIVER;
use pg::{Finding, ServerFacts, SlotExpectation, Sql};
use repo::Reader;
use std::time::Duration;

/// How often the receiver reports unless told.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// Asks the server, and judges what it says of the slot and of synchronous commit.
pub async fn look(wiring: &Wiring, sql: &Sql, server: &ServerFacts, reader: Option<&Reader>) -> Result<Vec<Finding>, Fault> {
    let wal = &wiring.config.wal;
    let slot = sql.slot_guard(&wal.slot, wiring.config.postgres.data_dir.as_deref()).await?;
    let was_used = match reader {
        Some(reader) => reader.lease(repo::RECEIVER_LEASE).await?.is_some(),
        None => false,
    };
    let archived_otherwise = match reader {
        Some(reader) => {
            let receives = wiring.config.daemon.receives();
            // What it archives nobody can tell before the next file: a slot is not missed until then.
            watch::is_archived_here(&sql.archiver().await?, server.archives, reader, server.system_id, receives).await?.unwrap_or(true)
        }
        None => false,
    };
    let expected = SlotExpectation { was_used, archived_otherwise, status_interval: wal.status_interval.unwrap_or(STATUS_INTERVAL) };
    let mut findings = slot.judge(&expected);
    findings.extend(sql.sync_facts().await?.judge(RECEIVER, wal.synchronous));
    Ok(findings)
}
