//! Where the page listens: plain on this host, with TLS and a token beyond it.

use crate::access::{Access, TOKEN_LEAST};
use crate::connection::{Connection, Duplex};
use crate::guests::{Guest, Guests};
use crate::{PageError, Source, routes};
use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use terms::Secret;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch::{Receiver, channel};
use tokio_rustls::TlsAcceptor;

/// How long somebody may take to shake hands.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long somebody may take to ask, and to take the answer: whoever is connected and does neither keeps others out.
const PATIENCE: Duration = Duration::from_secs(10);
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
    /// How long a caller may take over a request's head, over its body, and until it takes more of the answer; so long a connection on
    /// which nothing is asked stays open, too.
    pub patience: Duration,
}

impl PageSettings {
    /// On this host, for everybody on it.
    pub fn local(listen: SocketAddr) -> Self {
        Self { listen, token: None, tls: None, fresh: FRESH, patience: PATIENCE }
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
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    patience: Duration,
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
        let (access, patience) = (Access::new(settings.token.clone()), settings.patience);
        let state = routes::State::new(source, access, is_tls, settings.fresh, patience);
        Ok(Self { listener, tls, patience, address, state })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows until `end` comes.
    pub async fn run(self, end: impl Future<Output = ()> + Send + 'static) {
        let Self { listener, tls, patience, state, .. } = self;
        // Each connection has one of the receivers: it is told of the end by it, and has ended when it is gone.
        let (ending, going) = channel(());
        let door = Door { router: routes::router(state), tls, patience, going };
        tokio::select! {
            () = door.accept(&listener) => {}
            () = end => {}
        }
        drop((listener, door));
        ending.send_replace(());
        ending.closed().await;
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

/// Takes connections, and serves each beside the others: whoever is slow keeps nobody waiting.
#[derive(Clone)]
struct Door {
    router: Router,
    tls: Option<TlsAcceptor>,
    patience: Duration,
    going: Receiver<()>,
}

/// Whose connection it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl Door {
    async fn accept(&self, listener: &TcpListener) {
        let guests = Guests::new();
        while let Some(room) = guests.room().await {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                // Too many open files, or a caller who is gone: later is better than never.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if let Some(guest) = guests.admit(room, from.ip()) {
                tokio::spawn(self.clone().receive(stream, from, guest));
            }
        }
    }

    /// Until the caller has gone, has tried our patience, or has to make room for one who may have more to say.
    async fn receive(self, stream: TcpStream, from: SocketAddr, guest: Guest) {
        let Self { router, tls, patience, mut going } = self;
        let io = tokio::select! {
            io = shake_hands(tls, stream) => io,
            () = guest.must_leave() => None,
            _ = going.changed() => None,
        };
        let Some(io) = io else { return };
        let router = TowerToHyperService::new(router);
        let stay = guest.stay();
        let service = service_fn(move |mut request: Request<Incoming>| {
            stay.asks();
            request.extensions_mut().insert(ConnectInfo(Peer(from)));
            router.call(request)
        });
        // axum::serve gives hyper no timer, and without one hyper waits for a request for ever.
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(patience);
        let mut served = pin!(http.serve_connection(TokioIo::new(Connection::new(io, patience)), service));
        tokio::select! {
            _ = served.as_mut() => return,
            () = guest.must_leave() => return,
            _ = going.changed() => {}
        }
        served.as_mut().graceful_shutdown();
        drop(served.await);
    }
}

async fn shake_hands(tls: Option<TlsAcceptor>, stream: TcpStream) -> Option<Box<dyn Duplex>> {
    let Some(tls) = tls else { return Some(Box::new(stream)) };
    match tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(Box::new(stream)),
        _ => None,
    }
}
