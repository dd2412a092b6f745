//! Sets a bucket up: which steps are needed, as data that can be printed, and each of them carried out by itself.

use super::state::{BucketState, DefaultEncryption, Fact};
use super::{ABANDONED_AFTER_DAYS, Bucket, ReplicationWish, xml};
use crate::StoreError;
use crate::s3::{Answered, Ask, Patience};

/// How a bucket for backups is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketWish {
    /// Encrypt by default with this KMS key; without one the default is left as it is.
    pub kms_key: Option<String>,
    /// Whether the bucket is made so that objects can be locked. Only a bucket that is made anew can be.
    pub object_lock: bool,
    /// How many days an overwritten or removed version stays.
    pub noncurrent_days: u32,
    /// How it is to be copied to another one.
    pub replication: Option<ReplicationWish>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make it.
    Create {
        /// So that objects can be locked: this can only be chosen now.
        object_lock: bool,
    },
    /// Encrypt by default.
    Encrypt {
        /// As it is configured: an id, an alias or an ARN.
        kms_key: String,
    },
    /// Keep versions.
    Version,
    /// Block public access.
    BlockPublic,
    /// End abandoned uploads after a week and old versions after some days.
    Lifecycle {
        /// How many days an overwritten or removed version stays.
        noncurrent_days: u32,
        /// The rules that somebody else made, each as the server wrote it.
        kept: Vec<String>,
    },
    /// Copy it to another one.
    Replicate(ReplicationWish),
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it was to be.
    Done,
    /// These credentials may not.
    Denied(String),
    /// The server knows no such setting.
    Unsupported(String),
    /// It was refused for another reason.
    Failed(String),
}

/// The rules that are ours, by their names.
const RULE: &str = "bowline-";

impl BucketWish {
    /// What there is to do, given what the bucket says (`None`: it is not there), and what nothing can be done about.
    pub fn steps(&self, state: Option<&BucketState>, prefix: &str) -> (Vec<Step>, Vec<String>) {
        let mut steps = Vec::new();
        let mut remarks = Vec::new();
        if state.is_none() {
            steps.push(Step::Create { object_lock: self.object_lock });
        }
        let default = state.and_then(|state| state.encryption.known());
        match &self.kms_key {
            Some(key) => {
                let is_so = |found: &DefaultEncryption| {
                    found.algorithm.as_deref() == Some("aws:kms") && found.key.as_ref() == Some(key) && found.has_bucket_key
                };
                if !default.is_some_and(is_so) {
                    steps.push(Step::Encrypt { kms_key: key.clone() });
                }
            }
            // A server without keys of its own (SeaweedFS) takes the wish and then refuses every write: nothing is wished for.
            None if default.is_none_or(|found| found.algorithm.is_none()) => remarks.push(
                "no default encryption is set: name production's key as [repository] sse_kms_key_id (what Bowline stores is sealed in any case)"
                    .to_owned(),
            ),
            None => {}
        }
        if state.and_then(|state| state.versioning.known()).map(String::as_str) != Some("Enabled") {
            steps.push(Step::Version);
        }
        if state.and_then(|state| state.blocks_public_access.known()) != Some(&true) {
            steps.push(Step::BlockPublic);
        }
        match state.map(|state| &state.lifecycle) {
            None => steps.push(Step::Lifecycle { noncurrent_days: self.noncurrent_days, kept: Vec::new() }),
            Some(Fact::Known(rules)) => {
                let is_ours = |rule: &String| xml::text(rule, "ID").is_some_and(|id| id.starts_with(&rule_name(prefix, "")));
                let (ours, kept): (Vec<String>, Vec<String>) = rules.iter().cloned().partition(is_ours);
                if !are_as_wished(&ours, self.noncurrent_days) {
                    steps.push(Step::Lifecycle { noncurrent_days: self.noncurrent_days, kept });
                }
            }
            // Writing the rules replaces all of them: those that cannot be read would be lost.
            Some(Fact::Denied(why)) => remarks.push(format!("the lifecycle rules are left alone, because the present ones cannot be read: {why}")),
            Some(Fact::Unclear(why)) => remarks.push(format!("the lifecycle rules are left alone, because the present ones are unclear: {why}")),
            Some(Fact::Unsupported(why)) => remarks.push(format!(
                "the store has no lifecycle rules ({why}): remove old versions and abandoned uploads by its own means; bowline check lists the uploads"
            )),
        }
        if let Some(replication) = &self.replication {
            let (wanted, more) = replication.steps(state);
            steps.extend(wanted);
            remarks.extend(more);
        }
        if self.object_lock && state.is_some_and(|state| state.object_lock.known() != Some(&true)) {
            remarks.push("objects of this bucket cannot be locked: that is chosen when a bucket is made, so use a new one".to_owned());
        }
        (steps, remarks)
    }
}

