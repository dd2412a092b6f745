//! An application's objects in a bucket, as the application itself writes and reads them.

use bytes::Bytes;
use futures::TryStreamExt;
use std::fmt::Display;
use std::future::Future;
use store::{Bucket, Item, ItemFacts, Outcome, Site, Step, StoreOptions};
use terms::{Clock, Secret, SystemClock};

/// A bucket that keeps versions, from outside a runtime.
pub struct InBucket {
    /// All objects below the url, for whoever needs more than the functions here.
    pub site: Site,
    runtime: tokio::runtime::Runtime,
}

impl InBucket {
    /// The objects at this url. Panics when that is none, or when the bucket cannot be made to keep versions.
    pub fn open(url: &str, options: &StoreOptions, makes_versioned: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime can be made");
        let site = runtime.block_on(async {
            if makes_versioned {
                let bucket = Bucket::open(url, options).expect("an address").expect("a bucket");
                assert_eq!(bucket.carry_out(&Step::Version).await.expect("an answer"), Outcome::Done);
            }
            Site::open(url, options).expect("an address")
        });
        Self { site, runtime }
    }

    /// All objects of a bucket at this address, with this key.
    pub fn at(endpoint: &str, bucket: &str, access_key_id: &str, secret_access_key: &str) -> Self {
        let options = StoreOptions {
            endpoint: Some(endpoint.to_owned()),
            region: Some("us-east-1".to_owned()),
            access_key_id: Some(Secret::new(access_key_id.to_owned())),
            secret_access_key: Some(Secret::new(secret_access_key.to_owned())),
            ..StoreOptions::default()
        };
        Self::open(&format!("s3://{bucket}/"), &options, false)
    }

    /// Carries out what only a runtime can.
    pub fn wait<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.block_on(what)
    }

    /// Writes an object, or a new version of it.
    pub fn try_put(&self, key: &str, body: &[u8]) -> Result<(), String> {
        let body = Bytes::copy_from_slice(body);
        self.wait(async {
            let mut upload = self.site.begin(key, body.len() as u64, &ItemFacts::default(), SystemClock.now(), None).await?;
            upload.piece(body).await?;
            upload.finish().await
        })
        .map(drop)
        .map_err(words)
    }

    /// An object's body; `None` when it is not there.
    pub fn try_get(&self, key: &str) -> Result<Option<Vec<u8>>, String> {
        self.wait(async {
            let Some(item) = self.site.look(key).await.map_err(words)? else { return Ok(None) };
            let read = self.site.read(&item, 0..item.bytes).await.map_err(words)?;
            Ok(read.map(|(body, _)| body.to_vec()))
        })
    }

    /// Removes an object; where versions are kept it is one still.
    pub fn try_hide(&self, key: &str) -> Result<(), String> {
        self.wait(self.site.hide(key, None)).map(drop).map_err(words)
    }

    /// Every object that is there.
    pub fn try_keys(&self) -> Result<Vec<String>, String> {
        let items: Vec<Item> = self.wait(self.site.current().try_collect()).map_err(words)?;
        Ok(items.into_iter().map(|item| item.key).collect())
    }

    /// Every version, the newest of each key first: key, whether it is a removal.
    pub fn versions(&self) -> Vec<Item> {
        self.wait(self.site.versions().try_collect()).expect("a listing")
    }
}

fn words(error: impl Display) -> String {
    error.to_string()
}
