//! The whole story: a service with its packages is protected by every part of bowline, dies with its host, comes back by one command,
//! goes on, is damaged again, and comes back again.

use super::clients::{Package, Visitor, Writers, look};
use super::judge::{self, Loss, Sums};
use super::report::{Report, bytes, grouped};
use super::service::TABLE;
use super::stage::{SERVICE_ROLE, Stage};
use super::story::{list, number, seconds_between, steps_of, timed, utc};
use super::{Options, Outcome};
use crate::dataset::{self, Size};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use testkit::Acknowledged;

/// How long clients write at a time.
const WRITE_FOR: Duration = Duration::from_secs(3);
/// How long what the daemon does by itself may take.
const SOON: Duration = Duration::from_secs(60);
/// How long a service that was restored may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
const SEED: u64 = 1;

/// Carries it all out. An error means that it could not be carried to its end; what is wrong with the result is in the report.
pub fn tell(options: &Options, report: &mut Report) -> Outcome<()> {
    let begun = Instant::now();
    let stage = Stage::build(options)?;
    let version = stage.scene.cluster.try_psql("SELECT current_setting('server_version')")?;
    report.step(&format!("start PostgreSQL {version} and the parts"), begun.elapsed(), None, "MinIO twice, OpenBao, a mail server, two webhooks");
    let told = act(&stage, options, report);
    if options.keep {
        report.say("kept", &stage.keep()?.display().to_string());
    }
    told
}

fn act(stage: &Stage, options: &Options, report: &mut Report) -> Outcome<()> {
    let still = protect(stage, options, report)?;
    let writers = Writers::start(stage.service_port, "first")?;
    prove(stage, report)?;
    std::thread::sleep(WRITE_FOR);
    let first = first_disaster(stage, report, writers, &still)?;
    let second = second_disaster(stage, report, &first, &still)?;
    tell_ends(report, &first, &second);
    Ok(())
}

/// From nothing to a service under the daemon's protection; the sums of the tables that nobody writes to.
fn protect(stage: &Stage, options: &Options, report: &mut Report) -> Outcome<Sums> {
    let scene = &stage.scene;
    let loaded = dataset::load(&scene.server(None), Size::scale(options.scale()), SEED)?;
    report.step("load the data of a knowledge service", loaded.took, Some(loaded.bytes), &format!("{} of tables and indexes", bytes(loaded.bytes)));
    let still = dataset::checksums(&scene.server(None))?;
    timed(report, "make the role that init --print-sql names", || Ok((scene.make_role()?, "no superuser, password from a passfile".into())))?;
    timed(report, "start the service over database and bucket", || {
        let rights = format!("GRANT SELECT, INSERT ON packages TO {SERVICE_ROLE}; GRANT USAGE ON SEQUENCE packages_id_seq TO {SERVICE_ROLE}");
        scene.cluster.try_psql(&format!("{TABLE}; CREATE ROLE {SERVICE_ROLE} LOGIN; {rights}"))?;
        stage.start("service")?;
        let port = stage.service_port;
        let answers = scene.within(SOON, || Ok(super::service::run(&["--health".into(), port.to_string()]).is_ok()))?;
        if answers { Ok(((), "HTTP; an object, then the row that refers to it".into())) } else { Err("the service is not well".into()) }
    })?;
    timed(report, "bowline init --bucket", || {
        let told = scene.told("init-bucket", &["init", "--bucket", "--yes"])?;
        // A store may not know all of it; without these three there is nothing to go on with.
        let steps = if told["result"].is_null() { list(&told["error"]["bucket"]["steps"]) } else { list(&told["result"]["steps"]) };
        let named = |is_done: bool| {
            steps.iter().filter(|step| (step["outcome"] == "done") == is_done).filter_map(|step| step["step"].as_str()).collect::<Vec<_>>()
        };
        let (done, refused) = (named(true), named(false));
        if let Some(lacks) = ["create", "encryption", "versioning"].iter().find(|step| !done.contains(step)) {
            return Err(format!("the bucket of the repository lacks {lacks}: {}", told["error"]));
        }
        let refused = if refused.is_empty() { String::new() } else { format!("; MinIO refuses {}", refused.join(", ")) };
        Ok(((), format!("{}{refused}", done.join(", "))))
    })?;
    timed(report, "bowline init", || {
        scene.bowline("init", &["init"])?;
        let listed = scene.bowline("keys-list", &["keys", "list"])?;
        let keys = list(&listed["keys"]);
        let recipients: Vec<_> =
            keys.iter().flat_map(|key| list(&key["slots"])).filter_map(|slot| Some(slot["recipient"].as_str()?.to_owned())).collect();
        Ok(((), format!("data key wrapped for {}", recipients.join(", "))))
    })?;
    timed(report, "bowline packages enable", || {
        let told = scene.bowline("packages-enable", &["packages", "enable", "--yes"])?;
        let steps = list(&told["steps"]).len();
        Ok((
            (),
            format!("MinIO copies to a second site; {}", if steps == 0 { "nothing was left to do".into() } else { format!("{steps} steps done") }),
        ))
    })?;
    timed(report, "bowline alert test", || {
        scene.bowline("alert-test", &["alert", "test"])?;
        let chat = stage.chat.asked().iter().filter(|asked| asked.body.contains("\"test\"")).count();
        let mail = stage.mail.mails().iter().filter(|mail| mail.contains("Subject: TEST (drill)")).count();
        if chat == 0 || mail == 0 {
            return Err(format!("the test did not arrive: webhook {chat}, mail {mail}"));
        }
        Ok(((), "arrived at the webhook and in the mailbox".into()))
    })?;
    timed(report, "start bowline daemon", || {
        stage.start("daemon")?;
        wait_protected(stage, 1)?;
        Ok(((), "took the first backup by itself, receives WAL".into()))
    })?;
    timed(report, "bowline check", || {
        let found = scene.bowline("check", &["check"])?;
        let findings = list(&found["findings"]);
        let by_store = findings.iter().find(|finding| finding["what"] == "encryption by the store");
        let by_store = by_store.and_then(|finding| finding["found"].as_str()).unwrap_or("not looked at");
        if by_store != "yes" {
            return Err(format!("the store does not encrypt with its KMS: {by_store}"));
        }
        Ok(((), format!("{} looked at, {} failed, {} warned; SSE-KMS: {by_store}", findings.len(), found["failed"], found["warned"])))
    })?;
    timed(report, "look at the daemon's page", || {
        let page = stage.page("/").ok_or("the daemon's page does not answer")?;
        let metrics = stage.page("/metrics").ok_or("the daemon shows no metrics")?;
        let alarms = metrics.lines().filter(|line| line.starts_with("bowline_alarm{") && line.ends_with(" 1"));
        let rules: Vec<_> = alarms.filter_map(|line| line.split('"').nth(1)).collect();
        let count = metrics.lines().filter(|line| !line.starts_with('#')).count();
        let rules = if rules.is_empty() { "no alarm".into() } else { format!("alarms: {}", rules.join(", ")) };
        Ok(((), format!("{} of page, {count} metrics, {rules}", bytes(page.len() as u64))))
    })?;
    Ok(still)
}

