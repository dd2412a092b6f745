//! The page of commands: the program's own `--help`, of each command after the other.

use super::Outcome;
use std::path::Path;
use std::process::Command;

const HEAD: &str = "# Commands\n\nThis is what `bowline … --help` prints. Written by `cargo xtask reference`.\n";

pub fn page(program: &Path) -> Outcome<String> {
    let mut text = HEAD.to_owned();
    let mut waiting = vec![Vec::new()];
    while let Some(words) = waiting.pop() {
        let help = help(program, &words)?;
        let title = std::iter::once("bowline").chain(words.iter().map(String::as_str)).collect::<Vec<_>>().join(" ");
        text.push_str(&format!("\n## {title}\n\n```text\n{}\n```\n", help.trim_end()));
        let below = below(&help).into_iter().map(|name| words.iter().cloned().chain([name]).collect());
        waiting.extend(below.collect::<Vec<_>>().into_iter().rev());
    }
    Ok(text)
}

fn help(program: &Path, words: &[String]) -> Outcome<String> {
    // As wide on every machine, and no setting of this one in it.
    let output = Command::new(program).args(words).arg("--help").env_clear().env("COLUMNS", "110").output();
    let output = output.map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    match output.status.success() {
        true => String::from_utf8(output.stdout).map_err(|error| error.to_string()),
        false => Err(format!("bowline {} --help: {}", words.join(" "), String::from_utf8_lossy(&output.stderr))),
    }
}

/// The commands that a help lists.
fn below(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| line.starts_with("  "));
    let name = |line: &str| line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?.split_whitespace().next().map(str::to_owned);
    listed.filter_map(name).filter(|name| name != "help").collect()
}
