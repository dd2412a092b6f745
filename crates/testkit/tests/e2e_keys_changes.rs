//! Slots are changed while everything goes on: no data is stored again, nobody is locked out, what comes next is under the new keys.

#[path = "keys/ground.rs"]
mod ground;

use ground::{KEPT, aws, cluster, environment, private_file, recovery, stored, vault};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use testkit::bowline::files_below;
use testkit::{Bowline, Moto, OpenBao, RepositoryKind};

/// Every object that seals something, with its bytes' time and size.
fn sealed_objects(bowline: &Bowline<'_>) -> BTreeMap<PathBuf, (std::time::SystemTime, u64)> {
    let all = files_below(&bowline.repository());
    let sealed = all.into_iter().filter(|path| path.to_string_lossy().contains("/full/") || path.to_string_lossy().contains("/wal/"));
    sealed.map(|path| (path.clone(), path.metadata().map(|m| (m.modified().expect("a time"), m.len())).expect("its metadata"))).collect()
}

/// The recipients of every data key.
fn slots(bowline: &Bowline<'_>) -> Vec<Vec<String>> {
    let listed = bowline.ok(&["keys", "list"]);
    let names =
        |key: &Value| key["slots"].as_array().expect("slots").iter().map(|slot| slot["recipient"].as_str().expect("a name").to_owned()).collect();
    listed["keys"].as_array().expect("keys").iter().map(names).collect()
}

#[test]
fn a_replaced_kms_key_is_rewrapped_for_while_a_receiver_streams() {
    let (cluster, moto, bao) = (cluster(), Moto::start(), OpenBao::start());
    let (old, new) = (moto.make_key("old"), moto.make_key("new"));
    bao.make_key("kb", "aes256-gcm96");
    let (old_spec, new_spec) = (aws(&moto, &old), aws(&moto, &new));
    let bowline = Bowline::sealed_for(&cluster, RepositoryKind::Folder, &[&old_spec], &environment());
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    cluster.psql("INSERT INTO kept SELECT i, 'before the rewrap' FROM generate_series(1, 500) i");
    bowline.archive_now();
    let before = sealed_objects(&bowline);

    // The new one alone opens nothing yet: it is told who would, and changes nothing.
    bowline.set_recipients(&cluster, &[&new_spec, &vault(&bao, "kb")]);
    let text = bowline.fails(&["keys", "rewrap", "--yes"], 4, "key-wrong");
    assert!(text.contains(&old), "{text}");
    let plan = bowline.ok(&["keys", "rewrap", "--open-with", &old_spec, "--plan"]);
    assert_eq!(plan["plan"], true);
    assert!(slots(&bowline).iter().all(|names| names == &[format!("aws-kms:{old}")]));
    let unsure = bowline.fails(&["keys", "rewrap", "--open-with", &old_spec], 2, "not-confirmed");
    assert!(unsure.contains("--yes"), "{unsure}");
    let done = bowline.ok(&["keys", "rewrap", "--open-with", &old_spec, "--yes"]);
    assert_eq!(done["keys"].as_array().map(Vec::len), Some(3), "digests, WAL and a backup: {done}");
    let wanted = [format!("aws-kms:{new}"), "vault-transit:transit/kb".to_owned()];
    assert!(slots(&bowline).iter().all(|names| *names == wanted), "{:?}", slots(&bowline));
    cluster.psql("INSERT INTO kept SELECT i, 'after the rewrap' FROM generate_series(1, 500) i");
    bowline.archive_now();
    let after = sealed_objects(&bowline);
    assert!(
        before.iter().filter(|(path, _)| !path.to_string_lossy().contains(".pieces")).all(|(path, was)| after.get(path) == Some(was)),
        "stored again"
    );
    assert_eq!(receiver.stop(), Some(0));
    let restored = bowline.restore(&[]);
    assert_eq!(restored.psql(KEPT), cluster.psql(KEPT));
}

