//! Twins of object stores, their buckets and who may do what in them.

use super::{Twin, twin};

pub const TWINS: &[Twin] = &[
    twin(
        "what was put over an object is believed",
        "crates/store/src/past.rs",
        "Self::Oldest { .. } => versions.iter().rfind(|version| !version.is_removal)?,",
        "Self::Oldest { .. } => newest,",
        ("e2e_stolen_key", "a_stolen_credential"),
    ),
    twin(
        "no object is locked",
        "crates/store/src/s3/locking.rs",
        "(is_put || is_begin) && path",
        "(is_put || is_begin) && self.root.is_empty() && path",
        ("e2e_stolen_key", "a_stolen_credential"),
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
    twin(
        "the store is not told with which key to encrypt",
        "crates/store/src/s3/connect.rs",
        "builder = builder.with_sse_kms_encryption(key).with_bucket_key(true);",
        "let _ = key;",
        ("e2e_stores", "a_backup_in_the_mock_of_aws"),
    ),
    twin(
        "how the store encrypted with an earlier key is what counts",
        "crates/store/src/s3/at_rest.rs",
        "Ok(found) => PutMode::Update(object_store::UpdateVersion { e_tag: found.meta.e_tag, version: None }),",
        "Ok(found) => return Ok(self.wanted.judge(&of(&found.extensions))),",
        ("doors", "makes::a_store_that_encrypts_as_asked"),
    ),
    twin(
        "what a store does not know counts as done",
        "crates/store/src/bucket/steps.rs",
        "Outcome::Unsupported(trouble.why().to_owned()),",
        "Outcome::Done,",
        ("e2e_bucket", "a_store_without_some_settings"),
    ),
    twin(
        "a key that the store names by its ARN is taken for another",
        "crates/store/src/s3/at_rest.rs",
        r#"wanted.contains("alias/") || wanted == used || last(wanted) == last(used)"#,
        r#"wanted.contains("alias/") || wanted == used || (last(wanted) == last(used) && false)"#,
        ("e2e_stores", "a_backup_in_minio"),
    ),
];
