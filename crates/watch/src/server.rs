//! What the server says: where it is, how much of its WAL waits, and how its slot stands.

use crate::Trouble;
use crate::facts::{FindingFacts, RepositoryFacts, ServerFacts, SlotFacts};
use crate::settings::{Doors, Settings};
use pg::{Severity, SlotExpectation, SlotGuard, Sql};
use terms::{SystemId, Timestamp};

pub(crate) async fn look(
    doors: &dyn Doors,
    settings: &Settings,
    was_used: bool,
    repository: Option<&RepositoryFacts>,
    known: Option<SystemId>,
    now: Timestamp,
) -> Result<ServerFacts, Trouble> {
    let trouble = |e: pg::PgError| Trouble::of(&e);
    let sql = Sql::connect(&doors.server()?).await.map_err(trouble)?;
    let facts = sql.server_facts().await.map_err(trouble)?;
    let guard = sql.slot_guard(&settings.slot, settings.data_dir.as_deref()).await.map_err(trouble)?;
    let archived_otherwise = sql.archiver().await.map_err(trouble)?.archived_count > 0;
    let mut findings = guard.judge(&SlotExpectation { was_used, archived_otherwise, status_interval: settings.status_interval });
    findings.extend(sql.sync_facts().await.map_err(trouble)?.judge(settings.receiver, settings.is_synchronous));
    let lsn = sql.current_lsn().await.map_err(trouble)?;
    let is_ours = known.map(|known| known == facts.system_id);
    let stored = repository.and_then(|repository| repository.stored.as_ref()).filter(|_| is_ours == Some(true));
    let wal_lag_bytes = stored.map(|stored| lsn.bytes_since(stored.lsn));
    // By the later of the newest stored transaction and the coverage mark: before either nobody was promised anything that is not stored.
    let covered = repository.and_then(|repository| repository.window.as_ref()).and_then(|window| window.until);
    let safe_until = stored.and_then(|stored| stored.last_transaction).max(covered);
    let wal_lag_seconds = match (wal_lag_bytes, safe_until) {
        // Without WAL that waits nothing is exposed, however long ago the last commit was.
        (Some(0), _) => Some(0.0),
        (Some(_), Some(until)) => Some(now.seconds_since(until).max(0.0)),
        _ => None,
    };
    Ok(ServerFacts {
        version: facts.version.clone(),
        system_id: facts.system_id,
        is_ours,
        in_recovery: facts.in_recovery,
        lsn,
        wal_lag_bytes,
        wal_lag_seconds,
        is_synchronous: settings.is_synchronous,
        slot: slot(&guard),
        findings: findings.into_iter().filter(|finding| finding.severity != Severity::Ok).map(finding).collect(),
    })
}

fn slot(guard: &SlotGuard) -> SlotFacts {
    let slot = guard.slot.as_ref();
    SlotFacts {
        name: guard.name.clone(),
        exists: slot.is_some(),
        active: slot.is_some_and(|slot| slot.active),
        wal_status: slot.and_then(|slot| slot.wal_status.clone()),
        held_bytes: guard.held_bytes,
        safe_wal_bytes: slot.and_then(|slot| slot.safe_wal_bytes).and_then(|bytes| u64::try_from(bytes).ok()),
        wal_dir_bytes: guard.wal_dir_bytes,
        wal_bytes_per_second: guard.wal_written.as_ref().and_then(pg::WalWritten::bytes_per_second),
    }
}

fn finding(finding: pg::Finding) -> FindingFacts {
    FindingFacts {
        slug: finding.slug.to_owned(),
        severity: finding.severity.name().to_owned(),
        what: finding.what,
        cause: finding.cause,
        remedy: finding.remedy,
    }
}
