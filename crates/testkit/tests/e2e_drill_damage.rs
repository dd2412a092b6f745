//! Whatever is damaged, a drill does not pass: any object of the repository, any page of the cluster; and what this host cannot look at it
//! does not call good.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;
use testkit::bowline::wait;
use testkit::drill::{Drilled, place};
use testkit::tamper::{Flipped, Kind, objects};
use testkit::{Bowline, Cluster, RepositoryKind, newest_major, outer_majors};

const DAMAGED: i32 = 6;
const REFUSED: i32 = 4;

#[test]
fn one_flipped_bit_in_any_object_that_a_restore_needs_turns_the_drill_red_and_is_named() {
    let one = Cluster::builder(newest_major()).setting("wal_keep_size", "256MB").start();
    let two = one.standby();
    let bowline = Bowline::new(&one, RepositoryKind::Folder);
    let hosts = format!("host={},{} port={} user=postgres dbname=postgres", one.socket_dir().display(), two.socket_dir().display(), one.port());
    let quick = "[wal]\nstatus_interval = \"300ms\"\nflush_interval = \"300ms\"\n";
    bowline.configure(&hosts, Some(one.data_dir()), quick);
    let receiver = bowline.receive();
    one.psql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i");
    bowline.ok(&["backup"]);
    one.psql("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 150000) i");
    bowline.archive_now();
    two.catch_up(&one);
    one.kill9();
    two.promote();
    let word = "\"slot\":\"bowline\",\"timeline\":2";
    wait("the receiver to follow", Duration::from_secs(60), || receiver.log().contains(word));
    two.psql("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 1000) i");
    let written = two.psql("SELECT pg_current_wal_flush_lsn()");
    wait("WAL to be stored", Duration::from_secs(30), || {
        two.psql(&format!("SELECT flush_lsn >= '{written}' FROM pg_stat_replication WHERE application_name = 'bowline'")) == "t"
    });
    assert_eq!(receiver.stop(), Some(0));
    bowline.ok(&["wal", "audit"]);
    let sound = Drilled::hold(&one, &bowline, &[]);
    assert_eq!((sound.code, sound.outcome()), (0, "passed"), "{}", sound.said());

    let mut verdicts = BTreeMap::new();
    for (kind, all) in objects(&bowline.repository()) {
        // One of each kind, in its middle: the newest one, which the restore to the newest instant needs.
        let object = all.last().expect("one of the kind");
        let name = object.strip_prefix(bowline.repository()).expect("below it").display().to_string();
        let flipped = Flipped::at(object, 0.5);
        let drilled = Drilled::hold(&one, &bowline, &["--no-record"]);
        drop(flipped);
        verdicts.insert(kind, (name, drilled));
    }
    let needed = [Kind::Repository, Kind::Key, Kind::BackupDocument, Kind::Manifest, Kind::Pack, Kind::Segment, Kind::Piece, Kind::History];
    for kind in needed {
        let (name, drilled) = verdicts.get(&kind).unwrap_or_else(|| panic!("the repository holds no {kind:?}"));
        assert_ne!(drilled.outcome(), "passed", "{kind:?} {name}");
        // Damage that only the replaying server meets may leave the question open; it never passes.
        let is_red = drilled.code == DAMAGED;
        assert!(is_red, "{kind:?} {name}: exit {}, {}", drilled.code, drilled.said());
        // A piece is known by the segment that it is of.
        let parts: Vec<&str> = name.rsplit('/').collect();
        let word = if kind == Kind::Piece { parts[1].trim_end_matches(".pieces") } else { parts[0] };
        assert!(drilled.said().contains(word), "{kind:?}: {word} is not named in {}", drilled.said());
    }
    // What the rest says can be found out again; where it is believed all the same, its damage is named.
    for kind in [Kind::Coverage, Kind::Lease] {
        if let Some((name, drilled)) = verdicts.get(&kind) {
            assert!(drilled.outcome() == "passed" || drilled.said().contains(name.as_str()), "{kind:?} {name}: {}", drilled.said());
        }
    }
    assert!(verdicts[&Kind::Report].1.notices().contains("report.json"), "{}", verdicts[&Kind::Report].1.notices());
    let sound = Drilled::hold(&one, &bowline, &["--no-record"]);
    assert_eq!((sound.code, sound.outcome()), (0, "passed"), "all is whole again: {}", sound.said());
}

