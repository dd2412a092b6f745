//! `cargo xtask sabotage [WORDS…]`: makes one line of the product wrong at a time, in a copy of what is committed, and demands that the
//! test which proves it fails. A test that still passes proves nothing.

pub mod twins;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::error::Error;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use twins::Twin;

/// How long a build or a test may take.
const LIMIT: Duration = Duration::from_secs(900);

type Outcome<T> = Result<T, Box<dyn Error>>;

pub fn run(words: impl Iterator<Item = String>) -> Outcome<()> {
    let words: Vec<String> = words.collect();
    let is_meant =
        |twin: &&Twin| words.is_empty() || words.iter().any(|word| twin.name.contains(word.as_str()) || twin.test.0 == word || twin.test.1 == word);
    let chosen: Vec<&Twin> = twins::all().filter(is_meant).collect();
    if chosen.is_empty() {
        return Err(format!("no twin is named like {words:?}").into());
    }
    let ground = Ground::prepare()?;
    let (mut survived, mut untried) = (Vec::new(), Vec::new());
    for twin in chosen {
        let begun = Instant::now();
        let verdict = ground.try_out(twin);
        let seconds = begun.elapsed().as_secs();
        let word = verdict.as_ref().map_or_else(|_| "Untried".to_owned(), |verdict| format!("{verdict:?}"));
        println!("{word:<8} {} ({} {}) {seconds} s", twin.name, twin.test.0, twin.test.1);
        match verdict {
            Ok(Verdict::Unseen) => survived.push(twin.name),
            Ok(_) => {}
            Err(why) => {
                eprintln!("{why}");
                untried.push(twin.name);
            }
        }
    }
    match (survived.as_slice(), untried.as_slice()) {
        ([], []) => Ok(()),
        ([], untried) => Err(format!("not tried out: {}", untried.join("; ")).into()),
        (survived, _) => Err(format!("tests passed although {}", survived.join("; although ")).into()),
    }
}

/// What a test said of a line made wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Seen,
    Unseen,
    /// It runs in the long form only.
    Ignored,
}

/// A copy of the commit, with a target directory of its own beside the usual one.
struct Ground {
    tree: PathBuf,
    target: PathBuf,
}

impl Ground {
    fn prepare() -> Outcome<Self> {
        // Beside the usual one, wherever this was started.
        let home = std::path::absolute(crate::target_dir())?.join("sabotage");
        let (tree, target) = (home.join("tree"), home.join("target"));
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        fs::create_dir_all(&tree)?;
        // Of what is committed, not of what lies about.
        let mut archive = Command::new("git").args(["archive", "HEAD"]).current_dir(crate::root()).stdout(Stdio::piped()).spawn()?;
        let pipe = archive.stdout.take().ok_or("git has no output")?;
        let unpacked = Command::new("tar").arg("-x").current_dir(&tree).stdin(pipe).status()?;
        if !(archive.wait()?.success() && unpacked.success()) {
            return Err("could not copy the commit".into());
        }
        Ok(Self { tree, target })
    }

    fn try_out(&self, twin: &Twin) -> Outcome<Verdict> {
        let path = self.tree.join(twin.file);
        let right = fs::read_to_string(&path)?;
        if right.matches(twin.right).count() != 1 {
            return Err(format!("{} does not hold exactly once: {}", twin.file, twin.right).into());
        }
        fs::write(&path, right.replace(twin.right, twin.wrong))?;
        let verdict = self.judge(twin);
        fs::write(&path, right)?;
        verdict
    }

