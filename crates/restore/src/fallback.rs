//! Where damage is in the way of a restore: what can be restored instead, and what each way loses.

use crate::RestoreError;
use crate::epochs::{Around, plan_around};
use crate::known::Known;
use crate::log::Log;
use crate::plan::{RestorePlan, Stop, Wish};
use crate::spoiled::Spoiled;
use repo::{BackupDocument, Reader};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use terms::{BackupId, Explain, Lsn, RecoveryTarget, SystemId, Timestamp};

/// What is to be done when the asked instant cannot be reached because something is damaged or missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDamage {
    /// A person chooses.
    Ask,
    /// Everything before the damage is restored; or, as with the next two, all that was asked for where another way leads there.
    StopBefore,
    /// The oldest whole backup that was complete only after the asked instant is restored alone; where that is allowed, too.
    LaterBackup,
    /// The newest whole backup that was complete by the asked instant is restored alone.
    NearestBackup,
    /// Nothing is done.
    Refuse,
}

/// A way around damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The asked instant itself, from another backup or past the damage: nothing is lost.
    AnotherBackup,
    /// Everything before the damage, and nothing behind it.
    StopBefore,
    /// The newest whole backup that was complete by the asked instant, alone.
    NearestBackup,
    /// A backup that was complete only after the asked instant, alone: what was to be undone may be in it.
    LaterBackup,
}

impl Way {
    /// The policy that takes it.
    pub fn policy(self) -> OnDamage {
        match self {
            Self::AnotherBackup | Self::StopBefore => OnDamage::StopBefore,
            Self::NearestBackup => OnDamage::NearestBackup,
            Self::LaterBackup => OnDamage::LaterBackup,
        }
    }
}

/// What a way around damage costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossWindow {
    /// When the last transaction that is kept ended; `None` when none is near the end of what is kept.
    pub last_kept: Option<Timestamp>,
    /// Everything up to here is kept.
    pub kept_to: Lsn,
    /// Since when nothing is kept: the last transaction's end, or the end of the backup when that is later.
    pub kept_until: Timestamp,
    /// The instant that was asked for; of a position or a name, the latest that it can be. `None` when nobody can tell.
    pub asked: Option<Timestamp>,
    /// Between these two: at most so much is lost.
    pub lost: Option<Duration>,
    /// More than was asked for is restored.
    pub after_target: bool,
    /// What is damaged.
    pub reason: String,
}

/// A restore that can be done instead.
#[derive(Debug, Clone)]
pub struct Alternative {
    /// Decides which policy takes it.
    pub way: Way,
    /// It can be carried out as it is.
    pub plan: RestorePlan,
    /// What is given up by it.
    pub loss: LossWindow,
    /// The words of the command line that choose it.
    pub words: String,
}

/// A way around damage without its plan: what a report tells of it, and what is kept for one that is made later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detour {
    /// Which kind.
    pub way: Way,
    /// The backup that it begins with.
    pub backup: BackupId,
    /// Where recovery ends, in words.
    pub stop: String,
    /// What is given up by it.
    pub loss: LossWindow,
    /// The words of the command line that choose it.
    pub words: String,
}

impl Alternative {
    /// All of it but the plan.
    pub fn detour(&self) -> Detour {
        let Self { way, plan, loss, words } = self;
        Detour { way: *way, backup: plan.backup.id, stop: plan.summary().stop, loss: loss.clone(), words: words.clone() }
    }
}

impl Detour {
    /// Whether it ends elsewhere than was asked for.
    pub fn leads_elsewhere(&self) -> bool {
        self.way != Way::AnotherBackup
    }
}

impl fmt::Display for OnDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ask => "ask",
            Self::StopBefore => "stop-before",
            Self::LaterBackup => "later-backup",
            Self::NearestBackup => "nearest-backup",
            Self::Refuse => "refuse",
        })
    }
}

impl FromStr for OnDamage {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Ask, Self::StopBefore, Self::LaterBackup, Self::NearestBackup, Self::Refuse];
        let found = all.into_iter().find(|policy| policy.to_string() == text);
        found.ok_or_else(|| format!("{text:?} is none of ask, stop-before, later-backup, nearest-backup and refuse"))
    }
}

