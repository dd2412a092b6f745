//! Says of every [`StoreError`] what kind of trouble it is, what caused it and what to do next.

use crate::StoreError;
use terms::{Class, Explain};

impl Explain for StoreError {
    fn slug(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "store-missing",
            Self::Truncated { .. } => "store-truncated",
            Self::Denied { .. } => "store-denied",
            Self::Archived { .. } => "store-archived",
            Self::Unreachable { .. } => "store-unreachable",
            Self::Untrusted { .. } => "store-untrusted",
            Self::Full { .. } => "store-full",
            Self::NotEncrypted { .. } => "store-not-encrypted",
            Self::NoStore { .. } => "store-absent",
            Self::BadAddress { .. } => "store-address",
            Self::Failed { .. } => "store-failed",
            Self::Exists { .. } => "store-exists",
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::Missing { .. } | Self::NoStore { .. } => Class::Missing,
            Self::Truncated { .. } => Class::Damaged,
            // A full store does not empty itself: whoever can must be told, not whoever can wait.
            Self::Denied { .. }
            | Self::Archived { .. }
            | Self::Untrusted { .. }
            | Self::Full { .. }
            | Self::NotEncrypted { .. }
            | Self::Failed { .. }
            | Self::Exists { .. } => Class::Refused,
            Self::Unreachable { .. } => Class::Transient,
            Self::BadAddress { .. } => Class::Misuse,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Missing { .. } => String::new(),
            Self::Archived { .. } => "A lifecycle rule of the bucket, or somebody, moved it to GLACIER, DEEP_ARCHIVE or another archive.".to_owned(),
            Self::Truncated { wanted, found, .. } => {
                format!("It must hold at least {wanted} bytes and holds {found}.")
            }
            Self::NoStore { why, .. } | Self::BadAddress { why, .. } | Self::NotEncrypted { why, .. } => sentence(why),
            Self::Denied { why, .. } | Self::Unreachable { why, .. } | Self::Full { why, .. } | Self::Failed { why, .. } => sentence(why),
            Self::Untrusted { why, .. } => sentence(&format!("this host does not trust the server's certificate: {why}")),
            Self::Exists { .. } => "Objects are written once and never overwritten.".to_owned(),
        }
    }

    fn hint(&self) -> String {
        let hint = match self {
            Self::Missing { .. } => "Run bowline check to see what the repository lacks; the object may have been removed by hand.",
            Self::Truncated { .. } => "Run bowline scrub to find every damaged object; restore from a backup that does not need this one.",
            Self::Denied { store, operation, why, .. } => return denied(store, operation, why),
            Self::Archived { .. } => {
                "Bring it back, which takes hours (aws s3api restore-object, then copy it over itself with --storage-class STANDARD), and remove the rule: bowline check names it."
            }
            Self::Unreachable { store, .. } if is_folder(store) => "Check that the file system is mounted and answers: stat -f on the folder.",
            Self::Unreachable { .. } => {
                "Check the endpoint, name resolution and firewall from this host; Bowline tries again by itself where it runs as a service."
            }
            Self::Untrusted { why, .. } if why.contains("not valid for name") => {
                "Name the server in the endpoint as its certificate does, or give it a certificate for the endpoint's host."
            }
            Self::Untrusted { why, .. } if why.contains("xpired") => "Renew the server's certificate; if it is in force, set this host's clock.",
            Self::Untrusted { .. } => {
                "Set ca_file in the repository's settings to the PEM file of the CA that signed it, or add that CA to the certificates this host trusts."
            }
            Self::Full { store, .. } if is_folder(store) => {
                "Free or add space (df -h and df -i on the folder, quota), or shorten retention and run bowline expire."
            }
            Self::Full { .. } => "Raise the bucket's or account's quota, or shorten retention and run bowline expire.",
            Self::NoStore { store, .. } if is_folder(store) => {
                "Mount the file system the folder lives on, or create a new repository there with bowline init."
            }
            Self::NoStore { .. } => "Check the bucket's name, region and endpoint in the repository's url, or let bowline init --bucket make it.",
            // A client is made with the host's certificates even where http:// is spoken.
            Self::BadAddress { why, .. } if why.contains("No CA certificates") => {
                "Install this host's root certificates (package ca-certificates), set SSL_CERT_FILE to a PEM file of them, or set ca_file in the repository's settings."
            }
            Self::BadAddress { .. } => {
                "A folder is file:///srv/backups, a bucket s3://bucket/prefix; docs/reference/configuration.md has the settings of both."
            }
            Self::Failed { store, .. } if is_folder(store) => "Look at the kernel's log (dmesg) for the disk this folder lives on.",
            Self::Failed { why, .. } if why.contains("region") => "Set region in the configuration, or ?region= in the url, to the bucket's own.",
            Self::Failed { .. } => {
                "Check region, endpoint, path_style and checksum in the repository's settings: not every S3 server takes every one."
            }
            Self::NotEncrypted { .. } => {
                "Use a store that honours SSE-KMS and give it this key, or set sse = \"preferred\" in [repository]: what Bowline stores is sealed by itself as well."
            }
            Self::Exists { .. } => "Another Bowline may be writing to the same repository; run bowline status to see who holds it.",
        };
        hint.to_owned()
    }
}

