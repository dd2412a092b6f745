//! The rules: what of an observation somebody must be told. Pure; docs/operations.md lists them.

use crate::facts::{BackupFacts, DrillFacts, Facts, JobFacts, Look, RepositoryFacts, RunFacts, ServerFacts, Trouble};
use crate::jobs::FINDERS;
use crate::words::{bytes, span};
use std::collections::BTreeSet;
use store::OldVersions;
use terms::{Alarm, Judgement, Urgency};

/// What lets waiting commits go; from then on they are not protected until it is undone.
const RELEASE: &str = "ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();";
/// A repository that is full in less is told of while there is time.
const DAYS_TO_FULL_WARN: f64 = 14.0;
/// A share alone says little of a large disk: pg_wal is short of room when so many bytes are left, too. What the slot may yet hold is the slot's
/// own rule.
const WAL_ROOM_WARNING: u64 = 20 << 30;
const WAL_ROOM_CRITICAL: u64 = 5 << 30;
/// What to do about a canary that cannot be written.
const CANARY_HINT: &str = "Allow s3:PutObject on .bowline-canary below the primary and s3:GetObject on it at the replica, or set [packages] canary = false (docs/packages.md).";
/// Two clocks that differ by more do not both keep time.
const CLOCKS_APART_SECONDS: f64 = 60.0;
/// A receiver that begins again has so long before anybody is told.
const RECEIVER_GRACE_SECONDS: f64 = 30.0;

/// Every rule, with what it watches: docs and metrics list them.
pub const RULES: [(&str, &str); 25] = [
    ("repository", "the repository can be read"),
    ("daemon-silent", "a daemon that began to act is heard of, or gave its turn up"),
    ("kms", "the data keys open, for every recipient"),
    ("encryption-off", "what is stored is sealed"),
    ("no-backup", "there is a backup of the present cluster"),
    ("job-failed", "the last run of each job ended well"),
    ("job-overdue", "each job succeeded when its schedule says"),
    ("backup-window", "a backup takes no longer than its window"),
    ("damaged-pages", "the newest backup holds no damaged page"),
    ("server", "PostgreSQL can be reached"),
    ("foreign-server", "the server is the cluster that the repository follows"),
    ("receiver", "WAL is being received, or archived here"),
    ("wal-held-up", "WAL does not wait for the store"),
    ("wal-lag", "no commit waits longer than alerts.wal_lag to be stored"),
    ("wal-gap", "the stored WAL is whole"),
    ("slot", "the replication slot and synchronous commit are as they must be"),
    ("replication-lag", "the second copy and the packages' replica keep up"),
    ("drill-failed", "the last drill passed"),
    ("scrub-damage", "every object that was scrubbed is whole"),
    ("capacity", "there is room for what comes"),
    ("rpo", "no more than objectives.rpo would be lost now"),
    ("rto", "a restore would take no longer than objectives.rto"),
    ("clock-skew", "this host's clock agrees with the store's and the server's"),
    ("check", "what bowline check looks at, and no other rule, is as it must be"),
    ("configuration", "the configuration in force is the one that was written"),
];

