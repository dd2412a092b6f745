//! Which job is to begin now: pure, by the schedule and by what ran.

use std::time::Duration;
use terms::{Schedule, Timestamp};

/// A run that began further in the future was written by a clock that was wrong: it says nothing about when the job ran.
pub(crate) const FUTURE_SECONDS: f64 = 300.0;
/// How long after a failure the job is tried again; doubled with each further one.
const RETRY_FIRST: Duration = Duration::from_secs(600);
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// One run of a job, as far as deciding needs it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Past {
    pub began: Timestamp,
    /// When it was over; `None` for one that broke off without a word or still runs elsewhere.
    pub ended: Option<Timestamp>,
    /// It came to an end that needs no other try: it succeeded, or it found what it was to find.
    pub is_settled: bool,
}

/// Why a job begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its time came, or came while nobody was there: once, however often.
    Scheduled(Timestamp),
    /// The last one failed, for the so many-th time.
    Retry(u32),
    /// There is none yet.
    First,
}

/// What a job is judged by.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    pub schedule: &'a Schedule,
    /// Newest first.
    pub past: &'a [Past],
    /// Before that nothing was due.
    pub since: Timestamp,
    /// Nothing of it is there yet, and it must not wait for its time.
    pub is_wanted_at_once: bool,
    /// How long after its beginning one that has no end is tried again: whoever began it may still be at it.
    pub unended_pause: Duration,
    pub now: Timestamp,
}

/// Whether the job begins now.
pub fn due(situation: &Situation<'_>) -> Option<Why> {
    let now = situation.now;
    let past: Vec<&Past> = situation.past.iter().filter(|run| run.began.seconds_since(now) <= FUTURE_SECONDS).collect();
    let failures = past.iter().take_while(|run| !run.is_settled).count() as u32;
    let last = past.first();
    if let Some(last) = last.filter(|_| failures > 0) {
        let pause = RETRY_FIRST.saturating_mul(1 << (failures - 1).min(8)).min(RETRY_MAX);
        let pause = if last.ended.is_none() { pause.max(situation.unended_pause) } else { pause };
        let over = last.ended.unwrap_or(last.began);
        if now.seconds_since(over) >= pause.as_secs_f64() {
            return Some(Why::Retry(failures));
        }
    }
    if situation.is_wanted_at_once && last.is_none() {
        return Some(Why::First);
    }
    let came = situation.schedule.last_at(now)?;
    let done = last.map_or(situation.since, |last| last.began);
    (came > done).then_some(Why::Scheduled(came))
}

#[cfg(test)]
mod tests {
    use super::*;
    use terms::Zone;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_at(&format!("2026-11-{text} UTC"), Timestamp::from_unix_micros(0)).expect(text)
    }

    fn ran(began: &str, is_settled: bool) -> Past {
        let began = at(began);
        Past { began, ended: Some(began.plus_micros(60_000_000)), is_settled }
    }

    fn nightly(past: &[Past], now: &str) -> Option<Why> {
        let schedule = Schedule::parse("0 2 * * *", Zone::default()).expect("a schedule");
        due(&Situation { schedule: &schedule, past, since: at("01 12:00:00"), is_wanted_at_once: false, unended_pause: Duration::ZERO, now: at(now) })
    }

    #[test]
    fn a_time_that_came_is_caught_up_once_however_many_were_missed() {
        assert_eq!(nightly(&[], "01 23:00:00"), None, "made this noon: nothing was due");
        assert_eq!(nightly(&[], "02 02:00:00"), Some(Why::Scheduled(at("02 02:00:00"))));
        let past = [ran("02 02:00:01", true)];
        assert_eq!(nightly(&past, "03 01:59:59"), None);
        assert_eq!(nightly(&past, "07 09:00:00"), Some(Why::Scheduled(at("07 02:00:00"))), "four nights were missed: one run");
        assert_eq!(nightly(&[ran("07 09:00:00", true), ran("02 02:00:01", true)], "07 09:05:00"), None);
    }

    #[test]
    fn what_failed_is_tried_again_ever_more_slowly() {
        let once = [ran("02 02:00:00", false), ran("01 02:00:00", true)];
        assert_eq!(nightly(&once, "02 02:05:00"), None);
        assert_eq!(nightly(&once, "02 02:11:00"), Some(Why::Retry(1)));
        let twice = [ran("02 02:11:00", false), once[0], once[1]];
        assert_eq!(nightly(&twice, "02 02:31:00"), None);
        assert_eq!(nightly(&twice, "02 02:32:01"), Some(Why::Retry(2)));
        assert_eq!(nightly(&[ran("02 02:32:01", true), twice[0], twice[1]], "02 05:00:00"), None);
        // One that broke off without a word counts from its beginning.
        let lost = [Past { ended: None, ..ran("02 02:00:00", false) }];
        assert_eq!(nightly(&lost, "02 02:10:00"), Some(Why::Retry(1)));
    }

    #[test]
    fn a_run_from_the_future_stops_no_schedule() {
        let past = [ran("30 02:00:00", true), ran("02 02:00:00", true)];
        assert_eq!(nightly(&past, "03 02:00:00"), Some(Why::Scheduled(at("03 02:00:00"))));
    }

    #[test]
    fn the_first_one_does_not_wait_for_the_night() {
        let schedule = Schedule::parse("0 2 * * *", Zone::default()).expect("a schedule");
        let situation = |past: &[Past]| {
            due(&Situation {
                schedule: &schedule,
                past,
                since: at("01 12:00:00"),
                is_wanted_at_once: true,
                unended_pause: Duration::ZERO,
                now: at("01 13:00:00"),
            })
        };
        assert_eq!(situation(&[]), Some(Why::First));
        assert_eq!(situation(&[ran("01 12:59:00", false)]), None, "and is not tried all the time");
    }
}
