//! What can be wrong with sealed bytes.

use crate::key::KeyId;
use terms::{Class, Explain};

/// Why bytes could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum SealError {
    /// The object does not begin with Bowline's mark.
    #[error("not a Bowline object")]
    NotBowline,
    /// A later format.
    #[error("written in a newer format (version {found}, this is {known})")]
    NewerFormat { found: u8, known: u8 },
    /// The object is of another kind than its place says.
    #[error("an object of kind {found} where kind {wanted} belongs")]
    WrongKind { found: u8, wanted: u8 },
    /// The data key is not among those that could be opened.
    #[error("no recipient opens data key {key}")]
    NoKey { key: KeyId },
    /// The object names a data key that its repository does not have: it is from another one, its header is damaged, or the key was lost.
    #[error("it is sealed with data key {key}, which this repository does not have")]
    UnknownKey { key: KeyId },
    /// The object's data key is this repository's, and not the one of what the object belongs to.
    #[error("it is sealed with data key {key}, which is another one's")]
    OtherKey { key: KeyId },
    /// Encryption is required, and the object is plain.
    #[error("the object is not encrypted although this repository is")]
    Unsealed,
    /// A frame is not what was sealed: flipped, truncated, moved or from another object.
    #[error("frame {number} is not what was sealed")]
    Forged { number: u32 },
    /// The bytes end before the frame does.
    #[error("the object ends inside frame {number}")]
    Short { number: u32 },
    /// A frame says that it is something no writer makes.
    #[error("frame {number} is malformed: {what}")]
    Malformed { number: u32, what: &'static str },
    /// Bytes follow the last frame, or a frame is missing before it.
    #[error("frames are out of order after frame {number}")]
    OutOfOrder { number: u32 },
    /// The plain bytes differ from the digest recorded for them.
    #[error("the chunk does not match its digest")]
    WrongDigest,
    /// The codec or cipher library failed on good input.
    #[error("{what} failed")]
    Library { what: &'static str },
    /// A recipient could not wrap or unwrap.
    #[error("recipient {recipient} cannot {operation} the data key")]
    Recipient { recipient: String, operation: &'static str, why: String, class: Class, hint: String },
}

impl Explain for SealError {
    fn slug(&self) -> &'static str {
        match self {
            Self::NotBowline => "not-bowline",
            Self::NewerFormat { .. } => "format-newer",
            Self::NoKey { .. } => "key-missing",
            Self::Unsealed => "not-encrypted",
            Self::Library { .. } => "bug",
            Self::Recipient { class: Class::Transient, .. } => "key-unreachable",
            Self::Recipient { class: Class::Missing, .. } => "key-missing",
            Self::Recipient { .. } => "key-refused",
            _ => "data-damaged",
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::NewerFormat { .. } | Self::Unsealed => Class::Refused,
            Self::NoKey { .. } => Class::Missing,
            Self::Library { .. } => Class::Bug,
            Self::Recipient { class, .. } => *class,
            _ => Class::Damaged,
        }
    }
    fn detail(&self) -> String {
        match self {
            Self::Recipient { why, .. } => why.clone(),
            _ => String::new(),
        }
    }
    fn hint(&self) -> String {
        match self {
            Self::NewerFormat { .. } => "Use a Bowline at least as new as the one that wrote this repository.".into(),
            Self::UnknownKey { key } => format!("Unless it came here from elsewhere: look for keys/{key}.json in a copy of the bucket."),
            Self::Recipient { hint, .. } if !hint.is_empty() => hint.clone(),
            Self::NoKey { .. } | Self::Recipient { .. } => {
                "Put the key that this repository was initialised with where [encryption] recipients points, or pass it with --key.".into()
            }
            _ => String::new(),
        }
    }
}
