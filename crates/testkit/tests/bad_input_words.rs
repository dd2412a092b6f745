//! Wrong words, wrong configurations, unusable targets and full disks, given to the real program.

#[path = "bad_input/ground.rs"]
mod ground;

use ground::{FILL, Ground, SUM};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::Cluster;
use testkit::bowline::files_below;

fn ground() -> Ground {
    let cluster = Cluster::builder(testkit::newest_major()).wal_segment_mib(1).start();
    cluster.psql(FILL);
    Ground::folder(cluster)
}

/// Refused by the command line's own parser: exit code 2, said on stderr.
#[track_caller]
fn usage(ground: &Ground, words: &[&str], named: &[&str]) {
    let said = ground.bowline(words);
    assert_eq!(said.code, Some(2), "{said:#?}");
    for word in named {
        assert!(said.err.contains(word), "{word:?} is not in\n{}", said.err);
    }
}

#[test]
fn targets_that_mean_nothing_or_lie_outside_are_refused_before_anything_is_touched() {
    let ground = ground();
    let target = ground.cluster.home().join("r");
    let place = target.display().to_string();
    let to = |to: &'static str| vec!["restore", "--target", &place, "--yes", "--no-start", "--to", to];
    usage(&ground, &to("2026-11-22 14:05:00"), &["2026-11-22 14:05:00", "zone"]);
    for garbage in ["yesterday", "16/", "name:", "", "latest!", "2026-13-40 00:00 UTC"] {
        usage(&ground, &to(garbage), &["--to"]);
    }
    usage(&ground, &["restore", "--backup", "newest"], &["newest"]);
    usage(&ground, &["restore", "--tablespace", "fast=/srv"], &["OID=DIR"]);
    usage(&ground, &["backup", "--jobs", "0"], &["--jobs"]);
    usage(&ground, &["frobnicate"], &["frobnicate"]);
    let refused = |words: Vec<&str>, code: i32, slug: &str, names: &[&str]| {
        ground.bowline(&[&["--json"], &words[..]].concat()).refused(code, slug, names);
        assert!(!target.exists(), "{words:?} made {}", target.display());
    };
    refused(to("latest"), 3, "backup-missing", &["there is no backup"]);
    ground.bowline(&["--json", "backup"]).ok();
    refused(to("2099-01-01 00:00:00 UTC"), 3, "target-unreachable", &["2099-01-01 00:00:00 UTC", "What can be restored"]);
    refused(to("2001-01-01 00:00:00 UTC"), 3, "target-unreachable", &["2001-01-01 00:00:00 UTC", "What can be restored"]);
    refused(to("FFFF/0"), 3, "target-unreachable", &["FFFF/0"]);
    refused(to("name:never_made"), 3, "target-unreachable", &["never_made"]);
    let unknown = vec!["restore", "--target", &place, "--yes", "--no-start", "--backup", "20010101T000000Z"];
    refused(unknown, 3, "backup-missing", &["20010101T000000Z", "bowline list"]);
    refused(vec!["restore", "--target", &place], 2, "not-confirmed", &["--yes", "Nothing was touched"]);
    refused(vec!["restore", "--target", "relative/place", "--yes"], 4, "target-unusable", &["relative/place", "absolute"]);
    // Something that is no cluster is never moved or mixed with.
    let full = ground.cluster.home().join("thesis");
    fs::create_dir(&full).expect("mkdir");
    ground.write(&full.join("chapter-1"), "precious");
    ground.give(&full);
    let place = full.display().to_string();
    let said = ground.bowline(&["--json", "restore", "--target", &place, "--yes", "--no-start"]);
    said.refused(4, "target-unusable", &[&place, "no PostgreSQL data directory"]);
    let file = full.join("chapter-1").display().to_string();
    ground.bowline(&["--json", "restore", "--target", &file, "--yes", "--no-start"]).refused(4, "target-unusable", &[&file]);
    assert_eq!(fs::read_to_string(full.join("chapter-1")).ok().as_deref(), Some("precious"));
    // The running server's own directory.
    let data = ground.cluster.data_dir().display().to_string();
    ground.bowline(&["--json", "restore", "--files-only", "--yes"]).refused(4, "target-unusable", &[&data, "running"]);
    assert!(ground.cluster.is_running());
}

