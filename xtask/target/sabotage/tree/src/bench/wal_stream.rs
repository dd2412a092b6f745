//! What streaming WAL costs a server that pgbench keeps busy: Bowline against pg_receivewal, in interleaved pairs.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::bucket::Bucket;
use super::lag::{self, Lags};
use super::load::{self, Load};
use super::measure;
use super::receiver::{Kind, Receiver};
use super::report::median;
use super::server::Server;
use super::tools::{self, Bowline, Repo, Stage};
use super::{Outcome, Place, data, limit, machine, tree};

/// `wal.flush_interval` where nothing else is set.
const FLUSH_SECONDS: f64 = 5.0;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    place: Place,
    /// Kinds of repository: folder, s3. pg_receivewal always writes to a folder.
    #[arg(long = "repository", value_delimiter = ',', default_value = "folder,s3")]
    repositories: Vec<String>,
    /// Pairs of runs, one under each receiver; who goes first alternates.
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// How long pgbench runs, each time.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// Scale of the tables of pgbench.
    #[arg(long, default_value_t = 20)]
    scale: u32,
    /// The bowline program; otherwise the one on the PATH.
    #[arg(long)]
    bowline: Option<PathBuf>,
}

/// One run under one receiver.
struct Figures {
    tps: f64,
    /// Bytes of the log, from the first segment of the run to the end of the last.
    wal_bytes: u64,
    lags: Lags,
    /// Seconds from the end of the load until all of it was safe.
    catch_up: f64,
    /// CPU seconds of the receiver, of the S3 server, and of one core that does the same in memory.
    cpu: f64,
    cpu_bucket: f64,
    cpu_limit: Option<f64>,
    peak_memory: u64,
    /// The log of a load during which the receiver was held, brought in at once.
    backlog: Backlog,
}

/// What a receiver does that has nothing to wait for.
struct Backlog {
    wal_bytes: u64,
    wall: f64,
    cpu: f64,
    cpu_limit: Option<f64>,
}

impl Figures {
    fn cpu_per_gb(&self) -> f64 {
        self.cpu / self.wal_bytes as f64 * 1e9
    }
}

pub fn run(options: &Options) -> Outcome<()> {
    measure::adopt_orphans()?;
    let (dir, bin_dir) = (options.place.dir(), options.place.bin_dir()?);
    let server = load::server(&options.place, options.scale)?;
    println!(
        "Measured on {}; {}; pgbench at scale {} with {} clients for {} s, {} pairs.",
        machine::words(&dir),
        tools::first_line(&bin_dir.join("postgres"), &["--version"])?,
        options.scale,
        options.clients,
        options.seconds,
        options.pairs,
    );
    for kind in &options.repositories {
        let bucket = match kind.as_str() {
            "folder" => None,
            "s3" => Some(Bucket::start(&tools::weed()?, &dir.join("weed"), &dir.join("log/weed"))?),
            other => return Err(format!("no kind of repository {other}: folder, s3").into()),
        };
        let bench = Bench { options, dir: &dir, bin_dir: &bin_dir, server: &server, bucket: bucket.as_ref() };
        let (mut plain, mut ours) = (Vec::new(), Vec::new());
        for pair in 0..options.pairs.max(1) {
            let is_plain_first = pair % 2 == 0;
            for is_plain in [is_plain_first, !is_plain_first] {
                let figures = bench.once(is_plain)?;
                let name = if is_plain { "pg_receivewal" } else { "bowline" };
                eprintln!(
                    "pair {} {kind} {name}: {:.0} tps, {} MB of WAL, lag {:.2} s and {} MB at worst, CPU {:.2} s",
                    pair + 1,
                    figures.tps,
                    figures.wal_bytes / 1_000_000,
                    figures.lags.worst.seconds,
                    figures.lags.worst.bytes / 1_000_000,
                    figures.cpu,
                );
                if is_plain { plain.push(figures) } else { ours.push(figures) }
            }
        }
        report(kind, &plain, &ours);
    }
    data::done(server, &options.place)
}

struct Bench<'a> {
    options: &'a Options,
    dir: &'a Path,
    bin_dir: &'a Path,
    server: &'a Server,
    bucket: Option<&'a Bucket>,
}

