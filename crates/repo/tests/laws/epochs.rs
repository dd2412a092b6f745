//! Laws of epochs: they are begun by name, one after the other and by one alone, and none comes back or speaks for a later one.

use super::*;
use repo::{Coverage, Epoch};
use store::{Fault, FaultPlan, Faults};

const THIRD: SystemId = SystemId::new(7_412_345_678_901_234_569);

fn multi() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap()
}

async fn upgraded(memory: &Memory, encryption: Encryption) -> (Writer, Epoch, Epoch) {
    let mut writer = create(memory, encryption).await;
    let old = writer.admit(SYSTEM, 15, NOW).await.unwrap();
    let new = writer.begin_epoch(SYSTEM, OTHER, 18, NOW.plus_micros(60)).await.unwrap();
    (writer, old, new)
}

#[test]
fn an_epoch_follows_by_name_with_a_key_of_its_own_and_the_former_never_comes_back() {
    for encryption in [Encryption::Aes256Gcm, Encryption::Off] {
        wait(async {
            let memory = Memory::new();
            let mut empty = create(&memory, encryption).await;
            assert!(matches!(empty.begin_epoch(SYSTEM, OTHER, 18, NOW).await, Err(RepoError::NoCluster)));
            let memory = Memory::new();
            let (mut writer, old, new) = upgraded(&memory, encryption).await;
            assert_eq!((new.system_id, new.major, new.since), (OTHER, 18, NOW.plus_micros(60)));
            assert_eq!(new.wal_key.is_some(), encryption == Encryption::Aes256Gcm);
            assert!(encryption == Encryption::Off || new.wal_key != old.wal_key);
            assert_eq!(writer.reader().document().epochs, [old.clone(), new.clone()]);
            assert_eq!(writer.reader().epoch(), Some(&new));
            let reader = Reader::open(Arc::new(memory.clone()), if encryption == Encryption::Off { Vec::new() } else { friends(7) }).await.unwrap();
            assert_eq!(reader.document().epochs, [old.clone(), new.clone()]);
            assert_eq!(reader.document().epoch_of(SYSTEM), Some((&old, Some(new.since))));
            assert_eq!(reader.document().epoch_of(OTHER), Some((&new, None)));
            assert_eq!(reader.document().epoch_of(THIRD), None);

            assert_eq!(writer.admit(OTHER, 18, NOW).await.unwrap(), new);
            let ended = writer.admit(SYSTEM, 15, NOW).await.unwrap_err();
            assert!(matches!(ended, RepoError::EpochEnded { ours: OTHER, found: SYSTEM, ended } if ended == new.since), "{ended:?}");
            assert!(ended.to_string().contains(&SYSTEM.to_string()) && ended.detail().contains(&OTHER.to_string()));
            assert!(matches!(writer.admit(OTHER, 17, NOW).await, Err(RepoError::MajorDiffers { system_id: OTHER, ours: 18, found: 17 })));
            assert!(matches!(writer.admit(THIRD, 18, NOW).await, Err(RepoError::ForeignCluster { ours: OTHER, found: THIRD })));
            let back = writer.begin_epoch(OTHER, SYSTEM, 15, NOW).await.unwrap_err();
            assert!(matches!(back, RepoError::EpochEnded { ours: OTHER, found: SYSTEM, .. }), "{back:?}");
            let again = writer.begin_epoch(OTHER, OTHER, 18, NOW).await.unwrap_err();
            assert!(matches!(again, RepoError::EpochPresent { system_id: OTHER, .. }), "{again:?}");
            let late = writer.begin_epoch(SYSTEM, THIRD, 18, NOW).await.unwrap_err();
            assert!(matches!(late, RepoError::EpochOvertaken { after: SYSTEM, ours: OTHER, found: THIRD }), "{late:?}");
            for error in [back, again, late] {
                assert!(error.class() == Class::Refused && !error.detail().is_empty() && !error.hint().is_empty());
            }
            // A clock that went back does not put the epochs out of order.
            assert_eq!(writer.begin_epoch(OTHER, THIRD, 18, NOW).await.unwrap().since, new.since);
        });
    }
}

#[test]
fn of_two_that_begin_epochs_at_once_exactly_one_does() {
    multi().block_on(async {
        for _ in 0..50 {
            let memory = Memory::new();
            create(&memory, Encryption::Aes256Gcm).await.admit(SYSTEM, 15, NOW).await.unwrap();
            let begin = |system| {
                let memory = memory.clone();
                tokio::spawn(async move { reopen(&memory).await.begin_epoch(SYSTEM, system, 18, NOW).await })
            };
            let (one, other) = (begin(OTHER), begin(THIRD));
            let (one, other) = (one.await.unwrap(), other.await.unwrap());
            let (winner, loser) = match (one, other) {
                (Ok(winner), Err(loser)) | (Err(loser), Ok(winner)) => (winner, loser),
                both => panic!("{both:?}"),
            };
            assert!(matches!(loser, RepoError::EpochOvertaken { after: SYSTEM, ours, .. } if ours == winner.system_id), "{loser:?}");
            let writer = reopen(&memory).await;
            assert_eq!(writer.reader().document().epochs[1..], *std::slice::from_ref(&winner));
            assert!(matches!(writer.wal_protection(&winner).await.unwrap(), Protection::Sealed(_)));
        }
    });
}

