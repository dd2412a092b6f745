//! Begins writing back what was just written, so that the last sync has little left to do.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Tells the kernel to begin writing these bytes to disk, without waiting (`sync_file_range`, manual section 2).
/// Only a matter of speed: durability is what the sync at the end is for, so an error here means nothing.
pub(crate) fn begin_writeback(file: &File, at: u64, bytes: u64) {
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the call touches no memory of ours.
    unsafe { nix::libc::sync_file_range(file.as_raw_fd(), at as i64, bytes as i64, nix::libc::SYNC_FILE_RANGE_WRITE) };
}