impl Bench<'_> {
    fn once(&self, is_plain: bool) -> Outcome<Figures> {
        let name = format!("bench-{}", std::process::id());
        let repo = match self.bucket {
            Some(server) => {
                server.create(&name)?;
                Repo::S3 { server, bucket: name }
            }
            None => Repo::Folder(measure::fresh_dir(&self.dir.join("repo"))?),
        };
        let stage = Stage { server: self.server, bin_dir: self.bin_dir, room: measure::fresh_dir(&self.dir.join("room"))?, repo };
        let mut kind = match is_plain {
            true => Kind::PgReceivewal { synchronous: false },
            false => Kind::Bowline(Bowline::new(self.options.bowline.clone())),
        };
        kind.version(&stage)?;
        let figures = self.under(&mut kind, &stage)?;
        measure::fresh_dir(&stage.room)?;
        match &stage.repo {
            Repo::Folder(folder) => fs::remove_dir_all(folder)?,
            Repo::S3 { server, bucket } => server.drop_bucket(bucket)?,
        }
        Ok(figures)
    }

    fn under(&self, kind: &mut Kind, stage: &Stage) -> Outcome<Figures> {
        // Every run begins with the same full pages to write.
        self.server.sql("postgres", "CHECKPOINT")?;
        let mut receiver = kind.start(stage)?;
        receiver.catch_up()?;
        measure::sync_all();
        let bucket_cpu = || self.bucket.map_or(0.0, |bucket| tree::cpu_seconds(bucket.pid()));
        let (from, cpu, cpu_bucket) = (self.position()?, receiver.cpu_seconds(), bucket_cpu());
        let load = Load { clients: self.options.clients, seconds: self.options.seconds, script: None };
        let (tps, lags) = lag::during(self.server, kind.name(), || load.run(self.bin_dir, self.server, &stage.room.join("log")))?;
        let ended = std::time::Instant::now();
        receiver.catch_up()?;
        let catch_up = ended.elapsed().as_secs_f64();
        let to = self.position()?;
        let (cpu, cpu_bucket) = (receiver.cpu_seconds() - cpu, bucket_cpu() - cpu_bucket);
        let backlog = self.backlog(&mut receiver, &load, &stage.room.join("log"))?;
        let peak_memory = receiver.peak_memory();
        receiver.stop()?;
        let (wal_bytes, cpu_limit) = (to - from, self.cpu_limit(from, to)?);
        Ok(Figures { tps, wal_bytes, lags, catch_up, cpu, cpu_bucket, cpu_limit, peak_memory, backlog })
    }

    fn backlog(&self, receiver: &mut Receiver<'_>, load: &Load, log: &Path) -> Outcome<Backlog> {
        let from = self.position()?;
        receiver.hold(true)?;
        let loaded = load.run(self.bin_dir, self.server, log);
        let (started, cpu) = (std::time::Instant::now(), receiver.cpu_seconds());
        receiver.hold(false)?;
        loaded?;
        receiver.catch_up()?;
        let (wall, cpu, to) = (started.elapsed().as_secs_f64(), receiver.cpu_seconds() - cpu, self.position()?);
        Ok(Backlog { wal_bytes: to - from, wall, cpu, cpu_limit: self.cpu_limit(from, to)? })
    }

    /// CPU seconds that one core needs for this part of the log in memory, as far as that can be measured.
    fn cpu_limit(&self, from: u64, to: u64) -> Outcome<Option<f64>> {
        match limit::wal(&self.segments(from, to)?, 256) {
            Ok(for_a_gb) => Ok(Some(for_a_gb * (to - from) as f64 / 1e9)),
            Err(reason) => {
                eprintln!("left out: pipeline limit: {reason}");
                Ok(None)
            }
        }
    }

    /// Where the segment that is written now begins: after a switch that is where the last one ends.
    fn position(&self) -> Outcome<u64> {
        let segment = "(SELECT setting::numeric FROM pg_settings WHERE name = 'wal_segment_size')";
        let text = format!("SELECT (div(pg_current_wal_insert_lsn() - '0/0'::pg_lsn, {segment}) * {segment})::bigint");
        Ok(self.server.sql("postgres", &text)?.parse()?)
    }

    /// The files of pg_wal that hold the log from one position to another, none of them recycled yet.
    fn segments(&self, from: u64, to: u64) -> Outcome<Vec<PathBuf>> {
        let text = format!("SELECT pg_walfile_name('0/0'::pg_lsn + {from} + 1), pg_walfile_name('0/0'::pg_lsn + {to})");
        let names = self.server.sql("postgres", &text)?;
        let (first, last) = names.split_once('|').ok_or("the server does not name its segments")?;
        let mut found = data::files(&self.server.data_dir.join("pg_wal"))?;
        found.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.len() == 24 && (first..=last).contains(&name)));
        Ok(found)
    }
}

