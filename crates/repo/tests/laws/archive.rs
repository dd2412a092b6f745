//! Laws of what is archived and listed: WAL files, backups and the coverage mark.

use super::*;
use repo::{BackupDocument, Coverage, Form, Kept, Piece, SegmentRun, Stored};
use std::path::PathBuf;
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
fn a_timeline_is_found_by_its_history_its_segments_or_its_pieces_and_by_nothing_else() {
    wait(async {
        let memory = Memory::new();
        let mut writer = create(&memory, Encryption::Aes256Gcm).await;
        let epoch = writer.admit(SYSTEM, 18, NOW).await.unwrap();
        let protection = writer.wal_protection(&epoch).await.unwrap();
        let from = async |first: u32| {
            let found = writer.reader().timelines_from(SYSTEM, Timeline::new(first).unwrap()).await.unwrap();
            found.into_iter().map(Timeline::id).collect::<Vec<u32>>()
        };
        assert!(from(1).await.is_empty());
        let names = [SEGMENT, "00000003.history", "000000050000000A000000C4", "000000050000000A000000C5", "00000005.history"];
        for (system, name) in names.map(|name| (SYSTEM, name)).into_iter().chain([(OTHER, "00000009.history")]) {
            let name: WalName = name.parse().unwrap();
            writer.keep_wal(system, &name, Bytes::from_static(b"the log"), &protection, Compression::Lz4).await.unwrap();
        }
        let segment: SegmentName = "000000070000000A000000C5".parse().unwrap();
        let start = segment.start(SegmentSize::DEFAULT);
        let piece = Piece { segment, start, end: start.plus(7), session: 7, form: Form::Object };
        writer.keep_piece(SYSTEM, &piece, Bytes::from_static(b"the log"), &protection, Compression::Lz4).await.unwrap();
        // What is left when all WAL of a timeline has gone, and what lies beside the timelines.
        for beside in ["00000008/index/000000080000000A000000C5-000000080000000A000000C6", "coverage.json"] {
            memory.put_new(&path(&format!("wal/{SYSTEM}/{beside}")), Bytes::from_static(b"x")).await.unwrap();
        }
        assert_eq!(from(1).await, vec![1, 3, 5, 7]);
        assert_eq!(from(2).await, vec![3, 5, 7]);
        assert_eq!(from(3).await, vec![3, 5, 7]);
        assert_eq!(from(4).await, vec![5, 7]);
        assert!(from(8).await.is_empty());
    });
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

/// A repository in a folder, where pieces go to logs. Segments are as small as they can be.
struct Grounds {
    home: tempfile::TempDir,
    plan: Arc<store::FaultPlan>,
    writer: Writer,
    protection: Protection,
    size: SegmentSize,
    /// A segment, and the one after it.
    segment: SegmentName,
    next: SegmentName,
}

impl Grounds {
    async fn new(encryption: Encryption) -> Self {
        let home = tempfile::tempdir().unwrap();
        let plan = store::FaultPlan::none();
        let disk = store::Faults::new(Arc::new(store::Disk::new(home.path())), Arc::clone(&plan));
        let recipients = if encryption == Encryption::Off { Vec::new() } else { friends(7) };
        let mut writer = Writer::create(Arc::new(disk), recipients, "acme", encryption, serde_json::json!({}), NOW).await.unwrap();
        let epoch = writer.admit(SYSTEM, 18, NOW).await.unwrap();
        let protection = writer.wal_protection(&epoch).await.unwrap();
        let size = SegmentSize::from_bytes(1 << 20).unwrap();
        let segment = SegmentName::numbered(77, Timeline::FIRST, size);
        Self { home, plan, writer, protection, size, segment, next: segment.next(size) }
    }

    fn log_of(&self, segment: SegmentName, from: usize, session: u32, parts: &[&[u8]]) -> PathBuf {
        let start = segment.start(self.size).plus(from as u64);
        let mut log = self.writer.begin_log(SYSTEM, segment, start, session, &self.protection, Compression::Lz4).unwrap();
        for part in parts {
            log.add(part).unwrap();
        }
        let ends_at = from + parts.iter().map(|part| part.len()).sum::<usize>();
        assert_eq!(log.piece().end, segment.start(self.size).plus(ends_at as u64));
        self.home.path().join(format!("wal/{SYSTEM}/00000001/{}", log.piece()))
    }

    /// A log of the segment that begins at its byte `from`; where it lies.
    fn log(&self, from: usize, session: u32, parts: &[&[u8]]) -> PathBuf {
        self.log_of(self.segment, from, session, parts)
    }

    async fn object(&self, from: usize, bytes: &[u8]) {
        let start = self.segment.start(self.size).plus(from as u64);
        let piece = Piece { segment: self.segment, start, end: start.plus(bytes.len() as u64), session: 9, form: Form::Object };
        let bytes = Bytes::copy_from_slice(bytes);
        self.writer.keep_piece(SYSTEM, &piece, bytes, &self.protection, Compression::Lz4).await.unwrap();
    }

    async fn fetch(&self) -> Result<Stored, RepoError> {
        self.writer.reader().fetch_segment(SYSTEM, self.segment, self.size).await
    }

    /// How many bytes of the segment a listing says are stored.
    async fn listed(&self) -> u64 {
        let view = self.writer.reader().wal_view(SYSTEM, self.size).await.unwrap();
        view.reach(self.segment).bytes() - self.segment.start(self.size).bytes()
    }
}

/// Bytes that do not shrink and hold no zeros in a row.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 | 1
    };
    (0..length).map(|_| next()).collect()
}