#[test]
fn recipients_come_and_go_and_the_last_one_stays() {
    let (cluster, bao) = (cluster(), OpenBao::start());
    bao.make_key("kb", "aes256-gcm96");
    let vault = vault(&bao, "kb");
    let bowline = Bowline::sealed_for(&cluster, RepositoryKind::Folder, &["file:{key}"], &environment());
    bowline.ok(&["backup"]);
    let file = slots(&bowline)[0][0].clone();
    // The only one.
    let text = bowline.fails(&["keys", "remove", &file, "--yes"], 4, "key-last");
    assert!(text.contains("nobody"), "{text}");
    // Beside one whose private half is not here.
    let (public, private) = recovery();
    let added = bowline.ok(&["keys", "add", &public]);
    assert_eq!(added["recipients"][0]["is_proven"], false);
    bowline.fails(&["keys", "remove", &file, "--yes"], 4, "key-last");
    assert!(slots(&bowline).iter().all(|names| *names == [file.clone(), public.clone()]));
    // With the private half it is proven, and Vault can prove it, too.
    bowline.ok(&["keys", "add", &vault]);
    bowline.fails(&["keys", "remove", "pigeon:nobody", "--yes"], 3, "recipient-absent");
    bowline.set_recipients(&cluster, &["file:{key}", &vault]);
    let key = bowline.dir().join("key").display().to_string();
    assert_eq!(bowline.ok(&["keys", "remove", &format!("file:{key}"), "--plan"])["plan"], true);
    bowline.ok(&["keys", "remove", &format!("file:{key}"), "--yes"]);
    assert!(slots(&bowline).iter().all(|names| !names.contains(&file) && names.len() == 2));
    let stale = bowline.fails(&["--key", &key, "restore", "--plan", "--target", bowline.new_target().to_str().unwrap()], 4, "key-wrong");
    assert!(stale.contains("vault-transit:transit/kb") && stale.contains(&public), "{stale}");
    let private = private_file(&bowline, "recovery", &private);
    bowline.ok(&["--key", private.to_str().unwrap(), "keys", "remove", "vault-transit:transit/kb", "--yes"]);
    assert!(slots(&bowline).iter().all(|names| *names == [public.clone()]));
    bowline.ok(&["--key", private.to_str().unwrap(), "restore", "--plan", "--target", bowline.new_target().to_str().unwrap()]);
}

#[test]
fn wal_from_a_rotation_on_is_under_a_new_key_and_all_of_it_comes_back() {
    let cluster = cluster();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let receiver = bowline.receive();
    bowline.ok(&["backup"]);
    bowline.archive_now();
    let done = bowline.ok(&["keys", "rotate", "--yes"]);
    assert_ne!(done["former"], done["wal_key"]);
    // The one that runs goes on.
    cluster.psql("INSERT INTO kept SELECT i, 'under the former key' FROM generate_series(1, 100) i");
    bowline.archive_now();
    assert_eq!(receiver.stop(), Some(0));
    let receiver = bowline.receive();
    cluster.psql("INSERT INTO kept SELECT i, 'under the new key' FROM generate_series(1, 100) i");
    bowline.archive_now();
    cluster.psql("INSERT INTO kept SELECT i, 'in a piece' FROM generate_series(1, 100) i");
    stored(&cluster);
    assert_eq!(receiver.stop(), Some(0));
    let key_of = |path: &PathBuf| std::fs::read(path).expect("an object")[16..32].iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut used: Vec<String> = files_below(&bowline.repository().join("wal")).iter().filter(|p| p.extension().is_none()).map(key_of).collect();
    used.sort();
    used.dedup();
    assert!([&done["former"], &done["wal_key"]].iter().all(|key| used.contains(&key.as_str().unwrap_or_default().to_owned())), "{used:?} {done}");
    let restored = bowline.restore(&[]);
    assert_eq!(restored.psql(KEPT), cluster.psql(KEPT));
    bowline.ok(&["wal", "audit"]);
}

#[test]
fn exported_keys_open_the_backups_without_any_recipient() {
    let cluster = cluster();
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let made = bowline.ok(&["backup"]);
    let backup = made["id"].as_str().expect("an id").to_owned();
    let (public, private) = recovery();
    let output = bowline.dir().join("export.age");
    bowline.ok(&["keys", "export", "--all", "--to", public.trim_start_matches("age:"), "--output", output.to_str().unwrap()]);
    let text = std::fs::read_to_string(&output).expect("the export");
    assert!(text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"), "{text}");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&output.metadata().expect("its mode").permissions()) & 0o777, 0o600);
    let identity: age::x25519::Identity = private.lines().nth(1).expect("a line").parse().expect("an identity");
    let opened = age::decrypt(&identity, text.as_bytes()).expect("it is sealed for this key");
    let keys: Value = serde_json::from_slice(&opened).expect("JSON");
    assert_eq!(keys["data_keys"].as_array().map(Vec::len), Some(3));
    // Never by accident.
    assert_eq!(bowline.run(&["keys", "export", "--all"]).code, 2);
    let plain = bowline.ok(&["keys", "export", "--all", "--dangerously-plain"]);
    assert_eq!(serde_json::from_str::<Value>(plain["export"].as_str().expect("text")).expect("JSON")["data_keys"], keys["data_keys"]);

    // The reader of the format needs them and nothing else; without, it names who would open it.
    let file = private_file(&bowline, "data-keys.json", &String::from_utf8(opened).expect("text"));
    let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/format/read.py");
    let read = |words: &[&str]| {
        let python = std::env::var_os("BOWLINE_PYTHON").unwrap_or_else(|| "python3".into());
        let output = Command::new(python).arg(reader).args(words).output().expect("run python3");
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let repository = bowline.repository().display().to_string();
    let (is_ok, said) = read(&["--data-keys", file.to_str().unwrap(), &repository, "verify", &backup]);
    assert!(is_ok, "{said}");
    let (is_ok, said) = read(&[&repository, "verify", &backup]);
    assert!(!is_ok && said.contains(slots(&bowline)[0][0].as_str()), "{said}");
}
