//! What the documents say can be followed: every link leads somewhere, every command is one of the program, every configuration is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::bowline::program;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the project")
}

/// Every document, by its path from the root.
fn documents() -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().join("docs")];
    let mut files: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|name| root().join(name)).into();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).expect("list").map(|entry| entry.expect("an entry").path()) {
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|extension| extension == "md") => files.push(path),
                false => {}
            }
        }
    }
    for path in files {
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        found.insert(path.strip_prefix(root()).expect("below the root").to_owned(), text);
    }
    found
}

/// A block of code: the line at which it begins, its language (empty where it is indented), its lines.
struct Block {
    at: usize,
    language: Option<String>,
    lines: Vec<String>,
}

/// The blocks of a document, and its lines outside of them.
fn parts(text: &str) -> (Vec<Block>, Vec<(usize, &str)>) {
    let (mut blocks, mut prose): (Vec<Block>, Vec<(usize, &str)>) = (Vec::new(), Vec::new());
    let mut fence: Option<Block> = None;
    let mut before = "";
    for (number, line) in text.lines().enumerate() {
        let at = number + 1;
        if let Some(language) = line.trim_start().strip_prefix("```") {
            match fence.take() {
                Some(block) => blocks.push(block),
                None => fence = Some(Block { at, language: Some(language.trim().to_owned()), lines: Vec::new() }),
            }
        } else if let Some(block) = &mut fence {
            block.lines.push(line.to_owned());
        } else if let (Some(code), true) = (line.strip_prefix("    "), is_code_after(before)) {
            match blocks.last_mut().filter(|block| block.language.is_none() && block.at + block.lines.len() == at) {
                Some(block) => block.lines.push(code.to_owned()),
                None => blocks.push(Block { at, language: None, lines: vec![code.to_owned()] }),
            }
        } else {
            prose.push((at, line));
        }
        before = line;
    }
    assert!(fence.is_none(), "a fence is left open");
    (blocks, prose)
}

/// An indented line is code after an empty line or another such line, not where it goes on with a paragraph or a list.
fn is_code_after(before: &str) -> bool {
    before.trim().is_empty() || before.starts_with("    ")
}

/// The anchors of a document, as GitHub makes them of headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, line) in parts(text).1 {
        let Some(title) = line.strip_prefix('#').map(|rest| rest.trim_start_matches('#')).filter(|rest| rest.starts_with(' ')) else { continue };
        // Of a link only its text is left.
        let mut plain = title.trim().replace('`', "");
        while let Some((before, link, after)) = plain
            .split_once('[')
            .and_then(|(before, rest)| rest.split_once("](").and_then(|(text, rest)| rest.split_once(')').map(|(_, after)| (before, text, after))))
        {
            plain = format!("{before}{link}{after}");
        }
        let kept: String = plain.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect();
        let anchor = kept.replace(' ', "-");
        let again = (1..).map(|n| format!("{anchor}-{n}")).find(|name| !found.contains(name)).expect("numbers do not end");
        found.insert(if found.contains(&anchor) { again } else { anchor });
    }
    found
}

/// The targets of the links of a line.
fn links(line: &str) -> Vec<String> {
    let plain = without_code_but_links(line);
    plain.match_indices("](").filter_map(|(at, _)| plain[at + 2..].split_once(')').map(|(target, _)| target.to_owned())).collect()
}

/// Code may be the text of a link, and a link may be an example in code.
fn without_code_but_links(line: &str) -> String {
    let mut plain = String::new();
    for (number, part) in line.split('`').enumerate() {
        plain.push_str(if number % 2 == 0 { part } else { "code" });
    }
    plain
}

