//! What a connection string means.

use super::*;
use std::os::unix::fs::PermissionsExt;
use terms::{Class, Explain};

fn read(text: &str) -> ConnInfo {
    ConnInfo::parse(text, &|_| None).unwrap()
}

fn refusal(text: &str) -> PgError {
    ConnInfo::parse(text, &|_| None).unwrap_err()
}

#[test]
fn hosts_pair_with_their_ports_and_one_port_serves_all() {
    assert_eq!(read("user=u host=a,b port=1,2 dbname=d").describe(), "u@a:1,b:2/d");
    assert_eq!(read("user=u host=a,b port=7").describe(), "u@a:7,b:7/u");
    assert_eq!(read("postgresql://u@a,b:6000,[::1]/d").describe(), "u@a:5432,b:6000,[::1]:5432/d");
    assert_eq!(read("user=u host=/tmp port=5433").describe(), "u@/tmp/.s.PGSQL.5433/u");
    assert!(matches!(read("user=u host=db hostaddr=10.0.0.1").addresses(), [Address::Tcp { name, ip: Some(_), .. }] if name == "db"));
    for bad in ["host=a,b port=1,2,3", "host=a port=0", "host=a port=x", "host=a hostaddr=b", "host=a,b hostaddr=10.0.0.1"] {
        assert_eq!(refusal(bad).class(), Class::Misuse, "{bad}");
    }
}

#[test]
fn beyond_a_server_are_those_that_are_tried_after_it() {
    let info = read("user=u host=a,b,c");
    let beyond = |described: &str| info.clone().beyond(described).map(|left| left.describe());
    assert_eq!(beyond("a:5432").as_deref(), Some("u@b:5432,c:5432/u"));
    assert_eq!(beyond("b:5432").as_deref(), Some("u@c:5432/u"));
    assert_eq!((beyond("c:5432"), beyond("d:5432")), (None, None));
}

#[test]
fn the_environment_fills_in_what_the_string_leaves_open() {
    let env = |name: &str| match name {
        "PGHOST" => Some("from-env".to_owned()),
        "PGPORT" => Some("6000".to_owned()),
        "PGUSER" => Some("eve".to_owned()),
        "PGSSLMODE" => Some("require".to_owned()),
        "PGPASSWORD" => Some("hunter2".to_owned()),
        _ => None,
    };
    let info = ConnInfo::parse("host=db1 user=bob", &env).unwrap();
    assert_eq!(info.describe(), "bob@db1:6000/bob");
    assert_eq!(info.tls().mode, SslMode::Require);
    assert_eq!(info.password_for(&info.addresses[0], "bob").0.unwrap().reveal(), "hunter2");
    assert!(!format!("{info:?} {:?}", info.config(&info.addresses[0])).contains("hunter2"));
    assert!(ConnInfo::parse("", &|name| (name == "PGSERVICE").then(|| "x".into())).is_err());
}

#[test]
fn a_key_or_word_that_is_not_known_is_named() {
    assert!(matches!(refusal("host=a hots=b"), PgError::UnknownKey { key } if key == "hots"));
    assert!(refusal("sslmode=verify").detail().contains("verify-full"));
    assert!(refusal("target_session_attrs=leader").detail().contains("leader"));
    assert!(refusal("connect_timeout=soon").detail().contains("soon"));
    assert!(refusal("sslrootcert=system sslmode=require").detail().contains("verify-full"));
}

#[test]
fn defaults_are_libpqs_except_that_nothing_waits_for_ever() {
    let info = read("user=u");
    assert_eq!((info.dbname(), info.tls().mode, info.application_name()), ("u", SslMode::Prefer, "bowline"));
    assert_eq!(info.connect_timeout, Duration::from_secs(30));
    assert!(matches!(info.addresses(), [Address::Unix { .. }]));
    assert!(info.keepalive.is_some());
    assert_eq!(read("user=u keepalives=0").keepalive, None);
    assert_eq!(read("user=u sslrootcert=system").tls().mode, SslMode::VerifyFull);
    assert!(!read("").user().is_empty(), "the operating system's user");
}

#[test]
fn the_password_file_answers_for_replication_and_for_the_database() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pgpass");
    std::fs::write(&file, "db1:5432:replication:u:first\ndb1:5432:app:u:second\nlocalhost:*:*:u:third\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let at_home = home.path().display().to_string();
    let env = |name: &str| (name == "HOME").then(|| at_home.clone());
    let ask = |text: &str, database: &str| {
        let info = ConnInfo::parse(text, &env).unwrap();
        info.password_for(&info.addresses[0], database).0.map(|secret| secret.reveal().to_owned())
    };
    assert_eq!(ask("user=u host=db1 dbname=app", "replication").as_deref(), Some("first"));
    assert_eq!(ask("user=u host=db1 dbname=app", "app").as_deref(), Some("second"));
    assert_eq!(ask("user=u host=/var/run dbname=app", "app").as_deref(), Some("third"));
    assert_eq!(ask("user=v host=db1 dbname=app", "app"), None);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let info = ConnInfo::parse("user=u host=db1", &env).unwrap();
    let (password, note) = info.password_for(&info.addresses[0], "u");
    assert!(password.is_none() && note.unwrap().contains("0600"));
}

#[test]
fn each_kind_of_session_accepts_the_right_servers() {
    use TargetSession as T;
    let (primary, standby, read_only_primary) = ((false, false), (true, false), (false, true));
    for (kind, wants) in [
        (T::Any, [true, true, true]),
        (T::Primary, [true, false, true]),
        (T::Standby, [false, true, false]),
        (T::ReadWrite, [true, false, false]),
        (T::ReadOnly, [false, true, true]),
    ] {
        let found = [primary, standby, read_only_primary].map(|(standby, read_only)| kind.accepts(standby, read_only));
        assert_eq!(found, wants, "{kind:?}");
        assert_eq!(T::parse(kind.name()).unwrap(), kind);
    }
}
