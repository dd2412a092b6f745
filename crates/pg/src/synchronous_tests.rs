//! Tests of the judgement on synchronous commit; live tests ask real servers.

use super::*;

fn facts(names: &str) -> SyncFacts {
    let standby =
        |name: &str, sync: &str| SyncStandby { application_name: name.into(), state: Some("streaming".into()), sync_state: Some(sync.into()) };
    SyncFacts {
        names: names.into(),
        level: Some(CommitLevel::On),
        overrides: Vec::new(),
        standbys: vec![standby("bowline", "sync"), standby("s1", "async")],
    }
}

fn slugs(found: &[Finding]) -> Vec<(&str, Severity)> {
    found.iter().map(|f| (f.slug, f.severity)).collect()
}

#[test]
fn asynchronous_and_not_named_is_fine_and_matched_is_refused_with_the_names_to_write() {
    assert!(facts("").judge("bowline", false).is_empty());
    assert_eq!(slugs(&facts("s1").judge("bowline", false)), [("sync-names", Severity::Ok)]);
    for (names, written) in [("*", "= 's1'"), ("bowline", "= ''"), ("ANY 1 (s2, Bowline)", "= 'ANY 1 (s2)'"), ("s2, *", "= 's2, s1'")] {
        let found = facts(names).judge("bowline", false);
        assert_eq!(slugs(&found), [("synchronous-by-accident", Severity::Critical)], "{names}");
        assert!(found[0].remedy.contains(written), "{names}: {}", found[0].remedy);
    }
}

#[test]
fn synchronous_needs_its_name_its_rank_and_its_receiver() {
    for (names, slug, severity, written) in [
        ("", "sync-not-named", Severity::Critical, "= 'bowline'"),
        ("s1", "sync-not-named", Severity::Critical, "= 'FIRST 2 (bowline, s1)'"),
        ("ANY 1 (s1, s2)", "sync-not-named", Severity::Critical, "= 'bowline'"),
        ("bowline", "sync-required", Severity::Ok, ""),
        ("ANY 1 (bowline, s1)", "sync-replaceable", Severity::Warn, "= 'bowline'"),
        ("s1, bowline", "sync-potential", Severity::Critical, "= 'bowline'"),
    ] {
        let found = facts(names).judge("bowline", true);
        assert_eq!((found[0].slug, found[0].severity), (slug, severity), "{names}");
        assert!(found[0].remedy.contains(written), "{names}: {}", found[0].remedy);
    }
    let mut away = facts("bowline");
    away.standbys.remove(0);
    assert_eq!(slugs(&away.judge("bowline", true))[1], ("sync-absent", Severity::Critical));
    let mut other = facts("bowline");
    other.standbys[0].sync_state = Some("async".into());
    assert_eq!(slugs(&other.judge("bowline", true))[1], ("sync-absent", Severity::Critical));
    other.standbys[0].sync_state = None;
    assert_eq!(slugs(&other.judge("bowline", true))[1], ("sync-unseen", Severity::Unknown));
}

#[test]
fn each_weakening_is_named_with_the_command_that_ends_it() {
    let mut all = facts("bowline");
    assert_eq!(slugs(&all.judge("bowline", true))[1..], [("sync-level", Severity::Ok)]);
    all.level = Some(CommitLevel::Local);
    let one =
        |role: Option<&str>, database: Option<&str>, level| LevelOverride { role: role.map(Into::into), database: database.map(Into::into), level };
    all.overrides = vec![
        one(Some("a\"b"), None, CommitLevel::Off),
        one(None, Some("d"), CommitLevel::RemoteWrite),
        one(Some("r"), Some("d"), CommitLevel::RemoteApply),
        one(None, None, CommitLevel::Local),
        one(Some("good"), None, CommitLevel::On),
    ];
    let found = all.judge("bowline", true);
    let said: Vec<_> = found[1..].iter().map(|f| (f.slug, f.what.as_str(), f.remedy.as_str())).collect();
    assert_eq!(
        said,
        [
            ("sync-level-local", "synchronous_commit = local for the server", "ALTER SYSTEM SET synchronous_commit = 'on'; SELECT pg_reload_conf();"),
            ("sync-level-local", "synchronous_commit = off for role a\"b", "ALTER ROLE \"a\"\"b\" RESET synchronous_commit;"),
            ("sync-level-write", "synchronous_commit = remote_write for database d", "ALTER DATABASE \"d\" RESET synchronous_commit;"),
            (
                "sync-level-apply",
                "synchronous_commit = remote_apply for role r in database d",
                "ALTER ROLE \"r\" IN DATABASE \"d\" RESET synchronous_commit;"
            ),
            ("sync-level-local", "synchronous_commit = local for all roles (ALTER ROLE ALL)", "ALTER ROLE ALL RESET synchronous_commit;"),
        ]
    );
    all.level = None;
    assert!(slugs(&all.judge("bowline", true)).contains(&("sync-level-unseen", Severity::Unknown)));
}
