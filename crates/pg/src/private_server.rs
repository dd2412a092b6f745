//! A server that only this process can reach: no network, its own socket directory, its own rules; it ends with its owner.

use crate::conninfo::ConnInfo;
use crate::control::ControlFile;
use crate::error::PgError;
use crate::instance_error::InstanceError;
use crate::programs::{Owner, append_as_owners, command};
use crate::running::{last_lines, read_pid_file, server_running_in};
use crate::sql::Sql;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use terms::SegmentSize;

/// What to start.
#[derive(Debug, Clone)]
pub struct PrivateOptions {
    /// Where `postgres` is ([`crate::find_bin_dir`]).
    pub bin_dir: PathBuf,
    /// The data directory. It may lack postgresql.conf; its postgresql.auto.conf is read, but `settings` win over it.
    pub data_dir: PathBuf,
    /// As whom the server runs: the data directory's owner ([`crate::owner_of`]).
    pub owner: Owner,
    /// Settings for its command line, such as `hot_standby=off`; they win over every file and over [`QUIET`].
    pub settings: Vec<(String, String)>,
    /// The file that its output is appended to.
    pub log: PathBuf,
    /// In a network of its own, in which nothing can be reached, where the kernel and this process's rights allow: what runs in the
    /// database must not call out. A socket in the file system is reached all the same.
    pub cut_off: bool,
    /// Where the directory of its socket is made: a short path, since a socket's must fit into 107 bytes (`sun_path`).
    pub sockets: PathBuf,
}

