//! The segment that is filling: bytes arrive in order, leave as pieces while it fills and as a whole when it is full.

use crate::CaptureError;
use crate::buffers::{Buffer, Buffers};
use bytes::Bytes;
use repo::{Form, Piece};
use terms::{Lsn, SegmentName, SegmentSize, Timeline};

/// Every so many pieces that are objects of their own one follows that begins where the first of them did and makes them unneeded; of
/// so many of those the last one takes in them all, and so on. On a quiet server a segment fills for days: a restore must not fetch its
/// every second. And on a busy one that lets commits wait, each byte is stored but a few times.
const PIECES_MERGED: u32 = 16;

/// Bytes of the log on one timeline, from a segment's beginning on.
pub(crate) struct Filling {
    timeline: Timeline,
    size: SegmentSize,
    session: u32,
    form: Form,
    begins_at: Lsn,
    /// Where the segment begins.
    start: Lsn,
    bytes: Buffer,
    buffers: Buffers,
    /// Pieces cut from this segment so far, and where the last one ends.
    pieces: u32,
    cut: Lsn,
    /// Where the pieces begin that the next merged one takes in: the next small one, the next one of those, and so on.
    merged: Vec<Lsn>,
}

/// A segment that is full.
pub(crate) struct Full {
    pub(crate) name: SegmentName,
    pub(crate) start: Lsn,
    pub(crate) bytes: Bytes,
    /// What of it is not stored yet, as a last piece: sooner there than the whole.
    pub(crate) rest: Option<(Piece, Bytes)>,
}

impl Filling {
    /// Begins at `from`, which must be where a segment begins. `session` goes into the names of pieces.
    pub(crate) fn new(timeline: Timeline, from: Lsn, size: SegmentSize, session: u32, form: Form) -> Self {
        // One is filling, one on its way: a third would only lie there while the server is idle.
        let buffers = Buffers::keeping(1);
        let (bytes, begins_at, merged) = (buffers.take(), Lsn::from_bytes(0), Vec::new());
        Self { timeline, size, session, form, begins_at, start: from, bytes, buffers, pieces: 0, cut: from, merged }
    }
    /// The timeline begins here, perhaps within the segment; before that its bytes are its ancestor's. No piece ends earlier: a restore
    /// would read this segment from the new timeline, and find less than it did before.
    pub(crate) fn beginning_at(self, begins_at: Option<Lsn>) -> Self {
        Self { begins_at: begins_at.unwrap_or(Lsn::from_bytes(0)), ..self }
    }
    pub(crate) fn timeline(&self) -> Timeline {
        self.timeline
    }
    pub(crate) fn size(&self) -> SegmentSize {
        self.size
    }
    /// Where the segment that fills begins.
    pub(crate) fn start(&self) -> Lsn {
        self.start
    }
    /// How far bytes have come.
    pub(crate) fn received(&self) -> Lsn {
        self.start.plus(self.bytes.len() as u64)
    }

    /// Takes what arrived at `at`; everything before `stored` is stored. Every segment that is full goes to `full`.
    pub(crate) fn take(
        &mut self,
        at: Lsn,
        mut bytes: &[u8],
        stored: Lsn,
        mut full: impl FnMut(Full) -> Result<(), CaptureError>,
    ) -> Result<(), CaptureError> {
        if at != self.received() {
            return Err(CaptureError::Bug(format!("the server sent WAL from {at} where {} was expected", self.received())));
        }
        let whole = self.size.bytes() as usize;
        while !bytes.is_empty() {
            if self.bytes.capacity() == 0 {
                self.bytes.reserve_exact(whole);
            }
            let (now, later) = bytes.split_at(bytes.len().min(whole - self.bytes.len()));
            self.bytes.extend_from_slice(now);
            bytes = later;
            if self.bytes.len() == whole {
                let name = SegmentName::containing(self.start, self.timeline, self.size);
                let whole = Bytes::from_owner(std::mem::replace(&mut self.bytes, self.buffers.take()));
                let end = name.end(self.size);
                let from = self.next_start(stored);
                let rest = (from > self.start && from < end).then(|| {
                    let piece = Piece { segment: name, start: from, end, session: self.session, form: self.form };
                    (piece, whole.slice((from.bytes() - self.start.bytes()) as usize..))
                });
                let start = std::mem::replace(&mut self.start, end);
                let done = full(Full { name, start, bytes: whole, rest });
                (self.pieces, self.cut) = (0, end);
                self.merged.clear();
                done?;
            }
        }
        Ok(())
    }

    /// A piece of everything that is not stored and was not cut yet; none while an earlier segment is still on its way.
    ///
    /// A piece that is an object begins where everything before is stored, not where the last one ended: if that one never arrives, no
    /// gap is left before this one. What is added to a log follows what was added before.
    pub(crate) fn cut(&mut self, stored: Lsn) -> Option<(Piece, Bytes)> {
        let received = self.received();
        if !self.has_more(stored) {
            return None;
        }
        let start = match self.form {
            Form::Object => self.merge(received).unwrap_or(stored).min(stored),
            Form::Log | Form::DamagedLog => self.next_start(stored),
        };
        self.cut = received;
        let segment = SegmentName::containing(self.start, self.timeline, self.size);
        let bytes = Bytes::copy_from_slice(&self.bytes[(start.bytes() - self.start.bytes()) as usize..]);
        Some((Piece { segment, start, end: received, session: self.session, form: self.form }, bytes))
    }

    /// Where the next bytes begin that are not on their way.
    fn next_start(&self, stored: Lsn) -> Lsn {
        match self.form {
            Form::Object => stored,
            Form::Log | Form::DamagedLog => self.cut.max(stored),
        }
    }

