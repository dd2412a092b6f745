//! A restore over the old data directory: nothing of it is lost, the server comes back as it was, on a new timeline.

use std::time::Duration;
use terms::{Clock, SystemClock};
use testkit::bowline::{FINGERPRINT, wait};
use testkit::{Bowline, Cluster, RepositoryKind, newest_major, outer_majors};

#[test]
fn a_restore_in_place_keeps_the_old_data_and_goes_on_on_a_new_timeline() {
    for major in outer_majors() {
        let cluster = Cluster::builder(major).setting("track_commit_timestamp", "on").tablespace("fast").start();
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        cluster.psql("CREATE TABLE t (a int) TABLESPACE fast; CREATE TABLE ballast AS SELECT md5(i::text) FROM generate_series(1, 20000) i");
        let receiver = bowline.receive();
        bowline.ok(&["backup"]);
        cluster.psql("INSERT INTO t VALUES (1)");
        let stamp = cluster.psql("SELECT pg_xact_commit_timestamp(xmin) FROM t");
        let good = SystemClock.now();
        std::thread::sleep(Duration::from_millis(20));
        cluster.psql("INSERT INTO t VALUES (2)");
        let abandoned = SystemClock.now();
        std::thread::sleep(Duration::from_millis(20));
        cluster.psql("DELETE FROM t");
        bowline.archive_now();
        std::fs::write(cluster.data_dir().join("marker"), "of the old data").expect("write a marker");
        bowline.fails(&["restore"], 2, "not-confirmed");
        assert_eq!(cluster.psql("SELECT count(*) FROM t"), "0", "who did not say yes finds the server as it was");
        assert_eq!(receiver.stop(), Some(0));
        cluster.pg_ctl_stop(true);

        // The cluster is on a disk of its own, a link leads to it, the configuration ends with a slash, and the log has a disk of its own.
        let (disk, wal) = (cluster.home().join("disk"), cluster.home().join("wal-disk"));
        std::fs::rename(cluster.data_dir(), &disk).expect("to the disk");
        std::os::unix::fs::symlink(&disk, cluster.data_dir()).expect("a link");
        std::fs::rename(disk.join("pg_wal"), &wal).expect("to the other disk");
        std::os::unix::fs::symlink(&wal, disk.join("pg_wal")).expect("a link");
        let written = format!("{}/", cluster.data_dir().display());
        bowline.configure(&cluster.conninfo(), Some(std::path::Path::new(&written)), "");
        let planned = bowline.ok(&["restore", "--plan", "--to", &good.to_string(), "--target", disk.to_str().expect("a plain path")]);
        let steps = planned["steps"].to_string();
        assert!(steps.contains("a full backup is made") && steps.contains("pg_wal, a link to"), "by its own name it is production, too: {steps}");

        let result = bowline.ok(&["restore", "--yes", "--no-protect", "--to", &good.to_string()]);
        let aside = std::path::PathBuf::from(result["moved_aside"].as_str().expect("the old data was moved"));
        let home = cluster.home().canonicalize().expect("a home");
        assert!(aside.parent() == Some(home.as_path()) && cluster.data_dir().is_symlink() && !disk.join("pg_wal").is_symlink(), "{result}");
        assert_eq!(std::fs::read_to_string(aside.join("marker")).expect("the old marker"), "of the old data");
        assert!(aside.join("global/pg_control").exists() && !cluster.data_dir().join("marker").exists());
        // On its normal socket, with its own settings.
        assert_eq!(cluster.psql("SHOW max_connections; SHOW archive_mode; SHOW shared_buffers"), "50\noff\n64MB");
        assert_eq!(cluster.psql("SELECT string_agg(a::text, ',') FROM t; SELECT pg_is_in_recovery()"), "1\nf", "PostgreSQL {major}");
        assert_eq!(cluster.psql("SELECT pg_xact_commit_timestamp(xmin) FROM t"), stamp, "PostgreSQL {major}: commit times survive");
        assert_eq!(cluster.psql("SELECT timeline_id FROM pg_control_checkpoint()"), "2");
        let left = cluster.psql("SELECT name FROM pg_file_settings WHERE name ~ '^recovery_target|^restore_command'");
        assert_eq!(left, "", "recovery settings must not stay");

        // Protected again: receiver and backup on the new timeline, and a restore from there.
        let receiver = bowline.receive();
        let backup = bowline.ok(&["backup"]);
        assert_eq!(backup["timeline"].to_string().trim_matches('"'), "2", "{backup}");
        cluster.psql("INSERT INTO t VALUES (3)");
        bowline.archive_now();
        let wanted = cluster.psql(FINGERPRINT);
        let restored = bowline.restore(&["--to", "latest"]);
        assert_eq!(restored.psql(FINGERPRINT), wanted, "PostgreSQL {major}");
        assert_eq!(restored.result["plan"]["backup"], backup["id"]);
        drop(restored);

        // An instant that was lived through on the timeline that was left.
        let (text, data) = bowline.restore_fails(&["--to", &abandoned.to_string()], 4, "timeline-ambiguous");
        assert!(text.contains("--timeline") && !data.exists(), "{text}");
        let restored = bowline.restore(&["--to", &abandoned.to_string(), "--timeline", "1"]);
        assert_eq!(restored.psql("SELECT string_agg(a::text, ',' ORDER BY a) FROM t"), "1,2", "PostgreSQL {major}");
        drop(restored);
        drop(receiver);
        cluster.stop_adopted();
    }
}