/// What every private server is started with unless `settings` say otherwise: whatever the copied configuration would
/// have it do to other machines or wait for from them, it must not; and its log must reach Bowline.
pub const QUIET: &[(&str, &str)] = &[
    ("archive_mode", "off"),
    ("archive_command", ""),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    ("synchronous_standby_names", ""),
    ("ssl", "off"),
    ("huge_pages", "try"),
    ("restart_after_crash", "off"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("lc_messages", "C"),
];

/// What the copy of a cluster is started with beside [`QUIET`] so that sessions can be opened: enough of everything for what it brought
/// along, nothing loaded that this host may lack, nothing subscribed to.
pub fn settings_of_a_copy(control: &ControlFile) -> Vec<(String, String)> {
    [
        ("shared_preload_libraries", String::new()),
        // With one that is missing every session would end at once.
        ("session_preload_libraries", String::new()),
        ("local_preload_libraries", String::new()),
        ("max_logical_replication_workers", "0".into()),
        ("shared_buffers", "128MB".into()),
        ("max_prepared_transactions", control.max_prepared_xacts.to_string()),
        ("max_connections", control.max_connections.max(20).to_string()),
        ("superuser_reserved_connections", "3".into()),
        ("wal_level", "replica".into()),
        ("min_wal_size", min_wal_size(control.segment_size)),
        // The default of 1 GB, which is but one segment of the largest size.
        ("max_wal_size", format!("{}MB", ((4 * control.segment_size.bytes()) >> 20).max(1024))),
        // Off, the server would delete every commit time there is at its start.
        ("track_commit_timestamp", "on".into()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// What a copy is started with as well when nobody but Bowline opens a session in it: the cluster's own triggers stay silent. A trigger on
/// login, which PostgreSQL 17 brought, may turn every session away or write where nothing may be written, and one that is `ENABLE ALWAYS`
/// heeds no `session_replication_role`.
pub fn silenced(control: &ControlFile) -> Vec<(String, String)> {
    let mut settings = vec![("session_replication_role".to_owned(), "replica".to_owned())];
    if control.major >= 17 {
        settings.push(("event_triggers".to_owned(), "off".to_owned()));
    }
    settings
}

/// `min_wal_size` for segments of this size: the default of 80 MB, but never less than two segments, without which a server does not start
/// (`ReadControlFile`, src/backend/access/transam/xlog.c). initdb writes it into the configuration that a private server does without.
pub fn min_wal_size(size: SegmentSize) -> String {
    format!("{}MB", ((2 * size.bytes()) >> 20).max(80))
}

/// How far a server is, by line 8 of its postmaster.pid (`PM_STATUS_*`, src/include/utils/pidfile.h): that line tells
/// also of a server that lets nobody in, as while it replays with `hot_standby` off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// It starts, or recovers and is not consistent yet.
    Starting,
    /// It recovers, is consistent, and lets nobody in.
    Standby,
    /// It lets connections in, in recovery perhaps (`pg_is_in_recovery`).
    Ready,
    /// It shuts down.
    Stopping,
    /// It ended.
    Ended(ExitStatus),
}

/// How to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions are cut off, data is written out.
    Fast,
    /// At once, as by a crash; the next start recovers.
    Immediate,
}

/// A running private server. Dropping it ends the server at once; should this process die, the server stops too.
#[derive(Debug)]
pub struct PrivateServer {
    child: Child,
    ended: Option<ExitStatus>,
    data_dir: PathBuf,
    log: PathBuf,
    socket_dir: TempDir,
    is_cut_off: bool,
    /// The thread that started the server and whose end would stop it; it waits until this is dropped.
    _keeper: mpsc::Sender<()>,
}

const PORT: u16 = 5432;
/// What a role's own settings load into a session wins over the server's command line, and ends the session where it is missing; only what the
/// session asks for itself wins over that. Not everybody may ask for the first.
const NOTHING_LOADED: [&str; 2] = ["-c local_preload_libraries= -c session_preload_libraries=", "-c local_preload_libraries="];

impl PrivateServer {
    /// Starts `postgres` itself, without a shell or pg_ctl, and returns as soon as the process runs.
    pub fn start(options: &PrivateOptions) -> Result<Self, InstanceError> {
        let PrivateOptions { bin_dir, data_dir, owner, settings, log, cut_off, sockets } = options;
        if let Some(pid) = server_running_in(data_dir) {
            return Err(InstanceError::Running { data_dir: data_dir.clone(), pid });
        }
        let program = bin_dir.join("postgres");
        let mut command = command(&program, *owner, data_dir)?;
        let socket_dir = make_socket_dir(sockets, *owner)?;
        let inside = |name: &str| socket_dir.path().join(name).display().to_string();
        command.arg("-D").arg(data_dir);
        let mut set = |key: &str, value: &str| {
            command.arg("-c").arg(format!("{key}={value}"));
        };
        for (key, value) in QUIET {
            set(key, value);
        }
        for (key, value) in settings {
            set(key, value);
        }
        // Last, so that nothing opens the server to others. PostgreSQL takes the last of several words for a setting.
        set("config_file", &inside("postgresql.conf"));
        set("hba_file", &inside("pg_hba.conf"));
        set("ident_file", &inside("pg_ident.conf"));
        set("external_pid_file", &inside("external.pid"));
        set("listen_addresses", "");
        set("unix_socket_directories", &socket_dir.path().display().to_string());
        set("unix_socket_permissions", "0700");
        set("unix_socket_group", "");
        set("port", &PORT.to_string());
        let output = append_as_owners(log, *owner).map_err(io("open", log))?;
        let errors = output.try_clone().map_err(io("open", log))?;
        // A group of its own: Ctrl-C is for Bowline, which then stops the server in order.
        command.stdout(output).stderr(errors).process_group(0);
        let Kept { child, is_cut_off, keeper } = spawn_kept(command, *cut_off).map_err(|why| InstanceError::NotRun { program, why })?;
        Ok(Self { child, ended: None, data_dir: data_dir.clone(), log: log.clone(), socket_dir, is_cut_off, _keeper: keeper })
    }

    /// The directory of its socket: `host=` in a connection string. Everybody who gets in is whom he says he is.
    pub fn socket_dir(&self) -> &Path {
        self.socket_dir.path()
    }
    /// The number in its socket's name: `port=` in a connection string.
    pub fn port(&self) -> u16 {
        PORT
    }
    /// How to log in as the superuser, whose name only the server knows: any of `roles` will do to ask it.
    pub async fn superuser(&self, roles: &[String]) -> Result<ConnInfo, PgError> {
        let word = |text: &str| format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"));
        let socket = word(&self.socket_dir().display().to_string());
        let login = |role: &str, asked: &str| {
            let text = format!("host={socket} port={PORT} user={} dbname=template1 options={}", word(role), word(asked));
            ConnInfo::parse(&text, &|_| None)
        };
        let mut last = None;
        for (role, asked) in roles.iter().flat_map(|role| NOTHING_LOADED.map(|asked| (role, asked))) {
            match Sql::connect(&login(role, asked)?).await {
                Ok(session) => return login(&session.bootstrap_superuser().await?, NOTHING_LOADED[0]),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| PgError::ConnInfo { what: "No role to log in as was given".into() }))
    }
    /// Whether it is in a network of its own.
    pub fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    /// The last lines it said.
    pub fn last_lines(&self) -> String {
        last_lines(&self.log)
    }

    /// How far it is.
    pub fn state(&mut self) -> ServerState {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        if let Some(status) = self.ended {
            return ServerState::Ended(status);
        }
        // The file may still be the one of the server before.
        let status = read_pid_file(&self.data_dir).filter(|file| file.pid == self.child.id()).map(|file| file.status);
        match status.as_deref() {
            Some("ready") => ServerState::Ready,
            Some("standby") => ServerState::Standby,
            Some("stopping") => ServerState::Stopping,
            _ => ServerState::Starting,
        }
    }

    /// Waits until `enough` says so of its state, which is asked about fifty times a second. Fails with the end of its log when
    /// it ends before, unless that was enough, and after `limit`; the server then still runs.
    pub async fn wait_until(&mut self, mut enough: impl FnMut(ServerState) -> bool, limit: Duration) -> Result<ServerState, InstanceError> {
        let begun = Instant::now();
        loop {
            let state = self.state();
            if enough(state) {
                return Ok(state);
            }
            let data_dir = || self.data_dir.clone();
            if let ServerState::Ended(status) = state {
                return Err(InstanceError::Ended { data_dir: data_dir(), status: status.to_string(), log: self.last_lines() });
            }
            if begun.elapsed() > limit {
                return Err(InstanceError::Slow { data_dir: data_dir(), seconds: limit.as_secs(), log: self.last_lines() });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops it and waits for its end. After `limit` it is ended by force, and the call fails.
    pub async fn stop(mut self, mode: StopMode, limit: Duration) -> Result<ExitStatus, InstanceError> {
        self.signal(match mode {
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
        });
        match self.wait_until(|state| matches!(state, ServerState::Ended(_)), limit).await? {
            ServerState::Ended(status) => Ok(status),
            _ => unreachable!("waited for its end"),
        }
    }

    /// The child is only reaped through `state`, so until then its process id is its own.
    fn signal(&mut self, signal: Signal) {
        if !matches!(self.state(), ServerState::Ended(_)) {
            let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
        }
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        self.signal(Signal::SIGQUIT);
        let begun = Instant::now();
        while !matches!(self.state(), ServerState::Ended(_)) {
            // Its children notice when it is gone and end by themselves.
            if begun.elapsed() > Duration::from_secs(10) {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A server and the thread that it lives as long as.
struct Kept {
    child: Child,
    is_cut_off: bool,
    keeper: mpsc::Sender<()>,
}

/// The parent's death signal is sent when the *thread* that forked ends, so a thread of its own does and then waits.
fn spawn_kept(mut command: Command, cut_off: bool) -> std::io::Result<Kept> {
    let die_with_parent = || nix::sys::prctl::set_pdeathsig(Signal::SIGINT).map_err(Into::into);
    // SAFETY: between fork and exec only the prctl system call is made; it touches no memory of this process.
    // It is made after the change of user, which would undo it.
    unsafe { command.pre_exec(die_with_parent) };
    let (keeper, dropped) = mpsc::channel();
    let (spawned, answer) = mpsc::channel();
    std::thread::Builder::new().name("postgres-keeper".into()).spawn(move || {
        // SAFETY: a network namespace belongs to the thread that asks for it; this one does nothing but start the server.
        let is_cut_off = cut_off && unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.is_ok();
        let child = command.spawn();
        // Closes this process's copies of the log.
        drop(command);
        let _ = spawned.send((child, is_cut_off));
        let _ = dropped.recv();
    })?;
    let (child, is_cut_off) = answer.recv().map_err(|_| std::io::Error::other("the thread that starts it ended"))?;
    Ok(Kept { child: child?, is_cut_off, keeper })
}

/// A directory that only the server's user can enter. It holds the configuration as well, which the data directory may lack.
fn make_socket_dir(base: &Path, owner: Owner) -> Result<TempDir, InstanceError> {
    let dir = tempfile::Builder::new().prefix("bowline-").permissions(fs::Permissions::from_mode(0o700)).tempdir_in(base);
    let dir = dir.map_err(io("make a directory in", base))?;
    // Peer authentication cannot be used: the one who connects may be root. The directory's mode keeps others out.
    let files = [("postgresql.conf", ""), ("pg_hba.conf", "local all all trust\nlocal replication all trust\n"), ("pg_ident.conf", "")];
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::write(&path, text).map_err(io("write", &path))?;
        give(&path, owner)?;
    }
    give(dir.path(), owner)?;
    Ok(dir)
}

fn give(path: &Path, owner: Owner) -> Result<(), InstanceError> {
    match nix::unistd::geteuid().is_root() {
        true => chown(path, Some(owner.uid), Some(owner.gid)).map_err(io("give to the server's user", path)),
        false => Ok(()),
    }
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> InstanceError {
    let path = path.to_owned();
    move |why| InstanceError::Io { doing, path, why }
}
