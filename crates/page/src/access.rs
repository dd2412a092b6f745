//! Who may look: a token, as a bearer or behind a login, compared in constant time; whoever guesses must wait.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use terms::Secret;

/// The least characters of a token.
pub(crate) const TOKEN_LEAST: usize = 20;
/// The name of the cookie.
pub(crate) const COOKIE: &str = "bowline";
/// So many wrong tokens from one address within the time: then it waits until the time is over.
const FAILURES_MAX: u32 = 8;
const FAILURES_WITHIN: Duration = Duration::from_secs(60);
/// Addresses that are remembered, and sessions.
const REMEMBERED: usize = 1024;
/// How long a login lasts.
pub(crate) const SESSION: Duration = Duration::from_secs(12 * 3600);

/// What a caller shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Welcome,
    Unknown,
    /// Too many wrong ones came from there.
    Wait,
}

#[derive(Default)]
struct Seen {
    failures: HashMap<IpAddr, (u32, Instant)>,
    sessions: HashMap<String, Instant>,
}

/// Knows the token, where there is one.
pub(crate) struct Access {
    token: Option<Secret>,
    seen: Mutex<Seen>,
}

impl Access {
    pub(crate) fn new(token: Option<Secret>) -> Self {
        Self { token, seen: Mutex::default() }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.token.is_none()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is the token. A right one from an address that guessed too often is not looked at either.
    pub(crate) fn token(&self, from: IpAddr, shown: &str, now: Instant) -> Answer {
        let Some(token) = &self.token else { return Answer::Welcome };
        let mut seen = self.seen();
        seen.failures.retain(|_, (_, since)| now.duration_since(*since) < FAILURES_WITHIN);
        if seen.failures.get(&from).is_some_and(|(count, _)| *count >= FAILURES_MAX) || seen.failures.len() >= REMEMBERED {
            return Answer::Wait;
        }
        // Digests of one length: how long the token is does not show either.
        let (ours, theirs) = (digest(&SHA256, token.reveal().as_bytes()), digest(&SHA256, shown.as_bytes()));
        if verify_slices_are_equal(ours.as_ref(), theirs.as_ref()).is_ok() {
            return Answer::Welcome;
        }
        seen.failures.entry(from).or_insert((0, now)).0 += 1;
        Answer::Unknown
    }

    /// Begins a session: what its cookie says.
    pub(crate) fn begin(&self, now: Instant) -> Option<String> {
        let mut bytes = [0u8; 32];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut seen = self.seen();
        seen.sessions.retain(|_, since| now.duration_since(*since) < SESSION);
        if seen.sessions.len() >= REMEMBERED {
            seen.sessions.clear();
        }
        seen.sessions.insert(id.clone(), now);
        Some(id)
    }

    /// Whether a session of this cookie is under way. It is as random as a key: there is nothing to guess.
    pub(crate) fn session(&self, cookie: &str, now: Instant) -> bool {
        self.seen().sessions.get(cookie).is_some_and(|since| now.duration_since(*since) < SESSION)
    }

    pub(crate) fn end(&self, cookie: &str) {
        self.seen().sessions.remove(cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_guesses_waits_and_nobody_else_does() {
        let access = Access::new(Some(Secret::new("a token of twenty or more".into())));
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let now = Instant::now();
        for _ in 0..FAILURES_MAX {
            assert_eq!(access.token(one, "guess", now), Answer::Unknown);
        }
        assert_eq!(access.token(one, "a token of twenty or more", now), Answer::Wait);
        assert_eq!(access.token(other, "a token of twenty or more", now), Answer::Welcome);
        assert_eq!(access.token(one, "a token of twenty or more", now + FAILURES_WITHIN), Answer::Welcome);
    }

    #[test]
    fn a_session_ends_after_its_time_or_when_told() {
        let access = Access::new(Some(Secret::new("t".into())));
        let now = Instant::now();
        let cookie = access.begin(now).unwrap();
        assert!(access.session(&cookie, now) && !access.session("0", now));
        assert!(!access.session(&cookie, now + SESSION));
        access.end(&cookie);
        assert!(!access.session(&cookie, now));
    }
}
