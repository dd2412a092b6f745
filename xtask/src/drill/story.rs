//! The drill, step by step: protect, tamper, destroy, restore, compare.

use super::judge::{self, Line, Sums};
use super::load::Load;
use super::report::{Report, bytes, grouped};
use super::scene::{Running, Scene};
use super::{Options, Outcome};
use crate::dataset::{self, Size};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use testkit::Acknowledged;

/// How long clients write before the instant, and between it and the damage.
const WRITE_FOR: Duration = Duration::from_secs(2);
/// Longer than archive_timeout, after which even a quiet server ends a segment.
const STORED_LIMIT: Duration = Duration::from_secs(90);
const SEED: u64 = 1;

/// The instant that will be asked for, and all that was true at it.
struct Instance {
    at: String,
    micros: i64,
    sums: Sums,
    before: Vec<Acknowledged>,
}

/// What became of the restore to the instant.
struct Restored {
    lines: Vec<Line>,
    ledger: HashSet<i64>,
    rto: Duration,
}

/// Carries it all out. An error means that it could not be carried to its end; what is wrong with the result is in the report.
pub fn tell(options: &Options, report: &mut Report) -> Outcome<()> {
    let begun = Instant::now();
    let scene = Scene::build(options)?;
    let version = scene.cluster.try_psql("SELECT current_setting('server_version')")?;
    report.step(&format!("start PostgreSQL {version}"), begun.elapsed(), None, "page checksums on, fsync on");
    let elsewhere = scene.at("elsewhere").join("data");
    let told = act(&scene, options, report, &elsewhere);
    if options.keep {
        let data = scene.cluster.data_dir().to_owned();
        report.say("kept", &scene.keep(&[data, elsewhere])?.display().to_string());
    }
    told
}

fn act(scene: &Scene, options: &Options, report: &mut Report, elsewhere: &Path) -> Outcome<()> {
    let mut receiver = protect(scene, options, report)?;
    let load = Load::start(scene)?;
    back_up(scene, report)?;
    std::thread::sleep(WRITE_FOR);
    let instant = note_instant(scene, report, load)?;
    let load = Load::start(scene)?;
    std::thread::sleep(WRITE_FOR);
    let dropped_at = tamper(scene, report)?;
    let (after, died_at) = destroy(scene, report, load, &mut receiver)?;
    let restored = restore_to_instant(scene, report, &instant, &after)?;
    let acknowledged: Vec<_> = instant.before.iter().chain(&after).copied().collect();
    let loss = restore_to_latest(scene, report, &acknowledged, died_at, elsewhere)?;
    see_protection(scene, report)?;

    report.head("RESTORED TO T");
    report.say("T", &instant.at);
    report
        .say("the damage", &format!("organizations was dropped at {dropped_at}, {:.1} s after T", seconds_between(scene, &instant.at, &dropped_at)?));
    let (before, later) = (share(&instant.before, &restored.ledger), share(&after, &restored.ledger));
    report.say("ledger", &format!("commits acknowledged before T: {before} are there; after T: {later} are there"));
    report.tables(&restored.lines);
    report.head("RESTORED TO LATEST");
    let (kept, lost) = (grouped(loss.commits_kept as u64), grouped(loss.commits_lost as u64));
    let holes = if loss.holes == 0 { "no holes before them".into() } else { format!("{} HOLES BEFORE THEM", loss.holes) };
    report.say("ledger", &format!("{kept} acknowledged commits are there, {lost} died with the host, {holes}"));
    report.say("exposure", &format!("{:.1} s from the last commit that is there to the end of the host", loss.seconds));
    report.objectives(&loss, restored.rto);
    Ok(())
}

fn protect(scene: &Scene, options: &Options, report: &mut Report) -> Outcome<Running> {
    let loaded = dataset::load(&scene.server(None), Size::scale(options.scale()), SEED)?;
    report.step("load the data of a knowledge service", loaded.took, Some(loaded.bytes), &format!("{} of tables and indexes", bytes(loaded.bytes)));
    report.note("data_bytes", json!(loaded.bytes));
    timed(report, "make the role that init --print-sql names", || Ok((scene.make_role()?, "no superuser, password from a passfile".into())))?;
    timed(report, "bowline init", || {
        let made = scene.bowline("init", &["init"])?;
        Ok(((), format!("new key, repository {}", made["repository"].as_str().unwrap_or("?"))))
    })?;
    let receiver = timed(report, "bowline wal receive", || Ok((scene.receiver()?, "streaming, in the background from here on".into())))?;
    timed(report, "bowline check", || {
        let found = scene.bowline("check", &["check"])?;
        Ok(((), format!("{} looked at, {} failed, {} warned", list(&found["findings"]).len(), found["failed"], found["warned"])))
    })?;
    Ok(receiver)
}

fn back_up(scene: &Scene, report: &mut Report) -> Outcome<()> {
    let begun = Instant::now();
    let made = scene.bowline("backup", &["backup"])?;
    let (plain, stored) = (number(&made["bytes"])?, number(&made["bytes_stored"])?);
    let remark = format!("{} → {} sealed ({:.2}×), under load", bytes(plain), bytes(stored), plain as f64 / stored.max(1) as f64);
    report.step("bowline backup", begun.elapsed(), Some(plain), &remark);
    report.note("backup", made);
    Ok(())
}

