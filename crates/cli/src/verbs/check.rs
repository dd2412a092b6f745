//! `bowline check`: each prerequisite, what was found, and how to fix what is wrong.

use crate::args::Common;
use crate::fault::Fault;
use crate::show::{Printer, duration};
use crate::verbs::{check_keys, guard, store_findings};
use crate::wiring::Wiring;
use pg::{CONTROL_FILE, ControlFile, Replication, ServerFacts, Severity, Sql, find_bin_dir};
use repo::{Encryption, Reader};
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terms::{Clock, Explain, SystemClock};

/// How a prerequisite stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    /// It works, and will hurt one day.
    Warn,
    Fail,
    /// It could not be looked at. Never counted as fine.
    Unknown,
}

pub struct Finding {
    what: &'static str,
    verdict: Verdict,
    found: String,
    fix: String,
}

#[derive(Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn add(&mut self, what: &'static str, verdict: Verdict, found: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { what, verdict, found: found.into(), fix: fix.into() });
    }
    pub(super) fn ok(&mut self, what: &'static str, found: impl Into<String>) {
        self.add(what, Verdict::Ok, found, "");
    }
    pub(super) fn fail(&mut self, what: &'static str, fault: &Fault) {
        let found = [&fault.0.summary, &fault.0.detail].into_iter().filter(|t| !t.is_empty()).cloned().collect::<Vec<_>>().join(": ");
        self.add(what, Verdict::Fail, found, &fault.0.hint);
    }
    /// Takes over what was found about the server, under its own word.
    fn take(&mut self, finding: pg::Finding) {
        let verdict = match finding.severity {
            Severity::Ok => Verdict::Ok,
            Severity::Warn => Verdict::Warn,
            Severity::Critical => Verdict::Fail,
            Severity::Unknown => Verdict::Unknown,
        };
        let found = [finding.what, finding.cause].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(": ");
        self.add(finding.slug, verdict, found, finding.remedy);
    }
    pub fn judge(&mut self, what: &'static str, good: bool, otherwise: Verdict, found: impl Into<String>, fix: &str) {
        self.add(what, if good { Verdict::Ok } else { otherwise }, found, if good { "" } else { fix });
    }
}

pub async fn run(common: &Common, printer: &Arc<Printer>) -> Result<ExitCode, Fault> {
    let wiring = Wiring::new(common)?;
    let mut findings = Findings::default();
    findings.ok("configuration", wiring.config.path.as_ref().map_or_else(|| "from the command line".into(), |p| p.display().to_string()));
    let reader = look_at_repository(&wiring, &mut findings).await;
    look_at_channels(&wiring, &mut findings);
    match server_facts(&wiring).await {
        Ok((sql, facts)) => {
            look_at_server(&wiring, &sql, &facts, reader.as_ref(), &mut findings).await;
            look_at_directory(&wiring, &facts, &mut findings);
        }
        Err(fault) => {
            findings.fail("PostgreSQL", &fault);
            findings.add("PostgreSQL's settings", Verdict::Unknown, "not looked at: the server was not reached", "");
        }
    }
    let count = |verdict| findings.0.iter().filter(|f| f.verdict == verdict).count();
    let (failed, unknown, warned) = (count(Verdict::Fail), count(Verdict::Unknown), count(Verdict::Warn));
    for Finding { what, verdict, found, fix } in &findings.0 {
        let mark = match verdict {
            Verdict::Ok => "ok     ",
            Verdict::Warn => "WARN   ",
            Verdict::Fail => "FAIL   ",
            Verdict::Unknown => "UNKNOWN",
        };
        printer.say(format!("{mark}  {what:<24} {found}"));
        if !fix.is_empty() {
            printer.say(format!("{:9}{:<24} → {fix}", "", ""));
        }
    }
    printer.say(match (failed + unknown, warned) {
        (0, 0) => "all is well".to_owned(),
        (0, _) => format!("usable; {warned} warning(s)"),
        (_, _) => format!("not usable: {failed} failed, {unknown} could not be looked at, {warned} warning(s)"),
    });
    let list: Vec<_> = findings
        .0
        .iter()
        .map(|f| json!({"what": f.what, "verdict": format!("{:?}", f.verdict).to_lowercase(), "found": f.found, "fix": f.fix}))
        .collect();
    printer.result(json!({ "findings": list, "failed": failed, "unknown": unknown, "warned": warned }));
    Ok(if failed + unknown == 0 { ExitCode::SUCCESS } else { ExitCode::from(terms::Class::Refused.exit_code()) })
}

