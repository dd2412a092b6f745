//! What is called stored survives the loss of power: every byte and every name was brought to the disk before it is called so. No test can
//! pull the plug of this machine, so strace tells in which order the program asked for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::{Bowline, Cluster, RepositoryKind, newest_major};

/// What was asked of the kernel, in the order in which it was answered.
#[derive(Debug)]
enum Call {
    Written(PathBuf),
    /// A name came to be.
    Named(PathBuf),
    /// A name came to be, and the other one went.
    Renamed(PathBuf, PathBuf),
    Synced(PathBuf),
    /// Everything of that file system.
    AllSynced,
}

/// Runs it under strace.
fn traced(command: &Command, trace: &Path) -> Vec<Call> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "--seccomp-bpf", "-s", "4096", "-o"]).arg(trace);
    strace.arg("-e").arg("trace=openat,write,pwrite64,writev,pwritev,pwritev2,fallocate,ftruncate,copy_file_range,sendfile,mkdir,mkdirat,link,linkat,rename,renameat,renameat2,fsync,fdatasync,syncfs");
    strace.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    let output = strace.output().expect("strace runs (scripts/prepare strace)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    calls(&std::fs::read_to_string(trace).expect("a trace"))
}

fn calls(trace: &str) -> Vec<Call> {
    let (mut begun, mut found) = (BTreeMap::new(), Vec::new());
    for line in trace.lines() {
        let Some((process, said)) = line.trim_start().split_once(char::is_whitespace) else { continue };
        let said = said.trim_start();
        // What takes long is told in two lines; it counts when it is over.
        if let Some(beginning) = said.strip_suffix(" <unfinished ...>") {
            begun.insert(process.to_owned(), beginning.to_owned());
            continue;
        }
        let whole = match said.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            Some((_, rest)) => begun.remove(process).unwrap_or_default() + rest,
            None => said.to_owned(),
        };
        found.extend(call(&whole));
    }
    found
}

/// `fsync(7</srv/repository/x>) = 0`: one call in strace's words.
fn call(said: &str) -> Option<Call> {
    let (name, rest) = said.split_once('(')?;
    let (arguments, answer) = rest.rsplit_once(" = ")?;
    if answer.starts_with('-') {
        return None;
    }
    let of_number = |number: usize| arguments.split('<').nth(number).and_then(|part| part.split('>').next()).map(PathBuf::from);
    let quoted: Vec<&str> = arguments.split('"').skip(1).step_by(2).collect();
    // A name in a folder that is open, or as it stands.
    let folders: Vec<PathBuf> = arguments.split('"').step_by(2).filter_map(|part| Some(part.split_once('<')?.1.split_once('>')?.0.into())).collect();
    let named = |number: usize| Some(folders.get(number).cloned().unwrap_or_default().join(quoted.get(number)?));
    match name {
        "openat" if arguments.contains("O_CREAT") => named(0).map(Call::Named),
        "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" | "fallocate" | "ftruncate" => of_number(1).map(Call::Written),
        "sendfile" => of_number(1).map(Call::Written),
        "copy_file_range" => of_number(2).map(Call::Written),
        "mkdir" | "mkdirat" => named(0).map(Call::Named),
        "link" | "linkat" => named(1).map(Call::Named),
        "rename" | "renameat" | "renameat2" => Some(Call::Renamed(named(0)?, named(1)?)),
        "fsync" | "fdatasync" => of_number(1).map(Call::Synced),
        "syncfs" => Some(Call::AllSynced),
        _ => None,
    }
}

/// What is not on the disk yet.
#[derive(Default)]
struct Pending {
    bytes: BTreeSet<PathBuf>,
    names: BTreeSet<PathBuf>,
}

impl Pending {
    fn heed(&mut self, call: &Call) {
        match call {
            Call::Written(path) => drop(self.bytes.insert(path.clone())),
            Call::Named(path) => drop(self.names.insert(path.clone())),
            Call::Renamed(from, to) => {
                if self.bytes.remove(from) {
                    self.bytes.insert(to.clone());
                }
                self.names.remove(from);
                self.names.insert(to.clone());
            }
            Call::Synced(path) => {
                self.bytes.remove(path);
                self.names.retain(|name| name.parent() != Some(path));
            }
            Call::AllSynced => *self = Self::default(),
        }
    }

    /// What of these folders would be lost. The name that a rename is about to take away need not last.
    fn below(&self, folders: &[&Path], about: Option<&Call>) -> Vec<&PathBuf> {
        let goes = about.and_then(|call| if let Call::Renamed(from, _) = call { Some(from) } else { None });
        let names = self.names.iter().filter(|name| Some(*name) != goes);
        self.bytes.iter().chain(names).filter(|path| folders.iter().any(|folder| path.starts_with(folder))).collect()
    }
}

#[test]
#[ignore = "needs a machine that lets strace trace: ./test --full installs it and runs this"]
fn durable_is_what_a_backup_lists_before_it_lists_it_and_what_a_restore_made_before_it_is_a_cluster() {
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 100000) AS a");
    let trace = bowline.dir().join("trace");

    let repository = bowline.repository();
    let kept = [repository.join("full"), repository.join("wal"), repository.join("keys")];
    let kept: Vec<&Path> = kept.iter().map(PathBuf::as_path).collect();
    let (mut pending, mut listed, mut packs) = (Pending::default(), 0, 0);
    let is_listing = |path: &Path| path.file_name().is_some_and(|name| name == "backup.json");
    for call in traced(&bowline.command(&["backup"]), &trace) {
        if let Call::Named(path) | Call::Renamed(_, path) = &call {
            packs += usize::from(path.starts_with(kept[0]) && !is_listing(path));
            if is_listing(path) {
                listed += 1;
                assert_eq!(pending.below(&kept, Some(&call)), Vec::<&PathBuf>::new(), "listed before this was on the disk");
            }
        }
        pending.heed(&call);
    }
    assert!(listed == 1 && packs > 1, "{listed} {packs}: what strace tells is not understood");
    assert_eq!(pending.below(&kept, None), Vec::<&PathBuf>::new(), "the backup ended before this was on the disk");

    let target = bowline.new_target();
    let words = ["restore", "--yes", "--files-only", "--target", target.to_str().expect("a plain path")];
    let (mut pending, mut made, mut files) = (Pending::default(), 0, 0);
    for call in traced(&bowline.command(&words), &trace) {
        files += usize::from(matches!(&call, Call::Written(path) if path.starts_with(&target)));
        if matches!(&call, Call::Renamed(_, path) if *path == target.join("global/pg_control")) {
            made += 1;
            assert_eq!(pending.below(&[&target], Some(&call)), Vec::<&PathBuf>::new(), "a cluster before this was on the disk");
        }
        pending.heed(&call);
    }
    assert!(made == 1 && files > 100, "{made} {files}: what strace tells is not understood");
    let names: Vec<_> = pending.below(&[&target], None).into_iter().filter(|path| path.ends_with("pg_control")).collect();
    assert_eq!(names, Vec::<&PathBuf>::new(), "the control file's name is not on the disk");
}
