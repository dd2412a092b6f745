//! The tools that are raced, each behind the same trait; a tool that is not installed is named and left out.

mod barman;
mod barman_cloud;
mod bowline;
mod pg_basebackup;
mod pgbackrest;
mod template;
mod walrus;

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Outcome;
use super::bucket::Bucket;
use super::measure::Script;
use super::server::Server;

pub use bowline::Bowline;
pub use pgbackrest::PgBackRest;

/// Where a tool keeps its backups in one run.
pub enum Repo<'a> {
    Folder(PathBuf),
    S3 { server: &'a Bucket, bucket: String },
}

/// What a tool is given: the server to back up and room of its own.
pub struct Stage<'a> {
    pub server: &'a Server,
    /// Programs of the server's major.
    pub bin_dir: &'a Path,
    /// A directory of this tool in this run, empty at `prepare`.
    pub room: PathBuf,
    pub repo: Repo<'a>,
}

/// Does a restore leave its files on disk, or in the page cache for the kernel to write some day?
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    Yes,
    No,
    Unknown,
}

impl Syncs {
    pub fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "not said",
        }
    }
}

/// One tool in one configuration.
pub trait Tool {
    fn name(&self) -> &str;
    /// The version it reports, or why it cannot run here.
    fn version(&self) -> Outcome<String>;
    /// How it is configured, one sentence for the report.
    fn settings(&self) -> String;
    /// Why it does not run on this kind of repository, if it does not.
    fn declines(&self, repo: &Repo) -> Option<&'static str>;
    /// Whether its restore makes its files durable.
    fn restore_syncs(&self) -> Syncs;
    /// Makes a fresh repository and whatever must run beside it; not timed.
    fn prepare(&mut self, stage: &Stage) -> Outcome<()>;
    /// Takes one full backup.
    fn backup(&self, stage: &Stage) -> Script;
    /// True when `backup` may end before its WAL is stored; the clock then runs until PostgreSQL has archived it.
    fn wal_follows(&self) -> bool;
    /// Restores the newest backup into an empty directory, so that a server can be started on it.
    fn restore(&self, stage: &Stage, target: &Path) -> Script;
    /// The process of its own that stays up beside backups, if any.
    fn helper(&self) -> Option<u32> {
        None
    }
    /// Undoes `prepare`.
    fn finish(&mut self, _stage: &Stage) -> Outcome<()> {
        Ok(())
    }
}

/// Every tool the bench knows, Bowline first; `peers` are `--peer` templates.
pub fn all(bowline: Option<PathBuf>, peers: &[String]) -> Outcome<Vec<Box<dyn Tool>>> {
    let mut tools: Vec<Box<dyn Tool>> = vec![
        Box::new(Bowline::new(bowline)),
        Box::new(walrus::Walrus::as_shipped()),
        Box::new(walrus::Walrus::small_parts()),
        Box::new(pgbackrest::PgBackRest::plain()),
        Box::new(pgbackrest::PgBackRest::encrypted()),
        Box::new(pg_basebackup::PgBasebackup::single()),
        Box::new(pg_basebackup::PgBasebackup::two_workers()),
        Box::new(barman::Barman),
        Box::new(barman_cloud::BarmanCloud),
    ];
    for peer in peers {
        tools.push(Box::new(template::Template::parse(peer)?));
    }
    Ok(tools)
}

/// Finds a program on the PATH or in the peers' directory ($BOWLINE_PEERS, as scripts/peers lays it out).
pub fn program(name: &str) -> Outcome<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let peers = std::env::var_os("BOWLINE_PEERS").map(|dir| PathBuf::from(dir).join("bin"));
    peers
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
        .ok_or_else(|| format!("{name} is not installed (scripts/peers installs it; set BOWLINE_PEERS)").into())
}

/// The SeaweedFS program: $BOWLINE_WEED, or `weed` on the PATH.
pub fn weed() -> Outcome<PathBuf> {
    match std::env::var_os("BOWLINE_WEED") {
        Some(weed) => Ok(PathBuf::from(weed)),
        None => program("weed"),
    }
}

/// First line of `program arguments…`, for versions.
pub fn first_line(program: &Path, arguments: &[&str]) -> Outcome<String> {
    let output = Command::new(program).args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        Some(line) if output.status.success() => Ok(line.trim().to_owned()),
        _ => Err(format!("{} does not say its version", program.display()).into()),
    }
}

/// A pg_basebackup built with zstd; PostgreSQL's client serves older servers, so the newest found will do.
fn zstd_pg_basebackup() -> Outcome<PathBuf> {
    let home = std::env::var_os("BOWLINE_PG_HOME").map(PathBuf::from);
    let candidates = ["16", "17", "18"].iter().filter_map(|major| Some(home.as_ref()?.join(major).join("bin/pg_basebackup")));
    for candidate in candidates.chain(program("pg_basebackup").ok()) {
        if links_zstd(&candidate) {
            return Ok(candidate);
        }
    }
    Err("no pg_basebackup built with zstd (set BOWLINE_PG_HOME)".into())
}

fn links_zstd(program: &Path) -> bool {
    Command::new("ldd").arg(program).output().is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains("libzstd"))
}
