//! Every store keeps the same promises: memory, a folder, a bucket of a real server.

use std::sync::Arc;
use store::{Memory, StoreOptions};
use testkit::{conformance::conform, s3::S3Server};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_conforms() {
    let memory = Memory::new();
    conform(Arc::new(memory.clone()), Arc::new(memory)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_folder_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}/repository", folder.path().display());
    store::create_root(&url).await.unwrap();
    let options = StoreOptions::default();
    conform(store::open(&url, &options).unwrap(), store::open_remover(&url, &options).unwrap()).await;
}

/// Whoever is stopped (SIGSTOP, a frozen container) while it holds the lock of an object in a folder stops everybody else, so what
/// takes time (the bytes and their fsync) is done before the lock is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_folder_locks_an_object_for_its_rename_alone() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let (store, path) = (store::open(&url, &StoreOptions::default()).unwrap(), store::ObjectPath::new("leases/one.json").unwrap());
    let version = store.replace(&path, "first".into(), None).await.unwrap().unwrap();
    let lock = std::fs::File::open(folder.path().join("leases/.lock-one.json")).unwrap();
    lock.lock().unwrap();
    let replaced = tokio::spawn({
        let (store, path) = (Arc::clone(&store), path.clone());
        async move { store.replace(&path, "the second".into(), Some(&version)).await }
    });
    let is_written = || {
        let mut files = std::fs::read_dir(folder.path().join("leases")).unwrap().map(|entry| entry.unwrap());
        files.any(|file| file.file_name().to_string_lossy().starts_with(".tmp-") && file.metadata().is_ok_and(|found| found.len() == 10))
    };
    testkit::bowline::wait("the bytes to be written without the lock", std::time::Duration::from_secs(10), is_written);
    assert_eq!(store.get(&path).await.unwrap(), "first");
    drop(lock);
    assert!(replaced.await.unwrap().unwrap().is_some());
    assert_eq!(store.get(&path).await.unwrap(), "the second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bucket_conforms() {
    let server = tokio::task::spawn_blocking(S3Server::shared).await.unwrap();
    server.create_bucket("conform");
    let url = server.url("conform", "org/kb");
    conform(store::open(&url, &server.options()).unwrap(), store::open_remover(&url, &server.options()).unwrap()).await;
}
