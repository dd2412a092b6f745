//! Laws of slots: whatever breaks off, and however many act at once, every data key opens for somebody who can prove it.

use super::*;
use repo::Change;
use std::collections::BTreeSet;
use store::{Fault, FaultPlan, Faults};

/// Wraps like a friend of this secret, and can unwrap nothing: a recovery recipient.
struct Sealed(Friend);

#[async_trait]
impl Recipient for Sealed {
    fn name(&self) -> String {
        self.0.name()
    }
    fn can_unwrap(&self) -> bool {
        false
    }
    async fn wrap(&self, key: &DataKey, context: &WrapContext) -> Result<Wrapped, SealError> {
        self.0.wrap(key, context).await
    }
    async fn unwrap(&self, _: &Wrapped, _: &WrapContext) -> Result<Zeroizing<[u8; 32]>, SealError> {
        Err(SealError::Recipient { recipient: self.name(), operation: "unwrap", why: "elsewhere".into(), class: Class::Missing, hint: String::new() })
    }
}

fn one(name: &'static str) -> Vec<Arc<dyn Recipient>> {
    vec![Arc::new(Friend(name, 7))]
}

fn both() -> Vec<Arc<dyn Recipient>> {
    [one("friend"), one("other")].concat()
}

fn sealed() -> Vec<Arc<dyn Recipient>> {
    vec![Arc::new(Sealed(Friend("recovery", 9)))]
}

/// A repository with a digest key, two epochs' WAL keys and a backup's.
async fn filled() -> Memory {
    let memory = Memory::new();
    let mut writer = create(&memory, Encryption::Aes256Gcm).await;
    writer.admit(SYSTEM, 15, NOW).await.unwrap();
    writer.begin_epoch(SYSTEM, OTHER, 18, NOW.plus_micros(60)).await.unwrap();
    write(&writer, &[], 1).await;
    memory
}

async fn change_all(writer: &Writer, change: &Change) -> Result<(), RepoError> {
    for key in writer.reader().keys().await? {
        writer.change_slots(key.id, change, NOW.plus_micros(1)).await?;
    }
    Ok(())
}

fn adding(recipients: Vec<Arc<dyn Recipient>>) -> Change {
    Change { wraps: recipients, ..Change::default() }
}

fn dropping(name: &str) -> Change {
    Change { drops: BTreeSet::from([name.to_owned()]), ..Change::default() }
}

/// Every key opens for these, and what they seal can be read.
async fn opens(memory: &Memory, recipients: Vec<Arc<dyn Recipient>>) -> Result<(), RepoError> {
    let reader = Reader::open(Arc::new(memory.clone()), recipients).await?;
    for key in reader.keys().await? {
        reader.data_key(key.id).await?;
    }
    read(&reader).await.map(drop)
}

async fn slots(memory: &Memory) -> Vec<Vec<String>> {
    let keys = reopen_as(memory, both()).await.reader().keys().await.unwrap();
    keys.into_iter().map(|key| key.slots.into_iter().map(|slot| slot.recipient).collect()).collect()
}

async fn reopen_as(memory: &Memory, recipients: Vec<Arc<dyn Recipient>>) -> Writer {
    Writer::open(Arc::new(memory.clone()), recipients).await.unwrap()
}

