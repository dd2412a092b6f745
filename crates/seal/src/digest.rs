//! Keyed digests of plain chunks: equal chunks are known as equal across backups, and nobody without the key can confirm a guess.

use std::fmt;
use std::str::FromStr;
use terms::ParseError;

/// The first 16 bytes of a chunk's BLAKE3 (keyed where the repository is encrypted), printed as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 16]);

impl Digest {
    /// Its bytes.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0u8; 32];
        for (at, byte) in self.0.iter().enumerate() {
            text[2 * at] = DIGITS[usize::from(byte >> 4)];
            text[2 * at + 1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError { expected: "a digest of 32 hexadecimal digits", found: text.chars().take(64).collect() };
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return Err(wrong());
        }
        let value = |digit: u8| (digit as char).to_digit(16).map(|v| v as u8).ok_or_else(wrong);
        let mut bytes = [0u8; 16];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = value(digits[2 * at])? << 4 | value(digits[2 * at + 1])?;
        }
        Ok(Self(bytes))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Digests chunks of one repository.
#[derive(Clone)]
pub struct Digester(blake3::Hasher);

impl Digester {
    /// With the repository's digest key.
    pub fn keyed(key: &[u8; 32]) -> Self {
        Self(blake3::Hasher::new_keyed(key))
    }
    /// Without a key, for repositories that are not encrypted.
    pub fn plain() -> Self {
        Self(blake3::Hasher::new())
    }
    /// The digest of `chunk`.
    pub fn digest(&mut self, chunk: &[u8]) -> Digest {
        self.0.reset();
        let whole = self.0.update(chunk).finalize();
        let mut first = [0u8; 16];
        first.copy_from_slice(&whole.as_bytes()[..16]);
        Digest(first)
    }
}
