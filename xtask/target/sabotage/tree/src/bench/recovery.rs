//! From nothing to a server that takes writes: files, replay of hundreds of segments, promotion; by Bowline, by pgBackRest, and with all WAL
//! in pg_wal already.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use clap::Args;

use super::measure::{self, Script};
use super::report::median;
use super::server::{self, Server};
use super::tools::{Bowline, PgBackRest, Repo, Stage, Tool};
use super::{Outcome, Place, data};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    place: Place,
    /// Segments of 16 MiB after the backup.
    #[arg(long, default_value_t = 200)]
    segments: usize,
    /// pgbench's scale: 100 is 1.5 GB.
    #[arg(long, default_value_t = 50)]
    scale: u32,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Leave pgBackRest's own encryption on as well, as a further contender.
    #[arg(long)]
    encrypted: bool,
    #[arg(long)]
    bowline: Option<PathBuf>,
}

/// What every server of a round is started with on top of the copied configuration; nothing else of it is changed for anybody.
const HARMLESS: &str = "-c archive_mode=off -c listen_addresses=";
/// What must be there at the end.
const TRUTH: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), count(*), sum(delta) FROM pgbench_history";

enum Contender {
    Bowline,
    PgBackRest(PgBackRest, &'static str),
    /// Bowline's files, and every segment put into pg_wal beforehand, off the clock.
    InPlace,
}

impl Contender {
    fn name(&self) -> &'static str {
        match self {
            Self::Bowline => "Bowline",
            Self::PgBackRest(_, name) => name,
            Self::InPlace => "all WAL in pg_wal",
        }
    }
}

/// Seconds.
struct Times {
    files: f64,
    whole: f64,
}

pub fn run(options: &Options) -> Outcome<()> {
    measure::adopt_orphans()?;
    let (dir, bin_dir) = (options.place.dir(), options.place.bin_dir()?);
    data::open_to_postgres(&dir)?;
    let (home, log) = (dir.join("recovery"), dir.join("log/recovery"));
    data::open_to_postgres(&home)?;
    let pgdata = home.join("pgdata");
    server::init(&bin_dir, &pgdata, &log)?;
    let settings = ["wal_keep_size=64GB", "max_wal_size=2GB"];
    let server = Server::start(&bin_dir, &pgdata, &home.join("sock"), &settings, &log)?;
    server.set("archive_command", "")?;
    // A quicker way to as much WAL.
    server.set("synchronous_commit", "off")?;
    let pgbench = |words: &str| {
        let text = format!("'{}' -h '{}' -U postgres {words} postgres", bin_dir.join("pgbench").display(), server.socket_dir.display());
        measure::run(&Script::new(text), &log)
    };
    pgbench(&format!("-i -q -s {}", options.scale))?;
    server.sql("postgres", "CHECKPOINT")?;

    let stage = |name: &str| -> Outcome<Stage<'_>> {
        let (room, repo) = (measure::fresh_dir(&home.join(name))?, measure::fresh_dir(&home.join(format!("{name}-repo")))?);
        Ok(Stage { server: &server, bin_dir: &bin_dir, room, repo: Repo::Folder(repo) })
    };
    let mut bowline = Bowline::new(options.bowline.clone());
    println!("{}", bowline.version()?);
    let mut field = vec![(Contender::Bowline, stage("bowline")?)];
    bowline.prepare(&field[0].1)?;
    measure::run(&bowline.backup(&field[0].1), &log)?;
    let peers = [(PgBackRest::plain(), "pgBackRest", true), (PgBackRest::encrypted(), "pgBackRest encrypted", options.encrypted)];
    for (mut peer, name, _) in peers.into_iter().filter(|peer| peer.2) {
        println!("{}", peer.version()?);
        let stage = stage(&name.replace(' ', "-"))?;
        peer.prepare(&stage)?;
        measure::run(&peer.backup(&stage), &log)?;
        field.push((Contender::PgBackRest(peer, name), stage));
    }
    field.push((Contender::InPlace, stage("in-place")?));
    server.set("archive_command", "")?;

    let at = || server.sql("postgres", "SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    let first = at()?;
    loop {
        let now = at()?;
        // Those with later names are old ones, to be used again.
        let written = segments(&pgdata)?.iter().filter(|name| (&first..&now).contains(name)).count();
        if written >= options.segments {
            break;
        }
        eprintln!("{written} of {} segments …", options.segments);
        pgbench("-n -c 4 -T 5")?;
        // The next writes bring full pages again, as they do in production.
        server.sql("postgres", "CHECKPOINT")?;
    }
    let truth = server.sql("postgres", TRUTH)?;
    let current = server.sql("postgres", "SELECT pg_walfile_name(pg_switch_wal())")?;
    let names: Vec<String> = segments(&pgdata)?.into_iter().filter(|name| *name <= current).collect();
    for (contender, stage) in &field {
        let push = match contender {
            Contender::Bowline => bowline.line(stage, "wal push \"pg_wal/$f\""),
            Contender::PgBackRest(..) => PgBackRest::line(stage, "archive-push \"pg_wal/$f\""),
            Contender::InPlace => continue,
        };
        measure::run(&Script::new(format!("cd '{}'; for f in {}; do {push}; done", pgdata.display(), names.join(" "))), &log)?;
        if let Contender::PgBackRest(..) = contender {
            let config = PgBackRest::config(stage);
            let text = fs::read_to_string(&config)?.replace("[global]\n", "[global]\narchive-async=y\n");
            fs::write(&config, text)?;
        }
    }
    let bench = Bench { options, bin_dir: &bin_dir, bowline: &bowline, pgdata, home, names, truth, log };
    bench.all(&field)?;
    drop(field);
    server.stop()?;
    if options.place.keep { Ok(()) } else { Ok(fs::remove_dir_all(dir.join("recovery"))?) }
}

