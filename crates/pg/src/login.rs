//! Begins a replication session: TLS, the startup message, the password.

use crate::certificate::end_point_digest;
use crate::conninfo::{Address, ConnInfo};
use crate::dial::{Encryption, Socket, dial};
use crate::frames::{Frame, Frames, Transport, c_string, lost};
use crate::tls::{client_config, server_name};
use crate::{Peer, PgError};
use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;
use std::sync::Arc;
use terms::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const DOING: &str = "log in for replication";

/// A session with a walsender, ready for its first command (manual chapter 54.2.1, "Start-up").
pub(crate) async fn log_in(info: &ConnInfo, address: &Address, encryption: Encryption) -> Result<Frames, PgError> {
    let peer = Arc::new(Peer { address: address.describe(), user: info.user.clone(), database: "replication".into() });
    let (transport, end_point) = transport(info, address, encryption, &peer).await?;
    let mut frames = Frames::new(transport, peer);
    let mut parameters = vec![
        ("user", info.user.as_str()),
        ("replication", "true"),
        ("client_encoding", "UTF8"),
        ("application_name", info.application_name.as_str()),
    ];
    parameters.extend(info.options.as_deref().map(|options| ("options", options)));
    frames.queue(|out| frontend::startup_message(parameters, out))?;
    authenticate(&mut frames, info, address, end_point).await?;
    loop {
        let frame = frames.next(DOING).await?;
        match frame.tag {
            b'Z' => return Ok(frames),
            b'K' => {}
            b'E' => return Err(frames.said_no(frame.body, DOING)),
            other => return Err(frames.unexpected(other, DOING)),
        }
    }
}

/// The socket, encrypted as asked, and the digest of the server's certificate for channel binding.
async fn transport(info: &ConnInfo, address: &Address, encryption: Encryption, peer: &Peer) -> Result<(Transport, Option<Vec<u8>>), PgError> {
    let mut socket = dial(info, address).await?;
    if encryption == Encryption::Never || !offers_tls(&mut socket, peer).await? {
        return match encryption {
            Encryption::Always => Err(PgError::TlsNotOffered { address: address.describe() }),
            _ => Ok((Transport::Plain(socket), None)),
        };
    }
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(&info.tls)?));
    let stream = connector.connect(server_name(address)?, socket).await.map_err(|error| lost(peer, "encrypt the connection", error))?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let end_point = certificate.and_then(end_point_digest);
    Ok((Transport::Tls(Box::new(stream)), end_point))
}

/// Asks for TLS. Exactly one byte is read: anything sent along with the answer would be from someone in between
/// (CVE-2021-23222).
async fn offers_tls(socket: &mut Socket, peer: &Peer) -> Result<bool, PgError> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await.map_err(|error| lost(peer, "ask for TLS", error))?;
    match socket.read_u8().await.map_err(|error| lost(peer, "ask for TLS", error))? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        other => {
            Err(PgError::Protocol { address: peer.address.clone(), what: format!("The answer to a request for TLS is {:?}", char::from(other)) })
        }
    }
}

/// Answers the server's questions until it is satisfied (manual chapter 54.7, the Authentication messages).
async fn authenticate(frames: &mut Frames, info: &ConnInfo, address: &Address, end_point: Option<Vec<u8>>) -> Result<(), PgError> {
    loop {
        let (kind, mut body) = question(frames).await?;
        match kind {
            0 => return Ok(()),
            3 => {
                let password = password(info, address)?;
                frames.queue(|out| frontend::password_message(password.reveal().as_bytes(), out))?;
            }
            5 => {
                let mut salt = [0; 4];
                body.try_copy_to_slice(&mut salt).map_err(|_| frames.protocol("The salt is too short"))?;
                let hash = md5_hash(info.user.as_bytes(), password(info, address)?.reveal().as_bytes(), salt);
                frames.queue(|out| frontend::password_message(hash.as_bytes(), out))?;
            }
            10 => scram(frames, body, &password(info, address)?, end_point.clone()).await?,
            other => {
                let method = match other {
                    2 => "Kerberos".to_owned(),
                    7 | 8 => "GSSAPI".to_owned(),
                    9 => "SSPI".to_owned(),
                    _ => format!("authentication of kind {other}"),
                };
                return Err(PgError::AuthUnsupported { address: address.describe(), method });
            }
        }
    }
}

/// SCRAM-SHA-256, bound to the TLS channel when both sides can (RFC 5802; manual chapter 54.3.1).
async fn scram(frames: &mut Frames, mut offered: Bytes, password: &Secret, end_point: Option<Vec<u8>>) -> Result<(), PgError> {
    let mut mechanisms = Vec::new();
    while let Some(name) = c_string(&mut offered).filter(|name| !name.is_empty()) {
        mechanisms.push(name);
    }
    let offers = |name: &str| mechanisms.iter().any(|mechanism| mechanism == name);
    let (mechanism, binding) = match end_point {
        Some(digest) if offers(SCRAM_SHA_256_PLUS) => (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(digest)),
        // "y": we could, and believe that the server cannot. A server that did offer it then notices who removed the offer.
        Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
        None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
    };
    if !offers(mechanism) {
        return Err(PgError::AuthUnsupported { address: frames.peer.address.clone(), method: format!("SASL with {}", mechanisms.join(", ")) });
    }
    let mut scram = ScramSha256::new(password.reveal().as_bytes(), binding);
    frames.queue(|out| frontend::sasl_initial_response(mechanism, scram.message(), out))?;
    let challenge = answer(frames, 11).await?;
    scram.update(&challenge).map_err(|error| frames.protocol(format!("The server's SCRAM challenge is not right: {error}")))?;
    frames.queue(|out| frontend::sasl_response(scram.message(), out))?;
    let proof = answer(frames, 12).await?;
    scram.finish(&proof).map_err(|error| frames.protocol(format!("The server does not prove that it knows the password: {error}")))
}

async fn answer(frames: &mut Frames, wanted: u32) -> Result<Bytes, PgError> {
    match question(frames).await? {
        (kind, body) if kind == wanted => Ok(body),
        (kind, _) => Err(frames.protocol(format!("Authentication message {kind} came where {wanted} was due"))),
    }
}

async fn question(frames: &mut Frames) -> Result<(u32, Bytes), PgError> {
    let Frame { tag, mut body } = frames.next(DOING).await?;
    match tag {
        b'R' => body.try_get_u32().map(|kind| (kind, body)).map_err(|_| frames.protocol("An authentication message is too short")),
        b'E' => Err(frames.said_no(body, DOING)),
        other => Err(frames.unexpected(other, DOING)),
    }
}

fn password(info: &ConnInfo, address: &Address) -> Result<Secret, PgError> {
    let (password, note) = info.password_for(address, "replication");
    password.ok_or_else(|| PgError::PasswordNeeded { address: address.describe(), user: info.user.clone(), note })
}