fn tamper(path: &std::path::Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

const BOTH: [Encryption; 2] = [Encryption::Aes256Gcm, Encryption::Off];

#[test]
fn logs_and_pieces_that_are_objects_make_up_a_segment_together() {
    for encryption in BOTH {
        wait(async {
            let grounds = Grounds::new(encryption).await;
            let whole = noise(1 << 20);
            assert!(grounds.writer.can_grow());
            assert_eq!(grounds.fetch().await.unwrap(), Stored::Nothing);
            grounds.log(0, 1, &[&whole[..1], &whole[1..300_000], &whole[300_000..600_000]]);
            assert_eq!(grounds.fetch().await.unwrap(), Stored::Prefix(whole[..600_000].to_vec()));
            grounds.log(900_000, 2, &[&whole[900_000..]]);
            assert_eq!(grounds.fetch().await.unwrap(), Stored::Prefix(whole[..600_000].to_vec()), "a gap is before it");
            grounds.object(500_000, &whole[500_000..800_000]).await;
            assert_eq!((grounds.fetch().await.unwrap(), grounds.listed().await), (Stored::Prefix(whole[..800_000].to_vec()), 800_000));
            let has = async || grounds.writer.reader().wal_view(SYSTEM, grounds.size).await.unwrap().has(grounds.segment);
            assert!(!has().await);
            grounds.log(700_000, 3, &[&whole[700_000..850_000], &whole[850_000..950_000]]);
            assert_eq!((grounds.fetch().await.unwrap(), grounds.listed().await), (Stored::Whole(whole), 1 << 20));
            assert!(has().await);
        });
    }
}

#[test]
fn a_log_is_read_as_far_as_it_was_written() {
    for encryption in BOTH {
        wait(async {
            let grounds = Grounds::new(encryption).await;
            let bytes = noise(9_000);
            let log = grounds.log(0, 1, &[&bytes[..4_000], &bytes[4_000..]]);
            let whole = std::fs::read(&log).unwrap();
            for (cut, length) in [(1, 4_000), (16, 4_000), (4_999, 4_000), (5_010, 4_000), (5_040, 0)] {
                tamper(&log, |stored| *stored = whole[..whole.len() - cut].to_vec());
                let wanted = if length == 0 { Stored::Nothing } else { Stored::Prefix(bytes[..length].to_vec()) };
                assert_eq!((grounds.fetch().await.unwrap(), grounds.listed().await), (wanted, length as u64), "{cut} bytes cut off");
            }
        });
    }
}

#[test]
fn a_log_that_holds_nothing_counts_as_nothing() {
    for encryption in BOTH {
        wait(async {
            let grounds = Grounds::new(encryption).await;
            let log = grounds.log_of(grounds.next, 0, 1, &[b"the log"]);
            let whole = std::fs::read(&log).unwrap();
            let name = WalName::Segment(grounds.segment);
            let reader = grounds.writer.reader();
            assert_eq!(reader.wal_after(SYSTEM, &name).await.unwrap(), Some(grounds.next), "there is a byte of it");
            // Cut short, or its length alone reached the disk.
            for (length, zeros) in (0..whole.len()).map(|length| (length, 0)).chain([(0, 40), (0, whole.len())]) {
                tamper(&log, |stored| *stored = [&whole[..length], &vec![0; zeros]].concat());
                assert_eq!(reader.wal_after(SYSTEM, &name).await.unwrap(), None, "{length} bytes are there");
                assert_eq!(reader.fetch_segment(SYSTEM, grounds.next, grounds.size).await.unwrap(), Stored::Nothing);
                assert!(reader.wal_view(SYSTEM, grounds.size).await.unwrap().timelines.iter().all(repo::TimelineView::is_empty));
            }
        });
    }
}

#[test]
fn a_log_of_a_whole_segment_is_not_read_in_a_listing() {
    wait(async {
        let grounds = Grounds::new(Encryption::Aes256Gcm).await;
        let bytes = noise(1 << 20);
        let log = grounds.log(0, 1, &[&bytes[..5_000], &bytes[5_000..]]);
        let reads = || grounds.plan.names().iter().filter(|name| name.starts_with("get ") && name.ends_with(".log")).count();
        assert_eq!((grounds.listed().await, reads()), (1 << 20, 1), "how far it goes is known by reading it");
        let name = WalName::Segment(grounds.segment);
        grounds.writer.keep_wal(SYSTEM, &name, Bytes::from(bytes.clone()), &grounds.protection, Compression::Lz4).await.unwrap();
        tamper(&log, |stored| stored[70] ^= 1);
        assert_eq!((grounds.listed().await, reads()), (1 << 20, 1), "once is enough");
        assert_eq!(grounds.fetch().await.unwrap(), Stored::Whole(bytes));
    });
}

#[test]
fn a_damaged_log_that_is_needed_is_an_error_and_never_a_shorter_segment() {
    for encryption in BOTH {
        wait(async {
            let grounds = Grounds::new(encryption).await;
            let bytes = noise(9_000);
            let log = grounds.log(0, 1, &[&bytes[..4_000], &bytes[4_000..8_000], &bytes[8_000..]]);
            // Its mark, its kind, its key; the length of the first frame, its bytes; the length of the second, its number, its bytes.
            for at in [0, 8, 20, 64, 2_000, 4_096, 4_104, 6_000] {
                tamper(&log, |stored| stored[at] ^= 1);
                let refused = grounds.fetch().await;
                assert!(refused.is_err(), "{encryption:?}, byte {at}: {refused:?}");
                assert_eq!(grounds.listed().await, 0, "only whoever needs it is told");
                let before = SegmentName::numbered(76, Timeline::FIRST, grounds.size);
                let later = grounds.writer.reader().wal_after(SYSTEM, &WalName::Segment(before)).await.unwrap();
                assert_eq!(later, Some(grounds.segment), "something was there, or nothing would be damaged");
                tamper(&log, |stored| stored[at] ^= 1);
            }
            tamper(&log, |stored| stored[6_000] ^= 1);
            grounds.object(0, &bytes[..3_000]).await;
            assert!(grounds.fetch().await.is_err(), "the log leads further than this");
            grounds.log(3_000, 2, &[&bytes[3_000..]]);
            assert!(grounds.fetch().await.is_err(), "nobody knows how far the damaged one led");
            let mut whole = bytes.clone();
            whole.resize(1 << 20, 7);
            grounds.log(9_000, 3, &[&whole[9_000..]]);
            assert_eq!(grounds.fetch().await.unwrap(), Stored::Whole(whole), "no further than to the segment's end");
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
    document(writer.reader().document().id, id)
}

/// The document of a backup in this repository.
pub(crate) fn document(repository: seal::RepositoryId, id: BackupId) -> BackupDocument {
    let (format, written_by) = BackupDocument::stamp();
    BackupDocument {
        format,
        id,
        kind: BackupKind::Full,
        repository,
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
fn a_backup_whose_attempt_was_swept_is_not_listed() {
    wait(async {
        let memory = Memory::new();
        let writer = create(&memory, Encryption::Aes256Gcm).await;
        let held_up = BackupDocument { packs: 2, ..backup(&writer, id(0)) };
        let pack = |number| format!("full/{}/data/{number:06}", held_up.id);
        memory.put_new(&path(&pack(2)), Bytes::from_static(b"a pack")).await.unwrap();
        match writer.publish(&held_up).await {
            Err(RepoError::Swept { pack: missing, .. }) => assert_eq!(missing, pack(1)),
            other => panic!("{other:?}"),
        }
        assert_eq!(writer.reader().backups().await.unwrap(), []);
        memory.put_new(&path(&pack(1)), Bytes::from_static(b"a pack")).await.unwrap();
        writer.publish(&held_up).await.unwrap();
        assert_eq!(writer.reader().backups().await.unwrap(), [held_up]);
    });
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
