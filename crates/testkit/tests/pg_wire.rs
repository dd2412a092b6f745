//! The `pg` room against real servers of every major: SQL, replication, base backups, TLS, and what it says when refused.

use pg::{BaseBackupOptions, ConnInfo, Item, PgError, Replication, SlotCreated, Sql, StreamEvent, TarKind, WalStream};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use terms::{Class, Explain, Lsn, SegmentName, Timeline};
use testkit::{Cluster, majors, newest_major};

const ROLE: &str = "CREATE ROLE bowline LOGIN REPLICATION PASSWORD 'sesame'; GRANT pg_monitor TO bowline; \
    GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean), pg_switch_wal(), pg_create_restore_point(text) TO bowline;";

fn info(text: &str) -> ConnInfo {
    ConnInfo::parse(text, &|_| None).unwrap_or_else(|error| panic!("{error}: {}", error.detail()))
}

fn over_tcp(cluster: &Cluster) -> ConnInfo {
    info(&cluster.conninfo_as("bowline", "sesame"))
}

fn over_socket(cluster: &Cluster) -> ConnInfo {
    info(&format!("host={} port={} user=bowline dbname=postgres", cluster.socket_dir().display(), cluster.port()))
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test takes too long") })
}

/// The happy result, or a panic with everything the error has to say.
fn ok<T>(result: Result<T, PgError>) -> T {
    result.unwrap_or_else(|error| panic!("{}", error.advice()))
}

#[test]
fn a_role_that_is_no_superuser_learns_the_facts_and_brackets_a_backup_over_tcp_and_socket() {
    for major in majors() {
        let cluster = Cluster::builder(major).tcp(true).tablespace("fast").wal_segment_mib(1).start();
        cluster.psql(ROLE);
        run(async {
            for info in [over_tcp(&cluster), over_socket(&cluster)] {
                let sql = ok(Sql::connect(&info).await);
                let facts = ok(sql.server_facts().await);
                assert_eq!((facts.major, sql.major()), (major, major));
                assert!(facts.version.starts_with(&format!("{major}.")));
                assert_eq!(facts.system_id.to_string(), cluster.psql("SELECT system_identifier FROM pg_control_system()"));
                assert_eq!(facts.data_directory.as_deref(), Some(cluster.data_dir()));
                assert!(facts.config_file.is_some() && facts.hba_file.is_some() && facts.ident_file.is_some());
                assert!(facts.config_files.contains(&cluster.data_dir().join("postgresql.conf")), "{:?}", facts.config_files);
                assert_eq!((facts.segment_size.bytes(), facts.page_size), (1 << 20, 8192));
                assert!(facts.data_checksums && facts.has_replication && !facts.is_superuser && !facts.in_recovery && !facts.archives);
                assert_eq!((facts.wal_level.as_str(), facts.timeline), ("replica", Timeline::FIRST));
                assert_eq!(facts.summarize_wal, (major >= 17).then_some(false));
                assert_eq!(facts.current_user, "bowline");
                assert_eq!(facts.tablespaces.len(), 1);
                assert_eq!((facts.tablespaces[0].name.as_str(), &facts.tablespaces[0].location), ("fast", &cluster.tablespace_dir("fast")));
                let postgres = facts.databases.iter().find(|database| database.name == "postgres").unwrap();
                assert!(postgres.size.unwrap() > 1 << 20 && postgres.encoding == "UTF8" && postgres.allows_connections);
                assert!(facts.databases.iter().any(|database| database.name == "template0" && !database.allows_connections));
                assert_eq!(facts.extensions.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["plpgsql"]);
                assert!(facts.now.seconds_since(terms::Clock::now(&terms::SystemClock)).abs() < 60.0);

                let start = ok(sql.backup_start("it's a test", true).await);
                assert!(ok(sql.current_lsn().await) >= start);
                let named = ok(sql.create_restore_point("here").await);
                let stopped = ok(sql.backup_stop(false).await);
                assert!(stopped.lsn > named && stopped.label.contains("LABEL: it's a test") && stopped.now >= facts.now);
                assert!(stopped.label.contains(&format!("START WAL LOCATION: {start} ")), "{}", stopped.label);
                assert!(stopped.tablespace_map.contains(&facts.tablespaces[0].oid.to_string()), "{}", stopped.tablespace_map);
                ok(sql.switch_wal().await);
                assert!(ok(sql.flush_lsn().await) >= stopped.lsn);
                assert!(ok(sql.has_privilege("pg_backup_start(text, boolean)").await));
                assert!(!ok(sql.has_privilege("pg_promote(boolean, integer)").await));
                assert_eq!(ok(sql.archiver().await).failed_count, 0);
                assert_eq!(ok(sql.slot("none").await), None);
                assert_eq!(ok(sql.setting("wal_segment_size").await).as_deref(), Some("1MB"));
                assert_eq!(ok(sql.setting("no_such_setting").await), None);
            }
        });
    }
}