/// What is believed before the disaster: the backup restores, and the second copy of the packages keeps up.
fn prove(stage: &Stage, report: &mut Report) -> Outcome<()> {
    let scene = &stage.scene;
    timed(report, "clients write; wait until it is stored", || {
        std::thread::sleep(WRITE_FOR);
        wait_stored(stage, &scene.cluster.try_psql("SELECT pg_current_wal_insert_lsn()")?)?;
        Ok(((), "new WAL is stored every 5 s".into()))
    })?;
    let begun = Instant::now();
    let drilled = scene.bowline("verify", &["verify"])?;
    let proof = &drilled["report"];
    let agreed = &proof["agreement"];
    let referred = agreed["referred"].as_u64().unwrap_or(0);
    report.must(referred > 0, || "bowline verify held no package against the database".into());
    let remark = format!("{}; {} references of the database resolve", proof["outcome"].as_str().unwrap_or("?"), grouped(referred));
    report.step("bowline verify, while clients write", begun.elapsed(), None, &remark);
    report.note("verify", drilled);
    let begun = Instant::now();
    let mut status = Value::Null;
    let is_copied = scene.within(SOON, || {
        status = scene.bowline("packages-status", &["packages", "status"])?;
        // Clients go on: a version may always be on its way.
        Ok(status["lag_seconds"].as_f64().is_some_and(|lag| lag < 2.0))
    })?;
    if !is_copied {
        return Err(format!("the second site is behind for more than {SOON:?}: {status}"));
    }
    let versions = status["copy"]["versions"].as_u64().unwrap_or(0);
    let remark = format!("{} versions at the second site, {} on their way", grouped(versions), status["behind"]);
    report.step("bowline packages status", begun.elapsed(), None, &remark);
    Ok(())
}

/// What came of a disaster.
struct Recovery {
    /// Packages that were promised and are there.
    kept: Vec<Package>,
    gone: Vec<Package>,
    /// Rows that are there and were never promised: their clients died in between.
    unpromised: HashSet<i64>,
    loss: Option<Loss>,
    rto: Duration,
    at: String,
    what: String,
    lines: Vec<judge::Line>,
    told: Value,
}

