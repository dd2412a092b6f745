//! What AWS KMS answered instead of doing it: the cause in a line, its class, and what to do next.

use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use std::error::Error;
use terms::Class;

pub(crate) const WAIT: &str = "Backups and WAL streaming that run go on. Run this again once it answers; for a restore that cannot wait, another recipient of the key opens it, such as a recovery key (--key FILE).";

/// What went wrong.
pub(crate) struct Told {
    pub(crate) class: Class,
    pub(crate) cause: String,
    pub(crate) hint: String,
}

impl Told {
    pub(crate) fn malformed() -> Self {
        let hint = "Look at what answers there: it is not AWS KMS.".to_owned();
        Self { class: Class::Refused, cause: "its answer holds no key.".into(), hint }
    }
}

/// Of a call about `key` that needs the permission `action`.
pub(crate) fn explain<E>(error: SdkError<E, HttpResponse>, key: &str, action: &str) -> Told
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let transient = |cause: String| Told { class: Class::Transient, cause, hint: WAIT.into() };
    match &error {
        SdkError::ServiceError(answer) => {
            let code = answer.err().code().unwrap_or("an error without a name");
            let message = answer.err().message().unwrap_or_default();
            of_code(code, message, answer.raw().status().as_u16(), key, action)
        }
        SdkError::TimeoutError(_) => transient("no answer in time.".into()),
        _ => before_asking(&chain(&error)).unwrap_or_else(|| transient(chain(&error))),
    }
}

/// What kept the SDK from asking at all, by the words of its errors (aws-credential-types, `CredentialsError`). Credentials that could
/// not be fetched just now are no such thing: that may pass.
fn before_asking(chain: &str) -> Option<Told> {
    let told = |class, cause: String, hint: &str| Some(Told { class, cause, hint: hint.to_owned() });
    let credentials = "Give this host credentials: a role of its instance, task or pod, a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.";
    if chain.contains("provider was not enabled") {
        return told(Class::Missing, "there are no AWS credentials on this host.".into(), credentials);
    }
    if chain.contains("not properly configured") {
        return told(Class::Misuse, chain.to_owned(), credentials);
    }
    let lower = chain.to_ascii_lowercase();
    if lower.contains("missing region") || lower.contains("missing signing region") {
        return told(Class::Misuse, chain.to_owned(), "Say in which region the key is: name it by its ARN, add ?region=…, or set AWS_REGION.");
    }
    None
}

/// AWS KMS API Reference, "Common Errors" and the errors of Encrypt and Decrypt.
fn of_code(code: &str, message: &str, status: u16, key: &str, action: &str) -> Told {
    let cause = if message.is_empty() { format!("{code}.") } else { format!("{code}: {}.", message.trim_end_matches('.')) };
    let (class, hint) = match code {
        "AccessDeniedException" => (
            Class::Refused,
            format!(
                "Allow {action} on {key} to the identity of this host (aws sts get-caller-identity names it), in the key's policy or by a grant."
            ),
        ),
        "DisabledException" => (Class::Refused, format!("aws kms enable-key --key-id {key}")),
        "KMSInvalidStateException" | "KMSInvalidState" => (
            Class::Refused,
            format!(
                "aws kms describe-key --key-id {key} names its state. If it is pending deletion, aws kms cancel-key-deletion at once: once it is deleted, what it alone opens is lost."
            ),
        ),
        "NotFoundException" => (Class::Missing, format!("Look at the key's name and region: aws kms describe-key --key-id {key}.")),
        "InvalidCiphertextException" | "IncorrectKeyException" => {
            (Class::Refused, "It was wrapped by another key, or for another repository or data key, or was altered.".to_owned())
        }
        "InvalidKeyUsageException" => (Class::Refused, "Use a symmetric key for encryption (SYMMETRIC_DEFAULT, ENCRYPT_DECRYPT).".to_owned()),
        "UnrecognizedClientException" | "InvalidClientTokenId" | "ExpiredTokenException" | "InvalidSignatureException" | "IncompleteSignature" => {
            (Class::Refused, "Renew this host's AWS credentials, and look at its clock.".to_owned())
        }
        "ThrottlingException" | "LimitExceededException" | "KMSInternalException" | "DependencyTimeoutException" | "KeyUnavailableException" => {
            (Class::Transient, WAIT.to_owned())
        }
        _ if status >= 500 || status == 429 => (Class::Transient, WAIT.to_owned()),
        _ => (Class::Refused, format!("aws kms describe-key --key-id {key}")),
    };
    Told { class, cause, hint }
}

/// The whole chain in a line, each part once.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ") + "."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kept_anybody_from_asking_is_told_apart_from_trouble_that_may_pass() {
        let class = |chain| before_asking(chain).map(|told| told.class);
        assert_eq!(class("dispatch failure: other: the credential provider was not enabled."), Some(Class::Missing));
        assert_eq!(class("dispatch failure: other: the credentials provider was not properly configured: no such profile."), Some(Class::Misuse));
        assert_eq!(class("failed to construct request: Invalid Configuration: Missing Region."), Some(Class::Misuse));
        assert_eq!(class("dispatch failure: other: an error occurred while loading credentials: dns error."), None);
        assert_eq!(class("dispatch failure: io error: client error (Connect): Connection refused."), None);
    }

    #[test]
    fn each_answer_has_its_class_and_says_what_to_do() {
        for (code, status, class, word) in [
            ("AccessDeniedException", 400, Class::Refused, "kms:Decrypt"),
            ("DisabledException", 400, Class::Refused, "enable-key"),
            ("KMSInvalidStateException", 400, Class::Refused, "cancel-key-deletion"),
            ("NotFoundException", 400, Class::Missing, "region"),
            ("IncorrectKeyException", 400, Class::Refused, "another key"),
            ("ThrottlingException", 400, Class::Transient, "Run this again"),
            ("KMSInternalException", 500, Class::Transient, "Run this again"),
            ("SomethingNew", 503, Class::Transient, "Run this again"),
            ("SomethingNew", 400, Class::Refused, "describe-key"),
            ("ExpiredTokenException", 400, Class::Refused, "credentials"),
        ] {
            let told = of_code(code, "because", status, "alias/kb", "kms:Decrypt");
            assert_eq!(told.class, class, "{code}");
            assert!(told.hint.contains(word), "{code}: {}", told.hint);
            assert!(told.cause.contains(code) && told.cause.contains("because"), "{}", told.cause);
        }
    }
}
