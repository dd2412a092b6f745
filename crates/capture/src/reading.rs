//! Reading files of a running cluster without disturbing its page cache.

use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// `RWF_DONTCACHE` (Linux 6.14, include/uapi/linux/fs.h): what was cached stays, what was not is dropped after the read.
const RWF_DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Whether this kernel and these filesystems know the flag; forgotten for good at the first refusal.
static LEAVES_NO_TRACE: AtomicBool = AtomicBool::new(true);

/// Fills `buffer` from `offset` on and returns how much there was before the file ended.
pub(crate) fn read_at(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match read_some(file, offset + done as u64, &mut buffer[done..]) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(done)
}

fn read_some(file: &File, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    if LEAVES_NO_TRACE.load(Ordering::Relaxed) {
        match rustix::io::preadv2(file, &mut [io::IoSliceMut::new(buffer)], offset, RWF_DONTCACHE) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => LEAVES_NO_TRACE.store(false, Ordering::Relaxed),
            answer => return answer,
        }
    }
    rustix::io::pread(file, buffer, offset)
}
