//! Judges a slot: whether the WAL that it holds is safe, for how long, and what would change that.

use crate::finding::{quoted_text, size, span};
use crate::{Finding, Severity, SlotFacts, SlotGuard, WalWritten};
use std::time::Duration;

/// What is to be expected of the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotExpectation {
    /// A receiver has stored WAL through this slot before, so that a missing one means a hole, not a beginning.
    pub was_used: bool,
    /// The server's archive_command brings WAL, so that no slot is needed.
    pub archived_otherwise: bool,
    /// How often the receiver reports to the server.
    pub status_interval: Duration,
}

/// A slot that may hold back less WAL than this is no help against an outage of an hour.
const LIMIT_MIN: u64 = 1 << 30;
const OUTAGE_SECONDS: f64 = 3600.0;

impl SlotGuard {
    /// All findings, the slot's own first. The server's rules are in `src/backend/replication/slot.c`
    /// (`InvalidatePossiblyObsoleteSlot`) and `GetWALAvailability` of `src/backend/access/transam/xlog.c`.
    pub fn judge(&self, expected: &SlotExpectation) -> Vec<Finding> {
        let mut found = Vec::new();
        match &self.slot {
            None => {
                found.push(self.missing(expected));
                if expected.archived_otherwise {
                    return found;
                }
            }
            Some(slot) => self.of_slot(slot, &mut found),
        }
        found.extend(self.of_limit());
        found.extend(self.of_timeouts(expected));
        found
    }

    fn missing(&self, expected: &SlotExpectation) -> Finding {
        let name = &self.name;
        if expected.archived_otherwise {
            return Finding::ok("slot-not-needed", "archived by the server's archive_command; no receiver has made a slot");
        }
        if !expected.was_used {
            return Finding::new(
                "slot-missing",
                Severity::Warn,
                format!("slot {name} does not exist yet and no receiver runs: between backups nothing is protected"),
                "bowline wal receive makes it, holding WAL from that moment on, when it first connects",
                "Start bowline wal receive (as a service) before the first backup, or set archive_command = 'bowline wal push %p'.",
            );
        }
        Finding::new(
            "slot-gone",
            Severity::Critical,
            format!("slot {name} is gone although it was used: the server may have removed WAL that is not stored"),
            "it was dropped, or the server is one to which slots did not follow: a promoted standby, or a restored copy",
            "Start bowline wal receive, which makes it anew, and make a full backup now: instants after the last stored WAL may be out of reach until then.",
        )
    }

    fn of_slot(&self, slot: &SlotFacts, found: &mut Vec<Finding>) {
        let name = &self.name;
        if slot.slot_type != "physical" {
            let drop = format!("Drop it if nobody needs it: SELECT pg_drop_replication_slot({}); or set another [wal] slot.", quoted_text(name));
            found.push(Finding::new(
                "slot-logical",
                Severity::Critical,
                format!("slot {name} is {}", slot.slot_type),
                "WAL can only be received over a physical slot",
                drop,
            ));
            return;
        }
        let reason = slot.invalidation_reason.as_deref();
        if slot.wal_status.as_deref() == Some("lost") || reason.is_some() {
            found.push(self.lost(reason.unwrap_or("wal_removed")));
            return;
        }
        if slot.temporary {
            let drop = "Stop whoever made it; bowline wal receive then makes a lasting one.";
            found.push(Finding::new(
                "slot-temporary",
                Severity::Critical,
                format!("slot {name} is temporary"),
                "it vanishes with the connection that made it",
                drop,
            ));
        }
        if slot.wal_status.as_deref() == Some("unreserved") {
            found.push(Finding::new(
                "slot-unreserved",
                Severity::Critical,
                format!("slot {name} is beyond its limit: the next checkpoint removes WAL that is not stored"),
                format!("it holds {} and max_slot_wal_keep_size is {}", size(self.held_bytes.unwrap_or(0)), self.limit_text()),
                "ALTER SYSTEM SET max_slot_wal_keep_size = -1; SELECT pg_reload_conf(); at once, then find out why the receiver is behind.",
            ));
        } else if let Some(finding) = self.behind(slot) {
            found.push(finding);
        }
        match (slot.active, slot.restart_lsn) {
            (true, _) => found
                .push(Finding::ok("slot-active", format!("a receiver streams on slot {name}, which holds {}", size(self.held_bytes.unwrap_or(0))))),
            (false, None) => found.push(Finding::new(
                "slot-holds-nothing",
                Severity::Warn,
                format!("slot {name} holds no WAL: no receiver has used it yet"),
                "it was made without reserving WAL",
                "Start bowline wal receive (as a service).",
            )),
            (false, Some(_)) => found.push(self.inactive(slot)),
        }
    }

