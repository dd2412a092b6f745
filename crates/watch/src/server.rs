//! What the server says: where it is, how much of its WAL waits, and how its slot stands.

use crate::Trouble;
use crate::facts::{FindingFacts, RepositoryFacts, ServerFacts, SlotFacts, StoredFacts};
use crate::settings::{Doors, Settings};
use pg::{ArchiverFacts, ConnInfo, Replication, Severity, SlotExpectation, SlotGuard, Sql, TimelineHistory};
use repo::{RECEIVER_LEASE, Reader, RepoError};
use std::time::Duration;
use terms::{Clock, Lsn, SystemClock, SystemId, Timeline, Timestamp, WalName};
use tokio::time::sleep;

/// Each commit waits for a moment. One that still does after so long hangs.
const COMMIT_WAITS: Duration = Duration::from_secs(3);

pub(crate) async fn look(
    doors: &dyn Doors,
    settings: &Settings,
    was_used: bool,
    reader: Option<&Reader>,
    repository: Option<&RepositoryFacts>,
    asks_who_waits: bool,
) -> Result<ServerFacts, Trouble> {
    let trouble = |e: pg::PgError| Trouble::of(&e);
    let info = doors.server()?;
    let sql = Sql::connect(&info).await.map_err(trouble)?;
    let before = SystemClock.now();
    let facts = sql.server_facts().await.map_err(trouble)?;
    let clock_ahead_seconds = ahead(before, facts.now, SystemClock.now());
    let guard = sql.slot_guard(&settings.slot, settings.data_dir.as_deref()).await.map_err(trouble)?;
    let is_archived = match (&guard.slot, reader) {
        (None, Some(reader)) => {
            let archiver = sql.archiver().await.map_err(trouble)?;
            is_archived_here(&archiver, facts.archives, reader, facts.system_id, settings.receives).await.ok().flatten()
        }
        _ => None,
    };
    // Where nobody can tell, the rules say that.
    let archived_otherwise = is_archived.unwrap_or(true);
    let mut findings = guard.judge(&SlotExpectation { was_used, archived_otherwise, status_interval: settings.status_interval });
    findings.extend(sql.sync_facts().await.map_err(trouble)?.judge(settings.receiver, settings.is_synchronous));
    let commits_waiting = if asks_who_waits { commits_waiting(&sql).await.map_err(trouble)? } else { 0 };
    let lsn = sql.current_lsn().await.map_err(trouble)?;
    let is_ours = reader.and_then(Reader::epoch).map(|epoch| epoch.system_id == facts.system_id);
    let stored = repository.and_then(|repository| repository.stored.as_ref()).filter(|_| is_ours == Some(true));
    // Only where it is needed: it takes a connection more.
    let history = match stored {
        Some(stored) if stored.timeline < facts.timeline => history_of(facts.timeline, info.only(&sql.peer().address)).await,
        _ => None,
    };
    let covered = repository.and_then(|repository| repository.window.as_ref()).and_then(|window| window.until.zip(window.until_lsn));
    // Transactions and the mark have the server's time, so the lag is by its clock and not by this host's.
    let lagging = |stored| lag((facts.timeline, lsn), history.as_ref(), stored, covered, facts.now);
    let (wal_lag_bytes, wal_lag_seconds) = stored.map_or((None, None), lagging);
    Ok(ServerFacts {
        version: facts.version.clone(),
        system_id: facts.system_id,
        is_ours,
        in_recovery: facts.in_recovery,
        clock_ahead_seconds,
        lsn,
        wal_lag_bytes,
        wal_lag_seconds,
        is_synchronous: settings.is_synchronous,
        commits_waiting,
        is_archived,
        slot: slot(&guard),
        findings: findings.into_iter().filter(|finding| finding.severity != Severity::Ok).map(finding).collect(),
    })
}

/// How many commits wait all the while.
async fn commits_waiting(sql: &Sql) -> Result<u64, pg::PgError> {
    let before = sql.waiting_commits().await?;
    if before.is_empty() {
        return Ok(0);
    }
    sleep(COMMIT_WAITS).await;
    Ok(sql.waiting_commits().await?.intersection(&before).count() as u64)
}

/// How far the server's clock is ahead of this host's at least: it was read between these two times of ours. Negative: behind.
fn ahead(before: Timestamp, server: Timestamp, after: Timestamp) -> f64 {
    server.seconds_since(server.max(before).min(after))
}

