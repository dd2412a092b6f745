//! Twins of disasters: what somebody did, or what is gone, and its undoing.

use super::{Twin, twin};

pub const TWINS: &[Twin] = &[
    twin(
        "the asked time is not told to the server",
        "crates/restore/src/replay.rs",
        r#"Stop::Time(at) => ("recovery_target_time", at.to_string().replace(" UTC", "+00")),"#,
        r#"Stop::Time(_) => ("", String::new()),"#,
        ("e2e_tamper", "a_dropped_table"),
    ),
    twin(
        "the asked time is read in another zone",
        "crates/restore/src/replay.rs",
        r#".replace(" UTC", "+00")"#,
        r#".replace(" UTC", "-02")"#,
        ("e2e_tamper", "a_truncated_table"),
    ),
    twin(
        "where nothing acts at once a time is the end of the log",
        "crates/restore/src/plan.rs",
        "quiet_end.map_or(Stop::Time(*at), Stop::Before)",
        "quiet_end.map_or(to_the_end, Stop::Before)",
        ("e2e_tamper", "rows_updated_without_a_where"),
    ),
    twin(
        "the newest state is that of the backup",
        "crates/restore/src/plan.rs",
        "            RecoveryTarget::Latest => to_the_end,",
        "            RecoveryTarget::Latest => Stop::Consistent,",
        ("e2e_tamper", "a_deleted_data_directory"),
    ),
    twin(
        "a damaged page is named by another block",
        "crates/capture/src/pages.rs",
        "Suspect { file: name.to_owned(), block, lsn }",
        "Suspect { file: name.to_owned(), block: block / 2, lsn }",
        ("e2e_tamper", "a_flipped_byte_in_a_table"),
    ),
    twin(
        "what is stored of a segment that is not full does not count",
        "crates/repo/src/reach.rs",
        "        if reach > end {",
        "        if reach >= segment.end(size) {",
        ("e2e_tamper", "a_lost_pg_wal"),
    ),
    twin(
        "the last segment is absent to the server that recovers",
        "crates/restore/src/supply.rs",
        "order: plan.segments.iter().enumerate().map(",
        "order: plan.segments.iter().take(plan.segments.len().saturating_sub(1)).enumerate().map(",
        ("e2e_tamper", "a_host_that_is_gone"),
    ),
    twin(
        "a time is no target of recovery",
        "crates/restore/src/replay.rs",
        "    if !chosen.is_empty() {",
        r#"    if !chosen.is_empty() && chosen != "recovery_target_time" {"#,
        ("./drill", "DROP TABLE organizations CASCADE"),
    ),
    twin(
        "a restore to a time ends where the backup does",
        "crates/restore/src/plan.rs",
        "quiet_end.map_or(Stop::Time(*at), Stop::Before)",
        "quiet_end.map_or(Stop::Consistent, Stop::Before)",
        ("./drill", "compare every table and the ledger"),
    ),
];
