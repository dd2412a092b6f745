//! A real server whose certificate only a CA of the house vouches for.

use crate::{certificates::House, path, s3::S3Server};
use bytes::Bytes;
use store::{Created, StoreError, StoreOptions};
use terms::Explain;

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_of_the_house_is_trusted_when_named_and_its_absence_is_called_by_name() {
    let (house, server) = tokio::task::spawn_blocking(|| {
        let house = House::new();
        let server = S3Server::start_tls(&house.file("server.pem"), &house.file("server.key"));
        server.create_bucket("trust");
        (house, server)
    })
    .await
    .unwrap();
    let trusting = StoreOptions { ca_file: Some(house.file("ca.pem")), ..server.options() };
    let url = server.url("trust", "x");
    let store = store::open(&url, &trusting).unwrap();
    assert_eq!(store.put_new(&path("a"), Bytes::from_static(b"sealed")).await.unwrap(), Created::New);
    assert_eq!(store.get(&path("a")).await.unwrap(), &b"sealed"[..]);

    // Another CA is as good as none.
    let stranger = House::new();
    for options in [server.options(), StoreOptions { ca_file: Some(stranger.file("ca.pem")), ..server.options() }] {
        let store = store::open(&url, &options).unwrap();
        let error = store.put_new(&path("b"), Bytes::from_static(b"x")).await.unwrap_err();
        let text = error.advice().to_string();
        assert!(matches!(error, StoreError::Untrusted { .. }), "{error:?}");
        assert!(text.contains("certificate") && text.contains("ca_file") && text.contains("store-untrusted"), "{text}");
    }
    let blind = store::open(&url, &server.options()).unwrap();
    let error = blind.get(&path("a")).await.unwrap_err();
    assert!(matches!(error, StoreError::Untrusted { .. }), "{error:?}");
    assert!(store.info(&path("b")).await.unwrap().is_none());
}
