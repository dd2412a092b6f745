//! `bowline init --bucket` and `--print-policy`: a bucket is set up as far as the store and the credentials allow, and the rest is told.

use serde_json::Value;
use std::process::{Command, Stdio};
use testkit::bowline::{Outcome, program};
use testkit::s3::{ACCESS_KEY_ID, S3Server, SECRET_ACCESS_KEY};
use testkit::stores::{Make, ObjectServer};

/// A configuration for this endpoint in a folder of its own.
struct Setup {
    folder: tempfile::TempDir,
}

impl Setup {
    fn new(endpoint: &str, bucket: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "org = \"acme\"\n[repository]\nurl = \"s3://{bucket}/kb\"\nendpoint = \"{endpoint}\"\nregion = \"us-east-1\"\n{more}\n[encryption]\nrecipients = [\"file:{}\"]\n",
            folder.path().join("key").display()
        );
        std::fs::write(folder.path().join("bowline.toml"), text).unwrap();
        Self { folder }
    }

    fn run(&self, words: &[&str]) -> Outcome {
        let output = self.command(words).arg("--json").output().unwrap();
        let lines = String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Outcome { code: output.status.code().unwrap_or(-1), lines, said: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.env_clear().env("HOME", self.folder.path()).stdin(Stdio::null());
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
        command.arg("--config").arg(self.folder.path().join("bowline.toml")).args(words);
        command
    }

    fn said(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// What the bucket says of itself afterwards, by the probe of a repository in it.
    fn nature(&self) -> Value {
        self.run(&["init"]).result()["store"].clone()
    }
}

/// Each step and how it ended.
fn outcomes(told: &Value) -> Vec<(&str, &str)> {
    let steps = told["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    steps.iter().map(|step| (step["step"].as_str().unwrap(), step["outcome"].as_str().unwrap())).collect()
}

#[test]
fn the_mock_of_aws_gets_a_bucket_as_it_should_be_and_a_second_run_changes_nothing() {
    let server = ObjectServer::start(Make::Moto);
    let setup = Setup::new(&server.endpoint(), "brand-new", "sse_kms_key_id = \"my-key\"");
    // Nothing is done before it was said and confirmed.
    let refused = setup.run(&["init", "--bucket"]);
    assert_eq!(refused.error().0, "not-confirmed");
    let told = setup.run(&["init", "--bucket", "--object-lock", "--yes"]).result().clone();
    let done = ["create", "encryption", "versioning", "public-access", "lifecycle"].map(|step| (step, "done"));
    // A bucket with object lock has versions from the beginning on; saying so again does no harm.
    assert_eq!(outcomes(&told), done);
    let again = setup.run(&["init", "--bucket", "--object-lock", "--yes"]).result().clone();
    assert_eq!(outcomes(&again), [], "{again}");
    let nature = setup.nature();
    assert_eq!(
        (nature["versioning"].as_str(), nature["public_access_blocked"].as_str(), nature["object_lock"].as_str()),
        (Some("enabled"), Some("yes"), Some("yes")),
        "{nature}"
    );
    assert_eq!(nature["default_encryption"], "aws:kms with my-key and bucket keys");
    assert_eq!((nature["encrypted_as_asked"].as_str(), nature["conditional_complete"].as_bool()), (Some("yes"), Some(true)), "{nature}");
    // What expires here is hidden, and expiry says for how long.
    let done = setup.run(&["expire", "--yes"]).result().clone();
    assert_eq!(done["old_versions"]["freed_after_days"], 30, "{done:#}");
}

#[test]
fn rules_of_others_survive() {
    let server = ObjectServer::start(Make::Moto);
    let ours = Setup::new(&server.endpoint(), "shared", "");
    ours.run(&["init", "--bucket", "--yes"]).result();
    let theirs = Setup::new(&server.endpoint(), "shared/other", "");
    let told = theirs.run(&["init", "--bucket", "--yes"]).result().clone();
    assert_eq!(outcomes(&told), [("lifecycle", "done")]);
    // Ours are there still: nothing is left to do.
    for setup in [&ours, &theirs] {
        assert_eq!(outcomes(setup.run(&["init", "--bucket", "--yes"]).result()), []);
    }
}

#[test]
fn a_store_without_some_settings_gets_the_others_and_the_rest_is_told() {
    let gateway = ObjectServer::start(Make::Versitygw);
    let setup = Setup::new(&gateway.endpoint(), "brand-new", "sse = \"preferred\"\nsse_kms_key_id = \"my-key\"");
    let outcome = setup.run(&["init", "--bucket", "--yes"]);
    assert_eq!((outcome.code, outcome.error().0), (4, "bucket-unfinished"));
    let told = outcome.lines.iter().find_map(|line| line["error"].get("bucket")).unwrap();
    let wanted =
        [("create", "done"), ("encryption", "unsupported"), ("versioning", "done"), ("public-access", "unsupported"), ("lifecycle", "unsupported")];
    assert_eq!(outcomes(told), wanted);
    assert_eq!(setup.nature()["versioning"], "enabled");
    let kept = setup.run(&["expire", "--yes"]).result()["old_versions"].clone();
    assert!(kept.is_object() && kept["freed_after_days"].is_null(), "versions are kept, and no rule ends them: {kept:#}");

    let weed = S3Server::shared();
    let setup = Setup::new(weed.endpoint(), "brand-new", "");
    let outcome = setup.run(&["init", "--bucket", "--yes"]);
    let told = outcome.lines.iter().find_map(|line| line["error"].get("bucket")).unwrap_or_else(|| panic!("{outcome:#?}"));
    let wanted = [("create", "done"), ("versioning", "done"), ("public-access", "unsupported"), ("lifecycle", "done")];
    assert_eq!(outcomes(told), wanted);
    let nature = setup.nature();
    assert_eq!((nature["versioning"].as_str(), nature["default_encryption"].as_str()), (Some("enabled"), Some("off")), "{nature}");
}

#[test]
fn what_is_denied_is_told_with_the_command_for_somebody_who_may() {
    let server = ObjectServer::start(Make::Versitygw);
    server.create_bucket_now("theirs");
    let setup = Setup::new(&server.endpoint(), "theirs", "access_key_id = \"env:NOBODY\"\nsecret_access_key = \"env:NOBODY\"");
    let mut command = setup.command(&["init", "--bucket", "--yes"]);
    let output = command.env("NOBODY", "nobody-at-all").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    for words in [
        format!(
            "aws s3api put-bucket-versioning --bucket theirs --endpoint-url {} --region us-east-1 --versioning-configuration Status=Enabled",
            server.endpoint()
        ),
        "the lifecycle rules are left alone".to_owned(),
    ] {
        assert!(said.contains(&words), "{words} in {said}");
    }
    assert!(!said.contains("nobody-at-all"), "{said}");
}

#[test]
fn policies_name_this_bucket_and_let_only_the_expirer_remove() {
    let setup = Setup::new("http://127.0.0.1:1", "pair-backups", "sse_kms_key_id = \"arn:aws:kms:eu-west-1:111122223333:key/k\"");
    for (whose, removes) in [("writer", false), ("restorer", false), ("expirer", true)] {
        let said = setup.said(&["init", "--print-policy", whose]);
        let policy: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
        let statements = policy["Statement"].as_array().unwrap();
        let may_remove = statements.iter().any(|statement| statement["Effect"] == "Allow" && statement["Action"].to_string().contains("Delete"));
        assert_eq!(may_remove, removes, "{whose}");
        assert!(said.contains("arn:aws:s3:::pair-backups/kb/acme/*") && said.contains("key/k"), "{said}");
    }
    let folder = Setup::new("http://127.0.0.1:1", "b", "");
    std::fs::write(folder.folder.path().join("bowline.toml"), "org = \"acme\"\n[repository]\nurl = \"file:///srv/b\"\n").unwrap();
    assert_eq!(folder.run(&["init", "--bucket", "--yes"]).error().0, "not-s3");
}
