//! Reads repository addresses, and spells them without secrets.

use crate::StoreError;
use std::path::PathBuf;

/// Where a repository lies, read from its url.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A folder on a file system: an absolute path.
    Folder(PathBuf),
    /// A prefix in a bucket.
    Bucket(BucketAddress),
}

/// Whose object store it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Cloud {
    /// S3, of Amazon or of anybody else.
    #[default]
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure Blob Storage.
    Microsoft,
}

impl Cloud {
    /// What an address of it begins with.
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Google => "gs",
            Self::Microsoft => "az",
        }
    }
}

/// The parts of `s3://bucket/prefix?region=…`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct BucketAddress {
    /// Whose bucket it is.
    pub(crate) cloud: Cloud,
    /// The bucket's name.
    pub(crate) bucket: String,
    /// The prefix without slashes at its ends; empty for the whole bucket.
    pub(crate) prefix: String,
    /// What follows `?`, decoded, in order.
    pub(crate) settings: Vec<(String, String)>,
}

/// The settings an address may carry; secrets are not among them.
pub(crate) const SETTINGS: [&str; 6] = ["region", "endpoint", "path_style", "ca_file", "profile", "checksum"];

impl Address {
    /// Reads `file:///abs/path` or `s3://bucket/prefix?key=value&…`.
    pub(crate) fn parse(url: &str) -> Result<Self, StoreError> {
        let bad = |why: String| StoreError::BadAddress { url: without_secrets(url), why };
        let Some((scheme, rest)) = url.split_once(':') else {
            let why = match url.starts_with('/') {
                true => format!("a folder is written file://{}", without_secrets(url)),
                false => "it has no scheme such as file: or s3:".to_owned(),
            };
            return Err(bad(why));
        };
        match scheme {
            "file" => folder(rest).map(Self::Folder).map_err(bad),
            "s3" => bucket(rest, Cloud::S3).map(Self::Bucket).map_err(bad),
            "gs" => bucket(rest, Cloud::Google).map(Self::Bucket).map_err(bad),
            "az" => bucket(rest, Cloud::Microsoft).map(Self::Bucket).map_err(bad),
            "gcs" => Err(bad("Google Cloud Storage is written gs://bucket/prefix".to_owned())),
            "azure" | "abfs" | "abfss" => Err(bad("Azure Blob Storage is written az://container/prefix".to_owned())),
            _ => Err(bad(format!("{scheme:?} is no kind of store Bowline knows: it knows file://, s3://, gs:// and az://"))),
        }
    }
}

/// A url with whatever may hold a secret left out: user and password, and all that follows `?`.
pub(crate) fn without_secrets(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    match (plain.split_once("://"), plain.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://{place}"),
        _ => plain.to_owned(),
    }
}

/// What every path below `folder` begins with: `a/b` gives `a/b/`, the root gives nothing.
pub(crate) fn folder_prefix(folder: &str) -> String {
    match folder.trim_matches('/') {
        "" => String::new(),
        plain => format!("{plain}/"),
    }
}

fn folder(rest: &str) -> Result<PathBuf, String> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    let path = path.strip_prefix("localhost").filter(|tail| tail.starts_with('/')).unwrap_or(path);
    if !path.starts_with('/') {
        return Err(format!("the folder must be absolute: file:///{} has three slashes", path.trim_start_matches("./")));
    }
    let decoded = decode(path).ok_or("it holds a broken %-code")?;
    let folder: PathBuf = PathBuf::from(decoded).components().collect();
    if folder.components().any(|part| part == std::path::Component::ParentDir) {
        return Err("the folder must not contain ..".to_owned());
    }
    if folder.parent().is_none() {
        return Err("the root of the file system is no place for a repository".to_owned());
    }
    Ok(folder)
}

fn bucket(rest: &str, cloud: Cloud) -> Result<BucketAddress, String> {
    let rest = rest.strip_prefix("//").ok_or("a bucket is written s3://bucket/prefix")?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if bucket.contains('@') {
        return Err("credentials do not belong in the address: set access_key_id and secret_access_key, or the environment".to_owned());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if bucket.is_empty() || !bucket.chars().all(plain) {
        return Err("it names no bucket: s3://bucket/prefix".to_owned());
    }
    let prefix = prefix.trim_matches('/').to_owned();
    if !prefix.is_empty() {
        crate::ObjectPath::new(prefix.as_str())
            .map_err(|_| "the prefix must be plain parts (letters, digits and . _ - = +) joined by /".to_owned())?;
    }
    let mut settings = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !SETTINGS.contains(&key) {
            // The value is not repeated: it may be a key somebody put there by mistake.
            return Err(format!("it carries an unknown setting {key:?}: an address may carry {}", SETTINGS.join(", ")));
        }
        let value = decode(value).ok_or_else(|| format!("the value of {key} holds a broken %-code"))?;
        settings.push((key.to_owned(), value));
    }
    Ok(BucketAddress { cloud, bucket: bucket.to_owned(), prefix, settings })
}

/// Undoes %-codes; `None` when one is broken or the result is not UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use terms::Explain;

    #[test]
    fn an_address_gives_its_folder_or_its_bucket_prefix_and_settings() {
        assert_eq!(Address::parse("file:///srv/pg%20backups/").unwrap(), Address::Folder("/srv/pg backups".into()));
        assert_eq!(Address::parse("file:/srv/b").unwrap(), Address::Folder("/srv/b".into()));
        let Address::Bucket(found) = Address::parse("s3://pair.backups/org/kb/?region=eu-central-1&endpoint=http%3A%2F%2F127.0.0.1:9000").unwrap()
        else {
            panic!("a bucket was meant");
        };
        assert_eq!((found.bucket.as_str(), found.prefix.as_str()), ("pair.backups", "org/kb"));
        assert_eq!(found.settings[1], ("endpoint".to_owned(), "http://127.0.0.1:9000".to_owned()));
    }

    #[test]
    fn a_wrong_address_says_what_is_wrong_and_repeats_no_secret() {
        for (url, words) in [
            ("file://srv/backups", "file:///srv/backups"),
            ("/srv/backups", "file:///srv/backups"),
            ("backups", "no scheme"),
            ("file:///", "root"),
            ("file:///srv/../etc", ".."),
            ("gcs://b/p", "gs://"),
            ("abfss://b/p", "az://"),
            ("ftp://b/p", "no kind of store"),
            ("s3://", "no bucket"),
            ("s3://b/a//b", "plain parts"),
            ("s3://b/p?secret_access_key=hunter2", "unknown setting"),
            ("s3://AKIA:hunter2@b/p", "do not belong"),
        ] {
            let error = Address::parse(url).unwrap_err();
            let text = error.advice().to_string();
            assert!(text.contains(words), "{url}: {text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
