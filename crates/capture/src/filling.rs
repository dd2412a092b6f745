//! The segment that is filling: bytes arrive in order, leave as pieces while it fills and as a whole when it is full.

use crate::CaptureError;
use bytes::Bytes;
use repo::Piece;
use terms::{Lsn, SegmentName, SegmentSize, Timeline};

/// So many pieces of one segment are the last ones only; then one follows that begins where the segment does, and makes
/// them unneeded. On a quiet server a segment fills for days: a restore must not fetch its every second.
const PIECES_UNTIL_MERGED: u32 = 64;

/// Bytes of the log on one timeline, from a segment's beginning on.
pub(crate) struct Filling {
    timeline: Timeline,
    size: SegmentSize,
    session: u32,
    begins_at: Lsn,
    /// Where the segment begins.
    start: Lsn,
    bytes: Vec<u8>,
    /// Pieces cut from this segment so far, and where the last one ends.
    pieces: u32,
    cut: Lsn,
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
    pub(crate) fn new(timeline: Timeline, from: Lsn, size: SegmentSize, session: u32) -> Self {
        Self { timeline, size, session, begins_at: Lsn::from_bytes(0), start: from, bytes: Vec::new(), pieces: 0, cut: from }
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
    pub(crate) fn take(&mut self, at: Lsn, mut bytes: &[u8], stored: Lsn, mut full: impl FnMut(Full)) -> Result<(), CaptureError> {
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
                let whole = Bytes::from(std::mem::take(&mut self.bytes));
                let end = name.end(self.size);
                let rest = (stored > self.start && stored < end).then(|| {
                    let piece = Piece { segment: name, start: stored, end, session: self.session };
                    (piece, whole.slice((stored.bytes() - self.start.bytes()) as usize..))
                });
                full(Full { name, start: self.start, bytes: whole, rest });
                (self.start, self.pieces, self.cut) = (end, 0, end);
            }
        }
        Ok(())
    }

    /// A piece of everything that is not stored and was not cut yet; none while an earlier segment is still on its way.
    ///
    /// A piece begins where everything before is stored, not where the last one ended: if that one never arrives, no gap
    /// is left before this one.
    pub(crate) fn cut(&mut self, stored: Lsn) -> Option<(Piece, Bytes)> {
        let received = self.received();
        if !self.has_more(stored) {
            return None;
        }
        let start = if self.pieces.is_multiple_of(PIECES_UNTIL_MERGED) { self.start } else { stored };
        self.pieces += 1;
        self.cut = received;
        let segment = SegmentName::containing(self.start, self.timeline, self.size);
        let bytes = Bytes::copy_from_slice(&self.bytes[(start.bytes() - self.start.bytes()) as usize..]);
        Some((Piece { segment, start, end: received, session: self.session }, bytes))
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

    #[test]
    fn a_piece_begins_where_everything_before_it_is_stored() {
        let mut filling = Filling::new(Timeline::FIRST, lsn("0/1000000"), SIZE, 7);
        let nothing = |_: Full| panic!("it is not full");
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
        let mut filling = Filling::new(Timeline::FIRST, lsn("0/1000000"), SIZE, 7);
        let mut full = Vec::new();
        filling.take(lsn("0/1000000"), &vec![5; (16 << 20) + 3], lsn("0/1000000"), |f| full.push(f)).unwrap();
        assert_eq!((full.len(), full[0].bytes.len()), (1, 16 << 20));
        assert!(full[0].rest.is_none(), "nothing of it was stored: the whole is the shortest way");
        assert_eq!(filling.received(), lsn("0/2000003"));
        filling.take(lsn("0/2000003"), &vec![6; (16 << 20) - 3], lsn("0/2000003"), |f| full.push(f)).unwrap();
        let (piece, bytes) = full[1].rest.clone().unwrap();
        assert_eq!((piece.start, piece.end, bytes.len()), (lsn("0/2000003"), lsn("0/3000000"), (16 << 20) - 3));
    }

    #[test]
    fn every_sixty_fourth_piece_is_the_whole_beginning() {
        let mut filling = Filling::new(Timeline::FIRST, lsn("0/1000000"), SIZE, 7);
        let mut merged = 0;
        for n in 0..130u64 {
            let at = lsn("0/1000000").plus(n);
            filling.take(at, &[0], at, |_| {}).unwrap();
            let (piece, _) = filling.cut(at).unwrap();
            merged += u32::from(piece.start == lsn("0/1000000"));
        }
        assert_eq!(merged, 3);
    }
}
