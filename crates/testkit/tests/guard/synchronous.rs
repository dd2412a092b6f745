//! Synchronous names and levels as real servers understand them.

use crate::{as_superuser, find, has, info, ok, run};
use pg::{CommitLevel, Rank, Replication, Severity, Sql, StreamEvent, SyncNames};
use std::time::Duration;
use testkit::bowline::wait;
use testkit::{Cluster, newest_major, outer_majors};

const NAMES: &[&str] = &[
    "",
    " ",
    "a",
    "*",
    "a, b",
    "a,b,",
    ",a",
    "a b",
    "2 (a, b)",
    "2(a)",
    "0 (a)",
    "FIRST 1 (a)",
    "first 2 (a, b, c)",
    "FIRST (a)",
    "FIRST a",
    "FIRST 0 (a)",
    "ANY 1 (a)",
    "any 2 (*)",
    "ANY (a)",
    "ANY 1 a",
    "ANY 1 ()",
    "ANY 1 (a",
    "1 (a))",
    "(a)",
    "\"ANY\"",
    "\"a b\"",
    "\"a\"\"b\", c",
    "\"a",
    "any",
    "first, b",
    "1",
    "1, 2",
    "1 (2, 3)",
    "a-b",
    "a$1",
    "$a",
    "_x",
    "1a",
    "99999999999 (a)",
    "2147483647 (a)",
    "2147483648 (a)",
    "99999999999999999999 (a)",
    "a;b",
    "\u{fc}n",
    "\u{b}a",
    "FIRST 2 (\"*\", x)",
];

#[test]
fn the_grammar_is_the_servers() {
    for major in outer_majors() {
        let cluster = Cluster::start(major);
        let mut accepted = 0;
        for names in NAMES {
            // Written into postgresql.auto.conf and never loaded: no commit waits.
            let answer = cluster.try_psql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"));
            assert_eq!(SyncNames::parse(names).is_ok(), answer.is_ok(), "PostgreSQL {major}: {names:?}: {answer:?}");
            accepted += u32::from(answer.is_ok());
        }
        assert!(accepted > 10 && accepted < NAMES.len() as u32);
    }
}

