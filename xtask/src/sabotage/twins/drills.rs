//! Twins of drills and their checks.

use super::{Twin, twin};

pub const TWINS: &[Twin] = &[
    twin(
        "fewer rows than production has are no fault",
        "crates/drill/src/counts.rs",
        "            if is_short {",
        "            if is_short && false {",
        ("e2e_drill_counts", "fewer_rows_than_production_has"),
    ),
    twin(
        "a file that is shorter and older than at the last drill is no fault",
        "crates/drill/src/counts.rs",
        "if is_cut_without_vacuum(before, now, table) {",
        "if is_cut_without_vacuum(before, now, table) && false {",
        ("e2e_drill_counts", "rows_that_vanished"),
    ),
    twin(
        "a page with a wrong checksum is not told",
        "crates/drill/src/bad_pages.rs",
        "    for bad in &found.bad {",
        "    for bad in found.bad.iter().take(0) {",
        ("e2e_drill_damage", "a_bad_page_of_an_index"),
    ),
    twin(
        "an expectation holds whatever the answer is",
        "crates/checks/src/expectation.rs",
        "Operator::AtLeast => order.is_some_and(|order| order.is_ge()),",
        "Operator::AtLeast => order.is_some(),",
        ("e2e_verify", "rows_that_are_missing_and_questions"),
    ),
    twin(
        "questions are asked as the superuser",
        "crates/checks/src/questions.rs",
        "let asker = make_asker(info).await;",
        "let asker = make_asker(info).await.map(|_| info.clone());",
        ("e2e_verify", "rows_that_are_missing_and_questions"),
    ),
    twin(
        "who asked a restored cluster stays in it",
        "crates/rescue/src/server.rs",
        "    drop_askers(&info).await?;",
        "    let _ = drop_askers;",
        ("e2e_rescue", "one_command_stops"),
    ),
    twin(
        "a side restore archives",
        "crates/pg/src/private_server.rs",
        r#"    ("archive_mode", "off"),"#,
        r#"    ("archive_mode", "always"),"#,
        ("e2e_isolation", "a_side_restore_is_deaf"),
    ),
    twin(
        "a restore beside production may write outside its place",
        "crates/restore/src/tablespaces.rs",
        "        if self.is_side {\n            return Err(RestoreError::TablespaceCreated",
        "        if false {\n            return Err(RestoreError::TablespaceCreated",
        ("e2e_isolation", "a_tablespace_that_was_created_behind_the_backup"),
    ),
    twin(
        "the weekly drill is held on Mondays",
        "crates/cli/src/config.rs",
        r#"("drill.schedule", self.drill.schedule.as_deref(), "0 4 * * 0"),"#,
        r#"("drill.schedule", self.drill.schedule.as_deref(), "0 4 * * 1"),"#,
        ("e2e_ninety_days", "ninety_days_of_nights"),
    ),
    twin(
        "only the first table of a database is counted",
        "crates/checks/src/lib.rs",
        "for table in &provable.tables {",
        "for table in provable.tables.iter().take(1) {",
        ("e2e_verify", "what_is_sound_passes"),
    ),
    twin(
        "a server that was asked nothing has passed",
        "crates/checks/src/lib.rs",
        "Outcome::Passed if self.databases.is_empty() => Outcome::NotVerified,",
        "Outcome::Passed if self.databases.is_empty() => Outcome::Passed,",
        ("checks", "what_could_not_be_checked"),
    ),
];
