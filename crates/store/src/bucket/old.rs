//! What becomes of old versions: what is removed from a bucket that keeps them is hidden at once, and its room is free only later.

use super::state::{BucketState, Fact};
use super::xml;
use serde::{Deserialize, Serialize};

/// What a removal leaves in a bucket that keeps versions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldVersions {
    /// A lifecycle rule frees them so many days after they were replaced or removed; absent where none does, or where that is not known.
    pub freed_after_days: Option<u32>,
    /// Why it is not known whether they are kept, or freed; absent where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

impl OldVersions {
    /// Nothing is known, and this is why.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self { freed_after_days: None, unknown: Some(why.into()) }
    }

    /// Whether it is known that what is removed is only hidden.
    pub fn are_kept(&self) -> bool {
        self.unknown.is_none()
    }

    /// What becomes of what was removed, and the next step where one is needed: half a sentence, for people.
    pub fn fate(&self) -> String {
        let set = "a lifecycle rule that ends old versions frees it, which bowline init --bucket sets";
        match (&self.unknown, self.freed_after_days) {
            (Some(why), _) => format!("whether the bucket keeps versions of what was removed, and ever frees them, is not known ({why}): {set}"),
            (None, Some(days)) => format!("the bucket keeps versions, and its lifecycle rule frees what was hidden {days} days after that"),
            (None, None) => format!("the bucket keeps versions and has no rule that frees them, so nothing that was hidden is freed: {set}"),
        }
    }
}

impl BucketState {
    /// What a removal below `prefix` leaves here; `None` where no versions are kept.
    pub fn old_versions(&self, prefix: &str) -> Option<OldVersions> {
        match &self.versioning {
            // What was written before versions were suspended stays when it is removed.
            Fact::Known(status) if status == "Off" => return None,
            Fact::Known(_) => {}
            Fact::Unsupported(_) => return None,
            Fact::Denied(why) | Fact::Unclear(why) => return Some(OldVersions::unknown(why)),
        }
        Some(match &self.lifecycle {
            Fact::Known(rules) => OldVersions { freed_after_days: rules.iter().filter_map(|rule| days_of(rule, prefix)).min(), unknown: None },
            Fact::Unsupported(why) => OldVersions::unknown(format!("the store knows no lifecycle rules: {why}")),
            Fact::Denied(why) | Fact::Unclear(why) => OldVersions::unknown(why),
        })
    }
}

/// After how many days this rule ends every old version below `prefix`; `None` where it does not, or not all of them.
fn days_of(rule: &str, prefix: &str) -> Option<u32> {
    let ends = xml::inside(rule, "NoncurrentVersionExpiration")?;
    // A few are kept whatever their age: of most objects here there is only one.
    let keeps_some = xml::inside(ends, "NewerNoncurrentVersions").is_some();
    let is_narrow = ["Tag", "ObjectSizeGreaterThan", "ObjectSizeLessThan"].iter().any(|name| xml::inside(rule, name).is_some());
    let is_on = xml::text(rule, "Status").as_deref() == Some("Enabled");
    let root = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    let is_here = root.starts_with(&xml::text(rule, "Prefix").unwrap_or_default());
    let days: Option<u32> = xml::text(ends, "NoncurrentDays")?.trim().parse().ok();
    days.filter(|_| is_on && is_here && !keeps_some && !is_narrow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::{DefaultEncryption, Replication};

    fn bucket(versioning: &str, rules: Fact<Vec<String>>) -> BucketState {
        BucketState {
            versioning: Fact::Known(versioning.to_owned()),
            encryption: Fact::Known(DefaultEncryption::default()),
            blocks_public_access: Fact::Known(true),
            object_lock: Fact::Known(false),
            lifecycle: rules,
            replication: Fact::Known(Replication::default()),
        }
    }

    fn rule(prefix: &str, days: u32, more: &str) -> String {
        format!(
            "<ID>r</ID><Filter><Prefix>{prefix}</Prefix></Filter><Status>Enabled</Status>{more}\
             <NoncurrentVersionExpiration><NoncurrentDays>{days}</NoncurrentDays></NoncurrentVersionExpiration>"
        )
    }

    #[test]
    fn a_removal_frees_at_once_only_where_no_versions_are_kept() {
        let rules = Fact::Known(vec![rule("kb/", 30, "")]);
        assert_eq!(bucket("Off", rules.clone()).old_versions("kb"), None);
        let days = |state: BucketState| state.old_versions("kb").expect("versions").freed_after_days;
        assert_eq!(days(bucket("Enabled", rules.clone())), Some(30));
        assert_eq!(days(bucket("Suspended", rules)), Some(30));
        let unread = bucket("Enabled", Fact::Denied("403".to_owned())).old_versions("kb").expect("versions");
        assert!(unread.fate().contains("not known (403)"), "{}", unread.fate());
    }

    #[test]
    fn only_a_rule_that_ends_all_old_versions_of_the_repository_frees_anything() {
        let freed = |rules: &[String]| bucket("Enabled", Fact::Known(rules.to_vec())).old_versions("kb/acme").expect("versions").freed_after_days;
        assert_eq!(freed(&[rule("", 40, ""), rule("kb/", 30, ""), rule("kb/other/", 1, "")]), Some(30));
        let moved = "<NoncurrentVersionTransition><NoncurrentDays>3</NoncurrentDays></NoncurrentVersionTransition>";
        assert_eq!(freed(&[rule("kb/", 30, moved)]), Some(30), "after three days it only lies elsewhere");
        let off = rule("kb/", 30, "").replace("Enabled", "Disabled");
        let few = rule("kb/", 30, "").replace("<NoncurrentDays>", "<NewerNoncurrentVersions>2</NewerNoncurrentVersions><NoncurrentDays>");
        let tagged = rule("kb/", 30, "<Tag><Key>a</Key><Value>b</Value></Tag>");
        let uploads = "<ID>u</ID><Status>Enabled</Status><AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload>";
        assert_eq!(freed(&[off, few, tagged, uploads.to_owned()]), None);
        let fate = OldVersions::default().fate();
        assert!(fate.contains("nothing that was hidden is freed") && fate.contains("bowline init --bucket"), "{fate}");
    }
}
