//! The real `bowline` program, run against a cluster as the cluster's own user, with its JSON read.

use crate::cluster::SUPERUSER;
use crate::launch;
use crate::place::write_private;
use crate::planted::refuse_secrets;
pub use crate::receiver::Receiver;
use crate::s3::{ACCESS_KEY_ID, S3Server, SECRET_ACCESS_KEY};
use crate::{Cluster, PatroniCluster, Proxy};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Where the repository is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepositoryKind<'p> {
    /// A folder in the cluster's home.
    Folder,
    /// A bucket of its own on the shared S3 server.
    S3,
    /// The same, but it keeps versions, and every object is locked for two days.
    S3Locked,
    /// A bucket reached through this proxy, whose upstream must be [`S3Server::shared`] (see [`crate::toxiproxy::s3`]).
    S3Through(&'p Proxy),
}

/// Whose servers are protected.
#[derive(Debug, Clone, Copy)]
enum Ground<'a> {
    Own(&'a Cluster),
    Patroni(&'a PatroniCluster),
}

impl<'a> Ground<'a> {
    fn major(self) -> u32 {
        match self {
            Self::Own(cluster) => cluster.major(),
            Self::Patroni(cluster) => cluster.major(),
        }
    }
    fn home(self) -> &'a Path {
        match self {
            Self::Own(cluster) => cluster.home(),
            Self::Patroni(cluster) => cluster.home(),
        }
    }
    fn psql(self, sql: &str) -> String {
        match self {
            Self::Own(cluster) => cluster.psql(sql),
            Self::Patroni(cluster) => cluster.psql(sql),
        }
    }
}

/// One configuration of Bowline for one cluster, with its repository and key made.
#[derive(Debug)]
pub struct Bowline<'a> {
    ground: Ground<'a>,
    dir: PathBuf,
    config: PathBuf,
    /// `file:///…` or `s3://…`, with the lines of `[repository]` that belong to it.
    repository: (String, String),
    environment: Vec<(String, String)>,
    /// Whom its data keys are wrapped for.
    recipients: Mutex<Vec<String>>,
    restores: AtomicU32,
}

/// How one command ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; 128 + the signal's number when a signal ended it.
    pub code: i32,
    /// Every JSON line it printed.
    pub lines: Vec<Value>,
    /// Everything else it said.
    pub said: String,
}

impl Outcome {
    /// What it reports; panics with all it said when it failed.
    pub fn result(&self) -> &Value {
        let result = self.lines.iter().rev().find_map(|line| line.get("result"));
        result.filter(|_| self.code == 0).unwrap_or_else(|| panic!("the command failed: {self:#?}"))
    }
    /// The word for what went wrong, and the text of it; panics when nothing did.
    pub fn error(&self) -> (&str, String) {
        let error = self.lines.iter().rev().find_map(|line| line.get("error"));
        let error = error.filter(|_| self.code != 0).unwrap_or_else(|| panic!("the command ended without an error: {self:#?}"));
        let text = ["summary", "detail", "hint"].map(|part| error[part].as_str().unwrap_or_default()).join("\n");
        assert_eq!(error["exit_code"], self.code, "{self:#?}");
        (error["slug"].as_str().unwrap_or_default(), text)
    }
}

