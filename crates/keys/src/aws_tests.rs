//! The KMS' errors as the SDK reads them off the wire, from a server that answers only with them.

use crate::aws::AwsKms;
use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};
use seal::{DataKey, Recipient, RepositoryId, SealError, WrapContext, Wrapped};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use terms::{Class, Explain};

/// Answers every request so, until the process ends; counts them.
fn server(status: &'static str, body: &'static str) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
            let mut request = [0; 8192];
            let _ = connection.read(&mut request);
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/x-amz-json-1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(body.as_bytes()));
        }
    });
    (address, asked)
}

fn unwrapped_at(endpoint: &str) -> SealError {
    // reqwest and the SDK both take the one provider.
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("id", "planted-secret", None, None, "test"))
        .endpoint_url(endpoint)
        .retry_config(aws_sdk_kms::config::retry::RetryConfig::standard().with_max_attempts(2))
        .timeout_config(aws_sdk_kms::config::timeout::TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(1)).build())
        .build();
    let kms = AwsKms::with_client("alias/kb", endpoint, aws_sdk_kms::Client::from_conf(config));
    let key = DataKey::random();
    let context = WrapContext { repository: RepositoryId::random(), key: key.id() };
    let wrapped = Wrapped { recipient: "aws-kms:arn:aws:kms:eu-west-1:111122223333:key/1234".into(), bytes: vec![1; 100] };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(kms.unwrap(&wrapped, &context)).unwrap_err()
}

#[test]
fn each_error_of_the_kms_is_told_with_its_class_key_and_place() {
    for (status, body, class, word, asks) in [
        (
            "400 Bad Request",
            r#"{"__type":"AccessDeniedException","Message":"not authorized to perform: kms:Decrypt"}"#,
            Class::Refused,
            "kms:Decrypt on arn:",
            1,
        ),
        ("400 Bad Request", r#"{"__type":"DisabledException","message":"it is disabled"}"#, Class::Refused, "enable-key", 1),
        ("400 Bad Request", r#"{"__type":"KMSInvalidStateException","message":"is pending deletion"}"#, Class::Refused, "cancel-key-deletion", 1),
        ("400 Bad Request", r#"{"__type":"NotFoundException","message":"no such key"}"#, Class::Missing, "region", 1),
        ("400 Bad Request", r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#, Class::Transient, "Run this again", 2),
        ("503 Service Unavailable", "{}", Class::Transient, "Run this again", 2),
        ("200 OK", "{}", Class::Refused, "not AWS KMS", 1),
    ] {
        let (endpoint, asked) = server(status, body);
        let error = unwrapped_at(&endpoint);
        assert_eq!(error.class(), class, "{body}: {error:?}");
        assert!(error.hint().contains(word), "{body}: {}", error.hint());
        assert!(error.to_string().contains("aws-kms:alias/kb") && error.detail().contains(&endpoint), "{error}: {}", error.detail());
        assert!(!format!("{error:?}{}", error.detail()).contains("planted-secret"));
        assert_eq!(asked.load(Ordering::Relaxed), asks, "{body}");
    }
}

#[test]
fn nobody_there_and_nobody_who_answers_are_told_in_time() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", free.local_addr().unwrap());
    let begun = Instant::now();
    // It accepts in the kernel and never answers.
    let silent = unwrapped_at(&endpoint);
    drop(free);
    let gone = unwrapped_at(&endpoint);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    for error in [silent, gone] {
        assert_eq!((error.class(), error.slug()), (Class::Transient, "key-unreachable"), "{error:?}");
    }
}
