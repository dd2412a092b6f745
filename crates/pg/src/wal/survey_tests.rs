//! The surveyor over logs made here, against what was written into each segment.

use super::survey::{Damage, SegmentSurvey, Surveyor};
use super::walker::EndReason;
use super::walker_tests::{Log, PAGE, SEGMENT, START, commits, source};
use proptest::prelude::*;
use terms::{Lsn, SegmentName, Timestamp};

fn lsn(bytes: u64) -> Lsn {
    Lsn::from_bytes(bytes)
}

/// Surveys all of it and pretends that it ends there.
fn survey_in(surveyor: Surveyor, bytes: &[u8], piece: usize) -> Vec<SegmentSurvey> {
    let (mut surveyor, mut found) = (surveyor, Vec::new());
    for piece in bytes.chunks(piece) {
        surveyor.feed(piece, |survey| found.push(survey));
    }
    surveyor.finish(|survey| found.push(survey));
    found
}

fn survey(bytes: &[u8]) -> Vec<SegmentSurvey> {
    survey_in(Surveyor::new(source(), lsn(START)), bytes, usize::MAX)
}

/// A log of ends of transactions, each with its own time, and what each segment should be found to hold.
fn dated(sizes: &[usize]) -> (Log, Vec<SegmentSurvey>) {
    let mut log = Log::default();
    let mut times = Vec::new();
    for (index, size) in sizes.iter().enumerate() {
        // Not in the order of the log.
        let micros = (index as i64 * 7919) % 10_007;
        let mut data = micros.to_le_bytes().to_vec();
        data.resize(8 + size, 5);
        log.record(1, 0, &data);
        times.push(Timestamp::from_postgres_micros(micros));
    }
    let whole = (log.position() - START) / SEGMENT;
    let mut wanted = Vec::new();
    for number in START / SEGMENT..START / SEGMENT + whole {
        let segment = SegmentName::numbered(number, source().timeline, source().segment_size);
        let inside: Vec<usize> = (0..times.len()).filter(|at| log.records[*at].0 / SEGMENT == number).collect();
        let stamps = || inside.iter().map(|at| times[*at]);
        wanted.push(SegmentSurvey {
            segment,
            first_record: inside.first().map(|at| lsn(log.records[*at].0)),
            end: lsn((number + 1) * SEGMENT),
            commits: stamps().min().zip(stamps().max()),
            restore_points: Vec::new(),
            open: None,
            damage: None,
        });
    }
    (log, wanted)
}

fn mixed(count: usize, odd: usize) -> Vec<usize> {
    (0..count).map(|i| i * odd % 9001).collect()
}

#[test]
fn each_segment_holds_the_transactions_whose_end_begins_in_it() {
    let sizes = [mixed(700, 37), vec![3 << 20], mixed(400, 11)].concat();
    let (log, wanted) = dated(&sizes);
    assert!(wanted.len() > 4 && wanted.iter().any(|s| s.first_record.is_none()), "one lies in the middle of a long record");
    assert_eq!(survey(&log.bytes), wanted);
}

#[test]
fn a_segment_by_itself_says_which_record_it_leaves_open() {
    let (log, wanted) = dated(&mixed(1200, 37));
    for (index, wanted) in wanted.iter().enumerate() {
        let begin = index * SEGMENT as usize;
        let start = lsn(START + begin as u64);
        let alone = survey_in(Surveyor::new(source(), start), &log.bytes[begin..begin + SEGMENT as usize], 5000);
        let last = log.records.iter().rfind(|(at, _)| lsn(*at) < wanted.end).expect("a record");
        let next = log.records.iter().find(|(at, _)| lsn(*at) >= wanted.end);
        let reaches_out = next.is_none_or(|(at, _)| lsn(*at) > wanted.end.plus(40));
        assert_eq!(alone.len(), 1);
        assert_eq!(alone[0].open, reaches_out.then_some(lsn(last.0)), "{:?}", wanted.segment);
        assert_eq!((alone[0].end, alone[0].first_record, alone[0].damage), (wanted.end, wanted.first_record, None));
    }
    // Also one that says nothing: whether it is whole is not known.
    let mut log = commits(&[100]);
    log.record(10, 0, &vec![1; SEGMENT as usize]);
    let alone = survey(&log.bytes[..SEGMENT as usize]);
    let (last, _) = log.records[1];
    assert_eq!((alone[0].open, alone[0].damage, alone[0].end), (Some(lsn(last)), None, lsn(START + SEGMENT)));
}

