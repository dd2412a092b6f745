//! Laws of the index: what was written is read back and merged, and damage in it is told of and never believed.

use super::*;
use futures::TryStreamExt;
use repo::{IndexEntry, IndexedDamage, IndexedPoint, WalIndex};
use std::collections::BTreeMap;
use terms::SegmentName;

const SIZE: SegmentSize = SegmentSize::DEFAULT;

fn segment(timeline: u32, number: u64) -> SegmentName {
    SegmentName::numbered(number, Timeline::new(timeline).unwrap(), SIZE)
}

/// An entry of a segment of which everything is known.
pub(super) fn entry(segment: SegmentName, ends: Option<(i64, i64)>) -> IndexEntry {
    let at = |seconds| NOW.plus_micros(seconds * 1_000_000);
    IndexEntry {
        segment,
        bytes_stored: 1000,
        digest: Digester::plain().digest(segment.to_string().as_bytes()),
        first_record: Some(segment.start(SIZE).plus(40)),
        end: segment.end(SIZE),
        min_end: ends.map(|(low, _)| at(low)),
        max_end: ends.map(|(_, high)| at(high)),
        restore_points: Vec::new(),
        open: None,
        damaged: None,
    }
}

async fn archive(encryption: Encryption) -> (Memory, Writer, Protection) {
    let memory = Memory::new();
    let mut writer = create(&memory, encryption).await;
    let epoch = writer.admit(SYSTEM, 18, NOW).await.unwrap();
    let protection = writer.wal_protection(&epoch).await.unwrap();
    (memory, writer, protection)
}

async fn batches(memory: &Memory) -> Vec<ObjectPath> {
    let all: Vec<_> = memory.list("wal", None).try_collect().await.unwrap();
    all.into_iter().map(|object| object.path).filter(|path| path.as_str().contains("/index/")).collect()
}

fn both() -> [Timeline; 2] {
    [1, 2].map(|id| Timeline::new(id).unwrap())
}

