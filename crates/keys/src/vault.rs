//! Vault and OpenBao: a key of the transit engine wraps the data key, over their JSON interface.

use crate::KeyError;
use crate::bound::{bind, unbind};
use crate::spec::SettingsOf;
use crate::vault_login::Login;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Certificate, Client, Method, RequestBuilder};
use seal::{DataKey, Recipient, SealError, WrapContext, Wrapped};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use terms::{Class, Secret};
use tokio::sync::Mutex;
use zeroize::{Zeroize, Zeroizing};

/// What may follow the key's name.
pub(crate) const SETTINGS: [&str; 11] =
    ["address", "mount", "namespace", "ca_file", "auth", "auth_mount", "token_file", "role", "role_id", "secret_id", "jwt_file"];
const CONNECT_SECONDS_MAX: u64 = 4;
const REQUEST_SECONDS_MAX: u64 = 6;
/// With the login, and all attempts and pauses.
const WHOLE_SECONDS_MAX: u64 = 20;
const ATTEMPTS_MAX: u32 = 3;
const WAIT: &str = crate::aws_trouble::WAIT;

/// A key of a transit engine.
pub(crate) struct VaultTransit {
    key: String,
    mount: String,
    namespace: Option<String>,
    address: String,
    client: Client,
    login: Login,
    /// From the last login; asked for anew when it is refused.
    token: Mutex<Option<Secret>>,
}

/// What Vault said instead of doing it.
pub(crate) struct Refusal {
    class: Class,
    cause: String,
    hint: String,
    /// Whether another token may be let in.
    is_login: bool,
}

impl Refusal {
    pub(crate) fn new(class: Class, cause: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { class, cause: cause.into(), hint: hint.into(), is_login: false }
    }
}

