//! Other object stores for tests, each a server of its own on a free loopback port: versitygw, MinIO, and the mocks moto and azurite.

use crate::loopback::{free_ports, http, spawn_for_life};
use crate::s3::{ACCESS_KEY_ID, SECRET_ACCESS_KEY};
use object_store::ClientOptions;
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use store::StoreOptions;
use terms::Secret;

/// From a cold start on a busy machine.
const READY_SECONDS_MAX: u64 = 90;
/// The account that azurite always has, and its key, which its documentation prints.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// The key of MinIO's own KMS.
pub const MINIO_KEY: &str = "my-key";

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// Over a folder; ignores the wish for encryption silently.
    Versitygw,
    /// With a KMS of its own. Compiling it takes minutes: only `./test --full` installs it.
    Minio,
    /// A mock of AWS, not a store: it checks no signature and takes any key.
    Moto,
    /// Microsoft's own emulator of its blob storage.
    Azurite,
}

/// A running server; it ends with the test's process, or when dropped.
#[derive(Debug)]
pub struct ObjectServer {
    make: Make,
    port: u16,
    child: Child,
    folder: tempfile::TempDir,
}

impl ObjectServer {
    /// Starts it and waits until it answers. Panics with the reason when that does not work.
    pub fn start(make: Make) -> Self {
        Self::start_with(make, &[])
    }

    /// The same with these environment variables.
    pub fn start_with(make: Make, environment: &[(String, String)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the server can be made");
        let log = folder.path().join("log");
        for _ in 0..3 {
            let port = free_ports(1)[0];
            let out = std::fs::File::create(&log).expect("the log can be made");
            let mut command = make.command(port, folder.path());
            command.envs(environment.iter().cloned());
            command.stdin(Stdio::null()).stdout(out.try_clone().expect("the log can be shared")).stderr(out);
            let mut child = spawn_for_life(command);
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(READY_SECONDS_MAX) && child.try_wait().is_ok_and(|ended| ended.is_none()) {
                if http(port, make.ready().0, b"").is_some_and(|answer| make.ready().1.iter().any(|status| answer.contains(status))) {
                    return Self { make, port, child, folder };
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("{make:?} did not start in three attempts; its log: {}", std::fs::read_to_string(&log).unwrap_or_default());
    }

    /// Where it keeps what it has; the objects are below `data`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The port it answers at.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        match self.make {
            Make::Azurite => format!("http://127.0.0.1:{}/{AZURITE_ACCOUNT}", self.port),
            _ => format!("http://127.0.0.1:{}", self.port),
        }
    }

    /// The url of a place in a bucket.
    pub fn url(&self, bucket: &str, prefix: &str) -> String {
        let scheme = if self.make == Make::Azurite { "az" } else { "s3" };
        format!("{scheme}://{bucket}/{prefix}")
    }

    /// The account or key id, and its secret.
    pub fn credentials(&self) -> (&'static str, &'static str) {
        match self.make {
            Make::Azurite => (AZURITE_ACCOUNT, AZURITE_KEY),
            _ => (ACCESS_KEY_ID, SECRET_ACCESS_KEY),
        }
    }

    /// Endpoint and key for [`store::open`].
    pub fn options(&self) -> StoreOptions {
        let (id, secret) = self.credentials();
        StoreOptions {
            endpoint: Some(self.endpoint()),
            region: Some("us-east-1".to_owned()),
            access_key_id: Some(Secret::new(id.to_owned())),
            secret_access_key: Some(Secret::new(secret.to_owned())),
            ..StoreOptions::default()
        }
    }

    /// Makes a bucket or container, and nothing more.
    pub async fn create_bucket(&self, name: &str) {
        if self.make == Make::Azurite {
            return self.create_container(name).await;
        }
        let bucket = store::Bucket::open(&self.url(name, ""), &self.options()).expect("the address is one").expect("S3 has buckets");
        let made = bucket.carry_out(&store::Step::Create { object_lock: false }).await.expect("the server answers");
        assert_eq!(made, store::Outcome::Done, "cannot make the bucket {name}");
    }

    /// object_store has no call for this, but its signer.
    async fn create_container(&self, name: &str) {
        let client = ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).expect("a client can be made");
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = "PUT".parse().expect("a method");
        *request.uri_mut() = format!("{}/{name}?restype=container", self.endpoint()).parse().expect("an address");
        request.headers_mut().insert("content-length", "0".parse().expect("a header"));
        let key = AzureCredential::AccessKey(AzureAccessKey::try_new(AZURITE_KEY).expect("a key"));
        AzureAuthorizer::new(&key, AZURITE_ACCOUNT).try_authorize(&mut request).expect("the request can be signed");
        let answer = client.execute(request).await.expect("the emulator answers");
        assert!(answer.status().is_success(), "cannot make the container {name}: {}", answer.status());
    }

    /// The same from outside a runtime.
    pub fn create_bucket_now(&self, name: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        runtime.block_on(self.create_bucket(name));
    }
}

impl Drop for ObjectServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The mock looks whether an object is there and writes it in two steps: of racing puts with a condition two succeed now and then, which no
/// store does. So that it answers one request at a time.
const ONE_AT_A_TIME: &str =
    "import moto.server as s; run = s.run_simple; s.run_simple = lambda *a, **k: run(*a, **{**k, 'threaded': False}); s.main()";

impl Make {
    fn program(self) -> PathBuf {
        let (variable, word) = match self {
            Self::Versitygw => ("BOWLINE_VERSITYGW", "versitygw"),
            Self::Minio => ("BOWLINE_MINIO", "minio"),
            Self::Moto => ("BOWLINE_MOTO", "moto"),
            Self::Azurite => ("BOWLINE_AZURITE", "azurite"),
        };
        let program = std::env::var_os(variable).map(PathBuf::from);
        let program = program.unwrap_or_else(|| panic!("{variable} is not set: source scripts/prepare {word} (a test never passes by skipping)"));
        assert!(program.exists(), "{variable} is {}, which is not there: source scripts/prepare {word}", program.display());
        program
    }

