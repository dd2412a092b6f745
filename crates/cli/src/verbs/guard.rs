//! What `check` and `status` find about the slot that holds WAL and about commits that wait for the repository.

use crate::fault::Fault;
use crate::wiring::Wiring;
use capture::RECEIVER;
use pg::{Finding, SlotExpectation, SlotGuard, Sql};
use repo::Reader;
use serde_json::{Value, json};
use std::time::Duration;

/// How often the receiver reports unless told.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// The slot as it is, and everything found about it and about synchronous commit.
pub struct Guarded {
    pub slot: SlotGuard,
    pub findings: Vec<Finding>,
}

/// Asks the server and judges what it says.
pub async fn look(wiring: &Wiring, sql: &Sql, reader: Option<&Reader>) -> Result<Guarded, Fault> {
    let wal = &wiring.config.wal;
    let slot = sql.slot_guard(&wal.slot, wiring.config.postgres.data_dir.as_deref()).await?;
    let was_used = match reader {
        Some(reader) => reader.lease(repo::RECEIVER_LEASE).await?.is_some(),
        None => false,
    };
    let expected = SlotExpectation {
        was_used,
        archived_otherwise: sql.archiver().await?.archived_count > 0,
        status_interval: wal.status_interval.unwrap_or(STATUS_INTERVAL),
    };
    let mut findings = slot.judge(&expected);
    findings.extend(sql.sync_facts().await?.judge(RECEIVER, wal.synchronous));
    Ok(Guarded { slot, findings })
}

/// Findings for `--json`.
pub fn findings(found: &[Finding]) -> Value {
    let one = |f: &Finding| json!({"slug": f.slug, "severity": f.severity.name(), "what": f.what, "cause": f.cause, "remedy": f.remedy});
    found.iter().map(one).collect()
}

/// The slot's facts for `--json`: bytes and seconds.
pub fn slot(guard: &SlotGuard) -> Value {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let slot = guard.slot.as_ref();
    json!({
        "name": guard.name,
        "exists": slot.is_some(),
        "active": slot.is_some_and(|s| s.active),
        "active_pid": slot.and_then(|s| s.active_pid),
        "wal_status": slot.and_then(|s| s.wal_status.as_deref()),
        "restart_lsn": slot.and_then(|s| s.restart_lsn),
        "safe_wal_bytes": slot.and_then(|s| s.safe_wal_bytes),
        "invalidation_reason": slot.and_then(|s| s.invalidation_reason.as_deref()),
        "inactive_since": slot.and_then(|s| s.inactive_since),
        "held_bytes": guard.held_bytes,
        "max_slot_wal_keep_bytes": guard.slot_limit_bytes,
        "wal_keep_bytes": guard.wal_keep_bytes,
        "idle_timeout_seconds": seconds(guard.idle_timeout),
        "wal_sender_timeout_seconds": seconds(guard.wal_sender_timeout),
        "wal_level": guard.wal_level,
        "wal_bytes_per_second": guard.wal_written.as_ref().and_then(pg::WalWritten::bytes_per_second),
        "wal_dir_bytes": guard.wal_dir_bytes,
        "wal_disk_free_bytes": guard.disk.map(|d| d.free),
        "wal_disk_total_bytes": guard.disk.map(|d| d.total),
    })
}
