//! Which job is to begin now: pure, by the schedule and by what ran.

use std::time::Duration;
use terms::{Schedule, Timestamp};

/// How long after a failure the job is tried again; doubled with each further one.
const RETRY_FIRST: Duration = Duration::from_secs(600);
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// While there is no room, expired things are looked for this often.
const EXPIRE_AGAIN_SECONDS: f64 = 3600.0;
/// Two runs of expiry lie at least so far apart.
const EXPIRE_PAUSE_SECONDS: f64 = 30.0;
/// And so far where the last one may have followed the same backup.
const EXPIRE_DOUBT_SECONDS: f64 = 300.0;
/// Without a backup after which to expire, it is done this often: backups that fail leave attempts behind, and only expiry removes them.
/// More than a day: the nightly backup may take longer than the last one.
const EXPIRE_IDLE_SECONDS: f64 = 30.0 * 3600.0;

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
    /// What made the last one fail would make the next one fail, too: that waits for its time.
    pub is_in_vain: bool,
    pub now: Timestamp,
}

/// Whether the job begins now.
pub fn due(situation: &Situation<'_>) -> Option<Why> {
    let now = situation.now;
    let past: Vec<&Past> = situation.past.iter().filter(|run| !run.began.is_ahead_of(now)).collect();
    let failures = past.iter().take_while(|run| !run.is_settled).count() as u32;
    let last = past.first();
    if let Some(last) = last.filter(|_| failures > 0 && !situation.is_in_vain) {
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

/// What tells whether expiry is due.
#[derive(Debug, Clone, Copy)]
pub struct Backups {
    /// When the newest one that is listed was complete, by the server's clock; one whose time is still to come is none.
    pub newest: Option<Timestamp>,
    /// One is being made: expiry follows it.
    pub is_underway: bool,
    /// When the repository was made.
    pub since: Timestamp,
}

/// Why expiry begins now, unless its last run failed: that is tried again like any job. It has no schedule: it follows the backups.
pub fn expiry_due(last: Option<&Past>, backups: Backups, is_full: bool, now: Timestamp) -> Option<&'static str> {
    let since = now.seconds_since(last.map_or(backups.since, |last| last.began));
    // The backup's time is the server's. Where that clock is ahead of ours, the last run may have followed this very backup.
    let pause = |at: Timestamp, last: &Past| if at.is_ahead_of(last.began) { EXPIRE_PAUSE_SECONDS } else { EXPIRE_DOUBT_SECONDS };
    let is_over = |at: Timestamp, last: &Past| now.seconds_since(last.ended.unwrap_or(last.began)) >= pause(at, last);
    let is_after = backups.newest.is_some_and(|at| last.is_none_or(|last| at > last.began && is_over(at, last)));
    if is_after {
        Some("after a backup")
    } else if is_full && since >= EXPIRE_AGAIN_SECONDS {
        Some("there is no room")
    } else {
        (since >= EXPIRE_IDLE_SECONDS && !backups.is_underway).then_some("nothing was expired for more than a day")
    }
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
        due(&situation(&schedule, past, false, at(now)))
    }

    fn situation<'a>(schedule: &'a Schedule, past: &'a [Past], is_wanted_at_once: bool, now: Timestamp) -> Situation<'a> {
        Situation { schedule, past, since: at("01 12:00:00"), is_wanted_at_once, unended_pause: Duration::ZERO, is_in_vain: false, now }
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
        let first = |past: &[Past]| due(&situation(&schedule, past, true, at("01 13:00:00")));
        assert_eq!(first(&[]), Some(Why::First));
        assert_eq!(first(&[ran("01 12:59:00", false)]), None, "and is not tried all the time");
    }

    #[test]
    fn what_would_only_fail_again_waits_for_its_time() {
        let schedule = Schedule::parse("0 2 * * *", Zone::default()).expect("a schedule");
        let past = [ran("02 02:00:00", false), ran("01 02:00:00", true)];
        let vain = |now: &str| due(&Situation { is_in_vain: true, ..situation(&schedule, &past, false, at(now)) });
        assert_eq!(vain("02 23:00:00"), None, "a whole copy an hour would fill the repository");
        assert_eq!(vain("03 02:00:00"), Some(Why::Scheduled(at("03 02:00:00"))));
    }

    #[test]
    fn expiry_follows_backups_and_does_not_wait_for_ever_for_one() {
        let created = at("01 12:00:00");
        let backups = |newest: Option<&str>| Backups { newest: newest.map(at), is_underway: false, since: created };
        let asked = |last: Option<Past>, newest: Option<&str>, is_full: bool, now: &str| expiry_due(last.as_ref(), backups(newest), is_full, at(now));
        assert_eq!(asked(None, None, false, "01 13:00:00"), None);
        assert_eq!(asked(None, Some("01 13:00:00"), false, "01 13:00:01"), Some("after a backup"));
        let last = Some(ran("02 03:00:00", true));
        assert_eq!(asked(last, Some("02 02:30:00"), false, "02 12:00:00"), None);
        assert_eq!(asked(last, Some("02 02:30:00"), true, "02 12:00:00"), Some("there is no room"));
        assert_eq!(asked(last, Some("02 03:00:10"), false, "02 03:00:20"), None, "not at once again");
        assert_eq!(asked(last, Some("02 03:30:00"), false, "02 03:30:01"), Some("after a backup"));
        // The server's clock is four minutes ahead: this may be the backup that was followed. Once more, and not each half minute.
        assert_eq!(asked(last, Some("02 03:04:00"), false, "02 03:05:59"), None);
        assert_eq!(asked(last, Some("02 03:04:00"), false, "02 03:06:00"), Some("after a backup"));
        assert_eq!(asked(Some(ran("02 03:06:00", true)), Some("02 03:04:00"), false, "02 04:00:00"), None);
        // Each backup fails, and each leaves its packs: without a run a day they stay until the repository is full.
        assert_eq!(asked(last, Some("02 02:30:00"), false, "03 08:59:59"), None);
        assert_eq!(asked(last, Some("02 02:30:00"), false, "03 09:00:00"), Some("nothing was expired for more than a day"));
        let underway = Backups { is_underway: true, ..backups(None) };
        assert_eq!(expiry_due(last.as_ref(), underway, false, at("03 09:00:00")), None, "it follows the one that is being made");
        assert_eq!(asked(None, None, false, "02 18:00:00"), Some("nothing was expired for more than a day"), "not even the first one came about");
    }
}