impl<'a> Bowline<'a> {
    /// A new repository for this cluster; backups read its data directory.
    pub fn new(cluster: &'a Cluster, kind: RepositoryKind<'_>) -> Self {
        let bowline = Self::on(Ground::Own(cluster), kind);
        bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), "");
        bowline.ok(&["init"]);
        bowline
    }

    /// A new repository whose data keys are wrapped for these recipients; `{key}` in one is a key file's place. Commands get this
    /// environment.
    pub fn sealed_for(cluster: &'a Cluster, kind: RepositoryKind<'_>, recipients: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut bowline = Self::on(Ground::Own(cluster), kind);
        bowline.environment.extend(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        bowline.set_recipients(cluster, recipients);
        bowline.ok(&["init"]);
        bowline
    }

    /// Configures other recipients from now on.
    pub fn set_recipients(&self, cluster: &Cluster, recipients: &[&str]) {
        let key = self.dir.join("key").display().to_string();
        *self.recipients.lock().expect("no holder panics") = recipients.iter().map(|text| text.replace("{key}", &key)).collect();
        self.configure(&cluster.conninfo(), Some(cluster.data_dir()), "");
    }

    /// A configuration for this cluster with a repository at this url, reached with these lines of `[repository]`; nothing is made yet.
    pub fn at(cluster: &'a Cluster, url: &str, lines: &str, environment: &[(&str, &str)]) -> Self {
        let mut bowline = Self::on(Ground::Own(cluster), RepositoryKind::Folder);
        bowline.repository = (url.to_owned(), lines.to_owned());
        bowline.environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        bowline.configure(&cluster.conninfo(), Some(cluster.data_dir()), "");
        bowline
    }

    /// A new repository for a cluster under Patroni, reached over all its nodes; backups are read over the replication protocol.
    pub fn of_patroni(cluster: &'a PatroniCluster, kind: RepositoryKind<'_>) -> Self {
        let bowline = Self::on(Ground::Patroni(cluster), kind);
        bowline.configure(&cluster.conninfo(), None, "");
        bowline.ok(&["init"]);
        bowline
    }

    fn on(ground: Ground<'a>, kind: RepositoryKind<'_>) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let dir = ground.home().join(format!("bowline-{number}"));
        launch::make_dir(&dir, 0o700);
        let (repository, environment) = match kind {
            // A quota, so that it does not matter how full the disk of this machine is.
            RepositoryKind::Folder => ((format!("file://{}/repository", dir.display()), "capacity = \"1TiB\"\n".to_owned()), Vec::new()),
            RepositoryKind::S3 | RepositoryKind::S3Locked | RepositoryKind::S3Through(_) => {
                let server = S3Server::shared();
                let bucket = format!("e2e-{}-{number}", std::process::id());
                let locked = match kind {
                    RepositoryKind::S3Locked => {
                        server.create_locked_bucket(&bucket);
                        "object_lock = \"compliance\"\nobject_lock_days = 2\n"
                    }
                    _ => {
                        server.create_bucket(&bucket);
                        ""
                    }
                };
                let lines = format!(
                    "endpoint = \"{}\"\nregion = \"us-east-1\"\npath_style = true\naccess_key_id = \"env:E2E_ID\"\nsecret_access_key = \"env:E2E_SECRET\"\n{locked}",
                    match kind {
                        RepositoryKind::S3Through(proxy) => proxy.endpoint(),
                        _ => server.endpoint().to_owned(),
                    }
                );
                let environment = [("E2E_ID", ACCESS_KEY_ID), ("E2E_SECRET", SECRET_ACCESS_KEY)].map(|(k, v)| (k.to_owned(), v.to_owned()));
                ((server.url(&bucket, "backups"), lines), environment.to_vec())
            }
        };
        let config = dir.join("bowline.toml");
        let recipients = Mutex::new(vec![format!("file:{}", dir.join("key").display())]);
        Self { ground, dir, config, repository, environment, recipients, restores: AtomicU32::new(0) }
    }

    /// Writes the configuration anew: how the server is reached, whether its data directory is read, and further lines.
    pub fn configure(&self, conninfo: &str, data_dir: Option<&Path>, more: &str) {
        let (url, lines) = &self.repository;
        let data_dir = data_dir.map_or_else(String::new, |dir| format!("data_dir = {:?}\n", dir.display().to_string()));
        let text = format!(
            "org = \"acme\"\n[postgres]\nconninfo = {conninfo:?}\n{data_dir}bin_dir = {:?}\n[repository]\nurl = {url:?}\n{lines}[encryption]\nrecipients = {:?}\n{more}",
            launch::bin_dir(self.ground.major()).display().to_string(),
            self.recipients.lock().expect("no holder panics"),
        );
        write_private(&self.config, &text);
    }

    /// Backs up over the replication protocol from now on: the configuration names no data directory.
    pub fn without_data_dir(self) -> Self {
        let conninfo = match self.ground {
            Ground::Own(cluster) => cluster.conninfo(),
            Ground::Patroni(cluster) => cluster.conninfo(),
        };
        self.configure(&conninfo, None, "");
        self
    }

    /// An environment variable for every command from now on.
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }
    /// A folder of this Bowline's own, removed with the cluster.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// The repository's own url, `file:///…` or `s3://…`, as configured: without the organisation.
    pub fn url(&self) -> &str {
        &self.repository.0
    }
    /// The root of a repository in a folder.
    pub fn repository(&self) -> PathBuf {
        self.dir.join("repository").join("acme")
    }
    /// The words of a shell command, as for `archive_command`.
    pub fn shell(&self, words: &str) -> String {
        format!("{} --config {} {words}", program().display(), self.config.display())
    }

    /// The command, ready to run, without `--json`.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.without_config();
        command.arg("--config").arg(&self.config).args(words);
        command
    }

    /// As on a machine that has the key and no configuration: only where the repository is.
    pub fn bare_command(&self, words: &[&str]) -> Command {
        let mut command = self.without_config();
        command.args(["--repository", self.url(), "--org", "acme", "--key"]).arg(self.dir.join("key")).args(words);
        command
    }

    fn without_config(&self) -> Command {
        self.ready_to_run(&program())
    }

    /// What a person sees who runs it in a terminal, the bar included, which is drawn over and over. Panics when it fails.
    pub fn in_a_terminal(&self, words: &[&str]) -> String {
        let mut command = self.ready_to_run(Path::new("script"));
        command.args(["--quiet", "--return", "--command", &self.shell(&words.join(" ")), "/dev/null"]).env("TERM", "xterm");
        let out = command.output().expect("script, of bsdutils, which every Debian has");
        let seen = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{words:?}: {seen}");
        seen
    }

    fn ready_to_run(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", &self.dir).env("RUST_BACKTRACE", "1");
        command.envs(self.environment.iter().cloned()).current_dir(&self.dir).stdin(Stdio::null());
        if let Some((uid, gid)) = launch::server_user() {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs a command with `--json` to its end.
    pub fn run(&self, words: &[&str]) -> Outcome {
        outcome_of(self.command(words), words)
    }

    /// Runs [`Bowline::bare_command`] with `--json` to its end.
    pub fn run_bare(&self, words: &[&str]) -> Outcome {
        outcome_of(self.bare_command(words), words)
    }

    /// Runs a command that must succeed and returns its result.
    pub fn ok(&self, words: &[&str]) -> Value {
        self.run(words).result().clone()
    }

    /// Runs a command that must end with this exit code and word, and returns the text of the error.
    pub fn fails(&self, words: &[&str], code: i32, slug: &str) -> String {
        let outcome = self.run(words);
        let (found, text) = outcome.error();
        assert_eq!((outcome.code, found), (code, slug), "{outcome:#?}");
        text
    }

    /// A place for the next restore, beside the data directory; nothing is there yet.
    pub fn new_target(&self) -> PathBuf {
        self.ground.home().join(format!(
            "r{}-{}",
            self.dir.display().to_string().rsplit('-').next().unwrap_or("0"),
            self.restores.fetch_add(1, Ordering::Relaxed)
        ))
    }

    /// Restores beside the cluster and leaves the restored server running on its private socket.
    pub fn restore(&self, words: &[&str]) -> Restored<'a> {
        let data = self.new_target();
        let mut all = vec!["restore", "--yes", "--target", data.to_str().expect("a plain path")];
        all.extend_from_slice(words);
        let result = self.ok(&all);
        Restored::new(self.ground.major(), self.ground.home(), data, result)
    }

    /// A restore that must fail with this exit code and word; returns the error's text and the target. No server is left on it.
    pub fn restore_fails(&self, words: &[&str], code: i32, slug: &str) -> (String, PathBuf) {
        let data = self.new_target();
        let mut all = vec!["restore", "--yes", "--target", data.to_str().expect("a plain path")];
        all.extend_from_slice(words);
        let text = self.fails(&all, code, slug);
        let pid = fs::read_to_string(data.join("postmaster.pid")).ok().and_then(|text| text.lines().next()?.parse::<i32>().ok());
        assert!(pid.is_none_or(|pid| kill(Pid::from_raw(pid), None).is_err()), "a server is left running on {}", data.display());
        (text, data)
    }

    /// Starts `wal receive`; returns once it streams.
    pub fn receive(&self) -> Receiver {
        let receiver = self.start_receiver(&[]);
        receiver.wait_for(1, "wal-streaming");
        receiver
    }

    /// Starts `wal receive` with these further arguments and does not wait for anything.
    pub fn start_receiver(&self, words: &[&str]) -> Receiver {
        let mut command = self.command(&["--json", "wal", "receive"]);
        command.args(words);
        self.start("receive", command)
    }

    /// Starts `bowline daemon` and does not wait for anything.
    pub fn start_daemon(&self) -> Receiver {
        self.start("daemon", self.command(&["--json", "daemon"]))
    }

    /// Starts a command that goes on until it is told to end.
    pub fn start(&self, name: &str, mut command: Command) -> Receiver {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let log = self.dir.join(format!("{name}-{}.log", STARTED.fetch_add(1, Ordering::Relaxed)));
        let file = fs::File::create(&log).expect("create the command's log");
        command.stdout(file.try_clone().expect("dup")).stderr(file);
        // SAFETY: between fork and exec only this one system call is made.
        unsafe {
            command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
        }
        Receiver { child: command.spawn().expect("start bowline"), log }
    }

    /// Finishes the current segment and waits until everything before the switch is in the repository, which is a folder.
    pub fn archive_now(&self) {
        let file = self.ground.psql("SELECT pg_logical_emit_message(false, 'e2e', 'switch'); SELECT pg_walfile_name(pg_switch_wal())");
        let name = file.lines().last().expect("a segment's name").to_owned();
        wait(&format!("segment {name} to be stored"), Duration::from_secs(60), || self.wal_files().contains(&name));
    }

    /// Stores every finished segment of this server's timeline and every history file, as its archiver would.
    pub fn push_finished(&self, server: &Cluster) {
        let current = server.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
        let pg_wal = fs::read_dir(server.data_dir().join("pg_wal")).expect("pg_wal");
        let mut files: Vec<PathBuf> = pg_wal.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()).collect();
        files.sort();
        for file in files {
            let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
            let is_own = name.len() == 24 && name[..8] == current[..8];
            if name.ends_with(".history") || (is_own && name < current.as_str()) {
                self.ok(&["wal", "push", file.to_str().expect("a plain path")]);
            }
        }
    }

    /// The names of all WAL files in the repository, which is a folder, sorted.
    pub fn wal_files(&self) -> Vec<String> {
        let mut names: Vec<String> =
            files_below(&self.repository().join("wal")).iter().filter_map(|p| Some(p.file_name()?.to_str()?.to_owned())).collect();
        names.sort();
        names
    }

    /// The one file of the repository, which is a folder, whose path ends so.
    pub fn object(&self, ending: &str) -> PathBuf {
        let found: Vec<PathBuf> = files_below(&self.repository()).into_iter().filter(|p| p.to_string_lossy().ends_with(ending)).collect();
        assert_eq!(found.len(), 1, "objects that end in {ending}: {found:?}");
        found[0].clone()
    }
}