/// Judges every rule.
pub fn judge(facts: &Facts) -> Judgement {
    let mut found = Found::default();
    match &facts.repository {
        Look::Seen(repository) => judge_repository(facts, repository, &mut found),
        Look::Unseen(trouble) => {
            match trouble.slug.as_str() {
                Trouble::NOT_YET => found.cannot(["repository"]),
                _ => found.trouble("repository", "", Urgency::Critical, "the repository cannot be looked at", trouble),
            }
            found.cannot([
                "no-backup",
                "wal-gap",
                "drill-failed",
                "rto",
                "rpo",
                "wal-lag",
                "encryption-off",
                "clock-skew",
                "damaged-pages",
                "foreign-server",
                "scrub-damage",
                "capacity",
                "backup-window",
                "daemon-silent",
                "kms",
                "replication-lag",
            ]);
        }
    }
    judge_keys(facts, &mut found);
    match &facts.server {
        Look::Seen(server) => judge_server(facts, server, &mut found),
        Look::Unseen(trouble) => {
            found.trouble("server", "", Urgency::Critical, "the server cannot be reached", trouble);
            found.cannot(["foreign-server", "receiver", "slot", "wal-lag", "clock-skew"]);
        }
    }
    judge_receiver(facts, &mut found);
    judge_copies(facts, &mut found);
    judge_jobs(facts, &mut found);
    judge_check(facts, &mut found);
    judge_room(facts, &mut found);
    if let Some(since) = facts.daemon_silent_since {
        let detail = "it holds its lease, and has not renewed it: it was killed, or hangs; nothing runs in time";
        found.tell(
            "daemon-silent",
            "",
            Urgency::Critical,
            format!("the daemon has been silent since {since}"),
            detail,
            "Start it again: systemctl restart bowline.",
        );
    }
    if let Some(trouble) = &facts.configuration {
        found.trouble("configuration", "", Urgency::Warning, "the configuration was changed and is wrong: the former one is in force", trouble);
    }
    if let Some(damage) = facts.scrub.as_ref().map(|scrub| &scrub.damage).filter(|damage| !damage.is_empty()) {
        let what = format!("{} objects of the repository are damaged or missing", damage.len());
        let hint = "Take a full backup now (bowline backup). Bring the objects back from the second copy, then bowline scrub.";
        found.tell("scrub-damage", "", Urgency::Critical, what, damage.join("; "), hint);
    }
    found.0
}

/// How many seconds of commits would be lost if everything but the repository were gone now; `None` when nobody can tell.
pub fn rpo_seconds(facts: &Facts) -> Option<f64> {
    if let Some(lag) = facts.server.seen().and_then(|server| server.wal_lag_seconds) {
        return Some(lag);
    }
    let until = facts.repository.seen()?.window.as_ref()?.until?;
    Some(facts.at.seconds_since(until).max(0.0))
}

#[derive(Default)]
struct Found(Judgement);

impl Found {
    fn tell(&mut self, rule: &str, subject: &str, urgency: Urgency, summary: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) {
        let (rule, subject) = (rule.to_owned(), subject.to_owned());
        self.0.alarms.push(Alarm { rule, subject, urgency, summary: summary.into(), detail: detail.into(), hint: hint.into() });
    }

    fn trouble(&mut self, rule: &str, subject: &str, urgency: Urgency, what: &str, trouble: &Trouble) {
        let Trouble { summary, detail, hint, .. } = trouble;
        self.tell(rule, subject, urgency, format!("{what}: {summary}"), detail.as_str(), hint.as_str());
    }

    fn cannot(&mut self, rules: impl IntoIterator<Item = &'static str>) {
        self.0.unknown.extend(rules.into_iter().map(str::to_owned).collect::<BTreeSet<_>>());
    }
}

