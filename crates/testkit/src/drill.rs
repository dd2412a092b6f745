//! Holds drills for tests: `bowline verify` in a directory of its own, which must be empty afterwards.

use crate::{Bowline, Cluster};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

/// A drill that was held.
#[derive(Debug)]
pub struct Drilled {
    /// The exit code.
    pub code: i32,
    /// Its report; null when it ended without one, as when the repository could not be opened.
    pub report: Value,
    /// The error's text when it ended with one.
    pub error: String,
}

impl Drilled {
    /// Holds one with these further arguments. Panics when anything of it is left.
    pub fn hold(cluster: &Cluster, bowline: &Bowline, words: &[&str]) -> Self {
        let place = place(cluster);
        let mut all = vec!["verify", "--dir", place.to_str().expect("a plain path")];
        all.extend_from_slice(words);
        let outcome = bowline.run(&all);
        assert_eq!(fs::read_dir(&place).map_or(0, Iterator::count), 0, "something was left behind");
        let last = |word: &str| outcome.lines.iter().rev().find_map(|line| line.get(word));
        let report = last("result").map_or(Value::Null, |result| result["report"].clone());
        let error = last("error").map_or_else(String::new, Value::to_string);
        assert!(!report.is_null() || !error.is_empty(), "the drill told nothing: {outcome:#?}");
        Self { code: outcome.code, report, error }
    }

    /// The verdict.
    pub fn outcome(&self) -> &str {
        self.report["outcome"].as_str().unwrap_or("none")
    }

    /// Every fault with what it is about, as one text.
    pub fn faults(&self) -> String {
        let fault = |f: &Value| format!("{} {} {}: {}", f["outcome"], f["database"], f["object"], f["what"]);
        self.lines_of(&self.report["proof"]["faults"], fault)
    }

    /// Every notice, as one text.
    pub fn notices(&self) -> String {
        self.lines_of(&self.report["notices"], |n| format!("{} {}: {}", n["database"], n["object"], n["what"]))
    }

    /// Everything that says what was wrong.
    pub fn said(&self) -> String {
        format!("{}\n{}\n{}", self.faults(), self.notices(), self.error)
    }

    fn lines_of(&self, list: &Value, line: impl Fn(&Value) -> String) -> String {
        list.as_array().into_iter().flatten().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// Where this cluster's drills are held: with room for the name of a socket.
pub fn place(cluster: &Cluster) -> PathBuf {
    cluster.home().join("s").join("drills")
}