#[test]
fn whatever_fails_while_an_epoch_begins_it_began_whole_or_not_at_all() {
    wait(async {
        let run = async |plan: &Arc<FaultPlan>| {
            let memory = Memory::new();
            let old = create(&memory, Encryption::Aes256Gcm).await.admit(SYSTEM, 15, NOW).await.unwrap();
            let door = Arc::new(Faults::new(Arc::new(memory.clone()), Arc::clone(plan)));
            let begun = match Writer::open(door, friends(7)).await {
                Ok(mut writer) => writer.begin_epoch(SYSTEM, OTHER, 18, NOW).await,
                Err(e) => Err(e),
            };
            let mut after = reopen(&memory).await;
            let epochs = after.reader().document().epochs.clone();
            assert_eq!(epochs[0], old);
            match (&begun, epochs.len()) {
                (Ok(epoch), 2) => assert_eq!(*epoch, epochs[1]),
                (Err(_), 1) => drop(after.begin_epoch(SYSTEM, OTHER, 18, NOW).await.expect("the second run succeeds")),
                (Err(_), 2) => assert!(matches!(after.begin_epoch(SYSTEM, OTHER, 18, NOW).await, Err(RepoError::EpochPresent { .. }))),
                other => panic!("{other:?}"),
            }
            let epoch = after.admit(OTHER, 18, NOW).await.unwrap();
            assert!(matches!(after.wal_protection(&epoch).await.unwrap(), Protection::Sealed(_)));
        };
        let counted = FaultPlan::none();
        run(&counted).await;
        assert!(counted.names().iter().any(|name| name == "replace repository.json"), "{:?}", counted.names());
        for k in 1..=counted.count() {
            for fault in [Fault::Before, Fault::After, Fault::Die, Fault::FlippedBit, Fault::ShortRead] {
                run(&FaultPlan::at(k, fault)).await;
            }
        }
    });
}

fn mark(system: SystemId, timeline: u32, lsn: u64) -> Coverage {
    Coverage::new(system, Timeline::new(timeline).unwrap(), Lsn::from_bytes(lsn), NOW)
}

#[test]
fn a_mark_of_a_new_epoch_replaces_the_former_and_each_epoch_keeps_its_last_one() {
    wait(async {
        let memory = Memory::new();
        let (writer, ..) = upgraded(&memory, Encryption::Aes256Gcm).await;
        let present = path("coverage.json");
        let of = async |system| writer.reader().coverage(system).await.unwrap();
        // The old receiver is still at work, on a later timeline and further in its log than the new one ever was.
        writer.cover(&mark(SYSTEM, 3, 900)).await.unwrap();
        assert_eq!((of(SYSTEM).await, of(OTHER).await), (Some(mark(SYSTEM, 3, 900)), None));
        writer.cover(&mark(OTHER, 1, 100)).await.unwrap();
        assert_eq!((of(SYSTEM).await, of(OTHER).await), (Some(mark(SYSTEM, 3, 900)), Some(mark(OTHER, 1, 100))));
        let before = memory.get(&present).await.unwrap();
        for (woken, kept) in [(mark(SYSTEM, 3, 950), 950), (mark(SYSTEM, 3, 940), 950), (mark(SYSTEM, 2, 990), 950)] {
            writer.cover(&woken).await.unwrap();
            assert_eq!((of(SYSTEM).await, of(OTHER).await), (Some(mark(SYSTEM, 3, kept)), Some(mark(OTHER, 1, 100))));
            assert_eq!(memory.get(&present).await.unwrap(), before, "the present mark is not touched");
        }
        // A writer that was opened before the epoch began knows no better, and the store does.
        writer.cover(&mark(OTHER, 1, 200)).await.unwrap();
        assert_eq!(of(OTHER).await, Some(mark(OTHER, 1, 200)));
        let view = writer.reader().wal_view(SYSTEM, SegmentSize::DEFAULT).await.unwrap();
        assert!(view.timelines.is_empty(), "a mark beside the log is no part of it");
    });
}

#[test]
fn receivers_of_two_epochs_at_once_leave_the_best_mark_of_each() {
    multi().block_on(async {
        for round in 0..20 {
            let memory = Memory::new();
            let mut old = create(&memory, Encryption::Aes256Gcm).await;
            old.admit(SYSTEM, 15, NOW).await.unwrap();
            old.cover(&mark(SYSTEM, 1, 1)).await.unwrap();
            let mut new = reopen(&memory).await;
            new.begin_epoch(SYSTEM, OTHER, 18, NOW).await.unwrap();
            let walk = |writer: Writer, system| {
                tokio::spawn(async move {
                    for lsn in 2..30 {
                        writer.cover(&mark(system, 1, lsn)).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                })
            };
            let (a, b) = (walk(old, SYSTEM), walk(new, OTHER));
            a.await.unwrap();
            b.await.unwrap();
            let reader = reopen(&memory).await.reader().clone();
            for system in [SYSTEM, OTHER] {
                assert_eq!(reader.coverage(system).await.unwrap(), Some(mark(system, 1, 29)), "round {round}");
            }
        }
    });
}
