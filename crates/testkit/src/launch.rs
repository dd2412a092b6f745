//! Starts, watches and ends the processes of a cluster: nothing outlives the test, however the test ends.

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to answer after its start, recovery included.
const START_LIMIT: Duration = Duration::from_secs(120);

/// The user that runs the servers: `postgres` when the tests run as root, which PostgreSQL refuses; else nobody in particular.
pub(crate) fn server_user() -> Option<(u32, u32)> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let user = User::from_name("postgres")
        .ok()
        .flatten()
        .expect("PostgreSQL refuses to run as root and there is no user postgres: run ./test, which makes one (useradd -r postgres)");
    Some((user.uid.as_raw(), user.gid.as_raw()))
}

/// Where the programs of this major are: `$BOWLINE_PG_HOME/<major>/bin`.
pub(crate) fn bin_dir(major: u32) -> PathBuf {
    let home = std::env::var_os("BOWLINE_PG_HOME").expect("BOWLINE_PG_HOME is not set: run ./test, which installs PostgreSQL and says where it is");
    let dir = Path::new(&home).join(major.to_string()).join("bin");
    assert!(
        dir.join("postgres").exists(),
        "PostgreSQL {major} is not in {}: run ./test, which installs it (a test never passes by skipping)",
        dir.display()
    );
    dir
}

/// Where the programs of an earlier minor release of this major are: `$BOWLINE_PG_HOME/<major>-older/bin`.
pub(crate) fn older_bin_dir(major: u32) -> PathBuf {
    let dir = bin_dir(major).join(format!("../../{major}-older/bin"));
    let found = dir.canonicalize();
    found.unwrap_or_else(|_| panic!("an earlier PostgreSQL {major} is not in {}: run ./test, which installs it", dir.display()))
}

/// Makes `dir` with this mode, owned by the servers' user.
pub(crate) fn make_dir(dir: &Path, mode: u32) {
    use std::os::unix::fs::{PermissionsExt, chown};
    fs::create_dir_all(dir).unwrap_or_else(|e| panic!("cannot make {}: {e}", dir.display()));
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).expect("chmod");
    if let Some((uid, gid)) = server_user() {
        chown(dir, Some(uid), Some(gid)).expect("chown");
    }
}

/// Lets everybody read a file.
pub(crate) fn world_readable(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).expect("chmod");
}

/// A program of this major, run as the servers' user in `home`, with an environment that says nothing of other servers.
pub(crate) fn program(major: u32, name: &str, home: &Path) -> Command {
    program_in(bin_dir(major), name, home)
}

/// The same with PostgreSQL's programs in this directory.
pub(crate) fn program_in(bin: PathBuf, name: &str, home: &Path) -> Command {
    let path = bin.join(name);
    assert!(path.exists(), "{} is missing", path.display());
    let mut command = Command::new(path);
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(|key| key.starts_with("PG") || key.starts_with("LC_")) {
            command.env_remove(key);
        }
    }
    // The packaged libpqwalreceiver names no place for libpq: without this it takes the system's, of whatever major that is,
    // and a standby never connects.
    command.env("LD_LIBRARY_PATH", bin.with_file_name("lib"));
    let mut search = bin.into_os_string();
    search.push(":");
    search.push(std::env::var_os("PATH").unwrap_or_default());
    command.env("PATH", search).env("LC_ALL", "C.UTF-8").env("TZ", "UTC").env("HOME", home).current_dir(home).stdin(Stdio::null());
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    command
}

/// Runs the command to its end and returns its standard output; an error holds everything it said.
pub(crate) fn run(mut command: Command) -> Result<String, String> {
    let what = format!("{command:?}");
    let output = command.output().map_err(|e| format!("cannot run {what}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(format!("{what}\nended with {}\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// Runs this psql with statements on its standard input and returns what it prints, or what the server said of the failure.
pub(crate) fn ask(mut command: Command, sql: &str) -> Result<String, String> {
    command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
    let mut pipe = child.stdin.take().expect("piped");
    let sql = sql.to_owned();
    // From a thread of its own: psql may fill its output before it has read all its input.
    let feeder = std::thread::spawn(move || pipe.write_all(sql.as_bytes()));
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    let _ = feeder.join();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\n').to_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
}

/// The process that this one started with this word on its command line.
pub fn child_of(parent: u32, word: &str) -> Option<u32> {
    fs::read_dir("/proc").expect("/proc").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).find(|pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let is_child = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).is_some_and(|found| found == parent.to_string());
        is_child && fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().split('\0').any(|part| part == word)
    })
}

/// One postmaster that this process started.
#[derive(Debug)]
pub(crate) struct Postmaster {
    child: Child,
}

