//! Writes so that the last sync has little left to do, and the page cache is not filled with what is read again much later.

use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// `RWF_DONTCACHE` (Linux 6.14, include/uapi/linux/fs.h): writeback begins at once, and the pages are given back after it.
const RWF_DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Whether this kernel and these filesystems know the flag; forgotten for good at the first refusal.
static LEAVES_NO_TRACE: AtomicBool = AtomicBool::new(true);

/// Writes all of `bytes` at `at`, and has the kernel begin to write them to disk.
pub(crate) fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match write_some(file, &bytes[done..], at + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    if !LEAVES_NO_TRACE.load(Ordering::Relaxed) {
        begin_writeback(file, at, bytes.len() as u64);
    }
    Ok(())
}

fn write_some(file: &File, bytes: &[u8], at: u64) -> Result<usize, Errno> {
    if LEAVES_NO_TRACE.load(Ordering::Relaxed) {
        match rustix::io::pwritev2(file, &[io::IoSlice::new(bytes)], at, RWF_DONTCACHE) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => LEAVES_NO_TRACE.store(false, Ordering::Relaxed),
            answer => return answer,
        }
    }
    rustix::io::pwrite(file, bytes, at)
}

/// Tells the kernel to begin writing these bytes to disk, without waiting (`sync_file_range`, manual section 2).
/// Only a matter of speed: durability is what the sync at the end is for, so an error here means nothing.
fn begin_writeback(file: &File, at: u64, bytes: u64) {
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the call touches no memory of ours.
    unsafe { nix::libc::sync_file_range(file.as_raw_fd(), at as i64, bytes as i64, nix::libc::SYNC_FILE_RANGE_WRITE) };
}
