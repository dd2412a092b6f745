//! Certificates for servers of tests, made by the program openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Certificates as a house makes them: a CA of its own and what it signed for 127.0.0.1.
#[derive(Debug)]
pub struct House {
    folder: tempfile::TempDir,
}

impl House {
    /// Makes both anew: `ca.pem`, `server.pem` and `server.key`.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let days = ["-days", "30"];
        openssl(
            folder.path(),
            &[&["req", "-x509", "-nodes", "-newkey", "rsa:2048", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=house ca"][..], &days].concat(),
        );
        openssl(folder.path(), &["req", "-new", "-nodes", "-newkey", "rsa:2048", "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=s3"]);
        std::fs::write(folder.path().join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        let sign =
            ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-out", "server.pem"];
        openssl(folder.path(), &[&sign[..], &days].concat());
        Self { folder }
    }
    /// Where one of the files is.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl runs");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Default for House {
    fn default() -> Self {
        Self::new()
    }
}