#[test]
fn a_bad_page_of_an_index_that_amcheck_cannot_look_at_is_found_and_named() {
    for major in outer_majors() {
        let cluster = Cluster::builder(major).tablespace("far").start();
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        cluster.psql("CREATE TABLE places AS SELECT i, point(i, i) AS at FROM generate_series(1, 5000) i");
        cluster.psql("CREATE INDEX by_place ON places USING gist (at) TABLESPACE far; CHECKPOINT");
        let file = cluster.data_dir().join(cluster.psql("SELECT pg_relation_filepath('by_place')"));
        cluster.pg_ctl_stop(true);
        File::options().write(true).open(&file).and_then(|file| file.write_all_at(&[0xA5; 16], 2 * 8192 + 7000)).expect("write");
        cluster.start_server();
        let backup = bowline.ok(&["backup", "--checksums", "warn"]);
        assert_eq!(backup["pages_damaged"], 1, "{backup:#}");
        let drilled = Drilled::hold(&cluster, &bowline, &[]);
        assert_eq!((drilled.code, drilled.outcome()), (DAMAGED, "failed"), "PostgreSQL {major}: {}", drilled.said());
        let faults = drilled.faults();
        assert!(faults.contains("public.by_place") && faults.contains("block 2: the page's checksum"), "PostgreSQL {major}: {faults}");
        assert_eq!(drilled.report["pages"]["bad"], 1, "{:#}", drilled.report["pages"]);
        assert!(drilled.notices().contains("1 damaged page was"), "{}", drilled.notices());
        let page = fs::read_to_string(bowline.object("report.html")).expect("the page");
        assert!(page.contains("public.by_place") && page.contains("1 damaged page was"), "the page says it, too");
    }
}

#[test]
fn a_cluster_without_checksums_is_said_to_have_none() {
    let cluster = Cluster::builder(newest_major()).checksums(false).start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.ok(&["backup"]);
    let drilled = Drilled::hold(&cluster, &bowline, &["--no-record"]);
    assert_eq!((drilled.code, &drilled.report["pages"]["has_checksums"]), (0, &false.into()), "{}", drilled.said());
    assert!(drilled.notices().contains("no page checksums"), "{}", drilled.notices());
}

#[test]
fn a_tables_file_that_is_not_there_is_damage_and_no_open_question() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t AS SELECT 1 AS a; CHECKPOINT");
    let file = cluster.data_dir().join(cluster.psql("SELECT pg_relation_filepath('t')"));
    cluster.pg_ctl_stop(true);
    fs::remove_file(&file).expect("remove the table's file");
    cluster.start_server();
    bowline.ok(&["backup"]);
    let drilled = Drilled::hold(&cluster, &bowline, &["--no-record"]);
    assert_eq!((drilled.code, drilled.outcome()), (DAMAGED, "failed"), "{}", drilled.said());
    assert!(drilled.faults().contains("rows of public.t"), "{}", drilled.faults());
}

#[test]
fn what_needs_a_library_that_this_host_lacks_is_not_verified_and_the_library_is_named() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let library = cluster.home().join("gone.so");
    fs::copy(cluster.bin_dir().with_file_name("lib").join("seg.so"), &library).expect("copy a library");
    let path = library.display();
    cluster.psql(&format!(
        "CREATE TYPE gone; CREATE FUNCTION gone_in(cstring) RETURNS gone AS '{path}', 'seg_in' LANGUAGE C IMMUTABLE STRICT; \
         CREATE FUNCTION gone_out(gone) RETURNS cstring AS '{path}', 'seg_out' LANGUAGE C IMMUTABLE STRICT; \
         CREATE TYPE gone (INTERNALLENGTH = 12, INPUT = gone_in, OUTPUT = gone_out)"
    ));
    cluster.psql("CREATE TABLE rare (a gone); INSERT INTO rare VALUES ('1.5'); CREATE TABLE usual AS SELECT 1 AS a");
    // Not loaded: the running server stays as it is.
    cluster.psql("ALTER SYSTEM SET shared_preload_libraries = 'not_there', 'pg_stat_statements'");
    cluster.psql("ALTER ROLE postgres IN DATABASE template1 SET local_preload_libraries = 'not_there_either'");
    bowline.ok(&["backup"]);
    let drilled = Drilled::hold(&cluster, &bowline, &["--no-record"]);
    assert_eq!((drilled.code, drilled.outcome()), (0, "passed"), "the library is still here: {}", drilled.said());
    fs::remove_file(&library).expect("remove the library");
    let drilled = Drilled::hold(&cluster, &bowline, &["--no-record"]);
    assert_eq!((drilled.code, drilled.outcome()), (REFUSED, "not-verified"), "{}", drilled.said());
    let faults = drilled.faults();
    assert!(faults.contains("rows of public.rare") && faults.contains("gone.so is not on this host"), "{faults}");
    assert!(!faults.contains("usual"), "{faults}");
    let left_out: Vec<_> =
        drilled.report["left_out"].as_array().expect("a list").iter().map(|l| format!("{} {}", l["library"], l["is_here"])).collect();
    assert_eq!(left_out, ["\"not_there\" false", "\"not_there_either\" false", "\"pg_stat_statements\" true"]);
    assert!(drilled.notices().contains("preload library not_there"), "{}", drilled.notices());
}

