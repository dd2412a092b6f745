//! Turns figures into the Markdown tables of docs/benchmarks.md.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::Outcome;
use super::limit::Limit;
use super::measure::Cost;
use super::race::{Entry, Results};

const BEGIN: &str = "<!-- bench: begin -->";
const END: &str = "<!-- bench: end -->";

/// The tables of `bench backup-restore`.
pub fn race(results: &Results) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "Measured on {}; {}; {:.2} GB of data directory without WAL; {} rounds, every tool once a round; {}.\n",
        results.machine,
        results.postgres,
        results.data_bytes as f64 / 1e9,
        results.rounds,
        if results.cold { "page cache dropped before every measurement" } else { "data directory and repository in the page cache" },
    );
    if let Some(limit) = &results.limit {
        let _ = writeln!(text, "{}", self::limit(limit));
    }
    for repo in ["folder", "s3"] {
        let entries: Vec<&Entry> = results.entries.iter().filter(|entry| entry.repo == repo).collect();
        if !entries.is_empty() {
            backups(&mut text, repo, &entries, results);
            restores(&mut text, repo, &entries);
        }
    }
    text.push_str("Settings:\n");
    let mut named: Vec<&str> = Vec::new();
    for entry in &results.entries {
        if !named.contains(&entry.tool.as_str()) {
            named.push(&entry.tool);
            let _ = writeln!(text, "- {} ({}): {}.", entry.tool, entry.version, entry.settings);
        }
    }
    if !results.left_out.is_empty() {
        text.push_str("\nNot measured:\n");
        for line in &results.left_out {
            let _ = writeln!(text, "- {}", line.lines().next().unwrap_or_default());
        }
    }
    text
}

fn backups(text: &mut String, repo: &str, entries: &[&Entry], results: &Results) {
    let own = entries.iter().find(|entry| entry.tool == "Bowline").map(|entry| median(&walls(&entry.backups)));
    let _ = writeln!(
        text,
        "Full backup, {repo} (medians; wall with min..max):\n\n\
         | tool | wall, s | wall ÷ Bowline's | CPU, s (tool + server) | CPU ÷ limit | peak memory, MiB | repository, MB |\n\
         |---|---|---|---|---|---|---|"
    );
    for entry in entries {
        let cpu = median_of(&entry.backups, Cost::cpu);
        let limit = results.limit.map(|limit| limit.backup * results.data_bytes as f64 / 1e9);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {cpu:.2} ({:.2} + {:.2}) | {} | {:.0} | {:.0} |",
            entry.tool,
            spread(&walls(&entry.backups)),
            ratio(median(&walls(&entry.backups)), own),
            median_of(&entry.backups, |cost| cost.cpu_tool),
            median_of(&entry.backups, |cost| cost.cpu_server),
            ratio(cpu, limit),
            peak(&entry.backups),
            entry.repo_bytes as f64 / 1e6,
        );
    }
    text.push('\n');
}

fn restores(text: &mut String, repo: &str, entries: &[&Entry]) {
    let durable = |entry: &Entry| -> Vec<f64> { entry.restores.iter().zip(&entry.sync_after_restore).map(|(cost, sync)| cost.wall + sync).collect() };
    let own = entries.iter().find(|entry| entry.tool == "Bowline").map(|entry| median(&walls(&entry.restores)));
    let _ = writeln!(
        text,
        "Restore, {repo} (medians; *durable* adds the time a sync takes afterwards):\n\n\
         | tool | syncs | wall, s | wall ÷ Bowline's | durable, s | CPU, s | peak memory, MiB | started and checked |\n\
         |---|---|---|---|---|---|---|---|"
    );
    for entry in entries {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.2} | {:.2} | {:.0} | {} |",
            entry.tool,
            entry.restore_syncs,
            spread(&walls(&entry.restores)),
            ratio(median(&walls(&entry.restores)), own),
            median(&durable(entry)),
            median_of(&entry.restores, |cost| cost.cpu_tool),
            peak(&entry.restores),
            if entry.proved { "yes" } else { "no" },
        );
    }
    text.push('\n');
}

/// The pipeline limit as a small table.
pub fn limit(limit: &Limit) -> String {
    format!(
        "Pipeline limit of one core, in memory, CPU seconds for each GB of database: backup {:.2} (page checksum {:.2}, digest {:.2}, \
         zstd 1 {:.2}, AES-256-GCM {:.2}), restore {:.2} (open {:.2}, decompress {:.2}, digest {:.2}); ratio {:.2}.\n",
        limit.backup,
        limit.page_checksum,
        limit.digest,
        limit.compress,
        limit.seal,
        limit.restore,
        limit.open,
        limit.decompress,
        limit.digest,
        limit.ratio,
    )
}

/// Puts a table into docs/benchmarks.md between its two marks, or at its end.
pub fn write(table: &str) -> Outcome<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
    let old = fs::read_to_string(&path)
        .unwrap_or_else(|_| format!("# Benchmarks\n\nMade by `cargo xtask bench backup-restore --write`.\n\n{BEGIN}\n{END}\n"));
    let new = match (old.find(BEGIN), old.find(END)) {
        (Some(begin), Some(end)) if begin < end => format!("{}{BEGIN}\n{table}{}", &old[..begin], &old[end..]),
        _ => format!("{old}\n{BEGIN}\n{table}{END}\n"),
    };
    Ok(fs::write(path, new)?)
}

fn walls(costs: &[Cost]) -> Vec<f64> {
    costs.iter().map(|cost| cost.wall).collect()
}

fn median_of(costs: &[Cost], pick: fn(&Cost) -> f64) -> f64 {
    median(&costs.iter().map(pick).collect::<Vec<_>>())
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({least:.2}..{most:.2})", median(values))
}

fn ratio(value: f64, base: Option<f64>) -> String {
    base.map_or_else(|| "–".to_owned(), |base| format!("{:.2}", value / base))
}

/// The worst of all rounds, MiB.
fn peak(costs: &[Cost]) -> f64 {
    costs.iter().map(|cost| cost.peak_memory).max().unwrap_or(0) as f64 / 1_048_576.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
