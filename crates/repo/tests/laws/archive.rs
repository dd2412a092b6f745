//! Laws of what is archived and listed: WAL files, backups and the coverage mark.

use super::*;
use repo::{BackupDocument, Coverage, Form, Kept, Piece, SegmentRun, Stored};
use store::{Fault, FaultPlan, Faults};
use terms::SegmentName;

#[test]
fn a_wal_file_is_kept_once_and_never_replaced() {
    for encryption in [Encryption::Aes256Gcm, Encryption::Off] {
        wait(async {
            let memory = Memory::new();
            let mut writer = create(&memory, encryption).await;
            let epoch = writer.admit(SYSTEM, 18, NOW).await.unwrap();
            let protection = writer.wal_protection(&epoch).await.unwrap();
            let keep = async |name: &str, bytes: &'static [u8]| {
                let name: WalName = name.parse().unwrap();
                writer.keep_wal(SYSTEM, &name, Bytes::from_static(bytes), &protection, Compression::Lz4).await
            };
            for name in [SEGMENT, "000000010000000A000000C3.partial", "0000000A.history", "000000010000000A000000C3.00000028.backup"] {
                assert!(matches!(keep(name, b"the log").await, Ok(Kept::Stored { .. })));
                assert!(matches!(keep(name, b"the log").await, Ok(Kept::Already { bytes_stored: 1.. })));
                assert!(matches!(keep(name, b"the lag").await, Err(RepoError::Conflict { .. })));
                assert_eq!(writer.reader().fetch_wal(SYSTEM, &name.parse().unwrap()).await.unwrap().unwrap(), b"the log");
            }
            let stored = repo::wal_object(SYSTEM, &SEGMENT.parse().unwrap());
            memory.tamper(&stored, |bytes| *bytes.last_mut().unwrap() ^= 1);
            assert!(keep(SEGMENT, b"the log").await.is_err(), "damage is not taken for the same bytes");
            let absent: WalName = "000000010000000A000000C5".parse().unwrap();
            assert_eq!(writer.reader().fetch_wal(SYSTEM, &absent).await.unwrap(), None);
            assert_eq!(writer.reader().fetch_wal(OTHER, &SEGMENT.parse().unwrap()).await.unwrap(), None);
        });
    }
}

#[test]
fn what_another_process_stored_is_made_durable_before_it_is_confirmed() {
    wait(async {
        let (memory, size) = (Memory::new(), SegmentSize::DEFAULT);
        let mut writer = create(&memory, Encryption::Off).await;
        let epoch = writer.admit(SYSTEM, 18, NOW).await.unwrap();
        let protection = writer.wal_protection(&epoch).await.unwrap();
        let whole: SegmentName = SEGMENT.parse().unwrap();
        let name = WalName::Segment(whole);
        writer.keep_wal(SYSTEM, &name, Bytes::from_static(b"the log"), &protection, Compression::None).await.unwrap();
        let start = whole.next(size).start(size);
        let half = size.bytes() / 2;
        for (from, session) in [(0, 1), (half, 1), (half, 2)] {
            let piece = Piece { segment: whole.next(size), start: start.plus(from), end: start.plus(from + half), session, form: Form::Object };
            writer.keep_piece(SYSTEM, &piece, Bytes::from(vec![0; half as usize]), &protection, Compression::Lz4).await.unwrap();
        }
        let view = writer.reader().wal_view(SYSTEM, size).await.unwrap();

        // The other process, which finds all that.
        let plan = FaultPlan::none();
        let other = Writer::open(Arc::new(Faults::new(Arc::new(memory.clone()), plan.clone())), Vec::new()).await.unwrap();
        let hardened = || plan.names().iter().filter(|name| name.starts_with("harden ")).count();
        other.keep_wal(SYSTEM, &name, Bytes::from_static(b"the log"), &protection, Compression::None).await.unwrap();
        assert_eq!(hardened(), 1, "{:?}", plan.names());
        assert!(other.vouch_for(&view, whole).await.unwrap());
        assert_eq!(hardened(), 2);
        assert!(other.vouch_for(&view, whole.next(size)).await.unwrap());
        assert_eq!(hardened(), 4, "each piece that the segment is made up of");
        assert!(!other.vouch_for(&view, whole.next(size).next(size)).await.unwrap());

        // What cannot be made durable is not confirmed.
        for door in [0, 1] {
            plan.also(plan.count() + if door == 0 { 3 } else { 1 }, Fault::Before);
            let refused = match door {
                0 => other.keep_wal(SYSTEM, &name, Bytes::from_static(b"the log"), &protection, Compression::None).await.map(|_| ()),
                _ => other.vouch_for(&view, whole).await.map(|_| ()),
            };
            assert!(refused.is_err() && plan.names().last().unwrap().starts_with("harden "), "{:?}", plan.names());
        }
    });
}

