//! A `bowline wal receive`, or `daemon`, that a test runs, listens to and ends.

use crate::launch;
use crate::planted::refuse_secrets;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

/// A running `wal receive` or `daemon`, killed when dropped.
#[derive(Debug)]
pub struct Receiver {
    pub(crate) child: Child,
    pub(crate) log: PathBuf,
}

impl Receiver {
    /// Everything it has told so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
    /// Waits until it has told of this event so many times.
    pub fn wait_for(&self, times: usize, event: &str) {
        let word = format!("\"event\":\"{event}\"");
        let begun = Instant::now();
        while self.log().matches(&word).count() < times {
            assert!(begun.elapsed() < Duration::from_secs(60), "the receiver told no {event}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    /// Sends it a signal, as `SIGSTOP`.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("the receiver lives");
    }
    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("ask for the receiver").is_some()
    }
    /// The most memory it ever held at once (`VmHWM`, proc(5)), in KiB.
    pub fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the receiver lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
    /// Asks it to stop and returns its exit code.
    pub fn stop(mut self) -> Option<i32> {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        self.child.wait().expect("wait for the receiver").code()
    }
    /// Ends it as the machine's end would.
    pub fn kill9(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the receiver said:\n{}", launch::tail(&self.log));
        } else {
            refuse_secrets("wal receive", self.log().as_bytes());
        }
    }
}
