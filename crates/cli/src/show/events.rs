//! What each event looks like: a line for people, an object for machines.

use super::{bytes, duration, rate};
use serde_json::{Value, json};
use terms::Event;

/// What lets waiting commits go; from then on they are not protected until it is undone.
const RELEASE: &str = "ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();";

/// A line for people; nothing for what would only be noise.
pub fn event_line(event: &Event) -> Option<String> {
    Some(match event {
        Event::BackupBegun { backup, start, timeline, source } => {
            let how = if *source == "local" { "reading the data directory" } else { "over the replication protocol" };
            format!("backup {backup} begins at {start} on timeline {timeline}, {how}")
        }
        Event::BackupCopied { files, bytes: plain, bytes_stored, took, stop, .. } => format!(
            "copied {files} files, {} as {} in {} ({}), consistent from {stop}",
            bytes(*plain),
            bytes(*bytes_stored),
            duration(*took),
            rate(*plain, *took)
        ),
        Event::AwaitingWal { stop, by, .. } => format!("waiting for WAL up to {stop}, brought by {by}"),
        Event::BackupPublished { backup, took } => format!("backup {backup} is listed, {} after it began", duration(*took)),
        Event::PageDamaged { file, block, lsn } => format!("damaged page: block {block} of {file} (LSN {lsn})"),
        Event::FileVanished { .. } | Event::Progress(_) | Event::SegmentReplayed { .. } | Event::StepBegun { .. } => return None,
        Event::ConfigUnreadable { file, why } => format!("warning: {} is not in the backup: {why}", file.display()),
        Event::WalStreaming { from, timeline, slot } => format!("streaming WAL from {from} on timeline {timeline}, slot {slot}"),
        Event::WalStored { name, bytes_stored } => format!("stored {name} ({})", bytes(*bytes_stored)),
        Event::PieceStored { segment, end, bytes_stored, .. } => format!("stored {segment} up to {end} ({})", bytes(*bytes_stored)),
        Event::WalCovered { lsn, time, .. } => format!("complete up to {lsn}, as of {time}"),
        Event::WalHeldUp { stored, received, waited, commits_wait } => {
            let behind = format!("WAL up to {received} has waited {} for the store; stored is {stored}", duration(*waited));
            match commits_wait {
                true => format!("critical: commits wait: {behind}. To let them go unprotected: {RELEASE}"),
                false => format!("warning: {behind}. The server keeps it: watch the free space of pg_wal."),
            }
        }
        Event::WalFlowsAgain { stored, waited } => format!("WAL flows again after {}; stored is {stored}", duration(*waited)),
        Event::DivergentTail { timeline, from, to, commits, unread } => {
            let held = match (commits, unread) {
                (Some((first, last)), None) => format!("transactions that ended from {first} to {last}"),
                (Some((first, last)), Some(why)) => format!("transactions that ended from {first} to {last}, and perhaps others ({why})"),
                (None, None) => "no transaction's end".to_owned(),
                (None, Some(why)) => format!("which transactions is unknown ({why})"),
            };
            format!(
                "warning: WAL of timeline {timeline} from {from} to {to} is stored that the server does not have: {held}. \
                 It can be restored with --timeline {timeline}."
            )
        }
        Event::WalDamaged { segment, at, reason } => format!(
            "critical: WAL is damaged from {at} on ({reason}), segment {segment}: no restore gets past it. \
             Take a full backup now (bowline backup): until it is listed, nothing later can be restored."
        ),
        Event::WaitingForTurn { holder } => format!("{holder} receives into this repository; waiting until it stops or falls silent"),
        Event::TurnPassedOn { idle, again_in } => format!(
            "warning: nothing could be streamed for {}: another receiver may begin; this one stands in line again in {}",
            duration(*idle),
            duration(*again_in)
        ),
        Event::WalGap { timeline, from, to, why } => format!(
            "critical: WAL of timeline {timeline} from {from} to {to} is lost: {why}. Take a full backup now (bowline backup): \
             until it is listed, nothing after {from} can be restored."
        ),
        Event::RankedSynchronous { sync_state } => format!(
            "critical: the server ranks this receiver as a synchronous standby ({sync_state}) although wal.synchronous is off; \
             nothing is reported to it as flushed. Take bowline and '*' out of synchronous_standby_names and reload the server."
        ),
        Event::WalAlreadyStored { name } => format!("{name} was stored already"),
        Event::ServerOvertaken { timeline, by, newer } => format!(
            "critical: {by} has taken over on timeline {newer} while the server on timeline {timeline}, which was streamed from, lives: both take \
             writes. The one on timeline {newer} is received from now on. Stop the other: what it commits is on no other server."
        ),
        Event::TimelineSwitched { to, at } => format!("the server went over to timeline {to} at {at}"),
        Event::Disconnected { why, again_in } => format!("disconnected: {why}; trying again in {}", duration(*again_in)),
        Event::StoreRetry { object, why, again_in } => {
            format!("could not store {object}: {why}; nothing was confirmed, trying again in {}", duration(*again_in))
        }
        Event::RestorePlanned { backup, timeline, target, segments } => {
            format!("restoring to {target} from backup {backup} and {segments} WAL segments on timeline {timeline}")
        }
        // What was moved is told by itself.
        Event::StepEnded { step: terms::Step::MoveAside, .. } => return None,
        Event::StepEnded { step, took } => format!("{:<26} {}", step.name(), duration(*took)),
        Event::MovedAside { from, to } => format!("{} was moved to {}", from.display(), to.display()),
        Event::Noticed { what } => format!("note: {what}"),
    })
}