/// The host dies, and somebody empties the bucket of the packages.
fn first_disaster(stage: &Stage, report: &mut Report, writers: Writers, still: &Sums) -> Outcome<Recovery> {
    let scene = &stage.scene;
    let begun = Instant::now();
    // The daemon first: it must not bring to safety what a host that dies at once would have lost.
    stage.kill("daemon")?;
    stage.kill("service")?;
    let died_at = scene.kill_server()?;
    let promised = writers.stop();
    scene.delete_data()?;
    let remark = format!("daemon, service, PostgreSQL; {} packages were promised", grouped(promised.len() as u64));
    report.step("kill -9 everything, rm -rf PGDATA", begun.elapsed(), None, &remark);
    let first = promised.first().ok_or("no package was promised before the disaster")?.clone();

    let begun = Instant::now();
    let keys = stage.bucket.try_keys()?;
    for (number, key) in keys.iter().enumerate() {
        if number % 2 == 0 && *key != first.key { stage.bucket.try_hide(key)? } else { stage.bucket.try_put(key, b"ransom")? }
    }
    report.step(
        "empty and overwrite the packages' bucket",
        begun.elapsed(),
        None,
        &format!("{} objects, with the application's own key", grouped(keys.len() as u64)),
    );

    let beats = stage.pulse.asked().len();
    timed(report, "the host boots: bowline daemon", || {
        stage.start("daemon")?;
        wait_told(stage, "server", "firing", 1)?;
        Ok(((), "told \"server\" at the webhook and in the mailbox".into()))
    })?;
    let heard = stage.pulse.asked().len() - beats;
    report.must(beats > 0, || "the heartbeat was never heard while all was well".into());
    report.must(heard == 0, || format!("the heartbeat went on {heard} times while the service was down"));

    let visitor = Visitor::start(stage.service_port, &first);
    let begun = Instant::now();
    let told = scene.bowline("restore-latest", &["restore", "--yes"])?;
    report.step("bowline restore", begun.elapsed(), Some(number(&told["bytes"])?), &steps_of(&told));
    let rto = visitor.wait(ANSWER_LIMIT)?;
    judge_restore(report, &told);

    let begun = Instant::now();
    let there = ids(stage)?;
    let acknowledged: Vec<Acknowledged> = promised.iter().map(|package| package.commit).collect();
    let (loss, faults) = judge::loss(&acknowledged, &there, told["recovered"]["lsn"].as_str().unwrap_or_default(), died_at);
    report.faults(faults);
    let lines = judge_still(stage, report, still)?;
    let (kept, gone): (Vec<_>, Vec<_>) = promised.into_iter().partition(|package| there.contains(&package.commit.id));
    let known: HashSet<i64> = kept.iter().map(|package| package.commit.id).collect();
    let unpromised = there.difference(&known).copied().collect();
    compare_packages(stage, report, begun, &kept, &gone);
    report.note(
        "first_disaster",
        json!({"restore": told, "kept": kept.len(), "lost": gone.len(), "rpo_seconds": loss.seconds, "rto_seconds": rto.as_secs_f64()}),
    );

    timed(report, "the alert is over", || {
        wait_told(stage, "server", "resolved", 1)?;
        let beats = stage.pulse.asked().len();
        if !scene.within(SOON, || Ok(stage.pulse.asked().len() > beats))? {
            return Err("the heartbeat did not come back".into());
        }
        Ok(((), "told at both, and the heartbeat beats again".into()))
    })?;
    Ok(Recovery { kept, gone, unpromised, loss: Some(loss), rto, at: String::new(), what: "the host and the bucket".into(), lines, told })
}