#[test]
fn the_unused_rest_after_a_switch_is_no_damage() {
    for garbage in [0, 0xAA] {
        let mut log = commits(&[100]);
        log.record(0, 0x40, &[]);
        log.bytes.resize(SEGMENT as usize, garbage);
        log.record(1, 0, &[0; 8]);
        log.bytes.resize(2 * SEGMENT as usize, garbage);
        let found = survey(&log.bytes);
        assert_eq!((found[0].damage, found[0].end), (None, lsn(START + SEGMENT)));
        let after = log.records.last().expect("a record").0 + 40;
        let reason = if garbage == 0 { EndReason::ZeroTail } else { EndReason::BadHeader };
        assert_eq!(found[1].damage, Some(Damage { at: lsn(after), reason }), "without a switch it is damage");
    }
}

#[test]
fn a_record_that_was_never_finished_is_no_damage() {
    for size in [20_000, 3 << 20] {
        let mut log = commits(&[100, size]);
        let (torn, _) = log.records.pop().expect("the last");
        let overwritten_at = log.position() / PAGE * PAGE - PAGE;
        log.bytes.truncate((overwritten_at - START) as usize);
        log.previous = log.records[0].0;
        log.begin_page(0, 8);
        log.record(0, 0xD0, &[&torn.to_le_bytes()[..], &[0; 8]].concat());
        while log.position() < START + 4 * SEGMENT {
            log.record(1, 0, &[0; 4008]);
        }
        let found = survey(&log.bytes);
        assert!(found.iter().all(|s| s.damage.is_none() && s.open.is_none()), "{found:?}");
        // Also when the survey begins in the midst of it.
        let second = survey_in(Surveyor::new(source(), lsn(START + SEGMENT)), &log.bytes[SEGMENT as usize..], usize::MAX);
        assert_eq!(second, found[1..]);
    }
}

#[test]
fn damage_is_found_in_its_segment_and_the_next_is_surveyed_again() {
    let (log, wanted) = dated(&mixed(1200, 37));
    for index in 1..wanted.len() - 1 {
        let in_it = |(at, _): &&(u64, u32)| lsn(*at) >= wanted[index].segment.start(source().segment_size);
        let (at, _) = log.records.iter().filter(in_it).nth(20).expect("a record");
        let mut bytes = log.bytes.clone();
        bytes[(at - START) as usize + 30] ^= 1;
        let found = survey(&bytes);
        assert_eq!(found.len(), wanted.len());
        for (other, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            match other == index {
                true => assert_eq!((found.damage, found.end), (Some(Damage { at: lsn(*at), reason: EndReason::BadCrc }), lsn(*at))),
                false => assert_eq!(found, wanted, "segment {other} of a log damaged in {index}"),
            }
        }
    }
}

#[test]
fn damage_in_a_record_that_reaches_across_segments_marks_each_of_them() {
    let (log, wanted) = dated(&[vec![100, 3 << 20], mixed(800, 37)].concat());
    let mut bytes = log.bytes.clone();
    bytes[2 * SEGMENT as usize + 5000] ^= 1;
    let found = survey(&bytes);
    let damage = Damage { at: lsn(log.records[1].0), reason: EndReason::BadCrc };
    let last = ((log.records[1].0 + u64::from(log.records[1].1)) / SEGMENT - START / SEGMENT) as usize;
    assert!((3..wanted.len() - 1).contains(&last));
    for (index, found) in found.iter().enumerate() {
        assert_eq!(found.damage, (index <= last).then_some(damage), "segment {index}");
    }
}

