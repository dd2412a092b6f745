//! What a repository is: where each object lies, how it is sealed, what a backup and an archive of WAL are made of.

mod alerts;
pub mod audit;
mod capacity;
mod catalog;
mod configuration;
mod coverage;
mod document;
mod drills;
mod epoch;
mod error;
mod expiry;
mod index;
mod keyring;
mod layout;
mod lease;
mod locks;
mod manifest;
mod pack;
mod pieces;
mod policy;
mod proving;
pub mod reach;
mod repository;
pub mod retention;
mod runs;
mod scrubbed;
mod shortened;
mod slots;
mod snapshot;
mod wal;

pub use alerts::{AlertShelf, Silence};
pub use capacity::Measured;
pub use catalog::{BackupDocument, WalPosition};
pub use configuration::{Authenticity, KeptConfiguration};
pub use coverage::Coverage;
pub use epoch::Epoch;
pub use error::RepoError;
pub use expiry::{ExpiryState, Listed, Tombstone, WalWaiting};
pub use index::{IndexEntry, IndexedDamage, IndexedPoint, WalIndex};
pub use keyring::{Attempt, KeyPurpose};
pub use layout::{
    backup_folder, is_piece, is_replaced, is_unlocked, key_path, listing_of, manifest as manifest_path, pack_path, segment_of, tombstone, wal_object,
};
pub use lease::{Claim, Contender, HeldBy, KeptLease, Lease, LeaseView, Loss, RECEIVER_LEASE, Standing};
pub use manifest::{ChunkRef, Entry, FileBody, ManifestEnd, ManifestHeader, ManifestReader, ManifestWriter};
pub use pack::Pack;
pub use pieces::{Form, Piece, PieceLog, Stored, chain};
pub use policy::{Duty, Premises, policy};
pub use proving::Proved;
pub use repository::{Encryption, Reader, RepositoryDocument, Writer};
pub use runs::{Run, RunBegun, RunEnded, RunName, RunOutcome};
pub use scrubbed::{ScrubDamage, ScrubRun, ScrubState, ScrubUnit};
pub use shortened::shortened;
pub use slots::{Change, KeyView, Proof, SlotView};
pub use snapshot::{
    SnapshotDocument, SnapshotEnd, SnapshotEntry, SnapshotHeader, SnapshotObject, SnapshotReader, SnapshotRemoval, SnapshotVersions, SnapshotWriter,
};
pub use wal::{Kept, SegmentRun, TimelineView, WalView};