#[test]
fn a_base_backup_brings_every_file_with_exactly_its_bytes() {
    for major in majors() {
        let cluster = Cluster::builder(major).tcp(true).tablespace("fast").start();
        cluster.psql(ROLE);
        cluster.psql("CREATE TABLE here AS SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g");
        cluster.psql("CREATE TABLE there TABLESPACE fast AS SELECT g, repeat('y', 100) FROM generate_series(1, 20000) g; CHECKPOINT");
        let paths = cluster.psql("SELECT pg_relation_filepath('here'), pg_relation_filepath('there')");
        let (here, there) = paths.split_once('|').unwrap();
        run(async {
            let wire = ok(Replication::connect(&over_tcp(&cluster)).await);
            let options = BaseBackupOptions { label: "it's 1".into(), fast: true, max_rate_kib: None, verify_checksums: true, progress: true };
            let mut backup = ok(wire.base_backup(&options).await);
            assert_eq!(backup.timeline(), Timeline::FIRST);
            let spaces: Vec<_> = backup.tablespaces().to_vec();
            assert_eq!(spaces.len(), 2, "{spaces:?}");
            let fast = spaces.iter().find_map(|space| space.oid).unwrap();
            assert!(
                spaces.iter().any(|space| space.location == cluster.tablespace_dir("fast")) && spaces.iter().all(|space| space.size_kib.is_some())
            );
            let files = ok(read_all(&mut backup).await);
            let start = backup.start();
            let end = ok(backup.finish().await);
            assert!(end.stop > start && end.timeline == Timeline::FIRST && end.warnings.is_empty());

            let there = there.splitn(3, '/').nth(2).unwrap();
            for (tablespace, path, root) in [(None, here, cluster.data_dir().to_owned()), (Some(fast), there, cluster.tablespace_dir("fast"))] {
                let on_disk = std::fs::read(root.join(path)).unwrap();
                assert!(files[&(tablespace, path.to_owned())].as_deref() == Some(&on_disk[..]), "{path}");
            }
            assert!(files.keys().next().is_some());
            let label = files[&(None, "backup_label".to_owned())].as_ref().unwrap();
            assert!(std::str::from_utf8(label).unwrap().contains("LABEL: it's 1"));
            assert!(files.contains_key(&(None, "tablespace_map".to_owned())));
            assert_eq!(files[&(None, "global/pg_control".to_owned())].as_ref().unwrap().len(), 8192);
            assert_eq!(files[&(None, "pg_wal".to_owned())], None, "a folder");
            // Everything in the folder of a database is there too, and nothing else.
            let folder = Path::new(here).parent().unwrap();
            for entry in std::fs::read_dir(cluster.data_dir().join(folder)).unwrap().flatten() {
                let name = format!("{}/{}", folder.display(), entry.file_name().display());
                if !name.contains("pg_internal.init") {
                    assert!(files.contains_key(&(None, name.clone())), "{name}");
                }
            }
            let mut wire = end.connection;
            assert_eq!(ok(wire.identify_system().await).timeline, Timeline::FIRST, "the connection goes on");
            let late = BaseBackupOptions { max_rate_kib: Some(32), ..options };
            let mut given_up = ok(wire.base_backup(&late).await);
            ok(given_up.next().await);
            drop(given_up);
        });
    }
}

