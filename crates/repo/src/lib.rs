//! What a repository is: where each object lies, how it is sealed, what a backup and an archive of WAL are made of.

pub mod audit;
mod catalog;
mod configuration;
mod coverage;
mod document;
mod drills;
mod epoch;
mod error;
mod index;
mod keyring;
mod layout;
mod lease;
mod manifest;
mod pack;
mod pieces;
mod policy;
pub mod reach;
mod repository;
mod wal;

pub use catalog::{BackupDocument, WalPosition};
pub use coverage::Coverage;
pub use epoch::Epoch;
pub use error::RepoError;
pub use index::{IndexEntry, IndexedDamage, IndexedPoint, WalIndex};
pub use keyring::KeyPurpose;
pub use layout::{backup_folder, pack_path, wal_object};
pub use lease::{Claim, Contender, HeldBy, KeptLease, Lease, LeaseView, Loss, RECEIVER_LEASE, Standing};
pub use manifest::{ChunkRef, Entry, FileBody, ManifestEnd, ManifestHeader, ManifestReader, ManifestWriter};
pub use pack::Pack;
pub use pieces::{Form, Piece, PieceLog, Stored, chain};
pub use policy::{Duty, Premises, policy};
pub use repository::{Encryption, Reader, RepositoryDocument, Writer};
pub use wal::{Kept, SegmentRun, TimelineView, WalView};