/// Stops writing, waits until nobody is in a transaction, and takes down what there is.
fn note_instant(scene: &Scene, report: &mut Report, load: Load) -> Outcome<Instance> {
    let begun = Instant::now();
    let before = load.stop();
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND datname = 'postgres' \
                AND usename <> 'bowline'";
    if !scene.within(Duration::from_secs(10), || Ok(scene.cluster.try_psql(busy)? == "0"))? {
        return Err("the clients did not end within 10 s".into());
    }
    let sums = dataset::checksums(&scene.server(None))?;
    let clock = scene.cluster.try_psql(&format!("SELECT {}, (extract(epoch FROM now()) * 1000000)::bigint", utc("now()")))?;
    let (at, micros) = clock.split_once('|').ok_or_else(|| format!("not a clock: {clock}"))?;
    let micros = micros.parse().map_err(|_| format!("not a clock: {clock}"))?;
    let rows = sums.values().map(|table| table.rows).sum();
    report.step(
        "note the instant T",
        begun.elapsed(),
        None,
        &format!("{} tables, {} rows, {} commits in the ledger", sums.len(), grouped(rows), grouped(before.len() as u64)),
    );
    report.must(before.iter().all(|commit| commit.committed_at.is_some_and(|at| at.unix_micros() <= micros)), || {
        "a commit before T has a time after T".into()
    });
    report.note("instant", json!(at));
    Ok(Instance { at: at.to_owned(), micros, sums, before })
}

/// The damage that somebody does, and the wait until it is as safe as everything else.
fn tamper(scene: &Scene, report: &mut Report) -> Outcome<String> {
    let begun = Instant::now();
    scene.cluster.try_psql("DROP TABLE organizations CASCADE")?;
    let told = scene.cluster.try_psql(&format!("SELECT {}, pg_current_wal_insert_lsn()", utc("clock_timestamp()")))?;
    let (at, lsn) = told.split_once('|').ok_or_else(|| format!("not a position: {told}"))?;
    report.step("DROP TABLE organizations CASCADE", begun.elapsed(), None, &format!("at {}, writes go on", &at[11..23]));
    let begun = Instant::now();
    let is_stored = scene.within(STORED_LIMIT, || {
        let status = scene.status()?;
        let stored = status["wal_stored_to"].as_str().ok_or("bowline status does not say how far the WAL is stored")?;
        Ok(scene.cluster.try_psql(&format!("SELECT '{stored}'::pg_lsn >= '{lsn}'::pg_lsn"))? == "t")
    })?;
    if !is_stored {
        return Err(format!("the segment of the damage was not stored within {STORED_LIMIT:?}"));
    }
    report.step("wait until the damage is in the repository", begun.elapsed(), None, "its segment of 16 MiB is full and stored");
    // The next segment begins to fill: what is in it when the host dies is the loss.
    std::thread::sleep(Duration::from_millis(300));
    Ok(at.to_owned())
}

/// The host is gone: every process killed, every file of the cluster deleted. What the clients know outlives it.
fn destroy(scene: &Scene, report: &mut Report, load: Load, receiver: &mut Running) -> Outcome<(Vec<Acknowledged>, i64)> {
    let begun = Instant::now();
    // The receiver first: it must not bring to safety what a host that dies at once would have lost.
    receiver.kill();
    let died_at = scene.kill_server()?;
    let after = load.stop();
    scene.delete_data()?;
    for entry in fs::read_dir(scene.cluster.socket_dir()).map_err(|error| error.to_string())?.flatten() {
        let _ = fs::remove_file(entry.path());
    }
    report.step("kill -9 everything, rm -rf PGDATA", begun.elapsed(), None, "left: the repository, bowline, its key and configuration");
    Ok((after, died_at))
}

fn restore_to_instant(scene: &Scene, report: &mut Report, instant: &Instance, after: &[Acknowledged]) -> Outcome<Restored> {
    let begun = Instant::now();
    let told = scene.bowline("restore-to-T", &["restore", "--to", &instant.at, "--yes"])?;
    let took = begun.elapsed();
    let restored = number(&told["bytes"])?;
    report.step("bowline restore --to T", took, Some(restored), &steps_of(&told));
    let socket_dir = scene.cluster.socket_dir();
    let mut is_up = || Ok(scene.ask(&socket_dir, "SELECT pg_is_in_recovery()").is_ok_and(|answer| answer == "f"));
    if !scene.within(Duration::from_secs(30), &mut is_up)? {
        return Err("the restored server does not answer as a primary".into());
    }
    let rto = told["serving_seconds"].as_f64().map(Duration::from_secs_f64).ok_or("the restore does not say since when the server serves")?;
    report.must(told["protected"] == true, || "the restored cluster is not protected again".into());
    report.note("restore_to_instant", told);

    let begun = Instant::now();
    let sums = dataset::checksums(&scene.server(Some(&socket_dir)))?;
    let (lines, faults) = judge::tables(&instant.sums, &sums);
    report.faults(faults);
    let there = ledger(scene, &socket_dir)?;
    report.faults(judge::ledger_at_instant(&instant.before, after, &there));
    let early = after.iter().filter(|commit| commit.committed_at.is_some_and(|at| at.unix_micros() <= instant.micros)).count();
    report.must(early == 0, || format!("{early} commits after T have a time before it"));
    report.must(sums.contains_key("public.organizations"), || "organizations did not come back".into());
    scene.ask(&socket_dir, "INSERT INTO ledger (payload) VALUES ('after the restore')")?;
    let same = lines.iter().filter(|line| line.same).count();
    report.step("compare every table and the ledger", begun.elapsed(), None, &format!("{same} of {} tables identical", lines.len()));
    Ok(Restored { lines, ledger: there, rto })
}

