//! Cuts the server's byte stream into protocol messages and sends ours, over a socket with or without TLS.

use crate::dial::Socket;
use crate::reporter::{Desk, HangUp, Reporter};
use crate::{Peer, PgError, ServerError};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio_rustls::client::TlsStream;

/// No message of the server's is longer: WAL comes in 128 KiB pieces and a base backup in smaller ones. A longer one
/// means that the two sides no longer agree where a message begins.
const LONGEST_FRAME: usize = 64 << 20;
/// How much room the buffer gets when it runs full: a few WAL messages, so that one system call brings more than one.
const READ_AHEAD: usize = 512 << 10;
/// A read into less room than this is not worth its system call.
const LEAST_ROOM: usize = 64 << 10;
/// rustls zeroes all the room it is given and fills a record's worth of it.
const TLS_ROOM: usize = 64 << 10;
/// Warnings kept for whoever asks; a flood of them must not fill the memory.
const MOST_WARNINGS: usize = 100;

/// One message: its type and what follows its length (manual chapter 54.7, "Message Formats").
pub(crate) struct Frame {
    pub(crate) tag: u8,
    pub(crate) body: Bytes,
}

/// The byte stream below the messages.
pub(crate) enum Transport {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

/// The messages of one connection.
pub(crate) struct Frames {
    transport: Transport,
    input: BytesMut,
    output: BytesMut,
    /// TLS may hold back what it was given until it is flushed.
    unflushed: bool,
    /// Who may write to the socket.
    desk: Arc<Desk>,
    hang_up: Option<HangUp>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) warnings: Vec<String>,
}