async fn look_at_repository(wiring: &Wiring, findings: &mut Findings) -> Option<Reader> {
    let reader = match wiring.reader().await {
        Ok(reader) => reader,
        Err(fault) => {
            findings.fail("repository", &fault);
            return None;
        }
    };
    let document = reader.document();
    findings.ok("repository", format!("{} ({})", reader.address(), document.id));
    match document.encryption {
        Encryption::Off => {
            findings.add("encryption", Verdict::Warn, "off", "A new repository with [encryption] mode = \"on\"; this one stays as it is.")
        }
        // The digest key is wrapped as every data key is.
        Encryption::Aes256Gcm => match reader.digester().await {
            Ok(_) => findings.ok("encryption", "AES-256-GCM, and the key opens it"),
            Err(e) => findings.fail("encryption", &e.into()),
        },
    }
    check_keys::look(wiring, &reader, findings).await;
    store_findings::look_at_store(wiring, &reader, findings).await;
    look_at_second_copy(wiring, &reader, findings).await;
    Some(reader)
}

/// Whether alerts could be told. A secret may be in the daemon's environment and not in this one: that is no fault yet.
fn look_at_channels(wiring: &Wiring, findings: &mut Findings) {
    let channels = wiring.config.alerts.known();
    let broken = wiring.config.alerts.broken();
    for (name, fault) in &broken {
        let found = format!("{name} cannot be used from here: {}: {}", fault.0.summary, fault.0.detail);
        findings.add("alert channel", Verdict::Warn, found, &fault.0.hint);
    }
    if broken.is_empty() && !channels.is_empty() {
        let names: Vec<&str> = channels.iter().map(|(name, _)| *name).collect();
        findings.ok("alert channels", format!("{}; bowline alert test tries them", names.join(", ")));
    }
}

async fn look_at_second_copy(wiring: &Wiring, reader: &Reader, findings: &mut Findings) {
    let Some(copy) = wiring.replica().await else {
        let (what, fix) = match wiring.config.repository.url.starts_with("file:") {
            true => ("disk", "Keep the repository in a bucket, or copy its folder elsewhere and name that place in [repository] replica."),
            false => ("region", "Replicate the bucket to another region, and name that bucket in [repository] replica."),
        };
        let found = format!("none is configured: whoever loses this repository's {what} loses the backups");
        return findings.add("second copy", Verdict::Warn, found, fix);
    };
    let copy = match copy {
        Ok(copy) => copy,
        Err(fault) => return findings.fail("second copy", &fault),
    };
    let limit = wiring.config.alerts.replication_lag().as_secs_f64();
    match watch::compare_copies(reader, &copy, limit, SystemClock.now()).await {
        Ok(copy) => {
            let behind = copy.lag_seconds.map_or_else(
                || "how far its WAL is behind is not known".to_owned(),
                |lag| format!("{} behind", duration(Duration::from_secs_f64(lag.clamp(0.0, 1e9)))),
            );
            let there = copy.backups - copy.backups_missing;
            let found = format!("{}: {behind}, {there} of {} backups are listed there", copy.address, copy.backups);
            findings.judge(
                "second copy",
                !copy.is_late,
                Verdict::Fail,
                found,
                "Look at the bucket's replication: what failed it does not try again.",
            );
        }
        Err(trouble) => findings.add("second copy", Verdict::Fail, format!("{}. {}", trouble.summary, trouble.detail), &trouble.hint),
    }
}

async fn server_facts(wiring: &Wiring) -> Result<(Sql, ServerFacts), Fault> {
    let sql = Sql::connect(&wiring.conninfo()?).await?;
    let facts = sql.server_facts().await?;
    Ok((sql, facts))
}

