//! Each rule fires on what it is about, says so in the right urgency, and is silent on a healthy observation; what could not be looked at is
//! neither well nor not.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use terms::{Judgement, Urgency};
use watch::{Facts, RULES, judge, rpo_seconds};

/// A healthy installation: the page's sample without its gap, and with room.
fn healthy() -> Value {
    let mut sample: Value = serde_json::from_str(include_str!("../../page/sample/sample.json")).expect("the sample");
    let mut facts = sample["facts"].take();
    facts["repository"]["seen"]["gaps"] = json!([]);
    facts["capacity"]["seen"]["used_bytes"] = json!(4_000_000_000_000_u64);
    facts
}

fn judged(facts: &Value) -> Judgement {
    judge(&serde_json::from_value::<Facts>(facts.clone()).expect("facts"))
}

fn trouble(slug: &str) -> Value {
    json!({ "unseen": { "slug": slug, "summary": "it does not answer", "detail": "Connection refused.", "hint": "Look at it." } })
}

fn failed_run(job: &str, outcome: &str) -> Value {
    json!({ "run": format!("20261126T020000Z-{job}"), "job": job, "began": "2026-11-26T02:00:00Z", "ended": "2026-11-26T02:01:00Z", "outcome": outcome,
        "slug": "store-away", "summary": "the store does not answer", "hint": "Look at it.", "bytes": null, "by": "the daemon on db1", "result": null })
}

#[test]
fn a_healthy_installation_has_no_alarm_and_nothing_unjudged() {
    let judgement = judged(&healthy());
    assert_eq!(judgement, Judgement::default(), "{judgement:#?}");
}

