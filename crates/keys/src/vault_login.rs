//! How one is let in by Vault: a token that is there, AppRole, or the service account of a Kubernetes pod.

use crate::KeyError;
use crate::spec::{SettingsOf, environment};
use crate::vault::Refusal;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use terms::{Class, Secret};
use zeroize::Zeroizing;

/// Where Kubernetes puts a pod's own token.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

pub(crate) enum Login {
    Token { file: Option<PathBuf> },
    AppRole { mount: String, role_id: Source, secret_id: Source },
    Kubernetes { mount: String, role: String, jwt_file: PathBuf },
}

/// Where a secret is: never itself.
pub(crate) enum Source {
    Environment(String),
    File(PathBuf),
}

impl Source {
    fn parse(text: &str, name: &str, settings: &SettingsOf<'_>) -> Result<Self, KeyError> {
        match text.split_once(':') {
            Some(("env", variable)) => Ok(Self::Environment(variable.to_owned())),
            Some(("file", path)) if path.starts_with('/') => Ok(Self::File(path.into())),
            _ => Err(settings.wrong(format!("{name} is written as env:NAME or file:/PATH, never as itself"))),
        }
    }

    /// Read each time: agents renew files.
    fn read(&self) -> Result<Secret, Refusal> {
        let missing = |what: String| Refusal::new(Class::Missing, what, "Put it there, or name another place.");
        match self {
            Self::Environment(name) => {
                environment(name).map(Secret::new).ok_or_else(|| missing(format!("the environment variable {name} is not set.")))
            }
            Self::File(path) => {
                let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|e| missing(format!("cannot read {}: {e}.", path.display())))?;
                Ok(Secret::new(text.trim().to_owned()))
            }
        }
    }
}

impl Login {
    pub(crate) fn new(settings: &SettingsOf<'_>) -> Result<Self, KeyError> {
        let mount = |usual: &str| {
            let mount = settings.get("auth_mount").unwrap_or_else(|| usual.to_owned());
            let plain = !mount.is_empty() && mount.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b)) && !mount.contains("..");
            if plain { Ok(mount.trim_matches('/').to_owned()) } else { Err(settings.wrong("auth_mount is no name of a mount")) }
        };
        match settings.get("auth").as_deref() {
            None | Some("token") => Ok(Self::Token { file: settings.get("token_file").map(PathBuf::from) }),
            Some("approle") => {
                let source = |name, usual: &str| Source::parse(&settings.get(name).unwrap_or_else(|| usual.to_owned()), name, settings);
                Ok(Self::AppRole {
                    mount: mount("approle")?,
                    role_id: source("role_id", "env:VAULT_ROLE_ID")?,
                    secret_id: source("secret_id", "env:VAULT_SECRET_ID")?,
                })
            }
            Some("kubernetes") => Ok(Self::Kubernetes {
                mount: mount("kubernetes")?,
                role: settings.get("role").ok_or_else(|| settings.wrong("auth=kubernetes needs a role: &role=NAME"))?,
                jwt_file: settings.get("jwt_file").unwrap_or_else(|| SERVICE_ACCOUNT_TOKEN.into()).into(),
            }),
            Some(other) => Err(settings.wrong(format!("auth is {other:?}; it must be token, approle or kubernetes"))),
        }
    }

    /// A token; `post` sends one request without a token.
    pub(crate) async fn token<F>(&self, post: &impl Fn(&str, &Value) -> F) -> Result<Secret, Refusal>
    where
        F: Future<Output = Result<Zeroizing<Vec<u8>>, Refusal>>,
    {
        let (path, body) = match self {
            Self::Token { file: Some(file) } => return Source::File(file.clone()).read(),
            Self::Token { file: None } => return usual_token(),
            Self::AppRole { mount, role_id, secret_id } => {
                (format!("auth/{mount}/login"), json!({ "role_id": role_id.read()?.reveal(), "secret_id": secret_id.read()?.reveal() }))
            }
            Self::Kubernetes { mount, role, jwt_file } => {
                (format!("auth/{mount}/login"), json!({ "role": role, "jwt": Source::File(jwt_file.clone()).read()?.reveal() }))
            }
        };
        #[derive(Deserialize)]
        struct Answer {
            auth: Auth,
        }
        #[derive(Deserialize)]
        struct Auth {
            client_token: String,
        }
        let answer = post(&path, &body).await?;
        let malformed = |_| Refusal::new(Class::Refused, "the login's answer holds no token.", "Look at auth and auth_mount.");
        Ok(Secret::new(serde_json::from_slice::<Answer>(&answer).map_err(malformed)?.auth.client_token))
    }
}

/// As Vault's own program finds it: the environment, then the file that `vault login` writes.
fn usual_token() -> Result<Secret, Refusal> {
    if let Some(token) = ["BAO_TOKEN", "VAULT_TOKEN"].into_iter().find_map(environment) {
        return Ok(Secret::new(token));
    }
    let home = environment("HOME").map(|home| PathBuf::from(home).join(".vault-token"));
    match home.filter(|file| file.is_file()) {
        Some(file) => Source::File(file).read(),
        None => Err(Refusal::new(
            Class::Missing,
            "there is no token.",
            "Set VAULT_TOKEN or BAO_TOKEN, name a token_file, or use auth=approle or auth=kubernetes.",
        )),
    }
}
