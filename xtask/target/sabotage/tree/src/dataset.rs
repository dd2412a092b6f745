//! Data shaped like a knowledge service's, loaded fast into a running server, the same for the same seed; and sums to compare it by.

mod prose;
mod rows;
mod tables;

use prose::{Prose, Rng};
use rows::Writer;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tables::{TABLES, Table};

/// What goes wrong is read by a person, once, so it is text.
type Outcome<T> = Result<T, String>;

/// How much data.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    bytes: u64,
}

impl Size {
    /// `scale` 1 fills a data directory of about 300 MB (without pg_wal), the server's own 30 MB included.
    pub fn scale(scale: f64) -> Self {
        Self { bytes: (scale * 300e6 - 30e6).max(1e6) as u64 }
    }
    /// So many GB (10^9 bytes) of tables and indexes.
    pub fn gigabytes(gigabytes: f64) -> Self {
        Self { bytes: (gigabytes * 1e9) as u64 }
    }
}

/// The way to a server: makes a command for one of PostgreSQL's programs (`psql`, `pgbench`) that connects, without further
/// arguments, to the database to be used, e.g. `|name| cluster.bin(name)`.
pub struct Server<'a> {
    program: Box<dyn Fn(&str) -> Command + Sync + 'a>,
    /// Given as the last argument to each program, when the environment alone does not lead to the server.
    conninfo: Option<OsString>,
}

impl<'a> Server<'a> {
    /// A server that the programs find by their environment.
    pub fn new(program: impl Fn(&str) -> Command + Sync + 'a) -> Self {
        Self { program: Box::new(program), conninfo: None }
    }
    /// The server of this connection string (either form of libpq's), with the programs of this directory.
    pub fn at(bin_dir: PathBuf, conninfo: &str) -> Self {
        Self { conninfo: Some(conninfo.into()), ..Self::new(move |name| Command::new(bin_dir.join(name))) }
    }

