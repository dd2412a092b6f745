//! Real failovers: several PostgreSQL servers of one cluster under Patroni, with an etcd of their own, gone with the test process.

use crate::cluster::{PASSWORD, SUPERUSER};
use crate::launch::{self, Watchdog};
use crate::loopback::{free_ports, http, spawn_for_life};
use crate::place::{new_home, write_private};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Initdb and the election included.
const LEADER_LIMIT: Duration = Duration::from_secs(120);

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Builder {
    major: u32,
    nodes: usize,
    is_synchronous: bool,
    slots: Vec<String>,
}

impl Builder {
    /// How many servers; 2 unless told.
    pub fn nodes(mut self, count: usize) -> Self {
        self.nodes = count;
        self
    }
    /// A commit is acknowledged only when a standby has it too, and only that standby may take over (Patroni's synchronous_mode).
    pub fn synchronous(mut self) -> Self {
        self.is_synchronous = true;
        self
    }
    /// A permanent physical slot that Patroni keeps on the leader and carries forward on the others.
    pub fn slot(mut self, name: &str) -> Self {
        self.slots.push(name.to_owned());
        self
    }

    /// Starts etcd and all nodes, and waits until there is a leader and every other node streams from it.
    pub fn start(self) -> PatroniCluster {
        launch::bin_dir(self.major);
        let (etcd, patroni) = (find("BOWLINE_ETCD"), find("BOWLINE_PATRONI"));
        let home = new_home();
        let watchdog = Watchdog::start(&home.join("n0"), &home);
        let ports = free_ports(2 + 2 * self.nodes);
        let nodes: Vec<Node> = (0..self.nodes)
            .map(|n| Node { folder: home.join(format!("n{n}")), port: ports[2 + 2 * n], rest: ports[3 + 2 * n], patroni: Mutex::new(None) })
            .collect();
        let etcd = start_etcd(&etcd, &home, ports[0], ports[1]);
        let cluster = PatroniCluster { major: self.major, home, program: patroni, nodes, etcd, _watchdog: watchdog };
        for node in 0..self.nodes {
            cluster.configure(node, ports[0], &self);
            cluster.start_node(node);
            if node == 0 {
                // The first makes the cluster, so that no other tries to.
                cluster.wait_for_leader();
            }
        }
        cluster.wait_for_replicas();
        cluster
    }
}

/// A running cluster under Patroni, reached over 127.0.0.1. Nodes count from 0. Dropping it ends everything at once.
#[derive(Debug)]
pub struct PatroniCluster {
    major: u32,
    home: PathBuf,
    program: PathBuf,
    nodes: Vec<Node>,
    etcd: Child,
    /// Last, so that it is dropped after the servers are gone.
    _watchdog: Watchdog,
}

#[derive(Debug)]
struct Node {
    folder: PathBuf,
    /// PostgreSQL's.
    port: u16,
    /// Of Patroni's own HTTP interface.
    rest: u16,
    patroni: Mutex<Option<Child>>,
}

impl PatroniCluster {
    /// Two nodes of this major; a failover may lose what was committed last.
    pub fn start(major: u32) -> Self {
        Self::builder(major).start()
    }

    /// A cluster with wishes.
    pub fn builder(major: u32) -> Builder {
        Builder { major, nodes: 2, is_synchronous: false, slots: Vec::new() }
    }

