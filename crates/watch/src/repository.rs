//! What the repository itself says: its backups and why they are kept, how far its log reaches, its drills, what an audit found.

use crate::Trouble;
use crate::disk::Disk;
use crate::facts::{
    BackupFacts, DrillFacts, Drilled, EpochFacts, EstimateFacts, ExpiredFacts, GapFacts, PhaseFacts, RepositoryFacts, ScrubFacts, StoredFacts, Window,
};
use crate::ledger::Ledger;
use crate::settings::Settings;
use futures::{StreamExt, TryStreamExt};
use repo::retention::{Reason, RetentionPlan, Verdict};
use repo::{BackupDocument, Encryption, Epoch, Reader, RepoError, Run, RunName};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use store::ObjectPath;
use terms::{BackupId, Explain, Timestamp};
use upkeep::UpkeepError;

/// Drills that are shown.
const DRILLS: usize = 12;
/// What bears a time that is still to come: so many of these are named.
const AHEAD: usize = 10;
/// Faults of a drill that are told.
const FAULTS: usize = 10;

/// How old a plan of retention may become while nothing it is made from seems to change.
const PLAN_AGE: Duration = Duration::from_secs(300);
/// Reports read at once.
const AT_ONCE: usize = 16;

/// What was read once and does not change.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) ledger: Ledger,
    drills: BTreeMap<ObjectPath, Option<DrillDocument>>,
    plan: Option<(Instant, Vec<BackupId>, usize, RetentionPlan)>,
    /// That of the repository's folder.
    pub(crate) disk: Disk,
}

