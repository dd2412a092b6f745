//! The one place that spells object names. All are relative to the repository's root, `{prefix}/{org}`.

use crate::{Piece, RepoError};
use seal::KeyId;
use store::ObjectPath;
use terms::{BackupId, BackupKind, SegmentName, SystemId, Timeline, Timestamp, WalName};

/// What a segment's name is followed by in the name of the folder of its pieces.
pub(crate) const PIECES: &str = ".pieces";

/// Every name below is made of plain parts, so it always is a path.
fn path(text: String) -> ObjectPath {
    ObjectPath::new(text).expect("names of the layout are plain")
}

pub(crate) fn repository() -> ObjectPath {
    path("repository.json".into())
}

/// The folder of all data keys.
pub(crate) const KEYS: &str = "keys";

pub(crate) fn key(id: KeyId) -> ObjectPath {
    path(format!("{KEYS}/{id}.json"))
}

/// Whether the object at this path is replaced in the course of things; every other is written once.
pub fn is_replaced(path: &str) -> bool {
    let is_coverage = path == "coverage.json" || path.ends_with("/coverage.json");
    ["repository.json", "retention.json", "capacity.json"].contains(&path)
        || is_coverage
        || ["keys/", "leases/", "probe/", "holds/", "expired/", "scrub/", "alerts/"].iter().any(|folder| path.starts_with(folder))
}

/// Whether the object at this path needs no lock: it tells how things stand now, and nothing is lost with it.
pub fn is_unlocked(path: &str) -> bool {
    let is_coverage = path == "coverage.json" || path.ends_with("/coverage.json");
    is_coverage
        || path == "retention.json"
        || path == "capacity.json"
        || ["leases/", "probe/", "runs/", "holds/", "expired/", "scrub/", "alerts/"].iter().any(|folder| path.starts_with(folder))
}

/// The folder of a backup.
pub fn backup_folder(kind: BackupKind, id: BackupId) -> String {
    format!("{kind}/{id}")
}

pub(crate) fn backup_document(kind: BackupKind, id: BackupId) -> ObjectPath {
    path(format!("{}/backup.json", backup_folder(kind, id)))
}

/// The manifest of a backup.
pub fn manifest(kind: BackupKind, id: BackupId) -> ObjectPath {
    path(format!("{}/manifest", backup_folder(kind, id)))
}

/// The `number`th pack of a backup, counted from 1.
pub fn pack_path(kind: BackupKind, id: BackupId, number: u32) -> ObjectPath {
    path(format!("{}/data/{number:06}", backup_folder(kind, id)))
}

pub(crate) fn wal_folder(system: SystemId) -> String {
    format!("wal/{system}")
}

pub(crate) fn wal_timeline_folder(system: SystemId, timeline: Timeline) -> String {
    format!("wal/{system}/{}", timeline.hex())
}

/// Comes before all that is stored of a timeline, its history as well, and behind all of the timelines before it.
pub(crate) fn before_timeline(system: SystemId, timeline: Timeline) -> ObjectPath {
    path(wal_timeline_folder(system, timeline))
}

/// Comes behind all that is stored of a timeline: `0` follows the dot of its history and the slash of its folder.
pub(crate) fn behind_timeline(system: SystemId, timeline: Timeline) -> ObjectPath {
    path(format!("{}0", wal_timeline_folder(system, timeline)))
}

/// Of which timeline an object below a cluster's folder is the history or WAL; `None` for the index, marks and whatever else lies there.
pub(crate) fn timeline_of(system: SystemId, path: &ObjectPath) -> Option<Timeline> {
    match path.name().parse() {
        Ok(WalName::History(timeline)) if wal_object(system, &WalName::History(timeline)) == *path => Some(timeline),
        _ => segment_of(path).map(SegmentName::timeline),
    }
}

/// Where a file of the write-ahead log lies.
pub fn wal_object(system: SystemId, name: &WalName) -> ObjectPath {
    path(match name {
        WalName::History(timeline) => format!("wal/{system}/{}.history", timeline.hex()),
        WalName::Segment(segment) | WalName::Partial(segment) | WalName::BackupLabel(segment, _) => {
            format!("{}/{name}", wal_timeline_folder(system, segment.timeline()))
        }
    })
}