impl Postmaster {
    /// Starts `postgres -D data` with these further arguments and waits until it answers. An error holds the end of its log.
    pub(crate) fn start(
        major: u32,
        data: &Path,
        home: &Path,
        log: &Path,
        arguments: &[String],
        environment: &[(String, String)],
    ) -> Result<Self, String> {
        let file = fs::File::options().create(true).append(true).open(log).map_err(|e| format!("cannot open {}: {e}", log.display()))?;
        let mut command = program(major, "postgres", home);
        command.arg("-D").arg(data).args(arguments).envs(environment.iter().cloned());
        command.stdout(file.try_clone().expect("dup")).stderr(file).process_group(0);
        let child = command.spawn().map_err(|e| format!("cannot start PostgreSQL {major}: {e}"))?;
        let mut postmaster = Self { child };
        let begun = Instant::now();
        loop {
            if let Ok(Some(status)) = postmaster.child.try_wait() {
                return Err(format!("PostgreSQL {major} ended at its start with {status}\n{}", tail(log)));
            }
            if postmaster.is_ready(data) {
                return Ok(postmaster);
            }
            if begun.elapsed() > START_LIMIT {
                postmaster.kill();
                return Err(format!("PostgreSQL {major} did not answer within {START_LIMIT:?}\n{}", tail(log)));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The postmaster's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Line 8 of postmaster.pid says "ready" once connections are let in (src/include/utils/pidfile.h); line 1 tells whose file it is.
    fn is_ready(&self, data: &Path) -> bool {
        let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines();
        lines.next() == Some(&self.pid().to_string()) && lines.nth(6).is_some_and(|state| state.trim() == "ready")
    }

    /// Whether it is still running.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks with `signal` and waits for the end, `limit` at most; then kills. Says whether it ended by itself.
    pub(crate) fn stop(mut self, signal: Signal, limit: Duration) -> bool {
        let _ = kill(Pid::from_raw(self.pid() as i32), signal);
        let begun = Instant::now();
        while self.is_running() {
            if begun.elapsed() > limit {
                self.kill();
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Kills the postmaster and every server process at once, as the machine's end would, and waits until all are gone.
    pub(crate) fn kill(mut self) {
        kill_server(self.pid(), || drop(self.child.wait()));
    }
}

/// Kills a postmaster and all its children at once, calls `reap` and waits until the children are gone.
pub(crate) fn kill_server(pid: u32, reap: impl FnOnce()) {
    let postmaster = pid as i32;
    // Stopped first, so that it neither starts another child nor tidies up after the first one dies.
    let _ = kill(Pid::from_raw(postmaster), Signal::SIGSTOP);
    let children = children_of(postmaster);
    for pid in children.iter().chain([&postmaster]) {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    reap();
    // Orphans are reaped by init; a new server refuses to start while one still holds the old shared memory.
    let begun = Instant::now();
    while children.iter().chain([&postmaster]).any(|pid| is_alive(*pid)) && begun.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The processes whose parent is `parent`, from /proc.
fn children_of(parent: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("read /proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| stat_fields(*pid).is_some_and(|(_, ppid)| ppid == parent)).collect()
}

/// The processes whose command line satisfies this, its words with a zero byte behind each.
pub fn processes_that(are_wanted: impl Fn(&str) -> bool) -> Vec<i32> {
    let pids = fs::read_dir("/proc").expect("read /proc").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let words = |pid: &i32| String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned();
    pids.filter(|pid| are_wanted(&words(pid))).collect()
}

/// Whether the process exists and is more than a zombie.
fn is_alive(pid: i32) -> bool {
    stat_fields(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// State and parent of a process (proc_pid_stat(5)); the name before them may hold anything, so count from its last parenthesis.
fn stat_fields(pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

/// A shell that waits on a pipe from this process. When the pipe closes, be it by `kill -9` of the test, the shell ends the
/// servers that each postmaster.pid in the cluster's directory names, and removes it whole. PR_SET_PDEATHSIG would not do: it is
/// tied to the thread that started the server, and says nothing to a server that was restarted by pg_ctl.
#[derive(Debug)]
pub(crate) struct Watchdog {
    child: Child,
}

const WATCH: &str = r#"
trap '' HUP INT TERM QUIT
read -r _
for file in "$@" $(find "$BOWLINE_REMOVE" -maxdepth 4 -name postmaster.pid 2>/dev/null); do
    pid=$(head -n 1 "$file" 2>/dev/null) || continue
    # A postmaster works in its data directory: a recycled process id is not one.
    [ "$(readlink "/proc/$pid/cwd")" = "${file%/postmaster.pid}" ] || continue
    kill -QUIT "$pid" 2>/dev/null
    for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$pid" 2>/dev/null
done
rm -rf "$BOWLINE_REMOVE"
"#;

impl Watchdog {
    /// Guards the servers whose data directories are below `remove`, which it removes at the end, and the one of `data`.
    pub(crate) fn start(data: &Path, remove: &Path) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WATCH, "watchdog"]).arg(data.join("postmaster.pid"));
        command.env("BOWLINE_REMOVE", remove).current_dir("/");
        // Its own group, so that neither Ctrl-C nor a runner that kills the test's group ends it first; its own output,
        // so that a runner that waits for the test's pipes to close does not wait for the watchdog.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Self { child: command.spawn().expect("start /bin/sh") }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.child.stdin.take() {
            let _ = pipe.write_all(b"\n");
        }
        let _ = self.child.wait();
    }
}
