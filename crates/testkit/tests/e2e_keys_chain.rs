//! Where the credentials for the AWS KMS come from: each place that the whole of AWS looks at, one at a time, with nothing else there. The
//! places are stand-ins on the loopback, and the KMS a mock: what is shown is that each is asked, and what it gives is used.

#[allow(dead_code, reason = "this one names its own credentials")]
#[path = "keys/ground.rs"]
mod ground;

use ground::{aws, cluster, private_file};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use testkit::{Bowline, Moto, RepositoryKind};

/// As AWS's own endpoints give them.
const CREDENTIALS: &str = r#"{"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-11-26T00:00:00Z", "Expiration": "2096-11-26T00:00:00Z",
    "AccessKeyId": "AKIAIOSFODNN7EXAMPLE", "SecretAccessKey": "planted-chain-secret-0001", "Token": "planted-chain-token-0001", "RoleArn": "arn:aws:iam::1:role/db"}"#;

/// A small server that gives credentials: every request that it got, as `METHOD /path`.
struct Giver {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Giver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("its address"));
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let shared = Arc::clone(&asked);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                drop(serve(connection, &shared));
            }
        });
        Self { address, asked }
    }

    fn was_asked(&self, line: &str) -> bool {
        self.asked.lock().expect("no holder panics").iter().any(|asked| asked.starts_with(line))
    }
}

/// The instance's metadata (version 2: a token first) and a container's credentials.
fn serve(mut connection: TcpStream, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut has_token = false;
    for line in lines {
        let line = line?.to_lowercase();
        if line.is_empty() {
            break;
        }
        has_token |= line.starts_with("x-aws-ec2-metadata-token:") || line.starts_with("authorization: planted-container-token");
    }
    asked.lock().expect("no holder panics").push(first.clone());
    let roles = "/latest/meta-data/iam/security-credentials";
    let (status, body) = match first.split(' ').take(2).collect::<Vec<_>>()[..] {
        ["PUT", "/latest/api/token"] => (200, "planted-metadata-token"),
        ["GET", path] if path.starts_with(&format!("{roles}-extended")) => (404, ""),
        ["GET", path] if has_token && path.trim_end_matches('/') == roles => (200, "db"),
        ["GET", path] if has_token && (path == format!("{roles}/db") || path == "/credentials") => (200, CREDENTIALS),
        _ => (401, ""),
    };
    let more = if first.starts_with("PUT") { "x-aws-ec2-metadata-token-ttl-seconds: 600\r\n" } else { "" };
    connection.write_all(format!("HTTP/1.1 {status} X\r\nConnection: close\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
}

#[test]
fn credentials_come_from_each_place_that_aws_names() {
    let (cluster, moto, giver) = (cluster(), Moto::start(), Giver::start());
    moto.make_key("kb");
    let recipient = aws(&moto, "alias/kb");
    let opens = |what: &str, environment: &[(&str, &str)]| {
        let bowline = Bowline::sealed_for(&cluster, RepositoryKind::Folder, &[&recipient], environment);
        bowline.ok(&["backup"]);
        assert_eq!(bowline.ok(&["list"])["backups"].as_array().map(Vec::len), Some(1), "{what}");
    };
    let off = ("AWS_EC2_METADATA_DISABLED", "true");

    // With none of them there is nothing to sign with, and it says so.
    let nowhere = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::chown(nowhere.path(), cluster.user().map(|user| user.0), None).expect("chown");
    let url = format!("file://{}/repository", nowhere.path().display());
    let bowline = Bowline::at(&cluster, &url, "", &[off]);
    bowline.set_recipients(&cluster, &[&recipient]);
    let outcome = bowline.run(&["init"]);
    let (slug, text) = outcome.error();
    assert!(slug.starts_with("key-") && text.to_lowercase().contains("credential"), "{slug}: {text}");

    opens("an instance's metadata", &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &giver.address)]);
    assert!(giver.was_asked("PUT /latest/api/token"), "version 2 asks for a token first");

    let container = format!("{}/credentials", giver.address);
    opens(
        "a container's",
        &[off, ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container), ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "planted-container-token")],
    );
    assert!(giver.was_asked("GET /credentials"));

    // Files that only Bowline's user reads.
    let place = Bowline::sealed_for(&cluster, RepositoryKind::Folder, &["file:{key}"], &[]);
    let profile = "[bowline]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = planted-chain-secret-0002\n";
    let file = private_file(&place, "credentials", profile).display().to_string();
    opens("a profile", &[off, ("AWS_SHARED_CREDENTIALS_FILE", &file), ("AWS_PROFILE", "bowline")]);

    let token = private_file(&place, "token", "planted-web-identity-token").display().to_string();
    let sts = moto.endpoint();
    let role = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.as_str()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/db"),
        ("AWS_ROLE_SESSION_NAME", "bowline"),
    ];
    opens("a web identity", &[&[off, ("AWS_ENDPOINT_URL_STS", &sts), ("AWS_REGION", testkit::moto::REGION)], &role[..]].concat());
}
