//! An object's place below the repository's root.

use std::fmt;

/// A relative path of plain parts joined by `/`: never empty, absolute, or leading upwards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectPath(String);

impl ObjectPath {
    /// Checks that every part is made of letters, digits and `. _ - = +` and is not `.` or `..`.
    pub fn new(text: impl Into<String>) -> Result<Self, terms::ParseError> {
        let text = text.into();
        let plain =
            |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-=+".contains(&b));
        if text.split('/').all(plain) && text.len() <= 900 {
            Ok(Self(text))
        } else {
            Err(terms::ParseError { expected: "an object path of plain parts joined by /", found: text })
        }
    }
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The last part.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