/// Whether the server's `archive_command` brings its WAL here: what it handed over last is stored, and no receiver can have stored it. That it ever
/// archived anything says nothing: that may have been another tool's doing, and the server counts on. `archives`: a command or library is in use;
/// `receives`: by the configuration a receiver is wanted. `None` where nobody can tell: the server's statistics, which a crash, a promotion or a
/// reset begins anew, know of no file yet.
pub async fn is_archived_here(
    archiver: &ArchiverFacts,
    archives: bool,
    reader: &Reader,
    system_id: SystemId,
    receives: bool,
) -> Result<Option<bool>, RepoError> {
    // A receiver stores the same files: beside another tool's archive_command its own slot would not be missed.
    if receives && reader.lease(RECEIVER_LEASE).await?.is_some() {
        return Ok(Some(false));
    }
    match archiver.last_archived_wal.as_ref().and_then(|name| name.parse::<WalName>().ok()) {
        Some(name) => reader.has_wal(system_id, &name).await.map(Some),
        None if archives && archiver.failed_count == 0 => Ok(None),
        None => Ok(Some(false)),
    }
}

/// The server's way through history, by the server itself: while nothing of its timeline can be stored the repository does not know it.
/// `None` where it does not tell; nobody need be told of that here, the receiver asks the same.
async fn history_of(timeline: Timeline, info: ConnInfo) -> Option<TimelineHistory> {
    let mut connection = Replication::connect(&info).await.ok()?;
    connection.history(timeline).await.ok()?
}

