//! A backlog of WAL through `archive_command` and back through `restore_command`, one process a segment as PostgreSQL runs
//! them, by Bowline and by pgBackRest with its asynchronous archiving.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::bucket::Bucket;
use super::measure::{self, Cost, Script, Standing};
use super::report::median;
use super::server::{self, Server};
use super::tools::{self, Bowline, PgBackRest, Repo, Stage, Tool};
use super::{Outcome, Place, data};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    place: Place,
    /// Segments of 16 MiB in the backlog.
    #[arg(long, default_value_t = 200)]
    segments: usize,
    /// Rounds; each takes every tool once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Kinds of repository: folder, s3.
    #[arg(long, value_delimiter = ',', default_value = "folder,s3")]
    repos: Vec<String>,
    /// Segments on their way at once, of every tool; Bowline's own default is the same.
    #[arg(long, default_value_t = 4)]
    jobs: u16,
    #[arg(long)]
    bowline: Option<PathBuf>,
}

/// Who archives, and how.
enum Archiver {
    Bowline(Bowline),
    /// With its own asynchronous mode.
    PgBackRest(PgBackRest, u16),
}

impl Archiver {
    fn tool(&mut self) -> &mut dyn Tool {
        match self {
            Self::Bowline(tool) => tool,
            Self::PgBackRest(tool, _) => tool,
        }
    }

    /// A fresh repository and whatever else archiving needs.
    fn prepare(&mut self, stage: &Stage) -> Outcome<()> {
        self.tool().prepare(stage)?;
        stage.server.set("archive_command", "")?;
        let Self::PgBackRest(_, jobs) = self else { return Ok(()) };
        let config = PgBackRest::config(stage);
        // As far ahead as Bowline fetches: sixteen segments.
        let further = format!("[global]\narchive-async=y\narchive-get-queue-max=256MiB\nprocess-max={jobs}\n");
        let text = fs::read_to_string(&config)?.replace("process-max=2\n", "").replace("[global]\n", &further);
        fs::write(&config, text)?;
        measure::give_to_postgres(&config)
    }

    fn push(&self, stage: &Stage) -> String {
        match self {
            Self::Bowline(tool) => tool.line(stage, "wal push \"pg_wal/$f\""),
            Self::PgBackRest(..) => PgBackRest::line(stage, "archive-push \"pg_wal/$f\""),
        }
    }

    fn fetch(&self, stage: &Stage, target: &Path) -> String {
        match self {
            Self::Bowline(tool) => tool.line(stage, "wal fetch \"$f\" pg_wal/RECOVERYXLOG"),
            Self::PgBackRest(..) => PgBackRest::line(stage, &format!("--pg1-path={} archive-get \"$f\" pg_wal/RECOVERYXLOG", target.display())),
        }
    }
}

pub fn run(options: &Options) -> Outcome<()> {
    measure::adopt_orphans()?;
    let (dir, bin_dir) = (options.place.dir(), options.place.bin_dir()?);
    data::open_to_postgres(&dir)?;
    let (server, names) = backlog(&dir, &bin_dir, options.segments)?;
    let mut archivers = vec![
        Archiver::Bowline(Bowline::new(options.bowline.clone())),
        Archiver::PgBackRest(PgBackRest::plain(), options.jobs),
        Archiver::PgBackRest(PgBackRest::encrypted(), options.jobs),
    ];
    archivers.retain_mut(|archiver| match archiver.tool().version() {
        Ok(version) => {
            println!("{}: {version}", archiver.tool().name());
            true
        }
        Err(reason) => {
            println!("left out: {}: {reason}", archiver.tool().name());
            false
        }
    });
    for kind in &options.repos {
        let bucket = match kind.as_str() {
            "folder" => None,
            "s3" => Some(Bucket::start(&tools::weed()?, &dir.join("weed"), &dir.join("log/weed"))?),
            other => return Err(format!("no kind of repository {other}: folder, s3").into()),
        };
        let mut costs: Vec<(Vec<Cost>, Vec<Cost>)> = archivers.iter().map(|_| Default::default()).collect();
        for round in 0..options.rounds {
            for turn in 0..archivers.len() {
                // Everyone has every place in the order.
                let at = (turn + round) % archivers.len();
                let race = Race { dir: &dir, bin_dir: &bin_dir, server: &server, bucket: bucket.as_ref(), names: &names };
                let (push, fetch) = race.once(&mut archivers[at])?;
                eprintln!("round {} {kind} {}: push {:.2} s, fetch {:.2} s", round + 1, archivers[at].tool().name(), push.wall, fetch.wall);
                costs[at].0.push(push);
                costs[at].1.push(fetch);
            }
        }
        report(kind, names.len(), &mut archivers, &costs);
    }
    server.stop()?;
    if !options.place.keep {
        fs::remove_dir_all(dir.join("backlog"))?;
    }
    Ok(())
}

fn report(kind: &str, segments: usize, archivers: &mut [Archiver], costs: &[(Vec<Cost>, Vec<Cost>)]) {
    println!("\n{segments} segments, repository in {kind}; medians, and peak memory of all its processes at once");
    println!("| tool | push s | CPU s | MiB | fetch s | CPU s | MiB |\n|---|---|---|---|---|---|---|");
    let figure = |costs: &[Cost], pick: fn(&Cost) -> f64| median(&costs.iter().map(pick).collect::<Vec<_>>());
    let memory = |costs: &[Cost]| costs.iter().map(|cost| cost.peak_memory).max().unwrap_or(0) >> 20;
    for (archiver, (push, fetch)) in archivers.iter_mut().zip(costs) {
        println!(
            "| {} | {:.2} | {:.2} | {} | {:.2} | {:.2} | {} |",
            archiver.tool().name(),
            figure(push, |cost| cost.wall),
            figure(push, |cost| cost.cpu_tool),
            memory(push),
            figure(fetch, |cost| cost.wall),
            figure(fetch, |cost| cost.cpu_tool),
            memory(fetch),
        );
    }
}

