//! Opens the socket to a server, and decides which host and which encryption to try next.

use crate::PgError;
use crate::conninfo::{Address, ConnInfo};
use crate::conninfo_kinds::SslMode;
use rustix::net::sockopt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use terms::{Class, Explain};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};

/// A plain connection to a server.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Whether one try speaks TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encryption {
    Never,
    /// TLS if the server has it, plain if it says that it has not.
    IfOffered,
    Always,
}

/// The tries still to make, and why those made so far failed.
pub(crate) struct Tries<'a> {
    left: Vec<(&'a Address, Vec<Encryption>)>,
    failed: Vec<PgError>,
}

impl<'a> Tries<'a> {
    pub(crate) fn new(info: &'a ConnInfo) -> Self {
        let mut left: Vec<_> = info.addresses.iter().map(|address| (address, ladder(address, info.tls.mode))).collect();
        left.reverse();
        Self { left, failed: Vec::new() }
    }

    /// The next one to make.
    pub(crate) fn next(&mut self) -> Option<(&'a Address, Encryption)> {
        let (address, ladder) = self.left.last_mut()?;
        let (address, encryption) = (*address, ladder.remove(0));
        if ladder.is_empty() {
            self.left.pop();
        }
        Some((address, encryption))
    }

    /// Notes why the last try failed. An error means that no other host should be asked: a server that knows us and says
    /// no ends the search, one that cannot be reached does not (manual chapter 32.1.1.3, "Specifying Multiple Hosts").
    pub(crate) fn failed(&mut self, address: &'a Address, error: PgError) -> Result<(), PgError> {
        if let Some((next, ladder)) = self.left.last()
            && std::ptr::eq(*next, address)
        {
            if may_fare_better(&error, ladder[0]) {
                self.failed.push(error);
                return Ok(());
            }
            self.left.pop();
        }
        // The first of two tries at a host says more than the second when that one finds no TLS.
        if let (PgError::TlsNotOffered { address: at }, Some(PgError::Server(before))) = (&error, self.failed.last())
            && before.peer.address == *at
        {
            return Err(self.failed.pop().unwrap_or(error));
        }
        let goes_on = error.class() == Class::Transient || matches!(error, PgError::Tls { .. } | PgError::TlsNotOffered { .. });
        if goes_on {
            self.failed.push(error)
        } else {
            return Err(error);
        }
        Ok(())
    }

    /// What to say when every try failed.
    pub(crate) fn into_error(mut self) -> PgError {
        match self.failed.pop() {
            None => PgError::ConnInfo { what: "It names no host".into() },
            Some(only) if self.failed.is_empty() => only,
            Some(last) => {
                self.failed.push(last);
                PgError::NoHost { tried: self.failed }
            }
        }
    }
}

/// Encryption is never used on a Unix socket (manual chapter 32.1.2, `sslmode`).
fn ladder(address: &Address, mode: SslMode) -> Vec<Encryption> {
    match (address, mode) {
        (Address::Unix { .. }, _) | (_, SslMode::Disable) => vec![Encryption::Never],
        (_, SslMode::Allow) => vec![Encryption::Never, Encryption::Always],
        (_, SslMode::Prefer) => vec![Encryption::IfOffered, Encryption::Never],
        _ => vec![Encryption::Always],
    }
}

/// Whether the other kind of connection may fare better: the handshake failed, or pg_hba.conf has no line for this kind.
fn may_fare_better(error: &PgError, next: Encryption) -> bool {
    match error {
        PgError::Tls { .. } => true,
        PgError::Server(said) if said.slug() == "pg-no-hba-entry" => said.message.contains("no encryption") == (next == Encryption::Always),
        _ => false,
    }
}

