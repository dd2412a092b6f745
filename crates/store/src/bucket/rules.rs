//! Lifecycle rules that take away what is stored: backups are let go by expiry, which knows what is still needed, and by nothing else.

use super::state::BucketState;
use super::{ABANDONED_AFTER_DAYS, xml};

/// Storage classes whose objects cannot be read as they are.
const ARCHIVES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// What a lifecycle rule does to what is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Harm {
    /// The rule and what it does, in a clause.
    pub what: String,
    /// Backups are lost by it, or cannot be read; else only what takes long is in danger.
    pub is_fatal: bool,
}

impl BucketState {
    /// What the rules do to objects below `prefix` that they must not; nothing where they cannot be read.
    pub fn harms(&self, prefix: &str) -> Vec<Harm> {
        self.lifecycle.known().into_iter().flatten().flat_map(|rule| harms_of(rule, prefix)).collect()
    }
}

fn harms_of(rule: &str, prefix: &str) -> Vec<Harm> {
    let is_on = xml::text(rule, "Status").as_deref() == Some("Enabled");
    let (root, theirs) = (if prefix.is_empty() { String::new() } else { format!("{prefix}/") }, xml::text(rule, "Prefix").unwrap_or_default());
    // Of all, or of a part. Nothing here bears a tag.
    let is_here = root.starts_with(&theirs) || theirs.starts_with(&root);
    if !is_on || !is_here || xml::inside(rule, "Tag").is_some() {
        return Vec::new();
    }
    let id = xml::text(rule, "ID").unwrap_or_default();
    let harm = |is_fatal: bool, does: String| Harm { what: format!("rule {id:?} {does}"), is_fatal };
    let mut found = Vec::new();
    for moved in xml::all(rule, "Transition") {
        let class = xml::text(moved, "StorageClass").unwrap_or_default();
        if ARCHIVES.contains(&class.as_str()) {
            found.push(harm(true, format!("moves objects to {class}{}, where they cannot be read", when(moved))));
        }
    }
    // Of the markers of what was removed nobody needs any.
    for ended in xml::all(rule, "Expiration").into_iter().filter(|ended| !when(ended).is_empty()) {
        found.push(harm(true, format!("removes objects{}, needed or not", when(ended))));
    }
    let days = xml::inside(rule, "AbortIncompleteMultipartUpload").and_then(|ended| xml::text(ended, "DaysAfterInitiation")?.parse::<u32>().ok());
    if let Some(days) = days.filter(|days| *days < ABANDONED_AFTER_DAYS) {
        found.push(harm(false, format!("ends uploads {days} days after they began: a backup or snapshot that takes longer loses its manifest")));
    }
    found
}

/// ` after 30 days`, or ` on` a date; empty where it says neither.
fn when(action: &str) -> String {
    let days = xml::text(action, "Days").and_then(|days| days.parse::<u32>().ok()).map(|days| format!(" after {days} days"));
    days.or_else(|| xml::text(action, "Date").filter(|date| !date.is_empty()).map(|date| format!(" on {date}"))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(prefix: &str, action: &str) -> String {
        format!("<ID>r</ID><Filter><Prefix>{prefix}</Prefix></Filter><Status>Enabled</Status>{action}")
    }

    fn told(rule: &str) -> Vec<(bool, String)> {
        harms_of(rule, "kb/acme").into_iter().map(|harm| (harm.is_fatal, harm.what)).collect()
    }

    const ARCHIVED: &str = "<Transition><Days>30</Days><StorageClass>DEEP_ARCHIVE</StorageClass></Transition>";
    const EXPIRED: &str = "<Expiration><Days>90</Days></Expiration>";

    #[test]
    fn a_rule_that_archives_or_removes_what_is_here_is_named() {
        let archived = (true, "rule \"r\" moves objects to DEEP_ARCHIVE after 30 days, where they cannot be read".to_owned());
        for prefix in ["", "kb/", "kb/acme/", "kb/acme/full/"] {
            assert_eq!(told(&rule(prefix, ARCHIVED)), std::slice::from_ref(&archived), "{prefix}");
        }
        assert_eq!(told(&rule("", EXPIRED)), [(true, "rule \"r\" removes objects after 90 days, needed or not".to_owned())]);
        let dated = "<Expiration><Date>2027-01-01T00:00:00.000Z</Date></Expiration>";
        assert_eq!(told(&rule("", &format!("{ARCHIVED}{dated}"))).len(), 2);
        let hasty = "<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload>";
        let of_hasty = told(&rule("", hasty));
        assert!(of_hasty.len() == 1 && !of_hasty[0].0 && of_hasty[0].1.contains("1 days after"), "{of_hasty:?}");
    }

    #[test]
    fn a_rule_for_others_or_for_what_is_gone_does_no_harm() {
        for harmless in [
            rule("kb/other/", ARCHIVED),
            rule("", ARCHIVED).replace("Enabled", "Disabled"),
            rule("", &format!("<Tag><Key>a</Key><Value>b</Value></Tag>{EXPIRED}")),
            rule("", "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"),
            rule("", "<Transition><Days>30</Days><StorageClass>STANDARD_IA</StorageClass></Transition>"),
            rule("", "<NoncurrentVersionExpiration><NoncurrentDays>30</NoncurrentDays></NoncurrentVersionExpiration>"),
            rule(
                "",
                "<NoncurrentVersionTransition><NoncurrentDays>3</NoncurrentDays><StorageClass>GLACIER</StorageClass></NoncurrentVersionTransition>",
            ),
            rule("", "<AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload>"),
        ] {
            assert_eq!(told(&harmless), [], "{harmless}");
        }
    }
}
