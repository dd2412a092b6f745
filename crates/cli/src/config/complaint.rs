//! What is wrong with a configuration file, for whoever wrote it: by line and key, never by value, which may be a secret in the wrong place.

/// The detail and the next step.
pub(super) fn of(text: &str, error: &toml::de::Error) -> (String, String) {
    let span = error.span().unwrap_or_default();
    let line = text.get(..span.start).unwrap_or(text).matches('\n').count() + 1;
    let message = error.message().trim_end();
    let key = text.get(span).filter(|key| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)));
    let message = match key {
        Some(key) if message == "duplicate key" => format!("{key:?} is there twice"),
        _ => plain(message),
    };
    (format!("line {line}: {message}"), hint(&message))
}

/// In the words of a configuration, not of the program's types.
fn plain(message: &str) -> String {
    if message.contains("duration format") || message.ends_with("expected a signed duration string") {
        return "a duration is written as \"30s\", \"5m\" or \"1h\"".into();
    }
    if message.ends_with("expected parsable string") {
        return "a size is written as \"20GB\" or \"500MiB\"".into();
    }
    if message.starts_with("string values must be quoted") {
        return "a text stands in quotes; only numbers, true and false do not".into();
    }
    let whole = [("usize", "a whole number from 0 on"), ("u32", "a whole number from 0 on"), ("u16", "a whole number from 0 to 65535")];
    whole
        .into_iter()
        .fold(without_value(message), |message, (theirs, ours)| message.replace(&format!("expected {theirs}"), &format!("expected {ours}")))
}

/// `invalid type: string "…", expected …` without the text.
fn without_value(message: &str) -> String {
    match (message.split_once(" string \""), message.rsplit_once("\", expected ")) {
        (Some((before, _)), Some((_, expected))) => format!("{before} a text, expected {expected}"),
        _ => message.to_owned(),
    }
}

fn hint(message: &str) -> String {
    let every = "docs/reference/configuration.md has every key with its type.";
    let Some((_, named)) = message.split_once("unknown field `") else { return every.into() };
    let mut names = named.split('`').step_by(2);
    let unknown = names.next().unwrap_or_default();
    let known: Vec<&str> = names.filter(|_| unknown.len() > 2).collect();
    // A letter or two, of a word that has some more; or the whole word for its beginning.
    let misspelt =
        known.iter().map(|name| (strsim::damerau_levenshtein(unknown, name), *name)).min().filter(|(far, _)| *far <= 2 && unknown.len() > 3);
    let is_longer = |name: &&&str| name.len() > 2 && (unknown.starts_with(**name) || name.starts_with(unknown));
    match misspelt.map(|(_, name)| name).or_else(|| known.iter().find(is_longer).copied()) {
        Some(known) => format!("Is {known} meant? {every}"),
        // So that nothing is believed to be on that is not.
        None => format!("{every} One that this version does not know is refused."),
    }
}