impl Drop for Bowline<'_> {
    /// Ends what commands left at work: a receiver that a restore started outlives it.
    fn drop(&mut self) {
        let config = self.config.display().to_string();
        for pid in launch::processes_that(|words| words.split('\0').any(|word| word == config)) {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A server that a restore left running; it ends when this is dropped.
#[derive(Debug)]
pub struct Restored<'a> {
    major: u32,
    home: &'a Path,
    /// Its data directory.
    pub data: PathBuf,
    socket_dir: PathBuf,
    /// The restore's own report.
    pub result: Value,
}

impl<'a> Restored<'a> {
    pub(crate) fn new(major: u32, home: &'a Path, data: PathBuf, result: Value) -> Self {
        let socket_dir = result["socket_dir"].as_str().unwrap_or_default().into();
        Self { major, home, data, socket_dir, result }
    }
    /// A program of its major, run as its user, that is led to no server.
    fn bin(&self, name: &str) -> Command {
        launch::program(self.major, name, self.home)
    }
    /// Runs SQL on it, like [`Cluster::psql`].
    pub fn psql(&self, sql: &str) -> String {
        let mut command = self.bin("psql");
        command.env("PGHOST", &self.socket_dir).env("PGPORT", "5432").env("PGUSER", SUPERUSER).env("PGDATABASE", "postgres");
        launch::ask(command, sql).unwrap_or_else(|e| panic!("{sql}\n{e}"))
    }
    /// Stops it in order.
    pub fn stop(&self) {
        let mut command = self.bin("pg_ctl");
        command.args(["stop", "-w", "-m", "fast", "-D"]).arg(&self.data);
        launch::run(command).unwrap_or_else(|e| panic!("{e}"));
    }
}

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        let mut command = self.bin("pg_ctl");
        drop(command.args(["stop", "-w", "-m", "immediate", "-D"]).arg(&self.data).output());
    }
}

