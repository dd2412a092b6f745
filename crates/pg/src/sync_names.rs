//! Reads `synchronous_standby_names` as the server does, and says how a standby of a given name would rank.
//!
//! The grammar is that of `src/backend/replication/syncrep_gram.y` with the words of `syncrep_scanner.l`.

use std::fmt;

/// Whose confirmations a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `FIRST n (…)`, `n (…)` or a plain list (n = 1): those first in the list that are connected.
    Priority,
    /// `ANY n (…)`: whichever are quickest.
    Quorum,
}

/// The setting, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncNames {
    /// Whether the order of the names decides.
    pub method: Method,
    /// How many must confirm; 0 only when no name is given.
    pub wanted: u32,
    /// In order; `*` stands for any name.
    pub names: Vec<String>,
}

/// How a standby ranks once it streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// Each commit waits for it, and when it is away commits wait.
    Required,
    /// Commits wait for it while it is there; when it is away, others can take its place.
    Replaceable,
    /// It takes the place of another that is away.
    Potential,
}

/// What does not read as the setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read synchronous_standby_names {text:?} at byte {at}")]
pub struct SyncNamesError {
    /// The setting, as it was given.
    pub text: String,
    /// In bytes from the beginning: the word that does not fit.
    pub at: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Name(String),
    Number(String),
    Any,
    First,
    Sign(u8),
}

impl SyncNames {
    /// Reads the value as SHOW prints it; empty means that there is no synchronous standby.
    pub fn parse(text: &str) -> Result<Self, SyncNamesError> {
        let wrong = |at: usize| SyncNamesError { text: text.to_owned(), at };
        if text.is_empty() {
            return Ok(Self { method: Method::Priority, wanted: 0, names: Vec::new() });
        }
        let words = words(text).map_err(wrong)?;
        let kinds: Vec<&Word> = words.iter().map(|(_, word)| word).collect();
        let (method, number, list) = match kinds[..] {
            [Word::Any, Word::Number(n), Word::Sign(b'('), .., Word::Sign(b')')] => (Method::Quorum, Some(n), &words[3..words.len() - 1]),
            [Word::First, Word::Number(n), Word::Sign(b'('), .., Word::Sign(b')')] => (Method::Priority, Some(n), &words[3..words.len() - 1]),
            [Word::Number(n), Word::Sign(b'('), .., Word::Sign(b')')] => (Method::Priority, Some(n), &words[2..words.len() - 1]),
            _ => (Method::Priority, None, &words[..]),
        };
        let end = list.last().or(words.last()).map_or(0, |(at, _)| *at);
        let wanted = match number {
            // The server reads it with atoi, which wraps where a long is wider than an int, and refuses what is then not above zero
            // (check_synchronous_standby_names).
            Some(digits) => u32::try_from(digits.parse().unwrap_or(i64::MAX) as i32).ok().filter(|n| *n > 0).ok_or_else(|| wrong(words[0].0))?,
            None => 1,
        };
        let mut names = Vec::new();
        for (place, (at, word)) in list.iter().enumerate() {
            match (place % 2, word) {
                (0, Word::Name(name) | Word::Number(name)) => names.push(name.clone()),
                (1, Word::Sign(b',')) => {}
                _ => return Err(wrong(*at)),
            }
        }
        // An empty list, or one that ends in a comma.
        if list.len() % 2 == 0 {
            return Err(wrong(end));
        }
        Ok(Self { method, wanted, names })
    }

    /// Whether there is any synchronous standby.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// How a standby with this `application_name` ranks; `None`: asynchronous. Names are compared without regard to case, and `*` also
    /// matches when it stands in quotes (`SyncRepGetStandbyPriority`, `src/backend/replication/syncrep.c`).
    pub fn rank(&self, application_name: &str) -> Option<Rank> {
        let place = self.names.iter().position(|name| matches(name, application_name))?;
        // Every name must confirm, and none of them stands for several.
        let is_all = self.wanted as usize >= self.names.len() && !self.names.iter().any(|name| name == "*");
        Some(match self.method {
            _ if is_all => Rank::Required,
            Method::Quorum => Rank::Replaceable,
            Method::Priority if place < self.wanted as usize => Rank::Replaceable,
            Method::Priority => Rank::Potential,
        })
    }

    /// The setting without this standby: its name left out, `*` replaced by the names of the `others` that are connected.
    pub fn without(&self, application_name: &str, others: &[String]) -> Self {
        let mut names: Vec<String> = Vec::new();
        for name in &self.names {
            let replaced = if name == "*" { others } else { std::slice::from_ref(name) };
            for name in replaced.iter().filter(|name| !name.eq_ignore_ascii_case(application_name)) {
                if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                    names.push(name.clone());
                }
            }
        }
        Self { method: self.method, wanted: self.wanted.min(names.len() as u32), names }
    }
}

fn matches(name: &str, application_name: &str) -> bool {
    name == "*" || name.eq_ignore_ascii_case(application_name)
}

impl fmt::Display for SyncNames {
    /// As it is written into postgresql.conf, without the quotes around it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.names.iter().map(|name| written(name)).collect();
        let list = names.join(", ");
        match (self.method, self.wanted) {
            (_, _) if names.is_empty() => Ok(()),
            (Method::Priority, 1) => f.write_str(&list),
            (Method::Priority, n) => write!(f, "FIRST {n} ({list})"),
            (Method::Quorum, n) => write!(f, "ANY {n} ({list})"),
        }
    }
}

fn starts_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn continues_name(byte: u8) -> bool {
    starts_name(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// A name with quotes where it needs them.
fn written(name: &str) -> String {
    let plain = name.bytes().next().is_some_and(starts_name) && name.bytes().all(continues_name);
    let is_keyword = ["any", "first"].iter().any(|word| name.eq_ignore_ascii_case(word));
    if name == "*" || (plain && !is_keyword) { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// Each word with where it begins; the error is where none does.
fn words(text: &str) -> Result<Vec<(usize, Word)>, usize> {
    let bytes = text.as_bytes();
    let run = |from: usize, belongs: fn(u8) -> bool| from + bytes[from..].iter().take_while(|byte| belongs(**byte)).count();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at).copied() {
        let (word, end) = match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => {
                at += 1;
                continue;
            }
            b',' | b'(' | b')' => (Word::Sign(byte), at + 1),
            b'*' => (Word::Name("*".to_owned()), at + 1),
            b'"' => quoted(text, at)?,
            b'0'..=b'9' => {
                let end = run(at, |byte| byte.is_ascii_digit());
                (Word::Number(text[at..end].to_owned()), end)
            }
            _ if starts_name(byte) => {
                let end = run(at, continues_name);
                let word = &text[at..end];
                let word = match () {
                    () if word.eq_ignore_ascii_case("any") => Word::Any,
                    () if word.eq_ignore_ascii_case("first") => Word::First,
                    () => Word::Name(word.to_owned()),
                };
                (word, end)
            }
            _ => return Err(at),
        };
        found.push((at, word));
        at = end;
    }
    Ok(found)
}

/// A name in double quotes that begins at `from`; two of them stand for one.
fn quoted(text: &str, from: usize) -> Result<(Word, usize), usize> {
    let mut name = String::new();
    let mut at = from + 1;
    loop {
        let end = at + text[at..].find('"').ok_or(from)?;
        name.push_str(&text[at..end]);
        if text.as_bytes().get(end + 1) != Some(&b'"') {
            return Ok((Word::Name(name), end + 1));
        }
        name.push('"');
        at = end + 2;
    }
}

#[cfg(test)]
#[path = "sync_names_tests.rs"]
mod tests;
