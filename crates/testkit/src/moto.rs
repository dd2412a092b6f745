//! A mock of the AWS KMS (moto's server) on a free loopback port, gone with the test process. It checks no signature and no policy.

use crate::asking::{ask_json, find_program};
use crate::loopback::{free_ports, http, spawn_for_life};
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// In which its keys are.
pub const REGION: &str = "eu-west-1";
/// From a cold start on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(90);

/// A running mock.
#[derive(Debug)]
pub struct Moto {
    port: u16,
    child: Child,
}

impl Moto {
    /// Starts one and waits until it answers. Panics with the reason when that does not work: a test that lacks it fails.
    pub fn start() -> Self {
        let program = find_program("BOWLINE_MOTO", "moto_server", "moto");
        for _ in 0..3 {
            let port = free_ports(1)[0];
            let mut command = Command::new(&program);
            command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut started = Self { port, child: spawn_for_life(command) };
            let begun = Instant::now();
            while begun.elapsed() < READY_LIMIT && started.child.try_wait().is_ok_and(|ended| ended.is_none()) {
                if http(port, "GET /moto-api/", b"").is_some() {
                    return started;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        panic!("moto_server ({}) did not start in three attempts", program.display());
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.upstream())
    }

    /// `127.0.0.1:port`, for a proxy in front of it.
    pub fn upstream(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Makes a symmetric key with this alias, or moves the alias to it; returns the key's ARN.
    pub fn make_key(&self, alias: &str) -> String {
        let made = self.ask("CreateKey", &json!({}));
        let arn = made["KeyMetadata"]["Arn"].as_str().expect("a key has an ARN").to_owned();
        let alias = format!("alias/{alias}");
        let known = self.ask("ListAliases", &json!({}));
        let is_known = known["Aliases"].as_array().is_some_and(|all| all.iter().any(|one| one["AliasName"] == alias));
        self.ask(if is_known { "UpdateAlias" } else { "CreateAlias" }, &json!({ "AliasName": alias, "TargetKeyId": arn }));
        arn
    }

    /// Any operation of the KMS; it must be granted.
    pub fn ask(&self, operation: &str, body: &Value) -> Value {
        let headers = format!(
            "Content-Type: application/x-amz-json-1.1\r\nX-Amz-Target: TrentService.{operation}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20261126/{REGION}/kms/aws4_request, SignedHeaders=host, Signature=0\r\n"
        );
        ask_json(self.port, "POST /", &headers, body)
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
