//! The canary: a small object that is written again and again, to see when the store has copied it. Two requests a minute say how far the
//! copy is behind, whatever the size of the bucket; what of it the store gave up they do not say.

use std::collections::VecDeque;
use store::{Site, StoreError};
use terms::{Advice, Explain, Timestamp};

/// So many that were written are remembered, the oldest ones: more than two days.
const AWAITED_MAX: usize = 4096;
/// One that is older says nothing of the present.
const FRESH_SECONDS: f64 = 600.0;

/// Who writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// This process, each time it looks.
    Here,
    /// Somebody else, perhaps.
    Elsewhere,
}

/// What is known of those that were written.
#[derive(Debug, Default)]
pub struct Canary {
    /// When those were written that have not arrived, the oldest first.
    awaited: VecDeque<Timestamp>,
    /// The newest that is known to have been written.
    newest: Option<Timestamp>,
    /// The one that was there when this process began: of those before it nothing is known.
    first: Option<Timestamp>,
}

/// How far the copy is behind by the canary.
#[derive(Debug, Clone, Default)]
pub struct CanaryFacts {
    /// When the newest one was written that is there; absent when that is so long ago that it says nothing, or none is.
    pub arrived: Option<Timestamp>,
    /// When the oldest one was written that is not there.
    pub awaited: Option<Timestamp>,
    /// Why it could not be written or looked for.
    pub trouble: Option<Advice>,
}

impl CanaryFacts {
    /// How far the copy is behind; `None` when the canary does not tell.
    pub fn lag_seconds(&self, now: Timestamp) -> Option<f64> {
        let awaited = self.awaited.map(|awaited| now.seconds_since(awaited).max(0.0));
        awaited.or(self.arrived.map(|_| 0.0))
    }
}

impl Canary {
    /// Writes it, where that is done here, and looks for it. What is refused is told, and keeps nothing else from being looked at.
    pub async fn look(&mut self, primary: &Site, copy: &Site, writes: Writes, now: Timestamp) -> CanaryFacts {
        let mut facts = CanaryFacts::default();
        if let Err(error) = self.learn(primary, writes, now).await {
            facts.trouble = Some(error.advice());
        }
        match copy.canary().await {
            Ok(there) => {
                self.arrived(there);
                facts.awaited = self.waits_since(there);
                facts.arrived = there.filter(|there| now.seconds_since(*there) <= FRESH_SECONDS);
            }
            Err(error) => {
                facts.awaited = self.awaited.front().copied();
                facts.trouble = Some(error.advice());
            }
        }
        facts
    }

    async fn learn(&mut self, primary: &Site, writes: Writes, now: Timestamp) -> Result<(), StoreError> {
        // The first time there may be one of an earlier process, which waits longer than this one knows.
        if writes == Writes::Elsewhere || self.newest.is_none() {
            let there = primary.canary().await?;
            there.into_iter().for_each(|there| self.written(there));
            self.first = self.first.or(there);
        }
        if writes == Writes::Here {
            primary.write_canary(now).await?;
            self.written(now);
        }
        Ok(())
    }

    fn written(&mut self, at: Timestamp) {
        if self.newest.is_some_and(|newest| newest >= at) {
            return;
        }
        self.newest = Some(at);
        // How long the oldest waits is what counts.
        self.awaited.truncate(AWAITED_MAX - 1);
        self.awaited.push_back(at);
    }

    /// Since when the oldest waits that is not `there`. While one is there that was written before this process began, others may have
    /// been written soon after it: then it counts from there.
    fn waits_since(&self, there: Option<Timestamp>) -> Option<Timestamp> {
        there.filter(|there| self.first.is_some_and(|first| *there < first)).or(self.awaited.front().copied())
    }

    /// The one that is there now is this: it and all before it have arrived.
    fn arrived(&mut self, there: Option<Timestamp>) {
        while self.awaited.front().is_some_and(|oldest| there.is_some_and(|there| *oldest <= there)) {
            self.awaited.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(number: i64) -> Timestamp {
        Timestamp::from_unix_micros(number * 60_000_000)
    }

    #[test]
    fn the_oldest_canary_that_has_not_arrived_says_how_far_the_copy_is_behind() {
        let mut canary = Canary::default();
        let lag = |canary: &Canary, arrived: Option<i64>, now: i64| {
            let (arrived, awaited) = (arrived.map(minute), canary.awaited.front().copied());
            CanaryFacts { arrived, awaited, trouble: None }.lag_seconds(minute(now))
        };
        assert_eq!(lag(&canary, None, 0), None);
        (1..=5).for_each(|number| canary.written(minute(number)));
        canary.arrived(Some(minute(2)));
        assert_eq!(lag(&canary, Some(2), 6), Some(180.0), "the third one");
        canary.arrived(Some(minute(5)));
        assert_eq!(lag(&canary, Some(5), 6), Some(0.0));
        // Read again it is no new one; days of them are as good as two.
        canary.written(minute(5));
        assert!(canary.awaited.is_empty());
        (6..20_000).for_each(|number| canary.written(minute(number)));
        assert_eq!((canary.awaited.len(), canary.awaited.front(), canary.awaited.back()), (AWAITED_MAX, Some(&minute(6)), Some(&minute(19_999))));
        canary.arrived(Some(minute(19_999)));
        assert!(canary.awaited.is_empty());
    }

    #[test]
    fn a_process_that_begins_knows_no_less_than_the_one_before_it() {
        // Written each minute by another process, of which nothing arrived for three hours.
        let mut canary = Canary { first: Some(minute(180)), ..Canary::default() };
        canary.written(minute(180));
        canary.written(minute(181));
        canary.arrived(Some(minute(1)));
        assert_eq!(canary.waits_since(Some(minute(1))), Some(minute(1)));
        assert_eq!(canary.waits_since(Some(minute(90))), Some(minute(90)), "it catches up");
        canary.arrived(Some(minute(180)));
        assert_eq!(canary.waits_since(Some(minute(180))), Some(minute(181)));
        assert_eq!(canary.waits_since(None), Some(minute(181)), "one that never arrived says nothing of the time before");
        canary.arrived(Some(minute(181)));
        assert_eq!(canary.waits_since(Some(minute(181))), None);
    }
}
