//! The one place that spells object names. All are relative to the repository's root, `{prefix}/{org}`.

use seal::KeyId;
use store::ObjectPath;
use terms::{BackupId, BackupKind, SystemId, Timeline, WalName};

/// Every name below is made of plain parts, so it always is a path.
fn path(text: String) -> ObjectPath {
    ObjectPath::new(text).expect("names of the layout are plain")
}

pub(crate) fn repository() -> ObjectPath {
    path("repository.json".into())
}

pub(crate) fn key(id: KeyId) -> ObjectPath {
    path(format!("keys/{id}.json"))
}

/// The folder of a backup.
pub fn backup_folder(kind: BackupKind, id: BackupId) -> String {
    format!("{kind}/{id}")
}

pub(crate) fn backup_document(kind: BackupKind, id: BackupId) -> ObjectPath {
    path(format!("{}/backup.json", backup_folder(kind, id)))
}

pub(crate) fn manifest(kind: BackupKind, id: BackupId) -> ObjectPath {
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

/// Where a file of the write-ahead log lies.
pub fn wal_object(system: SystemId, name: &WalName) -> ObjectPath {
    path(match name {
        WalName::History(timeline) => format!("wal/{system}/{}.history", timeline.hex()),
        WalName::Segment(segment) | WalName::Partial(segment) | WalName::BackupLabel(segment, _) => {
            format!("{}/{name}", wal_timeline_folder(system, segment.timeline()))
        }
    })
}

pub(crate) fn coverage() -> ObjectPath {
    path("coverage.json".into())
}

/// `None` when the name is no plain word.
pub(crate) fn lease(name: &str) -> Option<ObjectPath> {
    let plain = !name.is_empty() && !name.starts_with('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    plain.then(|| ObjectPath::new(format!("leases/{name}.json")).ok()).flatten()
}
