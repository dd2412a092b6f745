//! Commits that wait until their WAL is safe: one client and many, under Bowline on a folder and on S3, and under
//! `pg_receivewal --synchronous`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::bucket::Bucket;
use super::load::{self, Load};
use super::measure;
use super::receiver::Kind;
use super::report::median;
use super::server::Server;
use super::tools::{self, Bowline, Repo, Stage};
use super::{Outcome, Place, data, machine};

/// One row a transaction: as little WAL as a commit can be.
const SCRIPT: &str = "INSERT INTO commits VALUES (:client_id, clock_timestamp());\n";

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    place: Place,
    /// Kinds of repository: folder, s3.
    #[arg(long = "repository", value_delimiter = ',', default_value = "folder,s3")]
    repositories: Vec<String>,
    /// Rounds; each takes every receiver once, in another order.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long pgbench runs, each time.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// How many clients the many are.
    #[arg(long, default_value_t = 32)]
    clients: u32,
    /// The bowline program; otherwise the one on the PATH.
    #[arg(long)]
    bowline: Option<PathBuf>,
}

/// Who makes commits wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    Nobody,
    PgReceivewal,
    Bowline { on_s3: bool },
}

impl Waits {
    fn words(self) -> &'static str {
        match self {
            Self::Nobody => "nobody (local flush only)",
            Self::PgReceivewal => "pg_receivewal --synchronous",
            Self::Bowline { on_s3: false } => "Bowline, folder",
            Self::Bowline { on_s3: true } => "Bowline, s3",
        }
    }
}

/// Transactions a second, and the receiver's CPU for a thousand of them in ms, with one client and with many.
#[derive(Clone, Copy, Default)]
struct Figures {
    one: f64,
    many: f64,
    cpu_one: f64,
    cpu_many: f64,
}

struct Entry {
    waits: Waits,
    rounds: Vec<Figures>,
}

