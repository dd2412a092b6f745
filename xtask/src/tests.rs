//! `cargo xtask tests`: builds every test program and runs several at once. Cargo runs one after the other, and most of a test is
//! waiting for a server. What each prints comes when it ends, as cargo would have shown it.

use crate::{ended, root, target_dir};
use clap::Parser;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

/// Those that take longest begin first, so that none is waited for alone at the end.
const LONGEST: [&str; 4] = ["e2e_ninety_days", "e2e_watch", "doors", "e2e_daemon"];
/// Installs the package on this machine, which others would notice.
const ALONE: &str = "packaging";

/// Runs every test program of the workspace, several at once.
#[derive(Debug, Parser)]
struct Options {
    /// How many programs at once; each runs its own tests in RUST_TEST_THREADS threads
    #[arg(long, default_value_t = 3)]
    lanes: usize,
    /// Only these programs; every one when none is named
    programs: Vec<String>,
}

/// A test program as cargo built it.
#[derive(Debug)]
struct Program {
    /// Of the target: a crate, or a file in `tests`.
    name: String,
    /// From its package's folder.
    source: String,
    file: PathBuf,
    /// Where tests expect to run.
    package: PathBuf,
}

/// Fails when a program did not end well, with the names of all that did not.
pub fn run(arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let Some(options) = super::options::<Options>("tests", arguments)? else { return Ok(()) };
    let mut programs = build()?;
    programs.retain(|program| options.programs.is_empty() || options.programs.contains(&program.name));
    if programs.is_empty() {
        return Err(format!("no test program is named {}", options.programs.join(" or ")));
    }
    let (alone, mut others): (Vec<_>, Vec<_>) = programs.into_iter().partition(|program| program.name == ALONE);
    others.sort_by_key(|program| LONGEST.iter().position(|name| *name == program.name).unwrap_or(LONGEST.len()));
    let mut failed = in_lanes(alone, 1);
    failed.extend(in_lanes(others, options.lanes.max(1)));
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

fn build() -> Result<Vec<Program>, String> {
    let mut command = Command::new("cargo");
    command.args(["test", "--workspace", "--no-run", "--message-format", "json-render-diagnostics"]).current_dir(root()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("cargo does not start: {e}"))?;
    let lines = BufReader::new(child.stdout.take().ok_or("cargo has no output")?).lines();
    let mut programs = Vec::new();
    for line in lines {
        let line = line.map_err(|e| format!("what cargo says cannot be read: {e}"))?;
        let message = serde_json::from_str(&line).map_err(|e| format!("cargo said {line:?}: {e}"))?;
        programs.extend(program(&message));
    }
    ended(child.wait(), "the tests do not build")?;
    Ok(programs)
}

/// None for what is no test.
fn program(message: &serde_json::Value) -> Option<Program> {
    let file = message["executable"].as_str().filter(|_| message["profile"]["test"] == true)?;
    let package = Path::new(message["manifest_path"].as_str()?).parent()?;
    let source = Path::new(message["target"]["src_path"].as_str()?);
    Some(Program {
        name: message["target"]["name"].as_str()?.to_owned(),
        source: source.strip_prefix(package).unwrap_or(source).display().to_string(),
        file: file.into(),
        package: package.to_owned(),
    })
}

/// The names of those that did not end well.
fn in_lanes(programs: Vec<Program>, lanes: usize) -> Vec<String> {
    let waiting = Mutex::new(programs.into_iter());
    let failed = Mutex::new(Vec::new());
    // The lock is held for the taking alone.
    let next = || waiting.lock().expect("no lane panics").next();
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                while let Some(program) = next() {
                    let (is_well, said) = play(&program);
                    // In one piece, whoever else ends now.
                    let told = std::io::stdout().lock().write_all(&said);
                    if !is_well || told.is_err() {
                        failed.lock().expect("no lane panics").push(program.name);
                    }
                }
            });
        }
    });
    failed.into_inner().expect("no lane panics")
}

/// Whether it ended well, and what it said on both of its outputs.
fn play(program: &Program) -> (bool, Vec<u8>) {
    let begun = Instant::now();
    let mut said = format!("     Running {} ({})\n", program.source, program.file.display()).into_bytes();
    let is_well = captured(program, &mut said).unwrap_or_else(|error| {
        said.extend(format!("{} cannot run: {error}\n", program.name).into_bytes());
        false
    });
    let ending = if is_well { "ended" } else { "FAILED" };
    said.extend(format!("     {ending} {} after {:.0} s\n", program.name, begun.elapsed().as_secs_f64()).into_bytes());
    (is_well, said)
}

/// Through a file and not a pipe, which a server that a test left behind would keep open. It can be looked at meanwhile.
fn captured(program: &Program, said: &mut Vec<u8>) -> std::io::Result<bool> {
    let folder = target_dir().join("tests");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(program.file.file_name().unwrap_or_default()).with_extension("log");
    let output = std::fs::File::create(&file)?;
    let mut command = Command::new(&program.file);
    command.current_dir(&program.package).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let status = command.status()?;
    said.extend(std::fs::read(&file)?);
    Ok(status.success())
}
