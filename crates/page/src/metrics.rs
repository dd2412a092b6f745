//! The metrics: an observation as Prometheus reads it. Pure; docs/metrics.md is made from the list.

use std::fmt::Write;
use terms::{Timestamp, Urgency};
use watch::Facts;
use watch::facts::{JobFacts, Look};

/// One metric. All are gauges: each says what is so at the moment of the observation.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// In full, such as `bowline_rpo_seconds`.
    pub name: &'static str,
    /// Its labels, in order; none is the name of a backup, a run or an object.
    pub labels: &'static str,
    /// In one line, for people; also what `# HELP` says.
    pub help: &'static str,
}

const fn metric(name: &'static str, labels: &'static str, help: &'static str) -> Metric {
    Metric { name, labels, help }
}

/// Every metric, in the order in which they are printed.
pub const METRICS: &[Metric] = &[
    metric("bowline_build_info", "version", "1, with the version that answers"),
    metric("bowline_observed_timestamp_seconds", "", "When everything below was looked at; a daemon that hangs lets it stand still"),
    metric("bowline_protected", "", "1 while no alarm is critical: the verdict of bowline status"),
    metric("bowline_alarm", "rule", "0 well, 1 a warning, 2 critical; absent while the rule could not be judged"),
    metric("bowline_seen", "what", "1 when it could be looked at, 0 when not: then what it would say is absent"),
    metric("bowline_rpo_seconds", "", "Seconds of commits that would be lost if everything but the repository were gone now"),
    metric("bowline_rpo_objective_seconds", "", "objectives.rpo"),
    metric("bowline_rto_estimate_seconds", "", "How long a restore to the newest instant would take, by the rates of the last drill"),
    metric("bowline_rto_objective_seconds", "", "objectives.rto"),
    metric("bowline_window_start_timestamp_seconds", "", "The first instant that can be restored"),
    metric("bowline_window_end_timestamp_seconds", "", "The last instant that is proven to be restorable"),
    metric("bowline_encrypted", "", "1 when what is stored is sealed"),
    metric("bowline_backups", "kind", "Listed backups: all, daily, monthly, held, drilled"),
    metric("bowline_backup_timestamp_seconds", "", "When the newest backup was consistent"),
    metric("bowline_backup_bytes", "", "Bytes of the database in the newest backup"),
    metric("bowline_backup_stored_bytes", "", "Bytes that it takes in the repository"),
    metric("bowline_backup_duration_seconds", "", "How long it took"),
    metric("bowline_backup_window_seconds", "", "objectives.backup_window"),
    metric("bowline_backup_damaged_pages", "", "Damaged pages in it"),
    metric("bowline_expired_bytes", "", "Bytes of backups that retention let go, and that a later run removes"),
    metric("bowline_wal_lag_seconds", "", "Since when commits wait to be stored; 0 when none does"),
    metric("bowline_wal_lag_bytes", "", "WAL that is not stored yet"),
    metric("bowline_wal_lag_limit_seconds", "", "How long it may be before people are told"),
    metric("bowline_wal_segments", "", "WAL segments that are stored"),
    metric("bowline_wal_gaps", "", "Gaps in the stored WAL that the last audit found"),
    metric("bowline_wal_audit_timestamp_seconds", "", "When the stored WAL was last audited"),
    metric("bowline_receiver_streaming", "", "1 while somebody streams WAL from the slot"),
    metric("bowline_wal_held_up_seconds", "", "How long WAL has been waiting for the store; 0 when it does not"),
    metric("bowline_commits_wait", "", "1 while commits wait for the store (synchronous mode)"),
    metric("bowline_slot_held_bytes", "", "WAL that the server keeps for the slot"),
    metric("bowline_slot_safe_bytes", "", "How much more it may keep before the slot is lost"),
    metric("bowline_wal_bytes_per_second", "", "How fast the server writes WAL"),
    metric("bowline_drill_timestamp_seconds", "", "When the last drill began"),
    metric("bowline_drill_passed", "", "1 when it passed; one that could not look at everything did not"),
    metric("bowline_drill_passed_timestamp_seconds", "", "When the last drill that passed began"),
    metric("bowline_drill_duration_seconds", "", "How long the last drill took"),
    metric("bowline_drill_rows", "", "Rows that it read"),
    metric("bowline_job_success_timestamp_seconds", "task", "When the job's last successful run began"),
    metric("bowline_job_run_timestamp_seconds", "task", "When its last run began"),
    metric("bowline_job_failed", "task", "1 when its last run failed or broke off"),
    metric("bowline_job_duration_seconds", "task", "How long its last run took"),
    metric("bowline_job_running", "task", "1 while it runs"),
    metric("bowline_job_overdue_seconds", "task", "For how long it has been overdue; 0 when it is not"),
    metric("bowline_job_next_timestamp_seconds", "task", "When it runs next"),
    metric("bowline_scrub_timestamp_seconds", "", "When objects were last read again"),
    metric("bowline_scrub_bytes", "", "Bytes that were read then"),
    metric("bowline_scrub_oldest_timestamp_seconds", "", "Since when everything was proven once"),
    metric("bowline_scrub_damaged_objects", "", "Objects that are damaged or missing"),
    metric("bowline_capacity_used_bytes", "", "What the repository takes, or what is used of its disk"),
    metric("bowline_capacity_limit_bytes", "", "What it may take"),
    metric("bowline_capacity_growth_bytes_per_day", "", "How it grows"),
    metric("bowline_capacity_full_seconds", "", "In how many seconds it is full at that"),
    metric("bowline_disk_free_bytes", "disk", "Free room on this host: pg_wal, drill"),
    metric("bowline_disk_total_bytes", "disk", "All of it"),
    metric("bowline_disk_needed_bytes", "disk", "What is needed there"),
    metric("bowline_key_opens", "recipient", "1 when the recipient opens the data keys"),
    metric("bowline_second_copy_lag_seconds", "", "How far the second copy of the repository is behind"),
    metric("bowline_second_copy_backups_missing", "", "Backups that are not there yet"),
    metric("bowline_packages_lag_seconds", "", "How far the replica of the packages is behind"),
    metric("bowline_packages_canary_lag_seconds", "", "How far the canary of the packages is behind"),
    metric("bowline_packages_listed_timestamp_seconds", "", "When the newest complete listing of the packages began"),
    metric("bowline_packages_behind", "", "Versions that are not there yet"),
    metric("bowline_packages_failed", "", "Versions whose replication failed"),
    metric("bowline_packages_objects", "", "Objects of the packages"),
    metric("bowline_packages_bytes", "", "Their bytes"),
    metric("bowline_replication_lag_limit_seconds", "", "How far copies may be behind before people are told"),
];

