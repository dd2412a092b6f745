//! The rule by which a bucket is copied to another one: whether one is there that does it, and the document that sets ours.

use super::steps::Step;
use super::{Bucket, BucketState, Fact, xml};
use serde::{Deserialize, Serialize};

/// What a bucket says of its replication.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Replication {
    /// As whom the store copies; empty where it does so by itself.
    pub role: String,
    /// The rules, each as the server wrote it.
    pub rules: Vec<String>,
}

/// How a bucket is to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicationWish {
    /// As whom the store copies: AWS wants a role's ARN, MinIO none.
    pub role: Option<String>,
    /// Where to: the ARN of a bucket, or on MinIO that of a remote target, which its administrator registers.
    pub destination: String,
    /// Only keys that begin with this; empty for all.
    pub prefix: String,
    /// With which KMS key the copy is encrypted; needed where the objects are encrypted by a KMS.
    pub kms_key: Option<String>,
    /// Objects that are there already are copied too, where the store takes that wish: AWS does not.
    pub existing_objects: bool,
}

/// The name of our rule begins so.
const RULE: &str = "bowline-";
/// What a rule of ours is made of.
const WRITTEN: [&str; 14] = [
    "ID",
    "Priority",
    "Filter",
    "Prefix",
    "Status",
    "SourceSelectionCriteria",
    "SseKmsEncryptedObjects",
    "DeleteMarkerReplication",
    "ExistingObjectReplication",
    "DeleteReplication",
    "Destination",
    "Bucket",
    "EncryptionConfiguration",
    "ReplicaKmsKeyID",
];
/// What MinIO adds by itself.
const OF_MINIO: [&str; 1] = ["ReplicaModifications"];

impl ReplicationWish {
    /// What there is to do at the source, and what nothing can be done about.
    pub fn steps(&self, state: Option<&BucketState>) -> (Vec<Step>, Vec<String>) {
        let ours = Step::Replicate(self.clone());
        let found = match state.map(|state| &state.replication) {
            None => return (vec![ours], Vec::new()),
            Some(Fact::Known(found)) => found,
            // Writing the rules replaces all of them: those that cannot be read would be lost.
            Some(other) => {
                let why = other.why().unwrap_or_default();
                return (Vec::new(), vec![format!("the replication is left alone, because the present rules cannot be read: {why}")]);
            }
        };
        if found.rules.iter().any(|rule| self.is_done_by(rule)) {
            return (Vec::new(), Vec::new());
        }
        let (own, others): (Vec<&String>, Vec<&String>) = found.rules.iter().partition(|rule| is_ours(rule) && self.writes_all_of(rule));
        if others.is_empty() && (own.is_empty() || self.is_no_weaker_than(&own)) {
            return (vec![ours], Vec::new());
        }
        let foreign = if others.is_empty() { own } else { others };
        let remarks = foreign.into_iter().map(|rule| {
            format!(
                "the bucket has a replication rule that Bowline did not make or that goes elsewhere, and it is left alone: {}. Let it go to {} for all of \
                 {:?} with delete markers, add such a rule beside it, or remove it by hand and run this again",
                told(rule), self.destination, self.prefix
            )
        });
        (Vec::new(), remarks.collect())
    }

    /// Whether this rule already does what is wished for.
    fn is_done_by(&self, rule: &str) -> bool {
        let goes = xml::text(xml::inside(rule, "Destination").unwrap_or_default(), "Bucket").as_deref() == Some(self.destination.as_str());
        let enabled = |element: &str| xml::inside(rule, element).and_then(|inside| xml::text(inside, "Status")).as_deref() == Some("Enabled");
        let copies_encrypted = self.kms_key.as_ref().is_none_or(|key| xml::text(rule, "ReplicaKmsKeyID").as_ref() == Some(key));
        goes && is_enabled(rule)
            && self.prefix.starts_with(&prefix_of(rule))
            && enabled("DeleteMarkerReplication")
            && copies_encrypted
            && !has_tags(rule)
    }

    /// Whether ours, written anew, would lose nothing that somebody has added to this one.
    fn writes_all_of(&self, rule: &str) -> bool {
        let names = rule.split('<').skip(1).map(|rest| rest.split(['>', ' ', '/']).next().unwrap_or_default());
        names.filter(|name| !name.is_empty()).all(|name| WRITTEN.contains(&name) || (self.is_of_minio() && OF_MINIO.contains(&name)))
    }

