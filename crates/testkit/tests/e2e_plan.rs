//! A plan says before anything is touched what a restore would do, need, take and lose; and nothing that it says is there is missing.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::bowline::{flip_a_bit, program};
use testkit::{Bowline, Cluster, RepositoryKind, newest_major, outer_majors};

const DAMAGED: i32 = 6;
const REFUSED: i32 = 4;
const MISSING: i32 = 3;

/// Everything below a folder: its size and when it was changed.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (u64, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("an entry").path();
            let meta = fs::symlink_metadata(&path).expect("its metadata");
            if meta.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path, (meta.len(), meta.modified().expect("a time")));
        }
    }
    found
}

/// The plan of a restore to a new place.
fn plan(bowline: &Bowline, words: &[&str]) -> Value {
    let target = bowline.new_target();
    let mut all = vec!["restore", "--plan", "--target", target.to_str().expect("a plain path")];
    all.extend_from_slice(words);
    let planned = bowline.ok(&all);
    assert!(!target.exists() && !target.with_extension("bowline").exists(), "a plan made {}", target.display());
    planned
}

/// Runs a command of this Bowline in mounts of its own, after `before` was done there.
fn in_own_mounts(bowline: &Bowline, before: &str, words: &[&str]) -> (Option<i32>, Vec<Value>) {
    let mut command = Command::new("unshare");
    // Who is not root becomes it, in a namespace of his own.
    command.args(if nix::unistd::geteuid().is_root() { &["--mount"][..] } else { &["--user", "--map-root-user", "--mount"] });
    command.args(["sh", "-c", &format!("{before} && exec \"$@\"")]).arg("sh").arg(program());
    let output = command.arg("--config").arg(bowline.config()).arg("--json").args(words).output().expect("run unshare");
    let lines = String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(!output.stdout.is_empty(), "{output:?}");
    (output.status.code(), lines)
}

fn last<'v>(lines: &'v [Value], kind: &str) -> &'v Value {
    lines.iter().rev().find_map(|line| line.get(kind)).unwrap_or_else(|| panic!("no {kind} in {lines:#?}"))
}

