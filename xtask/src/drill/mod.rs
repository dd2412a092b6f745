//! `cargo xtask drill`: a real cluster is backed up, tampered with, destroyed and restored by bowline's own commands, and judged.

mod clients;
mod judge;
mod load;
mod report;
mod scene;
mod service;
mod stage;
mod story;
mod whole;

use clap::{Parser, ValueEnum};
use report::Report;
use serde_json::json;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// What goes wrong is read by a person, once, so it is text.
type Outcome<T> = Result<T, String>;

/// The drill's wishes.
#[derive(Debug, Parser)]
#[command(name = "drill", about = "Backs up, destroys and restores a real cluster with bowline's own commands, and measures what was lost")]
pub struct Options {
    /// The major version of PostgreSQL.
    #[arg(long, default_value_t = 18)]
    pub pg: u32,
    /// The whole story: a service with its packages, every part that protects it, and two disasters.
    #[arg(long, conflicts_with = "repository")]
    pub full: bool,
    /// How much data: 1 is about 300 MB, and the default; of the whole story it is 0.2.
    #[arg(long)]
    pub scale: Option<f64>,
    /// Keep the repository, the directories and the logs, and say where they are.
    #[arg(long)]
    pub keep: bool,
    /// The program to drill; otherwise the one that was built beside this one.
    #[arg(long)]
    pub bowline: Option<PathBuf>,
    /// Where the repository is: a folder, or a bucket of an S3 server that the drill starts.
    #[arg(long, value_enum, default_value_t = Door::File)]
    pub repository: Door,
    /// Write the report as JSON, too.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Options {
    pub fn scale(&self) -> f64 {
        self.scale.unwrap_or(if self.full { 0.2 } else { 1.0 })
    }

    /// The head of the report, for people and for machines.
    fn head(&self) -> (String, serde_json::Map<String, serde_json::Value>) {
        let (pg, scale) = (self.pg, self.scale());
        let (words, repository) = match self.full {
            true => (format!("the whole story, PostgreSQL {pg}, repository: s3 with SSE-KMS, scale {scale}"), Door::S3),
            false => (format!("PostgreSQL {pg}, repository: {}, scale {scale}", self.repository.name()), self.repository),
        };
        let mut setting = serde_json::Map::new();
        let all = [("pg", json!(pg)), ("scale", json!(scale)), ("repository", json!(repository.name())), ("full", json!(self.full))];
        setting.extend(all.map(|(name, value)| (name.to_owned(), value)));
        (words, setting)
    }
}

/// Kinds of repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Door {
    File,
    S3,
}

impl Door {
    /// As the report spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::S3 => "s3",
        }
    }
}

/// Entry of `cargo xtask drill`; `arguments` are those after the word `drill`. An error means that the drill did not pass.
pub fn run(arguments: impl Iterator<Item = String>) -> Outcome<()> {
    let Some(options) = crate::options::<Options>("drill", arguments)? else { return Ok(()) };
    let (words, setting) = options.head();
    let mut report = Report::new(&words, setting);
    // Whatever ends the story early, a panic of the test kit too, is a drill that failed and a report that says so.
    let told = catch_unwind(AssertUnwindSafe(|| if options.full { whole::tell(&options, &mut report) } else { story::tell(&options, &mut report) }))
        .unwrap_or_else(|panic| Err(words_of(&*panic)));
    if let Err(why) = told {
        report.fault(format!("the drill ended early: {why}"));
    }
    let passed = report.end();
    if let Some(file) = &options.json {
        std::fs::write(file, format!("{:#}\n", report.json())).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    if passed { Ok(()) } else { Err("the drill did not pass".into()) }
}

/// Entry of `cargo xtask service`: the small service of the whole story, or the question whether it is well.
pub fn serve(arguments: impl Iterator<Item = String>) -> Outcome<()> {
    service::run(&arguments.collect::<Vec<_>>())
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic without words".into())
}
