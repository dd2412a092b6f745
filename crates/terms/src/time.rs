//! Instants in UTC with a microsecond's grain, as PostgreSQL keeps them, and where "now" comes from.

use crate::ParseError;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// Seconds from the Unix epoch to PostgreSQL's, 2000-01-01 UTC (`POSTGRES_EPOCH_JDATE`, src/include/datatype/timestamp.h).
const POSTGRES_EPOCH_UNIX_SECONDS: i64 = 946_684_800;

/// An instant in UTC, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Microseconds since the Unix epoch.
    pub const fn from_unix_micros(micros: i64) -> Self {
        Self(micros)
    }
    /// Microseconds since the Unix epoch.
    pub const fn unix_micros(self) -> i64 {
        self.0
    }
    /// A `TimestampTz` of PostgreSQL: microseconds since 2000-01-01 UTC.
    pub const fn from_postgres_micros(micros: i64) -> Self {
        Self(micros.saturating_add(POSTGRES_EPOCH_UNIX_SECONDS * 1_000_000))
    }
    /// As a `TimestampTz` of PostgreSQL.
    pub const fn postgres_micros(self) -> i64 {
        self.0.saturating_sub(POSTGRES_EPOCH_UNIX_SECONDS * 1_000_000)
    }
    /// The instant `micros` later (earlier when negative).
    pub const fn plus_micros(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }
    /// Seconds from `earlier` to this instant; negative when it is the other way round.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        (self.0 - earlier.0) as f64 / 1e6
    }
    /// Whether this is still to come by more than the clocks of host, server and store may differ, five minutes: a clock that was wrong wrote it,
    /// or somebody who would come first.
    pub fn is_ahead_of(self, now: Self) -> bool {
        self.seconds_since(now) > 300.0
    }
    /// As RFC 3339 writes it: `2026-11-22T14:05:00Z`.
    pub fn rfc3339(self) -> String {
        format!("{}Z", self.to_string().trim_end_matches(" UTC").replacen(' ', "T", 1))
    }
    /// `20261122T020000Z`: the form of backup names; parts of a second are left out.
    pub fn compact(self) -> String {
        self.zoned().strftime("%Y%m%dT%H%M%SZ").to_string()
    }
    /// Reads [`Timestamp::compact`].
    pub fn from_compact(text: &str) -> Option<Self> {
        let civil = DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
        let found = Self(civil.to_zoned(TimeZone::UTC).ok()?.timestamp().as_microsecond());
        (found.compact() == text).then_some(found)
    }

    /// Reads what [`FromStr`] does, and a distance before `now`: `10 minutes ago`, `1h 30m ago`, `2 days ago`; a day has 24 hours.
    pub fn parse_at(text: &str, now: Self) -> Result<Self, ParseError> {
        if !text.trim_end().ends_with("ago") {
            return text.parse();
        }
        let wrong = || ParseError::new("a distance such as \"10 minutes ago\", \"1h 30m ago\" or \"2 days ago\"", text);
        let span: jiff::Span = text.trim().parse().map_err(|_| wrong())?;
        // Months and years differ in length: which instant was meant would not be clear.
        if span.get_years() != 0 || span.get_months() != 0 {
            return Err(wrong());
        }
        let back = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
        i64::try_from(back.as_micros()).ok().filter(|micros| *micros < 0).map(|micros| now.plus_micros(micros)).ok_or_else(wrong)
    }

    fn zoned(self) -> jiff::Zoned {
        self.to_jiff().to_zoned(TimeZone::UTC)
    }

    pub(crate) fn to_jiff(self) -> jiff::Timestamp {
        let (low, high) = (jiff::Timestamp::MIN.as_microsecond(), jiff::Timestamp::MAX.as_microsecond());
        jiff::Timestamp::from_microsecond(self.0.clamp(low, high)).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }
}

/// `2026-11-22 14:05:00.25 UTC`: PostgreSQL's own form with its zone.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zoned = self.zoned();
        write!(f, "{}", zoned.strftime("%Y-%m-%d %H:%M:%S"))?;
        let micros = self.0.rem_euclid(1_000_000);
        if micros != 0 {
            write!(f, ".{}", format!("{micros:06}").trim_end_matches('0'))?;
        }
        f.write_str(" UTC")
    }
}

