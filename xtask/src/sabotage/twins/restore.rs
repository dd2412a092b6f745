//! Twins of restores, in place and elsewhere, of what is sound and what is not.

use super::{Twin, twin};

pub const TWINS: &[Twin] = &[
    twin(
        "a log that breaks off is taken for its end",
        "crates/restore/src/replay.rs",
        "recovery_settings(plan, plan.last_record)",
        "recovery_settings(plan, None)",
        ("e2e_on_damage", "a_segment_whose_content_is_damaged"),
    ),
    twin(
        "a file that could not be had is absent to the server",
        "crates/cli/src/verbs/fetch.rs",
        "pub const FAILED: u8 = 200;",
        "pub const FAILED: u8 = 1;",
        ("e2e_recovery_codes", "a_recovering_server_ends_at_every_failure"),
    ),
    twin(
        "a hole in the log is not seen",
        "crates/restore/src/plan.rs",
        "stretch.hole = known.missing(next).or(stretch.hole);",
        "stretch.hole = None; let _ = (known, next);",
        ("e2e_on_damage", "damaged_missing_and_foreign_wal"),
    ),
    twin(
        "what acts at once is not stopped before",
        "crates/restore/src/plan.rs",
        "self.log.stop_before_what_acts_at_once(&way, *at).await?;",
        "self.log.stop_before_what_acts_at_once(&way, *at).await?.filter(|_| false);",
        ("e2e_tamper", "a_dropped_database_comes_back"),
    ),
    twin(
        "a chunk that differs is taken for right",
        "crates/restore/src/delta.rs",
        "Ok(digester.digest(there) == item.chunk.3)",
        "Ok(digester.digest(there) == item.chunk.3 || true)",
        ("e2e_delta", "a_delta_restore_ends_as_a_full_one"),
    ),
    twin(
        "what the plan does not name is left lying",
        "crates/restore/src/delta.rs",
        "                fs::remove_file(&path).map_err(RestoreError::file(\"remove\", &path))?;\n            }\n        }\n        Ok(())",
        "                let _ = &path;\n            }\n        }\n        Ok(())",
        ("e2e_delta", "a_delta_restore_ends_as_a_full_one"),
    ),
    twin(
        "latest is what it was before the server stopped",
        "crates/rescue/src/run.rs",
        "self.plan = Some(self.lent.plan().await.map_err(RescueError::Lent)?);",
        "let _ = self.lent.plan().await.map_err(RescueError::Lent)?;",
        ("e2e_rescue", "what_only_the_old_pg_wal_holds"),
    ),
    twin(
        "the new data directory is not marked as the restore's own",
        "crates/rescue/src/journal.rs",
        "        let path = data_dir.join(UNFINISHED);\n        let write = || {",
        "        let path = data_dir.join(UNFINISHED);\n        if true { return Ok(()); }\n        let write = || {",
        ("e2e_rescue", "a_restore_that_is_killed_at_any_step"),
    ),
    twin(
        "the journal forgets how far it was",
        "crates/rescue/src/journal.rs",
        "            fs::rename(&new, &self.path)?;\n            File::open(folder)",
        "            if !self.path.exists() { fs::rename(&new, &self.path)?; }\n            File::open(folder)",
        ("e2e_rescue", "a_restore_that_is_killed_at_any_step"),
    ),
    twin(
        "the old pg_wal is not saved",
        "crates/rescue/src/run.rs",
        "if is_latest && self.target.is_occupied() && self.options.salvages {",
        "if is_latest && self.target.is_occupied() && self.options.salvages && false {",
        ("e2e_rescue", "what_only_the_old_pg_wal_holds"),
    ),
];
