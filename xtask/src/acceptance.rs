//! `cargo xtask acceptance [--output FILE]`: holds docs/acceptance.md, the table of promises with their proofs, against the project and
//! against what this run of the tests and the drill printed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::bench;
use crate::root;
use crate::sabotage::twins::{self, Twin};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Where the table is, from the project's root.
const TABLE: &str = "docs/acceptance.md";
/// In the place of a twin: a figure is measured, and judged by nobody.
const MEASURED: &str = "measured";
const HEAD: &str = "| promise | proof | shows | sabotage twin |";
/// Behind a proof that only `./test --full` runs.
const LONG: &str = "(long form)";

/// Entry of `cargo xtask acceptance`: prints every fault; an error says how many there are.
pub fn run(arguments: impl Iterator<Item = String>) -> Outcome<()> {
    let arguments: Vec<String> = arguments.collect();
    let output = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => None,
        ["--output", file] => Some(fs::read_to_string(file).map_err(|error| format!("cannot read {file}: {error}"))?),
        _ => return Err("usage: cargo xtask acceptance [--output FILE], what the tests and the drill printed".into()),
    };
    let root = root();
    let text = fs::read_to_string(root.join(TABLE)).map_err(|error| format!("cannot read {TABLE}: {error}"))?;
    let rows = rows(&text)?;
    let known = Known { drill: sources(&root.join("xtask/src/drill"))?, benches: bench::names(), twins: twins::all().collect() };
    let mut faults = known.faults(&rows);
    if let Some(output) = &output {
        faults.extend(unproven(&rows, &Ran::read(output), std::env::var("BOWLINE_FULL").is_ok_and(|value| value == "1")));
    }
    for fault in &faults {
        eprintln!("{TABLE}: {fault}");
    }
    let (promises, proofs) = (rows.iter().filter(|row| row.is_first).count(), rows.len());
    if !faults.is_empty() {
        return Err(format!("{} faults in {TABLE}", faults.len()).into());
    }
    println!("{promises} promises, {proofs} proofs{}", if output.is_some() { ", all seen in this run" } else { "" });
    Ok(())
}

/// The text of every source below this folder.
fn sources(folder: &Path) -> Outcome<String> {
    let mut text = String::new();
    for entry in fs::read_dir(folder).map_err(|error| format!("cannot list {}: {error}", folder.display()))? {
        let path = entry?.path();
        text.push_str(&if path.is_dir() { sources(&path)? } else { fs::read_to_string(path)? });
    }
    Ok(text)
}

/// What proves a promise.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Proof {
    /// A test of a test program, as cargo prints both; long ones run with `./test --full` only.
    Test { program: String, name: String, is_long: bool },
    /// A step of `./drill`.
    Drill(String),
    /// A figure: the subcommand that measured it. That its link leads to a heading is for the test of all documents.
    Bench { name: String },
}

/// A line of the table.
#[derive(Debug)]
struct Row {
    promise: String,
    /// Whether it names the promise, or goes on with the one above.
    is_first: bool,
    proof: Proof,
    twins: Vec<String>,
}

fn rows(text: &str) -> Result<Vec<Row>, String> {
    let mut lines = text.lines().skip_while(|line| *line != HEAD);
    if lines.next().is_none() {
        return Err(format!("there is no table; its head is {HEAD}"));
    }
    let mut rows: Vec<Row> = Vec::new();
    for line in lines.skip(1).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [promise, proof, _, twins] = cells[..] else { return Err(format!("not four columns: {line}")) };
        let above = rows.last().map(|row| row.promise.clone());
        let (promise, is_first) = match (promise, above) {
            ("", Some(above)) => (above, false),
            ("", None) => return Err("the first proof belongs to no promise".into()),
            (promise, _) => (promise.to_owned(), true),
        };
        let proof = parse(proof).ok_or_else(|| format!("{promise}: {proof:?} is no proof"))?;
        let twins = twins.split("<br>").map(str::trim).filter(|twin| !twin.is_empty()).map(str::to_owned).collect();
        rows.push(Row { promise, is_first, proof, twins });
    }
    if rows.is_empty() { Err("the table has no rows".into()) } else { Ok(rows) }
}

