//! What is found about a server: how bad it is, why, and the command that puts it right.

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It could not be looked at; never counted as fine.
    Unknown,
    /// It works, and will hurt one day.
    Warn,
    /// Protection is lost or about to be.
    Critical,
}

impl Severity {
    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warn => "warn",
            Self::Critical => "critical",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A stable word to search for and to alert on, e.g. `slot-lost`.
    pub slug: &'static str,
    /// Of all findings the gravest counts.
    pub severity: Severity,
    /// What is so, in one sentence without its point.
    pub what: String,
    /// Why, or what follows from it; empty when `what` says it all.
    pub cause: String,
    /// What to do, with the commands; empty when nothing needs to be done.
    pub remedy: String,
}

impl Finding {
    pub(crate) fn new(slug: &'static str, severity: Severity, what: impl Into<String>, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { slug, severity, what: what.into(), cause: cause.into(), remedy: remedy.into() }
    }
    pub(crate) fn ok(slug: &'static str, what: impl Into<String>) -> Self {
        Self::new(slug, Severity::Ok, what, "", "")
    }
}

/// Bytes as PostgreSQL's settings write them, rounded: `512 MB`, `1.5 GB`.
pub(crate) fn size(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..0x0010_0000 => (1 << 10, "kB"),
        0x0010_0000..0x4000_0000 => (1 << 20, "MB"),
        0x4000_0000..0x100_0000_0000 => (1 << 30, "GB"),
        _ => (1u64 << 40, "TB"),
    };
    let tenths = (bytes as f64 / unit as f64 * 10.0).round() / 10.0;
    format!("{tenths} {name}")
}

/// A time for people: `40 s`, `12 min`, `5 h`, `3 d`.
pub(crate) fn span(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.0} h", seconds / 3600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}

/// A name within SQL, always in double quotes.
pub(crate) fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text within SQL.
pub(crate) fn quoted_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_times_and_names_read_as_the_server_writes_them() {
        for (bytes, text) in [(0, "0 kB"), (1536, "1.5 kB"), (16 << 20, "16 MB"), (3 << 29, "1.5 GB"), (100 << 30, "100 GB"), (2 << 40, "2 TB")] {
            assert_eq!(size(bytes), text);
        }
        for (seconds, text) in [(0.4, "0 s"), (90.0, "90 s"), (600.0, "10 min"), (36_000.0, "10 h"), (864_000.0, "10 d")] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!((quoted_name("o\"k").as_str(), quoted_text("it's").as_str()), ("\"o\"\"k\"", "'it''s'"));
    }
}
