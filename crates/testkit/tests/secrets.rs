//! Planted secrets are found nowhere: not in what the program says, not in the repository, not in the list of processes.

#[path = "bad_input/ground.rs"]
mod ground;

use ground::{FILL, Ground, bucket_text, s3_environment};
use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use testkit::Cluster;
use testkit::bowline::files_below;
use testkit::s3::{S3Server, SECRET_ACCESS_KEY};

const PASSWORD: &str = "planted-Pa55word-in-a-passfile";
const PASSWORD_IN_ENVIRONMENT: &str = "planted-Pa55word-in-PGPASSWORD";
const PASSWORD_IN_CONNINFO: &str = "planted-Pa55word-in-conninfo";
const WRONG_SECRET: &str = "planted-wrong-s3-secret-9876543210";

/// What must be seen nowhere: the key's text among it, whole and in half.
fn secrets(ground: &Ground) -> Vec<String> {
    let key = fs::read_to_string(&ground.key).expect("the key");
    let line = key.lines().find(|line| line.starts_with("bowline-key-1:")).expect("the key's line");
    let base64 = line.split(':').nth(1).expect("base64");
    let mut all: Vec<String> = [PASSWORD, PASSWORD_IN_ENVIRONMENT, PASSWORD_IN_CONNINFO, WRONG_SECRET, SECRET_ACCESS_KEY].map(str::to_owned).into();
    all.extend([base64.to_owned(), base64[..20].to_owned(), base64[20..40].to_owned()]);
    all
}

fn found_in(bytes: &[u8], secrets: &[String]) -> Option<String> {
    secrets.iter().find(|s| bytes.windows(s.len()).any(|w| w == s.as_bytes())).cloned()
}

