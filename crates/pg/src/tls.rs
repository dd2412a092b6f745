//! Encryption as libpq's sslmode asks for it, on rustls; one connector for SQL and replication alike.

use crate::PgError;
use crate::certificate::{is_current, names_host};
use crate::conninfo::Address;
use crate::conninfo_kinds::{RootCert, SslMode, TlsSettings};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// The rustls settings for `settings`. Files are read here, once a connection: a renewed certificate is seen.
/// [`PgError::ConnFile`] names the file that cannot be used.
pub(crate) fn client_config(settings: &TlsSettings) -> Result<ClientConfig, PgError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(LibpqVerifier::new(settings, &provider)?);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| PgError::ConnInfo { what: format!("TLS cannot be set up: {error}") })?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some((certificate, key)) = &settings.identity else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates("client certificate (sslcert)", certificate)?;
    builder.with_client_auth_cert(chain, private_key(key)?).map_err(|error| PgError::ConnFile {
        what: "client certificate (sslcert)",
        path: certificate.clone(),
        why: error.to_string(),
    })
}

/// The name that the server's certificate must carry under verify-full.
pub(crate) fn server_name(address: &Address) -> Result<ServerName<'static>, PgError> {
    let name = match address {
        Address::Tcp { name, .. } => name.clone(),
        Address::Unix { .. } => "localhost".to_owned(),
    };
    ServerName::try_from(name).map_err(|_| PgError::Tls { address: address.describe(), why: "The host's name cannot stand in a certificate".into() })
}

/// Checks a server's certificate the way libpq does (manual chapter 32.19.1), which is not the way of the web:
/// no root certificate means no check at all below verify-ca, the name counts only under verify-full, a server's own
/// self-signed certificate may be the root, and a certificate without alternative names is known by its common name.
#[derive(Debug)]
struct LibpqVerifier {
    /// `None`: nothing is checked.
    roots: Option<RootCertStore>,
    /// The root file's certificates as they are, to recognise the server's own among them.
    pinned: Vec<CertificateDer<'static>>,
    compare_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl LibpqVerifier {
    fn new(settings: &TlsSettings, provider: &CryptoProvider) -> Result<Self, PgError> {
        let must_verify = settings.mode >= SslMode::VerifyCa;
        let (roots, pinned) = match &settings.root {
            None if must_verify => {
                return Err(PgError::ConnInfo {
                    what: "sslmode asks for the server's certificate to be verified, but there is neither sslrootcert nor ~/.postgresql/root.crt"
                        .into(),
                });
            }
            // As libpq: prefer and allow check nothing; require checks the chain when a root file exists.
            None => (None, Vec::new()),
            Some(_) if settings.mode < SslMode::Require => (None, Vec::new()),
            Some(RootCert::System) => (Some(system_roots()?), Vec::new()),
            Some(RootCert::File(path)) => {
                let pinned = certificates("root certificate (sslrootcert)", path)?;
                let mut roots = RootCertStore::empty();
                for certificate in &pinned {
                    roots.add(certificate.clone()).map_err(|error| unusable_root(path, error.to_string()))?;
                }
                (Some(roots), pinned)
            }
        };
        let compare_name = settings.mode == SslMode::VerifyFull;
        Ok(Self { roots, pinned, compare_name, algorithms: provider.signature_verification_algorithms })
    }
}

impl ServerCertVerifier for LibpqVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        if self.pinned.iter().any(|known| known.as_ref() == end_entity.as_ref()) {
            // "openssl req -x509" makes CA certificates, which webpki refuses as a server's; OpenSSL, and so libpq, takes them.
            if !is_current(end_entity, now) {
                return Err(CertificateError::Expired.into());
            }
        } else {
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, self.algorithms.all)?;
        }
        if self.compare_name {
            verify_server_name(&parsed, server_name).or_else(|error| if names_host(end_entity, server_name) { Ok(()) } else { Err(error) })?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn unusable_root(path: &Path, why: String) -> PgError {
    PgError::ConnFile { what: "root certificate (sslrootcert)", path: path.to_owned(), why }
}

fn system_roots() -> Result<RootCertStore, PgError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(PgError::ConnInfo { what: "sslrootcert=system, but this machine has no root certificates (package ca-certificates)".into() });
    }
    Ok(roots)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, PgError> {
    let wrong = |why: String| PgError::ConnFile { what, path: path.to_owned(), why };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?.collect();
    match found {
        Ok(found) if found.is_empty() => Err(wrong("It holds no certificate in PEM form".into())),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// The client's key; one that others may read is refused (fe-secure-openssl.c, `initialize_SSL`).
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PgError> {
    let wrong = |why: String| PgError::ConnFile { what: "client key (sslkey)", path: path.to_owned(), why };
    let info = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
    let forbidden = if info.uid() == 0 { 0o027 } else { 0o077 };
    if info.mode() & forbidden != 0 {
        return Err(wrong("Others may read or change it: chmod it to 0600, or 0640 if root owns it".into()));
    }
    PrivateKeyDer::from_pem_file(path).map_err(|error| wrong(format!("It holds no unencrypted key in PEM form ({error})")))
}
