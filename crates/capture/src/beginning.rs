//! Where a receiver goes on when it connects: by its own memory, the slot, the repository's coverage and the server's history.

use crate::CaptureError;
use crate::receive::Slot;
use crate::stream::Session;
use crate::tail::Tail;
use pg::wal::WalSource;
use pg::{ConnInfo, Identity, Replication, SlotCreated, SlotPosition, TimelineHistory};
use repo::reach::SEGMENTS_ON_THEIR_WAY;
use repo::{Coverage, RepoError, WalView};
use terms::{Event, Lsn, SegmentName, SegmentSize, Timeline, WalName};

impl Session<'_> {
    /// Makes the slot where it is missing. One that was invalidated holds nothing any more: it is made anew.
    pub(crate) async fn take_slot(&mut self, connection: &mut Replication) -> Result<Option<(Timeline, Lsn)>, CaptureError> {
        let name = self.options.slot.name();
        let is_temporary = matches!(self.options.slot, Slot::Temporary(_));
        // Asked first: to make one that is there is an error in the server's log.
        let mut held = connection.read_slot(name).await?;
        let mut made = SlotCreated::AlreadyThere;
        if held.is_none() {
            made = connection.create_slot(name, is_temporary).await?;
            held = connection.read_slot(name).await?;
        }
        // One that holds what was just found missing is lost, too, although the server did not get round to saying so.
        let is_refused = std::mem::take(&mut self.slot_is_refused);
        let is_lost = |slot: SlotPosition| is_refused || slot.restart.is_none_or(|at| self.gap.as_ref().is_some_and(|(_, from, _)| at <= *from));
        if made == SlotCreated::AlreadyThere && held.is_some_and(is_lost) {
            self.events.tell(Event::Noticed { what: format!("slot {name} was invalidated by the server; it is made anew") });
            connection.drop_slot(name).await?;
            made = connection.create_slot(name, is_temporary).await?;
            held = connection.read_slot(name).await?;
        }
        let held = held.and_then(|slot| Some((slot.timeline?, slot.restart?)));
        Ok(held.filter(|_| made == SlotCreated::AlreadyThere || self.is_past_a_gap))
    }

    /// Where to go on. `held` is what an older slot holds: everything since is owed, and so is what the repository lacks since
    /// its last coverage mark, when that lies further back: the slot of a new primary knows nothing of it. Before there is a mark the
    /// log goes on where a backup's own or `wal push` left it. A timeline that the server never was on counts for nothing once it is known
    /// that it was left: a person has said so, or a restore that went back before it.
    pub(crate) async fn begin_at(
        &self,
        held: Option<(Timeline, Lsn)>,
        identity: Identity,
        history: &TimelineHistory,
        size: SegmentSize,
    ) -> Result<(Timeline, Lsn), CaptureError> {
        let now = (identity.timeline, identity.flushed.segment_start(size));
        let mark = self.coverage().await?.map(|c| (c.timeline, c.lsn));
        let acting = mark.map(|(timeline, _)| timeline);
        let is_left = |timeline: Timeline| was_left(timeline, history, acting, self.options.accept_older_timeline);
        if let Some(position) = self.position {
            if !is_left(position.0) {
                return Ok(position);
            }
            let what = format!("timeline {} was left, and stays stored: the log goes on with timeline {}", position.0, identity.timeline);
            self.events.tell(Event::Noticed { what });
        }
        if matches!(self.options.slot, Slot::Temporary(_)) {
            return Ok(now);
        }
        if self.is_past_a_gap {
            return Ok(held.unwrap_or(now));
        }
        let view = || self.writer.reader().wal_view(self.epoch.system_id, size);
        let covered = match mark {
            None => stored_along(history, &view().await?),
            Some((timeline, _)) if is_left(timeline) => {
                let what = format!(
                    "timeline {timeline} is stored, and this server never was on it: it is taken for a trial, as --accept-older-timeline says. \
                     It stays stored. Restore with --timeline {}.",
                    identity.timeline
                );
                self.events.tell(Event::Noticed { what });
                stored_along(history, &view().await?)
            }
            covered => covered.filter(|(timeline, _)| *timeline <= identity.timeline),
        };
        Ok(match (held, covered) {
            (Some(held), Some(covered)) => held.min(covered),
            (held, covered) => held.or(covered).unwrap_or(now),
        })
    }

    pub(crate) async fn coverage(&self) -> Result<Option<Coverage>, CaptureError> {
        Ok(self.writer.reader().coverage(self.epoch.system_id).await?)
    }

    /// The WAL that should come next is gone from the server. What follows is received all the same: losing that, too, would
    /// make it worse. Only a full backup closes the gap.
    pub(crate) fn pass_gap(&mut self, timeline: Timeline, from: Lsn, why: String) {
        self.position = None;
        self.is_past_a_gap = true;
        self.gap = Some((timeline, from, why));
    }

    /// Connects to the first server that was not left behind: two may take writes at once, and which of them comes first in the list
    /// says nothing.
    pub(crate) async fn connect(&self) -> Result<(Replication, Identity), CaptureError> {
        let (mut left, mut refused): (Option<ConnInfo>, Option<CaptureError>) = (Some(self.info.clone()), None);
        while let Some(info) = left {
            let mut connection = match Replication::connect(&info).await {
                Ok(connection) => connection,
                // Why the first one will not do says more than that the others cannot be reached.
                Err(e) => return Err(refused.unwrap_or_else(|| e.into())),
            };
            let identity = connection.identify_system().await?;
            if identity.system_id != self.epoch.system_id {
                let foreign = RepoError::ForeignCluster { ours: self.epoch.system_id, found: identity.system_id };
                return Err(refused.unwrap_or_else(|| foreign.into()));
            }
            let Err(why) = self.refuse_older(identity.timeline).await else { return Ok((connection, identity)) };
            if !matches!(why, CaptureError::Demoted { .. } | CaptureError::Overtaken { .. }) {
                return Err(why);
            }
            left = match self.options.slot {
                Slot::Permanent(_) => info.beyond(connection.describe()),
                // A backup's own receiver belongs to the server that is backed up.
                Slot::Temporary(_) => None,
            };
            refused.get_or_insert(why);
        }
        Err(refused.unwrap_or_else(|| CaptureError::Bug("no server was tried".into())))
    }

    /// A server on a timeline older than what is stored, or than that of one that took over, was left behind by a failover: its commits
    /// are on no server's way to survive. It may also be the right one, after somebody tried out a promoted copy; only a person can say so.
    async fn refuse_older(&self, found: Timeline) -> Result<(), CaptureError> {
        if self.options.accept_older_timeline {
            return Ok(());
        }
        // Another receiver may have gone further since we last did.
        let newest = self.coverage().await?.map(|c| c.timeline).max(self.position.map(|(timeline, _)| timeline));
        if let Some(stored) = newest.filter(|newest| found < *newest) {
            return Err(CaptureError::Demoted { found, stored });
        }
        match self.successor_of(found) {
            Some((by, newer)) => Err(CaptureError::Overtaken { found, by, newer }),
            None => Ok(()),
        }
    }

    /// Who has taken over from a server on this timeline: of several the one on the newest.
    pub(crate) fn successor_of(&self, own: Timeline) -> Option<(String, Timeline)> {
        let known = self.successors.borrow();
        known
            .iter()
            .filter(|(_, timeline)| **timeline > own)
            .max_by_key(|(_, timeline)| **timeline)
            .map(|(place, timeline)| (place.clone(), *timeline))
    }

    /// Segments that are stored already, by another receiver or by `wal push`, need not travel again.
    pub(crate) async fn skip_stored(&self, mut from: Lsn, timeline: Timeline, flushed: Lsn, size: SegmentSize) -> Result<Lsn, CaptureError> {
        let first = SegmentName::containing(from, timeline, size);
        // From here on only: the log may be years long.
        let view = self.writer.reader().wal_view_from(self.epoch.system_id, size, first).await?;
        while from.plus(size.bytes()) <= flushed {
            // What made no sense is read again, stored or not.
            if self.suspect.is_some_and(|at| at.segment_start(size) == from) {
                break;
            }
            // The stream begins behind it, so the server takes it for flushed from then on.
            if !self.writer.vouch_for(&view, SegmentName::containing(from, timeline, size)).await? {
                break;
            }
            from = from.plus(size.bytes());
        }
        Ok(from)
    }

    /// Every ancestor's history, on every connection: a restore needs them all, and the server may forget them. Gives that of `timeline`.
    pub(crate) async fn keep_histories(&self, connection: &mut Replication, timeline: Timeline) -> Result<TimelineHistory, CaptureError> {
        let mut own = TimelineHistory::root(timeline);
        let mut wanted = vec![timeline];
        while let Some(of) = wanted.pop().filter(|t| *t != Timeline::FIRST) {
            let Some((_, content)) = connection.timeline_history(of).await? else { continue };
            if let Ok(history) = TimelineHistory::parse(of, &String::from_utf8_lossy(&content)) {
                wanted.extend(history.parent().map(|b| b.timeline));
                if of == timeline {
                    own = history;
                }
            }
            let name = WalName::History(of);
            self.writer.keep_wal(self.epoch.system_id, &name, content, &self.carrier.protection, self.options.compression).await?;
        }
        Ok(own)
    }

    /// The same place on the server's own way through history. What was stored past the point where that way leaves our
    /// timeline stays, and is told of: it was never on this server.
    pub(crate) async fn follow(
        &self,
        position: (Timeline, Lsn),
        history: &TimelineHistory,
        size: SegmentSize,
    ) -> Result<(Timeline, Lsn), CaptureError> {
        let (timeline, at) = position;
        if history.begin_of(timeline).is_none() {
            return Err(CaptureError::Stranger { found: history.timeline(), stored: timeline });
        }
        // A timeline is received from the beginning of the segment in which it began, so `at` may lie before that.
        let Some(fork) = history.end_of(timeline).filter(|fork| at > *fork) else { return Ok(position) };
        let next = history.timeline_at(fork);
        let source = WalSource { major: self.epoch.major, system_id: self.epoch.system_id, timeline, segment_size: size };
        let fetch = |segment| self.writer.reader().fetch_segment(self.epoch.system_id, segment, size);
        let Tail { commits, unread } = Tail::read(source, fork, at, fetch).await;
        self.events.tell(Event::DivergentTail { timeline, from: fork, to: at, commits, unread });
        Ok((next, fork.segment_start(size)))
    }
}

