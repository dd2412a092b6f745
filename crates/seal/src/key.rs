//! Data keys, the ids of keys and repositories, and where randomness comes from.

use std::fmt;
use std::str::FromStr;
use terms::ParseError;
use zeroize::Zeroizing;

/// Bytes from the operating system's generator.
///
/// Randomness that fails would mean keys that can be guessed, so a failure ends the process.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives no randomness");
    bytes
}

/// Sixteen random bytes as an id, printed as 32 lower-case hexadecimal digits.
macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// A new, random id.
            pub fn random() -> Self {
                Self(random_bytes())
            }
            /// From its bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }
            /// Its bytes.
            pub const fn bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;
            fn from_str(text: &str) -> Result<Self, ParseError> {
                let wrong = || ParseError { expected: $expected, found: text.to_owned() };
                if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
                    return Err(wrong());
                }
                let mut bytes = [0u8; 16];
                for (at, byte) in bytes.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
                }
                Ok(Self(bytes))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

random_id!(
    /// A data key's id; its document lies at `keys/{key-id}.json`.
    KeyId,
    "a key id of 32 lower-case hexadecimal digits"
);
random_id!(
    /// A repository's id, chosen once by `bowline init`; copies of a repository keep it.
    RepositoryId,
    "a repository id of 32 lower-case hexadecimal digits"
);

/// 256 bits from which the keys of objects are derived; wiped from memory when dropped.
#[derive(Clone)]
pub struct DataKey {
    id: KeyId,
    bytes: Zeroizing<[u8; 32]>,
}

impl DataKey {
    /// A new, random key.
    pub fn random() -> Self {
        Self { id: KeyId::random(), bytes: Zeroizing::new(random_bytes()) }
    }
    /// A key that was unwrapped.
    pub fn from_bytes(id: KeyId, bytes: Zeroizing<[u8; 32]>) -> Self {
        Self { id, bytes }
    }
    /// Its id.
    pub fn id(&self) -> KeyId {
        self.id
    }
    /// The key itself, for wrapping and for deriving.
    pub fn reveal(&self) -> &[u8; 32] {
        &self.bytes
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataKey({})", self.id)
    }
}
