//! The archive of the write-ahead log: segments, histories, and how far it is known complete.

use crate::pieces::{Form, chain};
use crate::{Piece, Reader, RepoError, Writer, layout};
use bytes::Bytes;
use futures::TryStreamExt;
use seal::{Compression, ObjectKind, Protection};
use std::collections::{BTreeMap, BTreeSet};
use store::{Created, ObjectPath};
use terms::{Lsn, SegmentName, SegmentSize, SystemId, Timeline, WalName};

/// How keeping a WAL file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is stored now, in this many bytes.
    Stored {
        /// Of the object, as a listing shows it.
        bytes_stored: u64,
    },
    /// The same bytes were there, in this many.
    Already {
        /// Of the object, as a listing shows it.
        bytes_stored: u64,
    },
}

/// Consecutive segments of one timeline, by number, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentRun {
    /// Counted from the beginning of the log: its position divided by the size of segments.
    pub first: u64,
    /// Included.
    pub last: u64,
}

/// What is stored of one timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineView {
    /// Of which something is stored, be it its history alone.
    pub timeline: Timeline,
    /// Whether `{timeline}.history` is stored; the first timeline has none.
    pub has_history: bool,
    /// In order, with gaps between them.
    pub runs: Vec<SegmentRun>,
    /// By segment, then by position.
    pub pieces: Vec<Piece>,
}

impl TimelineView {
    /// Nothing of this timeline.
    pub fn empty(timeline: Timeline) -> Self {
        Self { timeline, has_history: false, runs: Vec::new(), pieces: Vec::new() }
    }

    /// Whether no WAL of it is stored, neither whole segments nor pieces; its history may be.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.pieces.is_empty()
    }

    /// Whether the segment with this number is stored whole.
    fn holds(&self, number: u64) -> bool {
        // Runs are in order and do not touch: the last one that begins by then is the only one that can hold it.
        let run = self.runs[..self.runs.partition_point(|r| r.first <= number)].last();
        run.is_some_and(|r| number <= r.last)
    }

    fn pieces_of(&self, segment: SegmentName) -> &[Piece] {
        let first = self.pieces.partition_point(|p| p.segment < segment);
        let count = self.pieces[first..].partition_point(|p| p.segment == segment);
        &self.pieces[first..][..count]
    }

    /// Up to where pieces of this segment are stored from its beginning on without a gap; its beginning when there are none.
    fn pieces_reach(&self, segment: SegmentName, size: SegmentSize) -> Lsn {
        let start = segment.start(size);
        chain(self.pieces_of(segment), start).last().map_or(start, |p| p.end)
    }
}

/// What is stored of a cluster's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalView {
    /// The cluster whose log it is.
    pub system_id: SystemId,
    /// By which positions become numbers of segments.
    pub segment_bytes: SegmentSize,
    /// In order of their ids.
    pub timelines: Vec<TimelineView>,
}