#[test]
fn configuration_outside_the_data_directory_comes_back_with_it() {
    let cluster = Cluster::start(newest_major());
    let (data, etc) = (cluster.data_dir().to_owned(), cluster.home().join("etc"));
    // With its group's access, as by initdb -g, which says it of all that initdb makes.
    cluster.psql(&format!("\\! mkdir {} && chmod 750 {1} {1}/base", etc.display(), data.display()));
    cluster.pg_ctl_stop(true);
    for file in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        std::fs::rename(data.join(file), etc.join(file)).expect("move");
    }
    let settings = format!(
        "\ndata_directory = '{}'\nhba_file = '{}'\nident_file = '{}'\nwork_mem = '5MB'\n",
        data.display(),
        etc.join("pg_hba.conf").display(),
        etc.join("pg_ident.conf").display()
    );
    let text = std::fs::read_to_string(etc.join("postgresql.conf")).expect("read") + &settings;
    std::fs::write(etc.join("postgresql.conf"), &text).expect("write");
    let hba = std::fs::read_to_string(etc.join("pg_hba.conf")).expect("read");
    let mut start = cluster.bin("pg_ctl");
    start
        .args(["start", "-w", "-l"])
        .arg(cluster.home().join("log-outside"))
        .arg("-o")
        .arg(format!("-c config_file={}/postgresql.conf", etc.display()));
    assert!(start.stdout(std::process::Stdio::null()).status().expect("run pg_ctl").success(), "{}", cluster.log());

    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t AS SELECT 42 AS a");
    bowline.ok(&["backup"]);
    cluster.stop_adopted();
    std::fs::remove_dir_all(&etc).expect("lose the configuration");
    std::fs::remove_dir_all(&data).expect("lose the data");
    let restore = ["restore", "--yes", "--no-protect", "--no-salvage"];
    let fate = |result: &serde_json::Value| {
        let files = result["config"].as_array().expect("what became of it").clone();
        let of = |name: &str| files.iter().find(|file| file["original"] == etc.join(name).to_str().expect("a plain path")).cloned();
        (of("postgresql.conf").expect("one"), of("pg_hba.conf").expect("another"))
    };
    let came_back = || {
        wait("the server", Duration::from_secs(10), || cluster.try_psql("SELECT 1").is_ok());
        assert_eq!(cluster.psql("SELECT a FROM t; SHOW work_mem; SHOW config_file"), format!("42\n5MB\n{}/postgresql.conf", etc.display()));
        cluster.stop_adopted();
    };
    let (main, rules) = fate(&bowline.ok(&restore));
    came_back();
    assert_eq!((main["fate"].as_str(), rules["fate"].as_str()), (Some("put-back"), Some("put-back")));
    assert_eq!(std::fs::read_to_string(etc.join("postgresql.conf")).expect("read"), text);
    assert_eq!(std::fs::read_to_string(etc.join("pg_hba.conf")).expect("read"), hba);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&data).expect("the data directory").permissions());
    assert_eq!(mode & 0o777, 0o750, "the group's access comes back");

    // A machine that is new but for what a package made: that gives way, and is kept.
    std::fs::remove_dir_all(&data).expect("lose the data");
    std::fs::write(etc.join("pg_hba.conf"), "# a package's\n").expect("write");
    let (main, rules) = fate(&bowline.ok(&restore));
    came_back();
    assert_eq!((main["fate"].as_str(), rules["fate"].as_str()), (Some("same"), Some("replaced")), "{rules}");
    assert_eq!(std::fs::read_to_string(etc.join("pg_hba.conf")).expect("read"), hba);
    assert_eq!(std::fs::read_to_string(rules["before"].as_str().expect("a name")).expect("read"), "# a package's\n");

    // Where the cluster lived already, what was changed since the backup stays, and is told.
    std::fs::write(etc.join("pg_hba.conf"), "local all all trust\n").expect("write");
    let plan = bowline.ok(&["restore", "--plan"]);
    assert!(plan["steps"].to_string().contains("configuration that is there stays"), "{plan:#}");
    let outcome = bowline.run(&restore);
    let (_, rules) = fate(outcome.result());
    came_back();
    assert_eq!(rules["fate"], "left", "{rules}");
    // Already before the server is started, which may fail for want of it.
    let is_told = |line: &serde_json::Value| line.to_string().contains("/pg_hba.conf is not the backup's; to use that: cp -p ");
    let is_start = |line: &serde_json::Value| line["event"] == "step-begun" && line.to_string().contains("start");
    let told = outcome.lines.iter().position(is_told).expect("a notice");
    assert!(outcome.lines[told..].iter().any(is_start), "{outcome:#?}");
    assert!(rules["remedy"].as_str().is_some_and(|command| command.starts_with("cp -p ")), "{rules}");
    assert_eq!(std::fs::read_to_string(etc.join("pg_hba.conf")).expect("read"), "local all all trust\n");
}