impl OnDamage {
    /// Whether whoever said this wants to go this way. A way that loses nothing is taken by all who want to go on at all.
    fn accepts(self, way: Way, after_target: bool, allow_after: bool) -> bool {
        let is_meant = match self {
            Self::Ask | Self::Refuse => false,
            Self::StopBefore => way == Way::StopBefore,
            Self::NearestBackup => way == Way::NearestBackup,
            Self::LaterBackup => way == Way::LaterBackup,
        };
        let goes_on = !matches!(self, Self::Ask | Self::Refuse);
        (goes_on && way == Way::AnotherBackup) || (is_meant && (allow_after || !after_target))
    }
}

/// The first of these that the policy accepts; they are in order of what they lose.
pub fn choose(alternatives: &[Alternative], policy: OnDamage, allow_after: bool) -> Option<&Alternative> {
    alternatives.iter().find(|other| policy.accepts(other.way, other.loss.after_target, allow_after))
}

/// What can be restored instead, the way that loses least first: that one is recommended. `error` is why the wish itself cannot be
/// fulfilled, and `spoiled` everything found out so far, that included; what is found out on the way is added.
pub async fn alternatives(reader: &Reader, wish: &Wish, spoiled: &mut Spoiled, error: &RestoreError) -> Result<Vec<Alternative>, RestoreError> {
    let mut search = Search { reader, wish, spoiled, found: Vec::new() };
    search.run().await?;
    let plans = search.found;
    let asked = match plans.first() {
        Some((_, plan)) => asked_at(reader, wish, plan.backup.system_id, spoiled.backups()).await?,
        None => None,
    };
    let mut alternatives = Vec::new();
    for (way, plan) in plans {
        let words = match (way, error) {
            // A backup that is named is not compared with others: nothing of the damaged one is read.
            (Way::AnotherBackup, RestoreError::Chunk { .. } | RestoreError::Pack { .. } | RestoreError::Backup { .. }) => {
                format!("--backup {}", plan.backup.id)
            }
            (Way::AnotherBackup | Way::StopBefore, _) => "--on-damage stop-before".into(),
            (Way::NearestBackup, _) => "--on-damage nearest-backup".into(),
            (Way::LaterBackup, _) => "--on-damage later-backup --allow-after".into(),
        };
        let loss = loss_of(reader, way, &plan, asked, error).await?;
        alternatives.push(Alternative { way, plan, loss, words });
    }
    alternatives.sort_by_key(|other| rank(&other.loss, other.way));
    Ok(alternatives)
}

/// What was asked not to be there comes last, whatever it saves; then what loses least.
fn rank(loss: &LossWindow, way: Way) -> (bool, Duration, Way) {
    (loss.after_target, loss.lost.unwrap_or(Duration::MAX), way)
}

struct Search<'a> {
    reader: &'a Reader,
    wish: &'a Wish,
    spoiled: &'a mut Spoiled,
    found: Vec<(Way, RestorePlan)>,
}

impl Search<'_> {
    async fn run(&mut self) -> Result<(), RestoreError> {
        let timeline = self.wish.timeline.filter(|asked| !self.spoiled.is_history(*asked));
        let backup = self.wish.backup.filter(|asked| !self.spoiled.backups().contains(asked));
        let asked = Wish { timeline, backup, ..self.wish.clone() };
        let is_alone = asked.target == RecoveryTarget::Immediate;
        let whole = if is_alone { None } else { self.plan(&Wish { backup: None, ..asked.clone() }, false).await? };
        match whole {
            Some(plan) => self.found.push((Way::AnotherBackup, plan)),
            None if is_alone => {}
            None => {
                let plan = self.plan(&asked, true).await?;
                self.found.extend(plan.map(|plan| (Way::StopBefore, plan)));
            }
        }
        let mut backups = self.reader.backups_without(self.spoiled.backups()).await?;
        backups.sort_by_key(|b| b.stop.time);
        let (by_then, later): (Vec<_>, Vec<_>) = backups.iter().partition(|b| is_by(b, &asked.target));
        let alone = |backup: BackupId| Wish { target: RecoveryTarget::Immediate, backup: Some(backup), timeline };
        for backup in by_then.iter().rev() {
            if let Some(plan) = self.plan(&alone(backup.id), false).await? {
                self.found.push((Way::NearestBackup, plan));
                break;
            }
        }
        for backup in &later {
            if let Some(plan) = self.plan(&alone(backup.id), false).await? {
                self.found.push((Way::LaterBackup, plan));
                break;
            }
        }
        Ok(())
    }

    /// The plan for this wish without all that is damaged, also what is found out meanwhile; `None` when there is none.
    async fn plan(&mut self, wish: &Wish, to_the_break: bool) -> Result<Option<RestorePlan>, RestoreError> {
        loop {
            match plan_around(self.reader, wish, Around { spoiled: self.spoiled, to_the_break }).await {
                Ok(plan) => return Ok(Some(plan)),
                Err(e) if self.spoiled.learn(&e) => {}
                Err(e) if e.class() == terms::Class::Transient => return Err(e),
                Err(_) => return Ok(None),
            }
        }
    }
}