fn are_as_wished(ours: &[String], days: u32) -> bool {
    let has = |element: &str, days: u32| ours.iter().any(|rule| xml::text(rule, element).as_deref() == Some(days.to_string().as_str()));
    let are_on = ours.iter().all(|rule| xml::text(rule, "Status").as_deref() == Some("Enabled"));
    are_on && has("DaysAfterInitiation", ABANDONED_AFTER_DAYS) && has("NoncurrentDays", days)
}

fn rule_name(prefix: &str, what: &str) -> String {
    let place = if prefix.is_empty() { "bucket".to_owned() } else { prefix.replace('/', "-") };
    format!("{RULE}{place}-{what}")
}

impl Step {
    /// What it does, in a line.
    pub fn describe(&self) -> String {
        match self {
            Self::Replicate(wish) => wish.describe(),
            Self::Create { object_lock: false } => "make the bucket".to_owned(),
            Self::Create { object_lock: true } => "make the bucket, so that objects can be locked (none is by default)".to_owned(),
            Self::Encrypt { kms_key } => format!("encrypt by default with the KMS key {kms_key}, with bucket keys"),
            Self::Version => "keep versions, so that nothing that is overwritten or removed is gone at once".to_owned(),
            Self::BlockPublic => "block public access".to_owned(),
            Self::Lifecycle { noncurrent_days, kept } => {
                let others = if kept.is_empty() { String::new() } else { format!(" (and keep {} rule(s) of others)", kept.len()) };
                format!(
                    "end abandoned uploads after {ABANDONED_AFTER_DAYS} days, and old versions {noncurrent_days} days after they were replaced{others}"
                )
            }
        }
    }

