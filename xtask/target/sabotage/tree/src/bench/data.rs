//! The cluster that is backed up: realistic rows, made once for each major and size and kept on demand.

use std::fs;
use std::path::{Path, PathBuf};

use super::server::{self, Server};
use super::{Outcome, Place};
use crate::dataset;

const DATABASE: &str = "bench";
/// Every machine gets the same rows.
const SEED: u64 = 1;

/// Makes the data set of `place`, or finds the one that was kept, and starts a server on it.
pub fn server(place: &Place) -> Outcome<Server> {
    let (dir, bin_dir) = (place.dir(), place.bin_dir()?);
    let major = major_of(&bin_dir)?;
    let home = dir.join(format!("data-{major}-{}", place.size_gb));
    let (pgdata, made) = (home.join("pgdata"), home.join("made"));
    let log = dir.join("log/server");
    open_to_postgres(&home)?;
    if !made.exists() {
        eprintln!("making a data set of {} GB …", place.size_gb);
        server::init(&bin_dir, &pgdata, &log)?;
        let fast = ["fsync=off", "full_page_writes=off", "wal_level=minimal", "archive_mode=off", "max_wal_senders=0", "synchronous_commit=off"];
        let loading = Server::start(&bin_dir, &pgdata, &dir.join("sock"), &fast, &log)?;
        load(&loading, &bin_dir, place.size_gb)?;
        loading.stop()?;
        super::measure::sync_all();
        fs::write(&made, "")?;
    }
    Server::start(&bin_dir, &pgdata, &dir.join("sock"), &[], &log)
}

/// Removes the data set unless it is to be kept.
pub fn done(server: Server, place: &Place) -> Outcome<()> {
    let home = server.data_dir.parent().map(Path::to_owned);
    server.stop()?;
    match home {
        Some(home) if !place.keep => Ok(fs::remove_dir_all(home)?),
        _ => Ok(()),
    }
}

/// Reads every file of the data directory once, so that all tools find it in the page cache; returns the bytes a base
/// backup has to carry (everything but WAL).
pub fn warm(pgdata: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for file in files(pgdata)? {
        if !file.starts_with(pgdata.join("pg_wal")) {
            bytes += std::io::copy(&mut fs::File::open(file)?, &mut std::io::sink())?;
        }
    }
    Ok(bytes)
}

/// Every file under a directory.
pub fn files(root: &Path) -> Outcome<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => open.push(entry.path()),
                kind if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Makes a directory that the postgres user can work in; its parents must already let it through.
pub fn open_to_postgres(dir: &Path) -> Outcome<()> {
    fs::create_dir_all(dir)?;
    super::measure::give_to_postgres(dir)
}

pub fn major_of(bin_dir: &Path) -> Outcome<String> {
    let line = super::tools::first_line(&bin_dir.join("postgres"), &["--version"])?;
    let version = line.split_whitespace().nth(2).ok_or("postgres does not say its version")?;
    Ok(version.split('.').next().unwrap_or(version).to_owned())
}

fn load(server: &Server, bin_dir: &Path, size_gb: f64) -> Outcome<()> {
    server.sql("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
    let conninfo = format!("host={} user=postgres dbname={DATABASE}", server.socket_dir.display());
    dataset::load(&dataset::Server::at(bin_dir.to_owned(), &conninfo), dataset::Size::gigabytes(size_gb), SEED)?;
    Ok(())
}