/// Whether a backup was complete by the target, as far as the target says so.
fn is_by(backup: &BackupDocument, target: &RecoveryTarget) -> bool {
    match target {
        RecoveryTarget::Time(at) => backup.stop.time <= *at,
        RecoveryTarget::Lsn(lsn) => backup.stop.lsn <= *lsn,
        RecoveryTarget::Latest | RecoveryTarget::Immediate | RecoveryTarget::Name(_) | RecoveryTarget::Xid(_) | RecoveryTarget::BeforeXid(_) => true,
    }
}

async fn loss_of(reader: &Reader, way: Way, plan: &RestorePlan, asked: Option<Timestamp>, error: &RestoreError) -> Result<LossWindow, RestoreError> {
    let backup = &plan.backup;
    let log = Log { reader, system_id: backup.system_id, major: backup.major, size: backup.segment_bytes, timeline: plan.timeline };
    let stored_to = plan.segments.last().map_or(backup.stop.lsn, |last| last.end(log.size));
    let kept_to = match plan.stop {
        Stop::EndOfWal { at } => at,
        Stop::Before(lsn) => lsn,
        Stop::Consistent => backup.stop.lsn,
        Stop::Time(_) | Stop::Name(_) => stored_to,
    };
    let last_kept = match &plan.stop {
        Stop::Time(_) | Stop::Name(_) => None,
        _ if plan.segments.is_empty() => None,
        _ => {
            let index = log.index(&plan.segments).await?;
            log.tail(&plan.segments, &index, backup.start.lsn, kept_to, true).await?.last_end
        }
    };
    let (is_whole, after_target) = (way == Way::AnotherBackup, way == Way::LaterBackup);
    Ok(loss(Kept { last_kept, kept_to, consistent: backup.stop.time, is_whole, after_target }, asked, why(error)))
}

/// What a way keeps.
struct Kept {
    last_kept: Option<Timestamp>,
    kept_to: Lsn,
    /// When the backup was complete.
    consistent: Timestamp,
    is_whole: bool,
    after_target: bool,
}

fn loss(kept: Kept, asked: Option<Timestamp>, reason: String) -> LossWindow {
    let Kept { last_kept, kept_to, consistent, is_whole, after_target } = kept;
    let kept_until = match asked {
        Some(asked) if is_whole => asked,
        _ => last_kept.map_or(consistent, |at| at.max(consistent)),
    };
    let between = |asked: Timestamp| Duration::from_micros((asked.unix_micros() - kept_until.unix_micros()).max(0).unsigned_abs());
    let lost = if is_whole || after_target { Some(Duration::ZERO) } else { asked.map(between) };
    LossWindow { last_kept, kept_to, kept_until, asked, lost, after_target, reason }
}

fn why(error: &RestoreError) -> String {
    match error.detail() {
        detail if detail.is_empty() => format!("{error}."),
        detail => detail.lines().next().unwrap_or_default().to_owned(),
    }
}

