//! A caller's bytes, plain or not; one who does not take its answer is let go.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// Bytes both ways.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl Duplex for TcpStream {}
impl Duplex for tokio_rustls::server::TlsStream<TcpStream> {}

/// A connection that ends when its caller does not take what is written. That one asks in time is hyper's to see to.
pub(crate) struct Connection {
    io: Box<dyn Duplex>,
    patience: Duration,
    /// Since a write could not go on.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    /// No write waits longer than `patience` for the caller.
    pub(crate) fn new(io: Box<dyn Duplex>, patience: Duration) -> Self {
        Self { io, patience, stalled: None }
    }

    fn bounded<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        stalled.as_mut().poll(context).map(|()| Err(io::Error::from(io::ErrorKind::TimedOut)))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.bounded(context, written)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        self.bounded(context, flushed)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(context);
        self.bounded(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    impl Duplex for DuplexStream {}

    #[tokio::test]
    async fn who_takes_no_answer_is_let_go_and_who_takes_it_is_not() {
        let patience = Duration::from_millis(20);
        let (here, there) = duplex(16);
        let error = Connection::new(Box::new(here), patience).write_all(&[7; 100]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(there);

        let (here, mut there) = duplex(16);
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            there.read_to_end(&mut all).await.map(|_| all)
        });
        let mut connection = Connection::new(Box::new(here), Duration::from_secs(3600));
        connection.write_all(&[7; 100]).await.expect("somebody reads");
        drop(connection);
        assert_eq!(reading.await.expect("it ends").expect("it reads"), [7; 100]);
    }
}
