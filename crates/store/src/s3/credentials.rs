//! Finds credentials and regions where AWS's own tools look: configuration, environment, shared profile files, the machine's role.

use crate::StoreOptions;
use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use terms::Secret;
use tokio::sync::Mutex;

/// How long a key is used before it is looked at again where it came from.
const USED_FOR: Duration = Duration::from_secs(3);
/// Who did not look for so long looks twice, lest a request is made with a key that was replaced in the meantime.
const LONG_AGO: Duration = Duration::from_secs(60);
/// Files that are written one by one are written within this.
const LOOKS_APART: Duration = Duration::from_secs(1);

/// What was found before asking the machine.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Keys, when they are fixed; otherwise object_store asks web identity, the container or the instance.
    pub(super) keys: Option<Keys>,
    /// The region of the environment or the profile.
    pub(super) region: Option<String>,
}

/// An access key.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) access_key_id: Secret,
    pub(super) secret_access_key: Secret,
    pub(super) session_token: Option<Secret>,
}

impl Keys {
    fn credential(&self) -> AwsCredential {
        let text = |secret: &Secret| secret.reveal().to_owned();
        AwsCredential { key_id: text(&self.access_key_id), secret_key: text(&self.secret_access_key), token: self.session_token.as_ref().map(text) }
    }
}

/// A key out of files or the environment, read again now and then: who renews it in its file need not start anything anew.
#[derive(Debug)]
pub(super) struct Renewed {
    options: StoreOptions,
    used_for: Duration,
    long_ago: Duration,
    looks_apart: Duration,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    credential: Arc<AwsCredential>,
    looked: Instant,
    /// Another one that was read last. It counts when it is read the same again: its parts may lie in files that are written one by one.
    seen: Option<AwsCredential>,
}

impl Renewed {
    pub(super) fn new(options: StoreOptions, keys: &Keys) -> Self {
        let kept = Kept { credential: Arc::new(keys.credential()), looked: Instant::now(), seen: None };
        Self { options, used_for: USED_FOR, long_ago: LONG_AGO, looks_apart: LOOKS_APART, kept: Mutex::new(kept) }
    }

    async fn look(&self, kept: &mut Kept) {
        let now = self.read().await.filter(|now| *now != *kept.credential);
        kept.looked = Instant::now();
        match now {
            Some(now) if kept.seen.as_ref() == Some(&now) => (kept.credential, kept.seen) = (Arc::new(now), None),
            now => kept.seen = now,
        }
    }

    /// What is there now; `None` while that cannot be read.
    async fn read(&self) -> Option<AwsCredential> {
        let mut options = self.options.clone();
        let read = move || {
            if let Some(renew) = &options.renew {
                [options.access_key_id, options.secret_access_key, options.session_token] = renew.read()?;
            }
            find(&options, &environment).ok()?.keys.map(|keys| keys.credential())
        };
        tokio::task::spawn_blocking(read).await.ok()?
    }
}

#[async_trait]
impl CredentialProvider for Renewed {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        // Held while reading, so that many requests at once read once.
        let mut kept = self.kept.lock().await;
        let since = kept.looked.elapsed();
        if since >= self.used_for {
            self.look(&mut kept).await;
            if since >= self.long_ago && kept.seen.is_some() {
                tokio::time::sleep(self.looks_apart).await;
                self.look(&mut kept).await;
            }
        }
        Ok(Arc::clone(&kept.credential))
    }
}

/// Where settings come from: the environment, or a test.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's environment; empty values count as absent.
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Looks in order at the explicit keys, the explicit profile, the environment and the default profile. The error is a reason for people.
pub(super) fn find(options: &StoreOptions, variable: Lookup) -> Result<Found, String> {
    let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
    match (&options.access_key_id, &options.secret_access_key) {
        (Some(id), Some(secret)) => {
            let keys = Keys { access_key_id: id.clone(), secret_access_key: secret.clone(), session_token: options.session_token.clone() };
            return Ok(Found { keys: Some(keys), region });
        }
        (None, None) => {}
        (Some(_), None) => return Err("access_key_id is set but secret_access_key is not".to_owned()),
        (None, Some(_)) => return Err("secret_access_key is set but access_key_id is not".to_owned()),
    }
    if options.profile.is_none() {
        match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            (Some(id), Some(secret)) => {
                let keys = Keys {
                    access_key_id: Secret::new(id),
                    secret_access_key: Secret::new(secret),
                    session_token: variable("AWS_SESSION_TOKEN").map(Secret::new),
                };
                return Ok(Found { keys: Some(keys), region });
            }
            (None, None) => {}
            (Some(_), None) => return Err("AWS_ACCESS_KEY_ID is set but AWS_SECRET_ACCESS_KEY is not".to_owned()),
            (None, Some(_)) => return Err("AWS_SECRET_ACCESS_KEY is set but AWS_ACCESS_KEY_ID is not".to_owned()),
        }
    }
    let named = options.profile.clone().or_else(|| variable("AWS_PROFILE"));
    let profile = profile(named.as_deref(), variable)?;
    Ok(Found { keys: profile.keys, region: region.or(profile.region) })
}

