//! The least that a credential needs, as IAM policies for AWS: what may write cannot remove, what restores cannot write.

use serde_json::{Value, json};

/// Whose credential it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Backs up and stores WAL: adds, and overwrites nothing that is kept.
    Writer,
    /// Restores and holds drills: reads.
    Restorer,
    /// Removes what has expired: the only one that can.
    Expirer,
}

/// Where the repository lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Premises {
    /// Its bare name, no ARN.
    pub bucket: String,
    /// The repository's root in it, without slashes at its ends: prefix and organization.
    pub root: String,
    /// The KMS keys in play, as ARNs: that of the store's own encryption and those that wrap data keys.
    pub kms_keys: Vec<String>,
}

/// What is replaced as time goes on, under a condition of its own; all else is written once.
const MUTABLE: [&str; 12] = [
    "repository.json",
    "retention.json",
    "capacity.json",
    "coverage.json",
    "wal/*/coverage.json",
    "keys/*",
    "leases/*",
    "holds/*",
    "expired/*",
    "scrub/*",
    "alerts/*",
    "probe/*",
];

/// The policy of this duty.
pub fn policy(duty: Duty, premises: &Premises) -> Value {
    let bucket = format!("arn:aws:s3:::{}", premises.bucket);
    let object = |path: &str| match premises.root.as_str() {
        "" => format!("{bucket}/{path}"),
        root => format!("{bucket}/{root}/{path}"),
    };
    let below = match premises.root.as_str() {
        "" => "*".to_owned(),
        root => format!("{root}/*"),
    };
    let mutable: Vec<String> = MUTABLE.iter().map(|path| object(path)).collect();
    let mut statements = vec![
        json!({ "Sid": "List", "Effect": "Allow", "Action": ["s3:ListBucket", "s3:ListBucketVersions", "s3:ListBucketMultipartUploads"],
            "Resource": bucket, "Condition": { "StringLike": { "s3:prefix": [below, premises.root] } } }),
        json!({ "Sid": "Read", "Effect": "Allow", "Action": ["s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention", "s3:ListMultipartUploadParts"], "Resource": object("*") }),
        json!({ "Sid": "LookAtTheBucket", "Effect": "Allow", "Action": ["s3:GetBucketVersioning", "s3:GetEncryptionConfiguration",
            "s3:GetBucketPublicAccessBlock", "s3:GetBucketObjectLockConfiguration", "s3:GetLifecycleConfiguration"], "Resource": bucket }),
    ];
    // An expirer leaves tombstones, leases and reports: it adds like a writer.
    if duty != Duty::Restorer {
        statements.push(json!({ "Sid": "Add", "Effect": "Allow", "Action": ["s3:PutObject", "s3:PutObjectRetention", "s3:AbortMultipartUpload"],
            "Resource": object("*") }));
        // The condition also holds for the completion of an upload in parts; beginning one and its parts create no object.
        statements.push(json!({ "Sid": "OverwriteNothingThatIsKept", "Effect": "Deny", "Action": "s3:PutObject", "NotResource": mutable,
            "Condition": { "Null": { "s3:if-none-match": "true" }, "Bool": { "s3:ObjectCreationOperation": "true" } } }));
        statements.push(json!({ "Sid": "ReplaceOnlyWhatWasRead", "Effect": "Deny", "Action": "s3:PutObject", "Resource": mutable,
            "Condition": { "Null": { "s3:if-none-match": "true", "s3:if-match": "true" }, "Bool": { "s3:ObjectCreationOperation": "true" } } }));
    }
    match duty {
        // A removal hides; nothing of Bowline's removes a version, so whoever steals this can hide and no more.
        Duty::Expirer => statements.push(json!({ "Sid": "Remove", "Effect": "Allow", "Action": ["s3:DeleteObject"], "Resource": object("*") })),
        Duty::Writer | Duty::Restorer => statements.push(json!({ "Sid": "NeverRemove", "Effect": "Deny",
            "Action": ["s3:DeleteObject", "s3:DeleteObjectVersion", "s3:BypassGovernanceRetention", "s3:PutBucketVersioning",
                "s3:PutLifecycleConfiguration", "s3:PutBucketObjectLockConfiguration", "s3:DeleteBucket"],
            "Resource": [bucket, object("*")] })),
    }
    if !premises.kms_keys.is_empty() {
        let actions: &[&str] = match duty {
            Duty::Restorer => &["kms:Decrypt", "kms:DescribeKey"],
            Duty::Writer | Duty::Expirer => &["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey"],
        };
        statements.push(json!({ "Sid": "UseTheKey", "Effect": "Allow", "Action": actions, "Resource": premises.kms_keys }));
    }
    json!({ "Version": "2012-10-17", "Statement": statements })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;

    fn premises() -> Premises {
        Premises { bucket: "pair-backups".to_owned(), root: "kb/acme".to_owned(), kms_keys: vec!["arn:aws:kms:eu-west-1:1:key/k".to_owned()] }
    }

    fn actions(policy: &Value, effect: &str) -> Vec<String> {
        let statements = policy["Statement"].as_array().unwrap().iter().filter(|statement| statement["Effect"] == effect);
        let listed = statements.flat_map(|statement| match &statement["Action"] {
            Value::Array(many) => many.clone(),
            one => vec![one.clone()],
        });
        listed.map(|action| action.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn only_the_expirer_may_remove_and_the_restorer_may_not_write() {
        for (duty, removes, writes) in [(Duty::Writer, false, true), (Duty::Restorer, false, false), (Duty::Expirer, true, true)] {
            let policy = policy(duty, &premises());
            let allowed = actions(&policy, "Allow");
            assert_eq!(allowed.iter().any(|action| action.contains("Delete")), removes, "{duty:?}");
            assert_eq!(allowed.iter().any(|action| action == "s3:PutObject"), writes, "{duty:?}");
            assert!(!allowed.iter().any(|action| action.contains('*')), "{duty:?}");
            assert!(policy.to_string().contains("arn:aws:s3:::pair-backups/kb/acme/*"), "{policy}");
        }
    }

    #[test]
    fn what_is_written_once_needs_its_condition_and_what_is_replaced_is_named() {
        let policy = policy(Duty::Writer, &premises());
        let statement = policy["Statement"].as_array().unwrap().iter().find(|statement| statement["Sid"] == "OverwriteNothingThatIsKept").unwrap();
        assert_eq!(statement["Condition"]["Null"]["s3:if-none-match"], "true");
        let named: Vec<&str> = statement["NotResource"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        let is_named = |path: &str| {
            let whole = format!("arn:aws:s3:::pair-backups/kb/acme/{path}");
            named.iter().any(|pattern| match pattern.split_once('*') {
                Some((before, after)) => whole.starts_with(before) && whole.ends_with(after),
                None => *pattern == whole,
            })
        };
        let lease = layout::lease("upkeep").unwrap();
        for path in [layout::repository(), layout::coverage(), lease] {
            assert!(is_named(path.as_str()), "{path}");
        }
        assert!(!is_named("full/20261122T020000Z/backup.json") && !is_named("wal/7/00000001/000000010000000000000001"));
    }
}
