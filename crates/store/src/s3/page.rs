//! One page of a listing as S3 writes it (`ListObjectsV2` and `ListObjectVersions`, Amazon S3 API Reference).

use crate::address::decode;
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
    is_truncated: Option<bool>,
    #[serde(rename = "EncodingType", default)]
    encoding: Option<String>,
    #[serde(rename = "$value", default)]
    pub(crate) entries: Vec<Entry>,
}

/// What is asked for with each page: XML cannot hold every character of a key, and one such key would keep everybody from listing. Servers
/// that ignore it do not say that they encode.
pub(crate) const ENCODED: (&str, &str) = ("encoding-type", "url");

impl Page {
    /// Reads one. The error says why the answer makes no sense: a page must tell whether it is the last, or anything that looks like XML would
    /// read as an empty bucket.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let mut page: Self = quick_xml::de::from_str(text).map_err(|e| e.to_string())?;
        page.token = page.token.filter(|token| !token.is_empty());
        page.next_key = page.next_key.filter(|key| !key.is_empty());
        let names_a_place = page.token.is_some() || page.next_key.is_some();
        match page.is_truncated.or(names_a_place.then_some(true)) {
            None => Err("it does not say whether it is the whole list".to_owned()),
            Some(true) if !names_a_place => Err("it is cut off and names no place to go on".to_owned()),
            Some(goes_on) => Ok(Self { is_truncated: Some(goes_on), ..page }),
        }
    }

    /// Whether another page follows.
    pub(crate) fn goes_on(&self) -> bool {
        self.is_truncated == Some(true)
    }

    /// Whether keys, prefixes and the key to go on after (not the token) are percent-encoded.
    pub(crate) fn is_encoded(&self) -> bool {
        self.encoding.as_deref() == Some("url")
    }
}

/// A key as it is; `None` where its encoding is broken.
pub(crate) fn plain(text: &str, is_encoded: bool) -> Option<String> {
    match is_encoded {
        true => decode(&text.replace('+', " ")),
        false => Some(text.to_owned()),
    }
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
        let page = Page::read(text).unwrap();
        assert_eq!((page.goes_on(), page.is_encoded(), page.token.as_deref()), (true, false, Some("next==")));
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

    #[test]
    fn a_page_that_does_not_say_whether_it_is_the_last_is_none() {
        let page = |inner: &str| Page::read(&format!("<ListBucketResult><Name>b</Name>{inner}</ListBucketResult>"));
        for cut_off in ["", "<Contents><Key>k</Key><LastModified>t</LastModified></Contents>", "<NextContinuationToken/>"] {
            assert!(page(cut_off).unwrap_err().contains("whole list"), "{cut_off}");
        }
        assert!(Page::read("<html><body>welcome</body></html>").is_err());
        assert!(page("<IsTruncated>true</IsTruncated>").unwrap_err().contains("no place to go on"));
        assert!(!page("<IsTruncated>false</IsTruncated>").unwrap().goes_on());
        assert!(page("<NextContinuationToken>n</NextContinuationToken>").unwrap().goes_on());
        assert!(page("<NextKeyMarker>k</NextKeyMarker>").unwrap().goes_on());
        assert!(!page("<IsTruncated>false</IsTruncated><NextKeyMarker>k</NextKeyMarker>").unwrap().goes_on());
    }

    #[test]
    fn a_key_that_no_xml_can_hold_comes_encoded_and_no_other_is_changed() {
        let page = Page::read("<R><IsTruncated>false</IsTruncated><EncodingType>url</EncodingType></R>").unwrap();
        let plain = |text: &str| super::plain(text, page.is_encoded());
        assert_eq!(plain("org/%00%EF%BF%BE").as_deref(), Some("org/\u{0}\u{fffe}"));
        assert_eq!(plain("org/a%2Bb+c").as_deref(), Some("org/a+b c"));
        assert_eq!((plain("org/%"), plain("org/%FF")), (None, None));
        assert_eq!(super::plain("org/a+b%00", false).as_deref(), Some("org/a+b%00"));
    }
}