    fn command(self, port: u16, folder: &Path) -> Command {
        let program = self.program();
        let sub = |name: &str| {
            let path = folder.join(name);
            std::fs::create_dir_all(&path).expect("a folder for the server can be made");
            path
        };
        let mut command = Command::new(&program);
        match self {
            Self::Versitygw => {
                command.env("ROOT_ACCESS_KEY", ACCESS_KEY_ID).env("ROOT_SECRET_KEY", SECRET_ACCESS_KEY);
                command.args(["--port", &format!("127.0.0.1:{port}"), "--quiet", "posix", "--versioning-dir"]).arg(sub("versions")).arg(sub("data"));
            }
            Self::Minio => {
                command.env("MINIO_ROOT_USER", ACCESS_KEY_ID).env("MINIO_ROOT_PASSWORD", SECRET_ACCESS_KEY);
                // 32 bytes in base64; of no worth.
                command.env("MINIO_KMS_SECRET_KEY", format!("{MINIO_KEY}:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="));
                command.env("MINIO_UPDATE", "off").env("MINIO_CALLHOME_ENABLE", "off").env("MINIO_BROWSER", "off");
                command.args(["server", "--address", &format!("127.0.0.1:{port}")]).arg(sub("data"));
            }
            Self::Moto => {
                command = Command::new(program.with_file_name("python3"));
                command.args(["-c", ONE_AT_A_TIME, "-H", "127.0.0.1", "-p", &port.to_string()]);
            }
            Self::Azurite => {
                command = Command::new("node");
                command.arg(&program).args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--skipApiVersionCheck", "--silent"]);
                command.args(["--disableTelemetry", "--location"]).arg(sub("data"));
            }
        }
        command.current_dir(folder);
        command
    }

    /// What is asked to see whether it answers, and how it does.
    fn ready(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Versitygw => ("GET /", &[" 403 "]),
            Self::Minio => ("GET /minio/health/ready", &[" 200 "]),
            Self::Moto => ("GET /moto-api/", &[" 200 "]),
            Self::Azurite => ("GET /", &[" 400 ", " 403 ", " 404 "]),
        }
    }
}
