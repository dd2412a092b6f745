//! When something is to happen: a cron expression in a time zone.

use crate::{ParseError, Timestamp, Zone};
use croner::Cron;
use std::fmt;
use std::time::Duration;

/// A cron expression of five fields (minute, hour, day of month, month, day of week; `@daily` and the like; names, steps, `L`, `#`) in a
/// time zone. Where a clock goes forward, a time that does not exist happens when the gap ends; where it goes back, a fixed time happens
/// once.
#[derive(Debug, Clone)]
pub struct Schedule {
    kind: Kind,
    text: String,
    zone: Zone,
}

#[derive(Debug, Clone)]
enum Kind {
    Cron(Box<Cron>),
    /// Each so many microseconds, counted from 1970.
    Every(i64),
}

impl Schedule {
    /// Reads an expression.
    pub fn parse(text: &str, zone: Zone) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("a cron expression of five fields, such as \"0 2 * * *\" for 02:00 each day", text);
        let cron: Cron = text.trim().parse().map_err(|_| wrong())?;
        let schedule = Self { kind: Kind::Cron(Box::new(cron)), text: text.trim().to_owned(), zone };
        // The 30th of February is written easily, and never comes.
        schedule.next_after(Timestamp::from_unix_micros(1_700_000_000_000_000)).ok_or_else(wrong)?;
        Ok(schedule)
    }

    /// Each time so much time has passed, whatever the clock on the wall says; a second at least.
    pub fn every(pause: Duration) -> Self {
        let micros = i64::try_from(pause.as_micros()).unwrap_or(i64::MAX / 4).max(1_000_000);
        Self { kind: Kind::Every(micros), text: format!("every {} s", micros / 1_000_000), zone: Zone::default() }
    }

    /// The first time after this instant.
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        match &self.kind {
            Kind::Cron(cron) => cron.find_next_occurrence(&self.zone.zoned(at), false).ok().map(instant),
            Kind::Every(micros) => Some(Timestamp::from_unix_micros((at.unix_micros().div_euclid(*micros) + 1) * micros)),
        }
    }

    /// The last time up to this instant, this instant included.
    pub fn last_at(&self, at: Timestamp) -> Option<Timestamp> {
        match &self.kind {
            Kind::Cron(cron) => cron.find_previous_occurrence(&self.zone.zoned(at), true).ok().map(instant),
            Kind::Every(micros) => Some(Timestamp::from_unix_micros(at.unix_micros().div_euclid(*micros) * micros)),
        }
    }

    /// The expression.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whose wall clock it means.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }
}

fn instant(zoned: jiff::Zoned) -> Timestamp {
    Timestamp::from_unix_micros(zoned.timestamp().as_microsecond())
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.zone.to_string() == other.zone.to_string()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_at(text, Timestamp::from_unix_micros(0)).expect(text)
    }

    fn schedule(text: &str, zone: &str) -> Schedule {
        Schedule::parse(text, zone.parse().expect(zone)).expect(text)
    }

    #[test]
    fn a_daily_time_comes_once_a_day_also_where_clocks_change() {
        let daily = schedule("30 2 * * *", "Europe/Berlin");
        // Forward on 29 March 2026: 02:30 does not exist. Back on 25 October: it comes twice.
        for (begin, days) in [("2026-03-27 00:00:00 UTC", 5), ("2026-10-23 00:00:00 UTC", 5)] {
            let (mut now, mut times) = (at(begin), Vec::new());
            for _ in 0..days {
                now = daily.next_after(now).expect("a next one");
                times.push(now);
            }
            let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1].seconds_since(pair[0]) / 3600.0).collect();
            assert!(gaps.iter().all(|hours| (22.9..=25.1).contains(hours)), "{times:?}");
        }
        let back = daily.next_after(at("2026-10-24 12:00:00 UTC")).expect("a next one");
        assert_eq!(back, at("2026-10-25 00:30:00 UTC"), "the first of the two");
        assert_eq!(daily.next_after(back), Some(at("2026-10-26 01:30:00 UTC")), "and not the second");
    }

    #[test]
    fn the_last_time_is_the_one_that_the_next_follows() {
        for (text, zone) in [("0 2 * * *", "UTC"), ("0 4 * * 0", "America/New_York"), ("*/15 * * * *", "Asia/Kolkata"), ("0 3 L * *", "UTC")] {
            let schedule = schedule(text, zone);
            let mut now = at("2026-02-26 11:07:00 UTC");
            for _ in 0..300 {
                let next = schedule.next_after(now).expect("a next one");
                assert!(next > now);
                assert_eq!(schedule.last_at(next), Some(next), "{schedule} at {now}");
                assert!(schedule.last_at(next.plus_micros(-1)).is_some_and(|last| last < next));
                now = next;
            }
        }
    }

    #[test]
    fn so_often_is_counted_from_a_fixed_time() {
        let hourly = Schedule::every(Duration::from_secs(3600));
        let now = at("2026-02-26 11:07:00 UTC");
        assert_eq!((hourly.last_at(now), hourly.next_after(now)), (Some(at("2026-02-26 11:00:00 UTC")), Some(at("2026-02-26 12:00:00 UTC"))));
        assert_eq!(hourly.last_at(at("2026-02-26 12:00:00 UTC")), Some(at("2026-02-26 12:00:00 UTC")));
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in ["", "2 o'clock", "0 25 * * *", "61 * * * *", "0 0 30 2 *", "* * *", "13am"] {
            assert!(Schedule::parse(text, Zone::default()).is_err(), "{text}");
        }
    }
}