pub fn run(options: &Options) -> Outcome<()> {
    measure::adopt_orphans()?;
    let (dir, bin_dir) = (options.place.dir(), options.place.bin_dir()?);
    let server = load::server(&options.place, 1)?;
    server.sql("postgres", "DROP TABLE IF EXISTS commits; CREATE TABLE commits (client int, at timestamptz)")?;
    let mut entries = vec![Waits::Nobody, Waits::PgReceivewal];
    let mut bucket = None;
    for kind in &options.repositories {
        match kind.as_str() {
            "folder" => {}
            "s3" => bucket = Some(Bucket::start(&tools::weed()?, &dir.join("weed"), &dir.join("log/weed"))?),
            other => return Err(format!("no kind of repository {other}: folder, s3").into()),
        }
        entries.push(Waits::Bowline { on_s3: kind == "s3" });
    }
    let mut entries: Vec<Entry> = entries.into_iter().map(|waits| Entry { waits, rounds: Vec::new() }).collect();
    let bench = Bench { options, dir: &dir, bin_dir: &bin_dir, server: &server, bucket: bucket.as_ref() };
    for round in 0..options.rounds.max(1) {
        for turn in 0..entries.len() {
            // Everyone has every place in the order.
            let at = (turn + round) % entries.len();
            let entry = &mut entries[at];
            let figures = bench.once(entry.waits)?;
            eprintln!("round {} {}: {:.0} tps alone, {:.0} tps together", round + 1, entry.waits.words(), figures.one, figures.many);
            entry.rounds.push(figures);
        }
    }
    println!(
        "Measured on {}; {}; one-row transactions for {} s, medians of {} rounds.\n",
        machine::words(&dir),
        tools::first_line(&bin_dir.join("postgres"), &["--version"])?,
        options.seconds,
        options.rounds,
    );
    report(options.clients, &entries);
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
    fn once(&self, waits: Waits) -> Outcome<Figures> {
        let name = format!("bench-{}", std::process::id());
        let repo = match (waits, self.bucket) {
            (Waits::Bowline { on_s3: true }, Some(server)) => {
                server.create(&name)?;
                Repo::S3 { server, bucket: name }
            }
            _ => Repo::Folder(measure::fresh_dir(&self.dir.join("repo"))?),
        };
        let stage = Stage { server: self.server, bin_dir: self.bin_dir, room: measure::fresh_dir(&self.dir.join("room"))?, repo };
        let script = stage.room.join("commit.sql");
        fs::write(&script, SCRIPT)?;
        measure::give_to_postgres(&script)?;
        self.server.sql("postgres", "TRUNCATE commits; CHECKPOINT")?;
        let figures = match waits {
            Waits::Nobody => {
                let (one, many) = (self.load(&stage, &script, 1)?, self.load(&stage, &script, self.options.clients)?);
                Figures { one, many, ..Figures::default() }
            }
            Waits::PgReceivewal => self.under(Kind::PgReceivewal { synchronous: true }, &stage, &script)?,
            Waits::Bowline { .. } => {
                let mut bowline = Bowline::new(self.options.bowline.clone());
                bowline.wal = "synchronous = true\n";
                self.under(Kind::Bowline(bowline), &stage, &script)?
            }
        };
        measure::fresh_dir(&stage.room)?;
        match &stage.repo {
            Repo::Folder(folder) => fs::remove_dir_all(folder)?,
            Repo::S3 { server, bucket } => server.drop_bucket(bucket)?,
        }
        Ok(figures)
    }

    fn under(&self, mut kind: Kind, stage: &Stage, script: &Path) -> Outcome<Figures> {
        kind.version(stage)?;
        let mut receiver = kind.start(stage)?;
        receiver.catch_up()?;
        receiver.make_synchronous()?;
        let mut figures = [(0.0, 0.0); 2];
        for (clients, figure) in [1, self.options.clients].into_iter().zip(&mut figures) {
            let before = receiver.cpu_seconds();
            let tps = self.load(stage, script, clients)?;
            let commits = tps * f64::from(self.options.seconds);
            *figure = (tps, (receiver.cpu_seconds() - before) * 1e6 / commits);
            if !receiver.is_synchronous()? {
                return Err(format!("{} was not synchronous to the end: the figures mean nothing", kind.name()).into());
            }
        }
        receiver.stop()?;
        let [(one, cpu_one), (many, cpu_many)] = figures;
        Ok(Figures { one, many, cpu_one, cpu_many })
    }

    fn load(&self, stage: &Stage, script: &Path, clients: u32) -> Outcome<f64> {
        measure::sync_all();
        let load = Load { clients, seconds: self.options.seconds, script: Some(script.to_owned()) };
        load.run(self.bin_dir, self.server, &stage.room.join("log"))
    }
}

fn report(clients: u32, entries: &[Entry]) {
    println!(
        "| commits wait for | tps, 1 client | tps, {clients} clients | {clients} ÷ 1 | receiver's CPU for 1000 commits, ms: 1 client | {clients} |"
    );
    println!("|---|---|---|---|---|---|");
    for Entry { waits, rounds } in entries {
        let middle = |pick: fn(&Figures) -> f64| median(&rounds.iter().map(pick).collect::<Vec<_>>());
        println!(
            "| {} | {:.0} | {:.0} | {:.2} | {:.0} | {:.0} |",
            waits.words(),
            middle(|run| run.one),
            middle(|run| run.many),
            middle(|run| run.many / run.one),
            middle(|run| run.cpu_one),
            middle(|run| run.cpu_many),
        );
    }
    let rounds_of = |wanted: Waits| entries.iter().find(|entry| entry.waits == wanted).map(|entry| &entry.rounds[..]);
    let both = (rounds_of(Waits::Bowline { on_s3: false }), rounds_of(Waits::PgReceivewal));
    if let (Some(ours), Some(peers)) = both {
        let ratio = |pick: fn(&Figures) -> f64| median(&ours.iter().zip(peers).map(|(ours, peer)| pick(ours) / pick(peer)).collect::<Vec<_>>());
        println!(
            "\nBowline on a folder ÷ pg_receivewal --synchronous, medians round by round: {:.2} with one client, {:.2} with {clients} (aim 0.8). \
             Aim of group commit: {clients} clients at least 10 × one.",
            ratio(|run| run.one),
            ratio(|run| run.many),
        );
    }
}