#[test]
fn whatever_fails_while_slots_change_every_key_opens_and_the_second_run_ends_it() {
    wait(async {
        // What is done, with whom, and for whom alone every key must open in the end.
        type Case = (&'static str, bool, fn() -> Change, &'static [&'static str]);
        let cases: [Case; 3] = [
            ("add", false, || adding(one("other")), &["friend", "other"]),
            ("remove", true, || dropping("friend"), &["other"]),
            ("rewrap", false, || Change { wraps: one("other"), drops: BTreeSet::from(["friend".to_owned()]) }, &["other"]),
        ];
        for (what, has_both, change, ends_with) in cases {
            let run = async |plan: &Arc<FaultPlan>| {
                let memory = filled().await;
                if has_both {
                    change_all(&reopen(&memory).await, &adding(one("other"))).await.unwrap();
                }
                let door = Arc::new(Faults::new(Arc::new(memory.clone()), Arc::clone(plan)));
                let first = match Writer::open(door, both()).await {
                    Ok(writer) => change_all(&writer, &change()).await,
                    Err(e) => Err(e),
                };
                let names = plan.names();
                opens(&memory, both()).await.unwrap_or_else(|e| panic!("{what}: locked out after {names:?}: {e}"));
                if first.is_err() {
                    change_all(&reopen_as(&memory, both()).await, &change()).await.unwrap_or_else(|e| panic!("{what}, second run: {e}"));
                }
                for name in ends_with {
                    opens(&memory, one(name)).await.unwrap_or_else(|e| panic!("{what}: {name} after {names:?}: {e}"));
                }
                let wanted: Vec<String> = ends_with.iter().map(|name| (*name).to_owned()).collect();
                assert!(slots(&memory).await.iter().all(|slots| *slots == wanted), "{what}: {:?}", slots(&memory).await);
            };
            let counted = FaultPlan::none();
            run(&counted).await;
            assert_eq!(counted.names().iter().filter(|name| name.starts_with("replace keys/")).count(), 4, "{:?}", counted.names());
            for k in 1..=counted.count() {
                for fault in [Fault::Before, Fault::After, Fault::Die, Fault::FlippedBit, Fault::ShortRead] {
                    run(&FaultPlan::at(k, fault)).await;
                }
            }
        }
    });
}

#[test]
fn whatever_fails_while_the_wal_key_is_rotated_the_wal_has_a_key_that_opens() {
    wait(async {
        let run = async |plan: &Arc<FaultPlan>| {
            let memory = filled().await;
            let former = reopen(&memory).await.reader().epoch().cloned().unwrap();
            let door = Arc::new(Faults::new(Arc::new(memory.clone()), Arc::clone(plan)));
            let first = match Writer::open(door, friends(7)).await {
                Ok(mut writer) => writer.rotate_wal_key(NOW).await,
                Err(e) => Err(e),
            };
            let mut after = reopen(&memory).await;
            let present = after.reader().epoch().cloned().unwrap();
            assert!(matches!(after.wal_protection(&present).await.unwrap(), Protection::Sealed(_)));
            assert_eq!((present.system_id, present.since), (former.system_id, former.since));
            match first {
                Ok(epoch) => assert_eq!((&epoch, epoch.wal_key != former.wal_key), (&present, true)),
                Err(_) => assert_ne!(after.rotate_wal_key(NOW).await.expect("the second run succeeds").wal_key, former.wal_key),
            }
            opens(&memory, friends(7)).await.expect("what is stored under the former key opens");
        };
        let counted = FaultPlan::none();
        run(&counted).await;
        for k in 1..=counted.count() {
            for fault in [Fault::Before, Fault::After, Fault::Die, Fault::FlippedBit, Fault::ShortRead] {
                run(&FaultPlan::at(k, fault)).await;
            }
        }
    });
}

#[test]
fn of_many_who_change_slots_at_once_none_loses_anothers() {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap().block_on(async {
        for round in 0..10 {
            let memory = filled().await;
            let act = |change: Change| {
                let memory = memory.clone();
                tokio::spawn(async move { change_all(&reopen_as(&memory, friends(7)).await, &change).await.unwrap() })
            };
            let rewrap = Change { wraps: friends(7), drops: BTreeSet::from(["friend".to_owned()]) };
            for done in [act(adding(one("a"))), act(rewrap), act(adding(one("b"))), act(adding(sealed()))] {
                done.await.unwrap();
            }
            for name in ["a", "b", "friend"] {
                opens(&memory, one(name)).await.unwrap_or_else(|e| panic!("round {round}: {name}: {e}"));
            }
            let all = reopen_as(&memory, friends(7)).await.reader().keys().await.unwrap();
            assert!(all.iter().all(|key| key.slots.len() == 4), "round {round}: {all:?}");
        }
    });
}

#[test]
fn nobody_is_locked_out_by_what_only_seals() {
    wait(async {
        let store: Arc<dyn store::Put> = Arc::new(Memory::new());
        let alone = Writer::create(store, sealed(), "acme", Encryption::Aes256Gcm, serde_json::json!({}), NOW).await;
        assert!(matches!(alone.err(), Some(RepoError::NobodyToProve)));

        let memory = filled().await;
        let writer = reopen(&memory).await;
        change_all(&writer, &adding(sealed())).await.unwrap();
        for refused in [dropping("friend"), Change { wraps: sealed(), drops: BTreeSet::from(["friend".to_owned()]) }] {
            let error = change_all(&writer, &refused).await.unwrap_err();
            assert!(matches!(&error, RepoError::LastRecipient { left, .. } if left == &["recovery"]), "{error:?}");
            assert!(!error.detail().is_empty() && !error.hint().is_empty());
        }
        opens(&memory, friends(7)).await.unwrap();
        // Who has the private half may: it proves what is left.
        let private: Vec<Arc<dyn Recipient>> = vec![Arc::new(Friend("recovery", 9))];
        let proven = Writer::open_also(Arc::new(memory.clone()), friends(7), private.clone()).await.unwrap();
        change_all(&proven, &dropping("friend")).await.unwrap();
        opens(&memory, private).await.unwrap();
        assert!(opens(&memory, friends(7)).await.is_err());
        // A new key needs somebody who can prove it, beside whoever only seals.
        let mixed = [one("recovery-less"), sealed()].concat();
        let store: Arc<dyn store::Put> = Arc::new(Memory::new());
        let both = Writer::create(store, mixed, "acme", Encryption::Aes256Gcm, serde_json::json!({}), NOW).await.unwrap();
        assert_eq!(both.reader().keys().await.unwrap()[0].slots.len(), 2);
    });
}

#[test]
fn a_silent_recipient_is_asked_last_from_then_on() {
    struct Silent(std::sync::atomic::AtomicU32);
    #[async_trait]
    impl Recipient for Silent {
        fn name(&self) -> String {
            "silent".to_owned()
        }
        fn owns(&self, _: &str) -> bool {
            true
        }
        async fn wrap(&self, _: &DataKey, _: &WrapContext) -> Result<Wrapped, SealError> {
            unreachable!("nothing new is wrapped")
        }
        async fn unwrap(&self, _: &Wrapped, _: &WrapContext) -> Result<Zeroizing<[u8; 32]>, SealError> {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let (recipient, operation, why) = (self.name(), "unwrap", "no answer in time".to_owned());
            Err(SealError::Recipient { recipient, operation, why, class: Class::Transient, hint: "wait for it".into() })
        }
    }
    wait(async {
        let memory = filled().await;
        let silent = Arc::new(Silent(std::sync::atomic::AtomicU32::new(0)));
        let silent_first: Vec<Arc<dyn Recipient>> = [vec![silent.clone() as Arc<dyn Recipient>], friends(7)].concat();
        opens(&memory, silent_first).await.unwrap();
        assert_eq!(silent.0.load(std::sync::atomic::Ordering::Relaxed), 1, "of four keys only the first waited for it");
        let error = opens(&memory, vec![silent]).await.unwrap_err();
        assert_eq!((error.slug(), error.class()), ("key-unreachable", Class::Transient));
        assert!(error.detail().contains("friend") && error.detail().contains("no answer in time") && error.hint().contains("wait for it"));
    });
}
