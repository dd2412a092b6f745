//! What room `pg` makes of PostgreSQL's bytes and programs, against PostgreSQL's own tools of every major.

use pg::rules::{Verdict, init_fork_of, judge, relation_file};
use pg::wal::{EndReason, Record, RecordKind, RecordWalker, SegmentHeader, WalSource, may_create_tablespace};
use pg::{CONTROL_FILE, ControlFile, PrivateOptions, PrivateServer, ServerState, StopMode};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use terms::{Lsn, SegmentName, SegmentSize, Timeline, Timestamp};
use testkit::{Cluster, majors};

const LIMIT: Duration = Duration::from_secs(60);

fn run(command: &mut Command) -> String {
    let output = command.output().expect("run");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn control(data_dir: &Path) -> ControlFile {
    ControlFile::parse(&fs::read(data_dir.join(CONTROL_FILE)).expect("pg_control")).expect("parse")
}

/// The segments in pg_wal of this timeline, in order.
fn segments(data_dir: &Path, timeline: Timeline) -> Vec<(SegmentName, PathBuf)> {
    let names = fs::read_dir(data_dir.join("pg_wal")).expect("pg_wal").map(|e| e.expect("entry").path());
    let mut found: Vec<(SegmentName, PathBuf)> = names
        .filter_map(|p| Some((p.file_name()?.to_str()?.parse().ok()?, p)))
        .filter(|(n, _): &(SegmentName, _)| n.timeline() == timeline)
        .collect();
    found.sort();
    found
}

fn source(control: &ControlFile, timeline: Timeline) -> WalSource {
    WalSource { major: control.major, system_id: control.system_id, timeline, segment_size: control.segment_size }
}

fn walk(walker: &mut RecordWalker, bytes: &[u8], piece: usize) -> Vec<Record> {
    let mut found = Vec::new();
    for piece in bytes.chunks(piece) {
        if walker.feed(piece, |record| found.push(record)).is_some() {
            break;
        }
    }
    found
}

/// Everything that leaves an interesting record behind.
fn busy_cluster(major: u32) -> Cluster {
    let cluster = Cluster::builder(major)
        .wal_segment_mib(1)
        .setting("max_prepared_transactions", 10)
        .setting("wal_keep_size", "1GB")
        .setting("max_wal_size", "2GB")
        .setting("wal_level", "logical")
        .setting("wal_compression", "on")
        .start();
    run(cluster.bin("pgbench").args(["-i", "-s", "1", "-q", "postgres"]));
    run(cluster.bin("pgbench").args(["-c", "4", "-j", "2", "-t", "150", "postgres"]));
    cluster.psql(
        "CREATE TABLE t (a int PRIMARY KEY, b text);
         BEGIN; INSERT INTO t SELECT i, repeat('x', i) FROM generate_series(1, 500) i; SAVEPOINT a; DELETE FROM t WHERE a < 9;
         ROLLBACK TO a; SAVEPOINT b; UPDATE t SET b = a::text; COMMIT;
         BEGIN; INSERT INTO t VALUES (9999, 'no'); ROLLBACK;
         BEGIN; INSERT INTO t VALUES (1001, ''); PREPARE TRANSACTION 'yes'; COMMIT PREPARED 'yes';
         BEGIN; INSERT INTO t VALUES (1002, ''); PREPARE TRANSACTION 'no'; ROLLBACK PREPARED 'no';
         SELECT pg_create_restore_point('before the change'), pg_switch_wal();
         SELECT pg_logical_emit_message(true, 'big', repeat('abc', 1200000));
         CHECKPOINT; UPDATE t SET b = b || 'y';
         DO $$ BEGIN FOR i IN 1..200 LOOP BEGIN INSERT INTO t VALUES (5000 + i); EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$;
         SELECT pg_switch_wal();
         DROP TABLE t; CREATE UNLOGGED TABLE u (a int); VACUUM FULL pgbench_branches;
         SELECT pg_logical_emit_message(false, 'odd', repeat('z', i)) FROM generate_series(1, 3000, 7) i",
    );
    cluster.psql(
        "CREATE DATABASE gone; DROP DATABASE gone; SET allow_in_place_tablespaces = on; CREATE TABLESPACE gone LOCATION ''; DROP TABLESPACE gone",
    );
    run(cluster.bin("pg_basebackup").arg("-D").arg(cluster.home().join("backup")).args(["-c", "fast", "-X", "none", "--no-manifest"]));
    cluster
}

#[test]
fn pg_control_says_what_pg_controldata_says() {
    for major in majors() {
        let cluster = Cluster::builder(major).wal_segment_mib(4).setting("max_connections", 77).setting("max_prepared_transactions", 3).start();
        cluster.pg_ctl_stop(true);
        let control = control(cluster.data_dir());
        let said = run(cluster.bin("pg_controldata").arg(cluster.data_dir()));
        let said: HashMap<&str, &str> = said.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k.trim(), v.trim())).collect();
        let checks = [
            ("Database system identifier", control.system_id.to_string()),
            ("pg_control version number", control.control_version.to_string()),
            ("Catalog version number", control.catalog_version.to_string()),
            ("Database cluster state", "shut down".into()),
            ("Latest checkpoint location", control.checkpoint.to_string()),
            ("Latest checkpoint's REDO location", control.redo.to_string()),
            ("Latest checkpoint's TimeLineID", control.timeline.to_string()),
            ("Latest checkpoint's PrevTimeLineID", control.previous_timeline.to_string()),
            ("Latest checkpoint's full_page_writes", if control.full_page_writes { "on" } else { "off" }.into()),
            ("Minimum recovery ending location", control.min_recovery_point.to_string()),
            ("Backup start location", control.backup_start.to_string()),
            ("Backup end location", control.backup_end.to_string()),
            ("End-of-backup record required", if control.backup_end_required { "yes" } else { "no" }.into()),
            ("wal_level setting", format!("{:?}", control.wal_level).to_lowercase()),
            ("wal_log_hints setting", if control.wal_log_hints { "on" } else { "off" }.into()),
            ("max_connections setting", control.max_connections.to_string()),
            ("max_worker_processes setting", control.max_worker_processes.to_string()),
            ("max_wal_senders setting", control.max_wal_senders.to_string()),
            ("max_prepared_xacts setting", control.max_prepared_xacts.to_string()),
            ("max_locks_per_xact setting", control.max_locks_per_xact.to_string()),
            ("track_commit_timestamp setting", if control.track_commit_timestamp { "on" } else { "off" }.into()),
            ("Database block size", control.page_size.to_string()),
            ("Blocks per segment of large relation", control.relation_segment_blocks.to_string()),
            ("WAL block size", control.wal_page_size.to_string()),
            ("Bytes per WAL segment", control.segment_size.bytes().to_string()),
            ("Data page checksum version", u32::from(control.data_checksums).to_string()),
        ];
        for (key, value) in checks {
            assert_eq!(said.get(key), Some(&value.as_str()), "PostgreSQL {major}: {key}");
        }
        assert_eq!((control.major, control.max_connections, control.segment_size.bytes()), (major, 77, 4 << 20));
        let day = 86_400 * 1_000_000;
        let now = terms::Clock::now(&terms::SystemClock).unix_micros();
        for at in [control.written_at, control.checkpoint_at] {
            assert!((now - day..now + day).contains(&at.unix_micros()), "{at}");
        }
        let mut bytes = fs::read(cluster.data_dir().join(CONTROL_FILE)).expect("pg_control");
        for at in 16..288 {
            bytes[at] ^= 4;
            assert!(ControlFile::parse(&bytes).is_err(), "byte {at}");
            bytes[at] ^= 4;
        }
    }
}

