//! An instant that was lived through on several timelines: only people know which one they mean.

use crate::RestoreError;
use crate::log::Log;
use crate::plan::{Planner, RestorePlan};
use repo::reach;
use terms::{Lsn, RecoveryTarget, SegmentName, Timeline, Timestamp};

/// The life that another timeline had of its own.
struct Life {
    timeline: Timeline,
    /// Where its log and the one that is followed part.
    parted: Lsn,
    until: Timestamp,
}

impl Planner<'_> {
    /// Asks back when another timeline may be meant than the newest: one that was abandoned, or one of a copy that lived beside it.
    pub(crate) async fn check_unambiguous(&self, plan: &RestorePlan) -> Result<(), RestoreError> {
        let (RecoveryTarget::Time(at), None) = (&self.wish.target, self.wish.timeline) else { return Ok(()) };
        let ours = self.history.timeline();
        let mut others = Vec::new();
        for view in self.known.view.timelines.iter().filter(|view| view.timeline != ours) {
            others.extend(self.other_life(view.timeline, *at).await?);
        }
        if others.is_empty() {
            return Ok(());
        }
        let until = plan.last_transaction.map_or_else(String::new, |last| format!(" until {last}"));
        let own = format!("Timeline {ours}, the newest, goes on{until}.");
        let each =
            others.iter().map(|life| format!("Timeline {} parted from it at {} and went on until {}.", life.timeline, life.parted, life.until));
        let why = std::iter::once(own).chain(each).collect::<Vec<_>>().join(" ");
        let timelines = others.iter().map(|life| life.timeline).chain([ours]).collect();
        Err(RestoreError::Ambiguous { target: at.to_string(), why, timelines })
    }

    /// What another timeline lived through of its own, if this instant may be of it.
    async fn other_life(&self, timeline: Timeline, at: Timestamp) -> Result<Option<Life>, RestoreError> {
        // Without its history nobody can be led there.
        let Ok(path) = self.known.path_to(timeline) else { return Ok(None) };
        let Some(parted) = path.parts_from(&self.history) else { return Ok(None) };
        let is_asked_for = |id| self.wish.backup.is_none_or(|asked| asked == id);
        if !reach::candidates(&self.known.backups, &path, &self.wish.target).iter().any(|b| is_asked_for(b.id)) {
            return Ok(None);
        }
        // What its ancestors lived through past the place is told of them.
        let own_from = path.branches().last().map_or(parted, |branch| branch.from.max(parted));
        let segments = self.known.view.segments_from(timeline, own_from.bytes() / self.log.size.bytes());
        let log = Log { timeline, ..self.log };
        let index = log.index(&segments).await?;
        let Some(life) = log.ends_between(&segments, &index, parted).await? else { return Ok(None) };
        // The log is read for the question only when the answer can matter.
        if life.0 > at || !is_in_doubt(at, life, self.begun(parted).await?) {
            return Ok(None);
        }
        Ok(Some(Life { timeline, parted, until: life.1 }))
    }

    /// When the timeline began that the followed log is of from here on; `None` when it does not begin here, or nobody can tell.
    async fn begun(&self, parted: Lsn) -> Result<Option<Timestamp>, RestoreError> {
        if !self.history.branches().iter().any(|branch| branch.from == parted) {
            return Ok(None);
        }
        let size = self.log.size;
        let first = parted.bytes() / size.bytes();
        // The record that says so may reach into the second.
        let segments = [first, first + 1].map(|number| self.history.segment(number, size));
        let stored: Vec<SegmentName> = segments.into_iter().take_while(|name| self.known.view.reach(*name) > name.start(size)).collect();
        if stored.is_empty() {
            return Ok(None);
        }
        self.log.begun_at(&stored, parted).await
    }
}

/// Whether an instant may be of another timeline, whose own transactions ended within `life`, the followed one having `begun` where
/// the two part. It is not before that life began, nor once the followed one had begun after that life had ended.
fn is_in_doubt(at: Timestamp, life: (Timestamp, Timestamp), begun: Option<Timestamp>) -> bool {
    let (first, last) = life;
    first <= at && begun.is_none_or(|begun| at < begun || last >= begun)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_in_doubt_from_the_others_first_transaction_until_only_the_followed_one_lived() {
        let at = Timestamp::from_unix_micros;
        let life = (at(100), at(200));
        for (instant, begun, expected) in [
            (99, Some(300), false),
            (100, Some(300), true),
            (299, Some(300), true),
            (300, Some(300), false),
            (99, Some(150), false),
            (160, Some(150), true),
            (500, Some(150), true),
            (500, Some(200), true),
            (99, None, false),
            (500, None, true),
        ] {
            assert_eq!(is_in_doubt(at(instant), life, begun.map(at)), expected, "{instant}, begun {begun:?}");
        }
    }
}