fn judge_repository(facts: &Facts, repository: &RepositoryFacts, found: &mut Found) {
    for trouble in &repository.damaged {
        let subject = trouble.summary.strip_suffix(" is damaged").unwrap_or(&trouble.summary);
        found.trouble("repository", subject, Urgency::Critical, "not everything can be read", trouble);
    }
    if !repository.is_encrypted {
        let hint = "A new repository with [encryption] mode = \"on\"; this one stays as it is.";
        found.tell(
            "encryption-off",
            "",
            Urgency::Warning,
            "what is stored is not sealed",
            "encryption was switched off when the repository was made",
            hint,
        );
    }
    let newest = repository.newest();
    match newest {
        None => {
            let of = if repository.backups.is_empty() { "" } else { " of the present cluster" };
            found.tell("no-backup", "", Urgency::Critical, format!("there is no backup{of}"), "", "Take one: bowline backup.");
        }
        Some(newest) => judge_newest(facts, newest, found),
    }
    if let Some(stored) = &repository.stored {
        if let Some(missing) = &stored.hole {
            let hint = "Take a full backup now (bowline backup): until it is listed nothing later than what is there can be restored.";
            found.tell(
                "wal-gap",
                "stored",
                Urgency::Critical,
                format!("WAL segment {missing} is missing from the repository"),
                "more of it was stored once",
                hint,
            );
        }
    } else if newest.is_some() {
        found.tell("wal-gap", "path", Urgency::Critical, "no backup leads to the newest timeline", "", "Take a full backup now (bowline backup).");
    }
    // None of the newest came to a verdict: what was wrong before is not over for that.
    if repository.audited.is_none() && facts.jobs.iter().any(|job| job.name == "audit" && job.last.is_some()) {
        found.cannot(["wal-gap"]);
    }
    if !repository.gaps.is_empty() {
        let what = repository.gaps.iter().map(|gap| gap.what.as_str()).collect::<Vec<_>>().join("; ");
        let count = repository.gaps.len();
        found.tell(
            "wal-gap",
            "audit",
            Urgency::Critical,
            format!("the stored WAL has {count} gap(s)"),
            what,
            match repository.is_cut_off() {
                true => "Until a new backup is listed nothing later can be restored: the daemon begins a full one by itself, by hand it is bowline backup. bowline wal audit says which instants cannot be reached.",
                false => "bowline wal audit says which instants cannot be reached, and what closes each.",
            },
        );
    }
    if let Some(drill) = repository.drills.first() {
        judge_drill(drill, found);
    }
    if !repository.ahead.is_empty() {
        found.tell(
            "clock-skew",
            "stamps",
            Urgency::Warning,
            "what is stored bears times that are still to come",
            repository.ahead.join(", "),
            "Nothing is judged by these until then. Where this host's clock is right (bowline check), one was wrong when they were made: what is made now counts again. Else set it right.",
        );
    }
    if let Some(estimate) = repository.restore.as_ref().filter(|estimate| estimate.seconds > facts.objectives.rto_seconds) {
        let what = format!("a restore would take about {}, longer than the objective", span(estimate.seconds));
        let detail = format!(
            "{} for the files and {} for WAL, by the drill of {}; the objective is {}",
            span(estimate.files_seconds),
            span(estimate.replay_seconds),
            estimate.by,
            span(facts.objectives.rto_seconds)
        );
        found.tell("rto", "", Urgency::Critical, what, detail, "Take backups more often, restore on faster disks, or change objectives.rto.");
    }
    if let Some(lost) = rpo_seconds(facts).filter(|lost| *lost > facts.objectives.rpo_seconds) {
        let what = format!("{} of commits would be lost now, more than the objective", span(lost));
        found.tell(
            "rpo",
            "",
            Urgency::Critical,
            what,
            format!("the objective is {}", span(facts.objectives.rpo_seconds)),
            "See bowline doctor: what keeps WAL from being stored comes first.",
        );
    }
}

fn judge_newest(facts: &Facts, newest: &BackupFacts, found: &mut Found) {
    let window = facts.objectives.backup_window_seconds;
    if newest.took_seconds > window {
        let what = format!("the newest backup took {}, longer than its window of {}", span(newest.took_seconds), span(window));
        found.tell(
            "backup-window",
            "took",
            Urgency::Warning,
            what,
            format!("{} in backup {}", bytes(newest.bytes), newest.id),
            "Raise backup.jobs or backup.max_rate, or objectives.backup_window.",
        );
    }
    if newest.pages_damaged > 0 {
        let what = format!("the newest backup holds {} damaged page(s)", newest.pages_damaged);
        found.tell(
            "damaged-pages",
            "",
            Urgency::Critical,
            what,
            format!("seen when backup {} was made", newest.id),
            "Find the pages in the log of that run (bowline runs); restore their relation from an older backup.",
        );
    }
}