/// The instant that was asked for, as far as anything that can be read tells it: of the latest state the newest that is known of, of a
/// position or a name the latest that it can be.
async fn asked_at(reader: &Reader, wish: &Wish, system_id: SystemId, unreadable: &BTreeSet<BackupId>) -> Result<Option<Timestamp>, RestoreError> {
    if let RecoveryTarget::Time(at) = wish.target {
        return Ok(Some(at));
    }
    let Some((epoch, ended)) = reader.document().epoch_of(system_id) else { return Ok(None) };
    let backups = reader.backups_without(unreadable).await?.into_iter().filter(|b| b.system_id == system_id).collect();
    let known = Known::gather(reader, epoch, ended, backups, &Spoiled::default()).await?;
    let timeline = wish.timeline.unwrap_or_else(|| known.newest_timeline());
    let size = known.view.segment_bytes;
    let timelines: Vec<_> = known.view.timelines.iter().map(|view| view.timeline).collect();
    let index = reader.index(system_id, &timelines).await?;
    let entries = || index.entries().filter(|entry| entry.segment.timeline() <= timeline);
    Ok(match &wish.target {
        RecoveryTarget::Time(at) => Some(*at),
        RecoveryTarget::Immediate => known.backups.iter().map(|b| b.stop.time).max(),
        RecoveryTarget::Lsn(lsn) => entries().filter(|entry| entry.segment.start(size) < *lsn).filter_map(|entry| entry.max_end).max(),
        RecoveryTarget::Xid(_) | RecoveryTarget::BeforeXid(_) => None,
        RecoveryTarget::Name(name) => entries().flat_map(|entry| &entry.restore_points).filter(|p| p.name == *name).map(|p| p.time).max(),
        RecoveryTarget::Latest => {
            let log = Log { reader, system_id, major: epoch.major, size, timeline };
            let last = known.view.segments_from(timeline, 0).pop();
            // What does not open says nothing of when it was written.
            let in_the_last = match last {
                Some(last) => log.end(&[last]).await.ok().and_then(|(_, at)| at),
                None => None,
            };
            let marked = known.coverage.as_ref().filter(|mark| mark.timeline == timeline).map(|mark| mark.time);
            let indexed = entries().filter_map(|entry| entry.max_end).max();
            let backed_up = known.backups.iter().map(|b| b.stop.time).max();
            [in_the_last, marked, indexed, backed_up].into_iter().flatten().max()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_micros(second * 1_000_000)
    }

    fn kept(last_kept: Option<i64>, consistent: i64) -> Kept {
        let kept_to = Lsn::from_bytes(0x300_0000);
        Kept { last_kept: last_kept.map(at), kept_to, consistent: at(consistent), is_whole: false, after_target: false }
    }

    #[test]
    fn what_is_lost_begins_at_the_last_transaction_or_at_the_backups_end() {
        for (last_kept, asked, lost) in [
            (Some(150), Some(200), Some(50)),
            (Some(90), Some(200), Some(100)),
            (None, Some(200), Some(100)),
            (Some(150), None, None),
            (Some(250), Some(200), Some(0)),
        ] {
            let found = loss(kept(last_kept, 100), asked.map(at), String::new());
            assert_eq!(found.lost, lost.map(Duration::from_secs), "kept {last_kept:?}, asked {asked:?}");
        }
    }

    #[test]
    fn nothing_is_lost_from_another_backup_and_too_much_is_kept_in_a_later_one() {
        let whole = loss(Kept { is_whole: true, ..kept(None, 100) }, Some(at(200)), String::new());
        assert_eq!((whole.lost, whole.kept_until), (Some(Duration::ZERO), at(200)));
        let later = loss(Kept { after_target: true, ..kept(None, 300) }, Some(at(200)), String::new());
        assert_eq!((later.lost, later.after_target, later.kept_until), (Some(Duration::ZERO), true, at(300)));
        assert!(rank(&later, Way::LaterBackup) > rank(&loss(kept(None, 100), None, String::new()), Way::NearestBackup), "never the first choice");
    }

    #[test]
    fn a_policy_takes_what_it_names_or_what_loses_nothing() {
        use OnDamage::{Ask, LaterBackup, NearestBackup, Refuse, StopBefore};
        for policy in [Ask, StopBefore, LaterBackup, NearestBackup, Refuse] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
            let goes_on = matches!(policy, StopBefore | LaterBackup | NearestBackup);
            assert_eq!(policy.accepts(Way::AnotherBackup, false, false), goes_on, "{policy}");
            assert_eq!(policy.accepts(Way::StopBefore, false, false), policy == StopBefore);
            assert_eq!(policy.accepts(Way::NearestBackup, false, false), policy == NearestBackup);
            assert!(!policy.accepts(Way::LaterBackup, true, false), "{policy}");
            assert_eq!(policy.accepts(Way::LaterBackup, true, true), policy == LaterBackup);
        }
    }
}
