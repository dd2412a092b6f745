//! `restore --delta` over an old copy in which one page in a hundred changed, against a full restore, round by round.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::measure::{self, Cost, Script, Standing};
use super::report::median;
use super::tools::{Bowline, Repo, Stage, Tool};
use super::{Outcome, Place, data};

const PAGE: u64 = 8192;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    place: Place,
    /// Rounds; each takes a full restore and a delta restore of each kind.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Percent of the pages that changed.
    #[arg(long, default_value_t = 1.0)]
    percent: f64,
    /// How many pages that changed lie side by side: 128 are a chunk, 1 spreads them as far as can be.
    #[arg(long, value_delimiter = ',', default_value = "128,16,1")]
    runs: Vec<u64>,
    /// Drop the page cache before every measurement instead of warming it.
    #[arg(long)]
    cold: bool,
    #[arg(long)]
    bowline: Option<PathBuf>,
}

/// What is measured: the files alone, or until the server is recovered, promoted and cleanly stopped.
const SCOPES: [(&str, &str); 2] = [("files", "--files-only"), ("whole", "--no-start")];

pub fn run(options: &Options) -> Outcome<()> {
    measure::adopt_orphans()?;
    let (dir, bin_dir) = (options.place.dir(), options.place.bin_dir()?);
    data::open_to_postgres(&dir)?;
    let server = data::server(&options.place)?;
    let room = measure::fresh_dir(&dir.join("room"))?;
    let repo = measure::fresh_dir(&dir.join("repo"))?;
    let stage = Stage { server: &server, bin_dir: &bin_dir, room, repo: Repo::Folder(repo.clone()) };
    let mut bowline = Bowline::new(options.bowline.clone());
    println!("{}", bowline.version()?);
    bowline.prepare(&stage)?;
    measure::run(&bowline.backup(&stage), &stage.room.join("log"))?;
    let bench = Bench { options, stage: &stage, bowline: &bowline, repo: &repo, target: dir.join("restored"), truth: dir.join("truth") };
    for (scope, flag) in SCOPES {
        bench.scope(scope, flag)?;
    }
    fs::remove_dir_all(&repo)?;
    data::done(server, &options.place)
}

struct Bench<'a> {
    options: &'a Options,
    stage: &'a Stage<'a>,
    bowline: &'a Bowline,
    repo: &'a Path,
    target: PathBuf,
    truth: PathBuf,
}

impl Bench<'_> {
    fn scope(&self, scope: &str, flag: &str) -> Outcome<()> {
        let mut full = Vec::new();
        let mut delta: Vec<Vec<Cost>> = self.options.runs.iter().map(|_| Vec::new()).collect();
        for round in 0..self.options.rounds {
            self.remove(&self.target)?;
            full.push(self.restore(&self.target, flag)?);
            if scope == "files" && round == 0 {
                self.remove(&self.truth)?;
                self.restore(&self.truth, flag)?;
            }
            for (costs, run) in delta.iter_mut().zip(&self.options.runs) {
                let changed = change(&self.target, self.options.percent / 100.0, *run, round as u64)?;
                costs.push(self.restore(&self.target, &format!("{flag} --delta"))?);
                let (full, delta) = (full.last().map_or(f64::NAN, |c| c.wall), costs.last().map_or(f64::NAN, |c| c.wall));
                eprintln!(
                    "{scope}, round {}: {changed} pages in runs of {run}: full {full:.2} s, delta {delta:.2} s: {:.2}",
                    round + 1,
                    delta / full
                );
                if scope == "files" && round == 0 {
                    same(&self.truth, &self.target)?;
                }
            }
        }
        let walls = |costs: &[Cost]| costs.iter().map(|c| c.wall).collect::<Vec<_>>();
        println!("\n{scope}: {} % of the pages changed; a full restore {:.2} s\n", self.options.percent, median(&walls(&full)));
        println!("| pages side by side | delta, s | ÷ full, round by round | median | CPU, s (full) | memory, MiB |\n|---|---|---|---|---|---|");
        for (run, costs) in self.options.runs.iter().zip(&delta) {
            let ratios: Vec<f64> = walls(costs).iter().zip(walls(&full)).map(|(delta, full)| delta / full).collect();
            let cpu = |costs: &[Cost]| median(&costs.iter().map(|c| c.cpu_tool).collect::<Vec<_>>());
            println!(
                "| {run} | {:.2} | {} | {:.2} | {:.2} ({:.2}) | {} |",
                median(&walls(costs)),
                ratios.iter().map(|r| format!("{r:.2}")).collect::<Vec<_>>().join(", "),
                median(&ratios),
                cpu(costs),
                cpu(&full),
                costs.iter().map(|c| c.peak_memory).max().unwrap_or(0) >> 20,
            );
        }
        self.remove(&self.target)?;
        self.remove(&self.truth)
    }

    fn remove(&self, target: &Path) -> Outcome<()> {
        for dir in [target.to_owned(), target.with_extension("bowline")] {
            if dir.exists() {
                fs::remove_dir_all(dir)?;
            }
        }
        Ok(())
    }

    fn restore(&self, target: &Path, flags: &str) -> Outcome<Cost> {
        measure::sync_all();
        if self.options.cold {
            fs::write("/proc/sys/vm/drop_caches", "3")?;
        } else {
            data::warm(self.repo)?;
            if target.exists() {
                data::warm(target)?;
            }
        }
        let line = self.bowline.line(self.stage, &format!("restore --yes --to latest {flags} --target '{}'", target.display()));
        let standing = Standing { server: Some(self.stage.server.pid()), ..Standing::default() };
        measure::measured(&Script::new(line), &self.stage.room.join("log"), standing, || Ok(()))
    }
}

/// Changes some bytes of so many of the pages of all relations, `run` side by side; returns how many pages. Always the same ones.
fn change(data_dir: &Path, part: f64, run: u64, seed: u64) -> Outcome<u64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(run);
    let mut chance = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut changed = 0;
    for path in data::files(&data_dir.join("base"))? {
        let file = File::options().read(true).write(true).open(&path)?;
        let pages = file.metadata()?.len() / PAGE;
        // A run that the file's end cuts off is drawn as often as it is long.
        for first in (0..pages).step_by(run as usize) {
            if chance() >= part {
                continue;
            }
            for page in first..(first + run).min(pages) {
                let (mut bytes, at) = ([0; 16], page * PAGE + 4096);
                file.read_exact_at(&mut bytes, at)?;
                file.write_all_at(&bytes.map(|byte| !byte), at)?;
                changed += 1;
            }
        }
    }
    Ok(changed)
}

/// Fails unless both directories hold the same files with the same bytes.
fn same(one: &Path, other: &Path) -> Outcome<()> {
    let (files, others) = (data::files(one)?, data::files(other)?);
    for (file, its) in files.iter().zip(&others) {
        let agrees = file.strip_prefix(one)? == its.strip_prefix(other)? && fs::read(file)? == fs::read(its)?;
        if !agrees {
            return Err(format!("{} differs from {}", its.display(), file.display()).into());
        }
    }
    if files.len() == others.len() { Ok(()) } else { Err("the delta restore left other files".into()) }
}