    /// The servers' major version.
    pub fn major(&self) -> u32 {
        self.major
    }
    /// A directory of this cluster's own, removed with it, in which the servers' user may write.
    pub fn home(&self) -> &Path {
        &self.home
    }
    /// The data directory of one node.
    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.nodes[node].folder.join("data")
    }
    /// Where the programs of this major are.
    pub fn bin_dir(&self) -> PathBuf {
        launch::bin_dir(self.major)
    }
    /// What one node's Patroni and PostgreSQL have said.
    pub fn log(&self, node: usize) -> String {
        fs::read(self.nodes[node].folder.join("log")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Connects as superuser to whichever node takes writes; libpq and Bowline try all of them.
    pub fn conninfo(&self) -> String {
        let hosts = vec!["127.0.0.1"; self.nodes.len()].join(",");
        let ports = self.nodes.iter().map(|node| node.port.to_string()).collect::<Vec<_>>().join(",");
        format!("host={hosts} port={ports} user={SUPERUSER} password={PASSWORD} dbname=postgres connect_timeout=5 target_session_attrs=read-write")
    }
    /// Connects as superuser to this node.
    pub fn conninfo_of(&self, node: usize) -> String {
        format!("host=127.0.0.1 port={} user={SUPERUSER} password={PASSWORD} dbname=postgres connect_timeout=5", self.nodes[node].port)
    }

    /// Runs SQL where writes are taken; see [`crate::Cluster::psql`].
    pub fn psql(&self, sql: &str) -> String {
        self.ask(&self.conninfo(), sql).unwrap_or_else(|e| panic!("{sql}\n{e}"))
    }
    /// Runs SQL on this node.
    pub fn psql_on(&self, node: usize, sql: &str) -> String {
        self.ask(&self.conninfo_of(node), sql).unwrap_or_else(|e| panic!("{sql}\n{e}"))
    }
    fn ask(&self, conninfo: &str, sql: &str) -> Result<String, String> {
        let mut command = launch::program(self.major, "psql", &self.home);
        command.args(["-d", conninfo]);
        launch::ask(command, sql)
    }

    /// The node that holds the leader's lock and runs as primary, if there is one now.
    pub fn leader(&self) -> Option<usize> {
        (0..self.nodes.len()).find(|node| self.is(*node, "primary"))
    }
    /// Whether Patroni says this of the node: `primary`, `replica`, `synchronous` (REST API, "Health check endpoints").
    pub fn is(&self, node: usize, role: &str) -> bool {
        http(self.nodes[node].rest, &format!("GET /{role}"), b"")
            .is_some_and(|answer| answer.lines().next().is_some_and(|line| line.contains(" 200 ")))
    }
    /// Waits for a leader that takes writes, and returns it.
    pub fn wait_for_leader(&self) -> usize {
        self.wait("a leader that takes writes", || {
            self.leader().filter(|leader| self.ask(&self.conninfo_of(*leader), "SELECT pg_is_in_recovery()").as_deref() == Ok("f"))
        })
    }
    /// Waits until every node that runs, except the leader, streams from it; in a synchronous cluster also until one of them is synchronous.
    pub fn wait_for_replicas(&self) {
        let streaming = |count: usize| {
            let ask = "SELECT count(*), current_setting('synchronous_standby_names') = '' OR bool_or(sync_state = 'sync') FROM pg_stat_replication \
                       WHERE state = 'streaming' AND application_name LIKE 'n_'";
            self.ask(&self.conninfo(), ask).is_ok_and(|answer| answer == format!("{count}|t"))
        };
        self.wait("all replicas to stream", || {
            let leader = self.leader()?;
            let others: Vec<usize> = (0..self.nodes.len()).filter(|node| *node != leader && self.runs(*node)).collect();
            let is_synchronous = self.settings()["synchronous_mode"] == true;
            let has_synchronous = !is_synchronous || others.is_empty() || others.iter().any(|node| self.is(*node, "synchronous"));
            (others.iter().all(|node| self.is(*node, "replica")) && streaming(others.len()) && has_synchronous).then_some(())
        });
    }

    /// Hands the leader's part over to another node in order, and returns the new leader. Nothing acknowledged is lost.
    pub fn switchover(&self) -> usize {
        self.wait_for_replicas();
        let old = self.wait_for_leader();
        let kind = if self.settings()["synchronous_mode"] == true { "synchronous" } else { "replica" };
        let new = self.wait("a candidate", || (0..self.nodes.len()).find(|node| *node != old && self.is(*node, kind)));
        let wanted = json!({ "leader": format!("n{old}"), "candidate": format!("n{new}") }).to_string();
        // It answers only when all is over, or not in time: what became of it is asked below.
        let answer = http(self.nodes[old].rest, "POST /switchover", wanted.as_bytes()).unwrap_or_default();
        assert!(!answer.contains(" 412 ") && !answer.contains(" 400 "), "Patroni refuses the switchover: {answer}");
        self.wait(&format!("n{new} to lead"), || (self.wait_for_leader() == new).then_some(new))
    }

    /// Kills PostgreSQL and Patroni of the leader at once, as its machine's end would, and returns which node it was. Another takes over
    /// when the leader's lock has expired: no sooner than Patroni's smallest ttl of 20 seconds after the lock was last renewed.
    pub fn kill_leader(&self) -> usize {
        let leader = self.wait_for_leader();
        self.kill_node(leader);
        leader
    }

    /// Kills PostgreSQL and Patroni of this node at once.
    pub fn kill_node(&self, node: usize) {
        let mut patroni = self.nodes[node].patroni.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // First Patroni, which would start PostgreSQL again.
        if let Some(mut child) = patroni.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let pid = fs::read_to_string(self.data_dir(node).join("postmaster.pid")).ok().and_then(|text| text.lines().next()?.trim().parse().ok());
        // A process id used again is not a postmaster of ours: that one works in its data directory.
        if let Some(pid) = pid.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == self.data_dir(node))) {
            launch::kill_server(pid, || ());
        }
    }

    /// Starts a node that was killed; it comes back as a replica.
    pub fn start_node(&self, node: usize) {
        let Node { folder, patroni, .. } = &self.nodes[node];
        let log = fs::File::options().create(true).append(true).open(folder.join("log")).expect("open the node's log");
        let mut command = as_server_user(&self.program, folder);
        // Patroni finds PostgreSQL's programs by its configuration; libpq finds its own libraries so.
        command.arg(folder.join("patroni.json")).env("LD_LIBRARY_PATH", self.bin_dir().with_file_name("lib"));
        command.stdout(log.try_clone().expect("dup")).stderr(log);
        let mut patroni = patroni.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        assert!(patroni.is_none(), "node {node} runs already");
        *patroni = Some(spawn_for_life(command));
    }

    /// Whether this node's Patroni was started and not killed since.
    fn runs(&self, node: usize) -> bool {
        self.nodes[node].patroni.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).is_some()
    }

    /// What Patroni keeps in etcd of its own settings; null when no node answers.
    fn settings(&self) -> Value {
        let answers = self.nodes.iter().filter_map(|node| http(node.rest, "GET /config", b""));
        answers.filter_map(|answer| serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()).next().unwrap_or(Value::Null)
    }

    /// Writes one node's configuration: YAML, of which JSON is a part.
    fn configure(&self, node: usize, etcd: u16, wanted: &Builder) {
        let Node { folder, port, rest, .. } = &self.nodes[node];
        for dir in [folder.clone(), folder.join("s")] {
            launch::make_dir(&dir, 0o700);
        }
        let slots: serde_json::Map<String, Value> = wanted.slots.iter().map(|name| (name.clone(), json!({ "type": "physical" }))).collect();
        let role = |name: &str| json!({ "username": name, "password": PASSWORD });
        let text = json!({
            "scope": "bowline-test",
            "name": format!("n{node}"),
            "restapi": { "listen": format!("127.0.0.1:{rest}"), "connect_address": format!("127.0.0.1:{rest}") },
            "etcd3": { "host": format!("127.0.0.1:{etcd}") },
            "bootstrap": {
                // The smallest that Patroni takes.
                "dcs": {
                    "ttl": 20, "loop_wait": 1, "retry_timeout": 3, "maximum_lag_on_failover": 16 << 20,
                    "synchronous_mode": wanted.is_synchronous,
                    "slots": slots,
                    "postgresql": {
                        "use_pg_rewind": true,
                        "use_slots": true,
                        "parameters": { "max_connections": 50, "max_wal_senders": 10, "max_replication_slots": 10, "wal_keep_size": "128MB", "track_commit_timestamp": "on" },
                    },
                },
                "initdb": [{ "encoding": "UTF8" }, "data-checksums", "no-sync"],
            },
            "postgresql": {
                "listen": format!("127.0.0.1:{port}"),
                "connect_address": format!("127.0.0.1:{port}"),
                "bin_dir": self.bin_dir(),
                "data_dir": self.data_dir(node),
                "basebackup": ["no-sync", { "checkpoint": "fast" }],
                "pgpass": folder.join("pgpass"),
                "authentication": { "superuser": role(SUPERUSER), "replication": role("replicator") },
                "pg_hba": ["local all all trust", "host all all 127.0.0.1/32 scram-sha-256", "host replication all 127.0.0.1/32 scram-sha-256"],
                "parameters": {
                    "unix_socket_directories": folder.join("s"), "fsync": "off", "shared_buffers": "32MB", "timezone": "UTC", "log_timezone": "UTC",
                },
            },
        });
        write_private(&folder.join("patroni.json"), &text.to_string());
    }

    fn wait<T>(&self, what: &str, mut is_so: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = is_so() {
                return found;
            }
            if begun.elapsed() > LEADER_LIMIT {
                for node in 0..self.nodes.len() {
                    eprintln!("n{node}:\n{}", launch::tail(&self.nodes[node].folder.join("log")));
                }
                panic!("waited {LEADER_LIMIT:?} in vain for {what}\netcd:\n{}", launch::tail(&self.home.join("etcd.log")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for PatroniCluster {
    fn drop(&mut self) {
        for node in 0..self.nodes.len() {
            self.kill_node(node);
        }
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
    }
}

fn start_etcd(program: &Path, home: &Path, clients: u16, peers: u16) -> Child {
    let log = fs::File::create(home.join("etcd.log")).expect("make the log of etcd");
    let (clients_at, peers_at) = (format!("http://127.0.0.1:{clients}"), format!("http://127.0.0.1:{peers}"));
    let mut command = as_server_user(program, home);
    launch::make_dir(&home.join("etcd"), 0o700);
    command.arg("--data-dir").arg(home.join("etcd"));
    for (option, value) in [
        ("--listen-client-urls", &clients_at),
        ("--advertise-client-urls", &clients_at),
        ("--listen-peer-urls", &peers_at),
        ("--initial-advertise-peer-urls", &peers_at),
        ("--initial-cluster", &format!("default={peers_at}")),
    ] {
        command.args([option, value]);
    }
    // Releases before 3.5 want to be asked twice on this architecture.
    command.env("ETCD_UNSUPPORTED_ARCH", "arm64").stdout(log.try_clone().expect("dup")).stderr(log);
    let mut child = spawn_for_life(command);
    let begun = Instant::now();
    while !http(clients, "GET /health", b"").is_some_and(|answer| answer.contains("true")) {
        let is_running = child.try_wait().is_ok_and(|ended| ended.is_none());
        assert!(is_running && begun.elapsed() < Duration::from_secs(60), "etcd does not answer\n{}", launch::tail(&home.join("etcd.log")));
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

/// A program that runs as the servers' user, with an environment that says nothing of other servers.
fn as_server_user(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC").env("HOME", home).current_dir(home).stdin(Stdio::null());
    if let Some((uid, gid)) = launch::server_user() {
        use std::os::unix::process::CommandExt;
        command.uid(uid).gid(gid);
    }
    command
}

fn find(variable: &str) -> PathBuf {
    let given = std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set: run ./test, or eval \"$(scripts/prepare patroni)\""));
    let given = PathBuf::from(given);
    assert!(given.is_file(), "{variable} is {}, which is no file", given.display());
    given
}