type Files = BTreeMap<(Option<u32>, String), Option<Vec<u8>>>;

async fn read_all(backup: &mut pg::BaseBackup) -> Result<Files, PgError> {
    let mut files = Files::new();
    let mut present: Option<((Option<u32>, String), u64)> = None;
    while let Some(item) = backup.next().await? {
        match item {
            Item::Entry(entry) => {
                let key = (entry.tablespace, entry.path);
                let TarKind::File { size } = entry.kind else {
                    files.insert(key, None);
                    continue;
                };
                assert!(files.insert(key.clone(), Some(Vec::new())).is_none(), "{key:?} came twice");
                present = Some((key, size));
            }
            Item::Data(bytes) => {
                let (key, left) = present.as_mut().expect("content of a file");
                *left -= bytes.len() as u64;
                files.get_mut(key).unwrap().as_mut().unwrap().extend_from_slice(&bytes);
            }
        }
    }
    Ok(files)
}

#[test]
fn streamed_wal_equals_the_servers_own_and_the_confirmed_position_is_seen() {
    for major in majors() {
        let cluster = Cluster::builder(major).tcp(true).wal_segment_mib(1).start();
        cluster.psql(ROLE);
        run(async {
            let sql = ok(Sql::connect(&over_socket(&cluster)).await);
            let mut wire = ok(Replication::connect(&over_tcp(&cluster).with_application_name("receiver")).await);
            assert_eq!(wire.major(), major);
            assert_eq!(ok(wire.create_slot("keep", false).await), SlotCreated::New);
            assert_eq!(ok(wire.create_slot("keep", false).await), SlotCreated::AlreadyThere);
            assert_eq!(ok(wire.create_slot("passing", true).await), SlotCreated::New);
            assert!(ok(sql.slot("passing").await).unwrap().temporary);
            assert!(wire.create_slot("Bad'Name", false).await.is_err());
            assert_eq!(ok(wire.show("wal_segment_size").await), "1MB");
            assert!(wire.show("x; y").await.is_err());
            assert_eq!(ok(wire.timeline_history(Timeline::FIRST).await), None);
            let position = ok(wire.read_slot("keep").await).unwrap();
            assert_eq!(position.timeline, Some(Timeline::FIRST));
            assert_eq!(ok(wire.read_slot("none").await), None);
            let identity = ok(wire.identify_system().await);
            assert_eq!(identity.system_id, ok(sql.server_facts().await).system_id);

            let size = ok(sql.server_facts().await).segment_size;
            let from = position.restart.unwrap().segment_start(size);
            let mut stream = ok(wire.start_physical(Some("keep"), from, identity.timeline).await);
            let held = ok(Replication::connect(&over_tcp(&cluster)).await).start_physical(Some("keep"), from, identity.timeline).await.err().unwrap();
            assert_eq!((held.slug(), held.class()), ("pg-in-use", Class::Held), "{}", held.advice());
            cluster.psql("CREATE TABLE t AS SELECT g, repeat('z', 200) FROM generate_series(1, 30000) g");
            ok(sql.switch_wal().await);
            let end = ok(sql.flush_lsn().await);
            let (bytes, received) = ok(receive(&mut stream, from, end).await);
            assert!(received >= end && bytes.len() > 4 << 20);
            let mut at = from;
            while at.plus(size.bytes()) <= end {
                let name = SegmentName::containing(at, identity.timeline, size);
                let on_disk = std::fs::read(cluster.data_dir().join("pg_wal").join(name.to_string())).unwrap();
                let offset = at.bytes_since(from) as usize;
                assert!(bytes[offset..offset + on_disk.len()] == on_disk[..], "{name}");
                at = at.plus(size.bytes());
            }
            ok(stream.send_status(received, received, None, true).await);
            loop {
                if let StreamEvent::Keepalive { end, .. } = ok(stream.next().await) {
                    assert!(end >= received, "a requested reply comes back");
                    break;
                }
            }
            let seen = ok(sql.replication_state("receiver").await);
            assert_eq!(seen.len(), 1);
            assert_eq!(
                (seen[0].flushed, seen[0].sync_state.as_deref(), seen[0].state.as_deref()),
                (Some(received), Some("async"), Some("streaming"))
            );
            let slot = ok(sql.slot("keep").await).unwrap();
            assert!(
                slot.active && slot.restart_lsn == Some(received) && slot.wal_status.as_deref() == Some("reserved") && slot.slot_type == "physical"
            );
            let mut wire = ok(stream.stop().await);
            ok(wire.drop_slot("keep").await);
            assert_eq!(wire.drop_slot("keep").await.unwrap_err().class(), Class::Missing);
            assert_eq!(ok(wire.identify_system().await).timeline, identity.timeline, "an error leaves the session usable");
            let mut old = ok(wire.start_physical(None, Lsn::from_bytes(1 << 20), Timeline::FIRST).await);
            let gone = old.next().await.unwrap_err();
            assert_eq!((gone.slug(), gone.class()), ("pg-wal-removed", Class::Missing), "{}", gone.advice());
        });
    }
}