#[test]
fn configurations_that_are_wrong_are_refused_by_line_and_never_repeat_a_secret() {
    let ground = ground();
    let text = ground.text();
    let wrong = |name: &str, text: &str, slug: &str, names: &[&str]| {
        let config = ground.other_config(name, text);
        for json in [true, false] {
            let words = ["--config", config.as_str(), "backup", if json { "--json" } else { "--quiet" }];
            let said = ground.bowline(&words);
            assert!(!said.out.contains("hunter2") && !said.err.contains("hunter2"), "the secret is repeated: {said:#?}");
            if json {
                said.refused(2, slug, names);
            }
        }
    };
    wrong("key", &text.replace("[backup]", "[backup]\nshedule = \"0 2 * * *\""), "config-wrong", &["shedule", "line"]);
    wrong("table", &format!("{text}[logical]\nschedule = \"0 3 * * *\"\n"), "config-wrong", &["logical"]);
    wrong("zone", &format!("{text}[retention]\ntimezone = \"Mars/Olympus\"\n"), "config-wrong", &["Mars/Olympus", "time zone"]);
    let channel = |lines: &str| format!("{text}[[alerts.channel]]\n{lines}\n");
    wrong("slack", &channel("type = \"slack\"\nurl = \"https://hooks.example.org/hunter2\""), "config-wrong", &["never as itself"]);
    wrong("foreign", &channel("type = \"slack\"\nurl = \"env:A\"\nto = [\"hunter2@example.org\"]"), "config-wrong", &["has no to"]);
    let locked = text.replace("[encryption]", "object_lock = \"governance\"\nobject_lock_days = 35\n[encryption]");
    wrong("lock", &locked, "config-wrong", &["object_lock", "no S3 bucket"]);
    wrong("schedule", &format!("{text}[drill]\nschedule = \"13am\"\n"), "config-wrong", &["drill.schedule", "minute"]);
    wrong("secret", &text.replace("[encryption]", "secret_access_key = \"hunter2hunter2\"\n[encryption]"), "config-wrong", &["never as itself"]);
    wrong("typo", &text.replace("[encryption]", "secret_acces_key = \"hunter2hunter2\"\n[encryption]"), "config-wrong", &["secret_acces_key"]);
    wrong("broken", &text.replace("[encryption]", "secret_access_key = \"hunter2hunter2\n[encryption]"), "config-wrong", &["line"]);
    wrong("variable", &text.replace("[encryption]", "secret_access_key = \"env:NO_SUCH_NAME\"\n[encryption]"), "secret-missing", &["NO_SUCH_NAME"]);
    wrong("recipient", &text.replace("[\"file:", "[\"pigeon:"), "recipient-unknown", &["pigeon:", "file:/absolute/path"]);
    wrong("conninfo", &text.replace("dbname=postgres", "dbname=postgres passwort=hunter2hunter2"), "pg-conninfo-key", &["passwort"]);
    wrong("quote", &text.replace("dbname=postgres", "dbname=postgres password='hunter2hunter2"), "pg-conninfo", &[]);
    wrong("duration", &text.replace("30s", "soon"), "config-wrong", &["line"]);
    let said = ground.bowline(&["--json", "--config", "/nowhere/bowline.toml", "list"]);
    said.refused(2, "config-unreadable", &["/nowhere/bowline.toml"]);
    assert_eq!(ground.listed().len(), 0);
}

