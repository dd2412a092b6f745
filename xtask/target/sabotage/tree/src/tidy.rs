//! Checks the shape of the project: the edges between rooms, each file's opening sentence and length, and no path of one machine.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file longer than this fails.
const LINES_MAX: usize = 800;
/// A file longer than this is told of.
const LINES_WANTED: usize = 350;
/// Crates that only tests use, and that no room needs otherwise.
const TEST_CRATES: [&str; 3] = ["proptest", "tempfile", "rcgen"];
/// Folders in which work happens on one machine only. Spelled in halves, so that this file does not break its own rule.
const MACHINE_PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];

/// Entry of `cargo xtask tidy`: prints every fault; an error says how many there are.
pub fn run() -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("xtask has no parent folder")?;
    let architecture = std::fs::read_to_string(root.join("ARCHITECTURE.md")).map_err(|error| format!("cannot read ARCHITECTURE.md: {error}"))?;
    let allowed = allowed_edges(&architecture)?;
    let mut faults = edge_faults(&allowed, &packages(root)?);
    for path in project_files(root)? {
        // A file that was deleted and not yet committed is still listed; one that is not text has no lines to check.
        let Ok(text) = std::fs::read_to_string(root.join(&path)) else { continue };
        let (more, warning) = file_faults(&path, &text);
        faults.extend(more);
        if let Some(warning) = warning {
            eprintln!("warning: {warning}");
        }
    }
    for fault in &faults {
        eprintln!("{fault}");
    }
    match faults.len() {
        0 => Ok(()),
        count => Err(format!("{count} faults of structure; the rules are in ARCHITECTURE.md")),
    }
}

