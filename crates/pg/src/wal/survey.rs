//! Surveys segments as their bytes pass: what each holds, when its transactions ended, and whether anything in it is damaged.

use super::record::{Record, RecordKind};
use super::walker::{EndReason, RecordWalker, WalSource};
use std::collections::VecDeque;
use terms::{Lsn, SegmentName, Timestamp};

/// What does not make sense, and from where on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// The end of the last valid record: PostgreSQL cannot read beyond. In an earlier segment when a record that began there
    /// reaches into this one and is not valid.
    pub at: Lsn,
    /// What stands there.
    pub reason: EndReason,
}

/// What one segment holds. A record belongs to the segment in which it begins, wherever it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSurvey {
    /// Which segment.
    pub segment: SegmentName,
    /// Where the first record begins that begins in it; none does in the middle of a long record.
    pub first_record: Option<Lsn>,
    /// How far the log in it is valid: the segment's own end unless it ends, or is damaged, inside.
    pub end: Lsn,
    /// The earliest and the latest end of a transaction (commit or abort, prepared or not) among its records; the stamps
    /// are not in the order of the log.
    pub commits: Option<(Timestamp, Timestamp)>,
    /// Restore points: name, position after the record, time.
    pub restore_points: Vec<(String, Lsn, Timestamp)>,
    /// A record that begins here and reaches beyond the bytes that were given: its CRC is not checked, and it may be one of those
    /// above.
    pub open: Option<Lsn>,
    /// Why its bytes cannot all be replayed.
    pub damage: Option<Damage>,
}

impl SegmentSurvey {
    fn begin(segment: SegmentName, start: Lsn) -> Self {
        Self { segment, first_record: None, end: start, commits: None, restore_points: Vec::new(), open: None, damage: None }
    }

    fn note(&mut self, record: Record) {
        self.first_record.get_or_insert(record.start);
        match record.kind {
            RecordKind::Commit { at } | RecordKind::Abort { at } | RecordKind::CommitPrepared { at, .. } | RecordKind::AbortPrepared { at, .. } => {
                self.commits = Some(self.commits.map_or((at, at), |(low, high)| (low.min(at), high.max(at))));
            }
            RecordKind::RestorePoint { name, at } => self.restore_points.push((name, record.end, at)),
            _ => {}
        }
    }
}

/// Is fed the bytes of consecutive segments of one timeline, in pieces of any size, and yields a survey of each segment once its
/// last record is complete. Copies nothing and computes each CRC once: it costs what the walk costs.
///
/// After damage it goes on with the next segment. What is valid although it looks odd is no damage: the unused rest after a
/// switch, records that go on across segments, records that were never finished and are overwritten by the server's own account,
/// and pages of an ancestor where a timeline begins.
#[derive(Debug)]
pub struct Surveyor {
    source: WalSource,
    left_at: Option<Lsn>,
    /// `None` from damage on until the next segment begins.
    walker: Option<RecordWalker>,
    position: Lsn,
    /// The segment under way last; before it those that wait for a record to be complete that reaches out of them.
    surveys: VecDeque<SegmentSurvey>,
    latest: Option<Timestamp>,
}

impl Surveyor {
    /// Begins with the first byte of the segment that holds `lsn`.
    pub fn new(source: WalSource, lsn: Lsn) -> Self {
        let position = lsn.segment_start(source.segment_size);
        let mut surveyor = Self { source, left_at: None, walker: None, position, surveys: VecDeque::new(), latest: None };
        surveyor.begin_segment();
        surveyor
    }

    /// The timeline was left at `fork`: zeros or garbage from there on are no damage. Valid records beyond still count, since
    /// they are the timeline's own: its server may have gone on for a while.
    pub fn left_at(self, fork: Option<Lsn>) -> Self {
        Self { left_at: fork, ..self }
    }

    /// The position of the next byte to feed.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The segment under way, as far as it was fed.
    pub fn current(&self) -> &SegmentSurvey {
        self.surveys.back().expect("one is always under way")
    }

