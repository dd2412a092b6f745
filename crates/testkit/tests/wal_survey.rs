//! What the surveyor makes of the logs of real servers of every major: what pg_waldump sees in each segment, and no damage where there is none.

use pg::wal::{EndReason, Record, RecordKind, RecordWalker, SegmentSurvey, Surveyor, WalSource};
use pg::{CONTROL_FILE, ControlFile};
use std::fs;
use std::path::{Path, PathBuf};
use terms::{Lsn, SegmentName, Timeline, Timestamp};
use testkit::{Cluster, outer_majors};

fn control(data_dir: &Path) -> ControlFile {
    ControlFile::parse(&fs::read(data_dir.join(CONTROL_FILE)).expect("pg_control")).expect("parse")
}

fn source(control: &ControlFile, timeline: Timeline) -> WalSource {
    WalSource { major: control.major, system_id: control.system_id, timeline, segment_size: control.segment_size }
}

/// The segments in pg_wal of this timeline that begin before `end`, in order.
fn segments(data_dir: &Path, timeline: Timeline, control: &ControlFile, end: Lsn) -> Vec<(SegmentName, PathBuf)> {
    let names = fs::read_dir(data_dir.join("pg_wal")).expect("pg_wal").map(|e| e.expect("entry").path());
    let named = names.filter_map(|path| Some((path.file_name()?.to_str()?.parse::<SegmentName>().ok()?, path)));
    let mut found: Vec<_> = named.filter(|(name, _)| name.timeline() == timeline && name.start(control.segment_size) < end).collect();
    found.sort();
    found
}

fn survey(source: WalSource, segments: &[(SegmentName, PathBuf)], fork: Option<Lsn>, piece: usize) -> Vec<SegmentSurvey> {
    let mut surveyor = Surveyor::new(source, segments[0].0.start(source.segment_size)).left_at(fork);
    let mut found = Vec::new();
    for (_, path) in segments {
        for piece in fs::read(path).expect("segment").chunks(piece) {
            surveyor.feed(piece, |survey| found.push(survey));
        }
    }
    surveyor.finish(|survey| found.push(survey));
    found
}

fn records(source: WalSource, segments: &[(SegmentName, PathBuf)]) -> Vec<Record> {
    let mut walker = RecordWalker::in_segment(source, segments[0].0.start(source.segment_size));
    let mut found = Vec::new();
    for (_, path) in segments {
        walker.feed(&fs::read(path).expect("segment"), |record| found.push(record));
    }
    found
}

#[derive(Default, Debug, PartialEq)]
struct Said {
    first: Option<Lsn>,
    ends: Option<(Timestamp, Timestamp)>,
    points: usize,
}

/// What pg_waldump says of the records that begin in a segment.
fn said_of(cluster: &Cluster, segments: &[(SegmentName, PathBuf)], control: &ControlFile) -> Vec<Said> {
    let mut said: Vec<Said> = segments.iter().map(|_| Said::default()).collect();
    let output = cluster.bin("pg_waldump").arg(&segments[0].1).arg(&segments[segments.len() - 1].1).output().expect("pg_waldump");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let after = |word: &str| line.split_once(word).map(|(_, rest)| rest).unwrap_or_else(|| panic!("{line}"));
        let lsn: Lsn = after(", lsn: ").split(',').next().and_then(|text| text.parse().ok()).expect("an lsn");
        let words = after(", desc: ");
        let number = |lsn: Lsn| lsn.bytes() / control.segment_size.bytes();
        let here = &mut said[(number(lsn) - segments[0].0.number(control.segment_size)) as usize];
        here.first.get_or_insert(lsn);
        here.points += usize::from(words.starts_with("RESTORE_POINT"));
        if line.starts_with("rmgr: Transaction") && (words.starts_with("COMMIT") || words.starts_with("ABORT")) {
            let text = if words.starts_with("COMMIT_PREPARED") || words.starts_with("ABORT_PREPARED") {
                words.split_once(": ").expect("an xid").1
            } else {
                words
            };
            let time: Vec<&str> = text[text.find("20").expect("a year")..].split(&[' ', ';'][..]).take(3).collect();
            let at: Timestamp = time.join(" ").parse().unwrap_or_else(|e| panic!("{line}: {e}"));
            here.ends = Some(here.ends.map_or((at, at), |(low, high)| (low.min(at), high.max(at))));
        }
    }
    said
}

fn assert_good(surveys: &[SegmentSurvey], what: &str) {
    for survey in surveys {
        assert_eq!((survey.damage, survey.open), (None, None), "{what}: {survey:#?}");
    }
}

