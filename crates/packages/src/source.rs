//! From where packages come back: the versions of a replica, or snapshots; and which object each key was at an instant.

use crate::around::{Between, Moment, at_instant, meet};
use crate::pairs::pairs;
use crate::{PackagesError, Place, Settings, compare, lines};
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use repo::{ChunkRef, Reader, SnapshotDocument, SnapshotObject, pack_path};
use seal::{HEADER_BYTES, ObjectKind, OpenObject, Opener};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::{Item, ItemFacts, Site};
use terms::{BackupId, BackupKind, Timestamp};

/// So many packs' headers are remembered.
const PACKS_MAX: usize = 4096;
/// Chunks that lie side by side are fetched together, up to so many bytes.
const SPAN_BYTES_MAX: u64 = 8 << 20;

/// See the module.
pub enum Source {
    /// A bucket that the store itself copies the primary to, and up to when it is complete, where somebody looked.
    Replica(Site, Option<Timestamp>),
    /// Snapshots in a repository.
    Snapshots(Box<Snapshots>),
}

/// The snapshots around an instant.
pub struct Snapshots {
    reader: Reader,
    /// The newest one that began no later.
    pub newest: SnapshotDocument,
    /// The oldest one that began later: what it holds, and what was written before the instant, was there at the instant; and of a
    /// source that keeps versions it knows what was there between the two.
    pub after: Option<SnapshotDocument>,
    digester: seal::Digester,
    packs: Mutex<HashMap<(BackupId, u32), Arc<OpenObject>>>,
}

/// What a key was.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Below the prefix or folder of the source.
    pub key: String,
    /// Of its plain content.
    pub bytes: u64,
    /// When this version was written, by the clock of the source's store; of a folder the file's own time.
    pub modified: Timestamp,
    /// As that store told it; compared, never parsed.
    pub etag: String,
    /// It was overwritten or removed between the snapshots around the instant, and nobody knows when.
    pub is_uncertain: bool,
    origin: Origin,
}

#[derive(Debug, Clone)]
enum Origin {
    Version(Item),
    /// It names the snapshot in which they lie.
    Chunks(SnapshotObject),
}

/// What is known of a key.
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one, and one lives at a time")]
pub(crate) enum Known {
    Was(Wanted),
    /// Only a later version of it was seen, after the instant: whether there was one before it nobody knows.
    Untold(String),
}

impl Known {
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Was(Wanted { key, .. }) | Self::Untold(key) => key,
        }
    }
}

impl Source {
    /// Chooses: the replica where there is one, else snapshots.
    pub async fn choose(settings: &Settings, snapshots: Option<&Reader>, at: Timestamp) -> Result<Self, PackagesError> {
        if let Some(Place { url, options }) = &settings.replica {
            let site = Site::open(url, options)?;
            if !site.keeps_versions().await? {
                return Err(PackagesError::NoVersions { address: site.address() });
            }
            return Ok(Self::Replica(site, None));
        }
        let reader = snapshots.ok_or(PackagesError::NoSource)?;
        let ours = Site::open(&settings.primary.url, &settings.primary.options)?.address();
        let listed = reader.snapshots().await?;
        let (own, others): (Vec<_>, Vec<_>) = listed.into_iter().partition(|snapshot| snapshot.source == ours);
        if let Some(other) = others.first().filter(|_| own.is_empty()) {
            return Err(PackagesError::OtherBucket { repository: reader.address(), theirs: other.source.clone(), ours });
        }
        let newest = own.iter().rev().find(|snapshot| snapshot.began <= at);
        let after = own.iter().find(|snapshot| snapshot.began > at).cloned();
        // One that began later knows what was written before, all but what was overwritten or removed meanwhile.
        let Some(newest) = newest.cloned() else {
            return Err(PackagesError::NoSnapshot {
                at,
                oldest: own.first().map(|snapshot| format!("{}, begun at {}", snapshot.id, snapshot.began)),
            });
        };
        let digester = reader.digester().await?;
        Ok(Self::Snapshots(Box::new(Snapshots { reader: reader.clone(), newest, after, digester, packs: Mutex::default() })))
    }