/// Connects the socket; every IP address of the name is tried. [`PgError::Unreachable`] tells why the last one failed.
pub(crate) async fn dial(info: &ConnInfo, address: &Address) -> Result<Socket, PgError> {
    let unreachable = |why: io::Error| PgError::Unreachable { address: address.describe(), why };
    match address {
        Address::Unix { .. } => Ok(Socket::Unix(UnixStream::connect(address.socket()).await.map_err(unreachable)?)),
        Address::Tcp { ip: Some(ip), port, .. } => tcp(info, (*ip, *port).into()).await.map_err(unreachable),
        Address::Tcp { name, port, ip: None } => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for each in lookup_host((name.as_str(), *port)).await.map_err(|error| unreachable(io::Error::other(error)))? {
                match tcp(info, each).await {
                    Ok(socket) => return Ok(socket),
                    Err(error) => last = error,
                }
            }
            Err(unreachable(last))
        }
    }
}

async fn tcp(info: &ConnInfo, to: std::net::SocketAddr) -> io::Result<Socket> {
    let stream = TcpStream::connect(to).await?;
    // A status of 39 bytes must not wait for company.
    stream.set_nodelay(true)?;
    if let Some(keepalive) = info.keepalive {
        let seconds = |time: Duration| time.max(Duration::from_secs(1));
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, seconds(keepalive.idle))?;
        sockopt::set_tcp_keepintvl(&stream, seconds(keepalive.interval))?;
        sockopt::set_tcp_keepcnt(&stream, keepalive.count.clamp(1, 127))?;
    }
    if !info.tcp_user_timeout.is_zero() {
        // Keepalives notice a dead peer only while nothing is under way; this notices it when our bytes stay unconfirmed.
        sockopt::set_tcp_user_timeout(&stream, u32::try_from(info.tcp_user_timeout.as_millis()).unwrap_or(u32::MAX))?;
    }
    Ok(Socket::Tcp(stream))
}

/// Runs one try within the connection string's limit.
pub(crate) async fn within_limit<T>(info: &ConnInfo, address: &Address, doing: impl Future<Output = Result<T, PgError>>) -> Result<T, PgError> {
    if info.connect_timeout.is_zero() {
        return doing.await;
    }
    let late = |_| PgError::ConnectTimeout { address: address.describe(), seconds: info.connect_timeout.as_secs() };
    tokio::time::timeout(info.connect_timeout, doing).await.map_err(late)?
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(text: &str) -> ConnInfo {
        ConnInfo::parse(text, &|_| None).unwrap()
    }

    fn refused(address: &Address) -> PgError {
        PgError::Unreachable { address: address.describe(), why: io::ErrorKind::ConnectionRefused.into() }
    }

    #[test]
    fn an_unreachable_host_leads_to_the_next_and_a_refusal_ends_the_search() {
        let info = info("user=u host=a,b,c sslmode=disable");
        let mut tries = Tries::new(&info);
        let (a, _) = tries.next().unwrap();
        tries.failed(a, refused(a)).unwrap();
        let (b, _) = tries.next().unwrap();
        assert_eq!(b.describe(), "b:5432");
        let no = PgError::PasswordNeeded { address: b.describe(), user: "u".into(), note: None };
        assert!(matches!(tries.failed(b, no), Err(PgError::PasswordNeeded { .. })));
    }

    #[test]
    fn prefer_falls_back_to_plain_only_when_encryption_was_the_trouble() {
        let info = info("user=u host=a,b");
        let mut tries = Tries::new(&info);
        let (a, first) = tries.next().unwrap();
        tries.failed(a, PgError::Tls { address: "a".into(), why: "x".into() }).unwrap();
        let (again, second) = tries.next().unwrap();
        assert_eq!((first, second, again), (Encryption::IfOffered, Encryption::Never, a));
        tries.failed(again, refused(a)).unwrap();
        let (b, _) = tries.next().unwrap();
        tries.failed(b, refused(b)).unwrap();
        assert!(tries.next().is_none(), "a refused connection is not tried again without TLS");
        assert!(matches!(tries.into_error(), PgError::NoHost { tried } if tried.len() == 3));
    }
}
