//! `bowline wal audit`: whether the stored WAL is whole from the oldest backup on, and what each gap makes unreachable.

use crate::args::{AuditArgs, Common};
use crate::fault::{Fault, beside};
use crate::show::{Printer, duration};
use crate::wiring::Wiring;
use capture::{IndexBatch, survey_stored};
use pg::TimelineHistory;
use pg::wal::WalSource;
use repo::audit::{Audit, Evidence, Unreachable, audit};
use repo::reach::Path;
use repo::{BackupDocument, Coverage, Epoch, ExpiryState, IndexedDamage, Reader, WalIndex, WalView, Writer};
use serde_json::json;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;
use terms::{Class, Clock, Event, Events, Explain, SegmentName, SegmentSize, SnapshotOfProgress, SystemClock, SystemId, Timeline, WalName};

/// Segments surveyed as one stretch of the log; after each the index may be written.
const STRETCH: usize = 32;

pub async fn run(common: &Common, asked: &AuditArgs, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let began = Instant::now();
    let wiring = Wiring::new(common)?;
    let (reader, writer) = match asked.no_read {
        true => (wiring.reader().await?, None),
        false => {
            let writer = wiring.writer().await?;
            (writer.reader().clone(), Some(writer))
        }
    };
    let (backups, unlisted) = reader.backups_and_damage().await?;
    let Some(present) = reader.epoch().filter(|_| !backups.is_empty()) else {
        beside(unlisted)?;
        return Err(no_backup(&reader));
    };
    let mut audited = Vec::new();
    for epoch in &reader.document().epochs {
        let own: Vec<_> = backups.iter().filter(|b| b.system_id == epoch.system_id).cloned().collect();
        if own.is_empty() {
            continue;
        }
        let mut known = Known::gather(&reader, own).await?;
        if reader.document().epochs.len() > 1 {
            printer.say(format!("epoch        PostgreSQL {}, cluster {}, since {}", epoch.major, epoch.system_id, epoch.since));
        }
        let before = reader.index(known.system_id, &known.timelines()).await?;
        let mut index = if asked.rebuild { WalIndex::default() } else { before.clone() };
        for (path, why) in before.unreadable() {
            printer.remark(format!("note: {path} cannot be read and says nothing: {why}"));
        }
        let mut found = known.audit(&index);
        let mut read = 0;
        if let Some(writer) = &writer {
            let mut unknown: Vec<SegmentName> = found.unindexed.clone();
            unknown.extend(found.size_mismatches.iter().map(|mismatch| mismatch.segment));
            unknown.sort();
            unknown.dedup();
            read = known.survey(writer, &unknown, &before, &mut index, printer).await?;
            if read > 0 {
                found = known.audit(&index);
            }
        }
        report(printer, &known, &found, read);
        known.without_history.sort();
        let unreadable: Vec<String> = before.unreadable().iter().map(|(path, _)| path.to_string()).collect();
        audited.push(Audited { known, found, read, unreadable });
    }
    let took = began.elapsed();
    let segments: u64 = audited.iter().map(|one| one.found.segments).sum();
    printer.remark(format!("{segments} segments in {}", duration(took)));
    let is_protected = audited.last().is_some_and(|newest| newest.known.system_id == present.system_id);
    let all = |is_so: fn(&Audit) -> bool| is_protected && audited.iter().all(|one| is_so(&one.found) && one.known.without_history.is_empty());
    // The end of the log may be in pieces, which the audit of whole segments does not see.
    let has_histories = audited.iter().all(|one| one.known.without_history.is_empty());
    let tail_hole = if has_histories { restore::stored_end(&reader, present, &backups).await?.and_then(|end| end.hole) } else { None };
    let all_whole = all(Audit::is_whole);
    let earlier = audited.len() - usize::from(is_protected);
    let (earlier, newest) = audited.split_at(earlier);
    let newest = newest.first();
    printer.result(json!({
        "repository": reader.address(), "audit": newest.map(|one| &one.found), "without_history": newest.map(|one| &one.known.without_history),
        "read": audited.iter().map(|one| one.read).sum::<u64>(), "whole": all_whole && tail_hole.is_none(), "proven": all(Audit::is_proven) && tail_hole.is_none(),
        "unreadable": audited.iter().flat_map(|one| &one.unreadable).collect::<Vec<_>>(), "took_seconds": took.as_secs_f64(),
        "earlier": earlier.iter().map(Audited::json).collect::<Vec<_>>(),
    }));
    if !is_protected {
        return Err(no_backup_of(&reader, present));
    }
    if let (Some(missing), true) = (tail_hole, all_whole) {
        return Err(Fault::of(
            "wal-gap",
            terms::Class::Missing,
            format!("the stored WAL ends in {missing}, but more of it was stored once"),
            "A coverage mark, a piece or a backup lies beyond what is there.",
            "Take a full backup now (bowline backup): until it is listed nothing later than what is there can be restored.",
        ));
    }
    // What concerns the present cluster comes first; all of it is printed above.
    for one in audited.iter().rev() {
        verdict(&one.known, &one.found)?;
    }
    let unread: usize = audited.iter().map(|one| one.found.unindexed.len()).sum();
    let is_proven = all(Audit::is_proven);
    if is_proven {
        let each = if audited.len() > 1 { format!(", in each of {} epochs", audited.len()) } else { String::new() };
        printer.say(format!("verdict      whole: every instant in between can be restored{each}"));
    } else {
        printer.say(format!("verdict      NOT PROVEN: no gap, but {unread} segments were not read"));
    }
    beside(unlisted)?;
    Ok(if is_proven { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The gaps in the stored log of every epoch, told for a record. Reads the listing and the index, and no segment.
pub(super) async fn gaps(reader: &Reader) -> Result<Vec<upkeep::Found>, Fault> {
    let (backups, _) = reader.backups_and_damage().await?;
    let mut gaps = Vec::new();
    for epoch in &reader.document().epochs {
        let own: Vec<_> = backups.iter().filter(|b| b.system_id == epoch.system_id).cloned().collect();
        if own.is_empty() {
            continue;
        }
        let known = Known::gather(reader, own).await?;
        let found = known.audit(&reader.index(known.system_id, &known.timelines()).await?);
        for gap in &found.gaps {
            let path = repo::wal_object(known.system_id, &WalName::Segment(gap.first_missing)).to_string();
            let why = format!("{} segments are not stored, up to {}.", missing(gap, known.size), gap.last_missing);
            let next = format!("{LOOK_FOR} {STORE_EACH}.");
            gaps.push(upkeep::Found::gap(path, why, lost_by(&gap.unreachable), next));
        }
    }
    // The end of the log may be in pieces, which the audit of whole segments does not see.
    if let Some(present) = reader.epoch().filter(|present| backups.iter().any(|b| b.system_id == present.system_id))
        && let Some(first) = restore::stored_end(reader, present, &backups).await?.and_then(|end| end.hole)
    {
        let path = repo::wal_object(present.system_id, &WalName::Segment(first)).to_string();
        if gaps.iter().all(|gap| gap.path != path) {
            let why = "It is not stored whole, but more of it was once: a coverage mark, a piece or a backup lies beyond what is there.".to_owned();
            let next = "Take a full backup now (bowline backup): until it is listed nothing later than what is there can be restored.".to_owned();
            gaps.push(upkeep::Found::gap(path, why, "Instants after what is there.".to_owned(), next));
        }
    }
    Ok(gaps)
}

/// What to do about a gap.
const LOOK_FOR: &str = "look for these files in pg_wal of the server, of its standbys and in copies of the bucket, and store each with";
const STORE_EACH: &str = "bowline wal push PATH; if they are gone, bowline backup protects what comes from now on";

/// What was found of one epoch.
struct Audited {
    known: Known,
    found: Audit,
    read: u64,
    unreadable: Vec<String>,
}

impl Audited {
    fn json(&self) -> serde_json::Value {
        let Known { system_id, major, without_history, .. } = &self.known;
        json!({ "system_id": system_id, "major": major, "audit": self.found, "without_history": without_history })
    }
}

fn no_backup(reader: &Reader) -> Fault {
    Fault::of(
        "backup-missing",
        Class::Missing,
        format!("there is no backup in {}", reader.address()),
        "Without a backup no stored WAL can be restored.",
        "Make one: bowline backup.",
    )
}

fn no_backup_of(reader: &Reader, present: &Epoch) -> Fault {
    Fault::of(
        "backup-missing",
        Class::Missing,
        format!("there is no backup of the present cluster in {}", reader.address()),
        format!(
            "Cluster {} of PostgreSQL {} is the present one since {}; without a backup none of its stored WAL can be restored.",
            present.system_id, present.major, present.since
        ),
        "Make one: bowline backup.",
    )
}

/// What is stored of one epoch's cluster.
struct Known {
    system_id: SystemId,
    major: u32,
    size: SegmentSize,
    backups: Vec<BackupDocument>,
    view: WalView,
    sizes: BTreeMap<SegmentName, u64>,
    histories: Vec<TimelineHistory>,
    paths: Vec<Path>,
    without_history: Vec<Timeline>,
    coverage: Option<Coverage>,
    expiry: Option<ExpiryState>,
}

impl Known {
    /// `backups` are those of one cluster, oldest first.
    async fn gather(reader: &Reader, backups: Vec<BackupDocument>) -> Result<Self, Fault> {
        let Some(newest) = backups.last() else { return Err(no_backup(reader)) };
        let (system_id, major, size) = (newest.system_id, newest.major, newest.segment_bytes);
        // The mark before the listing: a receiver at work moves it on.
        let coverage = reader.coverage(system_id).await?;
        let expiry = reader.expiry().await?.map(|(state, _)| state);
        let (view, sizes) = reader.wal_sizes(system_id, size).await?;
        let mut histories = Vec::new();
        for timeline in view.timelines.iter().filter(|t| t.has_history).map(|t| t.timeline) {
            if let Some(bytes) = reader.fetch_wal(system_id, &WalName::History(timeline)).await? {
                histories.push(TimelineHistory::parse(timeline, &String::from_utf8_lossy(&bytes))?);
            }
        }
        let (mut paths, mut without_history) = (Vec::new(), Vec::new());
        let stored = view.timelines.iter().filter(|t| !t.is_empty()).map(|t| t.timeline);
        let mut timelines: Vec<Timeline> =
            stored.chain(backups.iter().map(|b| b.timeline)).chain(histories.iter().map(TimelineHistory::timeline)).collect();
        timelines.sort();
        timelines.dedup();
        for timeline in timelines {
            match histories.iter().find(|history| history.timeline() == timeline) {
                Some(history) => {
                    let ancestors: Vec<_> = history.branches().iter().map(|branch| (branch.timeline, branch.end)).collect();
                    paths.push(Path::new(&ancestors, timeline));
                }
                None if timeline == Timeline::FIRST => paths.push(Path::new(&[], timeline)),
                None => without_history.push(timeline),
            }
        }
        Ok(Self { system_id, major, size, backups, view, sizes, histories, paths, without_history, coverage, expiry })
    }

    fn timelines(&self) -> Vec<Timeline> {
        self.view.timelines.iter().map(|t| t.timeline).collect()
    }

    fn audit(&self, index: &WalIndex) -> Audit {
        let Self { backups, sizes, paths, coverage, expiry, .. } = self;
        audit(&Evidence { backups, segment_bytes: self.size, stored: sizes, paths, index, coverage: coverage.as_ref(), expiry: expiry.as_ref() })
    }

    /// The segment that recovery reads after this one, along the newest timeline that has both.
    fn after(&self, segment: SegmentName) -> SegmentName {
        let reads = |path: &&Path| path.segment(segment.number(self.size), self.size) == segment;
        let path = self.paths.iter().filter(reads).max_by_key(|path| path.timeline());
        path.map_or_else(|| segment.next(self.size), |path| path.segment(segment.number(self.size) + 1, self.size))
    }

    /// Reads segments of which not enough is known, adds what is found to the index and stores it there. Returns how many.
    async fn survey(
        &self,
        writer: &Writer,
        unknown: &[SegmentName],
        before: &WalIndex,
        index: &mut WalIndex,
        printer: &Printer,
    ) -> Result<u64, Fault> {
        if unknown.is_empty() {
            return Ok(0);
        }
        let epoch = writer.reader().document().epochs.iter().find(|epoch| epoch.system_id == self.system_id);
        let Some(epoch) = epoch else { return Err(Fault::of("bug", Class::Bug, "a backup of a cluster that was never admitted", "", "")) };
        let mut batch = IndexBatch::new(self.system_id, writer.wal_protection(epoch).await?);
        let source = WalSource { major: self.major, system_id: self.system_id, timeline: Timeline::FIRST, segment_size: self.size };
        printer.remark(format!("reading {} segments that are not indexed yet", unknown.len()));
        let bytes_total = unknown.len() as u64 * self.size.bytes();
        let (mut read, mut refused) = (0, None);
        for stretch in unknown.chunk_by(|one, next| one.next(self.size) == *next).flat_map(|run| run.chunks(STRETCH)) {
            let fork = self.histories.iter().filter_map(|history| history.end_of(stretch[0].timeline())).max();
            let now = SystemClock.now();
            for mut survey in survey_stored(writer.reader(), source, stretch, &self.sizes, fork, |segment| self.after(segment)).await? {
                // A segment is stored once: other bytes than those that were indexed are not the server's.
                if before.entry(survey.entry.segment).is_some_and(|before| before.digest != survey.entry.digest) && survey.entry.damaged.is_none() {
                    let at = survey.entry.segment.start(self.size);
                    survey.entry.damaged = Some(IndexedDamage { at, reason: "not the bytes that were indexed".into() });
                    survey.is_lasting = false;
                }
                index.add(survey.entry.clone(), now);
                if survey.is_lasting {
                    batch.push(survey.entry);
                }
            }
            read += stretch.len() as u64;
            printer.tell(Event::Progress(SnapshotOfProgress {
                bytes_done: read * self.size.bytes(),
                bytes_total,
                files_done: read,
                ..SnapshotOfProgress::default()
            }));
            if batch.due()
                && let Err(e) = batch.write(writer, now).await
            {
                refused = Some(e);
            }
        }
        // What was found counts, whether or not the next audit will have to find it again.
        if let Some(e) = batch.write(writer, SystemClock.now()).await.err().or(refused) {
            printer.remark(format!("warning: the index could not be written, the next audit reads the same segments again: {e}. {}", e.detail()));
        }
        Ok(read)
    }
}

fn report(printer: &Printer, known: &Known, found: &Audit, read: u64) {
    if let (Some(from), Some(to)) = (&found.from, &found.to) {
        let until = to.time.map_or_else(String::new, |time| format!(" ({time})"));
        printer.say(format!("from         {} ({}), backup {} on timeline {}", from.lsn, from.time, from.backup, from.timeline));
        printer.say(format!("to           {}{until} on timeline {}", to.lsn, to.timeline));
    }
    let unread = found.unindexed.len();
    let known_before = (found.segments - found.gaps.iter().map(|gap| missing(gap, known.size)).sum::<u64>()).saturating_sub(read + unread as u64);
    let not_read = if unread > 0 { format!(", {unread} NOT READ") } else { String::new() };
    printer.say(format!("segments     {}: {known_before} known by the index, {read} read now{not_read}", found.segments));
    for gap in &found.gaps {
        let count = missing(gap, known.size);
        let names =
            if count == 1 { gap.first_missing.to_string() } else { format!("{} to {}, {count} segments", gap.first_missing, gap.last_missing) };
        printer.say(format!("gap          {names}, timeline {}", gap.timeline));
        consequences(printer, &gap.unreachable);
        printer.say(format!("             next: {LOOK_FOR}"));
        printer.say(format!("             {STORE_EACH}"));
    }
    for stretch in &found.damaged {
        let names = if stretch.first == stretch.last { stretch.first.to_string() } else { format!("{} to {}", stretch.first, stretch.last) };
        printer.say(format!("damaged      {names} from {} on: {}", stretch.at, stretch.reason));
        consequences(printer, &stretch.unreachable);
        printer.say(
            "             next: bowline backup protects what comes from now on; keep a good copy of the file if the server or a standby has one",
        );
    }
    for mismatch in &found.size_mismatches {
        let (now, then) = (mismatch.bytes_stored, mismatch.bytes_indexed);
        printer.say(format!("size         {} is stored in {now} bytes, {then} were indexed", mismatch.segment));
    }
    for timeline in &known.without_history {
        printer.say(format!("history      {} is not stored: nothing leads to timeline {timeline}", WalName::History(*timeline)));
    }
    for timeline in &found.without_backup {
        printer.say(format!("note         WAL of timeline {timeline} is stored, and no backup leads to it"));
    }
}

fn missing(gap: &repo::audit::Gap, size: SegmentSize) -> u64 {
    gap.last_missing.number(size) - gap.first_missing.number(size) + 1
}

fn lost_by(unreachable: &Unreachable) -> String {
    match (unreachable.from, unreachable.until) {
        (Some(from), Some(until)) => format!("from {from} to {until}"),
        (Some(from), None) => format!("from {from} on"),
        (None, Some(until)) => format!("before {until}"),
        (None, None) => "at all, by any backup on this timeline".to_owned(),
    }
}

/// What cannot be restored because of a break, and what still can.
fn consequences(printer: &Printer, unreachable: &Unreachable) {
    printer.say(format!("             cannot be restored: {}", lost_by(unreachable)));
    let serving = [unreachable.before.map(|id| format!("before that {id}")), unreachable.after.map(|id| format!("after that {id}"))];
    let serving: Vec<String> = serving.into_iter().flatten().collect();
    if !serving.is_empty() {
        printer.say(format!("             still served by backups: {}", serving.join(", ")));
    }
    if !unreachable.broken.is_empty() {
        let broken: Vec<String> = unreachable.broken.iter().map(ToString::to_string).collect();
        printer.say(format!("             backups that cannot be restored: {}", broken.join(", ")));
    }
}

fn verdict(known: &Known, found: &Audit) -> Result<(), Fault> {
    let newest = known.view.newest().map(|(timeline, _)| timeline);
    let unserved = newest.filter(|timeline| found.without_backup.contains(timeline));
    let gaps: Vec<String> = found.gaps.iter().map(|gap| format!("{} to {}", gap.first_missing, gap.last_missing)).collect();
    let lost: Vec<String> = gaps
        .iter()
        .map(|gap| format!("Not stored: {gap}."))
        .chain(known.without_history.iter().map(|timeline| format!("Not stored: {}.", WalName::History(*timeline))))
        .chain(unserved.map(|timeline| format!("No backup leads to timeline {timeline}, the newest.")))
        .collect();
    let repair =
        "bowline backup makes every later instant restorable; for the earlier ones find the missing files and store them with bowline wal push.";
    if !lost.is_empty() {
        let summary = format!("the stored WAL is not whole: {} missing", if lost.len() == 1 { "one stretch is" } else { "several stretches are" });
        return Err(Fault::of("wal-gap", Class::Missing, summary, lost.join(" "), repair));
    }
    if !found.is_whole() {
        let damaged = found.damaged.iter().map(|stretch| format!("{} to {}: {}.", stretch.first, stretch.last, stretch.reason));
        let changed = found.size_mismatches.iter().map(|mismatch| format!("{}: not the size that was indexed.", mismatch.segment));
        let detail: Vec<String> = damaged.chain(changed).collect();
        return Err(Fault::of(
            "wal-damaged",
            Class::Damaged,
            "stored WAL is damaged",
            detail.join(" "),
            "bowline backup makes every later instant restorable.",
        ));
    }
    Ok(())
}
