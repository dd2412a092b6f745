//! Every way to a bucket's credentials, and a CA of the house, through the program itself against a real S3 server.
//!
//! The container's, the instance's and STS's endpoints exist only inside AWS: here small stand-ins answer in their place, in AWS's documented
//! forms, with the real server's keys, so that a repository that is made and read proves that the credentials arrived.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use testkit::bowline::{Outcome, program};
use testkit::certificates::House;
use testkit::s3::{ACCESS_KEY_ID, S3Server, SECRET_ACCESS_KEY};

/// One configuration that names no keys, in a folder of its own.
struct Access {
    folder: tempfile::TempDir,
}

impl Access {
    fn new(server: &S3Server, bucket: &str, more: &str) -> Self {
        server.create_bucket(bucket);
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "org = \"acme\"\n[repository]\nurl = \"s3://{bucket}/b\"\nendpoint = \"{}\"\nregion = \"us-east-1\"\n{more}\n[encryption]\nrecipients = [\"file:{}\"]\n",
            server.endpoint(),
            folder.path().join("key").display()
        );
        std::fs::write(folder.path().join("bowline.toml"), text).unwrap();
        Self { folder }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn run(&self, word: &str, environment: &[(&str, &str)]) -> Outcome {
        let mut command = Command::new(program());
        command.env_clear().env("HOME", self.folder.path()).envs(environment.iter().copied()).stdin(Stdio::null());
        let output = command.arg("--config").arg(self.folder.path().join("bowline.toml")).args([word, "--json"]).output().unwrap();
        let lines = String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Outcome { code: output.status.code().unwrap_or(-1), lines, said: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    /// Makes a repository (a put) and reads it again (a get and a list).
    fn works(&self, environment: &[(&str, &str)]) {
        self.run("init", environment).result();
        let listed = self.run("list", environment);
        assert_eq!(listed.result()["backups"].as_array().map(Vec::len), Some(0), "{listed:#?}");
    }

    /// Reads the repository that is there.
    fn works_again(&self, environment: &[(&str, &str)]) {
        self.run("list", environment).result();
    }

    fn is_refused(&self, environment: &[(&str, &str)], slug: &str, words: &[&str]) {
        let outcome = self.run("list", environment);
        let (found, text) = outcome.error();
        assert_eq!(found, slug, "{outcome:#?}");
        for word in words {
            assert!(text.contains(word), "{word} in {text}");
        }
        assert!(!text.contains(SECRET_ACCESS_KEY), "{text}");
    }
}

/// A stand-in for one of AWS's endpoints: answers each request's head and body with a status and a body, and remembers the heads.
struct StandIn {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl StandIn {
    fn start(tls: Option<&House>, answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let config = tls.map(tls_config);
        std::thread::spawn({
            let asked = Arc::clone(&asked);
            move || {
                for connection in listener.incoming() {
                    let connection = connection.unwrap();
                    match &config {
                        None => serve(connection, &answer, &asked),
                        Some(config) => {
                            let session = rustls::ServerConnection::new(Arc::clone(config)).unwrap();
                            serve(rustls::StreamOwned::new(session, connection), &answer, &asked);
                        }
                    }
                }
            }
        });
        Self { port, asked }
    }
    fn asked(&self) -> String {
        self.asked.lock().unwrap().join("\n")
    }
}

fn tls_config(house: &House) -> Arc<rustls::ServerConfig> {
    use rustls::pki_types::pem::PemObject;
    let certificate = rustls::pki_types::CertificateDer::from_pem_file(house.file("server.pem")).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(house.file("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap())
}

/// One request and its answer; a client that goes away meanwhile is its own affair.
fn serve(connection: impl Read + Write, answer: &impl Fn(&str) -> (u16, String), asked: &Mutex<Vec<String>>) {
    let mut connection = BufReader::new(connection);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        match connection.read_line(&mut head) {
            Ok(count) if count > 0 => {}
            _ => return,
        }
    }
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    if connection.read_exact(&mut body).is_err() {
        return;
    }
    asked.lock().unwrap().push(head.clone());
    let (status, text) = answer(&format!("{head}{}", String::from_utf8_lossy(&body)));
    let whole = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len());
    let _ = connection.get_mut().write_all(whole.as_bytes());
    let _ = connection.get_mut().flush();
}

/// The real keys in the form in which containers and instances give them. The server knows no session tokens, so none is given.
fn keys() -> String {
    format!(
        r#"{{"Code":"Success","AccessKeyId":"{ACCESS_KEY_ID}","SecretAccessKey":"{SECRET_ACCESS_KEY}","Token":"","Expiration":"2099-01-01T00:00:00Z"}}"#
    )
}

fn server() -> &'static S3Server {
    S3Server::shared()
}

#[test]
fn keys_come_from_the_environment() {
    let access = Access::new(server(), "from-environment", "");
    access.works(&[("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)]);
    access.is_refused(&[("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)], "store-address", &["AWS_SECRET_ACCESS_KEY is not"]);
    let denied = [("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID), ("AWS_SECRET_ACCESS_KEY", "not-that-one")];
    access.is_refused(&denied, "store-denied", &["secret access key"]);
}

#[test]
fn a_host_without_root_certificates_is_told_what_it_lacks() {
    let access = Access::new(server(), "no-roots", "");
    let usual = [("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)];
    access.works(&usual);
    access.is_refused(&[usual[0], usual[1], ("SSL_CERT_FILE", "/dev/null")], "store-address", &["No CA certificates", "package ca-certificates"]);
}

#[test]
fn keys_come_from_a_profiles_file() {
    let access = Access::new(server(), "from-profile", "profile = \"kb\"");
    let text = format!(
        "[default]\naws_access_key_id = other\naws_secret_access_key = other\n[kb]\naws_access_key_id = {ACCESS_KEY_ID}\naws_secret_access_key = {SECRET_ACCESS_KEY}\n"
    );
    let file = access.file("credentials", &text);
    access.works(&[("AWS_SHARED_CREDENTIALS_FILE", &file)]);
    std::fs::create_dir(access.folder.path().join(".aws")).unwrap();
    access.file(".aws/credentials", &text);
    access.works_again(&[]);

    let by_name = Access::new(server(), "from-named-profile", "");
    by_name.works(&[("AWS_SHARED_CREDENTIALS_FILE", &file), ("AWS_PROFILE", "kb")]);
    by_name.is_refused(&[("AWS_SHARED_CREDENTIALS_FILE", &file)], "store-denied", &[]);
}

#[test]
fn keys_come_from_a_stand_in_for_the_containers_endpoint() {
    let secret = "Basic of-the-container";
    let expected = format!("authorization: {secret}\r\n");
    let container = StandIn::start(None, move |request| match request.starts_with("GET /role?of=task ") && request.contains(&expected) {
        true => (200, keys()),
        false => (403, r#"{"Code":"AccessDenied"}"#.to_owned()),
    });
    let url = format!("http://127.0.0.1:{}/role?of=task", container.port);
    let access = Access::new(server(), "from-container", "");
    let file = access.file("token", &format!("{secret}\n"));
    access.works(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url), ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &file)]);
    let count = || container.asked().matches("GET /role").count();
    let before = count();
    access.works_again(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url), ("AWS_CONTAINER_AUTHORIZATION_TOKEN", secret)]);
    assert_eq!(count(), before + 1, "a run that sends several requests asks once: {}", container.asked());
    access.is_refused(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url)], "store-denied", &["container's endpoint", "it answered 403"]);
    access.is_refused(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://c.example/x")], "store-address", &["c.example", "https://"]);

    let open = StandIn::start(None, |_| (200, keys()));
    access.works_again(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("http://127.0.0.1:{}/", open.port))]);
    assert!(!open.asked().contains("authorization"), "{}", open.asked());
}

#[test]
fn keys_come_from_a_stand_in_for_the_instances_metadata_with_its_token() {
    let instance = StandIn::start(None, |request| {
        let has_token = request.contains("x-aws-ec2-metadata-token: of-this-session\r\n");
        match request.split(' ').take(2).collect::<Vec<_>>()[..] {
            ["PUT", "/latest/api/token"] if request.contains("x-aws-ec2-metadata-token-ttl-seconds:") => (200, "of-this-session".to_owned()),
            ["GET", "/latest/meta-data/iam/security-credentials/"] if has_token => (200, "backup-role".to_owned()),
            ["GET", "/latest/meta-data/iam/security-credentials/backup-role"] if has_token => (200, keys()),
            _ => (401, String::new()),
        }
    });
    let access = Access::new(server(), "from-instance", "");
    access.works(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &format!("http://127.0.0.1:{}/", instance.port))]);

    let without_role = StandIn::start(None, |request| if request.starts_with("PUT") { (200, "t".to_owned()) } else { (404, String::new()) });
    let endpoint = format!("http://127.0.0.1:{}", without_role.port);
    access.is_refused(
        &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint)],
        "store-denied",
        &["no credentials", "has it a role?", "AWS_ACCESS_KEY_ID"],
    );
    let forbidden = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*endpoint), ("AWS_EC2_METADATA_DISABLED", "true")];
    access.is_refused(&forbidden, "store-denied", &["no credentials", "AWS_EC2_METADATA_DISABLED"]);
}