/// Each room and the rooms it may use, from the table of ARCHITECTURE.md whose head begins with `| room |`.
fn allowed_edges(text: &str) -> Result<BTreeMap<String, BTreeSet<String>>, String> {
    let rows: Vec<Vec<&str>> = text
        .lines()
        .skip_while(|line| !line.starts_with("| room |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let name = |cell: &str| cell.trim_matches(['*', '`']).to_owned();
    let rooms: BTreeSet<String> = rows.iter().map(|row| name(row[0])).collect();
    let mut edges = BTreeMap::new();
    for row in &rows {
        let room = name(row[0]);
        let cell = *row.get(2).ok_or_else(|| format!("the row of {room} in ARCHITECTURE.md has no third column"))?;
        let used = match cell {
            "–" => BTreeSet::new(),
            "all" => rooms.clone(),
            _ if cell.starts_with("all but ") => {
                let but: Vec<String> = cell.trim_start_matches("all but ").split(',').map(|word| name(word.trim())).collect();
                rooms.iter().filter(|room| !but.contains(room)).cloned().collect()
            }
            _ => cell.split(',').map(|word| name(word.trim())).collect::<BTreeSet<_>>(),
        };
        if let Some(unknown) = used.iter().find(|used| !rooms.contains(*used)) {
            return Err(format!("ARCHITECTURE.md lets {room} use {unknown}, which is no room"));
        }
        edges.insert(room, used);
    }
    if edges.is_empty() { Err("ARCHITECTURE.md has no table of rooms (its head begins with \"| room |\")".to_owned()) } else { Ok(edges) }
}

/// One package of the workspace and what it names as dependencies.
#[derive(Debug, Default)]
struct Package {
    name: String,
    normal: BTreeSet<String>,
    for_tests: BTreeSet<String>,
}

fn packages(root: &Path) -> Result<Vec<Package>, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(root);
    let metadata: Value = serde_json::from_slice(&output_of(command)?).map_err(|error| format!("cargo metadata: {error}"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let package = |value: Value| {
        let mut package = Package { name: text(&value["name"]), ..Package::default() };
        for dependency in list(&value["dependencies"]) {
            // Build dependencies shape what is built, so they count as normal ones.
            let kind = if dependency["kind"] == "dev" { &mut package.for_tests } else { &mut package.normal };
            kind.insert(text(&dependency["name"]));
        }
        package
    };
    Ok(list(&metadata["packages"]).into_iter().map(package).collect())
}

fn edge_faults(allowed: &BTreeMap<String, BTreeSet<String>>, packages: &[Package]) -> Vec<String> {
    let rooms: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let outside: BTreeSet<&str> =
        packages.iter().flat_map(|package| &package.normal).map(String::as_str).filter(|name| !rooms.contains(name)).collect();
    let mut faults = Vec::new();
    for Package { name, normal, for_tests } in packages {
        let Some(may) = allowed.get(name) else {
            faults.push(format!("{name}: no row in the table of ARCHITECTURE.md"));
            continue;
        };
        for used in normal.iter().filter(|used| rooms.contains(used.as_str()) && !may.contains(*used)) {
            faults.push(format!("{name}: may not use {used} (the table in ARCHITECTURE.md does not name this edge)"));
        }
        for used in for_tests.iter().map(String::as_str) {
            // A crate that some room ships already is no new one; another room would be a hidden edge.
            let is_known = used == "testkit" || TEST_CRATES.contains(&used) || outside.contains(used);
            if !is_known && !may.contains(used) {
                faults.push(format!("{name}: may not use {used} in tests either; only testkit, {} and crates in use are", TEST_CRATES.join(", ")));
            }
        }
    }
    for room in allowed.keys().filter(|room| !rooms.contains(room.as_str())) {
        faults.push(format!("{room}: has a row in ARCHITECTURE.md but there is no such package"));
    }
    faults
}

/// Every file that is or would be committed.
fn project_files(root: &Path) -> Result<Vec<PathBuf>, String> {
    let mut command = Command::new("git");
    command.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]).current_dir(root);
    let listed = String::from_utf8(output_of(command)?).map_err(|_| "a file name is not UTF-8")?;
    let paths: BTreeSet<PathBuf> = listed.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
    Ok(paths.into_iter().collect())
}

fn output_of(mut command: Command) -> Result<Vec<u8>, String> {
    let output = command.output().map_err(|error| format!("cannot run {command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// The faults of one file, and what is only to be told.
fn file_faults(path: &Path, text: &str) -> (Vec<String>, Option<String>) {
    let (mut faults, mut warning) = (Vec::new(), None);
    let shown = path.display();
    for (number, line) in text.lines().enumerate() {
        if let Some(found) = MACHINE_PATHS.iter().find(|found| names_path(line, found)) {
            faults.push(format!("{shown}:{}: names {found}…, a path of one machine", number + 1));
        }
    }
    if path.extension().is_some_and(|extension| extension == "rs") {
        if !text.starts_with("//! ") {
            faults.push(format!("{shown}: does not open with a //! sentence of its duty"));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            faults.push(format!("{shown}: has {lines} lines, more than {LINES_MAX}"));
        } else if lines > LINES_WANTED {
            warning = Some(format!("{shown} has {lines} lines, more than {LINES_WANTED}"));
        }
    }
    (faults, warning)
}

/// Whether the line holds this absolute path: `…/x/work/…` and the address of a page are something else.
fn names_path(line: &str, wanted: &str) -> bool {
    line.match_indices(wanted).any(|(at, _)| !line[..at].ends_with(|before: char| before.is_alphanumeric() || "._-~}*/".contains(before)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "text\n| room | duty | may use (of ours) | may not know |\n|---|---|---|---|\n| low | a | – | |\n| mid | b | low | |\n\
                         | *top* | c | all but other | |\n| other | d | all | |\n\nmore";

    fn package(name: &str, normal: &[&str], for_tests: &[&str]) -> Package {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Package { name: name.to_owned(), normal: set(normal), for_tests: set(for_tests) }
    }

    #[test]
    fn the_table_is_read_and_an_unknown_room_in_it_is_refused() {
        let edges = allowed_edges(TABLE).unwrap();
        assert_eq!(edges["low"].len(), 0);
        assert_eq!(edges["mid"].iter().collect::<Vec<_>>(), ["low"]);
        assert_eq!(edges["top"].iter().collect::<Vec<_>>(), ["low", "mid", "top"]);
        assert_eq!(edges["other"].len(), 4);
        assert!(allowed_edges("| room | duty | may use |\n|---|---|---|\n| a | x | b |").is_err());
        assert!(allowed_edges("no table").is_err());
    }

    #[test]
    fn every_edge_that_the_table_does_not_name_is_a_fault() {
        let allowed = allowed_edges(TABLE).unwrap();
        let good = [
            package("low", &["serde"], &["proptest", "testkit", "serde"]),
            package("mid", &["low"], &[]),
            package("top", &["low", "mid"], &[]),
            package("other", &["top"], &[]),
        ];
        assert_eq!(edge_faults(&allowed, &good), Vec::<String>::new());
        let bad =
            [package("low", &["mid"], &["mid", "unheard-of"]), package("mid", &[], &[]), package("new", &[], &[]), package("top", &["new"], &[])];
        let faults = edge_faults(&allowed, &bad);
        for part in
            ["low: may not use mid (", "low: may not use mid in tests", "unheard-of", "new: no row", "top: may not use new", "other: has a row"]
        {
            assert!(faults.iter().any(|fault| fault.contains(part)), "{part}: {faults:?}");
        }
        assert_eq!(faults.len(), 6, "{faults:?}");
    }

    #[test]
    fn a_file_is_faulted_for_its_opening_its_length_and_a_path_of_one_machine() {
        let faults = |name: &str, text: &str| file_faults(Path::new(name), text).0.len();
        assert_eq!(faults("a.rs", "//! Says its duty.\n"), 0);
        assert_eq!(faults("a.rs", "fn main() {}\n"), 1);
        assert_eq!(faults("a.md", "anything\n"), 0);
        assert_eq!(faults("a.rs", &format!("//! Long.\n{}", "\n".repeat(LINES_MAX))), 1);
        assert!(file_faults(Path::new("a.rs"), &format!("//! Longish.\n{}", "\n".repeat(LINES_WANTED))).1.is_some());
        let secret = MACHINE_PATHS[0];
        assert_eq!(faults("a.toml", &format!("dir = \"{secret}cache\"")), 1);
        assert_eq!(faults("a.md", &format!("see ~{secret}x and page.example{secret}x and docs{secret}y")), 0);
    }
}