fn judge_drill(drill: &DrillFacts, found: &mut Found) {
    let faults = drill.faults.join("; ");
    let hint = "bowline verify holds another one; its report in the repository's drills/ has the evidence.";
    match drill.outcome.as_str() {
        "passed" => {}
        "failed" => found.tell("drill-failed", "", Urgency::Critical, format!("the drill of {} failed", drill.at), faults, hint),
        other => found.tell("drill-failed", "", Urgency::Critical, format!("the drill of {} proved nothing ({other})", drill.at), faults, hint),
    }
}

fn judge_keys(facts: &Facts, found: &mut Found) {
    match &facts.keys {
        None => {}
        Some(Look::Unseen(trouble)) => found.trouble("kms", "", Urgency::Critical, "no data key can be opened", trouble),
        Some(Look::Seen(recipients)) => {
            let opens = recipients.iter().filter(|recipient| recipient.trouble.is_none()).count();
            for recipient in recipients {
                let Some(trouble) = &recipient.trouble else { continue };
                // While another one opens them nothing is lost yet.
                let urgency = if opens == 0 { Urgency::Critical } else { Urgency::Warning };
                found.trouble("kms", &recipient.name, urgency, &format!("the data keys do not open for {}", recipient.name), trouble);
            }
        }
    }
}

fn judge_server(facts: &Facts, server: &ServerFacts, found: &mut Found) {
    match server.is_ours {
        Some(false) => {
            let hint = "Point conninfo at the right server; after pg_upgrade or a new initdb: bowline init --new-epoch.";
            found.tell(
                "foreign-server",
                "",
                Urgency::Critical,
                format!("the server is cluster {}, which this repository does not follow", server.system_id),
                "",
                hint,
            );
        }
        Some(true) => {}
        None => found.cannot(["foreign-server"]),
    }
    let apart = server.clock_ahead_seconds;
    if apart.abs() > CLOCKS_APART_SECONDS {
        let what = format!("the server's clock is {} {} this host's", span(apart.abs()), if apart > 0.0 { "ahead of" } else { "behind" });
        let detail = "what is restored to a time is by the server's clock, schedules and ages of backups by this host's";
        found.tell("clock-skew", "server", Urgency::Warning, what, detail, "Look which of the two is wrong (timedatectl), and set it right.");
    }
    if server.commits_waiting > 0 {
        found.tell(
            "wal-held-up",
            "",
            Urgency::Critical,
            format!("commits wait: {} of them for 3 s and longer", server.commits_waiting),
            "each waits until the repository, or another standby that synchronous_standby_names wants, has its WAL",
            release_hint(),
        );
    }
    let slot = &server.slot;
    // It is being started again: that is nobody's concern yet.
    let is_new =
        facts.receiver.as_ref().and_then(|receiver| receiver.since).is_some_and(|since| facts.at.seconds_since(since) < RECEIVER_GRACE_SECONDS);
    // Where the server's archive_command brings WAL, nobody need stream it.
    if !slot.exists && server.is_archived.is_none() {
        found.cannot(["receiver", "slot"]);
    } else if !slot.active && !is_new && server.is_archived != Some(true) {
        let why = facts.receiver.as_ref().and_then(|receiver| receiver.why.clone()).unwrap_or_default();
        found.tell("receiver", "", Urgency::Critical, "no WAL receiver is running", why, "Start it: bowline daemon, or bowline wal receive.");
    }
    let is_stored = facts.repository.seen().is_some_and(|repository| repository.stored.is_some());
    match server.wal_lag_seconds {
        Some(lag) if lag > facts.objectives.wal_lag_seconds => {
            let held = slot.held_bytes.map_or_else(|| "nothing".to_owned(), bytes);
            let state = slot.wal_status.as_deref().unwrap_or(if slot.exists { "unused" } else { "missing" });
            let waits = server.wal_lag_bytes.map_or_else(|| "unknown".to_owned(), bytes);
            let streamed = if slot.active { "somebody streams from it" } else { "nobody streams from it" };
            let detail = format!("{waits} of WAL wait; slot {} is {state}, {streamed}, and holds {held} on the server", slot.name);
            found.tell(
                "wal-lag",
                "",
                Urgency::Critical,
                format!("commits of the last {} are not stored", span(lag)),
                detail,
                "bowline status and the receiver's log say what it waits for. The server keeps the WAL: watch the free space of pg_wal.",
            );
        }
        Some(_) => {}
        // Something of this cluster is stored, of a timeline that says nothing of this server's log.
        None if server.is_ours == Some(true) && server.wal_lag_bytes.is_none() && is_stored => found.cannot(["wal-lag"]),
        None if facts.repository.seen().is_some() => {}
        None => found.cannot(["wal-lag"]),
    }
    let mut is_unknown = false;
    for finding in server.findings.iter().filter(|finding| !(is_new && finding.slug == "sync-absent")) {
        let urgency = match finding.severity.as_str() {
            "critical" => Urgency::Critical,
            "warn" => Urgency::Warning,
            // What could not be looked at is not fine.
            "unknown" => {
                is_unknown = true;
                Urgency::Critical
            }
            _ => continue,
        };
        found.tell("slot", &finding.slug, urgency, &finding.what, &finding.cause, &finding.remedy);
    }
    if is_unknown {
        found.cannot(["slot"]);
    }
}