#[test]
fn a_plan_touches_nothing_and_its_time_is_that_of_the_last_drill() {
    let cluster = Cluster::builder(newest_major()).tablespace("fast").start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t TABLESPACE fast AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i");
    let receiver = bowline.receive();
    let backup = bowline.ok(&["backup"]);
    let at = cluster.psql("INSERT INTO t VALUES (0); SELECT pg_current_wal_insert_lsn()");
    cluster.psql("INSERT INTO t VALUES (-1)");
    bowline.archive_now();
    assert_eq!(receiver.stop(), Some(0));
    assert_eq!(bowline.run(&["status"]).lines.iter().find_map(|l| l.get("result")).expect("a status")["restore_seconds"], Value::Null);

    // A place that is in use already: it would be moved aside.
    let target = cluster.home().join("occupied");
    fs::create_dir_all(target.join("global")).expect("a folder");
    fs::write(target.join("PG_VERSION"), "18").expect("a file");
    let before = (tree(&bowline.repository()), tree(&target));
    let words = ["restore", "--plan", "--to", &at, "--target", target.to_str().expect("a plain path")];
    let planned = bowline.ok(&words);
    assert_eq!(before, (tree(&bowline.repository()), tree(&target)), "a plan changes nothing");
    assert!(!target.with_extension("bowline").exists());
    assert_eq!((planned["moves_aside"].as_bool(), planned["can_be_done"].as_bool()), (Some(true), Some(true)), "{planned:#}");
    // What is mounted in it would go along.
    fs::create_dir(target.join("pg_wal")).expect("a folder");
    let (_, lines) = in_own_mounts(&bowline, &format!("mount -t tmpfs tmpfs {}", target.join("pg_wal").display()), &words);
    let refusals = last(&lines, "result")["refusals"].to_string();
    assert!(refusals.contains("pg_wal is a mount point in it") && refusals.contains("--delta"), "{refusals}");
    fs::remove_dir(target.join("pg_wal")).expect("as it was");
    assert_eq!(planned["estimate"], Value::Null, "no drill was held: {planned:#}");
    let tablespace = &planned["tablespaces"][0];
    assert!(tablespace["bytes"].as_u64() > Some(1 << 20), "{planned:#}");
    assert!(
        tablespace["into"].as_str().is_some_and(|into| into.starts_with(target.with_extension("bowline").to_str().expect("plain"))),
        "{planned:#}"
    );
    let needed: u64 = planned["filesystems"].as_array().expect("filesystems").iter().filter_map(|f| f["needed_bytes"].as_u64()).sum();
    assert!(needed > backup["bytes"].as_u64().expect("bytes"), "{planned:#}");
    let lost = planned["plan"]["lost"].as_str().expect("words");
    assert!(lost.contains("of log: transactions that ended from 20") && planned["plan"]["loss"]["bytes"].as_u64() > Some(0), "{lost}");
    let latest = plan(&bowline, &[]);
    assert!(
        latest["plan"]["lost"].as_str().is_some_and(|lost| lost.starts_with("nothing that is stored; its newest transaction ended at 20")),
        "{latest:#}"
    );

    bowline.ok(&["verify", "--dir", cluster.home().join("s").to_str().expect("a plain path")]);
    let timed = plan(&bowline, &[]);
    let estimate = &timed["estimate"];
    let seconds = |name: &str| estimate[name].as_f64().expect("seconds");
    assert!(seconds("files_seconds") > 0.0 && seconds("total_seconds") >= seconds("files_seconds") + seconds("replay_seconds"), "{timed:#}");
    assert_eq!(estimate["by"]["outcome"], "passed");
    assert_eq!(estimate["by"]["database_bytes"], backup["bytes"], "the drill moved the same backup");
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), "[objectives]\nrto = \"1ms\"\n");
    let outcome = bowline.run(&["status"]);
    let status = last(&outcome.lines, "result");
    assert!(status["restore_seconds"].as_f64() > Some(0.0), "{status:#}");
    assert!(status["reasons"].to_string().contains("longer than the objective"), "{status:#}");

    let printed = bowline.command(&words).output().expect("run bowline");
    let screen = String::from_utf8_lossy(&printed.stdout).into_owned();
    for label in ["restore to ", "proved ", "lost ", "takes        about ", "room ", "tablespace "] {
        assert!(screen.lines().any(|line| line.starts_with(label)), "{label:?} is missing:\n{screen}");
    }
    assert!(screen.lines().count() <= 24, "one screen:\n{screen}");

    // All that will be run, asked and reached, since the configuration may have come out of the repository; and nothing on the screen goes away.
    let commands = "[service]\nstart = \"echo serve\"\n[wal]\nstart = \"echo receive\\u001b[1A\\u001b[2K\"\n\
        [drill]\nchecks = [{ sql = \"SELECT count(*)\\nFROM t\", expect = \">= 1\" }]\n\
        [packages]\nprimary = \"file:///srv/app\"\nreplica = \"s3://copy\"\nsnapshots = \"repository\"\n";
    bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), commands);
    let printed = bowline.command(&["restore", "--plan"]).output().expect("run bowline");
    let screen = String::from_utf8_lossy(&printed.stdout).into_owned();
    for words in [
        "the service is started: echo serve",
        r"the receiver is started: echo receive\u{1b}[1A\u{1b}[2K",
        r"SELECT count(*)\nFROM t (expected >= 1)",
        "packages go into file:///srv/app, out of its replica s3://copy and snapshots in repository",
    ] {
        assert!(screen.contains(words), "{words:?} is missing:\n{screen}");
    }
    assert!(!screen.contains('\u{1b}'), "{screen:?}");
}