/// The restored service goes on, and somebody drops the table and removes the objects.
fn second_disaster(stage: &Stage, report: &mut Report, first: &Recovery, still: &Sums) -> Outcome<Recovery> {
    let scene = &stage.scene;
    timed(report, "bowline status", || {
        wait_protected(stage, 2)?;
        Ok(((), format!("protected again on timeline 2, {} backups", list(&scene.bowline("list", &["list"])?["backups"]).len())))
    })?;
    let writers = Writers::start(stage.service_port, "second")?;
    std::thread::sleep(WRITE_FOR);
    let begun = Instant::now();
    let before: Vec<Package> = first.kept.iter().cloned().chain(writers.stop()).collect();
    let clock = scene.cluster.try_psql(&format!("SELECT {}", utc("clock_timestamp()")))?;
    let sums = dataset::checksums(&scene.server(None))?;
    let remark = format!("{} tables, {} packages promised so far", sums.len(), grouped(before.len() as u64));
    report.step("go on writing; note the instant T", begun.elapsed() + WRITE_FOR, None, &remark);
    std::thread::sleep(Duration::from_millis(1100));
    let writers = Writers::start(stage.service_port, "third")?;
    std::thread::sleep(WRITE_FOR);

    let begun = Instant::now();
    scene.cluster.try_psql("DROP TABLE packages; DROP TABLE organizations CASCADE")?;
    let dropped = scene.cluster.try_psql(&format!("SELECT {}, pg_current_wal_insert_lsn()", utc("clock_timestamp()")))?;
    let (dropped_at, lsn) = dropped.split_once('|').ok_or_else(|| format!("not a position: {dropped}"))?;
    let after = writers.stop();
    let keys = stage.bucket.try_keys()?;
    keys.iter().try_for_each(|key| stage.bucket.try_hide(key))?;
    report.step(
        "drop its tables, delete its objects",
        begun.elapsed(),
        None,
        &format!("at {}, {} objects", &dropped_at[11..23], grouped(keys.len() as u64)),
    );
    timed(report, "wait until the damage is in the repository", || {
        wait_stored(stage, lsn)?;
        Ok(((), "as safe as everything else".into()))
    })?;

    let known = before.first().ok_or("no package was promised before T")?;
    let visitor = Visitor::start(stage.service_port, known);
    let begun = Instant::now();
    let told = scene.bowline("restore-to-T", &["restore", "--to", &clock, "--yes"])?;
    report.step("bowline restore --to T", begun.elapsed(), Some(number(&told["bytes"])?), &steps_of(&told));
    let rto = visitor.wait(ANSWER_LIMIT)?;
    judge_restore(report, &told);

    let begun = Instant::now();
    let (lines, faults) = judge::tables(&sums, &dataset::checksums(&scene.server(Some(&scene.cluster.socket_dir())))?);
    report.faults(faults);
    report.must(still.keys().all(|table| sums.contains_key(table)), || "a table was missing before the second disaster".into());
    let there: HashSet<i64> = ids(stage)?.difference(&first.unpromised).copied().collect();
    let commits = |packages: &[Package]| packages.iter().map(|package| package.commit).collect::<Vec<_>>();
    report.faults(judge::ledger_at_instant(&commits(&before), &commits(&after), &there));
    compare_packages(stage, report, begun, &before, &after);
    timed(report, "bowline status", || {
        wait_protected(stage, 3)?;
        Ok(((), format!("protected again on timeline 3, {} backups", list(&scene.bowline("list", &["list"])?["backups"]).len())))
    })?;
    let ago = seconds_between(scene, &clock, dropped_at)?;
    report.note(
        "second_disaster",
        json!({"restore": told, "instant": clock, "kept": before.len(), "undone": after.len(), "rto_seconds": rto.as_secs_f64()}),
    );
    Ok(Recovery {
        kept: before,
        gone: after,
        unpromised: HashSet::new(),
        loss: None,
        rto,
        at: clock,
        what: format!("tables and objects, {ago:.1} s after T"),
        lines,
        told,
    })
}

/// A restore that says of itself that something is open, or that what the database refers to is not there, is no success.
fn judge_restore(report: &mut Report, told: &Value) {
    report.must(told["protected"] == true, || "the restored cluster is not protected again".into());
    report.must(list(&told["open"]).is_empty(), || format!("the restore left something open: {}", told["open"]));
    let packages = &told["packages"];
    let agreement = &packages["agreement"];
    report.must(packages["failed"] == 0 && packages["keys"].as_u64().is_some_and(|keys| keys > 0), || {
        format!("packages did not come back: {packages}")
    });
    let agrees = agreement["referred"].as_u64().is_some_and(|referred| referred > 0) && agreement["missing"] == 0 && agreement["changed"] == 0;
    report.must(agrees, || format!("database and packages disagree: {agreement}"));
}

/// The tables that nobody writes to must be as they were loaded.
fn judge_still(stage: &Stage, report: &mut Report, still: &Sums) -> Outcome<Vec<judge::Line>> {
    let mut now = dataset::checksums(&stage.scene.server(Some(&stage.scene.cluster.socket_dir())))?;
    now.retain(|name, _| name != "public.packages");
    let (lines, faults) = judge::tables(still, &now);
    report.faults(faults);
    Ok(lines)
}