/// Reads until `end`, giving the wait up again and again in between: no byte may be lost by that.
async fn receive(stream: &mut WalStream, from: Lsn, end: Lsn) -> Result<(Vec<u8>, Lsn), PgError> {
    let (mut bytes, mut at) = (Vec::new(), from);
    while at < end {
        let event = tokio::select! {
            biased;
            event = stream.next() => event?,
            () = tokio::task::yield_now() => {
                stream.send_status(at, from, None, false).await?;
                continue;
            }
        };
        if let StreamEvent::Data { start, bytes: piece, end_of_server_wal } = event {
            assert_eq!(start, at);
            at = at.plus(piece.len() as u64);
            assert!(end_of_server_wal >= at);
            bytes.extend_from_slice(&piece);
        }
    }
    Ok((bytes, at))
}

#[test]
fn a_stream_follows_a_promoted_standby_onto_its_new_timeline() {
    for major in majors() {
        let primary = Cluster::builder(major).tcp(true).start();
        primary.psql(ROLE);
        primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000)");
        let standby = primary.standby();
        standby.catch_up(&primary);
        run(async {
            let mut wire = ok(Replication::connect(&over_tcp(&standby)).await);
            let from = ok(wire.identify_system().await).flushed;
            let mut stream = ok(wire.start_physical(None, from, Timeline::FIRST).await);
            let refused = info(&format!("{} target_session_attrs=primary", standby.conninfo()));
            assert!(matches!(Replication::connect(&refused).await.err().unwrap(), PgError::WrongSessionKind { .. }));
            assert!(matches!(Sql::connect(&refused).await.unwrap_err(), PgError::WrongSessionKind { .. }));
            let both = info(&format!(
                "host={},127.0.0.1 port={},{} user=bowline password=sesame dbname=postgres target_session_attrs=primary",
                standby.socket_dir().display(),
                standby.port(),
                primary.port()
            ));
            assert_eq!(ok(Sql::connect(&both).await).peer().address, format!("127.0.0.1:{}", primary.port()));
            let sql = ok(Sql::connect(&over_socket(&standby)).await);
            let facts = ok(sql.server_facts().await);
            assert!(facts.in_recovery && facts.timeline == Timeline::FIRST);
            let error = sql.switch_wal().await.unwrap_err();
            assert_eq!((error.slug(), error.class()), ("pg-wrong-state", Class::Refused), "a standby writes no WAL: {}", error.advice());
            tokio::task::block_in_place(|| standby.promote());

            let second = Timeline::new(2).unwrap();
            let (next, at) = loop {
                if let StreamEvent::TimelineEnded { next, at } = ok(stream.next().await) {
                    break (next, at);
                }
            };
            assert!(next == second && at >= from);
            let mut wire = ok(stream.stop().await);
            let (name, history) = ok(wire.timeline_history(next).await).unwrap();
            assert_eq!(name, "00000002.history");
            assert!(std::str::from_utf8(&history).unwrap().contains(&format!("1\t{at}\t")));
            // Exactly at the end of the old timeline there is nothing to stream: the answer is the next one at once.
            let mut empty = ok(wire.start_physical(None, at, Timeline::FIRST).await);
            assert_eq!(ok(empty.next().await), StreamEvent::TimelineEnded { next, at });
            assert_eq!(ok(empty.next().await), StreamEvent::TimelineEnded { next, at });
            let mut stream = ok(ok(empty.stop().await).start_physical(None, at, next).await);
            assert!(matches!(ok(stream.next().await), StreamEvent::Data { start, .. } if start == at));
            assert_eq!(ok(sql.timeline().await), second, "known before the next checkpoint");
            let beyond =
                ok(Replication::connect(&over_tcp(&standby)).await).start_physical(None, at.plus(1 << 30), Timeline::FIRST).await.err().unwrap();
            assert!(matches!(beyond, PgError::Server(_)) && beyond.class() == Class::Refused, "{}", beyond.advice());
            // A server that stops says so in the stream.
            tokio::task::block_in_place(|| standby.pg_ctl_stop(false));
            let lost = loop {
                if let Err(error) = stream.next().await {
                    break error;
                }
            };
            assert_eq!(lost.class(), Class::Transient, "{}", lost.advice());
            assert_eq!(sql.ended().await.class(), Class::Transient);
            assert_eq!(sql.now().await.unwrap_err().class(), Class::Transient);
        });
    }
}

