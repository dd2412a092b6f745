//! One page of a listing as S3 writes it (`ListObjectsV2` and `ListObjectVersions`, Amazon S3 API Reference).

use serde::Deserialize;

/// What is in it, and where the next one begins.
#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    #[serde(rename = "NextContinuationToken", default)]
    pub(crate) token: Option<String>,
    #[serde(rename = "NextKeyMarker", default)]
    pub(crate) next_key: Option<String>,
    #[serde(rename = "NextVersionIdMarker", default)]
    pub(crate) next_version: Option<String>,
    #[serde(rename = "IsTruncated", default)]
    pub(crate) is_truncated: bool,
    #[serde(rename = "EncodingType", default)]
    pub(crate) encoding: Option<String>,
    #[serde(rename = "$value", default)]
    pub(crate) entries: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
pub(crate) enum Entry {
    Contents(Listed),
    Version(Listed),
    DeleteMarker(Listed),
    CommonPrefixes(Folder),
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Folder {
    #[serde(rename = "Prefix")]
    pub(crate) prefix: String,
}

/// An object, one version of it, or its removal.
#[derive(Debug, Deserialize)]
pub(crate) struct Listed {
    #[serde(rename = "Key")]
    pub(crate) key: String,
    #[serde(rename = "VersionId", default)]
    pub(crate) id: Option<String>,
    #[serde(rename = "IsLatest", default)]
    pub(crate) is_latest: bool,
    #[serde(rename = "LastModified")]
    pub(crate) modified: String,
    #[serde(rename = "ETag", default)]
    pub(crate) etag: String,
    #[serde(rename = "Size", default)]
    pub(crate) bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_objects_and_folders_among_each_other_whatever_their_keys() {
        let text = "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name><Prefix/><KeyCount>3</KeyCount>\
            <Contents><Key>org//x</Key><LastModified>2026-11-22T14:05:00.000Z</LastModified><ETag>&quot;e&quot;</ETag><Size>7</Size></Contents>\
            <CommonPrefixes><Prefix>org/a/</Prefix></CommonPrefixes>\n<Contents><Key> org/&#x1; </Key><LastModified>t</LastModified><Owner><ID>i</ID></Owner>\
            </Contents><IsTruncated>true</IsTruncated><NextContinuationToken>next==</NextContinuationToken></ListBucketResult>";
        let page: Page = quick_xml::de::from_str(text).unwrap();
        assert_eq!((page.is_truncated, page.token.as_deref()), (true, Some("next==")));
        let found: Vec<&str> = page
            .entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Contents(listed) => Some(listed.key.as_str()),
                Entry::CommonPrefixes(folder) => Some(folder.prefix.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(found, ["org//x", "org/a/", " org/\u{1} "]);
        let first = page.entries.iter().find_map(|entry| if let Entry::Contents(listed) = entry { Some(listed) } else { None }).unwrap();
        assert_eq!((first.etag.as_str(), first.bytes), ("\"e\"", 7));
    }
}