/// Values by metric, with their label's value.
#[derive(Default)]
struct Values(Vec<(&'static str, String, f64)>);

impl Values {
    fn set(&mut self, name: &'static str, value: impl Into<Option<f64>>) {
        self.of(name, "", value);
    }
    fn of(&mut self, name: &'static str, label: &str, value: impl Into<Option<f64>>) {
        if let Some(value) = value.into().filter(|value| value.is_finite()) {
            self.0.push((name, label.to_owned(), value));
        }
    }
    fn at(&mut self, name: &'static str, at: impl Into<Option<Timestamp>>) {
        self.set(name, at.into().map(seconds));
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.seconds_since(Timestamp::from_unix_micros(0))
}

fn flag(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

/// Everything in Prometheus' text format; of no observation only who answers.
pub fn metrics(facts: Option<&Facts>) -> String {
    let mut values = Values::default();
    values.of("bowline_build_info", env!("CARGO_PKG_VERSION"), 1.0);
    if let Some(facts) = facts {
        judged(facts, &mut values);
        of_repository(facts, &mut values);
        of_server(facts, &mut values);
        for job in &facts.jobs {
            of_job(facts, job, &mut values);
        }
        of_rest(facts, &mut values);
    }
    print(&values)
}

fn print(values: &Values) -> String {
    let mut text = String::new();
    for Metric { name, labels, help } in METRICS {
        let mut own = values.0.iter().filter(|(of, ..)| of == name).peekable();
        if own.peek().is_none() {
            continue;
        }
        // Writing to a String does not fail.
        let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} gauge");
        for (_, label, value) in own {
            let escaped = label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = match labels.is_empty() {
                true => writeln!(text, "{name} {value}"),
                false => writeln!(text, "{name}{{{labels}=\"{escaped}\"}} {value}"),
            };
        }
    }
    text
}

fn judged(facts: &Facts, values: &mut Values) {
    let judgement = watch::judge(facts);
    values.at("bowline_observed_timestamp_seconds", facts.at);
    values.set("bowline_protected", flag(judgement.alarms.iter().all(|alarm| alarm.urgency != Urgency::Critical)));
    for (rule, _) in watch::RULES {
        let worst = judgement.alarms.iter().filter(|alarm| alarm.rule == rule).map(|alarm| alarm.urgency).max();
        let value = match worst {
            Some(Urgency::Critical) => Some(2.0),
            Some(Urgency::Warning) => Some(1.0),
            None if judgement.unknown.contains(rule) => None,
            None => Some(0.0),
        };
        values.of("bowline_alarm", rule, value);
    }
    fn seen<T>(look: &Look<T>) -> f64 {
        flag(look.seen().is_some())
    }
    values.of("bowline_seen", "repository", seen(&facts.repository));
    values.of("bowline_seen", "server", seen(&facts.server));
    values.of("bowline_seen", "keys", facts.keys.as_ref().map(seen));
    values.of("bowline_seen", "second-copy", facts.second_copy.as_ref().map(seen));
    values.of("bowline_seen", "capacity", facts.capacity.as_ref().map(seen));
    values.of("bowline_seen", "packages", facts.packages.as_ref().map(seen));
    let objectives = &facts.objectives;
    values.set("bowline_rpo_seconds", watch::rpo_seconds(facts));
    values.set("bowline_rpo_objective_seconds", objectives.rpo_seconds);
    values.set("bowline_rto_objective_seconds", objectives.rto_seconds);
    values.set("bowline_backup_window_seconds", objectives.backup_window_seconds);
    values.set("bowline_wal_lag_limit_seconds", objectives.wal_lag_seconds);
    values.set("bowline_replication_lag_limit_seconds", objectives.replication_lag_seconds);
}

fn of_repository(facts: &Facts, values: &mut Values) {
    let Some(repository) = facts.repository.seen() else { return };
    values.set("bowline_rto_estimate_seconds", repository.restore.as_ref().map(|estimate| estimate.seconds));
    if let Some(window) = &repository.window {
        values.at("bowline_window_start_timestamp_seconds", window.from);
        values.at("bowline_window_end_timestamp_seconds", window.until);
    }
    values.set("bowline_encrypted", flag(repository.is_encrypted));
    let count = |kind: fn(&watch::facts::BackupFacts) -> bool| repository.backups.iter().filter(|backup| kind(backup)).count() as f64;
    values.of("bowline_backups", "all", count(|_| true));
    values.of("bowline_backups", "daily", count(|backup| backup.is_daily));
    values.of("bowline_backups", "monthly", count(|backup| backup.is_monthly));
    values.of("bowline_backups", "held", count(|backup| backup.held.is_some()));
    values.of("bowline_backups", "drilled", count(|backup| backup.drilled.as_ref().is_some_and(|drilled| drilled.passed)));
    if let Some(newest) = repository.newest() {
        // A time that is still to come would be young for as long.
        values.at("bowline_backup_timestamp_seconds", Some(newest.at).filter(|_| !newest.is_ahead));
        values.set("bowline_backup_bytes", newest.bytes as f64);
        values.set("bowline_backup_stored_bytes", newest.bytes_stored as f64);
        values.set("bowline_backup_duration_seconds", newest.took_seconds);
        values.set("bowline_backup_damaged_pages", newest.pages_damaged as f64);
    }
    values.set("bowline_expired_bytes", repository.expired.bytes as f64);
    values.set("bowline_wal_segments", repository.stored.as_ref().map(|stored| stored.segments as f64));
    values.set("bowline_wal_gaps", repository.audited.map(|_| repository.gaps.len() as f64));
    values.at("bowline_wal_audit_timestamp_seconds", repository.audited);
    if let Some(drill) = repository.drills.first() {
        values.at("bowline_drill_timestamp_seconds", drill.at);
        values.set("bowline_drill_passed", flag(drill.outcome == "passed"));
        values.set("bowline_drill_duration_seconds", drill.seconds);
        values.set("bowline_drill_rows", drill.rows as f64);
    }
    values.at("bowline_drill_passed_timestamp_seconds", repository.drills.iter().find(|drill| drill.outcome == "passed").map(|drill| drill.at));
}

fn of_server(facts: &Facts, values: &mut Values) {
    if let Some(receiver) = &facts.receiver {
        values.set("bowline_wal_held_up_seconds", receiver.held_up_seconds.unwrap_or_default());
        values.set("bowline_commits_wait", flag(receiver.commits_wait));
    }
    let Some(server) = facts.server.seen() else { return };
    values.set("bowline_wal_lag_seconds", server.wal_lag_seconds);
    values.set("bowline_wal_lag_bytes", server.wal_lag_bytes.map(|bytes| bytes as f64));
    values.set("bowline_receiver_streaming", flag(server.slot.active));
    values.set("bowline_slot_held_bytes", server.slot.held_bytes.map(|bytes| bytes as f64));
    values.set("bowline_slot_safe_bytes", server.slot.safe_wal_bytes.map(|bytes| bytes as f64));
    values.set("bowline_wal_bytes_per_second", server.slot.wal_bytes_per_second);
}

fn of_job(facts: &Facts, job: &JobFacts, values: &mut Values) {
    let name = job.name.as_str();
    values.of("bowline_job_success_timestamp_seconds", name, job.last_success.as_ref().map(|run| seconds(run.began)));
    if let Some(last) = &job.last {
        values.of("bowline_job_run_timestamp_seconds", name, seconds(last.began));
        values.of("bowline_job_failed", name, flag(["failed", "broken-off"].contains(&last.outcome.as_str())));
        values.of("bowline_job_duration_seconds", name, last.ended.map(|ended| ended.seconds_since(last.began)));
    }
    values.of("bowline_job_running", name, flag(job.running.is_some()));
    values.of("bowline_job_overdue_seconds", name, job.overdue_since.map_or(0.0, |since| facts.at.seconds_since(since).max(0.0)));
    values.of("bowline_job_next_timestamp_seconds", name, job.next.map(seconds));
}

fn of_rest(facts: &Facts, values: &mut Values) {
    if let Some(scrub) = &facts.scrub {
        values.at("bowline_scrub_timestamp_seconds", scrub.last);
        values.set("bowline_scrub_bytes", scrub.bytes as f64);
        values.at("bowline_scrub_oldest_timestamp_seconds", scrub.oldest_verified);
        values.set("bowline_scrub_damaged_objects", scrub.damage.len() as f64);
    }
    if let Some(capacity) = facts.capacity.as_ref().and_then(Look::seen) {
        values.set("bowline_capacity_used_bytes", capacity.used_bytes as f64);
        values.set("bowline_capacity_limit_bytes", capacity.limit_bytes as f64);
        values.set("bowline_capacity_growth_bytes_per_day", capacity.growth_bytes_per_day);
        values.set("bowline_capacity_full_seconds", capacity.days_to_full.map(|days| days * 86_400.0));
    }
    for disk in &facts.disks {
        values.of("bowline_disk_free_bytes", &disk.name, disk.free_bytes as f64);
        values.of("bowline_disk_total_bytes", &disk.name, disk.total_bytes as f64);
        values.of("bowline_disk_needed_bytes", &disk.name, disk.needed_bytes.map(|bytes| bytes as f64));
    }
    for recipient in facts.keys.as_ref().and_then(Look::seen).into_iter().flatten() {
        values.of("bowline_key_opens", &recipient.name, flag(recipient.trouble.is_none()));
    }
    if let Some(copy) = facts.second_copy.as_ref().and_then(Look::seen) {
        values.set("bowline_second_copy_lag_seconds", copy.lag_seconds);
        values.set("bowline_second_copy_backups_missing", copy.backups_missing as f64);
    }
    if let Some(packages) = facts.packages.as_ref().and_then(Look::seen) {
        values.set("bowline_packages_lag_seconds", packages.lag_seconds);
        values.set("bowline_packages_canary_lag_seconds", packages.canary_lag_at(facts.at));
        values.at("bowline_packages_listed_timestamp_seconds", packages.listed);
        values.set("bowline_packages_behind", packages.behind as f64);
        values.set("bowline_packages_failed", packages.failed as f64);
        values.set("bowline_packages_objects", packages.objects as f64);
        values.set("bowline_packages_bytes", packages.bytes as f64);
    }
}
