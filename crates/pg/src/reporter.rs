//! Tells a server how far WAL is stored from another thread than the one that listens: a commit that waits is spared one waking.

use crate::dial::Socket;
use bytes::BufMut;
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use terms::{Clock, Lsn, SystemClock};

/// Nobody writes to the socket.
const FREE: u8 = 0;
/// The connection has something queued, perhaps half of it written.
const QUEUED: u8 = 1;
/// A reporter writes, which takes a moment.
const REPORTING: u8 = 2;

/// Who may write to a socket: messages of two writers must not mix.
#[derive(Debug, Default)]
pub(crate) struct Desk(AtomicU8);

impl Desk {
    /// The connection begins to queue.
    pub(crate) fn take(&self) {
        while self.0.compare_exchange_weak(FREE, QUEUED, Ordering::Acquire, Ordering::Relaxed).is_err() {
            if self.0.load(Ordering::Relaxed) == QUEUED {
                return;
            }
            std::hint::spin_loop();
        }
    }

    /// Everything that was queued is written.
    pub(crate) fn free(&self) {
        self.0.store(FREE, Ordering::Release);
    }
}

/// A second pen for one kind of message.
pub struct Reporter {
    socket: OwnedFd,
    desk: Arc<Desk>,
    reported: Arc<AtomicU64>,
}

impl Reporter {
    /// `None` when the socket cannot be shared; then the connection reports for itself.
    pub(crate) fn new(socket: &Socket, desk: Arc<Desk>, reported: Arc<AtomicU64>) -> Option<(Self, HangUp)> {
        let socket = match socket {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        };
        let hang_up = HangUp(socket.try_clone_to_owned().ok()?);
        Some((Self { socket: socket.try_clone_to_owned().ok()?, desk, reported }, hang_up))
    }

    /// Says that everything before `stored` is written and flushed; whether it was said. Says nothing when the connection is about to
    /// speak, or the server does not read: then the connection must say it later.
    pub fn report(&self, stored: Lsn) -> bool {
        if self.desk.0.compare_exchange(FREE, REPORTING, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return false;
        }
        let message = message(stored);
        let sent = send(&self.socket, &message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        let is_said = sent == Ok(message.len());
        if is_said {
            self.reported.fetch_max(stored.bytes(), Ordering::Release);
        } else if sent.is_ok() {
            // Half a message is worse than none: whoever listens finds the connection closed and begins another.
            shutdown(&self.socket, Shutdown::Both).unwrap_or_default();
        }
        self.desk.0.store(FREE, Ordering::Release);
        is_said
    }
}

/// Closes the conversation when the connection is dropped, whoever still holds the socket: a reporter may hang on a disk, and a
/// server that shuts down would wait for it.
#[derive(Debug)]
pub(crate) struct HangUp(OwnedFd);

impl Drop for HangUp {
    fn drop(&mut self) {
        // An error says that it is closed already.
        shutdown(&self.0, Shutdown::Both).ok();
    }
}

/// CopyData with a standby status update (manual chapter 54.4): written, flushed, applied (0: nothing said), clock, no reply wanted.
fn message(stored: Lsn) -> [u8; 39] {
    let mut message = [0; 39];
    let mut at = &mut message[..];
    at.put_u8(b'd');
    at.put_u32(38);
    at.put_u8(b'r');
    at.put_u64(stored.bytes());
    at.put_u64(stored.bytes());
    at.put_u64(0);
    at.put_i64(SystemClock.now().postgres_micros());
    at.put_u8(0);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn reporter() -> (Reporter, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Reporter { socket: ours.into(), desk: Arc::default(), reported: Arc::default() }, theirs)
    }

    #[test]
    fn a_report_is_one_whole_message() {
        let (reporter, mut server) = reporter();
        assert!(reporter.report(Lsn::from_bytes(0x0123_4567)));
        let mut got = [0; 64];
        assert_eq!(server.read(&mut got).unwrap(), 39);
        assert_eq!(
            (&got[..6], &got[6..14], &got[14..22]),
            (&b"d\0\0\0\x26r"[..], &0x0123_4567u64.to_be_bytes()[..], &0x0123_4567u64.to_be_bytes()[..])
        );
        assert_eq!(reporter.reported.load(Ordering::Acquire), 0x0123_4567);
    }

    #[test]
    fn a_dropped_connection_is_closed_although_a_reporter_lives() {
        let (reporter, mut server) = reporter();
        drop(HangUp(reporter.socket.try_clone().unwrap()));
        assert_eq!(server.read(&mut [0; 64]).unwrap(), 0, "the end of the conversation");
        assert!(!reporter.report(Lsn::from_bytes(7)));
        assert_eq!(reporter.reported.load(Ordering::Acquire), 0);
    }

    #[test]
    fn nothing_is_said_while_the_connection_has_something_to_say() {
        let (reporter, mut server) = reporter();
        reporter.desk.take();
        reporter.desk.take();
        assert!(!reporter.report(Lsn::from_bytes(7)));
        assert!(server.read(&mut [0; 64]).is_err(), "the two would mix");
        assert_eq!(reporter.reported.load(Ordering::Acquire), 0);
        reporter.desk.free();
        assert!(reporter.report(Lsn::from_bytes(8)));
        assert_eq!(server.read(&mut [0; 64]).unwrap(), 39);
    }
}
