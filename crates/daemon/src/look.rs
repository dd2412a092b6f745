//! Looks at everything again and again, judges it, and has people told.

use crate::office::{LOOK_LIMIT, Observed, Office};
use crate::{Loaded, Tell};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use terms::{Clock, SystemClock, Timestamp};
use tokio::sync::{Notify, watch as channel};
use tokio::time::{Instant, sleep, timeout};
use watch::facts::ReceiverFacts;
use watch::{Ages, Watcher, judge};

/// How long people's channels may keep the next look waiting: they have queues of their own.
const TELL_LIMIT: Duration = Duration::from_secs(20);

/// What asks for a look out of turn.
#[derive(Default)]
pub(crate) struct Asked {
    /// Something happened that people want to know at once.
    pub quickly: Notify,
    /// Something was done to the repository.
    pub repository: Notify,
}

/// Goes on until told to end.
pub(crate) async fn go_on_looking(
    mut loaded: channel::Receiver<Arc<Loaded>>,
    receiver: channel::Receiver<Option<ReceiverFacts>>,
    office: Arc<Office>,
    asked: Arc<Asked>,
    mut end: channel::Receiver<bool>,
) {
    while !*end.borrow() {
        let now = Arc::clone(&loaded.borrow_and_update());
        let mut watcher = Watcher::new(now.settings.clone(), Arc::clone(&now.doors), Ages::default());
        office.look_within(LOOK_LIMIT);
        while !loaded.has_changed().unwrap_or(false) && !*end.borrow() {
            let (begun, heard) = (Instant::now(), receiver.borrow().clone());
            let look = watcher.look(SystemClock.now(), heard, office.role().acts());
            let mut facts = tokio::select! {
                // What hangs must not keep people from being told: the last look, with what is new.
                facts = to_its_end(look, || told_quickly(&asked, &receiver, &office, &now)) => facts,
                () = crate::told(&mut end) => return,
            };
            // What was told meanwhile is newer than what the look began with.
            facts.receiver = receiver.borrow().clone();
            tokio::select! {
                () = observe(facts, begun, None, &office, now.tell.as_deref()) => {}
                () = crate::told(&mut end) => return,
            }
            office.look_within(now.watch_interval + LOOK_LIMIT);
            tokio::select! {
                () = sleep(now.watch_interval) => {}
                () = asked.repository.notified() => watcher.forget_repository(),
                () = told_quickly(&asked, &receiver, &office, &now) => {}
                // Seen by this, it would be news to nobody.
                _ = loaded.changed() => break,
                () = crate::told(&mut end) => return,
            }
        }
    }
}

/// Goes on with a look however often there is news meanwhile. A receiver that ends every half minute is news each time: a look that was begun
/// anew for that would never end, and a daemon without looks is killed.
async fn to_its_end<T, N: Future<Output = ()>>(look: impl Future<Output = T>, news: impl Fn() -> N) -> T {
    let mut look = pin!(look);
    loop {
        tokio::select! {
            seen = &mut look => return seen,
            () = news() => {}
        }
    }
}

/// Waits until something is to be told at once, and tells it: by the last look, with what the receiver says now.
async fn told_quickly(asked: &Asked, receiver: &channel::Receiver<Option<ReceiverFacts>>, office: &Office, loaded: &Loaded) {
    asked.quickly.notified().await;
    let Some(last) = office.observed() else { return };
    let mut facts = last.facts.clone();
    (facts.at, facts.receiver) = (SystemClock.now(), receiver.borrow().clone());
    observe(facts, last.at, Some(last.facts.at), office, loaded.tell.as_deref()).await;
}

/// Judges what was seen by a look that began at `begun`, shows it and has people told. `seen` where that was earlier than these facts are
/// judged: old ones become no younger by it.
async fn observe(mut facts: watch::Facts, begun: Instant, seen: Option<Timestamp>, office: &Office, tell: Option<&dyn Tell>) {
    office.add_to(&mut facts);
    let judgement = judge(&facts);
    let shown = watch::Facts { at: seen.unwrap_or(facts.at), ..facts.clone() };
    office.publish(Observed { at: begun, facts: shown, judgement: judgement.clone() });
    if let Some(tell) = tell.filter(|_| office.role().stands_in()) {
        drop(timeout(TELL_LIMIT, tell.judge(&judgement, &facts)).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tokio::task::yield_now;

    #[tokio::test]
    async fn a_look_comes_to_its_end_however_often_there_is_news_meanwhile() {
        let told = Cell::new(0);
        let look = async {
            for _ in 0..10 {
                yield_now().await;
            }
            "seen"
        };
        // Quicker than the look, each time.
        let news = || async {
            yield_now().await;
            told.set(told.get() + 1);
        };
        let seen = timeout(Duration::from_secs(30), to_its_end(look, news)).await;
        assert_eq!(seen, Ok("seen"), "it is not begun anew");
        assert!(told.get() > 0, "and keeps nobody from being told");
    }
}
