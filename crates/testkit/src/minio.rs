//! What MinIO's own client alone can do: register where a bucket is replicated to.

use crate::asking::find_program;
use crate::s3::{ACCESS_KEY_ID, SECRET_ACCESS_KEY};
use crate::stores::ObjectServer;
use std::process::Command;

/// Lets a MinIO copy a bucket to a bucket of another MinIO, with its removals and what is there already; the other one as it calls it.
pub fn replicate(server: &ObjectServer, bucket: &str, to_endpoint: &str, to_bucket: &str) -> String {
    let (here, remote) = (format!("site/{bucket}"), format!("{}/{to_bucket}", with_keys(to_endpoint)));
    mc(server, &["replicate", "add", &here, "--remote-bucket", &remote, "--replicate", "delete-marker,existing-objects"]);
    let rule: serde_json::Value = serde_json::from_str(&mc(server, &["replicate", "ls", &here, "--json"])).expect("JSON");
    rule["rule"]["Destination"]["Bucket"].as_str().expect("a target").to_owned()
}

/// Runs the client; the server is its `site`.
fn mc(server: &ObjectServer, words: &[&str]) -> String {
    let program = find_program("BOWLINE_MC", "mc", "mc");
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(program);
    command.env("MC_CONFIG_DIR", folder.path()).env("MC_HOST_site", with_keys(&server.endpoint())).args(words);
    let output = command.output().expect("mc runs");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An address that says as whom one comes.
fn with_keys(endpoint: &str) -> String {
    endpoint.replace("http://", &format!("http://{ACCESS_KEY_ID}:{SECRET_ACCESS_KEY}@"))
}
