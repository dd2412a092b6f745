//! `archive_command`: stores one WAL file, or says why not.

use crate::CaptureError;
use bytes::Bytes;
use pg::wal::SegmentHeader;
use repo::{Epoch, Kept, Writer};
use seal::Compression;
use std::fs;
use std::path::Path;
use terms::{Explain, SegmentSize, WalName};

/// Stores the file at `path`, whose name says what it is. Equal bytes that are stored already are fine; a file that
/// is not what its name says is refused.
pub async fn push(writer: &Writer, epoch: &Epoch, path: &Path, compression: Compression) -> Result<Kept, CaptureError> {
    let bad = |why: String| CaptureError::BadWal { path: path.to_owned(), why };
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let name: WalName = name.parse().map_err(|e: terms::ParseError| bad(e.to_string()))?;
    let plain = fs::read(path).map_err(|e| bad(format!("It cannot be read: {e}")))?;
    match name {
        WalName::Segment(segment) | WalName::Partial(segment) => {
            let size =
                SegmentSize::from_bytes(plain.len() as u64).map_err(|_| bad(format!("It has {} bytes, which is no segment's size", plain.len())))?;
            let checked = SegmentHeader::read(&plain, &name.to_string()).and_then(|header| header.check(segment, epoch.system_id, size));
            checked.map_err(|e| bad(format!("{e}. {}", e.detail())))?;
        }
        WalName::History(_) | WalName::BackupLabel(..) if plain.is_empty() => return Err(bad("It is empty".into())),
        WalName::History(_) | WalName::BackupLabel(..) => {}
    }
    let protection = writer.wal_protection(epoch).await?;
    Ok(writer.keep_wal(epoch.system_id, &name, Bytes::from(plain), &protection, compression).await?)
}