#[test]
fn fetch_and_push_fail_with_the_codes_that_the_server_understands() {
    let ground = ground();
    ground.bowline(&["--json", "backup"]).ok();
    let broken = ground.other_config("broken", "org = \n");
    let elsewhere = ground.other_config("elsewhere", &ground.text_for("url = \"file:///nowhere/at/all\"\n"));
    let to = ground.cluster.home().join("fetched");
    let place = to.display().to_string();
    let name = "000000010000000000000001";
    // More than 125: anything lower would let a recovering server believe that the log ends here.
    for words in [
        vec!["--config", &broken, "wal", "fetch", name, &place],
        vec!["--config", "/nowhere/bowline.toml", "wal", "fetch", name, &place],
        vec!["--config", &elsewhere, "wal", "fetch", name, &place],
        vec!["--key", "/nowhere/key", "wal", "fetch", name, &place],
        vec!["wal", "fetch", "not-a-name", &place],
        vec!["wal", "fetch", name],
        vec!["wal", "fetch", "--no-such-flag", name, &place],
        vec!["wal", "fetch", "--supply", "/nowhere/socket", name, &place],
    ] {
        let said = ground.bowline(&words);
        assert_eq!(said.code, Some(200), "{words:?}: {said:#?}");
        assert!(!to.exists() && !(said.err.clone() + &said.out).is_empty(), "{words:?}: {said:#?}");
    }
    // Proven absent is 1; there is 0.
    assert_eq!(ground.bowline(&["wal", "fetch", "0000000100000000000000FF", &place]).code, Some(1));
    let stored: Vec<_> =
        files_below(&ground.repository).iter().filter_map(|p| Some(p.file_name()?.to_str()?.to_owned())).filter(|n| n.len() == 24).collect();
    assert_eq!(ground.bowline(&["wal", "fetch", &stored[0], &place]).code, Some(0));
    assert!(to.exists());
    // From 1 to 125: a higher code would end the archiver.
    let push = |words: Vec<&str>| {
        let before = files_below(&ground.repository);
        let said = ground.bowline(&words);
        assert!(said.code.is_some_and(|code| (1..=125).contains(&code)), "{words:?}: {said:#?}");
        assert_eq!(files_below(&ground.repository), before, "{words:?}");
    };
    let home = ground.cluster.home();
    let write = |name: &str, bytes: &[u8]| {
        let path = home.join(name);
        fs::write(&path, bytes).expect("write");
        ground.give(&path);
        path.display().to_string()
    };
    let good = fs::read(&to).expect("the fetched segment");
    let segment = write(&stored[0], &good);
    push(vec!["--config", &broken, "wal", "push", &segment]);
    push(vec!["--config", &elsewhere, "wal", "push", &segment]);
    push(vec!["--key", "/nowhere/key", "wal", "push", &segment]);
    push(vec!["wal", "push"]);
    push(vec!["wal", "push", "/nowhere/000000010000000000000009"]);
    push(vec!["wal", "push", &write("notes.txt", b"hello")]);
    push(vec!["wal", "push", &write("000000010000000000000077", &good)]);
    push(vec!["wal", "push", &write("000000010000000000000078", &good[..4096])]);
    push(vec!["wal", "push", &write("000000010000000000000079", &[])]);
    let mut other = good.clone();
    other[good.len() / 2] ^= 1;
    push(vec!["wal", "push", &write(&stored[0], &other)]);
    assert_eq!(ground.bowline(&["wal", "push", &write(&stored[0], &good)]).code, Some(0), "equal bytes are welcome");
}

/// A small filesystem in memory, gone with this value.
struct Small(PathBuf);

impl Small {
    fn mount(ground: &Ground, name: &str, mib: u32) -> Self {
        let place = ground.cluster.home().join(name);
        fs::create_dir(&place).expect("mkdir");
        let (uid, gid) = ground.cluster.user().unwrap_or_default();
        let options = format!("size={mib}m,mode=700,uid={uid},gid={gid}");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&place).status().expect("mount");
        assert!(done.success(), "this test mounts a small tmpfs and needs the right to (root, or CAP_SYS_ADMIN)");
        Self(place)
    }
    fn use_up(&self, leave_kib: u64) {
        let free = nix_free(&self.0, "avail");
        fs::write(self.0.join("ballast"), vec![1; (free.saturating_sub(leave_kib) * 1024) as usize]).expect("ballast");
    }
}

