//! One run of expiry: plan, unlist what may go, remove what was unlisted long enough ago.

use crate::places::Places;
use crate::sweep::{self, Swept};
use crate::{UpkeepError, known};
use repo::retention::{Candidate, Reachable, RetentionPlan, RetentionPolicy, SnapshotCandidate, SnapshotPlan};
use repo::{BackupDocument, Contender, ExpiryState, Listed, Reader, RepoError, WalWaiting, Writer, listing_of};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::Remove;
use terms::{BackupId, BackupKind, Clock, Month, SegmentSize, SystemId, Timestamp};

/// The lease of whoever expires.
const LEASE: &str = "expire";
/// Clocks that differ by more are not believed: a day.
const CLOCKS_APART_MAX: f64 = 86_400.0;
/// The key of an attempt waits for so many times the grace of the attempt: in a bucket nothing is seen of an object that is on its way.
const KEY_GRACES: u32 = 7;
/// So many times the grace of an attempt one with a manifest waits, from when it was first seen: it may have been a backup whose listing
/// somebody removed, and whoever did so must hear of it and be able to put it back.
const MANIFEST_GRACES: u32 = 7;

/// How to expire.
#[derive(Debug, Clone)]
pub struct ExpireOptions {
    /// What is kept of backups; of snapshots where it is not known what the database can be restored to.
    pub policy: RetentionPolicy,
    /// How long what was unlisted stays: whoever reads it now must be able to end.
    pub grace: Duration,
    /// How long nothing must have been written to the folder of an attempt: a backup that is held up is no attempt that failed. One with a
    /// manifest waits seven times as long from when a run first saw it.
    pub attempts_grace: Duration,
    /// What somebody agreed to; `None`: whatever the plans let go.
    pub confirmed: Option<Confirmed>,
    /// Set where the repository keeps snapshots beside the backups of another one: then only those are looked at.
    pub elsewhere: Option<Elsewhere>,
    /// Who this is, for people.
    pub holder: String,
    /// Another may expire when this one was not heard of for so long.
    pub lease_ttl: Duration,
}

/// What may go. A backup and a snapshot may have one name.
#[derive(Debug, Clone, Default)]
pub struct Confirmed {
    /// By their names; what is not among them stays.
    pub backups: BTreeSet<BackupId>,
    /// By their names; what is not among them stays.
    pub snapshots: BTreeSet<BackupId>,
}

/// Of what and for whom a repository keeps snapshots that does not keep the backups.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    /// The bucket, by its address. Whose instants those of another bucket are for is not known: they stay.
    pub source: String,
    /// What the database can be restored to, from the repository that keeps its backups.
    pub reachable: Option<Reachable>,
}

/// What is kept, what may go, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Plans {
    /// `None` in a repository that keeps snapshots beside the backups of another one.
    #[serde(rename = "plan", skip_serializing_if = "Option::is_none")]
    pub backups: Option<RetentionPlan>,
    /// Made after the plan of the backups, for what that leaves.
    #[serde(rename = "snapshot_plan")]
    pub snapshots: SnapshotPlan,
    /// What the database can be restored to when that is carried out.
    pub reachable: Option<Reachable>,
    /// Nothing of the repository opens here: that what is listed is its own was believed, not proven.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_believed: bool,
    /// By folder, what is listed and not proven to be of this repository, made when it says, and why: it stays, and takes nobody's place.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unproven: BTreeMap<String, String>,
}

impl Plans {
    /// What may go by it.
    pub fn expired(&self) -> Confirmed {
        let backups = self.backups.iter().flat_map(RetentionPlan::expired).collect();
        Confirmed { backups, snapshots: self.snapshots.expired().collect() }
    }

    /// With which error a run ends that did its work beside what is not proven: somebody has to hear of it.
    pub fn proven(&self) -> Result<(), UpkeepError> {
        match self.unproven.is_empty() {
            true => Ok(()),
            false => Err(UpkeepError::Unproven { listed: self.unproven.clone() }),
        }
    }
}

