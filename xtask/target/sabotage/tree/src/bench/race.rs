//! Backup and restore by every tool in turn, round after round, on a folder and on an S3 server.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::bucket::Bucket;
use super::limit::{self, Limit};
use super::measure::{self, Cost, Standing};
use super::server::{self, Server};
use super::tools::{self, Repo, Stage, Tool};
use super::{Outcome, Place, data, machine, report, tree};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    pub place: Place,
    /// Rounds; each takes every tool once, so that a slow minute of the machine hurts all alike.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Kinds of repository: folder, s3.
    #[arg(long, value_delimiter = ',', default_value = "folder,s3")]
    pub repos: Vec<String>,
    /// Tools by name or a part of it; all that are installed unless given.
    #[arg(long, value_delimiter = ',')]
    pub tools: Vec<String>,
    /// A further tool: `name=…;backup=command;restore=command[;archive=…][;syncs=yes|no]`.
    #[arg(long = "peer")]
    pub peers: Vec<String>,
    /// The bowline program; otherwise the one beside this program, or on the PATH.
    #[arg(long)]
    pub bowline: Option<PathBuf>,
    /// Do not start and check the servers restored in the first round.
    #[arg(long)]
    pub no_proof: bool,
    /// Drop the page cache before every measurement instead of warming it.
    #[arg(long)]
    pub cold: bool,
    /// Write the table into docs/benchmarks.md.
    #[arg(long)]
    pub write: bool,
    /// Where the JSON goes; otherwise the working directory of the bench.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// One tool on one kind of repository, all rounds.
#[derive(Serialize)]
pub struct Entry {
    pub tool: String,
    pub version: String,
    pub settings: String,
    pub repo: String,
    pub restore_syncs: &'static str,
    pub backups: Vec<Cost>,
    pub restores: Vec<Cost>,
    /// Seconds until everything the restore left in the page cache was on disk.
    pub sync_after_restore: Vec<f64>,
    /// Bytes in the repository after the one backup.
    pub repo_bytes: u64,
    pub repo_objects: u64,
    pub proved: bool,
}

/// Everything a run found out.
#[derive(Serialize)]
pub struct Results {
    pub machine: String,
    pub postgres: String,
    pub data_bytes: u64,
    pub rounds: usize,
    pub cold: bool,
    pub limit: Option<Limit>,
    pub entries: Vec<Entry>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

pub fn run(options: &Options) -> Outcome<()> {
    measure::adopt_orphans()?;
    let (dir, bin_dir) = (options.place.dir(), options.place.bin_dir()?);
    data::open_to_postgres(&dir)?;
    let server = data::server(&options.place)?;
    let data_bytes = data::warm(&server.data_dir)?;
    let mut results = Results {
        machine: machine::words(&dir),
        postgres: tools::first_line(&bin_dir.join("postgres"), &["--version"])?,
        data_bytes,
        rounds: options.rounds,
        cold: options.cold,
        limit: None,
        entries: Vec::new(),
        left_out: Vec::new(),
    };
    match limit::measure(&server.data_dir, 512, 3) {
        Ok(limit) => results.limit = Some(limit),
        Err(reason) => results.left_out.push(format!("pipeline limit: {reason}")),
    }
    let expected = if options.no_proof { Vec::new() } else { server.row_counts()? };
    for kind in &options.repos {
        let bucket = match kind.as_str() {
            "folder" => None,
            "s3" => match tools::weed() {
                Ok(weed) => Some(Bucket::start(&weed, &dir.join("weed"), &dir.join("log/weed"))?),
                Err(reason) => {
                    results.left_out.push(format!("S3: {reason}"));
                    continue;
                }
            },
            other => return Err(format!("no kind of repository {other}: folder, s3").into()),
        };
        let race = Race { options, dir: &dir, bin_dir: &bin_dir, server: &server, bucket: bucket.as_ref(), expected: &expected };
        race.all(kind, &mut results)?;
    }
    data::done(server, &options.place)?;
    let json = options.json.clone().unwrap_or_else(|| dir.join("results.json"));
    fs::write(&json, serde_json::to_string_pretty(&results)?)?;
    let table = report::race(&results);
    println!("{table}");
    eprintln!("all figures: {}", json.display());
    if options.write { report::write(&table) } else { Ok(()) }
}

struct Race<'a> {
    options: &'a Options,
    dir: &'a Path,
    bin_dir: &'a Path,
    server: &'a Server,
    bucket: Option<&'a Bucket>,
    expected: &'a [String],
}