/// Which permission is lacking, as far as the operation tells.
fn denied(store: &str, operation: &str, why: &str) -> String {
    if is_folder(store) {
        return "Give the user Bowline runs as the right to it: owner of the folder, mode 0700, file system mounted writable.".to_owned();
    }
    for (sign, hint) in [
        ("SignatureDoesNotMatch", "The secret access key does not belong to the access key id: set both again."),
        ("InvalidAccessKeyId", "The access key id is unknown to this server: check it, and the endpoint."),
        ("RequestTimeTooSkewed", "Set this host's clock: it is off by more than 15 minutes."),
        ("ExpiredToken", "The session token has expired: provide a new one, or credentials that renew themselves."),
        ("no credentials", "Set access_key_id and secret_access_key in the configuration, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."),
    ] {
        if why.contains(sign) {
            return hint.to_owned();
        }
    }
    let permission = match operation {
        "read" | "look up" => "s3:GetObject, and s3:ListBucket so that an absent object is told from a hidden one",
        "list" => "s3:ListBucket",
        "remove" => "s3:DeleteObject; object lock also forbids it until the retention date",
        _ => "s3:PutObject and s3:AbortMultipartUpload",
    };
    format!("Grant these credentials {permission}.")
}

fn is_folder(store: &str) -> bool {
    store.starts_with("file:")
}

/// A cause as a sentence: capital first, full stop last.
fn sentence(cause: &str) -> String {
    let cause = cause.trim();
    let mut letters = cause.chars();
    match letters.next() {
        Some(first) => {
            let stop = if cause.ends_with(['.', '!', '?']) { "" } else { "." };
            format!("{}{}{stop}", first.to_uppercase(), letters.as_str())
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_names_store_object_cause_and_next_step() {
        let error = StoreError::Denied {
            store: "s3://pair/kb".into(),
            operation: "read",
            path: "wal/1".into(),
            why: "403 SignatureDoesNotMatch: check your key".into(),
        };
        assert_eq!(
            error.advice().to_string(),
            "error: s3://pair/kb denies read on wal/1  [store-denied]\n\
             detail: 403 SignatureDoesNotMatch: check your key.\n\
             hint: The secret access key does not belong to the access key id: set both again."
        );
        let gone = StoreError::NoStore { store: "file:///srv/b".into(), why: "/srv/b is not there".into() };
        assert_eq!((gone.slug(), gone.class()), ("store-absent", Class::Missing));
        assert!(gone.hint().contains("Mount"));
    }
}