/// What a run did.
#[derive(Debug, Clone, Serialize)]
pub struct Expired {
    /// By which it was done; of snapshots, after backups were unlisted.
    #[serde(flatten)]
    pub plans: Plans,
    /// Backups that were unlisted in this run, and snapshots.
    pub unlisted: Vec<BackupId>,
    /// Oldest first.
    pub unlisted_snapshots: Vec<BackupId>,
    /// What was unlisted earlier, and is gone now.
    pub backups: Swept,
    /// Of snapshots, the same.
    pub snapshots: Swept,
    /// Folders of backups and snapshots that were begun and never listed.
    pub attempts: Swept,
    /// Folders with a manifest and no listing, and when each of them goes: one may be a backup whose listing somebody removed.
    pub unlisted_whole: BTreeMap<String, Timestamp>,
    /// Keys of attempts that are gone.
    pub keys: Swept,
    /// Segments and pieces that neither the plan at the beginning of a grace nor the one at its end keeps; histories stay.
    pub wal: Swept,
    /// Pieces whose segment is stored whole.
    pub pieces: Swept,
    /// Uploads in parts that got nothing for a week, and that were ended.
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

/// What would be kept of the backups, and why. Changes nothing.
pub async fn plan(reader: &Reader, policy: &RetentionPolicy, now: Timestamp) -> Result<RetentionPlan, UpkeepError> {
    let candidates = known::candidates(reader, now).await?;
    Ok(RetentionPlan::new(policy, &candidates, present(reader), &chosen(reader).await?))
}

/// What would be kept of backups and snapshots, and why. Changes nothing.
pub async fn plans(reader: &Reader, policy: &RetentionPolicy, elsewhere: Option<&Elsewhere>, now: Timestamp) -> Result<Plans, UpkeepError> {
    let mut places = Places::new(reader, now).await?;
    let (backups, reachable) = match elsewhere {
        Some(elsewhere) => (None, elsewhere.reachable.clone()),
        None => {
            let (plan, candidates) = of_backups(&mut places, reader, policy, &chosen(reader).await?, now).await?;
            let reachable = plan.reachable(&candidates, |verdict| !verdict.kept.is_empty());
            (Some(plan), reachable)
        }
    };
    let (snapshots, _) = of_snapshots(&mut places, reader, policy, reachable.as_ref(), elsewhere).await?;
    Ok(Plans { backups, snapshots, reachable, is_believed: places.are_believed(), unproven: places.unproven() })
}

fn present(reader: &Reader) -> Option<SystemId> {
    reader.epoch().map(|epoch| epoch.system_id)
}

async fn chosen(reader: &Reader) -> Result<BTreeMap<Month, BackupId>, RepoError> {
    Ok(reader.expiry().await?.map(|(state, _)| state.monthlies).unwrap_or_default())
}

async fn of_backups(
    places: &mut Places<'_>,
    reader: &Reader,
    policy: &RetentionPolicy,
    chosen: &BTreeMap<Month, BackupId>,
    now: Timestamp,
) -> Result<(RetentionPlan, Vec<Candidate>), RepoError> {
    let mut candidates = known::candidates(reader, now).await?;
    let present = present(reader);
    let plan = places.prove_backups(&mut candidates, |candidates| RetentionPlan::new(policy, candidates, present, chosen)).await?;
    Ok((plan, candidates))
}

async fn of_snapshots(
    places: &mut Places<'_>,
    reader: &Reader,
    policy: &RetentionPolicy,
    reachable: Option<&Reachable>,
    elsewhere: Option<&Elsewhere>,
) -> Result<(SnapshotPlan, Vec<SnapshotCandidate>), RepoError> {
    let only = elsewhere.map(|elsewhere| elsewhere.source.as_str());
    let mut candidates = known::snapshots(reader).await?;
    let plan = places.prove_snapshots(&mut candidates, |candidates| SnapshotPlan::new(policy, candidates, reachable, only)).await?;
    Ok((plan, candidates))
}

/// Expires what retention lets go. One at a time, by lease; whatever interrupts it, the next run goes on. What is not proven stands aside:
/// [`Plans::proven`] is the verdict of the run.
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
    let found = reader.expiry().await?;
    let now = believed(reader, found.as_ref().map(|(state, _)| state.last_run), clock).await?;
    let grace = Grace { now, length: options.grace };
    let (mut state, version) = found.map_or_else(|| (ExpiryState::new(now), None), |(state, version)| (state, Some(version)));
    state.last_run = now;
    let (policy, elsewhere) = (&options.policy, options.elsewhere.as_ref());
    let mut places = Places::new(reader, now).await?;
    let own = match elsewhere {
        Some(_) => None,
        None => Some(of_backups(&mut places, reader, policy, &state.monthlies, now).await?),
    };
    let reachable = match &own {
        Some((plan, candidates)) => plan.reachable(candidates, |verdict| !verdict.kept.is_empty()),
        None => elsewhere.and_then(|elsewhere| elsewhere.reachable.clone()),
    };
    // Whatever has to be opened is opened before anything goes.
    of_snapshots(&mut places, reader, policy, reachable.as_ref(), elsewhere).await?;
    if let Some((plan, _)) = &own {
        // Chosen monthlies are written down before anything goes that was not chosen.
        state.monthlies.clone_from(&plan.monthlies);
    }
    let version = Some(writer.save_expiry(&state, version.as_ref()).await?);