impl WalView {
    /// Whether all of this segment is stored, as one object or in pieces.
    pub fn has(&self, segment: SegmentName) -> bool {
        self.reach(segment) == segment.end(self.segment_bytes)
    }
    /// Up to where this segment is stored from its beginning on without a gap; its beginning when nothing is.
    pub fn reach(&self, segment: SegmentName) -> Lsn {
        let number = segment.number(self.segment_bytes);
        let Some(timeline) = self.timeline(segment.timeline()) else { return segment.start(self.segment_bytes) };
        match timeline.holds(number) {
            true => segment.end(self.segment_bytes),
            false => timeline.pieces_reach(segment, self.segment_bytes),
        }
    }
    /// The segments of this timeline from this number on of which at least the beginning is stored, in order.
    pub fn segments_from(&self, timeline: Timeline, number: u64) -> Vec<SegmentName> {
        let size = self.segment_bytes;
        let Some(view) = self.timeline(timeline) else { return Vec::new() };
        let of_runs = view.runs.iter().flat_map(|run| run.first.max(number)..=run.last);
        let of_pieces = view.pieces.iter().map(|piece| piece.segment.number(size)).filter(|found| *found >= number);
        let numbers: BTreeSet<u64> = of_runs.chain(of_pieces).collect();
        numbers.into_iter().map(|found| SegmentName::numbered(found, timeline, size)).filter(|name| self.reach(*name) > name.start(size)).collect()
    }
    /// What is stored of this timeline.
    pub fn timeline(&self, timeline: Timeline) -> Option<&TimelineView> {
        self.timelines.iter().find(|t| t.timeline == timeline)
    }
    /// The newest timeline of which any WAL is stored, and up to where its last segment is.
    pub fn newest(&self) -> Option<(Timeline, Lsn)> {
        let size = self.segment_bytes;
        let timeline = self.timelines.iter().rev().find(|t| !t.is_empty())?;
        let whole = timeline.runs.last().map(|r| SegmentName::numbered(r.last, timeline.timeline, size).end(size));
        let pieces = timeline.pieces.last().map(|p| timeline.pieces_reach(p.segment, size));
        Some((timeline.timeline, whole.max(pieces)?))
    }
    /// The first segment of this timeline of which anything is stored.
    pub fn first_of(&self, timeline: Timeline) -> Option<SegmentName> {
        let view = self.timeline(timeline)?;
        let of_runs = view.runs.first().map(|run| run.first);
        let of_pieces = view.pieces.first().map(|piece| piece.segment.number(self.segment_bytes));
        let first = [of_runs, of_pieces].into_iter().flatten().min()?;
        Some(SegmentName::numbered(first, timeline, self.segment_bytes))
    }
    /// As if nothing were stored of the segments of which `is_gone` says so.
    pub fn leave_out(&mut self, is_gone: impl Fn(SegmentName) -> bool) {
        let size = self.segment_bytes;
        for view in &mut self.timelines {
            view.pieces.retain(|piece| !is_gone(piece.segment));
            let mut runs: Vec<SegmentRun> = Vec::new();
            for number in view.runs.iter().flat_map(|run| run.first..=run.last) {
                match runs.last_mut() {
                    _ if is_gone(SegmentName::numbered(number, view.timeline, size)) => {}
                    Some(run) if run.last + 1 == number => run.last = number,
                    _ => runs.push(SegmentRun { first: number, last: number }),
                }
            }
            view.runs = runs;
        }
    }
    /// How many segments there are.
    pub fn segments(&self) -> u64 {
        self.timelines.iter().flat_map(|t| &t.runs).map(|r| r.last - r.first + 1).sum()
    }
}

/// What one object of the listing is.
enum Found {
    Segment(u64),
    Piece(Piece),
    History,
}

fn kind_of(name: &WalName) -> ObjectKind {
    match name {
        WalName::Segment(_) | WalName::Partial(_) => ObjectKind::WalSegment,
        WalName::History(_) | WalName::BackupLabel(..) => ObjectKind::WalFile,
    }
}

/// Sealing and opening a segment takes tens of milliseconds of CPU: not on the threads that answer keepalives.
pub(crate) async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RepoError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| RepoError::Bug(e.to_string()))
}

impl Writer {
    /// Stores a WAL file. Equal bytes under the name are fine; other bytes are a [`RepoError::Conflict`] and stay untouched.
    pub async fn keep_wal(
        &self,
        system: SystemId,
        name: &WalName,
        plain: Bytes,
        protection: &Protection,
        compression: Compression,
    ) -> Result<Kept, RepoError> {
        let path = layout::wal_object(system, name);
        if self.store.info(&path).await?.is_none() {
            let object = self.seal_object(protection, kind_of(name), &path);
            let bytes = plain.clone();
            let sealed = beside(move || seal::seal_whole(object, compression, &bytes)).await??;
            let bytes_stored = sealed.len() as u64;
            if self.store.put_new(&path, Bytes::from(sealed)).await? == Created::New {
                return Ok(Kept::Stored { bytes_stored });
            }
        }
        match self.reader().fetch_wal(system, name).await? {
            Some(stored) if stored[..] == plain[..] => {
                // Another process wrote it, and what can be read may still be lost with the power: the caller confirms it now.
                self.store.harden(&path).await?;
                match self.store.info(&path).await? {
                    Some(info) => Ok(Kept::Already { bytes_stored: info.bytes }),
                    None => Err(RepoError::Contended { path: path.to_string() }),
                }
            }
            Some(_) => Err(RepoError::Conflict { name: name.to_string() }),
            None => Err(RepoError::Contended { path: path.to_string() }),
        }
    }