#[test]
fn a_piece_that_an_earlier_attempt_stored_is_found_done_and_never_replaced() {
    for encryption in [Encryption::Aes256Gcm, Encryption::Off] {
        wait(async {
            let memory = Memory::new();
            let mut writer = create(&memory, encryption).await;
            let epoch = writer.admit(SYSTEM, 18, NOW).await.unwrap();
            let protection = writer.wal_protection(&epoch).await.unwrap();
            let segment = SEGMENT.parse().unwrap();
            let start = Lsn::from_bytes(0xA_C300_0000);
            let piece = Piece { segment, start, end: start.plus(7), session: 7, form: Form::Object };
            let keep = async |bytes: &'static [u8]| writer.keep_piece(SYSTEM, &piece, Bytes::from_static(bytes), &protection, Compression::Lz4).await;
            keep(b"the log").await.unwrap();
            keep(b"the log").await.expect("sealed anew it is another object of the same bytes");
            assert!(matches!(keep(b"the lag").await, Err(RepoError::Conflict { .. })));
            let stored = writer.reader().fetch_segment(SYSTEM, segment, SegmentSize::DEFAULT).await.unwrap();
            assert_eq!(stored, Stored::Prefix(b"the log".to_vec()));
        });
    }
}

#[test]
fn a_segment_moved_to_another_name_is_refused() {
    for encryption in [Encryption::Aes256Gcm, Encryption::Off] {
        wait(async {
            let memory = Memory::new();
            let mut writer = create(&memory, encryption).await;
            let epoch = writer.admit(SYSTEM, 18, NOW).await.unwrap();
            let protection = writer.wal_protection(&epoch).await.unwrap();
            let (name, next): (WalName, WalName) = (SEGMENT.parse().unwrap(), "000000010000000A000000C4".parse().unwrap());
            writer.keep_wal(SYSTEM, &name, Bytes::from_static(b"the log"), &protection, Compression::None).await.unwrap();
            let bytes = memory.get(&repo::wal_object(SYSTEM, &name)).await.unwrap();
            memory.put_new(&repo::wal_object(SYSTEM, &next), bytes).await.unwrap();
            assert!(writer.reader().fetch_wal(SYSTEM, &next).await.is_err(), "{encryption:?}");
        });
    }
}

#[test]
fn a_view_from_a_segment_on_knows_that_timelines_later_segments_and_lists_no_others() {
    wait(async {
        let (memory, size) = (Memory::new(), SegmentSize::DEFAULT);
        let mut writer = create(&memory, Encryption::Off).await;
        let epoch = writer.admit(SYSTEM, 18, NOW).await.unwrap();
        let protection = writer.wal_protection(&epoch).await.unwrap();
        let segment = |timeline: u32, number: u64| SegmentName::numbered(number, Timeline::new(timeline).unwrap(), size);
        for (timeline, number) in [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (1, 6), (2, 3), (2, 4)] {
            let name = WalName::Segment(segment(timeline, number));
            writer.keep_wal(SYSTEM, &name, Bytes::from_static(b"the log"), &protection, Compression::None).await.unwrap();
        }
        for number in [2, 3, 5] {
            let start = segment(1, number).start(size);
            let piece = Piece { segment: segment(1, number), start, end: start.plus(7), session: 7, form: Form::Object };
            writer.keep_piece(SYSTEM, &piece, Bytes::from_static(b"the log"), &protection, Compression::None).await.unwrap();
        }
        let view = async |first| writer.reader().wal_view_from(SYSTEM, size, segment(1, first)).await.unwrap();
        let found = view(3).await;
        assert_eq!(found.timelines.iter().map(|t| t.timeline.id()).collect::<Vec<_>>(), [1]);
        assert_eq!(found.timelines[0].runs, [SegmentRun { first: 3, last: 4 }, SegmentRun { first: 6, last: 6 }]);
        assert_eq!(found.timelines[0].pieces.iter().map(|p| p.segment.number(size)).collect::<Vec<_>>(), [3, 5]);
        assert!(found.has(segment(1, 3)) && !found.has(segment(1, 2)) && !found.has(segment(1, 5)));
        assert_eq!(view(0).await.segments(), 6, "before the first segment of all there is none to begin behind");
        assert!(view(7).await.timelines.iter().all(|t| t.is_empty()));
    });
}

