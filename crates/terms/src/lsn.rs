//! Positions in the write-ahead log and the numbers that qualify them.

use crate::ParseError;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// A byte position in the write-ahead log (`XLogRecPtr`, PostgreSQL src/include/access/xlogdefs.h).
/// Printed and parsed as PostgreSQL does: two hexadecimal halves, `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// The position `bytes` bytes from the beginning of the log.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }
    /// Bytes from the beginning of the log.
    pub const fn bytes(self) -> u64 {
        self.0
    }
    /// The position `bytes` further on.
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
    /// How many bytes lie between `earlier` and this position; zero when `earlier` is later.
    pub const fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
    /// Where the segment that holds this position begins.
    pub const fn segment_start(self, size: SegmentSize) -> Self {
        Self(self.0 & !(size.bytes() - 1))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("an LSN such as 16/B374D848", text);
        let (high, low) = text.split_once('/').ok_or_else(wrong)?;
        let half = |part: &str| match part.len() {
            1..=8 if part.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(part, 16).map_err(|_| wrong()),
            _ => Err(wrong()),
        };
        Ok(Self(half(high)? << 32 | half(low)?))
    }
}

/// The size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB (`initdb --wal-segsize`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// What initdb uses unless told otherwise: 16 MiB.
    pub const DEFAULT: Self = Self(16 << 20);

    /// Checks that `bytes` is a size PostgreSQL allows.
    pub fn from_bytes(bytes: u64) -> Result<Self, ParseError> {
        match u32::try_from(bytes) {
            Ok(b) if b.is_power_of_two() && (1 << 20..=1 << 30).contains(&b) => Ok(Self(b)),
            _ => Err(ParseError::new("a WAL segment size (a power of two from 1 MiB to 1 GiB)", &bytes.to_string())),
        }
    }
    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }
}

/// A timeline id (`TimeLineID`): one or more; a new one begins with each promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline(u32);

impl Timeline {
    /// The timeline of a freshly initialised cluster.
    pub const FIRST: Self = Self(1);

    /// Timeline `id`; zero is not one.
    pub fn new(id: u32) -> Result<Self, ParseError> {
        if id == 0 { Err(ParseError::new("a timeline id (1 or more)", "0")) } else { Ok(Self(id)) }
    }
    /// The number.
    pub const fn id(self) -> u32 {
        self.0
    }
    /// Eight hexadecimal digits, as in WAL file names.
    pub fn hex(self) -> String {
        format!("{:08X}", self.0)
    }
    /// Reads the eight hexadecimal digits of a WAL file name.
    pub fn from_hex(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("a timeline of eight hexadecimal digits", text);
        if text.len() != 8 || !text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)) {
            return Err(wrong());
        }
        Self::new(u32::from_str_radix(text, 16).map_err(|_| wrong())?)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Timeline {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse().map_err(|_| ParseError::new("a timeline id", text)).and_then(Self::new)
    }
}

/// The database system identifier that initdb chose (`pg_control_system()`); constant for a cluster's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(u64);

impl SystemId {
    /// The identifier as PostgreSQL's unsigned number.
    pub const fn new(id: u64) -> Self {
        Self(id)
    }
    /// The number.
    pub const fn id(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for SystemId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse().map(Self).map_err(|_| ParseError::new("a system identifier", text))
    }
}

/// JSON holds these words as the text they print.
macro_rules! as_text {
    ($($word:ty),+) => {$(
        impl Serialize for $word {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> { to.collect_str(self) }
        }
        impl<'de> Deserialize<'de> for $word {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}
pub(crate) use as_text;
as_text!(Lsn, SystemId);

impl Serialize for Timeline {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for Timeline {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::new(u32::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

impl Serialize for SegmentSize {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(self.bytes())
    }
}

impl<'de> Deserialize<'de> for SegmentSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::from_bytes(u64::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_prints_as_postgresql_does_and_reads_itself_back() {
        for (bytes, text) in [(0, "0/0"), (0x16_B374_D848, "16/B374D848"), (u64::MAX, "FFFFFFFF/FFFFFFFF")] {
            assert_eq!(Lsn::from_bytes(bytes).to_string(), text);
            assert_eq!(text.parse::<Lsn>(), Ok(Lsn::from_bytes(bytes)));
        }
        for wrong in ["", "1", "/", "1/", "1/123456789", "-1/0", "+1/0", "1/0 ", "g/0"] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_sizes_that_initdb_accepts_are_segment_sizes() {
        for good in [1u64 << 20, 16 << 20, 1 << 30] {
            assert_eq!(SegmentSize::from_bytes(good).unwrap().bytes(), good);
        }
        for bad in [0u64, 1, 3 << 20, 1 << 31, 1 << 40] {
            assert!(SegmentSize::from_bytes(bad).is_err());
        }
    }

    #[test]
    fn a_timeline_of_zero_is_refused_everywhere() {
        assert!(Timeline::new(0).is_err());
        assert!(Timeline::from_hex("00000000").is_err());
        assert!(Timeline::from_hex("0000000a").is_err(), "lower case is not a WAL file name");
        assert_eq!(Timeline::from_hex("0000000A").unwrap().id(), 10);
    }
}