/// Watches every process's command line and keeps those that belong to this ground.
fn watch(mark: String, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<BTreeSet<String>> {
    std::thread::spawn(move || {
        let mut seen = BTreeSet::new();
        while !stop.load(Ordering::Relaxed) {
            for entry in fs::read_dir("/proc").expect("/proc").flatten() {
                let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                if line.contains(&mark) {
                    seen.insert(line);
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        seen
    })
}

#[test]
fn planted_secrets_are_seen_nowhere() {
    let cluster = Cluster::builder(testkit::newest_major()).wal_segment_mib(1).tcp(true).start();
    cluster.psql(FILL);
    cluster.psql(&format!("CREATE ROLE keeper LOGIN SUPERUSER PASSWORD '{PASSWORD}'"));
    let server = S3Server::shared();
    server.create_bucket("secrets");
    let mut ground = Ground::bare(cluster);
    for (name, value) in s3_environment(SECRET_ACCESS_KEY) {
        ground.set(&name, &value);
    }
    ground.set("RUST_BACKTRACE", "1");
    ground.set("RUST_LOG", "trace");
    let home = ground.cluster.home().to_owned();
    // The right password is in ~/.pgpass, which belongs to the server's user as its HOME says.
    let passfile = home.join(".pgpass");
    ground.write(&passfile, &format!("*:*:*:keeper:{PASSWORD}\n"));
    fs::set_permissions(&passfile, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
    let keeper = format!("host=127.0.0.1 port={} user=keeper dbname=postgres", ground.cluster.port());
    let folder = format!("url = \"file://{}\"\n", ground.repository.display());
    let bucket = bucket_text("secrets", server.endpoint());
    let data = ground.cluster.data_dir().to_owned();
    let config = |name: &str, repository: &str, conninfo: &str| ground.other_config(name, &ground.text_with(repository, conninfo, &data));
    let good = config("good", &folder, &keeper);
    let in_bucket = config("bucket", &bucket, &keeper);
    let in_conninfo = config("conninfo", &folder, &format!("{keeper} password={PASSWORD_IN_CONNINFO}"));
    let broken_conninfo = config("broken", &folder, &format!("{keeper} password={PASSWORD_IN_CONNINFO} colour=red"));
    let stop = Arc::new(AtomicBool::new(false));
    let processes = watch(home.display().to_string(), stop.clone());
    let mut said = String::new();
    let mut codes = Vec::new();
    let mut note = |words: &[&str], variables: &[(&str, &str)]| {
        for json in [false, true] {
            let mut command = ground.command(words);
            command.envs(variables.iter().copied());
            if json {
                command.arg("--json");
            }
            let heard = ground::run(command);
            codes.push((words.join(" "), heard.code));
            said.push_str(&heard.out);
            said.push_str(&heard.err);
        }
    };
    let target = home.join("r").display().to_string();
    for config in [&good, &in_bucket] {
        for verb in [&["init"][..], &["check"], &["backup"], &["list"], &["status"], &["restore", "--target", &target, "--plan"]] {
            note(&[&["--config", config], verb].concat(), &[]);
        }
        note(&["--config", config, "restore", "--target", &target, "--yes", "--no-start"], &[]);
        note(&["--config", config, "wal", "fetch", "000000010000000000000001", &home.join("fetched").display().to_string()], &[]);
        note(&["--config", config, "wal", "push", "/nowhere/000000010000000000000001"], &[]);
        // The wrong password from the environment wins over the file's.
        for verb in [&["check"][..], &["backup"], &["backup", "--stream"], &["status"], &["wal", "receive"]] {
            note(&[&["--config", config], verb].concat(), &[("PGPASSWORD", PASSWORD_IN_ENVIRONMENT)]);
        }
        for verb in ["check", "backup", "list", "init", "status"] {
            note(&["--config", config, verb], &[("TEST_S3_SECRET", WRONG_SECRET)]);
        }
    }
    for config in [&in_conninfo, &broken_conninfo] {
        for verb in [&["check"][..], &["backup"], &["status"], &["wal", "receive"]] {
            note(&[&["--config", config], verb].concat(), &[]);
        }
    }
    // A side restore that stays up: its server's command line is looked at as well.
    let up = home.join("up").display().to_string();
    note(&["--config", &good, "restore", "--target", &up, "--yes"], &[]);
    let receiver = ground.command(&["--config", &good, "wal", "receive"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    std::thread::sleep(std::time::Duration::from_millis(500));
    if let Ok(mut receiver) = receiver {
        let _ = receiver.kill();
        let _ = receiver.wait();
    }
    stop.store(true, Ordering::Relaxed);
    let processes = processes.join().expect("the watch");
    for entry in files_below(&home).iter().filter(|p| p.ends_with("postmaster.pid") && !p.starts_with(&data)) {
        let pid = fs::read_to_string(entry).ok().and_then(|text| text.lines().next()?.parse().ok());
        // Only servers that work in a directory of this test's own.
        if let Some(pid) = pid.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&home))) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGQUIT);
        }
    }

    // The test looked where it meant to look: commands of both kinds ran, the recovery's own processes were seen.
    let succeeded = codes.iter().filter(|(_, code)| *code == Some(0)).count();
    let failed = codes.len() - succeeded;
    eprintln!("{succeeded} commands succeeded, {failed} failed; {} bytes said, {} command lines seen", said.len(), processes.len());
    assert!(succeeded >= 20 && failed >= 30, "{codes:#?}");
    assert!(processes.iter().any(|line| line.contains("postgres") && line.contains("restore_command")), "no recovery was seen: {processes:#?}");
    assert!(processes.iter().any(|line| line.contains("wal fetch")), "no restore_command was seen: {processes:#?}");

    let secrets = secrets(&ground);
    let hit = |what: &str, bytes: &[u8]| {
        if let Some(secret) = found_in(bytes, &secrets) {
            panic!("{secret} is in {what}");
        }
    };
    for line in said.lines() {
        hit(&format!("what was said: {line}"), line.as_bytes());
    }
    processes.iter().for_each(|line| hit(&format!("the list of processes: {line}"), line.as_bytes()));
    let objects = files_below(&ground.repository);
    assert!(objects.len() > 10, "{objects:?}");
    // The server itself keeps only a digest of the role's password, so that no packed file holds it either.
    objects.iter().for_each(|path| hit(&path.display().to_string(), &fs::read(path).expect("an object")));
    // What a restore leaves beside its target: logs, settings.
    for side in ["r.bowline", "up.bowline"] {
        files_below(&home.join(side)).iter().for_each(|path| hit(&path.display().to_string(), &fs::read(path).unwrap_or_default()));
    }
    // The twin: the same search finds what is there.
    assert_eq!(found_in(&fs::read(&passfile).expect("the passfile"), &secrets).as_deref(), Some(PASSWORD));
    assert!(found_in(&fs::read(&ground.key).expect("the key"), &secrets).is_some());
    assert!(found_in(in_conninfo_text(&in_conninfo).as_bytes(), &secrets).is_some());
}

fn in_conninfo_text(path: &str) -> String {
    fs::read_to_string(path).expect("the configuration")
}