#[test]
fn what_this_host_lacks_is_listed_and_refuses_only_a_server_that_would_not_start() {
    let major = newest_major();
    let home = Cluster::start(major);
    // Libraries that were there when the backup was made, and are not when it is restored.
    let library = |name: &str, like: &str| {
        let place = home.home().join(name);
        fs::copy(home.bin_dir().with_file_name("lib").join(like), &place).expect("a library");
        place
    };
    let (preload, own) = (library("preload.so", "auto_explain.so"), library("own.so", "fuzzystrmatch.so"));
    let cluster = Cluster::builder(major).setting("shared_preload_libraries", preload.display()).start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE DATABASE shop; CREATE DATABASE far");
    let shop = |sql: &str| cluster.try_psql_in("shop", sql).expect("psql");
    shop("CREATE EXTENSION pg_trgm");
    shop(&format!("CREATE FUNCTION own(text) RETURNS text AS '{}', 'soundex' LANGUAGE C", own.display()));
    shop(
        "INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion) VALUES (99999, 'postgis', 10, 2200, false, '3.5')",
    );
    cluster.psql(
        "UPDATE pg_database SET datcollversion = '2.1' WHERE datname = 'shop'; UPDATE pg_database SET datctype = 'xx_YY.UTF-8' WHERE datname = 'far'",
    );
    bowline.ok(&["backup"]);
    let whole = plan(&bowline, &[]);
    let listed = |planned: &Value| -> Vec<String> {
        let all = planned["lacks"].as_array().expect("lacks").iter();
        all.map(|lack| format!("{} {}", lack["weight"].as_str().unwrap_or_default(), lack["what"].as_str().unwrap_or_default())).collect()
    };
    let by_all = [
        "breaks extension postgis",
        "breaks locale xx_YY.UTF-8",
        "breaks collation version 2.1 of database shop",
        "unknown extensions and libraries of far",
    ];
    assert_eq!(listed(&whole), by_all, "{whole:#}");
    assert_eq!(whole["install"], format!("apt-get install postgresql-{major}-postgis-3"));

    fs::remove_file(&preload).and_then(|()| fs::remove_file(&own)).expect("remove the libraries");
    let lacking = plan(&bowline, &[]);
    let found = listed(&lacking);
    assert_eq!(found[0], format!("blocks library {}", preload.display()), "{lacking:#}");
    assert!(found.contains(&format!("breaks library {}", own.display())) && found.len() == by_all.len() + 2, "{lacking:#}");
    // Beside production it is started without preload libraries: that can be done.
    assert_eq!(lacking["can_be_done"].as_bool(), Some(true), "{lacking:#}");
    let text = bowline.fails(&["restore", "--yes"], REFUSED, "host-lacks");
    assert!(text.contains("preload.so") && text.contains("Nothing was touched") && text.contains("--no-start"), "{text}");
    assert_eq!(cluster.psql("SELECT 1"), "1", "production was not touched");
    assert_eq!(bowline.restore(&[]).psql("SELECT 1"), "1");

    // Without PostgreSQL the plan says what to install, and only carrying it out is refused.
    let config = fs::read_to_string(bowline.config()).expect("the configuration");
    let lines: Vec<&str> = config.lines().filter(|line| !line.starts_with("bin_dir")).collect();
    fs::write(bowline.config(), lines.join("\n")).expect("write the configuration");
    let hide = "export PATH=/usr/sbin:/usr/bin:/sbin:/bin; if [ -d /usr/lib/postgresql ]; then mount -t tmpfs tmpfs /usr/lib/postgresql; fi";
    let target = bowline.new_target();
    let words = |yes| ["restore", "--target", target.to_str().expect("a plain path"), yes];
    let (code, lines) = in_own_mounts(&bowline, hide, &words("--plan"));
    let bare = last(&lines, "result");
    assert_eq!((code, bare["can_be_done"].as_bool()), (Some(0), Some(false)), "{lines:#?}");
    assert_eq!(bare["lacks"][0]["what"], format!("PostgreSQL {major}"), "{bare:#}");
    assert_eq!(bare["install"], format!("apt-get install postgresql-{major} postgresql-{major}-postgis-3"));
    let (code, lines) = in_own_mounts(&bowline, hide, &words("--yes"));
    assert_eq!((code, last(&lines, "error")["slug"].as_str()), (Some(MISSING), Some("pg-programs-missing")), "{lines:#?}");
    assert!(!target.exists());
}