#[test]
fn the_role_that_init_prints_is_enough() {
    for major in outer_majors() {
        let cluster = Cluster::builder(major).tcp(true).start();
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        let printed = bowline.ok(&["init", "--print-sql"]);
        cluster.psql(printed["sql"].as_str().expect("SQL"));
        cluster.psql("ALTER ROLE bowline PASSWORD 'knot'");
        assert_eq!(cluster.psql("SELECT rolsuper FROM pg_roles WHERE rolname = 'bowline'"), "f");
        let passwords = bowline.dir().join("passwords");
        cluster.psql(&format!("\\! umask 077; echo '127.0.0.1:{}:*:bowline:knot' > {}", cluster.port(), passwords.display()));
        bowline.configure(&format!("host=127.0.0.1 port={} user=bowline dbname=postgres", cluster.port()), Some(cluster.data_dir()), "");
        let bowline = bowline.with_environment("PGPASSFILE", passwords.to_str().expect("a plain path"));
        bowline.ok(&["check"]);
        cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
        bowline.ok(&["backup"]);
        let receiver = bowline.receive();
        let backup = bowline.ok(&["backup", "--stream"]);
        assert_eq!(backup["source"], "stream");
        cluster.psql("INSERT INTO t VALUES (0)");
        bowline.archive_now();
        bowline.ok(&["status"]);
        let restored = bowline.restore(&["--to", "latest"]);
        assert_eq!(restored.psql("SELECT count(*) FROM t"), "1001", "PostgreSQL {major}");
        assert_eq!(receiver.stop(), Some(0));
        let receiver_log = bowline.dir().read_dir().expect("list").flatten().find(|e| e.file_name().to_string_lossy().starts_with("receive-"));
        let said = std::fs::read_to_string(receiver_log.expect("a log").path()).expect("read");
        assert!(!said.contains("knot"), "a secret was printed");
    }
}

#[test]
fn a_tablespace_that_the_log_creates_is_made_anew_and_the_old_files_stay_beside_it() {
    for major in outer_majors() {
        let cluster = Cluster::start(major);
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        let receiver = bowline.receive();
        bowline.ok(&["backup"]);
        let place = cluster.create_tablespace("later");
        cluster.psql("CREATE TABLE t TABLESPACE later AS SELECT generate_series(1, 1000) AS a");
        let good = SystemClock.now();
        std::thread::sleep(Duration::from_millis(20));
        // More pages than there were: what replay leaves alone would show.
        cluster.psql("INSERT INTO t SELECT generate_series(1, 50000); CREATE TABLE more TABLESPACE later AS SELECT 1; CHECKPOINT");
        bowline.archive_now();
        assert_eq!(receiver.stop(), Some(0));
        cluster.pg_ctl_stop(true);
        for _ in 0..2 {
            bowline.ok(&["restore", "--yes", "--no-protect", "--to", &good.to_string(), "--timeline", "1"]);
            assert_eq!(cluster.psql("SELECT count(*), sum(a) FROM t; SELECT to_regclass('more') IS NULL"), "1000|500500\nt", "PostgreSQL {major}");
            cluster.psql("DELETE FROM t; CHECKPOINT");
            cluster.stop_adopted();
        }
        let names = std::fs::read_dir(&place).expect("list").flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let (aside, here): (Vec<String>, Vec<String>) = names.partition(|name| name.contains(".before-"));
        assert_eq!((aside.len(), here.len()), (2, 1), "PostgreSQL {major}: {aside:?} {here:?}");
    }
}
