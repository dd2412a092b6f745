//! What receives WAL from the server of the bench: Bowline, or PostgreSQL's own pg_receivewal.

use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::measure::{self, Script};
use super::server::Server;
use super::tools::{Bowline, Stage, Tool, first_line};
use super::{Outcome, tree};

/// Longest wait for a receiver to begin, to catch up or to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who receives, and how.
pub enum Kind {
    /// As people run it: a slot, whole files as they are; with `synchronous` each flush of the server is flushed at once.
    PgReceivewal {
        synchronous: bool,
    },
    Bowline(Bowline),
}

impl Kind {
    /// Also its `application_name` and its slot.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PgReceivewal { .. } => "pg_receivewal",
            Self::Bowline(_) => "bowline",
        }
    }

    pub fn version(&self, stage: &Stage) -> Outcome<String> {
        match self {
            Self::PgReceivewal { .. } => first_line(&stage.bin_dir.join("pg_receivewal"), &["--version"]),
            Self::Bowline(tool) => tool.version(),
        }
    }

    /// Makes a fresh repository or folder and its slot; what then receives.
    fn prepare(&mut self, stage: &Stage) -> Outcome<Script> {
        match self {
            Self::PgReceivewal { synchronous } => {
                let folder = measure::fresh_dir(&stage.room.join("wal"))?;
                let line = format!(
                    "'{}' -h '{}' -U postgres -D '{}' -S pg_receivewal --no-loop",
                    stage.bin_dir.join("pg_receivewal").display(),
                    stage.server.socket_dir.display(),
                    folder.display(),
                );
                measure::run(&Script::new(format!("{line} --create-slot --if-not-exists")), &stage.room.join("log"))?;
                Ok(Script::new(format!("exec {line}{}", if *synchronous { " --synchronous" } else { "" })))
            }
            Self::Bowline(tool) => {
                tool.prepare(stage)?;
                Ok(Script::new(format!("exec {}", tool.line(stage, "wal receive"))))
            }
        }
    }

    /// Starts it; returns when it streams.
    pub fn start<'a>(&mut self, stage: &'a Stage<'a>) -> Outcome<Receiver<'a>> {
        let script = self.prepare(stage)?;
        let child = measure::spawn(&script, &stage.room.join("log"))?;
        let mut receiver = Receiver { child, name: self.name(), server: stage.server };
        receiver.wait("stream", |receiver| Ok(receiver.standing("state")?.is_some_and(|state| state == "streaming")))?;
        Ok(receiver)
    }
}

/// A running receiver; killed when dropped.
pub struct Receiver<'a> {
    child: Child,
    name: &'static str,
    server: &'a Server,
}

impl Receiver<'_> {
    /// User and system seconds so far.
    pub fn cpu_seconds(&self) -> f64 {
        tree::cpu_seconds(self.child.id())
    }

    /// Its own high-water mark, bytes.
    pub fn peak_memory(&self) -> u64 {
        tree::high_water_bytes(self.child.id())
    }

    /// Stops it where it stands, as if the machine had forgotten it, or lets it go on.
    pub fn hold(&self, on: bool) -> Outcome<()> {
        Ok(kill(Pid::from_raw(self.child.id() as i32), if on { Signal::SIGSTOP } else { Signal::SIGCONT })?)
    }

    /// A column of its line in pg_stat_replication.
    pub fn standing(&self, column: &str) -> Outcome<Option<String>> {
        let text = format!("SELECT {column} FROM pg_stat_replication WHERE application_name = '{}'", self.name);
        Ok(self.server.sql("postgres", &text)?.lines().next().map(str::to_owned))
    }

    /// Finishes the segment, and waits until the receiver has said that all of it is safe; where that is, in bytes.
    pub fn catch_up(&mut self) -> Outcome<u64> {
        let at = self.server.sql("postgres", "SELECT pg_switch_wal() - '0/0'::pg_lsn")?.parse()?;
        self.wait("catch up", |receiver| {
            let flushed = receiver.standing("flush_lsn - '0/0'::pg_lsn")?;
            Ok(flushed.and_then(|lsn| lsn.parse::<u64>().ok()).is_some_and(|lsn| lsn >= at))
        })?;
        Ok(at)
    }

    /// The server lets commits wait for this receiver, and for nobody else, from now on.
    pub fn make_synchronous(&mut self) -> Outcome<()> {
        self.server.set("synchronous_standby_names", self.name)?;
        self.wait("become synchronous", Self::is_synchronous)
    }

    pub fn is_synchronous(&self) -> Outcome<bool> {
        Ok(self.standing("sync_state")?.is_some_and(|state| state == "sync"))
    }

    /// Asks it to end, and drops its slot; commits wait for nobody any more.
    pub fn stop(mut self) -> Outcome<()> {
        self.server.set("synchronous_standby_names", "")?;
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM)?;
        let started = Instant::now();
        while self.child.try_wait()?.is_none() {
            if started.elapsed() > PATIENCE {
                return Err(format!("{} does not end", self.name).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // The server notices a moment later.
        let drop_slot = format!("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{}'", self.name);
        while let Err(error) = self.server.sql("postgres", &drop_slot) {
            if started.elapsed() > PATIENCE {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn wait(&mut self, what: &str, is_done: impl Fn(&Self) -> Outcome<bool>) -> Outcome<()> {
        let started = Instant::now();
        while !is_done(self)? {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended: {status}", self.name).into());
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("{} does not {what}", self.name).into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Receiver<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