    /// Ours may be written anew when nothing that it does now would end.
    fn is_no_weaker_than(&self, own: &[&String]) -> bool {
        own.iter().all(|rule| {
            let bucket = xml::text(xml::inside(rule, "Destination").unwrap_or_default(), "Bucket");
            bucket.as_deref() == Some(self.destination.as_str()) && prefix_of(rule).starts_with(&self.prefix)
        })
    }

    /// What it does, in a line.
    pub(super) fn describe(&self) -> String {
        let what = if self.prefix.is_empty() { "every object".to_owned() } else { format!("every object below {}", self.prefix) };
        let existing = if self.existing_objects { ", those that are there too" } else { "" };
        let key = self.kms_key.as_ref().map(|key| format!(", encrypted there with {key}")).unwrap_or_default();
        let role = self.role.as_ref().map(|role| format!(", as {role}")).unwrap_or_default();
        format!("copy {what} and every delete marker to {}{existing}{key}{role}", self.destination)
    }

    pub(super) fn document(&self, bucket: &Bucket) -> String {
        let id = format!("{RULE}{}-replication", if bucket.prefix().is_empty() { "bucket".to_owned() } else { bucket.prefix().replace('/', "-") });
        let on = |element: &str| format!("<{element}><Status>Enabled</Status></{element}>");
        let encrypted = self.kms_key.as_ref().map(|_| format!("<SourceSelectionCriteria>{}</SourceSelectionCriteria>", on("SseKmsEncryptedObjects")));
        let key = self
            .kms_key
            .as_ref()
            .map(|key| format!("<EncryptionConfiguration><ReplicaKmsKeyID>{}</ReplicaKmsKeyID></EncryptionConfiguration>", xml::escaped(key)));
        let existing = if self.existing_objects { on("ExistingObjectReplication") } else { String::new() };
        // A version that is removed for good at the source stays in the copy: whoever can destroy one must not destroy both.
        let forever = if self.is_of_minio() { "<DeleteReplication><Status>Disabled</Status></DeleteReplication>" } else { "" };
        format!(
            "<ReplicationConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Role>{}</Role><Rule><ID>{}</ID><Priority>1</Priority>\
             <Filter><Prefix>{}</Prefix></Filter><Status>Enabled</Status>{}{existing}{}{forever}\
             <Destination><Bucket>{}</Bucket>{}</Destination></Rule></ReplicationConfiguration>",
            xml::escaped(self.role.as_deref().unwrap_or_default()),
            xml::escaped(&id),
            xml::escaped(&self.prefix),
            encrypted.unwrap_or_default(),
            on("DeleteMarkerReplication"),
            xml::escaped(&self.destination),
            key.unwrap_or_default(),
        )
    }

    fn is_of_minio(&self) -> bool {
        self.destination.starts_with("arn:minio:")
    }

    /// The same for somebody who may.
    pub(super) fn aws_options(&self) -> String {
        let mut rule = serde_json::json!({
            "ID": "bowline-replication", "Priority": 1, "Filter": {"Prefix": self.prefix}, "Status": "Enabled",
            "DeleteMarkerReplication": {"Status": "Enabled"}, "Destination": {"Bucket": self.destination},
        });
        if let Some(key) = &self.kms_key {
            rule["SourceSelectionCriteria"] = serde_json::json!({"SseKmsEncryptedObjects": {"Status": "Enabled"}});
            rule["Destination"]["EncryptionConfiguration"] = serde_json::json!({"ReplicaKmsKeyID": key});
        }
        let whole = serde_json::json!({"Role": self.role.as_deref().unwrap_or_default(), "Rules": [rule]});
        format!(" --replication-configuration '{whole}'")
    }
}

fn is_enabled(rule: &str) -> bool {
    // Other elements have statuses of their own.
    let inner = ["SourceSelectionCriteria", "DeleteMarkerReplication", "DeleteReplication", "ExistingObjectReplication", "Destination"];
    let outer = inner.iter().fold(rule.to_owned(), |rest, element| xml::without(&rest, element));
    xml::text(&outer, "Status").as_deref() == Some("Enabled")
}

fn prefix_of(rule: &str) -> String {
    xml::text(rule, "Prefix").unwrap_or_default()
}

fn has_tags(rule: &str) -> bool {
    xml::inside(rule, "Tag").is_some()
}

fn is_ours(rule: &str) -> bool {
    xml::text(rule, "ID").is_some_and(|id| id.starts_with(RULE))
}