fn report(kind: &str, plain: &[Figures], ours: &[Figures]) {
    println!("\nRepository: {kind} (medians, but lag and memory at worst)\n");
    println!(
        "| receiver | tps | WAL, MB | lag at worst, s | MB | lag at the end, s | caught up after, s | CPU, s for each GB | CPU ÷ limit | S3 server's CPU, s | memory, MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for (name, runs) in [("pg_receivewal", plain), ("Bowline", ours)] {
        let middle = |pick: fn(&Figures) -> f64| median(&runs.iter().map(pick).collect::<Vec<_>>());
        let worst = |pick: fn(&Figures) -> f64| runs.iter().map(pick).fold(0.0, f64::max);
        println!(
            "| {name} | {:.0} | {:.0} | {:.2} | {:.1} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} |",
            middle(|run| run.tps),
            middle(|run| run.wal_bytes as f64 / 1e6),
            worst(|run| run.lags.worst.seconds),
            worst(|run| run.lags.worst.bytes as f64 / 1e6),
            worst(|run| run.lags.end.seconds),
            middle(|run| run.catch_up),
            middle(Figures::cpu_per_gb),
            middle(|run| run.cpu_limit.map_or(f64::NAN, |limit| run.cpu / limit)),
            middle(|run| run.cpu_bucket),
            worst(|run| run.peak_memory as f64 / 1_048_576.0),
        );
    }
    println!("\nA backlog: the log of another load of that length, during which the receiver was stopped (medians)\n");
    println!("| receiver | WAL, MB | wall, s | MB/s | CPU, s for each GB | CPU ÷ limit |\n|---|---|---|---|---|---|");
    for (name, runs) in [("pg_receivewal", plain), ("Bowline", ours)] {
        let middle = |pick: fn(&Backlog) -> f64| median(&runs.iter().map(|run| pick(&run.backlog)).collect::<Vec<_>>());
        println!(
            "| {name} | {:.0} | {:.2} | {:.0} | {:.2} | {:.2} |",
            middle(|run| run.wal_bytes as f64 / 1e6),
            middle(|run| run.wall),
            middle(|run| run.wal_bytes as f64 / 1e6 / run.wall),
            middle(|run| run.cpu / run.wal_bytes as f64 * 1e9),
            middle(|run| run.cpu_limit.map_or(f64::NAN, |limit| run.cpu / limit)),
        );
    }
    let ratios: Vec<f64> = plain.iter().zip(ours).map(|(plain, ours)| ours.tps / plain.tps).collect();
    let each: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.3}")).collect();
    println!("\nThroughput left, Bowline ÷ pg_receivewal, pair by pair: {}; median {:.3} (aim 0.95).", each.join(", "), median(&ratios));
    let above: Vec<f64> = plain
        .iter()
        .zip(ours)
        .filter_map(|(plain, ours)| Some((ours.cpu_per_gb() - plain.cpu_per_gb()) * ours.wal_bytes as f64 / 1e9 / ours.cpu_limit?))
        .collect();
    println!("Bowline's CPU above what receiving alone takes (pg_receivewal's, for each GB) ÷ limit: median {:.2}.", median(&above));
    println!(
        "Aims: lag under {:.0} s (2 × flush_interval), CPU ÷ limit at most 1.2 (digest, zstd 1 and AES-256-GCM of the same segments), memory at \
         most 128 MiB. pg_receivewal reports a segment when it is whole and speaks every 10 s, which its lag shows.",
        2.0 * FLUSH_SECONDS,
    );
}
