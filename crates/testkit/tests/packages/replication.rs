//! `packages enable` and `init --bucket` set a replication up, as far as the mock of AWS knows one, and replace none.

use serde_json::Value;
use std::process::{Command, Stdio};
use testkit::bowline::{Outcome, program};
use testkit::s3::{ACCESS_KEY_ID, SECRET_ACCESS_KEY};
use testkit::stores::{Make, ObjectServer};

fn run(folder: &std::path::Path, text: &str, words: &[&str]) -> Outcome {
    std::fs::write(folder.join("bowline.toml"), text).unwrap();
    let mut command = Command::new(program());
    command.env_clear().env("HOME", folder).stdin(Stdio::null());
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
    let output = command.arg("--config").arg(folder.join("bowline.toml")).args(words).arg("--json").output().unwrap();
    let lines = String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    Outcome { code: output.status.code().unwrap_or(-1), lines, said: String::from_utf8_lossy(&output.stderr).into_owned() }
}

fn steps(told: &Value) -> Vec<(&str, &str)> {
    let steps = told["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    steps.iter().map(|step| (step["bucket"].as_str().unwrap_or_default(), step["step"].as_str().unwrap_or_default())).collect()
}

#[test]
fn a_replication_is_set_up_from_a_printed_plan_and_none_of_others_is_replaced() {
    let server = ObjectServer::start(Make::Moto);
    for bucket in ["packages", "copy", "elsewhere", "backups", "backups-copy"] {
        server.create_bucket_now(bucket);
    }
    let folder = tempfile::tempdir().unwrap();
    let (endpoint, role) = (server.endpoint(), "arn:aws:iam::111122223333:role/replication");
    let text = |replica: &str| {
        let site = |bucket: &str| format!("{{ url = \"s3://{bucket}\", endpoint = \"{endpoint}\", region = \"us-east-1\" }}");
        format!(
            "org = \"acme\"\n[repository]\nurl = \"s3://backups\"\nendpoint = \"{endpoint}\"\nregion = \"us-east-1\"\n\
             replica = \"s3://backups-copy?endpoint={endpoint}&region=us-east-1\"\nreplication_role = \"{role}\"\n\
             [packages]\nprimary = {}\nreplica = {}\nreplication_role = \"{role}\"\nreplica_kms_key_id = \"arn:aws:kms:eu-central-1:1:key/k\"\n",
            site("packages"),
            site(replica)
        )
    };
    let ours = text("copy");
    let wanted = [("copy", "versioning"), ("packages", "versioning"), ("packages", "replication")];
    let planned = run(folder.path(), &ours, &["packages", "enable", "--plan"]);
    assert_eq!(steps(planned.result()), wanted);
    assert_eq!(run(folder.path(), &ours, &["packages", "enable"]).error().0, "not-confirmed");
    assert_eq!(steps(run(folder.path(), &ours, &["packages", "enable", "--yes"]).result()), wanted, "a plan changes nothing");
    // The mock forgets that delete markers are copied: our own rule is mended, and nothing else is done again. MinIO's test shows the rest.
    assert_eq!(steps(run(folder.path(), &ours, &["packages", "enable", "--yes"]).result()), wanted[2..]);
    // A rule towards another bucket is not turned around, even our own.
    let refused = run(folder.path(), &text("elsewhere"), &["packages", "enable", "--yes"]);
    let (slug, why) = refused.error();
    assert!(refused.code == 4 && slug == "packages-obstacle" && why.contains("arn:aws:s3:::copy"), "{refused:#?}");
    assert_eq!(steps(run(folder.path(), &ours, &["packages", "enable", "--plan"]).result()), wanted[2..], "it is as it was");

    // The backup bucket in the same way.
    let copy = text("copy").replace("s3://backups", "s3://backups-copy").replace("replica = \"s3://backups-copy?", "replica = \"s3://backups?");
    run(folder.path(), &copy, &["init", "--bucket", "--yes"]);
    let own = run(folder.path(), &ours, &["init", "--bucket", "--yes"]).result().clone();
    let told: Vec<_> =
        own["steps"].as_array().unwrap().iter().map(|step| (step["step"].as_str().unwrap(), step["outcome"].as_str().unwrap())).collect();
    assert!(told.contains(&("replication", "done")), "{told:?}");
    // The mock forgets the prefix, too: what looks like somebody else's rule is left alone, and that is no success.
    let again = run(folder.path(), &ours, &["init", "--bucket", "--yes"]);
    assert_eq!((again.code, again.error().0), (4, "bucket-unfinished"), "{again:#?}");
}
