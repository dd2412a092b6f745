//! What each proof is proved with: one line of the product made wrong, and the tests that must then fail.

/// A line made wrong.
pub struct Twin {
    pub name: &'static str,
    pub file: &'static str,
    /// Found exactly once in the file.
    pub right: &'static str,
    pub wrong: &'static str,
    /// A test binary of `testkit`, and the test in it.
    pub test: (&'static str, &'static str),
}

const fn twin(name: &'static str, file: &'static str, right: &'static str, wrong: &'static str, test: (&'static str, &'static str)) -> Twin {
    Twin { name, file, right, wrong, test }
}

pub const TWINS: &[Twin] = &[
    twin(
        "the commit at the asked instant is left out, or the next one let in",
        "crates/restore/src/replay.rs",
        r#"matches!(plan.stop, Stop::Before(_)) { "off" } else { "on" }"#,
        r#"matches!(plan.stop, Stop::Before(_)) { "on" } else { "off" }"#,
        ("e2e_bank", ""),
    ),
    twin(
        "a log that breaks off is taken for its end",
        "crates/restore/src/replay.rs",
        "recovery_settings(plan, plan.last_record)",
        "recovery_settings(plan, None)",
        ("e2e_on_damage", "a_segment_whose_content_is_damaged"),
    ),
    twin(
        "a file that could not be had is answered as absent",
        "crates/restore/src/supply.rs",
        r#"            format!("failed {why}\n")"#,
        r#"            drop(why); "absent\n".to_owned()"#,
        ("e2e_region", "what_a_replica_lacks_is_told"),
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
    twin(
        "fewer rows than production has are no fault",
        "crates/drill/src/counts.rs",
        "            if is_short {",
        "            if is_short && false {",
        ("e2e_drill_counts", "fewer_rows_than_production_has"),
    ),
    twin(
        "fewer rows than at the last drill are no fault",
        "crates/drill/src/counts.rs",
        "if before.rows != table.rows {",
        "if before.rows != table.rows && false {",
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
        "a side restore archives",
        "crates/pg/src/private_server.rs",
        r#"    ("archive_mode", "off"),"#,
        r#"    ("archive_mode", "always"),"#,
        ("e2e_isolation", "a_side_restore_is_deaf"),
    ),
    twin(
        "a store that ignores the wish for encryption is written to",
        "crates/store/src/s3/at_rest.rs",
        "        verdict.clone().map_err(|why| self.not_encrypted(why))",
        "        verdict.clone().or(Ok(()))",
        ("e2e_stores", "where_encryption_by_the_store_is_required"),
    ),
    twin(
        "silence about encryption is taken for a yes",
        "crates/store/src/s3/at_rest.rs",
        r#"(None, _) => Err(format!("the store ignores the request to encrypt with the KMS key {key}")),"#,
        "(None, _) => Ok(()),",
        ("e2e_stores", "a_backup_in_versitygw_restores"),
    ),
    twin(
        "the lifecycle rules of others are thrown away",
        "crates/store/src/bucket/steps.rs",
        "steps.push(Step::Lifecycle { noncurrent_days: self.noncurrent_days, kept });",
        "drop(kept); steps.push(Step::Lifecycle { noncurrent_days: self.noncurrent_days, kept: Vec::new() });",
        ("e2e_bucket", "rules_of_others_survive"),
    ),
    twin(
        "a bucket is changed without a word of consent",
        "crates/cli/src/verbs/bucket.rs",
        r#"confirm("the setting up of the bucket", asked.yes, printer)?;"#,
        r#"confirm("the setting up of the bucket", true, printer)?;"#,
        ("e2e_bucket", "the_mock_of_aws_gets_a_bucket"),
    ),
    twin(
        "a writer may remove",
        "crates/repo/src/policy.rs",
        "        Duty::Expirer => statements.push(",
        "        Duty::Expirer | Duty::Writer => statements.push(",
        ("e2e_bucket", "policies_name_this_bucket"),
    ),
    twin(
        "the Content-MD5 that an old gateway demands is not sent",
        "crates/store/src/s3/tap.rs",
        "if is_put && self.sends_md5 {",
        "if is_put && self.sends_md5 && false {",
        ("e2e_stores", "backups_in_the_stand_ins"),
    ),
];
