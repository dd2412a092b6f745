//! What waits for the archiver is stored ahead of it: every exit code 0 is a file in the repository, and every mark is PostgreSQL's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use testkit::bowline::{files_below, wait};
use testkit::{Bowline, Cluster, RepositoryKind, newest_major, outer_majors};

/// A stopped cluster whose archiver never succeeded, with this many segments that wait; their names in order.
fn backlog(cluster: &Cluster, segments: usize) -> Vec<String> {
    cluster.psql("CREATE TABLE t (a int)");
    for i in 0..segments {
        cluster.psql(&format!("INSERT INTO t VALUES ({i}); SELECT pg_switch_wal()"));
    }
    cluster.pg_ctl_stop(true);
    let names: Vec<String> = waiting(cluster).into_iter().filter(|name| name.len() == 24).collect();
    assert!(names.len() >= segments, "{names:?}");
    names
}

fn waiting(cluster: &Cluster) -> Vec<String> {
    let status = fs::read_dir(cluster.data_dir().join("pg_wal/archive_status")).expect("archive_status");
    let files = status.map(|item| item.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = files.filter_map(|file| file.strip_suffix(".ready").map(str::to_owned)).collect();
    names.sort();
    names
}

/// Exit code of `wal push` as the archiver runs it: in the data directory, with a path relative to it.
fn push(cluster: &Cluster, bowline: &Bowline, name: &str) -> i32 {
    let mut command = bowline.command(&["wal", "push", &format!("pg_wal/{name}")]);
    let output = command.current_dir(cluster.data_dir()).stdout(Stdio::null()).output().expect("run bowline");
    output.status.code().unwrap_or_else(|| panic!("ended by a signal: {output:?}"))
}

/// What lies where notes are left, `{data_dir}.bowline-wal/{cluster and repository}/pushed`.
fn notes(cluster: &Cluster) -> Vec<String> {
    let base = PathBuf::from(format!("{}.bowline-wal", cluster.data_dir().display()));
    let found = files_below(&base).into_iter().filter(|path| path.parent().is_some_and(|folder| folder.ends_with("pushed")));
    found.map(|path| path.file_name().expect("a name").to_string_lossy().into_owned()).filter(|name| name != "lock").collect()
}

fn wait_for_notes(cluster: &Cluster, names: &[String]) {
    let all_there = || names.iter().all(|name| notes(cluster).contains(&format!("{name}.stored")));
    wait("a note of each segment that was stored ahead", Duration::from_secs(60), all_there);
}

fn put_away(bowline: &Bowline) -> impl Drop {
    struct Away(PathBuf);
    impl Drop for Away {
        fn drop(&mut self) {
            fs::rename(self.0.join("away"), self.0.join("repository")).expect("bring the repository back");
        }
    }
    fs::rename(bowline.dir().join("repository"), bowline.dir().join("away")).expect("put the repository away");
    Away(bowline.dir().to_owned())
}

fn archiving(major: u32) -> Cluster {
    Cluster::builder(major).wal_segment_mib(1).setting("archive_mode", "on").setting("archive_command", "false").start()
}

#[test]
fn a_note_answers_for_a_stored_segment_once_and_changes_no_mark() {
    let cluster = archiving(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let names = backlog(&cluster, 12);
    let marks = waiting(&cluster);
    assert_eq!(push(&cluster, &bowline, &names[0]), 0);
    wait_for_notes(&cluster, &names[1..]);
    assert_eq!(bowline.wal_files(), marks, "whatever waited is stored, and nothing else");
    assert_eq!(waiting(&cluster), marks, "marks are the archiver's");
    for entry in fs::read_dir(cluster.data_dir()).expect("the data directory") {
        let name = entry.expect("an entry").file_name();
        assert!(!name.to_string_lossy().contains("bowline"), "{name:?} lies in the data directory");
    }

    let away = put_away(&bowline);
    assert!((1..=125).contains(&push(&cluster, &bowline, &names[0])), "nobody left a note of the one that was asked for");
    for name in &names[1..] {
        assert_eq!(push(&cluster, &bowline, name), 0, "{name} is stored: the repository need not be asked");
        assert!((1..=125).contains(&push(&cluster, &bowline, name)), "a note is used once");
    }
    drop(away);
    for name in &names {
        assert_eq!(push(&cluster, &bowline, name), 0, "equal bytes are fine");
        let fetched = bowline.dir().join("fetched");
        assert_eq!(bowline.command(&["wal", "fetch", name]).arg(&fetched).status().expect("run bowline").code(), Some(0));
        assert_eq!(fs::read(&fetched).expect("fetched"), fs::read(cluster.data_dir().join("pg_wal").join(name)).expect("segment"));
    }
}

/// Writes other bytes behind the header of a segment, as if it had been recycled, and gives it back its old times.
fn change(path: &Path) {
    let times = fs::metadata(path).expect("a segment").modified().expect("its time");
    let mut bytes = fs::read(path).expect("read");
    let end = bytes.len();
    bytes[end - 100] ^= 0xff;
    fs::write(path, bytes).expect("write");
    fs::File::options().write(true).open(path).and_then(|file| file.set_modified(times)).expect("set its time");
}

#[test]
fn a_note_never_vouches_for_other_bytes_or_another_repository() {
    let cluster = archiving(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let names = backlog(&cluster, 4);
    assert_eq!(push(&cluster, &bowline, &names[0]), 0);
    wait_for_notes(&cluster, &names[1..]);
    let other = Bowline::new(&cluster, RepositoryKind::Folder);
    assert_eq!(other.wal_files(), Vec::<String>::new());
    fs::remove_file(cluster.data_dir().join("pg_wal/archive_status").join(format!("{}.ready", names[2]))).expect("unmark");
    fs::rename(cluster.data_dir().join("pg_wal").join(&names[2]), cluster.data_dir().join("kept")).expect("take one away");
    assert_eq!(push(&cluster, &other, &names[1]), 0);
    assert!(other.wal_files().contains(&names[1]), "the note was about another repository");
    change(&cluster.data_dir().join("pg_wal").join(&names[1]));
    let path = cluster.data_dir().join("pg_wal").join(&names[1]);
    bowline.fails(&["wal", "push", path.to_str().expect("a plain path")], 4, "wal-conflict");

    // Two servers that were promoted from one timeline archive its last segment under one name: the second must be rid of it, too.
    let (whole, partial) = (path.with_file_name(&names[3]), path.with_file_name(format!("{}.partial", names[3])));
    fs::rename(whole, &partial).expect("rename");
    let stored = || bowline.ok(&["wal", "push", partial.to_str().expect("a plain path")])["stored"].clone();
    assert_eq!(stored(), true);
    assert_eq!(stored(), false, "equal bytes");
    change(&partial);
    assert_eq!(stored(), false, "other bytes");
    assert!(bowline.wal_files().contains(&format!("{}.partial", names[3])));
}

#[test]
fn what_fails_ahead_fails_nothing_but_itself() {
    let cluster = archiving(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let names = backlog(&cluster, 8);
    let pg_wal = cluster.data_dir().join("pg_wal");
    let good = fs::read(pg_wal.join(&names[3])).expect("read");
    fs::write(pg_wal.join(&names[3]), vec![0; good.len()]).expect("damage a segment that waits");
    let marks = waiting(&cluster);
    for (at, name) in names.iter().enumerate() {
        let code = push(&cluster, &bowline, name);
        assert_eq!(code, if at == 3 { 6 } else { 0 }, "{name}");
        assert_eq!(bowline.wal_files().contains(name), at != 3, "0 if and only if it is stored: {name}");
    }
    assert_eq!(waiting(&cluster), marks);
    fs::write(pg_wal.join(&names[3]), good).expect("repair it");
    assert_eq!(push(&cluster, &bowline, &names[3]), 0);
}

#[test]
fn the_archiver_works_off_a_backlog_and_counts_each_kind_of_failure() {
    for major in outer_majors() {
        let cluster = archiving(major);
        let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
        let other = Bowline::new(&cluster, RepositoryKind::Folder);
        cluster.psql("CREATE TABLE t (a int)");
        let archiver = || cluster.psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'archiver'");
        let pid = archiver();
        let wrong_key = bowline.shell(&format!("wal push %p --key {}", other.dir().join("key").display()));
        let no_config = bowline.shell("wal push %p").replace("bowline.toml", "nothing.toml");
        let kinds = [
            ("usage", bowline.shell("wal push --no-such-option %p")),
            ("no configuration", no_config),
            ("wrong key", wrong_key),
            ("no such file", bowline.shell("wal push %p.gone")),
            ("no repository", bowline.shell("wal push %p --repository file:///nowhere/at/all")),
        ];
        for (kind, command) in kinds {
            cluster.configure(&[("archive_command", &command)]);
            cluster.psql("SELECT pg_reload_conf()");
            let failed = || cluster.psql("SELECT failed_count FROM pg_stat_archiver").parse::<u32>().expect("a count");
            // The command that was running at the reload may still be counted.
            std::thread::sleep(Duration::from_millis(300));
            let before = failed();
            // A finished segment wakes the archiver, which else sleeps a minute after three failures.
            let next = || drop(cluster.psql("INSERT INTO t VALUES (0); SELECT pg_switch_wal()"));
            next();
            wait(&format!("PostgreSQL {major} to count a failure: {kind}"), Duration::from_secs(30), || {
                if failed() == before {
                    next();
                }
                failed() > before
            });
            assert_eq!(archiver(), pid, "{kind}: the archiver must not die of it");
        }
        assert_eq!(bowline.wal_files(), Vec::<String>::new());

        for i in 0..30 {
            cluster.psql(&format!("INSERT INTO t VALUES ({i}); SELECT pg_switch_wal()"));
        }
        cluster.configure(&[("archive_command", &bowline.shell("wal push %p"))]);
        cluster.psql("SELECT pg_reload_conf(); SELECT pg_stat_reset_shared('archiver')");
        let last = cluster.psql("INSERT INTO t VALUES (30); SELECT pg_walfile_name(pg_switch_wal())");
        wait("the whole backlog", Duration::from_secs(120), || waiting(&cluster).is_empty() && bowline.wal_files().contains(&last));
        let stored = bowline.wal_files();
        let counts = cluster.psql("SELECT archived_count, failed_count FROM pg_stat_archiver");
        assert_eq!(counts, format!("{}|0", stored.len()), "PostgreSQL {major}");
        assert!(stored.len() > 30 && archiver() == pid);
        wait("every note to be used up", Duration::from_secs(20), || notes(&cluster).is_empty());

        // No slot and no receiver is needed, as long as this is where the server archives to.
        let misses_a_receiver = || {
            let status = bowline.run(&["status"]);
            status.lines.iter().find_map(|line| line.get("result")).expect("a result")["alarms"].to_string().contains("no WAL receiver is running")
        };
        assert!(!misses_a_receiver());
        // As after a crash: the server no longer knows what it handed over.
        cluster.psql("SELECT pg_stat_reset_shared('archiver')");
        assert!(!misses_a_receiver(), "PostgreSQL {major}: nobody can tell before the next segment");
        cluster.configure(&[("archive_command", "/bin/true")]);
        cluster.psql("SELECT pg_reload_conf()");
        wait("the receiver to be missed", Duration::from_secs(30), || {
            cluster.psql("INSERT INTO t VALUES (31); SELECT pg_switch_wal()");
            misses_a_receiver()
        });
    }
}