#[test]
fn each_rule_fires_on_what_it_is_about_and_on_nothing_else() {
    let newest = "/repository/seen/backups/39";
    let job = |name: &str| format!("/jobs/{}", healthy()["jobs"].as_array().expect("jobs").iter().position(|job| job["name"] == name).expect(name));
    let finding = json!([{ "slug": "slot-lost", "severity": "critical", "what": "the slot is lost", "cause": "c", "remedy": "r" }]);
    let checked = |what: &str, verdict: &str| {
        let mut run = failed_run("check", "failed");
        run["result"] = json!({ "findings": [{ "what": what, "verdict": verdict, "found": "it is wrong", "fix": "mend it" }] });
        run
    };
    let drill = |outcome: &str| {
        let mut drill = healthy()["repository"]["seen"]["drills"][0].clone();
        (drill["outcome"], drill["faults"]) = (json!(outcome), json!(["app orders: 3 rows are missing"]));
        json!([drill])
    };
    let running =
        json!({ "run": "20261126T120000Z-backup", "began": "2026-11-26T13:00:00Z", "bytes_done": 1, "bytes_total": 10, "expected_seconds": 7200.0 });
    use Urgency::{Critical, Warning};
    let cases: Vec<(String, Value, &str, &str, Urgency)> = vec![
        ("/repository".into(), trouble("store-unreachable"), "repository", "", Critical),
        ("/repository/seen/damaged".into(), json!([trouble("repository-damaged")["unseen"].clone()]), "repository", "it does not answer", Critical),
        ("/repository/seen/is_encrypted".into(), json!(false), "encryption-off", "", Warning),
        ("/repository/seen/backups".into(), json!([]), "no-backup", "", Critical),
        (format!("{newest}/took_seconds"), json!(4000.0), "backup-window", "took", Warning),
        (format!("{newest}/pages_damaged"), json!(2), "damaged-pages", "", Critical),
        (format!("{}/running", job("backup")), running, "backup-window", "running", Warning),
        ("/repository/seen/stored/hole".into(), json!("0000000300000001000000A1"), "wal-gap", "stored", Critical),
        ("/repository/seen/stored".into(), Value::Null, "wal-gap", "path", Critical),
        ("/repository/seen/gaps".into(), json!([{ "from": null, "until": null, "what": "a segment is missing" }]), "wal-gap", "audit", Critical),
        ("/receiver/breaks".into(), json!(["WAL from 0/1 to 0/2 is lost"]), "wal-gap", "received", Critical),
        ("/repository/seen/drills".into(), drill("failed"), "drill-failed", "", Critical),
        ("/repository/seen/drills".into(), drill("not-verified"), "drill-failed", "", Critical),
        ("/repository/seen/restore/seconds".into(), json!(20_000.0), "rto", "", Critical),
        ("/keys".into(), trouble("key-unreachable"), "kms", "", Critical),
        ("/keys/seen/0/trouble".into(), trouble("key-unreachable")["unseen"].clone(), "kms", "aws-kms:", Warning),
        ("/server".into(), trouble("pg-unreachable"), "server", "", Critical),
        ("/server/seen/is_ours".into(), json!(false), "foreign-server", "", Critical),
        ("/server/seen/clock_ahead_seconds".into(), json!(3600.0), "clock-skew", "server", Warning),
        ("/server/seen/clock_ahead_seconds".into(), json!(-90.0), "clock-skew", "server", Warning),
        ("/server/seen/commits_waiting".into(), json!(2), "wal-held-up", "", Critical),
        ("/server/seen/slot/active".into(), json!(false), "receiver", "", Critical),
        ("/server/seen/findings".into(), finding, "slot", "slot-lost", Critical),
        ("/server/seen/wal_lag_seconds".into(), json!(1000.0), "wal-lag", "", Critical),
        ("/receiver/held_up_seconds".into(), json!(5.0), "wal-held-up", "", Warning),
        ("/second_copy/seen/is_late".into(), json!(true), "replication-lag", "second-copy", Critical),
        ("/second_copy".into(), trouble("store-unreachable"), "replication-lag", "second-copy", Critical),
        ("/packages/seen/lag_seconds".into(), json!(4000.0), "replication-lag", "packages", Critical),
        (format!("{}/last", job("backup")), failed_run("backup", "failed"), "job-failed", "backup", Critical),
        (format!("{}/last", job("backup")), failed_run("backup", "broken-off"), "job-failed", "backup", Critical),
        (format!("{}/overdue_since", job("drill")), json!("2026-11-23T04:00:00Z"), "job-overdue", "drill", Critical),
        (format!("{}/last_verdict", job("check")), checked("clock", "fail"), "clock-skew", "", Critical),
        (format!("{}/last_verdict", job("check")), checked("store", "fail"), "check", "store", Critical),
        ("/scrub/damage".into(), json!(["full/20261126T020000Z/data/000001 is damaged"]), "scrub-damage", "", Critical),
        ("/capacity/seen/used_bytes".into(), json!(7_100_000_000_000_u64), "capacity", "repository", Warning),
        ("/capacity/seen/used_bytes".into(), json!(7_900_000_000_000_u64), "capacity", "repository", Critical),
        ("/capacity/seen/days_to_full".into(), json!(9.0), "capacity", "repository", Warning),
        ("/disks/1/free_bytes".into(), json!(1_000_000_000), "capacity", "drill", Warning),
        ("/disks_unseen".into(), json!(["drill"]), "capacity", "drill", Warning),
        ("/configuration".into(), trouble("config-wrong")["unseen"].clone(), "configuration", "", Warning),
        ("/daemon_silent_since".into(), json!("2026-11-26T13:00:00Z"), "daemon-silent", "", Critical),
    ];
    let mut fired = BTreeSet::new();
    for (pointer, value, rule, subject, urgency) in cases {
        let mut facts = healthy();
        let (parent, member) = pointer.rsplit_once('/').expect("a pointer");
        match facts.pointer_mut(parent).unwrap_or_else(|| panic!("{parent}")) {
            Value::Array(list) => list[member.parse::<usize>().expect("a number")] = value,
            object => object[member] = value,
        }
        let judgement = judged(&facts);
        let alarm = judgement.alarms.iter().find(|alarm| alarm.rule == rule && alarm.subject.starts_with(subject) && alarm.urgency == urgency);
        let alarm = alarm.unwrap_or_else(|| panic!("{pointer}: {rule} {subject:?} did not fire: {judgement:#?}"));
        assert!(!alarm.summary.is_empty() && RULES.iter().any(|(name, _)| *name == alarm.rule), "{alarm:?}");
        let others: Vec<&str> = judgement.alarms.iter().map(|alarm| alarm.rule.as_str()).filter(|name| *name != rule).collect();
        // Without backups there is no window to lose from, and what is not there leads nowhere.
        assert!(others.is_empty() || rule == "no-backup", "{pointer}: besides {rule}: {others:?}");
        fired.insert(rule);
    }
    let unfired: Vec<&str> = RULES.iter().map(|(rule, _)| *rule).filter(|rule| !fired.contains(rule) && *rule != "rpo").collect();
    assert!(unfired.is_empty(), "rules that nothing here makes fire: {unfired:?}");
}

