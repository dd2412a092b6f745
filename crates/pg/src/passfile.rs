//! Finds a password in a password file (`~/.pgpass`).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use terms::Secret;

/// What a password file said.
pub(crate) enum Lookup {
    /// The password of the first line that matches.
    Found(Secret),
    /// No file, or no line for this connection.
    None,
    /// The file is there and was not used; why, as one sentence without a full stop.
    Ignored(String),
}

/// Looks for the first line `hostname:port:database:username:password` that matches; `*` matches all, `\` escapes.
/// A file that others can read is not used (manual chapter 32.16; fe-connect.c, `passwordFromFile`).
pub(crate) fn look_up(file: &Path, host: &str, port: u16, database: &str, user: &str) -> Lookup {
    let info = match fs::metadata(file) {
        Ok(info) => info,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Lookup::None,
        Err(error) => return Lookup::Ignored(format!("The password file {file:?} could not be used: {error}")),
    };
    if !info.is_file() {
        return Lookup::Ignored(format!("The password file {file:?} was ignored because it is not a plain file"));
    }
    if info.mode() & 0o077 != 0 {
        return Lookup::Ignored(format!("The password file {file:?} was ignored because others may read it; chmod it to 0600"));
    }
    let text = match fs::read_to_string(file) {
        Ok(text) => Secret::new(text),
        Err(error) => return Lookup::Ignored(format!("The password file {file:?} could not be read: {error}")),
    };
    let wanted = [host, &port.to_string(), database, user];
    let found = text.reveal().lines().filter(|line| !line.starts_with('#')).find_map(|line| matching(line, &wanted));
    found.map_or(Lookup::None, Lookup::Found)
}

/// The line's password if its four fields match.
fn matching(line: &str, wanted: &[&str; 4]) -> Option<Secret> {
    let mut rest = line;
    for want in wanted {
        let (field, after) = field(rest)?;
        rest = after;
        if field != "*" && unescaped(field) != *want {
            return None;
        }
    }
    Some(Secret::new(unescaped(rest))).filter(|password| !password.reveal().is_empty())
}

/// Splits at the next colon that is not escaped.
fn field(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b':' if !escaped => return Some((&text[..at], &text[at + 1..])),
            _ => escaped = byte == b'\\' && !escaped,
        }
    }
    None
}

fn unescaped(text: &str) -> String {
    let mut letters = text.chars();
    let mut plain = String::with_capacity(text.len());
    while let Some(letter) = letters.next() {
        plain.push(if letter == '\\' { letters.next().unwrap_or('\\') } else { letter });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    fn file_of(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.as_file().set_permissions(fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    fn password(lookup: Lookup) -> Option<String> {
        match lookup {
            Lookup::Found(secret) => Some(secret.reveal().to_owned()),
            _ => None,
        }
    }

    #[test]
    fn the_first_matching_line_wins_and_stars_match_all() {
        let file = file_of("# comment\nother:5432:*:bob:no\ndb1:5432:app:bob:se\\:cret\n*:*:*:bob:rest\n", 0o600);
        let ask = |host, port, database, user| password(look_up(file.path(), host, port, database, user));
        assert_eq!(ask("db1", 5432, "app", "bob").as_deref(), Some("se:cret"));
        assert_eq!(ask("db1", 5433, "app", "bob").as_deref(), Some("rest"));
        assert_eq!(ask("db1", 5432, "app", "eve"), None);
    }

    #[test]
    fn a_file_that_others_can_read_is_ignored_and_says_so() {
        let file = file_of("*:*:*:*:x\n", 0o644);
        assert!(matches!(look_up(file.path(), "h", 1, "d", "u"), Lookup::Ignored(why) if why.contains("0600")));
        assert!(matches!(look_up(Path::new("/nowhere/pgpass"), "h", 1, "d", "u"), Lookup::None));
    }
}