fn restore_to_latest(scene: &Scene, report: &mut Report, acknowledged: &[Acknowledged], died_at: i64, to: &Path) -> Outcome<judge::Loss> {
    let begun = Instant::now();
    let told = scene.bowline("restore-latest", &["restore", "--to", "latest", "--timeline", "1", "--target", &to.display().to_string(), "--yes"])?;
    report.step("bowline restore --to latest --target", begun.elapsed(), Some(number(&told["bytes"])?), &steps_of(&told));
    let socket_dir = told["socket_dir"].as_str().map(PathBuf::from).ok_or("the side restore does not say where its server is")?;
    let there = ledger(scene, &socket_dir)?;
    let recovered_to = told["recovered"]["lsn"].as_str().unwrap_or_default().to_owned();
    let (loss, faults) = judge::loss(acknowledged, &there, &recovered_to, died_at);
    report.faults(faults);
    // If the table were there, the tampering would not have been in the repository, and restoring to T would have proved little.
    let dropped = scene.ask(&socket_dir, "SELECT to_regclass('public.organizations') IS NULL")?;
    report.must(dropped == "t", || "the newest state still has the table that was dropped before it".into());
    report.note("restore_to_latest", told);
    report.note("loss", json!({"commits_kept": loss.commits_kept, "commits_lost": loss.commits_lost, "seconds": loss.seconds}));
    Ok(loss)
}

/// The restore has made a backup of the new timeline and has a receiver at work.
fn see_protection(scene: &Scene, report: &mut Report) -> Outcome<()> {
    let begun = Instant::now();
    let status = scene.status()?;
    report.must(status["protected"] == true, || format!("bowline status says that the cluster is not protected: {}", status["reasons"]));
    let listed = scene.bowline("list", &["list"])?;
    let listed = list(&listed["backups"]).len();
    report.step("bowline status", begun.elapsed(), None, "protected again, on timeline 2");
    report.must(listed == 2, || format!("bowline list shows {listed} backups; two were made"));
    Ok(())
}

/// Carries out a step and reports it with the remark that it returns.
pub fn timed<T>(report: &mut Report, name: &str, work: impl FnOnce() -> Outcome<(T, String)>) -> Outcome<T> {
    let begun = Instant::now();
    let (done, remark) = work()?;
    report.step(name, begun.elapsed(), None, &remark);
    Ok(done)
}

/// Every id in the ledger of the server on this socket.
fn ledger(scene: &Scene, socket_dir: &Path) -> Outcome<HashSet<i64>> {
    let rows = scene.ask(socket_dir, "SELECT id FROM ledger WHERE payload <> 'after the restore'")?;
    rows.lines().map(|id| id.parse().map_err(|_| format!("not an id of the ledger: {id}"))).collect()
}

/// SQL that spells an instant so that `bowline restore --to` reads it.
pub fn utc(instant: &str) -> String {
    format!("to_char({instant} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || ' UTC'")
}

pub fn seconds_between(scene: &Scene, from: &str, to: &str) -> Outcome<f64> {
    let text = scene.ask(&scene.cluster.socket_dir(), &format!("SELECT extract(epoch FROM '{to}'::timestamptz - '{from}'::timestamptz)"))?;
    text.parse().map_err(|_| format!("not a number: {text}"))
}

/// `12 of 15`.
fn share(commits: &[Acknowledged], there: &HashSet<i64>) -> String {
    let found = commits.iter().filter(|commit| there.contains(&commit.id)).count();
    format!("{} of {}", grouped(found as u64), grouped(commits.len() as u64))
}

pub fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

pub fn number(value: &Value) -> Outcome<u64> {
    value.as_u64().ok_or_else(|| format!("bowline's result should hold a number, not {value}"))
}

/// What the restore spent its time on: its two longest steps.
pub fn steps_of(result: &Value) -> String {
    let mut steps: Vec<_> =
        list(&result["steps"]).iter().filter_map(|step| Some((step["seconds"].as_f64()?, step["step"].as_str()?.to_owned()))).collect();
    steps.sort_by(|one, other| other.0.total_cmp(&one.0));
    steps.iter().take(2).map(|(seconds, name)| format!("{name} {seconds:.1} s")).collect::<Vec<_>>().join(", ")
}
