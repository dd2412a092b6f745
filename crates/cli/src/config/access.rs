//! The key with which a store is asked: looked up, and again later where it lies in files.

use super::SecretRef;
use crate::fault::Fault;
use store::{Renew, StoreOptions};
use terms::Secret;

const NAMES: [&str; 3] = ["access_key_id", "secret_access_key", "session_token"];

/// Options with this key alone: id, secret, token. `table` is where they stand in the configuration.
pub fn options_with(key: [Option<&SecretRef>; 3], table: &str) -> Result<StoreOptions, Fault> {
    let key = key.map(Option::<&SecretRef>::cloned);
    let [access_key_id, secret_access_key, session_token] = looked_up(&key, table)?;
    // A receiver runs for longer than a key that somebody renews in its file.
    let is_renewed = key.iter().flatten().any(|secret| matches!(secret, SecretRef::File(_)));
    let table = table.to_owned();
    let renew = is_renewed.then(|| Renew::new(move || looked_up(&key, &table).ok()));
    Ok(StoreOptions { access_key_id, secret_access_key, session_token, renew, ..StoreOptions::default() })
}

fn looked_up(key: &[Option<SecretRef>; 3], table: &str) -> Result<[Option<Secret>; 3], Fault> {
    let mut found = [None, None, None];
    for ((secret, name), found) in key.iter().zip(NAMES).zip(&mut found) {
        *found = secret.as_ref().map(|secret| secret.resolve(&format!("{table}.{name}"))).transpose()?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_files_is_read_again_and_one_of_the_environment_is_not() {
        let folder = std::env::temp_dir().join(format!("bowline-access-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, format!("{text}\n")).unwrap();
            SecretRef::File(path)
        };
        let (id, secret) = (file("id", "A"), file("secret", "a"));
        let options = options_with([Some(&id), Some(&secret), None], "repository").unwrap();
        assert_eq!(options.secret_access_key.as_ref().map(Secret::reveal), Some("a"));
        let renew = options.renew.unwrap();
        file("secret", "b");
        let [id, secret, token] = renew.read().unwrap();
        assert_eq!((id.unwrap().reveal(), secret.unwrap().reveal(), token.is_none()), ("A", "b", true));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(renew.read().is_none(), "a file that is being replaced is no key");
        let path = SecretRef::Env("PATH".to_owned());
        assert!(options_with([Some(&path), Some(&path), None], "repository").unwrap().renew.is_none());
    }
}
