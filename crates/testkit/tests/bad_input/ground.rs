//! A cluster, a repository and the real program, for the tests of faults and of bad input.
#![allow(dead_code, reason = "each test binary uses its own part")]

use serde_json::Value;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use testkit::Cluster;
use testkit::s3::S3Server;

/// No command of these tests may take longer.
const LIMIT: Duration = Duration::from_secs(120);

/// The program under test: `$BOWLINE_BIN`, or the one that cargo built beside this test.
pub fn program() -> PathBuf {
    let built = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("bowline"));
    let found = std::env::var_os("BOWLINE_BIN").map(PathBuf::from).or_else(built).expect("a place for the program");
    assert!(found.is_file(), "{} is missing: cargo build -p cli", found.display());
    found
}

/// What a command left.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub took: Duration,
    /// Peak resident memory, for [`Ground::measured`].
    pub peak_kib: u64,
}

impl Said {
    /// The last JSON line's member of this name.
    pub fn last(&self, name: &str) -> Value {
        let line = self.out.lines().rev().find(|line| line.starts_with('{')).unwrap_or("{}");
        serde_json::from_str::<Value>(line).unwrap_or_default()[name].clone()
    }
    /// Panics unless it succeeded; returns the result.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.last("result")
    }
    /// Panics unless it failed with this exit code and slug, named all of `words`, and offered a next step.
    #[track_caller]
    pub fn refused(&self, code: i32, slug: &str, words: &[&str]) {
        let error = self.last("error");
        let part = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        assert_eq!((self.code, part("slug").as_str()), (Some(code), slug), "{self:#?}");
        let said = [part("summary"), part("detail"), part("hint")].join("\n");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in\n{said}");
        }
        assert!(!part("hint").is_empty(), "there is no next step: {said}");
        assert!(!said.contains("panicked") && !self.err.contains("panicked"), "{self:#?}");
    }
}

/// One cluster with a repository and a configuration; everything lies in the cluster's own directory.
pub struct Ground {
    pub cluster: Cluster,
    pub config: PathBuf,
    pub key: PathBuf,
    pub repository: PathBuf,
    environment: Vec<(String, String)>,
}

impl Ground {
    /// On a folder, initialised.
    pub fn folder(cluster: Cluster) -> Self {
        let ground = Self::bare(cluster);
        ground.bowline(&["--json", "init"]).ok();
        ground
    }

    /// On a folder, without a repository yet.
    pub fn bare(cluster: Cluster) -> Self {
        let home = cluster.home().to_owned();
        let ground =
            Self { config: home.join("bowline.toml"), key: home.join("key"), repository: home.join("repo"), environment: Vec::new(), cluster };
        ground.write_config(&ground.text());
        ground
    }

    /// In a bucket of a real S3 server, initialised.
    pub fn bucket(cluster: Cluster, server: &S3Server, bucket: &str) -> Self {
        server.create_bucket(bucket);
        let mut ground = Self::bare(cluster);
        ground.environment = s3_environment(testkit::s3::SECRET_ACCESS_KEY);
        ground.write_config(&ground.text_for(&bucket_text(bucket, server.endpoint())));
        ground.bowline(&["--json", "init"]).ok();
        ground
    }

    /// The configuration of this ground.
    pub fn text(&self) -> String {
        self.text_for(&format!("url = \"file://{}\"\n", self.repository.display()))
    }

    /// The configuration with another `[repository]`.
    pub fn text_for(&self, repository: &str) -> String {
        self.text_with(repository, &self.cluster.conninfo(), self.cluster.data_dir())
    }

    /// The configuration with all that may differ.
    pub fn text_with(&self, repository: &str, conninfo: &str, data_dir: &Path) -> String {
        format!(
            "org = \"acme\"\n[postgres]\nconninfo = \"{conninfo}\"\ndata_dir = \"{}\"\nbin_dir = \"{}\"\n[repository]\n{repository}\
             [encryption]\nrecipients = [\"file:{}\"]\n[backup]\nwal_timeout = \"30s\"\n",
            data_dir.display(),
            self.cluster.bin_dir().display(),
            self.key.display()
        )
    }

    pub fn write_config(&self, text: &str) {
        self.write(&self.config, text);
    }

    /// Another configuration, for one test.
    pub fn other_config(&self, name: &str, text: &str) -> String {
        let path = self.cluster.home().join(format!("{name}.toml"));
        self.write(&path, text);
        path.display().to_string()
    }

