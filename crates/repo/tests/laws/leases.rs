//! Leases: one acts, whoever is paused learns it, and no lost answer locks anybody out. On a clock that the test moves.

use super::NOW;
use repo::{Claim, Contender, Encryption, HeldBy, Lease, Loss, RepoError, Standing, Writer};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::{Disk, Fault, FaultPlan, Faults, Memory, ObjectPath, Put};
use terms::{Clock, Timestamp};
use tokio::time::{Instant, sleep, sleep_until, timeout};

const TTL: Duration = Duration::from_secs(30);

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        NOW
    }
}

async fn repository(store: &Arc<dyn Put>) {
    Writer::create(Arc::clone(store), Vec::new(), "acme", Encryption::Off, serde_json::json!({}), NOW).await.expect("a new repository");
}

/// A contender over a door of its own, as another process has.
async fn contender(store: &Arc<dyn Put>, holder: &str) -> Contender {
    let writer = Writer::open(Arc::clone(store), Vec::new()).await.expect("the repository opens");
    Contender::new(&writer, "wal", holder, TTL).expect("a plain name")
}

async fn memory() -> Arc<dyn Put> {
    let store: Arc<dyn Put> = Arc::new(Memory::new());
    repository(&store).await;
    store
}

fn acquired(claim: Result<Claim, RepoError>) -> Lease {
    match claim.expect("the store answers") {
        Claim::Acquired(lease) => lease,
        Claim::HeldBy(held) => panic!("{held:?}"),
    }
}

