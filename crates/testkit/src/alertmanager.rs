//! A real Alertmanager on a free loopback port, gone with the test process; what it notifies goes to a webhook.

use crate::asking::find_program;
use crate::loopback::{free_ports, http, spawn_for_life};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const READY_LIMIT: Duration = Duration::from_secs(60);

/// A running Alertmanager.
#[derive(Debug)]
pub struct Alertmanager {
    port: u16,
    child: Child,
    folder: TempDir,
}

impl Alertmanager {
    /// Starts one that notifies this webhook within a second, of ends as well. Panics with the reason when that does not work.
    pub fn start(webhook: &str) -> Self {
        let program = find_program("BOWLINE_ALERTMANAGER", "prometheus-alertmanager", "prometheus");
        let config = format!(
            "route:\n  receiver: hook\n  group_by: ['...']\n  group_wait: 100ms\n  group_interval: 300ms\n  repeat_interval: 1h\n\
             receivers:\n- name: hook\n  webhook_configs:\n  - url: '{webhook}'\n    send_resolved: true\n"
        );
        for _ in 0..3 {
            let folder = tempfile::tempdir().expect("a folder for Alertmanager");
            std::fs::write(folder.path().join("config.yml"), &config).expect("write its configuration");
            let log = std::fs::File::create(folder.path().join("log")).expect("the log can be made");
            let port = free_ports(1)[0];
            let mut command = Command::new(&program);
            command
                .arg(format!("--config.file={}", folder.path().join("config.yml").display()))
                .arg(format!("--storage.path={}", folder.path().join("data").display()))
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                // No cluster: it would listen on every address.
                .arg("--cluster.listen-address=")
                // Where its templates are.
                .current_dir(program.parent().expect("a program lies in a folder"))
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("the log can be shared"))
                .stderr(log);
            let mut started = Self { port, child: spawn_for_life(command), folder };
            let begun = Instant::now();
            while begun.elapsed() < READY_LIMIT && started.child.try_wait().is_ok_and(|ended| ended.is_none()) {
                if http(port, "GET /-/ready", b"").is_some_and(|answer| answer.contains(" 200 ")) {
                    return started;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            eprintln!("{}", std::fs::read_to_string(started.folder.path().join("log")).unwrap_or_default());
        }
        panic!("Alertmanager ({}) did not start in three attempts; its words are above", program.display());
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The alerts that it holds for firing.
    pub fn firing(&self) -> Vec<Value> {
        let answer = ask_json_list(self.port, "GET /api/v2/alerts?active=true");
        answer.as_array().cloned().unwrap_or_default()
    }
}

/// A request whose answer is a list.
fn ask_json_list(port: u16, request: &str) -> Value {
    let answer = http(port, request, b"").expect("an answer");
    match (answer.find("\r\n\r\n[").map(|at| at + 4).or_else(|| answer.find("\n[").map(|at| at + 1)), answer.rfind(']')) {
        (Some(begin), Some(end)) => serde_json::from_str(&answer[begin..=end]).unwrap_or_else(|e| panic!("{request}: {e} in {answer:?}")),
        _ => panic!("{request}: no list in {answer:?}"),
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
