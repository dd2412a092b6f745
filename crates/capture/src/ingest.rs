//! What the index is told of segments: of one that comes in, and of those that were stored without having been indexed.

use crate::CaptureError;
use futures::StreamExt;
use pg::wal::{Damage, EndReason, SegmentSurvey, Surveyor, WalSource};
use repo::{IndexEntry, IndexedDamage, IndexedPoint, Reader, RepoError, Stored, Writer};
use seal::{Digest, Digester, Protection};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use terms::{Class, Explain, Lsn, SegmentName, SystemId, Timestamp};

/// A batch is stored when it has so many entries, or when its first is so old.
const BATCH_ENTRIES: usize = 64;
const BATCH_AGE: Duration = Duration::from_secs(600);
/// Bytes of segments fetched ahead of the one that is surveyed.
const AHEAD_BYTES: u64 = 64 << 20;

/// Surveys a whole segment by itself. The record that reaches out of it is left open, and the rest of one that reaches
/// into it is passed over: only a survey of consecutive segments checks their CRC.
///
/// `fork` is where the timeline was left, if it was: what does not make sense beyond is no damage.
pub fn survey_segment(source: WalSource, name: SegmentName, bytes: &[u8], fork: Option<Lsn>) -> SegmentSurvey {
    let size = source.segment_size;
    let mut surveyor = Surveyor::new(WalSource { timeline: name.timeline(), ..source }, name.start(size)).left_at(fork);
    let mut found = None;
    surveyor.feed(bytes, |survey| found = Some(survey));
    let short = surveyor.current().clone();
    surveyor.finish(|survey| found = Some(survey));
    // Too few bytes never finish the segment.
    found.filter(|survey| survey.segment == name).unwrap_or_else(|| {
        let damage = Some(Damage { at: short.end, reason: EndReason::NeedMoreData });
        SegmentSurvey { damage, ..short }
    })
}

/// What the index keeps of a survey. `digest` is of the segment's plain bytes by the repository's digester, `bytes_stored` the
/// size of the stored object as a listing shows it (for a segment that was there already that is its own, not what this
/// process would have stored).
pub fn entry_of(survey: SegmentSurvey, digest: Digest, bytes_stored: u64) -> IndexEntry {
    IndexEntry {
        segment: survey.segment,
        bytes_stored,
        digest,
        first_record: survey.first_record,
        end: survey.end,
        min_end: survey.commits.map(|(low, _)| low),
        max_end: survey.commits.map(|(_, high)| high),
        restore_points: survey.restore_points.into_iter().map(|(name, end, time)| IndexedPoint { name, end, time }).collect(),
        open: survey.open,
        damaged: survey.damage.map(|damage| IndexedDamage { at: damage.at, reason: reason(damage.reason).into() }),
    }
}

/// The words of docs/format.md.
pub(crate) fn reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::ZeroTail => "zeros",
        EndReason::BadHeader => "bad record header",
        EndReason::BadCrc => "bad record checksum",
        EndReason::BadPrev => "bad link to the record before",
        EndReason::PageMismatch => "bad page header",
        EndReason::NeedMoreData => "too few bytes",
    }
}

/// Collects entries until it is worth an object.
#[derive(Debug)]
pub struct IndexBatch {
    system_id: SystemId,
    protection: Protection,
    entries: Vec<IndexEntry>,
    since: Option<Instant>,
}

impl IndexBatch {
    /// An empty batch; `protection` is that of the cluster's WAL.
    pub fn new(system_id: SystemId, protection: Protection) -> Self {
        Self { system_id, protection, entries: Vec::new(), since: None }
    }
    /// Adds an entry whose segment is stored.
    pub fn push(&mut self, entry: IndexEntry) {
        self.since.get_or_insert_with(Instant::now);
        self.entries.push(entry);
    }
    /// How many entries wait to be stored.
    pub fn waiting(&self) -> usize {
        self.entries.len()
    }
    /// Whether to call [`IndexBatch::write`]: 64 entries wait, or one for ten minutes.
    pub fn due(&self) -> bool {
        self.entries.len() >= BATCH_ENTRIES || self.since.is_some_and(|since| since.elapsed() >= BATCH_AGE)
    }
    /// Stores what waits. After an error all of it still waits: nothing depends on it, an audit would read the segments instead.
    pub async fn write(&mut self, writer: &Writer, now: Timestamp) -> Result<u64, RepoError> {
        let bytes_stored = writer.put_index(self.system_id, &self.entries, &self.protection, now).await?;
        self.entries.clear();
        self.since = None;
        Ok(bytes_stored)
    }
}

/// What was found in one stored segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// As far as it was found out; whether the index may keep it, `is_lasting` says.
    pub entry: IndexEntry,
    /// Whether all of it was read as it was stored, so that the index may keep the entry.
    pub is_lasting: bool,
}