/// `` `program::test` ``, `` `./drill: step` `` or `` [`bench name`](benchmarks.md#anchor) ``.
fn parse(cell: &str) -> Option<Proof> {
    if let Some(rest) = cell.strip_prefix("[`bench ") {
        let (name, rest) = rest.split_once("`](benchmarks.md#")?;
        return rest.ends_with(')').then(|| Proof::Bench { name: name.to_owned() });
    }
    let (code, behind) = cell.strip_prefix('`')?.split_once('`')?;
    let is_long = match behind.trim() {
        "" => false,
        LONG => true,
        _ => return None,
    };
    if let Some(step) = code.strip_prefix("./drill: ") {
        return (!is_long).then(|| Proof::Drill(step.to_owned()));
    }
    let (program, name) = code.split_once("::")?;
    let is_name = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:".contains(&b));
    (is_name(program) && is_name(name)).then(|| Proof::Test { program: program.to_owned(), name: name.to_owned(), is_long })
}

/// What the project has, whether or not it ran.
struct Known {
    drill: String,
    benches: Vec<String>,
    twins: Vec<&'static Twin>,
}

impl Known {
    fn faults(&self, rows: &[Row]) -> Vec<String> {
        let mut faults = Vec::new();
        for Row { promise, proof, twins, .. } in rows {
            match proof {
                Proof::Bench { .. } if *twins != [MEASURED] => faults.push(format!("{promise}: beside a figure stands {MEASURED:?}")),
                Proof::Drill(step) if !self.drill.contains(&format!("\"{step}\"")) => faults.push(format!("{promise}: ./drill has no step {step:?}")),
                Proof::Bench { name } if !self.benches.contains(name) => faults.push(format!("{promise}: there is no bench {name}")),
                Proof::Test { .. } | Proof::Drill(_) if twins.is_empty() => faults.push(format!("{promise}: a proof has no sabotage twin")),
                _ => {}
            }
            for twin in twins.iter().filter(|twin| *twin != MEASURED || !matches!(proof, Proof::Bench { .. })) {
                let Some(known) = self.twins.iter().find(|known| known.name == twin) else {
                    faults.push(format!("{promise}: there is no sabotage twin {twin:?}"));
                    continue;
                };
                let is_its = match proof {
                    Proof::Test { program, name, .. } => program == known.test.0 && name.contains(known.test.1),
                    Proof::Drill(step) => known.test == ("./drill", step.as_str()),
                    Proof::Bench { .. } => false,
                };
                if !is_its {
                    faults.push(format!("{promise}: {twin:?} is the twin of {} {}, and not of this proof", known.test.0, known.test.1));
                }
            }
        }
        faults
    }
}

/// What tests and drill printed.
#[derive(Debug, Default)]
struct Ran {
    /// How each test ended, by program and name. What ran twice has both words.
    tests: BTreeMap<(String, String), Vec<String>>,
    /// Beginnings of the lines of the drill's report.
    lines: Vec<String>,
}

impl Ran {
    fn read(output: &str) -> Self {
        let (mut ran, mut program) = (Self::default(), String::new());
        for line in output.lines() {
            if line.trim_start().starts_with("Running ") {
                program = program_of(line).unwrap_or_default();
            } else if line.trim_start().starts_with("Doc-tests ") {
                program.clear();
            } else if let Some((before, ended)) = line.rsplit_once(" ... ") {
                // Something that a child of a test printed without an end of line may stand before it.
                let mut words = before.rsplit(' ');
                let is_test = |word: &str| word.strip_suffix("test").is_some_and(|before| !before.ends_with(char::is_alphanumeric));
                if let (Some(name), true) = (words.next(), words.next().is_some_and(is_test)) {
                    let ended = ended.split([',', ' ']).next().unwrap_or_default().to_owned();
                    ran.tests.entry((program.clone(), name.to_owned())).or_default().push(ended);
                }
            } else {
                ran.lines.push(line.to_owned());
            }
        }
        ran
    }