    /// For people.
    pub fn describe(&self) -> String {
        match self {
            Self::Replica(site, _) => format!("the replica {}", site.address()),
            Self::Snapshots(all) => match &all.after {
                Some(after) => format!("the snapshots {} and {} in {}", all.newest.id, after.id, all.reader.address()),
                None => format!("the snapshot {} in {}", all.newest.id, all.reader.address()),
            },
        }
    }

    /// Objects and bytes, about: those of the last snapshot before the instant.
    pub fn total(&self) -> Option<(u64, u64)> {
        match self {
            Self::Replica(..) => None,
            Self::Snapshots(all) => Some((all.newest.objects, all.newest.bytes)),
        }
    }

    /// Looks how far a replica is complete, while the primary can be listed beside it; where it cannot, nobody knows.
    pub async fn measure(&mut self, settings: &Settings, at: Timestamp) {
        if let Self::Replica(site, complete_until) = self
            && let Ok(primary) = Site::open(&settings.primary.url, &settings.primary.options)
            && let Ok(until) = compare::complete_until(&primary, site, at).await
        {
            *complete_until = until;
        }
    }

    /// Up to here it has everything that was there; no later than the instant.
    pub fn complete_until(&self, at: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Replica(_, complete_until) => *complete_until,
            Self::Snapshots(all) => Some(match all.between() {
                Between::Whole { .. } => at,
                // What came after that and went before the next one is in neither.
                Between::Open | Between::Ends => all.newest.began.min(at),
            }),
        }
    }

    /// Seconds before the instant of which not everything is known.
    pub fn unknown_seconds(&self, at: Timestamp) -> Option<f64> {
        self.complete_until(at).map(|until| at.seconds_since(until).max(0.0))
    }

    /// Every key that was there at the instant, in the order of keys' bytes.
    pub async fn wanted(&self, at: Timestamp) -> Result<BoxStream<'_, Result<Wanted, PackagesError>>, PackagesError> {
        let known = self.known(at).await?;
        Ok(known
            .try_filter_map(|known| async move {
                Ok(match known {
                    Known::Was(wanted) => Some(wanted),
                    Known::Untold(_) => None,
                })
            })
            .boxed())
    }

    /// The same, with the keys of which nobody knows.
    pub(crate) async fn known(&self, at: Timestamp) -> Result<BoxStream<'_, Result<Known, PackagesError>>, PackagesError> {
        match self {
            Self::Replica(site, _) => {
                let versions = site.versions().map_err(PackagesError::from).boxed();
                Ok(current_at(versions, at, site.orders_versions()).map_ok(Known::Was).boxed())
            }
            Self::Snapshots(all) => all.known(at).await,
        }
    }

    /// Key and size of each, for [`crate::agree`].
    pub async fn sizes(&self, at: Timestamp) -> Result<BoxStream<'_, Result<(String, u64), PackagesError>>, PackagesError> {
        Ok(self.wanted(at).await?.map_ok(|wanted| (wanted.key, wanted.bytes)).boxed())
    }

    /// The same, with what the copy need not have yet and was in the primary at the instant: the next snapshot has it; a replica may be
    /// behind by `lag`.
    pub async fn sizes_with(
        &self,
        primary: &Site,
        at: Timestamp,
        lag: Duration,
    ) -> Result<BoxStream<'_, Result<(String, u64), PackagesError>>, PackagesError> {
        let until = match self {
            Self::Replica(..) => at.plus_micros(-i64::try_from(lag.as_micros()).unwrap_or(i64::MAX)),
            Self::Snapshots(_) => self.complete_until(at).unwrap_or(at),
        };
        let copied = self.sizes(at).await?;
        if until >= at {
            return Ok(copied);
        }
        let listing = if crate::versions::are_kept(primary).await? { primary.versions() } else { primary.current() };
        let there = current_at(listing.map_err(PackagesError::from).boxed(), at, primary.orders_versions());
        let younger = there.try_filter_map(move |wanted| async move { Ok((wanted.modified > until).then_some((wanted.key, wanted.bytes))) });
        Ok(merged(younger.boxed(), copied))
    }

    /// Reads `bytes` of it from `from` on.
    pub async fn read(&self, wanted: &Wanted, from: u64, bytes: u64) -> Result<(Bytes, ItemFacts), PackagesError> {
        match (self, &wanted.origin) {
            (Self::Replica(site, _), Origin::Version(item)) => match site.read(item, from..from + bytes).await? {
                Some(found) => Ok(found),
                None => Err(PackagesError::Bug(format!("the version {} of {} is gone", item.id.as_deref().unwrap_or_default(), item.key))),
            },
            (Self::Snapshots(all), Origin::Chunks(object)) => Ok((all.read(object, from, bytes).await?, object.facts.clone())),
            _ => Err(PackagesError::Bug("an object of another source".into())),
        }
    }
}