    /// Counts one more piece, which ends at `end`; where it begins when it takes in those before it.
    fn merge(&mut self, end: Lsn) -> Option<Lsn> {
        self.pieces += 1;
        let mut rest = self.pieces;
        let mut level = 0;
        while rest.is_multiple_of(PIECES_MERGED) {
            rest /= PIECES_MERGED;
            level += 1;
        }
        if self.merged.len() < level {
            self.merged.resize(level, self.start);
        }
        let begin = level.checked_sub(1).map(|highest| self.merged[highest]);
        self.merged[..level].fill(end);
        begin
    }

    /// Whether [`Filling::cut`] would give a piece.
    pub(crate) fn has_more(&self, stored: Lsn) -> bool {
        stored >= self.start && self.received() > self.cut.max(stored) && self.received() >= self.begins_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    fn keep(full: &mut Vec<Full>, segment: Full) -> Result<(), CaptureError> {
        full.push(segment);
        Ok(())
    }

    #[test]
    fn a_piece_begins_where_everything_before_it_is_stored() {
        let mut filling = Filling::new(Timeline::FIRST, lsn("0/1000000"), SIZE, 7, Form::Object);
        let nothing = |_: Full| -> Result<(), CaptureError> { panic!("it is not full") };
        assert!(filling.cut(lsn("0/1000000")).is_none(), "nothing has come");
        filling.take(lsn("0/1000000"), &[1; 100], lsn("0/1000000"), nothing).unwrap();
        assert!(filling.cut(lsn("0/0F00000")).is_none(), "an earlier segment is on its way");
        let (first, bytes) = filling.cut(lsn("0/1000000")).unwrap();
        assert_eq!((first.start, first.end, bytes.len()), (lsn("0/1000000"), lsn("0/1000064"), 100));
        assert!(filling.cut(lsn("0/1000000")).is_none(), "all that has come is on its way");
        filling.take(lsn("0/1000064"), &[2; 10], lsn("0/1000000"), nothing).unwrap();
        let (second, bytes) = filling.cut(lsn("0/1000000")).unwrap();
        assert_eq!((second.start, bytes.len()), (lsn("0/1000000"), 110), "the first is not stored yet");
        filling.take(lsn("0/100006E"), &[3; 10], lsn("0/100006E"), nothing).unwrap();
        assert_eq!(filling.cut(lsn("0/100006E")).unwrap().1, Bytes::from_static(&[3; 10]));
        assert!(filling.take(lsn("0/1000000"), &[0; 1], lsn("0/100006E"), nothing).is_err(), "bytes come in order");
    }

    #[test]
    fn a_full_segment_leaves_whole_and_its_rest_as_a_piece() {
        let mut filling = Filling::new(Timeline::FIRST, lsn("0/1000000"), SIZE, 7, Form::Object);
        let mut full = Vec::new();
        filling.take(lsn("0/1000000"), &vec![5; (16 << 20) + 3], lsn("0/1000000"), |f| keep(&mut full, f)).unwrap();
        assert_eq!((full.len(), full[0].bytes.len()), (1, 16 << 20));
        assert!(full[0].rest.is_none(), "nothing of it was stored: the whole is the shortest way");
        assert_eq!(filling.received(), lsn("0/2000003"));
        filling.take(lsn("0/2000003"), &vec![6; (16 << 20) - 3], lsn("0/2000003"), |f| keep(&mut full, f)).unwrap();
        let (piece, bytes) = full[1].rest.clone().unwrap();
        assert_eq!((piece.start, piece.end, bytes.len()), (lsn("0/2000003"), lsn("0/3000000"), (16 << 20) - 3));
    }

    #[test]
    fn what_goes_to_a_log_follows_what_went_there() {
        let mut filling = Filling::new(Timeline::FIRST, lsn("0/1000000"), SIZE, 7, Form::Log);
        let mut full = Vec::new();
        filling.take(lsn("0/1000000"), &[1; 100], lsn("0/1000000"), |f| keep(&mut full, f)).unwrap();
        assert_eq!(filling.cut(lsn("0/1000000")).unwrap().0.end, lsn("0/1000064"));
        filling.take(lsn("0/1000064"), &[2; 10], lsn("0/1000000"), |f| keep(&mut full, f)).unwrap();
        let (second, bytes) = filling.cut(lsn("0/1000000")).unwrap();
        assert_eq!((second.start, bytes.len()), (lsn("0/1000064"), 10), "the first is on its way and arrives before it");
        filling.take(lsn("0/100006E"), &vec![3; (16 << 20) - 110], lsn("0/1000064"), |f| keep(&mut full, f)).unwrap();
        let (rest, bytes) = full[0].rest.clone().unwrap();
        assert_eq!((rest.start, rest.end, bytes.len()), (lsn("0/100006E"), lsn("0/2000000"), (16 << 20) - 110));
    }

    #[test]
    fn a_segment_is_made_up_of_few_pieces_and_each_byte_is_stored_few_times() {
        let mut filling = Filling::new(Timeline::FIRST, lsn("0/1000000"), SIZE, 7, Form::Object);
        let (mut pieces, mut bytes_sent, count) = (Vec::new(), 0, 20_000u64);
        for n in 0..count {
            let at = lsn("0/1000000").plus(n);
            filling.take(at, &[0], at, |_| Ok(())).unwrap();
            let (piece, bytes) = filling.cut(at).unwrap();
            bytes_sent += bytes.len() as u64;
            pieces.push(piece);
        }
        let chain = repo::chain(&pieces, lsn("0/1000000"));
        assert_eq!(chain.last().map(|p| p.end), Some(lsn("0/1000000").plus(count)));
        assert!(chain.len() <= 4 * 15, "{} pieces", chain.len());
        assert!(bytes_sent <= 5 * count, "{bytes_sent} bytes for {count}");
    }
}