#[test]
fn a_verdict_is_told_even_when_its_report_cannot_be_kept() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.ok(&["backup"]);
    fs::write(bowline.repository().join("drills"), "in the way").expect("write");
    let drilled = Drilled::hold(&cluster, &bowline, &[]);
    assert_eq!(drilled.outcome(), "passed", "{}", drilled.said());
    assert!(drilled.code != 0 && drilled.error.contains("drills"), "exit {}: {}", drilled.code, drilled.error);
}

#[test]
fn each_backup_is_drilled_when_all_are_asked_for_and_the_worst_verdict_counts() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let dir = place(&cluster);
    let all = ["verify", "--all", "--to", "immediate", "--dir", dir.to_str().expect("a plain path")];
    bowline.fails(&all, 3, "backup-missing");
    cluster.psql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i");
    let first = bowline.ok(&["backup"])["id"].as_str().expect("an id").to_owned();
    let second = bowline.ok(&["backup"])["id"].as_str().expect("an id").to_owned();
    let drills = |result: &serde_json::Value| {
        let told = |drill: &serde_json::Value| format!("{} {}", drill["report"]["backup"], drill["report"]["outcome"]).replace('"', "");
        result["drills"].as_array().expect("drills").iter().map(told).collect::<Vec<_>>()
    };
    let result = bowline.ok(&all);
    assert_eq!(drills(&result), [format!("{first} passed"), format!("{second} passed")]);
    assert_eq!(result["drills"][1]["report"]["comparisons"][0]["tables"], 1, "the second is held against the first");
    let _flipped = Flipped::at(&bowline.repository().join("full").join(&first).join("data/000001"), 0.5);
    let outcome = bowline.run(&all);
    let result = outcome.lines.iter().find_map(|line| line.get("result")).expect("a result");
    assert_eq!((outcome.code, result["outcome"].as_str()), (DAMAGED, Some("failed")));
    assert_eq!(drills(result), [format!("{first} failed"), format!("{second} passed")]);
}

#[test]
fn it_runs_as_the_user_that_is_configured_to_whom_productions_files_are_closed() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.ok(&["backup"]);
    // Only root can become another user; whoever else runs the tests is the user himself.
    let is_root = nix::unistd::geteuid().is_root();
    let me = nix::unistd::User::from_uid(nix::unistd::geteuid()).expect("the users").expect("a name").name;
    let user = if is_root { "nobody".to_owned() } else { me };
    let configure = |user: &str| bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &format!("[drill]\nuser = {user:?}\n"));
    configure(&user);
    let place = tempfile::Builder::new().prefix("bd-").tempdir_in("/var/tmp").expect("a directory");
    fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let words = ["--json", "verify", "--no-record", "--dir", place.path().to_str().expect("a plain path")];
    // As root, which the other tests are not.
    let run = || {
        let mut command = std::process::Command::new(testkit::bowline::program());
        let output = command.arg("--config").arg(bowline.config()).args(words).current_dir("/").output().expect("run bowline");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), text)
    };
    let (code, said) = run();
    assert!(code == Some(0) && said.contains(&format!("\"ran_as\":{user:?}")), "exit {code:?}: {said}");
    assert!(said.contains(&format!("\"is_productions_user\":{}", !is_root)), "{said}");
    assert_eq!(fs::read_dir(place.path()).expect("its place").count(), 0, "something was left behind");
    configure("nobody-of-this-name");
    let (code, said) = run();
    assert!(code == Some(REFUSED) && said.contains("drill-user"), "exit {code:?}: {said}");
}
