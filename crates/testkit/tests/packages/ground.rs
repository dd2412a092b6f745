//! An application's objects in a folder or a bucket, as the application itself writes and reads them.

use bytes::Bytes;
use futures::TryStreamExt;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use store::{Bucket, Site, Step, StoreOptions};
use terms::{Clock, SystemClock, Timestamp};
use testkit::Cluster;
use testkit::bowline::files_below;

pub fn now() -> Timestamp {
    SystemClock.now()
}

/// Where the application keeps its objects.
pub trait Objects: Sync {
    fn put(&self, key: &str, body: &[u8]);
    fn get(&self, key: &str) -> Option<Vec<u8>>;
    fn keys(&self) -> Vec<String>;
    /// Whether its listings tell fractions of seconds.
    fn tells_fractions(&self) -> bool;
    /// All of it is gone.
    fn destroy(&self);
}

/// A folder that the cluster's user may write to.
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    pub fn make(cluster: &Cluster, name: &str) -> Self {
        let path = cluster.home().join(name);
        cluster.psql(&format!("\\! umask 0 && mkdir -m 777 {}", path.display()));
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.path.display())
    }

    /// As if it had been written so long ago.
    pub fn age(&self, key: &str, by: std::time::Duration) {
        let file = fs::File::options().write(true).open(self.path.join(key)).expect("it is there");
        file.set_modified(std::time::SystemTime::now() - by).expect("a time can be set");
    }

    pub fn remove(&self, key: &str) {
        fs::remove_file(self.path.join(key)).expect("it is there");
    }

    pub fn all(&self) -> Vec<(String, Vec<u8>)> {
        self.keys().into_iter().map(|key| (key.clone(), self.get(&key).expect("it is there"))).collect()
    }

    fn make_parents(&self, of: &Path) {
        use std::os::unix::fs::PermissionsExt;
        let parent = of.parent().expect("a parent");
        if !parent.exists() {
            self.make_parents(parent);
            fs::create_dir(parent).expect("a folder can be made");
            fs::set_permissions(parent, fs::Permissions::from_mode(0o777)).expect("and opened");
        }
    }
}

impl Objects for Folder {
    fn put(&self, key: &str, body: &[u8]) {
        let target = self.path.join(key);
        self.make_parents(&target);
        // As an application does that knows how: never half a file under its name.
        let half = self.path.with_extension("half");
        fs::write(&half, body).expect("a file can be written");
        fs::rename(half, target).expect("and renamed");
    }
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        fs::read(self.path.join(key)).ok()
    }
    fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> =
            files_below(&self.path).iter().map(|file| file.strip_prefix(&self.path).expect("below").display().to_string()).collect();
        keys.sort();
        keys
    }
    fn tells_fractions(&self) -> bool {
        true
    }
    fn destroy(&self) {
        for entry in fs::read_dir(&self.path).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() { fs::remove_dir_all(entry) } else { fs::remove_file(entry) }.expect("it can be removed");
        }
    }
}

/// A bucket that keeps versions.
pub struct InBucket {
    pub site: Site,
    runtime: tokio::runtime::Runtime,
}

impl InBucket {
    pub fn open(url: &str, options: &StoreOptions, makes_versioned: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime can be made");
        let site = runtime.block_on(async {
            if makes_versioned {
                let bucket = Bucket::open(url, options).expect("an address").expect("a bucket");
                assert_eq!(bucket.carry_out(&Step::Version).await.expect("an answer"), store::Outcome::Done);
            }
            Site::open(url, options).expect("an address")
        });
        Self { site, runtime }
    }

    pub fn wait<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.block_on(what)
    }

    /// Every version, the newest of each key first: key, whether it is a removal.
    pub fn versions(&self) -> Vec<store::Item> {
        self.wait(self.site.versions().try_collect()).expect("a listing")
    }
}

impl Objects for InBucket {
    fn put(&self, key: &str, body: &[u8]) {
        let body = Bytes::copy_from_slice(body);
        self.wait(async {
            let mut upload = self.site.begin(key, body.len() as u64, &store::ItemFacts::default(), now(), None).await?;
            upload.piece(body).await?;
            upload.finish().await
        })
        .expect("an object can be put");
    }
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.wait(async {
            let item = self.site.look(key).await.expect("an answer")?;
            let read = self.site.read(&item, 0..item.bytes).await.expect("an answer");
            read.map(|(body, _)| body.to_vec())
        })
    }
    fn keys(&self) -> Vec<String> {
        let items: Vec<store::Item> = self.wait(self.site.current().try_collect()).expect("a listing");
        items.into_iter().map(|item| item.key).collect()
    }
    fn tells_fractions(&self) -> bool {
        false
    }
    fn destroy(&self) {
        for key in self.keys() {
            self.wait(self.site.hide(&key, None)).expect("it can be hidden");
        }
    }
}