/// Reads one profile of `~/.aws/credentials` and `~/.aws/config`. Only a profile asked for by name must be there.
fn profile(named: Option<&str>, variable: Lookup) -> Result<Found, String> {
    let home = variable("HOME").map(PathBuf::from);
    let file = |name: &str, default: &str| variable(name).map(PathBuf::from).or_else(|| home.as_ref().map(|home| home.join(".aws").join(default)));
    let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials");
    let config = file("AWS_CONFIG_FILE", "config");
    let name = named.unwrap_or("default");
    let in_config = if name == "default" { name.to_owned() } else { format!("profile {name}") };
    let mut settings = section(config.as_deref(), &in_config)?;
    let more = section(credentials.as_deref(), name)?;
    if settings.is_none() && more.is_none() {
        let files: Vec<String> = [&credentials, &config].into_iter().flatten().map(|path| path.display().to_string()).collect();
        return match named {
            Some(name) => Err(format!("there is no profile {name:?} in {}", files.join(" or "))),
            None => Ok(Found::default()),
        };
    }
    let mut settings = settings.take().unwrap_or_default();
    settings.extend(more.unwrap_or_default());
    let region = settings.get("region").cloned();
    let mut secret = |key: &str| settings.remove(key).map(Secret::new);
    match (secret("aws_access_key_id"), secret("aws_secret_access_key"), secret("aws_session_token")) {
        (Some(access_key_id), Some(secret_access_key), session_token) => {
            Ok(Found { keys: Some(Keys { access_key_id, secret_access_key, session_token }), region })
        }
        (None, None, _) => match ["role_arn", "sso_session", "sso_start_url", "credential_process"].iter().find(|key| settings.contains_key(**key)) {
            Some(key) if named.is_some() => {
                Err(format!("profile {name:?} uses {key}, which Bowline does not support yet: put the keys it gives into the environment"))
            }
            _ => Ok(Found { keys: None, region }),
        },
        _ => Err(format!("profile {name:?} has only one of aws_access_key_id and aws_secret_access_key")),
    }
}