/// A server with this many finished segments that nobody archives, full of what pgbench writes; its names in order.
fn backlog(dir: &Path, bin_dir: &Path, segments: usize) -> Outcome<(Server, Vec<String>)> {
    let (pgdata, log) = (dir.join("backlog/pgdata"), dir.join("log/backlog"));
    data::open_to_postgres(&dir.join("backlog"))?;
    server::init(bin_dir, &pgdata, &log)?;
    // Nothing is recycled, and an empty command archives nothing and fails nothing.
    let settings = ["wal_keep_size=16GB", "max_wal_size=32GB", "archive_command=", "synchronous_commit=off"];
    let server = Server::start(bin_dir, &pgdata, &dir.join("backlog/sock"), &settings[..2], &log)?;
    server.set("archive_command", "")?;
    server.set("synchronous_commit", "off")?;
    let bench = |words: &str| {
        let text = format!("'{}' -h '{}' -U postgres {words} postgres", bin_dir.join("pgbench").display(), server.socket_dir.display());
        measure::run(&Script::new(text), &log)
    };
    bench("-i -q -s 20")?;
    loop {
        let names = waiting(&pgdata)?;
        if names.len() >= segments {
            server.sql("postgres", "CHECKPOINT")?;
            return Ok((server, names[..segments].to_vec()));
        }
        eprintln!("{} of {segments} segments …", names.len());
        bench("-n -c 4 -T 5")?;
        // The next writes bring full pages again, as they do in production.
        server.sql("postgres", "CHECKPOINT")?;
    }
}

/// The segments that are marked for the archiver, in its order.
fn waiting(pgdata: &Path) -> Outcome<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(pgdata.join("pg_wal/archive_status"))? {
        if let Some(name) = entry?.file_name().to_str().and_then(|name| name.strip_suffix(".ready")) {
            names.push(name.to_owned());
        }
    }
    names.retain(|name| name.len() == 24);
    names.sort();
    Ok(names)
}

struct Race<'a> {
    dir: &'a Path,
    bin_dir: &'a Path,
    server: &'a Server,
    bucket: Option<&'a Bucket>,
    names: &'a [String],
}

impl Race<'_> {
    fn once(&self, archiver: &mut Archiver) -> Outcome<(Cost, Cost)> {
        let repo = match self.bucket {
            Some(server) => {
                let bucket = format!("bench-{}", std::process::id());
                server.create(&bucket)?;
                Repo::S3 { server, bucket }
            }
            None => Repo::Folder(measure::fresh_dir(&self.dir.join("repo"))?),
        };
        let stage = Stage { server: self.server, bin_dir: self.bin_dir, room: measure::fresh_dir(&self.dir.join("room"))?, repo };
        archiver.prepare(&stage)?;
        let log = stage.room.join("log");
        let standing = Standing { server: Some(self.server.pid()), bucket: self.bucket.map(Bucket::pid), helper: None };
        let pgdata = &self.server.data_dir;
        let status = pgdata.join("pg_wal/archive_status");
        // The archiver's loop (pgarch_ArchiverCopyLoop): one command at a time through a shell, then the mark is changed.
        let text = format!(
            "cd '{}'; for f in {}; do sh -c '{}'; mv 'pg_wal/archive_status/'\"$f\".ready 'pg_wal/archive_status/'\"$f\".done; done",
            pgdata.display(),
            self.names.join(" "),
            archiver.push(&stage).replace("\"pg_wal/$f\"", "'\"pg_wal/$f\"'"),
        );
        for name in self.names {
            // Archived in the round before, or by what stood in for an archive command while the repository was made.
            let _ = fs::rename(status.join(format!("{name}.done")), status.join(format!("{name}.ready")));
        }
        measure::sync_all();
        let push = measure::measured(&Script::new(text), &log, standing, || Ok(()));
        let push = push?;
        let target = measure::fresh_dir(&self.dir.join("fetched"))?;
        measure::fresh_dir(&target.join("pg_wal"))?;
        measure::fresh_dir(&target.join("global"))?;
        fs::copy(pgdata.join("global/pg_control"), target.join("global/pg_control"))?;
        measure::give_to_postgres(&target.join("global/pg_control"))?;
        // What recovery does with each (RestoreArchivedFile, KeepFileRestoredFromArchive), replay left out.
        let text = format!(
            "cd '{}'; for f in {}; do sh -c '{}'; sync pg_wal/RECOVERYXLOG; mv pg_wal/RECOVERYXLOG pg_wal/segment; done",
            target.display(),
            self.names.join(" "),
            archiver.fetch(&stage, &target).replace("\"$f\"", "'\"$f\"'"),
        );
        measure::sync_all();
        let fetch = measure::measured(&Script::new(text), &log, standing, || Ok(()))?;
        let last = self.names.last().ok_or("there are no segments")?;
        if fs::read(target.join("pg_wal/segment"))? != fs::read(pgdata.join("pg_wal").join(last))? {
            return Err(format!("{} brought back other bytes", archiver.tool().name()).into());
        }
        fs::remove_dir_all(&target)?;
        archiver.tool().finish(&stage)?;
        match &stage.repo {
            Repo::Folder(folder) => fs::remove_dir_all(folder)?,
            Repo::S3 { server, bucket } => server.drop_bucket(bucket)?,
        }
        Ok((push, fetch))
    }
}
