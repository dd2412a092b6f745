//! The shape of every explanation: what failed, which object, why, and what to do next.

use std::fmt;

/// What kind of trouble it is; this alone decides on retrying, the exit code and how loud the alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// It may pass by itself: a connection refused, a timeout, a busy store.
    Transient,
    /// Somebody said no: a permission, a rule, a state that forbids it.
    Refused,
    /// What is needed is not there.
    Missing,
    /// Bytes are not what they must be.
    Damaged,
    /// The command or configuration is wrong.
    Misuse,
    /// Another holds it.
    Held,
    /// A mistake in Bowline itself.
    Bug,
}

impl Class {
    /// The exit code of a command that ends with trouble of this class: 0 is done, 1 unclassified, 2 usage.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Misuse => 2,
            Self::Missing => 3,
            Self::Refused => 4,
            Self::Transient => 5,
            Self::Damaged => 6,
            Self::Held => 7,
            Self::Bug => 70,
        }
    }
    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Refused => "refused",
            Self::Missing => "missing",
            Self::Damaged => "damaged",
            Self::Misuse => "misuse",
            Self::Held => "held",
            Self::Bug => "bug",
        }
    }
}

/// An explanation ready to print, in PostgreSQL's form: error, detail, hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// A stable word to search for, e.g. `wal-damaged`.
    pub slug: &'static str,
    /// What kind of trouble.
    pub class: Class,
    /// One line: what could not be done.
    pub summary: String,
    /// The object and the cause; empty when the summary says it all.
    pub detail: String,
    /// The next step; empty when there is none to offer.
    pub hint: String,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}  [{}]", self.summary, self.slug)?;
        if !self.detail.is_empty() {
            write!(f, "\ndetail: {}", self.detail)?;
        }
        if !self.hint.is_empty() {
            write!(f, "\nhint: {}", self.hint)?;
        }
        Ok(())
    }
}

/// Every room's error says this of itself. `Display` of the error is the summary.
pub trait Explain: std::error::Error {
    /// A stable word to search for.
    fn slug(&self) -> &'static str;
    /// What kind of trouble it is.
    fn class(&self) -> Class;
    /// The object and the cause; empty when the summary says it all.
    fn detail(&self) -> String {
        String::new()
    }
    /// The next step; empty when there is none to offer.
    fn hint(&self) -> String {
        String::new()
    }
    /// What failed and why, for where there is one line.
    fn in_a_line(&self) -> String {
        match self.detail() {
            detail if detail.is_empty() => self.to_string(),
            detail => format!("{self}: {detail}"),
        }
    }
    /// All of it.
    fn advice(&self) -> Advice {
        Advice { slug: self.slug(), class: self.class(), summary: self.to_string(), detail: self.detail(), hint: self.hint() }
    }
}