#[test]
fn each_segment_holds_what_pg_waldump_sees_in_it() {
    for major in outer_majors() {
        let cluster = Cluster::builder(major)
            .wal_segment_mib(1)
            .setting("max_prepared_transactions", 10)
            .setting("wal_keep_size", "1GB")
            .setting("max_wal_size", "2GB")
            .start();
        cluster.psql(
            "CREATE TABLE t (a int PRIMARY KEY, b text);
             DO $$ BEGIN FOR i IN 1..40 LOOP INSERT INTO t SELECT i * 1000 + n, repeat('x', n) FROM generate_series(1, 300) n; COMMIT; END LOOP; END $$;
             BEGIN; INSERT INTO t VALUES (1, 'no'); ROLLBACK;
             BEGIN; INSERT INTO t VALUES (2, ''); PREPARE TRANSACTION 'yes'; COMMIT PREPARED 'yes';
             BEGIN; INSERT INTO t VALUES (3, ''); PREPARE TRANSACTION 'no'; ROLLBACK PREPARED 'no';
             SELECT pg_create_restore_point('before the change'), pg_switch_wal();
             SELECT pg_logical_emit_message(true, 'big', repeat('abc', 1200000));
             SELECT pg_create_restore_point('after the change');
             DELETE FROM t WHERE a % 3 = 0; SELECT pg_switch_wal(); CHECKPOINT; INSERT INTO t VALUES (5, '')",
        );
        cluster.pg_ctl_stop(true);
        let control = control(cluster.data_dir());
        // The last one is still under way: zeros follow its last record.
        let all = segments(cluster.data_dir(), Timeline::FIRST, &control, control.checkpoint.plus(1));
        let whole = &all[..all.len() - 1];
        assert!(whole.len() > 8, "PostgreSQL {major}: {} segments", whole.len());
        let said = said_of(&cluster, &all, &control);
        for piece in [usize::MAX, 8191] {
            let found = survey(source(&control, Timeline::FIRST), whole, None, piece);
            assert_good(&found, &format!("PostgreSQL {major}"));
            assert_eq!(found.iter().map(|s| s.segment).collect::<Vec<_>>(), whole.iter().map(|(name, _)| *name).collect::<Vec<_>>());
            for (found, said) in found.iter().zip(&said) {
                assert_eq!((found.end, found.restore_points.len()), (found.segment.end(control.segment_size), said.points));
                assert_eq!((found.first_record, found.commits), (said.first, said.ends), "PostgreSQL {major}: {}", found.segment);
            }
            let points: Vec<&str> = found.iter().flat_map(|s| &s.restore_points).map(|(name, ..)| name.as_str()).collect();
            assert_eq!(points, ["before the change", "after the change"]);
            assert!(found.iter().any(|s| s.first_record.is_none()), "the big message fills whole segments");
            each_alone(&source(&control, Timeline::FIRST), whole, &found);
        }
        let last = survey(source(&control, Timeline::FIRST), &all, None, usize::MAX).pop().expect("a segment");
        let damage = last.damage.expect("the log ends inside");
        assert_eq!((damage.reason, last.end), (EndReason::ZeroTail, damage.at));
        assert!(damage.at > control.checkpoint, "after the shutdown checkpoint");
    }
}

/// As `wal push` sees them: one by one, each knows all that begins in it, or says which record it leaves open.
fn each_alone(source: &WalSource, whole: &[(SegmentName, PathBuf)], together: &[SegmentSurvey]) {
    for ((name, path), together) in whole.iter().zip(together) {
        let bytes = fs::read(path).expect("segment");
        let alone = capture::survey_segment(*source, *name, &bytes, None);
        assert_eq!((alone.damage, alone.end, alone.first_record), (None, together.end, together.first_record), "{name}");
        match alone.open {
            None => assert_eq!(&alone, together),
            Some(open) => assert!((name.start(source.segment_size)..name.end(source.segment_size)).contains(&open)),
        }
        let digest = seal::Digester::plain().digest(&bytes);
        let entry = capture::entry_of(alone.clone(), digest, 77);
        assert_eq!((entry.segment, entry.bytes_stored, entry.digest, entry.damaged.is_some()), (*name, 77, digest, false));
        assert_eq!((entry.min_end.zip(entry.max_end), entry.open, entry.end), (alone.commits, alone.open, alone.end));
        assert_eq!(entry.is_whole(source.segment_size), alone.open.is_none());
        let short = capture::survey_segment(*source, *name, &bytes[..bytes.len() - 8192], None);
        assert_eq!(short.damage.map(|damage| damage.reason), Some(EndReason::NeedMoreData));
        let elsewhere = capture::survey_segment(*source, name.next(source.segment_size), &bytes, None);
        assert_eq!(elsewhere.damage.map(|damage| damage.reason), Some(EndReason::PageMismatch));
    }
}

