//! Fuzzes what is read of strangers: builds the fuzzer with the coverage of our own crates, runs each target for a while, and says how far it came.

use crate::{ended, listed, root, target_dir};
use clap::Parser;
use std::process::Command;

/// Fuzzes the targets of `fuzz/`, one after the other.
#[derive(Debug, Parser)]
struct Options {
    /// How long each of them
    #[arg(long, default_value_t = 300)]
    seconds: u32,
    /// Only these; every one when none is named
    targets: Vec<String>,
}

pub fn run(arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let Some(options) = super::options::<Options>("fuzz", arguments)? else { return Ok(()) };
    let (root, target_dir) = (root(), target_dir());
    let corpus = root.join("fuzz/corpus");
    let known = listed(&corpus)?.iter().filter_map(|folder| Some(folder.file_name()?.to_string_lossy().into_owned())).collect();
    let targets = if options.targets.is_empty() { known } else { options.targets };
    // All of the workspace's features, so that nothing is built twice.
    let mut build = Command::new("cargo");
    build.args(["build", "--workspace", "--bin", "fuzzer", "--features", "fuzz/libfuzzer"]).current_dir(&root);
    ended(build.env("RUSTC_WORKSPACE_WRAPPER", root.join("fuzz/covered")).status(), "the fuzzer cannot be built")?;
    let mut broken = Vec::new();
    println!("| target | seconds | inputs tried | branches seen | inputs kept |\n|---|---|---|---|---|");
    for name in targets {
        let (seeds, kept) = (corpus.join(&name), target_dir.join("fuzz").join(&name));
        if !seeds.is_dir() {
            return Err(format!("there is no target {name}: {} is no folder", seeds.display()));
        }
        std::fs::create_dir_all(&kept).map_err(|e| format!("{}: {e}", kept.display()))?;
        let mut fuzzer = Command::new(target_dir.join("debug/fuzzer"));
        fuzzer.args([&kept, &seeds]).env("BOWLINE_FUZZ", &name);
        // What breaks a target is kept beside what it is fed with.
        fuzzer.arg(format!("-artifact_prefix={}-", kept.display())).arg(format!("-max_total_time={}", options.seconds));
        fuzzer.args(["-max_len=65536", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", "-reload=0"]);
        let out = fuzzer.output().map_err(|e| format!("the fuzzer does not start: {e}"))?;
        let said = String::from_utf8_lossy(&out.stderr);
        let of = |name: &str| said.lines().rev().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim().to_owned();
        let status = said.lines().rev().find(|line| line.contains(" cov: ")).unwrap_or_default();
        let branches = status.split(" cov: ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("?");
        let inputs = listed(&kept)?.len();
        println!("| {name} | {} | {} | {branches} | {inputs} |", options.seconds, of("stat::number_of_executed_units:"));
        if !out.status.success() {
            eprintln!("{}", said.lines().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n"));
            broken.push(name);
        }
    }
    match broken.as_slice() {
        [] => Ok(()),
        some => Err(format!("broken: {}; put what broke it into its corpus, then mend it", some.join(", "))),
    }
}
