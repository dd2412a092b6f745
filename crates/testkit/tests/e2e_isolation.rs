//! A restore beside production neither obeys production's settings nor loses what hangs in the middle of a transaction.

use std::time::Duration;
use terms::{Clock, SystemClock};
use testkit::bowline::files_below;
use testkit::{Bowline, Cluster, RepositoryKind, newest_major, outer_majors};

#[test]
fn a_side_restore_is_deaf_to_the_settings_it_was_copied_with() {
    for major in outer_majors() {
        // With segments of this size PostgreSQL's own defaults let no server start: they make less than two of them.
        let cluster = Cluster::builder(major).wal_segment_mib(if major == newest_major() { 64 } else { 16 }).start();
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        let trace = cluster.home().join("s").join("archived-by-a-copy");
        cluster.psql("CREATE TABLE t AS SELECT 1 AS a");
        for (name, value) in [
            ("synchronous_standby_names", "nobody"),
            ("archive_mode", "always"),
            ("archive_command", &format!("touch {}", trace.display())),
            ("shared_preload_libraries", "not_there"),
            ("session_preload_libraries", "not_there"),
            ("local_preload_libraries", "not_there"),
            ("recovery_target_xid", "3"),
            ("restore_command", "false"),
            ("primary_conninfo", "host=192.0.2.1"),
            ("ssl", "on"),
            ("listen_addresses", "*"),
            ("shared_buffers", "900GB"),
            ("logging_collector", "on"),
            ("log_directory", "/not/there"),
            ("external_pid_file", "/not/there/pid"),
        ] {
            // Not loaded: the running server must stay as it is.
            cluster.psql(&format!("ALTER SYSTEM SET {name} = '{value}'"));
        }
        bowline.ok(&["backup"]);
        let restored = bowline.restore(&["--to", "latest"]);
        assert_eq!(restored.psql("INSERT INTO t VALUES (2); CREATE EXTENSION amcheck; SELECT count(*) FROM t"), "2", "PostgreSQL {major}");
        restored.psql("SELECT pg_switch_wal(); CHECKPOINT");
        assert_eq!(restored.psql("SHOW listen_addresses; SHOW archive_mode; SHOW synchronous_standby_names").trim(), "off");
        std::thread::sleep(Duration::from_millis(300));
        assert!(!trace.exists(), "the copy ran production's archive_command");
        assert!(cluster.is_running());
    }
}

#[test]
fn a_prepared_transaction_hangs_after_the_restore_as_it_did_at_the_instant() {
    for major in outer_majors() {
        let cluster = Cluster::builder(major).setting("max_prepared_transactions", 5).setting("autovacuum", "off").start();
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        cluster.psql("CREATE TABLE t (a int)");
        let receiver = bowline.receive();
        cluster.psql("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'before the backup'");
        bowline.ok(&["backup"]);
        cluster.psql("BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'after the backup'");
        let hanging = SystemClock.now();
        std::thread::sleep(Duration::from_millis(20));
        cluster.psql("COMMIT PREPARED 'before the backup'; ROLLBACK PREPARED 'after the backup'");
        bowline.archive_now();
        let restored = bowline.restore(&["--to", &hanging.to_string()]);
        assert_eq!(restored.psql("SELECT count(*) FROM t; SELECT count(*) FROM pg_prepared_xacts"), "0\n2", "PostgreSQL {major}");
        restored.psql("COMMIT PREPARED 'before the backup'; COMMIT PREPARED 'after the backup'");
        assert_eq!(restored.psql("SELECT count(*) FROM t"), "2");
        drop(restored);
        let restored = bowline.restore(&["--to", "latest"]);
        assert_eq!(restored.psql("SELECT string_agg(a::text, ',') FROM t; SELECT count(*) FROM pg_prepared_xacts"), "1\n0", "PostgreSQL {major}");
        assert_eq!(receiver.stop(), Some(0));
    }
}

#[test]
fn what_is_not_clear_is_asked_back_before_anything_is_touched() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let nothing_yet = bowline.new_target();
    let path = nothing_yet.to_str().expect("a plain path").to_owned();
    bowline.fails(&["restore", "--yes", "--target", &path], 3, "backup-missing");
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    for _ in 0..2 {
        cluster.psql("SELECT pg_create_restore_point('twice')");
    }
    bowline.archive_now();
    let text = bowline.restore_fails(&["--to", "name:twice"], 4, "timeline-ambiguous").0;
    assert!(text.contains("2 times"), "{text}");
    bowline.restore_fails(&["--backup", "20200101T000000Z"], 3, "backup-missing");
    bowline.restore_fails(&["--timeline", "7"], 3, "target-unreachable");
    bowline.fails(&["restore", "--target", &path], 2, "not-confirmed");
    assert_eq!(bowline.run(&["restore", "--yes", "--to", "2026-11-22 14:05"]).code, 2, "a time without its zone");
    bowline.fails(&["restore", "--yes", "--target", "relative/path"], 4, "target-unusable");
    let occupied = cluster.home().join("s").join("photos");
    std::fs::create_dir(&occupied).and_then(|()| std::fs::write(occupied.join("album"), "precious")).expect("write");
    bowline.fails(&["restore", "--yes", "--target", occupied.to_str().expect("a plain path")], 4, "target-unusable");
    assert_eq!(std::fs::read(occupied.join("album")).expect("still there"), b"precious");
    let plan = bowline.ok(&["restore", "--plan", "--target", &path]);
    assert_eq!(plan["plan"]["timeline"].to_string().trim_matches('"'), "1");
    assert!(!nothing_yet.exists(), "a plan touches nothing");
    // A directory that a restore made is moved aside by the next one, not merged into.
    bowline.ok(&["restore", "--yes", "--no-start", "--target", &path]);
    let again = bowline.ok(&["restore", "--yes", "--no-start", "--target", &path]);
    assert!(std::path::Path::new(again["moved_aside"].as_str().expect("moved")).join("PG_VERSION").exists());
    assert!(!nothing_yet.join("postmaster.pid").exists(), "--no-start leaves it stopped");
    assert_eq!(receiver.stop(), Some(0));
}

