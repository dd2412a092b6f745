//! How recipients are written in the configuration: `file:/path`, `aws-kms:KEY?…`, `vault-transit:KEY?…`, `age:age1…`.

use crate::aws::AwsKms;
use crate::recovery::is_identity_file;
use crate::vault::VaultTransit;
use crate::{KeyError, KeyFile, RecoveryIdentity, RecoveryKey};
use async_trait::async_trait;
use seal::{DataKey, Recipient, SealError, WrapContext, Wrapped};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use terms::Explain;
use zeroize::Zeroizing;

/// A recipient as it is named in a configuration or on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    text: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    File(PathBuf),
    AwsKms(String, Settings),
    Vault(String, Settings),
    Recovery(RecoveryKey),
}

impl Spec {
    /// The key file that it names.
    pub fn file(&self) -> Option<&Path> {
        match &self.kind {
            Kind::File(path) => Some(path),
            _ => None,
        }
    }

    /// The one key whose loss would be theirs all: a KMS key that one region alone has.
    pub fn is_single_region_kms(&self) -> bool {
        // Of an alias nobody knows before AWS is asked; it is taken for what most keys are.
        matches!(&self.kind, Kind::AwsKms(key, _) if !key.contains("mrk-"))
    }

    /// Whether its private half is kept elsewhere.
    pub fn is_recovery(&self) -> bool {
        matches!(self.kind, Kind::Recovery(_))
    }

    /// Ready to wrap and unwrap. Reads files, asks nobody over the network.
    pub fn open(&self) -> Result<Arc<dyn Recipient>, KeyError> {
        Ok(match &self.kind {
            Kind::File(path) => Arc::new(KeyFile::load(path)?),
            Kind::AwsKms(key, settings) => Arc::new(AwsKms::new(key, &mut settings.reader(&self.text))?),
            Kind::Vault(key, settings) => Arc::new(VaultTransit::new(key, &mut settings.reader(&self.text))?),
            Kind::Recovery(key) => Arc::new(key.clone()),
        })
    }

    /// The same, for where other recipients may open what this one cannot: what is wrong with it is told when it is asked.
    pub fn open_among_others(&self) -> Arc<dyn Recipient> {
        self.open().unwrap_or_else(|error| {
            let kind = self.text.split_inclusive(':').next().unwrap_or_default().to_owned();
            Arc::new(Absent { name: self.text.clone(), kind, error })
        })
    }
}

/// In the place of a recipient that cannot be used, where others may do: it says why when it is its turn.
struct Absent {
    name: String,
    /// `file:` and the like.
    kind: String,
    error: KeyError,
}

impl Absent {
    fn told(&self, operation: &'static str) -> SealError {
        let why = self.error.in_a_line();
        SealError::Recipient { recipient: self.name.clone(), operation, why, class: self.error.class(), hint: self.error.hint() }
    }
}

#[async_trait]
impl Recipient for Absent {
    fn name(&self) -> String {
        self.name.clone()
    }
    /// Which key it would be nobody knows.
    fn owns(&self, wrapped_for: &str) -> bool {
        wrapped_for.starts_with(&self.kind)
    }
    async fn wrap(&self, _: &DataKey, _: &WrapContext) -> Result<Wrapped, SealError> {
        Err(self.told("wrap"))
    }
    async fn unwrap(&self, _: &Wrapped, _: &WrapContext) -> Result<Zeroizing<[u8; 32]>, SealError> {
        Err(self.told("unwrap"))
    }
}

impl FromStr for Spec {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        // A private key written by mistake into a configuration must not come back in an error.
        if text.to_ascii_uppercase().contains("AGE-SECRET-KEY") {
            let why =
                "it is the private half of a recovery key, which belongs on no host and in no configuration; name the public half, age1…".into();
            return Err(KeyError::NotARecipient { text: "age:…".into(), why });
        }
        let wrong = |why: &str| KeyError::NotARecipient { text: text.to_owned(), why: why.to_owned() };
        let (kind, rest) = text.split_once(':').ok_or_else(|| wrong("it does not begin with a kind and a colon"))?;
        let kind = match kind {
            "file" if rest.starts_with('/') => Kind::File(PathBuf::from(rest)),
            "file" => return Err(wrong("a key file is named by its absolute path")),
            "aws-kms" | "vault-transit" => {
                let (key, query) = rest.split_once('?').unwrap_or((rest, ""));
                if key.is_empty() {
                    return Err(wrong("it names no key"));
                }
                let settings = Settings::parse(query).map_err(|why| wrong(&why))?;
                let is_aws = kind == "aws-kms";
                let kind = if is_aws { Kind::AwsKms(key.to_owned(), settings) } else { Kind::Vault(key.to_owned(), settings) };
                return Self { text: text.to_owned(), kind }.checked();
            }
            "age" => Kind::Recovery(rest.parse().map_err(|why: String| wrong(&why))?),
            _ => return Err(wrong("there are no recipients of this kind")),
        };
        Ok(Self { text: text.to_owned(), kind })
    }
}

