//! Backups wrapped for AWS KMS (a mock), for Vault's transit engine (OpenBao), for key files and recovery keys, alone and together.

#[path = "keys/ground.rs"]
mod ground;

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
}

#[test]
fn vault_is_trusted_by_its_own_authority_only() {
    let (cluster, bao) = (cluster(), OpenBao::start_tls());
    let recipient = format!("vault-transit:none?address={}", bao.address());
    let bowline = Bowline::of(&cluster, RepositoryKind::Folder);
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
        assert_eq!(bowline.ok(&words)["backup"], made["id"], "{words:?}");
    };
    for one in [&aws, &vault, "file:{key}"] {
        bowline.set_recipients(&cluster, &[one]);
        opens(&[]);
    }
    let file = private_file(&bowline, "recovery", &private);
    opens(&["--key", file.to_str().unwrap()]);
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
    // A key that is there no more, one that is switched off, and one whose end is near.
    bao.ask("POST /v1/transit/keys/right/config", &json!({ "deletion_allowed": true }));
    bao.ask("DELETE /v1/transit/keys/right", &json!({}));
    plan(3, "key-missing");
    bowline.set_recipients(&cluster, &[&aws(&moto, &right)]);
    moto.ask("DisableKey", &json!({ "KeyId": right }));
    let text = bowline.fails(&["backup"], 4, "key-refused");
    assert!(text.contains("enable-key") || text.contains("describe-key"), "{text}");
}