/// The records as pg_waldump prints them: position, total length, resource manager, transaction, description.
fn dumped(cluster: &Cluster, first: &Path, last: &Path) -> Vec<(Lsn, u32, String, u32, String)> {
    let output = cluster.bin("pg_waldump").arg(first).arg(last).output().expect("pg_waldump");
    let field = |line: &str, before: &str, after: &str| -> String {
        let rest = line.split_once(before).unwrap_or_else(|| panic!("{line}")).1;
        rest.split(after).next().unwrap_or_default().trim().to_owned()
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| {
            let lengths = field(line, "len (rec/tot):", ", tx:");
            (
                field(line, ", lsn: ", ",").parse().expect("lsn"),
                lengths.rsplit_once('/').expect("lengths").1.trim().parse().expect("length"),
                field(line, "rmgr: ", "len (rec"),
                field(line, ", tx:", ",").parse().expect("tx"),
                field(line, ", desc: ", "\n"),
            )
        })
        .collect()
}

const RMGRS: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];

/// Compares one record with pg_waldump's words for it; returns the kind's name.
fn agree(record: &Record, said: &str) -> &'static str {
    let time_in = |text: &str| -> Timestamp {
        let begin = text.find("20").expect("a year");
        let words: Vec<&str> = text[begin..].split(&[' ', ';'][..]).take(3).collect();
        words.join(" ").parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    };
    // `COMMIT_PREPARED 742: 2026-…`: the transaction's own number, not the session's.
    let prepared = |at: Timestamp, xid: Option<u32>| {
        let (head, rest) = said.split_once(": ").expect("xid");
        let number = head.rsplit(' ').next().and_then(|text| text.parse::<u32>().ok());
        at == time_in(rest) && number.is_some() && xid == number
    };
    let name = match &record.kind {
        RecordKind::Commit { at } => (*at == time_in(said), "COMMIT"),
        RecordKind::Abort { at } => (*at == time_in(said), "ABORT"),
        RecordKind::CommitPrepared { at, xid } => (prepared(*at, *xid), "COMMIT_PREPARED"),
        RecordKind::AbortPrepared { at, xid } => (prepared(*at, *xid), "ABORT_PREPARED"),
        RecordKind::RestorePoint { name, .. } => (said.ends_with(name.as_str()) && name == "before the change", "RESTORE_POINT"),
        RecordKind::Switch => (true, "SWITCH"),
        RecordKind::Checkpoint { shutdown, redo, timeline, previous_timeline, .. } => {
            let want = format!("redo {redo}; tli {timeline}; prev tli {previous_timeline};");
            // From 19 on the low half of a position has leading zeros.
            (said.contains(&want), if *shutdown { "CHECKPOINT_SHUTDOWN" } else { "CHECKPOINT_ONLINE" })
        }
        RecordKind::EndOfRecovery { timeline, previous_timeline, .. } => {
            (said.contains(&format!("tli {timeline}; prev tli {previous_timeline};")), "END_OF_RECOVERY")
        }
        RecordKind::BackupEnd { start } => (said.ends_with(&start.to_string()), "BACKUP_END"),
        RecordKind::OverwriteContrecord { .. } => (true, "OVERWRITE_CONTRECORD"),
        RecordKind::TablespaceCreated { oid, location } => (said.ends_with(&format!("{oid} \"{}\"", location.display())), "CREATE"),
        RecordKind::Other => (true, ""),
    };
    assert!(name.0 && (name.1.is_empty() || said.split([' ', ';']).next() == Some(name.1)), "{record:?}\n{said}");
    name.1
}