#[test]
fn a_restore_that_does_not_fit_is_refused_before_anything_is_touched() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.ok(&["backup"]);
    let disk = cluster.home().join("small");
    fs::create_dir_all(&disk).expect("a folder");
    let target = disk.join("data");
    let mount = format!("mount -t tmpfs -o size=64m tmpfs {}", disk.display());
    let words = |yes| ["restore", "--target", target.to_str().expect("a plain path"), yes];
    let (code, lines) = in_own_mounts(&bowline, &mount, &words("--plan"));
    let planned = last(&lines, "result");
    assert_eq!((code, planned["can_be_done"].as_bool()), (Some(0), Some(false)), "{lines:#?}");
    let filesystem = &planned["filesystems"][0];
    let number = |name: &str| filesystem[name].as_u64().expect("bytes");
    assert!(number("free_bytes") <= 64 << 20 && number("missing_bytes") == number("needed_bytes") - number("free_bytes"), "{planned:#}");
    assert_eq!(filesystem["at"].as_str(), disk.to_str());
    // What is on that disk afterwards is told by a listing, before the mounts go.
    let listed = cluster.home().join("listed");
    let probe = format!("{mount} && trap 'find {} > {}' EXIT; \"$@\"; exit $?; true", disk.display(), listed.display());
    let (code, lines) = in_own_mounts(&bowline, &probe, &words("--yes"));
    let error = last(&lines, "error");
    assert_eq!((code, error["slug"].as_str()), (Some(REFUSED), Some("disk-too-small")), "{lines:#?}");
    assert!(error["detail"].as_str().is_some_and(|text| text.contains("are missing") && text.contains("Nothing was touched")), "{error:#}");
    assert_eq!(fs::read_to_string(&listed).expect("the listing").trim(), disk.display().to_string(), "nothing was made");
}

#[test]
fn a_deep_plan_finds_what_a_quick_one_leaves_unread() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let receiver = bowline.receive();
    cluster.psql("CREATE TABLE t (a int); CREATE TABLE ballast AS SELECT md5(i::text) FROM generate_series(1, 50000) i");
    bowline.ok(&["backup"]);
    let step = |i: u32| {
        let at = cluster.psql(&format!("INSERT INTO t VALUES ({i}); SELECT pg_current_wal_insert_lsn()"));
        bowline.archive_now();
        at
    };
    let at: Vec<String> = (1..=4).map(step).collect();
    assert_eq!(receiver.stop(), Some(0));
    bowline.ok(&["wal", "audit"]);
    let segment = bowline.object(&cluster.psql(&format!("SELECT pg_walfile_name('{}')", at[1])));
    let pack = bowline.object("data/000001");
    let deep = |to: &str, code: i32, slug: &str| {
        let target = bowline.new_target();
        bowline.fails(&["restore", "--plan=deep", "--to", to, "--target", target.to_str().expect("a plain path")], code, slug)
    };
    let proven = |to: &str| {
        let target = bowline.new_target();
        bowline.ok(&["restore", "--plan=deep", "--to", to, "--target", target.to_str().expect("a plain path")])["proven"].clone()
    };
    let good = proven("latest");
    assert!(good["segments"].as_u64() >= Some(4) && good["records"].as_u64() > Some(15) && good["bytes"].as_u64() > Some(20 << 20), "{good:#}");

    let spoiled = |path: &Path, spoil: &dyn Fn(&Path), check: &dyn Fn()| {
        let bytes = fs::read(path).expect("read");
        spoil(path);
        check();
        fs::write(path, bytes).expect("put it right");
    };
    spoiled(&segment, &|path| flip_a_bit(path), &|| {
        plan(&bowline, &[]);
        let text = deep("latest", DAMAGED, "data-damaged");
        assert!(text.contains(segment.file_name().and_then(|name| name.to_str()).expect("a name")), "{text}");
        assert!(proven(&at[0])["segments"].as_u64() < good["segments"].as_u64(), "before the damage all is well");
    });
    spoiled(&pack, &|path| flip_a_bit(path), &|| {
        plan(&bowline, &[]);
        let text = deep("latest", DAMAGED, "backup-damaged");
        assert!(text.contains("data/000001"), "{text}");
    });
    // What a listing tells is found by any plan.
    let cut = |path: &Path| {
        let file = fs::File::options().write(true).open(path).expect("open");
        file.set_len(file.metadata().expect("its length").len() - 100).expect("cut");
    };
    let target = bowline.new_target();
    let quick = |slug: &str| bowline.fails(&["restore", "--plan", "--target", target.to_str().expect("a plain path")], DAMAGED, slug);
    spoiled(&segment, &cut, &|| drop(quick("data-damaged")));
    spoiled(&pack, &cut, &|| drop(quick("backup-damaged")));
    spoiled(&pack, &|path| fs::remove_file(path).expect("remove"), &|| drop(quick("backup-damaged")));
    spoiled(&bowline.object("/manifest"), &|path| flip_a_bit(path), &|| drop(quick("data-damaged")));
    assert_eq!(proven("latest"), good);
}