/// A column of df, in KiB where it is of bytes.
fn nix_free(place: &Path, column: &str) -> u64 {
    let out = Command::new("df").arg(format!("--output={column}")).arg("-k").arg(place).output().expect("df");
    String::from_utf8_lossy(&out.stdout).lines().nth(1).and_then(|line| line.trim().parse().ok()).expect("a number")
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_repository_ends_the_backup_lists_nothing_and_leaves_backup_mode() {
    let ground = Ground::bare(Cluster::builder(testkit::newest_major()).wal_segment_mib(1).start());
    // Random bytes, so that no compression makes room.
    ground.cluster.psql(
        "CREATE TABLE noise AS SELECT g, (SELECT string_agg(uuid_send(gen_random_uuid()), ''::bytea) FROM generate_series(1, 110) WHERE r.g > 0) \
         FROM generate_series(1, 16000) r(g); CHECKPOINT;",
    );
    let small = Small::mount(&ground, "small", 24);
    let text = ground.text_for(&format!("url = \"file://{}/repo\"\n", small.0.display())).replace("30s", "5s");
    ground.write_config(&text);
    ground.bowline(&["--json", "init"]).ok();
    let address = small.0.join("repo").display().to_string();
    for verb in [&["backup"][..], &["backup", "--stream"]] {
        let said = ground.bowline(&[&["--json"], verb].concat());
        said.refused(4, "store-full", &[&address, "Free or add space"]);
        eprintln!("{verb:?} on a full repository ended after {:?}", said.took);
        assert_eq!(ground.listed().len(), 0);
        ground.out_of_backup_mode();
    }
    // Room for the packs, and none for the WAL: the backup ends too, and is not listed.
    ground.cluster.psql("DROP TABLE noise; CHECKPOINT;");
    ground.cluster.psql("SELECT pg_switch_wal(); CHECKPOINT;");
    for attempt in fs::read_dir(small.0.join("repo/acme/full")).expect("attempts").flatten() {
        fs::remove_dir_all(attempt.path()).expect("remove the attempt by hand");
    }
    for leave_kib in (2000..=3000).rev().step_by(100) {
        let _ = fs::remove_file(small.0.join("ballast"));
        small.use_up(leave_kib);
        let said = ground.bowline(&["--json", "backup"]);
        eprintln!("with {leave_kib} KiB free: {:?} {} after {:?}", said.code, said.last("error")["slug"], said.took);
        let listed = ground.listed().len();
        assert_eq!(said.code == Some(0), listed == 1, "{said:#?}");
        ground.out_of_backup_mode();
        for attempt in fs::read_dir(small.0.join("repo/acme/full")).expect("attempts").flatten() {
            fs::remove_dir_all(attempt.path()).expect("remove the attempt by hand");
        }
    }
    let _ = fs::remove_file(small.0.join("ballast"));
    ground.bowline(&["--json", "backup"]).ok();
    assert_eq!(ground.listed().len(), 1);
}

#[test]
fn a_full_target_ends_the_restore_and_the_old_data_is_intact() {
    let ground = ground();
    let truth = ground.cluster.psql(SUM);
    ground.bowline(&["--json", "backup"]).ok();
    let small = Small::mount(&ground, "small", 300);
    let target = small.0.join("data");
    let place = target.display().to_string();
    let restore = ["--json", "restore", "--target", &place, "--yes", "--no-start"];
    ground.bowline(&restore).ok();
    small.use_up(5 << 10);
    // What can be seen before it is begun is refused before it is begun.
    ground.bowline(&restore).refused(4, "disk-too-small", &[&small.0.display().to_string(), "Nothing was touched", &place]);
    assert!(target.join("global/pg_control").exists(), "the old data was touched");
    // Nobody foresees that the disk has room for bytes and none for files.
    fs::remove_file(small.0.join("ballast")).expect("make room");
    let inodes = nix_free(&small.0, "iused") + 300;
    let options = format!("remount,nr_inodes={inodes}");
    assert!(Command::new("mount").args(["-o", &options]).arg(&small.0).status().expect("mount").success(), "remount with few inodes");
    ground.bowline(&restore).refused(4, "disk-full", &[&place, "room"]);
    assert!(!target.join("global/pg_control").exists(), "half a restore could be started");
    let aside: Vec<_> =
        fs::read_dir(&small.0).expect("list").flatten().map(|e| e.path()).filter(|p| p.display().to_string().contains(".before-")).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    fs::remove_dir_all(&target).expect("remove the half");
    assert_eq!(Cluster::open(ground.cluster.major(), &aside[0]).psql(SUM), truth, "the old data is not what it was");
}
