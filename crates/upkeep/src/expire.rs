//! One run of expiry: plan, unlist what may go, remove what was unlisted long enough ago.

use crate::sweep::{self, Swept};
use crate::{UpkeepError, known};
use repo::retention::{RetentionPlan, RetentionPolicy};
use repo::{Contender, ExpiryState, Reader, RepoError, WalWaiting, Writer, listing_of};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::Remove;
use terms::{BackupId, Clock, SegmentSize, SystemId, Timestamp};

/// The lease of whoever expires.
const LEASE: &str = "expire";
/// Clocks that differ by more are not believed: a day.
const CLOCKS_APART_MAX: f64 = 86_400.0;

/// How to expire.
#[derive(Debug, Clone)]
pub struct ExpireOptions {
    pub policy: RetentionPolicy,
    /// How long what was unlisted stays: whoever reads it now must be able to end.
    pub grace: Duration,
    /// How long nothing must have been written to the folder of an attempt: a backup that is held up is no attempt that failed.
    pub attempts_grace: Duration,
    /// What somebody agreed to; `None`: whatever the plan lets go.
    pub confirmed: Option<BTreeSet<BackupId>>,
    /// Who this is, for people.
    pub holder: String,
    pub lease_ttl: Duration,
}

/// What a run did.
#[derive(Debug, Clone, Serialize)]
pub struct Expired {
    pub plan: RetentionPlan,
    /// Backups that were unlisted in this run.
    pub unlisted: Vec<BackupId>,
    /// What was unlisted earlier, and is gone now.
    pub backups: Swept,
    pub attempts: Swept,
    pub wal: Swept,
    /// Pieces whose segment is stored whole.
    pub pieces: Swept,
    /// Uploads in parts that nobody completed for a day, and that were ended.
    pub uploads: usize,
}

/// How old something must be, by the store's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grace {
    pub(crate) now: Timestamp,
    pub(crate) length: Duration,
}

impl Grace {
    pub(crate) fn is_over(self, written: Timestamp) -> bool {
        self.now.seconds_since(written) >= self.length.as_secs_f64()
    }
}

/// What would be kept, and why. Changes nothing.
pub async fn plan(reader: &Reader, policy: &RetentionPolicy, now: Timestamp) -> Result<RetentionPlan, UpkeepError> {
    let chosen = reader.expiry().await?.map(|(state, _)| state.monthlies).unwrap_or_default();
    Ok(planned(reader, policy, &chosen, now).await?.0)
}

async fn planned(
    reader: &Reader,
    policy: &RetentionPolicy,
    chosen: &BTreeMap<terms::Month, BackupId>,
    now: Timestamp,
) -> Result<(RetentionPlan, BTreeMap<SystemId, SegmentSize>), RepoError> {
    let candidates = known::candidates(reader, now).await?;
    let present = reader.epoch().map(|epoch| epoch.system_id);
    let sizes = candidates.iter().map(|candidate| (candidate.backup.system_id, candidate.backup.segment_bytes)).collect();
    Ok((RetentionPlan::new(policy, &candidates, present, chosen), sizes))
}

/// Expires what retention lets go. One at a time, by lease; whatever interrupts it, the next run goes on.
pub async fn expire(writer: &Writer, remover: &dyn Remove, options: &ExpireOptions, clock: &dyn Clock) -> Result<Expired, UpkeepError> {
    let lease = Contender::new(writer, LEASE, &options.holder, options.lease_ttl)?.acquire(clock).await?.keep();
    let done = run(writer, remover, options, clock, async || Ok(lease.still_mine().await?)).await;
    lease.release().await?;
    done
}

async fn run(
    writer: &Writer,
    remover: &dyn Remove,
    options: &ExpireOptions,
    clock: &dyn Clock,
    still_mine: impl AsyncFn() -> Result<bool, UpkeepError>,
) -> Result<Expired, UpkeepError> {
    let reader = writer.reader();
    // The lease was written just now: its time is the store's.
    let stores = reader.lease(LEASE).await?.map_or_else(|| clock.now(), |lease| lease.renewed);
    let ours = clock.now();
    let found = reader.expiry().await?;
    let last_run = found.as_ref().map_or(ours, |(state, _)| state.last_run);
    if ours.seconds_since(stores).abs() > CLOCKS_APART_MAX {
        return Err(UpkeepError::Clock { ours, other: stores, whose: "the store's" });
    }
    let now = ours.min(stores);
    if last_run.seconds_since(now) > CLOCKS_APART_MAX {
        return Err(UpkeepError::Clock { ours: now, other: last_run, whose: "the last run's said" });
    }
    let grace = Grace { now, length: options.grace };
    let (mut state, version) = found.map_or_else(|| (ExpiryState::new(now), None), |(state, version)| (state, Some(version)));
    let (plan, sizes) = planned(reader, &options.policy, &state.monthlies, now).await?;
    // Chosen monthlies are written down before anything goes that was not chosen.
    (state.last_run, state.monthlies) = (now, plan.monthlies.clone());
    let version = Some(writer.save_expiry(&state, version.as_ref()).await?);

    let listed = reader.backups().await?;
    let mut unlisted = Vec::new();
    for id in plan.expired() {
        let Some(backup) = listed.iter().find(|backup| backup.id == id) else { continue };
        if options.confirmed.as_ref().is_some_and(|confirmed| !confirmed.contains(&id)) {
            continue;
        }
        writer.bury(backup, now).await?;
        // Held since the plan was made, or no longer ours to say: asked for each, and after its tombstone was written, so that whoever
        // holds it meanwhile is seen here or sees that it is unlisted.
        if reader.holds().await?.contains_key(&id) || !still_mine().await? {
            continue;
        }
        remover.remove(&listing_of(backup.kind, id)).await?;
        unlisted.push(id);
    }
    // What an interrupted run unlisted counts, too.
    state.has_expired |= !unlisted.is_empty() || !reader.tombstones().await?.is_empty();
    let backups = sweep::backups(reader, remover, grace).await?;
    let attempts = sweep::attempts(reader, remover, Grace { length: options.attempts_grace, ..grace }).await?;
    let uploads = store::end_abandoned_uploads(remover, now).await?.len();
    let pieces = sweep::pieces(reader, remover, grace).await?;
    let mut wal = Swept::default();
    if state.has_expired && still_mine().await? {
        match &state.wal {
            Some(waiting) if grace.is_over(waiting.since) => {
                wal = sweep::wal(remover, &plan, waiting, grace).await?;
                state.wal = Some(waiting_from(&plan, &sizes, state.wal.as_ref(), now));
            }
            Some(_) => {}
            None => state.wal = Some(waiting_from(&plan, &sizes, None, now)),
        }
    }
    writer.save_expiry(&state, version.as_ref()).await?;
    Ok(Expired { plan, unlisted, backups, attempts, wal, pieces, uploads })
}

/// The grace of what this plan does not keep begins. Clusters that were known once stay known: their log is to go, too.
fn waiting_from(plan: &RetentionPlan, sizes: &BTreeMap<SystemId, SegmentSize>, before: Option<&WalWaiting>, since: Timestamp) -> WalWaiting {
    let mut sizes = sizes.clone();
    for (system_id, size) in before.into_iter().flat_map(|before| &before.sizes) {
        sizes.entry(*system_id).or_insert(*size);
    }
    WalWaiting { since, kept: plan.wal.clone(), sizes: sizes.into_iter().collect() }
}