#[test]
fn damage_behind_every_backup_asks_for_a_new_one_until_one_has_begun() {
    let cut_off = |is_last: bool, began: &str| {
        let mut facts = healthy();
        let seen = &mut facts["repository"]["seen"];
        seen["gaps"] = json!([{ "from": null, "until": null, "what": "segment A is damaged", "is_last": is_last }]);
        seen["audited"] = json!("2026-11-26T13:17:00Z");
        seen["backups"][39]["began"] = json!(began);
        let facts: Facts = serde_json::from_value(facts).expect("facts");
        let hint = judge(&facts).alarms.iter().find(|alarm| alarm.rule == "wal-gap").expect("an alarm").hint.clone();
        let cut_off = facts.repository.seen().expect("it was seen").is_cut_off();
        assert_eq!(hint.contains("the daemon begins a full one"), cut_off, "{hint}");
        cut_off
    };
    assert!(cut_off(true, "2026-11-26T02:00:00Z"));
    assert!(!cut_off(false, "2026-11-26T02:00:00Z"), "a later backup serves what follows");
    assert!(!cut_off(true, "2026-11-26T13:30:00Z"), "one has begun since: the next audit will say so");
}

#[test]
fn what_a_clock_stamped_that_was_ahead_is_told_by_name_and_hides_nothing() {
    let mut facts = healthy();
    let seen = &mut facts["repository"]["seen"];
    seen["backups"][39]["is_ahead"] = json!(true);
    seen["backups"][38]["pages_damaged"] = json!(2);
    seen["ahead"] = json!(["backup 20300101T020000Z"]);
    let judgement = judged(&facts);
    let told: Vec<_> = judgement.alarms.iter().map(|alarm| (alarm.rule.as_str(), alarm.subject.as_str(), alarm.urgency)).collect();
    assert_eq!(told, [("damaged-pages", "", Urgency::Critical), ("clock-skew", "stamps", Urgency::Warning)]);
    assert_eq!(judgement.alarms[1].detail, "backup 20300101T020000Z");
    // Alone, and behind damage, it is no later backup that serves what follows.
    let seen = &mut facts["repository"]["seen"];
    seen["backups"] = json!([seen["backups"][39]]);
    seen["gaps"] = json!([{ "from": null, "until": null, "what": "segment A is damaged", "is_last": true }]);
    seen["backups"][0]["began"] = json!("2030-01-01T02:00:00Z");
    let facts: Facts = serde_json::from_value(facts).expect("facts");
    assert!(facts.repository.seen().expect("it was seen").is_cut_off());
}

#[test]
fn what_breaks_off_without_a_verdict_resolves_nothing() {
    let mut facts = healthy();
    let number = |facts: &Value, name: &str| facts["jobs"].as_array().expect("jobs").iter().position(|job| job["name"] == name).expect("a job");
    let (audit, check) = (number(&facts, "audit"), number(&facts, "check"));
    facts["jobs"][check]["last"] = failed_run("check", "broken-off");
    assert!(judged(&facts).unknown.is_empty(), "the one before it said that all is well");
    facts["jobs"][check]["last_verdict"] = Value::Null;
    assert!(["check", "clock-skew"].iter().all(|rule| judged(&facts).unknown.contains(*rule)));
    facts["jobs"][audit]["last"] = failed_run("audit", "broken-off");
    facts["repository"]["seen"]["audited"] = Value::Null;
    assert!(judged(&facts).unknown.contains("wal-gap"));
    (facts["jobs"][audit]["last"], facts["jobs"][check]["last"]) = (Value::Null, Value::Null);
    assert!(judged(&facts).unknown.is_empty(), "neither ever ran");
}

#[test]
fn a_full_bucket_that_keeps_versions_promises_only_what_its_rules_free() {
    let hint = |old_versions: Value, expired: u64| {
        let mut facts = healthy();
        facts["capacity"]["seen"]["used_bytes"] = json!(7_900_000_000_000_u64);
        facts["capacity"]["seen"]["old_versions"] = old_versions;
        facts["repository"]["seen"]["expired"] = json!({ "backups": expired, "bytes": 1_000_000_000_u64, "since": "2026-11-25T02:00:00Z" });
        let alarms = judged(&facts).alarms;
        alarms.iter().find(|alarm| alarm.rule == "capacity").expect("an alarm").hint.clone()
    };
    let at_once = hint(Value::Null, 2);
    assert!(at_once.contains("are removed when their grace is over. Make room"), "{at_once}");
    let later = hint(json!({ "freed_after_days": 30 }), 2);
    assert!(later.contains("are hidden when their grace is over") && later.contains("30 days"), "{later}");
    assert!(!later.contains("removed when"), "{later}");
    for expired in [0, 2] {
        let never = hint(json!({ "freed_after_days": null }), expired);
        assert!(never.contains("nothing that was hidden is freed") && never.contains("bowline init --bucket"), "{never}");
    }
    assert!(hint(Value::Null, 0).contains("nothing can go by itself"));
}

