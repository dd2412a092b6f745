//! Whether a server that recovers was told which timeline to follow, or looks for the newest, and where its data are: read from its own files.

use std::fs;
use std::path::{Path, PathBuf};

const SETTING: &str = "recovery_target_timeline";

/// Whether the server in this data directory was told its timeline, by number or as `current`. Without a word on it a server looks for the
/// newest (manual chapter 20.5.6).
///
/// The command line wins over postgresql.auto.conf, and that over the main file. What the main file includes is not read: only what stands
/// behind the last inclusion counts there, and in case of doubt the answer is no.
pub fn is_told_its_timeline(data_dir: &Path) -> bool {
    let text_of = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let started = text_of(&data_dir.join("postmaster.opts"));
    let main_file = || match on_command_line(&started, "config_file") {
        // It would be relative to wherever the server was started.
        Some(place) if Path::new(&place).is_relative() => None,
        Some(place) => in_file(&text_of(Path::new(&place))),
        None => in_file(&text_of(&data_dir.join("postgresql.conf"))),
    };
    let said = on_command_line(&started, SETTING).or_else(|| in_file(&text_of(&data_dir.join("postgresql.auto.conf")))).or_else(main_file);
    said.is_some_and(|value| value == "current" || value.starts_with(|c: char| c.is_ascii_digit()))
}

/// A setting of the command line with which the server was started, as `CreateOptsFile` keeps it: each word in double quotes
/// (src/backend/postmaster/postmaster.c). It is `-c name=value`, `-cname=value` or `--name=value`; the last one counts.
fn on_command_line(started: &str, name: &str) -> Option<String> {
    let words = started.lines().flat_map(|line| line.split('"').skip(1).step_by(2));
    let given = words.filter_map(|word| word.strip_prefix("--").or_else(|| word.strip_prefix("-c")).unwrap_or(word).split_once('='));
    given.filter(|(given, _)| given.trim().replace('-', "_").eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).last()
}

/// Where this postgresql.conf says that its cluster's data are, as Debian's do; an inclusion behind it is not looked into.
pub fn data_directory_in(config_file: &Path) -> Option<PathBuf> {
    let text = String::from_utf8_lossy(&fs::read(config_file).ok()?).into_owned();
    last_word(&text, "data_directory").map(|(value, _)| PathBuf::from(value)).filter(|place| place.is_absolute())
}

/// The last word on it in a configuration file; `None` as well when something is included behind it.
fn in_file(text: &str) -> Option<String> {
    last_word(text, SETTING).filter(|(_, is_overruled)| !is_overruled).map(|(value, _)| value)
}

/// The last word on a setting in a configuration file (manual chapter 20.1.2), and whether something is included behind it.
fn last_word(text: &str, setting: &str) -> Option<(String, bool)> {
    let mut last = None;
    for line in text.lines() {
        let line = line.trim_start();
        let (name, rest) = line.split_at(line.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len()));
        match name.to_ascii_lowercase().as_str() {
            name if name == setting => {
                let rest = rest.trim_start().trim_start_matches('=').trim_start();
                let value = match rest.strip_prefix('\'') {
                    Some(quoted) => quoted.split('\'').next(),
                    None => rest.split(|c: char| c.is_whitespace() || c == '#').next(),
                };
                last = value.map(|value| (value.trim().to_owned(), false));
            }
            // What it brings wins over what stands before it.
            "include" | "include_if_exists" | "include_dir" => last = last.map(|(value, _)| (value, true)),
            _ => {}
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_file_counts_unless_something_is_included_behind_it() {
        for (text, said) in [
            ("", None),
            ("#recovery_target_timeline = '3'\nrecovery_target_timelines = 3\n", None),
            ("recovery_target_timeline = '3'\n", Some("3")),
            ("recovery_target_timeline='3' # why\n", Some("3")),
            ("  Recovery_Target_Timeline 3#why", Some("3")),
            ("recovery_target_timeline = '3'\nrecovery_target_timeline = 'latest'\n", Some("latest")),
            ("recovery_target_timeline = '3'\ninclude_dir 'conf.d'\n", None),
            ("include = 'postgresql.base.conf'\nrecovery_target_timeline = current\n", Some("current")),
            ("recovery_target_timeline = ''", Some("")),
        ] {
            assert_eq!(in_file(text).as_deref(), said, "{text:?}");
        }
    }

    #[test]
    fn the_last_word_of_a_command_line_counts_however_it_is_given() {
        let started = "/usr/lib/postgresql/18/bin/postgres \"-D\" \"/data\" \"-c\" \"config_file=/etc/postgresql.conf\" \"-c\" \"a=b\"";
        assert_eq!(on_command_line(started, SETTING), None);
        assert_eq!(on_command_line(started, "config_file").as_deref(), Some("/etc/postgresql.conf"));
        for word in ["-crecovery_target_timeline=3", "--recovery-target-timeline=3", "recovery_target_timeline=3"] {
            let more = format!("{started} \"--recovery_target_timeline=latest\" \"{word}\"\n");
            assert_eq!(on_command_line(&more, SETTING).as_deref(), Some("3"), "{word}");
        }
    }

    #[test]
    fn the_command_line_wins_over_the_files_and_the_server_s_own_file_over_the_main_one() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere.conf");
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let is_told = || is_told_its_timeline(dir.path());
        assert!(!is_told(), "nobody said anything");
        write("postgresql.conf", "recovery_target_timeline = '3'\n");
        assert!(is_told());
        write("postgresql.auto.conf", "recovery_target_timeline = 'latest'\n");
        assert!(!is_told());
        write("postmaster.opts", "postgres \"-c\" \"recovery_target_timeline=current\"\n");
        assert!(is_told());
        write("postmaster.opts", "postgres \"-c\" \"recovery_target_timeline=latest\"\n");
        write("postgresql.auto.conf", "recovery_target_timeline = '3'\n");
        assert!(!is_told());
        // Another main file: what the data directory has of that name is not read then.
        write("postgresql.auto.conf", "");
        write("postmaster.opts", &format!("postgres \"-c\" \"config_file={}\"\n", elsewhere.display()));
        assert!(!is_told());
        write("elsewhere.conf", "recovery_target_timeline = 2\n");
        assert!(is_told());
        write("postmaster.opts", "postgres \"-c\" \"config_file=elsewhere.conf\"\n");
        assert!(!is_told(), "nobody knows from where");
    }
}