/// An object for machines, with `event` as its name. Field names are stable.
pub fn event_json(event: &Event) -> Value {
    match event {
        Event::BackupBegun { backup, start, timeline, source } => {
            json!({"event": "backup-begun", "backup": backup, "start": start, "timeline": timeline, "source": source})
        }
        Event::BackupCopied { backup, stop, files, bytes, bytes_stored, took } => json!({
            "event": "backup-copied", "backup": backup, "stop": stop, "files": files, "bytes": bytes,
            "bytes_stored": bytes_stored, "took_seconds": took.as_secs_f64(),
        }),
        Event::AwaitingWal { backup, stop, by } => json!({"event": "awaiting-wal", "backup": backup, "stop": stop, "by": by}),
        Event::BackupPublished { backup, took } => json!({"event": "backup-published", "backup": backup, "took_seconds": took.as_secs_f64()}),
        Event::PageDamaged { file, block, lsn } => json!({"event": "page-damaged", "file": file, "block": block, "lsn": lsn}),
        Event::FileVanished { file } => json!({"event": "file-vanished", "file": file}),
        Event::ConfigUnreadable { file, why } => json!({"event": "config-unreadable", "file": file, "why": why}),
        Event::WalStreaming { from, timeline, slot } => json!({"event": "wal-streaming", "from": from, "timeline": timeline, "slot": slot}),
        Event::WalStored { name, bytes_stored } => json!({"event": "wal-stored", "name": name, "bytes_stored": bytes_stored}),
        Event::PieceStored { segment, start, end, bytes_stored } => {
            json!({"event": "piece-stored", "segment": segment, "start": start, "end": end, "bytes_stored": bytes_stored})
        }
        Event::WalCovered { timeline, lsn, time } => json!({"event": "wal-covered", "timeline": timeline, "lsn": lsn, "time": time}),
        Event::WalHeldUp { stored, received, waited, commits_wait } => json!({
            "event": "wal-held-up", "stored": stored, "received": received, "waited_seconds": waited.as_secs_f64(),
            "commits_wait": commits_wait, "release": commits_wait.then_some(RELEASE),
        }),
        Event::WalFlowsAgain { stored, waited } => {
            json!({"event": "wal-flows-again", "stored": stored, "waited_seconds": waited.as_secs_f64()})
        }
        Event::DivergentTail { timeline, from, to, commits, unread } => json!({
            "event": "divergent-tail", "timeline": timeline, "from": from, "to": to,
            "first_commit": commits.map(|c| c.0), "last_commit": commits.map(|c| c.1), "unread": unread,
        }),
        Event::WalDamaged { segment, at, reason } => json!({"event": "wal-damaged", "segment": segment, "at_lsn": at, "reason": reason}),
        Event::WaitingForTurn { holder } => json!({"event": "waiting-for-turn", "holder": holder}),
        Event::TurnPassedOn { idle, again_in } => {
            json!({"event": "turn-passed-on", "idle_seconds": idle.as_secs_f64(), "again_in_seconds": again_in.as_secs_f64()})
        }
        Event::WalGap { timeline, from, to, why } => json!({"event": "wal-gap", "timeline": timeline, "from": from, "to": to, "why": why}),
        Event::RankedSynchronous { sync_state } => json!({"event": "ranked-synchronous", "sync_state": sync_state}),
        Event::WalAlreadyStored { name } => json!({"event": "wal-already-stored", "name": name}),
        Event::ServerOvertaken { timeline, by, newer } => {
            json!({"event": "server-overtaken", "timeline": timeline, "by": by, "newer": newer})
        }
        Event::TimelineSwitched { to, at } => json!({"event": "timeline-switched", "to": to, "at_lsn": at}),
        Event::Disconnected { why, again_in } => json!({"event": "disconnected", "why": why, "again_in_seconds": again_in.as_secs_f64()}),
        Event::StoreRetry { object, why, again_in } => {
            json!({"event": "store-retry", "object": object, "why": why, "again_in_seconds": again_in.as_secs_f64()})
        }
        Event::RestorePlanned { backup, timeline, target, segments } => {
            json!({"event": "restore-planned", "backup": backup, "timeline": timeline, "target": target.to_string(), "segments": segments})
        }
        Event::StepBegun { step } => json!({"event": "step-begun", "step": step.name()}),
        Event::StepEnded { step, took } => json!({"event": "step-ended", "step": step.name(), "took_seconds": took.as_secs_f64()}),
        Event::MovedAside { from, to } => json!({"event": "moved-aside", "from": from, "to": to}),
        Event::SegmentReplayed { segment } => json!({"event": "segment-fetched", "segment": segment}),
        Event::Noticed { what } => json!({"event": "noticed", "what": what}),
        Event::Progress(now) => {
            let mut told = json!({"event": "progress", "bytes_done": now.bytes_done, "bytes_total": now.bytes_total, "files_done": now.files_done});
            if now.files_total > 0 {
                told["files_total"] = json!(now.files_total);
            }
            told
        }
    }
}