    fn inactive(&self, slot: &SlotFacts) -> Finding {
        let since = slot.inactive_since.map_or_else(String::new, |since| format!(" since {since}"));
        let end = match (self.idle_timeout, slot.inactive_since) {
            (Some(limit), Some(since)) => {
                let left = limit.as_secs_f64() - self.now.seconds_since(since);
                format!("; idle_replication_slot_timeout invalidates it in {}", span(left.max(0.0)))
            }
            _ => String::new(),
        };
        Finding::new(
            "slot-inactive",
            // What it holds is still there; how near the end is, is judged apart, but for the clock of the idle timeout.
            if end.is_empty() { Severity::Warn } else { Severity::Critical },
            format!(
                "slot {} is not in use{since}: it holds {} of WAL on the server, and nothing stores it",
                self.name,
                size(self.held_bytes.unwrap_or(0))
            ),
            format!("no receiver is connected{end}"),
            "Start bowline wal receive (as a service), or look why it does not reach the server.",
        )
    }

    fn lost(&self, reason: &str) -> Finding {
        let (name, limit) = (&self.name, self.limit_text());
        let (cause, first) = match reason {
            "wal_removed" => (
                format!("it held more than max_slot_wal_keep_size ({limit}) allows, and the server removed WAL that was not stored"),
                "Raise max_slot_wal_keep_size. ",
            ),
            "idle_timeout" => (
                "no receiver was connected for idle_replication_slot_timeout, and the server gave up the WAL it held".to_owned(),
                "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf(); ",
            ),
            other => (format!("the server invalidated it: {other}"), ""),
        };
        Finding::new(
            if reason == "wal_removed" { "slot-lost" } else { "slot-invalidated" },
            Severity::Critical,
            format!("slot {name} is lost ({reason})"),
            cause,
            format!(
                "{first}SELECT pg_drop_replication_slot({}); start bowline wal receive, and make a full backup now: instants between the last stored WAL and that backup cannot be reached.",
                quoted_text(name)
            ),
        )
    }

    /// How near the end of the room is, from one half on.
    fn behind(&self, slot: &SlotFacts) -> Option<Finding> {
        let held = self.held_bytes?;
        let by_limit = slot.safe_wal_bytes.map(|left| (left.max(0) as u64, "max_slot_wal_keep_size"));
        let by_disk = self.disk.filter(|_| held > self.max_wal_bytes).map(|disk| (disk.free, "free space of pg_wal"));
        let (left, of) = by_limit.into_iter().chain(by_disk).min()?;
        let used = held as f64 / (held as f64 + left as f64).max(1.0);
        let severity = match used {
            0.8.. => Severity::Critical,
            0.5.. => Severity::Warn,
            _ => return None,
        };
        let lasts = self.lasts(left).map_or_else(String::new, |time| format!(", which last {time} at the average rate"));
        let after = match of {
            "max_slot_wal_keep_size" => "then the server removes WAL that is not stored",
            _ => "then the server stops",
        };
        Some(Finding::new(
            "slot-behind",
            severity,
            format!("slot {} holds {} of WAL: {:.0} % of what {of} allows", self.name, size(held), used * 100.0),
            format!("the receiver is behind or away; {} are left{lasts}, {after}", size(left)),
            "Find out why WAL is not stored (bowline status, the receiver's log); meanwhile give room: raise max_slot_wal_keep_size or enlarge pg_wal's file system.",
        ))
    }