impl Race<'_> {
    fn all(&self, kind: &str, results: &mut Results) -> Outcome<()> {
        let mut field: Vec<(Box<dyn Tool>, usize)> = Vec::new();
        for tool in tools::all(self.options.bowline.clone(), &self.options.peers)? {
            let name = tool.name().to_owned();
            if !self.wants(&name) {
                continue;
            }
            let reason = match (tool.version(), tool.declines(&self.repo("probe"))) {
                (_, Some(reason)) => reason.to_owned(),
                (Err(error), None) => error.to_string(),
                (Ok(version), None) => {
                    results.entries.push(Entry {
                        tool: name,
                        version,
                        settings: tool.settings(),
                        repo: kind.to_owned(),
                        restore_syncs: tool.restore_syncs().word(),
                        backups: Vec::new(),
                        restores: Vec::new(),
                        sync_after_restore: Vec::new(),
                        repo_bytes: 0,
                        repo_objects: 0,
                        proved: false,
                    });
                    field.push((tool, results.entries.len() - 1));
                    continue;
                }
            };
            eprintln!("left out on {kind}: {name}: {reason}");
            results.left_out.push(format!("{name} on {kind}: {reason}"));
        }
        for round in 0..self.options.rounds {
            // Everyone has every place in the order once, more or less: who runs after whom matters on a warm disk.
            let turn = round % field.len().max(1);
            field.rotate_left(usize::from(turn > 0));
            let mut failed = Vec::new();
            for (at, (tool, entry)) in field.iter_mut().enumerate() {
                eprintln!("round {} of {}, {kind}: {}", round + 1, self.options.rounds, tool.name());
                if let Err(error) = self.once(tool.as_mut(), &mut results.entries[*entry], round) {
                    eprintln!("  failed: {error}");
                    results.left_out.push(format!("{} on {kind}, round {}: {error}", tool.name(), round + 1));
                    failed.push(at);
                }
            }
            for at in failed.into_iter().rev() {
                field.remove(at);
            }
        }
        results.entries.retain(|entry| !entry.restores.is_empty());
        Ok(())
    }

    fn wants(&self, name: &str) -> bool {
        let wanted = &self.options.tools;
        wanted.is_empty() || wanted.iter().any(|part| name.to_lowercase().contains(&part.to_lowercase()))
    }

    fn repo(&self, name: &str) -> Repo<'_> {
        match self.bucket {
            Some(server) => Repo::S3 { server, bucket: name.to_owned() },
            None => Repo::Folder(self.dir.join("repo")),
        }
    }

    fn once(&self, tool: &mut dyn Tool, entry: &mut Entry, round: usize) -> Outcome<()> {
        let bucket_name = format!("bench-{}", std::process::id());
        let stage =
            Stage { server: self.server, bin_dir: self.bin_dir, room: measure::fresh_dir(&self.dir.join("room"))?, repo: self.repo(&bucket_name) };
        match &stage.repo {
            Repo::Folder(folder) => drop(measure::fresh_dir(folder)?),
            Repo::S3 { server, bucket } => server.create(bucket)?,
        }
        let done = tool.prepare(&stage).and_then(|()| self.measure(tool, &stage, entry, round));
        let undone = tool.finish(&stage);
        self.server.set("archive_command", "/bin/true")?;
        match &stage.repo {
            Repo::Folder(folder) => fs::remove_dir_all(folder)?,
            Repo::S3 { server, bucket } => server.drop_bucket(bucket)?,
        }
        done.and(undone)
    }

    fn measure(&self, tool: &dyn Tool, stage: &Stage, entry: &mut Entry, round: usize) -> Outcome<()> {
        let log = stage.room.join("log");
        let standing = Standing { server: Some(self.server.pid()), bucket: self.bucket.map(Bucket::pid), helper: tool.helper() };
        self.server.sql("postgres", "CHECKPOINT")?;
        self.settle()?;
        let until = || if tool.wal_follows() { self.server.wait_archived() } else { Ok(()) };
        let backup = measure::measured(&tool.backup(stage), &log, standing, until)?;
        (entry.repo_bytes, entry.repo_objects) = match &stage.repo {
            Repo::Folder(folder) => folder_size(folder)?,
            Repo::S3 { server, bucket } => server.size(bucket)?,
        };
        let target = measure::fresh_dir(&self.dir.join("restored"))?;
        self.settle()?;
        let restore = measure::measured(&tool.restore(stage, &target), &log, standing, || Ok(()))?;
        let left = tree::unsynced_bytes();
        let sync = measure::sync_all();
        eprintln!(
            "  backup {:.2} s, CPU {:.2} + {:.2} s, {} MB; restore {:.2} s, CPU {:.2} s, then {} MB unsynced, {sync:.2} s",
            backup.wall,
            backup.cpu_tool,
            backup.cpu_server,
            entry.repo_bytes / 1_000_000,
            restore.wall,
            restore.cpu(),
            left / 1_000_000,
        );
        entry.backups.push(backup);
        entry.restores.push(restore);
        entry.sync_after_restore.push(sync);
        if round == 0 && !self.options.no_proof {
            server::prove(self.bin_dir, &target, &self.dir.join("proof"), self.expected, &self.dir.join("log/proof"))?;
            entry.proved = true;
        }
        Ok(fs::remove_dir_all(target)?)
    }

    /// Nothing is left to write from before, and what is to be read is in the page cache (or, cold, not).
    fn settle(&self) -> Outcome<()> {
        measure::sync_all();
        if self.options.cold {
            fs::write("/proc/sys/vm/drop_caches", "3")?;
        } else {
            data::warm(&self.server.data_dir)?;
        }
        Ok(())
    }
}

/// Bytes and files of a directory.
fn folder_size(folder: &Path) -> Outcome<(u64, u64)> {
    let files = data::files(folder)?;
    let bytes = files.iter().map(|file| file.metadata().map(|meta| meta.len())).sum::<Result<u64, _>>()?;
    Ok((bytes, files.len() as u64))
}
