//! Where a drill happens: a server, and bowline installed beside it as an administrator would.

use super::{Door, Options, Outcome};
use crate::dataset::Server;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use testkit::Cluster;
use testkit::s3::{ACCESS_KEY_ID, S3Server, SECRET_ACCESS_KEY};

const ROLE: &str = "bowline";
const BUCKET: &str = "drill";
/// Where the receiver that the restore has started leaves its process id.
const RECEIVER: &str = "receiver.pid";

/// A running cluster and the ways of bowline around it. Everything is in one directory, which goes when this is dropped, and when
/// the drill is killed.
pub struct Scene {
    pub cluster: Cluster,
    /// What every command of bowline gets.
    pub environment: Vec<(String, String)>,
    home: PathBuf,
    _s3: Option<S3Server>,
}

/// A process that does not outlive the drill.
pub struct Running(Child);

impl Running {
    pub fn spawn(command: &mut Command) -> Outcome<Self> {
        command.spawn().map(Self).map_err(|error| format!("cannot run {command:?}: {error}"))
    }
    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.home.join(RECEIVER)).ok().and_then(|text| text.trim().parse().ok());
        if let Some(pid) = pid {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Scene {
    /// Kills the server as a power cut does; when, in microseconds since 1970.
    pub fn kill_server(&self) -> Outcome<i64> {
        self.cluster.kill9();
        Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(|error| error.to_string())?.as_micros() as i64)
    }

    /// Deletes the data directory and what bowline keeps beside it.
    pub fn delete_data(&self) -> Outcome<()> {
        for gone in [self.cluster.data_dir().to_owned(), self.at("data.bowline")] {
            match fs::remove_dir_all(&gone) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(format!("cannot delete {}: {error}", gone.display())),
                _ => {}
            }
        }
        Ok(())
    }

    /// Starts the server and installs bowline: program, password file, configuration. No repository and no role yet.
    pub fn build(options: &Options) -> Outcome<Self> {
        let mut scene = Self::raise(options)?;
        scene._s3 = (options.repository == Door::S3).then(|| {
            let server = S3Server::start();
            server.create_bucket(BUCKET);
            server
        });
        scene.write("bowline.toml", &scene.config())?;
        scene.write_store_keys()?;
        Ok(scene)
    }

    /// The same without a configuration.
    pub fn raise(options: &Options) -> Outcome<Self> {
        let program = match &options.bowline {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("bowline"),
        };
        if !program.is_file() {
            return Err(format!("there is no program {}: cargo build -p cli makes it, or name one with --bowline", program.display()));
        }
        // As safe as in production: what is acknowledged is on disk. The commit times make the instant exact.
        let cluster = Cluster::builder(options.pg).setting("fsync", "on").setting("track_commit_timestamp", "on").start();
        let home = cluster.home().to_owned();
        let scene = Self { cluster, environment: Vec::new(), home, _s3: None };
        scene.install(&program, "bowline")?;
        scene.write("pgpass", &format!("*:*:*:{ROLE}:{}\n", scene.password()))?;
        Ok(scene)
    }

    /// A copy of a program, because the user postgres may not be let into the folder of the build.
    pub fn install(&self, program: &Path, name: &str) -> Outcome<()> {
        let installed = self.home.join(name);
        fs::copy(program, &installed).map_err(|error| format!("cannot copy {}: {error}", program.display()))?;
        fs::set_permissions(&installed, fs::Permissions::from_mode(0o755)).map_err(|error| error.to_string())
    }

    /// What the test kit's S3 servers know their user by.
    pub fn write_store_keys(&self) -> Outcome<()> {
        self.write("s3-key-id", ACCESS_KEY_ID)?;
        self.write("s3-key", SECRET_ACCESS_KEY)
    }

    /// How bowline reaches the server, as every configuration begins.
    pub fn postgres_lines(&self) -> String {
        format!(
            "org = \"drill\"\n\n[postgres]\nconninfo = \"host={} port={} user={ROLE} dbname=postgres passfile={}\"\ndata_dir = \"{}\"\nbin_dir = \"{}\"\n\n",
            self.cluster.socket_dir().display(),
            self.cluster.port(),
            self.at("pgpass").display(),
            self.cluster.data_dir().display(),
            self.cluster.bin_dir().display(),
        )
    }

    fn config(&self) -> String {
        let at = |name: &str| self.home.join(name).display().to_string();
        let repository = match &self._s3 {
            None => format!("url = \"file://{}\"\n", at("repository")),
            Some(server) => format!(
                "url = \"s3://{BUCKET}/bowline\"\nendpoint = \"{}\"\nregion = \"us-east-1\"\npath_style = true\n\
                 access_key_id = \"file:{}\"\nsecret_access_key = \"file:{}\"\n",
                server.endpoint(),
                at("s3-key-id"),
                at("s3-key")
            ),
        };
        format!(
            "{}[repository]\n{repository}\n[encryption]\nrecipients = [\"file:{}\"]\n\n\
             [wal]\nstart = \"{} --config {} wal receive > {} 2>&1 & echo $! > {}\"\n",
            self.postgres_lines(),
            at("key"),
            at("bowline"),
            at("bowline.toml"),
            at("receiver-again.log"),
            at(RECEIVER),
        )
    }

    fn password(&self) -> String {
        // New for every drill: the directory's name is random.
        format!("drill-{}", self.home.file_name().unwrap_or_default().to_string_lossy())
    }

    /// Does with the server what `bowline init --print-sql` says.
    pub fn make_role(&self) -> Outcome<()> {
        let said = self.bowline("init-print-sql", &["init", "--print-sql"])?;
        let lines =
            |key: &str| said[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(|line| format!("{line}\n")).collect::<String>();
        let sql = said["sql"].as_str().ok_or("init --print-sql told no SQL")?;
        self.cluster.try_psql(sql)?;
        self.cluster.try_psql(&format!("ALTER ROLE {ROLE} PASSWORD '{}'", self.password()))?;
        let data = self.cluster.data_dir();
        // The first line that fits counts, so these come before initdb's own, which trust everybody.
        let hba = fs::read_to_string(data.join("pg_hba.conf")).map_err(|error| error.to_string())?;
        fs::write(data.join("pg_hba.conf"), lines("pg_hba") + &hba).map_err(|error| error.to_string())?;
        let conf = fs::read_to_string(data.join("postgresql.conf")).map_err(|error| error.to_string())?;
        fs::write(data.join("postgresql.conf"), conf + &lines("settings")).map_err(|error| error.to_string())?;
        self.cluster.restart();
        let is_superuser = self.cluster.try_psql(&format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{ROLE}'"))?;
        if is_superuser == "f" { Ok(()) } else { Err(format!("the role {ROLE} should be no superuser: rolsuper is {is_superuser:?}")) }
    }

    /// A file that only the server's user reads.
    pub fn write(&self, name: &str, text: &str) -> Outcome<()> {
        let path = self.home.join(name);
        let wrong = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
        fs::write(&path, text).map_err(wrong)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(wrong)?;
        match self.cluster.user() {
            Some((uid, gid)) => chown(&path, Some(uid), Some(gid)).map_err(wrong),
            None => Ok(()),
        }
    }

    /// Where this name is in the drill's directory.
    pub fn at(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.as_server_user("bowline");
        command.arg("--config").arg(self.home.join("bowline.toml")).args(arguments);
        command
    }

    /// A program of the drill's directory, run as the server's user, which does not outlive the drill.
    pub fn as_server_user(&self, name: &str) -> Command {
        let mut command = Command::new(self.home.join(name));
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("PG") || key.to_string_lossy().starts_with("AWS_")) {
            command.env_remove(key);
        }
        command
            .env_remove("BOWLINE_CONFIG")
            .envs(self.environment.iter().cloned())
            .env("HOME", &self.home)
            .current_dir(&self.home)
            .stdin(Stdio::null());
        if let Some((uid, gid)) = self.cluster.user() {
            command.uid(uid).gid(gid);
        }
        // SAFETY: between fork and exec only this one system call is made. The drill spawns from the main thread, with which it ends.
        unsafe {
            command.pre_exec(|| nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(Into::into));
        }
        command
    }

    /// Runs bowline to its end as the server's user; its result, or its own words of what went wrong. The words are kept in a log.
    pub fn bowline(&self, log: &str, arguments: &[&str]) -> Outcome<Value> {
        let (said, code) = self.bowline_with_code(log, arguments)?;
        let last = said.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok()).unwrap_or_default();
        match (code, &last["result"]) {
            (Some(0), result) if !result.is_null() => Ok(result.clone()),
            _ => {
                let error = &last["error"];
                let words: Vec<_> =
                    ["summary", "detail", "hint"].iter().filter_map(|key| error[*key].as_str()).filter(|text| !text.is_empty()).collect();
                let words = if words.is_empty() { said.lines().rev().take(5).collect::<Vec<_>>().join(" / ") } else { words.join(": ") };
                Err(format!("bowline {} ended with exit code {code:?}: {words}", arguments.join(" ")))
            }
        }
    }

    /// The same for `status`, whose exit code is its verdict.
    pub fn status(&self) -> Outcome<Value> {
        let told = self.told("status", &["status"])?;
        if told["result"].is_null() { Err(format!("bowline status has no result: {told}")) } else { Ok(told["result"].clone()) }
    }

    /// The same, however it ended: its result or its error, below that name.
    pub fn told(&self, log: &str, arguments: &[&str]) -> Outcome<Value> {
        let (said, _) = self.bowline_with_code(log, arguments)?;
        let last = said.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
        last.ok_or_else(|| format!("bowline {} told nothing: {said}", arguments.join(" ")))
    }

    fn bowline_with_code(&self, log: &str, arguments: &[&str]) -> Outcome<(String, Option<i32>)> {
        let output = self.command(arguments).arg("--json").output().map_err(|error| format!("cannot run bowline: {error}"))?;
        // What is on stderr comes first: the result is the last line of stdout.
        let said = format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        fs::write(self.home.join(format!("{log}.log")), &said).map_err(|error| error.to_string())?;
        Ok((said, output.status.code()))
    }

    /// Starts `bowline wal receive` and returns once the server streams to it.
    pub fn receiver(&self) -> Outcome<Running> {
        let file = self.home.join("receive.log");
        let log = fs::File::options().create(true).append(true).open(&file).map_err(|error| error.to_string())?;
        let other = log.try_clone().map_err(|error| error.to_string())?;
        let mut command = self.command(&["wal", "receive"]);
        let mut child = Running::spawn(command.stdout(log).stderr(other))?;
        let streams = self.within(Duration::from_secs(30), || {
            if let Ok(Some(status)) = child.0.try_wait() {
                return Err(format!("bowline wal receive ended with {status}: {}", fs::read_to_string(&file).unwrap_or_default().trim()));
            }
            Ok(self.cluster.try_psql("SELECT active FROM pg_replication_slots WHERE slot_name = 'bowline'")? == "t")
        })?;
        if streams { Ok(child) } else { Err("bowline wal receive did not begin to stream within 30 s".into()) }
    }

    /// Asks again and again until it is so, or time is up.
    pub fn within(&self, limit: Duration, mut is_so: impl FnMut() -> Outcome<bool>) -> Outcome<bool> {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if is_so()? {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(false)
    }

    /// The way to the server on this socket; by default that of the cluster itself.
    pub fn server<'a>(&'a self, socket_dir: Option<&'a Path>) -> Server<'a> {
        Server::new(move |name| {
            let mut command = self.cluster.bin(name);
            if let Some(dir) = socket_dir {
                command.env("PGHOST", dir).env("PGPORT", "5432");
            }
            command
        })
    }

    /// One query to the server on this socket: rows as lines, columns separated by `|`.
    pub fn ask(&self, socket_dir: &Path, sql: &str) -> Outcome<String> {
        let mut command = self.cluster.bin("psql");
        command.env("PGHOST", socket_dir).args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        let output = command.output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()),
            false => Err(format!("{sql}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        }
    }

    /// Stops the servers in these directories, and moves everything to where it stays.
    pub fn keep(self, data_dirs: &[PathBuf]) -> Outcome<PathBuf> {
        for dir in data_dirs.iter().filter(|dir| dir.join("postmaster.pid").exists()) {
            let stopped = self.cluster.bin("pg_ctl").args(["stop", "-s", "-m", "fast", "-D"]).arg(dir).status();
            stopped.map_err(|error| error.to_string())?;
        }
        let kept = std::env::temp_dir().join(format!("bowline-drill-{}", std::process::id()));
        fs::rename(&self.home, &kept).map_err(|error| format!("cannot keep {}: {error}", self.home.display()))?;
        Ok(kept)
    }
}
