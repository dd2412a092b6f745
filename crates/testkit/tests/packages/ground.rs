//! An application's objects in a folder or a bucket, as the application itself writes and reads them.

use packages::{Place, Settings};
use std::fs;
use std::path::{Path, PathBuf};
use store::StoreOptions;
use terms::{Clock, SystemClock, Timestamp};
use testkit::Cluster;
pub use testkit::InBucket;
use testkit::bowline::files_below;
use testkit::s3::S3Server;

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

impl Objects for InBucket {
    fn put(&self, key: &str, body: &[u8]) {
        self.try_put(key, body).expect("an object can be put");
    }
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.try_get(key).expect("an answer")
    }
    fn keys(&self) -> Vec<String> {
        self.try_keys().expect("a listing")
    }
    fn tells_fractions(&self) -> bool {
        false
    }
    fn destroy(&self) {
        for key in self.keys() {
            self.try_hide(&key).expect("it can be hidden");
        }
    }
}

pub fn place(url: &str, options: &StoreOptions) -> Place {
    Place { url: url.to_owned(), options: options.clone() }
}

/// A bucket, one that its versions are copied to by whoever tests, both from this prefix on, and what names both.
pub fn beside(name: &str, prefix: &str) -> (InBucket, InBucket, Settings) {
    let (server, copy_name) = (S3Server::shared(), format!("{name}-copy"));
    let options = server.options();
    let [primary, copy] = [name, &copy_name].map(|bucket| {
        server.create_bucket(bucket);
        server.url(bucket, prefix)
    });
    let settings = Settings {
        primary: place(&primary, &options),
        replica: Some(place(&copy, &options)),
        replication_role: None,
        replication_target: None,
        replica_kms_key: None,
    };
    (InBucket::open(&primary, &options, true), InBucket::open(&copy, &options, true), settings)
}
