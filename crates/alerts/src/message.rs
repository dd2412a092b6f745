//! One notice in the words of people, with where it comes from.

use crate::fold::{Kind, Notice};
use serde::Serialize;
use std::time::Duration;
use terms::{Timestamp, Urgency};

/// Whose alerts they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// `org` of the configuration; part of each alert's key.
    pub org: String,
    /// The repository's address, without secrets. With the organization it is what an alert's key is made of, because it is known also while
    /// the repository is away.
    pub repository: String,
    /// The host that tells.
    pub host: String,
}

/// What a channel delivers; as JSON it is what the generic webhook sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Why it is told now.
    pub kind: Kind,
    /// `firing` or `resolved`.
    pub state: &'static str,
    /// The same for every message about this alert, and for no other one.
    pub key: String,
    /// A stable word, such as `wal-lag`.
    pub rule: String,
    /// What it is about; empty where the rule has but one subject.
    pub subject: String,
    /// As it was judged last, or critical since it was escalated.
    pub urgency: Urgency,
    /// What is so, in one sentence without its point.
    pub summary: String,
    /// Why, or what follows from it; may be empty.
    pub detail: String,
    /// What to do, with the commands; may be empty.
    pub hint: String,
    /// When it began.
    pub since: Timestamp,
    /// When this was decided.
    pub at: Timestamp,
    /// See [`Source::org`].
    pub org: String,
    /// See [`Source::repository`].
    pub repository: String,
    /// See [`Source::host`].
    pub host: String,
    /// When it leaves: later than it was decided when it is tried again.
    #[serde(skip)]
    pub sent: Timestamp,
    /// For how long it goes on at least, where nobody would tell of its end.
    #[serde(skip)]
    pub lasts: Duration,
}

impl Message {
    pub(crate) fn new(notice: &Notice, source: &Source, lasts: Duration) -> Self {
        let alarm = notice.alarm.clone();
        Self {
            kind: notice.kind,
            state: if notice.kind == Kind::Resolved { "resolved" } else { "firing" },
            key: key(source, &alarm.rule, &alarm.subject),
            rule: alarm.rule,
            subject: alarm.subject,
            urgency: alarm.urgency,
            summary: alarm.summary,
            detail: alarm.detail,
            hint: alarm.hint,
            since: notice.since,
            at: notice.at,
            org: source.org.clone(),
            repository: source.repository.clone(),
            host: source.host.clone(),
            sent: notice.at,
            lasts,
        }
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.kind == Kind::Resolved
    }

    /// `CRITICAL (acme): WAL is 20 minutes behind`, in one line.
    pub fn title(&self) -> String {
        let word = match (self.kind, self.urgency) {
            (Kind::Test, _) => "TEST",
            (Kind::Resolved, _) => "RESOLVED",
            (_, Urgency::Critical) => "CRITICAL",
            (_, Urgency::Warning) => "WARNING",
        };
        let again = if self.kind == Kind::Repeated { ", still" } else { "" };
        in_a_line(&format!("{word}{again} ({}): {}", self.org, self.summary))
    }

    /// Everything but the title.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        lines.extend([&self.detail, &self.hint].into_iter().filter(|part| !part.is_empty()).map(String::as_str));
        let subject = if self.subject.is_empty() { String::new() } else { format!(" of {}", self.subject) };
        let ended = if self.is_over() { format!(", over since {}", self.at) } else { String::new() };
        let about = format!("{}{subject}, since {}{ended}; repository {}; told by {}", self.rule, self.since, self.repository, self.host);
        lines.push(&about);
        lines.join("\n\n")
    }
}

/// Readable JSON and mail headers have one line.
pub(crate) fn in_a_line(text: &str) -> String {
    text.split(|letter: char| letter.is_control()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// At most so many letters, with a sign where some are left out.
pub(crate) fn cut(text: &str, letters: usize) -> String {
    match text.chars().count() <= letters {
        true => text.to_owned(),
        false => text.chars().take(letters.saturating_sub(1)).chain(['…']).collect(),
    }
}

pub(crate) fn key(source: &Source, rule: &str, subject: &str) -> String {
    let whole = [&source.org, &source.repository, rule, subject].join("\0");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, whole.as_bytes());
    let hex: String = digest.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("bowline-{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_alerts_apart_and_stay() {
        let source = Source { org: "acme".into(), repository: "s3://b/acme".into(), host: "db1".into() };
        let known = key(&source, "wal-lag", "");
        assert_eq!(known, key(&Source { host: "db2".into(), ..source.clone() }, "wal-lag", ""));
        assert_ne!(known, key(&source, "wal-lag", "x"));
        assert_ne!(key(&source, "a", "bc"), key(&source, "ab", "c"));
        assert_ne!(known, key(&Source { org: "b".into(), ..source }, "wal-lag", ""));
    }

    #[test]
    fn nothing_breaks_a_line_and_long_text_is_cut_at_a_letter() {
        assert_eq!(in_a_line("a\r\nBcc: x\ty"), "a Bcc: x y");
        assert_eq!((cut("äöü", 3), cut("äöüß", 3)), ("äöü".to_owned(), "äö…".to_owned()));
    }
}
