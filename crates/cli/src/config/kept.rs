//! The configuration that a repository keeps, for a machine that has none.

use super::{Config, Repository};
use crate::fault::Fault;
use std::path::Path;

impl Config {
    /// What `text` says, `opened` being how the repository was reached: by its address and this machine's credentials, and so it is
    /// reached still. What is written at the same place is encrypted and locked there as ever. A copy elsewhere has keys of its own.
    pub fn kept(text: &str, place: &Path, opened: Self) -> Result<Self, Fault> {
        let kept = Self::parse(text, place)?;
        let repository = match place_of(&opened.repository.url) == place_of(&kept.repository.url) {
            true => Repository {
                url: opened.repository.url,
                access_key_id: opened.repository.access_key_id,
                secret_access_key: opened.repository.secret_access_key,
                session_token: opened.repository.session_token,
                profile: opened.repository.profile,
                ..kept.repository
            },
            false => opened.repository,
        };
        let config = Self { org: opened.org, repository, path: None, ..kept };
        config.check()?;
        Ok(config)
    }
}

fn place_of(url: &str) -> &str {
    url.split('?').next().unwrap_or_default().trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_after_a_restore_on_a_bare_machine_is_encrypted_and_locked_as_ever() {
        let text = "org = \"acme\"\n[repository]\nurl = \"s3://b/p\"\nregion = \"eu-west-1\"\nsse_kms_key_id = \"arn:x\"\nprofile = \"backup\"\n";
        let opened = |url: &str| Config::parse(&format!("org = \"acme\"\n[repository]\nurl = \"{url}\"\n"), Path::new("line")).unwrap();
        let kept = |url: &str| Config::kept(text, Path::new("kept"), opened(url)).unwrap().repository;
        let home = kept("s3://b/p/?endpoint=https://minio:9000");
        assert_eq!(home.sse(), store::Sse::Required, "the store must encrypt what is written next, too");
        assert_eq!((home.region.as_deref(), home.profile), (Some("eu-west-1"), None), "this machine has credentials of its own");
        let copy = kept("s3://b-replica/p");
        assert_eq!((copy.region, copy.sse_kms_key_id), (None, None), "another place has another region and key");
    }
}