    let confirmed = options.confirmed.as_ref();
    let mut unlisting = Unlisting { writer, remover, now, still_mine: &still_mine };
    let mut unlisted = Vec::new();
    if let Some((plan, candidates)) = &own {
        let expired: BTreeSet<BackupId> = plan.expired().collect();
        let going = candidates.iter().map(|candidate| &candidate.backup).filter(|backup| expired.contains(&backup.id));
        unlisted = unlisting.unlist(going.cloned().map(Listed::Backup), confirmed.map(|confirmed| &confirmed.backups)).await?;
    }
    // Planned by what is listed now: one of the backups may have been held meanwhile.
    let reachable = match &own {
        Some((plan, candidates)) => plan.reachable(candidates, |verdict| !unlisted.contains(&verdict.backup)),
        None => reachable,
    };
    let (snapshots, candidates) = of_snapshots(&mut places, reader, policy, reachable.as_ref(), elsewhere).await?;
    let expired: BTreeSet<BackupId> = snapshots.expired().collect();
    let going = candidates.into_iter().map(|candidate| candidate.snapshot).filter(|snapshot| expired.contains(&snapshot.id));
    let unlisted_snapshots = unlisting.unlist(going.map(Listed::Snapshot), confirmed.map(|confirmed| &confirmed.snapshots)).await?;

    let kinds: &[BackupKind] = if own.is_some() { &[BackupKind::Full, BackupKind::Packages] } else { &[BackupKind::Packages] };
    let attempts_grace = Grace { length: options.attempts_grace, ..grace };
    let whole_grace = Grace { length: options.attempts_grace * MANIFEST_GRACES, ..grace };
    let (attempts, going) = sweep::attempts(kinds, reader, remover, [attempts_grace, whole_grace], &mut state.unlisted_since).await?;
    let goes_at = |since: Timestamp| since.plus_micros(i64::try_from(whole_grace.length.as_micros()).unwrap_or(i64::MAX));
    let mut done = Expired {
        unlisted,
        unlisted_snapshots,
        backups: Swept::default(),
        snapshots: sweep::buried(BackupKind::Packages, reader, remover, grace).await?,
        attempts,
        unlisted_whole: going.into_iter().map(|(folder, since)| (folder, goes_at(since))).collect(),
        keys: sweep::keys(kinds, reader, remover, Grace { length: options.attempts_grace * KEY_GRACES, ..grace }).await?,
        wal: Swept::default(),
        pieces: Swept::default(),
        uploads: store::end_abandoned_uploads(remover, now).await?.len(),
        plans: Plans { backups: None, snapshots, reachable, is_believed: places.are_believed(), unproven: places.unproven() },
    };
    if let Some((plan, candidates)) = own {
        // What an interrupted run unlisted counts, too.
        state.has_expired |= !done.unlisted.is_empty() || !reader.tombstones_of(BackupKind::Full).await?.is_empty();
        done.backups = sweep::buried(BackupKind::Full, reader, remover, grace).await?;
        done.pieces = sweep::pieces(reader, remover, grace).await?;
        if state.has_expired && still_mine().await? {
            // What stands aside says nothing of its cluster, either.
            let sizes = sizes(candidates.iter().filter(|candidate| candidate.aside.is_none()).map(|candidate| &candidate.backup));
            match &state.wal {
                Some(waiting) if grace.is_over(waiting.since) => {
                    done.wal = sweep::wal(remover, &plan, waiting, grace).await?;
                    state.wal = Some(waiting_from(&plan, sizes, state.wal.as_ref(), now));
                }
                Some(_) => {}
                None => state.wal = Some(waiting_from(&plan, sizes, None, now)),
            }
        }
        done.plans.backups = Some(plan);
    }
    writer.save_expiry(&state, version.as_ref()).await?;
    Ok(done)
}

