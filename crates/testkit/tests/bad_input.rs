//! Wrong input of every kind, given to the real program: each is refused by class and name, with the next step, and nothing is lost or made.

#[path = "bad_input/ground.rs"]
mod ground;

use ground::{Ground, bucket_text, run, s3_environment};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use testkit::Cluster;
use testkit::bowline::{files_below, with_digest};
use testkit::cluster::PASSWORD;
use testkit::s3::S3Server;

fn ground() -> Ground {
    Ground::folder(Cluster::builder(testkit::newest_major()).wal_segment_mib(1).start())
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// Runs `verb` and panics unless it is refused so and leaves the repository as it was.
#[track_caller]
fn refused(ground: &Ground, words: &[&str], code: i32, slug: &str, names: &[&str]) {
    let before = files_below(&ground.repository);
    let said = ground.bowline(&[&["--json"], words].concat());
    said.refused(code, slug, names);
    assert!(said.took < Duration::from_secs(30), "{:?} took {:?}", words, said.took);
    // WAL that an attempt stored is true and useful, a wrapped key that sealed nothing is no harm, and the ledger tells of the attempt; everything
    // else would be.
    let added: Vec<_> = files_below(&ground.repository).into_iter().filter(|f| !before.contains(f)).collect();
    let harm: Vec<_> =
        added.iter().filter(|f| !["/keys/", "/wal/", "/runs/", "coverage.json"].iter().any(|fine| f.display().to_string().contains(fine))).collect();
    assert!(harm.is_empty(), "{words:?} left {harm:?}");
}

#[test]
fn keys_that_do_not_fit_are_told_apart() {
    let ground = ground();
    let key = ground.key.display().to_string();
    let text = fs::read_to_string(&ground.key).expect("the key");
    // Before the first backup above all: what a wrong key wraps, nobody could ever open again.
    let other = ground.cluster.home().join("other-repo");
    let foreign = ground.cluster.home().join("foreign.key").display().to_string();
    let elsewhere = ground.text_for(&format!("url = \"file://{}\"\n", other.display())).replace(&key, &foreign);
    let config = ground.other_config("elsewhere", &elsewhere);
    ground.bowline(&["--json", "--config", &config, "init"]).ok();
    refused(&ground, &["--key", &foreign, "backup"], 4, "key-wrong", &["--key"]);
    refused(&ground, &["--key", &foreign, "wal", "push", "000000010000000000000001"], 4, "key-wrong", &[]);
    ground.bowline(&["--json", "backup"]).ok();
    refused(&ground, &["--key", &foreign, "backup"], 4, "key-wrong", &["--key"]);
    let target = ground.cluster.home().join("never");
    let place = target.display().to_string();
    refused(&ground, &["--key", &foreign, "restore", "--target", &place, "--yes", "--no-start"], 4, "key-wrong", &["--key"]);
    assert!(!target.exists(), "a restore with the wrong key made its target");
    refused(&ground, &["--key", "/nowhere/key", "backup"], 3, "key-missing", &["/nowhere/key"]);
    mode(&ground.key, 0o644);
    refused(&ground, &["backup"], 4, "key-too-open", &[&key, "chmod 0600"]);
    mode(&ground.key, 0o600);
    for damaged in [text.replacen("bowline-key-1:", "bowline-key-1:A", 1), text[..text.len() - 9].to_owned(), String::new(), "\0".repeat(99)] {
        ground.write(&ground.key, &damaged);
        refused(&ground, &["backup"], 6, "key-damaged", &[&key]);
    }
    ground.write(&ground.key, &text);
    ground.bowline(&["--json", "backup"]).ok();
    assert_eq!(ground.listed().len(), 2);
}

#[test]
fn repositories_that_are_not_there_not_ours_or_too_new_are_told_apart() {
    let ground = ground();
    ground.bowline(&["--json", "backup"]).ok();
    let address = ground.repository.display().to_string();
    refused(&ground, &["init"], 4, "repository-exists", &[&address]);
    refused(&ground, &["--org", "nobody", "list"], 3, "store-absent", &[&address, "nobody", "init"]);
    fs::create_dir(ground.repository.join("nobody")).expect("mkdir");
    ground.give(&ground.repository.join("nobody"));
    refused(&ground, &["--org", "nobody", "list"], 3, "repository-missing", &[&address, "init"]);
    refused(&ground, &["--org", "nobody", "backup"], 3, "repository-missing", &[&address, "init"]);
    refused(&ground, &["--org", "../up", "list"], 2, "config-wrong", &["../up"]);
    refused(&ground, &["--repository", "ftp://x/y", "list"], 2, "store-address", &["ftp://x/y"]);
    let said = ground.bowline(&["--json", "--repository", "file:///nowhere/at/all", "list"]);
    assert!(said.code == Some(3) && said.out.contains("/nowhere/at/all"), "{said:#?}");
    // Another organization's repository in the same place is another repository.
    let root = ground.repository.join("acme");
    let document = root.join("repository.json");
    let text = fs::read_to_string(&document).expect("repository.json");
    let newer = text.replacen("\"format\": 1", "\"format\": 2", 1);
    ground.write(&document, &with_digest(&newer));
    for verb in [&["list"][..], &["backup"], &["restore", "--plan"]] {
        refused(&ground, verb, 4, "format-newer", &["repository.json", "format 2", "at least as new"]);
    }
    ground.write(&document, &newer);
    refused(&ground, &["list"], 6, "repository-damaged", &["repository.json"]);
    ground.write(&document, &text);
    if ground.cluster.user().is_none() {
        panic!("a folder of another user needs root: run the tests as root");
    }
    mode(&root.join("full"), 0o500);
    refused(&ground, &["backup"], 4, "store-denied", &["full/", "owner of the folder"]);
    mode(&root.join("full"), 0o700);
    std::os::unix::fs::chown(&ground.repository, Some(0), Some(0)).expect("chown");
    mode(&ground.repository, 0o700);
    refused(&ground, &["list"], 4, "store-denied", &[&address]);
    refused(&ground, &["backup"], 4, "store-denied", &[&address]);
    ground.give(&ground.repository);
    assert_eq!(ground.listed().len(), 1);
    ground.out_of_backup_mode();
}

#[test]
fn buckets_that_are_away_closed_or_absent_are_told_apart_within_seconds() {
    let mut ground = Ground::bare(Cluster::start(testkit::newest_major()));
    let server = S3Server::shared();
    server.create_bucket("bad-input");
    for (name, value) in s3_environment(testkit::s3::SECRET_ACCESS_KEY) {
        ground.set(&name, &value);
    }
    let nobody = { TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address") };
    let silent = TcpListener::bind("127.0.0.1:0").expect("bind");
    let config = |name: &str, bucket: &str, endpoint: &str| ground.other_config(name, &ground.text_for(&bucket_text(bucket, endpoint)));
    let good = config("good", "bad-input", server.endpoint());
    ground.bowline(&["--json", "--config", &good, "init"]).ok();
    let away = config("away", "bad-input", &format!("http://{nobody}"));
    for verb in ["list", "backup", "init"] {
        refused(&ground, &["--config", &away, verb], 5, "store-unreachable", &["s3://bad-input/backups", "endpoint"]);
    }
    let silent = config("silent", "bad-input", &format!("http://{}", silent.local_addr().expect("an address")));
    if testkit::full() {
        // One request's time limit, a minute, is all that is spent on it.
        let said = ground.bowline(&["--json", "--config", &silent, "list"]);
        said.refused(5, "store-unreachable", &["s3://bad-input/backups"]);
        assert!(said.took < Duration::from_secs(90), "{:?}", said.took);
    }
    let absent = config("absent", "no-such-bucket", server.endpoint());
    refused(&ground, &["--config", &absent, "list"], 3, "store-absent", &["no-such-bucket", "bowline init --bucket"]);
    refused(&ground, &["--config", &absent, "init"], 3, "store-absent", &["no-such-bucket"]);
    refused(&ground, &["--config", &good, "--org", "nobody", "list"], 3, "repository-missing", &["s3://bad-input/backups/nobody"]);
    refused(&ground, &["--config", &good, "init"], 4, "repository-exists", &["s3://bad-input/backups/acme"]);
    ground.set("TEST_S3_SECRET", "not-the-secret-0123456789");
    refused(&ground, &["--config", &good, "list"], 4, "store-denied", &["SignatureDoesNotMatch", "secret access key"]);
    refused(&ground, &["--config", &good, "backup"], 4, "store-denied", &["secret access key"]);
    let mut command = ground.command(&["--json", "--config", &good, "list"]);
    command.env_remove("TEST_S3_SECRET");
    run(command).refused(2, "secret-missing", &["TEST_S3_SECRET", "repository.secret_access_key"]);
}

#[test]
fn data_directories_and_servers_that_do_not_belong_together_are_refused() {
    let ground = ground();
    ground.bowline(&["--json", "backup"]).ok();
    let foreign = Cluster::builder(testkit::newest_major()).wal_segment_mib(1).start();
    let repository = format!("url = \"file://{}\"\n", ground.repository.display());
    let (own, data) = (ground.cluster.conninfo(), ground.cluster.data_dir());
    let config = |name: &str, conninfo: &str, data_dir: &Path| ground.other_config(name, &ground.text_with(&repository, conninfo, data_dir));
    let home = ground.cluster.home();
    let no_data = config("no-data", &own, home);
    refused(&ground, &["--config", &no_data, "backup"], 2, "data-dir-wrong", &[&home.display().to_string(), "data_dir"]);
    let nowhere = config("nowhere", &own, Path::new("/nowhere/data"));
    refused(&ground, &["--config", &nowhere, "backup"], 2, "data-dir-wrong", &["/nowhere/data"]);
    let mixed = config("mixed", &own, foreign.data_dir());
    refused(&ground, &["--config", &mixed, "backup"], 2, "system-id-foreign", &[&foreign.data_dir().display().to_string(), "same server"]);
    let other = config("other", &foreign.conninfo(), foreign.data_dir());
    for verb in [&["backup"][..], &["backup", "--stream"], &["wal", "receive"]] {
        refused(&ground, &[&["--config", &other], verb].concat(), 4, "system-id-foreign", &["another cluster", "repository of its own"]);
    }
    // A segment of the other cluster under a name that is free here.
    foreign.psql("CREATE TABLE t AS SELECT generate_series(1, 50000); SELECT pg_switch_wal();");
    let mut segments: Vec<_> =
        files_below(&foreign.data_dir().join("pg_wal")).into_iter().filter(|p| p.parent().is_some_and(|d| d.ends_with("pg_wal"))).collect();
    segments.sort();
    let segment = segments[0].display().to_string();
    refused(&ground, &["wal", "push", &segment], 4, "system-id-foreign", &["another cluster"]);
    assert_eq!(foreign.psql("SELECT count(*) FROM pg_replication_slots"), "0", "a slot was made on a foreign server");
    ground.cluster.pg_ctl_stop(true);
    let socket = ground.cluster.socket_dir().display().to_string();
    for verb in [&["backup"][..], &["wal", "receive"]] {
        refused(&ground, verb, 5, "pg-unreachable", &[&socket, "running"]);
    }
    let _ = data;
    assert_eq!(ground.listed().len(), 1);
}

#[test]
fn a_role_that_may_not_is_told_what_to_be_granted() {
    let ground = Ground::folder(Cluster::builder(testkit::newest_major()).wal_segment_mib(1).tcp(true).start());
    let cluster = &ground.cluster;
    let repository = format!("url = \"file://{}\"\n", ground.repository.display());
    let config = |name: &str, conninfo: &str| ground.other_config(name, &ground.text_with(&repository, conninfo, cluster.data_dir()));
    cluster.psql(
        "CREATE ROLE poor LOGIN PASSWORD 'poor-password'; CREATE ROLE half LOGIN REPLICATION PASSWORD 'half-password'; GRANT pg_monitor TO half;",
    );
    let wrong = config("wrong", &cluster.conninfo_as("postgres", "not-the-password"));
    refused(&ground, &["--config", &wrong, "backup"], 4, "pg-wrong-password", &["postgres", "password"]);
    let no_password = config("none", &cluster.conninfo_as("postgres", PASSWORD).replace(&format!("password={PASSWORD} "), ""));
    refused(&ground, &["--config", &no_password, "backup"], 4, "pg-password-needed", &["PGPASSWORD"]);
    let unknown = config("unknown", &cluster.conninfo_as("nobody_at_all", "x"));
    refused(&ground, &["--config", &unknown, "backup"], 4, "pg-wrong-password", &["nobody_at_all"]);
    let poor = config("poor", &cluster.conninfo_as("poor", "poor-password"));
    for verb in [&["backup"][..], &["backup", "--stream"], &["wal", "receive"]] {
        let said = ground.bowline(&[&["--json", "--config", &poor], verb].concat());
        said.refused(4, "pg-permission", &["poor", "As a superuser"]);
    }
    let half = config("half", &cluster.conninfo_as("half", "half-password"));
    refused(
        &ground,
        &["--config", &half, "backup"],
        4,
        "pg-permission",
        &["GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text, boolean) TO half"],
    );
    cluster.psql("GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO half");
    let said = ground.bowline(&["--json", "--config", &half, "backup"]);
    if said.code != Some(0) {
        said.refused(4, "pg-permission", &["GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() TO half"]);
        cluster.psql("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO half");
        ground.bowline(&["--json", "--config", &half, "backup"]).ok();
    }
    ground.out_of_backup_mode();
    let gone = config("gone", &cluster.conninfo_as("half", "half-password").replace("dbname=postgres", "dbname=no_such_database"));
    refused(&ground, &["--config", &gone, "backup"], 3, "pg-no-database", &["no_such_database"]);
}

#[test]
fn a_server_that_is_too_old_is_refused_by_its_version() {
    let ground = ground();
    // A mock, because PostgreSQL 13 is not installed: it lets anybody in and says which version it is.
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            std::thread::spawn(move || {
                let mut head = [0u8; 4];
                while connection.read_exact(&mut head).is_ok() {
                    let mut rest = vec![0; (u32::from_be_bytes(head) as usize).saturating_sub(4).min(10_000)];
                    if connection.read_exact(&mut rest).is_err() {
                        return;
                    }
                    // SSLRequest (80877103) and GSSENCRequest (80877104) are answered with no.
                    if matches!(rest[..4], [4, 210, 22, 47 | 48]) {
                        let _ = connection.write_all(b"N");
                        continue;
                    }
                    let mut answer = b"R\0\0\0\x08\0\0\0\0".to_vec();
                    for (name, value) in
                        [("server_version", "13.14"), ("client_encoding", "UTF8"), ("integer_datetimes", "on"), ("in_hot_standby", "off")]
                    {
                        answer.push(b'S');
                        answer.extend(((4 + name.len() + value.len() + 2) as u32).to_be_bytes());
                        answer.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
                    }
                    answer.extend(b"Z\0\0\0\x05I");
                    let _ = connection.write_all(&answer);
                }
            });
        }
    });
    let repository = format!("url = \"file://{}\"\n", ground.repository.display());
    let conninfo = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let old = ground.other_config("old", &ground.text_with(&repository, &conninfo, ground.cluster.data_dir()));
    for verb in [&["backup"][..], &["wal", "receive"]] {
        let said = ground.bowline(&[&["--json", "--config", &old], verb].concat());
        assert_eq!((said.code, said.last("error")["slug"].as_str()), (Some(4), Some("pg-too-old")), "{said:#?}");
        assert!(said.out.contains("13.14") && said.out.contains("PostgreSQL 15 and later"), "{said:#?}");
    }
}