    fn of_limit(&self) -> Option<Finding> {
        let room = self.disk.map(|disk| disk.free + self.held_bytes.unwrap_or(0));
        let set = |bytes: u64| format!("ALTER SYSTEM SET max_slot_wal_keep_size = '{}MB'; SELECT pg_reload_conf();", bytes >> 20);
        let Some(limit) = self.slot_limit_bytes else {
            let lasts = room.and_then(|room| self.lasts(room)).map_or_else(String::new, |time| format!(", which last {time} at the average rate"));
            let cause = match self.disk {
                Some(disk) => format!("{} are free in pg_wal's file system{lasts}; when it is full the server stops", size(disk.free)),
                None => "how much is free there cannot be seen from this host".to_owned(),
            };
            // Four fifths of what there is leave room for WAL that no slot holds.
            let remedy = match room.map(|room| room / 5 * 4).filter(|bytes| *bytes >= 1 << 20) {
                Some(bytes) => set(bytes),
                None => "Set max_slot_wal_keep_size below the room that pg_wal has.".to_owned(),
            };
            let what = "max_slot_wal_keep_size = -1: while the store is away, WAL may fill the disk";
            return Some(Finding::new("slot-unlimited", Severity::Warn, what, cause, remedy));
        };
        // The server keeps the larger of both (KeepLogSeg, GetWALAvailability).
        let kept = limit.max(self.wal_keep_bytes);
        let lasts = self.rate().map(|rate| kept as f64 / rate);
        let too_short = lasts.map_or(kept < LIMIT_MIN, |seconds| seconds < OUTAGE_SECONDS);
        let shown = lasts.map_or_else(String::new, |seconds| format!(", which lasts {} at the average rate", span(seconds)));
        match room {
            Some(room) if kept > room => Some(Finding::new(
                "slot-limit-beyond-disk",
                Severity::Warn,
                format!("max_slot_wal_keep_size = {}, more than pg_wal's file system has room for ({})", size(limit), size(room)),
                "the disk is full, and the server stops, before the limit helps",
                set(room / 5 * 4),
            )),
            _ if too_short => Some(Finding::new(
                "slot-limit-short",
                Severity::Warn,
                format!("max_slot_wal_keep_size = {}{shown}", size(limit)),
                "a longer outage of the receiver or the store loses the slot, and with it every instant until the next full backup",
                match room.map(|room| room / 5 * 4).filter(|bytes| *bytes > kept && *bytes >= 1 << 20) {
                    Some(bytes) => set(bytes),
                    None => "Raise it, below the room that pg_wal has.".to_owned(),
                },
            )),
            _ => Some(Finding::ok("slot-limit", format!("max_slot_wal_keep_size = {}{shown}", size(limit)))),
        }
    }

    fn of_timeouts(&self, expected: &SlotExpectation) -> Vec<Finding> {
        let mut found = Vec::new();
        if let Some(limit) = self.idle_timeout {
            found.push(Finding::new(
                "slot-idle-timeout",
                Severity::Warn,
                format!("idle_replication_slot_timeout = {} s", limit.as_secs()),
                format!("a receiver that is down for {} loses its slot at the next checkpoint", span(limit.as_secs_f64())),
                "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();",
            ));
        }
        let reload = "ALTER SYSTEM SET wal_sender_timeout = '60s'; SELECT pg_reload_conf();";
        match self.wal_sender_timeout {
            None => found.push(Finding::new(
                "wal-sender-timeout",
                Severity::Warn,
                "wal_sender_timeout = 0",
                "the server never notices a receiver whose host is gone: the slot stays in use, and a new receiver is refused",
                reload,
            )),
            Some(limit) if limit < expected.status_interval * 3 => found.push(Finding::new(
                "wal-sender-timeout",
                Severity::Warn,
                format!(
                    "wal_sender_timeout = {} ms, less than three status intervals of {} ms",
                    limit.as_millis(),
                    expected.status_interval.as_millis()
                ),
                "the server ends the connection when one report is late",
                format!("{reload} Or lower [wal] status_interval."),
            )),
            Some(_) => {}
        }
        found
    }

    fn limit_text(&self) -> String {
        self.slot_limit_bytes.map_or_else(|| "-1".to_owned(), size)
    }
    fn rate(&self) -> Option<f64> {
        self.wal_written.as_ref().and_then(WalWritten::bytes_per_second)
    }
    fn lasts(&self, bytes: u64) -> Option<String> {
        self.rate().map(|rate| span(bytes as f64 / rate))
    }
}

#[cfg(test)]
#[path = "slot_verdict_tests.rs"]
mod tests;