impl VaultTransit {
    pub(crate) fn new(key: &str, settings: &mut SettingsOf<'_>) -> Result<Self, KeyError> {
        let address = settings
            .get_or("address", &["BAO_ADDR", "VAULT_ADDR"])
            .ok_or_else(|| settings.wrong("it says nowhere where Vault is: set VAULT_ADDR or BAO_ADDR, or add ?address=https://…"))?;
        if !address.starts_with("https://") && !address.starts_with("http://") {
            return Err(settings.wrong("the address of Vault must begin with https:// or http://"));
        }
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b)) && !text.contains("..");
        // As slots name it, too: the mount before the key.
        let (mount, key) = match (settings.get("mount"), key.rsplit_once('/')) {
            (None, Some((mount, key))) => (mount.to_owned(), key),
            (mount, _) => (mount.unwrap_or_else(|| "transit".into()), key),
        };
        let namespace = settings.get_or("namespace", &["BAO_NAMESPACE", "VAULT_NAMESPACE"]);
        if !plain(key) || key.contains('/') || !plain(&mount) || namespace.as_deref().is_some_and(|namespace| !plain(namespace)) {
            return Err(settings.wrong("the names of key, mount and namespace are letters, digits, dots, dashes and underscores, with slashes between the parts of the latter two"));
        }
        let mut builder = Client::builder()
            .connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
            .timeout(Duration::from_secs(REQUEST_SECONDS_MAX))
            // A token must not follow where somebody else points to.
            .redirect(reqwest::redirect::Policy::none());
        if let Some(file) = settings.get_or("ca_file", &["BAO_CACERT", "VAULT_CACERT"]) {
            let unusable = |why: String| KeyError::Unusable {
                recipient: format!("vault-transit:{key}"),
                why,
                hint: "Name a PEM file of the certificates that sign Vault's own, with ?ca_file= or VAULT_CACERT.".into(),
                class: Class::Misuse,
            };
            let pem = std::fs::read(&file).map_err(|e| unusable(format!("cannot read {file}: {e}")))?;
            let found = Certificate::from_pem_bundle(&pem).map_err(|e| unusable(format!("{file}: {e}")))?;
            if found.is_empty() {
                return Err(unusable(format!("{file} holds no certificate")));
            }
            builder = builder.tls_certs_only(found);
        }
        let client = builder.build().map_err(|e| settings.wrong(format!("no client can be made: {}", chain(&e).trim_end_matches('.'))))?;
        let login = Login::new(settings)?;
        let address = address.trim_end_matches('/').to_owned();
        let trimmed = |text: String| text.trim_matches('/').to_owned();
        Ok(Self { key: key.to_owned(), mount: trimmed(mount), namespace: namespace.map(trimmed), address, client, login, token: Mutex::default() })
    }

    fn trouble(&self, operation: &'static str, refusal: Refusal) -> SealError {
        let why = format!("{}: {}", self.address, refusal.cause);
        SealError::Recipient { recipient: self.name(), operation, why, class: refusal.class, hint: refusal.hint }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}/v1/{path}", self.address)).header("X-Vault-Request", "true");
        match &self.namespace {
            Some(namespace) => request.header("X-Vault-Namespace", namespace),
            None => request,
        }
    }

    async fn token(&self) -> Result<Secret, Refusal> {
        let mut held = self.token.lock().await;
        match &*held {
            Some(token) => Ok(token.clone()),
            None => {
                let token = self.login.token(&|path, body| self.send(self.request(Method::POST, path).json(body))).await;
                let token = token.map_err(|refused| match refused.class {
                    // Vault does not say what is wrong with a login.
                    Class::Refused => Refusal {
                        cause: format!("the login is refused: {}", refused.cause),
                        hint: "Look at auth, auth_mount, role and the credentials themselves: they may have expired or been used up.".into(),
                        ..refused
                    },
                    _ => refused,
                })?;
                *held = Some(token.clone());
                Ok(token)
            }
        }
    }

    /// One call with a token, again after a pause while trouble may pass, and once with a new token when this one is refused.
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let mut is_renewed = false;
        let mut attempt = 1;
        loop {
            let refused = match self.token().await {
                Ok(token) => {
                    let mut request = self.request(method.clone(), path).header("X-Vault-Token", token.reveal());
                    if let Some(body) = body {
                        request = request.json(body);
                    }
                    match self.send(request).await {
                        Ok(answer) => return Ok(answer),
                        Err(refused) => refused,
                    }
                }
                Err(refused) => refused,
            };
            if refused.is_login && !is_renewed {
                is_renewed = true;
                *self.token.lock().await = None;
            } else if refused.class == Class::Transient && attempt < ATTEMPTS_MAX {
                tokio::time::sleep(Duration::from_millis(300 << attempt)).await;
                attempt += 1;
            } else {
                return Err(refused);
            }
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let transient = |cause: String| Refusal::new(Class::Transient, cause, WAIT);
        let answer = request.send().await.map_err(|e| transient(chain(&e)))?;
        let status = answer.status().as_u16();
        let bytes = Zeroizing::new(answer.bytes().await.map_err(|e| transient(chain(&e)))?.to_vec());
        if (200..300).contains(&status) { Ok(bytes) } else { Err(self.refusal(status, &bytes)) }
    }

    /// Vault's HTTP API, "HTTP Status Codes".
    fn refusal(&self, status: u16, body: &[u8]) -> Refusal {
        #[derive(Deserialize, Default)]
        struct Errors {
            #[serde(default)]
            errors: Vec<String>,
        }
        let told = serde_json::from_slice::<Errors>(body).unwrap_or_default().errors.join("; ");
        let cause =
            if told.is_empty() { format!("HTTP status {status}.") } else { format!("{} (HTTP status {status}).", told.trim().trim_end_matches('.')) };
        let (class, hint) = match status {
            403 => (
                Class::Refused,
                format!(
                    "Give a token whose policy has \"update\" on {0}/encrypt/{1} and {0}/decrypt/{1}; it may have expired.",
                    self.mount, self.key
                ),
            ),
            404 => (Class::Missing, format!("Look at mount, namespace and key: bao read {}/keys/{}.", self.mount, self.key)),
            400 if told.contains("key not found") => (Class::Missing, format!("Look at the key's name: bao read {}/keys/{}.", self.mount, self.key)),
            412 | 429 | 472 | 473 | 500.. => (Class::Transient, WAIT.to_owned()),
            _ => {
                (Class::Refused, format!("bao read {}/keys/{} shows what the key can do and which versions of it may decrypt.", self.mount, self.key))
            }
        };
        Refusal { class, cause, hint, is_login: status == 403 }
    }

    async fn bounded<T>(&self, operation: &'static str, call: impl Future<Output = Result<T, Refusal>>) -> Result<T, SealError> {
        match tokio::time::timeout(Duration::from_secs(WHOLE_SECONDS_MAX), call).await {
            Ok(answer) => answer.map_err(|refusal| self.trouble(operation, refusal)),
            Err(_) => {
                let cause = format!("no answer within {WHOLE_SECONDS_MAX} seconds.");
                Err(self.trouble(operation, Refusal::new(Class::Transient, cause, WAIT)))
            }
        }
    }

    /// Encrypts or decrypts. Context goes to every key (those that derive need it, others pass it over), associated data to those
    /// that take it: what it names is bound inside the plaintext as well, so nothing depends on the kind of key.
    async fn transit(&self, verb: &str, field: &str, value: &str, context: &WrapContext) -> Result<Zeroizing<String>, Refusal> {
        let names = STANDARD.encode(format!("bowline {} {}", context.repository, context.key));
        let path = format!("{}/{verb}/{}", self.mount, self.key);
        let mut body = json!({ field: value, "context": names, "associated_data": names });
        let mut answer = self.call(Method::POST, &path, Some(&body)).await;
        if answer.as_ref().is_err_and(|refused| refused.cause.contains("non-AEAD")) {
            body["associated_data"].take();
            if let Some(object) = body.as_object_mut() {
                object.remove("associated_data");
            }
            answer = self.call(Method::POST, &path, Some(&body)).await;
        }
        // The key itself may be in it.
        if let Some(Value::String(text)) = body.get_mut(field) {
            text.zeroize();
        }
        #[derive(Deserialize)]
        struct Answer {
            data: Data,
        }
        #[derive(Deserialize)]
        struct Data {
            ciphertext: Option<String>,
            plaintext: Option<String>,
        }
        let malformed =
            || Refusal::new(Class::Refused, "its answer is not that of a transit engine.", "Look at what answers there, and at the mount.");
        let data = serde_json::from_slice::<Answer>(&answer?).map_err(|_| malformed())?.data;
        data.ciphertext.or(data.plaintext).map(Zeroizing::new).ok_or_else(malformed)
    }

    /// Encrypting under a name that does not exist would make a new key of that name, where the token may do that.
    async fn refuse_absent_key(&self) -> Result<(), Refusal> {
        match self.call(Method::GET, &format!("{}/keys/{}", self.mount, self.key), None).await {
            // A token that may not look may not make one either, or its policy is its owner's choice.
            Err(refused) if refused.is_login => Ok(()),
            Err(refused) if refused.class == Class::Missing => {
                Err(Refusal { cause: format!("there is no transit key {} in {}.", self.key, self.mount), ..refused })
            }
            answer => answer.map(drop),
        }
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut parts = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        parts.push(error.to_string());
        next = error.source();
    }
    parts.dedup();
    parts.join(": ") + "."
}