#[test]
fn a_transaction_is_the_last_one_that_is_in() {
    for major in outer_majors() {
        let cluster = Cluster::builder(major)
            .setting("max_prepared_transactions", 5)
            .setting("autovacuum", "off")
            .setting("track_commit_timestamp", "on")
            .start();
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        cluster.psql("CREATE TABLE t (a int)");
        let receiver = bowline.receive();
        let insert = |row: i32, end: &str| cluster.psql(&format!("BEGIN; INSERT INTO t VALUES ({row}); SELECT pg_current_xact_id(); {end}"));
        bowline.ok(&["backup"]);
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let between = insert(0, "COMMIT");
        bowline.ok(&["backup"]);
        // Begun before all others and ended behind most: its number lies far within a long record.
        let tables = "DO $$ BEGIN FOR i IN 1..60 LOOP EXECUTE format('CREATE TABLE p%s (a int)', i); END LOOP; END $$; INSERT INTO t VALUES (10)";
        let prepared = cluster.psql(&format!("BEGIN; {tables}; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'p'"));
        let first = insert(1, "COMMIT");
        insert(2, "COMMIT");
        cluster.psql("COMMIT PREPARED 'p'");
        let third = insert(3, "COMMIT");
        let stamp = cluster
            .psql(&format!("SET TimeZone = 'UTC'; SELECT to_char(pg_xact_commit_timestamp('{third}'::xid), 'YYYY-MM-DD HH24:MI:SS.US \"UTC\"')"));
        let stamp = stamp.lines().last().expect("when it was committed");
        let rolled_back = insert(99, "ROLLBACK");
        insert(4, "COMMIT");
        // Its files go before it commits, and what was committed before must not be without them.
        cluster.psql("CREATE DATABASE kept");
        insert(5, "COMMIT");
        let dropped = insert(98, "ROLLBACK").parse::<u64>().expect("a number") + 1;
        cluster.psql("DROP DATABASE kept");
        bowline.archive_now();
        assert_eq!(receiver.stop(), Some(0));
        let rows = |xid: &str| {
            let restored = bowline.restore(&["--to", &format!("xid:{xid}")]);
            assert!(restored.result["plan"]["notes"].to_string().contains(&format!("xid:{xid} was ")), "{}", restored.result);
            restored.psql("SELECT string_agg(a::text, ',' ORDER BY a) FROM t")
        };
        assert_eq!(rows(&first), "0,1", "PostgreSQL {major}: what was prepared before and ended later is not in");
        assert_eq!(rows(&prepared), "0,1,2,10", "PostgreSQL {major}");
        assert_eq!(rows(&rolled_back), "0,1,2,3,10", "PostgreSQL {major}: a transaction that was rolled back has an end, too");
        assert_eq!(rows(&between), "0", "PostgreSQL {major}: from the older backup");
        let at = |target: &str| bowline.restore(&["--to", target]).psql("SELECT string_agg(a::text, ',' ORDER BY a) FROM t");
        assert_eq!(at(&format!("before xid:{prepared}")), "0,1,2", "PostgreSQL {major}: neither it nor what ended later");
        assert_eq!(at(stamp), "0,1,2,3,10", "PostgreSQL {major}: what ended at the very instant is in");
        assert_eq!(at(&format!("before {stamp}")), "0,1,2,10", "PostgreSQL {major}: and here it is not");
        let undone = bowline.restore(&["--to", &format!("before xid:{dropped}")]);
        assert!(undone.result["plan"]["notes"].to_string().contains("takes effect without a commit"), "{}", undone.result);
        assert_eq!(
            undone.psql("\\connect kept\nSELECT 'whole'").lines().last(),
            Some("whole"),
            "PostgreSQL {major}: the dropped database is there with its files"
        );
        let stop = |xid: &str| plan(&bowline, &["--to", &format!("xid:{xid}")])["plan"]["stop"].clone();
        let next_epoch = first.parse::<u64>().expect("a number") + (1 << 32);
        assert_eq!(stop(&first), stop(&next_epoch.to_string()), "the log has the low half only");
        let (text, target) = bowline.restore_fails(&["--to", "xid:2000000000"], MISSING, "target-unreachable");
        assert!(text.contains("No transaction 2000000000 ended in the stored WAL") && !target.exists(), "{text}");
    }
}