#[test]
fn keys_come_from_a_stand_in_for_sts_in_exchange_for_a_web_identity() {
    let house = House::new();
    let sts = StandIn::start(Some(&house), |request| {
        let wanted = ["AssumeRoleWithWebIdentity", "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fbackup", "WebIdentityToken=of-the-pod"];
        match wanted.iter().all(|word| request.contains(word)) {
            true => (
                200,
                format!(
                    "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><SessionToken></SessionToken>\
                     <SecretAccessKey>{SECRET_ACCESS_KEY}</SecretAccessKey><AccessKeyId>{ACCESS_KEY_ID}</AccessKeyId>\
                     <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
                ),
            ),
            false => {
                (400, "<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>no such pod</Message></Error></ErrorResponse>".to_owned())
            }
        }
    });
    let access = Access::new(server(), "from-web-identity", &format!("ca_file = {:?}", house.file("ca.pem")));
    let (good, bad) = (access.file("token", "of-the-pod"), access.file("stale", "of-another"));
    let url = format!("https://127.0.0.1:{}", sts.port);
    let role = ("AWS_ROLE_ARN", "arn:aws:iam::1:role/backup");
    access.works(&[("AWS_WEB_IDENTITY_TOKEN_FILE", &good), role, ("AWS_ENDPOINT_URL_STS", &url)]);
    let stale = [("AWS_WEB_IDENTITY_TOKEN_FILE", &*bad), role, ("AWS_ENDPOINT_URL_STS", &url)];
    access.is_refused(&stale, "store-denied", &["InvalidIdentityToken", "no such pod"]);
}

#[test]
fn a_ca_of_the_house_lets_the_program_in_and_its_absence_is_called_by_name() {
    let house = House::new();
    let server = S3Server::start_tls(&house.file("server.pem"), &house.file("server.key"));
    let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)];
    let access = Access::new(&server, "house", &format!("ca_file = {:?}", house.file("ca.pem")));
    access.works(&keys);
    let text = std::fs::read_to_string(access.folder.path().join("bowline.toml")).unwrap();
    access.file("bowline.toml", &text.lines().filter(|line| !line.starts_with("ca_file")).collect::<Vec<_>>().join("\n"));
    access.is_refused(&keys, "store-untrusted", &["s3://house/b", "certificate", "ca_file"]);
}