/// Runs this command with `--json` to its end.
pub(crate) fn outcome_of(mut command: Command, words: &[&str]) -> Outcome {
    let output = command.arg("--json").output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    refuse_secrets(&format!("{words:?}"), &[&output.stdout[..], &output.stderr].concat());
    let (mut lines, mut said) = (Vec::new(), String::from_utf8_lossy(&output.stderr).into_owned());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        match serde_json::from_str(line) {
            Ok(value) => lines.push(value),
            Err(_) => said.push_str(line),
        }
    }
    let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    Outcome { code, lines, said: format!("{words:?}: {said}") }
}

/// Waits until it is so; panics with what was waited for after `limit`.
pub fn wait(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < limit, "waited {limit:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A table's name, count of rows and digest of them, for each permanent table in public: what a restore must bring back.
pub const FINGERPRINT: &str = "SELECT format('SELECT %L, count(*), sum(hashtextextended(whole::text, 0)::numeric) FROM %s whole', oid::regclass, oid::regclass) \
     FROM pg_class WHERE relkind = 'r' AND relpersistence = 'p' AND relnamespace = 'public'::regnamespace ORDER BY relname \\gexec";

/// Every file below a folder.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) { found.extend(files_below(&entry.path())) } else { found.push(entry.path()) }
    }
    found.sort();
    found
}

/// A document of a repository with the digest that its bytes have (crates/repo/src/document.rs).
pub fn with_digest(text: &str) -> String {
    let body = &text[..text.rfind(",\n  \"digest\"").expect("a digest")];
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sha256sum");
    child.stdin.take().expect("piped").write_all(body.as_bytes()).expect("write");
    let out = String::from_utf8(child.wait_with_output().expect("wait").stdout).expect("hexadecimal");
    format!("{body},\n  \"digest\": \"{}\"\n}}\n", out.split_whitespace().next().expect("a digest"))
}

/// Changes one bit in the middle of a file.
pub fn flip_a_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
}

/// The program under test: `BOWLINE_BIN`, or the one that cargo built beside this test.
pub fn program() -> PathBuf {
    if let Some(given) = std::env::var_os("BOWLINE_BIN") {
        let given = PathBuf::from(given);
        assert!(given.is_file(), "BOWLINE_BIN is {}, which is no file", given.display());
        return given;
    }
    let own = std::env::current_exe().expect("this test's program");
    let beside = own.parent().and_then(Path::parent).expect("target/debug/deps").join("bowline");
    assert!(beside.is_file(), "{} is missing: run cargo build -p cli (./test does), or set BOWLINE_BIN", beside.display());
    beside
}