    /// Whether all of this segment is stored, as the view says; then it is durable too, whoever wrote it, and may be confirmed.
    pub async fn vouch_for(&self, view: &WalView, segment: SegmentName) -> Result<bool, RepoError> {
        let Some(timeline) = view.timeline(segment.timeline()).filter(|_| view.has(segment)) else { return Ok(false) };
        if timeline.holds(segment.number(view.segment_bytes)) {
            self.store.harden(&layout::wal_object(view.system_id, &WalName::Segment(segment))).await?;
            return Ok(true);
        }
        for piece in chain(timeline.pieces_of(segment), segment.start(view.segment_bytes)) {
            self.store.harden(&layout::piece(view.system_id, &piece)).await?;
        }
        Ok(true)
    }
}

impl Reader {
    /// Whether a WAL file is stored.
    pub async fn has_wal(&self, system: SystemId, name: &WalName) -> Result<bool, RepoError> {
        Ok(self.store.info(&layout::wal_object(system, name)).await?.is_some())
    }

    /// A WAL file's plain bytes, or `None` when a successful answer says that it is not stored.
    pub async fn fetch_wal(&self, system: SystemId, name: &WalName) -> Result<Option<Vec<u8>>, RepoError> {
        let path = layout::wal_object(system, name);
        let sealed = match self.store.get(&path).await {
            Ok(sealed) => sealed,
            Err(store::StoreError::Missing { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let object = self.open_object(&path, kind_of(name), &sealed).await?;
        let plain = beside(move || seal::open_whole(object, &sealed)).await?.map_err(RepoError::object(&path))?;
        Ok(Some(plain))
    }

    /// The first segment after this one of which anything is stored on its timeline, if any; history files have none.
    pub async fn wal_after(&self, system: SystemId, name: &WalName) -> Result<Option<SegmentName>, RepoError> {
        let WalName::Segment(segment) = name else { return Ok(None) };
        let folder = layout::wal_timeline_folder(system, segment.timeline());
        let path = layout::wal_object(system, name);
        let mut listing = self.store.list(&folder, Some(&path));
        while let Some(object) = listing.try_next().await? {
            let found = match object.path.name().parse() {
                Ok(WalName::Segment(later)) => Some(later),
                _ => match layout::parse_piece(&object.path).filter(|piece| piece.segment > *segment) {
                    Some(piece) => self.measured(system, piece).await?.map(|piece| piece.segment),
                    None => None,
                },
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The timelines from this one on of which a history or any WAL is stored, in order of their ids. One listing a timeline, left at the
    /// first object: no log is listed whole.
    pub async fn timelines_from(&self, system: SystemId, first: Timeline) -> Result<Vec<Timeline>, RepoError> {
        let mut found = Vec::new();
        let mut after = layout::before_timeline(system, first);
        while let Some(timeline) = self.timeline_after(system, &after).await? {
            found.push(timeline);
            after = layout::behind_timeline(system, timeline);
        }
        Ok(found)
    }

    async fn timeline_after(&self, system: SystemId, after: &ObjectPath) -> Result<Option<Timeline>, RepoError> {
        let folder = layout::wal_folder(system);
        let mut listing = self.store.list(&folder, Some(after));
        while let Some(object) = listing.try_next().await? {
            if let Some(timeline) = layout::timeline_of(system, &object.path) {
                return Ok(Some(timeline));
            }
        }
        Ok(None)
    }

    /// Lists what is stored of a cluster's log.
    pub async fn wal_view(&self, system_id: SystemId, segment_bytes: SegmentSize) -> Result<WalView, RepoError> {
        self.wal_view_with(system_id, segment_bytes, |_, _| {}).await
    }

    /// [`Reader::wal_view`], and the bytes of the object of every segment that is stored whole: none for one that is there in
    /// pieces only.
    pub async fn wal_sizes(&self, system_id: SystemId, segment_bytes: SegmentSize) -> Result<(WalView, BTreeMap<SegmentName, u64>), RepoError> {
        let mut sizes = BTreeMap::new();
        let view = self
            .wal_view_with(system_id, segment_bytes, |segment, bytes| {
                sizes.insert(segment, bytes);
            })
            .await?;
        for timeline in &view.timelines {
            for piece in &timeline.pieces {
                if view.has(piece.segment) {
                    sizes.entry(piece.segment).or_insert(0);
                }
            }
        }
        Ok((view, sizes))
    }

    /// What is stored of one timeline from this segment on. Of the rest of the log the view knows nothing, and the listing
    /// does not pass over it: it takes as long as what follows is long.
    pub async fn wal_view_from(&self, system_id: SystemId, segment_bytes: SegmentSize, first: SegmentName) -> Result<WalView, RepoError> {
        let folder = layout::wal_timeline_folder(system_id, first.timeline());
        // A listing begins behind a name: behind the segment before, whose pieces then come along.
        let before = first.number(segment_bytes).checked_sub(1);
        let before = before.map(|number| WalName::Segment(SegmentName::numbered(number, first.timeline(), segment_bytes)));
        let before = before.map(|name| layout::wal_object(system_id, &name));
        let mut view = self.list_wal(system_id, segment_bytes, &folder, before.as_ref(), |_, _| {}).await?;
        for timeline in &mut view.timelines {
            timeline.pieces.retain(|piece| piece.segment >= first);
        }
        Ok(view)
    }

    /// [`Reader::wal_view`], which tells of every segment on the way and of the bytes it is stored in.
    pub(crate) async fn wal_view_with(
        &self,
        system_id: SystemId,
        segment_bytes: SegmentSize,
        each: impl FnMut(SegmentName, u64),
    ) -> Result<WalView, RepoError> {
        self.list_wal(system_id, segment_bytes, &layout::wal_folder(system_id), None, each).await
    }

    async fn list_wal(
        &self,
        system_id: SystemId,
        segment_bytes: SegmentSize,
        folder: &str,
        after: Option<&ObjectPath>,
        mut each: impl FnMut(SegmentName, u64),
    ) -> Result<WalView, RepoError> {
        let mut timelines: Vec<TimelineView> = Vec::new();
        let mut listing = self.store.list(folder, after);
        while let Some(object) = listing.try_next().await? {
            // What lies elsewhere, such as in the index's folder, is no part of the log whatever its name.
            let named = object.path.name().parse::<WalName>().ok().filter(|name| layout::wal_object(system_id, name) == object.path);
            let (timeline, found) = match (named, layout::parse_piece(&object.path)) {
                (Some(WalName::Segment(segment)), _) => {
                    each(segment, object.bytes);
                    (segment.timeline(), Found::Segment(segment.number(segment_bytes)))
                }
                (Some(WalName::History(timeline)), _) => (timeline, Found::History),
                (None, Some(piece)) => (piece.segment.timeline(), Found::Piece(piece)),
                _ => continue,
            };
            let at = match timelines.binary_search_by_key(&timeline, |t| t.timeline) {
                Ok(at) => at,
                Err(at) => {
                    timelines.insert(at, TimelineView::empty(timeline));
                    at
                }
            };
            let view = &mut timelines[at];
            match found {
                Found::Segment(number) => match view.runs.last_mut() {
                    Some(run) if run.last + 1 == number => run.last = number,
                    _ => view.runs.push(SegmentRun { first: number, last: number }),
                },
                Found::Piece(piece) => view.pieces.push(piece),
                Found::History => view.has_history = true,
            }
        }
        for view in &mut timelines {
            for piece in std::mem::take(&mut view.pieces) {
                // What a log holds matters only where the segment is not whole.
                let is_needless = piece.form == Form::Log && view.holds(piece.segment.number(segment_bytes));
                view.pieces.extend(if is_needless { None } else { self.measured(system_id, piece).await? });
            }
            // Stores differ in how they order a folder and an object beside it.
            view.pieces.sort_unstable();
        }
        Ok(WalView { system_id, segment_bytes, timelines })
    }
}
