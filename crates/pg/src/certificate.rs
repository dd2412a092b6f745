//! What libpq reads in a server's certificate and webpki does not: its common name, its dates, how it was signed.

use aws_lc_rs::digest::{self, digest};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// Whether the certificate's common name is the host's. It counts only when the certificate has no alternative names of
/// the kind (fe-secure-common.c, `pq_verify_peer_name_matches_certificate`); the manual's own example has none.
pub(crate) fn names_host(der: &CertificateDer<'_>, host: &ServerName<'_>) -> bool {
    let Some(certificate) = parsed(der) else { return false };
    let host = host.to_str();
    let has_alternatives = match certificate.tbs_certificate.get::<SubjectAltName>() {
        Ok(Some((_, names))) => names.0.iter().any(|name| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_))),
        Ok(None) => false,
        Err(_) => return false,
    };
    !has_alternatives && common_name(&certificate).is_some_and(|name| matches_host(&name, &host))
}

/// Whether `now` lies between the certificate's dates.
pub(crate) fn is_current(der: &CertificateDer<'_>, now: UnixTime) -> bool {
    parsed(der).is_some_and(|certificate| {
        let dates = certificate.tbs_certificate.validity;
        let seconds = now.as_secs();
        (dates.not_before.to_unix_duration().as_secs()..=dates.not_after.to_unix_duration().as_secs()).contains(&seconds)
    })
}

/// The certificate's digest that SCRAM-SHA-256-PLUS binds the login to (`tls-server-end-point`, RFC 5929 section 4.1):
/// by the hash of its own signature, SHA-256 in place of MD5 and SHA-1. `None` when that signature names no hash.
pub(crate) fn end_point_digest(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let certificate = parsed(der)?;
    let algorithm = match certificate.signature_algorithm.oid.to_string().as_str() {
        // RSA with MD5, SHA-1 or SHA-256; ECDSA with SHA-1 or SHA-256.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" | "1.2.840.10045.4.1" | "1.2.840.10045.4.3.2" => &digest::SHA256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &digest::SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &digest::SHA512,
        _ => return None,
    };
    Some(digest(algorithm, der.as_ref()).as_ref().to_vec())
}

fn parsed(der: &CertificateDer<'_>) -> Option<Certificate> {
    Certificate::from_der(der.as_ref()).ok()
}

/// The subject's last common name (attribute 2.5.4.3).
fn common_name(certificate: &Certificate) -> Option<String> {
    let subject = &certificate.tbs_certificate.subject;
    let mut attributes = subject.0.iter().flat_map(|relative| relative.0.iter());
    let name = attributes.rfind(|attribute| attribute.oid.to_string() == "2.5.4.3")?;
    String::from_utf8(name.value.value().to_vec()).ok()
}

/// Compares names without regard to case; `*.` at the front stands for one label (fe-secure-common.c, `wildcard_certificate_match`).
fn matches_host(pattern: &str, host: &str) -> bool {
    // A NUL inside a name once fooled C programs; no host has one.
    if pattern.contains('\0') || pattern.is_empty() {
        return false;
    }
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((label, rest))) => domain.contains('.') && !label.is_empty() && domain.eq_ignore_ascii_case(rest),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_label_only() {
        assert!(matches_host("DB1.example.com", "db1.EXAMPLE.com"));
        assert!(matches_host("*.example.com", "db1.example.com"));
        for (pattern, host) in [
            ("*.example.com", "a.b.example.com"),
            ("*.example.com", "example.com"),
            ("*.com", "example.com"),
            ("db1", "db2"),
            ("", ""),
            ("a\0b", "a"),
        ] {
            assert!(!matches_host(pattern, host), "{pattern} {host}");
        }
    }

    #[test]
    fn noise_is_no_certificate() {
        let noise = CertificateDer::from(vec![0x30, 0x82, 0x01]);
        assert!(!is_current(&noise, UnixTime::now()));
        assert_eq!(end_point_digest(&noise), None);
    }
}