/// The service itself is asked for every package: for the right bytes of those that must be there, for nothing of the others.
fn compare_packages(stage: &Stage, report: &mut Report, begun: Instant, there: &[Package], gone: &[Package]) {
    let references = |packages: &[Package], wanted: bool| look(stage.service_port, &packages.iter().collect::<Vec<_>>(), wanted);
    let wrong = references(there, true);
    let right = there.len() - wrong.len();
    report.must(right > 0, || "the service gave no package back".into());
    for faults in [wrong, references(gone, false)] {
        let more = faults.len().saturating_sub(5);
        report.faults(faults.into_iter().take(5).collect());
        report.must(more == 0, || format!("and {more} packages more"));
    }
    let remark = format!("{} of {} packages come over HTTP, byte for byte", grouped(right as u64), grouped(there.len() as u64));
    report.step("compare every table and every package", begun.elapsed(), None, &remark);
}

/// Every row's id.
fn ids(stage: &Stage) -> Outcome<HashSet<i64>> {
    let rows = stage.scene.ask(&stage.scene.cluster.socket_dir(), "SELECT id FROM packages")?;
    rows.lines().map(|id| id.parse().map_err(|_| format!("not an id: {id}"))).collect()
}

/// Waits until the WAL is in the repository up to this position.
fn wait_stored(stage: &Stage, lsn: &str) -> Outcome<()> {
    let is_stored = stage.scene.within(SOON, || {
        let status = stage.scene.status()?;
        let stored = status["wal_stored_to"].as_str().ok_or("bowline status does not say how far the WAL is stored")?;
        Ok(stage.scene.cluster.try_psql(&format!("SELECT '{stored}'::pg_lsn >= '{lsn}'::pg_lsn"))? == "t")
    })?;
    if is_stored { Ok(()) } else { Err(format!("WAL up to {lsn} was not stored within {SOON:?}")) }
}

/// Waits until the rules say that all is well, with so many backups at least.
fn wait_protected(stage: &Stage, backups: u64) -> Outcome<()> {
    let mut status = Value::Null;
    let is_so = stage.scene.within(SOON, || {
        status = stage.scene.status()?;
        Ok(status["protected"] == true && status["backups"].as_u64().is_some_and(|found| found >= backups))
    })?;
    if is_so { Ok(()) } else { Err(format!("bowline status is not green within {SOON:?}: {} backups, {}", status["backups"], status["reasons"])) }
}

fn wait_told(stage: &Stage, rule: &str, state: &str, times: usize) -> Outcome<()> {
    let is_told = stage.scene.within(SOON, || {
        let (chat, mail) = stage.told(rule, state);
        Ok(chat >= times && mail >= times)
    })?;
    if is_told { Ok(()) } else { Err(format!("{rule} {state} was not told within {SOON:?}: webhook and mailbox have {:?}", stage.told(rule, state))) }
}

fn tell_ends(report: &mut Report, first: &Recovery, second: &Recovery) {
    for (title, recovery) in [("THE FIRST DISASTER, RESTORED TO LATEST", first), ("THE SECOND DISASTER, RESTORED TO T", second)] {
        report.head(title);
        report.say("lost", &recovery.what);
        if !recovery.at.is_empty() {
            report.say("T", &recovery.at);
        }
        let (kept, gone) = (grouped(recovery.kept.len() as u64), grouped(recovery.gone.len() as u64));
        match &recovery.loss {
            Some(loss) => {
                let holes = if loss.holes == 0 { "no holes before them".into() } else { format!("{} HOLES BEFORE THEM", loss.holes) };
                report.say("packages", &format!("{kept} that were promised are there, {gone} died with the host, {holes}"));
                report.say("exposure", &format!("{:.1} s from the last package that is there to the end of the host", loss.seconds));
            }
            None => report.say("packages", &format!("{kept} promised before T are there, of {gone} after T none")),
        }
        let packages = &recovery.told["packages"];
        let counted = |name: &str| grouped(packages[name].as_u64().unwrap_or(0));
        let words = format!(
            "{} as they were; {} were missing, {} had been overwritten, {} were right already",
            counted("keys"),
            counted("absent"),
            counted("different"),
            counted("same")
        );
        report.say("objects", &words);
        report.tables(&recovery.lines);
    }
    report.head("OBJECTIVES");
    if let Some(loss) = &first.loss {
        report.rpo(loss, &format!("{} promised packages were lost with the host", grouped(loss.commits_lost as u64)));
    }
    report.rto(first.rto, "first disaster: from the command to the first right answer of the service");
    report.rto(second.rto, "second disaster: likewise");
    report.fine_print();
    report.say("real", "PostgreSQL, MinIO with its replication and its own KMS, OpenBao's transit engine, the mail server, the service");
    report.say("stand-ins", "who takes the webhook and the heartbeat; OpenBao keeps its key in memory; all is on one machine");
}