impl Frames {
    pub(crate) fn new(transport: Transport, peer: Arc<Peer>) -> Self {
        Self {
            transport,
            input: BytesMut::new(),
            output: BytesMut::new(),
            unflushed: false,
            desk: Arc::default(),
            hang_up: None,
            peer,
            parameters: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    /// The next message, after whatever is queued is sent; notices and parameters are dealt with here.
    /// Dropping the future loses nothing: what was read or not yet written stays in the buffers.
    pub(crate) async fn next(&mut self, doing: &str) -> Result<Frame, PgError> {
        self.flush(doing).await?;
        loop {
            while let Some(frame) = self.split()? {
                match frame.tag {
                    b'N' => self.note(&frame.body),
                    b'S' => self.keep_parameter(frame.body)?,
                    b'A' => {}
                    _ => return Ok(frame),
                }
            }
            self.fill(doing).await?;
        }
    }

    /// Writes a message into the queue; [`Frames::flush`] and [`Frames::next`] send it.
    pub(crate) fn queue(&mut self, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<(), PgError> {
        self.desk.take();
        self.unflushed = true;
        write(&mut self.output).map_err(|error| self.protocol(format!("A message cannot be written: {error}")))
    }

    /// Sends what is queued. Dropping the future loses nothing.
    pub(crate) async fn flush(&mut self, doing: &str) -> Result<(), PgError> {
        while self.unflushed {
            let done = match &mut self.transport {
                Transport::Plain(socket) => write_out(socket, &mut self.output).await,
                Transport::Tls(stream) => write_out(stream, &mut self.output).await,
            };
            done.map_err(|error| self.lost(doing, error))?;
            self.unflushed = false;
            self.desk.free();
        }
        Ok(())
    }

    /// A second pen; none where TLS is spoken, whose state has one owner.
    pub(crate) fn reporter(&mut self, reported: &Arc<AtomicU64>) -> Option<Reporter> {
        let Transport::Plain(socket) = &self.transport else { return None };
        let (reporter, hang_up) = Reporter::new(socket, self.desk.clone(), reported.clone())?;
        self.hang_up = Some(hang_up);
        Some(reporter)
    }

    /// Whether TLS is spoken.
    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self.transport, Transport::Tls(_))
    }

    /// Whether the next message is here already, whole.
    pub(crate) fn has_next(&self) -> bool {
        let length = self.input.get(1..5).map(|l| u32::from_be_bytes([l[0], l[1], l[2], l[3]]) as usize);
        length.is_some_and(|length| self.input.len() > length)
    }

    /// Takes a whole message off the buffer.
    fn split(&mut self) -> Result<Option<Frame>, PgError> {
        let Some((head, _)) = self.input.split_at_checked(5) else { return Ok(None) };
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if !(4..=LONGEST_FRAME).contains(&length) {
            return Err(self.protocol(format!("A message of {length} bytes cannot be")));
        }
        if self.input.len() <= length {
            return Ok(None);
        }
        let tag = head[0];
        let mut body = self.input.split_to(length + 1).freeze();
        body.advance(5);
        Ok(Some(Frame { tag, body }))
    }

    async fn fill(&mut self, doing: &str) -> Result<(), PgError> {
        if self.input.capacity() - self.input.len() < LEAST_ROOM {
            self.input.reserve(READ_AHEAD);
        }
        let read = match &mut self.transport {
            Transport::Plain(socket) => socket.read_buf(&mut self.input).await,
            Transport::Tls(stream) => stream.read_buf(&mut (&mut self.input).limit(TLS_ROOM)).await,
        };
        match read {
            Ok(0) => Err(self.lost(doing, io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"))),
            Ok(_) => Ok(()),
            Err(error) => Err(self.lost(doing, error)),
        }
    }

    fn keep_parameter(&mut self, mut body: Bytes) -> Result<(), PgError> {
        match (c_string(&mut body), c_string(&mut body)) {
            (Some(name), Some(value)) => self.parameters.insert(name, value),
            _ => return Err(self.protocol("A parameter has no end")),
        };
        Ok(())
    }

    fn note(&mut self, body: &Bytes) {
        let said = fields(body.clone());
        let is_warning = said.get(&b'V').or(said.get(&b'S')).is_some_and(|severity| severity == "WARNING");
        if is_warning && self.warnings.len() < MOST_WARNINGS {
            self.warnings.extend(said.get(&b'M').cloned());
        }
    }

    /// An ErrorResponse as an error.
    pub(crate) fn said_no(&self, body: Bytes, doing: &str) -> PgError {
        let mut said = fields(body);
        let mut take = |field: u8| said.remove(&field).unwrap_or_default();
        PgError::Server(Box::new(ServerError {
            peer: self.peer.clone(),
            doing: doing.to_owned(),
            code: take(b'C'),
            message: take(b'M'),
            server_detail: take(b'D'),
            server_hint: take(b'H'),
        }))
    }

    /// An answer that does not belong here.
    pub(crate) fn unexpected(&self, tag: u8, doing: &str) -> PgError {
        self.protocol(format!("A message {:?} came while trying to {doing}", char::from(tag)))
    }

    pub(crate) fn protocol(&self, what: impl Into<String>) -> PgError {
        PgError::Protocol { address: self.peer.address.clone(), what: what.into() }
    }

    pub(crate) fn lost(&self, doing: &str, error: io::Error) -> PgError {
        lost(&self.peer, doing, error)
    }
}

/// A broken connection, or, when TLS itself complains (a client certificate refused after the handshake), that.
pub(crate) fn lost(peer: &Peer, doing: &str, error: io::Error) -> PgError {
    let address = peer.address.clone();
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => PgError::Tls { address, why: tls.to_string() },
        None => PgError::ConnectionLost { address, doing: doing.to_owned(), why: error.to_string() },
    }
}

async fn write_out<S: AsyncWriteExt + AsyncRead + Unpin>(stream: &mut S, output: &mut BytesMut) -> io::Result<()> {
    while output.has_remaining() {
        if stream.write_buf(output).await? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    stream.flush().await
}

/// The columns of a DataRow.
pub(crate) fn columns(mut body: Bytes) -> Option<Vec<Option<Bytes>>> {
    let count = body.try_get_u16().ok()?;
    let mut found = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let length = body.try_get_i32().ok()?;
        found.push(match usize::try_from(length) {
            Err(_) if length == -1 => None,
            Ok(length) if length <= body.len() => Some(body.split_to(length)),
            _ => return None,
        });
    }
    Some(found)
}

/// Text up to a NUL, which is taken too.
pub(crate) fn c_string(body: &mut Bytes) -> Option<String> {
    let end = body.iter().position(|byte| *byte == 0)?;
    let text = String::from_utf8_lossy(&body.split_to(end)).into_owned();
    body.advance(1);
    Some(text)
}

/// The fields of an ErrorResponse or NoticeResponse (manual chapter 54.8).
fn fields(mut body: Bytes) -> BTreeMap<u8, String> {
    let mut found = BTreeMap::new();
    while let Ok(field @ 1..) = body.try_get_u8() {
        let Some(text) = c_string(&mut body) else { break };
        found.insert(field, text);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixStream;

    fn pair() -> (Frames, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = Arc::new(Peer { address: "test".into(), user: "u".into(), database: "d".into() });
        (Frames::new(Transport::Plain(Socket::Unix(ours)), peer), theirs)
    }

    #[tokio::test]
    async fn a_message_in_pieces_arrives_whole_even_when_the_wait_was_given_up() {
        let (mut frames, mut server) = pair();
        server.write_all(b"d\0\0\0").await.unwrap();
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), frames.next("test")).await.is_err());
        server.write_all(b"\x07abcN\0\0\0\x1bSWARNING\0Mlow on disk\0\0Z\0\0\0\x05I").await.unwrap();
        let frame = frames.next("test").await.unwrap();
        assert_eq!((frame.tag, &frame.body[..]), (b'd', &b"abc"[..]));
        assert_eq!(frames.next("test").await.unwrap().tag, b'Z');
        assert_eq!(frames.warnings, ["low on disk"]);
    }

    #[tokio::test]
    async fn a_length_that_cannot_be_ends_the_conversation() {
        for length in [0u32, 3, 65 << 20, u32::MAX] {
            let (mut frames, mut server) = pair();
            server.write_all(&[&b"d"[..], &length.to_be_bytes()].concat()).await.unwrap();
            assert!(matches!(frames.next("test").await, Err(PgError::Protocol { .. })), "{length}");
        }
        let (mut frames, server) = pair();
        drop(server);
        assert!(matches!(frames.next("test").await, Err(PgError::ConnectionLost { .. })));
    }

    #[test]
    fn rows_and_fields_cut_short_are_noticed() {
        assert_eq!(columns(Bytes::from_static(b"\0\x02\0\0\0\x01a\xff\xff\xff\xff")), Some(vec![Some(Bytes::from_static(b"a")), None]));
        for bad in [&b""[..], b"\0\x01", b"\0\x01\0\0\0\x05a", b"\0\x01\xff\xff\xff\xfe"] {
            assert_eq!(columns(Bytes::copy_from_slice(bad)), None, "{bad:?}");
        }
        assert_eq!(fields(Bytes::from_static(b"C28P01\0Mno\0\0")).len(), 2);
        assert_eq!(fields(Bytes::from_static(b"Cno end")).len(), 0);
    }
}
