//! Every command of the runbook, in its order, after the disaster that its chapter is about.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use terms::{Clock, SystemClock};
use testkit::bowline::{FINGERPRINT, files_below, flip_a_bit, program, wait};
use testkit::{Bowline, Cluster, RepositoryKind, full, majors, newest_major};

/// One fenced block: its language and its lines.
type Block = (String, Vec<String>);

/// The chapters with their blocks, in order.
fn chapters(text: &str) -> Vec<(String, Vec<Block>)> {
    let (mut found, mut open): (Vec<(String, Vec<Block>)>, Option<Block>) = (Vec::new(), None);
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language.to_owned(), Vec::new())),
            (Some(_), Some(_)) => found.last_mut().expect("a chapter").1.extend(open.take()),
            (None, Some((_, lines))) => lines.push(line.to_owned()),
            (None, None) => {
                if let Some(title) = line.strip_prefix("## ") {
                    found.push((title.to_owned(), Vec::new()));
                }
            }
        }
    }
    found
}

/// Where the commands run, and what they are told.
struct Stage<'a> {
    cluster: &'a Cluster,
    bowline: &'a Bowline<'a>,
    bin: PathBuf,
    ran: usize,
}

impl Stage<'_> {
    /// Runs a chapter's blocks: what it asks for comes from `values`, what it expects must have been printed since the last such block.
    fn play(&mut self, (title, blocks): &(String, Vec<Block>), values: &[(&str, &str)]) {
        let values: BTreeMap<&str, &str> = values.iter().copied().collect();
        let mut said = String::new();
        for (language, lines) in blocks {
            let names: Vec<&str> = lines.iter().filter_map(|line| line.split_once("='").map(|(name, _)| name)).collect();
            let is_asked = language == "sh" && names.len() == lines.len() && names.iter().all(|name| name.bytes().all(|b| b.is_ascii_uppercase()));
            match language.as_str() {
                "sh" if is_asked => names.iter().for_each(|name| assert!(values.contains_key(name), "{title} asks for {name}")),
                "sh" => {
                    for line in lines {
                        said.push_str(&self.run(title, line, &values));
                        self.ran += 1;
                    }
                }
                "text" => {
                    for line in lines {
                        assert!(is_among(line, &said), "{title} promises {line:?}, but printed:\n{said}");
                    }
                    said.clear();
                }
                other => panic!("{title} has a block of {other:?}"),
            }
        }
    }

    fn run(&self, title: &str, line: &str, values: &BTreeMap<&str, &str>) -> String {
        let mut command = Command::new("bash");
        let path = format!("{}:{}", self.bin.display(), std::env::var("PATH").unwrap_or_default());
        command.args(["-euo", "pipefail", "-c", line]).envs(values).env("PATH", path).env("PGUSER", "postgres").env_remove("BOWLINE_CONFIG");
        command.env("HOME", self.bowline.dir()).current_dir(self.bowline.dir());
        if let Some((uid, gid)) = self.cluster.user() {
            command.uid(uid).gid(gid);
        }
        let out = self.bowline.dir().join("said");
        let file = fs::File::create(&out).expect("a file");
        let status = command.stdout(file.try_clone().expect("dup")).stderr(file).status().expect("run bash");
        let said = fs::read_to_string(&out).expect("what it said");
        assert!(status.success(), "{title}: {line}\nended with {status}:\n{said}\n{}", self.cluster.log());
        said
    }
}

/// Whether a line of `said` is like this one, in which `…` stands for anything.
fn is_among(line: &str, said: &str) -> bool {
    let parts: Vec<&str> = line.split('…').collect();
    said.lines().any(|candidate| {
        let Some(mut rest) = candidate.strip_prefix(parts[0]) else { return false };
        for part in &parts[1..] {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        parts.len() > 1 || rest.is_empty()
    })
}

/// Ends every receiver of this configuration, and those that restores of this cluster started.
fn end_receivers(cluster: &Cluster) {
    let home = cluster.home().display().to_string();
    for pid in testkit::processes_that(|words| words.contains(&home) && words.contains("wal\0receive")) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("end a receiver");
    }
}

