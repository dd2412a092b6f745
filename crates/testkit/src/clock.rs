//! A clock that a test moves: libfaketime, loaded into each program of a scene, adds what a file says to the machine's time.
//!
//! Only the wall clock is moved; monotonic time, and with it every timeout, stays the machine's. libfaketime does not move the times of files
//! that statx(2) tells, so a repository in a folder has the machine's clock: what looks at the age of objects needs a store that is a program
//! of its own, under the same clock.

use crate::launch;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use terms::{Clock, SystemClock, Timestamp};

/// After how many whole seconds a program reads the offset anew: libfaketime does when more than this many have begun since, so it may go on with
/// the old one for nearly twice as long. A forked server process has its parent's memory of it.
const CACHED: Duration = Duration::from_secs(1);

/// A wall clock of its own for the programs that get its environment.
#[derive(Debug)]
pub struct MovedClock {
    library: PathBuf,
    file: PathBuf,
    offset_seconds: std::sync::atomic::AtomicI64,
}

impl MovedClock {
    /// A clock that shows this time now; its file lies in this folder, which the servers' user can read. Panics when the library is missing.
    pub fn at(folder: &Path, time: &str) -> Self {
        let library = std::env::var_os("BOWLINE_FAKETIME").map(PathBuf::from);
        let library =
            library.unwrap_or_else(|| panic!("BOWLINE_FAKETIME is not set: source scripts/prepare faketime (a test never passes by skipping)"));
        assert!(library.exists(), "BOWLINE_FAKETIME is {}, which is not there: source scripts/prepare faketime", library.display());
        launch::make_dir(folder, 0o711);
        let clock = Self { library, file: folder.join("clock"), offset_seconds: 0.into() };
        clock.write(time);
        clock
    }

    /// What moves the clock of a program.
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_CACHE_DURATION", CACHED.as_secs().to_string()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// Moves the clock, forward or back; returns when every program goes by it.
    pub fn set(&self, time: &str) {
        self.write(time);
        std::thread::sleep(CACHED * 2 + Duration::from_millis(200));
    }

    fn write(&self, time: &str) {
        let wanted = Timestamp::parse_at(time, SystemClock.now()).expect("a time with its zone");
        let offset = wanted.seconds_since(SystemClock.now()).round() as i64;
        self.offset_seconds.store(offset, std::sync::atomic::Ordering::Relaxed);
        // Whole at once: a program may read it at any moment.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{offset:+}")).expect("write the clock");
        launch::world_readable(&new);
        fs::rename(&new, &self.file).expect("move the clock");
    }

    /// The time that the scene's programs see.
    pub fn now(&self) -> Timestamp {
        SystemClock.now().plus_micros(self.offset_seconds.load(std::sync::atomic::Ordering::Relaxed) * 1_000_000)
    }
}