/// A standby under this name that reports everything as flushed, and never anything as applied, for as long as `until` runs.
async fn follow<T>(cluster: &Cluster, name: &str, until: impl Future<Output = T>) -> T {
    let mut wire = ok(Replication::connect(&as_superuser(cluster).with_application_name(name)).await);
    let identity = ok(wire.identify_system().await);
    let mut stream = ok(wire.start_physical(None, identity.flushed, identity.timeline).await);
    let mut at = identity.flushed;
    ok(stream.send_status(at, at, None, false).await);
    let streaming = async {
        loop {
            match ok(stream.next().await) {
                StreamEvent::Data { start, bytes, .. } => at = at.max(start.plus(bytes.len() as u64)),
                StreamEvent::Keepalive { .. } => {}
                StreamEvent::TimelineEnded { .. } => panic!("nobody promoted anything"),
            }
            ok(stream.send_status(at, at, None, false).await);
        }
    };
    tokio::select! { () = streaming => unreachable!("it streams for ever"), value = until => value }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

#[test]
fn the_rank_is_the_servers_and_an_apply_that_never_comes_holds_a_commit() {
    for major in outer_majors() {
        let cluster = std::sync::Arc::new(Cluster::start(major));
        cluster.psql("CREATE TABLE t (a int)");
        run(async {
            let sql = ok(Sql::connect(&as_superuser(&cluster)).await);
            follow(&cluster, "bowline", async {
                for (names, alone) in [
                    ("", "async"),
                    ("bowline", "sync"),
                    ("BOWLINE", "sync"),
                    ("\"bowline\", x", "sync"),
                    ("*", "sync"),
                    ("\"*\"", "sync"),
                    ("ANY 1 (x, bowline)", "quorum"),
                    ("ANY 1 (*)", "quorum"),
                    ("bowline2", "async"),
                    ("x", "async"),
                ] {
                    let read = SyncNames::parse(names).unwrap();
                    assert_eq!(read.rank("bowline").is_some(), alone != "async", "{names:?}");
                    let (shared, text) = (std::sync::Arc::clone(&cluster), names.to_owned());
                    blocking(move || shared.psql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{text}'; SELECT pg_reload_conf()"))).await;
                    let mut seen = String::new();
                    for _ in 0..200 {
                        let facts = ok(sql.sync_facts().await);
                        assert!(facts.standbys.len() == 1 && facts.standbys[0].application_name == "bowline");
                        seen = facts.standbys[0].sync_state.clone().unwrap();
                        if facts.names == names && seen == alone {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    assert_eq!(seen, alone, "PostgreSQL {major}: {names:?}");
                    if names == "bowline" {
                        assert_eq!(read.rank("bowline"), Some(Rank::Required));
                        assert!(ok(sql.sync_facts().await).judge("bowline", true).iter().all(|f| f.severity == Severity::Ok));
                        an_apply_waits(&cluster).await;
                    }
                }
            })
            .await;
        });
    }
}

/// Under `on` a commit returns; under `remote_apply` it waits until it is cancelled.
async fn an_apply_waits(cluster: &std::sync::Arc<Cluster>) {
    let psql = |text: &'static str| {
        let cluster = std::sync::Arc::clone(cluster);
        blocking(move || cluster.psql(text))
    };
    psql("SET synchronous_commit = on; INSERT INTO t VALUES (1)").await;
    let waiting = tokio::spawn(psql("SET application_name = 'applied'; SET synchronous_commit = remote_apply; INSERT INTO t VALUES (2)"));
    let is_waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'applied' AND wait_event = 'SyncRep'";
    for _ in 0..200 {
        if psql(is_waiting).await == "1" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..3 {
        psql("SET synchronous_commit = on; INSERT INTO t VALUES (1)").await;
        assert_eq!(psql(is_waiting).await, "1", "later commits return, and this one still waits");
        assert!(!waiting.is_finished());
    }
    psql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'applied'").await;
    waiting.await.expect("psql ends");
}

#[test]
fn every_weakened_level_is_seen_and_its_remedy_ends_it() {
    for major in outer_majors() {
        let cluster = Cluster::builder(major).setting("synchronous_commit", "local").start();
        cluster.psql(
            "CREATE ROLE bowline LOGIN REPLICATION; GRANT pg_monitor TO bowline; CREATE ROLE \"a\"\"b\"; CREATE ROLE r; CREATE DATABASE \"my db\"; \
             ALTER ROLE \"a\"\"b\" SET synchronous_commit = off; ALTER DATABASE \"my db\" SET synchronous_commit = 'remote_write'; \
             ALTER ROLE r IN DATABASE \"my db\" SET synchronous_commit = 'remote_apply'; ALTER ROLE r SET synchronous_commit = TRUE; \
             ALTER ROLE r SET work_mem = '8MB'",
        );
        let look = |conninfo: String| {
            run(async {
                let mut facts = ok(ok(Sql::connect(&info(&conninfo)).await).sync_facts().await);
                // As if the server waited, which would hold this test's own commits.
                facts.names = "bowline".into();
                facts
            })
        };
        let as_bowline = || look(format!("host={} port={} user=bowline dbname=postgres", cluster.socket_dir().display(), cluster.port()));
        let facts = as_bowline();
        assert_eq!((facts.level, facts.overrides.len()), (Some(CommitLevel::Local), 4), "{facts:?}");
        let found = facts.judge("bowline", true);
        let levels: Vec<_> = found.iter().filter(|f| f.slug.starts_with("sync-level-")).collect();
        assert_eq!(levels.iter().map(|f| f.slug).collect::<Vec<_>>().len(), 4, "{found:#?}");
        for (slug, severity, whose) in [
            ("sync-level-local", Severity::Critical, "local for the server"),
            ("sync-level-apply", Severity::Critical, "remote_apply for role r in database my db"),
            ("sync-level-write", Severity::Warn, "remote_write for database my db"),
        ] {
            assert!(find(&found, slug, severity).what.contains(whose), "{found:#?}");
        }
        assert!(levels.iter().any(|f| f.what.contains("off for role a\"b")), "{levels:#?}");
        levels.iter().for_each(|finding| drop(cluster.psql(&finding.remedy)));
        wait("the server to reload", Duration::from_secs(10), || has(&as_bowline().judge("bowline", true), "sync-level"));

        // Its own role's level hides the server's from a role that may not read the files, and from no superuser.
        cluster.psql("ALTER ROLE ALL SET synchronous_commit = off");
        let found = as_bowline().judge("bowline", true);
        find(&found, "sync-level-unseen", Severity::Unknown);
        assert!(find(&found, "sync-level-local", Severity::Critical).what.contains("all roles"), "{found:#?}");
        let facts = look(cluster.conninfo());
        assert_eq!(facts.level, Some(CommitLevel::On), "{facts:?}");
        cluster.psql(&find(&facts.judge("bowline", true), "sync-level-local", Severity::Critical).remedy);
        assert!(has(&as_bowline().judge("bowline", true), "sync-level"));
    }
}

#[test]
fn the_names_to_write_are_those_of_the_standbys_that_are_there() {
    let cluster = Cluster::start(newest_major());
    let standby = cluster.standby();
    // It answers before it streams.
    wait("the standby to stream", Duration::from_secs(30), || {
        cluster.psql("SELECT count(*) FROM pg_stat_replication WHERE application_name = 'walreceiver' AND state = 'streaming'") == "1"
    });
    run(async {
        let sql = ok(Sql::connect(&as_superuser(&cluster)).await);
        follow(&cluster, "bowline", async {
            let mut facts = ok(sql.sync_facts().await);
            facts.names = "*".into();
            let found = facts.judge("bowline", false);
            let refused = find(&found, "synchronous-by-accident", Severity::Critical);
            assert!(refused.remedy.contains("synchronous_standby_names = 'walreceiver'"), "{refused:?}");
        })
        .await;
    });
    drop(standby);
}