    fn told(&self, step: &str) -> bool {
        self.lines.iter().any(|line| line.strip_prefix(step).is_some_and(|rest| rest.starts_with("  ")))
    }
}

/// `Running tests/e2e_x.rs (…/deps/e2e_x-0123456789abcdef)` is `e2e_x`.
fn program_of(line: &str) -> Option<String> {
    let file = line.rsplit_once('(')?.1.strip_suffix(')')?.rsplit('/').next()?;
    Some(file.rsplit_once('-')?.0.to_owned())
}

/// Every proof of the table that this run did not bring.
fn unproven(rows: &[Row], ran: &Ran, is_full: bool) -> Vec<String> {
    let mut faults = Vec::new();
    for Row { promise, proof, .. } in rows {
        match proof {
            Proof::Test { program, name, is_long } if is_full || !is_long => {
                let ended = ran.tests.get(&(program.clone(), name.clone())).map(Vec::as_slice).unwrap_or_default();
                let elsewhere = ran.tests.keys().find(|(_, other)| other == name).map(|(program, _)| program);
                let fault = match (ended, elsewhere) {
                    ([], None) => "did not run".to_owned(),
                    ([], Some(elsewhere)) => format!("ran in {elsewhere}, not in {program}"),
                    // What is ignored in one step may run in the next one.
                    (ended, _) if ended.iter().any(|word| word == "ok") && !ended.iter().any(|word| word == "FAILED") => continue,
                    (ended, _) => format!("ended with: {}", ended.join(", ")),
                };
                faults.push(format!("{promise}: {program}::{name} {fault}"));
            }
            Proof::Drill(step) if !ran.told(step) => faults.push(format!("{promise}: the drill's report has no step {step:?}")),
            _ => {}
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "     Running unittests src/lib.rs (target/debug/deps/watch-00aa)\n\
        test jobs::tests::late ... ok\n\
             Running tests/e2e_one.rs (target/debug/deps/e2e_one-0f)\n\
        test kept::a_thing ... ok\ntest slow ... ignored, takes minutes\nsaid by a childtest other ... ok\nnoise: test broken ... FAILED\nto start....test dotted ... ok\n done\n\
             Running tests/e2e_two.rs (target/debug/deps/e2e_two-0f)\n\
        test moved ... ok\n\
        bowline restore --to T                         7.1 s    37.9 MiB/s\n\
             Running tests/e2e_one.rs (target/debug/deps/e2e_one-0f)\n\
        test slow_too ... ignored, takes minutes\ntest slow_too ... ok\n";

    fn table(rows: &str) -> String {
        format!("# Title\n\n{HEAD}\n|---|---|---|---|\n{rows}\nmore")
    }

    fn faults(rows_of_table: &str, is_full: bool) -> Vec<String> {
        unproven(&rows(&table(rows_of_table)).unwrap(), &Ran::read(OUTPUT), is_full)
    }

    #[test]
    fn what_ran_well_in_the_named_program_is_a_proof() {
        let good = "| A | `e2e_one::kept::a_thing` | x | – |\n| | `watch::jobs::tests::late` | x | – |\n| B | `e2e_one::slow_too` | x | – |\n\
                    | C | `./drill: bowline restore --to T` | x | – |\n";
        assert_eq!(faults(good, true), Vec::<String>::new());
        let read = rows(&table(good)).unwrap();
        assert_eq!(
            read.iter().map(|row| (row.promise.as_str(), row.is_first)).collect::<Vec<_>>(),
            [("A", true), ("A", false), ("B", true), ("C", true)]
        );
    }

    #[test]
    fn what_is_missing_ignored_failed_or_ran_elsewhere_is_none() {
        for (proof, fault) in [
            ("`e2e_one::nowhere`", "did not run"),
            ("`e2e_one::a_thing`", "did not run"),
            ("`e2e_one::slow`", "ended with: ignored"),
            ("`e2e_one::broken`", "ended with: FAILED"),
            ("`e2e_one::moved`", "ran in e2e_two"),
            ("`./drill: bowline restore`", "no step"),
        ] {
            let found = faults(&format!("| A | {proof} | x | – |\n"), false);
            assert!(found.len() == 1 && found[0].contains(fault), "{proof}: {found:?}");
        }
        // A child that leaves its line open hides nothing that stands behind a word of its own.
        assert_eq!(faults("| A | `e2e_one::other` | x | – |\n", false).len(), 1, "no word of its own");
        assert_eq!(faults("| A | `e2e_one::dotted` | x | – |\n", false), Vec::<String>::new(), "pg_ctl's dots are no part of a word");
        assert_eq!(faults("| A | `e2e_one::slow` (long form) | x | – |\n", false), Vec::<String>::new());
        assert_eq!(faults("| A | `e2e_one::slow` (long form) | x | – |\n", true).len(), 1);
    }

    #[test]
    fn a_table_that_says_less_than_it_must_is_refused() {
        for (rows_of_table, why) in [
            ("| A | no proof yet | | – |\n", "is no proof"),
            ("| A | | | – |\n", "is no proof"),
            ("| | `a::b` | | – |\n", "belongs to no promise"),
            ("| A | `a::b` | – |\n", "not four columns"),
            ("| A | `a::b` sometimes | x | – |\n", "is no proof"),
            ("", "no rows"),
        ] {
            let error = rows(&table(rows_of_table)).unwrap_err();
            assert!(error.contains(why), "{rows_of_table}: {error}");
        }
        assert!(rows("no table").is_err());
    }

    #[test]
    fn benches_steps_and_twins_must_be_there_and_belong_together() {
        const TWIN: Twin = Twin { name: "a lie", file: "x", right: "a", wrong: "b", test: ("e2e_one", "a_thing") };
        const STEP: Twin = Twin { name: "a step's lie", file: "x", right: "a", wrong: "b", test: ("./drill", "bowline backup") };
        let known = Known { drill: "report.step(\"bowline backup\")".into(), benches: vec!["backup-restore".into()], twins: vec![&TWIN, &STEP] };
        let of = |row: &str| known.faults(&rows(&table(row)).unwrap());
        for good in [
            "| A | [`bench backup-restore`](benchmarks.md#backup-and-restore-25-gb) | x | measured |\n",
            "| A | `./drill: bowline backup` | x | a step's lie |\n",
            "| A | `e2e_one::kept::a_thing` | x | a lie |\n",
        ] {
            assert_eq!(of(good), Vec::<String>::new());
        }
        for (bad, why) in [
            ("| A | [`bench backups`](benchmarks.md#backup-and-restore-25-gb) | x | measured |\n", "no bench"),
            ("| A | [`bench backup-restore`](benchmarks.md#backup-and-restore-25-gb) | x | |\n", "beside a figure"),
            ("| A | `e2e_one::kept::a_thing` | x | measured |\n", "no sabotage twin \"measured\""),
            ("| A | `e2e_one::kept::a_thing` | x | |\n", "has no sabotage twin"),
            ("| A | `./drill: bowline back` | x | |\n", "no step"),
            ("| A | `./drill: bowline backup` | x | |\n", "has no sabotage twin"),
            ("| A | `./drill: bowline backup` | x | a lie |\n", "is the twin of"),
            ("| A | `e2e_one::kept::a_thing` | x | a truth |\n", "no sabotage twin"),
            ("| A | `e2e_two::kept::a_thing` | x | a lie |\n", "is the twin of"),
        ] {
            let found = of(bad);
            assert!(found.len() == 1 && found[0].contains(why), "{bad}: {found:?}");
        }
    }

    #[test]
    fn the_projects_own_table_names_only_what_there_is() {
        run(std::iter::empty()).unwrap();
    }
}
