//! Days and months as people count them, in a time zone.

use crate::{ParseError, Timestamp};
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// A time zone by its name in the IANA database, such as `Europe/Berlin`; `UTC` unless said otherwise.
#[derive(Debug, Clone)]
pub struct Zone(TimeZone);

impl Default for Zone {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

impl FromStr for Zone {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "UTC" => Ok(Self::default()),
            name => TimeZone::get(name).map(Self).map_err(|_| ParseError::new("a time zone such as UTC or Europe/Berlin", name)),
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

impl Zone {
    pub(crate) fn zoned(&self, at: Timestamp) -> jiff::Zoned {
        at.to_jiff().to_zoned(self.0.clone())
    }

    /// The calendar day on which this instant lies here.
    pub fn day(&self, at: Timestamp) -> Day {
        let date = self.zoned(at).date();
        Day { month: Month { year: date.year(), month: date.month() }, day: date.day() }
    }
}

/// A calendar day: `2026-11-22`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day {
    month: Month,
    day: i8,
}

impl Day {
    /// The month that it belongs to.
    pub fn month(self) -> Month {
        self.month
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:02}", self.month, self.day)
    }
}

/// A calendar month: `2026-11`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    year: i16,
    month: i8,
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl FromStr for Month {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parsed = text.split_once('-').and_then(|(year, month)| Some(Self { year: year.parse().ok()?, month: month.parse().ok()? }));
        parsed
            .filter(|month| month.to_string() == text && (1..=12).contains(&month.month))
            .ok_or_else(|| ParseError::new("a month such as 2026-11", text))
    }
}

impl Serialize for Month {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Month {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_lies_on_the_day_of_its_zone() {
        let at: Timestamp = "2026-10-31 23:30:00 UTC".parse().unwrap();
        let day = |zone: &str| zone.parse::<Zone>().unwrap().day(at).to_string();
        assert_eq!((day("UTC"), day("Europe/Berlin"), day("America/New_York")), ("2026-10-31".into(), "2026-11-01".into(), "2026-10-31".into()));
        assert!("Mars/Olympus".parse::<Zone>().is_err());
    }

    #[test]
    fn a_month_reads_back() {
        for text in ["2026-11", "0999-01"] {
            assert_eq!(text.parse::<Month>().unwrap().to_string(), text);
        }
        for text in ["2026-13", "2026-1", "2026", "2026-00", "x-01"] {
            assert!(text.parse::<Month>().is_err(), "{text}");
        }
    }
}