fn burn(cluster: &Cluster) {
    end_receivers(cluster);
    let pid = fs::read_to_string(cluster.data_dir().join("postmaster.pid")).expect("a server");
    let pid: i32 = pid.lines().next().expect("a process").parse().expect("a number");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill the postmaster");
    wait("its processes' end", Duration::from_secs(20), || pg::survivors_in(cluster.data_dir()).is_empty());
    fs::remove_dir_all(cluster.data_dir()).expect("lose the data");
    // A new machine has none of the old one's sockets.
    for entry in fs::read_dir(cluster.socket_dir()).expect("list").flatten() {
        fs::remove_file(entry.path()).expect("remove a socket");
    }
}

/// Waits until all that the server has written is in the repository.
fn until_stored(cluster: &Cluster, repository: &Path) {
    let file = cluster.psql("SELECT pg_logical_emit_message(false, 'e2e', 'x'); SELECT pg_walfile_name(pg_switch_wal())");
    let name = file.lines().last().expect("a name").to_owned();
    wait(&format!("{name} in {}", repository.display()), Duration::from_secs(60), || {
        files_below(repository).iter().any(|path| path.file_name().is_some_and(|found| found == name.as_str()))
    });
}

fn play(major: u32) {
    let cluster = Cluster::builder(major).checksums(true).start();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let config = |bowline: &Bowline<'_>| {
        let lines = format!(
            "[wal]\nflush_interval = \"300ms\"\n[drill]\ndir = {:?}\n[runbook]\ncontacts = [\"Ada, 555\"]\n[[alerts.channel]]\ntype = \"webhook\"\nurl = \"file:/nowhere/pager\"\n",
            cluster.home().display().to_string()
        );
        bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &lines);
    };
    config(&bowline);
    let bin = cluster.home().join("bin");
    cluster.psql(&format!("\\! mkdir {0} && ln -s {1} {0}/bowline", bin.display(), program().display()));
    cluster
        .psql("CREATE TABLE orders AS SELECT i AS id, md5(i::text) AS what FROM generate_series(1, 5000) i; ALTER TABLE orders ADD PRIMARY KEY (id)");
    let first_receiver = bowline.receive();
    bowline.ok(&["backup"]);

    let text = bowline.ok(&["runbook"])["markdown"].as_str().expect("a runbook").to_owned();
    assert!(text.contains("Ada, 555") && text.contains(cluster.data_dir().to_str().expect("a plain path")), "{text}");
    let chapters = chapters(&text);
    let titles: Vec<&str> = chapters.iter().map(|(title, _)| title.as_str()).collect();
    assert_eq!(titles.len(), 11, "each chapter has its disaster below: {titles:?}");
    let mut stage = Stage { cluster: &cluster, bowline: &bowline, bin, ran: 0 };
    let now = || {
        std::thread::sleep(Duration::from_millis(20));
        let now = SystemClock.now().to_string();
        std::thread::sleep(Duration::from_millis(20));
        now
    };
    let data_is = |wanted: &str, when: &str| assert_eq!(cluster.psql(FINGERPRINT), wanted, "PostgreSQL {major}: {when}");
    let repository = bowline.repository();

    stage.play(&chapters[0], &[]);

    cluster.psql("INSERT INTO orders VALUES (0, 'the last good one')");
    let (wanted, good) = (cluster.psql(FINGERPRINT), now());
    cluster.psql("DROP TABLE orders");
    until_stored(&cluster, &repository);
    stage.play(&chapters[1], &[("T", &good), ("TABLE", "public.orders")]);
    data_is(&wanted, "a dropped table");

    let good = now();
    cluster.psql("UPDATE orders SET what = 'x'");
    until_stored(&cluster, &repository);
    stage.play(&chapters[2], &[("T", &good)]);
    data_is(&wanted, "an update without WHERE");

    until_stored(&cluster, &repository);
    cluster.stop_adopted();
    fs::remove_dir_all(cluster.data_dir().join("pg_wal")).expect("lose pg_wal");
    stage.play(&chapters[3], &[]);
    data_is(&wanted, "a lost pg_wal");

    until_stored(&cluster, &repository);
    drop(first_receiver);
    burn(&cluster);
    fs::remove_file(bowline.config()).expect("lose the configuration");
    let _ = fs::remove_dir_all(cluster.home().join("data.bowline"));
    stage.play(&chapters[4], &[]);
    data_is(&wanted, "a lost machine");

    until_stored(&cluster, &repository);
    let replica = bowline.dir().join("replica");
    cluster.psql(&format!("\\! mkdir {0} && cp -r {1} {0}/acme", replica.display(), repository.display()));
    burn(&cluster);
    fs::remove_dir_all(bowline.dir().join("repository")).expect("lose the repository");
    stage.play(&chapters[5], &[("REPLICA", &format!("file://{}", replica.display()))]);
    data_is(&wanted, "a lost region");

    let repository = replica.join("acme");
    until_stored(&cluster, &repository);
    let before = cluster.psql(FINGERPRINT);
    cluster.psql("INSERT INTO orders VALUES (-1, 'in the damaged segment')");
    let damaged = cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    until_stored(&cluster, &repository);
    cluster.psql("INSERT INTO orders VALUES (-2, 'behind it')");
    until_stored(&cluster, &repository);
    cluster.stop_adopted();
    let object = files_below(&repository).into_iter().find(|path| path.ends_with(&damaged)).expect("the segment");
    flip_a_bit(&object);
    stage.play(&chapters[6], &[]);
    data_is(&before, "a damaged segment");

    let spare = bowline.dir().join("spare");
    cluster.psql(&format!("\\! mv {} {}", bowline.dir().join("key").display(), spare.display()));
    stage.play(&chapters[7], &[("SPARE", spare.to_str().expect("a plain path"))]);

    let good = now();
    cluster.psql("INSERT INTO orders VALUES (-3, 'after it')");
    until_stored(&cluster, &repository);
    stage.play(&chapters[8], &[("T", &good)]);

    end_receivers(&cluster);
    fs::remove_dir_all(&replica).expect("lose the repository");
    stage.play(&chapters[9], &[("NEW", &format!("file://{}", bowline.dir().join("new").display()))]);

    let lines = fs::read_to_string(bowline.config()).expect("the configuration");
    assert!(lines.contains("url = \"file:/nowhere/pager\""), "only the repository is another one: {lines}");

    stage.play(&chapters[10], &[]);
    let commands = text.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("\n```")).map(|(block, _)| block.lines().count()).sum::<usize>();
    let asked = text.lines().filter(|line| line.contains("'  # ")).count();
    assert_eq!(stage.ran, commands - asked, "every command was run");
    end_receivers(&cluster);
    cluster.stop_adopted();
}