/// Reads a date and time with its zone: `2026-11-22 14:05:00 UTC`, `2026-11-22T14:05Z`, `2026-11-22 15:05+01:00`,
/// `2026-11-22 15:05 Europe/Berlin` where this host knows that zone. A time that a zone had twice, or never, is refused.
/// A time without a zone is refused: at 3 a.m. nobody should have to guess which one was meant.
impl FromStr for Timestamp {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("a date and time with its zone, such as \"2026-11-22 14:05:00 UTC\" or 2026-11-22T15:05:00+01:00", text);
        let trimmed = text.trim();
        let utc = trimmed.strip_suffix("UTC").map(str::trim_end).or_else(|| trimmed.strip_suffix(['Z', 'z']));
        if let Some(plain) = utc {
            let civil: DateTime = plain.parse().map_err(|_| wrong())?;
            let has_time = plain.contains(':');
            return match civil.to_zoned(TimeZone::UTC) {
                Ok(zoned) if has_time => Ok(Self(zoned.timestamp().as_microsecond())),
                _ => Err(wrong()),
            };
        }
        if let Some((plain, zone)) = trimmed.rsplit_once(' ').filter(|(plain, zone)| plain.contains(':') && zone.contains('/')) {
            let civil: DateTime = plain.parse().map_err(|_| wrong())?;
            let zoned = TimeZone::get(zone).ok().and_then(|zone| zone.to_ambiguous_zoned(civil).unambiguous().ok()).ok_or_else(wrong)?;
            return Ok(Self(zoned.timestamp().as_microsecond()));
        }
        // An offset may stand apart.
        let trimmed = &match trimmed.rsplit_once(' ') {
            Some((plain, offset)) if plain.contains(':') && offset.starts_with(['+', '-']) => [plain, offset].concat(),
            _ => trimmed.to_owned(),
        };
        // PostgreSQL prints offsets of whole hours as "+01".
        let full = match trimmed.rfind(['+', '-']).filter(|at| trimmed.len() - at == 3 && trimmed.contains(':')) {
            Some(_) => format!("{trimmed}:00"),
            None => trimmed.to_owned(),
        };
        let instant: jiff::Timestamp = full.parse().map_err(|_| wrong())?;
        Ok(Self(instant.as_microsecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.rfc3339())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where "now" comes from; tests bring their own.
pub trait Clock: Send + Sync {
    /// The present instant.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp(jiff::Timestamp::now().as_microsecond())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_prints_with_its_zone_and_reads_itself_back() {
        for micros in [0, 1, 1_795_356_300_250_000, 946_684_800_000_000] {
            let at = Timestamp::from_unix_micros(micros);
            assert_eq!(at.to_string().parse::<Timestamp>(), Ok(at));
            assert_eq!(serde_text(at).parse::<Timestamp>(), Ok(at));
        }
        assert_eq!(Timestamp::from_postgres_micros(0).to_string(), "2000-01-01 00:00:00 UTC");
    }

    fn serde_text(at: Timestamp) -> String {
        at.to_string().trim_end_matches(" UTC").replacen(' ', "T", 1) + "Z"
    }

    #[test]
    fn every_clear_form_means_the_same_instant() {
        let want: Timestamp = "2026-11-22 14:05:00 UTC".parse().unwrap();
        for same in ["2026-11-22T14:05Z", "2026-11-22 14:05 UTC", "2026-11-22T15:05:00+01:00", "2026-11-22 15:05:00+01", "2026-11-22 14:05:00.000+00"]
        {
            assert_eq!(same.parse::<Timestamp>(), Ok(want), "{same}");
        }
        for apart in ["2026-11-22 15:05 +01:00", "2026-11-22 15:05 +01", "2026-11-22 15:05 Europe/Berlin", "2026-11-22 23:05:00 Asia/Tokyo"] {
            assert_eq!(apart.parse::<Timestamp>(), Ok(want), "{apart}");
        }
    }

    #[test]
    fn a_distance_is_counted_from_now() {
        let now: Timestamp = "2026-11-22 14:05:00 UTC".parse().unwrap();
        for (text, want) in
            [("10 minutes ago", "2026-11-22 13:55:00 UTC"), ("1h 30m ago", "2026-11-22 12:35:00 UTC"), ("2 days ago", "2026-11-20 14:05:00 UTC")]
        {
            assert_eq!(Timestamp::parse_at(text, now).unwrap().to_string(), want, "{text}");
        }
        assert_eq!(Timestamp::parse_at("2026-11-22 14:05 UTC", now), Ok(now));
        for unclear in ["1 month ago", "ago", "-10 minutes ago", "10 minutes", "a while ago"] {
            assert!(Timestamp::parse_at(unclear, now).is_err(), "{unclear:?}");
        }
    }

    #[test]
    fn a_time_that_a_zone_had_twice_or_never_is_refused() {
        for unclear in ["2026-10-25 02:30 Europe/Berlin", "2026-03-29 02:30 Europe/Berlin", "2026-11-22 15:05 Europe/Nowhere", "2026-11-22 15:05 CET"]
        {
            assert!(unclear.parse::<Timestamp>().is_err(), "{unclear:?}");
        }
    }

    #[test]
    fn a_time_without_a_zone_is_refused() {
        for unclear in ["2026-11-22 14:05:00", "14:05", "2026-11-22", "2026-11-22 UTC", "yesterday", "2026-13-01 00:00 UTC", ""] {
            assert!(unclear.parse::<Timestamp>().is_err(), "{unclear:?}");
        }
    }
}
