//! Reads the two ways to write a connection string: `key=value` pairs and `postgresql://` URIs.

use crate::PgError;

/// The pairs of a connection string in the order written; nothing is known of the keys yet.
/// The rules are libpq's (manual chapter 32.1.1, src/interfaces/libpq/fe-connect.c, `conninfo_parse`, `conninfo_uri_parse`).
/// No error repeats any text of the string: it may hold a password.
pub(crate) fn pairs(text: &str) -> Result<Vec<(String, String)>, PgError> {
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => uri(rest),
        None => key_values(text),
    }
}

fn wrong(what: impl Into<String>) -> PgError {
    PgError::ConnInfo { what: what.into() }
}

fn key_values(text: &str) -> Result<Vec<(String, String)>, PgError> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        // The word may be a stray piece of an unquoted password: it is counted, not shown.
        let value = after.trim_start().strip_prefix('=').ok_or_else(|| wrong(format!("Word {} is not followed by \"=\"", found.len() + 1)))?;
        if key.is_empty() {
            return Err(wrong("There is a \"=\" without a key before it"));
        }
        let (value, after) = value_of(value.trim_start()).ok_or_else(|| wrong(format!("The quoted value of {key:?} has no end")))?;
        found.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(found)
}

/// One value and what follows it; `None` when its closing quote is missing.
fn value_of(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let quoted = text.starts_with('\'');
    let mut letters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            space if !quoted && space.is_ascii_whitespace() => return Some((value, &text[at..])),
            other => value.push(other),
        }
    }
    if quoted { None } else { Some((value, "")) }
}

fn uri(text: &str) -> Result<Vec<(String, String)>, PgError> {
    let mut found = Vec::new();
    let (place, query) = text.split_once('?').map_or((text, None), |(place, query)| (place, Some(query)));
    let (authority, dbname) = place.split_once('/').map_or((place, None), |(authority, name)| (authority, Some(name)));
    let hosts = match authority.rsplit_once('@') {
        None => authority,
        Some((login, hosts)) => {
            let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
            if !user.is_empty() {
                found.push(("user".to_owned(), decoded(user)?));
            }
            if let Some(password) = password {
                found.push(("password".to_owned(), decoded(password)?));
            }
            hosts
        }
    };
    if !hosts.is_empty() {
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for each in hosts.split(',') {
            let (name, port) = host_and_port(each)?;
            names.push(decoded(name)?);
            ports.push(decoded(port)?);
        }
        if names.iter().any(|name| !name.is_empty()) {
            found.push(("host".to_owned(), names.join(",")));
        }
        if ports.iter().any(|port| !port.is_empty()) {
            found.push(("port".to_owned(), ports.join(",")));
        }
    }
    if let Some(dbname) = dbname.filter(|name| !name.is_empty()) {
        found.push(("dbname".to_owned(), decoded(dbname)?));
    }
    for pair in query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| wrong("A parameter after \"?\" has no \"=\""))?;
        match (decoded(key)?, decoded(value)?) {
            // JDBC's spelling, which libpq takes too.
            (key, value) if key == "ssl" && value == "true" => found.push(("sslmode".to_owned(), "require".to_owned())),
            pair => found.push(pair),
        }
    }
    Ok(found)
}

/// `db1`, `db1:5432`, `[::1]:5432`.
fn host_and_port(text: &str) -> Result<(&str, &str), PgError> {
    if let Some(inside) = text.strip_prefix('[') {
        let (host, after) = inside.split_once(']').ok_or_else(|| wrong("An IPv6 address in \"[\" has no \"]\""))?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if after.is_empty() => Ok((host, "")),
            None => Err(wrong("Something other than \":PORT\" follows the \"]\" of an IPv6 address")),
        };
    }
    Ok(text.split_once(':').unwrap_or((text, "")))
}

/// Undoes percent encoding; `%00` is refused as libpq does.
fn decoded(text: &str) -> Result<String, PgError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) if high + low > 0 => bytes.push((high * 16 + low) as u8),
            _ => return Err(wrong("A \"%\" in the URI is not followed by two hexadecimal digits (a literal one is %25)")),
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong("A percent-encoded part of the URI is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        pairs(text).unwrap().into_iter().map(|(key, value)| format!("{key}<{value}>")).collect()
    }

    #[test]
    fn pairs_may_be_spaced_quoted_and_escaped_as_libpq_allows() {
        assert_eq!(read("host=db1 port = 5432"), "host<db1>port<5432>");
        assert_eq!(read(r"password='it\'s a \\ secret'  dbname="), r"password<it's a \ secret>dbname<>");
        assert_eq!(read(r"user=a\ b options='-c x=y'"), "user<a b>options<-c x=y>");
        assert_eq!(read("  "), "");
        assert_eq!(read("password='' user=x"), "password<>user<x>");
    }

    #[test]
    fn a_uri_means_the_same_as_its_pairs() {
        assert_eq!(
            read("postgresql://bob:p%40ss@db1:5433/app?sslmode=verify-full"),
            "user<bob>password<p@ss>host<db1>port<5433>dbname<app>sslmode<verify-full>"
        );
        assert_eq!(read("postgres://db1,db2:6000/x"), "host<db1,db2>port<,6000>dbname<x>");
        assert_eq!(read("postgresql://[::1]:5433"), "host<::1>port<5433>");
        assert_eq!(read("postgresql://%2Frun%2Fpostgresql/app"), "host</run/postgresql>dbname<app>");
        assert_eq!(read("postgresql:///app?host=/tmp&ssl=true"), "dbname<app>host</tmp>sslmode<require>");
        assert_eq!(read("postgresql://"), "");
    }

    #[test]
    fn what_does_not_parse_is_refused_without_repeating_it() {
        for bad in [
            "host",
            "host db1",
            "=x",
            "password='hunter2",
            "postgresql://u:hunter2%zz@h",
            "postgresql://[::1",
            "postgresql://h/?hunter2",
            "password=a hunter2",
        ] {
            let error = pairs(bad).unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