#[async_trait]
impl Recipient for VaultTransit {
    /// Without the address: a Vault that moves keeps its keys.
    fn name(&self) -> String {
        let namespace = self.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        format!("vault-transit:{namespace}{}/{}", self.mount, self.key)
    }

    async fn wrap(&self, key: &DataKey, context: &WrapContext) -> Result<Wrapped, SealError> {
        let ciphertext = self
            .bounded("wrap", async {
                self.refuse_absent_key().await?;
                let plain = Zeroizing::new(STANDARD.encode(bind(key, context)));
                self.transit("encrypt", "plaintext", &plain, context).await
            })
            .await?;
        Ok(Wrapped { recipient: self.name(), bytes: ciphertext.as_bytes().to_vec() })
    }

    async fn unwrap(&self, wrapped: &Wrapped, context: &WrapContext) -> Result<Zeroizing<[u8; 32]>, SealError> {
        let foreign = || {
            Refusal::new(
                Class::Refused,
                "what it wrapped is another data key, or one of another repository.",
                "It was put there by somebody, or was altered.",
            )
        };
        self.bounded("unwrap", async {
            let ciphertext = std::str::from_utf8(&wrapped.bytes).map_err(|_| foreign())?;
            let plain = self.transit("decrypt", "ciphertext", ciphertext, context).await?;
            let bound = STANDARD.decode(plain.as_bytes()).map(Zeroizing::new).map_err(|_| foreign())?;
            unbind(&bound, context).ok_or_else(foreign)
        })
        .await
    }
}