/// The folder of a segment's pieces.
pub(crate) fn pieces_folder(system: SystemId, segment: SegmentName) -> String {
    format!("{}/{segment}{PIECES}", wal_timeline_folder(system, segment.timeline()))
}

pub(crate) fn piece(system: SystemId, piece: &Piece) -> ObjectPath {
    path(format!("{}/{piece}", wal_timeline_folder(system, piece.segment.timeline())))
}

/// The piece at this path, if one lies there.
pub(crate) fn parse_piece(path: &ObjectPath) -> Option<Piece> {
    let (folder, name) = path.as_str().rsplit_once('/')?;
    Piece::parse(folder.rsplit_once('/')?.1, name)
}

pub(crate) fn wal_index_folder(system: SystemId, timeline: Timeline) -> String {
    format!("{}/index", wal_timeline_folder(system, timeline))
}

/// A batch of the index over the segments from `first` to `last`; a further one over the same has a number from 2 on.
pub(crate) fn wal_index(system: SystemId, first: SegmentName, last: SegmentName, number: u32) -> ObjectPath {
    let number = if number > 1 { format!(".{number}") } else { String::new() };
    path(format!("{}/{first}-{last}{number}", wal_index_folder(system, first.timeline())))
}

/// The first and the last segment of the batch with this name.
pub(crate) fn wal_index_span(path: &ObjectPath) -> Option<(SegmentName, SegmentName)> {
    let (span, number) = path.name().split_once('.').map_or((path.name(), None), |(span, number)| (span, Some(number)));
    if number.is_some_and(|number| number.parse::<u32>().is_err()) {
        return None;
    }
    let (first, last) = span.split_once('-')?;
    let (first, last): (SegmentName, SegmentName) = (first.parse().ok()?, last.parse().ok()?);
    (first.timeline() == last.timeline() && first <= last).then_some((first, last))
}

/// The folder of all drills.
pub(crate) const DRILLS: &str = "drills";

/// The report in a drill's folder; `None` when no drill can have made a folder of this name.
pub(crate) fn drill_report_in(folder: &str) -> Option<ObjectPath> {
    let (time, number) = folder.split_once('-').map_or((folder, None), |(time, number)| (time, Some(number)));
    let plain = Timestamp::from_compact(time).is_some() && number.is_none_or(|number| number.parse::<u32>().is_ok());
    plain.then(|| path(format!("{DRILLS}/{folder}/report.json")))
}

/// The report, `json`, or its page, `html`, of a drill that began at this time; a further one of the same second has a number from 2 on.
pub(crate) fn drill_report(at: Timestamp, number: u32, form: &str) -> ObjectPath {
    let number = if number > 1 { format!("-{number}") } else { String::new() };
    path(format!("{DRILLS}/{}{number}/report.{form}", at.compact()))
}

/// How many bytes the repository took.
pub(crate) fn capacity() -> ObjectPath {
    path("capacity.json".into())
}

/// The folder of the ledger.
pub(crate) const RUNS: &str = "runs";

/// Before every run that began at this second or later, in its month, and behind every earlier one.
pub(crate) fn runs_from(from: Timestamp) -> ObjectPath {
    let stamp = from.compact();
    path(format!("{RUNS}/{}/{}/{stamp}", &stamp[..4], &stamp[4..6]))
}

/// What says that a run began.
pub(crate) fn run_begun(name: &crate::RunName) -> ObjectPath {
    let (year, month) = name.month();
    path(format!("{RUNS}/{year}/{month}/{name}.begun.json"))
}

/// What says how it ended.
pub(crate) fn run_ended(name: &crate::RunName) -> ObjectPath {
    let (year, month) = name.month();
    path(format!("{RUNS}/{year}/{month}/{name}.json"))
}

/// The folder of configurations that were in force.
pub(crate) const CONFIGURATIONS: &str = "config";

/// The configuration that was in force from this time on.
pub(crate) fn configuration(at: Timestamp) -> ObjectPath {
    path(format!("{CONFIGURATIONS}/{}.toml", at.compact()))
}

