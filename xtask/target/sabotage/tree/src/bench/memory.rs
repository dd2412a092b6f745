//! Peak memory of Bowline's backup and restore against the number of relations, on a folder and on an S3 server.

use std::path::PathBuf;

use clap::Args;

use super::bucket::Bucket;
use super::measure::{self, Cost, Standing};
use super::server::{self, Server};
use super::tools::{Bowline, Repo, Stage, Tool};
use super::{Outcome, Place, data};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    place: Place,
    /// Clusters with this many relations are backed up; give 0 for the ordinary data set of --size-gb.
    #[arg(long, value_delimiter = ',', default_value = "0,100000")]
    relations: Vec<u32>,
    #[arg(long)]
    bowline: Option<PathBuf>,
}

pub fn run(options: &Options) -> Outcome<()> {
    measure::adopt_orphans()?;
    let (dir, bin_dir) = (options.place.dir(), options.place.bin_dir()?);
    data::open_to_postgres(&dir)?;
    println!("| cluster | repository | backup, MiB | restore, MiB | backup, s | restore, s |\n|---|---|---|---|---|---|");
    for relations in &options.relations {
        let server = match relations {
            0 => data::server(&options.place)?,
            many => with_relations(&options.place, *many)?,
        };
        let gigabytes = data::warm(&server.data_dir)? as f64 / 1e9;
        for kind in ["folder", "s3"] {
            let bucket = match (kind, std::env::var_os("BOWLINE_WEED")) {
                ("s3", Some(weed)) => Some(Bucket::start(&PathBuf::from(weed), &dir.join("weed"), &dir.join("log/weed"))?),
                ("s3", None) => {
                    eprintln!("left out: S3: BOWLINE_WEED is not set");
                    continue;
                }
                _ => None,
            };
            let stage = Stage {
                server: &server,
                bin_dir: &bin_dir,
                room: measure::fresh_dir(&dir.join("room"))?,
                repo: match &bucket {
                    Some(server) => Repo::S3 { server, bucket: "memory".to_owned() },
                    None => Repo::Folder(measure::fresh_dir(&dir.join("repo"))?),
                },
            };
            if let Some(bucket) = &bucket {
                bucket.create("memory")?;
            }
            let (backup, restore) = once(options, &stage, bucket.as_ref())?;
            let mebibytes = |cost: Cost| cost.peak_memory as f64 / 1_048_576.0;
            println!(
                "| {gigabytes:.1} GB, {} | {kind} | {:.0} | {:.0} | {:.1} | {:.1} |",
                if *relations == 0 { "few relations".to_owned() } else { format!("{relations} relations") },
                mebibytes(backup),
                mebibytes(restore),
                backup.wall,
                restore.wall,
            );
        }
        data::done(server, &options.place)?;
    }
    Ok(())
}

fn once(options: &Options, stage: &Stage, bucket: Option<&Bucket>) -> Outcome<(Cost, Cost)> {
    let mut bowline = Bowline::new(options.bowline.clone());
    bowline.version()?;
    bowline.prepare(stage)?;
    let standing = Standing { server: Some(stage.server.pid()), bucket: bucket.map(Bucket::pid), helper: None };
    let log = stage.room.join("log");
    let backup = measure::measured(&bowline.backup(stage), &log, standing, || Ok(()))?;
    let target = measure::fresh_dir(&options.place.dir().join("restored"))?;
    let restore = measure::measured(&bowline.restore(stage, &target), &log, standing, || Ok(()))?;
    std::fs::remove_dir_all(target)?;
    Ok((backup, restore))
}

/// A cluster of many small tables with a row each; no index and no TOAST, so one relation is one file.
fn with_relations(place: &Place, relations: u32) -> Outcome<Server> {
    let (dir, bin_dir) = (place.dir(), place.bin_dir()?);
    let home = dir.join(format!("data-{}-relations-{relations}", data::major_of(&bin_dir)?));
    let (pgdata, made, log) = (home.join("pgdata"), home.join("made"), dir.join("log/server"));
    data::open_to_postgres(&home)?;
    if !made.exists() {
        eprintln!("making {relations} relations …");
        server::init(&bin_dir, &pgdata, &log)?;
        let fast = ["fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_locks_per_transaction=2000"];
        let loading = Server::start(&bin_dir, &pgdata, &dir.join("sock"), &fast, &log)?;
        for first in (0..relations).step_by(1000) {
            let last = (first + 1000).min(relations) - 1;
            loading.sql(
                "postgres",
                &format!(
                    "DO $$ BEGIN FOR n IN {first}..{last} LOOP EXECUTE format('CREATE TABLE t%s (a int, b int)', n);
                 EXECUTE format('INSERT INTO t%s VALUES (1, 2)', n); END LOOP; END $$"
                ),
            )?;
        }
        loading.stop()?;
        measure::sync_all();
        std::fs::write(&made, "")?;
    }
    Server::start(&bin_dir, &pgdata, &dir.join("sock"), &[], &log)
}