struct Bench<'a> {
    options: &'a Options,
    bin_dir: &'a Path,
    bowline: &'a Bowline,
    pgdata: PathBuf,
    home: PathBuf,
    names: Vec<String>,
    truth: String,
    log: PathBuf,
}

impl Bench<'_> {
    fn all(&self, field: &[(Contender, Stage)]) -> Outcome<()> {
        let mut times: Vec<Vec<Times>> = field.iter().map(|_| Vec::new()).collect();
        for round in 0..self.options.rounds {
            for turn in 0..field.len() {
                let at = (turn + round) % field.len();
                let (contender, stage) = &field[at];
                let took = self.once(contender, stage)?;
                eprintln!("round {}, {}: files {:.2} s, in all {:.2} s", round + 1, contender.name(), took.files, took.whole);
                times[at].push(took);
            }
        }
        println!("\n{} segments, pgbench at scale {}, {} rounds; medians\n", self.options.segments, self.options.scale, self.options.rounds);
        println!("| who | files, s | until it takes writes, s | Bowline ÷ it, round by round | median |\n|---|---|---|---|---|");
        for ((contender, _), its) in field.iter().zip(&times) {
            let ratios: Vec<f64> = times[0].iter().zip(its).map(|(own, other)| own.whole / other.whole).collect();
            println!(
                "| {} | {:.2} | {:.2} | {} | {:.2} |",
                contender.name(),
                median(&its.iter().map(|t| t.files).collect::<Vec<_>>()),
                median(&its.iter().map(|t| t.whole).collect::<Vec<_>>()),
                ratios.iter().map(|r| format!("{r:.2}")).collect::<Vec<_>>().join(", "),
                median(&ratios),
            );
        }
        Ok(())
    }

    fn once(&self, contender: &Contender, stage: &Stage) -> Outcome<Times> {
        let target = self.home.join("restored");
        for dir in [target.clone(), self.home.join("restored.bowline")] {
            if dir.exists() {
                fs::remove_dir_all(dir)?;
            }
        }
        measure::fresh_dir(&target)?;
        measure::sync_all();
        let began = Instant::now();
        let (files, sockets) = match contender {
            Contender::Bowline => {
                let result = self.bowline_restores(stage, &target)?;
                let copy = result["steps"].as_array().into_iter().flatten().find(|step| step["step"] == "restore files");
                let files = copy.and_then(|step| step["seconds"].as_f64()).ok_or("no step for the files in the result")?;
                (files, PathBuf::from(result["socket_dir"].as_str().ok_or("no socket_dir in the result")?))
            }
            Contender::PgBackRest(peer, _) => {
                measure::run(&peer.restore(stage, &target), &self.log)?;
                let files = began.elapsed().as_secs_f64();
                (files, self.recover(&target)?)
            }
            Contender::InPlace => {
                let line = format!("restore --yes --files-only --target '{}'", target.display());
                // The configuration, and the repository with it, is Bowline's own.
                let config = self.home.join("bowline/bowline.toml");
                let line =
                    self.bowline.line(stage, &line).replace(&stage.room.join("bowline.toml").display().to_string(), &config.display().to_string());
                measure::run(&Script::new(line), &self.log)?;
                let files = began.elapsed().as_secs_f64();
                return self.in_place(&target, files);
            }
        };
        let whole = began.elapsed().as_secs_f64();
        self.check(contender.name(), &target, &sockets)?;
        Ok(Times { files, whole })
    }

    fn bowline_restores(&self, stage: &Stage, target: &Path) -> Outcome<serde_json::Value> {
        let line = self.bowline.line(stage, &format!("--json restore --yes --to latest --target '{}'", target.display()));
        let mut command = measure::as_postgres("/bin/sh", &self.log)?;
        let output = command.arg("-euc").arg(&line).stdout(Stdio::piped()).output()?;
        if !output.status.success() {
            return Err(format!("{}: {line}: {}", output.status, String::from_utf8_lossy(&output.stdout)).into());
        }
        let text = String::from_utf8(output.stdout)?;
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap_or_default())?;
        Ok(last["result"].clone())
    }

    /// Starts the server as an administrator would, and waits until it has left recovery.
    fn recover(&self, target: &Path) -> Outcome<PathBuf> {
        let sockets = measure::fresh_dir(&self.home.join("s"))?;
        let (bin, data, dir) = (self.bin_dir.display(), target.display(), sockets.display());
        let text = format!(
            "'{bin}/pg_ctl' start -w -t 3600 -s -D '{data}' -l '{data}.log' -o \"{HARMLESS} -k '{dir}'\"
             until [ \"$('{bin}/psql' -XAtq -U postgres -h '{dir}' -d postgres -c 'SELECT pg_is_in_recovery()' 2>&1)\" = f ]; do sleep 0.02; done"
        );
        measure::run(&Script::new(text), &self.log)?;
        Ok(sockets)
    }

    /// What `--files-only` wrote asks Bowline for WAL; here there is nobody to ask.
    fn in_place(&self, target: &Path, files: f64) -> Outcome<Times> {
        let text = format!(
            "cd '{}'; cp {} '{}/pg_wal/'; sed -i \"s|^restore_command = .*|restore_command = '/bin/false'|\" '{}/postgresql.auto.conf'",
            self.pgdata.join("pg_wal").display(),
            self.names.join(" "),
            target.display(),
            target.display(),
        );
        measure::run(&Script::new(text), &self.log)?;
        measure::sync_all();
        let began = Instant::now();
        let sockets = self.recover(target)?;
        let whole = files + began.elapsed().as_secs_f64();
        self.check("all WAL in pg_wal", target, &sockets)?;
        Ok(Times { files, whole })
    }

    /// Nobody is quicker by leaving something out.
    fn check(&self, name: &str, target: &Path, sockets: &Path) -> Outcome<()> {
        let mut command = measure::as_postgres(self.bin_dir.join("psql"), &self.log)?;
        command.args(["-XAtq", "-U", "postgres", "-d", "postgres", "-h"]).arg(sockets).args(["-c", TRUTH]).stdout(Stdio::piped());
        let said = String::from_utf8(command.output()?.stdout)?.trim().to_owned();
        let stop = format!("'{}/pg_ctl' stop -w -s -m immediate -D '{}'", self.bin_dir.display(), target.display());
        measure::run(&Script::new(stop), &self.log)?;
        if said == self.truth { Ok(()) } else { Err(format!("{name} restored other rows: {said}, not {}", self.truth).into()) }
    }
}

/// The segments in pg_wal, in order.
fn segments(pgdata: &Path) -> Outcome<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(pgdata.join("pg_wal"))?.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.retain(|name| name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit()));
    names.sort();
    Ok(names)
}