/// PostgreSQL replays the creation of a tablespace at the place where it was made: on this host, the running server's own files.
#[test]
fn a_tablespace_that_was_created_behind_the_backup_is_not_replayed_into_its_servers_files() {
    for major in outer_majors() {
        let cluster = Cluster::builder(major).setting("autovacuum", "off").start();
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        let receiver = bowline.receive();
        bowline.ok(&["backup"]);
        let place = cluster.create_tablespace("later");
        cluster.psql("CREATE TABLE t TABLESPACE later AS SELECT generate_series(1, 1000) AS a; CHECKPOINT");
        bowline.archive_now();
        let seen = || {
            let mut files = files_below(&place);
            files.sort();
            files.into_iter().map(|file| (std::fs::metadata(&file).expect("a file").modified().expect("a time"), file)).collect::<Vec<_>>()
        };
        let before = seen();
        assert!(!before.is_empty());
        let (text, _) = bowline.restore_fails(&["--to", "latest"], 4, "tablespace-created");
        assert!(text.contains(place.to_str().expect("a plain path")), "{text}");
        let drill = bowline.run(&["verify"]);
        let said = format!("{:?}", drill.lines);
        assert!(drill.code == 4 && said.contains("not-verified") && said.contains("creates tablespace"), "{drill:?}");
        assert_eq!(seen(), before, "PostgreSQL {major}: a copy was at the server's own files");
        cluster.psql("UPDATE t SET a = a + 1");
        cluster.restart();
        assert_eq!(cluster.psql("SELECT count(*), sum(a) FROM t"), "1000|501500", "PostgreSQL {major}");

        // A backup that has it puts it beside the copy.
        bowline.ok(&["backup"]);
        let restored = bowline.restore(&["--to", "latest"]);
        assert_eq!(restored.psql("SELECT count(*), sum(a) FROM t"), "1000|501500", "PostgreSQL {major}");
        drop(restored);
        bowline.ok(&["verify"]);
        drop(receiver);
    }
}

#[test]
fn what_was_not_looked_at_is_named_and_indexes_by_another_version_of_a_collation_as_well() {
    for major in outer_majors() {
        let cluster = Cluster::start(major);
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        let receiver = bowline.receive();
        cluster.psql("CREATE DATABASE closed ALLOW_CONNECTIONS false");
        // As a standby that was kept behind and then promoted has it.
        cluster.psql("ALTER SYSTEM SET recovery_min_apply_delay = '1d'");
        if major >= 17 {
            // Who logs in to a copy is turned away, whatever role of replication the session has.
            cluster.psql("CREATE DATABASE watched");
            let trigger = "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN \
                    IF current_setting('restart_after_crash') = 'off' THEN RAISE EXCEPTION 'not in a copy'; END IF; END$$; \
                CREATE EVENT TRIGGER refuse ON login EXECUTE FUNCTION refuse(); ALTER EVENT TRIGGER refuse ENABLE ALWAYS";
            cluster.try_psql_in("watched", trigger).expect("a trigger on login");
        }
        cluster.psql("CREATE COLLATION mine (provider = libc, locale = 'C.utf8'); CREATE TABLE t (a text); CREATE INDEX by_a ON t (a COLLATE mine)");
        bowline.ok(&["backup"]);
        let report = bowline.ok(&["verify"]);
        assert!(report["report"]["notices"].to_string().contains("ALLOW_CONNECTIONS"), "PostgreSQL {major}: {report}");
        // As it stands after a move to a host whose C library orders otherwise.
        cluster.psql("UPDATE pg_collation SET collcollate = 'xx_XX.utf8', collversion = '1.0' WHERE collname = 'mine'");
        bowline.archive_now();
        let restored = bowline.restore(&["--to", "latest"]);
        assert_eq!(restored.result["validated"], true, "PostgreSQL {major}: {}", restored.result);
        let stale = &restored.result["stale_collations"][0];
        assert_eq!(stale["recorded"], "1.0", "PostgreSQL {major}: {}", restored.result);
        assert_eq!(stale["remedy"], "REINDEX INDEX public.by_a; ALTER COLLATION public.mine REFRESH VERSION");
        drop(restored);
        drop(receiver);
    }
}