#[test]
fn every_record_is_the_one_that_pg_waldump_sees() {
    for major in majors() {
        let cluster = busy_cluster(major);
        cluster.pg_ctl_stop(true);
        let control = control(cluster.data_dir());
        let segments = segments(cluster.data_dir(), Timeline::FIRST);
        let mut bytes = Vec::new();
        for (name, path) in &segments {
            let segment = fs::read(path).expect("segment");
            // Segments after the last written one are recycled or new: their headers are not theirs.
            if name.start(control.segment_size) <= control.checkpoint {
                let header = SegmentHeader::read(&segment, &name.to_string()).expect("header");
                header.check(*name, control.system_id, control.segment_size).expect("its own header");
                assert_eq!(header.major, major);
            }
            bytes.extend(segment);
        }
        let first = segments[0].0.start(control.segment_size);
        for piece in [usize::MAX, 1 << 20, 8192, 4099] {
            let mut walker = RecordWalker::in_segment(source(&control, Timeline::FIRST), first);
            let found = walk(&mut walker, &bytes, piece);
            let said = dumped(&cluster, &segments[0].1, &segments[segments.len() - 1].1);
            assert!(found.len() > 5000, "{}", found.len());
            let mut kinds = BTreeSet::new();
            for (record, (lsn, length, rmgr, xid, words)) in found.iter().zip(&said) {
                let got = (record.start, record.length, RMGRS[usize::from(record.rmgr)], record.xid);
                assert_eq!(got, (*lsn, *length, rmgr.as_str(), *xid), "PostgreSQL {major}");
                kinds.insert(agree(record, words));
                let drop_or_inplace = match (rmgr.as_str(), words.split(' ').next()) {
                    ("Database", Some("DROP")) => "DROP DATABASE",
                    ("Tablespace", Some("DROP")) => "DROP TABLESPACE",
                    ("Heap", Some("INPLACE")) => "INPLACE",
                    _ => "",
                };
                assert_eq!(record.takes_effect_at_once(), !drop_or_inplace.is_empty(), "PostgreSQL {major}: {record:?}\n{words}");
                kinds.insert(drop_or_inplace);
            }
            assert_eq!(found.len(), said.len(), "PostgreSQL {major}: {:?}, dump ends with {:?}", walker.end(), said.last());
            for kind in [
                "COMMIT",
                "ABORT",
                "COMMIT_PREPARED",
                "ABORT_PREPARED",
                "RESTORE_POINT",
                "SWITCH",
                "CHECKPOINT_ONLINE",
                "CHECKPOINT_SHUTDOWN",
                "BACKUP_END",
                "DROP DATABASE",
                "DROP TABLESPACE",
                "INPLACE",
                "CREATE",
            ] {
                assert!(kinds.contains(kind), "PostgreSQL {major}: no {kind}");
            }
            tablespaces_are_seen_from_above(&found, &segments, &control);
            let last = found.last().expect("records");
            assert_eq!((last.start, walker.end().at), (control.checkpoint, last.end));
            assert_ne!(walker.end().reason, EndReason::NeedMoreData);
        }
        flipped_bits_end_the_log(&control, first, &bytes);
    }
}

