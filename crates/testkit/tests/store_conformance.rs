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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bucket_conforms() {
    let server = tokio::task::spawn_blocking(S3Server::shared).await.unwrap();
    server.create_bucket("conform");
    let url = server.url("conform", "org/kb");
    conform(store::open(&url, &server.options()).unwrap(), store::open_remover(&url, &server.options()).unwrap()).await;
}
