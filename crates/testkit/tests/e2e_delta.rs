//! `restore --delta`: the old copy becomes what a full restore would have made, only what differs is written, and nobody else's data is touched.

#[path = "bad_input/ground.rs"]
mod ground;

use ground::Chance;
use keys::KeyFile;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use repo::Reader;
use restore::{Occupied, RestoreOptions, Target, Wish};
use seal::Recipient;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::Disk;
use terms::{Explain, RecoveryTarget, Silent, SystemClock};
use testkit::bowline::FINGERPRINT;
use testkit::{Bowline, Cluster, RepositoryKind, newest_major, outer_majors};

/// Every directory, file and link below a data directory with its mode and content, links into tablespaces and of pg_wal followed.
fn tree(data: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    fn walk(folder: &Path, name: &Path, found: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
        for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("an entry").path();
            let name = name.join(path.file_name().expect("a name"));
            let is_link = fs::symlink_metadata(&path).expect("a file").is_symlink();
            let followed = name == Path::new("pg_wal") || name.parent() == Some(Path::new("pg_tblspc"));
            assert!(!is_link || followed, "{} is a link", path.display());
            let meta = fs::metadata(&path).expect("a file");
            // What was moved aside in a tablespace is not of this cluster.
            if path.display().to_string().contains(".before-") {
                continue;
            }
            let bytes = if meta.is_dir() { b"directory".to_vec() } else { fs::read(&path).expect("its bytes") };
            found.insert(name.clone(), (meta.mode() & 0o7777, bytes));
            if meta.is_dir() {
                walk(&path, &name, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(data, Path::new(""), &mut found);
    assert!(found.len() > 500, "{} is no cluster", data.display());
    found
}

/// What differs between two data directories, in words.
fn differences(one: &Path, other: &Path) -> Vec<String> {
    let (one, other) = (tree(one), tree(other));
    let names: std::collections::BTreeSet<&PathBuf> = one.keys().chain(other.keys()).collect();
    let mode = |tree: &BTreeMap<PathBuf, (u32, Vec<u8>)>, name: &Path| tree.get(name).map(|(mode, bytes)| (*mode, bytes.len()));
    let differ = names.into_iter().filter(|name| one.get(*name) != other.get(*name));
    differ.map(|name| format!("{}: {:?}, {:?}", name.display(), mode(&one, name), mode(&other, name))).collect()
}

/// Changes one byte in the middle of a file, and leaves its size and the time of its last change as they were.
fn flip_unseen(path: &Path) {
    let before = fs::metadata(path).expect("a file");
    testkit::bowline::flip_a_bit(path);
    fs::File::options().write(true).open(path).and_then(|f| f.set_modified(before.modified()?)).expect("set the time");
    let after = fs::metadata(path).expect("a file");
    assert_eq!((before.len(), before.mtime(), before.ino()), (after.len(), after.mtime(), after.ino()));
}

/// Runs a script as the server's user.
fn sh(cluster: &Cluster, script: &str) {
    let mut command = Command::new("sh");
    if let Some((uid, gid)) = cluster.user() {
        command.uid(uid).gid(gid);
    }
    let output = command.args(["-ec", script]).output().expect("run sh");
    assert!(output.status.success(), "{script}: {output:?}");
}

/// A copy of a directory, owners and modes as they are.
fn copy(from: &Path, to: &Path) {
    let output = Command::new("cp").arg("-a").arg(from).arg(to).output().expect("run cp");
    assert!(output.status.success(), "{output:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

const TABLES: &str = "CREATE TABLE kept AS SELECT i, md5(i::text) FROM generate_series(1, 60000) i;
    CREATE TABLE changed AS SELECT i, md5(i::text) AS t FROM generate_series(1, 40000) i;
    CREATE TABLE dropped AS SELECT * FROM changed;
    CREATE TABLE emptied AS SELECT * FROM changed;
    CREATE TABLE grown AS SELECT * FROM changed;
    CREATE TABLE elsewhere TABLESPACE fast AS SELECT * FROM changed;
    CREATE UNLOGGED TABLE unlogged AS SELECT * FROM changed;
    CREATE TABLE flipped AS SELECT * FROM changed; CREATE TABLE lost AS SELECT * FROM changed; CREATE TABLE linked AS SELECT * FROM changed;
    CHECKPOINT";

#[test]
fn a_delta_restore_ends_as_a_full_one_and_writes_only_what_differs() {
    for major in outer_majors() {
        let cluster = Cluster::builder(major).tablespace("fast").start();
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        let (data, home) = (cluster.data_dir(), cluster.home());
        cluster.psql(TABLES);
        let paths = cluster.psql("SELECT pg_relation_filepath(t) FROM unnest('{flipped,lost,linked,kept,elsewhere}'::regclass[]) t");
        let [flipped, lost, linked, kept, elsewhere] = paths.lines().map(|p| data.join(p)).collect::<Vec<_>>().try_into().expect("five");
        let receiver = bowline.receive();
        bowline.ok(&["backup"]);
        cluster.psql(
            "UPDATE changed SET t = 'new' WHERE i % 400 = 0; DROP TABLE dropped; TRUNCATE emptied; CREATE TABLE created AS SELECT * FROM changed;
             INSERT INTO grown SELECT * FROM grown; DELETE FROM elsewhere WHERE i > 100; CREATE DATABASE more",
        );
        bowline.archive_now();
        let wanted = cluster.psql(FINGERPRINT);
        assert_eq!(receiver.stop(), Some(0));
        cluster.pg_ctl_stop(true);

        // Everything that can be wrong with an old copy.
        flip_unseen(&flipped);
        let outside = home.join("outside");
        sh(
            &cluster,
            &format!(
                "cd {data}; rm {lost}; echo junk > base/junk; mkdir -p junk/more base/5/junk; echo x > junk/more/x; mkfifo fifo
             echo of another > {outside}; ln -s {outside} base/link; rm {elsewhere}; ln -s {outside} {elsewhere}
             ln {linked} {home}/second-name; printf changed > {linked}; dd if=/dev/zero bs=8192 count=3 status=none >> {kept}
             chmod 0644 {kept}; echo 'work_mem = 7MB' >> postgresql.conf; touch standby.signal; echo x > backup_label.old; rm -r pg_xact pg_notify
             mv pg_wal {home}/wal; ln -s {home}/wal pg_wal; mkdir pg_tblspc/junk; ln -s {home} pg_tblspc/99999",
                data = data.display(),
                lost = lost.display(),
                outside = outside.display(),
                elsewhere = elsewhere.display(),
                linked = linked.display(),
                kept = kept.display(),
                home = home.display(),
            ),
        );
        let full = bowline.new_target();
        bowline.ok(&["restore", "--files-only", "--yes", "--target", text(&full)]);
        let result = bowline.ok(&["restore", "--delta", "--files-only", "--yes"]);
        assert_eq!(differences(&full, data), Vec::<String>::new(), "PostgreSQL {major}");
        assert!(fs::symlink_metadata(data.join("pg_wal")).expect("pg_wal").is_symlink(), "pg_wal stays a link");
        assert_eq!(result["moved_aside"], serde_json::Value::Null);
        let number = |name: &str| result[name].as_u64().expect("a number");
        let (all, kept_bytes, written) = (number("bytes"), number("bytes_kept"), number("bytes_written"));
        assert!(kept_bytes > all / 3 && written < all - kept_bytes, "of {all} bytes {kept_bytes} were kept and {written} written");
        // What has a second name or is reached by a link is somebody else's.
        assert_eq!(fs::read_to_string(home.join("second-name")).expect("the second name"), "changed");
        assert_eq!(fs::read_to_string(&outside).expect("the file outside"), "of another\n");

        // The sabotage twin of the comparison, and of a restore that would believe size and time: the flip is seen, and mended.
        flip_unseen(&flipped);
        let found = differences(&full, data);
        assert!(found.len() == 1 && data.join(found[0].split(':').next().expect("a path")) == flipped, "{found:?}");
        let result = bowline.ok(&["restore", "--delta", "--yes", "--no-protect"]);
        assert_eq!(cluster.psql("SHOW work_mem; SELECT pg_is_in_recovery()"), "4MB\nf");
        assert_eq!(cluster.psql(FINGERPRINT), wanted, "PostgreSQL {major}: {result}");
        let output = cluster.bin("pg_ctl").args(["stop", "-w", "-m", "fast"]).output().expect("run pg_ctl");
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn a_delta_restore_that_is_killed_leaves_no_cluster_and_the_next_one_completes_it() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t AS SELECT i, md5(i::text) || md5((-i)::text) FROM generate_series(1, 500000) i; CHECKPOINT");
    bowline.ok(&["backup"]);
    let full = bowline.new_target();
    bowline.ok(&["restore", "--files-only", "--yes", "--target", text(&full)]);
    let target = bowline.new_target();
    copy(&full, &target);
    let mut chance = Chance(testkit::seed("e2e_delta_kill"));
    let words = ["restore", "--delta", "--files-only", "--yes", "--jobs", "1", "--target", text(&target)];
    let (rounds, mut half) = (if testkit::full() { 30 } else { 5 }, 0);
    for round in 0..rounds {
        // Something wrong in every chunk.
        for file in testkit::bowline::files_below(&target.join("base")) {
            let mut bytes = fs::read(&file).expect("read");
            bytes.iter_mut().step_by(500_000).for_each(|byte| *byte ^= 1);
            fs::write(&file, bytes).expect("write");
        }
        let mut child = bowline.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start");
        let begun = Instant::now();
        while target.join("global/pg_control").exists() && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(chance.next(60)));
        kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).expect("kill");
        child.wait().expect("wait");
        if !target.join("global/pg_control").exists() {
            half += 1;
            assert!(Cluster::try_open(cluster.major(), &target).is_err(), "round {round}: a server starts on half a restore");
        }
        bowline.ok(&words);
        assert_eq!(differences(&full, &target), Vec::<String>::new(), "round {round}");
    }
    eprintln!("e2e_delta: of {rounds} killed restores {half} were half done");
    assert!(half > 0, "none was killed in the middle");
}

#[test]
fn what_is_not_this_clusters_own_and_what_is_in_use_is_refused_untouched() {
    let major = newest_major();
    let (cluster, other) = (Cluster::start(major), Cluster::start(major));
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    bowline.ok(&["backup"]);
    let refusal = bowline.fails(&["restore", "--delta", "--files-only", "--yes"], 4, "target-unusable");
    assert!(refusal.contains("is running there"), "{refusal}");
    assert_eq!(cluster.psql("SELECT 1"), "1");
    cluster.pg_ctl_stop(true);
    other.pg_ctl_stop(true);

    let before = tree(other.data_dir());
    let refusal = bowline.fails(&["restore", "--delta", "--yes", "--target", text(other.data_dir())], 4, "target-unusable");
    assert!(refusal.contains("another cluster") && refusal.contains("without --delta") || refusal.contains("Without --delta"), "{refusal}");
    assert!(before == tree(other.data_dir()), "the other cluster was touched");

    // Nobody is there to type the word; the plan alone asks for none.
    let before = tree(cluster.data_dir());
    let refusal = bowline.fails(&["restore", "--delta"], 2, "not-confirmed");
    assert!(refusal.contains("destroy"), "{refusal}");
    let plan = bowline.ok(&["restore", "--delta", "--plan"]);
    assert_eq!((&plan["destroys"], &plan["moves_aside"]), (&true.into(), &false.into()), "{plan}");
    let output = bowline.command(&["restore", "--delta", "--plan"]).output().expect("run");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("overwritten where it differs: the old copy is destroyed"), "{said}");
    assert!(before == tree(cluster.data_dir()), "something was touched");

    // A control file that cannot be read proves nothing.
    let control = cluster.data_dir().join("global/pg_control");
    testkit::bowline::flip_a_bit(&control);
    fs::write(&control, [0; 8192]).expect("write");
    let refusal = bowline.fails(&["restore", "--delta", "--yes"], 4, "target-unusable");
    assert!(refusal.contains("nothing proves"), "{refusal}");

    // Where nothing is, it is a restore like any other.
    let target = bowline.new_target();
    let result = bowline.ok(&["restore", "--delta", "--files-only", "--yes", "--target", text(&target)]);
    assert_eq!(result["bytes_kept"], 0);
    assert!(target.join("global/pg_control").exists());
}

#[test]
fn a_restore_that_fails_in_the_middle_says_that_the_old_copy_is_gone() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i");
    bowline.ok(&["backup"]);
    let file = cluster.data_dir().join(cluster.psql("SELECT pg_relation_filepath('t')"));
    cluster.pg_ctl_stop(true);
    flip_unseen(&file);
    let packs =
        testkit::bowline::files_below(&bowline.repository().join("full")).into_iter().filter(|p| p.parent().is_some_and(|p| p.ends_with("data")));
    let packs: Vec<(PathBuf, Vec<u8>)> = packs.map(|pack| (pack.clone(), fs::read(&pack).expect("a pack"))).collect();
    assert!(!packs.is_empty());
    for (pack, good) in &packs {
        // Beyond the header, every byte.
        let noise: Vec<u8> = good.iter().enumerate().map(|(i, byte)| if i > 4096 { byte ^ 1 } else { *byte }).collect();
        fs::write(pack, noise).expect("damage a pack");
    }
    let said = bowline.fails(&["restore", "--delta", "--files-only", "--yes"], 6, "backup-damaged");
    assert!(said.contains("is overwritten in part, and no server can start there") && said.contains("--delta again"), "{said}");
    assert!(Cluster::try_open(cluster.major(), cluster.data_dir()).is_err());
    packs.iter().for_each(|(pack, good)| fs::write(pack, good).expect("mend a pack"));
    bowline.ok(&["restore", "--delta", "--files-only", "--yes"]);
    assert!(cluster.data_dir().join("global/pg_control").exists());

    // A manifest that is damaged is found before anything is touched.
    let manifest = bowline.object("/manifest");
    let good = fs::read(&manifest).expect("the manifest");
    fs::write(&manifest, &good[..good.len() - 20]).expect("damage the manifest");
    let before = tree(cluster.data_dir());
    bowline.fails(&["restore", "--delta", "--files-only", "--yes"], 6, "data-damaged");
    assert!(before == tree(cluster.data_dir()), "something was touched");
}

/// What a journal does: a restore into a new directory ended in the middle, and the same engine goes on with it.
#[test]
fn a_full_restore_that_ended_in_the_middle_is_resumed_without_a_control_file() {
    let cluster = Cluster::builder(newest_major()).tablespace("fast").start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql(TABLES);
    bowline.ok(&["backup"]);
    let (full, half) = (bowline.new_target(), bowline.new_target());
    for target in [&full, &half] {
        bowline.ok(&["restore", "--files-only", "--yes", "--target", text(target)]);
    }
    fs::remove_file(half.join("postgresql.auto.conf")).and_then(|()| fs::remove_file(half.join("recovery.signal"))).expect("remove");
    fs::remove_file(half.join("global/pg_control")).and_then(|()| fs::remove_dir_all(half.join("pg_xact"))).expect("remove");
    for file in testkit::bowline::files_below(&half.join("base")).iter().step_by(3) {
        let file = fs::File::options().write(true).open(file).expect("open");
        file.set_len(file.metadata().expect("its size").len() / 2).expect("shorten");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let resume = |occupied| {
        runtime.block_on(async {
            let key: Arc<dyn Recipient> = Arc::new(KeyFile::load(&bowline.dir().join("key")).expect("the key"));
            let reader = Reader::open(Arc::new(Disk::new(bowline.repository())), vec![key]).await.expect("open");
            let wish = Wish { target: RecoveryTarget::Immediate, timeline: None, backup: None };
            let plan = restore::plan(&reader, &wish).await.map_err(|e| e.advice().to_string()).expect("a plan");
            let target = Target::inspect(&half).map_err(|e| e.advice().to_string()).expect("a target");
            let elsewhere = Some(target.side_dir.join("tablespaces"));
            let options = RestoreOptions {
                occupied,
                tablespaces: restore::TablespaceMap { places: Default::default(), elsewhere },
                jobs: 2,
                bin_dir: None,
                program: ground::program(),
            };
            restore::restore_only_files(&reader, &plan, &target, &options, &SystemClock, Arc::new(Silent)).await
        })
    };
    let refused = resume(Occupied::Rewrite).map(drop).expect_err("nothing tells whose this is");
    assert_eq!(refused.slug(), "target-unusable");
    let report = resume(Occupied::Resume).map_err(|e| e.advice().to_string()).expect("resumed");
    let restored = &report.restored;
    assert!(restored.bytes_kept > restored.bytes / 3 && restored.bytes_kept < restored.bytes, "{restored:?}");
    assert!(restored.moved.is_empty(), "{restored:?}");
    let found = differences(&full, &half);
    let settings = ["postgresql.auto.conf", "recovery.signal"];
    assert!(found.iter().all(|line| settings.iter().any(|name| line.starts_with(name))), "{found:?}");
    let mode = fs::metadata(&half).expect("the target").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