/// Whoever hops over the records misses no segment in which a tablespace is created, and suspects few others.
fn tablespaces_are_seen_from_above(found: &[Record], segments: &[(SegmentName, PathBuf)], control: &ControlFile) {
    let creating: BTreeSet<Lsn> = found
        .iter()
        .filter(|record| matches!(record.kind, RecordKind::TablespaceCreated { .. }))
        .map(|record| record.start.segment_start(control.segment_size))
        .collect();
    let may = |path: &PathBuf| may_create_tablespace(&fs::read(path).expect("segment"));
    let written = segments.iter().map(|(name, path)| (name.start(control.segment_size), path)).filter(|(start, _)| *start <= control.checkpoint);
    let suspected: BTreeSet<Lsn> = written.filter(|(_, path)| may(path)).map(|(start, _)| start).collect();
    assert!(!creating.is_empty() && suspected.is_superset(&creating), "{suspected:?} {creating:?}");
    assert!(suspected.len() < segments.len() / 2, "{} of {}", suspected.len(), segments.len());
}

/// Flips bits of records here and there: the walk must end just before the record that was hit.
fn flipped_bits_end_the_log(control: &ControlFile, first: Lsn, bytes: &[u8]) {
    let records = walk(&mut RecordWalker::in_segment(source(control, Timeline::FIRST), first), bytes, usize::MAX);
    let mut state = testkit::seed("flipped_bits") | 1;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..300 {
        let index = random(records.len() as u64) as usize;
        let record = &records[index];
        let segment_begin = record.start.segment_start(control.segment_size);
        let on_page = 8192 - record.start.bytes() % 8192;
        let at = record.start.plus(random(on_page.min(record.length.into())));
        let offset = |lsn: Lsn| lsn.bytes_since(first) as usize;
        let until = (offset(record.end) + (2 << 20)).min(bytes.len());
        let mut changed = bytes[offset(segment_begin)..until].to_vec();
        changed[at.bytes_since(segment_begin) as usize] ^= 1 << random(8);
        let mut walker = RecordWalker::at(source(control, Timeline::FIRST), record.start);
        let found = walk(&mut walker, &changed, 1 << 20);
        assert!(found.is_empty() && walker.end().at == record.start, "{record:?} changed at {at}: {:?}", walker.end());
        // A length that grew may lead beyond the bytes at hand; everything else is seen at once.
        if walker.end().reason == EndReason::NeedMoreData {
            assert!(at.bytes_since(record.start) < 4);
        }
    }
}