/// How many bytes of its log this server has that are not stored, and for how many seconds commits are exposed; `None` when nobody can
/// tell. Of another timeline than the server's own, only what lies before the point where its history left that timeline is its log: what is
/// stored beyond was another server's. `history` is that of a server on a newer timeline than the stored one, where it is known; `covered` is
/// the coverage mark.
fn lag(
    (timeline, lsn): (Timeline, Lsn),
    history: Option<&TimelineHistory>,
    stored: &StoredFacts,
    covered: Option<(Timestamp, Lsn)>,
    now: Timestamp,
) -> (Option<u64>, Option<f64>) {
    let fork = match stored.timeline == timeline {
        true => None,
        false => match history.and_then(|history| history.end_of(stored.timeline)) {
            Some(fork) => Some(fork),
            // A server that was left behind, or one that never was on the stored timeline: what is stored says nothing of its log.
            None => return (None, None),
        },
    };
    let is_own = |at: Lsn| fork.is_none_or(|fork| at <= fork);
    let bytes = lsn.bytes_since(fork.map_or(stored.lsn, |fork| fork.min(stored.lsn)));
    // By the later of the newest stored transaction and the coverage mark: before either nobody was promised anything that is not stored.
    let last_transaction = stored.last_transaction.filter(|_| is_own(stored.lsn));
    let safe_until = last_transaction.max(covered.filter(|(_, at)| is_own(*at)).map(|(time, _)| time));
    let seconds = match bytes {
        // Without WAL that waits nothing is exposed, however long ago the last commit was.
        0 => Some(0.0),
        _ => safe_until.map(|until| now.seconds_since(until).max(0.0)),
    };
    (Some(bytes), seconds)
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

#[cfg(test)]
mod tests {
    use super::*;
    use repo::{Claim, Contender, Encryption, Writer};
    use std::sync::Arc;
    use store::{Created, Put};

    fn timeline(id: u32) -> Timeline {
        Timeline::new(id).unwrap()
    }
    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }
    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_micros(1_700_000_000_000_000 + seconds * 1_000_000)
    }
    /// Timeline 1 is stored up to here, its last transaction ended at 50.
    fn stored(until: &str) -> StoredFacts {
        StoredFacts { lsn: lsn(until), timeline: timeline(1), last_transaction: Some(at(50)), hole: None, segments: 9 }
    }
    /// Of a server that left timeline 1 at 0/5000000.
    fn history() -> TimelineHistory {
        TimelineHistory::parse(timeline(2), "1\t0/5000000\tno recovery target specified\n").unwrap()
    }

    #[tokio::test]
    async fn the_archiver_brings_wal_here_where_what_it_handed_over_is_stored_and_no_receiver_can_have_done_that() {
        let (bucket, system) = (Arc::new(store::Memory::new()), SystemId::new(7));
        let writer = Writer::create(bucket.clone(), Vec::new(), "acme", Encryption::Off, serde_json::json!({}), at(0)).await.unwrap();
        let [stored, elsewhere]: [WalName; 2] = ["000000010000000000000001", "000000010000000000000002"].map(|name| name.parse().unwrap());
        assert_eq!(bucket.put_new(&repo::wal_object(system, &stored), "a segment".into()).await.unwrap(), Created::New);
        let ask = async |last: Option<&WalName>, archives: bool, failed_count: i64, receives: bool| {
            let last_archived_wal = last.map(WalName::to_string);
            let archiver = ArchiverFacts {
                archived_count: 1,
                last_archived_wal,
                last_archived_at: None,
                failed_count,
                last_failed_wal: None,
                last_failed_at: None,
            };
            is_archived_here(&archiver, archives, writer.reader(), system, receives).await.unwrap()
        };
        assert_eq!(ask(Some(&stored), true, 0, true).await, Some(true));
        assert_eq!(ask(Some(&elsewhere), true, 0, true).await, Some(false), "another tool archives");
        assert_eq!(ask(None, true, 0, true).await, None, "the server's statistics were discarded, as by a crash");
        assert_eq!(ask(None, true, 3, true).await, Some(false), "it archives nothing");
        assert_eq!(ask(None, false, 0, true).await, Some(false), "nor does it try");
        let claimed = Contender::new(&writer, RECEIVER_LEASE, "a receiver", Duration::from_secs(30)).unwrap().attempt(at(0)).await.unwrap();
        assert!(matches!(claimed, Claim::Acquired(_)), "{claimed:?}");
        assert_eq!(ask(Some(&stored), true, 0, true).await, Some(false), "the receiver that was here may have stored it");
        assert_eq!(ask(None, true, 0, true).await, Some(false));
        assert_eq!(ask(Some(&stored), true, 0, false).await, Some(true), "none is wanted any more");
    }

    #[test]
    fn a_clock_is_off_by_what_the_way_of_the_answer_does_not_explain() {
        assert_eq!((ahead(at(0), at(3), at(5)), ahead(at(0), at(65), at(5)), ahead(at(0), at(-60), at(5))), (0.0, 60.0, -60.0));
        assert_eq!(ahead(at(5), at(3), at(0)), 3.0, "ours was set back meanwhile");
    }

    #[test]
    fn on_one_timeline_the_lag_is_what_lies_behind_what_is_stored() {
        let ask = |server: &str, covered| lag((timeline(1), lsn(server)), None, &stored("0/5000000"), covered, at(100));
        assert_eq!(ask("0/5000000", None), (Some(0), Some(0.0)));
        assert_eq!(ask("0/5000100", None), (Some(0x100), Some(50.0)));
        assert_eq!(ask("0/5000100", Some((at(90), lsn("0/5000000")))), (Some(0x100), Some(10.0)), "the mark is later");
    }

    #[test]
    fn what_an_old_primary_left_beyond_the_fork_is_no_part_of_what_a_new_one_has_stored() {
        let (history, tail) = (history(), stored("0/9000000"));
        let ask = |stored: &StoredFacts, covered| lag((timeline(2), lsn("0/5000300")), Some(&history), stored, covered, at(100));
        assert_eq!(ask(&tail, None), (Some(0x300), None), "the last stored transaction was another server's");
        assert_eq!(ask(&tail, Some((at(60), lsn("0/8000000")))), (Some(0x300), None), "so was what the mark speaks of");
        assert_eq!(ask(&tail, Some((at(30), lsn("0/4000000")))), (Some(0x300), Some(70.0)));
        assert_eq!(ask(&stored("0/4FFFF00"), None), (Some(0x400), Some(50.0)), "nothing is stored beyond the fork");
    }

    #[test]
    fn of_a_server_whose_way_to_the_stored_timeline_is_unknown_no_lag_is_known() {
        let mark = Some((at(90), lsn("0/5000000")));
        let ask =
            |server: u32, history: Option<&TimelineHistory>| lag((timeline(server), lsn("0/5000300")), history, &stored("0/9000000"), mark, at(100));
        assert_eq!(ask(2, None), (None, None));
        let other = TimelineHistory::parse(timeline(4), "2\t0/5000000\tno recovery target specified\n").unwrap();
        assert_eq!(ask(4, Some(&other)), (None, None), "it never was on timeline 1");
        let newer = StoredFacts { timeline: timeline(3), ..stored("0/9000000") };
        assert_eq!(lag((timeline(2), lsn("0/5000300")), None, &newer, mark, at(100)), (None, None), "it was left behind");
    }
}