#[test]
fn a_promoted_timelines_first_segment_and_its_ancestors_last_are_good() {
    for major in outer_majors() {
        let primary = Cluster::builder(major).wal_segment_mib(1).setting("wal_keep_size", "1GB").start();
        primary.psql("CREATE TABLE t AS SELECT generate_series(1, 20000) a");
        let standby = primary.standby();
        primary.psql("INSERT INTO t SELECT generate_series(1, 500)");
        standby.catch_up(&primary);
        standby.promote();
        standby.psql("INSERT INTO t SELECT generate_series(1, 30000); SELECT pg_switch_wal(); INSERT INTO t VALUES (1)");
        // The old primary goes on for a while: its history is one that was left.
        primary.psql("INSERT INTO t VALUES (7)");
        let tail_commit = primary.psql("SELECT 1; SELECT pg_current_wal_flush_lsn()");
        primary.pg_ctl_stop(false);
        standby.pg_ctl_stop(true);
        let (second, control) = (Timeline::new(2).expect("timeline"), control(standby.data_dir()));
        let text = fs::read_to_string(standby.data_dir().join("pg_wal/00000002.history")).expect("history");
        let fork = pg::TimelineHistory::parse(second, &text).expect("history").parent().expect("a parent").end;

        let new = segments(standby.data_dir(), second, &control, control.checkpoint);
        assert_eq!(new[0].0, SegmentName::containing(fork, second, control.segment_size));
        let found = survey(source(&control, second), &new[..new.len() - 1], None, usize::MAX);
        assert_good(&found, &format!("PostgreSQL {major}, the new timeline"));
        assert!(found[0].first_record.is_some_and(|first| first < fork), "it begins with the ancestor's records");
        assert!(found.iter().any(|survey| survey.commits.is_some()));

        let old = segments(primary.data_dir(), Timeline::FIRST, &control, fork);
        let found = survey(source(&control, Timeline::FIRST), &old, Some(fork), usize::MAX);
        assert_good(&found, &format!("PostgreSQL {major}, the old timeline"));
        let end: Lsn = tail_commit.lines().last().and_then(|text| text.parse().ok()).expect("an lsn");
        assert!(found.last().is_some_and(|last| last.end >= end && end > fork), "what the old primary wrote after the fork is its own: {found:?}");
        let unexpected = survey(source(&control, Timeline::FIRST), &old, None, usize::MAX);
        assert!(unexpected.last().is_some_and(|last| last.damage.is_some()), "without a fork the log ends where it should not");
        // The file that the promoted server left of the old timeline: everything after the fork is zeros or older bytes.
        let name = SegmentName::containing(fork, Timeline::FIRST, control.segment_size);
        let left = standby.data_dir().join(format!("pg_wal/{name}.partial"));
        if left.exists() {
            let found = survey(source(&control, Timeline::FIRST), &[(name, left)], Some(fork), 4096);
            assert_good(&found, &format!("PostgreSQL {major}, the partial segment"));
        }
    }
}

#[test]
fn a_record_that_a_crash_tore_is_no_damage_once_the_server_says_so() {
    for major in outer_majors() {
        let cluster = Cluster::builder(major).wal_segment_mib(1).setting("wal_keep_size", "1GB").setting("autovacuum", "off").start();
        cluster
            .psql("CREATE TABLE t (a int); CHECKPOINT; INSERT INTO t VALUES (1); SELECT pg_logical_emit_message(true, 'big', repeat('z', 3500000))");
        cluster.kill9();
        let before = control(cluster.data_dir());
        let far = Lsn::from_bytes(u64::MAX);
        let files = segments(cluster.data_dir(), Timeline::FIRST, &before, far);
        let torn = records(source(&before, Timeline::FIRST), &files).into_iter().find(|r| r.length > 3_000_000).expect("the big record");
        // What a power loss leaves: the second half of the record never reached the disk.
        let cut = Lsn::from_bytes((torn.start.bytes() + 1_700_000) / 8192 * 8192);
        for (name, path) in &files {
            let keep = cut.bytes_since(name.start(before.segment_size)).min(before.segment_size.bytes()) as usize;
            let mut bytes = fs::read(path).expect("segment");
            bytes[keep..].fill(0);
            fs::write(path, bytes).expect("write");
        }
        cluster.start_server();
        cluster.psql("INSERT INTO t SELECT generate_series(1, 30000); SELECT pg_switch_wal(); INSERT INTO t VALUES (2)");
        cluster.pg_ctl_stop(true);
        let control = control(cluster.data_dir());
        let all = segments(cluster.data_dir(), Timeline::FIRST, &control, control.checkpoint);
        let whole = &all[..all.len() - 1];
        let overwritten = records(source(&control, Timeline::FIRST), whole)
            .into_iter()
            .find_map(|r| if let RecordKind::OverwriteContrecord { overwritten } = r.kind { Some((overwritten, r.start)) } else { None });
        let (overwritten, at) = overwritten.unwrap_or_else(|| panic!("PostgreSQL {major} did not overwrite the torn record\n{}", cluster.log()));
        assert_eq!(overwritten, torn.start);
        let torn_in = whole.iter().position(|(name, _)| name.start(control.segment_size) > torn.start).expect("a segment") - 1;
        assert!(at > whole[torn_in].0.end(control.segment_size), "it is overwritten in a later segment");
        let found = survey(source(&control, Timeline::FIRST), whole, None, usize::MAX);
        assert_good(&found, &format!("PostgreSQL {major}"));
        // Also when the survey begins in the middle of what was torn.
        for first in torn_in + 1..whole.len() {
            assert_eq!(survey(source(&control, Timeline::FIRST), &whole[first..], None, 5000), found[first..]);
        }
    }
}
