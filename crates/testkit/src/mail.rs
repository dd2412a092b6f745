//! A real mail server (aiosmtpd) on a free loopback port, with TLS and a login, gone with the test process; each mail becomes a file.

use crate::certificates::House;
use crate::loopback::{free_ports, spawn_for_life};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Who may send.
pub const USER: &str = "bowline";
/// What lets it in.
pub const PASSWORD: &str = "mail-hunter2-password";

/// A running server.
#[derive(Debug)]
pub struct MailServer {
    port: u16,
    child: Child,
    folder: TempDir,
    house: House,
}

impl MailServer {
    /// Starts one that speaks `starttls`, or `tls` from the beginning. Panics with the reason when that does not work.
    pub fn start(tls: &str) -> Self {
        let python = std::env::var_os("BOWLINE_PYTHON")
            .expect("BOWLINE_PYTHON is not set: run ./test, which installs Python's packages and says where they are");
        let house = House::new();
        for _ in 0..3 {
            let folder = tempfile::tempdir().expect("a folder for mails");
            let port = free_ports(1)[0];
            let mut command = Command::new(&python);
            command.args(["-c", include_str!("mail_server.py"), &port.to_string()]).arg(folder.path()).arg(tls);
            command.arg(house.file("server.pem")).arg(house.file("server.key")).args([USER, PASSWORD]);
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            let mut child = spawn_for_life(command);
            let mut line = String::new();
            let said = child.stdout.take().expect("piped");
            if BufReader::new(said).read_line(&mut line).is_ok() && line.trim() == "ready" {
                return Self { port, child, folder, house };
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("the mail server did not start in three attempts: run ./test, which installs aiosmtpd for {}", python.display());
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificate of whoever signed the server's.
    pub fn ca_file(&self) -> PathBuf {
        self.house.file("ca.pem")
    }

    /// Every mail so far, oldest first, with its headers unfolded.
    pub fn mails(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).expect("the folder of mails");
        let mut files: Vec<PathBuf> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.extension().is_some_and(|end| end == "eml")).collect();
        files.sort();
        files.iter().map(|file| std::fs::read_to_string(file).expect("a mail").replace("\r\n ", " ")).collect()
    }

    /// Waits until a mail holds these words.
    #[track_caller]
    pub fn wait_for(&self, words: &str, limit: Duration) -> String {
        let begun = Instant::now();
        loop {
            if let Some(found) = self.mails().into_iter().find(|mail| mail.contains(words)) {
                return found;
            }
            assert!(begun.elapsed() < limit, "no mail says {words:?} within {limit:?}: {:#?}", self.mails());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