/// Since when the configuration at this path was in force; `None` where [`configuration`] puts none.
pub(crate) fn configured_at(path: &ObjectPath) -> Option<Timestamp> {
    let at = Timestamp::from_compact(path.name().strip_suffix(".toml")?)?;
    (configuration(at) == *path).then_some(at)
}

/// The folder of runbooks.
pub(crate) const RUNBOOKS: &str = "runbook";

/// The runbook as of this time, `md` or `html`.
pub(crate) fn runbook(at: Timestamp, form: &str) -> ObjectPath {
    path(format!("{RUNBOOKS}/{}/runbook.{form}", at.compact()))
}

pub(crate) fn expiry() -> ObjectPath {
    path("retention.json".into())
}

/// The folder of holds.
pub(crate) const HOLDS: &str = "holds";

pub(crate) fn hold(id: BackupId) -> ObjectPath {
    path(format!("{HOLDS}/{id}.json"))
}

/// The folder of what was unlisted and waits to be removed.
pub(crate) const EXPIRED: &str = "expired";

/// How the name of a snapshot's tombstone begins.
pub(crate) const SNAPSHOT_TOMBSTONE: &str = "packages-";
/// What tells that a backup, or a snapshot of packages, was unlisted on purpose. One of each may have one name.
pub fn tombstone(kind: BackupKind, id: BackupId) -> ObjectPath {
    path(match kind {
        BackupKind::Full => format!("{EXPIRED}/{id}.json"),
        BackupKind::Packages => format!("{EXPIRED}/{SNAPSHOT_TOMBSTONE}{id}.json"),
    })
}

/// The object whose presence lists a backup.
pub fn listing_of(kind: BackupKind, id: BackupId) -> ObjectPath {
    backup_document(kind, id)
}

/// The data key with this id.
pub fn key_path(id: KeyId) -> ObjectPath {
    key(id)
}

/// Whether the object at this path is a piece of a segment, or a log of pieces.
pub fn is_piece(path: &ObjectPath) -> bool {
    parse_piece(path).is_some()
}

/// The segment whose log an object below a cluster's folder holds, whole or in part; `None` for what is no log: histories, the index, marks.
pub fn segment_of(path: &ObjectPath) -> Option<SegmentName> {
    if let Some(piece) = parse_piece(path) {
        return Some(piece.segment);
    }
    if path.as_str().split('/').count() != 4 {
        return None;
    }
    match path.name().parse().ok()? {
        WalName::Segment(segment) | WalName::Partial(segment) | WalName::BackupLabel(segment, _) => Some(segment),
        WalName::History(_) => None,
    }
}

pub(crate) fn alerts() -> ObjectPath {
    path("alerts/state.json".into())
}

/// The folder of silences.
pub(crate) const SILENCES: &str = "alerts/silences";

/// The name of a silence that began at this time; a further one of the same second has a number from 2 on.
pub(crate) fn silence_name(at: Timestamp, number: u32) -> String {
    let number = if number > 1 { format!("-{number}") } else { String::new() };
    format!("{}{number}", at.compact())
}

/// An error when the name is no plain word.
pub(crate) fn silence(name: &str) -> Result<ObjectPath, RepoError> {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let found = plain.then(|| ObjectPath::new(format!("{SILENCES}/{name}.json")).ok()).flatten();
    found.ok_or_else(|| RepoError::Bug(format!("{name:?} is no name of a silence")))
}

/// What scrubbing found and how far it is.
pub(crate) fn scrub() -> ObjectPath {
    path("scrub/state.json".into())
}

pub(crate) fn coverage() -> ObjectPath {
    path("coverage.json".into())
}

/// The last coverage mark of an epoch that is over: beside that epoch's log.
pub(crate) fn closed_coverage(system: SystemId) -> ObjectPath {
    path(format!("{}/coverage.json", wal_folder(system)))
}

/// `None` when the name is no plain word.
pub(crate) fn lease(name: &str) -> Option<ObjectPath> {
    let plain = !name.is_empty() && !name.starts_with('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    plain.then(|| ObjectPath::new(format!("leases/{name}.json")).ok()).flatten()
}