impl Spec {
    /// Names that do not exist are told when the configuration is read, not when the key is needed.
    fn checked(self) -> Result<Self, KeyError> {
        let known: &[&str] = match &self.kind {
            Kind::AwsKms(..) => &crate::aws::SETTINGS,
            Kind::Vault(..) => &crate::vault::SETTINGS,
            _ => &[],
        };
        let given = match &self.kind {
            Kind::AwsKms(_, settings) | Kind::Vault(_, settings) => &settings.0,
            _ => return Ok(self),
        };
        match given.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(self),
            Some(name) => {
                let why = format!("it has no setting {name:?}; known are {}", known.join(", "));
                Err(KeyError::NotARecipient { text: self.text, why })
            }
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What follows the question mark: `name=value`, parted by `&`, with `%XX` for bytes that would end a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings(BTreeMap<String, String>);

impl Settings {
    fn parse(query: &str) -> Result<Self, String> {
        let mut found = BTreeMap::new();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| format!("its setting {part:?} has no value"))?;
            if found.insert(name.to_owned(), decoded(value)?).is_some() {
                return Err(format!("its setting {name:?} is given twice"));
            }
        }
        Ok(Self(found))
    }

    fn reader<'s>(&'s self, recipient: &'s str) -> SettingsOf<'s> {
        SettingsOf { settings: self, recipient }
    }
}

/// The settings of one recipient, with its name for what is wrong with them.
pub(crate) struct SettingsOf<'s> {
    settings: &'s Settings,
    recipient: &'s str,
}

impl SettingsOf<'_> {
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        self.settings.0.get(name).cloned()
    }

    /// The setting, or the first of these environment variables that says something.
    pub(crate) fn get_or(&self, name: &str, variables: &[&str]) -> Option<String> {
        self.get(name).or_else(|| variables.iter().find_map(|variable| environment(variable)))
    }

    pub(crate) fn wrong(&self, why: impl Into<String>) -> KeyError {
        KeyError::NotARecipient { text: self.recipient.to_owned(), why: why.into() }
    }
}

/// The one place of this room that reads the environment.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next(), rest.next()].map(|d| d.and_then(|d| char::from(d).to_digit(16)));
                let [Some(high), Some(low)] = digits else { return Err(format!("{text:?} has a % that no two hexadecimal digits follow")) };
                (high * 16 + low) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| format!("{text:?} is not text"))
}

/// The recipient that was given where a file may be given, too, if it is one.
pub fn named(given: &Path) -> Option<Result<Spec, KeyError>> {
    let text = given.to_str()?;
    ["file:", "aws-kms:", "vault-transit:", "age:"].iter().any(|kind| text.starts_with(kind)).then(|| text.parse())
}

/// Whatever opens with what was given: a recipient, a Bowline key file, or the identities of an age file.
pub fn opened_by(given: &Path) -> Result<Vec<Arc<dyn Recipient>>, KeyError> {
    if let Some(spec) = named(given) {
        return Ok(vec![spec?.open()?]);
    }
    if is_identity_file(given) {
        let identities = RecoveryIdentity::load(given)?;
        return Ok(identities.into_iter().map(|identity| Arc::new(identity) as Arc<dyn Recipient>).collect());
    }
    Ok(vec![Arc::new(KeyFile::load(given)?)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_back_and_nonsense_is_named() {
        for text in [
            "file:/etc/bowline/key",
            "aws-kms:alias/kb",
            "aws-kms:arn:aws:kms:eu-west-1:111122223333:key/mrk-1?region=eu-west-1&endpoint=http://127.0.0.1:1",
            "vault-transit:kb?address=https://vault:8200&mount=team/transit&auth=approle",
        ] {
            assert_eq!(text.parse::<Spec>().unwrap().to_string(), text);
        }
        for (text, word) in [
            ("pigeon:x", "no recipients of this kind"),
            ("nothing", "a kind and a colon"),
            ("file:key", "absolute"),
            ("aws-kms:", "names no key"),
            ("aws-kms:k?regoin=x", "regoin"),
            ("vault-transit:k?address", "no value"),
            ("vault-transit:k?mount=a&mount=b", "twice"),
            ("age:age1nonsense", "age"),
        ] {
            let error = text.parse::<Spec>().unwrap_err();
            let why = terms::Explain::detail(&error);
            assert!(why.contains(word), "{text}: {why}");
        }
    }

    #[test]
    fn a_private_key_is_refused_and_not_repeated() {
        let error = "age:AGE-SECRET-KEY-1QQQQ".parse::<Spec>().unwrap_err();
        let told = format!("{error} {}", terms::Explain::detail(&error));
        assert!(told.contains("public half") && !told.contains("1QQQQ"), "{told}");
    }
}
