//! A live PostgreSQL into the repository: base backups and the write-ahead log.

mod appender;
mod beginning;
mod buffers;
mod cover;
mod error;
mod filling;
mod indexer;
mod ingest;
mod local;
mod lookout;
mod marks;
mod notes;
mod pages;
mod pause;
mod pipeline;
mod push;
mod reading;
mod receive;
mod salvage;
mod session;
mod sole;
mod standbys;
mod stream;
mod streamed;
mod tail;
mod throttle;
mod turn;
mod uploads;
mod waiting;

pub use error::CaptureError;
pub use ingest::{IndexBatch, Survey, entry_of, survey_segment, survey_stored};
pub use notes::{Lead, Notes};
pub use push::{LookAhead, push, push_ahead};
pub use receive::{BACKUP, Flush, Progress, RECEIVER, ReceiveOptions, Slot, Until, receive, refuse_synchronous};
pub use salvage::{Salvaged, salvage};
pub use sole::Meanwhile;

use pg::ConnInfo;
use repo::{BackupDocument, Writer};
use seal::Compression;
use sole::Sole;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use terms::{Clock, Events};

/// What to do about pages whose checksum does not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    /// Do not publish the backup.
    Fail,
    /// Publish it, with the count of damaged pages in it and each of them told.
    Warn,
    /// Do not look.
    Off,
}

/// How to make a backup.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// Of packs, and of the WAL that the backup receives itself; the manifest's is fixed.
    pub compression: Compression,
    /// Threads that compress and seal.
    pub jobs: usize,
    /// Bytes of the database read per second, at most.
    pub max_rate: Option<u64>,
    /// Counts only where the cluster has page checksums.
    pub checksums: Checksums,
    /// Checkpoint at once instead of waiting for a spread one.
    pub fast_checkpoint: bool,
    /// The slot of the WAL receiver, if one may be running.
    pub slot: Option<String>,
    /// How long to wait for WAL that another process brings.
    pub wal_timeout: Duration,
    /// Who makes it, for people and for the next one on the same host: the host's name.
    pub holder: String,
    /// When somebody else makes one.
    pub meanwhile: Meanwhile,
}

/// Makes a full backup and lists it; what is returned is what can be restored.
///
/// Whatever goes wrong, nothing is listed, and the server leaves backup mode with the session. One at a time, by the lease `full-backup`
/// of the repository.
pub async fn backup(
    info: &ConnInfo,
    data_dir: Option<&Path>,
    writer: Writer,
    options: BackupOptions,
    clock: &dyn Clock,
    events: Arc<dyn Events>,
) -> Result<BackupDocument, CaptureError> {
    let info = &info.clone().with_application_name(BACKUP);
    let sole = Sole::claim(info, &writer, &options.holder, options.meanwhile, clock, &*events).await?;
    let made = async {
        let begun = session::Begun::begin(info, data_dir, writer, options, clock, events).await?;
        begun.copy().await?.end(&sole).await?.cover().await?.publish(&sole).await
    };
    let made = made.await;
    sole.release().await;
    made
}