/// The earlier of this host's clock and the store's, unless they or the last run's tell that one of them is wrong.
async fn believed(reader: &Reader, last_run: Option<Timestamp>, clock: &dyn Clock) -> Result<Timestamp, UpkeepError> {
    // The lease was written just now: its time is the store's.
    let stores = reader.lease(LEASE).await?.map_or_else(|| clock.now(), |lease| lease.renewed);
    let ours = clock.now();
    if ours.seconds_since(stores).abs() > CLOCKS_APART_MAX {
        return Err(UpkeepError::Clock { ours, other: stores, whose: "the store's" });
    }
    let now = ours.min(stores);
    match last_run.filter(|last_run| last_run.seconds_since(now) > CLOCKS_APART_MAX) {
        Some(other) => Err(UpkeepError::Clock { ours: now, other, whose: "the last run's said" }),
        None => Ok(now),
    }
}

/// Takes from the list what may go.
struct Unlisting<'r, M> {
    writer: &'r Writer,
    remover: &'r dyn Remove,
    now: Timestamp,
    still_mine: &'r M,
}

impl<M: AsyncFn() -> Result<bool, UpkeepError>> Unlisting<'_, M> {
    /// What of it was unlisted.
    async fn unlist(&mut self, going: impl Iterator<Item = Listed>, confirmed: Option<&BTreeSet<BackupId>>) -> Result<Vec<BackupId>, UpkeepError> {
        let mut unlisted = Vec::new();
        for listed in going {
            let id = listed.id();
            let Some(kind) = listed.kind().filter(|_| confirmed.is_none_or(|confirmed| confirmed.contains(&id))) else { continue };
            self.writer.bury(&listed, self.now).await?;
            // Held since the plan was made, or no longer ours to say: asked for each, and after its tombstone was written, so that whoever
            // holds it meanwhile is seen here or sees that it is unlisted.
            if self.writer.reader().holds().await?.contains_key(&id) || !(self.still_mine)().await? {
                continue;
            }
            self.remover.remove(&listing_of(kind, id)).await?;
            unlisted.push(id);
        }
        Ok(unlisted)
    }
}

fn sizes<'b>(backups: impl Iterator<Item = &'b BackupDocument>) -> BTreeMap<SystemId, SegmentSize> {
    backups.map(|backup| (backup.system_id, backup.segment_bytes)).collect()
}

/// The grace of what this plan does not keep begins. Clusters that were known once stay known: their log is to go, too.
fn waiting_from(plan: &RetentionPlan, mut sizes: BTreeMap<SystemId, SegmentSize>, before: Option<&WalWaiting>, since: Timestamp) -> WalWaiting {
    for (system_id, size) in before.into_iter().flat_map(|before| &before.sizes) {
        sizes.entry(*system_id).or_insert(*size);
    }
    WalWaiting { since, kept: plan.wal.clone(), sizes: sizes.into_iter().collect() }
}