    /// A short name, for scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Encrypt { .. } => "encryption",
            Self::Version => "versioning",
            Self::BlockPublic => "public-access",
            Self::Lifecycle { .. } => "lifecycle",
            Self::Replicate(_) => "replication",
        }
    }

    fn document(&self, bucket: &Bucket) -> String {
        let xmlns = "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";
        match self {
            Self::Replicate(wish) => wish.document(bucket),
            // us-east-1 is not named: there, naming it is an error.
            Self::Create { .. } if bucket.region() == "us-east-1" || !bucket.is_aws() => String::new(),
            Self::Create { .. } => {
                format!("<CreateBucketConfiguration {xmlns}><LocationConstraint>{}</LocationConstraint></CreateBucketConfiguration>", bucket.region())
            }
            Self::Encrypt { kms_key } => format!(
                "<ServerSideEncryptionConfiguration {xmlns}><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>aws:kms</SSEAlgorithm>\
                 <KMSMasterKeyID>{}</KMSMasterKeyID></ApplyServerSideEncryptionByDefault><BucketKeyEnabled>true</BucketKeyEnabled></Rule>\
                 </ServerSideEncryptionConfiguration>",
                xml::escaped(kms_key)
            ),
            Self::Version => format!("<VersioningConfiguration {xmlns}><Status>Enabled</Status></VersioningConfiguration>"),
            Self::BlockPublic => {
                let blocks = ["BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"];
                let blocks: String = blocks.iter().map(|name| format!("<{name}>true</{name}>")).collect();
                format!("<PublicAccessBlockConfiguration {xmlns}>{blocks}</PublicAccessBlockConfiguration>")
            }
            Self::Lifecycle { noncurrent_days, kept } => {
                let kept: String = kept.iter().map(|rule| format!("<Rule>{rule}</Rule>")).collect();
                let filter = match bucket.prefix() {
                    "" => "<Filter><Prefix></Prefix></Filter>".to_owned(),
                    prefix => format!("<Filter><Prefix>{}/</Prefix></Filter>", xml::escaped(prefix)),
                };
                let rule = |what: &str, action: String| {
                    format!("<Rule><ID>{}</ID>{filter}<Status>Enabled</Status>{action}</Rule>", xml::escaped(&rule_name(bucket.prefix(), what)))
                };
                let uploads = format!(
                    "<AbortIncompleteMultipartUpload><DaysAfterInitiation>{ABANDONED_AFTER_DAYS}</DaysAfterInitiation>\
                     </AbortIncompleteMultipartUpload>"
                );
                let versions =
                    format!("<NoncurrentVersionExpiration><NoncurrentDays>{noncurrent_days}</NoncurrentDays></NoncurrentVersionExpiration>");
                format!("<LifecycleConfiguration {xmlns}>{kept}{}{}</LifecycleConfiguration>", rule("uploads", uploads), rule("versions", versions))
            }
        }
    }

    /// The command with which somebody who may can do it instead.
    pub fn aws_command(&self, bucket: &Bucket) -> String {
        let place = match &bucket.control.endpoint {
            Some(endpoint) => format!("--endpoint-url {endpoint} --region {}", bucket.region()),
            None => format!("--region {}", bucket.region()),
        };
        let command = |verb: &str, rest: String| format!("aws s3api {verb} --bucket {} {place}{rest}", bucket.name());
        match self {
            Self::Create { object_lock } => {
                let lock = if *object_lock { " --object-lock-enabled-for-bucket" } else { "" };
                let location = match bucket.is_aws() && bucket.region() != "us-east-1" {
                    true => format!(" --create-bucket-configuration LocationConstraint={}", bucket.region()),
                    false => String::new(),
                };
                command("create-bucket", format!("{location}{lock}"))
            }
            Self::Encrypt { kms_key } => {
                let default = serde_json::json!({"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": kms_key});
                let rules = serde_json::json!({"Rules": [{"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": true}]});
                command("put-bucket-encryption", format!(" --server-side-encryption-configuration '{rules}'"))
            }
            Self::Replicate(wish) => command("put-bucket-replication", wish.aws_options()),
            Self::Version => command("put-bucket-versioning", " --versioning-configuration Status=Enabled".to_owned()),
            Self::BlockPublic => command(
                "put-public-access-block",
                " --public-access-block-configuration BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true"
                    .to_owned(),
            ),
            Self::Lifecycle { noncurrent_days, kept } => {
                let prefix = if bucket.prefix().is_empty() { String::new() } else { format!("{}/", bucket.prefix()) };
                let rules = serde_json::json!({"Rules": [
                    {"ID": rule_name(bucket.prefix(), "uploads"), "Filter": {"Prefix": prefix}, "Status": "Enabled", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABANDONED_AFTER_DAYS}},
                    {"ID": rule_name(bucket.prefix(), "versions"), "Filter": {"Prefix": prefix}, "Status": "Enabled", "NoncurrentVersionExpiration": {"NoncurrentDays": noncurrent_days}},
                ]});
                let others = if kept.is_empty() { "" } else { "   # this replaces all rules: add the present ones" };
                command("put-bucket-lifecycle-configuration", format!(" --lifecycle-configuration '{rules}'{others}"))
            }
        }
    }
}