fn release_hint() -> String {
    format!("To let them go unprotected: {RELEASE} Undo it when the store is back.")
}

fn judge_receiver(facts: &Facts, found: &mut Found) {
    let Some(receiver) = &facts.receiver else { return };
    if let Some(waited) = receiver.held_up_seconds {
        match receiver.commits_wait {
            true => {
                found.tell(
                    "wal-held-up",
                    "",
                    Urgency::Critical,
                    format!("commits wait: WAL has waited {} for the store", span(waited)),
                    receiver.why.clone().unwrap_or_default(),
                    release_hint(),
                );
            }
            false => found.tell(
                "wal-held-up",
                "",
                Urgency::Warning,
                format!("WAL has waited {} for the store", span(waited)),
                receiver.why.clone().unwrap_or_default(),
                "The server keeps it: watch the free space of pg_wal.",
            ),
        }
    }
    for what in &receiver.breaks {
        found.tell(
            "wal-gap",
            "received",
            Urgency::Critical,
            what,
            "",
            "A full backup begins by itself; until it is listed nothing later can be restored.",
        );
    }
}

fn judge_copies(facts: &Facts, found: &mut Found) {
    match &facts.second_copy {
        Some(Look::Seen(copy)) if copy.is_late => {
            let lag = copy.lag_seconds.map_or_else(|| "an unknown time".to_owned(), span);
            let detail = format!("{}: {lag} behind, {} of {} backups are missing there", copy.address, copy.backups_missing, copy.backups);
            found.tell(
                "replication-lag",
                "second-copy",
                Urgency::Critical,
                "the second copy is behind",
                detail,
                "Look at the bucket's replication: what failed it does not try again.",
            );
        }
        Some(Look::Unseen(trouble)) => {
            found.trouble("replication-lag", "second-copy", Urgency::Critical, "the second copy cannot be looked at", trouble)
        }
        _ => {}
    }
    match &facts.packages {
        Some(Look::Seen(packages)) => {
            let limit = facts.objectives.replication_lag_seconds.max(packages.usual_seconds);
            if let Some(lag) = packages.lag_at(facts.at).filter(|lag| *lag > limit) {
                let detail = format!("{} versions are behind, {} failed", packages.behind, packages.failed);
                found.tell(
                    "replication-lag",
                    "packages",
                    Urgency::Critical,
                    format!("the packages' replica is {} behind", span(lag)),
                    detail,
                    "bowline packages status; what failed is not tried again by itself: bowline packages status --requeue.",
                );
            } else if packages.listed.is_none() {
                // A large bucket is being listed for the first time. A canary that arrived says nothing of an object that is stuck: what
                // was wrong before is not over for that.
                found.cannot(["replication-lag"]);
            }
            if let Some(trouble) = &packages.canary_trouble {
                found.tell("replication-lag", "canary", Urgency::Warning, "the packages' canary cannot be looked at", &trouble.summary, CANARY_HINT);
            }
        }
        // A large bucket is being listed: what was wrong before is not over for that.
        Some(Look::Unseen(trouble)) if trouble.slug == Trouble::NOT_YET => found.cannot(["replication-lag"]),
        Some(Look::Unseen(trouble)) => found.trouble("replication-lag", "packages", Urgency::Critical, "the packages cannot be looked at", trouble),
        None => {}
    }
}