/// Both lists as one, in the order of keys; of a key that both have, what the first says.
fn merged<'a>(
    first: BoxStream<'a, Result<(String, u64), PackagesError>>,
    second: BoxStream<'a, Result<(String, u64), PackagesError>>,
) -> BoxStream<'a, Result<(String, u64), PackagesError>> {
    pairs(first, second, |of| &of.0, |of| &of.0).try_filter_map(|(first, second)| async move { Ok(first.or(second)) }).boxed()
}

/// Of versions in order, the one of each key that was there at the instant.
fn current_at(versions: BoxStream<'_, Result<Item, PackagesError>>, at: Timestamp, is_ordered: bool) -> BoxStream<'_, Result<Wanted, PackagesError>> {
    compare::groups(versions).try_filter_map(move |all| async move { Ok(decide(&all, at, is_ordered)) }).boxed()
}

impl Wanted {
    pub(crate) fn of_version(item: Item) -> Self {
        let Item { key, bytes, modified, etag, .. } = item.clone();
        Self { key, bytes, modified, etag, is_uncertain: false, origin: Origin::Version(item) }
    }

    pub(crate) fn of_snapshot(object: SnapshotObject, is_uncertain: bool) -> Self {
        let SnapshotObject { key, size, modified, etag, .. } = object.clone();
        Self { key, bytes: size, modified, etag, is_uncertain, origin: Origin::Chunks(object) }
    }
}

/// Of a key's versions, the newest first, the one that was there at the instant.
fn decide(all: &[Item], at: Timestamp, is_ordered: bool) -> Option<Wanted> {
    let moment = |item: &Item| Moment { modified: item.modified, is_removal: item.is_removal, is_latest: item.is_latest };
    let (place, is_uncertain) = at_instant(&all.iter().map(moment).collect::<Vec<_>>(), at, is_ordered)?;
    Some(Wanted { is_uncertain, ..Wanted::of_version(all[place].clone()) })
}

impl Snapshots {
    /// What is known of the time from the one to the other.
    fn between(&self) -> Between {
        match &self.after {
            None => Between::Open,
            Some(after) => match &after.versions {
                Some(versions) if versions.since == self.newest.id => Between::Whole { is_ordered: versions.ordered },
                _ => Between::Ends,
            },
        }
    }

    async fn known(&self, at: Timestamp) -> Result<BoxStream<'_, Result<Known, PackagesError>>, PackagesError> {
        let newest = lines::open(&self.reader, &self.newest).await?;
        let after = match &self.after {
            Some(after) => lines::open(&self.reader, after).await?,
            None => stream::empty().boxed(),
        };
        Ok(meet(newest, after, at, self.between()))
    }

    async fn pack(&self, id: BackupId, number: u32) -> Result<Arc<OpenObject>, PackagesError> {
        if let Some(open) = self.packs.lock().unwrap_or_else(PoisonError::into_inner).get(&(id, number)) {
            return Ok(Arc::clone(open));
        }
        let path = pack_path(BackupKind::Packages, id, number);
        let header = self.reader.store().get_range(&path, 0..HEADER_BYTES as u64).await?;
        let open = Arc::new(self.reader.open_object(&path, ObjectKind::Pack, &header).await?);
        let mut known = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= PACKS_MAX {
            known.clear();
        }
        known.insert((id, number), Arc::clone(&open));
        Ok(open)
    }

    /// From a chunk's beginning on.
    async fn read(&self, object: &SnapshotObject, from: u64, bytes: u64) -> Result<Bytes, PackagesError> {
        let id = object.stored_in.ok_or_else(|| PackagesError::Bug(format!("{} lies nowhere", object.key)))?;
        let damaged = |why: String| PackagesError::Damaged { snapshot: id.to_string(), why: format!("{}: {why}.", object.key) };
        let (first, last) = (from / seal::CHUNK_BYTES as u64, (from + bytes).div_ceil(seal::CHUNK_BYTES as u64));
        let mut chunks = object.chunks.get(first as usize..last as usize).ok_or_else(|| damaged("it has too few chunks".into()))?;
        let mut opener = Opener::new().map_err(|e| damaged(e.to_string()))?;
        let mut digester = self.digester.clone();
        let (mut whole, mut plain) = (BytesMut::with_capacity(bytes as usize), Vec::new());
        while let Some(ChunkRef(number, start, ..)) = chunks.first().copied() {
            let mut end = start;
            let beside = chunks.iter().take_while(|ChunkRef(pack, offset, stored, _)| {
                let is_beside = *pack == number && *offset == end && end - start < SPAN_BYTES_MAX;
                end += u64::from(if is_beside { *stored } else { 0 });
                is_beside
            });
            let count = beside.count();
            let path = pack_path(BackupKind::Packages, id, number);
            let open = self.pack(id, number).await?;
            let span = self.reader.store().get_range(&path, start..end).await?;
            for ChunkRef(_, offset, stored, digest) in &chunks[..count] {
                let at = (offset - start) as usize;
                let mut frame = span[at..at + *stored as usize].to_vec();
                opener.open(&open, &mut frame, &mut plain).map_err(|e| damaged(format!("{path} at {offset}: {e}")))?;
                if digester.digest(&plain) != *digest {
                    return Err(damaged(format!("{path} at {offset} holds other bytes than its list says")));
                }
                whole.extend_from_slice(&plain);
            }
            chunks = &chunks[count..];
        }
        match whole.len() as u64 == bytes {
            true => Ok(whole.freeze()),
            false => Err(damaged("its chunks have another length than its list says".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(number: i64) -> Timestamp {
        Timestamp::from_unix_micros(number * 1_000_000)
    }

    #[tokio::test]
    async fn of_two_lists_each_key_is_told_once() {
        let list = |of: &[(&str, u64)]| stream::iter(of.iter().map(|(key, size)| Ok(((*key).to_owned(), *size))).collect::<Vec<_>>()).boxed();
        let all: Vec<(String, u64)> = merged(list(&[("b", 2), ("c", 3)]), list(&[("a", 1), ("c", 9), ("d", 4)])).try_collect().await.unwrap();
        assert_eq!(all, [("a", 1), ("b", 2), ("c", 3), ("d", 4)].map(|(key, size)| (key.to_owned(), size)));
        let broken = stream::iter([Err(PackagesError::Bug("gone".into()))]).boxed();
        assert!(merged(broken, list(&[("a", 1)])).try_collect::<Vec<_>>().await.is_err());
    }

    #[test]
    fn a_removal_before_the_instant_holds_and_one_of_the_same_second_is_uncertain() {
        let item = |time: i64, is_removal, is_latest| {
            let (key, id) = ("k".to_owned(), Some(time.to_string()));
            Item { key, id, bytes: 1, modified: second(time), etag: String::new(), is_latest, is_removal }
        };
        let all = [item(30, false, true), item(20, true, false), item(10, false, false)];
        assert!(decide(&all, second(25), false).is_none() && decide(&all, second(5), false).is_none());
        assert_eq!(decide(&all, second(15), false).map(|wanted| (wanted.modified, wanted.is_uncertain)), Some((second(10), false)));
        let tied = [item(30, false, true), item(20, true, false), item(20, false, false)];
        assert_eq!(decide(&tied, second(25), false).map(|wanted| wanted.is_uncertain), Some(true));
        assert!(decide(&tied, second(25), true).is_none(), "a server that orders them is believed");
        assert!(decide(&[item(20, true, true), item(20, false, false)], second(25), false).is_none(), "and so is the newest");
    }
}