#[test]
fn every_command_of_the_runbook_does_what_it_says() {
    let wanted = if full() { majors() } else { vec![newest_major()] };
    wanted.into_iter().for_each(play);
}

#[test]
fn a_backup_keeps_the_runbook_in_the_repository_when_it_says_something_new() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let configure = |who: &str| bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), &format!("[runbook]\ncontacts = [\"{who}\"]\n"));
    let kept = |name: &str| {
        let mut found: Vec<PathBuf> = files_below(&bowline.repository().join("runbook")).into_iter().filter(|path| path.ends_with(name)).collect();
        found.sort();
        found
    };
    // Its object is named by its second.
    let backup = || {
        std::thread::sleep(Duration::from_millis(1100));
        bowline.ok(&["backup"])
    };
    configure("Ada, 555");
    backup();
    backup();
    let first = kept("runbook.md");
    assert_eq!((first.len(), kept("runbook.html").len()), (1, 1), "the same runbook is kept once");
    let printed = bowline.ok(&["runbook"])["markdown"].as_str().expect("a runbook").to_owned();
    assert_eq!(fs::read_to_string(&first[0]).expect("the runbook"), printed);
    configure("Grace, 556");
    backup();
    let kept = kept("runbook.md");
    let newest = fs::read_to_string(kept.last().expect("a runbook")).expect("the runbook");
    assert!(kept.len() == 2 && newest.contains("Grace, 556"), "{kept:?}");
}
