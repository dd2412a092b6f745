//! A real OpenBao for tests: a development server on a free loopback port, with a transit engine, gone with the test process.

use crate::asking::{ask_json, find_program};
use crate::loopback::{free_ports, http, spawn_for_life};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Its root token.
pub const ROOT_TOKEN: &str = "bowline-test-root-token";
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A running server, unsealed, all in memory.
#[derive(Debug)]
pub struct OpenBao {
    port: u16,
    /// Of its plain door, where TLS is spoken on the other.
    is_tls: bool,
    child: Child,
    folder: TempDir,
}

impl OpenBao {
    /// Starts one and waits until it answers. Panics with the reason when that does not work: a test that lacks it fails.
    pub fn start() -> Self {
        let started = Self::start_with(false);
        started.ask("POST /v1/sys/mounts/transit", &json!({ "type": "transit" }));
        started
    }

    /// One that speaks TLS only, with a certificate whose maker is [`OpenBao::ca_file`]; nothing is in it.
    pub fn start_tls() -> Self {
        Self::start_with(true)
    }

    fn start_with(is_tls: bool) -> Self {
        let program = find_program("BOWLINE_OPENBAO", "bao", "openbao");
        for _ in 0..3 {
            let folder = tempfile::tempdir().expect("a folder for OpenBao");
            let port = free_ports(1)[0];
            let log = std::fs::File::create(folder.path().join("bao.log")).expect("the log can be made");
            let mut command = Command::new(&program);
            command
                .args(["server", "-dev", "-dev-no-store-token", &format!("-dev-root-token-id={ROOT_TOKEN}")])
                .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
                .env("HOME", folder.path())
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("the log can be shared"))
                .stderr(log);
            if is_tls {
                command.args(["-dev-tls", &format!("-dev-tls-cert-dir={}", folder.path().display())]);
            }
            let mut started = Self { port, is_tls, child: spawn_for_life(command), folder };
            let begun = Instant::now();
            while begun.elapsed() < READY_LIMIT && started.child.try_wait().is_ok_and(|ended| ended.is_none()) {
                // Plain HTTP where TLS is spoken is a bad request.
                let ready = if is_tls { " 400 " } else { " 200 " };
                if http(port, "GET /v1/sys/health", b"").is_some_and(|answer| answer.contains(ready)) {
                    return started;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = started.child.kill();
            eprintln!("{}", std::fs::read_to_string(started.folder.path().join("bao.log")).unwrap_or_default());
        }
        panic!("OpenBao ({}) did not start in three attempts; its words are above", program.display());
    }

    /// `http://127.0.0.1:port`, or `https:` with TLS.
    pub fn address(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.is_tls { "https" } else { "http" }, self.port)
    }

    /// `127.0.0.1:port`, for a proxy in front of it.
    pub fn upstream(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The certificate of whoever signed the server's.
    pub fn ca_file(&self) -> PathBuf {
        let found = std::fs::read_dir(self.folder.path()).expect("the folder").filter_map(|entry| Some(entry.ok()?.path()));
        found.into_iter().find(|path| path.to_string_lossy().ends_with("-ca.pem")).expect("a certificate of its own authority")
    }

    /// Makes a transit key of this kind, such as `aes256-gcm96`.
    pub fn make_key(&self, name: &str, kind: &str) {
        self.ask(&format!("POST /v1/transit/keys/{name}"), &json!({ "type": kind }));
    }

    /// Anything of its interface, as root; it must be granted.
    pub fn ask(&self, request: &str, body: &Value) -> Value {
        ask_json(self.port, request, &format!("X-Vault-Token: {ROOT_TOKEN}\r\n"), body)
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