impl Bucket {
    /// Carries one step out. The error means that nobody answered; a refusal is an outcome.
    pub async fn carry_out(&self, step: &Step) -> Result<Outcome, StoreError> {
        if let Step::Replicate(wish) = step {
            // Writing the rules replaces all of them, and somebody may have written others while the plan was read.
            let (steps, mut remarks) = wish.steps(Some(&self.state().await?));
            if !steps.contains(step) {
                return Ok(remarks.pop().map_or(Outcome::Done, Outcome::Failed));
            }
        }
        let (query, headers): (&str, &[(&'static str, &str)]) = match step {
            Step::Create { object_lock: true } => ("", &[("x-amz-bucket-object-lock-enabled", "true")]),
            Step::Create { object_lock: false } => ("", &[]),
            Step::Encrypt { .. } => ("encryption=", &[]),
            Step::Version => ("versioning=", &[]),
            Step::BlockPublic => ("publicAccessBlock=", &[]),
            Step::Lifecycle { .. } => ("lifecycle=", &[]),
            Step::Replicate(_) => ("replication=", &[]),
        };
        let ask = Ask { method: "PUT", query, headers, body: step.document(self), patience: Patience::Brief, ..Ask::default() };
        Ok(match self.control.send(&ask).await? {
            Answered::Yes(_) => Outcome::Done,
            // Ours already, from a run that broke off.
            Answered::No(trouble) if matches!(step, Step::Create { .. }) && trouble.code() == "BucketAlreadyOwnedByYou" => Outcome::Done,
            Answered::No(trouble) => match (trouble.status(), trouble.code()) {
                _ if trouble.is_denied() => Outcome::Denied(trouble.why().to_owned()),
                (Some(501 | 405), _) | (_, "NotImplemented" | "MethodNotAllowed") => Outcome::Unsupported(trouble.why().to_owned()),
                _ => Outcome::Failed(trouble.why().to_owned()),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::Replication;

    fn wish() -> BucketWish {
        BucketWish { kms_key: Some("arn:k".to_owned()), object_lock: false, noncurrent_days: 30, replication: None }
    }

    fn perfect() -> BucketState {
        BucketState {
            versioning: Fact::Known("Enabled".to_owned()),
            encryption: Fact::Known(DefaultEncryption { algorithm: Some("aws:kms".to_owned()), key: Some("arn:k".to_owned()), has_bucket_key: true }),
            blocks_public_access: Fact::Known(true),
            object_lock: Fact::Known(false),
            lifecycle: Fact::Known(vec![
                "<ID>bowline-kb-uploads</ID><Status>Enabled</Status><DaysAfterInitiation>7</DaysAfterInitiation>".to_owned(),
                "<ID>bowline-kb-versions</ID><Status>Enabled</Status><NoncurrentDays>30</NoncurrentDays>".to_owned(),
            ]),
            replication: Fact::Known(Replication::default()),
        }
    }

    #[test]
    fn a_bucket_that_is_as_wished_needs_nothing_and_an_absent_one_everything() {
        assert_eq!(wish().steps(Some(&perfect()), "kb"), (Vec::new(), Vec::new()));
        let (steps, _) = wish().steps(None, "kb");
        assert_eq!(steps.iter().map(Step::name).collect::<Vec<_>>(), ["create", "encryption", "versioning", "public-access", "lifecycle"]);
        let other_key = BucketWish { kms_key: Some("arn:other".to_owned()), ..wish() };
        assert_eq!(other_key.steps(Some(&perfect()), "kb").0, [Step::Encrypt { kms_key: "arn:other".to_owned() }]);
    }

    #[test]
    fn a_rule_that_would_end_the_upload_of_a_long_backup_is_written_anew() {
        let Fact::Known(rules) = perfect().lifecycle else { unreachable!("perfect") };
        let hasty = rules.iter().map(|rule| rule.replace("<DaysAfterInitiation>7", "<DaysAfterInitiation>1")).collect();
        let state = BucketState { lifecycle: Fact::Known(hasty), ..perfect() };
        assert_eq!(wish().steps(Some(&state), "kb").0, [Step::Lifecycle { noncurrent_days: 30, kept: Vec::new() }]);
    }

    #[test]
    fn the_rules_of_others_are_kept_and_unread_ones_never_replaced() {
        let theirs = "<ID>theirs</ID><Status>Enabled</Status>".to_owned();
        let state = BucketState { lifecycle: Fact::Known(vec![theirs.clone()]), ..perfect() };
        assert_eq!(wish().steps(Some(&state), "kb").0, [Step::Lifecycle { noncurrent_days: 30, kept: vec![theirs] }]);
        let state = BucketState { lifecycle: Fact::Denied("403".to_owned()), ..perfect() };
        let (steps, remarks) = wish().steps(Some(&state), "kb");
        assert!(steps.is_empty() && remarks[0].contains("cannot be read"), "{steps:?} {remarks:?}");
    }

    #[test]
    fn a_bucket_that_exists_cannot_become_lockable() {
        let (steps, remarks) = BucketWish { object_lock: true, ..wish() }.steps(Some(&perfect()), "kb");
        assert!(steps.is_empty() && remarks[0].contains("use a new one"), "{steps:?} {remarks:?}");
    }
}
