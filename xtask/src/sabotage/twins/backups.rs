//! Twins of backups, how they are stored and named, what retention lets go and scrubbing looks at.

use super::{Twin, twin};

pub const TWINS: &[Twin] = &[
    twin(
        "what was unlisted goes at once",
        "crates/upkeep/src/expire.rs",
        "self.now.seconds_since(written) >= self.length.as_secs_f64()",
        "self.now.seconds_since(written) >= -1e9",
        ("e2e_expire", "what_expires_goes_after_its_grace"),
    ),
    twin(
        "an older backup's own log is let go",
        "crates/repo/src/retention.rs",
        "        kept.push(WalKept {",
        "        if true {\n            continue;\n        }\n        kept.push(WalKept {",
        ("e2e_expire", "what_expires_goes_after_its_grace"),
    ),
    twin(
        "what retention let go is called a gap",
        "crates/repo/src/audit.rs",
        "self.evidence.stored.contains_key(segment) || !self.evidence.is_let_go(*segment)",
        "self.evidence.stored.contains_key(segment) || !self.evidence.is_let_go(*segment) || true",
        ("e2e_expire", "what_expires_goes_after_its_grace"),
    ),
    twin(
        "an object that is gone is not missed by scrubbing",
        "crates/upkeep/src/scrub.rs",
        "for path in gone {",
        "for path in gone.into_iter().take(0) {",
        ("e2e_scrub", "one_flipped_bit"),
    ),
    twin(
        "damage that a scrub found does not stand",
        "crates/upkeep/src/scrub.rs",
        "self.state.damage.push(damage);",
        "let _ = damage;",
        ("e2e_scrub", "a_run_goes_on"),
    ),
    twin(
        "each run of scrubbing begins anew",
        "crates/upkeep/src/scrub/reading.rs",
        "Packs::After(done)",
        "Packs::After(done * 0)",
        ("e2e_scrub", "a_run_goes_on"),
    ),
    twin(
        "the nightly backup is made an hour late",
        "crates/cli/src/config.rs",
        r#"("backup.schedule", self.backup.schedule.as_deref(), "0 2 * * *"),"#,
        r#"("backup.schedule", self.backup.schedule.as_deref(), "0 3 * * *"),"#,
        ("e2e_ninety_days", "ninety_days_of_nights"),
    ),
    twin(
        "a time that came makes a job run again and again",
        "crates/daemon/src/due.rs",
        "(came > done).then_some(Why::Scheduled(came))",
        "(came != done).then_some(Why::Scheduled(came))",
        ("daemon", "a_time_that_came_is_caught_up_once"),
    ),
    twin(
        "what lies in a tablespace is left out of a backup",
        "crates/capture/src/local.rs",
        "location: manifest_name(&target) })?;\n        self.directory_contents(path)",
        "location: manifest_name(&target) })?;\n        let _ = path;\n        Ok(())",
        ("e2e_backup", "a_backup_in_a_bucket_restores"),
    ),
    twin(
        "what LZ4 compressed is marked as Zstandard's",
        "crates/seal/src/codec.rs",
        "Self::Lz4 => (CODEC_LZ4, lz4_flex",
        "Self::Lz4 => (CODEC_ZSTD, lz4_flex",
        ("laws", "what_was_sealed_opens"),
    ),
    twin(
        "whoever has a key opens what was wrapped for another",
        "crates/repo/src/keyring.rs",
        "slots.iter().filter(|slot| recipient.owns(&slot.recipient))",
        "slots.iter().filter(|slot| recipient.owns(&slot.recipient) || true)",
        ("laws", "only_those_for_whom"),
    ),
    twin(
        "a connection string that is wrong is told with its password",
        "crates/pg/src/conninfo.rs",
        "return Err(PgError::UnknownKey { key });",
        r#"return Err(PgError::UnknownKey { key: format!("{key} of {text}") });"#,
        ("secrets", "planted_secrets"),
    ),
    twin(
        "a backup's id keeps parts of a second",
        "crates/terms/src/names.rs",
        "Self(Timestamp::from_unix_micros(at.unix_micros().div_euclid(1_000_000) * 1_000_000))",
        "Self(at)",
        ("terms", "a_backup_id_is_the_second"),
    ),
    twin(
        "a backup does not say what it took",
        "crates/cli/src/verbs/backup.rs",
        "printer.result(json!(made));",
        r#"printer.result(json!({ "id": made.id }));"#,
        ("./drill", "bowline backup"),
    ),
];
