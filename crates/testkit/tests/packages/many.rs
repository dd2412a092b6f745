//! Very many keys: every command in bounded memory, and all of it comes to the same end however often it is killed.

use crate::ground::{Folder, now};
use crate::in_snapshots;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use testkit::bowline::{Outcome, wait};
use testkit::s3::{ACCESS_KEY_ID, SECRET_ACCESS_KEY};
use testkit::stores::{Make, ObjectServer};
use testkit::{Bowline, Cluster, RepositoryKind, full, newest_major};

/// What any command may take, whatever the number of keys.
const PEAK_KIB_MAX: u64 = 256 << 10;

/// Runs it to its end; its result must come, and the most memory that it ever had is told.
fn measured(bowline: &Bowline<'_>, words: &[&str]) -> serde_json::Value {
    let out = bowline.dir().join("measured");
    let file = fs::File::create(&out).expect("a file");
    let mut command = bowline.command(words);
    command.arg("--json").stdout(Stdio::from(file.try_clone().expect("the same file"))).stderr(Stdio::from(file));
    let begun = Instant::now();
    let mut child = command.spawn().expect("it starts");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let code = loop {
        // It only ever grows; after the end nobody tells it.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(peak);
        if let Some(ended) = child.try_wait().expect("it can be waited for") {
            break ended.code().unwrap_or(-1);
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let said = fs::read_to_string(&out).expect("what it said");
    let lines = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    eprintln!("{words:?}: {:.1} s, {} MiB at most", begun.elapsed().as_secs_f64(), peak >> 10);
    assert!((1..PEAK_KIB_MAX).contains(&peak), "{words:?} took {peak} KiB");
    Outcome { code, lines, said: String::new() }.result().clone()
}

/// Kills it in the middle: once `is_so`.
fn killed(bowline: &Bowline<'_>, words: &[&str], is_so: impl Fn() -> bool) {
    let mut child = bowline.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    wait("it to be in the middle", Duration::from_secs(600), is_so);
    child.kill().expect("it can be killed");
    assert!(child.wait().expect("it ends").code().is_none(), "it was over before");
}

/// Nine of ten in one folder, or in so many below it, in no order; `a-b` and `a/b` are where folders' and keys' orders differ.
fn make(root: &Path, count: u32, spread: u32) {
    let many: Vec<String> = if spread == 1 { vec!["flat".into()] } else { (0..spread).map(|part| format!("flat/{part:04}")).collect() };
    for folder in many.iter().map(String::as_str).chain(["a", "a-b", "other"]) {
        fs::create_dir_all(root.join(folder)).expect("a folder can be made");
    }
    for number in 0..count {
        let folder = match number % 20 {
            0 => "a",
            1 => "a-b",
            _ => &many[(number / 20 % spread) as usize],
        };
        let name = format!("{:08x}-{}", number.wrapping_mul(2_654_435_761), "a-name-as-long-as-those-of-applications-are.bin");
        fs::write(root.join(folder).join(name), number.to_le_bytes()).expect("a file can be written");
    }
    fs::write(root.join("a.last"), b"x").expect("a file can be written");
}

/// Snapshots, looks, plans and a restore of `count` keys and one.
fn all_is_bounded(bowline: &Bowline<'_>, elsewhere: &Folder, count: u64, restores: bool) {
    let snapshots = bowline.repository().join("packages");
    let has_packs = || testkit::bowline::files_below(&snapshots).iter().any(|file| file.ends_with("data/000001"));
    killed(bowline, &["packages", "snapshot"], has_packs);
    let first = measured(bowline, &["packages", "snapshot"])["snapshot"].clone();
    assert_eq!((&first["objects"], &first["objects_new"]), (&count.into(), &count.into()), "{first}");
    let second = measured(bowline, &["packages", "snapshot"])["snapshot"].clone();
    assert_eq!((&second["objects"], &second["objects_new"], &second["bytes"]), (&count.into(), &0.into(), &first["bytes"]), "{second}");
    // The total is that of the last one. The bar is taken away at the end, whatever it had drawn by then.
    let seen = bowline.in_a_terminal(&["packages", "snapshot"]);
    assert!(seen.contains(&format!(" of {count} objects")), "{seen}");
    let status = measured(bowline, &["packages", "status"]);
    assert_eq!((&status["behind"], &status["primary"]["objects"]), (&0.into(), &count.into()), "{status}");
    let to = now().to_string();
    let planned = measured(bowline, &["packages", "restore", "--to", &to, "--plan"])["plan"].clone();
    assert_eq!((&planned["keys"], &planned["same"]), (&count.into(), &count.into()), "{planned}");
    if !restores {
        return;
    }
    let into = elsewhere.url();
    let words = ["packages", "restore", "--to", &to, "--into", &into, "--yes"];
    let has_some = || fs::read_dir(elsewhere.path().join("a")).is_ok_and(|entries| entries.count() > 100);
    killed(bowline, &words, has_some);
    let done = measured(bowline, &words);
    assert!(done["keys"] == count && done["failed"] == 0 && done["same"].as_u64().is_some_and(|same| same > 50), "{done}");
    let again = measured(bowline, &words);
    assert_eq!((&again["same"], &again["bytes_written"]), (&count.into(), &0.into()), "{again}");
}

#[test]
fn a_folder_of_very_many_files_is_kept_in_bounded_memory() {
    let count = if full() { 1_000_000 } else { 20_000 };
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder);
    let (folder, elsewhere) = (Folder::make(&cluster, "packages"), Folder::make(&cluster, "elsewhere"));
    make(folder.path(), count, 1);
    in_snapshots(&bowline, &cluster, &folder.url());
    // A restore makes each file durable by itself: of a million, that is the disk's time and nobody's memory.
    all_is_bounded(&bowline, &elsewhere, u64::from(count) + 1, true);
    let some = |folder: &Folder| {
        let mut all = testkit::bowline::files_below(&folder.path().join("a-b"));
        all.truncate(50);
        all.iter().map(|file| fs::read(file).expect("a file")).collect::<Vec<_>>()
    };
    assert_eq!(some(&folder), some(&elsewhere));
}

#[test]
fn a_bucket_of_very_many_keys_is_kept_in_bounded_memory() {
    // Each page of a listing costs this server a look at the whole folder: a million in one takes it hours.
    let (count, spread) = if full() { (1_000_000, 1000) } else { (20_000, 1) };
    let server = ObjectServer::start(Make::Versitygw);
    server.create_bucket_now("many");
    make(&server.folder().join("data/many"), count, spread);
    let cluster = Cluster::start(newest_major());
    let bowline = Bowline::new(&cluster, RepositoryKind::Folder)
        .with_environment("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
        .with_environment("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
    in_snapshots(&bowline, &cluster, &format!("s3://many?endpoint={}&region=us-east-1", server.endpoint()));
    let elsewhere = Folder::make(&cluster, "elsewhere");
    all_is_bounded(&bowline, &elsewhere, u64::from(count) + 1, false);
}
