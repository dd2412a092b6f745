//! Where the page listens: plain on this host, with TLS and a token beyond it.

use crate::access::{Access, TOKEN_LEAST};
use crate::{PageError, Source, routes};
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use terms::Secret;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

/// Connections at once; more wait.
const CONNECTIONS: usize = 256;
/// How long somebody may take to shake hands.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// An observation that is older is none: the daemon hangs.
const FRESH: Duration = Duration::from_secs(90);

/// Where, and for whom.
#[derive(Debug, Clone)]
pub struct PageSettings {
    /// The address and port; 0 is any free one.
    pub listen: SocketAddr,
    /// `None`: everybody may look, which only this host's own addresses allow.
    pub token: Option<Secret>,
    /// `None`: plain HTTP, which only this host's own addresses allow.
    pub tls: Option<TlsFiles>,
    /// How old the newest observation may be before `/readyz` says no.
    pub fresh: Duration,
}

impl PageSettings {
    /// On this host, for everybody on it.
    pub fn local(listen: SocketAddr) -> Self {
        Self { listen, token: None, tls: None, fresh: FRESH }
    }
}

/// PEM files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate, then its chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A page that listens.
pub struct Page {
    door: Door,
    address: SocketAddr,
    state: routes::State,
}

impl Page {
    /// Listens, once it is sure that nobody sees it who must not.
    pub async fn bind(settings: &PageSettings, source: Arc<dyn Source>) -> Result<Self, PageError> {
        let listen = settings.listen;
        let lacks = match (&settings.token, &settings.tls) {
            (None, _) => Some("token"),
            (_, None) => Some("certificate"),
            _ => None,
        };
        if let Some(lacks) = lacks.filter(|_| !listen.ip().is_loopback()) {
            return Err(PageError::Open { listen, lacks });
        }
        if settings.token.as_ref().is_some_and(|token| token.reveal().len() < TOKEN_LEAST) {
            return Err(PageError::ShortToken { least: TOKEN_LEAST });
        }
        let tls = settings.tls.as_ref().map(acceptor).transpose()?;
        let failed = |e: io::Error| PageError::Listen { listen, why: e.to_string() };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let is_tls = tls.is_some();
        let state = routes::State::new(source, Access::new(settings.token.clone()), is_tls, settings.fresh);
        Ok(Self { door: Door::open(listener, tls), address, state })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows until `end` comes.
    pub async fn run(self, end: impl Future<Output = ()> + Send + 'static) {
        let service = routes::router(self.state).into_make_service_with_connect_info::<Peer>();
        // Accepting never fails here: the door waits.
        drop(axum::serve(self.door, service).with_graceful_shutdown(end).await);
    }
}

fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, PageError> {
    let bad = |path: &Path| {
        let path = path.to_owned();
        move |e: &dyn std::fmt::Display| PageError::Tls { path, why: e.to_string() }
    };
    let read = |path: &Path| std::fs::read(path).map_err(|e| bad(path)(&e));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(&files.cert)?).collect();
    let chain = chain.map_err(|e| bad(&files.cert)(&e))?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|e| bad(&files.key)(&e))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|e| bad(&files.cert)(&e))?;
    let config = config.with_no_client_auth().with_single_cert(chain, key).map_err(|e| bad(&files.cert)(&e))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Takes connections, and shakes hands with each beside the others: whoever is slow keeps nobody waiting.
struct Door {
    ready: mpsc::Receiver<(Connection, SocketAddr)>,
    address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
}

impl Door {
    fn open(listener: TcpListener, tls: Option<TlsAcceptor>) -> Self {
        let address = listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
        let (sender, ready) = mpsc::channel(16);
        let accepting = tokio::spawn(accept(listener, tls, sender));
        Self { ready, address, accepting }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, sender: mpsc::Sender<(Connection, SocketAddr)>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Too many open files, or a caller who is gone: later is better than never.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, sender) = (tls.clone(), sender.clone());
        tokio::spawn(async move {
            let io: Box<dyn Duplex> = match tls {
                None => Box::new(stream),
                Some(tls) => match tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
                    Ok(Ok(stream)) => Box::new(stream),
                    _ => return,
                },
            };
            drop(sender.send((Connection { io, _permit: permit }, from)).await);
        });
    }
}

impl Listener for Door {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// Whose connection it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Self(*stream.remote_addr())
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl Duplex for TcpStream {}
impl Duplex for tokio_rustls::server::TlsStream<TcpStream> {}

/// A caller's bytes, plain or not.
struct Connection {
    io: Box<dyn Duplex>,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
