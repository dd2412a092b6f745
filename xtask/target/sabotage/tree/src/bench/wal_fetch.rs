//! Wall clock of `wal fetch` as PostgreSQL sees it during recovery: one process a segment, most of them prefetched.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use super::measure::{self, Script};
use super::report::median;
use super::tools::{Bowline, Repo, Stage, Tool};
use super::{Outcome, Place, data};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    place: Place,
    /// Segments to archive and to fetch again.
    #[arg(long, default_value_t = 24)]
    segments: u32,
    /// Pause between two fetches, ms: about what replaying a segment takes.
    #[arg(long, default_value_t = 300)]
    pause_ms: u64,
    #[arg(long)]
    bowline: Option<PathBuf>,
}

pub fn run(options: &Options) -> Outcome<()> {
    measure::adopt_orphans()?;
    let (dir, bin_dir) = (options.place.dir(), options.place.bin_dir()?);
    data::open_to_postgres(&dir)?;
    let server = data::server(&options.place)?;
    let stage = Stage {
        server: &server,
        bin_dir: &bin_dir,
        room: measure::fresh_dir(&dir.join("room"))?,
        repo: Repo::Folder(measure::fresh_dir(&dir.join("repo"))?),
    };
    let mut bowline = Bowline::new(options.bowline.clone());
    bowline.version()?;
    bowline.prepare(&stage)?;
    measure::run(&bowline.backup(&stage), &stage.room.join("log"))?;
    let mut names = Vec::new();
    for _ in 0..options.segments {
        names.push(server.sql("postgres", "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")?);
        server.sql("bench", "CREATE TABLE filling AS SELECT * FROM orders LIMIT 25000; DROP TABLE filling; SELECT pg_switch_wal()")?;
    }
    names.dedup();
    for name in &names {
        let push = bowline.line(&stage, &format!("wal push 'pg_wal/{name}'"));
        measure::run(&Script::new(format!("cd '{}'; exec {push}", server.data_dir.display())), &stage.room.join("log"))?;
    }
    let target = measure::fresh_dir(&dir.join("fetched"))?;
    measure::fresh_dir(&target.join("pg_wal"))?;
    // `wal fetch` runs in a data directory and keeps what it fetches ahead by the system identifier in its control file.
    fs::create_dir(target.join("global"))?;
    fs::copy(server.data_dir.join("global/pg_control"), target.join("global/pg_control"))?;
    measure::give_to_postgres(&target.join("global/pg_control"))?;
    let mut walls = Vec::new();
    for name in &names {
        let line = bowline.line(&stage, &format!("wal fetch {name} pg_wal/RECOVERYXLOG"));
        // `exec` leaves no shell in between; what the shell itself takes is measured with /bin/true below.
        walls.push(timed(&format!("cd '{}'; exec {line}", target.display()), &stage)?);
        fs::remove_file(target.join("pg_wal/RECOVERYXLOG"))?;
        std::thread::sleep(Duration::from_millis(options.pause_ms));
    }
    let mut shell = Vec::new();
    for _ in 0..20 {
        shell.push(timed(&format!("cd '{}'; exec env A=1 /bin/true", target.display()), &stage)?);
    }
    let prefetched = &walls[1.min(walls.len())..];
    let worst = prefetched.iter().copied().fold(0.0, f64::max);
    println!(
        "wal fetch of {} segments, whole process with a shell before it: first {:.1} ms; prefetched: median {:.1} ms, worst {:.1} ms; \
         a shell that runs /bin/true: median {:.1} ms.",
        walls.len(),
        walls.first().copied().unwrap_or(f64::NAN),
        median(prefetched),
        worst,
        median(&shell),
    );
    fs::remove_dir_all(target)?;
    data::done(server, &options.place)
}

/// Milliseconds from the start of a process to its end.
fn timed(text: &str, stage: &Stage) -> Outcome<f64> {
    let started = Instant::now();
    let mut child = measure::spawn(&Script::new(text), &stage.room.join("log"))?;
    let status = child.wait()?;
    let wall = started.elapsed().as_secs_f64() * 1e3;
    if status.success() { Ok(wall) } else { Err(format!("{status}: {text}").into()) }
}
