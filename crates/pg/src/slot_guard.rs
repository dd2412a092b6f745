//! Everything about a replication slot that decides whether the WAL it holds stays: asked here, judged in [`SlotGuard::judge`].

use crate::{PgError, SlotFacts, Sql};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use terms::{Lsn, Timestamp};

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that its owner may still write.
    pub free: u64,
    /// Bytes that it has in all, what only root may write included.
    pub total: u64,
}

/// How much WAL the server has written, and over which time (pg_stat_wal).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WalWritten {
    /// `wal_bytes`, since the statistics were reset.
    pub bytes: u64,
    /// Since the statistics were reset, by the server's clock.
    pub over: Duration,
}

impl WalWritten {
    /// The average in bytes a second; `None` when the time is too short to say anything.
    pub fn bytes_per_second(&self) -> Option<f64> {
        let seconds = self.over.as_secs_f64();
        (seconds >= 60.0 && self.bytes > 0).then(|| self.bytes as f64 / seconds)
    }
}

/// One look at a slot and at what threatens it. What the role may not see is `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotGuard {
    /// As it was asked for, whether there is such a slot or not.
    pub name: String,
    /// The server's major version.
    pub major: u32,
    /// `None` when there is no slot of this name.
    pub slot: Option<SlotFacts>,
    /// The server's clock.
    pub now: Timestamp,
    /// How far WAL is durable.
    pub end: Lsn,
    /// Bytes from the oldest WAL that the slot holds to `end`; `None` when it holds none.
    pub held_bytes: Option<u64>,
    /// `max_slot_wal_keep_size`; `None`: -1, no limit.
    pub slot_limit_bytes: Option<u64>,
    /// `wal_keep_size`.
    pub wal_keep_bytes: u64,
    /// `max_wal_size`.
    pub max_wal_bytes: u64,
    /// `idle_replication_slot_timeout`, from PostgreSQL 18 on; `None`: off.
    pub idle_timeout: Option<Duration>,
    /// `wal_sender_timeout`; `None`: off.
    pub wal_sender_timeout: Option<Duration>,
    /// `minimal`, `replica` or `logical`.
    pub wal_level: String,
    /// `None` when the statistics do not say since when they count.
    pub wal_written: Option<WalWritten>,
    /// Bytes of all files in pg_wal (needs pg_monitor).
    pub wal_dir_bytes: Option<u64>,
    /// Of pg_wal's file system; `None` when the data directory is not on this host.
    pub disk: Option<DiskSpace>,
}

const DOING: &str = "look at the replication slot and what threatens it";

impl Sql {
    /// Looks at the slot of this name. `data_dir` is the server's data directory when it is on this host.
    pub async fn slot_guard(&self, name: &str, data_dir: Option<&Path>) -> Result<SlotGuard, PgError> {
        let settings = self.with_units().await?;
        let needed = |name: &str| settings.get(name).ok_or_else(|| self.protocol(format!("The server has no setting {name}")));
        let bytes = |name: &str| needed(name).map(|(value, unit)| in_base(*value, unit));
        let time = |name: &str| settings.get(name).and_then(|(value, unit)| in_base(*value, unit)).filter(|ms| *ms > 0).map(Duration::from_millis);
        let slot = self.slot(name).await?;
        let end = self.flush_lsn().await?;
        let text = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, current_setting('wal_level'), \
            has_function_privilege('pg_ls_waldir()', 'EXECUTE'), wal_bytes::bigint, extract(epoch FROM clock_timestamp() - stats_reset)::float8 FROM pg_stat_wal";
        let row = self.row(DOING, text, &[]).await?;
        let wal_dir_bytes = match self.get(&row, 2, DOING)? {
            true => {
                let row = self.row(DOING, "SELECT coalesce(sum(size), 0)::bigint FROM pg_ls_waldir()", &[]).await?;
                Some(self.get::<i64>(&row, 0, DOING)? as u64)
            }
            false => None,
        };
        let over = self.get::<Option<f64>>(&row, 4, DOING)?.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let written = self.get::<Option<i64>>(&row, 3, DOING)?;
        Ok(SlotGuard {
            name: name.to_owned(),
            major: self.major(),
            held_bytes: slot.as_ref().and_then(|slot| slot.restart_lsn).map(|restart| end.bytes_since(restart)),
            slot,
            now: Timestamp::from_unix_micros(self.get(&row, 0, DOING)?),
            end,
            slot_limit_bytes: bytes("max_slot_wal_keep_size")?,
            wal_keep_bytes: bytes("wal_keep_size")?.unwrap_or(0),
            max_wal_bytes: bytes("max_wal_size")?.unwrap_or(0),
            idle_timeout: time("idle_replication_slot_timeout"),
            wal_sender_timeout: time("wal_sender_timeout"),
            wal_level: self.get(&row, 1, DOING)?,
            wal_written: written.zip(over).map(|(bytes, over)| WalWritten { bytes: bytes as u64, over }),
            wal_dir_bytes,
            disk: data_dir.and_then(|dir| disk_space(&dir.join("pg_wal"))),
        })
    }

    /// Name to number and unit.
    async fn with_units(&self) -> Result<BTreeMap<String, (i64, String)>, PgError> {
        let names = ["max_slot_wal_keep_size", "wal_keep_size", "max_wal_size", "idle_replication_slot_timeout", "wal_sender_timeout"];
        let text = "SELECT name, setting::bigint, coalesce(unit, '') FROM pg_settings WHERE name = ANY ($1)";
        let rows = self.rows(DOING, text, &[&&names[..]]).await?;
        rows.iter().map(|row| Ok((self.get(row, 0, DOING)?, (self.get(row, 1, DOING)?, self.get(row, 2, DOING)?)))).collect()
    }
}

/// In bytes or milliseconds; `None` for a negative number, which means that there is none. The units are those of
/// `src/backend/utils/misc/guc.c` (memory_unit_conversion_table, time_unit_conversion_table); the one of the idle timeout changed before 18 came out.
fn in_base(value: i64, unit: &str) -> Option<u64> {
    let factor = match unit {
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 1,
    };
    u64::try_from(value).ok().map(|value| value.saturating_mul(factor))
}

/// `None` when it cannot be looked at: the folder is another host's, or this user may not.
fn disk_space(dir: &Path) -> Option<DiskSpace> {
    let found = rustix::fs::statvfs(dir).ok()?;
    Some(DiskSpace { free: found.f_bavail.saturating_mul(found.f_frsize), total: found.f_blocks.saturating_mul(found.f_frsize) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_applied_and_minus_one_is_none() {
        assert_eq!((in_base(64, "MB"), in_base(-1, "MB"), in_base(0, "s")), (Some(64 << 20), None, Some(0)));
        assert_eq!((in_base(60_000, "ms"), in_base(2, "d")), (Some(60_000), Some(172_800_000)));
    }
}
