//! The S3 server of the bench: SeaweedFS on the loopback, plain and with TLS (pgBackRest speaks nothing else).

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::Outcome;
use super::measure::{self, Script};

/// Credentials of a server that listens on the loopback and dies with the bench.
pub const ACCESS_KEY: &str = "bench";
pub const SECRET_KEY: &str = "bench-secret";
pub const REGION: &str = "us-east-1";

/// A running S3 server; killed when dropped.
pub struct Bucket {
    child: Child,
    port: u16,
    pub https_port: u16,
    pub authority_file: PathBuf,
}

impl Bucket {
    /// Starts the server with its files under `dir`.
    pub fn start(weed: &Path, dir: &Path, log: &Path) -> Outcome<Self> {
        measure::fresh_dir(dir)?;
        let config = dir.join("s3.json");
        // The anonymous identity lets the bench itself make, list and drop buckets without signing; tools sign.
        let identities = json!({"identities": [
            {"name": "bench", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
            {"name": "anonymous", "actions": ["Admin", "Read", "Write", "List"]},
        ]});
        fs::write(&config, identities.to_string())?;
        measure::give_to_postgres(&config)?;
        let certificate = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=localhost \
            -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem";
        measure::run(&Script::new(format!("cd '{}' && {certificate}", dir.display())), log)?;
        let ports = free_ports(6)?;
        let mut command = measure::as_postgres(weed, log)?;
        command.arg("server").arg(format!("-dir={}", dir.display()));
        command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-filer", "-master.telemetry=false"]);
        command.args(["-volume.max=400", "-master.volumeSizeLimitMB=1024", "-s3.port.iceberg=0", "-s3.port.lance=0"]);
        command.arg(format!("-s3.config={}", config.display()));
        command.arg(format!("-s3.cert.file={}", dir.join("cert.pem").display()));
        command.arg(format!("-s3.key.file={}", dir.join("key.pem").display()));
        let names = ["master.port", "volume.port", "filer.port", "s3.port", "s3.port.https", "webdav.port"];
        for (name, port) in names.iter().zip(&ports).take(5) {
            command.arg(format!("-{name}={port}"));
        }
        let child = command.spawn()?;
        let bucket = Self { child, port: ports[3], https_port: ports[4], authority_file: dir.join("cert.pem") };
        let started = Instant::now();
        while bucket.create("ready").is_err() {
            if started.elapsed() > Duration::from_secs(90) {
                return Err(format!("the S3 server does not answer; see {}", log.display()).into());
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        Ok(bucket)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn create(&self, name: &str) -> Outcome<()> {
        self.request("PUT", &format!("/{name}")).map(drop)
    }

    /// Drops a bucket with all it holds.
    pub fn drop_bucket(&self, name: &str) -> Outcome<()> {
        self.request("DELETE", &format!("/{name}")).map(drop)
    }

    /// Bytes and number of the objects in a bucket.
    pub fn size(&self, name: &str) -> Outcome<(u64, u64)> {
        let (mut bytes, mut objects, mut after) = (0, 0, String::new());
        loop {
            let page = self.request("GET", &format!("/{name}?list-type=2&max-keys=1000{after}"))?;
            for size in between(&page, "<Size>", "</Size>") {
                bytes += size.parse::<u64>()?;
                objects += 1;
            }
            match between(&page, "<NextContinuationToken>", "</NextContinuationToken>").next() {
                Some(token) => after = format!("&continuation-token={}", escape(token)),
                None => return Ok((bytes, objects)),
            }
        }
    }

    fn request(&self, method: &str, path: &str) -> Outcome<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\n\r\n", self.port)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        if !status.starts_with('2') {
            return Err(format!("{method} {path}: {}", answer.lines().next().unwrap_or("no answer")).into());
        }
        Ok(answer)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Ports that were free a moment ago. SeaweedFS opens its gRPC at the same number plus 10000, so both must be.
fn free_ports(count: usize) -> Outcome<Vec<u16>> {
    let mut held = Vec::new();
    for port in 20_000_u16..30_000 {
        let (Ok(plain), Ok(grpc)) = (TcpListener::bind(("127.0.0.1", port)), TcpListener::bind(("127.0.0.1", port + 10_000))) else {
            continue;
        };
        held.push((port, plain, grpc));
        if held.len() == count {
            return Ok(held.into_iter().map(|(port, ..)| port).collect());
        }
    }
    Err("no free ports".into())
}

fn between<'t>(text: &'t str, open: &'t str, close: &'t str) -> impl Iterator<Item = &'t str> {
    text.split(open).skip(1).filter_map(move |rest| rest.split(close).next())
}

fn escape(token: &str) -> String {
    token.bytes().map(|byte| if byte.is_ascii_alphanumeric() { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_tags_is_found_in_order() {
        let found: Vec<&str> = between("<Size>1</Size><x/><Size>22</Size>", "<Size>", "</Size>").collect();
        assert_eq!(found, ["1", "22"]);
        assert_eq!(escape("a/b"), "a%2Fb");
    }
}