#[test]
fn what_follows_the_place_where_a_timeline_was_left_is_no_damage() {
    for garbage in [0u8, 0xAA] {
        let log = commits(&[100, 900, 20]);
        let fork = lsn(log.position());
        let mut bytes = log.bytes.clone();
        bytes.resize(2 * SEGMENT as usize, garbage);
        let surveyor = || Surveyor::new(source(), lsn(START));
        let left = survey_in(surveyor().left_at(Some(fork)), &bytes, 999);
        assert_eq!(left.iter().map(|s| s.damage).collect::<Vec<_>>(), [None, None]);
        assert_eq!((left[0].end, left[1].end), (fork, lsn(START + SEGMENT)));
        let expected = survey_in(surveyor(), &bytes, 999);
        assert!(expected.iter().all(|s| s.damage.is_some()));
        let early = survey_in(surveyor().left_at(Some(fork.plus(8))), &bytes, 999);
        assert_eq!(early[0].damage.map(|d| d.at), Some(fork), "the log should have gone on for a while");
    }
}

#[test]
fn what_is_under_way_is_known_before_it_is_finished() {
    let (log, _) = dated(&[10, 20, 30]);
    let mut surveyor = Surveyor::new(source(), lsn(START + 77));
    assert_eq!((surveyor.position(), surveyor.latest()), (lsn(START), None));
    let mut latest = None;
    for (index, (start, length)) in log.records.iter().enumerate() {
        let until = (start + u64::from(*length)).next_multiple_of(8) - START;
        let from = surveyor.position().bytes() - START;
        surveyor.feed(&log.bytes[from as usize..until as usize], |_| panic!("no segment is finished"));
        latest = latest.max(Some(Timestamp::from_postgres_micros((index as i64 * 7919) % 10_007)));
        assert_eq!((surveyor.current().end, surveyor.latest()), (lsn(START + until), latest));
    }
}

/// `cargo test --release -p pg survey_speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn survey_speed() {
    for size in [60, 150, 1000, 8000] {
        let log = commits(&vec![size; (128 << 20) / (size + 40)]);
        let mut best = f64::MAX;
        for _ in 0..10 {
            let begun = std::time::Instant::now();
            let (mut surveyor, mut count) = (Surveyor::new(source(), lsn(START)), 0);
            for piece in log.bytes.chunks(1 << 17) {
                surveyor.feed(piece, |survey| count += usize::from(survey.damage.is_none()));
            }
            assert!(count >= 127);
            best = best.min(begun.elapsed().as_secs_f64());
        }
        println!("records of {size} bytes and 37: {:.2} GB/s", log.bytes.len() as f64 / best / 1e9);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_pieces_in_which_it_comes_change_nothing(sizes in prop::collection::vec(0usize..400_000, 5..20), piece in 1usize..300_000) {
        let (log, wanted) = dated(&sizes);
        let found = survey_in(Surveyor::new(source(), lsn(START)), &log.bytes, piece);
        prop_assert_eq!(found, wanted);
    }

    #[test]
    fn garbage_never_panics(noise in prop::collection::vec(any::<u8>(), 1..3000), at in 0usize..2_200_000, piece in 1usize..400_000, fork in any::<Option<u32>>()) {
        let mut log = commits(&[100, 1 << 20, 3, 900_000, 200_000]).bytes;
        let at = at.min(log.len());
        let reach = noise.len().min(log.len() - at);
        log[at..at + reach].copy_from_slice(&noise[..reach]);
        let fork = fork.map(|f| lsn(START + u64::from(f) % (3 * SEGMENT)));
        let found = survey_in(Surveyor::new(source(), lsn(START)).left_at(fork), &log, piece);
        prop_assert_eq!(found.len() as u64, log.len() as u64 / SEGMENT);
    }
}