fn judge_jobs(facts: &Facts, found: &mut Found) {
    if facts.jobs.is_empty() {
        found.cannot(["job-failed", "job-overdue", "check", "clock-skew", "backup-window"]);
    }
    if facts.repository.seen().is_none() {
        found.cannot(["job-overdue"]);
    }
    for job in &facts.jobs {
        judge_job(facts, job, found);
    }
}

fn judge_job(facts: &Facts, job: &JobFacts, found: &mut Found) {
    let name = job.name.as_str();
    // What these found has rules of its own, when they came to a result.
    let is_judged_elsewhere = |last: &RunFacts| FINDERS.contains(&name) && last.result.is_some();
    let has_failed = |last: &&RunFacts| ["failed", "broken-off"].contains(&last.outcome.as_str()) && !is_judged_elsewhere(last);
    if let Some(last) = job.last.as_ref().filter(has_failed) {
        let why = last.summary.clone().unwrap_or_else(|| "it was killed, or its host died".to_owned());
        let hint = last.hint.clone().unwrap_or_default();
        found.tell(
            "job-failed",
            name,
            Urgency::Critical,
            format!("the last {name} {}", if last.outcome == "failed" { "failed" } else { "broke off" }),
            why,
            format!("{hint} Its log: bowline runs {}.", last.run).trim_start(),
        );
    }
    if let Some(since) = job.overdue_since {
        let last = match &job.last_success {
            Some(run) => format!("it last succeeded at {}", run.began),
            None if job.past.is_empty() => "it never ran".to_owned(),
            None => "none of its newest runs succeeded".to_owned(),
        };
        let what = match name {
            "backup" => format!("the newest backup is late since {since}"),
            _ => format!("the {name} is overdue since {since}"),
        };
        found.tell(
            "job-overdue",
            name,
            Urgency::Critical,
            what,
            last,
            format!("Schedule: {} ({}). bowline runs shows what ran; is the daemon running?", job.schedule, job.zone),
        );
    }
    let window = facts.objectives.backup_window_seconds;
    if let Some(running) = job.running.as_ref().filter(|_| name == "backup") {
        let so_far = facts.at.seconds_since(running.began);
        let expected = running.expected_seconds.unwrap_or(so_far).max(so_far);
        if expected > window {
            found.tell(
                "backup-window",
                "running",
                Urgency::Warning,
                format!("the backup that runs will take about {}, longer than its window of {}", span(expected), span(window)),
                "by its rate so far",
                "Raise backup.jobs or backup.max_rate.",
            );
        }
    }
}

/// What of a check no other rule looks at.
const CHECKED: [&str; 12] = [
    "store",
    "store since then",
    "encryption by the store",
    "data keys",
    "nothing written plain",
    "privilege",
    "replication",
    "replication connection",
    "role of the server",
    "wal_level",
    "data directory",
    "page checksums",
];