#[test]
fn a_promoted_standbys_log_and_history_agree() {
    for major in majors() {
        let primary = Cluster::start(major);
        primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) a");
        let standby = primary.standby();
        standby.catch_up(&primary);
        standby.promote();
        standby.psql("INSERT INTO t VALUES (1)");
        standby.pg_ctl_stop(true);
        let control = control(standby.data_dir());
        let second = Timeline::new(2).expect("timeline");
        let text = fs::read_to_string(standby.data_dir().join("pg_wal/00000002.history")).expect("history");
        let history = pg::TimelineHistory::parse(second, &text).expect("history");
        assert_eq!(history.to_string(), text);
        let branch = history.parent().expect("a parent").clone();
        let segments = segments(standby.data_dir(), second);
        let first = segments[0].0.start(SegmentSize::DEFAULT);
        let bytes: Vec<u8> = segments.iter().flat_map(|(_, path)| fs::read(path).expect("segment")).collect();
        let mut walker = RecordWalker::in_segment(source(&control, second), first);
        let found = walk(&mut walker, &bytes, 1 << 20);
        // The first record of the timeline; a page header may stand between.
        let begins = found.iter().find(|r| r.start >= branch.end).expect("a record");
        assert!(matches!(begins.kind, RecordKind::EndOfRecovery { timeline, .. } if timeline == second), "PostgreSQL {major}: {begins:?}");
        assert!(begins.start.bytes_since(branch.end) <= 40);
        assert_eq!(found.last().map(|r| r.start), Some(control.checkpoint));
        assert!(history.contains(second, control.checkpoint) && !history.contains(Timeline::FIRST, control.checkpoint));
    }
}

/// The files and directories below `root`, symbolic links followed, by the rules when there are some.
fn listed(root: &Path, rules: Option<&str>) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(root.join(&dir)).expect("directory") {
            let path = dir.join(entry.expect("entry").file_name());
            let verdict = rules.map_or(Verdict::Copy, |version_dir| judge(&path, version_dir));
            let is_unlogged = rules.is_some() && init_fork_of(&path).is_some_and(|init| root.join(init).exists());
            if verdict == Verdict::Skip || is_unlogged {
                continue;
            }
            if verdict == Verdict::Copy && root.join(&path).is_dir() {
                todo.push(path.clone());
            }
            found.insert(path);
        }
    }
    found
}

