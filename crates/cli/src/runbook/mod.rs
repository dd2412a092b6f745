//! The runbook of an installation: what to do in each disaster, with the names that the commands really need.

mod book;
mod names;
mod render;

pub use book::book;
pub use names::Names;
pub use render::{html, markdown};

/// One part of a runbook, in the order in which it is read. The same parts become Markdown and HTML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Title(String),
    Chapter(String),
    Text(String),
    /// A fact and its value.
    Facts(Vec<(String, String)>),
    /// Values that only whoever reads can know: a shell variable, an example, and what it is.
    Ask(Vec<(&'static str, &'static str, &'static str)>),
    /// Commands for a shell, one a line. A test runs every one of them.
    Run(Vec<String>),
    /// Lines that the commands before it print among others; `…` stands for what differs each time.
    Expect(Vec<&'static str>),
}