pub(crate) fn backup(writer: &Writer, id: BackupId) -> BackupDocument {
    let (format, written_by) = BackupDocument::stamp();
    BackupDocument {
        format,
        id,
        kind: BackupKind::Full,
        repository: writer.reader().document().id,
        system_id: SYSTEM,
        major: 18,
        server_version: "18.6".into(),
        timeline: Timeline::FIRST,
        start: position(0x200_0028),
        stop: position(0x200_0100),
        segment_bytes: SegmentSize::DEFAULT,
        source: "local".into(),
        compression: "zstd:1".into(),
        encryption: Encryption::Aes256Gcm,
        key: None,
        files: 0,
        bytes: 0,
        bytes_stored: 0,
        packs: 0,
        manifest_bytes: 0,
        page_checksums: true,
        pages_damaged: 0,
        took_seconds: 1.5,
        written_by,
    }
}

#[test]
fn a_backup_is_listed_from_its_publication_on_and_published_once() {
    wait(async {
        let memory = Memory::new();
        let writer = create(&memory, Encryption::Aes256Gcm).await;
        let (first, second) = (backup(&writer, id(0)), backup(&writer, id(60)));
        writer.publish(&second).await.unwrap();
        // An attempt that was never published, and a folder of somebody else's.
        memory.put_new(&path(&format!("full/{}/data/000001", id(30))), Bytes::from_static(b"a pack")).await.unwrap();
        memory.put_new(&path("full/notes/backup.json"), Bytes::from_static(b"{}")).await.unwrap();
        assert_eq!(writer.reader().backups().await.unwrap(), std::slice::from_ref(&second));
        writer.publish(&first).await.unwrap();
        let again = BackupDocument { bytes: 9, ..first.clone() };
        assert!(matches!(writer.publish(&again).await, Err(RepoError::BackupExists { .. })));
        assert_eq!(writer.reader().backups().await.unwrap(), [first.clone(), second]);
        let moved = memory.get(&path(&format!("full/{}/backup.json", id(0)))).await.unwrap();
        memory.put_new(&path(&format!("full/{}/backup.json", id(90))), moved).await.unwrap();
        assert!(writer.reader().backups().await.is_err(), "a backup.json under another backup's name");
    });
}

#[test]
fn the_coverage_mark_never_goes_back() {
    wait(async {
        let memory = Memory::new();
        let writer = create(&memory, Encryption::Aes256Gcm).await;
        assert_eq!(writer.reader().coverage(SYSTEM).await.unwrap(), None);
        let mark = |timeline, lsn, seconds: i64| {
            let timeline = Timeline::new(timeline).unwrap();
            Coverage::new(SYSTEM, timeline, Lsn::from_bytes(lsn), NOW.plus_micros(seconds * 1_000_000))
        };
        let order = [(mark(1, 100, 0), true), (mark(1, 100, 5), true), (mark(1, 90, 9), false), (mark(1, 100, 3), false), (mark(1, 200, 6), true)];
        let mut last = None;
        for (next, moves) in order {
            writer.cover(&next).await.unwrap();
            last = if moves { Some(next) } else { last };
            assert_eq!(writer.reader().coverage(SYSTEM).await.unwrap(), last);
        }
        let marks = (0..40u64).map(|i| mark(1, 300 + (i * 17) % 40, 10));
        let writers = marks.map(|mark| {
            let writer = writer.clone();
            async move { writer.cover(&mark).await }
        });
        let told = futures::future::join_all(writers).await;
        assert!(told.iter().all(Result::is_ok));
        assert_eq!(writer.reader().coverage(SYSTEM).await.unwrap().unwrap().lsn, Lsn::from_bytes(339));
    });
}