async fn look_at_server(wiring: &Wiring, sql: &Sql, facts: &ServerFacts, reader: Option<&Reader>, findings: &mut Findings) {
    findings.ok("PostgreSQL", format!("{}, system identifier {}", facts.version, facts.system_id));
    match reader.and_then(Reader::epoch) {
        Some(epoch) if epoch.system_id != facts.system_id => {
            let error = match reader.map(|reader| reader.epoch_before(facts.system_id)) {
                Some(Err(ended)) => ended,
                _ => repo::RepoError::ForeignCluster { ours: epoch.system_id, found: facts.system_id },
            };
            findings.add("cluster", Verdict::Fail, format!("{error}. {}", error.detail()), error.hint());
        }
        Some(_) => findings.ok("cluster", "the repository's own"),
        None => findings.ok("cluster", "the repository is still empty"),
    }
    findings.judge(
        "role of the server",
        !facts.in_recovery,
        Verdict::Fail,
        if facts.in_recovery { "standby" } else { "primary" },
        "Point conninfo at the primary.",
    );
    findings.judge("wal_level", facts.wal_level != "minimal", Verdict::Fail, &facts.wal_level, "Set wal_level = replica and restart the server.");
    findings.judge(
        "max_wal_senders",
        facts.max_wal_senders >= 2,
        Verdict::Fail,
        facts.max_wal_senders.to_string(),
        "Set max_wal_senders = 10 and restart.",
    );
    findings.judge(
        "max_replication_slots",
        facts.max_replication_slots >= 2,
        Verdict::Fail,
        facts.max_replication_slots.to_string(),
        "Set max_replication_slots = 10 and restart.",
    );
    findings.judge(
        "page checksums",
        facts.data_checksums,
        Verdict::Warn,
        if facts.data_checksums { "on" } else { "off" },
        "Damaged pages cannot be noticed. Stop the server and run pg_checksums --enable.",
    );
    let role = &facts.current_user;
    findings.judge(
        "replication",
        facts.has_replication || facts.is_superuser,
        Verdict::Fail,
        format!("role {role}"),
        &format!("ALTER ROLE {role} REPLICATION;"),
    );
    if wiring.config.postgres.data_dir.is_some() {
        for signature in ["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"] {
            match sql.has_privilege(signature).await {
                Ok(may) => findings.judge("privilege", may, Verdict::Fail, signature, &format!("GRANT EXECUTE ON FUNCTION {signature} TO {role};")),
                Err(e) => findings.fail("privilege", &e.into()),
            }
        }
    }
    match replication(wiring).await {
        Ok(()) => findings.ok("replication connection", "works"),
        Err(fault) => findings.fail("replication connection", &fault),
    }
    match guard::look(wiring, sql, facts, reader).await {
        Ok(found) => found.into_iter().for_each(|finding| findings.take(finding)),
        Err(fault) => findings.fail("WAL", &fault),
    }
    match find_bin_dir(facts.major, wiring.config.postgres.bin_dir.as_deref()) {
        Ok(place) => findings.ok("programs for a restore", place.display().to_string()),
        Err(e) => findings.add("programs for a restore", Verdict::Warn, format!("{e}. {}", e.detail()), e.hint()),
    }
}

async fn replication(wiring: &Wiring) -> Result<(), Fault> {
    let mut connection = Replication::connect(&wiring.conninfo()?).await?;
    connection.identify_system().await?;
    Ok(())
}

fn look_at_directory(wiring: &Wiring, facts: &ServerFacts, findings: &mut Findings) {
    let Some(dir) = &wiring.config.postgres.data_dir else {
        findings.ok("data directory", "not configured: backups use the replication protocol");
        return;
    };
    let fix = "Run as the owner of the data directory (usually postgres), or leave data_dir out.";
    match std::fs::read(dir.join(CONTROL_FILE)) {
        Err(e) => findings.add("data directory", Verdict::Fail, format!("cannot read {}: {e}", dir.join(CONTROL_FILE).display()), fix),
        Ok(bytes) => match ControlFile::parse(&bytes) {
            Ok(control) => findings.judge(
                "data directory",
                control.system_id == facts.system_id,
                Verdict::Fail,
                format!("{}, cluster {}", dir.display(), control.system_id),
                "Make conninfo and data_dir name the same server.",
            ),
            Err(e) => findings.fail("data directory", &e.into()),
        },
    }
}