/// One section of an INI file as AWS writes them; `None` when file or section is not there.
fn section(file: Option<&Path>, name: &str) -> Result<Option<BTreeMap<String, String>>, String> {
    let Some(file) = file else { return Ok(None) };
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {}: {error}", file.display())),
    };
    let mut found: Option<BTreeMap<String, String>> = None;
    let mut is_inside = false;
    for line in text.lines() {
        let plain = line.trim();
        if plain.is_empty() || plain.starts_with(['#', ';']) {
            continue;
        }
        if let Some(title) = plain.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            is_inside = title.split_whitespace().eq(name.split_whitespace());
            if is_inside {
                found.get_or_insert_default();
            }
        } else if let Some(settings) = found.as_mut().filter(|_| is_inside) {
            // Indented lines belong to a nested setting such as "s3 =", none of which is used here.
            if let Some((key, value)) = plain.split_once('=').filter(|_| !line.starts_with(char::is_whitespace)) {
                settings.insert(key.trim().to_owned(), value.trim().to_owned());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file below the system's temporary folder, removed when dropped.
    struct Written(PathBuf);
    impl Written {
        fn new(text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("bowline-profile-{}", crate::token::token()));
            std::fs::write(&path, text).unwrap();
            Self(path)
        }
    }
    impl Drop for Written {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn revealed(found: &Found) -> Option<(&str, &str, Option<&str>)> {
        let keys = found.keys.as_ref()?;
        Some((keys.access_key_id.reveal(), keys.secret_access_key.reveal(), keys.session_token.as_ref().map(Secret::reveal)))
    }

    #[test]
    fn explicit_keys_come_before_the_environment_and_that_before_a_profile() {
        let credentials = Written::new(
            "# mine\n[default]\naws_access_key_id = D\naws_secret_access_key=ds\n\n[kb]\naws_access_key_id=K\naws_secret_access_key = k=s\naws_session_token= t\n",
        );
        let config = Written::new(
            "[default]\nregion = eu-west-1\n[profile kb]\nregion = eu-central-1\ns3 =\n  region = wrong\n[profile role]\nrole_arn = arn:x\n",
        );
        let files = |name: &str| match name {
            "AWS_SHARED_CREDENTIALS_FILE" => Some(credentials.0.display().to_string()),
            "AWS_CONFIG_FILE" => Some(config.0.display().to_string()),
            _ => None,
        };
        let keys_too = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some("E".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("es".to_owned()),
            _ => files(name),
        };
        let explicit = StoreOptions {
            access_key_id: Some(Secret::new("X".into())),
            secret_access_key: Some(Secret::new("xs".into())),
            ..StoreOptions::default()
        };
        assert_eq!(revealed(&find(&explicit, &keys_too).unwrap()), Some(("X", "xs", None)));
        assert_eq!(revealed(&find(&StoreOptions::default(), &keys_too).unwrap()), Some(("E", "es", None)));
        let default = find(&StoreOptions::default(), &files).unwrap();
        assert_eq!((revealed(&default), default.region.as_deref()), (Some(("D", "ds", None)), Some("eu-west-1")));
        let named = |profile: &str| StoreOptions { profile: Some(profile.to_owned()), ..StoreOptions::default() };
        let kb = find(&named("kb"), &keys_too).unwrap();
        assert_eq!((revealed(&kb), kb.region.as_deref()), (Some(("K", "k=s", Some("t"))), Some("eu-central-1")));
        assert!(find(&named("absent"), &files).unwrap_err().contains("no profile \"absent\""));
        assert!(find(&named("role"), &files).unwrap_err().contains("role_arn"));
        assert!(find(&StoreOptions::default(), &|_| None).unwrap().keys.is_none());
    }

    #[tokio::test]
    async fn a_key_that_is_renewed_counts_once_it_was_read_the_same_twice() {
        let file = Written::new("a");
        let path = file.0.clone();
        let secret = move || std::fs::read_to_string(&path).ok().map(Secret::new);
        let id = || Some(Secret::new("id".to_owned()));
        let read = secret.clone();
        let options = StoreOptions {
            access_key_id: id(),
            secret_access_key: secret(),
            renew: Some(crate::Renew::new(move || Some([id(), Some(read()?), None]))),
            ..StoreOptions::default()
        };
        let keys = find(&options, &|_| None).unwrap().keys.unwrap();
        let provider = Renewed { used_for: Duration::ZERO, ..Renewed::new(options, &keys) };
        let mut used = Vec::new();
        for text in [Some("a"), Some("half"), Some("b"), None, Some("b"), Some("b")] {
            match text {
                Some(text) => std::fs::write(&file.0, text).unwrap(),
                None => std::fs::remove_file(&file.0).unwrap(),
            }
            used.push(provider.get_credential().await.unwrap().secret_key.clone());
        }
        assert_eq!(used, ["a", "a", "a", "a", "a", "b"]);
        // Who asks rarely looks twice at once.
        let rarely = Renewed { long_ago: Duration::ZERO, looks_apart: Duration::ZERO, ..provider };
        std::fs::write(&file.0, "c").unwrap();
        assert_eq!(rarely.get_credential().await.unwrap().secret_key, "c");
    }

    #[test]
    fn half_a_key_is_an_error_that_names_the_missing_half() {
        let half = StoreOptions { access_key_id: Some(Secret::new("X".into())), ..StoreOptions::default() };
        assert!(find(&half, &|_| None).unwrap_err().contains("secret_access_key is not"));
        let lookup = |name: &str| (name == "AWS_ACCESS_KEY_ID").then(|| "E".to_owned());
        assert!(find(&StoreOptions::default(), &lookup).unwrap_err().contains("AWS_SECRET_ACCESS_KEY is not"));
    }
}
