//! Backups wrapped for AWS KMS (a mock), for Vault's transit engine (OpenBao), for key files and recovery keys, alone and together.

#[path = "keys/ground.rs"]
mod ground;
#[path = "keys/pod.rs"]
mod pod;

use ground::{KEPT, aws, cluster, environment, private_file, recovery, vault};
use serde_json::json;
use testkit::openbao::ROOT_TOKEN;
use testkit::{Bowline, Cluster, Moto, OpenBao, RepositoryKind};

/// A backup that must come back as it was.
fn there_and_back(cluster: &Cluster, bowline: &Bowline<'_>, what: &str) {
    bowline.ok(&["backup"]);
    let restored = bowline.restore(&["--to", "immediate"]);
    assert_eq!(restored.psql(KEPT), cluster.psql(KEPT), "{what}");
    restored.stop();
}

/// The names of all slots, each once.
fn slots(bowline: &Bowline<'_>) -> Vec<String> {
    let listed = bowline.ok(&["keys", "list"]);
    let all = listed["keys"].as_array().expect("keys").iter().flat_map(|key| key["slots"].as_array().expect("slots").clone());
    let mut names: Vec<String> = all.map(|slot| slot["recipient"].as_str().expect("a name").to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn a_backup_for_aws_kms_comes_back_by_alias_id_and_arn() {
    let (cluster, moto) = (cluster(), Moto::start());
    let arn = moto.make_key("kb");
    let bowline = Bowline::sealed_for(&cluster, RepositoryKind::Folder, &[&aws(&moto, "alias/kb")], &environment());
    there_and_back(&cluster, &bowline, "by alias");
    // An alias moves; a slot does not.
    assert_eq!(slots(&bowline), [format!("aws-kms:{arn}")]);
    let id = arn.rsplit('/').next().expect("an id");
    for key in [arn.as_str(), id] {
        bowline.set_recipients(&cluster, &[&aws(&moto, key)]);
        assert_eq!(bowline.ok(&["list"])["backups"].as_array().map(Vec::len), Some(1));
        bowline.ok(&["restore", "--plan", "--target", bowline.new_target().to_str().unwrap()]);
    }
    // The alias stands for another key by now: what the former one wrapped still opens.
    moto.make_key("kb");
    bowline.set_recipients(&cluster, &[&aws(&moto, "alias/kb")]);
    there_and_back(&cluster, &bowline, "under the alias' new key");
    assert_eq!(slots(&bowline).len(), 2);
}

#[test]
fn a_backup_for_vault_comes_back_with_every_kind_of_key_and_login() {
    let (cluster, bao) = (cluster(), OpenBao::start());
    for (key, kind) in [("plain", "aes256-gcm96"), ("cha", "chacha20-poly1305"), ("rsa", "rsa-2048")] {
        bao.make_key(key, kind);
        let bowline = Bowline::sealed_for(&cluster, RepositoryKind::Folder, &[&vault(&bao, key)], &environment());
        there_and_back(&cluster, &bowline, kind);
        assert_eq!(slots(&bowline), [format!("vault-transit:transit/{key}")]);
    }
    bao.ask("POST /v1/transit/keys/derived", &json!({ "derived": true }));
    let bowline = Bowline::sealed_for(&cluster, RepositoryKind::Folder, &[&vault(&bao, "derived")], &environment());
    there_and_back(&cluster, &bowline, "a key that derives");

    // AppRole, with no more rights than are needed.
    let policy = r#"path "transit/encrypt/plain" { capabilities = ["update"] } path "transit/decrypt/plain" { capabilities = ["update"] }"#;
    bao.ask("PUT /v1/sys/policies/acl/bowline", &json!({ "policy": policy }));
    bao.ask("POST /v1/sys/auth/approle", &json!({ "type": "approle" }));
    bao.ask("POST /v1/auth/approle/role/bowline", &json!({ "token_policies": "bowline", "token_ttl": "20m" }));
    let role = bao.ask("GET /v1/auth/approle/role/bowline/role-id", &json!({}))["data"]["role_id"].as_str().expect("a role").to_owned();
    let secret = bao.ask("POST /v1/auth/approle/role/bowline/secret-id", &json!({}))["data"]["secret_id"].as_str().expect("a secret").to_owned();
    let recipient = format!("{}&auth=approle&role_id=env:ROLE&secret_id=env:SECRET", vault(&bao, "plain"));
    let bowline = Bowline::sealed_for(&cluster, RepositoryKind::Folder, &[&recipient], &[("ROLE", &role), ("SECRET", &secret)]);
    there_and_back(&cluster, &bowline, "AppRole");
    let bowline = bowline.with_environment("SECRET", "planted-wrong-secret");
    let text = bowline.fails(&["backup"], 4, "key-refused");
    assert!(text.contains("vault-transit:transit/plain") && text.contains(&bao.address()) && !text.contains("planted-wrong"), "{text}");

    // A pod of Kubernetes, by its service account.
    let jwt = pod::let_pods_in(&bao, "bowline");
    let file = private_file(&bowline, "jwt", &jwt);
    let recipient = format!("{}&auth=kubernetes&role=bowline&jwt_file={}", vault(&bao, "plain"), file.display());
    let bowline = Bowline::sealed_for(&cluster, RepositoryKind::Folder, &[&recipient], &[]);
    there_and_back(&cluster, &bowline, "Kubernetes");
}

#[test]
fn vault_is_trusted_by_its_own_authority_only() {
    let (cluster, bao) = (cluster(), OpenBao::start_tls());
    let recipient = format!("vault-transit:none?address={}", bao.address());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let place = private_file(&bowline, "ca.pem", &std::fs::read_to_string(bao.ca_file()).expect("the certificate"));
    let bowline = bowline.with_environment("VAULT_TOKEN", ROOT_TOKEN);
    bowline.set_recipients(&cluster, &["file:{key}", &recipient]);
    // Without the authority nobody is spoken to; with it the server answers that it has no such engine.
    let text = bowline.fails(&["keys", "rewrap", "--yes"], 5, "key-unreachable");
    assert!(text.to_lowercase().contains("certificate"), "{text}");
    bowline.set_recipients(&cluster, &["file:{key}", &format!("{recipient}&ca_file={}", place.display())]);
    let text = bowline.fails(&["keys", "rewrap", "--yes"], 3, "key-missing");
    assert!(text.contains("none") && text.contains("transit"), "{text}");
}

#[test]
fn any_one_of_several_opens_and_the_next_is_asked_when_one_is_silent() {
    let (cluster, moto, bao) = (cluster(), Moto::start(), OpenBao::start());
    moto.make_key("kb");
    bao.make_key("kb", "aes256-gcm96");
    let (public, private) = recovery();
    let (aws, vault) = (aws(&moto, "alias/kb"), vault(&bao, "kb"));
    let all = [aws.as_str(), &vault, "file:{key}", &public];
    let bowline = Bowline::sealed_for(&cluster, RepositoryKind::Folder, &all, &environment());
    let made = bowline.ok(&["backup"]);
    assert_eq!(slots(&bowline).len(), 4);
    let opens = |words: &[&str]| {
        let target = bowline.new_target();
        let words: Vec<&str> = words.iter().copied().chain(["restore", "--plan=deep", "--target", target.to_str().unwrap()]).collect();
        assert_eq!(bowline.ok(&words)["plan"]["backup"], made["id"], "{words:?}");
    };
    for one in [&aws, &vault, "file:{key}"] {
        bowline.set_recipients(&cluster, &[one]);
        opens(&[]);
    }
    let file = private_file(&bowline, "recovery", &private);
    opens(&["--key", file.to_str().unwrap()]);
    // As on a bare machine: a recipient by the name that slots have.
    bowline.set_recipients(&cluster, &["file:/nowhere"]);
    opens(&["--key", &vault.replace("kb?", "transit/kb?")]);
    opens(&["--key", &aws]);
    // Its public half alone opens nothing, and says what would.
    bowline.set_recipients(&cluster, &[&public]);
    let text = bowline.fails(&["restore", "--plan", "--target", bowline.new_target().to_str().unwrap()], 3, "key-missing");
    assert!(text.contains(&public) && text.contains("vault-transit:transit/kb") && text.contains("--key FILE"), "{text}");

    // Neither KMS nor Vault is there any more: the key file opens.
    let text = format!("{aws} {vault}");
    drop((moto, bao));
    bowline.set_recipients(&cluster, &all);
    opens(&[]);
    // Without it the error names all four, and what each of the asked said.
    std::fs::remove_file(bowline.dir().join("key")).expect("remove the key");
    let told = bowline.fails(&["restore", "--plan", "--target", bowline.new_target().to_str().unwrap()], 5, "key-unreachable");
    for word in ["aws-kms:arn:", "vault-transit:transit/kb", "file:", &public, "does not exist"] {
        assert!(told.contains(word), "{word} is not in {told} ({text})");
    }
}

#[test]
fn another_key_of_the_same_kind_opens_nothing_and_is_told_apart() {
    let (cluster, moto, bao) = (cluster(), Moto::start(), OpenBao::start());
    let (right, wrong) = (moto.make_key("right"), moto.make_key("wrong"));
    bao.make_key("right", "aes256-gcm96");
    let bowline = Bowline::sealed_for(&cluster, RepositoryKind::Folder, &[&aws(&moto, &right), &vault(&bao, "right")], &environment());
    bowline.ok(&["backup"]);
    let plan = |code, slug| bowline.fails(&["restore", "--plan", "--target", bowline.new_target().to_str().unwrap()], code, slug);
    bowline.set_recipients(&cluster, &[&aws(&moto, &wrong)]);
    let text = plan(4, "key-wrong");
    assert!(text.contains(&right) && text.contains(&wrong) && text.contains("vault-transit:transit/right"), "{text}");
    // The same name, and other bytes behind it.
    bao.ask("POST /v1/transit/keys/right/config", &json!({ "deletion_allowed": true }));
    bao.ask("DELETE /v1/transit/keys/right", &json!({}));
    bao.make_key("right", "aes256-gcm96");
    bowline.set_recipients(&cluster, &[&vault(&bao, "right")]);
    plan(4, "key-refused");
    // A key that is there no more, in Vault and in AWS.
    bao.ask("POST /v1/transit/keys/right/config", &json!({ "deletion_allowed": true }));
    bao.ask("DELETE /v1/transit/keys/right", &json!({}));
    let text = plan(3, "key-missing");
    assert!(text.contains("bao read transit/keys/right"), "{text}");
    bowline.set_recipients(&cluster, &[&aws(&moto, &right), &aws(&moto, "00000000-0000-0000-0000-000000000000")]);
    let text = bowline.fails(&["backup"], 3, "key-missing");
    assert!(text.contains("NotFoundException") && text.contains("00000000-0000"), "{text}");
}

#[test]
fn a_version_of_a_vault_key_that_may_not_decrypt_any_more_is_refused_and_rewrapping_in_time_helps() {
    let (cluster, bao) = (cluster(), OpenBao::start());
    bao.make_key("kb", "aes256-gcm96");
    let bowline = Bowline::sealed_for(&cluster, RepositoryKind::Folder, &[&vault(&bao, "kb")], &environment());
    bao.ask("POST /v1/transit/keys/kb/rotate", &json!({}));
    bao.ask("POST /v1/transit/keys/kb/config", &json!({ "min_decryption_version": 2 }));
    let text = bowline.fails(&["keys", "rewrap", "--yes"], 4, "key-refused");
    assert!(text.contains("vault-transit:transit/kb") && text.contains("version"), "{text}");
    bao.ask("POST /v1/transit/keys/kb/config", &json!({ "min_decryption_version": 1 }));
    bowline.ok(&["keys", "rewrap", "--yes"]);
    bao.ask("POST /v1/transit/keys/kb/config", &json!({ "min_decryption_version": 2 }));
    there_and_back(&cluster, &bowline, "under the key's newest version");
}

#[test]
fn no_secret_of_any_keeper_is_told_or_stored() {
    let (cluster, moto, bao) = (cluster(), Moto::start(), OpenBao::start());
    moto.make_key("kb");
    bao.make_key("kb", "aes256-gcm96");
    let (public, private) = recovery();
    let all = [&aws(&moto, "alias/kb"), &vault(&bao, "kb"), "file:{key}", &public];
    let bowline = Bowline::sealed_for(&cluster, RepositoryKind::Folder, &all, &environment()).with_environment("RUST_LOG", "trace");
    let identity = private_file(&bowline, "recovery", &private);
    let mut told = String::new();
    let mut note = |words: &[&str], variables: &[(&str, &str)]| {
        for json in [&[][..], &["--json"]] {
            let output = bowline.command(words).args(json).envs(variables.iter().copied()).output().expect("run bowline");
            told.push_str(&String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
        }
    };
    let key = identity.to_str().expect("a plain path");
    for words in
        [&["check"][..], &["backup"], &["keys", "list"], &["keys", "rewrap", "--yes"], &["keys", "rotate", "--yes"], &["keys", "add", &public]]
    {
        note(words, &[]);
        note(words, &[("VAULT_TOKEN", "planted-wrong-token"), ("AWS_SECRET_ACCESS_KEY", "planted-wrong-aws-secret")]);
    }
    note(&["--key", key, "check"], &[]);
    note(&["--key", key, "keys", "list"], &[]);
    bao.ask("POST /v1/transit/keys/kb/config", &json!({ "deletion_allowed": true }));
    bao.ask("DELETE /v1/transit/keys/kb", &json!({}));
    note(&["backup"], &[]);
    assert!(told.contains("vault-transit:transit/kb") && told.contains("key-missing"), "{told}");

    let file = std::fs::read_to_string(bowline.dir().join("key")).expect("the key file");
    let line = file.lines().find(|line| line.starts_with("bowline-key-1:")).expect("the key's line").split(':').nth(1).expect("base64").to_owned();
    let mut secrets =
        vec![line, ROOT_TOKEN.to_owned(), "planted-aws-secret-0001".into(), "planted-wrong-token".into(), "planted-wrong-aws-secret".into()];
    secrets.push(private.lines().nth(1).expect("the identity").to_owned());
    let plain = bowline.ok(&["--key", key, "keys", "export", "--all", "--dangerously-plain"]);
    let export: serde_json::Value = serde_json::from_str(plain["export"].as_str().expect("text")).expect("JSON");
    let keys = export["data_keys"].as_array().expect("keys");
    assert!(keys.len() > 3, "{} keys", keys.len());
    secrets.extend(keys.iter().map(|key| key["key"].as_str().expect("hexadecimal").to_owned()));
    for secret in &secrets {
        assert!(!told.contains(secret.as_str()), "a secret was told: {secret}");
    }
    for path in testkit::bowline::files_below(&bowline.repository()) {
        let bytes = std::fs::read(&path).expect("an object");
        let found = secrets.iter().find(|secret| bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
        assert!(found.is_none(), "{} holds {found:?}", path.display());
    }
}