#[test]
fn the_server_asks_for_a_sign_of_life_and_leaves_when_none_comes() {
    let cluster = Cluster::builder(newest_major()).tcp(true).setting("wal_sender_timeout", "2s").start();
    cluster.psql(ROLE);
    run(async {
        let mut wire = ok(Replication::connect(&over_tcp(&cluster)).await);
        let from = ok(wire.identify_system().await).flushed;
        let mut stream = ok(wire.start_physical(None, from, Timeline::FIRST).await);
        let (mut asked, mut at) = (0, from);
        while asked < 3 {
            match ok(stream.next().await) {
                StreamEvent::Keepalive { reply_requested, .. } => {
                    if reply_requested {
                        asked += 1;
                        ok(stream.send_status(at, at, None, false).await);
                    }
                }
                StreamEvent::Data { start, bytes, .. } => at = start.plus(bytes.len() as u64),
                other => panic!("{other:?}"),
            }
        }
        let error = loop {
            if let Err(error) = stream.next().await {
                break error;
            }
        };
        assert!(matches!(error, PgError::ConnectionLost { .. }) && error.class() == Class::Transient, "{}", error.advice());
    });
}

#[test]
fn each_refusal_says_who_why_and_what_to_do() {
    for major in majors() {
        let cluster = Cluster::builder(major).tcp(true).start();
        cluster.psql(ROLE);
        cluster.psql("CREATE ROLE plain LOGIN PASSWORD 'sesame'; CREATE ROLE nobody LOGIN REPLICATION");
        let hba = cluster.data_dir().join("pg_hba.conf");
        let lines = "local all all trust\nlocal replication all trust\nhost all bowline,plain 127.0.0.1/32 scram-sha-256\nhost replication plain 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(&hba, lines).unwrap();
        cluster.psql("SELECT pg_reload_conf()");
        let as_role = |role: &str, password: &str| info(&cluster.conninfo_as(role, password));
        run(async {
            let sql = |info: ConnInfo| async move { Sql::connect(&info).await.unwrap_err() };
            let wire = |info: ConnInfo| async move { Replication::connect(&info).await.err().expect("must be refused") };
            let check = |error: PgError, slug: &str, class: Class, words: &[&str]| {
                let text = error.advice().to_string();
                assert_eq!((error.slug(), error.class()), (slug, class), "{text}");
                assert!(words.iter().all(|word| text.contains(word)), "{text}");
                assert!(!text.contains("sesame") && !format!("{error:?}").contains("sesame") && !text.contains("sesamo"), "{text}");
            };
            let port = cluster.port().to_string();
            check(sql(as_role("bowline", "sesamo")).await, "pg-wrong-password", Class::Refused, &["28P01", "bowline", &port, "postgres"]);
            check(wire(as_role("plain", "sesamo")).await, "pg-wrong-password", Class::Refused, &["28P01", "plain", "replication"]);
            check(
                wire(as_role("bowline", "sesame")).await,
                "pg-no-hba-entry",
                Class::Refused,
                &["host replication bowline 127.0.0.1/32 scram-sha-256"],
            );
            check(sql(as_role("nobody", "sesame")).await, "pg-no-hba-entry", Class::Refused, &["host postgres nobody 127.0.0.1/32 scram-sha-256"]);
            check(wire(as_role("plain", "sesame")).await, "pg-permission", Class::Refused, &["ALTER ROLE plain REPLICATION"]);
            check(sql(as_role("bowline", "sesame").with_dbname("nowhere")).await, "pg-no-database", Class::Missing, &["nowhere"]);
            let unlocked = format!("host=127.0.0.1 port={port} user=bowline dbname=postgres");
            check(sql(info(&unlocked)).await, "pg-password-needed", Class::Refused, &["bowline", ".pgpass"]);
            check(wire(info(&unlocked.replace("bowline", "plain"))).await, "pg-password-needed", Class::Refused, &["plain"]);
            let secured = |mode: &str| info(&format!("{} sslmode={mode}", cluster.conninfo_as("plain", "sesame")));
            check(sql(secured("require")).await, "pg-tls-not-offered", Class::Refused, &["TLS"]);
            check(wire(secured("require")).await, "pg-tls-not-offered", Class::Refused, &["TLS"]);
            check(wire(secured("allow")).await, "pg-permission", Class::Refused, &[]);

            let plain = ok(Sql::connect(&as_role("plain", "sesame")).await);
            check(
                plain.backup_start("x", true).await.unwrap_err(),
                "pg-permission",
                Class::Refused,
                &["GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text, boolean) TO plain"],
            );
            let facts = ok(plain.server_facts().await);
            assert!(facts.data_directory.is_none() && facts.config_files.is_empty() && !facts.has_replication, "{facts:?}");

            cluster.psql("ALTER SYSTEM SET max_wal_senders = 1");
            tokio::task::block_in_place(|| cluster.restart());
            let socket = over_socket(&cluster);
            let _one = ok(Replication::connect(&socket).await);
            check(wire(socket.clone()).await, "pg-too-many-connections", Class::Transient, &["max_wal_senders"]);
            tokio::task::block_in_place(|| cluster.pg_ctl_stop(true));
            check(sql(as_role("bowline", "sesame")).await, "pg-unreachable", Class::Transient, &["127.0.0.1", &port, "refused"]);
            check(wire(socket).await, "pg-unreachable", Class::Transient, &[".s.PGSQL."]);
            check(
                sql(info(&format!("host=no.such.host.invalid,127.0.0.1 port={port} user=u"))).await,
                "pg-no-host",
                Class::Transient,
                &["no.such.host.invalid"],
            );
        });
    }
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let done = Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl is installed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A self-signed certificate and its key in `folder`, named after `name`: as the manual makes one, common name only.
fn self_signed(folder: &Path, name: &str, subject: &str, more: &[&str]) -> (PathBuf, String, String) {
    let (crt, key) = (format!("{name}.crt"), format!("{name}.key"));
    let base = ["req", "-new", "-x509", "-days", "30", "-nodes", "-newkey", "rsa:2048", "-out", &crt, "-keyout", &key, "-subj", subject];
    openssl(folder, &[&base[..], more].concat());
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
    (folder.join(&crt), read(&crt), read(&key))
}

#[test]
fn each_way_to_log_in_is_spoken_and_a_client_certificate_is_shown() {
    let home = tempfile::tempdir().unwrap();
    let (crt, certificate, key) = self_signed(home.path(), "bowline", "/CN=bowline", &[]);
    std::fs::set_permissions(home.path().join("bowline.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let cluster = Cluster::builder(newest_major()).tls(&certificate, &key).start();
    cluster.psql(ROLE);
    cluster.psql("SET password_encryption = md5; CREATE ROLE old LOGIN REPLICATION PASSWORD 'sesame'");
    std::fs::write(cluster.data_dir().join("root.crt"), &certificate).unwrap();
    let lines = "local all all trust\nhostnossl all,replication old 127.0.0.1/32 md5\nhostnossl all,replication bowline 127.0.0.1/32 password\nhostssl all,replication bowline 127.0.0.1/32 cert\n";
    std::fs::write(cluster.data_dir().join("pg_hba.conf"), lines).unwrap();
    cluster.psql("ALTER SYSTEM SET ssl_ca_file = 'root.crt'");
    cluster.psql("SELECT pg_reload_conf()");
    let shown = format!("sslcert={} sslkey={}", crt.display(), home.path().join("bowline.key").display());
    run(async {
        for (role, rest) in [("old", "sslmode=disable"), ("bowline", "sslmode=disable"), ("bowline", &format!("sslmode=require {shown}"))] {
            let info = info(&format!("{} {rest}", cluster.conninfo_as(role, "sesame")));
            ok(ok(Replication::connect(&info).await).identify_system().await);
            ok(ok(Sql::connect(&info).await).now().await);
        }
        let without = info(&format!("{} sslmode=require", cluster.conninfo_as("bowline", "sesame")));
        for error in [Replication::connect(&without).await.err().unwrap(), Sql::connect(&without).await.unwrap_err()] {
            assert_eq!(error.class(), Class::Refused, "{}", error.advice());
        }
        let broken = info(&format!("{} sslmode=require sslcert=/dev/null sslkey=/dev/null", cluster.conninfo_as("bowline", "sesame")));
        assert_eq!(Sql::connect(&broken).await.unwrap_err().slug(), "pg-conninfo-file");
    });
}

/// How fast WAL and base backups come in; `cargo test -- --ignored speed --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let cluster = Cluster::builder(newest_major()).tcp(true).setting("max_wal_size", "8GB").setting("wal_keep_size", "8GB").start();
    cluster.psql(ROLE);
    cluster.psql("CREATE TABLE t AS SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 1000000) g; CHECKPOINT");
    for info in [over_tcp(&cluster), over_socket(&cluster)] {
        run(async {
            let sql = ok(Sql::connect(&info).await);
            let end = ok(sql.flush_lsn().await);
            let from = Lsn::from_bytes(16 << 20);
            let mut stream = ok(ok(Replication::connect(&info).await).start_physical(None, from, Timeline::FIRST).await);
            let (begun, mut at) = (std::time::Instant::now(), from);
            while at < end {
                if let StreamEvent::Data { start, bytes, .. } = ok(stream.next().await) {
                    at = start.plus(bytes.len() as u64);
                }
            }
            eprintln!("WAL: {:.2} GB/s of {} MB", at.bytes_since(from) as f64 / 1e9 / begun.elapsed().as_secs_f64(), at.bytes_since(from) >> 20);
            let options = BaseBackupOptions { label: "speed".into(), fast: true, max_rate_kib: None, verify_checksums: false, progress: false };
            let mut backup = ok(ok(Replication::connect(&info).await).base_backup(&options).await);
            let begun = std::time::Instant::now();
            while ok(backup.next().await).is_some() {}
            eprintln!(
                "base backup: {:.2} GB/s of {} MB",
                backup.bytes_received() as f64 / 1e9 / begun.elapsed().as_secs_f64(),
                backup.bytes_received() >> 20
            );
        });
    }
}

#[test]
fn tls_trusts_what_sslmode_says_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let (other, ..) = self_signed(home.path(), "other", "/CN=localhost", &[]);
    let (ours, certificate, key) = self_signed(home.path(), "ours", "/CN=localhost", &[]);
    let (named, named_certificate, named_key) = self_signed(home.path(), "named", "/CN=x", &["-addext", "subjectAltName=IP:127.0.0.1,DNS:db1"]);
    for major in majors() {
        let cluster = Cluster::builder(major).tls(&certificate, &key).start();
        cluster.psql(ROLE);
        run(async {
            let ask = async |host: &str, port: u16, rest: &str| {
                let text = format!("host={host} hostaddr=127.0.0.1 port={port} user=bowline password=sesame dbname=postgres {rest}");
                let (sql, wire) = (Sql::connect(&info(&text)).await, Replication::connect(&info(&text)).await);
                match (sql, wire) {
                    (Ok(sql), Ok(mut wire)) => {
                        assert!(ok(wire.show("ssl").await) == "on" && ok(sql.now().await).unix_micros() > 0);
                        Ok(wire.is_encrypted())
                    }
                    (Err(sql), Err(wire)) => {
                        assert_eq!((sql.slug(), sql.class()), (wire.slug(), wire.class()), "{} {}", sql.advice(), wire.advice());
                        Err(wire)
                    }
                    (sql, wire) => panic!("SQL and replication disagree: {:?} {:?}", sql.err(), wire.err()),
                }
            };
            let port = cluster.port();
            let root = |file: &Path| format!("sslrootcert={}", file.display());
            assert!(!ok(ask("localhost", port, "sslmode=disable").await));
            assert!(!ok(ask("localhost", port, "sslmode=allow").await));
            for mode in ["prefer", "require"] {
                assert!(ok(ask("localhost", port, &format!("sslmode={mode}")).await), "{mode}");
            }
            for mode in ["require", "verify-ca", "verify-full"] {
                assert!(ok(ask("localhost", port, &format!("sslmode={mode} {}", root(&ours))).await), "{mode}");
                let error = ask("localhost", port, &format!("sslmode={mode} {}", root(&other))).await.unwrap_err();
                assert_eq!((error.slug(), error.class()), ("pg-tls", Class::Refused), "{mode} {}", error.advice());
            }
            assert!(ok(ask("elsewhere", port, &format!("sslmode=verify-ca {}", root(&ours))).await));
            assert_eq!(ask("elsewhere", port, &format!("sslmode=verify-full {}", root(&ours))).await.unwrap_err().slug(), "pg-tls");
            assert_eq!(ask("localhost", port, "sslmode=verify-full").await.unwrap_err().class(), Class::Misuse);
            assert_eq!(ask("localhost", port, "sslmode=verify-full sslrootcert=/nowhere.crt").await.unwrap_err().slug(), "pg-conninfo-file");
        });
        let hostssl = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\nhostssl replication all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(cluster.data_dir().join("pg_hba.conf"), hostssl).unwrap();
        cluster.psql("SELECT pg_reload_conf()");
        run(async {
            let text = |mode: &str| info(&format!("{} sslmode={mode}", cluster.conninfo_as("bowline", "sesame")));
            assert!(ok(Replication::connect(&text("allow")).await).is_encrypted(), "allow turns to TLS when plain is refused");
            ok(Sql::connect(&text("allow")).await);
            let error = Replication::connect(&text("disable")).await.err().unwrap();
            assert_eq!(error.slug(), "pg-no-hba-entry", "{}", error.advice());
        });
    }
    let cluster = Cluster::builder(newest_major()).tls(&named_certificate, &named_key).start();
    cluster.psql(ROLE);
    run(async {
        let text = |host: &str| {
            info(&format!(
                "host={host} hostaddr=127.0.0.1 port={} user=bowline password=sesame sslmode=verify-full sslrootcert={}",
                cluster.port(),
                named.display()
            ))
        };
        for host in ["127.0.0.1", "db1"] {
            ok(Replication::connect(&text(host)).await);
        }
        assert_eq!(Replication::connect(&text("x")).await.err().unwrap().slug(), "pg-tls", "the common name does not count beside alternative names");
    });
}
