//! Programs that tests need, and interfaces of JSON that must grant what is asked.

use crate::loopback::http_with;
use std::path::PathBuf;

/// A request for JSON that must be granted; its answer, `null` when it is empty.
pub fn ask_json(port: u16, request: &str, headers: &str, body: &serde_json::Value) -> serde_json::Value {
    let answer = http_with(port, request, headers, body.to_string().as_bytes()).unwrap_or_else(|| panic!("{request}: no answer from port {port}"));
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    assert!(head.split(' ').nth(1).is_some_and(|status| status.starts_with('2')), "{request} {body}: {answer}");
    match (text.find('{'), text.rfind('}')) {
        (Some(begin), Some(end)) => serde_json::from_str(&text[begin..=end]).unwrap_or_else(|e| panic!("{request}: {e} in {answer:?}")),
        _ => serde_json::Value::Null,
    }
}

/// A program for tests: what this variable names, or this name on the PATH.
pub fn find_program(variable: &str, name: &str, word: &str) -> PathBuf {
    if let Some(given) = std::env::var_os(variable) {
        let given = PathBuf::from(given);
        assert!(given.is_file(), "{variable} is {}, which is no file", given.display());
        return given;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file());
    found.unwrap_or_else(|| panic!("this test needs {name}: run ./test, or eval \"$(scripts/prepare {word})\", which sets {variable}"))
}