    fn run(&self, name: &str, arguments: &[&str], feed: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Outcome<String> {
        let mut command = (self.program)(name);
        command.args(arguments).args(&self.conninfo);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot run {command:?}: {error}"))?;
        let mut input = child.stdin.take().ok_or("no pipe to the program")?;
        // A program that stops early closes its end; its own words say why, so they count more than the broken pipe.
        let fed = feed(&mut input);
        drop(input);
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        fed.map_err(|error| format!("{name}: {error}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn sql(&self, text: &str) -> Outcome<String> {
        self.run("psql", &["-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-"], |input| input.write_all(text.as_bytes()))
    }
}

/// What was loaded.
#[derive(Debug)]
pub struct Loaded {
    /// Bytes on disk of all tables with their indexes and TOAST.
    pub bytes: u64,
    /// From the first CREATE to the last checkpoint.
    pub took: Duration,
}

/// Makes the tables in the server's current database and fills them; the same rows for the same size and seed.
/// Ends with VACUUM, ANALYZE and a checkpoint, so that what follows measures only itself.
pub fn load(server: &Server, size: Size, seed: u64) -> Outcome<Loaded> {
    let begun = Instant::now();
    let prose = Prose::new();
    let rows = |name: &str| {
        let table = TABLES.iter().find(|table| table.name == name).expect("a table of the list");
        (size.bytes * table.share_percent / 100 / table.bytes_per_row).max(10)
    };
    let (users, documents) = (rows("users"), rows("documents"));
    let organizations = users / 40 + 1;
    let jobs: Vec<Job> = TABLES
        .iter()
        .map(|table| Job::Table(table, if table.name == "organizations" { organizations } else { rows(table.name) }))
        .chain([Job::Pgbench((size.bytes / 10 / PGBENCH_SCALE_BYTES).max(1))])
        .collect();
    // Two loaders: writing rows and taking them in keep two cores busy each, whatever there is of them.
    let queue = Mutex::new(jobs.into_iter());
    let work = || -> Outcome<()> {
        loop {
            let job = queue.lock().map_err(|_| "the other loader panicked")?.next();
            match job {
                None => return Ok(()),
                Some(Job::Pgbench(scale)) => drop(server.run("pgbench", &["-i", "-q", "-s", &scale.to_string()], |_| Ok(()))?),
                Some(Job::Table(table, rows)) => {
                    let rng = Rng::new(seed, table.name);
                    let writer = Writer { prose: &prose, rng, out: Vec::with_capacity(1 << 20), organizations, users, documents };
                    fill(server, table, rows, writer)?;
                }
            }
        }
    };
    std::thread::scope(|scope| -> Outcome<()> {
        let loaders = [scope.spawn(work), scope.spawn(work)];
        loaders.into_iter().try_for_each(|loader| loader.join().map_err(|_| "a loader panicked")?)
    })?;
    server.sql("VACUUM ANALYZE; CHECKPOINT")?;
    let bytes = server.sql(
        "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
         WHERE relkind = 'r' AND nspname = 'public'",
    )?;
    Ok(Loaded { bytes: bytes.trim().parse().map_err(|_| format!("not a size: {bytes}"))?, took: begun.elapsed() })
}

enum Job {
    Table(&'static Table, u64),
    Pgbench(u64),
}

/// Bytes of one unit of pgbench's scale: 100 000 accounts with their index.
const PGBENCH_SCALE_BYTES: u64 = 15_700_000;
/// Rows are handed to psql in pieces of about this size.
const PIECE_BYTES: usize = 256 * 1024;

fn fill(server: &Server, table: &Table, rows: u64, mut writer: Writer) -> Outcome<()> {
    let create = format!("CREATE TABLE {} ({})", table.name, table.columns);
    let format = if table.binary { "binary" } else { "text" };
    // One transaction for both, because only a table of its own transaction may be filled frozen, which saves VACUUM a pass.
    let copy = format!("COPY {} FROM STDIN (FORMAT {format}, FREEZE)", table.name);
    server.run("psql", &["-Xq1", "-v", "ON_ERROR_STOP=1", "-c", &create, "-c", &copy], |input| {
        if table.binary {
            // Signature, no flags, no header extension (the manual's chapter on COPY, "Binary Format").
            writer.out.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        }
        for number in 1..=rows {
            (table.row)(&mut writer, number);
            if writer.out.len() >= PIECE_BYTES {
                input.write_all(&writer.out)?;
                writer.out.clear();
            }
        }
        if table.binary {
            writer.out.extend_from_slice(&(-1i16).to_be_bytes());
        }
        input.write_all(&writer.out)
    })?;
    server.sql(&format!("SET maintenance_work_mem = '128MB'; {}", table.indexes)).map(drop)
}

/// Rows and checksum of each permanent table, one line a table: `schema.table|rows|sum`. The sum does not depend on the order
/// of the rows. For psql, which runs the queries that the first one makes.
pub const CHECKSUMS_SQL: &str = r"SET timezone = 'UTC'; SET datestyle = 'ISO, MDY'; SET intervalstyle = 'postgres'; SET bytea_output = 'hex';
SET extra_float_digits = 1; SET search_path = ''; SET xmlbinary = 'base64';
SELECT format('SELECT %L, count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM %I.%I t',
              nspname || '.' || relname, nspname, relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
WHERE relkind = 'r' AND relpersistence = 'p' AND nspname NOT IN ('pg_catalog', 'information_schema')
ORDER BY nspname, relname \gexec
";

/// Rows and checksum of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSum {
    /// How many rows.
    pub rows: u64,
    /// The sum of the rows' hashes, a whole number in decimal.
    pub sum: String,
}

/// The sums of every permanent table of the server's current database: equal before and after means nothing changed.
pub fn checksums(server: &Server) -> Outcome<BTreeMap<String, TableSum>> {
    let text = server.sql(CHECKSUMS_SQL)?;
    let parse = |line: &str| {
        let mut fields = line.rsplitn(3, '|');
        let (sum, rows, name) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name.to_owned(), TableSum { rows: rows.parse().ok()?, sum: sum.to_owned() }))
    };
    text.lines().map(|line| parse(line).ok_or_else(|| format!("not a checksum: {line}"))).collect()
}

const USAGE: &str = "usage: cargo xtask dataset --conninfo TEXT (--scale N | --size-gb X) [--bin-dir DIR] [--seed N]
       cargo xtask dataset --conninfo TEXT --checksums [--bin-dir DIR]";

/// Entry of `cargo xtask dataset`; `arguments` are those after the word `dataset`.
pub fn run(arguments: impl IntoIterator<Item = String>) -> Outcome<()> {
    let (mut conninfo, mut size, mut seed, mut bin_dir, mut only_sums) = (None, None, 1, None, false);
    let mut arguments = arguments.into_iter();
    while let Some(option) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{option} needs a value\n{USAGE}"));
        let wrong = |_| format!("{option} needs a number\n{USAGE}");
        match option.as_str() {
            "--conninfo" => conninfo = Some(value()?),
            "--scale" => size = Some(Size::scale(value()?.parse().map_err(wrong)?)),
            "--size-gb" => size = Some(Size::gigabytes(value()?.parse().map_err(wrong)?)),
            "--seed" => seed = value()?.parse().map_err(|_| format!("--seed needs a whole number\n{USAGE}"))?,
            "--bin-dir" => bin_dir = Some(PathBuf::from(value()?)),
            "--checksums" => only_sums = true,
            _ => return Err(format!("unknown option {option}\n{USAGE}")),
        }
    }
    let bin_dir = bin_dir.unwrap_or_default();
    let server = Server::at(bin_dir, &conninfo.ok_or_else(|| format!("--conninfo is missing\n{USAGE}"))?);
    if only_sums {
        for (name, sum) in checksums(&server)? {
            println!("{name} {} {}", sum.rows, sum.sum);
        }
        return Ok(());
    }
    let loaded = load(&server, size.ok_or_else(|| format!("--scale or --size-gb is missing\n{USAGE}"))?, seed)?;
    let (megabytes, seconds) = (loaded.bytes as f64 / 1e6, loaded.took.as_secs_f64());
    println!("loaded {megabytes:.0} MB of tables and indexes in {seconds:.1} s ({:.0} MB/s)", megabytes / seconds);
    Ok(())
}