    /// Writes a file that the server's user owns.
    pub fn write(&self, path: &Path, text: &str) {
        fs::write(path, text).expect("write");
        self.give(path);
    }

    /// Gives a path to the server's user.
    pub fn give(&self, path: &Path) {
        if let Some((uid, gid)) = self.cluster.user() {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("chown");
        }
    }

    /// One more variable for every command.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The program with these words, as the server's user, with this ground's configuration unless they name another.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        if !words.contains(&"--config") {
            command.arg("--config").arg(&self.config);
        }
        command.args(words).current_dir(self.cluster.home()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PG") || name.starts_with("AWS_") || name == "BOWLINE_CONFIG") {
            command.env_remove(name);
        }
        command.env("HOME", self.cluster.home()).envs(self.environment.iter().cloned()).process_group(0);
        if let Some((uid, gid)) = self.cluster.user() {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs it to its end.
    pub fn bowline(&self, words: &[&str]) -> Said {
        run(self.command(words))
    }

    /// The ids of the listed backups.
    pub fn listed(&self) -> Vec<String> {
        let result = self.bowline(&["--json", "list"]).ok();
        result["backups"].as_array().expect("backups").iter().map(|b| b["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// Panics unless no session and no slot of a backup is left on the server within ten seconds: backup mode ends with its session.
    #[track_caller]
    pub fn out_of_backup_mode(&self) {
        let ask = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'bowline%' AND backend_type IN ('client backend', 'walsender')) \
                   + (SELECT count(*) FROM pg_replication_slots WHERE temporary)";
        let begun = Instant::now();
        while self.cluster.psql(ask) != "0" {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{}",
                self.cluster.psql("SELECT * FROM pg_stat_activity WHERE application_name <> ''")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Restores `backup` elsewhere, to its own end (later WAL may be nobody's duty in a test), starts nothing of Bowline's own, and returns what `sql` says there.
    pub fn restored_says(&self, backup: &str, name: &str, sql: &str) -> String {
        let target = self.cluster.home().join(name);
        let place = target.display().to_string();
        self.bowline(&["--json", "restore", "--backup", backup, "--to", "immediate", "--target", &place, "--yes", "--no-start"]).ok();
        let said = Cluster::open(self.cluster.major(), &target).psql(sql);
        let _ = fs::remove_dir_all(&target);
        said
    }
}

/// `[repository]` for a bucket.
pub fn bucket_text(bucket: &str, endpoint: &str) -> String {
    format!(
        "url = \"s3://{bucket}/backups\"\nendpoint = \"{endpoint}\"\nregion = \"us-east-1\"\n\
         access_key_id = \"env:TEST_S3_ID\"\nsecret_access_key = \"env:TEST_S3_SECRET\"\n"
    )
}

/// The credentials that [`bucket_text`] names.
pub fn s3_environment(secret: &str) -> Vec<(String, String)> {
    vec![("TEST_S3_ID".into(), testkit::s3::ACCESS_KEY_ID.into()), ("TEST_S3_SECRET".into(), secret.into())]
}

/// Runs a command to its end; one that hangs is killed and fails the test.
pub fn run(mut command: Command) -> Said {
    let what = format!("{command:?}");
    let begun = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{what}: {e}"));
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let mut peak_kib = 0;
    let status: ExitStatus = loop {
        peak_kib = peak_kib.max(peak_of(&child));
        match child.try_wait().expect("wait") {
            Some(status) => break status,
            None if begun.elapsed() > LIMIT => {
                let _ = child.kill();
                panic!("{what} hangs:\n{}{}", out.join().expect("out"), err.join().expect("err"));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let took = begun.elapsed();
    Said { code: status.code(), out: out.join().expect("out"), err: err.join().expect("err"), took, peak_kib }
}

/// VmHWM of proc_pid_status(5).
fn peak_of(child: &Child) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// A small generator (splitmix64): the seed is printed, so every walk can be repeated.
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }
}

/// The rows that a restore is judged by.
pub const FILL: &str = "CREATE TABLE probe AS SELECT g AS id, md5(g::text) AS text FROM generate_series(1, 20000) g; CHECKPOINT;";
/// What they say.
pub const SUM: &str = "SELECT count(*), md5(string_agg(text, '' ORDER BY id)) FROM probe";
