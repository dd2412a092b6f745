//! Which epoch a restore is of: pg_upgrade and a new initdb each begin one, and one never replays another's log.

use crate::RestoreError;
use crate::known::Known;
use crate::plan::{Planner, RestorePlan, Wish};
use crate::spoiled::Spoiled;
use repo::{BackupDocument, Epoch, Reader};
use terms::{RecoveryTarget, Timestamp};

/// One epoch and its backups, oldest first.
struct Span<'r> {
    epoch: &'r Epoch,
    /// When the next epoch began.
    ended: Option<Timestamp>,
    backups: Vec<BackupDocument>,
}

impl Span<'_> {
    fn name(&self) -> String {
        format!("PostgreSQL {} (cluster {})", self.epoch.major, self.epoch.system_id)
    }
}

/// Plans a restore, or says why there is none and which instants can be reached. A time is one of the newest epoch that had a
/// backup by then; a position or a restore point must be of one epoch alone; the latest state is that of the present epoch; a
/// backup that is named decides by itself.
pub async fn plan(reader: &Reader, wish: &Wish) -> Result<RestorePlan, RestoreError> {
    plan_around(reader, wish, Around { spoiled: &Spoiled::default(), to_the_break: false }).await
}

/// What a plan has to do without, and what it does where that is in its way.
#[derive(Clone, Copy)]
pub(crate) struct Around<'s> {
    pub(crate) spoiled: &'s Spoiled,
    /// Where the target lies behind damage, everything before the damage is restored instead.
    pub(crate) to_the_break: bool,
}

/// [`plan`] as if what is spoiled were not there.
pub(crate) async fn plan_around(reader: &Reader, wish: &Wish, around: Around<'_>) -> Result<RestorePlan, RestoreError> {
    let backups = reader.backups_without(around.spoiled.backups()).await?;
    if backups.is_empty() {
        return Err(RestoreError::NoBackup { address: reader.address() });
    }
    let spans = spans(reader, &backups);
    let target = wish.target.to_string();
    let refused = |why: String| RestoreError::Unreachable { target: target.clone(), why, window: String::new() };
    let outcome = match (wish.backup, &wish.target) {
        (Some(id), _) => match spans.iter().find(|span| span.backups.iter().any(|b| b.id == id)) {
            Some(span) => within(reader, span, wish, around).await,
            None => return Err(RestoreError::UnknownBackup { backup: id, address: reader.address() }),
        },
        (None, _) if spans.len() == 1 => within(reader, &spans[0], wish, around).await,
        (None, RecoveryTarget::Latest | RecoveryTarget::Immediate) => match spans.last() {
            Some(present) if present.backups.is_empty() => Err(refused(format!(
                "The present epoch, {} since {}, has no backup yet. An earlier epoch is restored with --to TIME, or to its own end with --backup ID.",
                present.name(),
                present.epoch.since
            ))),
            Some(present) => within(reader, present, wish, around).await,
            None => Err(RestoreError::Bug("backups without an epoch".into())),
        },
        (None, RecoveryTarget::Time(at)) => {
            // While a new epoch was on and had no backup, an older one was not the cluster that people used.
            let had_backup = |span: &&Span<'_>| span.backups.iter().any(|b| b.stop.time <= *at);
            match spans.iter().rev().find(had_backup) {
                Some(span) if span.ended.is_some_and(|ended| *at >= ended) => {
                    Err(refused(format!("The epoch of {} had ended, and no backup of the next one was complete by then.", span.name())))
                }
                Some(span) => within(reader, span, wish, around).await,
                None => Err(refused("No backup was complete by then.".into())),
            }
        }
        (None, RecoveryTarget::Lsn(_) | RecoveryTarget::Name(_) | RecoveryTarget::Xid(_) | RecoveryTarget::BeforeXid(_)) => {
            in_one_alone(reader, &spans, wish, around).await
        }
    };
    match outcome {
        Err(RestoreError::Unreachable { target, why, .. }) if spans.len() > 1 => {
            Err(RestoreError::Unreachable { target, why, window: windows(reader, &spans, wish).await? })
        }
        outcome => outcome,
    }
}

fn spans<'r>(reader: &'r Reader, backups: &[BackupDocument]) -> Vec<Span<'r>> {
    let document = reader.document();
    let of = |epoch: &Epoch| backups.iter().filter(|b| b.system_id == epoch.system_id).cloned().collect();
    let ended = |epoch: &Epoch| document.epoch_of(epoch.system_id).and_then(|(_, ended)| ended);
    document.epochs.iter().map(|epoch| Span { epoch, ended: ended(epoch), backups: of(epoch) }).collect()
}

async fn within(reader: &Reader, span: &Span<'_>, wish: &Wish, around: Around<'_>) -> Result<RestorePlan, RestoreError> {
    let once = async || {
        let known = Known::gather(reader, span.epoch, span.ended, span.backups.clone(), around.spoiled).await?;
        Planner { to_the_break: around.to_the_break, ..Planner::new(reader, &known, wish)? }.run().await
    };
    match once().await {
        // A listing takes a while, and what was on its way at its beginning may be missing from it: a hole is still there when asked again.
        Err(RestoreError::Hole { .. }) => once().await,
        outcome => outcome,
    }
}

/// Each cluster counts positions for itself, and a restore point's name may be given again.
async fn in_one_alone(reader: &Reader, spans: &[Span<'_>], wish: &Wish, around: Around<'_>) -> Result<RestorePlan, RestoreError> {
    let mut found: Option<(&Span<'_>, Result<RestorePlan, RestoreError>)> = None;
    let mut nowhere = None;
    for span in spans.iter().rev().filter(|span| !span.backups.is_empty()) {
        match (within(reader, span, wish, around).await, &found) {
            (Err(e @ RestoreError::Unreachable { .. }), _) => nowhere = nowhere.or(Some(e)),
            (_, Some((newer, _))) => {
                let why = format!("The log of {} holds it, and so does that of {}.", newer.name(), span.name());
                return Err(RestoreError::SeveralEpochs { target: wish.target.to_string(), why });
            }
            (outcome, None) => found = Some((span, outcome)),
        }
    }
    match (found, nowhere) {
        (Some((_, outcome)), _) => outcome,
        (None, nowhere) => Err(nowhere.unwrap_or_else(|| RestoreError::Bug("backups without an epoch".into()))),
    }
}

/// What can be restored of each epoch, the oldest first, on its newest timeline unless one was asked for.
async fn windows(reader: &Reader, spans: &[Span<'_>], wish: &Wish) -> Result<String, RestoreError> {
    let mut texts = Vec::new();
    for span in spans {
        let known = Known::gather(reader, span.epoch, span.ended, span.backups.clone(), &Spoiled::default()).await?;
        let window = match Planner::new(reader, &known, wish) {
            _ if span.backups.is_empty() => None,
            Ok(planner) => planner.window().await?,
            Err(RestoreError::Unreachable { .. }) => None,
            Err(e) => return Err(e),
        };
        texts.push(format!("of {}, {}", span.name(), window.unwrap_or_else(|| "nothing yet".into())));
    }
    Ok(format!("What can be restored: {}.", texts.join("; ")))
}
