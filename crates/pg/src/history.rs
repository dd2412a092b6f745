//! Timeline history files: where each timeline branched off its parent.

use crate::disk_error::DiskError;
use std::fmt;
use terms::{Lsn, Timeline};

/// One line of a history file: the log followed `timeline` up to `end`, then went over to the next. When it never was on
/// `timeline`, `end` is that of the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// The timeline that was left.
    pub timeline: Timeline,
    /// The first position that no longer belongs to it.
    pub end: Lsn,
    /// PostgreSQL's words on why.
    pub reason: String,
}

/// The ancestry of one timeline: which timeline each position of its log belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: Timeline,
    branches: Vec<Branch>,
}

impl TimelineHistory {
    /// A timeline without ancestors, as timeline 1 always is; it has no history file.
    pub fn root(timeline: Timeline) -> Self {
        Self { timeline, branches: Vec::new() }
    }

    /// Parses `{timeline}.history` as `readTimeLineHistory` does (src/backend/access/transam/timeline.c): empty lines
    /// and those that begin with `#` are passed over; timelines must rise and stay below `timeline`.
    ///
    /// Positions may fall: a server that recovered along timeline 4 to a target before 4 began writes 4 as its parent all the
    /// same, with the earlier position (`writeTimeLineHistory` gets `recoveryTargetTLI`). PostgreSQL asks the newest line first
    /// (`tliOfPointInHistory`); here the earlier lines' ends are brought down to where the log truly left them.
    pub fn parse(timeline: Timeline, text: &str) -> Result<Self, DiskError> {
        let damaged = |line: &str, why: &str| DiskError::History { what: format!("{}.history: {line:?} {why}", timeline.hex()) };
        let mut branches: Vec<Branch> = Vec::new();
        for line in text.lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let unclear = || damaged(line, "is not a timeline, a position and a reason");
            let (id, rest) = line.split_once(char::is_whitespace).ok_or_else(unclear)?;
            let rest = rest.trim_start();
            let (end, reason) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let parent: Timeline = id.parse().map_err(|_| unclear())?;
            let end: Lsn = end.parse().map_err(|_| unclear())?;
            if parent >= timeline || branches.last().is_some_and(|last| last.timeline >= parent) {
                return Err(damaged(line, "is out of order: timelines must rise towards the file's own"));
            }
            branches.iter_mut().for_each(|earlier| earlier.end = earlier.end.min(end));
            branches.push(Branch { timeline: parent, end, reason: reason.trim_start().to_owned() });
        }
        Ok(Self { timeline, branches })
    }

    /// The timeline whose ancestry this is.
    pub fn timeline(&self) -> Timeline {
        self.timeline
    }
    /// The lines of the file, oldest ancestor first.
    pub fn branches(&self) -> &[Branch] {
        &self.branches
    }
    /// The timeline it branched off, and where; `None` for a timeline without ancestors.
    pub fn parent(&self) -> Option<&Branch> {
        self.branches.last()
    }
    /// The timeline that the byte at `lsn` belongs to in this history (`tliOfPointInHistory`).
    pub fn timeline_at(&self, lsn: Lsn) -> Timeline {
        self.branches.iter().find(|b| lsn < b.end).map_or(self.timeline, |b| b.timeline)
    }
    /// Whether the log of `timeline` up to `lsn` is part of this history: a backup that ends there can be replayed
    /// along it. A position at which a timeline was left belongs to both sides.
    pub fn contains(&self, timeline: Timeline, lsn: Lsn) -> bool {
        match self.begin_of(timeline) {
            Some(begin) => begin <= lsn && self.end_of(timeline).is_none_or(|end| lsn <= end),
            None => false,
        }
    }
    /// Where `timeline` begins in this history; `None` when it is no part of it.
    pub fn begin_of(&self, timeline: Timeline) -> Option<Lsn> {
        let index = match self.branches.iter().position(|b| b.timeline == timeline) {
            Some(index) => index,
            None if timeline == self.timeline => self.branches.len(),
            None => return None,
        };
        Some(index.checked_sub(1).map_or(Lsn::from_bytes(0), |before| self.branches[before].end))
    }
    /// Where this history left `timeline`; `None` when it never did, or never was on it.
    pub fn end_of(&self, timeline: Timeline) -> Option<Lsn> {
        self.branches.iter().find(|b| b.timeline == timeline).map(|b| b.end)
    }
}

/// The file as PostgreSQL writes it (`writeTimeLineHistory`).
impl fmt::Display for TimelineHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for branch in &self.branches {
            writeln!(f, "{}\t{}\t{}", branch.timeline, branch.end, branch.reason)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn timeline(id: u32) -> Timeline {
        Timeline::new(id).unwrap()
    }
    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    const TEXT: &str = "1\t0/3000000\tno recovery target specified\n\n# said by hand\n3\t0/5000028\tbefore 2026-11-22 14:05:00+00\n";

    #[test]
    fn each_position_belongs_to_the_timeline_that_wrote_it() {
        let history = TimelineHistory::parse(timeline(5), TEXT).unwrap();
        for (at, id) in [("0/0", 1), ("0/2FFFFFF", 1), ("0/3000000", 3), ("0/5000027", 3), ("0/5000028", 5), ("9/0", 5)] {
            assert_eq!(history.timeline_at(lsn(at)).id(), id, "{at}");
        }
        assert_eq!(history.parent().unwrap().timeline, timeline(3));
        assert_eq!(history.to_string().lines().count(), 2);
        assert_eq!(TimelineHistory::parse(timeline(5), &history.to_string()).unwrap(), history);
    }

    #[test]
    fn a_backup_lies_in_a_history_only_before_the_place_where_it_left_the_backups_timeline() {
        let history = TimelineHistory::parse(timeline(5), TEXT).unwrap();
        assert!(history.contains(timeline(1), lsn("0/3000000")));
        assert!(!history.contains(timeline(1), lsn("0/3000001")));
        assert!(!history.contains(timeline(2), lsn("0/3000000")));
        assert!(history.contains(timeline(3), lsn("0/3000000")));
        assert!(!history.contains(timeline(3), lsn("0/2FFFFFF")));
        assert!(history.contains(timeline(5), lsn("F/0")));
        assert!(TimelineHistory::root(timeline(1)).contains(timeline(1), lsn("0/0")));
    }

    #[test]
    fn a_recovery_that_ended_before_its_target_timeline_began_never_was_on_it() {
        // Timeline 4 was followed to a target on timeline 2.
        let text = "1\t0/3000000\tx\n2\t0/5000000\tx\n4\t0/4000000\tbefore LSN 0/4000000\n";
        let history = TimelineHistory::parse(timeline(5), text).unwrap();
        for (at, id) in [("0/2FFFFFF", 1), ("0/3000000", 2), ("0/3FFFFFF", 2), ("0/4000000", 5), ("0/4800000", 5), ("0/6000000", 5)] {
            assert_eq!(history.timeline_at(lsn(at)).id(), id, "{at}");
        }
        assert_eq!(history.end_of(timeline(2)), Some(lsn("0/4000000")));
        assert!(!history.contains(timeline(2), lsn("0/4000001")));
        assert_eq!(history.parent().unwrap().end, lsn("0/4000000"));
    }

    #[test]
    fn what_postgresql_would_refuse_is_refused() {
        for wrong in ["x", "1", "1\tzero", "0\t0/1\tx", "5\t0/1\tx", "2\t0/1\tx\n2\t0/2\tx"] {
            assert!(TimelineHistory::parse(timeline(5), wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "\\PC{0,80}", id in 1u32..9) {
            let _ = TimelineHistory::parse(timeline(id), &text);
        }
    }
}