/// Whether what is stored of this timeline says nothing of where the log goes on: the server never was on it, and a person accepts that, or
/// the repository's mark already speaks of a newer timeline that the server is on. Only a receiver that was accepted moves the mark so far, or
/// a restore in place that went back before the timeline was begun; never a trial.
fn was_left(timeline: Timeline, history: &TimelineHistory, acting: Option<Timeline>, is_accepted: bool) -> bool {
    let is_on = |timeline: Timeline| history.begin_of(timeline).is_some();
    !is_on(timeline) && (is_accepted || acting.is_some_and(|acting| acting > timeline && is_on(acting)))
}

/// Up to where this way through history is stored, so that the log goes on there without a gap; `None` where nothing of it is.
/// What tells of it otherwise, the coverage mark, is about a timeline that is no part of it.
fn stored_along(history: &TimelineHistory, view: &WalView) -> Option<(Timeline, Lsn)> {
    let ancestors = history.branches().iter().rev().map(|branch| branch.timeline);
    let newest = std::iter::once(history.timeline()).chain(ancestors).find_map(|t| view.timeline(t).filter(|t| !t.is_empty()))?;
    let (timeline, size) = (newest.timeline, view.segment_bytes);
    let (_, end) = WalView { timelines: vec![newest.clone()], ..view.clone() }.newest()?;
    // The last segments were on their way side by side, and perhaps not all of them arrived.
    let far_back = Lsn::from_bytes(end.bytes().saturating_sub(SEGMENTS_ON_THEIR_WAY * size.bytes()));
    let begin = history.begin_of(timeline).unwrap_or(far_back);
    let mut segment = SegmentName::containing(begin.max(far_back), timeline, size);
    // Of what nobody knows that it ever was stored nothing is missed; a timeline's beginning always is.
    let may_begin_later = begin <= far_back;
    while may_begin_later && segment.start(size) < end && view.reach(segment) == segment.start(size) {
        segment = segment.next(size);
    }
    while view.has(segment) {
        segment = segment.next(size);
    }
    let reach = view.reach(segment);
    Some((timeline, history.end_of(timeline).map_or(reach, |left_at| left_at.min(reach))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use repo::{Form, Piece, SegmentRun, TimelineView};
    use terms::SystemId;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn timeline(id: u32) -> Timeline {
        Timeline::new(id).unwrap()
    }
    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }
    fn view(timelines: &[(u32, &[(u64, u64)])]) -> WalView {
        let timelines = timelines.iter().map(|(id, runs)| TimelineView {
            runs: runs.iter().map(|(first, last)| SegmentRun { first: *first, last: *last }).collect(),
            ..TimelineView::empty(timeline(*id))
        });
        WalView { system_id: SystemId::new(1), segment_bytes: SIZE, timelines: timelines.collect() }
    }

    #[test]
    fn a_timeline_that_the_server_never_was_on_is_left_by_a_persons_word_or_by_a_newer_mark_on_the_servers_own_way() {
        // It was restored twice, both times from timeline 1.
        let own = TimelineHistory::parse(timeline(3), "1\t0/5500000\tbefore 2026-11-22 14:05:00+00\n").unwrap();
        let left = |id: u32, acting: Option<u32>, is_accepted| was_left(timeline(id), &own, acting.map(timeline), is_accepted);
        assert!(!left(2, None, false) && !left(2, Some(2), false), "a stranger, until somebody says otherwise");
        assert!(left(2, Some(2), true), "a person says so");
        assert!(left(2, Some(3), false), "the restore has said so");
        assert!(!left(2, Some(4), false), "whose that is nobody knows");
        assert!(!left(2, Some(1), false), "an older mark says nothing of a newer timeline");
        assert!(!left(1, Some(3), true) && !left(3, Some(3), true), "of its own way nothing is left out");
    }

    #[test]
    fn the_log_goes_on_where_the_servers_own_way_is_stored_whatever_a_trial_left() {
        let own = TimelineHistory::parse(timeline(3), "1\t0/5500000\tno recovery target specified\n").unwrap();
        let at = |view: &WalView| stored_along(&own, view).map(|(timeline, at)| (timeline.id(), at));
        assert_eq!(at(&view(&[(2, &[(1, 20)])])), None, "nothing but the trial is stored");
        assert_eq!(at(&view(&[(1, &[(1, 3)]), (2, &[(3, 20)])])), Some((1, lsn("0/4000000"))));
        assert_eq!(at(&view(&[(1, &[(1, 9)]), (2, &[(3, 20)])])), Some((1, lsn("0/5500000"))), "beyond that it is another history");
        assert_eq!(at(&view(&[(1, &[(1, 5)]), (2, &[(3, 20)]), (3, &[(5, 7)])])), Some((3, lsn("0/8000000"))));
        assert_eq!(at(&view(&[(1, &[(1, 5)]), (3, &[(6, 7)])])), Some((3, lsn("0/5000000"))), "where it began is missing");
        assert_eq!(at(&view(&[(1, &[(1, 2), (4, 4)])])), Some((1, lsn("0/3000000"))), "the third was on its way and never came");
        let mut pieces = view(&[(1, &[(1, 3)])]);
        let segment = SegmentName::numbered(4, timeline(1), SIZE);
        pieces.timelines[0].pieces = vec![Piece { segment, start: lsn("0/4000000"), end: lsn("0/4000100"), session: 1, form: Form::Object }];
        assert_eq!(at(&pieces), Some((1, lsn("0/4000100"))));
        pieces.timelines[0].runs.clear();
        assert_eq!(at(&pieces), Some((1, lsn("0/4000100"))));
    }
}
