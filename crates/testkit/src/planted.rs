//! Every word that a program under test says is searched for secrets, in every test.

use crate::s3::SECRET_ACCESS_KEY;

/// What keys begin with, and how many letters of base64 or bech32 follow in a real one: messages may name the beginnings.
const KEYS: [(&str, usize); 2] = [("bowline-key-1:", 43), ("AGE-SECRET-KEY-1", 58)];

/// Panics when `said` holds the secret of the S3 server, a key file's key, an age identity or a private key.
pub(crate) fn refuse_secrets(who: &str, said: &[u8]) {
    if let Some(what) = secret_in(said) {
        panic!("{who} tells a secret: {what}");
    }
}

fn secret_in(said: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(said);
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    let has_key = |begin: &str, letters: usize| text.split(begin).skip(1).any(|rest| rest.chars().take_while(|c| is_letter(*c)).count() >= letters);
    if let Some((begin, _)) = KEYS.into_iter().find(|(begin, letters)| has_key(begin, *letters)) {
        return Some(begin);
    }
    [SECRET_ACCESS_KEY, "PRIVATE KEY-----"].into_iter().find(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_and_what_only_names_one_is_not() {
        let key = format!("x bowline-key-1:{}:9f86d081", "A-_9".repeat(11));
        for said in [key.as_str(), &format!("AGE-SECRET-KEY-1{}", "Q".repeat(58)), "-----BEGIN PRIVATE KEY-----", SECRET_ACCESS_KEY] {
            assert!(secret_in(said.as_bytes()).is_some(), "{said}");
        }
        for said in ["its line does not begin with bowline-key-1:", "give an AGE-SECRET-KEY-1 with --key", "secret_access_key"] {
            assert_eq!(secret_in(said.as_bytes()), None, "{said}");
        }
    }
}