#[test]
fn every_link_leads_to_a_file_and_every_anchor_to_a_heading() {
    let documents = documents();
    let (mut faults, mut count) = (Vec::new(), 0);
    for (path, text) in &documents {
        for (at, line) in parts(text).1 {
            for target in links(line) {
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                count += 1;
                let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
                let wanted = if file.is_empty() { root().join(path) } else { root().join(path).parent().expect("a folder").join(file) };
                let Ok(wanted) = wanted.canonicalize() else {
                    faults.push(format!("{}:{at}: {target} is not there", path.display()));
                    continue;
                };
                let Ok(inside) = wanted.strip_prefix(root()) else {
                    faults.push(format!("{}:{at}: {target} leads out of the project", path.display()));
                    continue;
                };
                if !anchor.is_empty() && !documents.get(inside).is_some_and(|text| anchors(text).contains(anchor)) {
                    faults.push(format!("{}:{at}: {} has no #{anchor}", path.display(), inside.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count > 50, "only {count} links were found: they are not looked for where they are");
}

/// The words of a line of a shell, up to where another command, a redirection or a remark begins; variables have the values of `standing`.
fn words(line: &str) -> Vec<String> {
    let (mut found, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => found.extend(word.take()),
            (None, '#') if word.is_none() => break,
            (None, '|' | '&' | ';' | '>') => break,
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    found.extend(word);
    found.into_iter().map(|word| standing(&word)).collect()
}

/// What stands for something else in a document, and an example of that.
fn standing(word: &str) -> String {
    match word {
        "$T" | "…T" => "2026-11-22 14:05:00 UTC".to_owned(),
        "$REPLICA" => "s3://replica/prefix".to_owned(),
        "$SPARE" => "/media/spare-key".to_owned(),
        // A public key of nobody's.
        "age:age1…" => "age:age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".to_owned(),
        _ => word.to_owned(),
    }
}

/// The words behind `bowline`, where a line of code is a command of it.
fn command(line: &str) -> Option<Vec<String>> {
    let line = line.trim_start().trim_start_matches("$ ").trim_start_matches("sudo ");
    let line = line.strip_prefix("-u postgres ").unwrap_or(line);
    line.strip_prefix("bowline ").map(words)
}

/// Runs it where there is no configuration: whatever it is asked for, it gets no further than to its words.
fn says(words: &[String]) -> String {
    let nowhere = root().join("no-such-folder/bowline.toml");
    let mut command = Command::new(program());
    command.args(words).env_clear().env("BOWLINE_CONFIG", nowhere).env("HOME", "/nonexistent");
    let output = command.output().expect("run bowline");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Whether the program did not understand its words.
fn is_usage_error(said: &str) -> bool {
    said.contains("For more information, try '--help'") || said.contains("Usage: bowline")
}

#[test]
fn every_command_in_a_block_is_one_that_the_program_understands() {
    let (mut faults, mut count) = (Vec::new(), 0);
    for (path, text) in documents() {
        for block in parts(&text).0 {
            // What a program printed is no command.
            if block.language.as_deref() == Some("text") {
                continue;
            }
            for (number, line) in block.lines.iter().enumerate() {
                let Some(words) = command(line) else { continue };
                count += 1;
                let said = says(&words);
                if is_usage_error(&said) {
                    faults.push(format!("{}, block at {}, line {}: {line}\n{said}", path.display(), block.at, number + 1));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count > 60, "only {count} commands were found: they are not looked for where they are");
    // This is how it looks when it does not understand.
    for wrong in [&["restore", "--too", "latest"][..], &["restored"], &["alert", "silence", "wal-lag"], &["wal", "receive", "more"]] {
        let wrong: Vec<String> = wrong.iter().map(|word| (*word).to_owned()).collect();
        assert!(is_usage_error(&says(&wrong)), "{wrong:?}");
    }
}

/// A configuration around a part of one: what every configuration must have, unless the part has it.
fn whole(part: &str) -> String {
    let has = |head: &str| part.lines().any(|line| line.trim_start().starts_with(head));
    let org = if has("org =") { "" } else { "org = \"acme\"\n" };
    let repository = if has("[repository]") { "" } else { "[repository]\nurl = \"s3://acme-backups/kb\"\n" };
    let part = match has("url =") || !has("[repository]") {
        true => part.to_owned(),
        false => part.replacen("[repository]", "[repository]\nurl = \"s3://acme-backups/kb\"", 1),
    };
    let part = match has("[packages]") && !has("primary =") {
        true => part.replacen("[packages]", "[packages]\nprimary = \"s3://app/kb\"", 1),
        false => part,
    };
    // A part without a head of its own goes on with nothing: keys before the first head are the file's own.
    format!("{org}{part}\n{repository}")
}

#[test]
fn every_configuration_in_a_block_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bowline.toml");
    let read = |text: &str| {
        fs::write(&file, text).expect("write");
        // It reads the configuration and asks nobody.
        let output = Command::new(program()).args(["init", "--print-policy", "writer", "--config"]).arg(&file).env_clear().output().expect("bowline");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if said.contains("[config-wrong]") { Err(said) } else { Ok(()) }
    };
    let (mut faults, mut count) = (Vec::new(), 0);
    for (path, text) in documents() {
        for block in parts(&text).0.into_iter().filter(|block| block.language.as_deref() == Some("toml")) {
            count += 1;
            if let Err(said) = read(&whole(&block.lines.join("\n"))) {
                faults.push(format!("{}, block at {}: {said}", path.display(), block.at));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count > 8, "only {count} configurations were found");
    assert!(read(&whole("[backup]\nshedule = \"0 2 * * *\"")).is_err(), "a wrong one is told from a right one");
}