impl Memory {
    /// The reports of drills, newest first.
    async fn drills(&mut self, reader: &Reader) -> Result<Vec<DrillDocument>, Trouble> {
        let paths = reader.drills().await.map_err(|e| Trouble::of(&e))?;
        let unread: Vec<ObjectPath> = paths.iter().filter(|path| !self.drills.contains_key(path)).cloned().collect();
        let read: Vec<_> = futures::stream::iter(unread)
            .map(|path| async move {
                match reader.drill::<DrillDocument>(&path).await {
                    Ok(found) => Ok((path, found)),
                    Err(e @ RepoError::Store(_)) => Err(Trouble::of(&e)),
                    // One that is damaged, or of a newer format, tells nothing.
                    Err(_) => Ok((path, None)),
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        self.drills.extend(read);
        self.drills.retain(|path, _| paths.contains(path));
        Ok(paths.iter().filter_map(|path| self.drills.get(path).cloned().flatten()).collect())
    }

    async fn plan(&mut self, reader: &Reader, settings: &Settings, backups: &[BackupDocument], now: Timestamp) -> Result<RetentionPlan, UpkeepError> {
        let ids: Vec<BackupId> = backups.iter().map(|backup| backup.id).collect();
        if let Some((at, of, drills, plan)) = &self.plan
            && at.elapsed() < PLAN_AGE
            && *of == ids
            && *drills == self.drills.len()
        {
            return Ok(plan.clone());
        }
        let plan = upkeep::plan(reader, &settings.policy, now).await?;
        self.plan = Some((Instant::now(), ids, self.drills.len(), plan.clone()));
        Ok(plan)
    }
}

pub(crate) async fn look(
    reader: &Reader,
    settings: &Settings,
    memory: &mut Memory,
    runs: &BTreeMap<RunName, Run>,
    now: Timestamp,
) -> Result<RepositoryFacts, Trouble> {
    let mut damaged = Vec::new();
    let (documents, unread) = reader.backups_and_damage().await.map_err(|e| Trouble::of(&e))?;
    damaged.extend(unread.iter().map(Trouble::of));
    let (ahead, drills): (Vec<_>, Vec<_>) = memory.drills(reader).await?.into_iter().partition(|drill| drill.began.is_ahead_of(now));
    let plan = without_damage(memory.plan(reader, settings, &documents, now).await.map(Some), &mut damaged)?;
    let expiry = without_damage(reader.expiry().await, &mut damaged)?.map(|(state, _)| state);
    let epoch = reader.epoch();
    let is_present = |backup: &BackupDocument| epoch.is_some_and(|epoch| epoch.system_id == backup.system_id);
    let backups: Vec<BackupFacts> = documents
        .iter()
        .map(|document| {
            let verdict = plan.iter().flat_map(|plan| &plan.verdicts).find(|verdict| verdict.backup == document.id);
            let reaches_on = expiry.as_ref().is_none_or(|state| state.reaches_on_from(document));
            let is_ahead = document.start.time.max(document.stop.time).is_ahead_of(now);
            BackupFacts { is_ahead, ..backup(document, verdict, &drills, reaches_on, is_present(document)) }
        })
        .collect();
    let mut named: Vec<String> = backups.iter().filter(|backup| backup.is_ahead).map(|backup| format!("backup {}", backup.id)).collect();
    named.extend(ahead.iter().map(|drill| format!("the drill of {}", drill.began)));
    named.extend(memory.ledger.ahead.iter().map(|name| format!("run {name}")));
    named.truncate(AHEAD);
    let mut epochs = Vec::new();
    for one in &reader.document().epochs {
        epochs.push(epoch_facts(reader, one, epoch == Some(one), &documents, &backups).await?);
    }
    let (window, stored, restore) = match epoch.zip(epochs.iter().find(|epoch| epoch.is_present)) {
        Some((epoch, marks)) => log_of(reader, epoch, marks, &documents, &backups).await?,
        None => (None, None, None),
    };
    let tombstones = without_damage(reader.tombstones_of(terms::BackupKind::Full).await, &mut damaged)?;
    let expired = ExpiredFacts {
        backups: tombstones.len() as u64,
        bytes: tombstones.iter().map(|(tombstone, _)| tombstone.buried.bytes_stored()).sum(),
        since: tombstones.iter().map(|(_, written)| *written).min(),
    };
    let (audited, gaps) = audited(runs);
    let document = reader.document();
    Ok(RepositoryFacts {
        address: reader.address(),
        id: document.id.to_string(),
        created: document.created.min(now),
        is_encrypted: document.encryption != Encryption::Off,
        system_id: epoch.map(|epoch| epoch.system_id),
        epochs,
        backups,
        window,
        gaps,
        audited,
        stored,
        restore,
        drills: drills.into_iter().take(DRILLS).map(DrillDocument::facts).collect(),
        expired,
        ahead: named,
        damaged,
    })
}

/// What is damaged is told, once, and nothing is taken from it: it must not hide what all else says.
fn without_damage<T: Default, E: Explain>(read: Result<T, E>, damaged: &mut Vec<Trouble>) -> Result<T, Trouble> {
    read.or_else(|e| {
        let trouble = Trouble::of(&e);
        if !trouble.is_damage {
            return Err(trouble);
        }
        if !damaged.contains(&trouble) {
            damaged.push(trouble);
        }
        Ok(T::default())
    })
}

fn backup(document: &BackupDocument, verdict: Option<&Verdict>, drills: &[DrillDocument], reaches_on: bool, is_present: bool) -> BackupFacts {
    let reasons: &[Reason] = verdict.map_or(&[], |verdict| &verdict.kept);
    // One that could not look at everything says nothing about the backup.
    let drilled = drills.iter().find(|drill| drill.backup == Some(document.id) && drill.outcome != "not-verified");
    let drilled = drilled.map(|drill| Drilled { at: drill.began, passed: drill.outcome == "passed" });
    let held = reasons.iter().find_map(|reason| match reason {
        Reason::Held(why) => Some(why.clone()),
        _ => None,
    });
    BackupFacts {
        id: document.id,
        began: document.start.time,
        at: document.stop.time,
        bytes: document.bytes,
        bytes_stored: document.bytes_stored,
        took_seconds: document.took_seconds,
        pages_damaged: document.pages_damaged,
        server_version: document.server_version.clone(),
        is_present,
        is_ahead: false,
        reaches_on,
        is_daily: reasons.iter().any(|reason| matches!(reason, Reason::Daily(_))),
        is_monthly: reasons.iter().any(|reason| matches!(reason, Reason::Monthly(_))),
        kept: reasons.iter().map(ToString::to_string).collect(),
        held,
        drilled,
    }
}

async fn epoch_facts(
    reader: &Reader,
    epoch: &Epoch,
    is_present: bool,
    documents: &[BackupDocument],
    backups: &[BackupFacts],
) -> Result<EpochFacts, Trouble> {
    let own: Vec<_> = documents.iter().zip(backups).filter(|(document, _)| document.system_id == epoch.system_id).collect();
    let oldest = own.iter().find(|(_, facts)| facts.reaches_on).map(|(document, _)| document.stop);
    let covered = reader.coverage(epoch.system_id).await.map_err(|e| Trouble::of(&e))?;
    Ok(EpochFacts {
        system_id: epoch.system_id,
        major: epoch.major,
        since: epoch.since,
        is_present,
        backups: own.len() as u64,
        backups_alone: own.iter().filter(|(_, facts)| !facts.reaches_on).count() as u64,
        restorable_from: oldest.map(|stop| stop.time),
        restorable_from_lsn: oldest.map(|stop| stop.lsn),
        covered_until: covered.as_ref().map(|mark| mark.time),
        covered_until_lsn: covered.as_ref().map(|mark| mark.lsn),
    })
}

type OfLog = (Option<Window>, Option<StoredFacts>, Option<EstimateFacts>);

/// How far the present cluster's log reaches, and how long a restore of it would take.
async fn log_of(reader: &Reader, epoch: &Epoch, marks: &EpochFacts, documents: &[BackupDocument], backups: &[BackupFacts]) -> Result<OfLog, Trouble> {
    let own = || documents.iter().zip(backups).filter(|(_, facts)| facts.is_present);
    let Some((oldest, _)) = own().find(|(_, facts)| facts.reaches_on).or_else(|| own().next()) else { return Ok((None, None, None)) };
    let window = Window {
        from: oldest.stop.time,
        from_lsn: oldest.stop.lsn,
        backup: oldest.id,
        until: marks.covered_until,
        until_lsn: marks.covered_until_lsn,
    };
    let end = restore::stored_end(reader, epoch, documents).await.map_err(|e| Trouble::of(&e))?;
    let newest = own().max_by_key(|(_, facts)| !facts.is_ahead).map(|(document, _)| document);
    let estimate = match (restore::measured(reader).await.map_err(|e| Trouble::of(&e))?, newest, end) {
        (Some(measured), Some(newest), Some(end)) => {
            let segments = end.lsn.bytes().saturating_sub(newest.start.lsn.bytes()) / newest.segment_bytes.bytes() + 1;
            let estimate = measured.estimate(newest.bytes, segments);
            let (seconds, files_seconds, replay_seconds) = (estimate.total_seconds, estimate.files_seconds, estimate.replay_seconds);
            Some(EstimateFacts { seconds, files_seconds, replay_seconds, by: estimate.by.at })
        }
        _ => None,
    };
    let stored = end.map(|end| StoredFacts {
        lsn: end.lsn,
        timeline: end.timeline,
        last_transaction: end.last_transaction,
        hole: end.hole.map(|segment| segment.to_string()),
        segments: end.segments,
    });
    Ok((Some(window), stored, estimate))
}

/// When the log was last audited, and which gaps that found.
fn audited(runs: &BTreeMap<RunName, Run>) -> (Option<Timestamp>, Vec<GapFacts>) {
    let newest = runs.iter().rev().filter(|(name, _)| name.job() == "audit").find_map(|(_, run)| run.ended().filter(|run| run.result.is_some()));
    let Some(run) = newest else { return (None, Vec::new()) };
    let audit = run.result.as_ref().map_or(&Value::Null, |result| &result["audit"]);
    let time = |value: &Value| value.as_str().and_then(|text| Timestamp::parse_at(text, run.ended).ok());
    let list = |name: &str| audit[name].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let mut gaps: Vec<GapFacts> = list("gaps")
        .iter()
        .map(|gap| GapFacts {
            from: time(&gap["unreachable"]["from"]),
            until: time(&gap["unreachable"]["until"]),
            is_last: gap["unreachable"]["is_last"] == true,
            what: format!("segments {} to {} are missing", text(&gap["first_missing"]), text(&gap["last_missing"])),
        })
        .collect();
    gaps.extend(list("damaged").iter().map(|damage| GapFacts {
        from: time(&damage["unreachable"]["from"]),
        until: time(&damage["unreachable"]["until"]),
        is_last: damage["unreachable"]["is_last"] == true,
        what: format!("segment {} is damaged at {} ({})", text(&damage["first"]), text(&damage["at"]), text(&damage["reason"])),
    }));
    gaps.extend(list("size_mismatches").iter().map(|mismatch| GapFacts {
        from: None,
        until: None,
        // Read, it is found to be damaged or not.
        is_last: false,
        what: format!("segment {} is not the object that was stored", text(&mismatch["segment"])),
    }));
    // The ledger keeps the first of many, and their number.
    let untold = |name: &str| audit[format!("{name}_count")].as_u64().unwrap_or(0).saturating_sub(list(name).len() as u64);
    let untold: u64 = ["gaps", "damaged", "size_mismatches"].into_iter().map(untold).sum();
    if untold > 0 {
        gaps.push(GapFacts { from: None, until: None, is_last: false, what: format!("{untold} more: bowline wal audit lists them") });
    }
    (Some(run.ended), gaps)
}

/// What of a drill's report is looked at.
#[derive(Clone, Deserialize)]
struct DrillDocument {
    began: Timestamp,
    outcome: String,
    backup: Option<BackupId>,
    #[serde(default)]
    target: String,
    #[serde(default)]
    seconds: f64,
    #[serde(default)]
    phases: Vec<PhaseFacts>,
    #[serde(default)]
    proof: Value,
}

impl DrillDocument {
    fn facts(self) -> DrillFacts {
        let of = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
        let databases = of(&self.proof, "databases");
        let rows: Vec<Value> = databases.iter().flat_map(|database| of(database, "rows")).collect();
        let faults = of(&self.proof, "faults");
        let word = |fault: &Value, name: &str| fault[name].as_str().unwrap_or_default().to_owned();
        DrillFacts {
            at: self.began,
            outcome: self.outcome,
            backup: self.backup,
            target: self.target,
            seconds: self.seconds,
            phases: self.phases,
            databases: databases.len() as u64,
            tables: rows.len() as u64,
            rows: rows.iter().filter_map(|table| table["rows"].as_u64()).sum(),
            checks: of(&self.proof, "answers").len() as u64,
            faults: faults
                .iter()
                .take(FAULTS)
                .map(|fault| format!("{} {}: {}", word(fault, "database"), word(fault, "object"), word(fault, "what")))
                .collect(),
        }
    }
}

/// What the last scrub left, where one ever ran.
pub(crate) async fn scrub(reader: &Reader) -> Result<Option<ScrubFacts>, Trouble> {
    let state = match reader.scrub_state().await {
        Ok(Some((state, _))) => state,
        Ok(None) => return Ok(None),
        Err(e @ RepoError::Document { .. }) => return Ok(Some(ScrubFacts { damage: vec![e.to_string()], ..ScrubFacts::default() })),
        Err(e) => return Err(Trouble::of(&e)),
    };
    let (objects, bytes) = state.last_run.map_or((0, 0), |run| (run.objects, run.bytes));
    let told = |damage: &repo::ScrubDamage| format!("{}: {} Cannot be restored: {}", damage.path, damage.why, damage.unreachable);
    Ok(Some(ScrubFacts {
        last: state.last_run.map(|run| run.ended),
        objects,
        bytes,
        oldest_verified: state.oldest(),
        damage: state.damage.iter().map(told).collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use repo::retention::RetentionPolicy;
    use repo::{RunBegun, RunOutcome, Writer};
    use serde_json::json;
    use std::sync::Arc;

    fn settings() -> Settings {
        let mut sample: Value = serde_json::from_str(include_str!("../../page/sample/sample.json")).expect("the sample");
        Settings {
            org: "acme".into(),
            objectives: serde_json::from_value(sample["facts"]["objectives"].take()).expect("objectives"),
            jobs: Vec::new(),
            lost_after: Duration::ZERO,
            receives: true,
            slot: String::new(),
            status_interval: Duration::ZERO,
            is_synchronous: false,
            receiver: "",
            data_dir: None,
            drill_dir: None,
            policy: RetentionPolicy::default(),
            quota_bytes: None,
            folder: None,
        }
    }

    #[tokio::test]
    async fn a_drill_of_a_clock_that_was_ahead_is_not_the_last_one() {
        let now = Timestamp::from_compact("20261126T120000Z").expect("a time");
        let store = Arc::new(store::Memory::new());
        let writer = Writer::create(store, Vec::new(), "acme", Encryption::Off, json!({}), now).await.expect("a repository");
        for (began, outcome) in [("20261122T040000Z", "failed"), ("20300101T040000Z", "passed")] {
            let began = Timestamp::from_compact(began).expect(began);
            let report = json!({ "format": 1, "began": began, "outcome": outcome, "backup": null });
            writer.keep_drill(began, &report, String::new()).await.expect("it is kept");
        }
        let facts = look(writer.reader(), &settings(), &mut Memory::default(), &BTreeMap::new(), now).await.expect("a look");
        let drills: Vec<&str> = facts.drills.iter().map(|drill| drill.outcome.as_str()).collect();
        assert_eq!(drills, ["failed"]);
        assert_eq!(facts.ahead, ["the drill of 2030-01-01 04:00:00 UTC"]);
    }

    #[test]
    fn damage_that_an_audit_found_says_whether_anything_later_can_be_restored() {
        let at = |text: &str| Timestamp::parse_at(text, Timestamp::from_unix_micros(0)).expect(text);
        let damage = |is_last: bool| json!({ "first": "A", "last": "A", "at": "0/1", "reason": "r", "unreachable": { "from": null, "until": null, "is_last": is_last } });
        let mut run =
            RunBegun::new("audit", at("2026-11-26 13:00:00 UTC"), "a test".into()).end(at("2026-11-26 13:00:05 UTC"), RunOutcome::Failed, Some(6));
        run.result = Some(json!({ "audit": { "damaged": [damage(true), damage(false)], "gaps": [], "size_mismatches": [{ "segment": "B" }] } }));
        let name = RunName::parse("20261126T130000Z-audit").expect("a name");
        let (audited, gaps) = audited(&BTreeMap::from([(name, Run::Ended(Box::new(run)))]));
        assert_eq!(audited, Some(at("2026-11-26 13:00:05 UTC")));
        assert_eq!(gaps.iter().map(|gap| gap.is_last).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn mass_damage_counts_whatever_it_weighs() {
        let began = Timestamp::from_compact("20261126T130000Z").expect("a time");
        let audit = |number: i64, damaged: usize| {
            let began = began.plus_micros(number * 3_600_000_000);
            let damaged: Vec<Value> = (0..damaged)
                .map(|one| json!({ "first": one.to_string(), "at": "0/1", "reason": "r", "unreachable": { "is_last": one + 1 == damaged } }))
                .collect();
            let mut run = RunBegun::new("audit", began, "a test".into()).end(began, RunOutcome::Failed, Some(6));
            let result = json!({ "audit": { "damaged": damaged, "gaps": [], "size_mismatches": [] } });
            run.result = Some(repo::shortened(result, 64 << 10));
            (RunName::parse(&format!("{}-audit", began.compact())).expect("a name"), Run::Ended(Box::new(run)))
        };
        let (audited, gaps) = audited(&BTreeMap::from([audit(0, 0), audit(1, 5000)]));
        assert_eq!(audited, Some(began.plus_micros(3_600_000_000)), "the clean one before it is not the newest");
        assert!(gaps[0].is_last, "what cuts off the newest instants is not cut off itself");
        let more = &gaps[gaps.len() - 1].what;
        assert_eq!(*more, format!("{} more: bowline wal audit lists them", 5000 - (gaps.len() - 1)));
    }
}