/// A rule of somebody else, for people.
fn told(rule: &str) -> String {
    let name = xml::text(rule, "ID").filter(|id| !id.is_empty()).unwrap_or_else(|| "one without a name".to_owned());
    let to = xml::text(xml::inside(rule, "Destination").unwrap_or_default(), "Bucket").unwrap_or_default();
    format!("{name} ({:?} to {to}, {})", prefix_of(rule), if is_enabled(rule) { "enabled" } else { "disabled" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::DefaultEncryption;

    fn wish() -> ReplicationWish {
        let destination = "arn:aws:s3:::copy".to_owned();
        ReplicationWish { role: Some("arn:role".to_owned()), destination, prefix: "kb/".to_owned(), kms_key: None, existing_objects: false }
    }

    fn rule(id: &str, prefix: &str, to: &str, markers: &str, status: &str) -> String {
        format!(
            "<ID>{id}</ID><DeleteMarkerReplication><Status>{markers}</Status></DeleteMarkerReplication><Filter><Prefix>{prefix}</Prefix></Filter>\
             <Status>{status}</Status><Destination><Bucket>{to}</Bucket></Destination>"
        )
    }

    fn state(rules: Vec<String>) -> BucketState {
        BucketState {
            versioning: Fact::Known("Enabled".to_owned()),
            encryption: Fact::Known(DefaultEncryption::default()),
            blocks_public_access: Fact::Known(true),
            object_lock: Fact::Known(false),
            lifecycle: Fact::Known(Vec::new()),
            replication: Fact::Known(Replication { role: "arn:role".to_owned(), rules }),
        }
    }

    #[test]
    fn a_rule_that_does_it_is_left_alone_whoever_made_it() {
        for prefix in ["", "kb/", "k"] {
            let found = state(vec![rule("theirs", prefix, "arn:aws:s3:::copy", "Enabled", "Enabled")]);
            assert_eq!(wish().steps(Some(&found)), (Vec::new(), Vec::new()), "{prefix}");
        }
    }

    #[test]
    fn a_rule_of_others_that_does_not_is_shown_and_never_replaced() {
        for theirs in [
            rule("theirs", "kb/", "arn:aws:s3:::elsewhere", "Enabled", "Enabled"),
            rule("theirs", "other/", "arn:aws:s3:::copy", "Enabled", "Enabled"),
            rule("theirs", "kb/", "arn:aws:s3:::copy", "Disabled", "Enabled"),
            rule("theirs", "kb/", "arn:aws:s3:::copy", "Enabled", "Disabled"),
        ] {
            let (steps, remarks) = wish().steps(Some(&state(vec![theirs])));
            assert!(steps.is_empty() && remarks[0].contains("theirs"), "{steps:?} {remarks:?}");
        }
        let unread = BucketState { replication: Fact::Denied("403".to_owned()), ..state(Vec::new()) };
        let (steps, remarks) = wish().steps(Some(&unread));
        assert!(steps.is_empty() && remarks[0].contains("cannot be read"), "{steps:?} {remarks:?}");
    }

    fn weak_with(destination: &str) -> BucketState {
        let rule = rule("bowline-kb-replication", "kb/", "arn:aws:s3:::copy", "Disabled", "Enabled");
        state(vec![rule.replace("<Destination>", destination)])
    }

    #[test]
    fn our_own_rule_is_mended_and_not_turned_to_another_bucket() {
        let weak = state(vec![rule("bowline-kb-replication", "kb/", "arn:aws:s3:::copy", "Disabled", "Enabled")]);
        assert_eq!(wish().steps(Some(&weak)).0, [Step::Replicate(wish())]);
        let elsewhere = state(vec![rule("bowline-kb-replication", "kb/", "arn:aws:s3:::elsewhere", "Enabled", "Enabled")]);
        assert_eq!(wish().steps(Some(&elsewhere)).0, []);
        // What somebody has added to it would be lost.
        let tuned = weak_with("<Destination><StorageClass>GLACIER</StorageClass>");
        let (steps, remarks) = wish().steps(Some(&tuned));
        assert!(steps.is_empty() && remarks[0].contains("bowline-kb-replication"), "{steps:?} {remarks:?}");
        assert_eq!(wish().steps(Some(&weak_with("<Destination>"))).0, [Step::Replicate(wish())]);
        assert_eq!(wish().steps(Some(&state(Vec::new()))).0, [Step::Replicate(wish())]);
    }
}