fn judge_check(facts: &Facts, found: &mut Found) {
    let Some(check) = facts.jobs.iter().find(|job| job.name == "check") else { return };
    // Before the first one nothing was said that could be over.
    if check.last.is_none() {
        return;
    }
    let found_last = check.last_verdict.as_ref().and_then(|run| run.result.as_ref()).and_then(|result| result["findings"].as_array());
    let Some(list) = found_last else { return found.cannot(["check", "clock-skew"]) };
    for finding in list {
        let text = |name: &str| finding[name].as_str().unwrap_or_default();
        let (what, verdict) = (text("what"), text("verdict"));
        let urgency = if verdict == "fail" { Urgency::Critical } else { Urgency::Warning };
        if verdict == "ok" {
            continue;
        }
        if what == "clock" {
            found.tell("clock-skew", "", urgency, text("found"), "", text("fix"));
        } else if CHECKED.contains(&what) {
            found.tell("check", what, urgency, format!("{what}: {}", text("found")), "", text("fix"));
        }
    }
}

fn judge_room(facts: &Facts, found: &mut Found) {
    match &facts.capacity {
        Some(Look::Seen(capacity)) => {
            let share = capacity.used_bytes as f64 / capacity.limit_bytes.max(1) as f64;
            let forecast = capacity.days_to_full.map_or_else(String::new, |days| format!("; full in {days:.0} days at the present growth"));
            let detail = format!("{} of {} are used ({}){forecast}", bytes(capacity.used_bytes), bytes(capacity.limit_bytes), capacity.kind);
            let expired = facts.repository.seen().map(|repository| &repository.expired).filter(|expired| expired.backups > 0);
            // All versions count, and a removal only hides: what is promised is what the bucket does.
            let fate = capacity.old_versions.as_ref().map(OldVersions::fate);
            let (goes, go) = match capacity.old_versions.as_ref().is_some_and(OldVersions::are_kept) {
                true => ("hidden", "nothing more is hidden"),
                false => ("removed", "nothing can go"),
            };
            let hint = match (expired, fate) {
                (Some(expired), fate) => format!(
                    "{} expired backups ({}) are {goes} when their grace is over{}. Make room: a larger quota, fewer dailies in [retention].",
                    expired.backups,
                    bytes(expired.bytes),
                    fate.map(|fate| format!("; {fate}")).unwrap_or_default()
                ),
                (None, Some(fate)) => {
                    format!("Nothing is expired, so {go} by itself; {fate}. Make room: a larger quota, or fewer backups in [retention].")
                }
                (None, None) => {
                    "Nothing is expired: nothing can go by itself. Make room: a larger quota, or fewer backups in [retention].".to_owned()
                }
            };
            let objectives = &facts.objectives;
            if share >= objectives.capacity_critical {
                found.tell("capacity", "repository", Urgency::Critical, format!("the repository is {:.0} % full", share * 100.0), detail, hint);
            } else if share >= objectives.capacity_warning {
                found.tell("capacity", "repository", Urgency::Warning, format!("the repository is {:.0} % full", share * 100.0), detail, hint);
            } else if let Some(days) = capacity.days_to_full.filter(|days| *days < DAYS_TO_FULL_WARN) {
                found.tell("capacity", "repository", Urgency::Warning, format!("the repository is full in {days:.0} days"), detail, hint);
            }
        }
        Some(Look::Unseen(_)) => found.cannot(["capacity"]),
        None => {}
    }
    for name in &facts.disks_unseen {
        let detail = "it did not answer in time: it may be a network file system whose server is away";
        let hint = "Look at it: df on it hangs, too. Where it is gone for good, name another directory.";
        found.tell("capacity", name, Urgency::Warning, format!("the disk of {name} does not say how full it is"), detail, hint);
        found.cannot(["capacity"]);
    }
    for disk in &facts.disks {
        let share = 1.0 - disk.free_bytes as f64 / disk.total_bytes.max(1) as f64;
        let short = disk.needed_bytes.filter(|needed| *needed > disk.free_bytes);
        let detail = format!("{}: {} free of {}", disk.path, bytes(disk.free_bytes), bytes(disk.total_bytes));
        match (disk.name.as_str(), short) {
            (name, Some(needed)) => found.tell(
                "capacity",
                name,
                Urgency::Warning,
                format!("there is no room for a {name}: {} are needed", bytes(needed)),
                detail,
                "Make room there, or name another directory.",
            ),
            ("pg_wal", None) if share >= facts.objectives.capacity_critical && disk.free_bytes < WAL_ROOM_CRITICAL => {
                let hint = "PostgreSQL stops when it is full. See what holds WAL: bowline status.";
                found.tell("capacity", "pg_wal", Urgency::Critical, format!("the disk of pg_wal is {:.0} % full", share * 100.0), detail, hint);
            }
            ("pg_wal", None) if share >= facts.objectives.capacity_warning && disk.free_bytes < WAL_ROOM_WARNING => {
                let hint = "PostgreSQL stops when it is full.";
                found.tell("capacity", "pg_wal", Urgency::Warning, format!("the disk of pg_wal is {:.0} % full", share * 100.0), detail, hint);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of the packages, and whether that is unknown.
    fn judged(packages: serde_json::Value) -> (usize, bool) {
        let mut sample: serde_json::Value = serde_json::from_str(include_str!("../../page/sample/sample.json")).unwrap();
        sample["facts"]["packages"] = packages;
        sample["facts"]["at"] = "2026-11-26T12:00:00Z".into();
        let judgement = judge(&serde_json::from_value(sample["facts"].take()).unwrap());
        let alarms = judgement.alarms.iter().filter(|alarm| (alarm.rule.as_str(), alarm.subject.as_str()) == ("replication-lag", "packages"));
        (alarms.count(), judgement.unknown.contains("replication-lag"))
    }

    #[test]
    fn packages_that_nobody_has_listed_yet_are_neither_well_nor_behind() {
        let unseen = |slug: &str| serde_json::json!({ "unseen": { "slug": slug, "summary": "s", "detail": "", "hint": "" } });
        assert_eq!(judged(unseen(Trouble::NOT_YET)), (0, true));
        assert_eq!(judged(unseen("look-timeout")).0, 1);
    }

    #[test]
    fn packages_fall_behind_between_two_listings_and_a_snapshot_has_its_time() {
        let seen = |oldest: &str, usual: f64| {
            judged(serde_json::json!({ "seen": {
                "mode": "m", "lag_seconds": 10.0, "listed": "2026-11-26T11:55:00Z", "oldest_behind": oldest, "usual_seconds": usual, "behind": 1, "failed": 0, "objects": 1, "bytes": 1 } }))
        };
        assert_eq!(seen("2026-11-26T11:59:00Z", 0.0), (0, false));
        assert_eq!(seen("2026-11-26T10:59:00Z", 0.0), (1, false), "the listing is old, and the oldest has waited since");
        let canary = |awaited: Option<&str>, listed: Option<&str>| {
            judged(serde_json::json!({ "seen": {
                "mode": "m", "lag_seconds": 0.0, "canary_awaited": awaited, "listed": listed, "behind": 0, "failed": 0, "objects": 1, "bytes": 1 } }))
        };
        let listed = Some("2026-11-26T11:55:00Z");
        assert_eq!(canary(Some("2026-11-26T10:59:00Z"), listed), (1, false), "the worst of both counts");
        assert_eq!(canary(Some("2026-11-26T10:59:00Z"), None), (1, false), "a canary that waits says enough");
        assert_eq!((canary(None, listed), canary(None, None)), ((0, false), (0, true)), "one that arrived ends nothing before all was listed once");
        assert_eq!(seen("2026-11-26T10:59:00Z", 4000.0), (0, false), "each hour, and a few minutes for the snapshot itself");
        assert_eq!(seen("2026-11-26T10:50:00Z", 4000.0), (1, false));
    }
}