#[test]
fn the_rules_choose_the_files_that_pg_basebackup_chooses() {
    for major in majors() {
        let cluster = Cluster::builder(major).tablespace("fast").setting("autovacuum", "off").start();
        let mut session = cluster.bin("psql");
        let mut session =
            session.args(["-d", "postgres"]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().expect("psql");
        let mut input = session.stdin.take().expect("stdin");
        std::io::Write::write_all(
            &mut input,
            b"CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 9000) a; CREATE INDEX ON u (a); VACUUM u; CREATE UNLOGGED TABLE f (a int) TABLESPACE fast;
              CREATE TEMP TABLE mine AS SELECT generate_series(1, 900) a; CREATE TEMP TABLE his TABLESPACE fast AS SELECT 1 a;
              CREATE TABLE kept TABLESPACE fast AS SELECT generate_series(1, 900) a; VACUUM kept; CHECKPOINT; CREATE TABLE done ();\n",
        )
        .expect("write");
        while cluster.psql("SELECT count(*) FROM pg_class WHERE relname = 'done'") != "1" {
            std::thread::sleep(Duration::from_millis(20));
        }
        fs::write(cluster.data_dir().join("base/pgsql_tmp.none"), "").expect("write");
        let (backup, space) = (cluster.home().join("backup"), cluster.home().join("space"));
        let mapping = format!("{}={}", cluster.tablespace_dir("fast").display(), space.display());
        let mut command = cluster.bin("pg_basebackup");
        run(command.arg("-D").arg(&backup).args(["-c", "fast", "-X", "none", "--no-manifest", "-T"]).arg(mapping));
        let version_dir = control(cluster.data_dir()).tablespace_dir();
        let mut theirs = listed(&backup, None);
        assert!(theirs.remove(Path::new("backup_label")));
        // What is in an empty directory is not judged; the server makes these itself.
        let mut ours = listed(cluster.data_dir(), Some(&version_dir));
        for optional in ["pg_wal/archive_status", "pg_wal/summaries", "tablespace_map"] {
            ours.remove(Path::new(optional));
            theirs.remove(Path::new(optional));
        }
        assert_eq!(ours.symmetric_difference(&theirs).collect::<Vec<_>>(), Vec::<&PathBuf>::new(), "PostgreSQL {major}");
        assert!(ours.iter().filter_map(|p| relation_file(p)).any(|f| f.tablespace.is_some()));
        let label = pg::BackupLabel::parse(&fs::read_to_string(backup.join("backup_label")).expect("label")).expect("label");
        assert_eq!((label.timeline, label.from_standby, label.incremental_from), (Timeline::FIRST, false, None));
        assert!(label.label.starts_with("pg_basebackup") && label.checkpoint >= label.start);
        drop(input);
        session.wait().expect("psql");
    }
}

#[test]
fn every_page_of_a_stopped_cluster_is_good_and_a_changed_one_is_not() {
    for major in majors() {
        let cluster = Cluster::start(major);
        run(cluster.bin("pgbench").args(["-i", "-s", "2", "-q", "postgres"]));
        cluster.pg_ctl_stop(true);
        let (mut pages, mut zeros) = (0, 0);
        for path in listed(cluster.data_dir(), Some(&control(cluster.data_dir()).tablespace_dir())) {
            let Some(file) = relation_file(&path) else { continue };
            let mut bytes = fs::read(cluster.data_dir().join(&path)).expect("relation");
            let first = file.segment * 131_072;
            assert_eq!(pg::verify_pages(&bytes, first).next(), None, "{path:?}");
            pages += bytes.len() / pg::PAGE_SIZE;
            zeros += bytes.chunks(pg::PAGE_SIZE).filter(|page| page.iter().all(|b| *b == 0)).count();
            if bytes.len() >= 2 * pg::PAGE_SIZE {
                bytes[pg::PAGE_SIZE + 4000] ^= 32;
                assert_eq!(pg::verify_pages(&bytes, first).next().map(|bad| bad.block), Some(first + 1), "{path:?}");
            }
        }
        assert!(pages > 3000, "PostgreSQL {major}: {pages} pages");
        eprintln!("PostgreSQL {major}: {pages} pages, {zeros} of them zeros");
    }
}

fn ask(cluster: &Cluster, server: &PrivateServer, sql: &str) -> String {
    let mut psql = cluster.bin("psql");
    psql.args(["-XAtq", "-U", "postgres", "-d", "postgres", "-c", sql]);
    run(psql.arg("-h").arg(server.socket_dir()).arg("-p").arg(server.port().to_string())).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_server_runs_on_a_copy_whose_own_settings_would_open_it_or_hold_it_up() {
    for major in majors() {
        let cluster = Cluster::start(major);
        cluster.psql("CREATE TABLE t AS SELECT 42 a");
        cluster.pg_ctl_stop(true);
        let data_dir = cluster.data_dir().to_owned();
        let auto = "listen_addresses = '*'\nport = 5432\nsynchronous_standby_names = '*'\narchive_mode = on\narchive_command = 'false'\n\
            unix_socket_directories = '/nowhere'\nlogging_collector = on\nhba_file = '/nowhere/pg_hba.conf'\nssl = on\n";
        fs::write(data_dir.join("postgresql.auto.conf"), auto).expect("write");
        for outside in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
            fs::rename(data_dir.join(outside), cluster.home().join(outside)).expect("move");
        }
        let mut options = PrivateOptions {
            bin_dir: pg::find_bin_dir(major, Some(&cluster.bin_dir())).expect("programs"),
            data_dir: data_dir.clone(),
            owner: pg::owner_of(&data_dir).expect("owner"),
            settings: vec![("work_mem".into(), "7MB".into())],
            log: cluster.home().join("private.log"),
            cut_off: false,
            sockets: "/tmp".into(),
        };
        let mut server = PrivateServer::start(&options).expect("start");
        server.wait_until(|state| state == ServerState::Ready, LIMIT).await.expect("ready");
        assert_eq!(ask(&cluster, &server, "SELECT a FROM t"), "42");
        assert_eq!(ask(&cluster, &server, "INSERT INTO t VALUES (43) RETURNING a"), "43");
        assert_eq!(ask(&cluster, &server, "SELECT current_setting('listen_addresses'), current_setting('work_mem')"), "|7MB");
        assert_eq!(pg::server_running_in(&data_dir), Some(server.pid()));
        let again = PrivateServer::start(&options).expect_err("one at a time");
        assert_eq!(terms::Explain::slug(&again), "pg-running");
        let socket_dir = server.socket_dir().to_owned();
        assert!(server.stop(StopMode::Fast, LIMIT).await.expect("stop").success());
        assert!(!socket_dir.exists() && pg::server_running_in(&data_dir).is_none());

        // A standby that lets nobody in is seen all the same.
        fs::write(data_dir.join("standby.signal"), "").expect("write");
        options.settings.push(("hot_standby".into(), "off".into()));
        let mut server = PrivateServer::start(&options).expect("start");
        server.wait_until(|state| state == ServerState::Standby, LIMIT).await.expect("standby");
        drop(server);
        assert_eq!(pg::server_running_in(&data_dir), None);
        fs::remove_file(data_dir.join("standby.signal")).expect("remove");

        options.settings.push(("max_connections".into(), "many".into()));
        let mut server = PrivateServer::start(&options).expect("start");
        let error = server.wait_until(|state| state == ServerState::Ready, LIMIT).await.expect_err("a wrong setting");
        assert!(terms::Explain::detail(&error).contains("max_connections"), "{}", terms::Explain::detail(&error));
    }
}

/// Not a test of its own: the next one runs it in a process that then dies without any farewell.
#[test]
#[ignore = "run by the next test"]
fn a_process_that_dies_beside_its_private_server() {
    let var = |name: &str| PathBuf::from(std::env::var_os(name).expect("set by the test"));
    let data_dir = var("PG_BYTES_DATA");
    let owner = pg::owner_of(&data_dir).expect("owner");
    let options = PrivateOptions {
        bin_dir: var("PG_BYTES_BIN"),
        log: data_dir.with_file_name("dies.log"),
        data_dir,
        owner,
        settings: vec![],
        cut_off: false,
        sockets: "/tmp".into(),
    };
    let mut server = PrivateServer::start(&options).expect("start");
    while server.state() != ServerState::Ready {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::process::abort();
}

#[test]
fn a_private_server_does_not_outlive_the_process_that_started_it() {
    let cluster = Cluster::start(testkit::newest_major());
    cluster.pg_ctl_stop(true);
    let mut other = Command::new(std::env::current_exe().expect("this test"));
    other.args(["--exact", "a_process_that_dies_beside_its_private_server", "--ignored"]);
    let output = other.env("PG_BYTES_DATA", cluster.data_dir()).env("PG_BYTES_BIN", cluster.bin_dir()).output().expect("run");
    assert!(!output.status.success());
    let begun = std::time::Instant::now();
    while pg::server_running_in(cluster.data_dir()).is_some() || control(cluster.data_dir()).state != pg::ClusterState::ShutDown {
        assert!(begun.elapsed() < LIMIT, "the server still runs");
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = fs::read_to_string(cluster.home().join("dies.log")).expect("log");
    assert!(log.contains("ready to accept connections") && log.contains("fast shutdown"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_started_and_stopped_as_its_administrator_would() {
    for major in majors() {
        let cluster = Cluster::start(major);
        cluster.pg_ctl_stop(true);
        let data_dir = cluster.data_dir();
        let settings = [("cluster_name".to_owned(), "it's back".to_owned())];
        let log = cluster.home().join("normal.log");
        pg::start_normally(&cluster.bin_dir(), data_dir, &settings, &log, LIMIT).await.expect("start");
        assert_eq!(cluster.psql("SHOW cluster_name"), "it's back");
        let again = pg::start_normally(&cluster.bin_dir(), data_dir, &settings, &log, LIMIT).await.expect_err("runs");
        assert_eq!(terms::Explain::slug(&again), "pg-running");
        assert!(pg::stop_server(data_dir, LIMIT).await.expect("stop"));
        assert!(!pg::stop_server(data_dir, LIMIT).await.expect("nothing to stop"));
        let wrong = [("port".to_owned(), "x".to_owned())];
        let error = pg::start_normally(&cluster.bin_dir(), data_dir, &wrong, &log, LIMIT).await.expect_err("a wrong port");
        assert!(terms::Explain::detail(&error).contains("port"), "{}", terms::Explain::detail(&error));
    }
}