    fn judge(&self, twin: &Twin) -> Outcome<Verdict> {
        let (program, filter) = twin.test;
        let log = self.target.with_file_name("last.log");
        let place = Place::of(&self.tree, program);
        // With the whole workspace: a package by itself has other features of what it shares, and would be built twice.
        let what = match place {
            Place::Drill => vec!["build", "--workspace", "--bins"],
            Place::Crate => vec!["test", "--workspace", "--lib"],
            Place::Tests => vec!["test", "--workspace", "--test", program],
        };
        let builds = match place {
            Place::Drill => vec![what.clone()],
            Place::Crate | Place::Tests => vec![vec!["build", "--workspace", "--bin", "bowline"], [&what[..], &["--no-run"]].concat()],
        };
        for build in builds {
            if !self.cargo(&build, &log)? {
                return Err(format!("{}: does not build; see {}", twin.name, log.display()).into());
            }
        }
        if place == Place::Drill {
            let mut drill = Command::new(self.target.join("debug/xtask"));
            let passed = self.ends_well(drill.args(["drill", "--scale", "0.1"]), &log)?;
            return Ok(if passed { Verdict::Unseen } else { Verdict::Seen });
        }
        let form: &[&str] = if std::env::var("BOWLINE_FULL").is_ok_and(|value| value == "1") { &["--include-ignored"] } else { &[] };
        let passed = self.cargo(&[&what[..], &["--", filter], form].concat(), &log)?;
        let said = fs::read_to_string(&log)?;
        let mut tests = said.lines().filter(|line| line.starts_with("test ") && !line.starts_with("test result"));
        match (passed, tests.next(), tests.next()) {
            (false, _, _) => Ok(Verdict::Seen),
            (true, None, _) => Err(format!("{}: no test ran; see {}", twin.name, log.display()).into()),
            (true, Some(only), None) if only.contains(" ... ignored") => Ok(Verdict::Ignored),
            (true, _, _) => Ok(Verdict::Unseen),
        }
    }

    fn cargo(&self, arguments: &[&str], log: &Path) -> Outcome<bool> {
        let mut command = Command::new("cargo");
        // What is made wrong need not be pretty, and is built for one run.
        command.args(arguments).env("RUSTC_WORKSPACE_WRAPPER", crate::root().join("xtask/src/sabotage/lenient"));
        self.ends_well(command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0").env("CARGO_PROFILE_DEV_DEBUG", "0"), log)
    }

    fn ends_well(&self, command: &mut Command, log: &Path) -> Outcome<bool> {
        let output = fs::File::create(log)?;
        command.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.target).env_remove("BOWLINE_BIN");
        command.stdout(output.try_clone()?).stderr(output);
        let mut child = command.process_group(0).spawn()?;
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.success());
            }
            // What was made wrong may make a test wait for ever, which is no pass either.
            if begun.elapsed() > LIMIT {
                let group = Pid::from_raw(-i32::try_from(child.id())?);
                kill(group, Signal::SIGKILL)?;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Where a proof is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Drill,
    /// Inside the crate of this name.
    Crate,
    /// A test program of any crate.
    Tests,
}

impl Place {
    /// Some crates and test programs have one name: there the test program is meant.
    fn of(root: &Path, program: &str) -> Self {
        let has_tests = |room: &Path| room.join("tests").join(program).with_extension("rs").exists();
        match crate::listed(&root.join("crates")).unwrap_or_default().iter().any(|room| has_tests(room)) {
            true => Self::Tests,
            false if program == "./drill" => Self::Drill,
            false => Self::Crate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a test, or a step of the drill, is named so in this folder, or in one below it.
    fn has_test(folder: &Path, name: &str) -> bool {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).any(|path| match path.is_dir() {
            true => has_test(&path, name),
            false => fs::read_to_string(&path).is_ok_and(|text| text.contains(&format!("fn {name}")) || text.contains(&format!("\"{name}"))),
        })
    }

    #[test]
    fn every_line_that_is_made_wrong_is_there_once_and_its_test_as_well() {
        let root = crate::root();
        let mut names = std::collections::BTreeSet::new();
        for twin in twins::all() {
            let text = fs::read_to_string(root.join(twin.file)).unwrap_or_default();
            assert_eq!(text.matches(twin.right).count(), 1, "{}: {}", twin.file, twin.right);
            let (program, name) = twin.test;
            let name = name.rsplit(':').next().unwrap_or_default();
            let is_there = match Place::of(&root, program) {
                Place::Drill => has_test(&root.join("xtask/src/drill"), name),
                Place::Crate => has_test(&root.join("crates").join(program).join("src"), name),
                Place::Tests => crate::listed(&root.join("crates")).unwrap().iter().any(|room| has_test(&room.join("tests"), name)),
            };
            assert!(is_there, "{program} has no {name}");
            assert!(names.insert(twin.name), "two are named {}", twin.name);
        }
    }
}