fn held(claim: Result<Claim, RepoError>) -> HeldBy {
    match claim.expect("the store answers") {
        Claim::HeldBy(held) => held,
        Claim::Acquired(lease) => panic!("{lease:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_refused_to_others_handed_over_and_named() {
    let store = memory().await;
    let (mut a, mut b) = (contender(&store, "host-a/1").await, contender(&store, "host-b/2").await);
    let mut first = acquired(a.attempt(NOW).await);
    let refused = held(b.attempt(NOW).await);
    assert_eq!((refused.holder.as_str(), refused.generation, refused.since, refused.ttl), ("host-a/1", 1, NOW, TTL));
    assert!(refused.wait > TTL, "{:?}", refused.wait);
    assert!(matches!(refused.into_error(), RepoError::LeaseHeld { holder, .. } if holder == "host-a/1"));
    first.renew().await.unwrap();
    let reader = repo::Reader::open(Arc::clone(&store) as Arc<dyn store::Fetch>, Vec::new()).await.unwrap();
    assert_eq!(reader.lease("other").await.unwrap(), None);
    let view = reader.lease("wal").await.unwrap().expect("it is held");
    assert_eq!((view.holder.as_str(), view.generation, view.ttl, view.released), ("host-a/1", 1, TTL, false));
    assert!(first.still_mine().await.unwrap() && first.release().await.unwrap());
    assert!(reader.lease("wal").await.unwrap().is_some_and(|view| view.released));
    let began = Instant::now();
    let second = b.acquire(&Still).await.unwrap();
    assert_eq!((second.generation(), began.elapsed()), (2, Duration::ZERO), "a released lease is not waited for");
    assert_eq!(held(a.attempt(NOW).await).holder, "host-b/2");
    let writer = Writer::open(Arc::clone(&store), Vec::new()).await.unwrap();
    for name in ["", ".x", "a/b", "a b"] {
        assert!(matches!(Contender::new(&writer, name, "x", TTL), Err(RepoError::Bug(_))), "{name:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_renews_keeps_it_and_one_that_is_paused_learns_that_it_lost() {
    let store = memory().await;
    let (mut a, mut b) = (contender(&store, "a").await, contender(&store, "b").await);
    let mut paused = acquired(a.attempt(NOW).await);
    for _ in 0..8 {
        held(b.attempt(NOW).await);
        sleep(TTL * 3 / 4).await;
        paused.renew().await.unwrap();
    }
    let until = paused.proven_until();
    let taken = timeout(TTL * 2, b.acquire(&Still)).await.expect("an expired lease is taken over").unwrap();
    assert!(Instant::now() > until, "nobody may take over before the holder has stopped acting");
    assert_eq!(taken.generation(), 2);
    assert!(!paused.still_mine().await.unwrap());
    assert!(matches!(paused.renew().await, Err(RepoError::LeaseLost { holder, .. }) if holder == "b"));
    assert!(!paused.release().await.unwrap(), "another's lease is not released");
    assert!(taken.still_mine().await.unwrap());
    held(a.attempt(NOW).await);
}

#[tokio::test(start_paused = true)]
async fn a_late_holder_that_nobody_replaced_goes_on() {
    let store = memory().await;
    let mut lease = acquired(contender(&store, "a").await.attempt(NOW).await);
    sleep(TTL * 10).await;
    assert!(lease.proven_until() < Instant::now());
    lease.renew().await.unwrap();
    assert_eq!((lease.generation(), lease.proven_until()), (1, Instant::now() + TTL));
}

#[tokio::test(start_paused = true)]
async fn a_keeper_renews_tells_of_a_loss_and_gives_up_before_others_may_begin() {
    let store = memory().await;
    let plan = FaultPlan::none();
    let faulty: Arc<dyn Put> = Arc::new(Faults::new(Arc::clone(&store), Arc::clone(&plan)));
    let kept = acquired(contender(&faulty, "a").await.attempt(NOW).await).keep();
    let mut b = contender(&store, "b").await;
    assert!(timeout(TTL * 20, b.acquire(&Still)).await.is_err(), "a kept lease is never free");
    assert!(kept.is_held() && kept.still_mine().await.unwrap());

    // From here on the holder's store is away; the other one's is not.
    plan.also(plan.count() + 1, Fault::Die);
    let last = match *kept.watch().borrow() {
        Standing::Held { until } => until,
        ref lost => panic!("{lost:?}"),
    };
    let (loss, lost_at) = (kept.lost().await, Instant::now());
    assert!(matches!(loss, Loss::Unproven { .. }) && !kept.is_held(), "{loss:?}");
    assert_eq!(lost_at, last, "it is held until its TTL is over, and not longer");
    let taken = b.acquire(&Still).await.unwrap();
    assert!(Instant::now() > lost_at);
    assert!(taken.still_mine().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_keeper_whose_lease_was_taken_says_by_whom_and_releases_nothing() {
    let store = memory().await;
    let lease = acquired(contender(&store, "a").await.attempt(NOW).await);
    let mut b = contender(&store, "b").await;
    held(b.attempt(NOW).await);
    // The whole process is paused: its keeper does not run.
    sleep(TTL * 2).await;
    let taken = acquired(b.attempt(NOW).await);
    let kept = lease.keep();
    assert!(!kept.is_held(), "the clock alone says so, before the keeper has run");
    assert!(matches!(kept.lost().await, Loss::Taken { holder } if holder == "b"));
    assert!(!kept.release().await.unwrap() && taken.still_mine().await.unwrap());

    let kept = taken.keep();
    sleep(TTL * 5).await;
    assert!(kept.is_held() && kept.release().await.unwrap());
    acquired(b.attempt(NOW).await);
}

/// Acquires, renews twice and releases over a store that goes wrong as planned, trying again at once.
async fn life(plan: &Arc<FaultPlan>) {
    let store = memory().await;
    acquired(contender(&store, "earlier").await.attempt(NOW).await).release().await.unwrap();
    let faulty: Arc<dyn Put> = Arc::new(Faults::new(Arc::clone(&store), Arc::clone(plan)));
    let mut one = contender(&faulty, "a").await;
    let mut lease = loop {
        match one.attempt(NOW).await {
            Err(e) => assert!(matches!(e, RepoError::Store(_) | RepoError::Document { .. }), "{e}"),
            claim => break acquired(claim),
        }
    };
    for _ in 0..2 {
        while let Err(e) = lease.renew().await {
            assert!(matches!(e, RepoError::Store(_) | RepoError::Document { .. }), "{e}");
        }
    }
    // A release that fails leaves the lease to its time.
    if lease.release().await.is_ok() {
        acquired(contender(&store, "next").await.attempt(NOW).await);
    }
}

#[tokio::test(start_paused = true)]
async fn no_lost_answer_at_any_operation_locks_oneself_out() {
    let counted = FaultPlan::none();
    life(&counted).await;
    let asked: Vec<String> = counted.names().iter().map(|name| name.split(' ').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(asked, ["get", "info", "get", "replace", "replace", "replace", "replace"]);
    // The first one opens the repository, which is no part of this.
    for k in 2..=counted.count() {
        for fault in [Fault::Before, Fault::After, Fault::FlippedBit] {
            // The operation alone, and with the look at its effect failing too.
            for also in [0, 1, 2] {
                let plan = FaultPlan::at(k, fault);
                (1..=also).for_each(|more| plan.also(k + more, Fault::Before));
                let began = Instant::now();
                life(&plan).await;
                assert_eq!(began.elapsed(), Duration::ZERO, "{k} {fault:?} {also}: somebody waited for his own lease");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_and_look_were_lost_is_recognised_later() {
    let store = memory().await;
    let plan = FaultPlan::none();
    let faulty: Arc<dyn Put> = Arc::new(Faults::new(Arc::clone(&store), Arc::clone(&plan)));
    let mut one = contender(&faulty, "a").await;
    // info finds nothing, replace happens and fails, and so does the look for it.
    plan.also(plan.count() + 2, Fault::After);
    plan.also(plan.count() + 3, Fault::Before);
    assert!(matches!(one.attempt(NOW).await, Err(RepoError::Store(_))));
    held(contender(&store, "b").await.attempt(NOW).await);
    let mut lease = acquired(one.attempt(NOW).await);
    plan.also(plan.count() + 1, Fault::After);
    plan.also(plan.count() + 2, Fault::Before);
    assert!(matches!(lease.renew().await, Err(RepoError::Store(_))));
    let proven = lease.proven_until();
    sleep(TTL / 4).await;
    assert_eq!(lease.proven_until(), proven, "an unproven renewal proves nothing");
    lease.renew().await.unwrap();

    // That earlier write arrived, and another saw it then: were it taken for the later one, its time would be counted from too late.
    plan.also(plan.count() + 1, Fault::After);
    plan.also(plan.count() + 2, Fault::Before);
    assert!(matches!(lease.renew().await, Err(RepoError::Store(_))));
    let mut b = contender(&store, "b").await;
    held(b.attempt(NOW).await);
    sleep(TTL / 2).await;
    lease.renew().await.unwrap();
    let until = lease.proven_until();
    b.acquire(&Still).await.unwrap();
    assert!(Instant::now() > until, "taken over while its holder may still act");
    assert!(!lease.release().await.unwrap());
}

/// Several contenders come and go; some renew, some die, some are paused and act on only while they may.
async fn crowd(stores: Vec<Arc<dyn Put>>, rounds: u32) -> u64 {
    let (acting, acts) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut crowd = Vec::new();
    for (at, store) in stores.into_iter().enumerate() {
        let (acting, acts) = (Arc::clone(&acting), Arc::clone(&acts));
        crowd.push(tokio::spawn(async move {
            let mut one = contender(&store, &format!("c{at}")).await;
            for round in 0..rounds {
                let lease = one.acquire(&Still).await.unwrap();
                let begins = acting.fetch_add(1, Ordering::SeqCst);
                assert_eq!(begins, 0, "two act at once");
                acts.fetch_add(1, Ordering::SeqCst);
                match (at as u32 + round) % 3 {
                    0 => {
                        let kept = lease.keep();
                        sleep(TTL * 2).await;
                        assert!(kept.is_held());
                        acting.fetch_sub(1, Ordering::SeqCst);
                        assert!(kept.release().await.unwrap());
                    }
                    // Acts for as long as it may, then is gone without a word.
                    1 => {
                        sleep_until(lease.proven_until()).await;
                        acting.fetch_sub(1, Ordering::SeqCst);
                    }
                    _ => {
                        sleep(TTL / 2).await;
                        acting.fetch_sub(1, Ordering::SeqCst);
                        sleep(TTL * 3).await;
                        lease.release().await.unwrap();
                    }
                }
                // The next round is another process.
                one = contender(&store, &format!("c{at}-{round}")).await;
            }
        }));
    }
    for one in crowd {
        one.await.expect("no contender panics");
    }
    acts.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn of_a_crowd_exactly_one_acts_in_memory() {
    let store = memory().await;
    assert_eq!(crowd(vec![store; 6], 5).await, 30);
}

#[tokio::test(start_paused = true)]
async fn of_a_crowd_exactly_one_acts_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let door = || Arc::new(Disk::new(folder.path())) as Arc<dyn Put>;
    repository(&door()).await;
    assert_eq!(crowd((0..4).map(|_| door()).collect(), 3).await, 12);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_lease_is_no_free_one() {
    let store = memory().await;
    let path = ObjectPath::new("leases/wal.json").unwrap();
    store.put_new(&path, bytes::Bytes::from_static(b"{ \"format\": 1 }")).await.unwrap();
    let mut one = contender(&store, "a").await;
    assert!(matches!(one.attempt(NOW).await, Err(RepoError::Document { path, .. }) if path == "leases/wal.json"));
}
