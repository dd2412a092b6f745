//! Measures Bowline against its peers and against the machine: `cargo xtask bench …`. Installs nothing; says what is missing.

mod bucket;
mod data;
mod delta;
mod lag;
mod limit;
mod load;
mod machine;
mod measure;
mod memory;
mod race;
mod receiver;
mod recovery;
mod report;
mod server;
mod tools;
mod tree;
mod wal_archive;
mod wal_fetch;
mod wal_stream;
mod wal_sync;

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

/// What every part of the bench returns: its errors are read by a person, once, so they are text.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
#[command(name = "bench", about = "Measures Bowline against its peers and against the machine")]
struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Backup and restore by every tool present, in turn, on a folder and on an S3 server.
    BackupRestore(race::Options),
    /// `restore --delta` of a cluster of which 1 % changed, against a full restore.
    Delta(delta::Options),
    /// Backup and hundreds of segments to a server that takes writes, against pgBackRest and against WAL that is there already.
    Recovery(recovery::Options),
    /// Peak memory of Bowline against database size and number of relations.
    Memory(memory::Options),
    /// Wall clock of `wal fetch` of a segment that is prefetched, whole process.
    WalFetch(wal_fetch::Options),
    /// A backlog of WAL through archive_command and back, against pgBackRest's asynchronous archiving.
    WalArchive(wal_archive::Options),
    /// Streaming WAL from a server under pgbench, against pg_receivewal: throughput left, lag, CPU, memory.
    WalStream(wal_stream::Options),
    /// Commits that wait for the receiver, with one client and with many, against pg_receivewal --synchronous.
    WalSync(wal_sync::Options),
    /// What one core can do at most with these bytes, in memory.
    Limit(limit::Options),
}

/// Where the bench works and which server it starts.
#[derive(Args, Clone)]
pub struct Place {
    /// Directory to work in, on the disk to be measured (its parents must let the postgres user through).
    #[arg(long, env = "BOWLINE_BENCH_DIR")]
    pub dir: Option<PathBuf>,
    /// Directory with the PostgreSQL programs; otherwise $BOWLINE_PG_HOME/15/bin.
    #[arg(long)]
    pub bin_dir: Option<PathBuf>,
    /// Size of the data set, in GB of relation files.
    #[arg(long, default_value_t = 2.5)]
    pub size_gb: f64,
    /// Keep the data set for the next run.
    #[arg(long)]
    pub keep: bool,
}

impl Place {
    pub fn dir(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| std::env::temp_dir().join("bowline-bench"))
    }

    pub fn bin_dir(&self) -> Outcome<PathBuf> {
        let found = match &self.bin_dir {
            Some(dir) => dir.clone(),
            None => match std::env::var_os("BOWLINE_PG_HOME") {
                Some(home) => PathBuf::from(home).join("15/bin"),
                None => return Err("no PostgreSQL: give --bin-dir or set BOWLINE_PG_HOME".into()),
            },
        };
        if !found.join("postgres").is_file() {
            return Err(format!("no postgres in {}", found.display()).into());
        }
        Ok(found)
    }
}

/// What can be measured, by its words.
pub fn names() -> Vec<String> {
    Bench::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

/// Entry of `cargo xtask bench`; `arguments` are those after the word `bench`.
pub fn run(arguments: impl IntoIterator<Item = String>) -> Outcome<()> {
    let bench = Bench::parse_from(std::iter::once("bench".to_owned()).chain(arguments));
    match bench.what {
        What::BackupRestore(options) => race::run(&options),
        What::Delta(options) => delta::run(&options),
        What::Recovery(options) => recovery::run(&options),
        What::Memory(options) => memory::run(&options),
        What::WalFetch(options) => wal_fetch::run(&options),
        What::WalArchive(options) => wal_archive::run(&options),
        What::WalStream(options) => wal_stream::run(&options),
        What::WalSync(options) => wal_sync::run(&options),
        What::Limit(options) => limit::run(&options),
    }
}