/// Reads and surveys consecutive stored segments as one log, so that records across their borders are checked as well. Where the
/// last of them leaves a record open, the log is followed further to what comes `next`, as far as `stored` (with the size of each)
/// goes: where a timeline was left in the middle of a segment, that is a segment of another one.
///
/// A segment that does not open, or has another size, is damaged, which is no error. One that is gone is left out.
pub async fn survey_stored(
    reader: &Reader,
    source: WalSource,
    wanted: &[SegmentName],
    stored: &BTreeMap<SegmentName, u64>,
    fork: Option<Lsn>,
    next: impl Fn(SegmentName) -> SegmentName,
) -> Result<Vec<Survey>, CaptureError> {
    let size = source.segment_size;
    let (Some(first), Some(last)) = (wanted.first().copied(), wanted.last().copied()) else { return Ok(Vec::new()) };
    let source = WalSource { timeline: first.timeline(), ..source };
    let digester = reader.digester().await?;
    let begin = |at: Lsn| Surveyor::new(source, at).left_at(fork);
    let mut reading = Reading { surveyor: begin(first.start(size)), last, digests: BTreeMap::new(), stored, surveys: Vec::new() };
    let ahead = usize::try_from(AHEAD_BYTES / size.bytes()).unwrap_or(1).max(1);
    let mut segments = futures::stream::iter(wanted).map(|name| fetch(reader, source, *name, &digester)).buffered(ahead);
    while let Some(fetched) = segments.next().await {
        match fetched? {
            Fetched::Whole { plain, digest, name } => reading = reading.walk(name, plain, digest).await?,
            Fetched::Damaged { name, why, digest } => {
                reading.cut(begin(name.end(size)));
                reading.unopened(name, name.start(size), why, digest);
            }
            Fetched::Gone { name } => reading.cut(begin(name.end(size))),
        }
    }
    let mut follows = next(last);
    while reading.waits() && stored.contains_key(&follows) {
        match fetch(reader, source, follows, &digester).await? {
            Fetched::Whole { plain, digest, name } => reading = reading.walk(name, plain, digest).await?,
            Fetched::Damaged { .. } | Fetched::Gone { .. } => break,
        }
        follows = next(follows);
    }
    reading.cut(begin(follows.start(size)));
    Ok(reading.surveys)
}

enum Fetched {
    Whole { name: SegmentName, plain: Vec<u8>, digest: Digest },
    Damaged { name: SegmentName, why: String, digest: Digest },
    Gone { name: SegmentName },
}

async fn fetch(reader: &Reader, source: WalSource, name: SegmentName, digester: &Digester) -> Result<Fetched, CaptureError> {
    let mut digester = digester.clone();
    match reader.fetch_segment(source.system_id, name, source.segment_size).await {
        Ok(Stored::Whole(plain)) => {
            let work = move || (digester.digest(&plain), plain);
            let (digest, plain) = tokio::task::spawn_blocking(work).await.map_err(|e| CaptureError::Bug(e.to_string()))?;
            if plain.len() as u64 == source.segment_size.bytes() {
                return Ok(Fetched::Whole { name, plain, digest });
            }
            Ok(Fetched::Damaged { name, why: format!("it has {} bytes", plain.len()), digest })
        }
        Ok(Stored::Prefix(_) | Stored::Nothing) => Ok(Fetched::Gone { name }),
        Err(e @ RepoError::Object { .. }) if matches!(e.class(), Class::Damaged | Class::Refused) => {
            Ok(Fetched::Damaged { name, why: e.detail().trim_end_matches('.').to_owned(), digest: digester.digest(b"") })
        }
        Err(e) => Err(e.into()),
    }
}

struct Reading<'a> {
    surveyor: Surveyor,
    /// The last one that is wanted.
    last: SegmentName,
    digests: BTreeMap<SegmentName, Digest>,
    stored: &'a BTreeMap<SegmentName, u64>,
    surveys: Vec<Survey>,
}

impl Reading<'_> {
    async fn walk(mut self, name: SegmentName, plain: Vec<u8>, digest: Digest) -> Result<Self, CaptureError> {
        self.digests.insert(name, digest);
        let Self { mut surveyor, last, digests, stored, surveys } = self;
        let work = move || {
            let mut ready = Vec::new();
            surveyor.feed(&plain, |survey| ready.push(survey));
            (surveyor, ready)
        };
        let (surveyor, ready) = tokio::task::spawn_blocking(work).await.map_err(|e| CaptureError::Bug(e.to_string()))?;
        let mut reading = Self { surveyor, last, digests, stored, surveys };
        ready.into_iter().for_each(|survey| reading.take(survey));
        Ok(reading)
    }

    /// The log cannot be followed: what waited for more is taken as it is.
    fn cut(&mut self, next: Surveyor) {
        let mut ready = Vec::new();
        std::mem::replace(&mut self.surveyor, next).finish(|survey| ready.push(survey));
        ready.into_iter().for_each(|survey| self.take(survey));
    }

    fn take(&mut self, survey: SegmentSurvey) {
        let segment = survey.segment;
        if let Some(digest) = self.digests.remove(&segment).filter(|_| segment <= self.last) {
            let bytes_stored = self.stored.get(&segment).copied().unwrap_or_default();
            // What is there in pieces only will be one object one day, of a size that is not known yet. A record that is left open is
            // kept as such: so whoever looks next knows where nobody has looked yet.
            let is_lasting = bytes_stored > 0;
            self.surveys.push(Survey { entry: entry_of(survey, digest, bytes_stored), is_lasting });
        }
    }

    fn unopened(&mut self, segment: SegmentName, at: Lsn, why: String, digest: Digest) {
        let bytes_stored = self.stored.get(&segment).copied().unwrap_or_default();
        let damaged = Some(IndexedDamage { at, reason: why });
        let entry = IndexEntry {
            segment,
            bytes_stored,
            digest,
            first_record: None,
            end: at,
            min_end: None,
            max_end: None,
            restore_points: Vec::new(),
            open: None,
            damaged,
        };
        // The object may be put right from a copy of the bucket.
        self.surveys.push(Survey { entry, is_lasting: false });
    }

    fn waits(&self) -> bool {
        self.digests.keys().next().is_some_and(|waiting| *waiting <= self.last)
    }
}
