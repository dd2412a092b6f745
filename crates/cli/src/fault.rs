//! What ends a command: one explanation, from whichever room, with its exit code.

use terms::{Advice, Class, Explain};

/// An error on its way to the printer.
#[derive(Debug)]
pub struct Fault(pub Advice, pub Option<(&'static str, serde_json::Value)>);

impl Fault {
    /// The command or the configuration is wrong.
    pub fn misuse(slug: &'static str, summary: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::of(slug, Class::Misuse, summary, detail, hint)
    }
    /// An explanation made here.
    pub fn of(slug: &'static str, class: Class, summary: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self(Advice { slug, class, summary: summary.into(), detail: detail.into(), hint: hint.into() }, None)
    }
    /// With more that its JSON says.
    pub fn with(self, name: &'static str, value: serde_json::Value) -> Self {
        Self(self.0, Some((name, value)))
    }
    /// Its exit code.
    pub fn exit_code(&self) -> u8 {
        self.0.class.exit_code()
    }
}

/// The verdict of what was done beside what cannot be read.
pub fn beside<E: Explain>(unread: Vec<E>) -> Result<(), Fault> {
    unread.into_iter().next().map_or(Ok(()), |e| Err(e.into()))
}

impl<E: Explain> From<E> for Fault {
    fn from(e: E) -> Self {
        Self(e.advice(), None)
    }
}