    /// The latest end of a transaction seen so far, in whichever segment.
    pub fn latest(&self) -> Option<Timestamp> {
        self.latest
    }

    /// Takes the next bytes and gives every segment to `each`, in order, that is finished with them.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(SegmentSurvey)) {
        while !bytes.is_empty() {
            let segment_end = self.current().segment.end(self.source.segment_size);
            let room = usize::try_from(segment_end.bytes_since(self.position)).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            bytes = later;
            self.walk(now);
            self.position = self.position.plus(now.len() as u64);
            if self.position == segment_end {
                self.begin_segment();
            }
            self.release(&mut each);
        }
    }

    /// No more bytes come: gives the segments that still waited for the end of a record. The one under way is not among them.
    pub fn finish(mut self, mut each: impl FnMut(SegmentSurvey)) {
        let open = self.walker.as_ref().and_then(RecordWalker::open_record);
        self.surveys.pop_back();
        for mut survey in self.surveys {
            survey.open = open.filter(|at| *at >= survey.segment.start(self.source.segment_size));
            // Its kind may be unknown, but that it begins here is not.
            survey.first_record = survey.first_record.or(survey.open);
            each(survey);
        }
    }

    /// Bytes of the segment under way.
    fn walk(&mut self, bytes: &[u8]) {
        let Some(walker) = &mut self.walker else { return };
        let (surveys, latest, size) = (&mut self.surveys, &mut self.latest, self.source.segment_size);
        let under_way_from = self.position.segment_start(size);
        let ended = walker.feed(bytes, |record| {
            let begun_in = match record.start >= under_way_from {
                true => surveys.back_mut(),
                false => surveys.iter_mut().rev().find(|survey| survey.segment.start(size) <= record.start),
            };
            if let Some(survey) = begun_in {
                survey.note(record);
                *latest = (*latest).max(survey.commits.map(|(_, high)| high));
            }
        });
        let end = walker.end();
        let under_way = surveys.back_mut().expect("one is always under way");
        under_way.end = end.at.clamp(under_way_from, under_way_from.plus(size.bytes()));
        let Some(ended) = ended else { return };
        self.walker = None;
        if self.left_at.is_some_and(|fork| ended.at >= fork) {
            self.cut_at(ended.at, None);
        } else {
            self.cut_at(ended.at, Some(Damage { at: ended.at, reason: ended.reason }));
        }
    }

    /// The log ends at `at`, in the segment under way or in one that waits.
    fn cut_at(&mut self, at: Lsn, damage: Option<Damage>) {
        let size = self.source.segment_size;
        for survey in self.surveys.iter_mut().filter(|survey| survey.segment.end(size) > at) {
            survey.end = at.clamp(survey.segment.start(size), survey.segment.end(size));
            survey.damage = damage;
        }
    }

    /// The position is where a segment begins.
    fn begin_segment(&mut self) {
        let segment = SegmentName::containing(self.position, self.source.timeline, self.source.segment_size);
        if let Some(walker) = &self.walker
            && let Some(finished) = self.surveys.back_mut()
            && walker.end().reason == EndReason::NeedMoreData
        {
            finished.end = self.position;
        }
        if self.walker.is_none() {
            self.walker = Some(RecordWalker::in_segment(self.source, self.position));
        }
        self.surveys.push_back(SegmentSurvey::begin(segment, self.position));
    }

    /// Gives away the segments that no record under way reaches out of.
    fn release(&mut self, each: &mut impl FnMut(SegmentSurvey)) {
        let kept_from = match self.walker.as_ref().and_then(RecordWalker::open_record) {
            Some(at) => SegmentName::containing(at, self.source.timeline, self.source.segment_size),
            None => self.current().segment,
        };
        while self.surveys.len() > 1 && self.surveys[0].segment < kept_from {
            each(self.surveys.pop_front().expect("there are two"));
        }
    }
}