fn any_entry() -> impl Strategy<Value = IndexEntry> {
    let times = proptest::option::of((-1000i64..1000, -1000i64..1000));
    let point = ("\\PC{1,20}", any::<u32>(), any::<u32>());
    (
        1u32..3,
        0u64..300,
        times,
        vec(point, 0..3),
        proptest::option::of(any::<u32>()),
        proptest::option::of(("[A-Za-z ]{1,20}", any::<u32>())),
        1u64..u64::MAX,
    )
        .prop_map(|(timeline, number, ends, points, open, damaged, bytes_stored)| IndexEntry {
            bytes_stored,
            restore_points: points
                .into_iter()
                .map(|(name, end, micros)| IndexedPoint { name, end: Lsn::from_bytes(end.into()), time: NOW.plus_micros(micros.into()) })
                .collect(),
            open: open.map(|at| Lsn::from_bytes(at.into())),
            damaged: damaged.map(|(reason, at)| IndexedDamage { at: Lsn::from_bytes(at.into()), reason }),
            ..entry(segment(timeline, number), ends)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn batches_read_back_merged_in_whatever_order_they_were_written(given in vec(vec(any_entry(), 0..20), 0..8), encrypted: bool) {
        wait(async {
            let (_, writer, protection) = archive(if encrypted { Encryption::Aes256Gcm } else { Encryption::Off }).await;
            let mut wanted = WalIndex::default();
            for (minute, batch) in given.iter().enumerate() {
                let made = NOW.plus_micros(minute as i64 * 60_000_000);
                writer.put_index(SYSTEM, batch, &protection, made).await.unwrap();
                // Of a segment named twice in one batch the last entry is the one.
                let last: BTreeMap<SegmentName, &IndexEntry> = batch.iter().map(|e| (e.segment, e)).collect();
                last.into_values().for_each(|e| wanted.add(e.clone(), made));
            }
            let found = writer.reader().index(SYSTEM, &both()).await.unwrap();
            assert_eq!(found, wanted);
            let all: Vec<SegmentName> = given.iter().flatten().map(|e| e.segment).collect();
            assert_eq!(writer.reader().index_of(SYSTEM, &all).await.unwrap(), wanted);
            assert_eq!(found.latest_end(), wanted.entries().filter_map(|e| e.max_end).max());
            assert_eq!(found.without(all), []);
            assert!(writer.reader().index(OTHER, &both()).await.unwrap().entries().next().is_none());
        });
    }
}

#[test]
fn the_same_batch_is_stored_once_and_another_over_the_same_segments_beside_it() {
    wait(async {
        let (memory, writer, protection) = archive(Encryption::Aes256Gcm).await;
        let (first, last) = (entry(segment(1, 5), Some((1, 9))), entry(segment(1, 7), None));
        let put =
            async |entries: &[IndexEntry], minute: i64| writer.put_index(SYSTEM, entries, &protection, NOW.plus_micros(minute * 60_000_000)).await;
        assert!(matches!(put(&[first.clone(), last.clone()], 0).await, Ok(1..)));
        assert!(matches!(put(&[last.clone(), first.clone()], 1).await, Ok(0)), "the order does not matter, nor does the time");
        let middle = entry(segment(1, 6), Some((3, 4)));
        assert!(matches!(put(&[first.clone(), middle.clone(), last.clone()], 2).await, Ok(1..)));
        let worse = IndexEntry { damaged: Some(IndexedDamage { at: last.end, reason: "BadCrc".into() }), ..last.clone() };
        assert!(matches!(put(&[first.clone(), worse.clone()], 3).await, Ok(1..)));
        assert!(matches!(put(&[first.clone(), middle.clone(), last.clone()], 4).await, Ok(0)));
        let found = writer.reader().index(SYSTEM, &both()).await.unwrap();
        assert_eq!(found.entries().collect::<Vec<_>>(), [&first, &middle, &worse], "what was found out last counts");
        assert_eq!(batches(&memory).await.len(), 3);
        assert!(matches!(put(&[], 5).await, Ok(0)));
    });
}

#[test]
fn an_entry_that_knows_all_of_its_segment_is_not_replaced_by_one_that_does_not() {
    let whole = entry(segment(1, 5), Some((1, 9)));
    let open = IndexEntry { open: Some(whole.end), max_end: None, min_end: None, ..whole.clone() };
    let mut index = WalIndex::default();
    index.add(open.clone(), NOW);
    assert_eq!(index.entry(whole.segment), Some(&open));
    index.add(whole.clone(), NOW);
    index.add(open.clone(), NOW.plus_micros(99));
    assert_eq!(index.entry(whole.segment), Some(&whole));
    assert!(whole.is_whole(SIZE) && !open.is_whole(SIZE));
    let short = IndexEntry { end: Lsn::from_bytes(whole.end.bytes() - 8), ..whole };
    assert!(!short.is_whole(SIZE), "the log ends inside");
}

#[test]
fn a_damaged_batch_says_nothing_and_is_told_of_and_can_be_written_anew() {
    for encryption in [Encryption::Aes256Gcm, Encryption::Off] {
        wait(async {
            let (memory, writer, protection) = archive(encryption).await;
            let (one, other) = (entry(segment(1, 5), Some((1, 9))), entry(segment(1, 6), Some((2, 3))));
            for entry in [&one, &other] {
                writer.put_index(SYSTEM, std::slice::from_ref(entry), &protection, NOW).await.unwrap();
            }
            let path = batches(&memory).await.remove(0);
            let whole = memory.get(&path).await.unwrap();
            for at in 0..whole.len() {
                memory.tamper(&path, |bytes| bytes[at] ^= 16);
                let found = writer.reader().index(SYSTEM, &both()).await.unwrap();
                assert_eq!(found.entries().collect::<Vec<_>>(), [&other], "byte {at} of {}", whole.len());
                assert_eq!(found.unreadable()[0].0, path.to_string());
                memory.tamper(&path, |bytes| bytes[at] ^= 16);
            }
            memory.tamper(&path, |bytes| bytes.truncate(whole.len() - 1));
            let again = writer.put_index(SYSTEM, std::slice::from_ref(&one), &protection, NOW).await.unwrap();
            assert!(again > 0, "beside the damaged one");
            assert_eq!(writer.reader().index(SYSTEM, &both()).await.unwrap().entries().collect::<Vec<_>>(), [&one, &other]);
            // A batch under the name of another.
            let moved = memory.get(&batches(&memory).await[2]).await.unwrap();
            memory.put_new(&path_of_batch(9), moved).await.unwrap();
            assert_eq!(writer.reader().index(SYSTEM, &both()).await.unwrap().unreadable().len(), 2);
        });
    }
}

fn path_of_batch(number: u64) -> ObjectPath {
    let name = segment(1, number);
    path(&format!("wal/{SYSTEM}/00000001/index/{name}-{name}"))
}

#[test]
fn only_batches_about_the_wanted_segments_are_read_and_what_is_not_a_batch_is_passed_over() {
    wait(async {
        let (memory, writer, protection) = archive(Encryption::Aes256Gcm).await;
        for numbers in [0..10, 10..20, 15..30] {
            let entries: Vec<IndexEntry> = numbers.map(|n| entry(segment(1, n), None)).collect();
            writer.put_index(SYSTEM, &entries, &protection, NOW).await.unwrap();
        }
        for odd in [
            "notes.txt",
            "000000010000000000000001",
            "000000010000000000000009-000000010000000000000001",
            "000000010000000000000001-000000020000000000000001",
        ] {
            memory.put_new(&path(&format!("wal/{SYSTEM}/00000001/index/{odd}")), Bytes::from_static(b"?")).await.unwrap();
        }
        let of = async |numbers: &[u64]| {
            let segments: Vec<SegmentName> = numbers.iter().map(|n| segment(1, *n)).collect();
            writer.reader().index_of(SYSTEM, &segments).await.unwrap().entries().map(|e| e.segment.number(SIZE)).collect::<Vec<_>>()
        };
        assert_eq!(of(&[3]).await, (0..10).collect::<Vec<_>>());
        assert_eq!(of(&[9, 12]).await, (0..20).collect::<Vec<_>>());
        assert_eq!(of(&[29, 25]).await, (15..30).collect::<Vec<_>>());
        assert!(of(&[30]).await.is_empty());
        assert!(writer.reader().index(SYSTEM, &both()).await.unwrap().unreadable().is_empty());
        let (view, sizes) = writer.reader().wal_sizes(SYSTEM, SIZE).await.unwrap();
        assert_eq!((view.segments(), sizes.len()), (0, 0), "no part of the index is taken for a segment");
    });
}