#[test]
fn what_would_be_lost_counts_from_the_mark_when_the_server_is_gone() {
    let mut facts = healthy();
    facts["server"] = trouble("pg-unreachable");
    facts["at"] = json!("2026-11-26T16:05:00Z");
    let read: Facts = serde_json::from_value(facts.clone()).expect("facts");
    assert_eq!(rpo_seconds(&read).map(f64::round), Some(7201.0));
    let judgement = judged(&facts);
    assert!(judgement.alarms.iter().any(|alarm| alarm.rule == "rpo" && alarm.urgency == Urgency::Critical), "{judgement:#?}");
    // What is asked of the server is not known to be broken, and not known to be well.
    for rule in ["wal-lag", "slot", "receiver"] {
        assert!(judgement.unknown.contains(rule), "{rule}: {:?}", judgement.unknown);
    }
}

#[test]
fn where_the_archiver_brings_wal_no_receiver_is_missed() {
    let missed = |exists: bool, archived: Value| {
        let mut facts = healthy();
        let server = &mut facts["server"]["seen"];
        (server["slot"]["exists"], server["slot"]["active"], server["is_archived"]) = (json!(exists), json!(false), archived);
        let judgement = judged(&facts);
        (judgement.alarms.iter().any(|alarm| alarm.rule == "receiver"), judgement.unknown.contains("receiver"))
    };
    assert_eq!(missed(false, json!(true)), (false, false));
    assert_eq!(missed(false, json!(false)), (true, false), "another tool archives, or none");
    assert_eq!(missed(false, Value::Null), (false, true), "the repository cannot be asked");
    assert_eq!(missed(true, Value::Null), (true, false), "a slot that nobody uses holds WAL back");
}

#[test]
fn a_lag_that_nobody_can_tell_is_neither_well_nor_too_long() {
    let mut facts = healthy();
    (facts["server"]["seen"]["wal_lag_bytes"], facts["server"]["seen"]["wal_lag_seconds"]) = (Value::Null, Value::Null);
    facts["at"] = json!("2026-11-26T16:05:00Z");
    let judgement = judged(&facts);
    assert!(judgement.unknown.contains("wal-lag"), "{judgement:#?}");
    // What would be lost counts from the mark then, and is not nothing.
    assert!(judgement.alarms.iter().any(|alarm| alarm.rule == "rpo" && alarm.urgency == Urgency::Critical), "{judgement:#?}");
    facts["repository"]["seen"]["stored"] = Value::Null;
    assert!(!judged(&facts).unknown.contains("wal-lag"), "nothing is stored: other rules say so");
}

#[test]
fn commits_that_wait_are_told_with_the_way_to_let_them_go() {
    let mut facts = healthy();
    (facts["receiver"]["held_up_seconds"], facts["receiver"]["commits_wait"]) = (json!(3.0), json!(true));
    let judgement = judged(&facts);
    let alarm = &judgement.alarms[0];
    assert_eq!((alarm.rule.as_str(), alarm.urgency), ("wal-held-up", Urgency::Critical));
    assert!(alarm.hint.contains("synchronous_standby_names = ''"), "{}", alarm.hint);
}

#[test]
fn a_disk_that_does_not_answer_resolves_nothing() {
    let mut facts = healthy();
    facts["disks_unseen"] = json!(["pg_wal"]);
    let judgement = judged(&facts);
    assert!(judgement.unknown.contains("capacity"), "{judgement:#?}");
    assert!(judgement.alarms.iter().any(|alarm| alarm.summary.contains("pg_wal")), "it is named: {judgement:#?}");
}

#[test]
fn a_repository_that_cannot_be_looked_at_resolves_nothing() {
    let mut facts = healthy();
    facts["repository"] = trouble(watch::Trouble::NOT_YET);
    facts["jobs"] = json!([]);
    let judgement = judged(&facts);
    assert!(judgement.alarms.is_empty() && judgement.unknown.contains("repository"), "a large one is being listed: {judgement:#?}");
    facts["repository"] = trouble("store-unreachable");
    let judgement = judged(&facts);
    for rule in [
        "no-backup",
        "wal-gap",
        "drill-failed",
        "rto",
        "job-failed",
        "job-overdue",
        "scrub-damage",
        "capacity",
        "backup-window",
        "kms",
        "replication-lag",
    ] {
        assert!(judgement.unknown.contains(rule), "{rule}: {:?}", judgement.unknown);
    }
}
